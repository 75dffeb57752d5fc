"""Page of an ensemble experiment: tables, figures, and checks of the theory."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Drawing

from unlearn_jax.attacks import risk_gap_bound
from unlearn_jax.audit import Estimate, sample_weights, summarize
from unlearn_jax.figures.style import COLORS, INK, MUTED, dress
from unlearn_jax.pipeline.report.blocks import Check, Figure, Page, Table
from unlearn_jax.studies.common import PERCENT, Arrays, Artifacts, in_words, legend
from unlearn_jax.studies.ensembles.config import TERMS, EnsembleConfig, terms_of

Metric = Callable[[Arrays, np.ndarray], np.ndarray]
"""``(arrays of an attack, weights [W, N]) -> [W]``, percent; NaN without samples."""

CHAINS = ("mlp", "cnn", "vgg")
"""Architectures whose Lipschitz constant the product of their layers' norms bounds."""
_WORDS = {
    "clip": "clipped",
    "lotos": "LOTOS",
    "trs": "TRS",
    "adversarial": "adversarial training",
}


def label_of(arm: str) -> str:
    """Return the label of an arm.

    >>> label_of("clip+lotos0.3"), label_of("orig")
    ('Clipped + LOTOS 0.3', 'Plain')
    """
    words = _words_of(arm)
    return words[0].upper() + words[1:]


def _words_of(arm: str) -> str:
    words = " + ".join(_WORDS[term] for term in terms_of(arm)) or "plain"
    match = re.search(r"lotos([\d.]+)", arm)
    return words.replace("LOTOS", f"LOTOS {match[1]}") if match else words


def _weighted_percent(
    hits: np.ndarray, counted: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return the weighted percentage ``[..., W]`` of hits among counted samples.

    Args:
      hits: ``[..., B]`` bool.
      counted: ``[..., B]`` bool.
      weights: ``[W, N]`` weights of the test samples, of which the first B are used.

    Returns:
      The percentage; NaN where no sample is counted.
    """
    w = weights[:, : hits.shape[-1]].astype(float).T
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * ((hits & counted).astype(float) @ w) / (counted.astype(float) @ w)


def _known_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over the first axis, ignoring NaN; NaN where all are NaN."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(0) / known.sum(0)


def transfer_table(
    arrays: Arrays, radius: int, weights: np.ndarray, *, condition: str = "fooled"
) -> np.ndarray:
    """Return transfer rates ``[M, M, W]`` at one radius; row: source, column: target.

    Args:
      arrays: arrays of an attack.
      radius: index of the radius.
      weights: ``[W, N]`` weights of the test samples.
      condition: condition of :func:`unlearn_jax.attacks.transfer_rates`.
    """
    # [S, T, B]
    fooled = arrays["target_fooled"][:, radius]
    right = arrays["members_clean"][:, : fooled.shape[-1]]
    source = right
    if condition == "fooled":
        source = right & arrays["source_fooled"][:, radius]
    return _weighted_percent(fooled, source[:, None] & right[None], weights)


def _pairs(
    arrays: Arrays, radius: int, weights: np.ndarray, condition: str
) -> np.ndarray:
    table = transfer_table(arrays, radius, weights, condition=condition)
    return _known_mean(table[~np.eye(len(table), dtype=bool)])


def _clean(arrays: Arrays, weights: np.ndarray) -> np.ndarray:
    return _weighted_percent(arrays["clean"], np.ones_like(arrays["clean"]), weights)


def _white(arrays: Arrays, radius: int, weights: np.ndarray) -> np.ndarray:
    fooled = arrays["white_fooled"][radius]
    right = arrays["clean"][: len(fooled)]
    return _weighted_percent(right & ~fooled, np.ones_like(right), weights)


def _strong(arrays: Arrays, weights: np.ndarray) -> np.ndarray:
    fooled = arrays["strong_fooled"]
    return _weighted_percent(
        arrays["clean"][: len(fooled)] & ~fooled, np.ones_like(fooled), weights
    )


def _black(arrays: Arrays, radius: int, weights: np.ndarray) -> np.ndarray:
    fooled = arrays["black_fooled"][:, radius]
    right = arrays["clean"][: fooled.shape[-1]]
    return np.mean(_weighted_percent(right & ~fooled, np.ones_like(fooled), weights), 0)


def _strong_black(arrays: Arrays, weights: np.ndarray) -> np.ndarray:
    fooled = arrays["strong_black_fooled"]
    right = arrays["clean"][: fooled.shape[-1]]
    return np.mean(_weighted_percent(right & ~fooled, np.ones_like(fooled), weights), 0)


def _published(arrays: Arrays, radius: int, weights: np.ndarray) -> np.ndarray:
    fooled = arrays["black_fooled"][:, radius]
    right = arrays["clean"][: fooled.shape[-1]]
    counted = arrays["surrogate_right"] & arrays["surrogate_fooled"][:, radius] & right
    return _known_mean(_weighted_percent(~fooled, counted, weights))


def metrics(main: int) -> dict[str, Metric]:
    """Return the columns of the main table, at the radius with the given index."""
    fooled = partial(_pairs, condition="fooled")
    right = partial(_pairs, condition="right")
    return {
        "clean": _clean,
        "transfer, conditional": partial(_at_radius, fooled, main),
        "transfer, unconditional": partial(_at_radius, right, main),
        "white-box PGD": partial(_at_radius, _white, main),
        "white-box APGD set": _strong,
        "black-box PGD": partial(_at_radius, _black, main),
        "black-box APGD": _strong_black,
        "black-box PGD, published": partial(_at_radius, _published, main),
    }


class _Summary:
    """Estimates over seeds and samples, with one set of weights for the whole page.

    The shared weights make differences between arms paired.
    """

    def __init__(self, config: EnsembleConfig, artifacts: Artifacts) -> None:
        self.config = config
        self.artifacts = artifacts
        rng = np.random.default_rng(0)
        count = len(self.of(config.arms[0], config.seeds[0])["clean"])
        drawn = sample_weights(rng, config.num_bootstrap, np.zeros(count, int))
        self.weights = np.concatenate([np.ones((1, count), drawn.dtype), drawn])
        self.seeds = np.arange(len(config.seeds))[:, None]

    def of(self, arm: str, seed: int) -> Arrays:
        return self.artifacts[f"attack-{arm}-{seed}"]

    def values(self, arm: str, metric: Metric) -> np.ndarray:
        """Return values ``[seeds, 1 + replicates]``, first those without resampling."""
        return np.stack(
            [metric(self.of(arm, seed), self.weights) for seed in self.config.seeds]
        )

    def estimate(
        self, values: np.ndarray, bounds: tuple[float, float] | None = None
    ) -> Estimate | None:
        if not np.isfinite(values[:, 0]).all():
            return None
        return summarize(values[:, 0], values[:, 1:].T, self.seeds, bounds=bounds)

    def percentage(self, values: np.ndarray) -> Estimate | None:
        return self.estimate(values, PERCENT)


def parents(arms: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of an arm and an arm without one of its terms.

    >>> parents(["orig", "clip", "clip+lotos"])
    [('clip', 'orig'), ('clip+lotos', 'clip')]
    """
    names = {frozenset(terms_of(arm)): arm for arm in reversed(arms)}
    pairs = []
    for arm in arms:
        terms = terms_of(arm)
        for term in TERMS:
            less = frozenset(terms) - {term}
            if term in terms and less in names:
                pairs.append((arm, names[less]))
    return pairs


def make_page(config: EnsembleConfig, artifacts: Artifacts) -> Page:
    """Return the page: attacks, what each term changes, norms, cost."""
    if "pilot" in artifacts:
        radius = float(artifacts["pilot"]["main_radius"])
        plan = dataclasses.replace(config.attack, main_radius=radius)
        config = dataclasses.replace(config, attack=plan)
    summary = _Summary(config, artifacts)
    plan = config.attack
    columns = metrics(plan.radii.index(plan.main_radius))
    values: dict[str, dict[str, np.ndarray]] = {}
    for arm in config.arms:
        values[arm] = {
            name: summary.values(arm, metric) for name, metric in columns.items()
        }
    note = (
        f"Percent; mean ± standard deviation over {len(config.seeds)} seeds, 95%"
        f" interval over seeds and samples. L-infinity radius {plan.main_radius:g}/255"
        " in [0, 1]."
    )
    rows: list[list[Any]] = []
    for arm in config.arms:
        rows.append([label_of(arm), *map(summary.percentage, values[arm].values())])
    main = Table(
        f"{config.num_members} members at radius {plan.main_radius:g}/255",
        ["arm", *columns],
        rows,
        note,
    )
    tables = [main]
    changes: list[list[Any]] = []
    for arm, less in parents(config.arms):
        row: list[Any] = [f"{label_of(arm)} − {_words_of(less)}"]
        for name in columns:
            row.append(summary.estimate(values[arm][name] - values[less][name]))
        changes.append(row)
    if changes:
        title = "Change by each term"
        note = "Points; the same seeds and samples."
        tables.append(Table(title, ["difference", *columns], changes, note))
    tables.append(_norms_table(config, artifacts))
    tables.append(_foreign_table(config, artifacts))
    tables += _curve_tables(config, artifacts)
    if "pilot" in artifacts:
        tables.append(_pilot_table(config, artifacts["pilot"]))
    if "overhead" in artifacts:
        tables.append(_overhead_table(artifacts["overhead"], config))
    figures = [_heatmaps(config, summary), _curves(config, summary)]
    blocks = [*tables, *figures, *_checks(config, artifacts)]
    return Page(summary=_words(config, summary, values), blocks=blocks)


def _words(
    config: EnsembleConfig,
    summary: _Summary,
    values: Mapping[str, Mapping[str, np.ndarray]],
) -> str:
    plan = config.attack
    text = [
        f"{len(config.arms)} kinds of ensembles of {config.num_members},"
        f" {len(config.seeds)} seeds each, attacked in [0, 1] at"
        f" {', '.join(f'{r:g}' for r in plan.radii)}/255."
    ]
    plain = math.inf
    if "orig" in values:
        rates = values["orig"]["transfer, conditional"]
        plain = float(np.nan_to_num(rates[:, 0]).mean())
    claims = [
        ("clip", "orig", "clipping raises robust accuracy", "white-box PGD", 1),
        ("clip", "orig", "clipping raises transfer", "transfer, conditional", 1),
    ]
    for arm in config.arms:
        if terms_of(arm) == ("clip", "lotos"):
            what = f"{_words_of(arm).split(' + ')[1]} lowers transfer"
            claims.append((arm, "clip", what, "transfer, conditional", -1))
    for arm, less, what, name, sign in claims:
        if arm not in values or less not in values:
            continue
        change = summary.estimate(values[arm][name] - values[less][name])
        if change is None:
            continue
        verdict = "does not hold"
        if (change.low if sign > 0 else -change.high) > 0:
            verdict = "holds"
        elif sign * change.mean > 0:
            verdict = "holds in the mean, but the interval holds 0"
        elif (change.high if sign > 0 else -change.low) < 0:
            verdict = "is contradicted"
        elif name.startswith("transfer") and plain < 100 * plan.min_transfer:
            verdict = f"is undecided: plain members transfer {plain:.0f}% only"
        size = in_words(change, "+.1f")
        text.append(
            f"Published: {what}. At {plan.main_radius:g}/255 here it {verdict} ({name}:"
            f" {size} points)."
        )
        if name != "white-box PGD":
            continue
        for r, radius in enumerate(plan.radii):
            if radius != plan.main_radius:
                metric = partial(_at_radius, _white, r)
                size = _change(summary, arm, less, metric)
                text.append(f"At {radius:g}/255: {size} points.")
    return " ".join(text)


def _change(summary: _Summary, arm: str, less: str, metric: Metric) -> str:
    """Return a paired difference in words."""
    change = summary.estimate(
        summary.values(arm, metric) - summary.values(less, metric)
    )
    assert change is not None
    return in_words(change, "+.1f")


def _norms_table(config: EnsembleConfig, artifacts: Artifacts) -> Table:
    paths = artifacts[f"{config.arms[0]}-{config.seeds[0]}"]["layers"]
    layers = [str(path).split("/", 1)[-1] for path in paths]
    chain = config.model.name in CHAINS
    rows = []
    for arm in config.arms:
        kinds = {"norms": "end of training"}
        if "clip" in terms_of(arm):
            kinds = {"norms_trained": "end of training", "norms": "after the last clip"}
        for name, when in kinds.items():
            norms = np.concatenate(
                [artifacts[f"{arm}-{seed}"][name] for seed in config.seeds]
            )
            row: list[Any] = [f"{label_of(arm)}, {when}", *map(float, norms.max(0))]
            if chain:
                slopes = [
                    artifacts[f"attack-{arm}-{seed}"]["slope"].max()
                    for seed in config.seeds
                ]
                row += [
                    float(norms.prod(1).max()),
                    float(max(slopes)) if name == "norms" else None,
                ]
            rows.append(row)
    caption = (
        "Largest over members and seeds, by Golub-Kahan-Lanczos. Clipped layers'"
        f" target: {config.clip.max_norm:g}, every {config.clip.period} steps. Attacks"
        " are on the state after the last clip."
    )
    columns = ["arm", *layers, *(["product", "steepest slope seen"] if chain else [])]
    return Table("True spectral norms of the layers", columns, rows, caption)


def _foreign_table(config: EnsembleConfig, artifacts: Artifacts) -> Table:
    """Return the foreign stretch of every layer, relative to the clipping target."""
    first = artifacts[f"{config.arms[0]}-{config.seeds[0]}"]["foreign_layers"]
    layers = [str(path).split("/", 1)[-1] for path in first]
    rows: list[list[Any]] = []
    for arm in config.arms:
        tables = np.stack(
            [artifacts[f"{arm}-{seed}"]["foreign"] for seed in config.seeds]
        )
        others = tables[..., ~np.eye(tables.shape[-1], dtype=bool)]
        ratios = others.mean((0, 2)) / config.clip.max_norm
        rows.append([label_of(arm), *map(float, ratios)])
    caption = (
        "How far a layer lengthens the top right singular vector of another member's"
        f" layer, over C = {config.clip.max_norm:g}; mean over pairs and seeds, after"
        " the last clip. LOTOS acts on convolutions above"
        f" {config.lotos.max_length / config.clip.max_norm:g}: on what is below in the"
        " row of clipped members it has nothing to lower."
    )
    return Table("Foreign stretch over C", ["arm", *layers], rows, caption)


def _curve_tables(config: EnsembleConfig, artifacts: Artifacts) -> list[Table]:
    """Return transfer during training and under the penalty alone, over seeds."""
    tables = []
    plan = config.attack
    note = (
        f"Conditional transfer between members at {plan.main_radius:g}/255 in percent,"
        f" PGD of {plan.epoch_steps} steps on {plan.epoch_samples} test images; mean"
        " over seeds, behind it the members' accuracy. Clipped members are taken as"
        " they are between two clips."
    )
    if plan.every_epochs:
        parts = [artifacts[f"{config.arms[0]}-{seed}"] for seed in config.seeds]
        epochs = [int(epoch) for epoch in parts[0]["epochs"]]
        rows: list[list[Any]] = []
        for arm in config.arms:
            parts = [artifacts[f"{arm}-{seed}"] for seed in config.seeds]
            rows.append([label_of(arm), *_rates(parts)])
        columns = ["arm", *(f"epoch {epoch}" for epoch in epochs)]
        tables.append(Table("Transfer in training", columns, rows, note))
    rows = []
    steps: list[int] = []
    for arm in config.control.arms:
        parts = [artifacts[f"control-{arm}-{seed}"] for seed in config.seeds]
        steps = [int(step) for step in parts[0]["steps"]]
        rows.append([f"{label_of(arm)}: transfer", *_rates(parts)])
        for name in ("penalty", "stretch"):
            means = np.mean([part[name] for part in parts], 0)
            rows.append([f"{label_of(arm)}: {name}", *map(float, means)])
    if rows:
        note += (
            " Trained members, clipped, then moved by gradient descent on the LOTOS"
            " penalty alone; stretch is the largest foreign one of any layer, at norms"
            f" of at most {config.clip.max_norm:g}."
        )
        columns = ["from", *(f"step {step}" for step in steps)]
        tables.append(Table("The penalty alone", columns, rows, note))
    return tables


def _rates(parts: Sequence[Arrays]) -> list[str]:
    transfer = 100 * np.mean([part["transfer"] for part in parts], 0)
    accuracy = 100 * np.mean([part["accuracy"] for part in parts], 0)
    cells = []
    for one, other in zip(transfer, accuracy, strict=True):
        # No sample counts if no attack succeeds.
        rate = f"{one:.1f}" if np.isfinite(one) else "–"
        cells.append(f"{rate} ({other:.0f})")
    return cells


def _pilot_table(config: EnsembleConfig, pilot: Arrays) -> Table:
    """Return the pilot's table, from which the radius was chosen."""
    plan = config.attack
    rows: list[list[Any]] = []
    for place, radius in enumerate(plan.radii):
        numbers = (pilot["transfer"][place], pilot["robust"][place])
        rows.append([f"{radius:g}/255", *(100 * float(one) for one in numbers)])
    accuracies = f"{100 * float(pilot['accuracy']):.1f}%"
    if np.isfinite(pilot["clipped_accuracy"]):
        clipped = 100 * float(pilot["clipped_accuracy"])
        accuracies += f", {clipped:.1f}% if clipped"
    caption = (
        f"One plain ensemble of seed {config.pilot_seed}, which no other table has;"
        f" clean accuracy of its worst member: {accuracies}. The radius of the tables"
        f" is the least with a transfer of {100 * plan.min_transfer:g}%, or the"
        f" largest: {plan.main_radius:g}/255."
    )
    columns = ["radius", "transfer, conditional", "robust accuracy of a member"]
    return Table("The pilot that chose the radius", columns, rows, caption)


def _overhead_table(overhead: Arrays, config: EnsembleConfig) -> Table:
    best = overhead["seconds"].min(1)
    names = [str(name) for name in overhead["arms"]]
    rows: list[list[Any]] = []
    for i, name in enumerate(names):
        over_clipped = float(best[i] / best[1]) if i > 1 else None
        cells = [1e3 * float(best[i]), float(best[i] / best[0]), over_clipped]
        rows.append([label_of(name), *cells, float(overhead["compiling"][i])])
    caption = (
        f"Joint steps of {config.num_members} members in turn, the fastest of"
        f" {overhead['seconds'].shape[1]} measurements of {config.overhead_steps}"
        " steps. LOTOS's authors report 2.4 times an epoch for ResNet-18 on a GPU, in"
        " their rebuttal."
    )
    columns = [
        "arm",
        "ms per step",
        "over plain",
        "over clipped",
        "compiling, s (apart)",
    ]
    return Table("Cost of a step", columns, rows, caption)


def _heatmaps(config: EnsembleConfig, summary: _Summary) -> Figure:
    plan = config.attack
    arms = config.arms
    size = config.num_members
    main = plan.radii.index(plan.main_radius)
    columns = min(4, len(arms))
    lines = math.ceil(len(arms) / columns)
    figure = Drawing(figsize=(9.2, 0.6 + 2.4 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    spoken = []
    for axes in grid[len(arms) :]:
        axes.set_axis_off()
    for axes, arm in zip(grid, arms, strict=False):
        tables = [
            transfer_table(summary.of(arm, seed), main, summary.weights[:1])[..., 0]
            for seed in config.seeds
        ]
        rates = _known_mean(np.array(tables))
        shown = np.where(np.eye(size, dtype=bool), np.nan, rates)
        axes.imshow(shown, cmap="Blues", vmin=0, vmax=100)
        for (i, j), rate in np.ndenumerate(shown):
            text = f"{rate:.0f}" if np.isfinite(rate) else "–"
            color = INK
            if np.isfinite(rate):
                color = "white" if rate > 55 else "black"
            axes.text(j, i, text, ha="center", va="center", color=color, fontsize=10)
        dress(axes, label_of(arm), grid="y", size=9)
        axes.grid(visible=False)
        axes.set_xticks(range(size), [f"{j + 1}" for j in range(size)])
        axes.set_yticks(range(size), [f"{j + 1}" for j in range(size)])
        known = shown[np.isfinite(shown)]
        spoken.append(
            f"{label_of(arm)}: {known.min():.0f} to {known.max():.0f}%"
            if known.size
            else label_of(arm)
        )
    figure.supxlabel("target member", fontsize=10, color=INK)
    figure.supylabel("attacked member", fontsize=10, color=INK)
    caption = (
        "Conditional transfer rates in percent, mean over seeds: source and target are"
        " right on the clean image and the attack on the source succeeds. PGD,"
        f" {plan.main_radius:g}/255."
    )
    return Figure("Transfer between members", figure, "; ".join(spoken), caption)


def _curves(config: EnsembleConfig, summary: _Summary) -> Figure:
    radii = config.attack.radii
    measures: dict[str, Callable[..., np.ndarray]] = {
        "white-box robust accuracy, %": _white,
        "black-box robust accuracy, %": _black,
        "transfer rate, conditional, %": partial(_pairs, condition="fooled"),
    }
    figure = Drawing(figsize=(9.2, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    spoken: list[str] = []
    for axes, (title, measure) in zip(panels, measures.items(), strict=True):
        dress(axes, title, grid="both", size=9)
        axes.set_ylim(-3, 103)
        axes.axvline(config.attack.main_radius, color=MUTED, lw=0.8, ls=":")
        for i, arm in enumerate(config.arms):
            rows = []
            for r in range(len(radii)):
                metric = partial(_at_radius, measure, r)
                cell = summary.percentage(summary.values(arm, metric))
                rows.append(cell[:4] if cell else (math.nan,) * 4)
            means, _, low, high = zip(*rows, strict=True)
            color = COLORS[i % len(COLORS)]
            dashes = "-" if i < len(COLORS) else "--"
            axes.plot(
                radii,
                means,
                color=color,
                ls=dashes,
                marker="o",
                ms=3.5,
                lw=1.6,
                label=label_of(arm),
            )
            axes.fill_between(radii, low, high, color=color, alpha=0.12, lw=0)
            if measure is _white:
                shown = ", ".join(f"{mean:.0f}" for mean in means)
                spoken.append(f"{label_of(arm)}, white-box: {shown}%")
        axes.set_xticks(radii, [f"{r:g}" for r in radii])
    figure.supxlabel("radius, /255", fontsize=10, color=INK)
    legend(figure, panels[0], columns=4)
    caption = (
        "Means and 95% intervals over seeds and samples. White-box: PGD on the"
        f" ensemble as a whole. Black-box: PGD on {config.num_surrogates} independent"
        " plain models. The dotted line is the radius of the table."
    )
    return Figure("At every radius", figure, "; ".join(spoken), caption)


def _at_radius(
    measure: Callable[..., np.ndarray], radius: int, arrays: Arrays, weights: np.ndarray
) -> np.ndarray:
    return measure(arrays, radius, weights)


def _checks(config: EnsembleConfig, artifacts: Artifacts) -> list[Check]:
    runs = [(arm, seed) for arm in config.arms for seed in config.seeds]
    checks: list[Check] = []
    clipped = [
        artifacts[f"{arm}-{seed}"]["norms"].max()
        for arm, seed in runs
        if "clip" in terms_of(arm)
    ]
    if clipped:
        worst = float(max(clipped)) / config.clip.max_norm
        checks.append(
            Check(
                "clipped layers are within 1% of their target",
                worst <= 1.01,
                f"largest: {worst:.4f} of it",
            )
        )
    main = config.attack.radii.index(config.attack.main_radius)
    weaker = []
    for arm, seed in runs:
        arrays = artifacts[f"attack-{arm}-{seed}"]
        cut = len(arrays["strong_fooled"])
        pgd = np.mean(arrays["clean"][:cut] & ~arrays["white_fooled"][main][:cut])
        weaker.append(
            float(np.mean(arrays["clean"][:cut] & ~arrays["strong_fooled"]) - pgd)
        )
    detail = (
        "largest robust accuracy beyond PGD's on the same images:"
        f" {100 * max(weaker):+.1f} points"
    )
    checks.append(
        Check(
            "the APGD set is at least as strong as PGD, to a point",
            max(weaker) <= 0.01,
            detail,
        )
    )
    if config.model.name in CHAINS:
        gap, slope = _bounds(artifacts, runs)
        detail = (
            f"largest gap of risks on shared adversarial images: {100 * gap:.2f}% of"
            " |clean gap| + 2 L |delta|"
        )
        checks.append(Check("the risk gap bound holds", gap <= 1, detail))
        detail = (
            f"steepest slope seen: {100 * slope:.1f}% of the product of the layers'"
            " norms"
        )
        checks.append(
            Check(
                "local slopes stay below the Lipschitz product", slope <= 1.001, detail
            )
        )
    return checks


def _bounds(
    artifacts: Artifacts, runs: Sequence[tuple[str, int]]
) -> tuple[float, float]:
    """Return the largest ratios of risk gaps and of slopes to their bounds.

    A perturbation changes a loss by at most ``sqrt(2) L`` times its length. The gap
    between two mean losses therefore exceeds the gap on clean images by at most
    ``2 sqrt(2) L`` times the mean length.
    """
    gaps = []
    slopes = []
    for arm, seed in runs:
        arrays = artifacts[f"attack-{arm}-{seed}"]
        product = artifacts[f"{arm}-{seed}"]["norms"].prod(1)
        slopes.append(float(np.max(arrays["slope"] / product)))
        clean = arrays["clean_risk"]
        moved = arrays["moved_risk"]
        for i, j in zip(*np.nonzero(~np.eye(len(clean), dtype=bool)), strict=True):
            steep = math.sqrt(2) * max(product[i], product[j])
            clean_gap = abs(float(clean[i] - clean[j]))
            length = float(arrays["mean_length"][i])
            bound = risk_gap_bound(clean_gap, lipschitz=steep, epsilon=length)
            gaps.append(float(abs(moved[i, i] - moved[i, j]) / bound))
    return max(gaps), max(slopes)
