"""Forget sets of a run, and the requests in which they are forgotten."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from unlearn_jax import data
from unlearn_jax.data.splits import class_numbers
from unlearn_jax.pipeline.config.schema import HARD, ForgetConfig, RunConfig
from unlearn_jax.types import InputError


def number_classes(config: RunConfig, class_names: Sequence[str]) -> RunConfig:
    """Return a configuration with numbers for the classes to forget.

    Args:
      config: configuration of the run; its classes may be given by name.
      class_names: ``[C]`` class names of the data set.

    Raises:
      InputError: the data set has no class of that name.
    """
    forget = class_numbers(config.forget.classes, class_names)
    tuning = class_numbers(config.tuning.classes, class_names)
    return dataclasses.replace(
        config,
        forget=dataclasses.replace(config.forget, classes=tuple(forget)),
        tuning=dataclasses.replace(config.tuning, classes=tuple(tuning)),
    )


def forget_masks(
    config: ForgetConfig,
    labels: np.ndarray,
    hardness: Callable[[str], np.ndarray] | None = None,
    avoid: np.ndarray | None = None,
) -> tuple[np.ndarray, list[int]]:
    """Return the forget sets of a configuration.

    Args:
      config: configuration of the forget sets, with classes by number.
      labels: ``[N]`` labels of the training set.
      hardness: function ``kind -> [N]`` that returns the positions of the training
        samples, hardest first; needed for the hard kinds.
      avoid: ``[N]`` bool, samples that random sets must not contain; ignored if too few
        other samples are left.

    Returns:
      ``[S, N]`` bool, and a number that names each set: its seed or its (first) class,
      0 for a file or the hardest samples.

    Raises:
      InputError: nothing or everything to forget, or unusable settings.
    """
    num_train = len(labels)
    if config.kind == "class":
        if not config.classes:
            raise InputError(
                "forget.kind=class needs forget.classes, such as --forget.classes 0 3"
            )
        classes = class_numbers(config.classes, ())
        if len(set(classes)) < len(classes):
            repeated = ", ".join(map(str, classes))
            raise InputError(f"the classes to forget repeat a class: {repeated}")
        if config.together:
            return data.forget_class(labels, classes)[None], [classes[0]]
        masks = [data.forget_class(labels, [c]) for c in classes]
        return np.stack(masks), classes
    if config.kind == "file":
        if config.path is None:
            raise InputError(
                "forget.kind=file needs forget.path, a file of indices or a mask"
            )
        return data.forget_file(config.path, num_train)[None], [0]

    fraction = None if config.count is not None else config.fraction
    if config.kind in HARD:
        assert hardness is not None
        drawn = data.forget_random(
            num_train, fraction=fraction, count=config.count, seed=0
        )
        hardest = hardness(config.kind)[: drawn.sum()]
        return data.forget_indices(hardest, num_train)[None], [0]
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise InputError(
            "forget.seeds must be one or more different seeds, one per forget set"
        )
    masks = [
        data.forget_random(
            num_train,
            fraction=fraction,
            count=config.count,
            seed=seed,
            generator=config.generator,
        )
        for seed in config.seeds
    ]
    size = int(masks[0].sum())
    if avoid is not None and (~avoid).sum() >= size:
        others = np.flatnonzero(~avoid)
        masks = []
        for seed in config.seeds:
            chosen = np.random.default_rng(seed).choice(others, size, replace=False)
            masks.append(data.forget_indices(chosen, num_train))
    return np.stack(masks), list(config.seeds)


def request_masks(forget: np.ndarray, names: list[int], count: int) -> np.ndarray:
    """Split every forget set at random into requests of equal size.

    Args:
      forget: ``[S, N]`` bool, forget sets.
      names: number that names each set, which seeds its split.
      count: ``K``, number of requests.

    Returns:
      ``[S, K, N]`` bool, requests of each set.

    Raises:
      InputError: a set does not split evenly.
    """
    masks = np.zeros((len(forget), count, forget.shape[1]), bool)
    for s, mask in enumerate(forget):
        members = np.flatnonzero(mask)
        if len(members) % count:
            raise InputError(
                f"{len(members)} forget samples do not split into"
                f" forget.requests={count} equal requests: choose forget.count as a"
                " multiple"
            )
        shuffled = np.random.default_rng([names[s], count]).permutation(members)
        for k, rows in enumerate(shuffled.reshape(count, -1)):
            masks[s, k, rows] = True
    return masks
