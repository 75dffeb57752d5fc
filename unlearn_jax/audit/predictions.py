"""Distances between predictions, and the confidence attack on a forgotten class.

The functions use NumPy on the host, in float64. Distances take probabilities, so they
compare models of any kind; :func:`softmax` gives those of a network. On samples of a
forgotten class, distances show differences that accuracy does not: an unlearned and a
retrained model are both wrong there, but may predict different classes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from unlearn_jax.audit.inputs import (
    check_seed,
    class_logits,
    real_array,
    refuse_infinite,
)
from unlearn_jax.checks import check_counts, check_range
from unlearn_jax.types import InputError


class KodgeMiaResult(NamedTuple):
    """Result of the confidence attack on a forgotten class.

    Attributes:
      fraction: fraction of the forgotten class's **test** samples called non-members,
        in [0, 1]; papers print it in percent. It rises with better forgetting, from
        about 0 for the original model to about 1 for a retrained model.
      called_member: ``[T]`` bool, True for test samples called members.
      num_per_side: numbers of members and of non-members that the SVC was trained on.
    """

    fraction: float
    called_member: np.ndarray
    num_per_side: tuple[int, int]


def softmax(logits: ArrayLike) -> np.ndarray:
    """Return class probabilities.

    Args:
      logits: ``[..., C]``, finite.

    Returns:
      ``[..., C]`` float64, since the small probabilities of a confident network need
      it. Rows sum to 1 and are finite for logits of any size.

    Raises:
      InputError: NaN or infinite logits.

    >>> softmax([1000.0, 0.0])
    array([1., 0.])
    """
    logits = real_array("logits", logits, ndim=(1, 2, 3, 4)).astype(
        np.float64, copy=False
    )
    refuse_infinite("logits", logits)
    exps = np.exp(logits - logits.max(-1, keepdims=True))
    return exps / exps.sum(-1, keepdims=True)


def total_variation(p: ArrayLike, q: ArrayLike) -> np.ndarray:
    """Return the total variation distance ``1/2 sum_k |p_k - q_k|``.

    It is the largest difference between the probabilities of the same event.

    Args:
      p: ``[..., C]`` probabilities.
      q: ``[..., C]`` probabilities; leading axes broadcast against those of ``p``.

    Returns:
      ``[...]`` float64 in [0, 1]; 0 where p and q are equal, 1 where no class has a
      positive probability under both. The distance is symmetric.

    Raises:
      InputError: different numbers of classes, or rows that are not distributions
        (negative, or not summing to 1 within 0.001), such as logits.

    >>> print(total_variation([0.5, 0.5, 0.0], [0.25, 0.5, 0.25]))
    0.25
    """
    p, q = _distributions(p, q)
    return np.minimum(0.5 * np.abs(p - q).sum(-1), 1.0)


def kl_divergence(p: ArrayLike, q: ArrayLike, *, floor: float = 1e-12) -> np.ndarray:
    """Return the divergence ``KL(p || q) = sum_k p_k log(p_k / max(q_k, floor))``.

    Kullback and Leibler 1951. This function takes probabilities; for logits use
    :func:`unlearn_jax.losses.kl_from_logits`. The floor keeps the divergence finite
    where q is 0, for example for a class that a filter or a tree ensemble rules out.
    Such a class contributes ``p_k log(p_k / floor)``, at most 28 nats with the default
    floor. So the mean over samples depends on the floor if ``p_k`` is not small there.
    q is not renormalized after the floor is applied, which would change the divergence
    by less than ``C * floor``.

    Args:
      p: ``[..., C]`` probabilities; those of the retrained model, to measure the errors
        of an unlearning method.
      q: ``[..., C]`` probabilities; leading axes broadcast against those of ``p``.
      floor: lower limit applied to q, in (0, 1).

    Returns:
      ``[...]`` float64 in nats, in [0, -log(floor)]; 0 where p and q are equal.

    Raises:
      InputError: the same cases as :func:`total_variation`; a floor outside (0, 1).

    >>> kl_divergence([0.5, 0.5], [0.25, 0.75]).round(4)  # 0.5 log(4 / 3)
    np.float64(0.1438)
    """
    if not 0.0 < floor < 1.0:
        raise InputError(
            f"floor is {floor}: pass a small positive number, such as 1e-12"
        )
    p, q = _distributions(p, q)
    log_p = np.log(np.where(p > 0, p, 1.0))
    return np.maximum((p * (log_p - np.log(np.maximum(q, floor)))).sum(-1), 0.0)


def _distributions(p: ArrayLike, q: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return both as float64, with equal numbers of classes and broadcastable axes."""
    p = _distribution("p", p)
    q = _distribution("q", q)
    if p.shape[-1] != q.shape[-1]:
        raise InputError(
            f"p has {p.shape[-1]} classes and q {q.shape[-1]}: give both a column for"
            " every class"
        )
    try:
        np.broadcast_shapes(p.shape, q.shape)
    except ValueError:
        raise InputError(
            f"p of shape {p.shape} and q of shape {q.shape}: pass one row of q per row"
            " of p"
        ) from None
    return p, q


def _distribution(name: str, values: ArrayLike) -> np.ndarray:
    """Return the probabilities as float64, checked."""
    array = real_array(name, values, ndim=(1, 2, 3, 4)).astype(np.float64, copy=False)
    refuse_infinite(name, array)
    if (array < 0).any() or (np.abs(array.sum(-1) - 1) > 1e-3).any():
        raise InputError(
            f"{name} has rows that are not distributions: pass probabilities, see"
            " softmax"
        )
    return array


def confusion_rows(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Return the confusion matrix with every row divided by its sum.

    The row of a forgotten class shows the classes that its samples are now predicted
    as. Compare it with the same row of a retrained model.

    Args:
      logits: ``[N, C]`` logits or probabilities; the largest is the prediction, and of
        several equal ones the first.
      labels: ``[N]`` integers in 0..C-1.

    Returns:
      ``[C, C]`` float64: row y, column k is the fraction of the samples of class y that
      are predicted as k. Rows sum to 1, or are 0 for a class without samples.

    Raises:
      InputError: NaN or infinite logits, shapes that do not match, or labels outside
        0..C-1.

    >>> confusion_rows([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0]], [0, 0, 0])
    array([[0.66666667, 0.33333333],
           [0.        , 0.        ]])
    """
    logits = class_logits(logits)
    refuse_infinite("logits", logits)
    num_samples, num_classes = logits.shape
    labels = np.asarray(labels)
    if labels.shape != (num_samples,) or labels.dtype.kind not in "iu":
        raise InputError(
            f"labels are {labels.dtype} of shape {labels.shape}: pass {num_samples}"
            " integers, one per row"
        )
    check_range(labels, num_classes, "confusion_rows")
    counts = np.zeros((num_classes, num_classes))
    np.add.at(counts, (labels, logits.argmax(1)), 1)
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def kodge_mia(
    retain_train: ArrayLike,
    forget_train: ArrayLike,
    forget_test: ArrayLike,
    *,
    max_samples: int | None = 2000,
    seed: int = 0,
) -> KodgeMiaResult:
    """Attack a forgotten class with an SVC on the true-class probability.

    ``SVC(C=3, gamma="auto", kernel="rbf")`` is trained on retained training samples
    (members) against forgotten training samples (labeled non-members, which they are
    for a model that has forgotten them). It is applied to test samples of the forgotten
    class (Kodge, Saha and Roy 2024, "Deep Unlearning: Fast and Efficient Gradient-free
    Class Forgetting", arXiv 2312.00761).

    Unlike :func:`~unlearn_jax.audit.svc.mis`, the two sides keep their **natural
    proportion**, as in the released code. If the SVC cannot separate them, it predicts
    the larger side, the members, and the fraction is 0. The fraction saturates at 1:
    any model scores 1 if its probability of the forgotten class is below that of the
    retained classes. (The released code randomly crops the training images, but not
    the test images; here the caller decides.)

    Args:
      retain_train: ``[R]`` softmax probabilities of the true class on retained training
        samples.
      forget_train: ``[F]`` the same probabilities on training samples of the forgotten
        classes.
      forget_test: ``[T]`` the same probabilities on test samples of the forgotten
        classes.
      max_samples: upper limit of the size of the larger side, because the training time
        of an SVC grows with its square; the other side is reduced by the same factor.
        None uses all samples, as published values do.
      seed: seed of the choice of samples; the same seed gives the same result.

    Returns:
      The fraction and the predictions behind it.

    Raises:
      InputError: arrays that are not one-dimensional, empty, or outside [0, 1];
        ``max_samples`` below 1; or a negative seed.

    >>> kodge_mia([0.99, 0.98, 0.97], [0.0, 0.01], [0.0, 0.98]).fraction
    0.5
    """
    from sklearn.svm import SVC

    if max_samples is not None:
        check_counts(max_samples=max_samples)
    check_seed(seed)
    named = {
        "retain_train": retain_train,
        "forget_train": forget_train,
        "forget_test": forget_test,
    }
    sides = []
    for name, values in named.items():
        array = real_array(name, values, ndim=(1,)).astype(np.float64, copy=False)
        refuse_infinite(name, array)
        if array.min() < 0 or array.max() > 1:
            raise InputError(
                f"{name} reaches from {array.min():.3g} to {array.max():.3g}: pass"
                " probabilities of the true class, see softmax_confidence"
            )
        sides.append(array)
    members, outsiders, queries = sides
    largest = max(members.size, outsiders.size)
    fraction = min(largest, max_samples or largest) / largest
    num_members = max(1, round(fraction * members.size))
    num_outsiders = max(1, round(fraction * outsiders.size))
    counts = (num_members, num_outsiders)
    rng = np.random.default_rng(seed)
    drawn = [
        rng.choice(side, n, replace=False)
        for side, n in zip((members, outsiders), counts, strict=True)
    ]
    machine = SVC(C=3, gamma="auto", kernel="rbf")
    machine.fit(np.concatenate(drawn)[:, None], np.repeat([True, False], counts))
    called_member = np.asarray(machine.predict(queries[:, None]), bool)
    return KodgeMiaResult(float(1 - called_member.mean()), called_member, counts)
