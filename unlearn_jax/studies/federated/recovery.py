"""Programs of the federated studies: training, unlearning and recovery of one model.

Each is a value ``(item, shared) -> result`` for
:func:`unlearn_jax.replicas.map_models`; equal values share a compiled program.
``shared`` begins with the samples of all clients.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax import replicas
from unlearn_jax.contrib import federated
from unlearn_jax.types import Array, Model, PyTree, Variables

Measure = Callable[[Any, Any], Array]
"""``((variables, *case), shared) -> [K]`` measures of a model."""

LABELS = {
    "original": "Original",
    "retrained": "Retrained (oracle)",
    "again": "Retrained again (floor)",
    "natural": "Natural (continue)",
    "same": "Natural, PUF's rounds",
    "special": "PUF special, η_u = 2",
    "regular": "PUF regular, η_u = 20",
    "not": "NoT",
    "ascent": "Projected ascent",
    "more+": "Retrained, continued to the last round",
    "natural+": "Natural, to the last round",
    "special+": "PUF special, to the last round",
}
"""Rows of the tables."""


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Training from scratch; items ``(key, clients, participating)``.

    Attributes:
      model: architecture.
      local: training of a client.
      num_rounds: of FedAvg.
    """

    model: Model
    local: federated.LocalTraining
    num_rounds: int

    def __call__(self, item: Any, shared: Any) -> Variables:
        """Return the trained variables."""
        key, clients, participating = item
        key_start, key_rounds = jax.random.split(key)
        start = federated.init_server(self.model.init(key_start))
        weights = federated.fedavg_weights(clients, participating)
        group = federated.Federation(self.model, self.local, shared[0], clients)
        last, _ = federated.run_rounds(
            key_rounds, group, start, weights, num_rounds=self.num_rounds
        )
        return last.variables


@dataclasses.dataclass(frozen=True)
class Round:
    """One round with any weights; items ``(key, variables, clients, weights)``.

    PUF in both modes and at all strengths is such a round.

    Attributes:
      model: architecture.
      local: training of a client.
      num_rounds: rounds before this one.
    """

    model: Model
    local: federated.LocalTraining
    num_rounds: int

    def __call__(self, item: Any, shared: Any) -> Variables:
        """Return the variables after the round."""
        key, variables, clients, weights = item
        state = federated.init_server(variables, num_rounds=self.num_rounds)
        group = federated.Federation(self.model, self.local, shared[0], clients)
        return federated.federated_round(key, group, state, weights).variables


@dataclasses.dataclass(frozen=True)
class Ascent:
    """Projected gradient ascent; items ``(key, variables, clients, leaving)``.

    Attributes:
      model: architecture.
      local: training of a client.
      num_rounds: rounds before.
    """

    model: Model
    local: federated.LocalTraining
    num_rounds: int

    def __call__(self, item: Any, shared: Any) -> Variables:
        """Return the variables after the ascent."""
        key, variables, clients, leaving = item
        state = federated.init_server(variables, num_rounds=self.num_rounds)
        group = federated.Federation(self.model, self.local, shared[0], clients)
        return federated.projected_ascent(key, group, state, leaving).variables


@dataclasses.dataclass(frozen=True)
class Recovery:
    """Rounds of the remaining clients, measured before and after each of them.

    Items are ``(key, variables, num_rounds, clients, staying, *case)`` with the number
    of rounds before; the result is ``[1 + num_rounds, K]``.

    Attributes:
      model: architecture.
      local: training of a client.
      num_rounds: of recovery.
      measure: of the model.
    """

    model: Model
    local: federated.LocalTraining
    num_rounds: int
    measure: Measure

    def __call__(self, item: Any, shared: Any) -> Array:
        """Return the measures by round."""
        key, variables, before, clients, staying, *case = item
        state = federated.init_server(variables, num_rounds=before)
        group = federated.Federation(self.model, self.local, shared[0], clients)
        weights = federated.fedavg_weights(clients, staying)

        def measure(variables: Variables) -> Array:
            return self.measure((variables, *case), shared)

        _, trace = federated.run_rounds(
            key, group, state, weights, num_rounds=self.num_rounds, evaluate=measure
        )
        return jnp.concatenate([measure(variables)[None], trace])


def for_each(
    program: Callable[[Any, Any], PyTree],
    items: PyTree,
    shared: PyTree,
    *,
    group: int | None = None,
) -> PyTree:
    """Run a program for each item.

    Args:
      program: a value of this module, or a :data:`Measure`.
      items: leaves ``[M, ...]``.
      shared: passed to every call.
      group: items at a time, the last group padded, so that other numbers of items
        share the compiled program; all at once if None.

    Returns:
      The results, stacked, as NumPy arrays.
    """
    count = len(jax.tree.leaves(items)[0])
    group = count if group is None else group
    mapper = replicas.mapper(num_models=group)
    items = jax.tree.map(jnp.asarray, items)
    results = []
    for first in range(0, count, group):
        places = np.minimum(np.arange(first, first + group), count - 1)
        chosen = jax.tree.map(lambda leaf, places=places: leaf[places], items)
        result = replicas.map_models(mapper, program, chosen, shared)
        results.append(jax.tree.map(np.asarray, result))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *results)


def repeat(tree: PyTree, count: int) -> PyTree:
    """Return a pytree ``count`` times, stacked."""
    return jax.tree.map(lambda leaf: np.stack([leaf] * count), tree)


def paired_change(runs: federated.RecoveryRuns, measures: list[int]) -> list[Any]:
    """Return PUF special minus natural after as many rounds, paired, in points.

    Args:
      runs: to summarize.
      measures: positions of the measures.
    """
    change = 100 * (runs.final("special") - runs.final("same"))
    return [runs.summary(change[..., i]) for i in measures]


def is_finite(runs: federated.RecoveryRuns) -> bool:
    """Return True if every measure is finite."""
    return all(np.isfinite(values).all() for values in runs.measured.values())


def unrecovered(runs: federated.RecoveryRuns) -> str:
    """Return the number of runs of each model that never recovered; empty if none."""
    counts = []
    for name, (_, is_reached) in runs.rounds.items():
        if name in LABELS and not is_reached.all():
            label = LABELS[name].split(",")[0]
            counts.append(f"{int((~is_reached).sum())} of {label}")
    return ", ".join(counts)
