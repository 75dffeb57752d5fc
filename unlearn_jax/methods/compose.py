"""Composition: methods made of methods.

Each function returns a value that is itself a method, so compositions can be nested:

>>> from unlearn_jax.methods import AMUN, RandomLabel, Saliency
>>> salun = masked(RandomLabel(learning_rate=0.013), Saliency(fraction=0.5))
>>> amun_salun = masked(AMUN(), Saliency(fraction=0.5))
>>> amun_salun.constraints
(Saliency(fraction=0.5, leak=False),)
"""

import dataclasses
from typing import Any, ClassVar, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.typing import ArrayLike

from unlearn_jax.attacks import PGD
from unlearn_jax.checks import check_counts, check_positive
from unlearn_jax.filters import Filter, class_means
from unlearn_jax.methods.base import (
    Constraint,
    FineTuning,
    Restriction,
    attack_forget_set,
    check_method,
    is_bound,
    is_constraint,
)
from unlearn_jax.methods.saliency import Saliency
from unlearn_jax.spectral import clip, fastclip
from unlearn_jax.train import predict
from unlearn_jax.types import (
    ApplyFn,
    Array,
    AttackResult,
    InputError,
    Problem,
    UnlearnFn,
    UnlearnInfo,
    Variables,
)
from unlearn_jax.values import Real, leaf, value

MethodT = TypeVar("MethodT", bound=UnlearnFn)


@value
class SpectralBound:
    """Bound on every layer's spectral norm, as a constraint.

    FastClip follows the optimizer every ``clip_period`` steps, and a full clip ends the
    training. Then every layer's norm (together with the BatchNorm that follows it)
    exceeds the bound by at most half a percent.

    Attributes:
      max_norm: largest spectral norm of any layer.
      clip_period: training steps between two clips.
    """

    is_bound: ClassVar[bool] = True

    max_norm: Real = 1.0
    clip_period: int = 100

    def __post_init__(self) -> None:
        """Raise on bounds that no layer could meet."""
        check_positive(max_norm=self.max_norm)
        check_counts(clip_period=self.clip_period)

    def restrict(self, problem: Problem, *, batch_size: int) -> Restriction:
        """Return clipping as a restriction.

        Args:
          problem: gives the model and the shape of its images.
          batch_size: unused; a clip reads no sample.
        """
        del batch_size
        apply_fn = problem.model.apply
        images = problem.train.images

        def wrap(tx: optax.GradientTransformation) -> optax.GradientTransformation:
            clipping = fastclip(
                apply_fn,
                images,
                max_norm=self.max_norm,
                period=self.clip_period,
                model_state=problem.variables.state,
            )
            return optax.chain(tx, clipping)

        def project(variables: Variables) -> Variables:
            return clip(apply_fn, variables, images, max_norm=self.max_norm)

        return Restriction(wrap, project)


@value
class Restricted:
    """Method whose result is projected on a constraint; for methods without training.

    Attributes:
      method: method, run without the constraint.
      constraint: constraint whose projection is applied to the result.
    """

    method: UnlearnFn
    constraint: Constraint

    def __post_init__(self) -> None:
        """Raise unless the fields are a method and a constraint."""
        _check_inner(self.method)
        _check_constraint(self.constraint)

    def __call__(self, key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        """Run the method and project the unlearned variables.

        Args:
          key: passed to the method.
          problem: passed to the method.
        """
        variables, info = self.method(key, problem)
        restriction = self.constraint.restrict(problem, batch_size=128)
        cost = info.num_gradients + restriction.num_gradients
        return restriction.project(variables), info._replace(num_gradients=cost)


def masked(method: MethodT, saliency: Saliency) -> MethodT | Restricted:
    """Return a method that moves only the parameters that matter to the forget set.

    ``masked(RandomLabel(), Saliency())`` is SalUn (arXiv 2310.12508),
    ``masked(AMUN(), Saliency())`` is AMUN+SalUn (arXiv 2503.00917).

    Args:
      method: method to restrict. A fine-tuning method gets no gradient, momentum or
        decay outside the mask. In the result of any other method, the parameters
        outside the mask are set back to those of the original.
      saliency: constraint that selects the parameters.
    """
    return _constrained(method, saliency)


def constrained(
    method: MethodT, max_norm: Real, *, clip_period: int = 100
) -> MethodT | Restricted:
    """Return a method after which no layer's spectral norm exceeds a bound.

    For originals that were trained with FastClip. A fine-tuning method clips during
    training; the result of any other method is clipped once.

    Args:
      method: method to restrict.
      max_norm: largest spectral norm of any layer, positive.
      clip_period: training steps between two clips.
    """
    bound = SpectralBound(max_norm=max_norm, clip_period=clip_period)
    return _constrained(method, bound)


def _constrained(method: MethodT, constraint: Constraint) -> MethodT | Restricted:
    check_method(method)
    _check_constraint(constraint)
    if isinstance(method, FineTuning):
        constraints = (*method.constraints, constraint)
        return cast("MethodT", dataclasses.replace(method, constraints=constraints))
    is_mask = not is_bound(constraint)
    if isinstance(method, Restricted) and is_bound(method.constraint) and is_mask:
        # a bound holds only if it comes last
        inner = _constrained(method.method, constraint)
        return cast("MethodT", dataclasses.replace(method, method=inner))
    if isinstance(method, Filtered | Sequential):  # these only delegate to the method
        inner = _constrained(method.method, constraint)
        return cast("MethodT", dataclasses.replace(method, method=inner))
    return Restricted(method=method, constraint=constraint)


def _check_constraint(constraint: object) -> None:
    if not is_constraint(constraint):
        raise InputError(
            f"a constraint is a value such as Saliency(), got {constraint!r}"
        )


def _check_inner(method: object) -> None:
    """Raise on no method, or on a filtered one, whose filter would be dropped."""
    check_method(method)
    if isinstance(method, Filtered):
        raise InputError(
            "a filter comes last: compose the method first, then"
            " filtered(method, filter)"
        )


@value
class Filtered:
    """Method whose model predicts through an output filter.

    Attributes:
      method: unlearning method; ``Identity()`` for the filter alone.
      filter: filter of class probabilities, such as :class:`unlearn_jax.filters.MPRU`.
    """

    method: UnlearnFn
    filter: Filter

    def __post_init__(self) -> None:
        """Raise unless the fields are a method and a filter."""
        _check_inner(self.method)
        if not callable(self.filter) or isinstance(self.filter, type):
            raise InputError(
                f"filter must be a value such as Mask() or MPRU(), got {self.filter!r}"
            )

    def __call__(self, key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        """Run the method; the filter does not change the variables.

        Args:
          key: passed to the method.
          problem: passed to the method.
        """
        return self.method(key, problem)

    def apply_fn(self, problem: Problem, variables: Variables) -> ApplyFn:
        """Return the filtered model: log-probabilities instead of logits.

        Args:
          problem: problem whose training set gives the classes' mean outputs; the
            classes without a retained sample are the forgotten ones.
          variables: variables of the unlearned model.

        Returns:
          ``(variables, images) -> log-probabilities [B, C]``, -inf where the filter
          leaves probability 0.
        """
        labels = problem.train.labels
        logits = predict(problem.model.apply, variables, problem.train.images)
        means = class_means(jax.nn.softmax(logits), labels)
        is_retained = jnp.zeros(logits.shape[-1], bool).at[labels].max(problem.retain)

        def filtered_apply(variables: Variables, images: Array) -> Array:
            probabilities = jax.nn.softmax(problem.model.apply(variables, images))
            return jnp.log(self.filter(probabilities, means, ~is_retained))

        return filtered_apply


def filtered(method: UnlearnFn, filter: Filter) -> Filtered:
    """Return a method whose model predicts through an output filter.

    Args:
      method: unlearning method; ``Identity()`` for the filter alone.
      filter: filter of class probabilities.
    """
    return Filtered(method=method, filter=filter)


@value
class Sequential:
    """Method that forgets in several requests, one after the other.

    Attributes:
      method: method that answers each request.
      requests: ``[K, N]`` bool, disjoint masks of the same number of samples.
      attack: attack that finds D_A, as in :func:`unlearn_sequence`.
      adaptive: find D_A on the current model before each request.
    """

    method: UnlearnFn
    requests: Any = leaf()
    attack: PGD | None = None
    adaptive: bool = False

    def __post_init__(self) -> None:
        """Check the method; take requests that are lists of masks as an array."""
        _check_inner(self.method)
        if isinstance(self.requests, list | tuple):
            object.__setattr__(self, "requests", np.asarray(self.requests))

    def __eq__(self, other: object) -> bool:
        """Return whether all fields are equal; requests are compared by value."""
        if not isinstance(other, Sequential):
            return NotImplemented
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        """Return a hash, so that ``jax.jit`` can wrap the method itself."""
        return hash(self._identity())

    def _identity(self) -> tuple[Any, ...]:
        requests = np.asarray(self.requests)
        contents = (requests.shape, requests.dtype.str, requests.tobytes())
        return (self.method, contents, self.attack, self.adaptive)

    def __call__(self, key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        """Answer all requests.

        Args:
          key: PRNG key; consumed.
          problem: problem whose forget set is the union of the requests.

        Returns:
          The model after the last request, and what each cost, leaves ``[K, ...]``.
        """
        steps, info = unlearn_sequence(
            key,
            self.method,
            problem,
            self.requests,
            attack=self.attack,
            adaptive=self.adaptive,
        )
        return jax.tree.map(lambda leaf: leaf[-1], steps), info


def sequence(
    method: UnlearnFn,
    requests: ArrayLike,
    *,
    attack: PGD | None = None,
    adaptive: bool = False,
) -> Sequential:
    """Return a method that forgets in several requests, one after the other.

    Args:
      method: method that answers each request.
      requests: ``[K, N]`` bool, disjoint masks of the same number of samples.
      attack: attack that finds D_A; see :func:`unlearn_sequence`.
      adaptive: find D_A on the current model before each request (AMUN-A).

    Raises:
      InputError: requests of another kind or shape, no method, a filtered one, or an
        attack that is not a PGD.
    """
    if not isinstance(requests, Tracer):
        masks = np.asarray(requests)
        if masks.ndim != 2 or masks.dtype != bool:
            raise InputError(
                "requests must be bool masks [K, N], one row per request, got"
                f" {masks.dtype} of shape {masks.shape}"
            )
    return Sequential(
        method=method, requests=requests, attack=attack, adaptive=adaptive
    )


def unlearn_sequence(
    key: Array,
    method: UnlearnFn,
    problem: Problem,
    requests: Any,
    *,
    adaptive: bool = False,
    attack: PGD | None = None,
) -> tuple[Variables, UnlearnInfo]:
    """Answer requests in order, each on the model that the previous one left.

    Section 6.3 and appendix H of arXiv 2503.00917. Request ``k`` gets D without the
    samples of all earlier requests, the current model, and a key with ``k`` folded in.
    The optimizer and its schedule restart. The paper's setting is 5 requests of 2% of
    CIFAR-10 each, with the hyperparameters tuned for one request of all 10%. The
    function can be jitted, and mapped over sequences of equal size.

    AMUN uses one D_A, found on the original model, for all requests. With ``adaptive``,
    each request's D_A is found on the current model (AMUN-A). A method that does not
    use D_A runs the same either way.

    Args:
      key: PRNG key; consumed.
      method: unlearning method, such as ``AMUN()``.
      problem: problem whose forget set is the union of all requests; its
        ``adversarial`` set, if any, was found on its model.
      requests: ``[K, N]`` bool, disjoint masks of the same number of samples.
      adaptive: find D_A on the current model before each request.
      attack: attack that finds D_A. With ``adaptive`` it is always run (``PGD()`` if
        None), otherwise only if the problem has no D_A. Without any of these, requests
        have no D_A, and AMUN attacks the current model itself.

    Returns:
      The models after each request, stacked ``[K, ...]``, and what each cost
      ``[K, ...]``.

    Raises:
      InputError: no method, or an attack that is not a PGD; concrete requests that do
        not partition the forget set into parts of equal size, or a forget set whose
        size is not a multiple of their number.
    """
    check_method(method)
    if attack is not None and not isinstance(attack, PGD):
        raise InputError(f"attack must be a PGD(...) or None, got {attack!r}")
    requests = requests if isinstance(requests, jax.Array) else np.asarray(requests)
    size = request_size(problem, requests)
    adversarial = None if adaptive else problem.adversarial
    if adversarial is None and not adaptive and attack is not None:
        adversarial = attack_forget_set(problem, attack)

    variables = problem.variables
    removed = problem.removed
    answers = []
    for k, request in enumerate(jnp.asarray(requests)):
        current = dataclasses.replace(
            problem,
            variables=variables,
            forget=request,
            num_forget=size,
            adversarial=None
            if adversarial is None
            else _rows(adversarial, problem.forget, request, size),
            removed=removed,
            num_removed=problem.num_removed + k * size,
        )
        if adaptive:
            adapted = attack_forget_set(current, attack or PGD())
            current = dataclasses.replace(current, adversarial=adapted)
        variables, info = method(jax.random.fold_in(key, k), current)
        removed = request if removed is None else removed | request
        answers.append((variables, info))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *answers)


def request_size(problem: Problem, requests: Any) -> int:
    """Return the number of samples of each request.

    Args:
      problem: its forget set is the union of the requests.
      requests: ``[K, N]`` bool.

    Raises:
      InputError: concrete requests that do not partition the forget set into parts of
        equal size, or a forget set that has no such parts.
    """
    num_samples = len(problem.forget)
    if (
        requests.dtype != bool
        or requests.ndim != 2
        or requests.shape[1] != num_samples
        or not len(requests)
    ):
        raise InputError(
            f"requests must be bool [K, {num_samples}], one row per request and one"
            f" entry per training sample; got {requests.dtype} {requests.shape}"
        )
    size, rest = divmod(problem.num_forget, len(requests))
    if rest:
        raise InputError(
            f"a forget set of {problem.num_forget} samples cannot be split into"
            f" {len(requests)} requests of equal size: every request must forget the"
            " same number"
        )
    if not isinstance(requests, Tracer) and not isinstance(problem.forget, Tracer):
        mask = jnp.asarray(requests)
        is_shared = jnp.any(mask.sum(0) != problem.forget)
        if bool(is_shared | jnp.any(mask.sum(1) != size)):
            raise InputError(
                f"requests must be disjoint, of {size} samples each, and together the"
                f" problem's forget set of {problem.num_forget}"
            )
    return size


def _rows(
    adversarial: AttackResult, forget: Array, request: Array, size: int
) -> AttackResult:
    """Return one request's rows of the whole forget set's D_A."""
    position = jnp.cumsum(forget) - 1
    rows = position[jnp.nonzero(request, size=size)[0]]
    return jax.tree.map(lambda leaf: leaf[rows], adversarial)
