"""The original model: an audit must distinguish it from the retrained one."""

import jax.numpy as jnp

from unlearn_jax.types import Array, Problem, UnlearnInfo, Variables
from unlearn_jax.values import value


@value
class Identity:
    """The original model, unchanged."""

    def __call__(self, key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        """Return the original's variables.

        Args:
          key: unused.
          problem: gives the original model.
        """
        del key
        return problem.variables, UnlearnInfo(jnp.zeros(0), jnp.zeros((), jnp.int32))
