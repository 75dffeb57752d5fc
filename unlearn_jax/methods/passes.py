"""Fine-tuning by passes: several objectives over several sets of samples, one after the other or side by side."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from unlearn_jax.methods.base import FineTuning, WrapTx
from unlearn_jax.train import (
    FetchFn,
    TrainState,
    epoch_order,
    init_state,
    steps_per_epoch,
    train_step,
)
from unlearn_jax.types import Array, ModelState, Problem, UnlearnInfo, Variables

PassLoss = Callable[[Variables, Any, Array], tuple[Array, ModelState]]
"""A :data:`unlearn_jax.train.LossFn`; of a pair of batches where the pass reads other samples ``beside``."""


class Pass(NamedTuple):
    """One way through some samples, within an epoch.

    Attributes:
      loss_fn: what to minimize.
      fetch: how samples are read.
      data: what ``fetch`` reads.
      member: bool over the positions that ``fetch`` understands: whose turn it is.
      num_samples: about how many members there are (static); sets the steps.
      batch_size: samples per step; the method's if None.
      beside: a second mask, read round and round in batches beside the first;
        ``loss_fn`` then gets a pair.
      beside_size: samples per step of the second; as of the first if None.
      until: the pass takes part in this many epochs, from the first; in all if None.
      renew: makes the data anew, from the model as it is at the start of the pass,
        instead of ``data``.
    """

    loss_fn: PassLoss
    fetch: FetchFn
    data: Any
    member: Array
    num_samples: int
    batch_size: int | None = None
    beside: Array | None = None
    beside_size: int | None = None
    until: int | None = None
    renew: Callable[[Variables], Any] | None = None


def finetune_passes(
    key: Array,
    problem: Problem,
    tuning: FineTuning,
    passes: list[Pass],
    *,
    wrap_tx: WrapTx | None = None,
) -> tuple[Variables, UnlearnInfo]:
    """Trains on from the original model; every epoch does the passes in their order, with one optimizer.

    Args:
      key: of the method's run.
      problem: gives the model and where to start.
      tuning: the knobs; an epoch of the schedule is one of all passes.
      passes: at least one of them in every epoch.
      wrap_tx: changes the optimizer.

    Returns:
      The fine-tuned variables, and what it cost. The loss of an epoch is the mean over
      its last pass.
    """
    sizes = [part.batch_size or tuning.batch_size for part in passes]
    batches = [
        steps_per_epoch(part.num_samples, size)
        for part, size in zip(passes, sizes, strict=True)
    ]
    lengths = [
        tuning.num_epochs if part.until is None else min(part.until, tuning.num_epochs)
        for part in passes
    ]
    active = [
        [i for i, length in enumerate(lengths) if epoch < length]
        for epoch in range(tuning.num_epochs)
    ]
    tx = _decaying(tuning, [sum(batches[i] for i in now) for now in active])
    tx = tuning.held(
        wrap_tx(tx) if wrap_tx else tx, problem.model, problem.train.images
    )
    state = init_state(key, problem.model, tx, problem.variables)
    losses = []
    for first, last in _runs(active):
        epoch = _epoch(
            key, tx, [(i, passes[i], batches[i], sizes[i]) for i in active[first]]
        )
        state, now = lax.scan(epoch, state, None, length=last - first)
        losses.append(now)
    cost = 0
    for part, length, count, size in zip(passes, lengths, batches, sizes, strict=True):
        cost += (
            length
            * count
            * (size + (0 if part.beside is None else part.beside_size or size))
        )
    variables = tuning.settled(state.variables, problem.model, problem.train.images)
    return variables, UnlearnInfo(jnp.concatenate(losses), jnp.asarray(cost, jnp.int32))


def _decaying(tuning: FineTuning, steps: list[int]) -> optax.GradientTransformation:
    """The optimizer for epochs of these many steps each; the rate decays between epochs."""
    if not tuning.decay_every or len(set(steps)) == 1:
        return tuning.tx(steps[0])
    starts = [
        sum(steps[:epoch])
        for epoch in range(tuning.decay_every, len(steps), tuning.decay_every)
    ]
    scales = dict.fromkeys(starts, tuning.decay_factor)
    return tuning.tx_at(optax.piecewise_constant_schedule(tuning.learning_rate, scales))


def _runs(active: list[list[int]]) -> list[tuple[int, int]]:
    """Ranges of epochs that do the same passes."""
    starts = [
        epoch
        for epoch in range(len(active))
        if epoch == 0 or active[epoch] != active[epoch - 1]
    ]
    return list(zip(starts, [*starts[1:], len(active)], strict=True))


def _epoch(
    key: Array,
    tx: optax.GradientTransformation,
    passes: list[tuple[int, Pass, int, int]],
) -> Callable[[TrainState, None], tuple[TrainState, Array]]:
    """One epoch, to be scanned."""

    def epoch(state: TrainState, _: None) -> tuple[TrainState, Array]:
        key_epoch, losses = jax.random.fold_in(key, 1 + state.epoch), jnp.zeros(0)
        for number, part, num_batches, size in passes:
            state, losses = _pass(
                jax.random.fold_in(key_epoch, number),
                tx,
                part,
                num_batches,
                size,
                state,
            )
        return state._replace(epoch=state.epoch + 1), jnp.mean(losses)

    return epoch


def _pass(
    key: Array,
    tx: optax.GradientTransformation,
    part: Pass,
    num_batches: int,
    size: int,
    state: TrainState,
) -> tuple[TrainState, Array]:
    key_order, key_steps, key_beside = jax.random.split(key, 3)
    order = epoch_order(key_order, part.member, num_batches, size)
    data = part.data if part.renew is None else part.renew(state.variables)
    other = None
    if part.beside is not None:
        other = epoch_order(
            key_beside, part.beside, num_batches, part.beside_size or size
        )

    def step(state: TrainState, item: Any) -> tuple[TrainState, Array]:
        index, beside, key_step = item
        key_fetch, key_loss, key_second = jax.random.split(key_step, 3)
        batch: Any = part.fetch(data, index, key_fetch)
        if beside is not None:
            batch = batch, part.fetch(data, beside, key_second)
        return train_step(part.loss_fn, tx, state, batch, key_loss)

    return lax.scan(
        step, state, (order, other, jax.random.split(key_steps, num_batches))
    )
