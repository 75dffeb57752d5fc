"""Optax transformations of unlearning methods: an L1 penalty, and frozen parameters.

Both pass extra arguments on, so that a transformation after or inside them receives the
``model_state`` of :func:`unlearn_jax.train.train_step`.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from unlearn_jax.types import Array, InputError, PyTree


class AddL1State(NamedTuple):
    """State of :func:`add_l1`.

    Attributes:
      step: ``[]`` int32, finished steps.
    """

    step: Array


def add_l1(weights: Array) -> optax.GradientTransformationExtraArgs:
    """Add the gradient of an L1 penalty, ``weights[step] * sign(params)``.

    Chain it before an optimizer: ``optax.chain(add_l1(weights), tx)``.

    Args:
      weights: ``[num_steps]``, weight of the penalty at each step; the last one applies
        to all later steps.

    Returns:
      The transformation, which keeps the type of the updates. Its ``update`` needs
      ``params``.

    Raises:
      InputError: no weights.

    >>> tx = add_l1(jnp.array([0.5, 0.0]))
    >>> params = jnp.array([2.0, -3.0, 0.0])
    >>> updates, state = tx.update(jnp.zeros(3), tx.init(params), params)
    >>> updates.tolist()
    [0.5, -0.5, 0.0]
    """
    weights = jnp.asarray(weights)
    chex.assert_rank(weights, 1)
    if not len(weights):
        raise InputError("add_l1 needs a weight for at least one step")

    def init(params: optax.Params) -> AddL1State:
        del params
        return AddL1State(jnp.zeros((), jnp.int32))

    def update(
        updates: optax.Updates,
        state: AddL1State,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, AddL1State]:
        del extra_args
        if params is None:
            raise InputError("add_l1 needs the parameters: call update with params")
        weight = weights[state.step]

        def add(update: Array, leaf: Array) -> Array:
            return update + (weight * jnp.sign(leaf)).astype(update.dtype)

        updates = jax.tree.map(add, updates, params)
        return updates, AddL1State(state.step + 1)

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def freeze_outside(
    tx: optax.GradientTransformation, mask: PyTree, *, leak: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Keep a transformation from moving the parameters outside a mask.

    Unlike ``optax.masked`` the mask selects entries, not whole leaves.

    Args:
      tx: any transformation. It receives gradients and parameters that are zero outside
        the mask, so that frozen entries do not count in weight decay, momentum or a
        norm; extra arguments are passed unchanged. A transformation that bounds whole
        kernels, such as FastClip, belongs after this one in a chain: inside, it would
        bound only their moving part.
      mask: pytree of bool like the parameters, True where they may move.
      leak: whether to mask only the gradients, as AMUN's code does, and as SalUn's did
        before its fix of February 2026. Weight decay (and its momentum) then still
        moves the other parameters. False keeps them bit for bit.

    Returns:
      The transformation, with the state of ``tx``.

    Raises:
      InputError: raised by ``init`` and ``update``, for a mask that is not of bool or
        of another shape than the parameters.

    >>> tx = freeze_outside(optax.sgd(1.0), jnp.array([True, False]))
    >>> params = jnp.zeros(2)
    >>> tx.update(jnp.ones(2), tx.init(params), params)[0].tolist()
    [-1.0, 0.0]
    """
    inner = optax.with_extra_args_support(tx)

    def masked(tree: PyTree) -> PyTree:
        return jax.tree.map(_masked, mask, tree)

    def init(params: optax.Params) -> optax.OptState:
        return inner.init(params if leak else masked(params))

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        if leak:
            return inner.update(masked(updates), state, params, **extra_args)
        moving = None if params is None else masked(params)
        updates, state = inner.update(masked(updates), state, moving, **extra_args)
        return masked(updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def _masked(mask: Array, leaf: Array) -> Array:
    kind = jnp.result_type(mask)
    if kind != jnp.bool_ or jnp.shape(mask) != jnp.shape(leaf):
        raise InputError(
            f"mask must be bool in the shape of the parameters, {jnp.shape(leaf)}, got"
            f" {kind} {jnp.shape(mask)}"
        )
    return jnp.where(mask, leaf, jnp.zeros_like(leaf))
