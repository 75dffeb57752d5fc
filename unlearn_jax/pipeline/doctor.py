"""``unlearn-jax doctor``: report on the installation, and checks of known numbers.

Every check compares a number computed on this machine with a known number: derived by
hand, computed by NumPy in float64, or computed by the same program a second time.
Together the checks touch every part of a run and take less than a minute.
"""

import math
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from unlearn_jax import audit, data, models, onednn, replicas, spectral, train
from unlearn_jax.attacks import adversarial_set
from unlearn_jax.data.tfds_reader import cache_folder
from unlearn_jax.losses import class_similarity, tilted_target
from unlearn_jax.pipeline.store import clock
from unlearn_jax.pipeline.store import folders as store
from unlearn_jax.types import Array, Dataset, InputError, Variables, first_line


class Known(NamedTuple):
    """Known number, and its value on this machine.

    Attributes:
      name: name of the number.
      expected: known value.
      value: value computed on this machine.
      tolerance: largest difference that rounding explains.
    """

    name: str
    expected: float
    value: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """True if the difference is within the tolerance; False for NaN."""
        return abs(self.value - self.expected) <= self.tolerance


def doctor() -> tuple[str, bool]:
    """Return a report on the installation, and whether every check passed.

    Returns:
      The report as text, and True if every check passed.
    """
    outcomes = [_outcome(check) for check in CHECKS]
    width = max(len(known.name) for known in outcomes)
    lines = [f"{name:18} {value}" for name, value in environment()]
    lines += ["", f"{'known numbers':{width + 6}} expected        here"]
    for known in outcomes:
        mark = "ok  " if known.passed else "FAIL"
        lines.append(
            f"{mark}  {known.name:{width}} {known.expected:<14.8g}  {known.value:.8g}"
        )
    num_wrong = sum(not known.passed for known in outcomes)
    verdict = "all known numbers came out"
    if num_wrong:
        verdict = f"{num_wrong} of {len(outcomes)} numbers are wrong"
        verdict += ": do not trust a table"
    return "\n".join([*lines, "", verdict]), not num_wrong


def _outcome(check: Callable[[], Known]) -> Known:
    """Run a check; if it raises, the number counts as wrong."""
    try:
        return check()
    except Exception as error:  # a broken installation may raise anything
        name = check.__name__.strip("_").replace("_", " ")
        return Known(f"{name}: {first_line(error)[:100]}", math.nan, math.nan, 0.0)


def environment() -> Iterator[tuple[str, str]]:
    """Yield versions, devices, memory, caches and switches, as name and value."""
    yield from store.versions().items()
    for device in jax.local_devices():
        stats = device.memory_stats() or {}
        size = ""
        if "bytes_limit" in stats:
            size = f", {stats['bytes_limit'] / 2**30:.1f} GiB"
        yield f"device {device.id}", f"{device.device_kind} ({device.platform}{size})"
    yield "backend", jax.default_backend()
    native = onednn.native()
    yield "convolutions", models.convolution_form()
    yield "oneDNN", native.reason or f"{native.version} ({native.path})"
    memory = 0
    if hasattr(os, "sysconf"):
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    peak = clock.peak_memory_mb() / 2**10
    yield "memory", f"{memory / 2**30:.1f} GiB, {peak:.1f} used"
    yield "cores", str(store.num_cores())
    programs = jax.config.values["jax_compilation_cache_dir"]
    if programs and jax.config.values["jax_enable_compilation_cache"]:
        yield "compilation cache", _describe(pathlib.Path(programs), "programs")
    else:
        yield "compilation cache", "none"
    try:
        yield "data cache", _describe(cache_folder() / "tfds", "splits")
    except InputError as error:
        yield "data cache", f"none: {error}"
    yield "free disk here", f"{shutil.disk_usage('.').free / 2**30:.1f} GiB"
    for switch in (
        "jax_enable_x64",
        "jax_debug_nans",
        "jax_debug_key_reuse",
        "jax_default_matmul_precision",
    ):
        yield switch.removeprefix("jax_"), str(jax.config.values[switch])


def _describe(folder: pathlib.Path, unit: str) -> str:
    """Describe a cache: its place, entries, size, and whether it can be written."""
    try:
        entries = list(folder.iterdir()) if folder.is_dir() else []
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    except OSError as error:  # unreadable, or another process deletes files
        return f"{folder} (cannot be read: {error.strerror})"
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    fault = ""
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        fault = "; cannot be written"
    return f"{folder} ({len(entries)} {unit}, {size / 2**20:.0f} MiB{fault})"


def _signal() -> Known:
    logits = np.array([2.0, 1.0, -1.0], np.float32)
    signal = float(audit.taylor_softmax(logits, np.array(0)))
    return Known("membership signal (Taylor softmax)", 0.3985029407, signal, 1e-6)


def _attack_auc() -> Known:
    scores = np.array([0.9, 0.8, 0.7, 0.3])
    members = np.array([True, False, True, False])
    return Known("AUC of four scores", 0.75, audit.auc(scores, members), 1e-12)


def _radius() -> Known:
    """Attack a linear model whose boundary is 0.3 away with radii 0.1, 0.2, 0.4."""
    model = models.from_functions(
        lambda _: {},
        lambda _, x: jnp.stack([x[:, 0, 0, 0], 0.4 + 0 * x[:, 0, 0, 0]], -1),
    )
    image = jnp.full((1, 1, 1, 1), 0.7)
    result = adversarial_set(
        model.apply,
        Variables({}, {}),
        image,
        jnp.array([0]),
        epsilon_init=0.1,
        num_radii=3,
    )
    return Known(
        "radius that crosses a linear boundary", 0.4, float(result.epsilon[0]), 1e-6
    )


def _convolution() -> Known:
    """Compare the gradient of the networks' form of convolution with XLA's own."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(4, 9, 9, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 5)), jnp.float32)
    settings = {
        "window_strides": (2, 2),
        "padding": "SAME",
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
    }

    def gradient(convolution: Callable[..., Array]) -> Array:
        def loss(kernel: Array) -> Array:
            return jnp.sum(jnp.sin(convolution(x, kernel, **settings)))

        return jax.grad(loss)(kernel)

    gap = jnp.abs(gradient(models.convolution()) - gradient(lax.conv_general_dilated))
    return Known(
        "gradient of the convolution, difference to XLA's", 0.0, float(gap.max()), 1e-3
    )


def _norm() -> Known:
    """Compare the norm of a strided convolution with the SVD of its matrix."""
    rng = np.random.default_rng(1)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 1, 4)), jnp.float32)

    def convolve(images: Array) -> Array:
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            images, kernel, (2, 2), "SAME", dimension_numbers=layout
        )

    basis = jnp.eye(36, dtype=jnp.float32).reshape(36, 6, 6, 1)
    matrix = np.asarray(convolve(basis), np.float64).reshape(36, -1)
    start = jnp.ones((6, 6, 1), jnp.float32)
    norms, _ = spectral.lanczos(lambda x: convolve(x[None])[0], start, num_iters=30)
    expected = float(np.linalg.norm(matrix, 2))
    return Known("norm of a convolution", expected, float(norms[0]), 1e-3)


def _tilt() -> Known:
    logits = jnp.array([0.0, 1.0, 2.0])
    similarity = class_similarity(jnp.eye(3))[0]
    target = tilted_target(
        logits, jnp.array([True, False, False]), similarity, beta=0.0
    )
    expected = 1 / (1 + math.exp(-1))
    name = "tilted target of a forgotten class"
    return Known(name, expected, float(target[2]), 1e-6)


def _training() -> Known:
    """Train a small network on digits; backends differ in the third decimal."""
    _, losses = _fit(train.fit)
    return Known(
        "loss after ten epochs on digits", 0.15696391, float(losses[-1]), 0.005
    )


def _fit(
    fit: Callable[..., tuple[train.TrainState, np.ndarray]],
) -> tuple[train.TrainState, np.ndarray]:
    """Return a small network trained on digits, alone or as a bank of one."""
    splits = data.load_digits()
    model = models.build("mlp", (8, 8, 1), 10, widths=(32,))
    recipe = train.Recipe(10, 64, train.sgd(0.05))
    key = jax.random.key(0)
    member = np.ones(len(splits.train.labels), bool)
    if fit is replicas.fit_many:
        key = key[None]
        member = member[None]
    return fit(key, model, Dataset(*splits.train), member, recipe)


def _repeat() -> Known:
    first, _ = _fit(train.fit)
    second, _ = _fit(train.fit)
    gap = _difference(first.variables, second.variables)
    return Known("same seed, same bits", 0.0, gap, 0.0)


def _side_by_side() -> Known:
    alone, _ = _fit(train.fit)
    bank, _ = _fit(replicas.fit_many)
    of_bank = jax.tree.map(lambda leaf: leaf[0], bank.variables)
    gap = _difference(alone.variables, of_bank)
    return Known("one model alone and in a bank, difference", 0.0, gap, 1e-3)


def _difference(first: Variables, second: Variables) -> float:
    """Return the largest difference between two models' variables."""

    def gap(a: Array, b: Array) -> float:
        return float(np.max(np.abs(np.asarray(a) - np.asarray(b)), initial=0.0))

    return max(jax.tree.leaves(jax.tree.map(gap, first, second)))


CHECKS: tuple[Callable[[], Known], ...] = (
    _signal,
    _attack_auc,
    _radius,
    _convolution,
    _norm,
    _tilt,
    _training,
    _repeat,
    _side_by_side,
)
