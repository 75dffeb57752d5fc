"""What the report says of the search for knobs: every row's space and trials, what was chosen, what to be warned of."""

from collections.abc import Mapping, Sequence
from typing import Any

from unlearn_jax.pipeline.report.figures import sections as plots_sections
from unlearn_jax.pipeline.report.figures.style import to_svg
from unlearn_jax.pipeline.report.tables import (
    MISSING,
    Results,
    cell_of,
    format_interval,
    format_number,
    rows_with,
)
from unlearn_jax.pipeline.report.verdict import join, place


def format_knobs(knobs: Mapping[str, Any]) -> str:
    """``name=value`` of every knob."""
    return ", ".join(f"{name}={value}" for name, value in knobs.items())


def chosen_knobs(results: Results, key: str) -> str:
    """What a search chose for a row, in a few words; nothing where none was made."""
    search = (results.get("tuning") or {}).get(key)
    if not search:
        return ""
    if search["chosen"] is None:
        return "every trial diverged"
    return format_knobs(search["trials"][search["chosen"]]["knobs"])


def tuning(results: Results) -> dict[str, Any] | None:
    """Every row's search: space, trials, what was chosen, and what speaks against trusting it."""
    searches = results.get("tuning")
    if not searches:
        return None
    rows, edges, idle, lost = [], [], [], []
    kept = next(
        (t["metrics"] for s in searches.values() for t in s["trials"] if t["metrics"]),
        {},
    )
    shown = [
        metric
        for metric in results["metrics"]
        if metric["key"] in kept and metric["key"] != "avg_gap"
    ]
    for row in rows_with(results, searches):
        search = searches[row["key"]]
        trials, remarks = search["trials"], []
        best = None if search["chosen"] is None else trials[search["chosen"]]
        if best is None:
            lost.append(row["label"])
            remarks.append("every trial diverged")
        else:
            at_edge = knobs_at_edge(search)
            remarks += at_edge
            edges += [row["label"]] if at_edge else []
            helpful = _compare(best["metrics"]["avg_gap"], search["nothing"])
            remarks += [helpful] if helpful else []
            idle += [row["label"]] if helpful else []
        rows.append(
            {
                "label": row["label"],
                "space": _space(search["space"]),
                "count": len(trials),
                "diverged": sum(not trial["metrics"] for trial in trials),
                "chosen": format_knobs(best["knobs"]) if best else MISSING,
                "gap": cell_of(best["metrics"]["avg_gap"] if best else None),
                "remarks": remarks,
                "trials": [
                    _trial(
                        trial,
                        [metric["key"] for metric in shown],
                        i == search["chosen"],
                    )
                    for i, trial in enumerate(trials)
                ],
            }
        )
    knobs = results["config"].get("tuning") or {}
    alt = "Avg Gap of the chosen trial: " + ", ".join(
        f"{row['label']} {row['gap']['text']}" for row in rows
    )
    return {
        "rows": rows,
        "warnings": _warnings(edges, idle, lost),
        "originals": knobs.get("originals") or [],
        "sets": _sets(results, searches),
        "columns": [metric["name"] for metric in shown],
        "svg": to_svg(plots_sections.tuning_plot(results), "tuning", alt),
    }


def _sets(results: Results, searches: Mapping[str, Any]) -> str:
    """The forget sets of the searches, in words."""
    names = (
        next(iter(searches.values())).get("sets")
        or (results["config"].get("tuning") or {}).get("seeds")
        or []
    )
    what = (
        "classes"
        if results["config"].get("forget", {}).get("kind") == "class"
        else "seeds"
    )
    return f"{what} {', '.join(map(str, names))}"


def knobs_at_edge(search: Mapping[str, Any]) -> list[str]:
    """A remark for each range of which the chosen trial has the lowest or the highest of three or more values."""
    remarks, chosen = [], search["trials"][search["chosen"]]["knobs"]
    for knob, values in search["space"].items():
        tried = (
            sorted({trial["knobs"][knob] for trial in search["trials"]})
            if isinstance(values, Mapping)
            else []
        )
        if len(tried) > 2 and chosen[knob] in (tried[0], tried[-1]):
            remarks.append(
                f"{knob} is the {'lowest' if chosen[knob] == tried[0] else 'highest'}"
                " tried"
            )
    return remarks


def _compare(best: Mapping[str, Any], nothing: Mapping[str, Any]) -> str:
    """What to say of a best trial that is not clearly better than doing nothing."""
    if not (format_interval(best) and format_interval(nothing)):
        return ""
    where = place(best, nothing)
    return {
        "below": "",
        "within": "not distinguishable from doing nothing",
        "above": "worse than doing nothing",
    }[where]


def _warnings(
    edges: Sequence[str], idle: Sequence[str], lost: Sequence[str]
) -> list[str]:
    said = []
    if lost:
        said.append(
            f"Every trial of {join(lost)} diverged: the given knobs were kept. Search"
            " lower learning rates."
        )
    if edges:
        said.append(
            f"The choice for {join(edges)} is the lowest or highest value tried of a"
            " range: a better one may lie beyond it. Widen the range, or allow more"
            " trials."
        )
    if idle:
        said.append(
            f"The best trial of {join(idle)} is not clearly better than doing nothing"
            " on the same forget sets (its interval overlaps, or lies above): the"
            " search found no knobs that work, or the runs are too few to see it."
        )
    return said


def _space(space: Mapping[str, Any]) -> str:
    parts = [
        (
            f"{name} {values['low']:g}–{values['high']:g}"
            if isinstance(values, Mapping)
            else f"{name} in {{{', '.join(map(str, values))}}}"
        )
        for name, values in space.items()
    ]
    return "; ".join(parts)


def _trial(
    trial: Mapping[str, Any], keys: Sequence[str], chosen: bool
) -> dict[str, Any]:
    return {
        "knobs": format_knobs(trial["knobs"]),
        "gap": cell_of(trial["metrics"].get("avg_gap")),
        "others": [
            format_number((trial["metrics"].get(key) or {}).get("mean")) for key in keys
        ],
        "diverged": not trial["metrics"],
        "chosen": chosen,
    }
