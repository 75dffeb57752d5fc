"""RMIA scoring by sorting, against the pairwise definition: time, memory, equality.

Command: python experiments/benchmarks/rmia_scoring.py
Results: ``experiments/results/rmia_scoring.json``

Goal: score 60,000 samples against all others in under 50 ms on 2 cores, with memory
linear in N. Reached.
"""

import argparse
import platform
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from unlearn_jax.audit import device, dominated_fraction, rmia, rmia_ratio
from unlearn_jax.pipeline.store.folders import num_cores

GAMMA = 2.0


def chunked_pairwise(ratio: np.ndarray, chunk: int = 32) -> np.ndarray:
    """Return scores by definition, ``chunk`` samples at a time against all others."""
    bounds = GAMMA * ratio
    counts = np.empty(ratio.size, np.int64)
    for start in range(0, ratio.size, chunk):
        block = ratio[start : start + chunk]
        counts[start : start + chunk] = np.count_nonzero(
            block[:, None] > bounds, axis=1
        )
    return (counts - (ratio > bounds)) / (ratio.size - 1)


def sample_loop(ratio: np.ndarray) -> np.ndarray:
    """Return scores by definition, sample by sample, as most released code does."""
    bounds = GAMMA * ratio
    counts = np.empty(ratio.size, np.int64)
    for i in range(ratio.size):
        counts[i] = np.count_nonzero(ratio[i] > bounds) - (ratio[i] > bounds[i])
    return counts / (ratio.size - 1)


class Signals(NamedTuple):
    """Made-up signals of targets and references.

    Attributes:
      targets: ``[T, N]`` signals of the targets.
      reference: ``[M, N]`` signals of the references.
      member: ``[M, N]`` bool, samples that each reference was trained on.
    """

    targets: np.ndarray
    reference: np.ndarray
    member: np.ndarray


class Row(NamedTuple):
    """Measurement of one way to score.

    Attributes:
      name: label of the row.
      times: milliseconds of the repeats.
      peak: peak MiB of one call.
      scores: result of a call.
    """

    name: str
    times: list[float]
    peak: float
    scores: np.ndarray


def make_signals(num_samples: int, num_models: int, num_targets: int) -> Signals:
    """Return signals of targets and references, each sample with its own level."""
    rng = np.random.default_rng(0)
    shape = (num_models + num_targets, num_samples)
    signal = rng.beta(4, 1, num_samples) * np.exp(0.7 * rng.normal(size=shape))
    signal = signal.astype(np.float32)
    order = rng.random((num_models, num_samples)).argsort(axis=0)
    member = order < num_models // 2
    return Signals(signal[:num_targets], signal[num_targets:], member)


def measure(name: str, function: Callable[[], np.ndarray], repeats: int) -> Row:
    """Time a function, and print its row: times of the repeats and peak memory."""
    scores = function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - start))
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    low = min(times)
    middle = statistics.median(times)
    high = max(times)
    print(
        f"{name:<46}{low:>10.2f}{middle:>10.2f}{high:>10.2f} ms{peak:>9.1f}"
        f" MiB{len(times):>5} repeats"
    )
    return Row(name, times, peak, scores)


def time_rows(signals: Signals, num_loop: int, repeats: int) -> dict[str, Row]:
    """Time every way to score, and return the rows that the summary compares.

    Args:
      signals: signals of targets and references.
      num_loop: number of samples of the Python loop.
      repeats: number of timed calls of the fast ways; the slow ones have three.
    """
    many, reference, member = signals
    target = many[0]
    ratio = rmia_ratio(target, reference, member)
    few = ratio[:num_loop]
    rows = {}
    rows["fast"] = measure(
        "sort and search, from ratios",
        lambda: dominated_fraction(ratio, gamma=GAMMA),
        repeats,
    )
    rows["whole"] = measure(
        "whole attack, mean over references included",
        lambda: rmia(target, reference, member),
        repeats,
    )
    measure(
        "whole attack, offline",
        lambda: rmia(target, reference, member, mode="offline"),
        repeats,
    )
    measure(
        f"whole attack, {len(many)} targets",
        lambda: rmia(many, reference, member),
        repeats,
    )
    placed = [jax.device_put(array) for array in (target, many, reference, member)]
    for name, targets in (("1 target", placed[0]), (f"{len(many)} targets", placed[1])):
        measure(
            f"whole attack in XLA, float32, {name}",
            lambda targets=targets: jax.block_until_ready(
                device.rmia(targets, *placed[2:])
            ),
            repeats,
        )
    rows["slow"] = measure(
        "pairwise, in chunks of 32, from ratios", lambda: chunked_pairwise(ratio), 3
    )
    rows["loop"] = measure(
        f"Python loop, from ratios, N = {few.size}", lambda: sample_loop(few), 3
    )
    rows["few"] = measure(
        f"sort and search, from ratios, N = {few.size}",
        lambda: dominated_fraction(few, gamma=GAMMA),
        repeats,
    )
    return rows


def report(rows: dict[str, Row]) -> bool:
    """Print the speed relative to the definition; return whether scores are equal."""
    middle = {name: statistics.median(row.times) for name, row in rows.items()}
    scores = {name: row.scores for name, row in rows.items()}
    is_equal = (
        np.array_equal(scores["fast"], scores["slow"])
        and np.array_equal(scores["whole"], scores["slow"])
        and np.array_equal(scores["few"], scores["loop"])
    )
    print(
        f"\nmedian ratio, chunks / sort: {middle['slow'] / middle['fast']:.0f}x",
        end="; ",
    )
    print(
        f"loop / sort at N = {scores['few'].size}:"
        f" {middle['loop'] / middle['few']:.0f}x"
    )
    print(
        f"bit-equal to the definition: {is_equal} ({scores['fast'].size} scores,"
        f" {np.unique(scores['fast']).size} distinct)"
    )
    return is_equal


def main() -> int:
    """Run the comparison; return 1 if any pair of results differs."""
    parser = argparse.ArgumentParser(
        description="Time RMIA scoring against the pairwise definition."
    )
    parser.add_argument("--num-samples", type=int, default=60_000)
    parser.add_argument("--num-models", type=int, default=128)
    parser.add_argument(
        "--num-loop", type=int, default=6_000, help="samples of the Python loop"
    )
    parser.add_argument(
        "--num-targets", type=int, default=27, help="targets scored at once"
    )
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    print(
        f"{num_cores()} CPU cores ({platform.machine()}),"
        f" Python {platform.python_version()}, NumPy {np.__version__},"
        f" JAX {jax.__version__} on {jax.devices()[0].device_kind}"
    )
    print(
        f"N = {args.num_samples} samples, M = {args.num_models} references,"
        f" gamma = {GAMMA:g}; min, median, max, peak of one call\n"
    )
    signals = make_signals(args.num_samples, args.num_models, args.num_targets)
    rows = time_rows(signals, args.num_loop, args.repeats)
    return 0 if report(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
