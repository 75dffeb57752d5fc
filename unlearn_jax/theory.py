"""Theorem 4.1 of AMUN (arXiv 2503.00917), measured on trained models; Lipschitz bounds.

Take one forget sample (x, y) with an adversarial example (x_adv, y_adv) at distance
delta, and a loss that is L-Lipschitz in the input. Let the empirical loss on D with
(x_adv, y_adv) be convex and beta-smooth in the parameters. Then one gradient step of
size 1/beta from the original model theta_o gives theta' with::

    ||theta' - theta_u||^2 <= ||theta_o - theta_u||^2 + (2 / beta) (L delta - C)

    C = loss(f_o(x_adv), y) + loss(f'(x_adv), y_adv)
        - loss(f_u(x), y) - loss(f_u(x_adv), y_adv)

where theta_u is the model retrained without the sample. No network meets the
assumptions (its loss is not convex, AMUN takes many steps, beta is unknown). So the
terms guarantee nothing; they show the sign of each effect.
"""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import lax

from unlearn_jax import linalg
from unlearn_jax.losses import cross_entropy
from unlearn_jax.train import batched_logits
from unlearn_jax.types import (
    ApplyFn,
    Array,
    AttackResult,
    Dataset,
    Params,
    PyTree,
    Variables,
    check_apply_fn,
    to_float,
)


class TheoremTerms(NamedTuple):
    """Terms of Theorem 4.1, one row per forget sample; losses in nats.

    Attributes:
      counted: ``[F]`` bool: the sample has an adversarial example and all its terms are
        finite.
      delta: ``[F]`` L2 distance of x_adv from x, for any norm of the attack. Smaller is
        better.
      original_adversarial: ``[F]`` loss(f_o(x_adv), y), the strength of the attack.
        Larger is better.
      original_clean: ``[F]`` loss(f_o(x), y); near 0 by assumption.
      unlearned_adversarial: ``[F]`` loss(f'(x_adv), y_adv); small where D_A is
        overfitted. Larger is better.
      retrained_clean: ``[F]`` loss(f_u(x), y), the generalization of the retrained
        model. Smaller is better.
      retrained_adversarial: ``[F]`` loss(f_u(x_adv), y_adv); small where D_A transfers.
        Smaller is better.
      combination: ``[F]`` C. Larger is better.
      transfer: ``[F]`` bool: the retrained model also gives x_adv the label y_adv.
      slope: ``[F]`` ``|loss(f_o(x_adv), y) - loss(f_o(x), y)| / delta``, a lower bound
        on L from this one segment; NaN where ``delta`` is 0.
      log10_lipschitz_bound: ``[]`` bound of the original model, from
        :func:`log10_lipschitz_bound`; the loss adds a factor of up to sqrt(2), which is
        0.15 in this logarithm.
      original_distance: ``[]`` ``||theta_o - theta_u||``.
      unlearned_distance: ``[]`` ``||theta' - theta_u||``.
    """

    counted: Array
    delta: Array
    original_adversarial: Array
    original_clean: Array
    unlearned_adversarial: Array
    retrained_clean: Array
    retrained_adversarial: Array
    combination: Array
    transfer: Array
    slope: Array
    log10_lipschitz_bound: Array
    original_distance: Array
    unlearned_distance: Array


def theorem_terms(
    apply_fn: ApplyFn,
    original: Variables,
    retrained: Variables,
    unlearned: Variables,
    forget: Dataset,
    adversarial: AttackResult,
) -> TheoremTerms:
    """Measure the terms of the theorem, in evaluation mode.

    The function may be jitted, and mapped over models.

    Args:
      apply_fn: ``(variables, images) -> logits`` of all three models.
      original: model trained on everything.
      retrained: model trained without the forget samples.
      unlearned: model unlearned by AMUN, or by any method for comparison.
      forget: ``[F]`` forget samples.
      adversarial: D_A of these samples on the original model, in the same order.

    Returns:
      The terms.

    Raises:
      InputError: a model instead of its apply function.
    """
    images = to_float(jnp.asarray(forget.images))
    labels = jnp.asarray(forget.labels)
    near = adversarial.images
    logits_original = batched_logits(apply_fn, original, near)
    logits_retrained = batched_logits(apply_fn, retrained, near)
    logits_unlearned = batched_logits(apply_fn, unlearned, near)
    original_clean = cross_entropy(batched_logits(apply_fn, original, images), labels)
    original_adversarial = cross_entropy(logits_original, labels)
    unlearned_adversarial = cross_entropy(logits_unlearned, adversarial.labels)
    retrained_clean = cross_entropy(batched_logits(apply_fn, retrained, images), labels)
    retrained_adversarial = cross_entropy(logits_retrained, adversarial.labels)
    delta = jnp.sqrt(jnp.sum((near - images) ** 2, axis=tuple(range(1, images.ndim))))
    # exactly 0 where nothing moved, despite the rounding of uint8 images
    delta = jnp.where(adversarial.distance > 0, delta, 0.0)
    combination = (
        original_adversarial
        + unlearned_adversarial
        - retrained_clean
        - retrained_adversarial
    )
    return TheoremTerms(
        counted=adversarial.success
        & jnp.isfinite(combination + original_clean + delta),
        delta=delta,
        original_adversarial=original_adversarial,
        original_clean=original_clean,
        unlearned_adversarial=unlearned_adversarial,
        retrained_clean=retrained_clean,
        retrained_adversarial=retrained_adversarial,
        combination=combination,
        transfer=jnp.argmax(logits_retrained, -1) == adversarial.labels,
        slope=jnp.abs(original_adversarial - original_clean)
        / jnp.where(delta > 0, delta, jnp.nan),
        log10_lipschitz_bound=log10_lipschitz_bound(original.params),
        original_distance=parameter_distance(original.params, retrained.params),
        unlearned_distance=parameter_distance(unlearned.params, retrained.params),
    )


def summarize_terms(terms: TheoremTerms) -> dict[str, Array]:
    """Return the means of the terms over the samples that count.

    Args:
      terms: result of :func:`theorem_terms`.

    Returns:
      Scalars by name. ``num_samples`` is the number of samples that count. Each
      per-sample term is averaged over the counted samples where it is finite, and NaN
      if there are none (``slope`` is not finite where ``delta`` is 0; ``transfer``
      becomes a fraction). ``excess`` is the mean of ``L delta - C`` with L measured
      along the segment; if it is negative, the theorem promises a step towards the
      retrained model. (With the bound on L instead, it would be vacuous for any
      network.) ``approach`` is ``||theta_o - theta_u||^2 - ||theta' - theta_u||^2``; it
      is positive if unlearning came nearer to the retrained model.
    """
    count = jnp.sum(terms.counted)
    per_sample = {
        name: value
        for name, value in terms._asdict().items()
        if value.ndim == 1 and name != "counted"
    }
    # slope * delta, also where delta is 0
    rise = jnp.abs(terms.original_adversarial - terms.original_clean)
    per_sample["excess"] = rise - terms.combination
    means = {}
    for name, value in per_sample.items():
        counted = terms.counted & jnp.isfinite(value)
        means[name] = jnp.sum(jnp.where(counted, value, 0.0)) / jnp.sum(counted)
    return {
        "num_samples": count,
        **means,
        "log10_lipschitz_bound": terms.log10_lipschitz_bound,
        "original_distance": terms.original_distance,
        "unlearned_distance": terms.unlearned_distance,
        "approach": terms.original_distance**2 - terms.unlearned_distance**2,
    }


def parameter_distance(params: Params, other: Params) -> Array:
    """Return the Euclidean distance ``[]`` between two models' parameters."""
    squares = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), params, other)
    return jnp.sqrt(sum(jax.tree.leaves(squares), jnp.zeros(())))


def neighbor_bound(
    kernel: Array, size: int, offset: Array | int, *, length: Array | float
) -> Array:
    """Return a bound on a circular convolution's stretch of a neighboring frequency.

    The bound is the reason why one direction per layer is enough for LOTOS. It is the
    k = 1 theorem (theorem 4.1 of arXiv 2410.05136, 3.4.3 of arXiv 2512.06993) with
    explicit constants. Circular convolutions in one dimension with one channel all have
    the waves ``exp(2 pi i w t / n)`` as singular vectors, and stretch them by
    ``|f(w)|``. For a kernel ``f`` of ``T`` taps, ``|f(w + p)|^2 - |f(w)|^2`` is the sum
    over pairs of taps of ``f_a f_b`` times a difference of cosines, which is at most
    ``2 pi p |a - b| / n``. Because ``2 |f_a f_b| <= f_a^2 + f_b^2``, and because the
    distances of one tap from all others add up to at most ``T (T - 1) / 2``::

        |f(w + p)|^2 <= |f(w)|^2 + pi (p / n) T (T - 1) |f|^2

    So if a layer hardly stretches the first direction of another layer, it also
    stretches the next ``p`` frequencies on either side little. Weight decay, which
    shortens ``f``, tightens the bound. Frequencies far away are not bounded. The
    constant is the best possible for two taps; for the worst kernel it could be 1.22
    times smaller with three taps, 1.42 with five, 1.51 with seven.

    Args:
      kernel: ``[T]`` taps of the layer that must not stretch.
      size: length ``n`` of the signal, at least ``T``.
      offset: number of steps ``p`` from the frequency whose stretch is known; any
        shape.
      length: factor by which the layer stretches the wave of that frequency; a scalar,
        or of the shape of ``offset``.

    Returns:
      A bound on the stretch of the wave ``offset`` steps away, of the shape of
      ``offset``.

    >>> one_tap = jnp.array([1.0])  # stretches all waves alike
    >>> float(neighbor_bound(one_tap, 8, 3, length=1.0))
    1.0
    """
    chex.assert_rank(kernel, 1)
    taps = kernel.shape[0]
    slope = math.pi / size * taps * (taps - 1) * jnp.sum(kernel**2)
    return jnp.sqrt(jnp.square(length) + slope * jnp.abs(jnp.asarray(offset)))


def log10_lipschitz_bound(params: Params) -> Array:
    """Return the sum over kernels of log10 of a bound on their operator norms, in L2.

    It is a logarithm because the product of a deep network's norms leaves the range of
    float32. Ten to that power is an upper bound on the Lipschitz constant of the logits
    in the image, for a plain chain of dense layers, convolutions (zero or circular
    padding, any stride), biases, ReLU and max pooling without overlap. It is **not** a
    bound for other networks: BatchNorm's scales are ignored, branches of a residual sum
    are multiplied as if in a chain, and normalization inside the model counts as 1. For
    them it is an index to compare models of one architecture. Even where it is a bound,
    it is exponentially loose in the depth. If a model is available,
    :func:`unlearn_jax.spectral.log10_lipschitz_product` of its layers' true norms is
    tighter and includes BatchNorm. This function needs only the weights and is cheap
    enough to be mapped over all models of a run.

    Args:
      params: every leaf ``[in, out]`` is a dense kernel, every ``[h, w, in, out]`` a
        convolution's; scalars and vectors (biases, BatchNorm) are ignored.

    Returns:
      ``[]``; 0 without a kernel, minus infinity where a kernel is zero, NaN where a
      leaf has three axes or more than four, for which no bound is known.

    >>> kernels = [100 * jnp.eye(3)] * 30  # 100 to the power of 30
    >>> round(float(log10_lipschitz_bound(kernels)), 3)
    60.0
    """
    bound = jnp.zeros(())
    for leaf in jax.tree.leaves(params):
        if leaf.ndim == 3 or leaf.ndim > 4:
            return jnp.full((), jnp.nan)
        if leaf.ndim > 1:
            leaf = linalg.at_least_float32(leaf)
            bound += jnp.log10(
                largest_singular_value(leaf) if leaf.ndim == 2 else conv_bound(leaf)
            )
    return bound


def local_slopes(apply_fn: ApplyFn, variables: PyTree, images: Array) -> Array:
    """Return the spectral norm of the logits' Jacobian at each image.

    No slope exceeds the Lipschitz constant in L2, so none exceeds a valid bound on it.

    Args:
      apply_fn: ``(variables, images) -> logits``.
      variables: variables of the model.
      images: ``[B, H, W, ch]`` float32.

    Returns:
      ``[B]``.

    Raises:
      InputError: a model instead of its apply function.
    """
    check_apply_fn(apply_fn)

    def slope(image: Array) -> Array:
        logits, pull_back = jax.vjp(lambda x: apply_fn(variables, x[None])[0], image)
        units = jnp.eye(len(logits), dtype=logits.dtype)
        rows = lax.map(lambda row: pull_back(row)[0].ravel(), units)
        rows = linalg.at_least_float32(rows)
        square = linalg.eigvalsh(linalg.product(rows, rows.T))[-1]
        return jnp.sqrt(jnp.maximum(square, 0.0))

    return lax.map(slope, images)


def conv_bound(kernel: Array) -> Array:
    """Return an upper bound on the operator norm of a convolution.

    Theorem 1 of Singla and Feizi, arXiv 1911.10258: ``sqrt(h w)`` times the smallest
    spectral norm of four ways to lay the kernel out as a matrix. The bound holds for
    every image size and stride, with zero or circular padding.

    Args:
      kernel: ``[h, w, in, out]``.

    Returns:
      ``[]``.
    """
    height, width, inputs, outputs = kernel.shape
    layouts = (
        kernel.transpose(3, 0, 2, 1).reshape(outputs * height, inputs * width),
        kernel.transpose(3, 1, 2, 0).reshape(outputs * width, inputs * height),
        kernel.transpose(3, 2, 0, 1).reshape(outputs, inputs * height * width),
        kernel.transpose(3, 0, 1, 2).reshape(outputs * height * width, inputs),
    )
    smallest = jnp.min(
        jnp.stack([largest_singular_value(layout) for layout in layouts])
    )
    return math.sqrt(height * width) * smallest


def largest_singular_value(matrix: Array) -> Array:
    """Return the largest singular value ``[]`` of a matrix.

    Args:
      matrix: ``[rows, columns]``.
    """
    chex.assert_rank(matrix, 2)
    # from the smaller Gram matrix; scaled, so that no square overflows or vanishes
    scale = jnp.maximum(jnp.max(jnp.abs(matrix)), jnp.finfo(matrix.dtype).tiny)
    scaled = matrix / scale
    wide = scaled if matrix.shape[0] <= matrix.shape[1] else scaled.T
    gram = linalg.product(wide, wide.T)
    return scale * jnp.sqrt(jnp.maximum(linalg.eigvalsh(gram)[-1], 0.0))
