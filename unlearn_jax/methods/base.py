"""Parts that unlearning methods share: the problem, and the fine-tuning loop."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.typing import ArrayLike

from unlearn_jax.attacks import PGD
from unlearn_jax.checks import check_samples
from unlearn_jax.data import augmentation
from unlearn_jax.losses import cross_entropy
from unlearn_jax.optimizers import SGD, Optimizer
from unlearn_jax.train import (
    Augment,
    Batch,
    FetchFn,
    LossFn,
    Recipe,
    cross_entropy_loss,
    init_state,
    step_decay,
    steps_per_epoch,
    train_epochs,
)
from unlearn_jax.types import (
    Array,
    AttackResult,
    Count,
    Dataset,
    InputError,
    Model,
    ModelState,
    Problem,
    UnlearnInfo,
    Variables,
    most_of,
    to_float,
    value_of,
)
from unlearn_jax.values import Real, static, value

WrapTx = Callable[[optax.GradientTransformation], optax.GradientTransformation]


def make_problem(
    model: Model,
    variables: Variables,
    train: Dataset,
    forget: ArrayLike,
    adversarial: AttackResult | None = None,
    *,
    removed: ArrayLike | None = None,
) -> Problem:
    """Check the forget mask and return a :class:`unlearn_jax.types.Problem`.

    Args:
      model: the architecture.
      variables: the original model's.
      train: its whole training set.
      forget: ``[N]`` bool, some True and some False.
      adversarial: D_A of the forget samples in ascending order, if already computed.
      removed: ``[N]`` bool, samples that earlier requests forgot: part of neither D_F
        nor D_R.

    Returns:
      The problem.

    Raises:
      InputError: unusable images or labels, or variables of another model; a mask of
        the wrong length or type, empty, or of everything; a sample both to forget and
        removed; a D_A of another size.
    """
    if not isinstance(model, Model) or not isinstance(variables, Variables):
        raise InputError(
            "make_problem takes a Model and its Variables, got"
            f" {type(model).__name__} and {type(variables).__name__}: adapt a network"
            " by models.from_linen, from_nnx or from_functions"
        )
    if isinstance(forget, Tracer):
        raise InputError(
            "make_problem checks concrete masks: to map over forget sets of one size,"
            " make one problem and use dataclasses.replace(problem, forget=...)"
        )
    is_read = None
    if removed is not None and np.shape(removed) == np.shape(train.labels):
        is_read = ~np.asarray(removed, bool)
    check_samples(model.apply, variables, train, "training set", member=is_read)
    mask = np.asarray(forget)
    if mask.dtype != bool or mask.shape != (len(train.labels),):
        raise InputError(
            f"the forget mask must be bool of length {len(train.labels)}, one entry per"
            f" training sample; got {mask.dtype} {mask.shape}"
        )
    count = int(mask.sum())
    if count in (0, len(mask)):
        raise InputError(
            f"the forget set holds {'none' if count == 0 else 'all'} of the {len(mask)}"
            " training samples: choose at least one, and leave at least one"
        )
    if adversarial is not None and len(adversarial.labels) != count:
        raise InputError(
            f"the adversarial set has {len(adversarial.labels)} rows for {count} forget"
            " samples"
        )
    if adversarial is not None:
        samples = Dataset(adversarial.images, adversarial.labels)
        check_samples(model.apply, variables, samples, "adversarial set")
    train = jax.tree.map(jnp.asarray, train)
    if removed is None:
        return Problem(model, variables, train, jnp.asarray(mask), count, adversarial)
    removed_mask = np.asarray(removed)
    if (
        removed_mask.dtype != bool
        or removed_mask.shape != mask.shape
        or (removed_mask & mask).any()
        or (removed_mask | mask).all()
    ):
        raise InputError(
            f"removed must be a bool mask of length {len(mask)} that shares no sample"
            " with the forget set and leaves at least one to retain"
        )
    return Problem(
        model,
        variables,
        train,
        jnp.asarray(mask),
        count,
        adversarial,
        jnp.asarray(removed_mask),
        int(removed_mask.sum()),
    )


def forget_set(problem: Problem) -> Dataset:
    """Return the forget samples in ascending order, images ``[F, ...]`` in float32."""
    index = forget_rows(problem)
    return Dataset(to_float(problem.train.images[index]), problem.train.labels[index])


def forget_rows(problem: Problem) -> Array:
    """Return the positions of the forget samples, ``[F]`` ascending.

    Where ``num_forget`` is a count, the first ones follow again, up to its most.
    """
    number = problem.num_forget
    rows = jnp.nonzero(problem.forget, size=most_of(number))[0]
    if isinstance(number, Count):
        return rows[jnp.arange(number.most) % number.value]
    return rows


def num_classes(problem: Problem) -> int:
    """Return ``C``, from the shape of the logits alone (static)."""
    images = jax.ShapeDtypeStruct((1, *problem.train.images.shape[1:]), jnp.float32)
    return jax.eval_shape(problem.model.apply, problem.variables, images).shape[-1]


def attack_forget_set(problem: Problem, attack: PGD) -> AttackResult:
    """Return AMUN's D_A: an adversarial example of every forget sample.

    Args:
      problem: whose original model is attacked, in evaluation mode.
      attack: how.

    Returns:
      ``[F]`` rows, in ascending order of the samples.
    """
    forget = forget_set(problem)
    return attack(problem.model.apply, problem.variables, forget.images, forget.labels)


class Restriction(NamedTuple):
    """Constraints of a method, worked out for one problem.

    Attributes:
      wrap: changes the optimizer of the method's training.
      project: maps trained variables to allowed ones.
      num_gradients: per-sample gradients that the constraints themselves cost, a number
        or a :class:`~unlearn_jax.types.Count`.
    """

    wrap: WrapTx
    project: Callable[[Variables], Variables]
    num_gradients: Any = 0


class Constraint(Protocol):
    """A value that limits where a method may move the parameters.

    :class:`unlearn_jax.methods.Saliency` and
    :class:`unlearn_jax.methods.SpectralBound` are constraints.
    """

    def restrict(self, problem: Problem, *, batch_size: int) -> Restriction:
        """Return the restriction for one problem.

        Args:
          problem: gives the original model and the samples.
          batch_size: samples at a time, for what the constraint computes.
        """
        ...


def check_method(method: object) -> None:
    """Raise unless a method is given where one is wanted.

    Args:
      method: what the caller passed.

    Raises:
      InputError: a class, a name, or anything that cannot be called.
    """
    if not callable(method) or isinstance(method, type):
        raise InputError(
            f"a method is a value such as AMUN(), called (key, problem), got {method!r}"
        )


def is_padded(method: Any) -> bool:
    """Return whether problems of several sizes can share a program of a method.

    Methods and constraints whose class says ``is_padded`` take a
    :class:`~unlearn_jax.types.Count` for ``num_forget``, and give what they give each
    problem alone. Others read all of D_R at once, as an array of its length, or draw a
    fraction of it. A rate that decays by epochs needs their steps as numbers.

    Args:
      method: to be called with such problems.
    """
    parts = (method, *getattr(method, "constraints", ()))
    # Of the class itself: a class derived from it may read the number.
    if not all(vars(type(part)).get("is_padded", False) for part in parts):
        return False
    return not getattr(method, "decay_every", 0)


def is_constraint(candidate: object) -> bool:
    """Return whether an object can restrict a method; a class cannot."""
    return hasattr(candidate, "restrict") and not isinstance(candidate, type)


def is_bound(constraint: Constraint) -> bool:
    """Return whether a constraint bounds the result, so that it must come last.

    Args:
      constraint: with an attribute ``is_bound``; a mask has none.
    """
    return bool(getattr(constraint, "is_bound", False))


@value
class FineTuning:
    """Hyperparameters that every fine-tuning method has.

    Attributes:
      num_epochs: passes over the method's samples; 10 in AMUN's tables.
      batch_size: samples per step; 128 for CIFAR-10.
      learning_rate: initial; searched in [1e-6, 1e-1] by AMUN.
      decay_every: epochs between decays by ``decay_factor``; 0 for a constant rate.
        AMUN searches 0, 1 and 5.
      decay_factor: positive; static, never traced.
      weight_decay: L2, added to the gradient.
      optimizer: ``SGD(momentum=0.9)``, or ``Adam()`` as the released codes of SCRUB and
        bad teacher use it.
      augment: name of the augmentation of training samples, as
        :func:`unlearn_jax.data.augmentation` takes it, or a function of your own;
        adversarial samples are never augmented.
      batch_stats: ``update`` moves BatchNorm statistics while fine-tuning, ``freeze``
        trains in evaluation mode.
      constraints: where the parameters may go; :func:`unlearn_jax.methods.masked` and
        :func:`unlearn_jax.methods.constrained` add one.
    """

    num_epochs: int = 10
    batch_size: int = 128
    learning_rate: Real = 0.01
    decay_every: int = 0
    decay_factor: float = static(default=0.1)
    weight_decay: Real = 5e-4
    optimizer: Optimizer = SGD()
    augment: str | Augment = "none"
    batch_stats: Literal["update", "freeze"] = "update"
    constraints: tuple[Constraint, ...] = ()

    def __post_init__(self) -> None:
        """Refuse values that no run could use."""
        check_numbers(
            low=0, learning_rate=self.learning_rate, weight_decay=self.weight_decay
        )
        if not 0 < self.decay_factor < math.inf:  # optax takes 0 for a constant rate
            raise InputError(
                "a method's decay_factor must be positive and finite, got"
                f" {self.decay_factor}"
            )
        if (
            self.num_epochs < 1
            or self.batch_size < 1
            or self.decay_every < 0
            or is_zero(self.learning_rate)
        ):
            raise InputError(
                "num_epochs, batch_size and learning_rate of a method must be positive,"
                " and decay_every not negative"
            )
        if not callable(self.optimizer) or isinstance(self.optimizer, type):
            raise InputError(
                f"optimizer must be a value such as SGD() or Adam(), got"
                f" {self.optimizer!r}"
            )
        for constraint in self.constraints:
            if not is_constraint(constraint):
                raise InputError(
                    "constraints must be values such as Saliency() or SpectralBound(),"
                    f" got {constraint!r}"
                )
        if not callable(self.augment) and not isinstance(self.augment, str):
            raise InputError(
                f"augment must be a name, such as 'none', or a function, got"
                f" {self.augment!r}"
            )
        _ = self.augmentation  # raises on unknown names

    @property
    def augmentation(self) -> Augment | None:
        """Augmentation named by ``augment``; None for none."""
        return self.augment if callable(self.augment) else augmentation(self.augment)

    def tx(self, steps_per_epoch: int | Count) -> optax.GradientTransformation:
        """Return the optimizer with its schedule.

        Args:
          steps_per_epoch: steps after which an epoch of the schedule ends.
        """
        if not self.decay_every:
            return self.tx_at(self.learning_rate)
        if isinstance(steps_per_epoch, Count):
            raise TypeError("a rate that decays by epochs has a program for each size")
        schedule = step_decay(
            self.learning_rate,
            every=self.decay_every * steps_per_epoch,
            factor=self.decay_factor,
        )
        return self.tx_at(schedule)

    def tx_at(self, rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
        """Return the optimizer with another learning rate or schedule."""
        return self.optimizer(rate, self.weight_decay)

    def recipe(self, num_samples: int) -> Recipe:
        """Return the recipe for training from scratch, without the constraints.

        Args:
          num_samples: to train on; sets the steps of an epoch of the schedule.
        """
        tx = self.tx(steps_per_epoch(num_samples, self.batch_size))
        return Recipe(self.num_epochs, self.batch_size, tx, self.augmentation)

    def restriction(self, problem: Problem) -> Restriction:
        """Return all constraints together, worked out for one problem.

        Masks come first and bounds last, in whatever order they were given: a bound
        must see, and may move, every parameter.

        Args:
          problem: gives the original model and the samples.
        """
        parts = [
            constraint.restrict(problem, batch_size=self.batch_size)
            for constraint in sorted(self.constraints, key=is_bound)
        ]

        def wrap(tx: optax.GradientTransformation) -> optax.GradientTransformation:
            for part in parts:
                tx = part.wrap(tx)
            return tx

        def project(variables: Variables) -> Variables:
            for part in parts:
                variables = part.project(variables)
            return variables

        return Restriction(wrap, project, sum(part.num_gradients for part in parts))


def is_zero(number: Real) -> bool:
    """Return whether a hyperparameter is known to be zero; traced ones are not."""
    return not isinstance(number, Tracer) and bool(np.any(np.asarray(number) == 0))


def check_numbers(
    *, low: float = -math.inf, high: float = math.inf, **hyperparameters: Real
) -> None:
    """Raise on hyperparameters that are not finite or leave ``[low, high]``.

    Traced ones, as in a search, are not checked.

    Args:
      low: smallest allowed.
      high: largest allowed.
      **hyperparameters: numbers, or arrays of them to map over, by name.

    Raises:
      InputError: naming the hyperparameter.
    """
    for name, number in hyperparameters.items():
        if isinstance(number, Tracer):
            continue
        numbers = np.asarray(number)
        if not (np.isfinite(numbers) & (low <= numbers) & (numbers <= high)).all():
            is_unbounded = math.isinf(low) and math.isinf(high)
            where = "finite" if is_unbounded else f"finite and in [{low:g}, {high:g}]"
            raise InputError(f"a method's {name} must be {where}, got {number}")


def check_positive(name: str, number: Real) -> None:
    """Raise on a hyperparameter that is not positive and finite.

    Args:
      name: of the hyperparameter.
      number: its value; traced ones are not checked.

    Raises:
      InputError: naming it.
    """
    check_numbers(low=0, high=math.inf, **{name: number})  # pyright: ignore[reportArgumentType]
    if is_zero(number):
        raise InputError(f"a method's {name} must be positive, got 0")


def check_batch_size(name: str, size: int | None) -> None:
    """Raise on a number of samples of a batch that is below 1.

    Args:
      name: of the hyperparameter.
      size: its value; None, for another's value, passes.

    Raises:
      InputError: naming it.
    """
    if size is not None and size < 1:
        raise InputError(f"a method's {name} must be positive, got {size}")


Forward = Callable[[Variables, Array, Array], tuple[Array, ModelState]]
"""``(variables, images [B, ...], key) -> (logits [B, C], new model state)``."""


def forward_fn(model: Model, options: FineTuning) -> Forward:
    """Return the forward pass of fine-tuning.

    Args:
      model: the architecture.
      options: ``batch_stats`` decides between training and evaluation mode.
    """
    if options.batch_stats == "update":
        return model.apply_train

    def frozen(
        variables: Variables, images: Array, key: Array
    ) -> tuple[Array, ModelState]:
        del key
        return model.apply(variables, images), variables.state

    return frozen


def default_loss(model: Model, options: FineTuning) -> LossFn:
    """Return mean cross-entropy, in training mode or with frozen statistics."""
    if options.batch_stats == "update":
        return cross_entropy_loss(model)
    forward = forward_fn(model, options)

    def loss_fn(
        variables: Variables, batch: Batch, key: Array
    ) -> tuple[Array, ModelState]:
        logits, state = forward(variables, batch.images, key)
        return jnp.mean(cross_entropy(logits, batch.labels)), state

    return loss_fn


def finetune_on(
    key: Array,
    problem: Problem,
    options: FineTuning,
    *,
    data: Any,
    member: Array,
    num_samples: int | Count,
    fetch: FetchFn,
    loss_fn: LossFn | None = None,
    wrap_tx: WrapTx | None = None,
    restriction: Restriction | None = None,
) -> tuple[Variables, UnlearnInfo]:
    """Train the original model further, on the samples of a mask.

    Args:
      key: of the method's run.
      problem: gives the model and where to start.
      options: hyperparameters of the training.
      data: what ``fetch`` reads.
      member: bool over the positions that ``fetch`` understands; without any member the
        original comes back.
      num_samples: about how many members there are (static, or a count); sets the
        steps per epoch.
      fetch: how samples are read.
      loss_fn: the objective; cross-entropy by default.
      wrap_tx: changes the optimizer, before the constraints do.
      restriction: of the training, for methods that start elsewhere than at the
        original; if None, what the constraints come to for ``problem``.

    Returns:
      The fine-tuned variables, and what it cost.
    """
    num_batches = steps_per_epoch(num_samples, options.batch_size)
    restriction = restriction or options.restriction(problem)
    tx = options.tx(num_batches)
    tx = restriction.wrap(wrap_tx(tx) if wrap_tx else tx)
    state, losses = train_epochs(
        loss_fn or default_loss(problem.model, options),
        tx,
        fetch,
        init_state(key, problem.model, tx, problem.variables),
        key,
        data,
        member,
        num_epochs=options.num_epochs,
        num_batches=num_batches,
        batch_size=options.batch_size,
    )
    has_members = jnp.any(member)
    variables = jax.tree.map(
        lambda new, old: jnp.where(has_members, new, old),
        restriction.project(state.variables),
        problem.variables,
    )
    cost = options.num_epochs * num_batches * options.batch_size
    return variables, UnlearnInfo(
        jnp.where(has_members, losses, 0.0),
        jnp.asarray(value_of(cost + restriction.num_gradients), jnp.int32),
    )
