"""The run: every stage in order, what is there already reused, the table and the report at the end."""

import json
import os
import pathlib
from typing import Any

import numpy as np
from tqdm import tqdm

from unlearn_jax.data import Splits
from unlearn_jax.pipeline import clock, measure, stages, store
from unlearn_jax.pipeline.config import RunConfig, to_json
from unlearn_jax.pipeline.plan import Plan, make_plan
from unlearn_jax.pipeline.results import attack_arrays, make_results
from unlearn_jax.pipeline.settings import banks_folder
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
) -> dict[str, Any]:
    """Trains, attacks, unlearns, audits and reports; run again, it goes on where it stopped.

    Args:
      config: the run.
      workdir: its directory: made if new, continued if it is a run's, refused if it holds anything else.
      preset: name for the report.
      splits: a user's own data instead of ``config.data``.
      model: a user's own network instead of ``config.model``.
      loss_fn: a user's own training objective instead of cross-entropy.

    Returns:
      What ``results.json`` holds.

    Raises:
      InputError: unusable configuration, data or directory; nothing has been written then.
      DivergedError: a training or a method ended in numbers that are not finite.
      DamagedFileError: a stored file is not what was written.
    """
    place = store.Workdir(workdir)
    place.check()
    plan = make_plan(config, banks_folder(config, workdir), splits=splits, model=model, loss_fn=loss_fn)
    store.make_folder(plan.bank_root)
    with place.locked() as folder:
        store.write_text(folder / "config.json", json.dumps(to_json(config), indent=1))
        costs: list[dict[str, Any]] = []
        for bank in (plan.originals, plan.oracles, plan.references):
            cost, cached = bank.ensure(progress_bar)
            costs.append({"name": f"{bank.spec.name} ({len(bank.spec.member)})", **cost, "cached": cached})
        adversarial = None
        if any(plan.uses_attack(name) for name in plan.rows):
            adversarial, cost, cached = stages.attack(plan, folder, progress_bar)
            costs.append({"name": "adversarial sets", **cost, "cached": cached})
        unlearned = {}
        for name in plan.rows:
            given = adversarial if plan.uses_attack(name) else None
            unlearned[name], cost, cached = stages.unlearn(plan, name, given, folder, progress_bar)
            costs.append({"name": f"unlearn: {name}", **cost, "cached": cached})
        with clock.stopwatch() as cost:
            audited, arrays = _audit(plan, unlearned)
        costs.append({"name": "audit", **cost, "cached": False})
        arrays |= attack_arrays(adversarial)
        results = make_results(plan, audited, adversarial, costs, preset, folder)
        _publish(results, arrays, folder)
    return results


def _audit(plan: Plan, unlearned: dict[str, stages.Parts]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Measures every row: ``{row: {metric: estimate}}`` and the arrays of the plots."""
    config, forget = plan.config.audit, plan.forget[plan.runs[:, 1]]
    pool = measure.make_pool(
        config, plan.pool.labels, forget, plan.runs, plan.references.logits(), plan.references.spec.member
    )
    originals, oracles = plan.originals.logits(), plan.oracles.logits()
    logits = {
        "original": [originals[o] for o in plan.runs[:, 0]],
        "retrained": [oracles[p] for p in plan.pair_of_run],
        "retrained_again": [oracles[len(plan.pairs) + p] for p in plan.pair_of_run],
        **{name: parts.read("logits") for name, parts in unlearned.items()},
    }
    rows, arrays = {}, {"forget": forget}
    with progress_bar(total=len(logits), desc="audit", unit="row") as bar:
        for name, runs in logits.items():
            rows[name], plots = measure.measure_row(config, pool, runs)
            arrays |= {f"{kind}/{name}": array for kind, array in plots.items()}
            bar.update()
    measure.add_gaps(pool, rows, "retrained")
    estimates = {
        name: {key: measure.estimate(config, pool, measured) for key, measured in metrics.items()}
        for name, metrics in rows.items()
    }
    return estimates, arrays


def _publish(results: dict[str, Any], arrays: dict[str, np.ndarray], folder: pathlib.Path) -> None:
    from unlearn_jax.pipeline.report import write_report, write_tables  # matplotlib is slow to import

    draft = folder / f".arrays-{os.getpid()}.npz"
    np.savez_compressed(draft, **arrays)  # type: ignore[arg-type]
    draft.replace(folder / "arrays.npz")
    write_tables(results, folder)
    write_report(results, arrays, folder / "report.html")
    store.write_text(
        folder / "results.json", json.dumps(results, indent=1)
    )  # last: its presence says that all is there
