"""AMUN, Adversarial Machine UNlearning (arXiv 2503.00917; chapter 4 of arXiv 2512.06993).

Fine-tunes on each forget sample's closest adversarial example with the wrong label the original model gives it. That
lowers the confidence on the forget samples to where a model that never saw them would have it, and moves the decision
boundary only near them.
"""

from typing import Any, Literal

import jax.numpy as jnp

from unlearn_jax.methods.base import FineTuning, attack_forget_set, finetune_on
from unlearn_jax.train import Batch, FetchFn, fetch_from
from unlearn_jax.types import (
    Array,
    AttackResult,
    Dataset,
    InputError,
    Problem,
    UnlearnFn,
    UnlearnInfo,
    Variables,
)

Failures = Literal["drop", "runner_up", "keep"]


def adversarial_samples(problem: Problem, result: AttackResult, failures: Failures) -> tuple[Dataset, Array]:
    """D_A as training samples, with a policy for the samples whose search failed.

    Args:
      problem: whose original model was attacked.
      result: one row per forget sample.
      failures: ``drop`` leaves failed samples out; ``runner_up`` keeps their last iterate, labelled with the original
        model's second choice; ``keep`` keeps it with the label it still has.

    Returns:
      Images ``[F, ...]`` with labels ``[F]``, and ``[F]`` bool: which of them to train on.
    """
    labels = result.labels
    if failures == "runner_up":
        logits = problem.model.apply(problem.variables, result.images)
        second = jnp.argsort(logits, -1)[:, -2].astype(labels.dtype)
        labels = jnp.where(result.success, labels, second)
    used = result.success if failures == "drop" else jnp.ones_like(result.success)
    used &= jnp.all(jnp.isfinite(result.images), axis=tuple(range(1, result.images.ndim)))
    return Dataset(result.images, labels), used


def amun(
    *,
    retain: bool = True,
    forget: bool = True,
    failures: Failures = "drop",
    attack: dict[str, Any] | None = None,
    **tuning: Any,
) -> UnlearnFn:
    """Fine-tunes on the adversarial set D_A together with the sets that are at hand, equal weight per sample.

    ==========  ==========  ==============================  ============================================
    ``retain``  ``forget``  fine-tunes on                    the paper's use
    ==========  ==========  ==============================  ============================================
    True        True        D_R + D_F + D_A                  retained data at hand (Table 1)
    True        False       D_R + D_A                        the same, when D_F is very large
    False       True        D_F + D_A                        no retained data (Table 2)
    False       False       D_A                              the same, when D_F is very large
    ==========  ==========  ==============================  ============================================

    Without ``retain`` no retained sample is read; without ``forget`` the forget samples are read by the attack alone
    (not at all if the problem brings its ``adversarial`` set). Adversarial samples whose label is right already (only
    with ``failures="keep"``) or wrong from the start count like the others.

    Args:
      retain: fine-tune on the retained samples too.
      forget: fine-tune on the forget samples, with their true labels, too.
      failures: what to do where no adversarial example was found, see :func:`adversarial_samples`.
      attack: knobs of :func:`unlearn_jax.attacks.adversarial_set`, for problems without ``adversarial``.
      **tuning: fields of :class:`unlearn_jax.methods.base.FineTuning`. The released code's example for 10% of CIFAR-10
        with D_R: 10 epochs, learning rate 0.01, divided by 10 after every epoch.

    Raises:
      InputError: unknown ``failures`` or unusable knobs.
    """
    if failures not in ("drop", "runner_up", "keep"):
        raise InputError(f"unknown failures policy {failures!r}: choose drop, runner_up or keep")
    knobs = FineTuning(**tuning)

    def run(key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        result = problem.adversarial
        if result is None:
            result = attack_forget_set(problem, **(attack or {}))
        extra, used = adversarial_samples(problem, result, failures)
        num_forget = problem.num_forget
        originals = (retain & problem.retain) | (forget & problem.forget)
        return finetune_on(
            key,
            problem,
            knobs,
            data=(problem.train, extra),
            member=jnp.concatenate([originals, used]),
            num_samples=retain * problem.num_retain + forget * num_forget + num_forget,
            fetch=_fetch_joined(fetch_from(knobs.augment)),
        )

    return run


def _fetch_joined(fetch: FetchFn) -> FetchFn:
    """Reads positions ``0..N-1`` from the training set, augmented, and ``N..N+F-1`` from D_A, as they are."""

    def joined(data: tuple[Dataset, Dataset], index: Array, key: Array) -> Batch:
        train, extra = data
        num_train = len(train.labels)
        is_extra = index >= num_train
        plain = fetch(train, jnp.minimum(index, num_train - 1), key)
        row = jnp.maximum(index - num_train, 0)
        choose = is_extra.reshape(-1, *(1,) * (plain.images.ndim - 1))
        images = jnp.where(choose, extra.images[row], plain.images)
        return Batch(images, jnp.where(is_extra, extra.labels[row], plain.labels), index)

    return joined
