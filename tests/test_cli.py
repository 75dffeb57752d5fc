"""The command line: its output, and one line with a status for every mistake."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import time
from typing import get_args

import pytest

from unlearn_jax import cli, data, models, pipeline
from unlearn_jax.methods import METHODS
from unlearn_jax.objectives import TRADES
from unlearn_jax.optimizers import Adam
from unlearn_jax.pipeline import choices, presets, published, study
from unlearn_jax.pipeline.config.command_line import parse
from unlearn_jax.pipeline.config.overrides import choose_values, pin_overridden_fields
from unlearn_jax.pipeline.config.resolve import resolve_rows
from unlearn_jax.pipeline.config.schema import RMIA_SIGNALS, AttackConfig
from unlearn_jax.pipeline.report import run as report
from unlearn_jax.replicas import Form
from unlearn_jax.types import InputError

TINY = """
'''A tiny run.'''
from unlearn_jax.methods import AMUN
from unlearn_jax.pipeline import *
PRESET = RunConfig(
    model=ModelConfig(widths=(8,)),
    training=TrainingConfig(num_epochs=2),
    forget=ForgetConfig(seeds=(1,)),
    replicas=ReplicasConfig(originals=(0,), references=2),
    attack=AttackConfig(num_radii=4, num_steps=3),
    audit=AuditConfig(num_bootstrap=10, mis=False),
    rows={"amun": Row(method=AMUN(num_epochs=1))},
)
"""


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(TINY)
    return str(path)


def shell(*args, cwd):
    return python("-m", "unlearn_jax", *args, cwd=cwd)


def python(*args, cwd):
    env = {
        **os.environ,
        "PYTHONPATH": str(pathlib.Path(cli.__file__).parents[1]),
        "UNLEARN_JAX_CACHE": str(cwd / "cache"),
    }
    return subprocess.run(
        [sys.executable, *args],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=env,
        check=False,
    )


def test_run_from_a_shell(tiny, tmp_path):
    done = shell(
        "run",
        tiny,
        "--workdir",
        "out",
        "--rows.amun.method.learning_rate=0.003",
        "--rows.amun.method.attack.num-steps=2",
        "--forget.seeds",
        "4",
        "7",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "Retrained (oracle)" in done.stdout
    lines = done.stderr.splitlines()
    assert lines[0].endswith(
        "data digits: 900 training and 897 test samples, 10 classes"
    )
    assert re.search(r"\d\d stage 1 of 6, originals \(1\): 1 of 1 to do$", lines[1])
    assert re.search(
        r"stage 1 of 6, originals \(1\): 1 done in .*(each|per s)", done.stderr
    )
    assert re.search(r"stage 6 of 6, audit: done in", lines[-1])
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    method = results["config"]["rows"]["amun"]["method"]
    assert method["learning_rate"] == 0.003
    assert method["attack"]["num_steps"] == 2
    assert method["attack"]["search"]["num_radii"] == 4, "the run's own"
    assert results["design"]["forget_sets"] == 2
    assert results["preset"] == "tiny"
    assert "report.html" in done.stdout


def test_every_preset_resolves_and_has_a_summary():
    assert {"digits"} <= set(presets.names())
    for name in presets.names():
        preset = presets.load(name)
        assert preset.about, name
        has_rows = any(config.rows for config in preset.variants.values())
        assert preset.experiment or has_rows


MISTAKES = {
    "no command": ([], "usage"),
    "unknown command": (["train"], "unknown command 'train'"),
    "no preset": (["run"], "run needs a preset"),
    "row's name misspelled": (
        ["run", "digits", "--workdir", "x", "--rows.amum.method.learning-rate=0.1"],
        "unknown argument --rows.amum.method.learning-rate: did you mean"
        " --rows.amun.method.learning_rate?",
    ),
    "model's option misspelled": (
        ["run", "digits", "--workdir", "x", "--model.nme=cnn"],
        "unknown argument --model.nme: did you mean --model.name?",
    ),
    "unknown preset": (["run", "mnits", "--workdir", "x"], "unknown preset 'mnits'"),
    "file without preset": (["run", "empty.py", "--workdir", "x"], "defines no PRESET"),
    "no workdir": (["run", "tiny.py"], "for example --workdir runs/tiny"),
    "variants of a run": (
        ["run", "tiny.py", "--workdir", "x", "--variants", "tenth"],
        "tiny has no variants",
    ),
    "variants of an experiment": (
        ["run", "ascent_theory", "--workdir", "x", "--variants", "tenth"],
        "ascent_theory has no variants",
    ),
    "unknown variant": (
        ["run", "amun_cifar10_cpu", "--workdir", "x", "--variants", "tenths"],
        "amun_cifar10_cpu has no tenths: choose from tenth, half",
    ),
    "unknown field": (
        ["run", "tiny.py", "--workdir", "x", "--training.epochs=3"],
        "unknown argument --training.epochs",
    ),
    "wrong type": (
        ["run", "tiny.py", "--workdir", "x", "--training.num_epochs=many"],
        "many",
    ),
    "wrong choice": (["run", "tiny.py", "--workdir", "x", "--attack.norm=l3"], "l3"),
    "unknown hyperparameter": (
        ["run", "tiny.py", "--workdir", "x", "--rows.amun.method.speed=3"],
        "speed",
    ),
    "unknown method": (
        ["run", "tiny.py", "--workdir", "x", "--rows.amun.method=amnu"],
        "unknown method 'amnu'; choose one of",
    ),
    "attack that the preset does not name": (
        ["run", "tiny.py", "--workdir", "x", "--attacks", "weak", "fast"],
        "--attacks",
    ),
    "original without a path": (
        ["run", "tiny.py", "--workdir", "x", "--original"],
        "--original needs the path of a trained model",
    ),
    "unknown objective": (
        ["run", "tiny.py", "--workdir", "x", "--training.objective", "hinge"],
        "unknown objective 'hinge'; choose one of cross_entropy",
    ),
    "unknown optimizer": (
        ["run", "tiny.py", "--workdir", "x", "--rows.amun.method.optimizer=lion"],
        "unknown optimizer 'lion'; choose one of sgd, adam",
    ),
    "data that cannot be had": (
        [
            "run",
            "tiny.py",
            "--workdir",
            "x",
            "--data.source=tfds",
            "--data.name=cifar10",
            "--data.path=nowhere",
        ],
        "cifar10",
    ),
    "column of nobody": (
        ["run", "tiny.py", "--workdir", "x", "--dry-run", "--audit.columns", "foo"],
        "'foo' is not one of the columns",
    ),
    "classes of random sets": (
        ["run", "tiny.py", "--workdir", "x", "--forget.classes", "1"],
        "forget.classes is for forgotten classes, but forget.kind is random",
    ),
    "size of digits": (
        ["run", "tiny.py", "--workdir", "x", "--data.size", "9", "9"],
        "data.source=digits has images of one size",
    ),
    "layer of nothing": (
        ["run", "tiny.py", "--workdir", "x", "--model.widths", "0"],
        "widths[0] must be a positive integer, got 0",
    ),
    "no process": (
        [
            *("run", "tiny.py", "--workdir", "x", "--coordinator=127.0.0.1:1"),
            *("--num-processes=0", "--process-id=0"),
        ],
        "--num-processes must be at least 1",
    ),
    "stage of nobody": (
        ["compile", "tiny.py", "--target", "cpu", "--only", "nosuchstage"],
        "no stage matches --only='nosuchstage'",
    ),
    "stage that is no expression": (
        ["compile", "tiny.py", "--target", "cpu", "--only", "("],
        "--only is no regular expression",
    ),
    "numbers into no folder": (
        ["compile", "tiny.py", "--target", "cpu", "--json", "absent/x.json"],
        "--json: there is no folder absent",
    ),
    "logits that are text": (
        ["audit", "--logits", "tiny.py"],
        "it is not an .npz file",
    ),
    "list with more": (["list", "all"], "unknown argument all"),
    "prepare without name": (["prepare"], "cifar10, cifar100 or mnist"),
    "prepare without archive": (
        ["prepare", "mnist", "--archive", "nowhere", "--data-dir", "y"],
        "nowhere",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(name, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.py").write_text("")
    before = sorted(tmp_path.rglob("*"))
    args, message = MISTAKES[name]
    began = time.monotonic()
    assert cli.main(args) == 2
    assert time.monotonic() - began < 20
    out, err = capsys.readouterr()
    assert message in (err or out)
    if args:
        assert err.count("\n") == 1
        assert err.startswith("unlearn-jax: error: ")
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "unknown command 'trian'"),
        (["run", "digts"], "unknown preset 'digts': did you mean digits?"),
        (["run", "digts.py"], "no file digts.py: give the path of a file"),
        (["run", "/"], "/ is a folder: give the name of a preset"),
        (
            ["run", "digits", "--debug-nans"],
            "--debug-nans goes first: unlearn-jax --debug-nans run ...",
        ),
        (["run", "digits", "--workdr", "x"], "did you mean --workdir?"),
        (
            ["run", "digits", "--training.learning_rat=0.1"],
            "--training.learning_rat: did you mean --training.learning_rate?",
        ),
        (["run", "digits", "--trainin.learning-rate=0.1"], "did you mean --training"),
    ],
)
def test_a_slip_of_the_pen_is_answered_without_jax(words, said, capsys):
    fault = cli._misspelled(words)
    assert said in fault
    assert cli.main(words) == 2
    assert capsys.readouterr().err == f"unlearn-jax: error: {fault}\n"


def test_a_misspelled_field_imports_no_jax(tmp_path):
    code = (
        "import sys; from unlearn_jax import cli;"
        "status = cli.main(['run', 'digits', '--training.learning_rat=0.1']);"
        "sys.exit(status if 'jax' not in sys.modules else 9)"
    )
    env = {**os.environ, "PYTHONPATH": str(pathlib.Path(cli.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env)
    assert done.returncode == 2


def test_every_field_and_option_is_spelled_right():
    config = pipeline.RunConfig()
    words = ["--no-dry-run", "--rows.new.method=amun", "--model.depth=3"]
    for option in dataclasses.fields(cli.RunOptions):
        words.append(f"--{option.name.replace('_', '-')}")
    for field in dataclasses.fields(config):
        words.append(f"--{field.name}")
        held = getattr(config, field.name)
        for own in dataclasses.fields(held) if dataclasses.is_dataclass(held) else ():
            words.append(f"--{field.name}.{own.name}=1")
            words.append(f"--{field.name}.{own.name.replace('_', '-')}.deeper")
    assert len(words) > 100
    assert cli._misspelled(["run", "digits", *words, "-1", "3"]) == ""
    # the fields of an experiment are its own
    assert cli._misspelled(["run", "rbm_bars", "--anything=1"]) == ""


def test_help_and_list(capsys):
    assert cli.main(["--help"]) == 0
    assert "unlearn-jax run PRESET" in capsys.readouterr().out
    assert cli.main(["list"]) == 0
    listed = capsys.readouterr().out
    assert "digits" in listed
    for names in (METHODS, data.AUGMENTATIONS, models.ARCHITECTURES, RMIA_SIGNALS):
        for name in names:
            assert name in listed.split() or f"{name}," in listed.split(), name


def test_help_of_run_shows_fields(tiny, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", tiny, "--help"])
    assert stop.value.code == 0
    assert "--training.learning_rate" in capsys.readouterr().out.replace(
        "-rate", "_rate"
    )


def test_help_of_run_has_a_sentence_for_every_name(tiny, capsys):
    with pytest.raises(SystemExit):
        cli.main(["run", tiny, "--help"])
    assert choices.text() in capsys.readouterr().out
    names = choices.choices()
    for option, known in {
        "model.name": models.ARCHITECTURES,
        "model.conv": [*models.CONVOLUTIONS, "auto"],
        "training.augment, joined with +": data.AUGMENTATIONS,
        "replicas.mapper": get_args(Form),
        "attack.search": get_args(AttackConfig.__annotations__["search"]),
        "attack.kind": get_args(AttackConfig.__annotations__["kind"]),
        "rows.ROW.method": METHODS,
    }.items():
        assert set(names[option]) == set(known), option
    for option, sentences in names.items():
        for name, sentence in sentences.items():
            assert sentence.endswith("."), (option, name)
            assert "``" not in sentence


VALUES = """
'''Values of every kind.'''
import dataclasses
from unlearn_jax import objectives
from unlearn_jax.methods import AMUN, METHODS
from unlearn_jax.pipeline import *

@dataclasses.dataclass(frozen=True)
class Shrink:
    '''Parameters times a factor.'''

    factor: float = 0.5
    '''Of all parameters.'''

    def __call__(self, key, problem):
        raise NotImplementedError

PRESET = RunConfig(
    training=TrainingConfig(objective=objectives.TRADES()),
    tuning=TuningConfig(trials=2),
    attacks={"weak": AttackConfig(kind="fast")},
    rows={
        "mine": Row(method=Shrink()),
        "salun": Row(method=METHODS["salun"]),
        "a-b": Row(method=AMUN(), attack="weak"),
    },
)
"""


@pytest.fixture
def preset_of_values(tmp_path):
    path = tmp_path / "kinds.py"
    path.write_text(VALUES)
    return str(path)


def test_every_field_of_a_value_is_an_option(preset_of_values):
    config = presets.load(preset_of_values).config
    fields = [
        "--training.objective.beta=2",
        "--rows.mine.method.factor=0.25",
        "--rows.salun.method.constraints.0.fraction=0.3",
        "--rows.salun.search.learning-rate.high=0.5",
        "--rows.a-b.method.attack.search.num_radii=3",
        "--rows.a-b.method.optimizer.momentum=0",
        "--rows.a-b.label=Other name",
        "--attacks.weak.epsilon-init=0.5",
        "--audit.discriminators.0.gamma=scale",
        "--model.widths",
        "4",
        "8",
        "--only",
        "salun",
    ]
    read = parse(type(config), fields, "prog", config)
    assert read.training.objective.beta == 2.0
    assert read.rows["mine"].method == type(config.rows["mine"].method)(factor=0.25)
    assert read.rows["salun"].method.constraints[0].fraction == 0.3
    searched = read.rows["salun"].search["learning_rate"]
    assert searched == {"low": 1e-3, "high": 0.5, "published": 0.013}
    assert read.rows["a-b"].method.attack.search.num_radii == 3
    assert read.rows["a-b"].method.optimizer.momentum == 0.0
    assert read.rows["a-b"].label == "Other name"
    assert read.attacks["weak"].epsilon_init == 0.5
    assert read.audit.discriminators[0].gamma == "scale"
    assert read.model.widths == (4, 8)
    assert read.only == ("salun",)
    assert parse(type(config), [], "prog", config) == config


def test_registered_values_are_named_on_the_command_line(tiny):
    config = presets.load(tiny).config
    fields = ["--training.objective", "trades", "--rows.amun.method=finetune"]
    fields += ["--rows.amun.method.optimizer=adam", "--training.objective.beta=2"]
    fields += ["--training.batch-size=8"]
    chosen, others = choose_values(config, fields)
    read = parse(type(config), others, "prog", chosen)
    read = pin_overridden_fields(read, fields)
    assert read.training.objective == TRADES(beta=2)
    rows, attacks = resolve_rows(read)
    assert rows["amun"].name == rows["amun"].label == "finetune"
    assert rows["amun"].method.optimizer == Adam()
    assert rows["amun"].method.batch_size == 8, "still the run's"
    assert not attacks
    assert choose_values(config, ["--only", "amun"]) == (config, ["--only", "amun"])


def test_help_of_a_preset_is_complete(preset_of_values, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", preset_of_values, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for option in (
        "--workdir DIR",
        "--rows.mine.method.factor FLOAT",
        "Of all parameters. (default: 0.5)",
        "--rows.salun.method.constraints.0.fraction FLOAT",
        "--rows.a-b.method.attack.search.epsilon-init FLOAT",
        "--training.objective.num-steps INT",
        "{online,offline}",
    ):
        assert option in shown
    assert "{fixed}" not in shown.replace("--rows.a-b.method.constraints", "")


@pytest.mark.parametrize("command", ["prepare", "publish", "table", "audit", "docs"])
def test_help_of_a_command_shows_its_options(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: unlearn-jax {command}" in shown
    assert "--" in shown


@pytest.mark.parametrize("command", ["--help", "list"])
def test_help_and_list_import_no_jax(command):
    code = f"import sys; from unlearn_jax import cli; cli.main([{command!r}]); "
    code += "sys.exit('jax' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(pathlib.Path(cli.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=env, check=False)
    assert done.returncode == 0


def test_a_finished_run_imports_what_it_needs(tiny, tmp_path):
    """Started again, it prints the same table without networks, figures or Orbax."""
    words = ("run", tiny, "--workdir", "out", "--audit.mis=False")
    first = shell(*words, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    code = (
        "import sys; from unlearn_jax import cli; "
        f"status = cli.main({list(words)!r}); "
        "heavy = {'flax', 'orbax', 'matplotlib', 'sklearn'} & set(sys.modules); "
        "sys.exit(f'{status} {heavy}' if status or heavy else 0)"
    )
    again = python("-c", code, cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout == first.stdout
    (tmp_path / "out" / "table.md").write_text("damaged")
    assert shell(*words, cwd=tmp_path).returncode == 0
    assert "Retrained" in (tmp_path / "out" / "table.md").read_text()


def test_failures_have_another_status(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert (
        cli.main(["run", tiny, "--workdir", "x", "--training.learning_rate=1e30"]) == 1
    )
    assert "lower the learning rate" in capsys.readouterr().err

    def fail():
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(cli.COMMANDS, "list", fail)
    assert cli.main(["list"]) == 1
    assert "No space left on device" in capsys.readouterr().err


def test_a_report_that_fails_costs_no_table(tiny, tmp_path, monkeypatch, capsys):
    """Results and tables stay, a line names what is missing, the next start adds it."""
    out = tmp_path / "out"

    def fail(*_):
        raise ValueError("no such color\nas 'blau'")

    with monkeypatch.context() as patched:
        patched.setattr(report, "write_report", fail)
        assert cli.main(["run", tiny, "--workdir", str(out)]) == 1
    said = capsys.readouterr()
    assert "AMUN" in said.out or "amun" in said.out
    (line,) = [line for line in said.err.splitlines() if "error" in line]
    assert "report.html cannot be written: ValueError: no such color" in line
    assert str(out) in line
    assert json.loads((out / "results.json").read_text())["rows"]
    assert (out / "table.txt").is_file()
    assert not (out / "report.html").exists()
    assert cli.main(["run", tiny, "--workdir", str(out)]) == 0
    assert (out / "report.html").is_file()


def test_preset_with_its_own_data_network_and_loss(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(
        TINY
        + """
import numpy as np, jax, jax.numpy as jnp
from unlearn_jax import data, models, train

def make_splits():
    rng = np.random.default_rng(0)
    train = rng.random((40, 3, 3)), np.arange(40) % 2
    return data.load_arrays(*train, rng.random((20, 3, 3)), np.arange(20) % 2)

def make_model(image_shape, num_classes):
    return models.from_functions(
        lambda key: jax.random.normal(key, (9, num_classes)),
        lambda w, x: x.reshape(len(x), -1) @ w,
    )

def make_loss(model):
    return train.cross_entropy_loss(model)
"""
    )
    assert cli.main(["run", "own.py", "--workdir", "out"]) == 0
    assert (
        json.loads((tmp_path / "out" / "results.json").read_text())["data"]["num_train"]
        == 40
    )
    assert cli.main(["run", "own.py", "--workdir", "out", "--dry-run"]) == 0
    assert "Models are kept in" in capsys.readouterr().out
    # which needs no folder, and makes none
    assert cli.main(["run", "own.py", "--dry-run"]) == 0
    kept_in = tmp_path / "runs" / "banks"
    assert f"Models are kept in {kept_in}\n" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()
    # what the file defines is not in the configuration
    assert cli.main(["run", "out/config.json", "--workdir", "again"]) == 2
    assert "its own data, network, loss" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


def test_a_dry_run_plans_what_the_run_computes(tiny, tmp_path, monkeypatch):
    planned = []
    computed = []

    def dry_run(config, folder, **options):
        planned.append((config, pathlib.Path(folder), options["preset"]))
        return ""

    def run(config, folder, **options):
        computed.append((config, pathlib.Path(folder), options["preset"]))

    monkeypatch.setattr(pipeline, "dry_run", dry_run)
    monkeypatch.setattr(pipeline, "run", run)
    monkeypatch.setattr(study, "run", run)
    for preset in (tiny, "failures_cifar10_cpu"):
        words = ["run", preset, "--workdir", str(tmp_path / "out")]
        assert cli.main([*words, "--dry-run"]) == 0
        assert cli.main(words) == 0
    assert planned == computed
    assert len(planned) == 4


def test_unfinished_and_mixed_runs_are_not_published(tiny, tmp_path, capsys):
    out = tmp_path / "runs" / "out"
    assert cli.main(["run", tiny, "--workdir", str(out)]) == 0
    assert cli.main(["publish", str(out), "--to", str(tmp_path / "out.json")]) == 0
    capsys.readouterr()
    other = json.loads((out / "results.json").read_text()) | {"preset": "another"}
    (tmp_path / "runs" / "other").mkdir()
    (tmp_path / "runs" / "other" / "results.json").write_text(json.dumps(other))
    words = ["publish", str(out.parent), "--to", str(tmp_path / "all.json")]
    assert cli.main(words) == 2
    assert "holds runs of several presets (another, tiny)" in capsys.readouterr().err
    config = json.loads((out / "config.json").read_text())
    config["title"] = "Changed, and not finished"
    (out / "config.json").write_text(json.dumps(config))
    for words in (
        ["publish", str(out), "--to", str(tmp_path / "again.json")],
        ["export", str(out), "amun", "--to", str(tmp_path / "models")],
    ):
        assert cli.main(words) == 2
        assert "did not finish, and its results are of an" in capsys.readouterr().err
    assert not (tmp_path / "again.json").exists()
    assert not (tmp_path / "models").exists()


def test_paths_that_cannot_be_written_are_one_line(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    assert cli.main(["docs", "--to", str(file / "site")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "check the path" in said


def test_an_interruption_says_what_to_do(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "list", interrupt)
    assert cli.main(["list"]) == 130
    assert capsys.readouterr().err == "unlearn-jax: interrupted\n"


def test_an_interruption_of_the_import_is_one(tmp_path):
    """JAX may raise another error from it."""
    code = """
import sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "jax":
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt as error:
                raise ImportError("initializing the extension") from error
sys.meta_path.insert(0, Interrupting())
from unlearn_jax import cli
sys.exit(cli.main(["run", "digits", "--workdir", "x"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 130, done.stderr
    assert "interrupted; the same command resumes from here" in done.stderr


def test_a_dry_run_of_an_experiment_shows_the_published_time(tmp_path, capsys):
    words = ["run", "ascent_theory", "--workdir", str(tmp_path / "run"), "--dry-run"]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert re.search(r"trap +1 +0 +1", shown)
    result = published.read_result(published.folder() / "ascent_theory.json")
    assert f"measured before: {result.time}, on {result.device}" in shown
    assert cli.main([*words, "--num-steps=9"]) == 0
    assert "measured before" not in capsys.readouterr().out, "of other options"
    assert not (tmp_path / "run").exists()


def test_unknown_preset_file(tmp_path):
    with pytest.raises(InputError, match="no file /"):
        presets.load(str(tmp_path / "missing.py"))
