"""VGG with BatchNorm and a small head (Simonyan and Zisserman, arXiv 1409.1556)."""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp

from unlearn_jax.checks import check_counts, check_sizes
from unlearn_jax.models.conv import convolution, max_pool_2x2
from unlearn_jax.types import Array, InputError


class VGG(nn.Module):
    """Stages of convolutions with pooling, then a head on all positions.

    A stage is 3x3 convolutions, each with BatchNorm and ReLU, and 2x2 max pooling.
    Pooling stops once a side is a single pixel, so images with fewer than
    ``2 ** len(stages)`` pixels per side are pooled fewer times. On 32x32 images the
    default is VGG-19 with one linear layer of 512 inputs (20,040,522 parameters for 10
    classes). On 64x64 images the linear layer has 2x2x512 = 2048 inputs, which is
    AMUN's network for Tiny-ImageNet.

    Attributes:
      num_classes: C, the number of logits.
      stages: widths of the convolutions, stage by stage;
        ``((64,), (128,), (256, 256), (512, 512), (512, 512))`` is VGG-11.
      head: units of a hidden ReLU layer before the logits; 0 for a single linear layer.
      conv: function that convolves; if None, the default of
        :func:`unlearn_jax.models.conv.convolution`.
      dtype: compute type (parameters, statistics and logits stay float32).

    Raises:
      InputError: no stage, a stage that is not a sequence of positive widths, or a
        negative head.
    """

    num_classes: int
    stages: Sequence[Sequence[int]] = (
        (64,) * 2,
        (128,) * 2,
        (256,) * 4,
        (512,) * 4,
        (512,) * 4,
    )
    head: int = 0
    conv: Callable[..., Array] | None = None
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.stages, Sequence) or not self.stages:
            raise InputError(
                "stages must be one sequence of widths per stage, such as"
                f" ((64, 64), (128, 128)), got {self.stages}"
            )
        check_sizes(**{f"stages[{i}]": widths for i, widths in enumerate(self.stages)})
        check_counts(0, head=self.head)

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """Map images ``[B, H, W, ch]`` to logits ``[B, C]``."""
        hidden = images
        for widths in self.stages:
            for width in widths:
                hidden = nn.Conv(
                    width,
                    (3, 3),
                    padding=((1, 1), (1, 1)),
                    dtype=self.dtype,
                    kernel_init=nn.initializers.variance_scaling(
                        1 / 3, "fan_in", "uniform"
                    ),
                    conv_general_dilated=self.conv or convolution(),
                )(hidden)
                hidden = nn.relu(
                    nn.BatchNorm(
                        use_running_average=not train, momentum=0.9, dtype=self.dtype
                    )(hidden)
                )
            if min(hidden.shape[1:3]) > 1:
                hidden = max_pool_2x2(hidden)
        hidden = hidden.reshape(len(images), math.prod(hidden.shape[1:]))
        if self.head:
            hidden = nn.relu(nn.Dense(self.head, dtype=self.dtype)(hidden))
        return nn.Dense(self.num_classes, dtype=self.dtype)(hidden).astype(jnp.float32)
