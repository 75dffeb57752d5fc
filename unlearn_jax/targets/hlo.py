"""Reader of a compiled program's text: memory traffic, collectives, slow operations."""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property

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
class Reading:
    """Content of a compiled program's text, per device.

    The body of a loop counts as often as it runs. Of several branches, only the one
    that moves the fewest bytes counts.

    Attributes:
      traffic: bytes between the device's memory and its cores, as the program's kernels
        read operands and write results. For a kernel that reads a part of an array,
        only that part counts. Caches are ignored.
      copied: bytes of ``traffic`` that only change the layout of arrays.
      collectives: number of collectives of each kind, and the bytes of their results.
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
        """Bytes of the results of all collectives."""
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

    def steps(
        self, computation: str, times: float = 1.0
    ) -> Iterator[tuple[str, _Instruction, float, bool]]:
        """Yield the instructions that a computation runs, also in loops and branches.

        Each instruction comes with its computation, the number of times that it runs,
        and whether that number is known. Of several branches, the one that moves the
        fewest bytes is followed.
        """
        for one in self.computations.get(computation, ()):
            yield computation, one, times, True
            if one.opcode == "while":
                trips = self._trips(one)
                if trips is None:
                    yield computation, one, times, False
                body = re.search(r"body=%?([\w.\-]+)", one.rest)
                assert body is not None
                yield from self.steps(body[1], times * (1 if trips is None else trips))
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
            called = _CALLED.search(one.rest)
            inner = self.computations.get(called[1], []) if called else []
            kinds = {part.opcode for part in inner} - {"bitcast", "parameter"}
            return bool(kinds) and kinds <= _COPIES
        return one.opcode in _COPIES

    def _trips(self, loop: _Instruction) -> int | None:
        """Return how often a loop runs, from its note or its limit; None if unknown."""
        noted = _TRIPS.search(loop.rest)
        if noted:
            return int(noted[1])
        condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
        instructions = self.computations.get(condition[1], []) if condition else []
        root = next((one for one in instructions if one.is_root), None)
        if root is not None and root.opcode == "fusion":
            called = _CALLED.search(root.rest)
            inner = self.computations.get(called[1], []) if called else []
            instructions = [*instructions, *inner]
            root = next((one for one in inner if one.is_root), None)
        if root is None or root.opcode != "compare" or "direction=LT" not in root.rest:
            return None
        limits = {
            one.name: one.rest for one in instructions if one.opcode == "constant"
        }
        text = limits.get(root.operands[-1], "")
        number = re.match(r"\((\d+)\)", text)
        return int(number[1]) if number else None

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
        position = {name: name for name in one.operands}
        if one.opcode == "fusion":
            called = _CALLED.search(one.rest)
            inner = self.computations.get(called[1], []) if called else []
            numbers = {
                one.name: int(re.sub(r"\D.*", "", one.rest.lstrip("(")) or 0)
                for one in inner
                if one.opcode == "parameter"
            }
            names = dict(enumerate(one.operands))
            position = {
                name: names[number]
                for name, number in numbers.items()
                if number in names
            }
        inner_types = {part.name: part.result for part in inner} | types
        read = 0.0
        for name, operand in position.items():
            read += _read(name, types.get(operand, ""), inner, inner_types)
        return read + _written(one, inner, inner_types)


def _branches_of(one: _Instruction) -> list[str]:
    """Return the computations that a conditional chooses from."""
    match = _BRANCHES.search(one.rest)
    names = [] if match is None else [name for name in match.groups() if name]
    return [name.strip(" %") for part in names for name in part.split(",")]


def _read(
    name: str, kind: str, inner: list[_Instruction], types: dict[str, str]
) -> float:
    """Return the bytes of an operand that a kernel reads."""
    whole = _bytes(kind)
    if whole < _SMALL:
        return whole
    users = [part for part in inner if name in part.operands]
    # a change of type or shape reads only what its own reader reads
    for part in users:
        if part.opcode in ("bitcast", "convert", "copy", "reshape", "transpose"):
            partial = _read(part.name, kind, inner, types)
            return min(whole, partial)
    sliced = 0.0
    for part in users:
        is_first = part.operands[0] == name
        if part.opcode in ("dynamic-slice", "gather", "slice") and is_first:
            sliced += _bytes(part.result, everywhere=True)
        elif part.opcode in ("dynamic-update-slice", "scatter") and is_first:
            continue
        else:
            return whole
    return min(whole, sliced) if users else whole


def _written(
    one: _Instruction, inner: list[_Instruction], types: dict[str, str]
) -> float:
    """Return the bytes that a kernel writes; an update in place writes the update."""
    whole = _bytes(one.result)
    updates = [part for part in inner if part.opcode == "dynamic-update-slice"]
    for part in updates:
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
        kind = one.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            counts[kind] += times
            shape = one.result
            if one.opcode.endswith("-start"):
                # its type includes the operands
                sizes[kind] += times * _bytes(shape, everywhere=True) / 2
            else:
                sizes[kind] += times * _bytes(shape, everywhere=True)
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
