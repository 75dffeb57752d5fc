"""Plan of a pod: division of work over many devices, from compiled programs.

A plan is computed from numbers of compiled programs. Programs are compiled once for any
number of devices, and their numbers may be stored. Work is divided as in a run: hosts
divide the pieces of ``replicas.group`` models, and the devices of a host divide the
models of a piece.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from unlearn_jax.targets import CHIPS, Chip
from unlearn_jax.types import InputError

UTILIZATION = 0.3
"""Assumed fraction of the peak, for estimates of time above the bound."""
DEVICES_PER_HOST = {"cpu": 1, "cuda": 8, "tpu": 4}
"""Number of devices of common machines, by platform."""
_ACROSS = (
    "with replicas.across_hosts=True and replicas.shard_data=True on {} devices or more"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramNumbers:
    """Numbers of a compiled program of a preset, per device and call.

    Fields after ``why_not`` are 0 or empty if the program does not compile.

    Attributes:
      stage: artifact that calls the program.
      program: name of the program.
      calls: number of calls in the whole preset.
      pieces: number of pieces of the stage, which hosts divide.
      items: number of items in all pieces: models, or sets and runs of a method.
      size: number of items in a piece.
      split: number of devices that share a model.
      devices: number of devices that the program runs on.
      data_bytes: bytes of its images.
      data_parts: number of parts that the images are divided into.
      input_bytes: bytes of images that it gathers.
      state_bytes: bytes that it updates in place, on all devices together.
      memory_bytes: device memory that it needs; None if unknown.
      flops: number of floating-point operations.
      flops_exact: whether operations are counted exactly.
      compiles: whether the target's compiler accepts the program.
      fits: whether it fits in the memory of the target; None if that is not known.
      why_not: error of the compiler in one line.
      seconds: measured time; None if the program has not run.
      mfu: fraction of the peak that was measured; None if it is not known.
      measured_device_hours: device hours of all calls on all devices, at the measured
        time; None if the program has not run.
      traffic_bytes: bytes moved from and to memory.
      bound_seconds: roofline bound.
      bound_by: largest part of the roofline, which sets the bound.
      bound_mfu: fraction of the peak that the bound allows.
      bound_device_hours: device hours of all calls on all devices, at the bound.
      compiler_cycles: compiler's estimate of cycles; None if there is none.
      collectives: number and bytes of collectives, by kind.
      convolutions: number of convolutions in the compiled text.
      grouped: number of grouped convolutions; a TPU's compiler may write these in
        another form.
      transposed: number of convolutions with a dilated input: gradients of strided
        convolutions, and a TPU's form of grouped convolutions.
      warnings: slow operations, in words.
    """

    stage: str
    program: str
    calls: int
    pieces: int
    items: int
    size: int
    split: int = 1
    devices: int
    data_bytes: float = 0.0
    data_parts: float = 1
    input_bytes: float = 0.0
    state_bytes: float
    memory_bytes: float | None
    flops: float = 0.0
    flops_exact: bool = True
    compiles: bool
    fits: bool | None = None
    why_not: str = ""
    seconds: float | None = None
    mfu: float | None = None
    measured_device_hours: float | None = None
    traffic_bytes: float = 0.0
    bound_seconds: float = 0.0
    bound_by: str = ""
    bound_mfu: float = 0.0
    bound_device_hours: float = 0.0
    compiler_cycles: float | None = None
    collectives: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    convolutions: int = 0
    grouped: int = 0
    transposed: int = 0
    warnings: Sequence[str] = ()

    @property
    def memory(self) -> float:
        """Device memory that it needs, in bytes; that of its images if not known."""
        return self.memory_bytes or self.data_bytes

    def on_mesh(self, devices: int) -> "ProgramNumbers":
        """Return the numbers of a program over all hosts on a mesh of another size.

        Args:
          devices: number of devices of the mesh.
        """
        ratio = self.devices / devices
        program = dataclasses.replace(self, devices=devices)
        if self.data_parts > 1:
            data = self.data_bytes * ratio
            memory = self.memory_bytes
            if memory is not None:
                memory = memory - self.data_bytes + data
            program = dataclasses.replace(
                program,
                data_bytes=data,
                data_parts=self.data_parts / ratio,
                memory_bytes=memory,
            )
        if self.split == self.devices > 1:
            # all devices share a model; on one device it cannot be told
            program = dataclasses.replace(
                program, split=devices, bound_seconds=self.bound_seconds * ratio
            )
        return program

    def least_devices(self, chip: Chip, per_host: int) -> int:
        """Return the fewest devices whose memory holds the images, divided over them.

        Returns:
          Number of devices of whole hosts; 0 if the program fits as it is, or if it
          does not fit with divided images either.
        """
        memory_for_data = chip.memory - (self.memory - self.data_bytes)
        if self.memory <= chip.memory or memory_for_data <= 0:
            return 0
        num_devices = self.data_bytes * self.data_parts / memory_for_data
        return per_host * math.ceil(num_devices / per_host)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PresetNumbers:
    """Numbers of a preset's programs on a target: ``unlearn-jax compile --json``.

    Attributes:
      preset: name of the preset.
      target: name of the target compiled for.
      device: kind of the target's devices.
      devices_per_host: number of devices of a host.
      hosts: number of hosts.
      group: number of models trained at a time in the preset.
      largest_group: largest group that fits, where the preset's does not.
      across_hosts: whether programs run on the devices of all hosts together.
      effort: optimization effort of the compiler, as JAX defines it.
      bound_device_hours: device hours of all programs that compile, at the bound.
      jax: version of JAX.
      programs: programs in the order in which they are called.
    """

    preset: str
    target: str = ""
    device: str
    devices_per_host: int = 1
    hosts: int = 1
    group: int
    largest_group: int | None = None
    across_hosts: bool = False
    effort: float = 0.0
    bound_device_hours: float = 0.0
    jax: str = ""
    programs: tuple[ProgramNumbers, ...]

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "PresetNumbers":
        """Return the numbers from the plain values of :func:`dataclasses.asdict`.

        Args:
          plain: plain values, as read from a file.
        """
        programs = tuple(ProgramNumbers(**program) for program in plain["programs"])
        return cls(**{**plain, "programs": programs})


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """A program of a preset on a number of devices.

    Attributes:
      stage: artifact that calls the program.
      program: name of the program.
      items: number of models, or of sets and runs of a method.
      group: number of items that a host computes at a time.
      hosts: number of hosts with at least one group.
      busy: number of devices that compute at a time.
      hours: hours of the slowest host, at the roofline bound.
      assumed_hours: the same at :data:`UTILIZATION` of the peak, where that is slower.
      device_hours: hours of all devices without idle time, at the bound.
      assumed_device_hours: the same at :data:`UTILIZATION`.
      exchanged: bytes of a device's collectives, in all calls.
      input_rate: bytes of images that a device reads per second, at the bound.
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
      preset: name of the preset.
      device: kind of the devices.
      devices: number of devices.
      hosts: number of hosts.
      memory: device memory that the largest program needs, in bytes.
      data: bytes of images on every device, in the program with the most.
      stages: plans of the programs that compile.
      missing: stages and programs that do not compile.
      breaks: first limit of the plan, in words.
    """

    preset: str
    device: str
    devices: int
    hosts: int
    memory: float
    data: float
    stages: tuple[StagePlan, ...]
    missing: tuple[str, ...]
    breaks: str = ""

    @property
    def hours(self) -> float:
        """Total hours of all stages, one after the other, at the bound."""
        return sum(stage.hours for stage in self.stages)

    @property
    def assumed_hours(self) -> float:
        """Total hours of all stages at :data:`UTILIZATION` of the peak."""
        return sum(stage.assumed_hours for stage in self.stages)

    @property
    def device_hours(self) -> float:
        """Device hours of the work at the bound, without idle time."""
        return sum(stage.device_hours for stage in self.stages)

    @property
    def assumed_device_hours(self) -> float:
        """Device hours of the work at :data:`UTILIZATION`, without idle time."""
        return sum(stage.assumed_device_hours for stage in self.stages)

    @property
    def main(self) -> StagePlan:
        """Stage that takes the longest."""
        return max(self.stages, key=lambda stage: stage.hours)

    @property
    def busy(self) -> float:
        """Fraction of the devices' time that is spent on work."""
        return self.device_hours / (self.devices * self.hours) if self.hours else 0.0


def plan_pod(
    numbers: PresetNumbers, devices: int, *, per_host: int | None = None
) -> PodPlan:
    """Return the division of work over a number of devices, and its first limit.

    Programs that divide batches over a host's devices are taken as compiled, for hosts
    of that size. Programs of ``replicas.across_hosts`` run on one mesh of all devices.
    With more devices, their time decreases if all devices share a model, and the images
    on each device decrease if they are divided.

    Args:
      numbers: numbers of
        :meth:`~unlearn_jax.pipeline.compiling.CompileReport.numbers`.
      devices: number of devices of all hosts.
      per_host: number of devices of a host; that of common machines if None.

    Raises:
      InputError: no program compiles, or there is no device.
    """
    chip = CHIPS[numbers.device]
    per_host = per_host or DEVICES_PER_HOST[chip.platform]
    programs = numbers.programs
    if devices < 1 or not any(program.compiles for program in programs):
        needed = [program.least_devices(chip, per_host) for program in programs]
        largest = max(needed, default=0)
        raise InputError(
            f"{numbers.preset} has no plan for {devices} devices: compile a program"
            " and give at least one device"
            + (f"; its images fit {_ACROSS.format(largest)}" if largest else "")
        )
    per_host = min(devices, per_host)
    hosts = math.ceil(devices / per_host)
    if numbers.across_hosts:
        programs = tuple(program.on_mesh(devices) for program in programs)
    sound = [program for program in programs if program.compiles]
    stages = []
    for program in sound:
        if numbers.across_hosts:
            stage = _stage(program, hosts=1, per_host=devices)
            stages.append(dataclasses.replace(stage, hosts=hosts))
        else:
            stages.append(_stage(program, hosts, per_host))
    plan = PodPlan(
        preset=numbers.preset,
        device=numbers.device,
        devices=devices,
        hosts=hosts,
        memory=max(program.memory for program in programs),
        data=max(program.data_bytes for program in sound),
        stages=tuple(stages),
        missing=tuple(
            f"{program.stage}: {program.program}"
            for program in programs
            if not program.compiles
        ),
    )
    breaks = _breaks(plan, numbers.largest_group, programs)
    return dataclasses.replace(plan, breaks=breaks)


def _stage(program: ProgramNumbers, hosts: int, per_host: int) -> StagePlan:
    """Return the plan of a program's calls."""
    # models computed at a time: by the compiled program, and by a host of the plan
    compiled_slots = max(1, program.devices // program.split)
    slots = max(1, per_host // program.split)
    calls = program.calls / program.pieces
    turns_compiled = math.ceil(program.size / compiled_slots)
    seconds = calls * program.bound_seconds / turns_compiled
    # products alone, at the peak, take the fraction bound_mfu of the bound
    slower = max(1.0, program.bound_mfu / UTILIZATION)
    # the largest group of which every host has at least one, if possible
    items = program.items
    group = max(1, min(program.size, items // hosts))
    groups = math.ceil(items / group)
    turns = math.ceil(groups / hosts) * math.ceil(group / slots)
    busy_hosts = min(hosts, groups)
    exchanged = sum(amount for _, amount in program.collectives.values())
    hours = turns * seconds / 3600
    work = items * seconds * program.split / 3600
    return StagePlan(
        stage=program.stage,
        program=program.program,
        items=items,
        group=group,
        hosts=busy_hosts,
        busy=min(busy_hosts * min(slots, group), items) * program.split,
        hours=hours,
        assumed_hours=hours * slower,
        device_hours=work,
        assumed_device_hours=work * slower,
        exchanged=exchanged * calls * math.ceil(groups / hosts),
        input_rate=program.input_bytes / program.bound_seconds,
        checkpoint=program.state_bytes / program.size * group,
    )


def _breaks(
    plan: PodPlan, largest_group: int | None, programs: Sequence[ProgramNumbers]
) -> str:
    """Return the first limit of a plan, in words."""
    chip = CHIPS[plan.device]
    if plan.memory > chip.memory:
        per_host = math.ceil(plan.devices / plan.hosts)
        needed = max(program.least_devices(chip, per_host) for program in programs)
        remedy = ""
        if largest_group:
            remedy = f"; groups of {largest_group} fit"
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
        split = plan.devices // main.busy
        advice = f"{plan.devices - main.busy} have none"
        if split > 1:
            advice = f"replicas.split={split} would use {split * main.busy}"
        return (
            f"{main.items} models of {main.stage} for {plan.devices} devices: {advice}"
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
      plan: plan of :func:`plan_pod`.
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
    """Return a table of plans for one preset and one kind of device.

    Args:
      plans: plans for several numbers of devices.
    """
    rows = []
    for plan in plans:
        rows.append([])
        for cell in cells(plan):
            rows[-1].append(f"{cell:.3g}" if isinstance(cell, float) else cell)
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
