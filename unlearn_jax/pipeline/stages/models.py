"""The stages between the banks and the audit: adversarial sets and unlearned models, for every run.

Each is a folder of parts; a part holds the result of a few runs, is written whole, and
is not computed twice.
"""

import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from unlearn_jax import audit, filters
from unlearn_jax.attacks import PGD, Attack
from unlearn_jax.methods import unlearn_sequence
from unlearn_jax.pipeline.config.schema import to_json
from unlearn_jax.pipeline.stages.plan import Plan, purpose_key
from unlearn_jax.pipeline.store import clock, hosts
from unlearn_jax.pipeline.store import folders as store
from unlearn_jax.replicas import map_models
from unlearn_jax.train import predict, to_float
from unlearn_jax.types import (
    ApplyFn,
    AttackResult,
    Dataset,
    Problem,
    PyTree,
    UnlearnFn,
    UnlearnInfo,
    Variables,
)

Progress = Callable[..., tqdm]
FLOOR = 1e-12
"""Probability that stands for none behind an output filter."""


class Parts:
    """A stage's folder: ``part-000``, ``part-001`` ... each for some of ``count`` items."""

    def __init__(self, folder: pathlib.Path, sizes: list[int], group: int) -> None:
        """Splits the items into parts of at most ``group``, of items that forget equally many samples."""
        self.folder = folder
        self.parts: list[list[int]] = []
        self._sound: dict[int, dict[str, Any]] = {}
        for size in sorted(set(sizes)):
            items = [i for i, s in enumerate(sizes) if s == size]
            step = -(-len(items) // -(-len(items) // group))
            self.parts += [
                items[start : start + step] for start in range(0, len(items), step)
            ]

    def path(self, part: int) -> pathlib.Path:
        """Where a part is; its name tells its items."""
        name = hashlib.sha256(json.dumps(self.parts[part]).encode()).hexdigest()[:8]
        return self.folder / f"part-{part:03d}-{name}"

    def missing(self) -> list[int]:
        """Parts that are not there yet, or damaged; the files of a part are read until they are found sound."""
        for part in range(len(self.parts)):
            if (
                part not in self._sound
                and (manifest := store.find_manifest(self.path(part))) is not None
            ):
                self._sound[part] = manifest
        return [part for part in range(len(self.parts)) if part not in self._sound]

    def ensure(
        self,
        compute: Callable[[list[int]], tuple[dict[str, np.ndarray], PyTree | None]],
        progress: Progress,
        about: dict[str, Any],
    ) -> tuple[dict[str, float], bool]:
        """Computes the missing parts.

        Args:
          compute: items to (arrays with a leading axis of items, variables stacked
            likewise or None). A short last part is filled up to the others' size by
            repeating its last item, so that it compiles nothing new.
          progress: makes the progress bar.
          about: goes into every manifest.

        Returns:
          What all parts cost when they were made, and whether all were there already.

        Raises:
          DamagedFileError: a part cannot be read back as it was written.
        """
        self._sound.clear()
        here, missing = hosts.here(), self.missing()
        mine = [part for part in missing if here.does(part)]
        if mine:
            with progress(
                total=len(mine), desc=self.folder.name.rsplit("-", 1)[0], unit="part"
            ) as bar:
                for part in mine:
                    self._make(part, compute, about)
                    bar.update()
        here.wait(
            lambda: (
                all(self.path(part).is_dir() for part in missing) and not self.missing()
            )
        )
        if lost := self.missing():
            raise store.changed(self.path(lost[0]))
        cost: dict[str, float] = {}
        for part in range(len(self.parts)):
            cost = clock.add(cost, self._sound[part]["cost"])
        return cost, not missing

    def _make(
        self, part: int, compute: Callable[..., Any], about: dict[str, Any]
    ) -> None:
        store.set_aside(self.path(part))
        items = self.parts[part]
        full = max(len(other) for other in self.parts)
        with clock.stopwatch() as cost:
            arrays, variables = compute(items + [items[-1]] * (full - len(items)))
            keep = lambda leaf: np.asarray(leaf)[: len(items)]
            arrays, variables = jax.tree.map(keep, (arrays, variables))

        def fill(folder: pathlib.Path) -> None:
            for name, array in arrays.items():
                store.save_array(folder / f"{name}.npy", array)
            if variables is not None:
                store.save_tree(folder / "models.npz", variables)

        store.write_folder(
            self.path(part),
            fill,
            {**about, "items": items, "cost": cost, "versions": store.versions()},
        )

    def read(self, name: str) -> list[np.ndarray]:
        """One array of every item, in the items' order (items may differ in shape)."""
        found = {
            item: array
            for part, items in enumerate(self.parts)
            for item, array in zip(
                items, store.load_array(self.path(part) / f"{name}.npy"), strict=True
            )
        }
        return [found[item] for item in sorted(found)]

    def variables(self, like: PyTree) -> Iterator[tuple[list[int], PyTree]]:
        """The stored models part by part: items, and their stacked variables (``like`` is of the same structure)."""
        for part, items in enumerate(self.parts):
            yield items, store.load_tree(self.path(part) / "models.npz", like)


def take_models(stacked: PyTree, index: np.ndarray) -> PyTree:
    """Some of the stacked models, in the order of ``index``, which may name one several times."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[index]), stacked)


def _sizes(plan: Plan, sets: np.ndarray) -> list[int]:
    return [int(plan.forget[s].sum()) for s in sets]


def attack_parts(plan: Plan, name: str, folder: pathlib.Path) -> Parts:
    """Where the adversarial sets of one attack are, one item per (original, forget set)."""
    label = f"attack-{name}-" if name else "attack-"
    return Parts(
        folder / f"{label}{plan.attack_digest(name)[:16]}",
        _sizes(plan, plan.pairs[:, 1]),
        plan.group,
    )


def unlearn_parts(plan: Plan, name: str, folder: pathlib.Path) -> Parts:
    """Where a row's unlearned models are, one item per run."""
    path = folder / f"unlearn-{name}-{plan.row_digest(name)[:16]}"
    return Parts(path, _sizes(plan, plan.runs[:, 1]), plan.group)


def attack(
    plan: Plan, name: str, folder: pathlib.Path, progress: Progress
) -> tuple[Parts, dict[str, float], bool]:
    """Makes the adversarial set of every (original, forget set) by one of the run's attacks."""
    parts, chosen = attack_parts(plan, name, folder), plan.attacks[name]
    seeds, originals = plan.seeds, None
    one = _attacker(plan.model.apply, chosen.capped)

    def compute(items: list[int]) -> tuple[dict[str, np.ndarray], None]:
        nonlocal originals
        originals = plan.originals.variables() if originals is None else originals
        pairs = plan.pairs[items]
        index = np.stack([np.flatnonzero(plan.forget[s]) for s in pairs[:, 1]])
        source = (
            pairs[:, 0] if chosen.source == "own" else (pairs[:, 0] + 1) % len(seeds)
        )
        keys = jnp.stack(
            [purpose_key("attack", seeds[o], plan.forget_names[s]) for o, s in pairs]
        )
        how = plan.mapper(len(items))
        stacked = (keys, take_models(originals, source), jnp.asarray(index))
        result = map_models(how, one, stacked, plan.splits.train)
        return {
            field: np.asarray(leaf) for field, leaf in result._asdict().items()
        }, None

    return parts, *parts.ensure(
        compute, progress, {"stage": "attack", "config": to_json(chosen.settings)}
    )


def _attacker(
    apply_fn: ApplyFn, attack: Attack
) -> Callable[[Any, Dataset], AttackResult]:
    """Return one adversarial set as a function of arrays."""

    def attack_one(
        item: tuple[jax.Array, Variables, jax.Array], train: Dataset
    ) -> AttackResult:
        key, variables, index = item
        images = to_float(train.images[index])
        labels = train.labels[index]
        key_attack = jax.random.fold_in(key, 0)
        return attack(apply_fn, variables, images, labels, key=key_attack)

    return attack_one


class Work(NamedTuple):
    """What one item of an unlearning stage computes.

    Attributes:
      run: which original, forget set and repeat, a row of ``plan.runs``.
      knobs: knobs of the method that differ from item to item: traced, so that they
        share one program.
    """

    run: int
    knobs: dict[str, float]


def compute_unlearned(
    plan: Plan,
    factory: Callable[..., UnlearnFn],
    work: list[Work],
    adversarial: Parts | None,
    *,
    adaptive: PGD | None = None,
) -> Callable[[list[int]], tuple[dict[str, np.ndarray], Variables]]:
    """How :class:`Parts` computes unlearned models and their logits over the pool.

    Args:
      plan: the run.
      factory: ``knobs -> method``; called inside the compiled program.
      work: the items.
      adversarial: the adversarial sets, for methods that are given one.
      adaptive: recompute the adversarial set at every request, in this way.
    """
    seeds, originals = plan.seeds, None
    program = lru_cache(partial(_program, plan, factory, adaptive=adaptive))

    def compute(items: list[int]) -> tuple[dict[str, np.ndarray], Variables]:
        nonlocal originals
        originals = plan.originals.variables() if originals is None else originals
        runs = plan.runs[[work[item].run for item in items]]
        keys = jnp.stack(
            [
                purpose_key("unlearn", seeds[o], plan.forget_names[s], r)
                for o, s, r in runs
            ]
        )
        knobs = jax.tree.map(
            lambda *values: jnp.asarray(values, jnp.float32),
            *(work[item].knobs for item in items),
        )
        pairs = plan.pair_of_run[[work[item].run for item in items]]
        given = None if adversarial is None else stack_attack(adversarial, pairs)
        masks = (
            jnp.asarray(plan.forget[runs[:, 1]]),
            jnp.asarray(plan.requests[runs[:, 1]]),
        )
        how = plan.mapper(len(items))
        one = program(int(plan.forget[runs[0, 1]].sum()))
        stacked = (keys, take_models(originals, runs[:, 0]), *masks, given, knobs)
        variables, info, logits, steps = map_models(how, one, stacked, plan.pool)
        arrays = {
            "logits": logits,
            "losses": info.losses,
            "num_gradients": info.num_gradients,
            "steps": steps,
        }
        return {
            name: np.asarray(array)
            for name, array in arrays.items()
            if array is not None
        }, variables

    return compute


def _program(
    plan: Plan,
    factory: Callable[..., UnlearnFn],
    num_forget: int,
    *,
    adaptive: PGD | None,
) -> Callable[..., Any]:
    """One run as a function of arrays; the same function for all parts, so that they share a compilation."""
    num_train, model, count = (
        len(plan.splits.train.labels),
        plan.model,
        plan.num_requests,
    )

    def one(
        item: Any, pool: Dataset
    ) -> tuple[Variables, UnlearnInfo, jax.Array, jax.Array | None]:
        key, variables, forget, requests, given, traced = item
        method = factory(**traced)
        train = Dataset(pool.images[:num_train], pool.labels[:num_train])
        problem = Problem(model, variables, train, forget, num_forget, given)
        if count == 1:
            unlearned, info = method(key, problem)
            return unlearned, info, predict(model.apply, unlearned, pool.images), None
        stacked, info = unlearn_sequence(
            key,
            method,
            problem,
            requests,
            adaptive=adaptive is not None,
            attack=adaptive,
        )
        steps = jax.lax.map(lambda now: predict(model.apply, now, pool.images), stacked)
        return jax.tree.map(lambda leaf: leaf[-1], stacked), info, steps[-1], steps

    return one


def unlearn(
    plan: Plan,
    name: str,
    adversarial: Parts | None,
    folder: pathlib.Path,
    progress: Progress,
) -> tuple[Parts, dict[str, float], bool]:
    """Runs one row's method for every run, and evaluates the unlearned models on the pool."""
    parts, row = unlearn_parts(plan, name, folder), plan.rows[name]
    work = [Work(run, {}) for run in range(len(plan.runs))]
    adaptive = None
    if row.adaptive:
        adaptive = plan.attacks[row.attack or ""].attack
        assert isinstance(adaptive, PGD)
    compute = compute_unlearned(
        plan, lambda: row.method, work, adversarial, adaptive=adaptive
    )
    return parts, *parts.ensure(
        compute, progress, {"stage": "unlearn", "row": name, "config": row.settings}
    )


def row_logits(plan: Plan, name: str, parts: Parts) -> list[np.ndarray]:
    """Every run's logits ``[N, C]`` over the pool, behind the row's output filter where it has one.

    A filter knows the classes' mean outputs on the training set. Filtered probabilities
    come back as logarithms, with ``FLOOR`` for none.
    """
    return filter_outputs(plan, name, parts.read("logits"))


def filter_outputs(plan: Plan, name: str, logits: list[np.ndarray]) -> list[np.ndarray]:
    """What :func:`row_logits` does, to logits of the plan's runs; those of a model that diverged stay as they are."""
    chosen = plan.rows[name].filter
    if chosen is None:
        return logits
    count, found = len(plan.splits.train.labels), []
    for run, one in zip(plan.runs, logits, strict=True):
        if not np.isfinite(one).all():
            found.append(one)
            continue
        probs = audit.softmax(one)
        means = filters.class_means(probs[:count], plan.splits.train.labels)
        kept = filters.FILTERS[chosen](probs, means, plan.forgotten(run[1]))
        found.append(
            np.log(np.maximum(np.asarray(kept, np.float64), FLOOR)).astype(np.float32)
        )
    return found


def stack_attack(adversarial: Parts, rows: np.ndarray) -> AttackResult:
    """The adversarial sets of some (original, forget set), stacked ``[G, F, ...]``."""
    fields = {name: adversarial.read(name) for name in AttackResult._fields}
    return AttackResult(
        **{
            name: jnp.asarray(np.stack([arrays[i] for i in rows]))
            for name, arrays in fields.items()
        }
    )
