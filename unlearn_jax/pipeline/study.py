"""Studies: variants of one run, each in a folder of its own, with shared models."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from unlearn_jax.pipeline._run import run
from unlearn_jax.pipeline.config.resolve import banks_folder
from unlearn_jax.pipeline.config.schema import RunConfig
from unlearn_jax.pipeline.measure.records import RunResult
from unlearn_jax.pipeline.store import folders as store
from unlearn_jax.replicas import clear_programs
from unlearn_jax.types import ReportError, first_line


def run_study(
    variants: Mapping[str, RunConfig],
    workdir: str | os.PathLike[str],
    *,
    preset: str = "",
    parts: Mapping[str, Mapping[str, Any]] | None = None,
    events: str | os.PathLike[str] | None = None,
) -> dict[str, RunResult]:
    """Run every variant, each in a sub-folder, and compare their tables.

    Args:
      variants: by name.
      workdir: the study's folder; models are kept in its folder ``banks`` unless a
        configuration names another one.
      preset: name for the reports.
      parts: by variant, a user's ``splits``, ``model`` and ``loss_fn``, arguments of
        :func:`unlearn_jax.pipeline.run`.
      events: folder for TensorBoard events, a sub-folder for each variant; see
        :func:`unlearn_jax.pipeline.run`.

    Returns:
      Every variant's results; nothing in all but the first of several processes.

    Raises:
      InputError: as :func:`unlearn_jax.pipeline.run`.
      ReportError: as :func:`unlearn_jax.pipeline.run`, after all variants.
    """
    from unlearn_jax.pipeline.report.study import write_study

    results: dict[str, RunResult] = {}
    faults: dict[str, str] = {}
    with store.Workdir(workdir).locked() as folder:
        for name, config in variants.items():
            arguments = (parts or {}).get(name, {})
            config = with_bank(config, folder)
            if events is not None:
                arguments = {**arguments, "events": os.path.join(events, name)}
            try:
                result = run(config, folder / name, preset=preset, **arguments)
            except ReportError as error:
                result = error.result
                faults[name] = str(error)
            if result is not None:
                results[name] = result
                try:
                    write_study(results, folder)
                    faults.pop("", None)
                except Exception as error:
                    # the variants to come are not lost to a figure
                    line = first_line(error)
                    faults[""] = f"the study's report cannot be written: {line}"
            # A process can map only so many compiled programs, and the next variant
            # needs others.
            clear_programs()
    if faults:
        raise ReportError("; ".join(faults.values()), results)
    return results


def with_bank(config: RunConfig, workdir: str | os.PathLike[str]) -> RunConfig:
    """Return a variant's configuration with the bank that all variants share."""
    return dataclasses.replace(config, bank=str(banks_folder(config, workdir)))
