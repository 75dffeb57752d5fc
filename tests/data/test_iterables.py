"""Pairs of (image, label), and data sets of Hugging Face: real ones and their like."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from unlearn_jax import data
from unlearn_jax.types import InputError


def gray(value, side=4):
    return np.full((side, side), value, np.uint8)


PAIRS = [(gray(i), i % 3) for i in range(12)]


class ClassLabel:
    names = ("cat", "dog", "cow")


class FakeDataset:
    """The part of ``datasets.Dataset`` that is read."""

    def __init__(self, pairs, image="image", label="label"):
        self.rows = [{image: one, label: other} for one, other in pairs]
        self.features = {image: object(), label: ClassLabel()}
        self.column_names = list(self.features)

    def __iter__(self):
        return iter(self.rows)


def test_arrays_and_pillow_images_are_the_same_data():
    arrays = data.from_iterable(PAIRS, PAIRS[:3])
    images = ((Image.fromarray(pixels), label) for pixels, label in PAIRS)
    pillow = data.from_iterable(images, iter(PAIRS[:3]))
    assert arrays.train.images.shape == (12, 4, 4, 1)
    assert arrays.train.images.dtype == np.uint8
    assert arrays.class_names == ("0", "1", "2")
    assert arrays.digest == pillow.digest
    np.testing.assert_array_equal(arrays.train.images[:, 0, 0, 0], np.arange(12))
    np.testing.assert_array_equal(arrays.train.labels, np.arange(12) % 3)


def test_gray_images_become_rgb_among_colored_ones():
    color = Image.new("RGB", (4, 4), (1, 2, 3))
    splits = data.from_iterable([(gray(7), 0), (color, np.int64(1))], PAIRS[3:5])
    assert splits.train.images.shape == (2, 4, 4, 3)
    assert splits.test.images.shape == (2, 4, 4, 3)
    assert splits.train.images[:, 0, 0].tolist() == [[7, 7, 7], [1, 2, 3]]


def test_a_single_iterable_is_split_as_folders_are():
    splits = data.from_iterable(PAIRS, test_fraction=0.25, seed=3, name="twelve")
    assert splits.name == "twelve"
    assert (len(splits.train.labels), len(splits.test.labels)) == (9, 3)
    values = np.concatenate([splits.train.images, splits.test.images])[:, 0, 0, 0]
    np.testing.assert_array_equal(np.sort(values), np.arange(12))
    again = data.from_iterable(PAIRS, test_fraction=0.25, seed=3)
    assert splits.digest == again.digest


def test_images_are_resized_on_request():
    pairs = [(Image.fromarray(gray(i, side=4 + i)), i % 2) for i in range(4)]
    splits = data.from_iterable(pairs, size=(5, 6))
    assert splits.train.images.shape[1:] == (5, 6, 1)


def raised(items, **options):
    with pytest.raises(InputError) as error:
        data.from_iterable(items, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "there are no items"),
        ([gray(1)], "item 0 is not a pair"),
        ([(gray(1), 0), (gray(1), 0.5)], "item 1: a label must be an integer, got 0.5"),
        ([("cat.png", 0)], "an image must be a Pillow image or an array"),
        ([(np.zeros((3, 8, 8), "f4"), 0)], "channels come last"),
        ([(gray(1), 0), (gray(1, 5), 0)], "item 1 is 5x5, the first is 4x4"),
        ([(gray(1), 0), (gray(1) / 255, 0)], "dtype float64, the first uint8"),
        ([(gray(7), 0), (gray(7), -1)], "labels must lie in 0..1"),
        ([(Image.new("I", (4, 4)), 0)], "more than 8 bits"),
        (
            [(np.zeros((4, 4, 3), "u1"), 0), (np.zeros((4, 4, 4), "u1"), 0)],
            "images have 3 and 4 channels",
        ),
        ([(gray(1).astype("f4") * 300, 0)] * 2, "float images must lie in [0, 1]"),
    ],
)
def test_bad_items_are_one_line(items, message):
    assert message in raised(items)


def test_training_and_test_images_have_one_size():
    message = raised(PAIRS, test=[(gray(1, 5), 0)])
    assert "differ in size: (4, 4) and (5, 5)" in message


def test_huggingface_data_sets_load_by_their_usual_names():
    expected = data.from_iterable(PAIRS, PAIRS[:3], class_names=ClassLabel.names)
    train = FakeDataset(PAIRS, image="img", label="fine_label")
    test = FakeDataset(PAIRS[:3], image="img", label="fine_label")
    for arguments in ((train, test), ({"train": train, "validation": test},)):
        splits = data.from_huggingface(*arguments)
        assert splits.digest == expected.digest
        assert splits.class_names == ClassLabel.names
    assert len(data.from_huggingface(train, test_fraction=0.5).test.labels) == 6


def test_columns_and_splits_that_are_absent_are_named():
    odd = FakeDataset(PAIRS, image="photo")
    with pytest.raises(InputError, match=re.escape("only photo, label: pass image=")):
        data.from_huggingface(odd)
    assert len(data.from_huggingface(odd, image="photo").train.labels) == 10
    with pytest.raises(InputError, match="no split 'train', only full"):
        data.from_huggingface({"full": odd})
    with pytest.raises(InputError, match="pass pairs to from_iterable"):
        data.from_huggingface(PAIRS)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def test_the_real_library_gives_the_same():
    datasets = pytest.importorskip("datasets")
    pyarrow = pytest.importorskip("pyarrow")
    names = ["a", "b", "c"]
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=names)
    )
    rows = {
        "image": [png(pixels) for pixels, _ in PAIRS],
        "label": [label for _, label in PAIRS],
    }
    # with a fingerprint nothing is pickled, which some versions of pyarrow refuse
    real = datasets.Dataset(
        pyarrow.Table.from_pydict(rows, schema=features.arrow_schema),
        info=datasets.DatasetInfo(features=features),
        fingerprint="twelve",
    )
    splits = data.from_huggingface(datasets.DatasetDict(train=real, test=real))
    assert splits.digest == data.from_iterable(PAIRS, PAIRS).digest
    assert splits.class_names == ("a", "b", "c")
