"""Presets: completed knobs, and tuning that never touches what is reported."""

import pytest

from unlearn_jax import methods, values
from unlearn_jax.pipeline import RunConfig, TuningConfig, presets
from unlearn_jax.pipeline.config import checks, rows
from unlearn_jax.pipeline.config import resolve as settings
from unlearn_jax.types import InputError


def test_complete_writes_every_plain_knob_and_keeps_what_is_given():
    config = presets.complete(
        RunConfig(rows={"a": {"method": "amun", "learning_rate": 0.5}})
    )
    row = config.rows["a"]
    assert row["learning_rate"] == 0.5
    assert row["retain"] is True
    assert row["num_epochs"] == 10
    assert row["batch_size"] == config.training.batch_size
    assert row["label"] == "a"
    assert all(isinstance(value, bool | int | float | str) for value in row.values())
    assert presets.complete(config) == config


def test_a_method_keeps_its_own_defaults_and_takes_the_rest_from_training():
    config = presets.complete(
        RunConfig(
            rows={"a": {"method": "boundary_shrink"}, "b": {"method": "bad_teacher"}}
        )
    )
    assert config.rows["a"]["weight_decay"] == 0.0  # the method's
    assert config.rows["a"]["batch_size"] == config.training.batch_size  # the run's
    assert config.rows["b"]["batch_size"] == 256  # the method's


def test_complete_shows_the_search_where_there_is_one():
    row = {
        "a": {"method": "amun"},
        "b": {"method": "amun", "search": {"learning_rate": [0.1]}},
    }
    searched = presets.complete(RunConfig(rows=row, tuning=TuningConfig(trials=2)))
    assert searched.rows["a"]["search"] == methods.SPACES["amun"]
    assert searched.rows["b"]["search"] == {"learning_rate": [0.1]}
    assert "search" not in presets.complete(RunConfig(rows=row)).rows["a"]


@pytest.mark.parametrize("name", sorted(presets.names()))
def test_presets_say_what_they_are_and_tune_on_nothing_that_they_report(name):
    preset = presets.load(name)
    assert preset.about
    for config in preset.variants.values():
        checks.check_settings(config)
        for key, row in config.rows.items():
            settings.make_row(key, row, config.training)
        if config.tuning.trials:
            assert not set(config.tuning.originals) & set(config.replicas.originals)
            assert not set(config.tuning.seeds) & set(config.forget.seeds)


def test_every_search_is_of_knobs_that_the_method_has():
    for name, space in methods.SPACES.items():
        assert set(space) <= set(values.fields_of(methods.METHODS[name])), name
        for trial in methods.draw_trials(space, 20):
            values.replace(methods.METHODS[name], **trial)


def test_shared_rows_name_every_method_once():
    with_retain = [row["method"] for row in rows.with_retain().values()]
    assert len(with_retain) == len(set(with_retain))
    classes = {row["method"] for row in rows.for_classes().values()}
    # the network's own kernel is too large for the presets' training sets
    assert set(with_retain) | classes == set(methods.METHODS) - {
        "retrain",
        "ntk_influence",
    }
    assert {"trw", "delete", "influence_target", "svd_projection"} <= classes - set(
        with_retain
    )
    same = [
        key
        for key, row in rows.for_classes().items()
        if row == rows.for_classes(small=True)[key]
    ]
    assert set(rows.for_classes()) - set(same) == {"unsir", "l2ul"}
    for key, row in rows.without_retain().items():
        assert row["retain"] is False
        assert key.endswith("_no_retain")


def test_a_file_that_fails_is_one_line(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text(
        "from unlearn_jax.pipeline import RunConfig\nPRESET = RunConfig(epochs=3)"
    )
    with pytest.raises(
        InputError, match=r"broken.py cannot be read: TypeError: .*epochs"
    ):
        presets.load(str(path))


def test_a_file_without_a_preset_is_refused(tmp_path):
    path = tmp_path / "empty.py"
    path.write_text("STUDY = {}")
    with pytest.raises(InputError, match="defines no PRESET"):
        presets.load(str(path))
