"""The doctor: known numbers come out here, and a wrong one is noticed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax import cli
from unlearn_jax.pipeline import doctor


def test_everything_is_well_here(capsys):
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert said.count("\nok  ") == len(doctor.CHECKS)
    assert "all known numbers came out" in said
    for word in ("jax ", "memory", "compilation cache", "backend", "debug_nans"):
        assert f"\n{word}" in said


def test_a_wrong_number_is_noticed(monkeypatch, capsys):
    wrong = (lambda: doctor.Known("two", 2.0, 2.1, 0.05), lambda: doctor.Known("three", 3.0, float("nan"), 9.0))
    monkeypatch.setattr(doctor, "CHECKS", (*wrong, doctor._attack_auc))
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert said.count("FAIL") == 2
    assert "2 of 3 numbers are wrong" in said
    assert cli.main(["doctor", "now"]) == 2


@pytest.mark.parametrize(
    ("switch", "flag"), [("--debug-nans", "jax_debug_nans"), ("--debug-keys", "jax_debug_key_reuse")]
)
def test_debug_switches(switch, flag, capsys):
    before = jax.config.values[flag]
    jax.config.update(flag, False)
    try:
        assert cli.main([switch, "list"]) == 0
        assert jax.config.values[flag] is True
        if switch == "--debug-nans":
            with pytest.raises(FloatingPointError):
                jax.jit(jnp.log)(jnp.float32(-1)).block_until_ready()
    finally:
        jax.config.update(flag, before)
    assert "presets" in capsys.readouterr().out
    assert np.isnan(jnp.log(jnp.float32(-1)))
