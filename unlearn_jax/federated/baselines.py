"""What else a server can do before the remaining clients go on: negate a layer (NoT), or ascend within a ball.

The other two baselines need no code of their own: "natural" goes on with FedAvg of the
remaining clients (:func:`unlearn_jax.federated.recover` from the original model),
retraining runs it from fresh variables.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.core import Tracer

from unlearn_jax.federated.clients import Clients
from unlearn_jax.federated.fedavg import (
    LocalTraining,
    ServerState,
    check_part,
    client_update,
)
from unlearn_jax.layers import layers, with_kernels
from unlearn_jax.theory import parameter_distance
from unlearn_jax.train import (
    TrainState,
    epoch_order,
    fetch_from,
    steps_per_epoch,
    train_step,
)
from unlearn_jax.types import Array, Dataset, InputError, Model, Variables


def negate_first_layer(model: Model, state: ServerState, sample: Array) -> ServerState:
    """NoT (Khalil et al., arXiv 2503.05657): multiplies the weights of the first layer by -1.

    Reads no data and stores nothing. The layers behind it no longer fit; what FedAvg of
    the remaining clients brings back is meant to be theirs alone. The weights only, not
    their bias, as PUF's comparison does it. No round passes.

    Args:
      model: the architecture; the first layer is the first that its forward pass uses.
      state: of the server.
      sample: ``[1, H, W, ch]`` images of the right shape; values do not matter.

    Returns:
      The state with the negated layer.

    Raises:
      InputError: the model has no affine layer that can be found.
    """
    found = layers(model.apply, state.variables, sample)
    if not found:
        raise InputError(
            "NoT negates the first layer, and this model has none that can be found:"
            " see unlearn_jax.layers"
        )
    return state._replace(
        variables=with_kernels(
            state.variables, {found[0].path: -found[0].kernel}, found
        )
    )


def projected_ascent(
    key: Array,
    model: Model,
    training: LocalTraining,
    state: ServerState,
    data: Dataset,
    clients: Clients,
    leaving: Any,
    *,
    num_epochs: int = 5,
    learning_rate: float | Array = 0.01,
    momentum: float = 0.9,
    clip: float = 5.0,
    radius: float | Array | None = None,
    max_distance: float | Array = 6.0,
) -> ServerState:
    """Gradient ascent on the leaving client's loss inside a ball (Halimi et al., arXiv 2207.05521).

    The client first trains as usual, giving ``w_u``. The ball is around the other
    clients' mean, had it not taken part in this round:
    ``w_ref = (K w - w_u) / (K - 1) = w - d_u / (K - 1)``, PUF's special round with
    ``eta_u = 1 / (K - 1)``. Ascent starts there. After each step the parameters are
    projected to the ball, and ascent ends when they are farther than ``max_distance``
    from ``w_u``. Defaults are those of PUF's comparison. Its code clips the gradient of
    each variable and projects to the root of the radius; here the whole gradient is
    clipped and the ball is meant.

    Args:
      key: of the whole federation.
      model: the architecture.
      training: how clients train; ascent takes its batch size, objective and
        augmentation.
      state: of the server.
      data: ``[N]`` samples of everybody.
      clients: who holds which.
      leaving: ``[K]`` bool, exactly one True (where traced, the first counts).
      num_epochs: of ascent.
      learning_rate: of ascent.
      momentum: of ascent.
      clip: largest norm of a gradient.
      radius: of the ball; a third of the mean distance from ``w_ref`` to ten fresh
        models if None.
      max_distance: from ``w_u``, where ascent ends; infinity for never.

    Returns:
      The state after ascent; no round passes. Statistics (BatchNorm) stay as they were.

    Raises:
      InputError: masks or numbers that cannot be used, or a single client.
    """
    part = check_part(leaving, clients)
    num_clients = len(clients.sizes)
    if num_clients < 2 or num_epochs < 1 or clip <= 0:
        raise InputError(
            "projected ascent needs two clients, an epoch and a positive clip"
        )
    if not isinstance(part, Tracer) and int(part.sum()) != 1:
        raise InputError(
            f"projected ascent forgets one client at a time, {int(part.sum())} are"
            " leaving"
        )
    client = jnp.argmax(part)
    places, size, before = (
        clients.places[client],
        clients.sizes[client],
        state.variables,
    )
    key_round = jax.random.fold_in(key, state.round)
    rate = training.learning_rate * training.decay ** state.round.astype(jnp.float32)
    key_client, key_fresh, key_ascent = (
        jax.random.fold_in(key_round, i) for i in (client, num_clients, num_clients + 1)
    )
    local = client_update(
        key_client, model, training, before, data, places, size, rate
    ).params
    center = jax.tree.map(
        lambda w, u: w + (w - u) / (num_clients - 1), before.params, local
    )
    if radius is None:
        fresh = lax.map(
            lambda k: parameter_distance(model.init(k).params, center),
            jax.random.split(key_fresh, 10),
        )
        radius = jnp.mean(fresh) / 3
    tx = optax.chain(
        optax.scale(-1.0),
        optax.clip_by_global_norm(clip),
        optax.sgd(learning_rate, momentum=momentum or None),
    )
    data = jax.tree.map(jnp.asarray, data)
    batch, loss_fn, fetch = (
        training.batch_size,
        training.objective(model),
        fetch_from(training.augment),
    )
    steps, most = (size + batch - 1) // batch, steps_per_epoch(len(places), batch)
    order = jnp.concatenate(
        [
            epoch_order(k, jnp.arange(len(places)) < size, most, batch)
            for k in jax.random.split(jax.random.fold_in(key_ascent, 0), num_epochs)
        ]
    )

    def ascend(carry: tuple[Array, TrainState]) -> tuple[Array, TrainState]:
        i, now = carry
        key_fetch, key_loss = jax.random.split(jax.random.fold_in(key_ascent, 1 + i))
        seen = fetch(data, places[order[i // steps * most + i % steps]], key_fetch)
        after, _ = train_step(loss_fn, tx, now, seen, key_loss)
        shrink = jnp.minimum(
            1.0,
            radius
            / jnp.maximum(parameter_distance(after.variables.params, center), 1e-12),
        )
        params = jax.tree.map(
            lambda p, c: c + shrink * (p - c), after.variables.params, center
        )
        return i + 1, after._replace(variables=Variables(params, before.state))

    def goes_on(carry: tuple[Array, TrainState]) -> Array:
        i, now = carry
        return (i < num_epochs * steps) & (
            (i == 0) | (parameter_distance(now.variables.params, local) <= max_distance)
        )

    start = TrainState(
        jnp.zeros((), jnp.int32), Variables(center, before.state), tx.init(center)
    )
    _, last = lax.while_loop(goes_on, ascend, (jnp.zeros((), jnp.int32), start))
    return state._replace(variables=last.variables)
