"""The empirical neural tangent kernel ``K(x, x') = J(x) J(x')^T``, block by block, and what it says of two sets.

``J(x) [C, P]`` is the Jacobian of a model's outputs by its parameters. Jacobians are
made by reverse mode alone, and products ``J v`` by differentiating the reverse pass by
its cotangent, so that models with a custom VJP work too (the library's own convolution
has no forward mode).

Kernels come in two shapes, which every function of this room takes: ``[A, C, B, C]``,
or ``[A, B]`` where all outputs share one kernel and do not mix, ``K = k (x) I``: that
of the last layer, or of an infinitely wide network.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from unlearn_jax.spectral import lanczos
from unlearn_jax.train import to_float
from unlearn_jax.types import Array, InputError, Model, ModelState, Params, Variables

OutputFn = Callable[[Params, Array], Array]
"""``(params, images [B, ...]) -> outputs [B, C]``; no output depends on the rest of the batch."""

_ITERATIONS = 64  # of Lanczos, for the norm of a kernel


def outputs_of(model: Model, state: ModelState) -> OutputFn:
    """A model's logits in evaluation mode as a function of its parameters alone.

    Args:
      model: the architecture.
      state: BatchNorm statistics, which stay as they are.

    Returns:
      The function; it takes uint8 images too.
    """
    return lambda params, images: model.apply(
        Variables(params, state), to_float(images)
    )


def linearize(apply: OutputFn, start: Params) -> OutputFn:
    """The model's first-order expansion at ``start``: ``f(x; start) + J(x) (params - start)``.

    Args:
      apply: the outputs.
      start: where to expand.

    Returns:
      A model that is linear in its parameters, which look like ``start``. It can be
      trained, and costs about as much as three passes of the model; its Jacobian is
      ``J(x)`` everywhere.
    """

    def linear(params: Params, images: Array) -> Array:
        return apply(start, images) + push(
            apply, start, jax.tree.map(jnp.subtract, params, start), images
        )

    return linear


def push(apply: OutputFn, params: Params, tangent: Params, images: Array) -> Array:
    """``J(x) v`` for each image: ``[B, C]``, by the derivative of the reverse pass by its cotangent."""
    outputs, pull_back = jax.vjp(lambda p: apply(p, images), params)
    return jax.vjp(pull_back, jnp.zeros_like(outputs))[1]((tangent,))[0]


def pull(
    apply: OutputFn,
    params: Params,
    images: Array,
    cotangents: Array,
    *,
    batch_size: int = 128,
) -> Params:
    """``sum_i J(x_i)^T u_i``, batch by batch.

    Args:
      apply: the outputs.
      params: where the Jacobian is taken.
      images: ``[N, ...]``.
      cotangents: ``[N, C]``, one per image.
      batch_size: images at a time; changes memory, not the value.

    Returns:
      Like the parameters.
    """
    index, present = in_batches(len(images), batch_size)

    def step(total: Params, batch: tuple[Array, Array]) -> tuple[Params, None]:
        rows, share = batch
        new = jax.vjp(lambda p: apply(p, images[rows]), params)[1](
            share[:, None] * cotangents[rows]
        )[0]
        return jax.tree.map(jnp.add, total, new), None

    return lax.scan(
        step,
        jax.tree.map(jnp.zeros_like, params),
        (index, present.astype(cotangents.dtype)),
    )[0]


def jacobian(apply: OutputFn, params: Params, images: Array) -> Array:
    """``[B, C, P]``: the derivative of each output by all parameters, raveled as ``ravel_pytree`` does.

    Each row is a reverse pass, all of them at once: the memory is that of ``B C``
    models.

    >>> jacobian(lambda w, x: x @ w, jnp.zeros((2, 1)), jnp.array([[1.0, 2.0]])).tolist()
    [[[1.0, 2.0]]]
    """

    def one(image: Array) -> Array:
        outputs, pull_back = jax.vjp(lambda p: apply(p, image[None])[0], params)
        rows = jnp.eye(len(outputs), dtype=outputs.dtype)
        return jax.vmap(lambda row: ravel_pytree(pull_back(row)[0])[0])(rows)

    return jax.vmap(one)(images)


def ntk(
    apply: OutputFn,
    params: Params,
    images: Array,
    others: Array | None = None,
    *,
    batch_size: int = 128,
) -> Array:
    """The empirical neural tangent kernel of two sets of images.

    Args:
      apply: the outputs.
      params: where the Jacobians are taken.
      images: ``[A, ...]``.
      others: ``[B, ...]``; None for ``images`` themselves.
      batch_size: images at a time. Memory is the kernel's ``A B C^2`` numbers and twice
        ``batch_size C P`` for Jacobians; those of ``others`` are computed
        ``A / batch_size`` times, or once where they are a single batch.

    Returns:
      ``[A, C, B, C]``: how the output ``c`` of image ``a`` moves when training moves
      the output ``d`` of image ``b``.

    Raises:
      InputError: no image in a batch.

    >>> ntk(lambda w, x: x @ w, jnp.zeros((2, 1)), jnp.array([[1.0, 2.0], [3.0, 0.0]]))[:, 0, :, 0].tolist()
    [[5.0, 3.0], [3.0, 9.0]]
    """
    others = images if others is None else others
    rows, _ = in_batches(len(images), batch_size)
    columns, _ = in_batches(len(others), batch_size)
    single = jacobian(apply, params, others) if len(columns) == 1 else None

    def products(left: Array, index: Array) -> Array:
        right = jacobian(apply, params, others[index]) if single is None else single
        return jnp.einsum("acp,bdp->acbd", left, right, precision=lax.Precision.HIGHEST)

    def block(index: Array) -> Array:
        left = jacobian(apply, params, images[index])
        return lax.map(partial(products, left), columns)

    blocks = lax.map(block, rows)  # [rows, columns, b, C, b, C]
    classes = blocks.shape[3]
    joined = blocks.transpose(0, 2, 3, 1, 4, 5).reshape(
        rows.size, classes, columns.size, classes
    )
    return joined[: len(images), :, : len(others)]


def feature_kernel(features: Array, others: Array | None = None) -> Array:
    """The tangent kernel of a last linear layer without its bias, ``k(x, x') = phi(x) . phi(x')``.

    Exact, and smaller by ``C^2`` than the kernel of all parameters: the outputs are
    linear in that layer's weights. Append a constant 1 to the features where a bias is
    trained too.

    Args:
      features: ``[A, D]``, inputs of the layer (:func:`unlearn_jax.layers.features`).
      others: ``[B, D]``; None for ``features`` themselves.

    Returns:
      ``[A, B]``, shared by all outputs.
    """
    return jnp.matmul(
        features,
        (features if others is None else others).T,
        precision=lax.Precision.HIGHEST,
    )


def kernel_product(kernel: Array, coefficients: Array) -> Array:
    """``K a``: ``[A, C]`` from a kernel of either shape and coefficients ``[B, C]``."""
    exact = lax.Precision.HIGHEST
    if kernel.ndim == 2:
        return jnp.matmul(kernel, coefficients, precision=exact)
    rows, classes = kernel.shape[:2]
    flat = jnp.matmul(
        kernel.reshape(rows * classes, -1), coefficients.reshape(-1), precision=exact
    )
    return flat.reshape(rows, classes)


def kernel_block(kernel: Array, rows: Array, columns: Array) -> Array:
    """The part of a kernel of either shape that belongs to some rows and columns, given by position."""
    return kernel[rows][:, columns] if kernel.ndim == 2 else kernel[rows][:, :, columns]


def cross_influence_norm(
    kernel_rf: Array, kernel_rr: Array | None = None, kernel_ff: Array | None = None
) -> Array:
    """How strongly the outputs of two sets move together: the spectral norm of their cross-influence block.

    arXiv 2509.26427 proposes the norm of the influence of the forget set on the
    retained one, untested, as a sign that ascent on the forget set will fail: 0 where
    what is forgotten shares nothing with what is kept.

    Args:
      kernel_rf: ``[R, C, F, C]`` or ``[R, F]``.
      kernel_rr: ``[R, C, R, C]`` or ``[R, R]``, of the retained set with itself.
      kernel_ff: ``[F, C, F, C]`` or ``[F, F]``, of the forget set with itself.

    Returns:
      ``[]``. Of ``kernel_rf`` alone, ``|K_rf|``, in the kernel's units; it grows with
      the sets. Given the other two, ``|K_rf| / sqrt(|K_rr| |K_ff|)``, in [0, 1] up to
      rounding because the joint kernel has no negative eigenvalue: 1 where the
      direction of the parameters that moves a set most is the same for both, 0 where
      every direction that moves one leaves the other where it is (and where a kernel is
      0). It does not depend on the kernel's scale.

    Raises:
      InputError: only one of the two kernels, or shapes that do not belong together.

    >>> features = jnp.array([[1.0, 0.0], [1.0, 1.0]])
    >>> k = feature_kernel(features)
    >>> round(float(cross_influence_norm(k[:1, 1:], k[:1, :1], k[1:, 1:])), 4)  # the cosine of the two
    0.7071
    """
    if kernel_rr is None and kernel_ff is None:
        return _norm(kernel_rf)
    if kernel_rr is None or kernel_ff is None:
        raise InputError(
            "the normalized cross-influence needs both kernel_rr and kernel_ff: give"
            " both, or neither"
        )
    half = kernel_rf.ndim // 2
    rows, columns = kernel_rf.shape[:half], kernel_rf.shape[half:]
    if kernel_rr.shape != rows + rows or kernel_ff.shape != columns + columns:
        raise InputError(
            f"kernels of shape {kernel_rr.shape} and {kernel_ff.shape} do not belong to"
            f" one of {kernel_rf.shape}: pass {rows + rows} and {columns + columns}"
        )
    scale = jnp.sqrt(_norm(kernel_rr) * _norm(kernel_ff))
    return jnp.where(
        scale > 0, _norm(kernel_rf) / jnp.where(scale > 0, scale, 1.0), 0.0
    )


def _norm(kernel: Array) -> Array:
    """The largest singular value; from a random start, on the smaller side."""
    if kernel.ndim not in (2, 4):
        raise InputError(f"a kernel must be [A, B] or [A, C, B, C], got {kernel.shape}")
    rows = len(kernel) if kernel.ndim == 2 else kernel.shape[0] * kernel.shape[1]
    matrix = kernel.reshape(rows, -1)
    matrix = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    start = jax.random.normal(jax.random.key(0), (matrix.shape[1],), matrix.dtype)
    return lanczos(lambda vector: matrix @ vector, start, num_iters=_ITERATIONS)[0][0]


def positions(mask: Array, count: int) -> Array:
    """``[count]`` positions of a mask's samples, ascending; ``count`` (static) is how many there are."""
    return jnp.nonzero(mask, size=count)[0].astype(jnp.int32)


def in_batches(count: int, batch_size: int) -> tuple[Array, Array]:
    """Positions ``[num_batches, b]`` of ``count`` samples, ``b`` at most ``batch_size``, and which of them count.

    The last batch is filled up with the first samples.

    Raises:
      InputError: no sample, or none in a batch.
    """
    if batch_size < 1 or count < 1:
        raise InputError(
            f"batch_size must be positive and there must be samples, got {batch_size}"
            f" and {count}"
        )
    size = min(batch_size, count)
    place = jnp.arange(-(-count // size) * size).reshape(-1, size)
    return place % count, place < count
