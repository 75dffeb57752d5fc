"""Spectral norms: FastClip and its comparators in training, with and without BatchNorm.

Every arm trains the same network on the same data in the same order; arms differ in the
transformation at the end of the optimizer. All norms are computed by Lanczos iteration.
A layer and the BatchNorm after it count as one map, in evaluation mode.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unlearn_jax import models, replicas, train
from unlearn_jax.checks import check_counts, check_positive
from unlearn_jax.pipeline.config.resolve import load_data, plain_model
from unlearn_jax.pipeline.config.schema import DataConfig, ModelConfig, to_json
from unlearn_jax.pipeline.store.artifact import Artifact
from unlearn_jax.spectral import (
    clip,
    fastclip,
    gouk,
    miyato,
    projection,
    sedghi,
    spectral_norms,
    state_shapes,
)
from unlearn_jax.spectral._projection import Targets
from unlearn_jax.studies.common import check_distinct
from unlearn_jax.theory import local_slopes
from unlearn_jax.types import Array, InputError, Model, PyTree, Variables, to_float

ARMS = {
    "none": "no constraint",
    "fastclip": "FastClip",
    "miyato": "Miyato, every step",
    "gouk": "Gouk, every step",
    "sedghi": "FFT clip (Sedghi)",
}


@dataclasses.dataclass(frozen=True)
class NormConfig:
    """Networks, and the constraints under which they are trained."""

    arms: tuple[str, ...] = tuple(ARMS)
    """Constraints, keys of :data:`ARMS`."""
    batch_norm: tuple[bool, ...] = (False, True)
    """Networks to train: False without BatchNorm, True with it."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the weights and of the sample order."""
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    """Images."""
    model: ModelConfig = dataclasses.field(
        default_factory=lambda: ModelConfig(name="cnn")
    )
    """Network; its configuration needs a field ``batch_norm``."""
    target: float = 2.0
    """Upper bound on the norm of every layer."""
    period: int = 20
    """Training steps between two clips by FastClip and by the FFT clip."""
    num_epochs: int = 7
    """Passes over the training samples."""
    batch_size: int = 64
    """Samples per step."""
    learning_rate: float = 0.02
    """Learning rate of the first step; falls to 0 along a cosine."""
    num_slopes: int = 200
    """Number of test images at which local slopes are computed."""


def make_artifacts(config: NormConfig) -> list[Artifact]:
    """Return an artifact for each arm and each value of ``batch_norm``.

    Raises:
      InputError: an unknown arm, a list that is empty or names something twice, or a
        number out of range.
    """
    if unknown := sorted(set(config.arms) - set(ARMS)):
        raise InputError(f"unknown arm {unknown[0]!r}; choose from {', '.join(ARMS)}")
    check_distinct(seeds=config.seeds, arms=config.arms, batch_norm=config.batch_norm)
    check_positive(target=config.target, learning_rate=config.learning_rate)
    check_counts(
        period=config.period,
        num_epochs=config.num_epochs,
        batch_size=config.batch_size,
        num_slopes=config.num_slopes,
    )
    shared = {
        key: value
        for key, value in to_json(config).items()
        if key not in ("arms", "batch_norm")
    }
    shared["model"] = plain_model(config.model)
    shared["data"] = config.data.identity()
    artifacts = []
    for normed in config.batch_norm:
        for arm in config.arms:
            artifacts.append(
                Artifact(
                    name=name_of(arm, normed),
                    settings={**shared, "arm": arm, "normed": normed},
                    compute=partial(measure, config, arm, normed),
                )
            )
    return artifacts


def name_of(arm: str, normed: bool) -> str:
    """Return the name of an arm's artifact."""
    return f"{arm}-{'batch_norm' if normed else 'plain'}"


def measure(config: NormConfig, arm: str, normed: bool) -> dict[str, np.ndarray]:
    """Train an arm's models and measure them.

    Args:
      config: study configuration.
      arm: key of :data:`ARMS`.
      normed: whether the network has BatchNorm.

    Returns:
      Arrays for S seeds, E epochs, L layers and N test samples. ``history``
      ``[S, E, L]``: norms after each epoch. ``trained`` ``[S, L]``: norms at the end of
      training. ``norms`` ``[S, L]``: norms after FastClip's closing clip; equal to
      ``trained`` for other arms. ``correct_trained`` and ``correct`` ``[S, N]``:
      whether each test sample is classified correctly before and after that clip.
      ``slopes`` ``[S, num_slopes]``: spectral norms of the logits' Jacobian. ``layers``
      ``[L]``: names of the layers.
    """
    splits = _data(config.data)
    model = _model(config, normed)
    sample = jnp.zeros((1, *splits.train.images.shape[1:]))
    num_steps = config.num_epochs * train.steps_per_epoch(
        len(splits.train.labels), config.batch_size
    )
    tx = [
        train.sgd(optax.cosine_decay_schedule(config.learning_rate, num_steps)),
        *_constraint(config, arm, model),
    ]
    recipe = train.Recipe(config.num_epochs, config.batch_size, optax.chain(*tx))
    keys = jax.vmap(jax.random.key)(jnp.asarray(config.seeds))
    # One device for the FFT clip: its transforms and decompositions hang if two devices
    # share the cores.
    mapper = replicas.mapper(
        num_models=len(config.seeds), devices=1 if arm == "sedghi" else None
    )
    norms_of = partial(replicas.map_models, mapper, _norms(model, sample.shape))
    history: list[np.ndarray] = []

    def record(state: train.TrainState, _: np.ndarray) -> None:
        history.append(np.asarray(norms_of(state.variables, ())))

    state, _ = replicas.fit_many(
        keys,
        model,
        splits.train,
        np.ones((len(config.seeds), len(splits.train.labels)), bool),
        recipe,
        mapper=mapper,
        callback=record,
    )
    final = state.variables

    def correct(variables: Variables) -> np.ndarray:
        images = splits.test.images
        logits = replicas.predict_many(model.apply, variables, images, mapper=mapper)
        return logits.argmax(-1) == splits.test.labels

    correct_trained = correct(final)
    if arm == "fastclip":
        closing = _clipped(model, sample.shape, config.target)
        final = replicas.map_models(mapper, closing, final, ())
    images = to_float(jnp.asarray(splits.test.images[: config.num_slopes]))
    one = replicas.unstack(final, 0)
    return {
        "history": np.stack(history, 1),
        "trained": history[-1],
        "norms": np.asarray(norms_of(final, ())),
        "correct_trained": correct_trained,
        "correct": correct(final),
        "slopes": np.asarray(
            replicas.map_models(mapper, _slopes(model), final, images)
        ),
        "layers": np.array(list(spectral_norms(model.apply, one, sample))),
    }


@lru_cache(maxsize=2)
def _data(config: DataConfig) -> Any:
    return load_data(config)


@lru_cache(maxsize=4)
def _built(
    name: str,
    shape: tuple[int, ...],
    num_classes: int,
    options: tuple[tuple[str, Any], ...],
) -> Model:
    return models.build(name, shape, num_classes, **dict(options))  # pyright: ignore[reportArgumentType]


def _model(config: NormConfig, normed: bool) -> Model:
    splits = _data(config.data)
    options = {**config.model.options(), "batch_norm": normed}
    return _built(
        config.model.name,
        splits.train.images.shape[1:],
        splits.num_classes,
        tuple(sorted(options.items())),
    )


def _constraint(
    config: NormConfig, arm: str, model: Model
) -> Sequence[optax.GradientTransformation]:
    """Return the transformations at the end of an arm's optimizer chain."""
    splits = _data(config.data)
    targets = Targets(config.target)
    sample = jax.ShapeDtypeStruct((1, *splits.train.images.shape[1:]), jnp.float32)
    if arm == "none":
        return ()
    if arm == "fastclip":
        clipping = fastclip(
            model.apply,
            sample,
            max_norm=config.target,
            period=config.period,
            model_state=state_shapes(model),
        )
        return (clipping,)
    rules = {
        "miyato": (miyato(), 1),
        "gouk": (gouk(), 1),
        "sedghi": (sedghi(), config.period),
    }
    rule, period = rules[arm]
    state = state_shapes(model)
    return (
        projection(
            model.apply, sample, rule, targets, period=period, model_state=state
        ),
    )


@lru_cache(maxsize=8)
def _norms(model: Model, shape: tuple[int, ...]) -> Callable[[PyTree, PyTree], Array]:
    return lambda variables, _: jnp.stack(
        list(spectral_norms(model.apply, variables, jnp.zeros(shape)).values())
    )


@lru_cache(maxsize=8)
def _clipped(
    model: Model, shape: tuple[int, ...], target: float
) -> Callable[[PyTree, PyTree], Variables]:
    return lambda variables, _: clip(
        model.apply, variables, jnp.zeros(shape), max_norm=target
    )


@lru_cache(maxsize=8)
def _slopes(model: Model) -> Callable[[PyTree, Array], Array]:
    return lambda variables, images: local_slopes(model.apply, variables, images)
