"""Page of federated unlearning of images."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from unlearn_jax.contrib import federated
from unlearn_jax.figures.style import (
    COLORS,
    INK,
    MUTED,
    dress,
    small_panels,
)
from unlearn_jax.pipeline import Check, Figure, Page, Table
from unlearn_jax.studies.common import Artifacts, legend, summarize_finite
from unlearn_jax.studies.federated.images import (
    MEASURES,
    SETTINGS,
    Config,
    federation,
    splits_of,
)
from unlearn_jax.studies.federated.recovery import (
    LABELS,
    is_finite,
    mean_of,
    paired_change,
    percent,
    unrecovered,
)


def methods_table(runs: federated.RecoveryRuns, setting: str) -> Table:
    """Return the table of methods, a row each."""
    columns = [
        "model",
        "forget at once (%)",
        "rounds",
        "test (%)",
        "forget (%)",
        "gap, forget (points)",
    ]
    columns += ["TV on forget (%)", "gap, Yeom (points)"]
    lines = []
    for name, label in LABELS.items():
        if name.rstrip("+") not in runs.measured and name != "same":
            continue
        final = 100 * runs.final(name)
        once = None
        rounds = None
        if name in runs.rounds:
            rounds = runs.summary(runs.rounds[name][0], bounds=(0, math.inf))
            if name != "natural":
                once = percent(runs, 100 * runs.measured[name][:, :, 0, 1])
        cells = [
            final[..., 0],
            final[..., 1],
            runs.gap(name),
            final[..., 3],
            runs.gap(name, "yeom"),
        ]
        summaries: list[Any] = [percent(runs, cell) for cell in cells]
        # The retrained model is not compared with itself.
        if name == "retrained":
            summaries[2:] = [None, None, None]
        lines.append([label, once, rounds, *summaries])
    test, forget, distance = paired_change(runs, [0, 1, 3])
    gap, yeom = (
        summarize_finite(
            runs.gap("special", name) - runs.gap("same", name), runs.summary
        )
        for name in ("forget", "yeom")
    )
    label = "PUF special − natural, PUF's rounds (paired)"
    lines.append([label, None, None, test, forget, gap, distance, yeom])
    missed = unrecovered(runs)
    total = runs.shape[0] * runs.shape[1]
    limit = runs.measured["natural"].shape[2] - 1
    caption = (
        f"{total} runs ({runs.shape[0]} seeds x {runs.shape[1]} cases), 95% intervals"
        " for both random. Rounds: of the remaining clients, until the test"
        f" accuracy is the retrained model's, 1 to {limit}"
        + (
            f"; runs that never got there: {missed}"
            if missed
            else "; all runs got there"
        )
        + ". Gaps: absolute difference to the case's own retrained model, run by run."
        " Yeom: fraction of forget samples with a loss below the remaining ones' mean."
        " Natural, PUF's rounds: as many as PUF special took, its own included."
    )
    return Table(
        f"{SETTINGS[setting][0].upper()}{SETTINGS[setting][1:]}",
        columns,
        lines,
        caption,
    )


def clients_table(
    runs: federated.RecoveryRuns, sizes: np.ndarray, classes: np.ndarray
) -> Table:
    """Return the table of clients, a row each, with means over seeds."""
    names = ("retrained", "again", "original", "natural", "special", "regular")
    columns = [
        "client",
        "samples",
        "classes",
        "retrained",
        "again",
        "original",
        "natural",
        "special",
    ]
    columns += [
        "regular",
        "gap natural",
        "gap special",
        "gap again",
        "rounds natural",
        "rounds special",
    ]
    rows = []
    for client in range(len(sizes)):
        cells = [100 * runs.final(name)[:, client, 1] for name in names]
        for name in ("natural", "special", "again"):
            cells.append(runs.gap(name)[:, client])
        for name in ("natural", "special"):
            cells.append(runs.rounds[name][0][:, client])
        row = [str(client), int(sizes[client]), int(classes[client])]
        rows.append([*row, *map(mean_of, cells)])
    caption = (
        "Forget accuracy in %, its gap in points, and rounds; means over seeds, after"
        " recovery. Special, regular: PUF. Classes: those that at least 5% of the"
        " client's images have."
    )
    return Table("Every client of the Dirichlet split", columns, rows, caption)


def strength_table(runs: federated.RecoveryRuns, strengths: Sequence[float]) -> Table:
    """Return the table of strengths of PUF special, a row each."""
    rows = []
    for eta in sorted({*strengths, 2.0}):
        name = "special" if eta == 2.0 else f"special-{eta:g}"
        at_once = 100 * runs.measured[name][:, :, 0]
        final = 100 * runs.final(name)
        cells = [
            percent(runs, at_once[..., 0]),
            percent(runs, at_once[..., 1]),
            runs.summary(runs.rounds[name][0], bounds=(0, math.inf)),
            percent(runs, final[..., 1]),
            percent(runs, runs.gap(name)),
            percent(runs, final[..., 3]),
        ]
        rows.append([f"{eta:g}", *cells])
    columns = [
        "η_u",
        "test at once (%)",
        "forget at once (%)",
        "recovery rounds",
        "forget (%)",
    ]
    columns += ["gap in forget (points)", "TV on forget (%)"]
    return Table(
        "Strength of PUF special",
        columns,
        rows,
        "All strengths that were tried are shown; the authors' default is 2.",
    )


STYLE = {
    "natural": (COLORS[0], "-"),
    "special": (COLORS[1], "-"),
    "not": (COLORS[2], (0, (5, 1.5))),
    "ascent": (COLORS[3], (0, (1.5, 1.2))),
    "more": (INK, (0, (1.5, 1.2))),
}


def curves(recoveries: Mapping[str, federated.RecoveryRuns]) -> Drawing:
    """Draw forget (top) and test accuracy by round, minus the retrained model's."""
    main = ("dirichlet", "iid", "owner", "half")
    shown = [name for name in main if name in recoveries] or list(recoveries)
    figure, panels = small_panels(
        2 * len(shown), share="x", columns=len(shown), height=2.1
    )
    for i, (axes, setting) in enumerate(zip(panels, shown * 2, strict=True)):
        runs = recoveries[setting]
        place = int(i < len(shown))
        goal = runs.measured["retrained"][..., place]
        for name, (color, dashes) in STYLE.items():
            if name in runs.measured:
                change = runs.measured[name][..., place] - goal[..., None]
                mean = 100 * change.mean((0, 1))
                axes.plot(np.arange(mean.size), mean, color=color, ls=dashes, lw=1.6)
        axes.axhline(0, color=INK, lw=1.4)
        again = 100 * abs(runs.measured["again"][..., place] - goal).mean()
        axes.axhspan(-again, again, color=MUTED, alpha=0.25, lw=0)
        dress(axes, f"{setting}: {'forget' if place else 'test'}", size=9)
        axes.set_ylim((-5, 100) if place and setting == "owner" else (-22, 10))
    handles = []
    for name, (color, dashes) in STYLE.items():
        label = LABELS.get(name, "Retrained, continued")
        handles.append(Line2D([], [], color=color, ls=dashes, lw=1.6, label=label))
    handles.append(
        Line2D([], [], color=INK, lw=1.4, label="Retrained; gray: gap of a second one")
    )
    legend(figure, handles)
    figure.supxlabel("rounds after unlearning", fontsize=10, color=INK)
    figure.supylabel("points above the retrained model", fontsize=10, color=INK)
    return figure


def gaps(runs: federated.RecoveryRuns) -> Drawing:
    """Draw the gap in forget accuracy for every client and seed."""
    figure = Drawing(figsize=(9.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    dress(axes, "Forget accuracy minus the retrained model's")
    shown = {"natural": COLORS[0], "special": COLORS[1], "again": INK}
    for i, (name, color) in enumerate(shown.items()):
        values = 100 * (runs.final(name) - runs.measured["retrained"])[..., 1]
        x = np.arange(values.shape[1]) + 0.22 * (i - 1)
        axes.plot(
            np.tile(x, (len(values), 1)), values, "o", color=color, ms=3.5, alpha=0.55
        )
        axes.plot(x, values.mean(0), "_", color=color, ms=13, mew=2.2)
    handles = [
        Line2D([], [], color=c, marker="o", ls="", label=LABELS[n])
        for n, c in shown.items()
    ]
    legend(figure, handles, size=9.5)
    axes.axhline(0, color=MUTED, lw=1)
    axes.set_xticks(range(runs.shape[1]))
    axes.set_xlabel("client")
    axes.set_ylabel("points")
    return figure


def make_page(config: Config, artifacts: Artifacts) -> Page:
    """Return the page: methods by setting, clients and strengths."""
    recoveries = {}
    for name in config.settings:
        runs = [artifacts[f"forget-{name}-{seed}"] for seed in config.seeds]
        recoveries[name] = federated.RecoveryRuns(runs, MEASURES)
    tables = [methods_table(runs, name) for name, runs in recoveries.items()]
    pictures = []
    if "dirichlet" in recoveries:
        fed = federation("dirichlet", config)
        splits = splits_of(config)
        counts = np.stack(
            [
                np.bincount(splits.train.labels[mask], minlength=splits.num_classes)
                for mask in fed.removed
            ]
        )
        classes = (counts >= 0.05 * counts.sum(1, keepdims=True)).sum(1)
        tables[1:1] = [
            clients_table(recoveries["dirichlet"], counts.sum(1), classes),
            strength_table(recoveries["dirichlet"], config.strengths),
        ]
    pictures.append(
        Figure(
            "Accuracy by round",
            curves(recoveries),
            alt=summary_of(recoveries),
            caption=CAPTION,
        )
    )
    first = "dirichlet" if "dirichlet" in recoveries else config.settings[0]
    pictures.append(
        Figure(
            f"How far from the retrained model ({first})",
            gaps(recoveries[first]),
            alt=summary_of({first: recoveries[first]}),
            caption=(
                "Dots: runs after recovery; bars: mean over seeds. What two retrained"
                " models differ by is the noise."
            ),
        )
    )
    return Page(summary_of(recoveries), [*tables, *pictures, *checks(recoveries)])


CAPTION = (
    "Means over runs. At round 0 unlearning is done; natural is the original model"
    " there. Lines that"
    " begin below a panel are those of methods that destroy more. Where PUF's curve"
    " leaves the dotted one for natural's, recovery brings back what was forgotten."
)


def summary_of(recoveries: Mapping[str, federated.RecoveryRuns]) -> str:
    """Return the findings in sentences."""
    sentences = [
        "Mean gap in forget accuracy to each case's own retrained model, in points."
    ]
    for name, runs in recoveries.items():
        rows = (
            "original",
            "natural",
            "same",
            "special",
            "again",
            "natural+",
            "special+",
            "more+",
        )
        gap = {row: mean_of(runs.gap(row)) for row in rows}
        rounds = {row: mean_of(runs.rounds[row][0]) for row in ("natural", "special")}
        sentences.append(
            f"{name.capitalize()}: original {gap['original']}, natural"
            f" {gap['natural']} ({rounds['natural']} rounds) or {gap['same']} (PUF's"
            f" rounds), PUF special {gap['special']} (1 + {rounds['special']} rounds),"
            f" a second retraining {gap['again']}; at the last round natural"
            f" {gap['natural+']}, PUF {gap['special+']}, retraining itself"
            f" {gap['more+']}."
        )
    return " ".join(sentences)


def checks(recoveries: Mapping[str, federated.RecoveryRuns]) -> list[Check]:
    """Return the checks: finite measures, and PUF's immediate effect."""
    out = [Check("every number is finite", all(map(is_finite, recoveries.values())))]
    for name, runs in recoveries.items():
        at_once = runs.measured["special"][:, :, 0] - runs.measured["original"]
        change = 100 * at_once[..., 1].mean()
        out.append(
            Check(
                f"{name}: PUF lowers forget accuracy at once",
                bool(change < 0),
                f"by {-change:.1f} points",
            )
        )
    if "owner" in recoveries:
        most = 100 * recoveries["owner"].measured["retrained"][..., 1].max()
        out.append(
            Check(
                "owner: a retrained model never predicts the class",
                bool(most == 0),
                f"at most {most:.1f}%",
            )
        )
    return out
