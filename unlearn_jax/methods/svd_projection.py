"""SVD class forgetting (arXiv 2312.00761): take what only D_F's activations use out of every weight; no training."""

import math
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from unlearn_jax.layers import Layer, by_path, layers, with_kernels
from unlearn_jax.methods.base import check_numbers
from unlearn_jax.methods.gradients import Batches, batches_of
from unlearn_jax.train import to_float
from unlearn_jax.types import (
    Array,
    InputError,
    Problem,
    UnlearnFn,
    UnlearnInfo,
    Variables,
)

Patches = Literal["all", "window"]
EXACT = (
    lax.Precision.HIGHEST
)  # accelerators would round products to fewer bits, and large alphas magnify that


def svd_projection(
    *,
    alpha_retain: float | Array = 100.0,
    alpha_forget: float | Array = 3.0,
    num_retain: int = 900,
    num_forget: int = 900,
    num_patches: int = 10_000,
    patches: Patches = "all",
    batch_size: int = 128,
) -> UnlearnFn:
    """Projects the input space of every layer: ``W <- W (I - (P_f - P_f P_r))^T``; no gradient, no training.

    A layer's activation matrix holds its inputs on some samples, a row each: all rows
    that a dense layer is given, the patches that a convolution's kernel meets. Of its
    singular values ``sigma`` and right singular vectors ``u``, a direction has the
    share ``s = sigma^2 / sum sigma^2`` and the importance
    ``Lambda = alpha s / ((alpha - 1) s + 1)``, and ``P = sum Lambda u u^T``: ``P_r`` of
    retained samples with ``alpha_retain``, ``P_f`` of forget samples with
    ``alpha_forget`` (Kodge et al., arXiv 2312.00761). A direction that matters to D_F
    alone is removed, one that matters to D_R stays. All activations are those of the
    original model in evaluation mode; every dense and convolutional layer that
    :func:`unlearn_jax.layers.layers` finds, the first and the head included, is
    projected once; weights in loops, or scaled or normalized before use, are not found.
    Biases and BatchNorm stay as they are. Reads D_R and D_F: a sample of each, drawn by
    the key.

    **No decomposition is needed.** ``P = alpha G (I + (alpha - 1) G)^-1`` with
    ``G = A^T A / trace(A^T A)`` of the activation matrix ``A``, summed over batches.
    Solving costs a small part of an SVD of ``A`` or of an ``eigh`` of ``G``, and is as
    exact: the condition number is at most ``max(alpha, 1 / alpha)``. A layer needs
    memory for ``D x D`` numbers, twice, where ``D`` is its input size (``kh kw in`` for
    a convolution).

    **Released code.** It takes the first retained samples of every class, in the order
    of the data set, where these are drawn (as its forget samples are); and the patches
    of ``patches="window"``.

    Published values: 900 samples each, alphas 100 and 3 on CIFAR-10; 990, 1000 and 30
    on CIFAR-100; 999, 100 and 10 on ImageNet; searched over alpha_retain in [10, 1000]
    and alpha_forget in [1, 100], for one class that is forgotten whole. Of a random
    forget set the directions are D_R's, and little is removed.

    ``num_gradients`` counts the samples that pass through the model.

    Args:
      alpha_retain: at least 1e-3; larger protects more directions of D_R, and infinity
        all of them.
      alpha_forget: at least 1e-3; smaller removes less, 0 would be the original.
      num_retain: retained samples, the same number of every class as far as there are
        that many; at most all.
      num_forget: forget samples, likewise.
      num_patches: rows of a layer's activation matrix, about: every sample gives the
        same number of rows, at random positions, and at least one.
      patches: ``all`` draws from all positions; ``window`` draws those of a
        convolution, as the released code does, from a random window of three kernel
        sides, the same for a whole batch (the code has one batch of all samples), which
        is padded as if it were the image. Images not wider than that are used whole.
      batch_size: samples at a time: memory for their activations in all layers.

    Raises:
      InputError: unusable knobs; when run, a model without layers
        (:func:`unlearn_jax.layers.layers` finds none).
    """
    check_numbers(low=1e-3, alpha_retain=alpha_retain, alpha_forget=alpha_forget)
    if min(num_retain, num_forget, num_patches, batch_size) < 1:
        raise InputError(
            "num_retain, num_forget, num_patches and batch_size of a method must be"
            " positive"
        )
    if patches not in ("all", "window"):
        raise InputError(f"unknown patches {patches!r}: choose all or window")

    def run(key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        counts = (
            min(num_retain, problem.num_retain),
            min(num_forget, problem.num_forget),
        )
        image = jnp.zeros((1, *problem.train.images.shape[1:]))
        found = by_path(layers(problem.model.apply, problem.variables, image))
        key_retain, key_forget = jax.random.split(key)
        moments = partial(
            _moments,
            problem,
            num_patches=num_patches,
            patches=patches,
            batch_size=batch_size,
        )
        retained = moments(key_retain, problem.retain, counts[0])
        forgotten = moments(key_forget, problem.forget, counts[1])
        kernels = {}
        for path, layer in found.items():
            columns = _by_group(layer.kernel, len(retained[path]))
            inner = columns - _weigh(retained[path], alpha_retain, columns)
            columns = columns - _weigh(forgotten[path], alpha_forget, inner)
            kernels[path] = jnp.moveaxis(columns, 0, 1).reshape(layer.kernel.shape)
        variables = with_kernels(problem.variables, kernels, list(found.values()))
        return variables, UnlearnInfo(jnp.zeros(0), jnp.asarray(sum(counts), jnp.int32))

    return run


def balanced_sample(key: Array, labels: Array, member: Array, count: int) -> Array:
    """Draws members of a mask, the same number of every class as far as there are that many.

    Args:
      key: consumed.
      labels: ``[N]`` integer classes.
      member: ``[N]`` bool, at least ``count`` True.
      count: how many to draw (static).

    Returns:
      ``[count]`` different positions; the numbers of two classes differ by more than
      one only where the smaller class is used up.
    """
    draws, place = jax.random.uniform(key, labels.shape), jnp.arange(len(labels))
    group = jnp.where(member, labels, jnp.iinfo(labels.dtype).max)
    order = jnp.lexsort((draws, group))  # class by class, at random within a class
    first = jnp.append(True, group[order][1:] != group[order][:-1])
    rank = place - lax.cummax(jnp.where(first, place, 0))
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
    """``A^T A`` ``[groups, D, D]`` of every layer's activation matrix, by the path of its weight."""
    key_sample, key_rows = jax.random.split(key)
    batches = batches_of(
        balanced_sample(key_sample, problem.train.labels, member, count), batch_size
    )
    num_rows = max(1, num_patches // count)

    def of_batch(key: Array, batch: Batches) -> dict[str, Array]:
        images = to_float(problem.train.images[batch.position])
        found = layers(problem.model.apply, problem.variables, images)
        if not found:
            raise InputError(
                "the model has no dense or convolutional layer whose weights could be"
                " projected"
            )
        total: dict[str, Array] = {}
        for key_layer, layer in zip(
            jax.random.split(key, len(found)), found, strict=True
        ):
            rows = _rows(key_layer, layer, len(images), num_rows, patches).astype(
                jnp.float32
            )
            present = batch.weight[:, None, None, None]
            new = jnp.einsum("brgi,brgj->gij", rows * present, rows, precision=EXACT)
            total[layer.path] = (
                total[layer.path] + new if layer.path in total else new
            )  # a weight used twice
        return total

    def step(
        total: dict[str, Array], item: tuple[Array, Batches]
    ) -> tuple[dict[str, Array], None]:
        return jax.tree.map(jnp.add, total, of_batch(*item)), None

    items = jax.random.split(key_rows, len(batches.position)), batches
    one = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), items
    )
    start = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(of_batch, *one)
    )
    return lax.scan(step, start, items)[0]


def _rows(
    key: Array, layer: Layer, num_images: int, count: int, patches: Patches
) -> Array:
    """At most ``count`` rows of the activation matrix per image: ``[B, R, groups, D]``."""
    key_window, key_rows = jax.random.split(key)
    keys, inputs = jax.random.split(key_rows, num_images), layer.inputs
    if layer.kind == "dense":
        rows = inputs.reshape(num_images, -1, 1, inputs.shape[-1])
        return jax.vmap(lambda key, image: image[_some(key, len(image), count)])(
            keys, rows
        )
    if patches == "window":
        sides = [
            min(3 * k, side)
            for k, side in zip(layer.kernel.shape, inputs.shape[1:-1], strict=False)
        ]
        room = jnp.array(
            [
                full - side + 1
                for full, side in zip(inputs.shape[1:], sides, strict=False)
            ]
        )
        start = jax.random.randint(key_window, room.shape, 0, room)
        inputs = lax.dynamic_slice(
            inputs, (0, *start, 0), (num_images, *sides, inputs.shape[-1])
        )
    return jax.vmap(partial(_patches, layer, count))(keys, inputs)


def _patches(layer: Layer, count: int, key: Array, image: Array) -> Array:
    """What a kernel meets at some positions of one image ``[H, W, in]``: ``[R, groups, D]``, in the kernel's order."""
    options, window = layer.options, layer.kernel.shape[:-2]
    strides, dilations, groups = (
        options["window_strides"],
        options["rhs_dilation"],
        options["feature_group_count"],
    )
    edges = [
        (*pad, apart - 1)
        for pad, apart in zip(options["padding"], options["lhs_dilation"], strict=True)
    ]
    image = lax.pad(image, jnp.zeros((), image.dtype), [*edges, (0, 0, 0)])
    spans = [(k - 1) * d + 1 for k, d in zip(window, dilations, strict=True)]
    sides = [
        (n - s) // t + 1 for n, s, t in zip(image.shape, spans, strides, strict=False)
    ]
    places = jnp.stack(
        jnp.unravel_index(_some(key, math.prod(sides), count), sides), -1
    )

    def cut(place: Array) -> Array:
        patch = lax.dynamic_slice(
            image, (*(place * jnp.array(strides)), 0), (*spans, image.shape[-1])
        )
        return patch[tuple(slice(None, None, d) for d in dilations)].reshape(
            math.prod(window), groups, -1
        )

    return jnp.moveaxis(jax.vmap(cut)(places), 2, 1).reshape(len(places), groups, -1)


def _some(key: Array, total: int, count: int) -> Array:
    """All of ``total`` positions, or ``count`` of them at random."""
    return (
        jnp.arange(total)
        if total <= count
        else jax.random.choice(key, total, (count,), replace=False)
    )


def _by_group(kernel: Array, groups: int) -> Array:
    """A kernel's columns ``[groups, D, out / groups]``, float32."""
    columns = kernel.astype(jnp.float32).reshape(-1, groups, kernel.shape[-1] // groups)
    return jnp.moveaxis(columns, 1, 0)


def _weigh(moments: Array, alpha: float | Array, columns: Array) -> Array:
    """``P v`` of vectors ``[groups, D, K]``; a layer without activations has ``P = 0``."""
    total = jnp.trace(moments, axis1=-2, axis2=-1)[:, None, None]
    share = moments / jnp.where(total > 0, total, 1.0)
    system = jnp.eye(share.shape[-1])[None] + (alpha - 1) * share
    solved = jax.vmap(partial(jax.scipy.linalg.solve, assume_a="pos"))(system, columns)
    return alpha * jnp.matmul(share, solved, precision=EXACT)
