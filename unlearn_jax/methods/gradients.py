"""Gradients of the cross-entropy over a set of samples, for second-order methods.

All gradients are those of the original model in evaluation mode, computed batch by
batch inside one program. A sample outside the set is never read.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from unlearn_jax.losses import cross_entropy
from unlearn_jax.train import steps_per_epoch
from unlearn_jax.types import Array, Params, Problem, to_float


class Batches(NamedTuple):
    """Weighted samples of a sum, in batches.

    Attributes:
      position: ``[num_batches, B]`` int32, positions in the training set; the last
        batch is padded with samples of the set, so that nothing else is read.
      weight: ``[num_batches, B]`` float32, weight of each sample in the sum; 0 for
        padding.
    """

    position: Array
    weight: Array


def members(mask: Array, num_samples: int) -> Array:
    """Return the positions of a mask's samples, ``[num_samples]`` int32 ascending.

    Args:
      mask: ``[N]`` bool.
      num_samples: number of samples in the mask (static).
    """
    return jnp.nonzero(mask, size=num_samples)[0].astype(jnp.int32)


def batches_of(
    index: Array, batch_size: int, *, num_samples: Array | int | None = None
) -> Batches:
    """Return batches of samples in the given order, each sample with weight 1.

    Args:
      index: ``[n]`` positions.
      batch_size: largest size of a batch.
      num_samples: number of leading positions that count; all if None. The others get
        weight 0.
    """
    size = min(batch_size, len(index))
    count = len(index) if num_samples is None else num_samples
    num_batches = steps_per_epoch(len(index), size)
    row = jnp.arange(num_batches * size).reshape(num_batches, size)
    return Batches(index[row % len(index)], (row < count).astype(jnp.float32))


def _read(problem: Problem, index: Array) -> tuple[Array, Array]:
    """Return the images and labels of the samples at some positions."""
    return to_float(problem.train.images[index]), problem.train.labels[index]


def _weighted_loss(
    problem: Problem, params: Params, images: Array, labels: Array, weight: Array
) -> Array:
    logits = problem.model.apply(problem.variables._replace(params=params), images)
    return jnp.sum(weight * cross_entropy(logits, labels))


_gradient = jax.grad(_weighted_loss, argnums=1)


def weighted_gradient(problem: Problem, batches: Batches) -> Params:
    """Return ``sum_i w_i grad CE(x_i, y_i)``, a pytree like the parameters.

    Args:
      problem: gives the model and the samples.
      batches: result of :func:`batches_of`, with any weights.
    """
    params = problem.variables.params

    def step(total: Params, batch: Batches) -> tuple[Params, None]:
        images, labels = _read(problem, batch.position)
        gradient = _gradient(problem, params, images, labels, batch.weight)
        return jax.tree.map(jnp.add, total, gradient), None

    return lax.scan(step, jax.tree.map(jnp.zeros_like, params), batches)[0]


def mean_gradient(
    problem: Problem, mask: Array, num_samples: int, *, batch_size: int
) -> Params:
    """Return the gradient of the mean cross-entropy over a set.

    Args:
      problem: gives the model and the samples.
      mask: ``[N]`` bool.
      num_samples: number of samples in the mask (static).
      batch_size: samples at a time; changes memory, not the value.
    """
    batches = batches_of(members(mask, num_samples), batch_size)
    return weighted_gradient(
        problem, batches._replace(weight=batches.weight / num_samples)
    )


def example_gradients(problem: Problem, index: Array) -> Params:
    """Return the gradient of each sample's own cross-entropy.

    Args:
      problem: gives the model and the samples.
      index: ``[B]`` positions.

    Returns:
      A pytree like the parameters with a leading axis ``B``, in the memory of ``B``
      models.
    """
    return _per_example(problem, *_read(problem, index))


def _per_example(problem: Problem, images: Array, labels: Array) -> Params:
    def gradient_of(image: Array, label: Array) -> Params:
        return _gradient(
            problem, problem.variables.params, image[None], label[None], jnp.ones(1)
        )

    return jax.vmap(gradient_of)(images, labels)


def fisher_diagonal(
    problem: Problem,
    batches: Batches,
    *,
    labels: Literal["true", "model"] = "true",
    per: Literal["sample", "batch"] = "sample",
) -> Params:
    """Return the diagonal of the Fisher information, or a substitute of released codes.

    ==========  ==========  ====================================================
    ``labels``  ``per``     value
    ==========  ==========  ====================================================
    model       sample      ``mean_i sum_y p_iy (grad CE(x_i, y))^2``, the
                            Fisher information
    true        sample      ``mean_i (grad CE(x_i, y_i))^2``, the empirical
                            Fisher information
    model       batch       ``mean_b sum_y mean_i(p_iy) (grad mean_i CE(x_i, y))^2``,
                            l1-sparse's code
    true        batch       ``mean_b (grad mean_i CE(x_i, y_i))^2``, SSD's code
    ==========  ==========  ====================================================

    A batch's mean gradient averages the samples' noise away, so the values of
    ``per="batch"`` fall with the batch size and depend on which samples share a batch.

    Args:
      problem: gives the model and the samples.
      batches: result of :func:`batches_of`, with weights 0 or 1.
      labels: ``true`` for the labels of the training set, ``model`` for an average over
        the model's predicted labels (``C`` times the cost).
      per: gradient to square: that of each ``sample`` (memory of a batch of models), or
        the mean gradient of each ``batch``.

    Returns:
      A pytree like the parameters, not negative.
    """
    params = problem.variables.params

    def squares(images: Array, labels: Array, weight: Array, probs: Array) -> Params:
        """Return the weighted squares of a batch; ``probs`` are the labels' weights."""
        if per == "sample":
            gradients = _per_example(problem, images, labels)

            def weighted_square(gradient: Array) -> Array:
                # Accelerators would round the squares to fewer bits by default.
                return jnp.tensordot(
                    weight * probs,
                    gradient * gradient,
                    1,
                    precision=lax.Precision.HIGHEST,
                )

            return jax.tree.map(weighted_square, gradients)
        mean_weight = weight / jnp.sum(weight)
        mean = _gradient(problem, params, images, labels, mean_weight)
        return jax.tree.map(lambda g: jnp.sum(mean_weight * probs) * g * g, mean)

    def step(total: Params, batch: Batches) -> tuple[Params, None]:
        images, truth = _read(problem, batch.position)
        if labels == "true":
            new = squares(images, truth, batch.weight, jnp.ones_like(batch.weight))
            return jax.tree.map(jnp.add, total, new), None
        probs = jax.nn.softmax(problem.model.apply(problem.variables, images))

        def add_class(total: Params, item: tuple[Array, Array]) -> tuple[Params, None]:
            label, prob = item
            new = squares(images, jnp.full_like(truth, label), batch.weight, prob)
            return jax.tree.map(jnp.add, total, new), None

        return lax.scan(add_class, total, (jnp.arange(probs.shape[-1]), probs.T))

    total, _ = lax.scan(step, jax.tree.map(jnp.zeros_like, params), batches)
    count = jnp.sum(batches.weight) if per == "sample" else len(batches.position)
    return jax.tree.map(lambda leaf: leaf / count, total)
