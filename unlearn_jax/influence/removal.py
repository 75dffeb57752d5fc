"""Removing samples from a trained network by influence functions, and the guard that says whether to believe it."""

import warnings
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from unlearn_jax.influence._ntk import OutputFn, ntk, positions, pull
from unlearn_jax.influence.dual import Solver, dual_change
from unlearn_jax.influence.primal import forward, forward_change, norm, primal_change
from unlearn_jax.influence.risk import OutputLoss, check_ridge, count_forget, slopes
from unlearn_jax.losses import cross_entropy
from unlearn_jax.types import Array, InputError, Params

STATIONARITY = 0.1
"""Above it the guard warns: a tenth of what is solved for comes from training that was not finished."""
LINEARIZABILITY = 0.5
"""Above it the guard warns: half of the gradient that the change was to remove is there again, or in its place."""
RESIDUAL = 0.01
"""Above it the guard warns: the linear system was not solved to one per cent."""


class Guard(NamedTuple):
    """Whether the assumptions of influence functions hold. All are 0 where they do exactly.

    Attributes:
      gradient: ``[]``, ``|grad L_D|`` at the original model, penalty included.
      stationarity: ``[]``, ``|grad L_D| / |(N_F/N) grad L_F|``: what is left of
        training beside what removing adds. An influence function takes the first for 0.
      linearizability: ``[]``,
        ``|grad L_R(theta + d) - grad L_R^lin(theta + d)| / |grad L_R(theta)|``, ``d``
        the predicted change, ``lin`` the network's first-order expansion at ``theta``:
        what is wrong with the gradient that ``d`` was to make vanish. It sees outputs
        that bend and Jacobians that turn; the latter spoil estimates first.
      residual: ``[]``, of the linear system.
      trusted: ``[]`` bool: each of the last three is finite and at most
        :data:`STATIONARITY`, :data:`LINEARIZABILITY` and :data:`RESIDUAL`.
    """

    gradient: Array
    stationarity: Array
    linearizability: Array
    residual: Array
    trusted: Array


class Removal(NamedTuple):
    """An estimate and what to think of it.

    Attributes:
      params: the change of the parameters.
      guard: whether to believe it.
    """

    params: Params
    guard: Guard


def remove(
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
    form: Literal["primal", "dual"] = "primal",
    solver: Solver = "cg",
    tol: float = 1e-6,
    max_iters: int = 500,
    batch_size: int = 128,
    warn: bool = True,
) -> Removal:
    """What removing samples does to a trained model's parameters, with a warning where that is not to be believed.

    Args:
      apply: the outputs.
      params: the original model's.
      images: ``[N, ...]``.
      targets: ``[N]`` classes or ``[N, C]``, as the loss takes them.
      forget: ``[N]`` bool, what to remove.
      ridge: the penalty ``ridge/2 |theta - anchor|^2`` of the original's training,
        positive.
      anchor: what the penalty pulls towards; zero by default, for weight decay.
      loss: convex in the outputs.
      num_forget: how many samples ``forget`` has (static); needed where it is traced.
      form: ``primal`` solves for ``P`` parameters and stores no matrix; ``dual`` for
        ``N_R C`` outputs and stores the kernel ``[N, C, N, C]``. Both give the same at
        a stationary point.
      solver: ``cg``, or ``dense``, which writes the system out.
      tol: of ``cg``, relative.
      max_iters: of ``cg``.
      batch_size: samples at a time.
      warn: warn where the guard does not trust the estimate, from compiled code too.

    Returns:
      The estimate and its guard.

    Raises:
      InputError: unusable knobs or mask.
    """
    if form not in ("primal", "dual"):
        raise InputError(f"unknown form {form!r}: choose primal or dual")
    num_forget = count_forget(forget, num_forget, len(images))
    knobs: dict[str, Any] = {"loss": loss, "num_forget": num_forget}
    solve: dict[str, Any] = {"solver": solver, "tol": tol, "max_iters": max_iters}
    if form == "primal":
        primal = partial(
            primal_change, anchor=anchor, ridge=ridge, batch_size=batch_size
        )
        change, residual = primal(
            apply, params, images, targets, forget, **knobs, **solve
        )
    else:
        check_ridge(ridge)
        kernel = ntk(apply, params, images, batch_size=batch_size)
        outputs = forward(apply, params, images, batch_size=batch_size)
        _, coefficients, residual = dual_change(
            kernel, outputs, targets, forget, ridge=ridge, **knobs, **solve
        )
        change = pull(apply, params, images, coefficients, batch_size=batch_size)
    found = guard(
        apply,
        params,
        change,
        images,
        targets,
        forget,
        ridge=ridge,
        anchor=anchor,
        residual=residual,
        batch_size=batch_size,
        **knobs,
    )
    if warn:
        warn_unless_trusted(found)
    return Removal(change, found)


def guard(
    apply: OutputFn,
    params: Params,
    change: Params,
    images: Array,
    targets: Array,
    forget: Array,
    *,
    ridge: float | Array,
    anchor: Params | None = None,
    loss: OutputLoss = cross_entropy,
    num_forget: int | None = None,
    residual: float | Array = 0.0,
    batch_size: int = 128,
) -> Guard:
    """Looks at a predicted change from outside: gradients of the network at its old and at its new parameters.

    It cannot see a retrained network that ends in another basin than the original.

    Measured by ``experiments/influence_digits.py``: 30 of 300 digits removed from
    networks of one layer of tanh, trained to stationarity with the penalty around their
    initialization, and retrained. Errors of the estimate beside those of doing nothing,
    ranges over three seeds; the thresholds were set on other runs::

        units   ridge    linearizability   error of parameters   of test outputs
        512     0.1       0.07 to 0.09        0.24 to 0.26         0.06 to 0.09
        64      0.1       0.26 to 0.34        0.43 to 0.45         0.22 to 0.25
        64      0.01      0.70 to 0.85        0.63 to 0.66         0.29 to 0.38
        64      0.0001    3.5 to 4.7          0.93 to 0.95         0.70 to 0.87

    Args:
      apply: the outputs.
      params: the original model's.
      change: predicted, like the parameters.
      images: ``[N, ...]``.
      targets: ``[N]`` or ``[N, C]``.
      forget: ``[N]`` bool.
      ridge: the penalty of the original's training.
      anchor: what it pulls towards; zero by default.
      loss: convex in the outputs.
      num_forget: how many samples ``forget`` has (static); needed where it is traced.
      residual: of the linear system, if one was solved.
      batch_size: samples at a time.

    Returns:
      The guard.

    Raises:
      InputError: unusable knobs or mask.
    """
    check_ridge(ridge)
    removed = count_forget(forget, num_forget, len(images))
    kept = len(images) - removed
    away = params if anchor is None else jax.tree.map(jnp.subtract, params, anchor)
    sets = {
        name: positions(mask, size)
        for name, mask, size in (("F", forget, removed), ("R", ~forget, kept))
    }
    stay, wanted = images[sets["R"]], targets[sets["R"]]

    def gradient(at: Params, rows: Array, outputs: Array) -> Params:
        """Of the summed loss, without penalty."""
        return pull(
            apply,
            at,
            images[rows],
            slopes(loss, outputs, targets[rows]),
            batch_size=batch_size,
        )

    before = {
        name: forward(apply, params, images[rows], batch_size=batch_size)
        for name, rows in sets.items()
    }
    total = {name: gradient(params, rows, before[name]) for name, rows in sets.items()}
    of = {"F": jax.tree.map(lambda g, w: g + ridge * removed * w, total["F"], away)}
    of["R"] = jax.tree.map(lambda g, w: g + ridge * kept * w, total["R"], away)
    left = norm(jax.tree.map(jnp.add, of["F"], of["R"]))
    new = jax.tree.map(jnp.add, params, change)
    network = gradient(new, sets["R"], forward(apply, new, stay, batch_size=batch_size))
    moved = before["R"] + forward_change(
        apply, params, change, stay, batch_size=batch_size
    )
    expansion = pull(
        apply, params, stay, slopes(loss, moved, wanted), batch_size=batch_size
    )
    stationarity = _ratio(left, norm(of["F"]))
    linearizability = _ratio(
        norm(jax.tree.map(jnp.subtract, network, expansion)), norm(of["R"])
    )
    residual = jnp.asarray(residual)
    trusted = (
        (stationarity <= STATIONARITY)
        & (linearizability <= LINEARIZABILITY)
        & (residual <= RESIDUAL)
    )
    return Guard(left / len(images), stationarity, linearizability, residual, trusted)


def warn_unless_trusted(found: Guard) -> None:
    """Warns, now or when the compiled program runs, of every assumption that does not hold.

    Args:
      found: the guard, traced or not.
    """
    if isinstance(found.trusted, Tracer):
        jax.debug.callback(_warn, found)
    else:
        _warn(found)


def _warn(found: Guard) -> None:
    if np.asarray(found.trusted).all():
        return
    stationarity, linearizability, residual = (
        float(np.max(value)) for value in found[1:4]
    )
    reasons = []
    if not stationarity <= STATIONARITY:
        reasons.append(
            f"the model is not stationary (gradient {stationarity:.2g} of what removing"
            f" adds, at most {STATIONARITY:g}: train longer, or pass the penalty it was"
            " trained with)"
        )
    if not linearizability <= LINEARIZABILITY:
        reasons.append(
            f"the network is not linear this far ({linearizability:.2g} of the gradient"
            f" is wrong there, at most {LINEARIZABILITY:g}: remove fewer samples, or"
            " train with a larger penalty or a wider network)"
        )
    if not residual <= RESIDUAL:
        reasons.append(
            f"the linear system is not solved (residual {residual:.2g}, at most"
            f" {RESIDUAL:g}: allow more iterations)"
        )
    warnings.warn(
        f"influence: do not trust this estimate; {'; '.join(reasons)}", stacklevel=3
    )


def _ratio(above: Array, below: Array) -> Array:
    """0 for 0/0: nothing moves, and nothing was predicted to."""
    return jnp.where(
        above == 0, 0.0, above / jnp.where(below == 0, jnp.zeros_like(below), below)
    )
