"""The studies of Boltzmann machines, whole, at their smallest."""

import dataclasses

import numpy as np
import pytest
from support.studies import check_study

from unlearn_jax import InputError
from unlearn_jax.pipeline import DataConfig
from unlearn_jax.studies.rbm import digits


def test_digits_of_any_source_are_split_by_seed_and_binarized(tmp_path):
    """As those of ``rbm_mnist``, from a file."""
    images = np.random.default_rng(0).integers(0, 256, (60, 6, 6, 1), np.uint8)
    labels = np.arange(60, dtype=np.int32) % 3
    file = tmp_path / "gray.npz"
    parts = {"train_images": images[:40], "train_labels": labels[:40]}
    parts |= {"test_images": images[40:], "test_labels": labels[40:]}
    np.savez(file, **parts)
    source = DataConfig(source="npz", path=str(file), num_train=30, num_test=20)
    config = digits.Config(data=source, num_train=30)
    first = digits.load(config, 0)
    assert first["train"].shape == (30, 36)
    assert set(np.unique(first["train"])) == {0, 1}
    assert not np.array_equal(first["train"], digits.load(config, 1)["train"])
    pictures = digits.as_images(first["test"])
    assert pictures.shape == (20, 6, 6, 1)
    gray = images.reshape(60, 36) > 127
    assert all(np.any(np.all(gray == row, 1)) for row in first["test"])
    with pytest.raises(InputError, match="give both the same number"):
        digits.load(dataclasses.replace(config, num_train=20), 0)


@pytest.mark.slow
def test_rbm_bars(tmp_path):
    check_study(
        "rbm_bars",
        tmp_path,
        seeds=(0, 1),
        num_hidden=4,
        num_steps=20,
        fractions=(0.3, 0.6),
    )


@pytest.mark.slow
def test_rbm_digits(tmp_path):
    check_study(
        "rbm_digits",
        tmp_path,
        seeds=(0, 1),
        classes=(1,),
        fractions=(0.5, 0.9),
        num_train=500,
        num_hidden=8,
        num_steps=10,
        num_chains=16,
        num_betas=10,
    )
