"""Main programs of a study of ensembles, to be compiled for accelerators and not run.

The study itself goes from one program to the next by numbers that it has computed.
"""

from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp

from unlearn_jax import replicas
from unlearn_jax.ensembles import ensemble_apply, ensemble_epochs, init_ensemble
from unlearn_jax.pipeline.store.artifact import Artifact
from unlearn_jax.replicas._programs import Program
from unlearn_jax.studies.ensembles.config import EnsembleConfig, check
from unlearn_jax.studies.ensembles.lab import Lab
from unlearn_jax.train import fetch_from, steps_per_epoch
from unlearn_jax.types import Array, PyTree, Variables


def make_programs(config: EnsembleConfig) -> list[Artifact]:
    """Return artifacts that call the programs of training and of the L2 attacks.

    They are named as those of :func:`make_artifacts`, and are not to be stored.

    Raises:
      InputError: unusable configuration.
    """
    check(config)
    lab = Lab(config)
    artifacts = []
    for seed in config.seeds:
        computes = {f"surrogates-{seed}": partial(_train_surrogates, lab, seed)}
        for arm in config.arms:
            computes[f"{arm}-{seed}"] = partial(_train_members, lab, arm)
            computes[f"attack-{arm}-{seed}"] = partial(_attack, lab)
        for name, compute in computes.items():
            artifacts.append(Artifact(name=name, settings={}, compute=compute))
    return artifacts


def _train_surrogates(lab: Lab, seed: int) -> dict[str, PyTree]:
    count = lab.config.num_surrogates
    members = jnp.tile(jnp.asarray(lab.everyone), (count, 1))
    keys = jax.random.split(jax.random.key(seed), count)
    state, _ = replicas.fit_many(keys, lab.model, lab.splits.train, members, lab.recipe)
    return {"members": state.variables}


@lru_cache(maxsize=16)
def _training(lab: Lab, arm: str) -> tuple[Program, tuple[PyTree, ...], int]:
    """Return the program of an arm's training, its arguments and its calls."""
    ensemble, recipe = lab.arm(arm)
    txs = (recipe.tx,) * len(ensemble.models)
    num_samples = len(lab.splits.train.labels)
    every = lab.config.attack.every_epochs
    num_epochs = every or max(1, min(recipe.num_epochs, 50))
    epochs = partial(
        ensemble_epochs,
        ensemble,
        txs,
        fetch_from(recipe.augment),
        num_epochs=num_epochs,
        num_batches=steps_per_epoch(num_samples, recipe.batch_size),
        batch_size=recipe.batch_size,
    )

    def train_members(state: Any, key: Array, data: PyTree, member: Array) -> PyTree:
        return epochs(state, key, data, member)

    key = jax.random.key(0)
    begin = partial(init_ensemble, ensemble=ensemble, txs=txs, sample=lab.sample)
    state = jax.jit(begin)(key)
    data = jax.tree.map(jnp.asarray, lab.splits.train)
    program = Program(jax.jit(train_members, donate_argnums=0))
    arguments = (state, key, data, jnp.asarray(lab.everyone))
    return program, arguments, -(-recipe.num_epochs // num_epochs)


def _train_members(lab: Lab, arm: str) -> dict[str, PyTree]:
    program, arguments, num_calls = _training(lab, arm)
    for _ in range(num_calls):
        program(*arguments)
    return {}


@lru_cache(maxsize=2)
def _attacks(lab: Lab) -> tuple[Program, Program]:
    """Return the attacks of a member and of the ensemble, at all radii."""
    whole = ensemble_apply([lab.model] * lab.config.num_members)

    def attack_member(key: Array, variables: Variables, x: Array, y: Array) -> Any:
        return lab.pgd(key, (lab.model.apply, variables), x, y, keep="last")

    def attack_ensemble(key: Array, variables: Any, x: Array, y: Array) -> Any:
        return lab.pgd(key, (whole, variables), x, y, keep="first")

    return Program(jax.jit(attack_member)), Program(jax.jit(attack_ensemble))


def _attack(lab: Lab) -> dict[str, PyTree]:
    of_member, of_ensemble = _attacks(lab)
    keys = jax.random.split(jax.random.key(0), lab.config.num_members)
    members = tuple(lab.model.init(key) for key in keys)
    for one in members:
        of_member(jax.random.key(1), one, *lab.targets)
    of_ensemble(jax.random.key(2), members, *lab.targets)
    return {}
