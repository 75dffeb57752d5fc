"""FF, Fisher forgetting (arXiv 1911.04933): noise on the parameters that the retained samples do not pin down."""

from typing import Literal

import jax
import jax.numpy as jnp

from unlearn_jax.methods.base import check_numbers, num_classes
from unlearn_jax.methods.gradients import batches_of, fisher_diagonal, members
from unlearn_jax.types import (
    Array,
    InputError,
    Problem,
    UnlearnFn,
    UnlearnInfo,
    Variables,
)

Information = Literal["model", "true", "batch"]


def fisher(
    *,
    alpha: float | Array = 1e-6,
    cap: float | Array = 1e3,
    power: float | Array = 0.5,
    information: Information = "model",
    shared: bool = False,
    batch_size: int = 32,
) -> UnlearnFn:
    """Adds ``sqrt(alpha) min(F^-power, sqrt(cap)) n`` with ``n ~ N(0, 1)``; no training, and D_F is never read.

    ``F`` is the diagonal of the Fisher information over D_R, in evaluation mode. With
    ``power=0.5`` the noise has the variance ``alpha / F``: what the authors' released
    code does, and what the field means by Fisher forgetting. Their Proposition 4 with
    an error of the same size in all directions has ``power=0.25``: variance
    ``sqrt(lambda) sigma_h F^(-1/2)``, that is ``alpha = sqrt(lambda) sigma_h``.
    BatchNorm statistics stay as they are.

    Published values: alpha 1e-6 and ``cap`` 1e3 in the authors' code, for small
    networks; 1e-9 was reported not to work on ResNet-18, and Deep Unlearn searches [0,
    1] (no published selection). The deviation is at most ``sqrt(alpha cap)``: 0.03 with
    the defaults, already of the size of a ResNet's weights, so search alpha on a
    logarithmic scale, such as [1e-9, 1e-4]. A confident model has ``F`` near 0 almost
    everywhere, and then the cap decides.

    Args:
      alpha: the scale of the variance, not negative; 0 gives the original back.
      cap: bound of ``F^(-2 power)``, for parameters without information; of dead units,
        for instance.
      power: of ``1 / F`` in the deviation, not negative; 0 is the same noise
        everywhere.
      information: ``model`` is the Fisher information proper, each sample's squared
        gradient averaged over the model's own labels (``C`` gradients per sample);
        ``true`` takes the training labels instead, the empirical Fisher of l1-sparse's
        simple variant; ``batch`` averages over the model's labels the squared mean
        gradient of random batches, as l1-sparse's main variant does with batches of 32.
      shared: what the released codes do to the variance besides: average it over the
        input axis (the last but one) of leaves with two or more axes, a tenth of the
        cap for the head, then 10 times as much for the head and for leaves of one axis
        (biases, BatchNorm). As there, a leaf whose last axis has ``C`` entries is the
        head. (Their reset of the forgotten class's row, for class forgetting, is not
        included.)
      batch_size: samples at a time: memory of that many models, a hyper-parameter with
        ``batch``.

    Raises:
      InputError: unusable knobs.
    """
    check_numbers(low=0, alpha=alpha, cap=cap, power=power)
    if information not in ("model", "true", "batch"):
        raise InputError(
            f"unknown information {information!r}: choose model, true or batch"
        )
    if batch_size < 1:
        raise InputError(f"a method's batch_size must be positive, got {batch_size}")

    def run(key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        key_order, key_noise = jax.random.split(key)
        index = members(problem.retain, problem.num_retain)
        if information == "batch":
            index = jax.random.permutation(key_order, index)
        diagonal = fisher_diagonal(
            problem,
            batches_of(index, batch_size),
            labels="true" if information == "true" else "model",
            per="batch" if information == "batch" else "sample",
        )
        classes = num_classes(problem)
        leaves, tree = jax.tree.flatten(problem.variables.params)
        noisy = []
        for key, leaf, known in zip(
            jax.random.split(key_noise, len(leaves)),
            leaves,
            jax.tree.leaves(diagonal),
            strict=True,
        ):
            variance = alpha * _inverse(known, cap, power, classes if shared else None)
            noisy.append(
                leaf
                + jnp.sqrt(variance) * jax.random.normal(key, leaf.shape, leaf.dtype)
            )
        cost = problem.num_retain * (1 if information == "true" else classes)
        variables = problem.variables._replace(params=jax.tree.unflatten(tree, noisy))
        return variables, UnlearnInfo(jnp.zeros(0), jnp.asarray(cost, jnp.int32))

    return run


def _inverse(
    leaf: Array, cap: float | Array, power: float | Array, classes: int | None
) -> Array:
    """``min(F^(-2 power), cap)`` of one leaf of ``F``, and what is ``shared`` if ``classes`` is given."""
    head = classes is not None and leaf.ndim > 0 and leaf.shape[-1] == classes
    inverse = jnp.minimum(
        leaf ** (-2 * power), cap / 10 if head else cap
    )  # 0 to a negative power is infinity
    if classes is None:
        return inverse
    if leaf.ndim > 1:
        inverse = jnp.broadcast_to(jnp.mean(inverse, -2, keepdims=True), leaf.shape)
    return 10 * inverse if head or leaf.ndim == 1 else inverse
