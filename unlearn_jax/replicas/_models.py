"""Training and prediction of many models, stacked."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike

from unlearn_jax import linalg
from unlearn_jax.checks import (
    check_counts,
    check_images,
    check_keys,
    check_samples,
    count_models,
    warn_of_probabilities,
)
from unlearn_jax.data import Splits, membership_design, pool
from unlearn_jax.replicas._mappers import (
    Mapper,
    OneModel,
    check_mapper,
    map_models,
    mapper,
    on_first,
    to_host,
)
from unlearn_jax.replicas._programs import REHEARSAL, repeated_calls
from unlearn_jax.train import (
    LossFn,
    Recipe,
    TrainState,
    check_losses,
    check_member,
    check_training,
    check_type,
    cross_entropy_loss,
    fetch_from,
    init_state,
    predict,
    steps_per_epoch,
    train_epochs,
)
from unlearn_jax.types import (
    ApplyFn,
    Array,
    Dataset,
    InputError,
    Model,
    PyTree,
    Variables,
    check_apply_fn,
)


def _mapper_or_default(chosen: Mapper | None, num_models: int) -> Mapper:
    if chosen is None:
        return mapper(num_models=num_models)
    check_mapper(chosen)
    return chosen


def stack(trees: Sequence[PyTree]) -> PyTree:
    """Stack models from any devices: leaves ``[M, ...]`` on the first device.

    Raises:
      InputError: no model, or models of different structure, shapes or types.
    """

    def kind(tree: PyTree) -> tuple[Any, ...]:
        types = map(jax.typeof, jax.tree.leaves(tree))
        return jax.tree.structure(tree), [(one.shape, one.dtype) for one in types]

    trees = list(trees)
    if not trees or any(kind(tree) != kind(trees[0]) for tree in trees):
        raise InputError(
            "stack takes one or more models of one architecture, which have the same"
            f" leaves of the same shapes and types: got {len(trees)} models"
        )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(on_first, trees))


def unstack(stacked: PyTree, index: int | slice) -> PyTree:
    """Return one model of a stack, or several, on the first device.

    Args:
      stacked: ``M`` models, leaves ``[M, ...]``.
      index: position of the model, counted from the end if negative; or a slice, whose
        models stay stacked.

    Raises:
      InputError: a position out of range.
    """
    leaves = jax.tree.leaves(stacked)
    num_models = len(leaves[0]) if leaves else 0
    if isinstance(index, int | np.integer):
        # as in a list: True is position 1, but would index an array as a mask
        index = int(index)
        if leaves and not -num_models <= index < num_models:
            raise InputError(
                f"the stack has {num_models} models, numbered from 0: there is no"
                f" model {index}"
            )
    return on_first(jax.tree.map(lambda leaf: leaf[index], stacked))


def fit_many(
    keys: Array,
    model: Model,
    data: Dataset,
    member: ArrayLike,
    recipe: Recipe,
    *,
    mapper: Mapper | None = None,
    state: TrainState | None = None,
    loss_fn: LossFn | None = None,
    num_batches: int | None = None,
    epochs_per_call: int = 1,
    callback: Callable[[TrainState, np.ndarray], None] | None = None,
) -> tuple[TrainState, np.ndarray]:
    """Train ``M`` models, each on its own samples.

    Each is trained as :func:`unlearn_jax.train.fit` trains one, but all take the same
    number of steps per epoch, enough for the largest mask unless ``num_batches`` is
    given.

    Args:
      keys: ``[M]`` PRNG keys, one per model.
      model: architecture of all models.
      data: ``[N]`` samples for all models.
      member: ``[M, N]`` bool, each row with at least one True.
      recipe: epochs, batches, optimizer and augmentation.
      mapper: mapper of ``M`` models; None for the default of the backend.
      state: stacked state to resume from, with equal epochs; its buffers are donated.
        None for a new state.
      loss_fn: the objective; mean cross-entropy by default.
      num_batches: steps per epoch, at least 1. Give it if models are trained group by
        group, so that all groups take the same number.
      epochs_per_call: epochs per compiled call; does not change the result.
      callback: function that is called after every call with the stacked state and the
        losses ``[M, epochs]`` of the call.

    Returns:
      The stacked last state, and the mean loss of each epoch of this call
      ``[M, epochs]``.

    Raises:
      InputError: an argument of a wrong type, unusable masks, images, labels or counts,
        variables of another model, a state of another number of models, or batches that
        the mapper cannot divide.
      DivergedError: a loss of any model was not finite.
    """
    check_training(model, data, recipe, loss_fn)
    if state is not None:
        check_type("state", state, TrainState)
    member = check_member(member, len(data.labels))
    if getattr(keys, "dtype", None) == jnp.uint32:
        # of jax.random.PRNGKey
        keys = jax.random.wrap_key_data(keys)
    check_keys("keys of models", keys)
    if member.ndim != 2 or len(member) != len(keys):
        raise InputError(
            f"{len(keys)} keys need a mask [{len(keys)}, {len(data.labels)}], one row"
            f" per model; got {member.shape}"
        )
    check_counts(epochs_per_call=epochs_per_call)
    mapper = _mapper_or_default(mapper, len(member))
    if recipe.batch_size % mapper.shards:
        raise InputError(
            f"a batch of {recipe.batch_size} samples does not divide evenly over"
            f" {mapper.shards} devices"
        )
    if num_batches is None:
        most = int(member.sum(-1).max())
        num_batches = steps_per_epoch(most, recipe.batch_size)
    check_counts(num_batches=num_batches)
    if state is not None and count_models(state.variables, "state") != len(keys):
        raise InputError(
            f"{len(keys)} keys need a state of as many models, got"
            f" {count_models(state.variables, 'state')}"
        )
    current: TrainState = (
        map_models(mapper, _creator(model, recipe.tx), keys, ())
        if state is None
        else state
    )
    of_one = jax.tree.map(_without_models, current.variables)
    is_read = np.asarray(member.any(0))
    check_samples(model.apply, of_one, data, "training set", member=is_read)
    loss_fn = loss_fn or cross_entropy_loss(model)
    placed = (mapper.place_data or mapper.place)(data)
    mask = jnp.asarray(member)
    losses = [np.zeros((len(member), 0), np.float32)]
    # read before the first call, which donates the state
    first_epoch = int(to_host(current.epoch)[0])
    starts = range(first_epoch, recipe.num_epochs, epochs_per_call)
    lengths = [min(epochs_per_call, recipe.num_epochs - epoch) for epoch in starts]
    for epoch, num_epochs in zip(starts, lengths, strict=True):
        num_calls = 1
        if REHEARSAL.is_on:
            # the first call of each length stands for all of them
            if num_epochs in lengths[: starts.index(epoch)]:
                continue
            num_calls = lengths.count(num_epochs)
        advance = _advance(mapper, loss_fn, recipe, num_batches, num_epochs)
        with repeated_calls(num_calls):
            current, new_losses = advance(current, (keys, mask), placed)
        losses += [check_losses(to_host(new_losses), epoch)] * num_calls
        if callback is not None and not REHEARSAL.is_on:
            # copied, because the next call is given the state's memory
            callback(jax.tree.map(jnp.copy, current), losses[-1])
    return current, np.concatenate(losses, -1)


def _without_models(leaf: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)


PART_BYTES = 2**31
"""Largest size in bytes of the images that :func:`predict_many` puts on a device."""


class References(NamedTuple):
    """Reference models of a membership attack.

    Attributes:
      variables: stacked variables, with leaves ``[M, ...]``.
      member: ``[M, N]`` bool, the samples of the pool that each model was trained on.
    """

    variables: Variables
    member: np.ndarray


def fit_references(
    key: Array,
    model: Model,
    splits: Splits,
    recipe: Recipe,
    *,
    num_models: int = 32,
    seed: int = 0,
    mapper: Mapper | None = None,
) -> References:
    """Train reference models, each on half of the pool of training and test samples.

    Args:
      key: PRNG key, split into one for each model.
      model: architecture of the audited model.
      splits: data of the audited model; see :func:`unlearn_jax.data.pool`.
      recipe: recipe of the audited model, so that the references resemble it.
      num_models: ``M``, even: every sample is in exactly half of the training sets.
      seed: seed of :func:`unlearn_jax.data.membership_design`.
      mapper: mapper of ``M`` models; None for the default of the backend.

    Returns:
      The references, for :func:`unlearn_jax.pipeline.audit_models`. Without a pipeline,
      pass their fields to :func:`unlearn_jax.audit.shadow_signals` and
      :func:`unlearn_jax.audit.rmia`.

    Raises:
      InputError: an odd number of models, or batches that the mapper cannot divide.
      DivergedError: a loss of any model was not finite.
    """
    samples = pool(splits)
    member = membership_design(num_models, len(samples.labels), seed=seed)
    keys = jax.random.split(key, num_models)
    state, _ = fit_many(keys, model, samples, member, recipe, mapper=mapper)
    return References(state.variables, member)


@lru_cache(maxsize=16)
def _creator(
    model: Model, tx: optax.GradientTransformation
) -> Callable[[Array, PyTree], TrainState]:
    def initialize(key: Array, _: PyTree) -> TrainState:
        return init_state(key, model, tx)

    return initialize


@lru_cache(maxsize=32)
def _advance(
    mapper: Mapper, loss_fn: LossFn, recipe: Recipe, num_batches: int, num_epochs: int
) -> OneModel:
    """Return the function that trains all models for some epochs.

    It is cached, so that the next group of models uses the same compiled program.
    """
    one = partial(
        train_epochs,
        loss_fn,
        recipe.tx,
        mapper.fetch(fetch_from(recipe.augment)),
        num_epochs=num_epochs,
        num_batches=num_batches,
        batch_size=recipe.batch_size,
    )

    def train_models(
        state: TrainState, item: PyTree, data: Dataset
    ) -> tuple[PyTree, PyTree]:
        return one(state, item[0], data, item[1])

    return (mapper.lift_training or mapper.lift)(train_models)


def predict_many(
    apply_fn: ApplyFn,
    variables: PyTree,
    images: ArrayLike,
    *,
    mapper: Mapper | None = None,
    batch_size: int = 512,
) -> np.ndarray:
    """Return the logits of every model for every image, in evaluation mode.

    Args:
      apply_fn: ``(variables, images [B, ...]) -> logits [B, C]`` of one model.
      variables: stacked variables, with leaves ``[M, ...]``.
      images: ``[N, ...]`` uint8 or float32 in [0, 1], the same for all models; put on
        the devices in parts of at most 2 GiB.
      mapper: mapper of ``M`` models; None for the default of the backend.
      batch_size: number of images at a time.

    Returns:
      ``[M, N, C]`` of the type that the model returns, float32 at least, on the host.

    Raises:
      InputError: a model instead of its apply function, unusable images or variables,
        or a batch size that is not a positive integer.
    """
    check_apply_fn(apply_fn)
    images = np.asarray(images) if isinstance(images, list | tuple) else images
    check_images(images)
    check_counts(batch_size=batch_size)
    mapper = _mapper_or_default(mapper, count_models(variables, "variables"))
    predictor = _predictor(apply_fn, batch_size)
    rows: Any = images
    num_images = len(rows)
    bytes_each = math.prod(rows.shape[1:]) * rows.dtype.itemsize
    # whole batches; the last part begins earlier, so that all share a program
    most = batch_size * max(1, PART_BYTES // (batch_size * bytes_each))
    num_rows = min(most, num_images)
    parts = []
    for start in range(0, num_images, num_rows):
        first = min(start, num_images - num_rows)
        part = rows[first : first + num_rows]
        logits_of_part = to_host(map_models(mapper, predictor, variables, part))
        parts.append(logits_of_part[:, start - first :])
    if len(parts) == 1:
        logits = parts[0]
    elif REHEARSAL.is_on:
        # broadcast zeros take no memory
        shape = (len(parts[0]), num_images, parts[0].shape[2])
        logits = np.broadcast_to(np.zeros((), parts[0].dtype), shape)
    else:
        logits = np.concatenate(parts, 1)
    warn_of_probabilities(logits)
    return logits


@lru_cache(maxsize=16)
def _predictor(apply_fn: ApplyFn, batch_size: int) -> Callable[[PyTree, PyTree], Array]:
    def logits(variables: PyTree, images: Array) -> Array:
        return linalg.at_least_float32(
            predict(apply_fn, variables, images, batch_size=batch_size)
        )

    return logits
