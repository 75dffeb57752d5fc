"""DELETE (Zhou et al., CVPR 2025): distil the original without the logit of the true class."""

from typing import Any

import jax.numpy as jnp

from unlearn_jax.methods.base import FineTuning, num_classes
from unlearn_jax.methods.trw import Targets, Tilt, check_targets, train_to_tilt
from unlearn_jax.types import Array, Problem, UnlearnFn, UnlearnInfo, Variables


def delete(
    *,
    retain: bool = False,
    targets: Targets = "view",
    num_epochs: int = 20,
    learning_rate: float | Array = 1e-4,
    weight_decay: float | Array = 0.0,
    **tuning: Any,
) -> UnlearnFn:
    """Minimizes ``KL(r(x) || p(x))`` over D_F, where ``r`` is the original's prediction without the true class.

    ``r = softmax(original logits, that of the sample's own label at minus infinity)``,
    from the frozen original in evaluation mode: TRW's target at ``beta=0``
    (:func:`unlearn_jax.methods.trw.trw`), but for what is excluded. Only the sample's
    own class is, so that where several classes are forgotten at once they may get each
    other's samples; a random forget set is as good as a class. Trained by the
    cross-entropy, whose gradient is the same and whose value is larger by the entropy
    of ``r``.

    Published settings (the authors' code): SGD with momentum 0.9 and no weight decay,
    20 epochs, batches of 128, learning rate 1e-4 for CIFAR-10, 5e-5 for CIFAR-100 and
    Tiny-ImageNet, D_F alone.

    Args:
      retain: also train on D_R with the true labels, in the same shuffled set, which
        the paper does not; False reads no retained sample.
      targets: ``view`` computes them in every step from the augmented images that the
        model sees, as the authors' code does; ``once`` before training, from the clean
        ones. The same without ``augment``.
      num_epochs: see above.
      learning_rate: see above.
      weight_decay: see above.
      **tuning: other fields of :class:`unlearn_jax.methods.base.FineTuning`; the code's
        option that keeps BatchNorm in evaluation mode is ``batch_stats="freeze"``.

    Raises:
      InputError: unknown ``targets``, or unusable knobs.
    """
    check_targets(targets)
    knobs = FineTuning(
        num_epochs=num_epochs,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        **tuning,
    )

    def run(key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        own = jnp.eye(num_classes(problem), dtype=bool)
        tilt = Tilt(own, jnp.zeros((problem.num_forget, len(own))), beta=0.0)
        return train_to_tilt(key, problem, knobs, tilt, targets=targets, retain=retain)

    return run
