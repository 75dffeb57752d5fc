"""PUF: federated unlearning by negated pseudo-gradients (arXiv 2504.05822).

Mora, Mazzocca, Montanari, Bellavista. The clients to forget train again, exactly as
usual, and the server subtracts their update instead of adding it::

    w  <-  w + Delta+ - eta_u Delta-

Ordinary FedAvg rounds of the remaining clients repair the damage
(:func:`unlearn_jax.contrib.federated.run_until`). Nothing is stored from earlier rounds
and no public data is needed. Forgetting several clients at once adds terms to the sum.

**This is ascent in disguise.** One local step from ``w`` gives
``d_u = -lr grad L_u(w)``. Adding ``-eta_u d_u`` is then a step of gradient *ascent* on
the forget clients' loss, of size ``eta_u lr``; several local steps are the same to
first order in ``lr``. Weight decay is negated as well, so the step also increases the
norm of the weights. The results of "Ascent Fails to Forget" (arXiv 2509.26427) on
ascent therefore apply here. The clients' data are dependent: if clients are IID, the
retrained model classifies a forgotten client's samples as well as test images. Pushing
the accuracy on them lower moves the model away from the oracle, and the recovery on the
remaining clients has to bring it back. PUF therefore has to be compared with recovery
alone, the baseline "natural".

``jax.jit(puf_round, static_argnames="mode")`` compiles the round once for many calls.
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
"""The authors' ``eta_u`` by mode; for one of ten equal clients both weights are -2."""


def puf_weights(
    clients: Clients,
    forget: Any,
    *,
    mode: Mode = "special",
    eta_u: float | Array | None = None,
    remaining: Any = None,
) -> Array:
    """Return the weights that make a federated round a round of PUF.

    ``regular`` is a normal round in which the forget clients' updates count negatively.
    With ``n`` samples of remaining and forget clients together, a remaining client has
    weight ``n_k / n`` and a forget client ``-eta_u n_u / n``. Without forget clients
    this is FedAvg; with ``eta_u = -1`` it is FedAvg of all clients.

    In ``special`` only the forget clients train. A forget client has weight
    ``-eta_u n_u / sum n_u'``, all others 0.

    Args:
      clients: the positions of each client's samples.
      forget: ``[K]`` bool, the clients to forget; may be traced.
      mode: ``regular`` or ``special``.
      eta_u: strength of unlearning; the authors' 20 (regular) or 2 (special) if None.
        Larger values mainly cost recovery rounds.
      remaining: ``[K]`` bool, mask of the remaining clients; all other clients if None.
        Pass it if clients left earlier or a client skips the round.

    Returns:
      ``[K]`` float32; all 0 if no client is forgotten and the mode is special.

    Raises:
      InputError: an unknown mode, a strength that is not finite (not checked if
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
      key: PRNG key of the whole federation.
      federation: the model, the samples, and the training of all clients, including the
        forget clients. To forget a part of a client's samples, make that part a client
        with :func:`unlearn_jax.contrib.federated.split_client`.
      state: state before unlearning.
      forget: ``[K]`` bool, the clients to forget.
      mode: ``regular`` or ``special``, as in :func:`puf_weights`.
      eta_u: strength of unlearning, as in :func:`puf_weights`.
      remaining: ``[K]`` bool, as in :func:`puf_weights`.

    Returns:
      The state after unlearning. As after any round, the learning rate of the next
      round is decayed by one more step.
    """
    weights = puf_weights(
        federation.clients, forget, mode=mode, eta_u=eta_u, remaining=remaining
    )
    return federated_round(key, federation, state, weights)
