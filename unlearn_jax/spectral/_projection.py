"""Application of rules for one layer's weights to every layer of a model.

A rule is applied once (:func:`project`), or at the end of an optimizer's chain
(:func:`projection`). A layer followed by BatchNorm is one affine map in evaluation
mode: its kernel times the scale of the output's channels. The rule gets this product;
:func:`project` splits the change between the two factors.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.extend import core

from unlearn_jax.branching import cond
from unlearn_jax.checks import check_counts, check_positive, check_shape
from unlearn_jax.dataflow import CASTS, SHAPES, shape_of
from unlearn_jax.layers import Layer, walk, with_kernels
from unlearn_jax.models.adapters import is_trained, leaf_paths
from unlearn_jax.spectral.norms import (
    blank_image,
    named,
    warn_at_caller,
    warn_of_unfound,
)
from unlearn_jax.types import (
    ApplyFn,
    Array,
    InputError,
    Model,
    ModelState,
    Params,
    PyTree,
    Variables,
    check_apply_fn,
)

Norm = float | Array
_AFFINE = (
    *CASTS,
    *SHAPES,
    "broadcast_in_dim",
    "add",
    "add_any",
    "sub",
    "neg",
    "mul",
    "div",
)


class Rule(Protocol):
    """Change of layers' weights.

    :class:`KernelRule` turns a function of one layer into a rule; any object with these
    two methods is a rule too.
    """

    @property
    def init(self) -> Callable[[Layer], PyTree]:
        """``layer -> state``; only shapes are read."""
        ...

    def update(
        self,
        layers: Sequence[Layer],
        max_norms: Sequence[Norm],
        states: Sequence[Any],
    ) -> tuple[list[Array], list[Any]]:
        """Return the new kernels and states of layers with different weights.

        Kernels have the form of :attr:`unlearn_jax.layers.Layer.kernel`, and are
        unchanged to the bit if nothing has to change. ``layer.scale`` is None, since
        ``layer.kernel`` already includes it.
        """
        ...


@dataclasses.dataclass(frozen=True)
class KernelRule:
    """A :class:`Rule` that treats layers one by one.

    Attributes:
      init: ``layer -> state``; only shapes are read.
      change: ``(layer, max_norm, state) -> (kernel, state)``, :meth:`Rule.update` for
        one layer.
    """

    init: Callable[[Layer], PyTree]
    change: Callable[[Layer, Norm, PyTree], tuple[Array, PyTree]]

    def update(
        self,
        layers: Sequence[Layer],
        max_norms: Sequence[Norm],
        states: Sequence[Any],
    ) -> tuple[list[Array], list[Any]]:
        """Change one layer after the other."""
        changed = [
            self.change(*each) for each in zip(layers, max_norms, states, strict=True)
        ]
        return [kernel for kernel, _ in changed], [state for _, state in changed]


class ProjectionState(NamedTuple):
    """State of the transformation, a pytree of arrays that a checkpoint can hold.

    Attributes:
      count: ``[]`` int32, training steps so far.
      layers: state of the rule for each layer, by path; see
        :func:`unlearn_jax.spectral.norms.named`.
    """

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    layers: dict[str, PyTree]


@dataclasses.dataclass(frozen=True)
class Targets:
    """Largest norm of each layer.

    Attributes:
      max_norm: norm of every layer that ``max_norms`` does not name, positive.
      max_norms: norms by path of a weight, or by path of a leaf for all weights that
        are parts of it; None leaves the layer unchanged.
    """

    max_norm: Norm = 1.0
    max_norms: Mapping[str, Norm | None] | None = None

    def __post_init__(self) -> None:
        norms = {"max_norm": self.max_norm}
        for path, norm in (self.max_norms or {}).items():
            if norm is not None:
                norms[f"max_norm of {path!r}"] = norm
        for name, norm in norms.items():
            check_positive(**{name: norm})
            check_shape(name, norm, ())

    def of(self, layer: Layer) -> Norm | None:
        """Return the norm of one layer; None to leave the layer unchanged."""
        norms = self.max_norms or {}
        return norms.get(layer.path, norms.get(layer.leaf_path, self.max_norm))

    def check(self, layers: Sequence[Layer]) -> None:
        """Raise on paths that are not the path of a layer.

        Raises:
          InputError: an unknown path; the message names it and the layers.
        """
        paths = [layer.path for layer in layers]
        known = {*paths, *(layer.leaf_path for layer in layers)}
        if unknown := sorted(set(self.max_norms or {}) - known):
            raise InputError(
                f"max_norms names {unknown[0]!r}, which is not a layer; layers are"
                f" {', '.join(paths)}"
            )


def project(
    apply_fn: ApplyFn,
    variables: PyTree,
    sample: Any,
    rule: Rule,
    targets: Targets,
    *,
    memory: dict[str, PyTree] | None = None,
    composite: bool = True,
) -> tuple[PyTree, dict[str, PyTree]]:
    """Apply a rule to every layer whose weights are trained, in order of execution.

    With ``composite`` and a scale ``s`` of the output's channels, the rule turns
    ``C = s K`` into ``C'``. The length of each channel goes into the scale and its
    direction into the kernel: ``s' = s |C'| / |C|`` and ``K' = C' / s'``, so that each
    channel of the kernel keeps its length. BatchNorm would undo a shorter kernel, since
    its statistics follow the kernel within a few steps. The scale is changed through
    the one trained leaf of its size that it depends on (BatchNorm's gamma), if each
    entry of the scale is an affine function of the leaf's. If there is no such leaf, or
    if it is stacked for a scan, the whole change goes into the kernel. Statistics and
    biases are unchanged.

    A weight that the network casts to a shorter type is changed in its stored type.

    When it is traced, or run without ``jit``, the function warns of trained arrays that
    it leaves unchanged because they belong to no layer or because a kernel is computed
    from them.

    Args:
      apply_fn: ``(variables, images) -> logits`` in evaluation mode.
      variables: any pytree. The trained part is ``params`` if there is one, otherwise
        everything except NNX's statistics and random streams.
      sample: ``[B, H, W, ch]``; only its shape is read.
      rule: rule to apply to each layer.
      targets: norms of the layers.
      memory: states of the rule by layer; new ones if None.
      composite: treat a layer and the scale behind it as one map, as described above;
        False applies the rule to the layer alone.

    Returns:
      The new variables, and the new memory.

    Raises:
      InputError: ``targets`` names a layer that does not exist, or ``apply_fn`` is a
        model.
    """
    return _projected(
        apply_fn,
        variables,
        sample,
        rule,
        targets,
        memory=memory,
        composite=composite,
        is_door=True,
    )


def _projected(
    apply_fn: ApplyFn,
    variables: PyTree,
    sample: Any,
    rule: Rule,
    targets: Targets,
    *,
    memory: dict[str, PyTree] | None,
    composite: bool,
    is_door: bool,
) -> tuple[PyTree, dict[str, PyTree]]:
    """Apply a rule as :func:`project` does; warn only if ``is_door``."""
    trained = trained_layers(apply_fn, variables, sample, is_door=is_door)
    targets.check(trained)
    gains = _gains(apply_fn, variables, sample) if composite else {}
    memory = memory_of(rule, trained, targets) if memory is None else memory
    kernels: dict[str, Array] = {}
    leaves: dict[str, Array] = {}
    new_memory: dict[str, PyTree] = {}
    waiting = {
        name: layer
        for name, layer in named(trained).items()
        if targets.of(layer) is not None
    }
    while waiting:
        # a weight that is used twice is changed twice, the second time from the first
        # result
        first = {layer.path: name for name, layer in reversed(waiting.items())}
        names = [name for name in waiting if name in first.values()]
        parts = []
        wholes = []
        for name in names:
            layer = waiting.pop(name)
            kernel = kernels.get(layer.path, layer.kernel)
            layer = dataclasses.replace(layer, kernel=kernel)
            alone = dataclasses.replace(layer, scale=None)
            parts.append(layer)
            wholes.append(composite_layer(layer) if composite else alone)
        norms = [targets.of(layer) for layer in parts]
        norms = [norm for norm in norms if norm is not None]
        states = [memory[name] for name in names]
        changed, states = rule.update(wholes, norms, states)
        new_memory |= zip(names, states, strict=True)
        for name, layer, whole, kernel in zip(
            names, parts, wholes, changed, strict=True
        ):
            if composite and layer.scale is not None:
                kernel, gain = _factors(
                    layer, layer.scale, whole.kernel, kernel, gains.get(name)
                )
                leaves |= gain
            kernels[layer.path] = kernel
    replaced = with_kernels(variables, kernels, trained)
    values, structure = jax.tree.flatten(replaced)
    paths = leaf_paths(replaced)
    values = [
        leaves.get(path, value) for path, value in zip(paths, values, strict=True)
    ]
    return jax.tree.unflatten(structure, values), new_memory


def projection(
    apply_fn: ApplyFn,
    sample: Any,
    rule: Rule,
    targets: Targets,
    *,
    period: int,
    composite: bool = True,
    num_steps: int | None = None,
    model_state: ModelState | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Return a transformation that projects the weights after an update.

    Every ``period`` steps :func:`project` is applied to the updated weights. Place the
    transformation last in a chain. It does not change the states of the transformations
    before it (momentum, decay).

    Variables are built from the ``params`` of ``update``. Without ``model_state``,
    ``apply_fn`` takes that tree itself: a bare tree of parameters, a Linen
    ``{"params": ...}`` if that is what is optimized, or an NNX state. With
    ``model_state``, ``apply_fn`` takes ``Variables(params, model_state)``, as
    ``Model.apply`` does, and ``update`` takes the current ``model_state`` (the
    statistics of BatchNorm) as an extra argument. If a model has statistics but
    ``update`` does not get them, layers are treated alone, with a warning when the
    program is traced.

    Args:
      apply_fn: ``(variables, images) -> logits`` in evaluation mode.
      sample: ``[B, H, W, ch]``; only its shape is read.
      rule: rule to apply to each layer.
      targets: norms of the layers.
      period: number of steps between applications; the first is at step ``period``.
      composite: treat a layer and the scale behind it as one map; see :func:`project`.
      num_steps: number of steps of the whole training, at the last of which the rule is
        applied whatever the period.
      model_state: state of the model, or its shapes (:func:`state_shapes`); ``{}`` for
        a model without state. None if ``apply_fn`` takes the parameters themselves.

    Returns:
      The transformation, whose state is a :class:`ProjectionState`.

    Raises:
      InputError: an unusable ``period`` or ``num_steps``, or a model instead of its
        function; at ``init``, an ``apply_fn`` that cannot be applied to the parameters
        alone.
    """
    check_apply_fn(apply_fn)
    check_counts(period=period)
    if num_steps is not None:
        check_counts(num_steps=num_steps)
    blank = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        {} if model_state is None else model_state,
    )

    has_state = model_state is not None

    def variables_of(params: Params, statistics: ModelState) -> PyTree:
        return Variables(params, statistics) if has_state else params

    def init(params: Params) -> ProjectionState:
        def memory(params: Params) -> dict[str, PyTree]:
            variables = variables_of(params, blank)
            if not has_state:
                _check_applies(apply_fn, variables, sample)
            trained = trained_layers(apply_fn, variables, sample, is_door=True)
            targets.check(trained)
            return memory_of(rule, trained, targets)

        # compiled, so that the unused forward pass is eliminated
        return ProjectionState(jnp.zeros((), jnp.int32), jax.jit(memory)(params))

    def update(
        updates: Params,
        state: ProjectionState,
        params: Params | None = None,
        *,
        model_state: ModelState | None = None,
        **unused: Any,
    ) -> tuple[Params, ProjectionState]:
        del unused
        if params is None:
            raise InputError(
                "this transformation moves weights: call update(updates, state, params)"
            )
        is_whole = composite and (model_state is not None or not jax.tree.leaves(blank))
        if composite and not is_whole:
            warn_at_caller(
                "no model_state was given: BatchNorm is left out and layers are treated"
                " alone"
            )
        statistics = blank if model_state is None else model_state

        def move(
            updates: Params, memory: dict[str, PyTree]
        ) -> tuple[Params, dict[str, PyTree]]:
            new = optax.apply_updates(params, updates)
            moved, memory = _projected(
                apply_fn,
                variables_of(new, statistics),
                sample,
                rule,
                targets,
                memory=memory,
                composite=is_whole,
                is_door=False,
            )
            # without model_state, params may be Variables, which are returned whole
            moved = moved.params if has_state else moved
            # adding the difference to the update keeps the update of an unchanged
            # weight to the bit
            fixed = jax.tree.map(
                lambda u, a, b: u + (a - b).astype(u.dtype), updates, moved, new
            )
            return fixed, memory

        def stay(
            updates: Params, memory: dict[str, PyTree]
        ) -> tuple[Params, dict[str, PyTree]]:
            return updates, memory

        count = state.count + 1
        if period == 1:
            fixed, memory = move(updates, state.layers)
        else:
            is_due = (count % period == 0) | (count == (num_steps or 0))
            fixed, memory = cond(is_due, move, stay, updates, state.layers)
        return fixed, ProjectionState(count, memory)

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def state_shapes(model: Model) -> ModelState:
    """Return the shapes of a model's state, for the argument ``model_state``.

    Args:
      model: model of this library; only its ``init`` is traced.

    >>> from unlearn_jax import models
    >>> state_shapes(models.build("mlp", (8, 8, 1), 10))
    {}
    """
    return jax.eval_shape(model.init, jax.random.key(0)).state


def memory_of(
    rule: Rule, trained: Sequence[Layer], targets: Targets
) -> dict[str, PyTree]:
    """Return the rule's state before its first application, by layer."""
    return {
        name: rule.init(layer)
        for name, layer in named(trained).items()
        if targets.of(layer) is not None
    }


def composite_layer(layer: Layer) -> Layer:
    """Return the layer and the scale behind it as one layer without a scale."""
    if layer.scale is None:
        return layer
    kernel = layer.kernel * _columns(layer.scale, layer.kernel)
    return dataclasses.replace(layer, kernel=kernel, scale=None)


def _columns(scale: Array, kernel: Array) -> Array:
    return scale.astype(kernel.dtype).reshape((1,) * (kernel.ndim - 1) + (-1,))


def _check_applies(apply_fn: ApplyFn, params: Params, sample: Any) -> None:
    """Raise unless a function can be traced on the optimized parameters.

    Args:
      apply_fn: ``(params, images) -> logits``.
      params: optimized parameters, which are all of the variables.
      sample: ``[B, H, W, ch]``; only its shape is read.

    Raises:
      InputError: the function cannot be traced; the message has the error and remedies.
    """
    try:
        jax.eval_shape(apply_fn, params, blank_image(sample))
    except (AttributeError, TypeError, ValueError) as error:
        fault = str(error).partition("\n")[0]
        raise InputError(
            f"apply_fn cannot be applied to the parameters alone ({fault}): close over"
            " the rest of the state, or, where it takes Variables(params, state) as"
            " models.from_nnx(...).apply does, pass model_state=variables.state"
        ) from error


def trained_layers(
    apply_fn: ApplyFn, variables: PyTree, sample: Any, *, is_door: bool = False
) -> list[Layer]:
    """Return the layers whose weights are trained and can be replaced.

    Inside a compiled program the forward pass is never run, since its outputs are
    unused.

    Args:
      apply_fn: ``(variables, images) -> logits``.
      variables: any pytree.
      sample: ``[B, H, W, ch]``; only its shape is read.
      is_door: warn of trained arrays that belong to none of the layers.
    """
    check_apply_fn(apply_fn)
    image = blank_image(sample)
    walked = walk(apply_fn, variables, image)
    if is_door:
        warn_of_unfound(walked, purpose="clipped")
        computed = [layer.path for layer in walked.layers if layer.store is None]
        if computed:
            warn_at_caller(
                f"not clipped: {', '.join(computed)}; kernels are computed from these"
                " trained arrays, as standardized ones are, and no change of an array"
                " is the clip of its kernel"
            )
    flags = zip(leaf_paths(variables), is_trained(variables), strict=True)
    trained = {path for path, is_one in flags if is_one}
    leaf_of = dict(zip(leaf_paths(variables), jax.tree.leaves(variables), strict=True))
    return [
        _as_stored(layer, leaf_of[layer.leaf_path])
        for layer in walked.layers
        if layer.store is not None and layer.leaf_path in trained
    ]


def _as_stored(layer: Layer, leaf: Array) -> Layer:
    """Return the layer with the kernel that its leaf holds, before any rounding cast.

    The kernel in a product of 16 bits, stored again, would round the weights.
    """
    dtype = jnp.result_type(leaf)
    if jnp.promote_types(dtype, layer.kernel.dtype) == layer.kernel.dtype:
        return layer
    assert layer.store is not None  # trained_layers leaves out computed kernels
    form = jax.ShapeDtypeStruct(layer.kernel.shape, dtype)
    # the transpose of a rearrangement undoes it
    undo = jax.linear_transpose(layer.store, form)
    (kernel,) = undo(jnp.asarray(leaf)[layer.index])
    return dataclasses.replace(layer, kernel=kernel)


class _Gain(NamedTuple):
    """Trained leaf in which a layer's scale is affine, entry by entry.

    Attributes:
      path: path of the leaf.
      leaf: value of the leaf.
      slope: ``[out]``, derivative of the scale by the leaf.
    """

    path: str
    leaf: Array
    slope: Array


def _factors(
    layer: Layer, scale: Array, before: Array, after: Array, gain: _Gain | None
) -> tuple[Array, dict[str, Array]]:
    """Split a composite kernel between the layer's kernel and its gain.

    Args:
      layer: layer before the change.
      scale: ``[out]``, scale of the layer.
      before: composite kernel before the change.
      after: composite kernel after the change.
      gain: leaf that changes the scale; None to change only the kernel.

    Returns:
      The kernel, and the gain by path, whose product is ``after``. Both are unchanged
      to the bit if ``after`` equals ``before``.
    """
    leaves = {}
    if gain is not None:
        axes = tuple(range(before.ndim - 1))
        old = jnp.sqrt(jnp.sum(before**2, axes))
        new = jnp.sqrt(jnp.sum(after**2, axes))
        # a channel of zeros has no direction, so its scale does not change
        ratio = new / jnp.where(old > 0, old, 1.0)
        step = scale * jnp.where(old > 0, ratio - 1, 0.0)
        # if the scale does not depend on the gain (a slope of 0), the channel's scale
        # is 0, and so is the step
        change = step / jnp.where(gain.slope == 0, 1.0, gain.slope)
        change = change.reshape(gain.leaf.shape).astype(gain.leaf.dtype)
        leaves[gain.path] = gain.leaf + change
        scale = scale + step
    columns = _columns(scale, after)
    is_moved = jnp.any(after != before) & (columns != 0)
    # dividing and multiplying by the scale again would round an unchanged kernel
    kernel = after / jnp.where(columns == 0, 1.0, columns)
    return jnp.where(is_moved, kernel, layer.kernel), leaves


def _gains(apply_fn: ApplyFn, variables: PyTree, sample: Any) -> dict[str, _Gain]:
    """Return the one leaf through which each layer's scale is changed, by layer.

    The leaf has the scale's size, the scale is affine in it entry by entry, and no
    other layer's scale depends on it. Layers without such a leaf are not included.
    """
    leaves, structure = jax.tree.flatten(variables)
    paths = leaf_paths(variables)
    places = [
        place
        for place, is_one in enumerate(is_trained(variables))
        if is_one and jnp.issubdtype(jnp.result_type(leaves[place]), jnp.inexact)
    ]

    def scales(trained: list[Array]) -> dict[str, Array]:
        values = list(leaves)
        for place, leaf in zip(places, trained, strict=True):
            values[place] = leaf
        replaced = jax.tree.unflatten(structure, values)
        by_name = named(trained_layers(apply_fn, replaced, sample))
        return {
            name: layer.scale
            for name, layer in by_name.items()
            if layer.scale is not None
        }

    def total(trained: list[Array]) -> Array:
        return sum(map(jnp.sum, scales(trained).values()), jnp.zeros(()))

    trained = [leaves[place] for place in places]
    depends = _dependencies(scales, trained)
    slopes = jax.grad(total)(trained)
    used = [i for one in depends.values() for i in one.leaves]
    gains = {}
    for name, (size, indices, bent) in depends.items():
        candidates = [
            i for i in sorted(indices) if trained[i].size == size and used.count(i) == 1
        ]
        if len(candidates) == 1 and candidates[0] not in bent:
            i = candidates[0]
            gains[name] = _Gain(paths[places[i]], trained[i], slopes[i].reshape(-1))
    return gains


class _Dependence(NamedTuple):
    """Dependence of a vector on leaves, by their positions.

    Attributes:
      size: number of entries of the vector.
      leaves: leaves that it depends on.
      bent: those in which it is not known to be affine, entry by entry.
    """

    size: int
    leaves: set[int]
    bent: set[int]


def _dependencies(
    function: Callable[[list[Array]], dict[str, Array]], leaves: list[Array]
) -> dict[str, _Dependence]:
    """Return each output's dependence on the leaves."""
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(leaves)
    jaxpr = closed.jaxpr
    depends: dict[Any, _Dependence] = {
        atom: _Dependence(_size_of(atom), {i}, set())
        for i, atom in enumerate(jaxpr.invars)
    }

    def dependence(atom: Any) -> _Dependence:
        nothing = _Dependence(_size_of(atom), set(), set())
        return nothing if isinstance(atom, core.Literal) else depends.get(atom, nothing)

    for eqn in jaxpr.eqns:
        depends |= _dependences_after(eqn, [dependence(atom) for atom in eqn.invars])
    names = jax.tree.leaves(
        jax.tree.unflatten(jax.tree.structure(shapes), sorted(shapes))
    )
    return {
        name: dependence(atom) for name, atom in zip(names, jaxpr.outvars, strict=True)
    }


def _size_of(atom: Any) -> int:
    return math.prod(shape_of(atom))


def _dependences_after(
    eqn: core.JaxprEqn, inputs: Sequence[_Dependence]
) -> dict[core.Var, _Dependence]:
    """Return the dependences of an operation's outputs, given those of its operands."""
    name = eqn.primitive.name
    leaves = set().union(*(one.leaves for one in inputs))
    bent = set().union(*(one.bent for one in inputs))
    if name not in _AFFINE:
        bent = leaves
    elif name == "div":
        bent |= inputs[1].leaves
    elif name == "mul":
        bent |= inputs[0].leaves & inputs[1].leaves
    results = {}
    for variable in eqn.outvars:
        size = _size_of(variable)
        # an operation that changes the size repeats entries
        moved = set().union(*(one.leaves for one in inputs if one.size != size))
        results[variable] = _Dependence(size, leaves, bent | moved)
    return results
