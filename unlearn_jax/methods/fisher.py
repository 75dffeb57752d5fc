"""Fisher forgetting (FF, arXiv 1911.04933): noise where D_R does not hold the model."""

from typing import Literal

import jax
import jax.numpy as jnp

from unlearn_jax.checks import check_counts, check_not_negative
from unlearn_jax.methods.base import num_classes
from unlearn_jax.methods.gradients import batches_of, fisher_diagonal, members
from unlearn_jax.types import Array, Problem, UnlearnInfo, Variables
from unlearn_jax.values import Real, value

Information = Literal["model", "true", "batch"]


@value
class FisherForgetting:
    """Noise scaled by the inverse Fisher information over D_R; no training, D_F unread.

    Adds ``sqrt(alpha) min(F^-power, sqrt(cap)) n`` with ``n ~ N(0, 1)``. ``F`` is the
    diagonal of the Fisher information over D_R, in evaluation mode. With ``power=0.5``
    the noise has the variance ``alpha / F``: this is the authors' released code, and
    what the literature calls Fisher forgetting. Their Proposition 4, with an error of
    the same size in all directions, gives ``power=0.25``: variance
    ``sqrt(lambda) sigma_h F^(-1/2)``, that is ``alpha = sqrt(lambda) sigma_h``.
    BatchNorm statistics stay as they are.

    Published values: alpha 1e-6 and ``cap`` 1e3 in the authors' code, for small
    networks; 1e-9 was reported not to work on ResNet-18, and Deep Unlearn searches [0,
    1] (its selected value is not published). The standard deviation is at most
    ``sqrt(alpha cap)``: 0.03 with the defaults, which is already of the size of a
    ResNet's weights, so search alpha on a logarithmic scale, such as [1e-9, 1e-4]. A
    confident model has ``F`` near 0 almost everywhere; then the cap determines the
    noise.

    Attributes:
      alpha: scale of the variance, not negative; 0 returns the original.
      cap: upper bound of ``F^(-2 power)``, for parameters without information, such as
        those of dead units.
      power: exponent of ``1 / F`` in the standard deviation, not negative; 0 adds the
        same noise everywhere.
      information: ``model`` is the Fisher information itself, each sample's squared
        gradient averaged over the model's predicted labels (``C`` gradients per
        sample); ``true`` uses the training labels instead, the empirical Fisher
        information of l1-sparse's simple variant; ``batch`` squares the mean gradient
        of random batches and averages it over the model's predicted labels, as
        l1-sparse's main variant does with batches of 32.
      shared: modify the variance as the released codes do: use a tenth of the cap for
        the head, average the variance over the input axis (the last but one) of leaves
        with two or more axes, and multiply it by 10 for the head and for leaves with
        one axis (biases, BatchNorm). As in those codes, a leaf whose last axis has
        ``C`` entries counts as the head. (For class forgetting they also reset the
        forgotten class's row; this is not included.)
      batch_size: samples at a time, which take the memory of as many models; with
        ``information="batch"`` it also changes the result.
    """

    alpha: Real = 1e-6
    cap: Real = 1e3
    power: Real = 0.5
    information: Information = "model"
    shared: bool = False
    batch_size: int = 32

    def __post_init__(self) -> None:
        """Raise on values that no run could use."""
        check_not_negative(alpha=self.alpha, cap=self.cap, power=self.power)
        check_counts(batch_size=self.batch_size)

    def __call__(self, key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        """Add noise to the original's parameters.

        Args:
          key: PRNG key; consumed.
          problem: gives the original model and D_R.
        """
        key_order, key_noise = jax.random.split(key)
        index = members(problem.retain, problem.num_retain)
        if self.information == "batch":
            index = jax.random.permutation(key_order, index)
        diagonal = fisher_diagonal(
            problem,
            batches_of(index, self.batch_size),
            labels="true" if self.information == "true" else "model",
            per="batch" if self.information == "batch" else "sample",
        )
        classes = num_classes(problem)

        def add_noise(key: Array, leaf: Array, information: Array) -> Array:
            variance = self.alpha * self._inverse(information, classes)
            noise = jax.random.normal(key, leaf.shape, leaf.dtype)
            return leaf + jnp.sqrt(variance) * noise

        leaves, structure = jax.tree.flatten(problem.variables.params)
        keys = jax.random.split(key_noise, len(leaves))
        noisy = map(add_noise, keys, leaves, jax.tree.leaves(diagonal))
        params = jax.tree.unflatten(structure, list(noisy))
        cost = problem.num_retain * (1 if self.information == "true" else classes)
        variables = problem.variables._replace(params=params)
        return variables, UnlearnInfo(jnp.zeros(0), jnp.asarray(cost, jnp.int32))

    def _inverse(self, leaf: Array, num_classes: int) -> Array:
        """Return ``min(F^(-2 power), cap)`` of a leaf, modified as by ``shared``."""
        is_head = self.shared and leaf.ndim > 0 and leaf.shape[-1] == num_classes
        cap = self.cap / 10 if is_head else self.cap
        # 0 to a negative power is infinity, which the cap bounds.
        inverse = jnp.minimum(leaf ** (-2 * self.power), cap)
        if not self.shared:
            return inverse
        if leaf.ndim > 1:
            mean = jnp.mean(inverse, -2, keepdims=True)
            inverse = jnp.broadcast_to(mean, leaf.shape)
        return 10 * inverse if is_head or leaf.ndim == 1 else inverse
