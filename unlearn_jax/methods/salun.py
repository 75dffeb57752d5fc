"""SalUn, saliency unlearning (arXiv 2310.12508): random labeling of the weights that the forget set bears on."""

from typing import Any

from unlearn_jax.methods.base import FineTuning
from unlearn_jax.methods.random_label import (
    Labels,
    Order,
    Redraw,
    check_label_knobs,
    train_on_random_labels,
)
from unlearn_jax.methods.saliency import check_share, freeze_outside, saliency_mask
from unlearn_jax.types import Array, Problem, UnlearnFn, UnlearnInfo, Variables


def salun(
    *,
    share: float | Array = 0.5,
    leak: bool = False,
    retain: bool = True,
    labels: Labels = "wrong",
    redraw: Redraw = "batch",
    order: Order = "shuffled",
    learning_rate: float | Array = 0.013,
    **tuning: Any,
) -> UnlearnFn:
    """Random labeling of D_F, with D_R, of the parameters in the saliency mask alone.

    Minimizes ``CE(x_F, random label) + CE(D_R)`` over the ``share`` of the parameters
    whose gradient on D_F is largest
    (:func:`unlearn_jax.methods.saliency.saliency_mask`); the others stay as they are.
    With ``share=1`` it is :func:`unlearn_jax.methods.random_label.random_label`, which
    describes the knobs shared with it and how the released codes set them: SalUn's
    paper means wrong labels, its code draws ``any`` and goes through D_F first on
    CIFAR-10. Its variant SalUn-soft, which ranks all parameters anew at every step, is
    not offered.

    Published settings: 10% of CIFAR-10: 10 epochs, learning rate 0.013, share 0.5;
    ranges: learning rate in [5e-4, 5e-2], share in [0.1, 0.9].

    Args:
      share: of the parameters that may move, in (0, 1].
      leak: let weight decay move the others, as AMUN's code does and SalUn's did before
        February 2026.
      retain: train on D_R too; False reads no retained sample.
      labels: see ``random_label``.
      redraw: see ``random_label``.
      order: see ``random_label``.
      learning_rate: see above.
      **tuning: other fields of :class:`unlearn_jax.methods.base.FineTuning`.

    Raises:
      InputError: a share outside (0, 1], or unusable knobs.
    """
    check_share(share)
    check_label_knobs(labels, redraw, order)
    knobs = FineTuning(learning_rate=learning_rate, **tuning)

    def run(key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        mask = saliency_mask(problem, share=share, batch_size=knobs.batch_size)
        variables, info = train_on_random_labels(
            key,
            problem,
            knobs,
            retain=retain,
            labels=labels,
            redraw=redraw,
            order=order,
            wrap_tx=freeze_outside(mask, leak=leak),
        )
        return variables, info._replace(
            num_gradients=info.num_gradients + problem.num_forget
        )

    return run
