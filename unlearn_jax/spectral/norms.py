"""Spectral norms of a model's affine layers, each together with its BatchNorm."""

import inspect
import math
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from unlearn_jax.checks import check_counts, check_shape
from unlearn_jax.layers import Layer, Walk, walk
from unlearn_jax.spectral._power_qr import Method, Spectrum, estimate_all
from unlearn_jax.spectral.operators import layer_map
from unlearn_jax.types import ApplyFn, Array, InputError, PyTree, check_apply_fn

NUM_ITERS: dict[str, int] = {"lanczos": 60, "power_qr": 100}
"""Number of iterations from a random start, by method."""

INTERNAL = ("unlearn_jax", "jax", "optax", "flax", "contextlib", "functools")
"""Packages whose lines warnings do not point at."""


def named(records: Sequence[Layer]) -> dict[str, Layer]:
    """Name layers by the path of their weight.

    A second use of the same weight is named ``path (2)``.

    Args:
      records: layers from :func:`unlearn_jax.layers.layers`.

    Returns:
      Layers by name, in order of execution.

    Raises:
      InputError: no layer was found.
    """
    if not records:
        raise InputError(
            "the model has no affine layer: none of its products has a leaf of the"
            " variables as a factor"
        )
    names: dict[str, Layer] = {}
    for layer in records:
        uses = sum(other.path == layer.path for other in names.values())
        names[f"{layer.path} ({uses + 1})" if uses else layer.path] = layer
    return names


def spectral_norms(
    apply_fn: ApplyFn,
    variables: PyTree,
    sample: Any,
    *,
    method: Method = "lanczos",
    num_iters: int | None = None,
    composite: bool = True,
) -> dict[str, Array]:
    """Estimate the largest singular value of every affine layer.

    Kernels that are computed from trained leaves (weight standardization) are measured
    as they are used. The function is compiled once per ``apply_fn`` (so pass the same
    function again, not a new lambda), shape and option, and can be traced. When it is
    compiled, it warns of trained arrays that belong to no layer
    (:func:`unlearn_jax.layers.unfound`).

    Args:
      apply_fn: ``(variables, images) -> logits`` in evaluation mode.
      variables: any pytree.
      sample: ``[B, H, W, ch]``, images or any array of their shape; the values do not
        matter.
      method: ``lanczos``, accurate to 1e-4 or better and meant for reports, see
        :func:`unlearn_jax.spectral.lanczos`; or ``power_qr``, which is a few percent
        below the true norm after tens of iterations. Report the method with the norms.
      num_iters: number of iterations, at least 1; None for 60 (``lanczos``) or 100
        (``power_qr``).
      composite: treat a layer and the BatchNorm after it as one map, see
        :func:`unlearn_jax.spectral.operators.layer_map`.

    Returns:
      Norms, ``[]`` float32, by path of the layer's weight, in order of execution; see
      :func:`named`.

    Raises:
      InputError: no layer, an unknown method, fewer than one iteration, or a model
        instead of its function.
    """
    check_apply_fn(apply_fn)
    if method not in NUM_ITERS:
        raise InputError(f"unknown method {method!r}; choose {' or '.join(NUM_ITERS)}")
    num_iters = NUM_ITERS[method] if num_iters is None else num_iters
    image = blank_image(sample)
    options = (method, 1, num_iters, 0.0, composite)
    spectra = _spectra(apply_fn, *options, variables, image, None)
    return {name: spectrum.sigma[0] for name, spectrum in spectra.items()}


def top_spectrum(
    apply_fn: ApplyFn,
    variables: PyTree,
    sample: Any,
    *,
    num_vectors: int = 1,
    num_iters: int = 100,
    shift: float = 0.0,
    composite: bool = True,
    warm: Mapping[str, Array] | None = None,
) -> dict[str, Spectrum]:
    """Estimate every affine layer's largest singular values and vectors by PowerQR.

    The function is compiled once, as :func:`spectral_norms` is.

    Args:
      apply_fn: ``(variables, images) -> logits`` in evaluation mode.
      variables: any pytree.
      sample: ``[B, H, W, ch]``; the values do not matter.
      num_vectors: number of vectors per layer, K, at least 1; capped at the layer's
        number of inputs.
      num_iters: number of iterations, at least 1.
      shift: shift of :func:`unlearn_jax.spectral.power_qr`.
      composite: treat a layer and the BatchNorm after it as one map.
      warm: vectors ``[K, *in_shape]`` to start from, by path, from the last call, whose
        number replaces ``num_vectors``; None for normal draws (always the same).

    Returns:
      Spectra by path, in order of execution.

    Raises:
      InputError: no layer, fewer than one iteration or vector, ``warm`` without
        vectors of a layer or with vectors of another shape, or a model instead of its
        function.
    """
    check_apply_fn(apply_fn)
    check_counts(num_vectors=num_vectors)
    image = blank_image(sample)
    options = ("power_qr", num_vectors, num_iters, shift, composite)
    return dict(_spectra(apply_fn, *options, variables, image, warm))


def log10_lipschitz_product(norms: Mapping[str, Array]) -> Array:
    """Return the decimal logarithm ``[]`` of the product of the norms.

    The product bounds the Lipschitz constant of a chain of the given layers, biases,
    and functions of constant at most 1 (ReLU, pooling without overlap, global average
    pooling). For a residual network it is **not** a bound but only an index, since a
    sum adds its branches' constants. A normalization of the images inside the model is
    not included. The norms must be converged.

    >>> norms = {"a": jnp.array(10.0), "b": jnp.array(0.1), "c": jnp.array(100.0)}
    >>> float(log10_lipschitz_product(norms))
    2.0
    """
    return jnp.sum(jnp.log10(jnp.stack(list(norms.values()))))


def start_vectors(index: int | Array, count: int, shape: tuple[int, ...]) -> Array:
    """Draw normal vectors ``[count, *shape]`` to start an iteration from.

    Args:
      index: index of the layer; each layer has its own draws, always the same.
      count: number of vectors.
      shape: shape of one vector.
    """
    return jax.random.normal(
        jax.random.fold_in(jax.random.key(0), index), (count, *shape), jnp.float32
    )


def blank_image(sample: Any) -> Array:
    """Return one image of zeros in the shape of a sample ``[B, H, W, ch]``."""
    shape = sample.shape if hasattr(sample, "shape") else jnp.shape(sample)
    return jnp.zeros((1, *shape[1:]), jnp.float32)


def warn_of_unfound(walked: Walk, *, purpose: str) -> None:
    """Warn of the trained arrays that belong to no layer.

    Args:
      walked: layers of a model.
      purpose: participle for what is not done to these arrays, such as ``measured``.
    """
    if walked.unfound:
        warn_at_caller(
            f"not {purpose}: {', '.join(walked.unfound)}; the pass multiplies by these"
            " trained arrays otherwise than in a product or convolution that is"
            " followed"
        )


def warn_at_caller(message: str) -> None:
    """Warn at the line of the user's code that led here.

    That line is in the innermost frame outside this package and outside the libraries
    that trace and chain its functions, however many of their frames lie between.

    Args:
      message: text of the warning.
    """
    level = 1
    frame = inspect.currentframe()
    while frame is not None and _is_internal(frame.f_globals.get("__name__", "")):
        level += 1
        frame = frame.f_back
    warnings.warn(message, stacklevel=level)


def _is_internal(module: str) -> bool:
    return module.partition(".")[0] in INTERNAL


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5))
def _spectra(
    apply_fn: ApplyFn,
    method: Method,
    num_vectors: int,
    num_iters: int,
    shift: float,
    composite: bool,
    variables: PyTree,
    image: Array,
    warm: Mapping[str, Array] | None,
) -> OrderedDict[str, Spectrum]:  # a jitted function sorts the keys of a dict
    walked = walk(apply_fn, variables, image)
    warn_of_unfound(walked, purpose="measured")
    layers = named(walked.layers)
    maps = [layer_map(layer, composite=composite) for layer in layers.values()]
    starts = []
    for index, (name, one) in enumerate(zip(layers, maps, strict=True)):
        count = min(num_vectors, math.prod(one.in_shape))
        starts.append(
            start_vectors(index, count, one.in_shape)
            if warm is None
            else _warm_start(warm, name, one.in_shape)
        )
    spectra = estimate_all(
        maps,
        starts,
        [Spectrum(jnp.zeros(len(start), start.dtype), start) for start in starts],
        jnp.ones(len(maps), bool),
        method=method,
        num_iters=num_iters,
        shift=shift,
    )
    return OrderedDict(zip(layers, spectra, strict=True))


def _warm_start(warm: Mapping[str, Array], name: str, shape: tuple[int, ...]) -> Array:
    """Return the vectors ``[K, *shape]`` of one layer to start from.

    Raises:
      InputError: no vectors of that layer, or vectors of another shape.
    """
    vectors = warm.get(name)
    if not hasattr(vectors, "shape"):
        raise InputError(
            f"warm has no array of vectors of {name!r}: pass spectrum.vectors of the"
            " last call, by path"
        )
    check_shape(f"warm vectors of {name!r}", vectors, (None, *shape))
    return jnp.asarray(vectors, jnp.float32)
