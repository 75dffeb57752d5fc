"""Transformations: the L1 pull, frozen parameters, and arguments that are passed on."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unlearn_jax import train
from unlearn_jax.spectral import fastclip
from unlearn_jax.transforms import add_l1, freeze_outside
from unlearn_jax.types import InputError

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), "b": jnp.array([0.0, 2.0])}
MASK = jax.tree.map(lambda leaf: leaf > 0, PARAMS)
GRADIENTS = jax.tree.map(lambda leaf: 0.3 + leaf**2, PARAMS)


def walk(tx, num_steps=3, **extra_args):
    """Parameters after some steps with constant gradients."""
    params = PARAMS
    state = tx.init(params)
    for _ in range(num_steps):
        updates, state = tx.update(GRADIENTS, state, params, **extra_args)
        params = optax.apply_updates(params, updates)
    return params, state


def test_add_l1_is_the_gradient_of_the_penalty():
    weights = jnp.array([0.5, 0.1])
    tx = optax.chain(add_l1(weights), optax.sgd(0.2, momentum=0.9))
    params = PARAMS
    velocity = jax.tree.map(jnp.zeros_like, PARAMS)
    for step in range(4):
        weight = weights[min(step, 1)]  # the last weight counts for later steps

        def penalty(params, weight=weight):
            sizes = jax.tree.map(lambda leaf: jnp.sum(jnp.abs(leaf)), params)
            return weight * sum(jax.tree.leaves(sizes))

        slopes = jax.tree.map(
            lambda leaf, slope: jnp.where(leaf == 0, 0.0, slope),
            params,
            jax.grad(penalty)(params),
        )
        velocity = jax.tree.map(
            lambda v, g, s: 0.9 * v + g + s, velocity, GRADIENTS, slopes
        )
        params = jax.tree.map(lambda p, v: p - 0.2 * v, params, velocity)
    moved, state = walk(tx, 4)
    chex.assert_trees_all_close(moved, params, rtol=1e-5)
    assert int(state[0].step) == 4


def test_add_l1_needs_parameters_and_a_vector_of_weights():
    tx = add_l1(jnp.ones(3))
    with pytest.raises(InputError, match="needs the parameters"):
        tx.update(GRADIENTS, tx.init(PARAMS))
    with pytest.raises(AssertionError):
        add_l1(jnp.ones(()))
    with pytest.raises(InputError, match="a weight for at least one step"):
        add_l1(jnp.ones(0))


def test_add_l1_keeps_the_type_of_the_updates():
    updates = jnp.ones(3, jnp.bfloat16)
    tx = add_l1(jnp.array([0.5]))
    moved, _ = tx.update(updates, tx.init(updates), updates)
    assert moved.dtype == jnp.bfloat16
    np.testing.assert_array_equal(moved, np.full(3, 1.5, jnp.bfloat16))


@pytest.mark.parametrize(
    "mask", [np.ones(3, bool), np.ones((2, 3), int), np.ones((2, 3), "f4")]
)
def test_freeze_outside_refuses_masks_unlike_the_parameters(mask):
    tx = freeze_outside(optax.sgd(0.1), mask)
    params = jnp.ones((2, 3))
    with pytest.raises(InputError, match=r"mask must be bool in the shape of the par"):
        tx.update(params, tx.init(params), params)


@pytest.mark.parametrize(
    "tx",
    [
        train.sgd(0.1, weight_decay=0.1),
        optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.1)),
        optax.adamw(0.1, weight_decay=0.1),
    ],
)
def test_freeze_outside_keeps_bits_and_moves_the_others_as_without_mask(tx):
    plain, _ = walk(tx)
    frozen, _ = walk(freeze_outside(tx, MASK))
    chex.assert_trees_all_equal(frozen, jax.tree.map(jnp.where, MASK, plain, PARAMS))


def test_frozen_parameters_have_no_momentum_and_count_in_no_norm():
    outside = jax.tree.map(jnp.logical_not, MASK)
    _, (_, (velocity, _)) = walk(freeze_outside(train.sgd(0.1, weight_decay=0.1), MASK))
    leaves = zip(jax.tree.leaves(velocity), jax.tree.leaves(outside), strict=True)
    assert all(np.all(leaf[is_outside] == 0) for leaf, is_outside in leaves)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0))
    frozen, _ = walk(freeze_outside(tx, MASK), 1)
    moved = jax.tree.map(jnp.subtract, frozen, PARAMS)
    np.testing.assert_allclose(optax.tree.norm(moved), 1.0, rtol=1e-5)


def test_frozen_parameters_are_not_in_the_state():
    """DoG keeps the initial parameters, and steps in proportion to their distance."""
    tx = freeze_outside(optax.contrib.dog(1.0), jnp.array([True, False]))
    moved = []
    for frozen in (0.0, 1e4):
        params = jnp.array([0.0, frozen])
        state = tx.init(params)
        for _ in range(3):
            updates, state = tx.update(params - 1, state, params)
            params = optax.apply_updates(params, updates)
        moved.append(params[0])
    assert moved[0] == moved[1]


def test_a_leak_masks_gradients_alone():
    tx = train.sgd(0.1, weight_decay=0.1)
    leaked, _ = walk(freeze_outside(tx, MASK, leak=True))
    params = PARAMS
    state = tx.init(params)
    for _ in range(3):
        masked = jax.tree.map(jnp.multiply, GRADIENTS, MASK)
        updates, state = tx.update(masked, state, params)
        params = optax.apply_updates(params, updates)
    chex.assert_trees_all_equal(leaked, params)
    assert np.all(leaked["w"][PARAMS["w"] < 0] != PARAMS["w"][PARAMS["w"] < 0])


def record_extra_args(seen):
    def update(updates, state, params=None, **extra_args):
        del params
        seen.append(extra_args)
        return updates, state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


@pytest.mark.parametrize("leak", [False, True])
def test_extra_arguments_are_passed_on(leak):
    seen = []
    inner = optax.chain(add_l1(jnp.ones(1)), record_extra_args(seen))
    tx = freeze_outside(inner, MASK, leak=leak)
    walk(tx, 1, model_state="statistics")
    assert seen == [{"model_state": "statistics"}]
    walk(freeze_outside(optax.sgd(0.1), MASK), 1, model_state="unused")


def test_fastclip_inside_gets_the_statistics_of_batch_norm(normed, blobs, key):
    """Composites need them: without, FastClip refuses; with every entry free, the mask
    changes no bit."""
    variables = normed.init(key)
    clipping = fastclip(
        normed.apply,
        blobs.images[:1],
        max_norm=0.5,
        period=1,
        model_state=variables.state,
    )
    inner = optax.chain(train.sgd(0.1), clipping)
    everything = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), variables.params)
    batch = train.Batch(
        jnp.asarray(blobs.images), jnp.asarray(blobs.labels), jnp.arange(60)
    )

    def one_step(tx):
        state = train.init_state(key, normed, tx, variables)
        loss_fn = train.cross_entropy_loss(normed)
        run = jax.jit(lambda state: train.train_step(loss_fn, tx, state, batch, key))
        return run(state)[0].variables

    chex.assert_trees_all_equal(
        one_step(inner), one_step(freeze_outside(inner, everything))
    )
