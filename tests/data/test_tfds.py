"""Preparing official archives and reading TFDS folders, on tiny archives of the
official layout.
"""

import contextlib
import dataclasses
import gzip
import importlib
import io
import logging
import os
import pathlib
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image
from support.refusals import refuses

from unlearn_jax import data
from unlearn_jax.data import tfds_reader
from unlearn_jax.data.quiet import quiet_tfds
from unlearn_jax.types import DamagedFileError

prepare = importlib.import_module(
    "unlearn_jax.data._prepare"
)  # the module; data.prepare is its function

ROWS = {"train": 4, "test": 3}


@pytest.fixture(autouse=True)
def tiny_official_sizes(monkeypatch):
    """The official layouts with a few rows per file."""
    small = {
        name: dataclasses.replace(layout, rows_per_file=ROWS)
        for name, layout in prepare._CIFAR.items()
    }
    monkeypatch.setattr(prepare, "_CIFAR", small)
    monkeypatch.setattr(prepare, "_MNIST_ROWS", ROWS)


def cifar_members(name, seed=0):
    """Member name -> bytes of a tiny official archive."""
    layout, rng = prepare._CIFAR[name], np.random.default_rng(seed)
    members = {}
    for file, number in layout.names.values():
        members[f"{layout.folder}/{file}"] = (
            "\n".join(f"name{i}" for i in range(number)).encode() + b"\n\n"
        )
    for split, files in layout.files.items():
        for file in files:
            labels = [
                rng.integers(0, number, (ROWS[split], 1))
                for _, number in layout.names.values()
            ]
            rows = np.concatenate(
                [*labels, rng.integers(0, 256, (ROWS[split], 3072))], axis=1
            )
            members[f"{layout.folder}/{file}"] = rows.astype(np.uint8).tobytes()
    return members


def write_tar(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def cifar_oracle(name, members, split):
    """Images and labels of one split by definition: label bytes, then a plane each of
    red, green and blue.
    """
    layout = prepare._CIFAR[name]
    depth = len(layout.names)
    content = b"".join(
        members[f"{layout.folder}/{file}"] for file in layout.files[split]
    )
    images, labels = [], []
    for start in range(0, len(content), depth + 3072):
        record = content[start : start + depth + 3072]
        labels.append(record[depth - 1])
        planes = [
            np.frombuffer(record[depth + 1024 * c :][:1024], np.uint8).reshape(32, 32)
            for c in range(3)
        ]
        images.append(np.stack(planes, axis=-1))
    return np.stack(images), np.array(labels)


def write_mnist(folder):
    rng, arrays = np.random.default_rng(0), {}
    folder.mkdir(exist_ok=True)
    for split, files in prepare._MNIST_FILES.items():
        number = ROWS[split]
        arrays[split] = (
            rng.integers(0, 256, (number, 28, 28), np.uint8),
            rng.integers(0, 10, number, np.uint8),
        )
        for file, array in zip(files, arrays[split], strict=True):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(
                size.to_bytes(4, "big") for size in array.shape
            )
            (folder / file).write_bytes(gzip.compress(header + array.tobytes()))
    return arrays


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_prepared_cifar_is_read_back_by_us_and_by_tfds(tmp_path, name, capfd):
    members = cifar_members(name)
    archive = write_tar(tmp_path / "archive.tar.gz", members)
    target = data.prepare(name, archive=archive, data_dir=tmp_path / "data")
    assert target == tmp_path / "data" / name / "3.0.2"
    assert os.listdir(tmp_path / "data") == [name]
    splits = data.load_tfds(
        name, data_dir=tmp_path / "data", cache_dir=tmp_path / "cache"
    )
    for split in ("train", "test"):
        images, labels = cifar_oracle(name, members, split)
        np.testing.assert_array_equal(getattr(splits, split).images, images)
        np.testing.assert_array_equal(getattr(splits, split).labels, labels)
    assert splits.num_classes == {"cifar10": 10, "cifar100": 100}[name]
    assert splits.class_names[7] == "name7"
    assert capfd.readouterr() == (
        "",
        "",
    )  # neither TFDS nor we print when nobody watches

    import tensorflow_datasets as tfds

    source = tfds.data_source(name, data_dir=tmp_path / "data", split="test")
    assert [example["id"].decode() for example in source] == [
        f"test_{i:05d}" for i in range(ROWS["test"])
    ]
    assert "tensorflow" not in sys.modules


def test_prepared_mnist_is_read_back(tmp_path):
    arrays = write_mnist(tmp_path / "archive")
    data.prepare("mnist", archive=tmp_path / "archive", data_dir=tmp_path / "data")
    splits = data.load_tfds(
        "mnist:3.0.1", data_dir=tmp_path / "data", cache_dir=tmp_path / "cache"
    )
    np.testing.assert_array_equal(splits.train.images[..., 0], arrays["train"][0])
    np.testing.assert_array_equal(splits.test.labels, arrays["test"][1])
    assert splits.class_names == tuple("0123456789")


def test_preparing_twice_keeps_the_first(tmp_path):
    archive = write_tar(tmp_path / "archive.tar.gz", cifar_members("cifar10"))
    target = data.prepare("cifar10", archive=archive, data_dir=tmp_path / "data")
    before = sorted((file.name, file.stat().st_mtime_ns) for file in target.iterdir())
    assert (
        data.prepare("cifar10", archive=tmp_path / "gone", data_dir=tmp_path / "data")
        == target
    )
    assert (
        sorted((file.name, file.stat().st_mtime_ns) for file in target.iterdir())
        == before
    )


def without(members, name):
    return {key: value for key, value in members.items() if name not in key}


def test_wrong_cifar_archives_are_refused_and_leave_nothing(tmp_path):
    members = cifar_members("cifar10")
    prefix = "cifar-10-batches-bin/"
    record = bytearray(members[prefix + "test_batch.bin"])
    record[0] = 10
    cases = [
        (
            without(members, "batch_4"),
            (
                "has no cifar-10-batches-bin/data_batch_4.bin: it is not the binary"
                " version"
            ),
        ),
        (
            cifar_members("cifar100"),
            "it is not the binary version; download cifar-10-binary.tar.gz",
        ),
        (
            members | {prefix + "data_batch_2.bin": b"12"},
            "data_batch_2.bin has 2 bytes, expected 12292",
        ),
        (
            members | {prefix + "test_batch.bin": bytes(record)},
            "test_batch.bin has a label above 9",
        ),
        (
            members | {prefix + "batches.meta.txt": b"cat dog"},
            "names 2 classes, expected 10",
        ),
    ]
    for content, fragment in cases:
        archive = write_tar(tmp_path / "archive.tar.gz", content)
        with refuses(fragment):
            data.prepare("cifar10", archive=archive, data_dir=tmp_path / "data")
    whole = write_tar(tmp_path / "archive.tar.gz", members).read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-4], b"not a tar file", b""):
        (tmp_path / "archive.tar.gz").write_bytes(damaged)
        with refuses("damaged or not fully downloaded"):
            data.prepare(
                "cifar10",
                archive=tmp_path / "archive.tar.gz",
                data_dir=tmp_path / "data",
            )
    with refuses("no archive at .*; download cifar-10-binary.tar.gz from https://"):
        data.prepare("cifar10", archive=tmp_path / "absent", data_dir=tmp_path / "data")
    with refuses("cannot prepare 'svhn'; known are cifar10, cifar100, mnist"):
        data.prepare("svhn", archive=tmp_path, data_dir=tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_wrong_mnist_folders_are_refused(tmp_path):
    folder = tmp_path / "archive"
    with refuses("is not a folder"):
        data.prepare("mnist", archive=folder, data_dir=tmp_path / "data")
    write_mnist(folder)
    labels = folder / "t10k-labels-idx1-ubyte.gz"
    whole = labels.read_bytes()
    cases = [
        (whole[:-9], "damaged or not fully downloaded"),
        (b"text", "damaged or not fully downloaded"),
        (gzip.compress(gzip.decompress(whole)[:-1]), "expected an IDX file of 3 bytes"),
        (gzip.compress(gzip.decompress(whole)[:-1] + b"\x0a"), "a label above 9"),
        (
            whole.replace(whole, (folder / "t10k-images-idx3-ubyte.gz").read_bytes()),
            "is not the official file",
        ),
    ]
    for content, fragment in cases:
        labels.write_bytes(content)
        with refuses(fragment):
            data.prepare("mnist", archive=folder, data_dir=tmp_path / "data")
    labels.unlink()
    with refuses("has no t10k-labels-idx1-ubyte.gz"):
        data.prepare("mnist", archive=folder, data_dir=tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_failure_while_writing_leaves_nothing(tmp_path, monkeypatch):
    archive = write_tar(tmp_path / "archive.tar.gz", cifar_members("cifar10"))

    def full_disk(name, content, data_dir):
        (data_dir / "half").write_text("written")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepare, "_write_records", full_disk)
    with refuses("cannot write the data set cifar10 .*No space left"):
        data.prepare("cifar10", archive=archive, data_dir=tmp_path / "data")
    assert os.listdir(tmp_path / "data") == []


@pytest.fixture
def mnist(tmp_path):
    """A prepared data directory and the arguments that load from it."""
    write_mnist(tmp_path / "archive")
    data.prepare("mnist", archive=tmp_path / "archive", data_dir=tmp_path / "data")
    return {"data_dir": tmp_path / "data", "cache_dir": tmp_path / "cache"}


def test_the_second_load_reads_the_cache_only(mnist, monkeypatch):
    first = data.load_tfds("mnist", **mnist)
    monkeypatch.setattr(tfds_reader, "_decode_split", None)
    assert data.load_tfds("mnist", **mnist).digest == first.digest
    assert first.train.images.flags.writeable is False
    monkeypatch.setenv("UNLEARN_JAX_CACHE", str(mnist["cache_dir"]))
    assert data.load_tfds("mnist", data_dir=mnist["data_dir"]).digest == first.digest


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)


def test_unreadable_cache_entries_are_built_again(mnist):
    first = data.load_tfds("mnist", **mnist).digest
    for name in ("images.npy", "labels.npy", "meta.json"):
        for damage in (
            lambda file: os.truncate(file, file.stat().st_size // 2),
            flip_a_bit,
            os.remove,
        ):
            for file in mnist["cache_dir"].rglob(name):
                damage(file)
            assert data.load_tfds("mnist", **mnist).digest == first
    assert not [
        entry
        for entry in (mnist["cache_dir"] / "tfds").iterdir()
        if entry.name.startswith(".")
    ]


def test_a_description_that_changed_is_another_cache_entry(mnist, monkeypatch):
    data.load_tfds("mnist", **mnist)
    info = mnist["data_dir"] / "mnist" / "3.0.1" / "dataset_info.json"
    info.write_text(info.read_text().replace("handwritten", "printed"))
    monkeypatch.setattr(
        tfds_reader, "_decode_split", lambda *_: pytest.fail("decoded again")
    )
    with pytest.raises(pytest.fail.Exception, match="decoded again"):
        data.load_tfds("mnist", **mnist)


@pytest.mark.parametrize("size", [None, (5, 6)])
def test_a_cache_that_cannot_be_written_is_a_warning(mnist, tmp_path, size):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="cannot keep the decoded images of mnist"):
        splits = data.load_tfds(
            "mnist", data_dir=mnist["data_dir"], cache_dir=tmp_path / "file", size=size
        )
    assert splits.train.images.shape[:3] == (ROWS["train"], *(size or (28, 28)))


def test_images_on_a_disk_that_is_too_full_for_them_are_in_memory(mnist, monkeypatch):
    monkeypatch.setattr(
        os, "posix_fallocate", lambda *_: os.stat("/full/disk"), raising=False
    )
    splits = data.load_tfds("mnist", size=(5, 6), **mnist)
    assert splits.train.images.shape == (ROWS["train"], 5, 6, 1)


def test_slices_and_the_default_directory(mnist, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(mnist["data_dir"]))
    splits = data.load_tfds(
        "mnist", train_split="train[1:3]", cache_dir=mnist["cache_dir"]
    )
    whole = data.load_tfds("mnist", **mnist)
    np.testing.assert_array_equal(splits.train.images, whole.train.images[1:3])


def test_reading_refusals(mnist, tmp_path):
    cases = [
        (
            "cifar10",
            {},
            (
                r"no prepared data set 'cifar10' \(looked for"
                r" .*cifar10/<version>/dataset_info.json\); "
            ),
        ),
        (
            "cifar10",
            {},
            "unlearn-jax prepare cifar10 --archive cifar-10-binary.tar.gz --data-dir ",
        ),
        (
            "svhn_cropped",
            {},
            (
                "with TensorFlow: tfds build svhn_cropped --file_format=array_record"
                " --data_dir="
            ),
        ),
        ("mnist", {"data_dir": tmp_path / "absent"}, "no prepared data set 'mnist'"),
        ("mnist:1.0.0", {}, "prepared in version 3.0.1, not in 1.0.0"),
        ("../mnist", {}, "is not a TFDS name"),
        (
            "mnist",
            {"train_split": "validation"},
            "cannot read split 'validation' of mnist, which has train, test: ",
        ),
        (
            "mnist",
            {"image_key": "picture"},
            "has no feature 'picture'; it has image, label",
        ),
        ("mnist", {"label_key": "image"}, "feature 'image' is not an integer label"),
        ("mnist", {"test_split": "test[:0]"}, r"cannot read split 'test\[:0\]'"),
    ]
    for name, options, fragment in cases:
        with refuses(fragment) as caught:
            data.load_tfds(name, **(mnist | options))
        assert "\n" not in str(caught.value)


def test_damaged_record_files_are_refused(mnist):
    for file in (mnist["data_dir"] / "mnist" / "3.0.1").glob("*train.array_record*"):
        os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(DamagedFileError, match="cannot read split 'train'"):
        data.load_tfds("mnist", **mnist)


def write_toy(data_dir, name, examples, *, version="1.0.0", features=None):
    """A TFDS data set of the given examples in both splits, written by a builder of its
    own.
    """
    import tensorflow_datasets as tfds

    features = features or {
        "image": tfds.features.Image(shape=(None, None, 1)),
        "label": tfds.features.Scalar(dtype=np.int64),
        "id": tfds.features.Text(),
    }

    with quiet_tfds(), tfds.core.registered.skip_registration():

        class Toy(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version(version)
            pkg_dir_path = pathlib.Path(__file__).parent

            def _info(self):
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict(features),
                    disable_shuffling=True,
                )

            def _split_generators(self, dl_manager):
                return {
                    "train": self._generate_examples(),
                    "test": self._generate_examples(),
                }

            def _generate_examples(self):
                yield from enumerate(examples)

        Toy.name = name
        Toy(data_dir=data_dir, file_format="array_record").download_and_prepare()


def toy_example(value, *, size=(4, 4), label=0, name="a"):
    buffer = io.BytesIO()
    Image.fromarray(np.full(size, value, np.uint8)).save(buffer, "PNG")
    return {"image": buffer.getvalue(), "label": label, "id": name}


def test_samples_are_ordered_by_id_where_ids_differ(tmp_path, capsys):
    rows = [
        toy_example(10 * i, label=i % 2, name=f"train_{i:05d}") for i in (3, 0, 2, 1)
    ]
    write_toy(tmp_path, "toy", rows)
    where = {"data_dir": tmp_path, "cache_dir": tmp_path / "cache"}
    splits = data.load_tfds("toy", **where)
    assert splits.train.images[:, 0, 0, 0].tolist() == [0, 10, 20, 30]
    assert splits.train.labels.tolist() == [0, 1, 0, 1]
    assert (splits.num_classes, splits.class_names) == (2, ("0", "1"))
    stored = data.load_tfds("toy", order_key=None, **where)
    assert stored.train.images[:, 0, 0, 0].tolist() == [30, 0, 20, 10]


def test_versions_and_configs(tmp_path):
    for version in ("1.0.0", "1.10.0", "1.9.0"):
        number = int(version.split(".")[1])
        write_toy(
            tmp_path,
            "toy",
            [toy_example(number, label=i, name=f"{i}") for i in range(2)],
            version=version,
        )
    where = {"data_dir": tmp_path, "cache_dir": tmp_path / "cache"}
    assert data.load_tfds("toy", **where).train.images[0, 0, 0, 0] == 10
    assert data.load_tfds("toy:1.9.0", **where).train.images[0, 0, 0, 0] == 9
    (tmp_path / "nested").mkdir()
    (tmp_path / "toy").rename(tmp_path / "nested" / "one")
    assert data.load_tfds("nested", **where).name == "nested/one"
    assert data.load_tfds("nested/one:1.0.0", **where).train.images[0, 0, 0, 0] == 0
    write_toy(tmp_path, "toy", [toy_example(1)])
    (tmp_path / "toy").rename(tmp_path / "nested" / "two")
    with refuses("has several configs; choose one of nested/one, nested/two"):
        data.load_tfds("nested", **where)


@pytest.mark.parametrize("seed", range(3))
def test_rows_are_reordered_in_place(seed):
    rows = np.random.default_rng(seed).permutation(12)
    images = np.arange(24).reshape(12, 2)
    expected = images[rows]
    tfds_reader._reorder(images, rows)
    np.testing.assert_array_equal(images, expected)


def test_images_of_any_size_are_resized_into_the_cache(tmp_path, monkeypatch):
    rows = [
        toy_example(40 * i, size=size, label=i % 2, name=f"{3 - i}")
        for i, size in enumerate([(4, 6), (8, 8), (5, 3)])
    ]
    write_toy(tmp_path, "toy", rows)
    where = {"data_dir": tmp_path, "cache_dir": tmp_path / "cache"}
    splits = data.load_tfds("toy", size=(6, 5), order_key=None, **where)
    assert splits.train.images.shape == (3, 6, 5, 1)
    assert splits.train.images.dtype == np.uint8
    assert splits.train.images[:, 0, 0, 0].tolist() == [0, 40, 80]
    assert isinstance(splits.train.images.base, np.memmap)
    write = tfds_reader._write_entry
    written = []
    monkeypatch.setattr(
        tfds_reader, "_write_entry", lambda *args: (written.append(args), write(*args))
    )
    ordered = data.load_tfds("toy", size=(6, 5), **where)
    assert all(isinstance(decoded.images, np.memmap) for _, _, decoded in written)
    assert ordered.train.images[:, 5, 4, 0].tolist() == [80, 40, 0]
    monkeypatch.setattr(tfds_reader, "_decode_split", None)
    again = data.load_tfds("toy", size=(6, 5), **where)
    np.testing.assert_array_equal(again.train.images, ordered.train.images)
    entries = [entry.name for entry in (tmp_path / "cache" / "tfds").iterdir()]
    assert len(entries) == 4
    assert not any(name.startswith(".") for name in entries)


def test_resizing_is_that_of_image_folders(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 9, 7), np.uint8)
    for i in range(2):
        file = tmp_path / "folder" / f"{i}" / "x.png"
        file.parent.mkdir(parents=True)
        Image.fromarray(pixels[i]).save(file)
    rows = []
    for i in range(2):
        buffer = io.BytesIO()
        Image.fromarray(pixels[i]).save(buffer, "PNG")
        rows.append({"image": buffer.getvalue(), "label": i, "id": f"{i}"})
    write_toy(tmp_path, "toy", rows)
    where = {"data_dir": tmp_path, "cache_dir": tmp_path / "cache"}
    found = data.load_tfds("toy", size=(4, 5), **where).train.images
    folder = data.load_folder(tmp_path / "folder", test_fraction=0.5, size=(4, 5))
    both = np.concatenate([folder.train.images, folder.test.images])
    labels = np.concatenate([folder.train.labels, folder.test.labels])
    np.testing.assert_array_equal(found, both[np.argsort(labels)])


def test_images_of_differing_shapes_and_bad_labels_are_refused(tmp_path):
    where = {"data_dir": tmp_path, "cache_dir": tmp_path / "cache"}
    write_toy(
        tmp_path, "ragged", [toy_example(1), toy_example(2, size=(4, 5), name="b")]
    )
    with refuses(
        r"images differ in shape, \(4, 4, 1\) and \(4, 5, 1\) \(row 1 of 'train'\)"
    ):
        data.load_tfds("ragged", **where)
    write_toy(
        tmp_path,
        "unlabeled",
        [toy_example(1, label=-1), toy_example(2, name="b", label=1)],
    )
    with refuses("training set: labels must lie in 0..1"):
        data.load_tfds("unlabeled", **where)


def test_quiet_puts_back_what_it_changed():
    from tensorflow_datasets.core.utils import tqdm_utils

    logger = logging.getLogger("absl")
    before = logger.level, tqdm_utils._active
    with quiet_tfds():
        assert logger.level == logging.ERROR
        assert tqdm_utils._active is False
    assert (logger.level, tqdm_utils._active) == before
    with contextlib.suppress(KeyError), quiet_tfds():
        raise KeyError
    assert (logger.level, tqdm_utils._active) == before


@pytest.mark.skipif(
    "UNLEARN_JAX_TEST_DATA" not in os.environ,
    reason="needs a TFDS directory with mnist 3.0.1",
)
def test_the_real_mnist(tmp_path):
    splits = data.load_tfds(
        "mnist",
        data_dir=os.environ["UNLEARN_JAX_TEST_DATA"],
        train_split="test",
        cache_dir=tmp_path,
    )
    assert splits.test.images.shape == (10_000, 28, 28, 1)
    assert np.bincount(splits.test.labels).tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]
