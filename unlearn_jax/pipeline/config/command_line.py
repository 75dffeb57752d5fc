"""Values on the command line: every field of a value is an option."""

import os
import pathlib
import types
import typing
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Union

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructTypeInfo,
)

from unlearn_jax import values

REGISTRY = ConstructorRegistry()
"""Rules for :func:`tyro.cli`."""

_expanding: list[StructTypeInfo] = []


@REGISTRY.primitive_rule
def _read_path(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Read a path; ``~`` is the home folder."""
    if info.type is not pathlib.Path:
        return None

    def read(words: list[str]) -> pathlib.Path:
        if not words[0]:
            # an unset variable gives an empty path, the current directory otherwise
            raise ValueError("the path is empty")
        return pathlib.Path(os.path.expanduser(words[0]))

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=read,
        is_instance=lambda given: isinstance(given, pathlib.Path),
        str_from_instance=lambda path: [str(path)],
    )


@REGISTRY.struct_rule
def _expand_value(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Expand a value by the types its fields hold, not all that annotations allow."""
    if not values.is_value(info.default):
        return None
    if any(other is info for other in _expanding):
        # the call below asks for tyro's own rule
        return None
    _expanding.append(info)
    try:
        spec = ConstructorRegistry.get_struct_spec(info)
    finally:
        _expanding.pop()
    if not isinstance(spec, StructConstructorSpec):
        return None
    fields = [replace(field, type=_type_of(field)) for field in spec.fields]
    return StructConstructorSpec(spec.instantiate, tuple(fields))


def _type_of(field: Any) -> Any:
    """Return the type to which a field's text is parsed."""
    held = field.default
    if values.is_value(held):
        return type(held)
    if isinstance(held, tuple) and any(map(values.is_value, held)):
        return tuple.__class_getitem__(tuple(type(item) for item in held))
    is_empty = isinstance(held, Mapping) and not held
    if is_empty or (field.name == "search" and held is None):
        # a command line can only override entries that the preset has
        return Annotated[Any, tyro.conf.Suppress]
    if isinstance(held, Mapping):
        return dict
    members = typing.get_args(field.type)
    if typing.get_origin(field.type) not in (Union, types.UnionType):
        return field.type
    readable = [member for member in members if _is_readable(member)]
    return Union[tuple(readable)] if readable else field.type  # noqa: UP007


def _is_readable(kind: Any) -> bool:
    """Return whether a value of a type can be parsed from text."""
    if typing.get_origin(kind) in (tuple, typing.Literal):
        return True
    return kind in (bool, int, float, str, type(None))
