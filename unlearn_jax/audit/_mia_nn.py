"""MIA-NN: does an unlearned model give forgotten samples to the neighboring class as a retrained model does?

Wang, Ebrahimpour-Boroojeny and Sundaram 2025 (arXiv 2506.20893; CMIA in the ICML 2026
version "Unlearning Isn't Forgetting"; thesis arXiv 2512.06993). **This is a
reconstruction.** Neither code nor full text was at hand. What is published says that
per-class discriminators (support vector machines) are trained on the logits of
retrained models and then of the unlearned one, that the class nearest to the forgotten
one is found from several retrained models, that the score is measured on the forgotten
class's test samples, and that it should match the retrained models' score. Everything
else is our reading: the choices are knobs, and no published number is claimed to be
matched.

It is a test of a distribution, not a decision about a sample, and its value means
something only beside the retrained models' own score and its spread. Host-side NumPy
and scikit-learn, float64.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from unlearn_jax.audit.inputs import check_seed, real_array, refuse_infinite
from unlearn_jax.audit.predictions import softmax
from unlearn_jax.types import InputError

_MAX_ITERATIONS = (
    10**6
)  # half a minute; without a cap a linear machine on wide, overlapping logits may take many

Reading = Literal["neighbor_against_rest", "neighbor_against_forgotten"]


class Neighbor(NamedTuple):
    """The class nearest to a forgotten one.

    Attributes:
      neighbor: the class, the first of equals.
      shares: ``[R, C]`` share of the forgotten class's samples that the discriminator
        of each class calls its own, per retrained model; 0 for forgotten classes, which
        have no discriminator. Rows need not sum to 1.
    """

    neighbor: int
    shares: np.ndarray


class MiaNN(NamedTuple):
    """Outcome of MIA-NN for one forgotten class; all rates are in [0, 1].

    Attributes:
      neighbor: the class that was used.
      scores: ``[S]`` score of each unlearned model (see ``reading`` of :func:`mia_nn`).
      retrained_scores: ``[R]`` the same of each retrained model.
      retrained_mean: their mean.
      retrained_std: their standard deviation (``ddof=1``): a gap below about twice this
        is retraining noise.
      gap: ``[S]`` ``|scores - retrained_mean|``; 0 is best.
      called: ``[S, F]`` bool, the forgotten class's samples, in ascending order, that
        are called "neighbor".
    """

    neighbor: int
    scores: np.ndarray
    retrained_scores: np.ndarray
    retrained_mean: float
    retrained_std: float
    gap: np.ndarray
    called: np.ndarray


@dataclasses.dataclass(frozen=True)
class Discriminator:
    """How a discriminator is trained. The functions below take these as keyword knobs.

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
        machine calls nothing new its own and retrained models score about 0 (0.04 for
        the digit 8 of a perceptron on 8x8 digits, whose logits reach 20; 0.42 with
        ``scale``). Look at ``retrained_scores``, and use ``scale`` or
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
    features: Literal["logits", "probabilities"] = "logits"
    balance: bool = True
    max_samples: int | None = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses values no machine could use."""
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
        """Draws the training samples of both sides from their indices, without repeats."""
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

    def inputs(self, logits: np.ndarray, own: int, left_out: list[int]) -> np.ndarray:
        """The machine's inputs ``[N, columns]`` from ``[N, C]`` logits, for the discriminator of class ``own``."""
        if self.features == "probabilities":
            logits = softmax(logits)
        if self.columns == "neighbor":
            return logits[:, [own]]
        return (
            np.delete(logits, left_out, axis=1)
            if self.columns == "retained"
            else logits
        )

    def calls(
        self,
        inputs: np.ndarray,
        first: np.ndarray,
        second: np.ndarray,
        queries: np.ndarray,
    ) -> np.ndarray:
        """Which ``queries`` a machine trained on ``first`` against ``second`` (all indices) calls ``first``: bool."""
        from sklearn.svm import SVC

        sides = self.draw(first, second)
        rows = inputs[np.concatenate(sides)]
        # Neither kernel's machine depends on the origin, but its rounding does: a
        # masked logit may be -1e10.
        center = np.median(rows, axis=0)
        machine = SVC(
            C=self.C, gamma=self.gamma, kernel=self.kernel, max_iter=_MAX_ITERATIONS
        )  # pyright: ignore[reportArgumentType]
        machine.fit(
            rows - center, np.repeat([True, False], [side.size for side in sides])
        )
        return np.asarray(machine.predict(inputs[queries] - center), bool)


def nearest_neighbor(
    retrained_logits: ArrayLike,
    labels: ArrayLike,
    forgotten: int,
    *,
    also_forgotten: Sequence[int] = (),
    **discriminator: Any,
) -> Neighbor:
    """The retained class whose discriminator claims most of the forgotten class, on average over retrained models.

    For each retained class i a machine is trained on the logits of a retrained model,
    samples of class i against samples of the other retained classes, and asked about
    the forgotten class's samples.

    Args:
      retrained_logits: ``[R, N, C]`` logits of R models retrained without the forgotten
        classes, on samples that none of them was trained on: test samples of the
        retained classes, and of the forgotten one.
      labels: ``[N]`` integers in 0..C-1, the true classes.
      forgotten: the forgotten class to look at.
      also_forgotten: classes that were forgotten with it; their samples are not used.
      **discriminator: knobs of :class:`Discriminator`.

    Returns:
      The neighbor and the shares behind it.

    Raises:
      InputError: fewer than two retained classes, a class without samples, NaN or
        infinite logits, labels or classes out of range, shapes that do not fit, a knob
        out of range.

    >>> logits = np.eye(3)[[1, 1, 2, 2, 1]] + np.eye(3)[[0, 0, 0, 0, 2]] / 4
    >>> nearest_neighbor([logits], [1, 1, 2, 2, 0], 0).neighbor
    1
    """
    knobs = Discriminator(**discriminator)
    models = _read_logits("retrained_logits", retrained_logits, ndim=(3,))
    labels = _read_labels(labels, models)
    gone = _read_forgotten(forgotten, also_forgotten, labels, models.shape[2])
    shares = np.zeros((models.shape[0], models.shape[2]))
    for i in np.setdiff1d(np.arange(models.shape[2]), gone):
        shares[:, i] = [
            _calls_against_rest(knobs, logits, labels, int(i), gone).mean()
            for logits in models
        ]
    means = shares.mean(axis=0)
    means[
        gone
    ] = -1  # where no machine claims anything, a forgotten class would be the first of equals
    return Neighbor(int(means.argmax()), shares)


def discriminator_calls(
    logits: ArrayLike,
    labels: ArrayLike,
    neighbor: int,
    forgotten: int,
    *,
    also_forgotten: Sequence[int] = (),
    **discriminator: Any,
) -> np.ndarray:
    """Which of the forgotten class's samples the neighbor's discriminator, trained on this model's logits, claims.

    Args:
      logits: ``[N, C]`` of one model, as for :func:`nearest_neighbor`.
      labels: ``[N]`` integers, the true classes.
      neighbor: the class to recognize, against the other retained classes.
      forgotten: the forgotten class to ask about.
      also_forgotten: classes that were forgotten with it.
      **discriminator: knobs of :class:`Discriminator`.

    Returns:
      ``[F]`` bool, the forgotten class's samples in ascending order: True where called
      "neighbor".

    Raises:
      InputError: as :func:`nearest_neighbor`, or a neighbor that is forgotten.
    """
    knobs = Discriminator(**discriminator)
    logits = _read_logits("logits", logits, ndim=(2,))
    labels = _read_labels(labels, logits)
    gone = _read_forgotten(forgotten, also_forgotten, labels, logits.shape[1])
    return _calls_against_rest(
        knobs, logits, labels, _read_neighbor(neighbor, gone, logits.shape[1]), gone
    )


def mia_nn(
    retrained_logits: ArrayLike,
    unlearned_logits: ArrayLike,
    labels: ArrayLike,
    forgotten: int,
    *,
    also_forgotten: Sequence[int] = (),
    neighbor: int | None = None,
    reading: Reading = "neighbor_against_rest",
    **discriminator: Any,
) -> MiaNN:
    """MIA-NN of unlearned models, beside the same number of retrained models.

    Two readings of the published descriptions, both with a machine trained anew on each
    model's logits:

    * ``neighbor_against_rest`` (default): the machine learns the neighbor's samples
      against the other retained classes'; score = share of the forgotten class's
      samples that it calls "neighbor". A retrained model scores high, one that spreads
      the forgotten class evenly scores low. Higher is better up to the retrained mean,
      as the caption of the paper's table says.
    * ``neighbor_against_forgotten``: the machine learns the neighbor's samples against
      the forgotten class's; score = balanced accuracy on the half of these samples that
      it was not trained on, each half once. Forgotten samples that stay recognizable
      score high, so higher is **worse**; 0.5 cannot be told from the neighbor.

    Args:
      retrained_logits: ``[R, N, C]`` logits of models retrained without the forgotten
        classes, R at least 2, on samples that no model was trained on: test samples of
        all classes (other forgotten ones are ignored).
      unlearned_logits: ``[N, C]`` of one unlearned model or ``[S, N, C]`` of several,
        on the same samples.
      labels: ``[N]`` integers in 0..C-1, the true classes.
      forgotten: the forgotten class to score. With several, call once for each.
      also_forgotten: the other classes that were forgotten with it.
      neighbor: the class to use; None searches it with :func:`nearest_neighbor` (C - 1
        machines per retrained model), which is the same under both readings.
      reading: see above.
      **discriminator: knobs of :class:`Discriminator`.

    Returns:
      Scores, gaps and calls; the same arguments give the same result.

    Raises:
      InputError: as :func:`nearest_neighbor`; fewer than two retrained models; a
        neighbor that is forgotten; fewer than two samples of either class under
        ``neighbor_against_forgotten``; an unknown reading.
    """
    knobs = Discriminator(**discriminator)
    retrained = _read_logits("retrained_logits", retrained_logits, ndim=(3,))
    unlearned = _read_logits("unlearned_logits", unlearned_logits, ndim=(2, 3))
    unlearned = unlearned.reshape(-1, *unlearned.shape[-2:])
    if unlearned.shape[1:] != retrained.shape[1:]:
        shapes = f"{unlearned.shape[1:]} and {retrained.shape[1:]}"
        raise InputError(
            f"unlearned and retrained logits are {shapes}: pass the same samples and"
            " classes"
        )
    if retrained.shape[0] < 2:
        raise InputError(
            "retrained_logits has 1 model: pass at least 2, or the score has no spread"
            " to be compared with"
        )
    if reading not in ("neighbor_against_rest", "neighbor_against_forgotten"):
        raise InputError(
            f"unknown reading {reading!r}: choose neighbor_against_rest or"
            " neighbor_against_forgotten"
        )
    labels = _read_labels(labels, retrained)
    gone = _read_forgotten(forgotten, also_forgotten, labels, retrained.shape[2])
    if neighbor is None:
        neighbor = nearest_neighbor(
            retrained, labels, forgotten, also_forgotten=also_forgotten, **discriminator
        ).neighbor
    neighbor = _read_neighbor(neighbor, gone, retrained.shape[2])
    score = (
        _score_against_rest
        if reading == "neighbor_against_rest"
        else _score_against_forgotten
    )
    retrained_scores = np.array(
        [score(knobs, logits, labels, neighbor, gone)[0] for logits in retrained]
    )
    scores, called = zip(
        *(score(knobs, logits, labels, neighbor, gone) for logits in unlearned),
        strict=True,
    )
    mean = retrained_scores.mean()
    return MiaNN(
        neighbor=neighbor,
        scores=np.array(scores),
        retrained_scores=retrained_scores,
        retrained_mean=float(mean),
        retrained_std=float(retrained_scores.std(ddof=1)),
        gap=np.abs(np.array(scores) - mean),
        called=np.stack(called),
    )


def _calls_against_rest(
    knobs: Discriminator,
    logits: np.ndarray,
    labels: np.ndarray,
    own: int,
    gone: list[int],
) -> np.ndarray:
    """``[F]`` calls of class ``own``'s discriminator; ``gone[0]`` is the forgotten class that is asked about."""
    first = np.flatnonzero(labels == own)
    rest = np.flatnonzero((labels != own) & ~np.isin(labels, gone))
    queries = np.flatnonzero(labels == gone[0])
    return knobs.calls(knobs.inputs(logits, own, gone), first, rest, queries)


def _score_against_rest(
    knobs: Discriminator,
    logits: np.ndarray,
    labels: np.ndarray,
    neighbor: int,
    gone: list[int],
) -> tuple[float, np.ndarray]:
    called = _calls_against_rest(knobs, logits, labels, neighbor, gone)
    return float(called.mean()), called


def _score_against_forgotten(
    knobs: Discriminator,
    logits: np.ndarray,
    labels: np.ndarray,
    neighbor: int,
    gone: list[int],
) -> tuple[float, np.ndarray]:
    """Balanced accuracy over two folds, and the ``[F]`` out-of-fold calls."""
    inputs = knobs.inputs(logits, neighbor, gone)
    sides = [np.flatnonzero(labels == k) for k in (neighbor, gone[0])]
    if min(side.size for side in sides) < 2:
        raise InputError(
            "neighbor_against_forgotten needs at least 2 samples of both classes: pass"
            " more samples"
        )
    rng = np.random.default_rng(knobs.seed)
    folds = [rng.permutation(side.size) % 2 for side in sides]
    called = [np.zeros(side.size, bool) for side in sides]
    for fold in (0, 1):
        first, second = (side[f != fold] for side, f in zip(sides, folds, strict=True))
        for side, f, calls in zip(sides, folds, called, strict=True):
            calls[f == fold] = knobs.calls(inputs, first, second, side[f == fold])
    return float((called[0].mean() + 1 - called[1].mean()) / 2), called[1]


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
    if array.min() < 0 or array.max() >= classes:
        raise InputError(
            f"labels are in {array.min()}..{array.max()}: pass classes in"
            f" 0..{classes - 1}"
        )
    return array


def _read_forgotten(
    forgotten: int, also: Sequence[int], labels: np.ndarray, num_classes: int
) -> list[int]:
    """All forgotten classes, the one to score first."""
    gone = [int(forgotten), *(int(k) for k in also)]
    if len(set(gone)) < len(gone) or not all(0 <= k < num_classes for k in gone):
        raise InputError(
            f"forgotten classes are {gone}: pass different classes in"
            f" 0..{num_classes - 1}"
        )
    if num_classes - len(gone) < 2:
        raise InputError(
            f"{num_classes - len(gone)} of {num_classes} classes are retained: MIA-NN"
            " needs at least 2"
        )
    counts = np.bincount(labels, minlength=num_classes)
    empty = [k for k in range(num_classes) if not counts[k] and k not in gone[1:]]
    if empty:
        raise InputError(
            f"class {empty[0]} has no sample: pass test samples of all classes"
        )
    return gone


def _read_neighbor(neighbor: int, gone: list[int], num_classes: int) -> int:
    if not 0 <= neighbor < num_classes or neighbor in gone:
        raise InputError(
            f"neighbor is {neighbor}: pass a retained class in 0..{num_classes - 1}"
        )
    return int(neighbor)
