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
    Activation,
    Facts,
    Index,
    LayerOutput,
    Leaf,
    channelwise_affine,
    entry_of_leaf,
    evaluate_eqn,
    index_name,
    part_of_leaf,
    rearranged_leaves,
    shape_of,
    trace_sources,
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
      source_layers: positions of the layers whose outputs the first returned array is
        made of.
      unfound: paths of the trained leaves that :func:`unfound` names.
    """

    layers: list[Layer]
    outputs: PyTree
    source_layers: frozenset[int]
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


def unfound(
    apply_fn: ApplyFn, variables: PyTree, images: Array | jax.ShapeDtypeStruct
) -> list[str]:
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


def _places(layer: Layer) -> np.ndarray:
    """Return the position in the kernel of each entry of the stored weight."""
    shape = layer.kernel.shape
    assert layer.store is not None
    # NumPy, because arrays of JAX have no values inside a traced function
    places: Any = np.arange(math.prod(shape)).reshape(shape)
    return np.asarray(layer.store(places))


def _overlap(one: Index, other: Index) -> bool:
    """Return whether two parts of a leaf have entries in common."""
    for a, b in zip(one, other, strict=False):
        low_a, high_a = _interval(a)
        low_b, high_b = _interval(b)
        if min(high_a, high_b) <= max(low_a, low_b):
            return False
    return True


def _interval(item: int | slice) -> tuple[float, float]:
    """Return the start and the end of one entry of an index."""
    if isinstance(item, int):
        return item, item + 1
    return (0, math.inf) if item.start is None else (item.start, item.stop)


def head(
    apply_fn: Callable[[PyTree, Array], PyTree], variables: PyTree, images: Array
) -> tuple[PyTree, Layer]:
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
    walked = walk(apply_fn, variables, images)
    batch, *others = jax.tree.leaves(walked.outputs)[0].shape
    candidates = [walked.layers[place] for place in sorted(walked.source_layers)]
    heads = [
        layer
        for layer in candidates
        if layer.kind == "dense"
        and layer.store is not None
        and layer.inputs.shape[:-1] == (batch,)
        and [layer.kernel.shape[-1]] == others[-1:]
    ]
    if len(heads) != 1:
        raise InputError(
            "this needs a model that ends in a linear layer, and"
            f" {len(heads) or 'none'} was found: write the head as inputs [B, D] times"
            " weights [D, C] that are an unmodified parameter, outside loops and"
            " branches"
        )
    return walked.outputs, heads[0]


def walk(
    apply_fn: Callable[[PyTree, Array], PyTree], variables: PyTree, images: Array
) -> Walk:
    """Trace a pass and evaluate it, recording its layers.

    Args:
      apply_fn: ``(variables, images) -> ...``.
      variables: any pytree.
      images: ``[B, H, W, ch]``, uint8 or floating.

    Raises:
      InputError: a model instead of its apply function.
    """
    check_apply_fn(apply_fn)
    images = to_float(jnp.asarray(images))
    closed, shape = jax.make_jaxpr(apply_fn, return_shape=True)(variables, images)
    leaves = jax.tree.leaves(variables)
    values = [*leaves, *jax.tree.leaves(images)]
    paths = leaf_paths(variables)
    facts = []
    for leaf, path, trained in zip(leaves, paths, is_trained(variables), strict=True):
        weights = frozenset({path}) if trained and jnp.ndim(leaf) > 1 else frozenset()
        facts.append(Facts(whole_leaf(path, jnp.ndim(leaf)), weights=weights))
    facts += [
        Facts(activation=Activation(jnp.shape(value)))
        for value in values[len(leaves) :]
    ]
    record = _Record([], set())
    outputs, facts_of_outputs = _evaluate(closed, values, facts, record)
    covered = {path for layer in record.layers for path in layer.leaf_path.split("+")}
    matrices = {
        path
        for path, leaf in zip(paths, leaves, strict=True)
        if np.sum(np.array(jnp.shape(leaf)) > 1) > 1
    }
    missing = sorted((record.factors & matrices) - covered)
    tree = jax.tree.unflatten(jax.tree.structure(shape), outputs)
    return Walk(record.layers, tree, facts_of_outputs[0].source_layers, missing)


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
    values: Sequence[Array],
    facts: Sequence[Facts],
    record: _Record,
) -> tuple[list[Array], list[Facts]]:
    """Run a traced function and record its layers; return its outputs with facts."""
    jaxpr = closed.jaxpr
    value_of: dict[core.Var, Array] = {}
    value_of |= dict(zip(jaxpr.constvars, closed.consts, strict=True))
    value_of |= dict(zip(jaxpr.invars, values, strict=True))
    facts_of: dict[core.Var, Facts] = dict(zip(jaxpr.invars, facts, strict=True))
    uses = _count_uses(jaxpr)

    def read(atom: core.Var | core.Literal) -> Array:
        return atom.val if isinstance(atom, core.Literal) else value_of[atom]

    def facts_about(atom: core.Var | core.Literal) -> Facts:
        if isinstance(atom, core.Literal):
            return Facts()
        facts = facts_of.get(atom, Facts())
        # a factor on one of several uses does not apply to the others
        return facts if uses[atom] == 1 else facts._replace(layer_output=None)

    for eqn in jaxpr.eqns:
        inputs = [read(atom) for atom in eqn.invars]
        facts_of_inputs = [facts_about(atom) for atom in eqn.invars]
        name = eqn.primitive.name
        inner = _inner_function(eqn) if name in (*_CALLS, *_CUSTOM) else None
        results = [Facts()] * len(eqn.outvars)
        if inner is not None:
            outputs, results = _evaluate(inner, inputs, facts_of_inputs, record)
            # a custom derivative must stay in place: the values from inside are
            # discarded
            if name in _CUSTOM:
                outputs = evaluate_eqn(jaxpr, eqn, inputs)
        elif name == "scan" and _has_layers(eqn, facts_of_inputs):
            outputs, results = _evaluate_scan(eqn, inputs, facts_of_inputs, record)
        else:
            outputs = evaluate_eqn(jaxpr, eqn, inputs)
            if any(item != Facts() for item in facts_of_inputs):
                results = _derive_facts(jaxpr, eqn, inputs, facts_of_inputs, record)
        value_of |= dict(zip(eqn.outvars, outputs, strict=True))
        facts_of |= dict(zip(eqn.outvars, results, strict=True))
    outputs = [read(atom) for atom in jaxpr.outvars]
    return outputs, [facts_about(atom) for atom in jaxpr.outvars]


def _has_layers(eqn: core.JaxprEqn, facts: Sequence[Facts]) -> bool:
    """Return whether weights meet activations in products inside a scan."""
    return (
        any(item.activation is not None for item in facts)
        and any(item.weights for item in facts)
        and 0 < eqn.params["length"] <= MAX_STEPS
        and _has_products(eqn.params["jaxpr"].jaxpr)
    )


def _has_products(jaxpr: core.Jaxpr) -> bool:
    """Return whether a function has matrix products or convolutions, calls included."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("dot_general", *CONVOLUTIONS):
            return True
        inner = _inner_function(eqn)
        if inner is not None and _has_products(inner.jaxpr):
            return True
    return False


def _evaluate_scan(
    eqn: core.JaxprEqn,
    inputs: Sequence[Array],
    facts: Sequence[Facts],
    record: _Record,
) -> tuple[list[Array], list[Facts]]:
    """Run a scan step by step, so that each step's layers are recorded."""
    params = eqn.params
    if "num_consts" in params:
        num_fixed = params["num_consts"]
        num_carry = params["num_carry"]
    else:
        # JAX 0.12 stores the structure of all inputs in place of their numbers
        groups = params["ft_in"].update(inputs).unpack()
        num_fixed, num_carry, _ = (len(list(group)) for group in groups)
    fixed = inputs[:num_fixed]
    # every step uses these values: a factor would not apply to a single use
    fixed_facts = [item._replace(layer_output=None) for item in facts[:num_fixed]]
    carry = inputs[num_fixed : num_fixed + num_carry]
    carry_facts = facts[num_fixed : num_fixed + num_carry]
    stacked = inputs[num_fixed + num_carry :]
    stacked_facts = facts[num_fixed + num_carry :]
    steps = range(params["length"])
    rows: dict[int, list[Array]] = {}
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
        activation=None if facts.activation is None else Activation(shape),
        source_layers=facts.source_layers,
        weights=frozenset() if is_vector else facts.weights,
    )


def _facts_of_stack(facts: Sequence[Facts], shape: tuple[int, ...]) -> Facts:
    """Return the facts about a stack of values, given those about each value."""
    if any(item.activation is not None for item in facts):
        return Facts(activation=Activation(shape))
    return Facts(weights=frozenset().union(*(item.weights for item in facts)))


def _count_uses(jaxpr: core.Jaxpr) -> Counter[core.Var]:
    """Count how often each value is read on the way to an output."""
    uses = Counter(atom for atom in jaxpr.outvars if not isinstance(atom, core.Literal))
    for eqn in reversed(jaxpr.eqns):
        if any(variable in uses for variable in eqn.outvars):
            uses.update(
                atom for atom in eqn.invars if not isinstance(atom, core.Literal)
            )
    return uses


def _derive_facts(
    jaxpr: core.Jaxpr,
    eqn: core.JaxprEqn,
    inputs: Sequence[Array],
    facts: Sequence[Facts],
    record: _Record,
) -> list[Facts]:
    """Return facts about the outputs of an operation that is not a call.

    The operation is recorded if it is a layer; otherwise its weights are.
    """
    leaves = rearranged_leaves(eqn, inputs, [item.leaf for item in facts])
    layer_output, factor = channelwise_affine(eqn, inputs, facts)
    if layer_output is not None and factor is not None:
        layer = record.layers[layer_output.layer]
        scale = factor if layer.scale is None else layer.scale * factor
        record.layers[layer_output.layer] = dataclasses.replace(layer, scale=scale)
    new_layers, axis = _layers_of(eqn, inputs, facts)
    first = len(record.layers)
    record.layers.extend(new_layers)
    activations = trace_sources(jaxpr, eqn, inputs, [item.activation for item in facts])
    is_activation = any(item.activation is not None for item in facts)
    weights = frozenset().union(*(item.weights for item in facts))
    source_layers = frozenset().union(*(item.source_layers for item in facts))
    name = eqn.primitive.name
    if new_layers:
        layer_output = None if axis is None else LayerOutput(first, axis)
        source_layers = frozenset(range(first, len(record.layers)))
    elif name in MIXING:
        source_layers = frozenset()
    if not new_layers and is_activation and name not in ADDITIVE:
        record.factors.update(weights)
    results = []
    for leaf, activation, variable in zip(
        leaves, activations, eqn.outvars, strict=True
    ):
        is_vector = leaf is not None and len(shape_of(variable)) < 2
        results.append(
            Facts(
                leaf=leaf,
                activation=activation,
                layer_output=layer_output,
                source_layers=source_layers,
                weights=frozenset() if is_activation or is_vector else weights,
            )
        )
    return results


def _inner_function(eqn: core.JaxprEqn) -> core.ClosedJaxpr | None:
    """Return the function inside an operation, if it has one."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(key)
        if inner is not None:
            is_closed = isinstance(inner, core.ClosedJaxpr)
            return inner if is_closed else core.ClosedJaxpr(inner, ())
    return None


def _layers_of(
    eqn: core.JaxprEqn, inputs: Sequence[Array], facts: Sequence[Facts]
) -> tuple[list[Layer], int | None]:
    """Return the layers of an operation, and the axis of its output's channels.

    The axis is None for several layers, and for channels on several axes.
    """
    if eqn.primitive.name == "dot_general":
        return _dense_layers(eqn, inputs, facts)
    if (
        eqn.primitive.name in CONVOLUTIONS
        and eqn.params["batch_group_count"] == 1
        and _is_kernel(facts[1], facts[0])
    ):
        axis = eqn.params["dimension_numbers"].out_spec[1]
        return [_conv_layer(eqn, inputs, facts)], axis
    return [], None


def _is_kernel(facts: Facts, other: Facts) -> bool:
    """Return whether an operand is a layer's kernel, given facts about the other."""
    if facts.leaf is not None:
        return other.leaf is None and not other.weights
    return bool(facts.weights) and other.activation is not None


def _dense_layers(
    eqn: core.JaxprEqn, inputs: Sequence[Array], facts: Sequence[Facts]
) -> tuple[list[Layer], int | None]:
    """Return the layers of a matrix product, and the axis of its output's channels.

    The kernel is read as blocks (batched axes) of matrices (contracted axes times free
    axes), and each block is a layer.
    """
    side = _kernel_operand(eqn, inputs, facts)
    if side is None:
        return [], None
    contracted, batched = eqn.params["dimension_numbers"]
    kernel = inputs[side]
    inner = tuple(contracted[side])
    blocks = tuple(batched[side])
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

    other = 1 - side
    ndim = jnp.ndim(inputs[other])
    rest = [i for i in range(ndim) if i not in (*contracted[other], *batched[other])]
    order_of_inputs = (*batched[other], *rest, *contracted[other])

    def restore(matrix: Array) -> Array:
        return matrix.reshape(sizes).transpose(back)

    dense_layers = []
    for block in np.ndindex(*block_sizes):

        def arrange(value: Array, block: tuple[int, ...] = block) -> Array:
            arranged = value.transpose(order_of_inputs)
            if block:
                arranged = arranged[block]
            return arranged.reshape(*arranged.shape[: len(rest)], width)

        leaf = _leaf_of_block(facts[side].leaf, kernel.shape, blocks, block)
        path, index, store = _storage(facts[side], leaf, restore)
        if leaf is None:
            path += index_name(block)
        dense_layers.append(
            Layer(
                path=path,
                kind="dense",
                kernel=matrices[block] if block else matrices,
                inputs=arrange(inputs[other]),
                options={},
                store=store,
                copies=_copies(facts[other].activation, arrange),
                index=index,
            )
        )
    if blocks or len(free) != 1:
        return dense_layers, None
    return dense_layers, 0 if side == 0 else len(shape_of(eqn.outvars[0])) - 1


def _kernel_operand(
    eqn: core.JaxprEqn, inputs: Sequence[Array], facts: Sequence[Facts]
) -> int | None:
    """Return which operand of a matrix product is a layer's kernel, if one is."""
    contracted, _ = eqn.params["dimension_numbers"]
    for side in (1, 0):
        is_matrix = contracted[0] and jnp.ndim(inputs[side]) > 1
        if is_matrix and _is_kernel(facts[side], facts[1 - side]):
            return side
    return None


def _leaf_of_block(
    leaf: Leaf | None, shape: tuple[int, ...], axes: Sequence[int], block: Sequence[int]
) -> Leaf | None:
    """Return the part of a kernel's leaf that one block is.

    Args:
      leaf: leaf that the whole kernel is.
      shape: shape of the kernel.
      axes: axes that the blocks run along.
      block: position of the block along each of them.
    """
    if leaf is None or not axes:
        return leaf
    starts = [0] * len(shape)
    limits = list(shape)
    for axis, position in zip(axes, block, strict=True):
        starts[axis] = position
        limits[axis] = position + 1
    return part_of_leaf(leaf, shape, starts, limits)


def _conv_layer(
    eqn: core.JaxprEqn, inputs: Sequence[Array], facts: Sequence[Facts]
) -> Layer:
    """Return the layer of a convolution, in the layout NHWC."""
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

    def restore(kernel: Array) -> Array:
        return kernel.transpose(back)

    path, index, store = _storage(facts[1], facts[1].leaf, restore)
    return Layer(
        path=path,
        kind="conv",
        kernel=inputs[1].transpose(order),
        inputs=arrange(inputs[0]),
        options={name: eqn.params[name] for name in names},
        store=store,
        copies=_copies(facts[0].activation, arrange),
        index=index,
    )


def _storage(
    facts: Facts, leaf: Leaf | None, restore: Callable[[Array], Array]
) -> tuple[str, Index, Callable[[Array], Array] | None]:
    """Return ``path``, ``index`` and ``store`` of a :class:`Layer`.

    Args:
      facts: facts about the operand that holds the kernel.
      leaf: leaf that the kernel is, or a part of one; None for a computed kernel.
      restore: function from the layer's form of the kernel to the operand's.
    """
    if leaf is None:
        return "+".join(sorted(facts.weights)), (), None
    undo = leaf.undo

    def store(kernel: Array) -> Array:
        return undo(restore(kernel))

    name = index_name(leaf.part)
    return leaf.path + name, leaf.part if name else (), store


def _copies(
    inputs: Activation | None, arrange: Callable[[Array], Array]
) -> Copies | None:
    """Return the origin of a layer's inputs if they hold copies, else None.

    Args:
      inputs: operand that is the layer's input, as an activation.
      arrange: function from the operand to :attr:`Layer.inputs`.
    """
    if inputs is None or inputs.source is None or not inputs.has_copies:
        return None

    def copy(activation: Array) -> Array:
        return arrange(inputs.replay(activation, {}))

    return Copies(inputs.source.shape, copy)
