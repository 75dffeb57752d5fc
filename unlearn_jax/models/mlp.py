"""Multi-layer perceptron, for small images and fast replicas."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from unlearn_jax.types import Array


class MLP(nn.Module):
    """Flattening, ReLU layers and a linear head; no normalization, no dropout.

    Attributes:
      num_classes: C, the number of logits.
      widths: units of the hidden layers.
      dtype: compute type (parameters and logits stay float32).
    """

    num_classes: int
    widths: Sequence[int] = (256, 256)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """Map images ``[B, H, W, ch]`` to logits ``[B, C]``; ``train`` is ignored."""
        del train
        hidden = images.reshape(len(images), -1)
        for width in self.widths:
            hidden = nn.relu(nn.Dense(width, dtype=self.dtype)(hidden))
        return nn.Dense(self.num_classes, dtype=self.dtype)(hidden).astype(jnp.float32)
