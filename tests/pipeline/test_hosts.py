"""Several real processes at one run, on the loopback interface: the same result as one
process, whoever is lost.
"""

import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest

from unlearn_jax import cli
from unlearn_jax.pipeline.store import folders as store
from unlearn_jax.pipeline.store import hosts
from unlearn_jax.pipeline.store.artifact import Artifact, Items, Runner
from unlearn_jax.types import DamagedFileError, InputError

PRESET = """
'''A tiny run in several groups.'''
from unlearn_jax.methods import AMUN, FineTune
from unlearn_jax.pipeline import *
PRESET = RunConfig(
    model=ModelConfig(widths=(8,)), training=TrainingConfig(num_epochs=2),
    forget=ForgetConfig(seeds=(1, 2)),
    replicas=ReplicasConfig(
        originals=(0, 1), references=8, group=2, checkpoint_seconds=0.0
    ),
    attack=AttackConfig(num_radii=4, num_steps=3),
    audit=AuditConfig(num_bootstrap=10, mis=False),
    rows={
        "finetune": Row(method=FineTune(num_epochs=1)),
        "amun": Row(method=AMUN(num_epochs=1)),
    },
)
"""

PAGES = pathlib.Path(__file__).parents[2] / "experiments"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


EXPERIMENT = """
'''Two draws and their sum.'''
import dataclasses
import numpy as np
from unlearn_jax.pipeline import Artifact, Experiment, Page

@dataclasses.dataclass(frozen=True)
class Config:
    seeds: tuple[int, ...] = (1, 2)

def draw(seed):
    return {"x": np.random.default_rng(seed).normal(size=3)}

def total(*draws):
    return {"sum": sum(one["x"].sum() for one in draws)}

def artifacts(config):
    draws = [
        Artifact(name=f"draw-{seed}", settings={}, compute=lambda seed=seed: draw(seed))
        for seed in config.seeds
    ]
    inputs = tuple(draws)
    return [*draws, Artifact(name="total", settings={}, compute=total, inputs=inputs)]

def page(config, found):
    return Page(f"The sum is {found['total']['sum']:.6f}.", [])

EXPERIMENT = Experiment("Sums", Config(), artifacts, page)
"""


def start(count, folder, cache, text=PRESET, last=()):
    """The same command in ``count`` processes, with more words in the last one."""
    (folder / "tiny.py").write_text(text)
    env = {
        **os.environ,
        "PYTHONPATH": str(pathlib.Path(cli.__file__).parents[1]),
        "UNLEARN_JAX_CACHE": str(cache),
        "JAX_NUM_CPU_DEVICES": "4",
    }
    command = [
        sys.executable,
        "-m",
        "unlearn_jax",
        "run",
        "tiny.py",
        "--workdir",
        "out",
    ]
    many = lambda i: [
        f"--coordinator=127.0.0.1:{port}",
        f"--num-processes={count}",
        f"--process-id={i}",
    ]
    port = free_port()
    return [
        subprocess.Popen(
            [*command, *(many(i) if count > 1 else []), *(last if i else ())],
            cwd=folder,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for i in range(count)
    ]


def finish(processes):
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return said


def rows_of(folder):
    return json.loads((folder / "out" / "results.json").read_text())["rows"]


def numbers(folder):
    return [{key: row[key] for key in ("key", "metrics")} for row in rows_of(folder)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    finish(start(1, folder, folder / "cache"))
    return folder


@pytest.mark.parametrize(
    "form", ["auto", pytest.param("split", marks=pytest.mark.slow)]
)
def test_processes_compute_every_piece_together_as_one_does(form, alone, tmp_path):
    """One mesh over both, of whose devices each holds a part of the images.

    Where all of them share a model (ImageNet's preset), to rounding.
    """
    options = f"group=2, across_hosts=True, shard_data=True, mapper={form!r},"
    together = PRESET.replace("group=2,", options)
    said = finish(start(2, tmp_path, alone / "cache", together))
    for _, log in said:
        assert re.search(r"stage 2 of \d, references \(8\): 8 done in", log)
    if form == "auto":
        assert numbers(tmp_path) == numbers(alone)
    for one in (alone / "banks").rglob("logits.npy"):
        other = np.load(tmp_path / "banks" / one.relative_to(alone / "banks"))
        np.testing.assert_allclose(other, np.load(one), rtol=1e-3, atol=1e-3)
    again = finish(start(2, tmp_path, alone / "cache", together))
    assert "Retrained (oracle)" in again[0][0]


def logs_as_the_page_says(log):
    """The first line that experiments/TWO_PROCESSES.md shows, with any numbers."""
    text = (PAGES / "TWO_PROCESSES.md").read_text()
    shown = re.findall(r"```text\n(.*?)```", text, re.DOTALL)[0].splitlines()
    pattern = re.sub(r"\d+", r"\\d+", re.escape(shown[0]))
    return re.search(pattern, log) is not None


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_share_the_work_and_the_result_is_that_of_one(count, alone, tmp_path):
    said = finish(start(count, tmp_path, alone / "cache"))
    assert "Retrained (oracle)" in said[0][0]
    assert [out for out, _ in said[1:]] == [""] * (count - 1), (
        "the first process reports"
    )
    assert numbers(tmp_path) == numbers(alone)
    for i, (_, log) in enumerate(said):
        lines = [line for line in log.splitlines() if "stage" in line]
        assert all(line.endswith(f"[process {i + 1} of {count}]") for line in lines)
        done = rf"stage 2 of \d, references \(8\): {8 // count} done in"
        assert re.search(done, log), "its own part"
        assert count > 2 or logs_as_the_page_says(log)
    for one in (alone / "banks").rglob("logits.npy"):
        other = tmp_path / "banks" / one.relative_to(alone / "banks")
        np.testing.assert_array_equal(np.load(one), np.load(other))


def test_an_experiment_of_two_processes(tmp_path):
    said = finish(start(2, tmp_path, tmp_path / "cache", EXPERIMENT))
    expected = sum(np.random.default_rng(seed).normal(size=3).sum() for seed in (1, 2))
    assert f"The sum is {expected:.6f}." in said[0][0]
    assert said[1][0] == ""
    assert len(list((tmp_path / "out").glob("*/manifest.json"))) == 3


@pytest.mark.slow
def test_one_process_picks_up_what_others_left(alone, tmp_path):
    """A share that a lost process did not do is a missing folder."""
    first = start(2, tmp_path, alone / "cache")
    finish(first)
    for lost in [
        *(tmp_path / "banks").glob("references-*/items-0002-*"),
        *(tmp_path / "out").glob("unlearn-*"),
    ]:
        for file in [*lost.rglob("*")][::-1]:
            file.rmdir() if file.is_dir() else file.unlink()
        lost.rmdir()
    (tmp_path / "out" / "results.json").unlink()
    finish(start(1, tmp_path, alone / "cache"))
    assert numbers(tmp_path) == numbers(alone)


def test_pieces_fall_to_exactly_one():
    for count in (1, 3, 4):
        for piece in range(10):
            assert sum(hosts.Host(i, count).does(piece) for i in range(count)) == 1


def test_waiting_looks_until_it_is_there():
    looks = iter([False, False, True])
    hosts.Host(1, 2).wait(lambda: next(looks))
    assert next(looks, "none left") == "none left"
    hosts.Host(0, 1).wait(lambda: False)  # alone: nothing to wait for


def test_a_process_that_waits_for_a_damaged_piece_ends(tmp_path, monkeypatch):
    def compute(piece):
        return {"x": np.array(piece.items, np.float32)}

    artifact = Artifact(name="two", settings={}, compute=compute, items=Items(4, 2))
    other = Runner(tmp_path / "other", progress=False).make(artifact).folders[1]
    (other / "x.npy").write_bytes(b"")
    runner = Runner(tmp_path / "run", progress=False)
    waits = []

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            shutil.copytree(other, runner.path(artifact) / other.name)
        assert len(waits) < 9, "waits without end"

    monkeypatch.setattr(hosts.time, "sleep", wait)
    monkeypatch.setattr(hosts, "current_process", lambda: hosts.Host(0, 2))
    with pytest.raises(DamagedFileError, match=f"{other.name} was changed or removed"):
        runner.make(artifact)


@pytest.mark.parametrize(
    ("values", "message"),
    [(("127.0.0.1:1", None, 0), "go together"), (("127.0.0.1:1", 2, 2), "from 0 to 1")],
)
def test_unusable_values(values, message):
    with pytest.raises(InputError, match=message):
        hosts.join(*values)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--process-id=first"], "parsing --process-id"),
        (["--coordinator"], "Missing value for argument '--coordinator'"),
        (["--num-processes=2"], "go together"),
        (
            ["--coordinator=localhost", "--num-processes=2", "--process-id=0"],
            "must be ADDRESS:PORT",
        ),
        *(
            (
                [f"--coordinator={address}", "--num-processes=2", "--process-id=0"],
                "must be ADDRESS:PORT",
            )
            for address in ("", "8476", ":8476", "127.0.0.1:99999", "127.0.0.1:0")
        ),
    ],
)
def test_unusable_flags_are_one_line(flags, message, capsys):
    assert cli.main(["run", "digits", "--workdir", "x", *flags]) == 2
    assert message in capsys.readouterr().err


def test_an_unusable_folder_ends_all_processes_with_one_line_each(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    processes = start(2, tmp_path, tmp_path / "cache")
    said = [process.communicate(timeout=200) for process in processes]
    assert any(
        "holds files that are not of an unlearn_jax run" in err for _, err in said
    )
    assert all(process.returncode for process in processes)
    assert not (tmp_path / "banks").exists()


def test_processes_of_other_settings_end_with_one_line(tmp_path):
    last = ("--seeds", "5", "6")
    processes = start(2, tmp_path, tmp_path / "cache", EXPERIMENT, last)
    said = [process.communicate(timeout=200) for process in processes]
    assert "this process has other settings, or another version" in said[1][1]
    assert all(process.returncode for process in processes)


def test_a_killed_mark_does_not_make_a_folder_somebody_elses(tmp_path):
    (tmp_path / f".{store.Workdir.MARK}-77").touch()
    store.Workdir(tmp_path).check()
    with store.Workdir(tmp_path).locked():
        assert (tmp_path / store.Workdir.MARK).is_file()


PIECES = """
import sys, pathlib
import numpy as np
from unlearn_jax.pipeline.store import hosts
from unlearn_jax.pipeline.store.artifact import Artifact, Checkpoints, Items, Runner
from unlearn_jax.pipeline.store.folders import Workdir
hosts.join(f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]))
import jax
mine = int(sys.argv[2]) + 1
state = {"key": jax.random.key(mine), "w": np.array([-0.0, 2.0**60 + mine * 2**10])}
for _ in range(2):
    joint = Checkpoints(pathlib.Path(sys.argv[3] + "-joint"), 0.0, is_joint=True)
    found = joint.restore(state)
    joint.save(1, state)
assert np.array_equal(jax.random.key_data(found["key"]), [0, 1])
assert found["w"].tolist() == [0.0, 2.0**60 + 2**10] and np.signbit(found["w"][0])
made = []

def compute(piece):
    made.append(piece.items)
    state = {"a": np.ones((2, 3), np.float32), "n": np.array([3, 3], np.int32)}
    Checkpoints(piece.scratch, 0.0).save(3, state)
    found = Checkpoints(piece.scratch, 0.0).restore(state)
    assert np.array_equal(found["a"], state["a"]) and found["n"].tolist() == [3, 3]
    x = np.array(piece.items, np.float32)
    return {"models": {"w": x[:, None]}, "x": x}

def whole(name, *inputs):
    def compute(*inputs):
        made.append(name)
        return {"x": sum(float(one["x"].sum()) for one in inputs) + 1}
    return Artifact(name=name, settings={}, compute=compute, inputs=inputs)

split = Artifact(name="split", settings={}, compute=compute, items=Items(4, 2))
first, second = whole("first"), whole("second", split)
last = whole("last", first, second)
with Workdir(sys.argv[3]).locked() as folder:
    found = Runner(folder, progress=False).make_all([split, first, second, last])
    assert found["split"]["models"]["w"][:, 0].tolist() == [0, 1, 2, 3]
    assert found["last"]["x"] == 1 + 7 + 1
print(made)
"""


def test_processes_divide_pieces_and_artifacts(tmp_path):
    """Each with checkpoints and models of its own, which only it writes."""
    port = str(free_port())
    command = [sys.executable, "-c", PIECES, port]
    pipe = subprocess.PIPE
    start_one = lambda i: subprocess.Popen(
        [*command, str(i), str(tmp_path / "t")], text=True, stdout=pipe, stderr=pipe
    )
    said = finish([start_one(0), start_one(1)])
    # Gloo's news come before
    assert [out.splitlines()[-1] for out, _ in said] == [
        "[[0, 1], 'second']",
        "[[2, 3], 'first', 'last']",
    ]


ACROSS = """
import sys
import numpy as np
from unlearn_jax.pipeline.store import hosts
port, count, index, file = sys.argv[1:]
if int(count) > 1:
    hosts.join(f"127.0.0.1:{port}", int(count), int(index))
import jax
from unlearn_jax import models, replicas, train
from unlearn_jax.types import Dataset
rng = np.random.default_rng(0)
images = rng.uniform(0, 1, (60, 4, 4, 1)).astype(np.float32)
data = Dataset(images, np.arange(60, dtype=np.int32) % 3)
member = rng.random((len(jax.devices()), 60)) < 0.5
model = models.build("cnn", (4, 4, 1), 3, widths=(4,), batch_norm=True)
recipe = train.Recipe(num_epochs=2, batch_size=16, tx=train.sgd(0.1))
found = {}
num_devices = len(jax.devices())
for split, shard_data in ((1, False), (num_devices // 4, True)):
    options = {"num_models": num_devices, "split": split, "shard_data": shard_data}
    mapper = replicas.mapper("map", across_hosts=True, **options)
    keys = jax.random.split(jax.random.key(5), num_devices)
    state, losses = replicas.fit_many(keys, model, data, member, recipe, mapper=mapper)
    variables = state.variables
    logits = replicas.predict_many(model.apply, variables, images, mapper=mapper)
    leaves = jax.tree.leaves(replicas.to_host(variables))
    found |= {f"{split}-{i}": leaf for i, leaf in enumerate([losses, logits, *leaves])}
np.savez(file, **found)
"""


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_a_mesh_over_processes_trains_the_models_of_one(count, tmp_path):
    """Processes of four devices, and one of as many as all of them have."""
    port = str(free_port())

    def start_one(count, index, devices):
        file = str(tmp_path / f"{count}-{index}.npz")
        env = {
            **os.environ,
            "PYTHONPATH": str(pathlib.Path(cli.__file__).parents[1]),
            "JAX_NUM_CPU_DEVICES": str(devices),
        }
        command = [sys.executable, "-c", ACROSS, port, str(count), str(index), file]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=env, text=True, stdout=pipe, stderr=pipe)

    finish([start_one(1, 0, 4 * count)])
    finish([start_one(count, index, 4) for index in range(count)])
    alone = np.load(tmp_path / "1-0.npz")
    for index in range(count):
        together = np.load(tmp_path / f"{count}-{index}.npz")
        assert set(together.files) == set(alone.files)
        for name in alone.files:
            np.testing.assert_allclose(
                together[name], alone[name], rtol=1e-4, atol=1e-5, err_msg=name
            )
