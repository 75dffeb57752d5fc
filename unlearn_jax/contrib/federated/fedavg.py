"""Federated averaging: the server adds a weighted sum of the clients' updates.

A client trains from the server's model. Its update ``d_k = w_k - w`` is its
*pseudo-gradient*. Every protocol here, unlearning included, is a choice of one weight
per client and round::

    w  <-  w + sum_k weight_k d_k

The weights of FedAvg (McMahan et al., arXiv 1602.05629) are ``n_k / n`` over the
participating clients. A client of weight 0 does not train: its samples are never read.
The server stores its model and the number of rounds, nothing else.

All functions are pure. A direct call compiles its loops again every time; to call one
repeatedly, compile it once: ``jax.jit(federated_round)``, or ``jax.jit(run_rounds,
static_argnames=("num_rounds", "evaluate"))``. Only concrete samples are checked, so a
first direct call is a good test of them.

Axis letters: ``K`` clients, ``P`` positions in a client's row, ``N`` samples.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from unlearn_jax import targets
from unlearn_jax.branching import cond
from unlearn_jax.checks import (
    check_counts,
    check_finite,
    check_fractions,
    check_images,
    check_labels,
    check_not_negative,
    check_positive,
    check_range,
    check_shape,
)
from unlearn_jax.contrib.federated.clients import Clients
from unlearn_jax.optimizers import SGD, Optimizer
from unlearn_jax.train import (
    Augment,
    LossFn,
    TrainState,
    cross_entropy_loss,
    epoch_order,
    fetch_from,
    steps_per_epoch,
    train_step,
)
from unlearn_jax.types import Array, Dataset, InputError, Model, PyTree, Variables
from unlearn_jax.values import Real, value


@value
class LocalTraining:
    """Training of a client in a round; the defaults are PUF's for ResNet-18 on CIFAR.

    Attributes:
      batch_size: samples per step; the last batch of an epoch is padded with the
        epoch's first samples.
      num_epochs: passes over the client's samples.
      learning_rate: learning rate in the first round.
      decay: decay of the learning rate per round, in (0, 1]: round t (from 0) has
        ``learning_rate * decay ** t``.
      weight_decay: weight of the L2 penalty on all parameters.
      optimizer: a value of :mod:`unlearn_jax.optimizers`; every client initializes it
        in every round.
      objective: ``model -> LossFn``; by default the mean cross-entropy, which is also
        over pixels where labels are maps.
      augment: augmentation of every training image; None for none.
      form: loop over clients. ``map`` trains one client after another, each for as many
        steps as it needs, with one update in memory at a time. ``vmap`` trains all
        clients at once, each for as many steps as the largest needs. ``auto`` is
        ``vmap`` on TPU and ``map`` elsewhere. The results agree up to rounding.

    Raises:
      InputError: sizes or rates out of range.
    """

    batch_size: int = 32
    num_epochs: int = 1
    learning_rate: Real = 0.1
    decay: Real = 0.998
    weight_decay: Real = 1e-3
    optimizer: Optimizer = SGD(momentum=0.0)
    objective: Callable[[Model], LossFn] = cross_entropy_loss
    augment: Augment | None = None
    form: Literal["auto", "map", "vmap"] = "auto"

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_counts(batch_size=self.batch_size, num_epochs=self.num_epochs)
        check_positive(learning_rate=self.learning_rate, decay=self.decay)
        check_fractions(decay=self.decay)
        check_not_negative(weight_decay=self.weight_decay)
        if not callable(self.objective):
            raise InputError(
                "objective must be a function model -> loss function, such as"
                f" train.cross_entropy_loss, got {self.objective!r}"
            )

    @property
    def maps(self) -> bool:
        """True where clients train one after the other."""
        return self.form == "map" or (
            self.form == "auto" and targets.platform() != "tpu"
        )

    def rate(self, round: Array) -> Array:
        """Return the learning rate ``[]`` of a round ``[]``, counted from 0."""
        return self.learning_rate * self.decay ** round.astype(jnp.float32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Federation:
    """Pytree of a model, its clients and their samples.

    Attributes:
      model: the architecture (static).
      training: training of every client (static).
      data: ``[N]`` samples of all clients.
      clients: the positions of each client's samples.
    """

    model: Model = dataclasses.field(metadata={"static": True})
    training: LocalTraining = dataclasses.field(metadata={"static": True})
    data: Dataset
    clients: Clients

    @property
    def num_clients(self) -> int:
        """K, the number of clients."""
        return len(self.clients.sizes)


class ServerState(NamedTuple):
    """State of the server; its size does not depend on the number of rounds.

    Attributes:
      round: ``[]`` int32, number of finished rounds. It determines the learning rate
        and, together with the key, every draw.
      variables: the global model.
    """

    round: Array
    variables: Variables


Evaluate = Callable[[Variables], PyTree]
"""``variables -> measures`` of the global model after a round, a pytree of arrays."""


def init_server(variables: Variables, *, num_rounds: int | Array = 0) -> ServerState:
    """Return the server's state before the next round.

    Args:
      variables: the global model.
      num_rounds: number of rounds that trained this model; the learning rate continues
        from there.

    Raises:
      InputError: a number of rounds that is negative or not an integer.
    """
    check_counts(0, num_rounds=num_rounds)
    return ServerState(jnp.asarray(num_rounds, jnp.int32), variables)


def client_update(
    key: Array,
    federation: Federation,
    variables: Variables,
    client: Array | int,
    learning_rate: Array | float,
) -> Variables:
    """Train one client from the server's model.

    The function is pure and can be mapped over clients.

    Args:
      key: PRNG key, consumed by the call.
      federation: the model, its training, and the samples.
      variables: variables of the server's model.
      client: ``[]`` in 0..K-1; a client without samples does not train.
      learning_rate: learning rate of this round.

    Returns:
      The client's model after its epochs.

    Raises:
      InputError: a client outside 0..K-1, a rate that is negative or not finite,
        clients of another data set, or samples that cannot be trained on.
    """
    check_not_negative(learning_rate=learning_rate)
    check_range(client, federation.num_clients, "clients")
    trains = np.arange(federation.num_clients) == client
    _check_federation(federation, variables, trains)
    training = federation.training
    data = Dataset(*map(jnp.asarray, federation.data))
    positions = federation.clients.positions[client]
    size = federation.clients.sizes[client]
    width = len(positions)
    batch_size = training.batch_size
    most_steps = steps_per_epoch(width, batch_size)
    num_steps = (size + batch_size - 1) // batch_size
    tx = training.optimizer(jnp.asarray(learning_rate), training.weight_decay)
    fetch = fetch_from(training.augment)
    loss_fn = training.objective(federation.model)

    def epoch(number: int, state: TrainState) -> TrainState:
        key_order, key_steps = jax.random.split(jax.random.fold_in(key, number))
        order = epoch_order(key_order, jnp.arange(width) < size, most_steps, batch_size)

        def step(i: Array, state: TrainState) -> TrainState:
            key_fetch, key_loss = jax.random.split(jax.random.fold_in(key_steps, i))
            batch = fetch(data, positions[order[i]], key_fetch)
            return train_step(loss_fn, tx, state, batch, key_loss)[0]

        return lax.fori_loop(0, num_steps, step, state)

    start = TrainState(jnp.zeros((), jnp.int32), variables, tx.init(variables.params))
    return lax.fori_loop(0, training.num_epochs, epoch, start).variables


def federated_round(
    key: Array, federation: Federation, state: ServerState, weights: Array
) -> ServerState:
    """Run one round: ``w <- w + sum_k weights[k] d_k`` for the parameters.

    Statistics (BatchNorm) are not pseudo-gradients and cannot be negated. The new
    statistics are the weighted mean over the clients with a positive weight; if there
    is no such client, the statistics are unchanged. Only floating numbers are averaged:
    counters and other integers of the state stay the server's.

    Args:
      key: PRNG key of the whole federation, the same in every round. The round and the
        client are folded in, so a client's training does not depend on the other
        clients.
      federation: the model, its training, and the samples.
      state: state before the round.
      weights: ``[K]``, of any sign; a client of weight 0 does not train, and its
        samples have no effect.

    Returns:
      The state after the round.

    Raises:
      InputError: weights that are not ``[K]`` or not finite, clients of another data
        set, or samples of clients that train that cannot be trained on.
    """
    num_clients = federation.num_clients
    if np.shape(weights) != (num_clients,):
        raise InputError(
            f"{num_clients} clients take a weight each, got weights of shape"
            f" {np.shape(weights)}"
        )
    check_finite(weights=weights)
    before = jax.tree.map(jnp.asarray, state.variables)
    # NumPy, since jnp would trace the values inside a loop.
    trains = weights if isinstance(weights, Tracer) else np.asarray(weights) != 0
    _check_federation(federation, before, trains)
    weights = jnp.asarray(weights, jnp.float32)
    positive = jnp.maximum(weights, 0.0)
    positive /= jnp.maximum(jnp.sum(positive), jnp.finfo(weights.dtype).tiny)
    key_round = jax.random.fold_in(key, state.round)
    learning_rate = federation.training.rate(state.round)

    def change(client: Array) -> Variables:
        """Return the client's term of the sum, for parameters and statistics."""
        key_client = jax.random.fold_in(key_round, client)
        after = client_update(key_client, federation, before, client, learning_rate)
        return Variables(
            _scaled(weights[client], before.params, after.params),
            _scaled(positive[client], before.state, after.state),
        )

    zero = jax.tree.map(jnp.zeros_like, before)
    everybody = jnp.arange(num_clients)
    if federation.training.maps:

        def add(total: Variables, client: Array) -> tuple[Variables, None]:
            term = cond(weights[client] != 0, change, lambda _: zero, client)
            return jax.tree.map(jnp.add, total, term), None

        total = lax.scan(add, zero, everybody)[0]
    else:
        total = jax.tree.map(
            lambda leaf: jnp.sum(leaf, 0, leaf.dtype), jax.vmap(change)(everybody)
        )
    return ServerState(state.round + 1, jax.tree.map(jnp.add, before, total))


def _scaled(weight: Array, before: PyTree, after: PyTree) -> PyTree:
    """Return ``weight * (after - before)`` in the types of before; 0 for integers."""

    def term(old: Array, new: Array) -> Array:
        if not jnp.issubdtype(old.dtype, jnp.floating):
            return jnp.zeros_like(old)
        # A client of weight 0 may hold NaN, and 0 * NaN is NaN.
        step = jnp.where(weight == 0, 0.0, new - old)
        return (weight * step).astype(old.dtype)

    return jax.tree.map(term, before, after)


def run_rounds(
    key: Array,
    federation: Federation,
    state: ServerState,
    weights: Array,
    *,
    num_rounds: int,
    evaluate: Evaluate = lambda _: (),
) -> tuple[ServerState, PyTree]:
    """Run rounds with the same weights, as one scan.

    With :func:`fedavg_weights` of all clients this trains the original model. With
    those of the remaining clients it retrains if it starts from fresh variables, and is
    the baseline "natural" if it starts from the original model.

    Args:
      key: PRNG key of the whole federation.
      federation: the model, its training, and the samples.
      state: state before the first round.
      weights: ``[K]``, as in :func:`federated_round`.
      num_rounds: number of rounds (static).
      evaluate: measures of the model, computed after each round.

    Returns:
      The last state, and the measures with leaves ``[num_rounds, ...]``.

    Raises:
      InputError: a negative number of rounds, and as :func:`federated_round`.
    """
    check_counts(0, num_rounds=num_rounds)

    def one(state: ServerState, _: None) -> tuple[ServerState, PyTree]:
        state = federated_round(key, federation, state, weights)
        return state, evaluate(state.variables)

    return lax.scan(one, state, None, length=num_rounds)


class Recovery(NamedTuple):
    """Outcome of :func:`run_until`.

    Attributes:
      state: state when the target was reached, or after the last round.
      num_rounds: ``[]`` int32, number of rounds that were run.
      value: ``[]`` result of ``evaluate`` on ``state``.
      reached: ``[]`` bool, whether ``value`` is at least the target.
    """

    state: ServerState
    num_rounds: Array
    value: Array
    reached: Array


def run_until(
    key: Array,
    federation: Federation,
    state: ServerState,
    weights: Array,
    *,
    evaluate: Callable[[Variables], Array],
    target: Array | float,
    num_rounds: int = 30,
) -> Recovery:
    """Run rounds until the global model reaches a target (PUF's recovery).

    A target such as the retrained model's test accuracy needs a retrained model, so
    this is a protocol for comparing methods. A server without a retrained model stops
    by its own validation. At least one round is run, even if the model reaches the
    target from the start.

    Args:
      key: PRNG key of the whole federation.
      federation: the model, its training, and the samples.
      state: state after unlearning.
      weights: ``[K]``, :func:`fedavg_weights` of the remaining clients.
      evaluate: ``variables -> []``, larger is better.
      target: ``[]`` value to reach.
      num_rounds: largest number of rounds; PUF allows 30.

    Returns:
      The recovery.

    Raises:
      InputError: ``num_rounds`` below 1, a target that is not finite, an ``evaluate``
        that does not return a single number, and as :func:`federated_round`.
    """
    check_counts(num_rounds=num_rounds)
    check_finite(target=target)
    check_shape("target", target, ())

    def one(recovery: Recovery) -> Recovery:
        after = federated_round(key, federation, recovery.state, weights)
        measure = evaluate(after.variables)
        check_shape("what evaluate returns", measure, ())
        return Recovery(after, recovery.num_rounds + 1, measure, measure >= target)

    def unfinished(recovery: Recovery) -> Array:
        return ~recovery.reached & (recovery.num_rounds < num_rounds)

    before = Recovery(
        state, jnp.zeros((), jnp.int32), jnp.zeros(()), jnp.zeros((), bool)
    )
    return lax.while_loop(unfinished, one, one(before))


def fedavg_weights(clients: Clients, participating: Any) -> Array:
    """Return FedAvg's weights, ``n_k / n`` over the participating clients.

    Args:
      clients: the positions of each client's samples.
      participating: ``[K]`` bool; may be traced.

    Returns:
      ``[K]`` float32, 0 for all other clients.

    Raises:
      InputError: a mask that is not a boolean per client, or (unless traced) has no
        True.

    >>> from unlearn_jax.contrib.federated import gather_clients
    >>> fedavg_weights(gather_clients([0, 1, 1, 1, 2]), [True, True, False]).tolist()
    [0.25, 0.75, 0.0]
    """
    mask = check_mask(participating, clients)
    if not isinstance(mask, Tracer) and not mask.any():
        raise InputError("no client takes part: mark at least one")
    sizes = jnp.where(mask, clients.sizes, 0).astype(jnp.float32)
    return sizes / jnp.sum(sizes)


def _check_federation(
    federation: Federation, variables: Variables, trains: Any
) -> None:
    """Raise on clients of another data set, and on samples that cannot be trained on.

    Args:
      federation: clients and samples; the values of traced ones are not checked.
      variables: variables of the model.
      trains: ``[K]`` bool, the clients whose samples are read.
    """
    images, labels = federation.data
    positions, sizes = federation.clients
    if len(images) != len(labels):
        raise InputError(
            f"{len(images)} images and {len(labels)} labels: pass one label per image"
        )
    if np.ndim(positions) != 2 or np.shape(sizes) != np.shape(positions)[:1]:
        raise InputError(
            f"positions have shape {np.shape(positions)} and sizes {np.shape(sizes)}:"
            " pass clients that gather_clients returns"
        )
    check_range(positions, len(labels), "positions of clients")
    if any(isinstance(array, Tracer) for array in (images, labels, positions, trains)):
        return
    read = np.zeros(len(images), bool)
    read[np.asarray(positions)[np.asarray(trains)]] = True
    check_images(images, "samples of clients", member=read)
    image = jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.float32)
    logits = jax.eval_shape(federation.model.apply, variables, image)
    # A label may be a map of classes.
    classes = np.asarray(labels)[read].reshape(-1)
    check_labels(classes, classes.size, logits.shape[-1], "samples of clients")


def check_mask(mask: Any, clients: Clients) -> Array:
    """Return a mask of clients ``[K]`` as an array.

    Raises:
      InputError: a mask that is not a boolean per client.
    """
    mask = jnp.asarray(mask)
    if mask.dtype != bool or mask.shape != clients.sizes.shape:
        raise InputError(
            f"a mask of clients is bool of length {len(clients.sizes)}, one entry each;"
            f" got {mask.dtype} {mask.shape}"
        )
    return mask
