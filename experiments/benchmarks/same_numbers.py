"""Smaller runs of the presets by two versions of the code: are their numbers equal?

Command::

    git worktree add BEFORE COMMIT
    python experiments/benchmarks/same_numbers.py BEFORE --data DATA_DIR --write

A change of the code marks every published table that it may concern. This runs each
such preset with few models, images and trials by the checkout ``BEFORE`` and by the
present one, a process each, and compares all numbers of their tables as they would be
published. With ``--write`` a result whose tables are equal notes the digest of the
present code. A result is due if its code, or the code that it was last checked with, is
that of ``BEFORE``. The tables of benchmarks are times, and are not compared.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

from unlearn_jax.pipeline import presets, published
from unlearn_jax.pipeline.code_digest import code_digest

RUN = (
    "--data.num-train=600",
    "--data.num-test=300",
    "--training.num-epochs=3",
    "--replicas.references=8",
    "--tuning.trials=2",
    "--audit.num-bootstrap=50",
)
"""Options of a run or a study; every one keeps its own forget sets and rows."""
EXPERIMENTS = {
    "lotos_cifar10_cpu": (
        "--seeds",
        "0",
        "--data.num-train=256",
        "--data.num-test=200",
        "--training.num-epochs=3",
        "--attack.num-samples=32",
        "--attack.strong-samples=16",
        "--num-bootstrap=20",
    ),
}
"""Options of presets that are not runs; without an entry they are not compared."""


def digests(checkout: pathlib.Path, names: list[str]) -> dict[str, str]:
    """Return the digests of a checkout's code, by its own rule."""
    script = (
        "import json, sys; from unlearn_jax.pipeline.code_digest import code_digest;"
        " print(json.dumps({name: code_digest(name) for name in sys.argv[1:]}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *names],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def numbers(
    checkout: pathlib.Path,
    name: str,
    options: list[str],
    folder: pathlib.Path,
) -> subprocess.Popen[bytes]:
    """Start a small run that publishes its tables to ``folder/tables.json``.

    Args:
      checkout: of the code.
      name: of the preset.
      options: of the command line.
      folder: to be made.
    """
    folder.mkdir(parents=True)
    program = shlex.join([sys.executable, "-m", "unlearn_jax"])
    words = shlex.join(options)
    command = (
        f"{program} run {name} --workdir work {words} &&"
        f" {program} publish work --to tables.json"
    )
    with open(folder / "output.txt", "wb") as output:
        return subprocess.Popen(
            ["bash", "-c", command],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def compare(
    before: pathlib.Path, name: str, options: list[str], folder: pathlib.Path
) -> str:
    """Return how the numbers of two versions differ; empty if they are equal.

    Args:
      before: checkout of the earlier code.
      name: of the preset.
      options: of the command line.
      folder: of both runs.
    """
    present = pathlib.Path(__file__).resolve().parents[2]
    checkouts = {"before": before.resolve(), "present": present}
    started = {}
    for version, checkout in checkouts.items():
        started[version] = numbers(checkout, name, options, folder / name / version)
    statuses = {version: process.wait() for version, process in started.items()}
    tables = []
    for version, status in statuses.items():
        output = folder / name / version
        if status:
            last = (output / "output.txt").read_text().strip().splitlines()[-1:]
            return f"the run of the {version} code failed: {' '.join(last)}"
        tables.append(json.loads((output / "tables.json").read_text())["tables"])
    first, second = tables
    if first == second:
        return ""
    for one, other in zip(first, second, strict=False):
        for row, other_row in zip(one["rows"], other["rows"], strict=False):
            if row != other_row:
                return f"{row} became {other_row}"
    return "the tables have other rows or columns"


def main() -> None:
    """Compare the presets that are due, and note which are equal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=pathlib.Path, help="checkout of earlier code")
    parser.add_argument("--data", help="folder of prepared data sets")
    parser.add_argument(
        "--presets", nargs="*", help="names of presets; all that are due by default"
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="note the equal presets in their results",
    )
    options = parser.parse_args()
    results = published.read_results()
    names = [name for name in presets.names() if name in results and results[name].code]
    of_before = digests(options.before.resolve(), names)
    failed = []
    num_compared = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            result = results[name]
            is_due = of_before[name] in (result.code, result.checked)
            is_chosen = not options.presets or name in options.presets
            if not is_due or not is_chosen:
                continue
            is_run = presets.load(name).experiment is None
            small = RUN if is_run else EXPERIMENTS.get(name, ())
            if not small:
                continue
            words = [*small]
            if options.data and "DATA_DIR" in result.command:
                words.append(f"--data.path={options.data}")
            num_compared += 1
            difference = compare(options.before, name, words, pathlib.Path(folder))
            print(f"{name}: {difference or 'equal'}", flush=True)
            if difference:
                failed.append(name)
            elif options.write:
                checked = dataclasses.replace(result, checked=code_digest(name))
                path = published.folder() / f"{name}.json"
                published.write_result(checked, path)
    if not num_compared:
        raise SystemExit("nothing to compare: no result was measured by that code")
    if failed:
        raise SystemExit(f"other numbers: {', '.join(failed)}")


if __name__ == "__main__":
    main()
