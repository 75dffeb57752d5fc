"""Optax transformations that methods use."""

import jax
import jax.numpy as jnp
import optax


def freeze_outside(tx, mask, *, leak=False):
    """Keep an optimizer from moving the parameters outside a mask."""
    tx = optax.with_extra_args_support(tx)

    def masked(tree):
        return jax.tree.map(
            lambda keep, leaf: jnp.where(keep, leaf, jnp.zeros_like(leaf)), mask, tree
        )

    def update(updates, state, params=None, **extra):
        if leak:
            return tx.update(masked(updates), state, params, **extra)
        hidden = None if params is None else masked(params)
        updates, state = tx.update(masked(updates), state, hidden, **extra)
        return masked(updates), state

    return optax.GradientTransformationExtraArgs(tx.init, update)


def add_l1(weights):
    """Add the gradient of an L1 penalty on all parameters.

    Args:
      weights: ``[steps]``, the penalty's weight at each step.
    """

    def init(params):
        del params
        return jnp.zeros((), jnp.int32)  # steps taken

    def update(updates, state, params=None, **extra):
        del extra
        updates = jax.tree.map(
            lambda update, leaf: update + weights[state] * jnp.sign(leaf),
            updates,
            params,
        )
        return updates, state + 1

    return optax.GradientTransformationExtraArgs(init, update)
