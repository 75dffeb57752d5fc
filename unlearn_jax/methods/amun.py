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
from unlearn_jax.types import Array, InputError, Problem, UnlearnInfo, Variables
from unlearn_jax.values import value


@value
class AMUN(FineTuning):
    """Fine-tuning on each forget sample's closest adversarial example, labeled wrong.

    The label is the one that the original model gives to the example. This lowers the
    confidence on the forget samples to where a model that never saw them would have it,
    and moves the decision boundary only near them.

    Minimizes the mean cross-entropy over one shuffled set, equal weight per sample, D_A
    being the adversarial examples with their labels:

    ==========  ==========  ==================  ======================================
    ``retain``  ``forget``  fine-tunes on       the paper's use
    ==========  ==========  ==================  ======================================
    True        True        D_R + D_F + D_A     retained data available (Table 1)
    True        False       D_R + D_A           the same, when D_F is very large
    False       True        D_F + D_A           no retained data (Table 2)
    False       False       D_A                 the same, when D_F is very large
    ==========  ==========  ==================  ======================================

    Without ``retain`` no retained sample is read; without ``forget`` the forget images
    are read by the attack alone (not at all if the problem brings its ``adversarial``
    set), by ``failures="targeted"``, and by replacements that contain them. Adversarial
    samples whose label is right already (only with ``failures="keep"``) or wrong from
    the start count like the others.

    Searched in the paper: the learning rate in [1e-6, 1e-1], divided by 10 after every
    epoch, every 5, or never. The released code's example for 10% of CIFAR-10 with D_R:
    10 epochs, learning rate 0.01, divided by 10 after every epoch. The controls: 20
    epochs, 0.01, every 5.

    ``num_gradients`` counts the fine-tuning; the attack counts itself
    (:class:`unlearn_jax.types.AttackResult`, which a run's table adds), but for the one
    of ``failures="targeted"``. ``failures="drop"`` makes the set shorter
    but not the epochs, whose steps are those of the whole D_A: the remaining samples
    are read more often.

    Attributes:
      retain: fine-tune on the retained samples too.
      forget: fine-tune on the forget samples, with their true labels, too.
      failures: policy for samples without an adversarial example, see
        :func:`unlearn_jax.methods.adversarial_samples`. The released attack never fails
        (it has no last radius) and so has no policy.
      replace: what to train on instead of D_A, the controls of Figures 1, 6 and 7; see
        :func:`unlearn_jax.methods.adversarial_samples`.
      redraw: whether random labels are drawn for every batch or once.
      attack: finds D_A for problems without ``adversarial`` (None: ``PGD()``); for
        those with one, the attack that made it, which ``failures="targeted"`` needs.
    """

    is_padded: ClassVar[bool] = True

    retain: bool = True
    forget: bool = True
    failures: Failures = "drop"
    replace: Replace = "none"
    redraw: Redraw = "batch"
    attack: PGD | None = None

    def __post_init__(self) -> None:
        """Refuse values that no run could use."""
        super().__post_init__()
        if self.attack is not None and not isinstance(self.attack, PGD):
            raise InputError(f"attack must be a PGD(...) or None, got {self.attack!r}")

    def __call__(self, key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        """Attack, unless the problem brings D_A, and fine-tune.

        Args:
          key: consumed.
          problem: gives the model and the sets.

        Raises:
          InputError: ``failures="targeted"`` for a problem that brings its
            ``adversarial``, without ``attack``.
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
