"""Spectral norms of every affine layer of a model, each followed by its BatchNorm, in one compiled call."""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from unlearn_jax.layers import Layer, layers
from unlearn_jax.spectral._power_qr import Spectrum, lanczos, power_qr
from unlearn_jax.spectral.operators import layer_map
from unlearn_jax.types import ApplyFn, Array, InputError, Model, PyTree

Method = Literal["lanczos", "power_qr"]
NUM_ITERS: dict[str, int] = {"lanczos": 60, "power_qr": 100}
"""Iterations from a random start."""


def named(found: Sequence[Layer]) -> dict[str, Layer]:
    """Layers by the path of their weight; a second use of the same weight is called ``path (2)``.

    Args:
      found: of :func:`unlearn_jax.layers.layers`.

    Returns:
      In order of execution.

    Raises:
      InputError: no layer was found.
    """
    if not found:
        raise InputError(
            "the model has no affine layer: none of its products has a leaf of the"
            " variables as a factor"
        )
    names: dict[str, Layer] = {}
    for layer in found:
        uses = sum(other.path == layer.path for other in names.values())
        names[f"{layer.path} ({uses + 1})" if uses else layer.path] = layer
    return names


def spectral_norms(
    model: Model | ApplyFn,
    variables: PyTree,
    sample: Array,
    *,
    method: Method = "lanczos",
    num_iters: int | None = None,
    composite: bool = True,
) -> dict[str, Array]:
    """The largest singular value of every affine layer.

    Compiled once per ``apply`` (so pass the same function again, not a new lambda),
    shape and knob; can be traced.

    Args:
      model: or its ``apply``, ``(variables, images) -> logits`` in evaluation mode.
      variables: any pytree.
      sample: ``[B, H, W, ch]``, images or anything of their shape: their values do not
        matter.
      method: ``lanczos``, to 1e-4 or better and for reports, see
        :func:`unlearn_jax.spectral.lanczos`; or ``power_qr``, which is lower than the
        truth by per cents after tens of iterations. Say which was used.
      num_iters: at least 1; None for 60 and 100.
      composite: take a layer and the BatchNorm after it for one map, see
        :func:`unlearn_jax.spectral.operators.layer_map`.

    Returns:
      ``[]`` float32 by path of the layer's weight, in order of execution; see
      :func:`named`.

    Raises:
      InputError: no layer, an unknown method, or no iteration.
    """
    if method not in NUM_ITERS:
        raise InputError(f"unknown method {method!r}; choose {' or '.join(NUM_ITERS)}")
    num_iters = NUM_ITERS[method] if num_iters is None else num_iters
    return dict(
        _norms(apply_of(model), method, num_iters, composite, variables, _one(sample))
    )


def top_spectrum(
    model: Model | ApplyFn,
    variables: PyTree,
    sample: Array,
    *,
    num_vectors: int = 1,
    num_iters: int = 100,
    shift: float = 0.0,
    composite: bool = True,
    warm: Mapping[str, Array] | None = None,
) -> dict[str, Spectrum]:
    """The ``num_vectors`` largest singular values and right singular vectors of every affine layer, by PowerQR.

    Compiled once, as :func:`spectral_norms`.

    Args:
      model: or its ``apply``.
      variables: any pytree.
      sample: ``[B, H, W, ch]``; the values do not matter.
      num_vectors: K, at least 1; fewer for layers with fewer inputs.
      num_iters: at least 1.
      shift: see :func:`unlearn_jax.spectral.power_qr`.
      composite: with the BatchNorm that follows.
      warm: vectors by path, of the last call; None for normal draws (always the same).

    Returns:
      Spectra by path, in order of execution.

    Raises:
      InputError: no layer, or no iteration.
    """
    if num_vectors < 1:
        raise InputError(f"num_vectors must be at least 1, got {num_vectors}")
    return dict(
        _spectra(
            apply_of(model),
            num_vectors,
            num_iters,
            shift,
            composite,
            variables,
            _one(sample),
            warm,
        )
    )


def log10_lipschitz_product(norms: Mapping[str, Array]) -> Array:
    """Decimal logarithm ``[]`` of the product of the norms, which bounds the Lipschitz constant of a plain chain.

    A chain of the given layers, biases, and functions of constant at most 1 (ReLU,
    pooling without overlap, global average pooling). For a residual network it is
    **no** bound but an index, since a sum adds its branches' constants; nor does it
    know of a normalization of the images inside the model. The norms must be converged.

    >>> float(log10_lipschitz_product({"a": jnp.array(10.0), "b": jnp.array(0.1), "c": jnp.array(100.0)}))
    2.0
    """
    return jnp.sum(jnp.log10(jnp.stack(list(norms.values()))))


def start_vectors(index: int | Array, count: int, shape: tuple[int, ...]) -> Array:
    """Normal draws ``[count, *shape]`` for the layer of that index: where an iteration without vectors starts."""
    return jax.random.normal(
        jax.random.fold_in(jax.random.key(0), index), (count, *shape)
    )


def apply_of(model: Model | ApplyFn) -> ApplyFn:
    """The evaluation-mode pass of a model, or the function that stands for one."""
    return model.apply if isinstance(model, Model) else model


def _one(sample: Any) -> Array:
    return jnp.zeros((1, *jnp.shape(sample)[1:]), jnp.float32)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _norms(
    apply: ApplyFn,
    method: Method,
    num_iters: int,
    composite: bool,
    variables: PyTree,
    sample: Array,
) -> OrderedDict[str, Array]:  # a jitted function sorts the keys of a dict
    norms = OrderedDict()
    for index, (name, layer) in enumerate(
        named(layers(apply, variables, sample)).items()
    ):
        operator = layer_map(layer, composite=composite)
        start = start_vectors(index, 1, operator.in_shape)
        if method == "lanczos":
            norms[name] = lanczos(operator.matvec, start[0], num_iters=num_iters)[0][0]
        else:
            norms[name] = power_qr(operator.matvec, start, num_iters=num_iters).sigma[0]
    return norms


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _spectra(
    apply: ApplyFn,
    num_vectors: int,
    num_iters: int,
    shift: float,
    composite: bool,
    variables: PyTree,
    sample: Array,
    warm: Mapping[str, Array] | None,
) -> OrderedDict[str, Spectrum]:
    spectra = OrderedDict()
    for index, (name, layer) in enumerate(
        named(layers(apply, variables, sample)).items()
    ):
        operator = layer_map(layer, composite=composite)
        count = min(num_vectors, math.prod(operator.in_shape))
        start = (
            start_vectors(index, count, operator.in_shape)
            if warm is None
            else warm[name]
        )
        spectra[name] = power_qr(
            operator.matvec, start, num_iters=num_iters, shift=shift
        )
    return spectra
