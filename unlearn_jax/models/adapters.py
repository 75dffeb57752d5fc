"""Adapters from Linen, NNX and plain functions to this library's own types."""

import inspect
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from unlearn_jax.checks import check_output
from unlearn_jax.models.conv import convolution
from unlearn_jax.types import ApplyFn, Array, InputError, Model, PyTree, Variables

if TYPE_CHECKING:
    import flax.linen as nn
    from flax import nnx


MODES: dict[str, bool] = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
}
"""Arguments of ``__call__`` that switch a Linen module's mode, as in training."""


def from_linen(module: "nn.Module", sample: Array, *, conv: str = "auto") -> Model:
    """Adapt a Linen module whose ``__call__(images)`` returns logits.

    The mode is passed by whichever of the keywords ``train``, ``training``,
    ``is_training`` and ``deterministic`` the module's ``__call__`` has; one without any
    of them computes the same in training. Random streams of any name are keyed in
    training, and none in evaluation.

    On CPU a convolution of ``flax.linen`` runs 3.5 to 6 times slower than it need
    inside a training loop, so every :class:`flax.linen.Conv` of two axes, without
    groups and dilations, that does not bring a convolution of its own is computed by
    :func:`unlearn_jax.models.convolution`: equal to rounding.

    Args:
      module: the network; it may use the ``params`` collection and any mutable
        collections.
      sample: ``[B, H, W, ch]`` images of the right shape, for initialization; the
        first one is read.
      conv: form of those convolutions, see
        :func:`unlearn_jax.models.convolution_form`; ``"lax"`` leaves them as they are.

    Returns:
      The model; ``state`` holds every collection but ``params``.

    Raises:
      InputError: the module does not return logits ``[B, C]`` of two classes or more,
        needs further arguments, or draws random numbers in evaluation; an unknown form.
    """
    from flax import errors

    sample = jnp.asarray(sample)[:1]
    model = adapt_linen(module, sample, conv=conv)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    try:
        _check_logits(model.apply, shapes, sample)
    except errors.InvalidRngError:
        raise InputError(
            f"{type(module).__name__} draws random numbers in evaluation: draw them in"
            " training alone"
        ) from None
    return model


def adapt_linen(module: "nn.Module", sample: Array, *, conv: str = "auto") -> Model:
    """Adapt a Linen module as :func:`from_linen` does, its output unchecked."""
    from flax import linen as nn

    training = _mode_arguments(module)
    evaluation = {name: not is_on for name, is_on in training.items()}
    chosen = convolution(conv)

    def convolve(lhs: Array, rhs: Array, *args: Any, **options: Any) -> Array:
        is_plain = lhs.ndim == 4 and options["feature_group_count"] == 1
        for name in ("lhs_dilation", "rhs_dilation"):
            is_plain &= tuple(options[name]) == (1, 1)
        form = chosen if is_plain else lax.conv_general_dilated
        return form(lhs, rhs, *args, **options)

    def replace_convolution(
        call: Callable[..., Any], args: Any, options: Any, context: Any
    ) -> Any:
        layer = context.module
        if (
            isinstance(layer, nn.Conv)
            and layer.conv_general_dilated is None
            and layer.conv_general_dilated_cls is None
        ):
            # the module of this call alone, which is frozen by then
            object.__setattr__(layer, "conv_general_dilated", convolve)
        return call(*args, **options)

    def run(variables: Any, *args: Any, **options: Any) -> Any:
        with nn.intercept_methods(replace_convolution):
            return module.apply(variables, *args, **options)

    def init(key: Array) -> Variables:
        state = dict(module.init(key, sample, **evaluation))  # pyright: ignore[reportArgumentType]
        return Variables(state.pop("params", {}), state)

    def join(variables: Variables) -> dict[str, Any]:
        _check_variables(variables, shapes())
        return {"params": variables.params, **variables.state}

    def apply(variables: Variables, images: Array) -> Array:
        return run(join(variables), images, **evaluation)

    def apply_train(
        variables: Variables, images: Array, key: Array
    ) -> tuple[Array, Any]:
        # a stream without a key of its own draws from that of "params"
        streams = {"dropout": key, "params": jax.random.fold_in(key, 1)}
        logits, state = run(
            join(variables),
            images,
            mutable=list(variables.state),
            rngs=streams,
            **training,
        )
        return logits, dict(state)

    @cache
    def shapes() -> Variables:
        return jax.eval_shape(init, jax.random.key(0))

    return Model(init, apply, apply_train)


def _mode_arguments(module: "nn.Module") -> dict[str, bool]:
    """Return the keyword arguments that put a Linen module in training mode.

    Raises:
      InputError: it needs arguments other than images and mode.
    """
    first, *others = inspect.signature(module.__call__).parameters.values()
    needed = [
        one.name
        for one in others
        if one.default is one.empty
        and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
        and one.name not in MODES
    ]
    if needed:
        raise InputError(
            f"{type(module).__name__}.__call__ needs {', '.join(needed)} besides"
            f" {first.name}: give defaults, or adapt it by models.from_functions"
        )
    return {one.name: MODES[one.name] for one in others if one.name in MODES}


def from_nnx(make: "Callable[[nnx.Rngs], Any]") -> Model:
    """Adapt an NNX module, which maps images to logits where it is called.

    Args:
      make: builds the module from ``nnx.Rngs``; ``module.train()`` and
        ``module.eval()`` switch its mode. Random streams of any name (dropout) are
        reseeded from the key of every training step.

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
    tags = {"default", "dropout"}
    for _, node in nnx.iter_graph(make(nnx.Rngs(0))):
        if isinstance(node, nnx.RngStream):
            tags.add(node.key.tag)

    def init(key: Array) -> Variables:
        _, params, _, state = split(make(nnx.Rngs(key)))
        return Variables(nnx.to_pure_dict(params), nnx.to_pure_dict(state))

    @cache
    def shapes() -> Variables:
        return jax.eval_shape(lambda: init(jax.random.key(0)))

    def rebuild(graph: Any, variables: Variables, streams: Any) -> Any:
        _check_variables(variables, shapes())
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
        keys: dict[str, Any] = dict.fromkeys(sorted(tags), key)
        nnx.reseed(module, **keys)
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

    @cache
    def shapes() -> Variables | None:
        try:
            return jax.eval_shape(wrapped_init, jax.random.key(0))
        except Exception:  # whatever a function raises that cannot be traced
            return None

    def apply(variables: Variables, images: Array) -> Array:
        _check_variables(variables, shapes())
        return apply_fn(variables.params, images)

    def apply_train(
        variables: Variables, images: Array, key: Array
    ) -> tuple[Array, Any]:
        del key
        return apply(variables, images), {}

    return Model(wrapped_init, apply, apply_train)


def _check_variables(variables: Any, like: Variables | None) -> None:
    """Raise unless an adapted model is applied to what its ``init`` returns.

    Checked while tracing, too, where it costs nothing in the compiled program.

    Args:
      variables: what the caller passed; any value with the two fields of
        :class:`unlearn_jax.types.Variables` passes.
      like: the variables of ``init``, or their shapes; None, or no parameters, if these
        are not known.

    Raises:
      InputError: a bare tree of parameters, a Linen dict, None; leaves of other
        shapes, missing leaves, or further parameters.
    """
    if not (hasattr(variables, "params") and hasattr(variables, "state")):
        raise InputError(
            "this model's apply takes unlearn_jax.Variables(params, state), got"
            f" {type(variables).__name__}: pass the variables that init or fit gave"
        )
    if like is None or not jax.tree.leaves(like.params):
        return
    given = [np.shape(leaf) for leaf in jax.tree.leaves(variables)]
    if given == [leaf.shape for leaf in jax.tree.leaves(like)]:
        return
    expected = dict(zip(leaf_paths(like), jax.tree.leaves(like), strict=True))
    leaves = jax.tree.leaves(variables)
    for path, leaf in zip(leaf_paths(variables), leaves, strict=True):
        if path not in expected:
            # training may add to the state; a parameter that is not read is a mistake
            if path.startswith("state"):
                continue
            raise InputError(
                f"the variables do not fit the model: it has no {path}, of shape"
                f" {np.shape(leaf)} here"
            )
        shape = expected.pop(path).shape
        if np.shape(leaf) != shape:
            raise InputError(
                f"the variables do not fit the model: {path} has shape"
                f" {np.shape(leaf)}, the model's has {shape}"
            )
    if expected:
        path, leaf = next(iter(expected.items()))
        raise InputError(
            f"the variables do not fit the model: {path}, of shape {leaf.shape}, is"
            " missing"
        )


def _check_logits(apply_fn: ApplyFn, variables: PyTree, sample: Array) -> None:
    """Raise unless a model returns logits; warn if it returns probabilities.

    Args:
      apply_fn: ``(variables, images) -> logits``.
      variables: or their shapes.
      sample: ``[1, ...]`` images.

    Raises:
      InputError: another output than ``[1, C]`` of two classes or more.
    """
    traced, output = jax.make_jaxpr(apply_fn, return_shape=True)(variables, sample)
    check_output(output)
    last = _last_operation(traced.jaxpr, traced.jaxpr.outvars[0])
    if last in ("softmax", "logistic"):
        warnings.warn(
            f"the model ends in a {last.replace('logistic', 'sigmoid')}: return logits,"
            " the losses and attacks apply their own softmax",
            stacklevel=3,
        )


def _last_operation(jaxpr: Any, variable: Any) -> str:
    """Return the name of the operation that computes an output of a program."""
    for equation in jaxpr.eqns:
        if variable not in equation.outvars:
            continue
        name = equation.primitive.name
        if name == "div":
            numerator = _last_operation(jaxpr, equation.invars[0])
            return "softmax" if numerator == "exp" else name
        if name in ("convert_element_type", "reshape", "copy"):
            return _last_operation(jaxpr, equation.invars[0])
        inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
        if inner is not None:
            inner = getattr(inner, "jaxpr", inner)
            index = equation.outvars.index(variable)
            return _last_operation(inner, inner.outvars[index])
        return name
    return ""


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
