"""Ascent on examples that can be solved: closed forms, paths, and a trap.

The examples are logistic regression on one shared or two correlated coordinates, where
the minimizers of the original, the retained and the descent-ascent objective are known,
and a small network in which descent-ascent ends in a minimum that fine-tuning cannot
leave.
"""

import dataclasses
import math
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.checks import check_counts, check_positive
from unlearn_jax.contrib import testbeds
from unlearn_jax.contrib.testbeds import COUNTS, Sizes
from unlearn_jax.pipeline import Artifact
from unlearn_jax.studies.common import Arrays, check_distinct
from unlearn_jax.types import InputError

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
"""Correlation and alpha of the table's rows; the paper's setting is not known."""

DRAWS = 8
"""Draws of correlation and alpha for each sampled example size."""

SHOWN = ((0.0, 0.05), (0.3, 0.05), (0.5, 0.02), (0.7, 0.05), (0.9, 0.09))
"""Rows of :data:`ROWS` whose paths are drawn."""

NOTED = {
    "original": ([(3.93, -0.74)], [5.125]),
    "retrained": ([(3.83, -0.79), (3.85, -1.76)], [5.038, 9.615]),
    "ascent": ([(3.91, -1.85)], [1.647]),
}
"""Minima of the trap from an independent program: weights and losses."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the example, of the sampled examples and of the grid."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the sampled examples that check closed forms and lemmas."""
    num_examples: int = 100
    """Sampled sizes per seed; eight correlations and alphas are drawn for each."""
    num_retain: int = 1000
    """Number of retained samples in the example with paths."""
    num_forget: int = 100
    """Number of forget samples in the example."""
    num_active: int = 50
    """Number of active retained samples in the example."""
    ridge: float = 0.01
    """Ridge penalty of the example."""
    learning_rate: float = 0.5
    """Learning rate of descent-ascent."""
    num_steps: int = 8000
    """Steps of descent-ascent."""
    grid: int = 40
    """Number of correlations, and of alphas, in the heat map."""
    fine_tuning_steps: int = 200_000
    """Steps of fine-tuning from the trap."""


def sampled(seed: int, count: int) -> dict[str, np.ndarray]:
    """Compare closed forms with numerical solvers, and test the lemmas.

    Args:
      seed: seed of the examples.
      count: number of sizes; eight correlations and alphas are drawn for each.

    Returns:
      ``shared_error`` and ``pair_error`` ``[count, 3, 8]``: errors of the closed forms
      of the original, retrained and ascent minimizers. ``lemma4`` and ``lemma5``
      ``[count, 8]`` bool: whether the lemmas hold. ``held`` ``[count, 4, 8]``: 1 where
      the ordering holds at a random alpha from four ranges: that of lemma 3, that of
      lemma 9 as printed, that of lemma 9 without its second term, and the values below
      the latter range. NaN where a range is empty.
    """
    rng = np.random.default_rng(seed)
    rows = [_example(rng) for _ in range(count)]
    return jax.tree.map(lambda *values: np.array(values), *rows)


def _example(rng: np.random.Generator) -> dict[str, np.ndarray]:
    retain = int(10 ** rng.uniform(1.5, 4))
    forget = max(1, int(retain * 10 ** rng.uniform(-2, 0)))
    active = max(1, int(retain * 10 ** rng.uniform(-2, 0)))
    size = Sizes(retain, forget, active, 10 ** rng.uniform(-3, 0))
    eps = rng.uniform(0.01, 0.98, DRAWS)
    alpha = testbeds.alpha_limit(size) * rng.uniform(0, 0.98, DRAWS)
    shared = testbeds.shared_minimizers(size, alpha)
    forces = testbeds.forces(size, alpha)
    totals = np.array([force.sum(-1) / size.ridge for force in forces])
    zeros = np.vectorize(_zero)(totals)
    above = testbeds.shared_minimizers(size, forget / retain * rng.uniform(1, 3, DRAWS))
    low, limit = testbeds.harmful_range(size, eps)
    wide = first_term(size, eps)
    ranges = [
        (*testbeds.harmful_range(size), None),
        (low, limit, eps),
        (wide, limit, eps),
        (0 * eps, np.minimum(wide, limit), eps),
    ]
    return {
        "shared_error": np.abs(zeros - np.array(shared[:3])),
        "pair_error": _pair_errors(size, limit * rng.uniform(0, 0.98, DRAWS), eps),
        "lemma4": (
            np.abs(shared.retrained - shared.original)
            <= np.abs(np.log((1 + alpha) * retain / size.num_all)) + 1e-9
        ),
        "lemma5": np.abs(above.retrained - above.ascent) >= above.retrained - 1e-9,
        "held": np.array([_ordering(size, rng, *limits) for limits in ranges]),
    }


def first_term(size: Sizes, eps: np.ndarray) -> np.ndarray:
    """Return lemma 9's lower bound on alpha, without its second term."""
    return size.num_forget**2 / (
        2 * eps / (1 + eps**2) * size.num_retain * (size.num_forget + size.num_all)
    )


def _ordering(
    size: Sizes,
    rng: np.random.Generator,
    low: np.ndarray,
    high: np.ndarray,
    eps: np.ndarray | None,
) -> np.ndarray:
    alpha = low + rng.uniform(size=DRAWS) * (high - low)
    is_range = np.broadcast_to(low <= high, alpha.shape)
    holds = testbeds.ordering_holds(size, np.where(is_range, alpha, 0.0), eps)
    return np.where(is_range, holds, np.nan)


def _zero(total: float) -> float:
    """Return the larger zero of ``w - total exp(-w)``, by Brent's method."""
    from scipy.optimize import brentq

    def gradient(w: float) -> float:
        return w - total * math.exp(-w)

    low, high = (-1.0, 0.0) if total < 0 else (-1e-9, 1.0 + total)
    return float(cast(float, brentq(gradient, low, high, xtol=1e-13)))


def _pair_errors(size: Sizes, alpha: np.ndarray, eps: np.ndarray) -> np.ndarray:
    """Return the errors ``[3, 8]`` of the closed forms of two coordinates.

    The reference minimizers come from Newton's method on the gradient. To keep it
    convergent, both forces are raised from 0 in small steps, the forget samples' force
    last.
    """
    ones = np.ones_like(eps)
    toward = np.stack([np.stack([ones, eps], -1), np.stack([eps, ones], -1)], 1)
    rising = np.linspace(0.05, 1, 20)
    stages = [(t, 0.0) for t in rising] + [(1.0, t) for t in rising]
    minimizers = testbeds.pair_minimizers(size, alpha, eps)
    errors = []
    for force, minimizer in zip(testbeds.forces(size, alpha), minimizers, strict=True):
        weights = np.zeros((DRAWS, 2))
        for stage in stages:
            for _ in range(30 if stage == stages[-1] else 8):
                pull = force * stage * np.exp(-np.einsum("gsd,gd->gs", toward, weights))
                hessian = size.ridge * np.eye(2) + np.einsum(
                    "gs,gsd,gse->gde", pull, toward, toward
                )
                slope = size.ridge * weights - np.einsum("gs,gsd->gd", pull, toward)
                step = np.linalg.solve(hessian, slope[..., None])[..., 0]
                length = np.abs(step).max(-1, keepdims=True, initial=1e-300)
                weights = weights - step * np.minimum(1, 1 / length)
        errors.append(np.abs(weights - minimizer).max(-1))
    return np.array(errors)


def follow(
    size: Sizes,
    eps: np.ndarray,
    alpha: np.ndarray,
    rate: float,
    num_steps: int,
    every: int = 0,
) -> Arrays:
    """Follow descent-ascent from the original weights.

    Args:
      size: sizes of the example.
      eps: ``[G]`` correlations.
      alpha: ``[G]`` weights of the ascent.
      rate: learning rate.
      num_steps: number of steps of every path.
      every: steps between two stored distances; 0 stores no distances.

    Returns:
      Arrays ``[2, G]``, for simultaneous and for alternating steps: distances from the
      retrained weights before the first step (``start``), after the best step
      (``best``) and after the last step (``last``), and the number of the best step
      (``best_step``, at least 1). With ``every``, also ``distance``
      ``[2, G, num_steps / every + 1]``.
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
        arrays = {
            "start": away[0],
            "best": jnp.min(away[1:]),
            "best_step": 1 + jnp.argmin(away[1:]),
            "last": away[-1],
        }
        return arrays | ({"distance": away[::every]} if every else {})

    force = testbeds.forces(size, alpha).ascent
    inputs = [
        jnp.asarray(part, jnp.float32)
        for part in (force, eps, pair.original, pair.retrained)
    ]
    both = [run(*inputs, alternating) for alternating in (False, True)]
    return jax.tree.map(lambda *sides: np.stack(sides), *both)


def pair_paths(config: Config) -> Arrays:
    """Return the paths of all :data:`ROWS`, and ``limit``, the largest alpha."""
    eps, alpha = np.array(ROWS).T
    size = size_of(config)
    paths = follow(size, eps, alpha, config.learning_rate, config.num_steps, every=1)
    return {**paths, "limit": testbeds.alpha_limit(size, eps)}


def pair_grid(config: Config) -> Arrays:
    """Return the results of :func:`follow` on a grid of correlations and alphas."""
    size = size_of(config)
    eps = np.linspace(0, 0.95, config.grid)
    top = 1.2 * float(testbeds.alpha_limit(size, 0.95))
    alpha = np.linspace(top / config.grid, top, config.grid)
    mesh = np.meshgrid(eps, alpha, indexing="ij")
    num_steps = min(config.num_steps, 2000)
    rate = config.learning_rate
    paths = follow(size, mesh[0].ravel(), mesh[1].ravel(), rate, num_steps)
    return {**paths, "eps": eps, "alpha": alpha}


def size_of(config: Config) -> Sizes:
    """Return the sizes of the example with paths."""
    return Sizes(config.num_retain, config.num_forget, config.num_active, config.ridge)


def trap(config: Config) -> Arrays:
    """Return the minima of the three objectives, paths between them, and a landscape.

    Returns:
      For each of ``original``, ``retrained`` and ``ascent``: ``NAME-FIELD``, the fields
      of :class:`unlearn_jax.contrib.testbeds.TrapMinima`, and ``NAME-ridge2``, the
      number of minima at twice the ridge. Also ``path-NAME`` ``[2001, 2]``, weights
      along the paths; and ``landscape`` ``[140, 140]``, the retrained loss at the
      weights ``a`` and ``b``.
    """
    arrays = {}
    for name, counts in COUNTS.items():
        minima = testbeds.trap_minima(counts)
        arrays |= {
            f"{name}-{field}": value for field, value in minima._asdict().items()
        }
        arrays[f"{name}-ridge2"] = np.array(
            len(testbeds.trap_minima(counts, ridge=0.2).losses)
        )

    def walk(start: np.ndarray, name: str, steps: int) -> np.ndarray:
        return np.asarray(
            testbeds.trap_path(
                start, jnp.asarray(COUNTS[name]), num_steps=steps, stride=steps // 2000
            )
        )

    scratch = np.array([0.1, 0.1])
    arrays["path-train"] = walk(scratch, "original", 20_000)
    arrays["path-scratch"] = walk(scratch, "retrained", 20_000)
    arrays["path-retrain"] = walk(arrays["path-train"][-1], "retrained", 20_000)
    arrays["path-ascent"] = walk(arrays["path-train"][-1], "ascent", 20_000)
    arrays["path-fine-tune"] = walk(
        arrays["path-ascent"][-1], "retrained", config.fine_tuning_steps
    )
    a = np.linspace(2.6, 5.2, 140)
    b = np.linspace(-2.5, 0.1, 140)
    weights = np.stack(np.meshgrid(a, b), -1)
    arrays |= {
        "a": a,
        "b": b,
        "landscape": testbeds.trap_loss(weights, COUNTS["retrained"]),
    }
    return {name: np.asarray(value) for name, value in arrays.items()}


def make_artifacts(config: Config) -> list[Artifact]:
    """Return sampled examples per seed, paths, a grid of paths, and the trap.

    Raises:
      InputError: no seeds or equal ones, numbers out of range, or a number of
        fine-tuning steps that is not a multiple of 2,000.
    """
    check_distinct(seeds=config.seeds)
    check_counts(num_examples=config.num_examples, num_steps=config.num_steps)
    check_positive(learning_rate=config.learning_rate)
    if config.grid < 2:
        raise InputError(f"ascent_theory needs a grid of 2 or more, got {config.grid}")
    if config.fine_tuning_steps < 2000 or config.fine_tuning_steps % 2000:
        raise InputError(
            f"fine_tuning_steps is {config.fine_tuning_steps}: pass a multiple of"
            " 2,000, the number of weights stored for every path"
        )
    size_of(config)
    names = (
        "num_retain",
        "num_forget",
        "num_active",
        "ridge",
        "learning_rate",
        "num_steps",
    )
    example = {name: getattr(config, name) for name in names}
    artifacts = []
    for seed in config.seeds:
        artifacts.append(
            Artifact(
                name=f"sampled-{seed}",
                settings={"seed": seed, "count": config.num_examples},
                compute=partial(sampled, seed, config.num_examples),
            )
        )
    paths = Artifact(
        name="paths",
        settings={**example, "rows": ROWS},
        compute=partial(pair_paths, config),
    )
    grid = Artifact(
        name="grid",
        settings={**example, "grid": config.grid},
        compute=partial(pair_grid, config),
    )
    toy = Artifact(
        name="trap",
        settings={"fine_tuning_steps": config.fine_tuning_steps},
        compute=partial(trap, config),
    )
    return [*artifacts, paths, grid, toy]
