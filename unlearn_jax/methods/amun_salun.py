"""AMUN with SalUn's mask: only the weights that matter to the forget samples move (arXiv 2503.00917, appendix D)."""

from typing import Any

from unlearn_jax.attacks import PGD
from unlearn_jax.methods.adversarial import Failures, adversarial_finetuning
from unlearn_jax.methods.base import FineTuning, WrapTx
from unlearn_jax.methods.saliency import check_share, freeze_outside, saliency_mask
from unlearn_jax.types import Array, Problem, UnlearnFn, UnlearnInfo, Variables


def amun_salun(
    *,
    share: float | Array = 0.5,
    leak: bool = False,
    retain: bool = True,
    forget: bool = True,
    failures: Failures = "drop",
    attack: PGD | None = None,
    **tuning: Any,
) -> UnlearnFn:
    """AMUN's fine-tuning, moving only the weights with the largest gradient on the forget set.

    The mask of SalUn (arXiv 2310.12508, equation 3) is computed once on the original
    model, ``m = 1(|grad_theta loss(theta_o; D_F)| >= gamma)`` with gamma such that
    ``share`` of all weights pass; see
    :func:`unlearn_jax.methods.saliency.saliency_mask`. It reads the forget samples,
    whatever ``forget`` says; without ``retain`` no retained sample is read.

    Args:
      share: of the weights that move; searched in [0.1, 0.9] by AMUN, 0.5 in its code.
        1 is AMUN.
      leak: mask gradients alone, so that weight decay still moves the other weights, as
        in AMUN's released code; False holds them at the original, as the paper has it.
      retain: as in :func:`unlearn_jax.methods.amun.amun`.
      forget: as there; the paper's four settings are the same.
      failures: as there.
      attack: as there.
      **tuning: fields of :class:`unlearn_jax.methods.base.FineTuning`, searched as
        AMUN's.

    Returns:
      The method. Its ``num_gradients`` counts the fine-tuning and the mask; the attack
      is not counted.

    Raises:
      InputError: unknown names or unusable knobs; by the method: as there.
    """
    check_share(share)

    def wrap_tx(problem: Problem) -> WrapTx:
        return freeze_outside(saliency_mask(problem, share=share), leak=leak)

    finetuning = adversarial_finetuning(
        FineTuning(**tuning),
        retain=retain,
        forget=forget,
        failures=failures,
        attack=attack,
        wrap_tx=wrap_tx,
    )

    def run(key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        variables, info = finetuning(key, problem)
        return variables, info._replace(
            num_gradients=info.num_gradients + problem.num_forget
        )

    return run
