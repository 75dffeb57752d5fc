"""Bootstrap draws on a device."""

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

    The counts have the distribution of :func:`unlearn_jax.audit.sample_weights`, but
    come from other random numbers.

    Args:
      key: typed PRNG key for the draws.
      num_replicates: number of replicates B; static.
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

    The weights have the distribution of :func:`unlearn_jax.audit.run_weights`, but come
    from other random numbers.

    Args:
      key: typed PRNG key for the draws.
      num_replicates: number of replicates B; static.
      factors: ``[R, J]`` integers, the level of each run in each factor.

    Returns:
      ``[B, R]`` int32, the product over factors of the count of the run's level.
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
        # The number of draws equals the number of levels, which depends on values, so
        # draws are masked instead of shaped.
        drawn = jax.random.randint(key, (num_runs,), 0, num_levels)
        is_drawn = jnp.arange(num_runs) < num_levels
        counts = jnp.zeros(num_runs, jnp.int32).at[drawn].add(is_drawn)
        return counts[level]

    def product(key: Array) -> Array:
        keys = jax.random.split(key, factors.shape[1])
        return jax.vmap(draw)(keys, factors.T).prod(axis=0, dtype=jnp.int32)

    return jax.vmap(product)(jax.random.split(key, num_replicates))
