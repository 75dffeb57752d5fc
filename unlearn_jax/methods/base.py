"""What unlearning methods share: making a problem, the fine-tuning loop, and AMUN's adversarial set of a problem."""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.attacks import adversarial_set
from unlearn_jax.losses import cross_entropy
from unlearn_jax.train import (
    Augment,
    Batch,
    FetchFn,
    LossFn,
    Recipe,
    cross_entropy_loss,
    init_state,
    sgd,
    step_decay,
    steps_per_epoch,
    to_float,
    train_epochs,
)
from unlearn_jax.types import (
    Array,
    AttackResult,
    Dataset,
    InputError,
    Model,
    ModelState,
    Problem,
    UnlearnInfo,
    Variables,
)


def make_problem(
    model: Model, variables: Variables, train: Dataset, forget: Any, adversarial: AttackResult | None = None
) -> Problem:
    """Checks the forget mask and makes a :class:`unlearn_jax.types.Problem`.

    Args:
      model: the architecture.
      variables: the original model's.
      train: its whole training set.
      forget: ``[N]`` bool, some True and some False.
      adversarial: D_A of the forget samples in ascending order, if already computed.

    Returns:
      The problem.

    Raises:
      InputError: a mask of the wrong length or type, empty, or of everything; a D_A of another size.
    """
    mask = np.asarray(forget)
    if mask.dtype != bool or mask.shape != (len(train.labels),):
        raise InputError(
            f"the forget mask must be bool of length {len(train.labels)}, one entry per training sample; "
            f"got {mask.dtype} {mask.shape}"
        )
    count = int(mask.sum())
    if count in (0, len(mask)):
        raise InputError(
            f"the forget set holds {'none' if count == 0 else 'all'} of the {len(mask)} training samples: "
            "choose at least one, and leave at least one"
        )
    if adversarial is not None and len(adversarial.labels) != count:
        raise InputError(f"the adversarial set has {len(adversarial.labels)} rows for {count} forget samples")
    return Problem(model, variables, jax.tree.map(jnp.asarray, train), jnp.asarray(mask), count, adversarial)


def forget_set(problem: Problem) -> Dataset:
    """The forget samples in ascending order: images ``[F, ...]`` float32, labels ``[F]``."""
    index = jnp.nonzero(problem.forget, size=problem.num_forget)[0]
    return Dataset(to_float(problem.train.images[index]), problem.train.labels[index])


def attack_forget_set(problem: Problem, **knobs: Any) -> AttackResult:
    """AMUN's D_A of a problem: :func:`unlearn_jax.attacks.adversarial_set` of the forget samples, evaluation mode.

    Args:
      problem: whose original model is attacked.
      **knobs: of ``adversarial_set``.

    Returns:
      ``[F]`` rows, in ascending order of the samples.
    """
    forget = forget_set(problem)
    return adversarial_set(problem.model.apply, problem.variables, forget.images, forget.labels, **knobs)


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """The knobs that every fine-tuning method takes.

    Attributes:
      num_epochs: passes over the method's samples; 10 in AMUN's tables.
      batch_size: samples per step; 128 for CIFAR-10.
      learning_rate: of SGD; searched in [1e-6, 1e-1] by AMUN.
      decay_every: epochs between decays by ``decay_factor``; 0 for a constant rate. AMUN searches 0, 1 and 5.
      decay_factor: see there.
      momentum: of SGD.
      weight_decay: L2, added to the gradient.
      augment: of the original training samples, as in training; adversarial ones are never augmented.
      batch_stats: ``update`` moves BatchNorm statistics while fine-tuning, ``freeze`` trains in evaluation mode.
    """

    num_epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 0.01
    decay_every: int = 0
    decay_factor: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: Augment | None = None
    batch_stats: Literal["update", "freeze"] = "update"

    def __post_init__(self) -> None:
        """Refuses values no run could use."""
        numbers = (self.learning_rate, self.decay_factor, self.momentum, self.weight_decay)
        if not all(math.isfinite(number) for number in numbers) or self.weight_decay < 0 or not 0 <= self.momentum < 1:
            raise InputError("a method's momentum must be in [0, 1), its other rates finite, weight_decay not negative")
        if self.num_epochs < 1 or self.batch_size < 1 or self.learning_rate <= 0 or self.decay_every < 0:
            raise InputError(
                "num_epochs, batch_size and learning_rate of a method must be positive, and decay_every not negative"
            )
        if self.batch_stats not in ("update", "freeze"):
            raise InputError(f"unknown batch_stats {self.batch_stats!r}: choose update or freeze")

    def recipe(self, num_samples: int) -> Recipe:
        """The recipe for ``num_samples`` samples, which set how many steps an epoch of the schedule has."""
        rate = self.learning_rate
        if self.decay_every:
            every = self.decay_every * steps_per_epoch(num_samples, self.batch_size)
            rate = step_decay(rate, every=every, factor=self.decay_factor)
        tx = sgd(rate, momentum=self.momentum, weight_decay=self.weight_decay)
        return Recipe(self.num_epochs, self.batch_size, tx, self.augment)


def default_loss(model: Model, tuning: FineTuning) -> LossFn:
    """Mean cross-entropy, in training mode or with frozen statistics."""
    if tuning.batch_stats == "update":
        return cross_entropy_loss(model)

    def frozen(variables: Variables, batch: Batch, key: Array) -> tuple[Array, ModelState]:
        del key
        return jnp.mean(cross_entropy(model.apply(variables, batch.images), batch.labels)), variables.state

    return frozen


def finetune_on(
    key: Array,
    problem: Problem,
    tuning: FineTuning,
    *,
    data: Any,
    member: Array,
    num_samples: int,
    fetch: FetchFn,
    loss_fn: LossFn | None = None,
) -> tuple[Variables, UnlearnInfo]:
    """Trains on from the original model, on the samples of a mask.

    Args:
      key: of the method's run.
      problem: gives the model and where to start.
      tuning: the knobs.
      data: what ``fetch`` reads.
      member: bool over the positions that ``fetch`` understands; with no member the original comes back.
      num_samples: about how many members there are (static); sets the steps per epoch.
      fetch: how samples are read.
      loss_fn: the objective; cross-entropy by default.

    Returns:
      The fine-tuned variables, and what it cost.
    """
    recipe, num_batches = tuning.recipe(num_samples), steps_per_epoch(num_samples, tuning.batch_size)
    state, losses = train_epochs(
        loss_fn or default_loss(problem.model, tuning),
        recipe.tx,
        fetch,
        init_state(key, problem.model, recipe.tx, problem.variables),
        key,
        data,
        member,
        num_epochs=recipe.num_epochs,
        num_batches=num_batches,
        batch_size=recipe.batch_size,
    )
    some = jnp.any(member)
    variables = jax.tree.map(lambda new, old: jnp.where(some, new, old), state.variables, problem.variables)
    cost = tuning.num_epochs * num_batches * tuning.batch_size
    return variables, UnlearnInfo(jnp.where(some, losses, 0.0), jnp.asarray(cost, jnp.int32))
