"""What a run's numbers say, and do not say, in a paragraph of plain words."""

from collections.abc import Mapping, Sequence
from typing import Any

from unlearn_jax.pipeline.report.tables import (
    Results,
    diverged,
    format_interval,
    format_number,
)

_FIFTY: Mapping[str, Any] = {"low": 50, "high": 50}
_MAX_NAMED = 6


def verdict(results: Results) -> str:
    """What the numbers say, and do not say, in a paragraph of plain words.

    Two rows are called different only when their intervals do not overlap, and never
    called equal.

    Args:
      results: of a run.

    Returns:
      The paragraph.
    """
    design, data = results["design"], results["data"]
    runs = "a single run" if design["runs"] == 1 else f"{design['runs']} runs"
    sentences = [
        f"{design['num_forget']:,} of {data['num_train']:,} training samples are to be"
        f" forgotten, in {runs}."
    ]
    failed = [check for check in results.get("checks", []) if not check["passed"]]
    if failed:
        start = (
            "A check was not passed: read it"
            if len(failed) == 1
            else f"{len(failed)} checks failed: read them"
        )
        sentences.insert(0, f"{start} below before you trust a number.")
    by_class = any(metric["key"] == "tv_forget" for metric in results["metrics"])
    sentences += (
        _say_classes(results)
        if by_class
        else _say_references(results) + _say_methods(results)
    )
    sentences += _say_gap(results) + _say_lost(results)
    if design["runs"] == 1:
        sentences.append(
            "With a single run the intervals know of the samples that were drawn, but"
            " not of how much another forget set or another training would change."
        )
    return " ".join(sentences)


def _say_references(results: Results) -> list[str]:
    """How the attack does on the models whose answer is known: before unlearning, and retrained."""
    said = []
    for row in results["rows"]:
        cell = row["metrics"].get("ft_auc")
        if row["kind"] not in ("original", "oracle") or not format_interval(cell):
            continue
        where = place(cell, _FIFTY)
        unseen = (
            "although it never saw the forget samples: compare with this row, not with"
            " 50 %"
        )
        meaning = {
            ("original", "above"): "so the attack does recognize training samples",
            ("original", "within"): (
                "so the attack hardly works here, and its failure on other rows proves"
                " little"
            ),
            (
                "original",
                "below",
            ): "so the attack points the wrong way here: do not trust it on other rows",
            ("oracle", "above"): f"above 50 % {unseen}",
            (
                "oracle",
                "within",
            ): (
                "an interval that contains 50 %, as it should for a model that never"
                " saw the forget samples"
            ),
            ("oracle", "below"): f"below 50 % {unseen}",
        }[row["kind"], where]
        said.append(
            f"{row['label']} has an FT AUC of {_in_words(cell, '%')}, {meaning}."
        )
    return said


def _say_methods(results: Results) -> list[str]:
    """Which methods the attack tells from the oracle (from 50 %, when there is none)."""
    name, goal = "50 %", _FIFTY
    oracle = find_row(results, "oracle")
    if oracle and format_interval(oracle["metrics"].get("ft_auc")):
        name, goal = f"that of {oracle['label']}", oracle["metrics"]["ft_auc"]
    groups: dict[str, list[str]] = {"within": [], "above": [], "below": []}
    fifty = []
    for row in results["rows"]:
        cell = row["metrics"].get("ft_auc")
        if row["kind"] == "method" and format_interval(cell):
            groups[place(cell, goal)].append(row["label"])
            if place(cell, _FIFTY) == "within":
                fifty.append(row["label"])
    said = []
    if groups["within"]:
        one = len(groups["within"]) == 1
        said.append(
            f"The FT AUC interval{'' if one else 's'} of {join(groups['within'])}"
            f" overlap{'s' if one else ''} {name}: no difference was found, which is"
            " not a proof that there is none."
        )
    elif groups["above"] or groups["below"]:
        said.append(f"No method has an FT AUC interval that overlaps {name}.")
    if groups["above"]:
        said.append(
            "Above it, so still recognizable as training data: the forget samples of"
            f" {join(groups['above'])}."
        )
    if groups["below"]:
        said.append(
            "Below it, so less familiar than data never seen, which gives them away"
            f" too: those of {join(groups['below'])}."
        )
    if said and name != "50 %":
        said.append(
            "50 % itself lies in"
            f" {f'the interval of {join(fifty)}' if fifty else 'no interval of a method'}."
        )
    return said


def _say_classes(results: Results) -> list[str]:
    """Which methods behave on the forgotten classes as retrained models do, by each measure of that."""
    oracle, again, said = (
        find_row(results, "oracle"),
        find_row(results, "second_oracle"),
        [],
    )
    measures = {"tv_forget": "TV forget", "ulira": "U-LiRA", "mia_nn_gap": "MIA-NN gap"}
    for key, name in measures.items():
        goal = oracle["metrics"].get(key) if oracle else None
        rows = [
            r
            for r in results["rows"]
            if r["kind"] == "method" and format_interval(r["metrics"].get(key))
        ]
        if not rows or not goal or not format_interval(goal):
            continue
        best = min(
            rows,
            key=lambda row: abs(
                row["metrics"][key]["mean"] - (50 if key == "ulira" else 0)
            ),
        )
        unit = "%" if key == "ulira" else "points"
        sentence = (
            f"{name}: {join([best['label']])} comes nearest to retraining with"
            f" {_in_words(best['metrics'][key], unit)}"
        )
        if again:
            sentence += (
                ", where another seed alone gives"
                f" {_in_words(again['metrics'].get(key), '')}"
            )
        floor = again["metrics"].get(key) if again else None
        goal = floor if floor and format_interval(floor) else goal
        near = [
            row["label"] for row in rows if place(row["metrics"][key], goal) == "within"
        ]
        sentence += (
            f"; {join(near)} overlap{'s' if len(near) == 1 else ''} that"
            if near
            else "; no method overlaps that"
        )
        said.append(f"{sentence}.")
    return said


def _say_gap(results: Results) -> list[str]:
    """The method with the smallest Avg Gap, and whether its lead is clear."""
    gaps = [
        (row["metrics"]["avg_gap"], row["label"])
        for row in results["rows"]
        if row["kind"] == "method" and format_interval(row["metrics"].get("avg_gap"))
    ]
    if not gaps:
        return []
    best, label = min(gaps, key=lambda pair: pair[0]["mean"])
    said = (
        f"{join([label])} has the smallest Avg Gap to retraining,"
        f" {_in_words(best, 'percentage points')}"
    )
    tied = [
        other for cell, other in gaps if other != label and cell["low"] <= best["high"]
    ]
    if tied:
        said += f", with an interval that overlaps that of {join(tied)}"
    again = find_row(results, "second_oracle")
    floor = again["metrics"].get("avg_gap") if again else None
    if again and format_interval(floor):
        said += (
            f"; {again['label']}, about what a perfect method would reach, has"
            f" {_in_words(floor, '')}"
        )
    return [f"{said}."]


def _say_lost(results: Results) -> list[str]:
    """The methods that have no numbers."""
    lost = [row["label"] for row in results["rows"] if diverged(row)]
    if not lost:
        return []
    return [
        f"{join(lost)} {'has' if len(lost) == 1 else 'have'} no numbers: not every run"
        " ended in finite ones."
    ]


def place(cell: Mapping[str, Any] | None, goal: Mapping[str, Any]) -> str:
    """Where an interval lies: ``above``, ``below`` or (when they share a point) ``within`` the goal's."""
    cell = cell or {}
    return (
        "above"
        if cell["low"] > goal["high"]
        else "below"
        if cell["high"] < goal["low"]
        else "within"
    )


def _in_words(cell: Mapping[str, Any] | None, unit: str) -> str:
    cell = cell or {}
    return f"{format_number(cell['mean'])} {unit} {format_interval(cell)}".replace(
        "  ", " "
    )


def join(names: Sequence[str]) -> str:
    """A list in words; a long one, as of a sweep, is cut, and names with commas are quoted."""
    names = [f"“{name}”" if "," in name else name for name in names]
    if len(names) > _MAX_NAMED + 1:
        names = [*names[:_MAX_NAMED], f"{len(names) - _MAX_NAMED} others"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def find_row(results: Results, kind: str) -> Mapping[str, Any] | None:
    """The first row of a kind, if there is one."""
    return next((row for row in results["rows"] if row["kind"] == kind), None)
