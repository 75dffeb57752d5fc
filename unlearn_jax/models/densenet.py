"""DenseNet-BC for CIFAR (Huang et al., arXiv 1608.06993).

The input of every layer is the outputs of all earlier layers of its block.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp

from unlearn_jax.checks import (
    check_counts,
    check_fractions,
    check_positive,
    check_sizes,
)
from unlearn_jax.models.conv import convolution
from unlearn_jax.types import Array


class DenseNet(nn.Module):
    """Stem, dense blocks with transitions between them, pooling, linear head.

    The stem is a 3x3 convolution, the pooling a global average. A layer of a block is
    BN-ReLU-1x1 (``4 * growth`` wide) followed by BN-ReLU-3x3 (``growth`` wide), and its
    output is appended to the channels of its input. A transition is BN-ReLU-1x1, which
    keeps the fraction ``compression`` of the channels, and 2x2 average pooling, which
    is left out once a side is a single pixel. There is no dropout.

    The default is DenseNet-BC-100 with k = 12 (769,162 parameters for 10 classes). A
    network of depth L with three blocks has ``(L - 4) / 6`` layers per block.

    Attributes:
      num_classes: C, the number of logits.
      blocks: number of layers in each dense block.
      growth: channels that each layer adds, the paper's k; the stem has ``2 * growth``.
      compression: fraction of the channels that a transition keeps, in (0, 1].
      conv: function that convolves; if None, the default of
        :func:`unlearn_jax.models.conv.convolution`.
      dtype: compute type (parameters, statistics and logits stay float32).

    Raises:
      InputError: no block, a block without layers, a growth below 1, or a compression
        outside (0, 1].
    """

    num_classes: int
    blocks: Sequence[int] = (16, 16, 16)
    growth: int = 12
    compression: float = 0.5
    conv: Callable[..., Array] | None = None
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(blocks=self.blocks)
        check_counts(growth=self.growth)
        check_positive(compression=self.compression)
        check_fractions(compression=self.compression)

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """Map images ``[B, H, W, ch]`` to logits ``[B, C]``."""

        def conv(x: Array, width: int, size: int) -> Array:
            pad = size // 2
            return nn.Conv(
                width,
                (size, size),
                padding=((pad, pad), (pad, pad)),
                use_bias=False,
                dtype=self.dtype,
                kernel_init=nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
                conv_general_dilated=self.conv or convolution(),
            )(x)

        def norm_relu(x: Array) -> Array:
            return nn.relu(
                nn.BatchNorm(
                    use_running_average=not train, momentum=0.9, dtype=self.dtype
                )(x)
            )

        hidden = conv(images, 2 * self.growth, 3)
        for block, count in enumerate(self.blocks):
            if block:
                hidden = conv(
                    norm_relu(hidden),
                    max(1, int(hidden.shape[-1] * self.compression)),
                    1,
                )
                hidden = (
                    _average_pool_2x2(hidden) if min(hidden.shape[1:3]) > 1 else hidden
                )
            for _ in range(count):
                squeezed = conv(norm_relu(hidden), 4 * self.growth, 1)
                hidden = jnp.concatenate(
                    [hidden, conv(norm_relu(squeezed), self.growth, 3)], axis=-1
                )
        return nn.Dense(self.num_classes, dtype=self.dtype)(
            norm_relu(hidden).mean((1, 2))
        ).astype(jnp.float32)


def _average_pool_2x2(images: Array) -> Array:
    """Average-pool ``[B, H, W, ch]`` to ``[B, H // 2, W // 2, ch]``.

    An odd last row or column is dropped.
    """
    batch, height, width, channels = images.shape
    images = images[:, : height // 2 * 2, : width // 2 * 2]
    return images.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))
