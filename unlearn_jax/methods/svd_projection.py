"""SVD class forgetting: remove the input directions that only D_F activates."""

import math
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from unlearn_jax import linalg
from unlearn_jax.checks import check_counts, check_positive
from unlearn_jax.layers import Layer, by_path, layers, with_kernels
from unlearn_jax.methods.gradients import Batches, batches_of
from unlearn_jax.types import (
    Array,
    InputError,
    Problem,
    UnlearnInfo,
    Variables,
    to_float,
)
from unlearn_jax.values import Real, value

Patches = Literal["all", "window"]

# accelerators would round products to fewer bits, and large alphas magnify that
EXACT = lax.Precision.HIGHEST


@value
class SVDProjection:
    """Projection of every layer's input space: ``W <- W (I - (P_f - P_f P_r))^T``.

    Published in arXiv 2312.00761 (Kodge et al.); needs neither gradients nor training.
    The rows of a layer's activation matrix are its inputs on some samples: all input
    rows of a dense layer, the patches under the kernel of a convolution. A direction
    with singular value ``sigma`` and right singular vector ``u`` of this matrix has the
    fraction ``s = sigma^2 / sum sigma^2`` and the importance
    ``Lambda = alpha s / ((alpha - 1) s + 1)``, and ``P = sum Lambda u u^T``. ``P_r`` is
    that of retained samples with ``alpha_retain``, ``P_f`` that of forget samples with
    ``alpha_forget``. A direction that matters only to D_F is removed; a direction that
    matters to D_R is kept. All activations are those of the original model in
    evaluation mode. Every dense and convolutional layer that
    :func:`unlearn_jax.layers.layers` finds is projected once, including the first layer
    and the head; weights in loops, and weights that are scaled or normalized before
    use, are not found. Biases and BatchNorm do not change. Reads a random sample of D_R
    and one of D_F, drawn with the key.

    **No decomposition is needed.** ``P = alpha G (I + (alpha - 1) G)^-1`` with
    ``G = A^T A / trace(A^T A)`` of the activation matrix ``A``, summed over batches.
    Solving this system costs a small fraction of an SVD of ``A`` or an ``eigh`` of
    ``G``, and is as exact: the condition number is at most ``max(alpha, 1 / alpha)``. A
    layer needs memory for two matrices ``D x D``, where ``D`` is its input size
    (``kh kw in`` for a convolution).

    **Released code.** The code takes the first retained samples of every class, in the
    order of the data set; here they are drawn at random (as the code draws its forget
    samples). The code's patches are those of ``patches="window"``.

    Published values: 900 samples each, alphas 100 and 3 on CIFAR-10; 990, 1000 and 30
    on CIFAR-100; 999, 100 and 10 on ImageNet; searched over alpha_retain in [10, 1000]
    and alpha_forget in [1, 100]. All are for forgetting one whole class. The directions
    of a random forget set are those of D_R, so little is removed.

    ``num_gradients`` counts the samples that pass through the model.

    Attributes:
      alpha_retain: scale of the retained importances, at least 1e-3; a larger one
        protects more directions of D_R, and infinity would protect all of them.
      alpha_forget: scale of the forget importances, at least 1e-3; a smaller one
        removes less, and 0 would return the original.
      num_retain: number of retained samples, balanced over classes as far as their
        sizes allow; capped at all of D_R.
      num_forget: number of forget samples, balanced and capped likewise.
      num_patches: approximate number of rows of a layer's activation matrix: every
        sample gives the same number of rows, at least one, at random positions.
      patches: ``all`` draws positions from the whole image; ``window`` draws those of a
        convolution from a random window, as the released code does. The window's side
        is three kernel sides, it is the same for a whole batch (the code has one batch
        of all samples), and it is padded as if it were the image. Images no wider than
        the window are used whole.
      batch_size: samples at a time; their activations in all layers are held in memory.
    """

    alpha_retain: Real = 100.0
    alpha_forget: Real = 3.0
    num_retain: int = 900
    num_forget: int = 900
    num_patches: int = 10_000
    patches: Patches = "all"
    batch_size: int = 128

    def __post_init__(self) -> None:
        """Raise on values that no projection could use."""
        alphas = {"alpha_retain": self.alpha_retain, "alpha_forget": self.alpha_forget}
        check_positive(**alphas)
        for name, alpha in alphas.items():
            if not isinstance(alpha, Tracer) and np.min(alpha) < 1e-3:
                raise InputError(f"{name} must be at least 1e-3, got {alpha}")
        check_counts(
            num_retain=self.num_retain,
            num_forget=self.num_forget,
            num_patches=self.num_patches,
            batch_size=self.batch_size,
        )

    def __call__(self, key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        """Project all layers.

        Args:
          key: PRNG key for samples and patches; consumed.
          problem: gives the model and the sets.

        Raises:
          InputError: a model without dense and convolutional layers.
        """
        num_retain = min(self.num_retain, problem.num_retain)
        num_forget = min(self.num_forget, problem.num_forget)
        image = jnp.zeros((1, *problem.train.images.shape[1:]))
        model_layers = by_path(layers(problem.model.apply, problem.variables, image))
        key_retain, key_forget = jax.random.split(key)
        moments = partial(
            _moments,
            problem,
            num_patches=self.num_patches,
            patches=self.patches,
            batch_size=self.batch_size,
        )
        retain_moments = moments(key_retain, problem.retain, num_retain)
        forget_moments = moments(key_forget, problem.forget, num_forget)
        kernels = {}
        for path, layer in model_layers.items():
            retain_moment = retain_moments[path]
            columns = _by_group(layer.kernel, len(retain_moment))
            unprotected = columns - _apply_projection(
                retain_moment, self.alpha_retain, columns
            )
            columns = columns - _apply_projection(
                forget_moments[path], self.alpha_forget, unprotected
            )
            kernels[path] = jnp.moveaxis(columns, 0, 1).reshape(layer.kernel.shape)
        variables = with_kernels(
            problem.variables, kernels, list(model_layers.values())
        )
        cost = jnp.asarray(num_retain + num_forget, jnp.int32)
        return variables, UnlearnInfo(jnp.zeros(0), cost)


def balanced_sample(key: Array, labels: Array, member: Array, count: int) -> Array:
    """Draw members of a mask, balanced over classes as far as possible.

    Args:
      key: PRNG key; consumed.
      labels: ``[N]`` integer classes.
      member: ``[N]`` bool, at least ``count`` True.
      count: number of members to draw (static).

    Returns:
      ``[count]`` different positions. The numbers drawn from two classes differ by more
      than one only if the smaller class is exhausted.
    """
    draws = jax.random.uniform(key, labels.shape)
    place = jnp.arange(len(labels))
    group = jnp.where(member, labels, jnp.iinfo(labels.dtype).max)
    order = jnp.lexsort((draws, group))  # class by class, at random within a class
    is_first = jnp.append(True, group[order][1:] != group[order][:-1])
    rank = place - lax.cummax(jnp.where(is_first, place, 0))
    rank = jnp.where(member[order], rank, len(labels))
    return order[jnp.lexsort((draws[order], rank))[:count]]


def _moments(
    problem: Problem,
    key: Array,
    member: Array,
    count: int,
    *,
    num_patches: int,
    patches: Patches,
    batch_size: int,
) -> dict[str, Array]:
    """Return ``A^T A`` of every layer's activation matrix, by the weight's path.

    Each array has shape ``[groups, D, D]``.
    """
    key_sample, key_rows = jax.random.split(key)
    index = balanced_sample(key_sample, problem.train.labels, member, count)
    batches = batches_of(index, batch_size)
    num_rows = max(1, num_patches // count)

    def of_batch(key: Array, batch: Batches) -> dict[str, Array]:
        images = to_float(problem.train.images[batch.position])
        model_layers = layers(problem.model.apply, problem.variables, images)
        if not model_layers:
            raise InputError(
                "the model has no dense or convolutional layer whose weights could be"
                " projected"
            )
        total: dict[str, Array] = {}
        keys = jax.random.split(key, len(model_layers))
        for key_layer, layer in zip(keys, model_layers, strict=True):
            rows = _rows(key_layer, layer, len(images), num_rows, patches)
            rows = rows.astype(jnp.float32)
            present = batch.weight[:, None, None, None]
            new = jnp.einsum("brgi,brgj->gij", rows * present, rows, precision=EXACT)
            # a weight that is used twice gets the inputs of both uses
            is_reused = layer.path in total
            total[layer.path] = total[layer.path] + new if is_reused else new
        return total

    def step(
        total: dict[str, Array], item: tuple[Array, Batches]
    ) -> tuple[dict[str, Array], None]:
        return jax.tree.map(jnp.add, total, of_batch(*item)), None

    items = jax.random.split(key_rows, len(batches.position)), batches
    first = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), items
    )
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(of_batch, *first)
    )
    return lax.scan(step, zeros, items)[0]


def _rows(
    key: Array, layer: Layer, num_images: int, count: int, patches: Patches
) -> Array:
    """Return at most ``count`` rows of the activation matrix per image.

    Returns:
      ``[B, R, groups, D]``.
    """
    key_window, key_rows = jax.random.split(key)
    keys = jax.random.split(key_rows, num_images)
    inputs = layer.inputs
    if layer.kind == "dense":
        rows = inputs.reshape(num_images, -1, 1, inputs.shape[-1])
        return jax.vmap(lambda key, image: image[_draw(key, len(image), count)])(
            keys, rows
        )
    if patches == "window":
        image_shape = inputs.shape[1:-1]
        sides = [
            min(3 * kernel_side, side)
            for kernel_side, side in zip(layer.kernel.shape, image_shape, strict=False)
        ]
        num_starts = jnp.array(
            [
                side - window_side + 1
                for side, window_side in zip(image_shape, sides, strict=True)
            ]
        )
        start = jax.random.randint(key_window, num_starts.shape, 0, num_starts)
        inputs = lax.dynamic_slice(
            inputs, (0, *start, 0), (num_images, *sides, inputs.shape[-1])
        )
    return jax.vmap(partial(_patches, layer, count))(keys, inputs)


def _patches(layer: Layer, count: int, key: Array, image: Array) -> Array:
    """Return the patches under a kernel at random positions of one image.

    Args:
      layer: a convolution.
      count: largest number of positions.
      key: PRNG key for the positions.
      image: ``[H, W, in]``.

    Returns:
      ``[R, groups, D]``, in the kernel's order.
    """
    window = layer.kernel.shape[:-2]
    strides = layer.options["window_strides"]
    dilations = layer.options["rhs_dilation"]
    groups = layer.options["feature_group_count"]
    edges = [
        (*padding, dilation - 1)
        for padding, dilation in zip(
            layer.options["padding"], layer.options["lhs_dilation"], strict=True
        )
    ]
    image = lax.pad(image, jnp.zeros((), image.dtype), [*edges, (0, 0, 0)])
    spans = [
        (side - 1) * dilation + 1
        for side, dilation in zip(window, dilations, strict=True)
    ]
    num_places = [
        (side - span) // stride + 1
        for side, span, stride in zip(image.shape, spans, strides, strict=False)
    ]
    chosen = _draw(key, math.prod(num_places), count)
    places = jnp.stack(jnp.unravel_index(chosen, num_places), -1)

    def cut(place: Array) -> Array:
        start = place * jnp.array(strides)
        patch = lax.dynamic_slice(image, (*start, 0), (*spans, image.shape[-1]))
        patch = patch[tuple(slice(None, None, dilation) for dilation in dilations)]
        return patch.reshape(math.prod(window), groups, -1)

    patches = jnp.moveaxis(jax.vmap(cut)(places), 2, 1)
    return patches.reshape(len(places), groups, -1)


def _draw(key: Array, total: int, count: int) -> Array:
    """Return all of ``total`` positions, or ``count`` of them at random."""
    if total <= count:
        return jnp.arange(total)
    return jax.random.choice(key, total, (count,), replace=False)


def _by_group(kernel: Array, groups: int) -> Array:
    """Return a kernel's columns ``[groups, D, out / groups]``, float32."""
    columns = kernel.astype(jnp.float32).reshape(-1, groups, kernel.shape[-1] // groups)
    return jnp.moveaxis(columns, 1, 0)


def _apply_projection(moments: Array, alpha: Real, columns: Array) -> Array:
    """Return ``P v`` of vectors ``[groups, D, K]``; ``P = 0`` without activations."""
    total = jnp.trace(moments, axis1=-2, axis2=-1)[:, None, None]
    fractions = moments / jnp.where(total > 0, total, 1.0)
    system = jnp.eye(fractions.shape[-1])[None] + (alpha - 1) * fractions
    solved = jax.vmap(linalg.solve_positive)(system, columns)
    return alpha * linalg.product(fractions, solved)
