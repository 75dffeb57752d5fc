"""Saliency masks: which parameters, how many, and what becomes of the others."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.problems import unchecked_problem

from unlearn_jax import methods, models
from unlearn_jax.methods.random_label import RandomLabel
from unlearn_jax.methods.saliency import forget_gradient, saliency_mask
from unlearn_jax.optimizers import OPTIMIZERS
from unlearn_jax.transforms import freeze_outside
from unlearn_jax.types import Dataset, InputError, Variables

FORGET = np.isin(np.arange(60), [3, 7, 11, 20, 33, 58])
LINEAR = models.from_functions(
    lambda key: {"w": jnp.zeros((16, 3)), "b": jnp.zeros(3)},
    lambda params, images: (
        images.reshape(len(images), -1) @ params["w"] + params["b"][None]
    ),
)


@pytest.fixture(scope="module")
def problem(blobs):
    rng = np.random.default_rng(1)
    params = {
        "w": rng.normal(size=(16, 3)).astype("f4"),
        "b": rng.normal(size=3).astype("f4"),
    }
    return methods.make_problem(
        LINEAR, Variables(jax.tree.map(jnp.asarray, params), {}), blobs, FORGET
    )


def slow_gradient(problem):
    """Sum over the forget samples of x (p - e_y)', one by one in float64."""
    w, b = (np.asarray(problem.variables.params[name], "f8") for name in "wb")
    gradient = {"w": np.zeros((16, 3)), "b": np.zeros(3)}
    for image, label in zip(
        problem.train.images[FORGET], problem.train.labels[FORGET], strict=True
    ):
        x = np.asarray(image, "f8").ravel()
        p = np.exp(x @ w + b)
        error = p / p.sum() - np.eye(3)[label]
        gradient["w"] += np.outer(x, error)
        gradient["b"] += error
    return gradient


@pytest.mark.parametrize("batch_size", [4, 128])
def test_forget_gradient_is_the_sum_over_the_forget_samples(problem, batch_size):
    images = np.where(FORGET[:, None, None, None], problem.train.images, np.nan).astype(
        "f4"
    )
    poisoned = unchecked_problem(
        LINEAR, problem.variables, Dataset(images, problem.train.labels), FORGET
    )
    gradient = jax.jit(forget_gradient, static_argnames="batch_size")(
        poisoned, batch_size=batch_size
    )
    chex.assert_trees_all_close(
        gradient, jax.tree.map(np.float32, slow_gradient(problem)), rtol=1e-4, atol=1e-5
    )


@pytest.fixture(scope="module")
def traced_mask(problem):
    compute = jax.jit(lambda fraction: saliency_mask(problem, fraction=fraction))
    return lambda fraction: compute(jnp.float32(fraction))


@settings(max_examples=25, deadline=None)
@given(fraction=st.floats(1e-3, 1.0))
def test_mask_takes_the_global_top_fraction(problem, traced_mask, fraction):
    mask, gradient = traced_mask(fraction), slow_gradient(problem)
    size = np.concatenate([np.abs(gradient[name]).ravel() for name in "bw"])
    chosen = np.concatenate([np.asarray(mask[name]).ravel() for name in "bw"])
    assert abs(chosen.sum() - fraction * 51) <= 0.5 + 1e-5
    assert size[chosen].min(initial=np.inf) >= size[~chosen].max(initial=0) - 1e-5


@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0])
def test_a_static_fraction_gives_the_same_mask(problem, traced_mask, fraction):
    mask = saliency_mask(problem, fraction=fraction)
    assert sum(int(leaf.sum()) for leaf in jax.tree.leaves(mask)) == round(
        fraction * 51
    )
    chex.assert_trees_all_equal(mask, traced_mask(fraction))


def test_equal_magnitudes_rank_by_position(problem):
    """Half of the parameters have no gradient: positions decide, the count is exact."""
    images = np.where(
        np.arange(16).reshape(1, 4, 4, 1) < 8, 0, problem.train.images
    ).astype("f4")
    dead = methods.make_problem(
        LINEAR, problem.variables, Dataset(images, problem.train.labels), FORGET
    )
    mask = saliency_mask(dead, fraction=37 / 51)  # 27 live ones, and 10 of the 24 dead
    assert mask["b"].all()
    assert mask["w"][8:].all()
    np.testing.assert_array_equal(mask["w"][:8].ravel(), np.arange(24) < 10)
    assert all(
        leaf.all() for leaf in jax.tree.leaves(saliency_mask(dead, fraction=1.0))
    )
    assert not any(
        leaf.any() for leaf in jax.tree.leaves(saliency_mask(dead, fraction=0.001))
    )


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_frozen_parameters_stay_and_the_others_move_as_without_mask(problem, name, key):
    options = methods.FineTuning(
        optimizer=OPTIMIZERS[name], weight_decay=0.1, learning_rate=0.1
    )
    params, mask = problem.variables.params, saliency_mask(problem, fraction=0.5)
    gradients = jax.tree.map(
        lambda leaf: jax.random.normal(jax.random.fold_in(key, leaf.ndim), leaf.shape),
        params,
    )

    def moved(tx, gradients):
        state, now = tx.init(params), params
        for _ in range(3):
            updates, state = tx.update(gradients, state, now)
            now = optax.apply_updates(now, updates)
        return now

    tx = options.tx(1)
    plain = moved(tx, gradients)
    hard = moved(freeze_outside(tx, mask), gradients)
    soft = moved(freeze_outside(tx, mask, leak=True), gradients)
    by_hand = moved(tx, jax.tree.map(jnp.multiply, gradients, mask))
    chex.assert_trees_all_equal(hard, jax.tree.map(jnp.where, mask, plain, params))
    chex.assert_trees_all_equal(soft, by_hand)
    assert all(
        np.all(a != b)
        for a, b in zip(jax.tree.leaves(soft), jax.tree.leaves(params), strict=True)
    )


def test_bad_fractions_raise(problem):
    for fraction in (0, -0.1, 1.1, np.nan):
        with pytest.raises(InputError, match="fraction"):
            saliency_mask(problem, fraction=fraction)


def salun(*, fraction=0.5, leak=False, learning_rate=0.013, **options):
    trained = RandomLabel(learning_rate=learning_rate, **options)
    return methods.masked(trained, methods.Saliency(fraction=fraction, leak=leak))


def test_salun_moves_the_mask_alone(problem, key):
    options = {"num_epochs": 2, "batch_size": 16, "weight_decay": 0.1}
    run = jax.jit(
        lambda fraction, key: salun(**options, fraction=fraction)(key, problem)
    )
    part, info = run(0.3, jax.random.clone(key))
    moved = jax.tree.map(
        lambda new, old: new != old, part.params, problem.variables.params
    )
    chex.assert_trees_all_equal(moved, saliency_mask(problem, fraction=0.3))
    everything, _ = run(1.0, jax.random.clone(key))
    plain, spent = RandomLabel(**options, learning_rate=0.013)(key, problem)
    chex.assert_trees_all_close(everything, plain, rtol=1e-5, atol=1e-7)
    assert info.num_gradients == spent.num_gradients + 6  # the mask's


def test_salun_leaks_by_weight_decay_alone(problem, key):
    options = {"num_epochs": 1, "batch_size": 16, "fraction": 0.3}
    run = jax.jit(
        lambda decay, key: (
            salun(**options, leak=True, weight_decay=decay)(key, problem)[0].params
        )
    )
    mask = saliency_mask(problem, fraction=0.3)
    still = jax.tree.map(
        lambda new, old: new == old,
        run(0.0, jax.random.clone(key)),
        problem.variables.params,
    )
    chex.assert_trees_all_equal(still, jax.tree.map(jnp.logical_not, mask))
    leaked = run(0.1, key)
    shrunk = jax.tree.map(
        lambda m, new, old: m | (abs(new) < abs(old)),
        mask,
        leaked,
        problem.variables.params,
    )
    assert all(leaf.all() for leaf in jax.tree.leaves(shrunk))


def test_bad_values_are_refused():
    with pytest.raises(InputError, match="fraction"):
        salun(fraction=0.0)
    with pytest.raises(InputError, match="unknown labels"):
        salun(labels="true")
