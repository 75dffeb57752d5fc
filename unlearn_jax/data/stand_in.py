"""Stand-ins with the shapes of data sets, for programs that are compiled only."""

import functools
import hashlib
import re

import numpy as np

from unlearn_jax.data.sources import Splits
from unlearn_jax.types import Dataset

SHAPES = {
    "cifar10": (50_000, 10_000, (32, 32, 3), 10),
    "cifar100": (50_000, 10_000, (32, 32, 3), 100),
    # images have to be resized to one size
    "imagenet2012": (1_281_167, 50_000, (224, 224, 3), 1000),
    "mnist": (60_000, 10_000, (28, 28, 1), 10),
    "tiny_imagenet": (80_000, 20_000, (64, 64, 3), 200),
}
"""Training samples, test samples, shape of an image, and classes, by name."""


class _StandIn(Splits):
    """Data set whose images take no memory and no time to read."""

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over the name and the shapes."""
        shapes = [array.shape for array in (*self.train, *self.test)]
        return hashlib.sha256(f"stand-in {self.name} {shapes}".encode()).hexdigest()


def stand_in(name: str, train_split: str = "train") -> Splits:
    """Return black images in the shapes of a data set, with equally frequent classes.

    Args:
      name: a key of :data:`SHAPES`.
      train_split: TFDS split; ``train[:1000]`` gives 1000 training samples.

    >>> stand_in("cifar10").train.images.shape
    (50000, 32, 32, 3)
    """
    num_train, num_test, shape, num_classes = SHAPES[name]
    first = re.search(r"\[:(\d+)\]$", train_split)
    num_train = min(num_train, int(first[1])) if first else num_train
    parts = []
    for count in (num_train, num_test):
        # broadcasting a single value takes no memory
        images = np.broadcast_to(np.zeros((), np.uint8), (count, *shape))
        labels = np.arange(count, dtype=np.int32) % num_classes
        parts.append(Dataset(images, labels))
    names = tuple(map(str, range(num_classes)))
    return _StandIn(name, parts[0], parts[1], num_classes, names)
