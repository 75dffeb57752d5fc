"""Published rules and bounds for a layer's spectral norm, to compare with FastClip.

One application leaves a convolution's true norm above the target, for the reasons that
each docstring gives. Repeated applications of some rules come close, but also shrink
directions that were below the target. So report the norms that
:func:`unlearn_jax.spectral.spectral_norms` measures. The rules replace FastClip's in
:func:`unlearn_jax.spectral.projection` (last in an optimizer's chain) and
:func:`unlearn_jax.spectral.project` (once).
"""

import math

import chex
import jax
import jax.numpy as jnp

from unlearn_jax import linalg
from unlearn_jax.checks import check_counts
from unlearn_jax.layers import Layer
from unlearn_jax.models.conv import canonical_conv
from unlearn_jax.spectral._power_qr import power_qr
from unlearn_jax.spectral._projection import KernelRule, Norm
from unlearn_jax.spectral.operators import layer_map
from unlearn_jax.types import Array, InputError


def miyato() -> KernelRule:
    """Return the rule of spectral normalization (Miyato et al., arXiv 1802.05957).

    ``W <- c W / sigma(W)`` is always applied: layers below the target are raised to it.

    ``sigma`` is the norm of the kernel as a matrix ``[kh kw in, out]``. For a dense
    layer that is the layer's norm. For a convolution it is not: the true norm ends
    above ``c``, by a factor of up to 1.8 for 3x3 kernels. The original divides in the
    forward pass, and estimates by one power iteration per step, which approximates the
    exact value used here. Apply the rule at every step (``period=1``).
    """

    def update(
        layer: Layer, max_norm: Norm, state: tuple[()]
    ) -> tuple[Array, tuple[()]]:
        kernel = linalg.at_least_float32(layer.kernel)
        matrix = kernel.reshape(-1, kernel.shape[-1])
        small = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
        gram = linalg.product(small, small.T)
        # hundreds of times faster than the singular values
        square = linalg.eigvalsh(gram)[-1]
        sigma = jnp.sqrt(jnp.maximum(square, 0.0))
        scaled = kernel * (max_norm / jnp.where(sigma > 0, sigma, 1.0))
        return scaled.astype(layer.kernel.dtype), state

    return KernelRule(lambda layer: (), update)


def gouk(*, num_iters: int = 5) -> KernelRule:
    """Return the rescaling rule (Gouk et al., arXiv 1804.04368).

    ``W <- W / max(1, sigma / c)``, where ``sigma`` is the norm of the map itself. The
    estimate comes from a few iterations with a new random start, so it is below the
    true norm (0.81 to 0.98 of it for five iterations), and the true norm ends above
    ``c`` by the same factor. All singular values shrink, not only the largest. The
    original applies the rule after every step (``period=1``). Its code ignores dilation
    and padding modes, which are honored here.

    Args:
      num_iters: number of iterations; 5 in the original's comparison.

    Raises:
      InputError: fewer than one iteration.
    """
    check_counts(num_iters=num_iters)

    def update(layer: Layer, max_norm: Norm, count: Array) -> tuple[Array, Array]:
        operator = layer_map(layer, composite=False)
        key = jax.random.fold_in(jax.random.key(0), count)
        start = jax.random.normal(key, (1, *operator.in_shape))
        sigma = power_qr(operator.matvec, start, num_iters=num_iters).sigma[0]
        factor = jnp.minimum(1.0, max_norm / jnp.where(sigma > 0, sigma, max_norm))
        return layer.kernel * factor, count + 1

    return KernelRule(lambda layer: jnp.zeros((), jnp.int32), update)


def sedghi() -> KernelRule:
    """Return the FFT clip: clip the spectrum on a torus, then cut the kernel to size.

    For stride 1 this is the rule of Sedghi et al. (arXiv 1805.10408); for larger
    strides it uses the blocks of Senderovich et al. (arXiv 2211.13771), see
    :func:`frequency_blocks`. Dense layers are clipped by their singular value
    decomposition. The rule is inexact for two reasons: images are not padded
    circularly, and the clipped operator is not a convolution of the kernel's size, so
    that cutting raises its norm again (to 1.2 to 1.6 times the target for random 3x3
    kernels). Each clip decomposes as many matrices as the layer has output positions.
    On CPU, a program with this rule was observed to hang when models were trained on
    two devices at once: use one device (``mapper(devices=1)``).

    Raises:
      InputError: raised on use, for a convolution with groups or dilation, or one that
        does not have two axes.
    """

    def update(
        layer: Layer, max_norm: Norm, state: tuple[()]
    ) -> tuple[Array, tuple[()]]:
        kernel = linalg.at_least_float32(layer.kernel)
        if layer.kind == "dense":
            clipped = _clip_singular_values(kernel, max_norm)
        else:
            size, strides = _torus(layer)
            clipped = fft_clip(kernel, size, strides=strides, max_norm=max_norm)
        return clipped.astype(layer.kernel.dtype), state

    return KernelRule(lambda layer: (), update)


def frequency_blocks(
    kernel: Array, size: tuple[int, int], *, strides: tuple[int, int] = (1, 1)
) -> Array:
    """Return the blocks into which Fourier transforms split a convolution on a torus.

    The singular values of all blocks are those of the operator. For stride 1 there is
    one ``[in, out]`` matrix per frequency. With strides ``s, t``, the ``s t``
    frequencies that subsampling maps to one are stacked and divided by ``sqrt(s t)``.

    Args:
      kernel: ``[kh, kw, in, out]``, no larger than the torus.
      size: ``(H, W)``, size of the torus, multiples of the strides.
      strides: strides of the convolution.

    Returns:
      ``[H / s, W / t, s t in, out]`` complex.

    Raises:
      InputError: a size that is not a multiple of the strides, or is smaller than the
        kernel.
    """
    chex.assert_rank(kernel, 4)
    height, width = size
    s, t = strides
    kh, kw, into, out = kernel.shape
    if height % s or width % t or height < kh or width < kw:
        raise InputError(
            f"a torus of {height} x {width} must hold the {kh} x {kw} kernel and be a"
            f" multiple of the strides {s}, {t}"
        )
    spectrum = jnp.fft.fft2(kernel, size, axes=(0, 1)).reshape(
        s, height // s, t, width // t, into, out
    )
    return spectrum.transpose(1, 3, 0, 2, 4, 5).reshape(
        height // s, width // t, s * t * into, out
    ) / math.sqrt(s * t)


def fft_clip(
    kernel: Array,
    size: tuple[int, int],
    *,
    strides: tuple[int, int] = (1, 1),
    max_norm: Norm,
) -> Array:
    """Clip the singular values on a torus, and cut the kernel to its size.

    Args:
      kernel: ``[kh, kw, in, out]``.
      size: ``(H, W)``, size of the torus, multiples of the strides.
      strides: strides of the convolution.
      max_norm: largest singular value, positive.

    Returns:
      An array like ``kernel``. If ``size`` is that of the kernel, nothing is cut, and
      the norm on that torus is exact.
    """
    chex.assert_rank(kernel, 4)
    height, width = size
    s, t = strides
    kh, kw, into, out = kernel.shape
    blocks = frequency_blocks(kernel, size, strides=strides)
    blocks = _clip_singular_values(blocks, max_norm) * math.sqrt(s * t)
    spectrum = blocks.reshape(height // s, width // t, s, t, into, out).transpose(
        2, 0, 3, 1, 4, 5
    )
    whole = jnp.fft.ifft2(spectrum.reshape(height, width, into, out), axes=(0, 1)).real
    return whole[:kh, :kw]


def gram_bound(kernel: Array, size: tuple[int, int], *, num_iters: int = 6) -> Array:
    """Bound the norm of a convolution on a torus (Delattre et al., arXiv 2305.16173).

    The Gram iteration is ``max_w |G_w|_F^(1 / 2^t)`` over the frequencies after ``t``
    iterations of ``G <- G^H G``; it converges quadratically from above. It is a bound
    for stride 1 and circular padding (to about 2% for zero padding), and a loose one
    for larger strides. It is **not** a bound for reflected or repeated borders, where
    it can be a tenth too low.

    Args:
      kernel: ``[kh, kw, in, out]``.
      size: ``(H, W)``, size of the image.
      num_iters: number of iterations ``t``; 6 in the released code.

    Returns:
      ``[]``, 0 for a kernel of zeros.

    Raises:
      InputError: a negative number of iterations.
    """
    check_counts(0, num_iters=num_iters)
    gram = frequency_blocks(kernel, size)
    log_scale = jnp.zeros(size)
    for _ in range(num_iters):
        norm = jnp.linalg.norm(gram, axis=(-2, -1))
        safe = jnp.where(norm > 0, norm, 1.0)
        gram = gram / safe[..., None, None]
        gram = linalg.product(gram.conj().swapaxes(-1, -2), gram)
        log_scale = 2 * (log_scale + jnp.log(safe))
    log_norm = jnp.log(jnp.linalg.norm(gram, axis=(-2, -1))) + log_scale
    return jnp.exp(jnp.max(log_norm) / 2**num_iters)


def delattre_bound(kernel: Array, *, num_iters: int = 4) -> Array:
    """Bound the norm of a zero-padded convolution on images of any size.

    This is the Gram iteration on kernels (arXiv 2402.00240): ``K <- K^T * K`` without
    cutting, ``t`` times, then ``(max_i sum_{j, a, b} |K_t[a, b, i, j]|)^(1 / 2^t)``.
    The bound also holds for circular padding and larger strides (1.4 times too large
    for stride 2). It is **not** a bound for reflected or repeated borders.

    Args:
      kernel: ``[kh, kw, in, out]``.
      num_iters: number of iterations ``t``, at least 1; the kernel's side grows by a
        factor of ``2^t``.

    Returns:
      ``[]``, 0 for a kernel of zeros.

    Raises:
      InputError: fewer than one iteration.
    """
    check_counts(num_iters=num_iters)
    chex.assert_rank(kernel, 4)
    if kernel.shape[2] > kernel.shape[3]:
        # the adjoint has the same norm, and iterates on the smaller side
        kernel = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    # powers of norms would overflow, so each step's length is kept as a logarithm
    log_scale = jnp.zeros(())
    for _ in range(num_iters):
        norm = jnp.linalg.norm(kernel.ravel())
        safe = jnp.where(norm > 0, norm, 1.0)
        kernel = _gram(kernel / safe)
        log_scale = 2 * (log_scale + jnp.log(safe))
    rows = jnp.sum(jnp.abs(kernel), (0, 1, 3))
    return jnp.exp((jnp.log(jnp.max(rows)) + log_scale) / 2**num_iters)


def _gram(kernel: Array) -> Array:
    """Return the kernel ``[2 kh - 1, 2 kw - 1, in, in]`` of a map and its adjoint."""
    rows = kernel.shape[0] - 1
    cols = kernel.shape[1] - 1
    images = kernel.transpose(2, 0, 1, 3)  # one image per input, a channel per output
    taps = kernel.transpose(0, 1, 3, 2)
    return canonical_conv(images, taps, (1, 1), ((rows, rows), (cols, cols))).transpose(
        1, 2, 0, 3
    )


def _clip_singular_values(matrix: Array, max_norm: Norm) -> Array:
    factorize = linalg.svd
    for _ in matrix.shape[:-2]:
        factorize = jax.vmap(factorize)
    left, sigma, right = factorize(matrix)
    excess = jnp.maximum(sigma - max_norm, 0.0)
    excess = excess[..., None, :].astype(left.dtype)
    return matrix - linalg.product(left * excess, right)


def _torus(layer: Layer) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the smallest torus for a convolution, and the strides.

    The torus holds the images and the kernel, and its size is a multiple of the
    strides.
    """
    options = layer.options
    is_plain = (
        tuple(options["rhs_dilation"]) == tuple(options["lhs_dilation"]) == (1, 1)
        and options["feature_group_count"] == 1
    )
    if layer.kernel.ndim != 4 or not is_plain:
        raise InputError(
            "the FFT clip needs a convolution over two axes without groups or dilation,"
            f" unlike {layer.path!r}; set its norm to None"
        )
    s, t = options["window_strides"]
    images = (
        layer.inputs.shape[1:3] if layer.copies is None else layer.copies.shape[1:3]
    )
    height, width = (
        max(a, b) for a, b in zip(images, layer.kernel.shape[:2], strict=True)
    )
    return (-(-height // s) * s, -(-width // t) * t), (s, t)
