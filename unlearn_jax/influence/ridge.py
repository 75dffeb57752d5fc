"""Kernel ridge regression from which any samples can be removed exactly, without refitting.

With a kernel ``K [N, N]`` and targets ``Y [N, C]`` the fit minimizes
``sum_i w_i |f(x_i) - y_i|^2 + lambda |theta|^2`` (the **sum** over samples, so that
lambda stays what it is when samples go). For weights of 1::

    G = (K + lambda I)^-1,   alpha = G Y,   f(x) = k(x, D) alpha

    without the samples C:   alpha_-C = alpha - G[:, C] (G[C, C])^-1 alpha[C]                 exact, |C|^3
    without one sample i:    f_-i(x_i) = y_i - alpha_i / G_ii                                 leave-one-out

Both follow from the inverse of a block matrix; removing one sample after another
updates G by a matrix of rank one. These are exact retrainings, not influence estimates,
which for the squared loss coincide with them (arXiv 2605.11239). All functions are pure
and traceable. Use float64 (``jax.enable_x64``): on 900 digits with 512 random features,
outputs after removing up to 90 samples agreed with refitting to 1e-12, in float32 to
3e-4 (lambda 0.01) or 4e-5 (0.1).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.linalg import cho_factor, cho_solve, solve_triangular

from unlearn_jax.types import Array, InputError


class RidgeFit(NamedTuple):
    """A fitted kernel ridge regression, of samples scaled by the square roots ``s`` of their weights.

    Attributes:
      coefficients: ``[N, C]`` dual coefficients: ``f(x) = k(x, D) coefficients``, for
        weights of 1 alpha itself.
      alpha: ``[N, C]`` those of the scaled samples, ``coefficients = s alpha``.
      factor: ``[N, N]`` lower Cholesky factor of ``s K s + lambda I``, whose inverse is
        G.
      scale: ``[N]`` s.
    """

    coefficients: Array
    alpha: Array
    factor: Array
    scale: Array


class Candidates(NamedTuple):
    """What removing any of F samples does to the outputs at Z points; nothing else of the fit is needed.

    Attributes:
      outputs: ``[Z, C]`` at present.
      gain: ``[Z, F]`` ``k(z, D) s G[:, F]``: what one unit of a candidate's alpha
        contributes.
      inverse: ``[F, F]`` the candidates' block of G.
      alpha: ``[F, C]`` theirs.
    """

    outputs: Array
    gain: Array
    inverse: Array
    alpha: Array


def random_relu_features(
    key: Array,
    inputs: Array,
    num_features: int,
    *,
    weight_std: float = 2.0,
    bias_std: float = 0.5,
) -> Array:
    """Features of one random ReLU layer: a kernel model's training seed, as initial weights are a network's.

    ``phi(x) = relu(x W + b) / sqrt(P)`` with ``W ~ N(0, weight_std^2 * 2 / D)`` and
    ``b ~ N(0, bias_std^2)``. The kernel is ``phi(x) . phi(x')``; ridge regression on it
    trains the last layer of a network whose first one stays.

    Args:
      key: the same key gives the same features for any inputs.
      inputs: ``[..., D]``, about [0, 1] for the defaults.
      num_features: P.
      weight_std: relative to He's initialization.
      bias_std: of the biases.

    Returns:
      ``[..., P]`` in the inputs' dtype.

    Raises:
      InputError: no features asked for, or inputs that are not floats.
    """
    if num_features < 1:
        raise InputError(
            f"{num_features} random features asked for: choose at least 1, such as 512"
        )
    inputs = jnp.asarray(inputs)
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise InputError(
            f"inputs are {inputs.dtype}: pass floats, pixels divided by 255"
        )
    key_weights, key_biases = jax.random.split(key)
    depth = inputs.shape[-1]
    weights = jax.random.normal(key_weights, (depth, num_features), inputs.dtype) * (
        weight_std * (2 / depth) ** 0.5
    )
    biases = jax.random.normal(key_biases, (num_features,), inputs.dtype) * bias_std
    hidden = inputs @ weights
    return (
        jax.nn.relu(hidden + jnp.broadcast_to(biases, hidden.shape)) / num_features**0.5
    )


def fit(
    kernel: Array, targets: Array, *, ridge: float | Array, weights: Array | None = None
) -> RidgeFit:
    """Fits kernel ridge regression.

    Args:
      kernel: ``[N, N]`` symmetric, positive semi-definite.
      targets: ``[N, C]``.
      ridge: lambda, positive.
      weights: ``[N]`` of the samples' squared errors, not negative: counts of a
        bootstrap, say. A weight of 0 is exactly a sample that is not there. 1 each if
        None.

    Returns:
      The fit. Costs one factorization of ``[N, N]``.

    Raises:
      InputError: shapes that do not fit, a ridge that is not positive, negative
        weights.

    >>> model = fit(jnp.array([[2.0, 1.0], [1.0, 2.0]]), jnp.array([[1.0], [0.0]]), ridge=1.0)
    >>> print(model.coefficients[:, 0].round(4))
    [ 0.375 -0.125]
    """
    kernel, targets = jnp.asarray(kernel), jnp.asarray(targets)
    if (
        kernel.ndim != 2
        or kernel.shape[0] != kernel.shape[1]
        or targets.shape[:-1] != kernel.shape[:1]
    ):
        raise InputError(
            f"kernel {kernel.shape} and targets {targets.shape}: pass [N, N] and [N, C]"
            " of the same samples"
        )
    if not isinstance(ridge, Tracer) and not ridge > 0:
        raise InputError(
            f"the ridge is {ridge}: choose a positive one, or samples cannot be removed"
            " exactly"
        )
    weights = (
        jnp.ones(len(kernel), kernel.dtype)
        if weights is None
        else jnp.asarray(weights, kernel.dtype)
    )
    if weights.shape != kernel.shape[:1]:
        raise InputError(
            f"weights have shape {weights.shape}: pass one for each of the"
            f" {len(kernel)} samples"
        )
    if not isinstance(weights, Tracer) and not np.all(np.asarray(weights) >= 0):
        raise InputError("weights of samples must not be negative")
    scale = jnp.sqrt(weights)
    eye = jnp.eye(len(kernel), dtype=kernel.dtype)
    factor = jnp.linalg.cholesky(scale[:, None] * kernel * scale[None, :] + ridge * eye)
    alpha = cho_solve((factor, True), scale[:, None] * targets)
    return RidgeFit(scale[:, None] * alpha, alpha, factor, scale)


def predict(cross: Array, coefficients: Array) -> Array:
    """Outputs ``[Z, C]`` at new points, from ``cross [Z, N]`` (kernel of points with samples) and coefficients."""
    return cross @ coefficients


def leave_one_out(model: RidgeFit, kernel: Array, targets: Array) -> Array:
    """Each sample's prediction by the model fitted without it.

    ``f_-i(x_i) = y_i - (y_i - f(x_i)) / (lambda G_ii)``, which for weights of 1 is
    ``y_i - alpha_i / G_ii``.

    Args:
      model: the fit.
      kernel: ``[N, N]`` it was fitted to.
      targets: ``[N, C]`` it was fitted to.

    Returns:
      ``[N, C]``. A sample of weight 0, which the fit does without, has its plain
      prediction.

    Raises:
      InputError: other shapes than those fitted.
    """
    targets, there = jnp.asarray(targets), model.scale > 0
    if kernel.shape != model.factor.shape or targets.shape != model.alpha.shape:
        raise InputError(
            f"kernel {kernel.shape}, targets {targets.shape}: pass what was fitted,"
            f" {model.factor.shape} and {model.alpha.shape}"
        )
    half = solve_triangular(
        model.factor, jnp.eye(len(model.factor), dtype=model.factor.dtype), lower=True
    )
    diagonal = jnp.sum(half**2, 0)
    shift = model.alpha / jnp.where(there, model.scale * diagonal, 1.0)[:, None]
    return jnp.where(there[:, None], targets - shift, kernel @ model.coefficients)


def down_date(model: RidgeFit, index: Array, removed: Array | None = None) -> Array:
    """Dual coefficients of the model fitted without some samples, exactly.

    ``coefficients - s G[:, C] (G[C, C])^-1 alpha[C]``. Many subsets at once: ``vmap``
    over ``index``, or over ``removed`` for subsets of different sizes.

    Args:
      model: the fit.
      index: ``[F]`` integers, different samples.
      removed: ``[F]`` bool, which of them to remove; all if None.

    Returns:
      ``[N, C]``; zero for removed samples (to rounding). Costs ``N^2 F`` for the
      columns of G, then ``F^3``.

    Raises:
      InputError: shapes that do not fit.
    """
    index = _check_index(index, model)
    columns = _columns(model, index)
    change = _solve(columns[index], model.alpha[index], _mask(removed, index.shape))
    return model.coefficients - model.scale[:, None] * (columns @ change)


def candidates(model: RidgeFit, cross: Array, index: Array) -> Candidates:
    """Gathers what removals among ``index`` can change at the points of ``cross``.

    Args:
      model: the fit.
      cross: ``[Z, N]`` kernel of the points with the samples.
      index: ``[F]`` integers, different samples.

    Returns:
      The candidates; removing any of them costs at most ``F^3 + Z F C`` from here on,
      whatever N.

    Raises:
      InputError: shapes that do not fit.
    """
    index, cross = _check_index(index, model), jnp.asarray(cross)
    if cross.ndim != 2 or cross.shape[1] != len(model.scale):
        raise InputError(
            f"cross kernel has shape {cross.shape}: pass [Z, {len(model.scale)}],"
            " points by samples"
        )
    columns = _columns(model, index)
    return Candidates(
        outputs=cross @ model.coefficients,
        gain=cross @ (model.scale[:, None] * columns),
        inverse=columns[index],
        alpha=model.alpha[index],
    )


def outputs_without(state: Candidates, removed: Array) -> Array:
    """Outputs ``[Z, C]`` after removing a subset ``removed [F]`` bool in one solve; ``vmap`` for many subsets."""
    change = _solve(state.inverse, state.alpha, _mask(removed, state.alpha.shape[:1]))
    return state.outputs - state.gain @ change


def outputs_without_one_more(state: Candidates) -> Array:
    """Outputs ``[F, Z, C]`` if one more candidate were removed, for each; the present ones where it is gone already."""
    step = state.alpha / _pivots(state)[:, None]
    return state.outputs[None] - state.gain.T[:, :, None] * step[:, None, :]


def remove_one(state: Candidates, position: Array) -> Candidates:
    """Removes one candidate by a rank-one down-date, exactly; nothing changes if it is gone already.

    ``G - G[:, i] G[i, :] / G_ii`` and likewise for gain, alpha and outputs. Costs
    ``(F + Z)(F + C)``.

    Args:
      state: the candidates.
      position: ``[]`` integer in 0..F-1, among the candidates.

    Returns:
      The candidates left; the removed one's row and column are zero.
    """
    pivot = _pivots(state)[position]
    row, step = state.inverse[position] / pivot, state.alpha[position] / pivot
    kept = (jnp.arange(len(row)) != position).astype(row.dtype)
    return Candidates(
        outputs=state.outputs - jnp.outer(state.gain[:, position], step),
        gain=(state.gain - jnp.outer(state.gain[:, position], row)) * kept[None, :],
        inverse=(state.inverse - jnp.outer(state.inverse[:, position], row))
        * jnp.outer(kept, kept),
        alpha=(state.alpha - jnp.outer(state.inverse[:, position], step))
        * kept[:, None],
    )


def outputs_with_one_back(state: Candidates, removed: Array) -> Array:
    """Outputs if one sample of a removed subset had stayed, for each: all from a single inverse of its block.

    With ``P = (G[C, C])^-1`` and ``beta = P alpha[C]``, putting i back makes beta
    ``beta - P[:, i] beta_i / P_ii``.

    Args:
      state: the candidates before any removal.
      removed: ``[F]`` bool.

    Returns:
      ``[F, Z, C]``; for candidates outside the subset, the outputs without the subset.

    Raises:
      InputError: shapes that do not fit.
    """
    removed = _mask(removed, state.alpha.shape[:1])
    inside = removed[:, None] & removed[None, :]
    eye = jnp.eye(len(removed), dtype=state.inverse.dtype)
    inverse = cho_solve(
        cho_factor(jnp.where(inside, state.inverse, eye), lower=True), eye
    )
    change = inverse @ jnp.where(removed[:, None], state.alpha, 0.0)
    without = state.outputs - state.gain @ change
    given_back = state.gain @ jnp.where(inside, inverse, 0.0)  # [Z, F]
    step = change / jnp.diagonal(inverse)[:, None]
    return without[None] + given_back.T[:, :, None] * step[:, None, :]


def _columns(model: RidgeFit, index: Array) -> Array:
    """``G[:, F]``, which is all of G that removals need: ``[N, F]``."""
    return cho_solve(
        (model.factor, True),
        jnp.eye(len(model.scale), dtype=model.factor.dtype)[:, index],
    )


def _solve(block: Array, alpha: Array, removed: Array) -> Array:
    """``(G[C, C])^-1 alpha[C]`` inside ``[F, C]``, zero outside the subset."""
    inside = removed[:, None] & removed[None, :]
    padded = jnp.where(inside, block, jnp.eye(len(removed), dtype=block.dtype))
    return cho_solve(
        cho_factor(padded, lower=True), jnp.where(removed[:, None], alpha, 0.0)
    )


def _pivots(state: Candidates) -> Array:
    """``[F]`` diagonal of the block; 1 for removed candidates, whose numerators are 0."""
    diagonal = jnp.diagonal(state.inverse)
    return jnp.where(diagonal > 0, diagonal, 1.0)


def _check_index(index: Array, model: RidgeFit) -> Array:
    index = jnp.asarray(index)
    if (
        index.ndim != 1
        or not index.size
        or not jnp.issubdtype(index.dtype, jnp.integer)
    ):
        raise InputError(
            f"index is {index.dtype} of shape {index.shape}: pass [F] integers,"
            " positions of samples"
        )
    if not isinstance(index, Tracer):
        values, count = (
            np.asarray(index),
            len(model.scale),
        )  # not with jnp, which under jit would trace them
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= count or len(np.unique(values)) < len(values):
            raise InputError(
                f"index runs from {low} to {high}: pass different positions in"
                f" 0..{count - 1}"
            )
    return index


def _mask(removed: Array | None, shape: tuple[int, ...]) -> Array:
    removed = jnp.ones(shape, bool) if removed is None else jnp.asarray(removed)
    if removed.dtype != bool or removed.shape != shape:
        raise InputError(
            f"removed is {removed.dtype} of shape {removed.shape}: pass a boolean mask"
            f" of shape {shape}"
        )
    return removed
