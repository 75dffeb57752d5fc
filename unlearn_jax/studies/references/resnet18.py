"""Cost of ResNet-18 reference models on halves of CIFAR-10: device hours and FLOPs."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import pairwise
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax import data, replicas, train
from unlearn_jax.models.flops import training_flops
from unlearn_jax.pipeline import (
    Artifact,
    DataConfig,
    ModelConfig,
    TrainingConfig,
    load_data,
)
from unlearn_jax.pipeline.config.resolve import (
    build_model,
    make_recipe,
    plain_model,
)
from unlearn_jax.pipeline.config.schema import to_json
from unlearn_jax.pipeline.stages.plan import purpose_key
from unlearn_jax.pipeline.stages.training import epochs_per_call
from unlearn_jax.pipeline.store.clock import stopwatch
from unlearn_jax.types import Dataset, InputError, Model

PUBLISHED = (
    "Published: 256 in 29 h on one RTX 4080 (lira_analysis), 128 in 15 A100-hours"
    " (AMUN)"
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Reference models, and their distribution over devices."""

    counts: tuple[int, ...] = (128, 256)
    """Numbers of models to report, even and ascending; each includes those before."""
    group: int = 8
    """Maximum number of models that are trained and stored at a time."""
    seed: int = 0
    """Seed of the weights, the sample order and the membership designs."""
    data: DataConfig = dataclasses.field(
        default_factory=lambda: DataConfig(source="tfds", name="cifar10")
    )
    """Images; the halves are drawn from training and test samples together."""
    model: ModelConfig = dataclasses.field(
        default_factory=lambda: ModelConfig(name="resnet", width=64, dtype="bfloat16")
    )
    """Network."""
    training: TrainingConfig = dataclasses.field(
        default_factory=lambda: TrainingConfig(
            num_epochs=161,
            batch_size=128,
            learning_rate=0.1,
            decay_every=40,
            augment="crop_flip",
        )
    )
    """Recipe of every model."""
    mapper: Literal["auto", "loop", "map", "vmap", "split"] = "auto"
    """Form of the loop over the models of a group on one device."""
    devices: int | None = None
    """Number of devices for a group; all devices if None."""
    split: int = 1
    """Number of devices that share a model, each with a part of every batch."""
    shard_data: bool = False
    """Divide the images over the devices, instead of copying them to each."""
    peak_tflops: float | None = None
    """Peak TFLOP/s of one device in the compute dtype; looked up by name if None."""


def make_artifacts(config: Config) -> list[Artifact]:
    """Return an artifact per group of models.

    Raises:
      InputError: unusable configuration.
    """
    counts = (0, *config.counts)
    is_rising = all(after > before for before, after in pairwise(counts))
    if not config.counts or not is_rising or any(n % 2 for n in counts):
        raise InputError("counts must be even and ascending, such as --counts 128 256")
    if config.group < 1:
        raise InputError(f"group must be at least 1, got {config.group}")
    if config.peak_tflops is not None and not 0 < config.peak_tflops < np.inf:
        raise InputError(
            f"peak_tflops must be positive and finite, got {config.peak_tflops}"
        )
    shared = {
        key: value
        for key, value in to_json(config).items()
        if key not in ("counts", "group", "peak_tflops")
    }
    shared["model"] = plain_model(config.model)
    shared["data"] = config.data.identity()
    # Prepare the data once, when the first artifact is computed.
    prepared = cache(partial(_prepare, config))
    artifacts = []
    for start, stop, first, last in _groups(config):
        artifacts.append(
            Artifact(
                name=f"models-{first:04d}-{last - 1:04d}",
                settings={**shared, "block": [start, stop], "models": [first, last]},
                compute=partial(
                    measure, config, prepared, (start, stop), (first, last)
                ),
            )
        )
    return artifacts


def _groups(config: Config) -> Iterator[tuple[int, int, int, int]]:
    """Yield start and stop of each design's models, and of each group among them."""
    for start, stop in _blocks(config):
        for first in range(start, stop, config.group):
            yield start, stop, first, min(first + config.group, stop)


def _prepare(config: Config) -> tuple[Dataset, Model, train.Recipe, int]:
    """Return the pool, the network, its recipe, and the steps per epoch on a half."""
    splits = load_data(config.data)
    both = splits.train, splits.test
    pool = Dataset(
        np.concatenate([part.images for part in both]),
        np.concatenate([part.labels for part in both]),
    )
    model = build_model(config.model, splits)
    half = -(-len(pool.labels) // 2)
    recipe = make_recipe(config.training, half, model, pool.images)
    return pool, model, recipe, train.steps_per_epoch(half, recipe.batch_size)


def _blocks(config: Config) -> Iterator[tuple[int, int]]:
    return pairwise((0, *config.counts))


def _design(config: Config, start: int, stop: int, num_samples: int) -> np.ndarray:
    return data.membership_design(stop - start, num_samples, seed=config.seed + start)


def measure(
    config: Config,
    prepared: Callable[[], tuple[Dataset, Model, train.Recipe, int]],
    block: tuple[int, int],
    group: tuple[int, int],
) -> dict[str, np.ndarray]:
    """Train a group of models.

    Args:
      config: study configuration.
      prepared: function that returns pool, network, recipe and steps per epoch.
      block: start and end of the range of models that share a design.
      group: start and end of the range of models to train.

    Returns:
      Arrays for G models. ``logits`` ``[G, N, C]`` over the pool, ``member``
      ``[G, N]``, ``labels`` ``[N]`` and ``losses`` ``[G]`` of the last epoch;
      ``seconds`` of training without compilation, and ``compile_seconds``; ``devices``
      and ``device``, their number and kind; ``images``, the number of images on which
      all models were trained, repeated ones included; ``flops`` per image.
    """
    pool, model, recipe, steps = prepared()
    design = _design(config, *block, len(pool.labels))
    member = design[group[0] - block[0] : group[1] - block[0]]
    mapper = replicas.mapper(
        config.mapper,
        num_models=len(member),
        devices=config.devices,
        split=config.split,
        shard_data=config.shard_data,
    )
    trained_on = len(member) * steps * recipe.batch_size
    keys = jnp.stack([purpose_key("reference", config.seed, m) for m in range(*group)])
    chunk = epochs_per_call(recipe, trained_on)
    with stopwatch() as watch:
        state, losses = replicas.fit_many(
            keys,
            model,
            pool,
            member,
            recipe,
            mapper=mapper,
            num_batches=steps,
            epochs_per_call=chunk,
        )
        jax.block_until_ready(state)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, *pool.images.shape[1:]), jnp.float32)
    used = config.devices or len(jax.local_devices())
    return {
        "logits": replicas.predict_many(
            model.apply, state.variables, pool.images, mapper=mapper
        ),
        "member": member,
        "labels": np.asarray(pool.labels),
        "losses": losses[:, -1],
        "seconds": np.array(watch.cost.seconds - watch.cost.compile_seconds),
        "compile_seconds": np.array(watch.cost.compile_seconds),
        "devices": np.array(
            used if config.mapper == "split" else min(used, len(member))
        ),
        "device": np.array(jax.local_devices()[0].device_kind),
        "images": np.array(recipe.num_epochs * trained_on),
        "flops": np.array(training_flops(model.apply, shapes, image)),
    }
