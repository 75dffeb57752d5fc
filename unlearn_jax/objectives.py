"""Training objectives as values: cross-entropy, adversarial training and TRADES.

Called with a model, an objective returns a :data:`unlearn_jax.train.LossFn` for
``train.fit(..., loss_fn=...)``. Equal objectives return the same function for a model,
so that they share compiled programs.

>>> from unlearn_jax import models
>>> model = models.build("mlp", (4, 4, 1), 3, widths=(8,))
>>> TRADES(beta=3.0)(model) is TRADES(beta=3.0)(model)
True
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from unlearn_jax.attacks import NORMS, NormName, random_start
from unlearn_jax.attacks._pgd import ascent_step
from unlearn_jax.checks import check_counts, check_not_negative
from unlearn_jax.losses import cross_entropy, kl_from_logits
from unlearn_jax.train import Batch, LossFn, cross_entropy_loss
from unlearn_jax.types import Array, Model, ModelState, Variables
from unlearn_jax.values import Real, value

_START = 1e-3
"""Standard deviation of the noise from which TRADES starts its inner maximization."""


class Objective(Protocol):
    """A training objective with its hyperparameters."""

    def __call__(self, model: Model) -> LossFn:
        """Return the loss of a model; the same function for the same model."""
        ...


@value
class CrossEntropy:
    """Mean cross-entropy on clean images: the default of every training."""

    def __call__(self, model: Model) -> LossFn:
        """Return the loss of a model; the same function for the same model."""
        return cross_entropy_loss(model)


@value
class AdversarialTraining:
    """Cross-entropy on adversarial examples (Madry et al., arXiv 1706.06083).

    Minimizes ``mean CE(f(x'), y)`` (equation 2.1), where x' maximizes the cross-entropy
    within ``epsilon`` of x and in the image box. PGD starts from a uniform random point
    and takes ``num_steps`` steps along the normalized gradient (its sign for
    ``"linf"``), with the model in evaluation mode. Clean images are not used;
    BatchNorm's statistics are those of the adversarial batch.

    Attributes:
      epsilon: radius of the ball; 8/255 for CIFAR-10 in the paper, 0.3 for MNIST.
      num_steps: steps of the inner maximization; 7 for CIFAR-10 in the paper, 40 for
        MNIST. 0 keeps the random start.
      step: length of a step; 2/255 for CIFAR-10 in the paper, 0.01 for MNIST.
      norm: norm of the ball.
    """

    epsilon: Real = 8 / 255
    num_steps: int = 10
    step: Real = 2 / 255
    norm: NormName = "linf"

    def __post_init__(self) -> None:
        """Raise on sizes that are negative or not finite."""
        check_counts(0, num_steps=self.num_steps)
        check_not_negative(epsilon=self.epsilon, step=self.step)

    def __call__(self, model: Model) -> LossFn:
        """Return the loss of a model; the same function for the same model."""
        return _bound(self, model)

    def loss(
        self, model: Model, variables: Variables, batch: Batch, key: Array
    ) -> tuple[Array, ModelState]:
        """Return the mean loss of a batch and the new state of the model.

        Args:
          model: the architecture.
          variables: variables of the model.
          batch: images ``[B, H, W, ch]`` in [0, 1] and labels ``[B]``.
          key: PRNG key for the random start and the training pass; consumed.
        """
        key_start, key_pass = jax.random.split(key)
        fixed = lax.stop_gradient(variables)

        def harm(points: Array) -> Array:
            return jnp.sum(cross_entropy(model.apply(fixed, points), batch.labels))

        start = random_start(
            key_start, batch.images, epsilon=self.epsilon, norm=NORMS[self.norm]
        )
        near = _ascend(self, harm, batch.images, start)
        logits, state = model.apply_train(variables, near, key_pass)
        return jnp.mean(cross_entropy(logits, batch.labels)), state


@value
class TRADES:
    """Accuracy on clean images, stability around them (Zhang et al., arXiv 1901.08573).

    Minimizes ``mean CE(f(x), y) + beta * KL(f(x) || f(x'))`` (equation 5), where x'
    maximizes that divergence within ``epsilon`` of x and in the image box. The inner
    maximization starts from x plus Gaussian noise of standard deviation 0.001 and takes
    ``num_steps`` steps along the normalized gradient (its sign for ``"linf"``), with
    the model in evaluation mode, as the released code does. The outer gradient flows
    through both f(x) and f(x').

    BatchNorm: the clean and the adversarial batch pass one after the other in training
    mode, and each is normalized by its own statistics. The running statistics are
    updated by the clean pass first, then by the adversarial one. (The released code
    passes the clean batch a second time, which moves the running statistics again and
    changes no gradient.)

    Attributes:
      beta: weight of stability; 6 in the paper's tables (its 1/lambda), 1 for more
        accuracy.
      epsilon: radius of the ball; 0.031 for CIFAR-10 in L-infinity.
      num_steps: steps of the inner maximization; 0 keeps the noisy start, clipped to
        the image box.
      step: length of a step; 0.007 for CIFAR-10. For ``"l2"`` the released code uses
        ``2 * epsilon / num_steps``.
      norm: norm of the ball.
    """

    beta: Real = 6.0
    epsilon: Real = 0.031
    num_steps: int = 10
    step: Real = 0.007
    norm: NormName = "linf"

    def __post_init__(self) -> None:
        """Raise on sizes that are negative or not finite."""
        check_counts(0, num_steps=self.num_steps)
        check_not_negative(beta=self.beta, epsilon=self.epsilon, step=self.step)

    def __call__(self, model: Model) -> LossFn:
        """Return the loss of a model; the same function for the same model."""
        return _bound(self, model)

    def loss(
        self, model: Model, variables: Variables, batch: Batch, key: Array
    ) -> tuple[Array, ModelState]:
        """Return the mean loss of a batch and the new state of the model.

        Args:
          model: the architecture.
          variables: variables of the model.
          batch: images ``[B, H, W, ch]`` in [0, 1] and labels ``[B]``.
          key: PRNG key for the noise and the training passes; consumed.
        """
        key_start, key_clean, key_near = jax.random.split(key, 3)
        fixed = lax.stop_gradient(variables)
        clean = model.apply(fixed, batch.images)

        def harm(points: Array) -> Array:
            return jnp.sum(kl_from_logits(clean, model.apply(fixed, points)))

        noise = _START * jax.random.normal(key_start, batch.images.shape)
        near = _ascend(self, harm, batch.images, batch.images + noise)
        logits, state = model.apply_train(variables, batch.images, key_clean)
        moved, state = model.apply_train(
            variables._replace(state=state), lax.stop_gradient(near), key_near
        )
        stability = kl_from_logits(logits, moved)
        losses = cross_entropy(logits, batch.labels) + self.beta * stability
        return jnp.mean(losses), state


def _bound(objective: AdversarialTraining | TRADES, model: Model) -> LossFn:
    """Return the loss of a model, cached unless a field is traced or mapped over."""
    leaves = jax.tree.leaves(objective)
    if any(isinstance(leaf, Tracer) or jnp.ndim(leaf) for leaf in leaves):
        return _remembered.__wrapped__(objective, model)
    # arrays cannot be hashed
    return _remembered(jax.tree.map(float, objective), model)


@lru_cache(maxsize=64)
def _remembered(objective: AdversarialTraining | TRADES, model: Model) -> LossFn:
    def loss_fn(
        variables: Variables, batch: Batch, key: Array
    ) -> tuple[Array, ModelState]:
        return objective.loss(model, variables, batch, key)

    return loss_fn


def _ascend(
    objective: AdversarialTraining | TRADES,
    harm: Callable[[Array], Array],
    images: Array,
    start: Array,
) -> Array:
    """Take steps of a fixed length up a gradient, within the balls and the image box.

    Args:
      objective: objective with the radius, the steps and the norm.
      harm: function ``[B, ...] -> []`` to increase.
      images: ``[B, ...]`` centers of the balls.
      start: ``[B, ...]`` first iterates.
    """
    chex.assert_equal_shape([images, start])
    epsilon = jnp.full(images.shape[:1], objective.epsilon, images.dtype)
    step_size = jnp.full(images.shape[:1], objective.step, images.dtype)

    def advance(_: int, points: Array) -> Array:
        return ascent_step(
            points,
            jax.grad(harm)(points),
            images,
            step_size=step_size,
            epsilon=epsilon,
            norm=NORMS[objective.norm],
            bounds=(0.0, 1.0),
        )

    points = lax.fori_loop(0, objective.num_steps, advance, start)
    # Without steps, nothing else clips the start to the image box.
    return jnp.clip(points, 0.0, 1.0)


OBJECTIVES: dict[str, Callable[..., Any]] = {
    "cross_entropy": CrossEntropy,
    "adversarial": AdversarialTraining,
    "trades": TRADES,
}
"""Objectives by name: ``OBJECTIVES[name](**fields)(model)`` is a loss function."""
