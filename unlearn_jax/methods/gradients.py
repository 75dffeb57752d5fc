"""Gradients of the cross-entropy summed over a set of samples: what second-order methods are made of.

Everything is taken at the original model, in evaluation mode, batch by batch inside one
program. A sample outside the set is never read.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from unlearn_jax.losses import cross_entropy
from unlearn_jax.train import steps_per_epoch, to_float
from unlearn_jax.types import Array, Params, Problem


class Batches(NamedTuple):
    """Samples to sum over.

    Attributes:
      position: ``[num_batches, B]`` int32, in the training set; the last batch is
        filled up with samples that came before, so that nothing else is read.
      weight: ``[num_batches, B]`` float32, of each sample in the sum; 0 for the
        filling.
    """

    position: Array
    weight: Array


def members(mask: Array, num_samples: int) -> Array:
    """``[num_samples]`` positions of a mask's samples, ascending; ``num_samples`` (static) is how many there are."""
    return jnp.nonzero(mask, size=num_samples)[0].astype(jnp.int32)


def batches_of(index: Array, batch_size: int) -> Batches:
    """Samples in the order given, each of weight 1, in batches of at most ``batch_size``."""
    size = min(batch_size, len(index))
    num_batches = steps_per_epoch(len(index), size)
    place = jnp.arange(num_batches * size).reshape(num_batches, size)
    return Batches(index[place % len(index)], (place < len(index)).astype(jnp.float32))


def _read(problem: Problem, index: Array) -> tuple[Array, Array]:
    return to_float(problem.train.images[index]), problem.train.labels[index]


def _weighted_loss(
    problem: Problem, params: Params, images: Array, labels: Array, weight: Array
) -> Array:
    logits = problem.model.apply(problem.variables._replace(params=params), images)
    return jnp.sum(weight * cross_entropy(logits, labels))


_gradient = jax.grad(_weighted_loss, argnums=1)


def weighted_gradient(problem: Problem, batches: Batches) -> Params:
    """``sum_i w_i grad CE(x_i, y_i)``."""

    def step(total: Params, batch: Batches) -> tuple[Params, None]:
        new = _gradient(
            problem,
            problem.variables.params,
            *_read(problem, batch.position),
            batch.weight,
        )
        return jax.tree.map(jnp.add, total, new), None

    return lax.scan(
        step, jax.tree.map(jnp.zeros_like, problem.variables.params), batches
    )[0]


def mean_gradient(
    problem: Problem, mask: Array, num_samples: int, *, batch_size: int
) -> Params:
    """The gradient of the mean cross-entropy over a set.

    Args:
      problem: gives the model and the samples.
      mask: ``[N]`` bool.
      num_samples: how many it selects (static).
      batch_size: samples at a time; changes memory, not the value.

    Returns:
      One gradient, like the parameters.
    """
    batches = batches_of(members(mask, num_samples), batch_size)
    return weighted_gradient(
        problem, batches._replace(weight=batches.weight / num_samples)
    )


def example_gradients(problem: Problem, index: Array) -> Params:
    """The gradient of each sample's own cross-entropy.

    Args:
      problem: gives the model and the samples.
      index: ``[B]`` positions.

    Returns:
      Like the parameters, with a leading ``B``: as much memory as ``B`` models.
    """
    return _per_example(problem, *_read(problem, index))


def _per_example(problem: Problem, images: Array, labels: Array) -> Params:
    def one(image: Array, label: Array) -> Params:
        return _gradient(
            problem, problem.variables.params, image[None], label[None], jnp.ones(1)
        )

    return jax.vmap(one)(images, labels)


def fisher_diagonal(
    problem: Problem,
    batches: Batches,
    *,
    labels: Literal["true", "model"] = "true",
    per: Literal["sample", "batch"] = "sample",
) -> Params:
    """The diagonal of the Fisher information, or of what released codes compute in its place.

    ==========  ==========  ===========================================================  ======================
    ``labels``  ``per``     value                                                        name
    ==========  ==========  ===========================================================  ======================
    model       sample      ``mean_i sum_y p_iy (grad CE(x_i, y))^2``                     Fisher information
    true        sample      ``mean_i (grad CE(x_i, y_i))^2``                              empirical Fisher
    model       batch       ``mean_b sum_y mean_i(p_iy) (grad mean_i CE(x_i, y))^2``      l1-sparse's code
    true        batch       ``mean_b (grad mean_i CE(x_i, y_i))^2``                       SSD's code
    ==========  ==========  ===========================================================  ======================

    A batch's mean gradient averages the samples' noise away, so the values
    ``per="batch"`` fall with the batch size and depend on who shares a batch.

    Args:
      problem: gives the model and the samples.
      batches: of :func:`batches_of`, weights 0 or 1.
      labels: the training set's, or an average over the model's own predictions (``C``
        times the cost).
      per: square each sample's gradient (memory: a batch of models), or each batch's
        mean gradient.

    Returns:
      Like the parameters, not negative.
    """

    def squares(images: Array, label: Array, present: Array, probs: Array) -> Params:
        if per == "sample":
            gradients = _per_example(problem, images, label)
            exact = (
                lax.Precision.HIGHEST
            )  # accelerators would round the squares to fewer bits
            return jax.tree.map(
                lambda g: jnp.tensordot(present * probs, g * g, 1, precision=exact),
                gradients,
            )
        mean = present / jnp.sum(present)
        gradient = _gradient(problem, problem.variables.params, images, label, mean)
        return jax.tree.map(lambda g: jnp.sum(mean * probs) * g * g, gradient)

    def step(total: Params, batch: Batches) -> tuple[Params, None]:
        images, truth = _read(problem, batch.position)
        if labels == "true":
            return (
                jax.tree.map(
                    jnp.add,
                    total,
                    squares(images, truth, batch.weight, jnp.ones(len(images))),
                ),
                None,
            )
        probs = jax.nn.softmax(problem.model.apply(problem.variables, images))

        def of_class(total: Params, item: tuple[Array, Array]) -> tuple[Params, None]:
            label, prob = item
            new = squares(images, jnp.full_like(truth, label), batch.weight, prob)
            return jax.tree.map(jnp.add, total, new), None

        return lax.scan(of_class, total, (jnp.arange(probs.shape[-1]), probs.T))

    total, _ = lax.scan(
        step, jax.tree.map(jnp.zeros_like, problem.variables.params), batches
    )
    count = jnp.sum(batches.weight) if per == "sample" else len(batches.position)
    return jax.tree.map(lambda leaf: leaf / count, total)
