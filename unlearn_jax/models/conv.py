"""Convolution and pooling forms that differ only in speed, never in value.

XLA's CPU backend computes the weight gradient that autodiff writes for a convolution 40
times slower inside any loop (``scan``, ``fori_loop``, ``map``, ``cond``) than outside
it, because the pass that finds the fast kernel looks for the layout NHWC x HWIO in the
entry computation only. :func:`canonical_conv` writes both gradients in that layout to
begin with, so that whole epochs can live in one compiled scan. It takes large batches a
few images at a time, which keeps what is rearranged in the cache, and trains wide
layers in Winograd's form.

Every form has the signature that Flax layers expect of their ``conv_general_dilated=``
argument.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from unlearn_jax.models import winograd
from unlearn_jax.types import Array, InputError

Padding = tuple[tuple[int, int], ...]
DIMENSIONS = ("NHWC", "HWIO", "NHWC")
PART = 2**20
"""Bytes of activations of one part, where parts are faster than all at once."""
BATCH_AXIS = "batch"
"""Axis of a mesh (:func:`jax.set_mesh`) that batches are divided over.

The mapper ``split`` makes one; so may you.
"""
FEW_CHANNELS = 4
"""Inputs up to which training's forward pass is a matrix product over columns."""
MANY_CHANNELS = 32
"""Inputs and outputs from which it is Winograd's."""
MANY_POSITIONS = 1024
"""Positions of a batch from which it is Winograd's."""


def explicit_padding(
    padding: str | Sequence[tuple[int, int]],
    image: Array,
    kernel: Array,
    strides: Sequence[int],
) -> Padding:
    """Return the numbers of a padding that may be given by name."""
    if isinstance(padding, str):
        return tuple(
            lax.padtype_to_pads(image.shape[1:3], kernel.shape[:2], strides, padding)
        )
    return tuple((int(low), int(high)) for low, high in padding)


def _plain(
    image: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: Padding,
    **dilation: Any,
) -> Array:
    return lax.conv_general_dilated(
        image, kernel, strides, padding, dimension_numbers=DIMENSIONS, **dilation
    )


def adjoint_kernel(kernel: Array) -> Array:
    """Return the kernel of the adjoint, which maps outputs back to images.

    A cross-correlation's adjoint is one with the kernel flipped in both directions of
    space, its inputs and outputs exchanged.
    """
    return jnp.flip(kernel, (0, 1)).transpose(0, 1, 3, 2)


def adjoint_padding(
    image: Array,
    kernel: Array,
    outputs: Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> Padding:
    """Return the adjoint's padding, for outputs that are dilated by the strides."""
    sides = zip(
        image.shape[1:3],
        kernel.shape[:2],
        outputs.shape[1:3],
        strides,
        padding,
        strict=True,
    )
    # Output o reads the inputs o * step - low + tap. Of the dilated outputs, the
    # adjoint reads taps - 1 - low before the first, so that its first result is input
    # 0; what is added after the last makes the results as many as the inputs.
    return tuple(
        (taps - 1 - low, side - (out - 1) * step - 1 + low)
        for side, taps, out, step, (low, _) in sides
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _canonical(
    image: Array, kernel: Array, strides: tuple[int, int], padding: Padding
) -> Array:
    return _plain(image, kernel, strides, padding)


def _canonical_forward(
    image: Array, kernel: Array, strides: tuple[int, int], padding: Padding
) -> tuple[Array, Any]:
    """Run training's forward pass; equal to :func:`_plain` to rounding.

    The adjoint's kernel is prepared here: a loop that applies the adjoint many times
    then prepares it once.
    """
    saved = (image, adjoint_kernel(kernel))
    if _winograd_pays(image, kernel, strides, padding):
        return _winograd(image, kernel, padding), saved
    is_padded = all(side >= 0 for pair in padding for side in pair)
    if image.shape[-1] <= FEW_CHANNELS and is_padded:
        # with few inputs the direct convolution's innermost loop is too short to fill a
        # vector; columns have kh * kw times as many entries
        columns = partial(
            im2col_conv, rhs=kernel, window_strides=strides, padding=padding
        )
        size = image.size * kernel.shape[0] * kernel.shape[1] * image.dtype.itemsize
        return _by_parts(columns, image, size), saved
    return _plain(image, kernel, strides, padding), saved


def _winograd_pays(
    image: Array,
    kernel: Array,
    strides: tuple[int, int],
    padding: Sequence[tuple[int, int]],
) -> bool:
    batch, rows, columns, _ = image.shape
    return (
        kernel.shape[:2] == (3, 3)
        and strides == (1, 1)
        and image.dtype == kernel.dtype == jnp.float32
        and min(kernel.shape[2:]) >= MANY_CHANNELS
        and batch * rows * columns >= MANY_POSITIONS
        and all(0 <= side <= 2 for pair in padding for side in pair)
    )


def _winograd(image: Array, kernel: Array, padding: Sequence[tuple[int, int]]) -> Array:
    frequencies = winograd.frequencies_of_kernel(kernel)
    # a part must stay in the cache as what it becomes, on its wider side
    size = image.size // image.shape[-1] * max(kernel.shape[2:]) * image.dtype.itemsize
    return _by_parts(
        lambda few: winograd.convolve(few, frequencies, padding), image, size
    )


def _num_parts(batch: int, size: int) -> int:
    """Return the number of equal parts to do a batch in, each of which fits the cache.

    Args:
      batch: images.
      size: bytes of the batch.

    Returns:
      A divisor of the batch; 1 where none is near what the cache needs.
    """
    num_needed = max(min(1 + size // PART, batch), 1)
    for num_parts in range(num_needed, min(4 * num_needed, batch) + 1):
        if batch % num_parts == 0:
            return num_parts
    return 1


def _num_devices(batch: int) -> int:
    """Return the number of devices that the mesh in force divides a batch over."""
    devices = jax.sharding.get_abstract_mesh().shape.get(BATCH_AXIS, 1)
    return devices if batch % devices == 0 else 1


def _in_parts(array: Array, num_devices: int, num_parts: int) -> Array:
    """Split ``[B, ...]`` into ``[parts, B / parts, ...]`` without moving images.

    A batch lies on its devices in contiguous blocks. Each part takes its rows from all
    blocks alike, so that every device works on images of its own in every part. With 2
    devices (a, b) and 3 parts of a batch of 12::

        batch    a0 a1 a2 a3 a4 a5 | b0 b1 b2 b3 b4 b5
        part 0   a0 a1 | b0 b1
        part 1   a2 a3 | b2 b3
        part 2   a4 a5 | b4 b5

    The inverse exchanges the two counts: ``_in_parts(parts, num_parts, num_devices)``.
    """
    rows = len(array) // (num_devices * num_parts)
    blocks = array.reshape(num_devices, num_parts, rows, *array.shape[1:])
    parts = blocks.swapaxes(0, 1)
    return parts.reshape(num_parts, num_devices * rows, *array.shape[1:])


def _by_parts(function: Callable[[Array], Array], image: Array, size: int) -> Array:
    """Apply a function to a few images at a time."""
    num_devices = _num_devices(len(image))
    num_parts = _num_parts(len(image) // num_devices, size // num_devices)
    if num_parts == 1:
        return function(image)
    done = lax.map(function, _in_parts(image, num_devices, num_parts))
    shape = (len(image), *done.shape[2:])
    return _in_parts(done.reshape(shape), num_parts, num_devices).reshape(shape)


def _sum_by_parts(
    function: Callable[[Array, Array], Array], image: Array, cotangent: Array
) -> Array:
    """Apply a function to a few images at a time and add the results up."""
    num_devices = _num_devices(len(image))
    size = max(image.size, cotangent.size) // num_devices * image.dtype.itemsize
    num_parts = _num_parts(len(image) // num_devices, size)
    if num_parts == 1:
        return function(image, cotangent)
    both = [_in_parts(array, num_devices, num_parts) for array in (image, cotangent)]
    shape = jax.eval_shape(function, *(array[0] for array in both))
    # a sum of many parts in bfloat16 would lose what is smaller than its last digit
    zero = jnp.zeros(shape.shape, jnp.promote_types(shape.dtype, jnp.float32))

    def add(total: Array, few: Sequence[Array]) -> tuple[Array, None]:
        return total + function(*few), None

    return lax.scan(add, zero, both)[0].astype(shape.dtype)


def _canonical_backward(
    strides: tuple[int, int], padding: Padding, saved: Any, cotangent: Array
) -> tuple[Array, Array]:
    image, flipped = saved
    sizes = tuple(
        zip(
            image.shape[1:3],
            flipped.shape[:2],
            cotangent.shape[1:3],
            strides,
            padding,
            strict=True,
        )
    )
    # The kernel's gradient is a convolution of the images by the outputs' gradient,
    # dilated by the strides; the padding after the last makes the results as many as
    # the kernel has taps, and is negative where a stride left inputs unread.
    kernel_pads = []
    for side, taps, out, stride, (low, _) in sizes:
        dilated = (out - 1) * stride + 1
        kernel_pads.append((low, taps - 1 - (side + low - dilated)))
    image_pads = adjoint_padding(image, flipped, cotangent, strides, padding)
    if _winograd_pays(cotangent, flipped, strides, image_pads):
        d_image = _winograd(cotangent, flipped, image_pads)
    else:
        d_image = _plain(cotangent, flipped, (1, 1), image_pads, lhs_dilation=strides)

    def d_kernel(image: Array, cotangent: Array) -> Array:
        # channels take the place of the batch, and the batch that of the channels: the
        # layout NHWC x HWIO, which XLA:CPU computes fast inside loops
        images = image.transpose(3, 1, 2, 0)
        taps = cotangent.transpose(1, 2, 0, 3)
        pads = tuple(kernel_pads)
        gradient = _plain(images, taps, (1, 1), pads, rhs_dilation=strides)
        return gradient.transpose(1, 2, 0, 3)

    return d_image, _sum_by_parts(d_kernel, image, cotangent)


_canonical.defvjp(_canonical_forward, _canonical_backward)


def _require_plain(
    name: str,
    dilations: Sequence[Any],
    feature_group_count: int,
    dimension_numbers: Any,
) -> None:
    if (
        any(d is not None and tuple(d) != (1, 1) for d in dilations)
        or feature_group_count != 1
    ):
        raise InputError(
            f"the {name} convolution has no dilation and no groups; use conv='lax' for"
            " this layer"
        )
    if dimension_numbers is not None:
        numbers = lax.conv_dimension_numbers(
            (1, 1, 1, 1), (1, 1, 1, 1), dimension_numbers
        )
        if numbers != lax.conv_dimension_numbers(
            (1, 1, 1, 1), (1, 1, 1, 1), DIMENSIONS
        ):
            raise InputError(
                f"the {name} convolution takes NHWC images and HWIO kernels only"
            )


def canonical_conv(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
    **unused: Any,
) -> Array:
    """Convolve, with gradients in the layout that XLA:CPU computes fast inside loops.

    ``lax.conv_general_dilated`` otherwise. Values and gradients equal autodiff's to
    rounding. Reverse mode, ``jvp`` of ``grad`` and ``grad`` of ``grad`` work; direct
    forward mode (``jax.jvp``, ``jax.linear_transpose``) does not: use
    :func:`jax.lax.conv_general_dilated` there.

    Args:
      lhs: images ``[B, H, W, in]``.
      rhs: kernel ``[kh, kw, in, out]``.
      window_strides: two strides.
      padding: ``"SAME"``, ``"VALID"`` or ``((top, bottom), (left, right))``.
      lhs_dilation: must be 1.
      rhs_dilation: must be 1.
      dimension_numbers: NHWC x HWIO -> NHWC, or None.
      feature_group_count: must be 1.
      precision: accepted for Flax, not used (XLA:CPU has one precision).
      **unused: further arguments of Flax that do not change the value
        (``preferred_element_type``).

    Returns:
      ``[B, H', W', out]``.

    Raises:
      InputError: for dilation, groups or another layout.
    """
    del precision, unused
    _require_plain(
        "canonical",
        (lhs_dilation, rhs_dilation),
        feature_group_count,
        dimension_numbers,
    )
    strides = (int(window_strides[0]), int(window_strides[1]))
    return _canonical(lhs, rhs, strides, explicit_padding(padding, lhs, rhs, strides))


def im2col_conv(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
    **unused: Any,
) -> Array:
    """Convolve by one matrix product over concatenated shifted slices.

    Under ``vmap`` over kernels it becomes a batched matrix product instead of a grouped
    convolution, which is the faster of the two for many small models; it needs
    ``kh * kw`` times the activation memory. Arguments, result and errors as in
    :func:`canonical_conv`; differentiable in every mode.
    """
    del unused
    _require_plain(
        "im2col", (lhs_dilation, rhs_dilation), feature_group_count, dimension_numbers
    )
    sh, sw = window_strides
    kh, kw = rhs.shape[:2]
    pads = explicit_padding(padding, lhs, rhs, tuple(window_strides))
    image = jnp.pad(lhs, ((0, 0), *pads, (0, 0)))
    rows = (image.shape[1] - kh) // sh + 1
    cols = (image.shape[2] - kw) // sw + 1
    slices = [
        image[:, i : i + (rows - 1) * sh + 1 : sh, j : j + (cols - 1) * sw + 1 : sw]
        for i in range(kh)
        for j in range(kw)
    ]
    return jnp.dot(
        jnp.concatenate(slices, -1), rhs.reshape(-1, rhs.shape[-1]), precision=precision
    )


CONVOLUTIONS: dict[str, Callable[..., Array]] = {
    "canonical": canonical_conv,
    "im2col": im2col_conv,
    "lax": lax.conv_general_dilated,
}


def convolution(name: str = "auto") -> Callable[..., Array]:
    """Return the convolution form to build a model with.

    Args:
      name: ``canonical``, ``im2col``, ``lax``, or ``auto``: canonical on CPU, where it
        is 40 times faster inside loops, and ``lax`` elsewhere.

    Returns:
      A function for Flax's ``conv_general_dilated=``.

    Raises:
      InputError: unknown name.
    """
    if name == "auto":
        name = "canonical" if jax.default_backend() == "cpu" else "lax"
    if name not in CONVOLUTIONS:
        raise InputError(
            f"unknown convolution {name!r}; choose auto,"
            f" {', '.join(sorted(CONVOLUTIONS))}"
        )
    return CONVOLUTIONS[name]


@jax.custom_jvp
def max_pool_2x2(images: Array) -> Array:
    """Pool 2x2 windows to their maximum, with stride 2.

    The maximum of strided slices; an odd last row or column is dropped. Many times
    faster than ``reduce_window`` on CPU. Its gradient splits ties evenly instead of
    giving them to one element; after a ReLU that matters nowhere but at zeros.

    Args:
      images: ``[B, H, W, ch]``.

    Returns:
      ``[B, H // 2, W // 2, ch]``.
    """
    images = _even(images)
    top = jnp.maximum(images[:, ::2, ::2], images[:, ::2, 1::2])
    return jnp.maximum(top, jnp.maximum(images[:, 1::2, ::2], images[:, 1::2, 1::2]))


def _even(images: Array) -> Array:
    return images[:, : images.shape[1] // 2 * 2, : images.shape[2] // 2 * 2]


@max_pool_2x2.defjvp
def _max_pool_tangent(
    primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    """Derive max pooling by windows instead of slices.

    Transposed, that writes the gradient once, where slices would add up four.
    """
    (images,) = primals
    (tangent,) = tangents
    largest = max_pool_2x2(images)
    batch, rows, columns, channels = largest.shape
    shape = (batch, rows, 2, columns, 2, channels)
    windows = _even(images).reshape(shape)
    changes = _even(tangent).reshape(shape)
    chosen = windows == largest[:, :, None, :, None]
    count = jnp.sum(chosen, (2, 4)).astype(images.dtype)
    return largest, jnp.sum(jnp.where(chosen, changes, 0), (2, 4)) / count
