"""The largest singular values of a linear map, by two methods for two purposes.

:func:`power_qr`, block power iteration, keeps its vectors, so that one iteration per
training step is enough. Its values never exceed the true ones, so they do not certify a
bound. :func:`lanczos` starts from one random vector and converges far faster; it is for
reports and tests.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from unlearn_jax import linalg
from unlearn_jax.branching import cond
from unlearn_jax.checks import check_counts, check_not_negative
from unlearn_jax.spectral.operators import LinearMap, linear_map, one_of, prepared
from unlearn_jax.types import Array, InputError, PyTree

Matvec = Callable[[PyTree], PyTree]
"""A linear function of one example."""
Method = Literal["lanczos", "power_qr"]
SIZE_RATIO = 16
"""Maps whose sizes differ by a smaller factor, roughly, share one compiled loop."""
Size = int | Array
"""Number of entries, either static or an array inside a program."""


class Spectrum(NamedTuple):
    """The largest singular values of a linear map.

    Attributes:
      sigma: ``[K]`` float32, singular values in descending order.
      vectors: orthonormal right singular vectors, with a leading axis ``K`` on every
        leaf.
    """

    sigma: Array
    vectors: PyTree


def power_qr(
    matvec: Matvec, vectors: PyTree, *, num_iters: int, shift: float = 0.0
) -> Spectrum:
    """Estimate the largest singular values and vectors by PowerQR.

    This is orthogonal iteration on ``A^T A + shift I``, then Rayleigh-Ritz (arXiv
    2402.16017, algorithm 1). Each iteration applies the map and its adjoint to all
    ``K`` vectors and orthonormalizes them; the subspace converges by a factor
    ``(sigma_{K+1}^2 + shift) / (sigma_j^2 + shift)`` per iteration. The values are the
    singular values of the map on the subspace. Each is at most the true one of the same
    rank, for every start, and exact if the subspace is invariant. They do not depend on
    the signs that a QR decomposition chooses, and small values keep their relative
    precision.

    Args:
      matvec: linear function from one example to one output, both any pytree of
        float32; it must allow reverse mode.
      vectors: vectors to start from, with a leading axis ``K`` on every leaf: normal
        draws, or the vectors of the last call. They need not be orthonormal. ``K`` is
        at most the number of inputs.
      num_iters: number of iterations, at least 1; about 100 from a random start, 1 to
        10 from a warm one.
      shift: shift of the iterated matrix, at least 0. The paper's algorithm has 1,
        which slows convergence, most for small norms. No shift is needed, even if there
        are more vectors than the rank of the map.

    Returns:
      The spectrum. The function can be traced, but not differentiated.

    Raises:
      InputError: fewer than one iteration, a negative shift, or more vectors than
        inputs.

    >>> matrix = jnp.diag(jnp.array([1.0, 3.0, 2.0]))
    >>> start = jax.random.normal(jax.random.key(0), (2, 3))
    >>> power_qr(lambda x: matrix @ x, start, num_iters=40).sigma.round(4).tolist()
    [3.0, 2.0]
    """
    _check(num_iters, shift)
    operator, start, unravel = _flat(matvec, vectors)
    chex.assert_rank(start, 2)
    if start.shape[0] > start.shape[1]:
        raise InputError(
            f"a map of {start.shape[1]} inputs has fewer than {start.shape[0]} singular"
            " vectors; ask for fewer"
        )
    sizes = (math.prod(operator.in_shape), math.prod(operator.out_shape))
    draws = draws_for([operator], len(start))
    sigma, block = subspace_iteration(
        operator, start, sizes, draws, num_iters=num_iters, shift=shift
    )
    return Spectrum(sigma, jax.vmap(unravel)(block))


def subspace_iteration(
    operator: LinearMap,
    start: Array,
    sizes: tuple[Size, Size],
    draws: Array,
    *,
    num_iters: int,
    shift: float = 0.0,
) -> Spectrum:
    """Run :func:`power_qr` on a map between flat vectors.

    Args:
      operator: map from ``[n]`` to ``[m]``.
      start: ``[K, n]``, vectors to start from.
      sizes: numbers of inputs and outputs; later entries of a vector are padding with
        zeros, and stay 0.
      draws: result of :func:`draws_for`.
      num_iters: number of iterations, at least 1.
      shift: shift of the iterated matrix, at least 0.

    Returns:
      The spectrum, with values and vectors of 0 beyond the number of inputs.
    """

    def iterate(_: int, block: Array) -> Array:
        images = jax.vmap(operator.matvec)(block)
        rows = jax.vmap(operator.rmatvec)(images) + shift * block
        return _orthonormal(_near_one(rows), sizes[0], draws)

    with jax.default_matmul_precision("highest"):
        block = lax.fori_loop(
            0, num_iters, iterate, _orthonormal(start, sizes[0], draws)
        )
        images = jax.vmap(operator.matvec)(block)
        return _rayleigh_ritz(images, block, sizes[1], draws)


def lanczos(matvec: Matvec, start: PyTree, *, num_iters: int) -> tuple[Array, Array]:
    """Estimate singular values by Golub-Kahan-Lanczos bidiagonalization.

    Reorthogonalizes fully (Golub and Kahan, 1965). If the Krylov space is exhausted
    before ``num_iters`` (for an orthogonal, low-rank or small map), the iteration
    continues with a new random direction, so that nothing is divided by zero and
    multiple singular values are found too.

    Args:
      matvec: linear function from one example to one output, both any pytree of
        float32; it must allow reverse mode.
      start: one example to start from, a normal draw.
      num_iters: number of iterations, at least 1; capped at the smaller side of the
        map, at which the whole spectrum is exact. Memory is that of as many inputs and
        outputs.

    Returns:
      ``(sigma, residual)``, both ``[num_iters]`` float32, sigma in descending order. Up
      to rounding, each value is at most the true one of the same rank, and within
      ``residual`` of some true one. So if the residual is small relative to the largest
      value, the value is converged, unless the start happens to be orthogonal to the
      top direction.

    Raises:
      InputError: fewer than one iteration.

    >>> matrix = jnp.diag(jnp.array([1.0, 3.0, 2.0]))
    >>> sigma, _ = lanczos(lambda x: matrix @ x, jnp.ones(3), num_iters=3)
    >>> sigma.round(4).tolist()
    [3.0, 2.0, 1.0]
    """
    _check(num_iters)
    operator, first, _ = _flat(matvec, jax.tree.map(lambda leaf: leaf[None], start))
    sizes = (math.prod(operator.in_shape), math.prod(operator.out_shape))
    count = min(num_iters, *sizes)
    draws = draws_for([operator], count)
    return golub_kahan(operator, first[0], sizes, draws, num_iters=count)[:2]


def estimate_all(
    maps: Sequence[LinearMap],
    starts: Sequence[Array],
    last: Sequence[Spectrum],
    is_due: Array,
    *,
    method: Method,
    num_iters: int,
    shift: float = 0.0,
) -> list[Spectrum]:
    """Estimate the spectra of many maps by few loops, each compiled once.

    Maps of similar size share two loops. Vectors of a loop are padded to the longest,
    so in a single loop for all maps short vectors would cost as much as long ones.

    Args:
      maps: one or more.
      starts: ``[R, *in_shape]`` for each map, vectors to start from; Lanczos uses only
        the first row.
      last: spectrum for each map, returned if the map is not due; its ``K`` is the
        number of vectors to return, at most ``num_iters`` for Lanczos.
      is_due: ``[L]`` bool, the maps to estimate.
      method: the estimator.
      num_iters: number of iterations, at least 1.
      shift: shift of :func:`power_qr`.

    Returns:
      A spectrum of ``K`` values for each map.
    """
    _check(num_iters, shift)
    sizes = np.array(
        [(math.prod(one.in_shape), math.prod(one.out_shape)) for one in maps]
    )
    magnitude = np.log(sizes.max(1)) // math.log(SIZE_RATIO)
    draws = draws_for(maps, max(num_iters, *map(len, starts)))
    results: dict[int, Spectrum] = {}
    alike = [np.flatnonzero(magnitude == value) for value in np.unique(magnitude)]
    # two loops for each size: XLA:CPU runs independent loops at once
    halves = [half for each in alike for half in (each[::2], each[1::2])]
    for members in filter(len, halves):
        operators = [prepared(maps[i]) for i in members]
        count = max(len(last[i].sigma) for i in members)

        def estimate(
            operator: LinearMap, start: Array, size: Array, count: int = count
        ) -> Spectrum:
            both = (size[0], size[1])
            if method == "power_qr":
                estimates = subspace_iteration(
                    operator, start, both, draws, num_iters=num_iters, shift=shift
                )
                return Spectrum(estimates.sigma[:count], estimates.vectors[:count])
            most = min(num_iters, *operator.in_shape, *operator.out_shape)
            sigma, _, vectors = golub_kahan(
                operator, start[0], both, draws, num_iters=most, num_vectors=count
            )
            return Spectrum(sigma[:count], vectors)

        def visit(
            _: None,
            each: tuple[Array, Array, Array, Spectrum, Array],
            operators: Sequence[LinearMap] = operators,
            estimate: Callable[..., Spectrum] = estimate,
        ) -> tuple[None, Spectrum]:
            index, size, start, last, is_due = each
            operator = one_of(operators, index)
            return None, cond(
                is_due, lambda: estimate(operator, start, size), lambda: last
            )

        flat = [
            Spectrum(last[i].sigma, last[i].vectors.reshape(len(last[i].sigma), -1))
            for i in members
        ]
        each = (
            jnp.arange(len(members)),
            jnp.asarray(sizes[members]),
            _stack([starts[i].reshape(len(starts[i]), -1) for i in members]),
            jax.tree.map(lambda *leaves: _stack(leaves), *flat),
            is_due[members],
        )
        estimates = lax.scan(visit, None, each)[1]
        for place, i in enumerate(members):
            shape = last[i].vectors.shape
            vectors = estimates.vectors[place, : shape[0], : sizes[i, 0]].reshape(shape)
            results[i] = Spectrum(estimates.sigma[place, : shape[0]], vectors)
    return [results[i] for i in range(len(maps))]


def draws_for(maps: Sequence[LinearMap], count: int) -> Array:
    """Draw the numbers that replace exhausted directions, always the same.

    Returns normal numbers ``[n + count]``, where ``n`` is the largest size of the maps.
    They are drawn once per program, since random bits take as long to compile as an
    iteration.
    """
    shapes = [shape for one in maps for shape in (one.in_shape, one.out_shape)]
    size = max(map(math.prod, shapes)) + count
    return jax.random.normal(jax.random.key(0), (size,), jnp.float32)


def _check(num_iters: int, shift: float = 0.0) -> None:
    check_counts(num_iters=num_iters)
    check_not_negative(shift=shift)


def _stack(arrays: Sequence[Array]) -> Array:
    """Stack arrays of one rank, padded with zeros to the largest."""
    largest = np.max([array.shape for array in arrays], 0)
    padded = []
    for array in arrays:
        missing = largest - array.shape
        padded.append(jnp.pad(array, [(0, count) for count in missing]))
    return jnp.stack(padded)


def golub_kahan(
    operator: LinearMap,
    start: Array,
    sizes: tuple[Size, Size],
    draws: Array,
    *,
    num_iters: int,
    num_vectors: int = 1,
) -> tuple[Array, Array, Array]:
    """Run :func:`lanczos` on a map between flat vectors.

    Args:
      operator: map from ``[n]`` to ``[m]``.
      start: ``[n]``, vector to start from.
      sizes: numbers of inputs and outputs; later entries of a vector are padding with
        zeros, and stay 0.
      draws: result of :func:`draws_for`.
      num_iters: number of iterations, at least 1; beyond a size, values of 0 are added.
      num_vectors: number of right singular vectors to return, at most ``num_iters``.

    Returns:
      ``(sigma [num_iters], residual [num_iters], vectors [num_vectors, n])``.
    """
    bases = (
        jnp.zeros((num_iters, *operator.out_shape), start.dtype),
        jnp.zeros((num_iters, *operator.in_shape), start.dtype),
    )

    def step(
        carry: tuple[Array, ...], index: Array
    ) -> tuple[tuple[Array, ...], tuple[Array, Array]]:
        lefts, rights, right, beta = carry
        rights = rights.at[index].set(right)
        # the three-term recurrence; _next removes the remainders that rounding leaves
        left = operator.matvec(right) - beta * lefts[index - 1]
        left, alpha = _next(left, lefts, sizes[1], draws, index)
        lefts = lefts.at[index].set(left)
        right = operator.rmatvec(left) - alpha * right
        right, beta = _next(right, rights, sizes[0], draws, index)
        return (lefts, rights, right, beta), (alpha, beta)

    with jax.default_matmul_precision("highest"):
        right = start / jnp.linalg.norm(start)
        carry, (alpha, beta) = lax.scan(
            step, (*bases, right, jnp.zeros((), start.dtype)), jnp.arange(num_iters)
        )
        lefts, rights, right, last = carry
        beyond = operator.matvec(right) - last * lefts[-1]
        beyond = jnp.linalg.norm(_away(beyond, lefts))
        # the bidiagonal matrix of the map in the two bases; the last right vector adds
        # its last column
        diagonal = jnp.pad(jnp.diag(alpha), ((0, 0), (0, 1)))
        bidiagonal = diagonal + jnp.pad(jnp.diag(beta), ((0, 0), (1, 0)))
        _, sigma, rotation = linalg.svd(bidiagonal)
        residual = beyond * jnp.abs(rotation[:, -1])
        rotation = rotation[:num_vectors]
        vectors = rotation[:, :-1] @ rights + rotation[:, -1:] * right[None]
    return sigma, residual, vectors


def _next(
    vector: Array, basis: Array, size: Size, draws: Array, index: Array
) -> tuple[Array, Array]:
    """Return a vector's normalized remainder after orthogonalization, and its length.

    One pass is enough if it removes little (Daniel, Gragg, Kaufman and Stewart, 1976).
    Otherwise there is a second pass ("twice is enough", Kahan). If that removes half of
    the rest, only rounding is left: a random direction replaces the vector, with length
    0, or zeros if the basis spans the space.

    Args:
      vector: ``[n]``, vector to orthogonalize.
      basis: ``[K, n]``, orthonormal or zero.
      size: number of entries of a vector before its padding.
      draws: ``[n + K]``, normal numbers.
      index: index of the vector, which selects its own random direction.
    """
    info = jnp.finfo(vector.dtype)
    once = _away(vector, basis)
    length = jnp.linalg.norm(once)

    def unit(vector: Array, length: Array) -> Array:
        return vector / jnp.where(length > 0, length, 1.0)

    def again() -> tuple[Array, Array]:
        twice = _away(once, basis)
        rest = jnp.linalg.norm(twice)
        is_spent = (rest <= length / 2) | (rest <= info.tiny**0.5)
        draw = lax.dynamic_slice_in_dim(draws, index, len(vector))
        draw = jnp.where(jnp.arange(len(vector)) < size, draw, 0)
        chosen = jnp.where(
            is_spent, unit(draw, jnp.linalg.norm(draw)), unit(twice, rest)
        )
        chosen = _away(_away(chosen, basis), basis)
        new = jnp.linalg.norm(chosen)
        has_room = new > info.eps**0.75
        return jnp.where(has_room, unit(chosen, new), 0), jnp.where(is_spent, 0, rest)

    def enough() -> tuple[Array, Array]:
        return unit(once, length), length

    is_clean = (length > jnp.linalg.norm(vector) / 2**0.5) & (length > info.tiny**0.5)
    return cond(~is_clean, again, enough)


def _away(vector: Array, basis: Array) -> Array:
    """Subtract a vector's projection on the span of orthonormal (or zero) rows."""
    return vector - (basis @ vector) @ basis


def _flat(
    matvec: Matvec, vectors: PyTree
) -> tuple[LinearMap, Array, Callable[[Array], PyTree]]:
    """Return the map between flat vectors, the flat vectors, and their unraveling."""
    vectors = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), vectors)
    unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], vectors))[1]
    rows = jax.vmap(lambda vector: ravel_pytree(vector)[0])(vectors)

    def apply(vector: Array) -> Array:
        return ravel_pytree(matvec(unravel(vector)))[0]

    return prepared(linear_map(apply, rows.shape[1:])), rows, unravel


def _near_one(rows: Array) -> Array:
    """Scale each row by the power of two that brings its largest entry near 1.

    Rows of squared singular values may be so short or long that their squares leave
    the range of float32. Powers of two round nothing.
    """
    _, exponent = jnp.frexp(jnp.max(jnp.abs(rows), 1, keepdims=True))
    return jnp.ldexp(rows, -exponent)


def _orthonormal(rows: Array, size: Size, draws: Array) -> Array:
    """Orthonormalize rows; rows beyond the dimension of the space become zeros.

    Each row lies in the span of the given rows up to it, as far as their rank allows.
    The result is the Q of a QR decomposition whose R has a nonnegative diagonal, by
    Gram-Schmidt: LAPACK's is up to a hundred times slower where its threads and those
    of XLA compete for the same cores.
    """

    def add(index: Array, basis: Array) -> Array:
        return basis.at[index].set(_next(rows[index], basis, size, draws, index)[0])

    return lax.fori_loop(0, rows.shape[0], add, jnp.zeros_like(rows))


def _rayleigh_ritz(images: Array, rows: Array, size: Size, draws: Array) -> Spectrum:
    """Return the singular values and vectors of a map on a subspace.

    Args:
      images: images of the rows under the map.
      rows: orthonormal, spanning the subspace.
      size: number of outputs of the map.
      draws: result of :func:`draws_for`.
    """
    count, num_outputs = images.shape
    if count == 1:
        return Spectrum(jnp.linalg.norm(images, axis=1), rows)
    if count <= num_outputs:
        small = images @ _orthonormal(images, size, draws).T
    else:
        small = jnp.pad(images, ((0, 0), (0, count - num_outputs)))
    rotation, sigma, _ = linalg.svd(small)
    return Spectrum(sigma, rotation.T @ rows)
