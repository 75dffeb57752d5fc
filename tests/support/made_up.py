"""Made-up results with the shapes of a real run, and a strict reader of pages."""

import dataclasses
import html.parser
import math

import numpy as np

from unlearn_jax.audit import Estimate
from unlearn_jax.pipeline.measure import records
from unlearn_jax.pipeline.measure.records import (
    AttackSummary,
    Check,
    DataSummary,
    Design,
    Metric,
    RowCost,
    RowResult,
    RunName,
    RunResult,
)
from unlearn_jax.pipeline.store.clock import Cost

METRICS = [
    ("unlearn_accuracy", "Unlearn acc", "%", "retrained", 95.0),
    ("retain_accuracy", "Retain", "%", "retrained", 99.0),
    ("test_accuracy", "Test accuracy", "%", "retrained", 94.0),
    ("ft_auc", "FT AUC", "%", "50", 50.0),
    ("fr_auc", "FR AUC", "%", "retrained", 62.0),
    ("rt_auc", "RT AUC", "%", "retrained", 62.0),
    ("ft_tpr", "TPR at 1% FPR", "%", "retrained", 1.2),
    ("mis", "MIS", "%", "retrained", 14.0),
    ("avg_gap", "Avg Gap", "pp", "0", 0.8),
    ("avg_gap_mis", "Avg Gap (MIS)", "pp", "0", 1.1),
]
METHODS = [
    "AMUN",
    "AMUN without D_R",
    "Fine-tune",
    "Random labels",
    "Gradient ascent",
    "L1-sparse",
    "SalUn",
]


def make_rows(num_methods, num_runs, rng):
    """Rows of three kinds and ``num_methods`` methods, ordered by leakage."""
    heads = [
        ("original", "Original", "original"),
        ("retrain", "Retrained", "oracle"),
        ("retrain_again", "Retrained again", "second_oracle"),
    ]
    for i in range(num_methods):
        name = METHODS[i % len(METHODS)] + " again" * (i // len(METHODS))
        heads.append((f"method{i}", name, "method"))
    rows = []
    for position, (key, label, kind) in enumerate(heads):
        leak = 1.1 * max(position - 3, 0) ** 1.2 if kind == "method" else 0.0
        leak = 12.0 if kind == "original" else leak
        metrics = {}
        values = {}
        for name, *_, center in METRICS:
            shift = leak * (0.3 if name.endswith("accuracy") else 1.0)
            spread = 0.4 + center / 200
            drawn = center + shift + spread * rng.normal(size=num_runs)
            drawn = np.clip(drawn, 0, 100)
            mean = float(drawn.mean())
            half = 0.3 + 1.5 * spread / np.sqrt(num_runs)
            std = float(drawn.std(ddof=1)) if num_runs > 1 else math.nan
            high = float(min(mean + half, 100))
            if kind == "oracle" and name.startswith("avg_gap"):
                continue
            metrics[name] = Estimate(mean, std, float(mean - half), high, num_runs, 0)
            values[name] = tuple(drawn.tolist())
        cost = RowCost(
            gradients=900 * position,
            relative_gradients=0.011 * position,
            seconds=1.5,
        )
        row = RowResult(
            key=key,
            label=label,
            kind=kind,
            method=key,
            options={"epochs": 10},
            metrics=metrics,
            values=values,
            cost=cost if position else None,
        )
        rows.append(row)
    return rows


def make_arrays(rows, num_runs, num_train, num_test, num_forget, rng):
    """Scores and margins that leak as much as a row's FT AUC."""
    forget = np.zeros((num_runs, num_train), bool)
    for mask in forget:
        mask[rng.choice(num_train, num_forget, replace=False)] = True
    arrays = {"forget": forget}
    difficulty = rng.gamma(2.0, 2.0, num_train + num_test)
    for row in rows:
        leak = (row.metrics["ft_auc"].mean - 50) / 25
        member = np.zeros((num_runs, num_train + num_test))
        member[:, :num_train] = np.where(forget, leak, 0.5)
        noise = rng.normal(size=member.shape)
        scores = 1 / (1 + np.exp(-1.5 * (noise + member)))
        margins = difficulty - 1 + 2 * member + 0.5 * noise
        arrays[f"scores/{row.key}"] = scores.astype(np.float32)
        arrays[f"margin/{row.key}"] = margins.astype(np.float32)
    radius = rng.choice(
        [0.04, 0.08, 0.16, 0.32, 0.64, 1.28],
        size=(3, num_forget),
        p=[0.1, 0.15, 0.3, 0.3, 0.1, 0.05],
    )
    status = rng.choice(4, size=radius.shape, p=[0.93, 0.04, 0.02, 0.01])
    arrays["epsilon"] = np.where(status == 1, 0, radius)
    arrays["distance"] = arrays["epsilon"] * rng.uniform(0.6, 1, radius.shape)
    arrays["status"] = status
    return arrays


def make_attack(arrays, settings=()):
    is_found = arrays["status"] == 0
    names = ("found", "already_wrong", "not_found", "zero_gradient")
    radii, counts = np.unique(arrays["epsilon"][is_found], return_counts=True)
    distances = arrays["distance"][is_found]
    return AttackSummary(
        norm="l2",
        settings=dict(settings),
        status={
            name: int((arrays["status"] == i).sum()) for i, name in enumerate(names)
        },
        radii=tuple(radii.tolist()),
        counts=tuple(counts.tolist()),
        distance_quantiles={
            str(q): float(np.quantile(distances, q)) for q in (0.05, 0.5, 0.95)
        },
        gradients=12.5,
    )


def make(num_methods=3, num_runs=6, num_train=300, num_test=80, num_forget=30):
    """``(result, arrays)`` of a made-up run."""
    rng = np.random.default_rng(1)
    rows = make_rows(num_methods, num_runs, rng)
    arrays = make_arrays(rows, num_runs, num_train, num_test, num_forget, rng)
    metrics = [
        Metric(
            key=key,
            label=label,
            unit=unit,
            direction=direction,
            description=f"Meaning of {label}.",
        )
        for key, label, unit, direction, _ in METRICS
    ]
    checks = [
        Check(name=f"check {passed}", passed=passed, detail="why")
        for passed in (True, False)
    ]
    stage = Cost(
        name="bank",
        seconds=0.1,
        compile_seconds=0.0,
        peak_memory_mb=math.nan,
        cached=True,
    )
    result = RunResult(
        title="AMUN on digits",
        preset="digits",
        command="unlearn-jax run digits --workdir runs/digits",
        date="2026-01-01T00:00:00Z",
        versions={"unlearn_jax": "0.1.0", "python": "3.11", "jax": "0.10"},
        device="cpu",
        config={"data": {"name": "digits", "note": "a < b & c"}},
        config_digest="0f" * 32,
        data=DataSummary(
            name="digits",
            num_train=num_train,
            num_test=num_test,
            num_classes=10,
            image_shape=(8, 8, 1),
            digest="ab" * 32,
        ),
        design=Design(
            forget_kind="random",
            originals=1,
            forget_sets=num_runs,
            repeats=1,
            runs=num_runs,
            num_forget=num_forget,
            references=64,
        ),
        level=0.95,
        num_bootstrap=1000,
        metrics=tuple(metrics),
        rows=tuple(rows),
        runs=tuple(
            RunName(original=0, forget_set=i, repeat=0) for i in range(num_runs)
        ),
        stages=(stage,),
        checks=tuple(checks),
        notes=("The references share the architecture of the audited models.",),
        attacks={"": make_attack(arrays)},
    )
    return result, arrays


CELL = Estimate(51.5, 1.25, 50.0, 53.0, 4, 0)
SINGLE = Estimate(97.0, math.nan, 96.0, 98.0, 1, 2)


def small_result(**changes):
    """Results of three rows with every section, some fields replaced."""
    search = records.RowSearch(
        space={"learning_rate": {"low": 0.1, "high": 1.0}, "decay_every": [0, 5]},
        trials=(
            records.Trial(options={"learning_rate": 0.0306}, metrics={"ft_auc": CELL}),
            records.Trial(options={"learning_rate": 1.0}, metrics={}),
        ),
        chosen=0,
    )
    exposed = records.ExposedSample(
        sample=3, label=1, fraction=0.5, low=0.1, high=0.9, num_runs=4
    )
    distances = records.KlomDistance(mean=SINGLE, median=0.5, p95=2.0)
    result = RunResult(
        title="Tiny",
        preset="digits",
        versions={"jax": "0.10"},
        device="2 x cpu",
        config={"forget": {"seeds": [1, 2]}, "bank": None},
        data=records.DataSummary(
            name="digits",
            num_train=60,
            num_test=30,
            num_classes=3,
            image_shape=(4, 4, 1),
            digest="ab",
        ),
        design=records.Design(
            forget_kind="random",
            originals=2,
            forget_sets=2,
            repeats=1,
            runs=4,
            num_forget=6,
            references=8,
        ),
        level=0.95,
        num_bootstrap=20,
        metrics=(
            records.Metric(
                key="ft_auc",
                label="FT AUC",
                unit="%",
                direction="50",
                description="Forget against test.",
            ),
            records.Metric(
                key="avg_gap",
                label="Avg Gap",
                unit="points",
                direction="0",
                description="Distance.",
            ),
        ),
        rows=(
            RowResult(
                key="original",
                label="Original",
                kind="original",
                method="nothing",
                metrics={"ft_auc": CELL},
                values={"ft_auc": (50.0, 53.0, math.nan, math.inf)},
            ),
            RowResult(
                key="amun",
                label="AMUN",
                method="amun",
                options={"learning_rate": 0.1, "milestones": [5]},
                attack="",
                metrics={"ft_auc": SINGLE, "avg_gap": CELL},
                cost=records.RowCost(
                    gradients=10.0, relative_gradients=0.5, seconds=1.0
                ),
            ),
            RowResult(key="lost", label="Lost", method="gradient_ascent"),
        ),
        runs=(records.RunName(original=0, forget_set=1, repeat=0),),
        stages=(
            Cost(
                name="originals (2)",
                seconds=30.0,
                compile_seconds=0.5,
                peak_memory_mb=100.0,
                cached=False,
            ),
        ),
        checks=(records.Check(name="fair", passed=True, detail="holds 50"),),
        notes=("a note",),
        attacks={
            "": records.AttackSummary(
                norm="l2",
                settings={},
                status={"found": 4},
                radii=(0.04, 0.08),
                counts=(1, 3),
                distance_quantiles={"0.5": 0.05},
                gradients=12.5,
            )
        },
        tuning=records.Tuning(
            originals=(101,),
            sets=(101, 102),
            shared=0.25,
            original=CELL,
            rows={"amun": search},
        ),
        vulnerability=records.Vulnerability(
            max_fpr=0.05,
            rows={
                "amun": records.RowVulnerability(
                    mean=0.5, num_always=1, num_samples=6, most=(exposed,)
                )
            },
        ),
        confusion=records.Confusion(
            sets=(
                records.ConfusionSet(
                    title="class 1",
                    classes=(1, 2),
                    neighbors=(0, None),
                    rows={"amun": (0.5, 0.5, 0.0)},
                ),
            )
        ),
        targets=records.Targets(
            betas=(0.25, 1.0),
            rows=(
                records.TargetDistance(
                    name="weights", values=(0.5, 0.25), low=(0.0, 0.0), high=(1.0, 1.0)
                ),
            ),
        ),
        klom=records.Klom(num_models=20, rows={"amun": {"forget": distances}}),
        requests=records.Requests(
            count=2,
            size=3,
            rows={
                "amun": 2
                * (
                    records.RequestScore(
                        score=CELL, fr_auc=CELL, ft_auc=CELL, values={"score": (1.5,)}
                    ),
                )
            },
        ),
        norms=records.Norms(
            max_norm=None,
            rows={"amun": {"dense": records.Range(mean=1.0, low=0.5, high=1.5)}},
            unfound=("scale",),
        ),
        theory=records.Theory(
            rows={
                "amun": {"delta": records.Term(mean=1e-9, std=math.nan, values=(1e-9,))}
            }
        ),
    )
    return dataclasses.replace(result, **changes)


def change_row(result, key, **fields):
    """The result with fields of one row replaced."""
    rows = [
        dataclasses.replace(row, **fields) if row.key == key else row
        for row in result.rows
    ]
    return dataclasses.replace(result, rows=tuple(rows))


def change_metric(result, key, metric, **numbers):
    """The result with numbers of one estimate replaced."""
    metrics = dict(result.row(key).metrics)
    metrics[metric] = metrics[metric]._replace(**numbers)
    return change_row(result, key, metrics=metrics)


def change_interval(result, metric, **intervals):
    """The result with the intervals of some rows replaced, each mean in the middle."""
    for key, (low, high) in intervals.items():
        mean = (low + high) / 2
        result = change_metric(result, key, metric, mean=mean, low=low, high=high)
    return result


class Page(html.parser.HTMLParser):
    """Elements, text and attributes of a page; fails where tags are not balanced."""

    def __init__(self, text):
        super().__init__()
        self.open = []
        self.tags = []
        self.attributes = []
        self.text = []
        self.feed(text)
        self.close()
        assert self.open == []
        self.words = " ".join("".join(self.text).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.text += [" "] if tag in ("td", "th", "small") else []
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def change_difference(
    result, key, metric, ends, state="undecided", *, reference="oracle", more_runs=None
):
    """Set a paired difference ``(mean, low, high)`` and the verdict of a row."""
    mean, low, high = ends
    one = records.Difference(
        mean=mean,
        low=low,
        high=high,
        margin=2.0,
        p_different=0.01 if state == "different" else 0.5,
        p_like=0.01 if state == "like" else 0.5,
        state=state,
        more_runs=more_runs,
    )
    row = result.row(key)
    own = {**row.differences.get(metric, {}), reference: one}
    differences = {**row.differences, metric: own}
    verdict = row.verdict
    if metric == "ft_auc":
        verdict = records.Verdict(state=state, metrics=(metric,), more_runs=more_runs)
    return change_row(result, key, differences=differences, verdict=verdict)
