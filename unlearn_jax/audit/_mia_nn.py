"""MIA-NN: forgotten samples given to the neighboring class, against retrained models.

Wang, Ebrahimpour-Boroojeny and Sundaram 2025 (arXiv 2506.20893; CMIA in the ICML 2026
version "Unlearning Isn't Forgetting"; thesis arXiv 2512.06993). **This is a
reconstruction.** Neither code nor full text was available. What is published says that
per-class discriminators (support vector machines) are trained on the logits of
retrained models and then of the unlearned one, that the class nearest to the forgotten
one is found from several retrained models, that the score is measured on the forgotten
class's test samples, and that it should match the retrained models' score. Everything
else is our reading: the choices are options, and no published number is claimed to be
matched.

It is a test of a distribution, not a decision about a sample, and its value means
something only next to the retrained models' own score and its spread. Host-side NumPy
and scikit-learn, float64.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from unlearn_jax.audit.inputs import check_seed, real_array, refuse_infinite
from unlearn_jax.audit.predictions import softmax
from unlearn_jax.checks import check_range
from unlearn_jax.types import InputError

# Half a minute; a linear machine on wide, overlapping logits may take many without it.
_MAX_ITERATIONS = 10**6

Reading = Literal["neighbor_against_rest", "neighbor_against_forgotten"]
Features = Literal["logits", "probabilities"]


class Neighbor(NamedTuple):
    """The class nearest to a forgotten one.

    Attributes:
      neighbor: the class, the first of equals.
      fractions: ``[R, C]`` fraction of the forgotten class's samples that each class's
        discriminator claims, per retrained model; 0 for forgotten classes, which
        have no discriminator. Rows need not sum to 1.
    """

    neighbor: int
    fractions: np.ndarray


class MiaNN(NamedTuple):
    """Outcome of MIA-NN for one forgotten class; all rates are in [0, 1].

    Attributes:
      neighbor: the class that was used.
      scores: ``[S]`` score of each unlearned model (see ``reading`` of :func:`mia_nn`).
      reference_scores: ``[R]`` the same of each retrained model.
      reference_mean: their mean.
      reference_std: their standard deviation (``ddof=1``): a gap below about twice this
        is retraining noise.
      gap: ``[S]`` ``|scores - reference_mean|``; 0 is best.
      called: ``[S, F]`` bool, the forgotten class's samples, in ascending order, that
        are called "neighbor".
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
    """Training of a discriminator.

    Attributes:
      kernel: of the support vector machine (scikit-learn's ``SVC``). A ``linear`` one
        on logits that overlap and exceed about 20 stops after a million iterations with
        scikit-learn's ConvergenceWarning.
      C: its penalty; positive. 3 and ``gamma="auto"`` are those of the SVC attacks on
        unlearning (see :func:`~unlearn_jax.audit.mis`).
      gamma: width of the rbf kernel, ``exp(-gamma |a - b|^2)``: ``auto`` is 1 /
        columns, ``scale`` is 1 / (columns x variance of the centered inputs), or a
        positive number. Inputs are not scaled, so ``auto`` depends on the unit of the
        logits: where they spread widely within a class, the kernel is so narrow that a
        machine claims no new sample and retrained models score about 0 (0.04 for
        the digit 8 of a perceptron on 8x8 digits, whose logits reach 20; 0.42 with
        ``scale``). Look at ``reference_scores``, and use ``scale`` or
        ``features="probabilities"`` then.
      columns: inputs of the machine: ``all`` C, ``retained`` (without the forgotten
        classes'), or ``neighbor`` (one: that of the class it is to recognize).
      features: ``logits``, or ``probabilities``, the softmax over all C classes.
      balance: draw as many samples from each side; False takes all, up to the cap.
      max_samples: cap on the samples of each side, because a machine's time grows with
        their square; None for all.
      seed: chooses the samples; the same for every model, so models are compared on the
        same draw.
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
        """Raise on values that no machine could use."""
        for name, value, allowed in (
            ("kernel", self.kernel, ("rbf", "linear")),
            ("columns", self.columns, ("all", "retained", "neighbor")),
            ("features", self.features, ("logits", "probabilities")),
        ):
            if value not in allowed:
                raise InputError(
                    f"unknown {name} {value!r}: choose {' or '.join(allowed)}"
                )
        if isinstance(self.gamma, str) and self.gamma not in ("auto", "scale"):
            raise InputError(
                f"unknown gamma {self.gamma!r}: choose auto, scale or a positive number"
            )
        for name, value in (
            ("C", self.C),
            ("gamma", 1.0 if isinstance(self.gamma, str) else self.gamma),
        ):
            if not 0 < value < np.inf:
                raise InputError(f"{name} is {value}: pass a positive number")
        if self.max_samples is not None and self.max_samples < 1:
            raise InputError(
                f"max_samples is {self.max_samples}: pass at least 1, or None for all"
            )
        check_seed(self.seed)

    def draw(self, first: np.ndarray, second: np.ndarray) -> list[np.ndarray]:
        """Draw the training samples of both sides from their indices."""
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
        """Return the inputs ``[N, columns]`` of the discriminator of a class."""
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
        """Return the queries called first by a machine of first against second."""
        from sklearn.svm import SVC

        sides = self.draw(first, second)
        rows = inputs[np.concatenate(sides)]
        # Neither kernel's machine depends on the origin, but its rounding does: a
        # masked logit may be -1e10.
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
    """Return the retained class whose discriminator claims most of the forgotten one.

    On average over retrained models. For each retained class i a machine is trained on
    the logits of a retrained model, samples of class i against samples of the other
    retained classes, and asked about the forgotten class's samples.

    Args:
      reference_logits: ``[R, N, C]`` logits of R models retrained without the forgotten
        classes, on samples that none of them was trained on: test samples of the
        retained classes, and of the forgotten one.
      labels: ``[N]`` integers in 0..C-1, the true classes.
      forgotten: the forgotten class to look at.
      also_forgotten: classes that were forgotten with it; their samples are not used.
      discriminator: how the machines are trained.

    Returns:
      The neighbor and the fractions behind it.

    Raises:
      InputError: fewer than two retained classes, a class without samples, NaN or
        infinite logits, labels or classes out of range, or shapes that do not fit.

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
    # Where no machine claims anything, a forgotten class would be the first of equals.
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

    The machine is trained on this model's logits.

    Args:
      logits: ``[N, C]`` of one model, as for :func:`nearest_neighbor`.
      labels: ``[N]`` integers, the true classes.
      neighbor: the class to recognize, against the other retained classes.
      forgotten: the forgotten class to ask about.
      also_forgotten: classes that were forgotten with it.
      discriminator: how the machines are trained.

    Returns:
      ``[F]`` bool, the forgotten class's samples in ascending order: True where called
      "neighbor".

    Raises:
      InputError: as :func:`nearest_neighbor`, or a neighbor that is forgotten.
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
    """Return what every sample adds to a model's score: the score is the mean credit.

    Under ``neighbor_against_rest`` the samples of the forgotten class count, 1 where
    called "neighbor". Under ``neighbor_against_forgotten`` those of both classes do,
    ``n / (2 n_c)`` where the call is right: ``n_c`` of the ``n`` are of its own class.

    Args:
      logits: ``[N, C]`` of one model, as for :func:`nearest_neighbor`.
      labels: ``[N]`` integers, the true classes.
      neighbor: the class to recognize.
      forgotten: the forgotten class to score.
      also_forgotten: classes that were forgotten with it.
      reading: of :func:`mia_nn`.
      discriminator: how the machines are trained.

    Returns:
      ``[N]``, NaN for samples that do not count.

    Raises:
      InputError: as :func:`mia_nn`.
    """
    _check_reading(reading)
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
    """Return MIA-NN of unlearned models, and the same scores of retrained models.

    Two readings of the published descriptions, both with a machine trained on each
    model's logits:

    * ``neighbor_against_rest`` (default): the machine learns the neighbor's samples
      against the other retained classes'; score = fraction of the forgotten class's
      samples that it calls "neighbor". A retrained model scores high, one that spreads
      the forgotten class evenly scores low. Higher is better up to the retrained mean,
      as the caption of the paper's table says.
    * ``neighbor_against_forgotten``: the machine learns the neighbor's samples against
      the forgotten class's; score = balanced accuracy on the half of these samples that
      it was not trained on, each half once. Forgotten samples that stay recognizable
      score high, so higher is **worse**; 0.5 is chance.

    Args:
      reference_logits: ``[R, N, C]`` logits of models retrained without the forgotten
        classes, R at least 2, on samples that no model was trained on: test samples of
        all classes (other forgotten ones are ignored).
      target_logits: ``[N, C]`` of one unlearned model or ``[S, N, C]`` of several,
        on the same samples.
      labels: ``[N]`` integers in 0..C-1, the true classes.
      forgotten: the forgotten class to score. With several, call once for each.
      also_forgotten: the other classes that were forgotten with it.
      neighbor: the class to use; None searches it with :func:`nearest_neighbor` (C - 1
        machines per retrained model), which is the same under both readings.
      reading: see above.
      discriminator: how the machines are trained.

    Returns:
      Scores, gaps and calls; the same arguments give the same result.

    Raises:
      InputError: as :func:`nearest_neighbor`; fewer than two retrained models; a
        neighbor that is forgotten; fewer than two samples of either class under
        ``neighbor_against_forgotten``; an unknown reading.
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
            "reference_logits has 1 model: pass at least 2, or the score has no spread"
            " to be compared with"
        )
    _check_reading(reading)
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
    """Return the ``[F]`` calls of a discriminator on the first forgotten class."""
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
    """Return balanced accuracy, and the ``[F]`` calls of the forgotten class."""
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
    """Return the out-of-fold calls of the neighbor's samples and the forgotten ones."""
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


def _check_reading(reading: str) -> None:
    if reading not in ("neighbor_against_rest", "neighbor_against_forgotten"):
        raise InputError(
            f"unknown reading {reading!r}: choose neighbor_against_rest or"
            " neighbor_against_forgotten"
        )


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
    """Return all forgotten classes, the one to score first."""
    forgotten_classes = [int(forgotten), *(int(k) for k in also)]
    has_duplicates = len(set(forgotten_classes)) < len(forgotten_classes)
    if has_duplicates or not all(0 <= k < num_classes for k in forgotten_classes):
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
    if not 0 <= neighbor < num_classes or neighbor in forgotten_classes:
        raise InputError(
            f"neighbor is {neighbor}: pass a retained class in 0..{num_classes - 1}"
        )
    return int(neighbor)
