"""Problems of models that only a test could want."""

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.types import Problem


def unchecked_problem(model, variables, train, forget, adversarial=None):
    """Return a problem without the checks of make_problem.

    For models that return no logits, and for images that must not be read.
    """
    train = jax.tree.map(jnp.asarray, train)
    count = int(np.sum(forget))
    return Problem(model, variables, train, jnp.asarray(forget), count, adversarial)
