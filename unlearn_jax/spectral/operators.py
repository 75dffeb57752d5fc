"""Affine layers as linear maps that are applied, never written out as matrices."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import lax

from unlearn_jax.layers import Layer
from unlearn_jax.models.conv import (
    DIMENSIONS,
    Padding,
    adjoint_kernel,
    adjoint_padding,
    canonical_conv,
    explicit_padding,
)
from unlearn_jax.types import Array


class LinearMap(NamedTuple):
    """The linear part of an affine map, on one example.

    Attributes:
      matvec: ``[*in_shape] -> [*out_shape]``, ``f(x) - f(0)``.
      rmatvec: ``[*out_shape] -> [*in_shape]``, its adjoint.
      in_shape: of one input, without a batch axis.
      out_shape: of one output.
    """

    matvec: Callable[[Array], Array]
    rmatvec: Callable[[Array], Array]
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]


def linear_map(
    matvec: Callable[[Array], Array], in_shape: tuple[int, ...]
) -> LinearMap:
    """Return a linear function with its adjoint, which ``jax.vjp`` derives.

    Args:
      matvec: linear, from ``[*in_shape]``. It must allow reverse mode.
      in_shape: of its input.

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
      function: affine, from ``[*in_shape]``, one example without a batch axis.
      in_shape: of its input.

    Returns:
      The map; for a function that is not affine its values mean nothing.

    >>> affine_map(lambda x: 2 * x + 1, (3,)).matvec(jnp.ones(3)).tolist()
    [2.0, 2.0, 2.0]
    """
    return linear_map(lambda x: function(x) - function(jnp.zeros_like(x)), in_shape)


def layer_map(
    layer: Layer, kernel: Array | None = None, *, composite: bool = True
) -> LinearMap:
    """Return a layer without its bias as a map of one example.

    Differentiable in the kernel; the gradient that flows from ``matvec`` to a
    convolution's kernel has the layout that is fast inside loops on CPU.

    Args:
      layer: of :func:`unlearn_jax.layers.layers`.
      kernel: another weight in the form of ``layer.kernel``; None for its own.
      composite: apply ``layer.scale`` to the output's channels, so that a layer
        followed by BatchNorm in evaluation mode is one map. Its norm is not the product
        of the two norms, but at most that.

    Returns:
      The map. From ``[D_in]`` to ``[D_out]`` for a dense layer, from ``[H, W, in]`` to
      ``[H', W', out]`` for a convolution; where the layer's inputs are made of copies
      of an activation (``layer.copies``: reflected borders, patches of images), from
      that activation, and for a dense layer to ``[positions, D_out]``.
    """
    kernel = layer.kernel if kernel is None else kernel
    chex.assert_shape(kernel, layer.kernel.shape)
    kernel = kernel.astype(jnp.float32)
    if composite and layer.scale is not None:
        kernel = kernel * layer.scale.astype(jnp.float32).reshape(
            (1,) * (kernel.ndim - 1) + (-1,)
        )

    def weigh(inputs: Array) -> Array:
        if layer.kind == "dense":
            return inputs @ kernel
        return _convolve(inputs, kernel, layer)

    if layer.copies is None:
        shape = kernel.shape[:1] if layer.kind == "dense" else layer.inputs.shape[1:]
        return linear_map(lambda x: weigh(x[None])[0], shape)
    (batch, *shape), copy = layer.copies

    def matvec(example: Array) -> Array:
        inputs = copy(jnp.broadcast_to(example, (batch, *shape)))
        if layer.kind == "conv":
            return weigh(inputs[:1])[0]
        return weigh(inputs.reshape(batch, -1, inputs.shape[-1])[0])

    return linear_map(matvec, tuple(shape))


def _convolve(images: Array, kernel: Array, layer: Layer) -> Array:
    """Apply the layer's convolution; a plain one has gradients fast inside loops."""
    options = dict(layer.options)
    dilations = (*options["lhs_dilation"], *options["rhs_dilation"])
    is_plain = set(dilations) == {1} and options["feature_group_count"] == 1
    if kernel.ndim == 4 and is_plain:
        strides = tuple(options["window_strides"])
        padding = explicit_padding(options["padding"], images, kernel, strides)
        return _canonical_map(images, kernel, strides, padding)
    space = "HWD"[: kernel.ndim - 2]
    names = (f"N{space}C", f"{space}IO", f"N{space}C")
    numbers = DIMENSIONS if kernel.ndim == 4 else names
    return lax.conv_general_dilated(
        images, kernel, dimension_numbers=numbers, **options
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _canonical_map(
    images: Array, kernel: Array, strides: tuple[int, int], padding: Padding
) -> Array:
    """Convolve, and prepare the adjoint's kernel in the forward pass.

    An iteration, which applies the map and its adjoint many times, then flips the
    kernel once.
    """
    return lax.conv_general_dilated(
        images, kernel, strides, padding, dimension_numbers=DIMENSIONS
    )


def _canonical_map_forward(
    images: Array, kernel: Array, strides: tuple[int, int], padding: Padding
) -> tuple[Array, Any]:
    outputs: Any = _canonical_map(images, kernel, strides, padding)
    return outputs, (images, kernel, adjoint_kernel(kernel))


def _canonical_map_backward(
    strides: tuple[int, int], padding: Padding, saved: Any, outputs: Array
) -> tuple[Array, Array]:
    images, kernel, flipped = saved
    pads = adjoint_padding(images, kernel, outputs, strides, padding)
    d_images = lax.conv_general_dilated(
        outputs, flipped, (1, 1), pads, strides, dimension_numbers=DIMENSIONS
    )

    def of_kernel(kernel: Array) -> Array:
        return canonical_conv(images, kernel, strides, padding)

    (d_kernel,) = jax.vjp(of_kernel, kernel)[1](outputs)
    return d_images, d_kernel


_canonical_map.defvjp(_canonical_map_forward, _canonical_map_backward)
