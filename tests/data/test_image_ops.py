"""Image operations against Pillow, level by level."""

import math
import platform

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from unlearn_jax.data import image_ops as ops
from unlearn_jax.types import InputError

SHAPES = [(32, 32, 3), (8, 8, 1), (7, 10, 3), (2, 1, 1)]
# Compilers for other processors may fuse Pillow's product and sum into one rounding.
BLEND_TOLERANCE = 0 if platform.machine() in ("x86_64", "AMD64") else 1
FACTORS = [0.01, 0.34, 0.505, 0.9, 1.0, 1.033, 1.3, 1.66, 1.99, 3.7]


def some_image(shape, seed=0):
    """Noise with a blob of the brightest level, so that channels differ in range and
    equalize must clip.
    """
    rng = np.random.default_rng(seed)
    low, high = np.sort(rng.integers(0, 257, (2, 1, 1, shape[2])), axis=0)
    image = rng.integers(low, high + 1, shape).clip(0, 255)
    if seed % 2:
        image[: shape[0] * 5 // 8] = image.max()
    return image.astype(np.uint8)


def to_pillow(image):
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def affine(*matrix):
    return lambda p: p.transform(p.size, Image.Transform.AFFINE, matrix)


def enhance(kind, factor):
    return lambda p: kind(p).enhance(factor)


def cases(height, width):
    """``(name, operation, Pillow's function, largest difference allowed)``."""
    for slope in (-0.99, -0.3, 0.033, 0.66):
        yield f"shear_x {slope}", ops.shear_x(slope), affine(1, slope, 0, 0, 1, 0), 0
        yield f"shear_y {slope}", ops.shear_y(slope), affine(1, 0, 0, slope, 1, 0), 0
    for right, down in ((3, 0), (-2, 1), (0, -40)):
        yield (
            f"translate {right} {down}",
            ops.translate(right, down),
            affine(1, 0, -right, 0, 1, -down),
            0,
        )
    for degrees in (-135, -90, -4.5, 9, 30, 90, 121.5, 180):
        yield (
            f"rotate {degrees}",
            ops.rotate(degrees, height, width),
            lambda p, d=degrees: p.rotate(d),
            0,
        )
    for factor in FACTORS:
        blends = {
            ops.brightness: ImageEnhance.Brightness,
            ops.color: ImageEnhance.Color,
            ops.contrast: ImageEnhance.Contrast,
            ops.sharpness: ImageEnhance.Sharpness,
        }
        for build, kind in blends.items():
            yield (
                f"{build.__name__} {factor}",
                build(factor),
                enhance(kind, factor),
                BLEND_TOLERANCE,
            )
    for bits in range(1, 9):
        yield (
            f"posterize {bits}",
            ops.posterize(bits),
            lambda p, b=bits: ImageOps.posterize(p, b),
            0,
        )
    for threshold in (0, 8.5, 127, 254.5, 255, 256):
        yield (
            f"solarize {threshold}",
            ops.solarize(threshold),
            lambda p, t=threshold: ImageOps.solarize(p, t),
            0,
        )
    yield "invert", ops.invert(), ImageOps.invert, 0
    yield "equalize", ops.equalize(), ImageOps.equalize, 0
    yield "autocontrast", ops.autocontrast(), ImageOps.autocontrast, 1
    yield "identity", ops.IDENTITY, lambda p: p, 0


def stack(operations):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *operations)


jitted = jax.jit(ops.apply)
apply_all = jax.jit(jax.vmap(ops.apply, in_axes=(None, 0)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(4))
def test_every_operation_is_pillows(shape, seed):
    image = some_image(shape, seed)
    listed = list(cases(*shape[:2]))
    results = np.asarray(
        apply_all(image, stack([operation for _, operation, _, _ in listed]))
    )
    assert results.dtype == np.uint8
    for (name, _, function, tolerance), result in zip(listed, results, strict=True):
        expected = np.asarray(function(to_pillow(image))).reshape(shape)
        assert np.abs(result.astype(int) - expected.astype(int)).max() <= tolerance, (
            name
        )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 4, width=32), st.integers(0, 3))
def test_any_factor_blends_as_pillow_does(seed, factor, which):
    image = some_image((8, 9, 3), seed)
    build = [ops.brightness, ops.color, ops.contrast, ops.sharpness][which]
    kind = [
        ImageEnhance.Brightness,
        ImageEnhance.Color,
        ImageEnhance.Contrast,
        ImageEnhance.Sharpness,
    ][which]
    result = np.asarray(jitted(image, build(factor))).astype(int)
    assert (
        np.abs(result - np.asarray(kind(to_pillow(image)).enhance(factor))).max()
        <= BLEND_TOLERANCE
    )


def test_a_quarter_turn_of_a_square_only_moves_pixels():
    image = some_image((8, 8, 1), 2)
    for turns in range(-3, 4):
        result = jitted(image, ops.rotate(90 * turns, 8, 8))
        np.testing.assert_array_equal(result, np.rot90(image, turns))


def test_autocontrast_of_every_pair_of_extremes():
    low, high = np.triu_indices(256, 1)
    levels = np.clip(np.arange(256), low[:, None], high[:, None])
    images = jnp.asarray(levels.reshape(-1, 16, 16, 1), jnp.uint8)
    stretch = jax.jit(jax.vmap(lambda image: ops.apply(image, ops.autocontrast())))
    result = np.asarray(stretch(images)).reshape(-1, 256).astype(int)
    np.testing.assert_array_equal(
        result, 255 * (levels - low[:, None]) // (high - low)[:, None]
    )
    scale = 255.0 / (high - low)  # Pillow's arithmetic
    pillow = (
        (levels * scale[:, None] + (-low * scale)[:, None]).astype(int).clip(0, 255)
    )
    between = (np.arange(256) >= low[:, None]) & (np.arange(256) <= high[:, None])
    assert set(np.unique((result - pillow)[between])) == {0, 1}
    assert (result - pillow)[between].sum() == 12_094
    assert between.sum() == 2_828_800


def test_operations_of_no_strength_change_nothing():
    neutral = [
        ops.shear_x(0.0),
        ops.shear_y(0.0),
        ops.translate(0, 0),
        ops.rotate(0.0, 32, 32),
        ops.brightness(1.0),
        ops.color(1.0),
        ops.contrast(1.0),
        ops.sharpness(1.0),
        ops.posterize(8),
        ops.solarize(256),
    ]
    image = some_image((32, 32, 3), 0)
    results = np.asarray(apply_all(image, stack(neutral)))
    assert (results == image[None]).all(axis=(1, 2, 3)).tolist() == [True] * len(
        neutral
    )


@pytest.mark.parametrize("tone", [ops.autocontrast(), ops.equalize()])
def test_flat_images_are_not_stretched(tone):
    flat = np.full((32, 32, 3), [0, 77, 255], np.uint8)
    np.testing.assert_array_equal(jitted(flat, tone), flat)


def test_color_leaves_one_channel_alone():
    image = some_image((8, 8, 1), 1)
    np.testing.assert_array_equal(jitted(image, ops.color(0.01)), image)


def test_floats_are_rounded_to_levels_and_come_back_as_levels():
    image = some_image((8, 8, 1), 0)
    operations = [operation for _, operation, _, _ in cases(8, 8)]
    as_bytes = np.asarray(apply_all(image, stack(operations)))
    as_floats = np.asarray(
        apply_all(jnp.asarray(image, jnp.float32) / 255, stack(operations))
    )
    assert as_floats.dtype == np.float32
    np.testing.assert_allclose(as_floats, as_bytes / 255, rtol=2e-7)
    odd = jnp.asarray(image / 255 + 0.4 / 255, jnp.float32)
    np.testing.assert_allclose(jitted(odd, ops.IDENTITY), image / 255, rtol=2e-7)


def test_sharpness_keeps_the_rim():
    image = some_image((7, 10, 3), 0)
    result = np.asarray(jitted(image, ops.sharpness(0.0)))
    assert (result[1:-1, 1:-1] != image[1:-1, 1:-1]).any()
    rim = np.ones((7, 10), bool)
    rim[1:-1, 1:-1] = False
    np.testing.assert_array_equal(result[rim], image[rim])


def test_matrices_are_rounded_as_pillow_does():
    matrix = ops.rotate(30, 32, 32).matrix
    assert matrix.dtype == np.int32
    cos, sin = math.cos(-math.radians(30)), math.sin(-math.radians(30))
    expected = [cos, sin, -16 * cos - 16 * sin + 16 + cos / 2 + sin / 2]
    np.testing.assert_allclose(matrix[:3] / 65536, expected, atol=0.5001 / 65536)


def test_images_pillow_has_no_mode_for_are_refused():
    with pytest.raises(InputError, match="1 or 3 channels"):
        ops.apply(jnp.zeros((4, 4, 2)), ops.invert())
