"""AMUN's fine-tuning set: how D_A becomes training samples, and what may stand in its place.

AMUN's claim is that its samples work because each is an image the model gets wrong
*and* the label it gives it. The controls of its Figures 1, 6 and 7 (arXiv 2503.00917)
break one of the two and keep everything else; the policies for failed searches answer
what to do with a forget sample that has no adversarial example.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from unlearn_jax.attacks import PGD
from unlearn_jax.methods.base import (
    FineTuning,
    WrapTx,
    attack_forget_set,
    finetune_on,
    forget_set,
)
from unlearn_jax.train import Batch, FetchFn, fetch_from, predict
from unlearn_jax.types import (
    Array,
    AttackResult,
    Dataset,
    InputError,
    Problem,
    UnlearnFn,
    UnlearnInfo,
    Variables,
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
    """D_A, or what replaces it, as training samples: one row per forget sample, in ascending order.

    Attributes:
      images: ``[F, ...]`` float32.
      labels: ``[F]`` int32.
      used: ``[F]`` bool, the rows to train on.
      allowed: ``[F, C]`` bool, the classes from which a row's label is drawn anew for
        every batch (a row without any keeps its label); None where no label is redrawn.
    """

    images: Array
    labels: Array
    used: Array
    allowed: Array | None


def check_choices(replace: str, failures: str, redraw: str) -> None:
    """Refuses unknown names.

    Raises:
      InputError: naming the choices.
    """
    for what, value, choices in (
        ("replacement", replace, Replace),
        ("failures policy", failures, Failures),
        ("redraw", redraw, Redraw),
    ):
        if value not in get_args(choices):
            raise InputError(
                f"unknown {what} {value!r}: choose {', '.join(get_args(choices))}"
            )


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
    """D_A as training samples: first the policy for failed searches, then the replacement.

    With x, y the forget sample and its label, x_adv, y_adv its row of D_A, delta their
    L2 distance:

    ============================  ============================================================================
    ``failures``                  a sample whose search failed, with its last iterate
    ============================  ============================================================================
    ``drop``                      left out; as an epoch keeps its steps, the other samples are read more often
    ``keep``                      labeled as the model labels it, which is y
    ``runner_up``                 labeled with the model's second choice there
    ``random_label``              labeled with a random wrong class
    ``targeted``                  attacked once more, towards the second choice at x, within its last radius; where
                                  that fails too, as ``runner_up`` at the new last
                                  iterate
    ============================  ============================================================================

    ============================  ====================================================  =====================
    ``replace``                   trains on                                             the paper's name
    ============================  ====================================================  =====================
    ``none``                      x_adv, y_adv                                          Adv
    ``original``                  x, y (D_F once more)                                  Orig
    ``label``                     x, y_adv                                              Orig-AdvL
    ``random_label``              x, y' random, neither y nor y_adv                     Orig-RL
    ``adversarial_random_label``  x_adv, y' as above                                    Adv-RL
    ``random_point``              y_adv, and x' uniform on the sphere of radius delta   Adv-RS
                                  around x (a Gaussian direction), clipped to [0, 1]
    ============================  ====================================================  =====================

    A dropped sample is dropped from a replacement too, so that controls differ from
    AMUN in one thing only. Forget images are read by the replacements that contain x or
    x', and by ``targeted``.

    Args:
      key: for random labels and points; consumed.
      problem: whose original model was attacked.
      result: one row per forget sample.
      replace: see above.
      failures: see above.
      redraw: ``batch`` draws random labels anew whenever a sample is read, as the
        released code does (the paper does not say); ``once`` fixes them. Random points
        are drawn once.
      attack: the attack that made ``result``; ``targeted`` needs it and takes its
        norm, steps and bounds.

    Returns:
      The samples. Rows with an image that is not finite are not used.

    Raises:
      InputError: unknown names; random labels other than y and y_adv of a model with
        two classes; ``targeted`` without ``attack``.
    """
    check_choices(replace, failures, redraw)
    key_point, key_label = jax.random.split(key)
    truth = problem.train.labels[
        jnp.nonzero(problem.forget, size=problem.num_forget)[0]
    ]
    if failures == "targeted":
        if attack is None:
            raise InputError(
                "failures='targeted' attacks again, in the way of the attack that made"
                " the adversarial set: give that attack, such as"
                " attack=attacks.PGD(norm='l2')"
            )
        clean = forget_set(problem).images
        result = attack.retry(
            problem.model.apply, problem.variables, clean, truth, result
        )
    labels = result.labels
    if failures in ("runner_up", "targeted"):
        logits = predict(problem.model.apply, problem.variables, result.images)
        labels = jnp.where(
            result.success, labels, jnp.argsort(logits, -1)[:, -2].astype(labels.dtype)
        )
    used = result.success if failures == "drop" else jnp.ones_like(result.success)
    allowed = _allowed_labels(problem, result, truth, replace, failures)
    images, labels = _replaced(key_point, problem, result.images, labels, replace)
    used &= jnp.all(jnp.isfinite(images), axis=tuple(range(1, images.ndim)))
    if allowed is not None and redraw == "once":
        labels, allowed = draw_labels(key_label, labels, allowed), None
    return AdversarialSamples(images, labels, used, allowed)


def _allowed_labels(
    problem: Problem,
    result: AttackResult,
    truth: Array,
    replace: Replace,
    failures: Failures,
) -> Array | None:
    """``[F, C]`` bool, the classes of random labels: none for rows whose label is not random."""
    everywhere = replace in ("random_label", "adversarial_random_label")
    if not everywhere and (failures != "random_label" or replace == "original"):
        return None
    num_classes = jax.eval_shape(
        problem.model.apply, problem.variables, result.images
    ).shape[-1]
    if everywhere and num_classes < 3:
        raise InputError(
            f"replace={replace!r} draws a label that is neither the true nor the"
            f" adversarial one: the model has {num_classes} classes, three are needed"
        )
    classes = jnp.arange(num_classes)[None]
    wrong = (classes != truth[:, None]) & (classes != result.labels[:, None])
    return wrong if everywhere else wrong & ~result.success[:, None]


def _replaced(
    key: Array, problem: Problem, images: Array, labels: Array, replace: Replace
) -> tuple[Array, Array]:
    """The images and labels that stand in for D_A; labels to be drawn are left as they are."""
    if replace in ("none", "adversarial_random_label"):
        return images, labels
    clean = forget_set(problem)
    if replace == "original":
        return clean.images, clean.labels
    if replace != "random_point":
        return clean.images, labels
    axes = tuple(range(1, images.ndim))
    direction = jax.random.normal(key, images.shape)
    radius = jnp.sqrt(jnp.sum((images - clean.images) ** 2, axes, keepdims=True))
    unit = direction / jnp.sqrt(jnp.sum(direction**2, axes, keepdims=True))
    return jnp.clip(clean.images + radius * unit, 0.0, 1.0), labels


def draw_labels(key: Array, labels: Array, allowed: Array) -> Array:
    """A class drawn uniformly from those allowed, per row; rows that allow none keep their label.

    Args:
      key: consumed.
      labels: ``[B]``.
      allowed: ``[B, C]`` bool.

    Returns:
      ``[B]`` of the labels' type.
    """
    drawn = jax.random.categorical(
        key, jnp.where(allowed, 0.0, -jnp.inf), axis=-1
    ).astype(labels.dtype)
    return jnp.where(jnp.any(allowed, -1), drawn, labels)


def adversarial_finetuning(
    tuning: FineTuning,
    *,
    retain: bool,
    forget: bool,
    failures: Failures,
    attack: PGD | None,
    replace: Replace = "none",
    redraw: Redraw = "batch",
    wrap_tx: Callable[[Problem], WrapTx] | None = None,
) -> UnlearnFn:
    """The method that AMUN and its variants are: cross-entropy on D_A with the sets at hand, equal weight per sample.

    Args:
      tuning: of the fine-tuning.
      retain: D_R takes part.
      forget: D_F takes part.
      failures: see :func:`adversarial_samples`, as ``replace`` and ``redraw``.
      attack: for problems without ``adversarial``; for those with one, the attack that
        made it, which ``failures="targeted"`` needs.
      replace: see there.
      redraw: see there.
      wrap_tx: gives the change of the optimizer, from the problem.

    Returns:
      The method. Its ``num_gradients`` counts the fine-tuning, not the attack.
      ``failures="drop"`` makes the set shorter but not the epochs, whose steps are
      those of the whole D_A: the remaining samples are read more often.

    Raises:
      InputError: unknown names; by the method: ``failures="targeted"`` for a problem
        that brings its ``adversarial``, without ``attack``.
    """
    check_choices(replace, failures, redraw)

    def run(key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        result, made_by = problem.adversarial, attack
        if result is None:
            made_by = attack or PGD()
            result = attack_forget_set(problem, made_by)
        key_samples = jax.random.fold_in(
            key, 0
        )  # epochs fold in their numbers, which start from 1
        extra = adversarial_samples(
            key_samples,
            problem,
            result,
            replace=replace,
            failures=failures,
            redraw=redraw,
            attack=made_by,
        )
        originals = (retain & problem.retain) | (forget & problem.forget)
        return finetune_on(
            key,
            problem,
            tuning,
            data=(problem.train, extra),
            member=jnp.concatenate([originals, extra.used]),
            num_samples=retain * problem.num_retain + (forget + 1) * problem.num_forget,
            fetch=_fetch_joined(
                fetch_from(tuning.augment) if retain or forget else None,
                jnp.argmax(originals),
            ),
            wrap_tx=wrap_tx(problem) if wrap_tx else None,
        )

    return run


def _fetch_joined(fetch: FetchFn | None, member: Array) -> FetchFn:
    """Reads positions ``0..N-1`` from the training set, and ``N..N+F-1`` from D_A as they are.

    Args:
      fetch: reads and augments training samples; None if only D_A is read.
      member: ``[]`` position of a training sample that takes part: it fills the places
        of D_A when ``fetch`` is called.
    """

    def joined(
        data: tuple[Dataset, AdversarialSamples], index: Array, key: Array
    ) -> Batch:
        train, extra = data
        num_train = len(train.labels)
        is_extra = index >= num_train
        row = jnp.maximum(index - num_train, 0)
        labels = extra.labels[row]
        if extra.allowed is not None:
            key, key_label = jax.random.split(key)
            labels = draw_labels(key_label, labels, extra.allowed[row])
        if fetch is None:
            return Batch(extra.images[row], labels, index)
        plain = fetch(train, jnp.where(is_extra, member, index), key)
        choose = is_extra.reshape(-1, *(1,) * (plain.images.ndim - 1))
        images = jnp.where(choose, extra.images[row], plain.images)
        return Batch(images, jnp.where(is_extra, labels, plain.labels), index)

    return joined
