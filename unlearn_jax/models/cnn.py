"""A small convolutional network for 8x8 to 32x32 images."""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp

from unlearn_jax.checks import check_sizes
from unlearn_jax.models.conv import convolution, max_pool_2x2
from unlearn_jax.types import Array


class CNN(nn.Module):
    """Convolutions with pooling, then a linear head on all positions.

    Each stage is a 3x3 convolution, ReLU and 2x2 max pooling. Pooling stops once a side
    would fall below 2. By default there is no BatchNorm, so all layers are plain affine
    maps.

    Attributes:
      num_classes: C, the number of logits.
      widths: channels of the stages.
      batch_norm: whether to normalize after every convolution.
      conv: function that convolves; if None, the default of
        :func:`unlearn_jax.models.conv.convolution`.
      dtype: compute type (parameters and logits stay float32).

    Raises:
      InputError: widths that are not a sequence of positive integers.
    """

    num_classes: int
    widths: Sequence[int] = (16, 32, 64)
    batch_norm: bool = False
    conv: Callable[..., Array] | None = None
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(0, widths=self.widths)

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """Map images ``[B, H, W, ch]`` to logits ``[B, C]``."""
        hidden = images
        for width in self.widths:
            hidden = nn.Conv(
                width,
                (3, 3),
                use_bias=not self.batch_norm,
                dtype=self.dtype,
                conv_general_dilated=self.conv or convolution(),
            )(hidden)
            if self.batch_norm:
                hidden = nn.BatchNorm(
                    use_running_average=not train, momentum=0.9, dtype=self.dtype
                )(hidden)
            hidden = nn.relu(hidden)
            if min(hidden.shape[1:3]) >= 4:
                hidden = max_pool_2x2(hidden)
        return nn.Dense(self.num_classes, dtype=self.dtype)(
            hidden.reshape(len(images), math.prod(hidden.shape[1:]))
        ).astype(jnp.float32)
