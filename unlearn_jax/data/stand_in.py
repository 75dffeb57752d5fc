"""Stand-ins with the shapes of data sets, for programs that are compiled only."""

import functools
import hashlib
import re

import numpy as np

from unlearn_jax.data.sources import Splits
from unlearn_jax.types import Dataset, InputError

SHAPES = {
    "cifar10": (50_000, 10_000, (32, 32, 3), 10),
    "cifar100": (50_000, 10_000, (32, 32, 3), 100),
    # images have to be resized to one size
    "imagenet2012": (1_281_167, 50_000, (224, 224, 3), 1000),
    "mnist": (60_000, 10_000, (28, 28, 1), 10),
    "tiny_imagenet": (80_000, 20_000, (64, 64, 3), 200),
}
"""Training samples, test samples, shape of an image, and classes, by name."""
_EDGE = r"(-?\d+|-?\d+\.?\d*%)?"
_SLICE = re.compile(rf"(train|test|validation)(?:\[{_EDGE}:{_EDGE}\])?")


class _StandIn(Splits):
    """Data set whose images take no memory and no time to read."""

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over the name, the shapes and the labels."""
        shapes = [array.shape for array in (*self.train, *self.test)]
        sha = hashlib.sha256(f"stand-in {self.name} {shapes}".encode())
        for part in (self.train, self.test):
            sha.update(part.labels.tobytes())
        return sha.hexdigest()


def stand_in(
    name: str,
    train_split: str = "train",
    test_split: str = "test",
    size: tuple[int, int] | None = None,
) -> Splits:
    """Return black images in the shapes of a data set, with equally frequent classes.

    Args:
      name: a key of :data:`SHAPES`.
      train_split: TFDS split; ``train[:1000]`` gives 1000 training samples.
      test_split: TFDS split, such as ``validation`` or ``train[80%:]``.
      size: height and width of the images; None for those of the data set.

    Raises:
      InputError: a split whose number of samples is not known.

    >>> stand_in("cifar10", "train[:80%]").train.images.shape
    (40000, 32, 32, 3)
    """
    num_train, num_test, shape, num_classes = SHAPES[name]
    shape = (*(size or shape[:2]), shape[2])
    parts = []
    for split in (train_split, test_split):
        count = _count(name, split, num_train, num_test)
        # broadcasting a single value takes no memory
        images = np.broadcast_to(np.zeros((), np.uint8), (count, *shape))
        labels = np.arange(count, dtype=np.int32) % num_classes
        parts.append(Dataset(images, labels))
    names = tuple(map(str, range(num_classes)))
    return _StandIn(name, parts[0], parts[1], num_classes, names)


def _count(name: str, split: str, num_train: int, num_test: int) -> int:
    """Return the number of samples of a TFDS split, rounded as TFDS does."""
    total = 0
    for part in split.split("+"):
        sliced = _SLICE.fullmatch(part.strip())
        if sliced is None:
            raise InputError(
                f"the size of split {split!r} of {name} is not known: write train, test"
                " or validation, sliced as in train[:1000] or train[80%:], joined by +"
            )
        count = num_train if sliced[1] == "train" else num_test
        first = _position(sliced[2] or "0", count)
        last = _position(sliced[3] or "100%", count)
        total += len(range(count)[first:last])
    return total


def _position(edge: str, count: int) -> int:
    """Return the row at the edge of a slice, an integer or a percentage of a number."""
    if edge.endswith("%"):
        return round(float(edge[:-1]) * count / 100)
    return int(edge)
