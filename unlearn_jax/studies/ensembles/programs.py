"""Main programs of a study of ensembles, to be compiled for accelerators and not run.

The study itself goes from one program to the next by numbers that it has computed.
"""

from functools import partial
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
from unlearn_jax.types import Array, AttackResult, PyTree, Variables


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
            computes[f"attack-{arm}-{seed}"] = partial(_attack, lab, arm)
        for name, compute in computes.items():
            artifacts.append(Artifact(name=name, settings={}, compute=compute))
    return artifacts


def _train_surrogates(lab: Lab, seed: int) -> dict[str, PyTree]:
    count = lab.config.num_surrogates
    members = jnp.tile(jnp.asarray(lab.everyone), (count, 1))
    keys = jax.random.split(jax.random.key(seed), count)
    state, _ = replicas.fit_many(keys, lab.model, lab.splits.train, members, lab.recipe)
    return {"members": state.variables}


def _train_members(lab: Lab, arm: str) -> dict[str, PyTree]:
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
    for _ in range(0, recipe.num_epochs, num_epochs):
        program(state, key, data, jnp.asarray(lab.everyone))
    return {}


def _attack(lab: Lab, arm: str) -> dict[str, PyTree]:
    ensemble, _ = lab.arm(arm)
    members = tuple(model.init(jax.random.key(0)) for model in ensemble.models)
    whole = ensemble_apply(ensemble.models)

    def attack_member(key: Array, variables: Variables, x: Array, y: Array) -> Any:
        return _result(lab, key, (lab.model.apply, variables), x, y)

    def attack_ensemble(key: Array, variables: Any, x: Array, y: Array) -> Any:
        return _result(lab, key, (whole, variables), x, y)

    images, labels = lab.targets
    key = jax.random.key(1)
    program = Program(jax.jit(attack_member))
    for one in members:
        program(key, one, images, labels)
    Program(jax.jit(attack_ensemble))(key, members, images, labels)
    return {}


def _result(
    lab: Lab, key: Array, classifier: tuple[Any, Any], x: Array, y: Array
) -> AttackResult:
    return lab.pgd(key, classifier, x, y, keep="last")
