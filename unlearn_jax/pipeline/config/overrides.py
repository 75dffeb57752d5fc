"""Overrides of a configuration by the words of a command line.

:func:`choose_values` replaces whole values by name: a method, an optimizer, a network.
The command line then reads the fields, and :func:`pin_overridden_fields` keeps the
fields that it names from following the run.
"""

import dataclasses
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from unlearn_jax import extensions, methods, values
from unlearn_jax.filters import FILTERS
from unlearn_jax.objectives import OBJECTIVES
from unlearn_jax.optimizers import OPTIMIZERS
from unlearn_jax.pipeline.config.resolve import (
    complete,
    followed,
    method_name,
    options_of,
)
from unlearn_jax.pipeline.config.schema import (
    Architecture,
    ModelConfig,
    Row,
    RunConfig,
)
from unlearn_jax.types import InputError, UnlearnFn


def _method_named(name: str) -> Any:
    """Return a method by its name, or None if there is none of that name.

    The method may be another package's, by ``package.module:attribute`` or entry point.

    Raises:
      InputError: another package's method cannot be imported, or is not a method.
    """
    if name in methods.METHODS:
        return methods.METHODS[name]
    if ":" not in name and name not in extensions.names("methods"):
        return None
    method = extensions.find("methods", name)
    if not values.is_value(method) or not callable(method):
        raise InputError(
            f"{name} must be a method with its hyperparameters: a frozen dataclass"
            " (unlearn_jax.values.value) with __call__(key, problem); got"
            f" {method!r}"
        )
    return method


def _method_names() -> str:
    """Return the names of all methods, for a message."""
    return ", ".join([*methods.METHODS, *extensions.names("methods")])


def choose_values(
    config: RunConfig, arguments: Sequence[str]
) -> tuple[RunConfig, list[str]]:
    """Replace values of a configuration by registered values, given by name.

    The new values have the defaults with which they are registered. Another network
    replaces all fields of the network but ``conv`` and ``dtype``. A method for a row
    that does not exist adds the row. A method may be another package's, by
    ``package.module:attribute`` or entry point.

    Args:
      config: completed configuration.
      arguments: command-line arguments, such as ``--model.name=resnet``,
        ``--training.objective=trades``, ``--rows.amun.method=salun``,
        ``--rows.amun.method.optimizer=adam`` or ``--rows.mask.method.filter=mpru``.

    Returns:
      The completed configuration, and the remaining arguments.

    Raises:
      InputError: a name is not registered.

    Warns:
      UserWarning: a row's own search does not fit its new method.
    """
    registries: dict[str, tuple[str, Mapping[str, Any]]] = {
        "__training.objective": ("objective", OBJECTIVES),
        "__model.name": ("model", {name: name for name in get_args(Architecture)}),
    }
    config = _with_rows(config, arguments)
    for key in config.rows:
        row_name = _dotted_name(key)
        registries[f"{row_name}.method"] = ("method", methods.METHODS)
        registries[f"{row_name}.method.optimizer"] = ("optimizer", OPTIMIZERS)
        registries[f"{row_name}.method.filter"] = ("filter", FILTERS)
    chosen: dict[str, Any] = {}
    others = []
    words = iter(arguments)
    for word in words:
        flag, is_joined, name = word.partition("=")
        flag = flag.replace("-", "_")
        if flag not in registries:
            others.append(word)
            continue
        name = name if is_joined else next(words, "")
        kind, registry = registries[flag]
        value = _method_named(name) if kind == "method" else registry.get(name)
        if value is None:
            known = _method_names() if kind == "method" else ", ".join(registry)
            raise InputError(f"unknown {kind} {name!r}; choose one of {known}")
        chosen[flag] = value
    if not chosen:
        return config, others
    if "__model.name" in chosen:
        network = ModelConfig(
            name=chosen["__model.name"],
            conv=config.model.conv,
            dtype=config.model.dtype,
        )
        if network.name != config.model.name:
            config = dataclasses.replace(config, model=network)
    training = config.training
    if "__training.objective" in chosen:
        objective = chosen["__training.objective"]()
        training = dataclasses.replace(training, objective=objective)
    rows = dict(config.rows)
    for key, row in config.rows.items():
        flag = f"{_dotted_name(key)}.method"
        if flag in chosen:
            rows[key] = _with_method(key, row, chosen[flag])
    config = complete(dataclasses.replace(config, training=training, rows=rows))
    rows = dict(config.rows)
    for key, row in config.rows.items():
        for field in ("optimizer", "filter"):
            flag = f"{_dotted_name(key)}.method.{field}"
            if flag not in chosen:
                continue
            if field not in values.fields_of(row.method):
                raise InputError(f"the method of row {key!r} has no {field}")
            method = values.replace(row.method, **{field: chosen[flag]})
            row = dataclasses.replace(row, method=method)
            if field == "optimizer":
                others_followed = (name for name in followed(row) if name != "momentum")
                row = dataclasses.replace(row, follow=tuple(others_followed))
        rows[key] = row
    return dataclasses.replace(config, rows=rows), others


def _with_rows(config: RunConfig, arguments: Sequence[str]) -> RunConfig:
    """Return a configuration with added rows for arguments that name a new row."""
    rows = dict(config.rows)
    known = [_dotted_name(key) for key in rows]
    for position, word in enumerate(arguments):
        match = re.fullmatch(r"--rows\.([^.=]+)\.method(?:=(.*))?", word)
        if match is None or _dotted_name(match[1]) in known:
            continue
        name = match[2]
        if name is None:
            name = next(iter(arguments[position + 1 : position + 2]), "")
        method = _method_named(name)
        if method is None:
            raise InputError(
                f"the run has no row {match[1]!r}, and no method is called {name!r}:"
                f" rows are {', '.join(rows)}, methods {_method_names()}"
            )
        rows[match[1]] = Row(method=method, label=match[1])
        known.append(_dotted_name(match[1]))
    if len(rows) == len(config.rows):
        return config
    return complete(dataclasses.replace(config, rows=rows))


def _dotted_name(key: str) -> str:
    """Return the dotted name of a row on the command line, such as ``__rows.amun``.

    Dashes are underscores, so that ``--rows.a-b`` and ``--rows.a_b`` compare equal.
    """
    return f"__rows.{key}".replace("-", "_")


def _with_method(key: str, row: Row, method: UnlearnFn) -> Row:
    """Return a row with another method; the row's own search is kept if it fits."""
    name = method_name(method)
    search = row.search
    if search is not None:
        options = options_of(method)
        misfits = [
            option
            for option, levels in search.items()
            if option not in options
            or (isinstance(levels, Mapping) and not values.is_traceable(method, option))
        ]
        is_own = search != methods.SPACES.get(method_name(row.method), {})
        if misfits and is_own:
            warnings.warn(
                f"row {key!r} searches {misfits[0]!r}, which {name!r} cannot: that"
                " method's own hyperparameters are searched",
                stacklevel=3,
            )
        if misfits or not is_own:
            search = None
    return dataclasses.replace(
        row, method=method, label=name, search=search, follow=None
    )


def pin_overridden_fields(config: RunConfig, arguments: Sequence[str]) -> RunConfig:
    """Pin the fields of methods that a command line sets, even to their usual values.

    A pinned field keeps the value of the command line: it is removed from the fields
    that follow the run and from the hyperparameters that the row searches.

    Args:
      config: configuration read from the command line.
      arguments: command-line arguments, such as ``--rows.amun.method.batch-size=32``.

    Returns:
      The configuration, with other fields ``follow`` and ``search`` of its rows.
    """
    flags = [word.partition("=")[0].replace("-", "_") for word in arguments]
    rows = {}
    for key, row in config.rows.items():
        prefix = f"{_dotted_name(key)}.method."
        # a filtered method has the fields of the method that it holds
        given = {
            flag.removeprefix(prefix).removeprefix("method.")
            for flag in flags
            if flag.startswith(prefix)
        }
        fields = {path.split(".")[0] for path in given}
        fields |= {"momentum"} if "optimizer" in fields else set()
        follow = tuple(field for field in followed(row) if field not in fields)
        space = row.search
        if space is None:
            space = methods.SPACES.get(method_name(row.method), {})
        # a search names nested fields by their last part
        options = given | {path.split(".")[-1] for path in given}
        if options & set(space):
            left = {name: space[name] for name in space if name not in options}
            row = dataclasses.replace(row, search=left)
        rows[key] = dataclasses.replace(row, follow=follow)
    return dataclasses.replace(config, rows=rows)
