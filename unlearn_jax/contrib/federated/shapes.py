"""Generated images for segmentation: discs and bars, with one style per client.

A stand-in for scans from several hospitals: all clients have the same task but
different styles. The data is **synthetic**: it only shows the behavior of a method when
clients differ in their inputs.
"""

import colorsys
import dataclasses

import numpy as np

from unlearn_jax.checks import (
    check_counts,
    check_finite,
    check_fractions,
    check_not_negative,
    check_shape,
)
from unlearn_jax.data.splits import check_seed
from unlearn_jax.types import Dataset, InputError

SHAPES = ("background", "disc", "bar")
"""Classes of the pixels."""


@dataclasses.dataclass(frozen=True)
class Style:
    """Style of a client's images.

    Attributes:
      background: RGB in [0, 1].
      foreground: RGB in [0, 1] of both discs and bars, so only the shape distinguishes
        them.
      stripes: amplitude of the background's stripes.
      angle: angle of the stripes, in radians.
      noise: standard deviation of the pixels' Gaussian noise.

    Raises:
      InputError: colors that are not RGB in [0, 1], a negative noise, or numbers that
        are not finite.
    """

    background: tuple[float, float, float]
    foreground: tuple[float, float, float]
    stripes: float = 0.1
    angle: float = 0.0
    noise: float = 0.05

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("background", "foreground"):
            color = getattr(self, name)
            check_shape(name, color, (3,))
            check_fractions(**{name: color})
        check_finite(stripes=self.stripes, angle=self.angle)
        check_not_negative(noise=self.noise)


def draw_styles(num_styles: int, *, seed: int) -> list[Style]:
    """Draw styles whose backgrounds are spread over the hues.

    Shapes are brighter than the background and have another hue.

    Args:
      num_styles: number of styles, at least 1.
      seed: seed of the brightness, the stripes and the noise.

    Returns:
      The styles.

    Raises:
      InputError: fewer than one style.
    """
    check_counts(num_styles=num_styles)
    check_seed(seed)
    rng = np.random.default_rng(seed)
    styles = []
    for i in range(num_styles):
        hue = i / num_styles
        light = rng.uniform(0.5, 0.9)
        style = Style(
            background=colorsys.hsv_to_rgb(hue, 0.7, light - 0.25),
            foreground=colorsys.hsv_to_rgb((hue + 0.4) % 1, 0.7, light),
            stripes=float(rng.uniform(0.05, 0.15)),
            angle=float(rng.uniform(0, np.pi)),
            noise=float(rng.uniform(0.04, 0.1)),
        )
        styles.append(style)
    return styles


def shape_images(
    num_images: int, style: Style, *, size: int = 16, seed: int
) -> Dataset:
    """Draw images with one disc and one bar each, and the class of every pixel.

    The shapes are drawn in random order; the second may cover the first.

    Args:
      num_images: N, at least 1.
      style: style of the images.
      size: side of an image, at least 8 pixels.
      seed: seed of the shapes, positions, sizes, phases of the stripes, and noise.

    Returns:
      Images ``[N, size, size, 3]`` float32 in [0, 1]; labels ``[N, size, size]`` int32,
      see :data:`SHAPES`.

    Raises:
      InputError: no images, or a size below 8.
    """
    check_counts(num_images=num_images, size=size)
    if size < 8:
        raise InputError(f"size must be at least 8, got {size}")
    if not isinstance(style, Style):
        raise InputError(
            f"style must be a Style, such as draw_styles returns, not {style!r}"
        )
    check_seed(seed)
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size].astype(np.float64)
    labels = np.zeros((num_images, size, size), np.int32)
    for label_map in labels:
        for label in rng.permutation(2) + 1:
            radius = rng.uniform(0.18, 0.28) * size
            angle = rng.uniform(0, np.pi)
            down = rows - rng.uniform(radius, size - 1 - radius)
            right = columns - rng.uniform(radius, size - 1 - radius)
            if SHAPES[label] == "bar":  # across the image, about two pixels wide
                away = abs(down * np.cos(angle) - right * np.sin(angle))
                inside = away <= 0.07 * size
            else:
                inside = down**2 + right**2 <= radius**2
            label_map[inside] = label
    waves = (rows * np.sin(style.angle) + columns * np.cos(style.angle)) * (
        8 * np.pi / size
    )
    phases = rng.uniform(0, 2 * np.pi, num_images)[:, None, None]
    ground = (
        np.asarray(style.background) + style.stripes * np.sin(waves + phases)[..., None]
    )
    images = np.where(labels[..., None] > 0, np.asarray(style.foreground), ground)
    images = images + rng.normal(0, style.noise, images.shape)
    return Dataset(np.clip(images, 0, 1).astype(np.float32), labels)
