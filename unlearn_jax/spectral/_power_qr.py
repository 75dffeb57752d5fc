"""The largest singular values of a linear map, by two methods for two uses.

:func:`power_qr`, block power iteration, keeps its vectors, so that one iteration per
training step is enough; its values never exceed the truth, so they are no certificate.
:func:`lanczos` starts from one random vector and converges far faster; it is for
reports and tests.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from unlearn_jax.types import Array, InputError, PyTree

Matvec = Callable[[PyTree], PyTree]
"""A linear function of one example."""


class Spectrum(NamedTuple):
    """The largest singular values of a linear map.

    Attributes:
      sigma: ``[K]`` float32, descending.
      vectors: right singular vectors, a leading ``K`` on every leaf, orthonormal.
    """

    sigma: Array
    vectors: PyTree


def power_qr(
    matvec: Matvec, vectors: PyTree, *, num_iters: int, shift: float = 0.0
) -> Spectrum:
    """Estimate the largest singular values and vectors by PowerQR.

    Orthogonal iteration on ``A^T A + shift I``, then Rayleigh-Ritz (arXiv 2402.16017,
    algorithm 1). Each iteration applies the map and its adjoint to all ``K`` vectors
    and orthonormalizes them; the subspace converges by ``(sigma_{K+1}^2 + shift) /
    (sigma_j^2 + shift)`` per iteration. The values are the singular values of the map
    on the subspace: each is at most the true one of the same rank, whatever the start,
    and exact where the subspace is invariant. They do not depend on the signs that a QR
    decomposition chooses, and keep their relative precision where they are small.

    Args:
      matvec: linear, reverse mode allowed; one example to one output, both any pytree
        of float32.
      vectors: where to start, a leading ``K`` on every leaf: normal draws, or the
        vectors of the last call. ``K`` at most the number of inputs. Need not be
        orthonormal.
      num_iters: at least 1. About 100 from a random start, 1 to 10 from a warm one.
      shift: at least 0. The paper's algorithm has 1, which slows convergence, the more
        so the smaller the norms; it is not needed for more vectors than the map has
        rank.

    Returns:
      The spectrum. Traceable; differentiable in nothing.

    Raises:
      InputError: no iteration, a negative shift, or more vectors than inputs.

    >>> matrix = jnp.diag(jnp.array([1.0, 3.0, 2.0]))
    >>> start = jax.random.normal(jax.random.key(0), (2, 3))
    >>> power_qr(lambda x: matrix @ x, start, num_iters=40).sigma.round(4).tolist()
    [3.0, 2.0]
    """
    if num_iters < 1 or shift < 0:
        raise InputError(
            f"num_iters must be at least 1 and shift at least 0, got {num_iters} and"
            f" {shift}"
        )
    apply, start, unravel = _flat(matvec, vectors)
    chex.assert_rank(start, 2)
    if start.shape[0] > start.shape[1]:
        raise InputError(
            f"a map of {start.shape[1]} inputs has no {start.shape[0]} singular"
            " vectors; ask for fewer"
        )

    # the adjoint is the same at every point; what it prepares is prepared once
    _, adjoint = jax.vjp(jax.vmap(apply), start)

    def iterate(_: int, block: Array) -> Array:
        return _orthonormal(adjoint(jax.vmap(apply)(block))[0] + shift * block)

    with jax.default_matmul_precision("highest"):
        block = lax.fori_loop(0, num_iters, iterate, _orthonormal(start))
        images = jax.vmap(apply)(block)
        sigma, block = _rayleigh_ritz(images, block)
    return Spectrum(sigma, jax.vmap(unravel)(block))


def lanczos(matvec: Matvec, start: PyTree, *, num_iters: int) -> tuple[Array, Array]:
    """Estimate singular values by Golub-Kahan-Lanczos bidiagonalization.

    With full re-orthogonalization (Golub and Kahan, 1965). Where the Krylov space is
    exhausted before ``num_iters`` (an orthogonal or low-rank map, a small one), it
    continues with a new random direction, so that nothing is ever divided by zero and
    multiple singular values are found too.

    Args:
      matvec: linear, reverse mode allowed; one example to one output, both any pytree
        of float32.
      start: one example, a normal draw.
      num_iters: at least 1; clipped to the smaller side of the map, where the whole
        spectrum is exact. Memory is that many inputs and outputs.

    Returns:
      ``(sigma, residual)``, both ``[num_iters]`` float32, sigma descending. Up to
      rounding each value is at most the true one of the same rank, and within
      ``residual`` of some true one. A residual that is small next to the largest value
      thus says that it is converged, except for an unlucky start that is orthogonal to
      the top direction.

    Raises:
      InputError: no iteration.

    >>> matrix = jnp.diag(jnp.array([1.0, 3.0, 2.0]))
    >>> sigma, _ = lanczos(lambda x: matrix @ x, jnp.ones(3), num_iters=3)
    >>> sigma.round(4).tolist()
    [3.0, 2.0, 1.0]
    """
    return golub_kahan(matvec, start, num_iters=num_iters)[:2]


def golub_kahan(
    matvec: Matvec, start: PyTree, *, num_iters: int
) -> tuple[Array, Array, PyTree]:
    """Run :func:`lanczos` and return its right vectors too.

    They are orthonormal, a leading ``[num_iters]`` on every leaf.
    """
    if num_iters < 1:
        raise InputError(f"num_iters must be at least 1, got {num_iters}")
    apply, first, unravel = _flat(matvec, jax.tree.map(lambda leaf: leaf[None], start))
    num_outputs = jax.eval_shape(apply, first[0]).size
    count = min(num_iters, first.shape[1], num_outputs)
    spare_left = _spare(num_outputs, first.dtype)
    spare_right = _spare(first.shape[1], first.dtype)
    # the adjoint is the same at every point; what it prepares is prepared once
    _, adjoint = jax.vjp(apply, first[0])

    def step(
        carry: tuple[Array, ...], index: Array
    ) -> tuple[tuple[Array, ...], tuple[Array, Array]]:
        lefts, rights, right, beta = carry
        rights = rights.at[index].set(right)
        # the three-term recurrence; _next takes away what rounding leaves of the rest
        left = apply(right) - beta * lefts[index - 1]
        left, alpha = _next(left, lefts, jnp.roll(spare_left, index))
        lefts = lefts.at[index].set(left)
        right = adjoint(left)[0] - alpha * right
        right, beta = _next(right, rights, jnp.roll(spare_right, index))
        return (lefts, rights, right, beta), (alpha, beta)

    with jax.default_matmul_precision("highest"):
        right = first[0] / jnp.linalg.norm(first[0])
        bases = (
            jnp.zeros((count, num_outputs), first.dtype),
            jnp.zeros((count, first.shape[1]), first.dtype),
        )
        carry, (alpha, beta) = lax.scan(
            step, (*bases, right, jnp.zeros((), first.dtype)), jnp.arange(count)
        )
        lefts, rights, right, last = carry
        beyond = jnp.linalg.norm(_away(apply(right) - last * lefts[-1], lefts))
        # the bidiagonal matrix of the map in the two bases, with its last column, which
        # the last right vector adds
        diagonal = jnp.pad(jnp.diag(alpha), ((0, 0), (0, 1)))
        bidiagonal = diagonal + jnp.pad(jnp.diag(beta), ((0, 0), (1, 0)))
        _, sigma, rotation = jnp.linalg.svd(bidiagonal, full_matrices=False)
        vectors = rotation @ jnp.concatenate([rights, right[None]])
    return sigma, beyond * jnp.abs(rotation[:, -1]), jax.vmap(unravel)(vectors)


def _next(vector: Array, basis: Array, spare: Array) -> tuple[Array, Array]:
    """Return the unit vector that orthogonalizing leaves, and its length.

    Made of the spare vector, with length 0, where only rounding is left: where a second
    pass still takes half of it away (Kahan's "twice is enough").
    """
    info = jnp.finfo(vector.dtype)
    once = _away(vector, basis)
    twice = _away(once, basis)
    length = jnp.linalg.norm(twice)
    is_spent = (length <= jnp.linalg.norm(once) / 2) | (length <= info.tiny**0.5)
    unit = twice / jnp.where(is_spent, 1.0, length)
    chosen = _away(jnp.where(is_spent, spare, unit), basis)
    chosen = chosen / jnp.maximum(jnp.linalg.norm(chosen), info.eps)
    return chosen, jnp.where(is_spent, 0.0, length)


def _away(vector: Array, basis: Array) -> Array:
    """Project a vector off the span of orthonormal (or zero) rows."""
    return vector - (basis @ vector) @ basis


def _spare(size: int, dtype: Any) -> Array:
    return jax.random.normal(jax.random.key(0), (size,), dtype)


def _flat(
    matvec: Matvec, vectors: PyTree
) -> tuple[Callable[[Array], Array], Array, Callable[[Array], PyTree]]:
    """Return the map between flat vectors, the vectors as rows, and the way back."""
    unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], vectors))[1]
    rows = jax.vmap(lambda vector: ravel_pytree(vector)[0])(vectors)

    def apply(vector: Array) -> Array:
        return ravel_pytree(matvec(unravel(vector)))[0]

    return apply, rows, unravel


def _orthonormal(rows: Array) -> Array:
    """Orthonormalize rows, at most as many as columns.

    Each is in the span of the given rows up to it, as far as those have one. The Q of a
    QR decomposition whose R has no negative diagonal, by Gram-Schmidt: LAPACK's is up
    to a hundred times slower where its threads and XLA's wait for the same cores.
    """
    spare = _spare(rows.shape[1], rows.dtype)

    def add(index: Array, basis: Array) -> Array:
        return basis.at[index].set(_next(rows[index], basis, jnp.roll(spare, index))[0])

    return lax.fori_loop(0, rows.shape[0], add, jnp.zeros_like(rows))


def _rayleigh_ritz(images: Array, rows: Array) -> tuple[Array, Array]:
    """Return the singular values of a map on a subspace, and the vectors.

    Args:
      images: of the rows under the map.
      rows: orthonormal, spanning the subspace.
    """
    count, num_outputs = images.shape
    if count == 1:
        return jnp.linalg.norm(images, axis=1), rows
    small = images @ _orthonormal(images).T if count <= num_outputs else images
    rotation, sigma, _ = jnp.linalg.svd(small)
    return jnp.pad(sigma, (0, count - sigma.shape[0])), rotation.T @ rows
