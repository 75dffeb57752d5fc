"""AMUN's search over radii two ways, at equal success: grid and doubling.

Grid attacks in all radii at once, doubling radius by radius the unsolved images.

Command: python experiments/benchmarks/epsilon_search.py
Results: ``experiments/results/epsilon_search.json``

A CNN 16-32-64 trained on random 32x32x3 class templates; 64 images, radii 0.04 * 2^k,
50 steps each. Seconds of the second call; the first includes the compilation.
"""

import os
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax import attacks, models, train
from unlearn_jax.types import Dataset

SEARCHES = {
    "doubling, 12 radii": attacks.Doubling(num_radii=12, batch_size=64),
    "grid, 6 radii": attacks.Grid(num_radii=6, batch_size=64),
    "grid, 12 radii": attacks.Grid(num_radii=12, batch_size=64),
}


def trained_model(count: int = 64) -> tuple:
    """Train a network that fits noisy templates, so that radii differ between images.

    Args:
      count: images to return.

    Returns:
      The model, its variables, images and labels.
    """
    rng = np.random.default_rng(0)
    labels = np.arange(1024) % 10
    templates = rng.uniform(0.3, 0.7, (10, 32, 32, 3))
    noise = rng.normal(0, 0.1, (1024, 32, 32, 3))
    images = np.clip(templates[labels] + noise, 0, 1).astype(np.float32)
    model = models.build("cnn", (32, 32, 3), 10, widths=(16, 32, 64))
    recipe = train.Recipe(12, 64, train.sgd(0.05))
    state, _ = train.fit(
        jax.random.key(0),
        model,
        Dataset(images, labels.astype(np.int32)),
        np.ones(1024, bool),
        recipe,
    )
    return (
        model,
        state.variables,
        jnp.asarray(images[:count]),
        jnp.asarray(labels[:count], jnp.int32),
    )


def main() -> None:
    """Time the searches and compare their results."""
    model, variables, images, labels = trained_model()
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, Python"
        f" {platform.python_version()}, jax {jax.__version__}"
    )
    results = {}
    steady = {}
    for name, search in SEARCHES.items():
        attack = attacks.PGD(search=search)
        run = jax.jit(
            lambda variables, attack=attack: attack(
                model.apply, variables, images, labels
            )
        )
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            results[name] = jax.block_until_ready(run(variables))
            seconds.append(time.perf_counter() - began)
        steady[name] = seconds[1]
        print(
            f"{name:22} {seconds[1]:7.2f} s  first {seconds[0]:5.1f} s "
            f" {attacks.status_counts(results[name])}"
        )
    doubling = results["doubling, 12 radii"]
    grid = results["grid, 12 radii"]
    same = np.mean(np.asarray(doubling.epsilon) == np.asarray(grid.epsilon))
    ratio = steady["grid, 12 radii"] / steady["doubling, 12 radii"]
    print(
        f"same radius on {100 * same:.1f}% of images; median distance"
        f" {float(jnp.median(doubling.distance)):.3f} and"
        f" {float(jnp.median(grid.distance)):.3f};"
        f" grid (12) takes {ratio:.1f} times doubling's time"
    )


if __name__ == "__main__":
    main()
