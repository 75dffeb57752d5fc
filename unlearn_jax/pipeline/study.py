"""Studies: variants of one run, each in its own folder, with shared models."""

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
      variants: configurations by name of the variant.
      workdir: folder of the study; models are kept in the folder ``banks`` next to it
        unless a configuration names another one.
      preset: name of the preset, for the reports.
      parts: user's ``splits``, ``model`` and ``loss_fn`` by name of the variant, as
        arguments of :func:`unlearn_jax.pipeline.run`.
      events: folder for TensorBoard events, with a sub-folder for each variant; see
        :func:`unlearn_jax.pipeline.run`.

    Returns:
      Results by name of the variant; empty in every process but the first.

    Raises:
      InputError: see :func:`unlearn_jax.pipeline.run`.
      ReportError: see :func:`unlearn_jax.pipeline.run`; raised after all variants.
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
                    # a figure that fails must not stop the variants that follow
                    line = first_line(error)
                    faults[""] = f"the study's report cannot be written: {line}"
            # A process can hold a limited number of compiled programs, and the next
            # variant needs others.
            clear_programs()
    if faults:
        raise ReportError("; ".join(faults.values()), results)
    return results


def with_bank(config: RunConfig, workdir: str | os.PathLike[str]) -> RunConfig:
    """Return a variant's configuration with the bank that all variants share."""
    return dataclasses.replace(config, bank=str(banks_folder(config, workdir)))
