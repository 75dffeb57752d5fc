"""Programs of a preset, compiled for a target, whose devices may be absent.

A run compiles programs before the stages that call them (:meth:`Runner.rehearse`). This
module compiles the same programs, from shapes alone, for the devices of another machine
or of this one, and analyzes them. On this machine's devices it also runs them.
"""

import dataclasses
import math
import pathlib
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from tabulate import tabulate

from unlearn_jax import replicas, targets
from unlearn_jax.models.conv import BATCH_AXIS
from unlearn_jax.models.flops import Operations, program_flops
from unlearn_jax.pipeline.config.schema import RunConfig
from unlearn_jax.pipeline.experiment import Experiment
from unlearn_jax.pipeline.measure.pool import lira_scores, rmia_scores
from unlearn_jax.pipeline.pods import PresetNumbers, ProgramNumbers
from unlearn_jax.pipeline.presets import UserParts
from unlearn_jax.pipeline.stages import models as stages
from unlearn_jax.pipeline.stages.plan import Plan, make_plan
from unlearn_jax.pipeline.store.artifact import Artifact, Items, Runner
from unlearn_jax.replicas._programs import compiler_options
from unlearn_jax.targets import Bound, Reading, Target
from unlearn_jax.types import InputError, PyTree, is_key

NEGLIGIBLE = ("initialize", "pad_models", "cut_models")
"""Programs without a row, because they only draw weights or copy."""


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program compiled for a target; all numbers are per device and call.

    Attributes:
      error: error of the compiler in one line; empty if it compiles.
      memory: bytes of arguments, results and temporaries; NaN if unknown.
      devices: number of devices that the program runs on.
      operations: operations counted in the program before it is compiled.
      reading: analysis of the compiled text; None if it does not compile.
      bound: roofline bound; None if it does not compile.
      state: bytes of the arguments that are updated in place, such as weights and
        momentum.
      split: number of devices that share a model.
      data: bytes of the largest array of images among the arguments.
      data_parts: number of parts that this array is divided into; 1 where every device
        has all of it.
      input: bytes of the ``uint8`` images that the program gathers.
      seconds: measured time; NaN if the program has not run.
    """

    error: str
    memory: float
    devices: int
    operations: Operations
    reading: Reading | None = None
    bound: Bound | None = None
    state: float = 0.0
    split: int = 1
    data: float = 0.0
    data_parts: int = 1
    input: float = 0.0
    seconds: float = math.nan


@dataclasses.dataclass(frozen=True)
class ProgramRow:
    """A program of a preset.

    Attributes:
      stage: artifact that calls the program, after the name of the variant in a study.
        Artifacts whose names differ only in their final numbers are one stage.
      name: name of the program.
      calls: number of calls in the whole preset.
      compiled: program compiled for the target.
      pieces: number of pieces of the stage, which hosts divide.
      items: number of items in all pieces: models, or sets and runs of a method.
      size: number of items in a piece.
    """

    stage: str
    name: str
    calls: int
    compiled: Compiled
    pieces: int = 1
    items: int = 1
    size: int = 1

    @property
    def device_hours(self) -> float:
        """Lower bound on the device hours of all calls; NaN if unknown."""
        bound = self.compiled.bound
        if bound is None:
            return math.nan
        return self.calls * bound.seconds * self.compiled.devices / 3600

    @property
    def measured_hours(self) -> float:
        """Device hours of all calls at the measured time; NaN if it has not run."""
        return self.calls * self.compiled.seconds * self.compiled.devices / 3600

    def utilization(self, target: Target) -> float | None:
        """Return the measured fraction of the peak (MFU).

        Args:
          target: target that the program is compiled for.

        Returns:
          The fraction; None if the program has not run or its operations are not
          counted exactly, and for CPUs, whose peak is nominal.
        """
        bound = self.compiled.bound
        if bound is None or np.isnan(self.compiled.seconds):
            return None
        if target.chip.platform == "cpu" or not self.compiled.operations.is_exact:
            return None
        return bound.mfu * bound.seconds / self.compiled.seconds

    def fits(self, target: Target) -> bool | None:
        """Return whether the target has enough memory; None if it is not known.

        Args:
          target: target that the program is compiled for.
        """
        if np.isnan(self.compiled.memory):
            return False if "out of memory" in self.compiled.error else None
        return self.compiled.memory <= target.chip.memory

    def numbers(self, target: Target) -> ProgramNumbers:
        """Return the numbers to store and to plan with.

        Args:
          target: target that the program is compiled for.
        """
        compiled = self.compiled
        numbers = ProgramNumbers(
            stage=self.stage,
            program=self.name,
            calls=self.calls,
            pieces=self.pieces,
            items=self.items,
            size=self.size,
            split=compiled.split,
            devices=compiled.devices,
            data_bytes=compiled.data,
            data_parts=compiled.data_parts,
            input_bytes=compiled.input,
            state_bytes=compiled.state * compiled.devices,
            memory_bytes=None if np.isnan(compiled.memory) else compiled.memory,
            flops=compiled.operations.bfloat16 + compiled.operations.float32,
            flops_exact=compiled.operations.is_exact,
            compiles=not compiled.error,
            fits=self.fits(target),
            why_not=compiled.error,
        )
        if compiled.error:
            return numbers
        assert compiled.reading is not None
        assert compiled.bound is not None
        has_run = not np.isnan(compiled.seconds)
        return dataclasses.replace(
            numbers,
            seconds=compiled.seconds if has_run else None,
            mfu=self.utilization(target),
            measured_device_hours=self.measured_hours if has_run else None,
            traffic_bytes=compiled.reading.traffic,
            bound_seconds=compiled.bound.seconds,
            bound_by=compiled.bound.limit,
            bound_mfu=compiled.bound.mfu,
            bound_device_hours=self.device_hours,
            compiler_cycles=compiled.reading.cycles or None,
            collectives=compiled.reading.collectives,
            convolutions=compiled.reading.convolutions,
            grouped=compiled.reading.grouped,
            transposed=compiled.reading.transposed,
            warnings=_warnings(compiled, target),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Program:
    """Program that a rehearsal calls, compiled on access.

    Attributes:
      jitted: jitted function; kept alive, because its id is a key.
      args: shapes and shardings of the arguments.
      given: masks and counts among the leaves of the arguments, None for other leaves.
      target: target to compile for.
    """

    jitted: jax.stages.Wrapped
    args: PyTree
    given: tuple[np.ndarray | None, ...]
    target: Target

    @property
    def name(self) -> str:
        """Name of the function."""
        return getattr(self.jitted, "__name__", "program")

    @cached_property
    def traced(self) -> jax.stages.Traced:
        """Function, traced by JAX."""
        return self.jitted.trace(*self.args)

    @cached_property
    def compiled(self) -> Compiled:
        """Program compiled for the target, or the reason why it does not compile."""
        program = self._before_compiling()
        try:
            lowered = self.traced.lower()
            options: dict[str, Any] | None = compiler_options(lowered)
            if self.target.chip.platform == "cuda" and not self.target.is_here:
                # nothing to time the choices on
                options = {"xla_gpu_autotune_level": 0}
            executable = lowered.compile(options)
        except Exception as error:
            # the row reports any error of the compiler
            return dataclasses.replace(
                program, error=_one_line(error), memory=_used_memory(str(error))
            )
        sizes = executable.memory_analysis()
        text = executable.as_text()
        assert sizes is not None
        assert text is not None
        memory = (
            sizes.argument_size_in_bytes
            + sizes.output_size_in_bytes
            - sizes.alias_size_in_bytes
            + sizes.temp_size_in_bytes
            + sizes.generated_code_size_in_bytes
        )
        reading = targets.read_hlo(text)
        bound = targets.bound(
            self.target.chip,
            bfloat16=program.operations.bfloat16,
            float32=program.operations.float32,
            traffic=reading.traffic,
            exchanged=reading.exchanged,
        )
        program = dataclasses.replace(
            program,
            memory=memory,
            reading=reading,
            bound=bound,
            state=sizes.alias_size_in_bytes,
        )
        if not self.target.is_here or memory > self.target.chip.memory:
            return program
        try:
            seconds = _seconds(executable, self.args, self.given)
        except Exception as error:
            # the row reports any error of the run
            return dataclasses.replace(program, error=_one_line(error))
        return dataclasses.replace(program, seconds=seconds)

    def _before_compiling(self) -> Compiled:
        """Return the numbers known from the traced program and its arguments."""
        leaves = jax.tree.leaves(self.args)
        devices = set()
        split = 1
        # bytes on a device, and parts, of arrays of images such as [N, H, W, ch]
        data = [(0, 1)]
        for leaf in leaves:
            devices |= leaf.sharding.device_set
            mesh = getattr(leaf.sharding, "mesh", None)
            if mesh is not None:
                split = max(split, mesh.shape.get(BATCH_AXIS, 1))
            if _is_images(leaf):
                shard = leaf.sharding.shard_shape(leaf.shape)
                data.append((math.prod(shard), leaf.shape[0] // shard[0]))
        data_bytes, data_parts = max(data)
        operations = program_flops(self.traced.jaxpr.jaxpr)
        return Compiled(
            error="",
            memory=math.nan,
            devices=max(len(devices), 1),
            operations=dataclasses.replace(
                operations,
                bfloat16=operations.bfloat16 // split,
                float32=operations.float32 // split,
            ),
            split=split,
            data=data_bytes,
            data_parts=data_parts,
            input=_gathered(self.traced.jaxpr.jaxpr) / split,
        )


class _Watch:
    """Counter of calls in a rehearsal, with a program for each signature.

    Attributes:
      calls: number of calls by program, in the order of the first calls.
    """

    def __init__(self, target: Target) -> None:
        self.calls: dict[_Program, int] = {}
        self._target = target
        self._programs: dict[Any, _Program] = {}

    def __call__(
        self, jitted: jax.stages.Wrapped, args: PyTree, shapes: PyTree
    ) -> PyTree:
        leaves, structure = jax.tree.flatten(shapes)
        key = (id(jitted), structure, tuple(leaves))
        if key not in self._programs:
            given = tuple(map(_mask_or_count, jax.tree.leaves(args)))
            self._programs[key] = _Program(jitted, shapes, given, self._target)
        program = self._programs[key]
        if program.name not in NEGLIGIBLE:
            self.calls[program] = self.calls.get(program, 0) + replicas.repeats()
        return program.traced.out_info


def _mask_or_count(leaf: Any) -> np.ndarray | None:
    """Return a mask or integers of a rehearsal; None for images, weights and keys."""
    is_known = isinstance(leaf, np.ndarray | jax.Array)
    if not is_known or leaf.dtype == np.uint8 or not leaf.size:
        return None
    if leaf.dtype == np.bool_ or jnp.issubdtype(leaf.dtype, jnp.integer):
        return np.asarray(leaf)
    return None


def _seconds(
    executable: jax.stages.Compiled,
    shapes: PyTree,
    given: Sequence[np.ndarray | None],
) -> float:
    """Return the median time of three calls, or the time of one if it is long.

    Args:
      executable: program compiled for this machine's devices.
      shapes: shapes and shardings of its arguments, which are made up.
      given: masks and counts among the leaves of the arguments, on which the number of
        steps may depend; None for other leaves.
    """
    leaves, structure = jax.tree.flatten(shapes)
    times = []
    while len(times) < 4 and sum(times) < 10:
        # donated arguments serve one call
        rng = np.random.default_rng(0)
        made = [_made_up(rng, *pair) for pair in zip(leaves, given, strict=True)]
        args = jax.tree.unflatten(structure, made)
        jax.block_until_ready(args)
        began = time.perf_counter()
        jax.block_until_ready(executable(*args))
        times.append(time.perf_counter() - began)
    # a first call loads libraries
    return float(np.median(times[1:] or times))


def _made_up(
    rng: np.random.Generator, leaf: jax.ShapeDtypeStruct, given: np.ndarray | None
) -> jax.Array:
    """Return an argument: random images and weights, masks and counts as given.

    A mask without any sample is a result that the rehearsal has not computed: it is
    replaced by one of all samples.
    """
    if is_key(leaf):
        keys = jax.random.split(jax.random.key(0), math.prod(leaf.shape))
        return jax.device_put(keys.reshape(leaf.shape), leaf.sharding)
    if leaf.dtype == np.uint8:
        value = rng.integers(0, 256, leaf.shape, np.uint8)
    elif leaf.dtype == np.bool_:
        is_known = given is not None and given.any()
        value = given if is_known else np.ones(leaf.shape)
    elif jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.ndim > 2:
        # stacked kernels, at the scale of their initialization
        scale = 1 / math.sqrt(math.prod(leaf.shape[1:-1]))
        value = scale * rng.standard_normal(leaf.shape, np.float32)
    elif jnp.issubdtype(leaf.dtype, jnp.floating):
        value = np.ones(leaf.shape)
    else:
        value = np.zeros(leaf.shape) if given is None else given
    return jax.device_put(np.asarray(value, leaf.dtype), leaf.sharding)


def _is_images(leaf: Any) -> bool:
    return leaf.dtype == np.uint8 and leaf.ndim > 2


def _gathered(jaxpr: Any) -> int:
    """Return the bytes of images that a program gathers from its data set."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "gather" and _is_images(eqn.invars[0].aval):
            total += math.prod(eqn.outvars[0].aval.shape)
        times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        inner = core.jaxprs_in_params(eqn.params)
        total += times * sum(map(_gathered, inner))
    return total


def _one_line(error: Exception) -> str:
    """Return the first line of a compiler's error, cut to 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[0] if lines else type(error).__name__
    return line if len(line) <= 200 else f"{line[:197]}..."


def _used_memory(message: str) -> float:
    """Return the memory in bytes that a compiler's error states; NaN if it does not."""
    match = re.search(r"Used ([\d.]+)([KMG]) of", message)
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    return float(match[1]) * units[match[2]] if match else math.nan


def _warnings(compiled: Compiled, target: Target) -> list[str]:
    """Return the warnings of a compiled program and of its count of operations."""
    if compiled.reading is None:
        return []
    texts = compiled.reading.warnings(is_tpu=target.chip.platform == "tpu")
    if not compiled.operations.is_exact:
        texts.append("operations counted at least: loops once, branches the cheapest")
    return texts


@dataclasses.dataclass(frozen=True)
class CompileReport:
    """A preset's programs on a target.

    Attributes:
      preset: name of the preset.
      target: target compiled for.
      rows: programs of the preset.
      group: number of models trained at a time in the preset.
      largest_group: largest group that fits, where the preset's does not, found by
        halving and then by linear interpolation between two sizes; 0 if one model does
        not fit, None if the preset's group fits.
      across_hosts: whether programs run on the devices of all hosts together.
    """

    preset: str
    target: Target
    rows: tuple[ProgramRow, ...]
    group: int
    largest_group: int | None
    across_hosts: bool = False

    @property
    def device_hours(self) -> float:
        """Lower bound on the device hours of all rows that compile."""
        return float(np.nansum([row.device_hours for row in self.rows]))

    @property
    def measured_hours(self) -> float:
        """Device hours of all rows that have run, at the measured times."""
        return float(np.nansum([row.measured_hours for row in self.rows]))

    def numbers(self) -> PresetNumbers:
        """Return the numbers to store and to plan with."""
        return PresetNumbers(
            preset=self.preset,
            target=self.target.name,
            device=self.target.kind,
            devices_per_host=len(self.target.devices),
            hosts=self.target.num_hosts,
            group=self.group,
            largest_group=self.largest_group,
            across_hosts=self.across_hosts,
            # JAX 0.12 has no such option any more, and compiles at its own effort
            effort=jax.config.values.get("jax_exec_time_optimization_effort", 0.0),
            bound_device_hours=self.device_hours,
            jax=jax.__version__,
            programs=tuple(row.numbers(self.target) for row in self.rows),
        )

    def text(self) -> str:
        """Return a table, the bound of the whole preset, and the largest group."""
        table = [self._cells(row) for row in self.rows]
        headers = [
            "stage",
            "program",
            "calls",
            "devices",
            "GiB",
            "fits",
            "FLOPs",
            "bytes",
            "FLOPs/byte",
            "bound, s",
            "MFU bound",
            "hours bound",
            "collectives",
            "warnings",
        ]
        is_here = self.target.is_here
        if is_here:
            headers[-2:-2] = ["s", "MFU", "hours"]
        lines = [
            f"{self.preset} on {self.target.name}: {len(self.target.devices)} x"
            f" {self.target.kind} on each of {self.target.num_hosts} hosts,"
            f" {self.target.chip.memory / 2**30:.1f} GiB each; per device and call,"
            f" compiled and {'run' if is_here else 'not run'}",
            "",
            tabulate(table, headers=headers, tablefmt="simple", disable_numparse=True),
            "",
            f"All calls: at least {self.device_hours:,.3g} device hours. That is the"
            " roofline's bound, not a measurement; programs take longer. The search of"
            " hyperparameters is not counted.",
        ]
        if is_here:
            lines.append(
                f"Measured, all calls take {self.measured_hours:,.3g} device hours, on"
                " random weights and images: a search that ends early, as of"
                " adversarial examples, may take another time in the run."
            )
        if self.largest_group == 0:
            lines.append("Not even one model at a time fits.")
        elif self.largest_group is not None:
            lines.append(
                f"Groups of {self.group} models do not fit; the largest that does is"
                f" about {self.largest_group}, by the memory of two sizes."
            )
        return "\n".join(lines)

    def _cells(self, row: ProgramRow) -> list[Any]:
        """Return a program's line of the table."""
        compiled = row.compiled
        flops = compiled.operations.bfloat16 + compiled.operations.float32
        cells = [
            row.stage,
            row.name,
            f"{row.calls:,}",
            compiled.devices,
            "-" if np.isnan(compiled.memory) else f"{compiled.memory / 2**30:.2f}",
            {True: "yes", False: "NO", None: "-"}[row.fits(self.target)],
            f"{flops:.2e}",
        ]
        if compiled.error:
            num_empty = 9 if self.target.is_here else 6
            return [*cells, *["-"] * num_empty, f"FAILS: {compiled.error}"]
        assert compiled.reading is not None
        assert compiled.bound is not None
        traffic = compiled.reading.traffic
        collectives = []
        for kind, (number, size) in compiled.reading.collectives.items():
            collectives.append(f"{number:,.0f} {kind} {size / 2**20:,.1f} MiB")
        measured = []
        if self.target.is_here:
            mfu = row.utilization(self.target)
            measured = [
                f"{compiled.seconds:.3g}",
                "-" if mfu is None else f"{mfu:.0%}",
                f"{row.measured_hours:.3g}",
            ]
        return [
            *cells,
            f"{traffic:.2e}",
            f"{flops / traffic:.1f}" if traffic else "-",
            f"{compiled.bound.seconds:.3g} {compiled.bound.limit}",
            f"{compiled.bound.mfu:.0%}",
            f"{row.device_hours:.3g}",
            *measured,
            "; ".join(collectives) or "-",
            "; ".join(_warnings(compiled, self.target)) or "-",
        ]


def compile_run(
    variants: Mapping[str, RunConfig],
    target: Target,
    *,
    preset: str = "",
    parts: Callable[[RunConfig], UserParts] | None = None,
    only: str = "",
    progress: Callable[[str], None] = lambda line: None,
) -> CompileReport:
    """Compile the programs of a run, or of the runs of a study.

    Nothing is trained. A data set is read only if
    :data:`unlearn_jax.data.stand_in.SHAPES` does not describe it.

    Args:
      variants: configurations by name; a single run has the empty name.
      target: target to compile for.
      preset: name of the preset, for the report.
      parts: function from a configuration to a user's own data, network and loss.
      only: regular expression of the stages to compile.
      progress: function called with the name of each stage.

    Raises:
      InputError: unusable configuration.
    """
    group = max(config.replicas.group for config in variants.values())

    def rows(group: int) -> list[ProgramRow]:
        of_variants = []
        for name, config in variants.items():
            size = min(group, config.replicas.group)
            smaller = dataclasses.replace(config.replicas, group=size)
            config = dataclasses.replace(config, replicas=smaller)
            of_variants += _run_rows(name, config, target, parts, only, progress)
        return of_variants

    across_hosts = any(config.replicas.across_hosts for config in variants.values())
    with targets.use(target):
        report = _report(preset, target, group, rows)
    return dataclasses.replace(report, across_hosts=across_hosts)


def compile_experiment(
    experiment: Experiment,
    target: Target,
    *,
    preset: str = "",
    config: Any = None,
    only: str = "",
    progress: Callable[[str], None] = lambda line: None,
) -> CompileReport:
    """Compile the programs of an experiment that is not a run.

    Args:
      experiment: experiment with ``programs``, or with artifacts whose ``compute`` is a
        pure function.
      target: target to compile for.
      preset: name of the preset, for the report.
      config: configuration in place of the experiment's own.
      only: regular expression of the artifacts to compile.
      progress: function called with the name of each artifact.
    """
    config = experiment.config if config is None else config
    group = getattr(config, "group", 1)

    def rows(group: int) -> list[ProgramRow]:
        smaller = config
        if hasattr(config, "group"):
            smaller = dataclasses.replace(config, group=group)
        with tempfile.TemporaryDirectory() as folder:
            runner = Runner(pathlib.Path(folder), progress=False)
            artifacts = {}
            for artifact in (experiment.programs or experiment.artifacts)(smaller):
                artifacts[artifact.name] = artifact
            of_group = list(_rows(runner, artifacts, target, only, progress))
        # an artifact is a group of models
        size = getattr(smaller, "group", 1)
        return [
            dataclasses.replace(row, items=row.pieces * size, size=size)
            for row in of_group
        ]

    with targets.use(target):
        return _report(preset, target, group, rows)


def _report(
    preset: str,
    target: Target,
    group: int,
    rows_of: Callable[[int], list[ProgramRow]],
) -> CompileReport:
    """Return the report of a preset, with the largest group that fits."""

    def fit(rows: list[ProgramRow]) -> bool:
        return not any(row.fits(target) is False for row in rows)

    rows = rows_of(group)
    if fit(rows):
        return CompileReport(preset, target, tuple(rows), group, None)
    largest = 0
    size = group
    too_large = rows
    while size > 1 and not largest:
        smaller = rows_of(size // 2)
        if fit(smaller):
            sizes = (size // 2, size)
            largest = _between(smaller, too_large, sizes, target.chip.memory)
        size //= 2
        too_large = smaller
    return CompileReport(preset, target, tuple(rows), group, largest)


def _between(
    small: list[ProgramRow],
    large: list[ProgramRow],
    sizes: tuple[int, int],
    memory: float,
) -> int:
    """Return the largest group that fits, interpolated linearly between two sizes.

    Args:
      small: programs of the smaller group, which fit.
      large: programs of the larger group, which do not fit.
      sizes: sizes of both groups.
      memory: memory of a device, in bytes.
    """
    low, high = sizes
    largest = high - 1
    for small_row, large_row in zip(small, large, strict=False):
        memory_low = small_row.compiled.memory
        growth = large_row.compiled.memory - memory_low
        if large_row.compiled.memory > memory and growth > 0:
            fitting = low + int((high - low) * (memory - memory_low) / growth)
            largest = min(largest, fitting)
    return max(largest, low)


def _run_rows(
    variant: str,
    config: RunConfig,
    target: Target,
    parts: Callable[[RunConfig], UserParts] | None,
    only: str,
    progress: Callable[[str], None],
) -> Iterator[ProgramRow]:
    """Yield the programs of a run."""
    options: UserParts = {} if parts is None else parts(config)
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(config, pathlib.Path(folder), **options)
        artifacts = {}
        for artifact in _artifacts(plan):
            label = f"{variant}: {artifact.name}" if variant else artifact.name
            artifacts[label] = artifact
        yield from _rows(plan.runner, artifacts, target, only, progress)
        label = f"{variant}: audit" if variant else "audit"
        if re.search(only, label):
            progress(label)
            yield from _audit_rows(label, plan, target)


def _artifacts(plan: Plan) -> list[Artifact]:
    """Return the artifacts of a run, inputs first."""
    if not plan.forget_known:
        raise InputError(
            "the references choose the forget sets of this preset: compile it with"
            " --forget.kind=random, for sets of the same size"
        )
    artifacts = [plan.originals.artifact]
    if plan.num_references:
        artifacts.append(plan.references.artifact)
    artifacts.append(plan.oracles.artifact)
    artifacts += [stages.attack(plan, name) for name in plan.attacks]
    return artifacts + [stages.unlearn(plan, name) for name in plan.rows]


def _rows(
    runner: Runner,
    artifacts: Mapping[str, Artifact],
    target: Target,
    only: str,
    progress: Callable[[str], None],
) -> Iterator[ProgramRow]:
    """Yield the programs of artifacts, in the order in which they are called."""
    watch = _Watch(target)
    by_program: dict[Any, ProgramRow] = {}
    for label, artifact in artifacts.items():
        if not re.search(only, label):
            continue
        stage = re.sub(r"(-\d+)+$", "", label)
        try:
            with replicas.rehearsal(watch):
                for source in artifact.inputs:
                    runner.rehearse(source)
                watch.calls.clear()
                runner.rehearse(artifact)
        except InputError:
            raise
        except Exception as error:
            untraced = Compiled(_one_line(error), math.nan, 1, Operations(0, 0, True))
            by_program[label] = ProgramRow(stage, "trace", 1, untraced)
            continue
        cut = artifact.items or Items(1, 1)
        pieces = len(cut.groups)
        for program, calls in watch.calls.items():
            if (stage, program) not in by_program:
                progress(f"{label}: {program.name}")
                by_program[stage, program] = ProgramRow(
                    stage=stage,
                    name=program.name,
                    calls=0,
                    compiled=program.compiled,
                    pieces=0,
                    items=0,
                    size=cut.size,
                )
            row = by_program[stage, program]
            by_program[stage, program] = dataclasses.replace(
                row,
                calls=row.calls + calls * pieces,
                pieces=row.pieces + pieces,
                items=row.items + cut.count,
            )
    yield from by_program.values()


def _audit_rows(stage: str, plan: Plan, target: Target) -> Iterator[ProgramRow]:
    """Yield the audit's programs, which score all runs of one row of the table."""
    num_samples = len(plan.pool.labels)
    watch = _Watch(target)
    if plan.num_references:
        # shapes alone; all runs share the references' signals and members
        runs = np.broadcast_to(np.float32(0), (len(plan.runs), num_samples))
        signals = np.broadcast_to(np.float32(0), (plan.num_references, num_samples))
        member = np.broadcast_to(False, signals.shape)
        with replicas.rehearsal(watch):
            mapper = plan.mapper(len(plan.runs), is_audit=True)
            replicas.map_models(mapper, rmia_scores(plan.audit), runs, ())
            if plan.audit.lira:
                scores = lira_scores(plan.audit, plan.num_references)
                replicas.map_models(mapper, scores, runs, (signals, member))
    for program, calls in watch.calls.items():
        num_calls = calls * len(plan.rows)
        yield ProgramRow(stage, program.name, num_calls, program.compiled)
