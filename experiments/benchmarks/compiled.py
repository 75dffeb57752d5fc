"""Presets compiled for absent accelerators, or run on one, and the plan of pods.

Command::

    # at least a minute of one core per row; stored rows are not compiled again
    python experiments/benchmarks/compiled.py compile DIR
    # the same rows, compiled for an accelerator of this machine and run
    python experiments/benchmarks/compiled.py compile DIR --targets here
    # write the stored rows into the tables of experiments/results/compiled.json, and
    # those of this machine into experiments/results/measured.json
    python experiments/benchmarks/compiled.py publish DIR

A row is a preset, a target and some stages of the preset. Rows are compiled one after
another, each in its own process. The numbers go to ``DIR/PRESET--TARGET--PART.json``,
the output to ``.txt``. A row that fails or takes longer than ``--timeout`` leaves a
file ``.failed`` with the reason; remove it to try again. ``--rows`` selects rows.
``--effort=-1`` (JAX's option, 0 by default) compiles faster, but to programs with some
percent more memory and traffic; their rows say that they used it. Times are the
roofline's bound, and that bound at 30% of the peak; only rows of ``here`` are measured.
"""

import argparse
import dataclasses
import datetime
import json
import math
import os
import pathlib
import platform
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from decimal import Decimal
from importlib import metadata

from unlearn_jax.pipeline import pages, pods, published
from unlearn_jax.pipeline.pods import PresetNumbers
from unlearn_jax.pipeline.published import Cell, Result, ResultTable, Value
from unlearn_jax.targets import HERE

COUNTS = (8, 64, 256, 1024)
TARGETS = ("tpu-v5e:2x2", "tpu-v5e:4x4", "tpu-v4:2x2x1", "h100", "tpu-v6e:2x2")
PARTS = (
    ("references_resnet18", "training", "."),
    ("amun_tables_cifar10", "training", "^tenth: references"),
    ("class_tables", "training", "^cifar10_resnet18: (originals|retrained)"),
    ("resnet50_imagenet", "training", "^originals"),
    ("class_tables_tiny_imagenet", "training", "^resnet18: (originals|retrained)"),
    ("architectures_cifar10", "training", "^(vgg19_tenth|densenet_tenth): references"),
    ("smooth_amun_cifar10", "training", "^(free|held): references"),
    ("amun_tables_cifar10", "amun", "^tenth: (attack|unlearn-amun$|audit)"),
    ("class_tables", "trw", "^cifar10_resnet18: (unlearn-trw$|audit)"),
    ("resnet50_imagenet", "amun", "^(attack|unlearn-amun$)"),
    (
        "ensembles_cifar10",
        "training",
        r"^(surrogates|(attack-)?(orig|clip|clip\+lotos))-\d+$",
    ),
    ("ensembles_cifar10", "baselines", "trs|adversarial"),
)
"""Preset, name of a part, and its stages; of a study, those of one variant."""
OPTIONS = {
    "vmap": "--mapper=vmap",
    "canonical": "--model.conv=canonical",
}
"""Options of rows for comparison: another mapper or form of convolution."""
COMPARED_PRESET = "references_resnet18"
COMPARED = ("h100", "tpu-v5e:2x2", HERE)
"""Targets of the rows for comparison."""
PLANNED = ("h100", "h100:8", "tpu-v5e:2x2", "tpu-v5e:4x8", "tpu-v4:2x2x1")
"""Targets that pods are planned for."""
REQUIRED = ("h100", "tpu-v5e:2x2", "tpu-v5e:4x4", "tpu-v4:2x2x1")
"""Targets on which every preset should have a row."""
MISSING = "Not compiled yet"
"""Start of the sentence about presets without a row."""
KINDS = (
    "convolutions grouped",
    "operations counted at least",
    "loops of unknown length",
    "branches",
    "all-gathers",
    "of traffic is copies",
)
"""Warnings that differ by a number from program to program."""
HOSTS = {
    "resnet50_imagenet": {
        "h100": ("h100:8",),
        "tpu-v5e:4x4": ("tpu-v5e:4x8", "--replicas.across_hosts=True"),
    }
}
"""Targets, with options, that replace others for presets of many devices."""


def number(value: float, digits: int = 2) -> Value:
    """Return a number rounded to some significant digits."""
    if value == 0 or not math.isfinite(value):
        return Value(mean=Decimal(0))
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return Value(mean=Decimal(f"{value:.{places}f}"))


def compile_rows(
    folder: pathlib.Path,
    timeout: float,
    effort: float,
    chosen_rows: str,
    targets: Sequence[str],
) -> None:
    """Compile the missing rows of some targets, one process at a time."""
    variables = {**os.environ, "JAX_EXEC_TIME_OPTIMIZATION_EFFORT": str(effort)}
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for target in targets:
        for preset, part, only in PARTS:
            chosen, *options = HOSTS.get(preset, {}).get(target, (target,))
            rows.append((f"{preset}--{chosen}--{part}", ["--only", only, *options]))
    for target in targets:
        if target in COMPARED:
            for name, option in OPTIONS.items():
                row = f"{COMPARED_PRESET}--{target}--with-{name}"
                rows.append((row, [option]))
    for name, options in rows:
        done = folder / f"{name}.json"
        failed = folder / f"{name}.failed"
        is_done = done.exists() or failed.exists()
        if is_done or not re.search(chosen_rows, name):
            continue
        # a killed process leaves its lock
        lock = pathlib.Path(tempfile.gettempdir()) / "libtpu_lockfile"
        lock.unlink(missing_ok=True)
        unfinished = folder / f"{name}.part"
        preset, target, _ = name.split("--")
        command = [sys.executable, "-m", "unlearn_jax", "compile", preset]
        command += ["--target", target, "--json", str(unfinished), *options]
        print(name, flush=True)
        why = "does not compile"
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with open(folder / f"{name}.txt", "w") as output:
            try:
                subprocess.run(
                    command,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=timeout,
                    check=False,
                    env=variables,
                )
            except subprocess.TimeoutExpired:
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                spent = after.ru_utime - before.ru_utime
                why = f"not compiled in {timeout:,.0f} s, {spent:,.0f} of a core"
                print(f"  {why}", flush=True)
        if unfinished.exists():
            unfinished.rename(done)
        else:
            failed.write_text(why)


def read_numbers(folder: pathlib.Path) -> dict[tuple[str, str], PresetNumbers]:
    """Return the stored numbers by preset and target, with parts combined."""
    presets: dict[tuple[str, str], PresetNumbers] = {}
    for file in sorted(folder.glob("*--*--*.json")):
        preset, target, part = file.stem.split("--")
        if part.startswith("with"):
            # with another option, for comparison
            target = f"{target} {part.removeprefix('with-')}"
        numbers = PresetNumbers.from_json(json.loads(file.read_text()))
        if (preset, target) in presets:
            others = presets[preset, target]
            groups = [others.largest_group, numbers.largest_group]
            groups = [group for group in groups if group is not None]
            numbers = dataclasses.replace(
                others,
                programs=others.programs + numbers.programs,
                effort=min(others.effort, numbers.effort),
                largest_group=min(groups, default=None),
            )
        presets[preset, target] = numbers
    return presets


def summary(numbers: PresetNumbers, name: str, target: str) -> tuple[Cell, ...]:
    """Return a preset's row on a target."""
    programs = numbers.programs
    sound = [program for program in programs if program.compiles]
    most: tuple[Cell, ...] = ("-",) * 4
    if sound:
        main = max(sound, key=lambda program: program.bound_device_hours)
        most = (
            f"{main.stage}: {main.program}",
            number(100 * main.bound_mfu),
            main.bound_by,
            f"{main.grouped} of {main.convolutions}",
        )
    flops = sum(program.flops * program.calls * program.devices for program in sound)
    warnings: dict[str, int] = {}
    for program in sound:
        for text in program.warnings:
            kind = next((kind for kind in KINDS if kind in text), text)
            warnings[kind] = warnings.get(kind, 0) + 1
    notes = [f"{text} ({count})" for text, count in warnings.items()]
    if numbers.effort < 0:
        notes.append("the compiler's least effort")
    for program in programs:
        if not program.compiles:
            notes.append(f"{program.stage}: {program.why_not[:80]}")
    fits = "yes"
    if any(program.fits is False for program in programs):
        largest = numbers.largest_group
        fits = f"groups of {largest}" if largest else "no"
    elif any(program.fits is None for program in programs):
        fits = "-"
    memory = max(program.memory_bytes or 0.0 for program in programs)
    return (
        name,
        target,
        f"{numbers.devices_per_host} x {numbers.device}, {numbers.hosts}",
        f"{len(sound)} of {len(programs)}",
        fits,
        number(memory / 2**30),
        f"{flops:.1e}",
        number(sum(program.bound_device_hours for program in sound)),
        *most,
        "; ".join(notes) or "none",
    )


def plan_row(numbers: PresetNumbers, devices: int) -> tuple[Cell, ...]:
    """Return the plan on a number of devices."""
    plan = pods.plan_pod(numbers, devices)
    texts = []
    for cell in pods.cells(plan)[1:]:
        texts.append(number(cell) if isinstance(cell, float) else cell)
    kind = numbers.target.partition(":")[0]
    return (f"{numbers.preset}, {kind}", Value(mean=Decimal(devices)), *texts)


def read_failures(folder: pathlib.Path) -> list[tuple[str, str, str]]:
    """Return preset, target and reason of the rows that failed."""
    failures = []
    for file in sorted(folder.glob("*--*--*.failed")):
        preset, target, part = file.stem.split("--")
        failures.append((preset, target, f"{part}: {file.read_text()}"))
    return failures


def publish_compiled(
    presets: Mapping[tuple[str, str], PresetNumbers],
    failures: Sequence[tuple[str, str, str]],
) -> None:
    """Write rows of absent accelerators into the published tables.

    Published rows of other presets and targets stay.
    """
    path = published.folder() / "compiled.json"
    result = published.read_result(path)
    table, plans = result.tables
    rows = []
    planned = []
    for (preset, target), numbers in presets.items():
        rows.append(summary(numbers, preset, target))
        is_sound = all(program.compiles for program in numbers.programs)
        if target in PLANNED and is_sound:
            planned += [plan_row(numbers, devices) for devices in COUNTS]
    empty = ("-",) * (len(table.columns) - 3)
    for preset, target, reason in failures:
        rows.append((preset, target, *empty, reason))
    table = dataclasses.replace(table, rows=merge(table.rows, rows, 2))
    plans = dataclasses.replace(plans, rows=merge(plans.rows, planned, 1))
    reading = [text for text in result.reading if not text.startswith(MISSING)]
    reading += missing(table)
    result = dataclasses.replace(result, tables=(table, plans), reading=tuple(reading))
    published.write_result(result, path)
    for one in (table, plans):
        print(f"{pages.markdown_table(one)}\n")


def publish_measured(
    presets: Mapping[tuple[str, str], PresetNumbers],
    failures: Sequence[tuple[str, str, str]],
) -> None:
    """Write the measured rows of this machine's devices as a result of their own."""
    rows: list[tuple[Cell, ...]] = []
    for (preset, target), numbers in presets.items():
        mapper = target.removeprefix(HERE).strip() or "of the preset"
        for program in numbers.programs:
            name = f"{preset}, {program.stage}: {program.program}"
            if program.seconds is None or program.measured_device_hours is None:
                reason = program.why_not[:80] or "not run: it does not fit"
                rows.append((name, mapper, *[None] * 7, reason))
                continue
            rows.append(
                (
                    name,
                    mapper,
                    number((program.memory_bytes or 0.0) / 2**30),
                    Value(mean=Decimal(program.calls)),
                    number(program.seconds, 3),
                    number(program.bound_seconds, 3),
                    None if program.mfu is None else number(100 * program.mfu),
                    number(100 * program.bound_mfu),
                    number(program.measured_device_hours),
                    "; ".join(program.warnings) or "none",
                )
            )
    for preset, _, reason in failures:
        rows.append((preset, "-", *[None] * 7, reason))
    one = next(iter(presets.values()))
    table = ResultTable(
        columns=(
            "program",
            "mapper",
            "memory, GiB",
            "calls",
            "time of a call",
            "its bound",
            "MFU",
            "MFU, bound",
            "device hours",
            "warnings",
        ),
        units=("", "", "", "", "s", "s", "%", "%", "", ""),
        rows=tuple(rows),
        caption="Per device and call, on random weights and images.",
    )
    script = "python experiments/benchmarks/compiled.py"
    result = Result(
        name="measured",
        group="Speed and survival",
        title=f"Programs of the accelerator presets, run on {one.device}.",
        claim="How far the programs are from the roofline's bound.",
        command=f"{script} compile DIR --targets here && {script} publish DIR",
        date=f"{datetime.date.today():%Y-%m-%d}",
        device=f"{one.devices_per_host} x {one.device}",
        versions={
            "unlearn_jax": metadata.version("unlearn-jax"),
            "Python": platform.python_version(),
            "JAX": one.jax,
        },
        tables=(table,),
    )
    published.write_result(result, published.folder() / "measured.json")
    print(pages.markdown_table(table))


def merge(
    before: Sequence[tuple[Cell, ...]], rows: Sequence[tuple[Cell, ...]], num_keys: int
) -> tuple[tuple[Cell, ...], ...]:
    """Return new rows and the published rows with other keys, in order.

    Args:
      before: published rows.
      rows: new rows, which replace published rows with the same key.
      num_keys: number of leading cells that make a key.
    """
    replaced = {row[:num_keys] for row in rows}
    others = [row for row in before if row[:num_keys] not in replaced]
    return tuple(sorted([*others, *rows], key=lambda row: row[:num_keys]))


def missing(table: ResultTable) -> list[str]:
    """Return a sentence about presets without a row on some of the targets."""
    compiled = {row[:2] for row in table.rows}
    texts = []
    for target in REQUIRED:
        presets = []
        for preset in sorted({part[0] for part in PARTS}):
            chosen = HOSTS.get(preset, {}).get(target, (target,))[0]
            if (preset, chosen) not in compiled:
                presets.append(f"`{preset}`")
        if presets:
            texts.append(f"for {target} {', '.join(presets)}")
    return [f"{MISSING}: {'; '.join(texts)}."] if texts else []


def main() -> None:
    """Compile rows, or publish them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("compile", "publish"))
    parser.add_argument("folder", type=pathlib.Path, help="folder of the rows")
    parser.add_argument(
        "--timeout",
        type=float,
        default=3600.0,
        help="longest time of a row, in seconds",
    )
    parser.add_argument(
        "--effort",
        type=float,
        default=0.0,
        help="effort of the compiler, from -1 to 1; JAX before 0.12 only",
    )
    parser.add_argument(
        "--rows", default="", help="regular expression of names of rows"
    )
    parser.add_argument(
        "--targets", nargs="+", default=TARGETS, help="targets, or here"
    )
    options = parser.parse_args()
    if options.command == "compile":
        compile_rows(
            options.folder,
            options.timeout,
            options.effort,
            options.rows,
            options.targets,
        )
        return
    elsewhere = {}
    measured = {}
    for key, numbers in read_numbers(options.folder).items():
        (measured if numbers.target == HERE else elsewhere)[key] = numbers
    failures = read_failures(options.folder)
    failed_here = [row for row in failures if row[1] == HERE]
    failed_elsewhere = [row for row in failures if row[1] != HERE]
    if elsewhere or failed_elsewhere:
        publish_compiled(elsewhere, failed_elsewhere)
    if measured:
        publish_measured(measured, failed_here)
    elif failed_here:
        reasons = "; ".join(f"{preset}: {reason}" for preset, _, reason in failed_here)
        sys.exit(f"no program ran here, nothing to write: {reasons}")


if __name__ == "__main__":
    main()
