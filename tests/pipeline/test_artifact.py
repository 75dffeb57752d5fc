"""Artifacts: computed once, resumed, repaired, read by items, opened by plain Orbax."""

import dataclasses
import subprocess
import sys
import threading
from concurrent import futures

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unlearn_jax.pipeline.config.schema import digest
from unlearn_jax.pipeline.store import clock, folders, trees
from unlearn_jax.pipeline.store.artifact import (
    Artifact,
    Checkpoints,
    Items,
    Runner,
    open_stored,
)
from unlearn_jax.train import TrainState
from unlearn_jax.types import DamagedFileError, InputError, Variables


def runner(folder):
    return Runner(folder, progress=False)


def squares(calls, count=7, group=3, shapes=None, **more):
    """An artifact of squares that notes the items it computes."""

    def compute(piece):
        calls.append((piece.items, piece.count))
        x = np.array(piece.items, np.float32)
        return {"x": x**2, "models": {"w": x[:, None] * np.ones((1, 2), np.float32)}}

    return Artifact(
        name="squares",
        settings={"power": 2},
        compute=compute,
        items=Items(count, group, shapes),
        **more,
    )


def test_pieces_are_even_padded_and_joined_in_the_order_of_items(tmp_path):
    calls = []
    stored = runner(tmp_path).make(squares(calls))
    assert calls == [([0, 1, 2], 3), ([3, 4, 5], 3), ([6, 6, 6], 1)]
    np.testing.assert_array_equal(stored["x"], np.arange(7.0) ** 2)
    np.testing.assert_array_equal(stored["models"]["w"][:, 1], np.arange(7.0))
    assert set(stored) == {"x", "models"}
    assert [items for items, _ in stored.pieces()] == [[0, 1, 2], [3, 4, 5], [6]]
    assert stored.item(4)["x"] == 16
    np.testing.assert_array_equal(stored.item(4)["models"]["w"], [4, 4])
    assert [float(x) for x in stored.each("x")] == [i**2 for i in range(7)]


def test_items_of_equal_shape_share_pieces(tmp_path):
    calls = []
    stored = runner(tmp_path).make(squares(calls, shapes=[9, 5, 9, 5, 9, 5, 5]))
    assert calls == [([1, 3, 3], 2), ([5, 6, 6], 2), ([0, 2, 4], 3)]
    np.testing.assert_array_equal(stored["x"], np.arange(7.0) ** 2)
    np.testing.assert_array_equal(stored["models"]["w"][:, 0], np.arange(7.0))


def test_nothing_is_computed_twice_and_other_groups_share(tmp_path):
    calls = []
    first = runner(tmp_path)
    first.make(squares(calls))
    assert not first.costs[0].cached
    again = runner(tmp_path)
    again.make(squares(calls, group=2))
    assert len(calls) == 3
    assert again.costs[0].cached
    assert again.costs[0].seconds == first.costs[0].seconds


def test_a_lost_piece_is_recomputed_with_the_groups_of_that_run(tmp_path):
    calls = []
    path = runner(tmp_path).make(squares(calls)).path
    folders.shutil.rmtree(path / "items-0003-0005")
    stored = runner(tmp_path).make(squares(calls, group=4))
    assert calls[3:] == [([3, 3, 3, 3], 1), ([4, 5, 5, 5], 2)]
    np.testing.assert_array_equal(stored["x"], np.arange(7.0) ** 2)


def test_overlapping_pieces_are_read_once_an_item(tmp_path):
    calls = []
    path = runner(tmp_path).make(squares(calls, group=7)).path
    (path / "items-0000-0006").rename(tmp_path / "kept")
    runner(tmp_path).make(squares(calls))
    (tmp_path / "kept").rename(path / "items-0000-0006")
    stored = runner(tmp_path).make(squares(calls))
    np.testing.assert_array_equal(stored["x"], np.arange(7.0) ** 2)
    assert sum(len(items) for items, _ in stored.pieces()) == 7


def test_a_name_is_looked_up_without_reading_what_it_names(tmp_path, monkeypatch):
    stored = runner(tmp_path).make(squares([]))
    reads = []
    monkeypatch.setattr(stored, "_read", lambda *args: reads.append(args))
    assert "x" in stored
    assert "models" in stored
    assert "y" not in stored
    assert not reads


def test_an_opened_artifact_misses_its_lost_pieces(tmp_path):
    path = runner(tmp_path).make(squares([])).path
    assert len(open_stored(path, count=7)["x"]) == 7
    folders.shutil.rmtree(path / "items-0006-0006")
    assert len(open_stored(path)["x"]) == 6
    with pytest.raises(DamagedFileError, match="lacks item 6: run the same command"):
        open_stored(path, count=7)
    folders.shutil.rmtree(path / "items-0000-0002")
    with pytest.raises(DamagedFileError, match="lacks item 0"):
        open_stored(path)


def test_two_runs_with_other_groups_never_write_one_folder(tmp_path):
    calls = []
    path = runner(tmp_path).make(squares(calls, count=4, group=2)).path
    folders.shutil.rmtree(path / "items-0002-0003")
    is_computing = threading.Event()
    may_end = threading.Event()
    whole = squares(calls, count=4, group=4)

    def compute(piece):
        is_computing.set()
        assert may_end.wait(60)
        return whole.compute(piece)

    slow = dataclasses.replace(whole, compute=compute)
    with futures.ThreadPoolExecutor() as pool:
        first = pool.submit(runner(tmp_path).make, slow)
        assert is_computing.wait(60)
        # what the first run computes is also a piece of the second
        second = pool.submit(runner(tmp_path).make, squares(calls, count=4, group=2))
        futures.wait([second], timeout=1)
        may_end.set()
        for run in (first, second):
            np.testing.assert_array_equal(run.result()["x"], np.arange(4.0) ** 2)
    assert calls == [([0, 1], 2), ([2, 3], 2), ([2, 3, 3, 3], 2)]


def test_drafts_of_other_pieces_stay(tmp_path):
    """Pieces of items that are not in sequence have a digest behind their ends."""
    for name in (".items-0000-0002-77", ".items-0000-0002-1234abcd-78"):
        (tmp_path / name).mkdir()
    (tmp_path / ".items-0000-0002-1234abcd.lock").touch()
    folders.write_folder(tmp_path / "items-0000-0002", lambda draft: None, {})
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {
        "items-0000-0002",
        ".items-0000-0002-1234abcd-78",
        ".items-0000-0002-1234abcd.lock",
    }


def test_inputs_come_first_and_name_the_result(tmp_path):
    calls = []

    def total(x, scale):
        return {"sum": scale * x["x"].sum(), "list": [1, 2]}

    def make(power):
        source = squares(calls)
        source = Artifact(
            name="squares",
            settings={"power": power},
            compute=source.compute,
            items=source.items,
        )
        return Artifact(
            name="total",
            settings={},
            compute=lambda x: total(x, 2),
            inputs=(source,),
        )

    run = runner(tmp_path)
    stored = run.make(make(2))
    assert [cost.name for cost in run.costs] == ["squares", "total"]
    assert stored["sum"] == 2 * sum(i**2 for i in range(7))
    assert stored["list"].tolist() == [1, 2]
    assert make(2).key == make(2).key != make(3).key
    plan = runner(tmp_path).plan([make(2), make(3)]).splitlines()
    assert plan[2].split() == ["squares", "7", "7", "0", "-"]
    assert plan[4].split() == ["squares", "7", "0", "7", "-"]


def test_switches_of_jax_are_in_keys_unless_they_are_the_defaults():
    key = squares([]).key
    assert key == digest(folders.FORMAT, "squares", {"power": 2}, [])
    keys = {key}
    for context in (jax.enable_x64(True), jax.default_matmul_precision("bfloat16")):
        with context:
            keys.add(squares([]).key)
    assert len(keys) == 3
    assert squares([]).key == key


def test_a_dry_run_writes_nothing_and_prices(tmp_path):
    table = runner(tmp_path / "x").plan([squares([], price=50.0)], speed=10.0)
    squared, everything = table.splitlines()[-2:]
    assert squared.split() == ["squares", "7", "0", "7", "35", "s"]
    assert everything.split() == ["all", "0.6", "min"]
    assert not (tmp_path / "x").exists()


def test_a_damaged_piece_is_moved_aside_and_recomputed(tmp_path):
    calls = []
    path = runner(tmp_path).make(squares(calls)).path
    file = path / "items-0003-0005" / "x.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.warns(folders.DamagedFileWarning, match="x.npy is missing, truncated"):
        stored = runner(tmp_path).make(squares(calls))
    assert calls[3:] == [([3, 4, 5], 3)]
    np.testing.assert_array_equal(stored["x"], np.arange(7.0) ** 2)
    assert (path / "damaged-items-0003-0005-0").is_dir()


def test_every_file_of_a_tree_has_a_checksum(tmp_path):
    path = runner(tmp_path).make(squares([])).path / "items-0000-0002"
    manifest = folders.read_manifest(path)
    files = {file.relative_to(path).as_posix() for file in path.rglob("*")}
    files = {name for name in files if (path / name).is_file()}
    assert files == set(manifest["files"]) | {folders.MANIFEST}
    assert sum(name.startswith("models/") for name in files) > 3


def test_files_of_killed_processes_are_removed(tmp_path):
    path = runner(tmp_path).make(squares([])).path
    (path / "unfinished-items-0000-0002").mkdir()
    (path / ".items-0000-0002-77").mkdir()
    runner(tmp_path).make(squares([]))
    left = sorted(folder.name for folder in path.iterdir() if folder.is_dir())
    assert left == ["items-0000-0002", "items-0003-0005", "items-0006-0006"]


def test_a_file_in_the_place_of_a_folder_is_moved_aside(tmp_path):
    whole = Artifact(name="x", settings={}, compute=lambda: {"y": np.arange(3)})
    split = squares([])
    first = runner(tmp_path)
    piece = first.path(split) / "items-0000-0002"
    piece.parent.mkdir()
    for file in (first.path(whole), piece):
        file.touch()
    with pytest.warns(folders.DamagedFileWarning, match="is missing, truncated"):
        stored = first.make_all([whole, split])
    assert stored["x"]["y"].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(stored["squares"]["x"], np.arange(7.0) ** 2)
    assert first.path(whole).with_name(f"damaged-{first.path(whole).name}-0").is_file()


def test_names_and_content_that_cannot_be_stored_are_refused(tmp_path):
    with pytest.raises(InputError, match="named with letters"):
        Artifact(name="a/b", settings={}, compute=dict)
    odd = Artifact(name="odd", settings={}, compute=lambda: {"x": np.array([None])})
    with pytest.raises(ValueError, match="Python objects"):
        runner(tmp_path).make(odd)


def state():
    params = {
        "w": jnp.arange(6.0, dtype=jnp.bfloat16).reshape(2, 3),
        "b": [jnp.ones(2)],
    }
    tx = optax.chain(optax.clip(1.0), optax.adam(1e-3))
    return TrainState(jnp.full((2,), 3), Variables(params, {}), tx.init(params))


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        assert np.array_equal(x, y)


def test_trees_come_back_with_their_structure_types_and_keys(tmp_path):
    tree = {"state": state(), "empty": {}, "number": jnp.float32(3)}
    trees.save_tree(tmp_path / "t", tree)
    same(trees.load_tree(tmp_path / "t", tree), tree)
    trees.save_tree(tmp_path / "k", {"key": jax.random.key(7)})
    restored = trees.load_tree(tmp_path / "k", {"key": jax.random.key(0)})["key"]
    assert jnp.array_equal(
        jax.random.key_data(restored), jax.random.key_data(jax.random.key(7))
    )
    with pytest.raises(ValueError, match="other leaves"):
        trees.load_tree(tmp_path / "k", {"other": np.zeros(2)})
    with pytest.raises(ValueError, match="other shapes or types"):
        trees.load_tree(tmp_path / "k", {"key": np.zeros(2, np.float32)})


OPEN = """
import sys
import orbax.checkpoint as ocp
tree = ocp.StandardCheckpointer().restore(sys.argv[1])
assert "unlearn_jax" not in sys.modules
print(tree["w"].shape, tree["w"].dtype, tree["w"].tolist())
"""


def test_plain_orbax_opens_stored_models(tmp_path):
    path = runner(tmp_path).make(squares([])).path / "items-0003-0005" / "models"
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "(3, 2) float32 [[3.0, 3.0], [4.0, 4.0], [5.0, 5.0]]\n"


def test_checkpoints_keep_the_newest_two_and_resume(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", 0.0)
    assert checkpoints.restore(state()) is None
    for step in (1, 2, 3):
        checkpoints.save(step, state()._replace(epoch=jnp.full((2,), step)))
    names = sorted(folder.name for folder in (tmp_path / "c").iterdir())
    assert names == ["00000002", "00000003"]
    newest = Checkpoints(tmp_path / "c", 0.0).restore(state())
    same(newest, state())
    file = next((tmp_path / "c" / "00000003").rglob("_METADATA"))
    file.write_bytes(b"{}")
    with pytest.warns(folders.DamagedFileWarning, match="truncated or changed"):
        older = Checkpoints(tmp_path / "c", 0.0).restore(state())
    assert older.epoch[0] == 2


def test_checkpoints_are_some_time_apart(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", 60.0)
    checkpoints.save(1, state())
    assert not (tmp_path / "c").exists()


def test_an_interrupted_piece_resumes_from_its_scratch(tmp_path):
    calls = []

    def compute(piece):
        checkpoints = Checkpoints(piece.scratch, 0.0)
        start = checkpoints.restore({"n": np.zeros(2, np.int32)})
        calls.append(None if start is None else start["n"].tolist())
        if start is None:
            checkpoints.save(1, {"n": np.array([5, 6], np.int32)})
            raise KeyboardInterrupt
        return start

    artifact = Artifact(name="slow", settings={}, compute=compute, items=Items(2, 2))
    with pytest.raises(KeyboardInterrupt):
        runner(tmp_path).make(artifact)
    stored = runner(tmp_path).make(artifact)
    assert calls == [None, [5, 6]]
    assert stored["n"].tolist() == [5, 6]
    assert [folder.name for folder in stored.path.glob("[!.]*")] == ["items-0000-0001"]


def test_a_span_of_compiling_inside_another_is_counted_once():
    spent = clock._Compilation()
    for begin, end in ((1, 2), (2, 2.5), (0.5, 3), (4, 5), (4.5, 6)):
        spent.add(begin, end)
    assert spent.seconds == 4.5


WINDOWS = """
import sys, warnings
warnings.simplefilter("ignore")

class Refuse:
    def find_spec(self, name, *args):
        if name in ("fcntl", "resource"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
import unlearn_jax.pipeline
from unlearn_jax.pipeline.store import clock
assert clock.peak_memory_mb() == 0
"""


def test_the_pipeline_imports_without_modules_of_unix():
    subprocess.run([sys.executable, "-c", WINDOWS], check=True)
