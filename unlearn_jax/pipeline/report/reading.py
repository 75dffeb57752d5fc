"""Reading of a run in four sentences, from its stored paired differences.

The words of the verdicts are those of the report
(:mod:`unlearn_jax.pipeline.report.verdict`); every number is stored in the results.
"""

from collections.abc import Mapping

from unlearn_jax.audit import Estimate
from unlearn_jax.pipeline.measure.records import Difference, RowResult, RunResult
from unlearn_jax.pipeline.report.blocks import format_cell, has_interval, is_known
from unlearn_jax.pipeline.report.verdict import (
    difference_words,
    headline,
    listed,
    more_words,
    quoted,
)

_STATES = (
    "forgotten like retraining",
    "measurably different, the forget samples still recognizable",
    "measurably different, the forget samples less familiar than data never seen",
    "measurably different from it",
    "undecided",
)


def reading(runs: Mapping[str, RunResult]) -> tuple[str, ...]:
    """Return the findings of a run, at most four sentences, or of a study's variants.

    Args:
      runs: by name of the variant; a single run may have any name.

    Returns:
      A sentence an item; of a study an item a variant, which its title opens.
    """
    if len(runs) == 1:
        return tuple(_sentences(next(iter(runs.values()))))
    items = []
    for name, run in runs.items():
        items.append(f"**{name}**: {' '.join(_sentences(run))}")
    return tuple(items)


def _sentences(run: RunResult) -> list[str]:
    sentences = [_original(run), _verdicts(run), _gap(run), _last(run)]
    return [sentence for sentence in sentences if sentence]


def _original(run: RunResult) -> str:
    """Return whether the attack separates the original from retrained models."""
    original = run.row_of_kind("original")
    oracle = run.row_of_kind("oracle")
    if not original or not oracle:
        return ""
    for key in ("ft_auc", "ulira"):
        one = original.differences.get(key, {}).get("oracle")
        if one is None or key not in original.metrics or key not in oracle.metrics:
            continue
        if run.confusion is not None and key == "ft_auc":
            continue
        label = run.metric(key).label
        numbers = (
            f"{label} {_number(original.metrics[key])}, retrained models"
            f" {_number(oracle.metrics[key])}"
        )
        if one.low > 0:
            return f"The original is recognizable: {numbers}."
        return (
            f"The attack does not tell the original from retrained models ({numbers}),"
            " so it proves little about any row."
        )
    return ""


def _verdicts(run: RunResult) -> str:
    """Return the verdicts on all methods, with the differences that decide them."""
    labels: dict[str, list[str]] = {state: [] for state in _STATES}
    like, above, below, different, undecided = labels
    methods = [row for row in run.rows if row.kind == "method" and row.verdict]
    for row in sorted(methods, key=_distance):
        assert row.verdict is not None
        key = row.verdict.metrics[0]
        one = row.differences[key]["oracle"]
        words = f"{_label(row)} ({_difference(run, key, one)})"
        if row.verdict.state == "like":
            labels[like].append(words)
        elif row.verdict.state == "undecided":
            more = more_words(row.verdict.more_runs).strip(" ()")
            words = f"{words[:-1]}; {more or 'more runs would not decide'})"
            labels[undecided].append(words)
        elif run.confusion is not None:
            labels[different].append(words)
        else:
            labels[above if one.mean > 0 else below].append(words)
    parts = [f"{state}: {listed(rows)}" for state, rows in labels.items() if rows]
    if not parts:
        return ""
    if not labels[like]:
        parts.insert(0, "none is shown to be forgotten like retraining")
    keys = " and ".join(run.metric(key).label for key in headline(run))
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]} ({keys} less retrained, paired run by run)."


def _distance(row: RowResult) -> tuple[bool, float]:
    """Return the place of a method: different ones last, the farthest first."""
    assert row.verdict is not None
    size = abs(row.differences[row.verdict.metrics[0]]["oracle"].mean)
    is_different = row.verdict.state == "different"
    return is_different, -size if is_different else size


def _gap(run: RunResult) -> str:
    """Return the smallest Avg Gap and its difference to fine-tuning or the next."""
    methods = [
        row for row in run.rows if row.kind == "method" and "avg_gap" in row.metrics
    ]
    if not methods:
        return ""
    methods.sort(key=lambda row: row.metrics["avg_gap"].mean)
    best = methods[0]
    text = f"{_label(best)} has the smallest Avg Gap, "
    text += f"{_number(best.metrics['avg_gap'])} points"
    floor = run.row_of_kind("second_oracle")
    if floor and "avg_gap" in floor.metrics:
        text += f" (retrained again {_number(floor.metrics['avg_gap'])}"
        to_floor = best.differences.get("avg_gap", {}).get("floor")
        if to_floor:
            text += f", a paired difference of {difference_words(to_floor, 1)}"
        text += ")"
    other = next((row for row in methods[1:] if row.method == "finetune"), None)
    other = other or (methods[1] if len(methods) > 1 else None)
    one = other and other.differences.get("avg_gap", {}).get("best")
    if other and one:
        # the probability is corrected for the number of methods, the interval is not
        if one.p_different <= 1 - run.level:
            words = "that of {} is larger by {}, pair by pair"
        elif one.low > 0:
            words = "that of {} is larger by {}, not measurably in view of all methods"
        else:
            words = "measurably no smaller than that of {}, which is larger by {}"
        more = f"{one.mean:.1f} [{one.low:.1f}, {one.high:.1f}]"
        text += "; " + words.format(_label(other), more)
    return f"{text}."


def _last(run: RunResult) -> str:
    """Return KLoM, scores after requests, the nearest target, or else the cost."""
    labels = {row.key: _label(row) for row in run.rows}
    if run.klom is not None:
        parts = []
        for key, by_part in run.klom.rows.items():
            one = by_part["forget"].mean if "forget" in by_part else None
            if one is not None:
                parts.append(f"{labels.get(key, key)} {_number(one)}")
        return f"KLoM on the forget set, in nats: {listed(parts)}." if parts else ""
    if run.requests is not None:
        parts = []
        for key, scores in run.requests.rows.items():
            score = scores[-1].score
            parts.append(f"{labels.get(key, key)} {_number(score, 0)}")
        return (
            "Score after the last request (above the retrained models' means"
            f" over-forgotten): {listed(parts)}."
        )
    if run.targets is not None:
        best = {row.name: min(row.values) for row in run.targets.rows}
        kl = {k: v for k, v in best.items() if "retrained" not in k}
        kl.pop("original model", None)
        if "no tilt (beta 0)" in kl and "weights" in kl:
            nearest = min(kl, key=lambda name: kl[name])
            return (
                "Before any training the target's KL from retrained models is"
                f" {kl['no tilt (beta 0)']:.2f} without a tilt,"
                f" {kl['weights']:.2f} with TRW's similarity at its best strength, and"
                f" {kl[nearest]:.2f} for the nearest target ({nearest})."
            )
    costs = []
    for row in run.rows:
        if row.kind == "method" and row.cost and is_known(row.cost.relative_gradients):
            costs.append(row.cost.relative_gradients)
    lost = [
        f"{_label(row)} in {row.num_diverged} of {run.design.runs} runs"
        for row in run.rows
        if row.is_diverged
    ]
    text = ""
    if costs:
        ends = sorted({f"{cost:.2f}" for cost in (min(costs), max(costs))})
        text = f"Methods cost {' to '.join(ends)} of a retraining's gradients"
    if lost:
        text += f"{'; diverged' if text else 'Diverged'}: {listed(lost)}"
    return f"{text}." if text else ""


def _label(row: RowResult) -> str:
    """Return a row's label, in quotes if it has a comma."""
    return quoted(row.label)


def _difference(run: RunResult, key: str, one: Difference) -> str:
    prefix = "" if len(headline(run)) == 1 else f"{run.metric(key).label} "
    return f"{prefix}{difference_words(one, 1)}"


def _number(one: Estimate, digits: int = 1) -> str:
    """Return a mean with its interval, if it has one."""
    number = format_cell(one.mean, digits)[0]
    return f"{number} {format_cell(one, digits)[1]}" if has_interval(one) else number
