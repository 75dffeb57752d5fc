"""Quality of a generator's samples by an independent classifier, on arrays only."""

import numpy as np
from numpy.typing import ArrayLike

from unlearn_jax.checks import check_counts
from unlearn_jax.types import InputError


def frechet_distance(features: ArrayLike, reference: ArrayLike) -> float:
    """Return the Frechet distance between Gaussians fitted to two sets of features.

    ``|mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))`` (Heusel et al., arXiv
    1706.08500, equation 6). With features of an Inception network trained on ImageNet
    this is FID; with any other features it is **not** FID. Do not compare distances
    from different features or different sample sizes. The distance is biased upward in
    small sets: report it together with the distance between two sets of real images.

    Args:
      features: ``[N, D]`` features of the samples, N at least 2.
      reference: ``[M, D]`` features of real images, M at least 2.

    Returns:
      The squared distance, at least 0.

    Raises:
      InputError: fewer than two rows, different D, or values that are not finite.

    >>> round(frechet_distance([[0.0], [2.0]], [[3.0], [5.0]]), 6)
    9.0
    """
    for name, values in (("features", features), ("reference", reference)):
        if np.asarray(values).dtype.kind not in "biuf":
            raise InputError(f"{name} must be numbers, got {np.asarray(values).dtype}")
    sets = [np.asarray(values, np.float64) for values in (features, reference)]
    if (
        any(values.ndim != 2 or len(values) < 2 for values in sets)
        or sets[0].shape[1] != sets[1].shape[1]
    ):
        raise InputError(
            f"features have shapes {sets[0].shape} and {sets[1].shape}: pass [N, D] and"
            " [M, D], at least 2 rows each"
        )
    if not all(np.isfinite(values).all() for values in sets):
        raise InputError(
            "features contain NaN or infinity: check the samples and the classifier"
        )
    mean, other_mean = (values.mean(0) for values in sets)
    cov, other_cov = (np.atleast_2d(np.cov(values, rowvar=False)) for values in sets)
    root = _root(cov)
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ other_cov @ root), 0, None)).sum()
    distance = (
        np.sum((mean - other_mean) ** 2)
        + np.trace(cov)
        + np.trace(other_cov)
        - 2 * cross
    )
    return float(max(distance, 0.0))


def _root(matrix: np.ndarray) -> np.ndarray:
    """Return the symmetric square root of a covariance matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def concept_rate(predictions: ArrayLike, concept: int) -> float:
    """Return the fraction of predictions ``[N]`` that equal the concept.

    Raises:
      InputError: no predictions, predictions that are not integers ``[N]``, or a
        concept that is negative or not an integer.

    >>> concept_rate([3, 3, 5, 8], 3)
    0.5
    """
    check_counts(0, concept=concept)
    named = np.asarray(predictions)
    if named.ndim != 1 or not named.size or named.dtype.kind not in "iu":
        raise InputError(
            f"predictions are {named.dtype} of shape {named.shape}: pass one class"
            " index per sample"
        )
    return float((named == concept).mean())
