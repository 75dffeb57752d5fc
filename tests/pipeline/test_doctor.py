"""The doctor: known numbers come out here, and a wrong one is noticed."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax import cli
from unlearn_jax.pipeline import doctor
from unlearn_jax.pipeline.store import folders as store

WELL = (doctor._signal, doctor._attack_auc)


def test_everything_is_well_here(capsys):
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert said.count("\nok  ") == len(doctor.CHECKS)
    assert "all known numbers came out" in said
    for word in (
        "jax ",
        "memory",
        "compilation cache",
        "data cache",
        "backend",
        "debug_nans",
    ):
        assert f"\n{word}" in said
    for device in jax.local_devices():
        assert f"\ndevice {device.id}  " in said


def test_a_wrong_number_is_noticed(monkeypatch, capsys):
    wrong = (
        lambda: doctor.Known("two", 2.0, 2.1, 0.05),
        lambda: doctor.Known("three", 3.0, float("nan"), 9.0),
    )
    monkeypatch.setattr(doctor, "CHECKS", (*wrong, doctor._attack_auc))
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert said.count("FAIL") == 2
    assert "2 of 3 numbers are wrong" in said
    assert cli.main(["doctor", "now"]) == 2


def test_a_check_that_breaks_is_a_wrong_number_and_the_others_are_done(
    monkeypatch, capsys
):
    def _no_such_library():
        raise ImportError("libmagic.so is missing\nand more")

    monkeypatch.setattr(doctor, "CHECKS", (_no_such_library, *WELL))
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "FAIL  no such library: ImportError: libmagic.so is missing " in said
    assert "and more" not in said
    assert said.count("\nok  ") == 2
    assert "1 of 3 numbers are wrong" in said


@pytest.mark.parametrize(
    "check",
    [doctor._signal, doctor._norm, doctor._tilt, doctor._radius],
    ids=lambda f: f.__name__,
)
def test_the_numbers_come_out_in_double_precision_too(check):
    with jax.enable_x64(True):
        assert check().passed


@pytest.fixture
def cache():
    """Sets JAX's cache folder for a test."""
    before = {
        name: jax.config.values[name]
        for name in ("jax_compilation_cache_dir", "jax_enable_compilation_cache")
    }
    yield lambda **values: [
        jax.config.update(f"jax_{name}", value) for name, value in values.items()
    ]
    for name, value in before.items():
        jax.config.update(name, value)


def lines(monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", WELL)
    said, well = doctor.doctor()
    assert well
    return dict(
        line.split(maxsplit=1)
        for line in said.replace(" cache", "_cache").splitlines()
        if "cache" in line
    )


def test_caches_are_counted(monkeypatch, cache, tmp_path):
    (tmp_path / "tfds" / "mnist-train").mkdir(parents=True)
    (tmp_path / "tfds" / "mnist-train" / "images.npy").write_bytes(b"0" * 3 * 2**20)
    monkeypatch.setenv("UNLEARN_JAX_CACHE", str(tmp_path))
    cache(
        compilation_cache_dir=str(tmp_path / "xla" / "none-yet"),
        enable_compilation_cache=True,
    )
    said = lines(monkeypatch)
    assert said["compilation_cache"] == f"{tmp_path}/xla/none-yet (0 programs, 0 MiB)"
    assert said["data_cache"] == f"{tmp_path}/tfds (1 splits, 3 MiB)"


def test_no_cache_an_unwritable_one_and_no_home(monkeypatch, cache, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("UNLEARN_JAX_CACHE", str(tmp_path / "file"))
    cache(
        compilation_cache_dir=str(tmp_path / "file" / "xla"),
        enable_compilation_cache=True,
    )
    said = lines(monkeypatch)
    assert said["compilation_cache"].endswith("(0 programs, 0 MiB; cannot be written)")
    assert said["data_cache"].endswith("(0 splits, 0 MiB; cannot be written)")

    def homeless(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("UNLEARN_JAX_CACHE")
    monkeypatch.setattr(pathlib.Path, "expanduser", homeless)
    cache(enable_compilation_cache=False)
    said = lines(monkeypatch)
    assert said["compilation_cache"] == "none"
    assert said["data_cache"].startswith(
        "none: ~/.cache/unlearn_jax is in a home folder that cannot be found"
    )


@pytest.mark.parametrize(
    ("switch", "flag"),
    [("--debug-nans", "jax_debug_nans"), ("--debug-keys", "jax_debug_key_reuse")],
)
def test_debug_switches(switch, flag, capsys):
    before = jax.config.values[flag]
    jax.config.update(flag, False)
    try:
        assert cli.main([switch, "publish", "nowhere"]) == 2
        assert jax.config.values[flag] is True
        if switch == "--debug-nans":
            with pytest.raises(FloatingPointError):
                jax.jit(jnp.log)(jnp.float32(-1)).block_until_ready()
    finally:
        jax.config.update(flag, before)
    assert "no results.json" in capsys.readouterr().err
    assert np.isnan(jnp.log(jnp.float32(-1)))


@pytest.mark.slow
def test_the_numbers_come_out_with_both_debugging_switches_on(capsys):
    before = {
        name: jax.config.values[name]
        for name in ("jax_debug_nans", "jax_debug_key_reuse")
    }
    try:
        assert cli.main(["--debug-nans", "--debug-keys", "doctor"]) == 0
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
    assert "FAIL" not in capsys.readouterr().out


def test_a_machine_without_accelerators_is_its_cores_and_its_vectors():
    words = store.versions()["devices"]
    assert jax.default_backend() == "cpu"
    assert re.fullmatch(r"\d+ CPU cores? \(.*(x86-64|arm64|aarch64).*\)", words)
