"""Annealed importance sampling of a restricted Boltzmann machine's partition function, and its counterpart in reverse.

For machines too large for :func:`unlearn_jax.testbeds.log_partition`. Both walk along
the same path of machines, from one of independent visible units (``beta = 0``, whose Z
is known) to the one of interest (``beta = 1``)::

    log p*_beta(v) = ((1 - beta) a_0 + beta a).v + sum_j log(1 + exp(beta (b_j + (v^T W)_j)))
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from unlearn_jax.testbeds.rbm import Rbm, free_energy, gibbs, independent_states
from unlearn_jax.types import Array, InputError


class AisResult(NamedTuple):
    """Outcome of annealed importance sampling.

    Attributes:
      log_partition: ``[]``, the estimate of log Z. Z itself is estimated without bias,
        so its logarithm errs to the low side; too low by far where the chains missed a
        part of the distribution, which no number here can show.
      standard_error: ``[]``, of ``log_partition``: standard deviation of the weights
        over their mean and ``sqrt(K)`` (delta method). Trustworthy only while
        ``effective`` is many.
      effective: ``[]``, effective number of samples ``(sum w)^2 / sum w^2``, 1 to K.
      log_weights: ``[K]``, of the chains.
      samples: ``[K, V]``, where they ended; weighted by ``exp(log_weights)`` they are
        samples of the machine.
    """

    log_partition: Array
    standard_error: Array
    effective: Array
    log_weights: Array
    samples: Array


def estimate_log_partition(
    key: Array,
    rbm: Rbm,
    base_bias: Array,
    *,
    num_chains: int = 100,
    num_betas: int = 1000,
    num_sweeps: int = 1,
) -> AisResult:
    """Estimates log Z (Neal 2001; for these machines Salakhutdinov and Murray, ICML 2008, equations 15 to 18).

    A chain starts from the independent units, and at each temperature gains
    ``log p*_k(v) - log p*_{k-1}(v)`` before it makes its Gibbs sweeps there.

    Args:
      key: consumed.
      rbm: of interest.
      base_bias: ``[V]``, a_0: the logits of the training set's means, which make the
        path short.
      num_chains: K.
      num_betas: temperatures after the first, evenly spaced; at least 1.
      num_sweeps: Gibbs sweeps at each.

    Returns:
      The estimate. May be jitted, and mapped over machines.

    Raises:
      InputError: no chain or no temperature, or biases of another shape.
    """
    betas = _betas(rbm, base_bias, num_chains, num_betas)
    key_start, key_walk = jax.random.split(key)
    begin = (
        independent_states(key_start, base_bias, num_chains),
        jnp.zeros(num_chains),
    )

    def step(
        carry: tuple[Array, Array], index: Array
    ) -> tuple[tuple[Array, Array], None]:
        visible, gained = carry
        gained += _log_ratio(rbm, base_bias, betas[index], betas[index + 1], visible)
        here = _between(rbm, base_bias, betas[index + 1])
        return (
            gibbs(
                jax.random.fold_in(key_walk, index),
                here,
                visible,
                num_sweeps=num_sweeps,
            ),
            gained,
        ), None

    (samples, gained), _ = lax.scan(step, begin, jnp.arange(num_betas))
    log_weights = gained + _log_base(rbm, base_bias)
    scaled = jnp.exp(log_weights - jnp.max(log_weights))
    mean = jnp.mean(scaled)
    return AisResult(
        log_partition=jnp.log(mean) + jnp.max(log_weights),
        standard_error=(
            jnp.std(scaled, ddof=1) / (mean * num_chains**0.5)
            if num_chains > 1
            else jnp.full((), jnp.nan)
        ),
        effective=jnp.sum(scaled) ** 2 / jnp.sum(scaled**2),
        log_weights=log_weights,
        samples=samples,
    )


def bound_log_likelihood(
    key: Array,
    rbm: Rbm,
    base_bias: Array,
    visible: Array,
    *,
    num_chains: int = 10,
    num_betas: int = 1000,
) -> Array:
    """A pessimistic estimate of each sample's log-likelihood (RAISE; Burda, Grosse and Salakhutdinov, AISTATS 2015).

    Chains that run the path of :func:`estimate_log_partition` backwards from a sample
    estimate, without bias, its probability under what forward annealing with these
    temperatures would generate; the expectation of their logarithm is at most the log
    of that, which comes near ``log p(v)`` as the temperatures grow. Forward annealing
    makes log Z too small and hence likelihoods too large, so the truth tends to lie
    between the two.

    Args:
      key: consumed.
      rbm: of interest.
      base_bias: ``[V]``, as there.
      visible: ``[N, V]``, samples to judge.
      num_chains: per sample.
      num_betas: as there, with one sweep each.

    Returns:
      ``[N]``, in nats.

    Raises:
      InputError: as there, or samples of another shape.
    """
    betas = _betas(rbm, base_bias, num_chains, num_betas)
    if visible.ndim != 2 or visible.shape[1:] != base_bias.shape:
        raise InputError(f"samples {visible.shape}: pass [N, {len(base_bias)}]")

    def step(
        carry: tuple[Array, Array], index: Array
    ) -> tuple[tuple[Array, Array], None]:
        states, gained = carry
        here = _between(rbm, base_bias, betas[index + 1])
        states = gibbs(jax.random.fold_in(key, index), here, states, num_sweeps=1)
        return (
            states,
            gained + _log_ratio(rbm, base_bias, betas[index], betas[index + 1], states),
        ), None

    begin = jnp.broadcast_to(
        visible[:, None], (visible.shape[0], num_chains, visible.shape[1])
    )
    first = -free_energy(rbm, begin) - _log_base(rbm, base_bias)
    (_, gained), _ = lax.scan(
        step, (begin, jnp.zeros(begin.shape[:2])), jnp.arange(num_betas), reverse=True
    )
    return jax.nn.logsumexp(first - gained, 1) - jnp.log(float(num_chains))


def _betas(rbm: Rbm, base_bias: Array, num_chains: int, num_betas: int) -> Array:
    if num_chains < 1 or num_betas < 1:
        raise InputError(
            f"num_chains ({num_chains}) and num_betas ({num_betas}) must be at least 1"
        )
    if base_bias.shape != rbm.visible_bias.shape:
        raise InputError(
            f"base_bias {base_bias.shape} must have one entry per visible unit"
            f" {rbm.visible_bias.shape}"
        )
    return jnp.linspace(0.0, 1.0, num_betas + 1)


def _between(rbm: Rbm, base_bias: Array, beta: Array) -> Rbm:
    """The machine at ``beta``."""
    bias = (1 - beta) * base_bias + beta * rbm.visible_bias
    return Rbm(beta * rbm.weights, bias, beta * rbm.hidden_bias, rbm.mask)


def _log_base(rbm: Rbm, base_bias: Array) -> Array:
    """``log Z`` at ``beta = 0``: independent visible units, and hidden units that are 0 or 1 alike."""
    return jnp.sum(jax.nn.softplus(base_bias)) + rbm.hidden_bias.shape[0] * jnp.log(2.0)


def _log_ratio(
    rbm: Rbm, base_bias: Array, low: Array, high: Array, visible: Array
) -> Array:
    """``log p*_high(v) - log p*_low(v)``."""
    return free_energy(_between(rbm, base_bias, low), visible) - free_energy(
        _between(rbm, base_bias, high), visible
    )
