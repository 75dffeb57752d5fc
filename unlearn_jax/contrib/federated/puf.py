"""PUF: federated unlearning by negated pseudo-gradients (arXiv 2504.05822).

Mora, Mazzocca, Montanari, Bellavista. The clients to forget train again, exactly as
usual, and the server subtracts their update instead of adding it::

    w  <-  w + Delta+ - eta_u Delta-

Ordinary FedAvg rounds of the remaining clients repair the damage
(:func:`.run_until`). Nothing is stored from earlier rounds, no
public data is needed, and several clients to forget at once are more terms of the sum.

**This is ascent in disguise.** One local step from ``w`` gives
``d_u = -lr grad L_u(w)``, and then ``-eta_u d_u`` is a step of gradient *ascent* on the
forget clients' loss, of size ``eta_u lr``; several local steps are the same to first
order in ``lr``. Weight decay is negated with the rest, so the step also lengthens the
weights. The results of "Ascent Fails to Forget" (arXiv 2509.26427) on ascent therefore
hold here: the clients' data are dependent, a random subset (IID clients) is classified
by the retrained model as well as test images are, so pushing its accuracy below that
moves away from the oracle, and it is the recovery on the remaining clients that has to
return. So PUF has to be compared with recovery alone, the baseline "natural".
"""

from typing import Any, Literal

import jax.numpy as jnp

from unlearn_jax.checks import check_finite, check_shape
from unlearn_jax.contrib.federated.clients import Clients
from unlearn_jax.contrib.federated.fedavg import (
    Federation,
    ServerState,
    check_mask,
    federated_round,
)
from unlearn_jax.types import Array, InputError

Mode = Literal["regular", "special"]
STRENGTH: dict[str, float] = {"regular": 20.0, "special": 2.0}
"""The authors' ``eta_u``; both scale the update of one of ten equal clients by 2."""


def puf_weights(
    clients: Clients,
    forget: Any,
    *,
    mode: Mode = "special",
    eta_u: float | Array | None = None,
    remaining: Any = None,
) -> Array:
    """Return the weights that make a federated round a round of PUF.

    ``regular``: a normal round in which the forget clients' updates count negatively.
    With ``n`` samples of remaining and forget clients together, remaining clients have
    ``n_k / n`` and forget clients ``-eta_u n_u / n``. Without forget clients it is
    FedAvg, with ``eta_u = -1`` FedAvg of all clients.

    ``special``: only the forget clients train. They have ``-eta_u n_u / sum n_u'``, all
    others 0.

    Args:
      clients: the positions of each client's samples.
      forget: ``[K]`` bool, the clients to forget; may be traced.
      mode: ``regular`` or ``special``.
      eta_u: strength; the authors' 20 (regular) or 2 (special) if None. Larger values
        mainly cost recovery rounds.
      remaining: ``[K]`` bool; all others if None. Give it where clients left earlier,
        or a client skips the round.

    Returns:
      ``[K]`` float32; all 0 where no client is forgotten and the mode is special.

    Raises:
      InputError: an unknown mode, a strength that is not finite (not checked where
        traced), or a mask that is not a boolean per client.

    >>> from unlearn_jax.contrib.federated import gather_clients
    >>> clients = gather_clients([0, 1, 1, 1, 2, 2, 2, 2])
    >>> puf_weights(clients, [False, False, True], mode="regular", eta_u=3.0).tolist()
    [0.125, 0.375, -1.5]
    >>> puf_weights(clients, [True, True, False]).tolist()
    [-0.5, -1.5, 0.0]
    """
    if mode not in STRENGTH:
        raise InputError(f"unknown mode {mode!r} of PUF: choose regular or special")
    forget = check_mask(forget, clients)
    if remaining is None:
        remaining = ~forget
    else:
        remaining = check_mask(remaining, clients) & ~forget
    sizes = clients.sizes.astype(jnp.float32)
    forget_sizes = jnp.where(forget, sizes, 0.0)
    retain_sizes = jnp.where(remaining, sizes, 0.0)
    strength = STRENGTH[mode] if eta_u is None else eta_u
    check_finite(eta_u=strength)
    check_shape("eta_u", strength, ())
    if mode == "special":
        total = jnp.maximum(jnp.sum(forget_sizes), 1.0)
        return jnp.where(forget, -strength * forget_sizes / total, 0.0)
    total = jnp.maximum(jnp.sum(retain_sizes + forget_sizes), 1.0)
    return (retain_sizes - strength * forget_sizes) / total


def puf_round(
    key: Array,
    federation: Federation,
    state: ServerState,
    forget: Any,
    *,
    mode: Mode = "special",
    eta_u: float | Array | None = None,
    remaining: Any = None,
) -> ServerState:
    """Run the unlearning round, with the weights of :func:`puf_weights`.

    Args:
      key: of the whole federation.
      federation: the model, the samples, and the training of all clients, the forget
        clients included. To forget a part of a client's samples make a client of it,
        see :func:`.split_client`.
      state: before unlearning.
      forget: ``[K]`` bool, the clients to forget.
      mode: ``regular`` or ``special``, as :func:`puf_weights` takes it.
      eta_u: strength, as :func:`puf_weights` takes it.
      remaining: ``[K]`` bool, as :func:`puf_weights` takes it.

    Returns:
      The state after unlearning; the next round's learning rate is one decay further,
      as after any round.
    """
    weights = puf_weights(
        federation.clients, forget, mode=mode, eta_u=eta_u, remaining=remaining
    )
    return federated_round(key, federation, state, weights)
