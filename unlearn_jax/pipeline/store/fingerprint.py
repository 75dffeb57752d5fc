"""Digests of a user's code: of the program that JAX traces, or of the source files.

Stored models are identified by what determines them. For a user's network or loss, that
is the traced program with its constants: two functions with the same program have the
same digest, and a changed constant changes it. For a user's method or attack, it is the
files that define it.
"""

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax import values
from unlearn_jax.attacks import Attack
from unlearn_jax.data import Splits
from unlearn_jax.pipeline.config.checks import check_logits
from unlearn_jax.pipeline.store import trees
from unlearn_jax.train import Batch, LossFn, cross_entropy_loss
from unlearn_jax.types import InputError, Model, UnlearnFn


def program_digest(fun: Callable[..., Any], *args: Any) -> str:
    """Return the SHA-256 of a function's traced program and of its constants.

    The code inside of callbacks, such as ``jax.pure_callback``, is not in the program
    and does not count.

    Args:
      fun: traceable function.
      *args: arguments: arrays, keys or ``jax.ShapeDtypeStruct``, in any pytree.
    """
    closed = jax.make_jaxpr(fun)(*args)
    digest = hashlib.sha256(_without_addresses(str(closed)).encode())
    for constant in _constants(closed.jaxpr, closed.consts):
        array = np.asarray(trees.plain(constant))
        digest.update(f"{array.shape} {array.dtype}".encode() + array.tobytes())
    return digest.hexdigest()


def _constants(jaxpr: Any, consts: Any) -> Iterator[Any]:
    """Yield the captured arrays of a program and of the programs inside it."""
    yield from consts
    for equation in jaxpr.eqns:
        yield from (var.val for var in equation.invars if hasattr(var, "val"))
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")
        ):
            if hasattr(inner, "eqns"):
                yield from _constants(
                    getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
                )


def model_digest(model: Model, splits: Splits, loss_fn: LossFn | None = None) -> str:
    """Return the digest of a network's init, its logits and the loss's gradient.

    Args:
      model: the network.
      splits: the data; only the shapes matter.
      loss_fn: the training objective; cross-entropy if None.

    Raises:
      InputError: the logits do not have one column per class.
    """
    key = jax.random.key(0)
    variables = jax.eval_shape(model.init, key)
    images = jax.ShapeDtypeStruct((2, *splits.train.images.shape[1:]), jnp.float32)
    labels = jax.ShapeDtypeStruct((2,), jnp.int32)
    check_logits(model, splits)
    loss = loss_fn or cross_entropy_loss(model)

    def gradient(params: Any, state: Any, images: Any, labels: Any, key: Any) -> Any:
        batch = Batch(images, labels, labels)
        return jax.value_and_grad(
            lambda p: loss(variables._replace(params=p, state=state), batch, key),
            has_aux=True,
        )(params)

    init = program_digest(model.init, key)
    apply = program_digest(model.apply, variables, images)
    step = program_digest(
        gradient, variables.params, variables.state, images, labels, jax.random.key(0)
    )
    return hashlib.sha256((init + apply + step).encode()).hexdigest()


def package_digest() -> str:
    """Return the SHA-256 of the package's source files, including native ones."""
    digest = hashlib.sha256()
    root = pathlib.Path(values.__file__).parent
    for file in sorted([*root.rglob("*.py"), *root.rglob("*.cc")]):
        digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def code_digest(value: UnlearnFn | Attack) -> str:
    """Return a hash of the files that define a user's own methods and attacks.

    A method of this package is identified by its hyperparameters, because the package's
    version is part of the keys of attacks and methods. A user's code may change between
    two runs, so its files count as well.

    Args:
      value: method or attack; the values that it holds count as well.

    Raises:
      InputError: a class has no file, such as one typed into an interpreter.
    """
    files = set()
    for item in held_values(value):
        if not type(item).__module__.startswith("unlearn_jax."):
            try:
                files.add(inspect.getfile(type(item)))
            except (TypeError, OSError):
                raise InputError(
                    f"{type(item).__name__} is not defined in a file, so its results"
                    " cannot be found again: put the class into a module"
                ) from None
    return _files_digest(files)


def functions_digest(functions: Iterable[Callable[..., Any]]) -> str:
    """Return a hash of the files that define a user's own functions.

    Args:
      functions: functions, whose files count unless they belong to this package.
        Functions inside ``jax.jit`` and ``functools.partial`` count, and so do given
        arguments, and the class and the attributes of a callable instance.
    """
    files = set()
    texts = []
    waiting = list(functions)
    while waiting:
        function = inspect.unwrap(waiting.pop(0))
        if isinstance(function, functools.partial):
            arguments = [*function.args, *function.keywords.values()]
            waiting += [function.func, *filter(callable, arguments)]
            texts.append(repr((function.args, sorted(function.keywords.items()))))
            continue
        if not isinstance(function, type) and not hasattr(function, "__name__"):
            texts.append(repr(sorted(getattr(function, "__dict__", {}).items())))
            function = type(function)
        # a compiled function has no file, but its package has a version
        with contextlib.suppress(TypeError):
            files.add(inspect.getfile(function))
    package = pathlib.Path(values.__file__).parent
    outside = set()
    for file in files:
        path = pathlib.Path(file)
        if path.is_file() and not path.is_relative_to(package):
            outside.add(file)
    if not texts:
        return _files_digest(outside)
    text = _without_addresses(_files_digest(outside) + "".join(texts))
    return hashlib.sha256(text.encode()).hexdigest()


def _without_addresses(text: str) -> str:
    """Return a text without the addresses of functions, which differ between runs."""
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def _files_digest(files: Iterable[str]) -> str:
    """Return a hash of the contents of files, in the order of their paths."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(pathlib.Path(file).read_bytes())
    return digest.hexdigest()


def held_values(value: object) -> Iterator[object]:
    """Yield a value, and the values among its fields, to any depth.

    Args:
      value: method or attack, or a tuple of values.
    """
    if isinstance(value, tuple):
        for item in value:
            yield from held_values(item)
    elif values.is_value(value):
        yield value
        for field in dataclasses.fields(value):  # pyright: ignore[reportArgumentType]
            yield from held_values(getattr(value, field.name))
