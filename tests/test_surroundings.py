"""Consoles, platforms, home folders and terminals, and the command line on presets."""

import fcntl
import json
import os
import pathlib
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

import unlearn_jax
from unlearn_jax import cli, pipeline
from unlearn_jax.pipeline import presets
from unlearn_jax.pipeline.config.command_line import parse
from unlearn_jax.pipeline.config.overrides import choose_values
from unlearn_jax.types import InputError

ROOT = pathlib.Path(cli.__file__).parents[1]
PRESET = """
'''A tiny run.'''
from unlearn_jax.methods import FineTune
from unlearn_jax.pipeline import *
PRESET = RunConfig(
    title="Größe ≈ ±",
    data=DataConfig(num_train=120, num_test=60),
    model=ModelConfig(widths=(8,)),
    training=TrainingConfig(num_epochs=2),
    forget=ForgetConfig(seeds=(1,)),
    replicas=ReplicasConfig(originals=(0,), references=4, group=2),
    audit=AuditConfig(num_bootstrap=10, mis=False),
    rows={"finetune": Row(method=FineTune(num_epochs=3))},
)
"""
WORDS = ("run", "~/tiny.py", "--workdir=~/out")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home folder with a preset that has run, on a Latin-1 console."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "tiny.py").write_text(PRESET, encoding="utf-8")
    done = shell(
        *WORDS, "--tensorboard=~/events", home=folder, PYTHONIOENCODING="latin-1"
    )
    assert done.returncode == 0, done.stderr
    (folder / "log").write_text(done.stderr)
    assert b"report.html" in done.stdout.encode("latin-1")
    return folder


def shell(*words, home, encoding="latin-1", **env):
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HOME": str(home),
        "UNLEARN_JAX_CACHE": str(home / "cache"),
        **env,
    }
    command = [sys.executable, "-m", "unlearn_jax", *words]
    return subprocess.run(
        command, capture_output=True, encoding=encoding, env=env, check=False
    )


def test_a_console_of_few_characters_shows_the_table(home):
    done = shell(*WORDS, home=home, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Gr\\xf6\\xdfe \\u2248 \\xb1" in done.stdout
    done = shell(*WORDS, home=home, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_log_can_be_followed(home):
    lines = (home / "log").read_text().splitlines()
    assert re.match(r"\d\d:\d\d:\d\d data digits: 120 training and 60 test", lines[0])
    stages = [int(found) for found in re.findall(r"stage (\d) of 5", "\n".join(lines))]
    assert stages == sorted(stages)
    assert set(stages) == {1, 2, 3, 4, 5}
    group = r"stage 2 of 5, references \(4\): 2 of 4, .*(per s|each), about .* left"
    assert any(re.search(group, line) for line in lines)
    assert any("left of the run" in line for line in lines)


def test_results_name_the_classes(home):
    results = json.loads((home / "out/results.json").read_text(encoding="utf-8"))
    assert results["data"]["class_names"] == list("0123456789")


def test_events_of_tensorboard(home):
    pytest.importorskip("tensorboardX")
    (file,) = (home / "events").glob("events.out.*")
    content = file.read_bytes()
    tags = [b"loss/originals_0-0", b"loss/unlearn-finetune", b"seconds/retrained_2"]
    for tag in [*tags, b"ft_auc/finetune", b"loss/references_2-3"]:
        assert tag in content, tag


def test_a_run_is_repeated_from_its_configuration(home):
    stored = home / "out/config.json"
    preset = presets.load(str(stored))
    assert pipeline.RunConfig is type(preset.config)
    assert preset.config.rows["finetune"].method.num_epochs == 3
    done = shell(
        "run", "~/out/config.json", "--workdir=~/again", "--dry-run", home=home
    )
    assert re.search(r"originals +1 +1 +0", done.stdout), "the models are there"
    (home / "broken.json").write_text("{")
    (home / "other.json").write_text("[1]")
    for name in ("broken.json", "other.json"):
        with pytest.raises(InputError, match=name):
            presets.load(str(home / name))


def test_a_platform_that_is_not_there_is_one_line(home):
    done = shell(*WORDS, "--only=finetune", home=home, JAX_PLATFORMS="cuda")
    assert done.returncode == 2
    assert re.fullmatch(r"unlearn-jax: error: JAX_PLATFORMS=cuda, .*\n", done.stderr)


def test_strict_tells_failed_checks(home, monkeypatch):
    results = json.loads((home / "out/results.json").read_text(encoding="utf-8"))
    has_failed = not all(check["passed"] for check in results["checks"])
    assert has_failed, "the originals of two epochs remember nothing"
    monkeypatch.setenv("HOME", str(home))
    assert cli.main([*WORDS, "--strict"]) == 3
    assert cli.main([*WORDS]) == 0


def test_a_terminal_shows_the_stage_and_keeps_a_record(home):
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HOME": str(home),
        "UNLEARN_JAX_CACHE": str(home / "cache"),
        "COLUMNS": "100",
    }
    words = [*WORDS[:2], "--workdir=~/tty", "--bank=~/tty-bank"]
    run = subprocess.Popen(
        [sys.executable, "-m", "unlearn_jax", *words],
        stderr=follower,
        stdout=subprocess.DEVNULL,
        env=env,
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            piece = os.read(leader, 4096)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        shown += piece
    assert run.wait() == 0
    os.close(leader)
    text = shown.decode()
    assert "\rstage 2 of 5, references (4):" in text, "a bar"
    assert re.search(r"\d\d stage 2 of 5, references \(4\): 4 done in", text)
    assert "2 of 4, about" not in text, "groups are on the bar"


def test_any_network_and_any_row_on_a_preset():
    config = presets.load("digits").config
    words = [
        "--model.name=resnet",
        "--rows.mine.method=salun",
        "--rows.x.method",
        "trw",
    ]
    words += ["--rows.mine.method.learning_rate=0.5"]
    chosen, others = choose_values(config, words)
    read = parse(type(config), others, "prog", chosen)
    assert (read.model.name, read.model.widths) == ("resnet", None)
    assert read.rows["mine"].method.learning_rate == 0.5
    assert type(read.rows["x"].method).__name__ == "TRW"
    assert set(config.rows) < set(read.rows)
    with pytest.raises(InputError, match=r"no row 'mine', and no method .* 'salum'"):
        choose_values(config, ["--rows.mine.method=salum"])
    with pytest.raises(InputError, match="unknown model 'resent'"):
        choose_values(config, ["--model.name", "resent"])
    same, _ = choose_values(config, [f"--model.name={config.model.name}"])
    assert same.model == config.model, "its own fields stay"


@pytest.mark.parametrize("command", ["run", "list", "doctor", "prepare", "export"])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert f"usage: unlearn-jax {command}" in capsys.readouterr().out


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"unlearn-jax {unlearn_jax.__version__}\n"


def test_tables_use_the_width_of_the_terminal(home, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "90")
    assert cli._width() == 90
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    assert cli._width() == 160


def test_the_package_is_typed_and_citable():
    assert (pathlib.Path(cli.__file__).parent / "py.typed").is_file()
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {unlearn_jax.__version__}" in citation
