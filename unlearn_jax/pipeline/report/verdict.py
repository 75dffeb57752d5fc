"""Findings of a run in words.

Two rows are called different only when their intervals do not overlap, and never
called equal.
"""

from collections.abc import Sequence
from typing import Literal

from unlearn_jax.audit import Estimate
from unlearn_jax.pipeline.measure.records import RowResult, RunResult
from unlearn_jax.pipeline.report.blocks import format_cell, has_interval, is_known

_COIN = Estimate(50.0, 0.0, 50.0, 50.0, 0, 0)
_MAX_NAMED = 6
CLASS_METRICS = ("tv_forget", "ulira", "mia_nn_gap")
"""Metrics that compare outputs on forgotten classes with those of retrained models."""


def verdict(result: RunResult) -> str:
    """Return in a few words whether the methods have forgotten."""
    if result.confusion is not None:
        return _class_verdict(result)
    groups = group_methods(result)
    if not any(groups.values()):
        return "No method has an FT AUC, so nothing can be concluded."
    goal = "a coin toss" if oracle_auc(result) is _COIN else "retrained models"
    words = []
    if groups["within"]:
        words.append(
            f"the attack finds no difference from {goal} for {join(groups['within'])}"
        )
    if groups["above"]:
        words.append(
            f"the forget samples of {join(groups['above'])} are still recognizable"
        )
    if groups["below"]:
        words.append(
            f"those of {join(groups['below'])} are less familiar than data never seen,"
            " which gives them away"
        )
    text = "; ".join(words)
    sentences = [f"{text[0].upper()}{text[1:]}."]
    original = result.row_of_kind("original")
    cell = original and original.metrics.get("ft_auc")
    if cell and has_interval(cell) and place(cell, _COIN) != "above":
        sentences.append(
            "But the attack does not recognize the original's forget samples either, so"
            " this proves little."
        )
    return " ".join([*sentences, *_nearest(result)])


def findings(result: RunResult) -> list[str]:
    """Return sentences on what the numbers show, and what they do not show."""
    design = result.design
    runs = "a single run" if design.runs == 1 else f"{design.runs} runs"
    first = (
        f"{design.num_forget:,} of {result.data.num_train:,} training samples are to be"
        f" forgotten, in {runs}."
    )
    sentences = [first]
    if result.confusion is not None:
        sentences += _class_sentences(result)
    else:
        sentences += _reference_sentences(result) + _method_sentences(result)
    sentences += _gap_sentences(result)
    lost = [
        f"{row.label} in {row.num_diverged} of {design.runs} runs"
        for row in result.rows
        if row.is_diverged
    ]
    if lost:
        sentences.append(f"Diverged, a result like any other: {join(lost)}.")
    if design.runs == 1:
        sentences.append(
            "The intervals of a single run cover the choice of the samples, but not the"
            " effect of another forget set or another training."
        )
    return sentences


def group_methods(result: RunResult) -> dict[str, list[str]]:
    """Return the labels of the methods whose FT AUC is within, above or below the goal.

    The goal is the oracle's interval, or 50 % without an oracle.
    """
    goal = oracle_auc(result)
    groups: dict[str, list[str]] = {"within": [], "above": [], "below": []}
    for row in result.rows:
        cell = row.metrics.get("ft_auc")
        if row.kind == "method" and cell and has_interval(cell):
            groups[place(cell, goal)].append(row.label)
    return groups


def oracle_auc(result: RunResult) -> Estimate:
    """Return the FT AUC of the oracle or, without it, that of a coin toss."""
    oracle = result.row_of_kind("oracle")
    cell = oracle and oracle.metrics.get("ft_auc")
    return cell if cell and has_interval(cell) else _COIN


def _reference_sentences(result: RunResult) -> list[str]:
    """Return the attack's results on models whose answer is known."""
    unseen = (
        "although it never saw the forget samples: compare with this row, not with 50 %"
    )
    meanings = {
        ("original", "above"): "so the attack does recognize training samples",
        ("original", "within"): (
            "so the attack hardly works here, and its failure on other rows proves"
            " little"
        ),
        ("original", "below"): (
            "so the attack points the wrong way here: do not trust it on other rows"
        ),
        ("oracle", "above"): f"above 50 % {unseen}",
        ("oracle", "within"): (
            "an interval that contains 50 %, as it should for a model that never saw"
            " the forget samples"
        ),
        ("oracle", "below"): f"below 50 % {unseen}",
    }
    sentences = []
    for row in result.rows:
        cell = row.metrics.get("ft_auc")
        if row.kind in ("original", "oracle") and cell and has_interval(cell):
            meaning = meanings[row.kind, place(cell, _COIN)]
            sentences.append(
                f"{row.label} has an FT AUC of {_in_words(cell, '%')}, {meaning}."
            )
    return sentences


def _method_sentences(result: RunResult) -> list[str]:
    """Return which methods the attack distinguishes from the oracle (or from 50 %)."""
    groups = group_methods(result)
    if not any(groups.values()):
        return []
    oracle = result.row_of_kind("oracle")
    name = "50 %"
    if oracle and oracle_auc(result) is not _COIN:
        name = f"that of {oracle.label}"
    sentences = [f"No method has an FT AUC interval that overlaps {name}."]
    if groups["within"]:
        is_one = len(groups["within"]) == 1
        intervals = "interval" if is_one else "intervals"
        verb = "overlaps" if is_one else "overlap"
        sentences = [
            f"The FT AUC {intervals} of {join(groups['within'])} {verb} {name}: no"
            " difference was found, which is not a proof that there is none."
        ]
    if groups["above"]:
        sentences.append(
            "Above it, so still recognizable as training data: the forget samples of"
            f" {join(groups['above'])}."
        )
    if groups["below"]:
        sentences.append(
            "Below it, so less familiar than data never seen, which gives them away"
            f" too: those of {join(groups['below'])}."
        )
    if name == "50 %":
        return sentences
    fair = [
        row.label
        for row in result.rows
        if row.kind == "method" and overlaps(row.metrics.get("ft_auc"), _COIN)
    ]
    where = f"the interval of {join(fair)}" if fair else "no interval of a method"
    return [*sentences, f"50 % itself lies in {where}."]


def class_goal(result: RunResult, key: str) -> Estimate | None:
    """Return the seed floor of a metric or, without one, the oracle's value."""
    for kind in ("second_oracle", "oracle"):
        row = result.row_of_kind(kind)
        cell = row and row.metrics.get(key)
        if cell and has_interval(cell):
            return cell
    return None


def _class_verdict(result: RunResult) -> str:
    goals = {key: class_goal(result, key) for key in CLASS_METRICS}
    goals = {key: goal for key, goal in goals.items() if goal}
    if not goals:
        return "No method was compared with retrained models on the forgotten classes."
    good = []
    for row in result.rows:
        near = [overlaps(row.metrics.get(key), goal) for key, goal in goals.items()]
        if row.kind == "method" and all(near):
            good.append(row.label)
    names = join([result.metric(key).label for key in goals])
    if good:
        verb = "behaves" if len(good) == 1 else "behave"
        text = (
            f"On the forgotten classes {join(good)} {verb} as retrained models by"
            f" {names}: no difference was found."
        )
    else:
        text = (
            f"No method behaves on the forgotten classes as retrained models do by all"
            f" of {names}."
        )
    return " ".join([text, *_nearest(result)])


def _class_sentences(result: RunResult) -> list[str]:
    """Return by each metric which methods behave as retrained models do."""
    again = result.row_of_kind("second_oracle")
    sentences = []
    for key in CLASS_METRICS:
        goal = class_goal(result, key)
        cells = {
            row.label: row.metrics[key]
            for row in result.rows
            if row.kind == "method" and has_interval(row.metrics.get(key))
        }
        if not cells or goal is None:
            continue
        metric = result.metric(key)
        ideal = 50 if metric.direction == "50" else 0
        best = min(cells, key=lambda label: abs(cells[label].mean - ideal))
        unit = "%" if metric.unit == "%" else "points"
        sentence = (
            f"{metric.label}: {join([best])} comes nearest to retraining with"
            f" {_in_words(cells[best], unit)}"
        )
        floor = again and again.metrics.get(key)
        if floor:
            sentence += f", where another seed alone gives {_in_words(floor, '')}"
        near = [label for label, cell in cells.items() if overlaps(cell, goal)]
        verb = "overlaps" if len(near) == 1 else "overlap"
        end = f"{join(near)} {verb} that" if near else "no method overlaps that"
        sentences.append(f"{sentence}; {end}.")
    return sentences


def method_gaps(result: RunResult) -> dict[str, Estimate]:
    """Return the Avg Gaps of the methods by label, the smallest first."""
    gaps = {
        row.label: row.metrics["avg_gap"]
        for row in result.rows
        if row.kind == "method" and has_interval(row.metrics.get("avg_gap"))
    }
    return dict(sorted(gaps.items(), key=lambda item: item[1].mean))


def _nearest(result: RunResult) -> list[str]:
    """Return in a few words the method with the smallest Avg Gap."""
    gaps = method_gaps(result)
    if not gaps:
        return []
    best = next(iter(gaps))
    text = (
        f"Nearest to retraining overall is {join([best])}, with an Avg Gap of"
        f" {format_cell(gaps[best].mean, 2)[0]} points"
    )
    again = result.row_of_kind("second_oracle")
    floor = again and again.metrics.get("avg_gap")
    if floor:
        text += f" (another seed of retraining: {format_cell(floor.mean, 2)[0]})"
    return [f"{text}."]


def _gap_sentences(result: RunResult) -> list[str]:
    """Return the method with the smallest Avg Gap, and whether its lead is clear."""
    gaps = method_gaps(result)
    if not gaps:
        return []
    best = next(iter(gaps))
    text = (
        f"{join([best])} has the smallest Avg Gap to retraining,"
        f" {_in_words(gaps[best], 'percentage points')}"
    )
    tied = [
        label
        for label, cell in gaps.items()
        if label != best and cell.low <= gaps[best].high
    ]
    if tied:
        text += f", with an interval that overlaps that of {join(tied)}"
    again = result.row_of_kind("second_oracle")
    floor = again and again.metrics.get("avg_gap")
    if again and floor and has_interval(floor):
        text += (
            f"; {again.label}, about what a perfect method would reach, has"
            f" {_in_words(floor, '')}"
        )
    return [f"{text}."]


def place(cell: Estimate, goal: Estimate) -> Literal["above", "below", "within"]:
    """Return where an interval lies; ``within`` shares a point with the goal's."""
    if cell.low > goal.high:
        return "above"
    return "below" if cell.high < goal.low else "within"


def overlaps(cell: Estimate | None, goal: Estimate | None) -> bool:
    """Return True for two intervals that share a point."""
    if cell is None or goal is None or not (has_interval(cell) and has_interval(goal)):
        return False
    return place(cell, goal) == "within"


def _in_words(cell: Estimate, unit: str) -> str:
    number = format_cell(cell.mean, 2)[0]
    return " ".join(filter(None, [number, unit, format_cell(cell, 2)[1]]))


def join(names: Sequence[str]) -> str:
    """Return a list in words; a long one is cut, names with commas are quoted."""
    names = [f"“{name}”" if "," in name else name for name in names]
    if len(names) > _MAX_NAMED + 1:
        names = [*names[:_MAX_NAMED], f"{len(names) - _MAX_NAMED} others"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def best_rows(result: RunResult, count: int) -> list[RowResult]:
    """Return the references and the methods with the smallest Avg Gaps, in order."""
    methods = [row for row in result.rows if row.kind == "method" and row.metrics]

    def gap(row: RowResult) -> float:
        cell = row.metrics.get("avg_gap")
        return cell.mean if cell and is_known(cell.mean) else float("inf")

    chosen = {row.key for row in sorted(methods, key=gap)[:count]}
    return [row for row in result.rows if row.kind != "method" or row.key in chosen]
