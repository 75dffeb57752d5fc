"""Doing nothing: the original model, as the row that an audit must tell from the retrained one."""

import jax.numpy as jnp

from unlearn_jax.types import Array, Problem, UnlearnFn, UnlearnInfo, Variables


def nothing() -> UnlearnFn:
    """Returns the original model's variables."""

    def run(key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        del key
        return problem.variables, UnlearnInfo(jnp.zeros(0), jnp.zeros((), jnp.int32))

    return run
