"""Presets: completed rows, and tuning that never touches what is reported."""

import dataclasses
import sys

import pytest

from unlearn_jax import methods, values
from unlearn_jax.attacks import PGD, FixedRadius, LineSearch
from unlearn_jax.filters import MPRU, Mask
from unlearn_jax.methods import AMUN, BadTeacher, BoundaryShrink, Retrain
from unlearn_jax.pipeline import (
    AttackConfig,
    Row,
    RunConfig,
    TrainingConfig,
    TuningConfig,
    presets,
)
from unlearn_jax.pipeline.config import checks, rows
from unlearn_jax.pipeline.config.overrides import choose_values, pin_overridden_fields
from unlearn_jax.pipeline.config.resolve import (
    complete,
    method_name,
    resolve_rows,
)
from unlearn_jax.pipeline.config.rows import with_options
from unlearn_jax.pipeline.config.schema import to_json
from unlearn_jax.types import InputError


def test_complete_writes_what_the_run_gives_and_keeps_what_is_given():
    config = complete(RunConfig(rows={"a": Row(method=AMUN(learning_rate=0.5))}))
    row = config.rows["a"]
    assert row.method.learning_rate == 0.5
    assert row.method.num_epochs == 10
    assert row.method.batch_size == config.training.batch_size
    assert row.method.attack.search.num_radii == config.attack.num_radii
    assert row.label == "a"
    assert complete(config) == config


def test_rows_still_follow_a_run_that_changes():
    config = complete(RunConfig(rows={"a": Row(method=AMUN())}))
    training = TrainingConfig(batch_size=32, augment="nudge", momentum=0.5)
    attack = AttackConfig(num_steps=7)
    config = dataclasses.replace(config, training=training, attack=attack)
    rows, attacks = resolve_rows(config)
    method = rows["a"].method
    assert (method.batch_size, method.augment) == (32, "nudge")
    assert method.optimizer.momentum == 0.5
    assert method.attack.num_steps == attacks[""].attack.num_steps == 7


def test_a_method_keeps_its_own_defaults_and_takes_the_rest_from_training():
    config = RunConfig(
        training=TrainingConfig(batch_size=32, weight_decay=0.1, augment="nudge"),
        rows={
            "shrink": Row(method=BoundaryShrink()),
            "teacher": Row(method=BadTeacher()),
            "given": Row(method=AMUN(batch_size=50)),
            "as_it_is": Row(method=AMUN(), follow=()),
        },
    )
    rows, attacks = resolve_rows(config)
    assert rows["shrink"].method.weight_decay == 0.0  # the method's
    assert rows["shrink"].method.batch_size == 32  # the run's
    assert rows["teacher"].method.batch_size == 256  # the method's
    assert rows["given"].method.batch_size == 50
    assert rows["given"].method.augment == "nudge"
    assert rows["as_it_is"].method == dataclasses.replace(AMUN(), attack=PGD())
    assert set(attacks) == {"", "as_it_is"}


def test_retraining_follows_the_run_in_all():
    training = TrainingConfig(num_epochs=7, learning_rate=0.3, decay_every=2)
    rows, _ = resolve_rows(
        RunConfig(training=training, rows={"retrain": Row(method=Retrain())})
    )
    method = rows["retrain"].method
    assert (method.num_epochs, method.learning_rate, method.decay_every) == (7, 0.3, 2)


def test_a_row_with_an_attack_of_its_own_is_given_its_sets():
    own = PGD(num_steps=3, search=FixedRadius(epsilon=0.5))
    rows, attacks = resolve_rows(RunConfig(rows={"a": Row(method=AMUN(attack=own))}))
    assert rows["a"].attack == "a"
    assert attacks["a"].attack == rows["a"].method.attack == own


@pytest.mark.parametrize("order", [("weak", "other"), ("other", "weak")])
def test_an_attack_of_a_row_never_replaces_one_of_the_run_with_its_name(order):
    given = {
        "weak": Row(method=AMUN(attack=PGD(num_steps=1))),
        "other": Row(method=AMUN(), attack="weak"),
    }
    config = RunConfig(
        attacks={"weak": AttackConfig(num_steps=40)},
        rows={name: given[name] for name in order},
    )
    rows, attacks = resolve_rows(config)
    assert {name: row.attack for name, row in rows.items()} == {
        "weak": "own-weak",
        "other": "weak",
    }
    for row in rows.values():
        assert attacks[row.attack].attack.num_steps == row.method.attack.num_steps
    alone, _ = resolve_rows(dataclasses.replace(config, only=("weak",)))
    assert alone["weak"].attack == "weak"


def test_a_weak_attack_makes_the_sets_and_descent_the_retries():
    config = RunConfig(
        attacks={"fast": AttackConfig(kind="fast", norm="linf", num_steps=4)},
        rows={"a": Row(method=AMUN(), attack="fast")},
    )
    rows, attacks = resolve_rows(config)
    assert attacks["fast"].attack == LineSearch(norm="linf")
    assert rows["a"].method.attack.num_steps == 4


def test_fields_of_the_command_line_are_not_followed():
    arguments = ["--rows.a-b.method.batch-size=128", "--training.batch_size", "32"]
    config = complete(
        RunConfig(
            training=TrainingConfig(batch_size=32),
            rows={"a-b": Row(method=AMUN()), "c": Row(method=AMUN())},
        )
    )
    given = with_options(config.rows["a-b"], batch_size=128)
    config = dataclasses.replace(config, rows={**config.rows, "a-b": given})
    rows, _ = resolve_rows(pin_overridden_fields(config, arguments))
    assert rows["a-b"].method.batch_size == 128
    assert rows["c"].method.batch_size == 32


@pytest.mark.parametrize("is_complete", [False, True])
def test_options_of_the_command_line_are_not_searched_even_at_their_defaults(
    is_complete,
):
    rows = {
        "a-b": Row(method=AMUN()),
        "own": Row(method=AMUN(), search={"learning_rate": [0.1, 0.2]}),
        "salun": Row(method=methods.METHODS["salun"]),
        "other": Row(method=AMUN()),
    }
    config = RunConfig(rows=rows, tuning=TuningConfig(trials=2 * is_complete))
    arguments = [
        f"--rows.a-b.method.learning-rate={AMUN().learning_rate}",
        "--rows.own.method.learning_rate",
        "0.01",
        "--rows.salun.method.constraints.0.fraction=0.5",
    ]
    found, _ = resolve_rows(pin_overridden_fields(complete(config), arguments))
    assert set(found["a-b"].space) == {"decay_every"}
    assert set(found["own"].space) == set()
    assert set(found["salun"].space) == {"learning_rate"}
    assert set(found["other"].space) == {"learning_rate", "decay_every"}


def test_a_row_with_another_method_keeps_a_search_of_its_own_that_fits():
    own = {"learning_rate": {"low": 0.1, "high": 0.2}}
    rows = {
        "usual": Row(method=AMUN()),
        "own": Row(method=AMUN(), search=own),
        "none": Row(method=AMUN(), search={}),
    }
    config = complete(RunConfig(rows=rows, tuning=TuningConfig(trials=2)))
    finetune = [f"--rows.{name}.method=finetune" for name in rows]
    found, _ = choose_values(config, finetune)
    assert found.rows["usual"].search == methods.SPACES["finetune"]
    assert found.rows["own"].search == own
    assert found.rows["none"].search == {}
    with pytest.warns(UserWarning, match="row 'own' searches 'learning_rate', which"):
        found, _ = choose_values(config, ["--rows.own.method=ssd"])
    assert found.rows["own"].search == methods.SPACES["ssd"]


def test_filters_are_values_with_names_on_the_command_line():
    given = {
        "mask": Row(method=methods.filtered(AMUN(), Mask())),
        "bare": Row(method=AMUN()),
    }
    training = TrainingConfig(batch_size=48)
    config = complete(RunConfig(rows=given, training=training))
    for words, expected in [
        (["--rows.mask.method.filter=mpru_direct"], MPRU(variant="direct")),
        (["--rows.mask.method.filter", "mpru"], MPRU()),
    ]:
        found, others = choose_values(config, words)
        assert others == []
        assert found.rows["mask"].method.filter == expected
    rows, _ = resolve_rows(config)
    assert rows["mask"].filter_name == rows["mask"].settings["filter"] == "mask"
    assert rows["bare"].filter_name is None
    assert rows["mask"].method == rows["bare"].method, "the models are the same"
    assert rows["mask"].method.batch_size == 48
    assert rows["mask"].name == "amun"
    words = ["--rows.mask.method.method.batch-size=16"]
    small = with_options(config.rows["mask"], batch_size=16)
    read = dataclasses.replace(config, rows={"mask": small})
    rows, _ = resolve_rows(pin_overridden_fields(read, words))
    assert rows["mask"].method.batch_size == 16
    with pytest.raises(InputError, match="unknown filter 'sieve'; choose one of mask"):
        choose_values(config, ["--rows.mask.method.filter=sieve"])
    with pytest.raises(InputError, match="the method of row 'bare' has no filter"):
        choose_values(config, ["--rows.bare.method.filter=mask"])


def test_complete_shows_the_search_where_there_is_one():
    rows = {
        "a": Row(method=AMUN()),
        "b": Row(method=AMUN(), search={"learning_rate": [0.1]}),
    }
    searched = complete(RunConfig(rows=rows, tuning=TuningConfig(trials=2)))
    assert searched.rows["a"].search == methods.SPACES["amun"]
    assert searched.rows["b"].search == {"learning_rate": (0.1,)}
    assert complete(RunConfig(rows=rows)).rows["a"].search is None


def test_nothing_that_a_row_sets_is_searched():
    rows, _ = resolve_rows(
        RunConfig(
            rows={
                "usual": Row(method=AMUN()),
                "given": Row(method=AMUN(learning_rate=0.5)),
                "salun": Row(method=methods.METHODS["salun"]),
            }
        )
    )
    assert set(rows["usual"].space) == {"learning_rate", "decay_every"}
    assert set(rows["given"].space) == {"decay_every"}
    assert set(rows["salun"].space) == {"learning_rate", "fraction"}
    assert [row.name for row in rows.values()] == ["amun", "amun", "salun"]


@pytest.mark.parametrize("name", sorted(presets.names()))
def test_presets_have_a_summary_and_tune_on_nothing_reported(name):
    preset = presets.load(name)
    assert preset.about
    for config in preset.variants.values():
        checks.check_settings(config)
        assert values.from_json(to_json(config)) == config
        resolved, attacks = resolve_rows(config)
        assert {row.attack for row in resolved.values()} <= {None, *attacks}
        if config.tuning.trials:
            assert not set(config.tuning.originals) & set(config.replicas.originals)
            assert not set(config.tuning.seeds) & set(config.forget.seeds)


def test_a_stored_row_with_another_method_searches_what_that_method_does():
    config = presets.load("digits").config
    words = ["--rows.amun.method=l1_sparse"]
    for preset in (config, values.from_json(to_json(config))):
        changed, _ = choose_values(preset, words)
        assert changed.rows["amun"].search == methods.SPACES["l1_sparse"]


@pytest.mark.parametrize("name", sorted(presets.names()))
def test_every_experiment_accepts_its_own_configuration(name):
    experiment = presets.load(name).experiment
    if experiment is None:
        return
    if name in ("puf_cifar10_cpu", "puf_vit_cifar10_cpu"):
        # clients are drawn from the data, which is not at hand here
        with pytest.raises(InputError, match="no prepared data set"):
            experiment.artifacts(experiment.config)
    else:
        assert experiment.artifacts(experiment.config)


def test_every_search_is_of_fields_that_the_method_has():
    for name, space in methods.SPACES.items():
        assert set(space) <= set(values.fields_of(methods.METHODS[name])), name
        for option, levels in methods.draw_levels(space, 20).items():
            for level in levels:
                values.replace(methods.METHODS[name], **{option: level})


def test_shared_rows_name_every_method_once():
    with_retain = [method_name(row.method) for row in rows.with_retain().values()]
    assert len(with_retain) == len(set(with_retain))
    classes = {method_name(row.method) for row in rows.for_classes().values()}
    # the network's own kernel is too large for the presets' training sets; SCAR and
    # UAM are rows of trw_cifar10_cpu, the table that they were baselines of
    assert set(with_retain) | classes == set(methods.METHODS) - {
        "retrain",
        "ntk_influence",
        "scar",
        "uam",
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
        assert row.method.retain is False
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise ValueError", r"broken.py cannot be read: ValueError$"),
        ("1 / 0", "broken.py cannot be read: ZeroDivisionError: division by zero"),
        ("import sys; sys.exit('bye')", "broken.py ends the program: call sys.exit"),
        ("x = 1\0", "broken.py .*source code .*null bytes$"),
        ("STUDY = [1]", "defines no PRESET that is"),
        ("STUDY = {'..': RunConfig()}", "a variant cannot be called '..'"),
        ("STUDY = {1: RunConfig()}", "a variant cannot be called 1: use letters"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(text, message, tmp_path):
    path = tmp_path / "broken.py"
    path.write_text(f"from unlearn_jax.pipeline import RunConfig\n{text}")
    with pytest.raises(InputError, match=message) as error:
        presets.load(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", '{"type": "pipeline.RunConfig"'])
def test_a_damaged_configuration_is_one_line(text, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"cannot be read as a run's config\.json"):
        presets.load(str(path))


def test_a_loss_is_made_of_the_configured_network(tmp_path):
    path = tmp_path / "own_loss.py"
    path.write_text(
        "from unlearn_jax.pipeline import DataConfig, ModelConfig, RunConfig\n"
        "PRESET = RunConfig(\n"
        "    data=DataConfig(source='digits'), model=ModelConfig(name='mlp')\n"
        ")\n"
        "def make_loss(model):\n"
        "    return model.apply\n"
    )
    preset = presets.load(str(path))
    parts = preset.parts(preset.config)
    assert set(parts) == {"splits", "loss_fn"}
    assert callable(parts["loss_fn"])


def test_a_file_is_read_anew_and_leaves_no_bytecode(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "own.py"
    text = (
        "from unlearn_jax.pipeline import RunConfig\nPRESET = RunConfig(title={!r})\n"
    )
    for title in ("first", "other"):
        file.write_text(text.format(title))
        assert presets.load(str(file)).variants[""].title == title
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_without_a_preset_is_refused(tmp_path):
    path = tmp_path / "empty.py"
    path.write_text("STUDY = {}")
    with pytest.raises(InputError, match="defines no PRESET"):
        presets.load(str(path))


def test_some_variants_of_a_study_keep_its_order():
    preset = presets.load("failures_cifar10_cpu")
    assert [*preset.only(["clipped", "masked"]).variants] == ["masked", "clipped"]
    assert [*preset.variants] == ["masked", "adversarial", "clipped"]
