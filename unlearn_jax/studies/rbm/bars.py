"""An exact test-bed: a diluted RBM on bars and stripes, with all states enumerated."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unlearn_jax import replicas
from unlearn_jax.checks import check_positive
from unlearn_jax.contrib.testbeds import rbm as machines
from unlearn_jax.contrib.testbeds import rbm_training as training
from unlearn_jax.pipeline import Artifact
from unlearn_jax.studies.common import check_rising, check_seeds
from unlearn_jax.types import Array, InputError

ROWS = {
    "nothing": "original",
    "second": "second retrain (seed floor)",
    "tune-50": "fine-tune, 50 steps",
    "tune-500": "fine-tune, 500 steps",
    "ascent-5": "descent-ascent, 5 steps",
    "ascent-20": "descent-ascent, 20 steps",
    "ascent-60": "descent-ascent, 60 steps",
    "ascent-tune": "60 of these, then fine-tune, 500 steps",
    "gentle-20": "descent-0.1 ascent, 20 steps",
    "gentle-60": "descent-0.1 ascent, 60 steps",
    "gentlest-60": "descent-0.02 ascent, 60 steps",
}

PATHS = {"tune": 0.0, "gentlest": 0.02, "gentle": 0.1, "ascent": 1.0}

DILUTED = {
    "before": "before training",
    "twice": "before, 2T",
    "after": "after training",
    "third": "after, + T/3",
    "full": "after, + T",
}

MASKS = {"random": "random connections", "smallest": "smallest weights"}

SHOWN = ("retrained", "nothing", "tune-500", "ascent-5", "ascent-60")

TOP = 12


@dataclasses.dataclass(frozen=True)
class Config:
    """Bars and stripes of 3x3 pixels, in a machine with 512 visible states."""

    seeds: tuple[int, ...] = tuple(range(10))
    """Seeds of the machines, the patterns to forget and the masks."""
    num_hidden: int = 12
    """Number of hidden units."""
    num_steps: int = 1500
    """Full-batch steps with the exact gradient, in every training run."""
    learning_rate: float = 0.1
    """Learning rate of training and unlearning, with momentum 0.9."""
    num_forget: int = 2
    """Number of patterns to forget, out of 14."""
    fractions: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """Fractions of the connections to remove."""


def fitted(
    config: Config, rbm: machines.Rbm, weights: Array, num_steps: int
) -> machines.Rbm:
    """Return a machine after exact training on the patterns."""
    tx = optax.sgd(config.learning_rate, momentum=0.9)
    return training.fit_exact(
        rbm, machines.bars_and_stripes(3), weights, tx=tx, num_steps=num_steps
    )


def fresh(config: Config, key: Array, weights: Array) -> machines.Rbm:
    """Return a machine before training."""
    means = training.visible_means(machines.bars_and_stripes(3), weights)
    return machines.init_rbm(key, means, config.num_hidden, scale=0.1)


def forget_one_seed(config: Config, key: Array) -> dict[str, Array]:
    """Forget some patterns by every method.

    Returns:
      Arrays by name. ``ROW`` ``[3]``: log-likelihood of retained patterns, relative
      mass of forgotten patterns, and KL from the oracle. ``states-ROW`` ``[512]``:
      log-probabilities of all visible states. ``path-NAME`` ``[500]``: KL from the
      oracle after each step. ``forget`` ``[14]``: mask of the forgotten patterns.
      ``log-z`` ``[2]``: log Z of the original, computed by two different sums.
    """
    patterns = machines.bars_and_stripes(3)
    count = len(patterns)
    key_forget, *keys = jax.random.split(key, 4)
    forget = jnp.argsort(jax.random.uniform(key_forget, (count,))) < config.num_forget
    keep = training.deletion_weights(forget)
    weights = [jnp.full(count, 1 / count), keep, keep]
    starts = replicas.stack(
        [fresh(config, k, w) for k, w in zip(keys, weights, strict=True)]
    )
    train = jax.vmap(lambda rbm, w: fitted(config, rbm, w, config.num_steps))
    trained = train(starts, jnp.stack(weights))
    original, oracle, second = (replicas.unstack(trained, i) for i in range(3))
    machine_of = {"retrained": oracle, "nothing": original, "second": second}
    out: dict[str, Array] = {}
    for name, ascent in PATHS.items():
        path, out[f"path-{name}"] = walk(
            config, original, oracle, training.deletion_weights(forget, ascent=ascent)
        )
        for step in (5, 20, 50, 60, 500):
            if f"{name}-{step}" in ROWS:
                machine_of[f"{name}-{step}"] = replicas.unstack(path, step - 1)
    machine_of["ascent-tune"] = fitted(config, machine_of["ascent-60"], keep, 500)
    for name, rbm in machine_of.items():
        scores = machines.log_likelihood(rbm, patterns)
        retained = jnp.sum(jnp.where(forget, 0.0, scores)) / jnp.sum(~forget)
        mass = (
            jnp.sum(jnp.where(forget, jnp.exp(scores), 0.0)) * count / jnp.sum(forget)
        )
        out[name] = jnp.stack([retained, mass, machines.exact_kl(oracle, rbm)])
        out[f"states-{name}"] = machines.log_distribution(rbm)
    joint = -machines.energy(original, *map(jnp.asarray, grid(9, config.num_hidden)))
    return out | {
        "forget": forget,
        "log-z": jnp.stack([machines.log_partition(original), jax.nn.logsumexp(joint)]),
    }


def grid(num_visible: int, num_hidden: int) -> tuple[Array, Array]:
    """Return all visible and all hidden states, shaped to broadcast to all pairs."""
    return (
        machines.all_states(num_visible)[:, None],
        machines.all_states(num_hidden)[None],
    )


def walk(
    config: Config,
    start: machines.Rbm,
    oracle: machines.Rbm,
    weights: Array,
    num_steps: int = 500,
) -> tuple[machines.Rbm, Array]:
    """Return the machine after every step, and its KL from the oracle."""
    tx = optax.sgd(config.learning_rate, momentum=0.9)

    def step(
        state: training.ExactState, _: None
    ) -> tuple[training.ExactState, tuple[machines.Rbm, Array]]:
        state = training.update_exact(
            state, machines.bars_and_stripes(3), weights, tx=tx
        )
        return state, (state.rbm, machines.exact_kl(oracle, state.rbm))

    return jax.lax.scan(step, training.init_exact(start, tx), None, length=num_steps)[1]


def dilute_one_seed(config: Config, key: Array) -> dict[str, Array]:
    """Return the mean log-likelihood of the patterns under diluted machines.

    Returns:
      ``MASK-STAGE`` ``[fractions]``, the log-likelihood by mask and stage of training;
      ``leak``, the largest weight of a removed connection; ``dense``, the
      log-likelihood of the machine with all connections.
    """
    patterns = machines.bars_and_stripes(3)
    even = jnp.full(len(patterns), 1 / len(patterns))
    key_init, key_mask = jax.random.split(key)
    start = fresh(config, key_init, even)
    dense = fitted(config, start, even, config.num_steps)
    draws = jax.random.uniform(key_mask, dense.weights.shape)
    num_steps = config.num_steps

    def score(rbm: machines.Rbm) -> Array:
        return jnp.mean(machines.log_likelihood(rbm, patterns))

    def diluted(mask: Array) -> tuple[dict[str, Array], Array]:
        after = machines.dilute(dense, mask)
        pair = replicas.stack([machines.dilute(start, mask), after])
        third = jax.vmap(lambda rbm: fitted(config, rbm, even, num_steps // 3))(pair)
        full = jax.vmap(lambda rbm: fitted(config, rbm, even, num_steps))(pair)
        before = replicas.unstack(full, 0)
        values = {
            "twice": fitted(config, before, even, num_steps),
            "before": before,
            "after": after,
            "third": replicas.unstack(third, 1),
            "full": replicas.unstack(full, 1),
        }
        leak = jnp.max(jnp.where(mask[None], 0.0, jnp.abs(full.weights)))
        return {name: score(rbm) for name, rbm in values.items()}, leak

    def at(fraction: Array) -> dict[str, Array]:
        orders = (draws, dense.weights)
        masks = [machines.smallest_mask(order, fraction) for order in orders]
        values, leak = jax.vmap(diluted)(jnp.stack(masks))
        arrays = {"leak": jnp.max(leak)}
        for i, mask in enumerate(MASKS):
            for name in DILUTED:
                arrays[f"{mask}-{name}"] = values[name][i]
        return arrays

    return jax.lax.map(at, jnp.asarray(config.fractions)) | {"dense": score(dense)}


def compute(
    config: Config, one_seed: Callable[[Config, Array], dict[str, Array]], purpose: int
) -> dict[str, np.ndarray]:
    """Compute the arrays of all seeds in parallel."""

    def one(seed: Array) -> dict[str, Array]:
        return one_seed(config, jax.random.fold_in(jax.random.key(seed), purpose))

    arrays = jax.jit(jax.vmap(one))(jnp.asarray(config.seeds))
    return jax.tree.map(np.asarray, arrays)


def make_artifacts(config: Config) -> list[Artifact]:
    """Return the artifacts of deletion and dilution.

    Raises:
      InputError: unusable seeds, fractions or sizes.
    """
    check_seeds(config.seeds)
    check_rising(fractions=config.fractions)
    check_positive(learning_rate=config.learning_rate)
    if config.num_steps < 3:
        raise InputError(f"num_steps must be 3 or more, got {config.num_steps}")
    if not 1 <= config.num_forget <= 13 or not 1 <= config.num_hidden <= 12:
        raise InputError(
            "num_forget must be 1 to 13, out of 14 patterns, and num_hidden 1 to 12,"
            " for the brute-force check"
        )
    settings = dataclasses.asdict(config)
    shared = {
        name: settings[name]
        for name in ("seeds", "num_hidden", "num_steps", "learning_rate")
    }
    deletion = Artifact(
        name="deletion",
        settings=shared | {"num_forget": config.num_forget},
        compute=functools.partial(compute, config, forget_one_seed, 0),
    )
    dilution = Artifact(
        name="dilution",
        settings=shared | {"fractions": config.fractions},
        compute=functools.partial(compute, config, dilute_one_seed, 1),
    )
    return [deletion, dilution]
