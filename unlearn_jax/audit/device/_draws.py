"""Bootstrap draws on a device, from a typed key."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from unlearn_jax.types import Array


@partial(jax.jit, static_argnames="num_replicates")
def sample_weights(key: Array, num_replicates: int, strata: ArrayLike) -> Array:
    """Return bootstrap counts of samples, drawn with replacement within each stratum.

    The law of :func:`unlearn_jax.audit.sample_weights`, from other random bits.

    Args:
      key: a typed key.
      num_replicates: B; static.
      strata: ``[N]`` integers or booleans, the stratum (or cluster) of each sample.

    Returns:
      ``[B, N]`` int32; the counts of a stratum of n samples sum to n in each row.
    """
    strata = jnp.asarray(strata)
    chex.assert_rank(strata, 1)
    order = jnp.argsort(strata)
    ordered = strata[order]
    first = jnp.searchsorted(ordered, ordered, side="left").astype(jnp.int32)
    after = jnp.searchsorted(ordered, ordered, side="right").astype(jnp.int32)

    def draw(key: Array) -> Array:
        # Each position of a stratum draws one of the stratum's positions.
        drawn = jax.random.randint(key, first.shape, first, after)
        counts = jnp.zeros_like(first).at[drawn].add(1)
        return jnp.zeros_like(first).at[order].set(counts)

    return lax.map(draw, jax.random.split(key, num_replicates))


@partial(jax.jit, static_argnames="num_replicates")
def run_weights(key: Array, num_replicates: int, factors: ArrayLike) -> Array:
    """Return the pigeonhole bootstrap's weights of crossed runs (Owen 2007).

    The law of :func:`unlearn_jax.audit.run_weights`, from other random bits.

    Args:
      key: a typed key.
      num_replicates: B; static.
      factors: ``[R, J]`` integers, each run's level of each factor.

    Returns:
      ``[B, R]`` int32, the product over factors of how often the level was drawn.
    """
    factors = jnp.asarray(factors)
    chex.assert_rank(factors, 2)
    num_runs = factors.shape[0]

    def draw(key: Array, factor: Array) -> Array:
        ordered = jnp.sort(factor)
        is_new = jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]])
        level_of_position = jnp.cumsum(is_new) - 1
        num_levels = level_of_position[-1] + 1
        level = level_of_position[jnp.searchsorted(ordered, factor)]
        # As many draws as levels; the number of levels is not a static shape.
        drawn = jax.random.randint(key, (num_runs,), 0, num_levels)
        is_drawn = jnp.arange(num_runs) < num_levels
        counts = jnp.zeros(num_runs, jnp.int32).at[drawn].add(is_drawn)
        return counts[level]

    def product(key: Array) -> Array:
        keys = jax.random.split(key, factors.shape[1])
        return jax.vmap(draw)(keys, factors.T).prod(axis=0, dtype=jnp.int32)

    return jax.vmap(product)(jax.random.split(key, num_replicates))
