"""The studies of Boltzmann machines, whole, at their smallest."""

import dataclasses

import numpy as np
import pytest
from support.studies import check_study

from unlearn_jax import InputError
from unlearn_jax.pipeline import DataConfig
from unlearn_jax.pipeline.report.blocks import Table
from unlearn_jax.studies.rbm import bars, bars_page, digits, digits_page


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


def made_up(config, divergence):
    """Return artifacts of untrained machines, equally far from the oracle."""
    names = ["dense"]
    for mask in digits.MASKS:
        for stage in digits.DILUTED:
            names += [f"{mask}-{stage}-{fraction}" for fraction in config.fractions]
    shape = (len(config.classes), len(digits.ROWS))
    chains = config.num_chains
    found = {}
    for seed in config.seeds:
        rng = np.random.default_rng(seed)
        size = len(digits.load(config, seed)["test_labels"])
        found[f"diluted-{seed}"] = {
            "names": np.array(names),
            "scores": rng.normal(-17, 0.1, (len(names), size)),
            "leak": np.float32(0),
            "samples": np.zeros((len(names), chains, 64), np.uint8),
            "sample_weights": np.ones((len(names), chains)),
        }
        found[f"forgotten-{seed}"] = {
            "scores": rng.normal(-16, 1, (*shape, size)),
            "effective": np.full(shape, 10.0),
            "divergence": np.full(shape, divergence) + rng.normal(0, 0.001, shape),
            "samples": np.zeros((*shape, chains, 64), np.uint8),
            "sample_weights": np.full((*shape, chains), divergence / divergence),
        }
        found[f"judged-{seed}"] = {
            "accuracy": np.array(0.95),
            "diluted": np.full(len(names), 0.9),
            "forgotten": rng.uniform(0.1, 0.2, (*shape, 10)),
        }
    numbers = ("estimate", "exact", "error", "forward", "backward")
    found["bracket"] = dict.fromkeys(numbers, 1.0)
    return found


@pytest.mark.parametrize("divergence", [-0.02, 0.0005, np.nan])
def test_page_of_any_estimate_of_the_divergence(divergence):
    config = digits.Config(
        seeds=(0, 1), classes=(1,), fractions=(0.1, 0.9), num_chains=16
    )
    found = made_up(config, divergence)
    for seed in config.seeds:
        effective = found[f"forgotten-{seed}"]["effective"]
        effective[:, list(digits.ROWS).index("ascent-tune")] = 3
    page = digits_page.make_page(config, found)
    table = page.find(Table)[0]
    for row in table.rows[1:]:
        if np.isnan(divergence):
            assert row[-1] == "diverged 2 of 2"
        else:
            assert row[-1].mean == pytest.approx(divergence, abs=0.002)
            assert row[-1].low >= min(0, row[-1].mean)
    assert "at least 10 effective samples of 16, and 3 after ascent" in table.caption


def test_cells_of_bars_that_forget_or_diverge():
    rng = np.random.default_rng(0)
    config = bars.Config(seeds=(0, 1, 2))
    arrays = {
        name: np.abs(rng.normal(0, 1, (3, 3)))
        for name in ("retrained", *bars_page.ROWS)
    }
    arrays["tune-500"][:, 1] = [0.001, 0.0, 0.01]
    arrays["ascent-60"][1, 2] = np.inf
    rows = bars_page.deletion_table(config, arrays).rows
    cells = {row[0]: row for row in rows}
    assert cells[bars_page.ROWS["tune-500"]][2].low == 0
    assert cells[bars_page.ROWS["ascent-60"]][3] == "diverged 1 of 3"


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
