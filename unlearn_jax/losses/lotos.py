"""LOTOS: what one layer of an ensemble's members amplifies most, the same layer of the others must not amplify.

Section 3.3.4 of *Toward Reliable Machine Unlearning* (arXiv 2512.06993) and *Training
Robust Ensembles Requires Rethinking Lipschitz Continuity* (arXiv 2410.05136).
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from unlearn_jax.types import Array, InputError

LinearFn = Callable[[Array], Array]
"""A layer's linear part, ``f(x) - f(0)``, on one example; see ``unlearn_jax.spectral.layer_map``."""

Convention = Literal["sum", "mean"]


def stretch(linear: LinearFn, vectors: Array) -> Array:
    """By how much a linear map lengthens each vector, ``|f(v)| / |v|``.

    Args:
      linear: on one example.
      vectors: ``[K, ...]`` inputs, none zero; no gradient flows into them.

    Returns:
      ``[K]``, differentiable in the map, with gradient 0 where the map annihilates the
      vector.

    >>> stretch(lambda x: 3 * x, jnp.eye(2)).tolist()
    [3.0, 3.0]
    """
    vectors = lax.stop_gradient(vectors)
    squares = _squared_length(jax.vmap(linear)(vectors)) / _squared_length(vectors)
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0)


def _squared_length(values: Array) -> Array:
    return jnp.sum(values**2, tuple(range(1, values.ndim)))


def direction_weights(num_vectors: int) -> tuple[float, ...]:
    """The released code's weights of the top directions: ``1 - 0.01 (i - 1)``, over their sum; 1 for one direction.

    >>> [round(weight, 4) for weight in direction_weights(2)]
    [0.5025, 0.4975]
    """
    raw = [1 - 0.01 * i for i in range(num_vectors)]
    return tuple(weight / sum(raw) for weight in raw)


def lotos_similarity(
    linear: LinearFn,
    other: LinearFn,
    vectors: Array,
    other_vectors: Array,
    *,
    max_length: float | Array = 0.8,
    weights: Sequence[float] | None = None,
) -> Array:
    """How much two layers amplify each other's top directions: equation 3.3 of arXiv 2512.06993.

    ``S_k(f, g) = sum_i w_i [relu(|f(v'_i)| - mal) + relu(|g(v_i)| - mal)]``, ``v_i``
    the top right singular vectors of f, ``v'_i`` those of g. Zero exactly if each
    shortens the other's directions to ``mal`` or less. For one direction and given
    spectra it is largest where the two layers share it; for several it is not (lengths
    2 and 0 add up to less than twice the square root of 2, those of the same layer seen
    at 45 degrees).

    Args:
      linear: f, on one example.
      other: g, with inputs of the same shape.
      vectors: ``[K, ...]`` unit vectors of f, in descending order of their singular
        values.
      other_vectors: ``[K, ...]`` of g.
      max_length: mal, the length up to which a foreign direction is tolerated. It means
        something only beside the norm that the layers are clipped to: 0.8 for a norm of
        1 as published; at the norm itself the term is off.
      weights: ``w_i``, not increasing; :func:`direction_weights` by default.

    Returns:
      ``[]``, differentiable in both maps; the vectors are constants.

    Raises:
      InputError: as many weights as vectors are needed.

    >>> first, second = jnp.diag(jnp.array([2.0, 0.0])), jnp.diag(jnp.array([0.0, 2.0]))
    >>> f, g, top = (lambda x: first @ x), (lambda x: second @ x), jnp.eye(2)
    >>> float(lotos_similarity(f, g, top[:1], top[1:])), float(lotos_similarity(f, f, top[:1], top[:1]))
    (0.0, 2.4...)
    """
    return layer_similarity(
        [linear, other],
        [vectors, other_vectors],
        max_length=max_length,
        weights=weights,
    )


def layer_similarity(
    maps: Sequence[LinearFn],
    vectors: Sequence[Array],
    *,
    max_length: float | Array = 0.8,
    weights: Sequence[float] | None = None,
) -> Array:
    """:func:`lotos_similarity` summed over all pairs of members, for one layer.

    Each member's map runs once, on the directions of all the others together.

    Args:
      maps: ``N`` members' layers, with inputs of the same shape.
      vectors: ``N`` times ``[K, ...]``.
      max_length: see :func:`lotos_similarity`.
      weights: see :func:`lotos_similarity`.

    Returns:
      ``[]``.

    Raises:
      InputError: fewer than two members, directions of different shapes, or a wrong
        number of weights.
    """
    if len(maps) < 2 or len(maps) != len(vectors):
        raise InputError(
            "LOTOS compares members: give two or more, and directions of each; got"
            f" {len(maps)}"
        )
    shapes = {block.shape for block in vectors}
    if len(shapes) > 1:
        raise InputError(
            "this layer's inputs differ between members"
            f" ({', '.join(map(str, sorted(shapes)))}): only layers with the same"
            " inputs can be compared, such as the first"
        )
    num_vectors = len(vectors[0])
    weights = direction_weights(num_vectors) if weights is None else weights
    if len(weights) != num_vectors:
        raise InputError(
            f"{num_vectors} directions need as many weights, got {len(weights)}"
        )
    total = jnp.zeros(())
    for i, linear in enumerate(maps):
        foreign = jnp.concatenate([block for j, block in enumerate(vectors) if j != i])
        excess = jax.nn.relu(stretch(linear, foreign) - max_length).reshape(
            -1, num_vectors
        )
        total += jnp.sum(excess @ jnp.asarray(weights, excess.dtype))
    return total


def lotos_penalty(
    maps: Sequence[Sequence[LinearFn]],
    vectors: Sequence[Sequence[Array]],
    *,
    max_length: float | Array = 0.8,
    weights: Sequence[float] | None = None,
    convention: Convention = "sum",
) -> Array:
    """The orthogonality term of an ensemble: :func:`lotos_similarity` over layers and pairs of members.

    Args:
      maps: for each of ``L`` layers, ``N`` members' maps.
      vectors: for each layer, each member's top directions ``[K, ...]``.
      max_length: see :func:`lotos_similarity`.
      weights: see :func:`lotos_similarity`.
      convention: ``"sum"`` is ``sum_layers sum_{i<j} S``, what the released code adds
        to the *sum* of the members' cross-entropies, times 0.05 or 0.01. ``"mean"``
        divides by ``L N (N - 1)``, as the paper's equation 4 does beside the *mean* of
        the cross-entropies (its pair sum read as ``i < j``). A weight ``c`` of the one
        is ``c L (N - 1)`` of the other.

    Returns:
      ``[]``; the weight lambda is not in it.

    Raises:
      InputError: no layers, an unknown convention, or as :func:`layer_similarity`.
    """
    if not maps or convention not in ("sum", "mean"):
        raise InputError(
            "LOTOS needs at least one layer, and the convention 'sum' or 'mean'"
        )
    terms = [
        layer_similarity(members, blocks, max_length=max_length, weights=weights)
        for members, blocks in zip(maps, vectors, strict=True)
    ]
    total = sum(terms, jnp.zeros(()))
    num_members = len(maps[0])
    return (
        total / (len(maps) * num_members * (num_members - 1))
        if convention == "mean"
        else total
    )


def neighbor_bound(
    length: Array | float,
    kernel_norm: Array | float,
    *,
    num_taps: int,
    offset: int | Array,
    size: int,
) -> Array:
    """Why one direction is enough for a convolution: what it does to a frequency, it nearly does to the neighbors.

    For one input channel, one output channel and circular padding all kernels share
    their singular vectors, the Fourier modes. If f takes the top direction of g to
    length ``eps``, then it takes the mode ``p`` frequencies away to at most
    ``sqrt(eps^2 + 2 pi (p / n) T (T - 1) |f|^2)`` for a kernel of ``T`` taps on ``n``
    points. Our version of theorem 3.4.3 of arXiv 2512.06993, whose constant is not at
    hand; it follows from bounding the slope of ``|f^(w)|^2 = sum_d r_d e^{i w d}``,
    where ``r_d``, the autocorrelation of the taps, is at most ``|f|^2``.

    Args:
      length: eps, ``|f(v')|`` of the top direction of g.
      kernel_norm: ``|f|``, the Euclidean norm of the taps.
      num_taps: T.
      offset: p, how many frequencies away.
      size: n.

    Returns:
      The bound on the length. It says nothing where it exceeds the norm of f.

    >>> float(neighbor_bound(0.5, 1.0, num_taps=1, offset=3, size=32))  # one tap: every frequency is treated alike
    0.5
    """
    slope = 2 * math.pi * num_taps * (num_taps - 1) / size
    return jnp.sqrt(
        jnp.asarray(length) ** 2
        + slope * jnp.abs(jnp.asarray(offset)) * jnp.asarray(kernel_norm) ** 2
    )
