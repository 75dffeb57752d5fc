"""DELETE (Zhou et al., CVPR 2025): distill the original without the true class."""

from typing import ClassVar

import jax.numpy as jnp

from unlearn_jax.methods.base import FineTuning, num_classes
from unlearn_jax.methods.trw import Targets, Tilt, train_to_tilt
from unlearn_jax.types import Array, Problem, UnlearnInfo, Variables, most_of
from unlearn_jax.values import Real, value


@value
class DELETE(FineTuning):
    """Distillation of the original's prediction without the true class, over D_F.

    Minimizes ``KL(r(x) || p(x))`` with
    ``r = softmax(original logits, that of the sample's own label at minus infinity)``,
    from the frozen original in evaluation mode. This is TRW's target at ``beta=0``
    (:class:`unlearn_jax.methods.TRW`) except for the excluded classes: here only the
    sample's own class is excluded. So if several classes are forgotten at once, they
    may get each other's samples; a random forget set works like a class. Training uses
    the cross-entropy, whose gradient is the same and whose value is larger by the
    entropy of ``r``.

    Published settings (the authors' code): SGD with momentum 0.9 and no weight decay,
    20 epochs, batches of 128, learning rate 1e-4 for CIFAR-10, 5e-5 for CIFAR-100 and
    Tiny-ImageNet, D_F alone. The code's option that keeps BatchNorm in evaluation mode
    is ``batch_stats="freeze"``.

    Attributes:
      retain: also train on D_R with the true labels, in the same shuffled set (the
        paper does not); False reads no retained sample.
      targets: ``view`` computes the targets in every step from the augmented images
        that the model is given, as the authors' code does; ``once`` computes them
        before training, from the clean images. Without ``augment`` both are the same.
      num_epochs: passes over the samples.
      learning_rate: learning rate of the optimizer.
      weight_decay: L2 penalty, added to the gradient.
    """

    is_padded: ClassVar[bool] = True

    retain: bool = False
    targets: Targets = "view"
    num_epochs: int = 20
    learning_rate: Real = 1e-4
    weight_decay: Real = 0.0

    def __call__(self, key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        """Distill the original on the forget samples.

        Args:
          key: PRNG key; consumed.
          problem: gives the original model and the sets.
        """
        is_excluded = jnp.eye(num_classes(problem), dtype=bool)
        scores = jnp.zeros((most_of(problem.num_forget), len(is_excluded)))
        tilt = Tilt(is_excluded, scores, beta=0.0)
        return train_to_tilt(
            key, problem, self, tilt, targets=self.targets, retain=self.retain
        )
