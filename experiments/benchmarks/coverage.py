"""Coverage and power of every interval, on simulated tables of known expectation.

Command::

    python experiments/benchmarks/coverage.py --out coverage.json

Each table is drawn from :mod:`unlearn_jax.contrib.testbeds.tables` and measured by the
pipeline's own functions. ``Before`` is the former rule on the same draws, which equals
the code of commit cf02767 to 1e-15. That rule is the percentile interval of the
samples' bootstrap and the pigeonhole bootstrap of originals and forget sets, with
fitted machines held fixed. A coverage of 95% measured on 300 tables has a standard
error of 1.3 points.
"""

import argparse
import json
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import rankdata

from unlearn_jax import audit
from unlearn_jax.contrib.testbeds.tables import (
    SimulatedTable,
    TableDesign,
    expected_accuracy,
    expected_auc,
    level_of_accuracy,
    simulate_table,
)
from unlearn_jax.pipeline.config.schema import AuditConfig
from unlearn_jax.pipeline.measure.differences import compare, equivalence_margin
from unlearn_jax.pipeline.measure.pool import (
    AuditPool,
    confidences,
    make_pool,
    margins,
)
from unlearn_jax.pipeline.measure.rows import BOUNDS, estimate, measure_gaps
from unlearn_jax.pipeline.measure.rows import measure_row as measure_metrics
from unlearn_jax.pipeline.measure.statistics import Measured, Statistics

DESIGNS = ((1, 1), (3, 1), (1, 3), (3, 3), (3, 10), (10, 3))
EFFECTS = {"none": 0.0, "small": 0.1, "large": 0.3}
"""Standard deviations of the effects of originals and of forget sets."""
SEEDS = (2, 3, 4, 5, 10, 20)
ACCURACY = 0.9
SHIFT = 0.3


def former_interval(
    values: np.ndarray, replicates: np.ndarray, runs: np.ndarray
) -> tuple[float, float]:
    """Return the former interval of ``summarize``.

    Args:
      values: ``[R]`` values of the runs.
      replicates: ``[B, R]`` values under the samples' bootstrap.
      runs: ``[B, R]`` weights from :func:`unlearn_jax.audit.run_weights`.
    """
    means = (runs * replicates).sum(1) / runs.sum(1)
    low, high = np.nanquantile(means, [0.025, 0.975])
    return min(low, values.mean()), max(high, values.mean())


def make_simulated_pool(
    table: SimulatedTable, seed: int, *, num_bootstrap: int = 200, refits: int = 0
) -> AuditPool:
    """Return a pool of the pipeline for a simulated table."""
    num_train = int(table.train.sum())
    labels = np.zeros(len(table.train), int)
    config = AuditConfig(seed=seed, num_bootstrap=num_bootstrap, refits=refits)
    member = np.zeros((0, len(labels)), bool)
    forget = table.forget[:, :num_train]
    return make_pool(config, labels, forget, table.runs, None, member)


def measure_row(pool: AuditPool, table: SimulatedTable, row: int) -> dict:
    """Measure FT AUC and test accuracy of one row, as fractions."""
    test = ~pool.train

    def statistics_of(run: int) -> Statistics:
        statistics = Statistics()
        statistics.mean("accuracy", table.right[row, run], test)
        sides = {"forget": pool.forget[run], "test": test}
        ranking = audit.Ranking(table.scores[row, run], sides)
        statistics.roc(ranking, {"auc": ("forget", "test")})
        return statistics

    return pool.measure(statistics_of)


def summarize(pool: AuditPool, one: Measured) -> audit.Estimate:
    """Return the pipeline's estimate of a fraction, in percent, not rounded."""
    assert one.replicates is not None
    return audit.summarize(
        100 * one.value,
        100 * one.replicates,
        pool.factors,
        level=pool.config.level,
        bounds=BOUNDS["%"],
        num_samples=one.num_samples,
    )


def former(pool: AuditPool, one: Measured, seed: int) -> tuple[float, float]:
    """Return the former interval of a fraction, in percent.

    Args:
      pool: pool of the table.
      one: values and replicates of the fraction.
      seed: seed of the runs' bootstrap.
    """
    assert one.replicates is not None
    drawn = len(one.replicates)
    runs = audit.run_weights(np.random.default_rng(seed), drawn, pool.factors)
    return former_interval(100 * one.value, 100 * one.replicates, runs)


def seeds_only(num_tables: int, seed: int) -> list[list]:
    """Return coverage of a mean over seeds, by the number of seeds."""
    rows = []
    for count in SEEDS:
        rng = np.random.default_rng([seed, count])
        hits = np.zeros(2)
        for values in rng.normal(size=(num_tables, count)):
            factors = np.arange(count)[:, None]
            runs = audit.run_weights(rng, 1000, factors)
            low, high = former_interval(values, values[None].repeat(1000, 0), runs)
            estimate = audit.summarize_runs(values)
            hits += [low <= 0 <= high, estimate.low <= 0 <= estimate.high]
        rows.append([f"{count} seeds", *np.round(100 * hits / num_tables, 1)])
    return rows


def design_of(originals: int, sets: int, effect: float) -> TableDesign:
    """Return a design whose effects belong to factors with several levels."""
    return TableDesign(
        originals=originals,
        forget_sets=sets,
        original_std=effect if originals > 1 else 0.0,
        set_std=effect if sets > 1 else 0.0,
    )


def crossed(num_tables: int, seed: int) -> list[list]:
    """Return coverage of accuracy and AUC of crossed runs."""
    rows = []
    for originals, sets in DESIGNS:
        for name, effect in EFFECTS.items():
            if originals * sets == 1 and effect:
                continue
            design = design_of(originals, sets, effect)
            level = level_of_accuracy(design, ACCURACY)
            truth = {
                "accuracy": 100 * expected_accuracy(design, level),
                "auc": 100 * expected_auc(design, SHIFT),
            }
            hits = np.zeros(4)
            for number in range(num_tables):
                rng = np.random.default_rng([seed, originals, sets, number])
                table = simulate_table(rng, design, [SHIFT], [level])
                pool = make_simulated_pool(table, number)
                for place, (key, one) in enumerate(measure_row(pool, table, 0).items()):
                    low, high = former(pool, one, number)
                    estimate = summarize(pool, one)
                    hits[2 * place] += low <= truth[key] <= high
                    hits[2 * place + 1] += estimate.low <= truth[key] <= estimate.high
            label = f"{originals} x {sets}, {name} effects"
            rows.append([label, *np.round(100 * hits / num_tables, 1)])
    return rows


def gaps(num_tables: int, seed: int) -> list[list]:
    """Return coverage of the Avg Gap of a row that is shifted from retraining."""
    rows = []
    for originals, sets in ((3, 1), (3, 3), (3, 10)):
        for name, effect in EFFECTS.items():
            design = design_of(originals, sets, effect)

            def measure(
                key: list[int], num_bootstrap: int, design: TableDesign = design
            ) -> tuple[AuditPool, Measured]:
                rng = np.random.default_rng(key)
                table = simulate_table(rng, design, [0.0, SHIFT], [1.3, 1.5])
                pool = make_simulated_pool(table, key[-1], num_bootstrap=num_bootstrap)
                oracle, method = (measure_parts(pool, table, row) for row in range(2))
                return pool, measure_gaps(pool, method, oracle)["avg_gap"]

            drawn = [measure([seed, 1, number], 2)[1] for number in range(400)]
            truth = np.mean([one.value.mean() for one in drawn])
            hits = np.zeros(2)
            for number in range(num_tables):
                pool, one = measure([seed, 2, number], 200)
                assert one.replicates is not None
                fraction = Measured(one.value / 100, one.replicates / 100)
                low, high = former(pool, fraction, number)
                interval = estimate(pool, one, "points")
                hits += [low <= truth <= high, interval.low <= truth <= interval.high]
            label = f"{originals} x {sets}, {name} effects"
            rows.append([label, *np.round(100 * hits / num_tables, 1)])
    return rows


def measure_parts(
    pool: AuditPool, table: SimulatedTable, row: int
) -> dict[str, Measured]:
    """Measure the parts of the Avg Gap of one row, in percent."""

    def statistics_of(run: int) -> Statistics:
        forget = pool.forget[run]
        right = table.right[row, run]
        statistics = Statistics()
        statistics.mean("unlearn_accuracy", right, forget)
        statistics.mean("retain_accuracy", right, pool.train & ~forget)
        statistics.mean("test_accuracy", right, ~pool.train)
        sides = {"forget": forget, "test": ~pool.train}
        ranking = audit.Ranking(table.scores[row, run], sides)
        statistics.roc(ranking, {"ft_auc": ("forget", "test")})
        return statistics

    measured = {}
    for key, one in pool.measure(statistics_of).items():
        assert one.replicates is not None
        measured[key] = one._replace(
            value=100 * one.value, replicates=100 * one.replicates
        )
    return measured


def power(num_tables: int, seed: int) -> list[list]:
    """Return rates of detected shifts from retraining, and of verdicts, in 3 x 3."""
    rows = []
    design = design_of(3, 3, 0.1)
    for shift in (0.0, 0.12, 0.25, 0.36):
        counts = np.zeros(5)
        for number in range(num_tables):
            rng = np.random.default_rng([seed, number])
            table = simulate_table(rng, design, [0.0, 0.0, shift], [1.0])
            pool = make_simulated_pool(table, number)
            oracle, floor, method = (
                measure_row(pool, table, row)["auc"] for row in range(3)
            )
            ends = [former(pool, one, number) for one in (oracle, method)]
            counts[0] += ends[0][1] < ends[1][0] or ends[1][1] < ends[0][0]
            margin = equivalence_margin(oracle, floor, is_distance=False)
            one = compare(pool, {"method": method}, oracle, margin)["method"]
            counts[1] += not one.low <= 0 <= one.high
            states = ("like", "different", "undecided")
            counts[2 + states.index(one.state)] += 1
        points = 100 * (expected_auc(design, shift) - 0.5)
        rows.append([f"{points:.1f} points", *np.round(100 * counts / num_tables, 1)])
    return rows


def edges(num_tables: int, seed: int) -> list[list]:
    """Return coverage of the accuracy of one run near 100%."""
    rows = []
    for count, rate in ((20, 0.95), (20, 0.99), (90, 0.98), (90, 0.995), (1, 0.9)):
        rng = np.random.default_rng([seed, count])
        hits = np.zeros(2)
        for number in range(num_tables):
            right = rng.random(count) < rate
            drawn = np.random.default_rng(number)
            weights = audit.sample_weights(drawn, 200, np.zeros(count, int))
            replicates = weights @ right / count
            low, high = np.quantile(replicates, [0.025, 0.975])
            estimate = audit.summarize(
                [right.mean()],
                replicates[:, None],
                bounds=(0, 1),
                num_samples=count,
            )
            hits += [low <= rate <= high, estimate.low <= rate <= estimate.high]
        label = f"{count} samples, {100 * rate:g}% right"
        rows.append([label, *np.round(100 * hits / num_tables, 1)])
    return rows


def _expectation(draw: Callable[[int], float], count: int) -> float:
    return float(np.mean([draw(number) for number in range(count)]))


def refitted(num_tables: int, seed: int) -> list[list]:
    """Return coverage of MIS, its machine refitted or held fixed."""
    rows = []
    for originals, sets in ((1, 1), (3, 3)):
        for name, shift in (("none", 0.0), ("weak", 0.7), ("strong", 2.0)):
            design = TableDesign(
                originals=originals,
                forget_sets=sets,
                num_train=120,
                num_test=60,
                num_forget=30,
            )

            def confidences(
                key: list[int], design: TableDesign = design, shift: float = shift
            ) -> tuple[SimulatedTable, np.ndarray]:
                table = simulate_table(np.random.default_rng(key), design, [0.0])
                # retained samples are members and shifted; forgotten ones are not
                moved = table.scores[0] + shift * (table.train & ~table.forget)
                return table, moved

            def attack(
                table: SimulatedTable, margin: np.ndarray, seed: int, refits: int
            ) -> tuple[AuditPool, Measured]:
                pool = make_simulated_pool(table, seed, refits=refits)
                test = np.broadcast_to(~table.train, table.forget.shape)
                return pool, pool.mis(margin, test)

            truth = _expectation(
                lambda number, make=confidences, measure=attack: measure(
                    *make([seed, 1, number]), number, 0
                )[1].value.mean(),
                400,
            )
            hits = np.zeros(2)
            for number in range(num_tables):
                table, margin = confidences([seed, 2, number])
                pool, one = attack(table, margin, number, 60)
                estimate = summarize(pool, one)
                fixed = fixed_mis(pool, margin)
                low, high = former(pool, Measured(one.value, fixed), number)
                hits[0] += low <= 100 * truth <= high
                hits[1] += estimate.low <= 100 * truth <= estimate.high
            label = f"MIS, {originals} x {sets}, {name} attack"
            rows.append([label, *np.round(100 * hits / num_tables, 1)])
    return rows


def fixed_calls(pool: AuditPool, credits: Sequence[np.ndarray]) -> np.ndarray:
    """Return the former replicates ``[B, R]`` of machines that are held fixed.

    Args:
      pool: pool of the table.
      credits: ``[N]`` for each model, with NaN for samples that do not count.
    """
    drawn = np.concatenate([block for _, block in pool.sample_weights])
    columns = [
        audit.weighted_mean(np.nan_to_num(one), np.isfinite(one), drawn)
        for one in credits
    ]
    return np.stack(columns, axis=1)


def fixed_mis(pool: AuditPool, margin: np.ndarray) -> np.ndarray:
    """Return the former replicates ``[B, R]`` of MIS, the machine held fixed."""
    confidence = confidences(margin)
    credits = np.full(margin.shape, np.nan)
    for run, forget in enumerate(pool.forget):
        sides = (pool.train & ~forget, ~pool.train, forget)
        values = [confidence[run, side] for side in sides]
        result = audit.mis(*values, seed=pool.config.seed)
        credits[run, forget] = ~result.called_member
    return fixed_calls(pool, list(credits))


NUM_CLASSES = 4
"""Classes of the tables of forgotten classes; the last one is forgotten."""


def simulate_classes(
    rng: np.random.Generator, labels: np.ndarray, train: np.ndarray, shifts: np.ndarray
) -> np.ndarray:
    """Return logits ``[K, N, C]`` of models that push the last class to the first.

    A part of each sample's difficulty is shared by all models, as in
    :class:`unlearn_jax.contrib.testbeds.tables.TableDesign`.

    Args:
      rng: source of randomness; advanced.
      labels: ``[N]``.
      train: ``[N]`` bool.
      shifts: ``[K]`` shifts from the forgotten class's logit to that of the first
        class; doubled on the forgotten class's training samples.
    """
    num_samples = len(labels)
    shape = (len(shifts), num_samples, NUM_CLASSES)
    logits = np.sqrt(0.6) * rng.normal(size=shape[1:])
    logits = logits + np.sqrt(0.4) * rng.normal(size=shape)
    logits += 2.0 * np.eye(NUM_CLASSES)[labels]
    moved = shifts[:, None] * (labels == NUM_CLASSES - 1) * (1.0 + train)
    logits[..., -1] -= moved
    logits[..., 0] += moved
    return logits


def classes(num_tables: int, seed: int) -> list[list]:
    """Return coverage of MIA (Kodge), MIA-NN and its gap, refitted or held fixed.

    Retrained models are shifted by 1.
    """
    labels = np.tile(np.arange(NUM_CLASSES), 60)
    train = np.arange(len(labels)) < 160
    machine = audit.Discriminator(features="probabilities")
    keys = ("mia_kodge", "mia_nn", "mia_nn_gap")
    rows = []
    for originals, effect in ((1, 0.0), (3, 0.3)):
        for name, shift in (("less than", 0.5), ("as", 1.0), ("more than", 1.5)):

            def measure(
                key: list[int],
                refits: int,
                originals: int = originals,
                effect: float = effect,
                shift: float = shift,
            ) -> tuple[AuditPool, np.ndarray, dict[str, Measured]]:
                rng = np.random.default_rng(key)
                config = AuditConfig(
                    seed=key[-1],
                    num_bootstrap=max(refits, 1),
                    refits=refits,
                    discriminators=(machine,),
                    ulira=False,
                )
                shifts = np.repeat([1.0, 1.0, shift], originals)
                shifts = shifts + effect * rng.normal(size=len(shifts))
                models = simulate_classes(rng, labels, train, shifts)
                oracles = (list(models[:originals]), list(models[originals:-originals]))
                retrained = models[-originals:]
                runs = np.stack([np.arange(originals), np.zeros(originals, int)], 1)
                forget = np.broadcast_to(labels == NUM_CLASSES - 1, (originals, 240))
                pool = make_pool(
                    config,
                    labels,
                    forget[:, train],
                    runs,
                    None,
                    np.zeros((0, len(labels)), bool),
                    oracles,
                )
                return pool, models, measure_metrics(pool, list(retrained))[0]

            drawn = [measure([seed, 1, number], 0)[2] for number in range(200)]
            hits = np.zeros((len(keys), 2))
            for number in range(num_tables):
                pool, models, statistics = measure([seed, 2, number], 60)
                fixed = fixed_classes(pool, models, originals)
                for place, key in enumerate(keys):
                    truth = np.mean([one[key].value.mean() for one in drawn])
                    value = statistics[key].value / 100
                    low, high = former(pool, Measured(value, fixed[key]), number)
                    hits[place, 0] += low <= truth <= high
                    unit = "points" if key == "mia_nn_gap" else "%"
                    one = estimate(pool, statistics[key], unit)
                    hits[place, 1] += one.low <= truth <= one.high
            label = f"{originals} x 1, forgets {name} retraining, effects {effect:g}"
            rows.append([label, *np.round(100 * hits.ravel() / num_tables, 1)])
    return rows


def fixed_classes(
    pool: AuditPool, models: np.ndarray, originals: int
) -> dict[str, np.ndarray]:
    """Return the former replicates ``[B, R]`` of class attacks, machines held fixed."""
    assert pool.classes is not None
    forget = pool.forget[0]
    peers = pool.classes.peers[0]
    neighbor = pool.classes.sets[0].neighbors[0]
    kodge = []
    for margin in margins(models[-originals:], pool.labels):
        confidence = confidences(margin)
        sides = (confidence[pool.train & ~forget], confidence[forget])
        result = audit.kodge_mia(*sides, confidence[peers], seed=pool.config.seed)
        credits = np.full(len(forget), np.nan)
        credits[peers] = ~result.called_member
        kodge.append(credits)
    neighbors = []
    for logits in models:
        credits = np.full(len(forget), np.nan)
        credits[~pool.train] = audit.neighbor_credits(
            logits[~pool.train],
            pool.labels[~pool.train],
            neighbor,
            NUM_CLASSES - 1,
            discriminator=pool.config.discriminators[0],
        )
        neighbors.append(credits)
    scores = fixed_calls(pool, neighbors)
    retrained = scores[:, -originals:]
    expected = scores[:, :-originals].mean(1, keepdims=True)
    return {
        "mia_kodge": fixed_calls(pool, kodge),
        "mia_nn": retrained,
        "mia_nn_gap": np.abs(retrained - expected),
    }


def ulira(num_tables: int, seed: int) -> list[list]:
    """Return coverage of U-LiRA's balanced accuracy, pairs of models crossed."""
    rows = []
    num_samples = 40
    for count in (3, 5, 10):
        for name, shift in (("no difference", 0.0), ("shifted", 0.5)):

            def values(
                key: list[int], count: int = count, shift: float = shift
            ) -> np.ndarray:
                rng = np.random.default_rng(key)
                hardness = rng.normal(size=num_samples)
                phi = hardness + rng.normal(size=(2, count, num_samples))
                phi += 0.3 * rng.normal(size=(2, count, 1))
                phi[0] += shift
                scores = audit.ulira(*phi)
                right = scores.target_called + 1 - scores.reference_called
                return np.asarray(right) / 2

            truth = _expectation(
                lambda number, draw=values: draw([seed, 1, number]).mean(), 4000
            )
            hits = np.zeros(2)
            for number in range(num_tables):
                right = values([seed, 2, number])
                rng = np.random.default_rng(number)
                strata = np.zeros(num_samples, int)
                weights = audit.sample_weights(rng, 200, strata)
                replicates = weights @ right.T / num_samples
                factors = np.arange(count)[:, None]
                runs = audit.run_weights(rng, 200, factors)
                low, high = former_interval(right.mean(1), replicates, runs)
                estimate = audit.summarize(
                    right.mean(1),
                    replicates,
                    factors,
                    bounds=(0, 1),
                    num_samples=num_samples,
                    influences=audit.pair_influences(right.mean(1)),
                )
                hits += [low <= truth <= high, estimate.low <= truth <= estimate.high]
            label = f"U-LiRA, {count} pairs, {name}"
            rows.append([label, *np.round(100 * hits / num_tables, 1)])
    return rows


def distances(num_tables: int, seed: int) -> list[list]:
    """Return coverage of KLoM's mean, median and 95th percentile over samples."""
    rows = []
    for num_models, num_samples in ((50, 10), (50, 30), (50, 90), (20, 90)):

        def draw(
            rng: np.random.Generator, count: int, num_models: int = num_models
        ) -> np.ndarray:
            moved = 0.5 * np.abs(rng.normal(size=count))
            sides = rng.normal(size=(2, num_models, count))
            return audit.klom(sides[0] + moved, sides[1])

        many = draw(np.random.default_rng([seed, 1]), 40_000)
        truth = [many.mean(), *np.quantile(many, (0.5, 0.95))]
        hits = np.zeros(6)
        for number in range(num_tables):
            values = draw(np.random.default_rng([seed, 2, number]), num_samples)
            summary = audit.klom_summary(values)
            intervals = (
                summary.mean_interval,
                summary.median_interval,
                summary.p95_interval,
            )
            rng = np.random.default_rng(number)
            drawn = values[rng.integers(num_samples, size=(200, num_samples))]
            replicates = [drawn.mean(1), *np.quantile(drawn, (0.5, 0.95), axis=1)]
            for place in range(3):
                low, high = np.quantile(replicates[place], [0.025, 0.975])
                after = intervals[place]
                hits[2 * place] += low <= truth[place] <= high
                hits[2 * place + 1] += after.low <= truth[place] <= after.high
        label = f"{num_models} models, {num_samples} samples"
        rows.append([label, *np.round(100 * hits / num_tables, 1)])
    return rows


def rank_correlations(num_tables: int, seed: int) -> list[list]:
    """Return coverage of Spearman's correlation of 24 pairs in three groups."""
    rows = []
    groups = np.repeat(np.arange(3), 8)
    for rho in (0.0, 0.5, 0.9, 0.99):
        for shared in (0.0, 0.3, 0.7):
            truth = 6 / np.pi * np.arcsin(rho / 2)
            factor = np.linalg.cholesky([[1, rho], [rho, 1]])
            hits = np.zeros(2)
            for number in range(num_tables):
                rng = np.random.default_rng([seed, number])
                within = rng.normal(size=(3, 8, 2)) @ factor.T
                between = rng.normal(size=(3, 1, 2)) @ factor.T
                pairs = np.sqrt(1 - shared) * within + np.sqrt(shared) * between
                picked = rng.integers(3, size=(200, 3, 1))
                drawn = rng.integers(8, size=(200, 3, 8))
                ranks = rankdata(pairs[picked, drawn].reshape(200, 24, 2), axis=1)
                ranks -= ranks.mean(1, keepdims=True)
                products = (ranks[..., 0] * ranks[..., 1]).sum(1)
                sizes = np.sqrt((ranks**2).sum(1).prod(1))
                replicates = products / sizes
                low, high = np.quantile(replicates, [0.025, 0.975])
                x, y = pairs.reshape(-1, 2).T
                correlation = audit.rank_correlation(x, y, groups)
                hits += [
                    low <= truth <= high,
                    correlation.low <= truth <= correlation.high,
                ]
            label = f"correlation {rho:g}, groups {100 * shared:.0f}% of the variance"
            rows.append([label, *np.round(100 * hits / num_tables, 1)])
    return rows


def main() -> None:
    """Measure, print, and store the tables of the page."""
    parser = argparse.ArgumentParser(description="Measure coverage and power.")
    parser.add_argument(
        "--out", type=pathlib.Path, required=True, help="JSON file to write"
    )
    parser.add_argument(
        "--tables", type=int, default=300, help="number of tables of each setting"
    )
    parser.add_argument(
        "--refit-tables", type=int, default=100, help="number of tables of MIS"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--parts",
        nargs="*",
        help="words of the titles of the parts to measure; all by default",
    )
    args = parser.parse_args()
    both = ["Before", "After"]
    crossed_columns = [f"{key}, {when}" for key in ("accuracy", "AUC") for when in both]
    klom_columns = [
        f"{key}, {when}" for key in ("mean", "median", "p95") for when in both
    ]
    class_columns = [
        f"{key}, {when}"
        for key in ("MIA (Kodge)", "MIA-NN", "MIA-NN gap")
        for when in both
    ]
    power_columns = [
        "Marginal intervals disjoint (before)",
        "Paired interval without 0",
        "Verdict: like",
        "different",
        "undecided",
    ]
    parts = {
        "Mean over seeds": (both, seeds_only, 4 * args.tables),
        "Crossed runs": (crossed_columns, crossed, args.tables),
        "Avg Gap": (both, gaps, args.tables),
        "FT AUC shifted from retraining, 3 x 3": (power_columns, power, args.tables),
        "One run near the edge": (both, edges, 4 * args.tables),
        "U-LiRA": (both, ulira, args.tables),
        "KLoM over samples": (klom_columns, distances, args.tables),
        "Rank correlation of 24 pairs in three groups": (
            both,
            rank_correlations,
            args.tables,
        ),
        "Machines refitted": (both, refitted, args.refit_tables),
        "Machines refitted, forgotten classes": (
            class_columns,
            classes,
            args.refit_tables,
        ),
    }
    tables = []
    for title, (columns, function, count) in parts.items():
        if not any(word in title for word in args.parts or [title]):
            continue
        rows = function(count, args.seed)
        tables.append({"title": title, "tables": count, "columns": columns})
        tables[-1]["rows"] = [[row[0], *map(float, row[1:])] for row in rows]
        print(f"{title}: % of {count} tables ({', '.join(columns)})")
        for label, *numbers in rows:
            print(f"  {label:<32}" + "".join(f"{number:>8.1f}" for number in numbers))
        record = {"seed": args.seed, "level": 95, "parts": tables}
        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
