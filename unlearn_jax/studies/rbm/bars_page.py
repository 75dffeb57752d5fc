"""Page of bars and stripes in a diluted RBM."""

import itertools

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from unlearn_jax.contrib.testbeds import rbm as machines
from unlearn_jax.figures.style import COLORS, INK, MUTED, dress
from unlearn_jax.pipeline import Check, Figure, Page, Table
from unlearn_jax.studies.common import (
    Arrays,
    Artifacts,
    in_words,
    is_above_zero,
    legend,
    summarize_distance,
    summarize_finite,
)
from unlearn_jax.studies.rbm.bars import (
    DILUTED,
    MASKS,
    ROWS,
    SHOWN,
    TOP,
    Config,
)


def deletion_table(config: Config, arrays: Arrays) -> Table:
    """Return the table of deletion, a row per method."""
    labels = {"retrained": "retrained (oracle)"} | ROWS
    rows = [
        [
            label,
            summarize_finite(arrays[name][:, 0]),
            summarize_distance(arrays[name][:, 1].round(3)),
            summarize_distance(arrays[name][:, 2]) if name != "retrained" else None,
            (
                summarize_distance(arrays[name][:, 2] / arrays["nothing"][:, 2])
                if name != "retrained"
                else None
            ),
        ]
        for name, label in labels.items()
    ]
    best = -np.log(14 - config.num_forget)
    return Table(
        title=f"Forgetting {config.num_forget} of 14 patterns",
        columns=[
            "model",
            "log-likelihood of retained",
            "forgotten mass",
            "KL(oracle || model)",
            "times the original's",
        ],
        rows=rows,
        caption=(
            "All exact, in nats; the best possible log-likelihood of a retained"
            f" pattern is {best:.3f}. Forgotten mass: probability of the forgotten"
            " patterns over their uniform one (1: remembered, 0: forgotten). Mean ±"
            f" standard deviation over {len(config.seeds)} seeds, 95% interval of the"
            " mean."
        ),
    )


def dilution_table(config: Config, arrays: Arrays, mask: str) -> Table:
    """Return the table of dilution, a row per fraction."""
    rows = []
    for i, fraction in enumerate(config.fractions):
        values = [arrays[f"{mask}-{name}"][:, i] for name in DILUTED]
        rows.append(
            [
                f"{fraction:.0%}",
                *map(summarize_finite, values),
                summarize_finite(values[0] - values[4]),
                summarize_finite(values[1] - values[4]),
            ]
        )
    return Table(
        title=f"Diluted: {MASKS[mask]} removed",
        columns=["removed", *DILUTED.values(), "before - retrained", "at equal steps"],
        rows=rows,
        caption=(
            f"Mean log-likelihood of the 14 patterns, exact, in nats: {-np.log(14):.3f}"
            f" is best; the dense machine has {arrays['dense'].mean():.3f}, the uniform"
            f" distribution {-9 * np.log(2):.3f}. T = {config.num_steps} steps; all"
            " columns of a row have the same masks. Differences are paired, of before"
            " training and of before, 2T, with after, + T: above 0, training"
            " the diluted machine from scratch is better than retraining the one"
            " diluted after training."
        ),
    )


def path_picture(config: Config, arrays: Arrays) -> Figure:
    """Draw the KL from the oracle along every path."""
    figure = Drawing(figsize=(9.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    dress(axes, "Distance to the retrained machine, step by step", grid="both")
    names = {
        "tune": "fine-tuning",
        "gentlest": "ascent weight 0.02",
        "gentle": "ascent weight 0.1",
        "ascent": "ascent weight 1",
    }
    for color, (name, label) in zip(COLORS, names.items(), strict=False):
        steps = np.arange(1, arrays[f"path-{name}"].shape[1] + 1)
        for line in arrays[f"path-{name}"]:
            axes.plot(steps, line, color=color, lw=0.7, alpha=0.35)
        axes.plot(
            steps,
            np.median(arrays[f"path-{name}"], 0),
            color=color,
            lw=2.2,
            label=label,
        )
    for name, label, color in (
        ("nothing", "original", MUTED),
        ("second", "second retrain", INK),
    ):
        axes.axhline(
            arrays[name][:, 2].mean(), color=color, lw=1.6, ls=(0, (5, 2)), label=label
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="steps after the original",
        ylabel="KL(oracle || model), nats",
    )
    title = "median (bold), every seed"
    legend(figure, axes, place="right upper", columns=1, size=9.5, title=title)
    ends = ", ".join(
        f"{label} {np.median(arrays[f'path-{name}'][:, -1]):.3g}"
        for name, label in names.items()
    )
    return Figure(
        "Ascent leaves the oracle behind",
        figure,
        alt=(
            f"KL from the oracle over 500 steps; medians at the end: {ends};"
            f" original {arrays['nothing'][:, 2].mean():.3g}, second retrain"
            f" {arrays['second'][:, 2].mean():.3g}"
        ),
        caption=(
            "At weight 1 the weights of the samples sum to 0, the partition function"
            " drops out of the objective, and the distance grows without bound. Both"
            " axes are logarithmic."
        ),
    )


def dilution_picture(config: Config, arrays: Arrays) -> Figure:
    """Draw the log-likelihood over the fraction of connections removed."""
    figure = Drawing(figsize=(9.2, 6.2), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey="row")
    for column, (mask, title) in enumerate(MASKS.items()):
        for axes, shown in zip(
            panels[:, column], ("the upper lines", "all"), strict=True
        ):
            dress(axes, f"{title} removed, {shown}".capitalize(), grid="both")
            for color, (name, label) in zip(COLORS, DILUTED.items(), strict=False):
                if shown != "all" and name == "after":
                    continue
                values = arrays[f"{mask}-{name}"]
                axes.fill_between(
                    config.fractions,
                    values.min(0),
                    values.max(0),
                    color=color,
                    alpha=0.15,
                    lw=0,
                )
                axes.plot(
                    config.fractions,
                    values.mean(0),
                    color=color,
                    lw=1.8,
                    marker="o",
                    ms=4,
                    label=label,
                )
            axes.axhline(
                -9 * np.log(2),
                color=MUTED,
                lw=1.4,
                ls=(0, (5, 2)),
                label="uniform distribution",
            )
        panels[1, column].set(xlabel="fraction of connections removed")
    for axes in panels[:, 0]:
        axes.set_ylabel("mean log-likelihood, nats")
    legend(figure, panels[1, 0], place="lower center", size=9.5)
    half = int(np.argmin(np.abs(np.asarray(config.fractions) - 0.5)))
    return Figure(
        "Diluting before and after training",
        figure,
        alt=(
            f"At {config.fractions[half]:.0%} removed at random: before training"
            f" {arrays['random-before'][:, half].mean():.2f}, after training"
            f" {arrays['random-after'][:, half].mean():.2f}, retrained"
            f" {arrays['random-full'][:, half].mean():.2f}"
        ),
        caption="Mean over seeds, and their range.",
    )


def states_picture(config: Config, arrays: Arrays) -> Figure:
    """Draw the most probable states of the first seed's machines."""
    labels = {"retrained": "retrained (oracle)"} | ROWS
    figure = Drawing(
        figsize=(9.2, 6.4)
    )  # A constrained layout would reserve space for titles wider than their panels.
    panels = figure.subplots(len(SHOWN), TOP)
    figure.subplots_adjust(
        left=0.01, right=0.99, bottom=0.04, top=0.96, wspace=0.1, hspace=0.6
    )
    patterns = np.asarray(machines.bars_and_stripes(3))
    forgotten = patterns[arrays["forget"][0]]
    states = np.asarray(machines.all_states(9))
    for line, name in zip(panels, SHOWN, strict=True):
        probs = np.exp(arrays[f"states-{name}"][0])
        for axes, index in zip(line, np.argsort(-probs)[:TOP], strict=True):
            draw_state(axes, states[index], patterns, forgotten)
            axes.set_xlabel(
                f"{probs[index]:.3f}" if probs[index] >= 5e-4 else "<0.001",
                fontsize=8,
                color=INK,
            )
        line[0].set_title(
            labels[name], loc="left", fontsize=9.5, fontweight="bold", color=INK
        )
    worst = np.exp(arrays["states-ascent-60"][0]).max()
    return Figure(
        "States of the machines",
        figure,
        alt=(
            f"The {TOP} most probable of 512 states and their probabilities; after 60"
            f" steps of descent-ascent one single state has probability {worst:.3f}"
        ),
        caption=(
            f"The {TOP} most probable of 512 states of seed {config.seeds[0]}, with"
            " their probabilities. Blue: a retained pattern. Orange: a forgotten"
            " pattern. Gray: no pattern at all."
        ),
    )


def draw_state(
    axes: Axes, state: np.ndarray, patterns: np.ndarray, forgotten: np.ndarray
) -> None:
    """Draw one 3x3 state, colored by kind: forgotten, retained or not a pattern."""
    color = MUTED
    if (patterns == state).all(1).any():
        color = COLORS[0]
    if (forgotten == state).all(1).any():
        color = COLORS[1]
    for row, column in itertools.product(range(3), range(3)):
        alpha = 0.95 if state[3 * row + column] else 0.1
        axes.fill(
            [column, column + 1, column + 1, column],
            [-row, -row, -row - 1, -row - 1],
            color=color,
            alpha=alpha,
            lw=0,
        )
    axes.set(
        xlim=(-0.1, 3.1),
        ylim=(-3.1, 0.1),
        aspect="equal",
        xticks=[],
        yticks=[],
        facecolor="none",
    )
    for spine in axes.spines.values():
        spine.set_color(color)


def make_checks(config: Config, forgotten: Arrays, diluted: Arrays) -> list[Check]:
    """Return the checks, the last two of which are findings of the study."""
    gap = np.abs(forgotten["log-z"][:, 0] - forgotten["log-z"][:, 1]).max()
    ratio = forgotten["ascent-5"][:, 2] / forgotten["nothing"][:, 2]
    mass = forgotten["ascent-5"][:, 1].max()
    half = np.flatnonzero(np.abs(np.asarray(config.fractions) - 0.5) < 1e-9)
    margins = (diluted["random-twice"] - diluted["random-full"])[:, half]
    checks = [
        Check(
            "log Z by enumeration equals the sum over all visible and hidden states",
            bool(gap < 1e-4),
            f"largest difference {gap:.1e} nats, {len(config.seeds)} machines",
        ),
        Check(
            "removed connections are exactly 0 after training",
            bool(diluted["leak"].max() == 0),
            f"largest weight {diluted['leak'].max():g}",
        ),
        Check(
            "5 steps of descent-ascent forget, and end further from the oracle than the"
            " original, in every seed",
            bool(mass < 0.01 and ratio.min() > 1),
            f"forgotten mass at most {mass:.1e}; {ratio.min():.1f} to"
            f" {ratio.max():.0f} times as far",
        ),
    ]
    if half.size:
        gap = summarize_finite(margins[:, 0])
        words = gap if isinstance(gap, str) else in_words(gap, ".2f")
        checks.append(
            Check(
                "half of the connections removed at random: retraining stays below"
                " dilution before training, at equal steps (interval)",
                is_above_zero(margins[:, 0]),
                f"by {words} nats, in {(margins > 0).sum()} of {margins.size} seeds",
            )
        )
    return checks


def make_page(config: Config, artifacts: Artifacts) -> Page:
    """Return the page: deletion, dilution, paths and states."""
    forgotten = artifacts["deletion"]
    diluted = artifacts["dilution"]
    ratio = {
        name: np.median(forgotten[name][:, 2] / forgotten["nothing"][:, 2])
        for name in ROWS
    }
    below = {}
    for mask in MASKS:
        better = []
        for i, fraction in enumerate(config.fractions):
            change = diluted[f"{mask}-twice"][:, i] - diluted[f"{mask}-full"][:, i]
            if is_above_zero(change):
                better.append(f"{fraction:.0%}")
        below[mask] = ", ".join(better) or "no fraction"
    summary = (
        "An exact test-bed, inspired by a paper on sparsity (arXiv 2511.00648) and no"
        " claim of it. Descent-ascent drives the forgotten patterns to probability"
        f" {forgotten['ascent-5'][:, 1].mean() * config.num_forget / 14:.1e} in 5"
        f" steps, and is then {ratio['ascent-5']:.0f} times as far from the retrained"
        f" machine as the original (median of {len(config.seeds)} seeds),"
        f" {ratio['ascent-60']:,.0f} times after 60; 500 steps of fine-tuning are at"
        f" {ratio['tune-500']:.2f}, a second retraining at {ratio['second']:.2f}. A"
        " machine that is diluted after training and trained again stays below one"
        " that had its mask from the start and as many steps, with interval above 0:"
        f" random connections removed, at {below['random']}; smallest"
        f" weights, at {below['smallest']}."
    )
    return Page(
        summary=summary,
        blocks=[
            deletion_table(config, forgotten),
            *(dilution_table(config, diluted, mask) for mask in MASKS),
            path_picture(config, forgotten),
            states_picture(config, forgotten),
            dilution_picture(config, diluted),
            *make_checks(config, forgotten, diluted),
        ],
    )
