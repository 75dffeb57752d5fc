"""Federated averaging: clients train from the server's model, the server adds a weighted sum of their updates.

A client's update ``d_k = w_k - w`` is what its local training changed, its
*pseudo-gradient*. Every protocol here, unlearning included, is a choice of one weight
per client and round::

    w  <-  w + sum_k weight_k d_k

FedAvg (McMahan et al., arXiv 1602.05629) takes ``n_k / n`` over the clients that take
part. A client whose weight is 0 does not train: its samples are never read. The server
remembers its model and the number of rounds, nothing else.

Axis letters: ``K`` clients, ``P`` places in a client's row, ``N`` samples.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.core import Tracer

from unlearn_jax.federated.clients import Clients
from unlearn_jax.train import (
    Augment,
    LossFn,
    TrainState,
    cross_entropy_loss,
    epoch_order,
    fetch_from,
    sgd,
    steps_per_epoch,
    train_step,
)
from unlearn_jax.types import Array, Dataset, InputError, Model, PyTree, Variables


def client_sgd(learning_rate: Array) -> optax.GradientTransformation:
    """SGD without momentum, weight decay 0.001: what clients of PUF's experiments with ResNets use."""
    return sgd(learning_rate, momentum=0.0, weight_decay=1e-3)


@dataclasses.dataclass(frozen=True)
class LocalTraining:
    """How every client trains in a round; static under ``jit``. The defaults are PUF's for CIFAR with a ResNet-18.

    Attributes:
      batch_size: samples per step; the last batch of an epoch is filled with the
        epoch's first samples.
      num_epochs: passes over the client's samples.
      learning_rate: in the first round.
      decay: the rate of round t (from 0) is ``learning_rate * decay ** t``.
      optimizer: ``learning rate [] -> optax transformation``, begun afresh by every
        client in every round.
      objective: ``model -> LossFn``; mean cross-entropy by default, over pixels too
        where labels are maps.
      augment: applied to every training image; None for none.
      form: how "for each client" is done: ``map`` one after the other, each for as many
        steps as it needs, with one update in memory at a time; ``vmap`` all at once,
        for as many steps as the largest needs; ``auto`` is ``map`` on CPU and ``vmap``
        elsewhere. The result is the same up to rounding.

    Raises:
      InputError: sizes or rates that cannot be.
    """

    batch_size: int = 32
    num_epochs: int = 1
    learning_rate: float = 0.1
    decay: float = 0.998
    optimizer: Callable[[Array], optax.GradientTransformation] = client_sgd
    objective: Callable[[Model], LossFn] = cross_entropy_loss
    augment: Augment | None = None
    form: Literal["auto", "map", "vmap"] = "auto"

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.num_epochs < 1:
            raise InputError(
                "clients train at least 1 epoch in batches of at least 1, got"
                f" {self.num_epochs} and {self.batch_size}"
            )
        if not self.learning_rate > 0 or not 0 < self.decay <= 1:
            raise InputError(
                "a learning rate is above 0 and decays by a factor in (0, 1], got"
                f" {self.learning_rate}, {self.decay}"
            )
        if self.form not in ("auto", "map", "vmap"):
            raise InputError(f"unknown form {self.form!r}: choose auto, map or vmap")

    @property
    def maps(self) -> bool:
        """Whether clients train one after the other."""
        return self.form == "map" or (
            self.form == "auto" and jax.default_backend() == "cpu"
        )


class ServerState(NamedTuple):
    """All that the server keeps from round to round: its size does not depend on their number.

    Attributes:
      round: ``[]`` int32, finished rounds; decides the learning rate and, with the key,
        every draw.
      variables: the global model.
    """

    round: Array
    variables: Variables


Evaluate = Callable[[Variables], PyTree]
"""What is measured of the global model after a round, any arrays."""


def init_server(variables: Variables, *, rounds: int | Array = 0) -> ServerState:
    """The server before the next round.

    Args:
      variables: the global model.
      rounds: how many rounds made it; the learning rate goes on from there.
    """
    return ServerState(jnp.asarray(rounds, jnp.int32), variables)


def client_update(
    key: Array,
    model: Model,
    training: LocalTraining,
    variables: Variables,
    data: Dataset,
    places: Array,
    size: Array,
    learning_rate: Array | float,
) -> Variables:
    """One client's local training, from the server's model. Pure, to be mapped over clients.

    Args:
      key: consumed.
      model: the architecture.
      training: how to train.
      variables: the server's.
      data: ``[N]`` samples of everybody.
      places: ``[P]`` positions of the client's samples, its own ones again as filling.
      size: ``[]`` how many are its own; with 0 nothing happens.
      learning_rate: of this round.

    Returns:
      The client's model after its epochs.
    """
    data, width, batch = (
        jax.tree.map(jnp.asarray, data),
        len(places),
        training.batch_size,
    )
    most, steps = steps_per_epoch(width, batch), (size + batch - 1) // batch
    tx, fetch = (
        training.optimizer(jnp.asarray(learning_rate)),
        fetch_from(training.augment),
    )
    loss_fn = training.objective(model)

    def epoch(number: int, state: TrainState) -> TrainState:
        key_order, key_steps = jax.random.split(jax.random.fold_in(key, number))
        order = epoch_order(key_order, jnp.arange(width) < size, most, batch)

        def step(i: Array, state: TrainState) -> TrainState:
            key_fetch, key_loss = jax.random.split(jax.random.fold_in(key_steps, i))
            return train_step(
                loss_fn, tx, state, fetch(data, places[order[i]], key_fetch), key_loss
            )[0]

        return lax.fori_loop(0, steps, step, state)

    start = TrainState(jnp.zeros((), jnp.int32), variables, tx.init(variables.params))
    return lax.fori_loop(0, training.num_epochs, epoch, start).variables


def federated_round(
    key: Array,
    model: Model,
    training: LocalTraining,
    state: ServerState,
    data: Dataset,
    clients: Clients,
    weights: Array,
) -> ServerState:
    """One round: ``w <- w + sum_k weights[k] d_k`` for the parameters.

    Statistics (BatchNorm) are no pseudo-gradients and cannot be negated: they become
    the mean of those of the clients with a positive weight, in proportion to it, and
    stay where there is none.

    Args:
      key: of the whole federation, the same in every round: the round and the client
        are folded in, so a client's training does not depend on who else takes part.
      model: the architecture.
      training: how clients train.
      state: before the round.
      data: ``[N]`` samples of everybody.
      clients: who holds which.
      weights: ``[K]``, of any sign; a client with weight 0 does not train, and what its
        samples hold cannot matter.

    Returns:
      The state after the round.

    Raises:
      InputError: another number of weights than of clients.
    """
    num_clients = len(clients.sizes)
    if jnp.shape(weights) != (num_clients,):
        raise InputError(
            f"{num_clients} clients take a weight each, got weights of shape"
            f" {jnp.shape(weights)}"
        )
    before, weights = state.variables, jnp.asarray(weights)
    positive = jnp.maximum(weights, 0.0)
    positive /= jnp.maximum(jnp.sum(positive), jnp.finfo(weights.dtype).tiny)
    key_round = jax.random.fold_in(key, state.round)
    learning_rate = training.learning_rate * training.decay ** state.round.astype(
        jnp.float32
    )

    def change(client: Array) -> Variables:
        """The client's part of the sum, for parameters and statistics."""
        key_client = jax.random.fold_in(key_round, client)
        after = client_update(
            key_client,
            model,
            training,
            before,
            data,
            clients.places[client],
            clients.sizes[client],
            learning_rate,
        )
        part = jax.tree.map(jnp.subtract, after, before)
        part = jax.tree.map(
            lambda leaf: jnp.where(weights[client] == 0, 0.0, leaf), part
        )  # 0 * NaN is NaN
        return Variables(
            jax.tree.map(lambda leaf: weights[client] * leaf, part.params),
            jax.tree.map(lambda leaf: positive[client] * leaf, part.state),
        )

    zero = jax.tree.map(jnp.zeros_like, before)
    everybody = jnp.arange(num_clients)
    if training.maps:

        def add(total: Variables, client: Array) -> tuple[Variables, None]:
            part = lax.cond(weights[client] == 0, lambda _: zero, change, client)
            return jax.tree.map(jnp.add, total, part), None

        total = lax.scan(add, zero, everybody)[0]
    else:
        total = jax.tree.map(lambda leaf: jnp.sum(leaf, 0), jax.vmap(change)(everybody))
    return ServerState(state.round + 1, jax.tree.map(jnp.add, before, total))


def run_rounds(
    key: Array,
    model: Model,
    training: LocalTraining,
    state: ServerState,
    data: Dataset,
    clients: Clients,
    weights: Array,
    *,
    num_rounds: int,
    evaluate: Evaluate = lambda _: (),
) -> tuple[ServerState, PyTree]:
    """Rounds with the same weights as one scan; arguments as :func:`federated_round`.

    With :func:`fedavg_weights` of all clients this trains the original model, of the
    remaining ones from fresh variables it retrains, and from the original's it is the
    baseline "natural", which just goes on without those who left.

    Args:
      key: of the whole federation.
      model: the architecture.
      training: how clients train.
      state: where to go on from.
      data: ``[N]`` samples of everybody.
      clients: who holds which.
      weights: ``[K]``.
      num_rounds: static.
      evaluate: what to measure of the model after each round.

    Returns:
      The last state, and what was measured, leaves ``[num_rounds, ...]``.
    """

    def one(state: ServerState, _: None) -> tuple[ServerState, PyTree]:
        state = federated_round(key, model, training, state, data, clients, weights)
        return state, evaluate(state.variables)

    return lax.scan(one, state, None, length=num_rounds)


class Recovery(NamedTuple):
    """Outcome of :func:`recover`.

    Attributes:
      state: when the target was reached, or after the last round.
      rounds: ``[]`` int32, rounds done.
      value: ``[]`` of ``state``.
      reached: ``[]`` bool, whether ``value`` is at least the target.
    """

    state: ServerState
    rounds: Array
    value: Array
    reached: Array


def recover(
    key: Array,
    model: Model,
    training: LocalTraining,
    state: ServerState,
    data: Dataset,
    clients: Clients,
    weights: Array,
    *,
    evaluate: Callable[[Variables], Array],
    target: Array | float,
    max_rounds: int = 30,
) -> Recovery:
    """Rounds until the global model is as good as a target, such as the retrained model's test accuracy.

    PUF's second phase. The target needs a retrained model, so this is a protocol for
    comparing methods; a server that has none stops by its own validation. At least one
    round is done, also by a model that is good enough already.

    Args:
      key: of the whole federation.
      model: the architecture.
      training: how clients train.
      state: after unlearning.
      data: ``[N]`` samples of everybody.
      clients: who holds which.
      weights: ``[K]``, :func:`fedavg_weights` of the remaining clients.
      evaluate: ``variables -> []``, larger is better.
      target: ``[]``.
      max_rounds: at most; PUF allows 30.

    Returns:
      See :class:`Recovery`.

    Raises:
      InputError: ``max_rounds`` below 1.
    """
    if max_rounds < 1:
        raise InputError(
            f"recovery takes at least one round, got max_rounds {max_rounds}"
        )

    def one(now: Recovery) -> Recovery:
        after = federated_round(key, model, training, now.state, data, clients, weights)
        value = evaluate(after.variables)
        return Recovery(after, now.rounds + 1, value, value >= target)

    start = one(
        Recovery(state, jnp.zeros((), jnp.int32), jnp.zeros(()), jnp.zeros((), bool))
    )
    return lax.while_loop(
        lambda now: ~now.reached & (now.rounds < max_rounds), one, start
    )


def fedavg_weights(clients: Clients, part: Any) -> Array:
    """FedAvg's weights, ``n_k / n`` over the clients that take part.

    Args:
      clients: who holds which samples.
      part: ``[K]`` bool, who takes part; may be traced.

    Returns:
      ``[K]`` float32, 0 for those who do not.

    Raises:
      InputError: not a boolean per client, or (where it can be seen) nobody.

    >>> from unlearn_jax.federated import gather_clients
    >>> fedavg_weights(gather_clients([0, 1, 1, 1, 2]), [True, True, False]).tolist()
    [0.25, 0.75, 0.0]
    """
    part = check_part(part, clients)
    if not isinstance(part, Tracer) and not part.any():
        raise InputError("no client takes part: mark at least one")
    mine = jnp.where(part, clients.sizes, 0).astype(jnp.float32)
    return mine / jnp.sum(mine)


def check_part(part: Any, clients: Clients) -> Array:
    """A mask of clients ``[K]``, as an array.

    Raises:
      InputError: not a boolean per client.
    """
    mask = jnp.asarray(part)
    if mask.dtype != bool or mask.shape != clients.sizes.shape:
        raise InputError(
            f"a mask of clients is bool of length {len(clients.sizes)}, one entry each;"
            f" got {mask.dtype} {mask.shape}"
        )
    return mask
