"""AMUN's search over radii two ways, at equal success: all radii at once (grid) and doubling.

Command:  python experiments/benchmarks/epsilon_search.py

A CNN 16-32-64 trained on random 32x32x3 class templates; 128 images, radii 0.04 * 2^k, 50 steps each. Seconds are the
minimum / maximum of 2 calls after the first, which is shown apart as compile + first call.
"""

import os
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax import attacks, models, train
from unlearn_jax.types import Dataset


def trained_model() -> tuple:
    """A network that fits noisy templates, so that radii differ between images."""
    rng = np.random.default_rng(0)
    labels = np.arange(1024) % 10
    templates = rng.uniform(0.3, 0.7, (10, 32, 32, 3))
    images = np.clip(templates[labels] + rng.normal(0, 0.2, (1024, 32, 32, 3)), 0, 1).astype(np.float32)
    model = models.build("cnn", (32, 32, 3), 10, widths=(16, 32, 64))
    recipe = train.Recipe(6, 64, train.sgd(0.02))
    state, _ = train.fit(
        jax.random.key(0), model, Dataset(images, labels.astype(np.int32)), np.ones(1024, bool), recipe
    )
    return model, state.variables, jnp.asarray(images[:128]), jnp.asarray(labels[:128], jnp.int32)


def main() -> None:
    model, variables, x, y = trained_model()
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, jax {jax.__version__}")
    results, fastest = {}, {}
    for search, num_radii in (("doubling", 12), ("grid", 6), ("grid", 12)):
        run = jax.jit(
            lambda v, search=search, num_radii=num_radii: attacks.adversarial_set(
                model.apply, v, x, y, search=search, num_radii=num_radii, batch_size=128
            )
        )
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            result = jax.block_until_ready(run(variables))
            seconds.append(time.perf_counter() - began)
        first, rest = seconds[0], sorted(seconds[1:])
        name = f"{search}, {num_radii} radii"
        results[name], fastest[name] = result, rest[0]
        print(f"{name:22} {rest[0]:7.2f} {rest[-1]:7.2f} s  first {first:5.1f} s  {attacks.status_counts(result)}")
    a, b = results["doubling, 12 radii"], results["grid, 12 radii"]
    same = np.mean(np.asarray(a.epsilon) == np.asarray(b.epsilon))
    ratio = fastest["grid, 12 radii"] / fastest["doubling, 12 radii"]
    print(
        f"same radius on {100 * same:.1f}% of images; median distance {float(jnp.median(a.distance)):.3f} and "
        f"{float(jnp.median(b.distance)):.3f}; grid (12) takes {ratio:.1f} times doubling's time"
    )


if __name__ == "__main__":
    main()
