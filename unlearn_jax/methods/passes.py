"""Fine-tuning by passes: several objectives over several sets, one after the other."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from unlearn_jax.methods.base import FineTuning, Restriction
from unlearn_jax.train import (
    FetchFn,
    TrainState,
    epoch_order,
    fetch_from,
    init_state,
    scan_steps,
    steps_per_epoch,
    train_step,
)
from unlearn_jax.types import (
    Array,
    Count,
    ModelState,
    Problem,
    UnlearnInfo,
    Variables,
    most_of,
    value_of,
)

PassLoss = Callable[[Variables, Any, Array], tuple[Array, ModelState]]
"""A :data:`unlearn_jax.train.LossFn`, of two batches if the pass has a second mask."""


class Pass(NamedTuple):
    """One pass over some samples, within an epoch.

    Attributes:
      loss_fn: objective to minimize.
      fetch: function that reads samples.
      data: argument of ``fetch``.
      member: bool over the positions that ``fetch`` understands, the samples to read.
      num_samples: approximate number of members (static, or a count); sets the steps.
      batch_size: samples per step; the method's if None.
      second: second mask, whose samples are read cyclically in their own batches;
        ``loss_fn`` then gets a pair of batches.
      second_batch_size: samples per step of the second mask; as many as of the first if
        None.
      num_epochs: number of epochs, from the first, that include the pass; all if None.
      refresh: function that computes the data from the model's variables at the start
        of the pass; it replaces ``data``.
    """

    loss_fn: PassLoss
    fetch: FetchFn
    data: Any
    member: Array
    num_samples: int | Count
    batch_size: int | None = None
    second: Array | None = None
    second_batch_size: int | None = None
    num_epochs: int | None = None
    refresh: Callable[[Variables], Any] | None = None


class _SizedPass(NamedTuple):
    """Pass with its static numbers.

    Attributes:
      number: position in the epoch, folded into the key.
      item: the pass.
      num_batches: number of steps.
      batch_size: samples per step.
      num_epochs: number of epochs that include the pass.
    """

    number: int
    item: Pass
    num_batches: int | Count
    batch_size: int
    num_epochs: int


def finetune_passes(
    key: Array,
    problem: Problem,
    options: FineTuning,
    passes: list[Pass],
    *,
    restriction: Restriction | None = None,
) -> tuple[Variables, UnlearnInfo]:
    """Fine-tune the original model by passes; an epoch makes all of them in order.

    Args:
      key: PRNG key of the method's run.
      problem: gives the model and the variables to start from.
      options: hyperparameters of the training. All passes share one optimizer, and an
        epoch of its schedule includes all passes.
      passes: passes of an epoch; every epoch must include at least one.
      restriction: restriction of the training, for methods that do not start at the
        original; if None, that of the constraints for ``problem``.

    Returns:
      The fine-tuned variables, and what the training cost. The loss of an epoch is the
      mean over its last pass.
    """
    sized = []
    for number, item in enumerate(passes):
        size = item.batch_size or options.batch_size
        num_batches = steps_per_epoch(item.num_samples, size)
        num_epochs = options.num_epochs
        if item.num_epochs is not None:
            num_epochs = min(item.num_epochs, num_epochs)
        sized.append(_SizedPass(number, item, num_batches, size, num_epochs))

    # Epochs with the same passes share one compiled scan.
    ends = sorted({part.num_epochs for part in sized if part.num_epochs})
    steps = []
    for epoch in range(options.num_epochs):
        active = [part for part in sized if epoch < part.num_epochs]
        steps.append(sum(part.num_batches for part in active))
    restriction = restriction or options.restriction(problem)
    tx = restriction.wrap(_decaying(options, steps))
    state = init_state(key, problem.model, tx, problem.variables)
    losses = []
    start = 0
    for end in ends:
        active = [part for part in sized if start < part.num_epochs]
        state, epoch_losses = lax.scan(
            _epoch(key, tx, active), state, None, length=end - start
        )
        losses.append(epoch_losses)
        start = end

    cost: Any = restriction.num_gradients
    for part in sized:
        samples_per_step = part.batch_size
        if part.item.second is not None:
            samples_per_step += part.item.second_batch_size or part.batch_size
        cost += part.num_epochs * part.num_batches * samples_per_step
    variables = restriction.project(state.variables)
    num_gradients = jnp.asarray(value_of(cost), jnp.int32)
    return variables, UnlearnInfo(jnp.concatenate(losses), num_gradients)


def finetune_on_pairs(
    key: Array,
    problem: Problem,
    options: FineTuning,
    loss_fn: PassLoss,
    *,
    forget_batch_size: int | None = None,
) -> tuple[Variables, UnlearnInfo]:
    """Train the original model on a retained and a forget batch in each step.

    An epoch is one pass over D_R; D_F is read cyclically alongside it.

    Args:
      key: PRNG key of the method's run.
      problem: gives the model and the sets.
      options: hyperparameters of the training.
      loss_fn: loss of the pair ``(retained batch, forget batch)``.
      forget_batch_size: forget samples per step; as many as retained ones if None.

    Returns:
      The result of :func:`finetune_passes`.
    """
    pairs = Pass(
        loss_fn,
        fetch_from(options.augmentation),
        problem.train,
        problem.retain,
        problem.num_retain,
        second=problem.forget,
        second_batch_size=forget_batch_size,
    )
    return finetune_passes(key, problem, options, [pairs])


def _decaying(options: FineTuning, steps: list[Any]) -> optax.GradientTransformation:
    """Return the optimizer for epochs with given numbers of steps.

    Args:
      options: hyperparameters of the training.
      steps: number of steps of each epoch; the learning rate decays between epochs.
    """
    if not options.decay_every or len(set(steps)) == 1:
        return options.tx(steps[0])
    starts = [
        sum(steps[:epoch])
        for epoch in range(options.decay_every, len(steps), options.decay_every)
    ]
    scales = dict.fromkeys(starts, options.decay_factor)
    schedule = optax.piecewise_constant_schedule(options.learning_rate, scales)
    return options.tx_at(schedule)


def _epoch(
    key: Array, tx: optax.GradientTransformation, passes: list[_SizedPass]
) -> Callable[[TrainState, None], tuple[TrainState, Array]]:
    """Return the body of a scan over epochs with these passes."""

    def epoch(state: TrainState, _: None) -> tuple[TrainState, Array]:
        key_epoch = jax.random.fold_in(key, 1 + state.epoch)
        loss = jnp.zeros(())
        for part in passes:
            key_pass = jax.random.fold_in(key_epoch, part.number)
            state, loss = _run_pass(key_pass, tx, part, state)
        return state._replace(epoch=state.epoch + 1), loss

    return epoch


def _run_pass(
    key: Array,
    tx: optax.GradientTransformation,
    part: _SizedPass,
    state: TrainState,
) -> tuple[TrainState, Array]:
    item = part.item
    key_order, key_steps, key_second = jax.random.split(key, 3)
    num_steps = most_of(part.num_batches)
    order = epoch_order(key_order, item.member, num_steps, part.batch_size)
    data = item.data if item.refresh is None else item.refresh(state.variables)
    second_order = None
    if item.second is not None:
        second_size = item.second_batch_size or part.batch_size
        second_order = epoch_order(key_second, item.second, num_steps, second_size)

    def step(state: TrainState, indices: Any) -> tuple[TrainState, Array]:
        index, second_index, key_step = indices
        key_fetch, key_loss, key_second_fetch = jax.random.split(key_step, 3)
        batch: Any = item.fetch(data, index, key_fetch)
        if second_index is not None:
            batch = batch, item.fetch(data, second_index, key_second_fetch)
        return train_step(item.loss_fn, tx, state, batch, key_loss)

    keys = jax.random.split(key_steps, num_steps)
    return scan_steps(step, state, (order, second_order, keys), part.num_batches)
