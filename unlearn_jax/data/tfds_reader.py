"""Reader of TensorFlow Datasets (TFDS) without TensorFlow, with a cache of images.

A data set must have been *prepared*, that is converted to record files in
``data_dir/name/version``. This module never downloads anything. It checks the folders
itself, so a missing data set is reported at once instead of after minutes of retries.
The cache holds decoded images.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import secrets
import shutil
import sys
import warnings
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unlearn_jax.data._prepare import ARCHIVES
from unlearn_jax.data.folder import check_size, resized_pixels
from unlearn_jax.data.quiet import quiet_tfds
from unlearn_jax.data.sources import Splits, load_arrays
from unlearn_jax.types import DamagedFileError, InputError

_VERSION = re.compile(r"\d+\.\d+\.\d+")
_BLOCK_ROWS = 1000
_PROGRESS_ROWS = 5000


class _Decoded(NamedTuple):
    """One split: images ``[N, H, W, ch]``, labels ``[N]``, class names or None."""

    images: npt.NDArray
    labels: npt.NDArray[np.int64]
    class_names: list[str] | None


def load_tfds(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    train_split: str = "train",
    test_split: str = "test",
    image_key: str = "image",
    label_key: str = "label",
    order_key: str | None = "id",
    size: tuple[int, int] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Splits:
    """Load a prepared TFDS image-classification data set.

    The images are decoded once and stored as ``.npy`` files under ``cache_dir``. Later
    calls check these files (a checksum over all bytes), map them into memory, and do
    not import TFDS. The key of a cache entry is the version, the split, the feature
    keys, the size and the content of the folder's description, so the entry is not used
    if the data is prepared again. A damaged entry is rebuilt.

    Args:
      name: ``name``, ``name/config``, ``name:version`` or ``name/config:version``; the
        newest version by default.
      data_dir: the TFDS directory; by default ``$TFDS_DATA_DIR`` or
        ``~/tensorflow_datasets``.
      train_split: a TFDS split such as ``"train"`` or ``"train[:10%]"``.
      test_split: a TFDS split for the test set; it must not overlap with
        ``train_split`` (not checked).
      image_key: name of the image feature.
      label_key: name of the label feature (an integer, usually a ``ClassLabel``).
      order_key: name of the feature that samples are sorted by, if the data set has it
        and its values are all different. TFDS shuffles samples when it writes, and
        CIFAR's ``id`` restores the official order, which the indices of published
        forget sets refer to. None keeps the stored order.
      size: ``(height, width)`` to resize every image to, as
        :func:`unlearn_jax.data.load_folder` does (bilinear, without keeping the aspect
        ratio); by default all images must have one size. With a size, images are
        written to the cache one by one and are never all in memory: ImageNet at
        224 x 224 is 193 GB.
      cache_dir: folder for decoded images; by default ``$UNLEARN_JAX_CACHE`` or
        ``~/.cache/unlearn_jax``. If it cannot be written, a warning is given and the
        data is used from memory.

    Returns:
      The data set. Its images may be read-only memory maps.

    Raises:
      InputError: a data set that is not prepared (the message gives the expected path
        and the command to prepare it) or is prepared in a format without random access;
        no such version, config, split or feature; images of different shapes; a bad
        size; and as :func:`unlearn_jax.data.validate`.
      DamagedFileError: the data set's description or its record files cannot be read.
    """
    check_size(size)
    builder_dir, label = _find_builder(name, data_dir)
    cache = _at_home(cache_dir) if cache_dir else cache_folder()
    keys = (image_key, label_key, order_key)
    train, test = (
        _cached_split(builder_dir, label, split, keys, size, cache)
        for split in (train_split, test_split)
    )
    return load_arrays(
        train.images,
        train.labels,
        test.images,
        test.labels,
        name=label,
        class_names=train.class_names,
    )


def cache_folder() -> pathlib.Path:
    """Return the default cache folder, ``$UNLEARN_JAX_CACHE`` or one at home.

    Raises:
      InputError: a folder in a home folder that cannot be found.
    """
    return _at_home(os.environ.get("UNLEARN_JAX_CACHE") or "~/.cache/unlearn_jax")


def _at_home(folder: str | os.PathLike[str]) -> pathlib.Path:
    try:
        return pathlib.Path(folder).expanduser()
    except RuntimeError:
        raise InputError(
            f"{folder} is in a home folder that cannot be found: set HOME, or"
            " UNLEARN_JAX_CACHE and TFDS_DATA_DIR"
        ) from None


def _find_builder(
    name: str, data_dir: str | os.PathLike[str] | None
) -> tuple[pathlib.Path, str]:
    """Return ``data_dir/name[/config]/version`` and ``name[/config]`` of a data set."""
    root = _at_home(
        data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    )
    label, _, wanted = name.partition(":")
    if not re.fullmatch(r"\w+(/[\w.+-]+)?", label):
        raise InputError(
            f"{name!r} is not a TFDS name; write name, name/config, name:version or"
            " name/config:version"
        )
    home = root / label
    versions = _versions(home)
    if not versions and "/" not in label and home.is_dir():
        configs = sorted(entry.name for entry in home.iterdir() if _versions(entry))
        if len(configs) > 1:
            options = ", ".join(f"{label}/{config}" for config in configs)
            raise InputError(
                f"{label} in {root} has several configs; choose one of {options}"
            )
        if configs:
            label = f"{label}/{configs[0]}"
            home = root / label
            versions = _versions(home)
    if not versions:
        raise InputError(_not_prepared(label, root))
    if wanted and wanted not in versions:
        raise InputError(
            f"{label} in {root} is prepared in version {', '.join(versions)}, not in"
            f" {wanted}"
        )
    return home / (wanted or versions[-1]), label


def _versions(folder: pathlib.Path) -> list[str]:
    """Return the prepared versions, oldest first.

    Interrupted preparations are not among them: their folders have other names.
    """
    if not folder.is_dir():
        return []
    versions = [
        entry.name
        for entry in folder.iterdir()
        if _VERSION.fullmatch(entry.name)
        and (entry / "dataset_info.json").is_file()
        and (entry / "features.json").is_file()
    ]
    return sorted(versions, key=lambda version: tuple(map(int, version.split("."))))


def _not_prepared(label: str, root: pathlib.Path) -> str:
    if label in ARCHIVES:
        how = (
            f"unlearn-jax prepare {label} --archive {ARCHIVES[label]} --data-dir {root}"
        )
    else:
        how = (
            f"on a machine with TensorFlow: tfds build {label}"
            f" --file_format=array_record --data_dir={root}"
        )
    looked = f"{root / label}/<version>/dataset_info.json"
    return (
        f"no prepared data set {label!r} (looked for {looked}); prepare it with: {how}"
    )


def _cached_split(
    builder_dir: pathlib.Path,
    label: str,
    split: str,
    keys: tuple[str, str, str | None],
    size: tuple[int, int] | None,
    cache: pathlib.Path,
) -> _Decoded:
    """Return one split from the cache, or decode it and store it there."""
    parts = (split, keys) if size is None else (split, keys, size)
    sha = hashlib.sha256(repr(parts).encode())
    for part in ("dataset_info.json", "features.json"):
        sha.update((builder_dir / part).read_bytes())
    readable = re.sub(r"[^\w.-]+", "-", f"{label}-{builder_dir.name}-{split}")
    entry = cache / "tfds" / f"{readable}-{sha.hexdigest()[:16]}"
    cached = _read_entry(entry)
    if cached is not None:
        return cached
    # Written under another name and then renamed, so no partial entry is ever read.
    partial = entry.with_name(f".{entry.name}.{secrets.token_hex(6)}")
    try:
        file = None if size is None else partial / "images.npy"
        decoded = _decode_split(builder_dir, label, split, keys, size, file)
        try:
            _write_entry(entry, partial, decoded)
        except OSError as error:
            warnings.warn(
                f"cannot keep the decoded images of {label} in {cache}: {error}",
                stacklevel=3,
            )
            return decoded
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return _read_entry(entry) or decoded


def _read_entry(entry: pathlib.Path) -> _Decoded | None:
    """Return a cache entry with memory-mapped images, or None if it is unusable."""
    try:
        meta = json.loads((entry / "meta.json").read_text())
        if any(
            file_sha256(entry / name) != checksum
            for name, checksum in meta["files"].items()
        ):
            return None
        images = np.load(entry / "images.npy", mmap_mode="r")
        labels = np.load(entry / "labels.npy")
        if list(images.shape) != meta["shape"] or len(labels) != len(images):
            return None
        return _Decoded(images, labels, meta["class_names"])
    except (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError):
        return None


def file_sha256(file: pathlib.Path) -> str:
    """Return the SHA-256 of a file's bytes, as hex digits."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _write_entry(entry: pathlib.Path, partial: pathlib.Path, decoded: _Decoded) -> None:
    """Write a cache entry under another name, then rename it."""
    partial.mkdir(parents=True, exist_ok=True)
    for name, array in (("images.npy", decoded.images), ("labels.npy", decoded.labels)):
        if isinstance(array, np.memmap):
            # a memory map of this very file: nothing to save
            array.flush()
            continue
        with open(partial / name, "wb") as file:
            np.save(file, array, allow_pickle=False)
            os.fsync(file.fileno())
    files = {file.name: file_sha256(file) for file in partial.iterdir()}
    meta = {
        "shape": list(decoded.images.shape),
        "class_names": decoded.class_names,
        "files": files,
    }
    (partial / "meta.json").write_text(json.dumps(meta))
    if _read_entry(entry) is None:  # absent, or a damaged entry to replace
        shutil.rmtree(entry, ignore_errors=True)
        with contextlib.suppress(OSError):  # another process was faster
            partial.rename(entry)


def _decode_split(
    builder_dir: pathlib.Path,
    label: str,
    split: str,
    keys: tuple[str, str, str | None],
    size: tuple[int, int] | None,
    file: pathlib.Path | None,
) -> _Decoded:
    """Read and decode every record of one split, into a file if one is given."""
    image_key, label_key, order_key = keys
    with quiet_tfds():
        import tensorflow_datasets as tfds

        try:
            builder = tfds.builder_from_directory(builder_dir)
        except Exception as error:  # a damaged description can raise any type
            reason = " ".join(str(error).split())
            raise DamagedFileError(
                f"{label}: cannot read the description in {builder_dir} ({reason});"
                " prepare the data set again"
            ) from error
        features: Any = builder.info.features
        for key in (image_key, label_key):
            if key not in features:
                raise InputError(
                    f"{label} has no feature {key!r}; it has"
                    f" {', '.join(sorted(features))}"
                )
        if order_key is not None and order_key not in features:
            order_key = None
        source = _open_source(builder, label, split)
        images, labels, order = _decode_rows(
            source, label, split, (image_key, label_key, order_key), size, file
        )
        names = getattr(features[label_key], "names", None)
    if (
        order is not None
        and np.unique(order).size == order.size
        and (order[1:] < order[:-1]).any()
    ):
        rows = np.argsort(order, kind="stable")
        labels = labels[rows]
        _reorder(images, rows)
    return _Decoded(images, labels, names)


def _reorder(images: npt.NDArray, rows: npt.NDArray[np.intp]) -> None:
    """Replace images by ``images[rows]`` in place, so that a file stays on the disk."""
    is_placed = np.zeros(len(rows), bool)
    for start in range(len(rows)):
        if is_placed[start]:
            continue
        first = images[start].copy()
        row = start
        while not is_placed[row]:
            is_placed[row] = True
            source = rows[row]
            images[row] = first if source == start else images[source]
            row = source


def _open_source(builder: Any, label: str, split: str) -> Any:
    try:
        return builder.as_data_source(split)
    except NotImplementedError:
        raise InputError(
            f"{label} is prepared as {builder.info.file_format.value}, which only"
            " TensorFlow can read; prepare it again with --file_format=array_record"
        ) from None
    except (ValueError, KeyError) as error:
        known = ", ".join(builder.info.splits)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"cannot read split {split!r} of {label}, which has {known}: {reason}"
        ) from None


def _decode_rows(
    source: Any,
    label: str,
    split: str,
    keys: tuple[str, str, str | None],
    size: tuple[int, int] | None = None,
    file: pathlib.Path | None = None,
) -> tuple[npt.NDArray, npt.NDArray[np.int64], npt.NDArray | None]:
    """Return images, labels, and values of the order key if any, in stored order."""
    from tqdm import tqdm

    image_key, label_key, order_key = keys
    total = len(source)
    images: npt.NDArray | None = None
    labels = np.empty(total, np.int64)
    order = []
    hidden = total <= _PROGRESS_ROWS or not sys.stderr.isatty()
    with tqdm(
        total=total,
        desc=f"decoding {label} {split}",
        unit="img",
        disable=hidden,
        leave=False,
    ) as bar:
        for start in range(0, total, _BLOCK_ROWS):
            rows = range(start, min(start + _BLOCK_ROWS, total))
            try:
                examples = source.__getitems__(list(rows))
            except (
                Exception
            ) as error:  # the readers of records and images raise many types
                reason = " ".join(str(error).split())
                raise DamagedFileError(
                    f"{label}: cannot read split {split!r} ({reason}); prepare the data"
                    " set again"
                ) from error
            for row, example in zip(rows, examples, strict=True):
                image = np.asarray(example[image_key])
                if size is not None:
                    image = _resized(label, image, size)
                if images is None:
                    shape = (total, *image.shape)
                    images = _allocate(shape, image.dtype, file)
                if image.shape != images.shape[1:]:
                    raise InputError(
                        f"{label}: images differ in shape, {images.shape[1:]} and"
                        f" {image.shape} (row {row} of {split!r}); give their size,"
                        " as in --data.size 224 224"
                    )
                images[row] = image
                labels[row] = _integer(example[label_key], label, label_key)
                order += [] if order_key is None else [example[order_key]]
            bar.update(len(rows))
    if images is None:
        raise InputError(f"{label}: split {split!r} is empty")
    return images, labels, np.array(order) if order else None


def _allocate(
    shape: tuple[int, ...], dtype: np.dtype, file: pathlib.Path | None
) -> npt.NDArray:
    """Return an array to fill, in memory or in a file with allocated disk space.

    It is in memory if the file cannot be written, as the cache's writer then tells.
    """
    if file is not None:
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True)
            images = np.lib.format.open_memmap(file, "w+", dtype, shape)
            if hasattr(os, "posix_fallocate"):
                # A full disk raises here; a write to the map would kill the process.
                with file.open("r+b") as handle:
                    os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)
            return images
    return np.empty(shape, dtype)


def _resized(
    label: str, image: npt.NDArray, size: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    from PIL import Image

    if image.dtype != np.uint8 or image.ndim != 3:
        raise InputError(
            f"{label}: images of type {image.dtype} and shape {image.shape} cannot be"
            " resized: leave size unset"
        )
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    return resized_pixels(label, Image.fromarray(pixels), size)[0]


def _integer(value: Any, label: str, label_key: str) -> int:
    value = np.asarray(value)
    if value.ndim != 0 or not np.issubdtype(value.dtype, np.integer):
        raise InputError(
            f"{label}: feature {label_key!r} is not an integer label (shape"
            f" {value.shape}, {value.dtype})"
        )
    return int(value)
