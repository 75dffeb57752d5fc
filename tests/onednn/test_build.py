"""The build of oneDNN's convolutions: said in one line where something is missing."""

import sys

import jax
import jax.numpy as jnp
import pytest

from unlearn_jax import cli, models, onednn
from unlearn_jax.onednn import convolution
from unlearn_jax.onednn import library as building
from unlearn_jax.pipeline import ModelConfig
from unlearn_jax.pipeline.config.resolve import plain_model, with_convolutions
from unlearn_jax.pipeline.store import folders
from unlearn_jax.types import InputError


@pytest.fixture
def unbuilt(tmp_path, monkeypatch):
    """A machine on which nothing was built."""
    monkeypatch.setenv("UNLEARN_JAX_CACHE", str(tmp_path))
    native = building.native.__wrapped__
    monkeypatch.setattr(building, "native", native)
    monkeypatch.setattr(onednn, "native", native)
    monkeypatch.setattr(convolution, "native", native)
    # build() forgets what was found
    native.cache_clear = lambda: None
    return tmp_path


def compiler(folder, text):
    path = folder / "compiler"
    path.write_text(f"#!{sys.executable}\nimport sys\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_without_it_networks_get_the_canonical_form(unbuilt):
    assert onednn.native().reason == "not built: unlearn-jax doctor --build-onednn"
    assert models.convolution_form() == "canonical"
    assert models.convolution() is models.canonical_conv
    with pytest.raises(InputError, match="cannot be used: not built: unlearn-jax doc"):
        models.build("cnn", (8, 8, 1), 3, conv="onednn")
    assert "onednn" not in folders.versions()
    with pytest.raises(InputError, match="cannot be used: not built: unlearn-jax doc"):
        models.onednn_conv(
            jnp.ones((1, 5, 7, 2)), jnp.ones((3, 2, 2, 3)), (1, 1), "SAME"
        )
    assert not list(unbuilt.iterdir()), "nothing is built or written unasked"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "sys.exit('x.cc:35: fatal error: oneapi/dnnl/dnnl.hpp: No such file')",
            "install libdnnl-dev",
        ),
        ("sys.exit('/usr/bin/ld: cannot find -ldnnl')", "install libdnnl-dev"),
        ("sys.exit('x.cc:1:2: error: no such thing')", "error: no such thing"),
        ("open(sys.argv[-1], 'w').write('no library')", "does not load: "),
    ],
)
def test_a_failed_build_is_one_line(text, message, unbuilt, monkeypatch):
    monkeypatch.setenv("CXX", compiler(unbuilt, text))
    with pytest.raises(InputError, match=message) as caught:
        onednn.build()
    assert "\n" not in str(caught.value)
    assert models.convolution_form() == "canonical"


def test_a_compiler_may_have_arguments(unbuilt, monkeypatch):
    name = compiler(unbuilt, "sys.exit(f'x.cc:1:2: error: {sys.argv[1]}')")
    monkeypatch.setenv("CXX", f"{name} --first")
    with pytest.raises(InputError, match="error: --first"):
        onednn.build()


def test_a_missing_compiler_is_one_line(unbuilt, monkeypatch, capsys):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(unbuilt))
    assert cli.main(["doctor", "--build-onednn"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "install g++" in error


def test_the_library_is_named_by_source_jaxlib_and_machine(unbuilt, monkeypatch):
    first = onednn.library_path()
    assert first == onednn.library_path()
    assert first.parent == unbuilt / "onednn"
    source = unbuilt / "other.cc"
    source.write_text("other")
    monkeypatch.setattr(building, "SOURCE", source)
    second = onednn.library_path()
    monkeypatch.setattr(building.jaxlib.version, "__version__", "0.0")
    third = onednn.library_path()
    monkeypatch.setattr(building, "_machine", lambda: "Linux other")
    assert len({first, second, third, onednn.library_path()}) == 4


def test_keys_name_the_form_whose_bits_are_its_own(monkeypatch):
    cnn, mlp = ModelConfig(name="cnn"), ModelConfig()
    monkeypatch.setattr(
        "unlearn_jax.onednn.native", lambda: onednn.Native(None, reason="not built")
    )
    without = plain_model(cnn), plain_model(mlp)
    assert [plain["conv"] for plain in without] == ["auto", "auto"]
    monkeypatch.setattr("unlearn_jax.onednn.native", lambda: onednn.Native(None, "1.0"))
    assert jax.default_backend() == "cpu"
    assert plain_model(cnn) == without[0] | {"conv": "onednn"}
    assert plain_model(mlp) == without[1]
    assert with_convolutions("1 core", plain_model(cnn)).startswith("1 core, oneDNN's")
    assert with_convolutions("1 core", plain_model(mlp)) == "1 core"
    assert folders.versions()["onednn"] == "1.0"
    canonical = ModelConfig(name="cnn", conv="canonical")
    assert plain_model(canonical)["conv"] == "canonical"
