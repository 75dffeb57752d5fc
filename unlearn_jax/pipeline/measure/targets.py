"""How near the targets of class unlearning are to what retrained models say, before anything is trained on them.

A method that learns a target on D_F can be no better than the target. Every similarity
is tried at several strengths, and spoiled in several ways. Strength 0 is the floor;
what a similarity of classes can reach at best is shown by tilts read off a second
retrained model: its confusion, and the ratio of its mean predictions to the original's.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.losses import kl_from_logits, tilted_target
from unlearn_jax.methods.influence_target import influence_targets
from unlearn_jax.methods.similarity import excluded_classes, similarity_scores
from unlearn_jax.pipeline.stages.models import take_models
from unlearn_jax.pipeline.stages.plan import Plan, purpose_key
from unlearn_jax.replicas import map_models, mapper
from unlearn_jax.train import predict, to_float
from unlearn_jax.types import Array, Dataset, Problem

BETAS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Strengths tried; 10 is the paper's."""
FLOOR = 1e-12
SIMILARITIES: dict[str, dict[str, Any]] = {
    "weights": {"kind": "weights"},
    "weights, not centered": {"kind": "weights", "center": False},
    "weights, 3 components": {"kind": "weights", "num_components": 3},
    "weights, temperature 0.1": {"kind": "weights", "temperature": 0.1},
    "centroids": {"kind": "centroids"},
    "features": {"kind": "features"},
    "neighbors": {"kind": "neighbors"},
}
SPOILED: dict[str, dict[str, Any]] = {
    **{
        f"weights, noise {scale:g}": {
            "kind": "weights",
            "perturb": "noise",
            "noise": scale,
        }
        for scale in (0.1, 0.3, 1, 3)
    },
    "weights, permuted": {"kind": "weights", "perturb": "permute"},
    "weights, sign flipped": {"kind": "weights", "perturb": "flip"},
    "weights, first two swapped": {"kind": "weights", "perturb": "swap"},
}
_ALONE = ("second retrained model", "original model", "no tilt (beta 0)")
RIDGES = (1e-4, 1e-3, 1e-2)
"""Ridges of the influence-predicted target."""


def target_distances(plan: Plan) -> dict[str, Any]:
    """KL(retrained || target) on D_F, in nats, for every target; with the models' own distances beside.

    Args:
      plan: of a run that forgets classes, its banks trained.

    Returns:
      ``betas``, and ``rows`` of ``name`` and ``values``: the mean over runs for each
      beta (a single value where there is none), with ``low`` and ``high``, the smallest
      and the largest run.
    """
    originals, oracles = plan.originals.variables(), plan.oracles.logits()
    keys = jnp.stack(
        [purpose_key("targets", *(int(n) for n in run)) for run in plan.runs]
    )
    train = len(plan.splits.train.labels)
    first = np.stack([oracles[p][:train] for p in plan.pair_of_run])
    second = np.stack([oracles[len(plan.pairs) + p][:train] for p in plan.pair_of_run])
    stacked = (
        keys,
        take_models(originals, plan.runs[:, 0]),
        jnp.asarray(plan.forget[plan.runs[:, 1]]),
        first,
        second,
    )
    settings = plan.config.replicas
    found: dict[str, list[Any]] = {}
    for size in sorted(
        {int(n) for n in plan.forget.sum(1)}
    ):  # sets of one size share a program
        runs = np.flatnonzero(plan.forget[plan.runs[:, 1]].sum(1) == size)
        how = mapper(settings.mapper, num_models=len(runs), devices=settings.devices)
        some = jax.tree.map(lambda leaf, runs=runs: leaf[runs], stacked)
        for name, values in map_models(
            how, partial(_distances, plan, size), some, plan.splits.train
        ).items():
            found.setdefault(name, []).append(np.asarray(values))
    influence = (name for name in found if name.startswith("influence"))
    order = (
        *_ALONE,
        "retrained confusion",
        "retrained over renormalized",
        *influence,
        *SIMILARITIES,
        *SPOILED,
    )
    return {
        "betas": list(BETAS),
        "rows": [_row(name, np.concatenate(found[name])) for name in order],
    }


def _row(name: str, values: np.ndarray) -> dict[str, Any]:
    values = values.reshape(len(values), -1)
    show = lambda numbers: [round(float(number), 4) for number in numbers]
    return {
        "name": name,
        "values": show(values.mean(0)),
        "low": show(values.min(0)),
        "high": show(values.max(0)),
    }


def _distances(plan: Plan, size: int, item: Any, train: Dataset) -> dict[str, Array]:
    """One run's distances: a scalar, or one for each beta."""
    key, variables, forget, first, second = item
    problem = Problem(plan.model, variables, train, forget, size)
    rows = jnp.nonzero(forget, size=size)[0]
    labels, truth, again = train.labels[rows], first[rows], second[rows]
    logits = predict(plan.model.apply, variables, to_float(train.images[rows]))
    table = excluded_classes(problem, logits.shape[-1])
    excluded = table[labels]

    def away(target: Array) -> Array:
        return jnp.mean(kl_from_logits(truth, jnp.log(jnp.maximum(target, FLOOR))))

    def tilted(scores: Array) -> Array:
        return jnp.stack(
            [away(tilted_target(logits, excluded, scores, beta=beta)) for beta in BETAS]
        )

    found = {
        "second retrained model": away(jax.nn.softmax(again)),
        "original model": away(jax.nn.softmax(logits)),
        "no tilt (beta 0)": away(
            tilted_target(logits, excluded, jnp.zeros_like(logits), beta=0.0)
        ),
        "retrained confusion": tilted(_confusion(again, labels, table)[labels]),
        "retrained over renormalized": away(
            tilted_target(
                logits,
                excluded,
                _log_ratio(again, logits, labels, table)[labels],
                beta=1.0,
            )
        ),
    }
    for place, (name, knobs) in enumerate({**SIMILARITIES, **SPOILED}.items()):
        own = jax.random.fold_in(key, place)
        found[name] = tilted(similarity_scores(own, problem, table, **knobs))
    for ridge in RIDGES:
        found[f"influence, ridge {ridge:g}"] = away(
            influence_targets(problem, ridge=ridge)
        )
        found[f"influence, ridge {ridge:g}, refitted"] = away(
            influence_targets(problem, ridge=ridge, num_removal_steps=20)
        )
    return found


def _log_mean(probs: Array, labels: Array) -> Array:
    """``[C, C]``: logarithms of the mean prediction for each class."""
    one_hot = jax.nn.one_hot(labels, probs.shape[-1])
    return jnp.log(
        jnp.maximum(one_hot.T @ probs / jnp.maximum(one_hot.sum(0), 1)[:, None], FLOOR)
    )


def _log_ratio(
    retrained: Array, original: Array, labels: Array, excluded: Array
) -> Array:
    """``[C, C]``: by how much the retrained model's mean prediction for each class exceeds the renormalized one."""
    renormalized = tilted_target(
        original, excluded[labels], jnp.zeros_like(original), beta=0.0
    )
    return _log_mean(jax.nn.softmax(retrained), labels) - _log_mean(
        renormalized, labels
    )


def _confusion(logits: Array, labels: Array, excluded: Array) -> Array:
    """``[C, C]``: where retrained models send each class, as a similarity: log of the mean probability, in [-1, 1]."""
    scores = _log_mean(jax.nn.softmax(logits), labels)
    kept = ~excluded
    middle = jnp.sum(jnp.where(kept, scores, 0), -1, keepdims=True) / jnp.sum(
        kept, -1, keepdims=True
    )
    scores = scores - middle
    return scores / jnp.maximum(
        jnp.max(jnp.where(kept, jnp.abs(scores), 0), -1, keepdims=True), FLOOR
    )
