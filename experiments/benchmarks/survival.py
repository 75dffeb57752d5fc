"""Does a run survive anything? Killed at random moments, its files damaged: the finished result must not differ by a bit.

Command::

    python experiments/benchmarks/survival.py                # 50 kills, then every kind of file damaged in three ways
    python experiments/benchmarks/survival.py --kills 5 --no-damage

The run is small (MLP on digits; several groups of models, a checkpoint after every epoch, a search, adversarial sets, two
methods, an audit). It is started, killed with SIGKILL after a random time, and started again by the same command, until it
ends; then from the beginning, until the number of kills is reached. Each end is compared with an uninterrupted run: all
numbers of ``results.json`` but times, and every stored model, logit, adversarial example and score, bit for bit. Then, in
finished folders, a file of each kind is truncated, has one bit flipped, or is deleted; the command must say so, set the
folder aside, and end in the same numbers.

Measured:  not yet
"""

import argparse
import collections
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np

PRESET = '''
"""A small run with all stages."""
from unlearn_jax.pipeline import *
PRESET = RunConfig(
    title="survival", model=ModelConfig(fields={"widths": (32,)}),
    training=TrainingConfig(num_epochs=12, batch_size=32, learning_rate=0.05),
    forget=ForgetConfig(seeds=(1, 2)),
    replicas=ReplicasConfig(originals=(0, 1), references=8, group=2, checkpoint_seconds=0.0),
    attack=AttackConfig(num_radii=8, num_steps=10), tuning=TuningConfig(trials=2, originals=(11,), seeds=(11,)),
    audit=AuditConfig(num_bootstrap=50, mis=False),
    rows={"finetune": {"method": "finetune", "num_epochs": 3}, "amun": {"method": "amun", "num_epochs": 3}},
)
'''
ROOT = pathlib.Path(__file__).resolve().parents[2]
TIMES = ("created", "command", "stages", "environment", "cost", "banks")
"""Parts of ``results.json`` that two equal runs may differ in."""


def start(folder: pathlib.Path) -> subprocess.Popen[str]:
    """The command, in a process group of its own."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "UNLEARN_JAX_CACHE": str(folder.parent / "cache")}
    command = [sys.executable, "-m", "unlearn_jax", "run", str(folder.parent / "small.py"), "--workdir", "run"]
    folder.mkdir(exist_ok=True)
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=env, text=True, stdout=pipe, stderr=pipe, start_new_session=True)


def finish(folder: pathlib.Path) -> tuple[str, str]:
    """Runs the command to its end; gives what it said on both streams."""
    process = start(folder)
    out, err = process.communicate()
    if process.returncode:
        raise SystemExit(f"the run failed with status {process.returncode}:\n{err}")
    return out, err


def content(folder: pathlib.Path) -> dict[str, bytes]:
    """Everything that must be equal: the numbers, and the bits of all arrays."""
    results = json.loads((folder / "run" / "results.json").read_text())
    for row in results["rows"]:
        row.pop("cost", None)
    found = {"numbers": json.dumps({k: v for k, v in results.items() if k not in TIMES}, sort_keys=True).encode()}
    for file in sorted(folder.rglob("*.np[yz]")):
        if not any(part.startswith(("damaged-", "training-")) for part in file.relative_to(folder).parts):
            for name, array in arrays_of(file).items():
                found[f"{file.relative_to(folder)}:{name}"] = np.ascontiguousarray(array).tobytes()
    return found


def arrays_of(file: pathlib.Path) -> dict[str, np.ndarray]:
    """What a ``.npy`` or ``.npz`` file holds, by name."""
    if file.suffix == ".npy":
        return {"": np.load(file)}
    with np.load(file) as stored:
        return {name: stored[name] for name in stored.files}


def compare(folder: pathlib.Path, expected: dict[str, bytes]) -> None:
    """Stops at the first difference."""
    found = content(folder)
    if found.keys() != expected.keys():
        raise SystemExit(f"other files than without interruption: {sorted(found.keys() ^ expected.keys())[:5]}")
    if different := [name for name, value in found.items() if value != expected[name]]:
        raise SystemExit(f"not the result of the uninterrupted run: {different[:5]}")


def stage(folder: pathlib.Path) -> str:
    """What a killed run was at."""
    run = folder / "run"
    if (run / "results.json").exists():
        return "after the end"
    if list(folder.glob("banks/*/training-*")):
        return "training, checkpoints"
    drafts = [draft for draft in folder.rglob(".*-*") if draft.is_dir() or draft.suffix in (".npz", ".html", ".json")]
    names = sorted({path.name.split("-")[0] for path in run.glob("*-*")}) if run.is_dir() else []
    late = "unlearning or audit" if "unlearn" in names else "adversarial sets" if "attack" in names else "search"
    late = late if names else "start or banks"
    return f"{late}, a file half written" if drafts else late


def kill_often(root: pathlib.Path, expected: dict[str, bytes], kills: int, seconds: float, seed: int) -> None:
    """Kills until the number is reached, comparing every finished run."""
    rng, done, ends = random.Random(seed), 0, 0
    where: collections.Counter[str] = collections.Counter()
    folder = root / "killed"
    while done < kills:
        process = start(folder)
        try:
            process.communicate(timeout=rng.uniform(0.3, 0.7 * seconds))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            done += 1
            where[stage(folder)] += 1
            print(f"\rkilled {done} of {kills}", end="", file=sys.stderr, flush=True)
            continue
        if process.returncode:
            raise SystemExit(f"the run failed with status {process.returncode} after {done} kills")
        compare(folder, expected)
        ends += 1
        shutil.rmtree(folder)
    finish(folder)
    compare(folder, expected)
    print(
        f"\n{done} of {kills} kills survived: {ends + 1} finished runs, each equal to the uninterrupted one, bit for bit"
    )
    for name, count in where.most_common():
        print(f"  {count:3} killed at: {name}")


DAMAGE = {
    "truncated": lambda data: data[: len(data) // 2],
    "one bit flipped": lambda data: (
        data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
    ),
    "deleted": None,
}


def damage_all(root: pathlib.Path, whole: pathlib.Path, expected: dict[str, bytes]) -> None:
    """A matrix: kinds of files by kinds of damage."""
    kinds: dict[str, pathlib.Path] = {}
    for file in sorted(whole.rglob("*")):
        stored = any(part.startswith(("models-", "part-")) for part in file.relative_to(whole).parts)
        if file.is_file() and stored:
            room = file.relative_to(whole).parts[1].split("-")[0]
            kinds.setdefault(f"{room}: {file.name}", file.relative_to(whole))
    for file in ("results.json", "arrays.npz", "config.json", "report.html"):
        kinds[f"run: {file}"] = pathlib.Path("run") / file
    for name, file in kinds.items():
        for how, change in DAMAGE.items():
            folder = root / "damaged"
            shutil.copytree(whole, folder)
            if change is None:
                (folder / file).unlink()
            else:
                (folder / file).write_bytes(change((folder / file).read_bytes()))
            _, said = finish(folder)
            compare(folder, expected)
            named = "computed anew" in said
            if not named and not name.startswith("run: "):  # those are written anew by every run, and never read
                raise SystemExit(f"{file}, {how}: not noticed")
            print(f"ok  {name:32} {how:16} {'named and rebuilt' if named else 'written anew'}", flush=True)
            shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--no-damage", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        (root / "small.py").write_text(PRESET)
        finish(root / "warm")  # fills the compilation cache, as the killed runs find it
        began = time.monotonic()
        finish(root / "whole")
        seconds = time.monotonic() - began
        expected = content(root / "whole")
        print(f"uninterrupted: {seconds:.0f} s, {len(expected)} arrays")
        kill_often(root, expected, options.kills, seconds, options.seed)
        if not options.no_damage:
            damage_all(root, root / "whole", expected)


if __name__ == "__main__":
    main()
