"""Diluted RBMs on digits: sparsity before and after training, forgetting a digit."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unlearn_jax import data, models, replicas, train
from unlearn_jax.audit import softmax
from unlearn_jax.checks import check_positive, check_range
from unlearn_jax.contrib.testbeds import ais as annealing
from unlearn_jax.contrib.testbeds import rbm as machines
from unlearn_jax.contrib.testbeds import rbm_training as training
from unlearn_jax.pipeline import Artifact, DataConfig
from unlearn_jax.pipeline.config.resolve import load_data
from unlearn_jax.studies.common import Arrays, check_distinct, check_rising, check_seeds
from unlearn_jax.types import Array, Dataset, InputError, PyTree

DILUTED = {
    "before": "before training",
    "twice": "before, 2T",
    "after": "after training",
    "full": "after, + T",
}

MASKS = {"random": "random connections", "smallest": "smallest weights"}

ROWS = {
    "oracle": "retrained (oracle)",
    "nothing": "original",
    "second": "second retrain (seed floor)",
    "tune-100": "fine-tune, 100 steps",
    "tune-1000": "fine-tune, 1000 steps",
    "ascent-20": "descent-ascent, 20 steps",
    "ascent-100": "descent-ascent, 100 steps",
    "ascent-tune": "100 of these, then fine-tune, 1000 steps",
    "gentle-100": "descent-0.1 ascent, 100 steps",
    "gentlest-1000": "descent-0.02 ascent, 1000 steps",
}

METHODS = {
    "tune-100": ("nothing", 0.0, 100),
    "tune-1000": ("nothing", 0.0, 1000),
    "ascent-20": ("nothing", 1.0, 20),
    "ascent-100": ("nothing", 1.0, 100),
    "gentle-100": ("nothing", 0.1, 100),
    "gentlest-1000": ("nothing", 0.02, 1000),
    "ascent-tune": ("ascent-100", 0.0, 1000),
}
"""Rows as ``(start, weight of ascent, steps)``, in the order of computation."""

SHOWN = ("nothing", "oracle", "tune-1000", "ascent-20", "ascent-100", "gentle-100")

PICTURES = 16


@dataclasses.dataclass(frozen=True)
class Config:
    """Digits with binary pixels, in a machine too large to enumerate."""

    data: DataConfig | None = None
    """Gray-level digits that each seed splits; scikit-learn's 8x8 digits if None."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the splits, the machines and the masks."""
    classes: tuple[int, ...] = (1, 3, 8)
    """Digits to forget, one at a time, for every seed."""
    fractions: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
    """Fractions of the connections to remove."""
    num_train: int = 1200
    """Number of training images; the rest of scikit-learn's 1,797 are test images."""
    num_hidden: int = 100
    """Number of hidden units."""
    num_steps: int = 2000
    """Steps of every training run, with 100 images and 100 persistent chains each."""
    num_sweeps: int = 2
    """Gibbs sweeps per step, k of PCD-k."""
    learning_rate: float = 0.3
    """Learning rate of the first step; falls linearly to 0."""
    num_chains: int = 200
    """Chains of annealed importance sampling, which also provide the samples."""
    num_betas: int = 1000
    """Temperatures of annealed importance sampling."""


@functools.lru_cache(maxsize=8)
def load(config: Config, seed: int) -> dict[str, np.ndarray]:
    """Return one seed's split, binarized at half of the maximum gray level.

    Args:
      config: study configuration.
      seed: seed of the split.

    Raises:
      InputError: a split whose size is not ``config.num_train``.
    """
    if config.data is None:
        splits = data.load_digits(num_train=config.num_train, seed=seed)
    else:
        splits = load_data(dataclasses.replace(config.data, seed=seed))
    if len(splits.train.labels) != config.num_train:
        raise InputError(
            f"num_train is {config.num_train} but data.num_train is"
            f" {len(splits.train.labels)}: give both the same number"
        )

    def bits(images: np.ndarray) -> np.ndarray:
        return (np.asarray(images).reshape(len(images), -1) > 127).astype(np.float32)

    return {
        "train": bits(splits.train.images),
        "train_labels": np.asarray(splits.train.labels),
        "test": bits(splits.test.images),
        "test_labels": np.asarray(splits.test.labels),
    }


def as_images(bits: np.ndarray) -> np.ndarray:
    """Return square images ``[N, side, side, 1]`` from pixels ``[N, side**2]``."""
    side = math.isqrt(bits.shape[-1])
    return bits.reshape(-1, side, side, 1)


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Training of one machine; items are ``(key, rbm, weights, chains)``.

    Chains of NaN are replaced by new ones.

    Attributes:
      num_steps: number of PCD steps.
      num_sweeps: Gibbs sweeps per step.
      learning_rate: learning rate of the first step; falls linearly to 0.
    """

    num_steps: int
    num_sweeps: int
    learning_rate: float

    def __call__(self, item: Any, images: Array) -> tuple[machines.Rbm, Array]:
        """Return the trained machine and its chains."""
        key, rbm, weights, chains = item
        key_init, key_fit = jax.random.split(key)
        schedule = optax.linear_schedule(self.learning_rate, 0.0, self.num_steps)
        tx = optax.sgd(schedule, momentum=0.5)
        state = training.init_pcd(key_init, rbm, tx, num_chains=len(chains))
        chains = jnp.where(jnp.isnan(chains), state.chains, chains)
        state = training.fit_pcd(
            key_fit,
            state._replace(chains=chains),
            images,
            weights,
            tx=tx,
            num_steps=self.num_steps,
            num_sweeps=self.num_sweeps,
            batch_size=100,
        )
        return state.rbm, state.chains


@dataclasses.dataclass(frozen=True)
class Scorer:
    """Annealed importance sampling of one machine; items are ``(key, rbm)``.

    Attributes:
      num_chains: number of chains.
      num_betas: number of temperatures.
    """

    num_chains: int
    num_betas: int

    def __call__(self, item: Any, shared: Any) -> dict[str, Array]:
        """Return the result of sampling, and the ``scores`` of the test images."""
        key, rbm = item
        base, images = shared
        result = annealing.estimate_log_partition(
            key, rbm, base, num_chains=self.num_chains, num_betas=self.num_betas
        )
        scores = -machines.free_energy(rbm, images) - result.log_partition
        return result._asdict() | {"scores": scores}


class Job(NamedTuple):
    """Machine to train.

    Attributes:
      rbm: machine before training.
      weights: weights of the training images.
      chains: chains of an earlier training run; new ones if None.
    """

    rbm: machines.Rbm
    weights: Any
    chains: Array | None = None


Trained = tuple[machines.Rbm, Array]
"""A machine and its chains."""


def fit_all(
    config: Config, seed: int, purpose: int, jobs: Sequence[Job], num_steps: int
) -> list[Trained]:
    """Train machines in parallel, distributed over the devices."""
    key = jax.random.fold_in(jax.random.key(seed), purpose)
    keys = jax.random.split(key, len(jobs))
    images = load(config, seed)["train"]
    new = jnp.full((100, images.shape[1]), jnp.nan)
    items = [
        (job.rbm, jnp.asarray(job.weights), new if job.chains is None else job.chains)
        for job in jobs
    ]
    trainer = Trainer(num_steps, config.num_sweeps, config.learning_rate)
    mapper = replicas.mapper(num_models=len(jobs))
    stacked = (keys, *replicas.stack(items))
    fitted = replicas.map_models(mapper, trainer, stacked, images)
    return [replicas.unstack(fitted, i) for i in range(len(jobs))]


def score_all(
    config: Config, seed: int, purpose: int, rbms: list[machines.Rbm]
) -> dict[str, np.ndarray]:
    """Return the scores of M machines on the test images, leaves ``[M, ...]``."""
    split = load(config, seed)
    key = jax.random.fold_in(jax.random.key(seed), purpose)
    items = (jax.random.split(key, len(rbms)), replicas.stack(rbms))
    scorer = Scorer(config.num_chains, config.num_betas)
    mapper = replicas.mapper(num_models=len(rbms))
    shared = (base_bias(split), split["test"])
    return jax.tree.map(np.asarray, replicas.map_models(mapper, scorer, items, shared))


def base_bias(split: Arrays) -> np.ndarray:
    """Return the logits of the pixels' means on the training set."""
    means = np.clip(split["train"].mean(0), 0.01, 0.99)
    return np.log(means / (1 - means)).astype(np.float32)


def fresh(config: Config, seed: int, purpose: int, weights: np.ndarray) -> machines.Rbm:
    """Return a machine before training."""
    images = jnp.asarray(load(config, seed)["train"])
    means = training.visible_means(images, jnp.asarray(weights))
    key = jax.random.fold_in(jax.random.key(seed), purpose)
    return machines.init_rbm(key, means, config.num_hidden)


def even_weights(config: Config) -> np.ndarray:
    """Return equal weights for all training images."""
    return np.full(config.num_train, 1 / config.num_train, np.float32)


def train_original(config: Config, seed: int) -> dict[str, PyTree]:
    """Return the machine trained on all training images, and its chains."""
    even = even_weights(config)
    job = Job(fresh(config, seed, 1, even), even)
    ((rbm, chains),) = fit_all(config, seed, 0, [job], config.num_steps)
    return {"machine": rbm._asdict(), "chains": chains}


def read_machine(stored: Mapping[str, PyTree]) -> Trained:
    """Return the machine that :func:`train_original` stored."""
    rbm = machines.Rbm(**jax.tree.map(jnp.asarray, dict(stored["machine"])))
    return rbm, jnp.asarray(stored["chains"])


def dilute_all(
    config: Config, seed: int, original: Mapping[str, PyTree]
) -> dict[str, np.ndarray]:
    """Dilute machines before and after training, at random and by size.

    Args:
      config: study configuration.
      seed: seed of the masks.
      original: arrays of :func:`train_original`.

    Returns:
      The arrays of :func:`summary_of`, ``[M, ...]`` in the order of ``names``; and
      ``leak``, the largest weight of a removed connection.
    """
    dense, _ = read_machine(original)
    even = even_weights(config)
    # The machine from which training of the dense one started.
    start = fresh(config, seed, 1, even)
    key = jax.random.fold_in(jax.random.key(seed), 2)
    draws = jax.random.uniform(key, dense.weights.shape)
    orders = {"random": draws, "smallest": dense.weights}
    rows: dict[str, machines.Rbm] = {"dense": dense}
    jobs: dict[str, Job] = {}
    for fraction in config.fractions:
        for mask, order in orders.items():
            diluted = machines.smallest_mask(order, fraction)
            after = machines.dilute(dense, diluted)
            rows[f"{mask}-after-{fraction}"] = after
            before = Job(machines.dilute(start, diluted), even)
            jobs[f"{mask}-before-{fraction}"] = before
            jobs[f"{mask}-full-{fraction}"] = Job(after, even)
    fitted = fit_all(config, seed, 3, list(jobs.values()), config.num_steps)
    for name, (rbm, _) in zip(jobs, fitted, strict=True):
        rows[name] = rbm
    names = [name for name in jobs if "before" in name]
    again = [Job(rows[name], even) for name in names]
    fitted = fit_all(config, seed, 8, again, config.num_steps)
    for name, (rbm, _) in zip(names, fitted, strict=True):
        rows[name.replace("before", "twice")] = rbm
    leaks = [jnp.abs(jnp.where(rbm.mask, 0.0, rbm.weights)) for rbm in rows.values()]
    leak = max(float(jnp.max(weights)) for weights in leaks)
    scores = score_all(config, seed, 4, list(rows.values()))
    return summary_of(scores) | {
        "names": np.array(list(rows)),
        "leak": np.float32(leak),
    }


def summary_of(scores: Arrays) -> dict[str, np.ndarray]:
    """Return the scores to be stored: samples as bytes, and normalized weights."""
    logits = scores["log_weights"] - scores["log_weights"].max(1, keepdims=True)
    weights = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return {
        "scores": scores["scores"],
        "error": scores["standard_error"],
        "effective": scores["effective"],
        "samples": scores["samples"].astype(np.uint8),
        "sample_weights": weights,
    }


def forget_all(
    config: Config, seed: int, original: Mapping[str, PyTree]
) -> dict[str, np.ndarray]:
    """Forget every class by every method.

    Args:
      config: study configuration.
      seed: seed of the machines.
      original: arrays of :func:`train_original`.

    Returns:
      The arrays of :func:`summary_of`, ``[classes, rows, ...]`` in the order of
      :data:`ROWS`; and ``divergence`` ``[classes, rows]``, KL(oracle || row).
    """
    labels = load(config, seed)["train_labels"]
    count = len(config.classes)

    def weights_of(ascent: float) -> list[np.ndarray]:
        masks = [jnp.asarray(labels == label) for label in config.classes]
        return [
            np.asarray(training.deletion_weights(mask, ascent=ascent)) for mask in masks
        ]

    keep = weights_of(0.0)
    jobs = [Job(fresh(config, seed, 10 + i, w), w) for i in (0, 1) for w in keep]
    trained = fit_all(config, seed, 5, jobs, config.num_steps)
    done = {
        "oracle": trained[:count],
        "second": trained[count:],
        "nothing": [read_machine(original)] * count,
    }
    for purpose, (name, (start, ascent, num_steps)) in enumerate(METHODS.items()):
        jobs = [
            Job(rbm, weights, chains)
            for (rbm, chains), weights in zip(
                done[start], weights_of(ascent), strict=True
            )
        ]
        done[name] = fit_all(config, seed, 20 + purpose, jobs, num_steps)
    rbms = [done[name][i][0] for i in range(count) for name in ROWS]
    scores = score_all(config, seed, 6, rbms)
    arrays = {}
    for name, value in summary_of(scores).items():
        arrays[name] = value.reshape(count, len(ROWS), *value.shape[1:])
    log_z = scores["log_partition"].reshape(count, len(ROWS))
    rows = [divergence(arrays, log_z, rbms, i) for i in range(count)]
    return arrays | {"divergence": np.stack(rows)}


def divergence(
    arrays: Arrays, log_z: np.ndarray, rbms: list[machines.Rbm], index: int
) -> np.ndarray:
    """Return KL(oracle || row) ``[rows]`` of one class.

    It is estimated on the oracle's weighted samples, with log Z from annealed
    importance sampling.

    Args:
      arrays: samples and their weights ``[classes, rows, ...]``.
      log_z: ``[classes, rows]`` estimates of log Z.
      rbms: machines of all classes and rows.
      index: position of the class.
    """
    samples = jnp.asarray(arrays["samples"][index, 0], jnp.float32)
    weights = arrays["sample_weights"][index, 0]
    rows = rbms[index * len(ROWS) : (index + 1) * len(ROWS)]
    scores = []
    for rbm, log_partition in zip(rows, log_z[index], strict=True):
        energies = np.asarray(machines.free_energy(rbm, samples))
        scores.append(-energies - log_partition)
    return np.array([weights @ (scores[0] - other) for other in scores])


def judge(
    config: Config, seed: int, diluted: Arrays, forgotten: Arrays
) -> dict[str, np.ndarray]:
    """Classify every machine's samples by a network trained on real images.

    Args:
      config: study configuration.
      seed: seed of the network.
      diluted: arrays of :func:`dilute_all`.
      forgotten: arrays of :func:`forget_all`.

    Returns:
      The network's ``accuracy`` and ``real_confidence`` on test images; ``diluted``
      ``[M]``, its mean confidence on samples; and ``forgotten``
      ``[classes, rows, 10]``, the fraction of samples of each class.
    """
    split = load(config, seed)
    images = as_images(split["train"])
    model = models.build("mlp", images.shape[1:], 10, widths=(128,))
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

    def probabilities(bits: np.ndarray) -> np.ndarray:
        logits = predict(as_images(bits).astype(np.float32))
        return softmax(np.asarray(logits))

    real = probabilities(split["test"])
    weights = diluted["sample_weights"]
    confidence = probabilities(diluted["samples"]).max(1).reshape(weights.shape)
    class_weights = forgotten["sample_weights"]
    classes = probabilities(forgotten["samples"]).argmax(1)
    is_class = np.eye(10)[classes].reshape(*class_weights.shape, 10)
    return {
        "accuracy": np.mean(real.argmax(1) == split["test_labels"]),
        "real_confidence": np.mean(real.max(1)),
        "diluted": np.sum(weights * confidence, axis=-1),
        "forgotten": np.sum(class_weights[..., None] * is_class, axis=-2),
    }


def bracket(
    config: Config, seed: int, original: Mapping[str, PyTree]
) -> dict[str, np.ndarray]:
    """Return values that check annealed importance sampling.

    Args:
      config: study configuration.
      seed: seed of the machines.
      original: arrays of :func:`train_original`.

    Returns:
      For a machine with 16 hidden units: log Z by enumeration, ``exact``, and its
      ``estimate`` with standard ``error``. For the original: the mean log-likelihood of
      100 test images, estimated by ``forward`` and by ``backward`` annealing.
    """
    split = load(config, seed)
    even = even_weights(config)
    small = fresh(dataclasses.replace(config, num_hidden=16), seed, 30, even)
    ((small, _),) = fit_all(config, seed, 31, [Job(small, even)], config.num_steps)
    base = jnp.asarray(base_bias(split))
    images = jnp.asarray(split["test"][:100])
    options = {"num_chains": config.num_chains, "num_betas": config.num_betas}
    run = jax.jit(functools.partial(annealing.estimate_log_partition, **options))
    bound = functools.partial(
        annealing.bound_log_likelihood, num_chains=5, num_betas=config.num_betas
    )
    key = jax.random.fold_in(jax.random.key(seed), 32)
    key_small, key_dense, key_back = jax.random.split(key, 3)
    dense, _ = read_machine(original)
    of_small = run(key_small, small, base)
    of_dense = run(key_dense, dense, base)
    forward = jnp.mean(-machines.free_energy(dense, images)) - of_dense.log_partition
    backward = jnp.mean(jax.jit(bound)(key_back, dense, base, images))
    return {
        "exact": np.asarray(machines.log_partition(small)),
        "estimate": np.asarray(of_small.log_partition),
        "error": np.asarray(of_small.standard_error),
        "forward": np.asarray(forward),
        "backward": np.asarray(backward),
    }


def make_artifacts(config: Config) -> list[Artifact]:
    """Return original, dilution, deletion and judgment for every seed, and a check.

    Raises:
      InputError: unusable configuration, see :func:`check`.
    """
    check(config)
    shared = dataclasses.asdict(config)
    for name in ("seeds", "classes", "fractions"):
        del shared[name]
    if config.data is not None:
        shared["data"]["path"] = config.data.identity().get("path")
    partial = functools.partial
    artifacts = []
    for seed in config.seeds:
        settings = shared | {"seed": seed}
        original = Artifact(
            name=f"original-{seed}",
            settings=settings,
            compute=partial(train_original, config, seed),
        )
        diluted = Artifact(
            name=f"diluted-{seed}",
            settings=settings | {"fractions": config.fractions},
            compute=partial(dilute_all, config, seed),
            inputs=(original,),
        )
        forgotten = Artifact(
            name=f"forgotten-{seed}",
            settings=settings | {"classes": config.classes},
            compute=partial(forget_all, config, seed),
            inputs=(original,),
        )
        judged = Artifact(
            name=f"judged-{seed}",
            settings=settings,
            compute=partial(judge, config, seed),
            inputs=(diluted, forgotten),
        )
        artifacts += [original, diluted, forgotten, judged]
    first = config.seeds[0]
    checked = Artifact(
        name="bracket",
        settings=shared | {"seed": first},
        compute=partial(bracket, config, first),
        inputs=(artifacts[0],),
    )
    return [*artifacts, checked]


def check(config: Config) -> None:
    """Raise on an unusable configuration.

    Raises:
      InputError: unusable seeds, classes, fractions or sizes.
    """
    check_seeds(config.seeds)
    check_distinct(classes=config.classes)
    check_range(np.array(config.classes), 10, "classes")
    check_rising(fractions=config.fractions)
    check_positive(learning_rate=config.learning_rate)
    if config.data is None and not 500 <= config.num_train <= 1700:
        raise InputError(
            f"num_train must be 500 to 1700 of 1797 images, got {config.num_train}"
        )
    steps = min(config.num_steps, config.num_sweeps, config.num_betas)
    if min(config.num_hidden, steps) < 1 or config.num_chains < 16:
        raise InputError(
            "numbers of units, steps, sweeps and temperatures must be at least 1, and"
            " num_chains at least 16"
        )
