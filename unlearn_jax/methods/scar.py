"""SCAR: move D_F's features to the nearest retained class, and distill the original.

Bonato, Cotogni and Sabetta, *Is Retain Set All You Need in Machine Unlearning?*, ECCV
2024 (arXiv 2404.12922).
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from unlearn_jax import linalg
from unlearn_jax.checks import (
    check_counts,
    check_fractions,
    check_not_negative,
    check_positive,
)
from unlearn_jax.layers import head
from unlearn_jax.losses import kl_from_logits
from unlearn_jax.methods.base import (
    FineTuning,
    forget_rows,
    forward_fn,
    num_classes,
)
from unlearn_jax.methods.gradients import members
from unlearn_jax.methods.passes import Pass, PassLoss, finetune_passes
from unlearn_jax.methods.similarity import excluded_classes, sample_features
from unlearn_jax.optimizers import Adam, Optimizer
from unlearn_jax.train import Batch, fetch_from
from unlearn_jax.types import (
    Array,
    ModelState,
    Problem,
    UnlearnInfo,
    Variables,
)
from unlearn_jax.values import Real, value

Surrogate = Literal["retain", "noise"]


@value
class SCAR(FineTuning):
    """Descent on the distance of D_F to the nearest class, and distillation elsewhere.

    1. ``t(x)`` are the features (inputs of the last layer), raised to the power
       ``power`` with their sign kept, and scaled to length 1. Each class of D_R has the
       mean of its powered features, also scaled to length 1, and a covariance matrix.
       The matrix is shrunk twice by
       ``S <- S + shrink_diagonal V1 I + shrink_others V2 (1 - I)``, where ``V1`` is the
       mean of its diagonal and ``V2`` the mean of its other nonzero entries. Then it is
       scaled to a correlation matrix and inverted; see :func:`class_distributions`.
    2. Every forget sample is assigned the class ``k`` with the least distance
       ``d_k(x) = (t(x) - m_k)^T S_k^-1 (t(x) - m_k)`` under the original, among the
       classes that are not excluded
       (:func:`unlearn_jax.methods.similarity.excluded_classes`).
    3. A step minimizes ``forget_weight mean d + distill_weight mean KL`` with
       ``KL = KL(softmax(z / T) || softmax(f))``, over a batch of D_F and a batch of
       surrogates. ``d`` is the distance ``d_k(x)`` to the assigned class ``k``, ``f``
       are the model's logits and ``z`` the original's. In ``z``, the logits of classes
       without retained samples are replaced by the least logit of the batch. Surrogates
       that the original assigns to such a class do not count.

    **Reconstructed** from the authors' code. Their surrogates are 10,000 images of
    ImageNet, or Gaussian noise, so that only the statistics of D_R are needed. Here
    surrogates are ``noise``, or the images (not the labels) of D_R, which only make it
    easier to keep the accuracy. Other differences: the code numbers the retained
    classes from 0, so that it excludes the class after a sample's own instead of its
    own; it stops when the accuracy on D_F falls below 1% (here training runs to the
    end); it combines each forget batch with six surrogate batches in turn (here an
    epoch has as many steps as ``num_repeats`` passes over D_F fill).

    Published settings: Adam at 5e-4, batches of 1024, at most 30 epochs, T 1, weights 1
    and 5 (the code's defaults and example for CIFAR-10); a script in the same
    repository has 1e-3, 10 epochs, T 2 and weights 1 and 0.1. Both use power 0.5 and
    shrinkage 3 and 3.

    Attributes:
      forget_weight: weight of the distance, not negative.
      distill_weight: weight of the divergence from the original, not negative.
      temperature: temperature T of the original's logits only, positive.
      power: power of the features, in (0, 1].
      shrink_diagonal: shrinkage of the diagonal, not negative.
      shrink_others: shrinkage of the other entries, not negative.
      surrogate: ``retain`` reads images of D_R; ``noise`` draws
        ``N(0.5, 0.25)``, clipped to [0, 1].
      num_repeats: passes over D_F that set the steps of an epoch, ``num_repeats |D_F| /
        batch_size`` rounded up. Every step reads a whole batch, so all numbers that
        give one step are the same.
      num_epochs: number of epochs.
      batch_size: forget samples per step, and surrogates per step.
      learning_rate: learning rate of the optimizer.
      weight_decay: L2 penalty, added to the gradient.
      optimizer: ``Adam()`` in the code.
    """

    forget_weight: Real = 1.0
    distill_weight: Real = 5.0
    temperature: Real = 1.0
    power: Real = 0.5
    shrink_diagonal: Real = 3.0
    shrink_others: Real = 3.0
    surrogate: Surrogate = "retain"
    num_repeats: int = 6
    num_epochs: int = 30
    batch_size: int = 1024
    learning_rate: Real = 5e-4
    weight_decay: Real = 0.0
    optimizer: Optimizer = Adam()

    def __post_init__(self) -> None:
        """Raise on values that no run could use."""
        super().__post_init__()
        check_not_negative(
            forget_weight=self.forget_weight,
            distill_weight=self.distill_weight,
            shrink_diagonal=self.shrink_diagonal,
            shrink_others=self.shrink_others,
        )
        check_positive(temperature=self.temperature, power=self.power)
        check_fractions(power=self.power)
        check_counts(num_repeats=self.num_repeats)

    def __call__(self, key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        """Fit the classes' distributions and fine-tune.

        Args:
          key: PRNG key; consumed.
          problem: gives the model and the sets.

        Raises:
          InputError: a model without a last linear layer.
        """
        classes = class_distributions(
            problem,
            power=self.power,
            shrink_diagonal=self.shrink_diagonal,
            shrink_others=self.shrink_others,
        )
        part = Pass(
            _scar_loss(problem, self, classes),
            fetch_from(self.augmentation),
            problem.train,
            problem.forget,
            self.num_repeats * problem.num_forget,
            second=problem.retain if self.surrogate == "retain" else None,
        )
        return finetune_passes(key, problem, self, [part])


class ClassDistributions(NamedTuple):
    """Distributions of the powered features of the retained classes.

    Attributes:
      means: ``[C, D]``, mean features of length 1; 0 for a class without retained
        samples.
      precisions: ``[C, D, D]``, inverse correlation matrices; the identity for a class
        without retained samples.
    """

    means: Array
    precisions: Array

    def distances(self, features: Array, power: Real) -> Array:
        """Return the distances ``d_k`` of features, ``[B, C]``.

        Args:
          features: ``[B, D]`` inputs of the last layer.
          power: power that the distributions were fitted with.
        """
        moved = _unit(powered(features, power))[:, None] - self.means[None]
        exact = lax.Precision.HIGHEST
        stretched = jnp.einsum("bkd,kde->bke", moved, self.precisions, precision=exact)
        return jnp.sum(stretched * moved, -1)


def powered(features: Array, power: Real) -> Array:
    """Return Tukey's transform ``sign(x) |x|^power``, with gradient 0 at 0."""
    size = jnp.abs(features)
    # the slope at 0 is infinite, and where() alone would turn it into NaN
    return jnp.where(
        size > 0, jnp.sign(features) * jnp.where(size > 0, size, 1.0) ** power, 0.0
    )


def class_distributions(
    problem: Problem,
    *,
    power: Real = 0.5,
    shrink_diagonal: Real = 3.0,
    shrink_others: Real = 3.0,
    batch_size: int = 128,
) -> ClassDistributions:
    """Fit a distribution to every class of D_R.

    Args:
      problem: gives the original model, in evaluation mode, and the samples.
      power: power of the features.
      shrink_diagonal: shrinkage of the diagonal; see :class:`SCAR`.
      shrink_others: shrinkage of the other entries; see :class:`SCAR`.
      batch_size: images at a time; changes memory, not values.

    Raises:
      InputError: a model without a last linear layer.
    """
    index = members(problem.retain, problem.num_retain)
    labels = problem.train.labels[index]
    samples = powered(sample_features(problem, index, batch_size), power)
    identity = jnp.eye(samples.shape[-1])
    exact = lax.Precision.HIGHEST

    def shrink(covariance: Array) -> Array:
        others = covariance * (1 - identity)
        count = jnp.maximum(jnp.sum(others != 0), 1)
        return (
            covariance
            + shrink_diagonal * jnp.mean(jnp.diagonal(covariance)) * identity
            + shrink_others * jnp.sum(others) / count * (1 - identity)
        )

    def fit(label: Array) -> tuple[Array, Array]:
        is_member = (labels == label)[:, None]
        count = jnp.sum(is_member)
        mean = jnp.sum(is_member * samples, 0) / jnp.maximum(count, 1)
        centered = is_member * (samples - mean[None])
        covariance = jnp.matmul(centered.T, centered, precision=exact)
        covariance = shrink(shrink(covariance / jnp.maximum(count - 1, 1)))
        deviation = jnp.sqrt(jnp.maximum(jnp.diagonal(covariance), 1e-30))
        correlation = covariance / (deviation[:, None] * deviation[None])
        # a class with fewer than two samples has no covariance
        correlation = jnp.where(count > 1, correlation, identity)
        return _unit(mean), linalg.inv(correlation)

    return ClassDistributions(*lax.map(fit, jnp.arange(num_classes(problem))))


def _unit(vectors: Array) -> Array:
    squares = jnp.sum(vectors**2, -1, keepdims=True)
    return vectors / jnp.sqrt(jnp.maximum(squares, 1e-24))


def _scar_loss(
    problem: Problem, options: SCAR, classes: ClassDistributions
) -> PassLoss:
    """Return the loss of a forget batch and of a surrogate batch."""
    forward = forward_fn(problem.model, options)
    count = num_classes(problem)
    excluded = excluded_classes(problem, count)
    is_retained = jnp.zeros(count, bool).at[problem.train.labels].max(problem.retain)
    rows = forget_rows(problem)
    features = sample_features(problem, rows, batch_size=128)
    distances = classes.distances(features, options.power)
    allowed = jnp.where(excluded[problem.train.labels[rows]], jnp.inf, distances)
    row_of = jnp.cumsum(problem.forget) - 1
    target = jnp.argmin(allowed, -1)

    def distance(
        variables: Variables, batch: Batch, key: Array
    ) -> tuple[Array, ModelState]:
        def apply(variables: Variables, images: Array) -> Any:
            return forward(variables, images, key)

        (_, state), layer = head(apply, variables, batch.images)
        every = classes.distances(layer.inputs, options.power)
        chosen = target[row_of[batch.position]]
        return jnp.mean(jnp.take_along_axis(every, chosen[:, None], -1)), state

    def divergence(
        variables: Variables, images: Array, key: Array
    ) -> tuple[Array, ModelState]:
        teacher = problem.model.apply(problem.variables, images)
        is_counted = is_retained[jnp.argmax(teacher, -1)]
        least = jnp.min(jnp.where(is_counted[:, None], teacher, jnp.inf))
        least = jnp.where(jnp.isinf(least), 0.0, least)
        masked = jnp.where(is_retained[None], teacher, least)
        logits, state = forward(variables, images, key)
        apart = kl_from_logits(masked / options.temperature, logits)
        return jnp.sum(is_counted * apart) / jnp.maximum(jnp.sum(is_counted), 1), state

    def loss_fn(variables: Variables, batch: Any, key: Array) -> Any:
        key_forget, key_distill, key_noise = jax.random.split(key, 3)
        if options.surrogate == "retain":
            batch, surrogate = batch
            images = surrogate.images
        else:
            noise = jax.random.normal(key_noise, batch.images.shape)
            images = jnp.clip(0.5 + 0.25 * noise, 0.0, 1.0)
        apart, state = distance(variables, batch, key_forget)
        later = variables._replace(state=lax.stop_gradient(state))
        distilled, state = divergence(later, images, key_distill)
        return options.forget_weight * apart + options.distill_weight * distilled, state

    return loss_fn
