"""The affine layers of any model, found by walking its forward pass.

The pass is traced once and evaluated operation by operation, whatever library it was
written in. A matrix product or a convolution is a layer if one operand is a leaf of the
variables, or a part of one (``w[3]``, one of ``jnp.split(w, 3)``), possibly cast,
reshaped or transposed on the way; the other operand is the layer's input. The kernel of
a product over several axes (attention, ``DenseGeneral``, ``einsum``) is read as a
matrix, contracted axes times free axes. A product that is batched over axes of the
kernel is one layer for each entry, and a ``scan`` over stacked weights is one for each
step. Such layers are slices of one leaf, named by their index:
``params/blocks/kernel[3]``.

A kernel that is computed from trained leaves (standardized, normalized, a sum of
factors) makes a layer too. It has a norm, but no leaf to store a new kernel in;
:func:`layers` returns such layers on request. Biases are not layers, and neither are
arrays that are only added or looked up, such as position embeddings and embedding
tables. Other arrays that multiply activations, entry by entry or inside ``while`` and
``cond``, are not followed; :func:`unfound` names them.

Two things around a layer are recorded with it, because they change the norm of the map
that the layer is part of: factors on the channels of its output (BatchNorm in
evaluation mode), and repeated entries in its inputs (reflected borders).
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from unlearn_jax.dataflow import (
    ADDITIVE,
    CONVOLUTIONS,
    MIXING,
    Facts,
    Index,
    Leaf,
    Moved,
    Tail,
    entry_of_leaf,
    follow,
    index_name,
    moved,
    part_of_leaf,
    rearranged,
    run,
    whole_leaf,
)
from unlearn_jax.models.adapters import is_trained, leaf_paths
from unlearn_jax.types import (
    ApplyFn,
    Array,
    InputError,
    PyTree,
    check_apply_fn,
    to_float,
)

_CALLS = ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2")
_CUSTOM = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
MAX_STEPS = 256
"""Largest number of steps of a scan whose layers are found: every step is walked."""
MAX_BLOCKS = 64
"""Largest number of layers that one batched product may make."""


class Copies(NamedTuple):
    """Origin of layer inputs that are made of an earlier activation's entries.

    Attributes:
      shape: shape ``[B, ...]`` of that activation.
      copy: linear map from the activation to :attr:`Layer.inputs`; constants next to
        the copies are treated as 0.
    """

    shape: tuple[int, ...]
    copy: Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class Layer:
    """One use of a weight by the forward pass.

    Attributes:
      path: path of the weight in the variables, such as ``params/Dense_0/kernel``, or
        ``params/blocks/kernel[3]`` for a part of a leaf. For a computed kernel, the
        paths of the leaves it is computed from, joined by ``+``.
      kind: ``dense`` or ``conv``.
      kernel: weight in the layer's own form: ``[D_in, D_out]``, with several axes of
        one side merged, or ``[kh, kw, in / groups, out]``.
      inputs: ``[B, ..., D_in]``, or ``[B, H, W, in]``.
      options: options of a convolution: ``window_strides``, ``padding``,
        ``lhs_dilation``, ``rhs_dilation``, ``feature_group_count``, as
        ``jax.lax.conv_general_dilated`` takes them; empty for a matrix product.
      store: function from the layer's form back to the stored form of the weight; None
        for a computed kernel.
      scale: ``[out]``, the product of the factors that multiply the output's channels
        before any other operation, such as ``gamma / sqrt(var + eps)`` of a BatchNorm
        in evaluation mode; None for no factor. The output is followed as long as it has
        one use, through sums, products, quotients and casts. Their other operand must
        not depend on the images, and a factor must be a scalar or have one value per
        channel. An output with several axes of channels (heads) is not followed.
      copies: set if the inputs hold an activation's entries more than once, or
        constants next to them (reflected, circular, repeated or explicit zero padding,
        patches of images); None if they are an activation itself, reshaped or not.
      index: index of the weight within its leaf; empty for the whole leaf.
    """

    path: str
    kind: Literal["dense", "conv"]
    kernel: Array
    inputs: Array
    options: Mapping[str, Any]
    store: Callable[[Array], Array] | None
    scale: Array | None = None
    copies: Copies | None = None
    index: Index = ()

    @property
    def leaf_path(self) -> str:
        """Path of the leaf that holds the weight."""
        return self.path.removesuffix(index_name(self.index))


class Walk(NamedTuple):
    """Result of walking a forward pass.

    Attributes:
      layers: layers in order of execution, including those with a computed kernel.
      outputs: return value of the pass.
      since: positions of the layers whose outputs the first returned array is made of.
      unfound: paths of the trained leaves that :func:`unfound` names.
    """

    layers: list[Layer]
    outputs: Any
    since: frozenset[int]
    unfound: list[str]


def layers(
    apply_fn: ApplyFn, variables: PyTree, images: Array, *, computed: bool = False
) -> list[Layer]:
    """Find every use of a weight in ``apply_fn(variables, images)``.

    The function can be traced and differentiated. Gradients flow through the inputs as
    through the pass, custom derivatives included.

    Args:
      apply_fn: any ``(variables, images) -> logits``.
      variables: any pytree.
      images: ``[B, H, W, ch]``.
      computed: whether to include layers with a kernel computed from trained leaves.

    Returns:
      The layers in order of execution; a weight that is used twice occurs twice.

    >>> weights = {"a": jnp.ones((3, 4)), "b": jnp.ones((2, 4))}
    >>> apply_fn = lambda w, x: jax.nn.relu(x @ w["a"]) @ w["b"].T
    >>> for layer in layers(apply_fn, weights, jnp.ones((5, 3))):
    ...     print(layer.path, layer.kernel.shape, layer.inputs.shape)
    a (3, 4) (5, 3)
    b (4, 2) (5, 4)
    """
    walked = walk(apply_fn, variables, images).layers
    return [layer for layer in walked if computed or layer.store is not None]


def unfound(apply_fn: ApplyFn, variables: PyTree, images: Any) -> list[str]:
    """Name the trained arrays that multiply activations and belong to no layer.

    Arrays with fewer than two axes longer than 1 act on channels one by one and are not
    named. Arrays that are only added or looked up are not named either.

    Args:
      apply_fn: any ``(variables, images) -> logits``; only traced.
      variables: any pytree.
      images: ``[B, H, W, ch]``, or its shape (``jax.ShapeDtypeStruct``).

    Returns:
      Sorted paths.

    >>> weights = {"gate": jnp.ones((3, 4)), "shift": jnp.ones((3, 4))}
    >>> gated = lambda w, x: x * w["gate"] + w["shift"]
    >>> unfound(gated, weights, jnp.ones((3, 4)))
    ['gate']
    """
    names: list[str] = []

    def trace(variables: PyTree, images: Array) -> None:
        names.extend(walk(apply_fn, variables, images).unfound)

    jax.eval_shape(trace, variables, images)
    return names


def features(apply_fn: ApplyFn, variables: PyTree, images: Array) -> Array:
    """Return the inputs ``[B, D]`` of the head.

    The head is the last matrix product, which gives one number per class.

    Raises:
      InputError: the model does not end in a linear layer.
    """
    return head(apply_fn, variables, images)[1].inputs


def head_kernel(apply_fn: ApplyFn, variables: PyTree, images: Array) -> Array:
    """Return the weights ``[D, C]`` of the head.

    The head is the last matrix product, which gives one number per class.

    Raises:
      InputError: the model does not end in a linear layer.
    """
    return head(apply_fn, variables, images)[1].kernel


def with_kernels(
    variables: PyTree, kernels: Mapping[str, Array], records: Sequence[Layer]
) -> PyTree:
    """Return variables with some weights replaced.

    Args:
      variables: variables in which the layers were found.
      kernels: new weights by path, in the form of :attr:`Layer.kernel`.
      records: layers from :func:`layers`.

    Raises:
      InputError: a path that is not a layer's, or records that :func:`by_path` refuses.
    """
    known = by_path(records)
    if unknown := sorted(set(kernels) - set(known)):
        raise InputError(
            f"no layer has its weights at {unknown[0]!r}; layers are {', '.join(known)}"
        )
    leaves, structure = jax.tree.flatten(variables)
    place_of = {path: place for place, path in enumerate(leaf_paths(variables))}
    for path, kernel in kernels.items():
        layer = known[path]
        chex.assert_shape(kernel, layer.kernel.shape)
        assert layer.store is not None  # by_path refuses others
        place = place_of[layer.leaf_path]
        leaf = leaves[place]
        weight = layer.store(kernel).astype(leaf.dtype)
        leaves[place] = (
            jnp.asarray(leaf).at[layer.index].set(weight) if layer.index else weight
        )
    return jax.tree.unflatten(structure, leaves)


def by_path(records: Sequence[Layer]) -> dict[str, Layer]:
    """Return the last use of each weight, by path.

    Raises:
      InputError: a weight that is used in two forms, such as transposed the second
        time, or whole and in parts, so that no form is its own; or a kernel that is
        computed from other leaves.
    """
    known: dict[str, Layer] = {}
    for layer in records:
        if layer.store is None:
            raise InputError(
                f"the kernel of {layer.path!r} is computed from those leaves and cannot"
                " be replaced"
            )
        same_leaf = [one for one in known.values() if one.leaf_path == layer.leaf_path]
        for other in same_leaf:
            is_same = other.path == layer.path and np.array_equal(
                _places(layer), _places(other)
            )
            if not is_same and _overlap(layer.index, other.index):
                raise InputError(
                    f"the weights at {layer.path!r} are used in two forms, as tied"
                    " weights are, and have no inputs of their own: give each use its"
                    " own weights"
                )
        known[layer.path] = layer
    return known


def _places(layer: Layer) -> Any:
    """Return the position in the kernel of each entry of the stored weight."""
    shape = layer.kernel.shape
    assert layer.store is not None
    places: Any = np.arange(math.prod(shape)).reshape(shape)
    return layer.store(places)


def _overlap(one: Index, other: Index) -> bool:
    """Return whether two parts of a leaf have entries in common."""
    for a, b in zip(one, other, strict=False):
        low_a, high_a = _interval(a)
        low_b, high_b = _interval(b)
        if min(high_a, high_b) <= max(low_a, low_b):
            return False
    return True


def _interval(item: int | slice) -> tuple[float, float]:
    if isinstance(item, int):
        return item, item + 1
    return (0, math.inf) if item.start is None else (item.start, item.stop)


def head(
    apply_fn: Callable[[Any, Array], Any], variables: PyTree, images: Array
) -> tuple[Any, Layer]:
    """Return the outputs of a pass, and the linear layer whose outputs are the logits.

    After that layer, biases may be added and functions applied entry by entry, but no
    other layer may follow.

    Args:
      apply_fn: ``(variables, images) -> logits``, or a tuple that begins with the
        logits (a pass in training mode).
      variables: any pytree.
      images: ``[B, H, W, ch]``.

    Raises:
      InputError: the model does not end in a linear layer, or ends in the sum of
        several.
    """
    records, outputs, since, _ = walk(apply_fn, variables, to_float(images))
    batch, *_, num_classes = jax.tree.leaves(outputs)[0].shape
    heads = [
        records[place]
        for place in sorted(since)
        if records[place].kind == "dense"
        and records[place].store is not None
        and records[place].inputs.shape[:-1] == (batch,)
        and records[place].kernel.shape[-1] == num_classes
    ]
    if len(heads) != 1:
        raise InputError(
            "this needs a model that ends in a linear layer, and"
            f" {len(heads) or 'none'} was found: write the head as inputs [B, D] times"
            " weights [D, C] that are an unmodified parameter, outside loops and"
            " branches"
        )
    return outputs, heads[0]


def walk(
    apply_fn: Callable[[Any, Array], Any], variables: PyTree, images: Array
) -> Walk:
    """Trace a pass and evaluate it, recording its layers.

    Args:
      apply_fn: ``(variables, images) -> ...``.
      variables: any pytree.
      images: ``[B, H, W, ch]``.

    Raises:
      InputError: a model instead of its apply function.
    """
    check_apply_fn(apply_fn)
    closed, shape = jax.make_jaxpr(apply_fn, return_shape=True)(variables, images)
    leaves = jax.tree.leaves(variables)
    values = [*leaves, *jax.tree.leaves(images)]
    paths = leaf_paths(variables)
    facts = []
    for leaf, path, trained in zip(leaves, paths, is_trained(variables), strict=True):
        weights = frozenset({path}) if trained and jnp.ndim(leaf) > 1 else frozenset()
        facts.append(Facts(whole_leaf(path, jnp.ndim(leaf)), weights=weights))
    facts += [Facts(moved=Moved(jnp.shape(value))) for value in values[len(leaves) :]]
    record = _Record([], set())
    outputs, after = _evaluate(closed, values, facts, record)
    covered = {path for layer in record.layers for path in layer.leaf_path.split("+")}
    matrices = {
        path
        for path, leaf in zip(paths, leaves, strict=True)
        if np.sum(np.array(jnp.shape(leaf)) > 1) > 1
    }
    missing = sorted((record.factors & matrices) - covered)
    tree = jax.tree.unflatten(jax.tree.structure(shape), outputs)
    return Walk(record.layers, tree, after[0].since, missing)


class _Record(NamedTuple):
    """Collection that a walk extends.

    Attributes:
      layers: layers in order of execution.
      factors: paths of the trained leaves that activations were multiplied by in an
        operation that is not a layer.
    """

    layers: list[Layer]
    factors: set[str]


def _evaluate(
    closed: core.ClosedJaxpr,
    values: Sequence[Any],
    facts: Sequence[Facts],
    record: _Record,
) -> tuple[list[Any], list[Facts]]:
    """Run a traced function and record its layers; return its outputs with facts."""
    jaxpr = closed.jaxpr
    value_of: dict[Any, Any] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    value_of |= dict(zip(jaxpr.invars, values, strict=True))
    facts_of: dict[Any, Facts] = dict(zip(jaxpr.invars, facts, strict=True))
    uses = _uses(jaxpr)

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else value_of[atom]

    def facts_about(atom: Any) -> Facts:
        if isinstance(atom, core.Literal):
            return Facts()
        item = facts_of.get(atom, Facts())
        # a factor on one of several uses does not apply to the others
        return item if uses[atom] == 1 else item._replace(tail=None)

    for eqn in jaxpr.eqns:
        inputs = [read(atom) for atom in eqn.invars]
        items = [facts_about(atom) for atom in eqn.invars]
        name = eqn.primitive.name
        inner = _called(eqn) if name in (*_CALLS, *_CUSTOM) else None
        results = [Facts()] * len(eqn.outvars)
        if inner is not None:
            outputs, results = _evaluate(inner, inputs, items, record)
            # a custom derivative must stay in place: the values from inside are
            # discarded
            if name in _CUSTOM:
                outputs = run(jaxpr, eqn, inputs)
        elif name == "scan" and _has_layers(eqn, items):
            outputs, results = _evaluate_scan(eqn, inputs, items, record)
        else:
            outputs = run(jaxpr, eqn, inputs)
            if any(item != Facts() for item in items):
                results = _learn(jaxpr, eqn, inputs, items, record)
        value_of |= dict(zip(eqn.outvars, outputs, strict=True))
        facts_of |= dict(zip(eqn.outvars, results, strict=True))
    outputs = [read(atom) for atom in jaxpr.outvars]
    return outputs, [facts_about(atom) for atom in jaxpr.outvars]


def _has_layers(eqn: Any, facts: Sequence[Facts]) -> bool:
    """Return whether weights meet activations in products inside a scan."""
    return (
        any(item.moved is not None for item in facts)
        and any(item.weights for item in facts)
        and 0 < eqn.params["length"] <= MAX_STEPS
        and _has_products(eqn.params["jaxpr"].jaxpr)
    )


def _has_products(jaxpr: core.Jaxpr) -> bool:
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("dot_general", *CONVOLUTIONS):
            return True
        inner = _called(eqn)
        if inner is not None and _has_products(inner.jaxpr):
            return True
    return False


def _evaluate_scan(
    eqn: Any, inputs: Sequence[Any], facts: Sequence[Facts], record: _Record
) -> tuple[list[Any], list[Facts]]:
    """Run a scan step by step, so that each step's layers are recorded."""
    params = eqn.params
    num_fixed = params["num_consts"]
    num_carry = params["num_carry"]
    length = params["length"]
    # every step uses these values: a factor would not apply to a single use
    fixed_facts = [item._replace(tail=None) for item in facts[:num_fixed]]
    fixed = list(inputs[:num_fixed])
    carry = list(inputs[num_fixed : num_fixed + num_carry])
    carry_facts = list(facts[num_fixed : num_fixed + num_carry])
    stacked = inputs[num_fixed + num_carry :]
    stacked_facts = facts[num_fixed + num_carry :]
    steps = range(length)
    rows: dict[int, list[Any]] = {}
    rows_facts: list[list[Facts]] = []
    for step in reversed(steps) if params["reverse"] else steps:
        entries = [lax.index_in_dim(value, step, keepdims=False) for value in stacked]
        entry_facts = [
            _facts_of_entry(item, jnp.shape(entry), step)
            for item, entry in zip(stacked_facts, entries, strict=True)
        ]
        outputs, results = _evaluate(
            params["jaxpr"],
            [*fixed, *carry, *entries],
            [*fixed_facts, *carry_facts, *entry_facts],
            record,
        )
        carry = outputs[:num_carry]
        carry_facts = results[:num_carry]
        rows[step] = outputs[num_carry:]
        rows_facts.append(results[num_carry:])
    columns = zip(*(rows[step] for step in steps), strict=True)
    stacks = [jnp.stack(column) for column in columns]
    stacks_facts = [
        _facts_of_stack(column, jnp.shape(stack))
        for column, stack in zip(zip(*rows_facts, strict=True), stacks, strict=True)
    ]
    return [*carry, *stacks], [*carry_facts, *stacks_facts]


def _facts_of_entry(facts: Facts, shape: tuple[int, ...], position: int) -> Facts:
    """Return the facts about ``value[position]``, whose shape is given."""
    leaf = None if facts.leaf is None else entry_of_leaf(facts.leaf, position)
    is_vector = leaf is not None and len(shape) < 2
    return Facts(
        leaf=leaf,
        moved=None if facts.moved is None else Moved(shape),
        since=facts.since,
        weights=frozenset() if is_vector else facts.weights,
    )


def _facts_of_stack(facts: Sequence[Facts], shape: tuple[int, ...]) -> Facts:
    if any(item.moved is not None for item in facts):
        return Facts(moved=Moved(shape))
    return Facts(weights=frozenset().union(*(item.weights for item in facts)))


def _uses(jaxpr: core.Jaxpr) -> Counter[Any]:
    """Count how often each value is read on the way to an output."""
    uses = Counter(atom for atom in jaxpr.outvars if not isinstance(atom, core.Literal))
    for eqn in reversed(jaxpr.eqns):
        if any(variable in uses for variable in eqn.outvars):
            uses.update(
                atom for atom in eqn.invars if not isinstance(atom, core.Literal)
            )
    return uses


def _learn(
    jaxpr: core.Jaxpr,
    eqn: Any,
    inputs: Sequence[Any],
    facts: Sequence[Facts],
    record: _Record,
) -> list[Facts]:
    """Return facts about the outputs of an operation that is not a call.

    The operation is recorded if it is a layer; otherwise its weights are.
    """
    leaves = rearranged(eqn, inputs, [item.leaf for item in facts])
    tail, factor = follow(eqn, inputs, facts)
    if tail is not None and factor is not None:
        layer = record.layers[tail.layer]
        scale = factor if layer.scale is None else layer.scale * factor
        record.layers[tail.layer] = dataclasses.replace(layer, scale=scale)
    new, axis = _as_layers(eqn, inputs, facts)
    first = len(record.layers)
    record.layers.extend(new)
    sources = moved(jaxpr, eqn, inputs, [item.moved for item in facts])
    weights = frozenset().union(*(item.weights for item in facts))
    since = frozenset().union(*(item.since for item in facts))
    name = eqn.primitive.name
    depends = any(item.moved is not None for item in facts)
    if new:
        tail = None if axis is None else Tail(first, axis)
        since = frozenset(range(first, len(record.layers)))
    elif name in MIXING:
        since = frozenset()
    if not new and depends and name not in ADDITIVE:
        record.factors.update(weights)
    results = []
    for leaf, source, variable in zip(leaves, sources, eqn.outvars, strict=True):
        is_vector = leaf is not None and variable.aval.ndim < 2
        remaining = frozenset() if depends or is_vector else weights
        results.append(Facts(leaf, source, tail, since, remaining))
    return results


def _called(eqn: Any) -> core.ClosedJaxpr | None:
    """Return the function inside an operation, if it has one."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(key)
        if inner is not None:
            is_closed = isinstance(inner, core.ClosedJaxpr)
            return inner if is_closed else core.ClosedJaxpr(inner, ())
    return None


def _as_layers(
    eqn: Any, inputs: Sequence[Any], facts: Sequence[Facts]
) -> tuple[list[Layer], int | None]:
    """Return the layers of an operation, and the axis of its output's channels.

    The axis is None for several layers, and for channels on several axes.
    """
    if eqn.primitive.name == "dot_general":
        return _dense(eqn, inputs, facts)
    if (
        eqn.primitive.name in CONVOLUTIONS
        and eqn.params["batch_group_count"] == 1
        and _is_weight(facts[1], facts[0])
    ):
        return [_conv(eqn, inputs, facts)], eqn.params["dimension_numbers"].out_spec[1]
    return [], None


def _is_weight(facts: Facts, other: Facts) -> bool:
    """Return whether an operand is a layer's kernel, given facts about the other."""
    if facts.leaf is not None:
        return other.leaf is None and not other.weights
    return bool(facts.weights) and other.moved is not None


def _dense(
    eqn: Any, inputs: Sequence[Any], facts: Sequence[Facts]
) -> tuple[list[Layer], int | None]:
    contracted, batched = eqn.params["dimension_numbers"]
    for weight in (1, 0):
        other = 1 - weight
        is_matrix = contracted[0] and jnp.ndim(inputs[weight]) > 1
        if is_matrix and _is_weight(facts[weight], facts[other]):
            break
    else:
        return [], None

    kernel = inputs[weight]
    inner = tuple(contracted[weight])
    blocks = tuple(batched[weight])
    free = tuple(i for i in range(kernel.ndim) if i not in (*inner, *blocks))
    order = (*blocks, *inner, *free)
    back = tuple(int(i) for i in np.argsort(order))
    block_sizes = tuple(kernel.shape[axis] for axis in blocks)
    if math.prod(block_sizes) > MAX_BLOCKS:
        return [], None
    inner_sizes = tuple(kernel.shape[axis] for axis in inner)
    sizes = (*[1] * len(blocks), *inner_sizes, *(kernel.shape[axis] for axis in free))
    width = math.prod(inner_sizes)
    matrices = kernel.transpose(order).reshape(*block_sizes, width, -1)
    ndim = jnp.ndim(inputs[other])
    rest = [i for i in range(ndim) if i not in (*contracted[other], *batched[other])]
    order_of_inputs = (*batched[other], *rest, *contracted[other])

    dense_layers = []
    for block in np.ndindex(*block_sizes):

        def arrange(value: Array, block: tuple[int, ...] = block) -> Array:
            arranged = value.transpose(order_of_inputs)
            if block:
                arranged = arranged[block]
            return arranged.reshape(*arranged.shape[: len(rest)], width)

        def unarrange(kernel: Array) -> Array:
            return kernel.reshape(sizes).transpose(back)

        leaf = facts[weight].leaf
        if leaf is not None and blocks:
            starts = [0] * kernel.ndim
            limits = list(kernel.shape)
            for axis, position in zip(blocks, block, strict=True):
                starts[axis] = position
                limits[axis] = position + 1
            leaf = part_of_leaf(leaf, kernel.shape, starts, limits)
        suffix = index_name(block) if leaf is None else ""
        copies = _copies(facts[other].moved, arrange)
        dense_layers.append(
            _layer(
                facts[weight],
                leaf,
                "dense",
                matrices[block] if block else matrices,
                arrange(inputs[other]),
                {},
                unarrange,
                copies,
                suffix,
            )
        )
    if blocks or len(free) != 1:
        return dense_layers, None
    return dense_layers, 0 if weight == 0 else eqn.outvars[0].aval.ndim - 1


def _conv(eqn: Any, inputs: Sequence[Any], facts: Sequence[Facts]) -> Layer:
    numbers = eqn.params["dimension_numbers"]
    batch, channels, *space = numbers.lhs_spec
    out, into, *window = numbers.rhs_spec
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
        return value.transpose((batch, *space, channels))

    def unarrange(kernel: Array) -> Array:
        return kernel.transpose(back)

    options = {name: eqn.params[name] for name in names}
    copies = _copies(facts[0].moved, arrange)
    kernel = inputs[1].transpose(order)
    return _layer(
        facts[1],
        facts[1].leaf,
        "conv",
        kernel,
        arrange(inputs[0]),
        options,
        unarrange,
        copies,
    )


def _layer(
    facts: Facts,
    leaf: Leaf | None,
    kind: Literal["dense", "conv"],
    kernel: Array,
    inputs: Array,
    options: Mapping[str, Any],
    unarrange: Callable[[Array], Array],
    copies: Copies | None,
    suffix: str = "",
) -> Layer:
    """Return a layer whose kernel is a leaf, or a part of it, or computed."""
    if leaf is None:
        path = "+".join(sorted(facts.weights)) + suffix
        return Layer(path, kind, kernel, inputs, options, None, copies=copies)
    undo = leaf.undo

    def store(kernel: Array) -> Array:
        return undo(unarrange(kernel))

    name = index_name(leaf.part)
    path = leaf.path + name
    return Layer(
        path,
        kind,
        kernel,
        inputs,
        options,
        store,
        None,
        copies,
        leaf.part if name else (),
    )


def _copies(inputs: Moved | None, arrange: Callable[[Array], Array]) -> Copies | None:
    if inputs is None or inputs.source is None or not inputs.copied:
        return None

    def copy(activation: Array) -> Array:
        return arrange(inputs.replay(activation, {}))

    return Copies(inputs.source.shape, copy)
