"""Experiments that are not runs: artifacts, and a page made from them.

A run (:func:`unlearn_jax.pipeline.run`) forgets samples of one classifier. Anything
else is an :class:`Experiment`: artifacts, and a function that turns them into tables,
figures and checks.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unlearn_jax.pipeline.config.schema import digest, to_json
from unlearn_jax.pipeline.measure.records import ExperimentResult
from unlearn_jax.pipeline.report.blocks import Page
from unlearn_jax.pipeline.report.page import write_experiment
from unlearn_jax.pipeline.store import folders as store
from unlearn_jax.pipeline.store import hosts
from unlearn_jax.pipeline.store.artifact import Artifact, Runner, Stored
from unlearn_jax.pipeline.store.events import Events
from unlearn_jax.pipeline.store.fingerprint import package_digest
from unlearn_jax.types import InputError


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Experiment, defined as ``EXPERIMENT`` by a file in ``experiments/``.

    Attributes:
      title: heading of the page.
      config: frozen dataclass of plain values, the defaults; the docstring under each
        field is its help.
      artifacts: function ``config -> artifacts``, which checks the configuration and
        returns the artifacts in the order of computation, inputs first.
      page: function ``(config, {name: stored artifact}) -> Page``.
      speed: function ``config -> samples per second`` of training on this machine, for
        dry runs of artifacts that have a ``price``; None for no estimate of time.
      programs: function ``config -> artifacts`` to compile for accelerators, where
        ``artifacts`` depend on numbers that must be computed first; None for
        ``artifacts``.
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
      experiment: experiment to run.
      workdir: working directory. A new one is created, a directory of this version is
        resumed, and a directory with other content is refused.
      name: name of the experiment.
      config: configuration in place of the experiment's own.
      events: folder for TensorBoard events: seconds by artifact, losses, numbers of the
        tables; needs the extra ``tensorboard``.

    Returns:
      The results, as in ``results.json``; None in every process but the first. The
      directory also has ``report.html``, ``table.md`` and a folder per artifact.

    Raises:
      InputError: unusable configuration or directory; nothing has been written in this
        case.
      ReportError: the table or the report cannot be written; ``results.json`` has been.

    Warns:
      DamagedFileWarning: a stored artifact is damaged; it is moved aside and
        recomputed.
    """
    config = experiment.config if config is None else config
    artifacts = _checked(experiment.artifacts(config))
    keys = [artifact.key for artifact in artifacts]
    hosts.check_equal(digest(to_json(config), keys, package_digest()))
    with store.Workdir(workdir).locked() as folder:
        process = hosts.current_process()
        if process.first:
            text = json.dumps(to_json(config), indent=1)
            store.write_text(folder / "config.json", text)
        runner = Runner(folder)
        if process.first and events is not None:
            runner.events = Events(events)
        runner.expect([artifact.name for artifact in artifacts], artifacts)
        stored = runner.make_all(artifacts)
        if not process.first:
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
    """Return a table of an experiment's stored and missing artifacts; write nothing.

    Args:
      experiment: experiment to run.
      workdir: working directory of the experiment.
      config: configuration in place of the experiment's own.

    Raises:
      InputError: see :func:`run_experiment`.
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
    """Return the artifacts; raise if they cannot be stored under their names."""
    if not artifacts:
        raise InputError(
            "the experiment has nothing to compute: give at least one seed"
        )
    names = [artifact.name for artifact in artifacts]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two artifacts are named {name!r}")
    return artifacts
