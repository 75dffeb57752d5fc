"""AMUN, Adversarial Machine UNlearning (arXiv 2503.00917; chapter 4 of 2512.06993)."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from unlearn_jax.attacks import PGD
from unlearn_jax.methods.adversarial import (
    Failures,
    Redraw,
    Replace,
    adversarial_samples,
    fetch_joined,
)
from unlearn_jax.methods.base import FineTuning, attack_forget_set, finetune_on
from unlearn_jax.train import fetch_from
from unlearn_jax.types import Array, Problem, UnlearnInfo, Variables
from unlearn_jax.values import value


@value
class AMUN(FineTuning):
    """Fine-tuning on each forget sample's closest adversarial example, labeled wrong.

    The label is the one that the original model gives to the example. This lowers the
    confidence on the forget samples to that of a model that never saw them, and moves
    the decision boundary only near them.

    Minimizes the mean cross-entropy over one shuffled set, in which all samples have
    equal weight. D_A are the adversarial examples with their labels:

    ==========  ==========  ==================  ======================================
    ``retain``  ``forget``  fine-tunes on       the paper's use
    ==========  ==========  ==================  ======================================
    True        True        D_R + D_F + D_A     retained data available (Table 1)
    True        False       D_R + D_A           the same, when D_F is very large
    False       True        D_F + D_A           no retained data (Table 2)
    False       False       D_A                 the same, when D_F is very large
    ==========  ==========  ==================  ======================================

    Without ``retain``, no retained sample is read. Without ``forget``, the forget
    images are read only by the attack (which is skipped if the problem has an
    ``adversarial`` set), by ``failures="targeted"``, and by replacements that contain
    them. Adversarial samples count alike, even if their label is the true one (only
    with ``failures="keep"``) or if the original model misclassified the forget sample
    before the attack.

    The paper searches the learning rate in [1e-6, 1e-1], divided by 10 after every
    epoch, every 5 epochs, or never. The released code's example for 10% of CIFAR-10
    with D_R takes 10 epochs and a learning rate of 0.01, divided by 10 after every
    epoch. The controls take 20 epochs and 0.01, divided every 5 epochs.

    ``num_gradients`` counts the fine-tuning only. The attack's gradients are counted in
    :class:`unlearn_jax.types.AttackResult`, and a run's table adds them; those of
    ``failures="targeted"`` are not counted. ``failures="drop"`` shortens the set but
    not the epochs, which keep the number of steps of the whole D_A: the remaining
    samples are read more often.

    Attributes:
      retain: fine-tune on the retained samples too.
      forget: fine-tune on the forget samples, with their true labels, too.
      failures: policy for samples without an adversarial example; see
        :func:`unlearn_jax.methods.adversarial_samples`. The released attack has no last
        radius, so it never fails and needs no policy.
      replace: samples that replace D_A: the controls of Figures 1, 6 and 7; see
        :func:`unlearn_jax.methods.adversarial_samples`.
      redraw: whether random labels are drawn for every batch or once.
      attack: attack that finds D_A if the problem has no ``adversarial`` set; ``PGD()``
        if None. If the problem has one, the attack that made it, which
        ``failures="targeted"`` needs.
    """

    is_padded: ClassVar[bool] = True

    retain: bool = True
    forget: bool = True
    failures: Failures = "drop"
    replace: Replace = "none"
    redraw: Redraw = "batch"
    attack: PGD | None = None

    def __call__(self, key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        """Attack the forget samples, unless the problem has D_A, and fine-tune.

        Args:
          key: PRNG key; consumed.
          problem: gives the model and the sets.

        Raises:
          InputError: ``failures="targeted"`` without ``attack``, for a problem that has
            an ``adversarial`` set.
        """
        result = problem.adversarial
        attack = self.attack
        if result is None:
            attack = attack or PGD()
            result = attack_forget_set(problem, attack)
        key_samples = jax.random.fold_in(key, 0)  # epochs fold in numbers from 1
        samples = adversarial_samples(
            key_samples,
            problem,
            result,
            replace=self.replace,
            failures=self.failures,
            redraw=self.redraw,
            attack=attack,
        )
        originals = (self.retain & problem.retain) | (self.forget & problem.forget)
        is_clean_read = self.retain or self.forget
        fetch = fetch_from(self.augmentation) if is_clean_read else None
        num_retain = problem.num_retain if self.retain else 0
        num_forget = problem.num_forget if self.forget else 0
        return finetune_on(
            key,
            problem,
            self,
            data=(problem.train, samples),
            member=jnp.concatenate([originals, samples.used]),
            num_samples=num_retain + num_forget + problem.num_forget,
            fetch=fetch_joined(fetch, jnp.argmax(originals)),
        )
