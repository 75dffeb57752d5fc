"""AMUN's search over radii two ways, at equal success: all radii at once (grid) and doubling.

Command:  python experiments/benchmarks/epsilon_search.py

A CNN 16-32-64 trained on random 32x32x3 class templates; 64 images, radii 0.04 * 2^k,
50 steps each. Seconds of the second call; the first is shown apart as compile + first
call.

Measured on 2 CPU cores (x86-64, AVX-512), Python 3.11, JAX 0.10.2, one run:

    doubling, 12 radii          9.0 s  first  13.0 s  64 of 64 found
    grid, 6 radii              11.1 s  first  14.2 s  64 of 64 found
    grid, 12 radii             17.5 s  first  23.9 s  64 of 64 found, same radius on all, median distance 0.279 for both
"""

import os
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax import attacks, models, train
from unlearn_jax.types import Dataset


def trained_model(count: int = 64) -> tuple:
    """A network that fits noisy templates, so that radii differ between images; and so many of these."""
    rng = np.random.default_rng(0)
    labels = np.arange(1024) % 10
    templates = rng.uniform(0.3, 0.7, (10, 32, 32, 3))
    images = np.clip(
        templates[labels] + rng.normal(0, 0.1, (1024, 32, 32, 3)), 0, 1
    ).astype(np.float32)
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
    model, variables, x, y = trained_model()
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, Python"
        f" {platform.python_version()}, jax {jax.__version__}"
    )
    results, steady = {}, {}
    for search, num_radii in (("doubling", 12), ("grid", 6), ("grid", 12)):
        run = jax.jit(
            lambda v, search=search, num_radii=num_radii: attacks.adversarial_set(
                model.apply, v, x, y, search=search, num_radii=num_radii, batch_size=64
            )
        )
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            result = jax.block_until_ready(run(variables))
            seconds.append(time.perf_counter() - began)
        first, rest = seconds
        name = f"{search}, {num_radii} radii"
        results[name], steady[name] = result, rest
        print(
            f"{name:22} {rest:7.2f} s  first {first:5.1f} s "
            f" {attacks.status_counts(result)}"
        )
    a, b = results["doubling, 12 radii"], results["grid, 12 radii"]
    same = np.mean(np.asarray(a.epsilon) == np.asarray(b.epsilon))
    ratio = steady["grid, 12 radii"] / steady["doubling, 12 radii"]
    print(
        f"same radius on {100 * same:.1f}% of images; median distance"
        f" {float(jnp.median(a.distance)):.3f} and {float(jnp.median(b.distance)):.3f};"
        f" grid (12) takes {ratio:.1f} times doubling's time"
    )


if __name__ == "__main__":
    main()
