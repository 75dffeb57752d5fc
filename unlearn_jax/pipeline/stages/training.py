"""Trained models and their logits, shared by every run whose models are the same.

Models are identified by what determines them and nothing else: data, network, recipe,
and each model's training samples and PRNG key. Their logits over the whole pool are
stored with them, so that auditing needs no model.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax import audit
from unlearn_jax.pipeline.store.artifact import (
    Artifact,
    Checkpoints,
    Items,
    Piece,
    Runner,
    Stored,
)
from unlearn_jax.replicas import (
    Mapper,
    fit_many,
    is_rehearsal,
    map_models,
    predict_many,
    to_host,
)
from unlearn_jax.train import LossFn, Recipe, TrainState, init_state, steps_per_epoch
from unlearn_jax.types import Dataset, Model, PyTree, Variables


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """Models to train.

    Attributes:
      name: ``originals``, ``references`` or ``retrained``.
      settings: plain values that determine the models.
      model: the network.
      pool: samples that models are trained and evaluated on.
      member: ``[M, N]`` bool, training set of each model.
      keys: ``[M, 2]`` key data of the models' PRNG keys.
      recipe: recipe of their training.
      loss_fn: objective; cross-entropy if None.
      finish: function applied to a model at the end of its training; none if None.
      given: stacked models trained elsewhere, which are only evaluated; None to train.
      keep: parts to store: ``models`` and their logits, ``logits`` alone, or only the
        membership ``signals`` of the logits.
      signal_names: names of the membership signals to store, if only these are kept.
      mapper: function from a number of models to the mapper that computes them.
      group: largest number of models trained and stored at a time.
      checkpoint_seconds: shortest time between two checkpoints, in seconds.
      root: folder that holds the models.
      runner: runner that trains the models.
    """

    name: str
    settings: Mapping[str, Any]
    model: Model
    pool: Dataset
    member: np.ndarray
    keys: np.ndarray
    recipe: Recipe
    loss_fn: LossFn | None = None
    finish: Callable[[Variables], Variables] | None = None
    given: Variables | None = None
    keep: Literal["models", "logits", "signals"] = "models"
    signal_names: tuple[str, ...] = ()
    mapper: Callable[[int], Mapper]
    group: int
    checkpoint_seconds: float
    root: pathlib.Path
    runner: Runner

    @cached_property
    def artifact(self) -> Artifact:
        """The trained models, or the parts of them that are kept.

        The content is ``models``, ``logits`` ``[M, N, C]`` and the last epoch's
        ``loss``. Membership signals by name, ``[M, N]`` each, may replace the logits.
        """
        epochs = self.recipe.num_epochs if self.given is None else 0
        return Artifact(
            name=self.name,
            settings=self.settings,
            compute=self._train if self.given is None else self._evaluate,
            items=Items(len(self.member), self.group, steps=max(epochs, 1)),
            root=self.root,
            like={"models": self.blank(1).variables},
            price=float(epochs * self.member.sum(1).max(initial=0)),
        )

    @property
    def stored(self) -> Stored:
        """The trained models; those that are missing are trained."""
        return self.runner.make(self.artifact)

    def logits(self) -> list[np.ndarray]:
        """Return every model's logits ``[N, C]`` over the pool, memory-mapped."""
        return self.stored.each("logits")

    def signals(self, signal: str) -> np.ndarray:
        """Return a membership signal ``[M, N]`` of all models, read once.

        Only one model's logits are in memory at a time.

        Args:
          signal: name of the signal, in :data:`unlearn_jax.audit.SIGNALS`.
        """
        labels = self.pool.labels
        if self.keep == "signals":
            return self.stored[signal]

        def read(stored: Stored) -> np.ndarray:
            return audit.model_signals(signal, stored.each("logits"), labels)

        return self.stored.derived(("signal", signal), read)

    def variables(self) -> PyTree:
        """Return all models, stacked: leaves ``[M, ...]``."""
        return self.stored["models"]

    def missing(self) -> list[int]:
        """Return the positions of the models that are not yet trained."""
        return self.runner.missing(self.artifact)

    def _train(self, piece: Piece) -> dict[str, PyTree]:
        rows = np.array(piece.items)
        mapper = self.mapper(len(rows))
        checkpoints = Checkpoints(
            piece.scratch, self.checkpoint_seconds, is_joint=self.runner.is_joint
        )
        state = checkpoints.restore(self.blank(len(rows)))
        if state is not None:
            state = jax.tree.map(jnp.asarray, state)
            piece.advance(int(state.epoch[0]))

        def save(state: TrainState, losses: np.ndarray) -> None:
            piece.advance(losses.shape[1])
            epoch = int(to_host(state.epoch)[0])
            piece.record(epoch - losses.shape[1] + 1, losses)
            # a checkpoint holds no losses, so the last losses must come from training
            if epoch < self.recipe.num_epochs:
                checkpoints.save(epoch, state)

        # over all models, so that all groups share a program
        largest = int(self.member.sum(1).max())
        state, losses = fit_many(
            jax.random.wrap_key_data(jnp.asarray(self.keys[rows])),
            self.model,
            self.pool,
            self.member[rows],
            self.recipe,
            mapper=mapper,
            state=state,
            loss_fn=self.loss_fn,
            num_batches=steps_per_epoch(largest, self.recipe.batch_size),
            epochs_per_call=epochs_per_call(self.recipe, largest * len(rows)),
            callback=save,
        )
        models = state.variables
        if self.finish is not None:
            models = map_models(mapper, _each(self.finish), models, ())
        return {**self._content(models, mapper), "loss": losses[:, -1]}

    def _evaluate(self, piece: Piece) -> dict[str, PyTree]:
        """Return the given models with their logits."""
        rows = np.array(piece.items)
        models = jax.tree.map(lambda leaf: jnp.asarray(leaf[rows]), self.given)
        return self._content(models, self.mapper(len(rows)))

    def _content(self, models: Variables, mapper: Mapper) -> dict[str, PyTree]:
        """Return the parts of trained models that are kept."""
        logits = predict_many(self.model.apply, models, self.pool.images, mapper=mapper)
        if self.keep == "models":
            return {"models": models, "logits": logits}
        if self.keep == "logits" or is_rehearsal():
            return {"logits": logits}
        content = {}
        for name in self.signal_names:
            content[name] = audit.model_signals(name, logits, self.pool.labels)
        return content

    def blank(self, size: int) -> TrainState:
        """Return the shapes of the stacked training state of ``size`` models."""
        one = jax.eval_shape(
            lambda key: init_state(key, self.model, self.recipe.tx), jax.random.key(0)
        )
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype), one
        )


@lru_cache(maxsize=16)
def _each(
    finish: Callable[[Variables], Variables],
) -> Callable[[Variables, Any], Variables]:
    """Return ``finish`` as a function for ``map_models``, the same for all groups."""

    def clip(variables: Variables, _: Any) -> Variables:
        return finish(variables)

    return clip


def epochs_per_call(recipe: Recipe, samples_per_epoch: int) -> int:
    """Return the number of epochs per compiled call, for about half a million samples.

    This is few enough to show progress, and enough to make overhead negligible.
    """
    wanted = max(1, 500_000 // samples_per_epoch)
    for num_epochs in range(min(wanted, recipe.num_epochs), 0, -1):
        if recipe.num_epochs % num_epochs == 0:
            return num_epochs
    return 1
