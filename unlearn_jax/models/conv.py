"""Convolution and pooling forms that differ only in speed, never in value.

On CPU, :mod:`unlearn_jax.onednn` is the fastest form if it was built, at 1.4 to 2.7
times the speed of XLA's kernels. :func:`canonical_conv` needs no build. XLA's CPU
backend computes the weight gradient that autodiff writes for a convolution 40 times
slower inside any loop (``scan``, ``fori_loop``, ``map``, ``cond``) than outside it. The
reason is that the pass that selects the fast kernel looks for the layout NHWC x HWIO in
the entry computation only. The canonical form writes both gradients in that layout from
the start, so that whole epochs can run in one compiled scan.

Every form has the signature that Flax layers expect of their ``conv_general_dilated=``
argument.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType

from unlearn_jax import onednn, targets
from unlearn_jax.types import Array, InputError

Padding = tuple[tuple[int, int], ...]
DIMENSIONS = ("NHWC", "HWIO", "NHWC")
PART = 2**20
"""Size of one part of a batch in a weight gradient, in bytes of activations."""
BATCH_AXIS = "batch"
"""Mesh axis over which the mapper ``split`` divides batches."""


def explicit_padding(
    padding: str | Sequence[tuple[int, int]],
    image: Array,
    kernel: Array,
    strides: Sequence[int],
) -> Padding:
    """Return the numbers of a padding that may be given by name.

    Raises:
      InputError: a padded image smaller than the kernel, so that the output would be
        empty.
    """
    if isinstance(padding, str):
        pads = tuple(
            lax.padtype_to_pads(image.shape[1:3], kernel.shape[:2], strides, padding)
        )
    else:
        pads = tuple((int(low), int(high)) for low, high in padding)
    sides = zip(image.shape[1:3], kernel.shape[:2], pads, strict=True)
    if any(side + low + high < taps for side, taps, (low, high) in sides):
        window = "x".join(map(str, kernel.shape[:2]))
        size = "x".join(map(str, image.shape[1:3]))
        raise InputError(
            f"a kernel of {window} does not fit into an image of {size} with padding"
            f" {padding!r}: choose padding='SAME', a smaller kernel, or fewer pooling"
            " layers before it"
        )
    return pads


def adjoint_kernel(kernel: Array) -> Array:
    """Return the kernel of the adjoint, which maps outputs back to images.

    The adjoint of a cross-correlation is a cross-correlation whose kernel is flipped
    along both spatial axes, with input and output channels exchanged.
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
    # Output o reads the inputs o * step - low + tap. The adjoint pads the dilated
    # outputs by taps - 1 - low before the first, so that its first result is input 0.
    # The padding after the last makes the numbers of results and of inputs equal.
    return tuple(
        (taps - 1 - low, side - (out - 1) * step - 1 + low)
        for side, taps, out, step, (low, _) in sides
    )


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


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _canonical(
    image: Array, kernel: Array, strides: tuple[int, int], padding: Padding
) -> Array:
    return _plain(image, kernel, strides, padding)


def _canonical_forward(
    image: Array, kernel: Array, strides: tuple[int, int], padding: Padding
) -> tuple[Array, Any]:
    # Save the adjoint's kernel: a loop over the backward pass alone then flips it once.
    saved = (image, adjoint_kernel(kernel))
    return _plain(image, kernel, strides, padding), saved


def _canonical_backward(
    strides: tuple[int, int], padding: Padding, saved: Any, cotangent: Array
) -> tuple[Array, Array]:
    image, flipped = saved
    image_pads = adjoint_padding(image, flipped, cotangent, strides, padding)
    d_image = _plain(cotangent, flipped, (1, 1), image_pads, lhs_dilation=strides)
    # The kernel's gradient is a convolution of the images with the outputs' gradient,
    # dilated by the strides. The padding at the end makes the numbers of results and of
    # the kernel's taps equal; it is negative if the strides skip the last inputs.
    sides = zip(
        image.shape[1:3],
        flipped.shape[:2],
        cotangent.shape[1:3],
        strides,
        padding,
        strict=True,
    )
    kernel_pads = tuple(
        (low, taps - 1 - (side + low - (out - 1) * step - 1))
        for side, taps, out, step, (low, _) in sides
    )

    def d_kernel(image: Array, cotangent: Array) -> Array:
        # Exchanging batch and channels gives the layout NHWC x HWIO, which XLA:CPU
        # computes fast inside loops.
        images = image.transpose(3, 1, 2, 0)
        taps = cotangent.transpose(1, 2, 0, 3)
        gradient = _plain(images, taps, (1, 1), kernel_pads, rhs_dilation=strides)
        return gradient.transpose(1, 2, 0, 3)

    num_parts = _num_parts(image, cotangent)
    if num_parts == 1:
        return d_image, d_kernel(image, cotangent)

    def add(total: Array, few: tuple[Array, Array]) -> tuple[Array, None]:
        return total + d_kernel(*few), None

    parts = (
        image.reshape(num_parts, -1, *image.shape[1:]),
        cotangent.reshape(num_parts, -1, *cotangent.shape[1:]),
    )
    rows, columns, out_channels, in_channels = flipped.shape
    # a sum of many parts in bfloat16 would lose terms smaller than its last digit
    zero = jnp.zeros(
        (rows, columns, in_channels, out_channels),
        jnp.promote_types(flipped.dtype, jnp.float32),
    )
    return d_image, lax.scan(add, zero, parts)[0].astype(flipped.dtype)


def _num_parts(image: Array, cotangent: Array) -> int:
    """Return the number of equal parts of a batch in which to compute weight gradients.

    The rearranged arrays of a part stay in the cache. For layers of 64 to 256 channels
    this is 1.3 to 2.9 times as fast as the whole batch at once. The number divides the
    batch; it is 1 if no divisor is near the number that the cache needs, and for
    batches that a mesh divides.
    """
    batch = len(image)
    size = max(image.size, cotangent.size) * image.dtype.itemsize
    num_needed = min(1 + size // PART, batch)
    if not _is_divided():
        for num_parts in range(max(num_needed, 1), min(4 * num_needed, batch) + 1):
            if batch % num_parts == 0:
                return num_parts
    return 1


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
            f"the {name} convolution does not support dilation or groups; use"
            " conv='lax' for this layer"
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
    preferred_element_type: Any = None,
) -> Array:
    """Convolve, with gradients in the layout that XLA:CPU computes fast inside loops.

    Apart from the layout this is :func:`jax.lax.conv_general_dilated`: values and
    gradients are equal up to rounding. Reverse mode, ``jvp`` of ``grad`` and ``grad``
    of ``grad`` work. Direct forward mode (``jax.jvp``, ``jax.linear_transpose``) does
    not: use :func:`jax.lax.conv_general_dilated` for it. On a mesh with explicit axes,
    that function is used.

    Args:
      lhs: images ``[B, H, W, in]``.
      rhs: kernel ``[kh, kw, in, out]``.
      window_strides: two strides.
      padding: ``"SAME"``, ``"VALID"`` or ``((top, bottom), (left, right))``.
      lhs_dilation: must be 1.
      rhs_dilation: must be 1.
      dimension_numbers: NHWC x HWIO -> NHWC, or None.
      feature_group_count: must be 1.
      precision: accepted for Flax but not used (XLA:CPU has one precision).
      preferred_element_type: type of the result; the images' type if None.

    Returns:
      ``[B, H', W', out]``.

    Raises:
      InputError: dilation, groups, another layout, or a kernel that is larger than the
        padded image.
    """
    del precision
    _require_plain(
        "canonical",
        (lhs_dilation, rhs_dilation),
        feature_group_count,
        dimension_numbers,
    )
    strides = (int(window_strides[0]), int(window_strides[1]))
    pads = explicit_padding(padding, lhs, rhs, strides)
    convolve = _plain if _is_typed(lhs, rhs) else _canonical
    return lax.convert_element_type(
        convolve(lhs, rhs, strides, pads), preferred_element_type or lhs.dtype
    )


def onednn_conv(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> Array:
    """Convolve by :mod:`unlearn_jax.onednn`, which must have been built.

    Arguments, result and errors are as in :func:`canonical_conv`; all modes of
    differentiation work. The canonical form computes the cases that oneDNN does not
    support: types other than float32 and bfloat16, negative padding, and batches that a
    mesh divides (:func:`jax.set_mesh`). If a batch is divided but no mesh is set, the
    values are correct, but every device computes the whole batch.
    """
    del precision
    _require_plain(
        "oneDNN", (lhs_dilation, rhs_dilation), feature_group_count, dimension_numbers
    )
    strides = (int(window_strides[0]), int(window_strides[1]))
    pads = explicit_padding(padding, lhs, rhs, strides)
    if _is_typed(lhs, rhs):
        convolve = _plain
    elif _is_divided() or not onednn.takes(lhs, rhs, strides, pads):
        convolve = _canonical
    else:
        convolve = onednn.forward
    return lax.convert_element_type(
        convolve(lhs, rhs, strides, pads), preferred_element_type or lhs.dtype
    )


def _is_divided() -> bool:
    """Return whether a mesh may divide batches, since XLA cannot divide oneDNN calls.

    Axes of any name count, except manual ones, along which the caller has already
    divided the arrays.
    """
    mesh = jax.sharding.get_abstract_mesh()
    sizes = zip(mesh.axis_types, mesh.axis_sizes, strict=True)
    return any(size > 1 and kind != AxisType.Manual for kind, size in sizes)


def _is_typed(*arrays: Array) -> bool:
    """Return whether any array has a sharding in its type (a mesh of explicit axes).

    The gradients' types would need shardings as well. XLA's own convolution provides
    them; the custom forms do not.
    """
    specs = [jax.typeof(array).sharding.spec for array in arrays]
    return any(part is not None for spec in specs for part in spec)


CONVOLUTIONS: dict[str, Callable[..., Array]] = {
    "canonical": canonical_conv,
    "lax": lax.conv_general_dilated,
    "onednn": onednn_conv,
}


def convolution_form(name: str = "auto") -> str:
    """Return the form of convolution that a name stands for on this machine.

    Args:
      name: ``canonical``, ``lax``, ``onednn`` or ``auto``. On CPU ``auto`` is
        ``onednn`` if it was built, and otherwise ``canonical``, whose weight gradients
        are 40 times faster than those of ``lax`` inside loops. On other devices it is
        ``lax``.

    Returns:
      A key of :data:`CONVOLUTIONS`.

    Raises:
      InputError: an unknown name, or ``onednn`` if it cannot be used.
    """
    if name == "auto":
        if targets.platform() != "cpu":
            return "lax"
        return "canonical" if onednn.native().reason else "onednn"
    if name not in CONVOLUTIONS:
        raise InputError(
            f"unknown convolution {name!r}; choose auto,"
            f" {', '.join(sorted(CONVOLUTIONS))}"
        )
    if name == "onednn" and onednn.native().reason:
        raise InputError(f"conv='onednn' cannot be used: {onednn.native().reason}")
    return name


def convolution(name: str = "auto") -> Callable[..., Array]:
    """Return the convolution to build a model with.

    Args:
      name: name of the form, see :func:`convolution_form`.

    Returns:
      A function for Flax's ``conv_general_dilated=``.

    Raises:
      InputError: an unknown name, or ``onednn`` if it cannot be used.
    """
    return CONVOLUTIONS[convolution_form(name)]


@jax.custom_jvp
def max_pool_2x2(images: Array) -> Array:
    """Pool 2x2 windows to their maximum, with stride 2.

    The result is the maximum of strided slices, which is many times faster than
    ``reduce_window`` on CPU. An odd last row or column is dropped. The gradient splits
    ties evenly instead of giving them to one element; after a ReLU this makes a
    difference only at zeros.

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
    """Differentiate max pooling by windows instead of slices.

    The transpose then writes the gradient once, where slices would sum four arrays.
    The elements of a window are compared with each other, not with ``largest``. XLA may
    recompute the images in another kernel, with other rounding; a window in which no
    element equals ``largest`` would then pass no gradient.
    """
    (images,) = primals
    (tangent,) = tangents
    largest = max_pool_2x2(images)
    batch, rows, columns, channels = largest.shape
    shape = (batch, rows, 2, columns, 2, channels)
    windows = _even(images).reshape(shape)
    changes = _even(tangent).reshape(shape)
    flipped = windows[:, :, ::-1]
    chosen = windows >= flipped
    chosen &= windows >= windows[:, :, :, :, ::-1]
    chosen &= windows >= flipped[:, :, :, :, ::-1]
    count = jnp.sum(chosen, (2, 4)).astype(images.dtype)
    return largest, jnp.sum(jnp.where(chosen, changes, 0), (2, 4)) / count
