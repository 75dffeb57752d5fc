"""Random labeling (RL): teach the model wrong answers on the forget samples."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from unlearn_jax.methods.base import FineTuning, WrapTx, default_loss, finetune_on
from unlearn_jax.methods.passes import Pass, finetune_passes
from unlearn_jax.train import Batch, FetchFn, fetch_from
from unlearn_jax.types import (
    Array,
    Dataset,
    InputError,
    Problem,
    UnlearnFn,
    UnlearnInfo,
    Variables,
)

Labels = Literal["wrong", "any"]
Redraw = Literal["batch", "once"]
Order = Literal["shuffled", "forget_first"]


def random_label(
    *,
    retain: bool = True,
    labels: Labels = "wrong",
    redraw: Redraw = "batch",
    order: Order = "shuffled",
    **tuning: Any,
) -> UnlearnFn:
    """Minimizes the cross-entropy on D_F with random labels, and on D_R with the true ones, equal weight per sample.

    The baseline "random labels" of Golatkar et al. (arXiv 1911.04933). Codes differ:

    ==============  ===========================================  =====================================================
    knob            AMUN's code (and the defaults here)          SalUn's code (its paper means wrong labels)
    ==============  ===========================================  =====================================================
    ``labels``      ``wrong``: uniform over the other classes    ``any``: uniform over all classes, the true one too
    ``redraw``      ``batch``                                    ``batch``; per epoch where the order is ``shuffled``
    ``order``       ``shuffled``: D_F and D_R mixed              ``forget_first`` on CIFAR-10 and SVHN: in each epoch
                                                                 all batches of D_F,
                                                                 then all of D_R; else
                                                                 ``shuffled``
    ==============  ===========================================  =====================================================

    Published ranges: 10 epochs, learning rate in [1e-3, 1e-1].

    Args:
      retain: train on D_R too; False reads no retained sample.
      labels: see above.
      redraw: ``batch`` draws a sample's label anew whenever it is read. As that happens
        once an epoch (but for samples that fill up the last batch) it is also the
        codes' drawing per epoch. ``once`` draws before the first epoch.
      order: see above; the same without ``retain``.
      **tuning: fields of :class:`unlearn_jax.methods.base.FineTuning`.

    Raises:
      InputError: unknown ``labels``, ``redraw`` or ``order``, or unusable knobs.
    """
    check_label_knobs(labels, redraw, order)
    knobs = FineTuning(**tuning)

    def run(key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        return train_on_random_labels(
            key,
            problem,
            knobs,
            retain=retain,
            labels=labels,
            redraw=redraw,
            order=order,
        )

    return run


def check_label_knobs(labels: str, redraw: str, order: str) -> None:
    """Refuses knobs that :func:`train_on_random_labels` does not know.

    Raises:
      InputError: naming the knob.
    """
    if labels not in ("wrong", "any"):
        raise InputError(f"unknown labels {labels!r}: choose wrong or any")
    if redraw not in ("batch", "once"):
        raise InputError(f"unknown redraw {redraw!r}: choose batch or once")
    if order not in ("shuffled", "forget_first"):
        raise InputError(f"unknown order {order!r}: choose shuffled or forget_first")


def random_labels(
    key: Array, labels: Array, num_classes: int, *, kind: Labels
) -> Array:
    """A random label for each sample.

    Args:
      key: consumed.
      labels: ``[B]`` true labels.
      num_classes: C.
      kind: ``wrong`` for uniform over the C - 1 other classes, ``any`` for uniform over
        all C.

    Returns:
      ``[B]``, of the labels' type.
    """
    if kind == "any":
        return jax.random.randint(key, labels.shape, 0, num_classes, labels.dtype)
    return (
        labels + jax.random.randint(key, labels.shape, 1, num_classes, labels.dtype)
    ) % num_classes


def train_on_random_labels(
    key: Array,
    problem: Problem,
    tuning: FineTuning,
    *,
    retain: bool,
    labels: Labels,
    redraw: Redraw,
    order: Order,
    wrap_tx: WrapTx | None = None,
) -> tuple[Variables, UnlearnInfo]:
    """The run of :func:`random_label`, with the optimizer changed by ``wrap_tx``; other arguments as there."""
    image = jax.ShapeDtypeStruct((1, *problem.train.images.shape[1:]), jnp.float32)
    num_classes = jax.eval_shape(problem.model.apply, problem.variables, image).shape[
        -1
    ]
    key, key_once = jax.random.split(key)
    fetch, train = fetch_from(tuning.augment), problem.train
    if redraw == "once":
        drawn = random_labels(key_once, train.labels, num_classes, kind=labels)
        train = train._replace(labels=jnp.where(problem.forget, drawn, train.labels))
    else:
        fetch = _redrawing(fetch, problem.forget, num_classes, labels)
    if retain and order == "forget_first":
        loss_fn = default_loss(problem.model, tuning)
        first = Pass(loss_fn, fetch, train, problem.forget, problem.num_forget)
        second = Pass(loss_fn, fetch, train, problem.retain, problem.num_retain)
        return finetune_passes(key, problem, tuning, [first, second], wrap_tx=wrap_tx)
    return finetune_on(
        key,
        problem,
        tuning,
        data=train,
        member=problem.forget | (retain & problem.retain),
        num_samples=problem.num_forget + retain * problem.num_retain,
        fetch=fetch,
        wrap_tx=wrap_tx,
    )


def _redrawing(
    fetch: FetchFn, forget: Array, num_classes: int, kind: Labels
) -> FetchFn:
    """Reads samples, and draws new labels for those of the mask."""

    def redrawn(data: Dataset, index: Array, key: Array) -> Batch:
        key_fetch, key_labels = jax.random.split(key)
        batch = fetch(data, index, key_fetch)
        drawn = random_labels(key_labels, batch.labels, num_classes, kind=kind)
        return batch._replace(labels=jnp.where(forget[index], drawn, batch.labels))

    return redrawn
