"""Training of a preset's models on the devices of this machine: time, memory, MFU.

Command::

    python experiments/benchmarks/device.py references_resnet18 --out h200.json
    # a test of the script on a CPU
    python experiments/benchmarks/device.py digits --mappers map --models 2 --out x.json

The script measures the training that ``unlearn-jax compile`` bounds, and nothing else
of a preset. For every variant, mapper and number of models, it takes a few steps on
random images of the preset's shapes, without the time of compilation. Peak memory is
that of the process so far, so rows go from few models to many. Each row is written as
soon as it is done; a row that fails, for example out of memory, has the error instead.
Not run on an accelerator yet.
"""

import argparse
import json
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax import replicas
from unlearn_jax.models.flops import training_flops
from unlearn_jax.pipeline import presets
from unlearn_jax.pipeline.config.resolve import build_model, load_data, make_recipe
from unlearn_jax.pipeline.estimate import training_speed
from unlearn_jax.targets import peak_flops
from unlearn_jax.types import Dataset, first_line

NUM_BATCHES = 8
"""Batches of a timed epoch."""


def measure(
    config: Any, mapper_name: str, num_models: int, devices: int
) -> dict[str, Any]:
    """Return the numbers of one row.

    Args:
      config: configuration with ``data``, ``model`` and ``training``.
      mapper_name: form of :func:`unlearn_jax.replicas.mapper`.
      num_models: number of models trained at a time.
      devices: number of devices to spread the models over.
    """
    splits = load_data(config.data, by_shape=True)
    model = build_model(config.model, splits)
    batch_size = config.training.batch_size
    num_samples = NUM_BATCHES * batch_size
    rng = np.random.default_rng(0)
    shape = (num_samples, *splits.train.images.shape[1:])
    labels = rng.integers(0, splits.num_classes, num_samples).astype(np.int32)
    data = Dataset(rng.integers(0, 256, shape, np.uint8), labels)
    recipe = make_recipe(config.training, num_samples, model, data.images)
    mapper = replicas.mapper(mapper_name, num_models=num_models, devices=devices)
    began = time.perf_counter()
    speed = training_speed(
        model,
        data,
        recipe,
        keys=jax.random.split(jax.random.key(0), num_models),
        member=np.ones((num_models, num_samples), bool),
        mapper=mapper,
    )
    seconds = time.perf_counter() - began
    variables = jax.eval_shape(model.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, *shape[1:]), jnp.float32)
    flops = training_flops(model.apply, variables, image)
    device = jax.local_devices()[0]
    peak = peak_flops(device.device_kind, config.model.dtype)
    memory = device.memory_stats() or {}
    return {
        "samples_per_second": speed,
        "step_seconds": num_models * batch_size / speed,
        "seconds_with_compilation": seconds,
        "flops_per_sample": flops,
        "mfu": None if peak is None else flops * speed / (peak * devices),
        # of the process, so that of the largest row so far
        "peak_bytes": memory.get("peak_bytes_in_use"),
    }


def main() -> None:
    """Measure the rows, and write each when it is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--mappers", nargs="+", default=["map", "vmap"])
    parser.add_argument("--models", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument(
        "--variants", nargs="*", help="variants of a study; all by default"
    )
    options = parser.parse_args()
    loaded = presets.load(options.preset)
    configs = dict(loaded.variants)
    if loaded.experiment is not None:
        configs = {"": loaded.experiment.config}
    devices = len(jax.local_devices())
    rows = []
    for variant, config in configs.items():
        if options.variants and variant not in options.variants:
            continue
        for mapper_name in options.mappers:
            for num_models in options.models:
                row: dict[str, Any] = {
                    "preset": options.preset,
                    "variant": variant,
                    "mapper": mapper_name,
                    "models": num_models,
                    "devices": min(devices, num_models),
                    "device": jax.local_devices()[0].device_kind,
                    "jax": jax.__version__,
                }
                try:
                    row |= measure(config, mapper_name, num_models, row["devices"])
                except Exception as error:
                    # such as a row that is too large; other variants may follow
                    row["error"] = first_line(error)[:200]
                rows.append(row)
                options.out.write_text(json.dumps(rows, indent=1) + "\n")
                print(row, flush=True)


if __name__ == "__main__":
    main()
