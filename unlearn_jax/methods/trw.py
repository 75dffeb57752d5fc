"""TRW, Tilted ReWeighting: teach the forgotten class the answers of a model that never saw it."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from unlearn_jax.losses import cross_entropy
from unlearn_jax.losses.tilted import tilted_target
from unlearn_jax.methods.base import (
    FineTuning,
    check_numbers,
    finetune_on,
    forward_fn,
    is_zero,
    num_classes,
)
from unlearn_jax.methods.gradients import members
from unlearn_jax.methods.similarity import (
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
    UnlearnFn,
    UnlearnInfo,
    Variables,
)

Targets = Literal["once", "view"]


def trw(
    *,
    beta: float | Array = 10.0,
    similarity: Similarity = "weights",
    num_components: int | None = None,
    center: bool = True,
    temperature: float | Array | None = None,
    num_neighbors: int = 10,
    retain: bool = True,
    retain_weight: float | Array = 1.0,
    targets: Targets = "once",
    perturb: Perturbation = "none",
    noise: float | Array = 0.0,
    **tuning: Any,
) -> UnlearnFn:
    """Minimizes the cross-entropy with tilted targets on D_F, and with the true labels on D_R.

    TRW, Tilted ReWeighting (arXiv 2512.06993, chapter 5; RWFT in version 1 of arXiv
    2506.20893, TREW later):

        ``mean over D_F and D_R of  CE(q(x), p(x))  where x is to be forgotten,  retain_weight CE(y, p(x))  elsewhere``,

    ``q(k|x) = r(k|x) exp(beta s_k) / sum_j r(j|x) exp(beta s_j)`` (equation 5.2), where
    ``r`` is the original's prediction, in evaluation mode, without the excluded classes
    and renormalized, and ``s`` the similarity of the classes to that of ``x``
    (:func:`unlearn_jax.methods.similarity.similarity_scores`).

    **Published**: the target, weights of the last layer by PCA, cosine and "a sharp
    softmax temperature" as the similarity, beta 10 (larger ones pass nearest-neighbor
    attacks better and cost accuracy on D_R), and that it is a drop-in objective of
    fine-tuning. No code is public, and of the papers only abstracts, openings and
    reviews were seen. **Ours**, for want of a statement: the cosines as they are,
    without projection or temperature, of centered vectors (at beta 10 centering alone
    raised the nearest class's odds another 60 to 75 times in a small example; a sharp
    temperature makes ``s`` nearly one-hot, so that they grow up to e^10 times); the
    direction of the divergence; one shuffled set of D_F and D_R with ``retain_weight``
    1; the settings of the fine-tuning; ``s`` of the sample's own class, and all
    forgotten classes excluded, where several are forgotten at once; targets of clean
    images. TRW-2R, a variant in the papers' tables, is not described anywhere and not
    here.

    A sample's own class is excluded too, so that any forget set will do: if no whole
    class is forgotten, this is DELETE with a tilt. Classes that earlier requests forgot
    are excluded as well (:func:`unlearn_jax.methods.similarity.excluded_classes`).
    Without ``retain``, ``weights`` reads no retained image; the other similarities do.

    Args:
      beta: strength of the tilt; 0 only renormalizes.
      similarity: ``weights``, ``centroids``, ``features`` or ``neighbors``, see there.
      num_components: PCA of the weights, see there.
      center: see there.
      temperature: see there; None, or positive.
      num_neighbors: see there.
      retain: train on D_R too.
      retain_weight: of its cross-entropy.
      targets: ``once`` computes them before training, from the clean forget images;
        ``view`` in every step, from the augmented ones that the model sees. The same
        without ``augment``.
      perturb: spoils the similarities,
        :func:`unlearn_jax.methods.similarity.perturb_similarity`.
      noise: scale of ``perturb="noise"``.
      **tuning: fields of :class:`unlearn_jax.methods.base.FineTuning`.

    Returns:
      The method. Its losses are cross-entropies, which end at the entropy of the
      targets, not at 0; ``num_gradients`` leaves out the forward passes of targets and
      similarities.

    Raises:
      InputError: unknown names or unusable knobs; by the method: what
        ``similarity_scores`` raises.
    """
    check_numbers(low=0, beta=beta, retain_weight=retain_weight, noise=noise)
    _check_similarity(similarity, num_components, temperature, num_neighbors, perturb)
    check_targets(targets)
    knobs = FineTuning(**tuning)

    def run(key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        key, key_scores = jax.random.split(key)
        excluded = excluded_classes(problem, num_classes(problem))
        scores = similarity_scores(
            key_scores,
            problem,
            excluded,
            kind=similarity,
            num_components=num_components,
            center=center,
            temperature=temperature,
            num_neighbors=num_neighbors,
            perturb=perturb,
            noise=noise,
            batch_size=knobs.batch_size,
        )
        tilt = Tilt(excluded, scores, beta)
        return train_to_tilt(
            key,
            problem,
            knobs,
            tilt,
            targets=targets,
            retain=retain,
            retain_weight=retain_weight,
        )

    return run


class Tilt(NamedTuple):
    """What makes targets of the original's logits.

    Attributes:
      excluded: ``[C, C]`` bool; row ``f`` are the classes that get nothing from samples
        labeled ``f``.
      scores: ``[F, C]`` similarities, forget samples ascending.
      beta: strength.
    """

    excluded: Array
    scores: Array
    beta: float | Array


def train_to_tilt(
    key: Array,
    problem: Problem,
    tuning: FineTuning,
    tilt: Tilt,
    *,
    targets: Targets,
    retain: bool,
    retain_weight: float | Array = 1.0,
) -> tuple[Variables, UnlearnInfo]:
    """The run of :func:`trw`, given the tilt; arguments as there."""
    by_view = targets == "view" and tuning.augment is not None
    return finetune_on(
        key,
        problem,
        tuning,
        data=problem.train,
        member=problem.forget | (retain & problem.retain),
        num_samples=problem.num_forget + retain * problem.num_retain,
        fetch=fetch_from(tuning.augment),
        loss_fn=_loss_fn(
            problem,
            tuning,
            retain_weight,
            _by_view(problem, tilt) if by_view else _once(problem, tilt),
        ),
    )


Aims = Callable[[Batch], Array]
"""Target distributions ``[B, C]`` of a batch; what it gives to samples that are not forgotten means nothing."""


def _once(problem: Problem, tilt: Tilt) -> Aims:
    """Targets of the clean images."""
    rows, row_of = members(problem.forget, problem.num_forget), _row_of(problem)
    logits = predict(problem.model.apply, problem.variables, problem.train.images[rows])
    aims = tilted_target(
        logits, tilt.excluded[problem.train.labels[rows]], tilt.scores, beta=tilt.beta
    )
    return lambda batch: aims[row_of[batch.position]]


def _by_view(problem: Problem, tilt: Tilt) -> Aims:
    """Targets of the images of the batch."""
    row_of = _row_of(problem)

    def aims(batch: Batch) -> Array:
        logits, scores = (
            problem.model.apply(problem.variables, batch.images),
            tilt.scores[row_of[batch.position]],
        )
        return tilted_target(
            logits, tilt.excluded[batch.labels], scores, beta=tilt.beta
        )

    return aims


def _row_of(problem: Problem) -> Array:
    """``[N]``: the row of each forget sample among the forget samples."""
    return jnp.cumsum(problem.forget) - 1


def _loss_fn(
    problem: Problem, tuning: FineTuning, retain_weight: float | Array, aims: Aims
) -> LossFn:
    """Cross-entropy with the targets on forget samples, weighted with the labels on others."""
    forward = forward_fn(problem.model, tuning)

    def loss_fn(
        variables: Variables, batch: Batch, key: Array
    ) -> tuple[Array, ModelState]:
        logits, state = forward(variables, batch.images, key)
        forget = problem.forget[batch.position]
        target = jnp.where(
            forget[:, None], aims(batch), jax.nn.one_hot(batch.labels, logits.shape[-1])
        )
        return (
            jnp.mean(
                jnp.where(forget, 1.0, retain_weight) * cross_entropy(logits, target)
            ),
            state,
        )

    return loss_fn


def check_targets(targets: str) -> None:
    """Refuses an unknown ``targets``.

    Raises:
      InputError: naming it.
    """
    if targets not in ("once", "view"):
        raise InputError(f"unknown targets {targets!r}: choose once or view")


def _check_similarity(
    similarity: str,
    num_components: int | None,
    temperature: float | Array | None,
    num_neighbors: int,
    perturb: str,
) -> None:
    if similarity not in ("weights", "centroids", "features", "neighbors"):
        raise InputError(
            f"unknown similarity {similarity!r}: choose weights, centroids, features or"
            " neighbors"
        )
    if num_components is not None and similarity != "weights":
        raise InputError(
            "num_components projects the weights: leave it None with"
            f" similarity={similarity!r}"
        )
    if (num_components is not None and num_components < 1) or num_neighbors < 1:
        raise InputError(
            "num_components and num_neighbors of a method must be positive"
        )
    if perturb not in ("none", "noise", "permute", "flip", "swap"):
        raise InputError(
            f"unknown perturb {perturb!r}: choose none, noise, permute, flip or swap"
        )
    if temperature is not None:
        check_numbers(low=0, temperature=temperature)
        if is_zero(temperature):
            raise InputError(
                "temperature must be positive, got 0; None takes the similarities as"
                " they are"
            )
