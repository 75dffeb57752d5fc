"""Training of one model: the training step, epochs in one compiled scan, and ``fit``.

A boolean mask over the data set selects the samples, and their order is a pure function
of (key, epoch). So an epoch can be repeated, resumed, or mapped over many models.
Samples outside the mask are never read.
"""

import dataclasses
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.core import Tracer
from numpy.typing import ArrayLike

from unlearn_jax.branching import cond
from unlearn_jax.checks import (
    check_counts,
    check_finite,
    check_images,
    check_not_negative,
    check_positive,
    check_samples,
    check_single_array,
)
from unlearn_jax.losses import cross_entropy
from unlearn_jax.reuse import is_reusable, program
from unlearn_jax.types import (
    ApplyFn,
    Array,
    Count,
    Dataset,
    DivergedError,
    InputError,
    Model,
    ModelState,
    Params,
    Variables,
    check_apply_fn,
    is_key,
    most_of,
    to_float,
)


class Batch(NamedTuple):
    """Input of a loss.

    Attributes:
      images: ``[B, H, W, ch]`` float32 in [0, 1], augmented.
      labels: ``[B]`` int32.
      position: ``[B]`` int32, index of each sample in the data set.
    """

    images: Array
    labels: Array
    position: Array


class TrainState(NamedTuple):
    """State of a training; with key and mask it determines the rest of the run.

    Attributes:
      epoch: ``[]`` int32, number of finished epochs.
      variables: variables of the model.
      opt_state: state of the optimizer.
    """

    epoch: Array
    variables: Variables
    opt_state: optax.OptState


LossFn = Callable[[Variables, Batch, Array], tuple[Array, ModelState]]
"""``(variables, batch, key) -> (mean loss [], new model state)``."""

Augment = Callable[[Array, Array], Array]
"""``(keys [B], images [B, H, W, ch]) -> images``."""

FetchFn = Callable[[Any, Array, Array], Batch]
"""``(data, index [B], key) -> Batch``: samples as float32, augmented."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Epochs, batches, optimizer and augmentation of a training.

    Attributes:
      num_epochs: passes over the samples of the mask.
      batch_size: samples per step.
      tx: any optax transformation.
      augment: augmentation of every training image, each with its own key; None for no
        augmentation.
    """

    num_epochs: int
    batch_size: int
    tx: optax.GradientTransformation
    augment: Augment | None = None

    def __post_init__(self) -> None:
        """Raise on unusable numbers, optimizers and augmentations."""
        check_counts(0, num_epochs=self.num_epochs)
        check_counts(batch_size=self.batch_size)
        if not hasattr(self.tx, "init") or not hasattr(self.tx, "update"):
            raise InputError(
                f"tx must be an optax transformation, got {type(self.tx).__name__}:"
                " pass train.sgd(0.1), or optax.adam(1e-3)"
            )
        if self.augment is not None and not callable(self.augment):
            raise InputError(
                f"augment must be a function (keys, images), got {self.augment!r}: pass"
                " data.augmentation(...) of its name"
            )


def check_decay_rate(name: str, rate: float | Array) -> None:
    """Raise on a decay rate outside [0, 1); a traced one passes.

    Raises:
      InputError: such a rate; the message names it.
    """
    check_finite(**{name: rate})
    if isinstance(rate, Tracer):
        return
    rates = np.asarray(rate)
    if not ((rates >= 0) & (rates < 1)).all():
        raise InputError(f"{name} must be in [0, 1), got {rate}")


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float | Array = 0.9,
    weight_decay: float | Array = 5e-4,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """Return SGD: L2 decay of all parameters added to the gradient, then momentum.

    Args:
      learning_rate: a number, or a function of the step.
      momentum: decay rate of the velocity, in [0, 1). At 0 no velocity is kept, unless
        the rate is traced.
      weight_decay: weight of the penalty, on biases and BatchNorm's parameters too.
      nesterov: whether to look ahead along the velocity.

    Raises:
      InputError: a number out of range.
    """
    if not callable(learning_rate):
        check_not_negative(learning_rate=learning_rate)
    check_not_negative(weight_decay=weight_decay)
    check_decay_rate("momentum", momentum)
    has_velocity = isinstance(momentum, Tracer) or bool(momentum)
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.sgd(
            learning_rate,
            momentum=momentum if has_velocity else None,
            nesterov=nesterov,
        ),
    )


def step_decay(
    learning_rate: float | Array, *, every: int, factor: float = 0.1
) -> optax.Schedule:
    """Return a learning rate that is multiplied by ``factor`` at regular intervals.

    Args:
      learning_rate: learning rate of the first steps.
      every: number of steps, not epochs, between two changes.
      factor: factor of each change.

    Raises:
      InputError: a number out of range.
    """
    check_not_negative(learning_rate=learning_rate)
    check_counts(every=every)
    check_positive(factor=factor)
    return optax.exponential_decay(
        learning_rate, transition_steps=every, decay_rate=factor, staircase=True
    )


@lru_cache(maxsize=64)
def cross_entropy_loss(model: Model) -> LossFn:
    """Return the default loss, mean cross-entropy in training mode."""

    def loss_fn(
        variables: Variables, batch: Batch, key: Array
    ) -> tuple[Array, ModelState]:
        logits, state = model.apply_train(variables, batch.images, key)
        return jnp.mean(cross_entropy(logits, batch.labels)), state

    return loss_fn


@lru_cache(maxsize=64)
def fetch_from(augment: Augment | None = None) -> FetchFn:
    """Return the function that reads a :class:`Dataset` and augments its images.

    Args:
      augment: ``(keys [B], images) -> images``, with a key per image; None for no
        augmentation.
    """

    def fetch(data: Dataset, index: Array, key: Array) -> Batch:
        images = to_float(data.images[index])
        if augment is not None:
            images = augment(jax.random.split(key, len(index)), images)
        return Batch(images, data.labels[index], index)

    return fetch


@overload
def steps_per_epoch(num_samples: int, batch_size: int) -> int: ...


@overload
def steps_per_epoch(num_samples: Count, batch_size: int) -> Count: ...


def steps_per_epoch(num_samples: int | Count, batch_size: int) -> int | Count:
    """Return the number of batches that cover the samples, the last one filled up."""
    if isinstance(num_samples, Count):
        return num_samples.divided(batch_size)
    return -(-num_samples // batch_size)


def epoch_order(key: Array, member: Array, num_batches: int, batch_size: int) -> Array:
    """Return one epoch's batches: a permutation of the members, read cyclically.

    The last batch is filled with the permutation's first samples, so that every batch
    has ``batch_size`` samples and BatchNorm never sees padding.

    Args:
      key: PRNG key of the epoch; consumed.
      member: ``[N]`` bool, at least one True.
      num_batches: steps in the epoch (static).
      batch_size: samples per step (static).

    Returns:
      ``[num_batches, batch_size]`` int32 positions of members. Every member occurs if
      the batches are large enough for all.
    """
    # members first, in random order: their draws are below 1
    draws = jnp.where(member, jax.random.uniform(key, member.shape, jnp.float32), 2.0)
    permutation = jnp.argsort(draws).astype(jnp.int32)
    position = jnp.arange(num_batches * batch_size) % jnp.maximum(jnp.sum(member), 1)
    return permutation[position].reshape(num_batches, batch_size)


@partial(jax.jit, static_argnums=0)
def _init(model: Model, key: Array) -> Variables:
    return model.init(key)


def init_state(
    key: Array,
    model: Model,
    tx: optax.GradientTransformation,
    variables: Variables | None = None,
) -> TrainState:
    """Return the state before the first step.

    Args:
      key: PRNG key of the run, from which the variables are drawn.
      model: the architecture.
      tx: the optimizer.
      variables: variables to start from; None for those of ``model.init``.
    """
    variables = (
        _init(model, jax.random.fold_in(key, 0)) if variables is None else variables
    )
    return TrainState(jnp.zeros((), jnp.int32), variables, tx.init(variables.params))


def train_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
    key: Array,
) -> tuple[TrainState, Array]:
    """Take one gradient step; the optimizer gets ``model_state`` as an extra argument.

    Args:
      loss_fn: the objective, differentiated by ``variables.params``.
      tx: the optimizer.
      state: state before the step.
      batch: batch of the step.
      key: PRNG key for the loss.

    Returns:
      The next state (``epoch`` unchanged) and the loss ``[]``.
    """

    def loss_of(params: Params) -> tuple[Array, ModelState]:
        return loss_fn(state.variables._replace(params=params), batch, key)

    (loss, model_state), gradients = jax.value_and_grad(loss_of, has_aux=True)(
        state.variables.params
    )
    # an optimizer that constrains layers needs the statistics of the BatchNorms that
    # follow them
    update = optax.with_extra_args_support(tx).update
    updates, opt_state = update(
        gradients, state.opt_state, state.variables.params, model_state=model_state
    )
    params = optax.apply_updates(state.variables.params, updates)
    return TrainState(state.epoch, Variables(params, model_state), opt_state), loss


def train_epochs(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    fetch: FetchFn,
    state: TrainState,
    key: Array,
    data: Any,
    member: Array,
    *,
    num_epochs: int,
    num_batches: int | Count,
    batch_size: int,
) -> tuple[TrainState, Array]:
    """Train for whole epochs in one scan; pure, to be jitted or mapped over models.

    Args:
      loss_fn: the objective.
      tx: the optimizer.
      fetch: function that reads the samples of a batch.
      state: state after the epoch before.
      key: PRNG key of the whole run; every epoch folds its number in, so chunks of any
        size give the same bits.
      data: data for ``fetch``.
      member: ``[N]`` bool, the samples to train on.
      num_epochs: epochs of this call (static).
      num_batches: steps per epoch (static, or a count).
      batch_size: samples per step (static).

    Returns:
      The state after the epochs, and each epoch's mean loss ``[num_epochs]``.
    """

    def epoch(state: TrainState, _: None) -> tuple[TrainState, Array]:
        key_order, key_steps = jax.random.split(
            jax.random.fold_in(key, 1 + state.epoch)
        )

        def step(
            state: TrainState, item: tuple[Array, Array]
        ) -> tuple[TrainState, Array]:
            index, key_step = item
            key_fetch, key_loss = jax.random.split(key_step)
            return train_step(
                loss_fn, tx, state, fetch(data, index, key_fetch), key_loss
            )

        most = most_of(num_batches)
        order = epoch_order(key_order, member, most, batch_size)
        items = order, jax.random.split(key_steps, most)
        state, loss = scan_steps(step, state, items, num_batches)
        return state._replace(epoch=state.epoch + 1), loss

    return lax.scan(epoch, state, None, length=num_epochs)


def scan_steps(
    step: Callable[[TrainState, Any], tuple[TrainState, Array]],
    state: TrainState,
    items: Any,
    num_steps: int | Count,
) -> tuple[TrainState, Array]:
    """Take the steps of an epoch.

    Args:
      step: ``(state, item) -> (state, loss)``.
      state: state before the first step.
      items: pytree with leaves ``[S, ...]``, an item for every step.
      num_steps: ``S``. For a count, only the first ``value`` items make steps. Orders
        and keys of an epoch do not depend on how many are drawn, so these are the steps
        that a program for exactly this number would take.

    Returns:
      The last state, and the mean loss of the steps.
    """
    if not isinstance(num_steps, Count):
        state, losses = lax.scan(step, state, items)
        return state, jnp.mean(losses)

    def skip(state: TrainState, item: Any) -> tuple[TrainState, Array]:
        loss = jax.eval_shape(step, state, item)[1]
        return state, jnp.zeros(loss.shape, loss.dtype)

    def step_or_skip(
        state: TrainState, numbered: tuple[Array, Any]
    ) -> tuple[TrainState, Array]:
        number, item = numbered
        return cond(number < num_steps.value, step, skip, state, item)

    numbers = jnp.arange(num_steps.most)
    state, losses = lax.scan(step_or_skip, state, (numbers, items))
    return state, jnp.sum(losses) / num_steps.value


def predict(
    apply_fn: ApplyFn, variables: Any, images: Array, *, batch_size: int = 512
) -> Array:
    """Return the logits of all images, batch by batch inside one program.

    Args:
      apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode. That
        of a :class:`~unlearn_jax.types.Model` is compiled once, any other function at
        every call.
      variables: any pytree.
      images: ``[N, ...]`` uint8 or float32 in [0, 1].
      batch_size: number of images at a time; it changes memory, not values.

    Returns:
      ``[N, C]``, of the type that the model returns.

    Raises:
      InputError: a model instead of its apply function, unusable images, a model that
        returns several arrays, or a batch size below 1.
    """
    check_images(images)
    if is_reusable(apply_fn, variables, images):
        check_counts(batch_size=batch_size)
        return program(_batches, apply_fn, int(batch_size))(variables, images)
    return batched_logits(apply_fn, variables, images, batch_size=batch_size)


def _batches(
    apply_fn: ApplyFn, batch_size: int, variables: Any, images: Array
) -> Array:
    return batched_logits(apply_fn, variables, images, batch_size=batch_size)


def batched_logits(
    apply_fn: ApplyFn, variables: Any, images: Array, *, batch_size: int = 512
) -> Array:
    """Return the logits of :func:`predict`, for images of any range."""
    check_apply_fn(apply_fn)
    check_counts(batch_size=batch_size)

    def predict_one(image: Array) -> Array:
        logits = apply_fn(variables, to_float(image)[None])
        check_single_array(logits)
        return logits[0]

    return lax.map(predict_one, images, batch_size=min(batch_size, len(images)))


def check_key(key: Any) -> None:
    """Raise unless an argument is a typed key.

    Raises:
      InputError: another object; the message names its type.
    """
    if not isinstance(key, jax.Array) or not is_key(key):
        raise InputError(
            f"key must be a typed key, got {type(key).__name__}: pass jax.random.key(0)"
        )


_CURES = {
    Model: "adapt a network by models.from_linen, from_nnx or from_functions",
    Variables: "start from model.init(key), or from another fit's",
    Dataset: "pass types.Dataset(images, labels), such as splits.train",
    Recipe: "pass train.Recipe(num_epochs, batch_size, tx)",
    TrainState: "pass the state that fit_many returned",
}


def check_type(name: str, given: Any, kind: type) -> None:
    """Raise unless an argument of a training has the type that it must have.

    Args:
      name: name of the argument in the message.
      given: the argument.
      kind: class of the library that it must have.

    Raises:
      InputError: another object; the message names its type.
    """
    if not isinstance(given, kind):
        raise InputError(
            f"{name} must be a {kind.__name__}, got {type(given).__name__}:"
            f" {_CURES[kind]}"
        )


def check_training(model: Any, data: Any, recipe: Any, loss_fn: Any) -> None:
    """Raise on arguments of :func:`fit` that have a wrong type.

    Raises:
      InputError: such an argument; the message names it and its type.
    """
    check_type("model", model, Model)
    check_type("data", data, Dataset)
    check_type("recipe", recipe, Recipe)
    if loss_fn is not None and not callable(loss_fn):
        raise InputError(
            "loss_fn must be a function (variables, batch, key), got"
            f" {type(loss_fn).__name__}: pass objectives, or None for cross-entropy"
        )


def check_member(member: ArrayLike, num_samples: int) -> np.ndarray:
    """Return a concrete mask as NumPy, or raise.

    Args:
      member: ``[N]`` or ``[M, N]`` bool, each row with at least one True.
      num_samples: N.

    Raises:
      InputError: a wrong length or type, or no sample to train on.
    """
    member = np.asarray(member)
    if member.dtype != bool or member.shape[-1:] != (num_samples,):
        raise InputError(
            f"a mask must be bool of length {num_samples}, one entry per sample; got"
            f" {member.dtype} {member.shape}"
        )
    if not member.any(-1).all():
        raise InputError("a mask selects no sample: there is nothing to train on")
    return member


def check_losses(losses: ArrayLike, first_epoch: int) -> np.ndarray:
    """Return losses as NumPy, or raise on one that is not finite.

    Args:
      losses: ``[..., epochs]``.
      first_epoch: number of epochs finished before.

    Raises:
      DivergedError: a loss that is not finite; the message names the epoch.
    """
    losses = np.asarray(losses)
    is_finite = np.isfinite(losses).reshape(-1, losses.shape[-1]).all(0)
    if not is_finite.all():
        epoch = first_epoch + int(np.argmin(is_finite)) + 1
        raise DivergedError(
            f"training diverged: the loss was not finite in epoch {epoch}; lower the"
            " learning rate, or check the images for extreme values"
        )
    return losses


@lru_cache(maxsize=16)
def _compiled(
    loss_fn: LossFn, recipe: Recipe, num_batches: int
) -> Callable[..., tuple[TrainState, Array]]:
    """Return the jitted epochs of one recipe, cached for the next ``fit``."""
    run = partial(train_epochs, loss_fn, recipe.tx, fetch_from(recipe.augment))
    return jax.jit(
        partial(run, num_batches=num_batches, batch_size=recipe.batch_size),
        static_argnames="num_epochs",
        donate_argnums=0,
    )


def fit(
    key: Array,
    model: Model,
    data: Dataset,
    member: ArrayLike,
    recipe: Recipe,
    *,
    variables: Variables | None = None,
    loss_fn: LossFn | None = None,
    epochs_per_call: int = 1,
    callback: Callable[[TrainState, np.ndarray], None] | None = None,
) -> tuple[TrainState, np.ndarray]:
    """Train one model on the samples of a mask.

    Args:
      key: PRNG key of the whole run; the same key gives the same bits on the same
        backend.
      model: the architecture.
      data: ``[N]`` samples; those outside ``member`` are never read.
      member: ``[N]`` bool, at least one True.
      recipe: epochs, batches, optimizer and augmentation.
      variables: variables to start from; None for those of ``model.init``.
      loss_fn: the objective; mean cross-entropy by default.
      epochs_per_call: epochs per compiled call. More epochs mean fewer returns to
        Python; the result is the same.
      callback: function that is called after every call with its losses and a copy of
        the state, which may be kept.

    Returns:
      The last state, and the mean loss of each epoch ``[num_epochs]``.

    Raises:
      InputError: an argument of a wrong type, unusable mask, images or labels, or
        variables of another model.
      DivergedError: a loss was not finite.
    """
    check_key(key)
    check_training(model, data, recipe, loss_fn)
    member = check_member(member, len(data.labels))
    if member.ndim != 1:
        raise InputError(
            f"fit trains one model, by a mask [N], got {member.shape}: use fit_many for"
            " several"
        )
    if variables is not None:
        check_type("variables", variables, Variables)
    check_counts(epochs_per_call=epochs_per_call)
    num_batches = steps_per_epoch(int(member.sum()), recipe.batch_size)
    run = _compiled(loss_fn or cross_entropy_loss(model), recipe, num_batches)
    # copied: the caller's variables must survive the donation of the state
    state = jax.tree.map(jnp.copy, init_state(key, model, recipe.tx, variables))
    check_samples(model.apply, state.variables, data, "training set", member=member)
    data = Dataset(jnp.asarray(data.images), jnp.asarray(data.labels, jnp.int32))
    mask = jnp.asarray(member)
    losses = [np.zeros(0, np.float32)]
    for epoch in range(0, recipe.num_epochs, epochs_per_call):
        num_epochs = min(epochs_per_call, recipe.num_epochs - epoch)
        state, new_losses = run(state, key, data, mask, num_epochs=num_epochs)
        losses.append(check_losses(new_losses, epoch))
        if callback is not None:
            # copied, because the next call is given the state's memory
            callback(jax.tree.map(jnp.copy, state), losses[-1])
    return state, np.concatenate(losses)
