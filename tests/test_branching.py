"""Branches under vmap: the same bits, and one branch for all models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from unlearn_jax.branching import cond


def triple(count, values):
    """Take a sine every third time."""
    return cond(count % 3 == 0, lambda x: jnp.sin(3 * x), lambda x: x, values)


@pytest.mark.parametrize("counts", [[0, 1, 2, 3], [0, 3, 6, 9], [1, 2, 4, 5]])
def test_mapped_branches_have_the_bits_of_single_ones(counts):
    counts = jnp.array(counts)
    values = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5)), jnp.float32)
    expected = jnp.stack([triple(*each) for each in zip(counts, values, strict=True)])
    np.testing.assert_array_equal(jax.vmap(triple)(counts, values), expected)
    square = jax.vmap(jax.vmap(triple))(counts.reshape(2, 2), values.reshape(2, 2, 5))
    np.testing.assert_array_equal(square.reshape(4, 5), expected)
    slopes = jax.vmap(jax.grad(lambda x, count: triple(count, x).sum()))(values, counts)
    due = np.asarray(counts % 3 == 0)[:, None]
    np.testing.assert_allclose(
        slopes, np.where(due, 3 * np.cos(3 * values), 1), rtol=1e-4, atol=1e-5
    )


def test_the_expensive_branch_runs_only_where_a_model_needs_it():
    calls = []

    def expensive(x):
        jax.debug.callback(lambda: calls.append(1))
        return x + 1

    def step(carry, _):
        count, x = carry
        x = cond(count % 4 == 3, expensive, lambda x: x, x)
        return (count + 1, x), None

    def run(count):
        return lax.scan(step, (count, jnp.zeros(())), None, length=8)[0][1]

    found = jax.jit(jax.vmap(run))(jnp.zeros(3, jnp.int32))
    jax.effects_barrier()
    np.testing.assert_array_equal(found, [2, 2, 2])
    assert 2 <= len(calls) <= 6


def test_gradients_pass_a_branch_that_is_mapped():
    """An objective with a term that is due at some steps only, for many models."""

    def loss(x, step):
        return cond(step % 2 == 0, lambda x: x**3, jnp.zeros_like, x)

    x = jnp.array([2.0, 3.0])
    steps = jnp.array([4, 5])
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(loss)))(x, steps)
    np.testing.assert_array_equal(value, [8.0, 0.0])
    np.testing.assert_array_equal(slope, [12.0, 0.0])
    one, alone = jax.jit(jax.value_and_grad(loss))(x[0], steps[0])
    assert (one, alone) == (8.0, 12.0)
