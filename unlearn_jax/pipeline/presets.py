"""Presets: files that define a ``PRESET``, several as ``STUDY``, or an ``EXPERIMENT``.

A ``PRESET`` is the configuration of a run, whose file may define its own data, network
and loss. Listing presets does not import JAX, since that takes most of a second.
"""

import ast
import dataclasses
import difflib
import importlib.machinery
import importlib.util
import json
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from unlearn_jax.data import Splits
    from unlearn_jax.pipeline.config.schema import RunConfig
    from unlearn_jax.pipeline.experiment import Experiment
    from unlearn_jax.train import LossFn
    from unlearn_jax.types import Model

PACKAGE = pathlib.Path(__file__).resolve().parents[1]
OWN_PARTS = "own"
"""Key of ``config.json`` with the names of a run's own parts, such as its data."""


class UserParts(TypedDict, total=False):
    """User's own data, network and loss: arguments of a run."""

    splits: "Splits"
    model: "Model"
    loss_fn: "LossFn"


@dataclasses.dataclass(frozen=True)
class Preset:
    """One experiment file.

    Attributes:
      name: the file's stem.
      about: first line of its docstring.
      variants: its ``STUDY``, or its ``PRESET`` as the only variant, with an empty
        name. Rows are completed with the values that they inherit from their run.
      experiment: its ``EXPERIMENT``, if any; there are no variants in this case.
      make_splits: function that returns the file's own data, if any.
      make_model: function ``(shape of an image, number of classes) -> network``, if
        any.
      make_loss: function ``network -> loss``, if any.
    """

    name: str
    about: str
    variants: "dict[str, RunConfig]"
    experiment: "Experiment | None" = None
    make_splits: "Callable[[], Splits] | None" = None
    make_model: "Callable[[tuple[int, ...], int], Model] | None" = None
    make_loss: "Callable[[Model], LossFn] | None" = None

    @property
    def config(self) -> "RunConfig":
        """First variant; the file must not be an experiment."""
        return next(iter(self.variants.values()))

    def only(self, names: Sequence[str]) -> "Preset":
        """Return the study with some of its variants, in its order.

        Args:
          names: names of variants.

        Raises:
          InputError: no study, or it has no such variant.
        """
        from unlearn_jax.types import InputError

        if self.experiment is not None or "" in self.variants:
            raise InputError(f"--variants needs a study: {self.name} has no variants")
        unknown = [name for name in names if name not in self.variants]
        if unknown:
            raise InputError(
                f"--variants: {self.name} has no {', '.join(unknown)}: choose from"
                f" {', '.join(self.variants)}"
            )
        chosen = {name: self.variants[name] for name in self.variants if name in names}
        return dataclasses.replace(self, variants=chosen)

    def parts(self, config: "RunConfig") -> UserParts:
        """Return the file's own data, network and loss, as arguments of a run.

        Args:
          config: configuration of the variant, used for the data and the network if the
            file does not define them.
        """
        from unlearn_jax.pipeline.config.resolve import build_model, load_data

        if not (self.make_splits or self.make_model or self.make_loss):
            return {}
        splits = self.make_splits() if self.make_splits else load_data(config.data)
        parts: UserParts = {"splits": splits}
        if self.make_model:
            shape = splits.train.images.shape[1:]
            parts["model"] = self.make_model(shape, splits.num_classes)
        if self.make_loss:
            model = parts.get("model") or build_model(config.model, splits)
            parts["loss_fn"] = self.make_loss(model)
        return parts


def folders() -> list[pathlib.Path]:
    """Return the folders of presets: in the installed package, or in a checkout."""
    return [
        folder
        for folder in (PACKAGE / "experiments", PACKAGE.parent / "experiments")
        if folder.is_dir()
    ]


def names() -> dict[str, pathlib.Path]:
    """Return the files of the presets that come with the package, by name."""
    return {
        file.stem: file
        for folder in reversed(folders())
        for file in sorted(folder.glob("*.py"))
    }


def about(name: str) -> str:
    """Return the first line of a preset's docstring, without running its file.

    Args:
      name: name of a preset that comes with the package.
    """
    text = ast.get_docstring(ast.parse(names()[name].read_text(encoding="utf-8"))) or ""
    return text.strip().splitlines()[0] if text else ""


def methods() -> dict[str, str]:
    """Return a line about each registered method, from the page of the methods."""
    text = (PACKAGE / "methods" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", text.replace(r"\|", "\0"), re.M)
    return {name: about.replace("\0", "|") for name, about in rows}


def constants(file: str, name: str) -> list[str]:
    """Return the texts of a tuple, or the keys of a dictionary, that a module defines.

    Args:
      file: path of the module, relative to the package.
      name: name of the tuple or dictionary.
    """
    for node in ast.parse((PACKAGE / file).read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if name not in [getattr(target, "id", None) for target in targets]:
            continue
        value: Any = getattr(node, "value", None)
        nodes: Any = value.keys if isinstance(value, ast.Dict) else value.elts
        return [constant.value for constant in nodes]
    raise ValueError(f"{file} defines no {name}")


def _file_of(name: str) -> pathlib.Path | None:
    """Return the file of a preset's name or path; None if there is none."""
    path = names().get(name)
    if name.endswith((".py", ".json")):
        path = pathlib.Path(os.path.expanduser(name))
    return path if path is not None and path.is_file() else None


def _unknown(name: str) -> str:
    """Return a line on a name that is no preset, with the nearest one."""
    if os.path.isdir(os.path.expanduser(name)):
        return (
            f"{name} is a folder: give the name of a preset, or the path of a file such"
            " as a run's config.json"
        )
    if os.path.splitext(name)[1] or os.path.dirname(name):
        return f"no file {name}: give the path of a file that defines a preset"
    known = sorted(names())
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    return (
        f"unknown preset {name!r}: {hint}Choose one of {', '.join(known)}, or give the"
        " path of a file that defines one"
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
    """Return an error message for a misspelled argument of ``run``, without imports.

    Only the name of the preset and the fields that all runs have are checked. The
    parser checks the fields of networks, rows and experiments.

    Args:
      arguments: name of a preset, then options and fields.
      options: names of arguments that are not fields.

    Returns:
      One line; empty if no argument is misspelled.
    """
    if not arguments or arguments[0].startswith("-"):
        return ""
    name, *rest = arguments
    path = _file_of(name)
    if path is None:
        return _unknown(name)
    if path.suffix == ".py":
        try:
            body = ast.parse(path.read_text(encoding="utf-8")).body
        except (SyntaxError, UnicodeDecodeError):
            return ""
        assigned = [node.targets[0] for node in body if isinstance(node, ast.Assign)]
        if not {"PRESET", "STUDY"} & {getattr(node, "id", "") for node in assigned}:
            return ""
    schema = PACKAGE / "pipeline" / "config" / "schema.py"
    classes = _classes(ast.parse(schema.read_text(encoding="utf-8")))
    known = {*options, *(f"no_{option}" for option in options), "help"}
    for field, kind in classes["RunConfig"].items():
        known.add(field)
        if kind != "ModelConfig":
            known |= {f"{field}.{member}" for member in classes.get(kind, {})}
    for argument in rest:
        if not re.match("--[a-z]", argument):
            continue
        flag = argument.partition("=")[0]
        path_of_field = flag.removeprefix("--").replace("-", "_").split(".")
        is_open = path_of_field[0] in ("model", "rows", "attacks")
        if is_open or ".".join(path_of_field[:2]) in known:
            continue
        near = difflib.get_close_matches(".".join(path_of_field), known, 1)
        hint = f": did you mean --{near[0]}?" if near else ""
        return f"unknown argument {flag}{hint} (see unlearn-jax run {name} --help)"
    return ""


def find(name: str) -> pathlib.Path:
    """Return the file of a preset, without running it.

    Args:
      name: name of a preset that comes with the package, or the path of a Python file
        or of a run's ``config.json``; ``~`` is the home folder.

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
      name: name of a preset that comes with the package, or the path of a file.

    Raises:
      InputError: no such preset, or a file that does not define one.
    """
    from unlearn_jax.pipeline.config.resolve import complete
    from unlearn_jax.pipeline.config.schema import RunConfig, check_names
    from unlearn_jax.pipeline.experiment import Experiment
    from unlearn_jax.types import InputError

    path = find(name)
    if path.suffix == ".json":
        return _load_stored(path)
    scope = _execute(path)
    lines = (scope.get("__doc__") or "").strip().splitlines()
    summary = lines[0] if lines else ""
    if isinstance(scope.get("EXPERIMENT"), Experiment):
        return Preset(path.stem, summary, {}, scope["EXPERIMENT"])
    variants = scope.get("STUDY", {"": scope.get("PRESET")})
    if (
        not isinstance(variants, Mapping)
        or not variants
        or not all(isinstance(config, RunConfig) for config in variants.values())
    ):
        raise InputError(
            f"{path} defines no PRESET that is an unlearn_jax.pipeline.RunConfig, no"
            " STUDY that is a dict of them, and no EXPERIMENT"
        )
    if "STUDY" in scope:
        check_names("a variant", variants)
    return Preset(
        path.stem,
        summary,
        {name: complete(config) for name, config in variants.items()},
        make_splits=scope.get("make_splits"),
        make_model=scope.get("make_model"),
        make_loss=scope.get("make_loss"),
    )


def _load_stored(path: pathlib.Path) -> Preset:
    """Return the configuration that a run stored, as a preset."""
    from unlearn_jax import values
    from unlearn_jax.pipeline.config.schema import RunConfig
    from unlearn_jax.types import InputError

    try:
        stored = json.loads(path.read_text(encoding="utf-8-sig"))
        parts = stored.pop(OWN_PARTS, ()) if isinstance(stored, dict) else ()
        config = values.from_json(stored)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read as a run's config.json: {error}"
        ) from error
    if not isinstance(config, RunConfig):
        raise InputError(f"{path} is not the config.json of a run")
    if parts:
        raise InputError(
            f"{path} is of a run with its own {', '.join(parts)}, which it does not"
            " hold: run the file or the command that made it"
        )
    return Preset(path.resolve().parent.name, config.title, {"": config})


def _execute(path: pathlib.Path) -> dict[str, Any]:
    """Return the names that a preset file defines.

    The file stays in ``sys.modules``, because help texts of its dataclasses are read
    from there. No bytecode is written or read: of two edits in the same second, the
    second would be mistaken for the first.
    """
    from unlearn_jax.types import InputError, first_line

    name = f"unlearn_jax_preset_{path.stem}"
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        code = loader.source_to_code(path.read_bytes(), str(path))
        exec(code, vars(module))
    except SyntaxError as error:
        line = "" if error.lineno is None else f" in line {error.lineno}"
        raise InputError(f"{path} is not valid Python: {error.msg}{line}") from error
    except SystemExit as error:
        raise InputError(
            f"{path} ends the program: call sys.exit only under"
            ' if __name__ == "__main__"'
        ) from error
    except (InputError, OSError):
        raise
    except Exception as error:
        raise InputError(f"{path} cannot be read: {first_line(error)}") from error
    return vars(module)
