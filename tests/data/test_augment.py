"""Crop and flip against a NumPy definition that enumerates every window."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax.data import augment
from unlearn_jax.types import InputError

crop_flip = jax.jit(
    augment.crop_flip, static_argnames=("padding", "flip")
)  # quicker than op by op; see the jit test


def windows(image, padding):
    """Every crop of ``image`` [H, W, ch] after zero padding, by slicing: {(top, left):
    window}.
    """
    height, width, _ = image.shape
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    corners = range(2 * padding + 1)
    return {
        (i, j): padded[i : i + height, j : j + width] for i in corners for j in corners
    }


def some_images(number, height=5, width=6, channels=3, dtype=np.uint8):
    images = (
        np.random.default_rng(0)
        .integers(1, 256, (number, height, width, channels))
        .astype(np.uint8)
    )
    return images if dtype == np.uint8 else (images / 255).astype(np.float32)


def test_every_window_of_the_padded_image_is_equally_likely(key):
    image = some_images(1)[0]
    number = 3600
    crop_one = jax.jit(
        jax.vmap(lambda k: augment.random_crop(k, jnp.asarray(image), padding=1))
    )
    crops = crop_one(jax.random.split(key, number))
    crops = np.asarray(crops)
    counts = [
        int((crops == window).all(axis=(1, 2, 3)).sum())
        for window in windows(image, padding=1).values()
    ]
    assert sum(counts) == number
    assert np.abs(np.array(counts) - number / 9).max() < 5 * np.sqrt(number / 9)


def test_a_flip_is_the_mirror_image_half_of_the_time(key):
    image = some_images(1)[0]
    number = 1000
    flip_one = jax.jit(jax.vmap(lambda k: augment.random_flip(k, jnp.asarray(image))))
    flipped = np.asarray(flip_one(jax.random.split(key, number)))
    mirrored = (flipped == image[:, ::-1]).all(axis=(1, 2, 3))
    kept = (flipped == image).all(axis=(1, 2, 3))
    assert (mirrored ^ kept).all()
    assert abs(mirrored.mean() - 0.5) < 5 * np.sqrt(0.25 / number)


@pytest.mark.usefixtures("replay")
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("flip", [True, False])
def test_crop_flip_is_a_crop_then_a_flip(key, dtype, flip):
    images = some_images(32, dtype=dtype)
    keys = jax.random.split(key, 32)
    out = crop_flip(keys, jnp.asarray(images), padding=2, flip=flip)
    assert out.dtype == dtype

    @jax.jit
    def in_two_steps(key, image):
        key_crop, key_flip = jax.random.split(key)
        cropped = augment.random_crop(key_crop, image, padding=2)
        return cropped, augment.random_flip(key_flip, cropped)

    for i in range(32):
        cropped, flipped = in_two_steps(keys[i], jnp.asarray(images[i]))
        assert (
            sum(
                (np.asarray(cropped) == window).all()
                for window in windows(images[i], 2).values()
            )
            == 1
        )
        np.testing.assert_array_equal(out[i], flipped if flip else cropped)


@pytest.mark.usefixtures("replay")
def test_the_same_draw_moves_the_same_pixels_of_either_type(key):
    images = some_images(8)
    keys = jax.random.split(key, 8)
    as_bytes = crop_flip(keys, jnp.asarray(images))
    as_floats = crop_flip(keys, jnp.asarray(images, jnp.float32))
    np.testing.assert_array_equal(np.asarray(as_bytes, np.float32), as_floats)


@pytest.mark.usefixtures("replay")
def test_each_image_depends_on_its_own_key_only(key):
    images = jnp.asarray(some_images(8))
    keys = jax.random.split(key, 8)
    whole = crop_flip(keys, images)
    order = jnp.array([5, 2, 7])
    np.testing.assert_array_equal(crop_flip(keys[order], images[order]), whole[order])
    assert (np.asarray(crop_flip(keys[::-1], images)) != np.asarray(whole)).any()


@pytest.mark.usefixtures("replay")
def test_jit_scan_and_a_vmap_over_models_change_nothing(key):
    images = jnp.asarray(some_images(6, dtype=np.float32).reshape(2, 3, 5, 6, 3))
    keys = jax.random.split(key, (2, 3))
    one_by_one = np.stack([crop_flip(keys[m], images[m]) for m in range(2)])
    np.testing.assert_array_equal(augment.crop_flip(keys[0], images[0]), one_by_one[0])
    np.testing.assert_array_equal(
        jax.jit(jax.vmap(augment.crop_flip))(keys, images), one_by_one
    )
    scanned = jax.lax.scan(
        lambda carry, x: (carry, augment.crop_flip(*x)), 0, (keys, images)
    )[1]
    np.testing.assert_array_equal(scanned, one_by_one)


@pytest.mark.usefixtures("replay")
def test_named_augmentations(key):
    images = jnp.asarray(some_images(4))
    keys = jax.random.split(key, 4)
    policies = {
        "trivial_augment",
        "rand_augment",
        "auto_augment",
        "aug_mix",
        "random_erasing",
    }
    assert (
        set(augment.AUGMENTATIONS) == {"none", "crop", "crop_flip", "nudge"} | policies
    )
    expected = {
        "none": images,
        "crop": crop_flip(keys, images, flip=False),
        "crop_flip": crop_flip(keys, images),
        "nudge": crop_flip(keys, images, padding=1, flip=False),
    }
    for name, result in expected.items():
        np.testing.assert_array_equal(
            jax.jit(augment.AUGMENTATIONS[name])(keys, images), result
        )


def test_a_name_is_one_function():
    assert augment.augmentation("none") is None
    for name in set(augment.AUGMENTATIONS) - {"none"}:
        assert augment.augmentation(name) is augment.AUGMENTATIONS[name]
    joined = augment.augmentation("crop_flip+random_erasing")
    assert joined is augment.augmentation("crop_flip+random_erasing")
    assert joined is not augment.augmentation("random_erasing+crop_flip")
    assert joined.__name__ == "crop_flip+random_erasing"


@pytest.mark.usefixtures("replay")
def test_joined_parts_run_in_order_with_keys_of_their_own(key):
    images = jnp.asarray(some_images(16, height=8, width=8, dtype=np.float32))
    keys = jax.random.split(key, 16)
    joined = jax.jit(augment.augmentation("crop_flip+random_erasing"))(keys, images)
    first, second = jax.vmap(jax.random.split, out_axes=1)(keys)
    cropped = crop_flip(first, images)
    np.testing.assert_array_equal(
        joined, jax.jit(augment.random_erasing)(second, cropped)
    )
    assert (np.asarray(joined) != np.asarray(cropped)).any()


@pytest.mark.parametrize(
    "name", ["mixup", "crop+cutmix", "crop_flip+none", "crop++aug_mix", ""]
)
def test_unknown_names_are_refused(name):
    with pytest.raises(
        InputError,
        match=r"unknown augmentation .* choose none, or join with \+ some of crop, ",
    ):
        augment.augmentation(name)


@pytest.mark.usefixtures("replay")
def test_padding_at_its_limits(key):
    images = jnp.asarray(some_images(3))
    keys = jax.random.split(key, 3)
    np.testing.assert_array_equal(
        crop_flip(keys, images, padding=0, flip=False), images
    )
    far = augment.crop(
        keys, images, padding=40
    )  # far larger than the image: mostly zeros, never a wrong pixel
    assert set(np.unique(far)) <= {0, *np.unique(images).tolist()}
    with pytest.raises(ValueError, match="padding must be an integer, 0 or more"):
        augment.crop_flip(keys, images, padding=-1)
    with pytest.raises(ValueError, match="padding must be an integer, 0 or more"):
        augment.random_crop(key, images[0], padding=1.5)
