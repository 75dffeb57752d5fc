"""Core-sets on scikit-learn's digits: how little of a forget set must be removed for the knowledge of it to go?

Command:   unlearn-jax run coreset_digits --workdir runs/coreset_digits
Published: nothing; the first open question of arXiv 2512.06993. Neighbors say 15-82 %
less deletion (2507.15112) and
           up to about 50 % less (2512.05254) by other criteria.
Measured:  900 training digits; three clusters of a class (29 to 45 samples) and three random forget sets (90). Core-
           sets are searched on 24 kernel models (exact removal), judged on 40 others
           and on networks trained again. Knowledge: mean margin on all of F;
           suppressed: within 0.1 of the share of the oracle of the same seed. Below:
           networks, mean over 3 forget sets x 5 new seeds [95 % interval over both; PS
           and PNS exact binomial as if runs were independent, which is too narrow where
           sets differ]; U-LiRA: AUC (%) against retraining without F, on members of F
           that were left in

                                   of F  share suppressed     PS                 PNS                U-LiRA, left in
  Clusters of a class
    Nothing                          0%  0.00                 0.00 [0.00,0.22]   0.00 [0.00,0.22]   99.9 [99.6,100]
    Kernel's core-set               94%  0.96 [0.92,0.98]     0.93 [0.68,1.00]   0.93 [0.68,1.00]   81 [47,100]
      most influential, as many     94%  0.76 [0.56,0.98]     0.33 [0.12,0.62]   0.33 [0.12,0.62]   78 [38,100]
      random, as many               94%  0.82 [0.62,0.97]     0.33 [0.12,0.62]   0.33 [0.12,0.62]   96 [87,100]
    All of F (oracle)              100%  1.00                 1.00 [0.78,1.00]   1.00 [0.78,1.00]   -
    All of F, another seed         100%  1.02 [0.96,1.07]     0.67 [0.38,0.88]   -                  -
  Random samples
    Nothing                          0%  0.00                 0.00 [0.00,0.22]   0.00 [0.00,0.22]   67 [63,72]
    Kernel's core-set               60%  1.02 [1.00,1.03]     1.00 [0.78,1.00]   1.00 [0.78,1.00]   52 [46,56]
      most influential, as many     60%  1.02 [1.00,1.04]     1.00 [0.78,1.00]   1.00 [0.78,1.00]   53 [48,57]
      random, as many               60%  0.61 [0.55,0.69]     0.00 [0.00,0.22]   0.00 [0.00,0.22]   66 [62,71]
    Core-set, sized on networks     30%  0.97 [0.95,1.00]     1.00 [0.78,1.00]   1.00 [0.78,1.00]   55 [51,58]
      most influential, as many     30%  0.95 [0.89,0.99]     0.87 [0.60,0.98]   0.87 [0.60,0.98]   56 [53,59]
      random, as many               30%  0.29 [0.15,0.43]     0.00 [0.00,0.22]   0.00 [0.00,0.22]   67 [62,72]
    All of F (oracle)              100%  1.00                 1.00 [0.78,1.00]   1.00 [0.78,1.00]   -
    All of F, another seed         100%  1.02 [0.96,1.11]     0.67 [0.38,0.88]   -                  -

Reading:   A class-like forget set has no small core-set: its members stand in for one another, 91 to 97 % of them must
           go in kernel models, 80 to 100 % in networks. Which ones still matters: the
           search beats influence and chance at equal size, with a PNS of 1.00 against
           0.00 to 0.93 and 0.03 to 0.40 on kernel models, and on networks. Of a random
           set a network needs 20 to 40 % removed (kernel models 58 to 61 %), but plain
           influence finds these as well: on kernel models PNS of 0.90 to 1.00 against
           0.80 to 1.00. PN is 1 for every subset: the others alone never suffice, which
           at most of these sizes says little; so PNS equals PS and the Tian-Pearl
           bounds meet. "Every member is necessary" holds on the worlds of the search;
           on others, leaving one member in has a mean PS of 0.03 to 0.25 (clusters),
           but 0.58 to 0.89 (random sets). Seeds differ by about the tolerance: a second
           retraining passes in 0.67 of runs, so suppression this fine is seen on the
           same seed only.
Caveat:    members left out are still trained on. The attack finds those that chance leaves out; those that the search
           leaves out of random sets are harder to find: 55 % where 30 % are removed, no
           trace seen at 60 %. In clusters only 7 samples are left out, too few to tell.
Time:      14 minutes with some twenty other jobs beside, half of it compiling; peak memory 1.9 GB.
Device:    2 CPU cores (x86-64, AVX-512), Python 3.11, JAX 0.10.2.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits  # scikit-learn's own dependency

from unlearn_jax import audit, data, models, train
from unlearn_jax.contrib import coresets
from unlearn_jax.influence import ridge
from unlearn_jax.pipeline import Check, Experiment, Page, Part, Picture, Table
from unlearn_jax.pipeline.report.figures.style import COLORS, INK, MUTED, dress
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


def intervals(names: Sequence[Any], seeds: Sequence[int]) -> np.ndarray:
    """Weights of a bootstrap over forget sets and seeds, ``[1000, R]``, runs ordered by forget set."""
    runs = np.array([[i, seed] for i in range(len(names)) for seed in seeds])
    return audit.run_weights(np.random.default_rng(0), 1000, runs)


def estimate(values: list[np.ndarray], weights: np.ndarray) -> audit.Estimate:
    """Mean over forget sets and seeds with its interval; one array ``[S]`` per forget set."""
    flat = np.concatenate(values)
    return audit.summarize(flat, np.broadcast_to(flat, weights.shape), weights)


def rate(events: np.ndarray) -> str:
    """A probability with its exact binomial interval."""
    events = np.ravel(events)
    low, high = audit.clopper_pearson(int(events.sum()), events.size)
    return f"{events.mean():.2f} [{low:.2f}, {high:.2f}]"


def kernel_table(config: Config, found: Mapping[str, Arrays]) -> Table:
    """PS, PN and PNS of each core-set and of subsets of its size, on worlds that the search did not see."""
    rows = []
    for name in set_names(config):
        part = found[f"search-{name}"]
        size, count = part["subsets"][0].sum(), len(part["index"])
        one_left = coresets.suppressed(
            part["one_left_shares"], tolerance=config.tolerance
        ).mean(0)
        for label, which in zip(
            WAYS, ([0], [1], list(range(2, len(part["subsets"])))), strict=True
        ):
            enough = coresets.suppressed(
                part["shares"][:, which], tolerance=config.tolerance
            )
            rest = coresets.suppressed(
                part["rest_shares"][:, which], tolerance=config.tolerance
            )
            low, high = coresets.causes(enough.ravel(), rest.ravel()).bounds
            rows.append(
                [
                    f"{name}: {label}",
                    f"{size} of {count} ({100 * size / count:.0f} %)",
                    (
                        f"{part['shares'][:, which].mean():.2f} ±"
                        f" {part['shares'][:, which].mean(1).std(ddof=1):.2f}"
                    ),
                    rate(enough),
                    rate(~rest),
                    rate(enough & ~rest),
                    f"{low:.2f} to {high:.2f}",
                    (
                        None
                        if which != [0]
                        else (
                            f"{one_left.mean():.2f} ({one_left.min():.2f} to"
                            f" {one_left.max():.2f})"
                        )
                    ),
                ]
            )
    return Table(
        f"Kernel models: {config.judge_worlds} seeds that the search did not see",
        [
            "removed from",
            "samples",
            "share suppressed",
            "PS",
            "PN",
            "PNS",
            "Tian-Pearl bounds",
            "PS with one member left in",
        ],
        rows,
        "Exact removal from kernel ridge regressions. S(C) holds within"
        f" {config.tolerance:g} of the oracle's share of 1. PNS grows with the number"
        " of samples (all of F would have 1): compare the three rows of a forget set,"
        " which remove equally many. ± is the standard deviation over seeds; brackets"
        f" are exact binomial intervals, for the {config.random_orders} random subsets"
        " as if their runs were independent. Last column: mean over members (least to"
        f" largest); on the seeds of the search all are below {1 - config.delta:g}, as"
        " every member is necessary there.",
    )


def size_table(config: Config, found: Mapping[str, Arrays]) -> Table:
    """How many samples must go, by tolerance and model."""
    rows = []
    for name in set_names(config):
        part, count = found[f"search-{name}"], len(found[f"search-{name}"]["index"])
        passed = (
            coresets.suppressed(part["top_shares"], tolerance=config.tolerance).mean(0)
            >= 1 - config.delta - 1e-9
        )
        sizes = [
            part["subsets"][0].sum(),
            *part["sizes_elsewhere"],
            np.argmax(passed) + 1,
        ]
        networks = enough(config, found[f"curve-{name}"]["shares"])
        rows.append(
            [
                name,
                count,
                *(f"{100 * size / count:.0f} %" for size in sizes),
                *(f"{100 * s:.0f} %" for s in networks),
            ]
        )
    tolerances = [config.tolerance, *config.other_tolerances]
    return Table(
        "How much of the forget set must go",
        [
            "forget set",
            "samples",
            *(f"core-set, within {t:g}" for t in tolerances),
            f"top influence, within {config.tolerance:g}",
            *(f"networks: {order}" for order in ORDERS),
        ],
        rows,
        "Kernel models first, on the seeds of the search; then the first point of the"
        f" networks' curve at which PS is at least {1 - config.delta:g} over"
        f" {len(config.seeds)} seeds, within {config.tolerance:g}; 100 % where no point"
        " before does. Points:"
        f" {', '.join(f'{100 * share:.0f} %' for share in config.curve)}.",
    )


def network_table(
    config: Config, found: Mapping[str, Arrays], kind: str, names: list[str]
) -> Table:
    """What networks of new seeds know of the forget sets of one kind."""
    judged = [found[f"judge-{name}"] for name in names]
    weights = intervals(names, config.judge_seeds)
    shares = [shares_of(part) for part in judged]
    rows = []
    for label, column, rest in network_rows():
        enough = np.array(
            [
                coresets.suppressed(share[:, column], tolerance=config.tolerance)
                for share in shares
            ]
        )
        others = np.array(
            [
                coresets.suppressed(share[:, rest], tolerance=config.tolerance)
                for share in shares
            ]
        )
        again = column == AGAIN
        rows.append(
            [
                label,
                (
                    f"{100 * np.mean([mask.mean() for mask in removed_by(judged, column)]):.0f} %"
                ),
                estimate([share[:, column] for share in shares], weights),
                rate(enough),
                None if again else rate(~others),
                None if again else rate(enough & ~others),
                estimate(
                    [100 * part["accuracy"][:, column] for part in judged], weights
                ),
                estimate(
                    [100 * part["test_accuracy"][:, column] for part in judged], weights
                ),
            ]
        )
    return Table(
        f"{KINDS[kind]}: networks of {len(config.judge_seeds)} new seeds",
        [
            "removed",
            "of F",
            "share suppressed",
            "PS",
            "PN",
            "PNS",
            "forget acc. (%)",
            "test acc. (%)",
        ],
        rows,
        f"Mean over {len(names)} forget sets x {len(config.judge_seeds)} seeds, all"
        " counterfactuals on the same seeds; brackets: 95 % interval over forget sets"
        " and seeds, for probabilities exact binomial as if runs were independent. PS:"
        " removing these samples suppresses what the network knows of all of F; PN:"
        " removing all others of F instead does not; PNS: both.",
    )


def removed_by(judged: list[Arrays], column: int) -> list[np.ndarray]:
    """Masks over each forget set of what a column of networks went without."""
    return [part["among"][ALL if column == AGAIN else column] for part in judged]


def membership_table(config: Config, found: Mapping[str, Arrays]) -> Table:
    """Whether single samples of F can still be told to have been trained on."""
    kinds, columns = kinds_of(config), []
    rows = [[label] for label, column, _ in network_rows() if column != AGAIN]
    for kind, names in kinds.items():
        judged = [found[f"judge-{name}"] for name in names]
        columns += [
            f"{KINDS[kind].lower()}: {part} (%)" for part in ("left in", "removed")
        ]
        for row, (_, column, _) in zip(rows, network_rows(), strict=False):
            row += [
                told_apart(config, judged, column, removed=removed)
                for removed in (False, True)
            ]
    return Table(
        "Members left out of the core-set: U-LiRA's AUC",
        ["removed", *columns],
        rows,
        "Tells the networks of a row from networks retrained without F on other seeds,"
        " by the samples of F that were left in and by those removed: 50 is no trace"
        " (as all of F removed shows), 100 certainty. " + coresets.CAVEAT,
    )


def network_rows() -> list[tuple[str, int, int]]:
    """Label, column and column of the complement of each row of a network table."""
    rows = [("nothing", NOTHING, ALL)]
    rows += [
        (f"kernel's {way}" if i == 0 else way, FROM_KERNEL + i, FROM_KERNEL + 3 + i)
        for i, way in enumerate(WAYS)
    ]
    rows += [
        (f"{way}" if i else "core-set, sized on networks", SIZED + i, SIZED + 3 + i)
        for i, way in enumerate(WAYS)
    ]
    return [
        *rows,
        ("all of F (oracle)", ALL, NOTHING),
        ("all of F, another seed (floor)", AGAIN, NOTHING),
    ]


def told_apart(
    config: Config, judged: list[Arrays], column: int, *, removed: bool
) -> audit.Estimate | None:
    """U-LiRA's AUC in percent on the samples of F that a column went without, or on the others; None without any.

    Against the oracle of other seeds. Forget sets that have no such samples are left
    out.
    """
    areas = []
    for part, mask in zip(judged, removed_by(judged, column), strict=True):
        signals = part["signals"][:, :, mask == removed]
        if signals.size:
            areas.append(100 * audit.ulira(signals[:, column], signals[:, AGAIN]).auc)
    return estimate(areas, intervals(areas, config.judge_seeds)) if areas else None


def curve_figure(config: Config, found: Mapping[str, Arrays]) -> tuple[Figure, str]:
    """Size against suppression for three orders: kernel models above, networks below, a column per kind of forget set."""
    figure = Figure(figsize=(9.2, 6.4), layout="constrained")
    panels, told = (
        figure.subplots(
            2, len(kinds_of(config)), sharex=True, sharey=True, squeeze=False
        ),
        [],
    )
    for column, (kind, names) in enumerate(kinds_of(config).items()):
        title, kernels = KINDS[kind], [found[f"search-{name}"] for name in names]
        places = np.mean([part["curve_sizes"] for part in kernels], 0)
        weights = intervals(names, range(config.judge_worlds))
        below = intervals(names, config.seeds)
        for row, word in enumerate(("kernel models", "networks")):
            dress(panels[row, column], f"{title}, {word}", grid="both", size=10)
            panels[row, column].axhspan(
                1 - config.tolerance,
                1 + config.tolerance,
                color=MUTED,
                alpha=0.18,
                lw=0,
            )
        for j, (label, color) in enumerate(zip(ORDERS, COLORS, strict=False)):
            curves = [
                part["curve"][:, j] if j < 2 else part["curve"][:, 2:].mean(1)
                for part in kernels
            ]
            points = [
                estimate([curve[:, i] for curve in curves], weights)
                for i in range(len(places))
            ]
            upper, lower = panels[0, column], panels[1, column]
            upper.plot(
                [0, *places],
                [0, *(p.mean for p in points)],
                color=color,
                lw=1.8,
                label=label,
            )
            upper.fill_between(
                places,
                [p.low for p in points],
                [p.high for p in points],
                color=color,
                alpha=0.2,
                lw=0,
            )
            trained = [found[f"curve-{name}"]["shares"][:, j] for name in names]
            points = [
                estimate([curve[:, i] for curve in trained], below)
                for i in range(len(config.curve))
            ]
            means = np.array([p.mean for p in points])
            errors = [means - [p.low for p in points], [p.high for p in points] - means]
            lower.plot(
                [0, *config.curve, 1], [0, *means, 1], color=color, lw=1.2, ls="--"
            )
            beside = np.array(config.curve) + 0.01 * (
                j - 1
            )  # bars of equal curves side by side
            lower.errorbar(
                beside, means, errors, color=color, fmt="o", ms=4.5, capsize=2.5, lw=1.2
            )
            middle = int(np.argmin(abs(np.array(config.curve) - 0.4)))
            told.append(
                f"{title}, {label}: {means[middle]:.2f} in networks at"
                f" {100 * config.curve[middle]:.0f} %"
            )
    for axes in panels[:, 0]:
        axes.set_ylabel("share suppressed", fontsize=10, color=INK)
    for axes in panels[1]:
        axes.set_xlabel("share of the forget set removed", fontsize=10, color=INK)
    lines, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(
        lines,
        labels,
        loc="outside upper left",
        ncols=3,
        frameon=False,
        labelcolor=INK,
        fontsize=9.5,
    )
    return figure, "; ".join(told)


def attack_check(config: Config, found: Mapping[str, Arrays]) -> Check:
    """The attack finds nothing where there is nothing to find."""
    auc = told_apart(
        config,
        [found[f"judge-{name}"] for name in set_names(config)],
        ALL,
        removed=True,
    )
    assert auc is not None
    detail = (
        f"AUC {auc.mean:.0f} % [{auc.low:.0f}, {auc.high:.0f}] without F against other"
        " seeds without F"
    )
    return Check(
        "U-LiRA finds no trace where all of F is removed",
        auc.low <= 50 <= auc.high,
        detail,
    )


def make_page(config: Config, found: Mapping[str, Arrays]) -> Page:
    """Tables, picture and checks; the summary is made from the numbers."""
    figure, alt = curve_figure(config, found)
    gap = float(found["ridge"]["gap"])
    return Page(
        summary=summary(config, found),
        tables=[
            *(
                network_table(config, found, kind, names)
                for kind, names in kinds_of(config).items()
            ),
            membership_table(config, found),
            kernel_table(config, found),
            size_table(config, found),
        ],
        pictures=[
            Picture(
                "Size against suppression",
                figure,
                alt,
                "0 is a model trained on everything, 1 the oracle of the same seed,"
                " the gray band what counts as suppressed; bands and bars are 95 %"
                " intervals over forget sets and seeds. Random orders are means over"
                f" {config.random_orders} draws above, one draw below.",
            )
        ],
        checks=[
            Check(
                "Removal from kernel models is exact",
                gap < 1e-10,
                f"outputs differ from refitting by {gap:.0e}",
            ),
            attack_check(config, found),
        ],
    )


def summary(config: Config, found: Mapping[str, Arrays]) -> str:
    """What came out, in sentences."""
    told = []
    for kind, names in kinds_of(config).items():
        sizes = [found[f"search-{name}"]["subsets"][0].mean() for name in names]
        networks = np.mean(
            [enough(config, found[f"curve-{name}"]["shares"]) for name in names], 0
        )
        told.append(
            f"{KINDS[kind]}: the core-sets of kernel models hold"
            f" {100 * np.mean(sizes):.0f} % of the forget set; in networks"
            f" {100 * networks[0]:.0f} % of it is enough in the order of the search,"
            f" {100 * networks[1]:.0f} % by influence alone and {100 * networks[2]:.0f}"
            " % at random."
        )
    told.append(coresets.CAVEAT)
    for kind, names in kinds_of(config).items():
        judged = [found[f"judge-{name}"] for name in names]
        ours, random = (
            told_apart(config, judged, FROM_KERNEL + i, removed=False) for i in (0, 2)
        )
        if ours is not None and random is not None:
            told.append(
                "U-LiRA tells the networks from retrained ones by them with an AUC of"
                f" {ours.mean:.0f} % [{ours.low:.0f}, {ours.high:.0f}]"
                f" ({KINDS[kind].lower()}); by as many left out at random with"
                f" {random.mean:.0f} % [{random.low:.0f}, {random.high:.0f}]."
            )
    return " ".join(told)


EXPERIMENT = Experiment(
    title="Core-sets on digits", config=Config(), artifacts=make_parts, page=make_page
)
