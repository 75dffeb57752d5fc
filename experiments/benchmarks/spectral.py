"""PowerQR against Golub-Kahan-Lanczos: error by iteration and by time.

Command::

    python experiments/benchmarks/spectral.py --models cnn resnet
    python experiments/benchmarks/spectral.py --overhead 100
    python experiments/benchmarks/spectral.py --estimators

Results: ``experiments/results/spectral.json``

A row of Lanczos is one compiled call for all layers, from the same random start. A row
of PowerQR is as many calls as iterations, as in training. An iteration is one product
with the map and one with its adjoint for each of the K vectors; each call of PowerQR
adds one product for its values. The truth is Lanczos with ``--reference-iters``
iterations.
"""

import argparse
import dataclasses
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from unlearn_jax import data, models, train
from unlearn_jax.layers import Layer, layers
from unlearn_jax.pipeline.store.folders import num_cores
from unlearn_jax.spectral._fastclip import ClipRule, fastclip
from unlearn_jax.spectral._power_qr import Spectrum
from unlearn_jax.spectral._projection import state_shapes
from unlearn_jax.spectral.norms import spectral_norms, top_spectrum
from unlearn_jax.spectral.operators import layer_map
from unlearn_jax.types import Dataset

SHAPE = (32, 32, 3)
NUM_CLASSES = 10
VARIANTS: dict[str, dict[str, Any]] = {
    "PowerQR, K = 1": {"num_vectors": 1},
    "PowerQR, K = 1, shift 1": {"num_vectors": 1, "shift": 1.0},
    "PowerQR, K = 8": {"num_vectors": 8},
}


def vectors(spectra: dict[str, Spectrum]) -> dict[str, Any]:
    """Return the vectors from which the next call starts, by layer."""
    return {path: spectrum.vectors for path, spectrum in spectra.items()}


def timed(function: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    """Return the result, and a call's median milliseconds after one warm-up."""
    result = jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(1e3 * (time.perf_counter() - start))
    return result, statistics.median(times)


def row(name: str, count: int, error: np.ndarray, milliseconds: float) -> None:
    """Print relative errors over the layers (median, largest) and the time."""
    print(
        f"{name:<26}{count:>6}"
        f" iterations{np.median(error):>11.1e}{error.max():>11.1e}"
        f"{milliseconds:>12.1f} ms"
    )


def compare(name: str, iters: list[int], reference_iters: int, repeats: int) -> bool:
    """Print one model's table, and return whether its values are sound.

    They are if none is above the truth and the longest Lanczos is within 1e-4 of it.
    """
    model = models.build(name, SHAPE, NUM_CLASSES)
    variables = jax.jit(model.init)(jax.random.key(0))
    sample = jnp.zeros((1, *SHAPE))
    start = time.perf_counter()
    norms = spectral_norms(model.apply, variables, sample, num_iters=reference_iters)
    truth = np.array([float(value) for value in norms.values()])
    print(
        f"\n{name}: {truth.size} layers, norms {truth.min():.3f} to {truth.max():.3f}",
        end="; ",
    )
    print(f"reference with compilation {time.perf_counter() - start:.1f} s")
    fine = True
    error = np.full(1, np.inf)
    for count in iters:
        spectra, spent = timed(
            partial(spectral_norms, model.apply, variables, sample, num_iters=count),
            repeats,
        )
        error = 1 - np.array([float(value) for value in spectra.values()]) / truth
        fine &= bool((error > -1e-5).all())
        row("Lanczos", count, np.abs(error), spent)
    fine &= bool((np.abs(error) < 1e-4).all())
    for label, options in VARIANTS.items():
        step = partial(
            top_spectrum, model.apply, variables, sample, num_iters=1, **options
        )
        spectra = step()
        _, spent = timed(partial(step, warm=vectors(spectra)), repeats)
        for count in range(1, max(iters) + 1):
            if count in iters:
                error = (
                    1
                    - np.array(
                        [float(spectrum.sigma[0]) for spectrum in spectra.values()]
                    )
                    / truth
                )
                fine &= bool((error > -1e-5).all())
                row(label, count, np.abs(error), spent * count)
            spectra = step(warm=vectors(spectra))
    return fine


def overhead(batch_norm: bool, period: int, repeats: int) -> None:
    """Print the added time of ``period`` training steps of which the last one clips.

    Images are scikit-learn's digits, enlarged. Two periods come before the first timed
    one, since the first clip has the most work. Steps with and without FastClip take
    turns, so that other work on the machine slows both. Processor time hardly depends
    on that other work (and says nothing about an accelerator).
    """
    digits = data.load_digits().train
    images = np.repeat(np.repeat(np.repeat(digits.images, 4, 1), 4, 2), 3, 3)
    model = models.build("cnn", SHAPE, NUM_CLASSES, batch_norm=batch_norm)
    key = jax.random.key(0)
    member = jnp.ones(len(images), bool)
    plain = train.sgd(0.02)
    shared = Dataset(jnp.asarray(images), jnp.asarray(digits.labels))
    clipping = fastclip(
        model.apply,
        images[:1],
        period=period,
        max_norm=2.0,
        model_state=state_shapes(model),
    )
    runs = []
    states = []
    for tx in (
        plain,
        optax.chain(plain, clipping),
    ):
        epoch = partial(
            train.train_epochs, train.cross_entropy_loss(model), tx, train.fetch_from()
        )
        runs.append(
            jax.jit(partial(epoch, num_epochs=1, num_batches=period, batch_size=128))
        )
        states.append(train.init_state(key, model, tx))
    times: list[list[tuple[float, float]]] = []
    for _ in range(2 + repeats):
        times.append([])
        for i, run in enumerate(runs):
            start = time.perf_counter()
            used = time.process_time()
            states[i], _ = jax.block_until_ready(run(states[i], key, shared, member))
            times[-1].append((time.perf_counter() - start, time.process_time() - used))
    print(
        f"small CNN{', BatchNorm' if batch_norm else ''}, FastClip at period {period},"
        f" {repeats} pairs",
        end="",
    )
    for name, (plain_time, clip_time) in zip(
        ("wall", "processor"), np.array(times[2:]).transpose(2, 1, 0), strict=True
    ):
        ratio = 100 * (clip_time / plain_time - 1)
        print(
            f"; {name} time: {1e3 * np.median(plain_time) / period:.1f} ms a step,"
            f" median {np.median(ratio):+.1f}%, {ratio.min():+.1f} to"
            f" {ratio.max():+.1f}%",
            end="",
        )
    print()


def true_norm(layer: Layer) -> float:
    """Return the largest singular value of the layer's matrix, written out."""
    operator = layer_map(layer, composite=False)
    size = int(np.prod(operator.in_shape))
    unit = jnp.eye(size).reshape(size, *operator.in_shape)
    matrix = np.asarray(lax.map(operator.matvec, unit, batch_size=64), "f8")
    rows = matrix.reshape(size, -1)
    return float(np.sqrt(np.linalg.eigvalsh(rows @ rows.T)[-1]))


def estimators(num_clips: int = 10) -> None:
    """Print time and errors of FastClip's estimators on two layers moved by noise.

    Before each clip, noise of 5% of the kernel's norm is added to the kernel. The
    estimators take turns. Errors are those of the last five clips.
    """
    rng = np.random.default_rng(0)
    dense = {"w": jnp.asarray(rng.normal(size=(512, 512)) / 512**0.5, "f4")}
    conv = {"w": jnp.asarray(rng.normal(size=(3, 3, 8, 8)) / 72**0.5, "f4")}
    cases = {
        "dense 512 x 512": layers(lambda w, x: x @ w["w"], dense, jnp.zeros((1, 512))),
        "3x3, 8 channels, 8x8": layers(
            lambda w, x: models.canonical_conv(x, w["w"], (1, 1), "SAME"),
            conv,
            jnp.zeros((1, 8, 8, 8)),
        ),
    }
    rules = {
        "lanczos, 10": ClipRule(),
        "power_qr, 1": ClipRule(estimator="power_qr", num_iters=1),
        "power_qr, 10": ClipRule(estimator="power_qr"),
        "power_qr, 30": ClipRule(estimator="power_qr", num_iters=30),
    }
    for title, (layer,) in cases.items():
        print(f"\n{title}: time of a clip by that of Lanczos, estimate, true norm")
        target = 0.8 * true_norm(layer)
        noise = [
            jnp.asarray(rng.normal(size=layer.kernel.shape), "f4")
            for _ in range(num_clips)
        ]
        times: dict[str, list[float]] = {name: [] for name in rules}
        errors: dict[str, list[tuple[float, float]]] = {name: [] for name in rules}
        states = {
            name: (layer.kernel, rule.init(layer)) for name, rule in rules.items()
        }

        def clip(
            kernel: Any,
            state: Any,
            rule: ClipRule,
            layer: Layer = layer,
            target: float = target,
        ) -> Any:
            moved = dataclasses.replace(layer, kernel=kernel)
            kernels, states = rule.update([moved], [target], [state])
            return kernels[0], states[0]

        steps = {
            name: jax.jit(partial(clip, rule=rule)) for name, rule in rules.items()
        }
        for index in range(num_clips):
            for name, step in steps.items():
                kernel, state = states[name]
                change = noise[index] / jnp.linalg.norm(noise[index])
                kernel = kernel + 0.05 * jnp.linalg.norm(kernel) * change
                if index == 0:
                    jax.block_until_ready(step(kernel, state))
                start = time.perf_counter()
                kernel, state = jax.block_until_ready(step(kernel, state))
                times[name].append(time.perf_counter() - start)
                states[name] = kernel, state
                if index >= num_clips - 5:
                    norm = true_norm(dataclasses.replace(layer, kernel=kernel))
                    low = 1 - float(state.sigma[0]) / norm
                    errors[name].append((low, norm / target - 1))
        for name in rules:
            ratios = np.divide(times[name], times["lanczos, 10"])
            low, above = np.array(errors[name]).T
            print(
                f"{name:<14}{np.median(ratios):>8.2f}   low by {low.mean():.2%}"
                f"   at most {above.max():.2%} above the target"
            )


def main() -> int:
    """Run the comparison; return 1 if a value exceeds the truth or Lanczos fails."""
    parser = argparse.ArgumentParser(
        description="PowerQR against Lanczos on the layers of networks."
    )
    parser.add_argument(
        "--models",
        nargs="+",
        default=["cnn"],
        help="names of models.build; resnet is ResNet-18",
    )
    parser.add_argument(
        "--iters",
        nargs="+",
        type=int,
        default=[1, 5, 10, 20, 40, 60],
        help="numbers of iterations, ascending",
    )
    parser.add_argument("--reference-iters", type=int, default=150)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--overhead",
        type=int,
        default=0,
        metavar="PERIOD",
        help="time of training steps with FastClip at this period",
    )
    parser.add_argument(
        "--estimators", action="store_true", help="comparison of FastClip's estimators"
    )
    args = parser.parse_args()
    print(
        f"{jax.devices()[0].device_kind}, {num_cores()} CPU cores"
        f" ({platform.machine()}), Python {platform.python_version()}, JAX"
        f" {jax.__version__}, load {os.getloadavg()[0]:.1f}"
    )
    print(
        f"{SHAPE} images, random weights; relative error over layers: median, largest;"
        f" median of {args.repeats} calls"
    )
    if args.estimators:
        estimators()
        return 0
    if args.overhead:
        for batch_norm in (False, True):
            overhead(batch_norm, args.overhead, args.repeats)
        return 0
    is_sound = [
        compare(name, args.iters, args.reference_iters, args.repeats)
        for name in args.models
    ]
    return 0 if all(is_sound) else 1


if __name__ == "__main__":
    sys.exit(main())
