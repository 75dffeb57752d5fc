"""Conversion of official CIFAR and MNIST archives to TFDS data sets without TensorFlow.

TFDS itself needs TensorFlow for the conversion. The data sets written here have TFDS'
names, versions and features, so both ``tfds.data_source("cifar10", data_dir=...)`` and
:func:`unlearn_jax.data.load_tfds` open them. Unlike in TFDS, samples keep the order of
the archive.
"""

import contextlib
import dataclasses
import gzip
import io
import os
import pathlib
import secrets
import shutil
import sys
import tarfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from unlearn_jax.data.quiet import quiet_tfds
from unlearn_jax.types import InputError

ARCHIVES: dict[str, str] = {
    "cifar10": "cifar-10-binary.tar.gz",
    "cifar100": "cifar-100-binary.tar.gz",
    "mnist": "FOLDER_WITH_FOUR_UBYTE_GZ_FILES",
}
"""Official archive that :func:`prepare` reads, by data set."""

_VERSIONS = {"cifar10": "3.0.2", "cifar100": "3.0.2", "mnist": "3.0.1"}


@dataclasses.dataclass(frozen=True)
class _Content:
    """Content of an archive: images ``[N, H, W, ch]`` and labels of each split."""

    version: str
    splits: dict[str, tuple[npt.NDArray[np.uint8], dict[str, npt.NDArray[np.uint8]]]]
    class_names: dict[str, list[str]]
    description: str
    homepage: str
    with_id: bool


@dataclasses.dataclass(frozen=True)
class _Cifar:
    """Layout of one of the two CIFAR binary archives."""

    folder: str
    files: dict[str, tuple[str, ...]]
    rows_per_file: dict[str, int]
    names: dict[
        str, tuple[str, int]
    ]  # label feature -> (file of names, number of classes), in the order of the bytes


_CIFAR = {
    "cifar10": _Cifar(
        folder="cifar-10-batches-bin",
        files={
            "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
            "test": ("test_batch.bin",),
        },
        rows_per_file={"train": 10_000, "test": 10_000},
        names={"label": ("batches.meta.txt", 10)},
    ),
    "cifar100": _Cifar(
        folder="cifar-100-binary",
        files={"train": ("train.bin",), "test": ("test.bin",)},
        rows_per_file={"train": 50_000, "test": 10_000},
        names={
            "coarse_label": ("coarse_label_names.txt", 20),
            "label": ("fine_label_names.txt", 100),
        },
    ),
}
_CIFAR_SHAPE = (3, 32, 32)
_CIFAR_HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"

_MNIST_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
_MNIST_ROWS = {"train": 60_000, "test": 10_000}
_MNIST_SHAPE = (28, 28)


def prepare(
    name: str, *, archive: str | os.PathLike[str], data_dir: str | os.PathLike[str]
) -> pathlib.Path:
    """Convert an official archive into a TFDS data set, offline, in half a minute.

    First the whole archive is read and checked. Then the records are written to a
    temporary folder inside ``data_dir``, which is renamed at the end, so the data set
    is either complete or absent.

    Args:
      name: ``"cifar10"``, ``"cifar100"`` or ``"mnist"``.
      archive: ``cifar-10-binary.tar.gz`` or ``cifar-100-binary.tar.gz`` (the "binary
        version"; the Python version is refused, because reading it means executing
        pickled code), or for MNIST the folder with ``train-images-idx3-ubyte.gz`` and
        the other three official files.
      data_dir: the TFDS directory to write to; created if it does not exist.

    Returns:
      ``data_dir/name/version``. If the data set is already prepared there, it is
      unchanged and the archive is not read.

    Raises:
      InputError: an unknown name, an archive that is missing, damaged, truncated or not
        the expected one, or a ``data_dir`` that cannot be written.
    """
    if name not in ARCHIVES:
        raise InputError(f"cannot prepare {name!r}; known are {', '.join(ARCHIVES)}")
    archive = pathlib.Path(os.path.expanduser(archive))
    data_dir = pathlib.Path(os.path.expanduser(data_dir))
    target = data_dir / name / _VERSIONS[name]
    if (target / "dataset_info.json").is_file():
        return target
    content = _read_mnist(archive) if name == "mnist" else _read_cifar(name, archive)
    partial = data_dir / f".{name}.{secrets.token_hex(6)}"
    try:
        partial.mkdir(parents=True)
        _write_records(name, content, partial)
        target.parent.mkdir(exist_ok=True)
        (partial / name / content.version).rename(target)
    except OSError as error:
        raise InputError(
            f"cannot write the data set {name} to {data_dir}: {error}"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _read_cifar(name: str, archive: pathlib.Path) -> _Content:
    layout = _CIFAR[name]
    wanted = {
        f"{layout.folder}/{file}" for files in layout.files.values() for file in files
    }
    wanted |= {f"{layout.folder}/{file}" for file, _ in layout.names.values()}
    members = _read_tar(name, archive, wanted)
    splits = {}
    for split, files in layout.files.items():
        blocks = [
            _cifar_rows(
                archive,
                file,
                members[f"{layout.folder}/{file}"],
                layout,
                layout.rows_per_file[split],
            )
            for file in files
        ]
        rows = np.concatenate(blocks)
        depth = len(layout.names)
        images = rows[:, depth:].reshape(-1, *_CIFAR_SHAPE).transpose(0, 2, 3, 1)
        splits[split] = (
            images,
            {key: rows[:, i] for i, key in enumerate(layout.names)},
        )
    class_names = {}
    for key, (file, num_classes) in layout.names.items():
        names = members[f"{layout.folder}/{file}"].decode("utf-8", "replace").split()
        if len(names) != num_classes:
            raise InputError(
                f"{archive}: {file} names {len(names)} classes, expected {num_classes}"
            )
        class_names[key] = names
    title = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}[name]
    description = (
        f"{title}: 60,000 color images of 32x32 pixels, in the order of the official"
        " binary archive."
    )
    return _Content(
        _VERSIONS[name], splits, class_names, description, _CIFAR_HOME, with_id=True
    )


def _cifar_rows(
    archive: pathlib.Path, file: str, content: bytes, layout: _Cifar, num_rows: int
) -> npt.NDArray[np.uint8]:
    """Return the checked bytes of a CIFAR file, ``[rows, labels + 3072]`` uint8."""
    width = len(layout.names) + int(np.prod(_CIFAR_SHAPE))
    if len(content) != num_rows * width:
        raise InputError(
            f"{archive}: {file} has {len(content)} bytes, expected {num_rows * width};"
            " it is not the official file"
        )
    rows = np.frombuffer(content, np.uint8).reshape(num_rows, width)
    for column, (key, (_, num_classes)) in enumerate(layout.names.items()):
        if rows[:, column].max() >= num_classes:
            raise InputError(
                f"{archive}: {file} has a {key} above {num_classes - 1}; it is not the"
                " official file"
            )
    return rows


def _read_tar(name: str, archive: pathlib.Path, wanted: set[str]) -> dict[str, bytes]:
    """Return the wanted members of a gzipped tar, read in memory."""
    if not archive.is_file():
        raise InputError(
            f"no archive at {archive}; download {ARCHIVES[name]} from {_CIFAR_HOME}"
        )
    members = {}
    try:
        with (
            gzip.open(archive, "rb") as unzipped,
            tarfile.open(fileobj=unzipped, mode="r|") as tar,
        ):
            for member in tar:
                path = member.name.removeprefix("./")
                stream = (
                    tar.extractfile(member)
                    if path in wanted and member.isreg()
                    else None
                )
                if stream is not None:
                    members[path] = stream.read()
            while unzipped.read(
                1 << 20
            ):  # read to the end, where gzip compares its checksum
                pass
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise InputError(
            f"cannot read {archive} (damaged or not fully downloaded): {error};"
            f" download {ARCHIVES[name]} again"
        ) from None
    missing = sorted(wanted - members.keys())
    if missing:
        raise InputError(
            f"{archive} has no {missing[0]}: it is not the binary version; download"
            f" {ARCHIVES[name]} from {_CIFAR_HOME}"
        )
    return members


def _read_mnist(archive: pathlib.Path) -> _Content:
    if not archive.is_dir():
        files = ", ".join(file for pair in _MNIST_FILES.values() for file in pair)
        raise InputError(
            f"the archive of mnist is a folder with {files}; {archive} is not a folder"
        )
    splits = {}
    for split, (images_file, labels_file) in _MNIST_FILES.items():
        num_rows = _MNIST_ROWS[split]
        images = _read_idx(archive / images_file, (num_rows, *_MNIST_SHAPE))
        labels = _read_idx(archive / labels_file, (num_rows,))
        if labels.max() > 9:
            raise InputError(
                f"{archive / labels_file} has a label above 9; it is not the official"
                " file"
            )
        splits[split] = (images[..., None], {"label": labels})
    names = {"label": [str(digit) for digit in range(10)]}
    description = (
        "MNIST: 70,000 handwritten digits of 28x28 pixels, in the order of the official"
        " files."
    )
    home = "http://yann.lecun.com/exdb/mnist/"
    return _Content(_VERSIONS["mnist"], splits, names, description, home, with_id=False)


def _read_idx(path: pathlib.Path, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Return the array of a gzipped IDX file: magic number, big-endian sizes, data."""
    if not path.is_file():
        raise InputError(
            f"{path.parent} has no {path.name}; the official MNIST download has four"
            " .gz files"
        )
    try:
        with gzip.open(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"cannot read {path} (damaged or not fully downloaded): {error}; download"
            " it again"
        ) from None
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()
    if content[: len(header)] != header or len(content) != len(header) + int(
        np.prod(shape)
    ):
        raise InputError(
            f"{path} is not the official file: expected an IDX file of"
            f" {'x'.join(map(str, shape))} bytes"
        )
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)


def _write_records(name: str, content: _Content, data_dir: pathlib.Path) -> None:
    """Write ``data_dir/name/version`` as array_record files of PNG bytes."""
    with quiet_tfds(), contextlib.redirect_stdout(io.StringIO()):
        builder = _builder_class(name, content)(
            data_dir=data_dir, file_format="array_record"
        )
        builder.download_and_prepare()


def _builder_class(name: str, content: _Content) -> Any:
    """Return an unregistered TFDS builder, so that TFDS' own builder stays usable."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    class_labels = {
        key: tfds.features.ClassLabel(names=names)
        for key, names in content.class_names.items()
    }
    image_shape = content.splits["train"][0].shape[1:]
    features = {
        "image": tfds.features.Image(shape=image_shape, encoding_format="png"),
        **class_labels,
    }
    if content.with_id:
        features["id"] = tfds.features.Text()

    with registered.skip_registration():

        class ArchiveBuilder(tfds.core.GeneratorBasedBuilder):
            """Writer of the arrays of an archive that was already read and checked."""

            VERSION = tfds.core.Version(content.version)
            pkg_dir_path = tfds.core.Path(
                __file__
            ).parent  # TFDS cannot infer it for a class in a function

            def _info(self) -> Any:
                return tfds.core.DatasetInfo(
                    builder=self,
                    description=content.description,
                    features=tfds.features.FeaturesDict(features),
                    supervised_keys=("image", "label"),
                    homepage=content.homepage,
                    disable_shuffling=True,
                )

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                del dl_manager
                return {
                    split: self._generate_examples(split) for split in content.splits
                }

            def _generate_examples(
                self, split: str
            ) -> Iterator[tuple[int, dict[str, Any]]]:
                return _examples(name, split, content)

    ArchiveBuilder.name = name
    return ArchiveBuilder


def _examples(
    name: str, split: str, content: _Content
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield records in the order of the archive, images as PNG bytes."""
    from PIL import Image
    from tqdm import tqdm

    images, labels = content.splits[split]
    rows = tqdm(
        range(len(images)),
        desc=f"writing {name} {split}",
        unit="img",
        disable=not sys.stderr.isatty(),
    )
    for row in rows:
        image = images[row]
        buffer = io.BytesIO()
        Image.fromarray(
            image[..., 0] if image.shape[-1] == 1 else np.ascontiguousarray(image)
        ).save(buffer, "PNG")
        example: dict[str, Any] = {"image": buffer.getvalue()}
        example.update({key: int(values[row]) for key, values in labels.items()})
        if content.with_id:
            example["id"] = f"{split}_{row:05d}"
        yield row, example
