"""Adapters from Linen, NNX and plain functions to this library's own types."""

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax

from unlearn_jax.types import Array, InputError, Model, PyTree, Variables

if TYPE_CHECKING:
    import flax.linen as nn
    from flax import nnx


def from_linen(module: "nn.Module", sample: Array) -> Model:
    """Adapt a Linen module whose ``__call__(images, *, train)`` returns logits.

    Args:
      module: the network; it may use the ``params`` collection, any mutable collections
        and a ``dropout`` stream.
      sample: ``[1, H, W, ch]`` images of the right shape, for initialization.

    Returns:
      The model; ``state`` holds every collection but ``params``.
    """

    def join(variables: Variables) -> dict[str, Any]:
        _check_variables(variables)
        return {"params": variables.params, **variables.state}

    def init(key: Array) -> Variables:
        state = dict(module.init(key, sample, train=False))
        return Variables(state.pop("params"), state)

    def apply(variables: Variables, images: Array) -> Array:
        return module.apply(join(variables), images, train=False)  # pyright: ignore[reportReturnType]

    def apply_train(
        variables: Variables, images: Array, key: Array
    ) -> tuple[Array, Any]:
        logits, state = module.apply(
            join(variables),
            images,
            train=True,
            mutable=list(variables.state),
            rngs={"dropout": key},
        )
        return logits, dict(state)  # pyright: ignore[reportReturnType, reportArgumentType, reportCallIssue]

    return Model(init, apply, apply_train)


def from_nnx(make: "Callable[[nnx.Rngs], Any]") -> Model:
    """Adapt an NNX module, which maps images to logits where it is called.

    Args:
      make: builds the module from ``nnx.Rngs``; ``module.train()`` and
        ``module.eval()`` switch its mode. Random streams (dropout) are reseeded from
        the key of every training step.

    Returns:
      The model; ``params`` holds the ``nnx.Param`` leaves, ``state`` everything else
      but random streams.
    """
    from flax import nnx

    def split(module: Any) -> tuple[Any, Any, Any, Any]:
        graph, params, streams, state = nnx.split(module, nnx.Param, nnx.RngState, ...)
        return graph, params, streams, state

    def template(train: bool) -> tuple[Any, Any]:
        module = make(nnx.Rngs(0))
        module.train() if train else module.eval()
        graph, _, streams, _ = split(module)
        return graph, streams

    graph_train, _ = template(True)
    graph_eval, streams_eval = template(False)

    def init(key: Array) -> Variables:
        _, params, _, state = split(make(nnx.Rngs(key)))
        return Variables(nnx.to_pure_dict(params), nnx.to_pure_dict(state))

    def rebuild(graph: Any, variables: Variables, streams: Any) -> Any:
        _check_variables(variables)
        _, params, _, state = nnx.split(
            nnx.merge(graph, *abstract), nnx.Param, nnx.RngState, ...
        )
        nnx.replace_by_pure_dict(params, variables.params)
        nnx.replace_by_pure_dict(state, variables.state)
        return nnx.merge(graph, params, streams, state, copy=True)

    abstract = split(make(nnx.Rngs(0)))[1:]

    def apply(variables: Variables, images: Array) -> Array:
        return rebuild(graph_eval, variables, streams_eval)(images)

    def apply_train(
        variables: Variables, images: Array, key: Array
    ) -> tuple[Array, Any]:
        module = rebuild(graph_train, variables, streams_eval)
        nnx.reseed(module, default=key, dropout=key)
        logits = module(images)
        return logits, nnx.to_pure_dict(split(module)[3])

    return Model(init, apply, apply_train)


def from_functions(
    init: Callable[[Array], Any], apply_fn: Callable[[Any, Array], Array]
) -> Model:
    """Adapt a hand-written network without statistics or dropout.

    Args:
      init: ``key -> params``, any pytree.
      apply_fn: ``(params, images [B, H, W, ch]) -> logits [B, C]``.

    Returns:
      The model, with an empty ``state``.
    """

    def wrapped_init(key: Array) -> Variables:
        return Variables(init(key), {})

    def apply(variables: Variables, images: Array) -> Array:
        _check_variables(variables)
        return apply_fn(variables.params, images)

    def apply_train(
        variables: Variables, images: Array, key: Array
    ) -> tuple[Array, Any]:
        del key
        return apply(variables, images), {}

    return Model(wrapped_init, apply, apply_train)


def _check_variables(variables: Any) -> None:
    """Raise unless an adapted model is applied to what its ``init`` returns.

    Checked while tracing, too, where it costs nothing in the compiled program.

    Args:
      variables: what the caller passed; any value with the two fields of
        :class:`unlearn_jax.types.Variables` passes.

    Raises:
      InputError: a bare tree of parameters, a Linen dict, None.
    """
    if not (hasattr(variables, "params") and hasattr(variables, "state")):
        raise InputError(
            "this model's apply takes unlearn_jax.Variables(params, state), got"
            f" {type(variables).__name__}: pass the variables that init or fit gave"
        )


def leaf_paths(variables: PyTree) -> list[str]:
    """Return the path of every leaf, such as ``params/Dense_0/kernel``.

    Args:
      variables: any pytree. The variables of an NNX state count as leaves, so that a
        state has the same paths with them and without.

    Returns:
      In the order of ``jax.tree.leaves``.

    >>> leaf_paths({"params": {"Dense_0": {"bias": 0.0, "kernel": 1.0}}})
    ['params/Dense_0/bias', 'params/Dense_0/kernel']
    """
    return [path for path, _ in _described_leaves(variables)]


def is_trained(variables: PyTree) -> list[bool]:
    """Return which leaves are trained.

    Those of ``params`` where the variables are :class:`unlearn_jax.types.Variables` or
    have a key ``params``, as Linen's have; else all but NNX's statistics and random
    streams.

    Args:
      variables: any pytree.

    Returns:
      In the order of ``jax.tree.leaves``.

    >>> is_trained({"params": {"w": 1.0}, "batch_stats": {"mean": 0.0}})
    [False, True]
    """
    described = _described_leaves(variables)
    has_params = isinstance(variables, Variables) or (
        isinstance(variables, Mapping) and "params" in variables
    )
    if has_params:
        return [path.split("/")[0] == "params" for path, _ in described]
    return [is_trained for _, is_trained in described]


def _described_leaves(variables: PyTree) -> list[tuple[str, bool]]:
    """Return each leaf's path, and whether NNX would train it."""
    # a process without NNX has no variables of it
    nnx = sys.modules.get("flax.nnx")
    nnx_types: tuple[type, ...] = ()
    not_trained: tuple[type, ...] = ()
    if nnx is not None:
        nnx_types = (nnx.Variable,)
        not_trained = (nnx.BatchStat, nnx.Cache, nnx.Intermediate, nnx.RngState)
    nodes, _ = jax.tree_util.tree_flatten_with_path(
        variables, is_leaf=lambda node: isinstance(node, nnx_types)
    )
    described = []
    for path, node in nodes:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        is_kept = not isinstance(node, not_trained)
        described += [(name, is_kept)] * len(jax.tree.leaves(node))
    return described
