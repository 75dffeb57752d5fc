"""Federated unlearning of segmentation: generated shapes, a style per client."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax import models, optimizers, train
from unlearn_jax.contrib import federated
from unlearn_jax.pipeline import Artifact
from unlearn_jax.studies.common import check_distinct, variables_of
from unlearn_jax.studies.federated import recovery
from unlearn_jax.types import Array, Dataset, InputError, Model, PyTree, Variables

MEASURES = ("test", "test_iou", "forget", "forget_iou", "unseen")


CLASSES = len(federated.SHAPES)


@dataclasses.dataclass(frozen=True)
class Config:
    """Federation and network; every client restarts Adam in every round."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of initial weights and sample order; the images are the same."""
    num_clients: int = 5
    """Number of clients; each has its own style and leaves in one case."""
    num_images: int = 32
    """Number of training images of a client, and of held-out images of its style."""
    size: int = 12
    """Side of an image in pixels."""
    width: int = 12
    """Channels of the two hidden convolutions."""
    learning_rate: float = 0.01
    """Learning rate of the first round; decays by 0.998 per round."""
    rounds: int = 60
    """Training rounds of the original and of every retrained model."""
    recovery: int = 15
    """Maximum number of rounds of recovery after unlearning."""


@functools.lru_cache(maxsize=2)
def network(width: int) -> Model:
    """Return a network of three 5x5 convolutions, with logits for every pixel."""
    conv = models.convolution()
    shapes = [(5, 5, 3, width), (5, 5, width, width), (5, 5, width, CLASSES)]

    def init(key: Array) -> list[dict[str, Array]]:
        draw = jax.nn.initializers.he_normal()
        keys = jax.random.split(key, 3)
        layers = []
        for key_layer, shape in zip(keys, shapes, strict=True):
            layers.append(
                {"kernel": draw(key_layer, shape), "bias": jnp.zeros(shape[3])}
            )
        return layers

    def apply(params: list[dict[str, Array]], images: Array) -> Array:
        hidden = images
        for i, layer in enumerate(params):
            hidden = jax.nn.relu(hidden) if i else hidden
            hidden = conv(hidden, layer["kernel"], (1, 1), "SAME")
            hidden = hidden + layer["bias"].reshape(1, 1, 1, -1)
        return hidden

    return models.from_functions(init, apply)


@functools.lru_cache(maxsize=2)
def images(num_clients: int, num_images: int, size: int) -> tuple[Dataset, Dataset]:
    """Return training and held-out images, in the order of the clients."""
    styles = federated.draw_styles(num_clients, seed=0)

    def draw(seed: int) -> Dataset:
        parts = [
            federated.shape_images(num_images, style, size=size, seed=seed + i)
            for i, style in enumerate(styles)
        ]
        return Dataset(*map(np.concatenate, zip(*parts, strict=True)))

    return draw(1000), draw(2000)


@functools.lru_cache(maxsize=2)
def local_training(learning_rate: float) -> federated.LocalTraining:
    """Return the local training of a client: one epoch of Adam in batches of 8."""
    return federated.LocalTraining(
        batch_size=8,
        learning_rate=learning_rate,
        optimizer=optimizers.Adam(),
        weight_decay=0.0,
    )


@dataclasses.dataclass(frozen=True)
class Measures:
    """:data:`MEASURES` of a model; items are ``(variables, leaving)``.

    Attributes:
      model: architecture of the models.
    """

    model: Model

    def __call__(self, item: Any, shared: tuple[Dataset, Dataset]) -> Array:
        """Return measures ``[5]``, means over the two shapes: Dice unless named IoU."""
        variables, leaving = item
        samples, held_out = shared
        owner = jnp.repeat(
            jnp.arange(len(leaving)), len(samples.labels) // len(leaving)
        )
        removed = leaving[owner]

        def classes(images: Array) -> Array:
            logits = train.predict(self.model.apply, variables, images, batch_size=64)
            return jnp.argmax(logits, -1)

        on_samples = classes(samples.images)
        on_held_out = classes(held_out.images)
        labels = held_out.labels
        test = federated.overlap(on_held_out, labels, CLASSES, ~removed)
        forget = federated.overlap(on_samples, samples.labels, CLASSES, removed)
        unseen = federated.overlap(on_held_out, labels, CLASSES, removed)
        values = (test.dice, test.iou, forget.dice, forget.iou, unseen.dice)
        # Class 0 is the background.
        return jnp.stack([jnp.mean(value[1:]) for value in values])


def train_models(config: Config, seed: int) -> dict[str, Variables]:
    """Return the original, and two retrained models for each client."""
    cases = config.num_clients
    clients = _clients(config)
    return recovery.train_all(
        recovery.Trainer(
            network(config.width), local_training(config.learning_rate), config.rounds
        ),
        jax.random.fold_in(jax.random.key(29), seed),
        clients,
        recovery.repeat(clients, cases),
        np.ones(cases, bool),
        ~np.eye(cases, dtype=bool),
        _samples(config),
    )


def forget_all(
    config: Config, seed: int, trained: Mapping[str, PyTree]
) -> dict[str, np.ndarray]:
    """Apply every method to every client and let the other clients recover.

    Args:
      config: study configuration.
      seed: seed of the methods.
      trained: models of :func:`train_models`.

    Returns:
      Measures by model: ``[L, 1 + recovery, 5]`` by round for each method, and
      ``[L, 5]`` for the trained models.
    """
    cases = config.num_clients
    leaving = np.eye(cases, dtype=bool)
    model = network(config.width)
    local = local_training(config.learning_rate)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(31), seed), cases)
    run = functools.partial(recovery.for_each, shared=_samples(config))
    original = variables_of(trained["original"])
    originals = recovery.repeat(original, cases)
    retrained = variables_of(trained["retrained"])
    again = variables_of(trained["again"])
    arrays: dict[str, np.ndarray] = {}
    trio = {"original": originals, "retrained": retrained, "again": again}
    for name, variables in trio.items():
        arrays[name] = run(Measures(model), (variables, leaving))
    clients = _clients(config)
    all_clients = recovery.repeat(clients, cases)
    # Variables from which to recover, and the number of rounds so far.
    rounds = config.rounds
    starts: dict[str, tuple[Variables, int]] = {"natural": (originals, rounds)}
    one_round = recovery.Round(model, local, rounds)
    for mode in ("special", "regular"):
        weights = np.stack(
            [federated.puf_weights(clients, one, mode=mode) for one in leaving]
        )
        unlearned = run(one_round, (keys, originals, all_clients, weights))
        starts[mode] = (unlearned, rounds + 1)
    blank = jnp.zeros((1, config.size, config.size, 3))
    negated = federated.negate_first_layer(
        model.apply, jax.tree.map(jnp.asarray, original), blank
    )
    starts["not"] = (recovery.repeat(negated, cases), rounds)
    ascent = recovery.Ascent(model, local, rounds)
    items = (keys, originals, all_clients, leaving, ~leaving)
    starts["ascent"] = (run(ascent, items), rounds)
    program = recovery.Recovery(model, local, config.recovery, Measures(model))
    case = (all_clients, ~leaving, leaving)
    return arrays | recovery.recover_all(program, starts, keys, case, run)


def _clients(config: Config) -> federated.Clients:
    owners = np.repeat(np.arange(config.num_clients), config.num_images)
    return federated.gather_clients(owners)


def _samples(config: Config) -> tuple[Dataset, Dataset]:
    return images(config.num_clients, config.num_images, config.size)


def make_artifacts(config: Config) -> list[Artifact]:
    """Return artifacts of training and unlearning for every seed.

    Raises:
      InputError: no seeds or equal ones, or sizes that are too small.
    """
    check_distinct(seeds=config.seeds)
    smallest = min(config.num_images, config.rounds, config.recovery, config.width)
    if config.num_clients < 2 or smallest < 1:
        raise InputError(
            "give at least 2 clients, 1 image, 1 channel, 1 round and 1 round of"
            " recovery"
        )
    # Raises on sizes for which no images can be drawn.
    images(config.num_clients, config.num_images, config.size)
    plain = dataclasses.asdict(config)
    del plain["seeds"]
    if models.convolution_form() == "onednn":
        # The bits of oneDNN convolutions differ from those of other ones.
        plain["conv"] = "onednn"
    artifacts = []
    for seed in config.seeds:
        settings = {**plain, "seed": seed}
        models_of = Artifact(
            name=f"models-{seed}",
            settings=settings,
            compute=functools.partial(train_models, config, seed),
        )
        forget = Artifact(
            name=f"forget-{seed}",
            settings=settings,
            compute=functools.partial(forget_all, config, seed),
            inputs=(models_of,),
        )
        artifacts += [models_of, forget]
    return artifacts
