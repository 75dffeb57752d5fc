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
