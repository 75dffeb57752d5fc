"""Memorization of samples, estimated from reference models, for hard forget sets.

Feldman and Zhang 2020, "What Neural Networks Memorize and Why" (arXiv 2008.03703). The
models are the reference models of a membership design, each trained on a random half of
the samples. The reference models of RMIA or LiRA therefore give memorization without
further training.

Both functions take any per-sample value of the reference models: the paper's
**correctness**, ``memorization(correctness(logits [M, N, C], labels [N]), member)``, or
the smoother true-class **confidence**,
``memorization(softmax_confidence(logits, labels), member)``. They use NumPy on the
host, in float64.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from unlearn_jax.audit.inputs import mask_array, real_array, refuse_infinite
from unlearn_jax.types import InputError


class Memorization(NamedTuple):
    """Memorization of each sample, and the means that it was computed from.

    Attributes:
      value: ``[N]`` float64, ``mean_in - mean_out``: about 0 for samples that models
        learn from other samples, near 1 for samples that models predict correctly only
        if trained on them.
      standard_error: ``[N]`` standard error of ``value`` over models; NaN with a single
        model on a side. It is 0, which is too small, if all models on each side agree.
      mean_in: ``[N]`` mean over the models trained on the sample.
      mean_out: ``[N]`` mean over the models not trained on the sample.
    """

    value: np.ndarray
    standard_error: np.ndarray
    mean_in: np.ndarray
    mean_out: np.ndarray


def memorization(values: ArrayLike, member: ArrayLike) -> Memorization:
    """Return label memorization, ``P(correct | trained on x) - P(correct | not)``.

    The estimate from reference models is
    ``mem(x) = mean_{m: x in S_m} v_m(x) - mean_{m: x not in S_m} v_m(x)`` (equation 1
    of the paper, with random subsets in place of leaving x out). Its standard error is
    ``sqrt(var_in / M_in + var_out / M_out)`` with unbiased variances.

    This is the memorization of models trained on **half** of the samples, which is
    larger than that of a model trained on all samples (the paper uses 70%).
    Correctness needs many models (the paper trains thousands; 64 on each side give a
    standard error of up to 0.09); confidence needs fewer.

    Args:
      values: ``[M, N]`` finite value of each reference model on each sample, higher =
        better predicted: :func:`~unlearn_jax.audit.signals.correctness` or
        :func:`~unlearn_jax.audit.signals.softmax_confidence`.
      member: ``[M, N]`` bool, True where the model was trained on the sample.

    Returns:
      The estimates; in [-1, 1] for values in [0, 1].

    Raises:
      InputError: values that are NaN or infinite, a sample in every model or in none,
        or shapes that do not match.

    >>> member = [[True, False], [True, True], [False, True], [False, False]]
    >>> memorization([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0], [0.0, 1.0]], member).value
    array([1., 0.])
    """
    values, member = _read(values, member)
    mean_in, variance_in = _moments(values, member, "no model")
    mean_out, variance_out = _moments(values, ~member, "every model")
    return Memorization(
        mean_in - mean_out, np.sqrt(variance_in + variance_out), mean_in, mean_out
    )


def out_confidence(confidence: ArrayLike, member: ArrayLike) -> np.ndarray:
    """Return the mean true-class confidence of the models not trained on the sample.

    Samples with low values are difficult, also for a retrained model. On forget sets of
    such samples, unlearning has to change the predictions most.

    Args:
      confidence: ``[M, N]`` finite,
        :func:`~unlearn_jax.audit.signals.softmax_confidence` of the reference models.
      member: ``[M, N]`` bool, True where the model was trained on the sample.

    Returns:
      ``[N]`` float64, in [0, 1] for confidences.

    Raises:
      InputError: values that are NaN or infinite, a sample in every model, or shapes
        that do not match.

    >>> out_confidence([[0.9, 0.2], [0.3, 0.8]], [[True, False], [False, True]])
    array([0.3, 0.2])
    """
    confidence, member = _read(confidence, member)
    return _moments(confidence, ~member, "every model")[0]


def _read(values: ArrayLike, member: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the values and the mask, checked."""
    values = real_array("values", values, ndim=(2,))
    refuse_infinite("values", values)
    return values, mask_array("member", member, values.shape)


def _moments(
    values: np.ndarray, chosen: np.ndarray, otherwise: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over the chosen models, and its squared standard error.

    Args:
      values: ``[M, N]`` values of the models.
      chosen: ``[M, N]`` bool, the models to average for each sample.
      otherwise: text of the error for samples without a chosen model.
    """
    counts = chosen.sum(axis=0)
    missing = np.flatnonzero(counts == 0)
    if missing.size:
        raise InputError(
            f"{missing.size} samples are in {otherwise}, the first of them sample"
            f" {missing[0]}: leave them out"
        )
    means = np.einsum("mn,mn->n", values, chosen, dtype=np.float64) / counts
    squares = np.einsum("mn,mn->n", (values - means) ** 2, chosen, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return means, squares / (counts - 1) / counts
