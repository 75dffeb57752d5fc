"""Random augmentation policies as array code: operations and their strengths.

A policy builds its possible operations once, on the host, as one stack; a draw is a row
index into that stack. The policies are TrivialAugmentWide, RandAugment, AutoAugment for
CIFAR-10, AugMix and RandomErasing. Their operations, magnitudes, signs and
probabilities are those of torchvision on Pillow images, so that results can be compared
with studies that use torchvision. Because torchvision computes magnitudes in float32,
results differ by rounding: enhancements by at most one gray level in a few pixels, and
the translation of TrivialAugmentWide by 16 pixels, which is 15 pixels in torchvision.

Every function takes one typed key per image and is pure: image ``i`` depends on key
``i`` alone. All except :func:`random_erasing` work on gray levels: float images in
[0, 1] are rounded to ``level / 255`` first, and the result for float images is the
result for uint8 images divided by 255.
"""

from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.checks import check_counts
from unlearn_jax.data import image_ops
from unlearn_jax.data.image_ops import Operation
from unlearn_jax.types import Array, InputError

Space = dict[str, np.ndarray]
"""Magnitudes ``[num_bins]`` of each operation, weakest first; zeros if it has none."""

_BUILD: dict[str, Callable[[float, int, int], Operation]] = {
    "identity": lambda magnitude, height, width: image_ops.IDENTITY,
    "shear_x": lambda magnitude, height, width: image_ops.shear_x(magnitude),
    "shear_y": lambda magnitude, height, width: image_ops.shear_y(magnitude),
    "translate_x": lambda magnitude, height, width: image_ops.translate(
        int(magnitude), 0
    ),
    "translate_y": lambda magnitude, height, width: image_ops.translate(
        0, int(magnitude)
    ),
    "rotate": image_ops.rotate,
    "brightness": lambda magnitude, height, width: image_ops.brightness(1 + magnitude),
    "color": lambda magnitude, height, width: image_ops.color(1 + magnitude),
    "contrast": lambda magnitude, height, width: image_ops.contrast(1 + magnitude),
    "sharpness": lambda magnitude, height, width: image_ops.sharpness(1 + magnitude),
    "posterize": lambda magnitude, height, width: image_ops.posterize(int(magnitude)),
    "solarize": lambda magnitude, height, width: image_ops.solarize(magnitude),
    "autocontrast": lambda magnitude, height, width: image_ops.autocontrast(),
    "equalize": lambda magnitude, height, width: image_ops.equalize(),
    "invert": lambda magnitude, height, width: image_ops.invert(),
}
_UNSIGNED = {"identity", "posterize", "solarize", "autocontrast", "equalize", "invert"}

_CIFAR10_POLICY: list[tuple[tuple[str, float, int], tuple[str, float, int]]] = [
    (("invert", 0.1, 0), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.5, 0), ("equalize", 0.9, 0)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 0), ("equalize", 0.5, 0)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 0), ("autocontrast", 0.4, 0)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 0)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 0), ("equalize", 0.6, 0)),
    (("color", 0.9, 9), ("equalize", 0.6, 0)),
    (("autocontrast", 0.8, 0), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 0)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.9, 0), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 0), ("invert", 0.1, 0)),
    (("translate_y", 0.7, 9), ("autocontrast", 0.9, 0)),
]
"""Sub-policies: pairs of (operation, probability, magnitude bin), arXiv 1805.09501."""

_AUTO_BINS = 10
_MIX_BINS = 10
_MIX_WIDTH = 3
_MIX_DEPTH = 3
_ERASING_ATTEMPTS = 10


def _space(
    num_bins: int,
    *,
    shear: float,
    right: float,
    down: float,
    degrees: float,
    enhance: float,
    bits: tuple[int, int],
) -> Space:
    """Return evenly spaced magnitudes; ``bits`` are posterize's first and last."""
    most, least = bits
    none = np.zeros(num_bins)
    return {
        "identity": none,
        "shear_x": np.linspace(0, shear, num_bins),
        "shear_y": np.linspace(0, shear, num_bins),
        "translate_x": np.linspace(0, right, num_bins),
        "translate_y": np.linspace(0, down, num_bins),
        "rotate": np.linspace(0, degrees, num_bins),
        "brightness": np.linspace(0, enhance, num_bins),
        "color": np.linspace(0, enhance, num_bins),
        "contrast": np.linspace(0, enhance, num_bins),
        "sharpness": np.linspace(0, enhance, num_bins),
        "posterize": (
            most - np.round(np.arange(num_bins) / ((num_bins - 1) / (most - least)))
        ),
        "solarize": np.linspace(255, 0, num_bins),
        "autocontrast": none,
        "equalize": none,
        "invert": none,
    }


def _standard_space(height: int, width: int, num_bins: int) -> Space:
    """Return the magnitudes of RandAugment and AutoAugment."""
    move = 150 / 331
    return _space(
        num_bins,
        shear=0.3,
        right=move * width,
        down=move * height,
        degrees=30,
        enhance=0.9,
        bits=(8, 4),
    )


def _signed(name: str, magnitude: float, height: int, width: int) -> list[Operation]:
    """Return the operation with both signs, or twice if it has no sign."""
    signs = (1, 1) if name in _UNSIGNED else (1, -1)
    return [_BUILD[name](sign * float(magnitude), height, width) for sign in signs]


def _stack(operations: list[Operation]) -> Operation:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *operations)


def _all_of(space: Space, height: int, width: int, *, without: set[str]) -> Operation:
    """Return every operation of a space at every magnitude, with both signs.

    All operations have the same number of rows, so a uniform draw of a row is a uniform
    draw of operation, magnitude and sign.
    """
    rows: list[Operation] = []
    for name, magnitudes in space.items():
        if name not in without:
            for magnitude in magnitudes:
                rows += _signed(name, magnitude, height, width)
    return _stack(rows)


@lru_cache(maxsize=32)
def _trivial_rows(height: int, width: int, num_bins: int) -> Operation:
    space = _space(
        num_bins, shear=0.99, right=32, down=32, degrees=135, enhance=0.99, bits=(8, 2)
    )
    return _all_of(space, height, width, without={"invert"})


@lru_cache(maxsize=32)
def _rand_rows(height: int, width: int, magnitude: int, num_bins: int) -> Operation:
    space = _standard_space(height, width, num_bins)
    chosen = {name: values[magnitude : magnitude + 1] for name, values in space.items()}
    return _all_of(chosen, height, width, without={"invert"})


@lru_cache(maxsize=32)
def _auto_rows(height: int, width: int) -> Operation:
    """Return a stack: row ``4 p + 2 i + s`` is operation i of sub-policy p, sign s.

    The last row is the identity.
    """
    space = _standard_space(height, width, _AUTO_BINS)
    rows: list[Operation] = []
    for pair in _CIFAR10_POLICY:
        for name, _, bin_ in pair:
            rows += _signed(name, space[name][bin_], height, width)
    return _stack([*rows, image_ops.IDENTITY])


@lru_cache(maxsize=32)
def _mix_rows(height: int, width: int, severity: int) -> Operation:
    """Return a stack of the first ``severity`` magnitudes; the last row is identity."""
    space = _space(
        _MIX_BINS,
        shear=0.3,
        right=width / 3,
        down=height / 3,
        degrees=30,
        enhance=0.9,
        bits=(4, 0),
    )
    weak = {name: values[:severity] for name, values in space.items()}
    drawn = _all_of(weak, height, width, without={"identity", "invert"})
    return jax.tree.map(
        lambda leaves, last: np.concatenate([leaves, last[None]]),
        drawn,
        image_ops.IDENTITY,
    )


def _run(levels: Array, rows: Operation, chosen: Array) -> Array:
    """Apply rows ``chosen [D]`` of a stack, in order, to gray levels ``[ch, H, W]``."""

    def step(levels: Array, row: Array) -> tuple[Array, None]:
        operation = jax.tree.map(lambda leaf: jnp.asarray(leaf)[row], rows)
        return image_ops.apply_to_levels(levels, operation), None

    return jax.lax.scan(step, levels, chosen)[0]


def _per_image(
    keys: Array, images: Array, one: Callable[[Array, Array], Array]
) -> Array:
    """Map ``one(key, levels [ch, H, W]) -> levels`` over a batch, uint8 or float."""
    image_ops.check_channels(images)
    check_keys(keys, images)
    return image_ops.from_levels(
        jax.vmap(one)(keys, image_ops.to_levels(images)), images.dtype
    )


def check_keys(keys: Array, images: Array) -> None:
    """Raise unless each image of a batch has a key.

    Raises:
      InputError: not one key per image.
    """
    if keys.shape[:1] != images.shape[:1]:
        raise InputError(
            f"keys have shape {keys.shape} for {len(images)} images: pass one key per"
            " image, jax.random.split(key, number)"
        )


def _check_bins(num_bins: int) -> None:
    check_counts(num_bins=num_bins)
    if num_bins < 2:
        raise InputError(f"num_bins must be at least 2, got {num_bins}")


def trivial_augment(keys: Array, images: Array, *, num_bins: int = 31) -> Array:
    """Apply TrivialAugmentWide (arXiv 2103.10158): one random operation per image.

    There are fourteen operations: identity; shear x and shear y up to 0.99; translate x
    and translate y up to 32 pixels whatever the image's size; rotate up to 135 degrees;
    the enhancements brightness, color, contrast and sharpness by a factor within 0.99
    of 1; posterize to 8..2 bits; solarize with a threshold in 255..0; autocontrast;
    equalize. Shear, translate, rotate and enhancements have a random sign.

    Args:
      keys: ``[B]`` typed keys, one per image.
      images: ``[B, H, W, ch]`` with one or three channels, uint8, or float in [0, 1].
      num_bins: number of magnitudes of each operation, at least 2.

    Returns:
      ``[B, H, W, ch]``, dtype of ``images``; floats are whole gray levels over 255.

    Raises:
      InputError: fewer than 2 bins, images of another type or number of channels, or
        not one key per image.
    """
    _check_bins(num_bins)
    rows = _trivial_rows(*images.shape[1:3], num_bins)
    number = len(rows.factor)

    def one(key: Array, levels: Array) -> Array:
        return _run(levels, rows, jax.random.randint(key, (1,), 0, number))

    return _per_image(keys, images, one)


def rand_augment(
    keys: Array,
    images: Array,
    *,
    num_ops: int = 2,
    magnitude: int = 9,
    num_bins: int = 31,
) -> Array:
    """Apply RandAugment (arXiv 1909.13719): ``num_ops`` operations of one strength.

    The operations are those of :func:`trivial_augment` over smaller ranges: shear up to
    0.3, translate up to 150/331 of the image's side, rotate up to 30 degrees,
    enhancements by a factor within 0.9 of 1, posterize to 8..4 bits.

    Args:
      keys: ``[B]`` typed keys, one per image.
      images: ``[B, H, W, ch]`` with one or three channels, uint8, or float in [0, 1].
      num_ops: number of operations per image, at least 1.
      magnitude: bin of the strength, in 0..num_bins-1.
      num_bins: number of bins in each range, at least 2.

    Returns:
      ``[B, H, W, ch]``, dtype of ``images``; floats are whole gray levels over 255.

    Raises:
      InputError: an option out of its range, images of another type or number of
        channels, or not one key per image.
    """
    _check_bins(num_bins)
    check_counts(num_ops=num_ops)
    check_counts(0, magnitude=magnitude)
    if magnitude >= num_bins:
        raise InputError(
            f"magnitude must be a bin in 0..{num_bins - 1}, got {magnitude}"
        )
    rows = _rand_rows(*images.shape[1:3], magnitude, num_bins)
    number = len(rows.factor)

    def one(key: Array, levels: Array) -> Array:
        return _run(levels, rows, jax.random.randint(key, (num_ops,), 0, number))

    return _per_image(keys, images, one)


def auto_augment(keys: Array, images: Array) -> Array:
    """Apply AutoAugment (arXiv 1805.09501): one of 25 pairs of operations per image.

    Each operation of the pair is applied with its own probability, at its own strength
    and with a random sign.

    Args:
      keys: ``[B]`` typed keys, one per image.
      images: ``[B, H, W, ch]`` with one or three channels, uint8, or float in [0, 1].

    Returns:
      ``[B, H, W, ch]``, dtype of ``images``; floats are whole gray levels over 255.

    Raises:
      InputError: images of another type or number of channels, or not one key per
        image.
    """
    rows = _auto_rows(*images.shape[1:3])
    skip = len(rows.factor) - 1
    chances = [(first[1], second[1]) for first, second in _CIFAR10_POLICY]
    probability = jnp.array(chances)

    def one(key: Array, levels: Array) -> Array:
        key_pair, key_apply, key_sign = jax.random.split(key, 3)
        pair = jax.random.randint(key_pair, (), 0, len(_CIFAR10_POLICY))
        applied = jax.random.uniform(key_apply, (2,)) < probability[pair]
        sign = jax.random.randint(key_sign, (2,), 0, 2)
        return _run(
            levels, rows, jnp.where(applied, 4 * pair + 2 * jnp.arange(2) + sign, skip)
        )

    return _per_image(keys, images, one)


def aug_mix(keys: Array, images: Array, *, severity: int = 3) -> Array:
    """Apply AugMix (arXiv 1912.02781): mix the image with three chains of operations.

    The result is ``m x + (1 - m) sum_i w_i chain_i(x)``, with m uniform in [0, 1] and w
    uniform on the simplex (Dirichlet with alpha 1). It is computed in float32 and
    rounded to the nearest gray level (torchvision truncates). The operations are those
    of :func:`rand_augment` without the identity, each at one of the ``severity``
    weakest of ten magnitudes. Translate goes up to a third of the side, posterize to
    4..0 bits.

    Args:
      keys: ``[B]`` typed keys, one per image.
      images: ``[B, H, W, ch]`` with one or three channels, uint8, or float in [0, 1].
      severity: number of magnitudes to draw from, in 1..10.

    Returns:
      ``[B, H, W, ch]``, dtype of ``images``; floats are whole gray levels over 255.

    Raises:
      InputError: ``severity`` out of its range, images of another type or number of
        channels, or not one key per image.
    """
    check_counts(severity=severity)
    if severity > _MIX_BINS:
        raise InputError(f"severity must be in 1..{_MIX_BINS}, got {severity}")
    rows = _mix_rows(*images.shape[1:3], severity)
    skip = len(rows.factor) - 1

    def one(key: Array, levels: Array) -> Array:
        key_row, key_depth, key_weight, key_keep = jax.random.split(key, 4)
        chosen = jax.random.randint(key_row, (_MIX_WIDTH, _MIX_DEPTH), 0, skip)
        depth = jax.random.randint(key_depth, (_MIX_WIDTH,), 1, _MIX_DEPTH + 1)
        chosen = jnp.where(
            jnp.arange(_MIX_DEPTH)[None, :] < depth[:, None], chosen, skip
        )
        weight = jax.random.exponential(key_weight, (_MIX_WIDTH,))
        keep = jax.random.uniform(key_keep)
        chains = jax.vmap(_run, in_axes=(None, None, 0))(levels, rows, chosen)
        mixed = jnp.tensordot(weight / jnp.sum(weight), chains.astype(jnp.float32), 1)
        return jnp.round(keep * levels + (1 - keep) * mixed).astype(jnp.int32)

    return _per_image(keys, images, one)


def random_erasing(
    keys: Array,
    images: Array,
    *,
    probability: float = 0.5,
    area: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
) -> Array:
    """Apply RandomErasing (arXiv 1708.04896): set one rectangle of the image to 0.

    The rectangle has a uniform fraction of the image's area and a log-uniform ratio of
    height to width, rounded to whole pixels, at a uniform position. Ten sizes are
    drawn, and the first that is smaller than the image in both directions is used. If
    none is, the image is unchanged.

    Args:
      keys: ``[B]`` typed keys, one per image.
      images: ``[B, H, W, ch]``, any dtype and number of channels.
      probability: probability that an image is erased at all, in [0, 1].
      area: smallest and largest fraction of the image's area, in (0, 1].
      ratio: smallest and largest ratio of height to width, above 0.

    Returns:
      ``[B, H, W, ch]``, dtype of ``images``; pixels outside the rectangle are
      unchanged.

    Raises:
      InputError: an option out of its range, or not one key per image.
    """
    if not 0 <= probability <= 1:
        raise InputError(f"probability must be in [0, 1], got {probability}")
    if not 0 < area[0] <= area[1] <= 1:
        raise InputError(
            f"area must be two fractions in (0, 1], the smaller first, got {area}"
        )
    if not 0 < ratio[0] <= ratio[1]:
        raise InputError(
            f"ratio must be two numbers above 0, the smaller first, got {ratio}"
        )
    check_keys(keys, images)
    height, width = images.shape[1:3]

    def one(key: Array, image: Array) -> Array:
        key_erase, key_area, key_ratio, key_top, key_left = jax.random.split(key, 5)
        sizes = (_ERASING_ATTEMPTS,)
        pixels = (
            height
            * width
            * jax.random.uniform(key_area, sizes, minval=area[0], maxval=area[1])
        )
        low, high = np.log(ratio)
        root = jnp.exp(
            jax.random.uniform(key_ratio, sizes, minval=low, maxval=high) / 2
        )
        tall = jnp.round(jnp.sqrt(pixels) * root).astype(jnp.int32)
        wide = jnp.round(jnp.sqrt(pixels) / root).astype(jnp.int32)
        fits = (tall < height) & (wide < width)
        first = jnp.argmax(fits)
        tall = tall[first]
        wide = wide[first]
        erase = jax.random.bernoulli(key_erase, probability) & fits[first]
        top = jax.random.randint(key_top, (), 0, jnp.maximum(height - tall, 0) + 1)
        left = jax.random.randint(key_left, (), 0, jnp.maximum(width - wide, 0) + 1)
        row = jnp.arange(height)
        column = jnp.arange(width)
        inside = ((row >= top) & (row < top + tall))[:, None] & (
            (column >= left) & (column < left + wide)
        )[None, :]
        return jnp.where(
            (erase & inside)[:, :, None], jnp.zeros((), image.dtype), image
        )

    return jax.vmap(one)(keys, images)
