"""What a run would cost here, before it is started."""

import os
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tabulate import tabulate

from unlearn_jax.data import Splits
from unlearn_jax.pipeline import tuning
from unlearn_jax.pipeline.config.resolve import banks_folder
from unlearn_jax.pipeline.config.schema import RunConfig
from unlearn_jax.pipeline.stages import models as stages
from unlearn_jax.pipeline.stages.bank import Bank
from unlearn_jax.pipeline.stages.plan import Plan, make_plan
from unlearn_jax.pipeline.store import folders as store
from unlearn_jax.replicas import fit_many, mapper
from unlearn_jax.train import LossFn, Recipe, steps_per_epoch
from unlearn_jax.types import Model


def estimate_speed(plan: Plan) -> float:
    """Training samples per second of the references' mapper here, from a few timed steps (compilation left out)."""
    settings = plan.replicas
    spec = (plan.references if settings.references else plan.originals).spec
    models = min(settings.group, len(spec.member), 2 * len(jax.local_devices()))
    how = mapper(settings.mapper, num_models=models, devices=settings.devices)
    batch = spec.recipe.batch_size
    member = np.zeros_like(spec.member[:models])
    member[:, : min(8 * batch, member.shape[1])] = True
    short = Recipe(1, batch, spec.recipe.tx, spec.recipe.augment)
    samples = models * steps_per_epoch(int(member[0].sum()), batch) * batch
    keys = lambda: jax.random.wrap_key_data(jnp.asarray(spec.keys[:models]))
    fit_many(keys(), spec.model, spec.pool, member, short, mapper=how)
    began = time.perf_counter()
    fit_many(keys(), spec.model, spec.pool, member, short, mapper=how)
    return samples / (time.perf_counter() - began)


class _Ledger:
    """Stages with what they lack, and about how long that takes at ``speed`` samples per second."""

    def __init__(self, speed: float, folder: pathlib.Path) -> None:
        self.speed, self.folder = speed, folder
        self.lines: list[list[Any]] = []
        self.seconds = 0.0

    def add(self, name: str, count: int, missing: int, samples: float) -> None:
        seconds = samples / self.speed
        self.seconds += seconds
        self.lines.append(
            [
                name,
                count,
                count - missing,
                missing,
                f"{seconds:.0f} s" if missing else "-",
            ]
        )

    def banks(self, *banks: Bank, prefix: str = "") -> None:
        for bank in (bank for bank in banks if len(bank.spec.member)):
            missing = len(bank.missing())
            each = bank.spec.recipe.num_epochs * bank.spec.member.sum(1).max()
            self.add(
                f"{prefix}train {bank.spec.name}",
                len(bank.spec.member),
                missing,
                float(missing * each),
            )

    def attacks(self, plan: Plan, prefix: str = "") -> None:
        for name, attack in plan.attacks.items():
            parts = stages.attack_parts(plan, name, self.folder)
            todo = sum(len(parts.parts[p]) for p in parts.missing())
            label = f"{prefix}adversarial sets{f': {name}' if name else ''}"
            self.add(
                label,
                len(plan.pairs),
                todo,
                float(todo * plan.forget.sum(1).mean() * 2 * attack.attack.num_steps),
            )

    def method(
        self, plan: Plan, name: str, label: str, count: int, missing: int
    ) -> None:
        epochs = plan.rows[name].settings.get("num_epochs", 10)
        self.add(
            label,
            count,
            missing,
            float(missing * epochs * len(plan.splits.train.labels)),
        )


def dry_run(
    config: RunConfig,
    workdir: str | os.PathLike[str],
    *,
    splits: Splits | None = None,
    model: Model | None = None,
    loss_fn: LossFn | None = None,
) -> str:
    """What a run would do: its stages, what is there already, and about how long the rest takes on this machine.

    Writes nothing. The estimate times a few training steps; a gradient of the attack
    counts as a training sample, and every forget sample as needing two radii. With a
    search, what of the final methods is there already is not known.

    Raises:
      InputError: as :func:`run`.
    """
    store.Workdir(workdir).check()
    plan = make_plan(
        config,
        banks_folder(config, workdir),
        splits=splits,
        model=model,
        loss_fn=loss_fn,
    )
    own = tuning.tuning_plan(plan)
    ledger = _Ledger(estimate_speed(plan), pathlib.Path(workdir).resolve())
    ledger.banks(plan.originals, plan.references)
    if own is not None:
        ledger.banks(own.originals, own.oracles, prefix="tuning: ")
        ledger.attacks(own, "tuning: ")
        for name in (name for name, row in own.rows.items() if row.space):
            trials = len(tuning.make_search(own, name).trials) * len(own.runs)
            ledger.method(own, name, f"tune: {name}", trials, trials)
    if plan.forget_known:
        ledger.banks(plan.oracles)
        ledger.attacks(plan)
        for name in plan.rows:
            parts = stages.unlearn_parts(plan, name, ledger.folder)
            known = parts.missing() if own is None else range(len(parts.parts))
            ledger.method(
                plan,
                name,
                f"unlearn: {name}",
                len(plan.runs),
                sum(len(parts.parts[p]) for p in known),
            )
    table = tabulate(
        ledger.lines,
        headers=["stage", "models", "there", "to do", "about"],
        tablefmt="simple",
    )
    later = (
        ""
        if plan.forget_known
        else "\nThe rest is known once the references have chosen the forget set."
    )
    return (
        f"{table}\n\n{len(plan.rows)} methods on {plan.splits.name}; about"
        f" {ledger.seconds / 60:.1f} minutes at {ledger.speed:,.0f} samples/s here,"
        f" plus compilation and the audit.{later}\nModels are kept in {plan.bank_root}"
    )
