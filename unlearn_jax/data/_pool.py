"""Pooled samples of a membership audit: training set first, then test set."""

import numpy as np
import numpy.typing as npt

from unlearn_jax.data.sources import Splits, join
from unlearn_jax.types import Dataset, InputError


def pool(splits: Splits) -> Dataset:
    """Return training and test samples as one data set, the training set first.

    Reference models train on halves of the pool, and scores are computed for all of it.

    Args:
      splits: the data set.

    Returns:
      ``N_train + N_test`` images and labels, NumPy arrays of the types in ``splits``.

    >>> from unlearn_jax.data import load_digits
    >>> splits = load_digits()
    >>> len(splits.train.labels), len(splits.test.labels), len(pool(splits).labels)
    (900, 897, 1797)
    """
    return join(splits.train, splits.test)


def pool_mask(splits: Splits, mask: npt.ArrayLike | None = None) -> np.ndarray:
    """Return masks of the training set as masks of the pool, False on the test set.

    Args:
      splits: the data set that :func:`pool` was called with.
      mask: ``[..., N_train]`` bool, such as a forget set, or the training samples of
        several models; None for the whole training set.

    Returns:
      ``[..., N_train + N_test]`` bool; ``~pool_mask(splits)`` marks the test set.

    Raises:
      InputError: a mask that is not boolean, or not one entry per training sample.

    >>> from unlearn_jax.data import load_digits
    >>> splits = load_digits()
    >>> forget = np.arange(900) < 100
    >>> pool_mask(splits, forget).shape, int(pool_mask(splits, ~forget).sum())
    ((1797,), 800)
    """
    num_train = len(splits.train.labels)
    array = np.ones(num_train, bool) if mask is None else np.asarray(mask)
    if array.dtype != np.bool_:
        raise InputError(f"mask has dtype {array.dtype}: pass booleans")
    if array.ndim < 1 or array.shape[-1] != num_train:
        raise InputError(
            f"mask has shape {array.shape}: pass one entry for each of the {num_train}"
            " training samples"
        )
    widths = [(0, 0)] * (array.ndim - 1) + [(0, len(splits.test.labels))]
    return np.pad(array, widths)
