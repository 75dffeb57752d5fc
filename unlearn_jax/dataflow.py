"""What is known of the values of a forward pass besides the values: see :mod:`unlearn_jax.layers`, which walks it."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.extend import core

from unlearn_jax.types import Array

CASTS = (
    "convert_element_type",
    "copy",
    "copy_p",
    "optimization_barrier",
    "sharding_constraint",
)
SHAPES = ("reshape", "squeeze", "expand_dims")
MIXING = ("dot_general", "conv_general_dilated", "scan", "while", "cond")
_MOVES = (
    "transpose",
    "broadcast_in_dim",
    "slice",
    "dynamic_slice",
    "split",
    "rev",
    "gather",
    "pad",
    "concatenate",
)


class Leaf(NamedTuple):
    """A leaf of the variables, rearranged: which, and how to undo what was done to it since."""

    path: str
    undo: Callable[[Array], Array]


class Tail(NamedTuple):
    """A layer's output up to an affine function per channel: which layer, and the axis of its channels."""

    layer: int
    axis: int


@dataclasses.dataclass(frozen=True, eq=False)
class Moved:
    """A value made of entries of one earlier value, its source; a value that computes something is its own source.

    Attributes:
      shape: of the value.
      source: None for the value itself.
      step: how it arises from ``parents``; None for a source.
      parents: values with the same source.
      copied: entries may be there more than once, or have constants beside them.
    """

    shape: tuple[int, ...]
    source: "Moved | None" = None
    step: Callable[[Sequence[Array]], Array] | None = None
    parents: tuple["Moved", ...] = ()
    copied: bool = False

    def replay(self, source: Array, done: dict["Moved", Array]) -> Array:
        """The value for another source; ``done`` keeps what was computed on the way."""
        if self.step is None:
            return source
        if self not in done:
            done[self] = self.step(
                [parent.replay(source, done) for parent in self.parents]
            )
        return done[self]


class Known(NamedTuple):
    """What is known of a value.

    Attributes:
      leaf: set where it is a leaf of the variables, rearranged or not.
      moved: set where it depends on the images.
      tail: set where it is a layer's output up to an affine function per channel.
      since: the layers whose outputs it is made of, with no product, convolution, loop
        or branch in between.
    """

    leaf: Leaf | None = None
    moved: Moved | None = None
    tail: Tail | None = None
    since: frozenset[int] = frozenset()


def run(jaxpr: core.Jaxpr, eqn: Any, inputs: Sequence[Any]) -> list[Any]:
    """One operation, as it runs inside the traced function."""
    taken = {
        atom: value
        for atom, value in zip(eqn.invars, inputs, strict=True)
        if not isinstance(atom, core.Literal)
    }
    about = jaxpr.debug_info.with_unknown_names()
    parts = {
        "invars": list(taken),
        "outvars": eqn.outvars,
        "eqns": [eqn],
        "effects": eqn.effects,
    }
    program = jaxpr.replace(constvars=[], debug_info=about, **parts)
    return core.jaxpr_as_fun(core.ClosedJaxpr(program, ()))(*taken.values())


def rearranged(
    eqn: Any, inputs: Sequence[Any], known: Sequence[Leaf | None]
) -> Leaf | None:
    """The leaf that an operation only casts, copies, reshapes or transposes."""
    source = known[0]
    if source is None:
        return None
    undo, shape, name = source.undo, jnp.shape(inputs[0]), eqn.primitive.name
    if name in CASTS and len(inputs) == 1:
        return source
    if name in SHAPES:
        return source._replace(undo=lambda kernel: undo(kernel.reshape(shape)))
    if name == "transpose":
        back = tuple(int(i) for i in np.argsort(eqn.params["permutation"]))
        return source._replace(undo=lambda kernel: undo(kernel.transpose(back)))
    return None


def moved(
    jaxpr: core.Jaxpr, eqn: Any, inputs: Sequence[Any], known: Sequence[Moved | None]
) -> list[Moved | None]:
    """Where the entries of an operation's outputs come from; None for outputs that do not depend on the images.

    Constants beside the entries (padding) are taken for 0: only the linear part of what
    is done is of interest.
    """
    name, shapes = eqn.primitive.name, [v.aval.shape for v in eqn.outvars]
    parents = tuple(item for item in known if item is not None)
    if not parents:
        return [None] * len(shapes)
    if name in CASTS and len(known) == 1:
        return [parents[0]]
    sources = {parent.source or parent for parent in parents}
    if (
        name not in (*SHAPES, *_MOVES)
        or len(sources) > 1
        or (known[0] is None and name != "concatenate")
    ):
        return [Moved(shape) for shape in shapes]

    def step(index: int, values: Sequence[Array]) -> Array:
        rest, border = iter(values), name in ("pad", "concatenate")
        arguments = [
            (
                next(rest)
                if item is not None
                else jnp.zeros_like(value)
                if border
                else value
            )
            for value, item in zip(inputs, known, strict=True)
        ]
        return run(jaxpr, eqn, arguments)[index]

    grows = name in ("gather", "concatenate") or any(
        np.prod(shape) > np.size(inputs[0]) for shape in shapes
    )
    copied, (source,) = grows or any(parent.copied for parent in parents), sources
    return [
        Moved(shape, source, lambda values, i=i: step(i, values), parents, copied)
        for i, shape in enumerate(shapes)
    ]


def follow(
    eqn: Any, inputs: Sequence[Any], known: Sequence[Known]
) -> tuple[Tail | None, Array | None]:
    """The tail that an operation continues, and the factor ``[out]`` that it multiplies the channels by, if any."""
    side = next((i for i, item in enumerate(known) if item.tail is not None), None)
    if side is None or any(
        item.moved is not None for i, item in enumerate(known) if i != side
    ):
        return None, None
    tail, name = known[side].tail, eqn.primitive.name
    assert tail is not None
    shape, result = jnp.shape(inputs[side]), eqn.outvars[0].aval.shape
    if name in CASTS and len(known) == 1:
        return tail, None
    if name == "transpose":
        return tail._replace(axis=eqn.params["permutation"].index(tail.axis)), None
    if name in SHAPES and tail.axis == len(shape) - 1 and result[-1:] == shape[-1:]:
        return tail._replace(axis=len(result) - 1), None
    if shape != result or name not in ("add", "sub", "mul", "div", "neg"):
        return None, None
    if name == "neg" or (name, side) == ("sub", 1):
        return tail, jnp.full((shape[tail.axis],), -1.0)
    if name in ("add", "sub"):
        return tail, None
    other = jnp.asarray(inputs[1 - side])
    uneven = any(
        size != 1 for axis, size in enumerate(other.shape) if axis != tail.axis
    )
    if uneven or (name, side) == ("div", 1):
        return None, None
    factor = jnp.broadcast_to(other.reshape(-1), (shape[tail.axis],))
    return tail, factor if name == "mul" else 1 / factor
