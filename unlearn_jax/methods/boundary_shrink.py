"""Boundary shrink (BS): give the forget samples to the class across the nearest decision boundary.

Chen et al., *Boundary Unlearning*, CVPR 2023 (arXiv 2303.11570).
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from unlearn_jax.attacks import linf
from unlearn_jax.losses import log_odds
from unlearn_jax.methods.base import FineTuning, check_numbers, default_loss
from unlearn_jax.methods.passes import Pass, finetune_passes
from unlearn_jax.train import fetch_from, steps_per_epoch, to_float
from unlearn_jax.types import (
    Array,
    Dataset,
    InputError,
    Problem,
    UnlearnFn,
    UnlearnInfo,
    Variables,
)

Relabel = Literal["original", "epoch"]


def boundary_shrink(
    *,
    bound: float | Array = 0.1,
    discretize: bool = False,
    relabel: Relabel = "original",
    retain: bool = False,
    learning_rate: float | Array = 1e-5,
    weight_decay: float | Array = 0.0,
    **tuning: Any,
) -> UnlearnFn:
    """Minimizes the cross-entropy on the clean forget samples, labeled as their neighbors across the boundary.

    The label of ``x`` is the class that the labeler gives to
    ``clip(x + bound * sign(grad of the loss))``, FGSM with the true label; a sample
    whose neighbor keeps the label keeps it too (:func:`neighbor_labels`). Samples are
    labeled without augmentation; the released codes label each augmented view.

    Published settings: bound 0.1, 10 epochs, learning rate 1e-5, momentum 0.9, no
    weight decay, batches of 64 (the authors' code, for a whole class); learning rate
    searched in [1e-6, 1e-4], and from 1e-8.

    Args:
      bound: of the step, L-infinity, in units of the image box [0, 1].
      discretize: round the neighbor to 8 bits, as the released code does.
      relabel: ``original`` labels once, by the original model; ``epoch`` anew in every
        epoch, by the model as it is then, as AMUN's code does.
      retain: AMUN's released variant: a pass of cross-entropy over D_R at the start of
        every epoch, before the labels of ``epoch`` are drawn. (There it keeps the order
        of the data; here it is shuffled.) False reads no retained sample.
      learning_rate: see above.
      weight_decay: see above.
      **tuning: other fields of :class:`unlearn_jax.methods.base.FineTuning`.

    Raises:
      InputError: unknown ``relabel``, or unusable knobs.
    """
    check_numbers(low=0, high=1, bound=bound)
    if relabel not in ("original", "epoch"):
        raise InputError(f"unknown relabel {relabel!r}: choose original or epoch")
    knobs = FineTuning(learning_rate=learning_rate, weight_decay=weight_decay, **tuning)

    def run(key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        def relabeled(labeler: Variables) -> Dataset:
            drawn = neighbor_labels(
                problem,
                labeler,
                bound=bound,
                discretize=discretize,
                batch_size=knobs.batch_size,
            )
            index = jnp.nonzero(problem.forget, size=problem.num_forget)[0]
            return problem.train._replace(
                labels=problem.train.labels.at[index].set(drawn)
            )

        loss_fn, fetch = default_loss(problem.model, knobs), fetch_from(knobs.augment)
        shrink = Pass(loss_fn, fetch, problem.train, problem.forget, problem.num_forget)
        if relabel == "epoch":
            shrink = shrink._replace(renew=relabeled)
        else:
            shrink = shrink._replace(data=relabeled(problem.variables))
        keep = Pass(loss_fn, fetch, problem.train, problem.retain, problem.num_retain)
        variables, info = finetune_passes(
            key, problem, knobs, [keep, shrink] if retain else [shrink]
        )
        labeled = problem.num_forget * (knobs.num_epochs if relabel == "epoch" else 1)
        return variables, info._replace(num_gradients=info.num_gradients + labeled)

    return run


def neighbor_labels(
    problem: Problem,
    labeler: Variables,
    *,
    bound: float | Array = 0.1,
    discretize: bool = False,
    batch_size: int = 128,
) -> Array:
    """The class of each forget sample's FGSM neighbor, evaluation mode.

    Climbs the log-odds against the true label, whose gradient has the signs of
    cross-entropy's but does not vanish in float32 on confident samples. Every sample
    takes its step, misclassified ones included.

    Args:
      problem: gives the model, the samples and their true labels.
      labeler: the variables that label.
      bound: see :func:`boundary_shrink`.
      discretize: see :func:`boundary_shrink`.
      batch_size: samples at a time; changes memory, not values.

    Returns:
      ``[F]`` of the labels' type, in ascending order of the samples.
    """

    def label(index: Array) -> Array:
        images, labels = (
            to_float(problem.train.images[index]),
            problem.train.labels[index],
        )
        gradient = jax.grad(
            lambda x: jnp.sum(log_odds(problem.model.apply(labeler, x), labels))
        )(images)
        neighbors = jnp.clip(
            images + bound * jax.vmap(linf.direction)(gradient), 0.0, 1.0
        )
        if discretize:
            neighbors = jnp.round(neighbors * 255) / 255
        return jnp.argmax(problem.model.apply(labeler, neighbors), -1).astype(
            labels.dtype
        )

    count, size = problem.num_forget, min(batch_size, problem.num_forget)
    rows = jnp.arange(steps_per_epoch(count, size) * size).reshape(-1, size) % count
    return lax.map(label, jnp.nonzero(problem.forget, size=count)[0][rows]).ravel()[
        :count
    ]
