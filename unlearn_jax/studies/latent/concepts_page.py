"""Page of latent concept unlearning."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure as Drawing

from unlearn_jax import layers
from unlearn_jax.audit import Estimate, summarize_runs
from unlearn_jax.contrib import diffusion
from unlearn_jax.figures.style import COLORS, INK, MUTED, dress
from unlearn_jax.pipeline import (
    Check,
    Figure,
    Page,
    Table,
)
from unlearn_jax.studies.common import (
    PERCENT,
    Artifacts,
    in_words,
    legend,
    summarize_cut,
    variables_of,
)
from unlearn_jax.studies.latent.concepts import (
    METHODS,
    MODELS,
    ROWS,
    SHOWN,
    TUNED,
    Config,
    concepts_of,
    world,
)
from unlearn_jax.types import PyTree, Status

LENGTH = (0.0, math.inf)


def estimate(
    config: Config, values: np.ndarray, bounds: tuple[float, float] | None = None
) -> Estimate:
    """Return the mean over runs, with an interval over seeds and classes.

    Args:
      config: study configuration.
      values: ``[R]`` values of the runs.
      bounds: smallest and largest value, as for percentages; None for differences.
    """
    shape = (len(config.seeds), len(config.concepts))
    return summarize_runs(values.reshape(shape), bounds=bounds)


def floor_distance(config: Config, classifiers: Mapping[str, PyTree]) -> np.ndarray:
    """Return the Frechet distances ``[R]`` of training images from the reference."""
    setup = world(config)
    evaluator = variables_of(classifiers["evaluator"])

    def features(images: np.ndarray) -> np.ndarray:
        apply_fn = setup.classifier.apply
        return np.asarray(layers.features(apply_fn, evaluator, jnp.asarray(images)))

    drawn = features(setup.samples.images)
    real = features(setup.held_out.images)
    distances = []
    for concept in concepts_of(config)[:-1]:
        others = drawn[setup.samples.labels != concept]
        reference = real[setup.held_out.labels != concept]
        distances.append(diffusion.frechet_distance(others, reference))
    return np.array(distances)


def main_table(config: Config, artifacts: Artifacts) -> Table:
    """Return the main table, a row per method."""
    floor = floor_distance(config, artifacts["classifiers"])
    floor = estimate(config, floor, LENGTH)
    rows: list[list[Any]] = [["real images", None, None, floor, None, None]]
    for name, label in ROWS.items():
        row: list[Any] = [label]
        for measure in (
            "forgotten",
            "retained",
            "frechet",
            "unconditional",
            "attacked",
        ):
            bounds = LENGTH if measure == "frechet" else PERCENT
            row.append(estimate(config, values_of(artifacts, name, measure), bounds))
        rows.append(row)
    accuracy = float(artifacts["classifiers"]["evaluator-accuracy"])
    return Table(
        title="Samples after a class was forgotten",
        columns=[
            "method",
            "f under f (%)",
            "retained (%)",
            "Frechet, retained",
            "f, no condition (%)",
            "re-attack (%)",
        ],
        rows=rows,
        caption=(
            f"f: the forgotten class. By an independent classifier ({accuracy:.1%}"
            " accurate on held-out images): fraction of samples under condition f"
            " that are f; of samples under other conditions that have their class;"
            " the Frechet distance of these from held-out images in that classifier's"
            " features (not FID); fraction of f among unconditional samples; of f"
            " under the condition that an attacker with the weights and images of f"
            f" finds, at the best of {len(config.radii)} radii. Mean ± standard"
            f" deviation over {len(config.seeds)} seeds x {len(config.concepts)}"
            f" classes ({', '.join(map(str, config.concepts))}), 95% interval of the"
            " mean."
        ),
    )


def values_of(artifacts: Artifacts, name: str, measure: str) -> np.ndarray:
    """Return a row's measure ``[R]``, with fractions in percent.

    For ``attacked``, it is the measure of the most successful attack.
    """
    values = artifacts[name][measure]
    if measure == "attacked":
        values = values[:, 1:].max(1)
    return values if measure == "frechet" else 100 * values


def gap(config: Config, artifacts: Artifacts, name: str, measure: str) -> Estimate:
    """Return a row's difference from the retrained model of the same seed and class."""
    value = np.asarray(values_of(artifacts, name, measure), np.float64)
    goal = np.asarray(values_of(artifacts, "retrained", measure), np.float64)
    if measure == "frechet":
        return estimate(config, value - goal)
    # few classes give a wide interval, but two percentages differ by 100 at most
    runs = (value - goal).reshape(len(config.seeds), len(config.concepts))
    return summarize_cut(runs, bounds=(-100.0, 100.0))


def gap_table(config: Config, artifacts: Artifacts) -> Table:
    """Return the table of paired differences from retraining."""
    rows: list[list[Any]] = []
    for name, label in ROWS.items():
        if name != "retrained":
            measures = ("forgotten", "frechet", "unconditional", "attacked")
            gaps = [gap(config, artifacts, name, measure) for measure in measures]
            rows.append([label, *gaps])
    return Table(
        title="Gap to the retrained model",
        columns=[
            "method",
            "f under f (points)",
            "Frechet, retained",
            "f, no condition (points)",
            "re-attack (points)",
        ],
        rows=rows,
        caption=(
            "Method minus retrained model of the same seed and class, then averaged."
            " Above 0: more of f is left, or samples are worse. The second retraining"
            " shows the effect of chance."
        ),
    )


def search_table(config: Config, artifacts: Artifacts) -> Table:
    """Return the table of status and length of the latent attack, for both judges."""
    search = artifacts["search"]
    rows: list[list[Any]] = []
    runs = np.indices((len(config.seeds), len(config.concepts))).reshape(2, -1).T
    for name, label in (("own", "denoising losses"), ("external", "classifier")):
        status = search[f"{name}-status"]
        lengths = search[f"{name}-distance"] / search["scale"][:, None]
        is_success = status == Status.FOUND
        success = 100 * is_success.mean(1)
        before = 100 * (status == Status.ALREADY_WRONG).mean(1)
        values = (success, before, 100 - success - before)
        cells: list[Any] = [estimate(config, value, PERCENT) for value in values]
        known = is_success.any(1)
        middle = [
            np.median(lengths[run][is_success[run]]) for run in known.nonzero()[0]
        ]
        length = None
        if middle:
            length = summarize_runs(middle, factors=runs[known], bounds=LENGTH)
        rows.append([label, *cells, length, f"{known.sum()} of {known.size}"])
    return Table(
        title="The border of a concept",
        columns=[
            "judge",
            "found (%)",
            "left before (%)",
            "not found (%)",
            "median length",
            "runs with a border",
        ],
        rows=rows,
        caption=(
            "Nearest conditions that leave f, one for each of 64 training images of f."
            " Length in mean distances between the conditions of two classes, over the"
            " runs in which a border was found."
        ),
    )


def tuning_table(config: Config, artifacts: Artifacts) -> Table:
    """Return the table of the chosen options and their score."""
    rows: list[list[Any]] = []
    for name in TUNED:
        tuned = artifacts[f"tune-{name}"]
        best = int(np.argmin(tuned["rate"] + tuned["error"]))
        rate, past = (f"{value:g}" for value in tuned["chosen"])
        scores = [100 * float(tuned[key][best]) for key in ("rate", "error")]
        past = past if name == "latent-beyond" else "–"
        rows.append([METHODS[name], rate, past, *scores])
    return Table(
        title="Chosen options",
        columns=[
            "method",
            "learning rate",
            "overshoot",
            "f under f (%)",
            "error on retained (%)",
        ],
        rows=rows,
        caption=(
            f"Chosen on a model of seed {config.tuning_seed} that forgets class"
            f" {config.tuning_concept}, neither of which is reported: least sum of the"
            " two numbers shown, the first of equals."
        ),
    )


def grid_picture(config: Config, artifacts: Artifacts, run: int) -> Figure:
    """Draw samples of one run, with a line of images per method."""
    f = int(concepts_of(config)[run])
    lines = []
    for name in ROWS:
        images = artifacts[name]["images"][run, ..., 0]
        others = [images[c, 0] for c in range(len(images) - 1) if c != f]
        lines.append([*images[f], *others, *images[-1, :3]])
    side = lines[0][0].shape[0]
    gap = max(1, side // 8)
    cell = side + gap
    groups = [SHOWN, len(artifacts["original"]["images"][run]) - 2, 3]
    # Columns of images, with wider gaps between groups.
    starts = np.arange(sum(groups)) * cell + np.repeat(np.arange(3), groups) * 2 * gap
    mosaic = np.full((len(lines) * cell - gap, starts[-1] + side), np.nan)
    for i, line in enumerate(lines):
        for start, image in zip(starts, line, strict=True):
            mosaic[i * cell : i * cell + side, start : start + side] = image
    figure = Drawing(figsize=(9.2, 0.4 + 0.3 * len(lines)))
    # Leaves space for the names.
    axes = figure.add_axes((0.25, 0.01, 0.74, 0.9))
    axes.imshow(
        mosaic, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest", aspect="equal"
    )
    axes.set_anchor("W")
    axes.set_yticks(
        np.arange(len(lines)) * cell + side / 2, list(ROWS.values()), fontsize=9
    )
    middles = [
        np.mean(part) + side / 2 for part in np.split(starts, np.cumsum(groups)[:-1])
    ]
    axes.set_xticks(
        middles,
        [f"condition {f} (forgotten)", "each other condition", "no condition"],
        fontsize=9,
    )
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelcolor=INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_facecolor("none")
    rates = ", ".join(
        f"{label} {100 * artifacts[name]['forgotten'][run]:.0f}%"
        for name, label in ROWS.items()
    )
    return Figure(
        f"Samples after forgetting {f}",
        figure,
        alt=f"Samples of each model; fraction of {f} under condition {f}: {rates}",
        caption=(
            f"Seed {config.seeds[run // len(config.concepts)]}; the first samples"
            " drawn, from the same noise in all lines."
        ),
    )


def attack_picture(config: Config, artifacts: Artifacts) -> Figure:
    """Draw the success of the re-attack by radius."""
    figure = Drawing(figsize=(9.2, 4.6), layout="constrained")
    axes = figure.add_subplot()
    dress(axes, "Bringing the class back from within the latent space", grid="both")
    place = np.arange(len(config.radii) + 1)
    fixed = {
        "original": (MUTED, "-"),
        "retrained": (INK, "-"),
        "again": (INK, (0, (1.5, 1.2))),
    }
    for i, (name, label) in enumerate(ROWS.items(), -len(MODELS)):
        cycled = (COLORS[i % len(COLORS)], "-" if i < len(COLORS) else (0, (5, 1.5)))
        color, dashes = fixed.get(name, cycled)
        mean = 100 * artifacts[name]["attacked"].mean(0)
        axes.plot(
            place,
            mean,
            color=color,
            ls=dashes,
            lw=2.2 if name == "retrained" else 1.6,
            marker="o",
            ms=4,
            label=label,
        )
    axes.set_xticks(place, ["no attack", *(f"{radius:g}" for radius in config.radii)])
    axes.set(
        xlabel="radius, in mean distances between conditions",
        ylabel="samples that are f (%)",
        ylim=(-3, 103),
    )
    legend(figure, axes, place="right upper", columns=1)
    last = ", ".join(
        f"{label} {100 * artifacts[name]['attacked'][:, -1].mean():.0f}%"
        for name, label in ROWS.items()
    )
    return Figure(
        "Re-attack",
        figure,
        alt=(
            f"Fraction of samples of the forgotten class, at the largest radius: {last}"
        ),
        caption=(
            "Mean over runs. The attacker moves condition f inside a ball, towards"
            " drawing images of f."
        ),
    )


def nearest(config: Config, artifacts: Artifacts, measure: str) -> str:
    """Return in words which method is nearest to retraining, and how near it is."""
    gaps = {name: gap(config, artifacts, name, measure) for name in ROWS}
    name = min(METHODS, key=lambda method: abs(gaps[method].mean))
    return (
        f"{METHODS[name]} ({in_words(gaps[name], '+.1f')}; a second retraining"
        f" {in_words(gaps['again'], '+.1f')})"
    )


def make_page(config: Config, artifacts: Artifacts) -> Page:
    """Return the page: samples, gaps, the border of a concept and chosen options."""
    rates = {
        name: estimate(config, 100 * artifacts[name]["forgotten"]) for name in ROWS
    }
    summary = (
        f"Condition f draws f in {rates['original'].mean:.0f}% of samples, and in"
        f" {rates['retrained'].mean:.1f}% after retraining without it. Matching the"
        " nearest condition that leaves f gives"
        f" {rates['latent-own'].mean:.0f}% by the model's own judgment and"
        f" {rates['latent-external'].mean:.0f}% by a classifier's; past that border"
        f" {rates['latent-beyond'].mean:.1f}%, and in random directions of the same"
        f" length {rates['latent-random'].mean:.0f}%. Nearest to the retrained model of"
        f" the same seed and class, in points of f:"
        f" {nearest(config, artifacts, 'forgotten')}; after the re-attack:"
        f" {nearest(config, artifacts, 'attacked')}."
    )
    search = artifacts["search"]
    inside = all(
        (search[f"{n}-distance"] <= search[f"{n}-epsilon"] + 1e-6).all()
        for n in ("own", "external")
    )
    accuracy = float(artifacts["classifiers"]["evaluator-accuracy"])
    first = float(artifacts["original"]["forgotten"].min())
    return Page(
        summary=summary,
        blocks=[
            *(
                make(config, artifacts)
                for make in (main_table, gap_table, search_table, tuning_table)
            ),
            *(
                grid_picture(config, artifacts, run)
                for run in range(len(config.concepts))
            ),
            attack_picture(config, artifacts),
            Check(
                "the independent classifier is accurate",
                accuracy >= 0.9,
                f"accuracy {accuracy:.3f} on held-out images",
            ),
            Check(
                "the original draws the class to forget",
                first >= 0.8,
                f"at least {first:.0%} in every run",
            ),
            Check("no perturbation is longer than its radius", inside),
        ],
    )
