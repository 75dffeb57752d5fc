"""Influence targets: fine-tuning towards predicted outputs of a retrained model."""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.sparse.linalg import cg

from unlearn_jax import linalg
from unlearn_jax.checks import (
    check_choice,
    check_counts,
    check_not_negative,
    check_positive,
)
from unlearn_jax.influence import (
    CG,
    fit_primal,
    forward_change,
    linearize,
    outputs_of,
)
from unlearn_jax.losses import cross_entropy
from unlearn_jax.losses.tilted import tilted_target
from unlearn_jax.methods.base import (
    FineTuning,
    forget_rows,
    num_classes,
)
from unlearn_jax.methods.gradients import members
from unlearn_jax.methods.similarity import excluded_classes, sample_features
from unlearn_jax.methods.trw import Tilt, train_to_tilt
from unlearn_jax.train import predict
from unlearn_jax.types import (
    Array,
    Problem,
    UnlearnInfo,
    Variables,
)
from unlearn_jax.values import Real, value

Linearized = Literal["head", "network"]

_NUM_HALVINGS = 10  # most halvings of a Newton step
_SUFFICIENT = 1e-4  # Armijo's fraction of the decrease that the slope predicts
_ROUNDING = 2e-6  # relative error of a mean over many samples in float32
_CONVERGED = 1e-6  # fraction of a fit's first gradient; float32 ends at about 1e-7


@value
class InfluenceTarget(FineTuning):
    """Cross-entropy on D_F with predicted outputs of a retrained model, and on D_R.

    An answer to the third open question of arXiv 2512.06993. The target of that paper
    (:class:`unlearn_jax.methods.TRW`) tilts all samples of a class alike; here every
    sample has its own target, and no similarity of classes is needed. The method is the
    library's own; nothing is published on it.

    1. ``phi(x)``: the inputs of the original's last dense layer in evaluation mode,
       standardized by :func:`standardize`.
    2. ``W_D``: the linear softmax classifier of ``phi`` on D_F and D_R that minimizes
       ``mean CE(phi W, y) + ridge/2 |W|^2``, found by Newton's method from zero. It
       replaces the network because influence functions hold at an optimum: a network
       that interpolates has gradients near 0, which would predict no change at all.
    3. ``W_R``: the result of ``num_removal_steps`` Newton steps from ``W_D`` on the
       same objective over D_R alone. The first step is the influence function of
       removing D_F: ``W_R - W_D = -H^-1 g`` with the gradient and the Hessian of D_R at
       ``W_D`` (it is halved only where it would raise the objective).
    4. The target of ``x`` in D_F: ``q(x) = softmax(f(x) + phi(x) (W_R - W_D))``, where
       ``f`` are the original's logits.
    5. Fine-tuning as in TRW: one shuffled set of D_F with targets ``q`` and of D_R with
       its labels, whose losses are multiplied by ``retain_weight``.

    Reads D_R and D_F. **Without** ``retain``, no retained sample is trained on, but the
    prediction still reads the image and label of each once.

    **The whole network.** With ``linearized="network"``, steps 1 to 3 use all
    parameters instead of the head's. The network's first-order expansion at the
    original's parameters, whose kernel is the tangent kernel, is trained with
    ``ridge/2 |theta|^2`` on D_F and D_R, starting there, and then on D_R alone
    (:func:`unlearn_jax.influence.fit_primal`). Here the ridge is the network's weight
    decay itself. A Newton step costs up to ``num_cg_steps`` products of about six
    passes over all samples. On 300 digits (64 units, ridge 1e-3 for both, means of
    three seeds, by ``experiments/influence_digits.py``) neither is better throughout:
    KL(retrained || target) on digits 1, 3 and 8 was 0.13, 0.14, 0.15 with the network;
    0.17, 0.10, 0.12 with the head; and 0.23, 0.16, 0.19 renormalized.

    With ``head``, only the change of the head is predicted. The features do not change,
    and still distinguish the forgotten class. The table shows KL(retrained || target)
    on unseen images of the forgotten class of scikit-learn's digits, for a perceptron
    of 128 units (one original; means over three models retrained from scratch, which
    differ from each other by 0.03 to 0.07):

    =======================================  =======  =======  =======
    target                                   class 1  class 3  class 8
    =======================================  =======  =======  =======
    renormalized (``beta=0`` of TRW)         0.18     0.13     0.24
    the defaults                             0.14     0.08     0.18
    ``num_removal_steps=20``                 0.10     0.07     0.13
    ``ridge=1e-2``                           0.12     0.08     0.19
    ``ridge=1e-4``                           0.24     0.15     0.20
    ``ridge=1e-4, num_removal_steps=20``     0.16     0.13     0.12
    =======================================  =======  =======  =======

    The ridge should be about that of the network's own head: weight decay ``w`` on
    features of variance ``s^2`` (one scale for all, by :func:`standardize`) amounts to
    ``w / s^2``, here 2.7e-3. A far smaller ridge, with a single step, can be worse than
    no prediction. For softmax regression, whose retraining is convex, with the ridge of
    its own training, targets were 5 to 8 times nearer than renormalized ones (12 to 19
    times with ``num_removal_steps=10``); with a ridge 10 times too large or too small
    they were still nearer.

    The reported losses are cross-entropies, whose minimum is the entropy of the
    targets, not 0. ``num_gradients`` counts the fine-tuning only. With ``augment``, the
    target is that of the clean image.

    Attributes:
      linearized: ``head`` or ``network``, described above.
      ridge: L2 penalty of the linear classifier, positive.
      num_fit_steps: Newton steps to ``W_D``. The fit no longer moves once converged
        (here after ten steps at most), so additional steps cost little.
      num_removal_steps: Newton steps from ``W_D`` to ``W_R``: 1 for the influence
        function, many for the classifier fitted to D_R.
      num_cg_steps: largest number of conjugate-gradient iterations in a Newton step;
        each costs two products with the features.
      mask: give no probability to the classes of
        :func:`unlearn_jax.methods.similarity.excluded_classes`: the sample's own class
        and those without retained samples. Choose False for a random forget set, since
        a retrained model may well give a sample its label.
      retain: train on D_R too.
      retain_weight: weight of the cross-entropy on D_R, not negative.
    """

    linearized: Linearized = "head"
    ridge: Real = 1e-3
    num_fit_steps: int = 20
    num_removal_steps: int = 1
    num_cg_steps: int = 100
    mask: bool = True
    retain: bool = True
    retain_weight: Real = 1.0

    def __post_init__(self) -> None:
        """Raise on values that no prediction could use."""
        super().__post_init__()
        # with a ridge of 0, separable features have no best classifier
        check_positive(ridge=self.ridge)
        check_not_negative(retain_weight=self.retain_weight)
        check_counts(
            num_fit_steps=self.num_fit_steps,
            num_removal_steps=self.num_removal_steps,
            num_cg_steps=self.num_cg_steps,
        )

    def __call__(self, key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        """Predict the targets and fine-tune.

        Args:
          key: PRNG key; consumed.
          problem: gives the model and the sets.

        Raises:
          InputError: with ``linearized="head"``, a model without a last linear layer.
        """
        tilt = _predicted_tilt(
            problem,
            self.linearized,
            ridge=self.ridge,
            num_fit_steps=self.num_fit_steps,
            num_removal_steps=self.num_removal_steps,
            num_cg_steps=self.num_cg_steps,
            mask=self.mask,
            batch_size=self.batch_size,
        )
        return train_to_tilt(
            key,
            problem,
            self,
            tilt,
            targets="once",
            retain=self.retain,
            retain_weight=self.retain_weight,
        )


def influence_targets(
    problem: Problem,
    *,
    linearized: Linearized = "head",
    ridge: Real = 1e-3,
    num_fit_steps: int = 20,
    num_removal_steps: int = 1,
    num_cg_steps: int = 100,
    mask: bool = True,
    batch_size: int = 128,
) -> Array:
    """Return the predicted outputs of a retrained model on D_F.

    Args:
      problem: gives the original model, D_F and D_R; samples that earlier requests
        removed are not read.
      linearized: ``head`` or ``network``, described in :class:`InfluenceTarget`.
      ridge: L2 penalty of the linear classifier, positive.
      num_fit_steps: Newton steps to the classifier of D_F and D_R.
      num_removal_steps: Newton steps from there to the classifier of D_R.
      num_cg_steps: largest number of conjugate-gradient iterations per Newton step.
      mask: give no probability to the sample's own class and those without retained
        samples.
      batch_size: images at a time. The features of all samples, ``[N, D]``, are held in
        memory; Hessians are not.

    Returns:
      ``[F, C]`` probabilities, forget samples in ascending order.

    Raises:
      InputError: an unknown ``linearized``; with ``head``, a model without a last
        linear layer.
    """
    check_choice("linearized", linearized, ("head", "network"))
    tilt = _predicted_tilt(
        problem,
        linearized,
        ridge=ridge,
        num_fit_steps=num_fit_steps,
        num_removal_steps=num_removal_steps,
        num_cg_steps=num_cg_steps,
        mask=mask,
        batch_size=batch_size,
    )
    index = forget_rows(problem)
    images = problem.train.images[index]
    labels = problem.train.labels[index]
    logits = predict(
        problem.model.apply, problem.variables, images, batch_size=batch_size
    )
    return tilted_target(logits, tilt.excluded[labels], tilt.scores, beta=tilt.beta)


def _predicted_tilt(
    problem: Problem,
    linearized: Linearized,
    *,
    ridge: Real,
    num_fit_steps: int,
    num_removal_steps: int,
    num_cg_steps: int,
    mask: bool,
    batch_size: int,
) -> Tilt:
    """Return the predicted change of the logits, as a tilt of strength 1."""
    train = problem.train
    count = num_classes(problem)
    index = members(
        problem.forget | problem.retain, problem.num_forget + problem.num_retain
    )
    if linearized == "head":
        forget = members(problem.forget[index], problem.num_forget)
        features = sample_features(problem, index, batch_size)
        change = predicted_logit_change(
            features,
            train.labels[index],
            problem.retain[index],
            features[forget],
            num_classes=count,
            ridge=ridge,
            num_fit_steps=num_fit_steps,
            num_removal_steps=num_removal_steps,
            num_cg_steps=num_cg_steps,
        )
    else:
        change = network_logit_change(
            problem,
            index,
            ridge=ridge,
            num_fit_steps=num_fit_steps,
            num_removal_steps=num_removal_steps,
            num_cg_steps=num_cg_steps,
            batch_size=batch_size,
        )
    if mask:
        excluded = excluded_classes(problem, count)
    else:
        excluded = jnp.zeros((count, count), bool)
    return Tilt(excluded, change, beta=1.0)


def network_logit_change(
    problem: Problem,
    index: Array,
    *,
    ridge: Real,
    num_fit_steps: int = 20,
    num_removal_steps: int = 1,
    num_cg_steps: int = 100,
    batch_size: int = 128,
) -> Array:
    """Return the change of the forget samples' logits when D_F is removed.

    The change is one of first order: the network's expansion at its parameters is
    trained with and without D_F.

    Args:
      problem: gives the network and the samples.
      index: ``[N]`` positions of D_F and D_R.
      ridge: L2 penalty of all parameters, positive.
      num_fit_steps: Newton steps to the fit on all samples.
      num_removal_steps: Newton steps from there to the fit on the retained ones.
      num_cg_steps: largest number of conjugate-gradient iterations per Newton step.
      batch_size: images at a time.

    Returns:
      ``[F, C]``, forget samples in ascending order.
    """
    train = problem.train
    params = problem.variables.params
    network = outputs_of(problem.model, problem.variables.state)
    fit = partial(
        fit_primal,
        linearize(network, params),
        ridge=ridge,
        solver=CG(num_iters=num_cg_steps),
        batch_size=batch_size,
    )
    images = train.images[index]
    labels = train.labels[index]
    fitted = fit(params, images, labels, num_steps=num_fit_steps).params
    retain = members(problem.retain, problem.num_retain)
    images = train.images[retain]
    labels = train.labels[retain]
    refitted = fit(fitted, images, labels, num_steps=num_removal_steps).params
    change = jax.tree.map(jnp.subtract, refitted, fitted)
    images = train.images[forget_rows(problem)]
    return forward_change(network, params, change, images, batch_size=batch_size)


def predicted_logit_change(
    features: Array,
    labels: Array,
    retain: Array,
    queries: Array,
    *,
    num_classes: int,
    ridge: Real,
    num_fit_steps: int = 20,
    num_removal_steps: int = 1,
    num_cg_steps: int = 100,
) -> Array:
    """Return the logit change of a ridge softmax classifier when samples are removed.

    This is ``phi (W_R - W_D)``, where ``phi`` are the queries' standardized features.

    Args:
      features: ``[N, D]``, features of D_F and D_R, on any scale.
      labels: ``[N]`` int32 in 0..C-1.
      retain: ``[N]`` bool, True for at least one; the others are removed.
      queries: ``[Q, D]``, features of the samples whose change is returned; they need
        not be among ``features``.
      num_classes: C.
      ridge: L2 penalty, positive.
      num_fit_steps: Newton steps to the fit on all samples.
      num_removal_steps: Newton steps from there to the fit on the retained ones.
      num_cg_steps: largest number of conjugate-gradient iterations per Newton step.

    Returns:
      ``[Q, C]``.
    """
    phi = standardize(features, features)
    query_phi = standardize(features, queries)
    fitted = fit_head(
        jnp.zeros((phi.shape[1], num_classes)),
        phi,
        labels,
        jnp.full(len(labels), 1 / len(labels)),
        ridge=ridge,
        num_steps=num_fit_steps,
        num_cg_steps=num_cg_steps,
    )
    refitted = fit_head(
        fitted,
        phi,
        labels,
        retain / jnp.sum(retain),
        ridge=ridge,
        num_steps=num_removal_steps,
        num_cg_steps=num_cg_steps,
    )
    return linalg.product(query_phi, refitted - fitted)


def standardize(features: Array, queries: Array) -> Array:
    """Return centered features of unit mean square, with a 1 appended for the bias.

    The mean of each feature over the samples is subtracted. All features are divided by
    one scale, so that a feature that is active in few samples is not amplified, and the
    penalty weighs directions as in the network's own head.

    Args:
      features: ``[N, D]``, features that define the means and the scale.
      queries: ``[Q, D]``, features to standardize.

    Returns:
      ``[Q, D + 1]``.
    """
    mean = jnp.mean(features, 0, keepdims=True)
    scale = jnp.sqrt(jnp.mean((features - mean) ** 2))
    centered = (queries - mean) / jnp.where(scale > 0, scale, 1.0)
    return jnp.concatenate([centered, jnp.ones((len(queries), 1))], 1)


def fit_head(
    start: Array,
    phi: Array,
    labels: Array,
    weight: Array,
    *,
    ridge: Real,
    num_steps: int,
    num_cg_steps: int,
) -> Array:
    """Minimize ``sum_n weight_n CE(phi_n W, y_n) + ridge/2 |W|^2`` by Newton's method.

    The objective is convex. Each step solves for the Newton direction by conjugate
    gradients. The step is halved, up to 10 times, until it lowers the objective by
    Armijo's rule, and is skipped if none of these does. A rise within the rounding of
    float32 counts as no rise. So no step raises the objective beyond rounding, and near
    the optimum all steps are full Newton steps. Hessians are never formed.

    Args:
      start: ``[D, C]``, weights to start from.
      phi: ``[N, D]`` features.
      labels: ``[N]`` int32.
      weight: ``[N]``, weights of the samples, not negative, with sum 1; 0 for absent
        samples.
      ridge: L2 penalty, positive.
      num_steps: number of Newton steps.
      num_cg_steps: largest number of conjugate-gradient iterations per Newton step.

    Returns:
      ``[D, C]``. The norm of :func:`head_gradient` at this point measures the distance
      from the optimum.
    """
    gradient = head_gradient(start, phi, labels, weight, ridge=ridge)
    floor = _CONVERGED * jnp.linalg.norm(gradient)

    def step(head: Array, _: None) -> tuple[Array, None]:
        head = _newton_step(head, phi, labels, weight, ridge, num_cg_steps, floor)
        return head, None

    return lax.scan(step, start, None, length=num_steps)[0]


def head_gradient(
    head: Array, phi: Array, labels: Array, weight: Array, *, ridge: Real
) -> Array:
    """Return the gradient of the objective of :func:`fit_head`.

    Args:
      head: ``[D, C]``, weights at which to take the gradient.
      phi: ``[N, D]`` features.
      labels: ``[N]`` int32.
      weight: ``[N]``, weights of the samples.
      ridge: L2 penalty.

    Returns:
      ``[D, C]``.
    """
    probs = jax.nn.softmax(linalg.product(phi, head))
    error = weight[:, None] * (probs - jax.nn.one_hot(labels, head.shape[1]))
    return linalg.product(phi.T, error) + ridge * head


def _newton_step(
    head: Array,
    phi: Array,
    labels: Array,
    weight: Array,
    ridge: Real,
    num_cg_steps: int,
    floor: Array,
) -> Array:
    logits = linalg.product(phi, head)
    slope = head_gradient(head, phi, labels, weight, ridge=ridge)
    probs = jax.nn.softmax(logits)

    def hessian(vector: Array) -> Array:
        moved = linalg.product(phi, vector)
        curved = probs * (moved - jnp.sum(probs * moved, -1, keepdims=True))
        return linalg.product(phi.T, weight[:, None] * curved) + ridge * vector

    direction, _ = cg(hessian, -slope, tol=1e-6, atol=floor, maxiter=num_cg_steps)  # pyright: ignore[reportArgumentType]
    logit_change = linalg.product(phi, direction)

    def objective(size: Array) -> Array:
        losses = cross_entropy(logits + size * logit_change, labels)
        penalty = ridge / 2 * jnp.sum((head + size * direction) ** 2)
        return jnp.sum(weight * losses) + penalty

    sizes = 0.5 ** jnp.arange(_NUM_HALVINGS + 1)
    before = objective(jnp.zeros(()))
    after = lax.map(objective, sizes)
    promised = _SUFFICIENT * sizes * jnp.sum(slope * direction)
    is_lower = after <= before + _ROUNDING * before + promised
    size = jnp.where(jnp.any(is_lower), sizes[jnp.argmax(is_lower)], 0.0)
    return head + size * direction
