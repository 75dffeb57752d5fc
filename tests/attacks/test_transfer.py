"""Transfer rates against their definition; protocols on linear models."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.small import linear

from unlearn_jax import attacks
from unlearn_jax.losses import cross_entropy
from unlearn_jax.types import AttackResult, InputError, Status

SHAPE = (4, 4, 1)
RNG = np.random.default_rng(21)


def transferring(*, epsilon=8 / 255, num_steps=50):
    """The published protocol: PGD in L-infinity from a random start, all steps."""
    return attacks.PGD(
        num_steps=num_steps,
        norm="linf",
        keep="last",
        search=attacks.FixedRadius(epsilon=epsilon),
    )


def other_linear(weights, images):
    return 2.0 * linear(weights, images)


@pytest.fixture(scope="module")
def samples():
    """Labels of one linear model, and three models that agree with it more or less."""
    x = RNG.uniform(0.1, 0.9, (30, *SHAPE)).astype("f4")
    truth = RNG.normal(size=(16, 3))
    members = [
        jnp.asarray(truth + noise * RNG.normal(size=(16, 3)), jnp.float32)
        for noise in (0.05, 0.3, 0.6)
    ]
    return (
        jnp.asarray(x),
        jnp.asarray(np.argmax(x.reshape(30, -1) @ truth, -1)),
        members,
    )


def slow_rate(source_clean, source_adv, target_clean, target_adv, y, conditional):
    """The definition, one sample after the other."""
    hits = total = 0
    for i, label in enumerate(y):
        if source_clean[i] != label or target_clean[i] != label:
            continue
        if conditional and source_adv[i] == label:
            continue
        total += 1
        hits += target_adv[i] != label
    return hits / total if total else math.nan


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_rates_match_the_definition_on_random_predictions(seed, size):
    rng = np.random.default_rng(seed)
    y, clean = rng.integers(3, size=size), rng.integers(3, size=(2, size))
    other, own, crossed = (
        rng.integers(3, size=(3, size)),
        rng.integers(3, size=(2, size)),
        rng.integers(3, size=(2, 3, size)),
    )
    outcome = attacks.Transfer(
        *map(jnp.asarray, (clean == y, own != y, other == y, crossed != y))
    )
    for condition in ("fooled", "right"):
        rates = attacks.transfer_rates(outcome, condition=condition)
        expected = [
            [
                slow_rate(
                    clean[s], own[s], other[t], crossed[s, t], y, condition == "fooled"
                )
                for t in range(3)
            ]
            for s in range(2)
        ]
        np.testing.assert_allclose(rates, expected, rtol=1e-6)
        usable = ~np.isnan(expected)
        black_box = attacks.black_box_accuracy(outcome, condition=condition)
        for t in range(3):
            column = np.array(expected)[usable[:, t], t]
            np.testing.assert_allclose(
                black_box[t], 1 - column.mean() if column.size else math.nan, rtol=1e-5
            )


def test_ensemble_rate_is_the_mean_of_ordered_pairs():
    rates = jnp.array([[1.0, 0.2, 0.4], [0.6, 1.0, jnp.nan], [0.1, 0.2, 1.0]])
    np.testing.assert_allclose(
        attacks.transfer_rate(rates), np.mean([0.2, 0.4, 0.6, 0.1, 0.2]), rtol=1e-6
    )
    assert np.isnan(attacks.transfer_rate(jnp.ones((1, 1))))


def test_pairwise_table_matches_single_attacks(samples, key):
    """Each member attacked alone, with the same keys."""
    x, y, members = samples
    attack = transferring(epsilon=0.05, num_steps=6)
    outcome = attacks.transfer(
        jax.random.clone(key),
        [(linear, m) for m in members],
        None,
        x,
        y,
        attack=attack,
        batch_size=8,
    )
    right = np.stack([np.argmax(linear(m, x), -1) == np.asarray(y) for m in members])
    np.testing.assert_array_equal(outcome.source_right, right)
    np.testing.assert_array_equal(outcome.target_right, right)
    for s, k in enumerate(jax.random.split(key, 3)):
        start = attacks.random_start(k, x, epsilon=0.05, norm=attacks.linf)
        images = attacks.pgd(
            linear,
            members[s],
            x,
            y,
            start,
            epsilon=0.05,
            num_steps=6,
            norm=attacks.linf,
            keep="last",
        ).images
        for t, member in enumerate(members):
            np.testing.assert_array_equal(
                outcome.target_fooled[s, t],
                np.argmax(linear(member, images), -1) != np.asarray(y),
            )
        np.testing.assert_array_equal(
            outcome.source_fooled[s], outcome.target_fooled[s, s]
        )
    rates = np.asarray(attacks.transfer_rates(outcome))
    np.testing.assert_array_equal(np.diag(rates), 1.0)
    assert 0 < attacks.transfer_rate(rates) < 1


def test_equal_attacks_and_functions_compile_once(samples, key):
    x, y, members = samples
    traces = []

    def counted(weights, images):
        traces.append(1)
        return linear(weights, images)

    attack = transferring(epsilon=0.05, num_steps=3)
    assert attack == transferring(epsilon=0.05, num_steps=3)
    attacks.transfer(
        key,
        [(counted, members[0])],
        [(other_linear, members[0])],
        x,
        y,
        attack=attack,
    )
    once = len(traces)
    outcome = attacks.transfer(
        jax.random.key(1),
        [(counted, members[0]), (counted, members[1])],
        [(other_linear, members[0])],
        x,
        y,
        attack=transferring(epsilon=0.05, num_steps=3),
    )
    assert len(traces) == once, (
        "a second source with the same function compiles nothing"
    )
    assert outcome.target_fooled.shape == (2, 1, 30)
    np.testing.assert_array_equal(
        outcome.target_fooled[0, 0], outcome.source_fooled[0]
    )  # twice the logits


@pytest.mark.parametrize("make", ["pgd", "autoattack"])
def test_robustness_of_a_linear_model_is_its_margin(samples, key, make):
    """Two classes: a sample is robust if its L-infinity margin exceeds the radius."""
    x, y, members = samples
    pair = members[0][:, :2]
    y = (jnp.argmax(linear(pair, x), -1) + (jnp.arange(30) % 5 == 0)) % 2
    if make == "pgd":
        attack = attacks.PGD(
            num_steps=20,
            norm="linf",
            keep="first",
            search=attacks.FixedRadius(epsilon=0.05, batch_size=16),
        )
    else:
        attack = attacks.AutoAttackSmall(epsilon=0.05, num_steps=5, num_targets=0)
    outcome = attacks.robustness(key, linear, pair, x, y, attack=attack)
    gap = np.asarray(x).reshape(30, -1) @ np.asarray(pair[:, 0] - pair[:, 1])
    margin = (
        np.where(np.asarray(y) == 0, gap, -gap)
        / np.abs(np.asarray(pair[:, 0] - pair[:, 1])).sum()
    )
    np.testing.assert_array_equal(outcome.right, margin > 0)
    np.testing.assert_array_equal(outcome.robust, margin > 0.05)
    assert 0 < np.mean(outcome.robust) < np.mean(outcome.right) < 1


def test_a_sample_misclassified_at_first_is_never_robust(samples, key):
    """Even if an attack makes it right."""
    x, y, members = samples
    y = y.at[4].set((y[4] + 1) % 3)

    def corrects(apply_fn, variables, x, y, *, key):
        return AttackResult(
            x,
            y,
            jnp.zeros(30),
            jnp.zeros(30),
            jnp.full(30, Status.NOT_FOUND, jnp.int32),
            jnp.zeros(30, jnp.int32),
        )

    outcome = attacks.robustness(key, linear, members[0], x, y, attack=corrects)
    assert not outcome.robust[4]
    np.testing.assert_array_equal(outcome.robust, outcome.right)


def test_legacy_protocol_moves_pixels_out_of_the_ball(key):
    """Values are clipped to [0, 1], so pixels to [mean, mean + std]."""
    mean, std = (0.5, 0.4), (0.25, 0.2)
    x = jnp.asarray(RNG.uniform(0, 1, (6, 2, 2, 2)), jnp.float32)
    weights = jnp.asarray(RNG.normal(size=(8, 3)), jnp.float32)
    y = jnp.argmax(linear(weights, x), -1).at[2].add(1) % 3
    attack = attacks.LegacyPGD(mean=mean, std=std, epsilon=0.1, num_steps=4)
    result = attack(linear, weights, x, y, key=jax.random.clone(key))
    m, s = (
        np.array(mean, "f4").reshape(1, 1, 1, 2),
        np.array(std, "f4").reshape(1, 1, 1, 2),
    )
    clean = (np.asarray(x) - m) / s
    noise = np.asarray(jax.random.uniform(key, x.shape, minval=-0.1, maxval=0.1))
    values = np.clip(clean + noise, 0, 1)
    gradient_of = jax.grad(
        lambda v: jnp.sum(cross_entropy(linear(weights, v * s + m), y))
    )
    for _ in range(4):
        values = np.clip(
            clean
            + np.clip(values + 0.01 * np.sign(gradient_of(values)) - clean, -0.1, 0.1),
            0,
            1,
        )
    np.testing.assert_allclose(result.images, values * s + m, atol=1e-6)
    np.testing.assert_array_equal(
        result.labels, np.argmax(linear(weights, result.images), -1)
    )
    assert np.all((result.images >= m - 1e-6) & (result.images <= m + s + 1e-6))
    assert result.status[2] == Status.ALREADY_WRONG
    np.testing.assert_allclose(
        result.distance, np.abs(np.asarray(result.images - x)).max((1, 2, 3)), rtol=1e-5
    )
    assert np.max(result.distance) > 10 * 0.1 * max(std)


def test_clipping_may_put_an_image_right(key):
    """Class 0 has a mean above 0.3; clipping moves images of 0.2 to 0.5."""

    def by_mean(least, images):
        return jnp.stack(
            [jnp.mean(images, (1, 2, 3)) - least, jnp.zeros(len(images))], -1
        )

    x = jnp.full((4, 2, 2, 1), 0.2).at[2:].set(0.6)
    y = jnp.array([0, 1, 0, 1])
    attack = attacks.LegacyPGD(mean=(0.5,), std=(0.2,), num_steps=2)
    result = attack(by_mean, jnp.float32(0.3), x, y, key=key)
    np.testing.assert_array_equal(result.labels, 0)
    np.testing.assert_array_equal(
        result.status,
        [Status.NOT_FOUND, Status.FOUND, Status.NOT_FOUND, Status.ALREADY_WRONG],
    )
    np.testing.assert_array_equal(result.success, result.labels != y)


def test_logits_that_are_not_finite_fool_a_source_as_they_fool_a_target(key):
    def fragile(least, images):
        mean = jnp.mean(images, (1, 2, 3))
        logits = jnp.stack([mean - least, jnp.zeros_like(mean)], -1)
        return jnp.where(mean[:, None] > 0.45, logits, jnp.nan)

    x = jnp.full((2, 2, 2, 1), 0.5)
    models = [(fragile, jnp.float32(0.3))]
    y = jnp.zeros(2, jnp.int32)
    attack = transferring(epsilon=0.2, num_steps=3)
    outcome = attacks.transfer(key, models, None, x, y, attack=attack)
    assert np.any(outcome.source_fooled)
    np.testing.assert_array_equal(outcome.source_fooled, outcome.target_fooled[0])


def test_risk_gap_bound_holds_where_the_constant_is_known(samples):
    """The Lipschitz constant is the spectral norm times cross-entropy's sqrt(2)."""
    x, y, members = samples
    f, g = members[0], members[2]
    lipschitz = math.sqrt(2) * max(np.linalg.norm(m, 2) for m in (f, g))
    gap = lambda images: (
        cross_entropy(linear(f, images), y) - cross_entropy(linear(g, images), y)
    )
    for epsilon in (0.05, 0.4):
        attacked = attacks.pgd(
            linear, f, x, y, x, epsilon=epsilon, num_steps=10, keep="last"
        ).images
        bound = attacks.risk_gap_bound(
            jnp.abs(gap(x)), lipschitz=lipschitz, epsilon=epsilon
        )
        assert np.all(jnp.abs(gap(attacked)) <= bound)
        mean = attacks.risk_gap_bound(
            jnp.abs(jnp.mean(gap(x))), lipschitz=lipschitz, epsilon=epsilon
        )
        assert abs(jnp.mean(gap(attacked))) <= mean
    # opposite models of one direction, moved along it while cross-entropy is steepest,
    # come close to the bound
    one = jnp.array([[1.0, -1.0]])
    loss = lambda w, v: float(cross_entropy(v * w[0], jnp.array(0)))
    before, after = ([loss(w, v) for w in (one, -one)] for v in (-20.0, -20.5))
    bound = attacks.risk_gap_bound(
        abs(before[0] - before[1]), lipschitz=2.0, epsilon=0.5
    )
    assert abs(after[0] - after[1]) <= bound
    assert abs(after[0] - after[1]) - abs(before[0] - before[1]) > 0.49 * 2 * 2.0 * 0.5


def test_unusable_input_is_refused(samples, key):
    x, y, members = samples
    attack = transferring(num_steps=1)
    with pytest.raises(InputError, match="images must lie in"):
        attacks.transfer(key, [(linear, members[0])], None, x * 5, y, attack=attack)
    with pytest.raises(InputError, match="divide uint8"):
        attacks.robustness(
            key, linear, members[0], (x * 255).astype(jnp.uint8), y, attack=attack
        )
    with pytest.raises(InputError, match="mean and a deviation for each"):
        attacks.legacy_pgd(key, linear, members[0], x, y)
    outcome = attacks.Transfer(
        *(jnp.ones(shape, bool) for shape in ((1, 2), (1, 2), (1, 2), (1, 1, 2)))
    )
    with pytest.raises(InputError, match="unknown condition"):
        outcome.counted("always")
