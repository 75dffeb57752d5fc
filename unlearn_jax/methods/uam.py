"""UAM: descent on D_R at parameters that have ascended on D_F.

Kim et al., *Unlearning-Aware Minimization*, NeurIPS 2025.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from jax import lax

from unlearn_jax.checks import check_counts, check_not_negative
from unlearn_jax.losses import cross_entropy
from unlearn_jax.methods.base import (
    FineTuning,
    forward_fn,
)
from unlearn_jax.methods.passes import PassLoss, finetune_on_pairs
from unlearn_jax.train import Batch
from unlearn_jax.types import (
    Array,
    Model,
    ModelState,
    Params,
    Problem,
    UnlearnInfo,
    Variables,
)
from unlearn_jax.values import Real, value


@value
class UAM(FineTuning):
    """Descent on ``CE(D_R)`` at parameters that have ascended on ``CE(D_F)``.

    Unlearning-Aware Minimization maximizes the forget loss over a ball of radius
    ``rho`` and minimizes the retain loss at that point. A step is

        ``theta <- theta - lr grad L_R(theta + rho g / |g|)``, ``g = grad L_F(theta)``,

    with the norm over all parameters. Where the retain loss is flat, its gradient at
    the perturbed point is what the perturbation changed, ``rho H_R g / |g|``: the step
    goes where forgetting costs the retained samples least. At ``rho=0`` this is
    fine-tuning.

    **Reconstructed** from the authors' code (torchunlearn): the paper's text was not
    available. Each step takes one batch of each set for the two gradients. The forward
    pass of the ascent runs forget and retained samples together, so that BatchNorm, if
    the model has any, normalizes them as one batch. An epoch is one pass over D_R; D_F
    is read cyclically alongside it. The code can also anneal ``rho`` to 0 by a cosine,
    and has an option ``gamma`` that its step does not use; neither is offered here.

    Published settings (the code's README): SGD at 0.01, momentum 0.9, weight decay
    5e-4, 5 epochs. No value of ``rho`` is published; it has to be searched.

    ``num_gradients`` counts the forget samples of the ascent and the retained samples
    of the descent, not the retained samples that BatchNorm reads in the ascent.

    Attributes:
      rho: radius of the perturbation, not negative.
      forget_batch_size: forget samples per step; ``batch_size`` if None.
      num_epochs: passes over D_R.
    """

    is_padded: ClassVar[bool] = True

    rho: Real = 0.1
    forget_batch_size: int | None = None
    num_epochs: int = 5

    def __post_init__(self) -> None:
        """Raise on values that no run could use."""
        super().__post_init__()
        check_not_negative(rho=self.rho)
        if self.forget_batch_size is not None:
            check_counts(forget_batch_size=self.forget_batch_size)

    def __call__(self, key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        """Descend on the retained samples from perturbed parameters.

        Args:
          key: PRNG key; consumed.
          problem: gives the model and the sets.
        """
        loss_fn = _perturbed_loss(problem.model, self, self.rho)
        return finetune_on_pairs(
            key, problem, self, loss_fn, forget_batch_size=self.forget_batch_size
        )


def _perturbed_loss(model: Model, options: FineTuning, rho: Real) -> PassLoss:
    """Return the retained batch's loss at parameters that the forget batch perturbs."""
    forward = forward_fn(model, options)

    def loss_fn(
        variables: Variables, batches: tuple[Batch, Batch], key: Array
    ) -> tuple[Array, ModelState]:
        retain_batch, forget_batch = batches
        key_ascent, key_descent = jax.random.split(key)
        images = forget_batch.images
        if jax.tree.leaves(variables.state):
            images = jnp.concatenate([images, retain_batch.images])
        num_forget = len(forget_batch.labels)

        def forget_loss(params: Params) -> tuple[Array, ModelState]:
            logits, state = forward(
                variables._replace(params=params), images, key_ascent
            )
            losses = cross_entropy(logits[:num_forget], forget_batch.labels)
            return jnp.mean(losses), state

        # The perturbation is a constant of the step: as in the code, no gradient flows
        # through it.
        gradient, state = lax.stop_gradient(
            jax.grad(forget_loss, has_aux=True)(variables.params)
        )
        scale = rho / (optax.tree.norm(gradient) + 1e-16)
        params = jax.tree.map(
            lambda leaf, slope: leaf + scale * slope, variables.params, gradient
        )
        logits, state = forward(
            Variables(params, state), retain_batch.images, key_descent
        )
        return jnp.mean(cross_entropy(logits, retain_batch.labels)), state

    return loss_fn
