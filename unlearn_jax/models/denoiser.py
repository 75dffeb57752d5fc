"""A class-conditional denoiser for diffusion models.

Conditions are vectors in a latent space, in which they can be moved.
"""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from unlearn_jax.checks import check_counts, check_sizes
from unlearn_jax.types import Array, InputError, Variables


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Denoiser:
    """Noise predictor as three pure functions.

    A denoiser is static under ``jit`` (compared by the identity of its functions). The
    condition is passed as a vector, so that it can be moved between classes and away
    from them. Any JAX network can be a denoiser.

    Attributes:
      image_shape: ``(H, W, ch)``.
      num_classes: C; label C is "no condition".
      init: ``key -> Variables``.
      embed: ``(variables, labels [B] in 0..C) -> [B, E]``, the latent vectors of
        conditions.
      predict: ``(variables, noised, signal, condition) -> noise``, where ``noised`` is
        ``[B, H, W, ch]``, ``signal`` ``[B]`` and ``condition`` ``[B, E]``. The result
        ``[B, H, W, ch]`` is the estimate of the noise in
        ``noised = signal * x + sqrt(1 - signal**2) * noise`` with ``0 < signal < 1``.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    init: Callable[[Array], Variables]
    embed: Callable[[Variables, Array], Array]
    predict: Callable[[Variables, Array, Array, Array], Array]


class ResidualDenoiser(nn.Module):
    """Residual perceptron whose blocks the condition scales and shifts (FiLM).

    The output of a block, computed from its normalized input, is added to its input.
    The network predicts the velocity ``v = signal * noise - sqrt(1 - signal**2) * x``
    (Salimans & Ho, arXiv 2202.00512). The noise then is
    ``signal * v + sqrt(1 - signal**2) * noised``: at high noise the input passes
    through, and the estimate of x stays well-conditioned. The network is meant for
    images of 28x28 or smaller.

    Attributes:
      num_classes: C, not counting "no condition".
      width: units of the blocks.
      depth: number of blocks.
      embedding: E, length of the latent vector of a condition.
    """

    num_classes: int
    width: int = 256
    depth: int = 3
    embedding: int = 32

    def setup(self) -> None:
        """Create the table of conditions and the body."""
        self.classes = nn.Embed(
            self.num_classes + 1,
            self.embedding,
            embedding_init=nn.initializers.normal(1.0),
        )
        self.body = _Body(self.width, self.depth)

    def embed(self, labels: Array) -> Array:
        """Embed labels ``[B]`` as ``[B, E]``."""
        return self.classes(labels)

    def predict(self, noised: Array, signal: Array, condition: Array) -> Array:
        """Estimate the noise, as ``predict`` of :class:`Denoiser`."""
        spread = signal.reshape(-1, 1)
        flat = noised.reshape(len(noised), -1)
        velocity = self.body(flat, signal, condition)
        return (spread * velocity + jnp.sqrt(1 - spread**2) * flat).reshape(
            noised.shape
        )

    def __call__(self, noised: Array, signal: Array, labels: Array) -> Array:
        """Embed and predict in one call, for initialization."""
        return self.predict(noised, signal, self.embed(labels))


class _Body(nn.Module):
    """Network from flat images ``[B, D]``, signal and condition to velocities."""

    width: int
    depth: int

    @nn.compact
    def __call__(self, flat: Array, signal: Array, condition: Array) -> Array:
        angle = jnp.arccos(signal).reshape(-1, 1) * 2.0 ** jnp.arange(
            6, dtype=signal.dtype
        ).reshape(1, -1)
        context = jnp.concatenate([jnp.sin(angle), jnp.cos(angle), condition], -1)
        context = nn.silu(nn.Dense(self.width // 2)(context))
        hidden = nn.Dense(self.width)(flat)
        for _ in range(self.depth):
            scale, shift = jnp.split(nn.Dense(2 * self.width)(context), 2, -1)
            inner = (
                nn.LayerNorm(use_bias=False, use_scale=False)(hidden) * (1 + scale)
                + shift
            )
            inner = nn.silu(nn.Dense(self.width)(inner))
            hidden = hidden + nn.Dense(self.width)(inner)
        hidden = nn.LayerNorm()(hidden)
        return nn.Dense(flat.shape[-1], kernel_init=nn.initializers.zeros)(hidden)


def build_denoiser(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    width: int = 256,
    depth: int = 3,
    embedding: int = 32,
) -> Denoiser:
    """Build a :class:`ResidualDenoiser`.

    Args:
      image_shape: ``(H, W, ch)``.
      num_classes: C, at least 2.
      width: units of the blocks, an even number.
      depth: number of blocks.
      embedding: E, length of the latent vector of a condition.

    Returns:
      The denoiser; its ``Variables`` have an empty ``state``.

    Raises:
      InputError: sizes that are not positive integers, fewer than 2 classes, an odd
        width.

    >>> denoiser = build_denoiser((8, 8, 1), 10, width=32, depth=1)
    >>> variables = denoiser.init(jax.random.key(0))
    >>> condition = denoiser.embed(variables, jnp.array([3, 10]))
    >>> noised, signal = jnp.zeros((2, 8, 8, 1)), jnp.array([0.1, 0.9])
    >>> denoiser.predict(variables, noised, signal, condition).shape
    (2, 8, 8, 1)
    """
    check_sizes(image_shape=image_shape)
    check_counts(num_classes=num_classes, width=width, depth=depth, embedding=embedding)
    if len(image_shape) != 3 or num_classes < 2 or width % 2:
        raise InputError(
            "a denoiser needs an image shape (H, W, ch), at least 2 classes and an even"
            f" width; got {image_shape}, {num_classes} and {width}"
        )
    # a tuple, because a list cannot be hashed
    shape = (image_shape[0], image_shape[1], image_shape[2])
    module = ResidualDenoiser(num_classes, width, depth, embedding)
    sample = (
        jnp.zeros((1, *image_shape)),
        jnp.full((1,), 0.5),
        jnp.zeros((1,), jnp.int32),
    )

    def call(variables: Variables, method: Callable[..., Array], *args: Array) -> Array:
        return module.apply({"params": variables.params}, *args, method=method)  # pyright: ignore[reportReturnType]

    return Denoiser(
        image_shape=shape,
        num_classes=num_classes,
        init=lambda key: Variables(module.init(key, *sample)["params"], {}),
        embed=lambda variables, labels: call(variables, ResidualDenoiser.embed, labels),
        predict=lambda variables, noised, signal, condition: call(
            variables, ResidualDenoiser.predict, noised, signal, condition
        ),
    )
