"""Annealed importance sampling of a restricted Boltzmann machine's log Z.

These estimates are for machines too large for
:func:`unlearn_jax.contrib.testbeds.rbm.log_partition`. Forward annealing estimates log
Z, and reverse annealing estimates likelihoods. Both follow the same path of machines,
from one with independent visible units (``beta = 0``, whose Z is known) to the machine
of interest (``beta = 1``)::

    log p*_beta(v) = ((1 - beta) a_0 + beta a).v
                     + sum_j log(1 + exp(beta (b_j + (v^T W)_j)))
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from unlearn_jax.checks import check_counts, check_finite, check_shape
from unlearn_jax.contrib.testbeds.rbm import (
    Rbm,
    check_states,
    free_energy,
    gibbs,
    independent_states,
)
from unlearn_jax.types import Array, InputError


class AisResult(NamedTuple):
    """Outcome of annealed importance sampling.

    Attributes:
      log_partition: ``[]``, estimate of log Z. The estimate of Z is unbiased, so its
        logarithm tends to be too low. It is far too low if the chains missed a part of
        the distribution; no field of this result can show that.
      standard_error: ``[]``, standard error of ``log_partition``: the standard
        deviation of the weights divided by their mean and by ``sqrt(K)`` (delta
        method). Reliable only if ``effective`` is large.
      effective: ``[]``, effective number of samples ``(sum w)^2 / sum w^2``, 1 to K.
      log_weights: ``[K]``, log-weights of the chains.
      samples: ``[K, V]``, final states of the chains; weighted by ``exp(log_weights)``
        they are samples of the machine.
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
    """Estimate log Z by annealed importance sampling (Neal 2001).

    For these machines see Salakhutdinov and Murray, ICML 2008, equations 15 to 18. A
    chain starts from the independent units. At each temperature its log-weight
    increases by ``log p*_k(v) - log p*_{k-1}(v)``, and then the chain makes its Gibbs
    sweeps. The function can be jitted, and mapped over machines.

    Args:
      key: PRNG key, consumed by the call.
      rbm: the machine of interest.
      base_bias: ``[V]``, a_0; use the logits of the training set's means, which make
        the path short.
      num_chains: K.
      num_betas: number of temperatures after the first, evenly spaced; at least 1.
      num_sweeps: Gibbs sweeps at each temperature.

    Returns:
      The estimate.

    Raises:
      InputError: no chain, temperature or sweep, or biases of another shape.
    """
    base_bias = jnp.asarray(base_bias)
    betas = _betas(rbm, base_bias, num_chains, num_betas)
    check_counts(num_sweeps=num_sweeps)
    key_start, key_walk = jax.random.split(key)
    states = independent_states(key_start, base_bias, num_chains)
    begin = (states, jnp.zeros(num_chains))

    def step(
        carry: tuple[Array, Array], index: Array
    ) -> tuple[tuple[Array, Array], None]:
        visible, gained = carry
        gained += _log_ratio(rbm, base_bias, betas[index], betas[index + 1], visible)
        machine = _between(rbm, base_bias, betas[index + 1])
        key_sweep = jax.random.fold_in(key_walk, index)
        visible = gibbs(key_sweep, machine, visible, num_sweeps=num_sweeps)
        return (visible, gained), None

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
    """Estimate each sample's log-likelihood pessimistically, by RAISE.

    See Burda, Grosse and Salakhutdinov, AISTATS 2015. Let q be the distribution that
    forward annealing with these temperatures generates. Chains that run the path of
    :func:`estimate_log_partition` backward from a sample v give an unbiased estimate of
    ``q(v)``, so the expected logarithm of the estimate is at most ``log q(v)``. That
    approaches ``log p(v)`` as the number of temperatures grows. Forward annealing makes
    log Z too small and hence likelihoods too large, so the truth tends to lie between
    the two estimates.

    Args:
      key: PRNG key, consumed by the call.
      rbm: the machine of interest.
      base_bias: ``[V]``, a_0; use the logits of the training set's means.
      visible: ``[N, V]``, the samples.
      num_chains: number of chains per sample.
      num_betas: number of temperatures, with one sweep each; at least 1.

    Returns:
      ``[N]`` log-likelihoods, in nats.

    Raises:
      InputError: no chain or no temperature, biases or samples of another shape, biases
        that are not finite, or samples outside [0, 1].
    """
    base_bias = jnp.asarray(base_bias)
    visible = jnp.asarray(visible, jnp.float32)
    betas = _betas(rbm, base_bias, num_chains, num_betas)
    check_shape("samples", visible, (None, len(base_bias)))
    check_states("samples", visible)

    def step(
        carry: tuple[Array, Array], index: Array
    ) -> tuple[tuple[Array, Array], None]:
        states, gained = carry
        machine = _between(rbm, base_bias, betas[index + 1])
        states = gibbs(jax.random.fold_in(key, index), machine, states, num_sweeps=1)
        gained += _log_ratio(rbm, base_bias, betas[index], betas[index + 1], states)
        return (states, gained), None

    shape = (visible.shape[0], num_chains, visible.shape[1])
    begin = jnp.broadcast_to(visible[:, None], shape)
    first = -free_energy(rbm, begin) - _log_base(rbm, base_bias)
    carry = (begin, jnp.zeros(shape[:2]))
    (_, gained), _ = lax.scan(step, carry, jnp.arange(num_betas), reverse=True)
    return jax.nn.logsumexp(first - gained, 1) - jnp.log(float(num_chains))


def _betas(rbm: Rbm, base_bias: Array, num_chains: int, num_betas: int) -> Array:
    check_counts(num_chains=num_chains, num_betas=num_betas)
    check_finite(base_bias=base_bias)
    if base_bias.shape != rbm.visible_bias.shape:
        raise InputError(
            f"base_bias has shape {base_bias.shape}: pass one entry per visible unit,"
            f" {rbm.visible_bias.shape}"
        )
    return jnp.linspace(0.0, 1.0, num_betas + 1)


def _between(rbm: Rbm, base_bias: Array, beta: Array) -> Rbm:
    """Return the machine at ``beta``."""
    bias = (1 - beta) * base_bias + beta * rbm.visible_bias
    return Rbm(beta * rbm.weights, bias, beta * rbm.hidden_bias, rbm.mask)


def _log_base(rbm: Rbm, base_bias: Array) -> Array:
    """Return ``log Z`` at ``beta = 0``, where all units are independent."""
    return jnp.sum(jax.nn.softplus(base_bias)) + rbm.hidden_bias.shape[0] * jnp.log(2.0)


def _log_ratio(
    rbm: Rbm, base_bias: Array, low: Array, high: Array, visible: Array
) -> Array:
    """Return ``log p*_high(v) - log p*_low(v)``."""
    before = free_energy(_between(rbm, base_bias, low), visible)
    return before - free_energy(_between(rbm, base_bias, high), visible)
