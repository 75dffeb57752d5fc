"""ResNets, with BatchNorm or without (He et al., arXiv 1512.03385).

The stem is CIFAR's, a 3x3 convolution of stride 1, or ImageNet's.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from unlearn_jax.checks import check_choice, check_counts, check_sizes
from unlearn_jax.models.conv import convolution
from unlearn_jax.types import Array


class _Block(nn.Module):
    """Base of the blocks: convolutions followed by BatchNorm, and the shortcut.

    Attributes:
      width: channels of the 3x3 convolutions.
      stride: stride of the first 3x3 convolution. The shortcut is a projection if the
        stride or the width changes the shape.
      halve_projection: whether to halve the sum in blocks with a projection shortcut,
        as AMUN's released ResNet-18 does. This changes the scale of the logits, and
        therefore of AMUN's radii.
      batch_norm: whether to normalize after every convolution; without it, convolutions
        have biases.
      conv: function that convolves; if None, the default of
        :func:`unlearn_jax.models.conv.convolution`.
      dtype: compute type.
    """

    width: int
    stride: int = 1
    halve_projection: bool = False
    batch_norm: bool = True
    conv: Callable[..., Array] | None = None
    dtype: jnp.dtype = jnp.float32

    def _conv_norm(
        self, x: Array, width: int, size: int, stride: int, train: bool
    ) -> Array:
        """Apply a ``size`` x ``size`` convolution, and BatchNorm if it is enabled."""
        pad = size // 2
        x = nn.Conv(
            width,
            (size, size),
            (stride, stride),
            padding=((pad, pad), (pad, pad)),
            use_bias=not self.batch_norm,
            dtype=self.dtype,
            kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
            conv_general_dilated=self.conv or convolution(),
        )(x)
        if not self.batch_norm:
            return x
        return nn.BatchNorm(
            use_running_average=not train, momentum=0.9, dtype=self.dtype
        )(x)

    def _add_shortcut(self, hidden: Array, images: Array, train: bool) -> Array:
        """Return the block's output, from the convolved ``hidden`` and the input."""
        width = hidden.shape[-1]
        if self.stride == 1 and images.shape[-1] == width:
            return nn.relu(hidden + images)
        total = hidden + self._conv_norm(images, width, 1, self.stride, train)
        return nn.relu(total / 2 if self.halve_projection else total)


class BasicBlock(_Block):
    """Block of ResNet-18 and 34: two 3x3 convolutions and a shortcut."""

    @nn.compact
    def __call__(self, images: Array, train: bool) -> Array:
        """Map ``[B, H, W, ch]`` to ``[B, H / stride, W / stride, width]``."""
        hidden = nn.relu(self._conv_norm(images, self.width, 3, self.stride, train))
        hidden = self._conv_norm(hidden, self.width, 3, 1, train)
        return self._add_shortcut(hidden, images, train)


class BottleneckBlock(_Block):
    """Block of ResNet-50 and deeper: 1x1, 3x3 and 1x1 convolutions and a shortcut.

    The last convolution has four times as many channels. The 3x3 convolution has the
    stride, as in torchvision.
    """

    @nn.compact
    def __call__(self, images: Array, train: bool) -> Array:
        """Map ``[B, H, W, ch]`` to ``[B, H / stride, W / stride, 4 * width]``."""
        hidden = nn.relu(self._conv_norm(images, self.width, 1, 1, train))
        hidden = nn.relu(self._conv_norm(hidden, self.width, 3, self.stride, train))
        hidden = self._conv_norm(hidden, 4 * self.width, 1, 1, train)
        return self._add_shortcut(hidden, images, train)


BLOCKS = {"basic": BasicBlock, "bottleneck": BottleneckBlock}
"""Blocks by name."""


class ResNet(nn.Module):
    """Stages of blocks, global average pooling, linear head.

    ``(2, 2, 2, 2)`` basic blocks are ResNet-18, and ``(3, 4, 6, 3)`` bottlenecks are
    ResNet-50 (25,557,032 parameters with ImageNet's stem and classes).

    Attributes:
      num_classes: C, the number of logits.
      blocks: number of blocks per stage; every stage but the first halves the image.
      width: channels of the first stage; each further stage doubles them.
      stem: ``cifar``, a 3x3 convolution of stride 1, or ``imagenet``, a 7x7 convolution
        of stride 2 and 3x3 max pooling of stride 2, as in torchvision's ResNets.
      block: ``basic`` or ``bottleneck``.
      halve_projection: whether to halve the sum in blocks with a projection shortcut.
      remat: whether to recompute the activations inside each block in the backward
        pass. This takes a third more operations, and only the blocks' inputs are
        stored.
      batch_norm: whether to normalize after every convolution. Networks with layers
        that FastClip clips do better without BatchNorm.
      conv: function that convolves; if None, the default of
        :func:`unlearn_jax.models.conv.convolution`.
      dtype: compute type (parameters, statistics and logits stay float32).

    Raises:
      InputError: no block, numbers of blocks or a width that are not positive integers,
        or an unknown stem or block.
    """

    num_classes: int
    blocks: Sequence[int] = (2, 2, 2, 2)
    width: int = 64
    stem: Literal["cifar", "imagenet"] = "cifar"
    block: Literal["basic", "bottleneck"] = "basic"
    halve_projection: bool = False
    batch_norm: bool = True
    remat: bool = False
    conv: Callable[..., Array] | None = None
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(blocks=self.blocks)
        check_counts(width=self.width)
        check_choice("stem", self.stem, ("cifar", "imagenet"))
        check_choice("block", self.block, tuple(BLOCKS))

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """Map images ``[B, H, W, ch]`` to logits ``[B, C]``."""
        is_large = self.stem == "imagenet"
        pad = 3 if is_large else 1
        hidden = nn.Conv(
            self.width,
            (7, 7) if is_large else (3, 3),
            (2, 2) if is_large else (1, 1),
            padding=((pad, pad), (pad, pad)),
            use_bias=not self.batch_norm,
            dtype=self.dtype,
            kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
            conv_general_dilated=self.conv or convolution(),
        )(images)
        if self.batch_norm:
            hidden = nn.BatchNorm(
                use_running_average=not train, momentum=0.9, dtype=self.dtype
            )(hidden)
        hidden = nn.relu(hidden)
        if is_large:
            sides = ((1, 1), (1, 1))
            hidden = nn.max_pool(hidden, (3, 3), (2, 2), padding=sides)  # pyright: ignore[reportArgumentType]
        kind = BLOCKS[self.block]
        # Blocks are named as without remat, so that the same variables fit.
        made = nn.remat(kind, static_argnums=(2,)) if self.remat else kind
        number = 0
        for stage, count in enumerate(self.blocks):
            for block in range(count):
                hidden = made(
                    width=self.width * 2**stage,
                    stride=2 if stage > 0 and block == 0 else 1,
                    halve_projection=self.halve_projection,
                    batch_norm=self.batch_norm,
                    conv=self.conv,
                    dtype=self.dtype,
                    name=f"{kind.__name__}_{number}",
                )(hidden, train)
                number += 1
        return nn.Dense(self.num_classes, dtype=self.dtype)(hidden.mean((1, 2))).astype(
            jnp.float32
        )
