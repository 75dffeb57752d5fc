"""The original model, the row that an audit must distinguish from the retrained one."""

import jax.numpy as jnp

from unlearn_jax.types import Array, Problem, UnlearnInfo, Variables
from unlearn_jax.values import value


@value
class Identity:
    """Return the original model's variables."""

    def __call__(self, key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        """Return the original.

        Args:
          key: unused.
          problem: gives the original model.
        """
        del key
        return problem.variables, UnlearnInfo(jnp.zeros(0), jnp.zeros((), jnp.int32))
