"""What a run would cost here, before it is started."""

import os
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from tabulate import tabulate

from unlearn_jax.data import Splits
from unlearn_jax.pipeline import stages, store
from unlearn_jax.pipeline.config import RunConfig
from unlearn_jax.pipeline.plan import Plan, make_plan
from unlearn_jax.pipeline.settings import banks_folder
from unlearn_jax.replicas import fit_many, mapper
from unlearn_jax.train import LossFn, Recipe, steps_per_epoch
from unlearn_jax.types import Model


def estimate_speed(plan: Plan) -> float:
    """Training samples per second of the references' mapper here, from a few timed steps (compilation left out)."""
    spec, settings = plan.references.spec, plan.config.replicas
    models = min(settings.group, len(spec.member), 2 * len(jax.local_devices()))
    how = mapper(settings.mapper, num_models=models, devices=settings.devices)
    batch = spec.recipe.batch_size
    member = np.zeros_like(spec.member[:models])
    member[:, : min(8 * batch, member.shape[1])] = True
    short = Recipe(1, batch, spec.recipe.tx, spec.recipe.augment)
    samples = models * steps_per_epoch(int(member[0].sum()), batch) * batch
    keys = lambda: jax.random.wrap_key_data(jnp.asarray(spec.keys[:models]))  # noqa: E731
    fit_many(keys(), spec.model, spec.pool, member, short, how=how)
    began = time.perf_counter()
    fit_many(keys(), spec.model, spec.pool, member, short, how=how)
    return samples / (time.perf_counter() - began)


def dry_run(
    config: RunConfig,
    workdir: str | os.PathLike[str],
    *,
    splits: Splits | None = None,
    model: Model | None = None,
    loss_fn: LossFn | None = None,
) -> str:
    """What a run would do: its stages, what is there already, and about how long the rest takes on this machine.

    Writes nothing. The estimate times a few training steps; a gradient of the attack counts as a training sample, and
    every forget sample as needing two radii.

    Raises:
      InputError: as :func:`run`.
    """
    store.Workdir(workdir).check()
    plan = make_plan(config, banks_folder(config, workdir), splits=splits, model=model, loss_fn=loss_fn)
    speed, folder = estimate_speed(plan), pathlib.Path(workdir).resolve()
    lines, total = [], 0.0

    def add(name: str, count: int, missing: int, samples: float) -> None:
        nonlocal total
        seconds = samples / speed
        total += seconds
        lines.append([name, count, count - missing, missing, f"{seconds:.0f} s" if missing else "-"])

    for bank in (plan.originals, plan.oracles, plan.references):
        missing = len(bank.missing())
        each = bank.spec.recipe.num_epochs * bank.spec.member.sum(1).max()
        add(f"train {bank.spec.name}", len(bank.spec.member), missing, float(missing * each))
    sizes = plan.forget.sum(1)
    if any(plan.uses_attack(name) for name in plan.rows):
        parts = stages.attack_parts(plan, folder)
        todo = sum(len(parts.parts[p]) for p in parts.missing())
        add("adversarial sets", len(plan.pairs), todo, float(todo * sizes.mean() * 2 * config.attack.num_steps))
    for name in plan.rows:
        parts = stages.unlearn_parts(plan, name, folder)
        todo = sum(len(parts.parts[p]) for p in parts.missing())
        epochs = config.rows[name].get("num_epochs", 10)
        add(f"unlearn: {name}", len(plan.runs), todo, float(todo * epochs * len(plan.splits.train.labels)))
    table = tabulate(lines, headers=["stage", "models", "there", "to do", "about"], tablefmt="simple")
    return (
        f"{table}\n\n{len(plan.runs)} runs of {len(plan.rows)} methods on {plan.splits.name}; about {total / 60:.1f} "
        f"minutes at {speed:,.0f} samples/s here, plus compilation and the audit.\nModels are kept in {plan.bank_root}"
    )
