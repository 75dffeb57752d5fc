"""Plain dictionaries of the results' records, in the form that these pages read."""

from typing import Any

from unlearn_jax.pipeline.measure.records import RowResult, RunResult, to_plain

_METRIC = {"label": "name", "direction": "target", "description": "help"}


def plain_results(result: RunResult) -> dict[str, Any]:
    """Return the records of a run as nested dictionaries."""
    data: Any = result.to_json()
    data["metrics"] = [
        {_METRIC.get(key, key): value for key, value in metric.items()}
        for metric in data["metrics"]
    ]
    data["rows"] = [_row(row) for row in result.rows]
    data["created"] = result.date
    data["config_hash"] = result.config_digest
    data["unlearn_jax"] = result.versions.get("unlearn_jax", "")
    data["environment"] = {**result.versions, "devices": result.device}
    for attack in data["attacks"].values():
        attack["radii"] = list(zip(attack["radii"], attack["counts"], strict=True))
    data["attack"] = data["attacks"].pop("", None)
    data["config"].setdefault("attacks", {})
    tuning = data["tuning"]
    if tuning:
        for search in tuning["rows"].values():
            search |= {"nothing": tuning["original"], "sets": tuning["sets"]}
            for trial in search["trials"]:
                trial["knobs"] = trial.pop("options")
        data["tuning"] = tuning["rows"]
    for row in (data["vulnerability"] or {"rows": {}})["rows"].values():
        row |= {"always": row["num_always"], "samples": row["num_samples"]}
        for sample in row["most"]:
            sample |= {"share": sample["fraction"], "runs": sample["num_runs"]}
    if data["klom"]:
        data["klom"]["models"] = data["klom"]["num_models"]
        for row in data["klom"]["rows"].values():
            for part in row.values():
                part |= part.pop("mean")
    return data


def _row(row: RowResult) -> dict[str, Any]:
    data: Any = to_plain(row)
    for key, cell in data["metrics"].items():
        cell["values"] = data["values"][key]
    data["knobs"] = data["options"]
    if row.attack:
        data["knobs"]["attack"] = row.attack
    return data
