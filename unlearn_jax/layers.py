"""The affine layers of any model: found by walking its forward pass, whatever library it was written in.

The pass is traced once and evaluated operation by operation. A matrix product or a
convolution one of whose operands is a leaf of the variables, possibly cast, reshaped or
transposed on the way, is a layer; its other operand is the layer's input. Layers inside
loops and branches (``scan``, ``while``, ``cond``), weights of more than two axes
(attention) and weights that are scaled or normalized before use are not found; biases
are no layers.

Two things around a layer are noted with it, because they change the norm of the map
that the layer is part of: factors on its output's channels (BatchNorm in evaluation
mode), and copies that its inputs are made of (reflected borders).
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from unlearn_jax.dataflow import (
    MIXING,
    Known,
    Leaf,
    Moved,
    Tail,
    follow,
    moved,
    rearranged,
    run,
)
from unlearn_jax.types import ApplyFn, Array, InputError, PyTree

_CALLS = ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2")
_CUSTOM = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")


class Copies(NamedTuple):
    """How a layer's inputs are made of an earlier activation, by moving and copying its entries alone.

    Attributes:
      shape: of that activation, ``[B, ...]``.
      copy: activation to :attr:`Layer.inputs`. Linear: constants written beside the
        copies are taken for 0.
    """

    shape: tuple[int, ...]
    copy: Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class Layer:
    """One use of a weight by the forward pass.

    Attributes:
      path: of the leaf in the variables, such as ``params/Dense_0/kernel``.
      kind: ``dense`` or ``conv``.
      kernel: the weight in the layer's own form: ``[D_in, D_out]``, or
        ``[kh, kw, in / groups, out]``.
      inputs: ``[B, ..., D_in]``, or ``[B, H, W, in]``.
      knobs: of a convolution: ``window_strides``, ``padding``, ``lhs_dilation``,
        ``rhs_dilation``, ``feature_group_count``, as ``jax.lax.conv_general_dilated``
        takes them; empty for a matrix product.
      store: from the layer's form back to the leaf as it is stored.
      scale: ``[out]``, the product of the factors that the output's channels are
        multiplied by before anything else happens to them, such as
        ``gamma / sqrt(var + eps)`` of a BatchNorm in evaluation mode; None for no
        factor. The output is followed as long as it has one use, through sums,
        products, quotients and casts whose other operand does not depend on the images
        and, where it is a factor, is a scalar or has one value per channel.
      copies: set where the inputs hold an activation's entries more than once, or
        constants beside them (reflected, circular, repeated or explicit zero padding,
        patches of images); None where they are an activation itself, reshaped or not.
    """

    path: str
    kind: Literal["dense", "conv"]
    kernel: Array
    inputs: Array
    knobs: Mapping[str, Any]
    store: Callable[[Array], Array]
    scale: Array | None = None
    copies: Copies | None = None


def layers(apply: ApplyFn, variables: PyTree, images: Array) -> list[Layer]:
    """Every use of a weight in ``apply(variables, images)``, in order of execution.

    Can be traced and differentiated: gradients flow through the inputs as through the
    pass, custom ones included.

    Args:
      apply: any ``(variables, images) -> logits``.
      variables: any pytree.
      images: ``[B, H, W, ch]``.

    Returns:
      The layers; a weight that is used twice is there twice.

    >>> found = layers(lambda w, x: jax.nn.relu(x @ w["a"]) @ w["b"].T, {"a": jnp.ones((3, 4)), "b": jnp.ones((2, 4))},
    ...                jnp.ones((5, 3)))
    >>> [(layer.path, layer.kernel.shape, layer.inputs.shape) for layer in found]
    [('a', (3, 4), (5, 3)), ('b', (4, 2), (5, 4))]
    """
    return _walk(apply, variables, images)[0]


def features(apply: ApplyFn, variables: PyTree, images: Array) -> Array:
    """What the head sees: inputs ``[B, D]`` of the last matrix product that gives one number per class.

    Raises:
      InputError: the model does not end in a linear layer.
    """
    return head(apply, variables, images)[1].inputs


def head_kernel(apply: ApplyFn, variables: PyTree, images: Array) -> Array:
    """Weights ``[D, C]`` of the head, see :func:`features`.

    Raises:
      InputError: the model does not end in a linear layer.
    """
    return head(apply, variables, images)[1].kernel


def with_kernels(
    variables: PyTree, kernels: Mapping[str, Array], found: Sequence[Layer]
) -> PyTree:
    """The variables with some weights replaced.

    Args:
      variables: as the layers were found in.
      kernels: new weights by path, in the form of :attr:`Layer.kernel`.
      found: what :func:`layers` found.

    Raises:
      InputError: a path that is no layer's; else as :func:`by_path`.
    """
    known = by_path(found)
    if unknown := sorted(set(kernels) - set(known)):
        raise InputError(
            f"no layer has its weights at {unknown[0]!r}; layers are {', '.join(known)}"
        )

    def replace(path: Any, leaf: Array) -> Array:
        name = _name(path)
        return (
            known[name].store(kernels[name]).astype(leaf.dtype)
            if name in kernels
            else leaf
        )

    return jax.tree_util.tree_map_with_path(replace, variables)


def by_path(found: Sequence[Layer]) -> dict[str, Layer]:
    """The last use of each weight.

    Raises:
      InputError: a weight that is used in two forms, such as transposed the second
        time: none is the layer's own.
    """
    known: dict[str, Layer] = {}
    for layer in found:
        if layer.path in known and not np.array_equal(
            _places(layer), _places(known[layer.path])
        ):
            raise InputError(
                f"the weights at {layer.path!r} are used in two forms, as tied weights"
                " are, and have no inputs of their own: give each use its own weights"
            )
        known[layer.path] = layer
    return known


def _places(layer: Layer) -> Any:
    """Where each entry of the kernel lies in the leaf."""
    shape = layer.kernel.shape
    return layer.store(np.arange(np.prod(shape)).reshape(shape))  # pyright: ignore[reportArgumentType]


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def head(
    apply: Callable[[Any, Array], Any], variables: PyTree, images: Array
) -> tuple[Any, Layer]:
    """The pass and its head at once: what ``apply`` returns, and the linear layer whose outputs are the logits.

    Biases may have been added to them, and any function applied entry by entry, but no
    other layer.

    Args:
      apply: ``(variables, images) -> logits``, or a tuple that begins with the logits
        (a pass in training mode).
      variables: any pytree.
      images: ``[B, H, W, ch]``.

    Raises:
      InputError: the model does not end in a linear layer, or ends in the sum of
        several.
    """
    found, outputs, since = _walk(apply, variables, images)
    batch, *_, num_classes = jax.tree.leaves(outputs)[0].shape
    last = [found[place] for place in sorted(since) if found[place].kind == "dense"]
    last = [
        one
        for one in last
        if one.inputs.shape[:-1] == (batch,) and one.kernel.shape[-1] == num_classes
    ]
    if len(last) != 1:
        raise InputError(
            f"this needs a model that ends in a linear layer, and {len(last) or 'none'}"
            " was found: write the head as inputs [B, D] times weights [D, C] that are"
            " a parameter as it is, outside loops and branches"
        )
    return outputs, last[0]


def _walk(
    apply: Callable[[Any, Array], Any], variables: PyTree, images: Array
) -> tuple[list[Layer], Any, frozenset[int]]:
    """Layers, what ``apply`` returns, and the places of the layers whose outputs its first array is made of."""
    closed, shape = jax.make_jaxpr(apply, return_shape=True)(variables, images)
    leaves = jax.tree_util.tree_flatten_with_path(variables)[0]
    values = [*(leaf for _, leaf in leaves), *jax.tree.leaves(images)]
    known = [Known(Leaf(_name(path), lambda kernel: kernel)) for path, _ in leaves]
    known += [Known(moved=Moved(jnp.shape(value))) for value in values[len(leaves) :]]
    found: list[Layer] = []
    outputs, after = _evaluate(closed, values, known, found)
    return found, jax.tree.unflatten(jax.tree.structure(shape), outputs), after[0].since


def _evaluate(
    closed: core.ClosedJaxpr,
    values: Sequence[Any],
    known: Sequence[Known],
    found: list[Layer],
) -> tuple[list[Any], list[Known]]:
    """Runs a traced function, noting layers; also says what is known of its outputs."""
    value_of: dict[Any, Any] = dict(
        zip(closed.jaxpr.constvars, closed.consts, strict=True)
    )
    known_of: dict[Any, Known] = {}
    value_of |= dict(zip(closed.jaxpr.invars, values, strict=True))
    known_of |= dict(zip(closed.jaxpr.invars, known, strict=True))
    uses = _uses(closed.jaxpr)

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else value_of[atom]

    def about(atom: Any) -> Known:
        item = (
            Known() if isinstance(atom, core.Literal) else known_of.get(atom, Known())
        )
        return (
            item if item.tail is None or uses[atom] == 1 else item._replace(tail=None)
        )

    for eqn in closed.jaxpr.eqns:
        inputs, items, name = (
            [read(v) for v in eqn.invars],
            [about(v) for v in eqn.invars],
            eqn.primitive.name,
        )
        inner = _inner(eqn) if name in (*_CALLS, *_CUSTOM) else None
        outputs, results = None, [Known()] * len(eqn.outvars)
        if inner is not None:
            outputs, results = _evaluate(inner, inputs, items, found)
        if (
            inner is None or name in _CUSTOM
        ):  # a custom rule must stay in place: what was evaluated inside is dropped
            outputs = run(closed.jaxpr, eqn, inputs)
        if inner is None and any(item != Known() for item in items):
            results = _learn(closed.jaxpr, eqn, inputs, items, found)
        assert outputs is not None
        value_of |= dict(zip(eqn.outvars, outputs, strict=True))
        known_of |= dict(zip(eqn.outvars, results, strict=True))
    return [read(v) for v in closed.jaxpr.outvars], [
        about(v) for v in closed.jaxpr.outvars
    ]


def _uses(jaxpr: core.Jaxpr) -> Counter[Any]:
    """How often each value is read on the way to an output."""
    uses = Counter(atom for atom in jaxpr.outvars if not isinstance(atom, core.Literal))
    for eqn in reversed(jaxpr.eqns):
        if any(v in uses for v in eqn.outvars):
            uses.update(
                atom for atom in eqn.invars if not isinstance(atom, core.Literal)
            )
    return uses


def _learn(
    jaxpr: core.Jaxpr,
    eqn: Any,
    inputs: Sequence[Any],
    known: Sequence[Known],
    found: list[Layer],
) -> list[Known]:
    """What is known of the outputs of one operation that is no call; notes the layer, if it is one."""
    leaf = rearranged(eqn, inputs, [item.leaf for item in known])
    tail, factor = follow(eqn, inputs, known)
    if tail is not None and factor is not None:
        layer = found[tail.layer]
        found[tail.layer] = dataclasses.replace(
            layer, scale=factor if layer.scale is None else layer.scale * factor
        )
    new = _as_layer(eqn, inputs, known)
    if new is not None:
        layer, axis = new
        tail = Tail(len(found), axis)
        found.append(layer)
    sources = moved(jaxpr, eqn, inputs, [item.moved for item in known])
    since = (
        frozenset()
        if eqn.primitive.name in MIXING
        else frozenset().union(*(item.since for item in known))
    )
    since = since if new is None else frozenset({len(found) - 1})
    return [Known(leaf, source, tail, since) for source in sources]


def _inner(eqn: Any) -> core.ClosedJaxpr | None:
    """The function that a call calls."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(key)
        if inner is not None:
            return (
                inner
                if isinstance(inner, core.ClosedJaxpr)
                else core.ClosedJaxpr(inner, ())
            )
    return None


def _as_layer(
    eqn: Any, inputs: Sequence[Any], known: Sequence[Known]
) -> tuple[Layer, int] | None:
    """The layer that an operation is, and the axis of its output's channels."""
    if eqn.primitive.name == "dot_general":
        return _dense(eqn, inputs, known)
    if (
        eqn.primitive.name == "conv_general_dilated"
        and eqn.params["batch_group_count"] == 1
    ):
        return _conv(eqn, inputs, known)
    return None


def _dense(
    eqn: Any, inputs: Sequence[Any], known: Sequence[Known]
) -> tuple[Layer, int] | None:
    (contract, batch), sides = eqn.params["dimension_numbers"], (0, 1)
    for weight in reversed(sides):
        source, other = known[weight].leaf, 1 - weight
        single = (
            len(contract[0]) == 1 and not batch[0] and jnp.ndim(inputs[weight]) == 2
        )
        if source is None or not single or known[other].leaf is not None:
            continue
        swap, undo, axis = contract[weight][0] == 1, source.undo, contract[other][0]

        def arrange(value: Array, axis: int = axis) -> Array:
            return jnp.moveaxis(value, axis, -1)

        layer = Layer(
            source.path,
            "dense",
            inputs[weight].T if swap else inputs[weight],
            arrange(inputs[other]),
            {},
            (lambda kernel, undo=undo: undo(kernel.T)) if swap else undo,
            copies=_copies(known[other].moved, arrange),
        )
        return layer, 0 if weight == 0 else eqn.outvars[0].aval.ndim - 1
    return None


def _conv(
    eqn: Any, inputs: Sequence[Any], known: Sequence[Known]
) -> tuple[Layer, int] | None:
    source, numbers = known[1].leaf, eqn.params["dimension_numbers"]
    if source is None:
        return None
    undo, (n, c, *space), (out, into, *window) = (
        source.undo,
        numbers.lhs_spec,
        numbers.rhs_spec,
    )
    order = (*window, into, out)
    back = tuple(int(i) for i in np.argsort(order))
    names = (
        "window_strides",
        "padding",
        "lhs_dilation",
        "rhs_dilation",
        "feature_group_count",
    )

    def arrange(value: Array) -> Array:
        return value.transpose((n, *space, c))

    layer = Layer(
        source.path,
        "conv",
        inputs[1].transpose(order),
        arrange(inputs[0]),
        {name: eqn.params[name] for name in names},
        lambda kernel: undo(kernel.transpose(back)),
        copies=_copies(known[0].moved, arrange),
    )
    return layer, numbers.out_spec[1]


def _copies(inputs: Moved | None, arrange: Callable[[Array], Array]) -> Copies | None:
    if inputs is None or inputs.source is None or not inputs.copied:
        return None
    return Copies(
        inputs.source.shape, lambda activation: arrange(inputs.replay(activation, {}))
    )
