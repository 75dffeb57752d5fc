"""Page of the study of ascent on examples that can be solved."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from unlearn_jax.contrib import testbeds
from unlearn_jax.contrib.testbeds import COUNTS, Sizes
from unlearn_jax.figures.style import COLORS, INK, MUTED, dress
from unlearn_jax.pipeline import Check, Figure, Page, Table
from unlearn_jax.studies.ascent.theory import (
    NOTED,
    ROWS,
    SHOWN,
    Arrays,
    Config,
    first_term,
    size_of,
)
from unlearn_jax.studies.common import legend


def stopping_table(paths: Arrays) -> Table:
    """Return the table of distances at the best stop and at the end of each path."""
    rows = []
    for i, (eps, alpha) in enumerate(ROWS):
        start = float(paths["start"][0, i])
        ends = paths["last"][:, i]
        cells = []
        for side in (0, 1):
            best = float(paths["best"][side, i])
            cells += [best, "yes" if best < start else "no"]
        rows.append(
            [
                f"{eps:g}",
                f"{alpha:g}",
                float(paths["limit"][i]),
                start,
                *cells,
                _end(ends[0]),
                _end(ends[1]),
            ]
        )
    return Table(
        "Does early stopping help? Distance from the retrained weights",
        [
            "eps",
            "alpha",
            "limit of alpha",
            "original",
            "best stop",
            "helps",
            "best stop, alternating",
            "helps",
            "end",
            "end, alternating",
        ],
        rows,
        "Gradient descent-ascent from the original weights; the best stop is the"
        " nearest of all steps after the first, known only to someone who has the"
        " retrained weights. Alternating steps add the ridge twice.",
    )


def _end(distance: float) -> float | str:
    return float(distance) if math.isfinite(distance) and distance < 1e3 else "diverges"


def order_table(samples: list[Arrays]) -> Table:
    """Return the table of how often paths end on the far side of the original."""
    held = np.concatenate([part["held"] for part in samples])
    held = held.swapaxes(1, 2).reshape(-1, 4)
    labels = [
        "one shared coordinate, lemma 3's range",
        "two coordinates, lemma 9's range",
        "two coordinates, lemma 9 without its second term",
        "two coordinates, alpha below that",
    ]
    rows = []
    for label, column in zip(labels, held.T, strict=True):
        known = column[~np.isnan(column)]
        share = float(100 * known.mean()) if known.size else None
        rows.append([label, known.size, int((known == 1).sum()), share])
    return Table(
        "Descent-ascent ends on the far side of the original: sampled examples",
        ["alpha in", "examples with such an alpha", "ordering holds", "%"],
        rows,
        f"{len(held)} random examples: |R| from 31 to 10,000, |F| and b from 1 to 100%"
        " of it, ridge from 0.001 to 1, eps from 0.01 to 0.98, all but eps on a"
        " logarithmic scale; alpha uniform in the range. The third row is not a"
        " lemma.",
    )


def trap_table(arrays: Arrays) -> Table:
    """Return the table of all minima of the three objectives."""
    labels = {
        "original": "original (5, 4, 1, 4)",
        "retrained": "retrained (5, 4, 1, 2)",
        "ascent": "descent-ascent (5, 4, 1, 0)",
    }
    rows = []
    for name, label in labels.items():
        for k, (weights, loss) in enumerate(
            zip(arrays[f"{name}-weights"], arrays[f"{name}-losses"], strict=True)
        ):
            signs = " ".join(
                "+" if sign > 0 else "-" for sign in arrays[f"{name}-signs"][k]
            )
            rows.append(
                [
                    label,
                    "local" if k else "global",
                    f"({weights[0]:.3f}, {weights[1]:.3f})",
                    f"{loss:.3f}",
                    signs,
                ]
            )
    return Table(
        "The trap: all minima",
        [
            "objective (counts at x = -1, 1, 3, 4)",
            "minimum",
            "weights",
            "loss",
            "signs at the points",
        ],
        rows,
        "From 25 x 25 starts, polished by Newton's method in float64. The local minimum"
        " of the retrained objective is the trap.",
    )


def _lemma_9(size: Sizes) -> str:
    eps = np.linspace(0.01, 0.99, 99)
    low, high = testbeds.harmful_range(size, eps)
    inside = eps[low <= high]
    if not inside.size:
        return "lemma 9's own range is empty here"
    return f"lemma 9's own range begins at eps {inside[0]:.2f}"


def grid_figure(grid: Arrays, size: Sizes) -> Drawing:
    """Draw the distance at the best stop, by correlation and alpha."""
    figure = Drawing(figsize=(9.2, 4.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    eps = grid["eps"]
    alpha = grid["alpha"]
    shape = (len(eps), len(alpha))
    with np.errstate(divide="ignore"):
        low = first_term(size, eps)
    drawn: Any = None
    for side, title in enumerate(("simultaneous", "alternating")):
        axes: Axes = panels[side]
        dress(axes, title, grid="both")
        ratio = np.clip((grid["best"] / grid["start"])[side].reshape(shape).T, 0, 2)
        drawn = axes.pcolormesh(
            eps,
            alpha,
            ratio,
            cmap="RdBu_r",
            vmin=0,
            vmax=2,
            shading="nearest",
            rasterized=True,
        )
        axes.contour(eps, alpha, ratio, levels=[1.0], colors=[INK], linewidths=1.6)
        limit = testbeds.alpha_limit(
            dataclasses.replace(size, ridge=(1 + side) * size.ridge), eps
        )
        axes.plot(eps, limit, color=INK, lw=1.6, ls=(0, (5, 2)))
        axes.plot(eps, low, color=INK, lw=1.4, ls=(0, (1.5, 1.5)))
        axes.set(
            xlim=(eps[0], eps[-1]), ylim=(alpha[0], alpha[-1]), xlabel="correlation eps"
        )
    panels[0].set_ylabel("alpha")
    bar = figure.colorbar(drawn, ax=panels, shrink=0.9)
    bar.set_label("best stop / original", color=INK)
    bar.ax.tick_params(color=MUTED, labelcolor=INK)
    return figure


def path_figure(paths: Arrays) -> Drawing:
    """Draw the distances along the paths of the rows that are shown."""
    figure = Drawing(figsize=(9.2, 3.9), layout="constrained")
    axes = figure.add_subplot()
    dress(
        axes, "Distance from the retrained weights during descent-ascent", grid="both"
    )
    steps = np.unique(np.geomspace(1, paths["distance"].shape[-1], 300).astype(int)) - 1
    for (eps, alpha), color in zip(SHOWN, COLORS, strict=False):
        i = ROWS.index((eps, alpha))
        line = paths["distance"][0, i, steps] / paths["start"][0, i]
        axes.plot(
            1 + steps,
            np.where(line < 1e4, line, np.nan),
            color=color,
            lw=1.7,
            label=f"eps {eps:g}, alpha {alpha:g}",
        )
    axes.axhline(1, color=INK, lw=1, ls=(0, (2, 2)))
    axes.set(
        xscale="log",
        yscale="log",
        ylim=(0.1, 300),
        xlabel="1 + step",
        ylabel="distance / original's distance",
    )
    legend(figure, axes, place="right upper", columns=1, size=9.5)
    return figure


def trap_figure(arrays: Arrays) -> Drawing:
    """Draw the paths on the retrained objective, and predictions at its minima."""
    figure = Drawing(figsize=(9.2, 4.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
    dress(left, "Paths on the retrained objective", grid="both")
    levels = [5.1, 5.4, 5.8, 6.3, 7, 8, 9, 9.66, 9.8, 10.2, 11, 12, 13, 14]
    left.contour(
        arrays["a"],
        arrays["b"],
        arrays["landscape"],
        levels=levels,
        colors=[MUTED],
        linewidths=0.7,
        alpha=0.8,
    )
    ways = {
        "retrain": ("retraining", COLORS[2], "-"),
        "ascent": ("descent-ascent", COLORS[1], "-"),
        "fine-tune": ("then fine-tuning", COLORS[0], "-"),
    }
    for name, (label, color, dash) in ways.items():
        left.plot(
            *arrays[f"path-{name}"].T,
            color=color,
            lw=2.2,
            ls=dash,
            label=label,
            zorder=3,
        )
    spots = {
        "original": (arrays["original-weights"][0], MUTED, "o"),
        "oracle": (arrays["retrained-weights"][0], COLORS[2], "*"),
        "ascent's minimum": (arrays["ascent-weights"][0], COLORS[1], "s"),
        "the trap": (arrays["retrained-weights"][1], COLORS[0], "D"),
    }
    for label, (point, color, marker) in spots.items():
        left.plot(
            *point,
            marker=marker,
            ms=13 if marker == "*" else 8,
            color=color,
            mec=INK,
            mew=0.8,
            ls="",
            label=label,
            zorder=4,
        )
    left.set(
        xlim=(arrays["a"][0], arrays["a"][-1]),
        ylim=(arrays["b"][0], arrays["b"][-1]),
        xlabel="a",
        ylabel="b",
    )
    legend(figure, left, columns=4, size=9.5)
    dress(right, "Their predictions", grid="both")
    x = np.linspace(-1.7, 4.6, 200)
    for label, (point, color, _) in spots.items():
        right.plot(
            x,
            np.asarray(testbeds.trap_output(point, x)),
            color=color,
            lw=1.8,
            label=label,
        )
    right.scatter(
        testbeds.POINTS,
        testbeds.LABELS,
        s=15 + 18 * np.array(COUNTS["retrained"]),
        color=INK,
        zorder=4,
    )
    right.axhline(0, color=MUTED, lw=0.8)
    right.set(xlabel="x", ylabel="output", ylim=(-1.2, 1.2))
    return figure


def make_page(config: Config, artifacts: Mapping[str, Arrays]) -> Page:
    """Return the page: early stopping, orderings and the trap."""
    samples = [artifacts[f"sampled-{seed}"] for seed in config.seeds]
    paths = artifacts["paths"]
    toy = artifacts["trap"]
    grid = artifacts["grid"]
    helps = paths["best"][0] < paths["start"][0]
    harmful = (grid["best"][0] >= grid["start"][0]).mean()
    escaped = float(
        np.linalg.norm(toy["path-fine-tune"][-1] - toy["retrained-weights"][0])
    )
    summary = (
        "On two correlated coordinates the best of all stopping times comes nearer to"
        f" the retrained weights than the original is in {int(helps.sum())} of"
        f" {len(ROWS)} settings; on the grid of correlations and alphas no stop helps"
        f" in {100 * harmful:.0f}% of the cells. In the toy descent-ascent ends in a"
        f" minimum from which {config.fine_tuning_steps:,} steps of fine-tuning on the"
        f" retained samples reach a loss of {toy['retrained-losses'][-1]:.2f}, where"
        f" retraining finds {toy['retrained-losses'][0]:.2f}."
    )
    ratio = paths["best"][0] / paths["start"][0]
    pictures = [
        Figure(
            "Where early stopping helps",
            grid_figure(grid, size_of(config)),
            "Two heat maps over correlation and alpha; no stop helps in"
            f" {100 * harmful:.0f}% of the left one.",
            "Blue: the best stop is nearer to the retrained weights than the original"
            " is; red: further away, already after one step. Full line: as near."
            " Dashed: above it descent-ascent diverges (right: with twice the ridge)."
            " Dotted: from there to the dashed line both margins end below the"
            f" original's on every sampled example; {_lemma_9(size_of(config))}.",
        ),
        Figure(
            "Paths",
            path_figure(paths),
            "Distances over steps; best stop over original: "
            + ", ".join(
                f"{ratio[ROWS.index(row)]:.2f} at eps {row[0]:g}, alpha {row[1]:g}"
                for row in SHOWN
            ),
            "Below the dotted line: nearer to the retrained weights than the original.",
        ),
        Figure(
            "The trap",
            trap_figure(toy),
            "Contours of the retrained objective with two minima; fine-tuning after"
            f" descent-ascent ends {escaped:.2f} away from the retrained weights.",
            "Left: contours of the loss on the retained samples. Right: what each model"
            " predicts; dots are the samples, sized by how many are retained. At x = 4"
            " the original and the oracle predict +, the trap predicts -.",
        ),
    ]
    tables = [stopping_table(paths), order_table(samples), trap_table(toy)]
    return Page(summary, [*tables, *pictures, *_checks(samples, toy)])


def _checks(samples: list[Arrays], toy: Arrays) -> list[Check]:
    shared = max(float(part["shared_error"].max()) for part in samples)
    pair = max(float(part["pair_error"].max()) for part in samples)
    held = np.concatenate([part["held"] for part in samples])
    broken = [int((held[:, i] == 0).sum()) for i in range(3)]
    lemmas = all(part["lemma4"].all() and part["lemma5"].all() for part in samples)
    misses = []
    for name, (weights, losses) in NOTED.items():
        minima = toy[f"{name}-weights"]
        is_same = len(toy[f"{name}-losses"]) == len(losses)
        misses.append(np.abs(minima - np.array(weights)).max() if is_same else math.inf)
    ends = {
        "train": toy["original-weights"][0],
        "retrain": toy["retrained-weights"][0],
        "scratch": toy["retrained-weights"][0],
        "ascent": toy["ascent-weights"][0],
        "fine-tune": toy["retrained-weights"][-1],
    }
    off = max(
        float(np.linalg.norm(toy[f"path-{name}"][-1] - end))
        for name, end in ends.items()
    )
    return [
        Check(
            "Closed forms of one coordinate equal Brent's zeros",
            shared <= 1e-6,
            f"largest difference {shared:.1e} (at most 1e-6)",
        ),
        Check(
            "Minimizers of two coordinates equal Newton's",
            pair <= 1e-6,
            f"largest difference {pair:.1e} (at most 1e-6)",
        ),
        Check(
            "The orderings of lemmas 3 and 9 hold on all sampled examples",
            broken[:2] == [0, 0],
            f"{broken[0]} and {broken[1]} exceptions",
        ),
        Check(
            "The bounds of lemmas 4 and 5 hold on all sampled examples", bool(lemmas)
        ),
        Check(
            "The toy has exactly the minima of an independent program",
            bool(max(misses) < 6e-3),
            f"largest difference {max(misses):.1e}",
        ),
        Check(
            "Every path ends in its minimum, fine-tuning in the trap",
            off < 3e-3,
            f"at most {off:.1e} away",
        ),
        Check(
            "With twice the ridge there is no trap",
            int(toy["retrained-ridge2"]) == 1,
            f"{int(toy['retrained-ridge2'])} minimum",
        ),
    ]
