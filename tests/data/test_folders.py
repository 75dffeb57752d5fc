"""Folders of images as people bring them: hidden entries, spellings, odd pictures."""

import numpy as np
import pytest
from PIL import Image, ImageOps
from support.refusals import refuses

from unlearn_jax import data
from unlearn_jax.data.splits import class_numbers
from unlearn_jax.pipeline import DataConfig, ForgetConfig, RunConfig
from unlearn_jax.pipeline.config.forget_sets import number_classes
from unlearn_jax.pipeline.config.resolve import load_data


def put(path, pixels=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels is None:
        pixels = np.zeros((8, 8), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def classes(root, names="ab", number=3):
    for name in names:
        for i in range(number):
            put(root / name / f"{i}.png")
    return root


def count(splits):
    return len(splits.train.labels) + len(splits.test.labels)


def both(splits):
    """All images, and their labels."""
    images = np.concatenate([splits.train.images, splits.test.images])
    return images, np.concatenate([splits.train.labels, splits.test.labels])


def test_hidden_entries_and_those_of_systems_are_no_images(tmp_path):
    classes(tmp_path)
    put(tmp_path / "a/.ipynb_checkpoints/0-checkpoint.png")
    put(tmp_path / "a/deep/.cache/1.png")
    put(tmp_path / "a/._0.png")
    put(tmp_path / "a/__MACOSX/0.png")
    put(tmp_path / "__MACOSX/a/0.png")
    put(tmp_path / "@eaDir/0.png")
    (tmp_path / "b/Thumbs.db").write_bytes(b"")
    put(tmp_path / "b/deep/deeper/3.png")
    splits = data.load_folder(tmp_path)
    assert splits.class_names == ("a", "b")
    assert count(splits) == 7


def test_linked_folders_are_read_once(tmp_path):
    classes(tmp_path / "data")
    put(tmp_path / "more/9.png")
    (tmp_path / "data/a/linked").symlink_to(tmp_path / "more")
    (tmp_path / "data/b/loop").symlink_to(tmp_path / "data/b")
    assert count(data.load_folder(tmp_path / "data")) == 7


@pytest.mark.parametrize(
    "pair",
    [("Train", "Test"), ("training", "testing"), ("TRAIN", "valid"), ("train", "val")],
)
def test_splits_in_any_spelling(tmp_path, pair):
    classes(tmp_path / pair[0], number=3)
    classes(tmp_path / pair[1], number=2)
    splits = data.load_folder(tmp_path)
    assert splits.class_names == ("a", "b")
    assert (len(splits.train.labels), len(splits.test.labels)) == (6, 4)


def test_folders_next_to_splits_are_named(tmp_path):
    for split in ("train", "test", "val"):
        classes(tmp_path / split)
    with pytest.warns(UserWarning, match="only 'train' and 'test' are read, not 'val'"):
        assert count(data.load_folder(tmp_path)) == 12
    classes(tmp_path / "Training")
    with refuses("has the folders 'Training' and 'train': keep one"):
        data.load_folder(tmp_path)


def test_a_class_may_be_called_train(tmp_path):
    classes(tmp_path, ["plane", "train"])
    assert data.load_folder(tmp_path).class_names == ("plane", "train")
    classes(tmp_path / "train")
    with refuses("'train' but not its counterpart"):
        data.load_folder(tmp_path)


def test_numbers_are_in_numeric_order(tmp_path):
    for label in range(12):
        put(tmp_path / str(label) / "0.png", np.full((8, 8), 20 * label, np.uint8))
        put(tmp_path / str(label) / "1.png", np.full((8, 8), 20 * label, np.uint8))
    splits = data.load_folder(tmp_path)
    assert splits.class_names == tuple(map(str, range(12)))
    images, labels = both(splits)
    np.testing.assert_array_equal(images[:, 0, 0, 0] // 20, labels)


def test_numbers_that_do_not_count_from_zero_are_told(tmp_path):
    classes(tmp_path, ["1", "2", "10"])
    with pytest.warns(UserWarning, match="class 0 is folder '1'"):
        assert data.load_folder(tmp_path).class_names == ("1", "2", "10")


def test_classes_by_name(tmp_path):
    splits = data.load_folder(classes(tmp_path, ["cat", "dog", "owl"], 10))
    forget = data.forget_class(
        splits.train.labels, "dog", class_names=splits.class_names
    )
    assert set(splits.train.labels[forget]) == {1}
    kept = data.select_classes(splits, ["owl", "cat"])
    assert kept.class_names == ("owl", "cat")
    with refuses("no class is called 'cow'; classes are cat, dog, owl"):
        class_numbers(["cow"], splits.class_names)
    with refuses("2 classes are called 'x'"):
        class_numbers(["x"], ["x", "x"])
    config = RunConfig(
        data=DataConfig(source="folder", path=str(tmp_path), classes=("owl", "dog")),
        forget=ForgetConfig(kind="class", classes=("dog",)),
    )
    kept = load_data(config.data)
    assert number_classes(config, kept.class_names).forget.classes == (1,)


def test_transparent_images_are_placed_on_white(tmp_path):
    layer = np.zeros((8, 8, 4), np.uint8)
    layer[2:6, 2:6, 3] = 255
    put(tmp_path / "a/0.png", layer)
    put(tmp_path / "a/1.png", layer[..., [0, 3]])  # gray with alpha
    keyed = np.full((8, 8, 3), 7, np.uint8)
    put(tmp_path / "b/0.png", keyed, transparency=(7, 7, 7))
    put(tmp_path / "b/1.png", np.full((8, 8, 4), 255, np.uint8))  # opaque
    with pytest.warns(UserWarning, match="^3 images are transparent and were placed"):
        images, labels = both(data.load_folder(tmp_path))
    expected = np.where(layer[..., 3:] == 255, 0, 255) * np.ones(3)
    for image in images[labels == 0]:
        np.testing.assert_array_equal(image, expected)
    assert (images[labels == 1] == 255).all()
    pairs = [(Image.fromarray(layer), 0), (Image.fromarray(layer[..., :3]), 1)]
    with pytest.warns(UserWarning, match="^1 images are transparent"):
        data.from_iterable(pairs, test_fraction=0.5)


def test_photos_are_upright(tmp_path):
    pixels = np.zeros((16, 16), np.uint8)
    pixels[:4] = 255
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        for name in "ab":
            put(tmp_path / name / f"{orientation}.png", pixels, exif=exif)
    images, _ = both(data.load_folder(tmp_path))
    images = sorted(image[..., 0].tobytes() for image in images)
    expected = []
    for file in tmp_path.glob("*/*.png"):
        with Image.open(file) as stored:
            expected.append(np.asarray(ImageOps.exif_transpose(stored)).tobytes())
    assert images == sorted(expected)
    assert len(set(images)) == 4, "the four sides"


def test_files_left_out_are_counted_in_one_line(tmp_path):
    classes(tmp_path)
    for i in range(3):
        put(tmp_path / "b" / f"{i}.tif")
    put(tmp_path / "b/9.ppm")
    put(tmp_path / "loose.png")
    line = r"5 files are left out \(3 .tif, 1 .png, 1 .ppm\)"
    with pytest.warns(UserWarning, match=line) as told:
        assert count(data.load_folder(tmp_path)) == 6
    assert len(told) == 1


def test_damaged_files_are_named_in_any_script(tmp_path):
    root = tmp_path / "données 数据"
    pixels = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    for name in ("chat é", "犬"):
        for i in range(3):
            last = root / name / f"ma photo {i}.JPG"
            put(last, pixels, format="JPEG")
    assert data.load_folder(root).class_names == ("chat é", "犬")
    whole = last.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"<html>404</html>"):
        last.write_bytes(content)
        with refuses(f"cannot read image .*{last.name}"):
            data.load_folder(root)


def test_home_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    classes(tmp_path / "pets")
    assert data.load_folder("~/pets").name == "pets"
    (tmp_path / "f.txt").write_text("1\n")
    assert data.forget_file("~/f.txt", 3).tolist() == [False, True, False]
    images = np.zeros((4, 2, 2), np.uint8)
    names = ("train_images", "train_labels", "test_images", "test_labels")
    arrays = (images, np.arange(4) % 2) * 2
    np.savez(tmp_path / "d.npz", **dict(zip(names, arrays, strict=True)))
    assert count(data.load_npz("~/d.npz")) == 8
    with refuses("no image folder at ~nobody-of-this-name/pets"):
        data.load_folder("~nobody-of-this-name/pets")


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff1\r\n2\r\n".encode(),
        "1\n2\n".encode("utf-16"),
        b"1.000000000000000000e+00\n2.000000000000000000e+00\n",
        b"# index\n 2\n\n1",
    ],
)
def test_forget_lists_of_spreadsheets(tmp_path, content):
    (tmp_path / "f.csv").write_bytes(content)
    assert data.forget_file(tmp_path / "f.csv", 4).nonzero()[0].tolist() == [1, 2]


def test_forget_lists_of_other_numbers_are_refused(tmp_path):
    for text in ("1.5", "inf", "nan", "1e300", "0x3", "9" * 20, "9" * 5000):
        (tmp_path / "f.txt").write_text(text)
        with refuses(f"line 1: '{text}' is not an integer index"):
            data.forget_file(tmp_path / "f.txt", 4)
