"""Further ways to see a run, beside its table: single samples, ensembles, requests one by one, AMUN's theorem."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax import audit
from unlearn_jax.layers import unfound
from unlearn_jax.pipeline.measure import samples as measure
from unlearn_jax.pipeline.measure.targets import target_distances
from unlearn_jax.pipeline.stages import models as stages
from unlearn_jax.pipeline.stages.plan import Plan
from unlearn_jax.replicas import map_models, mapper
from unlearn_jax.spectral import spectral_norms
from unlearn_jax.theory import summarize_terms, theorem_terms
from unlearn_jax.train import to_float
from unlearn_jax.types import AttackResult, Dataset, Model, Variables

Unlearned = Mapping[str, stages.Parts]
Arrays = Mapping[str, np.ndarray]
VULNERABLE_FPR = 0.05
"""False positive rate at which a single sample counts as found."""
_SHOWN = 10


def make_sections(
    plan: Plan,
    unlearned: Unlearned,
    adversarial: Mapping[str | None, stages.Parts],
    arrays: Arrays,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a run's configuration and design allow to see.

    Args:
      plan: the run.
      unlearned: every row's unlearned models.
      adversarial: the adversarial sets, by attack.
      arrays: ``forget [R, N_train]`` and, by row, ``ratio/ROW`` and ``margin/ROW``,
        ``[R, N]`` each.

    Returns:
      JSON-able sections by name (None where they do not apply), and arrays for plots.
    """
    config = plan.config
    seen, found = _vulnerability(plan, arrays) if _rows(arrays, "ratio") else (None, {})
    return {
        "vulnerability": seen,
        "confusion": (
            _confusion(plan, arrays) if config.forget.kind == "class" else None
        ),
        "targets": target_distances(plan) if config.audit.targets else None,
        "klom": _klom(plan, arrays) if config.audit.klom else None,
        "requests": _requests(plan, unlearned) if config.forget.requests > 1 else None,
        "norms": _norms(plan, unlearned) if config.audit.norms else None,
        "theory": (
            _theory(plan, unlearned, adversarial) if config.audit.theory else None
        ),
    }, found


def _rows(arrays: Arrays, kind: str) -> list[str]:
    return [name.partition("/")[2] for name in arrays if name.startswith(f"{kind}/")]


def _masks(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """``forget [R, N]`` over the pool, and ``test [N]``."""
    forget = plan.forget[plan.runs[:, 1]]
    count = len(plan.pool.labels)
    return (
        np.pad(forget, ((0, 0), (0, count - forget.shape[1]))),
        np.arange(count) >= forget.shape[1],
    )


def _vulnerability(
    plan: Plan, arrays: Arrays
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """How often each forgotten sample is found, over the runs that forgot it."""
    forget, test = _masks(plan)
    rows, found = {}, {}
    for name in _rows(arrays, "ratio"):
        result = audit.vulnerability(  # of the ratio: scores are a step function of it, and tie at the threshold
            arrays[f"ratio/{name}"],
            forget,
            test,
            max_fpr=VULNERABLE_FPR,
            level=plan.config.audit.level,
        )
        some = result.num_runs > 0
        shown = audit.most_vulnerable(result, num_samples=min(_SHOWN, int(some.sum())))
        rows[name] = {
            "mean": round(float(np.mean(result.fraction[some])), 4),
            "always": int(np.sum(result.fraction[some] == 1)),
            "samples": int(some.sum()),
            "most": [
                {
                    "sample": int(i),
                    "label": int(plan.pool.labels[i]),
                    "share": round(float(result.fraction[i]), 4),
                    "low": round(float(result.low[i]), 4),
                    "high": round(float(result.high[i]), 4),
                    "runs": int(result.num_runs[i]),
                }
                for i in shown
            ],
        }
        found[f"vulnerability/{name}"] = result.fraction[: forget.shape[1]][None]
    return {"max_fpr": VULNERABLE_FPR, "rows": rows}, found


def _confusion(plan: Plan, arrays: Arrays) -> dict[str, Any]:
    """Where the test samples of the forgotten classes go: mean shares over the runs of each forget set."""
    nearest, sets = dict(arrays["neighbors"].tolist()), []
    for s in range(len(plan.forget)):
        gone, runs = plan.forgotten(s), np.flatnonzero(plan.runs[:, 1] == s)
        sets.append(
            {
                "title": " and ".join(
                    _in_words(plan, int(c), nearest.get(int(c))) for c in gone
                ),
                "classes": [int(c) for c in gone],
                "neighbors": [nearest.get(int(c)) for c in gone],
                "rows": {
                    name: [
                        round(float(share), 4)
                        for share in arrays[f"confusion/{name}"][runs].mean(0)
                    ]
                    for name in _rows(arrays, "confusion")
                },
            }
        )
    return {"sets": sets}


def _in_words(plan: Plan, own: int, neighbor: int | None) -> str:
    names = plan.splits.class_names
    named = lambda c: (
        f"class {c}"
        + (f" ({names[c]})" if len(names) > c and names[c] != str(c) else "")
    )
    return named(own) + (f", nearest {named(neighbor)}" if neighbor is not None else "")


def _klom(plan: Plan, arrays: Arrays) -> dict[str, Any]:
    """KLoM of every row against the ensemble of retrained models; of the second such ensemble it is the floor."""
    (forget, *_), test = _masks(plan)
    parts = {"forget": forget, "retain": ~forget & ~test, "test": test}
    rows = {}
    for name in _rows(arrays, "margin"):
        if name != "retrained":
            found = audit.klom(arrays[f"margin/{name}"], arrays["margin/retrained"])
            rows[name] = {
                part: _klom_part(plan, found[mask]) for part, mask in parts.items()
            }
    return {"models": len(plan.runs), "rows": rows}


def _klom_part(plan: Plan, values: np.ndarray) -> dict[str, Any]:
    audited = plan.config.audit
    summary = audit.klom_summary(
        values,
        level=audited.level,
        num_replicates=audited.num_bootstrap,
        seed=audited.seed,
    )
    return {
        "mean": round(summary.mean, 4),
        "low": round(summary.mean_interval.low, 4),
        "high": round(summary.mean_interval.high, 4),
        "median": round(summary.median, 4),
        "p95": round(summary.p95, 4),
    }


def _requests(plan: Plan, unlearned: Unlearned) -> dict[str, Any]:
    """The published score after every request: AUC of D_R against D_F minus AUC of D_F against test.

    D_F is the request just made; D_R is what has not been asked to be forgotten so far.
    For the retrained models, which never saw any request, D_R is what is left after the
    last.
    """
    config, labels = plan.config.audit, plan.pool.labels
    forget, _ = _masks(plan)
    pool = measure.make_pool(
        config,
        labels,
        plan.forget[plan.runs[:, 1]],
        plan.runs,
        plan.references.logits(),
        plan.references.spec.member,
    )
    requests = plan.requests[plan.runs[:, 1]]
    requests = np.pad(requests, ((0, 0), (0, 0), (0, len(labels) - requests.shape[2])))
    originals, oracles = plan.originals.logits(), plan.oracles.logits()
    count = requests.shape[1]
    steps = {
        "original": [np.stack([originals[o]] * count) for o in plan.runs[:, 0]],
        "retrained": [np.stack([oracles[p]] * count) for p in plan.pair_of_run],
        **{name: parts.read("steps") for name, parts in unlearned.items()},
    }
    rows: dict[str, Any] = {}
    for name, runs in steps.items():
        if not all(measure.usable(config, labels, list(run)) for run in runs):
            continue
        rows[name] = []
        for k in range(count):
            gone = (
                forget
                if name == "retrained"
                else np.asarray(requests[:, : k + 1].any(1))
            )
            scores = measure.request_scores(
                config, pool, np.stack([run[k] for run in runs]), requests[:, k], gone
            )
            rows[name].append(
                {
                    key: measure.estimate(config, pool, measured)
                    for key, measured in scores.items()
                }
            )
    return {"count": count, "size": int(requests[0, 0].sum()), "rows": rows}


def _theory(
    plan: Plan, unlearned: Unlearned, adversarial: Mapping[str | None, stages.Parts]
) -> dict[str, Any]:
    """The terms of Theorem 4.1 of every row that is given adversarial examples: means over samples, then over runs."""
    originals, oracles, one = (
        plan.originals.variables(),
        plan.oracles.variables(),
        partial(_terms, plan),
    )
    rows = {}
    for name, parts in unlearned.items():
        attack = plan.rows[name].attack
        if attack is None or plan.rows[name].adaptive:
            continue
        given, found = adversarial[attack], []
        for items, variables in parts.variables(originals):
            runs, pairs = plan.runs[items], plan.pair_of_run[items]
            index = np.stack([np.flatnonzero(plan.forget[s]) for s in runs[:, 1]])
            stacked = (
                stages.take_models(originals, runs[:, 0]),
                stages.take_models(oracles, pairs),
                variables,
                jnp.asarray(index),
                stages.stack_attack(given, pairs),
            )
            settings = plan.config.replicas
            how = mapper(
                settings.mapper, num_models=len(items), devices=settings.devices
            )
            found.append(map_models(how, one, stacked, plan.splits.train))
        summary = {
            key: np.concatenate([np.asarray(part[key]) for part in found])
            for key in found[0]
        }
        rows[name] = {
            key: {
                "mean": float(np.mean(values)),
                "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                "values": [float(value) for value in values],
            }
            for key, values in _in_order(parts, summary).items()
        }
    return {"rows": rows}


def _norms(plan: Plan, unlearned: Unlearned) -> dict[str, Any]:
    """The true spectral norm of every layer, by Lanczos: mean and extremes over the models of each row."""
    originals, oracles = plan.originals.variables(), plan.oracles.variables()
    count = len(plan.pairs)
    stacks = {
        "original": [originals],
        "retrained": [jax.tree.map(lambda leaf: leaf[:count], oracles)],
        "retrained_again": [jax.tree.map(lambda leaf: leaf[count:], oracles)],
        **{
            name: [stack for _, stack in parts.variables(originals)]
            for name, parts in unlearned.items()
        },
    }
    one, settings = (
        partial(_layer_norms, plan.model, plan.pool.images.shape[1:]),
        plan.config.replicas,
    )
    rows = {}
    for name, parts in stacks.items():
        found = []
        for stack in parts:
            how = mapper(
                settings.mapper,
                num_models=len(jax.tree.leaves(stack)[0]),
                devices=settings.devices,
            )
            found.append(map_models(how, one, jax.tree.map(jnp.asarray, stack), ()))
        layers = {
            key: np.concatenate([np.asarray(part[key]) for part in found])
            for key in found[0]
        }
        rows[name] = {
            key: {
                "mean": float(values.mean()),
                "low": float(values.min()),
                "high": float(values.max()),
            }
            for key, values in layers.items()
        }
    image = jax.ShapeDtypeStruct((1, *plan.pool.images.shape[1:]), jnp.float32)
    variables = jax.eval_shape(plan.model.init, jax.random.key(0))
    return {
        "max_norm": plan.config.training.max_norm,
        "rows": rows,
        "unfound": unfound(plan.model.apply, variables, image),
    }


def _layer_norms(
    model: Model, shape: tuple[int, ...], variables: Variables, _: Any
) -> dict[str, jax.Array]:
    return spectral_norms(model.apply, variables, jnp.zeros((1, *shape)))


def _in_order(
    parts: stages.Parts, summary: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Values of the runs in their order; parts hold them in another where forget sets differ in size."""
    order = np.argsort([item for items in parts.parts for item in items])
    return {key: values[order] for key, values in summary.items()}


def _terms(plan: Plan, item: Any, train: Dataset) -> dict[str, jax.Array]:
    original, retrained, now, index, given = item
    samples = Dataset(to_float(train.images[index]), train.labels[index])
    terms = theorem_terms(
        plan.model.apply, original, retrained, now, samples, AttackResult(*given)
    )
    return summarize_terms(terms)
