"""Main programs of a study of ensembles, to be compiled for accelerators but not run.

In the study itself, later programs depend on numbers that earlier ones computed.
"""

from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp

from unlearn_jax.ensembles import ensemble_apply, joint_training
from unlearn_jax.pipeline.store.artifact import Artifact
from unlearn_jax.replicas._programs import Program
from unlearn_jax.studies.ensembles.config import EnsembleConfig, check
from unlearn_jax.studies.ensembles.lab import Lab, longest_call
from unlearn_jax.train import steps_per_epoch
from unlearn_jax.types import Array, PyTree, Variables


def make_programs(config: EnsembleConfig) -> list[Artifact]:
    """Return artifacts that call the programs of training and of the PGD attacks.

    Their names are those of
    :func:`unlearn_jax.studies.ensembles.artifacts.make_artifacts`. They must not be
    stored.

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
    return {"members": lab.train_surrogates(seed)}


@lru_cache(maxsize=16)
def _training(lab: Lab, arm: str) -> tuple[Program, tuple[PyTree, ...], int]:
    """Return the program of an arm's training, its arguments and number of calls."""
    ensemble, recipe = lab.arm(arm)
    samples = lab.splits.train
    num_epochs = lab.config.attack.every_epochs or longest_call(recipe)
    num_batches = steps_per_epoch(len(samples.labels), recipe.batch_size)
    begin, run = joint_training(ensemble, recipe, num_batches=num_batches)

    def train_members(state: Any, key: Array, data: PyTree, member: Array) -> PyTree:
        return run(state, key, data, member, num_epochs=num_epochs)

    key = jax.random.key(0)
    state = jax.jit(begin)(key, sample=lab.sample)
    data = jax.tree.map(jnp.asarray, samples)
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
    """Return the attacks on a member and on the ensemble, at all radii."""
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
