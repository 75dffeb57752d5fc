"""Which numbers a run's table has: those of random samples, or those of whole classes."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from unlearn_jax.pipeline.config.schema import RunConfig
from unlearn_jax.pipeline.measure import classes as measure_class
from unlearn_jax.pipeline.measure import samples as measure
from unlearn_jax.pipeline.stages.plan import Plan


@dataclasses.dataclass(frozen=True)
class Measures:
    """One kind of table.

    Attributes:
      metrics: what the numbers are.
      gaps: what each gap to the retrained models is the mean of.
      trial: what a search keeps of every trial.
      make_pool: what all rows share, of a plan whose banks are there.
      about: further arrays of what rows share.
      measure_row:
        ``(config, pool, logits of every run, against) -> (metrics, arrays)``; see
        :mod:`measure_class`.
    """

    metrics: Sequence[Mapping[str, str]]
    gaps: Mapping[str, Sequence[str]]
    trial: Sequence[str]
    make_pool: Callable[[Plan], Any]
    about: Callable[[Any], dict[str, np.ndarray]]
    groups: Callable[[Any], list[np.ndarray]]
    measure_row: Callable[
        ..., tuple[dict[str, measure.Measured], dict[str, np.ndarray]]
    ]


def measures_of(config: RunConfig) -> Measures:
    """The kind of table of a run."""
    return _CLASSES if config.forget.kind == "class" else _SAMPLES


def oracle_logits(plan: Plan) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Logits over the pool of every run's first and of its second retrained model."""
    oracles = plan.oracles.logits()
    return [oracles[p] for p in plan.pair_of_run], [
        oracles[len(plan.pairs) + p] for p in plan.pair_of_run
    ]


def _shared(plan: Plan) -> tuple[Any, ...]:
    return (
        plan.config.audit,
        plan.pool.labels,
        plan.forget[plan.runs[:, 1]],
        plan.runs,
        plan.references.logits() if plan.config.replicas.references else (),
        plan.references.member,
    )


def _measure_samples(
    config: Any, pool: Any, logits: list[np.ndarray], against: int = 0
) -> Any:
    del against  # nothing here compares outputs
    return measure.measure_row(config, pool, logits)


_SAMPLES = Measures(
    metrics=measure.METRICS,
    gaps=measure.GAPS,
    trial=("unlearn_accuracy", "retain_accuracy", "test_accuracy", "ft_auc", "avg_gap"),
    make_pool=lambda plan: measure.make_pool(*_shared(plan)),
    about=lambda pool: {},
    groups=lambda pool: [],
    measure_row=_measure_samples,
)
_CLASSES = Measures(
    metrics=measure_class.METRICS,
    gaps=measure_class.GAPS,
    trial=(
        "unlearn_accuracy",
        "retain_accuracy",
        "acc_r",
        "acc_f",
        "tv_forget",
        "avg_gap",
    ),
    make_pool=lambda plan: measure_class.make_pool(
        *_shared(plan), oracles=oracle_logits(plan)
    ),
    about=lambda pool: {
        "neighbors": (
            np.array([p for one in pool.sets for p in one.neighbors], int).reshape(
                -1, 2
            )
        )
    },
    groups=lambda pool: [np.array(one.runs) for one in pool.sets],
    measure_row=measure_class.measure_row,
)
