"""AMUN, Adversarial Machine UNlearning (arXiv 2503.00917; chapter 4 of arXiv 2512.06993).

Fine-tunes on each forget sample's closest adversarial example with the wrong label the
original model gives it. That lowers the confidence on the forget samples to where a
model that never saw them would have it, and moves the decision boundary only near them.
"""

from typing import Any

from unlearn_jax.attacks import PGD
from unlearn_jax.methods.adversarial import (
    Failures,
    Redraw,
    Replace,
    adversarial_finetuning,
)
from unlearn_jax.methods.base import FineTuning
from unlearn_jax.types import UnlearnFn


def amun(
    *,
    retain: bool = True,
    forget: bool = True,
    failures: Failures = "drop",
    replace: Replace = "none",
    redraw: Redraw = "batch",
    attack: PGD | None = None,
    **tuning: Any,
) -> UnlearnFn:
    """Fine-tunes on the adversarial set D_A together with the sets that are at hand, equal weight per sample.

    Minimizes the mean cross-entropy over one shuffled set:

    ==========  ==========  ==============================  ============================================
    ``retain``  ``forget``  fine-tunes on                    the paper's use
    ==========  ==========  ==============================  ============================================
    True        True        D_R + D_F + D_A                  retained data at hand (Table 1)
    True        False       D_R + D_A                        the same, when D_F is very large
    False       True        D_F + D_A                        no retained data (Table 2)
    False       False       D_A                              the same, when D_F is very large
    ==========  ==========  ==============================  ============================================

    Without ``retain`` no retained sample is read; without ``forget`` the forget images
    are read by the attack alone (not at all if the problem brings its ``adversarial``
    set), by ``failures="targeted"``, and by replacements that contain them. Adversarial
    samples whose label is right already (only with ``failures="keep"``) or wrong from
    the start count like the others.

    Args:
      retain: fine-tune on the retained samples too.
      forget: fine-tune on the forget samples, with their true labels, too.
      failures: what to do where no adversarial example was found, see
        :func:`unlearn_jax.methods.adversarial.adversarial_samples`. The released attack
        never fails (it has no last radius) and so has no policy. ``drop`` keeps the
        steps of an epoch, so that the other samples are read more often.
      replace: what to train on instead of D_A, the controls of Figures 1, 6 and 7; see
        there.
      redraw: whether random labels are drawn anew for every batch or once, see there.
      attack: for problems without ``adversarial``; for those with one, the attack that
        made it, which ``failures="targeted"`` needs.
      **tuning: fields of :class:`unlearn_jax.methods.base.FineTuning`. Searched: the
        learning rate in [1e-6, 1e-1], divided by 10 after every epoch, every 5, or
        never. The released code's example for 10% of CIFAR-10 with D_R: 10 epochs,
        learning rate 0.01, divided by 10 after every epoch. The controls: 20 epochs,
        0.01, every 5.

    Returns:
      The method. Its ``num_gradients`` counts the fine-tuning; the attack, also one of
      ``targeted``, is not counted.

    Raises:
      InputError: unknown names or unusable knobs; by the method: ``targeted`` without
        ``attack``, where the problem brings its ``adversarial``.
    """
    return adversarial_finetuning(
        FineTuning(**tuning),
        retain=retain,
        forget=forget,
        failures=failures,
        attack=attack,
        replace=replace,
        redraw=redraw,
    )
