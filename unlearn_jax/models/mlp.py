"""Multi-layer perceptron, for small images and fast replicas."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from unlearn_jax.checks import check_sizes
from unlearn_jax.types import Array


class MLP(nn.Module):
    """Flattening, ReLU layers and a linear head; no normalization, no dropout.

    Attributes:
      num_classes: C, the number of logits.
      widths: units of the hidden layers.
      dtype: compute type (parameters and logits stay float32).

    Raises:
      InputError: widths that are not a sequence of positive integers.
    """

    num_classes: int
    widths: Sequence[int] = (256, 256)
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(0, widths=self.widths)

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """Map images ``[B, H, W, ch]`` to logits ``[B, C]``; ``train`` is ignored."""
        del train
        hidden = images.reshape(len(images), math.prod(images.shape[1:]))
        for width in self.widths:
            hidden = nn.relu(nn.Dense(width, dtype=self.dtype)(hidden))
        return nn.Dense(self.num_classes, dtype=self.dtype)(hidden).astype(jnp.float32)
