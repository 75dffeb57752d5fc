"""Page of the study of influence functions on digits."""

from collections.abc import Mapping
from itertools import product

import jax
import numpy as np
from matplotlib.figure import Figure as Drawing

from unlearn_jax.audit import Estimate
from unlearn_jax.figures.style import COLORS, INK, dress
from unlearn_jax.pipeline import Check, Figure, Page, Table
from unlearn_jax.studies.common import (
    Arrays,
    Artifacts,
    legend,
    summarize_distance,
)
from unlearn_jax.studies.influence.digits import Config


def bound(values: np.ndarray) -> Estimate | str:
    """Return the mean over seeds, or an upper bound if only rounding error is left."""
    if np.max(values) < 1e-3:
        return f"below {np.max(values) * 1.05:.0e}"
    return summarize_distance(values)


def ends(values: np.ndarray) -> str:
    """Return the smallest and the largest of values in percent, in words."""
    return f"{100 * values.min():.0f} to {100 * values.max():.0f}%"


def make_page(config: Config, artifacts: Artifacts) -> Page:
    """Return the page: linearized networks, real networks, targets and cost."""
    convex = [dict(artifacts[f"convex-{seed}"]) for seed in config.seeds]
    linear = jax.tree.map(lambda *values: np.stack(values), *convex)
    squared = linear["squared"][0].astype(bool)
    first = linear["params"][:, 0]
    guards = {}
    for name in config.networks:
        runs = [dict(artifacts[f"network-{name}-{seed}"]) for seed in config.seeds]
        guards[name] = jax.tree.map(lambda *values: np.array(values), *runs)
    outputs = np.concatenate([run["outputs"] for run in guards.values()])
    trusted = np.concatenate([run["trusted"] for run in guards.values()]).astype(bool)
    left = []
    if trusted.any():
        left.append(f"{ends(outputs[trusted])} where the guard trusts it")
    if not trusted.all():
        left.append(f"{ends(outputs[~trusted])} where it warns")
    forms = linear["forms"].max()
    exact = linear["params"][:, squared].max()
    small = [name for name in config.networks if float(name.split("-")[2]) <= 1e-3]
    checks = [
        Check(
            "dual equals primal",
            bool(forms < 1e-8),
            f"largest relative difference {forms:.1e}, float64",
        ),
        Check(
            "squared loss is exact retraining",
            bool(exact < 1e-8),
            f"largest error relative to the original's {exact:.1e}",
        ),
    ]
    if config.fractions[0] <= 0.1:
        checks.append(
            Check(
                f"cross-entropy at {100 * config.fractions[0]:g}% is 20 times nearer"
                " than the original",
                bool(first.max() < 1 / 20),
                f"{1 / first.max():.0f} to {1 / first.min():.0f} times",
            )
        )
    if small:
        checks.append(
            Check(
                "the guard warns where the penalty is small",
                all(not guards[name]["trusted"].any() for name in small),
                ", ".join(
                    f"{name}: linearizability"
                    f" {guards[name]['linearizability'].min():.2g} and more"
                    for name in small
                ),
            )
        )
    summary = (
        f"On linearized networks removing {100 * config.fractions[0]:g}% of the images"
        f" lands {1 / first.max():.0f} to {1 / first.min():.0f} times nearer to the"
        " retrained parameters than the original, and the two forms agree to"
        f" {forms:.0e}. On networks as they are the estimate leaves, of the distance"
        f" of the outputs, {' and '.join(left)}."
    )
    blocks = [
        _convex_table(linear, squared),
        _network_table(guards),
        _target_table(config, artifacts),
        _cost_table(config, artifacts),
        _convex_picture(linear, squared),
        _guard_picture(guards),
        _cost_picture(config, artifacts),
    ]
    return Page(summary, [*blocks, *checks])


def _convex_table(linear: Arrays, squared: np.ndarray) -> Table:
    rows = []
    for i, fraction in enumerate(linear["fraction"][0]):
        loss = "squared" if squared[i] else "cross-entropy"
        cells = [bound(linear[key][:, i]) for key in ("moved", "params", "outputs")]
        rows.append(
            [
                f"{loss}, {100 * fraction:g}%",
                *cells,
                f"{linear['forms'][:, i].max():.0e}",
                f"{linear['floor'][:, i].max():.0e}",
            ]
        )
    columns = [
        "removed",
        "original",
        "error of parameters",
        "error of outputs",
        "dual - primal",
        "gradient left",
    ]
    caption = (
        "Linearized tanh network. Original: |original - retrained| / |retrained -"
        " initial|. Errors: distance of the estimate to the retrained model over that"
        " of the original, of parameters and of test outputs. The last two: largest"
        " over seeds, the oracle's own gradient relative to that of its loss."
    )
    return Table("Linearized network: how near retraining", columns, rows, caption)


def _network_table(guards: Mapping[str, Arrays]) -> Table:
    rows = []
    for name, run in guards.items():
        kind, width, ridge = name.split("-")
        cells = [
            summarize_distance(run[key])
            for key in (
                "stationarity",
                "linearizability",
                "params",
                "outputs",
                "warm",
                "second",
            )
        ]
        rows.append(
            [
                f"{kind}, {width} units, {ridge}",
                f"{run['trusted'].sum()} of {len(run['trusted'])}",
                *cells,
            ]
        )
    columns = [
        "network, penalty",
        "trusted",
        "stationarity",
        "linearizability",
        "parameters",
        "outputs",
        "trained on",
        "second retrain",
    ]
    caption = (
        "10% removed. Error of parameters and of test outputs relative to the"
        " original's. Trained on: test outputs of the original after training on what"
        " stays."
        " Second retrain: from another initialization; above 1 it ends farther away"
        " than the original is."
    )
    return Table(
        "Networks as they are: when the guard trusts the estimate",
        columns,
        rows,
        caption,
    )


def _target_table(config: Config, artifacts: Artifacts) -> Table:
    # [S, classes, 4]
    values = np.stack([artifacts[f"targets-{seed}"]["kl"] for seed in config.seeds])
    names = (
        "renormalized (TRW, beta 0)",
        "influence, head",
        "influence, network",
        "second retrain",
    )
    rows = []
    for i, name in enumerate(names):
        rows.append([name, *map(summarize_distance, values[..., i].T)])
    caption = (
        "KL(retrained || target) in nats on the forgotten training images, mean over"
        " seeds."
    )
    return Table(
        "Targets for TRW",
        ["target", *(f"digit {c}" for c in config.classes)],
        rows,
        caption,
    )


def _cost_table(config: Config, artifacts: Artifacts) -> Table:
    rows = []
    for outputs in (1, 10):
        for width in config.widths:
            run = artifacts[f"cost-{width}-{outputs}"]
            times = [run["kernel"][0]]
            for i in (0, -1):
                times += [run[form][i] for form in ("dense", "cg", "primal")]
            row = [f"{outputs}, {int(run['parameters'][0])}"]
            row += [f"{1000 * t:.3g}" for t in times]
            row += [f"{value / 1e6:.1f}" for value in run["bytes"][0]]
            rows.append(row)
    low = f"{100 * config.fractions[0]:g}%"
    high = f"{100 * config.fractions[-1]:g}%"
    forms = ("dual dense", "dual CG", "primal")
    columns = ["outputs, parameters", "kernel"]
    for fraction in (low, high):
        columns += [f"{form}, {fraction}" for form in forms]
    runs = product(config.widths, (1, 10))
    gap = max(artifacts[f"cost-{w}-{o}"]["gap"].max() for w, o in runs)
    caption = (
        "Milliseconds for one request on linearized tanh networks, float32; conjugate"
        " gradients to 1e-6. The kernel is computed once for all requests. Memory in"
        " MB: matrices and vectors held, by arithmetic. In single precision the forms"
        f" differed by at most {gap:.0e}."
    )
    return Table(
        "Cost of one request", [*columns, "dual (MB)", "primal (MB)"], rows, caption
    )


def _convex_picture(linear: Arrays, squared: np.ndarray) -> Figure:
    figure = Drawing(figsize=(9.2, 3.4), layout="constrained")
    axes = figure.add_subplot()
    dress(axes, "Error relative to the original's", grid="both")
    share = 100 * linear["fraction"][0][~squared]
    means = []
    for key, color, label in (
        ("params", COLORS[0], "parameters"),
        ("outputs", COLORS[1], "test outputs"),
    ):
        for run in linear[key][:, ~squared]:
            axes.plot(share, run, color=color, lw=0.8, alpha=0.5)
        means.append(linear[key][:, ~squared].mean(0))
        axes.plot(share, means[-1], color=color, lw=2, marker="o", label=label)
    axes.axhline(1, color=INK, lw=1, ls=":")
    axes.annotate(
        "original",
        (share[0], 1),
        xytext=(0, -12),
        textcoords="offset points",
        color=INK,
        fontsize=9,
    )
    axes.set(
        yscale="log",
        xlabel="removed (% of the training images)",
        ylabel="|estimate - retrained| / |original - retrained|",
    )
    axes.legend(frameon=False, labelcolor=INK, fontsize=9.5, loc="lower right")
    alt = "Errors of parameters by fraction removed: " + ", ".join(
        f"{s:g}%: {m:.3f}" for s, m in zip(share, means[0], strict=True)
    )
    return Figure(
        "Linearized network, cross-entropy",
        figure,
        alt,
        "Thin lines are seeds, thick ones their means.",
    )


def _guard_picture(guards: Mapping[str, Arrays]) -> Figure:
    figure = Drawing(figsize=(9.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    dress(axes, "Every run: the guard's measure and the true error", grid="both")
    for color, (name, run) in zip(COLORS, guards.items(), strict=False):
        kind, width, ridge = name.split("-")
        axes.scatter(
            run["linearizability"],
            run["outputs"],
            color=color,
            s=36,
            label=f"{kind}, {width}, {ridge}",
        )
    axes.axvline(0.5, color=INK, lw=1, ls="--")
    axes.annotate(
        "the guard warns",
        (0.5, 0),
        xytext=(6, 4),
        textcoords="offset points",
        color=INK,
        fontsize=9,
    )
    axes.axhline(1, color=INK, lw=1, ls=":")
    axes.set(
        xscale="log",
        ylim=(0, None),
        xlabel="linearizability",
        ylabel="error of test outputs / original's",
    )
    title = "network, penalty"
    legend(figure, axes, place="right upper", columns=1, size=9.5, title=title)
    alt = "; ".join(
        f"{n}: {r['linearizability'].mean():.2g} and {r['outputs'].mean():.2g}"
        for n, r in guards.items()
    )
    caption = (
        "Left of the dashed line, and where the network is stationary too, the guard"
        " trusts the estimate. Dotted: the original."
    )
    return Figure(
        "Networks as they are",
        figure,
        f"Linearizability and error of outputs: {alt}",
        caption,
    )


def _cost_picture(config: Config, artifacts: Artifacts) -> Figure:
    figure = Drawing(figsize=(9.2, 3.8), layout="constrained")
    panels = figure.subplots(1, 2)
    removed = np.round(np.array(config.fractions) * config.num_samples)
    for axes, outputs in zip(panels, (1, 10), strict=True):
        dress(
            axes,
            f"{outputs} output{'s' if outputs > 1 else ''}, {config.num_samples}"
            " images",
            grid="both",
        )
        runs = [artifacts[f"cost-{width}-{outputs}"] for width in config.widths]
        for color, run in zip(COLORS, runs, strict=False):
            axes.plot(
                removed,
                run["primal"],
                color=color,
                lw=2,
                marker="o",
                label=f"primal, {int(run['parameters'][0])}",
            )
        for dashes, form in (("--", "dense"), (":", "cg")):
            times = np.median([run[form] for run in runs], 0)
            axes.plot(
                removed,
                times,
                color=INK,
                lw=1.8,
                ls=dashes,
                marker="s",
                ms=4,
                label=f"dual, {form}",
            )
        axes.set(yscale="log", xlabel="removed images")
    panels[0].set_ylabel("seconds per request")
    legend(figure, panels[0], place="lower center", columns=5)
    spoken = []
    for outputs in (1, 10):
        for width in config.widths:
            run = artifacts[f"cost-{width}-{outputs}"]
            times = [
                f"{form} {run[form][0]:.4f} s" for form in ("primal", "dense", "cg")
            ]
            spoken.append(f"{outputs} outputs, {width} units: {', '.join(times)}")
    caption = (
        "Primal by number of parameters; dual without the kernel, the median over"
        " networks, whose size does not matter to it. The kernel is computed once."
    )
    return Figure(
        "When the dual wins",
        figure,
        f"At the smallest fraction: {'; '.join(spoken)}",
        caption,
    )
