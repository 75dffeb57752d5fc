"""Sources of labeled images: digits, arrays, an ``.npz`` file, a folder.

Every loader returns :class:`Splits` that passed :func:`validate`, so later code can
rely on shapes, types and ranges. Loaders are deterministic: the same input and seed
give the same arrays in the same order.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import os
import pathlib
import zipfile
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from unlearn_jax.checks import check_counts, check_images, check_labels, check_shape
from unlearn_jax.data import folder
from unlearn_jax.data.splits import check_seed, class_numbers
from unlearn_jax.types import Dataset, InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """Data set of training samples, and of test samples that no model trains on.

    Attributes:
      name: name for reports and file names.
      train: training images and labels, NumPy arrays as :func:`validate` returns them.
      test: held-out images and labels, with the same image shape and type.
      num_classes: C, at least 2.
      class_names: ``[C]``, one name per class.
    """

    name: str
    train: Dataset
    test: Dataset
    num_classes: int
    class_names: tuple[str, ...]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 (64 hex digits) over shapes, types and bytes of both splits."""
        sha = hashlib.sha256()
        for array in (*self.train, *self.test):
            array = np.ascontiguousarray(array)
            sha.update(f"{array.shape}{array.dtype.str}".encode())
            sha.update(array.data)
        return sha.hexdigest()


def validate(dataset: Dataset, num_classes: int, what: str = "data set") -> Dataset:
    """Check a data set, and return it as NumPy arrays of the library's types.

    Args:
      dataset: images ``[N, H, W, ch]``, uint8 or floating in [0, 1]; labels ``[N]``,
        integers in 0..C-1.
      num_classes: C, at least 2.
      what: name of the data set in error messages, e.g. ``"training set"``.

    Returns:
      Images as uint8 (not copied) or float32, labels as int32.

    Raises:
      InputError: images of another rank or type, floats that are not finite or outside
        [0, 1], labels of another rank, number, type or range, no samples, fewer than
        two classes, or a number of classes that is not an integer.
    """
    images = np.asarray(dataset.images)
    labels = np.asarray(dataset.labels)
    check_counts(0, num_classes=num_classes)
    if num_classes < 2:
        raise InputError(
            f"{what}: a classifier needs at least 2 classes, got {num_classes}"
        )
    if images.ndim != 4:
        raise InputError(
            f"{what}: images must have shape [N, H, W, channels], got {images.shape}"
        )
    if images.size == 0:
        raise InputError(f"{what}: there are no images (shape {images.shape})")
    check_images(images, what)
    check_labels(labels, len(images), num_classes, what)
    kind = np.uint8 if images.dtype == np.uint8 else np.float32
    return Dataset(images.astype(kind, copy=False), labels.astype(np.int32, copy=False))


def load_arrays(
    train_images: npt.ArrayLike,
    train_labels: npt.ArrayLike,
    test_images: npt.ArrayLike,
    test_labels: npt.ArrayLike,
    *,
    name: str = "arrays",
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
) -> Splits:
    """Return a data set of arrays in memory.

    Args:
      train_images: ``[N, H, W]`` (one channel) or ``[N, H, W, ch]``, uint8 or floating
        in [0, 1].
      train_labels: ``[N]`` or ``[N, 1]`` integers in 0..C-1.
      test_images: test images, with the same image shape and type (uint8 or floating)
        as ``train_images``.
      test_labels: ``[M]`` or ``[M, 1]`` integers in 0..C-1.
      name: name of the data set.
      num_classes: C; by default the number of class names, or without names the largest
        label + 1.
      class_names: ``[C]`` names; by default ``"0"``, ``"1"``, ...

    Returns:
      The data set.

    Raises:
      InputError: as :func:`validate`; train and test images of different shape or type,
        or a number of class names that is not ``num_classes``.

    >>> images = np.zeros((4, 8, 8), np.uint8)
    >>> load_arrays(images, [0, 1, 0, 1], images, [0, 1, 1, 0]).train.images.shape
    (4, 8, 8, 1)
    """
    if class_names is not None and num_classes is None:
        num_classes = len(class_names)
    train = _shaped(train_images, train_labels)
    test = _shaped(test_images, test_labels)
    if num_classes is None:
        num_classes = _count_classes(train.labels, test.labels)
    train = validate(train, num_classes, "training set")
    test = validate(test, num_classes, "test set")
    if train.images.shape[1:] != test.images.shape[1:]:
        raise InputError(
            f"training and test images differ in shape: {train.images.shape[1:]} and"
            f" {test.images.shape[1:]}"
        )
    if train.images.dtype != test.images.dtype:
        raise InputError(
            f"training and test images differ in type: {train.images.dtype} and"
            f" {test.images.dtype}; convert one of them"
        )
    names = tuple(
        map(str, class_names if class_names is not None else range(num_classes))
    )
    if len(names) != num_classes:
        raise InputError(f"{len(names)} class names given for {num_classes} classes")
    return Splits(name, train, test, num_classes, names)


def _count_classes(*labels: np.ndarray) -> int:
    """Return the largest of several arrays of labels, plus 1."""
    integral = [array for array in labels if array.size and array.dtype.kind in "iu"]
    num_classes = max((int(array.max()) + 1 for array in integral), default=2)
    if num_classes > max(2, sum(array.size for array in labels)):
        raise InputError(
            f"the largest label is {num_classes - 1}, more than there are samples:"
            " check the labels, or pass class_names"
        )
    return num_classes


def _shaped(images: npt.ArrayLike, labels: npt.ArrayLike) -> Dataset:
    images = np.asarray(images)
    labels = np.asarray(labels)
    if images.ndim == 3:
        images = images[..., None]
    if labels.ndim == 2 and labels.shape[1] == 1:  # the shape of Keras' CIFAR labels
        labels = labels[:, 0]
    return Dataset(images, labels)


def load_digits(*, num_train: int = 900, seed: int = 0) -> Splits:
    """Load the 1,797 handwritten digits that come with scikit-learn.

    Args:
      num_train: size of the training set, in 1..1796; the rest is the test set. The
        split is uniform at random, so training and test images are exchangeable.
      seed: seed of the split.

    Returns:
      The data set ``"digits"``: uint8 images ``[N, 8, 8, 1]`` (the 17 gray levels
      spread over 0..255) in 10 classes.

    Raises:
      InputError: ``num_train`` or the seed is out of range or not an integer.
    """
    # The file is read directly: importing sklearn.datasets takes longer than all that
    # the command does for a run that is already finished.
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = pathlib.Path(spec.submodule_search_locations[0])
    table = np.loadtxt(folder / "datasets/data/digits.csv.gz", delimiter=",")
    images = table[:, :-1].reshape(-1, 8, 8, 1)
    images = np.rint(images * (255 / 16)).astype(np.uint8)
    labels = table[:, -1].astype(np.int32)
    total = len(labels)
    check_counts(0, num_train=num_train)
    if not 1 <= num_train < total:
        raise InputError(
            f"digits: num_train must be in 1..{total - 1}, got {num_train}"
        )
    names = tuple(map(str, range(10)))
    return _draw(
        "digits", Dataset(images, labels), num_train, total - num_train, seed, 10, names
    )


def read_npz(path: str | os.PathLike[str], what: str) -> dict[str, np.ndarray]:
    """Read all arrays of an ``.npz`` file, by name; pickled objects are refused.

    Args:
      path: path of the file; ``~`` is the home folder.
      what: words for the file, for messages.

    Raises:
      InputError: no such file, or not a readable ``.npz``.
    """
    path = pathlib.Path(os.path.expanduser(path))
    if path.is_dir():
        raise InputError(f"{path} is a folder: pass the path of an .npz file in it")
    if not path.is_file():
        raise InputError(f"no {what} at {path}")
    try:
        with open(path, "rb") as file:
            stored = np.load(file, allow_pickle=False)
            if isinstance(stored, np.ndarray):
                raise ValueError("it is one array without a name")
            return {name: stored[name] for name in stored.files}
    # NumPy raises half a dozen types on damaged or pickled files
    except Exception as error:
        fault = str(error).partition(".")[0]
        if "pickle" in fault and not zipfile.is_zipfile(path):
            # NumPy's guess about any other file
            fault = "it is not an .npz file"
        raise InputError(
            f"cannot read {path} as an .npz file of arrays: {fault}; write it with"
            " numpy.savez"
        ) from None


def load_npz(path: str | os.PathLike[str]) -> Splits:
    """Load a data set from an ``.npz`` file.

    Args:
      path: a file with the arrays
        ``train_images, train_labels, test_images, test_labels``, or with Keras' names
        ``x_train, y_train, x_test, y_test``, in the shapes of :func:`load_arrays`, and
        optionally ``class_names``, strings or UTF-8 bytes ``[C]``. Pickled objects are
        refused.

    Returns:
      The data set, named after the file.

    Raises:
      InputError: a file that does not exist or is not a readable ``.npz``, missing
        arrays, names that are not ``[C]``, and as :func:`load_arrays`.
    """
    arrays = read_npz(path, "data file")
    plain = ("train_images", "train_labels", "test_images", "test_labels")
    keras = ("x_train", "y_train", "x_test", "y_test")
    keys = keras if set(arrays) & set(keras) and not set(arrays) & set(plain) else plain
    missing = [key for key in keys if key not in arrays]
    if missing:
        raise InputError(
            f"{path}: missing {', '.join(missing)}; an .npz data set holds"
            f" {', '.join(plain)} (or {', '.join(keras)}), this one holds"
            f" {', '.join(arrays) or 'nothing'}"
        )
    names = arrays.get("class_names")
    if names is not None:
        check_shape(f"{path}: class_names", names, (None,))
        if names.dtype.kind == "S":
            names = np.char.decode(names, "utf-8", "replace")
    train_images, train_labels, test_images, test_labels = (arrays[key] for key in keys)
    return load_arrays(
        train_images,
        train_labels,
        test_images,
        test_labels,
        name=pathlib.Path(path).stem,
        class_names=None if names is None else names.tolist(),
    )


def load_folder(
    path: str | os.PathLike[str],
    *,
    test_fraction: float = 0.2,
    seed: int = 0,
    size: tuple[int, int] | None = None,
) -> Splits:
    """Load images from a folder with one folder per class.

    There are two layouts. In the first, the folders are ``path/train/<class>/...`` and
    ``path/test/<class>/...``, in upper or lower case; ``training`` and ``testing`` work
    as well, and ``val``, ``valid`` or ``validation`` replace a missing test set. In the
    second, the folders are ``path/<class>/...``, and the samples are split at random.

    Classes and files are in sorted order; classes are in numeric order if all names are
    numbers. Images may lie in nested folders. Hidden entries, and those that operating
    systems generate, are left out. If every image is grayscale, images have one
    channel; otherwise all are converted to RGB. Images are rotated according to their
    EXIF orientation, and transparent images are placed on white.

    Args:
      path: the folder; ``~`` is the home folder.
      test_fraction: fraction of samples in the test set if there are no train and test
        folders, in (0, 1).
      seed: seed of the random split.
      size: ``(height, width)`` to resize every image to (bilinear); by default all
        images must have one size.

    Returns:
      The data set with uint8 images, named after the folder; class names are the names
      of the class folders.

    Raises:
      InputError: a folder that does not exist, only one of train and test, fewer than
        two classes, a class without images, classes that differ between train and test,
        an unreadable image, images of several sizes, or a bad ``test_fraction``, seed
        or size.

    Warns:
      UserWarning: files that are not PNG, JPEG, BMP or WebP, or images outside a class
        folder; folders next to those of the splits; numbered class folders that do not
        count from 0; transparent images.
    """
    folder.check_size(size)
    path = pathlib.Path(os.path.expanduser(path))
    if not path.is_dir():
        raise InputError(f"no image folder at {path}")
    name = path.resolve().name
    parts = folder.find_splits(path)
    if parts is None:
        _check_fraction(test_fraction)
        listing = folder.list_classes(path)
        folder.warn_of_listing(path, [listing])
        pool = Dataset(*folder.read_images(listing.files, size))
        return random_splits(pool, test_fraction, seed, name, listing.class_names)
    train, test = map(folder.list_classes, parts)
    if train.class_names != test.class_names:
        differing = sorted(set(train.class_names) ^ set(test.class_names))
        raise InputError(
            f"{path}: train and test do not have the same classes; only one has"
            f" {differing[0]!r}"
        )
    folder.warn_of_listing(path, [train, test])
    images, labels = folder.read_images(train.files + test.files, size)
    cut = len(train.files)
    return load_arrays(
        images[:cut],
        labels[:cut],
        images[cut:],
        labels[cut:],
        name=name,
        class_names=train.class_names,
    )


def _check_fraction(test_fraction: float) -> None:
    if not 0 < test_fraction < 1:
        raise InputError(
            f"test_fraction must lie strictly between 0 and 1, got {test_fraction}"
        )


def random_splits(
    pool: Dataset,
    test_fraction: float,
    seed: int,
    name: str,
    class_names: Sequence[str] | None = None,
) -> Splits:
    """Split samples into training and test set at random.

    Args:
      pool: the samples.
      test_fraction: fraction of samples in the test set, in (0, 1); each set has at
        least one sample.
      seed: seed of the split.
      name: name of the data set.
      class_names: ``[C]`` names; by default numbers up to the largest label.

    Returns:
      The data set.

    Raises:
      InputError: a fraction or seed out of range, a single sample, a largest label
        above the number of samples without names, and as :func:`validate`.
    """
    _check_fraction(test_fraction)
    labels = np.asarray(pool.labels)
    if class_names is None:
        class_names = [str(c) for c in range(max(_count_classes(labels), 2))]
    num_test = min(max(round(test_fraction * len(labels)), 1), len(labels) - 1)
    num_train = len(labels) - num_test
    names = tuple(class_names)
    return _draw(name, pool, num_train, num_test, seed, len(names), names)


def join(one: Dataset, other: Dataset) -> Dataset:
    """Return the samples of two sets as one, in order.

    Images of stand-ins repeat a single value and take no memory; so do those returned.

    Args:
      one: samples in memory.
      other: samples of the same types and image shape.
    """
    images = [np.asarray(one.images), np.asarray(other.images)]
    labels = np.concatenate([one.labels, other.labels])
    is_repeated = not any(images[0].strides + images[1].strides)
    if is_repeated and np.array_equal(images[0][:1], images[1][:1]):
        return Dataset(_repeated(images[0], len(labels)), labels)
    return Dataset(np.concatenate(images), labels)


def _take(samples: Dataset, rows: np.ndarray) -> Dataset:
    """Return some samples; those of stand-ins take no memory."""
    images = np.asarray(samples.images)
    labels = np.asarray(samples.labels)[rows]
    if any(images.strides):
        return Dataset(images[rows], labels)
    return Dataset(_repeated(images, len(labels)), labels)


def _repeated(images: np.ndarray, count: int) -> np.ndarray:
    """Return images that repeat a single value, in another number."""
    return np.broadcast_to(images[:1], (count, *images.shape[1:]))


def select_classes(splits: Splits, classes: Sequence[int | str]) -> Splits:
    """Return the samples of some classes, renumbered in the order of ``classes``.

    Args:
      splits: the data set; it is not changed.
      classes: two or more different classes, numbers in 0..C-1 or names.

    Returns:
      A data set of the same name with ``len(classes)`` classes.

    Raises:
      InputError: fewer than two classes, a class that is repeated or out of range, or a
        class without a training or a test sample.
    """
    wanted = np.asarray(class_numbers(classes, splits.class_names))
    if wanted.ndim != 1 or not np.issubdtype(wanted.dtype, np.integer):
        raise InputError(f"classes must be integers or names, got {classes!r}")
    if len(wanted) < 2 or len(set(wanted.tolist())) < len(wanted):
        raise InputError(
            f"name two or more different classes to keep, got {wanted.tolist()}"
        )
    outside = wanted[(wanted < 0) | (wanted >= splits.num_classes)]
    if outside.size:
        raise InputError(
            f"{splits.name} has classes 0..{splits.num_classes - 1}, got {outside[0]}"
        )
    numbers = np.full(splits.num_classes, -1, np.int32)
    numbers[wanted] = np.arange(len(wanted))

    def select(samples: Dataset, title: str) -> Dataset:
        labels = numbers[np.asarray(samples.labels)]
        missing = np.setdiff1d(np.arange(len(wanted)), labels)
        if missing.size:
            raise InputError(
                f"{splits.name}: no {title} sample has class {wanted[missing[0]]}"
            )
        return _take(samples._replace(labels=labels), labels >= 0)

    names = splits.class_names
    return dataclasses.replace(
        splits,
        train=select(splits.train, "training"),
        test=select(splits.test, "test"),
        num_classes=len(wanted),
        class_names=tuple(names[label] for label in wanted) if names else (),
    )


def resplit(
    splits: Splits, *, num_train: int, num_test: int, seed: int, balanced: bool = False
) -> Splits:
    """Pool training and test set and redraw both, so that they are exchangeable.

    Args:
      splits: the data set; it is not changed.
      num_train: size of the new training set, at least 1.
      num_test: size of the new test set, at least 1; samples beyond
        ``num_train + num_test`` are left out.
      seed: seed of the draw.
      balanced: whether each set has the same number of samples of every class; both
        sizes must then be multiples of the number of classes.

    Returns:
      The new data set, with the name and classes of ``splits``.

    Raises:
      InputError: a size that is not a positive integer, a negative seed, more samples
        than exist, or sizes that cannot be balanced.
    """
    check_counts(0, num_train=num_train, num_test=num_test)
    pool = join(splits.train, splits.test)
    if balanced:
        order = _balanced_order(splits, pool.labels, num_train, num_test, seed)
        train = _take(pool, order[:num_train])
        test = _take(pool, order[num_train:])
    else:
        drawn = _draw(
            splits.name,
            pool,
            num_train,
            num_test,
            seed,
            splits.num_classes,
            splits.class_names,
        )
        train = drawn.train
        test = drawn.test
    return dataclasses.replace(splits, train=train, test=test)


def _balanced_order(
    splits: Splits, labels: np.ndarray, num_train: int, num_test: int, seed: int
) -> np.ndarray:
    """Return positions of the training samples and then of the test samples.

    The order within each set is random.
    """
    count = splits.num_classes
    if num_train < 1 or num_test < 1 or num_train % count or num_test % count:
        raise InputError(
            f"{splits.name}: a balanced split needs num_train and num_test to be"
            f" positive multiples of its {count} classes, got {num_train} and"
            f" {num_test}"
        )
    fewest = int(np.bincount(labels, minlength=count).min())
    if (num_train + num_test) // count > fewest:
        raise InputError(
            f"{splits.name}: num_train + num_test = {num_train + num_test} needs"
            f" {(num_train + num_test) // count} samples of each class, and one class"
            f" has only {fewest}"
        )
    check_seed(seed)
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(np.flatnonzero(labels == c)) for c in range(count)]
    each = num_train // count
    more = num_test // count
    train = np.concatenate([rows[:each] for rows in drawn])
    test = np.concatenate([rows[each : each + more] for rows in drawn])
    return np.concatenate([rng.permutation(train), rng.permutation(test)])


def _draw(
    name: str,
    pool: Dataset,
    num_train: int,
    num_test: int,
    seed: int,
    num_classes: int,
    names: tuple[str, ...],
) -> Splits:
    total = len(pool.labels)
    if num_train < 1 or num_test < 1:
        raise InputError(
            f"{name}: both sets need at least one sample, got num_train={num_train},"
            f" num_test={num_test}"
        )
    if num_train + num_test > total:
        raise InputError(
            f"{name}: num_train + num_test = {num_train + num_test} is more than the"
            f" {total} samples it has"
        )
    check_seed(seed)
    order = np.random.default_rng(seed).permutation(total)
    train, test = (
        validate(_take(pool, rows), num_classes, what)
        for rows, what in (
            (order[:num_train], "training set"),
            (order[num_train : num_train + num_test], "test set"),
        )
    )
    return Splits(name, train, test, num_classes, names)
