"""The study of the cost of references, on a few digits; its arithmetic by hand."""

import dataclasses

import numpy as np
import pytest

from unlearn_jax.data import membership_design
from unlearn_jax.pipeline import (
    DataConfig,
    Experiment,
    ModelConfig,
    TrainingConfig,
    dry_run_experiment,
    run_experiment,
)
from unlearn_jax.studies.references import resnet18, resnet18_page
from unlearn_jax.types import InputError

EXPERIMENT = Experiment(
    "References", resnet18.Config(), resnet18.make_artifacts, resnet18_page.make_page
)


@pytest.fixture(scope="module")
def config():
    return resnet18.Config(
        counts=(2, 4),
        group=2,
        data=DataConfig(num_train=60, num_test=40),
        model=ModelConfig(name="resnet", blocks=(1, 1), width=4),
        training=TrainingConfig(num_epochs=12, batch_size=16, learning_rate=0.1),
        peak_tflops=2.0,
    )


def test_small_references_are_trained_and_priced(config, tmp_path):
    listed = dry_run_experiment(EXPERIMENT, tmp_path / "run", config=config)
    assert "models-0000-0001" in listed
    assert "models-0002-0003" in listed
    result = run_experiment(
        EXPERIMENT, tmp_path / "run", name="references_resnet18", config=config
    )
    assert all(check.passed for check in result.checks), result.checks
    rows = result.tables[0].rows
    assert [row[0] for row in rows] == ["2", "4"]
    assert all(row[2].mean > 30 for row in rows)  # of their members; chance is 10
    assert rows[0][3] < rows[1][3]  # hours add up
    assert all(row[-1] == pytest.approx(100 * row[-2] / 2.0) for row in rows)
    again = run_experiment(
        EXPERIMENT,
        tmp_path / "run",
        name="references_resnet18",
        config=dataclasses.replace(config, counts=(2, 4, 6), peak_tflops=None),
    )
    assert [stage.cached for stage in again.stages] == [True, True, False]
    assert [row[-1] for row in again.tables[0].rows] == ["unknown"] * 3
    assert "utilization of unknown" in again.summary


def part(seconds, devices, device="NVIDIA A100-SXM4-40GB"):
    return {
        "seconds": np.array(seconds),
        "devices": np.array(devices),
        "device": np.array(device),
        "images": np.array(1e6),
        "flops": np.array(3e9),
    }


def test_utilization_is_operations_over_what_the_devices_could_do(config):
    looked_up = dataclasses.replace(
        config, peak_tflops=None, model=ModelConfig(name="resnet", dtype="bfloat16")
    )
    parts = [part(10.0, 2), part(20.0, 1)]
    assert resnet18_page.utilization(looked_up, parts) == pytest.approx(
        2 * 3e15 / (40 * 312e12)
    )
    assert resnet18_page.utilization(config, parts) == pytest.approx(
        2 * 3e15 / (40 * 2e12)
    )
    assert resnet18_page.utilization(looked_up, [*parts, part(1.0, 1, "cpu")]) is None


def test_designs_and_refusals(config):
    parts = resnet18.make_artifacts(
        dataclasses.replace(config, counts=(4, 10), group=4)
    )
    names = [part.name for part in parts]
    assert names == ["models-0000-0003", "models-0004-0007", "models-0008-0009"]
    np.testing.assert_array_equal(
        resnet18._design(config, 4, 10, 9), membership_design(6, 9, seed=4)
    )
    for change, message in (
        ({"counts": (4, 2)}, "even and ascending"),
        ({"counts": (3,)}, "even and ascending"),
        ({"group": 0}, "at least 1"),
        ({"peak_tflops": 0.0}, "positive and finite"),
    ):
        with pytest.raises(InputError, match=message):
            resnet18.make_artifacts(dataclasses.replace(config, **change))
