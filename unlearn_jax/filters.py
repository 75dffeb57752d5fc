"""Output filters: forget classes by editing predictions, not the model.

A filter maps class probabilities to class probabilities in which the forgotten classes
have none. It needs no gradient, no weights and no training set, so it works on any
classifier: pass the softmax of a network, or the ``predict_proba`` of a tree ensemble
as a NumPy array.

**A filter does not unlearn.** The weights still hold the class: whoever can read the
weights, the features or the logits before the filter recovers it as well as from the
original model (a linear probe on the features does, see the tests). Use filters as the
cheap baseline that an unlearning method has to beat, and audit them on samples of the
forgotten classes, too: on the retained ones even a poor filter can look like a
retrained model.

Pure JAX: ``jit``, ``vmap`` and ``lax.map`` apply, and every array argument may be
traced.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from unlearn_jax.types import Array, InputError

FilterFn = Callable[[ArrayLike, ArrayLike, ArrayLike], Array]
"""``(probs [..., C], means [C, C], forgotten) -> probs [..., C]``."""


def class_means(
    probs: ArrayLike, labels: ArrayLike, *, num_classes: int | None = None
) -> Array:
    """Mean output of a model on the samples of each class: all that MPRU needs to know of a model.

    Args:
      probs: ``[N, C]`` class probabilities of a labeled sample. A few per class will
        do; they should be held out, because a model that has memorized its training set
        has one-hot means there.
      labels: ``[N]`` integers.
      num_classes: rows of the result, one per label; None for as many as ``probs`` has
        columns.

    Returns:
      ``[C, C]``, row k the mean over the samples of class k; a row of zeros where there
      is none.

    Raises:
      InputError: shapes that do not fit, or labels that are not integers.

    >>> print(class_means([[0.75, 0.25], [0.5, 0.5], [0.0, 1.0]], [0, 0, 1]))
    [[0.625 0.375]
     [0.    1.   ]]
    """
    probs, labels = _wide(probs), jnp.asarray(labels)
    if (
        probs.ndim != 2
        or labels.shape != probs.shape[:1]
        or not jnp.issubdtype(labels.dtype, jnp.integer)
    ):
        raise InputError(
            f"probs have shape {probs.shape} and labels {labels.shape}"
            f" ({labels.dtype}): pass [N, C] probabilities and [N] integer labels"
        )
    sample = jax.nn.one_hot(labels, num_classes or probs.shape[1], dtype=probs.dtype)
    # accelerators would round the sums to fewer bits
    sums = jnp.matmul(sample.T, probs, precision=jax.lax.Precision.HIGHEST)
    return sums / jnp.maximum(sample.sum(0), 1)[:, None]


def masked_renormalization(probs: ArrayLike, forgotten: ArrayLike) -> Array:
    """The simplest filter: ``q_k = p_k / (1 - p_f)`` on the retained classes, 0 on the forgotten ones.

    What conditioning the original model on "none of the forgotten classes" gives, and
    the baseline that every other filter, and every class unlearning method, should be
    compared with.

    Args:
      probs: ``[..., C]`` class probabilities.
      forgotten: a class, several classes, or a ``[C]`` boolean mask of them; at least
        one class is retained.

    Returns:
      ``[..., C]``, rows summing to 1, exactly 0 on the forgotten classes; uniform over
      the retained classes where these had no mass at all. Idempotent.

    Raises:
      InputError: classes outside 0..C-1, or none left (not checked where ``forgotten``
        is traced).

    >>> print(masked_renormalization([0.5, 0.3, 0.2], 0))
    [0.  0.6 0.4]
    """
    probs = _wide(probs)
    return _renormalize(probs, _forgotten_mask(forgotten, probs.shape[-1]))


def mpru(
    probs: ArrayLike,
    means: ArrayLike,
    forgotten: ArrayLike,
    *,
    variant: str = "inductive",
) -> Array:
    """Projection and redistribution (MPRU; Peng, Gunamardi, Tjuawinata and Lam 2025, arXiv 2510.26230).

    The part of a prediction that speaks of the forgotten classes is projected out, and
    what is left is renormalized::

        z = p - sum_i <p, e_i> e_i;   z_k = max(z_k, 0);   z_f = 0;   q = z / sum_k z_k

    with the orthonormal directions ``e_i`` of :func:`removed_directions`. The method is
    described as an orthonormal basis of the classes' average outputs, learned one class
    after another, of which unlearning removes the last. No code is public; the formulas
    are this library's reading: "inductive" follows that description, "direct" is the
    simplest projection. (What rounding leaves of a component that is projected to 0
    counts as 0.)

    "inductive" leaves the mean output of every retained class on its hyperplane, so
    there the filter does what :func:`masked_renormalization` does. When the means are
    one-hot both variants are masking, which a confident network comes close to; they
    differ from it for soft outputs, as tree ensembles have. Where the model is sure of
    a forgotten class, "inductive" answers with the classes whose samples it mistakes
    for that class, and "direct", which subtracts from every class, has nothing left. As
    measured on samples of the forgotten class, "inductive" comes nearer to a retrained
    model than masking for a random forest on digits, but not for networks, nor clearly
    on unequal classes (``experiments/benchmarks/mpru_tabular.py``).

    Unlike masking, not idempotent: setting ``z_f`` to 0 moves a prediction off the
    hyperplane again. Filter once.

    Args:
      probs: ``[..., C]`` class probabilities.
      means: ``[C, C]`` of the same model, see :func:`class_means`.
      forgotten: a class, several classes, or a ``[C]`` boolean mask of them; at least
        one class is retained.
      variant: "inductive" or "direct".

    Returns:
      ``[..., C]``, rows summing to 1, exactly 0 on the forgotten classes; uniform over
      the retained classes where the projection leaves nothing of them.

    Raises:
      InputError: as :func:`masked_renormalization`; means of another shape; an unknown
        variant.

    >>> means = [[0.6, 0.4, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    >>> print(mpru([0.5, 0.25, 0.25], means, 0), mpru([0.5, 0.25, 0.25], means, 0, variant="direct").round(3))
    [0.  0.5 0.5] [0. 0. 1.]
    """
    probs, means = _wide(probs), _wide(means)
    num_classes = probs.shape[-1]
    if means.shape != (num_classes, num_classes):
        raise InputError(
            f"means have shape {means.shape}: pass [C, C] for the {num_classes} classes"
            " of probs"
        )
    directions = removed_directions(means, forgotten, variant=variant).astype(
        probs.dtype
    )
    left = probs - probs @ directions.T @ directions
    rounding = (
        4
        * num_classes
        * jnp.finfo(probs.dtype).eps
        * (probs @ jnp.abs(directions.T) @ jnp.abs(directions))
    )
    return _renormalize(
        jnp.where(left > rounding, left, 0), _forgotten_mask(forgotten, num_classes)
    )


def removed_directions(
    means: ArrayLike, forgotten: ArrayLike, *, variant: str = "inductive"
) -> Array:
    """The directions that :func:`mpru` projects out of a prediction.

    "inductive": Gram-Schmidt over the class means with the forgotten ones last; their
    directions are what the means of the retained classes do not span, so
    ``<mu_k, e_f> = 0`` for every retained k. "direct": the means of the forgotten
    classes themselves, ``e_f = mu_f / |mu_f|`` (orthonormalized where there are
    several).

    Args:
      means: ``[C, C]``, row k the mean output on class k.
      forgotten: a class, several classes, or a ``[C]`` boolean mask of them.
      variant: "inductive" or "direct".

    Returns:
      ``[C, C]``: row f is ``e_f``, of length 1 and orthogonal to the other rows, and
      row k of a retained class is 0. Row f, too, is 0 where the mean is in the span of
      those before it: then nothing is projected out for it.

    Raises:
      InputError: as :func:`mpru`.
    """
    means = _wide(means)
    if means.ndim != 2 or means.shape[0] != means.shape[1]:
        raise InputError(
            f"means have shape {means.shape}: pass [C, C], one row per class, see"
            " class_means"
        )
    if variant not in ("inductive", "direct"):
        raise InputError(f"unknown variant {variant!r}; choose inductive or direct")
    mask = _forgotten_mask(forgotten, means.shape[0])
    if variant == "direct":
        means = jnp.where(mask[:, None], means, 0)
    return jnp.where(
        mask[:, None], _gram_schmidt(means, jnp.argsort(mask, stable=True)), 0
    )


@jax.jit
def _gram_schmidt(vectors: Array, order: Array) -> Array:
    """Orthonormal rows ``[C, C]``; row k is what ``vectors[k]`` adds to those before it in ``order``, 0 for nothing."""
    tolerance = 10 * len(vectors) * jnp.finfo(vectors.dtype).eps

    def add(basis: Array, k: Array) -> tuple[Array, None]:
        residual = vectors[k]
        for _ in range(2):  # the second pass removes what rounding left of the first
            residual = residual - (basis @ residual) @ basis
        length = jnp.linalg.norm(residual)
        new = length > tolerance * jnp.linalg.norm(vectors[k])
        return (
            basis.at[k].set(jnp.where(new, residual / jnp.where(new, length, 1), 0)),
            None,
        )

    return jax.lax.scan(add, jnp.zeros_like(vectors), order)[0]


def _wide(values: ArrayLike) -> Array:
    """The array in at least float32."""
    values = jnp.asarray(values)
    if not values.ndim:
        raise InputError(
            "got a single number: pass an array whose last axis is the classes"
        )
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def _forgotten_mask(forgotten: ArrayLike, num_classes: int) -> Array:
    """``[C]`` bool from a class, several classes, or such a mask."""
    if not isinstance(forgotten, Tracer):
        forgotten = np.asarray(forgotten)
    if forgotten.dtype == bool:
        if forgotten.shape != (num_classes,):
            raise InputError(
                f"forgotten is a mask of shape {forgotten.shape}: pass one entry per"
                f" class, {num_classes}"
            )
        mask = forgotten
    else:
        if not jnp.issubdtype(forgotten.dtype, jnp.integer) or forgotten.ndim > 1:
            raise InputError(
                f"forgotten is {forgotten.dtype} of shape {forgotten.shape}: pass class"
                " numbers or a mask"
            )
        if (
            isinstance(forgotten, np.ndarray)
            and not ((forgotten >= 0) & (forgotten < num_classes)).all()
        ):
            raise InputError(
                f"forgotten is {forgotten.tolist()}: pass classes in"
                f" 0..{num_classes - 1}"
            )
        mask = (forgotten.reshape(-1, 1) == np.arange(num_classes)[None]).any(0)
    if isinstance(mask, np.ndarray) and mask.all():
        raise InputError(
            f"forgotten names all {num_classes} classes: retain at least one"
        )
    return jnp.asarray(mask)


def _renormalize(probs: Array, forgotten: Array) -> Array:
    """Zeros on the mask ``[C]``, the rest of each row divided by its sum; uniform where that is 0."""
    forgotten = jnp.broadcast_to(forgotten, probs.shape)
    kept = jnp.where(forgotten, 0, probs)
    total = kept.sum(-1, keepdims=True)
    kept = jnp.where(total > 0, kept, jnp.where(forgotten, 0, 1).astype(probs.dtype))
    return kept / kept.sum(-1, keepdims=True)


def _mask(probs: ArrayLike, means: ArrayLike, forgotten: ArrayLike) -> Array:
    del means
    return masked_renormalization(probs, forgotten)


FILTERS: dict[str, FilterFn] = {
    "mask": _mask,
    "mpru": mpru,
    "mpru_direct": functools.partial(mpru, variant="direct"),
}
"""Every filter with one signature: ``(probs [..., C], means [C, C], forgotten) -> [..., C]``."""
