"""The empirical neural tangent kernel ``K(x, x') = J(x) J(x')^T``, block by block.

``J(x) [C, P]`` is the Jacobian of a model's outputs with respect to its trained
parameters (:func:`trained`). Jacobians use reverse mode only, and products ``J v``
differentiate the reverse pass with respect to its cotangent. So models with a custom
VJP work too (the library's own convolution has no forward mode).

Every function accepts kernels of two shapes: ``[A, C, B, C]``, or ``[A, B]`` if all
outputs share one kernel and do not mix, ``K = k (x) I``, as for the last layer or an
infinitely wide network.
"""

from collections.abc import Callable
from functools import partial

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from unlearn_jax import linalg
from unlearn_jax.models._trained import split_trained
from unlearn_jax.spectral import lanczos
from unlearn_jax.types import (
    Array,
    InputError,
    Model,
    ModelState,
    Params,
    PyTree,
    Variables,
    check_apply_fn,
    to_float,
)

OutputFn = Callable[[PyTree, Array], Array]
"""``(variables, images [B, ...]) -> outputs [B, C]``, row by row."""

_ITERATIONS = 64  # Lanczos iterations for the norm of a kernel


def trained(variables: PyTree) -> Params:
    """Return the trained part of a model's variables.

    Args:
      variables: any pytree.

    Returns:
      The ``params`` of :class:`unlearn_jax.types.Variables` and of a Linen collection
      ``{"params": ...}``; the ``nnx.Param`` of an NNX state; the whole of any other
      tree. Derivatives are with respect to this part; changes of the parameters,
      anchors and tangents have its structure.

    >>> trained({"params": {"w": 1.0}, "batch_stats": {"mean": 0.0}})
    {'w': 1.0}
    """
    return split_trained(variables)[0]


def by_params(apply_fn: OutputFn, variables: PyTree) -> tuple[OutputFn, Params]:
    """Return a model as a function of its trained parameters, and the parameters.

    The function takes uint8 images too, as the model's training does.

    Raises:
      InputError: ``apply_fn`` is a model or a module.
    """
    check_apply_fn(apply_fn)
    params, rebuild = split_trained(variables)

    def apply(params: Params, images: Array) -> Array:
        variables = params if rebuild is None else rebuild(params)
        return apply_fn(variables, to_float(images))

    return apply, params


def outputs_of(model: Model, state: ModelState) -> OutputFn:
    """Return a model's logits in evaluation mode as a function of its parameters alone.

    Args:
      model: the architecture.
      state: BatchNorm statistics, which stay unchanged.

    Returns:
      The function; it accepts uint8 images too.
    """
    return lambda params, images: model.apply(
        Variables(params, state), to_float(images)
    )


def linearize(apply_fn: OutputFn, variables: PyTree) -> OutputFn:
    """Return a model's first-order expansion at its variables.

    The expansion is ``f(x; theta_0) + J(x) (theta - theta_0)``, where ``theta`` are the
    trained parameters.

    Args:
      apply_fn: ``(variables, images) -> outputs``.
      variables: point of expansion, theta_0.

    Returns:
      A function of the same arguments, linear in the trained parameters. It costs about
      three passes of the model, and its Jacobian is ``J(x)`` everywhere.
    """
    apply, start = by_params(apply_fn, variables)

    def linear(variables: PyTree, images: Array) -> Array:
        step = jax.tree.map(jnp.subtract, trained(variables), start)
        return apply(start, images) + push(apply, start, step, images)

    return linear


def push(
    apply_fn: OutputFn, variables: PyTree, tangent: Params, images: Array
) -> Array:
    """Return ``J(x) v`` for each image, ``[B, C]``.

    It is computed as the derivative of the reverse pass with respect to its cotangent.

    Args:
      apply_fn: ``(variables, images) -> outputs``.
      variables: point at which the Jacobian is taken.
      tangent: tangent v, like the trained parameters.
      images: ``[B, ...]``.
    """
    apply, params = by_params(apply_fn, variables)
    images = jnp.asarray(images)
    outputs, pull_back = jax.vjp(lambda p: apply(p, images), params)
    return jax.vjp(pull_back, jnp.zeros_like(outputs))[1]((tangent,))[0]


def pull(
    apply_fn: OutputFn,
    variables: PyTree,
    images: Array,
    cotangents: Array,
    *,
    batch_size: int = 128,
) -> Params:
    """Return ``sum_i J(x_i)^T u_i``, summed batch by batch.

    Args:
      apply_fn: ``(variables, images) -> outputs``.
      variables: point at which the Jacobian is taken.
      images: ``[N, ...]``.
      cotangents: ``[N, C]``, one per image.
      batch_size: images at a time; changes memory, not the value.

    Returns:
      A pytree like the trained parameters.
    """
    images = jnp.asarray(images)
    cotangents = jnp.asarray(cotangents)
    chex.assert_rank(cotangents, 2)
    chex.assert_equal_shape_prefix([images, cotangents], 1)
    apply, params = by_params(apply_fn, variables)
    index, present = in_batches(len(images), batch_size)

    def step(total: Params, batch: tuple[Array, Array]) -> tuple[Params, None]:
        rows, weight = batch
        pull_back = jax.vjp(lambda p: apply(p, images[rows]), params)[1]
        new = pull_back(weight[:, None] * cotangents[rows])[0]
        return jax.tree.map(jnp.add, total, new), None

    start = jax.tree.map(jnp.zeros_like, params)
    return lax.scan(step, start, (index, present.astype(cotangents.dtype)))[0]


def jacobian(apply_fn: OutputFn, variables: PyTree, images: Array) -> Array:
    """Return the Jacobian ``[B, C, P]`` of all outputs by all trained parameters.

    Parameters are raveled as by ``ravel_pytree``. Each row is a reverse pass. All
    passes run at once, in the memory of ``B C`` models.

    >>> weights = jnp.zeros((2, 1))
    >>> jacobian(lambda w, x: x @ w, weights, jnp.array([[1.0, 2.0]])).tolist()
    [[[1.0, 2.0]]]
    """
    apply, params = by_params(apply_fn, variables)

    def one(image: Array) -> Array:
        outputs, pull_back = jax.vjp(lambda p: apply(p, image[None])[0], params)
        rows = jnp.eye(len(outputs), dtype=outputs.dtype)
        return jax.vmap(lambda row: ravel_pytree(pull_back(row)[0])[0])(rows)

    return jax.vmap(one)(jnp.asarray(images))


def ntk(
    apply_fn: OutputFn,
    variables: PyTree,
    images: Array,
    others: Array | None = None,
    *,
    batch_size: int = 128,
) -> Array:
    """Return the empirical neural tangent kernel of two sets of images.

    Args:
      apply_fn: ``(variables, images) -> outputs``.
      variables: point at which the Jacobians are taken.
      images: ``[A, ...]``.
      others: ``[B, ...]``; None for ``images`` themselves.
      batch_size: images at a time. Memory is ``A B C^2`` numbers for the kernel and
        twice ``batch_size C P`` for Jacobians. The Jacobians of ``others`` are computed
        ``A / batch_size`` times, or once if ``others`` is a single batch.

    Returns:
      ``[A, C, B, C]``. Entry ``a, c, b, d`` is the change of output ``c`` of image
      ``a`` when training changes output ``d`` of image ``b``.

    Raises:
      InputError: no images, or a batch size below 1.

    >>> images = jnp.array([[1.0, 2.0], [3.0, 0.0]])
    >>> kernel = ntk(lambda w, x: x @ w, jnp.zeros((2, 1)), images)
    >>> kernel[:, 0, :, 0].tolist()
    [[5.0, 3.0], [3.0, 9.0]]
    """
    apply, params = by_params(apply_fn, variables)
    images = jnp.asarray(images)
    others = images if others is None else jnp.asarray(others)
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
    """Return the tangent kernel of a last linear layer without its bias.

    The kernel is ``k(x, x') = phi(x) . phi(x')``. It is exact, since the outputs are
    linear in that layer's weights, and ``C^2`` times smaller than the kernel of all
    parameters. Append a constant 1 to the features if a bias is trained too.

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
    """Return ``K a [A, C]`` of a kernel of either shape and coefficients ``[B, C]``."""
    chex.assert_rank([kernel, coefficients], [{2, 4}, 2])
    chex.assert_axis_dimension(coefficients, 0, kernel.shape[kernel.ndim // 2])
    if kernel.ndim == 2:
        return linalg.product(kernel, coefficients)
    rows, classes = kernel.shape[:2]
    flat = linalg.product(kernel.reshape(rows * classes, -1), coefficients.reshape(-1))
    return flat.reshape(rows, classes)


def kernel_block(kernel: Array, rows: Array, columns: Array) -> Array:
    """Return the block of a kernel of either shape at some rows and columns."""
    return kernel[rows][:, columns] if kernel.ndim == 2 else kernel[rows][:, :, columns]


def cross_influence_norm(
    kernel_rf: Array, kernel_rr: Array | None = None, kernel_ff: Array | None = None
) -> Array:
    """Return the spectral norm of the cross-influence block of two sets.

    arXiv 2509.26427 proposes, without a test, the norm of the forget set's influence on
    the retained set as a sign that ascent on the forget set will fail. The norm is 0 if
    the two sets share no direction of the parameters.

    Args:
      kernel_rf: ``[R, C, F, C]`` or ``[R, F]``, kernel of the retained set with the
        forget set.
      kernel_rr: ``[R, C, R, C]`` or ``[R, R]``, kernel of the retained set with itself.
      kernel_ff: ``[F, C, F, C]`` or ``[F, F]``, kernel of the forget set with itself.

    Returns:
      ``[]``. With ``kernel_rf`` alone, ``|K_rf|`` in the kernel's units, which grows
      with the sets. With all three kernels, ``|K_rf| / sqrt(|K_rr| |K_ff|)``, which
      does not depend on the kernel's scale and lies in [0, 1] up to rounding, because
      the joint kernel has no negative eigenvalue. It is 1 if the direction of the
      parameters that moves the outputs most is the same for both sets. It is 0 if every
      direction that moves the outputs of one set leaves those of the other unchanged,
      or if a kernel is 0.

    Raises:
      InputError: only one of ``kernel_rr`` and ``kernel_ff``, or shapes that do not
        match.

    >>> features = jnp.array([[1.0, 0.0], [1.0, 1.0]])
    >>> k = feature_kernel(features)
    >>> cosine = cross_influence_norm(k[:1, 1:], k[:1, :1], k[1:, 1:])
    >>> round(float(cosine), 4)
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
    rows = kernel_rf.shape[:half]
    columns = kernel_rf.shape[half:]
    if kernel_rr.shape != rows + rows or kernel_ff.shape != columns + columns:
        raise InputError(
            f"kernels of shape {kernel_rr.shape} and {kernel_ff.shape} do not match one"
            f" of {kernel_rf.shape}: pass {rows + rows} and {columns + columns}"
        )
    scale = jnp.sqrt(_norm(kernel_rr) * _norm(kernel_ff))
    return jnp.where(
        scale > 0, _norm(kernel_rf) / jnp.where(scale > 0, scale, 1.0), 0.0
    )


def as_floating(kernel: Array) -> Array:
    """Return a kernel as an array of floats, of at least single precision."""
    kernel = jnp.asarray(kernel)
    # no factorization of half precision
    return kernel.astype(jnp.promote_types(jnp.result_type(kernel, float), jnp.float32))


def _norm(kernel: Array) -> Array:
    """Return the largest singular value, by Lanczos on the smaller side."""
    kernel = as_floating(kernel)
    if kernel.ndim not in (2, 4):
        raise InputError(f"a kernel must be [A, B] or [A, C, B, C], got {kernel.shape}")
    rows = len(kernel) if kernel.ndim == 2 else kernel.shape[0] * kernel.shape[1]
    matrix = kernel.reshape(rows, -1)
    matrix = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    start = jax.random.normal(jax.random.key(0), (matrix.shape[1],), matrix.dtype)
    return lanczos(lambda vector: matrix @ vector, start, num_iters=_ITERATIONS)[0][0]


def positions(mask: Array, count: int) -> Array:
    """Return the positions ``[count]`` of a mask's samples, ascending.

    ``count`` is the number of samples in the mask (static).
    """
    return jnp.nonzero(mask, size=count)[0].astype(jnp.int32)


def in_batches(count: int, batch_size: int) -> tuple[Array, Array]:
    """Return the positions ``[num_batches, b]`` of ``count`` samples, and a mask.

    ``b`` is at most ``batch_size``. The last batch is padded with the first samples,
    for which the mask is False.

    Raises:
      InputError: no samples, or a batch size below 1.
    """
    if batch_size < 1 or count < 1:
        raise InputError(
            f"batch_size must be positive and there must be samples, got {batch_size}"
            f" and {count}"
        )
    size = min(batch_size, count)
    position = jnp.arange(-(-count // size) * size).reshape(-1, size)
    return position % count, position < count
