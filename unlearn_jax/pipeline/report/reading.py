"""Reading of a run in a few sentences, from its stored paired differences.

The words of the verdicts are those of the report
(:mod:`unlearn_jax.pipeline.report.verdict`); every number is stored in the results.
"""

from collections.abc import Mapping

from unlearn_jax.audit import Estimate
from unlearn_jax.pipeline.measure.records import (
    Klom,
    Requests,
    RowResult,
    RunResult,
    Targets,
    Verdict,
)
from unlearn_jax.pipeline.report.blocks import format_cell, has_interval, is_known
from unlearn_jax.pipeline.report.verdict import (
    deciding_difference,
    find_difference,
    format_difference,
    format_signed,
    headline,
    join_phrases,
    methods_by_gap,
    more_runs_phrase,
    quote_name,
)

_OUTCOMES = {
    "like": "forgotten like retraining",
    "above": "measurably different, the forget samples still recognizable",
    "below": (
        "measurably different, the forget samples less familiar than data never seen"
    ),
    "different": "measurably different from it",
    "undecided": "undecided",
}
"""Openings of the lists of methods; ``different`` is for runs that forget classes."""


def reading(runs: Mapping[str, RunResult]) -> tuple[str, ...]:
    """Return the findings of a run, or of the variants of a study.

    Args:
      runs: results by title of the variant; a single run may have any title.

    Returns:
      At most five sentences for a run; for a study, a paragraph for each variant, which
      opens with its title.
    """
    if len(runs) == 1:
        return tuple(_sentences(next(iter(runs.values()))))
    paragraphs = []
    for title, run in runs.items():
        paragraphs.append(f"**{title}**: {' '.join(_sentences(run))}")
    return tuple(paragraphs)


def _sentences(run: RunResult) -> list[str]:
    sentences = [
        _original_sentence(run),
        _verdicts_sentence(run),
        _gap_sentence(run),
        _baselines_sentence(run),
        _analysis_sentence(run),
    ]
    return [sentence for sentence in sentences if sentence]


def _original_sentence(run: RunResult) -> str:
    """Return a sentence that compares the attack on the original with retraining."""
    original = run.row_of_kind("original")
    oracle = run.row_of_kind("oracle")
    if original is None or oracle is None:
        return ""
    for key in ("ft_auc", "ulira") if run.confusion is None else ("ulira",):
        difference = find_difference(original, key)
        has_both = key in original.metrics and key in oracle.metrics
        if difference is None or not has_both:
            continue
        numbers = (
            f"{run.metric(key).label} {_format_mean(original.metrics[key])}, retrained"
            f" models {_format_mean(oracle.metrics[key])}"
        )
        if difference.low > 0 and original.metrics[key].low > 50:
            return f"The original is recognizable: {numbers}."
        if difference.low > 0:
            return (
                "The attack tells the original from retrained models, but the"
                f" original's interval holds 50: {numbers}."
            )
        return (
            f"The attack does not tell the original from retrained models ({numbers}),"
            " so it proves little about rows that it does not tell from them either."
        )
    return ""


def _verdicts_sentence(run: RunResult) -> str:
    """Return the verdicts on all methods, with the differences that decide them."""
    methods: list[tuple[RowResult, Verdict]] = []
    for row in run.rows:
        if row.kind == "method" and row.verdict is not None:
            methods.append((row, row.verdict))
    if not methods:
        return ""
    keys = headline(run)
    phrases: dict[str, list[str]] = {outcome: [] for outcome in _OUTCOMES}
    for row, verdict in sorted(methods, key=lambda method: _order(*method)):
        difference = deciding_difference(row)
        outcome: str = verdict.state
        if outcome == "different" and run.confusion is None:
            outcome = "above" if difference.mean > 0 else "below"
        detail = format_difference(difference, 1)
        if len(keys) != 1:
            detail = f"{run.metric(verdict.metrics[0]).label} {detail}"
        if outcome == "undecided":
            more = more_runs_phrase(verdict.more_runs)
            detail += f"; {more or 'more runs would not decide'}"
        phrases[outcome].append(f"{quote_name(row.label)} ({detail})")
    lists = [] if phrases["like"] else ["none is shown to be forgotten like retraining"]
    for outcome, opening in _OUTCOMES.items():
        if phrases[outcome]:
            lists.append(f"{opening}: {join_phrases(phrases[outcome])}")
    text = "; ".join(lists)
    labels = " and ".join(run.metric(key).label for key in keys)
    return f"{text[0].upper()}{text[1:]} ({labels} less retrained, paired run by run)."


def _order(row: RowResult, verdict: Verdict) -> tuple[bool, float]:
    """Return a sort key: methods that differ come last, the most different first."""
    distance = abs(deciding_difference(row).mean)
    if verdict.state == "different":
        return True, -distance
    return False, distance


def _gap_sentence(run: RunResult) -> str:
    """Return the smallest Avg Gap, compared with fine-tuning or the next method."""
    methods = methods_by_gap(run)
    if not methods:
        return ""
    best = methods[0]
    text = (
        f"{quote_name(best.label)} has the smallest Avg Gap,"
        f" {_format_mean(best.metrics['avg_gap'])} points"
    )
    floor = run.row_of_kind("second_oracle")
    if floor and "avg_gap" in floor.metrics:
        text += f" (retrained again {_format_mean(floor.metrics['avg_gap'])}"
        to_floor = find_difference(best, "avg_gap", "floor")
        if to_floor:
            text += f", a paired difference of {format_difference(to_floor, 1)}"
        text += ")"
    others = methods[1:]
    compared = [row for row in others if row.method == "finetune"] or others
    difference = find_difference(compared[0], "avg_gap", "best") if compared else None
    if difference is None:
        return f"{text}."
    name = quote_name(compared[0].label)
    interval = f"[{difference.low:.1f}, {difference.high:.1f}]"
    amount = f"{difference.mean:.1f} {interval}"
    # the probability is corrected for the number of methods, the interval is not
    if difference.p_different <= 1 - run.level:
        return f"{text}; that of {name} is larger by {amount}, pair by pair."
    if difference.low > 0:
        return (
            f"{text}; that of {name} is larger by {amount}, not measurably in view of"
            " all methods."
        )
    return (
        f"{text}; measurably no smaller than that of {name}, which is larger by"
        f" {amount}."
    )


def _baselines_sentence(run: RunResult) -> str:
    """Return a sentence on the Avg Gaps of rows, compared with their baselines."""
    phrases: dict[str, list[str]] = {"smaller": [], "larger": [], "undecided": []}
    for row in run.rows:
        difference = find_difference(row, "avg_gap", "baseline")
        if difference is None:
            continue
        outcome = "undecided"
        if difference.p_different <= 1 - run.level:
            outcome = "smaller" if difference.mean < 0 else "larger"
        amount = format_difference(difference, 1)
        phrases[outcome].append(f"{quote_name(row.label)} ({amount})")
    lists = [
        f"{outcome}: {join_phrases(rows)}" for outcome, rows in phrases.items() if rows
    ]
    if not lists:
        return ""
    return f"Avg Gap less that of the row's baseline, pair by pair, {'; '.join(lists)}."


def _analysis_sentence(run: RunResult) -> str:
    """Return a sentence on KLoM, requests or targets; on costs if there are none."""
    if run.klom is not None:
        return _klom_sentence(run, run.klom)
    if run.requests is not None:
        return _requests_sentence(run, run.requests)
    targets = _targets_sentence(run.targets) if run.targets is not None else ""
    return targets or _cost_sentence(run)


def _klom_sentence(run: RunResult, klom: Klom) -> str:
    labels = _quoted_labels(run)
    phrases = []
    for key, distances in klom.rows.items():
        if "forget" in distances:
            distance = _format_mean(distances["forget"].mean)
            phrases.append(f"{labels.get(key, key)} {distance}")
    if not phrases:
        return ""
    return f"KLoM on the forget set, in nats: {join_phrases(phrases)}."


def _requests_sentence(run: RunResult, requests: Requests) -> str:
    labels = _quoted_labels(run)
    phrases = []
    for key, scores in requests.rows.items():
        last = _format_mean(scores[-1].score, 0)
        phrases.append(f"{labels.get(key, key)} {last}")
    return (
        "Score after the last request (above the retrained models' means"
        f" over-forgotten): {join_phrases(phrases)}."
    )


def _targets_sentence(targets: Targets) -> str:
    """Return a sentence on the nearest target; empty if there is nothing to compare."""
    distances = {}
    for target in targets.rows:
        if "retrained" not in target.name and target.name != "original model":
            distances[target.name] = min(target.values)
    if "no tilt (beta 0)" not in distances or "weights" not in distances:
        return ""
    nearest = min(distances, key=lambda name: distances[name])
    sentence = (
        "Before any training the target's KL from retrained models is"
        f" {distances['no tilt (beta 0)']:.2f} without a tilt,"
        f" {distances['weights']:.2f} with TRW's similarity at its best strength, and"
        f" {distances[nearest]:.2f} for the nearest target ({nearest})."
    )
    phrases = []
    for target in targets.rows:
        if target.name == "weights" and target.less:
            pairs = zip(targets.betas, target.differences, strict=True)
            for beta, (mean, low, high) in pairs:
                phrases.append(f"{format_signed(mean, low, high, 2)} at β {beta:g}")
    if phrases:
        sentence += (
            " TRW's similarity less no tilt, paired run by run:"
            f" {join_phrases(phrases)}."
        )
    return sentence


def _cost_sentence(run: RunResult) -> str:
    """Return the range of the methods' costs, and the rows that diverged."""
    costs = []
    for row in run.rows:
        if row.kind == "method" and row.cost and is_known(row.cost.relative_gradients):
            costs.append(row.cost.relative_gradients)
    diverged = [
        f"{quote_name(row.label)} in {row.num_diverged} of {run.design.runs} runs"
        for row in run.rows
        if row.is_diverged
    ]
    clauses = []
    if costs:
        ends = dict.fromkeys([f"{min(costs):.2f}", f"{max(costs):.2f}"])
        clauses.append(f"Methods cost {' to '.join(ends)} of a retraining's gradients")
    if diverged:
        opening = "diverged" if clauses else "Diverged"
        clauses.append(f"{opening}: {join_phrases(diverged)}")
    return f"{'; '.join(clauses)}." if clauses else ""


def _quoted_labels(run: RunResult) -> dict[str, str]:
    """Return the labels of all rows by key; those with a comma are in quotes."""
    return {row.key: quote_name(row.label) for row in run.rows}


def _format_mean(estimate: Estimate, digits: int = 1) -> str:
    """Return a mean with its interval, if it has one."""
    number = format_cell(estimate.mean, digits)[0]
    if not has_interval(estimate):
        return number
    return f"{number} {format_cell(estimate, digits)[1]}"
