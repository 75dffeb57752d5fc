"""Loaders against what was written to disk, the check of data sets, and every refusal
by its message.
"""

import hashlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from support.refusals import refuses

from unlearn_jax.data import sources
from unlearn_jax.types import Dataset


def some_images(number=6, shape=(4, 5, 3), seed=0):
    return (
        np.random.default_rng(seed).integers(0, 256, (number, *shape)).astype(np.uint8)
    )


LABELS = np.array([0, 1, 2, 0, 1, 2])


def test_importing_the_package_is_light():
    heavy = ["tensorflow", "torch", "tensorflow_datasets", "sklearn", "PIL"]
    code = (
        f"import sys, unlearn_jax.data; print([m for m in {heavy} if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"


def test_digits_are_scikit_learns_images_each_used_once():
    from sklearn import datasets

    splits = sources.load_digits(num_train=900, seed=0)
    assert (splits.name, splits.num_classes, splits.class_names[3]) == (
        "digits",
        10,
        "3",
    )
    assert splits.train.images.shape == (900, 8, 8, 1)
    assert splits.test.images.shape == (897, 8, 8, 1)
    assert splits.train.images.dtype == np.uint8
    assert splits.train.labels.dtype == np.int32
    bunch = datasets.load_digits()
    ours = np.concatenate([splits.train.images, splits.test.images]).reshape(1797, 64)
    rows = np.column_stack(
        [
            np.rint(ours / 255 * 16),
            np.concatenate([splits.train.labels, splits.test.labels]),
        ]
    )
    theirs = np.column_stack([bunch.data, bunch.target])
    np.testing.assert_array_equal(
        rows[np.lexsort(rows.T)], theirs[np.lexsort(theirs.T)]
    )
    assert ours.max() == 255


def test_digits_are_seeded():
    first = sources.load_digits(num_train=100, seed=1)
    assert first.digest == sources.load_digits(num_train=100, seed=1).digest
    assert first.digest != sources.load_digits(num_train=100, seed=2).digest
    for num_train in (0, 1797):
        with refuses(r"num_train must be in 1\.\.1796"):
            sources.load_digits(num_train=num_train)


def test_digest_covers_values_types_and_shapes_but_not_names():
    images = some_images()

    def digest(train=images, labels=LABELS, **options):
        return sources.load_arrays(train, labels, images, LABELS, **options).digest

    sha = hashlib.sha256()
    for array in (images, LABELS.astype(np.int32)) * 2:
        sha.update(f"{array.shape}{array.dtype.str}".encode() + array.tobytes())
    assert digest() == sha.hexdigest()
    assert digest(name="other") == digest()
    changed = images.copy()
    changed[0, 0, 0, 0] ^= 1
    assert digest(train=changed) != digest()
    assert digest(labels=LABELS[::-1]) != digest()


def test_arrays_get_a_channel_types_and_names():
    gray = some_images(shape=(4, 5))
    splits = sources.load_arrays(
        gray / 255, LABELS[:, None].astype(np.uint8), jnp.asarray(gray) / 255, LABELS
    )
    assert splits.train.images.shape == (6, 4, 5, 1)
    assert splits.train.images.dtype == splits.test.images.dtype == np.float32
    assert splits.train.labels.dtype == np.int32
    assert splits.num_classes == 3
    assert splits.class_names == ("0", "1", "2")
    named = sources.load_arrays(
        gray, LABELS, gray, LABELS, class_names=["a", "b", "c", "d"]
    )
    assert named.num_classes == 4


@pytest.mark.parametrize(
    ("images", "labels", "fragment"),
    [
        (
            some_images(shape=(4,)),
            LABELS,
            r"must have shape \[N, H, W, channels\], got \(6, 4\)",
        ),
        (
            some_images().astype(np.int32),
            LABELS,
            "must be uint8 in 0..255 or floating in .0, 1., got int32",
        ),
        (
            some_images().astype(np.float32),
            LABELS,
            r"must lie in \[0, 1\], got 0 to 255; .*divide by 255",
        ),
        (
            some_images() / 255 - 0.5,
            LABELS,
            r"must lie in \[0, 1\], got -0.5 to 0.5; undo any normalization",
        ),
        (np.full((6, 4, 5, 3), np.nan), LABELS, "contain NaN or infinity"),
        (np.full((6, 4, 5, 3), np.inf), LABELS, "contain NaN or infinity"),
        (
            some_images(),
            np.eye(3)[LABELS],
            r"labels must have shape \[N\] = \(6,\).*got \(6, 3\)",
        ),
        (
            some_images(),
            LABELS[:5],
            r"labels must have shape \[N\] = \(6,\).*got \(5,\)",
        ),
        (some_images(), LABELS.astype(float), "labels must be integers, got float64"),
        (some_images(), LABELS > 0, "labels must be integers, got bool"),
        (some_images(), LABELS + 1, r"must lie in 0\.\.2 for 3 classes, got 1 to 3"),
        (some_images(), LABELS - 1, r"must lie in 0\.\.2 for 3 classes, got -1 to 1"),
        (some_images(0), LABELS[:0], "there are no images"),
    ],
)
def test_validate_refusals(images, labels, fragment):
    with refuses("^toy set: .*" + fragment) as caught:
        sources.validate(Dataset(images, labels), 3, "toy set")
    assert "\n" not in str(caught.value)
    with refuses("training set: "):
        sources.load_arrays(images, labels, some_images(), LABELS, num_classes=3)


def test_validate_needs_two_classes_and_keeps_bytes_as_they_are():
    with refuses("at least 2 classes, got 1"):
        sources.validate(Dataset(some_images(), LABELS * 0), 1)
    images = some_images()
    assert sources.validate(Dataset(images, LABELS), 3).images is images
    with refuses(
        r"0\.\.2 for 3 classes, got 0 to"
    ):  # does not wrap around when it becomes int32
        sources.validate(Dataset(images, np.array([0, 0, 0, 0, 0, 2**32], np.int64)), 3)


def test_train_and_test_must_match():
    with refuses("differ in shape"):
        sources.load_arrays(some_images(), LABELS, some_images(shape=(5, 4, 3)), LABELS)
    with refuses("differ in type: uint8 and float32"):
        sources.load_arrays(some_images(), LABELS, some_images() / 255, LABELS)
    with refuses("4 class names given for 3 classes"):
        sources.load_arrays(
            some_images(),
            LABELS,
            some_images(),
            LABELS,
            num_classes=3,
            class_names="abcd",
        )


@pytest.mark.parametrize(
    "names",
    [
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("x_train", "y_train", "x_test", "y_test"),
    ],
)
def test_npz_round_trip(tmp_path, names):
    arrays = (some_images(), LABELS[:, None], some_images(seed=1), LABELS)
    np.savez(tmp_path / "toy.npz", **dict(zip(names, arrays, strict=True)))
    splits = sources.load_npz(tmp_path / "toy.npz")
    assert splits.name == "toy"
    np.testing.assert_array_equal(splits.train.images, arrays[0])
    np.testing.assert_array_equal(splits.test.images, arrays[2])
    np.testing.assert_array_equal(splits.train.labels, LABELS)


def test_npz_class_names_may_be_bytes(tmp_path):
    names = np.char.encode(["chat", "été", "c"], "utf-8")
    arrays = {"x_train": some_images(), "y_train": LABELS}
    arrays |= {"x_test": some_images(), "y_test": LABELS}
    np.savez(tmp_path / "toy.npz", class_names=names, **arrays)
    assert sources.load_npz(tmp_path / "toy.npz").class_names == ("chat", "été", "c")


def test_npz_refusals(tmp_path):
    path = tmp_path / "toy.npz"
    with refuses("no data file at"):
        sources.load_npz(path)
    np.savez(path, train_images=some_images(), train_labels=LABELS)
    with refuses(
        "missing test_images, test_labels; .*this one holds train_images, train_labels"
    ):
        sources.load_npz(path)
    np.savez(path, x_train=some_images(), y_train=LABELS, x_test=some_images())
    with refuses("missing y_test"):
        sources.load_npz(path)
    path.write_bytes(path.read_bytes()[:200])
    with refuses("cannot read .* as an .npz file"):
        sources.load_npz(path)
    np.save(tmp_path / "plain.npy", LABELS)
    (tmp_path / "plain.npy").rename(path)
    with refuses("as an .npz file of arrays: it is one array without a name; write"):
        sources.load_npz(path)
    path.write_text("text")
    with refuses("as an .npz file of arrays: it is not an .npz file; write"):
        sources.load_npz(path)
    with refuses("is a folder: pass the path of an .npz file in it"):
        sources.load_npz(tmp_path)
    objects = np.array([{}], object)
    np.savez(
        path,
        train_images=objects,
        train_labels=LABELS,
        test_images=objects,
        test_labels=LABELS,
    )
    with refuses("cannot read"):
        sources.load_npz(path)


def write_image(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def test_folder_with_train_and_test(tmp_path):
    images = some_images(8)
    for i, (part, name) in enumerate(
        (p, c) for p in ("train", "test") for c in ("cat", "dog") for _ in "ab"
    ):
        write_image(tmp_path / part / name / f"{i}.png", images[i])
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    with pytest.warns(UserWarning, match="1 files are left out"):
        splits = sources.load_folder(tmp_path)
    assert splits.class_names == ("cat", "dog")
    np.testing.assert_array_equal(splits.train.images, images[:4])
    np.testing.assert_array_equal(splits.test.images, images[4:])
    assert splits.train.labels.tolist() == splits.test.labels.tolist() == [0, 0, 1, 1]


def test_folder_is_split_at_random_and_keeps_gray_images_gray(tmp_path):
    images = some_images(10, shape=(4, 5))
    for i, image in enumerate(images):
        write_image(tmp_path / f"class{i % 2}" / "deeper" / f"{i}.PNG", image)
    splits = sources.load_folder(tmp_path, test_fraction=0.3, seed=1)
    assert splits.train.images.shape == (7, 4, 5, 1)
    assert splits.test.images.shape == (3, 4, 5, 1)
    assert (
        splits.digest == sources.load_folder(tmp_path, test_fraction=0.3, seed=1).digest
    )
    assert (
        splits.digest != sources.load_folder(tmp_path, test_fraction=0.3, seed=2).digest
    )
    seen = np.concatenate([splits.train.images, splits.test.images])[..., 0]
    labels = np.concatenate([splits.train.labels, splits.test.labels])
    found = [
        int(np.flatnonzero((images == image).all(axis=(1, 2)))[0]) for image in seen
    ]
    assert sorted(found) == list(range(10))
    np.testing.assert_array_equal(np.array(found) % 2, labels)


def test_folder_turns_to_rgb_as_soon_as_one_image_has_color(tmp_path):
    gray, color = some_images(1, shape=(4, 5))[0], some_images(1)[0]
    write_image(tmp_path / "a" / "0.png", gray)
    write_image(tmp_path / "b" / "0.png", color)
    splits = sources.load_folder(tmp_path, test_fraction=0.5)
    both = {int(x.labels[0]): x.images[0] for x in (splits.train, splits.test)}
    np.testing.assert_array_equal(both[0], np.repeat(gray[..., None], 3, axis=2))
    np.testing.assert_array_equal(both[1], color)


def test_folder_resizes_on_request_only(tmp_path):
    write_image(tmp_path / "a" / "0.png", some_images(1)[0])
    write_image(tmp_path / "b" / "0.png", some_images(1, shape=(6, 7, 3))[0])
    with refuses(r"differ in size: .*0.png is 4x5, .*0.png is 6x7; pass size="):
        sources.load_folder(tmp_path)
    assert sources.load_folder(tmp_path, size=(3, 8)).train.images.shape == (1, 3, 8, 3)
    with refuses("size must be"):
        sources.load_folder(tmp_path, size=(0, 8))


def test_folder_refusals(tmp_path):
    with refuses("no image folder at"):
        sources.load_folder(tmp_path / "absent")
    with refuses("one folder of images per class, at least 2; found 0"):
        sources.load_folder(tmp_path)
    write_image(tmp_path / "a" / "0.png", some_images(1)[0])
    (tmp_path / "b").mkdir()
    with refuses("class folder .*b holds no image"):
        sources.load_folder(tmp_path)
    write_image(tmp_path / "b" / "0.png", some_images(1)[0])
    for fraction in (0.0, 1.0):
        with refuses("test_fraction must lie strictly between 0 and 1"):
            sources.load_folder(tmp_path, test_fraction=fraction)
    whole = (tmp_path / "b" / "0.png").read_bytes()
    (tmp_path / "b" / "0.png").write_bytes(whole[: len(whole) // 2])
    with refuses("cannot read image .*0.png"):
        sources.load_folder(tmp_path)
    write_image(tmp_path / "b" / "0.png", np.zeros((4, 5), np.uint16))
    with refuses("more than 8 bits per channel"):
        sources.load_folder(tmp_path)


def test_folder_refuses_half_a_pair_and_classes_that_differ(tmp_path):
    for name in ("a", "b"):
        write_image(tmp_path / "train" / name / "0.png", some_images(1)[0])
    with refuses("'train' but not its counterpart"):
        sources.load_folder(tmp_path)
    for name in ("a", "c"):
        write_image(tmp_path / "test" / name / "0.png", some_images(1)[0])
    with refuses("do not have the same classes; only one has 'b'"):
        sources.load_folder(tmp_path)


def test_resplit_draws_disjoint_sets_from_the_pool():
    rows = np.arange(12, dtype=np.uint8)
    images = rows[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    labels = rows % 3
    splits = sources.load_arrays(
        images[:6], labels[:6], images[6:], labels[6:], name="toy"
    )
    drawn = sources.resplit(splits, num_train=7, num_test=3, seed=0)
    ids = np.concatenate([drawn.train.images, drawn.test.images])[:, 0, 0, 0]
    assert (drawn.name, len(drawn.train.labels), len(drawn.test.labels)) == (
        "toy",
        7,
        3,
    )
    assert len(set(ids.tolist())) == 10
    assert (ids[:7] >= 6).any()  # some training samples come from the old test set
    np.testing.assert_array_equal(
        np.concatenate([drawn.train.labels, drawn.test.labels]), ids % 3
    )
    assert (
        drawn.digest == sources.resplit(splits, num_train=7, num_test=3, seed=0).digest
    )
    assert (
        drawn.digest != sources.resplit(splits, num_train=7, num_test=3, seed=1).digest
    )
    with refuses(r"num_train \+ num_test = 13 is more than the 12 samples it has"):
        sources.resplit(splits, num_train=10, num_test=3, seed=0)
    for sizes in ({"num_train": 0, "num_test": 3}, {"num_train": 3, "num_test": 0}):
        with refuses("at least one sample"):
            sources.resplit(splits, seed=0, **sizes)


def test_selected_classes_are_numbered_in_the_order_given():
    rows = np.arange(12, dtype=np.uint8)
    images = rows[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    splits = sources.load_arrays(
        images[:6], rows[:6] % 3, images[6:], rows[6:] % 3, class_names=["a", "b", "c"]
    )
    selected = sources.select_classes(splits, (2, 0))
    assert selected.class_names == ("c", "a")
    assert selected.num_classes == 2
    for part, first in ((selected.train, 0), (selected.test, 6)):
        ids = part.images[:, 0, 0, 0]
        assert ids.tolist() == [i for i in range(first, first + 6) if i % 3 != 1]
        np.testing.assert_array_equal(part.labels, np.where(ids % 3 == 2, 0, 1))
