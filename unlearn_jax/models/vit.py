"""A small vision transformer, for 8x8 to 64x64 images."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from unlearn_jax.checks import check_counts
from unlearn_jax.models.conv import convolution
from unlearn_jax.types import Array, InputError


class ViT(nn.Module):
    """Vision transformer (Dosovitskiy et al., arXiv 2010.11929), pre-norm.

    A convolution whose stride is its size makes tokens of the patches, and a learned
    position embedding is added. Each block adds attention and a perceptron, both of the
    normalized tokens. The head is applied to the mean of the tokens. There is no class
    token and no dropout, as in the baselines for small data (Beyer et al., arXiv
    2205.01580).

    Attributes:
      num_classes: C, the number of logits.
      patch_size: side of a patch; must divide the image's sides.
      width: length of a token, a multiple of ``num_heads``.
      depth: number of blocks.
      num_heads: number of attention heads.
      mlp_ratio: hidden units of a block's perceptron, as a multiple of ``width``.
      remat: whether to recompute the activations inside each block in the backward
        pass, instead of storing them.
      conv: function that convolves; if None, the default of
        :func:`unlearn_jax.models.conv.convolution`.
      dtype: compute type (parameters and logits stay float32).

    Raises:
      InputError: sizes that are not positive integers; in a call, patches that do not
        divide the images, or heads that do not divide the width.
    """

    num_classes: int
    patch_size: int = 4
    width: int = 64
    depth: int = 4
    num_heads: int = 4
    mlp_ratio: int = 4
    remat: bool = False
    conv: Callable[..., Array] | None = None
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(
            patch_size=self.patch_size,
            width=self.width,
            depth=self.depth,
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
        )

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """Map images ``[B, H, W, ch]`` to logits ``[B, C]``; ``train`` is ignored."""
        del train
        _, height, width, _ = images.shape
        if height % self.patch_size or width % self.patch_size:
            raise InputError(
                f"patches of side {self.patch_size} do not divide images of {height} x"
                f" {width}"
            )
        if self.width % self.num_heads:
            raise InputError(
                f"a width of {self.width} is not a multiple of {self.num_heads} heads"
            )
        patch = (self.patch_size, self.patch_size)
        tokens = nn.Conv(
            self.width,
            patch,
            patch,
            padding="VALID",
            dtype=self.dtype,
            conv_general_dilated=self.conv or convolution(),
            name="patches",
        )(images)
        tokens = tokens.reshape(len(images), math.prod(tokens.shape[1:3]), self.width)
        positions = self.param(
            "positions",
            nn.initializers.normal(0.02),
            (1, tokens.shape[1], self.width),
            jnp.float32,
        )
        tokens = tokens + positions.astype(tokens.dtype)
        made = nn.remat(Block) if self.remat else Block
        for index in range(self.depth):
            block = made(
                self.num_heads, self.mlp_ratio, self.dtype, name=f"block_{index}"
            )
            tokens = block(tokens)
        pooled = jnp.mean(nn.LayerNorm(dtype=self.dtype)(tokens), 1)
        logits = nn.Dense(self.num_classes, dtype=self.dtype, name="head")(pooled)
        return logits.astype(jnp.float32)


class Block(nn.Module):
    """Transformer block: attention, then a perceptron, each added to its input.

    Attributes:
      num_heads: number of attention heads.
      mlp_ratio: hidden units of the perceptron, as a multiple of the tokens' length.
      dtype: compute type.
    """

    num_heads: int
    mlp_ratio: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """Map tokens ``[B, T, D]`` to tokens ``[B, T, D]``."""
        width = tokens.shape[-1]
        attention = nn.MultiHeadDotProductAttention(
            self.num_heads, dtype=self.dtype, deterministic=True, name="attention"
        )
        tokens = tokens + attention(nn.LayerNorm(dtype=self.dtype)(tokens))
        hidden = nn.LayerNorm(dtype=self.dtype)(tokens)
        hidden = nn.Dense(self.mlp_ratio * width, dtype=self.dtype)(hidden)
        return tokens + nn.Dense(width, dtype=self.dtype)(nn.gelu(hidden))
