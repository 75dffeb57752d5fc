"""MIS, the confidence attack of unlearning papers: an SVC on one number.

Kept so that tables can be compared with published ones. It is weak (one threshold-like
feature, no references) and its value for a **retrained** model is far from a constant,
so it means something only next to that model's value.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from unlearn_jax.audit.inputs import check_seed, real_array, refuse_infinite
from unlearn_jax.types import InputError


class MisResult(NamedTuple):
    """Outcome of the confidence attack.

    Attributes:
      fraction: fraction of the forget samples called **non-members**, in [0, 1]; papers
        print it times 100. Unlike a score it grows with better forgetting, up to the
        retrained model's value.
      called_member: ``[F]`` bool, the prediction for each forget sample.
      num_per_side: samples of each class that the machine was trained on.
    """

    fraction: float
    called_member: np.ndarray
    num_per_side: int


def mis(
    retain: ArrayLike,
    test: ArrayLike,
    forget: ArrayLike,
    *,
    max_samples: int | None = 2000,
    seed: int = 0,
) -> MisResult:
    """Return the fraction of forget samples that an SVC calls non-members.

    ``SVC(C=3, gamma="auto", kernel="rbf")`` is trained on ``n`` random retain samples
    (members) against ``n`` random test samples (non-members),
    ``n = min(len(retain), len(test), max_samples)``, and applied to the forget samples
    (SalUn, Fan et al. 2024, and l1-sparse, Jia et al. 2023; AMUN draws its retain
    samples at random, as here). The attack is trained for each unlearned model.

    Args:
      retain: ``[R]`` softmax probabilities of the true class on retain samples.
      test: ``[T]`` the same on test samples.
      forget: ``[F]`` the same on forget samples.
      max_samples: cap on n, because an SVC's time grows with the square of n; published
        values use all test samples (10,000), which None restores.
      seed: chooses the samples; the same seed gives the same result.

    Returns:
      The fraction and the predictions behind it.

    Raises:
      InputError: arrays that are not one-dimensional, empty, not finite or beyond
        1e100; ``max_samples`` below 1 or a negative seed.

    >>> mis([0.99, 0.98, 0.97], [0.2, 0.3, 0.1], [0.15, 0.985]).fraction
    0.5
    """
    from sklearn.svm import SVC

    if max_samples is not None and max_samples < 1:
        raise InputError(
            f"max_samples is {max_samples}: pass at least 1, or None for all"
        )
    check_seed(seed)
    sides = []
    for name, values in (("retain", retain), ("test", test), ("forget", forget)):
        array = real_array(name, values, ndim=(1,)).astype(np.float64, copy=False)
        refuse_infinite(name, array)
        # Squares of larger numbers overflow.
        if np.abs(array).max() > 1e100:
            raise InputError(
                f"{name} holds {array[np.abs(array).argmax()]:g}: pass probabilities"
            )
        sides.append(array)
    members, outsiders, queries = sides
    n = min(members.size, outsiders.size, max_samples or members.size)
    rng = np.random.default_rng(seed)
    features = np.concatenate(
        [rng.choice(side, n, replace=False) for side in (members, outsiders)]
    )
    machine = SVC(C=3, gamma="auto", kernel="rbf").fit(
        features[:, None], np.repeat([True, False], n)
    )
    called_member = np.asarray(machine.predict(queries[:, None]), bool)
    return MisResult(float(1 - called_member.mean()), called_member, n)
