"""The run: every stage in order, what is there already reused, the table and the report at the end."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from tqdm import tqdm

from unlearn_jax.data import Splits
from unlearn_jax.pipeline import tuning
from unlearn_jax.pipeline.config.resolve import banks_folder
from unlearn_jax.pipeline.config.schema import RunConfig, to_json
from unlearn_jax.pipeline.measure import records
from unlearn_jax.pipeline.measure.results import measure_run
from unlearn_jax.pipeline.stages import models as stages
from unlearn_jax.pipeline.stages.bank import Bank
from unlearn_jax.pipeline.stages.plan import Plan, make_plan
from unlearn_jax.pipeline.store import clock, hosts, locks
from unlearn_jax.pipeline.store import folders as store
from unlearn_jax.train import LossFn
from unlearn_jax.types import Model


def progress_bar(**knobs: Any) -> tqdm:
    """A tqdm bar on standard error; silent where that is not a terminal."""
    return tqdm(**knobs, disable=None, leave=False, dynamic_ncols=True)


def run(
    config: RunConfig,
    workdir: str | os.PathLike[str],
    *,
    preset: str = "",
    splits: Splits | None = None,
    model: Model | None = None,
    loss_fn: LossFn | None = None,
) -> records.RunResult | None:
    """Trains, attacks, unlearns, audits and reports; run again, it goes on where it stopped.

    Args:
      config: the run.
      workdir: its directory: made if new, continued if it is a run's, refused if it
        holds anything else.
      preset: name for the report.
      splits: a user's own data instead of ``config.data``.
      model: a user's own network instead of ``config.model``.
      loss_fn: a user's own training objective instead of cross-entropy.

    Returns:
      The results, as ``results.json`` holds them; None in all but the first of several
      processes.

    Raises:
      InputError: unusable configuration, data or directory; nothing has been written
        then.
      DivergedError: a training ended in numbers that are not finite. (A method that
        does is reported in its row.)

    Warns:
      DamagedFileWarning: a stored file is not what was written; its folder is moved
        aside and computed anew.
    """
    place, here = store.Workdir(workdir), hosts.here()
    place.check()
    plan = make_plan(
        config,
        banks_folder(config, workdir),
        splits=splits,
        model=model,
        loss_fn=loss_fn,
    )
    tuning.check_tuning(plan)
    locks.make_folder(plan.bank_root)
    with place.locked() as folder:
        if here.first:
            store.write_text(
                folder / "config.json", json.dumps(to_json(config), indent=1)
            )
        costs: list[dict[str, Any]] = []
        _train((plan.originals, plan.references), costs)
        plan, tuned = _tune(plan, folder, costs)
        _train((plan.oracles,), costs)
        adversarial = _attack(plan, folder, costs)
        unlearned = {}
        for name in plan.rows:
            given = adversarial.get(plan.rows[name].attack)
            unlearned[name], cost, cached = stages.unlearn(
                plan, name, given, folder, progress_bar
            )
            costs.append({"name": f"unlearn: {name}", **cost, "cached": cached})
        if not here.first:
            return None
        result, arrays = measure_run(
            plan,
            unlearned,
            adversarial,
            [records.Stage(**cost) for cost in costs],
            tuning=tuned,
            preset=preset,
            workdir=folder.name,
        )
        publish(result, arrays, folder)
    return result


def _train(
    banks: Iterable[Bank], costs: list[dict[str, Any]], prefix: str = ""
) -> None:
    """Trains what banks lack, and notes what it cost."""
    for bank in (bank for bank in banks if len(bank.spec.member)):
        cost, cached = bank.ensure(progress_bar)
        costs.append(
            {
                "name": f"{prefix}{bank.spec.name} ({len(bank.spec.member)})",
                **cost,
                "cached": cached,
            }
        )


def _attack(
    plan: Plan, folder: pathlib.Path, costs: list[dict[str, Any]], prefix: str = ""
) -> dict[str | None, stages.Parts]:
    """The adversarial sets of all attacks that the rows need."""
    found: dict[str | None, stages.Parts] = {}
    for name in plan.attacks:
        found[name], cost, cached = stages.attack(plan, name, folder, progress_bar)
        label = f"adversarial sets: {name}" if name else "adversarial sets"
        costs.append({"name": prefix + label, **cost, "cached": cached})
    return found


def _tune(
    plan: Plan, folder: pathlib.Path, costs: list[dict[str, Any]]
) -> tuple[Plan, records.Tuning | None]:
    """Choose the rows' hyperparameters: the plan with the chosen values, and trials."""
    own = tuning.tuning_plan(plan)
    if own is None:
        return plan, None
    _train((own.originals, own.oracles), costs, "tuning: ")
    adversarial = _attack(own, folder, costs, "tuning: ")
    logits = {}
    for name in own.rows:
        if tuning.searches(own.config, name):
            given = adversarial.get(own.rows[name].attack)
            logits[name], cost, cached = tuning.tune_row(
                own, name, given, folder, progress_bar
            )
            costs.append({"name": f"tune: {name}", **cost, "cached": cached})
    with clock.stopwatch() as cost:
        found = tuning.choose(own, logits, tuning.shared_samples(plan, own))
    costs.append({"name": "tuning: audit", **cost, "cached": False})
    rows = dict(plan.config.rows)
    for name, search in found.rows.items():
        if search.chosen is not None:
            rows[name] = {**rows[name], **search.trials[search.chosen].options}
    config = dataclasses.replace(plan.config, rows=rows)
    return dataclasses.replace(plan, config=config), found


def publish(
    result: records.RunResult, arrays: dict[str, np.ndarray], folder: pathlib.Path
) -> None:
    """Write tables, report and results; the last file says that all are there."""
    from unlearn_jax.pipeline.report.run import write_report, write_tables

    def write_arrays(draft: pathlib.Path) -> None:
        np.savez_compressed(draft, **arrays)  # pyright: ignore[reportArgumentType]

    store.write_file(folder / "arrays.npz", write_arrays)
    write_tables(result, folder)
    write_report(result, arrays, folder / "report.html")
    text = json.dumps(result.to_json(), indent=1, allow_nan=False)
    store.write_text(folder / "results.json", text)
