"""Page of federated unlearning of segmentation."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from unlearn_jax import replicas
from unlearn_jax.contrib import federated
from unlearn_jax.figures.style import (
    COLORS,
    INK,
    MUTED,
    dress,
    small_panels,
)
from unlearn_jax.pipeline import Check, Figure, Page, Table
from unlearn_jax.studies.common import (
    Artifacts,
    legend,
    summarize_finite,
    variables_of,
)
from unlearn_jax.studies.federated.recovery import (
    LABELS,
    is_finite,
    mean_of,
    paired_change,
    percent,
    unrecovered,
)
from unlearn_jax.studies.federated.shapes import (
    CLASSES,
    MEASURES,
    Config,
    images,
    network,
)
from unlearn_jax.types import PyTree

ROWS = {name: label for name, label in LABELS.items() if name != "more+"}


def methods_table(runs: federated.RecoveryRuns) -> Table:
    """Return the table of methods, a row each."""
    columns = [
        "model",
        "forget at once",
        "rounds",
        "test",
        "test IoU",
        "forget",
        "forget IoU",
    ]
    columns += ["gap, forget (points)", "unseen, same style"]
    lines = []
    for name, label in ROWS.items():
        final = 100 * runs.final(name)
        once = None
        rounds = None
        if name in runs.rounds:
            rounds = runs.summary(runs.rounds[name][0], bounds=(0, math.inf))
            if name != "natural":
                once = percent(runs, 100 * runs.measured[name][:, :, 0, 2])
        gap = None if name == "retrained" else percent(runs, runs.gap(name))
        *cells, unseen = (percent(runs, final[..., i]) for i in range(5))
        lines.append([label, once, rounds, *cells, gap, unseen])
    *cells, unseen = paired_change(runs, [0, 1, 2, 3, 4])
    gap = summarize_finite(runs.gap("special") - runs.gap("same"), runs.summary)
    label = "PUF special − natural, PUF's rounds (paired)"
    lines.append([label, None, None, *cells, gap, unseen])
    missed = unrecovered(runs)
    caption = (
        f"Dice in % unless the column says IoU, means over both shapes, {runs.shape[0]}"
        f" seeds x {runs.shape[1]} clients, 95% intervals for both random. Test:"
        " held-out images of the remaining clients' styles. Forget: the leaving"
        " client's training images. Rounds: until the test Dice is the retrained"
        f" model's, 1 to {runs.measured['natural'].shape[2] - 1}; runs that never got"
        f" there: {missed or 'none'}."
    )
    return Table("Every client leaves in turn", columns, lines, caption)


def curves(runs: federated.RecoveryRuns) -> Drawing:
    """Draw Dice by round: forgotten images, unseen ones of their style, and others."""
    figure, panels = small_panels(3, share=True, columns=3, height=2.6)
    style = {
        "natural": "-",
        "special": "-",
        "not": (0, (5, 1.5)),
        "ascent": (0, (1.5, 1.2)),
    }
    titles = {
        "forget": "forgotten images",
        "unseen": "unseen, same style",
        "test": "test, other styles",
    }
    for axes, (measure_name, title) in zip(panels, titles.items(), strict=True):
        place = MEASURES.index(measure_name)
        for (name, dashes), color in zip(style.items(), COLORS, strict=False):
            mean = 100 * runs.measured[name][..., place].mean((0, 1))
            axes.plot(np.arange(mean.size), mean, color=color, ls=dashes, lw=1.6)
        for name, color, dashes in (("retrained", INK, "-"), ("original", MUTED, ":")):
            axes.axhline(
                100 * runs.measured[name][..., place].mean(),
                color=color,
                ls=dashes,
                lw=1.4,
            )
        dress(axes, title, size=9)
        axes.set_ylim(-4, 104)
    handles = [
        Line2D([], [], color=color, ls=dashes, lw=1.6, label=ROWS[name])
        for (name, dashes), color in zip(style.items(), COLORS, strict=False)
    ]
    handles += [
        Line2D([], [], color=INK, lw=1.4, label="Retrained"),
        Line2D([], [], color=MUTED, ls=":", label="Original"),
    ]
    legend(figure, handles)
    figure.supxlabel("rounds after unlearning", fontsize=10, color=INK)
    figure.supylabel("Dice (%)", fontsize=10, color=INK)
    return figure


def examples(config: Config, trained: Mapping[str, PyTree]) -> Drawing:
    """Draw an image of every style, its map, and the maps predicted by two models."""
    near, _ = images(config.num_clients, config.num_images, config.size)
    rows = ("image", "truth", "original", "retrained without")
    figure = Drawing(
        figsize=(1.5 * config.num_clients + 1.2, 6.0), layout="constrained"
    )
    panels = figure.subplots(len(rows), config.num_clients, squeeze=False)
    model = network(config.width)
    original = variables_of(trained["original"])
    retrained = variables_of(trained["retrained"])
    for client in range(config.num_clients):
        place = client * config.num_images
        shown = [near.images[place], near.labels[place]]
        for variables in (original, replicas.unstack(retrained, client)):
            variables = jax.tree.map(jnp.asarray, variables)
            logits = model.apply(variables, near.images[place][None])
            shown.append(np.asarray(jnp.argmax(logits[0], -1)))
        for axes, picture, row in zip(panels[:, client], shown, rows, strict=True):
            axes.imshow(
                picture,
                vmin=0,
                vmax=CLASSES - 1,
                cmap=None if picture.ndim == 3 else "cividis",
            )
            axes.set_xticks([])
            axes.set_yticks([])
            if client == 0:
                axes.set_ylabel(row, color=INK, fontsize=9.5)
        panels[0, client].set_title(f"client {client}", color=INK, fontsize=10)
    return figure


def make_page(config: Config, artifacts: Artifacts) -> Page:
    """Return the page: methods, Dice by round and predicted maps."""
    runs = federated.RecoveryRuns(
        [artifacts[f"forget-{seed}"] for seed in config.seeds], MEASURES
    )
    gap = {name: mean_of(runs.gap(name)) for name in ROWS}
    dice = {
        name: 100 * runs.final(name)[..., 2].mean()
        for name in ("original", "retrained")
    }
    summary = (
        f"Dice on the leaving client's images is {dice['original']:.1f}% for the"
        f" original model and {dice['retrained']:.1f}% for the model retrained without"
        " the client. Mean gap to that, client by client, in points: original"
        f" {gap['original']}, natural {gap['natural']}, natural with as many"
        f" rounds as PUF {gap['same']}, PUF special {gap['special']}"
        f" ({gap['special+']} at the last round), PUF regular {gap['regular']},"
        f" NoT {gap['not']}, projected ascent {gap['ascent']}, a second"
        f" retraining {gap['again']}."
    )
    at_once = runs.measured["special"][:, :, 0] - runs.measured["original"]
    once = 100 * at_once[..., 2].mean()
    harder = dice["original"] - dice["retrained"]
    checks = [
        Check("every number is finite", is_finite(runs)),
        Check(
            "PUF lowers forget Dice at once", bool(once < 0), f"by {-once:.1f} points"
        ),
        Check(
            "a style that was not trained on is harder",
            bool(harder > 0),
            f"by {harder:.1f} points of Dice",
        ),
    ]
    pictures = [
        Figure(
            "Dice by round",
            curves(runs),
            alt=summary,
            caption="Means over runs; natural starts at the original.",
        ),
        Figure(
            "Styles",
            examples(config, artifacts[f"models-{config.seeds[0]}"]),
            alt=(
                "One training image of each client, its map, and the maps that two"
                " models predict."
            ),
            caption=(
                "The first training image of each client; dark: background, gray: disc,"
                " yellow: bar."
            ),
        ),
    ]
    return Page(summary, [methods_table(runs), *pictures, *checks])
