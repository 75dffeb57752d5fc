"""Influence functions in the space of samples (arXiv 2605.11239).

Let the outputs be linear in the parameters, ``f(x) = f_0(x) + J(x) (theta - anchor)``.
The risk over a set S is

    ``L_S(theta) = mean_S l(f, y) + ridge/2 |theta - anchor|^2``.

Its minimizer over D is ``theta = anchor + J_D^T alpha`` with
``alpha = -(1/(N ridge)) l'(f_D, y)``. So a change of the parameters is ``J_D^T`` times
a change of ``alpha [N, C]``, and only the kernel ``K = J J^T`` is needed. The number of
unknowns is that of the samples' outputs, whatever the number of parameters.

Removing F from D = R + F means minimizing ``L_R``. A Newton step on ``L_R`` from
``theta`` has ``d alpha_F = -alpha_F`` and, with ``H = l''(f_R, y) / N_R``,

    ``(H K_rr + ridge) d alpha_R = (N_F/N_R) ridge alpha_R + H K_rf alpha_F``.

With ``H = B B^T`` the solution has the form ``d alpha_R = (N_F/N_R) alpha_R + B z``:
the first term is the mean over fewer samples, and ``z`` solves a symmetric system whose
eigenvalues are at least ``ridge``::

    (ridge + B^T K_rr B) z = B^T (K_rf alpha_F - (N_F/N_R) K_rr alpha_R)

For squared loss the step is exact retraining.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax.numpy as jnp
from jax import lax

from unlearn_jax import linalg
from unlearn_jax.checks import check_counts
from unlearn_jax.influence._ntk import kernel_block, kernel_product, positions
from unlearn_jax.influence._solvers import (
    CG,
    Dense,
    Solver,
    check_solver,
    conjugate_gradients,
)
from unlearn_jax.influence.risk import (
    OutputLoss,
    check_ridge,
    check_targets,
    count_forget,
    half_curvatures,
    slopes,
)
from unlearn_jax.losses import cross_entropy
from unlearn_jax.types import Array, InputError

_HALVINGS = 10  # most halvings of a Newton step
_SUFFICIENT = 1e-4  # Armijo's fraction of the decrease that the slope predicts


class DualChange(NamedTuple):
    """Effect of removing samples, as coefficients of the samples' Jacobians.

    Attributes:
      alpha: ``[N, C]``, coefficients of the original model:
        ``theta - anchor = J_D^T alpha``, if it is stationary.
      change: ``[N, C]``, coefficients of the change:
        ``theta_new - theta = J_D^T change``; equal to ``-alpha`` on forget samples.
      residual: ``[]``, ``|A z - b| / |b|`` of the solved system; NaN if the system
        could not be solved.
    """

    alpha: Array
    change: Array
    residual: Array


def dual_change(
    kernel: Array,
    outputs: Array,
    targets: Array,
    forget: Array,
    *,
    ridge: float | Array,
    loss: OutputLoss = cross_entropy,
    num_forget: int | None = None,
    solver: Solver = Dense(),  # noqa: B008
) -> DualChange:
    """Return the influence of removing samples, from kernel and outputs alone.

    For a network, use the kernel at its trained parameters. If the network is
    stationary, ``theta - anchor = J_D^T alpha`` holds, and the step is a Gauss-Newton
    step. If it is not stationary, the result is that of another model;
    :func:`unlearn_jax.influence.guard` measures the difference.

    Args:
      kernel: ``[N, C, N, C]``, or ``[N, N]`` shared by all outputs.
      outputs: ``[N, C]``, outputs of the original model.
      targets: ``[N]`` classes or ``[N, C]``, as the loss takes them.
      forget: ``[N]`` bool, the samples to remove.
      ridge: penalty of the original's training, positive; its weight decay, if that was
        coupled (an L2 penalty).
      loss: loss, convex in the outputs, such as
        :func:`unlearn_jax.influence.squared_error`.
      num_forget: number of forget samples (static); needed where the mask is traced.
      solver: :class:`unlearn_jax.influence.Dense` factorizes a matrix of ``N_R C``
        rows; :class:`unlearn_jax.influence.CG` only needs products with the kernel.

    Returns:
      The change. Pass its ``change`` to :func:`output_change` for the change of
      outputs, or to :func:`unlearn_jax.influence.pull` for that of parameters.

    Raises:
      InputError: unusable hyperparameters or mask.

    >>> x = jnp.array([[1.0], [2.0], [3.0]])
    >>> y = jnp.array([[1.0], [3.0], [3.0]])
    >>> fit = lambda x, y: float((x.T @ y)[0, 0] / ((x.T @ x)[0, 0] + len(x) * 0.1))
    >>> w = fit(x, y)  # ridge regression by hand
    >>> forget = jnp.array([False, True, False])
    >>> loss = lambda f, y: jnp.sum((f - y) ** 2, -1) / 2
    >>> step = dual_change(x @ x.T, w * x, y, forget, ridge=0.1, loss=loss).change
    >>> abs(w + float((x.T @ step)[0, 0]) - fit(x[~forget], y[~forget])) < 1e-6
    True
    """
    check_ridge(ridge)
    check_solver(solver)
    kernel = jnp.asarray(kernel)
    outputs = jnp.asarray(outputs)
    targets = jnp.asarray(targets)
    chex.assert_rank([kernel, outputs], [{2, 4}, 2])
    chex.assert_equal_shape_prefix([outputs, targets, kernel], 1)
    check_targets(loss, targets, outputs.shape[-1])
    num_samples = len(outputs)
    num_forget = count_forget(forget, num_forget, num_samples)
    num_retain = num_samples - num_forget
    index_r = positions(~forget, num_retain)
    index_f = positions(forget, num_forget)
    alpha = -slopes(loss, outputs, targets) / (num_samples * ridge)
    half = half_curvatures(loss, outputs[index_r], targets[index_r])
    half = half / jnp.sqrt(num_retain)
    kernel_rr = kernel_block(kernel, index_r, index_r)
    rescaled = num_forget / num_retain * alpha[index_r]
    pushed = kernel_product(kernel_block(kernel, index_r, index_f), alpha[index_f])
    right = _transposed(half, pushed - kernel_product(kernel_rr, rescaled))
    z, residual = _solve(kernel_rr, half, right, ridge, solver)
    change = jnp.zeros_like(alpha).at[index_r].set(rescaled + _by_sample(half, z))
    change = change.at[index_f].set(-alpha[index_f])
    return DualChange(alpha, change, residual)


class DualFit(NamedTuple):
    """Linearized model, trained to its optimum.

    Attributes:
      alpha: ``[N, C]``, coefficients of ``theta = anchor + J^T alpha``.
      outputs: ``[N, C]``, outputs of the training samples.
      stationarity: ``[]``, ``|ridge alpha + l'/N| / |l'/N|``: 0 at the optimum.
    """

    alpha: Array
    outputs: Array
    stationarity: Array


def fit_dual(
    kernel: Array,
    targets: Array,
    *,
    ridge: float | Array,
    offsets: Array | None = None,
    start: Array | None = None,
    loss: OutputLoss = cross_entropy,
    num_steps: int = 30,
    solver: Solver = Dense(),  # noqa: B008
) -> DualFit:
    """Train ``f = offsets + K alpha`` to its optimum by Newton's method.

    Minimizes ``mean l(f, y) + ridge/2 alpha^T K alpha``. The result is that of
    retraining, and serves as the oracle of :func:`dual_change`. For squared loss one
    step is enough. A step is halved, up to 10 times, until it lowers the objective by
    Armijo's rule, and is skipped if none of these does.

    Args:
      kernel: ``[N, C, N, C]``, or ``[N, N]`` shared by all outputs.
      targets: ``[N]`` classes or ``[N, C]``, as the loss takes them.
      ridge: penalty, positive.
      offsets: ``[N, C]``, outputs at the anchor; zeros by default, for which
        ``targets`` must be ``[N, C]``.
      start: ``[N, C]``, coefficients to start from; zeros by default.
      loss: loss, convex in the outputs.
      num_steps: number of Newton steps; the fit no longer moves once converged.
      solver: :class:`unlearn_jax.influence.Dense` factorizes a matrix of ``N C`` rows;
        :class:`unlearn_jax.influence.CG` only needs products with the kernel.

    Returns:
      The fit.

    Raises:
      InputError: unusable hyperparameters, classes without ``offsets``, or classes out
        of range.
    """
    check_ridge(ridge)
    check_solver(solver)
    check_counts(0, num_steps=num_steps)
    kernel = jnp.asarray(kernel)
    targets = jnp.asarray(targets)
    if offsets is None:
        if targets.ndim != 2:
            raise InputError(
                f"targets of shape {targets.shape} do not tell the number of outputs:"
                " pass offsets [N, C], the outputs at the anchor"
            )
        offsets = jnp.zeros(targets.shape, jnp.result_type(targets, float))
    offsets = jnp.asarray(offsets)
    start = jnp.zeros_like(offsets) if start is None else jnp.asarray(start)
    chex.assert_rank([kernel, offsets], [{2, 4}, 2])
    chex.assert_equal_shape([offsets, start])
    chex.assert_equal_shape_prefix([offsets, targets, kernel], 1)
    check_targets(loss, targets, offsets.shape[-1])
    count = len(offsets)

    def step(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        alpha, moved = carry
        outputs = offsets + moved
        target = -slopes(loss, outputs, targets) / (count * ridge)
        half = half_curvatures(loss, outputs, targets) / jnp.sqrt(count)
        right = _transposed(half, moved - kernel_product(kernel, target))
        z, _residual = _solve(kernel, half, right, ridge, solver)
        direction = target + _by_sample(half, z) - alpha
        along = kernel_product(kernel, direction)
        slope = jnp.sum(along * ridge * (alpha - target))

        def objective(size: Array) -> Array:
            penalty = jnp.sum((alpha + size * direction) * (moved + size * along))
            return jnp.mean(loss(outputs + size * along, targets)) + ridge / 2 * penalty

        size = largest_step(objective, slope, alpha.dtype)
        return (alpha + size * direction, moved + size * along), None

    first = (start, kernel_product(kernel, start))
    alpha = lax.scan(step, first, None, length=num_steps)[0][0]
    outputs = offsets + kernel_product(kernel, alpha)
    slope = slopes(loss, outputs, targets) / count
    stationarity = jnp.linalg.norm(ridge * alpha + slope) / jnp.linalg.norm(slope)
    return DualFit(alpha, outputs, stationarity)


def output_change(kernel: Array, change: Array) -> Array:
    """Return the change of outputs ``K(x, D) d alpha``, ``[T, C]``.

    Args:
      kernel: ``[T, C, N, C]`` or ``[T, N]``, kernel of the queried samples with those
        of D.
      change: ``[N, C]``, change of the coefficients, :attr:`DualChange.change`.
    """
    return kernel_product(kernel, change)


def loss_change(
    outputs: Array, targets: Array, moved: Array, *, loss: OutputLoss = cross_entropy
) -> Array:
    """Return the change ``[T]`` of losses, to first order: ``l'(f, y) . df``.

    Args:
      outputs: ``[T, C]``, outputs of the original model.
      targets: ``[T]`` classes or ``[T, C]``, as the loss takes them.
      moved: ``[T, C]``, change of the outputs. If it is large, use
        ``loss(outputs + moved) - loss(outputs)`` instead.
      loss: loss of outputs and targets.
    """
    outputs = jnp.asarray(outputs)
    targets = jnp.asarray(targets)
    moved = jnp.asarray(moved)
    chex.assert_equal_shape([outputs, moved])
    return jnp.sum(slopes(loss, outputs, targets) * moved, -1)


def penalty_change(
    kernel: Array, alpha: Array, change: Array, *, ridge: float | Array
) -> Array:
    """Return the change ``[]`` of the penalty ``ridge/2 |theta - anchor|^2``.

    It is of first order: ``ridge alpha^T K d alpha``.
    """
    return ridge * jnp.sum(alpha * kernel_product(kernel, change))


def _solve(
    kernel: Array, half: Array, right: Array, ridge: float | Array, solver: Solver
) -> tuple[Array, Array]:
    """Solve ``(ridge + B^T K B) z = right``; return z and the relative residual."""

    def system(z: Array) -> Array:
        product = kernel_product(kernel, _by_sample(half, z))
        return ridge * z + _transposed(half, product)

    if isinstance(solver, CG):
        z = conjugate_gradients(system, right, solver)
    else:
        matrix = _matrix(kernel, half, ridge)
        z = linalg.solve_positive(matrix, right.reshape(-1)).reshape(right.shape)
    size = jnp.linalg.norm(right)
    return z, jnp.linalg.norm(system(z) - right) / jnp.where(size > 0, size, 1.0)


def _matrix(kernel: Array, half: Array, ridge: float | Array) -> Array:
    """Return ``ridge + B^T K B`` written out, ``[R C, R C]``."""
    count, classes = half.shape[:2]
    blocks = "aci,ab,bcj->aibj" if kernel.ndim == 2 else "aci,acbd,bdj->aibj"
    dense = jnp.einsum(
        blocks, half, kernel, half, precision=lax.Precision.HIGHEST
    ).reshape(count * classes, -1)
    return dense.at[jnp.diag_indices(len(dense))].add(ridge)


def _by_sample(matrices: Array, vectors: Array) -> Array:
    """Multiply matrices ``[N, C, C]`` with vectors ``[N, C]``."""
    return jnp.einsum("nij,nj->ni", matrices, vectors, precision=lax.Precision.HIGHEST)


def _transposed(matrices: Array, vectors: Array) -> Array:
    """Multiply the transposes of matrices ``[N, C, C]`` with vectors ``[N, C]``."""
    return jnp.einsum("nji,nj->ni", matrices, vectors, precision=lax.Precision.HIGHEST)


def largest_step(
    objective: Callable[[Array], Array], slope: Array, dtype: Any
) -> Array:
    """Return the largest of 1, 1/2, 1/4, ... that Armijo's rule accepts, or 0.

    Args:
      objective: objective as a function of the step's size, ``[] -> []``.
      slope: ``[]``, derivative of the objective at 0.
      dtype: dtype of the step.
    """
    sizes = 0.5 ** jnp.arange(_HALVINGS + 1, dtype=dtype)
    before = objective(jnp.zeros((), dtype))
    after = lax.map(objective, sizes)
    # Near the optimum the objective changes by less than its rounding error.
    rounding = 16 * jnp.finfo(dtype).eps * jnp.abs(before)
    lower = after <= before + rounding + _SUFFICIENT * sizes * slope
    return jnp.where(jnp.any(lower), sizes[jnp.argmax(lower)], 0.0)
