"""Trained models on disk: every format, the common layouts, errors by name."""

import re
import time

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx, serialization
from flax.training import train_state

from unlearn_jax import models
from unlearn_jax.types import InputError, Variables

SUFFIXES = {"orbax": "", "safetensors": ".safetensors", "msgpack": ".msgpack"}


@pytest.fixture
def trained(normed, key):
    """Variables with params and BatchNorm statistics."""
    return jax.tree.map(lambda leaf: leaf + 0.5, normed.init(key))


def equal(first, second):
    chex.assert_trees_all_equal_structs(first, second)
    chex.assert_trees_all_equal(first, second)


@pytest.mark.parametrize("name", SUFFIXES)
def test_every_format_returns_the_bits(name, normed, trained, tmp_path):
    path = models.save(tmp_path / f"model{SUFFIXES[name]}", trained)
    assert path.is_dir() == (name == "orbax")
    equal(models.load(path, like=normed), trained)
    with pytest.raises(InputError, match="exists"):
        models.save(path, trained)


@pytest.mark.parametrize("name", SUFFIXES)
def test_names_that_differ_in_a_prefix_alone_are_kept_apart(name, tmp_path):
    """An average of the weights in the state, and a leaf called like a part of Flax."""
    weights = np.ones((2, 3), np.float32)
    averaged = Variables({"w": weights}, {"w": 2 * weights})
    suffix = SUFFIXES[name]
    path = models.save(tmp_path / f"averaged{suffix}", averaged)
    equal(models.load(path, like=averaged), averaged)
    counted = {"step": weights}
    path = models.save(tmp_path / f"counted{suffix}", counted)
    equal(models.load(path, like=counted), counted)


def test_two_leaves_of_one_path_are_refused(tmp_path):
    leaf = np.ones(2)
    variables = Variables({"a/b": leaf, "a": {"b": 3 * leaf}}, {})
    with pytest.raises(InputError, match="two leaves have the path params/a/b"):
        models.save(tmp_path / "m.msgpack", variables)
    assert not (tmp_path / "m.msgpack").exists()


@pytest.mark.parametrize(
    ("leaves", "message"),
    [
        ({"a": 1.0, "a/b": 2.0}, "the path a is a leaf and a folder: rename one"),
        ({"a/b": 1.0, "a": 2.0}, "the path a is a leaf and a folder: rename one"),
        (
            {"key": jax.random.key(0)},
            r"key holds keys: save their jax\.random\.key_data",
        ),
    ],
)
def test_leaves_without_a_file_are_refused(leaves, message, tmp_path):
    with pytest.raises(InputError, match=message):
        models.save(tmp_path / "model.msgpack", leaves)
    assert not (tmp_path / "model.msgpack").exists()


def test_numbers_are_a_structure_and_large_ones_are_finite(tmp_path):
    path = models.save(tmp_path / "model.msgpack", {"step": 3})
    assert models.load(path, like={"step": 0})["step"] == 3
    with jax.enable_x64(True):
        weights = {"w": np.array([1e39])}
        path = models.save(tmp_path / "large.msgpack", weights)
        np.testing.assert_array_equal(models.load(path, weights)["w"], weights["w"])
    with pytest.raises(InputError, match="w has NaN or infinity"):
        models.load(path, weights)


def test_the_files_open_without_the_library(trained, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    scale = np.asarray(trained.params["BatchNorm_0"]["scale"])
    for name, suffix in SUFFIXES.items():
        models.save(tmp_path / f"m{suffix}", trained, format=name)
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.restore(tmp_path / "m")
    np.testing.assert_array_equal(tree["params"]["BatchNorm_0"]["scale"], scale)
    flat = safetensors.load_file(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(flat["params/BatchNorm_0/scale"], scale)
    tree = serialization.msgpack_restore((tmp_path / "m.msgpack").read_bytes())
    np.testing.assert_array_equal(tree["params"]["BatchNorm_0"]["scale"], scale)


def test_linen_variables_of_a_user_load(normed, trained, tmp_path):
    """``{"params": ..., "batch_stats": ...}``, as Flax's examples store them."""
    linen = {"params": trained.params, **trained.state}
    (tmp_path / "linen.msgpack").write_bytes(serialization.to_bytes(linen))
    equal(models.load(tmp_path / "linen.msgpack", like=normed), trained)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "linen", linen)
    equal(models.load(tmp_path / "linen", like=normed), trained)


def test_train_states_and_bare_params_load(tiny, tiny_variables, tmp_path):
    state = train_state.TrainState.create(
        apply_fn=None, params=tiny_variables.params, tx=optax.adam(0.1)
    )
    for name, tree in {"state": state, "params": tiny_variables.params}.items():
        (tmp_path / f"{name}.msgpack").write_bytes(serialization.to_bytes(tree))
        equal(models.load(tmp_path / f"{name}.msgpack", like=tiny), tiny_variables)


def test_nnx_states_load(key, tmp_path):
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(4, rngs=rngs)
            self.head = nnx.Linear(4, 3, rngs=rngs)

        def __call__(self, images):
            return self.head(self.norm(images.mean((1, 2))))

    model = models.from_nnx(Net)
    trained = nnx.state(Net(nnx.Rngs(3)), nnx.Param, nnx.BatchStat)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "nnx", nnx.merge_state(*trained))
    loaded = models.load(tmp_path / "nnx", like=model)
    images = jax.random.uniform(key, (2, 5, 5, 4))
    net = Net(nnx.Rngs(3))
    net.eval()
    chex.assert_trees_all_close(model.apply(loaded, images), net(images), rtol=1e-6)


def test_any_pytree_is_a_structure(tmp_path):
    tree = {"layers": [jnp.ones(2), jnp.zeros((2, 1))], "scale": jnp.float32(3)}
    path = models.save(tmp_path / "tree.safetensors", tree)
    equal(models.load(path, like=jax.eval_shape(lambda: tree)), tree)


def changed(trained, change):
    tree = {"params": jax.tree.map(np.asarray, trained.params), **trained.state}
    change(tree["params"])
    return serialization.to_bytes(tree)


def poison(leaf):
    return np.full_like(leaf, np.nan)


REFUSED = {
    "it lacks params/Dense_0/kernel": lambda p: p["Dense_0"].pop("kernel"),
    "the model has no Dense_9/w": lambda p: p.update(Dense_9={"w": np.ones(2)}),
    "Dense_0/bias has shape (4,), the model's has (3,)": (
        lambda p: p["Dense_0"].update(bias=np.ones(4, np.float32))
    ),
    "Dense_0/bias has dtype int32": (
        lambda p: p["Dense_0"].update(bias=np.ones(3, np.int32))
    ),
    "Dense_0/bias has NaN": lambda p: p["Dense_0"].update(bias=poison(np.ones(3))),
}


@pytest.mark.parametrize("message", REFUSED)
def test_leaves_that_do_not_fit_are_named(message, normed, trained, tmp_path):
    path = tmp_path / "m.msgpack"
    path.write_bytes(changed(trained, REFUSED[message]))
    with pytest.raises(InputError, match=re.escape(message)) as error:
        models.load(path, like=normed)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", SUFFIXES)
def test_damaged_files_are_one_line(name, normed, trained, tmp_path):
    path = models.save(tmp_path / f"m{SUFFIXES[name]}", trained)
    target = path / "_METADATA" if path.is_dir() else path
    target.write_bytes(target.read_bytes()[:20])
    with pytest.raises(InputError, match="cannot read") as error:
        models.load(path, like=normed)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("lost", ["manifest.ocdbt", "d/*", "**/d/*"])
def test_a_folder_without_its_data_is_one_line(lost, normed, trained, tmp_path, capfd):
    path = models.save(tmp_path / "m", trained)
    assert list(path.glob(lost))
    for file in path.glob(lost):
        file.unlink()
    with pytest.raises(InputError, match="m lacks data files, or they are damaged"):
        models.load(path, like=normed)
    time.sleep(0.2)  # for threads in the background
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("use_zarr3", [False, True])
def test_folders_of_one_folder_per_leaf_are_read(use_zarr3, normed, trained, tmp_path):
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_zarr3=use_zarr3)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(tmp_path / "m", trained._asdict())
    loaded = models.load(tmp_path / "m", like=normed)
    chex.assert_trees_all_equal(loaded, trained)


def test_folders_that_are_none(normed, trained, tmp_path):
    with pytest.raises(InputError, match="no model at"):
        models.load(tmp_path / "absent", like=normed)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not an Orbax folder"):
        models.load(tmp_path / "empty", like=normed)
    (tmp_path / "empty" / "results.json").write_text("{}")
    with pytest.raises(InputError, match="is a run, not a model: export one by"):
        models.load(tmp_path / "empty", like=normed)
    (tmp_path / "w.pth").write_bytes(b"weights")
    with pytest.raises(InputError, match="is a file of PyTorch: convert it by"):
        models.load(tmp_path / "w.pth", like=normed)
    with ocp.CheckpointManager(tmp_path / "manager") as manager:
        manager.save(3, args=ocp.args.StandardSave({"params": trained.params}))
        manager.wait_until_finished()
    with pytest.raises(InputError, match=r"pass .*manager/3/default"):
        models.load(tmp_path / "manager", like=normed)


def test_safetensors_is_optional(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    with pytest.raises(InputError, match="pip install"):
        models.save(tmp_path / "m.safetensors", trained)
    assert not (tmp_path / "m.safetensors").exists()


def test_linen_models_of_a_user_take_what_is_loaded(key, tmp_path):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            return nn.Dense(3)(images.reshape(len(images), -1))

    images = jnp.ones((2, 4, 4, 1))
    variables = Net().init(key, images, train=False)
    (tmp_path / "m.msgpack").write_bytes(serialization.to_bytes(variables))
    model = models.from_linen(Net(), images[:1])
    loaded = models.load(tmp_path / "m.msgpack", like=model)
    expected = Net().apply(variables, images, train=False)
    chex.assert_trees_all_equal(model.apply(loaded, images), expected)
