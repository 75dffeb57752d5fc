"""Augmentation policies: their operations against Pillow, and their draws against the
published distributions.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from unlearn_jax.data import augment_policies as policies
from unlearn_jax.data import image_ops
from unlearn_jax.types import InputError

POLICIES = [
    policies.trivial_augment,
    policies.rand_augment,
    policies.auto_augment,
    policies.aug_mix,
    policies.random_erasing,
]
NAMES = [
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
]
NAMES += ["sharpness", "posterize", "solarize", "autocontrast", "equalize"]
UNSIGNED = {"identity", "posterize", "solarize", "autocontrast", "equalize", "invert"}


def some_images(number, shape=(32, 32, 3)):
    return np.random.default_rng(0).integers(10, 200, (number, *shape)).astype(np.uint8)


def pillow(image, name, magnitude):
    """torchvision's operation of that name on a Pillow image."""
    matrices = {
        "shear_x": (1, magnitude, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, magnitude, 1, 0),
        "translate_x": (1, 0, -int(magnitude), 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, -int(magnitude)),
    }
    if name in matrices:
        return image.transform(image.size, Image.Transform.AFFINE, matrices[name])
    if name in ("brightness", "color", "contrast", "sharpness"):
        return getattr(ImageEnhance, name.capitalize())(image).enhance(1 + magnitude)
    others = {
        "identity": lambda: image,
        "rotate": lambda: image.rotate(magnitude),
        "posterize": lambda: (
            ImageOps.posterize(image, int(magnitude))
            if magnitude
            else Image.new("RGB", image.size)
        ),
        "solarize": lambda: ImageOps.solarize(image, magnitude),
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "invert": lambda: ImageOps.invert(image),
    }
    return others[name]()


def magnitude_at(name, bin_, num_bins, *, shear, move, degrees, enhance, bits):
    """Bin ``bin_`` of ``num_bins`` from no strength to the given one."""
    share = bin_ / (num_bins - 1)
    if name == "posterize":
        return bits[0] - round(bin_ / ((num_bins - 1) / (bits[0] - bits[1])))
    greatest = {"rotate": degrees, "solarize": -255}
    greatest |= {name: shear for name in ("shear_x", "shear_y")} | {
        n: move for n in ("translate_x", "translate_y")
    }
    greatest |= {
        name: enhance for name in ("brightness", "color", "contrast", "sharpness")
    }
    return (255 if name == "solarize" else 0) + share * greatest.get(name, 0)


STANDARD = {
    "shear": 0.3,
    "move": 150 / 331 * 32,
    "degrees": 30,
    "enhance": 0.9,
    "bits": (8, 4),
}
WIDE = {"shear": 0.99, "move": 32, "degrees": 135, "enhance": 0.99, "bits": (8, 2)}
MIX = {"shear": 0.3, "move": 32 / 3, "degrees": 30, "enhance": 0.9, "bits": (4, 0)}


def listed(names, bins, num_bins, space):
    """``(name, magnitude)`` in the order of a policy's rows, either sign."""
    signs = {name: (1, 1) if name in UNSIGNED else (1, -1) for name in names}
    return [
        (n, s * magnitude_at(n, b, num_bins, **space))
        for n in names
        for b in bins
        for s in signs[n]
    ]


def test_the_rows_of_every_policy_are_pillows_operations_at_the_published_magnitudes():
    drawn = [operation for pair in policies._CIFAR10_POLICY for operation in pair]
    pairs = [
        signed
        for name, _, bin_ in drawn
        for signed in listed([name], [bin_], 10, STANDARD)
    ]
    tables = [
        (policies._trivial_rows(32, 32, 31), listed(NAMES, range(31), 31, WIDE)),
        (policies._rand_rows(32, 32, 9, 31), listed(NAMES, [9], 31, STANDARD)),
        (policies._auto_rows(32, 32), [*pairs, ("identity", 0)]),
        (
            policies._mix_rows(32, 32, 3),
            [*listed(NAMES[1:], range(3), 10, MIX), ("identity", 0)],
        ),
    ]
    rows = jax.tree.map(
        lambda *leaves: np.concatenate(leaves), *[table for table, _ in tables]
    )
    operations = [operation for _, operations in tables for operation in operations]
    assert len(rows.factor) == len(operations) == 868 + 28 + 101 + 79
    image = some_images(1)[0]
    results = jax.jit(jax.vmap(image_ops.apply, in_axes=(None, 0)))(image, rows)
    for (name, magnitude), result in zip(
        operations, np.asarray(results).astype(int), strict=True
    ):
        expected = np.asarray(pillow(Image.fromarray(image), name, magnitude))
        assert np.abs(result - expected).max() <= (name in ("autocontrast",)), (
            name,
            magnitude,
        )


def test_auto_augment_has_the_25_published_pairs():
    assert len(policies._CIFAR10_POLICY) == 25
    assert policies._CIFAR10_POLICY[7] == (
        ("sharpness", 0.3, 9),
        ("brightness", 0.7, 9),
    )
    assert (
        abs(
            sum(chance for pair in policies._CIFAR10_POLICY for _, chance, _ in pair)
            - 26.5
        )
        < 1e-9
    )


@pytest.mark.usefixtures("replay")
@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3)])
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
def test_policies_on_both_types_and_one_image_at_a_time(key, policy, shape):
    images = jnp.asarray(some_images(16, shape))
    keys = jax.random.split(key, 16)

    @jax.jit
    def both(keys, images):
        return policy(keys, images), policy(keys, images.astype(jnp.float32) / 255)

    as_bytes, as_floats = (np.asarray(out) for out in both(keys, images))
    assert (as_bytes.dtype, as_floats.dtype) == (np.uint8, np.float32)
    assert as_bytes.shape == as_floats.shape == images.shape
    np.testing.assert_allclose(as_floats, as_bytes / 255, rtol=2e-7)
    assert (as_bytes != np.asarray(images)).any(axis=(1, 2, 3)).sum() >= 4

    order = np.random.default_rng(1).permutation(16)
    np.testing.assert_array_equal(both(keys[order], images[order])[0], as_bytes[order])
    other = both(keys.at[3].set(jax.random.key(9)), images.at[3].set(0))[0]
    np.testing.assert_array_equal(
        np.delete(other, 3, axis=0), np.delete(as_bytes, 3, axis=0)
    )


@pytest.mark.usefixtures("replay")
def test_scan_and_a_vmap_over_models_change_nothing(key):
    images = jnp.asarray(some_images(6, (8, 8, 1)).reshape(2, 3, 8, 8, 1))
    keys = jax.random.split(key, (2, 3))
    mapped = jax.jit(jax.vmap(policies.trivial_augment))(keys, images)
    scanned = jax.lax.scan(
        lambda carry, x: (carry, policies.trivial_augment(*x)), 0, (keys, images)
    )[1]
    np.testing.assert_array_equal(mapped, scanned)
    np.testing.assert_array_equal(
        mapped[1], policies.trivial_augment(keys[1], images[1])
    )


def chi_square(counts, expected):
    """The statistic of chi-square tests, in standard deviations from its mean."""
    freedom = len(counts) - 1
    return (np.sum((counts - expected) ** 2 / expected) - freedom) / np.sqrt(
        2 * freedom
    )


def draws(monkeypatch, policy, key, number, of_rows):
    """``policy`` on black pixels, each operation chain replaced by a gray level that
    tells which rows were drawn.
    """
    monkeypatch.setattr(
        policies,
        "_run",
        lambda levels, rows, chosen: jnp.full_like(levels, of_rows(chosen)),
    )
    traced_anew = jax.jit(lambda keys, images: policy(keys, images))
    return np.asarray(
        traced_anew(
            jax.random.split(key, number), jnp.zeros((number, 1, 1, 1), jnp.uint8)
        )
    ).ravel()


def test_trivial_augment_draws_each_operation_magnitude_and_sign_equally_often(
    monkeypatch, key
):
    number = 31 * 280
    keys = jax.random.split(key, 3)
    for key_, cells, cell in zip(
        keys,
        (14, 31, 2),
        (lambda r: r[0] // 62, lambda r: r[0] // 2 % 31, lambda r: r[0] % 2),
        strict=True,
    ):
        counts = np.bincount(
            draws(monkeypatch, policies.trivial_augment, key_, number, cell),
            minlength=cells,
        )
        assert len(counts) == cells
        assert abs(chi_square(counts, number / cells)) < 4


def test_rand_augment_draws_two_operations_independently(monkeypatch, key):
    number = 14 * 14 * 40
    drawn = draws(
        monkeypatch,
        policies.rand_augment,
        key,
        number,
        lambda r: r[0] // 2 * 14 + r[1] // 2,
    )
    assert abs(chi_square(np.bincount(drawn, minlength=196), number / 196)) < 4


def test_auto_augment_applies_each_operation_with_its_probability(monkeypatch, key):
    number = 20_000
    for key_, i in zip(jax.random.split(key), (0, 1), strict=True):
        drawn = draws(
            monkeypatch, policies.auto_augment, key_, number, lambda r, i=i: r[i]
        )
        counts = np.bincount(drawn, minlength=101)
        chance = np.array([pair[i][1] for pair in policies._CIFAR10_POLICY])
        for sign in (0, 1):
            of_pair = counts[:100].reshape(25, 2, 2)[:, i, sign]
            assert (
                np.abs(of_pair - number * chance / 50)
                <= 5 * np.sqrt(number * chance / 50)
            ).all()
        assert counts[:100].reshape(25, 2, 2)[:, 1 - i].sum() == 0
        assert abs(counts[100] / number - (1 - chance.mean())) < 5 * np.sqrt(
            0.25 / number
        )


def test_aug_mix_weighs_and_chains_as_published(monkeypatch, key):
    number, skip = 20_000, 78
    keys = jax.random.split(key, 3)
    whole = (
        draws(monkeypatch, policies.aug_mix, keys[0], number, lambda r: 255) / 255
    )  # 1 - m, since w sums to 1
    assert (
        np.abs(np.quantile(whole, np.linspace(0, 1, 21)) - np.linspace(0, 1, 21)).max()
        < 0.02
    )
    coins = (
        draws(
            monkeypatch, policies.aug_mix, keys[1], number, lambda r: 255 * (r[0] % 2)
        )
        / 255
    )
    # E[(1-m)^2] = 1/3; of three fair coins with Dirichlet(1, 1, 1) weights E[(sum w
    # b)^2] = 1/4 + 1/8.
    assert abs(np.mean(coins**2) - (1 / 4 + 1 / 8) / 3) < 5 * np.std(
        coins**2
    ) / np.sqrt(number)
    lengths = (
        draws(
            monkeypatch,
            policies.aug_mix,
            keys[2],
            number,
            lambda r: 85 * jnp.sum(r != skip),
        )
        / 255
    )
    assert abs(np.mean(lengths) - 2 / 3 / 2) < 5 * np.std(lengths) / np.sqrt(number)


def test_aug_mix_keeps_a_share_of_the_image(monkeypatch, key):
    monkeypatch.setattr(
        policies, "_run", lambda levels, rows, chosen: jnp.full_like(levels, 100)
    )
    images = jnp.full((200, 1, 2, 1), 100, jnp.uint8).at[:, :, 1].set(200)
    mixed = np.asarray(
        jax.jit(lambda keys, x: policies.aug_mix(keys, x))(
            jax.random.split(key, 200), images
        )
    )
    assert (mixed[:, 0, 0] == 100).all()
    assert len(np.unique(mixed[:, 0, 1])) > 60
    assert ((mixed >= 100) & (mixed <= 200)).all()


def erased_boxes(key, number, shape, **options):
    """Heights and widths of what random erasing set to 0 in images of ones; each is
    checked to be one rectangle.
    """
    erase = jax.jit(
        lambda keys, images: policies.random_erasing(keys, images, **options)
    )
    erased = (
        np.asarray(erase(jax.random.split(key, number), jnp.ones((number, *shape))))
        == 0
    )
    rows, columns = erased.any(axis=(2, 3)), erased.any(axis=(1, 3))
    np.testing.assert_array_equal(
        erased,
        np.broadcast_to((rows[:, :, None] & columns[:, None])[..., None], erased.shape),
    )
    for side in (rows, columns):
        assert (
            np.abs(np.diff(side.astype(int), axis=1, prepend=0, append=0)).sum(axis=1)
            <= 2
        ).all()
    return rows.sum(axis=1), columns.sum(axis=1), rows, columns


def published_boxes(rng, number, height, width):
    """Ten attempts per image, as published, one image at a time."""
    boxes = []
    for _ in range(number):
        for _ in range(10):
            area, ratio = (
                rng.uniform(0.02, 0.33) * height * width,
                np.exp(rng.uniform(np.log(0.3), np.log(3.3))),
            )
            tall, wide = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
            if tall < height and wide < width:
                boxes.append((tall, wide))
                break
    return np.array(boxes).T


def test_random_erasing_draws_the_published_rectangles(key):
    number = 6000
    tall, wide, rows, _ = erased_boxes(key, number, (32, 32, 1), probability=1.0)
    assert (tall > 0).mean() == 1
    area = tall * wide / 1024
    assert area.min() >= 0.02 - 0.01
    assert area.max() <= 0.33 + 0.03
    expected_tall, expected_wide = published_boxes(
        np.random.default_rng(0), number, 32, 32
    )
    for ours, theirs in (
        (tall, expected_tall),
        (wide, expected_wide),
        (tall * wide, expected_tall * expected_wide),
    ):
        assert abs(ours.mean() - theirs.mean()) < 4 * np.sqrt(2 / number) * theirs.std()
        steps = np.arange(ours.max())
        ranks = [
            np.searchsorted(np.sort(values), steps) / number
            for values in (ours, theirs)
        ]
        assert np.abs(ranks[0] - ranks[1]).max() < 1.95 * np.sqrt(
            2 / number
        )  # Kolmogorov-Smirnov at 0.001
    top = rows.argmax(axis=1)[tall == 10]
    assert abs(chi_square(np.bincount(top, minlength=23), len(top) / 23)) < 4


def test_random_erasing_leaves_the_rest_and_half_of_the_images_alone(key):
    number = 1000
    tall, _, _, _ = erased_boxes(key, number, (8, 8, 3))
    assert abs((tall > 0).mean() - 0.5) < 5 * np.sqrt(0.25 / number)
    keys = jax.random.split(jax.random.fold_in(key, 1), 4)
    images = some_images(4)
    never = jax.jit(lambda keys, x: policies.random_erasing(keys, x, probability=0.0))
    np.testing.assert_array_equal(never(keys, jnp.asarray(images)), images)


@pytest.mark.parametrize(
    ("policy", "options", "message"),
    [
        (policies.trivial_augment, {"num_bins": 1}, "num_bins must be at least 2"),
        (
            policies.rand_augment,
            {"magnitude": 31},
            r"magnitude must be a bin in 0\.\.30",
        ),
        (policies.rand_augment, {"num_ops": 0}, "num_ops must be a positive integer"),
        (policies.rand_augment, {"num_ops": 1.5}, "num_ops must be a positive integer"),
        (policies.rand_augment, {"magnitude": 2.5}, "magnitude must be an integer"),
        (policies.aug_mix, {"severity": 2.5}, "severity must be a positive integer"),
        (policies.aug_mix, {"severity": 11}, r"severity must be in 1\.\.10"),
        (policies.random_erasing, {"probability": 1.5}, "probability must be in"),
        (policies.random_erasing, {"area": (0.5, 0.2)}, "area must be two fractions"),
        (policies.random_erasing, {"ratio": (0.0, 2.0)}, "ratio must be two numbers"),
    ],
)
def test_unusable_hyperparameters_are_refused(key, policy, options, message):
    with pytest.raises(InputError, match=message):
        policy(jax.random.split(key, 2), jnp.zeros((2, 8, 8, 1)), **options)


@pytest.mark.parametrize("policy", POLICIES[:4], ids=lambda policy: policy.__name__)
def test_wide_integers_are_refused(key, policy):
    """Their gray levels would count as far above white."""
    with pytest.raises(InputError, match=r"uint8 or floating in .*, got int32"):
        policy(jax.random.split(key, 2), jnp.full((2, 8, 8, 1), 128))


@pytest.mark.parametrize("policy", POLICIES[:4], ids=lambda policy: policy.__name__)
def test_two_channels_are_refused(key, policy):
    with pytest.raises(InputError, match="1 or 3 channels"):
        policy(jax.random.split(key, 2), jnp.zeros((2, 8, 8, 2)))
