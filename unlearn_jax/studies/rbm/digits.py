"""Diluted RBMs on digits: sparsity before and after training, forgetting a digit."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unlearn_jax import data, models, replicas, train
from unlearn_jax.audit import softmax
from unlearn_jax.contrib.testbeds import ais as annealing
from unlearn_jax.contrib.testbeds import rbm as machines
from unlearn_jax.contrib.testbeds import rbm_training as training
from unlearn_jax.pipeline import Part
from unlearn_jax.types import Array, Dataset, InputError

Arrays = Mapping[str, np.ndarray]


DILUTED = {
    "before": "before training",
    "twice": "before, 2T",
    "after": "after training",
    "full": "after, + T",
}


MASKS = {"random": "random connections", "smallest": "smallest weights"}


ROWS = {
    "oracle": "retrained (oracle)",
    "nothing": "do nothing",
    "second": "second retrain (seed floor)",
    "tune-100": "fine-tune, 100 steps",
    "tune-1000": "fine-tune, 1000 steps",
    "ascent-20": "descent-ascent, 20 steps",
    "ascent-100": "descent-ascent, 100 steps",
    "ascent-tune": "100 of these, then fine-tune, 1000 steps",
    "gentle-100": "descent-0.1 ascent, 100 steps",
    "gentlest-1000": "descent-0.02 ascent, 1000 steps",
}


METHODS = {  # row: (from, weight of ascent, steps), in the order of computing
    "tune-100": ("nothing", 0.0, 100),
    "tune-1000": ("nothing", 0.0, 1000),
    "ascent-20": ("nothing", 1.0, 20),
    "ascent-100": ("nothing", 1.0, 100),
    "gentle-100": ("nothing", 0.1, 100),
    "gentlest-1000": ("nothing", 0.02, 1000),
    "ascent-tune": ("ascent-100", 0.0, 1000),
}


SHOWN = ("nothing", "oracle", "tune-1000", "ascent-20", "ascent-100", "gentle-100")


PICTURES = 16


@dataclasses.dataclass(frozen=True)
class Config:
    """Digits of 8x8 black or white pixels, in a machine that is too large to be written out."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds: of the split, the machines, and the masks."""
    classes: tuple[int, ...] = (1, 3, 8)
    """Digits to forget, each alone, with every seed."""
    shares: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
    """Shares of connections removed."""
    num_train: int = 1200
    """Training images, of 1797; the others are for testing."""
    num_hidden: int = 100
    """Hidden units."""
    num_steps: int = 2000
    """Steps of every training (100 images and 100 persistent chains each)."""
    num_sweeps: int = 2
    """Gibbs sweeps per step, k of PCD-k."""
    learning_rate: float = 0.3
    """At the first step of training or unlearning; falls linearly to 0."""
    num_chains: int = 200
    """Chains of annealed importance sampling, and samples to look at."""
    num_betas: int = 1000
    """Its temperatures."""


@functools.lru_cache(maxsize=8)
def load(num_train: int, seed: int) -> dict[str, np.ndarray]:
    """One seed's split, binarised at half of the greatest gray level."""
    splits = data.load_digits(num_train=num_train, seed=seed)
    bits = lambda images: (np.asarray(images).reshape(len(images), 64) > 127).astype(
        np.float32
    )
    return {
        "train": bits(splits.train.images),
        "train_labels": np.asarray(splits.train.labels),
        "test": bits(splits.test.images),
        "test_labels": np.asarray(splits.test.labels),
    }


@functools.cache
def trainer(num_steps: int, num_sweeps: int, learning_rate: float) -> Any:
    """``((key, rbm, weights, chains), images) -> (rbm, chains)`` of one machine; NaN chains: draw new ones."""

    def run(item: tuple, images: Array) -> tuple[machines.Rbm, Array]:
        key, rbm, weights, chains = item
        key_init, key_fit = jax.random.split(key)
        tx = optax.sgd(
            optax.linear_schedule(learning_rate, 0.0, num_steps), momentum=0.5
        )
        state = training.init_pcd(key_init, rbm, tx, num_chains=len(chains))
        state = state._replace(
            chains=jnp.where(jnp.isnan(chains), state.chains, chains)
        )
        knobs = {"num_steps": num_steps, "num_sweeps": num_sweeps, "batch_size": 100}
        state = training.fit_pcd(key_fit, state, images, weights, tx=tx, **knobs)
        return state.rbm, state.chains

    return run


@functools.cache
def scorer(num_chains: int, num_betas: int) -> Any:
    """``((key, rbm), (base bias, test images)) -> AIS and the log-likelihood of each test image``."""

    def run(
        item: tuple[Array, machines.Rbm], shared: tuple[Array, Array]
    ) -> dict[str, Array]:
        (key, rbm), (base, images) = item, shared
        result = annealing.estimate_log_partition(
            key, rbm, base, num_chains=num_chains, num_betas=num_betas
        )
        scores = -machines.free_energy(rbm, images) - result.log_partition
        return result._asdict() | {"scores": scores}

    return run


def fit_all(
    config: Config, seed: int, purpose: int, jobs: list[tuple], num_steps: int
) -> list[tuple]:
    """Trains ``(rbm, weights, chains or None)`` each, spread over the cores; returns ``(rbm, chains)`` each."""
    keys = jax.random.split(
        jax.random.fold_in(jax.random.key(seed), purpose), len(jobs)
    )
    none = jnp.full((100, 64), jnp.nan)
    items = [
        (rbm, jnp.asarray(weights), none if chains is None else chains)
        for rbm, weights, chains in jobs
    ]
    run = trainer(num_steps, config.num_sweeps, config.learning_rate)
    how = replicas.mapper(num_models=len(jobs))
    fitted = replicas.map_models(
        how, run, (keys, *replicas.stack(items)), load(config.num_train, seed)["train"]
    )
    return [replicas.unstack(fitted, i) for i in range(len(jobs))]


def score_all(
    config: Config, seed: int, purpose: int, rbms: list[machines.Rbm]
) -> dict[str, np.ndarray]:
    """Scores each machine on the test images; leaves ``[M, ...]``."""
    split = load(config.num_train, seed)
    keys = jax.random.split(
        jax.random.fold_in(jax.random.key(seed), purpose), len(rbms)
    )
    items = (keys, replicas.stack(rbms))
    run, how = (
        scorer(config.num_chains, config.num_betas),
        replicas.mapper(num_models=len(rbms)),
    )
    found = replicas.map_models(how, run, items, (base_bias(split), split["test"]))
    return jax.tree.map(np.asarray, found)


def base_bias(split: Mapping[str, np.ndarray]) -> np.ndarray:
    """Logits of the training set's means."""
    means = np.clip(split["train"].mean(0), 0.01, 0.99)
    return np.log(means / (1 - means)).astype(np.float32)


def fresh(config: Config, seed: int, purpose: int, weights: np.ndarray) -> machines.Rbm:
    """A machine that was trained on nothing."""
    images = jnp.asarray(load(config.num_train, seed)["train"])
    means = training.visible_means(images, jnp.asarray(weights))
    return machines.init_rbm(
        jax.random.fold_in(jax.random.key(seed), purpose), means, config.num_hidden
    )


def to_arrays(rbm: machines.Rbm, chains: Array) -> dict[str, np.ndarray]:
    """A machine as arrays to be stored."""
    return {name: np.asarray(leaf) for name, leaf in rbm._asdict().items()} | {
        "chains": np.asarray(chains)
    }


def to_machine(arrays: Arrays) -> tuple[machines.Rbm, Array]:
    """Stored arrays as a machine and its chains."""
    return machines.Rbm(
        *(jnp.asarray(arrays[name]) for name in machines.Rbm._fields)
    ), jnp.asarray(arrays["chains"])


def train_original(config: Config, seed: int) -> dict[str, np.ndarray]:
    """The machine of all training images."""
    even = np.full(config.num_train, 1 / config.num_train, np.float32)
    ((rbm, chains),) = fit_all(
        config, seed, 0, [(fresh(config, seed, 1, even), even, None)], config.num_steps
    )
    return to_arrays(rbm, chains)


def dilute_all(config: Config, seed: int, original: Arrays) -> dict[str, np.ndarray]:
    """Every share, before and after training, random and smallest; ``[rows, ...]`` in the order of ``names``."""
    dense, _ = to_machine(original)
    even = np.full(config.num_train, 1 / config.num_train, np.float32)
    start = fresh(
        config, seed, 1, even
    )  # the one that the dense machine was trained from
    draws = jax.random.uniform(
        jax.random.fold_in(jax.random.key(seed), 2), dense.weights.shape
    )
    orders = {"random": draws, "smallest": dense.weights}
    rows: dict[str, machines.Rbm] = {}
    jobs: dict[str, tuple] = {}
    for share in config.shares:
        for mask, order in orders.items():
            kept = machines.smallest_mask(order, share)
            rows[f"{mask}-after-{share}"] = machines.dilute(dense, kept)
            jobs[f"{mask}-before-{share}"] = (machines.dilute(start, kept), even, None)
            jobs[f"{mask}-full-{share}"] = (rows[f"{mask}-after-{share}"], even, None)
    rows |= dict(
        zip(
            jobs,
            [
                rbm
                for rbm, _ in fit_all(
                    config, seed, 3, list(jobs.values()), config.num_steps
                )
            ],
            strict=True,
        )
    )
    again = {
        name.replace("before", "twice"): (rows[name], even, None)
        for name in jobs
        if "before" in name
    }
    rows |= dict(
        zip(
            again,
            [
                rbm
                for rbm, _ in fit_all(
                    config, seed, 8, list(again.values()), config.num_steps
                )
            ],
            strict=True,
        )
    )
    rows = {"dense": dense} | rows
    leak = max(
        float(jnp.max(jnp.abs(jnp.where(rbm.mask, 0.0, rbm.weights))))
        for rbm in rows.values()
    )
    found = score_all(config, seed, 4, list(rows.values()))
    return summary_of(found) | {"names": np.array(list(rows)), "leak": np.float32(leak)}


def summary_of(found: Arrays) -> dict[str, np.ndarray]:
    """What is kept of the scores: samples as bytes, weights normalized."""
    logits = found["log_weights"] - found["log_weights"].max(1, keepdims=True)
    weights = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return {
        "scores": found["scores"],
        "error": found["standard_error"],
        "effective": found["effective"],
        "samples": found["samples"].astype(np.uint8),
        "sample_weights": weights,
    }


def forget_all(config: Config, seed: int, original: Arrays) -> dict[str, np.ndarray]:
    """Every class and method; ``[classes, rows, ...]`` in the order of ``ROWS``."""
    labels = load(config.num_train, seed)["train_labels"]
    count = len(config.classes)
    keep = [
        np.asarray(training.deletion_weights(jnp.asarray(labels == c)))
        for c in config.classes
    ]
    jobs = [(fresh(config, seed, 10 + i, w), w, None) for i in (0, 1) for w in keep]
    trained = fit_all(config, seed, 5, jobs, config.num_steps)
    done = {
        "oracle": trained[:count],
        "second": trained[count:],
        "nothing": [to_machine(original)] * count,
    }
    for purpose, (name, (start, ascent, num_steps)) in enumerate(METHODS.items()):
        signed = [
            training.deletion_weights(jnp.asarray(labels == c), ascent=ascent)
            for c in config.classes
        ]
        jobs = [
            (rbm, w, chains)
            for (rbm, chains), w in zip(done[start], signed, strict=True)
        ]
        done[name] = fit_all(config, seed, 20 + purpose, jobs, num_steps)
    rbms = [done[name][i][0] for i in range(count) for name in ROWS]
    found = score_all(config, seed, 6, rbms)
    kept = {
        name: value.reshape(count, len(ROWS), *value.shape[1:])
        for name, value in summary_of(found).items()
    }
    log_z = found["log_partition"].reshape(count, len(ROWS))
    return kept | {
        "divergence": np.stack([divergence(kept, log_z, rbms, i) for i in range(count)])
    }


def divergence(
    kept: Arrays, log_z: np.ndarray, rbms: list[machines.Rbm], index: int
) -> np.ndarray:
    """KL(oracle || row) ``[rows]`` of one class, estimated on the oracle's weighted samples and by AIS's log Z."""
    samples, weights = (
        jnp.asarray(kept["samples"][index, 0], jnp.float32),
        kept["sample_weights"][index, 0],
    )
    rows = rbms[index * len(ROWS) : (index + 1) * len(ROWS)]
    scores = [
        -np.asarray(machines.free_energy(rbm, samples)) - z
        for rbm, z in zip(rows, log_z[index], strict=True)
    ]
    return np.array([weights @ (scores[0] - other) for other in scores])


def judge(
    config: Config, seed: int, diluted: Arrays, forgotten: Arrays
) -> dict[str, np.ndarray]:
    """Class probabilities of every machine's samples by a network that was trained on real images of every class."""
    split = load(config.num_train, seed)
    model = models.build("mlp", (8, 8, 1), 10, widths=(128,))
    images = split["train"].reshape(-1, 8, 8, 1)
    recipe = train.Recipe(num_epochs=30, batch_size=100, tx=train.sgd(0.1))
    state, _ = train.fit(
        jax.random.fold_in(jax.random.key(seed), 7),
        model,
        Dataset(images, split["train_labels"]),
        np.ones(len(images), bool),
        recipe,
        epochs_per_call=30,
    )
    predict = jax.jit(lambda x: train.predict(model.apply, state.variables, x))
    probs = lambda bits: softmax(
        np.asarray(predict(bits.reshape(-1, 8, 8, 1).astype(np.float32)))
    )
    real = probs(split["test"])
    of_diluted, of_forgotten = probs(diluted["samples"]), probs(forgotten["samples"])
    return {
        "accuracy": np.mean(real.argmax(1) == split["test_labels"]),
        "real_confidence": np.mean(real.max(1)),
        "diluted": np.sum(
            diluted["sample_weights"]
            * of_diluted.max(1).reshape(diluted["sample_weights"].shape),
            axis=-1,
        ),
        "forgotten": np.sum(
            forgotten["sample_weights"][..., None]
            * np.eye(10)[of_forgotten.argmax(1)].reshape(
                *forgotten["sample_weights"].shape, 10
            ),
            axis=-2,
        ),
    }


def bracket(config: Config, seed: int, original: Arrays) -> dict[str, np.ndarray]:
    """AIS against enumeration on a machine of 16 hidden units, and the bounds on both sides of the large one."""
    split = load(config.num_train, seed)
    even = np.full(config.num_train, 1 / config.num_train, np.float32)
    small = fresh(dataclasses.replace(config, num_hidden=16), seed, 30, even)
    ((small, _),) = fit_all(config, seed, 31, [(small, even, None)], config.num_steps)
    base, images = jnp.asarray(base_bias(split)), jnp.asarray(split["test"][:100])
    run = jax.jit(
        functools.partial(
            annealing.estimate_log_partition,
            num_chains=config.num_chains,
            num_betas=config.num_betas,
        )
    )
    key_small, key_dense, key_back = jax.random.split(
        jax.random.fold_in(jax.random.key(seed), 32), 3
    )
    dense, _ = to_machine(original)
    of_small, of_dense = run(key_small, small, base), run(key_dense, dense, base)
    lower = jax.jit(
        functools.partial(
            annealing.bound_log_likelihood, num_chains=5, num_betas=config.num_betas
        )
    )
    return {
        "exact": np.asarray(machines.log_partition(small)),
        "estimate": np.asarray(of_small.log_partition),
        "error": np.asarray(of_small.standard_error),
        "forward": np.asarray(
            jnp.mean(-machines.free_energy(dense, images)) - of_dense.log_partition
        ),
        "backward": np.asarray(jnp.mean(lower(key_back, dense, base, images))),
    }


def make_artifacts(config: Config) -> dict[str, Part]:
    """A few parts per seed."""
    check(config)
    shared = {
        name: getattr(config, name)
        for name in (
            "num_train",
            "num_hidden",
            "num_steps",
            "num_sweeps",
            "learning_rate",
            "num_chains",
            "num_betas",
        )
    }
    parts = {}
    for seed in config.seeds:
        own = shared | {"seed": seed}
        part = functools.partial
        parts[f"original-{seed}"] = Part(own, part(train_original, config, seed))
        parts[f"diluted-{seed}"] = Part(
            own | {"shares": config.shares},
            part(dilute_all, config, seed),
            (f"original-{seed}",),
        )
        parts[f"forgotten-{seed}"] = Part(
            own | {"classes": config.classes},
            part(forget_all, config, seed),
            (f"original-{seed}",),
        )
        parts[f"judged-{seed}"] = Part(
            own, part(judge, config, seed), (f"diluted-{seed}", f"forgotten-{seed}")
        )
    first = config.seeds[0]
    parts["bracket"] = Part(
        shared | {"seed": first},
        functools.partial(bracket, config, first),
        (f"original-{first}",),
    )
    return parts


def check(config: Config) -> None:
    """Refuses what cannot be run."""
    if len(set(config.seeds)) < 2 or len(set(config.seeds)) != len(config.seeds):
        raise InputError(
            f"seeds are {config.seeds}: give two different ones or more, intervals need"
            " them"
        )
    if not config.classes or not set(config.classes) <= set(range(10)):
        raise InputError(
            f"classes are {config.classes}: give at least one digit, 0 to 9"
        )
    if not config.shares or not all(0 < share < 1 for share in config.shares):
        raise InputError(
            f"shares are {config.shares}: give at least one, between 0 and 1"
        )
    if not 500 <= config.num_train <= 1700:
        raise InputError(
            f"num_train must be 500 to 1700, of 1797 images, got {config.num_train}"
        )
    if (
        min(config.num_hidden, config.num_steps, config.num_sweeps, config.num_betas)
        < 1
        or config.num_chains < 16
    ):
        raise InputError(
            "units, steps, sweeps and temperatures must be at least 1, and num_chains"
            " at least 16"
        )
