"""Attacks as values: equal to the plain functions, one program, JSON, refusals."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.small import linear

from unlearn_jax import attacks, models, objectives, values
from unlearn_jax.losses import cross_entropy, kl_from_logits, log_odds
from unlearn_jax.types import InputError

SHAPE = (4, 4, 1)
RNG = np.random.default_rng(8)
WEIGHTS = jnp.asarray(RNG.normal(size=(16, 5)), jnp.float32)
IMAGES = jnp.asarray(RNG.uniform(0.2, 0.8, (10, *SHAPE)), jnp.float32)

EVERY_ATTACK = [
    attacks.PGD(),
    attacks.PGD(norm="linf", keep="last", search=attacks.FixedRadius(epsilon=0.1)),
    attacks.PGD(loss="dlr", search=attacks.Grid(num_radii=3)),
    attacks.PGD(norm="linf", search=attacks.Minimal(depth=0.1, num_polish=3)),
    attacks.LineSearch(norm="l2"),
    attacks.APGD(loss="dlr"),
    attacks.AutoAttackSmall(num_targets=2),
    attacks.LegacyPGD(mean=(0.5,), std=(0.2,)),
    attacks.CappedFailures(attack=attacks.LineSearch(), fraction=0.25),
]


LABELS = jnp.argmax(linear(WEIGHTS, IMAGES), -1).astype(jnp.int32)


def test_pgd_maps_over_radii_and_models():
    stacked = jnp.stack([WEIGHTS, -0.5 * WEIGHTS])
    radii = jnp.array([0.05, 0.2, 0.6])

    def attack(weights, radius):
        return attacks.pgd(
            linear, weights, IMAGES, LABELS, IMAGES, epsilon=radius, num_steps=6
        )

    over_radii = jax.vmap(attack, in_axes=(None, 0))
    mapped = jax.jit(jax.vmap(over_radii, in_axes=(0, None)))(stacked, radii)
    assert mapped.status.shape == (2, 3, 10)
    for m in range(2):
        for r in range(3):
            one = jax.tree.map(lambda leaf, m=m, r=r: leaf[m, r], mapped)
            alone = attack(stacked[m], radii[r])
            chex.assert_trees_all_close(one, alone, rtol=1e-5, atol=1e-6)
    num_successes = np.sum(mapped.success[0], -1)
    assert num_successes[0] < num_successes[1] < num_successes[2]


@pytest.mark.parametrize("search", ["doubling", "grid"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_pgd_value_equals_the_plain_search(search, norm):
    kind = {"doubling": attacks.Doubling, "grid": attacks.Grid}[search]
    attack = attacks.PGD(
        num_steps=7,
        step_ratio=0.2,
        norm=norm,
        loss="cross_entropy",
        keep="last",
        search=kind(epsilon_init=0.01, num_radii=5, batch_size=4),
    )
    expected = attacks.adversarial_set(
        linear,
        WEIGHTS,
        IMAGES,
        LABELS,
        epsilon_init=0.01,
        num_radii=5,
        num_steps=7,
        step_ratio=0.2,
        norm=attacks.NORMS[norm],
        loss=cross_entropy,
        keep="last",
        search=search,
        batch_size=4,
    )
    result = attack(linear, WEIGHTS, IMAGES, LABELS)
    chex.assert_trees_all_equal(result, expected)


def test_values_call_the_plain_functions(key):
    arguments = (linear, WEIGHTS, IMAGES, LABELS)
    line = attacks.LineSearch(epsilon_init=0.02, norm="l2", num_restarts=1)
    straight = attacks.fast_adversarial_set(
        jax.random.clone(key),
        *arguments,
        epsilon_init=0.02,
        norm=attacks.l2,
        num_restarts=1,
    )
    result = line(*arguments, key=jax.random.clone(key))
    # a value runs in one program, a plain function operation by operation
    chex.assert_trees_all_close(result, straight, rtol=1e-5)

    capped = attacks.CappedFailures(attack=line, fraction=0.3)
    expected = attacks.cap_failures(*arguments, straight, fraction=0.3)
    result = capped(*arguments, key=jax.random.clone(key))
    chex.assert_trees_all_close(result, expected, rtol=1e-5)

    adaptive = attacks.APGD(epsilon=0.05, num_steps=5, loss="dlr", batch_size=10)
    expected = attacks.apgd(
        *arguments,
        IMAGES,
        epsilon=0.05,
        num_steps=5,
        loss=attacks.difference_of_logits_ratio,
    )
    chex.assert_trees_all_close(adaptive(*arguments), expected, rtol=1e-6)
    start = attacks.random_start(
        jax.random.clone(key), IMAGES, epsilon=0.05, norm=attacks.linf
    )
    expected = attacks.apgd(
        *arguments,
        start,
        epsilon=0.05,
        num_steps=5,
        loss=attacks.difference_of_logits_ratio,
    )
    result = adaptive(*arguments, key=key)
    chex.assert_trees_all_close(result, expected, rtol=1e-6)


def test_retry_targets_the_second_class_with_the_attacks_options():
    search = attacks.Doubling(epsilon_init=0.01, num_radii=2, batch_size=4)
    attack = attacks.PGD(num_steps=4, step_ratio=0.3, norm="linf", search=search)
    result = attack(linear, WEIGHTS, IMAGES, LABELS)
    assert not np.all(result.success)
    expected = attacks.target_runner_up(
        linear,
        WEIGHTS,
        IMAGES,
        LABELS,
        result,
        num_steps=4,
        step_ratio=0.3,
        norm=attacks.linf,
        batch_size=4,
    )
    retried = attack.retry(linear, WEIGHTS, IMAGES, LABELS, result)
    chex.assert_trees_all_equal(retried, expected)


@pytest.mark.parametrize("attack", EVERY_ATTACK[1::4], ids=lambda a: type(a).__name__)
def test_arrays_of_numpy_are_attacked_inside_jit(attack):
    images = np.asarray(IMAGES)
    labels = np.asarray(LABELS)
    run = jax.jit(lambda variables: attack(linear, variables, images, labels))
    expected = jax.jit(lambda *arrays: attack(linear, *arrays))
    chex.assert_trees_all_equal(run(WEIGHTS), expected(WEIGHTS, IMAGES, LABELS))


def test_failures_of_numpy_arrays_are_retried_inside_jit():
    search = attacks.Doubling(epsilon_init=0.01, num_radii=1)
    attack = attacks.PGD(num_steps=3, search=search)
    result = attack(linear, WEIGHTS, IMAGES, LABELS)
    retry = jax.jit(lambda *arrays: attack.retry(linear, *arrays, result))
    images = np.asarray(IMAGES)
    held = jax.jit(lambda w: attack.retry(linear, w, images, LABELS, result))
    chex.assert_trees_all_close(
        held(WEIGHTS), retry(WEIGHTS, IMAGES, LABELS), rtol=1e-6
    )


@pytest.mark.parametrize("make", [attacks.Doubling, attacks.Grid, attacks.Minimal])
def test_radii_and_ratios_share_one_program(make):
    traces = []

    def counted(weights, images):
        traces.append(1)
        return linear(weights, images)

    @jax.jit
    def run(attack, weights):
        return attack(counted, weights, IMAGES, LABELS)

    attack = attacks.PGD(num_steps=5, search=make(num_radii=4))
    first = run(attack, WEIGHTS)
    num_traces = len(traces)
    assert num_traces > 0
    run(attacks.PGD(num_steps=5, search=make(num_radii=4)), WEIGHTS)
    other = run(values.replace(attack, epsilon_init=0.01, step_ratio=0.3), WEIGHTS)
    assert len(traces) == num_traces
    assert np.min(other.epsilon) < np.min(first.epsilon)
    run(values.replace(attack, num_steps=6), WEIGHTS)
    assert len(traces) > num_traces


def test_an_attack_maps_over_its_radii():
    attack = attacks.PGD(num_steps=4, search=attacks.Doubling(num_radii=3))
    radii = jnp.array([0.01, 0.05, 0.1])
    stacked = jax.tree.map(lambda leaf: jnp.full(3, leaf), attack)
    stacked = values.replace(stacked, epsilon_init=radii)
    mapped = jax.vmap(lambda one: one(linear, WEIGHTS, IMAGES, LABELS))(stacked)
    for i, radius in enumerate((0.01, 0.05, 0.1)):
        alone = values.replace(attack, epsilon_init=radius)
        expected = alone(linear, WEIGHTS, IMAGES, LABELS)
        one = jax.tree.map(lambda leaf, i=i: leaf[i], mapped)
        chex.assert_trees_all_close(one, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attack", EVERY_ATTACK, ids=lambda a: type(a).__name__)
def test_equal_attacks_are_equal_and_go_to_json_and_back(attack):
    again = values.from_json(values.to_json(attack))
    assert again == attack
    assert hash(again) == hash(attack)
    assert values.replace(attack, batch_size=3) != attack


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: attacks.PGD(num_steps=0),
            "num_steps must be a positive integer, got 0",
        ),
        (lambda: attacks.PGD(step_ratio=-0.1), "step_ratio must be positive"),
        (lambda: attacks.PGD(norm="l1"), "unknown norm 'l1': choose l2 or linf"),
        (lambda: attacks.PGD(loss="hinge"), "unknown loss 'hinge'"),
        (lambda: attacks.PGD(search="grid"), "search must be attacks.Doubling"),
        (lambda: attacks.PGD(bounds=(1.0, 0.0)), "the least and the largest pixel"),
        (
            lambda: attacks.Doubling(epsilon_init=0.0),
            "epsilon_init must be positive and finite, got 0.0",
        ),
        (lambda: attacks.Grid(num_radii=0), "num_radii must be a positive integer"),
        (lambda: attacks.FixedRadius(epsilon=-1.0), "must be positive"),
        (
            lambda: attacks.LineSearch(num_restarts=-1),
            "num_restarts must be an integer, 0 or more",
        ),
        (lambda: attacks.APGD(num_steps=0), "num_steps must be a positive integer"),
        (lambda: attacks.APGD(keep="last"), "choose first or best"),
        (lambda: attacks.AutoAttackSmall(epsilon=0.0), "must be positive"),
        (lambda: attacks.LegacyPGD(num_steps=0), "a positive integer"),
        (
            lambda: attacks.CappedFailures(fraction=1.2),
            "fraction must be in .0, 1., got 1.2",
        ),
    ],
)
def test_unusable_hyperparameters_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_attacks_that_draw_need_a_key():
    for attack in (attacks.LineSearch(), attacks.AutoAttackSmall()):
        with pytest.raises(InputError, match="draws random numbers: pass key="):
            attack(linear, WEIGHTS, IMAGES, LABELS)


def test_a_model_in_the_place_of_its_function_is_refused(key):
    model = models.build("mlp", SHAPE, 5, widths=(4,))
    message = r"apply_fn must be a function .* got Model: pass model\.apply"
    calls = [
        lambda f: attacks.pgd(f, WEIGHTS, IMAGES, LABELS, IMAGES, epsilon=0.1),
        lambda f: attacks.adversarial_set(f, WEIGHTS, IMAGES, LABELS),
        lambda f: attacks.PGD()(f, WEIGHTS, IMAGES, LABELS),
        lambda f: attacks.correct(f, WEIGHTS, IMAGES, LABELS),
        lambda f: attacks.pgd_curve(key, f, WEIGHTS, IMAGES, LABELS, [0.1]),
        lambda f: attacks.transfer(
            key, [(f, WEIGHTS)], None, IMAGES, LABELS, attack=attacks.PGD()
        ),
    ]
    for call in calls:
        with pytest.raises(InputError, match=message):
            call(model)
    with pytest.raises(InputError, match=r"got ArrayImpl: pass model\.apply"):
        attacks.pgd(WEIGHTS, linear, IMAGES, LABELS, IMAGES, epsilon=0.1)


def test_shapes_that_do_not_fit_are_refused():
    short = LABELS[:3]
    with pytest.raises(InputError, match="one class index per image"):
        attacks.pgd(linear, WEIGHTS, IMAGES, short, IMAGES, epsilon=0.1)
    with pytest.raises(AssertionError):
        attacks.pgd(linear, WEIGHTS, IMAGES, LABELS, IMAGES[:3], epsilon=0.1)
    with pytest.raises(AssertionError):
        attacks.pgd(
            linear,
            WEIGHTS,
            IMAGES,
            LABELS,
            IMAGES,
            epsilon=0.1,
            loss=lambda logits, labels: jnp.mean(cross_entropy(logits, labels)),
        )
    with pytest.raises(InputError, match="one class index per image"):
        attacks.PGD()(linear, WEIGHTS, IMAGES, jax.nn.one_hot(LABELS, 5))


def test_losses_do_not_broadcast():
    logits = jnp.zeros((3, 2))
    with pytest.raises(AssertionError):
        cross_entropy(logits, jnp.zeros(2))
    with pytest.raises(AssertionError):
        cross_entropy(logits, jnp.zeros(2, jnp.int32))
    with pytest.raises(AssertionError):
        log_odds(logits, jnp.zeros(1, jnp.int32))
    with pytest.raises(AssertionError):
        kl_from_logits(logits, logits[:1])
    assert cross_entropy(logits, jnp.zeros((3, 2))).shape == (3,)


def test_objectives_go_to_json_and_take_a_traced_weight(key):
    objective = objectives.TRADES(beta=2.0, norm="l2", num_steps=1)
    assert values.from_json(values.to_json(objective)) == objective
    model = models.build("mlp", SHAPE, 5, widths=(4,))
    variables = model.init(jax.random.key(1))
    batch = objectives.Batch(IMAGES, LABELS, jnp.arange(10))

    @jax.jit
    def loss(objective):
        return objective(model)(variables, batch, jax.random.clone(key))[0]

    expected = objective(model)(variables, batch, jax.random.clone(key))[0]
    np.testing.assert_allclose(loss(objective), expected, rtol=1e-6)
    assert loss(values.replace(objective, beta=50.0)) > loss(objective)


def test_an_attack_with_capped_failures_is_one_program(caplog):
    capped = attacks.CappedFailures(attack=attacks.PGD(num_steps=2), fraction=0.3)
    assert capped.bounds == (0.0, 1.0)
    model = models.from_functions(
        lambda key: jax.random.normal(key, (IMAGES[0].size, 3)),
        lambda w, images: images.reshape(len(images), -1) @ w,
    )
    variables = model.init(jax.random.key(0))
    arguments = (model.apply, variables, IMAGES, jnp.arange(10) % 3)
    keys = [jax.random.key(1), jax.random.key(2)]
    with jax.log_compiles():
        capped(*arguments, key=keys[0])
        assert "Finished XLA compilation" in caplog.text
        caplog.clear()
        capped(*arguments, key=keys[1])
    assert "Finished XLA compilation" not in caplog.text
