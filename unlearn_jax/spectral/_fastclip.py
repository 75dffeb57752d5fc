"""FastClip: every layer's largest singular values brought to a target, moving those directions alone.

"Spectrum Extraction and Clipping for Implicitly Linear Layers", arXiv 2402.16017, and
section 3.3.2 of arXiv 2512.06993.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from unlearn_jax.layers import Layer
from unlearn_jax.spectral._power_qr import golub_kahan
from unlearn_jax.spectral._projection import (
    KernelRule,
    Norm,
    Targets,
    project,
    projection,
)
from unlearn_jax.spectral.norms import start_vectors
from unlearn_jax.spectral.operators import layer_map
from unlearn_jax.types import ApplyFn, Array, InputError, Model, Variables

REFERENCE_STEP = 0.35
Step = Literal["line_search", "reference"]


class ClipState(NamedTuple):
    """What is known of one layer's spectrum.

    Attributes:
      vectors: ``[K, *in_shape]``, right singular vectors, orthonormal; random before
        the first application.
      sigma: ``[K]`` singular values after the last application, in descending order;
        estimates from below. Zero before the first.
    """

    vectors: Array
    sigma: Array


def clip_kernel(
    layer: Layer,
    vectors: Array,
    *,
    max_norm: Norm,
    two_sided: bool = False,
    step: Step = "line_search",
    inner_steps: int = 1,
) -> Array:
    """Moves a layer's weights so that it stretches the given directions by no more than ``max_norm``.

    Least squares in the space of kernels: the change ``D`` minimizes
    ``sum_j |D v_j - (c / sigma_j - 1) M v_j|^2`` over the directions with
    ``sigma_j = |M v_j| > c``, from 0, by conjugate gradients; the first step is the
    gradient of the reference with the exact length ``|g|^2 / (2 sum_j |g v_j|^2)``, for
    the loss is quadratic in the kernel. For a dense layer one step is exact,
    ``W - sum_j (sigma_j - c) u_j v_j^T``, and no other singular value changes. A
    convolution cannot move one direction alone: the step is the closest its kernel can
    do.

    Args:
      layer: of :func:`unlearn_jax.layers.layers`; its ``scale`` is not applied.
      vectors: ``[K, *in_shape]``, orthonormal; the layer's right singular vectors.
      max_norm: ``c``, positive.
      two_sided: the first direction is brought to ``c`` from below as well, as the
        reference does to convolutions.
      step: ``reference`` takes plain gradient steps of length 0.35 on a loss that is a
        mean over directions and over the output's width, as the released code does;
        slower by ten and more, and dependent on the image's size.
      inner_steps: steps.

    Returns:
      The new kernel; the same bits where no direction is too long.
    """
    kernel = layer.kernel.astype(jnp.float32)

    def stretch(kernel: Array) -> Array:
        return jax.vmap(layer_map(layer, kernel, composite=False).matvec)(vectors)

    # example by example: the gradient of a mapped convolution is a grouped one, a
    # hundred times slower on CPU
    one_by_one = lambda kernel: lax.map(
        layer_map(layer, kernel, composite=False).matvec, vectors
    )
    images, pull_back = jax.vjp(one_by_one, kernel)
    sigma = jnp.sqrt(jnp.sum(images**2, tuple(range(1, images.ndim))))
    active = sigma > max_norm
    if two_sided:
        active |= (jnp.arange(len(sigma)) == 0) & (sigma > 0)
    share = jnp.where(active, max_norm / jnp.where(active, sigma, 1.0) - 1, 0.0)
    residual = share.reshape(-1, *[1] * (images.ndim - 1)) * images
    width = images.shape[2] if layer.kind == "conv" else 1
    fixed = 2 * REFERENCE_STEP / (len(vectors) * width)
    return _descend(
        kernel,
        residual,
        stretch,
        pull_back,
        fixed if step == "reference" else None,
        inner_steps,
    ).astype(layer.kernel.dtype)


def _descend(
    kernel: Array,
    residual: Array,
    stretch: Callable[[Array], Array],
    pull_back: Callable[[Array], tuple[Array]],
    fixed: float | None,
    inner_steps: int,
) -> Array:
    """Conjugate gradients on the normal equations (CGLS), or plain gradient steps of a fixed length."""
    direction, last = jnp.zeros_like(kernel), jnp.ones(())
    for i in range(inner_steps):
        (gradient,) = pull_back(residual)
        square = jnp.sum(gradient**2)
        turn = square / jnp.where(last > 0, last, 1.0) if i and fixed is None else 0.0
        direction, last = gradient + turn * direction, square
        moved = stretch(direction)
        across = jnp.sum(moved**2)
        size = square / jnp.where(across > 0, across, 1.0) if fixed is None else fixed
        kernel, residual = kernel + size * direction, residual - size * moved
    return kernel


def clip_rule(
    *,
    num_vectors: int = 1,
    power_iters: int = 10,
    two_sided: bool = False,
    step: Step = "line_search",
    inner_steps: int = 1,
    num_rounds: int = 100,
    tolerance: float | Array = 1e-3,
) -> KernelRule:
    """Lanczos from the last vectors, then :func:`clip_kernel`: what :func:`fastclip` does to one layer.

    Args:
      num_vectors: see :func:`fastclip`, as the others.
      power_iters: see there.
      two_sided: see there.
      step: see there.
      inner_steps: see there.
      num_rounds: see there.
      tolerance: see there.

    Raises:
      InputError: unusable knobs.
    """
    counts = {
        "num_vectors": num_vectors,
        "power_iters": power_iters,
        "inner_steps": inner_steps,
        "num_rounds": num_rounds,
    }
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"{name} of FastClip must be at least 1, got {value}")
    if step not in ("line_search", "reference"):
        raise InputError(f"unknown step {step!r}: choose line_search or reference")

    steps: dict[str, Any] = {"step": step, "inner_steps": inner_steps}

    def init(layer: Layer) -> ClipState:
        operator = layer_map(layer, composite=False)
        count = min(
            num_vectors,
            power_iters,
            math.prod(operator.in_shape),
            math.prod(operator.out_shape),
        )
        vectors = start_vectors(0, count, operator.in_shape)
        vectors /= jnp.sqrt(
            jnp.sum(vectors**2, tuple(range(1, vectors.ndim)), keepdims=True)
        )
        return ClipState(vectors, jnp.zeros(len(vectors)))

    def update(
        layer: Layer, max_norm: Norm, state: ClipState
    ) -> tuple[Array, ClipState]:
        def look(kernel: Array, state: ClipState, done: Array) -> ClipState:
            matvec = layer_map(layer, kernel, composite=False).matvec
            scout = start_vectors(done, 1, state.vectors.shape[1:])[0]
            count = len(state.vectors)
            start = jnp.sum(state.vectors, 0) + scout * jnp.sqrt(
                count / jnp.sum(scout**2)
            )
            sigma, _, vectors = golub_kahan(matvec, start, num_iters=power_iters)
            return ClipState(vectors[:count], sigma[:count])

        def outside(carry: tuple[Array, ClipState, Array]) -> Array:
            ratio = carry[1].sigma[0] / max_norm - 1
            return ((jnp.abs(ratio) if two_sided else ratio) > tolerance) & (
                carry[2] < num_rounds
            )

        def round_(
            carry: tuple[Array, ClipState, Array],
        ) -> tuple[Array, ClipState, Array]:
            kernel, state, done = carry
            now = dataclasses.replace(layer, kernel=kernel)
            kernel = clip_kernel(
                now, state.vectors, max_norm=max_norm, two_sided=two_sided, **steps
            )
            return kernel, look(kernel, state, done + 1), done + 1

        zero = jnp.zeros((), jnp.int32)
        start = (layer.kernel, look(layer.kernel, state, zero), zero)
        kernel, state, _ = lax.while_loop(outside, round_, start)
        return kernel, state

    return KernelRule(init, update)


def fastclip(
    model: Model | ApplyFn,
    sample: Any,
    *,
    max_norm: Norm = 1.0,
    period: int = 100,
    num_vectors: int = 1,
    power_iters: int = 10,
    composite: bool = True,
    two_sided: bool = False,
    step: Step = "line_search",
    inner_steps: int = 1,
    num_rounds: int = 100,
    tolerance: float | Array = 1e-3,
    max_norms: Mapping[str, Norm | None] | None = None,
    num_steps: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """FastClip as the last transformation of a chain: every ``period`` steps the norms of all layers are clipped.

    New weights are ``params + updates``. Every ``period`` steps each layer is looked at
    and its directions that are too long are shortened (:func:`clip_kernel`), until its
    estimate is inside. Layers, kernels' scales by BatchNorm and what a composite means
    are those of :func:`unlearn_jax.spectral.project`.

    Between two clips the optimizer moves the weights where it likes, as far as its rate
    times the period. So norms hold at the end of a training whose rate has decayed by
    then, or whose last step clips (``num_steps``), or after :func:`clip`; to hold them
    all along, the period must be short. Report what
    :func:`unlearn_jax.spectral.spectral_norms` finds.

    With BatchNorm, clips cost more accuracy: where a channel's composite kernel has
    length ``l`` and its gain is ``g``, a step changes that length ``(l / g)^2`` times
    as much as it would without BatchNorm, and small norms need small gains. Networks
    then swing further between clips. Shorter periods, lower rates and larger targets
    help.

    The released code differs: it clips layer and layer with BatchNorm one after the
    other, the latter in training mode on a batch of one made-up image, so that its
    target means nothing and the statistics are spoiled; it takes steps of fixed length,
    one per clip, which holds no norm before the learning rate has decayed; and it looks
    by PowerQR, at every step, whose vectors after a clip are the directions just
    shortened, so that it must draw new ones. Here a look is a few Lanczos iterations
    (:func:`unlearn_jax.spectral.lanczos`) around a clip only, from the last vectors and
    a random direction, as a new longest direction may be orthogonal to all that was
    tracked.

    Args:
      model: a model, or the ``apply`` of one without BatchNorm. It takes no part but in
        the shapes of its pass.
      sample: ``[B, H, W, ch]``; only its shape is read.
      max_norm: the target ``c`` of every layer, positive; 1 in the paper.
      period: training steps between clips; 100 in the released code, 50 with BatchNorm.
      num_vectors: K, directions that are shortened at once; 1 in the released code. At
        most ``power_iters``; a layer with fewer inputs or outputs has fewer.
      power_iters: Lanczos iterations each time it looks, before and after a clip; 10
        (of PowerQR) in the released code.
      composite: clip a layer and the BatchNorm after it as one map; needs
        ``model_state`` in ``update``. Without, the layer alone, and BatchNorm is left
        at large. Composites settle late, once the layers before them do (their
        statistics follow those), and cost much accuracy at small targets.
      two_sided: layers below the target are raised to it, as the released code raises
        convolutions.
      step: ``line_search`` or ``reference``, see :func:`clip_kernel`.
      inner_steps: see there; 1 in the released code, 5 with BatchNorm.
      num_rounds: at most this many times a layer is clipped and looked at again, until
        it is inside; 1 in the released code, where a layer is wherever the optimizer
        and one step leave it.
      tolerance: a layer whose estimated norm exceeds its target by less than this,
        relative, is left as it is.
      max_norms: targets by path of the layer's weight, such as
        ``{"params/Dense_0/kernel": None}``; None leaves a layer alone. Paths not named
        have ``max_norm``.
      num_steps: of the whole training: its last step clips too, wherever in a period it
        is. None if not known.

    Returns:
      The transformation. Its ``update`` needs ``params`` and takes ``model_state``; its
      state is a :class:`unlearn_jax.spectral.ProjectionState` of :class:`ClipState` by
      layer. Vectors start at the same normal draws always, so a run repeats itself.

    Raises:
      InputError: unusable knobs; at ``init``, a path in ``max_norms`` that is no
        layer's.
    """
    rule = clip_rule(
        num_vectors=num_vectors,
        power_iters=power_iters,
        two_sided=two_sided,
        step=step,
        inner_steps=inner_steps,
        num_rounds=num_rounds,
        tolerance=tolerance,
    )
    targets = Targets(max_norm, max_norms)
    return projection(
        model,
        sample,
        rule,
        targets,
        period=period,
        composite=composite,
        num_steps=num_steps,
    )


def clip(
    model: Model | ApplyFn,
    variables: Variables,
    sample: Any,
    *,
    max_norm: Norm = 1.0,
    num_rounds: int = 200,
    tolerance: float = 0.005,
    num_vectors: int = 4,
    power_iters: int = 30,
    composite: bool = True,
    max_norms: Mapping[str, Norm | None] | None = None,
) -> Variables:
    """Clips every layer of a trained model until its largest singular value is within the tolerance of the target.

    Rounds of Lanczos and :func:`clip_kernel` for each layer until the estimate is at
    most ``(1 + tolerance) * max_norm``. Layers inside that keep their bits. Compiled
    once per model, shapes and static knobs.

    Args:
      model: a model, or its ``apply``.
      variables: of the model.
      sample: ``[B, H, W, ch]``; only its shape is read.
      max_norm: see :func:`fastclip`.
      num_rounds: at most, per layer.
      tolerance: relative; the estimate is from below, so the true norm may be slightly
        above it.
      num_vectors: directions per round.
      power_iters: iterations per round.
      composite: see :func:`fastclip`.
      max_norms: see there.

    Returns:
      The variables with new weights; statistics and biases are left alone, so a model
      with BatchNorm may do better once its statistics are estimated again (which moves
      its norms).

    Raises:
      InputError: unusable knobs.
    """
    targets = Targets(max_norm, max_norms)
    numbers = (targets.max_norm, dict(targets.max_norms or {}))
    shape = (1, *sample.shape[1:])
    apply = model.apply if isinstance(model, Model) else model
    return _clip(
        apply,
        shape,
        num_rounds,
        num_vectors,
        power_iters,
        composite,
        variables,
        numbers,
        tolerance,
    )


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5))
def _clip(
    apply: ApplyFn,
    shape: tuple[int, ...],
    num_rounds: int,
    num_vectors: int,
    power_iters: int,
    composite: bool,
    variables: Variables,
    numbers: tuple[Norm, dict[str, Norm | None]],
    tolerance: float,
) -> Variables:
    rule = clip_rule(
        num_vectors=num_vectors,
        power_iters=power_iters,
        num_rounds=num_rounds,
        tolerance=tolerance,
    )
    sample = jax.ShapeDtypeStruct(shape, jnp.float32)
    return project(
        apply, variables, sample, rule, Targets(*numbers), composite=composite
    )[0]
