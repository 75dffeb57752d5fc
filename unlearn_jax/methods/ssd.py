"""Selective synaptic dampening (SSD, arXiv 2308.07707): shrink weights vital to D_F."""

from typing import Literal

import jax
import jax.numpy as jnp

from unlearn_jax.checks import check_counts, check_not_negative
from unlearn_jax.methods.gradients import batches_of, fisher_diagonal, members
from unlearn_jax.types import (
    Array,
    Params,
    Problem,
    UnlearnInfo,
    Variables,
)
from unlearn_jax.values import Real, value


@value
class SSD:
    """Dampening of the parameters that matter more to D_F than to D; no training.

    Multiplies a parameter by ``min(lambda I_D / I_F, 1)`` where ``I_F > alpha I_D``.
    ``I_D`` and ``I_F`` are the parameter's importances, the mean squared gradient of
    the cross-entropy in evaluation mode (the diagonal of the empirical Fisher
    information), over all samples D = D_R + D_F and over D_F. BatchNorm statistics do
    not change. Reads D_R and D_F. The result is deterministic, except that the key
    selects the batches of ``importance="batch"``.

    **When it changes nothing.** For importances of samples
    ``I_D >= (|D_F| / |D|) I_F``, so no parameter can be selected with
    ``alpha >= |D| / |D_F|``: if 10% of the samples are forgotten, the usual
    ``alpha = 10`` returns the original. The released code's random-forgetting
    experiment forgets 0.2%. For larger sets search alpha between 1 and ``|D| / |D_F|``.
    Importances of batches have no such bound: the gradients of samples of D_F add up in
    a batch of D_F alone, and average out in a mixed batch.

    Published values (for importances of batches): alpha 10 and lambda 1 on ResNet-18
    and CIFAR; alpha 5 (class) and 25 (sub-class) on ViT; alpha 50 and lambda 0.1 on
    faces; searched in [0.1, 100] and [0.1, 5]. With ``lambda <= alpha`` the minimum
    never binds.

    Attributes:
      alpha: selection threshold, not negative; a larger one selects fewer parameters.
      dampening: dampening constant lambda, not negative; a smaller one shrinks more.
      importance: gradient to square: that of each ``sample``, as in the Fisher
        information that the paper names, or the mean gradient of each ``batch``, as in
        its released code (batches of 128, or 64 for classes; here of random samples
        drawn with the key). A forget set smaller than a batch gives a smaller batch and
        a larger ``I_F``.
      batch_size: samples at a time. With ``sample`` they take the memory of as many
        models; 32 if None. With ``batch`` the size changes the result; 128 if None.
    """

    alpha: Real = 10.0
    dampening: Real = 1.0
    importance: Literal["sample", "batch"] = "sample"
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Raise on values that no run could use."""
        check_not_negative(alpha=self.alpha, dampening=self.dampening)
        if self.batch_size is not None:
            check_counts(batch_size=self.batch_size)

    def __call__(self, key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        """Dampen the original's parameters.

        Args:
          key: PRNG key for the batches of ``importance="batch"``; consumed.
          problem: gives the original model and the sets.
        """
        key_all, key_forget = jax.random.split(key)
        num_all = problem.num_retain + problem.num_forget
        over_all = self._importance(
            key_all, problem, problem.retain | problem.forget, num_all
        )
        over_forget = self._importance(
            key_forget, problem, problem.forget, problem.num_forget
        )

        def dampen(param: Array, over_all: Array, over_forget: Array) -> Array:
            is_selected = over_forget > self.alpha * over_all
            # over_forget is positive where selected, so nothing is divided by 0.
            divisor = jnp.where(is_selected, over_forget, 1.0)
            ratio = self.dampening * over_all / divisor
            return jnp.where(is_selected, jnp.minimum(ratio, 1.0) * param, param)

        params = jax.tree.map(dampen, problem.variables.params, over_all, over_forget)
        cost = jnp.asarray(num_all + problem.num_forget, jnp.int32)
        variables = problem.variables._replace(params=params)
        return variables, UnlearnInfo(jnp.zeros(0), cost)

    def _importance(
        self, key: Array, problem: Problem, mask: Array, num_samples: int
    ) -> Params:
        """Return each parameter's importance to the samples of a mask."""
        index = members(mask, num_samples)
        if self.importance == "batch":
            index = jax.random.permutation(key, index)
        size = self.batch_size or {"sample": 32, "batch": 128}[self.importance]
        return fisher_diagonal(
            problem, batches_of(index, size), labels="true", per=self.importance
        )
