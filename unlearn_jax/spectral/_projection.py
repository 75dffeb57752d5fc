"""A rule that changes one layer's weights, applied to every layer of a model: once, or last in an optimizer's chain.

A layer that BatchNorm follows is one affine map in evaluation mode, its kernel times
the scale of the output's channels. The rule is given that product. What it changes is
split between the two factors, see :func:`project`.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.core import Tracer
from jax.extend import core

from unlearn_jax.layers import Layer, layers, with_kernels
from unlearn_jax.spectral.norms import apply_of, named
from unlearn_jax.types import (
    ApplyFn,
    Array,
    InputError,
    Model,
    ModelState,
    Params,
    PyTree,
    Variables,
)

Norm = float | Array


class KernelRule(NamedTuple):
    """How the weights of one layer are changed.

    Attributes:
      init: ``layer -> state``; reads shapes only.
      update: ``(layer, max_norm, state) -> (kernel, state)``; the kernel in the form of
        :attr:`Layer.kernel`, the same bits where nothing has to change. ``layer.scale``
        is None: it is in ``layer.kernel`` already.
    """

    init: Callable[[Layer], PyTree]
    update: Callable[[Layer, Norm, PyTree], tuple[Array, PyTree]]


class ProjectionState(NamedTuple):
    """Memory of the transformation; a pytree of arrays that a checkpoint can hold.

    Attributes:
      count: ``[]`` int32, training steps so far.
      layers: what the rule remembers of each layer, by path; see
        :func:`unlearn_jax.spectral.norms.named`.
    """

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    layers: dict[str, PyTree]


@dataclasses.dataclass(frozen=True)
class Targets:
    """Which norm each layer may have.

    Attributes:
      max_norm: of every layer that ``max_norms`` does not name; positive.
      max_norms: by path; None leaves that layer alone.
    """

    max_norm: Norm = 1.0
    max_norms: Mapping[str, Norm | None] | None = None

    def __post_init__(self) -> None:
        for norm in (self.max_norm, *(self.max_norms or {}).values()):
            if (
                norm is not None
                and not isinstance(norm, Tracer)
                and not 0 < float(norm) < math.inf
            ):
                raise InputError(
                    f"a layer's max_norm must be positive and finite, got {norm}"
                )

    def of(self, layer: Layer) -> Norm | None:
        """The norm of one layer; None to leave it alone."""
        return (self.max_norms or {}).get(layer.path, self.max_norm)

    def check(self, found: Sequence[Layer]) -> None:
        """Refuses paths that are no layer's.

        Raises:
          InputError: naming the first, and the layers.
        """
        paths = [layer.path for layer in found]
        if unknown := sorted(set(self.max_norms or {}) - set(paths)):
            raise InputError(
                f"max_norms names {unknown[0]!r}, which is no layer; layers are"
                f" {', '.join(paths)}"
            )


def project(
    model: Model | ApplyFn,
    variables: Variables,
    sample: Any,
    rule: KernelRule,
    targets: Targets,
    *,
    memory: dict[str, PyTree] | None = None,
    composite: bool = True,
) -> tuple[Variables, dict[str, PyTree]]:
    """Applies a rule to every layer whose weights are trained, in order of execution.

    With ``composite`` and a scale ``s`` of the output's channels, the rule turns
    ``C = s K`` into ``C'``. The length of each channel goes into the scale, its
    direction into the kernel: ``s' = s |C'| / |C|`` and ``K' = C' / s'``, so that each
    channel of the kernel keeps its length. A shorter kernel would be undone by
    BatchNorm, whose statistics follow it within a few steps. The scale is moved through
    the one trained leaf of its size that it depends on (BatchNorm's gamma); where there
    is none, all of it goes into the kernel. Statistics and biases are left alone.

    Args:
      model: a model, or its ``apply``.
      variables: of the model.
      sample: ``[B, H, W, ch]``; only its shape is read.
      rule: what to do with a layer.
      targets: the norms.
      memory: the rule's, by layer; fresh where None.
      composite: see above; without, the rule sees the layer alone.

    Returns:
      The variables, and the memory.

    Raises:
      InputError: ``targets`` names a layer that is not there.
    """
    apply = apply_of(model)
    found = _trained(apply, variables, sample)
    targets.check(found)
    gains = _gains(apply, variables, sample) if composite else {}
    memory = memory_of(rule, found, targets) if memory is None else memory
    kernels: dict[str, Array] = {}
    leaves: dict[str, Array] = {}
    kept: dict[str, PyTree] = {}
    for name, layer in named(found).items():
        if (norm := targets.of(layer)) is None:
            continue
        layer = dataclasses.replace(layer, kernel=kernels.get(layer.path, layer.kernel))
        whole = (
            composite_layer(layer)
            if composite
            else dataclasses.replace(layer, scale=None)
        )
        kernel, kept[name] = rule.update(whole, norm, memory[name])
        if composite and layer.scale is not None:
            kernel, gain = _factors(
                layer, layer.scale, whole.kernel, kernel, gains.get(name)
            )
            leaves |= gain
        kernels[layer.path] = kernel
    replaced = with_kernels(variables, kernels, found)
    return (
        jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaves.get(path_name(path), leaf), replaced
        ),
        kept,
    )


def projection(
    model: Model | ApplyFn,
    sample: Any,
    rule: KernelRule,
    targets: Targets,
    *,
    period: int,
    composite: bool = True,
    num_steps: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """:func:`project` of the weights that an update leads to, every ``period`` steps; to be placed last in a chain.

    The states of the transformations before it (momentum, decay) are not touched.
    ``update`` takes ``params``, and ``model_state`` (the statistics of BatchNorm) as an
    extra argument; a model that has statistics and is not given them has its layers
    treated alone, with a warning when the program is traced.

    Args:
      model: a model, or the ``apply`` of one without statistics.
      sample: ``[B, H, W, ch]``; only its shape is read.
      rule: what to do with a layer.
      targets: the norms.
      period: steps from one application to the next; the first is at step ``period``.
      composite: see :func:`project`.
      num_steps: a step at which the rule is applied whatever the period: the last one
        of a training.

    Returns:
      The transformation, with a :class:`ProjectionState`.

    Raises:
      InputError: unusable ``period``.
    """
    if period < 1:
        raise InputError(f"period must be at least 1 step, got {period}")
    apply, blank = apply_of(model), _blank_state(model)

    def init(params: Params) -> ProjectionState:
        def memory(params: Params) -> dict[str, PyTree]:
            found = _trained(apply, Variables(params, blank), sample)
            targets.check(found)
            return memory_of(rule, found, targets)

        return ProjectionState(
            jnp.zeros((), jnp.int32), jax.jit(memory)(params)
        )  # the pass itself is dropped

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
        whole = composite and (model_state is not None or not jax.tree.leaves(blank))
        if composite and not whole:
            warnings.warn(
                "no model_state was given: BatchNorm is left out and layers are treated"
                " alone",
                stacklevel=2,
            )
        statistics = blank if model_state is None else model_state

        def move(
            updates: Params, memory: dict[str, PyTree]
        ) -> tuple[Params, dict[str, PyTree]]:
            new = Variables(optax.apply_updates(params, updates), statistics)
            moved, memory = project(
                apply, new, sample, rule, targets, memory=memory, composite=whole
            )
            # the difference added, not the target less the start: an untouched weight
            # keeps its update to the bit
            fixed = jax.tree.map(
                lambda u, a, b: u + (a - b).astype(u.dtype),
                updates,
                moved.params,
                new.params,
            )
            return fixed, memory

        count = state.count + 1
        if period == 1:
            fixed, memory = move(updates, state.layers)
        else:
            stay = lambda updates, memory: (updates, memory)
            due = (count % period == 0) | (count == (num_steps or 0))
            fixed, memory = lax.cond(due, move, stay, updates, state.layers)
        return fixed, ProjectionState(count, memory)

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def memory_of(
    rule: KernelRule, found: Sequence[Layer], targets: Targets
) -> dict[str, PyTree]:
    """What a rule remembers before its first application, by layer."""
    return {
        name: rule.init(layer)
        for name, layer in named(found).items()
        if targets.of(layer) is not None
    }


def composite_layer(layer: Layer) -> Layer:
    """The layer and the scale behind it as one layer without a scale."""
    if layer.scale is None:
        return layer
    return dataclasses.replace(
        layer, kernel=layer.kernel * _columns(layer.scale, layer.kernel), scale=None
    )


def _columns(scale: Array, kernel: Array) -> Array:
    return scale.astype(kernel.dtype).reshape((1,) * (kernel.ndim - 1) + (-1,))


def _blank_state(model: Model | ApplyFn) -> ModelState:
    """A state of the right shapes, to walk a forward pass with."""
    if not isinstance(model, Model):
        return {}
    shapes = jax.eval_shape(model.init, jax.random.key(0)).state
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def _trained(apply: ApplyFn, variables: Variables, sample: Any) -> list[Layer]:
    """The layers whose weights are among the parameters; the pass itself is never run inside a compiled program."""
    image = jnp.zeros((1, *sample.shape[1:]), jnp.float32)
    return [
        layer
        for layer in layers(apply, variables, image)
        if layer.path.split("/")[0] == "params"
    ]


class _Gain(NamedTuple):
    """A trained leaf that a layer's scale is affine in: where, its value, and the slope ``[out]``."""

    path: str
    leaf: Array
    slope: Array


def _factors(
    layer: Layer, scale: Array, before: Array, after: Array, gain: _Gain | None
) -> tuple[Array, dict[str, Array]]:
    """The kernel and, by path, the gain whose product is ``after``; what they are now where that is ``before``."""
    leaves = {}
    if gain is not None:
        old, new = (
            jnp.sqrt(jnp.sum(kernel**2, tuple(range(kernel.ndim - 1))))
            for kernel in (before, after)
        )
        step = scale * jnp.where(old > 0, new / jnp.where(old > 0, old, 1.0) - 1, 0.0)
        change = step / jnp.where(gain.slope == 0, 1.0, gain.slope)
        leaves[gain.path] = gain.leaf + change.reshape(gain.leaf.shape).astype(
            gain.leaf.dtype
        )
        scale = scale + step
    columns = _columns(scale, after)
    moved = jnp.any(after != before) & (columns != 0)
    return (
        jnp.where(moved, after / jnp.where(columns == 0, 1.0, columns), layer.kernel),
        leaves,
    )


def _gains(apply: ApplyFn, variables: Variables, sample: Any) -> dict[str, _Gain]:
    """By layer with a scale: the one leaf of its size that it depends on, if no other layer's does."""

    def scales(params: Params) -> dict[str, Array]:
        found = named(_trained(apply, variables._replace(params=params), sample))
        return {
            name: layer.scale
            for name, layer in found.items()
            if layer.scale is not None
        }

    depends = _dependencies(scales, variables.params)
    slopes = jax.grad(
        lambda params: sum((jnp.sum(s) for s in scales(params).values()), jnp.zeros(()))
    )
    flat, _ = jax.tree_util.tree_flatten_with_path(Variables(variables.params, {}))
    slope_of = jax.tree.leaves(slopes(variables.params))
    gains, used = {}, [i for _, indices in depends.values() for i in indices]
    for name, (size, indices) in depends.items():
        mine = [
            i for i in sorted(indices) if flat[i][1].size == size and used.count(i) == 1
        ]
        if len(mine) == 1:
            path, leaf = flat[mine[0]]
            gains[name] = _Gain(path_name(path), leaf, slope_of[mine[0]].reshape(-1))
    return gains


def _dependencies(
    function: Callable[[Params], dict[str, Array]], params: Params
) -> dict[str, tuple[int, set[int]]]:
    """By output: its size, and the positions of the leaves it depends on."""
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(params)
    jaxpr = closed.jaxpr
    depends: dict[Any, set[int]] = {atom: {i} for i, atom in enumerate(jaxpr.invars)}

    def of(atom: Any) -> set[int]:
        return set() if isinstance(atom, core.Literal) else depends.get(atom, set())

    for eqn in jaxpr.eqns:
        union = set().union(*(of(atom) for atom in eqn.invars))
        depends |= dict.fromkeys(eqn.outvars, union)
    names = jax.tree.leaves(
        jax.tree.unflatten(jax.tree.structure(shapes), sorted(shapes))
    )
    return {
        name: (shapes[name].size, of(atom))
        for name, atom in zip(names, jaxpr.outvars, strict=True)
    }


def path_name(path: Any) -> str:
    """A leaf's path as :attr:`Layer.path` writes it."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
