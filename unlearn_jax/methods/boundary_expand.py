"""Boundary expanding (BE): move the forget samples to a class that is then dropped.

Chen et al., *Boundary Unlearning*, CVPR 2023 (arXiv 2303.11570).
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from unlearn_jax.layers import head, head_kernel
from unlearn_jax.losses import cross_entropy
from unlearn_jax.methods.base import FineTuning, Forward, Restriction, forward_fn
from unlearn_jax.methods.passes import Pass, PassLoss, finetune_passes
from unlearn_jax.train import Batch, fetch_from
from unlearn_jax.types import (
    Array,
    ModelState,
    Params,
    Problem,
    UnlearnInfo,
    Variables,
)
from unlearn_jax.values import Real, value


class Widened(NamedTuple):
    """Parameters of a model with one more class.

    Attributes:
      params: parameters of the model.
      weight: ``[D]``, weights of the new class on the head's inputs.
      bias: ``[]``, bias of the new class.
    """

    params: Params
    weight: Array
    bias: Array


@value
class BoundaryExpand(FineTuning):
    """Training of D_F towards a new class, whose logit is dropped afterwards.

    Minimizes ``CE([z(x), w f(x) + b], C)`` on D_F over all parameters and ``w, b``,
    then drops ``w`` and ``b``. ``f(x)`` are the head's inputs and ``z(x)`` its ``C``
    logits: with the new row the head has ``C + 1`` classes, and every forget sample
    belongs to the last. As in the authors' code, the row is drawn like the weights of
    the widened head (Xavier normal, variance ``2 / (D + C + 1)``), its bias starts at
    0, and it is trained like all other parameters. Only the ``C`` old logits remain in
    the end. ``f(x)`` and ``z(x)`` come from the same forward pass, in training mode
    unless the statistics are frozen.

    Published settings: 10 epochs, learning rate 1e-5, momentum 0.9, no weight decay,
    batches of 64 (the authors' code, for a whole class); learning rate searched from
    1e-8.

    AMUN's code draws a new row in every epoch and leaves it out of the optimizer. It
    reports no result for this variant, which is not offered.

    Attributes:
      retain: add a pass of cross-entropy over D_R, with ``C + 1`` classes, at the start
        of every epoch, as in :class:`unlearn_jax.methods.BoundaryShrink`. False reads
        no retained sample.
      freeze_head: stop gradients at the head and the new row, an option of DELETE's
        code; only weight decay changes them.
      learning_rate: learning rate of all passes.
      weight_decay: L2 penalty, added to the gradient.
    """

    is_padded: ClassVar[bool] = True

    retain: bool = False
    freeze_head: bool = False
    learning_rate: Real = 1e-5
    weight_decay: Real = 0.0

    def __call__(self, key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        """Widen the head, train, and drop the new class.

        Args:
          key: PRNG key; consumed.
          problem: gives the model and the sets.

        Raises:
          InputError: the model does not end in a linear layer.
        """
        key_row, key_train = jax.random.split(key)
        start, num_classes = widen(key_row, problem)
        fetch = fetch_from(self.augmentation)
        forward = forward_fn(problem.model, self)
        expand = Pass(
            _widened_loss(forward, self.freeze_head, num_classes),
            fetch,
            problem.train,
            problem.forget,
            problem.num_forget,
        )
        repair = Pass(
            _widened_loss(forward, self.freeze_head),
            fetch,
            problem.train,
            problem.retain,
            problem.num_retain,
        )
        variables, info = finetune_passes(
            key_train,
            dataclasses.replace(problem, variables=start),
            self,
            [repair, expand] if self.retain else [expand],
            restriction=_widened(self.restriction(problem)),
        )
        return variables._replace(params=variables.params.params), info


def widen(key: Array, problem: Problem) -> tuple[Variables, int]:
    """Return the original with a random new row added to its head.

    Args:
      key: PRNG key; consumed.
      problem: gives the original model.

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
    deviation = (2 / (num_features + num_classes + 1)) ** 0.5
    weight = jax.random.normal(key, (num_features,)) * deviation
    params = Widened(problem.variables.params, weight, jnp.zeros(()))
    return problem.variables._replace(params=params), num_classes


def _widened(restriction: Restriction) -> Restriction:
    """Return a restriction of the model's parameters; the new class is free."""

    def wrap(tx: optax.GradientTransformation) -> optax.GradientTransformation:
        own_tx = optax.with_extra_args_support(restriction.wrap(tx))
        new_tx = optax.with_extra_args_support(tx)

        def init(params: Any) -> Any:
            return own_tx.init(params.params), new_tx.init(params[1:])

        def update(
            updates: Any, state: Any, params: Any = None, **extra_args: Any
        ) -> tuple[Any, Any]:
            plain, own_state = own_tx.update(
                updates.params, state[0], params.params, **extra_args
            )
            new: Any
            new, new_state = new_tx.update(
                updates[1:], state[1], params[1:], **extra_args
            )
            weight, bias = new
            return Widened(plain, weight, bias), (own_state, new_state)

        return optax.GradientTransformationExtraArgs(init, update)

    def project(variables: Variables) -> Variables:
        plain = restriction.project(variables._replace(params=variables.params.params))
        return plain._replace(params=variables.params._replace(params=plain.params))

    return Restriction(wrap, project, restriction.num_gradients)


def _widened_loss(
    forward: Forward, freeze_head: bool, target: int | None = None
) -> PassLoss:
    """Return the mean cross-entropy of the widened model.

    Args:
      forward: forward pass of the model without the new class.
      freeze_head: stop gradients at the head and the new row.
      target: the class of every sample; the samples' own labels if None.
    """

    def loss_fn(
        variables: Variables, batch: Batch, key: Array
    ) -> tuple[Array, ModelState]:
        params, weight, bias = variables.params

        def forward_with_key(
            variables: Variables, images: Array
        ) -> tuple[Array, ModelState]:
            return forward(variables, images, key)

        (logits, state), layer = head(
            forward_with_key, variables._replace(params=params), batch.images
        )
        if freeze_head:
            weight, bias, kernel = lax.stop_gradient((weight, bias, layer.kernel))
            # The logits are unchanged; their gradient is that of the head's inputs
            # only.
            product = layer.inputs @ kernel
            logits = product + lax.stop_gradient(logits - product)
        new_logit = jnp.matmul(layer.inputs, weight)[:, None] + bias
        logits = jnp.concatenate([logits, new_logit.astype(logits.dtype)], -1)
        labels = batch.labels if target is None else jnp.full_like(batch.labels, target)
        return jnp.mean(cross_entropy(logits, labels)), state

    return loss_fn
