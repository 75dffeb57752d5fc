"""Experiments that are not runs: parts that are computed once and kept, and a page made of them.

A run (:func:`unlearn_jax.pipeline.run`) forgets samples of one classifier. Whatever
trains something else, or nothing, is an :class:`Experiment`: named parts, each a
function that computes arrays, and a function that makes tables, pictures and checks of
them. A part is stored whole, under a key of everything it depends on; a run that was
interrupted goes on with the parts that are missing, and a changed setting computes the
parts anew that it decides.
"""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from unlearn_jax.pipeline.config.schema import digest, to_json
from unlearn_jax.pipeline.report.blocks import Page
from unlearn_jax.pipeline.report.page import publish
from unlearn_jax.pipeline.store import clock, hosts
from unlearn_jax.pipeline.store import folders as store
from unlearn_jax.types import InputError

Arrays = dict[str, np.ndarray]


class Part(NamedTuple):
    """A piece of an experiment that is computed once.

    Attributes:
      settings: plain values, all that decides the result apart from the code and
        ``needs``.
      compute: ``(*arrays of the needed parts) -> {name: array}``, pure.
      needs: names of earlier parts whose arrays it is given, in this order.
    """

    settings: Mapping[str, Any]
    compute: Callable[..., Mapping[str, Any]]
    needs: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment, what a file of ``experiments/`` defines as ``EXPERIMENT``.

    Attributes:
      title: heading of the page.
      config: a frozen dataclass of plain values, the defaults; a docstring under each
        field is its help.
      parts: ``config -> {name: Part}``, in the order of computing; checks the
        configuration first.
      page: ``(config, {name: arrays}) -> Page``.
    """

    title: str
    config: Any
    parts: Callable[[Any], Mapping[str, Part]]
    page: Callable[[Any, Mapping[str, Arrays]], Page]


def run_experiment(
    experiment: Experiment,
    workdir: str | os.PathLike[str],
    *,
    name: str,
    config: Any = None,
) -> dict[str, Any]:
    """Computes the parts that are missing and writes the page; run again, it goes on where it stopped.

    Args:
      experiment: which.
      workdir: its directory: made if new, continued if it is one of ours, refused if it
        holds anything else.
      name: of the experiment; part of every key.
      config: instead of the experiment's own.

    Returns:
      What ``results.json`` holds. Beside it lie ``report.html``, ``table.md`` and a
      folder per part.

    Raises:
      InputError: unusable configuration or directory; nothing has been written then.

    Warns:
      DamagedFileWarning: a stored part is not what was written; it is moved aside and
        computed anew.
    """
    if hosts.here().count > 1:
        raise InputError(
            "this experiment is the work of one process: start it without --distributed"
            " or --coordinator"
        )
    config = experiment.config if config is None else config
    parts = _checked(experiment.parts(config))
    keys = part_keys(name, parts)
    with store.Workdir(workdir).locked() as folder:
        store.write_text(folder / "config.json", json.dumps(to_json(config), indent=1))
        found: dict[str, Arrays] = {}
        costs: list[dict[str, Any]] = []
        with tqdm(
            total=len(parts),
            desc=name,
            unit="part",
            disable=None,
            leave=False,
            dynamic_ncols=True,
        ) as bar:
            for label, part in parts.items():
                bar.set_postfix_str(label)
                path = folder / f"{label}-{keys[label][:16]}"
                cached = store.find_manifest(path) is not None
                if not cached:
                    store.set_aside(path)
                    _compute(path, part, [found[other] for other in part.needs])
                manifest = store.read_manifest(path)
                assert manifest is not None
                costs.append({"name": label, **manifest["cost"], "cached": cached})
                found[label] = _read(path, manifest)
                bar.update()
        return publish(
            experiment.title,
            name,
            config,
            experiment.page(config, found),
            costs,
            folder,
        )


def dry_run_experiment(
    experiment: Experiment,
    workdir: str | os.PathLike[str],
    *,
    name: str,
    config: Any = None,
) -> str:
    """The parts of an experiment, and which of them are there; writes nothing.

    Args:
      experiment: which.
      workdir: where it would run.
      name: of the experiment.
      config: instead of the experiment's own.

    Raises:
      InputError: as :func:`run_experiment`.
    """
    place = store.Workdir(workdir)
    place.check()
    parts = _checked(experiment.parts(experiment.config if config is None else config))
    lines = [
        [
            label,
            (
                "there"
                if store.find_manifest(place.path / f"{label}-{key[:16]}")
                else "to do"
            ),
        ]
        for label, key in part_keys(name, parts).items()
    ]
    return tabulate(lines, headers=["part", ""], tablefmt="simple")


def part_keys(name: str, parts: Mapping[str, Part]) -> dict[str, str]:
    """The key of every part: a hash of the experiment's name, its own, its settings, and the keys of what it needs."""
    keys: dict[str, str] = {}
    for label, part in parts.items():
        keys[label] = digest(
            "experiment",
            name,
            label,
            to_json(dict(part.settings)),
            [keys[n] for n in part.needs],
        )
    return keys


def _checked(parts: Mapping[str, Part]) -> Mapping[str, Part]:
    """Refuses parts that cannot be stored or computed in this order."""
    if not parts:
        raise InputError(
            "the experiment has nothing to compute: give at least one seed"
        )
    seen: set[str] = set()
    for label, part in parts.items():
        if not re.fullmatch(r"[A-Za-z0-9_.+-]+", label):
            raise InputError(
                f"parts are named with letters, digits and - _ . +, got {label!r}"
            )
        if not set(part.needs) <= seen:
            raise InputError(
                f"part {label!r} needs {', '.join(part.needs)}, which must come"
                " before it"
            )
        seen.add(label)
    return parts


def _compute(path: pathlib.Path, part: Part, needed: list[Arrays]) -> None:
    with clock.stopwatch() as cost:
        arrays = {
            key: np.asarray(value) for key, value in part.compute(*needed).items()
        }
    if odd := [key for key, array in arrays.items() if array.dtype.hasobject]:
        raise ValueError(
            f"array {odd[0]!r} of {path.name} holds Python objects, which cannot be"
            " stored"
        )

    def fill(folder: pathlib.Path) -> None:
        store.save_arrays(folder / "arrays.npz", arrays)

    store.write_folder(
        path,
        fill,
        {
            "settings": to_json(dict(part.settings)),
            "cost": cost,
            "versions": store.versions(),
        },
    )


def _read(path: pathlib.Path, manifest: Mapping[str, Any]) -> Arrays:
    assert set(manifest["files"]) == {"arrays.npz"}
    return store.load_arrays(path / "arrays.npz")
