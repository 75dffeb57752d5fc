"""The search for a core-set on kernel models: rank, forward greedy, backward pruning; all removals are exact."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from unlearn_jax.audit.inputs import mask_array, real_array, refuse_infinite
from unlearn_jax.coresets._causes import (
    ROUNDING,
    Knowledge,
    mean_margin,
    suppressed,
    suppression,
)
from unlearn_jax.influence import ridge as kernel_ridge
from unlearn_jax.influence.ridge import Candidates
from unlearn_jax.types import Array, InputError


class CoreSet(NamedTuple):
    """Outcome of :func:`find_core_set`.

    Attributes:
      members: ``[F]`` bool, the core-set.
      sufficiency: PS on the worlds of the search; optimistic, as it was searched for.
      forward_size: how many samples forward search took, before pruning.
      order: ``[F]`` int, in which forward search would remove all samples.
      shares: ``[S, F]`` share of the knowledge suppressed after each of these.
    """

    members: np.ndarray
    sufficiency: float
    forward_size: int
    order: np.ndarray
    shares: np.ndarray


def shares_without(
    worlds: Candidates,
    labels: ArrayLike,
    removed: ArrayLike,
    *,
    knowledge: Knowledge = mean_margin,
) -> np.ndarray:
    """Share of the knowledge suppressed by removing each of many subsets, in each world.

    Args:
      worlds: of :func:`seed_worlds`.
      labels: ``[Z]`` of their points.
      removed: ``[Q, F]`` bool.
      knowledge: of the forget set.

    Returns:
      ``[S, Q]``.

    Raises:
      InputError: shapes that do not fit; a world in which removing all of F changes
        nothing.
    """
    labels, original, oracle = _levels(worlds, labels, knowledge)
    removed = np.asarray(removed)
    if (
        removed.dtype != bool
        or removed.ndim != 2
        or removed.shape[1] != worlds.alpha.shape[1]
    ):
        raise InputError(
            f"removed is {removed.dtype} {removed.shape}: pass [Q,"
            f" {worlds.alpha.shape[1]}] bool"
        )
    levels = _levels_without(worlds, labels, jnp.asarray(removed), knowledge=knowledge)
    return np.asarray(suppression(levels, original[:, None], oracle[:, None]))


def rank_by_influence(
    worlds: Candidates, labels: ArrayLike, *, knowledge: Knowledge = mean_margin
) -> np.ndarray:
    """The forget set by what removing each sample **alone** takes from the knowledge, mean over worlds, most first.

    Args:
      worlds: of :func:`seed_worlds`.
      labels: ``[Z]`` of their points.
      knowledge: of the forget set.

    Returns:
      ``[F]`` positions in the forget set.

    Raises:
      InputError: as :func:`shares_without`.
    """
    shares = shares_without(
        worlds, labels, np.eye(worlds.alpha.shape[1], dtype=bool), knowledge=knowledge
    )
    return np.argsort(-shares.mean(0), kind="stable")


def forward_greedy(
    worlds: Candidates, labels: ArrayLike, *, knowledge: Knowledge = mean_margin
) -> tuple[np.ndarray, np.ndarray]:
    """Removes one sample after another, each time the one that brings the share nearest to 1 in the mean over worlds.

    The first is the most influential one; every later one is chosen by its influence
    given those already gone, which for samples that stand in for each other is not the
    ranking of :func:`rank_by_influence`.

    Args:
      worlds: of :func:`seed_worlds`.
      labels: ``[Z]`` of their points.
      knowledge: of the forget set.

    Returns:
      The order ``[F]`` and the shares ``[S, F]`` after each removal. Costs
      ``S F Z (F + C)`` per step.

    Raises:
      InputError: as :func:`shares_without`.
    """
    labels, original, oracle = _levels(worlds, labels, knowledge)
    order, shares = _greedy(worlds, labels, original, oracle, knowledge=knowledge)
    return np.asarray(order), np.asarray(shares).T


def backward_prune(
    worlds: Candidates,
    labels: ArrayLike,
    removed: ArrayLike,
    *,
    tolerance: float,
    delta: float,
    knowledge: Knowledge = mean_margin,
) -> np.ndarray:
    """Takes members out of a sufficient subset while it stays so; afterwards every member is necessary.

    While any member can stay in the training set with PS still at least ``1 - delta``,
    the one with the largest PS (of equals, the smallest mean distance of shares from 1)
    is taken out of the subset.

    Args:
      worlds: of :func:`seed_worlds`.
      labels: ``[Z]`` of their points.
      removed: ``[F]`` bool.
      tolerance: of S.
      delta: in [0, 1).
      knowledge: of the forget set.

    Returns:
      ``[F]`` bool, without any member whose going back would leave PS at ``1 - delta``.

    Raises:
      InputError: as :func:`shares_without`, or a ``delta`` out of range.
    """
    _check_delta(delta)
    labels, original, oracle = _levels(worlds, labels, knowledge)
    removed = mask_array("removed", removed, (worlds.alpha.shape[1],)).copy()
    while removed.any():
        levels = _levels_with_one_back(
            worlds, labels, jnp.asarray(removed), knowledge=knowledge
        )
        shares = np.asarray(suppression(levels, original[:, None], oracle[:, None]))
        sufficiency = suppressed(shares, tolerance=tolerance).mean(0)
        free = np.flatnonzero(removed & (sufficiency >= 1 - delta - ROUNDING))
        if not free.size:
            break
        distance = abs(1 - shares).mean(0)
        removed[free[np.lexsort((distance[free], -sufficiency[free]))[0]]] = False
    return removed


def find_core_set(
    worlds: Candidates,
    labels: ArrayLike,
    *,
    tolerance: float = 0.1,
    delta: float = 0.1,
    knowledge: Knowledge = mean_margin,
) -> CoreSet:
    """Forward greedy until PS is at least ``1 - delta``, then backward pruning.

    Args:
      worlds: of :func:`seed_worlds`; judge what is found on **other** worlds.
      labels: ``[Z]`` of their points.
      tolerance: of S.
      delta: in [0, 1).
      knowledge: of the forget set.

    Returns:
      The core-set: no member is superfluous, but a smaller one that shares few members
      with it may exist.

    Raises:
      InputError: as :func:`shares_without`, or knobs out of range.
    """
    _check_delta(delta)
    order, shares = forward_greedy(worlds, labels, knowledge=knowledge)
    enough = suppressed(shares, tolerance=tolerance).mean(0) >= 1 - delta - ROUNDING
    size = int(np.argmax(enough)) + 1  # all of F has share 1
    members = np.isin(np.arange(len(order)), order[:size])
    knobs = {"tolerance": tolerance, "delta": delta, "knowledge": knowledge}
    members = backward_prune(worlds, labels, members, **knobs)
    found = suppressed(
        shares_without(worlds, labels, members[None], knowledge=knowledge),
        tolerance=tolerance,
    )
    return CoreSet(members, float(found.mean()), size, order, shares)


def _levels(
    worlds: Candidates, labels: ArrayLike, knowledge: Knowledge
) -> tuple[Array, Array, Array]:
    """Labels, and the knowledge before any removal and after all of them: ``[Z], [S], [S]``."""
    labels = jnp.asarray(labels)
    if worlds.outputs.ndim != 3 or labels.shape != worlds.outputs.shape[1:2]:
        raise InputError(
            f"worlds of outputs {worlds.outputs.shape}, labels {labels.shape}: pass [S,"
            " Z, C] and [Z]"
        )
    both = jnp.stack(
        [jnp.zeros(worlds.alpha.shape[1], bool), jnp.ones(worlds.alpha.shape[1], bool)]
    )
    levels = _levels_without(worlds, labels, both, knowledge=knowledge)
    gap = real_array("knowledge", np.asarray(levels[:, 0] - levels[:, 1]), ndim=(1,))
    refuse_infinite("knowledge", gap)
    if not np.all(gap > ROUNDING):
        raise InputError(
            "removing the whole forget set takes no knowledge of it away: it has no"
            " core-set"
        )
    return labels, levels[:, 0], levels[:, 1]


def _measure(knowledge: Knowledge, outputs: Array, labels: Array) -> Array:
    """Knowledge of many models: ``[S, Q, Z, C] -> [S, Q]``."""
    return jax.vmap(jax.vmap(knowledge, (0, None)), (0, None))(outputs, labels)


@partial(jax.jit, static_argnames="knowledge")
def _levels_without(
    worlds: Candidates, labels: Array, removed: Array, *, knowledge: Knowledge
) -> Array:
    one = jax.vmap(
        lambda state, mask: knowledge(
            kernel_ridge.outputs_without(state, mask), labels
        ),
        (0, None),
    )
    return lax.map(lambda mask: one(worlds, mask), removed).T


@partial(jax.jit, static_argnames="knowledge")
def _levels_with_one_back(
    worlds: Candidates, labels: Array, removed: Array, *, knowledge: Knowledge
) -> Array:
    outputs = jax.vmap(kernel_ridge.outputs_with_one_back, (0, None))(worlds, removed)
    return _measure(knowledge, outputs, labels)


@partial(jax.jit, static_argnames="knowledge")
def _greedy(
    worlds: Candidates,
    labels: Array,
    original: Array,
    oracle: Array,
    *,
    knowledge: Knowledge,
) -> tuple[Array, Array]:
    def step(
        carry: tuple[Candidates, Array], _: None
    ) -> tuple[tuple[Candidates, Array], tuple[Array, Array]]:
        state, gone = carry
        levels = _measure(
            knowledge, jax.vmap(kernel_ridge.outputs_without_one_more)(state), labels
        )
        shares = suppression(levels, original[:, None], oracle[:, None])
        best = jnp.argmin(jnp.where(gone, jnp.inf, jnp.mean(abs(1 - shares), 0)))
        state = jax.vmap(kernel_ridge.remove_one, (0, None))(state, best)
        return (state, gone.at[best].set(True)), (best, shares[:, best])

    gone = jnp.zeros(worlds.alpha.shape[1], bool)
    return lax.scan(step, (worlds, gone), None, length=len(gone))[1]


def _check_delta(delta: float) -> None:
    if not 0 <= delta < 1:
        raise InputError(
            f"delta is {delta}: choose a probability in [0, 1), such as 0.1"
        )
