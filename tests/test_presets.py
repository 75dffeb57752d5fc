"""Presets: completed knobs, and tuning that never touches what is reported."""

import dataclasses

import pytest

from unlearn_jax.pipeline import RunConfig, presets
from unlearn_jax.types import InputError


def test_complete_writes_every_plain_knob_and_keeps_what_is_given():
    config = presets.complete(RunConfig(rows={"a": {"method": "amun", "learning_rate": 0.5}}))
    row = config.rows["a"]
    assert row["learning_rate"] == 0.5
    assert row["retain"] is True
    assert row["num_epochs"] == 10
    assert row["batch_size"] == config.training.batch_size
    assert row["label"] == "a"
    assert all(isinstance(value, bool | int | float | str) for value in row.values())
    assert presets.complete(config) == config


def test_tuning_is_on_other_originals_and_forget_sets():
    base = presets.complete(RunConfig())
    grid = presets.tuning_grid(base, originals=(50,), forget_seeds=(60, 61), learning_rates=(0.1, 0.2), decays=(0,))
    assert len(grid.rows) == 2 * len(base.rows)
    assert grid.replicas.references == base.replicas.references
    assert grid.forget.seeds == (60, 61)
    assert sorted({row["learning_rate"] for row in grid.rows.values()}) == [0.1, 0.2]
    with pytest.raises(InputError, match="never tune on what is reported"):
        presets.tuning_grid(base, originals=(0,), forget_seeds=(60,), learning_rates=(0.1,))
    with pytest.raises(InputError, match="never tune on what is reported"):
        presets.tuning_grid(base, originals=(50,), forget_seeds=base.forget.seeds[:1], learning_rates=(0.1,))


@pytest.mark.parametrize("name", sorted(presets.names()))
def test_tuning_presets_share_nothing_that_their_table_reports(name):
    if not name.endswith("_tuning"):
        assert presets.load(name).about
        return
    tuned, table = presets.load(name).config, presets.load(name.removesuffix("_tuning")).config
    assert not set(tuned.forget.seeds) & set(table.forget.seeds)
    assert not set(tuned.replicas.originals) & set(table.replicas.originals)
    for key, row in table.rows.items():
        tried = {(r["learning_rate"], r["decay_every"]) for k, r in tuned.rows.items() if k.startswith(f"{key}-")}
        assert (row["learning_rate"], row["decay_every"]) in tried, f"{name} never tried the reported value of {key}"
    assert dataclasses.asdict(tuned.training) == dataclasses.asdict(table.training)
