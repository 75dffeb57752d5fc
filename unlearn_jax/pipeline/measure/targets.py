"""Distances of the targets of class unlearning from retrained models, before training.

A method that learns a target on D_F cannot be better than the target. Every similarity
is tried at several strengths, and some are corrupted in several ways. Strength 0 is the
baseline. The best result that a similarity of classes can reach is shown by two tilts
from a second retrained model: its confusion, and the ratio of its mean predictions to
the original's. A tilt fitted to the retrained models of the other forget sets does not
use a retrained model of the class that it is measured on.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax import audit
from unlearn_jax.losses import kl_from_logits, tilted_target
from unlearn_jax.methods.influence_target import influence_targets
from unlearn_jax.methods.similarity import (
    excluded_classes,
    fit_tilt,
    pair_descriptors,
    similarity_scores,
)
from unlearn_jax.pipeline.measure.records import TargetDistance, Targets
from unlearn_jax.pipeline.measure.rows import round_all
from unlearn_jax.pipeline.stages.models import take_models
from unlearn_jax.pipeline.stages.plan import Plan, purpose_key
from unlearn_jax.replicas import map_models
from unlearn_jax.train import predict
from unlearn_jax.types import Array, Dataset, Problem, Variables, to_float

BETAS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Strengths tried; 10 is the paper's."""
RIDGES = (1e-4, 1e-3, 1e-2)
"""Ridges of the influence-predicted target."""
FLOOR = 1e-12
"""Least probability inside a logarithm."""
UNTILTED = "no tilt (beta 0)"
"""Target that the others are compared with."""
_weights = partial(similarity_scores, kind="weights")
SIMILARITIES: dict[str, Callable[..., Array]] = {
    "weights": _weights,
    "weights, not centered": partial(_weights, center=False),
    "weights, 3 components": partial(_weights, num_components=3),
    "weights, temperature 0.1": partial(_weights, temperature=0.1),
    "centroids": partial(similarity_scores, kind="centroids"),
    "features": partial(similarity_scores, kind="features"),
    "neighbors": partial(similarity_scores, kind="neighbors"),
    "weights, noise 0.1": partial(_weights, perturb="noise", noise=0.1),
    "weights, noise 0.3": partial(_weights, perturb="noise", noise=0.3),
    "weights, noise 1": partial(_weights, perturb="noise", noise=1),
    "weights, noise 3": partial(_weights, perturb="noise", noise=3),
    "weights, permuted": partial(_weights, perturb="permute"),
    "weights, sign flipped": partial(_weights, perturb="flip"),
    "weights, first two swapped": partial(_weights, perturb="swap"),
    "weights, 3 components, temperature 0.1": partial(
        _weights, num_components=3, temperature=0.1
    ),
}
"""Similarities tried, including corrupted ones, by name.

Add new ones at the end, because the position of a similarity sets its random numbers.
"""


def target_distances(plan: Plan) -> Targets:
    """Measure KL(retrained || target) on D_F for every target, and for whole models.

    Args:
      plan: plan of a run that forgets classes, with trained banks.
    """
    originals = plan.originals.variables()
    oracles = plan.oracles.logits()
    train = plan.splits.train
    count = len(train.labels)
    num_pairs = len(plan.pairs)
    seeds = plan.runs.tolist()
    first = [oracles[pair][:count] for pair in plan.pair_of_run]
    second = [oracles[num_pairs + pair][:count] for pair in plan.pair_of_run]
    forget = plan.forget[plan.runs[:, 1]]
    stacked = (
        jnp.stack([purpose_key("targets", *numbers) for numbers in seeds]),
        take_models(originals, plan.runs[:, 0]),
        jnp.asarray(forget),
        np.stack(first),
        np.stack(second),
    )
    # Forget sets of one size share a program.
    sizes = forget.sum(1)
    parts: list[dict[str, Array]] = []
    samples: dict[int, _Samples] = {}
    for size in np.unique(sizes):
        runs = np.flatnonzero(sizes == size)
        items = jax.tree.map(lambda leaf, runs=runs: leaf[runs], stacked)
        distances = partial(_distances, plan, int(size))
        mapper = plan.mapper(len(runs), is_audit=True)
        divergences, predictions = map_models(mapper, distances, items, train)
        parts.append(divergences)
        for place, run in enumerate(runs):
            samples[int(run)] = jax.tree.map(lambda leaf, i=place: leaf[i], predictions)
    names = _names()
    coefficients: tuple[float, ...] = ()
    fitted = np.zeros(0)
    if len(plan.forget) > 1:
        fitted = _fitted_distances(samples, plan.runs[:, 1])
        names.insert(5, "fitted to the other forget sets")
        coefficients = round_all(np.asarray(_fit(list(samples.values()))))
    # parts have the runs in the order of the sizes of their forget sets
    order = np.argsort(sizes, kind="stable")
    by_name = {}
    for name in names:
        if name.startswith("fitted"):
            values = fitted
        else:
            values = np.concatenate([np.asarray(part[name]) for part in parts])
            values = values[np.argsort(order)]
        by_name[name] = values.reshape(len(values), -1)
    rows = []
    for name, values in by_name.items():
        rows.append(_summary(name, values, by_name[UNTILTED], plan.runs[:, :2]))
    return Targets(betas=BETAS, rows=tuple(rows), coefficients=coefficients)


def _summary(
    name: str, values: np.ndarray, untilted: np.ndarray, runs: np.ndarray
) -> TargetDistance:
    """Return a target's distances, and their differences to the untilted target's.

    Args:
      name: name of the target.
      values: ``[R, betas]`` distances of the target.
      untilted: ``[R, 1]`` distances of the target without a tilt.
      runs: ``[R, 2]`` original and forget set, the random factors of the intervals.
    """
    differences = values - untilted
    less = []
    ends = []
    for difference in differences.T:
        mean = float(difference.mean())
        interval = audit.mean_interval(
            mean, audit.mean_variance(difference, factors=runs)
        )
        less.append(mean)
        ends.append((interval.low, interval.high))
    is_known = bool(np.isfinite(ends).all())
    low, high = np.transpose(ends)
    return TargetDistance(
        name=name,
        values=round_all(values.mean(0)),
        low=round_all(values.min(0)),
        high=round_all(values.max(0)),
        less=round_all(less) if is_known else (),
        less_low=round_all(low) if is_known else (),
        less_high=round_all(high) if is_known else (),
    )


class _Samples(NamedTuple):
    """Forget samples of a run, to fit a tilt to.

    Attributes:
      truth: ``[F, C]`` logits of the retrained model.
      logits: ``[F, C]`` logits of the original.
      excluded: ``[F, C]`` bool, classes that a target may not predict.
      descriptors: ``[F, C, K]`` descriptors of pairs of the sample's class and another.
    """

    truth: Array
    logits: Array
    excluded: Array
    descriptors: Array


def _fit(samples: Sequence[_Samples]) -> Array:
    """Return the coefficients of the tilt that is best for several runs together."""
    joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *samples)
    truth = jax.nn.softmax(joined.truth)
    return fit_tilt(truth, joined.logits, joined.excluded, joined.descriptors)


def _fitted_distances(samples: Mapping[int, _Samples], sets: np.ndarray) -> np.ndarray:
    """Return each run's distance for the tilt fitted to runs of other forget sets.

    Args:
      samples: forget samples by run.
      sets: ``[R]`` forget set of each run.
    """
    coefficients = {}
    for forgotten in np.unique(sets):
        others = [samples[int(run)] for run in np.flatnonzero(sets != forgotten)]
        coefficients[int(forgotten)] = _fit(others)
    distances = []
    for run, forgotten in enumerate(sets):
        scored = samples[run]
        scores = scored.descriptors @ coefficients[int(forgotten)]
        target = tilted_target(scored.logits, scored.excluded, scores, beta=1.0)
        distances.append(float(_distance(scored.truth, target)))
    return np.array(distances)


def _distance(truth: Array, target: Array) -> Array:
    """Return the mean KL from retrained logits to targets, ``[F, C]`` each."""
    return jnp.mean(kl_from_logits(truth, jnp.log(jnp.maximum(target, FLOOR))))


def _names() -> list[str]:
    """Return the names of the rows in the order of the table."""
    names = [
        "second retrained model",
        "original model",
        UNTILTED,
        "retrained confusion",
        "retrained over renormalized",
    ]
    for ridge in RIDGES:
        names += [
            f"influence, ridge {ridge:g}",
            f"influence, ridge {ridge:g}, refitted",
        ]
    return [*names, *SIMILARITIES]


def _distances(
    plan: Plan,
    size: int,
    item: tuple[Array, Variables, Array, Array, Array],
    train: Dataset,
) -> tuple[dict[str, Array], _Samples]:
    """Return one run's distances, a scalar or ``[betas]`` each, and its samples."""
    key, variables, forget, first, second = item
    problem = Problem(plan.model, variables, train, forget, size)
    rows = jnp.nonzero(forget, size=size)[0]
    labels = train.labels[rows]
    truth = first[rows]
    again = second[rows]
    logits = predict(plan.model.apply, variables, to_float(train.images[rows]))
    table = excluded_classes(problem, logits.shape[-1])
    excluded = table[labels]

    distance = partial(_distance, truth)

    def tilted(scores: Array, beta: float) -> Array:
        return distance(tilted_target(logits, excluded, scores, beta=beta))

    def strengths(scores: Array) -> Array:
        return jnp.stack([tilted(scores, beta) for beta in BETAS])

    ratio = _log_ratio(again, logits, labels, table)
    distances = {
        "second retrained model": distance(jax.nn.softmax(again)),
        "original model": distance(jax.nn.softmax(logits)),
        UNTILTED: tilted(jnp.zeros_like(logits), 0.0),
        "retrained confusion": strengths(_confusion(again, labels, table)[labels]),
        "retrained over renormalized": tilted(ratio[labels], 1.0),
    }
    for position, (name, similarity) in enumerate(SIMILARITIES.items()):
        own_key = jax.random.fold_in(key, position)
        distances[name] = strengths(similarity(own_key, problem, table))
    for ridge in RIDGES:
        target = influence_targets(problem, ridge=ridge)
        distances[f"influence, ridge {ridge:g}"] = distance(target)
        target = influence_targets(problem, ridge=ridge, num_removal_steps=20)
        distances[f"influence, ridge {ridge:g}, refitted"] = distance(target)
    descriptors = pair_descriptors(problem, table)[labels]
    return distances, _Samples(truth, logits, excluded, descriptors)


def _log_mean(probs: Array, labels: Array) -> Array:
    """Return the logarithm of the mean prediction for each class, ``[C, C]``."""
    one_hot = jax.nn.one_hot(labels, probs.shape[-1])
    counts = jnp.maximum(one_hot.sum(0), 1)[:, None]
    return jnp.log(jnp.maximum(one_hot.T @ probs / counts, FLOOR))


def _log_ratio(
    retrained: Array, original: Array, labels: Array, excluded: Array
) -> Array:
    """Return ``[C, C]`` log ratios of mean predictions: retrained over renormalized."""
    zeros = jnp.zeros_like(original)
    renormalized = tilted_target(original, excluded[labels], zeros, beta=0.0)
    means = _log_mean(jax.nn.softmax(retrained), labels)
    return means - _log_mean(renormalized, labels)


def _confusion(logits: Array, labels: Array, excluded: Array) -> Array:
    """Return the retrained models' confusion ``[C, C]`` as a similarity in [-1, 1].

    It is the log of the mean probability, centered and scaled over retained classes.
    """
    scores = _log_mean(jax.nn.softmax(logits), labels)
    retained = ~excluded
    total = jnp.sum(jnp.where(retained, scores, 0), -1, keepdims=True)
    scores = scores - total / jnp.sum(retained, -1, keepdims=True)
    largest = jnp.max(jnp.where(retained, jnp.abs(scores), 0), -1, keepdims=True)
    return scores / jnp.maximum(largest, FLOOR)
