"""Augmentation policies inside a training loop's ``lax.scan``: images per second.

Command: python experiments/benchmarks/augmentations.py
Results: ``experiments/results/augmentations.json``

Goal: random operations at 12,000 images per second on two cores, the training speed of
a small network there, or 167 us of processor time per image. AugMix, with nine
operations per image, is exempt. Reached, by processor time.
"""

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.data import AUGMENTATIONS, augmentation
from unlearn_jax.pipeline.store.folders import num_cores

POLICIES = [
    "trivial_augment",
    "rand_augment",
    "auto_augment",
    "aug_mix",
    "random_erasing",
]
NAMES = ["crop", "crop_flip", *POLICIES, *(f"crop_flip+{name}" for name in POLICIES)]


def program(name: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Return a program that sums the pixels of images, augmented in one scan."""
    augment = augmentation(name)
    assert augment is not None

    def step(
        total: jax.Array, batch: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, None]:
        return total + jnp.sum(augment(*batch)), None

    return jax.jit(
        lambda keys, images: jax.lax.scan(step, jnp.zeros(()), (keys, images))[0]
    )


def measure(
    run: Callable[[], jax.Array], repeats: int
) -> tuple[float, list[float], float]:
    """Return seconds of first call and of repeats, and the least processor seconds."""
    start = time.perf_counter()
    run().block_until_ready()
    first = time.perf_counter() - start
    walls = []
    processor = []
    for _ in range(repeats):
        start = time.perf_counter()
        busy = time.process_time()
        run().block_until_ready()
        walls.append(time.perf_counter() - start)
        processor.append(time.process_time() - busy)
    return first, walls, min(processor)


def main() -> int:
    """Print one row per augmentation."""
    parser = argparse.ArgumentParser(description="Time augmentations inside a scan.")
    parser.add_argument(
        "--names",
        nargs="*",
        default=NAMES,
        help=f"parts joined by +: {', '.join(AUGMENTATIONS)}",
    )
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--shape", type=int, nargs=3, default=(32, 32, 3))
    parser.add_argument("--num-steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()

    size = (args.num_steps, args.batch_size)
    number = args.num_steps * args.batch_size
    levels = np.random.default_rng(0).integers(0, 256, (*size, *args.shape))
    images = jnp.asarray(levels / 255, jnp.float32)
    keys = jax.random.split(jax.random.key(0), size)

    print(
        f"{num_cores()} CPU cores ({platform.machine()}),"
        f" Python {platform.python_version()}",
        end=", ",
    )
    print(f"JAX {jax.__version__} on {jax.devices()[0].device_kind}", end="; ")
    print(f"float32 images {tuple(args.shape)}, batches of {args.batch_size}")
    titles = ("min", "median", "max", "us/image", "first call s")
    print(
        f"{'images per second':<30}"
        + "".join(f"{title:>10}" for title in titles[:4])
        + f"{titles[4]:>14}"
    )
    for name in args.names:
        run = program(name)
        first, walls, busy = measure(lambda run=run: run(keys, images), args.repeats)
        slow, middle, fast = (
            number / seconds
            for seconds in (max(walls), statistics.median(walls), min(walls))
        )
        print(
            f"{name:<30}{slow:>10,.0f}{middle:>10,.0f}{fast:>10,.0f}"
            f"{1e6 * busy / number:>10.1f}{first:>14.1f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
