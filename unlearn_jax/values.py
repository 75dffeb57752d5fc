"""Values: hyperparameters as frozen dataclasses that are JAX pytrees.

A value is a frozen dataclass with a typed field for every hyperparameter. It can be
compared, hashed (unless a field holds an array or a mapping), printed, changed field by
field, and stored as JSON. To JAX it is a pytree. Its float fields are leaves, so that
``jit`` compiles one program for all their values and ``vmap`` maps over them. Nested
values are subtrees, and all other fields are static.

>>> @value
... class Ridge:
...     strength: Real = 0.1
...     num_steps: int = 10
>>> Ridge(strength=1) == Ridge(strength=1.0), jax.tree.leaves(Ridge())
(True, [0.1])
>>> Ridge(num_step=3)
Traceback (most recent call last):
...
TypeError: Ridge.__init__() got an unexpected keyword argument 'num_step'
"""

import contextlib
import copy
import dataclasses
import functools
import importlib
import operator
import os
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.types import Array, InputError

T = TypeVar("T")
Real = float | Array
"""A number that may be traced."""


def static(*, default: float) -> Any:
    """Make a float field that shapes the program, so that it is never traced.

    Args:
      default: default of the field.
    """
    return dataclasses.field(default=default, metadata={"static": True})


def leaf() -> Any:
    """Make a field without a default that holds an array, a leaf of the pytree."""
    return dataclasses.field(metadata={"leaf": True})


@dataclass_transform(
    frozen_default=True,
    kw_only_default=True,
    field_specifiers=(dataclasses.field, static, leaf),
)
def value(cls: type[T]) -> type[T]:
    """Make a class a frozen, keyword-only dataclass that is a pytree.

    The leaves are the fields made by :func:`leaf`, and the fields annotated as
    ``float`` or :data:`Real`, optional or not, except those made by :func:`static`.
    Construction checks the fields that hold plain types, other dataclasses, or tuples
    and mappings of them. It converts integers to floats where a float is expected, and
    paths to strings, but nothing inside a mapping, and then runs the class's own
    ``__post_init__``. JAX's transformations rebuild values without these checks.

    Args:
      cls: the class; its base classes must be values too.

    Returns:
      The same class.

    Raises:
      InputError: a field is called ``type``.
    """
    check = getattr(cls, "__post_init__", None)

    def __post_init__(self: Any) -> None:
        _coerce_fields(self)
        if check is not None:
            check(self)

    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    cls = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    _check_names(cls)
    jax.tree_util.register_pytree_with_keys(
        cls, _flatten_with_keys, functools.partial(_unflatten, cls), _flatten
    )
    return cls


def is_value(candidate: Any) -> bool:
    """Return whether an object is a value: an instance, not a class, of a dataclass."""
    return dataclasses.is_dataclass(candidate) and not isinstance(candidate, type)


def replace(settings: T, /, **changes: Any) -> T:
    """Return a value with some fields changed, including those of nested values.

    A name is searched for in the value itself first, then in its nested values, level
    by level. A dotted name is a path: ``replace(amun, **{"optimizer.momentum": 0.5})``.
    Values are checked after all changes.

    Args:
      settings: a value.
      **changes: new values by field name.

    Returns:
      A value of the same type.

    Raises:
      InputError: a name without a field, or with two fields on one level.
    """
    owners: set[Path] = set()
    for name, new in changes.items():
        path = _find(settings, name)
        settings = _replace_at(settings, path, new)
        # what is replaced as a whole is checked already
        owners = {owner for owner in owners if owner[: len(path)] != path}
        owners |= {path[:depth] for depth in range(len(path))}
    for owner in sorted(owners, key=len, reverse=True):
        unchecked = _get_at(settings, owner)
        if is_value(unchecked):
            settings = _replace_at(settings, owner, dataclasses.replace(unchecked))
    return settings


def fields_of(settings: Any) -> dict[str, Any]:
    """Return the fields that :func:`replace` reaches by their short names.

    Nested values are included both as fields and by their own fields. A name of an
    outer field hides the same name of an inner field; a name that occurs twice on one
    level is left out.

    Args:
      settings: a value.

    Returns:
      Field values by name, outer fields first.
    """
    return {
        name: _get_at(settings, paths[0])
        for name, paths in _paths_by_name(settings).items()
        if len(paths) == 1
    }


def is_traceable(settings: Any, name: str) -> bool:
    """Return whether a field is a leaf, so that a search may trace it.

    Args:
      settings: a value.
      name: name or path of the field, as in :func:`replace`.

    Raises:
      InputError: a name without a field, or with two fields on one level.
    """
    path = _find(settings, name)
    owner = _get_at(settings, path[:-1])
    return path[-1] in _float_fields(type(owner))


def to_json(settings: Any) -> Any:
    """Return a value as JSON: its type and its fields, including nested values.

    Args:
      settings: a value, or anything that a field may hold.

    Returns:
      Dictionaries, lists, strings and numbers. The type of a value is
      ``subpackage.Name`` for this package's types, ``module:Name`` for others; a
      mapping with a name ``type`` is read as a value. An array is stored as a nested
      list with its dtype.

    Raises:
      InputError: a field that JSON cannot hold, such as a function, or one that is
        called ``type``.
    """
    if is_value(settings):
        _check_names(type(settings))
        stored = {"type": _type_name(type(settings))}
        for field in dataclasses.fields(settings):
            stored[field.name] = to_json(getattr(settings, field.name))
        return stored
    if isinstance(settings, tuple | list):
        return [to_json(item) for item in settings]
    if isinstance(settings, Mapping):
        return {str(name): to_json(item) for name, item in settings.items()}
    if settings is None or isinstance(settings, bool | int | float | str):
        return settings
    if isinstance(settings, np.generic | np.ndarray | jax.Array):
        if np.ndim(settings) == 0:
            return settings.item()
        return {"array": np.asarray(settings).tolist(), "dtype": str(settings.dtype)}
    raise InputError(
        f"{_shown(settings)} cannot be stored as JSON: give it by name, or as a value"
        " of a class of its own"
    )


def from_json(stored: Any) -> Any:
    """Return the value that :func:`to_json` stored.

    Args:
      stored: output of :func:`to_json`.

    Raises:
      InputError: a type or a field that does not exist.
    """
    if isinstance(stored, list):
        return tuple(from_json(item) for item in stored)
    if not isinstance(stored, Mapping):
        return stored
    if set(stored) == {"array", "dtype"}:
        return np.asarray(stored["array"], stored["dtype"])
    contents = {name: from_json(item) for name, item in stored.items()}
    if "type" not in contents:
        return contents
    cls = _type_of(str(contents.pop("type")))
    known = {field.name for field in dataclasses.fields(cls)}
    if unknown := sorted(set(contents) - known):
        raise InputError(f"{cls.__name__} has no field {unknown[0]!r}")
    return cls(**contents)


def _check_names(cls: type) -> None:
    """Raise on a field that JSON would take for the name of the class."""
    if "type" in {field.name for field in dataclasses.fields(cls)}:
        raise InputError(
            f"{cls.__name__} has a field 'type', which names the class in JSON: rename"
            " the field"
        )


def _type_name(cls: type) -> str:
    parts = cls.__module__.split(".")
    if parts[0] == "unlearn_jax":
        depth = 3 if parts[1] == "contrib" else 2
        return ".".join([*parts[1:depth], cls.__qualname__])
    return f"{cls.__module__}:{cls.__qualname__}"


def _type_of(name: str) -> type:
    module, _, attribute = name.rpartition(":" if ":" in name else ".")
    prefix = "" if ":" in name else "unlearn_jax."
    try:
        held = importlib.import_module(prefix + module)
        for part in attribute.split("."):
            held = getattr(held, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"there is no type {name!r} of values: {error}") from error
    # stored files are data: they may name dataclasses, and no other callable
    if not isinstance(held, type) or not dataclasses.is_dataclass(held):
        raise InputError(f"{name!r} is not a type of values: it is not a dataclass")
    return held


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _options(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the hint itself."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


@functools.cache
def _float_fields(cls: type) -> frozenset[str]:
    hints = _hints(cls)
    return frozenset(
        field.name
        for field in dataclasses.fields(cls)
        if field.metadata.get("leaf")
        or (float in _options(hints[field.name]) and not field.metadata.get("static"))
    )


def _coerce_fields(settings: Any) -> None:
    """Check and convert the plain fields of a new value."""
    hints = _hints(type(settings))
    for field in dataclasses.fields(settings):
        given = getattr(settings, field.name)
        coerced = _coerce(field.name, given, _options(hints[field.name]))
        if coerced is not given:
            object.__setattr__(settings, field.name, coerced)


def _coerce(name: str, given: Any, options: tuple[Any, ...]) -> Any:
    """Return what a field holds, converted; raise on what none of the options allows.

    Options other than plain types, dataclasses, tuples and mappings allow anything.
    """
    if given is None and type(None) in options:
        return given
    options = tuple(option for option in options if option is not type(None))
    for option in options:
        is_meant = len(options) == 1 or isinstance(given, tuple | list)
        if typing.get_origin(option) is tuple and is_meant:
            return _coerce_tuple(name, given, typing.get_args(option))
    if float in options and not _literals(options):
        if _is_number(given):
            return float(given) if isinstance(given, int | np.number) else given
        if set(options) <= {float, int, Array}:
            raise InputError(f"{name} must be a number, got {_shown(given)}")
    if len(options) != 1:
        return given
    option = options[0]
    if option is bool and not isinstance(given, bool | np.bool_):
        raise InputError(f"{name} must be True or False, got {_shown(given)}")
    if option is int:
        with contextlib.suppress(TypeError):
            if not isinstance(given, bool):
                return operator.index(typing.cast("Any", given))
        raise InputError(f"{name} must be an integer, got {_shown(given)}")
    choices = _literals(options)
    if choices and given not in choices:
        *first, last = map(str, choices)
        listed = f"{', '.join(first)} or {last}" if first else last
        raise InputError(f"unknown {name} {given!r}: choose {listed}")
    if option is str and isinstance(given, os.PathLike):
        given = os.fspath(given)
    kind = typing.get_origin(option) or option
    is_checked = kind in (str, Mapping) or dataclasses.is_dataclass(kind)
    if is_checked and not isinstance(given, kind):
        words = {str: "a string", Mapping: "a mapping"}
        expected = words.get(kind, f"of type {kind.__name__}")
        raise InputError(f"{name} must be {expected}, got {_shown(given)}")
    if kind is Mapping:
        item_options = _options(typing.get_args(option)[1])
        for key, held in typing.cast("Any", given).items():
            _coerce(f"{name}.{key}", held, item_options)
    return given


def _is_number(given: Any) -> bool:
    """Return whether an object is a real number or an array of them."""
    if isinstance(given, int | float):
        return not isinstance(given, bool)
    # of tracers and shapes too
    kind = getattr(given, "dtype", bool)
    return jnp.issubdtype(kind, jnp.integer) or jnp.issubdtype(kind, jnp.floating)


def _coerce_tuple(name: str, given: Any, hints: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a tuple with its items converted, from a tuple or a list.

    Args:
      name: name of the field.
      given: what the field is given.
      hints: types of the items; two of them, the second ``...``, for any number.
    """
    if not isinstance(given, tuple | list):
        raise InputError(
            f"{name} must be a tuple, got {_shown(given)}: put it into (..., )"
        )
    if hints[-1:] == (...,):
        hints = hints[:1] * len(given)
    if len(given) != len(hints):
        raise InputError(f"{name} must have {len(hints)} items, got {_shown(given)}")
    items = []
    for position, (held, hint) in enumerate(zip(given, hints, strict=True)):
        items.append(_coerce(f"{name}[{position}]", held, _options(hint)))
    return tuple(items)


def _shown(given: Any) -> str:
    """Return the representation of an object as a line of at most 80 characters."""
    text = " ".join(repr(given).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _literals(options: tuple[Any, ...]) -> list[Any]:
    """Return the choices of a field's ``Literal`` hints."""
    choices = []
    for option in options:
        if typing.get_origin(option) is typing.Literal:
            choices += typing.get_args(option)
    return choices


def _is_subtree(held: Any) -> bool:
    """Return whether a field holds a pytree of its own: a value, or several.

    A dataclass that is not a pytree is static, and so is a tuple that holds one.
    """
    if isinstance(held, tuple):
        return bool(held) and all(_is_subtree(item) for item in held)
    return is_value(held) and not jax.tree_util.all_leaves([held])


def _split(settings: Any) -> tuple[list[str], tuple[tuple[str, Any], ...]]:
    """Return the names of the fields that are children, and the static fields."""
    leaves = _float_fields(type(settings))
    dynamic = []
    fixed = []
    for field in dataclasses.fields(settings):
        held = getattr(settings, field.name)
        if field.name in leaves or _is_subtree(held):
            dynamic.append(field.name)
        else:
            fixed.append((field.name, held))
    return dynamic, tuple(fixed)


def _flatten(settings: Any) -> tuple[list[Any], Any]:
    names, fixed = _split(settings)
    return [getattr(settings, name) for name in names], (tuple(names), fixed)


def _flatten_with_keys(settings: Any) -> tuple[list[Any], Any]:
    children, fixed = _flatten(settings)
    keys = [jax.tree_util.GetAttrKey(name) for name in fixed[0]]
    return list(zip(keys, children, strict=True)), fixed


def _unflatten(cls: type, structure: Any, children: Any) -> Any:
    names, fixed = structure
    settings = object.__new__(cls)
    for name, held in (*zip(names, children, strict=True), *fixed):
        object.__setattr__(settings, name, held)
    return settings


Path = tuple[str, ...]


def _paths_by_name(settings: Any) -> dict[str, list[Path]]:
    """Return the paths of each field name on the outermost level where it occurs."""
    paths_by_name: dict[str, list[Path]] = {}
    level: list[Path] = [()]
    while level:
        level_paths: dict[str, list[Path]] = {}
        below: list[Path] = []
        for place in level:
            owner = _get_at(settings, place)
            for field in dataclasses.fields(owner):
                path = (*place, field.name)
                level_paths.setdefault(field.name, []).append(path)
                below += _nested(path, getattr(owner, field.name))
        for name, paths in level_paths.items():
            paths_by_name.setdefault(name, paths)
        level = below
    return paths_by_name


def _nested(path: Path, held: Any) -> list[Path]:
    if is_value(held):
        return [path]
    if isinstance(held, tuple):
        return [(*path, str(i)) for i, item in enumerate(held) if is_value(item)]
    return []


def _find(settings: Any, name: str) -> Path:
    if "." in name:
        path = tuple(name.split("."))
        try:
            _get_at(settings, path)
        except (AttributeError, LookupError, TypeError):
            raise InputError(
                f"{type(settings).__name__} has no field {name!r}"
            ) from None
        return path
    paths = _paths_by_name(settings)
    if name not in paths:
        known = ", ".join(sorted(paths))
        raise InputError(
            f"{type(settings).__name__} has no field {name!r}; it has {known or 'none'}"
        )
    if len(paths[name]) > 1:
        listed = " or ".join(".".join(path) for path in paths[name])
        raise InputError(f"{name!r} could mean {listed}: choose one")
    return paths[name][0]


def _get_at(settings: Any, path: Path) -> Any:
    for name in path:
        if isinstance(settings, tuple):
            if not name.isdecimal():
                raise LookupError(name)
            settings = settings[int(name)]
        elif name in {field.name for field in dataclasses.fields(settings)}:
            settings = getattr(settings, name)
        else:
            raise AttributeError(name)
    return settings


def _replace_at(settings: Any, path: Path, new: Any) -> Any:
    """Return a value with one field changed, without checks."""
    if not path:
        return new
    inner = _replace_at(_get_at(settings, path[:1]), path[1:], new)
    if isinstance(settings, tuple):
        position = int(path[0])
        return (*settings[:position], inner, *settings[position + 1 :])
    changed = copy.copy(settings)
    object.__setattr__(changed, path[0], inner)
    return changed
