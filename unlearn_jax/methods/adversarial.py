"""AMUN's fine-tuning set: D_A as training samples, and its controls.

AMUN claims that its samples work for two reasons: each image is one that the model
misclassifies, *and* its label is the one that the model gives it. The controls in its
Figures 1, 6 and 7 (arXiv 2503.00917) break one of the two and keep everything else. The
policies for failed searches decide what happens to a forget sample without an
adversarial example.
"""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from unlearn_jax.attacks import PGD
from unlearn_jax.checks import check_choice
from unlearn_jax.methods.base import forget_rows, forget_set, num_classes
from unlearn_jax.train import Batch, FetchFn, predict
from unlearn_jax.types import (
    Array,
    AttackResult,
    Dataset,
    InputError,
    Problem,
    value_of,
)

Replace = Literal[
    "none",
    "original",
    "label",
    "random_label",
    "adversarial_random_label",
    "random_point",
]
Failures = Literal["drop", "keep", "runner_up", "random_label", "targeted"]
Redraw = Literal["batch", "once"]


class AdversarialSamples(NamedTuple):
    """D_A, or its replacement, as training samples: one row per forget sample.

    Attributes:
      images: ``[F, ...]`` float32, forget samples ascending.
      labels: ``[F]`` int32.
      used: ``[F]`` bool, the rows to train on.
      allowed: ``[F, C]`` bool, the classes from which a row's label is redrawn for
        every batch; a row that allows none keeps its label. None if no label is
        redrawn.
    """

    images: Array
    labels: Array
    used: Array
    allowed: Array | None


def adversarial_samples(
    key: Array,
    problem: Problem,
    result: AttackResult,
    *,
    replace: Replace = "none",
    failures: Failures = "drop",
    redraw: Redraw = "batch",
    attack: PGD | None = None,
) -> AdversarialSamples:
    """Turn D_A into training samples: apply the failure policy, then the replacement.

    Notation: x, y are a forget sample and its label, x_adv, y_adv its row of D_A, and
    delta is the L2 distance of x and x_adv.

    ================  ==================================================================
    ``failures``      a sample whose search failed, with its last iterate
    ================  ==================================================================
    ``drop``          is left out; as an epoch keeps its steps, the other samples are
                      read more often
    ``keep``          is labeled as the model labels it, which is y
    ``runner_up``     is labeled with the model's second choice there
    ``random_label``  is labeled with a random wrong class
    ``targeted``      is attacked again, towards the second choice at x, within its last
                      radius; where that fails too, it is labeled as by
                      ``runner_up`` at the new last iterate
    ================  ==================================================================

    ============================  =================================  ================
    ``replace``                   trains on                          the paper's name
    ============================  =================================  ================
    ``none``                      x_adv, y_adv                       Adv
    ``original``                  x, y (D_F again)                   Orig
    ``label``                     x, y_adv                           Orig-AdvL
    ``random_label``              x, y' random, not y, not y_adv     Orig-RL
    ``adversarial_random_label``  x_adv, y' as above                 Adv-RL
    ``random_point``              x', y_adv, with x' uniform on the  Adv-RS
                                  sphere of radius delta around x
                                  (a Gaussian direction), clipped
                                  to [0, 1]
    ============================  =================================  ================

    A dropped sample is dropped from its replacement too, so that controls differ from
    AMUN in one respect only. Only the replacements that contain x or x', and
    ``targeted``, read forget images.

    Args:
      key: PRNG key for random labels and points; consumed.
      problem: problem whose original model was attacked.
      result: the attack's result, one row per forget sample.
      replace: a row of the second table.
      failures: a row of the first table.
      redraw: ``batch`` draws random labels whenever a sample is read, as the released
        code does (the paper does not say); ``once`` fixes them. Random points are drawn
        once.
      attack: the attack that ``result`` was made with; ``targeted`` needs it and takes
        its norm, steps and bounds.

    Returns:
      The samples. Rows with an image that is not finite are not used.

    Raises:
      InputError: unknown names; random labels other than y and y_adv of a model with
        two classes; ``targeted`` without ``attack``.
    """
    check_choice("replacement", replace, get_args(Replace))
    check_choice("failures policy", failures, get_args(Failures))
    check_choice("redraw", redraw, get_args(Redraw))
    key_point, key_label = jax.random.split(key)
    truth = problem.train.labels[forget_rows(problem)]
    if failures == "targeted":
        if attack is None:
            raise InputError(
                "failures='targeted' repeats the attack that made the adversarial set:"
                " give that attack, such as attack=PGD()"
            )
        result = attack.retry(
            problem.model.apply,
            problem.variables,
            forget_set(problem).images,
            truth,
            result,
        )
    labels = result.labels
    if failures in ("runner_up", "targeted"):
        logits = predict(problem.model.apply, problem.variables, result.images)
        second = jnp.argsort(logits, -1)[:, -2].astype(labels.dtype)
        labels = jnp.where(result.success, labels, second)
    used = result.success if failures == "drop" else jnp.ones_like(result.success)
    allowed = _allowed_labels(problem, result, truth, replace, failures)
    images, labels = _replaced(key_point, problem, result.images, labels, replace)
    used &= jnp.all(jnp.isfinite(images), axis=tuple(range(1, images.ndim)))
    used &= jnp.arange(len(used)) < value_of(problem.num_forget)
    if allowed is not None and redraw == "once":
        labels = draw_labels(key_label, labels, allowed)
        allowed = None
    return AdversarialSamples(images, labels, used, allowed)


def _allowed_labels(
    problem: Problem,
    result: AttackResult,
    truth: Array,
    replace: Replace,
    failures: Failures,
) -> Array | None:
    """Return the classes ``[F, C]`` that random labels are drawn from.

    Rows without any class keep their label; None if no label is redrawn.
    """
    is_everywhere = replace in ("random_label", "adversarial_random_label")
    if not is_everywhere and (failures != "random_label" or replace == "original"):
        return None
    count = num_classes(problem)
    if is_everywhere and count < 3:
        raise InputError(
            f"replace={replace!r} draws a label that is neither the true nor the"
            f" adversarial one: the model has {count} classes, three are needed"
        )
    classes = jnp.arange(count)[None]
    is_wrong = (classes != truth[:, None]) & (classes != result.labels[:, None])
    return is_wrong if is_everywhere else is_wrong & ~result.success[:, None]


def _replaced(
    key: Array, problem: Problem, images: Array, labels: Array, replace: Replace
) -> tuple[Array, Array]:
    """Return the images and labels that replace D_A; redrawn labels are unchanged."""
    if replace in ("none", "adversarial_random_label"):
        return images, labels
    clean = forget_set(problem)
    if replace == "original":
        return clean.images, clean.labels
    if replace != "random_point":
        return clean.images, labels
    axes = tuple(range(1, images.ndim))
    # a normalized Gaussian vector is uniform on the sphere
    direction = jax.random.normal(key, images.shape)
    radius = jnp.sqrt(jnp.sum((images - clean.images) ** 2, axes, keepdims=True))
    unit = direction / jnp.sqrt(jnp.sum(direction**2, axes, keepdims=True))
    return jnp.clip(clean.images + radius * unit, 0.0, 1.0), labels


def draw_labels(key: Array, labels: Array, allowed: Array) -> Array:
    """Draw a class uniformly from the allowed ones; keep the label of rows without any.

    Args:
      key: PRNG key; consumed.
      labels: ``[B]`` present labels.
      allowed: ``[B, C]`` bool, the classes to draw from.

    Returns:
      ``[B]``, of the labels' type.
    """
    drawn = jax.random.categorical(
        key, jnp.where(allowed, 0.0, -jnp.inf), axis=-1
    ).astype(labels.dtype)
    return jnp.where(jnp.any(allowed, -1), drawn, labels)


def fetch_joined(fetch: FetchFn | None, member: Array) -> FetchFn:
    """Return a fetch of training samples ``0..N-1`` and of D_A's rows ``N..N+F-1``.

    Args:
      fetch: function that reads and augments training samples; None if only D_A is
        read.
      member: ``[]`` position of a training sample that takes part. ``fetch`` reads it
        in place of D_A's rows, so that no sample outside the set is touched.
    """

    def joined(
        data: tuple[Dataset, AdversarialSamples], index: Array, key: Array
    ) -> Batch:
        train, samples = data
        num_train = len(train.labels)
        is_adversarial = index >= num_train
        row = jnp.maximum(index - num_train, 0)
        labels = samples.labels[row]
        if samples.allowed is not None:
            key, key_label = jax.random.split(key)
            labels = draw_labels(key_label, labels, samples.allowed[row])
        if fetch is None:
            return Batch(samples.images[row], labels, index)
        clean = fetch(train, jnp.where(is_adversarial, member, index), key)
        choose = is_adversarial.reshape(-1, *(1,) * (clean.images.ndim - 1))
        images = jnp.where(choose, samples.images[row], clean.images)
        return Batch(images, jnp.where(is_adversarial, labels, clean.labels), index)

    return joined
