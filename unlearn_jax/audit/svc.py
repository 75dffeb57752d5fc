"""MIS, the confidence attack of unlearning papers: an SVC on one number.

The attack is included for comparison with published tables. It is weak: it uses one
feature, little more than a threshold on it, and no reference models. Its value for a
**retrained** model varies widely, so a value is meaningful only next to that model's.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from unlearn_jax.audit.inputs import check_seed, real_array, refuse_infinite
from unlearn_jax.checks import check_counts
from unlearn_jax.types import InputError


class MisResult(NamedTuple):
    """Result of the confidence attack.

    Attributes:
      fraction: fraction of the forget samples called **non-members**, in [0, 1]; papers
        print it in percent. Unlike a membership score it rises with better forgetting,
        up to the retrained model's value.
      called_member: ``[F]`` bool, True for forget samples called members.
      num_per_side: number of members, and of non-members, that the SVC was trained on.
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
    (members) against ``n`` random test samples (non-members), where
    ``n = min(len(retain), len(test), max_samples)``, and applied to the forget samples
    (SalUn, Fan et al. 2024, and l1-sparse, Jia et al. 2023). AMUN also draws its retain
    samples at random. A separate SVC is trained for each unlearned model.

    Args:
      retain: ``[R]`` softmax probabilities of the true class on retain samples.
      test: ``[T]`` the same probabilities on test samples.
      forget: ``[F]`` the same probabilities on forget samples.
      max_samples: upper limit of n, because the training time of an SVC grows with the
        square of n; None for no limit. Published values use all test samples (10,000),
        as None does.
      seed: seed of the choice of samples; the same seed gives the same result.

    Returns:
      The fraction and the predictions behind it.

    Raises:
      InputError: arrays that are not one-dimensional, empty, or not finite; absolute
        values above 1e100; ``max_samples`` below 1; or a negative seed.

    >>> mis([0.99, 0.98, 0.97], [0.2, 0.3, 0.1], [0.15, 0.985]).fraction
    0.5
    """
    from sklearn.svm import SVC

    if max_samples is not None:
        check_counts(max_samples=max_samples)
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
