"""Core-sets on scikit-learn's digits: samples whose removal is enough to forget a set.

Core-sets are searched on kernel models, where removal is exact, and tested on networks
that are retrained without them.
"""

import dataclasses
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from unlearn_jax import audit, data, models, train
from unlearn_jax.checks import check_counts, check_not_negative, check_range
from unlearn_jax.contrib import coresets
from unlearn_jax.influence import ridge
from unlearn_jax.pipeline import Artifact
from unlearn_jax.studies.common import Arrays, check_distinct, check_rising
from unlearn_jax.types import InputError

RIDGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
SIZES = np.linspace(0.05, 1.0, 20)
"""Points of the curve on kernel models, as fractions of the forget set."""
ORDERS = ("core-set search", "most influential first", "random")
WAYS = ("core-set", "most influential, as many", "random, as many")
KINDS = {"cluster": "Clusters of a class", "random": "Random samples"}

NOTHING = 0
"""Column, among those of a judging seed, of the networks trained on everything."""
ALL = 1
"""Column of the networks trained without the whole forget set."""
FROM_KERNEL = 2
"""First of six columns: the subsets of :data:`WAYS`, then their complements."""
SIZED = 8
"""First of six columns, as :data:`FROM_KERNEL`, for the size that networks need."""
AGAIN = 14
"""Column of the networks of another seed, trained without the whole forget set."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Core-sets of kernel models, confirmed by networks that are retrained."""

    num_train: int = 900
    """Number of training samples; the other digits are the test set."""
    cluster_classes: tuple[int, ...] = (1, 3, 8)
    """Classes; the smaller of a class's two k-means clusters is a forget set."""
    random_sets: int = 3
    """Number of random forget sets."""
    random_size: int = 90
    """Number of samples in each random forget set."""
    search_worlds: int = 24
    """Number of kernel models for the search, each with its own random features."""
    judge_worlds: int = 40
    """Number of other kernel models, which judge the core-sets."""
    num_features: int = 512
    """Number of random ReLU features of a kernel model."""
    bootstrap: bool = False
    """Also resample the retained samples of each kernel model."""
    tolerance: float = 0.1
    """Largest distance from the oracle, as a fraction of the oracle's suppression."""
    other_tolerances: tuple[float, ...] = (0.05, 0.2, 0.5)
    """Further tolerances at which the size of a core-set is reported."""
    delta: float = 0.1
    """The search ends at a PS of ``1 - delta``."""
    random_orders: int = 5
    """Number of random orders on kernel models; networks are trained for the first."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Training seeds of the curve's networks, which determine the size of a removal."""
    judge_seeds: tuple[int, ...] = (10, 11, 12, 13, 14)
    """Training seeds of the networks that judge."""
    curve: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 0.9)
    """Fractions of the forget set at which networks are trained."""
    width: int = 128
    """Number of units of the networks' only hidden layer."""
    num_epochs: int = 40
    """Passes of the networks over the training samples."""


def make_artifacts(config: Config) -> list[Artifact]:
    """Return the ridge and, for each forget set, search, curve and judging networks.

    Raises:
      InputError: too few seeds or worlds, a seed that both trains the curve and judges,
        a curve that is out of range or does not ascend, no sets or equal ones, or
        numbers out of range.
    """
    num_worlds = min(config.search_worlds, config.judge_worlds)
    if min(len(config.seeds), len(config.judge_seeds), num_worlds) < 3:
        raise InputError(
            "seeds, judge_seeds, search_worlds and judge_worlds: give at least 3 of"
            " each"
        )
    if set(config.seeds) & set(config.judge_seeds):
        raise InputError(
            "judge_seeds must not overlap with seeds, which determine the sizes"
        )
    check_rising(curve=config.curve)
    check_distinct(
        seeds=config.seeds, judge_seeds=config.judge_seeds, sets=set_names(config)
    )
    check_counts(
        random_size=config.random_size,
        num_features=config.num_features,
        random_orders=config.random_orders,
        width=config.width,
        num_epochs=config.num_epochs,
    )
    check_counts(0, random_sets=config.random_sets)
    check_range(np.array(config.cluster_classes), 10, "cluster_classes")
    check_not_negative(
        tolerance=config.tolerance, other_tolerances=config.other_tolerances
    )
    # At a tolerance of 1, removing nothing would be enough.
    if max(config.tolerance, *config.other_tolerances, config.delta) >= 1:
        raise InputError(
            "tolerance, other_tolerances and delta must be less than 1, got"
            f" {config.tolerance}, {config.other_tolerances} and {config.delta}"
        )
    # Raises on a number of training samples that the digits do not have.
    samples = data.load_digits(num_train=config.num_train).train
    if config.random_sets and config.random_size >= config.num_train:
        raise InputError(
            f"random_size is {config.random_size} of {config.num_train} training"
            " samples: forget fewer"
        )
    counts = np.bincount(samples.labels, minlength=10)
    for label in config.cluster_classes:
        if counts[label] < 2:
            raise InputError(
                f"class {label} has {counts[label]} training samples, too few for"
                " clusters: raise num_train"
            )

    def take(*names: str) -> dict[str, Any]:
        return {name: getattr(config, name) for name in names}

    networks = take("num_train", "width", "num_epochs")
    options = take(
        "search_worlds",
        "judge_worlds",
        "bootstrap",
        "tolerance",
        "other_tolerances",
        "delta",
        "random_orders",
    )
    ridge_of = Artifact(
        name="ridge",
        settings=take("num_train", "num_features"),
        compute=partial(choose_ridge, config),
    )
    artifacts = [ridge_of]
    for name in set_names(config):
        size = {"size": config.random_size} if name.startswith("random") else {}
        searched = Artifact(
            name=f"search-{name}",
            settings={**options, **size},
            compute=partial(search, config, name),
            inputs=(ridge_of,),
        )
        curve = Artifact(
            name=f"curve-{name}",
            settings={**networks, **take("seeds", "curve")},
            compute=partial(curve_of_networks, config),
            inputs=(searched,),
        )
        judged = Artifact(
            name=f"judge-{name}",
            settings={**networks, **take("judge_seeds", "tolerance", "delta")},
            compute=partial(judge_by_networks, config),
            inputs=(searched, curve),
        )
        artifacts += [searched, curve, judged]
    return artifacts


def set_names(config: Config) -> list[str]:
    """Return the names of the forget sets, each of which starts with its kind."""
    clusters = [f"cluster-{label}" for label in config.cluster_classes]
    return clusters + [f"random-{i}" for i in range(config.random_sets)]


def kinds_of(config: Config) -> dict[str, list[str]]:
    """Return the names of the forget sets by kind, without empty kinds."""
    kinds: dict[str, list[str]] = {}
    for name in set_names(config):
        kinds.setdefault(name.split("-")[0], []).append(name)
    return kinds


def forget_set(config: Config, splits: data.Splits, name: str) -> np.ndarray:
    """Return the positions ``[F]`` of a forget set in the training samples."""
    kind, number = name.split("-")
    if kind == "random":
        size = config.random_size
        mask = data.forget_random(config.num_train, count=size, seed=int(number))
        return np.flatnonzero(mask)
    members = np.flatnonzero(data.forget_class(splits.train.labels, int(number)))
    images = splits.train.images[members].reshape(len(members), -1) / 255
    cluster = KMeans(2, n_init=cast(Any, 4), random_state=0).fit_predict(images)
    return members[cluster == np.argmin(np.bincount(cluster))]


def choose_ridge(config: Config) -> dict[str, np.ndarray]:
    """Return the ridge with the smallest leave-one-out error, and removal's error.

    The random features are those of a world that neither searches nor judges.

    Returns:
      ``ridge``; ``errors`` of all :data:`RIDGES`; and ``gap``, the largest difference
      in outputs between removing a tenth of the samples and fitting again without them.
    """
    splits = data.load_digits(num_train=config.num_train)
    inputs = splits.train.images.reshape(config.num_train, -1) / 255
    targets = np.eye(10)[splits.train.labels] - 0.1
    # One BLAS thread, because threads wait for each other on a busy machine.
    with jax.enable_x64(True), threadpool_limits(1):
        features = ridge.random_relu_features(
            jax.random.key(10_000), jnp.asarray(inputs), config.num_features
        )
        kernel = features @ features.T
        goal = jnp.asarray(targets)
        fits = [ridge.fit(kernel, goal, ridge=value) for value in RIDGES]
        errors = [
            np.mean((ridge.leave_one_out(model, kernel, goal) - targets) ** 2)
            for model in fits
        ]
        best = int(np.argmin(errors))
        removed = config.num_train // 10
        exact = np.asarray(kernel @ ridge.downdate(fits[best], jnp.arange(removed)))
        rest = np.asarray(features)[removed:]
        gram = rest.T @ rest + RIDGES[best] * np.eye(config.num_features)
        weights = np.linalg.solve(gram, rest.T @ targets[removed:])
        refitted = np.asarray(features) @ weights
    return {
        "ridge": np.array(RIDGES[best]),
        "errors": np.array(errors),
        "gap": np.array(np.abs(exact - refitted).max()),
    }


def prefixes(order: np.ndarray, counts: ArrayLike) -> np.ndarray:
    """Return masks ``[Q, F]`` of the first ``counts`` ``[Q]`` samples of an order."""
    return np.argsort(order)[None] < np.asarray(counts)[:, None]


def counts_of(fractions: ArrayLike, total: int) -> np.ndarray:
    """Return fractions of a forget set as numbers of samples, each at least one."""
    return np.maximum(np.round(np.asarray(fractions) * total), 1).astype(int)


def search(config: Config, name: str, chosen: Arrays) -> dict[str, np.ndarray]:
    """Return a core-set, subsets of equal size, and their counterfactuals.

    Args:
      config: study configuration.
      name: name of the forget set.
      chosen: arrays of :func:`choose_ridge`.

    Returns:
      From the worlds of the search: ``index`` ``[F]``, the positions of the forget set;
      ``orders`` ``[R, F]`` and ``subsets`` ``[R, F]`` of the core-set search, of
      influence and at random; ``searched``, the size before samples are dropped again
      and the PS of the core-set; ``sizes_elsewhere``, the core-sets' sizes at the other
      tolerances; ``top_shares``, the suppression along the order by influence. On W
      judging worlds, the suppression ``[W, ...]`` without subsets (``shares``), without
      their complements (``rest_shares``), without all members of the core-set but one
      (``one_left_shares``), and along the orders (``curve`` at ``curve_sizes``).
    """
    splits = data.load_digits(num_train=config.num_train)
    index = forget_set(config, splits, name)
    labels = splits.train.labels[index]
    count = len(index)
    draws = np.random.default_rng(7)
    random_orders = [draws.permutation(count) for _ in range(config.random_orders)]
    with jax.enable_x64(True), threadpool_limits(1):
        num_worlds = config.search_worlds + config.judge_worlds
        worlds = coresets.seed_worlds(
            jax.random.split(jax.random.key(0), num_worlds),
            splits.train.images / 255,
            splits.train.labels,
            index,
            num_classes=10,
            ridge=float(chosen["ridge"]),
            num_features=config.num_features,
            bootstrap=config.bootstrap,
        )
        seen = jax.tree.map(lambda leaf: leaf[: config.search_worlds], worlds)
        unseen = jax.tree.map(lambda leaf: leaf[config.search_worlds :], worlds)
        find = partial(coresets.find_core_set, seen, labels, delta=config.delta)
        core_sets = find(tolerance=config.tolerance)
        orders = np.array(
            [core_sets.order, coresets.rank_by_influence(seen, labels), *random_orders]
        )
        size = core_sets.members.sum()
        subsets = np.array(
            [core_sets.members, *(prefixes(order, [size])[0] for order in orders[1:])]
        )
        counts = counts_of(SIZES, count)
        curves = np.concatenate([prefixes(order, counts) for order in orders])
        one_left = (
            core_sets.members[None] & ~np.eye(count, dtype=bool)[core_sets.members]
        )
        shares = partial(coresets.suppression_without, unseen, labels)
        elsewhere = [find(tolerance=v).members.sum() for v in config.other_tolerances]
        return {
            "index": index,
            "orders": orders,
            "subsets": subsets,
            "searched": np.array([core_sets.forward_size, core_sets.sufficiency]),
            "sizes_elsewhere": np.array(elsewhere),
            "top_shares": coresets.suppression_without(
                seen, labels, prefixes(orders[1], np.arange(1, count + 1))
            ),
            "shares": shares(subsets),
            "rest_shares": shares(~subsets),
            "one_left_shares": shares(one_left),
            "curve": (
                shares(curves).reshape(config.judge_worlds, len(orders), len(counts))
            ),
            "curve_sizes": counts / count,
        }


def train_without(
    config: Config, seeds: tuple[int, ...], core_sets: Arrays, among: np.ndarray
) -> dict[str, np.ndarray]:
    """Train networks without subsets of the forget set.

    Args:
      config: study configuration.
      seeds: S training seeds.
      core_sets: arrays of :func:`search`.
      among: ``[Q, F]`` subsets to leave out.

    Returns:
      ``margins`` and ``signals`` ``[S, Q, F]`` on the forget set; ``accuracy``
      ``[S, Q]`` on the forget set; and ``test_accuracy`` ``[S, Q]``.
    """
    splits = data.load_digits(num_train=config.num_train)
    index = core_sets["index"]
    labels = splits.train.labels[index]
    removed = np.zeros((len(among), config.num_train), bool)
    removed[:, index] = among
    model = models.build("mlp", (8, 8, 1), 10, widths=(config.width,))
    recipe = train.Recipe(
        num_epochs=config.num_epochs, batch_size=64, tx=train.sgd(0.05)
    )
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    images = np.concatenate([splits.train.images[index], splits.test.images])
    logits = coresets.retrain_without(
        keys, model, splits.train, removed, recipe, images
    )
    on_test = logits[:, :, len(index) :]
    logits = logits[:, :, : len(index)]
    return {
        "margins": np.asarray(coresets.margins(jax.nn.softmax(logits, -1), labels)),
        "signals": np.asarray(audit.logit_margin(logits, labels)),
        "accuracy": (logits.argmax(-1) == labels).mean(-1),
        "test_accuracy": (on_test.argmax(-1) == splits.test.labels).mean(-1),
    }


def shares_of(networks: Arrays) -> np.ndarray:
    """Return the suppression ``[S, Q]`` of each network.

    The networks of the first two columns are trained on everything (0) and without the
    forget set (1).
    """
    level = networks["margins"].mean(-1)
    return coresets.suppression(level, level[:, :1], level[:, 1:2])


def curve_of_networks(config: Config, core_sets: Arrays) -> dict[str, np.ndarray]:
    """Return the suppression ``[S, 3, Q]`` along three orders of the forget set."""
    count = len(core_sets["index"])
    counts = counts_of(config.curve, count)
    ends = np.stack([np.zeros(count, bool), np.ones(count, bool)])
    parts = [prefixes(order, counts) for order in core_sets["orders"][:3]]
    among = np.concatenate([ends, *parts])
    shares = shares_of(train_without(config, config.seeds, core_sets, among))
    return {"shares": shares[:, 2:].reshape(len(config.seeds), 3, len(config.curve))}


def enough(config: Config, shares: np.ndarray) -> np.ndarray:
    """Return the smallest sufficient fraction on the curve of networks.

    Args:
      config: study configuration, whose curve ascends.
      shares: ``[S, 3, Q]`` suppression from :func:`curve_of_networks`.

    Returns:
      ``[3]``, the fraction for each order; 1 if no point of the curve suffices.
    """
    sufficiency = coresets.suppressed(shares, tolerance=config.tolerance).mean(0)
    is_enough = sufficiency >= 1 - config.delta - 1e-9
    passed = np.concatenate([is_enough, np.ones((3, 1), bool)], axis=1)
    return np.array([*config.curve, 1.0])[passed.argmax(1)]


def judge_by_networks(
    config: Config, core_sets: Arrays, curve: Arrays
) -> dict[str, np.ndarray]:
    """Train networks of new seeds without each of the subsets that are compared.

    Returns:
      The arrays of :func:`train_without`, and ``among`` ``[14, F]``, the subsets. The
      columns are :data:`NOTHING`, :data:`ALL`, :data:`FROM_KERNEL`, :data:`SIZED` and
      :data:`AGAIN`; ``among`` has all of them except the last.
    """
    count = len(core_sets["index"])
    size = counts_of(enough(config, curve["shares"])[:1], count)
    sized = np.concatenate([prefixes(order, size) for order in core_sets["orders"][:3]])
    ends = np.stack([np.zeros(count, bool), np.ones(count, bool)])
    subsets = core_sets["subsets"][:3]
    among = np.concatenate([ends, subsets, ~subsets, sized, ~sized])
    networks = train_without(config, config.judge_seeds, core_sets, among)
    other_seeds = tuple(100_000 + seed for seed in config.judge_seeds)
    again = train_without(config, other_seeds, core_sets, ends[1:])
    both = {
        name: np.concatenate([networks[name], again[name]], axis=1) for name in networks
    }
    return {"among": among, **both}
