"""Compiled runs of methods."""

import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from unlearn_jax.influence import warn_unless_trusted
from unlearn_jax.methods.base import check_method
from unlearn_jax.methods.compose import Sequential, request_size
from unlearn_jax.train import check_key
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
      The unlearned variables, and what unlearning cost. Warnings follow the computation
      if the method has a guard that does not trust the result, and if the loss has
      diverged.

    Raises:
      InputError: an argument that is not a key, a method or a problem, a method that
        cannot be hashed, a forget mask whose size is not the problem's, or a sequence
        of requests that do not partition the forget set.
    """
    check_key(key)
    check_method(method)
    if not isinstance(problem, Problem):
        raise InputError(
            f"unlearn takes a Problem, got {type(problem).__name__}: use make_problem"
        )
    _check_forget_set(method, problem)
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
    losses = jax.tree.leaves(info.losses)
    is_known = not any(isinstance(loss, Tracer) for loss in losses)
    if is_known and not all(bool(jnp.isfinite(loss).all()) for loss in losses):
        warnings.warn(
            f"{type(method).__name__} diverged: its loss is not finite; lower the"
            " learning rate",
            stacklevel=2,
        )
    return variables, info


def _check_forget_set(method: Any, problem: Problem) -> None:
    """Raise where masks do not have the sizes that programs are compiled for.

    Inside the compiled program their values are not known.

    Raises:
      InputError: naming the mask.
    """
    masks = (
        ("forget", problem.forget, problem.num_forget),
        ("removed", problem.removed, problem.num_removed),
    )
    for name, mask, number in masks:
        if mask is None or isinstance(mask, Tracer) or not isinstance(number, int):
            continue
        count = int(jnp.sum(mask))
        if count != number:
            raise InputError(
                f"the problem's mask {name!r} has {count} samples where num_{name} is"
                f" {number}: use make_problem, or replace both"
            )
    while hasattr(method, "method"):
        if isinstance(method, Sequential):
            request_size(problem, method.requests)
        method = method.method


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
