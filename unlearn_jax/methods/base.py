"""What unlearning methods share: making a problem, the fine-tuning loop, and AMUN's adversarial set of a problem."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from unlearn_jax.attacks import adversarial_set
from unlearn_jax.losses import cross_entropy
from unlearn_jax.spectral import clip, fastclip, state_shapes
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
    model: Model,
    variables: Variables,
    train: Dataset,
    forget: Any,
    adversarial: AttackResult | None = None,
    *,
    removed: Any = None,
) -> Problem:
    """Checks the forget mask and makes a :class:`unlearn_jax.types.Problem`.

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
      InputError: a mask of the wrong length or type, empty, or of everything; a sample
        both to forget and removed; a D_A of another size.
    """
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
    train = jax.tree.map(jnp.asarray, train)
    if removed is None:
        return Problem(model, variables, train, jnp.asarray(mask), count, adversarial)
    gone = np.asarray(removed)
    if (
        gone.dtype != bool
        or gone.shape != mask.shape
        or (gone & mask).any()
        or (gone | mask).all()
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
        jnp.asarray(gone),
        int(gone.sum()),
    )


def forget_set(problem: Problem) -> Dataset:
    """The forget samples in ascending order: images ``[F, ...]`` float32, labels ``[F]``."""
    index = jnp.nonzero(problem.forget, size=problem.num_forget)[0]
    return Dataset(to_float(problem.train.images[index]), problem.train.labels[index])


def num_classes(problem: Problem) -> int:
    """``C``, from the shape of the logits alone (static)."""
    images = jax.ShapeDtypeStruct((1, *problem.train.images.shape[1:]), jnp.float32)
    return jax.eval_shape(problem.model.apply, problem.variables, images).shape[-1]


def attack_forget_set(problem: Problem, **knobs: Any) -> AttackResult:
    """AMUN's D_A of a problem: :func:`unlearn_jax.attacks.adversarial_set` of the forget samples, evaluation mode.

    Args:
      problem: whose original model is attacked.
      **knobs: of ``adversarial_set``.

    Returns:
      ``[F]`` rows, in ascending order of the samples.
    """
    forget = forget_set(problem)
    return adversarial_set(
        problem.model.apply, problem.variables, forget.images, forget.labels, **knobs
    )


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """The knobs that every fine-tuning method takes.

    Attributes:
      num_epochs: passes over the method's samples; 10 in AMUN's tables.
      batch_size: samples per step; 128 for CIFAR-10.
      learning_rate: of SGD; searched in [1e-6, 1e-1] by AMUN.
      decay_every: epochs between decays by ``decay_factor``; 0 for a constant rate.
        AMUN searches 0, 1 and 5.
      decay_factor: see there; positive and static (a Python number, never traced).
      momentum: of SGD; Adam has its own.
      weight_decay: L2, added to the gradient.
      optimizer: ``sgd``, or ``adam`` as the released codes of SCRUB and bad teacher use
        it.
      augment: of the original training samples, as in training; adversarial ones are
        never augmented.
      batch_stats: ``update`` moves BatchNorm statistics while fine-tuning, ``freeze``
        trains in evaluation mode.
      max_norm: spectral norm that no layer may exceed, for originals that were trained
        so: FastClip every ``clip_period`` steps, and a full clip at the end. None
        leaves the layers alone.
      clip_period: see there.
    """

    num_epochs: int = 10
    batch_size: int = 128
    learning_rate: float | Array = 0.01
    decay_every: int = 0
    decay_factor: float = 0.1
    momentum: float = 0.9
    weight_decay: float | Array = 5e-4
    optimizer: Literal["sgd", "adam"] = "sgd"
    augment: Augment | None = None
    batch_stats: Literal["update", "freeze"] = "update"
    max_norm: float | None = None
    clip_period: int = 100

    def __post_init__(self) -> None:
        """Refuses values no run could use."""
        check_numbers(
            low=0, learning_rate=self.learning_rate, weight_decay=self.weight_decay
        )
        if not 0 < self.decay_factor < math.inf:  # optax takes 0 for a constant rate
            raise InputError(
                "a method's decay_factor must be positive and finite, got"
                f" {self.decay_factor}"
            )
        if not 0 <= self.momentum < 1:
            raise InputError(
                f"a method's momentum must be in [0, 1), got {self.momentum}"
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
        if self.max_norm is not None:
            check_numbers(low=0, max_norm=self.max_norm)
        if self.clip_period < 1 or (
            self.max_norm is not None and is_zero(self.max_norm)
        ):
            raise InputError("a method's max_norm and clip_period must be positive")
        if self.batch_stats not in ("update", "freeze"):
            raise InputError(
                f"unknown batch_stats {self.batch_stats!r}: choose update or freeze"
            )
        if self.optimizer not in ("sgd", "adam"):
            raise InputError(
                f"unknown optimizer {self.optimizer!r}: choose sgd or adam"
            )

    def tx(self, steps: int) -> optax.GradientTransformation:
        """The optimizer, for epochs of ``steps`` steps."""
        if not self.decay_every:
            return self.tx_at(self.learning_rate)
        return self.tx_at(
            step_decay(
                self.learning_rate,
                every=self.decay_every * steps,
                factor=self.decay_factor,
            )
        )

    def tx_at(self, rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
        """The optimizer with another learning rate or schedule."""
        if self.optimizer == "adam":
            return optax.chain(
                optax.add_decayed_weights(self.weight_decay), optax.adam(rate)
            )
        return sgd(rate, momentum=self.momentum, weight_decay=self.weight_decay)

    def held(
        self, tx: optax.GradientTransformation, model: Model, images: Any
    ) -> optax.GradientTransformation:
        """The optimizer with FastClip behind it, where norms are to be held.

        Args:
          tx: the optimizer.
          model: whose layers.
          images: ``[N, ...]``; only the shape is read.
        """
        if self.max_norm is None:
            return tx
        clipping = fastclip(
            model.apply,
            images,
            max_norm=self.max_norm,
            period=self.clip_period,
            model_state=state_shapes(model),
        )
        return optax.chain(tx, clipping)

    def settled(self, variables: Variables, model: Model, images: Any) -> Variables:
        """The end of a training: every layer's norm within half a per cent of what is allowed, where it is held."""
        return (
            variables
            if self.max_norm is None
            else clip(model.apply, variables, images, max_norm=self.max_norm)
        )

    def recipe(self, num_samples: int, model: Model, images: Any) -> Recipe:
        """The recipe for training from scratch.

        Args:
          num_samples: sets how many steps an epoch of the schedule has.
          model: see :meth:`held`.
          images: see there.
        """
        tx = self.held(
            self.tx(steps_per_epoch(num_samples, self.batch_size)), model, images
        )
        return Recipe(self.num_epochs, self.batch_size, tx, self.augment)


def is_zero(value: float | Array) -> bool:
    """Whether a knob is known to be zero; a traced one is not known."""
    return not isinstance(value, Tracer) and float(value) == 0


def check_numbers(
    *, low: float = -math.inf, high: float = math.inf, **knobs: float | Array
) -> None:
    """Refuses knobs that are not finite or leave ``[low, high]``. Traced knobs, as in a search, pass unseen.

    Raises:
      InputError: naming the knob.
    """
    for name, value in knobs.items():
        if not isinstance(value, Tracer) and not (
            math.isfinite(value) and low <= value <= high
        ):
            where = (
                "finite"
                if math.isinf(low) and math.isinf(high)
                else f"finite and in [{low:g}, {high:g}]"
            )
            raise InputError(f"a method's {name} must be {where}, got {value}")


Forward = Callable[[Variables, Array, Array], tuple[Array, ModelState]]
"""``(variables, images [B, ...], key) -> (logits [B, C], new model state)``."""


def forward_fn(model: Model, tuning: FineTuning) -> Forward:
    """The pass of fine-tuning: training mode, or evaluation mode where the statistics are frozen."""
    if tuning.batch_stats == "update":
        return model.apply_train

    def frozen(
        variables: Variables, images: Array, key: Array
    ) -> tuple[Array, ModelState]:
        del key
        return model.apply(variables, images), variables.state

    return frozen


def default_loss(model: Model, tuning: FineTuning) -> LossFn:
    """Mean cross-entropy, in training mode or with frozen statistics."""
    if tuning.batch_stats == "update":
        return cross_entropy_loss(model)
    forward = forward_fn(model, tuning)

    def loss_fn(
        variables: Variables, batch: Batch, key: Array
    ) -> tuple[Array, ModelState]:
        logits, state = forward(variables, batch.images, key)
        return jnp.mean(cross_entropy(logits, batch.labels)), state

    return loss_fn


WrapTx = Callable[[optax.GradientTransformation], optax.GradientTransformation]


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
    wrap_tx: WrapTx | None = None,
) -> tuple[Variables, UnlearnInfo]:
    """Trains on from the original model, on the samples of a mask.

    Args:
      key: of the method's run.
      problem: gives the model and where to start.
      tuning: the knobs.
      data: what ``fetch`` reads.
      member: bool over the positions that ``fetch`` understands; with no member the
        original comes back.
      num_samples: about how many members there are (static); sets the steps per epoch.
      fetch: how samples are read.
      loss_fn: the objective; cross-entropy by default.
      wrap_tx: changes the optimizer, such as to freeze some parameters.

    Returns:
      The fine-tuned variables, and what it cost.
    """
    num_batches = steps_per_epoch(num_samples, tuning.batch_size)
    tx = tuning.tx(num_batches)
    tx = tuning.held(
        wrap_tx(tx) if wrap_tx else tx, problem.model, problem.train.images
    )
    state, losses = train_epochs(
        loss_fn or default_loss(problem.model, tuning),
        tx,
        fetch,
        init_state(key, problem.model, tx, problem.variables),
        key,
        data,
        member,
        num_epochs=tuning.num_epochs,
        num_batches=num_batches,
        batch_size=tuning.batch_size,
    )
    some = jnp.any(member)
    settled = tuning.settled(state.variables, problem.model, problem.train.images)
    variables = jax.tree.map(
        lambda new, old: jnp.where(some, new, old), settled, problem.variables
    )
    cost = tuning.num_epochs * num_batches * tuning.batch_size
    return variables, UnlearnInfo(
        jnp.where(some, losses, 0.0), jnp.asarray(cost, jnp.int32)
    )
