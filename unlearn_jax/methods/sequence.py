"""Unlearning requests one after the other, each where the last one ended (arXiv 2503.00917, 6.3 and appendix H)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from unlearn_jax.attacks import PGD
from unlearn_jax.methods.base import attack_forget_set
from unlearn_jax.types import (
    Array,
    AttackResult,
    InputError,
    Problem,
    UnlearnFn,
    UnlearnInfo,
    Variables,
)


def unlearn_sequence(
    method: UnlearnFn,
    key: Array,
    problem: Problem,
    requests: Any,
    *,
    adaptive: bool = False,
    attack: PGD | None = None,
) -> tuple[Variables, UnlearnInfo]:
    """Answers requests in their order; each runs the method on the model that the one before left.

    Request ``k`` sees D without the samples of all earlier requests, the current model,
    and a key with ``k`` folded in. The optimizer and its schedule begin anew. The
    paper's setting is 5 requests of 2% of CIFAR-10 each, with the settings tuned for
    one request of all 10%. May be jitted, and mapped over sequences of equal size.

    AMUN takes one D_A, found on the original model, for all requests; with ``adaptive``
    each request's D_A is found on the current model (AMUN-A). A method that makes no
    use of D_A runs the same either way.

    Args:
      method: such as ``amun(...)``.
      key: consumed.
      problem: its forget set is the union of all requests; its ``adversarial``, if any,
        was found on its model.
      requests: ``[K, N]`` bool, disjoint, each of the same number of samples.
      adaptive: find D_A on the current model before each request.
      attack: a :class:`unlearn_jax.attacks.PGD` to find D_A: always
        with ``adaptive``, else if the problem brings none. With neither, requests bring
        no D_A, and AMUN attacks the current model by itself.

    Returns:
      The models after each request, stacked ``[K, ...]``, and what each cost
      ``[K, ...]``.

    Raises:
      InputError: concrete requests that do not partition the forget set into parts of
        equal size, or a forget set that has no such parts.
    """
    requests = requests if isinstance(requests, jax.Array) else np.asarray(requests)
    size = _request_size(problem, requests)
    adversarial = None if adaptive else problem.adversarial
    if adversarial is None and not adaptive and attack is not None:
        adversarial = attack_forget_set(problem, attack)

    variables, gone, answers = problem.variables, problem.removed, []
    for k, request in enumerate(jnp.asarray(requests)):
        now = dataclasses.replace(
            problem,
            variables=variables,
            forget=request,
            num_forget=size,
            adversarial=(
                None
                if adversarial is None
                else _rows(adversarial, problem.forget, request, size)
            ),
            removed=gone,
            num_removed=problem.num_removed + k * size,
        )
        if adaptive:
            now = dataclasses.replace(
                now, adversarial=attack_forget_set(now, attack or PGD())
            )
        variables, info = method(jax.random.fold_in(key, k), now)
        gone = request if gone is None else gone | request
        answers.append((variables, info))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *answers)


def _request_size(problem: Problem, requests: Any) -> int:
    if (
        requests.dtype != bool
        or requests.ndim != 2
        or requests.shape[1] != len(problem.forget)
        or not len(requests)
    ):
        raise InputError(
            f"requests must be bool [K, {len(problem.forget)}], one row per request and"
            f" one entry per training sample; got {requests.dtype} {requests.shape}"
        )
    size, rest = divmod(problem.num_forget, len(requests))
    if rest:
        raise InputError(
            f"a forget set of {problem.num_forget} samples has no {len(requests)}"
            " requests of equal size: every request must forget the same number"
        )
    if not isinstance(requests, Tracer) and not isinstance(problem.forget, Tracer):
        mask, forget = np.asarray(requests), np.asarray(problem.forget)
        if (mask.sum(0) != forget).any() or (mask.sum(1) != size).any():
            raise InputError(
                f"requests must be disjoint, of {size} samples each, and together the"
                f" problem's forget set of {problem.num_forget}"
            )
    return size


def _rows(
    adversarial: AttackResult, forget: Array, request: Array, size: int
) -> AttackResult:
    """The rows of one request, of a D_A of the whole forget set."""
    position = jnp.cumsum(forget) - 1
    rows = position[jnp.nonzero(request, size=size)[0]]
    return jax.tree.map(lambda leaf: leaf[rows], adversarial)
