"""Optimizers as values that make an optax transformation from a learning rate.

>>> SGD(momentum=0.5) == SGD(momentum=0.5), OPTIMIZERS["adam"]
(True, Adam(b1=0.9, b2=0.999, eps=1e-08))
>>> tx = SGD()(learning_rate=0.1, weight_decay=5e-4)
"""

from collections.abc import Mapping
from typing import Protocol

import optax

from unlearn_jax.checks import check_not_negative, check_positive
from unlearn_jax.train import check_decay_rate, sgd
from unlearn_jax.values import Real, value


class Optimizer(Protocol):
    """Function from a learning rate and a weight decay to an optax transformation."""

    def __call__(
        self, learning_rate: optax.ScalarOrSchedule, weight_decay: Real
    ) -> optax.GradientTransformation:
        """Return the transformation.

        Args:
          learning_rate: a number, or a function of the step.
          weight_decay: weight of the L2 penalty on all parameters.
        """
        ...


@value
class SGD:
    """SGD with L2 decay of all parameters, as the literature on unlearning uses it.

    Attributes:
      momentum: decay rate of the velocity, in [0, 1). At 0 no velocity is kept, unless
        the field is traced.
      nesterov: whether to look ahead along the velocity.
    """

    momentum: Real = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        """Raise on a momentum outside [0, 1)."""
        check_decay_rate("momentum", self.momentum)

    def __call__(
        self, learning_rate: optax.ScalarOrSchedule, weight_decay: Real
    ) -> optax.GradientTransformation:
        """Return the transformation; see :func:`unlearn_jax.train.sgd`."""
        return sgd(
            learning_rate,
            momentum=self.momentum,
            weight_decay=weight_decay,
            nesterov=self.nesterov,
        )


@value
class Adam:
    """Adam (arXiv 1412.6980) with L2 decay of all parameters added to the gradient.

    The decay is not decoupled: it passes through the moments, as in PyTorch's Adam.

    Attributes:
      b1: decay rate of the first moment, in [0, 1).
      b2: decay rate of the second moment, in [0, 1).
      eps: positive number added to the root of the second moment.
    """

    b1: Real = 0.9
    b2: Real = 0.999
    eps: Real = 1e-8

    def __post_init__(self) -> None:
        """Raise on values out of range."""
        check_decay_rate("b1", self.b1)
        check_decay_rate("b2", self.b2)
        check_positive(eps=self.eps)

    def __call__(
        self, learning_rate: optax.ScalarOrSchedule, weight_decay: Real
    ) -> optax.GradientTransformation:
        """Return the transformation.

        Raises:
          InputError: a number out of range.
        """
        if not callable(learning_rate):
            check_not_negative(learning_rate=learning_rate)
        check_not_negative(weight_decay=weight_decay)
        return optax.chain(
            optax.add_decayed_weights(weight_decay),
            optax.adam(learning_rate, b1=self.b1, b2=self.b2, eps=self.eps),
        )


OPTIMIZERS: Mapping[str, Optimizer] = {"sgd": SGD(), "adam": Adam()}
"""Optimizers by name."""
