"""Programs of the federated studies: training, unlearning and recovery of one model.

Each program is a callable value ``(item, shared) -> result`` for
:func:`unlearn_jax.replicas.map_models`; equal values share a compiled program. The
first entry of ``shared`` is the samples of all clients.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax import audit, replicas
from unlearn_jax.contrib import federated
from unlearn_jax.studies.common import PERCENT, summarize_finite
from unlearn_jax.types import Array, Model, PyTree, Variables

Measure = Callable[[Any, Any], Array]
"""``((variables, *case), shared) -> [K]``, K measures of a model."""

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
"""Labels of the tables' rows, by name."""


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Training from scratch; items are ``(key, clients, participating)``.

    Attributes:
      model: architecture of the model.
      local: local training of a client.
      num_rounds: number of FedAvg rounds.
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
    """One round with any weights; items are ``(key, variables, clients, weights)``.

    PUF is such a round, in both modes and at all strengths.

    Attributes:
      model: architecture of the model.
      local: local training of a client.
      num_rounds: number of rounds before this one.
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
    """Projected gradient ascent.

    Items are ``(key, variables, clients, leaving, staying)``.

    Attributes:
      model: architecture of the model.
      local: local training of a client.
      num_rounds: number of rounds before the ascent.
    """

    model: Model
    local: federated.LocalTraining
    num_rounds: int

    def __call__(self, item: Any, shared: Any) -> Variables:
        """Return the variables after the ascent."""
        key, variables, clients, leaving, staying = item
        state = federated.init_server(variables, num_rounds=self.num_rounds)
        group = federated.Federation(self.model, self.local, shared[0], clients)
        after = federated.projected_ascent(
            key, group, state, leaving, remaining=staying
        )
        return after.variables


@dataclasses.dataclass(frozen=True)
class Recovery:
    """Rounds of the remaining clients, with measures before the first and after each.

    Items are ``(key, variables, before, clients, staying, *case)``, where ``before`` is
    the number of earlier rounds. The result is ``[1 + num_rounds, K]``.

    Attributes:
      model: architecture of the model.
      local: local training of a client.
      num_rounds: number of rounds of recovery.
      measure: function that measures the model.
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


def train_all(
    trainer: Trainer,
    key: Array,
    before: federated.Clients,
    after: federated.Clients,
    participating: np.ndarray,
    staying: np.ndarray,
    shared: PyTree,
    *,
    group: int | None = None,
) -> dict[str, Variables]:
    """Return the original, and two retrained models for each of L cases.

    Args:
      trainer: training from scratch.
      key: PRNG key; every model starts from other weights, so that a retrained model
        shares nothing with the original.
      before: clients of the original model.
      after: clients of each case, stacked.
      participating: ``[K]`` bool, the clients that train the original model.
      staying: ``[L, K]`` bool, the clients that train the retrained ones.
      shared: samples.
      group: number of models at a time, as in :func:`for_each`.
    """
    cases = len(staying)
    clients = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b, b]), before, after)
    items = (
        jax.random.split(key, 1 + 2 * cases),
        clients,
        np.concatenate([participating[None], staying, staying]),
    )
    trained = for_each(trainer, items, shared, group=group)
    return {
        "original": jax.tree.map(lambda leaf: leaf[0], trained),
        "retrained": jax.tree.map(lambda leaf: leaf[1 : 1 + cases], trained),
        "again": jax.tree.map(lambda leaf: leaf[1 + cases :], trained),
    }


def recover_all(
    program: Recovery,
    starts: Mapping[str, tuple[Variables, int]],
    keys: Array,
    case: tuple[Any, ...],
    run: Callable[..., PyTree],
) -> dict[str, np.ndarray]:
    """Return the measures ``[L, 1 + rounds, K]`` of recovery from every start.

    Args:
      program: the recovery.
      starts: variables of L models from which to recover, stacked, and the number of
        earlier rounds, by method.
      keys: ``[L]`` PRNG keys, the same for all methods.
      case: the other entries of L items of the program, from ``clients`` on.
      run: ``(program, items) -> results``, such as :func:`for_each`.
    """
    all_starts = [variables for variables, _ in starts.values()]
    variables = jax.tree.map(lambda *leaves: np.concatenate(leaves), *all_starts)
    before = np.repeat([rounds for _, rounds in starts.values()], len(keys))
    keys, *rest = jax.tree.map(
        lambda leaf: jnp.concatenate([jnp.asarray(leaf)] * len(starts)), (keys, *case)
    )
    traces = run(program, (keys, variables, before, *rest))
    return dict(zip(starts, np.split(traces, len(starts)), strict=True))


def for_each(
    program: Callable[[Any, Any], PyTree],
    items: PyTree,
    shared: PyTree,
    *,
    group: int | None = None,
) -> PyTree:
    """Run a program for each item.

    Args:
      program: program of this module, or a :data:`Measure`.
      items: pytree of M items, leaves ``[M, ...]``.
      shared: argument passed to every call.
      group: number of items at a time; all items if None. The last group is padded, so
        that different numbers of items share a compiled program.

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
    """Return ``count`` stacked copies of a pytree."""
    return jax.tree.map(lambda leaf: np.stack([leaf] * count), tree)


def percent(runs: federated.RecoveryRuns, values: np.ndarray) -> audit.Estimate | str:
    """Return the summary of percentages ``[S, L]``, or how many runs diverged."""
    return summarize_finite(values, runs.summary, bounds=PERCENT)


def mean_of(values: np.ndarray) -> str:
    """Return the mean over runs with one decimal, in words if a run diverged."""
    mean = values.mean()
    return f"{mean:.1f}" if np.isfinite(mean) else "unknown (diverged)"


def paired_change(runs: federated.RecoveryRuns, measures: list[int]) -> list[Any]:
    """Return PUF special minus natural after as many rounds, in points, paired.

    Args:
      runs: measures to summarize.
      measures: positions of the measures.
    """
    change = 100 * (runs.final("special") - runs.final("same"))
    return [summarize_finite(change[..., i], runs.summary) for i in measures]


def is_finite(runs: federated.RecoveryRuns) -> bool:
    """Return whether all measures are finite."""
    return all(np.isfinite(values).all() for values in runs.measured.values())


def unrecovered(runs: federated.RecoveryRuns) -> str:
    """Return in words how many runs of each model never recovered; empty if none."""
    counts = []
    for name, (_, is_reached) in runs.rounds.items():
        if name in LABELS and not is_reached.all():
            label = LABELS[name].split(",")[0]
            counts.append(f"{int((~is_reached).sum())} of {label}")
    return ", ".join(counts)
