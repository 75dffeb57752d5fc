"""MSG, masked small gradients: an entry of the NeurIPS 2023 unlearning challenge (Deep Unlearn, arXiv 2410.01276)."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike

from unlearn_jax.losses import cross_entropy
from unlearn_jax.methods.base import FineTuning, check_numbers, finetune_on, forward_fn
from unlearn_jax.train import epoch_order, fetch_from, steps_per_epoch
from unlearn_jax.types import (
    Array,
    InputError,
    ModelState,
    Params,
    Problem,
    UnlearnFn,
    UnlearnInfo,
    Variables,
)

Kernels = Literal["convolutions", "all"]


def masked_small_gradients(
    *,
    init_rate: float | Array = 0.3,
    kept_gradient: float | Array = 0.1,
    kernels: Kernels = "convolutions",
    num_epochs: int = 5,
    batch_size: int = 64,
    learning_rate: float | Array = 1e-3,
    **tuning: Any,
) -> UnlearnFn:
    """Redraws the kernel entries in which D_R and D_F pull least apart, then fine-tunes on D_R, slowly elsewhere.

    1. With the original's parameters,
       ``G = sum_b grad CE(b of S) - sum_b grad CE(b of D_F)`` over batches ``b``, where
       S are as many retained samples as there are batches of D_F to fill, drawn by the
       key.
    2. In every kernel, the ``round(init_rate size)`` entries with the smallest ``|G|``
       are drawn anew from ``N(0, 2 / fan_out)`` (Kaiming); the others stay.
    3. SGD on the mean cross-entropy over D_R. The gradient of the entries that stayed
       is multiplied by ``kept_gradient``, before momentum and weight decay (which is
       not scaled); other leaves learn at full rate. The learning rate rises and falls
       by epoch: with ``A = floor((E + 1) / 2)``, times ``s / A`` in epoch ``s <= A``
       and ``(E + 1 - s) / (E + 1 - A)`` after it.

    Reads D_R and D_F. A convolution kernel is a leaf with four axes
    ``[height, width, in, out]``; a model without any is merely fine-tuned, unless
    ``kernels="all"``.

    Source: the released code of Deep Unlearn, which ranks it among the two best of 18
    methods and took it from the challenge's second place; the challenge's own notebooks
    and the body of the paper were not available, so paper and code could not be
    compared. As in the code, the gradients of step 1 are taken in training mode and
    move the BatchNorm statistics; with ``batch_stats="freeze"`` both phases run in
    evaluation mode. Step 3 alone is augmented, if at all (the code does not). Assumed:
    batches of one size for S and D_F, which the code has at its default of 64 only. It
    searches ``init_rate`` in [0, 1], learning rate and weight decay in [1e-5, 1e-1],
    batches of 64, 128 and 256, and 1 to 37 epochs (a fifth of the training's); selected
    values are not published.

    Args:
      init_rate: share of each kernel that is redrawn, in [0, 1].
      kept_gradient: factor of the gradient of kernel entries that are not redrawn, not
        negative.
      kernels: ``convolutions``, as the code, or ``all`` leaves with two or more axes,
        the output axis last.
      num_epochs: passes over D_R.
      batch_size: samples per step, and per batch of step 1 (at most all forget samples
        there).
      learning_rate: at its peak.
      **tuning: further fields of :class:`unlearn_jax.methods.base.FineTuning`; its own
        decay multiplies the schedule.

    Raises:
      InputError: unusable knobs.
    """
    check_numbers(low=0, high=1, init_rate=init_rate)
    check_numbers(low=0, kept_gradient=kept_gradient)
    if kernels not in ("convolutions", "all"):
        raise InputError(f"unknown kernels {kernels!r}: choose convolutions or all")
    knobs = FineTuning(
        num_epochs=num_epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        **tuning,
    )

    def run(key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        key_gradient, key_draw, key_tune = jax.random.split(key, 3)
        difference, state, cost = _difference(key_gradient, problem, knobs)
        redrawn = jax.tree.map(
            lambda leaf: _smallest(leaf, init_rate, _is_kernel(leaf, kernels)),
            difference,
        )
        params = _redraw(key_draw, problem.variables.params, redrawn)
        factor = jax.tree.map(
            lambda chosen: jnp.where(
                chosen, 1.0, kept_gradient if _is_kernel(chosen, kernels) else 1.0
            ),
            redrawn,
        )
        slow = optax.stateless(
            lambda updates, _: jax.tree.map(jnp.multiply, updates, factor)
        )
        num_batches = steps_per_epoch(problem.num_retain, knobs.batch_size)
        rate = rise_and_fall(knobs.num_epochs, num_batches)
        variables, info = finetune_on(
            key_tune,
            dataclasses.replace(problem, variables=Variables(params, state)),
            knobs,
            data=problem.train,
            member=problem.retain,
            num_samples=problem.num_retain,
            fetch=fetch_from(knobs.augment),
            wrap_tx=lambda tx: optax.chain(slow, tx, optax.scale_by_schedule(rate)),
        )
        return variables, info._replace(num_gradients=info.num_gradients + cost)

    return run


def rise_and_fall(num_epochs: int, num_batches: int) -> optax.Schedule:
    """The factor of the learning rate, constant within an epoch of ``num_batches`` steps; 1 at its peak."""
    peak = (num_epochs + 1) // 2

    def factor(step: ArrayLike) -> Array:
        epoch = 1 + jnp.asarray(step) // num_batches
        return jnp.where(
            epoch <= peak,
            epoch / peak,
            (num_epochs + 1 - epoch) / (num_epochs + 1 - peak),
        )

    return factor


def _difference(
    key: Array, problem: Problem, knobs: FineTuning
) -> tuple[Params, ModelState, int]:
    """``G`` of step 1, the model state after it, and how many gradients it took."""
    size = min(knobs.batch_size, problem.num_forget)
    num_batches = steps_per_epoch(problem.num_forget, size)
    fetch, forward = fetch_from(), forward_fn(problem.model, knobs)
    key_retain, key_forget, key_steps = jax.random.split(key, 3)
    order = jnp.concatenate(
        [
            epoch_order(key_retain, problem.retain, num_batches, size),
            epoch_order(key_forget, problem.forget, num_batches, size),
        ]
    )
    sign = jnp.repeat(jnp.array([1.0, -1.0]), num_batches)

    def step(
        carry: tuple[Params, ModelState], item: tuple[Array, ...]
    ) -> tuple[tuple[Params, ModelState], None]:
        total, state = carry
        index, sign, key_step = item
        key_fetch, key_forward = jax.random.split(key_step)
        batch = fetch(problem.train, index, key_fetch)

        def loss_of(params: Params) -> tuple[Array, ModelState]:
            logits, new = forward(Variables(params, state), batch.images, key_forward)
            return sign * jnp.mean(cross_entropy(logits, batch.labels)), new

        gradient, state = jax.grad(loss_of, has_aux=True)(problem.variables.params)
        return (jax.tree.map(jnp.add, total, gradient), state), None

    start = (
        jax.tree.map(jnp.zeros_like, problem.variables.params),
        problem.variables.state,
    )
    (total, state), _ = lax.scan(
        step, start, (order, sign, jax.random.split(key_steps, len(order)))
    )
    return total, state, order.size


def _is_kernel(leaf: Array, kernels: Kernels) -> bool:
    return leaf.ndim >= 2 if kernels == "all" else leaf.ndim == 4


def _smallest(leaf: Array, rate: float | Array, is_kernel: bool) -> Array:
    """The ``round(rate size)`` entries of smallest magnitude, as a mask; none where the leaf is no kernel."""
    if not is_kernel:
        return jnp.zeros(leaf.shape, bool)
    order = jnp.argsort(jnp.abs(leaf), axis=None)
    chosen = jnp.arange(leaf.size) < jnp.round(rate * leaf.size)
    return jnp.zeros(leaf.size, bool).at[order].set(chosen).reshape(leaf.shape)


def _redraw(key: Array, params: Params, mask: Params) -> Params:
    """Kaiming-normal values for ReLU, fan out, where the mask says so."""
    leaves, tree = jax.tree.flatten(params)

    def draw(key: Array, leaf: Array, chosen: Array) -> Array:
        if leaf.ndim < 2:
            return leaf
        deviation = (2 * leaf.shape[-2] / leaf.size) ** 0.5
        return jnp.where(
            chosen, deviation * jax.random.normal(key, leaf.shape, leaf.dtype), leaf
        )

    drawn = map(draw, jax.random.split(key, len(leaves)), leaves, jax.tree.leaves(mask))
    return jax.tree.unflatten(tree, list(drawn))
