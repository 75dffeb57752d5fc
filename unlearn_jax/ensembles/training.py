"""Joint training: the one step of all members, whole epochs in one compiled scan, and ``fit_ensemble``."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from unlearn_jax import replicas
from unlearn_jax.ensembles.config import Ensemble, Lotos, Trs
from unlearn_jax.layers import Layer, layers
from unlearn_jax.losses import cross_entropy
from unlearn_jax.losses.lotos import lotos_penalty
from unlearn_jax.losses.trs import trs_penalty
from unlearn_jax.spectral._power_qr import power_qr
from unlearn_jax.spectral.operators import layer_map
from unlearn_jax.train import (
    Batch,
    FetchFn,
    Recipe,
    check_losses,
    check_member,
    epoch_order,
    fetch_from,
    steps_per_epoch,
)
from unlearn_jax.types import (
    Array,
    Dataset,
    InputError,
    Model,
    ModelState,
    Params,
    PyTree,
    Variables,
)

Directions = tuple[tuple[Array, ...], ...]
"""For each compared layer, each member's top right singular vectors ``[K, *in_shape]``."""


class EnsembleState(NamedTuple):
    """Everything joint training carries from step to step; a pytree, so it can be stored and gone on from.

    Attributes:
      epoch: ``[]`` int32, finished epochs.
      step: ``[]`` int32, finished steps.
      variables: of each of the ``M`` members.
      opt_states: each member's optimizer state.
      directions: LOTOS's singular vectors, warm; empty without LOTOS.
    """

    epoch: Array
    step: Array
    variables: tuple[Variables, ...]
    opt_states: tuple[optax.OptState, ...]
    directions: Directions


class EnsembleLosses(NamedTuple):
    """What joint training minimized; an array per epoch, or a scalar per step.

    Attributes:
      members: ``[..., M]``, each member's own loss.
      lotos: ``[...]``, the penalty without its weight, under the convention chosen; 0
        without LOTOS, and at the steps at which it does not act (an epoch's mean is
        over those at which it does).
      trs: ``[...]``, the penalty with its weights; 0 without TRS.
    """

    members: Array
    lotos: Array
    trs: Array


def _compared(
    ensemble: Ensemble, lotos: Lotos, variables: Sequence[Variables], sample: Array
) -> list[list[Layer]]:
    """For each layer that LOTOS compares, each member's."""
    found = []
    for model, one in zip(ensemble.models, variables, strict=True):
        mine = layers(model.apply, one, sample)
        if lotos.which == "conv":
            mine = [layer for layer in mine if layer.kind == "conv"]
        found.append(mine[:1] if lotos.which == "first" else mine)
    counts = {len(mine) for mine in found}
    if counts == {0}:
        raise InputError(
            "LOTOS found no layer to compare: for a network without convolutions choose"
            " which='all'"
        )
    if len(counts) > 1:
        raise InputError(
            f"the members have {' and '.join(map(str, sorted(counts)))} layers: for"
            " different architectures choose which='first'"
        )
    return [list(row) for row in zip(*found, strict=True)]


def _warm(
    rows: list[list[Layer]], directions: Directions, *, composite: bool, num_iters: int
) -> Directions:
    def one(layer: Layer, vectors: Array) -> Array:
        return power_qr(
            layer_map(layer, composite=composite).matvec, vectors, num_iters=num_iters
        ).vectors

    return tuple(
        tuple(map(one, row, blocks))
        for row, blocks in zip(rows, directions, strict=True)
    )


def init_ensemble(
    key: Array,
    ensemble: Ensemble,
    txs: Sequence[optax.GradientTransformation],
    sample: Array,
    variables: Sequence[Variables] | None = None,
) -> EnsembleState:
    """The state before the first step.

    Args:
      key: consumed; members differ in their initial weights only.
      ensemble: what is trained.
      txs: an optimizer per member.
      sample: ``[1, H, W, ch]`` images of the right shape; values do not matter.
      variables: start here instead of from each ``model.init``.

    Raises:
      InputError: LOTOS finds no layers to compare.
    """
    key_init, key_lotos = jax.random.split(key)
    if variables is None:
        keys = jax.random.split(key_init, len(ensemble.models))
        variables = [
            model.init(k) for model, k in zip(ensemble.models, keys, strict=True)
        ]
    opt_states = tuple(
        tx.init(one.params) for tx, one in zip(txs, variables, strict=True)
    )
    directions: Directions = ()
    if (lotos := ensemble.lotos) is not None:
        rows = _compared(ensemble, lotos, variables, sample)
        count, keys = 0, jax.random.split(key_lotos, len(rows) * len(variables))
        for row in rows:
            shapes = [
                layer_map(layer, composite=lotos.composite).in_shape for layer in row
            ]
            draws = [
                jax.random.normal(keys[count + j], (lotos.num_vectors, *s))
                for j, s in enumerate(shapes)
            ]
            directions, count = (*directions, tuple(draws)), count + len(row)
        directions = _warm(
            rows, directions, composite=lotos.composite, num_iters=lotos.init_iters
        )
    zero = jnp.zeros((), jnp.int32)
    return EnsembleState(zero, zero, tuple(variables), opt_states, directions)


def ensemble_step(
    ensemble: Ensemble,
    txs: Sequence[optax.GradientTransformation],
    state: EnsembleState,
    batch: Batch,
    key: Array,
) -> tuple[EnsembleState, EnsembleLosses]:
    """One joint gradient step of all members.

    LOTOS's directions are first brought up to the present parameters and are constants
    of the step. Every optimizer gets its member's gradient, parameters and (as
    ``model_state``) new BatchNorm statistics.

    Args:
      ensemble: what is trained.
      txs: an optimizer per member.
      state: where to go on from.
      batch: shared.
      key: consumed.

    Returns:
      The next state (``epoch`` unchanged) and what was minimized.
    """
    before, directions = state.variables, state.directions
    params = tuple(one.params for one in before)

    def loss_of(
        params: tuple[Params, ...],
    ) -> tuple[Array, tuple[Array, list[ModelState]]]:
        variables = [
            one._replace(params=mine) for one, mine in zip(before, params, strict=True)
        ]
        members, states = _own_losses(ensemble, variables, batch, key)
        return (
            jnp.sum(members) if ensemble.convention == "sum" else jnp.mean(members)
        ), (members, states)

    gradients, (members, states) = jax.grad(loss_of, has_aux=True)(params)
    losses = EnsembleLosses(members, jnp.zeros(()), jnp.zeros(()))
    if (lotos := ensemble.lotos) is not None:
        act = partial(_lotos, ensemble, lotos, before, jnp.zeros_like(batch.images[:1]))
        rest = lambda directions: (
            jnp.zeros(()),
            jax.tree.map(jnp.zeros_like, params),
            directions,
        )
        if lotos.every == 1:
            penalty, more, directions = act(directions)
        else:
            penalty, more, directions = lax.cond(
                state.step % lotos.every == 0, act, rest, directions
            )
        gradients = jax.tree.map(
            lambda own, other: own + lotos.weight * other, gradients, more
        )
        losses = losses._replace(lotos=penalty)
    if ensemble.trs is not None:
        apart, more = _trs(ensemble, ensemble.trs, before, batch)
        gradients, losses = (
            jax.tree.map(jnp.add, gradients, more),
            losses._replace(trs=apart),
        )
    moved = []
    for tx, gradient, memory, one, new in zip(
        txs, gradients, state.opt_states, before, states, strict=True
    ):
        update = optax.with_extra_args_support(tx).update
        updates, memory = update(gradient, memory, one.params, model_state=new)
        moved.append((Variables(optax.apply_updates(one.params, updates), new), memory))
    variables, opt_states = zip(*moved, strict=True)
    return (
        EnsembleState(state.epoch, state.step + 1, variables, opt_states, directions),
        losses,
    )


def _lotos(
    ensemble: Ensemble,
    lotos: Lotos,
    before: Sequence[Variables],
    sample: Array,
    directions: Directions,
) -> tuple[Array, tuple[Params, ...], Directions]:
    """The LOTOS penalty, its gradient by each member's parameters, and the directions it was taken along."""
    rows = _compared(ensemble, lotos, before, sample)
    directions = _warm(
        rows, directions, composite=lotos.composite, num_iters=lotos.power_iters
    )

    def penalty(params: tuple[Params, ...]) -> Array:
        variables = [
            one._replace(params=mine) for one, mine in zip(before, params, strict=True)
        ]
        rows = _compared(ensemble, lotos, variables, sample)
        maps = [
            [layer_map(layer, composite=lotos.composite).matvec for layer in row]
            for row in rows
        ]
        return lotos_penalty(
            maps,
            directions,
            max_length=lotos.max_length,
            convention=ensemble.convention,
        )

    value, gradients = jax.value_and_grad(penalty)(tuple(one.params for one in before))
    return value, gradients, directions


def _own_losses(
    ensemble: Ensemble, variables: Sequence[Variables], batch: Batch, key: Array
) -> tuple[Array, list[ModelState]]:
    """Each member's loss ``[M]`` and new statistics."""
    keys, count = jax.random.split(key, len(variables)), range(len(variables))
    if ensemble.form == "vmap":
        loss_fn = ensemble.objective(ensemble.models[0])
        losses, states = jax.vmap(loss_fn, (0, None, 0))(
            replicas.stack(variables), batch, keys
        )
        return losses, [jax.tree.map(lambda leaf, j=j: leaf[j], states) for j in count]
    results = [
        ensemble.objective(ensemble.models[j])(variables[j], batch, keys[j])
        for j in count
    ]
    return jnp.stack([loss for loss, _ in results]), [state for _, state in results]


def _trs(
    ensemble: Ensemble, trs: Trs, variables: Sequence[Variables], batch: Batch
) -> tuple[Array, tuple[Params, ...]]:
    """The TRS penalty and its gradient by each member's parameters.

    With ``c`` the penalty's gradient by a member's input gradients ``g``, that is the
    derivative of ``<g, c>``, and so the change of the parameters' gradient when the
    images move along ``c``: forward mode over reverse mode, whose convolutions keep the
    layout that is fast inside loops on CPU, where reverse over reverse is slow.
    """

    def total(model: Model, mine: Variables, images: Array) -> Array:
        return jnp.sum(cross_entropy(model.apply(mine, images), batch.labels))

    pairs = list(zip(ensemble.models, variables, strict=True))
    slopes = jnp.stack(
        [jax.grad(partial(total, model, mine))(batch.images) for model, mine in pairs]
    )
    penalty = partial(trs_penalty, similarity=trs.similarity, smoothness=trs.smoothness)
    value, along = jax.value_and_grad(penalty)(slopes)

    def by_params(model: Model, mine: Variables, direction: Array) -> Params:
        def gradient(images: Array) -> Params:
            return jax.grad(
                lambda params: total(model, mine._replace(params=params), images)
            )(mine.params)

        return jax.jvp(gradient, (batch.images,), (direction,))[1]

    return value, tuple(
        by_params(model, mine, along[j]) for j, (model, mine) in enumerate(pairs)
    )


def ensemble_epochs(
    ensemble: Ensemble,
    txs: Sequence[optax.GradientTransformation],
    fetch: FetchFn,
    state: EnsembleState,
    key: Array,
    data: PyTree,
    member: Array,
    *,
    num_epochs: int,
    num_batches: int,
    batch_size: int,
) -> tuple[EnsembleState, EnsembleLosses]:
    """Whole epochs as one scan, as :func:`unlearn_jax.train.train_epochs` for one model: same order, same images.

    Returns:
      The state after the epochs, and each epoch's means, leaves ``[num_epochs, ...]``.
    """

    def epoch(state: EnsembleState, _: None) -> tuple[EnsembleState, EnsembleLosses]:
        key_order, key_steps = jax.random.split(
            jax.random.fold_in(key, 1 + state.epoch)
        )

        def step(
            state: EnsembleState, item: tuple[Array, Array]
        ) -> tuple[EnsembleState, EnsembleLosses]:
            index, key_step = item
            key_fetch, key_loss = jax.random.split(key_step)
            return ensemble_step(
                ensemble, txs, state, fetch(data, index, key_fetch), key_loss
            )

        order = epoch_order(key_order, member, num_batches, batch_size)
        every, first = ensemble.lotos.every if ensemble.lotos else 1, state.step
        state, losses = lax.scan(
            step, state, (order, jax.random.split(key_steps, num_batches))
        )
        acted = jnp.sum((first + jnp.arange(num_batches)) % every == 0)
        means = jax.tree.map(partial(jnp.mean, axis=0), losses)
        means = means._replace(lotos=jnp.sum(losses.lotos) / jnp.maximum(acted, 1))
        return state._replace(epoch=state.epoch + 1), means

    return lax.scan(epoch, state, None, length=num_epochs)


@lru_cache(maxsize=16)
def _compiled(
    ensemble: Ensemble,
    recipe: Recipe,
    txs: tuple[optax.GradientTransformation, ...],
    num_batches: int,
) -> tuple[
    Callable[..., EnsembleState], Callable[..., tuple[EnsembleState, EnsembleLosses]]
]:
    run = partial(ensemble_epochs, ensemble, txs, fetch_from(recipe.augment))
    run = partial(run, num_batches=num_batches, batch_size=recipe.batch_size)
    begin = partial(init_ensemble, ensemble=ensemble, txs=txs)
    return jax.jit(begin), jax.jit(run, static_argnames="num_epochs", donate_argnums=0)


def fit_ensemble(
    key: Array,
    ensemble: Ensemble,
    data: Dataset,
    member: Any,
    recipe: Recipe,
    *,
    txs: Sequence[optax.GradientTransformation] | None = None,
    variables: Sequence[Variables] | None = None,
    state: EnsembleState | None = None,
    epochs_per_call: int = 1,
    callback: Callable[[EnsembleState, EnsembleLosses], None] | None = None,
) -> tuple[EnsembleState, EnsembleLosses]:
    """Trains the members of an ensemble together on the samples of a mask.

    Args:
      key: of the whole run; the same key gives the same bits on the same backend,
        however the run is cut.
      ensemble: what is trained.
      data: ``[N]`` samples; those outside ``member`` are never read.
      member: ``[N]`` bool, the same for all.
      recipe: how to train; every member takes all batches.
      txs: an optimizer per member, instead of ``recipe.tx`` for all; needed where the
        optimizer knows the model, as FastClip does, and the architectures differ.
      variables: start here instead of from each ``model.init``.
      state: go on from here (its buffers are given away) instead of starting.
      epochs_per_call: epochs per compiled call: more means fewer returns to Python, and
        the same result.
      callback: called after every call with the state and its losses.

    Returns:
      The last state, and the losses of the epochs done now, leaves ``[epochs, ...]`` on
      the host.

    Raises:
      InputError: unusable mask, a wrong number of optimizers or variables, or layers
        that LOTOS cannot compare.
      DivergedError: a loss was not finite.
    """
    member = check_member(member, len(data.labels))
    size = len(ensemble.models)
    txs = (recipe.tx,) * size if txs is None else tuple(txs)
    if len(txs) != size or (variables is not None and len(variables) != size):
        raise InputError(
            f"an ensemble of {size} takes as many optimizers and variables"
        )
    begin, run = _compiled(
        ensemble, recipe, txs, steps_per_epoch(int(member.sum()), recipe.batch_size)
    )
    now = state
    if now is None:
        sample = jnp.zeros((1, *data.images.shape[1:]), jnp.float32)
        begun = begin(jax.random.fold_in(key, 0), sample=sample, variables=variables)
        now = jax.tree.map(
            jnp.copy, begun
        )  # the caller's variables must survive the donation of the state
    placed, mask = jax.tree.map(jnp.asarray, data), jnp.asarray(member)
    parts, first = [], int(now.epoch)
    for done in range(first, recipe.num_epochs, epochs_per_call):
        count = min(epochs_per_call, recipe.num_epochs - done)
        now, losses = run(now, key, placed, mask, num_epochs=count)
        losses = jax.tree.map(np.asarray, losses)
        check_losses(
            np.concatenate(
                [losses.members, losses.lotos[:, None], losses.trs[:, None]], 1
            ).T,
            done,
        )
        parts.append(losses)
        if callback is not None:
            callback(now, losses)
    empty = EnsembleLosses(jnp.zeros((0, size)), jnp.zeros(0), jnp.zeros(0))
    return now, jax.tree.map(lambda *leaves: np.concatenate(leaves), empty, *parts)
