"""Findings of a run in words, from paired differences.

Methods are called different from retraining by a corrected test of the paired
difference, like retraining by an equivalence test, and otherwise undecided
(:mod:`unlearn_jax.pipeline.measure.differences`). Without retrained models an interval
is compared with a coin toss.
"""

import re
from collections.abc import Sequence
from typing import Literal

from unlearn_jax.audit import Estimate
from unlearn_jax.pipeline.measure.metrics import CLASSES, SAMPLES
from unlearn_jax.pipeline.measure.records import Difference, RowResult, RunResult
from unlearn_jax.pipeline.report.blocks import format_cell, has_interval, is_known

_COIN = Estimate(50.0, 0.0, 50.0, 50.0, 0, 0)
MAX_NAMED = 6
"""Names of a list in words; further ones are counted."""


def headline(result: RunResult) -> tuple[str, ...]:
    """Return the keys of the metrics that decide the verdicts of a run."""
    table = SAMPLES if result.confusion is None else CLASSES
    available = {metric.key for metric in result.metrics}
    return tuple(key for key in table.headline if key in available)


def verdict(result: RunResult) -> str:
    """Return in a few words whether the methods have forgotten."""
    sentences = verdict_sentences(result)
    if not sentences:
        sentences = _coin_sentences(result)
    if not sentences:
        keys = join([_label(result, key) for key in headline(result)] or ["FT AUC"])
        return f"No method has an interval of {keys}, so nothing can be concluded."
    original = result.row_of_kind("original")
    cell = original and original.metrics.get("ft_auc")
    is_sample = result.confusion is None
    if is_sample and cell and has_interval(cell) and place(cell, _COIN) != "above":
        sentences.append(
            "But the attack does not recognize the original's forget samples either, so"
            " this proves little."
        )
    return " ".join([*sentences, *_nearest(result)])


def verdict_sentences(result: RunResult) -> list[str]:
    """Return which methods are like retraining, different from it, or undecided."""
    rows = [row for row in result.rows if row.kind == "method" and row.verdict]
    sentences = []
    like = [row.label for row in rows if row.verdict and row.verdict.state == "like"]
    if like:
        sentences.append(f"Forgotten like retraining: {join(like)}.")
    above = []
    below = []
    for row in rows:
        if row.verdict is None or row.verdict.state != "different":
            continue
        one = row.differences[row.verdict.metrics[0]]["oracle"]
        (above if one.mean > 0 else below).append(row.label)
    if result.confusion is not None:
        if above or below:
            sentences.append(f"Measurably different from it: {join([*above, *below])}.")
    else:
        if above:
            sentences.append(
                "Measurably different, the forget samples still recognizable:"
                f" {join(above)}."
            )
        if below:
            sentences.append(
                "Measurably different, the forget samples less familiar than data never"
                f" seen, which gives them away: {join(below)}."
            )
    undecided = [
        f"{quoted(row.label)}{more_words(row.verdict.more_runs)}"
        for row in rows
        if row.verdict and row.verdict.state == "undecided"
    ]
    if undecided:
        sentences.append(f"Undecided: {listed(undecided)}.")
    return sentences


def more_words(count: int | None) -> str:
    """Return the runs that would decide, in parentheses; empty if they would not."""
    if count is None:
        return ""
    return f" ({count:,} more run{'' if count == 1 else 's'} would decide)"


def margins_sentence(result: RunResult) -> str:
    """Return what the verdicts mean, with the margins of this run; may be empty."""
    shown = []
    for key in headline(result):
        for row in result.rows:
            one = row.differences.get(key, {}).get("oracle")
            if row.kind == "method" and one and one.margin is not None:
                unit = "points" if result.metric(key).unit == "%" else ""
                number = format_cell(one.margin, 2)[0]
                words = f"{number} {unit}".strip()
                shown.append(f"{_label(result, key)} ± {words}")
                break
    names = join([_label(result, key) for key in headline(result)] or ["FT AUC"])
    level = f"{100 * result.level:g} %"
    text = (
        f"Verdicts are on paired differences to the retrained models in {names}, at a"
        f" level of {level} for all methods together (Holm); intervals are for one."
    )
    if shown:
        return (
            f"{text} “Forgotten” (like retraining) means inside {join(shown)}, the"
            " spread over runs between two retrainings (the seed floor). “Undecided”"
            " comes with how many more runs would decide with a probability of 80 %, if"
            " any number would."
        )
    return (
        f"{text} Without three runs of a second retraining there is no margin, so no"
        " method can be called like retraining."
    )


def distances_sentence(result: RunResult) -> str:
    """Return the relative distances of the adversarial sets of the rows; may be empty.

    A set that is far compared with the image, or with its nearest neighbor, is not what
    the method assumes.
    """
    used = {row.attack for row in result.rows if row.attack is not None}
    shown = []
    for name, one in result.attacks.items():
        if name in used and one.over_norm is not None and one.over_neighbor is not None:
            prefix = f"{name or 'own'} " if len(used) > 1 else ""
            shown.append(f"{prefix}{one.over_norm:.2g} and {one.over_neighbor:.2g}")
    if not shown:
        return ""
    return (
        "Median L2 distance of the adversarial examples, over the image's norm and over"
        f" the distance to the nearest training image: {'; '.join(shown)}."
    )


def _coin_sentences(result: RunResult) -> list[str]:
    """Return where the methods' FT AUCs lie, where there is no oracle."""
    groups: dict[str, list[str]] = {"within": [], "above": [], "below": []}
    for row in result.rows:
        cell = row.metrics.get("ft_auc")
        if row.kind == "method" and cell and has_interval(cell):
            groups[place(cell, _COIN)].append(row.label)
    words = {
        "within": "Undecided without retrained models, 50 % lies in the interval of",
        "above": "The forget samples are still recognizable of",
        "below": (
            "The forget samples are less familiar than data never seen, which gives"
            " them away, of"
        ),
    }
    return [f"{words[key]} {join(labels)}." for key, labels in groups.items() if labels]


def findings(result: RunResult) -> list[str]:
    """Return sentences on what the numbers show, and what they do not show."""
    design = result.design
    runs = "a single run" if design.runs == 1 else f"{design.runs} runs"
    first = (
        f"{design.num_forget:,} of {result.data.num_train:,} training samples are to be"
        f" forgotten, in {runs}."
    )
    sentences = [first]
    if result.confusion is None:
        sentences += _reference_sentences(result)
    sentences += _difference_sentences(result)
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


def _difference_sentences(result: RunResult) -> list[str]:
    """Return by headline metric each method's paired difference to the oracle."""
    sentences = []
    for key in headline(result):
        phrases: dict[str, list[str]] = {"like": [], "different": [], "undecided": []}
        for row in result.rows:
            one = row.differences.get(key, {}).get("oracle")
            if row.kind == "method" and one:
                words = f"{quoted(row.label)} {difference_words(one)}"
                if one.state == "undecided":
                    words += more_words(one.more_runs)
                phrases[one.state].append(words)
        names = {
            "like": "like it within the margin",
            "different": "measurably different",
            "undecided": "undecided",
        }
        parts = [
            f"{names[state]}: {listed(words)}"
            for state, words in phrases.items()
            if words
        ]
        if parts:
            sentences.append(
                f"{_label(result, key)} less that of the retrained models, run by run,"
                f" {'; '.join(parts)}."
            )
    return sentences


def difference_words(one: Difference, digits: int = 2) -> str:
    """Return a difference with its sign and its interval.

    >>> one = Difference(mean=1.25, low=-0.5, high=3.0, margin=None, p_different=1.0,
    ...                  p_like=1.0, state="undecided", more_runs=None)
    >>> difference_words(one)
    '+1.25 [-0.50, +3.00]'
    """
    mean, low, high = (
        f"{number:+.{digits}f}" for number in (one.mean, one.low, one.high)
    )
    return f"{mean} [{low}, {high}]"


def method_gaps(result: RunResult) -> dict[str, Estimate]:
    """Return the Avg Gaps of the methods by label, the smallest first."""
    gaps = {
        row.label: row.metrics["avg_gap"]
        for row in result.rows
        if row.kind == "method" and "avg_gap" in row.metrics
    }
    return dict(sorted(gaps.items(), key=lambda item: item[1].mean))


def _nearest(result: RunResult) -> list[str]:
    """Return in a few words the method with the smallest Avg Gap."""
    gaps = method_gaps(result)
    if not gaps:
        return []
    best = next(iter(gaps))
    text = (
        f"Smallest mean Avg Gap to retraining: {join([best])},"
        f" {format_cell(gaps[best].mean, 2)[0]} points"
    )
    again = result.row_of_kind("second_oracle")
    floor = again and again.metrics.get("avg_gap")
    if floor:
        text += f" (another seed of retraining: {format_cell(floor.mean, 2)[0]})"
    return [f"{text}."]


def _gap_sentences(result: RunResult) -> list[str]:
    """Return the method with the smallest Avg Gap, and which it is not apart from."""
    gaps = method_gaps(result)
    if not gaps:
        return []
    best = next(iter(gaps))
    text = (
        f"{join([best])} has the smallest Avg Gap to retraining,"
        f" {_in_words(gaps[best], 'percentage points')}"
    )
    best_row = next(row for row in result.rows if row.label == best)
    to_floor = best_row.differences.get("avg_gap", {}).get("floor")
    again = result.row_of_kind("second_oracle")
    floor = again and again.metrics.get("avg_gap")
    if again and floor:
        text += (
            f"; {again.label}, about what a perfect method would reach, has"
            f" {_in_words(floor, '')}"
        )
        if to_floor:
            text += f", a paired difference of {difference_words(to_floor)}"
    tied = []
    for row in result.rows:
        one = row.differences.get("avg_gap", {}).get("best")
        is_other = row.kind == "method" and row.label != best
        if is_other and one and one.p_different > 1 - result.level:
            tied.append(row.label)
    if tied:
        text += f". Not measurably farther, pair by pair: {join(tied)}"
    return [f"{text}."]


def place(cell: Estimate, goal: Estimate) -> Literal["above", "below", "within"]:
    """Return where an interval lies; ``within`` shares a point with the goal's."""
    if cell.low > goal.high:
        return "above"
    return "below" if cell.high < goal.low else "within"


def _label(result: RunResult, key: str) -> str:
    return result.metric(key).label


def _in_words(cell: Estimate, unit: str) -> str:
    number = format_cell(cell.mean, 2)[0]
    return " ".join(filter(None, [number, unit, format_cell(cell, 2)[1]]))


def quoted(name: str) -> str:
    """Return a name, in quotes if it has a comma outside of parentheses.

    >>> quoted("Fine-tuned (FT), augmented"), quoted("Retrained (oracle, 3)")
    ('“Fine-tuned (FT), augmented”', 'Retrained (oracle, 3)')
    """
    has_comma = "," in re.sub(r"[(\[][^)\]]*[)\]]", "", name)
    return f"“{name}”" if has_comma else name


def join(names: Sequence[str]) -> str:
    """Return a list in words; a long one is cut, names with commas are quoted."""
    return listed(list(map(quoted, names)))


def listed(words: Sequence[str]) -> str:
    """Return a list in words, the tail of a long one counted.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    if len(words) > MAX_NAMED + 1:
        words = [*words[:MAX_NAMED], f"{len(words) - MAX_NAMED} others"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def best_rows(result: RunResult, count: int) -> list[RowResult]:
    """Return the references and the methods with the smallest Avg Gaps, in order."""
    methods = [row for row in result.rows if row.kind == "method" and row.metrics]

    def gap(row: RowResult) -> float:
        cell = row.metrics.get("avg_gap")
        return cell.mean if cell and is_known(cell.mean) else float("inf")

    chosen = {row.key for row in sorted(methods, key=gap)[:count]}
    return [row for row in result.rows if row.kind != "method" or row.key in chosen]
