"""Page of latent concept unlearning."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure as Drawing

from unlearn_jax import layers
from unlearn_jax.audit import Estimate, run_weights, summarize
from unlearn_jax.contrib import diffusion
from unlearn_jax.pipeline import (
    Check,
    Figure,
    Page,
    Table,
)
from unlearn_jax.pipeline.report.figures.style import COLORS, INK, MUTED, dress
from unlearn_jax.studies.latent.concepts import (
    METHODS,
    ROWS,
    SHOWN,
    TUNED,
    Arrays,
    Config,
    concepts_of,
    unpack,
    world,
)
from unlearn_jax.types import Status


def estimate(config: Config, values: np.ndarray) -> Estimate:
    """Mean over runs with a 95% bootstrap interval: seeds and classes redrawn."""
    levels = [
        (s, c) for s in range(len(config.seeds)) for c in range(len(config.concepts))
    ]
    weights = run_weights(np.random.default_rng(0), 2000, np.array(levels))
    values = np.asarray(values, np.float64)
    return summarize(values, np.broadcast_to(values, weights.shape), weights)


def floor_distance(config: Config, classifiers: Arrays) -> np.ndarray:
    """The Frechet distance of real training images from the reference, for every run."""
    (own, _, held), _, classifier = world(config)
    evaluator = unpack(classifier.init, classifiers, "evaluator")
    own_features, real = (
        np.asarray(
            layers.features(classifier.apply, evaluator, jnp.asarray(part.images))
        )
        for part in (own, held)
    )
    runs = concepts_of(config)[:-1]
    return np.array(
        [
            diffusion.frechet_distance(
                own_features[own.labels != f], real[held.labels != f]
            )
            for f in runs
        ]
    )


def main_table(config: Config, found: Mapping[str, Arrays]) -> Table:
    """A row per method."""
    rows: list[list[Any]] = [
        [
            "real images",
            None,
            None,
            estimate(config, floor_distance(config, found["classifiers"])),
            None,
            None,
        ]
    ]
    for name, label in ROWS.items():
        now = found[name]
        rows.append([
            label,
            estimate(config, 100 * now["forgotten"]),
            estimate(config, 100 * now["retained"]),
            estimate(config, now["frechet"]),
            estimate(config, 100 * now["unconditional"]),
            estimate(config, 100 * now["attacked"][:, 1:].max(1)),
        ])  # fmt: skip
    accuracy = float(found["classifiers"]["evaluator-accuracy"])
    return Table(
        title="What is drawn after a class was forgotten",
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
            " accurate on held-out images): share of samples under condition f that"
            " are f; of samples under other conditions that are what was asked for;"
            " the Frechet distance of these from held-out images in that classifier's"
            " features (not FID); share of f among unconditional samples; share of f"
            " under the condition that an attacker with the weights and images of f"
            f" finds, at the best of {len(config.radii)} radii. Mean ± standard"
            f" deviation over {len(config.seeds)} seeds x {len(config.concepts)}"
            f" classes ({', '.join(map(str, config.concepts))}), 95% interval of the"
            " mean."
        ),
    )


def gap(config: Config, found: Mapping[str, Arrays], name: str, what: str) -> Estimate:
    """A row's distance from the retrained model of the same seed and class; percentages in points."""

    def value(row: str) -> np.ndarray:
        if what == "attacked":
            return 100 * found[row]["attacked"][:, 1:].max(1)
        return found[row]["frechet"] if what == "frechet" else 100 * found[row][what]

    return estimate(
        config,
        np.asarray(value(name), np.float64)
        - np.asarray(value("retrained"), np.float64),
    )


def gap_table(config: Config, found: Mapping[str, Arrays]) -> Table:
    """Paired differences."""
    columns = ("forgotten", "frechet", "unconditional", "attacked")
    return Table(
        title="Gap to the retrained model",
        columns=[
            "method",
            "f under f",
            "Frechet, retained",
            "f, no condition",
            "re-attack",
        ],
        rows=[
            [label, *(gap(config, found, name, what) for what in columns)]
            for name, label in ROWS.items()
            if name != "retrained"
        ],
        caption=(
            "Method minus retrained model of the same seed and class, then averaged;"
            " percentages in points. Above 0: more of f is left, or samples are worse."
            " The second retraining shows what chance does."
        ),
    )


def search_table(config: Config, found: Mapping[str, Arrays]) -> Table:
    """What the latent attack found."""
    search, rows = found["search"], []
    for name, label in (("own", "denoising losses"), ("external", "classifier")):
        status, far = (
            search[f"{name}-status"],
            search[f"{name}-distance"] / search["scale"][:, None],
        )
        shares = [
            100 * (status == s).mean(1) for s in (Status.FOUND, Status.ALREADY_WRONG)
        ]
        middle = [
            np.median(d[s == Status.FOUND]) if (s == Status.FOUND).any() else 0.0
            for d, s in zip(far, status, strict=True)
        ]
        rest = 100 - shares[0] - shares[1]
        rows.append(
            [label, *(estimate(config, np.asarray(v)) for v in (*shares, rest, middle))]
        )
    return Table(
        title="The border of a concept",
        columns=[
            "judge",
            "found (%)",
            "left before (%)",
            "not found (%)",
            "median length",
        ],
        rows=rows,
        caption=(
            "Nearest conditions that leave f, one for each of 64 training images of f."
            " Length in mean distances between the conditions of two classes."
        ),
    )


def tuning_table(config: Config, found: Mapping[str, Arrays]) -> Table:
    """What was chosen, and where."""
    rows: list[list[Any]] = []
    for name in TUNED:
        now = found[f"tune-{name}"]
        best = int(np.argmin(now["rate"] + now["error"]))
        past = f"{now['chosen'][1]:g}" if name == "latent-beyond" else "–"
        rows.append(
            [
                METHODS[name],
                f"{now['chosen'][0]:g}",
                past,
                100 * float(now["rate"][best]),
                100 * float(now["error"][best]),
            ]
        )
    return Table(
        title="Chosen settings",
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


def grid_picture(config: Config, found: Mapping[str, Arrays], run: int) -> Figure:
    """Samples: a line per method."""
    f = int(concepts_of(config)[run])
    lines = []
    for name in ROWS:
        images = found[name]["images"][run, ..., 0]
        others = [images[c, 0] for c in range(len(images) - 1) if c != f]
        lines.append([*images[f], *others, *images[-1, :3]])
    side, gap = lines[0][0].shape[0], max(1, lines[0][0].shape[0] // 8)
    cell = side + gap
    groups = [SHOWN, len(found["original"]["images"][run]) - 2, 3]
    starts = np.concatenate(
        [
            [j * cell + g * 2 * gap for j in range(a, a + n)]
            for g, (a, n) in enumerate(
                zip(np.cumsum([0, *groups[:-1]]), groups, strict=True)
            )
        ]
    )
    mosaic = np.full((len(lines) * cell - gap, starts[-1] + side), np.nan)
    for i, line in enumerate(lines):
        for start, image in zip(starts, line, strict=True):
            mosaic[i * cell : i * cell + side, start : start + side] = image
    figure = Drawing(figsize=(9.2, 0.4 + 0.3 * len(lines)))
    axes = figure.add_axes((0.25, 0.01, 0.74, 0.9))  # room for the names
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
        [f"asked for {f} (forgotten)", "asked for each other class", "no condition"],
        fontsize=9,
    )
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelcolor=INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_facecolor("none")
    rates = ", ".join(
        f"{label} {100 * found[name]['forgotten'][run]:.0f}%"
        for name, label in ROWS.items()
    )
    return Figure(
        f"Samples after forgetting {f}",
        figure,
        alt=f"Samples of each model; share of {f} under condition {f}: {rates}",
        caption=(
            f"Seed {config.seeds[run // len(config.concepts)]}; the first samples"
            " drawn, from the same noise in all lines."
        ),
    )


def attack_picture(config: Config, found: Mapping[str, Arrays]) -> Figure:
    """Re-attack over the radius."""
    figure = Drawing(figsize=(9.2, 4.6), layout="constrained")
    axes = figure.add_subplot()
    dress(axes, "Bringing the class back from within the latent space", grid="both")
    place = np.arange(len(config.radii) + 1)
    fixed = {
        "original": (MUTED, "-"),
        "retrained": (INK, "-"),
        "again": (INK, (0, (1.5, 1.2))),
    }
    for i, (name, label) in enumerate(ROWS.items()):
        color, dashes = fixed.get(
            name,
            (
                COLORS[(i - 3) % len(COLORS)],
                "-" if i - 3 < len(COLORS) else (0, (5, 1.5)),
            ),
        )
        mean = 100 * found[name]["attacked"].mean(0)
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
    figure.legend(
        loc="outside right upper",
        frameon=False,
        labelcolor=INK,
        fontsize=9,
        handlelength=3.2,
    )
    last = ", ".join(
        f"{label} {100 * found[name]['attacked'][:, -1].mean():.0f}%"
        for name, label in ROWS.items()
    )
    return Figure(
        "Re-attack",
        figure,
        alt=(
            "Share of samples that are the forgotten class, at the largest radius:"
            f" {last}"
        ),
        caption=(
            "Mean over runs. The attacker moves condition f inside a ball, towards"
            " drawing images of f."
        ),
    )


def make_page(config: Config, found: Mapping[str, Arrays]) -> Page:
    """Tables, pictures, and sentences made from the numbers."""
    rates = {name: estimate(config, 100 * found[name]["forgotten"]) for name in ROWS}
    gaps = {name: gap(config, found, name, "forgotten") for name in ROWS}
    backs = {name: gap(config, found, name, "attacked") for name in ROWS}
    gone = [name for name in METHODS if gaps[name].mean <= gaps["again"].high]
    safe = [METHODS[name] for name in gone if backs[name].mean <= backs["again"].high]
    safest = min(gone or METHODS, key=lambda name: backs[name].mean)
    summary = (
        f"Condition f draws f in {rates['original'].mean:.0f}% of samples, and in"
        f" {rates['retrained'].mean:.1f}% after retraining without it. Matching the"
        " nearest condition that leaves f, as the question was put, gives"
        f" {rates['latent-own'].mean:.0f}% by the model's own judgment and"
        f" {rates['latent-external'].mean:.0f}% by a classifier's; past that border"
        f" {rates['latent-beyond'].mean:.1f}%, and in random directions of the same"
        f" length {rates['latent-random'].mean:.0f}%. As little of f as a retrained"
        " model, within what a second retraining differs:"
        f" {', '.join(METHODS[name] for name in gone) or 'no method'}. Of these no"
        f" easier to attack: {', '.join(safe) or 'none'}; nearest is {METHODS[safest]},"
        f" where the attack succeeds {backs[safest].mean:+.0f} points"
        f" [{backs[safest].low:.0f}, {backs[safest].high:.0f}] against the retrained"
        " model."
    )
    search = found["search"]
    inside = all(
        (search[f"{n}-distance"] <= search[f"{n}-epsilon"] + 1e-6).all()
        for n in ("own", "external")
    )
    accuracy = float(found["classifiers"]["evaluator-accuracy"])
    first = float(found["original"]["forgotten"].min())
    return Page(
        summary=summary,
        blocks=[
            *(
                make(config, found)
                for make in (main_table, gap_table, search_table, tuning_table)
            ),
            *(grid_picture(config, found, run) for run in range(len(config.concepts))),
            attack_picture(config, found),
            Check(
                "the independent classifier can tell",
                accuracy >= 0.9,
                f"accuracy {accuracy:.3f} on held-out images",
            ),
            Check(
                "the original draws what is to be forgotten",
                first >= 0.8,
                f"at least {first:.0%} in every run",
            ),
            Check("no perturbation is longer than its radius", inside),
        ],
    )
