"""Boundary shrink (BS): give the forget samples to the class next to their own.

Chen et al., *Boundary Unlearning*, CVPR 2023 (arXiv 2303.11570).
"""

from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import lax

from unlearn_jax.attacks import linf
from unlearn_jax.checks import check_fractions
from unlearn_jax.losses import log_odds
from unlearn_jax.methods.base import (
    FineTuning,
    default_loss,
    forget_rows,
)
from unlearn_jax.methods.passes import Pass, finetune_passes
from unlearn_jax.train import fetch_from, steps_per_epoch
from unlearn_jax.types import (
    Array,
    Dataset,
    Problem,
    UnlearnInfo,
    Variables,
    most_of,
    to_float,
    value_of,
)
from unlearn_jax.values import Real, value

Relabel = Literal["original", "epoch"]


@value
class BoundaryShrink(FineTuning):
    """Cross-entropy on D_F, labeled with the class across the nearest boundary.

    The label of ``x`` is the class that the labeling model gives to
    ``clip(x + bound * sign(grad of the loss))``, that is FGSM with the true label; a
    sample whose neighbor has the true label keeps it (:func:`neighbor_labels`). Samples
    are labeled without augmentation; the released codes label each augmented view.

    Published settings: bound 0.1, 10 epochs, learning rate 1e-5, momentum 0.9, no
    weight decay, batches of 64 (the authors' code, for a whole class); learning rate
    searched in [1e-6, 1e-4], and from 1e-8.

    Attributes:
      bound: L-infinity norm of the step, in units of the image box [0, 1].
      discretize: round the neighbor to 8 bits, as the released code does.
      relabel: ``original`` labels once, by the original model; ``epoch`` labels again
        in every epoch, by the current model, as AMUN's code does.
      retain: add a pass of cross-entropy over D_R at the start of every epoch, before
        the labels of ``epoch`` are computed: AMUN's released variant. (Its pass keeps
        the order of the data; here it is shuffled.) False reads no retained sample.
      learning_rate: learning rate of all passes.
      weight_decay: L2 penalty, added to the gradient.
    """

    is_padded: ClassVar[bool] = True

    bound: Real = 0.1
    discretize: bool = False
    relabel: Relabel = "original"
    retain: bool = False
    learning_rate: Real = 1e-5
    weight_decay: Real = 0.0

    def __post_init__(self) -> None:
        """Raise on values that no run could use."""
        super().__post_init__()
        check_fractions(bound=self.bound)

    def __call__(self, key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        """Label the forget samples by their neighbors and fine-tune.

        Args:
          key: PRNG key; consumed.
          problem: gives the model and the sets.
        """

        def relabeled(labeler: Variables) -> Dataset:
            labels = neighbor_labels(
                problem,
                labeler,
                bound=self.bound,
                discretize=self.discretize,
                batch_size=self.batch_size,
            )
            train = problem.train
            index = forget_rows(problem)
            return train._replace(labels=train.labels.at[index].set(labels))

        loss_fn = default_loss(problem.model, self)
        fetch = fetch_from(self.augmentation)
        shrink = Pass(loss_fn, fetch, problem.train, problem.forget, problem.num_forget)
        if self.relabel == "epoch":
            shrink = shrink._replace(refresh=relabeled)
            num_labelings = self.num_epochs
        else:
            shrink = shrink._replace(data=relabeled(problem.variables))
            num_labelings = 1
        repair = Pass(loss_fn, fetch, problem.train, problem.retain, problem.num_retain)
        variables, info = finetune_passes(
            key, problem, self, [repair, shrink] if self.retain else [shrink]
        )
        # FGSM takes one gradient per sample.
        labeled = value_of(problem.num_forget * num_labelings)
        cost = info.num_gradients + labeled
        return variables, info._replace(num_gradients=cost)


def neighbor_labels(
    problem: Problem,
    labeler: Variables,
    *,
    bound: Real = 0.1,
    discretize: bool = False,
    batch_size: int = 128,
) -> Array:
    """Return the class of each forget sample's FGSM neighbor, in evaluation mode.

    Climbs the log-odds against the true label. Their gradient has the same signs as
    that of the cross-entropy, but does not vanish in float32 on confident samples.
    Every sample takes a step, misclassified ones included.

    Args:
      problem: gives the model, the samples and their true labels.
      labeler: variables of the model that gives the labels.
      bound: L-infinity norm of the step, in units of the image box [0, 1].
      discretize: round the neighbor to 8 bits.
      batch_size: samples at a time; changes memory, not values.

    Returns:
      ``[F]``, of the labels' type, in ascending order of the samples.
    """
    apply_fn = problem.model.apply

    def label(index: Array) -> Array:
        images = to_float(problem.train.images[index])
        labels = problem.train.labels[index]

        def loss(images: Array) -> Array:
            return jnp.sum(log_odds(apply_fn(labeler, images), labels))

        step = bound * jax.vmap(linf.direction)(jax.grad(loss)(images))
        neighbors = jnp.clip(images + step, 0.0, 1.0)
        if discretize:
            neighbors = jnp.round(neighbors * 255) / 255
        return jnp.argmax(apply_fn(labeler, neighbors), -1).astype(labels.dtype)

    count = most_of(problem.num_forget)
    size = min(batch_size, count)
    num_batches = steps_per_epoch(count, size)
    rows = jnp.arange(num_batches * size).reshape(-1, size) % count
    return lax.map(label, forget_rows(problem)[rows]).ravel()[:count]
