"""LOTOS: a penalty on layers that amplify the top directions of other members.

Section 3.3.4 of *Toward Reliable Machine Unlearning* (arXiv 2512.06993) and *Training
Robust Ensembles Requires Rethinking Lipschitz Continuity* (arXiv 2410.05136).
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike

from unlearn_jax.branching import cond
from unlearn_jax.checks import check_choice, check_counts, check_not_negative
from unlearn_jax.layers import Layer, layers
from unlearn_jax.reuse import is_reusable, program
from unlearn_jax.spectral import layer_map, power_qr
from unlearn_jax.types import (
    ApplyFn,
    Array,
    InputError,
    PyTree,
    check_apply_fn,
)

LinearFn = Callable[[Array], Array]
"""Linear part of a layer, ``f(x) - f(0)``, on one example."""

Convention = Literal["sum", "mean"]
"""Scale of the penalty; see :func:`lotos_penalty`."""

Which = Literal["conv", "all", "first"]
"""Layers to compare: the convolutions, all, or only the first."""

Vectors = tuple[tuple[Array, ...], ...]
"""Each member's top right singular vectors ``[K, *in_shape]``, for each layer."""


def stretch(linear: LinearFn, vectors: Array) -> Array:
    """Return the factor by which a linear map stretches each vector, ``|f(v)| / |v|``.

    Args:
      linear: linear map of one example.
      vectors: ``[K, ...]`` nonzero inputs; no gradient flows into them.

    Returns:
      ``[K]``, differentiable in the map; the gradient is 0 where the map annihilates
      the vector.

    >>> stretch(lambda x: 3 * x, jnp.eye(2)).tolist()
    [3.0, 3.0]
    """
    chex.assert_shape(vectors, (None, ...))
    vectors = lax.stop_gradient(vectors)
    squares = _squared_length(jax.vmap(linear)(vectors)) / _squared_length(vectors)
    # the root of 0 has no finite slope, and where() alone would turn it into NaN
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0)


def _squared_length(values: Array) -> Array:
    return jnp.sum(values**2, tuple(range(1, values.ndim)))


def direction_weights(num_vectors: int) -> tuple[float, ...]:
    """Return the released code's weights, ``1 - 0.01 (i - 1)`` divided by their sum.

    Args:
      num_vectors: number of directions per layer, at most 100.

    Raises:
      InputError: a number of directions whose weights would not be positive.

    >>> [round(weight, 4) for weight in direction_weights(2)]
    [0.5025, 0.4975]
    """
    if num_vectors > 100:
        raise InputError(
            f"the weights of {num_vectors} directions would not all be positive: choose"
            " at most 100, or pass weights"
        )
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
    """Return how much two layers amplify each other's top directions.

    Equation 3.3 of arXiv 2512.06993:
    ``S_k(f, g) = sum_i w_i [relu(|f(v'_i)| - mal) + relu(|g(v_i)| - mal)]``, where
    ``v_i`` are the top right singular vectors of f and ``v'_i`` those of g. It is zero
    exactly if each layer maps the other's directions to lengths of at most ``mal``. For
    one direction and given spectra, it is largest if the two layers share the
    direction. For several directions this does not hold: the lengths 2 and 0 have a
    smaller sum than two lengths of the square root of 2, which the same layer gives for
    directions rotated by 45 degrees.

    Args:
      linear: map f of one example.
      other: map g, with inputs of the same shape.
      vectors: ``[K, ...]`` top unit vectors of f, in descending order of their singular
        values.
      other_vectors: ``[K, ...]`` top unit vectors of g.
      max_length: mal, the length up to which a foreign direction is tolerated, relative
        to the norm that the layers are clipped to. The published value is 0.8 for a
        norm of 1; if it equals the norm, the term is always 0.
      weights: ``w_i``, not increasing; :func:`direction_weights` by default.

    Returns:
      ``[]``, differentiable in both maps; the vectors are constants.

    Raises:
      InputError: a wrong number of weights, weights that are negative or increasing, or
        a length that is negative or not finite.

    >>> first = jnp.diag(jnp.array([2.0, 0.0]))
    >>> second = jnp.diag(jnp.array([0.0, 2.0]))
    >>> f, g, top = (lambda x: first @ x), (lambda x: second @ x), jnp.eye(2)
    >>> float(lotos_similarity(f, g, top[:1], top[1:]))
    0.0
    >>> float(lotos_similarity(f, f, top[:1], top[:1]))
    2.4...
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
    """Return :func:`lotos_similarity` summed over all pairs of members, for one layer.

    Each member's map runs once, on the directions of all other members together.

    Args:
      maps: the layer of each of ``M`` members, with inputs of the same shape.
      vectors: ``M`` arrays ``[K, ...]``, the members' top directions.
      max_length: the length up to which a foreign direction is tolerated.
      weights: ``[K]``, not increasing; :func:`direction_weights` by default.

    Returns:
      ``[]``.

    Raises:
      InputError: fewer than two members, directions of different shapes, a wrong
        number of weights, weights that are negative or increasing, or a length that is
        negative or not finite.
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
    check_not_negative(max_length=max_length)
    num_vectors = len(vectors[0])
    weights = _checked_weights(weights, num_vectors)
    total = jnp.zeros(())
    for i, linear in enumerate(maps):
        foreign = jnp.concatenate([block for j, block in enumerate(vectors) if j != i])
        excess = jax.nn.relu(stretch(linear, foreign) - max_length).reshape(
            -1, num_vectors
        )
        total += jnp.sum(excess @ jnp.asarray(weights, excess.dtype))
    return total


def _checked_weights(
    weights: Sequence[float] | None, num_vectors: int
) -> Sequence[float]:
    """Return the directions' weights, the released code's if None.

    Raises:
      InputError: a wrong number of weights; weights that are negative, not finite or
        increasing, unless they are traced.
    """
    weights = direction_weights(num_vectors) if weights is None else weights
    if len(weights) != num_vectors:
        raise InputError(
            f"{num_vectors} directions need as many weights, got {len(weights)}"
        )
    if not any(isinstance(one, Tracer) for one in jax.tree.leaves(weights)):
        check_not_negative(weights=weights)
        if np.any(np.diff(weights) > 0):
            raise InputError(f"weights must not increase, got {weights}")
    return weights


def lotos_penalty(
    maps: Sequence[Sequence[LinearFn]],
    vectors: Sequence[Sequence[Array]],
    *,
    max_length: float | Array = 0.8,
    weights: Sequence[float] | None = None,
    convention: Convention = "sum",
) -> Array:
    """Return :func:`lotos_similarity` over all layers and pairs of members.

    Args:
      maps: maps of ``M`` members, for each of ``L`` layers.
      vectors: each member's top directions ``[K, ...]``, for each layer.
      max_length: the length up to which a foreign direction is tolerated.
      weights: ``[K]``, not increasing; :func:`direction_weights` by default.
      convention: ``"sum"`` is ``sum_layers sum_{i<j} S``. The released code adds it,
        times 0.05 or 0.01, to the *sum* of the members' cross-entropies. ``"mean"``
        divides the sum by ``L M (M - 1)``, as in the paper's equation 4, which adds it
        to the *mean* of the cross-entropies (its sum over pairs is read as ``i < j``).
        A weight ``c`` of ``"sum"`` is equivalent to ``c L (M - 1)`` of ``"mean"``.

    Returns:
      ``[]``, without the weight lambda.

    Raises:
      InputError: no layers, an unknown convention, or an error of
        :func:`layer_similarity`.
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
    if convention == "sum":
        return total
    num_members = len(maps[0])
    return total / (len(maps) * num_members * (num_members - 1))


class LossTerm(NamedTuple):
    """Loss term with state, as two pure functions, similar to an optax transformation.

    Attributes:
      init: ``(key, variables) -> state``.
      update: ``(variables, state) -> (penalty [], new state)``, differentiable in
        ``variables``; the state is a constant.
    """

    init: Callable[[Array, PyTree], PyTree]
    update: Callable[[PyTree, PyTree], tuple[Array, PyTree]]


class LotosState(NamedTuple):
    """State of :func:`lotos`.

    Attributes:
      step: ``[]`` int32, number of updates so far.
      vectors: each member's top right singular vectors ``[K, *in_shape]``, for each
        layer, as of the last update that computed the penalty.
    """

    step: Array
    vectors: Vectors


def lotos(
    apply_fns: ApplyFn | Sequence[ApplyFn],
    sample: ArrayLike,
    *,
    num_vectors: int = 1,
    max_length: float | Array = 0.8,
    which: Which = "conv",
    composite: bool = True,
    weights: Sequence[float] | None = None,
    num_iters: int = 1,
    init_iters: int = 100,
    convention: Convention = "sum",
    every: int = 1,
) -> LossTerm:
    """Return the LOTOS penalty of an ensemble, a term to add to any loss.

    Layers are found by walking the members' forward passes. Their top directions are
    kept in the state; PowerQR updates them from their last values when the parameters
    change. No gradient flows through the directions.

    Args:
      apply_fns: a function ``(variables, images) -> logits`` for each of ``M`` members,
        with a sequence of ``M`` pytrees as variables; or one function for all members,
        with one pytree with leaves ``[M, ...]`` as variables.
      sample: ``[B, ...]`` images; only the shape of an image is read.
      num_vectors: number of directions per layer, K.
      max_length: mal, the length up to which a foreign direction is tolerated; 0.8 as
        published, for layers clipped to norm 1.
      which: ``"conv"`` compares all convolutions, as the released code does; ``"all"``
        dense layers too; ``"first"`` only the first layer, the only one that members of
        different architectures have in common.
      composite: treat a layer followed by BatchNorm as one map, including the running
        statistics; False uses only its kernel, as the released code does.
      weights: ``[K]``, not increasing; :func:`direction_weights` by default.
      num_iters: iterations of PowerQR per update.
      init_iters: iterations from random directions in ``init``.
      convention: ``"sum"`` or ``"mean"`` over pairs; see :func:`lotos_penalty`.
      every: period, in updates, at which the directions are updated and the penalty is
        computed; between, the penalty is 0.

    Returns:
      The loss term.

    Raises:
      InputError: counts, weights or a length out of range, unknown layers or
        convention, or a model instead of its function; raised by ``init``: too few
        members, or layers that cannot be compared.

    >>> term = lotos(lambda w, x: x @ w, jnp.ones((1, 3)), which="all", max_length=0.5)
    >>> weights = jnp.stack([jnp.eye(3), 2 * jnp.eye(3)])
    >>> state = term.init(jax.random.key(0), weights)
    >>> penalty, state = term.update(weights, state)
    >>> round(float(penalty), 4)  # (2 - 0.5) + (1 - 0.5)
    2.0
    """
    check_counts(
        num_vectors=num_vectors,
        num_iters=num_iters,
        init_iters=init_iters,
        every=every,
    )
    check_not_negative(max_length=max_length)
    weights = _checked_weights(weights, num_vectors)
    check_choice("layers", which, get_args(Which))
    check_choice("convention", convention, get_args(Convention))
    for function in apply_fns if isinstance(apply_fns, Sequence) else [apply_fns]:
        check_apply_fn(function)
    image = jnp.zeros((1, *jnp.shape(sample)[1:]), jnp.float32)

    def rows_of(variables: PyTree) -> list[tuple[Layer, ...]]:
        return _compared_layers(apply_fns, variables, image, which)

    def map_of(layer: Layer) -> LinearFn:
        return layer_map(layer, composite=composite).matvec

    def follow(
        rows: Sequence[Sequence[Layer]], vectors: Vectors, num_steps: int
    ) -> Vectors:
        def one(layer: Layer, block: Array) -> Array:
            return power_qr(map_of(layer), block, num_iters=num_steps).vectors

        pairs = zip(rows, vectors, strict=True)
        return tuple(tuple(map(one, row, blocks)) for row, blocks in pairs)

    def init(key: Array, variables: PyTree) -> LotosState:
        def draw(layer: Layer, key: Array) -> Array:
            shape = layer_map(layer, composite=composite).in_shape
            return jax.random.normal(key, (num_vectors, *shape), jnp.float32)

        rows = rows_of(variables)
        keys = jax.random.split(key, (len(rows), len(rows[0])))
        start = tuple(tuple(map(draw, row, keys[i])) for i, row in enumerate(rows))
        return LotosState(jnp.zeros((), jnp.int32), follow(rows, start, init_iters))

    def act(variables: PyTree, vectors: Vectors) -> tuple[Array, Vectors]:
        # the iterations get constants, so that their loop is never differentiated
        constants = jax.tree.map(lax.stop_gradient, variables)
        vectors = follow(rows_of(constants), vectors, num_iters)
        penalty = lotos_penalty(
            [list(map(map_of, row)) for row in rows_of(variables)],
            vectors,
            max_length=max_length,
            weights=weights,
            convention=convention,
        )
        return penalty, vectors

    def update(variables: PyTree, state: LotosState) -> tuple[Array, LotosState]:
        if every == 1:
            penalty, vectors = act(variables, state.vectors)
        else:
            penalty, vectors = cond(
                state.step % every == 0,
                act,
                lambda _, vectors: (jnp.zeros(()), vectors),
                variables,
                state.vectors,
            )
        return penalty, LotosState(state.step + 1, vectors)

    return LossTerm(jax.jit(init), jax.jit(update))


def foreign_stretch(
    apply_fns: ApplyFn | Sequence[ApplyFn],
    variables: PyTree,
    sample: ArrayLike,
    *,
    which: Which = "all",
    composite: bool = True,
    num_iters: int = 200,
) -> dict[str, Array]:
    """Return how far every member's layers stretch the others' top directions.

    LOTOS limits these values. If a clipped layer's foreign stretches are all below
    ``mal``, the penalty is 0 before any training, and the layer contributes nothing.

    Args:
      apply_fns: functions of the members, as in :func:`lotos`.
      variables: variables of the ``M`` members.
      sample: ``[B, ...]`` images; only the shape of an image is read.
      which: layers to compare.
      composite: treat a layer followed by BatchNorm as one map.
      num_iters: iterations of PowerQR, on at most four vectors with a random start.

    Returns:
      ``[M, M]`` by the layer's path in the first member. Row ``i``, column ``j`` is
      ``|f_i(v_j)|``, where ``v_j`` is the top right singular vector of member ``j``'s
      layer; the diagonal holds the members' norms. If the largest singular values are
      equal, as after clipping, ``v_j`` is a random vector of their space.

    Raises:
      InputError: too few members, unknown layers, or layers that cannot be compared.

    >>> weights = jnp.stack([jnp.diag(jnp.array([2.0, 1.0])), jnp.eye(2)[::-1] * 3])
    >>> table = foreign_stretch(lambda w, x: x @ w, weights, jnp.ones((1, 2)))
    >>> float(table[""][1, 0])
    3.0
    """
    check_choice("layers", which, get_args(Which))
    image = jnp.zeros((1, *jnp.shape(sample)[1:]), jnp.float32)
    several = isinstance(apply_fns, Sequence)
    functions = tuple(apply_fns) if several else (apply_fns,)
    options = (functions if several else apply_fns, which, composite, num_iters)
    if all(is_reusable(function, variables) for function in functions):
        return dict(program(_foreign_stretch, *options)(variables, image))
    return dict(_foreign_stretch(*options, variables, image))


def _foreign_stretch(
    apply_fns: ApplyFn | tuple[ApplyFn, ...],
    which: Which,
    composite: bool,
    num_iters: int,
    variables: PyTree,
    image: Array,
) -> OrderedDict[str, Array]:
    # a compiled function returns a plain dict in alphabetical order
    stretches: OrderedDict[str, Array] = OrderedDict()
    for number, row in enumerate(_compared_layers(apply_fns, variables, image, which)):
        maps = [layer_map(layer, composite=composite) for layer in row]
        size = min(4, math.prod(maps[0].in_shape))
        shape = (size, *maps[0].in_shape)
        start = jax.random.normal(jax.random.key(number), shape, jnp.float32)
        tops = [
            power_qr(one.matvec, start, num_iters=num_iters).vectors[0] for one in maps
        ]
        block = jnp.stack(tops)
        stretches[row[0].path] = jnp.stack([stretch(one.matvec, block) for one in maps])
    return stretches


def _compared_layers(
    apply_fns: ApplyFn | Sequence[ApplyFn],
    variables: PyTree,
    image: Array,
    which: Which,
) -> list[tuple[Layer, ...]]:
    """Return each compared layer of every member, ``[L][M]``."""
    if isinstance(apply_fns, Sequence):
        functions = list(apply_fns)
        members = list(variables)
    else:
        members = _members(variables)
        functions = [apply_fns] * len(members)
    if len(functions) != len(members) or len(members) < 2:
        raise InputError(
            "LOTOS compares members: give two or more, and a function for each; got"
            f" {len(members)} members and {len(functions)} functions"
        )
    columns = []
    for function, member in zip(functions, members, strict=True):
        column = layers(function, member, image)
        if which == "conv":
            column = [layer for layer in column if layer.kind == "conv"]
        columns.append(column[:1] if which == "first" else column)
    counts = {len(column) for column in columns}
    if counts == {0}:
        raise InputError(
            "LOTOS found no layer to compare: for a network without convolutions choose"
            " which='all'"
        )
    if len(counts) > 1:
        raise InputError(
            f"the members have {' and '.join(map(str, sorted(counts)))} layers: for"
            " different architectures choose which='first'"
        )
    return list(zip(*columns, strict=True))


def _members(stacked: PyTree) -> list[PyTree]:
    """Return the members of a stack with leaves ``[M, ...]``."""
    chex.assert_equal_shape_prefix(jax.tree.leaves(stacked), 1)
    num_members = len(jax.tree.leaves(stacked)[0])
    return [
        jax.tree.map(lambda leaf, j=j: leaf[j], stacked) for j in range(num_members)
    ]
