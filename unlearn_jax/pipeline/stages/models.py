"""The stages between training and audit: adversarial sets and unlearned models."""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax import __version__, audit, filters, values
from unlearn_jax.attacks import PGD, Attack
from unlearn_jax.influence import warn_unless_trusted
from unlearn_jax.methods import unlearn_sequence
from unlearn_jax.methods.base import is_padded
from unlearn_jax.pipeline.config.schema import to_json
from unlearn_jax.pipeline.stages.plan import Plan, purpose_key
from unlearn_jax.pipeline.store.artifact import Artifact, Items, Piece, Stored
from unlearn_jax.pipeline.store.fingerprint import code_digest
from unlearn_jax.replicas import is_rehearsal, map_models, to_host
from unlearn_jax.train import predict
from unlearn_jax.types import (
    ApplyFn,
    AttackResult,
    Count,
    Dataset,
    Problem,
    PyTree,
    UnlearnFn,
    UnlearnInfo,
    Variables,
    to_float,
)

FLOOR = 1e-12
"""Probability that replaces zero in the outputs of a filter."""


def take_models(stacked: PyTree, index: np.ndarray) -> PyTree:
    """Return some of the stacked models, in the order of ``index``."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[index]), stacked)


def _sizes(plan: Plan, sets: np.ndarray) -> list[int]:
    """Return the sizes of forget sets."""
    return [int(plan.forget[s].sum()) for s in sets]


def attack(plan: Plan, name: str) -> Artifact:
    """Return the adversarial sets of an attack, one per (original, forget set).

    All are padded to the largest forget set, so that one program makes them;
    :func:`attack_rows` removes the padding.

    Args:
      plan: the run.
      name: attack's name, a key of ``plan.attacks``.
    """
    chosen = plan.attacks[name]
    seeds = plan.seeds
    sizes = _sizes(plan, plan.pairs[:, 1])
    has_padding = len(set(sizes)) > 1
    attack_one = _attacker(plan.model.apply, chosen.capped)

    def compute(piece: Piece, originals: Stored) -> dict[str, np.ndarray]:
        pairs = plan.pairs[piece.items]
        # The samples of a smaller set are repeated, as padding to the largest set.
        rows = [np.flatnonzero(plan.forget[s]) for s in pairs[:, 1]]
        index = np.stack([np.resize(one, max(sizes)) for one in rows])
        source = pairs[:, 0]
        if chosen.source != "own":
            source = (source + 1) % len(seeds)
        keys = jnp.stack(
            [purpose_key("attack", seeds[o], plan.forget_names[s]) for o, s in pairs]
        )
        stacked = (keys, take_models(originals["models"], source), jnp.asarray(index))
        mapper = plan.mapper(len(pairs))
        result = map_models(mapper, attack_one, stacked, plan.splits.train)
        content = result._asdict()
        if has_padding:
            content["size"] = np.array([sizes[item] for item in piece.items])
        return content

    return Artifact(
        name=f"attack-{name}" if name else "attack",
        settings={
            "version": __version__,
            "forget": plan.forget_digest,
            "attack": to_json(chosen.settings),
            "code": code_digest(chosen.attack),
            **({"padded": max(sizes)} if has_padding else {}),
        },
        compute=compute,
        inputs=(plan.originals.artifact,),
        items=Items(len(plan.pairs), plan.group),
        price=float(plan.forget.sum(1).mean() * 2 * chosen.attack.num_steps),
    )


def _attacker(
    apply_fn: ApplyFn, attack: Attack
) -> Callable[[Any, Dataset], AttackResult]:
    """Return a function of arrays that makes one adversarial set."""

    def attack_one(
        item: tuple[jax.Array, Variables, jax.Array], train: Dataset
    ) -> AttackResult:
        key, variables, index = item
        images = to_float(train.images[index])
        labels = train.labels[index]
        key_attack = jax.random.fold_in(key, 0)
        return attack(apply_fn, variables, images, labels, key=key_attack)

    return attack_one


class Sizes(NamedTuple):
    """Sizes of the smallest and of the largest forget set of a program."""

    least: int
    most: int


class Work(NamedTuple):
    """Item of unlearning.

    Attributes:
      run: position in ``plan.runs``: original, forget set and repeat.
      traced: hyperparameters that differ between items, by name; they are traced, so
        that all items share one program.
    """

    run: int
    traced: Mapping[str, float]


def unlearn(plan: Plan, name: str) -> Artifact:
    """Return a row's unlearned models and their logits over the pool, one per run.

    Args:
      plan: the run.
      name: row's name.
    """
    work = [Work(run, {}) for run in range(len(plan.runs))]
    method = plan.rows[name].method
    program = unlearning(plan, name, lambda: method)
    return unlearn_work(plan, name, f"unlearn-{name}", method, work, program)


def unlearning(
    plan: Plan, name: str, make_method: Callable[..., UnlearnFn]
) -> Callable[..., Any]:
    """Return ``size -> program``, one program for each size of a forget set.

    Artifacts that are given the same function share its compiled programs.

    Args:
      plan: the run.
      name: name of the row that chooses the attack.
      make_method: function ``(**traced) -> method``, called inside the compiled
        program.
    """
    row = plan.rows[name]
    adaptive = None
    if row.adaptive:
        adaptive = plan.attacks[row.attack or ""].attack
        assert isinstance(adaptive, PGD)
    return lru_cache(partial(_program, plan, make_method, adaptive=adaptive))


def unlearn_work(
    plan: Plan,
    name: str,
    label: str,
    method: UnlearnFn,
    work: list[Work],
    program: Callable[..., Any],
    *,
    settings: Mapping[str, Any] | None = None,
    logits_only: bool = False,
) -> Artifact:
    """Return models unlearned by a method whose hyperparameters may differ.

    Args:
      plan: the run.
      name: name of the row that chooses the attack.
      label: name of the artifact.
      method: method that identifies the result in its key.
      work: items to compute.
      program: function that :func:`unlearning` returns.
      settings: further plain values that determine the result.
      logits_only: whether to store the logits without the models.
    """
    row = plan.rows[name]
    seeds = plan.seeds
    run_of = np.array([item.run for item in work])
    own_sizes = _sizes(plan, plan.runs[run_of, 1])
    sizes: list[int | Sizes] = [*own_sizes]
    if plan.num_requests == 1 and is_padded(method) and len(set(sizes)) > 1:
        # One program for all forget sets.
        sizes = [Sizes(min(own_sizes), max(own_sizes))] * len(work)

    def compute(
        piece: Piece, originals: Stored, adversarial: Stored | None = None
    ) -> dict[str, PyTree]:
        size = sizes[piece.items[0]]
        runs = plan.runs[run_of[piece.items]]
        keys = jnp.stack(
            [
                purpose_key("unlearn", seeds[o], plan.forget_names[s], r)
                for o, s, r in runs
            ]
        )
        traced = jax.tree.map(
            lambda *numbers: jnp.asarray(numbers, jnp.float32),
            *(work[item].traced for item in piece.items),
        )
        given = None
        if adversarial is not None:
            pairs = plan.pair_of_run[run_of[piece.items]]
            most = size.most if isinstance(size, Sizes) else size
            given = stack_attack(adversarial, pairs, most)
        forget = jnp.asarray(plan.forget[runs[:, 1]])
        requests = jnp.asarray(plan.requests[runs[:, 1]])
        originals_of_runs = take_models(originals["models"], runs[:, 0])
        stacked = (keys, originals_of_runs, forget, requests, given, traced)
        unlearn_one = program(size)
        mapper = plan.mapper(len(runs))
        unlearned, info, logits, steps = map_models(
            mapper, unlearn_one, stacked, plan.pool
        )
        if logits_only:
            return {"logits": logits}
        content = {"models": unlearned, "logits": logits, **info._asdict()}
        guard = content.pop("guard")
        if guard is not None:
            if not is_rehearsal():
                warn_unless_trusted(to_host(guard))
            for measure, numbers in guard._asdict().items():
                content[f"guard_{measure}"] = numbers
        if steps is not None:
            content["steps"] = steps
        return content

    inputs = [plan.originals.artifact]
    if row.attack is not None:
        inputs.append(attack(plan, row.attack))
    epochs = row.settings.get("num_epochs", 10)
    return Artifact(
        name=label,
        settings={
            "version": __version__,
            "forget": plan.forget_digest,
            "requests": plan.num_requests,
            "repeats": plan.repeats,
            "method": values.to_json(method),
            "code": code_digest(method),
            "adaptive": row.adaptive,
            **(settings or {}),
        },
        compute=compute,
        inputs=tuple(inputs),
        items=Items(len(work), plan.group, sizes),
        like={"models": plan.originals.blank(1).variables},
        price=float(epochs * len(plan.splits.train.labels)),
    )


def _program(
    plan: Plan,
    make_method: Callable[..., UnlearnFn],
    size: int | Sizes,
    *,
    adaptive: PGD | None,
) -> Callable[..., Any]:
    """Return a function of arrays that computes one run, to be used by all pieces."""
    num_train = len(plan.splits.train.labels)
    model = plan.model

    def unlearn_one(
        item: Any, pool: Dataset
    ) -> tuple[Variables, UnlearnInfo, jax.Array, jax.Array | None]:
        key, variables, forget, requests, given, traced = item
        method = make_method(**traced)
        train = Dataset(pool.images[:num_train], pool.labels[:num_train])
        num_forget = size
        if isinstance(size, Sizes):
            num_forget = Count(size.least, size.most, jnp.sum(forget))
        problem = Problem(model, variables, train, forget, num_forget, given)
        if plan.num_requests == 1:
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
        steps = jax.lax.map(
            lambda step: predict(model.apply, step, pool.images), stacked
        )
        return jax.tree.map(lambda leaf: leaf[-1], stacked), info, steps[-1], steps

    return unlearn_one


def row_logits(plan: Plan, name: str, stored: Stored) -> list[np.ndarray]:
    """Return every run's logits ``[N, C]`` over the pool, after the output filter.

    The filter is given the classes' mean outputs on the training set. Filtered
    probabilities are returned as logarithms, with ``FLOOR`` in place of zero.

    Args:
      plan: the run.
      name: row's name.
      stored: unlearned models of the row.
    """
    return filter_outputs(plan, name, stored.each("logits"))


def filter_outputs(plan: Plan, name: str, logits: list[np.ndarray]) -> list[np.ndarray]:
    """Return logits of the plan's runs after a row's output filter.

    Args:
      plan: the run.
      name: row's name.
      logits: ``[N, C]`` logits of every run.
    """
    chosen = plan.rows[name].filter
    if chosen is None:
        return logits
    labels = np.asarray(plan.splits.train.labels)
    return [
        filter_logits(chosen, one, labels, plan.forget[run[1]])
        for run, one in zip(plan.runs, logits, strict=True)
    ]


def filter_logits(
    chosen: filters.Filter, logits: np.ndarray, labels: np.ndarray, forget: np.ndarray
) -> np.ndarray:
    """Return one model's logits after an output filter.

    Args:
      chosen: the filter.
      logits: ``[N, C]`` logits over the pool; those of a model that diverged are
        returned unchanged.
      labels: ``[N_train]`` labels of the training set.
      forget: ``[N_train]`` bool, all samples of the forgotten classes.
    """
    if not np.isfinite(logits).all():
        return logits
    classes = np.setdiff1d(labels[forget], labels[~forget])
    probs = audit.softmax(logits)
    means = filters.class_means(probs[: len(labels)], labels)
    filtered = np.asarray(chosen(probs, means, classes), np.float64)
    return np.log(np.maximum(filtered, FLOOR)).astype(np.float32)


def attack_rows(adversarial: Stored, name: str) -> list[np.ndarray]:
    """Return a field of every adversarial set, without padding."""
    fields = adversarial.each(name)
    if "size" not in adversarial:
        return fields
    sizes = adversarial.each("size")
    return [one[:size] for one, size in zip(fields, sizes, strict=True)]


def stack_attack(adversarial: Stored, rows: np.ndarray, size: int) -> AttackResult:
    """Return some pairs' adversarial sets, stacked to ``[G, F, ...]``.

    A pair is an original and a forget set.

    Args:
      adversarial: stored adversarial sets of an attack.
      rows: ``[G]`` positions of the pairs.
      size: ``F``, samples of a set; those beyond a set's own size are padding.
    """
    fields = {}
    for name in AttackResult._fields:
        arrays = adversarial.each(name)
        fields[name] = jnp.asarray(np.stack([arrays[row][:size] for row in rows]))
    return AttackResult(**fields)
