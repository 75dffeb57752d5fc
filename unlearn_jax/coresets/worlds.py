"""Training seeds as worlds: kernel models from which anything is removed exactly, and networks trained again."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from unlearn_jax.influence import ridge as kernel_ridge
from unlearn_jax.influence.ridge import Candidates
from unlearn_jax.replicas import Mapper, fit_many, predict_many
from unlearn_jax.train import Recipe, steps_per_epoch
from unlearn_jax.types import Array, Dataset, InputError, Model


def seed_worlds(
    keys: Array,
    inputs: ArrayLike,
    labels: ArrayLike,
    index: ArrayLike,
    *,
    num_classes: int,
    ridge: float,
    num_features: int = 512,
    bootstrap: bool = False,
) -> Candidates:
    """One kernel ridge regression per training seed, reduced to what removals from the forget set need.

    A world's kernel is that of its own random ReLU layer
    (:func:`unlearn_jax.influence.ridge.random_relu_features`): what stays random in a
    kernel model, as initial weights do in a network. With ``bootstrap`` its retained
    samples are redrawn with replacement too, which is more than a training seed
    changes. Targets are one-hot less 1 / C.

    Args:
      keys: ``[S]``, one per world.
      inputs: ``[N, ...]`` of the training set, about [0, 1]; flattened.
      labels: ``[N]`` integers.
      index: ``[F]`` positions of the forget set.
      num_classes: C.
      ridge: lambda, of the summed squared errors; positive.
      num_features: of the random layer.
      bootstrap: see above.

    Returns:
      Candidates with leading S, whose points are the forget set itself (``Z = F``). In
      float64 if JAX is set to it, which it should be. Costs ``N^3`` per world, one
      after another.

    Raises:
      InputError: a forget set that is empty, everything, repeated or out of range;
        labels that do not fit; a ridge that is not positive; a single key.
    """
    if jnp.ndim(keys) != 1 or not ridge > 0:
        raise InputError(
            f"keys of shape {jnp.shape(keys)}, ridge {ridge}: pass one key per world"
            " [S] and a positive ridge"
        )
    flat = np.asarray(inputs, np.float64).reshape(len(np.asarray(inputs)), -1)
    index = np.asarray(index)
    if (
        index.ndim != 1
        or not 0 < index.size < len(flat)
        or len(np.unique(index)) < index.size
    ):
        raise InputError(
            f"index of shape {index.shape}: pass different positions, some but not all"
            f" of {len(flat)}"
        )
    if index.dtype.kind not in "iu" or index.min() < 0 or index.max() >= len(flat):
        raise InputError(f"index must hold integer positions in 0..{len(flat) - 1}")
    labels = np.asarray(labels)
    if (
        labels.shape != flat.shape[:1]
        or labels.dtype.kind not in "iu"
        or not 0 <= labels.min() <= labels.max() < num_classes
    ):
        raise InputError(
            f"labels are {labels.dtype} {labels.shape}: pass [{len(flat)}] integers in"
            f" 0..{num_classes - 1}"
        )
    targets = np.eye(num_classes)[labels] - 1 / num_classes
    retain = np.setdiff1d(np.arange(len(flat)), index)
    shared = [jnp.asarray(leaf) for leaf in (flat, targets, index, retain)]
    return _worlds(keys, *shared, ridge, num_features=num_features, bootstrap=bootstrap)


@partial(jax.jit, static_argnames=("num_features", "bootstrap"))
def _worlds(
    keys: Array,
    inputs: Array,
    targets: Array,
    index: Array,
    retain: Array,
    ridge: Array,
    *,
    num_features: int,
    bootstrap: bool,
) -> Candidates:
    def one(key: Array) -> Candidates:
        key_features, key_draw = jax.random.split(key)
        features = kernel_ridge.random_relu_features(key_features, inputs, num_features)
        weights = jnp.ones(len(inputs), features.dtype)
        if bootstrap:
            drawn = jax.random.choice(key_draw, retain, retain.shape)
            weights = jnp.zeros_like(weights).at[drawn].add(1.0).at[index].set(1.0)
        kernel = features @ features.T
        model = kernel_ridge.fit(kernel, targets, ridge=ridge, weights=weights)
        return kernel_ridge.candidates(model, kernel[index], index)

    return lax.map(one, keys)


def retrain_without(
    keys: Array,
    model: Model,
    data: Dataset,
    removed: ArrayLike,
    recipe: Recipe,
    images: ArrayLike,
    *,
    how: Mapper | None = None,
) -> np.ndarray:
    """Trains networks without each of many subsets, on the same seeds: the true counterfactuals.

    All models of a seed start from the same weights, go through common samples in the
    same order and take equally many steps, those of the whole training set.

    Args:
      keys: ``[S]``, one per seed.
      model: the architecture.
      data: ``[N]`` samples.
      removed: ``[Q, N]`` bool; a row without True trains on everything.
      recipe: how to train.
      images: ``[Z, ...]`` to predict.
      how: a mapper for ``S Q`` models; the default for the backend if None.

    Returns:
      Logits ``[S, Q, Z, C]``.

    Raises:
      InputError: unusable masks.
      DivergedError: a model's loss was not finite.
    """
    removed = np.asarray(removed)
    if (
        removed.dtype != bool
        or removed.ndim != 2
        or removed.shape[1] != len(data.labels)
        or not len(removed)
    ):
        raise InputError(
            f"removed is {removed.dtype} {removed.shape}: pass [Q, {len(data.labels)}]"
            " bool"
        )
    raw = np.repeat(np.asarray(jax.random.key_data(keys)), len(removed), axis=0)
    state, _ = fit_many(
        jax.random.wrap_key_data(jnp.asarray(raw), impl=jax.random.key_impl(keys)),
        model,
        data,
        np.tile(~removed, (len(keys), 1)),
        recipe,
        mapper=how,
        num_batches=steps_per_epoch(len(data.labels), recipe.batch_size),
        epochs_per_call=recipe.num_epochs,
    )
    logits = predict_many(model.apply, state.variables, images, mapper=how)
    return logits.reshape(len(keys), len(removed), *logits.shape[1:])
