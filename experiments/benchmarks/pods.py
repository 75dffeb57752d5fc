"""Throughput by number of devices, one host or many: does training many models scale?

Command::

    # this host
    python experiments/benchmarks/pods.py --out DIR
    # on every host of a pod, at once
    python experiments/benchmarks/pods.py --out SHARED_DIR --distributed
    # anywhere: the plan
    python experiments/benchmarks/pods.py --out DIR --force-devices 8 --dry-run

For 1, 2, 4 ... local devices, the script trains ``--per-device`` models on each device,
on random images of CIFAR-10's shape (the time does not depend on their content). It
prints images per second over all models: minimum, median and maximum of ``--repeats``
timed runs, without compilation. The scaling efficiency on n devices is the median over
n times the median of one device. Hosts start together, and each writes its numbers to
the shared folder; the first one adds them up and draws ``pods.png``. Forced host
devices share the cores of one machine. They test the program: with more devices than
cores, any loss is overhead of the program. The second efficiency counts no more devices
than cores.

Not measured on a pod yet. On forced devices of two CPU cores, with Python 3.11 and JAX
0.10.2, one run of
``--model cnn --force-devices 8 --per-device 2 --batch 64 --steps 8 --repeats 5``
printed::

     devices        min     median        max   images/s; efficiency; of the 2 cores
           1      2,350      2,650      2,940   1.00  1.00
           2      3,418      3,470      3,582   0.65  0.65
           4      5,023      5,409      5,486   0.51  1.02
           8      4,487      5,005      5,229   0.24  0.94

Devices share the machine's threads, so two of them do not always get both cores (1.05
in another run, whose repeats differed by a factor of 2); four and eight keep both busy.
Two processes of two devices each, on the loopback interface, print and draw one table
of 2 and 4 devices; ``tests/pipeline/test_pods.py`` runs both cases.
"""

import argparse
import json
import os
import pathlib
import statistics
import time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument(
    "--out",
    type=pathlib.Path,
    required=True,
    help="folder for the numbers; shared by all hosts",
)
parser.add_argument("--model", default="resnet", help="resnet (18), cnn or mlp")
parser.add_argument("--per-device", type=int, default=4, help="models on each device")
parser.add_argument("--batch", type=int, default=128)
parser.add_argument(
    "--steps", type=int, default=20, help="training steps in one timed run"
)
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
parser.add_argument(
    "--mapper", default="auto", choices=("auto", "loop", "map", "vmap", "split")
)
parser.add_argument(
    "--distributed",
    action="store_true",
    help="several hosts that JAX finds by itself (pods, SLURM)",
)
parser.add_argument(
    "--coordinator",
    help="ADDRESS:PORT of the first process, with --num-processes and --process-id",
)
parser.add_argument("--num-processes", type=int)
parser.add_argument("--process-id", type=int)
parser.add_argument(
    "--force-devices", type=int, help="number of CPU devices to make up, for a trial"
)
parser.add_argument("--dry-run", action="store_true")
options = parser.parse_args()
if options.force_devices:
    os.environ["JAX_NUM_CPU_DEVICES"] = str(options.force_devices)

import jax  # noqa: E402
import numpy as np  # noqa: E402
from jax.experimental import multihost_utils  # noqa: E402

from unlearn_jax import models, replicas, train  # noqa: E402
from unlearn_jax.pipeline.store import hosts  # noqa: E402
from unlearn_jax.pipeline.store.folders import num_cores  # noqa: E402
from unlearn_jax.types import Dataset  # noqa: E402


def counts() -> list[int]:
    """Return the numbers of devices to measure: 1, 2, 4, ..., and all local ones."""
    every = len(jax.local_devices())
    return sorted({2**k for k in range(every.bit_length()) if 2**k <= every} | {every})


def throughput(count: int) -> list[float]:
    """Return images per second of every timed run on ``count`` devices."""
    many = options.per_device * count
    samples = options.steps * options.batch
    rng = np.random.default_rng(0)
    pool = Dataset(
        rng.integers(0, 256, (samples, 32, 32, 3), np.uint8),
        rng.integers(0, 10, samples).astype(np.int32),
    )
    model = models.build(options.model, (32, 32, 3), 10, dtype=options.dtype)
    mapper = replicas.mapper(options.mapper, num_models=many, devices=count)
    recipe = train.Recipe(1, options.batch, train.sgd(0.01))
    member = np.ones((many, samples), bool)
    seconds = []
    for repeat in range(options.repeats + 1):  # the first one compiles
        keys = jax.random.split(jax.random.key(repeat), many)
        began = time.perf_counter()
        state, _ = replicas.fit_many(keys, model, pool, member, recipe, mapper=mapper)
        jax.block_until_ready(state)
        seconds.append(time.perf_counter() - began)
    print(f"  {count} devices: compiled and ran in {seconds[0]:.1f} s", flush=True)
    return [many * samples / second for second in seconds[1:]]


def report(throughputs: list[dict[str, list[float]]]) -> None:
    """Add up the hosts' throughputs, print the table, and draw the figure."""
    rows = []
    for count in sorted(map(int, throughputs[0])):
        hosts = [host[str(count)] for host in throughputs]
        totals = [sum(runs) for runs in zip(*hosts, strict=True)]
        rows.append(
            (
                count * len(throughputs),
                min(totals),
                statistics.median(totals),
                max(totals),
            )
        )
    one = rows[0][2] / rows[0][0]
    cores = None
    if jax.default_backend() == "cpu" and len(throughputs) == 1:
        cores = num_cores()
    print(
        f"\n{len(throughputs)} hosts, {options.model}, {options.per_device} models per"
        f" device, batch {options.batch}, {options.dtype},"
        f" {jax.devices()[0].device_kind}, jax {jax.__version__}"
    )
    of_cores = f"; of the {cores} cores" if cores else ""
    print(
        f"{'devices':>8} {'min':>10} {'median':>10} {'max':>10}   images/s;"
        f" efficiency{of_cores}"
    )
    for devices, low, middle, high in rows:
        shared = f"  {middle / min(devices, cores) / one:.2f}" if cores else ""
        print(
            f"{devices:8} {low:10,.0f} {middle:10,.0f} {high:10,.0f}  "
            f" {middle / devices / one:.2f}{shared}"
        )
    draw(rows, one)
    print(f"drawn: {options.out / 'pods.png'}")


def draw(rows: list[tuple[int, float, float, float]], one: float) -> None:
    """Draw ``pods.png``: throughput by number of devices, and perfect scaling."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    devices, low, middle, high = map(np.array, zip(*rows, strict=True))
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.loglog(
        devices, one * devices, ":", color="#7d8590", label="as many times one device"
    )
    spread = (middle - low, high - middle)
    axes.errorbar(
        devices,
        middle,
        spread,
        fmt="o-",
        color="#0072b2",
        capsize=3,
        lw=1.5,
        label="median, min to max",
    )
    axes.set_ylim(low.min() / 1.5, 1.5 * one * devices[-1])
    axes.set_xticks(devices, [f"{count:,}" for count in devices])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.legend(frameon=False, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e7eb", lw=0.8)
    axes.set(
        xlabel="devices", ylabel="images per second, all models", title=options.model
    )
    figure.savefig(options.out / "pods.png", dpi=120)


def main() -> None:
    """Measure with the options of the command line."""
    if options.distributed or options.coordinator:
        hosts.join(options.coordinator, options.num_processes, options.process_id)
    process = hosts.current_process()
    if options.dry_run:
        print(
            f"host {process.index} of {process.count}: {len(jax.local_devices())} local"
            f" devices ({jax.devices()[0].device_kind})"
        )
        print(
            f"would train {options.per_device} x {options.model} on each of"
            f" {', '.join(map(str, counts()))} devices"
        )
        return
    options.out.mkdir(parents=True, exist_ok=True)
    mine = options.out / f"host-{process.index}.json"
    mine.unlink(missing_ok=True)
    if process.count > 1:  # all begin together, after files of earlier runs are removed
        multihost_utils.sync_global_devices("begin")
    throughputs = {str(count): throughput(count) for count in counts()}
    draft = mine.with_suffix(".draft")
    draft.write_text(json.dumps(throughputs))
    draft.rename(mine)
    files = [options.out / f"host-{i}.json" for i in range(process.count)]
    if process.first:
        process.wait(lambda: all(file.exists() for file in files))
        report([json.loads(file.read_text()) for file in files])


if __name__ == "__main__":
    main()
