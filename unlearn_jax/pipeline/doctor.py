"""``unlearn-jax doctor``: the installation, and checks that it computes known numbers.

Every check compares what this machine computes with a number worked out by hand, by
NumPy in float64, or by the same program run a second time; together they touch every
part of a run and take less than a minute.
"""

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
from unlearn_jax.types import Dataset, InputError, Variables


class Known(NamedTuple):
    """A number that is known, and what came out here.

    Attributes:
      name: what was computed.
      expected: the number.
      value: measured here.
      tolerance: the largest difference that rounding explains.
    """

    name: str
    expected: float
    value: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """The difference is within the tolerance (NaN is not)."""
        return abs(self.value - self.expected) <= self.tolerance


def doctor() -> tuple[str, bool]:
    """Return the installation, line by line, and whether all known numbers came out.

    Returns:
      The text, and True if every check passed.
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
    bad = sum(not known.passed for known in outcomes)
    lines += [
        "",
        (
            "all known numbers came out"
            if not bad
            else f"{bad} of {len(outcomes)} numbers are wrong: do not trust a table"
        ),
    ]
    return "\n".join(lines), not bad


def _outcome(check: Callable[[], Known]) -> Known:
    """Run a check; one that raises is a number that did not come out."""
    try:
        return check()
    except Exception as error:  # whatever an installation that does not work raises
        name = check.__name__.strip("_").replace("_", " ")
        reason = (str(error).strip().splitlines() or [""])[0][:80]
        return Known(
            f"{name}: {type(error).__name__}: {reason}", float("nan"), float("nan"), 0.0
        )


def environment() -> Iterator[tuple[str, str]]:
    """Versions, devices, memory, caches and switches, as name and value."""
    yield from store.versions().items()
    for device in jax.local_devices():
        stats = device.memory_stats() or {}
        size = (
            f", {stats['bytes_limit'] / 2**30:.1f} GiB"
            if "bytes_limit" in stats
            else ""
        )
        yield f"device {device.id}", f"{device.device_kind} ({device.platform}{size})"
    yield "backend", jax.default_backend()
    native = onednn.native()
    yield "convolutions", models.convolution_form()
    yield "oneDNN", native.reason or f"{native.version} ({native.path})"
    pages = (
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if hasattr(os, "sysconf")
        else 0
    )
    yield (
        "memory",
        f"{pages / 2**30:.1f} GiB, {clock.peak_memory_mb() / 2**10:.1f} used",
    )
    yield "cores", str(store.num_cores())
    cache = (
        jax.config.values["jax_enable_compilation_cache"]
        and jax.config.values["jax_compilation_cache_dir"]
    )
    yield (
        "compilation cache",
        (_folder(pathlib.Path(cache), "programs") if cache else "none"),
    )
    try:
        yield "data cache", _folder(cache_folder() / "tfds", "splits")
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


def _folder(folder: pathlib.Path, things: str) -> str:
    """Describe a cache: its place, entries, size, and whether it can be written."""
    try:
        entries = list(folder.iterdir()) if folder.is_dir() else []
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    except OSError as error:  # unreadable, or another process tidies up
        return f"{folder} (cannot be read: {error.strerror})"
    there = next(path for path in (folder, *folder.parents) if path.exists())
    writable = there.is_dir() and os.access(there, os.W_OK)
    return (
        f"{folder} ({len(entries)} {things}, {size / 2**20:.0f}"
        f" MiB{'' if writable else '; cannot be written'})"
    )


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
    """The gradient of the kernel, in the form that networks get, against XLA's own."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(4, 9, 9, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 5)), jnp.float32)
    settings = {
        "window_strides": (2, 2),
        "padding": "SAME",
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
    }
    gradient = lambda conv: jax.grad(
        lambda k: jnp.sum(jnp.sin(conv(x, k, **settings)))
    )(kernel)
    gap = jnp.abs(gradient(models.convolution()) - gradient(lax.conv_general_dilated))
    return Known(
        "gradient of the convolution, difference to XLA's", 0.0, float(gap.max()), 1e-3
    )


def _norm() -> Known:
    """The norm of a strided convolution against the SVD of its matrix, in float64."""
    rng = np.random.default_rng(1)
    kernel = rng.normal(size=(3, 3, 1, 4)).astype(np.float32)
    pass_ = lambda k, x: lax.conv_general_dilated(
        x, k, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    rows = np.asarray(
        pass_(kernel, np.eye(36, dtype=np.float32).reshape(36, 6, 6, 1)), np.float64
    ).reshape(36, -1)
    norm = spectral.lanczos(
        lambda x: pass_(kernel, x[None])[0],
        jnp.ones((6, 6, 1), jnp.float32),
        num_iters=30,
    )[0][0]
    return Known(
        "norm of a convolution", float(np.linalg.norm(rows, 2)), float(norm), 1e-3
    )


def _tilt() -> Known:
    logits = jnp.array([0.0, 1.0, 2.0])
    similarity = class_similarity(jnp.eye(3))[0]
    target = tilted_target(
        logits, jnp.array([True, False, False]), similarity, beta=0.0
    )
    return Known(
        "tilted target of a forgotten class",
        1 / (1 + np.exp(-1)),
        float(target[2]),
        1e-6,
    )


def _training() -> Known:
    """Train a small network on digits; backends differ in the third decimal."""
    return Known(
        "loss after ten epochs on digits",
        0.15696391,
        float(_fit(train.fit)[1][-1]),
        0.005,
    )


def _fit(
    fit: Callable[..., tuple[train.TrainState, np.ndarray]],
) -> tuple[train.TrainState, np.ndarray]:
    splits = data.load_digits()
    model = models.build("mlp", (8, 8, 1), 10, widths=(32,))
    recipe = train.Recipe(10, 64, train.sgd(0.05))
    key = jax.random.key(0)
    member = np.ones(len(splits.train.labels), bool)
    many = fit is replicas.fit_many
    return fit(
        key[None] if many else key,
        model,
        Dataset(*splits.train),
        member[None] if many else member,
        recipe,
    )


def _repeat() -> Known:
    one, _ = _fit(train.fit)
    other, _ = _fit(train.fit)
    return Known(
        "same seed, same bits", 0.0, _difference(one.variables, other.variables), 0.0
    )


def _side_by_side() -> Known:
    one, _ = _fit(train.fit)
    other, _ = _fit(replicas.fit_many)
    alone = jax.tree.map(lambda leaf: leaf[0], other.variables)
    return Known(
        "one model alone and in a bank, difference",
        0.0,
        _difference(one.variables, alone),
        1e-3,
    )


def _difference(one: Variables, other: Variables) -> float:
    gaps = jax.tree.map(
        lambda a, b: float(np.max(np.abs(np.asarray(a) - np.asarray(b)), initial=0.0)),
        one,
        other,
    )
    return max(jax.tree.leaves(gaps))


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
