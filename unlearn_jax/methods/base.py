"""Shared parts of unlearning methods: the problem and the fine-tuning loop."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.typing import ArrayLike

from unlearn_jax.attacks import PGD
from unlearn_jax.checks import (
    check_counts,
    check_not_negative,
    check_positive,
    check_samples,
    check_shape,
)
from unlearn_jax.data import augmentation
from unlearn_jax.losses import cross_entropy
from unlearn_jax.optimizers import SGD, Optimizer
from unlearn_jax.train import (
    Augment,
    Batch,
    FetchFn,
    LossFn,
    Recipe,
    check_type,
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
      variables: variables of the original model.
      train: the original's whole training set.
      forget: ``[N]`` bool, some True and some False.
      adversarial: D_A of the forget samples in ascending order, if already computed.
      removed: ``[N]`` bool, samples that earlier requests forgot; they belong to
        neither D_F nor D_R.

    Returns:
      The problem.

    Raises:
      InputError: an argument of a wrong type; unusable images or labels; variables of
        another model; a mask that has the wrong length or type, or selects no sample or
        all of them; a sample in both ``forget`` and ``removed``; a D_A of another
        shape.
    """
    check_type("model", model, Model)
    check_type("variables", variables, Variables)
    check_type("train", train, Dataset)
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
    if adversarial is not None:
        for name, field in adversarial._asdict().items():
            shape = train.images.shape[1:] if name == "images" else ()
            check_shape(f"adversarial.{name}", field, (count, *shape))
        samples = Dataset(adversarial.images, adversarial.labels)
        check_samples(model.apply, variables, samples, "adversarial set")
    train = Dataset(jnp.asarray(train.images), jnp.asarray(train.labels, jnp.int32))
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

    If ``num_forget`` is a :class:`~unlearn_jax.types.Count`, the positions repeat
    cyclically up to the count's ``most``.
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
      problem: problem whose original model is attacked, in evaluation mode.
      attack: the attack.

    Returns:
      ``[F]`` rows, in ascending order of the samples.
    """
    forget = forget_set(problem)
    return attack(problem.model.apply, problem.variables, forget.images, forget.labels)


class Restriction(NamedTuple):
    """Constraints of a method, evaluated for one problem.

    Attributes:
      wrap: function that changes the optimizer of the method's training.
      project: function from trained variables to allowed ones.
      num_gradients: per-sample gradients that the constraints themselves cost, a number
        or a :class:`~unlearn_jax.types.Count`.
    """

    wrap: WrapTx
    project: Callable[[Variables], Variables]
    num_gradients: Any = 0


class Constraint(Protocol):
    """Limit on where a method may move the parameters.

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
    """Raise unless an object is a method.

    Args:
      method: the caller's argument.

    Raises:
      InputError: a class, a name, or any other object that is not callable.
    """
    if not callable(method) or isinstance(method, type):
        raise InputError(
            f"a method is a value such as AMUN(), called (key, problem), got {method!r}"
        )


def is_padded(method: Any) -> bool:
    """Return whether problems of several sizes can share one program of a method.

    Methods and constraints whose class sets ``is_padded`` accept a
    :class:`~unlearn_jax.types.Count` as ``num_forget``, and return for each problem the
    result that it has alone. Other methods cannot: they read all of D_R at once, as an
    array of its length, or draw a fraction of it. A learning rate that decays by epochs
    needs the steps per epoch as a Python number.

    Args:
      method: method or constraint to call with such problems.
    """
    parts = (method, *getattr(method, "constraints", ()))
    # Only the class itself counts: a derived class may need the number itself.
    if not all(vars(type(part)).get("is_padded", False) for part in parts):
        return False
    return not getattr(method, "decay_every", 0)


def is_constraint(candidate: object) -> bool:
    """Return whether an object is a constraint; a class is not one."""
    return hasattr(candidate, "restrict") and not isinstance(candidate, type)


def is_bound(constraint: Constraint) -> bool:
    """Return whether a constraint bounds the result, so that it must come last.

    Args:
      constraint: any constraint; a bound has a true attribute ``is_bound``.
    """
    return bool(getattr(constraint, "is_bound", False))


@value
class FineTuning:
    """Hyperparameters of every fine-tuning method.

    Float fields may be arrays to map over; such a value can be neither compared nor
    hashed.

    Attributes:
      num_epochs: passes over the method's samples; 10 in AMUN's tables.
      batch_size: samples per step; 128 for CIFAR-10.
      learning_rate: initial learning rate; AMUN searches [1e-6, 1e-1].
      decay_every: epochs between decays by ``decay_factor``; 0 for a constant rate.
        AMUN searches 0, 1 and 5.
      decay_factor: factor of each decay, positive; static, never traced.
      weight_decay: L2 penalty, added to the gradient.
      optimizer: ``SGD(momentum=0.9)``, or ``Adam()`` as the released codes of SCRUB and
        bad teacher use it.
      augment: augmentation of training samples, a name for
        :func:`unlearn_jax.data.augmentation` or a function of your own; adversarial
        samples are never augmented.
      batch_stats: ``update`` updates BatchNorm statistics while fine-tuning; ``freeze``
        trains in evaluation mode.
      constraints: limits on the parameters; :func:`unlearn_jax.methods.masked` and
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
        """Raise on values that no run could use."""
        check_counts(num_epochs=self.num_epochs, batch_size=self.batch_size)
        check_counts(0, decay_every=self.decay_every)
        # optax takes a decay_factor of 0 for a constant rate
        check_positive(learning_rate=self.learning_rate, decay_factor=self.decay_factor)
        check_not_negative(weight_decay=self.weight_decay)
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
        """Augmentation that ``augment`` names; None for none."""
        return self.augment if callable(self.augment) else augmentation(self.augment)

    def tx(self, steps_per_epoch: int | Count) -> optax.GradientTransformation:
        """Return the optimizer with its schedule.

        Args:
          steps_per_epoch: steps of one epoch of the schedule.
        """
        if not self.decay_every:
            return self.tx_at(self.learning_rate)
        if isinstance(steps_per_epoch, Count):
            raise TypeError("a learning rate that decays by epochs needs static sizes")
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
          num_samples: number of training samples; sets the steps of an epoch of the
            schedule.
        """
        tx = self.tx(steps_per_epoch(num_samples, self.batch_size))
        return Recipe(self.num_epochs, self.batch_size, tx, self.augmentation)

    def restriction(self, problem: Problem) -> Restriction:
        """Return all constraints together, evaluated for one problem.

        Masks come first and bounds last, whatever the order of ``constraints``: a bound
        must read every parameter and may move it.

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


Forward = Callable[[Variables, Array, Array], tuple[Array, ModelState]]
"""``(variables, images [B, ...], key) -> (logits [B, C], new model state)``."""


def forward_fn(model: Model, options: FineTuning) -> Forward:
    """Return the forward pass of fine-tuning.

    Args:
      model: the architecture.
      options: hyperparameters; ``batch_stats`` selects training or evaluation mode.
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
    """Return the mean cross-entropy, in training mode or with frozen statistics."""
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
    """Fine-tune the original model on the samples of a mask.

    Args:
      key: PRNG key of the method's run.
      problem: gives the model and the variables to start from.
      options: hyperparameters of the training.
      data: argument of ``fetch``.
      member: bool over the positions that ``fetch`` understands, the samples to train
        on; without any, the result is the original.
      num_samples: approximate number of members (static, or a count); sets the steps
        per epoch.
      fetch: function that reads samples.
      loss_fn: the objective; cross-entropy by default.
      wrap_tx: function that changes the optimizer, before the constraints do.
      restriction: restriction of the training, for methods that do not start at the
        original; if None, that of the constraints for ``problem``.

    Returns:
      The fine-tuned variables, and what the training cost.
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
