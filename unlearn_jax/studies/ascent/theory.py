"""Where ascent leads on examples that can be solved: closed forms, descent-ascent's paths, and a trap.

Command:   unlearn-jax run ascent_theory --workdir runs/ascent_theory
Published: "Ascent Fails to Forget" (arXiv 2509.26427), lemmas 2 to 10 and the toy of
four points.
Measured:  distance from the retrained weights; |R| 1000, |F| 100, b 50, ridge 0.01, learning rate 0.5, 8,000 steps

                                          simultaneous                   alternating
  eps    alpha   limit     do nothing     best stop          end         best stop          end
  0      0.05    0.0074    0.196          0.045  helps       diverges    0.123  helps       diverges
  0.1    0.02    0.0097    0.081          0.051  helps       diverges    0.082  no          diverges
  0.3    0.02    0.0177    0.056          0.052  helps       diverges    0.060  no          0.599
  0.3    0.05    0.0177    0.092          0.065  helps       diverges    0.089  helps       diverges
  0.5    0.02    0.0324    0.044          0.044  no          0.327       0.050  no          0.482
  0.7    0.05    0.0569    0.032          0.033  no          0.653       0.038  no          0.694
  0.9    0.05    0.0910    0.022          0.025  no          0.329       0.031  no          0.569
  0.9    0.09    0.0910    0.012          0.014  no          1.21        0.019  no          1.02
  0.9    0.15    0.0910    0.027          0.016  helps       diverges    0.017  helps       11.3

           Orderings on 2,400 sampled examples (3 seeds): lemma 3, 2,400 of 2,400; lemma
           9, 988 of the 988 where its range is not empty; lemma 9 without its second
           term, 1,825 of 1,825; below that, 360 of 2,400. Closed forms equal Brent's
           zeros to 3e-14 and Newton's minima of two coordinates to 3e-13. The trap:
           minima (3.933, -0.743) original, (3.831, -0.790) with loss 5.038 and (3.846,
           -1.759) with 9.615 retrained, (3.911, -1.853) descent-ascent; 200,000 steps
           of fine-tuning end in the 9.615.

Reading:   with nearly independent sets a well-timed stop helps; where they are correlated the first step leads away.
           Above the limit of alpha, where descent-ascent has no minimum, a stop helps
           more often than below it. The second term of lemma 9's range seems not to be
           needed.
Time:      half a minute of processor time.
Device:    2 CPU cores (x86-64, AVX-512), Python 3.11, JAX 0.10.2; other jobs ran beside.
"""

import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from unlearn_jax.contrib import testbeds
from unlearn_jax.contrib.testbeds import COUNTS, Sizes
from unlearn_jax.pipeline import Check, Experiment, Figure, Page, Part, Table
from unlearn_jax.pipeline.report.figures.style import COLORS, INK, MUTED, dress
from unlearn_jax.types import InputError

Arrays = Mapping[str, np.ndarray]
ROWS = (
    (0.0, 0.05),
    (0.1, 0.02),
    (0.3, 0.02),
    (0.3, 0.05),
    (0.5, 0.02),
    (0.7, 0.05),
    (0.9, 0.05),
    (0.9, 0.09),
    (0.9, 0.15),
)
"""Correlation and alpha of the table's rows; the paper's setting is not known, these are the research note's and some more."""
DRAWS = 8
"""Draws of correlation and alpha per sampled size."""
SHOWN = ((0.0, 0.05), (0.3, 0.05), (0.5, 0.02), (0.7, 0.05), (0.9, 0.09))
"""Those whose paths are drawn."""
NOTED = {
    "original": ([(3.93, -0.74)], [5.125]),
    "retrained": ([(3.83, -0.79), (3.85, -1.76)], [5.038, 9.615]),
    "ascent": ([(3.91, -1.85)], [1.647]),
}
"""The trap's minima by an independent program: weights and losses."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the example, of the samples and of the grid."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the sampled examples on which closed forms and lemmas are checked."""
    num_examples: int = 100
    """Sizes per seed; eight correlations and alphas are drawn for each."""
    num_retain: int = 1000
    """Retained samples of the example whose paths are followed."""
    num_forget: int = 100
    """Its forget samples."""
    num_active: int = 50
    """Its active retained samples."""
    ridge: float = 0.01
    """Its ridge."""
    learning_rate: float = 0.5
    """Of its descent-ascent."""
    num_steps: int = 8000
    """Of its descent-ascent."""
    grid: int = 40
    """Values of the correlation, and of alpha, in the picture."""
    fine_tuning_steps: int = 200_000
    """Of fine-tuning out of the trap."""


# --- sampled examples
# ----------------------------------------------------------------------------------------------------


def sampled(seed: int, count: int) -> dict[str, np.ndarray]:
    """Closed forms against solvers that know no Lambert function, and the lemmas, on ``count`` sizes x 8 draws.

    Returns:
      ``shared_error`` and ``pair_error [count, 3, 8]`` differences of original,
      retrained and ascent minimizers; ``lemma4``, ``lemma5 [count, 8]`` bool;
      ``held [count, 4, 8]`` whether the ordering holds at a random alpha in the range
      of lemma 3, of lemma 9 as printed, of lemma 9 without its second term, and below
      the latter; NaN where a range is empty.
    """
    rng = np.random.default_rng(seed)
    rows = [_example(rng) for _ in range(count)]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _example(rng: np.random.Generator) -> dict[str, np.ndarray]:
    retain = int(10 ** rng.uniform(1.5, 4))
    forget, active = (max(1, int(retain * 10 ** rng.uniform(-2, 0))) for _ in range(2))
    size, eps = (
        Sizes(retain, forget, active, 10 ** rng.uniform(-3, 0)),
        rng.uniform(0.01, 0.98, DRAWS),
    )
    alpha = testbeds.alpha_limit(size) * rng.uniform(0, 0.98, DRAWS)
    shared, forces = (
        testbeds.shared_minimizers(size, alpha),
        testbeds.forces(size, alpha),
    )
    zeros = [[_zero(total) for total in force.sum(-1) / size.ridge] for force in forces]
    above = testbeds.shared_minimizers(size, forget / retain * rng.uniform(1, 3, DRAWS))
    low, limit = testbeds.harmful_range(size, eps)
    wide = first_term(size, eps)
    ends = [
        (*testbeds.harmful_range(size), None),
        (low, limit, eps),
        (wide, limit, eps),
    ]
    ends += [(0 * eps, np.minimum(wide, limit), eps)]
    return {
        "shared_error": np.abs(np.array(zeros) - np.array(shared[:3])),
        "pair_error": _pair_errors(size, limit * rng.uniform(0, 0.98, DRAWS), eps),
        "lemma4": (
            np.abs(shared.retrained - shared.original)
            <= np.abs(np.log((1 + alpha) * retain / size.num_all)) + 1e-9
        ),
        "lemma5": np.abs(above.retrained - above.ascent) >= above.retrained - 1e-9,
        "held": np.array([_held(size, rng, *end) for end in ends]),
    }


def first_term(size: Sizes, eps: np.ndarray) -> np.ndarray:
    """Lemma 9's lower end of alpha without its second term."""
    return size.num_forget**2 / (
        2 * eps / (1 + eps**2) * size.num_retain * (size.num_forget + size.num_all)
    )


def _held(
    size: Sizes,
    rng: np.random.Generator,
    low: np.ndarray,
    high: np.ndarray,
    eps: np.ndarray | None,
) -> np.ndarray:
    alpha = low + rng.uniform(size=DRAWS) * (high - low)
    there = np.broadcast_to(low <= high, alpha.shape)
    return np.where(
        there, testbeds.ordering_holds(size, np.where(there, alpha, 0.0), eps), np.nan
    )


def _zero(total: float) -> float:
    """The larger zero of ``w - total exp(-w)``, by Brent's method."""
    from scipy.optimize import brentq

    low, high = (-1.0, 0.0) if total < 0 else (-1e-9, 1.0 + total)
    return float(brentq(lambda w: w - total * math.exp(-w), low, high, xtol=1e-13))  # pyright: ignore[reportArgumentType]


def _pair_errors(size: Sizes, alpha: np.ndarray, eps: np.ndarray) -> np.ndarray:
    """Newton's method on the gradient, both forces raised in small steps from 0, the forget samples' last: ``[3, 8]``."""
    toward, errors = (
        np.stack([np.stack([eps**0, eps], -1), np.stack([eps, eps**0], -1)], 1),
        [],
    )
    stages = [(t, 0.0) for t in np.linspace(0.05, 1, 20)] + [
        (1.0, t) for t in np.linspace(0.05, 1, 20)
    ]
    for force, found in zip(
        testbeds.forces(size, alpha),
        testbeds.pair_minimizers(size, alpha, eps),
        strict=True,
    ):
        weights = np.zeros((DRAWS, 2))
        for stage in stages:
            for _ in range(30 if stage == stages[-1] else 8):
                pull = force * stage * np.exp(-np.einsum("gsd,gd->gs", toward, weights))
                hessian = size.ridge * np.eye(2) + np.einsum(
                    "gs,gsd,gse->gde", pull, toward, toward
                )
                slope = size.ridge * weights - np.einsum("gs,gsd->gd", pull, toward)
                step = np.linalg.solve(hessian, slope[..., None])[..., 0]
                weights = weights - step * np.minimum(
                    1, 1 / np.abs(step).max(-1, keepdims=True, initial=1e-300)
                )
        errors.append(np.abs(weights - found).max(-1))
    return np.array(errors)


# --- paths of descent-ascent
# -----------------------------------------------------------------------------------------------


def followed(
    size: Sizes,
    eps: np.ndarray,
    alpha: np.ndarray,
    rate: float,
    num_steps: int,
    every: int = 0,
) -> Arrays:
    """Distances from the oracle along descent-ascent from the original, for each pair of a correlation and an alpha.

    Returns:
      ``start``, ``best``, ``best_step``, ``last`` ``[2, G]``, of simultaneous and
      alternating steps (the best stop is not before the first step);
      ``distance [2, G, num_steps / every + 1]`` if ``every`` is not 0.
    """
    pair = testbeds.pair_minimizers(size, alpha, eps)

    @partial(jax.jit, static_argnums=4)
    @partial(jax.vmap, in_axes=(0, 0, 0, 0, None))
    def run(
        force: jax.Array,
        eps: jax.Array,
        start: jax.Array,
        oracle: jax.Array,
        alternating: bool,
    ) -> dict:
        path = testbeds.gradient_path(
            force,
            testbeds.directions(eps),
            size.ridge,
            start,
            learning_rate=rate,
            num_steps=num_steps,
            alternating=alternating,
        )
        away = testbeds.distances(path, oracle)
        found = {
            "start": away[0],
            "best": jnp.min(away[1:]),
            "best_step": 1 + jnp.argmin(away[1:]),
            "last": away[-1],
        }
        return found | ({"distance": away[::every]} if every else {})

    force = testbeds.forces(size, alpha).ascent
    inputs = [
        jnp.asarray(part, jnp.float32)
        for part in (force, eps, pair.original, pair.retrained)
    ]
    both = [run(*inputs, alternating) for alternating in (False, True)]
    return {
        name: np.stack([np.asarray(side[name]) for side in both]) for name in both[0]
    }


def pair_paths(config: Config) -> Arrays:
    eps, alpha = np.array(ROWS).T
    found = followed(
        _size(config), eps, alpha, config.learning_rate, config.num_steps, every=1
    )
    return {**found, "limit": testbeds.alpha_limit(_size(config), eps)}


def pair_grid(config: Config) -> Arrays:
    eps = np.linspace(0, 0.95, config.grid)
    top = 1.2 * float(testbeds.alpha_limit(_size(config), 0.95))
    alpha = np.linspace(top / config.grid, top, config.grid)
    mesh = np.meshgrid(eps, alpha, indexing="ij")
    found = followed(
        _size(config),
        mesh[0].ravel(),
        mesh[1].ravel(),
        config.learning_rate,
        min(config.num_steps, 2000),
    )
    return {**found, "eps": eps, "alpha": alpha}


def _size(config: Config) -> Sizes:
    return Sizes(config.num_retain, config.num_forget, config.num_active, config.ridge)


# --- the trap
# --------------------------------------------------------------------------------------------------------------


def trap(config: Config) -> Arrays:
    """The minima of the three objectives, the paths between them, and the retrained objective as a landscape."""
    found = {}
    for name, counts in COUNTS.items():
        minima = testbeds.trap_minima(counts)
        found |= {f"{name}/{field}": value for field, value in minima._asdict().items()}
        found[f"{name}/ridge2"] = np.array(
            len(testbeds.trap_minima(counts, ridge=0.2).losses)
        )

    def walk(start: np.ndarray, name: str, steps: int) -> np.ndarray:
        return np.asarray(
            testbeds.trap_path(
                start, jnp.asarray(COUNTS[name]), num_steps=steps, stride=steps // 2000
            )
        )

    scratch = np.array([0.1, 0.1])
    found["path/train"] = walk(scratch, "original", 20_000)
    found["path/scratch"] = walk(scratch, "retrained", 20_000)
    found["path/retrain"] = walk(found["path/train"][-1], "retrained", 20_000)
    found["path/ascent"] = walk(found["path/train"][-1], "ascent", 20_000)
    found["path/fine-tune"] = walk(
        found["path/ascent"][-1], "retrained", config.fine_tuning_steps
    )
    a, b = np.linspace(2.6, 5.2, 140), np.linspace(-2.5, 0.1, 140)
    weights = np.stack(np.meshgrid(a, b), -1)
    found |= {
        "a": a,
        "b": b,
        "landscape": testbeds.trap_loss(weights, COUNTS["retrained"]),
    }
    return {name: np.asarray(value) for name, value in found.items()}


# --- the page
# --------------------------------------------------------------------------------------------------------------


def make_parts(config: Config) -> dict[str, Part]:
    if (
        not config.seeds
        or config.num_examples < 1
        or config.grid < 2
        or config.num_steps < 1
    ):
        raise InputError(
            "ascent_theory needs at least one seed and example, a grid of 2 and one"
            " step: raise what is too small"
        )
    if config.fine_tuning_steps < 2000 or config.fine_tuning_steps % 2000:
        raise InputError(
            "fine_tuning_steps must be a multiple of 2,000: so many weights are kept of"
            " every path"
        )
    _size(config)
    names = (
        "num_retain",
        "num_forget",
        "num_active",
        "ridge",
        "learning_rate",
        "num_steps",
    )
    example = {name: getattr(config, name) for name in names}
    samples = {
        f"sampled-{seed}": Part(
            {"seed": seed, "count": config.num_examples},
            partial(sampled, seed, config.num_examples),
        )
        for seed in config.seeds
    }
    return {
        **samples,
        "paths": Part({**example, "rows": ROWS}, partial(pair_paths, config)),
        "grid": Part({**example, "grid": config.grid}, partial(pair_grid, config)),
        "trap": Part(
            {"fine_tuning_steps": config.fine_tuning_steps}, partial(trap, config)
        ),
    }


def stopping_table(paths: Arrays) -> Table:
    rows = []
    for i, (eps, alpha) in enumerate(ROWS):
        start, ends = float(paths["start"][0, i]), paths["last"][:, i]
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
            "do nothing",
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
    held = (
        np.concatenate([part["held"] for part in samples]).swapaxes(1, 2).reshape(-1, 4)
    )
    labels = [
        "one shared coordinate, lemma 3's range",
        "two coordinates, lemma 9's range",
        "two coordinates, lemma 9 without its second term",
        "two coordinates, alpha below that",
    ]
    rows = []
    for label, column in zip(labels, held.T, strict=True):
        there = ~np.isnan(column)
        rows.append(
            [
                label,
                int(there.sum()),
                int((column[there] == 1).sum()),
                float(100 * column[there].mean()),
            ]
        )
    return Table(
        "Descent-ascent ends on the far side of the original: sampled examples",
        ["alpha in", "examples with such an alpha", "ordering holds", "%"],
        rows,
        f"{len(held)} random examples: |R| from 31 to 10,000, |F| and b from 1 to 100 %"
        " of it, ridge from 0.001 to 1, eps from 0.01 to 0.98, all but eps on a"
        " logarithmic scale; alpha uniform in the range. The third row is not a"
        " lemma.",
    )


def trap_table(found: Arrays) -> Table:
    labels = {
        "original": "original (5, 4, 1, 4)",
        "retrained": "retrained (5, 4, 1, 2)",
        "ascent": "descent-ascent (5, 4, 1, 0)",
    }
    rows = []
    for name, label in labels.items():
        for k, (weights, loss) in enumerate(
            zip(found[f"{name}/weights"], found[f"{name}/losses"], strict=True)
        ):
            signs = " ".join(
                "+" if sign > 0 else "-" for sign in found[f"{name}/signs"][k]
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
    there = eps[low <= high]
    return (
        f"lemma 9's own range begins at eps {there[0]:.2f}"
        if there.size
        else "lemma 9's own range is empty here"
    )


def grid_figure(grid: Arrays, size: Sizes) -> Drawing:
    figure = Drawing(figsize=(9.2, 4.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    eps, alpha, shape = (
        grid["eps"],
        grid["alpha"],
        (len(grid["eps"]), len(grid["alpha"])),
    )
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
    bar.set_label("best stop / do nothing", color=INK)
    bar.ax.tick_params(color=MUTED, labelcolor=INK)
    return figure


def path_figure(paths: Arrays) -> Drawing:
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
        ylabel="distance / do nothing",
    )
    figure.legend(
        loc="outside right upper", frameon=False, labelcolor=INK, fontsize=9.5
    )
    return figure


def trap_figure(found: Arrays) -> Drawing:
    figure = Drawing(figsize=(9.2, 4.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
    dress(left, "The retrained objective, and the ways on it", grid="both")
    levels = [5.1, 5.4, 5.8, 6.3, 7, 8, 9, 9.66, 9.8, 10.2, 11, 12, 13, 14]
    left.contour(
        found["a"],
        found["b"],
        found["landscape"],
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
            *found[f"path/{name}"].T,
            color=color,
            lw=2.2,
            ls=dash,
            label=label,
            zorder=3,
        )
    spots = {
        "original": (found["original/weights"][0], MUTED, "o"),
        "oracle": (found["retrained/weights"][0], COLORS[2], "*"),
        "ascent's minimum": (found["ascent/weights"][0], COLORS[1], "s"),
        "the trap": (found["retrained/weights"][1], COLORS[0], "D"),
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
        xlim=(found["a"][0], found["a"][-1]),
        ylim=(found["b"][0], found["b"][-1]),
        xlabel="a",
        ylabel="b",
    )
    figure.legend(
        *left.get_legend_handles_labels(),
        loc="outside upper left",
        ncols=4,
        frameon=False,
        labelcolor=INK,
        fontsize=9.5,
    )
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


def make_page(config: Config, found: Mapping[str, Arrays]) -> Page:
    samples = [found[f"sampled-{seed}"] for seed in config.seeds]
    paths, toy, grid = found["paths"], found["trap"], found["grid"]
    helps = paths["best"][0] < paths["start"][0]
    harmful = (grid["best"][0] >= grid["start"][0]).mean()
    escaped = float(
        np.linalg.norm(toy["path/fine-tune"][-1] - toy["retrained/weights"][0])
    )
    summary = (
        "On two correlated coordinates the best of all stopping times comes nearer to"
        f" the retrained weights than doing nothing in {int(helps.sum())} of"
        f" {len(ROWS)} settings; on the grid of correlations and alphas no stop helps"
        f" in {100 * harmful:.0f} % of the cells. In the toy descent-ascent ends in a"
        f" minimum from where {config.fine_tuning_steps:,} steps of fine-tuning on the"
        f" retained samples reach a loss of {toy['retrained/losses'][-1]:.2f}, where"
        f" retraining finds {toy['retrained/losses'][0]:.2f}."
    )
    ratio = paths["best"][0] / paths["start"][0]
    pictures = [
        Figure(
            "Where early stopping helps",
            grid_figure(grid, _size(config)),
            "Two heat maps over correlation and alpha; no stop helps in"
            f" {100 * harmful:.0f} % of the left one.",
            "Blue: the best stop is nearer to the retrained weights than the original"
            " is; red: further away, already after one step. Full line: as near."
            " Dashed: above it descent-ascent diverges (right: with twice the ridge)."
            " Dotted: from there to the dashed line both margins end below the"
            f" original's on every sampled example; {_lemma_9(_size(config))}.",
        ),
        Figure(
            "Paths",
            path_figure(paths),
            "Distances over steps; best stop over do nothing: "
            + ", ".join(
                f"{ratio[ROWS.index(row)]:.2f} at eps {row[0]:g}, alpha {row[1]:g}"
                for row in SHOWN
            ),
            "Below the dotted line: nearer to the retrained weights than doing"
            " nothing.",
        ),
        Figure(
            "The trap",
            trap_figure(toy),
            "Contours of the retrained objective with two minima; fine-tuning after"
            f" descent-ascent ends {escaped:.2f} away from the retrained weights.",
            "Left: contours of the loss on the retained samples. Right: what each model"
            " predicts; dots are the samples, sized by how many are retained. At x = 4"
            " the original says +, as does the oracle; the trap says -.",
        ),
    ]
    tables = [stopping_table(paths), order_table(samples), trap_table(toy)]
    return Page(summary, [*tables, *pictures, *_checks(samples, toy)])


def _checks(samples: list[Arrays], toy: Arrays) -> list[Check]:
    shared, pair = (
        max(float(part[f"{name}_error"].max()) for part in samples)
        for name in ("shared", "pair")
    )
    held = np.concatenate([part["held"] for part in samples])
    broken = [int((held[:, i] == 0).sum()) for i in range(3)]
    lemmas = [
        bool(all(part[name].all() for part in samples)) for name in ("lemma4", "lemma5")
    ]
    misses = [
        (
            float(np.abs(toy[f"{name}/weights"] - np.array(weights)).max())
            if len(toy[f"{name}/losses"]) == len(losses)
            else math.inf
        )
        for name, (weights, losses) in NOTED.items()
    ]
    ways = {
        "train": toy["original/weights"][0],
        "retrain": toy["retrained/weights"][0],
        "scratch": toy["retrained/weights"][0],
    }
    ways |= {
        "ascent": toy["ascent/weights"][0],
        "fine-tune": toy["retrained/weights"][-1],
    }
    off = max(
        float(np.linalg.norm(toy[f"path/{name}"][-1] - end))
        for name, end in ways.items()
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
        Check("The bounds of lemmas 4 and 5 hold on all sampled examples", all(lemmas)),
        Check(
            "The toy has exactly the minima of an independent program",
            max(misses) < 6e-3,
            f"largest difference {max(misses):.1e}",
        ),
        Check(
            "Every path ends in its minimum, fine-tuning in the trap",
            off < 3e-3,
            f"at most {off:.1e} away",
        ),
        Check(
            "With twice the ridge the trap is gone",
            int(toy["retrained/ridge2"]) == 1,
            f"{int(toy['retrained/ridge2'])} minimum",
        ),
    ]


EXPERIMENT = Experiment(
    "Ascent fails to forget: examples that can be solved",
    Config(),
    make_parts,
    make_page,
)
