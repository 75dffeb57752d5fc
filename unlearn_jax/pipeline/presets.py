"""Presets: files that define a ``PRESET``, several as ``STUDY``, or an ``EXPERIMENT``.

A ``PRESET`` is a run, and its file may bring its own data, network and loss. Listing
presets imports no JAX, which takes most of a second.
"""

import ast
import dataclasses
import difflib
import importlib.util
import json
import os
import pathlib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlearn_jax.pipeline.config.schema import RunConfig
    from unlearn_jax.pipeline.experiment import Experiment

PACKAGE = pathlib.Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Preset:
    """One experiment file.

    Attributes:
      name: the file's stem.
      about: first line of its docstring.
      variants: its ``STUDY``, or its ``PRESET`` as the only variant with an empty name;
        rows completed with what they take from their run.
      hooks: its ``make_splits() -> Splits``,
        ``make_model(image_shape, num_classes) -> Model`` and
        ``make_loss(model) -> LossFn``, where it has them.
      experiment: its ``EXPERIMENT``; it has no variants then.
    """

    name: str
    about: str
    variants: "dict[str, RunConfig]"
    hooks: dict[str, Any]
    experiment: "Experiment | None" = None

    @property
    def config(self) -> "RunConfig":
        """The first variant of a file that is not an experiment."""
        return next(iter(self.variants.values()))

    def parts(self, config: "RunConfig") -> dict[str, Any]:
        """Return a user's own data, network and loss, as :func:`run` takes them.

        Args:
          config: of the variant; gives the data where the file brings none.
        """
        from unlearn_jax.pipeline.config.resolve import load_data

        parts: dict[str, Any] = {}
        if "make_splits" in self.hooks:
            parts["splits"] = self.hooks["make_splits"]()
        if "make_model" in self.hooks:
            if "splits" not in parts:
                parts["splits"] = load_data(config.data)
            splits = parts["splits"]
            shape = splits.train.images.shape[1:]
            parts["model"] = self.hooks["make_model"](shape, splits.num_classes)
        if "make_loss" in self.hooks:
            parts["loss_fn"] = self.hooks["make_loss"](parts.get("model"))
        return parts


def folders() -> list[pathlib.Path]:
    """Return the folders of presets: in the installed package, or in a checkout."""
    return [
        folder
        for folder in (PACKAGE / "experiments", PACKAGE.parent / "experiments")
        if folder.is_dir()
    ]


def names() -> dict[str, pathlib.Path]:
    """Return the presets that come with the package."""
    return {
        file.stem: file
        for folder in reversed(folders())
        for file in sorted(folder.glob("*.py"))
    }


def about(name: str) -> str:
    """Return the first line of a preset's docstring, without running its file.

    Args:
      name: of a preset that comes with the package.
    """
    text = ast.get_docstring(ast.parse(names()[name].read_text(encoding="utf-8"))) or ""
    return text.strip().splitlines()[0] if text else ""


def methods() -> dict[str, str]:
    """Return what each registered method does, from the page of the methods."""
    text = (PACKAGE / "methods" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", text.replace(r"\|", "\0"), re.M)
    return {name: about.replace("\0", "|") for name, about in rows}


def constants(file: str, name: str) -> list[str]:
    """Return the texts of a tuple, or the keys of a dictionary, that a module defines.

    Args:
      file: of the module, relative to the package.
      name: of the tuple or dictionary.
    """
    for node in ast.parse((PACKAGE / file).read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if name not in [getattr(target, "id", None) for target in targets]:
            continue
        value: Any = getattr(node, "value", None)
        parts: Any = value.keys if isinstance(value, ast.Dict) else value.elts
        return [part.value for part in parts]
    raise ValueError(f"{file} defines no {name}")


def _file_of(name: str) -> pathlib.Path | None:
    """Return the file of a preset's name or path; None if there is none."""
    path = names().get(name)
    if name.endswith((".py", ".json")):
        path = pathlib.Path(os.path.expanduser(name))
    return path if path is not None and path.is_file() else None


def _unknown(name: str) -> str:
    return (
        f"unknown preset {name!r}: choose one of {', '.join(sorted(names()))}, or give"
        " the path of a file that defines one"
    )


def _classes(tree: ast.Module) -> dict[str, dict[str, str]]:
    """Return the annotated fields of a module's classes, with their annotations."""
    classes: dict[str, dict[str, str]] = {}
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        classes[node.name] = {
            field.target.id: ast.unparse(field.annotation)
            for field in node.body
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        }
    return classes


def misspelled(arguments: Sequence[str], options: Iterable[str] = ()) -> str:
    """Return what is wrong with the words behind ``run``, by their spelling alone.

    What needs no import: a preset, and fields of the parts of a configuration that all
    presets have. Those of a network, of rows and of experiments are not looked at.

    Args:
      arguments: a preset, then options and fields.
      options: that are no fields.

    Returns:
      One line; empty where nothing is found.
    """
    if not arguments or arguments[0].startswith("-"):
        return ""
    name, *words = arguments
    path = _file_of(name)
    if path is None:
        return _unknown(name)
    if path.suffix == ".py":
        try:
            body = ast.parse(path.read_text(encoding="utf-8")).body
        except (SyntaxError, UnicodeDecodeError):
            return ""
        targets = [getattr(one, "targets", [None])[0] for one in body]
        if not {"PRESET", "STUDY"} & {getattr(one, "id", "") for one in targets}:
            return ""
    schema = PACKAGE / "pipeline" / "config" / "schema.py"
    classes = _classes(ast.parse(schema.read_text(encoding="utf-8")))
    known = {*options, *(f"no_{option}" for option in options), "help"}
    for field, kind in classes["RunConfig"].items():
        known.add(field)
        if kind != "ModelConfig":
            known |= {f"{field}.{member}" for member in classes.get(kind, {})}
    for word in words:
        flag = word.removeprefix("--").partition("=")[0].replace("-", "_")
        start = ".".join(flag.split(".")[:2])
        is_open = start.split(".")[0] in ("model", "rows", "attacks")
        if not re.match("--[a-z]", word) or is_open or start in known:
            continue
        near = difflib.get_close_matches(flag, known, 1)
        hint = f": did you mean --{near[0]}?" if near else ""
        return (
            f"unknown argument {word.partition('=')[0]}{hint} (see unlearn-jax run"
            f" {name} --help)"
        )
    return ""


def find(name: str) -> pathlib.Path:
    """Return the file of a preset, without running it.

    Args:
      name: of a preset that comes with the package, or the path of a Python file or
        of a run's ``config.json``; ``~`` is the home folder.

    Raises:
      InputError: no such preset.
    """
    path = _file_of(name)
    if path is None:
        from unlearn_jax.types import InputError

        raise InputError(_unknown(name))
    return path


def load(name: str) -> Preset:
    """Return a preset.

    Args:
      name: of a preset that comes with the package, or the path of a file.

    Raises:
      InputError: no such preset, or a file without one.
    """
    from unlearn_jax.pipeline.config.resolve import complete
    from unlearn_jax.pipeline.config.schema import RunConfig
    from unlearn_jax.pipeline.experiment import Experiment
    from unlearn_jax.types import InputError

    path = find(name)
    if path.suffix == ".json":
        return _of_stored(path)
    scope = _execute(path)
    lines = (scope.get("__doc__") or "").strip().splitlines()
    summary = lines[0] if lines else ""
    if isinstance(scope.get("EXPERIMENT"), Experiment):
        return Preset(path.stem, summary, {}, {}, scope["EXPERIMENT"])
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
    return Preset(path.stem, summary, completed, hooks)


def _of_stored(path: pathlib.Path) -> Preset:
    """Return the configuration that a run stored, as a preset without hooks."""
    from unlearn_jax import values
    from unlearn_jax.pipeline.config.schema import RunConfig
    from unlearn_jax.types import InputError

    try:
        config = values.from_json(json.loads(path.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read as a run's config.json: {error}"
        ) from error
    if not isinstance(config, RunConfig):
        raise InputError(f"{path} is no config.json of a run")
    return Preset(path.resolve().parent.name, config.title, {"": config}, {})


def _execute(path: pathlib.Path) -> dict[str, Any]:
    """Return the names that a preset file defines.

    It is a module while the process lives: dataclasses read their help from it.
    """
    from unlearn_jax.types import InputError

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
