"""Membership signals of a stack of shadow models."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from unlearn_jax import replicas
from unlearn_jax.audit.inputs import is_traced
from unlearn_jax.audit.signals import SIGNALS, SignalFn
from unlearn_jax.checks import check_counts, check_images, check_labels, count_models
from unlearn_jax.train import predict
from unlearn_jax.types import ApplyFn, Array, InputError, PyTree, check_apply_fn


def shadow_signals(
    apply_fn: ApplyFn,
    stacked_variables: PyTree,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    signal: str | SignalFn = "taylor_softmax",
    mapper: replicas.Mapper | None = None,
    batch_size: int = 512,
) -> Array:
    """Return the membership signal of every model on every sample.

    Prediction and signal are one compiled program, mapped over models and devices. With
    the mappers ``map`` and ``loop`` the logits of only one model are in memory at a
    time. A second call with equal arguments and shapes compiles nothing.

    Args:
      apply_fn: ``(variables, images) -> logits`` in evaluation mode.
      stacked_variables: any pytree of the models' variables, with leaves ``[M, ...]``.
      images: ``[N, ...]`` uint8 or float32 in [0, 1], the same for all models, such as
        those of :func:`unlearn_jax.data.pool`.
      labels: ``[N]`` integers in 0..C-1.
      signal: name in :data:`~unlearn_jax.audit.SIGNALS`, or a function
        ``(logits, labels) -> [N]``, higher = more likely member.
      mapper: mapper over the ``M`` models, see :func:`unlearn_jax.replicas.mapper`;
        ``pmap`` uses several devices. None uses the default of the backend.
      batch_size: number of images per batch; affects memory, not values.

    Returns:
      ``[M, N]``, in the order of the models, so that row m belongs to ``member[m]``.

    Raises:
      InputError: an unknown signal, no leaves, leaves with different numbers of models,
        no images, a mapper of another type, or labels that are not one per image, not
        integers, or outside 0..C-1. Traced labels are not checked: the signals of
        SIGNALS are NaN where a label is out of range.

    >>> import jax.numpy as jnp
    >>> variables = {"scale": jnp.array([1.0, 2.0])}
    >>> apply_fn = lambda variables, images: variables["scale"] * images
    >>> images = jnp.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    >>> labels = jnp.array([1, 1, 0])
    >>> shadow_signals(apply_fn, variables, images, labels, signal="logit_margin")
    Array([[ 1., -1.,  0.],
           [ 2., -2.,  0.]], dtype=float32)
    """
    check_apply_fn(apply_fn)
    if isinstance(signal, str) and signal not in SIGNALS:
        raise InputError(f"unknown signal {signal!r}: choose {', '.join(SIGNALS)}")
    num_models = count_models(stacked_variables, "stacked_variables")
    if not len(np.shape(images)) or np.shape(labels) != np.shape(images)[:1]:
        raise InputError(
            f"labels have shape {np.shape(labels)} and images {np.shape(images)}: pass"
            " one label per image"
        )
    if not np.shape(images)[0]:
        raise InputError("there are no images: pass at least one")
    check_counts(batch_size=batch_size)
    if mapper is None:
        mapper = replicas.mapper(num_models=num_models)
    if not isinstance(mapper, replicas.Mapper):
        raise InputError(
            "mapper must be a replicas.Mapper, such as replicas.mapper(num_models=M)"
        )
    check_images(images, "shadow_signals")
    if not is_traced(labels):
        _check_labels(np.asarray(labels), apply_fn, stacked_variables, images)
    signal_fn = SIGNALS[signal] if isinstance(signal, str) else signal
    evaluate = _evaluator(apply_fn, signal_fn, batch_size)
    return replicas.map_models(mapper, evaluate, stacked_variables, (images, labels))


def _check_labels(
    labels: np.ndarray,
    apply_fn: ApplyFn,
    stacked_variables: PyTree,
    images: ArrayLike,
) -> None:
    """Raise unless the labels are integers below the models' number of classes."""
    shape = jax.eval_shape(_first_logits(apply_fn), stacked_variables, images).shape
    # A single output per image has no classes; the signal defines its meaning.
    num_classes = shape[-1] if len(shape) > 1 and shape[-1] > 1 else None
    check_labels(labels, len(labels), num_classes, "shadow_signals")


@lru_cache(maxsize=16)
def _first_logits(apply_fn: ApplyFn) -> Callable[[PyTree, Any], Array]:
    """Return a function of the first model's logits on the first image.

    It is cached, so that JAX traces it once per ``apply_fn``.
    """

    def evaluate(stacked_variables: PyTree, images: Array) -> Array:
        variables = jax.tree.map(lambda leaf: leaf[0], stacked_variables)
        return predict(apply_fn, variables, images[:1])

    return evaluate


@lru_cache(maxsize=16)
def _evaluator(
    apply_fn: ApplyFn, signal: SignalFn, batch_size: int
) -> Callable[[PyTree, Any], Array]:
    """Return a function of one model's signals, cached so that JAX compiles it once."""

    def evaluate(variables: PyTree, samples: tuple[Array, Array]) -> Array:
        images, labels = samples
        logits = predict(apply_fn, variables, images, batch_size=batch_size)
        return signal(logits, labels)

    return evaluate
