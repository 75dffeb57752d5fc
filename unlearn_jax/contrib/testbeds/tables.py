"""Simulated tables of unlearned models with known expected values.

Every run of a table is one model. Runs are crossed: there is one for every combination
of an original, a forget set and a repeat. All runs score the same pool of samples.
Scores and margins are normal, so the expected AUC and accuracy over all originals,
forget sets, repeats and samples have a closed form, and that is the number an interval
should cover.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from unlearn_jax.checks import (
    check_counts,
    check_finite,
    check_fractions,
    check_not_negative,
    check_shape,
)
from unlearn_jax.types import InputError
from unlearn_jax.values import value


@value
class TableDesign:
    """Sizes of a table and the standard deviations of its variance components.

    The score of sample i in run r is ``hardness_i + shift_r [i forgotten by r] +
    noise_ir`` and its margin is ``hardness_i + level_r + noise_ir``. Both ``shift_r``
    and ``level_r`` are a constant plus the effects of the original, of the forget set
    and of the run. Hardness and noise have variances that sum to 1.

    Attributes:
      originals: number of original models, at least 1.
      forget_sets: number of forget sets, at least 1.
      repeats: runs per pair of an original and a forget set, at least 1.
      num_train: number of training samples, which come first in the pool.
      num_test: number of test samples.
      num_forget: number of samples in a forget set, drawn from the training samples.
      original_std: standard deviation of an original's effect, in standard deviations
        of a score.
      set_std: standard deviation of a forget set's effect, in the same unit.
      run_std: standard deviation of a run's effect, in the same unit.
      hardness: fraction of a score's variance that all runs have in common, in [0, 1].
      shared: fraction of the variance of originals' and forget sets' effects that all
        rows have in common, in [0, 1].

    Raises:
      InputError: no runs or samples, more forget than training samples, a standard
        deviation that is negative, or a fraction outside [0, 1].
    """

    originals: int = 3
    forget_sets: int = 3
    repeats: int = 1
    num_train: int = 160
    num_test: int = 80
    num_forget: int = 40
    original_std: float = 0.0
    set_std: float = 0.0
    run_std: float = 0.0
    hardness: float = 0.6
    shared: float = 0.8

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_counts(
            originals=self.originals,
            forget_sets=self.forget_sets,
            repeats=self.repeats,
            num_train=self.num_train,
            num_test=self.num_test,
            num_forget=self.num_forget,
        )
        check_not_negative(
            original_std=self.original_std, set_std=self.set_std, run_std=self.run_std
        )
        check_fractions(hardness=self.hardness, shared=self.shared)
        if self.num_forget > self.num_train:
            raise InputError(
                f"{self.num_forget} of {self.num_train} training samples cannot be"
                " forgotten"
            )

    @property
    def effects_variance(self) -> float:
        """Variance of a run's total effect over originals, forget sets and runs."""
        return self.original_std**2 + self.set_std**2 + self.run_std**2


class SimulatedTable(NamedTuple):
    """One simulated table of K rows, R runs and N samples.

    Attributes:
      runs: ``[R, 3]`` original, forget set and repeat of each run.
      train: ``[N]`` bool, the training samples.
      forget: ``[R, N]`` bool, the forget set of each run.
      scores: ``[K, R, N]`` membership scores of each row.
      right: ``[K, R, N]`` bool, correct predictions of each row.
    """

    runs: np.ndarray
    train: np.ndarray
    forget: np.ndarray
    scores: np.ndarray
    right: np.ndarray


def simulate_table(
    rng: np.random.Generator,
    design: TableDesign,
    shifts: Sequence[float] = (0.0,),
    levels: Sequence[float] = (1.0,),
) -> SimulatedTable:
    """Draw a table with a row for each shift.

    Rows have the same samples and forget sets, a part of their effects in common, and
    independent noise. They stand for models that different methods made from the same
    originals.

    Args:
      rng: generator for the draws; its state advances.
      design: sizes and variance components.
      shifts: shifts of the scores of forgotten samples, one per row.
      levels: levels of the margins, one per row or one for all rows.

    Raises:
      InputError: no shifts, another number of levels than of shifts, or numbers that
        are not finite.
    """
    check_shape("shifts", shifts, (None,))
    check_shape("levels", levels, (None,))
    check_finite(shifts=shifts, levels=levels)
    if not len(shifts) or len(levels) not in (1, len(shifts)):
        raise InputError(
            f"{len(levels)} levels for {len(shifts)} shifts: pass at least one shift,"
            " and one level per shift or a single one"
        )
    sizes = (design.originals, design.forget_sets, design.repeats)
    runs = np.indices(sizes).reshape(3, -1).T
    num_samples = design.num_train + design.num_test
    train = np.arange(num_samples) < design.num_train
    forget = np.zeros((design.forget_sets, num_samples), bool)
    for one in forget:
        one[rng.choice(design.num_train, design.num_forget, replace=False)] = True
    forget = forget[runs[:, 1]]
    hardness = np.sqrt(design.hardness) * rng.normal(size=num_samples)

    def effects() -> np.ndarray:
        """Draw each run's total effect, ``[K, R, 1]``."""
        count = len(shifts)

        def levels(number: int) -> np.ndarray:
            common = np.sqrt(design.shared) * rng.normal(size=(1, number))
            return common + np.sqrt(1 - design.shared) * rng.normal(
                size=(count, number)
            )

        by_original = levels(design.originals)[:, runs[:, 0]]
        by_set = levels(design.forget_sets)[:, runs[:, 1]]
        by_run = rng.normal(size=(count, len(runs)))
        total = design.original_std * by_original + design.set_std * by_set
        return (total + design.run_std * by_run)[..., None]

    def noise() -> np.ndarray:
        shape = (len(shifts), len(runs), num_samples)
        return np.sqrt(1 - design.hardness) * rng.normal(size=shape)

    moved = np.asarray(shifts)[:, None, None] + effects()
    scores = hardness + noise() + moved * forget
    margins = hardness + noise() + np.asarray(levels)[:, None, None] + effects()
    return SimulatedTable(runs, train, forget, scores, margins > 0)


def expected_auc(design: TableDesign, shift: float) -> float:
    """Return the expected AUC of forgotten against test samples, in [0, 1].

    ``E Phi(shift_r / sqrt(2)) = Phi(shift / sqrt(2 + effects_variance))``.

    Raises:
      InputError: a shift that is not finite.

    >>> expected_auc(TableDesign(), 0.0)
    0.5
    """
    check_finite(shift=shift)
    return float(norm.cdf(shift / np.sqrt(2 + design.effects_variance)))


def expected_accuracy(design: TableDesign, level: float) -> float:
    """Return the expected accuracy, ``Phi(level / sqrt(1 + effects_variance))``.

    Raises:
      InputError: a level that is not finite.
    """
    check_finite(level=level)
    return float(norm.cdf(level / np.sqrt(1 + design.effects_variance)))


def level_of_accuracy(design: TableDesign, accuracy: float) -> float:
    """Return the level at which :func:`expected_accuracy` is ``accuracy``.

    Raises:
      InputError: an accuracy outside (0, 1).
    """
    check_fractions(accuracy=accuracy)
    if accuracy in (0, 1):
        raise InputError(
            f"no level has an accuracy of {accuracy}: it must be in (0, 1)"
        )
    return float(norm.ppf(accuracy) * np.sqrt(1 + design.effects_variance))
