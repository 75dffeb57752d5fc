"""Factorizations of dense matrices that can safely be batched, and exact products.

jaxlib divides a batch over XLA's thread pool and waits for it in one of the pool's
threads. If every thread waits for a batch, they wait forever (JAX 0.10.2; eigenvalues
of two layers on two cores). So on CPU these functions factorize a batch matrix by
matrix; other platforms keep their batched kernels.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import jax.scipy as jsp
from jax import lax

from unlearn_jax.types import Array

_P = ParamSpec("_P")
_R = TypeVar("_R")


def one_by_one(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let ``vmap`` call a function once per element of the batch on CPU.

    Args:
      function: function of arrays. Its derivative is taken of the function itself, so
        batches in it are divided over threads again.
    """
    single = jax.custom_batching.custom_vmap(function)

    @single.def_vmap
    def _(size: int, is_batched: list[bool], *arrays: Array):
        batched = [
            array if has_axis else jnp.broadcast_to(array, (size, *array.shape))
            for array, has_axis in zip(arrays, is_batched, strict=True)
        ]
        result = lax.platform_dependent(
            *batched,
            cpu=lambda *batch: lax.map(lambda one: single(*one), batch),
            default=jax.vmap(function),
        )
        return result, jax.tree.map(lambda _: True, result)

    with_derivative = jax.custom_jvp(single)

    @with_derivative.defjvp
    def _(primals, tangents):
        return single(*primals), jax.jvp(function, primals, tangents)[1]

    return functools.wraps(function)(with_derivative)


def product(left: Array, right: Array) -> Array:
    """Return ``A B``, which accelerators would round to fewer bits by default."""
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)


def at_least_float32(array: Array) -> Array:
    """Return an array in 32 bits or more: factorizations take no type of 16 bits."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


@one_by_one
def eigh(matrix: Array) -> tuple[Array, Array]:
    """Return eigenvalues ``[n]``, ascending, and eigenvectors ``[n, n]``.

    Args:
      matrix: ``[n, n]``, symmetric.
    """
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors


@one_by_one
def eigvalsh(matrix: Array) -> Array:
    """Return the ascending eigenvalues ``[n]`` of a symmetric matrix ``[n, n]``."""
    return jnp.linalg.eigvalsh(matrix)


@one_by_one
def svd(matrix: Array) -> tuple[Array, Array, Array]:
    """Return the SVD ``U [m, k]``, ``s [k]``, ``V^T [k, n]``; ``k = min(m, n)``."""
    left, values, right = jnp.linalg.svd(matrix, full_matrices=False)
    return left, values, right


@one_by_one
def inv(matrix: Array) -> Array:
    """Return the inverse of a matrix ``[n, n]``."""
    return jnp.linalg.inv(matrix)


@one_by_one
def solve(matrix: Array, right: Array) -> Array:
    """Return ``A^-1 b`` for ``A [n, n]`` and ``b [n]`` or ``[n, k]``."""
    return jnp.linalg.solve(matrix, right)


@one_by_one
def solve_positive(matrix: Array, right: Array) -> Array:
    """Return ``A^-1 b`` like :func:`solve`, for a positive definite ``A``."""
    return jsp.linalg.cho_solve(jsp.linalg.cho_factor(matrix, lower=True), right)


@one_by_one
def cholesky(matrix: Array) -> Array:
    """Return the lower factor ``[n, n]`` of a positive definite matrix."""
    return jnp.linalg.cholesky(matrix)


@one_by_one
def solve_factored(factor: Array, right: Array) -> Array:
    """Return ``(L L^T)^-1 b`` for a lower factor ``L [n, n]``."""
    return jsp.linalg.cho_solve((factor, True), right)


@one_by_one
def solve_lower(factor: Array, right: Array) -> Array:
    """Return ``L^-1 b`` for a lower triangular matrix ``L [n, n]``."""
    return jsp.linalg.solve_triangular(factor, right, lower=True)
