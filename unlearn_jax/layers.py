"""The affine layers of any model: found by walking its forward pass, whatever library it was written in.

The pass is traced once and evaluated operation by operation. A matrix product or a convolution one of whose operands
is a leaf of the variables, possibly cast, reshaped or transposed on the way, is a layer; its other operand is the
layer's input. Layers inside loops and branches (``scan``, ``while``, ``cond``) are not found; biases are no layers.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from unlearn_jax.types import ApplyFn, Array, InputError, PyTree

_CALLS = ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2")
_CUSTOM = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")


@dataclasses.dataclass(frozen=True)
class Layer:
    """One use of a weight by the forward pass.

    Attributes:
      path: of the leaf in the variables, such as ``params/Dense_0/kernel``.
      kind: ``dense`` or ``conv``.
      kernel: the weight in the layer's own form: ``[D_in, D_out]``, or ``[kh, kw, in / groups, out]``.
      inputs: ``[B, ..., D_in]``, or ``[B, H, W, in]``.
      knobs: of a convolution: ``window_strides``, ``padding``, ``lhs_dilation``, ``rhs_dilation``,
        ``feature_group_count``, as ``jax.lax.conv_general_dilated`` takes them; empty for a matrix product.
      store: from the layer's form back to the leaf as it is stored.
    """

    path: str
    kind: Literal["dense", "conv"]
    kernel: Array
    inputs: Array
    knobs: Mapping[str, Any]
    store: Callable[[Array], Array]


class _Origin(NamedTuple):
    """Where a value comes from: a leaf, and how to undo what was done to it since."""

    path: str
    undo: Callable[[Array], Array]


def layers(apply: ApplyFn, variables: PyTree, images: Array) -> list[Layer]:
    """Every use of a weight in ``apply(variables, images)``, in order of execution.

    Can be traced and differentiated: gradients flow through the inputs as through the pass, custom ones included.

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


def with_kernels(variables: PyTree, kernels: Mapping[str, Array], found: Sequence[Layer]) -> PyTree:
    """The variables with some weights replaced.

    Args:
      variables: as the layers were found in.
      kernels: new weights by path, in the form of :attr:`Layer.kernel`.
      found: what :func:`layers` found.

    Raises:
      InputError: a path that is no layer's.
    """
    by_path = {layer.path: layer for layer in found}
    if unknown := sorted(set(kernels) - set(by_path)):
        raise InputError(f"no layer has its weights at {unknown[0]!r}; layers are {', '.join(by_path)}")

    def replace(path: Any, leaf: Array) -> Array:
        name = _name(path)
        return by_path[name].store(kernels[name]).astype(leaf.dtype) if name in kernels else leaf

    return jax.tree_util.tree_map_with_path(replace, variables)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def head(apply: Callable[[Any, Array], Any], variables: PyTree, images: Array) -> tuple[Any, Layer]:
    """The pass and its head at once: what ``apply`` returns, and the last layer that gives one number per class.

    Args:
      apply: ``(variables, images) -> logits``, or a tuple that begins with the logits (a pass in training mode).
      variables: any pytree.
      images: ``[B, H, W, ch]``.

    Raises:
      InputError: the model does not end in a linear layer.
    """
    found, outputs = _walk(apply, variables, images)
    num_classes = jax.tree.leaves(outputs)[0].shape[-1]
    for layer in reversed(found):
        if layer.kind == "dense" and layer.inputs.ndim == 2 and layer.kernel.shape[-1] == num_classes:
            return outputs, layer
    raise InputError(
        "this needs a model that ends in a linear layer, and none was found: write the head as inputs [B, D] times "
        "weights [D, C], outside loops and branches"
    )


def _walk(apply: Callable[[Any, Array], Any], variables: PyTree, images: Array) -> tuple[list[Layer], Any]:
    closed, shape = jax.make_jaxpr(apply, return_shape=True)(variables, images)
    leaves = jax.tree_util.tree_flatten_with_path(variables)[0]
    values = [*(leaf for _, leaf in leaves), *jax.tree.leaves(images)]
    origins = [_Origin(_name(path), lambda kernel: kernel) for path, _ in leaves]
    found: list[Layer] = []
    outputs, _ = _evaluate(closed, values, [*origins, *[None] * (len(values) - len(leaves))], found)
    return found, jax.tree.unflatten(jax.tree.structure(shape), outputs)


def _evaluate(
    closed: core.ClosedJaxpr, values: Sequence[Any], origins: Sequence[_Origin | None], found: list[Layer]
) -> tuple[list[Any], list[_Origin | None]]:
    """Runs a traced function, noting layers; also says which outputs are (rearranged) leaves."""
    value_of: dict[Any, Any] = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    origin_of: dict[Any, _Origin | None] = {}
    value_of |= dict(zip(closed.jaxpr.invars, values, strict=True))
    origin_of |= dict(zip(closed.jaxpr.invars, origins, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else value_of[atom]

    def origin(atom: Any) -> _Origin | None:
        return None if isinstance(atom, core.Literal) else origin_of.get(atom)

    for eqn in closed.jaxpr.eqns:
        inputs, known, name = [read(v) for v in eqn.invars], [origin(v) for v in eqn.invars], eqn.primitive.name
        inner = _inner(eqn) if name in (*_CALLS, *_CUSTOM) else None
        outputs, sources = None, [None] * len(eqn.outvars)
        if inner is not None:
            outputs, sources = _evaluate(inner, inputs, known, found)
        if inner is None or name in _CUSTOM:  # a custom rule must stay in place: what was evaluated inside is dropped
            outputs = _run(closed.jaxpr, eqn, inputs)
        if inner is None and any(known):
            sources = [_rearranged(eqn, inputs, known)] * len(eqn.outvars)
            found += _as_layer(eqn, inputs, known)
        assert outputs is not None
        value_of |= dict(zip(eqn.outvars, outputs, strict=True))
        origin_of |= dict(zip(eqn.outvars, sources, strict=True))
    return [read(v) for v in closed.jaxpr.outvars], [origin(v) for v in closed.jaxpr.outvars]


def _run(jaxpr: core.Jaxpr, eqn: Any, inputs: Sequence[Any]) -> list[Any]:
    """One operation, as it runs inside the traced function."""
    taken = {atom: value for atom, value in zip(eqn.invars, inputs, strict=True) if not isinstance(atom, core.Literal)}
    about = jaxpr.debug_info.with_unknown_names()
    parts = {"invars": list(taken), "outvars": eqn.outvars, "eqns": [eqn], "effects": eqn.effects}
    program = jaxpr.replace(constvars=[], debug_info=about, **parts)
    return core.jaxpr_as_fun(core.ClosedJaxpr(program, ()))(*taken.values())


def _inner(eqn: Any) -> core.ClosedJaxpr | None:
    """The function that a call calls."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(key)
        if inner is not None:
            return inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ())
    return None


def _rearranged(eqn: Any, inputs: Sequence[Any], known: Sequence[_Origin | None]) -> _Origin | None:
    """The leaf that an operation only casts, copies, reshapes or transposes."""
    source = known[0]
    if source is None:
        return None
    undo, shape = source.undo, jnp.shape(inputs[0])
    match eqn.primitive.name:
        case "convert_element_type" | "copy" | "copy_p" | "optimization_barrier" | "sharding_constraint":
            return source if len(inputs) == 1 else None
        case "reshape" | "squeeze" | "expand_dims":
            return source._replace(undo=lambda kernel: undo(kernel.reshape(shape)))
        case "transpose":
            back = tuple(int(i) for i in np.argsort(eqn.params["permutation"]))
            return source._replace(undo=lambda kernel: undo(kernel.transpose(back)))
    return None


def _as_layer(eqn: Any, inputs: Sequence[Any], known: Sequence[_Origin | None]) -> list[Layer]:
    if eqn.primitive.name == "dot_general":
        return _dense(eqn, inputs, known)
    if eqn.primitive.name == "conv_general_dilated" and known[1] is not None and eqn.params["batch_group_count"] == 1:
        return [_conv(eqn, inputs, known[1])]
    return []


def _dense(eqn: Any, inputs: Sequence[Any], known: Sequence[_Origin | None]) -> list[Layer]:
    (contract, batch), sides = eqn.params["dimension_numbers"], (0, 1)
    for weight in reversed(sides):
        source, other = known[weight], 1 - weight
        single = len(contract[0]) == 1 and not batch[0] and jnp.ndim(inputs[weight]) == 2
        if source is None or not single or known[other] is not None:
            continue
        swap, undo = contract[weight][0] == 1, source.undo
        return [
            Layer(
                source.path,
                "dense",
                inputs[weight].T if swap else inputs[weight],
                jnp.moveaxis(inputs[other], contract[other][0], -1),
                {},
                (lambda kernel, undo=undo: undo(kernel.T)) if swap else undo,
            )
        ]
    return []


def _conv(eqn: Any, inputs: Sequence[Any], source: _Origin) -> Layer:
    numbers, undo = eqn.params["dimension_numbers"], source.undo
    n, c, *space = numbers.lhs_spec
    out, into, *window = numbers.rhs_spec
    order = (*window, into, out)
    back = tuple(int(i) for i in np.argsort(order))
    names = ("window_strides", "padding", "lhs_dilation", "rhs_dilation", "feature_group_count")
    return Layer(
        source.path,
        "conv",
        inputs[1].transpose(order),
        inputs[0].transpose((n, *space, c)),
        {name: eqn.params[name] for name in names},
        lambda kernel: undo(kernel.transpose(back)),
    )
