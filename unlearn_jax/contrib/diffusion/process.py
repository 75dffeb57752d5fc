"""The diffusion process of a denoiser: schedules, noising, training and sampling.

Inside the process, images are signals in [-1, 1]; outside, they are in [0, 1]. At step
t of T, ``x_t = s_t x + sqrt(1 - s_t^2) eps`` with ``s_t = sqrt(alpha_bar_t)`` (Ho et
al., arXiv 2006.11239, equation 4).
"""

from functools import lru_cache
from typing import Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.core import Tracer

from unlearn_jax.checks import (
    check_counts,
    check_fractions,
    check_images,
    check_labels,
    check_not_negative,
    check_positive,
    check_range,
)
from unlearn_jax.models.denoiser import Denoiser
from unlearn_jax.train import (
    Batch,
    LossFn,
    TrainState,
    check_member,
    fetch_from,
    steps_per_epoch,
    train_epochs,
)
from unlearn_jax.types import Array, Dataset, InputError, ModelState, Variables
from unlearn_jax.values import value

Schedule = Literal["cosine", "linear"]
_LEAST = 1e-4
"""Smallest alpha_bar; below it the clean estimate loses its digits in float32."""


@value
class Process:
    """Noise schedule of a diffusion process.

    Attributes:
      num_steps: T.
      schedule: ``linear`` has beta from 1e-4 to 0.02 over 1000 steps (arXiv
        2006.11239), scaled by 1000 / T for another T; ``cosine`` is better for small
        images (Nichol & Dhariwal, arXiv 2102.09672, equation 17). ``alpha_bar`` is at
        least 1e-4.

    Raises:
      InputError: fewer than 2 steps (21 for ``linear``), or an unknown schedule.

    >>> Process(num_steps=10).signal.shape
    (10,)
    """

    num_steps: int = 1000
    schedule: Schedule = "cosine"

    def __post_init__(self) -> None:
        """Check the number of steps."""
        least = 2 if self.schedule == "cosine" else 21  # betas stay below 1
        if self.num_steps < least:
            raise InputError(
                f"a {self.schedule} schedule needs at least {least} steps, got"
                f" {self.num_steps}"
            )

    @property
    def signal(self) -> np.ndarray:
        """``[T]`` float32, ``sqrt(alpha_bar)`` of steps 1..T: decreasing, in (0, 1)."""
        return _signal(self)


@lru_cache(maxsize=32)
def _signal(process: Process) -> np.ndarray:
    steps = np.arange(1, process.num_steps + 1)
    if process.schedule == "linear":
        betas = np.linspace(1e-4, 0.02, process.num_steps) * 1000 / process.num_steps
        alpha_bar = np.cumprod(1 - betas)
    else:
        time = np.concatenate([[0.0], steps / process.num_steps])
        curve = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
        alpha_bar = curve[1:] / curve[0]
    # The floor itself decreases, so that the signal decreases where the floor binds.
    floor = _LEAST * (1 + 1e-3 * (process.num_steps - steps))
    return np.sqrt(np.maximum(alpha_bar, floor)).astype(np.float32)


def to_signal(images: Array) -> Array:
    """Return images in [0, 1] as signals in [-1, 1]."""
    return 2 * images - 1


def to_images(signal: Array) -> Array:
    """Return signals as images, clipped to [0, 1]."""
    return jnp.clip((signal + 1) / 2, 0.0, 1.0)


def _spread(values: Array, like: Array) -> Array:
    """Reshape ``[B]`` to ``[B, 1, ...]``, which broadcasts against ``like``."""
    return values.reshape(values.shape + (1,) * (like.ndim - 1))


def add_noise(x: Array, signal: Array, noise: Array) -> Array:
    """Return ``x_t = s x + sqrt(1 - s^2) eps``.

    Args:
      x: ``[B, ...]`` clean signals.
      signal: ``[B]`` s.
      noise: ``[B, ...]`` eps.

    Returns:
      ``[B, ...]`` x_t.

    >>> float(add_noise(jnp.ones((1, 1)), jnp.array([0.6]), jnp.ones((1, 1)))[0, 0])
    1.4...
    """
    chex.assert_equal_shape([x, noise])
    chex.assert_shape(signal, (len(x),))
    return _spread(signal, x) * x + jnp.sqrt(1 - _spread(signal, x) ** 2) * noise


def clean_estimate(noised: Array, signal: Array, noise: Array) -> Array:
    """Return the x that :func:`add_noise` turns into ``noised``.

    Args:
      noised: ``[B, ...]`` x_t.
      signal: ``[B]`` s.
      noise: ``[B, ...]`` estimate of eps.

    Returns:
      ``[B, ...]`` x.
    """
    chex.assert_equal_shape([noised, noise])
    chex.assert_shape(signal, (len(noised),))
    return (noised - jnp.sqrt(1 - _spread(signal, noised) ** 2) * noise) / _spread(
        signal, noised
    )


def denoising_losses(
    denoiser: Denoiser,
    variables: Variables,
    x: Array,
    signal: Array,
    noise: Array,
    condition: Array,
) -> Array:
    """Return ``|eps - eps_theta(x_t, t, c)|^2`` per pixel (arXiv 2006.11239, eq. 14).

    Args:
      denoiser: the architecture.
      variables: theta.
      x: ``[B, H, W, ch]`` clean signals.
      signal: ``[B]`` signal s of each noise level.
      noise: ``[B, H, W, ch]`` eps.
      condition: ``[B, E]`` c.

    Returns:
      ``[B]`` losses.
    """
    predicted = denoiser.predict(
        variables, add_noise(x, signal, noise), signal, condition
    )
    return jnp.mean((noise - predicted) ** 2, axis=tuple(range(1, x.ndim)))


def draw_levels(key: Array, process: Process, x: Array) -> tuple[Array, Array]:
    """Draw a step, uniform in 1..T, and Gaussian noise for each row of ``x [B, ...]``.

    Returns:
      The signal s of the steps ``[B]``, and the noise ``[B, ...]``.
    """
    key_step, key_noise = jax.random.split(key)
    steps = jax.random.randint(key_step, (len(x),), 0, process.num_steps)
    noise = jax.random.normal(key_noise, x.shape, x.dtype)
    return jnp.asarray(process.signal)[steps], noise


@lru_cache(maxsize=64)
def training_loss(denoiser: Denoiser, process: Process, *, drop: float = 0.1) -> LossFn:
    """Return a loss function: the mean denoising loss with random steps and noise.

    Args:
      denoiser: the architecture.
      process: the schedule.
      drop: probability that a label is replaced by "no condition", which
        classifier-free guidance needs (Ho & Salimans, arXiv 2207.12598); in [0, 1].

    Returns:
      A loss for :func:`unlearn_jax.train.train_epochs`. The same arguments give the
      same function object.

    Raises:
      InputError: ``drop`` outside [0, 1].
    """
    check_fractions(drop=drop)

    def loss_fn(
        variables: Variables, batch: Batch, key: Array
    ) -> tuple[Array, ModelState]:
        key_drop, key_level = jax.random.split(key)
        dropped = jax.random.bernoulli(key_drop, drop, batch.labels.shape)
        condition = denoiser.embed(
            variables, jnp.where(dropped, denoiser.num_classes, batch.labels)
        )
        x = to_signal(batch.images)
        signal, noise = draw_levels(key_level, process, x)
        losses = denoising_losses(denoiser, variables, x, signal, noise, condition)
        return jnp.mean(losses), variables.state

    return loss_fn


def train_denoiser(
    key: Array,
    denoiser: Denoiser,
    process: Process,
    data: Dataset,
    member: Array,
    *,
    num_epochs: int,
    num_batches: int | None = None,
    batch_size: int = 64,
    learning_rate: float | Array = 2e-3,
    drop: float = 0.1,
) -> tuple[Variables, Array]:
    """Train a denoiser from scratch with Adam and a cosine-decayed learning rate.

    The rate falls to 0, which serves the purpose of averaging the weights. The function
    is pure: jit it, or map it over many keys and masks with
    :func:`unlearn_jax.replicas.map_models`.

    Args:
      key: PRNG key for the whole run.
      denoiser: the architecture.
      process: the schedule.
      data: ``[N]`` samples; those outside ``member`` are never read.
      member: ``[N]`` bool, mask of the training set.
      num_epochs: number of epochs of ``num_batches`` steps each.
      num_batches: steps per epoch, the same for all masks; if None, enough for all of
        ``data``.
      batch_size: samples per step.
      learning_rate: initial learning rate.
      drop: probability that a label is replaced by "no condition", in [0, 1].

    Returns:
      The variables, and the mean loss of each epoch ``[num_epochs]``.

    Raises:
      InputError: sizes or a rate that are not positive, a bad ``drop``, images of
        another shape or range, labels that are not classes, a mask that is not ``[N]``
        bool (labels, the range of images and the mask are not checked if ``member`` is
        traced).
    """
    check_counts(num_epochs=num_epochs, batch_size=batch_size)
    if num_batches is not None:
        check_counts(num_batches=num_batches)
    check_positive(learning_rate=learning_rate)
    check_shape(denoiser, data.images)
    if not isinstance(member, Tracer):
        check_member(member, len(data.images))
        read = np.asarray(member)
        check_images(data.images, member=read)
        check_labels(data.labels, len(data.images), denoiser.num_classes, member=read)
    data = jax.tree.map(jnp.asarray, data)
    num_batches = num_batches or steps_per_epoch(len(data.labels), batch_size)
    tx = optax.adam(
        optax.cosine_decay_schedule(learning_rate, num_epochs * num_batches)
    )
    key_init, key_train = jax.random.split(key)
    variables = denoiser.init(key_init)
    state, losses = train_epochs(
        training_loss(denoiser, process, drop=drop),
        tx,
        fetch_from(),
        TrainState(jnp.zeros((), jnp.int32), variables, tx.init(variables.params)),
        key_train,
        data,
        member,
        num_epochs=num_epochs,
        num_batches=num_batches,
        batch_size=batch_size,
    )
    return state.variables, losses


def check_shape(denoiser: Denoiser, images: Array) -> None:
    """Raise on images ``[N, H, W, ch]`` of another shape than the denoiser's.

    Raises:
      InputError: another shape; the message names both.
    """
    if jnp.ndim(images) != 4 or images.shape[1:] != denoiser.image_shape:
        raise InputError(
            f"the denoiser takes images of shape {denoiser.image_shape}, got"
            f" {jnp.shape(images)[1:]}"
        )


def check_concept(denoiser: Denoiser, concept: Array | int) -> None:
    """Raise on a concept that is not a class of the denoiser; a traced concept passes.

    Raises:
      InputError: a concept that is not one integer, or out of range; the message names
        the range.
    """
    dtype = jnp.asarray(concept).dtype
    if jnp.ndim(concept) or not jnp.issubdtype(dtype, jnp.integer):
        raise InputError(f"a concept is one integer class, got {concept!r}")
    check_range(concept, denoiser.num_classes, "concept")


def sample(
    key: Array,
    denoiser: Denoiser,
    variables: Variables,
    process: Process,
    condition: Array,
    *,
    guidance: float = 0.0,
    num_steps: int = 25,
    eta: float = 0.0,
    clip: bool = True,
) -> Array:
    """Draw one signal per condition by DDIM (arXiv 2010.02502, equations 12 and 16).

    The sampler passes through ``num_steps`` levels spaced evenly over 1..T, from T
    down. With classifier-free guidance the estimate of the noise is
    ``(1 + w) eps(x, c) - w eps(x, none)`` (arXiv 2207.12598, equation 6).

    Args:
      key: PRNG key, consumed by the call.
      denoiser: the architecture.
      variables: theta.
      process: the schedule.
      condition: ``[B, E]`` conditions, from ``denoiser.embed`` or any other points of
        that space.
      guidance: w; 0 disables guidance and halves the cost.
      num_steps: number of levels, in 1..T.
      eta: 0 is deterministic given the first noise; 1 is ancestral sampling as in DDPM.
      clip: whether to clip estimates of x to [-1, 1] at every step.

    Returns:
      ``[B, H, W, ch]`` signals; :func:`to_images` converts them to images.

    Raises:
      InputError: ``num_steps`` outside 1..T, ``eta`` outside [0, 1], a negative
        ``guidance``.
    """
    check_counts(num_steps=num_steps)
    check_fractions(eta=eta)
    check_not_negative(guidance=guidance)
    if num_steps > process.num_steps:
        raise InputError(
            f"the sampler takes num_steps in 1..{process.num_steps}, got {num_steps}"
        )
    if jnp.ndim(condition) != 2:
        raise InputError(
            f"conditions have shape {jnp.shape(condition)}: pass [B, E], as"
            " denoiser.embed(variables, labels) gives"
        )
    steps = np.linspace(process.num_steps - 1, 0, num_steps).round().astype(int)
    levels = process.signal[steps]
    following = np.append(levels[1:], np.float32(1))
    key_first, key_steps = jax.random.split(key)
    none = denoiser.embed(variables, jnp.full((len(condition),), denoiser.num_classes))

    def step(x: Array, item: tuple[Array, Array, Array]) -> tuple[Array, None]:
        level, after, key_step = item
        signal = jnp.full((len(x),), level)
        noise = denoiser.predict(variables, x, signal, condition)
        if guidance:
            noise = (1 + guidance) * noise - guidance * denoiser.predict(
                variables, x, signal, none
            )
        clean = clean_estimate(x, signal, noise)
        if clip:
            clean = jnp.clip(clean, -1.0, 1.0)
            noise = (x - level * clean) / jnp.sqrt(1 - level**2)
        spread = eta * jnp.sqrt(
            (1 - after**2) / (1 - level**2) * (1 - level**2 / after**2)
        )
        remainder = jnp.sqrt(jnp.maximum(1 - after**2 - spread**2, 0.0))
        fresh = jax.random.normal(key_step, x.shape)
        return after * clean + remainder * noise + spread * fresh, None

    first = jax.random.normal(key_first, (len(condition), *denoiser.image_shape))
    keys = jax.random.split(key_steps, num_steps)
    items = (jnp.asarray(levels), jnp.asarray(following), keys)
    return lax.scan(step, first, items)[0]
