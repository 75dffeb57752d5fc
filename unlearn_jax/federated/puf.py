"""PUF: federated unlearning by negated pseudo-gradients (Mora, Mazzocca, Montanari, Bellavista, arXiv 2504.05822).

The leaving clients train once more, exactly as usual, and the server subtracts what it
would otherwise add::

    w  <-  w + Delta+ - eta_u Delta-

Ordinary FedAvg rounds of the remaining clients repair the damage
(:func:`unlearn_jax.federated.recover`). Nothing is stored from earlier rounds, no
public data is needed, and several clients that leave at once are more terms of the sum.

**This is ascent in disguise.** One local step from ``w`` gives
``d_u = -lr grad L_u(w)``, and then ``-eta_u d_u`` is a step of gradient *ascent* on the
leaving clients' loss, of size ``eta_u lr``; several local steps are the same to first
order in ``lr``. Weight decay is negated with the rest, so the step also lengthens the
weights. What "Ascent Fails to Forget" (arXiv 2509.26427) shows of ascent therefore
holds here: the clients' data are dependent, a random subset (IID clients) is classified
by the retrained model as well as test images are, so pushing its accuracy below that
moves away from the oracle, and it is the recovery on the remaining clients that has to
come back. So PUF has to be compared with recovery alone, the baseline "natural".
"""

import math
from typing import Any, Literal

import jax.numpy as jnp
from jax.core import Tracer

from unlearn_jax.federated.clients import Clients
from unlearn_jax.federated.fedavg import (
    LocalTraining,
    ServerState,
    check_part,
    federated_round,
)
from unlearn_jax.types import Array, Dataset, InputError, Model

Mode = Literal["regular", "special"]
STRENGTH: dict[str, float] = {"regular": 20.0, "special": 2.0}
"""The authors' ``eta_u``; with ten clients of one size both scale the leaving client's update by 2."""


def puf_weights(
    clients: Clients,
    leaving: Any,
    *,
    mode: Mode = "special",
    eta_u: float | Array | None = None,
    remaining: Any = None,
) -> Array:
    """The weights that make a federated round a round of PUF.

    ``regular``: a normal round in which the leaving clients' updates count negatively.
    With ``n`` samples of remaining and leaving clients together, remaining clients have
    ``n_k / n`` and leaving ones ``-eta_u n_u / n``. Without leaving clients it is
    FedAvg, with ``eta_u = -1`` FedAvg of all clients.

    ``special``: only the leaving clients train. They have ``-eta_u n_u / sum n_u'``,
    all others 0.

    Args:
      clients: who holds which samples.
      leaving: ``[K]`` bool; may be traced.
      mode: see above.
      eta_u: strength; the authors' 20 (regular) or 2 (special) if None. Larger values
        mainly cost recovery rounds.
      remaining: ``[K]`` bool; all others if None. Give it where clients left earlier,
        or a client skips the round.

    Returns:
      ``[K]`` float32; all 0 where nobody leaves and the mode is special.

    Raises:
      InputError: an unknown mode, a strength that is not finite (not checked where
        traced), or a mask that is not a boolean per client.

    >>> from unlearn_jax.federated import gather_clients
    >>> clients = gather_clients([0, 1, 1, 1, 2, 2, 2, 2])
    >>> puf_weights(clients, [False, False, True], mode="regular", eta_u=3.0).tolist()
    [0.125, 0.375, -1.5]
    >>> puf_weights(clients, [True, True, False]).tolist()
    [-0.5, -1.5, 0.0]
    """
    if mode not in STRENGTH:
        raise InputError(f"unknown mode {mode!r} of PUF: choose regular or special")
    leaving = check_part(leaving, clients)
    staying = (
        ~leaving if remaining is None else check_part(remaining, clients) & ~leaving
    )
    sizes = clients.sizes.astype(jnp.float32)
    gone, kept = jnp.where(leaving, sizes, 0.0), jnp.where(staying, sizes, 0.0)
    strength = STRENGTH[mode] if eta_u is None else eta_u
    if not isinstance(strength, Tracer) and not math.isfinite(float(strength)):
        raise InputError(
            f"eta_u is {strength}: pass a finite strength, such as the authors'"
            f" {STRENGTH[mode]:g}"
        )
    if mode == "special":
        return jnp.where(
            leaving, -strength * gone / jnp.maximum(jnp.sum(gone), 1.0), 0.0
        )
    return (kept - strength * gone) / jnp.maximum(jnp.sum(kept + gone), 1.0)


def puf_round(
    key: Array,
    model: Model,
    training: LocalTraining,
    state: ServerState,
    data: Dataset,
    clients: Clients,
    leaving: Any,
    *,
    mode: Mode = "special",
    eta_u: float | Array | None = None,
    remaining: Any = None,
) -> ServerState:
    """The unlearning round: :func:`unlearn_jax.federated.federated_round` with :func:`puf_weights`.

    Args:
      key: of the whole federation.
      model: the architecture.
      training: how clients train, the leaving ones as always.
      state: before unlearning.
      data: ``[N]`` samples of everybody.
      clients: who holds which; to forget a part of a client's samples make a client of
        it, see :func:`unlearn_jax.federated.split_client`.
      leaving: ``[K]`` bool.
      mode: as :func:`puf_weights`.
      eta_u: as :func:`puf_weights`.
      remaining: as :func:`puf_weights`.

    Returns:
      The state after unlearning; the next round's learning rate is one decay further,
      as after any round.
    """
    weights = puf_weights(clients, leaving, mode=mode, eta_u=eta_u, remaining=remaining)
    return federated_round(key, model, training, state, data, clients, weights)
