"""Page of gradient ascent on digits."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from unlearn_jax import audit
from unlearn_jax.figures.style import (
    COLORS,
    INK,
    MUTED,
    dress,
    small_panels,
)
from unlearn_jax.pipeline import Check, Figure, Page, Table
from unlearn_jax.pipeline.report.blocks import Value
from unlearn_jax.studies.ascent.digits import (
    ASCENT,
    EFFECT,
    KINDS,
    METHODS,
    NEAR,
    NORMS,
    Config,
    Findings,
    collect,
)
from unlearn_jax.studies.common import PERCENT, Artifacts, in_words, legend


def outcomes(findings: Findings, *names: str) -> dict[str, np.ndarray]:
    """Return the fractions ``[S]`` of runs that improved, did not change, or broke."""
    change = findings.excess[:, 0, findings.rows_of(*names)] - findings.excess[:, 0, :1]
    return {
        "improved": (change < -EFFECT).mean(1),
        "unchanged": (np.abs(change) <= EFFECT).mean(1),
        "broke": (change > EFFECT).mean(1),
    }


def klom_table(findings: Findings) -> Table:
    """Return the table of KLoM: the original, the floor, each method's best run."""
    sets = np.arange(len(findings.kinds))
    rows = {"original": 0 * sets, "retrained again (seed floor)": 0 * sets - 1}
    rows |= {
        f"{label}, best run": findings.best(name) for name, label in METHODS.items()
    }
    cells: list[list[Value]] = []
    for label, row in rows.items():
        values = [findings.klom[sets, 1, row, part] for part in range(3)]
        values.append(findings.tails[sets, 1, row, 0])
        distances = _estimates(values, findings.factors, bounds=(0, math.inf))
        excess = _estimates([findings.excess[sets, 1, row]], findings.factors)
        cells.append([label, *distances, *excess])
    return Table(
        "KLoM to retrained models (nats)",
        [
            "",
            "forget",
            "retain",
            "test",
            "forget, 95th percentile",
            "worst part above the floor",
        ],
        cells,
        f"Means over the samples of a part, then over {len(sets)} forget sets, with"
        f" 95% intervals ({_random(findings)} random). The best run of each set is"
        " chosen after the fact, by its worst part, against one ensemble of retrained"
        " models, and shown against another: an upper limit that no user can reach.",
    )


def _random(findings: Findings) -> str:
    return "seeds" if len(set(findings.factors[:, 0])) > 1 else "sets"


def _estimates(
    values: Sequence[np.ndarray],
    factors: np.ndarray,
    bounds: tuple[float, float] | None = None,
) -> list[Value]:
    """Return estimates over the sets that have a value."""
    cells: list[Value] = []
    for value in values:
        known = ~np.isnan(value)
        estimate = None
        if known.any():
            estimate = audit.summarize_runs(
                value[known], factors=factors[known], bounds=bounds
            )
        cells.append(estimate)
    return cells


def _percentages(shares: Sequence[np.ndarray], factors: np.ndarray) -> list[Value]:
    """Return estimates of shares in percent, with intervals from 0 to 100."""
    return _estimates([100 * share for share in shares], factors, PERCENT)


def outcome_table(findings: Findings) -> Table:
    """Return the table of outcomes of all runs, by method."""
    rows: list[list[Value]] = []
    for name, label in METHODS.items():
        shares = list(outcomes(findings, name).values())
        cells = _percentages(shares, findings.factors)
        cells += _estimates([100 * findings.remaining(name)], findings.factors)
        elsewhere = findings.remaining_elsewhere(name)
        if elsewhere is None:
            cells.append(None)
        else:
            cells += _estimates([100 * elsewhere], findings.factors)
        rows.append([label, len(findings.rows_of(name)), *cells])
    return Table(
        "Every run (%)",
        [
            "method",
            "configurations",
            "improved",
            "unchanged",
            "broke",
            "best run, remaining",
            "one setting for all, remaining",
        ],
        rows,
        "A run improved where its worst part (forget, retain or test) came at least"
        f" {EFFECT} nats nearer to retraining than the original is, and broke the model"
        f" where it moved at least {EFFECT} further away. Remaining: the worst part's"
        " KLoM above the floor, as a fraction of the original's, on sets where that is"
        f" above {NEAR} nats; 100 is no better than the original, 0 is retraining. The"
        " best run is chosen after the fact on each set; the one setting for all sets"
        " of a seed is that with the least mean on the other seeds' sets.",
    )


def kind_table(findings: Findings) -> Table:
    """Return the table of outcomes by kind of forget set."""
    rows: list[list[Value]] = []
    shares = outcomes(findings, *ASCENT)
    columns = [100 * findings.remaining(name) for name in METHODS]
    for kind, label in KINDS.items():
        chosen = findings.kinds == kind
        if chosen.any():
            values = [column[chosen] for column in columns]
            factors = findings.factors[chosen]
            original = [findings.klom[chosen, 1, 0, 0]]
            cells = _estimates(original, factors, (0, math.inf))
            cells += _estimates(values, factors)
            fractions = [shares[name][chosen] for name in ("improved", "broke")]
            cells += _percentages(fractions, factors)
            rows.append([label, int(chosen.sum()), *cells])
    return Table(
        "By kind of forget set",
        [
            "forget set",
            "sets",
            "original, forget KLoM",
            *(f"{label}, remaining (%)" for label in METHODS.values()),
            "ascent runs that improved (%)",
            "that broke (%)",
        ],
        rows,
        "Remaining: the worst part's KLoM above the floor after the best run, as a"
        " fraction of the original's; 100 is no better than the original, 0 is"
        " retraining.",
    )


def targets(findings: Findings) -> dict[str, np.ndarray]:
    """Return the measures ``[S]`` of failure to predict; higher is worse."""
    return {
        "remaining after the best ascent run": findings.remaining(*ASCENT),
        "fraction of ascent runs that broke": outcomes(findings, *ASCENT)["broke"],
    }


def predictors(findings: Findings) -> dict[str, np.ndarray]:
    """Return the cross-influence norms ``[S]``, and the original's KLoM."""
    return {
        **dict(zip(NORMS, findings.norms.T, strict=True)),
        "original's KLoM above the floor": findings.excess[:, 0, 0],
    }


def correlation(
    findings: Findings, value: np.ndarray, goal: np.ndarray
) -> audit.Estimate | None:
    """Return the rank correlation over sets, None if either does not vary.

    Args:
      findings: numbers of the page.
      value: ``[S]`` values of a predictor.
      goal: ``[S]`` values of a measure of failure; sets with NaN are left out.
    """
    known = ~np.isnan(goal)
    if known.sum() < 2:
        return None
    seeds = findings.factors[known, 0]
    rho = audit.rank_correlation(value[known], goal[known], seeds)
    return None if np.isnan(rho.mean) else rho


def correlation_table(findings: Findings) -> Table:
    """Return the table of rank correlations between predictors and failures."""
    goals = targets(findings)
    rows: list[list[Value]] = []
    for name, value in predictors(findings).items():
        cells = [correlation(findings, value, goal) for goal in goals.values()]
        rows.append([name, *cells])
    return Table(
        "Predictors of failure: rank correlation over forget sets",
        ["predictor", *goals],
        rows,
        "Spearman's, with a 95% interval by Fisher's z, sets of one seed grouped, not"
        " corrected for several tests. The conjecture is a positive correlation. K:"
        " kernel of the margins' gradients by all parameters, five originals; T: TRAK's"
        " influences. The last row needs retrained models and is there to compare"
        " with.",
    )


def every_run(findings: Findings) -> Drawing:
    """Draw every run's KLoM on forget and test samples, a panel per kind of set."""
    kinds = [kind for kind in KINDS if (findings.kinds == kind).any()]
    figure, panels = small_panels(len(kinds), share=True, height=2.7, columns=3)
    ticks = [0.3, 1, 3, 10]
    for axes, kind in zip(panels, kinds, strict=True):
        dress(axes, KINDS[kind], grid="both", size=9)
        values = findings.klom[findings.kinds == kind, 0]
        for name, color in zip(METHODS, COLORS, strict=False):
            rows = values[:, 1:-1][:, findings.method == name]
            axes.scatter(rows[..., 2], rows[..., 0], s=9, color=color, alpha=0.7, lw=0)
        axes.scatter(
            values[:, 0, 2],
            values[:, 0, 0],
            s=42,
            marker="D",
            color=MUTED,
            edgecolor=INK,
            lw=0.8,
            zorder=4,
        )
        axes.scatter(
            values[:, -1, 2], values[:, -1, 0], s=46, marker="s", color=INK, zorder=4
        )
        for side in ("x", "y"):
            axes.set(**{f"{side}scale": "log", f"{side}lim": (0.24, 14)})
            labels = [f"{tick:g}" for tick in ticks]
            axes.set(**{f"{side}ticks": ticks, f"{side}ticklabels": labels})
            axes.minorticks_off()
    figure.supxlabel("KLoM on test samples (nats)", fontsize=10, color=INK)
    figure.supylabel("KLoM on the forget set (nats)", fontsize=10, color=INK)
    handles = [
        Line2D([], [], ls="", marker="o", ms=4, color=c, label=METHODS[n])
        for n, c in zip(METHODS, COLORS, strict=False)
    ]
    handles += [
        Line2D([], [], ls="", marker="D", ms=6, color=MUTED, mec=INK, label="original"),
        Line2D([], [], ls="", marker="s", ms=6, color=INK, label="retrained again"),
    ]
    legend(figure, handles)
    return figure


def scatter(axes: Axes, findings: Findings, x: np.ndarray, y: np.ndarray) -> None:
    """Draw a dot per forget set, colored by kind."""
    for kind, color in zip(KINDS, COLORS, strict=True):
        chosen = findings.kinds == kind
        axes.scatter(
            x[chosen], y[chosen], s=22, color=color, label=KINDS[kind], zorder=3
        )


def predictor_figure(findings: Findings) -> Drawing:
    """Draw the excess that remains after the best ascent run, by each predictor."""
    goal = 100 * findings.remaining(*ASCENT)
    known = predictors(findings)
    figure, panels = small_panels(len(known), share="y", height=2.9, columns=2)
    for axes, (name, value) in zip(panels, known.items(), strict=True):
        rho = correlation(findings, value, goal)
        title = f"rank correlation {in_words(rho, '.2f')}" if rho else ""
        dress(axes, title, grid="both", size=9)
        scatter(axes, findings, value, goal)
        axes.set_xlabel(name, fontsize=9)
        axes.axhline(100, color=MUTED, lw=1, ls=(0, (2, 2)))
    label = "remaining after the best ascent run (%)"
    figure.supylabel(label, fontsize=10, color=INK)
    legend(figure, panels[0])
    return figure


def summary(findings: Findings) -> str:
    """Return the findings in sentences."""
    shares = outcomes(findings, *ASCENT)
    ascent = findings.remaining(*ASCENT)
    correlations = []
    words = (
        "remaining distance after the best run",
        "fraction of runs that break the model",
    )
    for name, goal in zip(words, targets(findings).values(), strict=True):
        rho = correlation(findings, findings.norms[:, 0], goal)
        if rho is not None:
            correlations.append(f"{in_words(rho, '.2f')} with the {name}")
    norms = ""
    if correlations:
        norms = (
            " The cross-influence norm was conjectured to go with failure: its rank"
            f" correlation is {' and '.join(correlations)}."
        )
    elsewhere = findings.remaining_elsewhere("gda")
    one = ""
    if elsewhere is not None:
        one = (
            " One setting of descent-ascent for all sets, chosen on other seeds,"
            f" leaves {100 * np.nanmean(elsewhere):.0f}%."
        )
    by_kind = {}
    for kind, label in KINDS.items():
        chosen = (findings.kinds == kind) & ~np.isnan(ascent)
        if chosen.any():
            by_kind[label] = 100 * ascent[chosen].mean()
    left = ""
    end = "."
    if by_kind:
        hardest = max(by_kind, key=lambda kind: by_kind[kind])
        easiest = min(by_kind, key=lambda kind: by_kind[kind])
        left = (
            f" leaves {100 * np.nanmean(ascent):.0f}% of the original's distance on"
            f" average ({easiest}: {by_kind[easiest]:.0f}%, {hardest}:"
            f" {by_kind[hardest]:.0f}%), and"
        )
        end = (
            "; fine-tuning without ascent leaves"
            f" {100 * np.nanmean(findings.remaining('finetune')):.0f}%.{one}"
        )
    return (
        f"Of all runs with ascent {100 * shares['improved'].mean():.0f}% came nearer"
        f" to retraining, {100 * shares['unchanged'].mean():.0f}% did not move and"
        f" {100 * shares['broke'].mean():.0f}% broke the model. The best of each set,"
        f" chosen after the fact,{left} is no better than the original on"
        f" {findings.is_worse(*ASCENT).sum()} of {len(ascent)} sets{end}{norms}"
    )


def make_page(config: Config, artifacts: Artifacts) -> Page:
    """Return the page: KLoM, outcomes, kinds of sets and predictors of failure."""
    findings = collect(config, artifacts)
    floor = findings.klom[:, 0, -1]
    original = findings.klom[:, 0, 0]
    above = int((original[:, 0] > original[:, 1]).sum())
    shares = {
        name: 100 * value.mean() for name, value in outcomes(findings, *ASCENT).items()
    }
    alike = np.random.default_rng(0).normal(size=(2, config.num_models, 2000))
    chance = audit.klom(*alike).mean()
    checks = [
        Check(
            "Two ensembles of retrained models are as near as chance allows",
            bool((np.abs(floor.mean(0) - chance) < 0.1).all()),
            f"mean KLoM {floor[:, 0].mean():.2f} on forget, {floor[:, 1].mean():.2f} on"
            f" retained, {floor[:, 2].mean():.2f} on test samples; chance gives"
            f" {chance:.2f} for {config.num_models} against as many Gaussian margins",
        ),
        Check(
            "The original is further from retraining on the forget set than on the"
            " retained one",
            above == len(original),
            f"{above} of {len(original)} sets",
        ),
    ]
    pictures = [
        Figure(
            "Every run",
            every_run(findings),
            f"{findings.klom.shape[0] * len(findings.method)} dots in"
            f" {len(set(findings.kinds))} panels: {shares['improved']:.0f}% of the"
            " runs with ascent improved,"
            f" {shares['unchanged']:.0f}% did not move, {shares['broke']:.0f}% broke"
            " the model.",
            "One dot per configuration and forget set, each from as many models as an"
            " ensemble has. A good run is as low as the black square and no further"
            " right than the gray diamond.",
        ),
        Figure(
            "Predictors of failure",
            predictor_figure(findings),
            "Scatter of three cross-influence norms and of the original's KLoM against"
            " the remaining distance after the best ascent run.",
            "One dot per forget set. Above the dotted line no run was better than the"
            " original.",
        ),
    ]
    tables = [
        klom_table(findings),
        outcome_table(findings),
        kind_table(findings),
        correlation_table(findings),
    ]
    return Page(summary(findings), [*tables, *pictures, *checks])
