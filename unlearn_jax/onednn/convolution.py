"""Three convolutions of a training step as JAX primitives.

Each is linear in both of its arguments, and the transposes of each are the other two::

    forward(images, kernel) -> outputs
    of_images(outputs, kernel) -> images
    of_kernel(images, outputs) -> kernel

so that oneDNN computes derivatives of any order and in any mode. On devices other than
a CPU they are XLA's own convolution and its transposes.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from unlearn_jax.onednn.library import native
from unlearn_jax.types import Array, InputError

Padding = tuple[tuple[int, int], ...]
Strides = tuple[int, int]
DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def takes(images: Any, kernel: Any, strides: Strides, padding: Padding) -> bool:
    """Return whether :func:`forward` computes this convolution on this machine.

    It supports float32, and bfloat16 if the processor does. Padding must not be
    negative, and arrays must not be empty.

    Args:
      images: ``[B, H, W, in]``, or its shape and type.
      kernel: ``[kh, kw, in, out]``, or its shape and type.
      strides: strides along rows and columns.
      padding: ``((top, bottom), (left, right))``.
    """
    if images.dtype != kernel.dtype or not (
        images.dtype == jnp.float32
        or (images.dtype == jnp.bfloat16 and native().has_bfloat16)
    ):
        return False
    sides = zip(images.shape[1:3], kernel.shape[:2], strides, padding, strict=True)
    counts = [(side + sum(pad) - taps) // step + 1 for side, taps, step, pad in sides]
    is_empty = min(*images.shape, *kernel.shape, *counts) < 1
    return not is_empty and min(min(pad) for pad in padding) >= 0


def forward(images: Array, kernel: Array, strides: Strides, padding: Padding) -> Array:
    """Convolve images.

    Args:
      images: ``[B, H, W, in]``, float32 or bfloat16.
      kernel: ``[kh, kw, in, out]``, of the same type.
      strides: strides along rows and columns.
      padding: ``((top, bottom), (left, right))``, not negative.

    Returns:
      ``[B, H', W', out]``.
    """
    numbers = lax.conv_dimension_numbers(images.shape, kernel.shape, DIMENSIONS)
    return _FORWARD.bind(
        images,
        kernel,
        window_strides=strides,
        padding=padding,
        lhs_dilation=(1, 1),
        rhs_dilation=(1, 1),
        dimension_numbers=numbers,
        feature_group_count=1,
        batch_group_count=1,
    )


def of_images(
    outputs: Array,
    kernel: Array,
    strides: Strides,
    padding: Padding,
    size: tuple[int, int],
) -> Array:
    """Apply the adjoint of :func:`forward` with respect to its images.

    Args:
      outputs: ``[B, H', W', out]``.
      kernel: ``[kh, kw, in, out]``.
      strides: strides of :func:`forward`.
      padding: padding of :func:`forward`.
      size: ``(H, W)``, size of the images.

    Returns:
      ``[B, H, W, in]``.
    """
    return _OF_IMAGES.bind(outputs, kernel, strides=strides, padding=padding, size=size)


def of_kernel(
    images: Array,
    outputs: Array,
    strides: Strides,
    padding: Padding,
    size: tuple[int, int],
) -> Array:
    """Apply the adjoint of :func:`forward` with respect to its kernel.

    Args:
      images: ``[B, H, W, in]``.
      outputs: ``[B, H', W', out]``.
      strides: strides of :func:`forward`.
      padding: padding of :func:`forward`.
      size: ``(kh, kw)``, size of the kernel.

    Returns:
      ``[kh, kw, in, out]``; bfloat16 is summed in float32.
    """
    return _OF_KERNEL.bind(images, outputs, strides=strides, padding=padding, size=size)


def _plain(images: Array, kernel: Array, strides: Strides, padding: Padding) -> Array:
    return lax.conv_general_dilated(
        images, kernel, strides, padding, dimension_numbers=DIMENSIONS
    )


def _plain_of_images(
    outputs: Array, kernel: Array, *, strides: Strides, padding: Padding, size: Any
) -> Array:
    images = jax.ShapeDtypeStruct(
        (outputs.shape[0], *size, kernel.shape[2]), outputs.dtype
    )
    fun = lambda images: _plain(images, kernel, strides, padding)
    return jax.linear_transpose(fun, images)(outputs)[0]


def _plain_of_kernel(
    images: Array, outputs: Array, *, strides: Strides, padding: Padding, size: Any
) -> Array:
    kernel = jax.ShapeDtypeStruct(
        (*size, images.shape[3], outputs.shape[3]), images.dtype
    )
    fun = lambda kernel: _plain(images, kernel, strides, padding)
    return jax.linear_transpose(fun, kernel)(outputs)[0]


def _plain_forward(images: Array, kernel: Array, **params: Any) -> Array:
    return _plain(images, kernel, params["window_strides"], params["padding"])


def _primitive(
    name: str, target: str, plain: Callable[..., Array], foldable: bool
) -> Primitive:
    """Return a primitive that is oneDNN on CPU and ``plain`` on other devices.

    Args:
      name: name of the primitive.
      target: name of the FFI target that calls oneDNN.
      plain: the same computation by XLA.
      foldable: whether the first argument's batch is also the result's; a mapped axis
        of only the first argument is then merged into the batch.
    """
    made = Primitive(name)

    @lru_cache(maxsize=1024)
    def compiled(**params: Any) -> Callable[..., Array]:
        return jax.jit(partial(made.bind, **params))

    def abstract(first: Any, second: Any, **params: Any) -> Any:
        shapes = (
            jax.ShapeDtypeStruct(first.shape, first.dtype),
            jax.ShapeDtypeStruct(second.shape, second.dtype),
        )
        shape = jax.eval_shape(partial(plain, **params), *shapes)
        return first.update(shape=shape.shape, dtype=shape.dtype)

    def lower(context: Any, first: Any, second: Any, **params: Any) -> Any:
        # native() also registers the targets, if no model has been built before
        if reason := native().reason:
            raise InputError(f"conv='onednn' cannot be used: {reason}")
        strides = params.get("strides") or params["window_strides"]
        rule = jax.ffi.ffi_lowering(f"unlearn_jax.onednn.{target}")
        return rule(
            context,
            first,
            second,
            strides=np.array(strides, np.int64),
            padding=np.array(params["padding"], np.int64).ravel(),
        )

    def batch(args: Any, axes: Any, **params: Any) -> Any:
        bind = partial(made.bind, **params)
        first, second = args
        if foldable and axes[1] is None:
            first = jnp.moveaxis(first, axes[0], 0)
            result = bind(first.reshape(-1, *first.shape[2:]), second)
            return result.reshape(*first.shape[:2], *result.shape[1:]), 0
        moved = [
            arg if axis is None else jnp.moveaxis(arg, axis, 0)
            for arg, axis in zip(args, axes, strict=True)
        ]
        # one after another, because a grouped convolution is slower
        if axes[0] is None:
            return lax.map(lambda each: bind(first, each), moved[1]), 0
        if axes[1] is None:
            return lax.map(lambda each: bind(each, second), moved[0]), 0
        return lax.map(lambda pair: bind(*pair), tuple(moved)), 0

    made.def_impl(lambda *args, **params: compiled(**params)(*args))
    made.def_abstract_eval(abstract)
    batching.primitive_batchers[made] = batch
    mlir.register_lowering(made, mlir.lower_fun(plain, multiple_results=False))
    mlir.register_lowering(made, lower, platform="cpu")
    return made


NAME = "onednn_convolution"
"""Name of the forward primitive; its parameters are ``conv_general_dilated``'s."""
OF_IMAGES = f"{NAME}_of_images"
"""Name of the primitive of the adjoint with respect to the images."""
OF_KERNEL = f"{NAME}_of_kernel"
"""Name of the primitive of the adjoint with respect to the kernel."""
_FORWARD = _primitive(NAME, "forward", _plain_forward, True)
_OF_IMAGES = _primitive(OF_IMAGES, "of_images", _plain_of_images, True)
_OF_KERNEL = _primitive(OF_KERNEL, "of_kernel", _plain_of_kernel, False)


def _forward_by_images(
    cotangent: Array, images: Any, kernel: Array, **params: Any
) -> Array:
    size = images.aval.shape[1:3]
    return of_images(
        cotangent, kernel, params["window_strides"], params["padding"], size
    )


def _forward_by_kernel(
    cotangent: Array, images: Array, kernel: Any, **params: Any
) -> Array:
    size = kernel.aval.shape[:2]
    return of_kernel(
        images, cotangent, params["window_strides"], params["padding"], size
    )


def _of_images_by_outputs(
    cotangent: Array, outputs: Any, kernel: Array, **params: Any
) -> Array:
    del outputs
    return forward(cotangent, kernel, params["strides"], params["padding"])


def _of_images_by_kernel(
    cotangent: Array, outputs: Array, kernel: Any, **params: Any
) -> Array:
    size = kernel.aval.shape[:2]
    return of_kernel(cotangent, outputs, params["strides"], params["padding"], size)


def _of_kernel_by_images(
    cotangent: Array, images: Any, outputs: Array, **params: Any
) -> Array:
    size = images.aval.shape[1:3]
    return of_images(outputs, cotangent, params["strides"], params["padding"], size)


def _of_kernel_by_outputs(
    cotangent: Array, images: Array, outputs: Any, **params: Any
) -> Array:
    del outputs
    return forward(images, cotangent, params["strides"], params["padding"])


ad.defbilinear(_FORWARD, _forward_by_images, _forward_by_kernel)
ad.defbilinear(_OF_IMAGES, _of_images_by_outputs, _of_images_by_kernel)
ad.defbilinear(_OF_KERNEL, _of_kernel_by_images, _of_kernel_by_outputs)
