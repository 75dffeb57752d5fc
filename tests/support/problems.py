"""Problems of models that only a test could want."""

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.types import Problem


def unchecked_problem(model, variables, train, forget, adversarial=None, removed=None):
    """Return a problem without the checks of make_problem.

    For models that return no logits, and for images that must not be read.
    """
    train = jax.tree.map(jnp.asarray, train)
    count = int(np.sum(forget))
    mask = None if removed is None else jnp.asarray(removed)
    num_removed = 0 if removed is None else int(np.sum(removed))
    return Problem(
        model,
        variables,
        train,
        jnp.asarray(forget),
        count,
        adversarial,
        mask,
        num_removed,
    )
