"""Output filters: forget classes by editing predictions, not the model.

A filter maps class probabilities to class probabilities that are 0 on the forgotten
classes. It needs no gradient, no weights and no training set, so it works on any
classifier: pass the softmax of a network, or the ``predict_proba`` of a tree ensemble
as a NumPy array.

**A filter does not unlearn.** The weights still hold the class. An observer of the
weights, the features or the logits before the filter recovers the class as well as from
the original model (the tests do so with a linear probe on the features). Use filters as
the cheap baseline that an unlearning method has to beat, and audit them on samples of
the forgotten classes, too: on samples of the retained classes even a poor filter can
look like a retrained model.

Filters are values, :class:`Mask` and :class:`MPRU`, called with ``(probabilities,
class_means, forget_classes)``. They are pure JAX: ``jit``, ``vmap`` and ``lax.map``
apply, and every array argument may be traced.
"""

from typing import Literal, Protocol, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from unlearn_jax import linalg
from unlearn_jax.checks import check_choice, check_counts, check_labels
from unlearn_jax.types import Array, InputError
from unlearn_jax.values import value

Variant = Literal["inductive", "direct"]


class Filter(Protocol):
    """An output filter with its hyperparameters."""

    def __call__(
        self,
        probabilities: ArrayLike,
        class_means: ArrayLike,
        forget_classes: ArrayLike,
    ) -> Array:
        """Return probabilities ``[..., C]`` without mass on the forgotten classes."""
        ...


def class_means(
    probabilities: ArrayLike, labels: ArrayLike, *, num_classes: int | None = None
) -> Array:
    """Return the mean output of a model on each class, the input of MPRU.

    Args:
      probabilities: ``[N, D]`` class probabilities of a labeled sample, or any other
        outputs. A few per class suffice; they should be held out, because a model that
        has memorized its training set has one-hot means there.
      labels: ``[N]`` integers.
      num_classes: number of rows of the result, one per class; None for the number of
        columns of ``probabilities``.

    Returns:
      ``[C, D]``: row k is the mean over the samples of class k, or zeros if there are
      none.

    Raises:
      InputError: shapes that do not match, labels that are not integers in 0..C-1, or
        classes that are not a positive integer.

    >>> print(class_means([[0.75, 0.25], [0.5, 0.5], [0.0, 1.0]], [0, 0, 1]))
    [[0.625 0.375]
     [0.    1.   ]]
    """
    probabilities = _as_float(probabilities)
    labels = jnp.asarray(labels)
    if (
        probabilities.ndim != 2
        or labels.shape != probabilities.shape[:1]
        or not jnp.issubdtype(labels.dtype, jnp.integer)
    ):
        raise InputError(
            f"probabilities have shape {probabilities.shape} and labels {labels.shape}"
            f" ({labels.dtype}): pass [N, C] probabilities and [N] integer labels"
        )
    num_classes = probabilities.shape[1] if num_classes is None else num_classes
    check_counts(num_classes=num_classes)
    check_labels(labels, len(labels), num_classes, "class_means")
    member = jax.nn.one_hot(labels, num_classes, dtype=probabilities.dtype)
    sums = linalg.product(member.T, probabilities)
    return sums / jnp.maximum(member.sum(0), 1)[:, None]


def masked_renormalization(
    probabilities: ArrayLike, forget_classes: ArrayLike
) -> Array:
    """Condition predictions on the retained classes: the simplest filter.

    ``q_k = p_k / (1 - p_f)`` on the retained classes, 0 on the forgotten ones. This is
    the baseline that every other filter, and every class unlearning method, should be
    compared with.

    Args:
      probabilities: ``[..., C]`` class probabilities.
      forget_classes: a class, several classes, or a ``[C]`` boolean mask of them; at
        least one class is retained.

    Returns:
      ``[..., C]``, rows summing to 1, exactly 0 on the forgotten classes; uniform over
      the retained classes where these had no mass at all. The function is idempotent.

    Raises:
      InputError: rows that are not distributions; classes outside 0..C-1; no retained
        class. Traced arguments are not checked.

    >>> print(masked_renormalization([0.5, 0.3, 0.2], 0))
    [0.  0.6 0.4]
    """
    given = probabilities
    probabilities = _as_float(given)
    _check_distributions("probabilities", given)
    forget = _forget_mask(forget_classes, probabilities.shape[-1])
    return _renormalize(probabilities, forget)


def mpru(
    probabilities: ArrayLike,
    class_means: ArrayLike,
    forget_classes: ArrayLike,
    *,
    variant: Variant = "inductive",
) -> Array:
    """Project the forgotten classes out of predictions and renormalize (MPRU).

    Peng, Gunamardi, Tjuawinata and Lam 2025, arXiv 2510.26230.

    The component of a prediction along the forgotten classes is projected out, and the
    rest is renormalized::

        z = p - sum_i <p, e_i> e_i;   z_k = max(z_k, 0);   z_f = 0;   q = z / sum_k z_k

    with the orthonormal directions ``e_i`` of :func:`removed_directions`. The paper
    describes an orthonormal basis of the classes' average outputs that is learned one
    class after another; unlearning removes the last direction. No code is public; the
    formulas are this library's reading: "inductive" follows that description, "direct"
    is the simplest projection. (The rounding error of a component that is projected to
    0 counts as 0.)

    "inductive" leaves the mean output of every retained class on its hyperplane, so
    there the filter equals :func:`masked_renormalization`. If the means are one-hot,
    which a confident network comes close to, both variants equal masking. They differ
    from masking for soft outputs, such as those of tree ensembles. Where the model is
    sure of a forgotten class, "inductive" predicts the classes whose samples the model
    mistakes for that class, and "direct", which subtracts from every class, leaves no
    mass. As measured on samples of the forgotten class, "inductive" comes nearer to a
    retrained model than masking for a random forest on digits. It does not for
    networks, and not clearly on unequal classes
    (``experiments/benchmarks/mpru_tabular.py``).

    Unlike masking, MPRU is not idempotent: setting ``z_f`` to 0 moves a prediction off
    the hyperplane again. Filter once.

    Args:
      probabilities: ``[..., C]`` class probabilities.
      class_means: ``[C, C]`` means of the same model, see :func:`class_means`.
      forget_classes: a class, several classes, or a ``[C]`` boolean mask of them; at
        least one class is retained.
      variant: "inductive" or "direct".

    Returns:
      ``[..., C]``, rows summing to 1, exactly 0 on the forgotten classes; uniform over
      the retained classes where the projection leaves no mass on them.

    Raises:
      InputError: rows that are not distributions; classes outside 0..C-1; no retained
        class; means of a wrong shape; an unknown variant. Traced arguments are not
        checked.

    >>> means = [[0.6, 0.4, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    >>> print(mpru([0.5, 0.25, 0.25], means, 0))
    [0.  0.5 0.5]
    >>> print(mpru([0.5, 0.25, 0.25], means, 0, variant="direct").round(3))
    [0. 0. 1.]
    """
    given = probabilities
    probabilities = _as_float(given)
    _check_distributions("probabilities", given)
    means = _as_float(class_means)
    num_classes = probabilities.shape[-1]
    if means.shape != (num_classes, num_classes):
        raise InputError(
            f"class_means have shape {means.shape}: pass [C, C] for the"
            f" {num_classes} classes of the probabilities"
        )
    directions = removed_directions(means, forget_classes, variant=variant)
    directions = directions.astype(probabilities.dtype)
    components = linalg.product(probabilities, directions.T)
    projected = probabilities - linalg.product(components, directions)
    # This bounds the rounding error of the two products: a component that should be 0
    # must not become the whole prediction when it is renormalized.
    magnitude = linalg.product(probabilities, jnp.abs(directions.T))
    magnitude = linalg.product(magnitude, jnp.abs(directions))
    rounding = 4 * num_classes * jnp.finfo(probabilities.dtype).eps * magnitude
    remaining = jnp.where(projected > rounding, projected, 0)
    return _renormalize(remaining, _forget_mask(forget_classes, num_classes))


def removed_directions(
    class_means: ArrayLike,
    forget_classes: ArrayLike,
    *,
    variant: Variant = "inductive",
) -> Array:
    """Return the directions that :func:`mpru` projects out of a prediction.

    "inductive": Gram-Schmidt over the class means, with the forgotten classes last.
    Their directions are orthogonal to the means of the retained classes:
    ``<mu_k, e_f> = 0`` for every retained k. "direct": the normalized means of the
    forgotten classes, ``e_f = mu_f / |mu_f|`` (orthonormalized if there are several).

    Args:
      class_means: ``[C, C]``, row k the mean output on class k.
      forget_classes: a class, several classes, or a ``[C]`` boolean mask of them.
      variant: "inductive" or "direct".

    Returns:
      ``[C, C]``: row f is ``e_f``, of length 1 and orthogonal to the other rows; row k
      of a retained class is 0. Row f is also 0 if its mean is in the span of the means
      before it; then nothing is projected out for that class.

    Raises:
      InputError: means that are not square, unusable classes, or an unknown variant.
    """
    means = _as_float(class_means)
    if means.ndim != 2 or means.shape[0] != means.shape[1]:
        raise InputError(
            f"class_means have shape {means.shape}: pass [C, C], one row per class, see"
            " filters.class_means"
        )
    _check_distributions("class_means", means)
    check_choice("variant", variant, get_args(Variant))
    forget = _forget_mask(forget_classes, means.shape[0])
    if variant == "direct":
        means = jnp.where(forget[:, None], means, 0)
    retained_first = jnp.argsort(forget, stable=True)
    return jnp.where(forget[:, None], _gram_schmidt(means, retained_first), 0)


@jax.jit
def _gram_schmidt(vectors: Array, order: Array) -> Array:
    """Return orthonormal rows ``[C, C]``.

    Row k is the direction that ``vectors[k]`` adds to the span of the vectors before it
    in ``order``, or 0 if it adds none.
    """
    tolerance = 10 * len(vectors) * jnp.finfo(vectors.dtype).eps

    def add(basis: Array, k: Array) -> tuple[Array, None]:
        residual = vectors[k]
        for _ in range(2):  # the second pass removes the rounding error of the first
            residual = residual - linalg.product(linalg.product(basis, residual), basis)
        length = jnp.linalg.norm(residual)
        is_new = length > tolerance * jnp.linalg.norm(vectors[k])
        unit = residual / jnp.where(is_new, length, 1)
        return basis.at[k].set(jnp.where(is_new, unit, 0)), None

    return jax.lax.scan(add, jnp.zeros_like(vectors), order)[0]


def _as_float(array: ArrayLike) -> Array:
    """Return an array in at least float32."""
    array = jnp.asarray(array)
    if not array.ndim:
        raise InputError(
            "got a single number: pass an array whose last axis is the classes"
        )
    return linalg.at_least_float32(array)


def _check_distributions(name: str, given: ArrayLike) -> None:
    """Raise unless concrete rows are distributions; a row of zeros passes."""
    rows = jnp.asarray(given)
    if isinstance(rows, Tracer):
        return
    # a probability of 16 bits is rounded to some thousandths
    is_narrow = jnp.issubdtype(rows.dtype, jnp.floating) and rows.dtype.itemsize < 4
    tolerance = 2 * float(jnp.finfo(rows.dtype).eps) if is_narrow else 1e-3
    rows = np.asarray(rows, np.float64)
    total = rows.sum(-1)
    has_sum = (np.abs(total - 1) < tolerance) | (total == 0)
    if not (has_sum.all() and (rows >= 0).all()):
        raise InputError(
            f"{name} has rows that are not distributions: pass probabilities, such as"
            " the softmax of logits"
        )


def _forget_mask(forget_classes: ArrayLike, num_classes: int) -> Array:
    """Return ``[C]`` bool from a class, several classes, or such a mask."""
    classes = forget_classes
    if not isinstance(classes, Tracer):
        classes = np.asarray(classes)
    if classes.dtype == bool:
        if classes.shape != (num_classes,):
            raise InputError(
                f"forget_classes is a mask of shape {classes.shape}: pass one entry per"
                f" class, {num_classes}"
            )
        mask = classes
    else:
        if classes.shape == (0,):
            # an empty list is float64
            classes = classes.astype(int)
        if not jnp.issubdtype(classes.dtype, jnp.integer) or classes.ndim > 1:
            raise InputError(
                f"forget_classes is {classes.dtype} of shape {classes.shape}: pass"
                " class numbers or a mask"
            )
        is_concrete = isinstance(classes, np.ndarray)
        if is_concrete and not ((classes >= 0) & (classes < num_classes)).all():
            raise InputError(
                f"forget_classes is {classes.tolist()}: pass classes in"
                f" 0..{num_classes - 1}"
            )
        mask = (classes.reshape(-1, 1) == np.arange(num_classes)[None]).any(0)
    if isinstance(mask, np.ndarray) and mask.all():
        raise InputError(
            f"forget_classes names all {num_classes} classes: retain at least one"
        )
    return jnp.asarray(mask)


def _renormalize(probabilities: Array, forget: Array) -> Array:
    """Return rows that are 0 on the mask ``[C]`` and divided by the sum of the rest.

    A row is uniform over the retained classes if that sum is 0.
    """
    forget = jnp.broadcast_to(forget, probabilities.shape)
    retained = jnp.where(forget, 0, probabilities)
    total = retained.sum(-1, keepdims=True)
    uniform = jnp.where(forget, 0, 1).astype(probabilities.dtype)
    retained = jnp.where(total > 0, retained, uniform)
    return retained / retained.sum(-1, keepdims=True)


@value
class Mask:
    """Masking and renormalization: :func:`masked_renormalization`."""

    def __call__(
        self,
        probabilities: ArrayLike,
        class_means: ArrayLike,
        forget_classes: ArrayLike,
    ) -> Array:
        """Return probabilities ``[..., C]`` without mass on the forgotten classes.

        Args:
          probabilities: ``[..., C]`` class probabilities.
          class_means: ignored.
          forget_classes: a class, several classes, or a ``[C]`` boolean mask of them.
        """
        del class_means
        return masked_renormalization(probabilities, forget_classes)


@value
class MPRU:
    """Projection and redistribution: :func:`mpru`.

    Attributes:
      variant: ``"inductive"`` projects out the part of the forgotten classes' means
        that the retained classes' means do not span, ``"direct"`` the whole means.
    """

    variant: Variant = "inductive"

    def __call__(
        self,
        probabilities: ArrayLike,
        class_means: ArrayLike,
        forget_classes: ArrayLike,
    ) -> Array:
        """Return probabilities ``[..., C]`` without mass on the forgotten classes.

        Args:
          probabilities: ``[..., C]`` class probabilities.
          class_means: ``[C, C]`` means of the same model, see :func:`class_means`.
          forget_classes: a class, several classes, or a ``[C]`` boolean mask of them.
        """
        return mpru(probabilities, class_means, forget_classes, variant=self.variant)


FILTERS: dict[str, Filter] = {
    "mask": Mask(),
    "mpru": MPRU(),
    "mpru_direct": MPRU(variant="direct"),
}
"""Filters by name."""
