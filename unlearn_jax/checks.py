"""Checks of images, labels, logits and numbers, for every function that takes them.

A check is one pass over concrete arrays, on the host, before anything is computed.
Traced arrays are checked by shape and type alone, so that ``jit`` and ``vmap`` work.
"""

import math
import operator
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from unlearn_jax.types import ApplyFn, Dataset, InputError, PyTree, is_key

NUM_ROWS = 64
"""Rows of logits checked for probabilities, and rows of images checked at a time."""
KINDS = (jnp.integer, jnp.floating)
"""Types that count as numbers; booleans do not."""


def check_samples(
    apply_fn: ApplyFn,
    variables: PyTree,
    samples: Dataset,
    what: str = "data set",
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    member: np.ndarray | None = None,
) -> None:
    """Raise unless samples can be used to train or to attack a model.

    Args:
      apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``; traced once.
      variables: any pytree of arrays or of their shapes.
      samples: images ``[N, ...]``, uint8 or floating within the bounds; labels ``[N]``,
        integers in 0..C-1.
      what: name of the samples in error messages, e.g. ``"training set"``.
      bounds: range of floating images.
      member: ``[N]`` bool, the samples that are read; None for all. Other samples may
        hold any value.

    Raises:
      InputError: inputs that are not arrays, no samples, images of a wrong type or
        range, labels of a wrong rank, number, type or range, or a model that does not
        return logits.
    """
    images = samples.images
    labels = samples.labels
    check_images(images, what, bounds=bounds, member=member)
    # inside jit the model is about to be traced anyway, and labels have no values
    is_traced = isinstance(labels, Tracer)
    num_classes = None if is_traced else count_classes(apply_fn, variables, images)
    check_labels(labels, len(images), num_classes, what, member=member)


def check_images(
    images: Any,
    what: str = "data set",
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    member: np.ndarray | None = None,
) -> None:
    """Raise on images that a model cannot take, and warn of probable mistakes.

    Args:
      images: ``[N, ...]``, uint8 or floating within the bounds.
      what: name of the images in error messages.
      bounds: range of floating images.
      member: ``[N]`` bool, the images that are read; None for all.

    Raises:
      InputError: not an array, no images, a wrong type, NaN, infinity, or floats
        outside the bounds.
    """
    _check_array(images, "images", what)
    if not images.ndim or images.size == 0:
        raise InputError(f"{what}: there are no images (shape {images.shape})")
    _warn_of_channels_first(images.shape, what)
    is_bytes = images.dtype == np.uint8
    if not is_bytes and not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(
            f"{what}: images must be uint8 in 0..255 or floating in [0, 1], got"
            f" {images.dtype}; convert them first"
        )
    if isinstance(images, Tracer):
        return
    if is_bytes:
        if _is_nearly_black(images):
            warnings.warn(
                f"{what}: uint8 images hold nothing but 0 and 1, and count as nearly"
                " black; multiply them by 255, or pass them as float32",
                stacklevel=3,
            )
        return
    low, high = _span(images)
    # samples that are not read are excluded only after a fault, which is cheaper
    if not (low >= bounds[0] and high <= bounds[1]) and member is not None:
        low, high = _span(images[member])
    if not np.isfinite([low, high]).all():
        raise InputError(
            f"{what}: images contain NaN or infinity; remove or repair those images"
        )
    if low < bounds[0] or high > bounds[1]:
        box = "[" + ", ".join(f"{bound:g}" for bound in bounds) + "]"
        raise InputError(
            f"{what}: float images must lie in {box}, got {low:g} to {high:g}; "
            "undo any normalization (it belongs inside the model) or divide by 255"
        )


def check_labels(
    labels: Any,
    num_samples: int,
    num_classes: int | None,
    what: str = "data set",
    *,
    member: np.ndarray | None = None,
) -> None:
    """Raise on labels that are not class indices, one per sample.

    Args:
      labels: ``[N]`` integers in 0..C-1.
      num_samples: N.
      num_classes: C; None skips the check of the range.
      what: name of the samples in error messages.
      member: ``[N]`` bool, the labels that are read; None for all.

    Raises:
      InputError: a wrong shape or type, or a label out of range.
    """
    _check_array(labels, "labels", what)
    if labels.shape != (num_samples,):
        raise InputError(
            f"{what}: labels must have shape [N] = ({num_samples},), one class"
            f" index per image, got {labels.shape}"
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InputError(
            f"{what}: labels must be integers, got {labels.dtype}; convert with"
            " .astype('int32')"
        )
    if isinstance(labels, Tracer) or num_classes is None:
        return
    values = np.asarray(labels)
    check_range(values if member is None else values[member], num_classes, what)


def check_range(labels: Any, num_classes: int, what: str) -> None:
    """Raise on concrete labels, of any shape, that are out of range.

    Args:
      labels: integers in 0..C-1; empty and traced labels pass.
      num_classes: C.
      what: name of the labels in error messages.

    Raises:
      InputError: a label out of range; the message names the range.
    """
    if isinstance(labels, Tracer) or np.size(labels) == 0:
        return
    values = np.asarray(labels)
    low = int(values.min())
    high = int(values.max())
    if low < 0 or high >= num_classes:
        raise InputError(
            f"{what}: labels must lie in 0..{num_classes - 1} for {num_classes}"
            f" classes, got {low} to {high}"
        )


def _check_array(values: Any, name: str, what: str) -> None:
    if not hasattr(values, "dtype"):
        raise InputError(
            f"{what}: {name} must be an array, got {type(values).__name__}; convert"
            " with numpy.asarray"
        )


def _span(array: Any) -> tuple[float, float]:
    """Return the smallest and the largest element, or NaN if an element is NaN."""
    is_on_host = isinstance(array, np.ndarray) or (
        array.is_fully_addressable and next(iter(array.devices())).platform == "cpu"
    )
    if is_on_host:
        array = np.asarray(array)
    return float(array.min()), float(array.max())


def _is_nearly_black(images: Any) -> bool:
    """Return whether the largest byte is 1.

    For most images the first rows hold a larger one, which ends the search.
    """
    if isinstance(images, np.ndarray):
        # repeated entries (stride 0) are read once: stand-ins repeat a single pixel
        images = images[tuple(slice(None if step else 1) for step in images.strides)]
    high = 0
    for start in range(0, len(images), NUM_ROWS):
        high = max(high, _span(images[start : start + NUM_ROWS])[1])
        if high > 1:
            return False
    return high == 1


def _warn_of_channels_first(shape: tuple[int, ...], what: str) -> None:
    if len(shape) == 4 and shape[1] in (1, 3) and 4 < shape[2] == shape[3]:
        warnings.warn(
            f"{what}: images of shape {shape} look as if channels came first; pass"
            " [N, H, W, channels], as images.transpose(0, 2, 3, 1) gives",
            stacklevel=4,
        )


def count_classes(apply_fn: ApplyFn, variables: PyTree, images: Any) -> int:
    """Return the number of classes C from the shape of a model's logits.

    The model is traced, but nothing is computed.

    Args:
      apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``.
      variables: any pytree.
      images: ``[N, ...]``; only shape and type are read.

    Raises:
      InputError: the model does not return logits of two classes or more.
    """
    is_float = jnp.issubdtype(images.dtype, jnp.floating)
    # float64 is float32 unless JAX is told otherwise
    dtype = jax.dtypes.canonicalize_dtype(images.dtype) if is_float else jnp.float32
    one = jax.ShapeDtypeStruct((1, *images.shape[1:]), dtype)
    return check_output(jax.eval_shape(apply_fn, variables, one))


def count_models(stacked: PyTree, name: str) -> int:
    """Return the number of stacked models.

    Args:
      stacked: any pytree of the models' variables, with leaves ``[M, ...]``.
      name: name of the argument in error messages.

    Raises:
      InputError: leaves of different lengths, or no model.
    """
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(stacked)}
    if len(lengths) != 1 or lengths == {()}:
        raise InputError(
            f"{name} must have leaves [M, ...], the models along the first axis: stack"
            " models, even a single one, with replicas.stack"
        )
    ((num_models,),) = lengths
    if not num_models:
        raise InputError(f"{name} has no model: pass at least one")
    return num_models


def check_output(output: Any) -> int:
    """Return the number of classes C of a model's output for a batch of one.

    Args:
      output: array that the model returns, or its shape.

    Raises:
      InputError: not a single array ``[1, C]``, or only one class.
    """
    check_single_array(output)
    if output.ndim != 2 or output.shape[0] != 1:
        raise InputError(
            f"the model returns shape {output.shape} for one image: return logits"
            " [B, C], one row per image"
        )
    if output.shape[1] < 2:
        raise InputError(
            "the model returns one output per image: return a logit for each of the two"
            " classes, such as jnp.concatenate([jnp.zeros_like(z), z], -1)"
        )
    return output.shape[1]


def check_single_array(output: Any) -> None:
    """Raise if a model's output is a tuple or a dict of arrays.

    Raises:
      InputError: such an output; the message names its type.
    """
    if not hasattr(output, "shape"):
        raise InputError(
            f"the model returns a {type(output).__name__}: return the logits"
            " [B, C] alone"
        )


def warn_of_probabilities(logits: np.ndarray, name: str = "the logits") -> None:
    """Warn if the first rows of logits are probabilities.

    Args:
      logits: ``[..., C]`` on the host.
      name: words for the array.
    """
    rows = logits.reshape(-1, logits.shape[-1])[:NUM_ROWS].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        # a row with an infinity is not a distribution
        is_distribution = (rows >= 0).all(-1) & (np.abs(rows.sum(-1) - 1) < 1e-3)
    # a row that is one-hot or uniform may be the logits of a toy model
    is_soft = (rows.max(-1) < 1) & (rows.max(-1) > rows.min(-1))
    if len(rows) and is_distribution.all() and is_soft.any():
        warnings.warn(
            f"{name} are probabilities: every row sums to 1; give logits, without the"
            " softmax",
            stacklevel=3,
        )


def check_counts(low: int = 1, **counts: Any) -> None:
    """Raise on counts that are not integers or are too small; traced ones pass.

    Args:
      low: smallest allowed count, 0 or 1.
      **counts: counts by name.

    Raises:
      InputError: such a count; the message names it.
    """
    for name, count in counts.items():
        if isinstance(count, Tracer):
            continue
        try:
            is_integer = not isinstance(count, bool | np.bool_)
            is_allowed = is_integer and operator.index(count) >= low
        except TypeError:
            is_allowed = False
        if not is_allowed:
            wanted = "a positive integer" if low else "an integer, 0 or more"
            raise InputError(f"{name} must be {wanted}, got {_shown(count)}")


def check_sizes(least: int = 1, /, **sizes: Any) -> None:
    """Raise unless sizes are a sequence of positive integers.

    Args:
      least: smallest allowed number of sizes, 0 or 1.
      **sizes: sequences by name.

    Raises:
      InputError: another value; the message names it.
    """
    for name, given in sizes.items():
        if not isinstance(given, Sequence) or len(given) < least:
            raise InputError(
                f"{name} must be a sequence of positive integers, got {_shown(given)}"
            )
        check_counts(**{f"{name}[{i}]": size for i, size in enumerate(given)})


def check_positive(**numbers: Any) -> None:
    """Raise on numbers that are not positive and finite; traced ones pass.

    Args:
      **numbers: numbers by name, or arrays of numbers to map over.

    Raises:
      InputError: such a number; the message names it.
    """
    _refuse_outside(numbers, 0.0, math.inf, "positive and finite", is_open=True)


def check_not_negative(**numbers: Any) -> None:
    """Raise on numbers that are negative or not finite; traced ones pass.

    Args:
      **numbers: numbers by name, or arrays of numbers to map over.

    Raises:
      InputError: such a number; the message names it.
    """
    _refuse_outside(numbers, 0.0, math.inf, "finite and not negative")


def check_fractions(**numbers: Any) -> None:
    """Raise on numbers outside [0, 1]; traced ones pass.

    Args:
      **numbers: numbers by name, or arrays of numbers to map over.

    Raises:
      InputError: such a number; the message names it.
    """
    _refuse_outside(numbers, 0.0, 1.0, "in [0, 1]")


def check_finite(**numbers: Any) -> None:
    """Raise on numbers that are not finite; traced ones pass.

    Args:
      **numbers: numbers or arrays of numbers, by name.

    Raises:
      InputError: such a number; the message names it.
    """
    _refuse_outside(numbers, -math.inf, math.inf, "finite")


def check_shape(name: str, array: Any, shape: tuple[int | None, ...]) -> None:
    """Raise on an array of a wrong shape.

    Args:
      name: name of the array in the message.
      array: array, traced or not.
      shape: required shape; None for an axis of any length.

    Raises:
      InputError: another shape; the message names both.
    """
    actual = np.shape(array)
    is_rank = len(actual) == len(shape)
    if not is_rank or any(
        wanted not in (None, size) for size, wanted in zip(actual, shape, strict=True)
    ):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise InputError(f"{name} must have shape [{wanted}], got {actual}")


def check_mask(name: str, mask: Any, num_samples: int) -> None:
    """Raise on a mask that is not one boolean per sample.

    Args:
      name: name of the mask in the message.
      mask: mask, traced or not.
      num_samples: N.

    Raises:
      InputError: another mask; the message names its type and shape.
    """
    kind = getattr(mask, "dtype", type(mask).__name__)
    if kind != np.dtype(bool) or mask.shape != (num_samples,):
        raise InputError(
            f"{name} must be bool of length {num_samples}, got {kind} {np.shape(mask)}"
        )


def check_keys(name: str, keys: Any) -> None:
    """Raise unless keys are a one-dimensional array of typed keys.

    Args:
      name: name of the keys in the message.
      keys: ``[S]``, with S at least 1.

    Raises:
      InputError: anything else; the message says what to pass.
    """
    if not is_key(keys) or len(keys.shape) != 1 or not len(keys):
        kind = getattr(keys, "dtype", type(keys).__name__)
        raise InputError(
            f"{name} must be typed keys [S], as jax.random.split(jax.random.key(0), S)"
            f" gives, got {kind} of shape {np.shape(keys)}"
        )


def check_choice(name: str, given: Any, choices: tuple[str, ...]) -> None:
    """Raise on a name that is not one of the choices.

    Raises:
      InputError: such a name; the message lists the choices.
    """
    if given not in choices:
        *first, last = (repr(choice) for choice in choices)
        raise InputError(
            f"unknown {name} {given!r}: choose {', '.join(first)} or {last}"
        )


def _shown(given: Any) -> str:
    """Return a short text for a number, or the type and shape of an array."""
    if hasattr(given, "dtype") and hasattr(given, "shape"):
        if given.shape:
            return f"{given.dtype} of shape {given.shape}"
        return str(given)
    text = repr(given)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _refuse_outside(
    numbers: Mapping[str, Any],
    low: float,
    high: float,
    wanted: str,
    *,
    is_open: bool = False,
) -> None:
    """Raise on numbers that are not finite or not within bounds; traced ones pass."""
    for name, number in numbers.items():
        if isinstance(number, Tracer):
            continue
        given = np.asarray(number)
        is_allowed = any(jnp.issubdtype(given.dtype, kind) for kind in KINDS)
        if is_allowed:
            values = given.astype(np.float64)
            is_within = (low <= values) & (values <= high) & np.isfinite(values)
            is_allowed = np.all(is_within & ((values > low) | (not is_open)))
        if not is_allowed:
            raise InputError(f"{name} must be {wanted}, got {_shown(number)}")
