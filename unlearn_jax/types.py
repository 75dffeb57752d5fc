"""Contracts of the package: models, data sets, results, and the errors users see.

Axis letters of the docstrings: ``B`` batch, or bootstrap replicates; ``C`` classes;
``D`` features; ``F`` forget samples; ``H``, ``W`` and ``ch`` height, width and channels
of images; ``M`` models; ``N`` samples; ``R`` runs of a method, in a table; ``S`` seeds,
forget sets or unlearned models; ``T`` targets of an audit; ``Z`` population. ``K`` and
other letters have a meaning of their own in each docstring.
"""

import contextlib
import dataclasses
import enum
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
PyTree = Any
Params = PyTree
"""Trained leaves of a model."""
ModelState = PyTree
"""Leaves updated without a gradient, such as BatchNorm statistics; may be empty."""


class UnlearnError(Exception):
    """Base of the errors that the command line prints as one line."""


class InputError(UnlearnError, ValueError):
    """Unusable input; the message says what is wrong and what to do."""


class DivergedError(UnlearnError, RuntimeError):
    """Training loss that is not finite."""


class ReportError(UnlearnError, RuntimeError):
    """Failure to write a part of a finished run, whose numbers are stored.

    Args:
      message: one line that says what is missing and why.
      result: value that the run would have returned.
    """

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


def first_line(error: BaseException) -> str:
    """Return the type of an error and its first line."""
    lines = str(error).strip().splitlines()
    name = type(error).__name__
    return f"{name}: {lines[0]}" if lines else name


def is_key(leaf: Any) -> bool:
    """Return whether a leaf is a typed key, or the shape of one."""
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


class DamagedFileError(UnlearnError, RuntimeError):
    """Stored file that is truncated, or was changed after it was written."""


class Variables(NamedTuple):
    """Everything a model's forward pass reads.

    Attributes:
      params: trained leaves.
      state: BatchNorm statistics and the like; an empty dict if the model has none.
    """

    params: Params
    state: ModelState


ApplyFn = Callable[[Any, Array], Array]
"""``(variables, images [B, H, W, ch]) -> logits [B, C]`` in evaluation mode.

The variables are any pytree, opaque to the caller.
"""


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Model:
    """Classifier as three pure functions.

    Static under ``jit``; compared by the identity of its functions.

    Attributes:
      init: ``key -> Variables``.
      apply: ``(variables, images) -> logits [B, C]``, evaluation mode: a logit never
        depends on the rest of the batch.
      apply_train: ``(variables, images, key) -> (logits [B, C], new state)``, training
        mode.
    """

    init: Callable[[Array], Variables]
    apply: ApplyFn
    apply_train: Callable[[Variables, Array, Array], tuple[Array, ModelState]]

    def __post_init__(self) -> None:
        """Note that ``apply`` is pure."""
        with contextlib.suppress(TypeError):  # an object that cannot be hashed
            pure_functions.add(self.apply)


pure_functions: "weakref.WeakSet[ApplyFn]" = weakref.WeakSet()
"""The ``apply`` of every model that exists, and the functions of ensembles."""


class Dataset(NamedTuple):
    """Labeled images, all in memory.

    Attributes:
      images: ``[N, H, W, ch]``, uint8 in 0..255 or float32 in [0, 1]; the model always
        sees float32 in [0, 1].
      labels: ``[N]`` int32 in 0..C-1.
    """

    images: Any
    labels: Any


class Status(enum.IntEnum):
    """Outcome of an adversarial search for one sample."""

    FOUND = 0
    """An input within the radius gets another label."""
    ALREADY_WRONG = 1
    """The clean input is misclassified: its own adversarial example, at distance 0."""
    NOT_FOUND = 2
    """Still classified correctly after the last radius."""
    ZERO_GRADIENT = 3
    """The gradient at the last iterate is zero or not finite: no step was taken."""
    NOT_FINITE = 4
    """The model's largest logit is NaN or infinite there: it has no class."""


class AttackResult(NamedTuple):
    """Outcome of an attack, one row per attacked sample, in the order given.

    Attributes:
      images: ``[B, H, W, ch]`` float32 in [0, 1]; the adversarial input, or the last
        iterate where none was found.
      labels: ``[B]`` int32, the class that the attacked model predicts for ``images``;
        the given label where the status is ``NOT_FINITE``.
      epsilon: ``[B]`` float32, radius of the ball in which the search stopped (0 for
        ``ALREADY_WRONG``).
      distance: ``[B]`` float32, distance between ``images`` and the clean input, at
        most ``epsilon`` up to the rounding of pixels, about 1e-7.
      status: ``[B]`` int32, a :class:`Status`.
      num_gradients: ``[B]`` int32, number of gradients computed for this sample. The
        cost of padding, and of samples that wait for their batch, is not counted.
    """

    images: Array
    labels: Array
    epsilon: Array
    distance: Array
    status: Array
    num_gradients: Array

    @property
    def success(self) -> Array:
        """Mask ``[B]`` of misclassified images, found or already wrong."""
        return (self.status == Status.FOUND) | (self.status == Status.ALREADY_WRONG)


@dataclasses.dataclass(frozen=True, eq=False)
class Count:
    """Number of samples that differs between the problems of one program.

    A count can be added to integers and other counts. It cannot be used as a shape
    (TypeError): pad to ``most`` instead.

    Attributes:
      least: smallest value (static).
      most: largest value (static).
      value: ``[]`` integer, the number itself; may be traced.
    """

    least: int
    most: int
    value: Array

    def __add__(self, other: "int | Count") -> "Count":
        if isinstance(other, Count):
            return Count(
                self.least + other.least,
                self.most + other.most,
                self.value + other.value,
            )
        return Count(self.least + other, self.most + other, self.value + other)

    __radd__ = __add__

    def __sub__(self, other: int) -> "Count":
        return self + -other

    def __rsub__(self, other: int) -> "Count":
        return Count(other - self.most, other - self.least, other - self.value)

    def __mul__(self, factor: int) -> "Count":
        return Count(self.least * factor, self.most * factor, self.value * factor)

    __rmul__ = __mul__

    def divided(self, size: int) -> "Count":
        """Return the number of batches of ``size`` samples, the last one filled up."""
        return Count(
            -(-self.least // size), -(-self.most // size), -(-self.value // size)
        )


def to_float(images: Array) -> Array:
    """Return uint8 images as float32 in [0, 1], others unchanged."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


def value_of(number: int | Count) -> Array | int:
    """Return the value of a number of samples, which may be traced."""
    return number.value if isinstance(number, Count) else number


def most_of(number: int | Count) -> int:
    """Return the largest value of a number of samples (static)."""
    return number.most if isinstance(number, Count) else number


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Problem:
    """Input of an unlearning method: the original model, the data, what to forget.

    A pytree, so that methods can be jitted and mapped over many problems.

    Attributes:
      model: the architecture (static).
      variables: the original model, trained on all of ``train``.
      train: the original training set, forget samples included.
      forget: ``[N]`` bool, True for the samples of ``train`` to forget.
      num_forget: number of samples to forget (static: it sets the sizes of arrays and
        epochs); a :class:`Count` if problems of several sizes share a program, for
        methods that set ``is_padded``.
      adversarial: AMUN's D_A for the forget samples in ascending order, ``[F, ...]``;
        None if not yet computed.
      removed: ``[N]`` bool, True for samples that an earlier request forgot, which are
        in neither D_F nor D_R; None if there are none.
      num_removed: number of removed samples (static).
    """

    model: Model = dataclasses.field(metadata={"static": True})
    variables: Variables
    train: Dataset
    forget: Array
    num_forget: Any = dataclasses.field(metadata={"static": True})
    adversarial: AttackResult | None = None
    removed: Array | None = None
    num_removed: int = dataclasses.field(default=0, metadata={"static": True})

    @property
    def retain(self) -> Array:
        """D_R, the samples of ``train`` to retain, ``[N]`` bool."""
        return ~self.forget if self.removed is None else ~(self.forget | self.removed)

    @property
    def num_retain(self) -> Any:
        """Number of samples to retain, static or a :class:`Count`."""
        return len(self.forget) - self.num_forget - self.num_removed


class UnlearnInfo(NamedTuple):
    """Record of an unlearning run.

    Attributes:
      losses: ``[epochs]`` float32, mean training loss of each epoch (length 0 for
        methods without training).
      num_gradients: per-sample gradient evaluations spent by the method, the cost that
        does not depend on the machine; those of an adversarial attack are not counted.
      guard: measures of the method's assumptions
        (:class:`unlearn_jax.influence.Guard`), to be checked on the host by the caller;
        None for methods without such measures.
    """

    losses: Array
    num_gradients: Array
    guard: Any = None


UnlearnFn = Callable[[Array, Problem], tuple[Variables, UnlearnInfo]]
"""``(key, problem) -> (variables, info)``: pure, the same key gives the same result."""


def check_apply_fn(apply_fn: Any) -> None:
    """Raise unless an argument is a model's apply function.

    Args:
      apply_fn: argument that should be a function ``(variables, images) -> logits``.

    Raises:
      InputError: a :class:`Model`, a Flax module, or anything that cannot be called.
    """
    is_module = any(
        base.__name__ == "Module" and base.__module__.startswith("flax.")
        for base in type(apply_fn).__mro__
    )
    if is_module or hasattr(apply_fn, "apply") or not callable(apply_fn):
        raise InputError(
            "apply_fn must be a function (variables, images) -> logits, got"
            f" {type(apply_fn).__name__}: pass model.apply"
        )
