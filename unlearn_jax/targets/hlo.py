"""Reader of a compiled program's text: memory traffic, collectives, slow operations."""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cached_property
from types import MappingProxyType

_SHAPE = re.compile(r"(\w+)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_INSTRUCTION = re.compile(r"\s*(ROOT )?%?([\w.\-]+) = ")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) .*-> .*\{$")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_CALLED = re.compile(r"(?:calls|to_apply|body)=%?([\w.\-]+)")
_BRANCHES = re.compile(
    r"(?:branch_computations=\{([^}]*)\}|true_computation=%?([\w.\-]+),"
    r" false_computation=%?([\w.\-]+))"
)
_GROUPED = re.compile(r"(?:feature|batch)_group_count=(?!1\b)\d")
_CALLBACK = re.compile(r"callback|SendToHost|RecvFromHost|is_host_transfer=true")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_DEVICES = re.compile(r"(?:num_partitions|replica_count)=(\d+)")
_GROUPS = re.compile(r"replica_groups=(?:\{\{([\d,]+)\}|\[\d+,(\d+)\])")

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
_FREE = {
    "after-all",
    "bitcast",
    "call",
    "conditional",
    "constant",
    "get-tuple-element",
    "opt-barrier",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
    "while",
}
"""Instructions that move no bytes themselves."""
_COPIES = {"copy", "transpose"}
_RECASTS = {"bitcast", "convert", "copy", "reshape", "transpose"}
"""Instructions that pass on every element."""
_SMALL = 2**20
"""Bytes below which an operand counts as read whole, and an all-gather is not reported.
"""
_WHOLE = 2**24
"""Bytes from which a gather of most of its source is reported."""


@dataclasses.dataclass(frozen=True)
class _Instruction:
    """One instruction of a program's text."""

    name: str
    opcode: str
    result: str
    operands: tuple[str, ...]
    rest: str
    is_root: bool


@dataclasses.dataclass(frozen=True)
class _Integer:
    """Integer in a computation: a constant, or an element of its argument plus one.

    Attributes:
      constant: the constant.
      element: position of the element in the argument; None if there is none.
    """

    constant: int
    element: int | None = None


@dataclasses.dataclass(frozen=True)
class Reading:
    """Content of a compiled program's text, per device.

    The body of a loop counts as often as it runs. Of several branches, only the one
    that moves the fewest bytes counts.

    Attributes:
      traffic: bytes between the device's memory and its cores, as the program's kernels
        read operands and write results. For a kernel that reads a part of an array,
        only that part counts. Caches are ignored.
      copied: bytes of ``traffic`` that only change the layout of arrays.
      collectives: number of collectives of each kind, and the bytes that a device sends
        for them at least.
      convolutions: number of convolutions in the text, each counted once.
      grouped: number of convolutions with groups, of features or of batches.
      transposed: number of convolutions with dilated inputs: gradients of strided ones.
      float64: number of float64 instructions.
      callbacks: number of instructions that call the host.
      gathered: bytes of the largest result of a gather that reads at least half of its
        source; 0 if there is none.
      loops: number of loops that run an unknown number of times, counted as one each.
      branches: number of conditionals, of which the cheapest branch is counted.
      cycles: cycles of all kernels, if the compiler estimates them (TPU); 0 otherwise.
    """

    traffic: float
    copied: float
    collectives: dict[str, tuple[float, float]]
    convolutions: int
    grouped: int
    transposed: int
    float64: int
    callbacks: int
    gathered: float
    loops: int
    branches: int
    cycles: float

    @property
    def exchanged(self) -> float:
        """Bytes that a device sends for all collectives, at least."""
        return sum(size for _, size in self.collectives.values())

    def warnings(self, *, is_tpu: bool = False) -> list[str]:
        """Return warnings of slow operations, and of those that the device emulates.

        Args:
          is_tpu: whether the program is for TPUs, which emulate float64.
        """
        texts = []
        if self.grouped:
            texts.append(f"{self.grouped} of {self.convolutions} convolutions grouped")
        if self.float64:
            emulated = ", emulated" if is_tpu else ""
            texts.append(f"float64 in {self.float64} places{emulated}")
        if self.callbacks:
            texts.append(f"{self.callbacks} calls of the host")
        if self.gathered >= _WHOLE:
            texts.append(f"a gather of {self.gathered / 2**20:.0f} MiB, whole data")
        if self.traffic and self.copied > self.traffic / 4:
            texts.append(f"{self.copied / self.traffic:.0%} of traffic is copies")
        size = self.collectives.get("all-gather", (0.0, 0.0))[1]
        if size >= _SMALL:
            texts.append(f"all-gathers of {size / 2**20:.0f} MiB")
        if self.loops:
            texts.append(f"{self.loops} loops of unknown length, counted as one")
        if self.branches:
            texts.append(f"{self.branches} branches, the cheapest counted")
        return texts


class _Module:
    """Computations of a program's text."""

    def __init__(self, text: str) -> None:
        self.computations: dict[str, list[_Instruction]] = {}
        self.entry = ""
        header = text.partition("\n")[0]
        self.devices = math.prod(int(count) for count in _DEVICES.findall(header))
        current: list[_Instruction] | None = None
        for line in text.splitlines():
            if line.startswith("}"):
                current = None
            elif current is not None:
                parsed = _parse(line)
                if parsed is not None:
                    current.append(parsed)
            elif match := _COMPUTATION.match(line):
                current = self.computations.setdefault(match[2], [])
                if match[1]:
                    self.entry = match[2]

    @cached_property
    def results(self) -> dict[str, dict[str, str]]:
        """Result types by computation and instruction."""
        shapes: dict[str, dict[str, str]] = {}
        for name, instructions in self.computations.items():
            shapes[name] = {one.name: one.result for one in instructions}
        return shapes

    @cached_property
    def named(self) -> dict[str, dict[str, _Instruction]]:
        """Instructions by computation and name."""
        named: dict[str, dict[str, _Instruction]] = {}
        for name, instructions in self.computations.items():
            named[name] = {one.name: one for one in instructions}
        return named

    def root(self, computation: str) -> _Instruction | None:
        """Return the instruction whose result a computation returns."""
        every = self.computations.get(computation, ())
        return next((one for one in every if one.is_root), None)

    def steps(
        self,
        computation: str,
        times: float = 1.0,
        constants: Mapping[int, int] = MappingProxyType({}),
    ) -> Iterator[tuple[str, _Instruction, float, bool]]:
        """Yield the instructions that a computation runs, also in loops and branches.

        Each instruction comes with its computation, the number of times that it runs,
        and whether that number is known. Of several branches, the one that moves the
        fewest bytes is followed. ``constants`` are the known elements of the
        computation's argument.
        """
        for one in self.computations.get(computation, ()):
            yield computation, one, times, True
            if one.opcode == "while":
                trips, unchanged = self._loop(computation, one, constants)
                if trips is None:
                    yield computation, one, times, False
                body = _named(one, "body")
                runs = times * (1 if trips is None else trips)
                yield from self.steps(body, runs, unchanged)
            elif one.opcode == "conditional":
                branches = _branches_of(one)
                if branches:
                    yield from self.steps(min(branches, key=self.traffic), times)
            elif one.opcode in ("call", "async-start"):
                match = _CALLED.search(one.rest)
                if match is not None:
                    yield from self.steps(match[1], times)

    def traffic(self, computation: str) -> float:
        """Return the bytes that a computation moves when it runs once."""
        total = 0.0
        for inner, one, times, is_known in self.steps(computation):
            if is_known:
                total += times * self.moved(inner, one)
        return total

    def changes_layout(self, one: _Instruction) -> bool:
        """Return whether an instruction copies an array, alone or as a kernel."""
        if one.opcode == "fusion":
            inner = self.computations.get(_named(one, "calls"), [])
            kinds = {part.opcode for part in inner} - {"bitcast", "parameter"}
            return bool(kinds) and kinds <= _COPIES
        return one.opcode in _COPIES

    def _loop(
        self, computation: str, loop: _Instruction, constants: Mapping[int, int]
    ) -> tuple[int | None, dict[int, int]]:
        """Return how often a loop runs, and the constants in its argument.

        The number is the compiler's, or that of a counter that starts at a constant and
        grows by another up to a third; None if it is unknown. ``constants`` are those
        in the argument of the computation around it.
        """
        body = _named(loop, "body")
        noted = _TRIPS.search(loop.rest)
        trips = int(noted[1]) if noted else None
        before = self.named[computation].get(loop.operands[0])
        after = self.root(body)
        if before is None or after is None or before.opcode != "tuple":
            return trips, {}
        start = {}
        for position, name in enumerate(before.operands):
            value = self._integer(computation, name, constants)
            if value is not None and value.element is None:
                start[position] = value.constant
        steps = [self._integer(body, name) for name in after.operands]
        unchanged = {
            position: number
            for position, number in start.items()
            if steps[position] == _Integer(0, position)
        }
        if trips is None:
            trips = self._count(loop, start, steps, unchanged)
        return trips, unchanged

    def _count(
        self,
        loop: _Instruction,
        start: Mapping[int, int],
        steps: list[_Integer | None],
        unchanged: Mapping[int, int],
    ) -> int | None:
        """Return how often a loop runs whose counter grows up to a constant."""
        computation = _named(loop, "condition")
        root = self.root(computation)
        given: dict[str, _Integer | None] = {}
        if root is not None and root.opcode == "fusion":
            given = self._given(computation, root, unchanged)
            computation = _named(root, "calls")
            root = self.root(computation)
        if root is None or root.opcode != "compare" or "direction=LT" not in root.rest:
            return None
        counter, limit = (
            self._integer(computation, name, unchanged, given) for name in root.operands
        )
        if counter is None or limit is None or limit.element is not None:
            return None
        position = counter.element
        if position is None or position not in start:
            return None
        step = steps[position]
        if step is None or step.element != position or step.constant <= 0:
            return None
        left = limit.constant - counter.constant - start[position]
        return max(0, -(-left // step.constant))

    def _integer(
        self,
        computation: str,
        name: str,
        constants: Mapping[int, int] = MappingProxyType({}),
        given: Mapping[str, _Integer | None] = MappingProxyType({}),
    ) -> _Integer | None:
        """Return an integer of a computation; None if it is neither known nor a sum.

        Args:
          computation: name of the computation.
          name: name of the instruction.
          constants: known elements of the computation's argument.
          given: arguments of a kernel, by name.
        """
        if name in given:
            return given[name]
        one = self.named[computation].get(name)
        if one is None:
            return None
        if one.opcode == "constant":
            number = re.match(r"\((-?\d+)\)", one.rest)
            return None if number is None else _Integer(int(number[1]))
        if one.opcode == "get-tuple-element":
            source = self.named[computation].get(one.operands[0])
            number = re.search(r"index=(\d+)", one.rest)
            if source is None or source.opcode != "parameter" or number is None:
                return None
            position = int(number[1])
            if position in constants:
                return _Integer(constants[position])
            return _Integer(0, position)
        if one.opcode == "fusion":
            inner = _named(one, "calls")
            root = self.root(inner)
            if root is None:
                return None
            arguments = self._given(computation, one, constants, given)
            return self._integer(inner, root.name, given=arguments)
        if one.opcode not in ("add", "bitcast", "copy"):
            return None
        total = 0
        elements = []
        for operand in one.operands:
            value = self._integer(computation, operand, constants, given)
            if value is None:
                return None
            total += value.constant
            if value.element is not None:
                elements.append(value.element)
        return None if len(elements) > 1 else _Integer(total, *elements)

    def _given(
        self,
        computation: str,
        kernel: _Instruction,
        constants: Mapping[int, int],
        given: Mapping[str, _Integer | None] = MappingProxyType({}),
    ) -> dict[str, _Integer | None]:
        """Return the integers that a kernel is called with, by its parameter's name."""
        return {
            name: self._integer(computation, operand, constants, given)
            for name, operand in self._arguments(kernel).items()
        }

    def _arguments(self, kernel: _Instruction) -> dict[str, str]:
        """Return a kernel's operands by the names of its parameters."""
        operands = dict(enumerate(kernel.operands))
        arguments = {}
        for one in self.computations.get(_named(kernel, "calls"), ()):
            number = re.match(r"\((\d+)\)", one.rest)
            if one.opcode == "parameter" and number and int(number[1]) in operands:
                arguments[one.name] = operands[int(number[1])]
        return arguments

    def moved(self, computation: str, one: _Instruction) -> float:
        """Return the bytes that an instruction reads and writes."""
        types = self.results[computation]
        if one.opcode in _FREE or one.opcode.endswith("-done"):
            return 0.0
        if "AllocateBuffer" in one.rest or one.opcode == "async-start":
            return 0.0
        if one.opcode == "copy-start":
            # its type includes both the result and the operand
            return _bytes(one.result)
        inner = [one]
        arguments = {name: name for name in one.operands}
        if one.opcode == "fusion":
            inner = self.computations.get(_named(one, "calls"), [])
            arguments = self._arguments(one)
        updates = _updates(inner)
        inner_types = types | {part.name: part.result for part in inner}
        read = 0.0
        for name, operand in arguments.items():
            read += _read(name, types.get(operand, ""), inner, inner_types, updates)
        return read + _written(one, updates, inner_types)


def _branches_of(one: _Instruction) -> list[str]:
    """Return the computations that a conditional chooses from."""
    match = _BRANCHES.search(one.rest)
    names = [] if match is None else [name for name in match.groups() if name]
    return [name.strip(" %") for part in names for name in part.split(",")]


def _named(one: _Instruction, role: str) -> str:
    """Return the computation that an instruction calls as its ``body``, for example."""
    match = re.search(rf"\b{role}=%?([\w.\-]+)", one.rest)
    return "" if match is None else match[1]


def _updates(inner: list[_Instruction]) -> list[_Instruction]:
    """Return the updates of arrays whose results a kernel returns: they are in place.

    Args:
      inner: instructions of the kernel; one alone is a kernel of its own.
    """
    root = next((part for part in inner if part.is_root), None)
    if len(inner) == 1:
        root = inner[0]
    if root is None:
        return []
    by_name = {part.name: part for part in inner}
    updates = []
    for name in root.operands if root.opcode == "tuple" else [root.name]:
        part = by_name.get(name)
        while part is not None and part.opcode == "bitcast":
            part = by_name.get(part.operands[0])
        if part is not None and part.opcode in ("dynamic-update-slice", "scatter"):
            updates.append(part)
    return updates


def _read(
    name: str,
    kind: str,
    inner: list[_Instruction],
    types: dict[str, str],
    updates: list[_Instruction],
) -> float:
    """Return the bytes of an operand of type ``kind`` that a kernel reads.

    Args:
      name: name of the operand in the kernel, or of its elements in another type.
      kind: type of the operand.
      inner: instructions of the kernel.
      types: types by name.
      updates: instructions that update an array in place.
    """
    whole = _bytes(kind)
    users = [part for part in inner if name in part.operands]
    if whole < _SMALL or not users:
        return whole
    # bytes of the operand for each byte of the elements, which may be wider
    scale = whole / max(1.0, _bytes(types.get(name, kind), everywhere=True))
    read = 0.0
    for part in users:
        is_first = part.operands[0] == name
        if part.opcode in _RECASTS:
            # reads what its own reader reads
            read += _read(part.name, kind, inner, types, updates)
        elif part.opcode in ("dynamic-slice", "gather", "slice") and is_first:
            read += scale * _bytes(part.result, everywhere=True)
        elif part not in updates or not is_first:
            return whole
    return min(whole, read)


def _written(
    one: _Instruction, updates: list[_Instruction], types: dict[str, str]
) -> float:
    """Return the bytes that a kernel writes; a slice in place writes the slice."""
    whole = _bytes(one.result)
    for part in updates:
        if part.opcode != "dynamic-update-slice":
            continue
        replaced = _bytes(part.result, everywhere=True)
        update = _bytes(types.get(part.operands[1], ""), everywhere=True)
        if replaced <= whole:
            whole += update - replaced
    return max(whole, 0.0)


def _bytes(kind: str, *, everywhere: bool = False) -> float:
    """Return the bytes of a type in main memory, or ``everywhere`` in any memory."""
    total = 0.0
    for dtype, sizes, layout in _SHAPE.findall(kind):
        if not everywhere and re.search(r"S\([1-9]\d*\)", layout):
            # this memory is near the cores
            continue
        bits = re.search(r"\d+", dtype)
        width = 8 if dtype == "pred" or bits is None else int(bits[0])
        if dtype.startswith("f8"):
            width = 8
        if dtype.startswith("c"):
            # the number of a complex type includes both parts
            width = int(bits[0]) if bits else 64
        numbers = [int(size) for size in re.findall(r"\d+", sizes)]
        total += math.prod(numbers) * width / 8
    return total


def _parse(line: str) -> _Instruction | None:
    head = _INSTRUCTION.match(line)
    if head is None:
        return None
    text = line[head.end() :]
    end = _closing(text) if text.startswith("(") else text.find(" ")
    result = text[:end]
    opcode = _OPCODE.match(text, end)
    if opcode is None:
        return None
    start = opcode.end() - 1
    stop = start + _closing(text[start:])
    operands = re.findall(r"%([\w.\-]+)", text[start:stop])
    rest = text[start:]
    return _Instruction(
        head[2], opcode[1], result, tuple(operands), rest, bool(head[1])
    )


def _closing(text: str) -> int:
    """Return the position after the parenthesis that closes the first one."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return place + 1
    return len(text)


def _sent(kind: str, result: str, one: _Instruction, devices: int) -> float:
    """Return the bytes that a device of a collective's group sends, at least.

    These are the bounds of bandwidth (Thakur et al., 2005, "Optimization of collective
    communication operations in MPICH"). Each device of a group of ``n`` has the result.
    """
    groups = _GROUPS.search(one.rest)
    number = devices
    if groups:
        number = int(groups[2]) if groups[2] else groups[1].count(",") + 1
    size = _bytes(result, everywhere=True)
    if kind == "all-reduce":
        return 2 * size * (number - 1) / number
    if kind == "reduce-scatter":
        return size * (number - 1)
    if kind in ("all-gather", "all-to-all", "ragged-all-to-all"):
        return size * (number - 1) / number
    return size


def read_hlo(text: str) -> Reading:
    """Return a compiled program's traffic, collectives and slow operations.

    Args:
      text: ``compiled.as_text()`` from any of XLA's compilers.

    >>> import jax, jax.numpy as jnp
    >>> one = jnp.ones((256, 256))
    >>> product = jax.jit(jnp.matmul).lower(one, one).compile()
    >>> read_hlo(product.as_text()).traffic == 3 * 256 * 256 * 4
    True
    """
    module = _Module(text)
    traffic = 0.0
    copied = 0.0
    cycles = 0.0
    loops = 0
    branches = 0
    counts: dict[str, float] = defaultdict(float)
    sizes: dict[str, float] = defaultdict(float)
    for computation, one, times, is_known in module.steps(module.entry):
        if not is_known:
            loops += 1
            continue
        moved = times * module.moved(computation, one)
        traffic += moved
        branches += one.opcode == "conditional"
        if module.changes_layout(one):
            copied += moved
        estimate = _CYCLES.search(one.rest)
        cycles += times * float(estimate[1]) if estimate else 0.0
        # the start of an asynchronous one has the operands in its type, the end has not
        kind = one.opcode.removesuffix("-done")
        if kind in COLLECTIVES:
            begun = one
            if kind != one.opcode:
                begun = module.named[computation][one.operands[0]]
            counts[kind] += times
            sizes[kind] += times * _sent(kind, one.result, begun, module.devices)
    every = [one for part in module.computations.values() for one in part]
    convolutions = [
        one
        for one in every
        if one.opcode == "convolution" or "__cudnn$conv" in one.rest
    ]
    grouped = [one for one in convolutions if _GROUPED.search(one.rest)]
    gathered = 0.0
    for name, instructions in module.computations.items():
        for one in instructions:
            if one.opcode == "gather":
                source = module.results[name].get(one.operands[0], "")
                size = _bytes(one.result, everywhere=True)
                if 2 * size >= _bytes(source, everywhere=True):
                    gathered = max(gathered, size)
    return Reading(
        traffic=traffic,
        copied=copied,
        collectives={kind: (counts[kind], sizes[kind]) for kind in sorted(counts)},
        convolutions=len(convolutions),
        grouped=len(grouped),
        transposed=sum("lhs_dilate" in one.rest for one in convolutions),
        float64=sum("f64[" in one.result for one in every),
        callbacks=sum(
            bool(_CALLBACK.search(re.sub(r"metadata=\{[^}]*\}", "", one.rest)))
            for one in every
            if one.opcode in ("custom-call", "send", "recv", "outfeed", "infeed")
        ),
        gathered=gathered,
        loops=loops,
        branches=branches,
        cycles=cycles,
    )
