"""Contests: several systems do the same work in turns, each in its own process.

A script of this folder names its contestants and hands over; see ``race_training.py``::

    # functions without arguments, one per row
    CONTESTANTS = {"ours": ours, "PyTorch": theirs}

    if __name__ == "__main__":
        contest(CONTESTANTS, unit="images/s", first="ours")

A contestant imports what it needs, prepares the work, and returns a ``Work``. One call
warms it up (compilation and first run, shown separately), then some calls are timed.
All contestants take turns for several rounds, so that a machine that slows down slows
all of them. Ratios are taken within a round, and the table shows their spread over the
rounds, together with the processor seconds of a call over all threads. A contestant
whose system is not installed is skipped by name, never silently.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Work(NamedTuple):
    """Work of a contestant."""

    call: Callable[[], Any]
    """Function that does the work once and waits for its end."""
    amount: float
    """Amount of work in a call: images, gradients or scores; ignored for seconds."""
    packages: tuple[str, ...] = ("jax",)
    """Packages whose versions are shown."""
    result: Callable[[Any], float] | None = None
    """Function from a call's result to a number that shows that the work is the same.
    """


def contest(
    contestants: Mapping[str, Callable[[], Work]], *, unit: str, first: str
) -> None:
    """Run all rows and print the table in Markdown.

    Args:
      contestants: contestants by name of their row.
      unit: "seconds" (less is better) or a rate such as "images/s" (more is better).
      first: name of the reference row; ratios are its speed over that of each row.
    """
    contests({"": contestants}, unit=unit, first=first)


def contests(
    tables: Mapping[str, Mapping[str, Callable[[], Work]]], *, unit: str, first: str
) -> None:
    """Run several contests, each a table with a name and a row ``first``.

    Args:
      tables: contestants by name of the table, then by name of their row.
      unit: "seconds" (less is better) or a rate such as "images/s" (more is better).
      first: name of the reference row; ratios are its speed over that of each row.
    """
    parser = argparse.ArgumentParser(
        description=(sys.modules["__main__"].__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="turns of all contestants"
    )
    parser.add_argument(
        "--calls", type=int, default=3, help="timed calls of a contestant in one round"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="ROW",
        help="beginnings of the names of the rows to run; all by default",
    )
    if len(tables) > 1:
        parser.add_argument(
            "--tables",
            nargs="+",
            metavar="TABLE",
            help="beginnings of the names of the tables to run; all by default",
        )
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        name, row = options.row
        print(json.dumps(measure(tables[name][row], options.calls)))
        return
    wanted = getattr(options, "tables", None)
    for name, rows in tables.items():
        if not wanted or name.startswith(tuple(wanted)):
            chosen = [
                row
                for row in rows
                if not options.only
                or row.startswith(tuple(options.only))
                or row == first
            ]
            _one_table(name, chosen, options, unit, first)


def _one_table(
    name: str, chosen: list[str], options: argparse.Namespace, unit: str, first: str
) -> None:
    """Run the rows of a table in turns and print the table."""
    rounds = []
    versions = {f"Python {platform.python_version()}"}
    missing: dict[str, str] = {}
    for number in range(options.rounds):
        print(
            f"{name or 'contest'}: round {number + 1} of {options.rounds}",
            file=sys.stderr,
            flush=True,
        )
        timings = {
            row: in_a_process(name, row, options.calls)
            for row in chosen
            if row not in missing
        }
        missing |= {
            row: values["missing"]
            for row, values in timings.items()
            if "missing" in values
        }
        rounds.append(
            {row: values for row, values in timings.items() if "missing" not in values}
        )
        versions |= {
            version for values in rounds[-1].values() for version in values["versions"]
        }
    title = f"{name}; " if name else ""
    print(
        f"{title}{os.cpu_count()} cores, {platform.machine()},"
        f" {', '.join(sorted(versions))}; {options.rounds} rounds"
    )
    print(table(rounds, unit, first), flush=True)
    for row, module in missing.items():
        print(f"not run: {row} ({module} is not installed)")


def measure(contestant: Callable[[], Work], calls: int) -> dict[str, Any]:
    """Return a contestant's seconds of first and later calls, peak memory, versions."""
    try:
        work = contestant()
    except ModuleNotFoundError as error:
        return {"missing": error.name}
    seconds = []
    cpu = []
    given = None
    for _ in range(1 + calls):
        began = (time.perf_counter(), time.process_time())
        given = work.call()
        seconds.append(time.perf_counter() - began[0])
        cpu.append(time.process_time() - began[1])
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return {
        "first": seconds[0],
        "seconds": statistics.median(seconds[1:]),
        "cpu": statistics.median(cpu[1:]),
        "amount": work.amount,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale,
        "result": None if work.result is None else work.result(given),
        "versions": [
            f"{name} {importlib.metadata.version(name)}" for name in work.packages
        ],
    }


def in_a_process(name: str, row: str, calls: int) -> dict[str, Any]:
    """Return the measurement of a row, made by a process of its own."""
    command = [sys.executable, sys.argv[0], "--row", name, row, "--calls", str(calls)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{row} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def table(rounds: list[dict[str, dict[str, Any]]], unit: str, first: str) -> str:
    """Return a table of one row per contestant, "min / median / max" over rounds."""
    per_call = unit == "seconds"
    lines = [
        f"| | {unit} | {first} is faster by | CPU s | first call s | peak MB |"
        " result |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in rounds[0]:
        timings = [one[name] for one in rounds]
        speed = [
            row["seconds"] if per_call else row["amount"] / row["seconds"]
            for row in timings
        ]
        unit_time = [row["seconds"] / row["amount"] for row in timings]
        ratio = [
            seconds_each / (one[first]["seconds"] / one[first]["amount"])
            for seconds_each, one in zip(unit_time, rounds, strict=True)
        ]
        memory = max(row["memory"] for row in timings)
        starts = statistics.median(row["first"] for row in timings)
        cpu = statistics.median(row["cpu"] for row in timings)
        result = timings[0]["result"]
        lines.append(
            f"| {name} | {spread(speed)} | {spread(ratio)} | {cpu:.3g} | {starts:.2f} |"
            f" {memory:,.0f} | {'' if result is None else format(result, '.4g')} |"
        )
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Return the smallest, the median and the largest value as text."""
    shown = (min(values), statistics.median(values), max(values))
    return " / ".join(
        f"{value:,.0f}" if abs(shown[1]) >= 100 else f"{value:.3g}" for value in shown
    )
