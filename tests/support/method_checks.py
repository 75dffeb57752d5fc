"""Checks that tests of methods share, and softmax regression by hand in NumPy."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax import methods, models
from unlearn_jax.types import Dataset, UnlearnInfo, Variables

FORGET = np.isin(np.arange(60), [3, 7, 11, 20, 33, 58])
REMOVED = np.isin(np.arange(60), [1, 44])
RETAIN = ~(FORGET | REMOVED)
HALF = np.arange(60) % 4 < 2

IGNORANT = np.random.default_rng(5).normal(size=(16, 3)).astype("f4")
LINEAR = models.from_functions(
    lambda key: jnp.asarray(IGNORANT),
    lambda w, images: images.reshape(len(images), -1) @ w,
)


def small_problem(model, blobs):
    """An untrained network, six samples to forget, and two already forgotten."""
    variables = jax.jit(model.init)(jax.random.key(1))
    return methods.make_problem(model, variables, blobs, FORGET, removed=REMOVED)


def linear_problem(blobs):
    """Softmax regression with random weights; half of the samples to forget."""
    weights = np.random.default_rng(4).normal(size=(16, 3)).astype("f4")
    return methods.make_problem(
        LINEAR, Variables(jnp.asarray(weights), {}), blobs, HALF
    )


def check_method(method, allowed, problem, key, *, is_random=True):
    """Results depend on the key, and on no image outside ``allowed``."""
    run = jax.jit(method)
    k_a, k_b = jax.random.split(key)
    first, info = run(jax.random.clone(k_a), problem)
    images = np.where(allowed[:, None, None, None], problem.train.images, np.nan)
    poisoned = dataclasses.replace(
        problem,
        train=Dataset(jnp.asarray(images, jnp.float32), problem.train.labels),
    )
    again, _ = run(k_a, poisoned)
    chex.assert_tree_all_finite((first, info.losses))
    chex.assert_trees_all_equal(first, again)
    other, _ = run(k_b, problem)
    leaves = [
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(v.params)])
        for v in (first, other, problem.variables)
    ]
    if is_random:
        assert not np.allclose(leaves[0], leaves[1], rtol=0, atol=1e-7)
    else:
        np.testing.assert_array_equal(leaves[0], leaves[1])
    assert np.any(leaves[0] != leaves[2])
    assert isinstance(info, UnlearnInfo)
    assert info.losses.ndim == 1
    assert info.num_gradients > 0
    return first, info


def check_mapped(method, blobs, key):
    """Two forget sets at once, by ``vmap``, give what each gives alone."""
    problem = linear_problem(blobs)
    masks = jnp.stack([~problem.forget, problem.forget])
    keys = jax.random.split(key)

    def run(key, mask):
        return method(key, dataclasses.replace(problem, forget=mask))

    # The checker counts a batched fold_in in a scan as a use of the key.
    with jax.debug_key_reuse(False):
        mapped = jax.jit(jax.vmap(run))(keys, masks)
        single = jax.jit(run)(keys[1], masks[1])
    chex.assert_trees_all_close(
        jax.tree.map(lambda leaf: leaf[1], mapped), single, rtol=1e-4, atol=1e-6
    )


def traced(method_type, numbers, problem, key, cost, **options):
    """Weights of a method whose float fields ``numbers`` are traced, as in a search.

    ``cost`` is the number of gradients that it must report.
    """

    @jax.jit
    def run(numbers, key):
        return method_type(**numbers, **options)(key, problem)

    variables, info = run(numbers, key)
    assert info.num_gradients == cost
    return np.asarray(variables.params)


def softmax(logits):
    """Probabilities along the last axis."""
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


def gradient(w, images, target, temperature=1.0):
    """Of the mean cross-entropy of ``softmax(x w / T)``, by ``w``."""
    x = np.asarray(images, "f8").reshape(len(images), -1)
    target = np.eye(3)[target] if np.ndim(target) == 1 else target
    return x.T @ (softmax(x @ w / temperature) - target) / temperature / len(x)


def descend(w, gradients, rate, *, momentum=0.9, weight_decay=5e-4):
    """SGD: one step per gradient function."""
    w, velocity = np.asarray(w, "f8"), 0.0
    for slope in gradients:
        velocity = momentum * velocity + slope(w) + weight_decay * w
        w = w - rate * velocity
    return w
