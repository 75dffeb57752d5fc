"""Weight saliency (arXiv 2310.12508): the parameters that matter to the forget set."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from unlearn_jax.checks import check_fractions, check_positive
from unlearn_jax.methods.base import (
    Restriction,
    forget_rows,
)
from unlearn_jax.methods.gradients import batches_of, weighted_gradient
from unlearn_jax.transforms import freeze_outside
from unlearn_jax.types import Params, Problem, PyTree, Variables, value_of
from unlearn_jax.values import Real, value


@value
class Saliency:
    """SalUn's mask as a constraint: only the salient parameters move.

    Attributes:
      fraction: fraction of the parameters that may move, in (0, 1]; searched in [0.1,
        0.9].
      leak: mask only gradients, so that weight decay still moves the other parameters,
        as in SalUn's code before its fix of February 2026 and in AMUN's code. False
        keeps the other parameters bit for bit.
    """

    is_padded: ClassVar[bool] = True

    fraction: Real = 0.5
    leak: bool = False

    def __post_init__(self) -> None:
        """Raise on fractions outside (0, 1]."""
        check_fraction(self.fraction)

    def restrict(self, problem: Problem, *, batch_size: int) -> Restriction:
        """Return the mask as a restriction; it costs a gradient per forget sample.

        Args:
          problem: gives the original model and the forget set.
          batch_size: samples at a time; changes memory, not values.
        """
        mask = saliency_mask(problem, fraction=self.fraction, batch_size=batch_size)

        def project(variables: Variables) -> Variables:
            if self.leak:
                return variables
            params = jax.tree.map(
                jnp.where, mask, variables.params, problem.variables.params
            )
            return variables._replace(params=params)

        return Restriction(
            wrap=lambda tx: freeze_outside(tx, mask, leak=self.leak),
            project=project,
            num_gradients=problem.num_forget,
        )


def forget_gradient(problem: Problem, *, batch_size: int = 128) -> Params:
    """Return the gradient of the cross-entropy, summed over the forget samples.

    The gradient is that of the original model in evaluation mode, without augmentation,
    with the true labels. No retained sample is read. The released code of SalUn sums
    the gradients of batch means, which gives the samples of a smaller last batch more
    weight; here all samples have the same weight.

    Args:
      problem: gives the original model and the forget set.
      batch_size: samples at a time; changes memory, not values.

    Returns:
      A pytree like the parameters.
    """
    batches = batches_of(
        forget_rows(problem), batch_size, num_samples=value_of(problem.num_forget)
    )
    return weighted_gradient(problem, batches)


def saliency_mask(problem: Problem, *, fraction: Real, batch_size: int = 128) -> PyTree:
    """Return SalUn's mask of the largest gradient magnitudes on the forget set.

    Ranks all parameters together (BatchNorm's and biases too) by the magnitude of
    :func:`forget_gradient` and selects the first ``round(fraction * P)`` of ``P``.
    Equal magnitudes are ranked by position, so the count is exact. ``fraction=1``
    selects every parameter, including those without gradient.

    Args:
      problem: gives the original model and the forget set; no retained sample is read.
      fraction: fraction of the parameters to select, in (0, 1]. It may be traced; then
        ``fraction * P`` is computed in float32, which is exact below 2**24 parameters
        except for the rounding of ``fraction`` itself. A fraction that rounds to 0
        parameters selects none.
      batch_size: samples at a time; changes memory, not values.

    Returns:
      A pytree of bool like the parameters.

    Raises:
      InputError: a fraction outside (0, 1].
    """
    check_fraction(fraction)
    gradient = forget_gradient(problem, batch_size=batch_size)
    magnitude, unravel = ravel_pytree(jax.tree.map(jnp.abs, gradient))
    if isinstance(fraction, Tracer):
        count = jnp.round(fraction * len(magnitude)).astype(jnp.int32)
    else:
        count = round(float(fraction) * len(magnitude))
    is_first = (jnp.arange(len(magnitude)) < count).astype(magnitude.dtype)
    chosen = jnp.zeros_like(magnitude).at[jnp.argsort(-magnitude)].set(is_first)
    return jax.tree.map(lambda leaf: leaf > 0, unravel(chosen))


def check_fraction(fraction: Real) -> None:
    """Raise on a fraction outside (0, 1]; a traced one is not checked.

    Args:
      fraction: fraction of the parameters.

    Raises:
      InputError: a fraction out of range.
    """
    check_fractions(fraction=fraction)
    check_positive(fraction=fraction)
