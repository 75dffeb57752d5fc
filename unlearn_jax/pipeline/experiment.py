"""Experiments that are not runs: artifacts, and a page made of them.

A run (:func:`unlearn_jax.pipeline.run`) forgets samples of one classifier. Whatever
trains something else is an :class:`Experiment`: artifacts, and a function that makes
tables, pictures and checks of them.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unlearn_jax.pipeline.config.schema import to_json
from unlearn_jax.pipeline.measure.records import ExperimentResult
from unlearn_jax.pipeline.report.blocks import Page
from unlearn_jax.pipeline.report.page import write_experiment
from unlearn_jax.pipeline.store import folders as store
from unlearn_jax.pipeline.store import hosts
from unlearn_jax.pipeline.store.artifact import Artifact, Runner, Stored
from unlearn_jax.pipeline.store.events import Events
from unlearn_jax.types import InputError


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment, defined as ``EXPERIMENT`` by a file of ``experiments/``.

    Attributes:
      title: heading of the page.
      config: a frozen dataclass of plain values, the defaults; a docstring under each
        field is its help.
      artifacts: ``config -> artifacts`` in the order of computing, inputs first; checks
        the configuration first.
      page: ``(config, {name: stored artifact}) -> Page``.
      speed: ``config -> samples per second`` of training here, for a dry run whose
        artifacts have a price; None for no estimate.
      programs: ``config -> artifacts`` to compile for accelerators in place of
        ``artifacts``, which read numbers that they have computed; None for these.
    """

    title: str
    config: Any
    artifacts: Callable[[Any], Sequence[Artifact]]
    page: Callable[[Any, Mapping[str, Stored]], Page]
    speed: Callable[[Any], float] | None = None
    programs: Callable[[Any], Sequence[Artifact]] | None = None


def run_experiment(
    experiment: Experiment,
    workdir: str | os.PathLike[str],
    *,
    name: str,
    config: Any = None,
    events: str | os.PathLike[str] | None = None,
) -> ExperimentResult | None:
    """Compute the artifacts that are missing and write the page.

    Args:
      experiment: to run.
      workdir: its directory: made if new, continued if it is of this version, refused
        if it holds anything else.
      name: of the experiment.
      config: instead of the experiment's own.
      events: folder for TensorBoard events: seconds by artifact, losses, numbers of the
        tables; needs the extra ``tensorboard``.

    Returns:
      The results, as in ``results.json``; None in all but the first of several
      processes. The folder also holds ``report.html``, ``table.md`` and a folder per
      artifact.

    Raises:
      InputError: unusable configuration or directory; nothing has been written then.
      ReportError: table or report cannot be written; ``results.json`` is.

    Warns:
      DamagedFileWarning: a stored artifact is damaged; it is moved aside and
        recomputed.
    """
    config = experiment.config if config is None else config
    artifacts = _checked(experiment.artifacts(config))
    with store.Workdir(workdir).locked() as folder:
        this = hosts.here()
        if this.first:
            text = json.dumps(to_json(config), indent=1)
            store.write_text(folder / "config.json", text)
        runner = Runner(folder)
        if this.first and events is not None:
            runner.events = Events(events)
        runner.expect([artifact.name for artifact in artifacts], artifacts)
        stored = runner.make_all(artifacts)
        if not this.first:
            return None
        page = experiment.page(config, stored)
        return write_experiment(
            experiment.title,
            name,
            config,
            page,
            runner.costs,
            folder,
            events=runner.events,
        )


def dry_run_experiment(
    experiment: Experiment, workdir: str | os.PathLike[str], *, config: Any = None
) -> str:
    """Return a table of an experiment's artifacts and of what is stored; write nothing.

    Args:
      experiment: to run.
      workdir: its directory.
      config: instead of the experiment's own.

    Raises:
      InputError: as :func:`run_experiment`.
    """
    place = store.Workdir(workdir)
    place.check()
    config = experiment.config if config is None else config
    artifacts = _checked(experiment.artifacts(config))
    runner = Runner(place.path)
    if experiment.speed is None:
        return runner.plan(artifacts)
    speed = experiment.speed(config)
    table = runner.plan(artifacts, speed)
    return (
        f"{table}\n\nAt {speed:,.0f} training samples/s here; compilation and the page"
        " come on top."
    )


def _checked(artifacts: Sequence[Artifact]) -> Sequence[Artifact]:
    """Refuse artifacts that cannot be stored under their names."""
    if not artifacts:
        raise InputError(
            "the experiment has nothing to compute: give at least one seed"
        )
    names = [artifact.name for artifact in artifacts]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two artifacts are named {name!r}")
    return artifacts
