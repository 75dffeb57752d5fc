"""SSD, selective synaptic dampening (arXiv 2308.07707): shrink the parameters that matter more to D_F than to D."""

from typing import Literal

import jax
import jax.numpy as jnp

from unlearn_jax.methods.base import check_numbers
from unlearn_jax.methods.gradients import batches_of, fisher_diagonal, members
from unlearn_jax.types import (
    Array,
    InputError,
    Params,
    Problem,
    UnlearnFn,
    UnlearnInfo,
    Variables,
)


def ssd(
    *,
    alpha: float | Array = 10.0,
    dampening: float | Array = 1.0,
    importance: Literal["sample", "batch"] = "sample",
    batch_size: int | None = None,
) -> UnlearnFn:
    """Multiplies a parameter by ``min(lambda I_D / I_F, 1)`` where ``I_F > alpha I_D``; no training.

    ``I_D`` and ``I_F`` are the parameter's importances, the mean squared gradient of
    the cross-entropy in evaluation mode (the diagonal of the empirical Fisher
    information), over all samples D = D_R + D_F and over D_F. BatchNorm statistics stay
    as they are. Reads D_R and D_F, and is deterministic up to the key's choice of
    batches (``importance="batch"`` only).

    **When it does nothing.** Over samples ``I_D >= (|D_F| / |D|) I_F``, so that no
    parameter can be selected with ``alpha >= |D| / |D_F|``: at 10% forgotten, the usual
    ``alpha = 10`` gives the original back. The released code's random-forgetting
    experiment forgets 0.2%. For larger sets search alpha between 1 and ``|D| / |D_F|``.
    Importances of batches have no such bound: those of D_F alone share their gradient's
    direction, mixed ones average it away.

    Published values (for importances of batches): alpha 10 and lambda 1 on ResNet-18
    and CIFAR; alpha 5 (class) and 25 (sub-class) on ViT; alpha 50 and lambda 0.1 on
    faces; searched in [0.1, 100] and [0.1, 5]. With ``lambda <= alpha`` the minimum
    never binds.

    Args:
      alpha: the selection weighting, not negative; larger selects fewer parameters.
      dampening: the dampening constant lambda, not negative; smaller shrinks more.
      importance: square each ``sample``'s gradient, as the Fisher information that the
        paper names does, or each ``batch``'s mean gradient, as its released code does
        (batches of 128, or 64 for classes; here of random samples drawn by the key). A
        forget set smaller than a batch makes a smaller batch, and a larger ``I_F``.
      batch_size: samples at a time: with ``sample`` memory of that many models, 32 if
        None; with ``batch`` a hyper-parameter, 128 if None.

    Raises:
      InputError: unusable knobs.
    """
    check_numbers(low=0, alpha=alpha, dampening=dampening)
    if importance not in ("sample", "batch"):
        raise InputError(f"unknown importance {importance!r}: choose sample or batch")
    if batch_size is not None and batch_size < 1:
        raise InputError(f"a method's batch_size must be positive, got {batch_size}")
    size = batch_size or {"sample": 32, "batch": 128}[importance]

    def run(key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        def importance_of(key: Array, mask: Array, num_samples: int) -> Params:
            index = members(mask, num_samples)
            if importance == "batch":
                index = jax.random.permutation(key, index)
            return fisher_diagonal(
                problem, batches_of(index, size), labels="true", per=importance
            )

        key_all, key_forget = jax.random.split(key)
        num_all = problem.num_retain + problem.num_forget
        over_all = importance_of(key_all, problem.retain | problem.forget, num_all)
        over_forget = importance_of(key_forget, problem.forget, problem.num_forget)

        def dampen(param: Array, everywhere: Array, forget: Array) -> Array:
            selected = forget > alpha * everywhere  # forget > 0 there
            ratio = dampening * everywhere / jnp.where(selected, forget, 1.0)
            return jnp.where(selected, jnp.minimum(ratio, 1.0) * param, param)

        params = jax.tree.map(dampen, problem.variables.params, over_all, over_forget)
        cost = jnp.asarray(num_all + problem.num_forget, jnp.int32)
        return problem.variables._replace(params=params), UnlearnInfo(
            jnp.zeros(0), cost
        )

    return run
