"""The same seed gives the same bits, in any process, on any cores, by any mapper.

The table of determinism in ``unlearn_jax/pipeline/README.md`` has what is the same and
what may differ; ``tests/support/bits.py`` measures other settings.
"""

import functools
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from support import bits

ONE_CORE = (
    ["taskset", "-c", str(min(os.sched_getaffinity(0)))]
    if shutil.which("taskset")
    else []
)
"""Leaves a process one core, before it counts them."""
SETTINGS = {
    "two devices": {"JAX_NUM_CPU_DEVICES": "2", "PYTHONHASHSEED": "0"},
    f"eight devices{', one core' * bool(ONE_CORE)}": {
        "JAX_NUM_CPU_DEVICES": "8",
        "PYTHONHASHSEED": "7",
        "TZ": "Asia/Tokyo",
        "LANG": "C",
    },
}
ROUNDING = 1e-5
"""Of weights after a few steps, relative to the largest: what another order of
summation explains.
"""


def start_all(folder, settings, left_out, *options):
    """The parts of a run under each of the settings, from processes that were started
    afresh and share no cache.

    Args:
      folder: for the files.
      settings: variables of the environment, by name.
      left_out: variables of the environment that the processes do not get.
      *options: of ``bits.py``.
    """
    started = {}
    for name, variables in settings.items():
        env = (
            os.environ
            | variables
            | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
        )
        words = [sys.executable, bits.__file__, str(folder / f"{name}.npz"), *options]
        started[name] = subprocess.Popen(
            (ONE_CORE if "one core" in name else []) + words,
            env={key: value for key, value in env.items() if key not in left_out},
        )
    assert {
        name: process.wait(timeout=1800) for name, process in started.items()
    } == dict.fromkeys(settings, 0)
    return [dict(np.load(folder / f"{name}.npz")) for name in settings]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Small ones, compiled as users do: without the flags of the tests."""
    left_out = ["JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS"]
    return start_all(tmp_path_factory.mktemp("bits"), SETTINGS, left_out)


@pytest.mark.slow
@pytest.mark.skipif(not ONE_CORE, reason="no taskset")
def test_cores_do_not_change_products_that_are_divided_over_threads(tmp_path):
    """Nor parts and Winograd's form, as users compile: without the lower effort that
    tests compile with.

    XLA divides large products over as many threads as there are devices, if these are
    more than the cores, so that eight devices change the bits that two give.
    """
    settings = {
        name: {"JAX_NUM_CPU_DEVICES": "2"} for name in ("two cores", "one core")
    }
    options = ("--side", "32", "--batch", "64", "--width", "32")
    gaps = bits.compare(
        *start_all(
            tmp_path, settings, ["JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS"], *options
        )
    )
    assert gaps == dict.fromkeys(bits.PARTS, 0.0)


@pytest.mark.parametrize("part", [part for part in bits.PARTS if part != "split"])
def test_neither_cores_nor_devices_nor_the_process_change_a_bit(part, runs):
    first, second = runs
    assert first[part].size > 40
    assert np.isfinite(first[part]).all()
    np.testing.assert_array_equal(first[part], second[part])


@pytest.mark.parametrize("number", [0, 1])
def test_mappers_agree(number, runs):
    """Loop, map and pmap to the bit; vmap, and split over any number of devices, to
    rounding.
    """
    run = runs[number]
    np.testing.assert_array_equal(run["loop"], run["map"])
    np.testing.assert_array_equal(run["loop"], run["pmap"])
    for part in ("vmap", "split"):
        gap = np.abs(run[part] - run["loop"]).max() / np.abs(run["loop"]).max()
        assert 0 <= gap < ROUNDING


def test_batches_split_over_more_devices_agree_to_rounding(runs):
    assert bits.compare(*runs)["split"] < ROUNDING


def test_another_seed_gives_another_result():
    """What is compared here is not constant."""
    from unlearn_jax import audit

    interval = functools.partial(
        audit.auc_interval, np.arange(8.0) % 3, np.arange(8) % 2 == 0
    )
    assert interval(seed=3) == interval(seed=3) != interval(seed=4)
