"""Page of federated unlearning of digits."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from unlearn_jax.contrib import federated
from unlearn_jax.pipeline import Check, Figure, Page, Table
from unlearn_jax.pipeline.report.figures.style import (
    COLORS,
    INK,
    MUTED,
    dress,
    small_panels,
)
from unlearn_jax.studies.federated.digits import (
    MEASURES,
    METHODS,
    SETTINGS,
    STRENGTHS,
    Config,
    digits,
    federation,
)

ROWS = {
    "original": "Original (do nothing)",
    "retrained": "Retrained (oracle)",
    "again": "Retrained again (floor)",
    "natural": METHODS["natural"],
    "same": "Natural, PUF's rounds",
    **{name: label for name, label in METHODS.items() if name != "natural"},
    "more+": "Retrained, and on to the last round",
    "natural+": "Natural, on to the last round",
    "special+": "PUF special, on to the last round",
}


def methods_table(
    runs: federated.RecoveryRuns, setting: str, rows: Mapping[str, str] = ROWS
) -> Table:
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
    for name, label in rows.items():
        if name.rstrip("+") not in runs.measured and name != "same":
            continue
        final, recovers = 100 * runs.final(name), name in runs.rounds
        once = (
            runs.summary(100 * runs.measured[name][:, :, 0, 1])
            if recovers and name != "natural"
            else None
        )
        rounds = runs.summary(runs.rounds[name][0]) if recovers else None
        cells = [
            final[..., 0],
            final[..., 1],
            runs.gap(name),
            final[..., 3],
            runs.gap(name, "yeom"),
        ]
        if name == "retrained":  # the goal is not compared with itself
            lines.append(
                [label, None, None, *map(runs.summary, cells[:2]), None, None, None]
            )
        else:
            lines.append([label, once, rounds, *map(runs.summary, cells)])
    change = [
        100 * (runs.final("special") - runs.final("same"))[..., i] for i in (0, 1, 3)
    ]
    change[2:2] = [runs.gap("special") - runs.gap("same")]
    change.append(runs.gap("special", "yeom") - runs.gap("same", "yeom"))
    lines.append(
        [
            "PUF special − natural, PUF's rounds (paired)",
            None,
            None,
            *map(runs.summary, change),
        ]
    )
    missed = {
        name: int((~reached).sum())
        for name, (_, reached) in runs.rounds.items()
        if name in rows
    }
    told = ", ".join(
        f"{count} of {ROWS[name].split(',')[0]}"
        for name, count in missed.items()
        if count
    )
    total, limit = runs.shape[0] * runs.shape[1], runs.measured["natural"].shape[2] - 1
    caption = (
        f"{total} runs ({runs.shape[0]} seeds x {runs.shape[1]} cases), 95% intervals"
        " with both redrawn. Rounds: of the remaining clients, until the test accuracy"
        f" is the retrained model's, 1 to {limit}"
        + (f"; runs that never got there: {told}" if told else "; all runs got there")
        + ". Gaps: absolute difference to the case's own retrained model, run by run."
        " Yeom: share of forget samples with a loss below the remaining ones' mean."
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
    """One row for each client, means over seeds."""
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
        cells = [float(100 * runs.final(name)[:, client, 1].mean()) for name in names]
        cells += [
            float(runs.gap(name)[:, client].mean())
            for name in ("natural", "special", "again")
        ]
        cells += [
            float(runs.rounds[name][0][:, client].mean())
            for name in ("natural", "special")
        ]
        rows.append(
            [
                str(client),
                int(sizes[client]),
                int(classes[client]),
                *(f"{cell:.1f}" for cell in cells),
            ]
        )
    caption = (
        "Forget accuracy in %, its gap in points, and rounds; means over seeds, after"
        " recovery. Special, regular: PUF. Classes: those that at least 5% of the"
        " client's images have."
    )
    return Table("Every client of the Dirichlet split", columns, rows, caption)


def strength_table(runs: federated.RecoveryRuns) -> Table:
    rows = []
    for eta in STRENGTHS:
        name = "special" if eta == 2.0 else f"special-{eta:g}"
        at_once, final = 100 * runs.measured[name][:, :, 0], 100 * runs.final(name)
        cells = [
            at_once[..., 0],
            at_once[..., 1],
            runs.rounds[name][0],
            final[..., 1],
            runs.gap(name),
            final[..., 3],
        ]
        rows.append([f"{eta:g}", *map(runs.summary, cells)])
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


def curves(found: Mapping[str, federated.RecoveryRuns]) -> Drawing:
    """Forget accuracy above, test accuracy below, by round, both minus the retrained model's."""
    shown = [
        name for name in ("dirichlet", "iid", "owner", "half") if name in found
    ] or list(found)
    figure, panels = small_panels(
        2 * len(shown), share="x", columns=len(shown), height=2.1
    )
    for i, (axes, setting) in enumerate(zip(panels, shown * 2, strict=True)):
        runs, place = found[setting], int(i < len(shown))
        goal = runs.measured["retrained"][..., place]
        for name, (color, dashes) in STYLE.items():
            if name in runs.measured:
                mean = 100 * (runs.measured[name][..., place] - goal[..., None]).mean(
                    (0, 1)
                )
                axes.plot(np.arange(mean.size), mean, color=color, ls=dashes, lw=1.6)
        axes.axhline(0, color=INK, lw=1.4)
        again = 100 * abs(runs.measured["again"][..., place] - goal).mean()
        axes.axhspan(-again, again, color=MUTED, alpha=0.25, lw=0)
        dress(axes, f"{setting}: {'forget' if place else 'test'}", size=9)
        axes.set_ylim((-5, 100) if place and setting == "owner" else (-22, 10))
    handles = [
        Line2D(
            [],
            [],
            color=c,
            ls=dashes,
            lw=1.6,
            label=METHODS.get(n, "Retrained, going on"),
        )
        for n, (c, dashes) in STYLE.items()
    ]
    handles.append(
        Line2D([], [], color=INK, lw=1.4, label="Retrained; gray: gap of a second one")
    )
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=3,
        frameon=False,
        labelcolor=INK,
        fontsize=9,
    )
    figure.supxlabel("rounds after unlearning", fontsize=10, color=INK)
    figure.supylabel("points above the retrained model", fontsize=10, color=INK)
    return figure


def gaps(runs: federated.RecoveryRuns) -> Drawing:
    """Gap of every client and seed."""
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
        Line2D([], [], color=c, marker="o", ls="", label=ROWS[n])
        for n, c in shown.items()
    ]
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=3,
        frameon=False,
        labelcolor=INK,
        fontsize=9.5,
    )
    axes.axhline(0, color=MUTED, lw=1)
    axes.set_xticks(range(runs.shape[1]))
    axes.set_xlabel("client")
    axes.set_ylabel("points")
    return figure


def make_page(config: Config, parts: Mapping[str, dict[str, np.ndarray]]) -> Page:
    found = {
        name: federated.RecoveryRuns(
            [parts[f"forget-{name}-{seed}"] for seed in config.seeds], MEASURES
        )
        for name in config.settings
    }
    tables = [methods_table(runs, name) for name, runs in found.items()]
    pictures = []
    if "dirichlet" in found:
        fed = federation(
            "dirichlet", config.num_clients, config.alpha, config.num_train
        )
        labels = digits(config.num_train).train.labels
        counts = np.stack(
            [np.bincount(labels[mask], minlength=10) for mask in fed.gone]
        )
        classes = (counts >= 0.05 * counts.sum(1, keepdims=True)).sum(1)
        tables[1:1] = [
            clients_table(found["dirichlet"], counts.sum(1), classes),
            strength_table(found["dirichlet"]),
        ]
    pictures.append(
        Figure(
            "Accuracy by round",
            curves(found),
            alt=told(found),
            caption="Means over runs. " + HOW,
        )
    )
    first = "dirichlet" if "dirichlet" in found else config.settings[0]
    pictures.append(
        Figure(
            f"How far from the retrained model ({first})",
            gaps(found[first]),
            alt=told({first: found[first]}),
            caption=(
                "Dots: runs after recovery; bars: mean over seeds. What two retrained"
                " models differ by is the noise."
            ),
        )
    )
    return Page(told(found), [*tables, *pictures, *checks(found)])


HOW = (
    "At round 0 unlearning is done; natural is the original model there. Lines that"
    " begin below a panel are those of methods that destroy more. Where PUF's curve"
    " leaves the dotted one for natural's, recovery brings back what was forgotten."
)


def told(found: Mapping[str, federated.RecoveryRuns]) -> str:
    """What came out, in words made of the numbers."""
    sentences = [
        "Mean gap in forget accuracy to each case's own retrained model, in points."
    ]
    for name, runs in found.items():
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
        gap = {row: f"{runs.gap(row).mean():.1f}" for row in rows}
        rounds = {
            row: f"{runs.rounds[row][0].mean():.1f}" for row in ("natural", "special")
        }
        sentences.append(
            f"{name.capitalize()}: doing nothing {gap['original']}, natural"
            f" {gap['natural']} ({rounds['natural']} rounds) or {gap['same']} (PUF's"
            f" rounds), PUF special {gap['special']} (1 + {rounds['special']} rounds),"
            f" a second retraining {gap['again']}; on to the last round natural"
            f" {gap['natural+']}, PUF {gap['special+']}, retraining itself"
            f" {gap['more+']}."
        )
    return " ".join(sentences)


def checks(found: Mapping[str, federated.RecoveryRuns]) -> list[Check]:
    out = []
    finite = all(
        np.isfinite(values).all()
        for runs in found.values()
        for values in runs.measured.values()
    )
    out.append(Check("every number is finite", finite))
    for name, runs in found.items():
        change = (
            100
            * (runs.measured["special"][:, :, 0] - runs.measured["original"])[
                ..., 1
            ].mean()
        )
        out.append(
            Check(
                f"{name}: PUF lowers forget accuracy at once",
                bool(change < 0),
                f"by {-change:.1f} points",
            )
        )
    if "owner" in found:
        most = 100 * found["owner"].measured["retrained"][..., 1].max()
        out.append(
            Check(
                "owner: a retrained model never names the class",
                bool(most == 0),
                f"at most {most:.1f}%",
            )
        )
    return out
