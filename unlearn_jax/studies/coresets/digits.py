"""Core-sets of digits: the smallest part of a forget set that is enough."""

import dataclasses
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits  # scikit-learn's own dependency

from unlearn_jax import audit, data, models, train
from unlearn_jax.contrib import coresets
from unlearn_jax.influence import ridge
from unlearn_jax.pipeline import Part
from unlearn_jax.types import InputError

Arrays = Mapping[str, np.ndarray]


GRID = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)


SIZES = np.linspace(0.05, 1.0, 20)
"""Of the curve on kernel models, in shares of the forget set."""


ORDERS = ("core-set search", "most influential first", "random")


WAYS = ("core-set", "most influential, as many", "random, as many")


KINDS = {"cluster": "Clusters of a class", "random": "Random samples"}


NOTHING, ALL, FROM_KERNEL, SIZED, AGAIN = 0, 1, 2, 8, 14
"""Networks that judge: where among those of a seed they are. Three subsets, then their complements, at the middle two."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Core-sets found on kernel models with exact removal, confirmed by networks trained again."""

    num_train: int = 900
    """Training samples; the other digits are the test set."""
    cluster_classes: tuple[int, ...] = (1, 3, 8)
    """One forget set each: the smaller of two k-means clusters of the class's training images."""
    random_sets: int = 3
    """Random forget sets."""
    random_size: int = 90
    """Samples in each of them."""
    search_worlds: int = 24
    """Kernel models, each with random features of its own, that the search sees."""
    judge_worlds: int = 40
    """Others that judge what it found."""
    num_features: int = 512
    """Random ReLU features of a kernel model."""
    bootstrap: bool = False
    """Redraw the retained samples of each kernel model too."""
    tolerance: float = 0.1
    """How near to the oracle is near enough, in shares of what the oracle forgets."""
    other_tolerances: tuple[float, ...] = (0.05, 0.2, 0.5)
    """Core-sets are counted for these too."""
    delta: float = 0.1
    """The search wants PS of at least one less this."""
    random_orders: int = 5
    """Random orders of a forget set on kernel models; networks are trained for the first."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Training seeds of the networks of the curve, which decide how many samples a network needs removed."""
    judge_seeds: tuple[int, ...] = (10, 11, 12, 13, 14)
    """Others, which judge."""
    curve: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 0.9)
    """Shares of the forget set at which networks are trained."""
    width: int = 128
    """Hidden units of the networks, which have one hidden layer."""
    num_epochs: int = 40
    """Of their training."""


def make_parts(config: Config) -> dict[str, Part]:
    """One part for the ridge; for each forget set its search, networks of a curve, and networks that judge."""
    if (
        min(
            len(config.seeds),
            len(config.judge_seeds),
            config.search_worlds,
            config.judge_worlds,
        )
        < 3
    ):
        raise InputError(
            "seeds, judge_seeds, search_worlds and judge_worlds: give at least 3 of"
            " each"
        )
    if set(config.seeds) & set(config.judge_seeds):
        raise InputError(
            "judge_seeds share a seed with seeds: judge on seeds that decided nothing"
        )
    if not all(0 < share < 1 for share in config.curve):
        raise InputError(
            f"the curve's shares must lie between 0 and 1, got {config.curve}"
        )
    take = lambda *names: {name: getattr(config, name) for name in names}
    networks = take("num_train", "width", "num_epochs")
    knobs = take(
        "search_worlds",
        "judge_worlds",
        "bootstrap",
        "tolerance",
        "other_tolerances",
        "delta",
        "random_orders",
    )
    parts = {
        "ridge": Part(take("num_train", "num_features"), partial(choose_ridge, config))
    }
    for name in set_names(config):
        searched, curve = f"search-{name}", f"curve-{name}"
        size = {"size": config.random_size} if name.startswith("random") else {}
        parts[searched] = Part(
            {**knobs, **size}, partial(search, config, name), needs=("ridge",)
        )
        sized = {**networks, **take("seeds", "curve")}
        parts[curve] = Part(
            sized, partial(curve_of_networks, config), needs=(searched,)
        )
        judged = {**networks, **take("judge_seeds", "tolerance", "delta")}
        parts[f"judge-{name}"] = Part(
            judged, partial(judge_by_networks, config), needs=(searched, curve)
        )
    return parts


def set_names(config: Config) -> list[str]:
    """Names of the forget sets, kind first."""
    return [f"cluster-{c}" for c in config.cluster_classes] + [
        f"random-{i}" for i in range(config.random_sets)
    ]


def kinds_of(config: Config) -> dict[str, list[str]]:
    """Forget sets by kind, those that there are."""
    names = {
        kind: [name for name in set_names(config) if name.startswith(kind)]
        for kind in KINDS
    }
    return {kind: own for kind, own in names.items() if own}


def forget_set(config: Config, splits: data.Splits, name: str) -> np.ndarray:
    """Positions ``[F]`` of a forget set."""
    kind, number = name.split("-")
    if kind == "random":
        return np.flatnonzero(
            data.forget_random(
                config.num_train, count=config.random_size, seed=int(number)
            )
        )
    members = np.flatnonzero(data.forget_class(splits.train.labels, int(number)))
    images = splits.train.images[members].reshape(len(members), -1) / 255
    cluster = KMeans(2, n_init=4, random_state=0).fit_predict(images)
    return members[cluster == np.argmin(np.bincount(cluster))]


def choose_ridge(config: Config) -> dict[str, np.ndarray]:
    """The ridge with the least leave-one-out error on all of D, in a world of its own; and how exact removal is."""
    splits = data.load_digits(num_train=config.num_train)
    inputs, targets = (
        splits.train.images.reshape(config.num_train, -1) / 255,
        np.eye(10)[splits.train.labels] - 0.1,
    )
    with (
        jax.enable_x64(True),
        threadpool_limits(1),
    ):  # threads of a busy machine wait for each other
        features = ridge.random_relu_features(
            jax.random.key(10_000), jnp.asarray(inputs), config.num_features
        )
        kernel = features @ features.T
        fits = [ridge.fit(kernel, jnp.asarray(targets), ridge=value) for value in GRID]
        errors = [
            np.mean(
                (ridge.leave_one_out(model, kernel, jnp.asarray(targets)) - targets)
                ** 2
            )
            for model in fits
        ]
        best = int(np.argmin(errors))
        gone = config.num_train // 10
        exact = np.asarray(kernel @ ridge.downdate(fits[best], jnp.arange(gone)))
        rest = np.asarray(features)[gone:]
        gram = rest.T @ rest + GRID[best] * np.eye(config.num_features)
        refitted = np.asarray(features) @ np.linalg.solve(gram, rest.T @ targets[gone:])
    return {
        "ridge": np.array(GRID[best]),
        "errors": np.array(errors),
        "gap": np.array(np.abs(exact - refitted).max()),
    }


def prefixes(order: np.ndarray, counts: ArrayLike) -> np.ndarray:
    """The first samples of an order as masks: ``[F], [Q] -> [Q, F]``."""
    return np.argsort(order)[None] < np.asarray(counts)[:, None]


def counts_of(shares: np.ndarray, total: int) -> np.ndarray:
    """Shares of a forget set in samples, at least one."""
    return np.maximum(np.round(np.asarray(shares) * total), 1).astype(int)


def search(config: Config, name: str, chosen: Arrays) -> dict[str, np.ndarray]:
    """Core-set, comparisons of equal size, and their counterfactuals on worlds that the search did not see."""
    splits = data.load_digits(num_train=config.num_train)
    index = forget_set(config, splits, name)
    labels, count = splits.train.labels[index], len(index)
    draws = np.random.default_rng(7)
    random_orders = [draws.permutation(count) for _ in range(config.random_orders)]
    with jax.enable_x64(True), threadpool_limits(1):
        worlds = coresets.seed_worlds(
            jax.random.split(
                jax.random.key(0), config.search_worlds + config.judge_worlds
            ),
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
        found = find(tolerance=config.tolerance)
        orders = np.array(
            [found.order, coresets.rank_by_influence(seen, labels), *random_orders]
        )
        size = found.members.sum()
        subsets = np.array(
            [found.members, *(prefixes(order, [size])[0] for order in orders[1:])]
        )
        counts = counts_of(SIZES, count)
        curves = np.concatenate([prefixes(order, counts) for order in orders])
        one_left = found.members[None] & ~np.eye(count, dtype=bool)[found.members]
        shares = partial(coresets.suppression_without, unseen, labels)
        return {
            "index": index,
            "orders": orders,
            "subsets": subsets,
            "searched": np.array([found.forward_size, found.sufficiency]),
            "sizes_elsewhere": np.array(
                [
                    find(tolerance=value).members.sum()
                    for value in config.other_tolerances
                ]
            ),
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
    config: Config, seeds: tuple[int, ...], found: Arrays, among: np.ndarray
) -> dict[str, np.ndarray]:
    """Networks without subsets ``[Q, F]`` of the forget set: margins and signals ``[S, Q, F]``, accuracies ``[S, Q]``."""
    splits = data.load_digits(num_train=config.num_train)
    index = found["index"]
    labels, removed = (
        splits.train.labels[index],
        np.zeros((len(among), config.num_train), bool),
    )
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
    logits, on_test = logits[:, :, : len(index)], logits[:, :, len(index) :]
    return {
        "margins": np.asarray(coresets.margins(jax.nn.softmax(logits, -1), labels)),
        "signals": np.asarray(audit.logit_margin(logits, labels)),
        "accuracy": (logits.argmax(-1) == labels).mean(-1),
        "test_accuracy": (on_test.argmax(-1) == splits.test.labels).mean(-1),
    }


def shares_of(networks: Arrays) -> np.ndarray:
    """Share of the knowledge suppressed by each network, ``[S, Q]``, the first two without nothing and without F."""
    level = networks["margins"].mean(-1)
    return coresets.suppression(level, level[:, :1], level[:, 1:2])


def curve_of_networks(config: Config, found: Arrays) -> dict[str, np.ndarray]:
    """Networks without more and more of the forget set, in three orders."""
    count = len(found["index"])
    among = [
        prefixes(order, counts_of(np.array(config.curve), count))
        for order in found["orders"][:3]
    ]
    among = np.concatenate(
        [np.zeros((1, count), bool), np.ones((1, count), bool), *among]
    )
    shares = shares_of(train_without(config, config.seeds, found, among))
    return {"shares": shares[:, 2:].reshape(len(config.seeds), 3, len(config.curve))}


def enough(config: Config, shares: np.ndarray) -> np.ndarray:
    """The smallest share of the forget set on the curve that suffices in networks, for each order; 1 if none does."""
    sufficiency = coresets.suppressed(shares, tolerance=config.tolerance).mean(0)
    passed = np.concatenate(
        [sufficiency >= 1 - config.delta - 1e-9, np.ones((3, 1), bool)], axis=1
    )
    return np.array([*config.curve, 1.0])[passed.argmax(1)]


def judge_by_networks(
    config: Config, found: Arrays, curve: Arrays
) -> dict[str, np.ndarray]:
    """Networks of new seeds without: nothing, F, core-sets, subsets of equal size, all complements; and without F again."""
    count = len(found["index"])
    size = counts_of(enough(config, curve["shares"])[:1], count)
    sized = np.concatenate([prefixes(order, size) for order in found["orders"][:3]])
    ends = np.stack([np.zeros(count, bool), np.ones(count, bool)])
    subsets = found["subsets"][:3]
    among = np.concatenate([ends, subsets, ~subsets, sized, ~sized])
    networks = train_without(config, config.judge_seeds, found, among)
    other_seeds = tuple(100_000 + seed for seed in config.judge_seeds)
    again = train_without(config, other_seeds, found, ends[1:])
    return {
        "among": among,
        **{
            name: np.concatenate([networks[name], again[name]], axis=1)
            for name in networks
        },
    }
