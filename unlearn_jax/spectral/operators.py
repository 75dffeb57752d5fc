"""Affine layers as linear maps that are applied but never written out as matrices."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import lax

from unlearn_jax import targets
from unlearn_jax.layers import Layer
from unlearn_jax.models.conv import (
    DIMENSIONS,
    Padding,
    convolution,
    explicit_padding,
)
from unlearn_jax.types import Array


class LinearMap(NamedTuple):
    """Linear part of an affine map, on one example.

    Attributes:
      matvec: ``[*in_shape] -> [*out_shape]``, ``f(x) - f(0)``.
      rmatvec: ``[*out_shape] -> [*in_shape]``, adjoint of ``matvec``.
      in_shape: shape of one input, without a batch axis.
      out_shape: shape of one output.
    """

    matvec: Callable[[Array], Array]
    rmatvec: Callable[[Array], Array]
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]


def linear_map(
    matvec: Callable[[Array], Array], in_shape: tuple[int, ...]
) -> LinearMap:
    """Return a linear function with its adjoint, derived by ``jax.vjp``.

    Args:
      matvec: linear function of ``[*in_shape]``; it must allow reverse mode.
      in_shape: shape of its input.

    Returns:
      The map, in float32.

    >>> double = linear_map(lambda x: 2 * x, (3,))
    >>> double.rmatvec(jnp.ones(3)).tolist()
    [2.0, 2.0, 2.0]
    """
    origin = jax.ShapeDtypeStruct(in_shape, jnp.float32)
    out_shape = jax.eval_shape(matvec, origin).shape

    def rmatvec(cotangent: Array) -> Array:
        return jax.vjp(matvec, jnp.zeros(in_shape, jnp.float32))[1](cotangent)[0]

    return LinearMap(matvec, rmatvec, tuple(in_shape), tuple(out_shape))


def affine_map(
    function: Callable[[Array], Array], in_shape: tuple[int, ...]
) -> LinearMap:
    """Return the linear part of any affine function, ``f(x) - f(0)``.

    Args:
      function: affine function of ``[*in_shape]``, one example without a batch axis.
      in_shape: shape of its input.

    Returns:
      The map. If the function is not affine, the values of the map are meaningless.

    >>> affine_map(lambda x: 2 * x + 1, (3,)).matvec(jnp.ones(3)).tolist()
    [2.0, 2.0, 2.0]
    """
    return linear_map(lambda x: function(x) - function(jnp.zeros_like(x)), in_shape)


def prepared(operator: LinearMap) -> LinearMap:
    """Return the map with an adjoint that is derived once, not at each use.

    The adjoint is the same at every point. Its preparation (a convolution's flipped
    kernel) is then done once, outside the loops that apply it.

    Args:
      operator: any map.
    """
    origin = jnp.zeros(operator.in_shape, jnp.float32)
    _, adjoint = jax.vjp(operator.matvec, origin)
    return operator._replace(rmatvec=lambda cotangent: adjoint(cotangent)[0])


def one_of(maps: Sequence[LinearMap], index: Array) -> LinearMap:
    """Return the map that an index selects, between flat vectors padded with zeros.

    A loop over maps of different shapes is then compiled once.

    Args:
      maps: one or more maps, with adjoints for use in a loop (:func:`prepared`).
      index: ``[]`` int, position among the maps, the same for all models of a ``vmap``.

    Returns:
      The map from ``[n]`` to ``[m]``, where ``n`` and ``m`` are the largest numbers of
      inputs and outputs.
    """
    num_inputs = max(math.prod(operator.in_shape) for operator in maps)
    num_outputs = max(math.prod(operator.out_shape) for operator in maps)

    def padded(
        function: Callable[[Array], Array], shape: tuple[int, ...], size: int
    ) -> Callable[[Array], Array]:
        def apply(vector: Array) -> Array:
            result = function(vector[: math.prod(shape)].reshape(shape))
            # two copies; XLA:CPU would pad entry by entry
            zeros = jnp.zeros(size, result.dtype)
            return lax.dynamic_update_slice(zeros, result.ravel(), (0,))

        return apply

    forward = [padded(one.matvec, one.in_shape, num_outputs) for one in maps]
    backward = [padded(one.rmatvec, one.out_shape, num_inputs) for one in maps]
    return LinearMap(
        lambda vector: lax.switch(index, forward, vector),
        lambda vector: lax.switch(index, backward, vector),
        (num_inputs,),
        (num_outputs,),
    )


def layer_map(
    layer: Layer,
    kernel: Array | None = None,
    *,
    composite: bool = True,
    form: str = "auto",
) -> LinearMap:
    """Return a layer without its bias as a map of one example.

    The map is differentiable in the kernel.

    Args:
      layer: layer from :func:`unlearn_jax.layers.layers`.
      kernel: another weight in the form of ``layer.kernel``; None for the layer's own.
      composite: apply ``layer.scale`` to the output's channels, so that a layer
        followed by BatchNorm in evaluation mode is one map. The norm of that map is at
        most the product of the two norms.
      form: form of a convolution without groups and dilation, see
        :func:`unlearn_jax.models.convolution`; ``auto`` is ``canonical`` on CPU.

    Returns:
      The map, from ``[D_in]`` to ``[D_out]`` for a dense layer and from ``[H, W, in]``
      to ``[H', W', out]`` for a convolution. If the layer's inputs are copies of an
      activation (``layer.copies``: reflected borders, patches of images), the map
      starts from that activation, and the outputs of a dense layer are
      ``[positions, D_out]``.
    """
    if layer.copies is not None:
        shape = layer.copies.shape[1:]
    elif layer.kind == "dense":
        shape = layer.kernel.shape[:1]
    else:
        shape = layer.inputs.shape[1:]

    def matvec(example: Array) -> Array:
        return layer_product(
            layer, example[None], kernel, composite=composite, form=form
        )[0]

    return linear_map(matvec, tuple(shape))


def layer_product(
    layer: Layer,
    examples: Array,
    kernel: Array | None = None,
    *,
    composite: bool = True,
    form: str = "auto",
) -> Array:
    """Apply the map of :func:`layer_map` to a batch.

    Use it for gradients of the kernel: a convolution mapped by ``vmap`` has grouped
    convolutions as gradients, which are a hundred times slower on CPU.

    Args:
      layer: layer from :func:`unlearn_jax.layers.layers`.
      examples: ``[K, *in_shape]`` inputs.
      kernel: another weight; see :func:`layer_map`.
      composite: apply ``layer.scale``; see :func:`layer_map`.
      form: form of a convolution; see :func:`layer_map`.

    Returns:
      ``[K, *out_shape]``.
    """
    kernel = layer.kernel if kernel is None else kernel
    chex.assert_shape(kernel, layer.kernel.shape)
    kernel = kernel.astype(jnp.float32)
    if composite and layer.scale is not None:
        kernel = kernel * layer.scale.astype(jnp.float32).reshape(
            (1,) * (kernel.ndim - 1) + (-1,)
        )
    if layer.copies is not None:
        (batch, *shape), copy = layer.copies

        def inputs_of(example: Array) -> Array:
            inputs = copy(jnp.broadcast_to(example, (batch, *shape)))
            if layer.kind == "dense":
                inputs = inputs.reshape(batch, -1, inputs.shape[-1])
            return inputs[0]

        examples = jax.vmap(inputs_of)(examples)
    if layer.kind == "dense":
        return examples @ kernel
    return _convolve(examples, kernel, layer, form)


def _convolve(images: Array, kernel: Array, layer: Layer, form: str) -> Array:
    """Apply the layer's convolution; a plain one in the form that models use."""
    options = dict(layer.options)
    dilations = (*options["lhs_dilation"], *options["rhs_dilation"])
    is_plain = set(dilations) == {1} and options["feature_group_count"] == 1
    if kernel.ndim == 4 and is_plain:
        if form == "auto" and targets.platform() == "cpu":
            strides = options["window_strides"]
            padding = explicit_padding(options["padding"], images, kernel, strides)
            sides = zip(
                images.shape[1:3], kernel.shape[:2], strides, padding, strict=True
            )
            counts = [
                (side + sum(pad) - taps) // step + 1 for side, taps, step, pad in sides
            ]
            # there is one slice per tap, so XLA's convolution compiles faster for large
            # kernels
            is_small = math.prod(kernel.shape[:2]) <= MOST_TAPS
            if is_small and math.prod(counts) <= kernel.shape[2]:
                return _multiply_patches(images, kernel, strides, padding, counts)
            # for one image, XLA's convolutions are faster than oneDNN's
            form = "canonical"
        convolve = convolution(form)
        return convolve(
            images,
            kernel,
            options["window_strides"],
            options["padding"],
            dimension_numbers=DIMENSIONS,
        )
    space = "HWD"[: kernel.ndim - 2]
    names = (f"N{space}C", f"{space}IO", f"N{space}C")
    numbers = DIMENSIONS if kernel.ndim == 4 else names
    return lax.conv_general_dilated(
        images, kernel, dimension_numbers=numbers, **options
    )


MOST_TAPS = 64
"""Largest number of taps of a kernel that is multiplied with patches."""


def _multiply_patches(
    images: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: Padding,
    counts: Sequence[int],
) -> Array:
    """Convolve by multiplying patches with the kernel as a matrix.

    The adjoint is the product with the transposed matrix. So both directions read one
    array, and reading dominates the time if the kernel is much larger than an image. A
    stride causes no multiplications by zero.

    Args:
      images: ``[K, H, W, in]``.
      kernel: ``[kh, kw, in, out]``.
      strides: strides of rows and columns.
      padding: padding of rows and columns.
      counts: ``(H', W')``, size of the output.

    Returns:
      ``[K, H', W', out]``.
    """
    low_and_high = [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)]
    padded = lax.pad(images, jnp.zeros((), images.dtype), low_and_high)
    rows, columns, *_ = kernel.shape
    patches = []
    for row, column in itertools.product(range(rows), range(columns)):
        high = slice(row, row + (counts[0] - 1) * strides[0] + 1, strides[0])
        wide = slice(column, column + (counts[1] - 1) * strides[1] + 1, strides[1])
        patches.append(padded[:, high, wide])
    return jnp.concatenate(patches, -1) @ kernel.reshape(-1, kernel.shape[-1])
