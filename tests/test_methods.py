"""Methods: they read what they claim to read, are pure, and AMUN's four settings are what the table says."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax import attacks, methods, models, replicas, train
from unlearn_jax.types import Dataset, InputError, Problem, Status, UnlearnInfo

FORGET = np.isin(np.arange(60), [3, 7, 11, 20, 33, 58])
KNOBS = {"num_epochs": 2, "batch_size": 16, "learning_rate": 0.05}
ATTACK = attacks.PGD(num_steps=10, search=attacks.Doubling(num_radii=8, batch_size=4))


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


def poison(problem, mask):
    images = np.where(
        mask[:, None, None, None], np.nan, np.asarray(problem.train.images)
    ).astype("f4")
    return methods.make_problem(
        problem.model,
        problem.variables,
        Dataset(images, problem.train.labels),
        FORGET,
        problem.adversarial,
    )


CASES = {
    # name: (method, what it must not read)
    "nothing": (methods.nothing(), np.ones(60, bool)),
    "retrain": (methods.retrain(**KNOBS), FORGET),
    "finetune": (methods.finetune(**KNOBS), FORGET),
    "finetune frozen": (methods.finetune(**KNOBS, batch_stats="freeze"), FORGET),
    "amun": (methods.amun(**KNOBS), np.zeros(60, bool)),
    "amun R+A": (methods.amun(**KNOBS, forget=False), FORGET),
    "amun F+A": (methods.amun(**KNOBS, retain=False), ~FORGET),
    "amun A": (methods.amun(**KNOBS, retain=False, forget=False), np.ones(60, bool)),
}


@pytest.mark.parametrize("name", CASES)
def test_reads_only_what_it_claims(name, problem, key):
    method, forbidden = CASES[name]
    clean, info = jax.jit(method)(jax.random.clone(key), problem)
    again, _ = jax.jit(method)(key, poison(problem, forbidden))
    chex.assert_tree_all_finite(clean)
    chex.assert_trees_all_equal(clean, again)
    assert isinstance(info, UnlearnInfo)
    assert info.num_gradients >= 0


@pytest.mark.parametrize("name", [n for n in CASES if n != "nothing"])
def test_same_key_same_result_and_another_key_another(name, problem, key):
    method = jax.jit(CASES[name][0])
    k_a, k_b = jax.random.split(key)
    first, _ = method(jax.random.clone(k_a), problem)
    chex.assert_trees_all_equal(first, method(k_a, problem)[0])
    other, _ = method(k_b, problem)
    assert not np.allclose(
        jax.tree.leaves(first.params)[0], jax.tree.leaves(other.params)[0], atol=1e-7
    )


def test_retrain_equals_fit(problem, blobs, key):
    recipe = train.Recipe(2, 16, train.sgd(0.05))
    unlearned, info = jax.jit(methods.retrain(recipe=recipe))(
        jax.random.clone(key), problem
    )
    fitted, losses = train.fit(key, problem.model, blobs, ~FORGET, recipe)
    chex.assert_trees_all_equal(unlearned, fitted.variables)
    np.testing.assert_array_equal(info.losses, losses)


def test_frozen_statistics_stay(problem, key):
    frozen, _ = CASES["finetune frozen"][0](jax.random.clone(key), problem)
    chex.assert_trees_all_equal(frozen.state, problem.variables.state)
    updated, _ = CASES["finetune"][0](key, problem)
    assert not np.allclose(
        jax.tree.leaves(updated.state)[0], jax.tree.leaves(frozen.state)[0]
    )


def test_amun_lowers_the_confidence_on_forget_samples(problem, key):
    unlearned, _ = methods.amun(
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
    own, _ = jax.jit(methods.amun(**KNOBS, attack=ATTACK))(jax.random.clone(key), bare)
    given, _ = jax.jit(methods.amun(**KNOBS))(key, problem)
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
        f: methods.amun(**KNOBS, failures=f)(jax.random.clone(key), half)[0]
        for f in ("drop", "keep", "runner_up")
    }
    leaves = {f: np.asarray(jax.tree.leaves(r.params)[0]) for f, r in results.items()}
    assert not np.allclose(leaves["drop"], leaves["keep"])
    assert not np.allclose(leaves["runner_up"], leaves["keep"])
    # dropping every adversarial sample, with nothing else to train on, leaves the
    # original
    none = with_failures(problem, np.ones(6, bool))
    unlearned, info = methods.amun(**KNOBS, retain=False, forget=False)(key, none)
    chex.assert_trees_all_equal(unlearned, problem.variables)
    np.testing.assert_array_equal(info.losses, 0)


def test_methods_map_over_problems(problem, key):
    """Many forget sets at once: the same numbers as one by one."""
    masks = jnp.stack([jnp.roll(problem.forget, shift) for shift in range(3)])
    method, keys = methods.amun(**KNOBS, attack=ATTACK), jax.random.split(key, 3)

    def one(item, train_set):
        key, mask = item
        return method(
            key,
            Problem(
                problem.model, problem.variables, train_set, mask, problem.num_forget
            ),
        )[0]

    how = replicas.mapper("map", num_models=3)
    mapped = replicas.map_models(how, one, (keys, masks), problem.train)
    single = jax.jit(one)((jax.random.clone(keys)[1], masks[1]), problem.train)
    chex.assert_trees_all_close(
        replicas.unstack(mapped, 1), single, rtol=1e-5, atol=1e-6
    )


def own_model(adapter):
    if adapter == "functions":  # parameters are a bare array
        return models.from_functions(
            lambda key: jax.random.normal(key, (16, 3)) * 0.1,
            lambda w, images: images.reshape(len(images), -1) @ w,
        )
    if adapter == "linen":
        return models.build("cnn", (4, 4, 1), 3, widths=(2,), batch_norm=True)
    from flax import nnx

    return models.from_nnx(
        lambda rngs: nnx.Sequential(
            lambda x: x.reshape(len(x), -1), nnx.Linear(16, 3, rngs=rngs)
        )
    )


@pytest.mark.parametrize("adapter", ["functions", "nnx", "linen"])
@pytest.mark.parametrize("name", methods.METHODS)
def test_every_adapter_runs_every_method(adapter, name, blobs, key):
    model = own_model(adapter)
    k_init, k_run = jax.random.split(key)
    problem = methods.make_problem(model, jax.jit(model.init)(k_init), blobs, FORGET)
    wanted = {
        "num_epochs": 1,
        "batch_size": 16,
        "attack": ATTACK,
        "num_samples": 8,
        "warn": False,
    }
    knobs = {
        knob: value for knob, value in wanted.items() if knob in methods.knobs_of(name)
    }
    variables, info = jax.jit(methods.make_method(name, **knobs))(k_run, problem)
    chex.assert_trees_all_equal_shapes_and_dtypes(variables, problem.variables)
    chex.assert_tree_all_finite(variables)
    without_epochs = (
        "nothing",
        "ssd",
        "influence",
        "ntk_influence",
        "fisher",
        "svd_projection",
    )
    assert info.losses.shape == ((0,) if name in without_epochs else (1,))


def test_registering_ones_own_method(problem, key, monkeypatch):
    def shrink(*, factor=0.5):
        def run(key, problem):
            del key
            params = jax.tree.map(lambda leaf: factor * leaf, problem.variables.params)
            return problem.variables._replace(params=params), UnlearnInfo(
                jnp.zeros(0), jnp.zeros((), jnp.int32)
            )

        return run

    monkeypatch.setitem(methods.METHODS, "shrink", shrink)
    assert methods.knobs_of("shrink") == {"factor": 0.5}
    variables, _ = methods.make_method("shrink", factor=0.0)(key, problem)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(variables.params))


def test_bad_input(problem, blobs):
    make = lambda mask: methods.make_problem(
        problem.model, problem.variables, blobs, mask
    )
    with pytest.raises(InputError, match="bool of length 60"):
        make(FORGET[:-1])
    with pytest.raises(InputError, match="bool of length 60"):
        make(FORGET.astype(int))
    with pytest.raises(InputError, match="holds none of the 60"):
        make(np.zeros(60, bool))
    with pytest.raises(InputError, match="holds all of the 60"):
        make(np.ones(60, bool))
    with pytest.raises(InputError, match="6 rows for 7"):
        methods.make_problem(
            problem.model,
            problem.variables,
            blobs,
            FORGET | (np.arange(60) == 0),
            problem.adversarial,
        )
    with pytest.raises(InputError, match="unknown method 'forget_it'"):
        methods.make_method("forget_it")
    with pytest.raises(InputError, match="must be positive"):
        methods.make_method("finetune", learning_rate=0.0)
    for factor in (0.0, -0.5, float("nan"), float("inf")):
        with pytest.raises(InputError, match="decay_factor must be positive"):
            methods.make_method("finetune", decay_factor=factor)
    with pytest.raises(InputError, match="unknown failures"):
        methods.make_method("amun", failures="ignore")
    with pytest.raises(InputError, match="unknown batch_stats"):
        methods.make_method("finetune", batch_stats="off")
