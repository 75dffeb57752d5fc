"""Parsing of the command line: every field of a value is an option."""

import contextlib
import dataclasses
import difflib
import functools
import io
import os
import pathlib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar, Union

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructTypeInfo,
)

from unlearn_jax import values
from unlearn_jax.types import InputError

T = TypeVar("T")
_HELP = (
    "Fields of the configuration; further options: unlearn-jax run --help."
    " Also --training.objective=NAME, --rows.ROW.method=METHOD (with a new ROW"
    " it adds the row), --rows.ROW.method.optimizer=NAME; the names that they"
    " take are at the end."
)
"""Description of a configuration's fields in the help."""
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
    fields = [dataclasses.replace(field, type=_type_of(field)) for field in spec.fields]
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


def parse(
    kind: type[T] | Callable[..., T],
    arguments: Sequence[str],
    prog: str,
    default: T | None = None,
    *,
    has_flags: bool = False,
) -> T:
    """Return the value of a class, or the result of a function, from its options.

    Args:
      kind: class or function; its fields or parameters are the options.
      arguments: words of the command line.
      prog: command that precedes the arguments.
      default: value whose fields are the defaults.
      has_flags: whether booleans are given as ``--check``, not as ``--check=True``.

    Raises:
      InputError: unknown options, or values of the wrong type, in one line.
      SystemExit: the arguments ask for the help, which is then printed.
    """
    options = {} if default is None else {"default": default, "description": _HELP}
    parsed, unknown = _parse(kind, arguments, prog, has_flags=has_flags, **options)
    if unknown:
        flag = unknown[0].partition("=")[0]
        name = flag.removeprefix("--").replace("-", "_")
        near = difflib.get_close_matches(name, _option_names(default), 1, 0.8)
        hint = f": did you mean --{near[0]}?" if near else ""
        raise InputError(f"unknown argument {flag}{hint} (see {prog} --help)")
    return parsed


def _option_names(value: Any, prefix: str = "") -> list[str]:
    """Return the dotted names of the fields and entries of a value."""
    if isinstance(value, Mapping):
        members = {str(name): member for name, member in value.items()}
    elif dataclasses.is_dataclass(value):
        members = {
            field.name: getattr(value, field.name)
            for field in dataclasses.fields(value)
        }
    else:
        return []
    names = []
    for name, member in members.items():
        names += [prefix + name, *_option_names(member, f"{prefix}{name}.")]
    return names


def parse_known(
    kind: type[T], arguments: Sequence[str], prog: str
) -> tuple[T, list[str]]:
    """Return the value of a class from its options, and the remaining arguments.

    Booleans are given as ``--check``. A request for the help is left to the remaining
    arguments.

    Args:
      kind: class; its fields are the options.
      arguments: words of the command line.
      prog: command that precedes the arguments.

    Raises:
      InputError: values of the wrong type, in one line.
    """
    return _parse(kind, arguments, prog, has_flags=True, add_help=False)


def _parse(
    kind: type[T] | Callable[..., T],
    arguments: Sequence[str],
    prog: str,
    *,
    has_flags: bool,
    **options: Any,
) -> tuple[T, list[str]]:
    """Return tyro's value and the unknown arguments; errors are one line."""
    markers: tuple[Any, ...] = (tyro.conf.AvoidSubcommands,)
    if not has_flags:
        markers += (tyro.conf.FlagConversionOff,)
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
            return tyro.cli(
                kind,
                args=list(arguments),
                prog=prog,
                config=markers,
                registry=REGISTRY,
                return_unknown_args=True,
                **options,
            )
    except SystemExit as stop:
        if not stop.code:
            print(output.getvalue())
            raise
        message = _unboxed(output.getvalue())
        raise InputError(f"{message} (see {prog} --help)") from None


def _unboxed(text: str) -> str:
    """Return tyro's error as one line.

    tyro draws a box with a title, the fault, rules, and a hint at more help.
    """
    words: list[str] = []
    for line in text.splitlines()[1:]:
        line = line.strip("│╭╮╰╯─ ")
        if line.startswith(("Argument helptext", "For full helptext")):
            break
        if line.strip("-"):
            words += line.split()
    return " ".join(words)


def delayed(command: Callable[..., T]) -> Callable[..., Callable[[], T]]:
    """Return a function that binds arguments, so that tyro parses but does not run.

    Args:
      command: function to call later.
    """

    @functools.wraps(command)
    def bind(*args: Any, **options: Any) -> Callable[[], T]:
        return functools.partial(command, *args, **options)

    return bind
