"""Page of gradient ascent on digits."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from unlearn_jax import audit
from unlearn_jax.pipeline import Check, Figure, Page, Table
from unlearn_jax.pipeline.report.blocks import Value
from unlearn_jax.pipeline.report.figures.style import (
    COLORS,
    INK,
    MUTED,
    dress,
    small_panels,
)
from unlearn_jax.studies.ascent.digits import (
    ASCENT,
    EFFECT,
    KINDS,
    METHODS,
    NORMS,
    Arrays,
    Config,
    Found,
    read,
)
from unlearn_jax.studies.common import legend


def rank_correlation(x: np.ndarray, y: np.ndarray, seeds: np.ndarray) -> audit.Estimate:
    """Spearman's, with a 95 % bootstrap interval: seeds redrawn, and within each of them as many of its forget sets."""
    from scipy.stats import rankdata

    rng, own = (
        np.random.default_rng(0),
        [np.flatnonzero(seeds == seed) for seed in np.unique(seeds)],
    )
    drawn = rng.integers(len(own), size=(4000, len(own)))
    redrawn = [
        np.concatenate([rng.choice(own[i], len(own[i])) for i in picked])
        for picked in drawn
    ]
    rows = np.stack([np.arange(len(x)), *redrawn])
    ranks = [rankdata(values[rows], axis=1) for values in (x, y)]
    ranks = [rank - rank.mean(1, keepdims=True) for rank in ranks]
    with np.errstate(invalid="ignore"):
        rho = (ranks[0] * ranks[1]).sum(1) / np.sqrt(
            (ranks[0] ** 2).sum(1) * (ranks[1] ** 2).sum(1)
        )
    if np.isnan(rho[0]):  # one side is the same for all sets
        unknown = float("nan")
        return audit.Estimate(unknown, unknown, unknown, unknown, len(x), len(rows) - 1)
    ends = audit.interval(rho[1:], rho[0])
    return audit.Estimate(
        float(rho[0]),
        float("nan"),
        ends.low,
        ends.high,
        len(x),
        int(np.isnan(rho[1:]).sum()),
    )


def outcomes(found: Found, methods_: tuple[str, ...]) -> dict[str, np.ndarray]:
    """``[S]`` shares of all runs that helped, did nothing, or broke the model, by :data:`EFFECT`."""
    rows = 1 + np.flatnonzero(np.isin(found.method, methods_))
    change = found.excess[:, 0, rows] - found.excess[:, 0, :1]
    shares = {
        "helped": change < -EFFECT,
        "did nothing": np.abs(change) <= EFFECT,
        "broke": change > EFFECT,
    }
    return {name: value.mean(1) for name, value in shares.items()}


def klom_table(found: Found) -> Table:
    sets = np.arange(len(found.kinds))
    rows = {"do nothing": 0 * sets, "retrained again (seed floor)": 0 * sets - 1}
    rows |= {f"{METHODS[name]}, best run": found.best((name,)) for name in METHODS}
    cells = []
    for label, row in rows.items():
        values = [found.klom[sets, 1, row, part] for part in range(3)]
        values += [found.tails[sets, 1, row, 0], found.excess[sets, 1, row]]
        cells.append(
            [
                label,
                *(
                    audit.summarize_runs(value, factors=found.factors)
                    for value in values
                ),
            ]
        )
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
        f"Means over the samples of a part, then over {len(sets)} forget sets, with 95"
        " % intervals (seeds and sets redrawn). The best run of each set is chosen"
        " after the fact, by its worst part, against one ensemble of retrained models,"
        " and shown against another: what an omniscient user would get, not what"
        " anyone can.",
    )


def outcome_table(found: Found) -> Table:
    rows = []
    for name in METHODS:
        shares = outcomes(found, (name,))
        count, elsewhere = (
            int((found.method == name).sum()),
            found.left_elsewhere((name,)),
        )
        values = [
            *shares.values(),
            found.left((name,)),
            *([] if elsewhere is None else [elsewhere]),
        ]
        cells: list[Value] = [
            audit.summarize_runs(100 * value, factors=found.factors) for value in values
        ]
        rows.append(
            [METHODS[name], count, *cells, *([None] if elsewhere is None else [])]
        )
    return Table(
        "Every run (%)",
        [
            "method",
            "configurations",
            "helped",
            "did nothing",
            "broke",
            "best run, left",
            "one setting for all, left",
        ],
        rows,
        "A run helped where its worst part (forget, retain or test) came at least"
        f" {EFFECT} nats nearer to retraining than doing nothing, and broke the model"
        f" where it went at least {EFFECT} further away. Left: the worst part's KLoM"
        " above the floor, as a share of doing nothing's; 100 is no better than doing"
        " nothing, 0 is retraining. The best run is chosen after the fact on each set;"
        " the one setting for all sets of a seed is that with the least mean share on"
        " the other seeds' sets.",
    )


def kind_table(found: Found) -> Table:
    rows = []
    for kind, label in KINDS.items():
        own = found.kinds == kind
        if not own.any():
            continue
        factors, shares = found.factors[own], outcomes(found, ASCENT)
        columns = [
            found.klom[:, 1, 0, 0],
            *(100 * found.left((name,)) for name in METHODS),
        ]
        columns += [100 * shares["helped"], 100 * shares["broke"]]
        rows.append(
            [
                label,
                int(own.sum()),
                *(
                    audit.summarize_runs(value[own], factors=factors)
                    for value in columns
                ),
            ]
        )
    return Table(
        "By kind of forget set",
        [
            "forget set",
            "sets",
            "do nothing, forget KLoM",
            *(f"{METHODS[name]}, left (%)" for name in METHODS),
            "ascent runs that helped (%)",
            "that broke (%)",
        ],
        rows,
        "Left: the worst part's KLoM above the floor after the best run, as a share of"
        " doing nothing's; 100 is no better than doing nothing, 0 is retraining.",
    )


def targets(found: Found) -> dict[str, np.ndarray]:
    """What should be foretold for each forget set: higher is worse."""
    return {
        "left by the best ascent run": found.left(ASCENT),
        "share of ascent runs that broke": outcomes(found, ASCENT)["broke"],
    }


def predictors(found: Found) -> dict[str, np.ndarray]:
    """The cross-influence norms, and what one can compare them with."""
    return {
        **dict(zip(NORMS, found.norms.T, strict=True)),
        "do nothing's KLoM above the floor": found.excess[:, 0, 0],
    }


def correlation_table(found: Found) -> Table:
    goals = targets(found)
    rows = [
        [
            name,
            *(
                rank_correlation(value, goal, found.factors[:, 0])
                for goal in goals.values()
            ),
        ]
        for name, value in predictors(found).items()
    ]
    return Table(
        "Does it foretell failure? Rank correlation over forget sets",
        ["known before unlearning", *goals],
        rows,
        "Spearman's, with a 95 % bootstrap interval (seeds and sets redrawn), not"
        " corrected for several tests. The conjecture is a positive correlation. K:"
        " kernel of the margins' gradients by all parameters, five originals; T: TRAK's"
        " influences. The last row needs retrained models and is there to compare"
        " with.",
    )


def every_run(found: Found) -> Drawing:
    kinds = [kind for kind in KINDS if (found.kinds == kind).any()]
    figure, panels = small_panels(len(kinds), share=True, height=2.7, columns=3)
    ticks = [0.3, 1, 3, 10]
    for axes, kind in zip(panels, kinds, strict=True):
        dress(axes, KINDS[kind], grid="both", size=9)
        values = found.klom[found.kinds == kind, 0]
        for name, color in zip(
            METHODS, (COLORS[0], COLORS[1], COLORS[2], COLORS[3]), strict=True
        ):
            rows = values[:, 1:-1][:, found.method == name]
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
            axes.set(
                **{
                    f"{side}ticks": ticks,
                    f"{side}ticklabels": [f"{tick:g}" for tick in ticks],
                }
            )
            axes.minorticks_off()
    figure.supxlabel("KLoM on test samples (nats)", fontsize=10, color=INK)
    figure.supylabel("KLoM on the forget set (nats)", fontsize=10, color=INK)
    handles = [
        Line2D([], [], ls="", marker="o", ms=4, color=c, label=METHODS[n])
        for n, c in zip(METHODS, COLORS, strict=False)
    ]
    handles += [
        Line2D(
            [], [], ls="", marker="D", ms=6, color=MUTED, mec=INK, label="do nothing"
        ),
        Line2D([], [], ls="", marker="s", ms=6, color=INK, label="retrained again"),
    ]
    legend(figure, handles)
    return figure


def scatter(axes: Axes, found: Found, x: np.ndarray, y: np.ndarray) -> None:
    for kind, color in zip(KINDS, COLORS, strict=True):
        own = found.kinds == kind
        axes.scatter(x[own], y[own], s=22, color=color, label=KINDS[kind], zorder=3)


def foretold(found: Found) -> Drawing:
    goal = 100 * targets(found)["left by the best ascent run"]
    known = predictors(found)
    figure, panels = small_panels(len(known), share="y", height=2.9, columns=2)
    for axes, (name, value) in zip(panels, known.items(), strict=True):
        rho = rank_correlation(value, goal, found.factors[:, 0])
        dress(
            axes,
            f"rank correlation {rho.mean:.2f} [{rho.low:.2f}, {rho.high:.2f}]",
            grid="both",
            size=9,
        )
        scatter(axes, found, value, goal)
        axes.set_xlabel(name, fontsize=9)
        axes.axhline(100, color=MUTED, lw=1, ls=(0, (2, 2)))
    figure.supylabel("left by the best ascent run (%)", fontsize=10, color=INK)
    legend(figure, panels[0])
    return figure


def summary(found: Found) -> str:
    everything_, ascent = outcomes(found, ASCENT), found.left(ASCENT)
    rho, broke = (
        rank_correlation(found.norms[:, 0], goal, found.factors[:, 0])
        for goal in targets(found).values()
    )
    elsewhere = found.left_elsewhere(("gda",))
    one = (
        ""
        if elsewhere is None
        else (
            " One setting of descent-ascent for all sets, chosen on other seeds,"
            f" leaves {100 * elsewhere.mean():.0f} %."
        )
    )
    worse = int((ascent >= 1).sum())
    by_kind = {
        KINDS[k]: 100 * ascent[found.kinds == k].mean()
        for k in KINDS
        if (found.kinds == k).any()
    }
    hardest, easiest = (
        max(by_kind, key=lambda k: by_kind[k]),
        min(by_kind, key=lambda k: by_kind[k]),
    )
    return (
        f"Of all runs with ascent {100 * everything_['helped'].mean():.0f} % came"
        f" nearer to retraining, {100 * everything_['did nothing'].mean():.0f} % did"
        f" nothing and {100 * everything_['broke'].mean():.0f} % broke the model. The"
        f" best of each set, chosen after the fact, leaves {100 * ascent.mean():.0f} %"
        f" of doing nothing's distance on average ({easiest}: {by_kind[easiest]:.0f} %,"
        f" {hardest}: {by_kind[hardest]:.0f} %), and is no better than doing nothing on"
        f" {worse} of {len(ascent)} sets; fine-tuning without ascent leaves"
        f" {100 * found.left(('finetune',)).mean():.0f} %.{one} The cross-influence"
        " norm was conjectured to go with failure: its rank correlation is"
        f" {rho.mean:.2f} [{rho.low:.2f}, {rho.high:.2f}] with what the best run"
        f" leaves, and {broke.mean:.2f} [{broke.low:.2f}, {broke.high:.2f}] with the"
        " share of runs that break the model."
    )


def make_page(config: Config, parts: Mapping[str, Arrays]) -> Page:
    found = read(config, parts)
    floor, nothing = found.klom[:, 0, -1], found.klom[:, 0, 0]
    above = int((nothing[:, 0] > nothing[:, 1]).sum())
    shares = {
        name: 100 * value.mean() for name, value in outcomes(found, ASCENT).items()
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
            "Doing nothing is further from retraining on the forget set than on the"
            " retained one",
            above == len(nothing),
            f"{above} of {len(nothing)} sets",
        ),
    ]
    pictures = [
        Figure(
            "Every run",
            every_run(found),
            f"{found.klom.shape[0] * len(found.method)} dots in {len(set(found.kinds))}"
            f" panels: {shares['helped']:.0f} % of the runs with ascent helped,"
            f" {shares['did nothing']:.0f} % did nothing, {shares['broke']:.0f} % broke"
            " the model.",
            "One dot per configuration and forget set, each from as many models as an"
            " ensemble has. Forgetting well means going down from the gray diamond to"
            " the black square's height without going right.",
        ),
        Figure(
            "What should foretell failure",
            foretold(found),
            "Scatter of three cross-influence norms and of doing nothing's KLoM against"
            " what the best ascent run leaves.",
            "One dot per forget set. Above the dotted line no run was better than doing"
            " nothing.",
        ),
    ]
    tables = [
        klom_table(found),
        outcome_table(found),
        kind_table(found),
        correlation_table(found),
    ]
    return Page(summary(found), [*tables, *pictures, *checks])
