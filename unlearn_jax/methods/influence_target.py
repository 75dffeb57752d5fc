"""Influence targets: fine-tune on D_F towards the output that influence functions predict for a retrained model."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.sparse.linalg import cg

from unlearn_jax.influence import (
    CG,
    fit_primal,
    forward_change,
    linearize,
    outputs_of,
)
from unlearn_jax.losses import cross_entropy
from unlearn_jax.losses.tilted import tilted_target
from unlearn_jax.methods.base import FineTuning, check_numbers, is_zero, num_classes
from unlearn_jax.methods.gradients import members
from unlearn_jax.methods.similarity import excluded_classes, sample_features
from unlearn_jax.methods.trw import Tilt, train_to_tilt
from unlearn_jax.train import predict
from unlearn_jax.types import (
    Array,
    InputError,
    Problem,
    UnlearnFn,
    UnlearnInfo,
    Variables,
)

_HALVINGS = 10  # of a Newton step
_SUFFICIENT = 1e-4  # Armijo's share of the decrease that the slope promises
_ROUNDING = 2e-6  # of a mean over many samples in float32, relative
_CONVERGED = 1e-7  # of the gradient at the start of a fit, where float32 ends


def influence_target(
    *,
    linearized: Literal["head", "network"] = "head",
    ridge: float | Array = 1e-3,
    fit_steps: int = 20,
    removal_steps: int = 1,
    cg_steps: int = 100,
    mask: bool = True,
    retain: bool = True,
    retain_weight: float | Array = 1.0,
    **tuning: Any,
) -> UnlearnFn:
    """Minimizes the cross-entropy on D_F with predicted outputs of a retrained model, and on D_R with the true labels.

    An answer to the third open question of arXiv 2512.06993, whose own target
    (:func:`unlearn_jax.methods.trw.trw`) tilts all samples of a class alike: a target
    of each sample's own, without any similarity of classes. Nothing is published on it;
    this is the library's own reading.

    1. ``phi(x)``: inputs of the original's last dense layer, in evaluation mode; see
       :func:`standardize`.
    2. ``W_D``: the linear softmax classifier of ``phi`` on D_F and D_R with the least
       ``mean CE(phi W, y) + ridge/2 |W|^2``, by Newton's method from zero. It stands in
       for the network, because influence functions hold at an optimum: a network that
       interpolates has gradients near 0, which would predict no change at all.
    3. ``W_R``: ``removal_steps`` Newton steps from there on the same objective over D_R
       alone. The first is the influence function of removing D_F:
       ``W_R - W_D = -H^-1 g``, gradient and Hessian those of D_R at ``W_D`` (halved
       only where it would raise the objective).
    4. The target of ``x`` in D_F: ``q(x) = softmax(f(x) + phi(x) (W_R - W_D))``, where
       ``f`` are the original's logits.
    5. Fine-tuning as TRW does: one shuffled set of D_F with ``q`` and D_R with its
       labels, ``retain_weight`` times.

    Reads D_R and D_F. **Without** ``retain`` no retained sample is trained on, but the
    prediction still reads each of them once, image and label.

    **The whole network.** With ``linearized="network"``, steps 1 to 3 take all
    parameters instead of the head's: the network's first-order expansion at the
    original's parameters, whose kernel is the tangent kernel, trained with
    ``ridge/2 |theta|^2`` on D_F and D_R from there, and then on D_R alone
    (:func:`unlearn_jax.influence.fit_primal`). Here the ridge is the network's weight
    decay as it is. A Newton step costs up to ``cg_steps`` products of some six passes
    over all samples. On 300 digits (64 units, ridge 1e-3 for both, means of three
    seeds, by ``experiments/influence_digits.py``) neither is better throughout:
    KL(retrained || target) on digits 1, 3 and 8 was 0.13, 0.14, 0.15 with the network,
    0.17, 0.10, 0.12 with the head, 0.23, 0.16, 0.19 renormalized.

    With the head, what is predicted is a change of the head, not of the features, which
    still tell the forgotten class apart. Measured as KL(retrained || target) on unseen
    images of the forgotten class of scikit-learn's digits, for a perceptron of 128
    units (one original, the mean over three retrained from scratch, which differ among
    themselves by 0.03 to 0.07):

    =====================================  =======  =======  =======
    target                                 class 1  class 3  class 8
    =====================================  =======  =======  =======
    renormalized (``beta=0`` of TRW)       0.18     0.13     0.24
    the defaults                           0.14     0.08     0.18
    ``removal_steps=20``                   0.10     0.07     0.13
    ``ridge=1e-2``                         0.12     0.08     0.19
    ``ridge=1e-4``                         0.24     0.15     0.20
    ``ridge=1e-4, removal_steps=20``       0.16     0.13     0.12
    =====================================  =======  =======  =======

    The ridge should be about that of the network's own head: weight decay ``w`` on
    features of variance ``s^2`` (one scale for all, as in :func:`standardize`) amounts
    to ``w / s^2``, here 2.7e-3. One far smaller, with a single step, can be worse than
    no prediction. For softmax regression, whose retraining is convex, and the ridge of
    its own training, targets came 5 to 8 times nearer than renormalized ones (12 to 19
    with ``removal_steps=10``); with a ridge 10 times too large or too small they were
    still nearer.

    Args:
      linearized: ``head`` or ``network``, see above.
      ridge: L2 penalty of the linear classifier, positive, see above.
      fit_steps: Newton steps to ``W_D``. The fit stands still once converged (here
        after ten steps at most), so that more cost little.
      removal_steps: Newton steps to ``W_R``: 1 for the influence function, many for the
        classifier fitted to D_R.
      cg_steps: at most, iterations of conjugate gradients in a Newton step; each costs
        two products with the features.
      mask: no probability for the classes that
        :func:`unlearn_jax.methods.similarity.excluded_classes` names: the sample's own
        and those without retained samples. For a random forget set take False: a
        retrained model may well give a sample its label.
      retain: train on D_R too, see above.
      retain_weight: of its cross-entropy, not negative.
      **tuning: fields of :class:`unlearn_jax.methods.base.FineTuning`. With
        ``augment``, the target is that of the clean image.

    Returns:
      The method. Its losses are cross-entropies, which end at the entropy of the
      targets, not at 0; ``num_gradients`` counts the fine-tuning, as the prediction
      takes no gradient of the network.

    Raises:
      InputError: unusable knobs; by the method with ``head``: a model without a last
        linear layer.
    """
    check_numbers(low=0, ridge=ridge, retain_weight=retain_weight)
    if is_zero(ridge):
        raise InputError(
            "a ridge of 0 has no best classifier on separable features: choose a"
            " positive one"
        )
    if fit_steps < 1 or removal_steps < 1 or cg_steps < 1:
        raise InputError(
            "fit_steps, removal_steps and cg_steps of a method must be positive"
        )
    check_linearized(linearized)
    knobs, steps = (
        FineTuning(**tuning),
        {
            "fit_steps": fit_steps,
            "removal_steps": removal_steps,
            "cg_steps": cg_steps,
        },
    )

    def run(key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        tilt = _predicted_tilt(
            problem,
            linearized,
            mask=mask,
            batch_size=knobs.batch_size,
            ridge=ridge,
            **steps,
        )
        return train_to_tilt(
            key,
            problem,
            knobs,
            tilt,
            targets="once",
            retain=retain,
            retain_weight=retain_weight,
        )

    return run


def influence_targets(
    problem: Problem,
    *,
    linearized: Literal["head", "network"] = "head",
    ridge: float | Array = 1e-3,
    fit_steps: int = 20,
    removal_steps: int = 1,
    cg_steps: int = 100,
    mask: bool = True,
    batch_size: int = 128,
) -> Array:
    """The predicted outputs of a retrained model on D_F.

    Args:
      problem: gives the original model, D_F and D_R; samples that earlier requests
        removed are not read.
      linearized: see :func:`influence_target`.
      ridge: see there.
      fit_steps: see there.
      removal_steps: see there.
      cg_steps: see there.
      mask: see there.
      batch_size: images at a time. Features of all samples, ``[N, D]``, are held in
        memory; no Hessian is.

    Returns:
      ``[F, C]`` probabilities, forget samples ascending.

    Raises:
      InputError: an unknown ``linearized``; with ``head``, a model without a last
        linear layer.
    """
    check_linearized(linearized)
    steps = {
        "fit_steps": fit_steps,
        "removal_steps": removal_steps,
        "cg_steps": cg_steps,
    }
    tilt = _predicted_tilt(
        problem, linearized, mask=mask, batch_size=batch_size, ridge=ridge, **steps
    )
    index = members(problem.forget, problem.num_forget)
    images, labels = problem.train.images[index], problem.train.labels[index]
    logits = predict(
        problem.model.apply, problem.variables, images, batch_size=batch_size
    )
    return tilted_target(logits, tilt.excluded[labels], tilt.scores, beta=tilt.beta)


def _predicted_tilt(
    problem: Problem, linearized: str, *, mask: bool, batch_size: int, **knobs: Any
) -> Tilt:
    """The predicted change of the logits, as a tilt of strength 1."""
    train, classes = problem.train, num_classes(problem)
    index = members(
        problem.forget | problem.retain, problem.num_forget + problem.num_retain
    )
    if linearized == "head":
        forget = members(problem.forget[index], problem.num_forget)
        known = sample_features(problem, index, batch_size)
        labels, retain = train.labels[index], problem.retain[index]
        change = predicted_logit_change(
            known, labels, retain, known[forget], num_classes=classes, **knobs
        )
    else:
        change = network_logit_change(problem, index, batch_size=batch_size, **knobs)
    excluded = (
        excluded_classes(problem, classes)
        if mask
        else jnp.zeros((classes, classes), bool)
    )
    return Tilt(excluded, change, beta=1.0)


def network_logit_change(
    problem: Problem,
    index: Array,
    *,
    ridge: float | Array,
    fit_steps: int = 20,
    removal_steps: int = 1,
    cg_steps: int = 100,
    batch_size: int = 128,
) -> Array:
    """How the forget samples' logits change when the network's first-order expansion is trained without them.

    Args:
      problem: gives the network, whose expansion at its parameters is trained, and the
        samples.
      index: ``[N]`` positions of D_F and D_R.
      ridge: L2 penalty of all parameters, positive.
      fit_steps: Newton steps to the fit on all samples.
      removal_steps: Newton steps from there to the fit on the retained ones.
      cg_steps: at most, conjugate-gradient iterations per Newton step.
      batch_size: images at a time.

    Returns:
      ``[F, C]``, forget samples ascending.
    """
    train, params = problem.train, problem.variables.params
    network = outputs_of(problem.model, problem.variables.state)
    fit = partial(
        fit_primal,
        linearize(network, params),
        ridge=ridge,
        solver=CG(num_iters=cg_steps),
        batch_size=batch_size,
    )
    fitted = fit(
        params, train.images[index], train.labels[index], num_steps=fit_steps
    ).params
    kept = members(problem.retain, problem.num_retain)
    left = fit(
        fitted, train.images[kept], train.labels[kept], num_steps=removal_steps
    ).params
    gone = train.images[members(problem.forget, problem.num_forget)]
    change = jax.tree.map(jnp.subtract, left, fitted)
    return forward_change(network, params, change, gone, batch_size=batch_size)


def check_linearized(linearized: str) -> None:
    """Refuses an unknown ``linearized``.

    Raises:
      InputError: naming it.
    """
    if linearized not in ("head", "network"):
        raise InputError(f"unknown linearized {linearized!r}: choose head or network")


def predicted_logit_change(
    known: Array,
    labels: Array,
    retain: Array,
    queries: Array,
    *,
    num_classes: int,
    ridge: float | Array,
    fit_steps: int = 20,
    removal_steps: int = 1,
    cg_steps: int = 100,
) -> Array:
    """How the logits of a ridge softmax classifier change when samples are removed: ``phi (W_R - W_D)``.

    Args:
      known: ``[N, D]`` features of D_F and D_R, on any scale.
      labels: ``[N]`` int32 in 0..C-1.
      retain: ``[N]`` bool, True for at least one; the others are removed.
      queries: ``[Q, D]`` features of the samples asked for; none of them need be among
        the known.
      num_classes: C.
      ridge: L2 penalty, positive.
      fit_steps: Newton steps to the fit on all samples.
      removal_steps: Newton steps from there to the fit on the retained ones.
      cg_steps: at most, conjugate-gradient iterations per Newton step.

    Returns:
      ``[Q, C]``.
    """
    phi, asked = standardize(known, known), standardize(known, queries)
    everywhere = jnp.full(len(labels), 1 / len(labels))
    retained = retain / jnp.sum(retain)
    start = jnp.zeros((phi.shape[1], num_classes))
    fitted = fit_head(
        start,
        phi,
        labels,
        everywhere,
        ridge=ridge,
        num_steps=fit_steps,
        cg_steps=cg_steps,
    )
    left = fit_head(
        fitted,
        phi,
        labels,
        retained,
        ridge=ridge,
        num_steps=removal_steps,
        cg_steps=cg_steps,
    )
    return _product(asked, left - fitted)


def standardize(known: Array, queries: Array) -> Array:
    """Centered features of unit mean square, and a constant 1 appended, for the bias.

    Each feature loses its mean over the known samples. All share one scale, so that a
    feature that only a few samples excite is not blown up, and the penalty weighs
    directions as it would in the network's own head.

    Args:
      known: ``[N, D]``, what means and scale are taken over.
      queries: ``[Q, D]``.

    Returns:
      ``[Q, D + 1]``.
    """
    mean = jnp.mean(known, 0, keepdims=True)
    scale = jnp.sqrt(jnp.mean((known - mean) ** 2))
    centered = (queries - mean) / jnp.where(scale > 0, scale, 1.0)
    return jnp.concatenate([centered, jnp.ones((len(queries), 1))], 1)


def fit_head(
    start: Array,
    phi: Array,
    labels: Array,
    share: Array,
    *,
    ridge: float | Array,
    num_steps: int,
    cg_steps: int,
) -> Array:
    """Newton's method for ``sum_n share_n CE(phi_n W, y_n) + ridge/2 |W|^2``, which is convex.

    Each step solves for the Newton direction by conjugate gradients, then is halved
    until it lowers the objective by Armijo's rule, up to 10 times, and left out if that
    was not enough. A rise within float32's rounding is no rise. So no step raises the
    objective beyond rounding, and near the optimum all steps are Newton's own. Hessians
    are never formed.

    Args:
      start: ``[D, C]``.
      phi: ``[N, D]`` features.
      labels: ``[N]`` int32.
      share: ``[N]``, each sample's weight, not negative, of sum 1; 0 for samples that
        are not there.
      ridge: positive.
      num_steps: Newton steps.
      cg_steps: at most, conjugate-gradient iterations in each.

    Returns:
      ``[D, C]``. :func:`head_gradient` says how far from the optimum.
    """
    floor = _CONVERGED * jnp.linalg.norm(
        head_gradient(start, phi, labels, share, ridge=ridge)
    )

    def step(weights: Array, _: None) -> tuple[Array, None]:
        return _newton_step(weights, phi, labels, share, ridge, cg_steps, floor), None

    return lax.scan(step, start, None, length=num_steps)[0]


def head_gradient(
    weights: Array, phi: Array, labels: Array, share: Array, *, ridge: float | Array
) -> Array:
    """``[D, C]`` gradient of the objective of :func:`fit_head`."""
    probs = jax.nn.softmax(_product(phi, weights))
    wrong = share[:, None] * (probs - jax.nn.one_hot(labels, weights.shape[1]))
    return _product(phi.T, wrong) + ridge * weights


def _newton_step(
    weights: Array,
    phi: Array,
    labels: Array,
    share: Array,
    ridge: float | Array,
    cg_steps: int,
    floor: Array,
) -> Array:
    logits, slope = (
        _product(phi, weights),
        head_gradient(weights, phi, labels, share, ridge=ridge),
    )
    probs = jax.nn.softmax(logits)

    def hessian(vector: Array) -> Array:
        moved = _product(phi, vector)
        curved = probs * (moved - jnp.sum(probs * moved, -1, keepdims=True))
        return _product(phi.T, share[:, None] * curved) + ridge * vector

    direction, _ = cg(hessian, -slope, tol=1e-6, atol=floor, maxiter=cg_steps)  # pyright: ignore[reportArgumentType]
    along = _product(phi, direction)

    def objective(size: Array) -> Array:
        losses = cross_entropy(logits + size * along, labels)
        return jnp.sum(share * losses) + ridge / 2 * jnp.sum(
            (weights + size * direction) ** 2
        )

    sizes = 0.5 ** jnp.arange(_HALVINGS + 1)
    here, there = objective(jnp.zeros(())), lax.map(objective, sizes)
    lower = there <= here + _ROUNDING * here + _SUFFICIENT * sizes * jnp.sum(
        slope * direction
    )
    return (
        weights + jnp.where(jnp.any(lower), sizes[jnp.argmax(lower)], 0.0) * direction
    )


def _product(left: Array, right: Array) -> Array:
    return jnp.matmul(
        left, right, precision=lax.Precision.HIGHEST
    )  # accelerators would round to fewer bits
