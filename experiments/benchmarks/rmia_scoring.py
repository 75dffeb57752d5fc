"""RMIA scoring by sorting, against the pairwise definition: time, memory, equality.

Command: python experiments/benchmarks/rmia_scoring.py
Results: ``experiments/results/rmia_scoring.json``

Goal: score 60,000 samples against all others in under 50 ms on 2 cores, with memory
linear in N. Reached.
"""

import argparse
import os
import platform
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable

import jax
import numpy as np

from unlearn_jax.audit import device, dominated_fraction, rmia, rmia_ratio

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


def measure(
    function: Callable[[], np.ndarray], repeats: int
) -> tuple[list[float], float, np.ndarray]:
    """Return the repeats' milliseconds, the peak MiB of one call, and the result."""
    result = function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - start))
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return times, peak, result


def row(name: str, times: list[float], peak: float) -> None:
    """Print minimum, median and maximum of the repeats, and the peak memory."""
    low = min(times)
    middle = statistics.median(times)
    high = max(times)
    print(
        f"{name:<46}{low:>10.2f}{middle:>10.2f}{high:>10.2f} ms{peak:>9.1f}"
        f" MiB{len(times):>5} repeats"
    )


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
    n = args.num_samples
    m = args.num_models

    rng = np.random.default_rng(0)
    shape = (m + args.num_targets, n)
    signal = rng.beta(4, 1, n) * np.exp(0.7 * rng.normal(size=shape))
    signal = signal.astype(np.float32)
    target = signal[0]
    reference = signal[args.num_targets :]
    member = rng.random((m, n)).argsort(axis=0) < m // 2
    ratio = rmia_ratio(target, reference, member)

    cores = (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count()
    )
    print(
        f"{cores} CPU cores ({platform.machine()}), Python {platform.python_version()}",
        end=", ",
    )
    print(
        f"NumPy {np.__version__}, JAX {jax.__version__} on"
        f" {jax.devices()[0].device_kind}"
    )
    print(
        f"N = {n} samples, M = {m} references, gamma = {GAMMA:g}; min, median, max,"
        " peak of one call\n"
    )

    fast, fast_peak, scores = measure(
        lambda: dominated_fraction(ratio, gamma=GAMMA), args.repeats
    )
    row("sort and search, from ratios", fast, fast_peak)
    whole, whole_peak, from_start = measure(
        lambda: rmia(target, reference, member), args.repeats
    )
    row("whole attack, mean over references included", whole, whole_peak)
    offline, offline_peak, _ = measure(
        lambda: rmia(target, reference, member, mode="offline"), args.repeats
    )
    row("whole attack, offline", offline, offline_peak)
    many = signal[: args.num_targets]
    row(
        f"whole attack, {len(many)} targets",
        *measure(lambda: rmia(many, reference, member), args.repeats)[:2],
    )
    placed = [jax.device_put(x) for x in (target, many, reference, member)]
    for name, targets in (("1 target", placed[0]), (f"{len(many)} targets", placed[1])):
        times, peak, _ = measure(
            lambda targets=targets: jax.block_until_ready(
                device.rmia(targets, *placed[2:])
            ),
            args.repeats,
        )
        row(f"whole attack in XLA, float32, {name}", times, peak)
    slow, slow_peak, expected = measure(lambda: chunked_pairwise(ratio), 3)
    row("pairwise, in chunks of 32, from ratios", slow, slow_peak)
    few = ratio[: args.num_loop]
    loop, loop_peak, loop_scores = measure(lambda: sample_loop(few), 3)
    row(f"Python loop, from ratios, N = {few.size}", loop, loop_peak)
    few_fast, few_peak, few_scores = measure(
        lambda: dominated_fraction(few, gamma=GAMMA), args.repeats
    )
    row(f"sort and search, from ratios, N = {few.size}", few_fast, few_peak)

    equal = [
        np.array_equal(scores, expected),
        np.array_equal(from_start, expected),
        np.array_equal(few_scores, loop_scores),
    ]
    print(
        "\nmedian ratio, chunks / sort:"
        f" {statistics.median(slow) / statistics.median(fast):.0f}x",
        end="; ",
    )
    print(
        f"loop / sort at N = {few.size}:"
        f" {statistics.median(loop) / statistics.median(few_fast):.0f}x"
    )
    print(
        f"bit-equal to the definition: {all(equal)} ({scores.size} scores,"
        f" {np.unique(scores).size} distinct)"
    )
    return 0 if all(equal) else 1


if __name__ == "__main__":
    sys.exit(main())
