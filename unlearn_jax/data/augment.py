"""Augmentation as array code, by name: random crops, flips and policies.

A name is one part of :data:`AUGMENTATIONS`, or several parts joined by ``+`` that are
applied from left to right; :func:`augmentation` converts a name to a function. The
study of augmentation in unlearning (arXiv 2508.18502) uses names such as
``crop_flip+trivial_augment``. For digits use ``crop+trivial_augment``, because a flip
changes their meaning.

Every function takes typed keys (``jax.random.key``) and is pure, so it runs inside
``jit``, ``lax.scan`` and a ``vmap`` over models. Image ``i`` of a batch depends on key
``i`` alone, never on other images or on its position. Images keep their dtype: the same
draw moves the same pixels in uint8 and in float32.

Crop and flip both determine the row and column that a pixel comes from, so
:func:`crop_flip` applies them with a single gather. Inside ``lax.scan`` on CPU that is
about ten times as fast as a ``vmap`` of ``lax.dynamic_slice``, which XLA expands into a
loop over the batch.
"""

from collections.abc import Callable
from functools import lru_cache, partial

import jax
import jax.numpy as jnp

from unlearn_jax.checks import check_counts
from unlearn_jax.data.augment_policies import (
    aug_mix,
    auto_augment,
    check_keys,
    rand_augment,
    random_erasing,
    trivial_augment,
)
from unlearn_jax.types import Array, InputError

Augmentation = Callable[[Array, Array], Array]
"""``(keys [B], images [B, H, W, ch]) -> images [B, H, W, ch]`` of the same dtype."""


def _draw_offset(key: Array, padding: int) -> Array:
    """Draw the crop's first row and column, ``[2]`` int32 in -padding..padding."""
    return jax.random.randint(key, (2,), -padding, padding + 1)


def _window(image: Array, offset: Array, mirrored: Array | bool) -> Array:
    """Return the window at ``offset``, zero outside the image, mirrored on request."""
    height, width, _ = image.shape
    rows = jnp.arange(height) + offset[0]
    columns = jnp.arange(width)
    columns = jnp.where(mirrored, width - 1 - columns, columns) + offset[1]
    inside = ((rows >= 0) & (rows < height))[:, None] & (
        (columns >= 0) & (columns < width)
    )[None, :]
    moved = image[
        jnp.clip(rows, 0, height - 1)[:, None], jnp.clip(columns, 0, width - 1)[None, :]
    ]
    return jnp.where(inside[:, :, None], moved, jnp.zeros((), image.dtype))


def random_crop(key: Array, image: Array, *, padding: int = 4) -> Array:
    """Pad one image with zeros and crop a random window of the original size.

    This is the crop of the reference recipes (``RandomCrop(H, padding=4)``): each of
    the ``(2 * padding + 1) ** 2`` windows is equally likely.

    Args:
      key: one typed key.
      image: ``[H, W, ch]``, any dtype.
      padding: zeros added on each side, in pixels, at least 0; 0 returns the image
        unchanged.

    Returns:
      ``[H, W, ch]``, dtype of ``image``.

    Raises:
      InputError: ``padding`` is negative or not an integer.

    >>> image = jnp.arange(9, dtype=jnp.uint8).reshape(3, 3, 1)
    >>> random_crop(jax.random.key(0), image, padding=0)[:, :, 0].tolist()
    [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    """
    check_counts(0, padding=padding)
    return _window(image, _draw_offset(key, padding), mirrored=False)


def random_flip(key: Array, image: Array) -> Array:
    """Mirror one image left to right with probability one half.

    Args:
      key: one typed key.
      image: ``[H, W, ch]``, any dtype.

    Returns:
      ``[H, W, ch]``, dtype of ``image``.
    """
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def crop_flip(
    keys: Array, images: Array, *, padding: int = 4, flip: bool = True
) -> Array:
    """Crop, then flip each image of a batch at random, with one key per image.

    With ``key_crop, key_flip = jax.random.split(key)`` the result for one image equals
    ``random_flip(key_flip, random_crop(key_crop, image, padding=padding))`` exactly
    (without the flip when ``flip`` is False). Pixels that the crop uncovers are 0.

    Args:
      keys: ``[B]`` typed keys, one per image.
      images: ``[B, H, W, ch]``, float32 in [0, 1] or uint8; any dtype works.
      padding: zeros added on each side, in pixels, at least 0.
      flip: whether to mirror at random as well.

    Returns:
      ``[B, H, W, ch]``, dtype of ``images``.

    Raises:
      InputError: ``padding`` is negative or not an integer, or there is not one key per
        image.
    """
    check_counts(0, padding=padding)
    check_keys(keys, images)

    def one(key: Array, image: Array) -> Array:
        key_crop, key_flip = jax.random.split(key)
        mirrored = jax.random.bernoulli(key_flip) if flip else False
        return _window(image, _draw_offset(key_crop, padding), mirrored)

    return jax.vmap(one)(keys, images)


def crop(keys: Array, images: Array, *, padding: int = 4) -> Array:
    """Crop as :func:`crop_flip` without the flip, for images such as digits."""
    return crop_flip(keys, images, padding=padding, flip=False)


def identity(keys: Array, images: Array) -> Array:
    """Return the images unchanged; ``keys`` is not read."""
    del keys
    return images


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": identity,
    "crop": crop,
    "crop_flip": crop_flip,
    "nudge": partial(crop, padding=1),
    "trivial_augment": trivial_augment,
    "rand_augment": rand_augment,
    "auto_augment": auto_augment,
    "aug_mix": aug_mix,
    "random_erasing": random_erasing,
}
"""Parts of the names in configurations, by name.

``crop`` and ``crop_flip`` pad by 4 pixels, for images of about 32x32; ``nudge`` pads by
1, for 8x8 digits.
"""


@lru_cache(maxsize=256)
def augmentation(name: str) -> Augmentation | None:
    """Return the augmentation that a configuration names.

    The same name always gives the same function object, so compiled programs are
    reused. A single part receives the keys unchanged. With several parts, each image's
    key is split into one key per part, ``jax.random.split(key, number of parts)``.

    Args:
      name: one part of :data:`AUGMENTATIONS`, or several joined by ``+``, applied from
        left to right.

    Returns:
      The augmentation, or None for ``none``, which cannot be combined.

    Raises:
      InputError: a part is unknown, or ``none`` is one of several.

    >>> name = "crop_flip+random_erasing"
    >>> augmentation(name) is augmentation(name)
    True
    >>> augmentation("crop+cutmix")
    Traceback (most recent call last):
      ...
    unlearn_jax.types.InputError: unknown augmentation 'cutmix'; choose none, or join
    with + some of crop, ...
    """
    parts = name.split("+")
    unknown = [
        part
        for part in parts
        if part not in AUGMENTATIONS or (part == "none" and len(parts) > 1)
    ]
    if unknown:
        known = ", ".join(part for part in AUGMENTATIONS if part != "none")
        raise InputError(
            f"unknown augmentation {unknown[0]!r}; choose none, or join with + some of"
            f" {known}"
        )
    if name == "none":
        return None
    return (
        AUGMENTATIONS[name]
        if len(parts) == 1
        else _in_sequence(name, [AUGMENTATIONS[part] for part in parts])
    )


def _in_sequence(name: str, functions: list[Augmentation]) -> Augmentation:
    def augment(keys: Array, images: Array) -> Array:
        check_keys(keys, images)
        split = jax.vmap(lambda key: jax.random.split(key, len(functions)))(keys)
        for i, function in enumerate(functions):
            images = function(split[:, i], images)
        return images

    augment.__name__ = augment.__qualname__ = name
    return augment
