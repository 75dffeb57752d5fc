"""Presets are the files of ``experiments/``: each defines ``PRESET``, several as ``STUDY``, or an ``EXPERIMENT``.

A ``PRESET`` is a run, and its file may bring its own data, network and loss.
"""

import dataclasses
import importlib.util
import pathlib
import re
import sys
from typing import Any

from unlearn_jax import methods
from unlearn_jax.pipeline.config.resolve import optimizer_name, options_of
from unlearn_jax.pipeline.config.schema import RunConfig
from unlearn_jax.pipeline.experiment import Experiment
from unlearn_jax.types import InputError


@dataclasses.dataclass(frozen=True)
class Preset:
    """One experiment file.

    Attributes:
      name: the file's stem.
      about: first line of its docstring.
      variants: its ``STUDY``, or its ``PRESET`` as the only variant with an empty name;
        rows completed with the defaults of their knobs.
      hooks: its ``make_splits() -> Splits``,
        ``make_model(image_shape, num_classes) -> Model`` and
        ``make_loss(model) -> LossFn``, where it has them.
      experiment: its ``EXPERIMENT``; it has no variants then.
    """

    name: str
    about: str
    variants: dict[str, RunConfig]
    hooks: dict[str, Any]
    experiment: Experiment | None = None

    @property
    def config(self) -> RunConfig:
        """The first variant of a file that is not an experiment."""
        return next(iter(self.variants.values()))


_FOLLOW = ("augment", "max_norm", "clip_period")
"""Hyperparameters that follow the training unless a row gives them."""


def folders() -> list[pathlib.Path]:
    """Where presets are looked for: inside the installed package, or beside it in a checkout."""
    package = pathlib.Path(__file__).resolve().parents[1]
    return [
        folder
        for folder in (package / "experiments", package.parent / "experiments")
        if folder.is_dir()
    ]


def names() -> dict[str, pathlib.Path]:
    """The presets that come with the package."""
    return {
        file.stem: file
        for folder in reversed(folders())
        for file in sorted(folder.glob("*.py"))
    }


def complete(config: RunConfig) -> RunConfig:
    """Write the plain hyperparameters of every row into it, to be seen and overridden.

    Args:
      config: of a run.
    """
    rows = {}
    for name, row in config.rows.items():
        options = options_of(row, config.training) if "method" in row else {}
        plain = {
            option: default
            for option, default in options.items()
            if isinstance(default, bool | int | float | str) and option not in _FOLLOW
        }
        optimizer = optimizer_name(options.get("optimizer"))
        if optimizer is not None:
            plain["optimizer"] = optimizer
        search = (
            {"search": methods.SPACES.get(row.get("method", ""), {})}
            if config.tuning.trials
            else {}
        )
        rows[name] = {"label": name, **search, **plain, **row}
    return dataclasses.replace(config, rows=rows)


def load(name: str) -> Preset:
    """A preset by name, or by the path of a file that defines one.

    Raises:
      InputError: no such preset, or a file without one.
    """
    path = pathlib.Path(name) if name.endswith(".py") else names().get(name)
    if path is None or not path.is_file():
        raise InputError(
            f"unknown preset {name!r}: choose one of {', '.join(sorted(names()))}, "
            "or give the path of a file that defines one"
        )
    scope = _execute(path)
    about = (scope.get("__doc__") or "").strip().splitlines()
    about = about[0] if about else ""
    if isinstance(scope.get("EXPERIMENT"), Experiment):
        return Preset(path.stem, about, {}, {}, scope["EXPERIMENT"])
    variants = scope.get("STUDY", {"": scope.get("PRESET")})
    if "STUDY" in scope and not all(
        re.fullmatch(r"[A-Za-z0-9_.+-]+", name) for name in variants
    ):
        raise InputError(
            "variants of a STUDY are named with letters, digits and _, got"
            f" {', '.join(map(repr, variants))}"
        )
    if not variants or not all(
        isinstance(config, RunConfig) for config in variants.values()
    ):
        raise InputError(
            f"{path} defines no PRESET that is an unlearn_jax.pipeline.RunConfig, no"
            " STUDY, a dict of them, and no EXPERIMENT"
        )
    hooks = {
        key: scope[key]
        for key in ("make_splits", "make_model", "make_loss")
        if key in scope
    }
    completed = {name: complete(config) for name, config in variants.items()}
    return Preset(path.stem, about, completed, hooks)


def _execute(path: pathlib.Path) -> dict[str, Any]:
    """What a preset file defines. It is a module while the process lives: its dataclasses show their help from it."""
    name = f"unlearn_jax_preset_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise InputError(
            f"{path} is not valid Python: {error.msg} in line {error.lineno}"
        ) from error
    except InputError:
        raise
    except (
        ImportError,
        NameError,
        AttributeError,
        TypeError,
        ValueError,
        LookupError,
    ) as error:
        raise InputError(
            f"{path} cannot be read: {type(error).__name__}:"
            f" {str(error).splitlines()[0]}"
        ) from error
    return vars(module)
