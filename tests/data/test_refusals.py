"""Every error that the data sources document: the call that meets it, its message."""

import dataclasses
import gzip
import io
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from support.refusals import missed, refusal, sites

from unlearn_jax import data
from unlearn_jax.data import tfds_reader
from unlearn_jax.data.stand_in import stand_in
from unlearn_jax.types import Dataset

IMAGES, LABELS = np.zeros((4, 2, 2, 1), np.uint8), np.array([0, 1, 0, 1])
SPLITS = data.load_arrays(IMAGES, LABELS, IMAGES, LABELS)


def keys(number=4):
    return jax.random.split(jax.random.key(0), number)


def put(path, content=b""):
    """Writes a file, and gives its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def stored(save, *arrays, **named):
    content = io.BytesIO()
    save(content, *arrays, **named)
    return content.getvalue()


def picture(size=(2, 2), mode="L"):
    content = io.BytesIO()
    Image.new(mode, size).save(content, "PNG")
    return content.getvalue()


def arrays(*given, **options):
    return lambda at: data.load_arrays(*given, **options)


def checked(images, labels=LABELS, num_classes=2):
    return lambda at: data.validate(Dataset(images, labels), num_classes)


def folder(files, **options):
    """A folder of images; ``files`` by their names."""

    def call(at):
        for name, content in files.items():
            put(at / name, content)
        return data.load_folder(at, **options)

    return call


class SequentialRecords:
    """A TFDS builder of records in a format that is read from end to end only."""

    class info:
        class file_format:
            value = "tfrecord"

    def as_data_source(self, split):
        raise NotImplementedError(split)


def tar(*members):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as file:
        for member in members:
            file.addfile(tarfile.TarInfo(member))
    return content.getvalue()


TWO = {"a/1.png": picture(), "b/1.png": picture()}
FIRST = "train-images-idx3-ubyte.gz"

REFUSED = [
    (lambda at: data.pool_mask(SPLITS, LABELS), "mask has dtype int64: pass booleans"),
    (
        lambda at: data.pool_mask(SPLITS, LABELS[:3] > 0),
        "mask has shape \\(3,\\): pass one entry for each of the 4",
    ),
    # what every data set passes
    (
        checked(IMAGES, num_classes=1),
        "data set: a classifier needs at least 2 classes, got 1",
    ),
    (
        checked(IMAGES[0]),
        "images must have shape \\[N, H, W, channels\\], got \\(2, 2, 1\\)",
    ),
    (checked(IMAGES[:0], LABELS[:0]), "there are no images"),
    (
        checked(IMAGES, LABELS[:2]),
        (
            "labels must have shape \\[N\\] = \\(4,\\), one class index per image, got"
            " \\(2,\\)"
        ),
    ),
    (
        checked(IMAGES.astype(int)),
        "images must be uint8 in 0..255 or floating in \\[0, 1\\], got int64",
    ),
    (checked(IMAGES + np.nan), "images contain NaN or infinity"),
    (checked(IMAGES + 2.0), "float images must lie in \\[0, 1\\], got 2 to 2"),
    (checked(IMAGES, LABELS + 0.5), "labels must be integers, got float64"),
    (checked(IMAGES, LABELS + 1), "labels must lie in 0..1 for 2 classes, got 1 to 2"),
    # arrays
    (
        arrays(IMAGES, LABELS + 99, IMAGES, LABELS),
        "the largest label is 100, more than there are samples",
    ),
    (
        lambda at: data.from_iterable([(IMAGES[0], label) for label in (0, 1, 99)]),
        "the largest label is 99, more than there are samples",
    ),
    (
        arrays(*[IMAGES, LABELS] * 2, num_classes=2.5),
        "num_classes must be an integer, 0 or more, got 2.5",
    ),
    (
        arrays(IMAGES, LABELS, IMAGES[:, :1], LABELS),
        "differ in shape: \\(2, 2, 1\\) and \\(1, 2, 1\\)",
    ),
    (arrays(IMAGES, LABELS, IMAGES / 255, LABELS), "differ in type: uint8 and float32"),
    (
        arrays(*[IMAGES, LABELS] * 2, num_classes=3, class_names="ab"),
        "2 class names given for 3 classes",
    ),
    (
        lambda at: data.load_digits(num_train=0),
        "digits: num_train must be in 1..1796, got 0",
    ),
    (
        lambda at: data.load_digits(num_train=10.5),
        "num_train must be an integer, 0 or more, got 10.5",
    ),
    (lambda at: data.load_digits(seed=-1), "seed must be at least 0, got -1"),
    (lambda at: data.load_digits(seed=0.5), "seed must be an integer, got 0.5"),
    (lambda at: data.load_npz(at / "x.npz"), "no data file at .*x.npz"),
    (lambda at: data.load_npz(at), "is a folder: pass the path of an .npz file in it"),
    (
        lambda at: data.load_npz(put(at / "x.npz", stored(np.savez, x_train=IMAGES))),
        "x.npz: missing y_train, x_test",
    ),
    (
        lambda at: data.load_npz(
            put(
                at / "x.npz",
                stored(
                    np.savez,
                    x_train=IMAGES,
                    y_train=LABELS,
                    x_test=IMAGES,
                    y_test=LABELS,
                    class_names="ab",
                ),
            )
        ),
        "x.npz: class_names must have shape \\[any\\], got \\(\\)",
    ),
    (
        lambda at: data.load_npz(put(at / "x.npz", b"junk")),
        "cannot read .*x.npz as an .npz file",
    ),
    # folders
    (lambda at: data.load_folder(at / "none"), "no image folder at .*none"),
    (
        folder({"train/a/1.png": picture()}),
        "has a folder 'train' but not its counterpart",
    ),
    (
        folder({"train/a/1.png": b"", "Training/a/1.png": b""}),
        "has the folders 'Training' and 'train': keep one of them",
    ),
    (
        folder(
            {f"train/{name}": image for name, image in TWO.items()}
            | {"test/a/1.png": b"", "test/c/1.png": b""}
        ),
        "train and test do not have the same classes; only one has 'b'",
    ),
    (
        folder(TWO, test_fraction=1),
        "test_fraction must lie strictly between 0 and 1, got 1",
    ),
    (
        folder({"a/1.png": picture()}),
        "must hold one folder of images per class, at least 2; found 1",
    ),
    (folder({"a/1.png": picture(), "b/1.txt": b""}), "class folder .*b holds no image"),
    *(
        (folder(TWO, size=size), "size must be \\(height, width\\) of at least 1 pixel")
        for size in ((0, 2), 8, (8,), (8.0, 8.0), (8, 8, 3))
    ),
    (
        lambda at: data.load_tfds("mnist", data_dir=at, size=8),
        "size must be \\(height, width\\) of at least 1 pixel, got 8",
    ),
    (
        lambda at: data.from_iterable([(Image.new("L", (2, 2)), 0)], size=(8,)),
        "size must be \\(height, width\\) of at least 1 pixel, got \\(8,\\)",
    ),
    (
        folder(TWO | {"b/1.png": picture((3, 2))}),
        "images differ in size: .*a/1.png is 2x2, .*b/1.png is 2x3",
    ),
    (folder(TWO | {"b/1.png": b"junk"}), "cannot read image .*b/1.png"),
    (
        folder(TWO | {"b/1.png": picture(mode="I;16")}),
        "has more than 8 bits per channel \\(mode I;16\\)",
    ),
    # drawing again
    (
        lambda at: data.resplit(SPLITS, num_train=0, num_test=1, seed=0),
        "both sets need at least one sample",
    ),
    (
        lambda at: data.resplit(SPLITS, num_train=5.0, num_test=1, seed=0),
        "num_train must be an integer, 0 or more, got 5.0",
    ),
    (
        lambda at: data.resplit(SPLITS, num_train=9, num_test=1, seed=0),
        "num_train \\+ num_test = 10 is more than the 8",
    ),
    (
        lambda at: data.resplit(SPLITS, num_train=3, num_test=2, seed=0, balanced=True),
        (
            "a balanced split needs num_train and num_test to be positive multiples of"
            " its 2 classes, got 3 and 2"
        ),
    ),
    (
        lambda at: data.resplit(SPLITS, num_train=8, num_test=2, seed=0, balanced=True),
        "num_train \\+ num_test = 10 needs 5 samples of each class, and one class has"
        " only 4",
    ),
    # choosing classes
    (
        lambda at: data.select_classes(SPLITS, [1]),
        "name two or more different classes to keep, got \\[1\\]",
    ),
    (
        lambda at: data.select_classes(SPLITS, [0, 2]),
        "has classes 0..1, got 2",
    ),
    (
        lambda at: data.select_classes(SPLITS, [0.5, 1.5]),
        "classes must be integers or names",
    ),
    (
        lambda at: data.select_classes(
            dataclasses.replace(SPLITS, num_classes=3), [0, 2]
        ),
        "no training sample has class 2",
    ),
    (
        lambda at: data.select_classes(SPLITS, ["cat", "dog"]),
        "no class is called 'cat'; classes are 0, 1",
    ),
    (
        lambda at: data.select_classes(SPLITS, "dog"),
        "no class is called 'dog'; classes are 0, 1",
    ),
    (
        lambda at: data.select_classes(SPLITS, 1),
        "name two or more different classes to keep, got \\[1\\]",
    ),
    # forget sets
    (
        lambda at: data.check_forget_mask([0, 1], 2),
        "forget mask must be boolean, got int64",
    ),
    (
        lambda at: data.check_forget_mask([True], 2),
        "forget mask must have shape \\(2,\\).*got \\(1,\\)",
    ),
    (
        lambda at: data.check_forget_mask([False] * 2, 2),
        "forget set is empty; choose at least one sample",
    ),
    (
        lambda at: data.check_forget_mask([True] * 2, 2),
        "forget set is all 2 training samples",
    ),
    (
        lambda at: data.forget_indices(1, 2),
        "forget indices must be a list, one index per sample",
    ),
    (
        lambda at: data.forget_indices([], 2),
        "forget set is empty; choose at least one sample",
    ),
    (
        lambda at: data.forget_indices([0.5], 2),
        "forget indices must be integers, got float64",
    ),
    (
        lambda at: data.forget_indices([2], 2),
        "forget index 2 is out of range: the training set has samples 0..1",
    ),
    (lambda at: data.forget_indices([0, 0], 2), "forget index 0 is repeated"),
    (
        lambda at: data.forget_random(9, seed=0),
        "give exactly one of fraction and count",
    ),
    (
        lambda at: data.forget_random(9, fraction=1, seed=0),
        "forget fraction must lie strictly between 0 and 1, got 1",
    ),
    (
        lambda at: data.forget_random(9, count=2, seed=0, generator="new"),
        "generator must be 'default' or 'legacy'",
    ),
    (lambda at: data.forget_random(9, count=9, seed=0), "cannot forget 9 of 9 samples"),
    (
        lambda at: data.forget_random(9.0, count=2, seed=0),
        "num_samples must be an integer, 0 or more, got 9.0",
    ),
    (
        lambda at: data.legacy_indices(9, 2.5, seed=0),
        "count must be an integer, 0 or more, got 2.5",
    ),
    (
        lambda at: data.legacy_indices(9, 2, seed=2**32),
        "seed must be at least 0, and below 2\\*\\*32, got 4294967296",
    ),
    (
        lambda at: data.forget_class([0.5], 0),
        "labels must be one integer per training sample, got float64 \\(1,\\)",
    ),
    (
        lambda at: data.forget_class(LABELS, []),
        "forget classes are empty; name at least one class",
    ),
    (
        lambda at: data.forget_class(LABELS, 0.5),
        "forget classes must be integers, got float64 of shape \\(1,\\)",
    ),
    (
        lambda at: data.forget_class(LABELS, [1, 1]),
        "forget classes repeat a class: \\[1, 1\\]",
    ),
    (
        lambda at: data.forget_class(LABELS, 7),
        "no training sample has class 7; the labels run from 0 to 1",
    ),
    (
        lambda at: data.forget_class(LABELS, "dog"),
        "no class has a name, so none is called 'dog': pass class_names",
    ),
    (lambda at: data.forget_file(at / "none.txt", 9), "no forget file at .*none.txt"),
    (
        lambda at: data.forget_file(put(at / "x.pkl"), 9),
        "cannot read a forget set from x.pkl: the suffix must be one of",
    ),
    (
        lambda at: data.forget_file(put(at / "x.txt", b"9"), 9),
        "x.txt: forget index 9 is out of range",
    ),
    (
        lambda at: data.forget_file(
            put(at / "x.npz", stored(np.savez, a=LABELS, b=LABELS)), 9
        ),
        "x.npz must hold a single array, found \\['a', 'b'\\]",
    ),
    (
        lambda at: data.forget_file(put(at / "x.npy", b"junk"), 9),
        "cannot read .*x.npy as a NumPy array",
    ),
    (
        lambda at: data.forget_file(put(at / "x.txt", b"\xff"), 9),
        "x.txt is not a text file; list one index per line",
    ),
    (
        lambda at: data.forget_file(put(at / "x.csv", b"1\ntwo"), 9),
        "x.csv, line 2: 'two' is not an integer index",
    ),
    (
        lambda at: data.membership_design(3, 2, seed=0),
        "an even number of models, at least 2.*got 3",
    ),
    (
        lambda at: data.membership_design(2, 0, seed=0),
        "a membership design needs at least one sample, got 0",
    ),
    (
        lambda at: data.membership_design(2, 2, seed=0, generator="new"),
        "generator must be 'default' or 'legacy'",
    ),
    # augmentations
    (
        lambda at: data.augmentation("crop+mixup"),
        "unknown augmentation 'mixup'; choose none, or join with \\+ some of",
    ),
    (
        lambda at: data.crop(keys(), IMAGES, padding=-1),
        "padding must be an integer, 0 or more, got -1",
    ),
    (
        lambda at: data.crop(keys(2), jnp.asarray(IMAGES)),
        "keys have shape \\(2,\\) for 4 images: pass one key per image",
    ),
    (
        lambda at: data.augmentation("crop+crop")(keys(1)[0], IMAGES),
        "keys have shape \\(\\) for 4 images: pass one key per image",
    ),
    (
        lambda at: stand_in("cifar10", "all"),
        "the size of split 'all' of cifar10 is not known: write train, test",
    ),
    (
        lambda at: data.trivial_augment(keys(), IMAGES, num_bins=1),
        "num_bins must be at least 2, got 1",
    ),
    (
        lambda at: data.trivial_augment(keys(), jnp.zeros((4, 2, 2, 2))),
        "images must have 1 or 3 channels.*got 2",
    ),
    (
        lambda at: data.rand_augment(keys(), IMAGES, num_ops=0),
        "num_ops must be a positive integer, got 0",
    ),
    (
        lambda at: data.aug_mix(keys(), IMAGES.astype(int)),
        "images must be uint8 or floating in \\[0, 1\\] .*, got int",
    ),
    (
        lambda at: data.rand_augment(keys(), IMAGES, magnitude=31),
        "magnitude must be a bin in 0..30, got 31",
    ),
    (
        lambda at: data.aug_mix(keys(), IMAGES, severity=11),
        "severity must be in 1..10, got 11",
    ),
    (
        lambda at: data.random_erasing(keys(), IMAGES, probability=2),
        "probability must be in \\[0, 1\\], got 2",
    ),
    (
        lambda at: data.random_erasing(keys(), IMAGES, area=(0.5, 0.1)),
        "area must be two fractions in \\(0, 1\\]",
    ),
    (
        lambda at: data.random_erasing(keys(), IMAGES, ratio=(0, 1)),
        "ratio must be two numbers above 0",
    ),
    # official archives, and data sets that are not prepared
    (
        lambda at: data.prepare("svhn", archive=at, data_dir=at),
        "cannot prepare 'svhn'; known are cifar10, cifar100, mnist",
    ),
    (
        lambda at: data.prepare("cifar10", archive=at / "x", data_dir=at),
        "no archive at .*x; download cifar-10-binary",
    ),
    (
        lambda at: data.prepare("cifar10", archive=put(at / "x", b"junk"), data_dir=at),
        "cannot read .*x \\(damaged or",
    ),
    (
        lambda at: data.prepare(
            "cifar10", archive=put(at / "x", tar("a")), data_dir=at
        ),
        "it is not the binary version",
    ),
    (
        lambda at: data.prepare("mnist", archive=at / "x", data_dir=at),
        "the archive of mnist is a folder with train-im",
    ),
    (
        lambda at: data.prepare("mnist", archive=at, data_dir=at),
        f"has no {FIRST}; the official MNIST download has four",
    ),
    (
        lambda at: data.prepare(
            "mnist", archive=put(at / FIRST, b"junk").parent, data_dir=at
        ),
        f"cannot read .*{FIRST} \\(damaged or not fully downloaded\\)",
    ),
    (
        lambda at: data.prepare(
            "mnist", archive=put(at / FIRST, gzip.compress(b"")).parent, data_dir=at
        ),
        f"{FIRST} is not the official file: expected an IDX file of 60000x28x28 bytes",
    ),
    (
        lambda at: data.load_tfds("a b", data_dir=at),
        "'a b' is not a TFDS name; write name, name/config, name:version",
    ),
    (
        lambda at: data.load_tfds("mnist", data_dir=at),
        "no prepared data set 'mnist' .*: unlearn-jax prepare mnist",
    ),
    (
        lambda at: data.load_tfds("mnist", data_dir="~no-such-user/x"),
        "~no-such-user/x is in a home folder that cannot",
    ),
    (
        lambda at: data.load_tfds(
            "my",
            data_dir=put(
                put(at / "my/1.0.0/features.json").with_name("dataset_info.json"), b"0"
            ).parents[2],
        ),
        "my: cannot read the description in .*1.0.0",
    ),
    (
        lambda at: tfds_reader._open_source(SequentialRecords(), "my", "train"),
        "my is prepared as tfrecord, which only TensorFlow can read",
    ),
    (
        lambda at: tfds_reader._decode_rows(
            [], "my", "train", ("image", "label", None)
        ),
        "my: split 'train' is empty",
    ),
    (
        lambda at: tfds_reader._resized("my", np.zeros((4, 4), np.uint16), (2, 2)),
        r"my: images of type uint16 and shape \(4, 4\) cannot be resized: leave size",
    ),
]

FILES = "data/test_tfds.py"
READER = "data/tfds_reader.py"
PAIRS = "data/test_iterables.py"
ELSEWHERE = {
    (
        "data/_prepare.py",
        "cannot write the data set {}",
    ): f"{FILES}::test_a_failure_while_writing_leaves_nothing",
    **{
        (
            "data/_prepare.py",
            start,
        ): f"{FILES}::test_wrong_cifar_archives_are_refused_and_leave_nothing"
        for start in ("{}: {} names", "{}: {} has {} bytes", "{}: {} has a")
    },
    (
        "data/_prepare.py",
        "{} has a label above 9",
    ): f"{FILES}::test_wrong_mnist_folders_are_refused",
    **{
        (READER, start): f"{FILES}::test_reading_refusals"
        for start in (
            "{} in {} is prepared in version",
            "{} has no feature",
            "cannot read split {}",
            "{}: feature",
        )
    },
    (READER, "{} in {} has several configs"): f"{FILES}::test_versions_and_configs",
    (
        READER,
        "{}: cannot read split",
    ): f"{FILES}::test_damaged_record_files_are_refused",
    (
        READER,
        "{}: images differ in shape",
    ): f"{FILES}::test_images_of_differing_shapes_and_bad_labels_are_refused",
    **{
        ("data/iterables.py", start): f"{PAIRS}::test_bad_items_are_one_line"
        for start in (
            "{}: there are no items",
            "{} is not a pair of",
            "{} is {}x{}, the first is",
            "{} has dtype {}, the first",
            "{}: images have {} and {} channels",
            "{}: an image must be",
            "{} has shape {}: channels",
            "{}: a label must be",
            "training and test images differ in size",
        )
    },
    **{
        (
            "data/iterables.py",
            start,
        ): f"{PAIRS}::test_columns_and_splits_that_are_absent_are_named"
        for start in (
            "the data set has no split",
            "from_huggingface takes",
            "the data set has no column",
        )
    },
}
"""Those that need records of TFDS, or archives of the official size."""


@pytest.mark.parametrize(
    ("call", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED]
)
def test_every_error_is_one_line(call, message, tmp_path):
    file, _ = refusal(lambda: call(tmp_path), message)
    assert file.startswith(("data/", "checks.py"))


def test_table_covers_every_error_of_the_data_sources(tmp_path):
    places = iter(tmp_path / str(number) for number in range(len(REFUSED)))

    def afresh(call):
        def wrapped():
            place = next(places)
            place.mkdir()
            return call(place)

        return wrapped

    assert (
        missed(
            ["data"], [(afresh(call), message) for call, message in REFUSED], ELSEWHERE
        )
        == {}
    )
    assert len(sites("data")) > 80
