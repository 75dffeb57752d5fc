"""Influence functions in the space of parameters, without writing a Hessian.

The risk is ``L_S(theta) = mean_S l(f, y) + ridge/2 |theta - anchor|^2``. Its matrix is
the Gauss-Newton matrix ``J^T l'' J + ridge``, which is the Hessian of models that are
linear in their parameters. The Hessian of other models may have negative eigenvalues,
on which conjugate gradients may fail. A product takes one forward and three backward
passes; forward mode is not needed.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from unlearn_jax import linalg
from unlearn_jax.checks import check_counts
from unlearn_jax.influence._ntk import (
    OutputFn,
    by_params,
    in_batches,
    jacobian,
    positions,
    pull,
    push,
)
from unlearn_jax.influence._solvers import (
    CG,
    Solver,
    check_solver,
    conjugate_gradients,
)
from unlearn_jax.influence.dual import largest_step
from unlearn_jax.influence.risk import (
    OutputLoss,
    check_ridge,
    check_targets,
    count_forget,
    curvatures,
    slopes,
)
from unlearn_jax.losses import cross_entropy
from unlearn_jax.types import Array, InputError, Params, PyTree


class PrimalChange(NamedTuple):
    """Effect of removing samples on the parameters.

    Attributes:
      params: change of the parameters, like the trained parameters.
      residual: ``[]``, ``|A x - b| / |b|`` of the solved system.
    """

    params: Params
    residual: Array


def primal_change(
    apply_fn: OutputFn,
    variables: PyTree,
    images: Array,
    targets: Array,
    forget: Array,
    *,
    ridge: float | Array,
    anchor: Params | None = None,
    loss: OutputLoss = cross_entropy,
    num_forget: int | None = None,
    solver: Solver = CG(),  # noqa: B008
    batch_size: int = 128,
) -> PrimalChange:
    """Return the influence of removing samples on the parameters (arXiv 2605.11239).

    Solves ``hess L_R d theta = (N_F/N_R) grad L_F``. The Hessian is that of the
    retained samples; that of all samples would differ by the curvature of the forget
    samples. At a stationary point the right-hand side is ``-grad L_R``, so this is
    Newton's step and equals :func:`unlearn_jax.influence.dual_change`.

    Args:
      apply_fn: ``(variables, images) -> outputs``.
      variables: variables of the original model, at which all derivatives are taken.
      images: ``[N, ...]``.
      targets: ``[N]`` classes or ``[N, C]``, as the loss takes them.
      forget: ``[N]`` bool, the samples to remove.
      ridge: factor of the penalty ``ridge/2 |theta - anchor|^2`` of the original's
        training, positive.
      anchor: center of the penalty, like the trained parameters; zero by default, for
        weight decay.
      loss: loss, convex in the outputs.
      num_forget: number of forget samples (static); needed where the mask is traced.
      solver: :class:`unlearn_jax.influence.CG` needs only products with the Hessian;
        :class:`unlearn_jax.influence.Dense` writes the Hessian out, ``[P, P]``.
      batch_size: samples at a time; changes memory, not the value. ``Dense`` holds one
        Jacobian ``[C, P]`` per sample of a batch.

    Returns:
      The change.

    Raises:
      InputError: unusable hyperparameters or mask.
    """
    check_ridge(ridge)
    check_solver(solver)
    apply, params = by_params(apply_fn, variables)
    images = jnp.asarray(images)
    targets = jnp.asarray(targets)
    chex.assert_equal_shape_prefix([images, targets], 1)
    num_forget = count_forget(forget, num_forget, len(images))
    num_retain = len(images) - num_forget
    index_r = positions(~forget, num_retain)
    index_f = positions(forget, num_forget)
    images_f = images[index_f]
    outputs_f = forward(apply, params, images_f, batch_size=batch_size)
    check_targets(loss, targets, outputs_f.shape[-1])
    slopes_f = slopes(loss, outputs_f, targets[index_f]) / num_retain
    right = pull(apply, params, images_f, slopes_f, batch_size=batch_size)
    share = ridge * num_forget / num_retain
    right = _penalized(right, share, _from(params, anchor))
    images_r = images[index_r]
    outputs_r = forward(apply, params, images_r, batch_size=batch_size)
    bends = curvatures(loss, outputs_r, targets[index_r]) / num_retain
    system = partial(_hessian, apply, params, images_r, bends, ridge, batch_size)
    if isinstance(solver, CG):
        change = conjugate_gradients(system, right, solver)
    else:
        flat, unravel = ravel_pytree(right)
        matrix = dense_hessian(
            apply, params, images_r, bends, ridge=ridge, batch_size=batch_size
        )
        change = unravel(linalg.solve_positive(matrix, flat).astype(flat.dtype))
    left = jax.tree.map(jnp.subtract, system(change), right)
    size = norm(right)
    return PrimalChange(change, norm(left) / jnp.where(size > 0, size, 1.0))


class PrimalFit(NamedTuple):
    """Model trained to its optimum.

    Attributes:
      params: the trained parameters.
      stationarity: ``[]``, norm of the gradient divided by that of the mean loss alone:
        0 at the optimum.
    """

    params: Params
    stationarity: Array


def fit_primal(
    apply_fn: OutputFn,
    variables: PyTree,
    images: Array,
    targets: Array,
    *,
    ridge: float | Array,
    anchor: Params | None = None,
    loss: OutputLoss = cross_entropy,
    num_steps: int = 20,
    solver: CG = CG(),  # noqa: B008
    batch_size: int = 128,
) -> PrimalFit:
    """Train a model to its optimum by the Gauss-Newton method.

    Minimizes ``mean l(f, y) + ridge/2 |theta - anchor|^2``. A model that is linear in
    its parameters, such as one from :func:`unlearn_jax.influence.linearize`, has a
    single optimum, that of :func:`unlearn_jax.influence.fit_dual`. Other models end in
    a local optimum near their start. A step is halved, up to 10 times, until it lowers
    the objective by Armijo's rule, and is skipped if none of these does.

    Args:
      apply_fn: ``(variables, images) -> outputs``.
      variables: variables to start from.
      images: ``[N, ...]``.
      targets: ``[N]`` or ``[N, C]``, as the loss takes them.
      ridge: factor of the penalty, positive.
      anchor: center of the penalty, like the trained parameters; zero by default.
      loss: loss, convex in the outputs.
      num_steps: number of Newton steps.
      solver: solver of every step.
      batch_size: samples at a time.

    Returns:
      The fit.

    Raises:
      InputError: unusable hyperparameters.
    """
    check_ridge(ridge)
    check_counts(0, num_steps=num_steps)
    if not isinstance(solver, CG):
        raise InputError(f"fit_primal takes influence.CG(), got {solver!r}")
    apply, params = by_params(apply_fn, variables)
    images = jnp.asarray(images)
    targets = jnp.asarray(targets)
    chex.assert_equal_shape_prefix([images, targets], 1)
    count = len(images)
    # Rounding limits the fit to this fraction of the first gradient.
    floor = jnp.finfo(ravel_pytree(params)[0].dtype).eps

    def gradient(params: Params, outputs: Array) -> tuple[Params, Array]:
        slope = slopes(loss, outputs, targets) / count
        data = pull(apply, params, images, slope, batch_size=batch_size)
        return _penalized(data, ridge, _from(params, anchor)), norm(data)

    def step(params: Params, _: None) -> tuple[Params, None]:
        outputs = forward(apply, params, images, batch_size=batch_size)
        slope, _size = gradient(params, outputs)
        bends = curvatures(loss, outputs, targets) / count
        system = partial(_hessian, apply, params, images, bends, ridge, batch_size)
        back = jax.tree.map(jnp.negative, slope)
        direction = conjugate_gradients(system, back, solver, atol=floor * first)

        def objective(size: Array) -> Array:
            moved = jax.tree.map(lambda w, d: w + size * d, params, direction)
            losses = loss(forward(apply, moved, images, batch_size=batch_size), targets)
            return jnp.mean(losses) + ridge / 2 * norm(_from(moved, anchor)) ** 2

        products = jax.tree.map(jnp.vdot, slope, direction)
        down = sum(jax.tree.leaves(products))
        size = largest_step(objective, jnp.asarray(down), outputs.dtype)
        return jax.tree.map(lambda w, d: w + size * d, params, direction), None

    outputs = forward(apply, params, images, batch_size=batch_size)
    first = norm(gradient(params, outputs)[0])
    params = lax.scan(step, params, None, length=num_steps)[0]
    outputs = forward(apply, params, images, batch_size=batch_size)
    slope, size = gradient(params, outputs)
    return PrimalFit(params, norm(slope) / size)


def forward(
    apply_fn: OutputFn, variables: PyTree, images: Array, *, batch_size: int = 128
) -> Array:
    """Return the outputs ``[N, C]`` of all images, batch by batch."""
    images = jnp.asarray(images)

    def run(rows: Array) -> Array:
        return apply_fn(variables, images[rows])

    return _mapped(run, len(images), batch_size)


def forward_change(
    apply_fn: OutputFn,
    variables: PyTree,
    change: Params,
    images: Array,
    *,
    batch_size: int = 128,
) -> Array:
    """Return the outputs' first-order change ``J(x) d theta [N, C]``, batch by batch.

    Args:
      apply_fn: ``(variables, images) -> outputs``.
      variables: point at which the Jacobian is taken.
      change: change d theta, like the trained parameters.
      images: ``[N, ...]``.
      batch_size: images at a time.
    """
    images = jnp.asarray(images)

    def run(rows: Array) -> Array:
        return push(apply_fn, variables, change, images[rows])

    return _mapped(run, len(images), batch_size)


def dense_hessian(
    apply_fn: OutputFn,
    variables: PyTree,
    images: Array,
    bends: Array,
    *,
    ridge: float | Array,
    batch_size: int = 128,
) -> Array:
    """Return ``sum_i J_i^T bends_i J_i + ridge``, ``[P, P]``, for small models.

    Parameters are raveled as by ``ravel_pytree``.
    """
    apply, params = by_params(apply_fn, variables)
    index, present = in_batches(len(images), batch_size)
    exact = lax.Precision.HIGHEST

    def step(total: Array, batch: tuple[Array, Array]) -> tuple[Array, None]:
        rows, weight = batch
        wide = jacobian(apply, params, images[rows])
        weighted = weight[:, None, None] * bends[rows]
        bent = jnp.einsum("nij,njp->nip", weighted, wide, precision=exact)
        new = jnp.einsum("nip,niq->pq", wide, bent, precision=exact)
        return total + new, None

    size = ravel_pytree(params)[0].size
    start = (ridge * jnp.eye(size)).astype(bends.dtype)
    return lax.scan(step, start, (index, present.astype(bends.dtype)))[0]


def _hessian(
    apply: OutputFn,
    params: Params,
    images: Array,
    bends: Array,
    ridge: float | Array,
    batch_size: int,
    vector: Params,
) -> Params:
    """Return ``sum_i J_i^T bends_i J_i v + ridge v``."""
    index, present = in_batches(len(images), batch_size)
    exact = lax.Precision.HIGHEST

    def step(total: Params, batch: tuple[Array, Array]) -> tuple[Params, None]:
        rows, weight = batch
        outputs, pull_back = jax.vjp(lambda p: apply(p, images[rows]), params)
        moved = jax.vjp(pull_back, jnp.zeros_like(outputs))[1]((vector,))[0]
        weighted = weight[:, None, None] * bends[rows]
        bent = jnp.einsum("nij,nj->ni", weighted, moved, precision=exact)
        return jax.tree.map(jnp.add, total, pull_back(bent)[0]), None

    start = jax.tree.map(lambda leaf: (ridge * leaf).astype(leaf.dtype), vector)
    return lax.scan(step, start, (index, present.astype(bends.dtype)))[0]


def _mapped(run: Callable[[Array], Array], count: int, batch_size: int) -> Array:
    """Concatenate the results of a function of positions, batch by batch."""
    index, _ = in_batches(count, batch_size)
    outputs = lax.map(run, index)
    return outputs.reshape(-1, outputs.shape[-1])[:count]


def _penalized(tree: Params, ridge: float | Array, params: Params) -> Params:
    """Return ``tree + ridge params`` in the types of ``tree``."""
    return jax.tree.map(lambda g, w: (g + ridge * w).astype(g.dtype), tree, params)


def _from(params: Params, anchor: Params | None) -> Params:
    return params if anchor is None else jax.tree.map(jnp.subtract, params, anchor)


def norm(tree: Params) -> Array:
    """Return the Euclidean norm ``[]`` of all leaves together."""
    squares = [jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares))  # pyright: ignore[reportArgumentType]
