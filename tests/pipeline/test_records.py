"""Records of a run's results: JSON and back, refusals, the table."""

import dataclasses
import json
import math

import pytest
from support.made_up import CELL, small_result

from unlearn_jax.pipeline.measure import records
from unlearn_jax.pipeline.measure.records import RunResult
from unlearn_jax.types import InputError


def test_json_and_back_gives_the_same_records():
    result = small_result()
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
    data = small_result().to_json()
    assert data["rows"][0]["values"]["ft_auc"] == [50.0, 53.0, None, None]
    assert data["rows"][1]["metrics"]["ft_auc"]["std"] is None
    read = RunResult.from_json(data)
    assert math.isnan(read.rows[0].values["ft_auc"][3])
    assert math.isnan(read.row("amun").metrics["ft_auc"].std)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (
            records.SCHEMA + 1,
            "schema 3 of newer code, but this version reads 2: update",
        ),
        (0, "schema 0 of older code, but this version reads 2: run it again"),
        (None, "from unlearn_jax 0.1: run it again in a new folder"),
    ],
)
def test_another_schema_is_refused_in_one_line(schema, message):
    data = {**small_result().to_json(), "schema": schema}
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
        RunResult.from_json({**small_result().to_json(), **change})


def test_rows_and_metrics_are_found_by_name():
    result = small_result()
    assert result.row("amun").label == "AMUN"
    assert result.row_of_kind("original") is result.rows[0]
    assert result.row_of_kind("oracle") is None
    assert result.metric("avg_gap").direction == "0"
    with pytest.raises(InputError, match="no row 'salun': choose from original, amun"):
        result.row("salun")
    with pytest.raises(InputError, match="no metric 'acc': choose from ft_auc"):
        result.metric("acc")
