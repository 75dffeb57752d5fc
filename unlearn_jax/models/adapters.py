"""Adapters from Linen, NNX and plain functions to this library's own types."""

import inspect
import sys
import warnings
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.interpreters.partial_eval import dce_jaxpr

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
"""Arguments of ``__call__`` that switch a Linen module's mode: values in training."""


def from_linen(module: "nn.Module", sample: Array, *, conv: str = "auto") -> Model:
    """Adapt a Linen module whose ``__call__(images)`` returns logits.

    The mode is passed by the keywords ``train``, ``training``, ``is_training`` and
    ``deterministic``, as far as the module's ``__call__`` has them. A module without
    any of them computes the same in training and in evaluation. In training, random
    streams of any name receive keys; in evaluation there are none.

    Inside a training loop on CPU, a convolution of ``flax.linen`` is 3.5 to 6 times
    slower than necessary. Therefore :func:`unlearn_jax.models.convolution` computes
    every :class:`flax.linen.Conv` over two axes that has no groups, no dilation and no
    custom convolution. The results are equal up to rounding.

    Args:
      module: the network; it may use the ``params`` collection and any mutable
        collections.
      sample: ``[B, H, W, ch]`` images of the right shape; the first one is used for
        initialization.
      conv: form of these convolutions, see :func:`unlearn_jax.models.convolution_form`;
        ``"lax"`` leaves them unchanged.

    Returns:
      The model; ``state`` holds every collection except ``params``. Its functions raise
      an InputError for images that the parameters do not fit.

    Raises:
      InputError: a module that does not return logits ``[B, C]`` of two classes or
        more, needs further arguments, draws random numbers in evaluation, or adds to a
        collection at each call; an unknown form.
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
    _, trained = jax.eval_shape(model.apply_train, shapes, sample, jax.random.key(0))
    for name, before in shapes.state.items():
        after = trained.get(name)
        if jax.tree.structure(after) != jax.tree.structure(before):
            raise InputError(
                f"{type(module).__name__} changes the structure of its collection"
                f" {name!r} at each call, as sow does: a training step must keep it"
            )
    return model


def adapt_linen(module: "nn.Module", sample: Array, *, conv: str = "auto") -> Model:
    """Adapt a Linen module as :func:`from_linen` does, without checking its output."""
    from flax import errors
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
            # Only the module of this call, which is frozen at this point, is changed.
            object.__setattr__(layer, "conv_general_dilated", convolve)
        return call(*args, **options)

    def run(variables: Any, images: Array, **options: Any) -> Any:
        try:
            with nn.intercept_methods(replace_convolution):
                return module.apply(variables, images, **options)
        except errors.ScopeParamShapeError:
            # the variables fit, so it is the images that do not
            wanted = ", ".join(map(str, sample.shape[1:]))
            raise InputError(
                f"the model takes images [B, {wanted}], got {np.shape(images)}: resize"
                " them, or build the model for their shape"
            ) from None

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
        # a stream without its own key draws from the key of "params"
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
      InputError: the module needs arguments other than images and mode.
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
    """Adapt an NNX module that maps images to logits.

    Args:
      make: function that builds the module from ``nnx.Rngs``; ``module.train()`` and
        ``module.eval()`` must switch its mode. All random streams, such as that of
        dropout, are reseeded from the key of every training step, each by its own key.

    Returns:
      The model; ``params`` holds the ``nnx.Param`` leaves, ``state`` everything else
      except random streams. Its ``apply`` raises an InputError if the logits depend on
      random numbers in evaluation.
    """
    from flax import nnx

    def split(module: Any) -> tuple[Any, Any, Any, Any]:
        graph, params, streams, state = nnx.split(module, nnx.Param, nnx.RngState, ...)
        return graph, params, streams, state

    blank = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    tags = {
        node.key.tag
        for _, node in nnx.iter_graph(blank)
        if isinstance(node, nnx.RngStream)
    }
    blank.train()
    graph_train, *_ = split(blank)
    blank.eval()
    graph_eval, *leaves = split(blank)

    def init(key: Array) -> Variables:
        _, params, _, state = split(make(nnx.Rngs(key)))
        return Variables(nnx.to_pure_dict(params), nnx.to_pure_dict(state))

    @cache
    def shapes() -> Variables:
        return jax.eval_shape(lambda: init(jax.random.key(0)))

    def rebuild(graph: Any, variables: Variables, key: Array) -> Any:
        _check_variables(variables, shapes())
        # copied, because the leaves are replaced in place
        params, streams, state = jax.tree.map(lambda leaf: leaf, leaves)
        nnx.replace_by_pure_dict(params, variables.params)
        nnx.replace_by_pure_dict(state, variables.state)
        module = nnx.merge(graph, params, streams, state, copy=True)
        nnx.reseed(module, policy="match_shape", **_stream_keys(key, tags))
        return module

    def evaluate(variables: Variables, images: Array, key: Array) -> Array:
        return rebuild(graph_eval, variables, key)(images)

    @cache
    def check_evaluation(shape: tuple[int, ...], dtype: Any) -> None:
        images = jax.ShapeDtypeStruct(shape, dtype)
        traced = jax.make_jaxpr(evaluate)(shapes(), images, jax.random.key(0))
        _, is_used = dce_jaxpr(traced.jaxpr, [True] * len(traced.out_avals))
        if is_used[-1]:
            raise InputError(
                "the NNX module draws random numbers in evaluation: draw them in"
                " training alone"
            )

    def apply(variables: Variables, images: Array) -> Array:
        logits = evaluate(variables, images, jax.random.key(0))
        check_evaluation(images.shape, images.dtype)
        return logits

    def apply_train(
        variables: Variables, images: Array, key: Array
    ) -> tuple[Array, Any]:
        module = rebuild(graph_train, variables, key)
        logits = module(images)
        return logits, nnx.to_pure_dict(split(module)[3])

    return Model(init, apply, apply_train)


def _stream_keys(key: Array, tags: set[str]) -> dict[str, Any]:
    """Return a different key for each random stream, by its tag.

    Dropout's stream has the key itself; without one, the default stream does.
    """
    main = "dropout" if "dropout" in tags else "default"
    return {
        tag: key if tag == main else jax.random.fold_in(key, zlib.crc32(tag.encode()))
        for tag in tags
    }


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
        except Exception:  # a function that cannot be traced may raise any type
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
    """Raise unless variables have the structure that a model's ``init`` returns.

    The check also runs while tracing, and costs nothing in the compiled program.

    Args:
      variables: the caller's variables; any value with the two fields of
        :class:`unlearn_jax.types.Variables` is accepted.
      like: the variables of ``init``, or their shapes; None, or without parameters, if
        these are unknown.

    Raises:
      InputError: variables without the two fields (a bare tree of parameters, a Linen
        dictionary, None); leaves of other shapes, missing leaves, or extra parameters.
    """
    if not (hasattr(variables, "params") and hasattr(variables, "state")):
        raise InputError(
            "this model's apply takes unlearn_jax.Variables(params, state), got"
            f" {type(variables).__name__}: pass the variables that init or fit returned"
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
            # training may add state, but a parameter that is never read is a mistake
            if path.startswith("state"):
                continue
            raise InputError(
                f"the variables do not fit the model: it has no {path}, which has shape"
                f" {np.shape(leaf)} in the variables"
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
      variables: the model's variables, or their shapes.
      sample: ``[1, ...]`` images.

    Raises:
      InputError: an output that is not ``[1, C]`` with two classes or more.
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
      variables: any pytree. An ``nnx.Variable`` counts as a leaf, so that an NNX state
        has the same paths whether or not its arrays are wrapped.

    Returns:
      The paths, in the order of ``jax.tree.leaves``.

    >>> leaf_paths({"params": {"Dense_0": {"bias": 0.0, "kernel": 1.0}}})
    ['params/Dense_0/bias', 'params/Dense_0/kernel']
    """
    return [path for path, _ in _described_leaves(variables)]


def is_trained(variables: PyTree) -> list[bool]:
    """Return which leaves are trained.

    The trained leaves are those of ``params`` if the variables are
    :class:`unlearn_jax.types.Variables` or have a key ``params``, as in Linen.
    Otherwise all leaves are trained except NNX's statistics and random streams.

    Args:
      variables: any pytree.

    Returns:
      One boolean per leaf, in the order of ``jax.tree.leaves``.

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
    # a process that has not imported NNX has no NNX variables
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
