"""Output filters against retraining, on tables and trees as well as networks.

Command::

    python experiments/benchmarks/mpru_tabular.py
    python experiments/benchmarks/mpru_tabular.py --data covtype --file covtype.data.gz

Results: ``experiments/results/mpru_tabular.json``, which the script writes

Each class is forgotten in turn, for several seeds (of the split and the models, and for
the generated table also of the data). MPRU takes class means from 15% of the rows,
held out; "training means" are from the training set. The generated table is **made
up**: it shares with Covertype only its shape of 54 columns, 44 of them one-hot, and 7
unequal classes. Digits and wine (178 wines, 13 measurements, 3 growers) are real and
come with scikit-learn. Retrained models are conditioned on the retained classes too (a
network keeps a small probability for a class that it never saw). The columns are: the
absolute gap to the retrained model's accuracy on retained test samples; KL(retrained ||
filtered) in nats on these samples, and on test samples of the forgotten class; the
fraction of the latter for which both models predict the same class. A second retraining
(another seed) is the best that can be expected. Intervals are from crossed random
effects of seeds and classes. KL's second argument is at least 0.001.
"""

import argparse
import dataclasses
import datetime
import functools
import os
import pathlib
import platform
import sys
import time
from collections.abc import Callable, Iterator
from operator import itemgetter

import jax
import numpy as np
import sklearn
from sklearn.datasets import load_digits, load_wine
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits  # scikit-learn's own dependency

from unlearn_jax import __version__, models, replicas, train
from unlearn_jax.audit import Estimate, summarize_runs
from unlearn_jax.audit.predictions import kl_divergence, softmax
from unlearn_jax.filters import class_means, masked_renormalization, mpru
from unlearn_jax.pipeline import pages, published
from unlearn_jax.pipeline.code_digest import code_digest
from unlearn_jax.pipeline.report.blocks import format_cell
from unlearn_jax.types import Dataset, InputError

Predict = Callable[[np.ndarray], np.ndarray]
SHARES = np.array(
    [0.35, 0.45, 0.07, 0.02, 0.03, 0.04, 0.04]
)  # near Covertype's; its rarest class has 0.005
METRICS = ("Accuracy gap", "KL retained", "KL forgotten", "Agreement")
UNITS = ("", "nats", "nats", "")
BOUNDS = ((0.0, 1.0), (0.0, np.inf), (0.0, np.inf), (0.0, 1.0))
PAIRED = "MPRU inductive less mask"


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
    """Return columns scaled to [0, 1], as the library's networks take them, and labels.

    The real tables are the same for every seed.
    """
    if name == "generated":
        features, labels = generated_table(seed, args.num_samples)
    elif name == "covtype":
        features, labels = covertype(args.file, seed, args.num_samples)
    elif name == "wine":
        features, labels = load_wine(return_X_y=True)
    else:
        features, labels = load_digits(return_X_y=True)
    span = np.ptp(features, axis=0)
    scaled = (features - features.min(0)) / np.where(span > 0, span, 1)
    return scaled.astype(np.float32), labels


def grow(
    classifier: type,
    options: dict,
    x: np.ndarray,
    y: np.ndarray,
    members: np.ndarray,
    seed: int,
) -> list[Predict]:
    """Return a tree ensemble per row of ``members [M, N]``.

    Its probability of a class that it never saw is 0.
    """
    num_classes = int(y.max()) + 1

    def predict(
        trees: RandomForestClassifier | HistGradientBoostingClassifier,
        features: np.ndarray,
    ) -> np.ndarray:
        probs = np.zeros((len(features), num_classes))
        probs[:, trees.classes_] = trees.predict_proba(
            features
        )  # a retrained ensemble has no column for its forgotten class
        return probs

    # boosting's threads spin: they are 20 times slower if another process needs a core
    with threadpool_limits(1):
        grown = [
            classifier(random_state=1000 * seed + m, **options).fit(x[of], y[of])
            for m, of in enumerate(members)
        ]
    return [functools.partial(predict, trees) for trees in grown]


def networks(
    x: np.ndarray, y: np.ndarray, members: np.ndarray, seed: int
) -> list[Predict]:
    """Return a perceptron per row of ``members [M, N]``, trained in one program."""
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
    "generated": ("forest", "boosting", "mlp"),
    "covtype": ("forest", "boosting", "mlp"),
    "digits": ("forest", "mlp"),
    "wine": ("forest", "mlp"),
}
TITLES = {
    "forest": "random forest",
    "boosting": "gradient boosting",
    "mlp": "perceptron of 64",
}


def compare(
    fit: Callable[..., list[Predict]],
    x: np.ndarray,
    y: np.ndarray,
    seed: int,
    floor: float,
) -> Iterator[dict[str, np.ndarray]]:
    """Forget each class in turn; yield the four metrics ``[4]`` of every filter."""
    x_train, x_rest, y_train, y_rest = train_test_split(
        x, y, test_size=0.4, random_state=seed, stratify=y
    )
    x_held, x_test, y_held, y_test = train_test_split(
        x_rest, y_rest, test_size=0.75, random_state=seed, stratify=y_rest
    )
    classes = np.unique(y)
    everything = np.ones((1, len(y_train)), bool)
    without = np.stack([y_train != label for label in classes])
    members = np.concatenate([everything, without, without])
    original, *again = fit(x_train, y_train, members, seed)
    probs = original(x_test)
    few = class_means(original(x_held), y_held)
    seen = class_means(original(x_train), y_train)
    for i, label in enumerate(classes):
        retrained = np.asarray(masked_renormalization(again[i](x_test), label), float)
        second = again[len(classes) + i](x_test)
        answers = {
            "Mask": masked_renormalization(probs, label),
            "MPRU direct": mpru(probs, few, label, variant="direct"),
            "MPRU inductive": mpru(probs, few, label),
            "MPRU inductive, training means": mpru(probs, seen, label),
            "Retrained again (seed floor)": masked_renormalization(second, label),
        }
        is_forgotten = y_test == label
        named = retrained.argmax(1)
        accuracy = (named == y_test)[~is_forgotten].mean()
        metrics = {}
        for name, answer in answers.items():
            answer = np.asarray(answer, float)
            is_right = answer.argmax(1) == y_test
            divergence = kl_divergence(retrained, answer, floor=floor)
            metrics[name] = np.array(
                [
                    abs(is_right[~is_forgotten].mean() - accuracy),
                    divergence[~is_forgotten].mean(),
                    divergence[is_forgotten].mean(),
                    (answer.argmax(1) == named)[is_forgotten].mean(),
                ]
            )
        metrics[PAIRED] = metrics["MPRU inductive"] - metrics["Mask"]
        yield metrics


def table_of(
    title: str, runs: list[list[dict[str, np.ndarray]]]
) -> published.ResultTable:
    """Return a table of means over seeds and classes with their intervals.

    Args:
      title: title of the table.
      runs: metrics of every filter, by seed and class.
    """
    rows = []
    for name in runs[0][0]:
        values = np.array([list(map(itemgetter(name), of_seed)) for of_seed in runs])
        cells = []
        for metric in range(len(METRICS)):
            bounds = None if name == PAIRED else BOUNDS[metric]
            summary = summarize_runs(values[:, :, metric], bounds=bounds)
            shown = Estimate(summary.mean, np.nan, summary.low, summary.high, 0, 0)
            cells.append(published.parse_cell(" ".join(format_cell(shown, 3)).strip()))
        rows.append((name, *cells))
    return published.ResultTable(
        title=title, columns=("filter", *METRICS), units=("", *UNITS), rows=tuple(rows)
    )


def main() -> int:
    """Measure a table per data set and model; return 1 if the data are missing."""
    parser = argparse.ArgumentParser(
        description="Compare output filters with retraining, one class at a time."
    )
    parser.add_argument(
        "--data",
        nargs="*",
        default=["generated", "digits", "wine"],
        choices=tuple(DEFAULT_MODELS),
    )
    parser.add_argument(
        "--file", type=pathlib.Path, help="UCI's covtype.data or covtype.data.gz"
    )
    parser.add_argument(
        "--models",
        nargs="*",
        choices=tuple(MODELS),
        help="kinds of models; all by default, on digits and wine forest and mlp",
    )
    parser.add_argument(
        "--num-seeds", type=int, default=5, help="number of seeds of splits and models"
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
    parser.add_argument("--out", type=pathlib.Path, help="JSON file to write")
    args = parser.parse_args()
    began = time.process_time()
    tables = []
    for name in args.data:
        try:
            data = [load(args, name, seed) for seed in range(args.num_seeds)]
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        size = " x ".join(map(str, data[0][0].shape))
        for kind in args.models or DEFAULT_MODELS[name]:
            runs = []
            for seed, (x, y) in enumerate(data):
                runs.append(list(compare(MODELS[kind], x, y, seed, args.floor)))
            title = f"{name.capitalize()} {size}, {TITLES[kind]}"
            tables.append(table_of(title, runs))
            print(f"{title}\n\n{pages.markdown_table(tables[-1])}\n", flush=True)
    path = args.out or published.folder() / "mpru_tabular.json"
    words = published.read_result(published.folder() / "mpru_tabular.json")
    result = dataclasses.replace(
        words,
        date=datetime.date.today().isoformat(),
        device=f"{os.cpu_count()} CPU cores ({platform.machine()})",
        versions={
            "unlearn_jax": __version__,
            "Python": ".".join(platform.python_version_tuple()[:2]),
            "JAX": jax.__version__,
            "scikit-learn": sklearn.__version__,
        },
        commit="",
        code=code_digest("mpru_tabular"),
        time=f"{time.process_time() - began:.0f} s of processor time",
        tables=tuple(tables),
    )
    published.write_result(result, path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
