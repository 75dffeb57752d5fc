"""Random labeling (RL): fine-tuning with wrong labels on the forget samples."""

from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from unlearn_jax.methods.base import (
    FineTuning,
    default_loss,
    finetune_on,
    num_classes,
)
from unlearn_jax.methods.passes import Pass, finetune_passes
from unlearn_jax.train import Batch, FetchFn, fetch_from
from unlearn_jax.types import Array, Dataset, Problem, UnlearnInfo, Variables
from unlearn_jax.values import value

Labels = Literal["wrong", "any"]
Redraw = Literal["batch", "once"]
Order = Literal["shuffled", "forget_first"]


@value
class RandomLabel(FineTuning):
    """Cross-entropy on D_F with random labels and on D_R with the true ones.

    Every sample has equal weight. This is the baseline "random labels" of Golatkar et
    al. (arXiv 1911.04933); with a saliency mask, ``masked(RandomLabel(), Saliency())``,
    it is SalUn (arXiv 2310.12508). The released codes differ:

    ==========  ================================  =====================================
    field       AMUN's code (default here)        SalUn's code (its paper means wrong)
    ==========  ================================  =====================================
    ``labels``  ``wrong``: uniform over the       ``any``: uniform over all classes,
                other classes                     the true one too
    ``redraw``  ``batch``                         ``batch``; per epoch where the order
                                                  is ``shuffled``
    ``order``   ``shuffled``: D_F and D_R mixed   ``forget_first`` on CIFAR-10 and SVHN:
                                                  in each epoch all batches of D_F, then
                                                  all of D_R; else ``shuffled``
    ==========  ================================  =====================================

    Published ranges: 10 epochs, learning rate in [1e-3, 1e-1]. SalUn's settings for 10%
    of CIFAR-10: 10 epochs, learning rate 0.013, fraction 0.5; its ranges: learning rate
    in [5e-4, 5e-2], fraction in [0.1, 0.9]. Its variant SalUn-soft, which ranks all
    parameters at every step, is not offered.

    Attributes:
      retain: train on D_R too; False reads no retained sample.
      labels: a row of the table.
      redraw: ``batch`` draws a sample's label whenever the sample is read. That happens
        once per epoch (except for samples that pad the last batch), so it includes the
        codes' drawing per epoch. ``once`` draws before the first epoch.
      order: a row of the table; it has no effect without ``retain``.
    """

    is_padded: ClassVar[bool] = True

    retain: bool = True
    labels: Labels = "wrong"
    redraw: Redraw = "batch"
    order: Order = "shuffled"

    def __call__(self, key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        """Fine-tune on random labels.

        Args:
          key: PRNG key; consumed.
          problem: gives the model and the sets.
        """
        count = num_classes(problem)
        key, key_once = jax.random.split(key)
        fetch = fetch_from(self.augmentation)
        train = problem.train
        if self.redraw == "once":
            drawn = random_labels(key_once, train.labels, count, kind=self.labels)
            labels = jnp.where(problem.forget, drawn, train.labels)
            train = train._replace(labels=labels)
        else:
            fetch = _redrawing(fetch, problem.forget, count, self.labels)
        if self.retain and self.order == "forget_first":
            loss_fn = default_loss(problem.model, self)
            first = Pass(loss_fn, fetch, train, problem.forget, problem.num_forget)
            second = Pass(loss_fn, fetch, train, problem.retain, problem.num_retain)
            return finetune_passes(key, problem, self, [first, second])
        return finetune_on(
            key,
            problem,
            self,
            data=train,
            member=problem.forget | (self.retain & problem.retain),
            num_samples=problem.num_forget + self.retain * problem.num_retain,
            fetch=fetch,
        )


def random_labels(
    key: Array, labels: Array, num_classes: int, *, kind: Labels
) -> Array:
    """Draw a random label for each sample.

    Args:
      key: PRNG key; consumed.
      labels: ``[B]`` true labels.
      num_classes: number of classes, C.
      kind: ``wrong`` for uniform over the C - 1 other classes, ``any`` for uniform over
        all C.

    Returns:
      ``[B]``, of the labels' type.
    """
    # in a type of 8 bits the sum of two labels would overflow
    wide = labels.astype(jnp.promote_types(labels.dtype, jnp.int32))
    low = 0 if kind == "any" else 1
    drawn = jax.random.randint(key, labels.shape, low, num_classes, wide.dtype)
    if kind == "wrong":
        drawn = (wide + drawn) % num_classes
    return drawn.astype(labels.dtype)


def _redrawing(
    fetch: FetchFn, forget: Array, num_classes: int, kind: Labels
) -> FetchFn:
    """Return a fetch that draws new labels for the samples of a mask."""

    def redrawn(data: Dataset, index: Array, key: Array) -> Batch:
        key_fetch, key_labels = jax.random.split(key)
        batch = fetch(data, index, key_fetch)
        drawn = random_labels(key_labels, batch.labels, num_classes, kind=kind)
        return batch._replace(labels=jnp.where(forget[index], drawn, batch.labels))

    return redrawn
