"""Training of restricted Boltzmann machines, and deletion by training.

All functions maximize a weighted log-likelihood ``sum_n w_n log p(v_n)``, whose
gradient is::

    sum_n w_n <v h^T>_{h | v_n}  -  (sum_n w_n) <v h^T>_model

and the same for v and h. Equal weights are ordinary training. A sample of weight 0 is
left out and never read, and a negative weight is ascent on the sample's loss, see
:func:`deletion_weights`. The model's expectation is exact (:func:`update_exact`), or
estimated by k sweeps of chains that persist from step to step (:func:`update_pcd`;
Tieleman, ICML 2008). ``tx`` is any optax transformation; it receives the gradient of
the *negative* objective.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.core import Tracer

from unlearn_jax.checks import (
    check_counts,
    check_finite,
    check_not_negative,
    check_shape,
)
from unlearn_jax.contrib.testbeds.rbm import (
    Rbm,
    check_states,
    gibbs,
    hidden_probs,
    independent_states,
    log_partition,
)
from unlearn_jax.types import Array, InputError


class Moments(NamedTuple):
    """Expectations in a machine's gradient, one per trained leaf.

    Attributes:
      pairs: ``[V, H]`` expectation of ``v h^T``.
      visible: ``[V]`` expectation of v.
      hidden: ``[H]`` expectation of h.
    """

    pairs: Array
    visible: Array
    hidden: Array


class ExactState(NamedTuple):
    """State of exact training between steps.

    Attributes:
      rbm: the machine.
      opt_state: state of the optimizer.
    """

    rbm: Rbm
    opt_state: optax.OptState


class PcdState(NamedTuple):
    """State of training by persistent chains between steps.

    Attributes:
      rbm: the machine.
      opt_state: state of the optimizer.
      chains: ``[K, V]`` 0 or 1, approximate samples of the current machine.
    """

    rbm: Rbm
    opt_state: optax.OptState
    chains: Array


def deletion_weights(forget: Array, *, ascent: float | Array = 0.0) -> Array:
    """Return sample weights for the deletion of a forget set.

    The weight is ``1 / R`` on each of the R retained samples and ``-ascent / F`` on
    each of the F forgotten ones. With ``ascent = 0`` training with these weights is
    retraining (from a fresh machine) or fine-tuning (from the trained one); above 0 it
    is descent-ascent. At ``ascent = 1`` the weights sum to 0 and the model's
    expectation drops out of the gradient: the objective has no maximum, and the machine
    moves away from both sets at a constant rate.

    Args:
      forget: ``[N]`` bool, at least one True and one False.
      ascent: weight of the forget set relative to the retain set, at least 0; may be
        traced.

    Returns:
      ``[N]`` float32 weights.

    Raises:
      InputError: a forget set that is not a mask, a mask of all or of no samples, or a
        negative ``ascent`` (the last two are not checked if traced).

    >>> deletion_weights(jnp.array([True, False, False]), ascent=1.0).tolist()
    [-1.0, 0.5, 0.5]
    """
    forget = jnp.asarray(forget)
    if forget.ndim != 1 or forget.dtype != bool:
        raise InputError(
            f"the forget set is {forget.dtype} {forget.shape}: pass a bool mask [N]"
        )
    if not isinstance(forget, Tracer) and not 0 < int(np.asarray(forget).sum()) < len(
        forget
    ):
        raise InputError(
            f"{int(np.asarray(forget).sum())} of {len(forget)} samples are forgotten:"
            " forget at least one, and retain at least one"
        )
    check_not_negative(ascent=ascent)
    return jnp.where(forget, -ascent / jnp.sum(forget), 1.0 / jnp.sum(~forget))


def visible_means(visible: Array, weights: Array) -> Array:
    """Return the mean ``[V]`` of samples ``[N, V]`` with positive weights ``[N]``.

    The other samples are not read.

    Raises:
      InputError: shapes that do not fit, weights that are not finite, or (unless
        traced) no positive weight or samples outside [0, 1].
    """
    visible = jnp.asarray(visible)
    weights = jnp.asarray(weights)
    check_shape("weights", weights, (None,))
    check_shape("samples", visible, (len(weights), None))
    check_finite(weights=weights)
    if not isinstance(weights, Tracer) and not (np.asarray(weights) > 0).any():
        raise InputError("no sample has a positive weight: there is no mean")
    weights = jnp.maximum(weights, 0.0)
    return weights @ _read(visible, weights) / jnp.sum(weights)


def moments(rbm: Rbm, visible: Array, weights: Array) -> Moments:
    """Return the weighted sum of the expectations given each sample.

    The hidden units are averaged, not drawn.

    Args:
      rbm: the machine.
      visible: ``[N, V]`` samples; those of weight 0 are not read and may be NaN.
      weights: ``[N]`` w_n, with any sign and any sum.

    Returns:
      The moments.

    Raises:
      InputError: shapes that do not fit, weights that are not finite, or (unless
        traced) samples outside [0, 1].
    """
    check_finite(weights=weights)
    check_shape("weights", weights, (None,))
    check_shape("samples", visible, (len(weights), rbm.weights.shape[0]))
    visible = _read(visible, weights)
    weights = jnp.asarray(weights)
    hidden = hidden_probs(rbm, visible)
    weighted = weights[:, None] * visible
    return Moments(weighted.T @ hidden, jnp.sum(weighted, 0), weights @ hidden)


def _read(visible: Array, weights: Array) -> Array:
    """Return samples, 0 in place of those of weight 0."""
    _check_samples(visible, weights)
    read = jnp.asarray(weights)[:, None] != 0
    return jnp.where(read, jnp.asarray(visible), 0.0)


def _check_samples(visible: Array, weights: Array) -> None:
    if not isinstance(visible, Tracer) and not isinstance(weights, Tracer):
        check_states("samples", np.asarray(visible)[np.asarray(weights) != 0])


def model_moments(rbm: Rbm) -> Moments:
    """Return the exact expectations under the machine itself.

    They are the gradient of :func:`log_partition` and need a machine small enough for
    that function.
    """
    return jax.grad(lambda leaves: log_partition(_with(rbm, leaves)))(_leaves(rbm))


def _leaves(rbm: Rbm) -> Moments:
    """Return the trained leaves, with the structure of their gradient."""
    return Moments(rbm.weights, rbm.visible_bias, rbm.hidden_bias)


def _with(rbm: Rbm, leaves: Moments) -> Rbm:
    """Return the machine with other leaves, 0 outside the mask."""
    return Rbm(
        jnp.where(rbm.mask, leaves.pairs, 0.0), leaves.visible, leaves.hidden, rbm.mask
    )


def likelihood_gradient(
    rbm: Rbm, data: Moments, model: Moments, total: float | Array = 1.0
) -> Moments:
    """Return the gradient of the weighted log-likelihood, ``data - total * model``.

    The gradient is 0 where the mask has no connection.

    Args:
      rbm: the machine, for its mask.
      data: :func:`moments` of the samples.
      model: expectations under the machine, exact or from chains.
      total: ``[]``, sum of the samples' weights.

    Returns:
      The gradient with respect to ``(weights, visible_bias, hidden_bias)``.
    """
    gradient = jax.tree.map(lambda d, m: d - total * m, data, model)
    return gradient._replace(pairs=jnp.where(rbm.mask, gradient.pairs, 0.0))


def _ascend(
    rbm: Rbm,
    opt_state: optax.OptState,
    gradient: Moments,
    tx: optax.GradientTransformation,
) -> tuple[Rbm, optax.OptState]:
    """Take one step of the optimizer up the gradient."""
    leaves = _leaves(rbm)
    descent = jax.tree.map(lambda g, leaf: -g.astype(leaf.dtype), gradient, leaves)
    updates, opt_state = tx.update(descent, opt_state, leaves)
    return _with(rbm, jax.tree.map(jnp.add, leaves, updates)), opt_state


def init_exact(rbm: Rbm, tx: optax.GradientTransformation) -> ExactState:
    """Return the state before the first exact step."""
    return ExactState(rbm, tx.init(_leaves(rbm)))


def update_exact(
    state: ExactState,
    visible: Array,
    weights: Array,
    *,
    tx: optax.GradientTransformation,
) -> ExactState:
    """Take one step along the exact gradient of ``sum_n w_n log p(v_n)``.

    Args:
      state: state after the previous step; one side of its machine must be small enough
        for :func:`log_partition`.
      visible: ``[N, V]`` samples.
      weights: ``[N]``, such as :func:`deletion_weights`.
      tx: the optimizer that made the state.

    Returns:
      The next state.
    """
    rbm = state.rbm
    gradient = likelihood_gradient(
        rbm, moments(rbm, visible, weights), model_moments(rbm), jnp.sum(weights)
    )
    return ExactState(*_ascend(rbm, state.opt_state, gradient, tx))


def fit_exact(
    rbm: Rbm,
    visible: Array,
    weights: Array,
    *,
    tx: optax.GradientTransformation,
    num_steps: int,
) -> Rbm:
    """Run ``num_steps`` of :func:`update_exact` with a fresh optimizer, as one scan.

    The result is deterministic.

    Args:
      rbm: the initial machine.
      visible: ``[N, V]`` samples.
      weights: ``[N]``, such as :func:`deletion_weights`.
      tx: the optimizer.
      num_steps: number of steps (static).

    Returns:
      The trained machine.

    Raises:
      InputError: a negative number of steps, and as :func:`moments`.
    """
    check_counts(0, num_steps=num_steps)

    def step(state: ExactState, _: None) -> tuple[ExactState, None]:
        return update_exact(state, visible, weights, tx=tx), None

    return lax.scan(step, init_exact(rbm, tx), None, length=num_steps)[0].rbm


def init_pcd(
    key: Array, rbm: Rbm, tx: optax.GradientTransformation, *, num_chains: int
) -> PcdState:
    """Return the state before the first step of training by persistent chains.

    The chains are drawn from the visible biases alone, as if the weights were 0.

    Args:
      key: PRNG key for the chains.
      rbm: the initial machine.
      tx: the optimizer.
      num_chains: K, at least 1. The noise of a step is proportional to ``1 / sqrt(K)``.

    Returns:
      The state. To continue from a trained state ``old``, keep its chains:
      ``init_pcd(...)._replace(chains=old.chains)``.

    Raises:
      InputError: no chain.
    """
    check_counts(num_chains=num_chains)
    return PcdState(
        rbm,
        tx.init(_leaves(rbm)),
        independent_states(key, rbm.visible_bias, num_chains),
    )


def pcd_gradient(
    key: Array,
    rbm: Rbm,
    chains: Array,
    visible: Array,
    weights: Array,
    *,
    num_sweeps: int,
) -> tuple[Moments, Array]:
    """Return the gradient with the model's expectation estimated from chains.

    The chains first make ``num_sweeps`` sweeps.

    Args:
      key: PRNG key for the sweeps.
      rbm: the machine.
      chains: ``[K, V]``, states of the chains.
      visible: ``[N, V]`` samples.
      weights: ``[N]``, such as :func:`deletion_weights`.
      num_sweeps: k of PCD-k, at least 1.

    Returns:
      The gradient, which tends to the exact gradient as the numbers of chains and
      sweeps grow, and the new states of the chains.

    Raises:
      InputError: no sweep.
    """
    check_counts(num_sweeps=num_sweeps)
    chains = gibbs(key, rbm, chains, num_sweeps=num_sweeps)
    even = jnp.full(chains.shape[0], 1.0 / chains.shape[0])
    data = moments(rbm, visible, weights)
    model = moments(rbm, chains, even)
    return likelihood_gradient(rbm, data, model, jnp.sum(weights)), chains


def update_pcd(
    key: Array,
    state: PcdState,
    visible: Array,
    weights: Array,
    *,
    tx: optax.GradientTransformation,
    num_sweeps: int,
) -> PcdState:
    """Take one step along :func:`pcd_gradient`.

    Args:
      key: PRNG key for the sweeps.
      state: state after the previous step.
      visible: ``[N, V]`` samples.
      weights: ``[N]``, such as :func:`deletion_weights`.
      tx: the optimizer that made the state.
      num_sweeps: k of PCD-k, at least 1.

    Returns:
      The next state.
    """
    gradient, chains = pcd_gradient(
        key, state.rbm, state.chains, visible, weights, num_sweeps=num_sweeps
    )
    return PcdState(*_ascend(state.rbm, state.opt_state, gradient, tx), chains)


def fit_pcd(
    key: Array,
    state: PcdState,
    visible: Array,
    weights: Array,
    *,
    tx: optax.GradientTransformation,
    num_steps: int,
    num_sweeps: int,
    batch_size: int,
) -> PcdState:
    """Run ``num_steps`` of :func:`update_pcd` on random batches, as one scan.

    The samples of a batch are drawn with replacement, with probability
    ``|w_n| / sum |w|``, and get the weight ``sign(w_n) sum |w| / B``. The gradient is
    therefore unbiased for weights of any sign, and a sample of weight 0 is never read.

    Args:
      key: PRNG key for the run.
      state: state from :func:`init_pcd` or from an earlier run.
      visible: ``[N, V]`` samples.
      weights: ``[N]``, not all 0.
      tx: the optimizer that made the state.
      num_steps: number of steps (static).
      num_sweeps: k of PCD-k.
      batch_size: B.

    Returns:
      The state after the steps.

    Raises:
      InputError: an empty batch, a negative number of steps, shapes that do not fit, or
        samples or weights as :func:`moments`, or weights that are all 0 (not checked if
        traced).
    """
    check_counts(batch_size=batch_size, num_sweeps=num_sweeps)
    check_counts(0, num_steps=num_steps)
    visible = jnp.asarray(visible)
    weights = jnp.asarray(weights)
    check_shape("weights", weights, (None,))
    check_shape("samples", visible, (len(weights), state.rbm.weights.shape[0]))
    check_finite(weights=weights)
    if not isinstance(weights, Tracer) and not np.asarray(weights).any():
        raise InputError(
            "the weights of all samples are 0: give at least one sample a weight"
        )
    _check_samples(visible, weights)
    total = jnp.sum(jnp.abs(weights))

    def step(state: PcdState, index: Array) -> tuple[PcdState, None]:
        key_batch, key_chains = jax.random.split(jax.random.fold_in(key, index))
        drawn = jax.random.choice(
            key_batch, weights.shape[0], (batch_size,), p=jnp.abs(weights) / total
        )
        signed = jnp.sign(weights[drawn]) * total / batch_size
        batch = visible[drawn]
        state = update_pcd(
            key_chains, state, batch, signed, tx=tx, num_sweeps=num_sweeps
        )
        return state, None

    return lax.scan(step, state, jnp.arange(num_steps))[0]
