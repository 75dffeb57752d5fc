"""Methods as values and functions: compiled runs, maps, composition; AMUN."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax import methods, replicas, train
from unlearn_jax.attacks import PGD, Doubling
from unlearn_jax.methods import _unlearn
from unlearn_jax.spectral import spectral_norms
from unlearn_jax.types import InputError, Status, UnlearnInfo
from unlearn_jax.values import fields_of, replace

FORGET = np.isin(np.arange(60), [3, 7, 11, 20, 33, 58])
OPTIONS = {"num_epochs": 2, "batch_size": 16, "learning_rate": 0.05}
ATTACK = PGD(num_steps=10, search=Doubling(num_radii=8, batch_size=4))


@pytest.fixture(scope="module")
def problem(normed, blobs):
    recipe = train.Recipe(num_epochs=20, batch_size=16, tx=train.sgd(0.1))
    state, _ = train.fit(jax.random.key(1), normed, blobs, np.ones(60, bool), recipe)
    bare = methods.make_problem(normed, state.variables, blobs, FORGET)
    return methods.make_problem(
        normed,
        state.variables,
        blobs,
        FORGET,
        methods.attack_forget_set(bare, ATTACK),
    )


def test_retrain_equals_fit(problem, blobs, key):
    recipe = train.Recipe(2, 16, train.sgd(0.05))
    retrain = jax.jit(methods.Retrain(**OPTIONS))
    unlearned, info = retrain(jax.random.clone(key), problem)
    fitted, losses = train.fit(key, problem.model, blobs, ~FORGET, recipe)
    chex.assert_trees_all_equal(unlearned, fitted.variables)
    np.testing.assert_array_equal(info.losses, losses)


def test_frozen_statistics_stay(problem, key):
    frozen, _ = methods.FineTune(**OPTIONS, batch_stats="freeze")(
        jax.random.clone(key), problem
    )
    chex.assert_trees_all_equal(frozen.state, problem.variables.state)
    updated, _ = methods.FineTune(**OPTIONS)(key, problem)
    assert not np.allclose(
        jax.tree.leaves(updated.state)[0], jax.tree.leaves(frozen.state)[0]
    )


def test_retraining_with_frozen_statistics_keeps_the_initial_ones(problem, key):
    frozen, _ = methods.Retrain(**OPTIONS, batch_stats="freeze")(
        jax.random.clone(key), problem
    )
    start = train.init_state(key, problem.model, train.sgd(0.05)).variables
    chex.assert_trees_all_equal(frozen.state, start.state)
    moved = jax.tree.map(lambda a, b: jnp.any(a != b), frozen.params, start.params)
    assert any(jax.tree.leaves(moved))


def test_amun_lowers_the_confidence_on_forget_samples(problem, key):
    unlearned, _ = methods.AMUN(
        num_epochs=10, batch_size=16, learning_rate=0.02, retain=False, forget=False
    )(key, problem)
    forget = methods.forget_set(problem)

    def confidence(variables):
        probs = jax.nn.softmax(problem.model.apply(variables, forget.images))
        return float(jnp.mean(jnp.take_along_axis(probs, forget.labels[:, None], 1)))

    assert confidence(unlearned) < confidence(problem.variables) - 0.02


def test_forget_set_and_its_attack_are_in_order(problem, blobs):
    forget = methods.forget_set(problem)
    np.testing.assert_array_equal(forget.labels, blobs.labels[FORGET])
    np.testing.assert_array_equal(forget.images, blobs.images[FORGET])
    result = problem.adversarial
    distance = np.sqrt(
        np.sum((np.asarray(result.images) - blobs.images[FORGET]) ** 2, (1, 2, 3))
    )
    np.testing.assert_allclose(result.distance, distance, rtol=1e-5)
    assert np.all(
        np.asarray(result.labels)[result.success]
        != blobs.labels[FORGET][result.success]
    )


def test_amun_attacks_by_itself_when_the_problem_brings_no_set(problem, key):
    bare = methods.make_problem(problem.model, problem.variables, problem.train, FORGET)
    own, _ = jax.jit(methods.AMUN(**OPTIONS, attack=ATTACK))(
        jax.random.clone(key), bare
    )
    given, _ = jax.jit(methods.AMUN(**OPTIONS))(key, problem)
    chex.assert_trees_all_close(own, given, rtol=1e-4, atol=1e-5)


def with_failures(problem, failed):
    status = jnp.where(
        jnp.asarray(failed), Status.NOT_FOUND, problem.adversarial.status
    )
    broken = problem.adversarial._replace(status=status.astype(jnp.int32))
    return methods.make_problem(
        problem.model, problem.variables, problem.train, FORGET, broken
    )


def test_failures_are_dropped_or_kept_as_asked(problem, key):
    half = with_failures(problem, np.arange(6) % 2 == 0)
    results = {
        f: methods.AMUN(**OPTIONS, failures=f)(jax.random.clone(key), half)[0]
        for f in ("drop", "keep", "runner_up")
    }
    leaves = {f: np.asarray(jax.tree.leaves(r.params)[0]) for f, r in results.items()}
    assert not np.allclose(leaves["drop"], leaves["keep"])
    assert not np.allclose(leaves["runner_up"], leaves["keep"])
    # dropping every adversarial sample, with nothing else to train on, leaves the
    # original
    none = with_failures(problem, np.ones(6, bool))
    unlearned, info = methods.AMUN(**OPTIONS, retain=False, forget=False)(key, none)
    chex.assert_trees_all_equal(unlearned, problem.variables)
    np.testing.assert_array_equal(info.losses, 0)


def test_methods_map_over_problems(problem, key):
    """Many forget sets at once: the same numbers as one by one."""
    masks = jnp.stack([jnp.roll(problem.forget, shift) for shift in range(3)])
    method, keys = methods.AMUN(**OPTIONS, attack=ATTACK), jax.random.split(key, 3)

    def one(item, train_set):
        key, mask = item
        moved = dataclasses.replace(
            problem, train=train_set, forget=mask, adversarial=None
        )
        return method(key, moved)[0]

    mapper = replicas.mapper("map", num_models=3)
    mapped = replicas.map_models(mapper, one, (keys, masks), problem.train)
    single = jax.jit(one)((jax.random.clone(keys)[1], masks[1]), problem.train)
    chex.assert_trees_all_close(
        replicas.unstack(mapped, 1), single, rtol=1e-5, atol=1e-6
    )


def test_equal_methods_are_one_program_and_floats_do_not_recompile(problem, key):
    amun = methods.AMUN(**OPTIONS)
    assert amun == dataclasses.replace(amun)
    assert hash(amun) == hash(dataclasses.replace(amun))

    def run(method):
        return methods.unlearn(jax.random.clone(key), method, problem)[0]

    before = _unlearn._run._cache_size()
    first = run(amun)
    assert _unlearn._run._cache_size() == before + 1
    chex.assert_trees_all_equal(first, run(methods.AMUN(**OPTIONS)))
    other = run(replace(amun, learning_rate=0.01, weight_decay=0.0, momentum=0.5))
    assert _unlearn._run._cache_size() == before + 1
    assert not np.allclose(*map(_flat, (first, other)), rtol=0, atol=1e-5)
    run(replace(amun, num_epochs=1))
    assert _unlearn._run._cache_size() == before + 2


def _flat(variables):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(variables)])


def test_vmap_over_learning_rates_equals_the_loop(problem, key):
    rates = [0.001, 0.01, 0.05]

    def run(rate):
        method = methods.AMUN(**{**OPTIONS, "learning_rate": rate})
        return method(jax.random.clone(key), problem)

    with jax.debug_key_reuse(False):  # a batched fold_in counts as a use of the key
        mapped = jax.jit(jax.vmap(run))(jnp.asarray(rates))
    for i, rate in enumerate(rates):
        alone = jax.tree.map(lambda leaf, i=i: leaf[i], mapped)
        chex.assert_trees_all_close(alone, run(rate), rtol=1e-4, atol=1e-5)


def test_vmap_over_four_forget_sets_equals_the_loop(problem, key):
    masks = jnp.stack([jnp.roll(problem.forget, shift) for shift in range(4)])
    keys = jax.random.split(key, 4)
    method = methods.masked(methods.RandomLabel(**OPTIONS), methods.Saliency())

    def run(key, mask):
        return method(key, dataclasses.replace(problem, forget=mask))

    with jax.debug_key_reuse(False):
        mapped = jax.jit(jax.vmap(run))(keys, masks)
    for i in range(4):
        alone = jax.tree.map(lambda leaf, i=i: leaf[i], mapped)
        single = jax.jit(run)(jax.random.clone(keys)[i], masks[i])
        chex.assert_trees_all_close(alone, single, rtol=1e-4, atol=1e-5)


@dataclasses.dataclass(frozen=True)
class Shrink:
    """A method of a user's own: a plain frozen dataclass, no value of this package."""

    factor: float = 0.5

    def __call__(self, key, problem):
        del key
        params = jax.tree.map(lambda leaf: self.factor * leaf, problem.variables.params)
        info = UnlearnInfo(jnp.zeros(0), jnp.zeros((), jnp.int32))
        return problem.variables._replace(params=params), info


def test_users_method_is_registered_by_one_line(problem, key, monkeypatch):
    monkeypatch.setitem(methods.METHODS, "shrink", Shrink())
    assert fields_of(methods.METHODS["shrink"]) == {"factor": 0.5}
    variables, _ = replace(methods.METHODS["shrink"], factor=0.0)(key, problem)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(variables.params))


@dataclasses.dataclass
class Mutable:
    """A dataclass that cannot be hashed."""

    factor: float = 0.5

    def __call__(self, key, problem):
        return problem.variables, UnlearnInfo(jnp.zeros(0), jnp.zeros((), jnp.int32))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("finetune", "a method is a value"),
        (methods.FineTune, "a method is a value"),
        (Mutable(), "cannot be hashed"),
    ],
)
def test_values_that_are_no_method_are_refused(method, message, problem, key):
    with pytest.raises(InputError, match=message):
        methods.unlearn(key, method, problem)


def test_values_that_are_no_key_or_problem_are_refused(problem, key):
    with pytest.raises(InputError, match="typed key"):
        methods.unlearn(0, methods.FineTune(), problem)
    with pytest.raises(InputError, match="use make_problem"):
        methods.unlearn(key, methods.FineTune(), problem.train)


def test_a_problem_is_of_a_model_and_its_data(tiny, tiny_variables, blobs):
    forget = np.arange(60) < 6
    with pytest.raises(InputError, match="model must be a Model"):
        methods.make_problem(tiny.apply, tiny_variables, blobs, forget)
    with pytest.raises(InputError, match="variables must be a Variables"):
        methods.make_problem(tiny, tiny_variables.params, blobs, forget)
    short = blobs._replace(images=blobs.images[:3])
    with pytest.raises(InputError, match="one class index per image"):
        methods.make_problem(tiny, tiny_variables, short, forget)
    with pytest.raises(InputError, match="concrete masks"):
        jax.jit(lambda mask: methods.make_problem(tiny, tiny_variables, blobs, mask))(
            forget
        )


def test_labels_of_eight_bits_are_widened(tiny, tiny_variables, blobs):
    narrow = blobs._replace(labels=np.asarray(blobs.labels, np.uint8))
    problem = methods.make_problem(tiny, tiny_variables, narrow, FORGET)
    assert problem.train.labels.dtype == jnp.int32


def test_users_method_is_compiled_and_composed(problem, key):
    original = problem.variables.params
    halved = jax.tree.map(lambda leaf: 0.5 * leaf, original)
    k_own, k_masked, k_constrained, k_sequence = jax.random.split(key, 4)

    before = _unlearn._run_static._cache_size()
    for _ in range(2):
        variables, _ = methods.unlearn(jax.random.clone(k_own), Shrink(), problem)
        chex.assert_trees_all_equal(variables.params, halved)
    assert _unlearn._run_static._cache_size() == before + 1

    masked = methods.masked(Shrink(), methods.Saliency(fraction=0.3))
    assert masked == methods.masked(Shrink(), methods.Saliency(fraction=0.3))
    variables, info = methods.unlearn(k_masked, masked, problem)
    # traced, as in the compiled run: a product that ends in .5 may round otherwise
    mask = jax.jit(methods.saliency_mask)(problem, fraction=0.3)
    chex.assert_trees_all_equal(
        variables.params, jax.tree.map(jnp.where, mask, halved, original)
    )
    assert info.num_gradients == problem.num_forget

    bound = 0.1
    constrained = methods.constrained(Shrink(), bound)
    variables, _ = methods.unlearn(k_constrained, constrained, problem)
    norms = spectral_norms(problem.model.apply, variables, problem.train.images)
    assert max(map(float, norms.values())) <= 1.01 * bound

    requests = np.zeros((2, 60), bool)
    requests[0, [3, 7, 11]] = requests[1, [20, 33, 58]] = True
    several = methods.sequence(Shrink(), requests)
    variables, info = several(k_sequence, problem)
    chex.assert_trees_all_equal(
        variables.params, jax.tree.map(lambda leaf: 0.25 * leaf, original)
    )
    assert info.num_gradients.shape == (2,)


def test_bad_input_is_refused(problem, blobs):
    def make(mask):
        return methods.make_problem(problem.model, problem.variables, blobs, mask)

    with pytest.raises(InputError, match="bool of length 60"):
        make(FORGET[:-1])
    with pytest.raises(InputError, match="bool of length 60"):
        make(FORGET.astype(int))
    with pytest.raises(InputError, match="holds none of the 60"):
        make(np.zeros(60, bool))
    with pytest.raises(InputError, match="holds all of the 60"):
        make(np.ones(60, bool))
    with pytest.raises(
        InputError, match=r"adversarial.images must have shape \[7, 4, 4, 1\]"
    ):
        methods.make_problem(
            problem.model,
            problem.variables,
            blobs,
            FORGET | (np.arange(60) == 0),
            problem.adversarial,
        )
    short = problem.adversarial._replace(status=jnp.zeros(4, jnp.int32))
    with pytest.raises(InputError, match=r"adversarial.status must have shape \[6\]"):
        methods.make_problem(problem.model, problem.variables, blobs, FORGET, short)
    for rate in (0.0, 1j, np.True_, {}):
        with pytest.raises(InputError, match="learning_rate must be"):
            methods.FineTune(learning_rate=rate)
    for first in ("a", float("nan")):
        with pytest.raises(InputError, match=r"coefficients.* must be"):
            methods.TRW(coefficients=(first, 1, 2))
    for factor in (0.0, -0.5, float("nan"), float("inf")):
        with pytest.raises(InputError, match="decay_factor must be positive"):
            methods.FineTune(decay_factor=factor)
    with pytest.raises(InputError, match="unknown failures"):
        methods.AMUN(failures="ignore")
    with pytest.raises(InputError, match="unknown batch_stats"):
        methods.FineTune(batch_stats="off")
    with pytest.raises(TypeError, match="learning_rat"):
        methods.AMUN(learning_rat=0.1)
