"""Attacks in the space of conditions: leaving a concept, and recovering it.

AMUN's question is asked of the condition instead of the image. A conditional denoiser
draws concept f at the vector ``e(f)``; how far must ``e(f) + delta`` move before it
stands for another class? A judge classifies the moved condition, given images of f. The
radius of the search is doubled as in AMUN (arXiv 2503.00917, Algorithm 1).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from unlearn_jax.attacks import l2, pgd
from unlearn_jax.attacks.search import NO_CLASS
from unlearn_jax.checks import (
    check_counts,
    check_images,
    check_not_negative,
    check_positive,
)
from unlearn_jax.contrib.diffusion.process import (
    Process,
    add_noise,
    check_concept,
    check_shape,
    clean_estimate,
    denoising_losses,
    draw_levels,
    to_images,
    to_signal,
)
from unlearn_jax.models.denoiser import Denoiser
from unlearn_jax.types import Array, AttackResult, InputError, Status, Variables
from unlearn_jax.values import Real, value

Judge = Callable[[Array], Array]
"""``delta [B, E] -> logits [B, C]`` of ``e(f) + delta``, one row per judged image."""

UNBOUNDED = (-np.inf, np.inf)


@value
class LatentPGD:
    """Search for the nearest condition outside a concept: PGD with a doubling radius.

    Attributes:
      radius: smallest radius, in the Euclidean norm of the latent space.
      num_radii: number of radii, each twice the one before.
      num_steps: gradient steps per radius.
      step_ratio: length of a step, as a fraction of the radius.

    Raises:
      InputError: sizes or lengths that are not positive.
    """

    radius: Real = 0.25
    num_radii: int = 8
    num_steps: int = 20
    step_ratio: Real = 0.1

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_counts(num_radii=self.num_radii, num_steps=self.num_steps)
        check_positive(radius=self.radius, step_ratio=self.step_ratio)


class LatentAttack(NamedTuple):
    """Nearest conditions outside a concept, one row per image.

    Attributes:
      delta: ``[B, E]`` float32, offset from the concept's vector; the last iterate
        where the search failed.
      labels: ``[B]`` int32, the judge's class at ``delta``.
      epsilon: ``[B]`` float32, radius of the ball in which the search stopped (0 for
        ``ALREADY_WRONG``).
      distance: ``[B]`` float32, Euclidean length of ``delta``, at most ``epsilon``.
      status: ``[B]`` int32, a :class:`unlearn_jax.types.Status`; ``ALREADY_WRONG``
        where the judge does not classify the image as the concept even at
        ``delta = 0``.
    """

    delta: Array
    labels: Array
    epsilon: Array
    distance: Array
    status: Array


class _Levels(NamedTuple):
    """B images at K noise levels each, ``[B * K, ...]``."""

    x: Array
    signal: Array
    noise: Array


def _levels(
    key: Array, process: Process, images: Array, num_levels: int, *, first: float = 0.0
) -> _Levels:
    """Noise the images at ``num_levels`` steps between ``first`` * T and T.

    The steps are the middles of ``num_levels`` equal parts of that range.
    """
    check_counts(num_levels=num_levels)
    if num_levels > process.num_steps // 2:
        raise InputError(
            f"num_levels must be in 1..{process.num_steps // 2}, half the steps of the"
            f" process, got {num_levels}"
        )
    time = first + (1 - first) * (np.arange(num_levels) + 0.5) / num_levels
    levels = process.signal[(time * process.num_steps).astype(int)]
    signal = jnp.tile(jnp.asarray(levels), len(images))
    x = jnp.repeat(to_signal(images), num_levels, axis=0)
    return _Levels(x, signal, jax.random.normal(key, x.shape))


def _check_images(denoiser: Denoiser, images: Array) -> None:
    check_shape(denoiser, images)
    check_images(images, "images of a concept")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(
            "images of a concept must be floating in [0, 1]: divide uint8 images by 255"
        )


def _losses(
    denoiser: Denoiser, variables: Variables, at: _Levels, condition: Array
) -> Array:
    """Return denoising losses ``[B]`` of conditions ``[B, E]``, mean over levels."""
    rows = len(condition)
    num_levels = len(at.x) // rows
    condition = jnp.repeat(condition, num_levels, axis=0)
    losses = denoising_losses(denoiser, variables, *at, condition)
    return jnp.mean(losses.reshape(rows, num_levels), 1)


def _all_losses(
    denoiser: Denoiser, variables: Variables, at: _Levels, rows: int
) -> Array:
    def under(label: Array) -> Array:
        condition = denoiser.embed(variables, jnp.full((rows,), label))
        return _losses(denoiser, variables, at, condition)

    return lax.map(under, jnp.arange(denoiser.num_classes)).T


def class_losses(
    key: Array,
    denoiser: Denoiser,
    variables: Variables,
    process: Process,
    images: Array,
    *,
    num_levels: int = 8,
) -> Array:
    """Return the denoising losses of images under every class.

    The negated losses are the logits of the diffusion classifier
    ``argmin_c E|eps - eps_theta(x_t, t, c)|^2`` (Li et al., arXiv 2303.16203). All
    classes have the same steps and noise, which removes most of the variance.

    Args:
      key: PRNG key for the noise.
      denoiser: the architecture.
      variables: theta.
      process: the schedule.
      images: ``[B, H, W, ch]`` in [0, 1].
      num_levels: number of steps; they are the middles of as many equal parts of 1..T.

    Returns:
      ``[B, C]`` losses per pixel.

    Raises:
      InputError: ``num_levels`` below 1 or above T / 2, or images of another shape or
        range.
    """
    _check_images(denoiser, images)
    return _all_losses(
        denoiser, variables, _levels(key, process, images, num_levels), len(images)
    )


def denoising_judge(
    key: Array,
    denoiser: Denoiser,
    variables: Variables,
    process: Process,
    images: Array,
    concept: Array | int,
    *,
    num_levels: int = 8,
) -> Judge:
    """Return the judge that classifies a condition by the model's denoising losses.

    The logits are the negated losses of :func:`class_losses`, with ``e(f) + delta`` in
    place of ``e(f)``. The condition stands for f as long as it explains the image
    better than every other class.

    Args:
      key: PRNG key for the noise, which is the same for all ``delta``.
      denoiser: the architecture.
      variables: theta.
      process: the schedule.
      images: ``[B, H, W, ch]`` images of the concept, in [0, 1].
      concept: f.
      num_levels: number of steps; they are the middles of as many equal parts of 1..T.

    Raises:
      InputError: as :func:`class_losses`, or a concept that is not a class.
    """
    _check_images(denoiser, images)
    check_concept(denoiser, concept)
    at = _levels(key, process, images, num_levels)
    losses = _all_losses(denoiser, variables, at, len(images))
    embedding = denoiser.embed(variables, jnp.full((len(images),), concept))
    column = jnp.arange(denoiser.num_classes).reshape(1, -1) == concept

    def judge(delta: Array) -> Array:
        moved = _losses(denoiser, variables, at, embedding + delta)
        return -jnp.where(column, moved.reshape(-1, 1), losses)

    return judge


def external_judge(
    key: Array,
    denoiser: Denoiser,
    variables: Variables,
    process: Process,
    images: Array,
    concept: Array | int,
    classify: Callable[[Array], Array],
    *,
    num_levels: int = 8,
) -> Judge:
    """Return the judge that classifies the images drawn under a condition.

    Images of f are noised and denoised under ``e(f) + delta``. The logits are the
    classifier's log-probabilities on the estimate of x, averaged over the noise levels.
    At low noise the estimate is the image itself whatever the condition is, so only
    high noise levels can move the average away from f.

    Args:
      key: PRNG key for the noise.
      denoiser: the architecture.
      variables: theta.
      process: the schedule.
      images: ``[B, H, W, ch]`` images of the concept, in [0, 1].
      concept: f.
      classify: ``images [B, H, W, ch] in [0, 1] -> logits [B, C]``.
      num_levels: number of steps, spread over the noisier half of 1..T.

    Raises:
      InputError: as :func:`denoising_judge`.
    """
    _check_images(denoiser, images)
    check_concept(denoiser, concept)
    at = _levels(key, process, images, num_levels, first=0.5)
    noised = add_noise(*at)
    embedding = denoiser.embed(variables, jnp.full((len(images),), concept))

    def judge(delta: Array) -> Array:
        condition = jnp.repeat(embedding + delta, num_levels, axis=0)
        predicted = denoiser.predict(variables, noised, at.signal, condition)
        estimates = to_images(clean_estimate(noised, at.signal, predicted))
        log_probs = jax.nn.log_softmax(classify(estimates))
        return jnp.mean(log_probs.reshape(len(images), num_levels, -1), 1)

    return judge


def latent_attack(
    judge: Judge,
    concept: Array | int,
    shape: tuple[int, int],
    attack: LatentPGD = LatentPGD(),  # noqa: B008
) -> LatentAttack:
    """Find the nearest condition outside the concept for every image.

    :func:`unlearn_jax.attacks.pgd` searches the balls of radius ``radius * 2**k``,
    ``k < num_radii``, each from ``delta = 0``. The success in the smallest radius is
    returned. An image without a success in any radius keeps its last iterate, and its
    status is ``NOT_FOUND``.

    Args:
      judge: classifier of conditions.
      concept: f, the class to leave.
      shape: ``(B, E)``, the shape of ``delta``.
      attack: hyperparameters of the search.

    Returns:
      One row per image.

    Raises:
      InputError: a judge that is not a function, or a shape that is not ``(B, E)``.
    """
    if not callable(judge):
        raise InputError(f"a judge is a function of delta [B, E], got {judge!r}")
    if len(shape) != 2:
        raise InputError(f"a latent attack moves [B, E] conditions, got {shape}")
    check_counts(num_images=shape[0], num_units=shape[1])
    start = jnp.zeros(shape)
    labels = jnp.full((shape[0],), concept, jnp.int32)

    def widen(best: AttackResult, epsilon: Array) -> tuple[AttackResult, None]:
        goal = jnp.where(best.success, NO_CLASS, labels)  # solved rows take no step
        attacked = pgd(
            lambda _, delta: judge(delta),
            (),
            start,
            goal,
            start,
            epsilon=epsilon,
            num_steps=attack.num_steps,
            step_ratio=attack.step_ratio,
            norm=l2,
            bounds=UNBOUNDED,
        )
        solved = best.success

        def keep(old: Array, new: Array) -> Array:
            column = solved.reshape(solved.shape + (1,) * (old.ndim - 1))
            return jnp.where(column, old, new)

        return jax.tree.map(keep, best, attacked), None

    zeros = jnp.zeros((shape[0],))
    status = jnp.full((shape[0],), Status.NOT_FOUND, jnp.int32)
    spent = jnp.zeros((shape[0],), jnp.int32)
    first = AttackResult(start, labels, zeros, zeros, status, spent)
    radii = attack.radius * 2.0 ** jnp.arange(attack.num_radii)
    best, _ = lax.scan(widen, first, radii)
    return LatentAttack(
        best.images, best.labels, best.epsilon, best.distance, best.status
    )


def recover_concept(
    key: Array,
    denoiser: Denoiser,
    variables: Variables,
    process: Process,
    images: Array,
    concept: Array | int,
    *,
    radius: Array | float,
    num_steps: int = 100,
    batch_size: int = 64,
    step_ratio: float = 0.1,
) -> Array:
    """Attack an unlearned model: find the condition near ``e(f)`` that draws f best.

    The attack minimizes the denoising loss of ``images`` over a single ``delta`` by
    projected steps along the normalized stochastic gradient. The length of a step falls
    linearly from ``step_ratio * radius`` to 0. This is textual inversion (Gal et al.,
    arXiv 2208.01618) as an attack (arXiv 2310.11868), in a ball. The attacker has the
    weights and images of f.

    Args:
      key: PRNG key, consumed by the call.
      denoiser: the architecture.
      variables: variables of the model under attack.
      process: the schedule.
      images: ``[B, H, W, ch]`` images of the concept, in [0, 1].
      concept: f.
      radius: Euclidean radius of the ball; may be traced, 0 for no attack.
      num_steps: gradient steps.
      batch_size: images per step, drawn with replacement.
      step_ratio: length of the first step, as a fraction of the radius.

    Returns:
      ``delta [E]``, of length at most ``radius``.

    Raises:
      InputError: sizes that are not positive, a radius that is negative, unusable
        images, or a concept that is not a class.
    """
    check_counts(num_steps=num_steps, batch_size=batch_size)
    check_positive(step_ratio=step_ratio)
    check_not_negative(radius=radius)
    _check_images(denoiser, images)
    check_concept(denoiser, concept)
    embedding = denoiser.embed(variables, jnp.full((1,), concept))
    radius = jnp.asarray(radius, embedding.dtype)
    images = jnp.asarray(images)

    def loss(delta: Array, key: Array) -> Array:
        key_rows, key_level = jax.random.split(key)
        rows = jax.random.randint(key_rows, (batch_size,), 0, len(images))
        x = to_signal(images[rows])
        signal, noise = draw_levels(key_level, process, x)
        condition = jnp.repeat(embedding + delta.reshape(1, -1), batch_size, axis=0)
        losses = denoising_losses(denoiser, variables, x, signal, noise, condition)
        return jnp.mean(losses)

    def step(delta: Array, item: tuple[Array, Array]) -> tuple[Array, None]:
        key_step, left = item
        down = l2.direction(jax.grad(loss)(delta, key_step))
        return l2.project(delta - step_ratio * left * radius * down, radius), None

    left = jnp.linspace(1.0, 0.0, num_steps, endpoint=False)
    items = (jax.random.split(key, num_steps), left)
    return lax.scan(step, jnp.zeros(embedding.shape[1]), items)[0]
