"""What was measured while clients recover, over seeds and leaving clients, and its summaries."""

from collections.abc import Mapping, Sequence

import numpy as np

from unlearn_jax import audit
from unlearn_jax.federated.scores import rounds_to_reach


class RecoveryRuns:
    """The measured numbers over S seeds and L cases of leaving clients.

    Attributes:
      found: by model, ``[S, L, K]`` measures, or ``[S, L, 1 + rounds, K]`` of one that
        recovers: at once, then after each round.
      shape: ``(S, L)``.
      rounds: by model that recovers, what :func:`rounds_to_reach` says of the first
        measure, with the retrained model's as the goal.
      weights: of the bootstrap, shared by all summaries.
    """

    def __init__(
        self, parts: Sequence[Mapping[str, np.ndarray]], measures: Sequence[str]
    ) -> None:
        """Stacks the seeds.

        Args:
          parts: of each seed, by model ``[L, K]`` or ``[L, 1 + rounds, K]``;
            "retrained", "original", "natural" and "special" among them.
          measures: names of the K measures; the first is the one that recovery is to
            bring back.
        """
        self.measures = tuple(measures)
        self.found = {
            name: np.stack([part[name] for part in parts]) for name in parts[0]
        }
        self.shape = self.found["original"].shape[:2]
        factors = np.stack(
            np.meshgrid(*map(np.arange, self.shape), indexing="ij"), -1
        ).reshape(-1, 2)
        self.weights = audit.run_weights(np.random.default_rng(0), 2000, factors)
        goal = self.found["retrained"][..., 0]
        traces = {name: trace for name, trace in self.found.items() if trace.ndim == 4}
        self.rounds = {
            name: rounds_to_reach(trace[..., 1:, 0], goal)
            for name, trace in traces.items()
        }

    def final(self, name: str) -> np.ndarray:
        """``[S, L, K]`` measures where recovery stopped.

        Args:
          name: of a model. "same" is natural after as many rounds as PUF special's; one
            that ends in "+" never stopped.
        """
        if name.endswith("+"):
            return self.found[name[:-1]][:, :, -1]
        if name == "same":
            last = self.found["natural"].shape[2] - 1
            return self._at("natural", np.minimum(1 + self.rounds["special"][0], last))
        return (
            self._at(name, self.rounds[name][0])
            if name in self.rounds
            else self.found[name]
        )

    def _at(self, name: str, rounds: np.ndarray) -> np.ndarray:
        return np.take_along_axis(self.found[name], rounds[..., None, None], 2)[:, :, 0]

    def gap(self, name: str, measure: str = "forget") -> np.ndarray:
        """``[S, L]`` points between a model's measure and that of the retrained one.

        Args:
          name: see :meth:`final`.
          measure: one of the measures.
        """
        return (
            100
            * abs(self.final(name) - self.found["retrained"])[
                ..., self.measures.index(measure)
            ]
        )

    def summary(self, values: np.ndarray) -> audit.Estimate:
        """Mean over seeds and cases, both redrawn.

        Args:
          values: ``[S, L]``.
        """
        flat = np.asarray(values, np.float64).round(6).reshape(-1)
        return audit.summarize(
            flat, np.broadcast_to(flat, (len(self.weights), flat.size)), self.weights
        )
