"""Data sets by their shapes alone, for programs that are compiled and not run."""

import numpy as np

from unlearn_jax.data.sources import Splits
from unlearn_jax.types import Dataset

SHAPES = {
    "cifar10": (50_000, 10_000, (32, 32, 3), 10),
    "cifar100": (50_000, 10_000, (32, 32, 3), 100),
    "mnist": (60_000, 10_000, (28, 28, 1), 10),
}
"""Training samples, test samples, shape of an image, and classes, by TFDS name."""


def stand_in(name: str) -> Splits:
    """Return black images in the shapes of a data set, all classes alike.

    Args:
      name: a key of :data:`SHAPES`.

    >>> stand_in("cifar10").train.images.shape
    (50000, 32, 32, 3)
    """
    num_train, num_test, shape, num_classes = SHAPES[name]
    parts = []
    for count in (num_train, num_test):
        # one pixel, repeated: takes no memory
        images = np.broadcast_to(np.zeros((), np.uint8), (count, *shape))
        labels = np.arange(count, dtype=np.int32) % num_classes
        parts.append(Dataset(images, labels))
    names = tuple(map(str, range(num_classes)))
    return Splits(name, parts[0], parts[1], num_classes, names)
