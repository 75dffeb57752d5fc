"""Pillow's image operations as array code: one program for thirteen operations.

An :class:`Operation` is data. :func:`shear_x`, :func:`rotate`, :func:`posterize` and
similar functions build it on the host, and :func:`apply` runs it on one image. For
every operation that is one affine gather, one histogram with a look-up in it, and one
blend; a stage that the operation does not use is the identity. So a random operation
per image costs one operation under ``vmap``, where a ``lax.switch`` would run all of
them, and a draw from a policy is an index into a stack of operations.

Gray levels are 0..255, and the results are Pillow's to the last bit (nearest neighbor,
black outside), except for :func:`autocontrast`, which documents a difference of one
level. Images of one channel correspond to Pillow's mode ``L``, images of three channels
to ``RGB``. Float images are rounded to gray levels first and returned as
``level / 255``.
"""

import enum
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.types import Array, InputError

_LEVELS = 256
_FRACTION_BITS = 16


class Tone(enum.IntEnum):
    """Stretching of the histogram, before posterize and solarize."""

    KEEP = 0
    AUTOCONTRAST = 1
    EQUALIZE = 2


class Base(enum.IntEnum):
    """Image that an enhancement gives at factor 0; factor 1 gives the input image."""

    BLACK = 0
    MEAN = 1
    GRAY = 2
    SMOOTH = 3


class Operation(NamedTuple):
    """Operation as numbers; leaves with a leading axis are a stack of operations.

    Attributes:
      matrix: ``[6]`` int32, 16.16 fixed point: output pixel ``(x, y)`` is read from
        column ``(matrix[0] x + matrix[1] y + matrix[2]) >> 16`` and row
        ``(matrix[3] x + matrix[4] y + matrix[5]) >> 16``.
      tone: ``[]`` int32, a :class:`Tone`.
      mask: ``[]`` int32 in 0..255, the bits that posterize keeps.
      threshold: ``[]`` int32 in 0..256, the lowest gray level that solarize inverts;
        256 inverts none.
      base: ``[]`` int32, a :class:`Base`.
      factor: ``[]`` float32, at least 0: 0 gives the base, 1 the image, and more than 1
        exaggerates the image.
    """

    matrix: Any
    tone: Any
    mask: Any
    threshold: Any
    base: Any
    factor: Any


def _affine(a: float, b: float, c: float, d: float, e: float, f: float) -> Operation:
    """Return the map that reads (x, y) from ``(a x + b y + c, d x + e y + f)``."""
    at_first_center = (a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5)
    fixed = [math.floor(value * 2**_FRACTION_BITS + 0.5) for value in at_first_center]
    return IDENTITY._replace(matrix=np.array(fixed, np.int32))


def _enhance(base: Base, factor: float) -> Operation:
    return IDENTITY._replace(base=np.int32(base), factor=np.float32(factor))


IDENTITY = Operation(
    matrix=np.array(
        [1 << _FRACTION_BITS, 0, 1 << 15, 0, 1 << _FRACTION_BITS, 1 << 15], np.int32
    ),
    tone=np.int32(Tone.KEEP),
    mask=np.int32(255),
    threshold=np.int32(_LEVELS),
    base=np.int32(Base.BLACK),
    factor=np.float32(1.0),
)
"""Operation that changes nothing."""


def shear_x(slope: float) -> Operation:
    """Read row y from ``slope * y`` pixels further right; the top edge is fixed."""
    return _affine(1.0, slope, 0.0, 0.0, 1.0, 0.0)


def shear_y(slope: float) -> Operation:
    """Read column x from ``slope * x`` pixels further down; the left edge is fixed."""
    return _affine(1.0, 0.0, 0.0, slope, 1.0, 0.0)


def translate(right: int, down: int) -> Operation:
    """Move the image by whole pixels."""
    return _affine(1.0, 0.0, -right, 0.0, 1.0, -down)


def rotate(degrees: float, height: int, width: int) -> Operation:
    """Rotate an image counter-clockwise around its center, keeping its size."""
    angle = -math.radians(degrees % 360.0)
    cos = round(math.cos(angle), 15)
    sin = round(math.sin(angle), 15)
    x = width / 2.0
    y = height / 2.0
    return _affine(cos, sin, -cos * x - sin * y + x, -sin, cos, sin * x - cos * y + y)


def brightness(factor: float) -> Operation:
    """Scale the brightness: 0 is black, 1 the image, 2 twice as bright (clipped)."""
    return _enhance(Base.BLACK, factor)


def contrast(factor: float) -> Operation:
    """Scale the contrast: 0 is the image's mean gray everywhere, 1 the image."""
    return _enhance(Base.MEAN, factor)


def color(factor: float) -> Operation:
    """Scale the saturation: 0 is gray, 1 the image; gray images are unchanged."""
    return _enhance(Base.GRAY, factor)


def sharpness(factor: float) -> Operation:
    """Scale the sharpness: 0 is smoothed over 3 x 3, 1 the image, 2 sharpened."""
    return _enhance(Base.SMOOTH, factor)


def posterize(bits: int) -> Operation:
    """Keep the ``bits`` highest of the 8 bits of every gray level."""
    return IDENTITY._replace(mask=np.int32(255 & ~((1 << (8 - bits)) - 1)))


def solarize(threshold: float) -> Operation:
    """Invert every gray level that is at least ``threshold``; 256 inverts none."""
    return IDENTITY._replace(threshold=np.int32(math.ceil(threshold)))


def invert() -> Operation:
    """Invert every gray level."""
    return solarize(0)


def autocontrast() -> Operation:
    """Stretch each channel linearly, its darkest level to 0 and its brightest to 255.

    Levels are ``floor(255 (v - low) / (high - low))`` exactly. Pillow computes this in
    float64, which is one level too low for 12,094 of the 2,828,800 combinations of low,
    high and a level in between.
    """
    return IDENTITY._replace(tone=np.int32(Tone.AUTOCONTRAST))


def equalize() -> Operation:
    """Spread each channel's histogram evenly; fewer than 256 pixels are unchanged."""
    return IDENTITY._replace(tone=np.int32(Tone.EQUALIZE))


def to_levels(images: Array) -> Array:
    """Return images ``[..., H, W, ch]`` as int32 gray levels ``[..., ch, H, W]``.

    Floats in [0, 1] are rounded to the nearest level. Channels come first because
    operations on whole planes are several times as fast on CPU.

    Raises:
      InputError: images that are neither uint8 nor floating.
    """
    is_float = jnp.issubdtype(images.dtype, jnp.floating)
    if not is_float and images.dtype != jnp.uint8:
        raise InputError(
            "images must be uint8 or floating in [0, 1] for this augmentation, got"
            f" {images.dtype}; convert gray levels with .astype('uint8')"
        )
    levels = jnp.moveaxis(images, -1, -3)
    if is_float:
        levels = jnp.clip(jnp.round(levels * 255), 0, 255)
    return levels.astype(jnp.int32)


def from_levels(levels: Array, dtype: Any) -> Array:
    """Undo :func:`to_levels`: return uint8 levels, or floats as ``level / 255``."""
    images = jnp.moveaxis(levels, -3, -1)
    return (
        images.astype(jnp.uint8) if dtype == jnp.uint8 else images.astype(dtype) / 255
    )


def apply(image: Array, operation: Operation) -> Array:
    """Run one operation on one image.

    Args:
      image: ``[H, W, ch]`` with one or three channels and at most 2**20 pixels, uint8,
        or float in [0, 1], which is rounded to ``level / 255`` first.
      operation: operation for one image, so its leaves have no leading axes; may be
        traced.

    Returns:
      ``[H, W, ch]``, dtype of ``image``.

    Raises:
      InputError: the image has neither one nor three channels, or is neither uint8 nor
        floating.

    >>> image = jnp.array([[[0], [100]], [[200], [255]]], jnp.uint8)
    >>> apply(image, solarize(128))[:, :, 0].tolist()
    [[0, 100], [55, 0]]
    """
    check_channels(image)
    return from_levels(apply_to_levels(to_levels(image), operation), image.dtype)


def check_channels(image: Array) -> None:
    """Raise on an image ``[..., ch]`` without a corresponding mode in Pillow.

    Raises:
      InputError: the image has neither one nor three channels.
    """
    if image.shape[-1] not in (1, 3):
        raise InputError(
            "images must have 1 or 3 channels for this augmentation, got"
            f" {image.shape[-1]}; use crop or crop_flip"
        )


def apply_to_levels(levels: Array, operation: Operation) -> Array:
    """Run an operation on gray levels ``[ch, H, W]``, so a sequence converts once."""
    toned = _tone(_gather(levels, operation.matrix), operation)
    return _blend(_base(toned, operation.base), toned, operation.factor)


def _gather(levels: Array, matrix: Array) -> Array:
    channels, height, width = levels.shape
    x = jnp.arange(width, dtype=jnp.int32)[None, :]
    y = jnp.arange(height, dtype=jnp.int32)[:, None]
    column = (matrix[0] * x + matrix[1] * y + matrix[2]) >> _FRACTION_BITS
    row = (matrix[3] * x + matrix[4] * y + matrix[5]) >> _FRACTION_BITS
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = jnp.where(inside, row * width + column, 0)
    plane = height * width * jnp.arange(channels, dtype=jnp.int32)[:, None, None]
    moved = levels.reshape(-1).at[plane + place[None]].get(mode="promise_in_bounds")
    return jnp.where(inside[None], moved, 0)


def _tone(levels: Array, operation: Operation) -> Array:
    """Apply autocontrast or equalize, then posterize, then solarize.

    Autocontrast and equalize are one division per pixel. Only the histogram is looked
    up: if there were a table of results, a compiler that fuses it with its look-up
    would recompute it for every pixel.
    """
    pixels = levels.reshape(levels.shape[0], -1)
    channel = jnp.arange(levels.shape[0], dtype=jnp.int32)[:, None]
    counts = (
        jnp.zeros((levels.shape[0], _LEVELS), jnp.int32)
        .at[channel, pixels]
        .add(1, mode="promise_in_bounds")
    )
    up_to = jnp.cumsum(counts, axis=1)
    not_all = up_to < pixels.shape[1]
    low = jnp.sum(up_to == 0, axis=1, keepdims=True, dtype=jnp.int32)
    high = jnp.sum(not_all, axis=1, keepdims=True, dtype=jnp.int32)
    step = jnp.max(jnp.where(not_all, up_to, 0), axis=1, keepdims=True) // 255
    darker = (up_to - counts).at[channel, pixels].get(mode="promise_in_bounds")

    equalize = operation.tone == Tone.EQUALIZE
    parts = jnp.where(equalize, step // 2 + darker, 255 * (pixels - low))
    whole = jnp.where(equalize, step, high - low)
    stretched = jnp.minimum(_floor_divide(parts, jnp.maximum(whole, 1)), 255)
    toned = (
        jnp.where((operation.tone == Tone.KEEP) | (whole == 0), pixels, stretched)
        & operation.mask
    )
    return jnp.where(toned >= operation.threshold, 255 - toned, toned).reshape(
        levels.shape
    )


def _floor_divide(parts: Array, whole: Array) -> Array:
    """Return ``parts // whole`` of integers in 0..2**20, computed in float32."""
    return jnp.floor(
        (parts.astype(jnp.float32) + 0.5) / whole.astype(jnp.float32)
    ).astype(jnp.int32)


def _base(levels: Array, base: Array) -> Array:
    """Return the image at factor 0 of an enhancement."""
    gray = _gray(levels)
    mean = (2 * jnp.sum(gray) + gray.size) // (2 * gray.size)
    choices = [
        jnp.zeros_like(levels),
        jnp.full_like(levels, mean),
        jnp.broadcast_to(gray, levels.shape),
    ]
    return jnp.select(
        [base == kind for kind in (Base.BLACK, Base.MEAN, Base.GRAY)],
        choices,
        _smooth(levels),
    )


def _gray(levels: Array) -> Array:
    """Return ITU-R 601 luma ``[1, H, W]``, in 16-bit fixed point."""
    if levels.shape[0] == 1:
        return levels
    red = levels[:1]
    green = levels[1:2]
    blue = levels[2:]
    return (19595 * red + 38470 * green + 7471 * blue + (1 << 15)) >> 16


def _smooth(levels: Array) -> Array:
    """Smooth by a 3 x 3 kernel of ones with a 5 at its center, divided by 13.

    The outermost pixels are unchanged.
    """
    _, height, width = levels.shape
    rows = jax.lax.reduce_window(levels, 0, jax.lax.add, (1, 3, 1), (1, 1, 1), "SAME")
    total = (
        jax.lax.reduce_window(rows, 0, jax.lax.add, (1, 1, 3), (1, 1, 1), "SAME")
        + 4 * levels
    )
    row = np.arange(height)[:, None]
    column = np.arange(width)[None, :]
    inner = (row > 0) & (row < height - 1) & (column > 0) & (column < width - 1)
    smoothed = jax.lax.div(2 * total + 13, jnp.full_like(total, 26))
    return jnp.where(inner[None], smoothed, levels)


def _blend(base: Array, levels: Array, factor: Array) -> Array:
    """Return ``base + factor * (levels - base)`` in float32, truncated and clipped.

    Pillow rounds both the product and the sum. A compiler may fuse them, with a single
    rounding, which could move a result that lies exactly on a gray level below it. The
    factor is therefore split into two halves whose products are exact. The sum of the
    halves rounds once, as the product would, and cannot be fused with the next sum,
    because it is not a product.
    """
    change = (levels - base).astype(jnp.float32)
    upper = jax.lax.bitcast_convert_type(factor, jnp.uint32) & np.uint32(0xFFFFFF00)
    upper = jax.lax.bitcast_convert_type(upper, jnp.float32)
    product = upper * change + (factor - upper) * change
    return jnp.clip(base.astype(jnp.float32) + product, 0, 255).astype(jnp.int32)
