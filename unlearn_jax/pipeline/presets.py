"""Presets are the files of ``experiments/``: each defines ``PRESET``, and may bring its own data, network and loss."""

import dataclasses
import pathlib
import runpy
from typing import Any

from unlearn_jax import methods
from unlearn_jax.pipeline.config import RunConfig
from unlearn_jax.pipeline.settings import shared_knobs
from unlearn_jax.types import InputError


@dataclasses.dataclass(frozen=True)
class Preset:
    """One experiment file.

    Attributes:
      name: the file's stem.
      about: first line of its docstring.
      config: its ``PRESET``, rows completed with the defaults of their knobs.
      hooks: its ``make_splits() -> Splits``, ``make_model(image_shape, num_classes) -> Model`` and
        ``make_loss(model) -> LossFn``, where it has them.
    """

    name: str
    about: str
    config: RunConfig
    hooks: dict[str, Any]


def folders() -> list[pathlib.Path]:
    """Where presets are looked for: inside the installed package, or beside it in a checkout."""
    package = pathlib.Path(__file__).resolve().parents[1]
    return [folder for folder in (package / "experiments", package.parent / "experiments") if folder.is_dir()]


def names() -> dict[str, pathlib.Path]:
    """The presets that come with the package."""
    return {file.stem: file for folder in reversed(folders()) for file in sorted(folder.glob("*.py"))}


def complete(config: RunConfig) -> RunConfig:
    """Writes the defaults of their plain knobs into the rows, so that every knob can be seen and overridden."""
    rows = {}
    for name, row in config.rows.items():
        known = methods.knobs_of(row["method"]) if "method" in row else {}
        shared = shared_knobs(row["method"], config.training) if known else {}
        plain = {k: v for k, v in known.items() if isinstance(v, bool | int | float | str)}
        rows[name] = {"label": name, **plain, **shared, **row}
    return dataclasses.replace(config, rows=rows)


def tuning_grid(
    config: RunConfig,
    *,
    originals: tuple[int, ...],
    forget_seeds: tuple[int, ...],
    learning_rates: tuple[float, ...],
    decays: tuple[int, ...] = (0, 5),
) -> RunConfig:
    """The run that chooses a configuration's learning rates, on originals and forget sets that it does not report.

    Args:
      config: the run to tune; its banks of references are shared.
      originals: seeds of other original models.
      forget_seeds: seeds of other forget sets.
      learning_rates: log-spaced.
      decays: values of ``decay_every`` to try.

    Returns:
      A run with one row per method, rate and decay.

    Raises:
      InputError: seeds that the configuration reports.
    """
    if set(originals) & set(config.replicas.originals) or set(forget_seeds) & set(config.forget.seeds):
        raise InputError("tuning needs originals and forget sets of its own: never tune on what is reported")
    rows = {
        f"{name}-{rate:g}-every{decay}": {
            **row,
            "label": f"{row.get('label', name)}, rate {rate:g}" + (f", /10 every {decay} epochs" if decay else ""),
            "learning_rate": rate,
            "decay_every": decay,
        }
        for name, row in config.rows.items()
        for rate in learning_rates
        for decay in decays
    }
    return dataclasses.replace(
        config,
        title=f"Learning rates for: {config.title}",
        forget=dataclasses.replace(config.forget, seeds=forget_seeds),
        replicas=dataclasses.replace(config.replicas, originals=originals),
        audit=dataclasses.replace(config.audit, num_bootstrap=100, mis=False),
        rows=rows,
    )


def load(name: str) -> Preset:
    """A preset by name, or by the path of a file that defines ``PRESET``.

    Raises:
      InputError: no such preset, or a file without ``PRESET``.
    """
    path = pathlib.Path(name) if name.endswith(".py") else names().get(name)
    if path is None or not path.is_file():
        raise InputError(
            f"unknown preset {name!r}: choose one of {', '.join(sorted(names()))}, "
            "or give the path of a file that defines PRESET"
        )
    try:
        scope = runpy.run_path(str(path))
    except SyntaxError as error:
        raise InputError(f"{path} is not valid Python: {error.msg} in line {error.lineno}") from error
    if not isinstance(scope.get("PRESET"), RunConfig):
        raise InputError(f"{path} defines no PRESET that is a unlearn_jax.pipeline.RunConfig")
    about = (scope.get("__doc__") or "").strip().splitlines()
    hooks = {key: scope[key] for key in ("make_splits", "make_model", "make_loss") if key in scope}
    return Preset(path.stem, about[0] if about else "", complete(scope["PRESET"]), hooks)
