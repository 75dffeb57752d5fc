"""Diluted restricted Boltzmann machines, a test-bed for generative unlearning.

    E(v, h) = -v^T (M * W) h - a.v - b.h,    p(v, h) = exp(-E(v, h)) / Z

with v, h binary and M a fixed 0/1 mask. If one side is small, Z can be summed exactly,
which gives the probability of every state. The distance of the unlearned model from the
retrained one then needs no proxy: it is a Kullback-Leibler divergence over all states.
For larger machines :mod:`unlearn_jax.contrib.testbeds.ais` estimates Z. Training is in
:mod:`unlearn_jax.contrib.testbeds.rbm_training`.

Inspired by Diaz-Faloh and Mulet, *Diluting Restricted Boltzmann Machines* (arXiv
2511.00648), of which only the abstract was available. That paper is about sparsity.
Deletion, the small patterns and all numbers here are this library's own and not claims
of the paper.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from numpy.typing import ArrayLike

from unlearn_jax.checks import (
    check_counts,
    check_finite,
    check_fractions,
    check_not_negative,
    check_shape,
)
from unlearn_jax.types import Array, InputError

MAX_ENUMERATED = 22
"""Largest smaller side of an enumerated machine, in units: 4 million states."""
_CHUNK = 12
"""Number of units whose states are summed at a time."""


class Rbm(NamedTuple):
    """A machine of V visible and H hidden units.

    Attributes:
      weights: ``[V, H]`` float32, ``M * W``: exactly 0 wherever the mask is False.
      visible_bias: ``[V]`` float32, ``a``.
      hidden_bias: ``[H]`` float32, ``b``.
      mask: ``[V, H]`` bool, M: True where there is a connection. Training never changes
        the mask.
    """

    weights: Array
    visible_bias: Array
    hidden_bias: Array
    mask: Array


def init_rbm(
    key: Array,
    means: Array,
    num_hidden: int,
    *,
    mask: Array | None = None,
    scale: float = 0.01,
) -> Rbm:
    """Return an untrained machine with given means of the visible units.

    Args:
      key: PRNG key for the weights, which are normal.
      means: ``[V]`` means of the training set, in [0, 1]
        (:func:`unlearn_jax.contrib.testbeds.rbm_training.visible_means`). They are
        clipped to [0.01, 0.99], and their logits become the visible biases.
      num_hidden: H, at least 1.
      mask: ``[V, H]`` bool, connections that exist; None for all.
      scale: standard deviation of the weights. For training it must be above 0: at 0
        all hidden units stay equal.

    Returns:
      The machine.

    Raises:
      InputError: no hidden unit, means outside [0, 1] (not checked if traced), a
        negative scale, or a mask of another shape.

    >>> rbm = init_rbm(jax.random.key(0), jnp.array([0.5, 0.5, 0.9]), 2)
    >>> print(rbm.weights.shape, rbm.visible_bias.round(2))
    (3, 2) [0.  0.  2.2]
    """
    means = jnp.asarray(means)
    check_shape("means", means, (None,))
    check_counts(num_hidden=num_hidden)
    check_not_negative(scale=scale)
    if not isinstance(means, Tracer) and not ((means >= 0) & (means <= 1)).all():
        raise InputError(
            "means must lie in [0, 1]: pass the mean of each visible unit, such as"
            " visible_means returns"
        )
    shape = (means.shape[0], num_hidden)
    rbm = Rbm(
        weights=jnp.asarray(scale * jax.random.normal(key, shape), jnp.float32),
        visible_bias=jax.scipy.special.logit(
            jnp.clip(means.astype(jnp.float32), 0.01, 0.99)
        ),
        hidden_bias=jnp.zeros(num_hidden, jnp.float32),
        mask=jnp.ones(shape, bool),
    )
    return rbm if mask is None else dilute(rbm, mask)


def dilute(rbm: Rbm, mask: Array) -> Rbm:
    """Remove the connections where ``mask`` is False.

    Their weights become 0 and are never trained again.

    Args:
      rbm: an untrained machine (dilution before training) or a trained one (dilution
        after training).
      mask: ``[V, H]`` bool; connections that ``rbm`` already lacks stay removed.

    Returns:
      The diluted machine, with unchanged biases.

    Raises:
      InputError: a mask of another shape or type.
    """
    mask = jnp.asarray(mask)
    if mask.shape != rbm.weights.shape or mask.dtype != bool:
        raise InputError(
            f"the mask is {mask.dtype} {mask.shape}: pass bool {rbm.weights.shape}"
        )
    mask = mask & rbm.mask
    return rbm._replace(weights=jnp.where(mask, rbm.weights, 0.0), mask=mask)


def random_mask(key: Array, shape: tuple[int, int], fraction: float | Array) -> Array:
    """Draw a mask that removes ``round(fraction V H)`` connections at random.

    Each set of that size is equally likely. Masks of growing fractions from the same
    key are nested.

    Args:
      key: PRNG key for the draw.
      shape: ``(V, H)``.
      fraction: fraction of connections to remove, in [0, 1]; may be traced.

    Returns:
      ``[V, H]`` bool, False where a connection is removed.

    Raises:
      InputError: a fraction outside [0, 1] (not checked if traced).
    """
    return _keep_largest(jax.random.uniform(key, shape), fraction)


def smallest_mask(weights: Array, fraction: float | Array) -> Array:
    """Return a mask that removes the ``round(fraction V H)`` smallest weights.

    Args:
      weights: ``[V, H]``, compared by magnitude; connections that are already removed
        have weight 0 and therefore count first.
      fraction: fraction of connections to remove, in [0, 1]; may be traced.

    Returns:
      ``[V, H]`` bool, False where a connection is removed.

    Raises:
      InputError: a fraction outside [0, 1] or weights that are not finite (not checked
        if traced).

    >>> print(smallest_mask(jnp.array([[3.0, -0.1], [0.2, -4.0]]), 0.5))
    [[ True False]
     [False  True]]
    """
    return _keep_largest(jnp.abs(weights), fraction)


def _keep_largest(scores: Array, fraction: float | Array) -> Array:
    check_fractions(fraction=fraction)
    check_finite(weights=scores)
    ranks = jnp.argsort(jnp.argsort(scores.reshape(-1)))
    return (ranks >= jnp.round(jnp.asarray(fraction) * scores.size)).reshape(
        scores.shape
    )


def energy(rbm: Rbm, visible: Array, hidden: Array) -> Array:
    """Return ``E(v, h) [...]`` of states ``visible [..., V]`` and ``hidden [..., H]``.

    Raises:
      InputError: another number of units.
    """
    _check_units("visible", visible, rbm.weights.shape[0])
    _check_units("hidden", hidden, rbm.weights.shape[1])
    return (
        -jnp.sum((visible @ rbm.weights) * hidden, -1)
        - visible @ rbm.visible_bias
        - hidden @ rbm.hidden_bias
    )


def free_energy(rbm: Rbm, visible: Array) -> Array:
    """Return ``F(v) = -log sum_h exp(-E(v, h)) [...]`` of states ``[..., V]``.

    It equals ``-a.v - sum_j log(1 + exp(b_j + (v^T W)_j))``.

    Raises:
      InputError: another number of units, or states outside [0, 1] (not checked if
        traced).
    """
    check_states("visible states", visible)
    return _free_energy(rbm, visible)


def _free_energy(rbm: Rbm, visible: Array) -> Array:
    sums = jnp.sum(jax.nn.softplus(_to_hidden(rbm, visible)), -1)
    return -(visible @ rbm.visible_bias) - sums


def hidden_probs(rbm: Rbm, visible: Array) -> Array:
    """Return ``P(h_j = 1 | v) [..., H]`` for ``[..., V]``; independent given v.

    Raises:
      InputError: another number of units.
    """
    return jax.nn.sigmoid(_to_hidden(rbm, visible))


def visible_probs(rbm: Rbm, hidden: Array) -> Array:
    """Return ``P(v_i = 1 | h) [..., V]`` for ``[..., H]``; independent given h.

    Raises:
      InputError: another number of units.
    """
    return jax.nn.sigmoid(_to_visible(rbm, hidden))


def check_states(name: str, states: ArrayLike) -> None:
    """Raise on states of units outside [0, 1], or NaN; traced ones pass.

    Args:
      name: name of the states in the message.
      states: 0 or 1, or probabilities.

    Raises:
      InputError: such a state.
    """
    if isinstance(states, Tracer):
        return
    states = np.asarray(states)
    if not ((states >= 0) & (states <= 1)).all():
        raise InputError(f"{name} must lie in [0, 1]: pass 0 and 1, or probabilities")


def _check_units(side: str, states: Array, num_units: int) -> None:
    if np.shape(states)[-1:] != (num_units,):
        raise InputError(
            f"the machine has {num_units} {side} units, got states of shape"
            f" {np.shape(states)}"
        )


def _to_hidden(rbm: Rbm, visible: Array) -> Array:
    _check_units("visible", visible, rbm.weights.shape[0])
    drive = visible @ rbm.weights
    return drive + jnp.broadcast_to(rbm.hidden_bias, drive.shape)


def _to_visible(rbm: Rbm, hidden: Array) -> Array:
    _check_units("hidden", hidden, rbm.weights.shape[1])
    drive = hidden @ rbm.weights.T
    return drive + jnp.broadcast_to(rbm.visible_bias, drive.shape)


def gibbs(key: Array, rbm: Rbm, visible: Array, *, num_sweeps: int) -> Array:
    """Sample by alternating Gibbs sweeps, hidden units first.

    Args:
      key: PRNG key for the draws.
      rbm: the machine; the chains converge to its distribution.
      visible: ``[..., V]``, the state of each chain.
      num_sweeps: number of sweeps, each a pair of half-steps (static); 0 returns
        ``visible``.

    Returns:
      ``[..., V]`` float32 new states, 0 or 1.

    Raises:
      InputError: a negative number of sweeps, or another number of units.
    """
    check_counts(0, num_sweeps=num_sweeps)
    _check_units("visible", visible, rbm.weights.shape[0])
    visible = jnp.asarray(visible, jnp.float32)

    def sweep(visible: Array, index: Array) -> tuple[Array, None]:
        key_hidden, key_visible = jax.random.split(jax.random.fold_in(key, index))
        hidden = jax.random.bernoulli(key_hidden, hidden_probs(rbm, visible))
        probs = visible_probs(rbm, hidden.astype(jnp.float32))
        visible = jax.random.bernoulli(key_visible, probs)
        return visible.astype(jnp.float32), None

    return lax.scan(sweep, visible, jnp.arange(num_sweeps))[0]


def independent_states(key: Array, bias: Array, count: int) -> Array:
    """Draw states ``[count, V]``, 0 or 1, of a machine without connections.

    The units of such a machine are independent, with logits ``bias [V]``.

    Raises:
      InputError: a negative count.
    """
    check_counts(0, count=count)
    probs = jnp.broadcast_to(jax.nn.sigmoid(bias), (count, *bias.shape))
    return jax.random.bernoulli(key, probs).astype(jnp.float32)


def all_states(num_units: int) -> Array:
    """Return every state of binary units, ``[2^num_units, num_units]`` float32.

    Row n is n in binary.

    Raises:
      InputError: fewer than 1 or more than ``MAX_ENUMERATED`` units.

    >>> all_states(2).tolist()
    [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    check_counts(num_units=num_units)
    if num_units > MAX_ENUMERATED:
        raise InputError(
            f"{num_units} units cannot be enumerated: choose 1 to {MAX_ENUMERATED}"
        )
    places = jnp.arange(num_units)[None, ::-1]
    bits = jnp.arange(2**num_units)[:, None] >> places & 1
    return bits.astype(jnp.float32)


def bars_and_stripes(size: int) -> Array:
    """Return all images of full rows or of full columns (MacKay 2003, section 43.3).

    There are ``2^(size + 1) - 2`` different images.

    Args:
      size: side of the image, 1 to 10.

    Returns:
      ``[N, size^2]`` float32, in ascending order of an image's pixels read as a binary
      number.

    Raises:
      InputError: a size out of range.

    >>> bars_and_stripes(3).shape
    (14, 9)
    """
    check_counts(size=size)
    if size > 10:
        raise InputError(f"bars and stripes of size {size}: choose 1 to 10")
    lines = np.arange(2**size)[:, None] >> np.arange(size)[::-1] & 1
    images = np.concatenate([np.repeat(lines, size, axis=1), np.tile(lines, (1, size))])
    return jnp.asarray(np.unique(images, axis=0), jnp.float32)


def log_partition(rbm: Rbm) -> Array:
    """Return ``log Z``, exact up to rounding.

    The states of the smaller side are enumerated; the other side is summed in closed
    form.

    Args:
      rbm: machine whose smaller side has at most ``MAX_ENUMERATED`` units.

    Returns:
      ``[]``. It is differentiable: the gradient is the model's expectation of
      ``(v h^T, v, h)``.

    Raises:
      InputError: both sides are too large; use
        :func:`unlearn_jax.contrib.testbeds.ais.estimate_log_partition` instead.

    >>> rbm = init_rbm(jax.random.key(0), jnp.full(30, 0.5), 3, scale=0.0)
    >>> bool(abs(log_partition(rbm) - 33 * jnp.log(2.0)) < 1e-4)
    True
    """
    num_visible, num_hidden = rbm.weights.shape
    smaller = min(num_visible, num_hidden)
    if smaller > MAX_ENUMERATED:
        raise InputError(
            f"{num_visible} visible and {num_hidden} hidden units: log Z is exact only"
            f" where one side has at most {MAX_ENUMERATED}; use estimate_log_partition"
        )
    if num_hidden < num_visible:  # exchanging the sides does not change Z
        rbm = Rbm(rbm.weights.T, rbm.hidden_bias, rbm.visible_bias, rbm.mask.T)
    low = min(smaller, _CHUNK)
    parts = all_states(low)
    if smaller == low:
        return jax.nn.logsumexp(-_free_energy(rbm, parts))

    @jax.checkpoint
    def part(head: Array) -> Array:
        heads = jnp.broadcast_to(head, (parts.shape[0], smaller - low))
        return jax.nn.logsumexp(-_free_energy(rbm, jnp.concatenate([heads, parts], -1)))

    return jax.nn.logsumexp(lax.map(part, all_states(smaller - low)))


def log_likelihood(rbm: Rbm, visible: Array) -> Array:
    """Return the exact ``log p(v) = -F(v) - log Z [...]`` of ``[..., V]``, in nats.

    The machine's smaller side must have at most ``MAX_ENUMERATED`` units.

    Raises:
      InputError: as :func:`free_energy` and :func:`log_partition`.
    """
    return -free_energy(rbm, visible) - log_partition(rbm)


def log_distribution(rbm: Rbm) -> Array:
    """Return ``log p(v) [2^V]`` of every visible state, ordered as :func:`all_states`.

    The machine must have at most ``MAX_ENUMERATED`` visible units.
    """
    return jax.nn.log_softmax(-_free_energy(rbm, all_states(rbm.weights.shape[0])))


def exact_kl(oracle: Rbm, other: Rbm) -> Array:
    """Return ``KL(oracle || other)`` in nats, a sum over every visible state.

    ``sum_v p(v) (log p(v) - log q(v))`` is the exact distance of an unlearned machine
    from the retrained one.

    Args:
      oracle: p, the retrained machine.
      other: q, with the same number of visible units; the number of hidden units may
        differ.

    Returns:
      ``[]``, at least 0 up to rounding; finite, because every machine gives every state
      a positive probability.

    Raises:
      InputError: more than ``MAX_ENUMERATED`` visible units, or different numbers of
        visible units.
    """
    if oracle.weights.shape[0] != other.weights.shape[0]:
        raise InputError(
            f"{oracle.weights.shape[0]} and {other.weights.shape[0]} visible units:"
            " they must agree"
        )
    p = log_distribution(oracle)
    q = log_distribution(other)
    return jnp.sum(jnp.exp(p) * (p - q))
