"""The pool is the training set, then the test set; masks keep their places on it."""

import numpy as np
import pytest

from unlearn_jax import data
from unlearn_jax.types import InputError


@pytest.fixture(scope="module")
def splits():
    """Bundled digits."""
    return data.load_digits()


def test_pool_is_train_then_test(splits):
    pooled = data.pool(splits)
    num_train = len(splits.train.labels)
    for joined, train, test in zip(pooled, splits.train, splits.test, strict=True):
        assert joined.dtype == train.dtype
        assert np.array_equal(joined[:num_train], train)
        assert np.array_equal(joined[num_train:], test)


def test_sets_that_repeat_different_images_are_pooled_as_others():
    images = [np.broadcast_to(np.uint8(c), (4, 2, 2, 1)) for c in (0, 255)]
    labels = np.arange(4) % 2
    pooled = data.pool(data.load_arrays(images[0], labels, images[1], labels))
    assert pooled.images[:, 0, 0, 0].tolist() == [0] * 4 + [255] * 4


def test_masks_keep_their_places(splits):
    num_train = len(splits.train.labels)
    num_test = len(splits.test.labels)
    train = data.pool_mask(splits)
    assert train.dtype == bool
    assert np.array_equal(train, np.arange(num_train + num_test) < num_train)
    forget = data.forget_random(num_train, count=40, seed=0)
    placed = data.pool_mask(splits, forget)
    assert np.array_equal(np.flatnonzero(placed), np.flatnonzero(forget))
    stacked = data.pool_mask(splits, np.stack([[forget, ~forget]] * 3))
    assert stacked.shape == (3, 2, num_train + num_test)
    assert np.array_equal(stacked[1, 0], placed)
    assert np.array_equal(stacked[2, 1], train & ~placed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mask: mask.astype(int), "pass booleans"),
        (lambda mask: mask[:-1], "one entry for each"),
        (lambda mask: np.append(mask, True), "one entry for each"),
        (lambda mask: True, "one entry for each"),
    ],
)
def test_bad_input_is_one_line(splits, change, message):
    mask = np.ones(len(splits.train.labels), bool)
    with pytest.raises(InputError, match=message):
        data.pool_mask(splits, change(mask))
