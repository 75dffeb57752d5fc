"""Diluted restricted Boltzmann machines on handwritten digits: sparsity before and after training, forgetting a digit.

Command:   unlearn-jax run rbm_digits
Source:    inspired by Diaz-Faloh and Mulet, "Diluting Restricted Boltzmann Machines" (arXiv 2511.00648; MNIST), of which
           only the abstract was at hand: 80 % pruned before training is fine, pruning
           after training has a sharp transition, retraining ends below training from
           scratch. Sizes, data and deletion are this library's; nothing here is a claim
           of that paper.
Measured:  scikit-learn's digits, 8x8 black or white; 64 visible, 100 hidden units, PCD-2, T = 2000 steps; log-likelihood
           of test images by annealed importance sampling, nats (independent pixels
           -25.10, dense -16.53). 3 seeds (with their splits), 95% interval of the mean.
           Forgetting digits 1, 3 and 8, one at a time

                                 samples of it (%)     log-lik, forgotten        retained                KL(oracle || model)
  retrained (oracle)             1.6 [1.0, 2.4]        -22.2 [-23.6, -20.5]      -16.50 [-16.76, -16.33] –
  do nothing                     11.3 [7.0, 15.4]      -16.2 [-18.1, -13.5]      -16.55 [-16.87, -16.32] 0.77 [0.64, 0.89]
  second retrain (seed floor)    1.5 [0.5, 2.6]        -22.2 [-23.7, -20.3]      -16.50 [-16.78, -16.30] 0.58 [0.41, 0.71]
  fine-tune, 100 steps           1.8 [0.7, 3.2]        -19.2 [-21.6, -16.1]      -17.15 [-17.58, -16.84] 1.37 [1.03, 1.79]
  fine-tune, 1000 steps          1.5 [0.9, 2.3]        -20.4 [-22.1, -17.7]      -16.37 [-16.69, -16.12] 0.86 [0.72, 1.02]
  descent-ascent, 20 steps       0.0                   -631 [-887, -351]         -390 [-529, -229]       376 [206, 520]
  descent-ascent, 100 steps      0.0                   -9339 [-11514, -6523]     -6102 [-6820, -5010]    6106 [4939, 6986]
  these 100, fine-tune, 1000     1.7 [0.9, 2.7]        -23.0 [-24.2, -21.7]      -17.21 [-18.02, -16.69] 1.41 [1.14, 1.78]
  descent-0.1 ascent, 100        0.1 [0.0, 0.4]        -28.1 [-30.5, -25.3]      -17.62 [-17.98, -17.11] 1.61 [1.37, 1.86]
  descent-0.02 ascent, 1000      0.9 [0.5, 1.4]        -24.1 [-26.1, -22.3]      -16.46 [-16.67, -16.27] 0.90 [0.72, 0.99]

           Connections removed: test log-likelihood

           before training  before, 2T  after training  after, + T  before - after, + T      before, 2T - after, + T
  random
    30%    -16.65           -16.50      -24.01          -16.66       0.00 [-0.05, 0.07]      0.15 [-0.01, 0.31]
    50%    -17.00           -16.73      -28.02          -16.93      -0.07 [-0.14, 0.01]      0.20 [0.11, 0.34]
    80%    -18.34           -17.93      -32.41          -18.30      -0.04 [-0.20, 0.05]      0.37 [0.23, 0.48]
    95%    -23.14           -22.76      -32.56          -22.93      -0.21 [-0.27, -0.12]     0.18 [0.09, 0.31]
  smallest weights
    50%    -16.58           -16.43      -16.99          -16.51      -0.07 [-0.29, 0.06]      0.08 [0.01, 0.13]
    80%    -17.09           -16.86      -21.58          -16.83      -0.27 [-0.37, -0.19]     -0.03 [-0.14, 0.04]
    95%    -19.59           -19.27      -28.89          -19.43      -0.16 [-0.27, -0.10]     0.16 [0.05, 0.23]

Reading:   descent-ascent is 197 to 802 times as far from the oracle as doing nothing after 20 steps, when none of its
           samples is the forgotten digit. Fine-tuning makes the digit as rare as
           retraining does, but leaves its log-likelihood higher, and is not nearer to
           the oracle than doing nothing: two retrained machines are already 0.58 apart,
           so at this size the distance tells the broken from the others, not the good
           from the best. 80 % of the connections can go before training for 1.8 nats of
           the 8.6 between the dense machine and independent pixels. After training,
           random removal costs from the start (below independent pixels between 30 %
           and 50 %); the smallest weights can go up to about half, and then it falls
           off: 2 nats at 70 %, 5 at 80 %, 9.5 at 90 %. Trained again, a machine does
           not stay below T steps from scratch at any share; it does below as many steps
           in all, for random masks of 50 % and more, and for smallest weights at 50 %
           and 95 % only, with the opposite at 30 % (-0.11). Three seeds: the intervals
           are rough.
Checks:    AIS against enumeration with 16 hidden units: -0.002 ± 0.012 in log Z; forward and backward annealing of the
           dense machine: -17.30 and -17.32. At least 123 of 200 chains of AIS are
           effective, but as few as 2 after descent-ascent, whose log-likelihoods are of
           an order of size only.
Chosen:    the learning rate (0.3 against 0.1) by the dense machine's training and test likelihood on seed 0; nothing else.
Time:      6 to 12 minutes per seed, with eight other jobs on the two cores.
Device:    2 CPU cores (x86-64, AVX-512), Python 3.11, JAX 0.10.2.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from unlearn_jax import data, models, replicas, train
from unlearn_jax.audit import Estimate, run_weights, softmax, summarize
from unlearn_jax.contrib.testbeds import ais as annealing
from unlearn_jax.contrib.testbeds import rbm as machines
from unlearn_jax.contrib.testbeds import rbm_training as training
from unlearn_jax.pipeline import Check, Experiment, Page, Part, Picture, Table
from unlearn_jax.pipeline.report.figures.style import COLORS, INK, MUTED, dress
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


def make_parts(config: Config) -> dict[str, Part]:
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


def estimate(values: np.ndarray) -> Estimate:
    """Mean over ``[seeds]`` or ``[seeds, classes]``, with a 95% bootstrap interval that redraws both."""
    factors = np.stack(np.indices(values.shape), -1).reshape(-1, values.ndim)
    weights = run_weights(np.random.default_rng(0), 2000, factors)
    return summarize(
        values.ravel(), np.broadcast_to(values.ravel(), weights.shape), weights
    )


def curves(config: Config, found: Mapping[str, Arrays]) -> dict[str, np.ndarray]:
    """``{row: [seeds, shares, 2]}``: mean log-likelihood of test images, and confidence of the classifier."""
    out: dict[str, list] = {}
    for seed in config.seeds:
        diluted, judged = found[f"diluted-{seed}"], found[f"judged-{seed}"]
        both = np.stack([diluted["scores"].mean(1), judged["diluted"]], -1)
        of = dict(zip(map(str, diluted["names"]), both, strict=True))
        out.setdefault("dense", []).append(of["dense"])
        for name in (f"{mask}-{stage}" for mask in MASKS for stage in DILUTED):
            out.setdefault(name, []).append(
                [of[f"{name}-{share}"] for share in config.shares]
            )
    return {name: np.array(values) for name, values in out.items()}


def independent(config: Config) -> float:
    """Mean log-likelihood of test images under independent pixels."""
    means = []
    for seed in config.seeds:
        split = load(config.num_train, seed)
        rates = np.clip(split["train"].mean(0), 0.01, 0.99)
        means.append(
            np.mean(
                split["test"] @ np.log(rates) + (1 - split["test"]) @ np.log(1 - rates)
            )
        )
    return float(np.mean(means))


def dilution_table(config: Config, lines: Arrays, mask: str, floor: float) -> Table:
    """A row per share."""
    names = [f"{mask}-{stage}" for stage in DILUTED]
    rows = []
    for i, share in enumerate(config.shares):
        values = [lines[name][:, i, 0] for name in names]
        confidence = [lines[name][:, i, 1].mean() for name in names]
        rows.append(
            [
                f"{share:.0%}",
                *map(estimate, values),
                estimate(values[0] - values[3]),
                estimate(values[1] - values[3]),
                " / ".join(f"{100 * value:.0f}" for value in confidence),
            ]
        )
    return Table(
        title=f"Diluted: {MASKS[mask]} removed",
        columns=[
            "removed",
            *DILUTED.values(),
            "before - retrained",
            "at equal steps",
            "confidence (%)",
        ],
        rows=rows,
        caption=(
            "Mean log-likelihood of test images by AIS, in nats: dense"
            f" {lines['dense'][:, 0].mean():.2f}, independent pixels {floor:.2f}. All"
            f" columns of a row have the same masks. T: {config.num_steps} steps."
            " Differences are paired, of before training and of before, 2T, with"
            " after, + T: above 0, diluting before training is better. Confidence: the"
            " classifier's, mean over samples of the four (dense:"
            f" {100 * lines['dense'][:, 1].mean():.0f}). Mean ± standard deviation over"
            f" {len(config.seeds)} seeds, 95% interval of the mean."
        ),
    )


def deletions(config: Config, found: Mapping[str, Arrays]) -> dict[str, np.ndarray]:
    """``{row: [seeds, classes, 4]}``: share of samples, log-likelihood forgotten and retained, KL from the oracle."""
    out = {name: np.zeros((len(config.seeds), len(config.classes), 4)) for name in ROWS}
    for s, seed in enumerate(config.seeds):
        forgotten, judged = found[f"forgotten-{seed}"], found[f"judged-{seed}"]
        labels = load(config.num_train, seed)["test_labels"]
        for c, digit in enumerate(config.classes):
            for r, name in enumerate(ROWS):
                scores = forgotten["scores"][c, r]
                out[name][s, c] = (
                    100 * judged["forgotten"][c, r, digit],
                    scores[labels == digit].mean(),
                    scores[labels != digit].mean(),
                    forgotten["divergence"][c, r],
                )
    return out


def deletion_table(
    config: Config, found: Mapping[str, Arrays], values: Arrays
) -> Table:
    """A row per way to forget."""
    effective = np.array(
        [found[f"forgotten-{seed}"]["effective"].min(0) for seed in config.seeds]
    ).min(0)
    steady = [name for name in ROWS if METHODS.get(name, ("", 0.0, 0))[1] < 1]
    fewest = min(effective[list(ROWS).index(name)] for name in steady)
    rows = [
        [label, *(estimate(values[name][..., k]) for k in range(3)),
         estimate(values[name][..., 3]) if name != "oracle" else None]
        for name, label in ROWS.items()
    ]  # fmt: skip
    return Table(
        title="Forgetting one digit",
        columns=[
            "model",
            "samples of the digit (%)",
            "log-likelihood forgotten",
            "retained",
            "KL(oracle || model)",
        ],
        rows=rows,
        caption=(
            "Samples that a classifier calls the forgotten digit; mean log-likelihood"
            " of test images by AIS, nats; KL estimated on the oracle's samples, nats."
            f" AIS has at least {fewest:.0f} effective samples of {config.num_chains},"
            f" but {effective.min():.0f} after descent-ascent, whose numbers are rough."
            f" Mean ± standard deviation over {len(config.seeds)} seeds x digits"
            f" {', '.join(map(str, config.classes))}, 95% interval of the mean, seeds"
            " and digits redrawn."
        ),
    )


def dilution_picture(config: Config, lines: Arrays, floor: float) -> Picture:
    """Log-likelihood and confidence over the share removed."""
    figure = Figure(figsize=(9.2, 6.4), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey="row")
    for column, (mask, title) in enumerate(MASKS.items()):
        for k, axes in enumerate(panels[:, column]):
            dress(axes, f"{title} removed".capitalize() if k == 0 else "", grid="both")
            for color, (stage, label) in zip(COLORS, DILUTED.items(), strict=False):
                values = np.concatenate(
                    [lines["dense"][:, None], lines[f"{mask}-{stage}"]], 1
                )[..., k] * (1 if k == 0 else 100)
                shares = [0.0, *config.shares]
                axes.fill_between(
                    shares, values.min(0), values.max(0), color=color, alpha=0.15, lw=0
                )
                axes.plot(
                    shares,
                    values.mean(0),
                    color=color,
                    lw=1.8,
                    marker="o",
                    ms=4,
                    label=label,
                )
        panels[0, column].axhline(
            floor, color=MUTED, lw=1.4, ls=(0, (5, 2)), label="independent pixels"
        )
        panels[0, column].set_ylim(floor - 6, None)
        panels[1, column].set_xlabel("share of connections removed")
    panels[0, 0].set_ylabel("test log-likelihood, nats")
    panels[1, 0].set_ylabel("classifier's confidence, %")
    handles = panels[0, 0].get_legend_handles_labels()
    figure.legend(
        *handles,
        loc="outside lower center",
        ncols=4,
        frameon=False,
        labelcolor=INK,
        fontsize=9.5,
    )
    ends = "; ".join(
        f"{share:.0%}: {lines['random-before'][:, i, 0].mean():.1f},"
        f" {lines['random-after'][:, i, 0].mean():.1f},"
        f" {lines['random-full'][:, i, 0].mean():.1f}"
        for i, share in enumerate(config.shares)
    )
    return Picture(
        "Diluting before and after training",
        figure,
        alt=(
            "Test log-likelihood at random dilution, before, after, and after with"
            f" retraining: {ends}"
        ),
        caption=(
            "Mean over seeds, and their range. The axis is cut 6 nats below independent"
            " pixels."
        ),
    )


def samples_picture(
    title: str, rows: Mapping[str, tuple[np.ndarray, np.ndarray]], caption: str
) -> Picture:
    """Samples, redrawn by their weights; a row per machine."""
    figure = Figure(figsize=(9.2, 0.3 + 0.78 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    rng = np.random.default_rng(0)
    for axes, (label, (samples, weights)) in zip(panels, rows.items(), strict=True):
        drawn = samples[
            rng.choice(len(samples), PICTURES, p=weights / weights.sum())
        ].reshape(-1, 8, 8)
        strip = (
            np.pad(drawn, ((0, 0), (1, 1), (1, 1)), constant_values=2)
            .transpose(1, 0, 2)
            .reshape(10, -1)
        )
        axes.imshow(
            np.ma.masked_equal(strip, 2),
            cmap=ListedColormap(["#dfe7ee", COLORS[0]]),
            interpolation="nearest",
        )
        axes.set_axis_off()
        axes.set_title(label, loc="left", fontsize=9, color=INK, pad=2)
    return Picture(
        title,
        figure,
        alt=f"{PICTURES} samples each of {', '.join(rows)}",
        caption=caption,
    )


def sample_pictures(config: Config, found: Mapping[str, Arrays]) -> list[Picture]:
    """Samples of diluted machines, and of machines that forgot the first digit, of the first seed."""
    seed, digit = config.seeds[0], config.classes[0]
    diluted, forgotten = found[f"diluted-{seed}"], found[f"forgotten-{seed}"]
    place = {str(name): i for i, name in enumerate(diluted["names"])}
    share = min(config.shares, key=lambda share: abs(share - 0.7))
    some = {"dense": "dense"} | {
        f"random-{stage}-{share}": f"{share:.0%} at random, {label}"
        for stage, label in DILUTED.items()
    }
    take = lambda arrays, index: (
        arrays["samples"][index],
        arrays["sample_weights"][index],
    )
    order = list(ROWS)
    return [
        samples_picture(
            f"Samples after forgetting {digit}",
            {ROWS[name]: take(forgotten, (0, order.index(name))) for name in SHOWN},
            f"The ends of annealed chains, redrawn by their weights; seed {seed}. A row"
            " of equal pictures is a machine whose chains all end in one state.",
        ),
        samples_picture(
            "Samples of diluted machines",
            {label: take(diluted, place[name]) for name, label in some.items()},
            "As above.",
        ),
    ]


def make_checks(
    config: Config, found: Mapping[str, Arrays], lines: Arrays, values: Arrays
) -> list[Check]:
    """What must hold."""
    small = found["bracket"]
    gap, error = float(small["estimate"] - small["exact"]), float(small["error"])
    leak = max(float(found[f"diluted-{seed}"]["leak"]) for seed in config.seeds)
    ratio = values["ascent-20"][..., 3] / values["nothing"][..., 3]
    share = values["ascent-20"][..., 0].max()
    return [
        Check("AIS agrees with enumeration on a machine of 16 hidden units (4 standard errors)", abs(gap) < 4 * error,
              f"log Z {small['exact']:.3f}, estimate {gap:+.3f} ± {error:.3f}"),
        Check("forward and backward annealing agree on the dense machine to 0.5 nats",
              abs(float(small["forward"] - small["backward"])) < 0.5,
              f"mean log-likelihood of 100 test images {small['forward']:.2f} forward, {small['backward']:.2f} backward"),
        Check("removed connections are exactly 0 after training", leak == 0, f"largest weight {leak:g}"),
        Check("20 steps of descent-ascent end further from the oracle than doing nothing, every seed and digit",
              bool(ratio.min() > 1),
              f"{ratio.min():.0f} to {ratio.max():.0f} times; at most {share:.1f}% of samples are the digit"),
    ]  # fmt: skip


def make_page(config: Config, found: Mapping[str, Arrays]) -> Page:
    """The report."""
    lines, values, floor = (
        curves(config, found),
        deletions(config, found),
        independent(config),
    )
    below = {
        stage: ", ".join(
            f"{share:.0%}"
            for i, share in enumerate(config.shares)
            if estimate(
                lines[f"random-{stage}"][:, i, 0] - lines["random-full"][:, i, 0]
            ).low
            > 0
        )
        for stage in ("before", "twice")
    }
    lost = [
        share
        for i, share in enumerate(config.shares)
        if lines["random-after"][:, i, 0].mean() < floor
    ]
    cliff = [
        share
        for i, share in enumerate(config.shares)
        if lines["smallest-after"][:, i, 0].mean() < lines["dense"][:, 0].mean() - 1
    ]
    mean = {name: values[name].reshape(-1, 4).mean(0) for name in ROWS}
    accuracy = np.mean([found[f"judged-{seed}"]["accuracy"] for seed in config.seeds])
    summary = (
        "Inspired by a paper on sparsity (arXiv 2511.00648), no claim of it. A machine"
        f" of {config.num_hidden} hidden units has {lines['dense'][:, 0].mean():.2f}"
        f" nats per test image (independent pixels {floor:.2f}). Diluted at random"
        " after training it falls below independent pixels "
        + (f"at {lost[0]:.0%}" if lost else "nowhere")
        + "; diluted before, it still has"
        f" {lines['random-before'][:, -1, 0].mean():.2f} at {config.shares[-1]:.0%}. "
        + "The smallest weights can go after training "
        + (
            f"below {cliff[0]:.0%}, where it first loses a nat. "
            if cliff
            else "without the loss of a nat. "
        )
        + "Random connections: diluted after training and trained again, it stays"
        f" below the machine diluted before at {below['before'] or 'no share'} after"
        f" T steps of that one, and at {below['twice'] or 'no share'} after as many"
        " steps in all (interval above 0). "
        + f"Forgetting a digit: {mean['nothing'][0]:.1f}% of the original's samples are"
        f" the digit, {mean['oracle'][0]:.1f}% of the retrained machine's,"
        f" {mean['tune-1000'][0]:.1f}% after fine-tuning and"
        f" {mean['ascent-20'][0]:.1f}% after 20 steps of descent-ascent, which is"
        f" {mean['ascent-20'][3]:.0f} nats from the oracle where doing nothing is"
        f" {mean['nothing'][3]:.2f} and a second retraining {mean['second'][3]:.2f}."
        f" The classifier is right on {accuracy:.1%} of real test images."
    )
    return Page(
        summary=summary,
        tables=[
            deletion_table(config, found, values),
            *(dilution_table(config, lines, mask, floor) for mask in MASKS),
        ],
        pictures=[
            dilution_picture(config, lines, floor),
            *sample_pictures(config, found),
        ],
        checks=make_checks(config, found, lines, values),
    )


EXPERIMENT = Experiment(
    title="Diluted machines on digits",
    config=Config(),
    artifacts=make_parts,
    page=make_page,
)
