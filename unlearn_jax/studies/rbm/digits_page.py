"""Page of diluted RBMs on digits."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure as Drawing

from unlearn_jax.figures.style import COLORS, INK, MUTED, dress
from unlearn_jax.pipeline import Check, Figure, Page, Table
from unlearn_jax.studies.common import (
    PERCENT,
    Arrays,
    Artifacts,
    is_above_zero,
    legend,
    summarize_cut,
    summarize_distance,
    summarize_finite,
)
from unlearn_jax.studies.rbm.digits import (
    DILUTED,
    MASKS,
    PICTURES,
    ROWS,
    SHOWN,
    Config,
    as_images,
    load,
)

LOG_LIKELIHOOD = (-math.inf, 0.0)


def curves(config: Config, artifacts: Artifacts) -> dict[str, np.ndarray]:
    """Return every machine's test log-likelihood and the classifier's confidence.

    Returns:
      ``dense`` ``[seeds, 2]``, and ``MASK-STAGE`` ``[seeds, fractions, 2]``.
    """
    names = [f"{mask}-{stage}" for mask in MASKS for stage in DILUTED]
    out: dict[str, list] = {name: [] for name in ("dense", *names)}
    for seed in config.seeds:
        diluted = artifacts[f"diluted-{seed}"]
        confidence = artifacts[f"judged-{seed}"]["diluted"]
        both = np.stack([diluted["scores"].mean(1), confidence], -1)
        of = dict(zip(map(str, diluted["names"]), both, strict=True))
        out["dense"].append(of["dense"])
        for name in names:
            out[name].append([of[f"{name}-{value}"] for value in config.fractions])
    return {name: np.array(values) for name, values in out.items()}


def independent(config: Config) -> float:
    """Return the mean log-likelihood of test images under independent pixels."""
    means = []
    for seed in config.seeds:
        split = load(config, seed)
        rates = np.clip(split["train"].mean(0), 0.01, 0.99)
        test = split["test"]
        means.append(np.mean(test @ np.log(rates) + (1 - test) @ np.log(1 - rates)))
    return float(np.mean(means))


def dilution_table(config: Config, lines: Arrays, mask: str, floor: float) -> Table:
    """Return the table of dilution, a row per fraction."""
    names = [f"{mask}-{stage}" for stage in DILUTED]
    rows = []
    for i, fraction in enumerate(config.fractions):
        values = [lines[name][:, i, 0] for name in names]
        confidence = [lines[name][:, i, 1].mean() for name in names]
        rows.append(
            [
                f"{fraction:.0%}",
                *map(summarize_finite, values),
                summarize_finite(values[0] - values[3]),
                summarize_finite(values[1] - values[3]),
                " / ".join(f"{100 * value:.0f}" for value in confidence),
            ]
        )
    return Table(
        title=f"Diluted: {MASKS[mask]} removed",
        columns=[
            "removed",
            *DILUTED.values(),
            "before - retrained",
            "at equal steps",
            "confidence (%)",
        ],
        rows=rows,
        caption=(
            "Mean log-likelihood of test images by AIS, in nats: dense"
            f" {lines['dense'][:, 0].mean():.2f}, independent pixels {floor:.2f}. All"
            f" columns of a row have the same masks. T: {config.num_steps} steps."
            " Differences are paired, of before training and of before, 2T, with"
            " after, + T: above 0, diluting before training is better. Confidence: the"
            " classifier's, mean over samples of the four (dense:"
            f" {100 * lines['dense'][:, 1].mean():.0f}). Mean ± standard deviation over"
            f" {len(config.seeds)} seeds, 95% interval of the mean."
        ),
    )


def deletions(config: Config, artifacts: Artifacts) -> dict[str, np.ndarray]:
    """Return the measures ``[seeds, classes, 4]`` of every row.

    The measures are the percentage of samples of the class, the log-likelihood of
    forgotten and of retained test images, and KL from the oracle.
    """
    out = {name: np.zeros((len(config.seeds), len(config.classes), 4)) for name in ROWS}
    for s, seed in enumerate(config.seeds):
        forgotten = artifacts[f"forgotten-{seed}"]
        judged = artifacts[f"judged-{seed}"]
        labels = load(config, seed)["test_labels"]
        for c, digit in enumerate(config.classes):
            for r, name in enumerate(ROWS):
                scores = forgotten["scores"][c, r]
                out[name][s, c] = (
                    100 * judged["forgotten"][c, r, digit],
                    scores[labels == digit].mean(),
                    scores[labels != digit].mean(),
                    forgotten["divergence"][c, r],
                )
    return out


def deletion_table(config: Config, artifacts: Artifacts, values: Arrays) -> Table:
    """Return the table of deletion, a row per method."""
    effective = np.array(
        [artifacts[f"forgotten-{seed}"]["effective"].min(0) for seed in config.seeds]
    ).min(0)
    ascended = np.array(["ascent" in name for name in ROWS])
    fewest = effective[~ascended].min()
    fewest_ascended = effective[ascended].min()
    rows: list[list[Any]] = []
    for name, label in ROWS.items():
        percentage, forgotten, retained, divergence = np.moveaxis(values[name], -1, 0)
        cells = [
            summarize_finite(percentage, bounds=PERCENT),
            summarize_finite(forgotten, summarize_cut, bounds=LOG_LIKELIHOOD),
            summarize_finite(retained, summarize_cut, bounds=LOG_LIKELIHOOD),
        ]
        # The oracle is not compared with itself.
        gap = None if name == "oracle" else summarize_distance(divergence)
        rows.append([label, *cells, gap])
    return Table(
        title="Forgetting one digit",
        columns=[
            "model",
            "samples of the digit (%)",
            "log-likelihood, forgotten (nats)",
            "log-likelihood, retained (nats)",
            "KL(oracle || model) (nats)",
        ],
        rows=rows,
        caption=(
            "Samples classified as the forgotten digit; mean log-likelihood"
            " of test images by AIS; KL estimated on the oracle's samples."
            f" AIS has at least {fewest:.0f} effective samples of {config.num_chains},"
            f" and {fewest_ascended:.0f} after ascent at full weight; with few of them"
            " numbers are rough."
            f" Mean ± standard deviation over {len(config.seeds)} seeds x digits"
            f" {', '.join(map(str, config.classes))}, 95% interval of the mean, seeds"
            " and digits random."
        ),
    )


def dilution_picture(config: Config, lines: Arrays, floor: float) -> Figure:
    """Draw log-likelihood and confidence over the fraction of connections removed."""
    figure = Drawing(figsize=(9.2, 6.4), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey="row")
    for column, (mask, title) in enumerate(MASKS.items()):
        for k, axes in enumerate(panels[:, column]):
            dress(axes, f"{title} removed".capitalize() if k == 0 else "", grid="both")
            for color, (stage, label) in zip(COLORS, DILUTED.items(), strict=False):
                values = np.concatenate(
                    [lines["dense"][:, None], lines[f"{mask}-{stage}"]], 1
                )[..., k] * (1 if k == 0 else 100)
                fractions = [0.0, *config.fractions]
                axes.fill_between(
                    fractions,
                    values.min(0),
                    values.max(0),
                    color=color,
                    alpha=0.15,
                    lw=0,
                )
                axes.plot(
                    fractions,
                    values.mean(0),
                    color=color,
                    lw=1.8,
                    marker="o",
                    ms=4,
                    label=label,
                )
        panels[0, column].axhline(
            floor, color=MUTED, lw=1.4, ls=(0, (5, 2)), label="independent pixels"
        )
        panels[0, column].set_ylim(floor - 6, None)
        panels[1, column].set_xlabel("fraction of connections removed")
    panels[0, 0].set_ylabel("test log-likelihood, nats")
    panels[1, 0].set_ylabel("classifier's confidence, %")
    legend(figure, panels[0, 0], place="lower center", columns=4, size=9.5)
    ends = "; ".join(
        f"{fraction:.0%}: {lines['random-before'][:, i, 0].mean():.1f},"
        f" {lines['random-after'][:, i, 0].mean():.1f},"
        f" {lines['random-full'][:, i, 0].mean():.1f}"
        for i, fraction in enumerate(config.fractions)
    )
    return Figure(
        "Diluting before and after training",
        figure,
        alt=(
            "Test log-likelihood at random dilution, before, after, and after with"
            f" retraining: {ends}"
        ),
        caption=(
            "Mean over seeds, and their range. The axis is cut 6 nats below independent"
            " pixels."
        ),
    )


def samples_picture(
    title: str, rows: Mapping[str, tuple[np.ndarray, np.ndarray]], caption: str
) -> Figure:
    """Draw samples, resampled by their weights, with a row per machine."""
    figure = Drawing(figsize=(9.2, 0.3 + 0.78 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    rng = np.random.default_rng(0)
    for axes, (label, (samples, weights)) in zip(panels, rows.items(), strict=True):
        # A machine that diverged gives its chains no weights.
        weights = weights if np.isfinite(weights).all() else np.ones(len(samples))
        chosen = rng.choice(len(samples), PICTURES, p=weights / weights.sum())
        drawn = as_images(samples[chosen])[..., 0]
        framed = np.pad(drawn, ((0, 0), (1, 1), (1, 1)), constant_values=2)
        strip = framed.transpose(1, 0, 2).reshape(framed.shape[1], -1)
        axes.imshow(
            np.ma.masked_equal(strip, 2),
            cmap=ListedColormap(["#dfe7ee", COLORS[0]]),
            interpolation="nearest",
        )
        axes.set_axis_off()
        axes.set_title(label, loc="left", fontsize=9, color=INK, pad=2)
    return Figure(
        title,
        figure,
        alt=f"{PICTURES} samples each of {', '.join(rows)}",
        caption=caption,
    )


def sample_pictures(config: Config, artifacts: Artifacts) -> list[Figure]:
    """Draw samples of the first seed: after forgetting a digit, and after dilution."""
    seed = config.seeds[0]
    digit = config.classes[0]
    diluted = artifacts[f"diluted-{seed}"]
    forgotten = artifacts[f"forgotten-{seed}"]
    place = {str(name): i for i, name in enumerate(diluted["names"])}
    fraction = min(config.fractions, key=lambda value: abs(value - 0.7))
    some = {"dense": "dense"} | {
        f"random-{stage}-{fraction}": f"{fraction:.0%} at random, {label}"
        for stage, label in DILUTED.items()
    }
    take = lambda arrays, index: (
        arrays["samples"][index],
        arrays["sample_weights"][index],
    )
    order = list(ROWS)
    return [
        samples_picture(
            f"Samples after forgetting {digit}",
            {ROWS[name]: take(forgotten, (0, order.index(name))) for name in SHOWN},
            f"The ends of annealed chains, redrawn by their weights; seed {seed}. A row"
            " of equal pictures is a machine whose chains all end in one state.",
        ),
        samples_picture(
            "Samples of diluted machines",
            {label: take(diluted, place[name]) for name, label in some.items()},
            "As above.",
        ),
    ]


def make_checks(
    config: Config, artifacts: Artifacts, lines: Arrays, values: Arrays
) -> list[Check]:
    """Return the checks of the page."""
    small = artifacts["bracket"]
    gap = float(small["estimate"] - small["exact"])
    error = float(small["error"])
    forward = float(small["forward"])
    backward = float(small["backward"])
    leak = max(float(artifacts[f"diluted-{seed}"]["leak"]) for seed in config.seeds)
    ratio = values["ascent-20"][..., 3] / values["nothing"][..., 3]
    percentage = values["ascent-20"][..., 0].max()
    return [
        Check(
            "AIS agrees with enumeration on a machine of 16 hidden units (4 standard"
            " errors)",
            abs(gap) < 4 * error,
            f"log Z {small['exact']:.3f}, estimate {gap:+.3f} ± {error:.3f}",
        ),
        Check(
            "forward and backward annealing agree on the dense machine to 0.5 nats",
            abs(forward - backward) < 0.5,
            f"mean log-likelihood of 100 test images {forward:.2f} forward,"
            f" {backward:.2f} backward",
        ),
        Check(
            "removed connections are exactly 0 after training",
            leak == 0,
            f"largest weight {leak:g}",
        ),
        Check(
            "20 steps of descent-ascent end further from the oracle than the original,"
            " every seed and digit",
            bool(ratio.min() > 1),
            f"{ratio.min():.0f} to {ratio.max():.0f} times; at most"
            f" {percentage:.1f}% of samples are the digit",
        ),
    ]


def make_page(config: Config, artifacts: Artifacts) -> Page:
    """Return the page: deletion, dilution and samples."""
    lines = curves(config, artifacts)
    values = deletions(config, artifacts)
    floor = independent(config)
    below = {}
    for stage in ("before", "twice"):
        better = []
        for i, fraction in enumerate(config.fractions):
            change = lines[f"random-{stage}"] - lines["random-full"]
            if is_above_zero(change[:, i, 0]):
                better.append(f"{fraction:.0%}")
        below[stage] = ", ".join(better) or "no fraction"
    dense = lines["dense"][:, 0].mean()
    after = lines["random-after"][..., 0].mean(0)
    smallest = lines["smallest-after"][..., 0].mean(0)
    lost = np.array(config.fractions)[after < floor]
    cliff = np.array(config.fractions)[smallest < dense - 1]
    below_floor = f"at {lost[0]:.0%}" if lost.size else "nowhere"
    removable = "without the loss of a nat"
    if cliff.size:
        removable = f"below {cliff[0]:.0%}, where it first loses a nat"
    least = lines["random-before"][:, -1, 0].mean()
    mean = {name: values[name].reshape(-1, 4).mean(0) for name in ROWS}
    accuracy = np.mean(
        [artifacts[f"judged-{seed}"]["accuracy"] for seed in config.seeds]
    )
    summary = (
        "Inspired by a paper on sparsity (arXiv 2511.00648), no claim of it. A machine"
        f" of {config.num_hidden} hidden units has {lines['dense'][:, 0].mean():.2f}"
        f" nats per test image (independent pixels {floor:.2f}). Diluted at random"
        f" after training it falls below independent pixels {below_floor}; diluted"
        f" before, it still has {least:.2f} at {config.fractions[-1]:.0%}. The smallest"
        f" weights can be removed after training {removable}. Random connections:"
        " diluted after training and trained again, it stays"
        f" below the machine diluted before at {below['before']} after"
        f" T steps of that one, and at {below['twice']} after as many"
        " steps in all (interval above 0)."
        f" Forgetting a digit: {mean['nothing'][0]:.1f}% of the original's samples are"
        f" the digit, {mean['oracle'][0]:.1f}% of the retrained machine's,"
        f" {mean['tune-1000'][0]:.1f}% after fine-tuning and"
        f" {mean['ascent-20'][0]:.1f}% after 20 steps of descent-ascent, which is"
        f" {mean['ascent-20'][3]:.0f} nats from the oracle where the original is"
        f" {mean['nothing'][3]:.2f} and a second retraining {mean['second'][3]:.2f}."
        f" The classifier is right on {accuracy:.1%} of real test images."
    )
    return Page(
        summary=summary,
        blocks=[
            deletion_table(config, artifacts, values),
            *(dilution_table(config, lines, mask, floor) for mask in MASKS),
            dilution_picture(config, lines, floor),
            *sample_pictures(config, artifacts),
            *make_checks(config, artifacts, lines, values),
        ],
    )
