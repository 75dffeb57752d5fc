"""Findings of a run in words, from paired differences.

A method is called different from retraining by a corrected test of the paired
difference, like retraining by an equivalence test, and otherwise undecided
(:mod:`unlearn_jax.pipeline.measure.differences`). Without retrained models, intervals
are compared with a coin toss instead.
"""

import math
import re
from collections.abc import Sequence
from typing import Literal

from unlearn_jax.audit import Estimate
from unlearn_jax.pipeline.measure.metrics import CLASSES, SAMPLES
from unlearn_jax.pipeline.measure.records import (
    Difference,
    Metric,
    RowResult,
    RunResult,
)
from unlearn_jax.pipeline.report.blocks import format_cell, has_interval, is_known

MAX_NAMED = 6
"""Number of names that a list in words spells out; the others are counted."""


def headline(result: RunResult) -> tuple[str, ...]:
    """Return the keys of the metrics that decide the verdicts of a run."""
    table = SAMPLES if result.confusion is None else CLASSES
    available = {metric.key for metric in result.metrics}
    return tuple(key for key in table.headline if key in available)


def find_difference(
    row: RowResult, key: str, reference: str = "oracle"
) -> Difference | None:
    """Return a row's paired difference in a metric; None if it was not computed.

    Args:
      row: row of the table.
      key: key of the metric.
      reference: ``oracle``, ``floor``, ``best`` or ``baseline``; see
        :attr:`RowResult.differences`.
    """
    return row.differences.get(key, {}).get(reference)


def baseline_rows(result: RunResult) -> tuple[list[RowResult], list[Metric]]:
    """Return the rows that are compared with a baseline, and the compared metrics."""
    rows = []
    keys = set()
    for row in result.rows:
        compared = {
            key for key, other in row.differences.items() if "baseline" in other
        }
        if compared:
            rows.append(row)
            keys |= compared
    return rows, [metric for metric in result.metrics if metric.key in keys]


def deciding_difference(row: RowResult) -> Difference:
    """Return the difference to the oracle that decides the verdict on a method."""
    assert row.verdict is not None
    return row.differences[row.verdict.metrics[0]]["oracle"]


def verdict(result: RunResult) -> str:
    """Return a few sentences on whether the methods have forgotten."""
    sentences = verdict_sentences(result) or _coin_toss_sentences(result)
    if not sentences:
        labels = _headline_labels(result)
        return f"No method has an interval of {labels}, so nothing can be concluded."
    return " ".join(
        [*sentences, *_power_sentences(result), *_nearest_sentences(result)]
    )


def _power_sentences(result: RunResult) -> list[str]:
    """Return a sentence on an original that the attack does not recognize, if any."""
    original = result.row_of_kind("original")
    auc = original.metrics.get("ft_auc") if original else None
    if result.confusion is not None or not has_interval(auc):
        return []
    side = _side_of_coin_toss(auc)
    if side == "above":
        return []
    if _is_any_different(result):
        place = "holds 50%" if side == "within" else "lies below 50%"
        return [f"The original is not shown to be recognizable: its interval {place}."]
    return [
        "But the attack does not recognize the original's forget samples either, so"
        " this proves little."
    ]


def _is_any_different(result: RunResult) -> bool:
    """Return whether the attack tells any method from retraining or a coin toss."""
    methods = [row for row in result.rows if row.kind == "method"]
    states = [row.verdict.state for row in methods if row.verdict is not None]
    if states:
        return "different" in states
    aucs = [row.metrics.get("ft_auc") for row in methods]
    return any(
        has_interval(auc) and _side_of_coin_toss(auc) != "within" for auc in aucs
    )


def verdict_sentences(result: RunResult) -> list[str]:
    """Return sentences on the methods like retraining, different, and undecided."""
    like = []
    above = []
    below = []
    undecided = []
    for row in result.rows:
        if row.kind != "method" or row.verdict is None:
            continue
        if row.verdict.state == "like":
            like.append(row.label)
        elif row.verdict.state == "undecided":
            label = quote_name(row.label)
            undecided.append(_with_more_runs(label, row.verdict.more_runs))
        elif deciding_difference(row).mean > 0:
            above.append(row.label)
        else:
            below.append(row.label)
    sentences = []
    if like:
        sentences.append(f"Forgotten like retraining: {join_names(like)}.")
    if result.confusion is not None and (above or below):
        different = join_names([*above, *below])
        sentences.append(f"Measurably different from it: {different}.")
    if result.confusion is None and above:
        sentences.append(
            "Measurably different, the forget samples still recognizable:"
            f" {join_names(above)}."
        )
    if result.confusion is None and below:
        sentences.append(
            "Measurably different, the forget samples less familiar than data never"
            f" seen, which gives them away: {join_names(below)}."
        )
    if undecided:
        sentences.append(f"Undecided: {join_phrases(undecided)}.")
    return sentences


def more_runs_phrase(count: int | None) -> str:
    """Return a phrase on the number of further runs that would decide; empty if None.

    >>> more_runs_phrase(1), more_runs_phrase(1200), more_runs_phrase(None)
    ('1 more run would decide', '1,200 more runs would decide', '')
    """
    if count is None:
        return ""
    return f"{count:,} more run{'' if count == 1 else 's'} would decide"


def _with_more_runs(phrase: str, count: int | None) -> str:
    more = more_runs_phrase(count)
    return f"{phrase} ({more})" if more else phrase


def margins_sentence(result: RunResult) -> str:
    """Return the meaning of the verdicts, with the margins of this run."""
    margins = []
    for key in headline(result):
        margin = _margin(result, key)
        if margin is not None:
            metric = result.metric(key)
            number = format_cell(margin, 2)[0]
            unit = " points" if metric.unit == "%" else ""
            margins.append(f"{metric.label} ± {number}{unit}")
    text = (
        "Verdicts are on paired differences to the retrained models in"
        f" {_headline_labels(result)}, at a level of {100 * result.level:g}% for all"
        " methods together (Holm); intervals are for one."
    )
    if margins:
        return (
            f"{text} “Forgotten” (like retraining) means inside {join_names(margins)},"
            " the spread over runs between two retrainings (the seed floor)."
            " “Undecided” comes with how many more runs would decide with a probability"
            " of 80%, if any number would."
        )
    return (
        f"{text} Without three runs of a second retraining there is no margin, so no"
        " method can be called like retraining."
    )


def _margin(result: RunResult, key: str) -> float | None:
    """Return the margin of equivalence of a metric, which all methods share."""
    for row in result.rows:
        difference = find_difference(row, key)
        if row.kind == "method" and difference and difference.margin is not None:
            return difference.margin
    return None


def distances_sentence(result: RunResult) -> str:
    """Return the relative distances of the rows' adversarial sets; empty without any.

    Methods assume that an adversarial example is close to its image, compared with the
    norm of the image and with the distance to its nearest neighbor.
    """
    names = {row.attack for row in result.rows if row.attack is not None}
    distances = []
    for name, attack in result.attacks.items():
        if name not in names:
            continue
        if attack.over_norm is not None and attack.over_neighbor is not None:
            prefix = f"{name or 'own'} " if len(names) > 1 else ""
            numbers = f"{attack.over_norm:.2g} and {attack.over_neighbor:.2g}"
            distances.append(prefix + numbers)
    if not distances:
        return ""
    return (
        "Median L2 distance of the adversarial examples, over the image's norm and over"
        f" the distance to the nearest training image: {'; '.join(distances)}."
    )


def _coin_toss_sentences(result: RunResult) -> list[str]:
    """Return sentences on the methods with FT AUCs at, above and below 50%."""
    labels: dict[str, list[str]] = {"within": [], "above": [], "below": []}
    for row in result.rows:
        auc = row.metrics.get("ft_auc")
        if row.kind == "method" and has_interval(auc):
            labels[_side_of_coin_toss(auc)].append(row.label)
    openings = {
        "within": "Undecided without retrained models, FT AUC at 50%:",
        "above": "Still remembered, FT AUC above 50%:",
        "below": "Over-forgotten, which gives samples away, FT AUC below 50%:",
    }
    sentences = []
    for side, names in labels.items():
        if names:
            sentences.append(f"{openings[side]} {join_names(names)}.")
    return sentences


def _side_of_coin_toss(auc: Estimate) -> Literal["above", "below", "within"]:
    """Return the side of 50% that an interval lies on; ``within`` if it holds 50%."""
    if auc.low > 50:
        return "above"
    return "below" if auc.high < 50 else "within"


def findings(result: RunResult) -> list[str]:
    """Return sentences on what the numbers show and what they do not show."""
    design = result.design
    runs = "a single run" if design.runs == 1 else f"{design.runs} runs"
    sentences = [
        f"{design.num_forget:,} of {result.data.num_train:,} training samples are to be"
        f" forgotten, in {runs}."
    ]
    if result.confusion is None:
        sentences += _reference_sentences(result)
    sentences += _difference_sentences(result)
    sentences += _gap_sentences(result)
    diverged = [
        f"{row.label} in {row.num_diverged} of {design.runs} runs"
        for row in result.rows
        if row.is_diverged
    ]
    if diverged:
        sentences.append(f"Diverged, a result like any other: {join_names(diverged)}.")
    if design.runs == 1:
        sentences.append(
            "The intervals of a single run cover the choice of the samples, but not the"
            " effect of another forget set or another training."
        )
    return sentences


def _reference_sentences(result: RunResult) -> list[str]:
    """Return sentences on the attack's results on models with known answers."""
    unseen = (
        "although it never saw the forget samples: compare with this row, not with 50%"
    )
    meanings = {
        ("original", "above"): "so the attack does recognize training samples",
        ("original", "within"): (
            "an interval that contains 50%, so the original is not shown to be"
            " recognizable"
            if _is_any_different(result)
            else "so the attack hardly works here, and its failure on other rows proves"
            " little"
        ),
        ("original", "below"): (
            "so the attack points the wrong way here: do not trust it on other rows"
        ),
        ("oracle", "above"): f"above 50% {unseen}",
        ("oracle", "within"): (
            "an interval that contains 50%, as it should for a model that never saw"
            " the forget samples"
        ),
        ("oracle", "below"): f"below 50% {unseen}",
    }
    sentences = []
    for row in result.rows:
        auc = row.metrics.get("ft_auc")
        if row.kind in ("original", "oracle") and has_interval(auc):
            meaning = meanings[row.kind, _side_of_coin_toss(auc)]
            number = _format_with_unit(auc, "%")
            sentences.append(f"{row.label} has an FT AUC of {number}, {meaning}.")
    return sentences


def _difference_sentences(result: RunResult) -> list[str]:
    """Return a sentence on differences to the oracle for each headline metric."""
    openings = {
        "like": "like it within the margin",
        "different": "measurably different",
        "undecided": "undecided",
    }
    sentences = []
    for key in headline(result):
        phrases: dict[str, list[str]] = {state: [] for state in openings}
        for row in result.rows:
            difference = find_difference(row, key)
            if row.kind != "method" or difference is None:
                continue
            phrase = f"{quote_name(row.label)} {format_difference(difference)}"
            if difference.state == "undecided":
                phrase = _with_more_runs(phrase, difference.more_runs)
            phrases[difference.state].append(phrase)
        lists = [
            f"{openings[state]}: {join_phrases(methods)}"
            for state, methods in phrases.items()
            if methods
        ]
        if lists:
            sentences.append(
                f"{result.metric(key).label} less that of the retrained models, run by"
                f" run, {'; '.join(lists)}."
            )
    return sentences


def format_difference(difference: Difference, digits: int = 2) -> str:
    """Return a difference with its sign and its interval.

    >>> difference = Difference(
    ...     mean=1.25, low=-0.5, high=3.0, margin=None, p_different=1.0, p_like=1.0,
    ...     state="undecided", more_runs=None)
    >>> format_difference(difference)
    '+1.25 [-0.50, +3.00]'
    """
    return format_signed(difference.mean, difference.low, difference.high, digits)


def format_signed(mean: float, low: float, high: float, digits: int) -> str:
    """Return a mean and its interval, all with signs.

    >>> format_signed(-0.001, -0.5, 3.0, 2)
    '+0.00 [-0.50, +3.00]'
    """
    return f"{mean:+z.{digits}f} [{low:+z.{digits}f}, {high:+z.{digits}f}]"


def methods_by_gap(result: RunResult) -> list[RowResult]:
    """Return the methods that have an Avg Gap, sorted from the smallest."""
    methods = [
        row for row in result.rows if row.kind == "method" and "avg_gap" in row.metrics
    ]
    return sorted(methods, key=lambda row: row.metrics["avg_gap"].mean)


def _nearest_sentences(result: RunResult) -> list[str]:
    """Return a sentence on the method with the smallest Avg Gap, if any has one."""
    methods = methods_by_gap(result)
    if not methods:
        return []
    best = methods[0]
    gap = format_cell(best.metrics["avg_gap"].mean, 2)[0]
    text = (
        f"Smallest mean Avg Gap to retraining: {quote_name(best.label)}, {gap} points"
    )
    again = result.row_of_kind("second_oracle")
    if again and "avg_gap" in again.metrics:
        floor = format_cell(again.metrics["avg_gap"].mean, 2)[0]
        text += f" (another seed of retraining: {floor})"
    return [f"{text}."]


def _gap_sentences(result: RunResult) -> list[str]:
    """Return a sentence on the smallest Avg Gap and methods not measurably farther."""
    methods = methods_by_gap(result)
    if not methods:
        return []
    best = methods[0]
    gap = _format_with_unit(best.metrics["avg_gap"], " percentage points")
    text = f"{quote_name(best.label)} has the smallest Avg Gap to retraining, {gap}"
    again = result.row_of_kind("second_oracle")
    if again and "avg_gap" in again.metrics:
        floor = _format_with_unit(again.metrics["avg_gap"], "")
        text += f"; {again.label}, about what a perfect method would reach, has {floor}"
        to_floor = find_difference(best, "avg_gap", "floor")
        if to_floor:
            text += f", a paired difference of {format_difference(to_floor)}"
    tied = []
    for row in result.rows:
        to_best = find_difference(row, "avg_gap", "best")
        is_other = row.kind == "method" and row is not best
        if is_other and to_best and to_best.p_different > 1 - result.level:
            tied.append(row.label)
    if tied:
        text += f". Not measurably farther, pair by pair: {join_names(tied)}"
    return [f"{text}."]


def _headline_labels(result: RunResult) -> str:
    labels = [result.metric(key).label for key in headline(result)]
    return join_names(labels or ["FT AUC"])


def _format_with_unit(estimate: Estimate, suffix: str) -> str:
    """Return a mean, what follows it, and its interval if it has one."""
    number = format_cell(estimate.mean, 2)[0]
    interval = format_cell(estimate, 2)[1]
    return f"{number}{suffix} {interval}".strip()


def quote_name(name: str) -> str:
    """Return a name, in quotes if it has a comma outside of parentheses.

    >>> quote_name("Fine-tuned (FT), augmented"), quote_name("Retrained (oracle, 3)")
    ('“Fine-tuned (FT), augmented”', 'Retrained (oracle, 3)')
    """
    has_comma = "," in re.sub(r"[(\[][^)\]]*[)\]]", "", name)
    return f"“{name}”" if has_comma else name


def join_names(names: Sequence[str]) -> str:
    """Return names as a list in words; names with commas are in quotes."""
    return join_phrases([quote_name(name) for name in names])


def join_phrases(phrases: Sequence[str]) -> str:
    """Return a list in words; items after :data:`MAX_NAMED` are counted.

    >>> join_phrases(["a", "b", "c"])
    'a, b and c'
    """
    if len(phrases) == 1:
        return phrases[0]
    if len(phrases) > MAX_NAMED + 1:
        num_others = len(phrases) - MAX_NAMED
        phrases = [*phrases[:MAX_NAMED], f"{num_others} others"]
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def best_rows(result: RunResult, count: int) -> list[RowResult]:
    """Return the references and the methods with the smallest Avg Gaps, in order.

    Methods without an Avg Gap, such as those that diverged, come last.
    """

    def gap(row: RowResult) -> float:
        estimate = row.metrics.get("avg_gap")
        return estimate.mean if estimate and is_known(estimate.mean) else math.inf

    methods = [row for row in result.rows if row.kind == "method"]
    best = {row.key for row in sorted(methods, key=gap)[:count]}
    return [row for row in result.rows if row.kind != "method" or row.key in best]
