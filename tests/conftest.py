"""A strict runtime for every test, made for compiling rather than for running.

Rank promotion and warnings are errors, and no key is used twice.
"""

import ctypes
import gc
import os
import tempfile

import jaxlib.version

# Compiling is most of a test's time. Without optimization, and with a kernel for every
# operation rather than fusions, XLA compiles seven times faster than by default.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
)
# The plugin of CUDA is there to compile for GPUs, which need not be there.
os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
if jaxlib.version.__version_info__ < (0, 11):  # later ones end on a flag they lack
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax import data, models, replicas
from unlearn_jax.types import Dataset

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)

# What a test has compiled no later one compiles again, nor a command that it starts.
# Each worker has a cache of its own: JAX would read what another process is still
# writing.
PROGRAMS = tempfile.TemporaryDirectory(prefix="unlearn-jax-tests-")
jax.config.update("jax_compilation_cache_dir", PROGRAMS.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
os.environ["JAX_COMPILATION_CACHE_DIR"] = PROGRAMS.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"


NUM_PROGRAMS = 400
"""Compiled programs that a worker holds at most: about a megabyte each."""
COMPILED = []


def count_program(event, duration, **kwargs):
    """Note that XLA has compiled a program."""
    if event == "/jax/core/compile/backend_compile_duration":
        COMPILED.append(duration)


jax.monitoring.register_event_duration_secs_listener(count_program)


def pytest_collection_finish():
    """Leave what was imported to the end, and look for garbage less often.

    Tracing makes so many objects that the collector's default takes a twelfth of the
    time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_runtest_teardown(item, nextitem):
    """Free compiled programs when there are many, best at the end of a file.

    The next file runs some of them too: those of random keys, for example.
    """
    is_last = nextitem is None or nextitem.path != item.path
    if len(COMPILED) > (NUM_PROGRAMS // 2 if is_last else NUM_PROGRAMS):
        COMPILED.clear()
        replicas.clear_programs()
        gc.collect()
        # glibc keeps what is freed, two thirds of a worker's memory, unless asked.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


@pytest.fixture
def key():
    """A fixed key; tests split it by purpose."""
    return jax.random.key(0)


@pytest.fixture
def replay():
    """Let a test draw twice from one key, to compare two computations of one draw."""
    with jax.debug_key_reuse(False):
        yield


@pytest.fixture(scope="module")
def double():
    """Compute in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def blobs():
    """Sixty 4x4 images of three classes that a small network can learn and memorize."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    centers = rng.uniform(0.2, 0.8, (3, 4, 4, 1))
    images = np.clip(centers[labels] + rng.normal(0, 0.15, (60, 4, 4, 1)), 0, 1)
    return Dataset(images.astype(np.float32), labels.astype(np.int32))


@pytest.fixture(scope="session")
def splits(blobs):
    """``blobs`` to train on, half of them with fresh noise to test on."""
    rng = np.random.default_rng(5)
    test = np.clip(blobs.images[:30] + rng.normal(0, 0.15, (30, 4, 4, 1)), 0, 1)
    return data.load_arrays(
        blobs.images, blobs.labels, test.astype("f4"), blobs.labels[:30]
    )


@pytest.fixture(scope="session")
def tiny():
    """A small perceptron for ``blobs``."""
    return models.build("mlp", (4, 4, 1), 3, widths=(16,))


@pytest.fixture(scope="session")
def normed():
    """A small convolutional network with BatchNorm for ``blobs``."""
    return models.build("cnn", (4, 4, 1), 3, widths=(4,), batch_norm=True)


@pytest.fixture(scope="session")
def tiny_variables(tiny):
    """Initial variables of ``tiny``."""
    return jax.tree.map(jnp.asarray, jax.jit(tiny.init)(jax.random.key(7)))
