r"""Audit of a bank of cached logits with every attack, leave-one-out included.

Command::

    python experiments/benchmarks/cached_logits.py  # generated, 128 models, 307 MB
    python experiments/benchmarks/cached_logits.py \
        --logits logits.npy --labels labels.npy --member member.npy
    python experiments/benchmarks/cached_logits.py --scale

Results: ``experiments/results/cached_logits.json``

Goal: each attack on all 128 models, 60,000 samples and 10 classes in seconds on 2
cores. Reached. With ``--scale``: a table's audit at sizes up to ImageNet's, in time
linear in samples, models and replicates, and in memory that does not grow with the
replicates. Each size runs in a process of its own.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from unlearn_jax.audit import (
    SIGNALS,
    Ranking,
    SampleWeights,
    auc,
    dominated_fraction,
    lira,
    lira_leave_one_out,
    model_signals,
    ratio_to_average,
    reference_average,
    rmia,
)
from unlearn_jax.data import membership_design
from unlearn_jax.pipeline.store.folders import num_cores

CHECKED = 2  # models that are also audited alone, each removed from the bank
LOOP = 2_000  # samples of the Python loop
SIZES = (60_000, 1_280_000)
MODELS = (16, 128, 256)
REPLICATES = (100, 200)


def generate(
    path: Path, models: int, samples: int, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Write made-up logits ``[M, N, C]`` model by model; return labels and membership.

    The true class leads by a number that differs by sample, and by a little more if the
    model was trained on the sample.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, samples)
    member = membership_design(models, samples, seed=0)
    lead = rng.normal(4, 2, samples)
    logits = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.float32, shape=(models, samples, classes)
    )
    for row, trained in zip(logits, member, strict=True):
        row[:] = rng.standard_normal((samples, classes), dtype=np.float32)
        row[np.arange(samples), labels] += lead + 0.7 * trained
    logits.flush()
    return labels, member


def signals(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the attacks' two signals ``[M, N]``; read one model's logits at a time."""
    names = ("logit_margin", "taylor_softmax")
    both = jax.jit(lambda z: [SIGNALS[name](z, labels) for name in names])
    rows = [np.asarray(both(np.asarray(z))) for z in logits]
    return {
        name: np.stack(column)
        for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }


def sample_loop(
    target: np.ndarray, shadow: np.ndarray, member: np.ndarray
) -> np.ndarray:
    """Return LiRA's scores by definition, sample by sample, like most released code."""
    scores = []
    for x, values, trained in zip(
        target.astype(float), shadow.T.astype(float), member.T, strict=True
    ):
        std_in = np.std(values[trained])
        std_out = np.std(values[~trained])
        z_in = (x - np.median(values[trained])) / std_in
        z_out = (x - np.median(values[~trained])) / std_out
        scores.append(np.log(std_out / std_in) + (z_out**2 - z_in**2) / 2)
    return np.array(scores)


def rmia_leave_one_out(signal: np.ndarray) -> np.ndarray:
    """Return online RMIA of every model against the mean of all others."""
    total = signal.sum(axis=0, dtype=np.float64)
    return dominated_fraction(signal / ((total - signal) / (signal.shape[0] - 1)))


def measure(
    name: str, function: Callable[[], np.ndarray], member: np.ndarray, repeats: int
) -> np.ndarray:
    """Print seconds, processor seconds, peak MiB and mean AUC; return the result."""
    seconds = []
    processor = []
    for _ in range(repeats):
        start = time.perf_counter()
        busy = time.process_time()
        result = function()
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - busy)
    tracemalloc.start()
    result = function()
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    rows = [
        auc(scores, truth)
        for scores, truth in zip(np.atleast_2d(result), member, strict=False)
    ]
    times = " /".join(
        f"{s:6.2f}" for s in (min(seconds), statistics.median(seconds), max(seconds))
    )
    print(
        f"{name:<44}{times} s{min(processor):8.2f} s{peak:6.0f}"
        f" MiB{np.mean(rows):7.3f}",
        flush=True,
    )
    return result


def audit(scores: dict[str, np.ndarray], member: np.ndarray, repeats: int) -> bool:
    """Run every attack; return whether all equal their definitions.

    The leave-one-out audits must equal audits of single models by the others.
    """
    margin = scores["logit_margin"]
    taylor = scores["taylor_softmax"]
    cases = {
        "per_sample": {},
        "fixed_centered": {"variance": "fixed_centered"},
        "fixed_global": {"variance": "fixed_global"},
        "fixed_separate": {"variance": "fixed_separate"},
        "per_sample, means": {"center": "mean"},
        "per_sample, offline": {"mode": "offline"},
        "per_sample, offline, cdf": {"mode": "offline", "offline_score": "cdf"},
    }
    for name, options in cases.items():
        measure(
            f"LiRA, all targets: {name}",
            lambda k=options: lira_leave_one_out(margin, member, **k),
            member,
            repeats,
        )
    one = margin[0], margin[1:], member[1:]
    fast = measure("LiRA, one target: per_sample", lambda: lira(*one), member, repeats)
    few = margin[0, :LOOP], margin[1:, :LOOP], member[1:, :LOOP]
    loop = measure(
        f"LiRA, one target: Python loop, {LOOP} samples",
        lambda: sample_loop(*few),
        member[:, :LOOP],
        1,
    )
    bank = taylor[0], taylor[1:], member[1:]
    first = measure(
        "RMIA, one target", lambda: rmia(*bank, check_design=False), member, repeats
    )
    every = measure(
        "RMIA, all targets", lambda: rmia_leave_one_out(taylor), member, repeats
    )

    equal = [
        np.allclose(fast[:LOOP], loop),
        np.allclose(every[0], first, rtol=0, atol=1e-4),
    ]  # a tie may round away
    for options in cases.values():
        rows = lira_leave_one_out(margin, member, balance=False, **options)
        for m in range(CHECKED):
            alone = lira(
                margin[m],
                np.delete(margin, m, axis=0),
                np.delete(member, m, axis=0),
                **options,
            )
            equal.append(np.allclose(rows[m], alone, rtol=1e-6, atol=1e-6))
    return all(equal)


def model_logits(num_samples: int, num_models: int) -> list[np.ndarray]:
    """Return made-up logits ``[N, 10]`` of each model, as views of one array."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((2 * num_samples, 10), dtype=np.float32)
    logits[:, 0] += 2  # of the true class
    starts = 7919 * np.arange(num_models) % num_samples
    return [logits[start : start + num_samples] for start in starts]


def peak() -> float:
    """Return the peak memory of the process, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def scale_case(num_samples: int, num_models: int) -> dict[str, float]:
    """Run a table's audit of one target; return processor seconds and peak MiB."""
    labels = np.zeros(num_samples, int)
    model_signals("taylor_softmax", model_logits(1000, 1), labels[:1000])
    start = peak()
    clock = time.process_time()
    costs: dict[str, float] = {}

    def lap(name: str) -> None:
        nonlocal clock
        time_now = time.process_time()
        costs[f"{name} s"] = time_now - clock
        costs[f"{name} MiB"] = peak() - start
        clock = time.process_time()

    logits = model_logits(num_samples, num_models)
    lap("generating")
    reference = model_signals("taylor_softmax", logits, labels)
    margin = model_signals("logit_margin", logits, labels)
    member = np.arange(num_models)[:, None] % 2 == np.arange(num_samples) % 2
    lap("signals")
    ratio = ratio_to_average(reference[0], reference_average(reference, member))
    scores = dominated_fraction(ratio)
    lap("RMIA")
    lira(margin[0], margin, member)
    lap("LiRA")
    del reference, margin
    train = np.arange(num_samples) < num_samples * 5 // 6
    forget = train & (np.arange(num_samples) % 10 == 0)
    parts = {"forget": forget, "retain": train & ~forget, "test": ~train}
    for num_replicates in REPLICATES:
        weights = SampleWeights(np.random.default_rng(0), num_replicates, train)
        ranking = Ranking(ratio, parts, steps=scores)
        for _, block in weights:
            curves = ranking.weighted(block)
            for positive, negative in (
                ("forget", "test"),
                ("retain", "forget"),
                ("retain", "test"),
            ):
                curves.auc(positive, negative)
            curves.tpr("forget", "test", max_fpr=0.01)
            curves.tpr("retain", "test", max_fpr=0.01)
        lap(f"{num_replicates} replicates")
    return costs


def scale() -> int:
    """Print the cost of an audit at every size; return 1 if memory is not bounded."""
    is_linear = True
    for num_samples in SIZES:
        for num_models in MODELS:
            command = [sys.executable, __file__, "--case", f"{num_samples}"]
            command.append(f"{num_models}")
            answer = subprocess.run(command, check=True, capture_output=True, text=True)
            costs = json.loads(answer.stdout)
            print(f"{num_samples:,} samples, {num_models} models:")
            for name, number in costs.items():
                print(f"  {name:<24}{number:10.2f}")
            sys.stdout.flush()
            first, second = (costs[f"{count} replicates MiB"] for count in REPLICATES)
            signals = 2 * 4 * num_samples * num_models / 2**20
            is_linear &= second - first < 64
            is_linear &= second < 1.3 * signals + 1500
    print(f"bounded: {is_linear}")
    return 0 if is_linear else 1


def main() -> int:
    """Generate or open the bank and audit it; return 1 if a fast result is wrong."""
    parser = argparse.ArgumentParser(
        description="Audit cached logits with every attack."
    )
    parser.add_argument("--models", type=int, default=128)
    parser.add_argument("--samples", type=int, default=60_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--logits",
        type=Path,
        help=".npy file of logits [M, N, C]; generated if absent",
    )
    parser.add_argument(
        "--labels", type=Path, help=".npy file of labels [N], integers; with --logits"
    )
    parser.add_argument(
        "--member", type=Path, help=".npy file of a mask [M, N]; with --logits"
    )
    parser.add_argument(
        "--scale", action="store_true", help="cost of a table's audit by size"
    )
    parser.add_argument("--case", type=int, nargs=2, help="one size of --scale")
    args = parser.parse_args()
    if args.case:
        print(json.dumps(scale_case(*args.case)))
        return 0
    if args.scale:
        return scale()
    if len({path is None for path in (args.logits, args.labels, args.member)}) > 1:
        parser.error("--logits, --labels and --member belong together")

    with tempfile.TemporaryDirectory() as folder:
        path = args.logits or Path(folder) / "logits.npy"
        if args.logits:
            labels = np.load(args.labels)
            member = np.load(args.member)
        else:
            labels, member = generate(path, args.models, args.samples, args.classes)
        logits = np.load(path, mmap_mode="r")
        print(
            f"{num_cores()} CPU cores ({platform.machine()}),"
            f" load {os.getloadavg()[0]:.1f}",
            end=", ",
        )
        print(
            f"Python {platform.python_version()}, NumPy {np.__version__}, JAX"
            f" {jax.__version__}"
        )
        print(
            f"{'x'.join(map(str, logits.shape))} logits,"
            f" {'cached' if args.logits else 'generated'}; ",
            end="",
        )
        print(
            f"min / median / max of {args.repeats}, least processor time, peak, mean"
            " AUC over targets\n"
        )
        start = time.perf_counter()
        busy = time.process_time()
        scores = signals(logits, labels)
        took = (
            f"{time.perf_counter() - start:6.2f} s{time.process_time() - busy:26.2f} s"
        )
        print(f"{'signals, from disk, compilation included':<44}{took}", flush=True)
        equal = audit(scores, member, args.repeats)
        print(f"\nequal to the definition, and left out to removed: {equal}", end="; ")
        print(
            "peak memory of the process"
            f" {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB"
        )
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
