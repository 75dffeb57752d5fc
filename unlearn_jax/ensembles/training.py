"""Joint training: one step of all members, epochs in one scan, ``fit_ensemble``."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from numpy.typing import ArrayLike

from unlearn_jax import replicas
from unlearn_jax.checks import check_counts, check_samples, check_shape
from unlearn_jax.ensembles.config import Ensemble, Trs
from unlearn_jax.losses import LotosState, cross_entropy, trs_penalty
from unlearn_jax.train import (
    Batch,
    FetchFn,
    Recipe,
    check_key,
    check_losses,
    check_member,
    check_type,
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


class EnsembleState(NamedTuple):
    """State of joint training.

    Together with the key and the data, it determines the rest of the run.

    Attributes:
      epoch: ``[]`` int32, number of finished epochs.
      step: ``[]`` int32, number of finished steps.
      variables: variables of each of the ``M`` members.
      opt_states: optimizer state of each member.
      lotos: state of the LOTOS term; None without LOTOS.
    """

    epoch: Array
    step: Array
    variables: tuple[Variables, ...]
    opt_states: tuple[optax.OptState, ...]
    lotos: LotosState | None


class EnsembleLosses(NamedTuple):
    """Losses of joint training, an array per epoch or a scalar per step.

    Attributes:
      members: ``[..., M]``, each member's own loss.
      lotos: ``[...]``, the penalty without its weight, under the chosen convention; 0
        without LOTOS, and at steps without the penalty (see ``Lotos.every``). An
        epoch's mean is over the steps with the penalty.
      trs: ``[...]``, the penalty with its weights; 0 without TRS.
    """

    members: Array
    lotos: Array
    trs: Array


def init_ensemble(
    key: Array,
    ensemble: Ensemble,
    txs: Sequence[optax.GradientTransformation],
    sample: Array,
    variables: Sequence[Variables] | None = None,
) -> EnsembleState:
    """Return the state before the first step.

    Args:
      key: PRNG key, consumed; members differ in their initial weights only.
      ensemble: members and objective.
      txs: an optimizer per member.
      sample: ``[1, H, W, ch]`` images of the right shape; values do not matter.
      variables: initial variables of each member; None to call each ``model.init``.

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
    term = ensemble.lotos_term(sample)
    lotos = None if term is None else term.init(key_lotos, variables)
    zero = jnp.zeros((), jnp.int32)
    return EnsembleState(zero, zero, tuple(variables), opt_states, lotos)


def ensemble_step(
    ensemble: Ensemble,
    txs: Sequence[optax.GradientTransformation],
    state: EnsembleState,
    batch: Batch,
    key: Array,
) -> tuple[EnsembleState, EnsembleLosses]:
    """Take one joint gradient step of all members.

    LOTOS's directions are first updated to the current parameters, and are constants
    during the step. Every optimizer receives its member's gradient, parameters and (as
    ``model_state``) new BatchNorm statistics.

    Args:
      ensemble: members and objective.
      txs: an optimizer per member.
      state: state after the previous step.
      batch: batch shared by all members.
      key: PRNG key, consumed.

    Returns:
      The next state (``epoch`` unchanged) and the losses before the step.
    """
    before = state.variables
    params = tuple(one.params for one in before)

    def own_losses(params: tuple[Params, ...]) -> tuple[Array, tuple[Any, ...]]:
        members, states = _own_losses(
            ensemble, _with_params(before, params), batch, key
        )
        is_sum = ensemble.convention == "sum"
        return (jnp.sum if is_sum else jnp.mean)(members), (members, states)

    gradients, (members, states) = jax.grad(own_losses, has_aux=True)(params)
    losses = EnsembleLosses(members, jnp.zeros(()), jnp.zeros(()))
    lotos_state = state.lotos
    term = ensemble.lotos_term(batch.images)
    if ensemble.lotos is not None and term is not None:

        def lotos_penalty(params: tuple[Params, ...]) -> tuple[Array, LotosState]:
            return term.update(_with_params(before, params), state.lotos)

        # Separate from the gradient of the members' own losses: one backward pass for
        # both would sum in another order, and an ensemble with weight 0 would differ
        # from one without LOTOS.
        (penalty, lotos_state), more = jax.value_and_grad(lotos_penalty, has_aux=True)(
            params
        )
        weight = ensemble.lotos.weight
        gradients = jax.tree.map(lambda a, b: a + weight * b, gradients, more)
        losses = losses._replace(lotos=penalty)
    if ensemble.trs is not None:
        penalty, more = _trs(ensemble, ensemble.trs, before, batch)
        gradients = jax.tree.map(jnp.add, gradients, more)
        losses = losses._replace(trs=penalty)
    variables = []
    opt_states = []
    for tx, gradient, opt_state, one, model_state in zip(
        txs, gradients, state.opt_states, before, states, strict=True
    ):
        update = optax.with_extra_args_support(tx).update
        updates, opt_state = update(
            gradient, opt_state, one.params, model_state=model_state
        )
        new_params = optax.apply_updates(one.params, updates)
        variables.append(Variables(new_params, model_state))
        opt_states.append(opt_state)
    after = EnsembleState(
        state.epoch, state.step + 1, tuple(variables), tuple(opt_states), lotos_state
    )
    return after, losses


def _with_params(
    variables: Sequence[Variables], params: Sequence[Params]
) -> list[Variables]:
    pairs = zip(variables, params, strict=True)
    return [one._replace(params=new) for one, new in pairs]


def _own_losses(
    ensemble: Ensemble, variables: Sequence[Variables], batch: Batch, key: Array
) -> tuple[Array, list[ModelState]]:
    """Return the members' losses ``[M]`` and each member's new statistics."""
    keys = jax.random.split(key, len(variables))
    if ensemble.form == "vmap":
        loss_fn = ensemble.objective(ensemble.models[0])
        losses, stacked = jax.vmap(loss_fn, (0, None, 0))(
            replicas.stack(variables), batch, keys
        )
        states = [
            jax.tree.map(lambda leaf, j=j: leaf[j], stacked)
            for j in range(len(variables))
        ]
        return losses, states
    results = [
        ensemble.objective(model)(one, batch, keys[j])
        for j, (model, one) in enumerate(zip(ensemble.models, variables, strict=True))
    ]
    return jnp.stack([loss for loss, _ in results]), [state for _, state in results]


def _trs(
    ensemble: Ensemble, trs: Trs, variables: Sequence[Variables], batch: Batch
) -> tuple[Array, tuple[Params, ...]]:
    """Return the TRS penalty and its gradient by each member's parameters.

    Let ``c`` be the penalty's gradient by a member's input gradients ``g``. The
    penalty's gradient by the parameters is then the derivative of ``<g, c>``, which is
    the change of the parameters' gradient when the images move along ``c``. It is
    computed by forward mode over reverse mode: its convolutions keep the layout that is
    fast inside loops on CPU, where reverse over reverse is slow.
    """

    def total(model: Model, one: Variables, images: Array) -> Array:
        return jnp.sum(cross_entropy(model.apply(one, images), batch.labels))

    pairs = list(zip(ensemble.models, variables, strict=True))
    slopes = jnp.stack(
        [jax.grad(partial(total, model, one))(batch.images) for model, one in pairs]
    )
    penalty = partial(trs_penalty, similarity=trs.similarity, smoothness=trs.smoothness)
    value, along = jax.value_and_grad(penalty)(slopes)

    def by_params(model: Model, one: Variables, direction: Array) -> Params:
        def loss(params: Params, images: Array) -> Array:
            return total(model, one._replace(params=params), images)

        def gradient(images: Array) -> Params:
            return jax.grad(loss)(one.params, images)

        return jax.jvp(gradient, (batch.images,), (direction,))[1]

    return value, tuple(
        by_params(model, one, along[j]) for j, (model, one) in enumerate(pairs)
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
    """Train for whole epochs in one scan, on the same batches as a single model.

    Args:
      ensemble: members and objective.
      txs: an optimizer per member.
      fetch: function that reads a batch, see :func:`unlearn_jax.train.fetch_from`.
      state: state after the previous epoch.
      key: PRNG key of the whole run; every epoch folds its number in.
      data: data passed to ``fetch``.
      member: ``[N]`` bool, the samples to train on.
      num_epochs: epochs of this call (static).
      num_batches: steps per epoch (static).
      batch_size: samples per step (static).

    Returns:
      The state after the epochs, and each epoch's mean losses, leaves
      ``[num_epochs, ...]``.
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
        every = ensemble.lotos.every if ensemble.lotos else 1
        steps = state.step + jnp.arange(num_batches)
        state, losses = lax.scan(
            step, state, (order, jax.random.split(key_steps, num_batches))
        )
        num_active = jnp.sum(steps % every == 0)
        means = jax.tree.map(partial(jnp.mean, axis=0), losses)
        means = means._replace(lotos=jnp.sum(losses.lotos) / jnp.maximum(num_active, 1))
        return state._replace(epoch=state.epoch + 1), means

    return lax.scan(epoch, state, None, length=num_epochs)


def joint_training(
    ensemble: Ensemble,
    recipe: Recipe,
    *,
    num_batches: int,
    txs: Sequence[optax.GradientTransformation] | None = None,
) -> tuple[
    Callable[..., EnsembleState], Callable[..., tuple[EnsembleState, EnsembleLosses]]
]:
    """Return functions to jit: one starts joint training, one trains for some epochs.

    Args:
      ensemble: members and objective.
      recipe: training recipe of every member.
      num_batches: steps per epoch.
      txs: an optimizer per member; None for ``recipe.tx`` for all.

    Returns:
      ``begin(key, sample=, variables=)``, :func:`init_ensemble`, and ``run(state, key,
      data, member, num_epochs=)``, :func:`ensemble_epochs`; ``num_epochs`` is static.
    """
    txs = (recipe.tx,) * len(ensemble.models) if txs is None else tuple(txs)
    begin = partial(init_ensemble, ensemble=ensemble, txs=txs)
    fetch = fetch_from(recipe.augment)
    run = partial(ensemble_epochs, ensemble, txs, fetch)
    run = partial(run, num_batches=num_batches, batch_size=recipe.batch_size)
    return begin, run


@lru_cache(maxsize=16)
def _compiled(
    ensemble: Ensemble,
    recipe: Recipe,
    txs: tuple[optax.GradientTransformation, ...] | None,
    num_batches: int,
) -> tuple[
    Callable[..., EnsembleState], Callable[..., tuple[EnsembleState, EnsembleLosses]]
]:
    """Return one ensemble's jitted start and epochs, cached for the next fit."""
    begin, run = joint_training(ensemble, recipe, num_batches=num_batches, txs=txs)
    return jax.jit(begin), jax.jit(run, static_argnames="num_epochs", donate_argnums=0)


def fit_ensemble(
    key: Array,
    ensemble: Ensemble,
    data: Dataset,
    member: ArrayLike,
    recipe: Recipe,
    *,
    txs: Sequence[optax.GradientTransformation] | None = None,
    variables: Sequence[Variables] | None = None,
    state: EnsembleState | None = None,
    epochs_per_call: int = 1,
    callback: Callable[[EnsembleState, EnsembleLosses], None] | None = None,
) -> tuple[EnsembleState, EnsembleLosses]:
    """Train the members of an ensemble together on the samples of a mask.

    Args:
      key: PRNG key of the whole run; the same key gives the same bits on the same
        backend, however the run is split into calls.
      ensemble: members and objective.
      data: ``[N]`` samples; those outside ``member`` are never read.
      member: ``[N]`` bool, the samples to train on, the same for all members.
      recipe: training recipe; every member takes all batches.
      txs: an optimizer per member, instead of ``recipe.tx`` for all; needed if the
        optimizer depends on the model, as FastClip does, and the architectures differ.
      variables: initial variables of each member; None to call each ``model.init``.
      state: state to resume from; its buffers are donated.
      epochs_per_call: epochs per compiled call. More epochs return to Python less
        often, with the same result.
      callback: function called after every compiled call, with a copy of the state,
        which may be kept, and the losses of that call.

    Returns:
      The last state, and the losses of this call's epochs, leaves ``[epochs, ...]`` on
      the host.

    Raises:
      InputError: an argument of a wrong type, unusable mask, images or labels, a wrong
        number of optimizers or variables, a state of another ensemble, or layers that
        LOTOS cannot compare.
      DivergedError: a loss was not finite.
    """
    check_key(key)
    if not isinstance(ensemble, Ensemble):
        raise InputError(
            f"ensemble must be an Ensemble, got {type(ensemble).__name__}: pass"
            " ensembles.Ensemble([model] * 3), say"
        )
    check_type("data", data, Dataset)
    check_type("recipe", recipe, Recipe)
    for one in variables or ():
        check_type("variables of a member", one, Variables)
    member = check_member(member, len(data.labels))
    check_shape("member", member, (len(data.labels),))
    check_counts(epochs_per_call=epochs_per_call)
    size = len(ensemble.models)
    txs = None if txs is None else tuple(txs)
    given = (txs, variables, None if state is None else state.variables)
    if any(part is not None and len(part) != size for part in given):
        raise InputError(
            f"an ensemble of {size} members needs as many optimizers and variables, in"
            " a state too"
        )
    begin, run = _compiled(
        ensemble, recipe, txs, steps_per_epoch(int(member.sum()), recipe.batch_size)
    )
    current = state
    if current is None:
        sample = jnp.zeros((1, *np.shape(data.images)[1:]), jnp.float32)
        start = begin(jax.random.fold_in(key, 0), sample=sample, variables=variables)
        # Copied, because the caller's variables must survive the donation of the state.
        current = jax.tree.map(jnp.copy, start)
    for model, one in zip(ensemble.models, current.variables, strict=True):
        check_samples(model.apply, one, data, "training set", member=member)
    data = Dataset(jnp.asarray(data.images), jnp.asarray(data.labels, jnp.int32))
    mask = jnp.asarray(member)
    parts = [EnsembleLosses(jnp.zeros((0, size)), jnp.zeros(0), jnp.zeros(0))]
    for epoch in range(int(current.epoch), recipe.num_epochs, epochs_per_call):
        num_epochs = min(epochs_per_call, recipe.num_epochs - epoch)
        current, losses = run(current, key, data, mask, num_epochs=num_epochs)
        losses = jax.tree.map(np.asarray, losses)
        terms = [losses.members, losses.lotos[:, None], losses.trs[:, None]]
        check_losses(np.concatenate(terms, 1).T, epoch)
        parts.append(losses)
        if callback is not None:
            # copied, because the next call is given the state's memory
            callback(jax.tree.map(jnp.copy, current), losses)
    return current, jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
