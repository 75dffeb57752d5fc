"""What a run found, as one JSON-able record: the source of every table, file and picture."""

import datetime
import math
import pathlib
import shlex
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from unlearn_jax import __version__
from unlearn_jax.attacks import LineSearch, status_counts
from unlearn_jax.pipeline.config.resolve import HARD, ResolvedAttack
from unlearn_jax.pipeline.config.schema import RunConfig
from unlearn_jax.pipeline.measure import kinds as measures
from unlearn_jax.pipeline.measure.classes import FEWEST
from unlearn_jax.pipeline.stages import models as stages
from unlearn_jax.pipeline.stages.plan import Plan
from unlearn_jax.pipeline.store import folders as store
from unlearn_jax.train import steps_per_epoch
from unlearn_jax.types import AttackResult


def attack_arrays(
    adversarial: Mapping[str | None, stages.Parts],
) -> dict[str, np.ndarray]:
    """Radius, distance and status of every sample of the run's own attack, ``[1, total]``; nothing without one."""
    if "" not in adversarial:
        return {}
    return _attacked(adversarial[""])


def _attacked(parts: stages.Parts) -> dict[str, np.ndarray]:
    names = ("epsilon", "distance", "status")
    return {
        name: np.concatenate([np.ravel(part) for part in parts.read(name)])[None]
        for name in names
    }


def _attack_summary(norm: str, parts: stages.Parts) -> dict[str, Any]:
    arrays = _attacked(parts)
    empty = np.zeros(0)
    fields = (empty, empty, arrays["epsilon"], arrays["distance"], arrays["status"])
    result = AttackResult(*fields)  # pyright: ignore[reportArgumentType]
    won = np.asarray(result.status)[0] <= 1
    radii, counts = np.unique(arrays["epsilon"][0][won], return_counts=True)
    distance = arrays["distance"][0][won]
    return {
        "status": status_counts(result),
        "radii": [
            [float(f"{radius:.6g}"), int(count)]
            for radius, count in zip(radii, counts, strict=True)
        ],
        "distance_quantiles": (
            {
                str(q): float(np.quantile(distance, q))
                for q in (0.05, 0.25, 0.5, 0.75, 0.95)
            }
            if won.any()
            else {}
        ),
        "norm": norm,
    }


def _row(
    plan: Plan, name: str, metrics: dict[str, Any], cost: dict[str, Any] | None
) -> dict[str, Any]:
    fixed = {
        "original": ("Original (do nothing)", "original", "nothing"),
        "retrained": ("Retrained (oracle)", "oracle", "retrain"),
        "retrained_again": ("Retrained again (seed floor)", "second_oracle", "retrain"),
    }
    if name in fixed:
        label, kind, method = fixed[name]
        knobs = {}
    else:
        row = plan.rows[name]
        label, kind, method = row.label, "method", row.name
        knobs = row.settings
    about = {
        "key": name,
        "label": label,
        "kind": kind,
        "method": method,
        "knobs": knobs,
    }
    return {**about, "metrics": metrics, "cost": cost}


def without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity: None stands for them."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _attack_gradients(chosen: ResolvedAttack, parts: stages.Parts) -> float:
    """Gradients that one adversarial set takes, at most: every radius up to the last one in full."""
    if isinstance(chosen.attack, LineSearch):
        return float(np.mean([len(epsilon) for epsilon in parts.read("epsilon")]))
    tried = [
        np.log2(np.maximum(epsilon, chosen.epsilon_init) / chosen.epsilon_init) + 1
        for epsilon in parts.read("epsilon")
    ]
    return float(
        np.mean([chosen.attack.num_steps * np.ceil(radii).sum() for radii in tried])
    )


def _costs(
    plan: Plan,
    stage_costs: list[dict[str, Any]],
    unlearned: Mapping[str, stages.Parts],
    adversarial: Mapping[str | None, stages.Parts],
) -> dict[str, dict[str, Any]]:
    """Per model: gradients of single samples and seconds without compilation, and their share of a retraining's."""
    by_name = {cost["name"].split(" (")[0]: cost for cost in stage_costs}
    steady = lambda name: (
        by_name[name]["seconds"] - by_name[name]["compile_seconds"]
        if name in by_name
        else 0.0
    )
    retrain = steady("retrained") / (2 * len(plan.pairs))
    recipe = plan.oracles.spec.recipe
    epoch = (
        steps_per_epoch(int(plan.oracles.spec.member.sum(1).max()), recipe.batch_size)
        * recipe.batch_size
    )
    found = {
        name: {
            "gradients": recipe.num_epochs * epoch,
            "relative_gradients": 1.0,
            "relative": 1.0,
            "seconds": round(retrain, 4),
        }
        for name in ("retrained", "retrained_again")
    }
    for name in plan.rows:
        seconds = steady(f"unlearn: {name}") / len(plan.runs)
        attack = plan.rows[name].attack
        gradients = float(
            np.mean(
                [int(np.sum(count)) for count in unlearned[name].read("num_gradients")]
            )
        )
        if attack is not None:
            gradients += _attack_gradients(plan.attacks[attack], adversarial[attack])
            seconds += steady(
                f"adversarial sets: {attack}" if attack else "adversarial sets"
            ) / len(plan.pairs)
        found[name] = {
            "gradients": gradients,
            "relative_gradients": round(gradients / (recipe.num_epochs * epoch), 4),
            "relative": round(seconds / retrain, 4) if retrain > 0 else None,
            "seconds": round(seconds, 4),
        }
    return found


def make_results(
    plan: Plan,
    audited: dict[str, Any],
    unlearned: Mapping[str, stages.Parts],
    adversarial: Mapping[str | None, stages.Parts],
    costs: list[dict[str, Any]],
    preset: str,
    folder: pathlib.Path,
    shared: float | None,
) -> dict[str, Any]:
    """Puts a run's estimates, costs and circumstances together.

    Args:
      plan: the run.
      audited: ``{row: {metric: estimate}}``.
      unlearned: every row's unlearned models.
      adversarial: the adversarial sets, by attack.
      costs: of the stages, in order.
      preset: name for the report; empty when called from Python.
      folder: the working directory.
      shared: share of the samples that knobs were chosen on that are also in a reported
        forget set; None where nothing was searched.

    Returns:
      What ``results.json`` holds.
    """
    config, row_costs = plan.config, _costs(plan, costs, unlearned, adversarial)
    train, test = plan.splits.train, plan.splits.test
    present = {key for metrics in audited.values() for key in metrics}
    level = config.audit.level
    return {
        "unlearn_jax": __version__,
        "preset": preset,
        "title": config.title,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": (
            shlex.join(["unlearn-jax", *sys.argv[1:]])
            if preset
            else "unlearn_jax.pipeline.run(...)"
        ),
        "config": plan.settings,
        "config_hash": plan.settings_digest,
        "environment": store.versions(),
        "data": {
            "name": plan.splits.name,
            "num_train": len(train.labels),
            "num_test": len(test.labels),
            "num_classes": plan.splits.num_classes,
            "image_shape": list(train.images.shape[1:]),
            "digest": plan.splits.digest,
        },
        "design": {
            "originals": len(config.replicas.originals),
            "forget_sets": len(plan.forget),
            "repeats": config.replicas.repeats,
            "runs": len(plan.runs),
            "num_forget": int(plan.forget.sum(1).max()),
            "references": config.replicas.references,
        },
        "banks": {
            bank.spec.name: bank.spec.key
            for bank in (plan.originals, plan.oracles, plan.references)
        },
        "metrics": _metrics(config, present),
        "rows": [
            _row(plan, name, metrics, row_costs.get(name))
            for name, metrics in audited.items()
        ],
        "runs": [
            {
                "original": config.replicas.originals[o],
                "forget_set": plan.forget_names[s],
                "repeat": int(r),
            }
            for o, s, r in plan.runs
        ],
        "attack": (
            _attack_summary(plan.attacks[""].attack.norm, adversarial[""])
            if "" in adversarial
            else None
        ),
        "attacks": {
            name: _attack_summary(chosen.attack.norm, adversarial[name])
            for name, chosen in plan.attacks.items()
            if name
        },
        "stages": costs,
        "level": level,
        "num_bootstrap": config.audit.num_bootstrap,
        "checks": _checks(config, audited, plan.runs[:, 1]),
        "notes": notes_of(plan, shared),
        "workdir": folder.name,
    }


def _metrics(config: RunConfig, present: set[str]) -> list[dict[str, str]]:
    """What the numbers are; for sets that are not random, only the retrained models say what is good."""
    hard = config.forget.kind in HARD
    moved = {
        "target": "retrained",
        "help": (
            "How well RMIA tells forget samples from test samples. Good: as retrained."
        ),
    }
    known = measures.measures_of(config).metrics
    return [
        {**m, **(moved if hard and m["key"] == "ft_auc" else {})}
        for m in known
        if m["key"] in present
    ]


_CLASS_NOTE = (
    "Every row is compared with the retrained models of its own runs, the retrained row"
    " with the second ones."
)
_ULIRA_NOTES = (
    f"U-LiRA is left out: it needs {FEWEST} originals or more.",
    (
        "U-LiRA's shadow models are the run's own: every original unlearned by the"
        " method under test, and every retrained model; a pair is held out at a time."
    ),
)


def notes_of(plan: Plan, shared: float | None) -> list[str]:
    """What a reader must know of the numbers; ``shared`` as for :func:`make_results`."""
    config, classes = plan.config, plan.config.forget.kind == "class"
    tpr = (
        "FT TPR and RT TPR are at a false positive rate of at most"
        f" {100 * config.audit.max_fpr:g}%."
    )
    notes = [
        _CLASS_NOTE if classes else tpr,
        (
            "Intervals resample samples, originals and forget sets together; with few"
            " originals they are wide on purpose."
        ),
        (
            f"{'MIA (Kodge), MIA (SalUn) and MIA-NN' if classes else 'MIS'}:"
            f" {'the' if classes else 'its'}"
            f" interval{'s hold' if classes else ' holds'} the fitted SVC fixed and"
            f" resample{'' if classes else 's'} the samples that it is asked about"
            " only."
        ),
        (
            "Cost is wall time per model without compilation, the adversarial set"
            " included, over a retraining's; jobs beside the run change it. Gradients"
            " of single samples, counted in results.json, do not depend on the machine;"
            " those of an adversarial set are an upper bound. The search is not part of"
            " a method's cost."
        ),
    ]
    if classes and config.audit.ulira:
        notes.insert(1, _ULIRA_NOTES[len(config.replicas.originals) >= FEWEST])
    if config.replicas.repeats > 1:
        notes.append(
            "Repeats share their original and retrained models, which count once per"
            " repeat in those rows."
        )
    if config.forget.kind in HARD:
        notes.append(
            "The references that chose the hard samples also audit them, so FT AUC of"
            " retrained models is not 50: read every row beside the retrained one."
        )
    if shared is not None and classes:
        notes.append(
            "Knobs were chosen on originals and forgotten classes of their own. Test"
            " samples of the classes that both keep are shared, and intervals take the"
            " choice as given."
        )
    elif shared is not None:
        notes.append(
            "Knobs were chosen on originals and forget sets of their own;"
            f" {100 * shared:.0f}% of the samples of those sets are also in a reported"
            " one. Test samples and references are shared, and intervals take the"
            " choice as given."
        )
    return notes


def _shown(estimate: dict[str, Any], level: float) -> str:
    return (
        f"{estimate['mean']:.1f} [{estimate['low']:.1f}, {estimate['high']:.1f}]"
        f" ({100 * level:g}%)"
    )


def _spread_within(sets: np.ndarray, *estimates: dict[str, Any]) -> float:
    """Standard deviation of the values about the mean of their own forget set, pooled over sets and estimates."""
    values = np.array([estimate["values"] for estimate in estimates])
    squares = [
        np.sum((values[:, sets == s] - values[:, sets == s].mean()) ** 2)
        for s in np.unique(sets)
    ]
    return float(np.sqrt(np.sum(squares) / max(values.size - len(squares), 1)))


def _class_checks(
    config: RunConfig, audited: dict[str, Any], sets: np.ndarray
) -> list[dict[str, Any]]:
    """What the attacks should do on models whose answer is known, where classes are forgotten."""
    level, checks = config.audit.level, []
    again, original = audited["retrained_again"], audited["original"]
    if "ulira" in again:
        checks += [
            {
                "name": "U-LiRA is fair: it cannot tell two retrained models apart",
                "passed": again["ulira"]["low"] <= 50 <= again["ulira"]["high"],
                "detail": (
                    f"of second retrained models: {_shown(again['ulira'], level)}; the"
                    " interval should hold 50"
                ),
            },
            {
                "name": "U-LiRA has power: it can tell original from retrained models",
                "passed": original["ulira"]["low"] > 50,
                "detail": (
                    f"of originals: {_shown(original['ulira'], level)}; the interval"
                    " should lie above 50"
                ),
            },
        ]
    if "mia_nn" in again:
        first, second = audited["retrained"]["mia_nn"], again["mia_nn"]
        checks.append(
            {
                "name": (
                    "MIA-NN is fair: two retrained models score the same, within their"
                    " spread"
                ),
                "passed": (
                    abs(first["mean"] - second["mean"])
                    <= _spread_within(sets, first, second)
                    and first["mean"] > 0
                ),
                "detail": (
                    f"{_shown(first, level)} and {_shown(second, level)}; a score of 0"
                    " would tell nothing"
                ),
            }
        )
    return checks


def _checks(
    config: RunConfig, audited: dict[str, Any], sets: np.ndarray
) -> list[dict[str, Any]]:
    """Whether the numbers can be trusted.

    What the attack should do on models whose answer is known is asked for random forget
    sets only: no test sample stands for a whole class, or for the hardest samples.
    """
    lost = [
        config.rows[name].label or name
        for name, metrics in audited.items()
        if not metrics
    ]
    checks = [
        {
            "name": "every method ends in finite numbers",
            "passed": not lost,
            "detail": (
                f"not finite in at least one run: {', '.join(lost)}; lower its learning"
                " rate"
                if lost
                else "no logit of any unlearned model is infinite or NaN"
            ),
        }
    ]
    if config.forget.kind == "class":
        return [*_class_checks(config, audited, sets), *checks]
    if config.forget.kind not in ("random", "file"):
        return checks
    level, retrained, original = (
        config.audit.level,
        audited["retrained"]["ft_auc"],
        audited["original"]["ft_auc"],
    )
    return [
        {
            "name": (
                "the attack is fair: it cannot tell forget from test samples on models"
                " that never saw them"
            ),
            "passed": retrained["low"] <= 50 <= retrained["high"],
            "detail": (
                f"FT AUC of retrained models: {_shown(retrained, level)}; the interval"
                " should hold 50"
            ),
        },
        {
            "name": "the attack has power: it can tell them on the original models",
            "passed": original["low"] > 50,
            "detail": (
                f"FT AUC of originals: {_shown(original, level)}; the interval should"
                " lie above 50"
            ),
        },
        *checks,
    ]
