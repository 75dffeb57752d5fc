"""Running a method, compiled."""

from functools import partial

import jax

from unlearn_jax.types import Array, Problem, UnlearnFn, UnlearnInfo, Variables


def unlearn(
    key: Array, method: UnlearnFn, problem: Problem
) -> tuple[Variables, UnlearnInfo]:
    """Run a method in one compiled program.

    Equal methods share the program, and so do values of one type that differ in float
    fields only: sweeping a learning rate compiles once. A method that is a plain
    dataclass or function, no pytree, is compiled for each of its settings.

    Args:
      key: consumed; the same key gives the same result.
      method: such as ``AMUN()``.
      problem: of :func:`unlearn_jax.methods.make_problem`.

    Returns:
      The unlearned variables, and what unlearning cost.
    """
    if jax.tree_util.all_leaves([method]):
        return _run_static(method, key, problem)
    return _run(method, key, problem)


@jax.jit
def _run(
    method: UnlearnFn, key: Array, problem: Problem
) -> tuple[Variables, UnlearnInfo]:
    return method(key, problem)


@partial(jax.jit, static_argnums=0)
def _run_static(
    method: UnlearnFn, key: Array, problem: Problem
) -> tuple[Variables, UnlearnInfo]:
    return method(key, problem)
