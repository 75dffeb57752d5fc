"""Records of a run's results: JSON and back, refusals, the table."""

import dataclasses
import json
import math

import pytest

from unlearn_jax.audit import Estimate
from unlearn_jax.pipeline.measure import records
from unlearn_jax.pipeline.measure.records import RowResult, RunResult
from unlearn_jax.pipeline.store.clock import Cost
from unlearn_jax.types import InputError

CELL = Estimate(51.5, 1.25, 50.0, 53.0, 4, 0)
SINGLE = Estimate(97.0, math.nan, 96.0, 98.0, 1, 2)


def make_result():
    """Results with every section."""
    search = records.RowSearch(
        space={"learning_rate": {"low": 0.1, "high": 1.0}, "decay_every": [0, 5]},
        trials=(
            records.Trial(options={"learning_rate": 0.1}, metrics={"ft_auc": CELL}),
            records.Trial(options={"learning_rate": 1.0}, metrics={}),
        ),
        chosen=0,
    )
    exposed = records.ExposedSample(
        sample=3, label=1, fraction=0.5, low=0.1, high=0.9, num_runs=4
    )
    distances = records.KlomDistance(mean=SINGLE, median=0.5, p95=2.0)
    return RunResult(
        title="tiny",
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
                cost=records.RowCost(gradients=10.0, relative=0.5, seconds=1.0),
            ),
            RowResult(key="lost", label="Lost", method="gradient_ascent"),
        ),
        runs=(records.RunName(original=0, forget_set=1, repeat=0),),
        stages=(
            Cost(
                name="originals (2)",
                seconds=1.0,
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
            count=1,
            size=3,
            rows={
                "amun": (
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


def test_json_and_back_gives_the_same_records():
    result = make_result()
    text = json.dumps(result.to_json(), allow_nan=False)
    read = RunResult.from_json(json.loads(text))
    assert read.to_json() == result.to_json()
    assert json.loads(text)["schema"] == records.SCHEMA
    for field in dataclasses.fields(RunResult):
        assert type(getattr(read, field.name)) is type(getattr(result, field.name))
    without_nan = dataclasses.replace(
        result, rows=result.rows[1:2], klom=None, theory=None
    )
    cost = without_nan.rows[0].cost
    metrics = {"avg_gap": CELL}
    row = dataclasses.replace(without_nan.rows[0], metrics=metrics, cost=cost)
    without_nan = dataclasses.replace(without_nan, rows=(row,))
    assert RunResult.from_json(without_nan.to_json()) == without_nan


def test_numbers_that_are_not_finite_are_null_in_json_and_nan_when_read():
    data = make_result().to_json()
    assert data["rows"][0]["values"]["ft_auc"] == [50.0, 53.0, None, None]
    assert data["rows"][1]["metrics"]["ft_auc"]["std"] is None
    read = RunResult.from_json(data)
    assert math.isnan(read.rows[0].values["ft_auc"][3])
    assert math.isnan(read.row("amun").metrics["ft_auc"].std)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (records.SCHEMA + 1, "schema 2 of newer code, this one reads 1: update"),
        (0, "schema 0 of older code, this one reads 1: run it again"),
        (None, "of unlearn_jax 0.1: run it again in a new folder"),
    ],
)
def test_another_schema_is_refused_in_one_line(schema, message):
    data = {**make_result().to_json(), "schema": schema}
    with pytest.raises(InputError, match=message) as caught:
        RunResult.from_json(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surprise": 1}, "results lacks or adds surprise"),
        ({"level": "high"}, r"results\.level is 'high'"),
        ({"level": True}, r"results\.level is True"),
        ({"notes": "one"}, r"results\.notes is 'one'"),
        ({"rows": [{"key": "x"}]}, r"results\.rows\[0\] lacks or adds adaptive"),
        ({"klom": 3}, r"results\.klom is 3"),
    ],
)
def test_damaged_results_are_refused_by_the_name_of_the_field(change, message):
    with pytest.raises(InputError, match=message):
        RunResult.from_json({**make_result().to_json(), **change})


def test_rows_and_metrics_are_found_by_name():
    result = make_result()
    assert result.row("amun").label == "AMUN"
    assert result.row_of_kind("original") is result.rows[0]
    assert result.row_of_kind("oracle") is None
    assert result.metric("avg_gap").direction == "0"
    assert [row.is_diverged for row in result.rows] == [False, False, True]
    with pytest.raises(InputError, match="no row 'salun': choose from original, amun"):
        result.row("salun")
    with pytest.raises(InputError, match="no metric 'acc': choose from ft_auc"):
        result.metric("acc")


def test_table_has_a_label_the_estimates_and_the_cost():
    columns, rows = make_result().table()
    assert columns == ["", "FT AUC (%)", "Avg Gap (points)", records.COST]
    assert rows[0] == ["Original", CELL, None, None]
    assert rows[1] == ["AMUN", SINGLE, CELL, None]
    assert rows[2] == ["Lost", None, None, None]
    columns, rows = make_result().table(["avg_gap"])
    assert columns == ["", "Avg Gap (points)", records.COST]
    assert rows[1] == ["AMUN", CELL, None]
    with pytest.raises(InputError, match="no metric"):
        make_result().table(["acc"])
