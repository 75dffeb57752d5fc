"""Output filters against retraining, on tabular data and trees as well as networks.

Command::

    python experiments/benchmarks/mpru_tabular.py  # a generated table, then digits
    python experiments/benchmarks/mpru_tabular.py --data covtype  # if in the cache
    python experiments/benchmarks/mpru_tabular.py --data covtype --file covtype.data.gz

Results: ``experiments/results/mpru_tabular.json``

Each class is forgotten in turn, for 3 seeds (data, split and models). "mpru" takes
class means from 15 % of the rows, held out; "training means" from the training set. The
generated table is **made up** and has only Covertype's shape: 54 columns, 44 of them
one-hot, and 7 unequal classes. Retrained models are conditioned on the retained classes
too (a network keeps a small probability for a class that it never saw). Columns:
absolute gap to the retrained model's accuracy on retained test samples; KL(retrained ||
filtered) in nats there, and on test samples of the forgotten class; fraction of these
where both name the same class. "second retrain" (another seed) is the best that can be
expected. Brackets: 95 % bootstrap intervals, seeds and classes redrawn. KL's second
argument is at least 0.001.
"""

import argparse
import functools
import os
import pathlib
import platform
import sys
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
import sklearn
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits  # scikit-learn's own dependency

from unlearn_jax import models, replicas, train
from unlearn_jax.audit import summarize
from unlearn_jax.audit.predictions import kl_divergence, softmax
from unlearn_jax.filters import class_means, masked_renormalization, mpru
from unlearn_jax.types import Dataset, InputError

Predict = Callable[[np.ndarray], np.ndarray]
SHARES = np.array(
    [0.35, 0.45, 0.07, 0.02, 0.03, 0.04, 0.04]
)  # near Covertype's; its rarest class has 0.005
METRICS = ("accuracy gap", "KL retained", "KL forgotten", "agreement")


def generated_table(seed: int, num_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a made-up table of Covertype's shape: numbers, one-hot blocks, 7 classes.

    Classes lie along one hidden line ("elevation"), so that neighbors are confused, and
    favor some of the categories.
    """
    rng = np.random.default_rng(seed)
    labels = rng.choice(7, num_samples, p=SHARES)
    place = np.array([4.0, 3.0, 1.0, 0.0, 2.2, 1.3, 5.0])[labels] + rng.normal(
        0, 0.45, num_samples
    )
    bends = rng.normal(0, 1, (3, 10))
    numbers = (
        np.stack([place, np.sin(2 * place), rng.normal(0, 1, num_samples)], 1) @ bends
    )
    numbers += rng.normal(0, 0.5, numbers.shape)
    blocks = []
    for size in (4, 40):
        centers = rng.uniform(-1, 6, size)
        taste = rng.normal(0, 0.7, (7, size))
        scores = (
            taste[labels]
            - 0.5 * (place[:, None] - centers) ** 2
            + rng.gumbel(size=(num_samples, size))
        )
        blocks.append(np.eye(size)[scores.argmax(1)])
    return np.concatenate([numbers, *blocks], 1), labels


def covertype(
    file: pathlib.Path | None, seed: int, num_samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a random part of Covertype, from UCI's file or scikit-learn's cache."""
    if file is not None:
        try:
            table = np.loadtxt(file, delimiter=",", dtype=np.float32)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{file} cannot be read as covtype.data, 55 numbers per line: {error}"
            ) from error
        features = table[:, :-1]
        labels = table[:, -1].astype(int) - 1
    else:
        from sklearn.datasets import fetch_covtype

        try:
            features, labels = fetch_covtype(return_X_y=True, download_if_missing=False)
        except OSError as error:
            raise InputError(
                "Covertype is not in scikit-learn's cache: pass --file covtype.data.gz,"
                " or fetch it once with sklearn.datasets.fetch_covtype()"
            ) from error
        labels = labels.astype(int) - 1
    chosen = np.random.default_rng(seed).choice(
        len(labels), min(num_samples, len(labels)), replace=False
    )
    return np.asarray(features)[chosen], labels[chosen]


def load(
    args: argparse.Namespace, name: str, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Columns scaled to [0, 1], as the library's networks take them, and labels."""
    if name == "generated":
        features, labels = generated_table(seed, args.num_samples)
    elif name == "covtype":
        features, labels = covertype(args.file, seed, args.num_samples)
    else:
        from sklearn.datasets import load_digits

        features, labels = load_digits(return_X_y=True)
    span = np.ptp(features, axis=0)
    return ((features - features.min(0)) / np.where(span > 0, span, 1)).astype(
        np.float32
    ), labels


def grow(
    classifier: type,
    options: dict,
    x: np.ndarray,
    y: np.ndarray,
    members: np.ndarray,
    seed: int,
) -> list[Predict]:
    """Return a tree ensemble per row of ``members [M, N]``; unseen classes have 0."""
    num_classes = int(y.max()) + 1

    def predict(
        trees: RandomForestClassifier | HistGradientBoostingClassifier,
        features: np.ndarray,
    ) -> np.ndarray:
        probs = np.zeros((len(features), num_classes))
        probs[:, trees.classes_] = trees.predict_proba(
            features
        )  # a retrained one has no column for its class
        return probs

    with threadpool_limits(
        1
    ):  # boosting's threads spin: 20 times slower where another process needs a core
        grown = [
            classifier(random_state=1000 * seed + m, **options).fit(x[of], y[of])
            for m, of in enumerate(members)
        ]
    return [functools.partial(predict, trees) for trees in grown]


def networks(
    x: np.ndarray, y: np.ndarray, members: np.ndarray, seed: int
) -> list[Predict]:
    """One perceptron per row of ``members [M, N]``, all trained in one program."""
    as_images = lambda features: features.reshape(len(features), 1, -1, 1)
    model = models.build("mlp", (1, x.shape[1], 1), int(y.max()) + 1, widths=(64,))
    recipe = train.Recipe(30, 64, train.sgd(0.05))
    keys = jax.random.split(jax.random.key(seed), len(members))
    data = Dataset(as_images(x), y.astype(np.int32))
    state, _ = replicas.fit_many(
        keys, model, data, members, recipe, epochs_per_call=recipe.num_epochs
    )

    def predict(m: int, features: np.ndarray) -> np.ndarray:
        return softmax(
            model.apply(replicas.unstack(state.variables, m), as_images(features))
        )

    return [functools.partial(predict, m) for m in range(len(members))]


BOOSTING = {
    "max_iter": 15,
    "max_leaf_nodes": 15,
    "max_features": 0.5,
    "early_stopping": False,
}
MODELS = {
    "forest": functools.partial(grow, RandomForestClassifier, {"n_estimators": 100}),
    "boosting": functools.partial(grow, HistGradientBoostingClassifier, BOOSTING),
    "mlp": networks,
}
DEFAULT_MODELS = {
    "generated": list(MODELS),
    "covtype": list(MODELS),
    "digits": ["forest", "mlp"],
}


def compare(
    fit: Callable[..., list[Predict]],
    x: np.ndarray,
    y: np.ndarray,
    seed: int,
    floor: float,
) -> Iterator:
    """Forgets each class in turn: yields (class, filter, the four metrics)."""
    x_train, x_rest, y_train, y_rest = train_test_split(
        x, y, test_size=0.4, random_state=seed, stratify=y
    )
    x_held, x_test, y_held, y_test = train_test_split(
        x_rest, y_rest, test_size=0.75, random_state=seed, stratify=y_rest
    )
    classes = np.unique(y)
    without = np.stack([y_train != f for f in classes])
    fitted = fit(
        x_train,
        y_train,
        np.concatenate([np.ones((1, len(y_train)), bool), without, without]),
        seed,
    )
    original = fitted[0]
    probs = original(x_test)
    few = class_means(original(x_held), y_held)
    seen = class_means(original(x_train), y_train)
    for f, again, second in zip(
        classes, fitted[1:], fitted[1 + len(classes) :], strict=False
    ):
        retrained = np.asarray(masked_renormalization(again(x_test), f), float)
        answers = {
            "mask": masked_renormalization(probs, f),
            "mpru direct": mpru(probs, few, f, variant="direct"),
            "mpru inductive": mpru(probs, few, f),
            "mpru inductive, training means": mpru(probs, seen, f),
            "second retrain": masked_renormalization(second(x_test), f),
        }
        forgotten = y_test == f
        named = retrained.argmax(1)
        for name, answer in answers.items():
            answer = np.asarray(answer, float)
            gap = (answer.argmax(1) == y_test)[~forgotten].mean() - (named == y_test)[
                ~forgotten
            ].mean()
            divergence = kl_divergence(retrained, answer, floor=floor)
            agreement = (answer.argmax(1) == named)[forgotten].mean()
            yield (
                int(f),
                name,
                (
                    abs(gap),
                    divergence[~forgotten].mean(),
                    divergence[forgotten].mean(),
                    agreement,
                ),
            )


def show(rows: list[tuple[int, int, str, tuple[float, ...]]]) -> None:
    """Print mean and 95 % bootstrap interval of every metric."""
    for name in dict.fromkeys(row[2] for row in rows):
        own = [row for row in rows if row[2] == name]
        factors = np.array([row[:2] for row in own])
        cells = []
        for values in np.array([row[3] for row in own]).T:
            estimate = summarize(values, None, factors)
            cells.append(
                f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
            )
        print(f"  {name:<32}" + "".join(f"{cell:>23}" for cell in cells))


def main() -> int:
    """Print a table per data set and model; return 1 if the data are missing."""
    parser = argparse.ArgumentParser(
        description="Compare output filters with retraining, one class at a time."
    )
    parser.add_argument(
        "--data",
        nargs="*",
        default=["generated", "digits"],
        choices=("generated", "covtype", "digits"),
    )
    parser.add_argument(
        "--file", type=pathlib.Path, help="UCI's covtype.data or covtype.data.gz"
    )
    parser.add_argument(
        "--models",
        nargs="*",
        choices=list(MODELS),
        help="default: all, and on digits forest and mlp",
    )
    parser.add_argument(
        "--num-seeds",
        type=int,
        default=3,
        help="each draws other data, split and models",
    )
    parser.add_argument(
        "--num-samples",
        type=int,
        default=6000,
        help="rows of the generated table or of Covertype",
    )
    parser.add_argument(
        "--floor",
        type=float,
        default=1e-3,
        help="least probability in KL's second argument",
    )
    args = parser.parse_args()
    cores = (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count()
    )
    print(
        f"{cores} CPU cores ({platform.machine()}), Python {platform.python_version()}",
        end=", ",
    )
    print(
        f"JAX {jax.__version__}, scikit-learn {sklearn.__version__}; {args.num_seeds}"
        f" seeds, KL floor {args.floor:g}"
    )
    began = time.perf_counter()
    for name in args.data:
        try:
            tables = [load(args, name, seed) for seed in range(args.num_seeds)]
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        for kind in args.models or DEFAULT_MODELS[name]:
            start = time.perf_counter()
            busy = time.process_time()
            rows = [
                (seed, *row)
                for seed, (x, y) in enumerate(tables)
                for row in compare(MODELS[kind], x, y, seed, args.floor)
            ]
            walls = time.perf_counter() - start
            busy = time.process_time() - busy
            size = " x ".join(map(str, tables[0][0].shape))
            print(
                f"{name} {size}, {kind}, {walls:.0f} s ({busy:.0f} s of processor time)"
            )
            print(" " * 34 + "".join(f"{metric:>23}" for metric in METRICS))
            show(rows)
    print(
        f"{time.perf_counter() - began:.0f} s in all ({time.process_time():.0f} s of"
        " processor time)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
