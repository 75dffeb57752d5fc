"""Forget sets and membership designs, as boolean masks.

A forget set is a mask ``[N]`` over the training set, True where the sample must be
forgotten. Every function here checks its mask with :func:`check_forget_mask`, so there
is at least one sample to forget and at least one to keep.
"""

import codecs
import math
import operator
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from unlearn_jax.checks import check_counts
from unlearn_jax.types import InputError

Mask: TypeAlias = npt.NDArray[np.bool_]
Generator = Literal["default", "legacy"]
_BLOCK_COLUMNS = 16384


def check_forget_mask(mask: npt.ArrayLike, num_samples: int) -> Mask:
    """Return ``mask`` as a NumPy array, checked to be a usable forget set.

    Args:
      mask: ``[N]`` bool, True where the sample is forgotten.
      num_samples: N, the size of the training set.

    Returns:
      ``[N]`` bool.

    Raises:
      InputError: a mask that is not boolean, does not have shape ``[N]``, or marks no
        sample or every sample.
    """
    array = np.asarray(mask)
    if array.dtype != np.bool_:
        raise InputError(
            f"forget mask must be boolean, got {array.dtype}; "
            "pass indices to forget_indices or convert with .astype(bool)"
        )
    if array.shape != (num_samples,):
        raise InputError(
            f"forget mask must have shape ({num_samples},), one entry per training"
            f" sample, got {array.shape}"
        )
    if not array.any():
        raise InputError("forget set is empty; choose at least one sample to forget")
    if array.all():
        raise InputError(
            f"forget set is all {num_samples} training samples; leave at least one to"
            " retain"
        )
    return array


def forget_indices(indices: npt.ArrayLike, num_samples: int) -> Mask:
    """Return a forget mask from indices into the training set, in any order.

    Args:
      indices: ``[F]`` integers in 0..N-1, each at most once.
      num_samples: N, the size of the training set.

    Returns:
      ``[N]`` bool.

    Raises:
      InputError: indices that are not a list of integers, are empty, out of range or
        repeated, or name every sample.

    >>> forget_indices([3, 0], 5).tolist()
    [True, False, False, True, False]
    """
    values = np.asarray(indices)
    if values.ndim != 1:
        raise InputError(
            "forget indices must be a list, one index per sample, got an array of"
            f" shape {values.shape}"
        )
    if values.size == 0:
        raise InputError("forget set is empty; choose at least one sample to forget")
    if not np.issubdtype(values.dtype, np.integer):
        raise InputError(f"forget indices must be integers, got {values.dtype}")
    outside = values[(values < 0) | (values >= num_samples)]
    if outside.size:
        raise InputError(
            f"forget index {outside[0]} is out of range: the training set has samples"
            f" 0..{num_samples - 1}"
        )
    unique, counts = np.unique(values, return_counts=True)
    if unique.size != values.size:
        raise InputError(
            f"forget index {unique[np.argmax(counts > 1)]} is repeated; list each"
            " sample once (a mask must be stored as booleans, not as 0 and 1)"
        )
    mask = np.zeros(num_samples, bool)
    mask[values] = True
    return check_forget_mask(mask, num_samples)


def forget_random(
    num_samples: int,
    *,
    fraction: float | None = None,
    count: int | None = None,
    seed: int,
    generator: Generator = "default",
) -> Mask:
    """Draw a forget set uniformly at random.

    Args:
      num_samples: N, the size of the training set.
      fraction: fraction of the training set to forget, in (0, 1); the number of samples
        is rounded to the nearest integer.
      count: number of samples to forget, in 1..N-1. Pass exactly one of ``fraction``
        and ``count``.
      seed: seed of the draw, at least 0.
      generator: ``"default"`` draws with ``numpy.random.default_rng``; ``"legacy"``
        draws with ``RandomState``, which reproduces the published forget sets of AMUN
        (seeds 1, 10 and 100 on the official order of CIFAR-10).

    Returns:
      ``[N]`` bool with ``count`` True entries.

    Raises:
      InputError: both or neither of ``fraction`` and ``count``, a value out of range,
        not an integer, or an unknown generator.

    >>> int(forget_random(1000, fraction=0.1, seed=0).sum())
    100
    """
    if (fraction is None) == (count is None):
        raise InputError(
            "give exactly one of fraction and count for a random forget set"
        )
    if fraction is not None:
        if not 0 < fraction < 1:
            raise InputError(
                f"forget fraction must lie strictly between 0 and 1, got {fraction}"
            )
        count = round(fraction * num_samples)
    assert count is not None
    if generator == "legacy":
        return forget_indices(
            legacy_indices(num_samples, count, seed=seed), num_samples
        )
    if generator != "default":
        raise InputError(f"generator must be 'default' or 'legacy', got {generator!r}")
    check_seed(seed)
    _check_count(count, num_samples)
    return forget_indices(
        np.random.default_rng(seed).choice(num_samples, count, replace=False),
        num_samples,
    )


def legacy_indices(num_samples: int, count: int, *, seed: int) -> npt.NDArray[np.int64]:
    """Draw ``RandomState(seed).choice(N, count, replace=False)``, keeping its order.

    Args:
      num_samples: N, the size of the training set.
      count: number of samples, in 1..N-1.
      seed: seed of the draw, in 0..2**32-1.

    Returns:
      ``[count]`` int64, all different.

    Raises:
      InputError: a number is out of range or not an integer.

    The 10% forget set published with AMUN:

    >>> legacy_indices(50_000, 5_000, seed=1)[:3].tolist()
    [26247, 35067, 34590]
    """
    check_seed(seed, "legacy")
    _check_count(count, num_samples)
    return (
        np.random.RandomState(seed)
        .choice(num_samples, count, replace=False)
        .astype(np.int64)
    )


def class_numbers(
    classes: int | str | Sequence[int | str], class_names: Sequence[str]
) -> list[int]:
    """Return classes by number, in the order given.

    Args:
      classes: class numbers, which are returned unchanged, or class names; or one of
        them.
      class_names: ``[C]``; the names in ``classes`` must be unique among them.

    Raises:
      InputError: a name of no class or of several classes.

    >>> class_numbers(["dog", 0], ["cat", "dog"])
    [1, 0]
    """
    chosen = [classes] if isinstance(classes, int | np.integer | str) else classes
    numbers: list[int] = []
    for given in chosen:
        if not isinstance(given, str):
            numbers.append(given)
            continue
        if not len(class_names):
            raise InputError(
                f"no class has a name, so none is called {given!r}: pass class_names,"
                " or the number of the class"
            )
        matches = [label for label, name in enumerate(class_names) if name == given]
        if len(matches) != 1:
            fault = "no class is" if not matches else f"{len(matches)} classes are"
            listed = ", ".join(class_names[:20])
            more = ", ..." if len(class_names) > 20 else ""
            raise InputError(f"{fault} called {given!r}; classes are {listed}{more}")
        numbers += matches
    return numbers


def forget_class(
    labels: npt.ArrayLike,
    classes: int | str | Sequence[int | str],
    *,
    class_names: Sequence[str] = (),
) -> Mask:
    """Return a mask of all training samples of one or several classes.

    Args:
      labels: ``[N]`` integers, the labels of the training set.
      classes: one class or several different classes, by number or by name.
      class_names: ``[C]`` names, needed if classes are given by name.

    Returns:
      ``[N]`` bool.

    Raises:
      InputError: labels or classes that are not integers, no class, a repeated class, a
        class without samples, or classes that leave no sample of another class.

    >>> forget_class([0, 1, 2, 1], 1).tolist()
    [False, True, False, True]
    >>> forget_class([0, 1, 1], "dog", class_names=["cat", "dog"]).tolist()
    [False, True, True]
    """
    labels = np.asarray(labels)
    if isinstance(classes, Sequence):
        classes = class_numbers(classes, class_names)
    wanted = np.atleast_1d(np.asarray(classes))
    if (
        labels.ndim != 1
        or labels.size == 0
        or not np.issubdtype(labels.dtype, np.integer)
    ):
        raise InputError(
            f"labels must be one integer per training sample, got {labels.dtype}"
            f" {labels.shape}"
        )
    if wanted.size == 0:
        raise InputError("forget classes are empty; name at least one class")
    if wanted.ndim != 1 or not np.issubdtype(wanted.dtype, np.integer):
        raise InputError(
            f"forget classes must be integers, got {wanted.dtype} of shape"
            f" {wanted.shape}"
        )
    if np.unique(wanted).size != wanted.size:
        raise InputError(f"forget classes repeat a class: {wanted.tolist()}")
    missing = np.setdiff1d(wanted, labels)
    if missing.size:
        raise InputError(
            f"no training sample has class {missing[0]}; the labels run from"
            f" {labels.min()} to {labels.max()}"
        )
    return check_forget_mask(np.isin(labels, wanted), labels.shape[0])


def forget_file(path: str | os.PathLike[str], num_samples: int) -> Mask:
    """Read a forget set from a file.

    A ``.npy`` file holds indices ``[F]`` (integers) or a mask ``[N]`` (bool), and a
    ``.npz`` file holds either as its only array. ``.txt`` and ``.csv`` files hold one
    index per line (``3`` or ``3.0``); blank lines and lines that start with ``#`` are
    skipped. Text is UTF-8, or UTF-16 with a byte-order mark.

    Args:
      path: the file.
      num_samples: N, the size of the training set.

    Returns:
      ``[N]`` bool.

    Raises:
      InputError: a file that does not exist, has an unknown suffix, cannot be read,
        holds several arrays, or does not hold a forget set (see :func:`forget_indices`
        and :func:`check_forget_mask`).
    """
    path = pathlib.Path(os.path.expanduser(path))
    if not path.is_file():
        raise InputError(f"no forget file at {path}")
    readers = {
        ".npy": _read_numpy,
        ".npz": _read_numpy,
        ".txt": _read_lines,
        ".csv": _read_lines,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"cannot read a forget set from {path.name}: the suffix must be one of"
            f" {', '.join(readers)}"
        )
    values = reader(path)
    try:
        if values.dtype == np.bool_:
            return check_forget_mask(values, num_samples)
        return forget_indices(values, num_samples)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def membership_design(
    num_models: int, num_samples: int, *, seed: int, generator: Generator = "default"
) -> Mask:
    """Draw a membership design: each of N samples is in exactly half of M models.

    Uniform numbers are sorted along the model axis, as in the code published with LiRA
    and AMUN. The half of the models that contain a sample is uniform over all halves
    and independent between samples. Working memory is below about 40 MB for 256 models,
    whatever N is.

    Args:
      num_models: M, even and at least 2.
      num_samples: N, at least 1.
      seed: seed of the draw, at least 0, and below 2**32 with ``"legacy"``.
      generator: ``"legacy"`` gives bit for bit
        ``RandomState(seed).uniform(size=(M, N)).argsort(0) < M // 2`` (AMUN: seed 0, M
        = 128, N = 60,000 with the training set before the test set). ``"default"`` is
        faster: it draws every number once, where ``"legacy"`` repeats the draw for each
        block of columns.

    Returns:
      ``[M, N]`` bool, with M/2 True entries in every column.

    Raises:
      InputError: M that is odd or below 2, N below 1, either not an integer, a seed out
        of range, or an unknown generator.

    >>> membership_design(4, 3, seed=0).sum(axis=0).tolist()
    [2, 2, 2]
    """
    check_counts(0, num_models=num_models, num_samples=num_samples)
    if num_models < 2 or num_models % 2:
        raise InputError(
            "a membership design needs an even number of models, at least 2, "
            f"so that each sample is in exactly half; got {num_models}"
        )
    if num_samples < 1:
        raise InputError(
            f"a membership design needs at least one sample, got {num_samples}"
        )
    if generator not in ("default", "legacy"):
        raise InputError(f"generator must be 'default' or 'legacy', got {generator!r}")
    check_seed(seed, generator)
    design = np.empty((num_models, num_samples), bool)
    stream = np.random.default_rng(seed)
    for start in range(0, num_samples, _BLOCK_COLUMNS):
        block = slice(start, min(start + _BLOCK_COLUMNS, num_samples))
        if generator == "legacy":
            uniforms = _legacy_columns(num_models, num_samples, seed, block)
        else:
            uniforms = stream.random((block.stop - start, num_models)).T
        design[:, block] = np.argsort(uniforms, axis=0) < num_models // 2
    return design


def _legacy_columns(
    num_models: int, num_samples: int, seed: int, block: slice
) -> npt.NDArray[np.float64]:
    """Redraw a block of columns of ``RandomState(seed).uniform(size=(M, N))``."""
    stream = np.random.RandomState(seed)
    columns = np.empty((num_models, block.stop - block.start))
    for row in columns:
        row[...] = stream.random_sample(num_samples)[block]
    return columns


def check_seed(seed: int, generator: Generator = "default") -> None:
    """Raise on a seed that NumPy's generator does not accept.

    Raises:
      InputError: a seed that is not an integer, is negative, or with the legacy
        generator is 2**32 or above.
    """
    try:
        number = operator.index(seed)
    except TypeError:
        raise InputError(f"seed must be an integer, got {seed!r}") from None
    if number < 0 or (generator == "legacy" and number >= 2**32):
        raise InputError(
            "seed must be at least"
            f" 0{', and below 2**32' if generator == 'legacy' else ''}, got {seed}"
        )


def _check_count(count: int, num_samples: int) -> None:
    check_counts(0, count=count, num_samples=num_samples)
    if not 1 <= count < num_samples:
        raise InputError(
            f"cannot forget {count} of {num_samples} samples; the number must be in"
            f" 1..{num_samples - 1}"
        )


def _read_numpy(path: pathlib.Path) -> npt.NDArray[Any]:
    try:
        with open(path, "rb") as file:
            stored = np.load(file, allow_pickle=False)
            if isinstance(stored, np.ndarray):
                return stored
            if len(stored.files) != 1:
                raise InputError(
                    f"{path} must hold a single array, found {stored.files}"
                )
            return stored[stored.files[0]]
    except InputError:
        raise
    except Exception as error:  # NumPy raises many types on damaged or pickled files
        raise InputError(f"cannot read {path} as a NumPy array: {error}") from None


def _read_lines(path: pathlib.Path) -> npt.NDArray[np.int64]:
    indices = []
    content = path.read_bytes()
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        lines = content.decode("utf-16" if is_wide else "utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(
            f"{path} is not a text file; list one index per line"
        ) from None
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            # numpy.savetxt writes integers as floats
            written = int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
        except ValueError:
            written = math.nan
        if abs(written) > 2**53 or not float(written).is_integer():
            raise InputError(f"{path}, line {number}: {text!r} is not an integer index")
        indices.append(int(written))
    return np.array(indices, np.int64)
