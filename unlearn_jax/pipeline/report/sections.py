"""Sections of a run's page, one for each analysis that the run made."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from unlearn_jax.audit import Estimate
from unlearn_jax.pipeline.measure.records import (
    ExposedSample,
    RowResult,
    RowSearch,
    RunResult,
    TargetDistance,
    Trial,
    Tuning,
)
from unlearn_jax.pipeline.report.blocks import (
    MISSING,
    Block,
    Cell,
    Column,
    Figure,
    Section,
    Table,
    Text,
    Value,
    format_cell,
    is_known,
)
from unlearn_jax.pipeline.report.figures import sections as figures
from unlearn_jax.pipeline.report.figures.run import Arrays
from unlearn_jax.pipeline.report.tables import UNSEARCHED
from unlearn_jax.pipeline.report.verdict import format_signed, join_names

STATUSES = {
    "found": "an input within the radius gets another label",
    "already_wrong": "the clean image was misclassified to begin with",
    "not_found": "still classified correctly after the last radius",
    "zero_gradient": "the loss gave no direction to search in",
    "not_finite": "the model's logits were NaN or infinite",
}
TERMS = {
    "num_samples": (
        "samples",
        "that have an adversarial example and only finite terms",
    ),
    "delta": ("δ", "L2 distance of the adversarial example; smaller is better"),
    "original_clean": (
        "ℓ(fₒ(x), y)",
        "loss of the original model on the clean sample; near 0 by assumption",
    ),
    "original_adversarial": ("ℓ(fₒ(x̃), y)", "strength of the attack; larger is better"),
    "unlearned_adversarial": (
        "ℓ(f′(x̃), ỹ)",
        "small where the adversarial set is overfitted; larger is better",
    ),
    "retrained_clean": (
        "ℓ(fᵤ(x), y)",
        "generalization of the retrained model; smaller is better",
    ),
    "retrained_adversarial": (
        "ℓ(fᵤ(x̃), ỹ)",
        "small where the adversarial set transfers; smaller is better",
    ),
    "combination": (
        "C",
        "the second and third loss less the fourth and fifth; larger is better",
    ),
    "transfer": (
        "transfer",
        "fraction of examples to which the retrained model, too, gives the label ỹ",
    ),
    "slope": (
        "slope",
        "rise of the loss over δ: a lower bound on the Lipschitz constant L",
    ),
    "excess": (
        "L δ − C",
        "with the slope as L; negative: the theorem promises a step towards retraining",
    ),
    "log10_lipschitz_bound": (
        "log₁₀ of a bound on L",
        "sum over the original model's layers of the logarithms of their norms; a loose"
        " upper bound",
    ),
    "original_distance": (
        "‖θₒ − θᵤ‖",
        "distance of the original model's weights from the retrained model's",
    ),
    "unlearned_distance": (
        "‖θ′ − θᵤ‖",
        "distance of the unlearned model's weights from the retrained model's",
    ),
    "approach": (
        "approach",
        "the first squared less the second squared; positive: unlearning came nearer",
    ),
}
"""Symbol and meaning of each term; x̃ is the adversarial example, ỹ its label."""
MANY_MODELS = 50
"""Number of models below which KLoM is mostly bias."""


def make_sections(result: RunResult, arrays: Arrays) -> list[Section]:
    """Return the sections of all analyses that the run made.

    Args:
      result: results of a run.
      arrays: arrays of the same run; ``vulnerability/ROW`` is the fraction of the runs
        in which each sample is found.
    """
    sections = [
        requests_section(result),
        vulnerability_section(result, arrays),
        targets_section(result),
        norms_section(result),
        klom_section(result),
        theory_section(result),
        tuning_section(result),
        attacks_section(result),
    ]
    return [section for section in sections if section is not None]


def rows_with(result: RunResult, by_row: Mapping[str, object]) -> list[RowResult]:
    """Return the rows of an analysis, in the order of the run's table."""
    return [row for row in result.rows if row.key in by_row]


def _kinds(rows: Sequence[RowResult]) -> list[str]:
    return [row.kind for row in rows]


def _percent(fraction: float | None, digits: int = 1) -> str:
    if fraction is None or not is_known(fraction):
        return MISSING
    return f"{format_cell(100 * fraction, digits)[0]}%"


def _range(low: float, high: float, digits: int = 3) -> str:
    return f"{format_cell(low, digits)[0]} to {format_cell(high, digits)[0]}"


def requests_section(result: RunResult) -> Section | None:
    """Return the section on the score of every request and on its two AUCs."""
    requests = result.requests
    if requests is None:
        return None
    text = Text(
        f"Every forget set came in {requests.count} requests of {requests.size:,}"
        " samples, one after the other, each unlearned from the models of the one"
        " before. After a request the score is the AUC of the retained samples against"
        " the request's, less the AUC of the request's samples against test. It should"
        " be as high as the retrained row's; at 0 (dotted) the request's samples are as"
        " close to the retained ones as to those never seen."
    )
    titles = {
        "score": "Score: FR AUC − FT AUC (points)",
        "fr_auc": "FR AUC (%)",
        "ft_auc": "FT AUC (%)",
    }
    rows = rows_with(result, requests.rows)
    columns = ["Model"]
    columns += [Column(f"request {i + 1}", digits=2) for i in range(requests.count)]
    tables = []
    for key, title in titles.items():
        lines = []
        for row in rows:
            cells = [getattr(request, key) for request in requests.rows[row.key]]
            lines.append([row.label, *cells])
        tables.append(Table(title, columns, lines, kinds=_kinds(rows)))
    descriptions = []
    for row in rows:
        scores = [
            format_cell(request.score, 2)[0] for request in requests.rows[row.key]
        ]
        descriptions.append(f"{row.label} {', '.join(scores)}")
    figure = Figure(
        "Score of each request",
        figures.requests_plot(result),
        "Score of each request. " + "; ".join(descriptions),
        "A line that falls means that later requests are forgotten less well.",
    )
    return Section("Requests one by one", [text, figure, *tables])


def vulnerability_section(result: RunResult, arrays: Arrays) -> Section | None:
    """Return the section on the frequency with which single samples are found."""
    vulnerability = result.vulnerability
    if vulnerability is None or not vulnerability.rows:
        return None
    rows = rows_with(result, vulnerability.rows)
    text = Text(
        "A mean hides the few samples that an attacker finds every time. Here each run"
        " calls some of its forgotten samples members, at a false positive rate of"
        f" {_percent(vulnerability.max_fpr, 0)} on test samples, and a sample's"
        " fraction is how many of the runs that forgot it still call it one. A sample"
        " that retrained models reveal just as often is easy, not remembered: compare"
        " with them."
    )
    lines = []
    descriptions = []
    means = {}
    for row in rows:
        samples = vulnerability.rows[row.key]
        mean = _percent(samples.mean)
        lines.append([row.label, mean, samples.num_always, samples.num_samples])
        descriptions.append(f"{row.label} {mean}")
        means[row.kind] = mean
    columns = ["Model", "Mean fraction found", "Found in every run", "Samples"]
    table = Table("", columns, lines, kinds=_kinds(rows))
    figure = Figure(
        "Samples found repeatedly",
        figures.vulnerability_plot(result, arrays),
        "Mean fraction found: " + ", ".join(descriptions),
        "Right: samples found in every run that forgot them. Unlearned well, a line"
        " follows the retrained one.",
    )
    note = Text(
        f"Ordered by the lower end of the {100 * result.level:g}% interval, in"
        " percent, which takes the runs as independent. The last two columns are the"
        " same sample's fractions before unlearning and after retraining; over all"
        f" forgotten samples their means are {means.get('original', MISSING)} and"
        f" {means.get('oracle', MISSING)}.",
        kind="note",
    )
    references = {}
    for row in result.rows:
        name = f"vulnerability/{row.key}"
        if row.kind in ("original", "oracle") and name in arrays:
            references[row.kind] = arrays[name].ravel()
    sections = []
    for row in rows:
        exposed = vulnerability.rows[row.key].most
        if exposed:
            samples_table = _exposed_table(exposed, references)
            sections.append(Section(row.label, [samples_table], folded=True))
    most_exposed = Section("The most exposed samples", [note, *sections])
    return Section("Vulnerable samples", [text, table, figure, most_exposed])


def _exposed_table(
    exposed: Sequence[ExposedSample], references: Mapping[str, np.ndarray]
) -> Table:
    """Return the table of the most exposed samples of a row.

    Args:
      exposed: samples in order.
      references: ``[N]`` fractions of the runs in which each training sample is found,
        by kind of the reference row, ``original`` or ``oracle``.
    """
    columns = ["Sample", "Class", "Found", "Interval", "Runs", "Original", "Retrained"]
    rows = []
    for exposure in exposed:
        cells: list[Value] = [
            str(exposure.sample),
            exposure.label,
            _percent(exposure.fraction, 0),
            f"[{100 * exposure.low:.0f}, {100 * exposure.high:.0f}]",
            exposure.num_runs,
        ]
        for kind in ("original", "oracle"):
            is_stored = kind in references
            cells.append(
                _percent(references[kind][exposure.sample], 0) if is_stored else None
            )
        rows.append(cells)
    return Table("", columns, rows)


def targets_section(result: RunResult) -> Section | None:
    """Return the section on the distances of targets from retrained models."""
    targets = result.targets
    if targets is None:
        return None
    untilted = [row for row in targets.rows if row.name.startswith("no tilt")]
    caption = (
        "KL(retrained ‖ target), in nats, on the samples to forget: the distance of the"
        " outputs that a method would be trained on from those of retrained models,"
        " before any training. A tilt of strength β raises the odds of similar classes"
        " by up to exp(β); without one the target is the original model's prediction,"
        " renormalized without the forgotten classes. ↓ marks a mean below that. A"
        " second retrained model is the floor; its confusion, and the ratio of its mean"
        " predictions to the renormalized ones, show the best that a similarity of"
        " classes could do. Small: the smallest and the largest run. A target without a"
        " strength has one number."
    )
    if targets.coefficients:
        numbers = [format_cell(number, 3)[0] for number in targets.coefficients]
        caption += (
            " The fitted tilt adds the cosine of the classes' weights, that of their"
            " mean features, and the logarithm of the mean renormalized prediction,"
            " with coefficients fitted to the retrained models of the other forget"
            " sets; fitted to all of them together, for other classes:"
            f" {', '.join(numbers)}."
        )
    columns = ["Target", *(f"β {beta:g}" for beta in targets.betas)]
    rows = []
    for row in targets.rows:
        cells: list[Cell] = []
        for value, low, high in zip(row.values, row.low, row.high, strict=True):
            is_nearer = untilted and value < untilted[0].values[0]
            text = format_cell(value, 3)[0]
            cells.append(Cell(text, _range(low, high), "↓" if is_nearer else ""))
        cells += [Cell("")] * (len(targets.betas) - len(cells))
        rows.append([row.name, *cells])
    blocks = [Table("", columns, rows, caption)]
    compared = [row for row in targets.rows if row.less]
    if compared:
        blocks.append(_differences_to_no_tilt(compared, columns))
    return Section("Targets", blocks)


def _differences_to_no_tilt(
    targets: Sequence[TargetDistance], columns: Sequence[str]
) -> Table:
    """Return the table of the targets' differences to the target without a tilt."""
    rows = []
    for target in targets:
        cells: list[Cell] = []
        for mean, low, high in target.differences:
            mark = ""
            if high < 0:
                mark = "↓"
            elif low > 0:
                mark = "↑"
            text, _, interval = format_signed(mean, low, high, 3).partition(" ")
            cells.append(Cell(text, interval, mark))
        cells += [Cell("")] * (len(columns) - 1 - len(cells))
        rows.append([target.name, *cells])
    caption = (
        "The same less the target without a tilt, paired run by run: nats, and the 95%"
        " interval of the mean over originals and forget sets. ↓ is measurably nearer"
        " to retraining than no tilt, ↑ farther."
    )
    return Table("", columns, rows, caption)


def norms_section(result: RunResult) -> Section | None:
    """Return the section on spectral norms, a line per row and a column per layer."""
    norms = result.norms
    if norms is None:
        return None
    caption = (
        "The largest singular value of every layer as a linear map of its input,"
        " together with the BatchNorm that follows it, by Lanczos iteration (converged,"
        " not the running estimate of a power iteration); mean over a row's models,"
        " below it their range."
    )
    if norms.max_norm is None:
        caption += " No bound was set."
    else:
        caption += (
            f" FastClip was to bound all of them by {norms.max_norm:g}; ▲ marks a layer"
            " more than 1% above in at least one model."
        )
    if norms.unfound:
        caption += (
            " Trained arrays outside the layers found, neither measured nor clipped:"
            f" {', '.join(norms.unfound)}."
        )
    layers = list(next(iter(norms.rows.values())))
    rows = rows_with(result, norms.rows)
    lines = []
    for row in rows:
        cells: list[Cell] = []
        for layer in layers:
            norm = norms.rows[row.key].get(layer)
            if norm is None:
                cells.append(Cell(None))
                continue
            is_over = norms.max_norm and norm.high > 1.01 * norms.max_norm
            text = format_cell(norm.mean, 3)[0]
            note = _range(norm.low, norm.high)
            cells.append(Cell(text, note, "▲" if is_over else ""))
        lines.append([row.label, *cells])
    columns = ["Model", *(layer.removeprefix("params/") for layer in layers)]
    table = Table("", columns, lines, caption, _kinds(rows))
    return Section("Spectral norms", [table])


def klom_section(result: RunResult) -> Section | None:
    """Return the section on KLoM for forget, retain and test samples."""
    klom = result.klom
    if klom is None:
        return None
    text = (
        f"The distance, sample by sample, of the margins of {klom.num_models} unlearned"
        " models from those of as many retrained ones, in nats; 0 is the same"
        " distribution, 11.5 the most that can be measured."
    )
    floor = result.row_of_kind("second_oracle")
    if floor is not None:
        text += f" {floor.label} is the floor: retraining with other seeds."
    text += " Values of another number of models are not comparable."
    blocks: list[Block] = [Text(text)]
    if klom.num_models < MANY_MODELS:
        warning = (
            f"With {klom.num_models} models most of each value is bias, because a bin"
            " that is empty by chance costs up to 11.5: only the distance to the floor"
            " carries information. About 100 models are needed."
        )
        blocks.append(Text(warning, kind="warning"))
    columns: list[str | Column] = ["Model"]
    for part in ("forget", "retain", "test"):
        for statistic in ("mean", "median", "95th percentile"):
            columns.append(Column(f"{part} {statistic}", digits=2))
    rows = rows_with(result, klom.rows)
    lines = []
    for row in rows:
        cells: list[Cell] = []
        for part in ("forget", "retain", "test"):
            distance = klom.rows[row.key][part]
            mean = format_cell(distance.mean.mean, 2)[0]
            cells.append(Cell(mean, format_cell(distance.mean, 2)[1]))
            cells += [Cell(distance.median), Cell(distance.p95)]
        lines.append([row.label, *cells])
    caption = (
        f"Below each mean its {100 * result.level:g}% interval over samples, for these"
        " models."
    )
    blocks.append(Table("", columns, lines, caption, _kinds(rows)))
    return Section("KLoM", blocks)


def theory_section(result: RunResult) -> Section | None:
    """Return the section on the terms of AMUN's Theorem 4.1, a column per row."""
    theory = result.theory
    if theory is None or not theory.rows:
        return None
    caption = (
        "AMUN's theorem bounds the distance from the retrained model after one gradient"
        " step on the adversarial example of a forgotten sample: ‖θ′ − θᵤ‖² ≤"
        " ‖θₒ − θᵤ‖² + (2 / β) (L δ − C), where θₒ, fₒ is the original model, θᵤ, fᵤ"
        " the retrained one and θ′, f′ the unlearned one; x̃ is the adversarial"
        " example, ỹ its label. No network meets its assumptions, so nothing here is a"
        " guarantee: the terms show the direction of each influence. Means over"
        " samples, then over runs, ± the standard deviation over runs; losses in nats."
    )
    rows = rows_with(result, theory.rows)
    lines = []
    for key, (symbol, meaning) in TERMS.items():
        terms = [theory.rows[row.key].get(key) for row in rows]
        if not any(terms):
            continue
        cells = []
        for term in terms:
            if term is None or not is_known(term.mean):
                cells.append(Cell(None))
                continue
            # Significant digits, since the terms differ by many powers of ten.
            note = f"± {term.std:.2g}" if is_known(term.std) else ""
            cells.append(Cell(f"{term.mean:.4g}", note))
        lines.append([symbol, *cells, meaning])
    labels = [row.label for row in rows]
    columns = ["Term", *labels, Column("Meaning", is_text=True)]
    return Section("Theorem 4.1", [Table("", columns, lines, caption)])


def format_options(options: Mapping[str, object]) -> str:
    """Return ``name=value`` of every hyperparameter."""
    return ", ".join(f"{name}={value}" for name, value in options.items())


def chosen_options(result: RunResult, key: str) -> str:
    """Return the values that a search chose for a row, or a note if it chose none."""
    search = result.tuning.rows.get(key) if result.tuning else None
    if search is None:
        return UNSEARCHED if result.is_unsearched(result.row(key)) else ""
    if search.chosen is None:
        return "every trial diverged"
    return format_options(search.trials[search.chosen].options)


def options_at_edge(search: RowSearch) -> list[str]:
    """Return a remark for each chosen value at the lower or upper end of its range.

    There is no remark on ranges of which fewer than three values were tried.
    """
    remarks = []
    for name, values in search.space.items():
        if search.chosen is None or not isinstance(values, Mapping):
            continue
        tried: list[Any] = sorted({trial.options[name] for trial in search.trials})
        chosen = search.trials[search.chosen].options[name]
        if len(tried) > 2 and chosen in (tried[0], tried[-1]):
            end = "lowest" if chosen == tried[0] else "highest"
            remarks.append(f"{name} is the {end} tried")
    return remarks


def _compare_with_original(best: Trial, original: Estimate) -> str:
    """Return a remark on a trial; empty if it is clearly better than the original."""
    if best.gain is None:
        is_equal = best.metrics["avg_gap"].mean == original.mean
        return "equal to the original" if is_equal else ""
    if best.gain.high < 0:
        return ""
    if best.gain.low > 0:
        return "worse than the original"
    return "not distinguishable from the original"


def _format_space(space: Mapping[str, object]) -> str:
    """Return the ranges and the choices of a search."""
    texts = []
    for name, values in space.items():
        if isinstance(values, Mapping):
            texts.append(f"{name} {values['low']:g}–{values['high']:g}")
        else:
            choices = ", ".join(map(str, cast(Sequence[object], values)))
            texts.append(f"{name} in {{{choices}}}")
    return "; ".join(texts)


def tuning_section(result: RunResult) -> Section | None:
    """Return the section on the searches: spaces, trials, choices and warnings."""
    tuning = result.tuning
    if tuning is None or not tuning.rows:
        return None
    lines: list[list[Value | Cell]] = []
    gaps = []
    for row in rows_with(result, tuning.rows):
        search = tuning.rows[row.key]
        num_diverged = sum(not trial.metrics for trial in search.trials)
        note = f"{num_diverged} diverged" if num_diverged else ""
        line: list[Value | Cell] = [
            row.label,
            _format_space(search.space),
            Cell(len(search.trials), note),
        ]
        if search.chosen is None:
            gap = None
            line += [None, None, "every trial diverged"]
        else:
            best = search.trials[search.chosen]
            gap = best.metrics["avg_gap"]
            remarks = options_at_edge(search)
            remarks.append(_compare_with_original(best, tuning.original))
            line += [
                format_options(best.options),
                gap,
                "; ".join(filter(None, remarks)),
            ]
        lines.append(line)
        gaps.append(f"{row.label} {format_cell(gap, 2)[0]}")
    columns = [
        "Model",
        Column("Space", is_text=True),
        "Trials",
        Column("Chosen", is_text=True),
        Column("Avg Gap", "points", digits=2),
        Column("Remarks", is_text=True),
    ]
    figure = Figure(
        "Avg Gap of every trial",
        figures.tuning_plot(result),
        "Avg Gap of the chosen trial: " + ", ".join(gaps),
        "Ringed: the chosen trial. A cross at the top: it diverged. Dashed: the"
        " original, on the same forget sets. A ring at the edge of a panel asks for a"
        " wider range; dots in a line mean that the hyperparameter hardly matters.",
    )
    blocks: list[Block] = [
        Text(_tuning_text(result, tuning)),
        *(Text(text, kind="warning") for text in _tuning_warnings(result, tuning)),
        Table("", columns, lines),
        figure,
        Section("Every trial", [_trials_table(result, tuning)], folded=True),
    ]
    return Section("Tuning", blocks)


def _tuning_text(result: RunResult, tuning: Tuning) -> str:
    """Return a paragraph on the search and the problems that it was run on."""
    kind = "classes" if result.design.forget_kind == "class" else "seeds"
    sets = f"{kind} {', '.join(map(str, tuning.sets))}"
    originals = ", ".join(map(str, tuning.originals))
    return (
        "The hyperparameters below were searched for, and the trial with the lowest"
        " mean Avg Gap was taken. This was done on other original models (seeds"
        f" {originals}) and other forget sets ({sets}) than the table reports, so the"
        " choice did not depend on the reported numbers. The first trial is the"
        " published setting. The first hyperparameter is varied, then the next at the"
        " best value of the first; ranges are searched on a logarithmic scale. A trial"
        " that diverged on any of the problems is not taken."
    )


def _tuning_warnings(result: RunResult, tuning: Tuning) -> list[str]:
    """Return reasons not to trust the choices, a paragraph each."""
    unsearched = [row.label for row in result.rows if result.is_unsearched(row)]
    diverged = []
    at_edge = []
    ineffective = []
    for row in rows_with(result, tuning.rows):
        search = tuning.rows[row.key]
        if search.chosen is None:
            diverged.append(row.label)
            continue
        if options_at_edge(search):
            at_edge.append(row.label)
        if _compare_with_original(search.trials[search.chosen], tuning.original):
            ineffective.append(row.label)
    texts = []
    if unsearched:
        texts.append(
            f"Not searched: {join_names(unsearched)}. Their hyperparameters are as"
            " given, so they may do worse than the tuned rows for that reason alone:"
            " give them a search."
        )
    if diverged:
        texts.append(
            f"Every trial of {join_names(diverged)} diverged: the given hyperparameters"
            " were kept. Search lower learning rates."
        )
    if at_edge:
        texts.append(
            f"The choice for {join_names(at_edge)} is the lowest or highest value tried"
            " of a range: a better one may lie beyond it. Widen the range, or allow"
            " more trials."
        )
    if ineffective:
        texts.append(
            f"The best trial of {join_names(ineffective)} is not clearly better than"
            " the original on the same forget sets (the interval of their paired"
            " difference holds 0, or lies above): the search found no hyperparameters"
            " that work, or the runs are too few to show it."
        )
    return texts


def _trials_table(result: RunResult, tuning: Tuning) -> Table:
    """Return the table of all trials, with marks on chosen and diverged trials."""
    stored: set[str] = set()
    for search in tuning.rows.values():
        for trial in search.trials:
            stored |= set(trial.metrics)
    metrics = [
        metric
        for metric in result.metrics
        if metric.key in stored and metric.key != "avg_gap"
    ]
    columns = ["Model", Column("Hyperparameters", is_text=True)]
    columns.append(Column("Avg Gap", "points", digits=2))
    columns += [Column(metric.label, metric.unit, digits=2) for metric in metrics]
    columns.append("")
    num_runs = len(tuning.originals) * len(tuning.sets)
    lines = []
    for row in rows_with(result, tuning.rows):
        search = tuning.rows[row.key]
        for i, trial in enumerate(search.trials):
            line: list[Value] = [row.label, format_options(trial.options)]
            line.append(trial.metrics.get("avg_gap"))
            for metric in metrics:
                estimate = trial.metrics.get(metric.key)
                line.append(estimate and estimate.mean)
            if trial.metrics:
                line.append("chosen" if i == search.chosen else "")
            else:
                line.append(f"diverged {trial.num_diverged} of {num_runs}")
            lines.append(line)
    return Table("", columns, lines)


def attacks_section(result: RunResult) -> Section | None:
    """Return the section on the outcomes of every adversarial search."""
    attacks = result.attacks
    if not attacks:
        return None
    columns: list[str | Column] = ["Outcome"]
    for name, attack in attacks.items():
        if not name:
            columns.append("the run's own" if len(attacks) > 1 else "samples")
            continue
        remarks = [format_options(attack.settings)] if attack.settings else []
        users = [row.label for row in result.rows if row.attack == name]
        if users:
            remarks.append(f"used by {join_names(users)}")
        columns.append(Column(name, "; ".join(remarks)))
    columns.append(Column("Meaning", is_text=True))
    rows: list[list[Value | Cell]] = []
    outcomes = dict.fromkeys(
        key for attack in attacks.values() for key in attack.status
    )
    for outcome in outcomes:
        row: list[Value | Cell] = [outcome.replace("_", " ")]
        for attack in attacks.values():
            count = attack.status.get(outcome)
            total = max(sum(attack.status.values()), 1)
            note = "" if count is None else f"{100 * count / total:.1f}%"
            row.append(Cell(count, note))
        rows.append([*row, STATUSES.get(outcome, "")])
    medians = [attack.distance_quantiles.get("0.5") for attack in attacks.values()]
    meaning = "of the examples used, in the attack's norm, pixels in [0, 1]"
    rows.append(["median distance", *medians, meaning])
    over_norm = [attack.over_norm for attack in attacks.values()]
    if any(ratio is not None for ratio in over_norm):
        meaning = "median, in L2, over the image's L2 norm"
        ratios = map(_ratio_cell, over_norm)
        rows.append(["distance over image's norm", *ratios, meaning])
    over_neighbor = [attack.over_neighbor for attack in attacks.values()]
    if any(ratio is not None for ratio in over_neighbor):
        meaning = "median, in L2, over that to the nearest training image"
        ratios = map(_ratio_cell, over_neighbor)
        rows.append(["distance over neighbor's", *ratios, meaning])
    bounds = [attack.lower_bound for attack in attacks.values()]
    if any(bound is not None for bound in bounds):
        meaning = "the original's Lipschitz bound excludes examples within it"
        rows.append(["certified distance, median", *bounds, meaning])
    gradients = [Cell(f"{attack.gradients:.1f}") for attack in attacks.values()]
    rows.append(["gradients", *gradients, "spent on a sample, on average"])
    table = Table("", columns, rows)
    return Section("Outcomes of the adversarial search", [table])


def _ratio_cell(ratio: float | None) -> Cell:
    return Cell(None if ratio is None else f"{ratio:.2g}")
