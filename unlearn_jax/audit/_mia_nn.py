"""MIA-NN: fraction of the forgotten class's samples claimed by its neighboring class.

Wang, Ebrahimpour-Boroojeny and Sundaram 2025 (arXiv 2506.20893; CMIA in the ICML 2026
version "Unlearning Isn't Forgetting"; thesis arXiv 2512.06993). **This is a
reconstruction.** Neither code nor full text was available. The published descriptions
say that

* discriminators, one support vector machine (SVM) per class, are trained on the logits
  of retrained models and then on those of the unlearned model;
* the class nearest to the forgotten class is determined from several retrained models;
* the score is measured on the forgotten class's test samples, and should match the
  retrained models' score.

Everything else is our reading. The choices are options, and we do not claim to match
any published number.

MIA-NN tests a distribution; it does not decide about single samples. Its value is
meaningful only next to the retrained models' scores and their spread. The functions
use NumPy and scikit-learn on the host, in float64.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike

from unlearn_jax.audit.inputs import check_seed, real_array, refuse_infinite
from unlearn_jax.audit.predictions import softmax
from unlearn_jax.checks import (
    check_choice,
    check_counts,
    check_positive,
    check_range,
)
from unlearn_jax.types import InputError

# About half a minute. Without this limit, a linear SVM on wide, overlapping logits may
# take many minutes.
_MAX_ITERATIONS = 10**6

Reading = Literal["neighbor_against_rest", "neighbor_against_forgotten"]
Features = Literal["logits", "probabilities"]


class Neighbor(NamedTuple):
    """The class nearest to a forgotten one.

    Attributes:
      neighbor: nearest class; the first one if several are tied.
      fractions: ``[R, C]`` fraction of the forgotten class's samples that each class's
        discriminator claims, per retrained model; 0 for forgotten classes, which
        have no discriminator. Rows need not sum to 1.
    """

    neighbor: int
    fractions: np.ndarray


class MiaNN(NamedTuple):
    """Result of MIA-NN for one forgotten class; all rates are in [0, 1].

    Attributes:
      neighbor: neighboring class that was used.
      scores: ``[S]`` score of each unlearned model (see ``reading`` of :func:`mia_nn`).
      reference_scores: ``[R]`` score of each retrained model.
      reference_mean: mean of ``reference_scores``.
      reference_std: standard deviation of ``reference_scores`` (``ddof=1``); a gap
        below about twice this is retraining noise.
      gap: ``[S]`` ``|scores - reference_mean|``; 0 is best.
      called: ``[S, F]`` bool, True where a sample of the forgotten class is called
        "neighbor"; samples in ascending order.
    """

    neighbor: int
    scores: np.ndarray
    reference_scores: np.ndarray
    reference_mean: float
    reference_std: float
    gap: np.ndarray
    called: np.ndarray


@dataclasses.dataclass(frozen=True)
class Discriminator:
    """Hyperparameters of a discriminator's training.

    Attributes:
      kernel: kernel of the SVM (scikit-learn's ``SVC``). On logits that overlap and
        exceed about 20, a ``linear`` kernel stops after a million iterations with
        scikit-learn's ConvergenceWarning.
      C: penalty of the SVM; positive. 3 and ``gamma="auto"`` are the values of the SVC
        attacks on unlearning (see :func:`~unlearn_jax.audit.mis`).
      gamma: inverse width of the rbf kernel, ``exp(-gamma |a - b|^2)``: ``auto`` is 1 /
        columns, ``scale`` is 1 / (columns x variance of the centered inputs), or a
        positive number. Inputs are not scaled, so the effect of ``auto`` depends on the
        scale of the logits. If they spread widely within a class, the kernel is so
        narrow that the SVM claims no new sample and retrained models score about 0
        (0.04 for the digit 8 of a perceptron on 8x8 digits, whose logits reach 20; 0.42
        with ``scale``). If ``reference_scores`` shows this, use ``scale`` or
        ``features="probabilities"``.
      columns: input columns of the SVM: ``all`` C, ``retained`` (without those of the
        forgotten classes), or ``neighbor`` (only that of the class to recognize).
      features: ``logits``, or ``probabilities``, the softmax over all C classes.
      balance: whether to draw equally many samples from both sides; False takes all
        samples, up to ``max_samples`` per side.
      max_samples: upper limit of the number of samples per side, because the training
        time grows with its square; None for no limit.
      seed: seed of the choice of samples; the same for every model, so that models are
        compared on the same samples.
    """

    kernel: Literal["rbf", "linear"] = "rbf"
    C: float = 3.0
    gamma: Literal["auto", "scale"] | float = "auto"
    columns: Literal["all", "retained", "neighbor"] = "all"
    features: Features = "logits"
    balance: bool = True
    max_samples: int | None = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise on values out of range."""
        check_choice("kernel", self.kernel, ("rbf", "linear"))
        check_choice("columns", self.columns, ("all", "retained", "neighbor"))
        check_choice("features", self.features, get_args(Features))
        check_positive(C=self.C)
        if isinstance(self.gamma, str):
            check_choice("gamma", self.gamma, ("auto", "scale"))
        else:
            check_positive(gamma=self.gamma)
        if self.max_samples is not None:
            check_counts(max_samples=self.max_samples)
        check_seed(self.seed)

    def draw(self, first: np.ndarray, second: np.ndarray) -> list[np.ndarray]:
        """Draw the indices of the training samples of both sides."""
        sizes = [
            min(side.size, self.max_samples or side.size) for side in (first, second)
        ]
        if self.balance:
            sizes = [min(sizes)] * 2
        rng = np.random.default_rng(self.seed)
        return [
            rng.choice(side, size, replace=False)
            for side, size in zip((first, second), sizes, strict=True)
        ]

    def inputs(self, logits: np.ndarray, label: int, left_out: list[int]) -> np.ndarray:
        """Return the inputs ``[N, columns]`` of class ``label``'s discriminator."""
        if self.features == "probabilities":
            logits = softmax(logits)
        if self.columns == "neighbor":
            return logits[:, [label]]
        if self.columns == "retained":
            return np.delete(logits, left_out, axis=1)
        return logits

    def calls(
        self,
        inputs: np.ndarray,
        first: np.ndarray,
        second: np.ndarray,
        queries: np.ndarray,
    ) -> np.ndarray:
        """Train an SVM of first against second; return True for queries called first.

        Args:
          inputs: ``[N, columns]`` inputs of all samples.
          first: indices of the samples of the first side.
          second: indices of the samples of the second side.
          queries: ``[Q]`` indices of the samples to call.

        Returns:
          ``[Q]`` bool.
        """
        from sklearn.svm import SVC

        sides = self.draw(first, second)
        rows = inputs[np.concatenate(sides)]
        # With both kernels the SVM does not depend on the origin of the inputs, but its
        # rounding does: a masked logit may be -1e10.
        center = np.median(rows, axis=0)
        machine = SVC(
            C=self.C,
            gamma=self.gamma,  # pyright: ignore[reportArgumentType]
            kernel=self.kernel,
            max_iter=_MAX_ITERATIONS,
        )
        is_first = np.repeat([True, False], [side.size for side in sides])
        machine.fit(rows - center, is_first)
        return np.asarray(machine.predict(inputs[queries] - center), bool)


_DEFAULT = Discriminator()


def nearest_neighbor(
    reference_logits: ArrayLike,
    labels: ArrayLike,
    forgotten: int,
    *,
    also_forgotten: Sequence[int] = (),
    discriminator: Discriminator = _DEFAULT,
) -> Neighbor:
    """Return the retained class that most resembles the forgotten class.

    For each retained class i and each retrained model, an SVM is trained on the model's
    logits to separate samples of class i from samples of the other retained classes. It
    then classifies the forgotten class's samples. The neighbor is the class whose SVMs
    claim the largest fraction of them, on average over the retrained models.

    Args:
      reference_logits: ``[R, N, C]`` logits of R models retrained without the forgotten
        classes, on samples that none of them was trained on: test samples of the
        retained classes and of the forgotten class.
      labels: ``[N]`` integers in 0..C-1, the true classes.
      forgotten: forgotten class whose neighbor is returned.
      also_forgotten: other forgotten classes; their samples are not used.
      discriminator: hyperparameters of the SVMs.

    Returns:
      The neighbor and the fractions it was chosen by.

    Raises:
      InputError: fewer than two retained classes, a class without samples, NaN or
        infinite logits, labels or classes out of range, or shapes that do not match.

    >>> logits = np.eye(3)[[1, 1, 2, 2, 1]] + np.eye(3)[[0, 0, 0, 0, 2]] / 4
    >>> nearest_neighbor([logits], [1, 1, 2, 2, 0], 0).neighbor
    1
    """
    models = _read_logits("reference_logits", reference_logits, ndim=(3,))
    labels = _read_labels(labels, models)
    forgotten_classes = _read_forgotten(
        forgotten, also_forgotten, labels, models.shape[2]
    )
    fractions = np.zeros((models.shape[0], models.shape[2]))
    for i in np.setdiff1d(np.arange(models.shape[2]), forgotten_classes):
        fractions[:, i] = [
            _calls_against_rest(
                discriminator, logits, labels, int(i), forgotten_classes
            ).mean()
            for logits in models
        ]
    means = fractions.mean(axis=0)
    # If no SVM claims any sample, argmax must not pick a forgotten class.
    means[forgotten_classes] = -1
    return Neighbor(int(means.argmax()), fractions)


def discriminator_calls(
    logits: ArrayLike,
    labels: ArrayLike,
    neighbor: int,
    forgotten: int,
    *,
    also_forgotten: Sequence[int] = (),
    discriminator: Discriminator = _DEFAULT,
) -> np.ndarray:
    """Return the forgotten class's samples that the neighbor's discriminator claims.

    The discriminator is trained on this model's logits.

    Args:
      logits: ``[N, C]`` logits of one model, as for :func:`nearest_neighbor`.
      labels: ``[N]`` integers, the true classes.
      neighbor: class to recognize, against the other retained classes.
      forgotten: forgotten class whose samples are called.
      also_forgotten: other forgotten classes.
      discriminator: hyperparameters of the SVM.

    Returns:
      ``[F]`` bool, True where a sample of the forgotten class is called "neighbor";
      samples in ascending order.

    Raises:
      InputError: the same cases as :func:`nearest_neighbor`; a neighbor that is
        forgotten.
    """
    logits = _read_logits("logits", logits, ndim=(2,))
    labels = _read_labels(labels, logits)
    forgotten_classes = _read_forgotten(
        forgotten, also_forgotten, labels, logits.shape[1]
    )
    neighbor = _read_neighbor(neighbor, forgotten_classes, logits.shape[1])
    return _calls_against_rest(
        discriminator, logits, labels, neighbor, forgotten_classes
    )


def neighbor_credits(
    logits: ArrayLike,
    labels: ArrayLike,
    neighbor: int,
    forgotten: int,
    *,
    also_forgotten: Sequence[int] = (),
    reading: Reading = "neighbor_against_rest",
    discriminator: Discriminator = _DEFAULT,
) -> np.ndarray:
    """Return the credit of each sample; a model's score is the mean credit.

    Under ``neighbor_against_rest`` the samples of the forgotten class count: the credit
    is 1 where a sample is called "neighbor", else 0. Under
    ``neighbor_against_forgotten`` the ``n`` samples of both classes count: the credit
    is ``n / (2 n_c)`` where the call is right, else 0, with ``n_c`` the number of
    samples of the sample's class.

    Args:
      logits: ``[N, C]`` logits of one model, as for :func:`nearest_neighbor`.
      labels: ``[N]`` integers, the true classes.
      neighbor: class to recognize.
      forgotten: forgotten class to score.
      also_forgotten: other forgotten classes.
      reading: definition of the score, see :func:`mia_nn`.
      discriminator: hyperparameters of the SVMs.

    Returns:
      ``[N]`` float64, NaN for samples that do not count.

    Raises:
      InputError: the same cases as :func:`mia_nn`.
    """
    check_choice("reading", reading, get_args(Reading))
    logits = _read_logits("logits", logits, ndim=(2,))
    labels = _read_labels(labels, logits)
    forgotten_classes = _read_forgotten(
        forgotten, also_forgotten, labels, logits.shape[1]
    )
    neighbor = _read_neighbor(neighbor, forgotten_classes, logits.shape[1])
    credits = np.full(len(labels), np.nan)
    if reading == "neighbor_against_rest":
        credits[labels == forgotten] = _calls_against_rest(
            discriminator, logits, labels, neighbor, forgotten_classes
        )
        return credits
    local, foreign = _calls_against_forgotten(
        discriminator, logits, labels, neighbor, forgotten_classes
    )
    count = local.size + foreign.size
    credits[labels == neighbor] = local * count / (2 * local.size)
    credits[labels == forgotten] = ~foreign * count / (2 * foreign.size)
    return credits


def mia_nn(
    reference_logits: ArrayLike,
    target_logits: ArrayLike,
    labels: ArrayLike,
    forgotten: int,
    *,
    also_forgotten: Sequence[int] = (),
    neighbor: int | None = None,
    reading: Reading = "neighbor_against_rest",
    discriminator: Discriminator = _DEFAULT,
) -> MiaNN:
    """Return the MIA-NN scores of unlearned models and of retrained models.

    There are two readings of the published descriptions. Both train an SVM on each
    model's logits.

    * ``neighbor_against_rest`` (default): the SVM separates the neighbor's samples from
      those of the other retained classes. The score is the fraction of the forgotten
      class's samples that it calls "neighbor". A retrained model scores high; a model
      that spreads the forgotten class evenly scores low. Higher is better up to the
      retrained mean, as the caption of the paper's table says.
    * ``neighbor_against_forgotten``: the SVM separates the neighbor's samples from the
      forgotten class's. The score is the balanced accuracy under two-fold
      cross-validation: each half of the samples is called by an SVM trained on the
      other half. Forgotten samples that stay recognizable score high, so higher is
      **worse**; 0.5 is chance.

    Args:
      reference_logits: ``[R, N, C]`` logits of models retrained without the forgotten
        classes, R at least 2, on samples that no model was trained on: test samples of
        all classes (those of ``also_forgotten`` are ignored).
      target_logits: ``[N, C]`` logits of one unlearned model, or ``[S, N, C]`` of
        several, on the same samples.
      labels: ``[N]`` integers in 0..C-1, the true classes.
      forgotten: forgotten class to score. If several classes were forgotten, call once
        for each.
      also_forgotten: other forgotten classes.
      neighbor: class to use as the neighbor; None determines it with
        :func:`nearest_neighbor` (one SVM per retained class and retrained model), the
        same for both readings.
      reading: ``neighbor_against_rest`` or ``neighbor_against_forgotten``, see above.
      discriminator: hyperparameters of the SVMs.

    Returns:
      Scores, gaps and calls; the same arguments give the same result.

    Raises:
      InputError: the same cases as :func:`nearest_neighbor`; fewer than two retrained
        models; a neighbor that is forgotten; fewer than two samples of either class
        under ``neighbor_against_forgotten``; an unknown reading.
    """
    reference = _read_logits("reference_logits", reference_logits, ndim=(3,))
    target = _read_logits("target_logits", target_logits, ndim=(2, 3))
    target = target.reshape(-1, *target.shape[-2:])
    if target.shape[1:] != reference.shape[1:]:
        shapes = f"{target.shape[1:]} and {reference.shape[1:]}"
        raise InputError(
            f"target and reference logits are {shapes}: pass the same samples and"
            " classes"
        )
    if reference.shape[0] < 2:
        raise InputError(
            "reference_logits has 1 model: pass at least 2, so that the scores have a"
            " spread"
        )
    check_choice("reading", reading, get_args(Reading))
    labels = _read_labels(labels, reference)
    forgotten_classes = _read_forgotten(
        forgotten, also_forgotten, labels, reference.shape[2]
    )
    if neighbor is None:
        neighbor = nearest_neighbor(
            reference,
            labels,
            forgotten,
            also_forgotten=also_forgotten,
            discriminator=discriminator,
        ).neighbor
    neighbor = _read_neighbor(neighbor, forgotten_classes, reference.shape[2])
    is_against_rest = reading == "neighbor_against_rest"
    score = _score_against_rest if is_against_rest else _score_against_forgotten
    reference_scores = np.array(
        [
            score(discriminator, logits, labels, neighbor, forgotten_classes)[0]
            for logits in reference
        ]
    )
    results = [
        score(discriminator, logits, labels, neighbor, forgotten_classes)
        for logits in target
    ]
    scores, called = zip(*results, strict=True)
    mean = reference_scores.mean()
    return MiaNN(
        neighbor=neighbor,
        scores=np.array(scores),
        reference_scores=reference_scores,
        reference_mean=float(mean),
        reference_std=float(reference_scores.std(ddof=1)),
        gap=np.abs(np.array(scores) - mean),
        called=np.stack(called),
    )


def _calls_against_rest(
    discriminator: Discriminator,
    logits: np.ndarray,
    labels: np.ndarray,
    label: int,
    forgotten_classes: list[int],
) -> np.ndarray:
    """Return the ``[F]`` calls of class ``label``'s discriminator.

    The calls are of the samples of the first forgotten class.
    """
    first = np.flatnonzero(labels == label)
    rest = np.flatnonzero((labels != label) & ~np.isin(labels, forgotten_classes))
    queries = np.flatnonzero(labels == forgotten_classes[0])
    inputs = discriminator.inputs(logits, label, forgotten_classes)
    return discriminator.calls(inputs, first, rest, queries)


def _score_against_rest(
    discriminator: Discriminator,
    logits: np.ndarray,
    labels: np.ndarray,
    neighbor: int,
    forgotten_classes: list[int],
) -> tuple[float, np.ndarray]:
    """Return the fraction called "neighbor", and the ``[F]`` calls."""
    called = _calls_against_rest(
        discriminator, logits, labels, neighbor, forgotten_classes
    )
    return float(called.mean()), called


def _score_against_forgotten(
    discriminator: Discriminator,
    logits: np.ndarray,
    labels: np.ndarray,
    neighbor: int,
    forgotten_classes: list[int],
) -> tuple[float, np.ndarray]:
    """Return the balanced accuracy, and the ``[F]`` calls of the forgotten class."""
    local, foreign = _calls_against_forgotten(
        discriminator, logits, labels, neighbor, forgotten_classes
    )
    return float((local.mean() + 1 - foreign.mean()) / 2), foreign


def _calls_against_forgotten(
    discriminator: Discriminator,
    logits: np.ndarray,
    labels: np.ndarray,
    neighbor: int,
    forgotten_classes: list[int],
) -> tuple[np.ndarray, np.ndarray]:
    """Return the out-of-fold calls of the neighbor's and the forgotten class's samples.

    True where a sample is called "neighbor".
    """
    inputs = discriminator.inputs(logits, neighbor, forgotten_classes)
    sides = [np.flatnonzero(labels == k) for k in (neighbor, forgotten_classes[0])]
    if min(side.size for side in sides) < 2:
        raise InputError(
            "neighbor_against_forgotten needs at least 2 samples of both classes: pass"
            " more samples"
        )
    rng = np.random.default_rng(discriminator.seed)
    folds = [rng.permutation(side.size) % 2 for side in sides]
    called = [np.zeros(side.size, bool) for side in sides]
    for fold in (0, 1):
        first, second = (side[f != fold] for side, f in zip(sides, folds, strict=True))
        for side, f, calls in zip(sides, folds, called, strict=True):
            is_query = f == fold
            calls[is_query] = discriminator.calls(inputs, first, second, side[is_query])
    return called[0], called[1]


def _read_logits(name: str, values: ArrayLike, *, ndim: tuple[int, ...]) -> np.ndarray:
    logits = real_array(name, values, ndim=ndim).astype(np.float64, copy=False)
    refuse_infinite(name, logits)
    return logits


def _read_labels(labels: ArrayLike, logits: np.ndarray) -> np.ndarray:
    array = np.asarray(labels)
    samples, classes = logits.shape[-2:]
    if array.shape != (samples,) or array.dtype.kind not in "iu":
        raise InputError(
            f"labels are {array.dtype} of shape {array.shape}: pass {samples} integers,"
            " one per sample"
        )
    check_range(array, classes, "mia_nn")
    return array


def _read_forgotten(
    forgotten: int, also: Sequence[int], labels: np.ndarray, num_classes: int
) -> list[int]:
    """Return all forgotten classes, checked; the class to score comes first."""
    forgotten_classes = [forgotten, *also]
    for k in forgotten_classes:
        check_counts(0, forgotten=k)
    has_duplicates = len(set(forgotten_classes)) < len(forgotten_classes)
    if has_duplicates or max(forgotten_classes) >= num_classes:
        raise InputError(
            f"forgotten classes are {forgotten_classes}: pass different classes in"
            f" 0..{num_classes - 1}"
        )
    num_retained = num_classes - len(forgotten_classes)
    if num_retained < 2:
        raise InputError(
            f"{num_retained} of {num_classes} classes are retained: MIA-NN needs at"
            " least 2"
        )
    counts = np.bincount(labels, minlength=num_classes)
    empty = [
        k
        for k in range(num_classes)
        if not counts[k] and k not in forgotten_classes[1:]
    ]
    if empty:
        raise InputError(
            f"class {empty[0]} has no sample: pass test samples of all classes"
        )
    return forgotten_classes


def _read_neighbor(
    neighbor: int, forgotten_classes: list[int], num_classes: int
) -> int:
    check_counts(0, neighbor=neighbor)
    if neighbor >= num_classes or neighbor in forgotten_classes:
        raise InputError(
            f"neighbor is {neighbor}: pass a retained class in 0..{num_classes - 1}"
        )
    return int(neighbor)
