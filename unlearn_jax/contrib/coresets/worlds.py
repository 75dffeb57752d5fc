"""Training seeds as worlds: kernel models with exact removal, retrained networks."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from unlearn_jax.checks import (
    check_counts,
    check_images,
    check_keys,
    check_labels,
    check_positive,
)
from unlearn_jax.influence import ridge as kernel_ridge
from unlearn_jax.influence.ridge import Candidates
from unlearn_jax.replicas import Mapper, fit_many, predict_many
from unlearn_jax.train import Recipe, steps_per_epoch
from unlearn_jax.types import Array, Dataset, InputError, Model


def seed_worlds(
    keys: Array,
    images: ArrayLike,
    labels: ArrayLike,
    forget: ArrayLike,
    *,
    num_classes: int,
    ridge: float,
    num_features: int = 512,
    bootstrap: bool = False,
) -> Candidates:
    """Fit a kernel ridge regression per training seed, for removals of the forget set.

    Each world has its own random ReLU layer
    (:func:`unlearn_jax.influence.ridge.random_relu_features`), which defines its
    kernel. The layer is the random part of a kernel model, as the initial weights are
    of a network. With ``bootstrap`` the world's retained samples are also redrawn with
    replacement, which is more than a training seed changes. Targets are one-hot minus
    1 / C.

    Args:
      keys: ``[S]`` PRNG keys, one per world.
      images: ``[N, ...]`` training images, about [0, 1], or uint8; flattened.
      labels: ``[N]`` integers.
      forget: ``[F]`` positions of the forget set.
      num_classes: C.
      ridge: lambda, relative to the **sum** of squared errors; positive.
      num_features: number of random features.
      bootstrap: whether to redraw the retained samples with replacement.

    Returns:
      Candidates with a leading axis S. Their points are the forget set itself
      (``Z = F``). They are float64 if JAX has x64 enabled, which is recommended. Worlds
      are fitted one after another, at a cost of ``N^3`` each.

    Raises:
      InputError: a forget set that is empty, holds every sample, repeats a position or
        is out of range; images that are not finite, or integers other than uint8;
        labels that do not fit; a ridge or a count that is not positive; a single key.
    """
    check_keys("keys of worlds", keys)
    check_positive(ridge=ridge)
    check_counts(num_classes=num_classes, num_features=num_features)
    images = np.asarray(images)
    labels = np.asarray(labels)
    check_images(images, "training set", bounds=(-math.inf, math.inf))
    check_labels(labels, len(images), num_classes, "training set")
    scale = 255 if images.dtype == np.uint8 else 1
    flat = images.astype(np.float64).reshape(len(images), -1) / scale
    forget = _check_forget(forget, len(flat))
    targets = np.eye(num_classes)[labels] - 1 / num_classes
    retain = np.setdiff1d(np.arange(len(flat)), forget)
    shared = [jnp.asarray(leaf) for leaf in (flat, targets, forget, retain)]
    return _worlds(keys, *shared, ridge, num_features=num_features, bootstrap=bootstrap)


def _check_forget(forget: ArrayLike, num_samples: int) -> np.ndarray:
    forget = np.asarray(forget)
    if (
        forget.ndim != 1
        or not 0 < forget.size < num_samples
        or len(np.unique(forget)) < forget.size
    ):
        raise InputError(
            f"forget has shape {forget.shape}: pass different positions, some but not"
            f" all of the {num_samples} samples"
        )
    if forget.dtype.kind not in "iu" or forget.min() < 0 or forget.max() >= num_samples:
        raise InputError(f"forget must hold integer positions in 0..{num_samples - 1}")
    return forget


@partial(jax.jit, static_argnames=("num_features", "bootstrap"))
def _worlds(
    keys: Array,
    images: Array,
    targets: Array,
    forget: Array,
    retain: Array,
    ridge: Array,
    *,
    num_features: int,
    bootstrap: bool,
) -> Candidates:
    def one(key: Array) -> Candidates:
        key_features, key_draw = jax.random.split(key)
        features = kernel_ridge.random_relu_features(key_features, images, num_features)
        weights = jnp.ones(len(images), features.dtype)
        if bootstrap:
            drawn = jax.random.choice(key_draw, retain, retain.shape)
            weights = jnp.zeros_like(weights).at[drawn].add(1.0).at[forget].set(1.0)
        kernel = features @ features.T
        model = kernel_ridge.fit(kernel, targets, ridge=ridge, weights=weights)
        return kernel_ridge.candidates(model, kernel[forget], forget)

    return lax.map(one, keys)


def retrain_without(
    keys: Array,
    model: Model,
    data: Dataset,
    forget: ArrayLike,
    recipe: Recipe,
    images: ArrayLike,
    *,
    mapper: Mapper | None = None,
) -> np.ndarray:
    """Train networks without each of many subsets, on the same seeds.

    The results are the true counterfactuals. All models of a seed start from the same
    weights, read their common samples in the same order and take the same number of
    steps, that of the whole training set.

    Args:
      keys: ``[S]`` PRNG keys, one per seed.
      model: the architecture.
      data: ``[N]`` samples.
      forget: ``[Q, N]`` bool; a row without True trains on everything.
      recipe: training recipe of every model.
      images: ``[Z, ...]`` images to predict.
      mapper: mapper for the ``S Q`` models; the backend's default if None.

    Returns:
      Logits ``[S, Q, Z, C]``.

    Raises:
      InputError: unusable masks.
      DivergedError: a model's loss was not finite.
    """
    check_keys("keys of seeds", keys)
    forget = np.asarray(forget)
    if (
        forget.dtype != bool
        or forget.ndim != 2
        or forget.shape[1] != len(data.labels)
        or not len(forget)
    ):
        raise InputError(
            f"forget is {forget.dtype} {forget.shape}: pass [Q, {len(data.labels)}]"
            " bool"
        )
    raw = np.repeat(np.asarray(jax.random.key_data(keys)), len(forget), axis=0)
    state, _ = fit_many(
        jax.random.wrap_key_data(jnp.asarray(raw), impl=jax.random.key_impl(keys)),
        model,
        data,
        np.tile(~forget, (len(keys), 1)),
        recipe,
        mapper=mapper,
        num_batches=steps_per_epoch(len(data.labels), recipe.batch_size),
        epochs_per_call=max(1, recipe.num_epochs),
    )
    logits = predict_many(model.apply, state.variables, images, mapper=mapper)
    return logits.reshape(len(keys), len(forget), *logits.shape[1:])
