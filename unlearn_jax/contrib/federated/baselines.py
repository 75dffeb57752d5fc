"""Alternatives to PUF's unlearning round: a negated layer (NoT), ascent in a ball.

Two more baselines need no code here. "Natural" continues with FedAvg of the remaining
clients (:func:`unlearn_jax.contrib.federated.run_until` from the original model), and
retraining runs the same rounds from fresh variables. A direct call of
:func:`projected_ascent` compiles it every time; ``jax.jit(projected_ascent)`` does so
once.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.core import Tracer

from unlearn_jax.checks import (
    check_counts,
    check_not_negative,
    check_positive,
)
from unlearn_jax.contrib.federated.fedavg import (
    Federation,
    ServerState,
    check_mask,
    client_update,
)
from unlearn_jax.layers import layers, with_kernels
from unlearn_jax.theory import parameter_distance
from unlearn_jax.train import (
    TrainState,
    check_decay_rate,
    epoch_order,
    fetch_from,
    steps_per_epoch,
    train_step,
)
from unlearn_jax.types import (
    ApplyFn,
    Array,
    Dataset,
    InputError,
    Params,
    Variables,
    check_apply_fn,
)
from unlearn_jax.values import Real, value


def negate_first_layer(apply_fn: ApplyFn, variables: Any, images: Array) -> Any:
    """Multiply the weights of the first layer by -1 (NoT; Khalil et al., 2503.05657).

    NoT reads no data and stores nothing. The following layers no longer fit; FedAvg of
    the remaining clients is meant to restore the knowledge of these clients alone. The
    bias is not negated, as in PUF's comparison.

    Args:
      apply_fn: ``(variables, images) -> logits``; the first layer is the first one that
        this function uses.
      variables: variables of the server's model.
      images: ``[1, H, W, ch]`` images of the right shape; their values do not matter.

    Returns:
      The variables with the negated layer.

    Raises:
      InputError: the model has no affine layer that can be found.
    """
    check_apply_fn(apply_fn)
    affine = layers(apply_fn, variables, images)
    if not affine:
        raise InputError(
            "NoT negates the first layer, and this model has none that can be found:"
            " see unlearn_jax.layers"
        )
    first = affine[0]
    return with_kernels(variables, {first.path: -first.kernel}, affine)


@value
class ProjectedAscent:
    """Hyperparameters of :func:`projected_ascent`.

    The defaults are those of PUF's comparison.

    Attributes:
      num_epochs: number of epochs of ascent.
      learning_rate: learning rate of ascent.
      momentum: momentum of ascent, in [0, 1); 0 for none.
      max_norm: largest norm of a gradient; longer gradients are clipped to it.
      radius: radius of the ball; None for a third of the mean distance from its center
        to ten fresh models.
      max_distance: distance from the client's local model at which ascent stops;
        infinity for no limit.

    Raises:
      InputError: a number out of range.
    """

    num_epochs: int = 5
    learning_rate: Real = 0.01
    momentum: Real = 0.9
    max_norm: Real = 5.0
    radius: Real | None = None
    max_distance: Real = 6.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_counts(num_epochs=self.num_epochs)
        check_positive(learning_rate=self.learning_rate, max_norm=self.max_norm)
        check_decay_rate("momentum", self.momentum)
        if self.radius is not None:
            check_not_negative(radius=self.radius)
        is_traced = isinstance(self.max_distance, Tracer)
        if not is_traced and not np.all(np.asarray(self.max_distance) >= 0):
            raise InputError(
                f"max_distance must not be negative, got {self.max_distance}; pass"
                " infinity for no limit"
            )


class _Ball(NamedTuple):
    """Ball of parameters, and the client's local model, where the distance is 0."""

    center: Params
    radius: Array | float
    local: Params


def projected_ascent(
    key: Array,
    federation: Federation,
    state: ServerState,
    forget: Any,
    ascent: ProjectedAscent = ProjectedAscent(),  # noqa: B008
    *,
    remaining: Any = None,
) -> ServerState:
    """Ascend the forget client's loss inside a ball (Halimi et al., arXiv 2207.05521).

    The forget client first trains as usual, which gives ``w_u``. The center of the ball
    is the mean of the other clients, as if the forget client had not taken part in this
    round: ``w_ref = (K w - w_u) / (K - 1) = w - d_u / (K - 1)``. This is PUF's special
    round with ``eta_u = 1 / (K - 1)``. Ascent starts at the center. After each step the
    parameters are projected onto the ball, and ascent ends when they are farther than
    ``max_distance`` from ``w_u``. PUF's code clips the gradient of each variable
    separately and projects to the square root of the radius; here the global norm is
    clipped and the projection is onto the ball itself.

    Args:
      key: PRNG key of the whole federation.
      federation: the model, the samples, and the clients' training. Ascent uses the
        batch size, objective and augmentation of this training.
      state: state of the server.
      forget: ``[K]`` bool, exactly one True (if traced, the first True counts).
      ascent: the hyperparameters.
      remaining: ``[K]`` bool, mask of the other clients, whose mean is the center; all
        but the forget client if None. Pass it if clients left earlier.

    Returns:
      The state after ascent; the round is not advanced. Statistics (BatchNorm) are
      unchanged.

    Raises:
      InputError: unusable masks, a single client, or samples of the client that cannot
        be trained on.
    """
    training = federation.training
    mask = check_mask(forget, federation.clients)
    num_clients = federation.num_clients
    if num_clients < 2:
        raise InputError("projected ascent needs at least two clients")
    if not isinstance(mask, Tracer) and int(mask.sum()) != 1:
        raise InputError(
            "projected ascent forgets exactly one client at a time, the mask has"
            f" {int(mask.sum())}"
        )
    client = jnp.argmax(mask)
    others = ~mask if remaining is None else check_mask(remaining, federation.clients)
    others = others.at[client].set(False)
    if not isinstance(others, Tracer) and not others.any():
        raise InputError("remaining is empty: mark at least one other client")
    before = state.variables
    key_round = jax.random.fold_in(key, state.round)
    key_ascent = jax.random.fold_in(key_round, num_clients + 1)
    ball = _ball(key_round, federation, state, client, others.sum(), ascent)
    tx = optax.chain(
        optax.scale(-1.0),
        optax.clip_by_global_norm(ascent.max_norm),
        optax.sgd(ascent.learning_rate, momentum=_or_none(ascent.momentum)),
    )
    data = Dataset(*map(jnp.asarray, federation.data))
    positions = federation.clients.positions[client]
    size = federation.clients.sizes[client]
    batch_size = training.batch_size
    loss_fn = training.objective(federation.model)
    fetch = fetch_from(training.augment)
    num_steps = (size + batch_size - 1) // batch_size
    most_steps = steps_per_epoch(len(positions), batch_size)
    is_own = jnp.arange(len(positions)) < size
    keys = jax.random.split(jax.random.fold_in(key_ascent, 0), ascent.num_epochs)
    orders = jax.vmap(lambda key: epoch_order(key, is_own, most_steps, batch_size))
    order = orders(keys).reshape(-1, batch_size)

    def ascend(carry: tuple[Array, TrainState]) -> tuple[Array, TrainState]:
        i, current = carry
        key_fetch, key_loss = jax.random.split(jax.random.fold_in(key_ascent, 1 + i))
        row = i // num_steps * most_steps + i % num_steps
        batch = fetch(data, positions[order[row]], key_fetch)
        after, _ = train_step(loss_fn, tx, current, batch, key_loss)
        params = _project(after.variables.params, ball)
        return i + 1, after._replace(variables=Variables(params, before.state))

    def unfinished(carry: tuple[Array, TrainState]) -> Array:
        i, current = carry
        distance = parameter_distance(current.variables.params, ball.local)
        is_near = (i == 0) | (distance <= ascent.max_distance)
        return (i < ascent.num_epochs * num_steps) & is_near

    start = TrainState(
        jnp.zeros((), jnp.int32),
        Variables(ball.center, before.state),
        tx.init(ball.center),
    )
    _, last = lax.while_loop(unfinished, ascend, (jnp.zeros((), jnp.int32), start))
    return state._replace(variables=last.variables)


def _ball(
    key_round: Array,
    federation: Federation,
    state: ServerState,
    client: Array,
    num_others: Array,
    ascent: ProjectedAscent,
) -> _Ball:
    key_client = jax.random.fold_in(key_round, client)
    key_fresh = jax.random.fold_in(key_round, federation.num_clients)
    rate = federation.training.rate(state.round)
    before = state.variables
    local = client_update(key_client, federation, before, client, rate).params
    center = jax.tree.map(
        lambda w, u: w + ((w - u) / num_others).astype(w.dtype), before.params, local
    )
    if ascent.radius is not None:
        return _Ball(center, ascent.radius, local)

    def distance(key: Array) -> Array:
        return parameter_distance(federation.model.init(key).params, center)

    distances = lax.map(distance, jax.random.split(key_fresh, 10))
    return _Ball(center, jnp.mean(distances) / 3, local)


def _project(params: Params, ball: _Ball) -> Params:
    distance = parameter_distance(params, ball.center)
    shrink = jnp.minimum(1.0, ball.radius / jnp.maximum(distance, 1e-12))
    return jax.tree.map(
        lambda p, c: c + shrink.astype(p.dtype) * (p - c), params, ball.center
    )


def _or_none(momentum: Real) -> Real | None:
    """Return None for a momentum of 0, which has no velocity to carry."""
    return momentum if isinstance(momentum, Tracer) else momentum or None
