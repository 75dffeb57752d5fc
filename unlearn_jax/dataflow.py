"""Rules for following arrays through the operations of a traced forward pass.

:mod:`unlearn_jax.layers` evaluates a pass operation by operation and keeps
:class:`Facts` about every value on the way. The functions here derive the facts about
an operation's outputs from those about its inputs.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend import core

from unlearn_jax import onednn
from unlearn_jax.types import Array

CASTS = (
    "convert_element_type",
    "copy",
    "copy_p",
    "optimization_barrier",
    "sharding_constraint",
)
SHAPES = ("reshape", "squeeze", "expand_dims")
CONVOLUTIONS = ("conv_general_dilated", onednn.NAME)
MIXING = ("dot_general", *CONVOLUTIONS, "scan", "while", "cond")
ADDITIVE = (
    "add",
    "add_any",
    "sub",
    "concatenate",
    "select_n",
    "max",
    "min",
    "clamp",
    "pad",
    "gather",
    "dynamic_slice",
    "dynamic_update_slice",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
)
"""Operations that move, add or compare an array's entries, but never multiply by them.
"""
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

Index = tuple[int | slice, ...]
"""Index of a part of an array, as in NumPy's basic indexing."""


class Leaf(NamedTuple):
    """Leaf of the variables, or a part of one, possibly rearranged.

    Attributes:
      path: path of the leaf in the variables.
      undo: function from the present arrangement back to ``leaf[part]``.
      part: index of the part, with an entry for each axis of the leaf.
      axes: leaf axis that each present axis runs along; an entry is None for an added
        axis of length 1. None as a whole after a reshape, which leaves no axes to take
        parts along.
    """

    path: str
    undo: Callable[[Array], Array]
    part: Index
    axes: tuple[int | None, ...] | None


class LayerOutput(NamedTuple):
    """Output of a layer, up to an affine function of each channel.

    Attributes:
      layer: position of the layer in order of execution.
      axis: axis of the channels.
    """

    layer: int
    axis: int


@dataclasses.dataclass(frozen=True, eq=False)
class Activation:
    """Value that depends on the images, with the origin of its entries.

    An activation that an operation moves or copies is made of the entries of an earlier
    one, its source. An activation that an operation computes is its own source.

    Attributes:
      shape: shape of the activation.
      source: activation that the entries come from; None if it is its own source.
      step: function that makes the activation from ``parents``; None for a source.
      parents: activations with the same source.
      has_copies: whether entries may occur more than once, or next to constants.
    """

    shape: tuple[int, ...]
    source: "Activation | None" = None
    step: Callable[[Sequence[Array]], Array] | None = None
    parents: tuple["Activation", ...] = ()
    has_copies: bool = False

    def replay(self, source: Array, done: dict["Activation", Array]) -> Array:
        """Return the activation that another source gives.

        Args:
          source: array in place of the original source.
          done: activations computed so far, extended in place.
        """
        if self.step is None:
            return source
        if self not in done:
            done[self] = self.step(
                [parent.replay(source, done) for parent in self.parents]
            )
        return done[self]


class Facts(NamedTuple):
    """Facts about one value of a pass.

    Attributes:
      leaf: set if the value is a leaf of the variables, or a part of one, rearranged or
        not.
      activation: set if the value depends on the images.
      layer_output: set if the value is a layer's output up to an affine function of
        each channel.
      source_layers: positions of the layers whose outputs the value is made of, without
        a product, convolution, loop or branch in between.
      weights: paths of the trained leaves with more than one axis that the value
        depends on; empty if the value depends on the images.
    """

    leaf: Leaf | None = None
    activation: Activation | None = None
    layer_output: LayerOutput | None = None
    source_layers: frozenset[int] = frozenset()
    weights: frozenset[str] = frozenset()


def shape_of(variable: core.Var) -> tuple[int, ...]:
    """Return the shape of a variable of a traced function."""
    return cast(ShapedArray, variable.aval).shape


def evaluate_eqn(
    jaxpr: core.Jaxpr, eqn: core.JaxprEqn, inputs: Sequence[Array]
) -> list[Array]:
    """Evaluate one operation, as it runs inside the traced function.

    Args:
      jaxpr: traced function that the operation belongs to.
      eqn: operation.
      inputs: its operands, literals included.
    """
    operands = {
        atom: value
        for atom, value in zip(eqn.invars, inputs, strict=True)
        if not isinstance(atom, core.Literal)
    }
    program = jaxpr.replace(
        constvars=[],
        invars=list(operands),
        outvars=eqn.outvars,
        eqns=[eqn],
        effects=eqn.effects,
        debug_info=jaxpr.debug_info.with_unknown_names(),
    )
    return core.jaxpr_as_fun(core.ClosedJaxpr(program, ()))(*operands.values())


def whole_leaf(path: str, num_axes: int) -> Leaf:
    """Return a whole leaf in its stored arrangement."""
    axes = tuple(range(num_axes))
    return Leaf(path, lambda kernel: kernel, (slice(None),) * num_axes, axes)


def part_of_leaf(
    leaf: Leaf, shape: tuple[int, ...], starts: Sequence[int], limits: Sequence[int]
) -> Leaf | None:
    """Return the part of a leaf that a slice of stride 1 selects.

    Args:
      leaf: leaf before the slice.
      shape: shape of its present arrangement.
      starts: start of the slice along each present axis.
      limits: end of the slice along each present axis.

    Returns:
      The part, or None if the leaf was reshaped before.
    """
    if leaf.axes is None:
        return None
    index = list(leaf.part)
    axes = list(leaf.axes)
    for place, (size, start, limit) in enumerate(
        zip(shape, starts, limits, strict=True)
    ):
        axis = leaf.axes[place]
        if (start, limit) == (0, size) or axis is None:
            continue
        taken = index[axis]
        assert isinstance(taken, slice)  # only axes that are gone have an integer
        first = (taken.start or 0) + start
        if limit - start == 1:
            index[axis] = first
            axes[place] = None
        else:
            index[axis] = slice(first, first + limit - start)
    return Leaf(leaf.path, _undo_of(axes), tuple(index), tuple(axes))


def entry_of_leaf(leaf: Leaf, position: int) -> Leaf | None:
    """Return ``leaf[position]``, the entry of a stacked leaf that a scan step reads.

    Args:
      leaf: leaf that is stacked along its first present axis.
      position: index of the entry.

    Returns:
      The entry, or None if the leaf was reshaped before.
    """
    if leaf.axes is None or leaf.axes[0] is None:
        return None
    index = list(leaf.part)
    taken = index[leaf.axes[0]]
    assert isinstance(taken, slice)
    index[leaf.axes[0]] = (taken.start or 0) + position
    axes = leaf.axes[1:]
    return Leaf(leaf.path, _undo_of(axes), tuple(index), axes)


def _undo_of(axes: Sequence[int | None]) -> Callable[[Array], Array]:
    """Return the function that drops added axes and sorts the others."""
    present = [place for place, axis in enumerate(axes) if axis is not None]
    sources = [axis for axis in axes if axis is not None]
    back = [int(place) for place in np.argsort(sources)]

    def undo(kernel: Array) -> Array:
        bare = kernel.reshape([kernel.shape[place] for place in present])
        return bare.transpose(back)

    return undo


def index_name(index: Index) -> str:
    """Return an index as text, without trailing axes that are kept whole.

    >>> index_name((slice(None), 3, slice(0, 8), slice(None)))
    '[:,3,0:8]'
    >>> index_name((slice(None), slice(None)))
    ''
    """
    names = []
    for item in index:
        if isinstance(item, int):
            names.append(str(item))
        elif item.start is None:
            names.append(":")
        else:
            names.append(f"{item.start}:{item.stop}")
    while names and names[-1] == ":":
        names.pop()
    return f"[{','.join(names)}]" if names else ""


def rearranged_leaves(
    eqn: core.JaxprEqn, inputs: Sequence[Array], leaves: Sequence[Leaf | None]
) -> list[Leaf | None]:
    """Return each output's leaf if an operation only rearranges a leaf, else Nones.

    Casts, copies, reshapes, transposes, slices of stride 1 and splits count as
    rearrangements.

    Args:
      eqn: operation.
      inputs: its operands.
      leaves: leaf that each operand is.
    """
    nothing: list[Leaf | None] = [None] * len(eqn.outvars)
    leaf = leaves[0] if leaves else None
    if leaf is None:
        return nothing
    undo = leaf.undo
    shape = jnp.shape(inputs[0])
    name = eqn.primitive.name
    result = shape_of(eqn.outvars[0])
    if name in CASTS and len(inputs) == 1:
        return [leaf]
    if name in SHAPES or (
        name == "broadcast_in_dim" and np.prod(result) == np.prod(shape)
    ):

        def unshape(kernel: Array) -> Array:
            return undo(kernel.reshape(shape))

        return [leaf._replace(undo=unshape, axes=_axes_after(eqn, leaf, shape))]
    if name == "transpose":
        order = eqn.params["permutation"]
        back = tuple(int(i) for i in np.argsort(order))

        def untranspose(kernel: Array) -> Array:
            return undo(kernel.transpose(back))

        axes = None if leaf.axes is None else tuple(leaf.axes[i] for i in order)
        return [leaf._replace(undo=untranspose, axes=axes)]
    if name == "slice" and set(eqn.params["strides"] or (1,)) == {1}:
        limits = eqn.params["limit_indices"]
        return [part_of_leaf(leaf, shape, eqn.params["start_indices"], limits)]
    if name == "split":
        parts = []
        axis = eqn.params["axis"]
        starts = [0] * len(shape)
        for variable in eqn.outvars:
            sizes = shape_of(variable)
            limits = [start + size for start, size in zip(starts, sizes, strict=True)]
            parts.append(part_of_leaf(leaf, shape, starts, limits))
            starts[axis] = limits[axis]
        return parts
    return nothing


def _axes_after(
    eqn: core.JaxprEqn, leaf: Leaf, shape: tuple[int, ...]
) -> tuple[int | None, ...] | None:
    """Return the leaf's axes after a reshape that drops or adds axes of length 1."""
    result = shape_of(eqn.outvars[0])
    if leaf.axes is None:
        return None
    pairs = zip(shape, leaf.axes, strict=True)
    remaining = [(size, axis) for size, axis in pairs if axis is not None]
    axes: list[int | None] = []
    for size in result:
        if remaining and remaining[0][0] == size:
            axes.append(remaining.pop(0)[1])
        elif size == 1:
            axes.append(None)
        else:
            return None
    return None if remaining else tuple(axes)


def trace_sources(
    jaxpr: core.Jaxpr,
    eqn: core.JaxprEqn,
    inputs: Sequence[Array],
    activations: Sequence[Activation | None],
) -> list[Activation | None]:
    """Return each output of an operation as an activation, with its source.

    An output that does not depend on the images gives None. Constants next to the
    entries (padding) are treated as 0, because only the linear part of the operation
    matters.

    Args:
      jaxpr: traced function that the operation belongs to.
      eqn: operation.
      inputs: its operands.
      activations: activation that each operand is.
    """
    name = eqn.primitive.name
    shapes = [shape_of(variable) for variable in eqn.outvars]
    parents = tuple(item for item in activations if item is not None)
    if not parents:
        return [None] * len(shapes)
    if name in CASTS and len(activations) == 1:
        return [parents[0]]
    sources = {parent.source or parent for parent in parents}
    if (
        name not in (*SHAPES, *_MOVES)
        or len(sources) > 1
        or (activations[0] is None and name != "concatenate")
    ):
        return [Activation(shape) for shape in shapes]
    has_border = name in ("pad", "concatenate")

    def step(index: int, values: Sequence[Array]) -> Array:
        rest = iter(values)
        arguments = []
        for value, activation in zip(inputs, activations, strict=True):
            if activation is not None:
                arguments.append(next(rest))
            else:
                arguments.append(jnp.zeros_like(value) if has_border else value)
        return evaluate_eqn(jaxpr, eqn, arguments)[index]

    has_copies = (
        name in ("gather", "concatenate")
        or any(np.prod(shape) > np.size(inputs[0]) for shape in shapes)
        or any(parent.has_copies for parent in parents)
    )
    (source,) = sources
    return [
        Activation(shape, source, functools.partial(step, index), parents, has_copies)
        for index, shape in enumerate(shapes)
    ]


def channelwise_affine(
    eqn: core.JaxprEqn, inputs: Sequence[Array], facts: Sequence[Facts]
) -> tuple[LayerOutput | None, Array | None]:
    """Return the layer's output that an operation maps channel by channel.

    Args:
      eqn: operation.
      inputs: its operands.
      facts: facts about each operand.

    Returns:
      The layer's output, with the axis that its channels have after the operation, and
      the factor ``[out]`` that multiplies them; None for no factor. Both are None if
      the operation is not an affine function of each channel of a layer's output.
    """
    side = next(
        (i for i, item in enumerate(facts) if item.layer_output is not None), None
    )
    if side is None or any(
        item.activation is not None for i, item in enumerate(facts) if i != side
    ):
        return None, None
    output = facts[side].layer_output
    assert output is not None
    name = eqn.primitive.name
    shape = jnp.shape(inputs[side])
    result = shape_of(eqn.outvars[0])
    if name in CASTS and len(facts) == 1:
        return output, None
    if name == "transpose":
        return output._replace(axis=eqn.params["permutation"].index(output.axis)), None
    if name in SHAPES and output.axis == len(shape) - 1 and result[-1:] == shape[-1:]:
        return output._replace(axis=len(result) - 1), None
    if shape != result or name not in ("add", "sub", "mul", "div", "neg"):
        return None, None
    if name == "neg" or (name, side) == ("sub", 1):
        return output, jnp.full((shape[output.axis],), -1.0)
    if name in ("add", "sub"):
        return output, None
    other = jnp.asarray(inputs[1 - side])
    is_uneven = any(
        size != 1 for axis, size in enumerate(other.shape) if axis != output.axis
    )
    if is_uneven or (name, side) == ("div", 1):
        return None, None
    factor = jnp.broadcast_to(other.reshape(-1), (shape[output.axis],))
    return output, factor if name == "mul" else 1 / factor
