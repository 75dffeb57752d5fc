"""Compiled runs of methods."""

from functools import partial

import jax
import jax.numpy as jnp

from unlearn_jax.influence import warn_unless_trusted
from unlearn_jax.methods.base import check_method
from unlearn_jax.types import (
    Array,
    InputError,
    Problem,
    UnlearnFn,
    UnlearnInfo,
    Variables,
)


def unlearn(
    key: Array, method: UnlearnFn, problem: Problem
) -> tuple[Variables, UnlearnInfo]:
    """Run a method in one compiled program.

    Equal methods share the program, and so do values of one type that differ in float
    fields only: sweeping a learning rate compiles once. A method that is not a pytree,
    such as a plain dataclass or a function, is compiled for each of its settings.

    Args:
      key: PRNG key; consumed. The same key gives the same result.
      method: unlearning method, such as ``AMUN()``.
      problem: result of :func:`unlearn_jax.methods.make_problem`.

    Returns:
      The unlearned variables, and what unlearning cost. If the method has a guard that
      does not trust the result, a warning follows the computation.

    Raises:
      InputError: an argument that is not a key, a method or a problem, or a method that
        cannot be hashed.
    """
    if not isinstance(key, jax.Array) or not jnp.issubdtype(
        key.dtype, jax.dtypes.prng_key
    ):
        raise InputError("unlearn takes a typed key first: pass jax.random.key(0)")
    check_method(method)
    if not isinstance(problem, Problem):
        raise InputError(
            f"unlearn takes a Problem, got {type(problem).__name__}: use make_problem"
        )
    if jax.tree_util.all_leaves([method]):
        try:
            hash(method)
        except TypeError:
            raise InputError(
                f"{type(method).__name__} cannot be hashed: decorate the class with"
                " @unlearn_jax.value, or @dataclasses.dataclass(frozen=True)"
            ) from None
        variables, info = _run_static(method, key, problem)
    else:
        variables, info = _run(method, key, problem)
    if info.guard is not None:
        warn_unless_trusted(info.guard)
    return variables, info


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
