"""Presets compiled for accelerators that are not there, and the plan of pods.

Command::

    # once for every preset and target; minutes each
    unlearn-jax compile PRESET --target TARGET --json DIR/PRESET-TARGET.json
    # the tables of experiments/results/compiled.json
    python experiments/benchmarks/compiled.py DIR

Files whose names begin with ``before-`` are compiled with other options, for
comparison. The plan divides what the presets train over 8 to 1,024 chips as the
pipeline does: group ``g`` falls to host ``g mod N``, its models to the host's chips.
Times are the roofline's bound, and that bound at 30% of the peak; nothing is measured.
"""

import argparse
import dataclasses
import json
import math
import pathlib
from decimal import Decimal
from typing import Any

from unlearn_jax.pipeline import publish
from unlearn_jax.pipeline.publish import Cell, ResultTable, Value
from unlearn_jax.targets import CHIPS

UTILIZATION = 0.3
COUNTS = (8, 64, 256, 1024)
CHIPS_PER_HOST = {"cuda": 8, "tpu": 4}


def number(value: float, digits: int = 2) -> Value:
    """Return a number with some significant digits."""
    if value == 0 or not math.isfinite(value):
        return Value(mean=Decimal(0))
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return Value(mean=Decimal(f"{value:.{places}f}"))


def is_training(row: dict[str, Any]) -> bool:
    """Return whether a program trains references, originals or retrained models."""
    return row["program"] == "train_models"


def summary(found: dict[str, Any], name: str) -> tuple[Cell, ...]:
    """Return a preset's row on a target."""
    programs = found["programs"]
    sound = [row for row in programs if row["compiles"]]
    training = max(filter(is_training, sound), key=lambda row: row["calls"])
    flops = sum(row["flops"] * row["calls"] * row["devices"] for row in sound)
    warnings: dict[str, int] = {}
    for row in sound:
        for text in row["warnings"]:
            kind = "grouped convolutions" if "grouped" in text else text
            warnings[kind] = warnings.get(kind, 0) + 1
    notes = [f"{text} ({count})" for text, count in warnings.items()]
    notes += [
        f"{row['stage']}: {row['why_not'][:80]}"
        for row in programs
        if not row["compiles"]
    ]
    kept = [text for text in notes if "counted" not in text]
    return (
        name,
        f"{found['devices_per_host']} x {found['device']}",
        f"{len(sound)} of {len(programs)}",
        "yes" if all(row["fits"] for row in programs) else "no",
        number(training["memory_bytes"] / 2**30),
        f"{flops:.1e}",
        number(found["bound_device_hours"]),
        number(100 * training["bound_mfu"]),
        training["bound_by"],
        f"{training['grouped']} of {training['convolutions']}",
        "; ".join(kept) or "none",
    )


def plan(found: dict[str, Any], chips: int) -> tuple[Cell, ...]:
    """Return who trains what on a number of chips, and how long at least."""
    chip = CHIPS[found["device"]]
    per_host = CHIPS_PER_HOST[chip.platform]
    hosts = max(1, chips // per_host)
    trainings = [row for row in found["programs"] if is_training(row)]
    row = max(trainings, key=lambda one: one["calls"])
    num_groups = row["pieces"]
    models = num_groups * found["group"]
    # the largest group that leaves no host idle
    group = max(1, min(found["group"], models // hosts))
    groups = math.ceil(models / group)
    busy = min(hosts, groups) * min(per_host, group)
    turns = math.ceil(groups / hosts) * math.ceil(group / min(per_host, group))
    share = math.ceil(found["group"] / row["devices"])
    one_model = row["bound_seconds"] * row["calls"] / num_groups / share / 3600
    state = row["state_bytes"] / found["group"]
    limit = "the slowest host: groups are not stolen"
    if busy < chips:
        split = per_host // min(per_host, group)
        limit = f"fewer models than chips: replicas.split={split}"
    if groups < hosts:
        limit += f", and {hosts - groups} hosts have none"
    return (
        f"{found['preset']}, {found['target'].partition(':')[0]}",
        Value(mean=Decimal(chips)),
        f"{models} models: groups of {group} on {min(hosts, groups)} of {hosts} hosts",
        number(100 * busy / chips),
        number(turns * one_model),
        number(turns * one_model * row["bound_mfu"] / UTILIZATION),
        number(state * group / 2**30),
        limit,
    )


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("folder", type=pathlib.Path, help="files of unlearn-jax compile")


def main() -> None:
    """Write the published tables."""
    options = parser.parse_args()
    files = sorted(options.folder.glob("*.json"))
    before = [file for file in files if file.name.startswith("before-")]
    reports = {file.stem: json.loads(file.read_text()) for file in files}
    columns = (
        "preset and target",
        "per host",
        "programs that compile",
        "all fit",
        "training memory, GiB",
        "FLOPs of all",
        "device hours, bound",
        "training MFU, bound",
        "limited by",
        "grouped convolutions",
        "warnings (programs)",
    )
    units = ("", "", "", "", "", "", "", "%", "", "", "")
    table = ResultTable(
        title="Compiled, not run",
        columns=columns,
        units=units,
        rows=tuple(
            summary(found, name.removeprefix("before-"))
            for name, found in reports.items()
            if found["programs"]
        ),
        caption="Rows that end in -vmap have the default mapper of before.",
    )
    plans = ResultTable(
        title="The plan of pods",
        columns=(
            "preset and chip",
            "chips",
            "who trains what",
            "chips busy",
            "hours, bound",
            f"hours at {UTILIZATION:.0%} of the peak",
            "checkpoint of a group, GiB",
            "what breaks first",
        ),
        units=("", "", "", "%", "", "", "", ""),
        rows=tuple(
            plan(found, chips)
            for name, found in reports.items()
            if options.folder / f"{name}.json" not in before and found["programs"]
            for chips in COUNTS
        ),
    )
    path = publish.folder() / "compiled.json"
    result = publish.read_result(path)
    publish.write_result(dataclasses.replace(result, tables=(table, plans)), path)
    print(publish.markdown_table(table))
    print()
    print(publish.markdown_table(plans))


if __name__ == "__main__":
    main()
