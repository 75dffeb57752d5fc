"""experiments/OWN_MODELS.md: every command and every block of Python runs."""

import pathlib
import re
import shlex
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization
from support.runs import TINY

from unlearn_jax import cli, pipeline
from unlearn_jax.pipeline.config.command_line import parse
from unlearn_jax.pipeline.config.overrides import choose_values
from unlearn_jax.pipeline.config.resolve import complete
from unlearn_jax.pipeline.measure.columns import columns_of
from unlearn_jax.types import Variables

PAGE = pathlib.Path(__file__).parents[1] / "experiments" / "OWN_MODELS.md"
TINY_PRESET = "\nfrom support.runs import TINY as PRESET\n"


def blocks():
    """Language and text of the page's code, in order."""
    return re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), re.DOTALL)


class Net(nn.Module):
    """The network of the page's preset."""

    @nn.compact
    def __call__(self, images, *, train):
        hidden = nn.relu(nn.Dense(16)(images.reshape(len(images), -1)))
        return nn.Dense(3)(hidden)


def resnet18():
    """A ``state_dict`` in torchvision's layout, of zeros."""
    shapes = {"conv1.weight": (64, 3, 7, 7), "fc.weight": (10, 512), "fc.bias": (10,)}
    norms = {"bn1": 64}
    inputs = 64
    for layer in range(4):
        width = 64 * 2**layer
        for block in range(2):
            name = f"layer{layer + 1}.{block}"
            shapes[f"{name}.conv1.weight"] = (width, inputs, 3, 3)
            shapes[f"{name}.conv2.weight"] = (width, width, 3, 3)
            norms |= {f"{name}.bn1": width, f"{name}.bn2": width}
            if inputs != width:
                shapes[f"{name}.downsample.0.weight"] = (width, inputs, 1, 1)
                norms[f"{name}.downsample.1"] = width
            inputs = width
    for name, width in norms.items():
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{leaf}"] = (width,)
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


@pytest.fixture
def place(tmp_path, splits, monkeypatch):
    """A folder with a finished run, and a user's data and weights."""
    monkeypatch.chdir(tmp_path)
    pipeline.run(TINY, "runs/digits", splits=splits)
    names = ("train_images", "train_labels", "test_images", "test_labels")
    arrays = (*splits.train, *splits.test)
    np.savez("images.npz", **dict(zip(names, arrays, strict=True)))
    variables = Net().init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)), train=False)
    pathlib.Path("weights.msgpack").write_bytes(serialization.to_bytes(variables))
    return tmp_path


class Column:
    """A ``ClassLabel`` of Hugging Face."""

    names = ("a", "b", "c")


class Rows(list):
    """The part of a Hugging Face data set that is read."""

    column_names = ("image", "label")
    features = {"image": object(), "label": Column()}  # noqa: RUF012


def test_the_page_runs(place, splits, capsys):
    labels = np.concatenate([splits.train.labels, splits.test.labels])
    train = np.arange(len(labels)) < len(splits.train.labels)
    rng = np.random.default_rng(0)
    pairs = list(zip(splits.train.images, splits.train.labels, strict=True))
    scope = {
        "folder": str(place),
        "labels": labels,
        "train": train,
        "forget": np.arange(len(labels)) < 10,
        "member": rng.random((6, len(labels))).argsort(0) < 3,
        "reference_logits": rng.normal(size=(6, len(labels), 3)),
        "unlearned_logits": rng.normal(size=(len(labels), 3)),
        "retrained_logits": rng.normal(size=(len(labels), 3)),
        "state_dict": resnet18(),
        "pairs": pairs,
        "dataset": Rows({"image": image, "label": label} for image, label in pairs),
    }
    commands = 0
    for language, text in blocks():
        if text.startswith("# my_experiment.py"):
            pathlib.Path("my_experiment.py").write_text(text + TINY_PRESET)
        elif language == "python":
            exec(text, scope)  # the page's own code
        for line in text.splitlines() if language == "sh" else ():
            words = shlex.split(line)
            assert words[0] == "unlearn-jax"
            if words[1:3] != ["run", "digits"]:
                status = cli.main(words[1:])
                assert status == 0, capsys.readouterr().err
            commands += 1
    assert commands == 4
    assert pathlib.Path("audited/report.html").is_file()
    assert pathlib.Path("runs/mine/report.html").is_file()
    assert scope["variables"].params["Dense_0"]["kernel"].shape == (512, 10)
    assert len(scope["splits"].train.labels) + len(scope["splits"].test.labels) == 60


def test_the_pages_of_methods_and_columns_run(tmp_path, monkeypatch):
    """A row and two columns of modules next to the preset."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    commands = []
    for page in ("OWN_METHODS.md", "OWN_COLUMNS.md"):
        text = (PAGE.parent / page).read_text()
        assert len(text.splitlines()) <= 40
        found = re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)
        for language, code in found:
            named = re.match(r"# (\w+\.py)\n", code)
            if language == "python" and named:
                pathlib.Path(named[1]).write_text(code)
            commands += code.splitlines() if language == "sh" else []
    (command,) = map(shlex.split, commands)
    assert command[:3] == ["unlearn-jax", "run", "digits"]
    words = [*command[5:], "my_columns:BRIER"]
    config, others = choose_values(complete(pipeline.RunConfig()), words)
    config = parse(pipeline.RunConfig, others, "run", config)
    method = config.rows["shrink"].method
    assert method.factor == 0.8
    variables, info = method(
        None, SimpleNamespace(variables=Variables(jnp.ones(2), {}))
    )
    np.testing.assert_allclose(variables.params, 0.8)
    assert info.num_gradients == 0
    columns = columns_of(config.audit.columns)
    assert set(columns) == {"largest", "brier"}
    logits = np.log([[0.5, 0.25, 0.25]])
    assert columns["brier"].values(logits, np.array([0])) == pytest.approx(0.1875)
