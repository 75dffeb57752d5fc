"""Stand-ins count the samples of their splits as TFDS does, and take no memory."""

import pytest
from support.refusals import refuses

from unlearn_jax import data
from unlearn_jax.data.stand_in import stand_in
from unlearn_jax.pipeline import DataConfig
from unlearn_jax.pipeline.config.resolve import load_data


@pytest.mark.parametrize(
    ("split", "count"),
    [
        ("train[:1000]", 1000),
        ("train[:10%]", 5000),
        ("train[80%:]", 10_000),
        ("train[1000:2000]", 1000),
        ("train[-100:]", 100),
        ("train[:12.5%] + test[:50%]", 11_250),
        ("validation", 10_000),
    ],
)
def test_splits_have_their_samples(split, count):
    config = DataConfig(
        source="tfds",
        name="cifar10",
        train_split=split,
        test_split="test[:100]",
        size=(64, 48),
    )
    splits = load_data(config, by_shape=True)
    assert splits.train.images.shape == (count, 64, 48, 3)
    assert splits.test.images.shape == (100, 64, 48, 3)
    assert len(stand_in("cifar10", test_split=split).test.labels) == count


@pytest.mark.parametrize("split", ["all", "train[:1shard]", "train[5]", "train+"])
def test_splits_of_unknown_size_are_refused(split):
    with refuses("of cifar10 is not known: write train, test or validation"):
        stand_in("cifar10", split)


@pytest.mark.parametrize(
    "change",
    [
        lambda splits: data.resplit(splits, num_train=600, num_test=10, seed=0),
        lambda splits: data.resplit(
            splits, num_train=600, num_test=10, seed=0, balanced=True
        ),
        lambda splits: data.select_classes(splits, [3, 1]),
    ],
)
def test_parts_take_no_memory(change):
    whole = stand_in("mnist")
    part = change(whole)
    assert type(part) is type(whole)
    for samples in (part.train, part.test):
        assert set(samples.images.strides) == {0}
        assert len(samples.images) == len(samples.labels)
    assert part.digest != whole.digest


def test_other_samples_of_the_same_shapes_are_another_data_set():
    drawn = [
        data.resplit(stand_in("mnist"), num_train=600, num_test=10, seed=seed)
        for seed in (0, 0, 1)
    ]
    assert drawn[0].digest == drawn[1].digest != drawn[2].digest
