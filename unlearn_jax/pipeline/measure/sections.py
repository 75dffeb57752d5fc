"""Analyses of a run in addition to its table, with a record for each."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax import audit
from unlearn_jax.audit import Estimate
from unlearn_jax.layers import unfound
from unlearn_jax.pipeline.measure import records
from unlearn_jax.pipeline.measure.pool import AuditPool
from unlearn_jax.pipeline.measure.rows import (
    RETRAINED,
    estimate,
    round_all,
    rounded,
)
from unlearn_jax.pipeline.measure.statistics import Measured, Statistics, subtract
from unlearn_jax.pipeline.stages.models import stack_attack, take_models
from unlearn_jax.pipeline.stages.plan import Plan
from unlearn_jax.pipeline.store.artifact import Stored
from unlearn_jax.replicas import map_models
from unlearn_jax.spectral import spectral_norms
from unlearn_jax.theory import summarize_terms, theorem_terms
from unlearn_jax.types import Array, AttackResult, Dataset, Variables, to_float

VULNERABLE_FPR = 0.05
"""False positive rate at which a single sample counts as found."""
_NUM_EXPOSED = 10


class RowAnalyses(NamedTuple):
    """Analyses of measured rows that need no model; None where they do not apply.

    Attributes:
      vulnerability: frequency with which samples are found; needs references.
      confusion: predictions on forgotten classes; needs forget sets of whole classes.
      klom: distances between ensembles, if requested.
      arrays: arrays of the figures: ``vulnerability/ROW [1, N_train]``.
    """

    vulnerability: records.Vulnerability | None
    confusion: records.Confusion | None
    klom: records.Klom | None
    arrays: dict[str, np.ndarray]


def analyze_rows(
    pool: AuditPool, arrays: Mapping[str, np.ndarray], class_names: Sequence[str]
) -> RowAnalyses:
    """Analyze the rows of a table by their arrays.

    Args:
      pool: pool of the table.
      arrays: arrays of :class:`~unlearn_jax.pipeline.measure.rows.Measurements`.
      class_names: names of the classes; empty if they have none.
    """
    exposed = classes = distances = None
    figures = {}
    ratios = _by_row(arrays, "ratio")
    if ratios:
        exposed, fractions = vulnerability(pool, ratios)
        figures = {f"vulnerability/{name}": one for name, one in fractions.items()}
    if pool.classes is not None:
        classes = confusion(pool, _by_row(arrays, "confusion"), class_names)
    margins = _by_row(arrays, "margin")
    if pool.config.klom and RETRAINED in margins:
        oracle = margins.pop(RETRAINED)
        distances = klom(pool, margins, oracle)
    return RowAnalyses(exposed, classes, distances, figures)


def _by_row(arrays: Mapping[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """Return the arrays of one kind, by row."""
    return {
        name.partition("/")[2]: array
        for name, array in arrays.items()
        if name.startswith(f"{kind}/")
    }


def vulnerability(
    pool: AuditPool, ratios: Mapping[str, np.ndarray]
) -> tuple[records.Vulnerability, dict[str, np.ndarray]]:
    """Measure the fraction of runs in which each forgotten sample is found.

    Only the runs that forgot the sample count.

    Args:
      pool: pool of the table.
      ratios: RMIA's ratios ``[R, N]`` by row. (RMIA's scores do not serve: they are a
        step function of the ratios, with ties at the threshold.)

    Returns:
      The record, and the fractions ``[1, N_train]`` of all training samples by row.
    """
    rows = {}
    fractions = {}
    for name, ratio in ratios.items():
        result = audit.vulnerability(
            ratio,
            pool.forget,
            ~pool.train,
            max_fpr=VULNERABLE_FPR,
            level=pool.config.level,
        )
        forgotten = result.fraction[result.num_runs > 0]
        count = min(_NUM_EXPOSED, len(forgotten))
        most = []
        for sample in audit.most_vulnerable(result, num_samples=count):
            interval = (
                result.fraction[sample],
                result.low[sample],
                result.high[sample],
            )
            fraction, low, high = round_all(interval)
            most.append(
                records.ExposedSample(
                    sample=int(sample),
                    label=int(pool.labels[sample]),
                    fraction=fraction,
                    low=low,
                    high=high,
                    num_runs=int(result.num_runs[sample]),
                )
            )
        rows[name] = records.RowVulnerability(
            mean=round_all([np.mean(forgotten)])[0],
            num_always=int(np.sum(forgotten == 1)),
            num_samples=len(forgotten),
            most=tuple(most),
        )
        fractions[name] = result.fraction[None, pool.train]
    return records.Vulnerability(max_fpr=VULNERABLE_FPR, rows=rows), fractions


def confusion(
    pool: AuditPool, fractions: Mapping[str, np.ndarray], class_names: Sequence[str]
) -> records.Confusion:
    """Average the predictions on the forgotten classes' test samples, by forget set.

    Args:
      pool: pool of the table.
      fractions: ``[R, C]`` fractions of the samples assigned to each class, by row.
      class_names: names of the classes; empty if they have none.
    """

    def named(label: int) -> str:
        has_name = len(class_names) > label and class_names[label] != str(label)
        return f"class {label}" + (f" ({class_names[label]})" if has_name else "")

    sets = []
    for one in pool.classes.sets if pool.classes else ():
        neighbors = one.neighbors or (None,) * len(one.classes)
        titles = []
        for label, neighbor in zip(one.classes, neighbors, strict=True):
            nearest = "" if neighbor is None else f", nearest {named(neighbor)}"
            titles.append(named(label) + nearest)
        rows = {
            name: round_all(array[list(one.runs)].mean(0))
            for name, array in fractions.items()
        }
        sets.append(
            records.ConfusionSet(
                title=" and ".join(titles),
                classes=one.classes,
                neighbors=neighbors,
                rows=rows,
            )
        )
    return records.Confusion(sets=tuple(sets))


def klom(
    pool: AuditPool, margins: Mapping[str, np.ndarray], oracle: np.ndarray
) -> records.Klom:
    """Measure every row's KLoM against the ensemble of retrained models.

    The KLoM of the second retrained ensemble is the floor.

    Args:
      pool: pool of a table with one forget set.
      margins: ``[R, N]`` logit margins by row.
      oracle: ``[R, N]`` logit margins of the retrained models.
    """
    forget = pool.forget[0]
    parts = {
        "forget": forget,
        "retain": ~forget & pool.train,
        "test": ~pool.train,
    }
    rows = {}
    for name, margin in margins.items():
        values = audit.klom(margin, oracle)
        rows[name] = {}
        for part, mask in parts.items():
            summary = audit.klom_summary(values[mask], level=pool.config.level)
            low, high = summary.mean_interval
            mean = Estimate(summary.mean, np.nan, low, high, len(margin), 0)
            median, p95 = round_all([summary.median, summary.p95])
            rows[name][part] = records.KlomDistance(
                mean=rounded(mean), median=median, p95=p95
            )
    return records.Klom(num_models=len(oracle), rows=rows)


def request_scores(
    plan: Plan, pool: AuditPool, unlearned: Mapping[str, Stored]
) -> records.Requests:
    """Measure the published score after every request of a sequence.

    The score is the AUC of D_R against D_F minus the AUC of D_F against test samples.
    D_F is the latest request, and D_R consists of the training samples outside of all
    requests so far. The retrained models were not trained on any request, so their D_R
    excludes all requests from the start.

    Args:
      plan: plan of the run.
      pool: pool that measures samples one by one, even where whole classes are
        forgotten.
      unlearned: unlearned models by row.
    """
    test = ~pool.train
    requests = plan.requests[plan.runs[:, 1]]
    requests = np.pad(requests, ((0, 0), (0, 0), (0, int(test.sum()))))
    originals = plan.originals.logits()
    oracles = plan.oracles.logits()
    count = requests.shape[1]
    steps = {
        "original": [np.stack([originals[o]] * count) for o in plan.runs[:, 0]],
        "retrained": [np.stack([oracles[p]] * count) for p in plan.pair_of_run],
        **{name: parts.each("steps") for name, parts in unlearned.items()},
    }
    rows = {}
    for name, runs in steps.items():
        if any(pool.usable_signals(list(run)) is None for run in runs):
            continue
        scores = []
        for k in range(count):
            removed = np.asarray(requests[:, : k + 1].any(1))
            if name == "retrained":
                removed = pool.forget
            measured = _score_request(
                pool, [run[k] for run in runs], requests[:, k], removed
            )
            units = {"score": "", "fr_auc": "%", "ft_auc": "%"}
            estimates = {
                key: estimate(pool, one, units[key]) for key, one in measured.items()
            }
            values = {key: round_all(one.value) for key, one in measured.items()}
            scores.append(records.RequestScore(**estimates, values=values))
        rows[name] = tuple(scores)
    return records.Requests(count=count, size=int(requests[0, 0].sum()), rows=rows)


def _score_request(
    pool: AuditPool,
    logits: Sequence[np.ndarray],
    request: np.ndarray,
    removed: np.ndarray,
) -> dict[str, Measured]:
    """Measure both AUCs in percent, and their difference.

    Args:
      pool: pool of the run.
      logits: ``[N, C]`` logits of every run after the request.
      request: ``[R, N]`` bool, samples of the request.
      removed: ``[R, N]`` bool, samples that do not count as retained.
    """
    _, scores = pool.rmia(pool.signals(logits))

    def statistics_of(run: int) -> Statistics:
        parts = {
            "request": request[run],
            "retain": pool.train & ~removed[run],
            "test": ~pool.train,
        }
        statistics = Statistics()
        statistics.roc(
            audit.Ranking(scores[run], parts),
            {"fr_auc": ("retain", "request"), "ft_auc": ("request", "test")},
        )
        return statistics

    aucs = {}
    for key, one in pool.measure(statistics_of).items():
        assert one.replicates is not None
        aucs[key] = one._replace(value=100 * one.value, replicates=100 * one.replicates)
    score = subtract(aucs["fr_auc"], aucs["ft_auc"])
    return {"score": score, **aucs}


def norms(plan: Plan, unlearned: Mapping[str, Stored]) -> records.Norms:
    """Compute the spectral norm of every layer by Lanczos, for the models of each row.

    Args:
      plan: plan of the run.
      unlearned: unlearned models by row.
    """
    originals = plan.originals.variables()
    oracles = plan.oracles.variables()
    count = len(plan.pairs)
    stacks = {
        "original": [originals],
        "retrained": [jax.tree.map(lambda leaf: leaf[:count], oracles)],
        "retrained_again": [jax.tree.map(lambda leaf: leaf[count:], oracles)],
    }
    for name, parts in unlearned.items():
        stacks[name] = [content["models"] for _, content in parts.pieces()]
    apply = plan.model.apply
    image = jnp.zeros((1, *plan.pool.images.shape[1:]))

    def layer_norms(variables: Variables, shared: tuple[()]) -> dict[str, Array]:
        del shared
        return spectral_norms(apply, variables, image)

    rows = {}
    for name, stack in stacks.items():
        parts = []
        for models in stack:
            mapper = plan.mapper(len(jax.tree.leaves(models)[0]), is_audit=True)
            models = jax.tree.map(jnp.asarray, models)
            parts.append(map_models(mapper, layer_norms, models, ()))
        rows[name] = {}
        for layer in parts[0]:
            values = np.concatenate([np.asarray(part[layer]) for part in parts])
            rows[name][layer] = records.Range(
                mean=float(values.mean()),
                low=float(values.min()),
                high=float(values.max()),
            )
    variables = jax.eval_shape(plan.model.init, jax.random.key(0))
    spec = jax.ShapeDtypeStruct(image.shape, jnp.float32)
    return records.Norms(
        max_norm=plan.training.max_norm,
        rows=rows,
        unfound=tuple(unfound(apply, variables, spec)),
    )


def theory(
    plan: Plan,
    unlearned: Mapping[str, Stored],
    adversarial: Mapping[str | None, Stored],
) -> records.Theory:
    """Compute the terms of AMUN's Theorem 4.1, for rows with adversarial examples.

    Each term is a mean over the samples of a run. Rows whose adversarial sets are
    recomputed at every request are left out.

    Args:
      plan: plan of the run.
      unlearned: unlearned models by row.
      adversarial: adversarial sets, by name of the attack.
    """
    originals = plan.originals.variables()
    oracles = plan.oracles.variables()
    terms = partial(_terms, plan)
    rows = {}
    for name, parts in unlearned.items():
        attack = plan.rows[name].attack
        if attack is None or plan.rows[name].adaptive:
            continue
        order = []
        bounds = []
        for items, content in parts.pieces():
            sizes = plan.forget[plan.runs[items, 1]].sum(1)
            for size in np.unique(sizes):
                chosen = np.flatnonzero(sizes == size)
                batch = [items[position] for position in chosen]
                runs = plan.runs[batch]
                pairs = plan.pair_of_run[batch]
                index = np.stack([np.flatnonzero(plan.forget[s]) for s in runs[:, 1]])
                stacked = (
                    take_models(originals, runs[:, 0]),
                    take_models(oracles, pairs),
                    take_models(content["models"], chosen),
                    jnp.asarray(index),
                    stack_attack(adversarial[attack], pairs, size),
                )
                mapper = plan.mapper(len(batch), is_audit=True)
                bounds.append(map_models(mapper, terms, stacked, plan.splits.train))
                order += batch
        rows[name] = {}
        for key in bounds[0]:
            # Runs are batched by the size of their forget sets: restore their order.
            values = np.concatenate([np.asarray(part[key]) for part in bounds])
            values = values[np.argsort(order)]
            rows[name][key] = records.Term(
                mean=float(np.mean(values)),
                std=float(np.std(values, ddof=1)) if len(values) > 1 else np.nan,
                values=tuple(float(value) for value in values),
            )
    return records.Theory(rows=rows)


def _terms(
    plan: Plan,
    item: tuple[Variables, Variables, Variables, Array, AttackResult],
    train: Dataset,
) -> dict[str, Array]:
    original, retrained, unlearned, index, examples = item
    samples = Dataset(to_float(train.images[index]), train.labels[index])
    terms = theorem_terms(
        plan.model.apply,
        original,
        retrained,
        unlearned,
        samples,
        AttackResult(*examples),
    )
    return summarize_terms(terms)
