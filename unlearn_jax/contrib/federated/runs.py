"""Measures of recovery over seeds and forget clients, and their summaries."""

from collections.abc import Mapping, Sequence

import numpy as np

from unlearn_jax import audit
from unlearn_jax.checks import check_choice, check_shape
from unlearn_jax.contrib.federated.scores import rounds_to_reach
from unlearn_jax.types import InputError

NEEDED = {"retrained": 2, "original": 2, "natural": 3, "special": 3}
"""Models whose measures :class:`RecoveryRuns` needs, and the axes of a seed's."""


def _check(
    parts: Sequence[Mapping[str, np.ndarray]], measures: tuple[str, ...]
) -> None:
    if not parts or not measures:
        raise InputError("recovery needs at least one seed and one measure")
    shapes = {name: np.shape(values) for name, values in parts[0].items()}
    if missing := [name for name in NEEDED if name not in shapes]:
        raise InputError(f"there are no measures of the {missing[0]} model")
    for part in parts:
        if {name: np.shape(values) for name, values in part.items()} != shapes:
            raise InputError("all seeds must have the same models and shapes")
    size = len(measures)
    wanted = {2: f"[L, {size}]", 3: f"[L, 1 + rounds, {size}]"}
    for name, shape in shapes.items():
        ranks = (NEEDED[name],) if name in NEEDED else (2, 3)
        if len(shape) not in ranks or shape[-1] != size:
            raise InputError(
                f"measures of the {name} model have shape {shape}: pass"
                f" {' or '.join(wanted[rank] for rank in ranks)}"
            )


class RecoveryRuns:
    """Measures over S seeds and L cases of forget clients.

    Attributes:
      measures: names of the K measures.
      measured: measures by model: ``[S, L, K]``, or for a model that recovers
        ``[S, L, 1 + rounds, K]``, before the first round and after each round.
      shape: ``(S, L)``.
      rounds: :func:`rounds_to_reach` by model that recovers, for the first measure with
        the retrained model's value as the target.
    """

    def __init__(
        self, parts: Sequence[Mapping[str, np.ndarray]], measures: Sequence[str]
    ) -> None:
        """Stack the seeds.

        Args:
          parts: one mapping per seed, from a model's name to its measures ``[L, K]`` or
            ``[L, 1 + rounds, K]``. Required are "retrained" and "original", which do
            not recover, and "natural" and "special", which do.
          measures: names of the K measures; the first one decides recovery.

        Raises:
          InputError: no seeds, seeds of other models or shapes, a model that is
            missing, or another number of measures.
        """
        self.measures = tuple(measures)
        _check(parts, self.measures)
        self.measured: dict[str, np.ndarray] = {}
        for name in parts[0]:
            self.measured[name] = np.stack([part[name] for part in parts])
        self.shape = self.measured["original"].shape[:2]
        goal = self.measured["retrained"][..., 0]
        traces = {
            name: trace for name, trace in self.measured.items() if trace.ndim == 4
        }
        self.rounds = {
            name: rounds_to_reach(trace[..., 1:, 0], goal)
            for name, trace in traces.items()
        }

    def final(self, name: str) -> np.ndarray:
        """Return the measures ``[S, L, K]`` where recovery stopped.

        Args:
          name: a model's name. "same" is "natural" after as many rounds as "special"
            needs to recover. The name of a model that recovers, followed by "+", is
            the model after the last round.

        Raises:
          InputError: another name.
        """
        at_last = tuple(f"{model}+" for model in self.rounds)
        check_choice("model", name, (*self.measured, "same", *at_last))
        if name in at_last:
            return self.measured[name[:-1]][:, :, -1]
        if name == "same":
            last = self.measured["natural"].shape[2] - 1
            return self._at("natural", np.minimum(1 + self.rounds["special"][0], last))
        if name in self.rounds:
            return self._at(name, self.rounds[name][0])
        return self.measured[name]

    def _at(self, name: str, rounds: np.ndarray) -> np.ndarray:
        return np.take_along_axis(self.measured[name], rounds[..., None, None], 2)[
            :, :, 0
        ]

    def gap(self, name: str, measure: str = "forget") -> np.ndarray:
        """Return the gap ``[S, L]`` to the retrained model's measure, in points.

        Args:
          name: a model's name, as in :meth:`final`.
          measure: one of the measures.

        Raises:
          InputError: another name or measure.
        """
        check_choice("measure", measure, self.measures)
        gaps = abs(self.final(name) - self.measured["retrained"])
        return 100 * gaps[..., self.measures.index(measure)]

    def summary(
        self, values: np.ndarray, *, bounds: tuple[float, float] | None = None
    ) -> audit.Estimate:
        """Return the mean over seeds and cases, and its interval for new ones of both.

        Args:
          values: ``[S, L]``, rounded to 6 decimals first, so that values that differ by
            rounding alone agree; pass points rather than tiny fractions.
          bounds: smallest and largest value that there can be, such as (0, 100) for
            percentages; None for differences.

        Raises:
          InputError: another shape.
        """
        check_shape("values", values, self.shape)
        values = np.asarray(values, np.float64).round(6)
        return audit.summarize_runs(values, bounds=bounds)
