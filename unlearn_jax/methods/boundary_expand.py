"""Boundary expanding (BE): teach the model a class of its own for the forget samples, then take that class away.

Chen et al., *Boundary Unlearning*, CVPR 2023 (arXiv 2303.11570).
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from unlearn_jax.layers import head, head_kernel
from unlearn_jax.losses import cross_entropy
from unlearn_jax.methods.base import FineTuning, Forward, forward_fn
from unlearn_jax.methods.passes import Pass, PassLoss, finetune_passes
from unlearn_jax.train import Batch, fetch_from
from unlearn_jax.types import (
    Array,
    ModelState,
    Params,
    Problem,
    UnlearnFn,
    UnlearnInfo,
    Variables,
)


class Widened(NamedTuple):
    """The parameters of a model with one class more.

    Attributes:
      params: the model's own.
      weight: ``[D]``, of the new class, on the head's inputs.
      bias: ``[]``, of the new class.
    """

    params: Params
    weight: Array
    bias: Array


def boundary_expand(
    *,
    retain: bool = False,
    freeze_head: bool = False,
    learning_rate: float | Array = 1e-5,
    weight_decay: float | Array = 0.0,
    **tuning: Any,
) -> UnlearnFn:
    """Minimizes ``CE([z(x), w f(x) + b], C)`` on D_F by all parameters and ``w, b``, then drops ``w`` and ``b``.

    ``f(x)`` are the head's inputs and ``z(x)`` its ``C`` logits: together with the new
    row the head has ``C + 1`` classes, and every forget sample belongs to the last. As
    in the authors' code the row is drawn like the weights of the widened head, Xavier
    normal (variance ``2 / (D + C + 1)``), its bias is 0, and it is trained like
    everything else. Only the ``C`` old logits are left in the end. ``f(x)`` and
    ``z(x)`` are of the same pass, in training mode unless the statistics are frozen.

    Published settings: 10 epochs, learning rate 1e-5, momentum 0.9, no weight decay,
    batches of 64 (the authors' code, for a whole class); learning rate searched from
    1e-8.

    AMUN's code draws a new row in every epoch and leaves it out of the optimizer, and
    reports no result; that is not offered.

    Args:
      retain: a pass of cross-entropy over D_R, with ``C + 1`` classes, at the start of
        every epoch, as :func:`unlearn_jax.methods.boundary_shrink.boundary_shrink` has
        it. False reads no retained sample.
      freeze_head: no gradient reaches the head or the new row, an option of DELETE's
        code; they stay as they are but for weight decay.
      learning_rate: see above.
      weight_decay: see above.
      **tuning: other fields of :class:`unlearn_jax.methods.base.FineTuning`.

    Raises:
      InputError: unusable knobs; when run, a model that does not end in a linear layer.
    """
    knobs = FineTuning(learning_rate=learning_rate, weight_decay=weight_decay, **tuning)

    def run(key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        key_row, key_train = jax.random.split(key)
        start, num_classes = widen(key_row, problem)
        fetch = fetch_from(knobs.augment)
        forward = forward_fn(problem.model, knobs)
        expand = Pass(
            _widened_loss(forward, freeze_head, num_classes),
            fetch,
            problem.train,
            problem.forget,
            problem.num_forget,
        )
        keep = Pass(
            _widened_loss(forward, freeze_head),
            fetch,
            problem.train,
            problem.retain,
            problem.num_retain,
        )
        variables, info = finetune_passes(
            key_train,
            dataclasses.replace(problem, variables=start),
            knobs,
            [keep, expand] if retain else [expand],
        )
        return variables._replace(params=variables.params.params), info

    return run


def widen(key: Array, problem: Problem) -> tuple[Variables, int]:
    """The original with a random new row beside its head.

    Args:
      key: consumed.
      problem: gives the original.

    Returns:
      Variables whose ``params`` are a :class:`Widened`, and the number of classes ``C``
      without the new one.

    Raises:
      InputError: the model does not end in a linear layer.
    """
    image = jnp.zeros((1, *problem.train.images.shape[1:]))
    num_features, num_classes = jax.eval_shape(
        lambda variables: head_kernel(problem.model.apply, variables, image),
        problem.variables,
    ).shape
    weight = (
        jax.random.normal(key, (num_features,))
        * (2 / (num_features + num_classes + 1)) ** 0.5
    )
    params = Widened(problem.variables.params, weight, jnp.zeros(()))
    return problem.variables._replace(params=params), num_classes


def _widened_loss(
    forward: Forward, freeze_head: bool, target: int | None = None
) -> PassLoss:
    """Mean cross-entropy of the widened model against one class, or against the labels."""

    def loss_fn(
        variables: Variables, batch: Batch, key: Array
    ) -> tuple[Array, ModelState]:
        params, weight, bias = variables.params
        own = variables._replace(params=params)

        def passed(own: Variables, images: Array) -> tuple[Array, ModelState]:
            return forward(own, images, key)

        (logits, state), layer = head(passed, own, batch.images)
        if freeze_head:
            weight, bias, kernel = lax.stop_gradient((weight, bias, layer.kernel))
            through = layer.inputs @ kernel
            logits = through + lax.stop_gradient(logits - through)
        new = jnp.matmul(layer.inputs, weight)[:, None] + bias
        labels = batch.labels if target is None else jnp.full_like(batch.labels, target)
        return (
            jnp.mean(
                cross_entropy(
                    jnp.concatenate([logits, new.astype(logits.dtype)], -1), labels
                )
            ),
            state,
        )

    return loss_fn
