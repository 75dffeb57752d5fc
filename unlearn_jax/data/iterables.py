"""Data sets from pairs of (image, label), and from Hugging Face ``datasets``.

Objects are recognized by their attributes, so neither Pillow nor ``datasets`` is
imported here.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from unlearn_jax.data.folder import check_size, resized_pixels, warn_of_transparency
from unlearn_jax.data.sources import Splits, load_arrays, random_splits
from unlearn_jax.types import Dataset, InputError

IMAGE_COLUMNS = ("image", "img", "pixel_values")
LABEL_COLUMNS = ("label", "labels", "fine_label", "coarse_label")
TEST_SPLITS = ("test", "validation", "valid")
_FEW_CHANNELS = (1, 3, 4)


def from_iterable(
    train: Iterable[tuple[Any, Any]],
    test: Iterable[tuple[Any, Any]] | None = None,
    *,
    test_fraction: float = 0.2,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    name: str = "iterable",
    class_names: Sequence[str] | None = None,
) -> Splits:
    """Load any pairs of (image, label), such as a data set of torchvision.

    Args:
      train: pairs of an image and its label; read once. Images are Pillow images, or
        arrays ``[H, W]`` or ``[H, W, ch]``, uint8 or floating in [0, 1]; labels are
        integers. Pillow images have one channel if all of them are gray, and are
        converted to RGB otherwise.
      test: pairs that no model trains on; None splits ``train`` at random.
      test_fraction: fraction of samples in the test set of a random split, in (0, 1).
      seed: seed of the random split.
      size: ``(height, width)`` to resize Pillow images to; if None, all images must
        have one size.
      name: name of the data set.
      class_names: ``[C]`` names; by default ``"0"``, ``"1"``, ... up to the largest
        label.

    Returns:
      The data set.

    Raises:
      InputError: items that are not pairs, images of several sizes or with channels
        first, labels that are not integers, a bad size, and as :func:`load_arrays`.

    >>> pairs = [(np.full((4, 4), i, np.uint8), i % 2) for i in range(10)]
    >>> splits = from_iterable(pairs, test_fraction=0.3)
    >>> splits.train.images.shape, splits.test.images.shape
    ((7, 4, 4, 1), (3, 4, 4, 1))
    """
    sets = [_collect(train, size, "training set")]
    if test is not None:
        sets.append(_collect(test, size, "test set"))
    return _splits(sets, test_fraction, seed, name, class_names)


def from_huggingface(
    train: Any,
    test: Any = None,
    *,
    image: str | None = None,
    label: str | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    name: str | None = None,
) -> Splits:
    """Load a data set of Hugging Face, as returned by ``datasets.load_dataset``.

    Args:
      train: a ``Dataset``, or a ``DatasetDict`` with a split ``train`` and optionally
        ``test`` (or ``validation``).
      test: a ``Dataset`` that no model trains on; if there is none, ``train`` is split
        at random.
      image: column of the images; if None, the first with a usual name.
      label: column of the labels; if None, the first with a usual name.
      test_fraction: fraction of samples in the test set of a random split, in (0, 1).
      seed: seed of the random split.
      size: ``(height, width)`` to resize the images to; if None, all images must have
        one size.
      name: name of the data set; the builder's name if None.

    Returns:
      The data set, with the class names of a ``ClassLabel`` feature.

    Raises:
      InputError: no such split or column, and as :func:`from_iterable`.
    """
    if isinstance(train, Mapping):
        if "train" not in train:
            raise InputError(
                f"the data set has no split 'train', only {', '.join(map(str, train))}:"
                " pass one of them"
            )
        present = [split for split in TEST_SPLITS if split in train]
        if test is None and present:
            test = train[present[0]]
        train = train["train"]
    columns = getattr(train, "column_names", None)
    if columns is None or not hasattr(train, "features"):
        raise InputError(
            f"from_huggingface takes data sets of Hugging Face, got"
            f" {type(train).__name__}: pass pairs to from_iterable"
        )
    image = _column(image, IMAGE_COLUMNS, columns, "image")
    label = _column(label, LABEL_COLUMNS, columns, "label")
    class_names = getattr((train.features or {}).get(label), "names", None)
    builder = getattr(getattr(train, "info", None), "dataset_name", None)
    sets = []
    for part, what in ((train, "training set"), (test, "test set")):
        if part is not None:
            pairs = ((row[image], row[label]) for row in part)
            sets.append(_collect(pairs, size, what))
    title = name or builder or "huggingface"
    return _splits(sets, test_fraction, seed, title, class_names)


def _column(
    chosen: str | None, usual: Sequence[str], columns: Sequence[str], what: str
) -> str:
    """Return the chosen column, or the first column with a usual name."""
    wanted = usual if chosen is None else (chosen,)
    present = [name for name in wanted if name in columns]
    if not present:
        raise InputError(
            f"the data set has no column {' or '.join(wanted)}, only"
            f" {', '.join(columns)}: pass {what}="
        )
    return present[0]


def _splits(
    sets: list[Dataset],
    test_fraction: float,
    seed: int,
    name: str,
    class_names: Sequence[str] | None,
) -> Splits:
    """Return training and test set, or a random split of one set."""
    images = [part.images for part in sets]
    if len({pixels.shape[1:3] for pixels in images}) > 1:
        shapes = " and ".join(str(pixels.shape[1:3]) for pixels in images)
        raise InputError(f"training and test images differ in size: {shapes}")
    channels = max(pixels.shape[3] for pixels in images)
    sets = [
        Dataset(
            np.broadcast_to(part.images, (*part.images.shape[:3], channels)),
            part.labels,
        )
        if part.images.shape[3] == 1
        else part
        for part in sets
    ]
    if len(sets) == 1:
        return random_splits(sets[0], test_fraction, seed, name, class_names)
    train = sets[0]
    test = sets[1]
    return load_arrays(
        train.images,
        train.labels,
        test.images,
        test.labels,
        name=name,
        class_names=class_names,
    )


def _collect(
    pairs: Iterable[tuple[Any, Any]], size: tuple[int, int] | None, what: str
) -> Dataset:
    """Return pairs as arrays; images of one channel are broadcast to the others'."""
    check_size(size)
    images: list[np.ndarray] = []
    labels: list[Any] = []
    num_transparent = 0
    for number, pair in enumerate(pairs):
        where = f"{what}: item {number}"
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise InputError(f"{where} is not a pair of (image, label)")
        if hasattr(pair[0], "convert") and hasattr(pair[0], "mode"):
            pixels, is_transparent = resized_pixels(where, pair[0], size)
            num_transparent += is_transparent
        else:
            pixels = _pixels(pair[0], where)
        images.append(pixels)
        labels.append(_label(pair[1], where))
        first = images[0]
        last = images[-1]
        if last.shape[:2] != first.shape[:2]:
            remedy = "pass size=(height, width) to resize Pillow images"
            raise InputError(
                f"{where} is {last.shape[0]}x{last.shape[1]}, the first is"
                f" {first.shape[0]}x{first.shape[1]}: {remedy}"
            )
        if last.dtype != first.dtype:
            raise InputError(
                f"{where} has dtype {last.dtype}, the first {first.dtype}: convert one"
            )
    if not images:
        raise InputError(f"{what}: there are no items")
    warn_of_transparency(num_transparent)
    channels = max(image.shape[2] for image in images)
    array = np.empty((len(images), *images[0].shape[:2], channels), images[0].dtype)
    for row, image in zip(array, images, strict=True):
        if image.shape[2] not in (1, channels):
            raise InputError(
                f"{what}: images have {image.shape[2]} and {channels} channels: convert"
                " them to the same number"
            )
        row[...] = image
    return Dataset(array, np.array(labels, np.int64))


def _pixels(image: Any, where: str) -> np.ndarray:
    """Return an array ``[H, W]`` or ``[H, W, ch]`` as ``[H, W, ch]``."""
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.dtype.kind not in "fui":
        raise InputError(
            f"{where}: an image must be a Pillow image or an array [H, W] or"
            f" [H, W, ch], got {type(image).__name__} of shape {array.shape}"
        )
    if array.shape[0] in _FEW_CHANNELS and array.shape[2] not in _FEW_CHANNELS:
        raise InputError(
            f"{where} has shape {array.shape}: channels come last, transpose(1, 2, 0)"
        )
    return array


def _label(label: Any, where: str) -> int:
    array: npt.NDArray = np.asarray(label)
    if array.size != 1 or array.dtype.kind not in "iu":
        raise InputError(f"{where}: a label must be an integer, got {label!r}")
    return int(array.reshape(()))
