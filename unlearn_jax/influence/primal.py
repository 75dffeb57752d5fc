"""Influence functions in the space of parameters: Gauss-Newton steps that never write a Hessian.

The risk is that of :mod:`unlearn_jax.influence.dual`, its Hessian
``J^T l'' J + ridge``: exact for models that are linear in their parameters, Gauss and
Newton's for others, where the true one may have negative eigenvalues and conjugate
gradients may fail. Its products take one pass forward and three backward; forward mode
is not needed.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import cho_factor, cho_solve
from jax.scipy.sparse.linalg import cg

from unlearn_jax.influence._ntk import (
    OutputFn,
    in_batches,
    jacobian,
    positions,
    pull,
    push,
)
from unlearn_jax.influence.dual import Solver, largest_step
from unlearn_jax.influence.risk import (
    OutputLoss,
    check_ridge,
    check_solver,
    count_forget,
    curvatures,
    slopes,
)
from unlearn_jax.losses import cross_entropy
from unlearn_jax.types import Array, Params


class PrimalChange(NamedTuple):
    """What removing samples does to the parameters.

    Attributes:
      params: the change, like the parameters.
      residual: ``[]``, ``|A x - b| / |b|`` of the system that was solved.
    """

    params: Params
    residual: Array


def primal_change(
    apply: OutputFn,
    params: Params,
    images: Array,
    targets: Array,
    forget: Array,
    *,
    ridge: float | Array,
    anchor: Params | None = None,
    loss: OutputLoss = cross_entropy,
    num_forget: int | None = None,
    solver: Solver = "cg",
    tol: float = 1e-6,
    max_iters: int = 500,
    batch_size: int = 128,
) -> PrimalChange:
    """The influence of removing samples: ``hess L_R d theta = (N_F/N_R) grad L_F`` (arXiv 2605.11239).

    The Hessian is that of what stays: that of all samples is off by the curvature of
    what leaves. At a stationary point the right-hand side is ``-grad L_R``: this is
    Newton's step, and equals :func:`unlearn_jax.influence.dual_change`.

    Args:
      apply: the outputs.
      params: the original model's, where everything is taken.
      images: ``[N, ...]``.
      targets: ``[N]`` classes or ``[N, C]``, as the loss takes them.
      forget: ``[N]`` bool, what to remove.
      ridge: the penalty ``ridge/2 |theta - anchor|^2`` of the original's training,
        positive.
      anchor: what the penalty pulls towards; zero by default, for weight decay.
      loss: convex in the outputs.
      num_forget: how many samples ``forget`` has (static); needed where it is traced.
      solver: ``cg`` multiplies with the Hessian; ``dense`` writes it out, ``[P, P]``.
      tol: of ``cg``: where to stop, relative to the right-hand side. The paper takes
        1e-8.
      max_iters: of ``cg``: at most; the paper takes 500.
      batch_size: samples at a time; changes memory, not the value. ``dense`` holds as
        many Jacobians ``[C, P]``.

    Returns:
      The change.

    Raises:
      InputError: unusable knobs or mask.
    """
    check_ridge(ridge)
    check_solver(solver, max_iters)
    removed = count_forget(forget, num_forget, len(images))
    kept = len(images) - removed
    index_r, index_f = positions(~forget, kept), positions(forget, removed)
    own, own_targets = images[index_f], targets[index_f]
    steep = (
        slopes(loss, forward(apply, params, own, batch_size=batch_size), own_targets)
        / kept
    )
    right = pull(apply, params, own, steep, batch_size=batch_size)
    right = jax.tree.map(
        lambda g, w: g + ridge * removed / kept * w, right, _from(params, anchor)
    )
    stay = images[index_r]
    bends = (
        curvatures(
            loss, forward(apply, params, stay, batch_size=batch_size), targets[index_r]
        )
        / kept
    )
    system = partial(_hessian, apply, params, stay, bends, ridge, batch_size)
    if solver == "cg":
        change, _ = cg(system, right, tol=tol, maxiter=max_iters)  # pyright: ignore[reportArgumentType]
    else:
        flat, unravel = ravel_pytree(right)
        matrix = dense_hessian(
            apply, params, stay, bends, ridge=ridge, batch_size=batch_size
        )
        change = unravel(cho_solve(cho_factor(matrix), flat))
    left = jax.tree.map(jnp.subtract, system(change), right)
    size = norm(right)
    return PrimalChange(change, norm(left) / jnp.where(size > 0, size, 1.0))


class PrimalFit(NamedTuple):
    """A model trained to its optimum.

    Attributes:
      params: the parameters.
      stationarity: ``[]``, the gradient's norm over that of the mean loss alone: 0 at
        the optimum.
    """

    params: Params
    stationarity: Array


def fit_primal(
    apply: OutputFn,
    params: Params,
    images: Array,
    targets: Array,
    *,
    ridge: float | Array,
    anchor: Params | None = None,
    loss: OutputLoss = cross_entropy,
    num_steps: int = 20,
    tol: float = 1e-6,
    max_iters: int = 500,
    batch_size: int = 128,
) -> PrimalFit:
    """Trains to the least ``mean l(f, y) + ridge/2 |theta - anchor|^2`` by Gauss and Newton's method.

    For a model that is linear in its parameters, such as
    :func:`unlearn_jax.influence.linearize` makes, this is the one optimum, the same as
    of :func:`unlearn_jax.influence.fit_dual`. For others it is a local one, near where
    it starts. A step is halved until it lowers the objective by Armijo's rule, up to 10
    times, and left out if that is not enough.

    Args:
      apply: the outputs.
      params: where to start.
      images: ``[N, ...]``.
      targets: ``[N]`` or ``[N, C]``, as the loss takes them.
      ridge: positive.
      anchor: what the penalty pulls towards; zero by default.
      loss: convex in the outputs.
      num_steps: Newton steps.
      tol: of conjugate gradients, relative.
      max_iters: of conjugate gradients, per step at most.
      batch_size: samples at a time.

    Returns:
      The fit.

    Raises:
      InputError: unusable knobs.
    """
    check_ridge(ridge)
    check_solver("cg", max_iters)
    count = len(images)
    floor = jnp.finfo(
        ravel_pytree(params)[0].dtype
    ).eps  # of the gradient at the start: where rounding ends it

    def gradient(params: Params, outputs: Array) -> tuple[Params, Array]:
        data = pull(
            apply,
            params,
            images,
            slopes(loss, outputs, targets) / count,
            batch_size=batch_size,
        )
        return jax.tree.map(
            lambda g, w: g + ridge * w, data, _from(params, anchor)
        ), norm(data)

    def step(params: Params, _: None) -> tuple[Params, None]:
        outputs = forward(apply, params, images, batch_size=batch_size)
        slope, _size = gradient(params, outputs)
        bends = curvatures(loss, outputs, targets) / count
        system = partial(_hessian, apply, params, images, bends, ridge, batch_size)
        back = jax.tree.map(jnp.negative, slope)
        limits = {"tol": tol, "atol": floor * first, "maxiter": max_iters}
        direction, _ = cg(system, back, **limits)  # pyright: ignore[reportArgumentType]

        def objective(size: Array) -> Array:
            moved = jax.tree.map(lambda w, d: w + size * d, params, direction)
            losses = loss(forward(apply, moved, images, batch_size=batch_size), targets)
            return jnp.mean(losses) + ridge / 2 * norm(_from(moved, anchor)) ** 2

        down = sum(
            jnp.vdot(a, b)
            for a, b in zip(
                jax.tree.leaves(slope), jax.tree.leaves(direction), strict=True
            )
        )
        size = largest_step(objective, jnp.asarray(down), outputs.dtype)
        return jax.tree.map(lambda w, d: w + size * d, params, direction), None

    first = norm(
        gradient(params, forward(apply, params, images, batch_size=batch_size))[0]
    )
    params = lax.scan(step, params, None, length=num_steps)[0]
    slope, size = gradient(
        params, forward(apply, params, images, batch_size=batch_size)
    )
    return PrimalFit(params, norm(slope) / size)


def forward(
    apply: OutputFn, params: Params, images: Array, *, batch_size: int = 128
) -> Array:
    """Outputs ``[N, C]`` of all images, batch by batch."""
    return _mapped(lambda rows: apply(params, images[rows]), len(images), batch_size)


def forward_change(
    apply: OutputFn,
    params: Params,
    change: Params,
    images: Array,
    *,
    batch_size: int = 128,
) -> Array:
    """``J(x) d theta`` ``[N, C]`` of all images, batch by batch: how outputs move, to first order."""
    return _mapped(
        lambda rows: push(apply, params, change, images[rows]), len(images), batch_size
    )


def dense_hessian(
    apply: OutputFn,
    params: Params,
    images: Array,
    bends: Array,
    *,
    ridge: float | Array,
    batch_size: int = 128,
) -> Array:
    """``sum_i J_i^T bends_i J_i + ridge``, ``[P, P]``, parameters raveled as by ``ravel_pytree``; for small models."""
    index, present = in_batches(len(images), batch_size)

    def step(total: Array, batch: tuple[Array, Array]) -> tuple[Array, None]:
        rows, share = batch
        wide = jacobian(apply, params, images[rows])
        bent = jnp.einsum(
            "nij,njp->nip",
            share[:, None, None] * bends[rows],
            wide,
            precision=lax.Precision.HIGHEST,
        )
        return (
            total
            + jnp.einsum("nip,niq->pq", wide, bent, precision=lax.Precision.HIGHEST),
            None,
        )

    size = ravel_pytree(params)[0].size
    start = ridge * jnp.eye(size, dtype=bends.dtype)
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
    """``sum_i J_i^T bends_i J_i v + ridge v``."""
    index, present = in_batches(len(images), batch_size)

    def step(total: Params, batch: tuple[Array, Array]) -> tuple[Params, None]:
        rows, share = batch
        outputs, pull_back = jax.vjp(lambda p: apply(p, images[rows]), params)
        moved = jax.vjp(pull_back, jnp.zeros_like(outputs))[1]((vector,))[0]
        bent = jnp.einsum(
            "nij,nj->ni",
            share[:, None, None] * bends[rows],
            moved,
            precision=lax.Precision.HIGHEST,
        )
        return jax.tree.map(jnp.add, total, pull_back(bent)[0]), None

    start = jax.tree.map(lambda leaf: ridge * leaf, vector)
    return lax.scan(step, start, (index, present.astype(bends.dtype)))[0]


def _mapped(of: Callable[[Array], Array], count: int, batch_size: int) -> Array:
    index, _ = in_batches(count, batch_size)
    found = lax.map(of, index)
    return found.reshape(-1, found.shape[-1])[:count]


def _from(params: Params, anchor: Params | None) -> Params:
    return params if anchor is None else jax.tree.map(jnp.subtract, params, anchor)


def norm(tree: Params) -> Array:
    """The Euclidean norm of all leaves together, ``[]``."""
    return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))  # pyright: ignore[reportArgumentType]
