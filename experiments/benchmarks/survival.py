"""Runs killed at random moments and resumed, compared bit for bit with whole ones.

Commands::

    survival.py moments --number 50      # each run once, at any moment of the run
    survival.py kills --number 50        # repeatedly, at moments of the rest of the run
    survival.py writes --number 20       # while a file is half written
    survival.py processes --number 8     # one of two processes of a run
    survival.py experiment --number 8    # artifacts of an experiment

The run is small: a perceptron on digits, groups of models with checkpoints, adversarial
sets, two methods, audit, report. It is killed with SIGKILL and started again by the
same command until it ends. All numbers of ``results.json`` except times, every stored
array and score, and the digests of the stored models must equal those of an
uninterrupted run. No kill may make the next run warn, or leave a file half written.

The phase of the run at a kill is read from the stacks of the process a moment before.
Moments are uniform over 1.5 times the time that the run has left (``moments``: over the
whole run); one in ten is uniform over the start instead.

Results: ``experiments/results/survival.json``
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from unlearn_jax.pipeline.store.folders import read_manifest

RUN = '''
"""A small run with all stages."""
from unlearn_jax.methods import AMUN, FineTune
from unlearn_jax.pipeline import *
PRESET = RunConfig(
    title="survival",
    data=DataConfig(num_train=200, num_test=100),
    model=ModelConfig(widths=(16,)),
    training=TrainingConfig(num_epochs=3000, batch_size=200, learning_rate=0.05),
    forget=ForgetConfig(seeds=(1,)),
    replicas=ReplicasConfig(
        originals=(0, 1), references=4, group=2, checkpoint_seconds=0.0
    ),
    attack=AttackConfig(num_radii=8, num_steps=10),
    audit=AuditConfig(num_bootstrap=50, mis=False),
    rows={
        "finetune": Row(method=FineTune(num_epochs=3)),
        "amun": Row(method=AMUN(num_epochs=3)),
    },
)
'''
PARTS = '''
"""A small experiment of nine artifacts, 24 MB each but the last."""
import dataclasses
import functools
import numpy as np
from unlearn_jax.pipeline import Artifact, Experiment, Page, Table

@dataclasses.dataclass(frozen=True)
class Config:
    """Its settings."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)
    """One walk each."""

def walk(seed):
    steps = np.random.default_rng(seed).normal(size=(1000, 3000))
    return {"x": steps.cumsum(1), "end": steps.sum(1)}

def total(*walks):
    return {"sum": sum(one["end"].sum() for one in walks)}

def artifacts(config):
    walks = []
    for seed in config.seeds:
        settings = {"seed": seed}
        compute = functools.partial(walk, seed)
        walks.append(Artifact(name=f"walk-{seed}", settings=settings, compute=compute))
    inputs = tuple(walks)
    return [*walks, Artifact(name="total", settings={}, compute=total, inputs=inputs)]

def page(config, found):
    table = Table("Numbers", ["row", "sum"], [["all", float(found["total"]["sum"])]])
    return Page(f"The sum is {found['total']['sum']}.", [table])

EXPERIMENT = Experiment("Survival", Config(), artifacts, page)
'''
CHILD = """
import faulthandler, functools, os, signal, sys, threading, traceback
faulthandler.enable()

def write_stacks(file, woken):
    os.read(woken, 1)
    frames = sys._current_frames().values()
    lines = [line for frame in frames for line in traceback.format_stack(frame)]
    file.write("".join(lines))
    file.flush()

woken, wake = os.pipe()
os.set_blocking(wake, False)
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.set_wakeup_fd(wake)
file = open(sys.argv.pop(1), "w")
threading.Thread(target=write_stacks, args=(file, woken), daemon=True).start()
import jax
initialize = jax.distributed.initialize
jax.distributed.initialize = functools.partial(initialize, heartbeat_timeout_seconds=10)
from unlearn_jax.cli import main
sys.exit(main())
"""
"""Program that runs the command, with a thread that writes the stacks of the process.

On SIGUSR1 the interpreter wakes the thread, which reads the stacks while it holds the
interpreter's lock. ``faulthandler.register`` would read them in the signal's handler,
while they change, and crash the process now and then (python/cpython#116008). A lost
process is noticed after 10 s instead of 100.
"""

ROOT = pathlib.Path(__file__).resolve().parents[2]
TIMES = ("date", "created", "command", "stages", "device", "cost", "costs", "banks")
"""Parts of ``results.json`` that two equal runs may differ in."""

PHASES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("checkpoint write", ("artifact.py save",)),
    ("checkpoint read", ("artifact.py restore",)),
    ("training: piece written", ("_run.py _train", "folders.py write_folder")),
    ("training", ("training.py _train",)),
    ("models: checked, locked", ("_run.py _train",)),
    ("adversarial sets: written", ("_run.py _attack", "folders.py write_folder")),
    ("adversarial sets", ("_run.py _attack",)),
    ("unlearning: written", ("_run.py _unlearn", "folders.py write_folder")),
    ("unlearning", ("_run.py _unlearn",)),
    ("audit", ("results.py measure_run",)),
    ("report", ("_run.py publish",)),
    ("artifact written", ("artifact.py _compute", "folders.py write_folder")),
    ("artifact computed", ("artifact.py _compute",)),
    ("artifact checked", ("artifact.py make",)),
    ("report", ("page.py write_experiment",)),
    ("between stages", ("_run.py run",)),
    ("between stages", ("experiment.py run_experiment",)),
)
"""Phases of a process, each with functions that must all be on its stacks.

The first phase that fits counts.
"""
OTHER = "start: imports, data, plan"

WRITES = {
    "checkpoint": "banks/*/unfinished-*/.*",
    "group of models": "banks/*/.items-*[0-9]",
    "adversarial sets": "run/attack-*/.items-*[0-9]",
    "unlearned models": "run/unlearn-*/.items-*[0-9]",
    "report": "run/.[acrt]*-*",
}
"""Patterns of the files that are being written, by kind."""


class Case(NamedTuple):
    """Command to run, and the number of its processes."""

    root: pathlib.Path
    preset: str
    processes: int = 1

    def start(self, folder: pathlib.Path) -> list[subprocess.Popen[str]]:
        """Start the command, and return its processes."""
        folder.mkdir(exist_ok=True)
        (self.root / "small.py").write_text(self.preset)
        env = {
            "UNLEARN_JAX_CACHE": str(self.root / "cache"),
            **os.environ,
            "PYTHONPATH": str(ROOT),
        }
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        started = []
        for i in range(self.processes):
            stacks(folder, i).unlink(missing_ok=True)
            words = [
                sys.executable,
                "-c",
                CHILD,
                str(stacks(folder, i)),
                "run",
                "../small.py",
                "--workdir",
                "run",
            ]
            if self.processes > 1:
                words += [
                    f"--coordinator=127.0.0.1:{port}",
                    f"--num-processes={self.processes}",
                    f"--process-id={i}",
                ]
            pipe = subprocess.PIPE
            started.append(
                subprocess.Popen(
                    words, cwd=folder, env=env, text=True, stdout=pipe, stderr=pipe
                )
            )
        return started

    def finish(self, folder: pathlib.Path) -> str:
        """Run the command to its end, and return its standard error."""
        return end(self.start(folder))


def end(processes: list[subprocess.Popen[str]]) -> str:
    """Wait for processes that must succeed, and return their standard error."""
    outputs = [process.communicate()[1] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(
            f"status {[p.returncode for p in processes]}:\n" + "\n".join(outputs)
        )
    return "\n".join(outputs)


def stacks(folder: pathlib.Path, index: int) -> pathlib.Path:
    """Return the file that a process writes its stacks to."""
    return folder.with_name(f"{folder.name}-stacks-{index}")


def content(folder: pathlib.Path) -> dict[str, bytes]:
    """Return the content to compare: numbers, bits of all arrays, and manifests."""
    results = json.loads((folder / "run" / "results.json").read_text())
    for row in results.get("rows", []):
        row.pop("cost", None)
    numbers = {key: value for key, value in results.items() if key not in TIMES}
    files = {"numbers": json.dumps(numbers, sort_keys=True).encode()}
    return files | stored(folder)


def stored(folder: pathlib.Path) -> dict[str, bytes]:
    """Return the bits of all arrays of a run, finished or not, and their manifests."""
    files = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if name.startswith("damaged-") or "/damaged-" in name:
            continue
        if file.suffix == ".npy":
            files[name] = np.load(file).tobytes()
        elif file.suffix == ".npz":
            with np.load(file) as arrays:
                for key in arrays.files:
                    array = np.ascontiguousarray(arrays[key])
                    files[f"{name}:{key}"] = array.tobytes()
        elif file.name == "manifest.json":
            # Orbax names its files at random; the manifest has digests of the values
            manifest = json.loads(file.read_text())
            if read_manifest(file.parent) is None:
                raise SystemExit(f"{file.parent} is not complete")
            lasting = {**manifest, "cost": None, "files": None}
            files[name] = json.dumps(lasting, sort_keys=True).encode()
    return files


def compare(
    folder: pathlib.Path, expected: dict[str, bytes], *, left: bool = False
) -> None:
    """Stop the script if a run differs, or has left something behind.

    Args:
      folder: folder of a finished run.
      expected: content of the uninterrupted run.
      left: whether the run may have left something, such as folders set aside.
    """
    files = content(folder)
    if files.keys() != expected.keys():
        raise SystemExit(
            "files differ from those of the uninterrupted run:"
            f" {sorted(files.keys() ^ expected.keys())[:5]}"
        )
    if different := [name for name, value in files.items() if value != expected[name]]:
        raise SystemExit(f"content differs from the uninterrupted run: {different[:5]}")
    odd = [
        path
        for path in folder.rglob("*")
        if re.match(r"\..+-\d+(\.(?!lock)\w+)?$|unfinished-|damaged-", path.name)
    ]
    if odd and not left:
        raise SystemExit(f"left behind: {odd[:5]}")


class Clock:
    """Durations of an uninterrupted run's stages, to estimate what another has left."""

    def __init__(self, folder: pathlib.Path, started: float) -> None:
        began = (folder / "run" / "config.json").stat().st_mtime
        self.start = began - started
        self.stages: dict[str, float] = {}
        for file in sorted(
            folder.rglob("manifest.json"), key=lambda file: file.stat().st_mtime
        ):
            self.stages[str(file.relative_to(folder))] = file.stat().st_mtime - began
            began = file.stat().st_mtime
        self.last = (folder / "run" / "results.json").stat().st_mtime - began

    def left(self, folder: pathlib.Path) -> float:
        """Return the seconds that a run in a folder still needs."""
        return self.last + sum(
            took for file, took in self.stages.items() if not (folder / file).exists()
        )


def phase(written: str) -> str:
    """Return the phase of a process when it wrote its stacks."""
    frames = {
        " ".join(frame)
        for frame in re.findall(r'/([\w.]+)", line \d+, in (\w+)', written)
    }
    return next((name for name, needed in PHASES if frames.issuperset(needed)), OTHER)


def kill(
    folder: pathlib.Path, victim: int, processes: list[subprocess.Popen[str]]
) -> str | None:
    """Kill one of the processes; return its phase, or None if it had ended."""
    process = processes[victim]
    file = stacks(folder, victim)
    if file.exists() and process.poll() is None:
        process.send_signal(signal.SIGUSR1)
        limit = time.monotonic() + 1.0
        while (
            not file.stat().st_size
            and process.poll() is None
            and time.monotonic() < limit
        ):
            time.sleep(0.001)
        time.sleep(0.002)  # all threads' stacks come at once
    process.kill()
    # Python gives SIGUSR1 back to the system when it ends.
    if process.wait() not in (-signal.SIGKILL, -signal.SIGUSR1):
        return None
    return phase(file.read_text() if file.exists() else "")


def begun(folder: pathlib.Path) -> int:
    """Return the time (in ns) of a run's ``config.json``, or 0 if it has none."""
    with contextlib.suppress(FileNotFoundError):
        return (folder / "run" / "config.json").stat().st_mtime_ns
    return 0


def wait_until(
    there: Callable[[], object], processes: list[subprocess.Popen[str]]
) -> None:
    """Wait until a condition holds, or a process has ended."""
    while not there() and all(process.poll() is None for process in processes):
        time.sleep(0.001)


def at_a_moment(
    case: Case,
    folder: pathlib.Path,
    clock: Clock,
    rng: random.Random,
    over: float = 1.5,
) -> tuple[list, str | None]:
    """Start the command, kill it at a random moment, and return processes and phase.

    The moment is uniform over ``over`` times the time that the run has left. The phase
    is None if the process had ended before.
    """
    before = begun(folder)
    left = clock.left(folder)
    victim = rng.randrange(case.processes)
    processes = case.start(folder)
    if rng.random() < 0.1:
        time.sleep(rng.uniform(0, clock.start))
        return processes, kill(folder, victim, processes)
    wait_until(lambda: begun(folder) != before, processes)
    moment = time.monotonic() + rng.uniform(0, over * left)
    wait_until(lambda: time.monotonic() > moment, processes)
    met = kill(folder, victim, processes)
    return processes, "exit" if met == OTHER else met


def at_a_write(
    case: Case, folder: pathlib.Path, rng: random.Random
) -> tuple[list, str | None]:
    """Start the command, and kill it when a file of a random kind is being written.

    Returns:
      The processes, and a text that says whether the file is half written; None if the
      command had ended before.
    """
    kind = rng.choice(
        list(WRITES)
    )  # a file that exists already does not appear again, and the run ends
    seen = set(folder.glob(WRITES[kind]))
    processes = case.start(folder)
    wait_until(lambda: set(folder.glob(WRITES[kind])) - seen, processes)
    moment = time.monotonic() + rng.uniform(0, 0.004)
    wait_until(lambda: time.monotonic() > moment, processes)
    if processes[0].poll() is None:
        processes[0].kill()
    if processes[0].wait() != -signal.SIGKILL:  # it had ended
        return processes, None
    half = bool(set(folder.glob(WRITES[kind])) - seen)
    return processes, f"{kind}: {'half written' if half else 'just finished'}"


def kill_often(
    case: Case,
    expected: dict[str, bytes],
    number: int,
    once: Callable[[pathlib.Path], tuple[list[subprocess.Popen[str]], str | None]],
    *,
    again: bool = True,
) -> collections.Counter[str]:
    """Kill until the number is reached, compare every finished run, count the phases.

    Args:
      case: command to run.
      expected: content of the uninterrupted run.
      number: number of kills.
      once: function that starts the command in a folder and may kill it; it returns the
        processes and the phase of the kill, or None without one.
      again: whether a run that was killed may be killed again.

    Returns:
      The number of kills by phase.
    """
    where: collections.Counter[str] = collections.Counter()
    folder = case.root / "killed"
    ends = 0
    killed = False
    while True:
        if where.total() < number and (again or not killed):
            processes, met = once(folder)
        else:
            processes = case.start(folder)
            met = None
        killed = met is not None
        if met is not None:
            where[met] += 1
            errors = "\n".join(
                process.communicate(timeout=300)[1] for process in processes
            )  # the other processes end, too
            print(
                f"killed {where.total()} of {number}: {met}",
                file=sys.stderr,
                flush=True,
            )
        else:
            errors = end(processes)
            compare(folder, expected)
            ends += 1
            shutil.rmtree(folder)
        if "unlearn-jax: warning" in errors:
            raise SystemExit(f"a warning after a kill:\n{errors}")
        if met is None and where.total() == number:
            break
    print(
        f"{number} of {number} kills survived; {ends} finished runs, each equal to the"
        " uninterrupted one, bit for bit"
    )
    for name, count in where.most_common():
        print(f"  {count:3} killed at: {name}")
    return where


def uninterrupted(case: Case) -> tuple[Case, Clock, dict[str, bytes]]:
    """Run the command without a kill, in ``whole``, after a run that fills the cache.

    Returns:
      The command, the clock of the run, and the content of the run.
    """
    case.finish(case.root / "warm")
    started = time.time()
    case.finish(case.root / "whole")
    clock = Clock(case.root / "whole", started)
    expected = content(case.root / "whole")
    total = clock.start + clock.left(case.root)
    print(
        f"uninterrupted: {total:.1f} s, of them start {clock.start:.1f} s;"
        f" {len(expected)} arrays and manifests"
    )
    return case, clock, expected


def main() -> None:
    """Kill and compare runs with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "what", choices=("moments", "kills", "writes", "processes", "experiment")
    )
    parser.add_argument("--number", type=int, default=50, help="number of kills")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    preset = PARTS if options.what == "experiment" else RUN
    with tempfile.TemporaryDirectory() as name:
        case, clock, expected = uninterrupted(Case(pathlib.Path(name), preset))
        if options.what == "writes":
            kill_often(
                case,
                expected,
                options.number,
                lambda folder: at_a_write(case, folder, rng),
            )
        else:
            case = case._replace(processes=2 if options.what == "processes" else 1)
            again = options.what != "moments"
            once = lambda folder: at_a_moment(
                case, folder, clock, rng, 1.5 if again else 1.0
            )
            kill_often(case, expected, options.number, once, again=again)


if __name__ == "__main__":
    main()
