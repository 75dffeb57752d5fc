"""Page of the study of spectral norms."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from unlearn_jax import audit
from unlearn_jax.audit import Estimate
from unlearn_jax.figures.style import COLORS, INK, MUTED, dress
from unlearn_jax.pipeline.report.blocks import Check, Figure, Page, Table
from unlearn_jax.studies.common import (
    Artifacts,
    legend,
    summarize_distance,
    summarize_finite,
)
from unlearn_jax.studies.norms.artifacts import ARMS, NormConfig, name_of

LIMIT = 0.01
"""Largest relative excess over the target that is allowed for FastClip."""


def make_page(config: NormConfig, artifacts: Artifacts) -> Page:
    """Return the page: norms, product bounds and the closing clip."""
    cases = [(arm, normed) for normed in config.batch_norm for arm in config.arms]
    checks = [
        _reaches(config, artifacts, normed)
        for normed in config.batch_norm
        if "fastclip" in config.arms
    ]
    checks.append(_bounded(artifacts, cases))
    pictures = [
        Figure(
            "Norm of every layer at the end",
            _dots(config, artifacts),
            alt=_norms_in_words(config, artifacts),
            caption=(
                "A dot is one layer of one model; the dashed line is the target."
                " Logarithmic."
            ),
        ),
        Figure(
            "Largest norm over training",
            _history(config, artifacts),
            alt=(
                "Largest norm of any layer after each epoch, mean over seeds, for every"
                " arm."
            ),
            caption=(
                "Unless the period divides them, epochs end between two clips, some"
                " later after one than others, which makes the teeth of the curves."
                " FastClip's closing clip is not shown."
            ),
        ),
    ]
    blocks = [*_tables(config, artifacts, cases), *pictures, *checks]
    return Page(_summary(config, artifacts), blocks)


def accuracy(correct: np.ndarray) -> Estimate:
    """Return the percentage of correct predictions ``[S, N]``.

    The interval is over both seeds and test samples.
    """
    rng = np.random.default_rng(0)
    num_samples = correct.shape[1]
    weights = audit.sample_weights(rng, 500, np.zeros(num_samples, int))
    return audit.summarize(
        100 * correct.mean(1),
        100 * weights @ correct.T / num_samples,
        np.arange(len(correct))[:, None],
        bounds=(0, 100),
        num_samples=num_samples,
    )


def excess(norms: np.ndarray, target: float) -> np.ndarray:
    """Return the relative excess of the largest norm over the target.

    Args:
      norms: ``[..., L]`` norms of the layers.
      target: upper bound on the norms.

    Returns:
      ``[...]``, the largest norm divided by the target, minus 1.
    """
    return norms.max(-1) / target - 1


def _tables(
    config: NormConfig, artifacts: Artifacts, cases: list[tuple[str, bool]]
) -> list[Table]:
    layers = [_short(name) for name in artifacts[name_of(*cases[0])]["layers"]]
    rows = []
    bounds = []
    closing = []
    for arm, normed in cases:
        part = artifacts[name_of(arm, normed)]
        label = _label(arm, normed)
        norms = part["norms"]
        worst = summarize_finite(100 * excess(norms, config.target))
        rows.append(
            [
                label,
                accuracy(part["correct"]),
                worst,
                *map(summarize_distance, norms.T),
            ]
        )
        product = norms.prod(-1)
        slope = part["slopes"].max(-1)
        bounds.append(
            [label, *map(summarize_distance, (product, slope, product / slope))]
        )
        if arm == "fastclip":
            for state, end in (("training ends", "_trained"), ("after clip", "")):
                norms = part["trained" if end else "norms"]
                worst = summarize_finite(100 * excess(norms, config.target))
                closing.append(
                    [f"{label}, {state}", worst, accuracy(part[f"correct{end}"])]
                )
    seeds = f"{len(config.seeds)} seeds; mean ± std and 95% interval over seeds"
    tables = [
        Table(
            f"Norms at the end of training, target {config.target:g}",
            [
                "",
                "test accuracy (%)",
                "largest norm over target (%)",
                *(f"norm of {name}" for name in layers),
            ],
            rows,
            "Lanczos, 60 iterations; a layer with its BatchNorm where there is one."
            f" {seeds}, of accuracy over test samples too. Accuracy is to be read"
            " together with the norms: an arm that leaves norms above the target has"
            " the freer network.",
        ),
        Table(
            "Product of the norms against local slopes",
            ["", "product bound", "largest local slope", "bound over slope"],
            bounds,
            "The product bounds the Lipschitz constant of the logits in L2; a slope is"
            f" the spectral norm of the Jacobian at one of {config.num_slopes} test"
            " images, the largest of which bounds it from below.",
        ),
    ]
    if closing:
        tables.append(
            Table(
                "FastClip's closing clip",
                ["", "largest norm over target (%)", "test accuracy (%)"],
                closing,
                "Training ends somewhere between two clips; a one-shot clip then"
                " brings every layer inside.",
            )
        )
    return tables


def _summary(config: NormConfig, artifacts: Artifacts) -> str:
    sentences = []
    for normed in config.batch_norm:
        parts = {arm: artifacts[name_of(arm, normed)] for arm in config.arms}
        over = {
            arm: 100 * excess(part["norms"], config.target).max()
            for arm, part in parts.items()
        }
        right = {arm: 100 * part["correct"].mean() for arm, part in parts.items()}
        arms = ", ".join(
            f"{ARMS[arm]} {over[arm]:+.1f}% ({right[arm]:.1f})" for arm in config.arms
        )
        sentences.append(f"{'With' if normed else 'Without'} BatchNorm: {arms}.")
    return (
        "A small network was trained with every layer's norm to be at most"
        f" {config.target:g}. Distance of the largest norm of any layer and seed to the"
        f" target, and mean test accuracy in %. {' '.join(sentences)}"
    )


def _reaches(config: NormConfig, artifacts: Artifacts, normed: bool) -> Check:
    worst = excess(artifacts[name_of("fastclip", normed)]["norms"], config.target).max()
    name = (
        f"FastClip, {'with' if normed else 'without'} BatchNorm: every layer's norm at"
        " most 1% above the target"
    )
    return Check(name, bool(worst <= LIMIT), f"{100 * worst:+.2f}%")


def _bounded(artifacts: Artifacts, cases: list[tuple[str, bool]]) -> Check:
    ratios = []
    for case in cases:
        part = artifacts[name_of(*case)]
        ratios.append((part["norms"].prod(-1) / part["slopes"].max(-1)).min())
    name = "No local slope exceeds the product of the norms"
    return Check(
        name,
        min(ratios) >= 1 - 1e-4,
        f"smallest ratio of bound to slope {min(ratios):.2f}",
    )


def _dots(config: NormConfig, artifacts: Artifacts) -> Drawing:
    figure = Drawing(figsize=(9.2, 3.6), layout="constrained")
    panels = figure.subplots(1, len(config.batch_norm), sharey=True, squeeze=False)[0]
    names: list[str] = []
    for axes, normed in zip(panels, config.batch_norm, strict=True):
        dress(axes, "with BatchNorm" if normed else "without BatchNorm")
        for x, arm in enumerate(config.arms):
            part = artifacts[name_of(arm, normed)]
            names = [_short(name) for name in part["layers"]]
            for layer, column in enumerate(part["norms"].T):
                place = x + (layer - (len(names) - 1) / 2) * 0.6 / len(names)
                color = COLORS[layer % len(COLORS)]
                axes.plot(
                    np.full(len(column), place),
                    column,
                    "o",
                    ms=4.5,
                    color=color,
                    alpha=0.8,
                )
        axes.axhline(config.target, color=INK, lw=1.2, ls=(0, (4, 2)))
        axes.set_yscale("log")
        labels = [
            ARMS[arm].split(",")[0].replace(" (", "\n(").replace("no c", "no\nc")
            for arm in config.arms
        ]
        axes.set_xticks(range(len(config.arms)), labels, fontsize=8.5)
        axes.set_xlim(-0.5, len(config.arms) - 0.5)
    panels[0].set_ylabel("spectral norm")
    _plain_ticks(panels[0])
    if len(names) <= 8:
        handles = [
            Line2D([], [], marker="o", ls="", color=COLORS[i % len(COLORS)], label=n)
            for i, n in enumerate(names)
        ]
        handles.append(Line2D([], [], color=INK, ls=(0, (4, 2)), label="target"))
        legend(figure, handles, place="lower center", columns=9, size=10)
    return figure


def _history(config: NormConfig, artifacts: Artifacts) -> Drawing:
    figure = Drawing(figsize=(9.2, 3.4), layout="constrained")
    panels = figure.subplots(1, len(config.batch_norm), sharey=True, squeeze=False)[0]
    for axes, normed in zip(panels, config.batch_norm, strict=True):
        dress(axes, "with BatchNorm" if normed else "without BatchNorm", grid="both")
        for i, arm in enumerate(config.arms):
            worst = artifacts[name_of(arm, normed)]["history"].max(-1).mean(0)
            color = MUTED if arm == "none" else COLORS[i - 1]
            axes.plot(
                1 + np.arange(len(worst)),
                worst,
                "o-",
                ms=3.5,
                color=color,
                label=ARMS[arm],
            )
        axes.axhline(config.target, color=INK, lw=1.2, ls=(0, (4, 2)))
        axes.set_yscale("log")
        axes.set_xlabel("epochs")
    panels[0].set_ylabel("largest norm of any layer")
    _plain_ticks(panels[0])
    legend(figure, panels[0], place="lower center", columns=5, size=10)
    return figure


def _plain_ticks(axes: Axes) -> None:
    """Label a logarithmic axis with plain numbers: 1, 2 and 5 in every decade."""
    axis = axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_formatter(NullFormatter())


def _norms_in_words(config: NormConfig, artifacts: Artifacts) -> str:
    lines = []
    for normed in config.batch_norm:
        for arm in config.arms:
            norms = ", ".join(
                f"{value:.2f}"
                for value in artifacts[name_of(arm, normed)]["norms"].mean(0)
            )
            lines.append(f"{_label(arm, normed)}: {norms}")
    return f"Mean norms by layer, target {config.target:g}. " + "; ".join(lines) + "."


def _label(arm: str, normed: bool) -> str:
    return ARMS[arm] + (", BatchNorm" if normed else "")


def _short(path: str) -> str:
    """Return ``params/Conv_0/kernel`` as ``Conv_0``."""
    return str(path).removeprefix("params/").removesuffix("/kernel")
