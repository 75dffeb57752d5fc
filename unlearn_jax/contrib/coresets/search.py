"""Search for a core-set on kernel models: forward greedy, then backward pruning.

All removals are exact.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from unlearn_jax.audit.inputs import mask_array, real_array, refuse_infinite
from unlearn_jax.checks import check_labels
from unlearn_jax.contrib.coresets._causes import (
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
      sufficiency: PS on the worlds of the search; optimistic, since the search
        maximizes it.
      forward_size: number of samples that forward search selected, before pruning.
      order: ``[F]`` int, order in which forward search would remove all samples.
      fractions: ``[S, F]`` suppressed fraction of knowledge after each removal in
        ``order``.
    """

    members: np.ndarray
    sufficiency: float
    forward_size: int
    order: np.ndarray
    fractions: np.ndarray


def suppression_without(
    worlds: Candidates,
    labels: ArrayLike,
    subsets: ArrayLike,
    *,
    knowledge: Knowledge = mean_margin,
) -> np.ndarray:
    """Return the fraction of knowledge that removing each subset suppresses.

    Args:
      worlds: kernel models of :func:`unlearn_jax.contrib.coresets.seed_worlds`.
      labels: ``[Z]`` labels of the worlds' points.
      subsets: ``[Q, F]`` bool, the samples of the forget set to remove.
      knowledge: measure of a model's knowledge of the forget set.

    Returns:
      ``[S, Q]``, one row per world.

    Raises:
      InputError: shapes that do not fit; a world in which removing all of F changes
        nothing.
    """
    labels, original, oracle = _levels(worlds, labels, knowledge)
    subsets = np.asarray(subsets)
    size = worlds.alpha.shape[1]
    is_table = subsets.ndim == 2 and len(subsets) and subsets.shape[1] == size
    if subsets.dtype != bool or not is_table:
        raise InputError(
            f"subsets are {subsets.dtype} {subsets.shape}: pass [Q, {size}] bool"
        )
    levels = _levels_without(worlds, labels, jnp.asarray(subsets), knowledge=knowledge)
    return np.asarray(suppression(levels, original[:, None], oracle[:, None]))


def rank_by_influence(
    worlds: Candidates, labels: ArrayLike, *, knowledge: Knowledge = mean_margin
) -> np.ndarray:
    """Rank forget samples by the knowledge that removing each **alone** suppresses.

    The rank is by the mean over worlds, largest first.

    Args:
      worlds: kernel models of :func:`unlearn_jax.contrib.coresets.seed_worlds`.
      labels: ``[Z]`` labels of the worlds' points.
      knowledge: measure of a model's knowledge of the forget set.

    Returns:
      ``[F]`` positions in the forget set, the most influential first.

    Raises:
      InputError: as :func:`suppression_without`.
    """
    alone = np.eye(worlds.alpha.shape[1], dtype=bool)
    fractions = suppression_without(worlds, labels, alone, knowledge=knowledge)
    return np.argsort(-fractions.mean(0), kind="stable")


def forward_greedy(
    worlds: Candidates, labels: ArrayLike, *, knowledge: Knowledge = mean_margin
) -> tuple[np.ndarray, np.ndarray]:
    """Remove the samples one at a time, each time the one that suppresses best.

    The best sample leaves the suppressed fraction nearest to 1, in the mean over
    worlds. The first sample is the most influential one. Each later sample is chosen by
    its influence given the removals so far. Where samples can substitute for each
    other, the order differs from the ranking of :func:`rank_by_influence`.

    Args:
      worlds: kernel models of :func:`unlearn_jax.contrib.coresets.seed_worlds`.
      labels: ``[Z]`` labels of the worlds' points.
      knowledge: measure of a model's knowledge of the forget set.

    Returns:
      The order ``[F]`` and the suppressed fractions ``[S, F]`` after each removal. A
      step costs ``S F Z (F + C)``.

    Raises:
      InputError: as :func:`suppression_without`.
    """
    labels, original, oracle = _levels(worlds, labels, knowledge)
    order, fractions = _greedy(worlds, labels, original, oracle, knowledge=knowledge)
    return np.asarray(order), np.asarray(fractions).T


def backward_prune(
    worlds: Candidates,
    labels: ArrayLike,
    subset: ArrayLike,
    *,
    tolerance: float,
    delta: float,
    knowledge: Knowledge = mean_margin,
) -> np.ndarray:
    """Remove members from a sufficient subset until every member is necessary.

    A member is free if PS is still at least ``1 - delta`` after its return to the
    training set. While there is a free member, the one that leaves the largest PS is
    dropped from the subset; ties go to the smallest mean distance of the suppressed
    fractions from 1.

    Args:
      worlds: kernel models of :func:`unlearn_jax.contrib.coresets.seed_worlds`.
      labels: ``[Z]`` labels of the worlds' points.
      subset: ``[F]`` bool, the subset to prune.
      tolerance: tolerance of :func:`suppressed`, in (0, 1).
      delta: allowed fraction of worlds in which the subset is not sufficient, in
        [0, 1).
      knowledge: measure of a model's knowledge of the forget set.

    Returns:
      ``[F]`` bool, a subset in which no member is free.

    Raises:
      InputError: as :func:`suppression_without`, or a ``delta`` out of range.
    """
    _check_delta(delta)
    labels, original, oracle = _levels(worlds, labels, knowledge)
    subset = mask_array("subset", subset, (worlds.alpha.shape[1],)).copy()
    while subset.any():
        levels = _levels_restoring_each(
            worlds, labels, jnp.asarray(subset), knowledge=knowledge
        )
        fractions = np.asarray(suppression(levels, original[:, None], oracle[:, None]))
        sufficiency = suppressed(fractions, tolerance=tolerance).mean(0)
        free = np.flatnonzero(subset & (sufficiency >= 1 - delta - ROUNDING))
        if not free.size:
            break
        distance = abs(1 - fractions).mean(0)
        best = np.lexsort((distance[free], -sufficiency[free]))[0]
        subset[free[best]] = False
    return subset


def find_core_set(
    worlds: Candidates,
    labels: ArrayLike,
    *,
    tolerance: float = 0.1,
    delta: float = 0.1,
    knowledge: Knowledge = mean_margin,
) -> CoreSet:
    """Search forward greedily until PS is at least ``1 - delta``, then prune backward.

    Args:
      worlds: kernel models of :func:`unlearn_jax.contrib.coresets.seed_worlds`;
        evaluate the result on **other** worlds.
      labels: ``[Z]`` labels of the worlds' points.
      tolerance: tolerance of :func:`suppressed`, in (0, 1).
      delta: allowed fraction of worlds in which the subset is not sufficient, in
        [0, 1).
      knowledge: measure of a model's knowledge of the forget set.

    Returns:
      The core-set. None of its members is superfluous, but a smaller core-set that
      shares few members with it may exist.

    Raises:
      InputError: as :func:`suppression_without`, or hyperparameters out of range.
    """
    _check_delta(delta)
    order, fractions = forward_greedy(worlds, labels, knowledge=knowledge)
    sufficiency = suppressed(fractions, tolerance=tolerance).mean(0)
    is_sufficient = sufficiency >= 1 - delta - ROUNDING
    size = int(np.argmax(is_sufficient)) + 1  # all of F has fraction 1
    members = backward_prune(
        worlds,
        labels,
        np.isin(np.arange(len(order)), order[:size]),
        tolerance=tolerance,
        delta=delta,
        knowledge=knowledge,
    )
    final = suppression_without(worlds, labels, members[None], knowledge=knowledge)
    return CoreSet(
        members=members,
        sufficiency=float(suppressed(final, tolerance=tolerance).mean()),
        forward_size=size,
        order=order,
        fractions=fractions,
    )


class _Levels(NamedTuple):
    """Labels ``[Z]``, and the knowledge ``[S]`` with and without the forget set."""

    labels: Array
    original: Array
    oracle: Array


def _levels(worlds: Candidates, labels: ArrayLike, knowledge: Knowledge) -> _Levels:
    if not isinstance(worlds, Candidates):
        raise InputError(
            f"worlds are a {type(worlds).__name__}: pass what seed_worlds returns"
        )
    if not callable(knowledge):
        raise InputError(
            "knowledge must be a function (outputs [Z, C], labels [Z]) -> [], such as"
            f" mean_margin, got {knowledge!r}"
        )
    labels = jnp.asarray(labels)
    if worlds.outputs.ndim != 3 or labels.shape != worlds.outputs.shape[1:2]:
        raise InputError(
            f"the worlds' outputs have shape {worlds.outputs.shape} and the labels"
            f" {labels.shape}: pass [S, Z, C] and [Z]"
        )
    check_labels(labels, len(labels), worlds.outputs.shape[-1], "forget set")
    size = worlds.alpha.shape[1]
    both = jnp.stack([jnp.zeros(size, bool), jnp.ones(size, bool)])
    levels = _levels_without(worlds, labels, both, knowledge=knowledge)
    gap = real_array("knowledge", np.asarray(levels[:, 0] - levels[:, 1]), ndim=(1,))
    refuse_infinite("knowledge", gap)
    if not np.all(gap > ROUNDING):
        raise InputError(
            "removing the whole forget set suppresses no knowledge of it: it has no"
            " core-set"
        )
    return _Levels(labels, levels[:, 0], levels[:, 1])


def _measure(knowledge: Knowledge, outputs: Array, labels: Array) -> Array:
    """Return the knowledge of many models, ``[S, Q, Z, C] -> [S, Q]``."""
    return jax.vmap(jax.vmap(knowledge, (0, None)), (0, None))(outputs, labels)


@partial(jax.jit, static_argnames="knowledge")
def _levels_without(
    worlds: Candidates, labels: Array, subsets: Array, *, knowledge: Knowledge
) -> Array:
    def level(state: Candidates, subset: Array) -> Array:
        return knowledge(kernel_ridge.outputs_without(state, subset), labels)

    in_worlds = jax.vmap(level, (0, None))
    return lax.map(lambda subset: in_worlds(worlds, subset), subsets).T


@partial(jax.jit, static_argnames="knowledge")
def _levels_restoring_each(
    worlds: Candidates, labels: Array, subset: Array, *, knowledge: Knowledge
) -> Array:
    outputs = jax.vmap(kernel_ridge.outputs_restoring_each, (0, None))(worlds, subset)
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
        state, removed = carry
        outputs = jax.vmap(kernel_ridge.outputs_removing_each)(state)
        levels = _measure(knowledge, outputs, labels)
        fractions = suppression(levels, original[:, None], oracle[:, None])
        distance = jnp.mean(abs(1 - fractions), 0)
        best = jnp.argmin(jnp.where(removed, jnp.inf, distance))
        state = jax.vmap(kernel_ridge.remove_one, (0, None))(state, best)
        return (state, removed.at[best].set(True)), (best, fractions[:, best])

    removed = jnp.zeros(worlds.alpha.shape[1], bool)
    return lax.scan(step, (worlds, removed), None, length=len(removed))[1]


def _check_delta(delta: float) -> None:
    if not 0 <= delta < 1:
        raise InputError(
            f"delta is {delta}: choose a probability in [0, 1), such as 0.1"
        )
