"""FastClip: clip every layer's largest singular values to a target.

"Spectrum Extraction and Clipping for Implicitly Linear Layers", arXiv 2402.16017, and
section 3.3.2 of arXiv 2512.06993.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.core import Tracer

from unlearn_jax.branching import any_mapped, cond
from unlearn_jax.checks import check_counts, check_not_negative
from unlearn_jax.layers import Layer
from unlearn_jax.spectral._power_qr import Method, Spectrum, estimate_all
from unlearn_jax.spectral._projection import (
    Norm,
    Targets,
    project,
    projection,
    trained_layers,
)
from unlearn_jax.spectral.norms import (
    blank_image,
    named,
    start_vectors,
    warn_at_caller,
)
from unlearn_jax.spectral.operators import layer_map, layer_product
from unlearn_jax.types import (
    ApplyFn,
    Array,
    InputError,
    ModelState,
    PyTree,
    check_apply_fn,
)
from unlearn_jax.values import Real, value

REFERENCE_STEP = 0.35
Step = Literal["line_search", "reference"]


class ClipState(NamedTuple):
    """State of one layer's spectrum.

    Attributes:
      vectors: ``[K, *in_shape]``, orthonormal right singular vectors; random before the
        first application.
      sigma: ``[K]``, singular values after the last application in descending order,
        estimated from below; zero before the first application.
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
    num_inner_steps: int = 1,
) -> Array:
    """Change a layer's kernel so that it stretches given directions by ``max_norm``.

    This is least squares in the space of kernels. The change ``D`` of the map ``M``
    minimizes ``sum_j |D v_j - (c / sigma_j - 1) M v_j|^2`` over the directions with
    ``sigma_j = |M v_j| > c``, by conjugate gradients from 0. The first step has the
    direction of the reference's gradient, and the exact length
    ``|g|^2 / (2 sum_j |g v_j|^2)``, since the loss is quadratic in the kernel. For a
    dense layer one step is exact, ``W - sum_j (sigma_j - c) u_j v_j^T``, and no other
    singular value changes. A convolution cannot change one direction alone; the step is
    the closest change that its kernel allows.

    Args:
      layer: layer from :func:`unlearn_jax.layers.layers`; its ``scale`` is not applied.
      vectors: ``[K, *in_shape]``, the layer's right singular vectors, orthonormal.
      max_norm: target ``c``, positive.
      two_sided: also raise the first direction to ``c`` if it is below, as the
        reference does for convolutions.
      step: ``line_search`` takes steps of exact length. ``reference`` takes plain
        gradient steps of length 0.35 on a loss that is a mean over directions and over
        the output's width, as the released code does; it is slower by a factor of ten
        and more, and depends on the image's size.
      num_inner_steps: number of steps.

    Returns:
      The new kernel; unchanged to the bit if no direction is too long.
    """
    kernel = layer.kernel.astype(jnp.float32)
    chex.assert_shape(vectors, (None, *layer_map(layer).in_shape))

    def stretch(kernel: Array) -> Array:
        return layer_product(layer, vectors, kernel, composite=False)

    images, pull_back = jax.vjp(stretch, kernel)
    sigma = jnp.sqrt(jnp.sum(images**2, tuple(range(1, images.ndim))))
    is_active = sigma > max_norm
    if two_sided:
        is_active |= (jnp.arange(len(sigma)) == 0) & (sigma > 0)
    safe = jnp.where(is_active, sigma, 1.0)
    change = jnp.where(is_active, max_norm / safe - 1, 0.0)
    residual = change.reshape(-1, *[1] * (images.ndim - 1)) * images
    width = images.shape[2] if layer.kind == "conv" else 1
    fixed = 2 * REFERENCE_STEP / (len(vectors) * width)
    length = fixed if step == "reference" else None
    moved = _descend(kernel, residual, stretch, pull_back, length, num_inner_steps)
    return moved.astype(layer.kernel.dtype)


def _descend(
    kernel: Array,
    residual: Array,
    stretch: Callable[[Array], Array],
    pull_back: Callable[[Array], tuple[Array]],
    length: float | None,
    num_steps: int,
) -> Array:
    """Solve the least squares by conjugate gradients on the normal equations (CGLS).

    Steps of a fixed ``length`` are plain gradient descent.
    """
    direction = jnp.zeros_like(kernel)
    last_square = jnp.ones(())
    for index in range(num_steps):
        (gradient,) = pull_back(residual)
        square = jnp.sum(gradient**2)
        is_conjugate = index > 0 and length is None
        safe = jnp.where(last_square > 0, last_square, 1.0)
        direction = gradient + (square / safe if is_conjugate else 0.0) * direction
        last_square = square
        moved = stretch(direction)
        curvature = jnp.sum(moved**2)
        exact = square / jnp.where(curvature > 0, curvature, 1.0)
        size = exact if length is None else length
        kernel = kernel + size * direction
        residual = residual - size * moved
    return kernel


@value
class ClipRule:
    """FastClip of one layer: estimate its spectrum, then :func:`clip_kernel`.

    A :class:`unlearn_jax.spectral.Rule`.

    Each estimate starts at the vectors of the last estimate and at a random direction,
    since a new longest direction may be orthogonal to all tracked vectors.

    ``lanczos`` runs Golub-Kahan-Lanczos from the sum of these vectors; ``power_qr`` is
    algorithm 1 of the paper, block power iteration from the block of them. They were
    measured on two busy CPU cores, for a dense layer of 512 x 512 and K = 1, with noise
    of 5% of the kernel's length between clips. Ten iterations of PowerQR take 2.3 times
    as long as ten of Lanczos. They end 1.0% below the true norm and Lanczos 0.5% below
    it, so that true norms are up to 1.3% and 0.7% above the target. Thirty iterations
    of PowerQR are as close as Lanczos in 7 times the time; one iteration takes as long
    as ten of Lanczos and is 3.9% off. Prefer Lanczos; PowerQR is for comparisons with
    the paper (``experiments/benchmarks/spectral.py --estimators``).

    Attributes:
      num_vectors: number of directions that are shortened at once, K; 1 in the released
        code. It is capped at ``num_iters`` with Lanczos, and at a layer's numbers of
        inputs and outputs.
      num_iters: iterations of an estimate; 10 (of PowerQR) in the released code. There
        is one estimate before and one after each clip.
      estimator: ``lanczos`` or ``power_qr``, described above.
      two_sided: raise layers below the target to it, as the released code does for
        convolutions.
      step: ``line_search`` or ``reference``; see :func:`clip_kernel`.
      num_inner_steps: gradient steps per clip; 1 in the released code, 5 with
        BatchNorm.
      num_rounds: largest number of rounds in which a layer is clipped and estimated
        again until its estimate is at most the target; 1 in the released code, where
        one step may leave a layer above the target.
      tolerance: relative excess of a layer's estimated norm over its target below which
        the layer is left unchanged.

    >>> ClipRule(num_vectors=0)
    Traceback (most recent call last):
    ...
    unlearn_jax.types.InputError: num_vectors must be a positive integer, got 0
    """

    num_vectors: int = 1
    num_iters: int = 10
    estimator: Method = "lanczos"
    two_sided: bool = False
    step: Step = "line_search"
    num_inner_steps: int = 1
    num_rounds: int = 100
    tolerance: Real = 1e-3

    def __post_init__(self) -> None:
        check_counts(
            num_vectors=self.num_vectors,
            num_iters=self.num_iters,
            num_inner_steps=self.num_inner_steps,
            num_rounds=self.num_rounds,
        )
        check_not_negative(tolerance=self.tolerance)

    def init(self, layer: Layer) -> ClipState:
        """Draw the vectors to start from; only shapes are read."""
        operator = layer_map(layer, composite=False)
        sizes = (math.prod(operator.in_shape), math.prod(operator.out_shape))
        most = self.num_iters if self.estimator == "lanczos" else self.num_vectors
        count = min(self.num_vectors, most, *sizes)
        vectors = start_vectors(0, count, operator.in_shape)
        vectors /= jnp.sqrt(
            jnp.sum(vectors**2, tuple(range(1, vectors.ndim)), keepdims=True)
        )
        return ClipState(vectors, jnp.zeros(len(vectors)))

    def update(
        self,
        layers: Sequence[Layer],
        max_norms: Sequence[Norm],
        states: Sequence[ClipState],
    ) -> tuple[list[Array], list[ClipState]]:
        """Clip layers until their estimates are within the targets.

        All layers take rounds together, so that an estimate is compiled once for many
        layers; a layer within its target is skipped.

        Args:
          layers: layers with different weights and without a scale.
          max_norms: targets of the layers.
          states: states after the last application.

        Returns:
          The kernels (unchanged to the bit for a layer within its target) and the
          states.
        """
        targets = jnp.stack([jnp.asarray(norm, jnp.float32) for norm in max_norms])

        def one_round(carry: tuple[Any, ...]) -> tuple[Any, ...]:
            kernels, states, is_outside, num_done = carry
            clipped = []
            for index, layer in enumerate(layers):
                moved = cond(
                    is_outside[index] & (num_done > 0),
                    partial(self._clip, layer, target=targets[index]),
                    lambda kernel, vectors: kernel,
                    kernels[index],
                    states[index].vectors,
                )
                clipped.append(moved)
            states = self._estimate(layers, clipped, states, is_outside, num_done)
            sigma = jnp.stack([state.sigma[0] for state in states])
            is_outside &= self._excess(sigma, targets) > self.tolerance
            return clipped, states, is_outside, num_done + 1

        def is_unfinished(carry: tuple[Any, ...]) -> Array:
            _, _, is_outside, num_done = carry
            return any_mapped(jnp.any(is_outside) & (num_done <= self.num_rounds))

        start = (
            [layer.kernel for layer in layers],
            list(states),
            jnp.ones(len(layers), bool),
            jnp.zeros((), jnp.int32),
        )
        kernels, states, _, _ = lax.while_loop(is_unfinished, one_round, start)
        return kernels, list(states)

    def _excess(self, sigma: Array, target: Norm) -> Array:
        excess = sigma / target - 1
        return jnp.abs(excess) if self.two_sided else excess

    def _clip(
        self, layer: Layer, kernel: Array, vectors: Array, *, target: Array
    ) -> Array:
        return clip_kernel(
            dataclasses.replace(layer, kernel=kernel),
            vectors,
            max_norm=target,
            two_sided=self.two_sided,
            step=self.step,
            num_inner_steps=self.num_inner_steps,
        )

    def _estimate(
        self,
        layers: Sequence[Layer],
        kernels: Sequence[Array],
        states: Sequence[ClipState],
        is_due: Array,
        num_done: Array,
    ) -> list[ClipState]:
        """Estimate from the last vectors and a random one, the same for all layers."""
        sizes = [state.vectors[0].size for state in states]
        draw = start_vectors(num_done, 1, (max(sizes),))[0]
        starts = []
        for state, size in zip(states, sizes, strict=True):
            vectors = state.vectors
            scout = draw[None, :size].reshape(1, *vectors.shape[1:])
            if self.estimator == "power_qr":
                starts.append(jnp.concatenate([vectors, scout]))
            else:
                length = jnp.sqrt(len(vectors) / jnp.sum(scout**2))
                starts.append(jnp.sum(vectors, 0, keepdims=True) + scout * length)
        spectra = estimate_all(
            [
                layer_map(layer, kernel, composite=False)
                for layer, kernel in zip(layers, kernels, strict=True)
            ],
            starts,
            [Spectrum(state.sigma, state.vectors) for state in states],
            is_due,
            method=self.estimator,
            num_iters=self.num_iters,
        )
        return [ClipState(each.vectors, each.sigma) for each in spectra]


def fastclip(
    apply_fn: ApplyFn,
    sample: Any,
    *,
    max_norm: Norm = 1.0,
    period: int = 100,
    rule: ClipRule = ClipRule(),  # noqa: B008
    composite: bool = True,
    max_norms: Mapping[str, Norm | None] | None = None,
    num_steps: int | None = None,
    model_state: ModelState | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Return FastClip, a transformation that bounds every layer's spectral norm.

    Place it last in a chain. The new weights are ``params + updates``. Every ``period``
    steps each layer's spectrum is estimated, and directions that are too long are
    shortened until the estimate is at most the target (:class:`ClipRule`). Layers,
    scales by BatchNorm and composites are those of
    :func:`unlearn_jax.spectral.project`. ``init`` warns of trained arrays that the
    transformation leaves unchanged.

    ``apply_fn`` takes the ``params`` of ``update``, so that a plain loop with Linen or
    NNX needs nothing else. For a model with a separate state, pass ``model_state``:
    ``apply_fn`` then takes ``Variables(params, model_state)``, and ``update`` takes the
    current state as an extra argument.

    Between two clips the optimizer moves the weights freely, over a distance that grows
    with its rate and the period. So norms are bounded at the end of a training if its
    rate has decayed by then, if its last step clips (``num_steps``), or after
    :func:`clip`. For bounds throughout the training, the period must be short. Report
    the norms that :func:`unlearn_jax.spectral.spectral_norms` measures.

    With BatchNorm, clips cost more accuracy. If a channel's composite kernel has length
    ``l`` and its gain is ``g``, a step changes that length ``(l / g)^2`` times as much
    as without BatchNorm, and small norms need small gains. Norms then vary more between
    clips. Shorter periods, lower rates and larger targets help.

    The released code differs in three points. It clips first the layer and then the
    layer with BatchNorm; the latter runs in training mode on a batch of one artificial
    image, so that its target is meaningless and the statistics are spoiled. It takes
    one step of fixed length per clip, which does not bound norms before the learning
    rate has decayed. And it estimates by PowerQR at every step; after a clip, the
    vectors are the directions just shortened, so that it must draw new ones. Here a
    layer is estimated only before and after a clip, and every estimate has a new random
    direction.

    Args:
      apply_fn: ``(variables, images) -> logits`` in evaluation mode. Only the structure
        and the shapes of the forward pass matter, not its values.
      sample: ``[B, H, W, ch]``; only its shape is read.
      max_norm: target ``c`` of every layer, positive; 1 in the paper.
      period: training steps between clips; 100 in the released code, 50 with BatchNorm.
      rule: rule for one layer.
      composite: clip a layer and the BatchNorm after it as one map; needs
        ``model_state`` in ``update``. False clips the layer alone and does not bound
        BatchNorm. The statistics of a composite depend on the layers before it, so it
        settles after them; composites cost much accuracy at small targets.
      max_norms: targets by path of the layer's weight, such as
        ``{"params/Dense_0/kernel": None}``; None leaves a layer unchanged. Other paths
        have ``max_norm``.
      num_steps: number of steps of the whole training, whose last step also clips. If
        None, only the period decides.
      model_state: state of the model, or its shapes
        (:func:`unlearn_jax.spectral.state_shapes`); ``{}`` for a model of this library
        without state. None if ``apply_fn`` takes the parameters themselves.

    Returns:
      The transformation. Its ``update`` needs ``params`` and takes ``model_state``. Its
      state is a :class:`unlearn_jax.spectral.ProjectionState` with a :class:`ClipState`
      per layer. Vectors always start at the same normal draws, so runs are
      reproducible.

    Raises:
      InputError: unusable options; at ``init``, a path in ``max_norms`` that is not the
        path of a layer.
    """
    return projection(
        apply_fn,
        sample,
        rule,
        Targets(max_norm, max_norms),
        period=period,
        composite=composite,
        num_steps=num_steps,
        model_state=model_state,
    )


def clip(
    apply_fn: ApplyFn,
    variables: PyTree,
    sample: Any,
    *,
    max_norm: Norm = 1.0,
    rule: ClipRule = ClipRule(  # noqa: B008
        num_vectors=4, num_iters=30, num_rounds=10_000, tolerance=0.005
    ),
    composite: bool = True,
    max_norms: Mapping[str, Norm | None] | None = None,
) -> PyTree:
    """Clip every layer of a trained model to its target.

    Repeats an estimate and :func:`clip_kernel` for each layer until the estimate is at
    most ``(1 + tolerance) * max_norm``. The estimate is from below, so the true norm
    may be slightly above. Layers within that bound are unchanged to the bit. The
    function is compiled once per ``apply_fn``, shapes and static options. When it is
    compiled, it warns of trained arrays that it leaves unchanged. Unless it is traced,
    it also warns of layers that are above that bound after ``rule.num_rounds`` rounds.

    Args:
      apply_fn: ``(variables, images) -> logits`` in evaluation mode.
      variables: any pytree: Linen variables, an NNX state, or a bare tree of
        parameters.
      sample: ``[B, H, W, ch]``; only its shape is read.
      max_norm: target of every layer, positive.
      rule: rule for one layer.
      composite: clip a layer and the BatchNorm after it as one map.
      max_norms: targets by path of the layer's weight; None leaves a layer unchanged.

    Returns:
      The variables with new weights. Statistics and biases are unchanged, so a model
      with BatchNorm may improve if its statistics are estimated again (which changes
      its norms).

    Raises:
      InputError: unusable options, a layer whose weights are not finite, or a model
        instead of its function.

    >>> weights = {"w": jnp.diag(jnp.array([2.0, 0.5]))}
    >>> clipped = clip(lambda w, x: x @ w["w"], weights, jnp.zeros((1, 2)))
    >>> bool(jnp.allclose(clipped["w"], jnp.diag(jnp.array([1.0, 0.5])), atol=1e-3))
    True
    """
    check_apply_fn(apply_fn)
    targets = Targets(max_norm, max_norms)
    norms = (targets.max_norm, dict(targets.max_norms or {}))
    shape = blank_image(sample).shape
    clipped, excess = _clip(apply_fn, shape, composite, variables, rule, norms)
    _check_inside(excess, rule)
    return clipped


def _check_inside(excess: dict[str, Array], rule: ClipRule) -> None:
    """Warn of the layers that a clip leaves outside their targets.

    Args:
      excess: relative excess of each layer's estimated norm over its target, by name.
      rule: rule of the clip.

    Raises:
      InputError: an excess that is not finite.
    """
    if any(isinstance(one, Tracer) for one in excess.values()):
        return
    excess = jax.device_get(excess)
    if spoiled := [name for name, one in excess.items() if not np.isfinite(one)]:
        raise InputError(
            f"weights of {', '.join(spoiled)} are not finite: clip needs finite weights"
        )
    bound = np.float32(rule.tolerance)
    if outside := [name for name, one in excess.items() if one > bound]:
        warn_at_caller(
            f"not clipped to the target in {rule.num_rounds} rounds:"
            f" {', '.join(outside)}; raise num_rounds of the rule"
        )


@partial(jax.jit, static_argnums=(0, 1, 2))
def _clip(
    apply_fn: ApplyFn,
    shape: tuple[int, ...],
    composite: bool,
    variables: PyTree,
    rule: ClipRule,
    norms: tuple[Norm, dict[str, Norm | None]],
) -> tuple[PyTree, dict[str, Array]]:
    """Return the clipped variables, and each layer's excess over its target."""
    sample = jax.ShapeDtypeStruct(shape, jnp.float32)
    targets = Targets(*norms)
    clipped, memory = project(
        apply_fn, variables, sample, rule, targets, composite=composite
    )
    excess = {}
    for name, layer in named(trained_layers(apply_fn, variables, sample)).items():
        target = targets.of(layer)
        if target is not None:
            excess[name] = rule._excess(memory[name].sigma[0], target)
    return clipped, excess
