"""The stages between the banks and the audit: adversarial sets and unlearned models, for every run.

Each is a folder of parts; a part holds the result of a few runs, is written whole, and is not computed twice.
"""

import hashlib
import json
import pathlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from unlearn_jax.attacks import adversarial_set, l2, linf
from unlearn_jax.pipeline import clock, store
from unlearn_jax.pipeline.config import AttackConfig, to_json
from unlearn_jax.pipeline.plan import Plan, purpose_key
from unlearn_jax.replicas import map_models, mapper
from unlearn_jax.train import predict, to_float
from unlearn_jax.types import AttackResult, Dataset, DivergedError, Problem, PyTree, UnlearnInfo, Variables

Progress = Callable[..., tqdm]


class Parts:
    """A stage's folder: ``part-000``, ``part-001`` ... each for some of ``count`` items."""

    def __init__(self, folder: pathlib.Path, sizes: list[int], group: int) -> None:
        """Splits the items into parts of at most ``group``, of items that forget equally many samples."""
        self.folder = folder
        self.parts: list[list[int]] = []
        for size in sorted(set(sizes)):
            items = [i for i, s in enumerate(sizes) if s == size]
            step = -(-len(items) // -(-len(items) // group))
            self.parts += [items[start : start + step] for start in range(0, len(items), step)]

    def path(self, part: int) -> pathlib.Path:
        """Where a part is; its name tells its items."""
        name = hashlib.sha256(json.dumps(self.parts[part]).encode()).hexdigest()[:8]
        return self.folder / f"part-{part:03d}-{name}"

    def missing(self) -> list[int]:
        """Parts that are not there yet."""
        return [part for part in range(len(self.parts)) if store.read_manifest(self.path(part)) is None]

    def ensure(
        self,
        compute: Callable[[list[int]], tuple[dict[str, np.ndarray], PyTree | None]],
        progress: Progress,
        about: dict[str, Any],
    ) -> tuple[dict[str, float], bool]:
        """Computes the missing parts.

        Args:
          compute: items to (arrays with a leading axis of items, variables stacked likewise or None). A short last
            part is filled up to the others' size by repeating its last item, so that it compiles nothing new.
          progress: makes the progress bar.
          about: goes into every manifest.

        Returns:
          What all parts cost when they were made, and whether all were there already.
        """
        missing = self.missing()
        if missing:
            with progress(total=len(missing), desc=self.folder.name.rsplit("-", 1)[0], unit="part") as bar:
                for part in missing:
                    self._make(part, compute, about)
                    bar.update()
        cost: dict[str, float] = {}
        for part in range(len(self.parts)):
            manifest = store.read_manifest(self.path(part))
            assert manifest is not None
            cost = clock.add(cost, manifest["cost"])
        return cost, not missing

    def _make(self, part: int, compute: Callable[..., Any], about: dict[str, Any]) -> None:
        items = self.parts[part]
        full = max(len(other) for other in self.parts)
        with clock.stopwatch() as cost:
            arrays, variables = compute(items + [items[-1]] * (full - len(items)))
            keep = lambda leaf: np.asarray(leaf)[: len(items)]  # noqa: E731
            arrays, variables = jax.tree.map(keep, (arrays, variables))

        def fill(folder: pathlib.Path) -> None:
            for name, array in arrays.items():
                np.save(folder / f"{name}.npy", array)
            if variables is not None:
                store.save_tree(folder / "models.npz", variables)

        store.write_folder(self.path(part), fill, {**about, "items": items, "cost": cost, "versions": store.versions()})

    def read(self, name: str) -> list[np.ndarray]:
        """One array of every item, in the items' order (items may differ in shape)."""
        found = {
            item: array
            for part, items in enumerate(self.parts)
            for item, array in zip(items, np.load(self.path(part) / f"{name}.npy", mmap_mode="r"), strict=True)
        }
        return [found[item] for item in sorted(found)]


def attack_knobs(config: AttackConfig) -> dict[str, Any]:
    """A configuration as arguments of :func:`unlearn_jax.attacks.adversarial_set`."""
    knobs = to_json(config)
    knobs["norm"] = {"l2": l2, "linf": linf}[config.norm]
    if config.search == "auto":
        knobs["search"] = "grid" if config.restart and jax.default_backend() != "cpu" else "doubling"
    return knobs


def _repeat(stacked: PyTree, index: np.ndarray) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[index]), stacked)


def attack_parts(plan: Plan, folder: pathlib.Path) -> Parts:
    """Where the adversarial sets are, one item per (original, forget set)."""
    sizes = [int(plan.forget[s].sum()) for _, s in plan.pairs]
    return Parts(folder / f"attack-{plan.attack_digest()[:16]}", sizes, plan.config.replicas.group)


def unlearn_parts(plan: Plan, name: str, folder: pathlib.Path) -> Parts:
    """Where a row's unlearned models are, one item per run."""
    sizes = [int(plan.forget[s].sum()) for s in plan.runs[:, 1]]
    return Parts(folder / f"unlearn-{name}-{plan.row_digest(name)[:16]}", sizes, plan.config.replicas.group)


def attack(plan: Plan, folder: pathlib.Path, progress: Progress) -> tuple[Parts, dict[str, float], bool]:
    """Makes the adversarial set of every (original, forget set)."""
    parts = attack_parts(plan, folder)
    knobs = attack_knobs(plan.config.attack)
    apply, originals = plan.model.apply, None

    def one(item: tuple[Variables, jax.Array], train: Dataset) -> AttackResult:
        variables, index = item
        return adversarial_set(apply, variables, to_float(train.images[index]), train.labels[index], **knobs)

    def compute(items: list[int]) -> tuple[dict[str, np.ndarray], None]:
        nonlocal originals
        originals = plan.originals.variables() if originals is None else originals
        pairs = plan.pairs[items]
        index = np.stack([np.flatnonzero(plan.forget[s]) for s in pairs[:, 1]])
        how = mapper(plan.config.replicas.mapper, num_models=len(items), devices=plan.config.replicas.devices)
        result = map_models(how, one, (_repeat(originals, pairs[:, 0]), jnp.asarray(index)), plan.splits.train)
        return {name: np.asarray(leaf) for name, leaf in result._asdict().items()}, None

    return parts, *parts.ensure(compute, progress, {"stage": "attack", "config": to_json(plan.config.attack)})


def unlearn(
    plan: Plan, name: str, adversarial: Parts | None, folder: pathlib.Path, progress: Progress
) -> tuple[Parts, dict[str, float], bool]:
    """Runs one row's method for every run, and evaluates the unlearned models on the pool."""
    parts = unlearn_parts(plan, name, folder)
    method, originals = plan.rows[name], None
    num_train, seeds = len(plan.splits.train.labels), plan.config.replicas.originals

    @lru_cache
    def program(num_forget: int) -> Callable[[Any, Dataset], Any]:
        """One run as a function of arrays; the same function for all parts, so that they share a compilation."""

        def one(item: Any, pool: Dataset) -> tuple[Variables, UnlearnInfo, jax.Array]:
            key, variables, forget, given = item
            train = Dataset(pool.images[:num_train], pool.labels[:num_train])
            unlearned, info = method(key, Problem(plan.model, variables, train, forget, num_forget, given))
            return unlearned, info, predict(plan.model.apply, unlearned, pool.images)

        return one

    def compute(items: list[int]) -> tuple[dict[str, np.ndarray], Variables]:
        nonlocal originals
        originals = plan.originals.variables() if originals is None else originals
        runs = plan.runs[items]
        keys = jnp.stack([purpose_key("unlearn", seeds[o], plan.forget_names[s], r) for o, s, r in runs])
        given = None if adversarial is None else _stack_attack(adversarial, plan.pair_of_run[items])
        stacked = (keys, _repeat(originals, runs[:, 0]), jnp.asarray(plan.forget[runs[:, 1]]), given)
        how = mapper(plan.config.replicas.mapper, num_models=len(items), devices=plan.config.replicas.devices)
        variables, info, logits = map_models(how, program(int(plan.forget[runs[0, 1]].sum())), stacked, plan.pool)
        losses = np.asarray(info.losses)
        if not np.isfinite(losses).all():
            raise DivergedError(
                f"method row {name!r} diverged (its loss is not finite): lower --rows.{name}.learning_rate"
            )
        return {
            "logits": np.asarray(logits),
            "losses": losses,
            "num_gradients": np.asarray(info.num_gradients),
        }, variables

    about = {"stage": "unlearn", "row": name, "config": plan.config.rows[name]}
    return parts, *parts.ensure(compute, progress, about)


def _stack_attack(adversarial: Parts, rows: np.ndarray) -> AttackResult:
    """The adversarial sets of some (original, forget set), stacked ``[G, F, ...]``."""
    fields = {name: adversarial.read(name) for name in AttackResult._fields}
    return AttackResult(**{name: jnp.asarray(np.stack([arrays[i] for i in rows])) for name, arrays in fields.items()})
