"""TRW, Tilted ReWeighting: fine-tune towards tilted predictions of the original."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from unlearn_jax.checks import (
    check_counts,
    check_finite,
    check_not_negative,
    check_positive,
)
from unlearn_jax.losses import cross_entropy
from unlearn_jax.losses.tilted import tilted_target
from unlearn_jax.methods.base import (
    FineTuning,
    finetune_on,
    forget_rows,
    forward_fn,
    num_classes,
)
from unlearn_jax.methods.similarity import (
    Coefficients,
    Perturbation,
    Similarity,
    excluded_classes,
    similarity_scores,
)
from unlearn_jax.train import Batch, LossFn, fetch_from, predict
from unlearn_jax.types import (
    Array,
    InputError,
    ModelState,
    Problem,
    UnlearnInfo,
    Variables,
)
from unlearn_jax.values import Real, value

Targets = Literal["once", "view"]


@value
class TRW(FineTuning):
    """Cross-entropy with tilted targets on D_F, and with the true labels on D_R.

    Tilted ReWeighting (arXiv 2512.06993, chapter 5; RWFT in version 1 of arXiv
    2506.20893, TREW later) minimizes the mean over D_F and D_R of

        ``CE(q(x), p(x))`` for ``x`` in D_F,
        ``retain_weight CE(y, p(x))`` for ``x`` in D_R,

    with ``q(k|x) = r(k|x) exp(beta s_k) / sum_j r(j|x) exp(beta s_j)`` (equation 5.2).
    Here ``r`` is the original's prediction in evaluation mode, renormalized without the
    excluded classes, and ``s`` is the similarity of the classes to that of ``x``
    (:func:`unlearn_jax.methods.similarity.similarity_scores`).

    **Published** are the target; the similarity (last-layer weights by PCA, cosine and
    "a sharp softmax temperature"); beta 10 (larger values pass nearest-neighbor attacks
    better but cost accuracy on D_R); and that the objective is a drop-in replacement in
    fine-tuning. No code is public, and only the abstracts, openings and reviews of the
    papers were read. **Ours**, since no source states them, are: plain cosines of
    centered vectors, without projection or temperature (at beta 10, centering alone
    raised the nearest class's odds another 60 to 75 times in a small example; a sharp
    temperature makes ``s`` nearly one-hot, so that the odds grow up to e^10 times); the
    direction of the divergence; one shuffled set of D_F and D_R with ``retain_weight``
    1; the settings of the fine-tuning; if several classes are forgotten at once, that
    ``s`` is relative to the sample's own class and that all forgotten classes are
    excluded; and targets from clean images. TRW-2R, a variant in the papers' tables, is
    not described anywhere and not offered.

    A sample's own class is excluded too, so the method accepts any forget set: if no
    whole class is forgotten, it is DELETE with a tilt. Classes that earlier requests
    forgot are excluded as well
    (:func:`unlearn_jax.methods.similarity.excluded_classes`). Without ``retain``, no
    retained image is read with ``weights``; the other similarities read them.

    The reported losses are cross-entropies, whose minimum is the entropy of the
    targets, not 0. ``num_gradients`` does not include the forward passes for targets
    and similarities.

    Attributes:
      beta: strength of the tilt; 0 only renormalizes.
      similarity: ``weights``, ``centroids``, ``features``, ``neighbors`` or ``fitted``,
        a row of the table of
        :func:`unlearn_jax.methods.similarity.similarity_scores`.
      coefficients: coefficients of ``fitted``; use them with ``beta=1``.
      num_components: number of principal components to project the weights on before
        the cosine; None for no projection. For ``weights`` only.
      center: subtract the mean over classes of the weights, or the mean over D_R of the
        features, before the cosine.
      temperature: temperature of a softmax over the classes that are not excluded,
        which replaces the similarities; positive, or None for none.
      num_neighbors: number of neighbors for ``neighbors``, at most the number of
        retained samples.
      retain: train on D_R too.
      retain_weight: weight of the cross-entropy on D_R, not negative.
      targets: ``once`` computes the targets before training, from the clean forget
        images; ``view`` computes them in every step, from the augmented images of the
        batch. Without ``augment`` both are the same.
      perturb: perturbation of the similarities, a row of the table of
        :func:`unlearn_jax.methods.similarity.perturb_similarity`.
      noise: scale of ``perturb="noise"``, in standard deviations.
    """

    beta: Real = 10.0
    similarity: Similarity = "weights"
    coefficients: Coefficients = (0.0, 0.0, 0.0)
    num_components: int | None = None
    center: bool = True
    temperature: Real | None = None
    num_neighbors: int = 10
    retain: bool = True
    retain_weight: Real = 1.0
    targets: Targets = "once"
    perturb: Perturbation = "none"
    noise: Real = 0.0

    def __post_init__(self) -> None:
        """Raise on values that no target could use."""
        super().__post_init__()
        check_not_negative(
            beta=self.beta,
            retain_weight=self.retain_weight,
            noise=self.noise,
        )
        if self.temperature is not None:
            check_positive(temperature=self.temperature)
        if len(self.coefficients) != 3:
            raise InputError(
                "coefficients of a method must be three numbers, one per descriptor of"
                " a pair of classes"
            )
        for coefficient in self.coefficients:
            check_finite(coefficients=coefficient)
        if self.num_components is not None and self.similarity != "weights":
            raise InputError(
                "num_components projects the weights: leave it None with"
                f" similarity={self.similarity!r}"
            )
        check_counts(num_neighbors=self.num_neighbors)
        if self.num_components is not None:
            check_counts(num_components=self.num_components)

    def __call__(self, key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        """Compute the similarities and fine-tune.

        Args:
          key: PRNG key; consumed.
          problem: gives the model and the sets.

        Raises:
          InputError: a model without a last linear layer; more neighbors than retained
            samples, or more components than the classes allow.
        """
        key, key_scores = jax.random.split(key)
        excluded = excluded_classes(problem, num_classes(problem))
        scores = similarity_scores(
            key_scores,
            problem,
            excluded,
            kind=self.similarity,
            num_components=self.num_components,
            center=self.center,
            temperature=self.temperature,
            num_neighbors=self.num_neighbors,
            perturb=self.perturb,
            noise=self.noise,
            coefficients=self.coefficients,
            batch_size=self.batch_size,
        )
        return train_to_tilt(
            key,
            problem,
            self,
            Tilt(excluded, scores, self.beta),
            targets=self.targets,
            retain=self.retain,
            retain_weight=self.retain_weight,
        )


class Tilt(NamedTuple):
    """Parts of a target other than the original's logits.

    Attributes:
      excluded: ``[C, C]`` bool; row ``f`` marks the classes that get probability 0 on
        samples labeled ``f``.
      scores: ``[F, C]`` similarities, forget samples in ascending order.
      beta: strength of the tilt.
    """

    excluded: Array
    scores: Array
    beta: Real


def train_to_tilt(
    key: Array,
    problem: Problem,
    options: FineTuning,
    tilt: Tilt,
    *,
    targets: Targets,
    retain: bool,
    retain_weight: Real = 1.0,
) -> tuple[Variables, UnlearnInfo]:
    """Fine-tune on the targets of a given tilt.

    Args:
      key: PRNG key of the method's run.
      problem: gives the model and the sets.
      options: hyperparameters of the training.
      tilt: tilt from the original's logits to the targets of D_F.
      targets: ``once`` for targets of the clean images, ``view`` for those of the
        augmented images.
      retain: train on D_R too.
      retain_weight: weight of the cross-entropy on D_R.

    Returns:
      The fine-tuned variables, and what the training cost.
    """
    if targets == "view" and options.augmentation is not None:
        target_fn = _targets_of_batch(problem, tilt)
    else:
        target_fn = _targets_of_clean_images(problem, tilt)
    return finetune_on(
        key,
        problem,
        options,
        data=problem.train,
        member=problem.forget | (retain & problem.retain),
        num_samples=problem.num_forget + retain * problem.num_retain,
        fetch=fetch_from(options.augmentation),
        loss_fn=_loss_fn(problem, options, retain_weight, target_fn),
    )


TargetFn = Callable[[Batch], Array]
"""Target distributions ``[B, C]`` of a batch; arbitrary outside the forget set."""


def _targets_of_clean_images(problem: Problem, tilt: Tilt) -> TargetFn:
    rows = forget_rows(problem)
    row_of = _row_of(problem)
    labels = problem.train.labels[rows]
    logits = predict(problem.model.apply, problem.variables, problem.train.images[rows])
    targets = tilted_target(logits, tilt.excluded[labels], tilt.scores, beta=tilt.beta)
    return lambda batch: targets[row_of[batch.position]]


def _targets_of_batch(problem: Problem, tilt: Tilt) -> TargetFn:
    row_of = _row_of(problem)

    def targets(batch: Batch) -> Array:
        logits = problem.model.apply(problem.variables, batch.images)
        scores = tilt.scores[row_of[batch.position]]
        excluded = tilt.excluded[batch.labels]
        return tilted_target(logits, excluded, scores, beta=tilt.beta)

    return targets


def _row_of(problem: Problem) -> Array:
    """Return each forget sample's position among the forget samples, ``[N]``."""
    return jnp.cumsum(problem.forget) - 1


def _loss_fn(
    problem: Problem, options: FineTuning, retain_weight: Real, target_fn: TargetFn
) -> LossFn:
    """Return the cross-entropy with targets on D_F and weighted labels on D_R."""
    forward = forward_fn(problem.model, options)

    def loss_fn(
        variables: Variables, batch: Batch, key: Array
    ) -> tuple[Array, ModelState]:
        logits, state = forward(variables, batch.images, key)
        is_forget = problem.forget[batch.position]
        labels = jax.nn.one_hot(batch.labels, logits.shape[-1])
        target = jnp.where(is_forget[:, None], target_fn(batch), labels)
        weight = jnp.where(is_forget, 1.0, retain_weight)
        return jnp.mean(weight * cross_entropy(logits, target)), state

    return loss_fn
