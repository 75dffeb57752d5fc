"""The study of spectral norms: a tiny network, and a page made of known numbers."""

import dataclasses

import numpy as np
import pytest

from unlearn_jax.audit import summarize_runs
from unlearn_jax.pipeline import DataConfig, ModelConfig
from unlearn_jax.pipeline.report.blocks import Check, Table
from unlearn_jax.studies.norms.artifacts import (
    ARMS,
    NormConfig,
    make_artifacts,
    measure,
)
from unlearn_jax.studies.norms.page import accuracy, excess, make_page
from unlearn_jax.types import InputError

CONFIG = NormConfig(
    seeds=(0, 1), batch_norm=(False,), target=0.5, num_epochs=2, num_slopes=3
)
SMALL = dataclasses.replace(
    CONFIG,
    seeds=(0, 1),
    data=DataConfig(num_train=64, num_test=32),
    model=ModelConfig(name="mlp", widths=[4]),
)


def made_up(norms, rng):
    norms = np.asarray(norms)
    return {
        "history": np.stack([2 * norms, norms], 1),
        "trained": 2 * norms,
        "norms": norms,
        "correct_trained": rng.uniform(size=(2, 50)) < 0.4,
        "correct": rng.uniform(size=(2, 50)) < 0.8,
        "slopes": np.full((2, 3), 0.1),
        "layers": np.array(["params/Conv_0/kernel", "params/Dense_0/kernel"]),
    }


def test_page_shows_the_norms_and_fails_where_fastclip_is_outside():
    rng = np.random.default_rng(0)
    found = {
        part.name: made_up([[0.5, 0.4], [0.502, 0.3]], rng)
        for part in make_artifacts(CONFIG)
    }
    found["gouk-plain"] = made_up([[0.6, 0.4], [0.7, 0.3]], rng)
    page = make_page(CONFIG, found)
    assert [check.passed for check in page.find(Check)] == [True, True]
    table, bounds, closing = page.find(Table)
    assert [row[0] for row in table.rows] == list(ARMS.values())
    gouk = table.rows[list(ARMS).index("gouk")]
    np.testing.assert_allclose(
        gouk[1].mean, 100 * found["gouk-plain"]["correct"].mean()
    )
    np.testing.assert_allclose(
        [gouk[2].mean, gouk[3].mean, gouk[4].mean], [30.0, 0.65, 0.35]
    )
    np.testing.assert_allclose(
        bounds.rows[list(ARMS).index("gouk")][1].mean, (0.24 + 0.21) / 2
    )
    np.testing.assert_allclose(
        [row[1].mean for row in closing.rows], [100.4, 0.2], rtol=1e-6
    )
    assert "FFT clip (Sedghi) +0.4%" in page.summary
    outside = make_page(CONFIG, found | {"fastclip-plain": found["gouk-plain"]})
    assert [check.passed for check in outside.find(Check)] == [False, True]
    steep = made_up([[0.5, 0.4], [0.5, 0.4]], rng) | {
        "slopes": np.array([[0.1], [0.3]])
    }
    assert not make_page(CONFIG, found | {"none-plain": steep}).find(Check)[-1].passed


def test_intervals_hold_the_mean_and_distances_are_relative():
    right = np.random.default_rng(1).uniform(size=(3, 400)) < 0.7
    for estimate, mean in (
        (accuracy(right), 100 * right.mean()),
        (summarize_runs([1.0, 2.0, 3.0]), 2.0),
    ):
        assert estimate.low < mean < estimate.high
        np.testing.assert_allclose(estimate.mean, mean)
    np.testing.assert_allclose(
        excess(np.array([[1.0, 2.2], [1.0, 1.5]]), 2.0), [0.1, -0.25]
    )


def test_parts_are_named_keyed_and_checked():
    parts = make_artifacts(CONFIG)
    assert [part.name for part in parts] == [f"{arm}-plain" for arm in ARMS]
    mnist = DataConfig(source="tfds", name="mnist")
    moved = [
        dataclasses.replace(CONFIG, data=dataclasses.replace(mnist, path=path))
        for path in (None, "/elsewhere")
    ]
    first, second = ([part.key for part in make_artifacts(config)] for config in moved)
    assert first == second
    slower = dataclasses.replace(CONFIG, learning_rate=0.01)
    keys = [part.key for part in parts]
    assert not set(keys) & {part.key for part in make_artifacts(slower)}
    for changes, message in (
        ({"arms": ("nobody",)}, "unknown arm 'nobody'"),
        ({"seeds": ()}, "seeds must have at least one"),
    ):
        with pytest.raises(InputError, match=message):
            make_artifacts(dataclasses.replace(CONFIG, **changes))
    with pytest.raises(InputError, match="no field 'batch_norm'"):
        measure(SMALL, "none", False)


def test_a_part_trains_clips_and_measures():
    tiny = dataclasses.replace(
        SMALL, model=ModelConfig(name="cnn", widths=[2]), seeds=(0, 1)
    )
    found = measure(tiny, "fastclip", False)
    assert found["history"].shape == (2, 2, 2)
    assert list(found["layers"]) == ["params/Conv_0/kernel", "params/Dense_0/kernel"]
    assert (found["trained"].max(-1) > 0.55).all()
    assert (np.abs(found["norms"].max(-1) / 0.5 - 1) < 0.01).all()
    assert found["slopes"].shape == (2, 3)
    assert (found["slopes"] <= found["norms"].prod(-1)[:, None] * (1 + 1e-5)).all()
    assert found["correct"].shape == found["correct_trained"].shape == (2, 32)
