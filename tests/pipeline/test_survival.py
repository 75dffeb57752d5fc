"""Kills, damaged files, full disks, two runs at once, files of strangers: a clear line,
and the same result.
"""

import ast
import contextlib
import errno
import importlib
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import warnings

import filelock
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

import unlearn_jax
from unlearn_jax import cli, runtime, train
from unlearn_jax.pipeline.store import folders as store
from unlearn_jax.pipeline.store import hosts, locks, trees
from unlearn_jax.pipeline.store.artifact import (
    Artifact,
    Checkpoints,
    Items,
    Runner,
    open_stored,
)
from unlearn_jax.types import DamagedFileError, InputError, Variables

BENCHMARKS = pathlib.Path(__file__).parents[2] / "experiments" / "benchmarks"


@pytest.fixture
def survival(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("survival")


def sound(folder):
    return store.find_manifest(folder) is not None


NUMBERS = np.arange(12.0)


def stored(folder, x=NUMBERS):
    """A folder as the stages store them."""

    def write(draft):
        store.save_array(draft / "x.npy", x)
        trees.save_tree(draft / "models", {"w": np.ones((2, 3))})

    store.write_folder(
        folder,
        write,
        {"items": [0, 1], "cost": {"seconds": 1.25}, "name": "å", "loss": [0.5, -1e-3]},
    )
    return folder


# damaged files


def test_a_flipped_bit_in_any_byte_of_a_manifest_is_noticed_and_any_cut(tmp_path):
    folder = stored(tmp_path / "part")
    file = folder / "manifest.json"
    whole = file.read_bytes()
    said = json.loads(whole)
    assert sound(folder)
    for place in range(len(whole)):
        file.write_bytes(
            whole[:place]
            + bytes([whole[place] ^ 1 << place * 5 % 8])
            + whole[place + 1 :]
        )
        if sound(folder):  # an escape written in another way says the same
            assert json.loads(file.read_bytes()) == said
            assert whole[place - 5 : place + 1].count(b"\\u") == 1
        file.write_bytes(whole[: place // 2])
        assert not sound(folder)
    file.unlink()
    assert not sound(folder)


@given(
    name=st.sampled_from(["x.npy", "models/_METADATA", "models/manifest.ocdbt"]),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
@settings(max_examples=25, deadline=None)
def test_any_flipped_bit_of_a_file_is_named(tmp_path_factory, name, place, bit):
    folder = stored(tmp_path_factory.mktemp("any") / "part")
    data = bytearray((folder / name).read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    (folder / name).write_bytes(data)
    with pytest.raises(
        DamagedFileError, match=f"{name} is missing, truncated or changed"
    ):
        store.read_manifest(folder)


@pytest.mark.parametrize(
    "text",
    ["[]", "3", "{}", '{"files": 1}', '{"files": []}', '{"files": {"x": 1}}', "\x00"],
)
def test_bad_manifests_are_damage(text, tmp_path):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DamagedFileError, match="changed since it was written"):
        store.read_manifest(tmp_path)


def pieces(compute=None):
    """An artifact of two pieces."""

    def numbers(piece):
        return {"x": np.array(piece.items, np.float32)[:, None]}

    return Artifact(
        name="s", settings={}, compute=compute or numbers, items=Items(2, 1)
    )


def make(folder, artifact=None):
    return Runner(folder, progress=False).make(artifact or pieces())


def test_files_are_read_once_when_written_and_once_when_found(tmp_path, monkeypatch):
    read = []
    digest = store.file_sha256
    monkeypatch.setattr(
        store, "file_sha256", lambda file: read.append(file.name) or digest(file)
    )
    runner = Runner(tmp_path, progress=False)
    runner.make(pieces())
    assert len(read) == 4
    assert runner.missing(pieces()) == []
    runner.make(pieces())
    assert len(read) == 4
    make(tmp_path)
    assert len(read) == 6


@pytest.mark.parametrize(
    ("number", "fault"),
    [
        (errno.EIO, True),
        (errno.ENOENT, True),
        (errno.ENOMEM, False),
        (errno.EACCES, False),
    ],
)
def test_only_the_files_own_faults_are_damage(number, fault, tmp_path, monkeypatch):
    """A bad sector, or a file that another process moved away meanwhile; not memory
    that is short, or permissions.
    """
    folder = make(tmp_path).path / "items-0000-0000"

    def failing(file):
        raise OSError(number, os.strerror(number), str(file))

    monkeypatch.setattr(store, "file_sha256", failing)
    if fault:
        assert store.find_manifest(folder) is None
        with pytest.raises(DamagedFileError, match="changed since it was written"):
            store.read_manifest(folder)
    else:
        with pytest.raises(OSError, match=os.strerror(number)):
            store.find_manifest(folder)
    monkeypatch.setattr(
        store.np.lib.format, "open_memmap", lambda file, mode: failing(file)
    )
    with pytest.raises(DamagedFileError if fault else OSError):
        store.load_array(folder / "x.npy")


def test_file_systems_without_locks_are_named(tmp_path, monkeypatch):
    def without(*_, **__):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(filelock.FileLock, "acquire", without)
    for held in (
        locks.lock(tmp_path / ".lock", wait=False),
        locks.lock_process(tmp_path, hosts.Host(0, 1)),
    ):
        says = f"the file system of {tmp_path} has no locks"
        with pytest.raises(InputError, match=says), held:
            pass


def test_a_damaged_program_in_a_cache_of_others_does_not_end_a_run(
    tmp_path, monkeypatch, capsys
):
    def denied(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    (tmp_path / "jit_step-0-cache").write_bytes(b"half")
    monkeypatch.setattr(runtime, "compilation_cache", lambda: tmp_path)
    said = "Error reading persistent compilation cache entry for 'jit_step': ZlibError"
    with monkeypatch.context() as patched:
        patched.setattr(pathlib.Path, "unlink", denied)
        runtime.show_warning(said)
    assert (tmp_path / "jit_step-0-cache").exists()
    runtime.show_warning(said)
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err.count(said) == 2


@pytest.mark.parametrize("items", [None, Items(1, 1)])
def test_unreadable_trees_are_an_error(items, tmp_path, monkeypatch):
    write = store.write_folder

    def rot(path, fill, manifest):
        write(path, fill, manifest)
        (path / "x.npy").write_bytes(b"")

    monkeypatch.setattr(store, "write_folder", rot)
    artifact = Artifact(
        name="s", settings={}, compute=lambda *_: {"x": np.ones((1, 4))}, items=items
    )
    with pytest.raises(
        DamagedFileError,
        match="changed or removed while this run was at work: check the disk",
    ):
        make(tmp_path, artifact)


# files of strangers


class Payload:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (pathlib.Path.touch, (self.file,))


def refused(read, fired):
    with pytest.raises(DamagedFileError, match="changed since it was written"):
        read()
    assert not fired.exists(), "the payload ran"


def test_pickled_objects_are_damage_and_do_not_run(tmp_path):
    """Also where the checksums are right: whoever can write the files can write their
    manifest.
    """
    fired = tmp_path / "fired"
    evil = np.array([Payload(fired)], dtype=object)

    def write(draft):
        np.save(draft / "x.npy", evil, allow_pickle=True)

    manifest = {
        "artifact": "evil",
        "key": "",
        "settings": {},
        "items": [0, 1],
        "content": {"x": {"dtype": "float32", "sha256": ""}},
        "cost": {"seconds": 0.0},
    }
    runner = Runner(tmp_path, progress=False)
    folder = runner.path(pieces()) / "items-0000-0001"
    store.write_folder(folder, write, manifest)
    stored = runner.make(pieces())
    refused(lambda: stored["x"], fired)
    refused(lambda: stored.each("x"), fired)
    np.load(folder / "x.npy", allow_pickle=True)
    assert fired.exists(), "the payload works"


@pytest.mark.parametrize("part", ["artifact", "content", "cost"])
def test_a_manifest_that_lacks_a_part_is_damage(tmp_path, part):
    runner = Runner(tmp_path, progress=False)
    first = np.asarray(runner.make(pieces())["x"])
    folder = min(runner.path(pieces()).glob("items-*"))
    manifest = store.read_manifest(folder)
    del manifest["files"], manifest[part]
    shutil.rmtree(folder)

    def write(draft):
        np.save(draft / "x.npy", first[:1])

    store.write_folder(folder, write, manifest)
    with pytest.raises(DamagedFileError, match="changed since it was written"):
        open_stored(folder)
    again = Runner(tmp_path, progress=False).make(pieces())
    np.testing.assert_array_equal(again["x"], first)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04rubbish",
        b"\x93NUMPY\x01\x00",
        b"\x80\x04N.",
        b"\x93NUMPY" + b"\xff" * 99,
    ],
)
def test_bad_arrays_are_damage(content, tmp_path):
    (tmp_path / "a.npy").write_bytes(content)
    for name in ("a.npy", "none.npy"):
        refused(lambda name=name: store.load_array(tmp_path / name), tmp_path / "fired")


def test_nothing_of_the_library_unpickles():
    """No module that does is imported, and nobody allows NumPy to."""
    root, loads = pathlib.Path(unlearn_jax.__file__).parent, 0
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else []
            )
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] not in (
                    "pickle",
                    "cloudpickle",
                    "dill",
                    "joblib",
                    "marshal",
                    "shelve",
                ), file
            if isinstance(node, ast.Call):
                loads += ast.unparse(node.func) == "np.load"
                given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert given.get("allow_pickle", "False") == "False", file
    assert loads >= 2


# two runs at once

HOLD = """
import sys
import filelock
with filelock.FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_process_of_a_lost_run_keeps_the_next_one_out(count, tmp_path):
    """The third process of a run is still there: one process of the next run is
    refused, however many it has.
    """
    command, pipe = (
        [
            sys.executable,
            "-c",
            HOLD,
            str(tmp_path / ".process-2.lock"),
        ],
        subprocess.PIPE,
    )
    refusals = []
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout.readline() == "held\n"
        for index in range(count):
            with contextlib.ExitStack() as held:
                try:
                    held.enter_context(
                        locks.lock_process(tmp_path, hosts.Host(index, count))
                    )
                except InputError as error:
                    refusals.append((index, str(error).partition(" in ")[0]))
        other.communicate("\n")
    assert refusals == [(0 if count <= 2 else 2, "another run is at work")]
    with locks.lock_process(tmp_path, hosts.Host(0, count)):
        pass


def test_a_lock_of_no_process_is_left_alone(tmp_path):
    (tmp_path / ".process-x.lock").touch()
    with locks.lock_process(tmp_path, hosts.Host(0, 1)):
        pass


@pytest.mark.parametrize("text", ['{"format": null}', '{"format": [1]}', "[]"])
def test_a_directory_with_a_damaged_mark_is_refused_in_one_line(text, tmp_path):
    (tmp_path / store.Workdir.MARK).write_text(text)
    with pytest.raises(InputError, match="holds files that are not of an unlearn_jax"):
        store.Workdir(tmp_path).check()


def test_every_process_holds_its_own(tmp_path, monkeypatch):
    held = []
    lock = locks.lock

    def noting(file, **options):
        held.append(file.name)
        return lock(file, **options)

    monkeypatch.setattr(locks, "lock", noting)
    for index in range(2):
        monkeypatch.setattr(
            hosts, "current_process", lambda index=index: hosts.Host(index, 2)
        )
        with store.Workdir(tmp_path / "w").locked() as folder:
            assert folder == tmp_path / "w"
    assert held == [".lock", ".process-0.lock", ".process-1.lock"]


# the run's own folder


@pytest.fixture
def small(tmp_path, survival, monkeypatch):
    """An experiment of three parts, 81 kB each, run from the command line: its status
    and standard error.
    """
    text = survival.PARTS.replace("(1000, 3000)", "(100, 100)").replace(
        "(0, 1, 2, 3, 4, 5, 6, 7)", "(0, 1, 2)"
    )
    (tmp_path / "small.py").write_text(text)
    monkeypatch.setattr(warnings, "showwarning", runtime.show_warning)

    def command(capsys, folder):
        status = cli.main(["run", str(tmp_path / "small.py"), "--workdir", str(folder)])
        return status, capsys.readouterr().err

    return command


def tables(folder):
    return json.loads((folder / "results.json").read_text())["tables"]


def arrays(folder):
    return {
        str(file.relative_to(folder)): np.load(file) for file in folder.glob("*/*.npy")
    }


def test_a_lost_mark_does_not_make_a_run_somebody_elses(small, tmp_path, capsys):
    assert small(capsys, tmp_path / "a") == (0, "")
    (tmp_path / "a" / store.Workdir.MARK).unlink()
    assert small(capsys, tmp_path / "a") == (0, "")
    mark = tmp_path / "a" / store.Workdir.MARK
    text = mark.read_text()
    mark.write_text(text[:9])
    assert small(capsys, tmp_path / "a") == (0, "")
    assert mark.read_text() == text
    other = tmp_path / "b" / "theirs"
    other.mkdir(parents=True)
    (other / "manifest.json").write_text('{"files": {}, "versions": {"somebody": "1"}}')
    (tmp_path / "b" / "config.json").write_text("{}")
    status, said = small(capsys, tmp_path / "b")
    assert status == 2
    assert "holds files that are not of an unlearn_jax run" in said
    status, _ = small(capsys, tmp_path)  # a folder that runs are in is none
    assert status == 2


@pytest.mark.parametrize("lost", [False, True])
def test_directories_of_an_older_format_are_refused(lost, small, tmp_path, capsys):
    assert small(capsys, tmp_path / "a") == (0, "")
    mark = tmp_path / "a" / store.Workdir.MARK
    mark.write_text('{"what": "a working directory of unlearn_jax"}')
    if lost:
        mark.unlink()
        for file in (tmp_path / "a").glob("*/manifest.json"):
            about = json.loads(file.read_text())
            del about["format"]
            file.write_text(json.dumps(about))
    before = sorted(path.name for path in (tmp_path / "a").iterdir())
    status, said = small(capsys, tmp_path / "a")
    assert status == 2
    assert said.count("\n") == 1
    assert "of format 2, but this version writes format 3: give --workdir a new" in said
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == before


def test_half_written_folders_of_killed_processes_are_removed(small, tmp_path, capsys):
    assert small(capsys, tmp_path / "a") == (0, "")
    drafts = [
        ".results.json-77.json",
        ".table.md-8.md",
        ".unlearn_jax.json-3",
        ".arrays-12.npz",
    ]
    for name in drafts:
        (tmp_path / "a" / name).write_text("half")
    (tmp_path / "a" / ".mine").touch()
    assert small(capsys, tmp_path / "a") == (0, "")
    assert [name for name in drafts if (tmp_path / "a" / name).exists()] == []
    assert (tmp_path / "a" / ".mine").exists()


@pytest.fixture
def mount(tmp_path):
    """Mounts a small disk in memory, with options."""
    made = []

    def on(folder, options):
        folder.mkdir(exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
            capture_output=True,
        )
        if done.returncode:
            pytest.skip("nothing can be mounted here")
        made.append(folder)

    yield on
    for folder in made:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_nothing_is_lost(small, tmp_path, mount, capsys):
    assert small(capsys, tmp_path / "whole") == (0, "")
    mount(tmp_path / "disk", "size=200k")  # two parts of 81 kB
    status, said = small(capsys, tmp_path / "disk")
    assert status == 1
    assert said.count("\n") == 1
    assert "No space left on device" in said
    assert "free some space" in said
    assert str(tmp_path / "disk") in said
    parts = [folder for folder in (tmp_path / "disk").iterdir() if folder.is_dir()]
    assert 1 <= len(parts) <= 2
    assert all(map(sound, parts)), (
        "what was finished is whole, and nothing else is there"
    )
    subprocess.run(
        ["mount", "-o", "remount,size=20m", str(tmp_path / "disk")], check=True
    )
    assert small(capsys, tmp_path / "disk") == (0, "")
    same_experiment(tmp_path / "disk", tmp_path / "whole")


def same_experiment(one, other):
    assert tables(one) == tables(other)
    found, expected = arrays(one), arrays(other)
    assert found.keys() == expected.keys()
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("fail_at", range(1, 8))
def test_a_disk_that_fills_up_at_any_write(
    fail_at, small, tmp_path, monkeypatch, capsys
):
    """Without a disk: every place that writes meets an error of the system, or NumPy's,
    which has no number.
    """
    assert small(capsys, tmp_path / "whole") == (0, "")
    writes = {"n": 0}

    def full(write, error):
        def wrapped(path, *args, **chosen):
            writes["n"] += 1
            if writes["n"] == fail_at:
                pathlib.Path(path).write_bytes(b"half")
                raise error
            return write(path, *args, **chosen)

        return wrapped

    with monkeypatch.context() as patched:
        patched.setattr(
            store.np,
            "save",
            full(np.save, OSError("80000 requested and 4096 written")),
        )
        written = full(pathlib.Path.write_text, OSError(28, "No space left on device"))
        patched.setattr(pathlib.Path, "write_text", written)
        status, said = small(capsys, tmp_path / "disk")
    assert status == 1
    assert said.count("\n") == 1
    assert "No space left on device: '" in said
    # what is written after the numbers does not take them along
    is_late = "cannot be written" in said
    assert (tmp_path / "disk" / "results.json").exists() == is_late
    left = [
        path
        for path in (tmp_path / "disk").rglob("*")
        if path.name.startswith(".") and "lock" not in path.name
    ]
    assert left == []
    assert all(
        sound(folder) for folder in (tmp_path / "disk").iterdir() if folder.is_dir()
    )
    assert small(capsys, tmp_path / "disk") == (0, "")
    same_experiment(tmp_path / "disk", tmp_path / "whole")


def state(epoch, size):
    return train.TrainState(
        jnp.full((1,), epoch), Variables({"w": jnp.arange(float(size))[None]}, {}), ()
    )


def test_a_disk_too_full_for_a_checkpoint(tmp_path, mount, capfd, caplog):
    mount(tmp_path / "disk", "size=300k")
    folder = tmp_path / "disk" / "c"
    checkpoints = Checkpoints(folder, 0.0)
    with pytest.raises(OSError, match=r"No space left on device: '"):  # noqa: PT012
        for epoch in (3, 5, 7):
            checkpoints.save(epoch, state(epoch, 25_000))
    assert capfd.readouterr().err == ""
    assert caplog.text == ""
    newest = max(int(step.name) for step in folder.iterdir() if step.name.isdecimal())
    restored = Checkpoints(folder, 0.0).restore(state(0, 25_000))
    assert restored.epoch[0] == newest < 7
    np.testing.assert_array_equal(
        restored.variables.params["w"], state(0, 25_000).variables.params["w"]
    )


def test_a_disk_too_full_for_the_small_files_of_a_checkpoint(
    tmp_path, monkeypatch, capfd, caplog
):
    """Orbax writes these in threads, logs what they raise, and raises it again."""
    met = []

    def full(path, *_, **__):
        met.append(path.name)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(type(epath.Path(tmp_path)), "write_text", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*00000003"):
        Checkpoints(tmp_path / "training", 0.0).save(3, state(3, 25))
    assert met
    assert capfd.readouterr().err == ""
    assert caplog.text == ""


def test_a_directory_that_cannot_be_written_is_one_line(small, tmp_path, mount, capsys):
    if os.geteuid():
        (tmp_path / "disk").mkdir(mode=0o555)
    else:  # permissions do not keep out the superuser
        mount(tmp_path / "disk", "ro")
    status, said = small(capsys, tmp_path / "disk" / "run")
    assert status == 2
    assert said.count("\n") == 1
    assert f"cannot be written: check the permissions of {tmp_path / 'disk'}" in said
    with pytest.raises(InputError, match="cannot be written"):
        locks.make_folder(tmp_path / "disk" / "banks")
    assert not list((tmp_path / "disk").iterdir())


def test_a_finished_run_that_becomes_read_only_is_left_as_it_is(
    small, tmp_path, mount, capsys
):
    if os.geteuid():
        pytest.skip("needs a disk of its own")
    mount(tmp_path / "disk", "size=20m")
    assert small(capsys, tmp_path / "disk") == (0, "")
    before = {
        file: file.read_bytes()
        for file in (tmp_path / "disk").rglob("*")
        if file.is_file()
    }
    subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)
    status, said = small(capsys, tmp_path / "disk")
    assert status == 2
    assert "cannot be written" in said
    assert {
        file: file.read_bytes()
        for file in (tmp_path / "disk").rglob("*")
        if file.is_file()
    } == before


# the harness


def test_the_harness_tells_phases_by_the_stack(survival):
    frame = '  File "/x/unlearn_jax/pipeline/{}", line 12, in {}\n'
    run = frame.format("_run.py", "_train")
    training = frame.format("stages/training.py", "_train") + run
    assert survival.phase(training) == "training"
    save = frame.format("store/artifact.py", "save")
    assert survival.phase(save + training) == "checkpoint write"
    write = frame.format("store/folders.py", "write_folder")
    assert survival.phase(write + run) == "training: piece written"
    publish = frame.format("_run.py", "publish") + frame.format("_run.py", "run")
    assert survival.phase(publish) == "report"
    assert survival.phase("") == survival.OTHER


def test_the_harness_finds_a_difference(survival, tmp_path):
    (tmp_path / "a" / "run").mkdir(parents=True)
    (tmp_path / "a" / "run" / "results.json").write_text(
        json.dumps({"x": 1.5, "cost": 3, "rows": [{"cost": 2}]})
    )
    stored(tmp_path / "a" / "part")
    expected = survival.content(tmp_path / "a")
    survival.compare(tmp_path / "a", expected)
    (tmp_path / "a" / "run" / "results.json").write_text(
        json.dumps({"x": 1.5, "cost": 4, "rows": [{"cost": 1}]})
    )
    survival.compare(tmp_path / "a", expected)
    stored(tmp_path / "a" / "part", np.nextafter(np.arange(12.0), 99))
    with pytest.raises(SystemExit, match="differs from the uninterrupted run"):
        survival.compare(tmp_path / "a", expected)
    stored(tmp_path / "a" / "part")
    (tmp_path / "a" / ".results.json-77.json").touch()
    with pytest.raises(SystemExit, match="left behind"):
        survival.compare(tmp_path / "a", expected)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["run", "parts", "processes"])
def test_a_few_kills(what, survival, tmp_path):
    preset = survival.PARTS if what == "parts" else survival.RUN
    case, clock, expected = survival.uninterrupted(survival.Case(tmp_path, preset))
    case, rng = (
        case._replace(processes=2 if what == "processes" else 1),
        random.Random(1),
    )
    once = lambda folder: survival.at_a_moment(case, folder, clock, rng)
    assert survival.kill_often(case, expected, 2, once).total() == 2


@pytest.mark.slow
def test_damaged_files_of_a_run(survival, tmp_path):
    damaging = importlib.import_module("survival_damage")
    case, _, expected = survival.uninterrupted(survival.Case(tmp_path, survival.RUN))
    damaging.damage_finished(
        case, case.root / "whole", expected, kinds=("a bit flipped",)
    )
    damaging.damage_checkpoints(case, expected, kinds=("truncated",))
