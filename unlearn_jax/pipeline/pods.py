"""The plan of a pod: who computes what on many devices, from compiled programs.

A plan reads the plain values of :meth:`CompileReport.to_json`, so that programs are
compiled once for all numbers of devices. Work is divided as a run divides it: pieces of
``replicas.group`` models fall to hosts, the models of a piece to the devices of one.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from unlearn_jax.targets import CHIPS, Chip
from unlearn_jax.types import InputError

UTILIZATION = 0.3
"""Fraction of the peak that times beyond the bound are given for: an assumption."""
DEVICES_PER_HOST = {"cpu": 1, "cuda": 8, "tpu": 4}
"""Of common machines, by platform."""
TRAINING = "train_models"


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """A program of a preset on a number of devices.

    Attributes:
      stage: artifact that calls it.
      program: its name.
      items: models, or sets and runs of a method.
      group: of them that a host computes at a time.
      hosts: that have one.
      busy: devices that compute at a time.
      hours: of the slowest host at the roofline's bound.
      assumed_hours: the same at :data:`UTILIZATION` of the peak, where that is slower.
      device_hours: of all devices, at the bound.
      assumed_device_hours: the same at :data:`UTILIZATION`.
      exchanged: bytes of collectives of a device, in all calls.
      input_rate: bytes per second of images that a device reads at the bound.
      checkpoint: bytes of the state of a group.
    """

    stage: str
    program: str
    items: int
    group: int
    hosts: int
    busy: int
    hours: float
    assumed_hours: float
    device_hours: float
    assumed_device_hours: float
    exchanged: float
    input_rate: float
    checkpoint: float


@dataclasses.dataclass(frozen=True)
class PodPlan:
    """A preset on a number of devices.

    Attributes:
      preset: name.
      device: kind of the devices.
      devices: their number.
      hosts: machines that they are in.
      memory: bytes that the largest program needs of a device.
      data: bytes of images on every device, of the program that has most.
      stages: programs that compile.
      missing: stages and programs that do not compile.
      breaks: what limits it first, in words.
    """

    preset: str
    device: str
    devices: int
    hosts: int
    memory: float
    data: float
    stages: tuple[StagePlan, ...]
    missing: tuple[str, ...]
    breaks: str

    @property
    def hours(self) -> float:
        """Hours of all stages, one after the other, at the bound."""
        return sum(stage.hours for stage in self.stages)

    @property
    def assumed_hours(self) -> float:
        """Hours at :data:`UTILIZATION` of the peak."""
        return sum(stage.assumed_hours for stage in self.stages)

    @property
    def device_hours(self) -> float:
        """Device hours of the work itself at the bound, idle ones not counted."""
        return sum(stage.device_hours for stage in self.stages)

    @property
    def assumed_device_hours(self) -> float:
        """Device hours at :data:`UTILIZATION`, idle ones not counted."""
        return sum(stage.assumed_device_hours for stage in self.stages)

    @property
    def main(self) -> StagePlan:
        """Stage that takes the longest."""
        return max(self.stages, key=lambda stage: stage.hours)

    @property
    def busy(self) -> float:
        """Fraction of the devices' time that is work."""
        return self.device_hours / (self.devices * self.hours) if self.hours else 0.0


def plan_pod(
    report: Mapping[str, Any], devices: int, *, per_host: int | None = None
) -> PodPlan:
    """Return who computes what on a number of devices, and what limits it first.

    Args:
      report: a :class:`~unlearn_jax.pipeline.compiling.CompileReport` in plain values;
        programs that divide batches over a host's devices are taken as compiled, for a
        host of that size. Those of ``replicas.across_hosts`` are for one mesh of all
        devices: their time falls with their number where all share a model, and so do
        the images of a device where these are divided.
      devices: of all hosts.
      per_host: devices of a host; of common machines if None.

    Raises:
      InputError: no program that compiles, or no device.
    """
    chip = CHIPS[report["device"]]
    per_host = per_host or DEVICES_PER_HOST[chip.platform]
    programs = report["programs"]
    sound = [row for row in programs if row["compiles"]]
    if devices < 1 or not sound:
        needed = max((_needed(row, chip, per_host) for row in programs), default=0)
        raise InputError(
            f"{report['preset']} has no plan for {devices} devices: compile a program"
            " and give at least one device"
            + (f"; its images fit {_ACROSS.format(needed)}" if needed else "")
        )
    per_host = min(devices, per_host)
    hosts = math.ceil(devices / per_host)
    if report.get("across_hosts"):
        programs = [_on_all(row, devices) for row in programs]
        sound = [row for row in programs if row["compiles"]]
        stages = tuple(
            dataclasses.replace(_stage(row, report["group"], 1, devices), hosts=hosts)
            for row in sound
        )
    else:
        stages = tuple(_stage(row, report["group"], hosts, per_host) for row in sound)
    memory = max(_needed_memory(row) for row in programs)
    missing = tuple(
        f"{row['stage']}: {row['program']}"
        for row in report["programs"]
        if not row["compiles"]
    )
    plan = PodPlan(
        preset=report["preset"],
        device=report["device"],
        devices=devices,
        hosts=hosts,
        memory=memory,
        data=max(row.get("data_bytes", 0.0) for row in sound),
        stages=stages,
        missing=missing,
        breaks="",
    )
    return dataclasses.replace(plan, breaks=_breaks(plan, report, programs))


_ACROSS = (
    "with replicas.across_hosts=True and replicas.shard_data=True on {} devices or more"
)


def _on_all(row: Mapping[str, Any], devices: int) -> Mapping[str, Any]:
    """Return a program of a mesh over hosts as it is on a number of devices."""
    ratio = row["devices"] / devices
    whole = {**row, "devices": devices}
    if row["data_parts"] > 1:
        data = row["data_bytes"] * ratio
        whole |= {"data_bytes": data, "data_parts": row["data_parts"] / ratio}
        if row["memory_bytes"] is not None:
            whole["memory_bytes"] = row["memory_bytes"] - row["data_bytes"] + data
    if row["split"] == row["devices"]:
        # all of them share a model
        whole["split"] = devices
        if row["compiles"]:
            whole["bound_seconds"] = row["bound_seconds"] * ratio
    return whole


def _needed_memory(row: Mapping[str, Any]) -> float:
    """Return the bytes that a program takes; those of its images if not known."""
    return row["memory_bytes"] or row.get("data_bytes", 0.0)


def _needed(row: Mapping[str, Any], chip: Chip, per_host: int) -> int:
    """Return the least devices that a program's images fit on, divided over all.

    Of whole hosts; 0 if it fits as it is, or would not then.
    """
    data = row.get("data_bytes", 0.0)
    memory = _needed_memory(row)
    room = chip.memory - (memory - data)
    if memory <= chip.memory or room <= 0:
        return 0
    return per_host * math.ceil(data * row.get("data_parts", 1) / room / per_host)


def _stage(row: Mapping[str, Any], most: int, hosts: int, per_host: int) -> StagePlan:
    """Return the plan of a program's calls."""
    pieces = row["pieces"]
    size = row.get("size", most)
    items = row.get("items", pieces * size)
    split = row.get("split", 1)
    # models that the compiled program computes at a time, and that a host would
    compiled_slots = max(1, row["devices"] // split)
    slots = max(1, per_host // split)
    piece_seconds = row["calls"] / pieces * row["bound_seconds"]
    seconds = piece_seconds / math.ceil(size / compiled_slots)
    # the bound's time of products alone is a fraction of it
    slower = max(1.0, row["bound_mfu"] / UTILIZATION)
    # the largest group that leaves no host without one
    group = max(1, min(size, items // hosts))
    groups = math.ceil(items / group)
    turns = math.ceil(groups / hosts) * math.ceil(group / slots)
    busy_hosts = min(hosts, groups)
    exchanged = sum(amount for _, amount in row["collectives"].values())
    hours = turns * seconds / 3600
    work = items * seconds * split / 3600
    return StagePlan(
        stage=row["stage"],
        program=row["program"],
        items=items,
        group=group,
        hosts=busy_hosts,
        busy=min(busy_hosts * min(slots, group), items) * split,
        hours=hours,
        assumed_hours=hours * slower,
        device_hours=work,
        assumed_device_hours=work * slower,
        exchanged=exchanged * row["calls"] / pieces * math.ceil(groups / hosts),
        input_rate=row.get("input_bytes", 0.0) / row["bound_seconds"],
        checkpoint=row["state_bytes"] / size * group,
    )


def _breaks(
    plan: PodPlan, report: Mapping[str, Any], programs: Sequence[Mapping[str, Any]]
) -> str:
    """Return what limits a plan first."""
    chip = CHIPS[plan.device]
    if plan.memory > chip.memory:
        largest = report["largest_group"]
        per_host = math.ceil(plan.devices / plan.hosts)
        needed = max(_needed(row, chip, per_host) for row in programs)
        remedy = ""
        if largest:
            remedy = f"; groups of {largest} fit"
        elif needed:
            remedy = f"; the images fit {_ACROSS.format(needed)}"
        return (
            f"memory: {plan.memory / 2**30:.1f} of {chip.memory / 2**30:.1f}"
            f" GiB{remedy}"
        )
    main = plan.main
    if main.hosts < plan.hosts:
        return (
            f"{main.items} models of {main.stage} for {plan.hosts} hosts:"
            f" {plan.hosts - main.hosts} have none"
        )
    if main.busy < plan.devices:
        parts = max(1, plan.devices // main.busy)
        return (
            f"{main.items} models of {main.stage} for {plan.devices} devices:"
            f" replicas.split={parts} would use all"
        )
    if plan.memory > 0.9 * chip.memory:
        return f"memory: {plan.memory / chip.memory:.0%} of it is taken"
    if plan.busy < 0.9:
        return f"the last turn: {1 - plan.busy:.0%} of the devices' time is idle"
    return "nothing before the slowest host: pieces are not stolen"


HEADERS = (
    "devices",
    "stage that takes longest",
    "who computes what",
    "busy, %",
    "GiB of a device",
    "of it images",
    "collectives, GiB",
    "images read, GB/s",
    "checkpoint, GiB",
    "device hours, bound",
    f"at {UTILIZATION:.0%}",
    "hours, bound",
    f"at {UTILIZATION:.0%}",
    "what breaks first",
)
"""Columns of :func:`cells`."""


def cells(plan: PodPlan) -> list[str | float]:
    """Return a plan as a row under :data:`HEADERS`.

    Args:
      plan: of :func:`plan_pod`.
    """
    main = plan.main
    return [
        plan.devices,
        main.stage,
        f"{main.items} in groups of {main.group} on {main.hosts} of {plan.hosts} hosts",
        100 * plan.busy,
        plan.memory / 2**30,
        plan.data / 2**30,
        main.exchanged / 2**30,
        main.input_rate / 1e9,
        main.checkpoint / 2**30,
        plan.device_hours,
        plan.assumed_device_hours,
        plan.hours,
        plan.assumed_hours,
        plan.breaks,
    ]


def plan_text(plans: list[PodPlan]) -> str:
    """Return a table of plans, of one preset and kind of device.

    Args:
      plans: by numbers of devices.
    """
    rows = []
    for plan in plans:
        row = [
            f"{cell:.3g}" if isinstance(cell, float) else cell for cell in cells(plan)
        ]
        rows.append(row)
    table = tabulate(rows, headers=HEADERS, tablefmt="simple", disable_numparse=True)
    first = plans[0]
    lines = [
        f"{first.preset} on {first.device}, {first.devices // first.hosts} to a host"
        " or more: planned from compiled programs, not measured",
        "",
        table,
        "",
        f"Hours are the roofline's bound, and {UTILIZATION:.0%} of the peak where that"
        " is slower; stages follow each other. Images are on the devices and read from"
        " their memory. Collectives are those of a device, in all calls of the stage.",
    ]
    if first.missing:
        lines.append(f"Without what does not compile: {', '.join(first.missing)}.")
    return "\n".join(lines)
