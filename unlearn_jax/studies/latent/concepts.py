"""Latent concept unlearning: a diffusion model forgets a class of digits."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax import layers, models, pipeline, replicas, train
from unlearn_jax.checks import check_positive
from unlearn_jax.contrib import diffusion
from unlearn_jax.models.denoiser import Denoiser, build_denoiser
from unlearn_jax.pipeline import Artifact, DataConfig
from unlearn_jax.studies.common import Arrays, check_distinct, variables_of
from unlearn_jax.types import (
    Array,
    Dataset,
    InputError,
    Model,
    PyTree,
    Variables,
    to_float,
)

MODELS = {
    "original": "original",
    "retrained": "retrained (oracle)",
    "again": "retrained again (seed floor)",
}


METHODS = {
    "random-label": "random label",
    "unconditional": "steer to unconditional",
    "esd": "steer past it (ESD)",
    "latent-own": "latent, own judge",
    "latent-external": "latent, classifier judge",
    "latent-beyond": "latent, classifier, past the border",
    "latent-random": "same lengths, random directions",
    "latent-class": "latent, own judge, its class",
}
ROWS = MODELS | METHODS
TUNED = tuple(name for name in METHODS if name != "latent-random")
"""Methods whose options are tuned; the control takes those of ``latent-beyond``."""

PROCESS = diffusion.Process()
SHOWN = 6
"""Number of samples of the forgotten class in the figure."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A class-conditional diffusion model that forgets one class at a time."""

    data: DataConfig = dataclasses.field(
        default_factory=lambda: DataConfig(num_train=900, num_test=897)
    )
    """Training set of the denoisers; half of the test set trains the evaluator."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of training, attacks, unlearning and sampling."""
    concepts: tuple[int, ...] = (3, 8)
    """Classes to forget, one at a time."""
    tuning_seed: int = 100
    """Seed of the model on which options are chosen; not reported."""
    tuning_concept: int = 5
    """Class that the model for tuning forgets; not reported."""
    width: int = 192
    """Units of the denoiser's blocks."""
    num_epochs: int = 80
    """Passes over the training set."""
    num_steps: int = 200
    """Gradient steps of every method except retraining."""
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    """Learning rates of Adam; one is chosen for each method."""
    overshoots: tuple[float, ...] = (1.5, 2.0, 3.0)
    """Overshoots, as factors of the distance to the border; one is chosen."""
    guidance: float = 1.0
    """Guidance scale of the sampler."""
    num_samples: int = 100
    """Samples per condition."""
    radii: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    """Radii of the attack; 1 is the mean distance between the original's conditions."""


class World(NamedTuple):
    """Data and models of a configuration.

    Attributes:
      samples: training set of the denoisers.
      other: training set of the evaluator.
      held_out: reference set of the Frechet distance.
      denoiser: architecture of the diffusion model.
      classifier: architecture of evaluator and judge.
    """

    samples: Dataset
    other: Dataset
    held_out: Dataset
    denoiser: Denoiser
    classifier: Model


def candidates_of(name: str, config: Config) -> dict[str, list[float]]:
    """Return the values of a method's options to choose from."""
    return {
        "learning_rate": list(config.learning_rates),
        "overshoot": list(config.overshoots) if name == "latent-beyond" else [1.0],
    }


@functools.lru_cache(maxsize=4)
def world(config: Config) -> World:
    """Return the data, with float32 images, and the architectures."""
    splits = pipeline.load_data(config.data)
    half = len(splits.test.labels) // 2

    def part(samples: Dataset, rows: slice) -> Dataset:
        images = np.asarray(to_float(samples.images[rows]))
        return Dataset(images, np.asarray(samples.labels[rows]))

    samples = part(splits.train, slice(None))
    shape = samples.images.shape[1:]
    return World(
        samples,
        part(splits.test, slice(half)),
        part(splits.test, slice(half, None)),
        build_denoiser(shape, splits.num_classes, width=config.width),
        models.build("mlp", shape, splits.num_classes, widths=(128, 32)),
    )


@functools.lru_cache(maxsize=2)
def mapper() -> replicas.Mapper:
    """Return a loop over models, whose program is the same for any number of them."""
    return replicas.mapper("loop", num_models=len(jax.local_devices()))


def keys_of(config: Config, purpose: int) -> Array:
    """Return a key for each run ``[seeds * concepts]`` and, at the end, for tuning."""
    seeds = [1000 * seed + c for seed in config.seeds for c in config.concepts]
    seeds.append(1000 * config.tuning_seed)

    def key(seed: Array) -> Array:
        return jax.random.fold_in(jax.random.key(seed), purpose)

    return jax.vmap(key)(jnp.array(seeds))


def concepts_of(config: Config) -> np.ndarray:
    """Return the class of each run and, at the end, the class of tuning."""
    return np.array(
        [*config.concepts] * len(config.seeds) + [config.tuning_concept], np.int32
    )


def train_classifiers(config: Config) -> dict[str, PyTree]:
    """Train the evaluator and the judge of the attack, and return their accuracies too.

    They are trained on different data, since the evaluator measures what the judge
    optimizes.
    """
    setup = world(config)
    recipe = train.Recipe(60, 32, train.sgd(0.05))
    classifiers: dict[str, PyTree] = {}
    for name, key, part in (("evaluator", 1, setup.other), ("judge", 2, setup.samples)):
        state, _ = train.fit(
            jax.random.key(key),
            setup.classifier,
            part,
            np.ones(len(part.labels), bool),
            recipe,
            epochs_per_call=60,
        )
        classifiers[name] = state.variables
        images = jnp.asarray(setup.held_out.images)
        logits = setup.classifier.apply(state.variables, images)
        is_right = np.asarray(logits).argmax(-1) == setup.held_out.labels
        classifiers[f"{name}-accuracy"] = np.mean(is_right)
    return classifiers


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Training of a denoiser; items are ``(key, class to leave out or -1)``."""

    config: Config

    def __call__(self, item: Any, data: Dataset) -> Variables:
        """Return the trained variables."""
        key, without = item
        return diffusion.train_denoiser(
            key,
            world(self.config).denoiser,
            PROCESS,
            data,
            data.labels != without,
            num_epochs=self.config.num_epochs,
            num_batches=train.steps_per_epoch(len(data.labels), 64),
        )[0]


def train_models(config: Config, name: str) -> dict[str, Variables]:
    """Return all models of a row, stacked over runs.

    Runs with the same seed share an original. The last original is one more model, for
    tuning.
    """
    if name == "original":
        keys = keys_of(config, 0)[:: len(config.concepts)]
        without = np.full(len(config.seeds) + 1, -1, np.int32)
    else:
        keys = keys_of(config, {"retrained": 1, "again": 2}[name])[:-1]
        without = concepts_of(config)[:-1]
    samples = world(config).samples
    trained = replicas.map_models(mapper(), Trainer(config), (keys, without), samples)
    if name == "original":
        rows = np.arange(len(config.seeds)).repeat(len(config.concepts))
        rows = np.append(rows, len(config.seeds))
        trained = jax.tree.map(lambda leaf: np.asarray(leaf)[rows], trained)
    return {"models": trained}


@dataclasses.dataclass(frozen=True)
class Eraser:
    """Run of a method; items are ``(key, variables, concept, rate, overshoot)``.

    Attributes:
      config: study configuration.
      method: key of :data:`METHODS`.
    """

    config: Config
    method: str

    def __call__(self, item: Any, shared: Any) -> Variables:
        """Return the unlearned variables."""
        key, variables, concept, rate, overshoot = item
        data, judge = shared
        denoiser = world(self.config).denoiser
        classify = functools.partial(world(self.config).classifier.apply, judge)
        options: dict[str, Any] = {
            "num_steps": self.config.num_steps,
            "learning_rate": rate,
        }
        past = {"overshoot": overshoot, "classify": classify}
        latent = functools.partial(diffusion.LatentAdversarial, **options)
        steer = functools.partial(diffusion.SteerAway, **options)
        methods: dict[str, Callable[[], Any]] = {
            "random-label": functools.partial(diffusion.RandomCondition, **options),
            "unconditional": functools.partial(steer, eta=0.0),
            "esd": functools.partial(steer, eta=1.0),
            "latent-own": latent,
            "latent-external": functools.partial(latent, classify=classify),
            "latent-beyond": functools.partial(latent, **past),
            "latent-random": functools.partial(latent, direction="random", **past),
            "latent-class": functools.partial(latent, goal="class"),
        }
        method = methods[self.method]()
        problem = diffusion.ConceptProblem(denoiser, PROCESS, variables, data, concept)
        return method(key, problem)[0]


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Samples under every condition, then without one; items ``(key, variables)``."""

    config: Config

    def __call__(self, item: Any, evaluator: Variables) -> dict[str, Array]:
        """Return the classes and features by the evaluator, and the first images."""
        key, variables = item
        count = self.config.num_samples
        denoiser = world(self.config).denoiser
        classifier = world(self.config).classifier
        labels = jnp.repeat(jnp.arange(denoiser.num_classes + 1), count)
        condition = denoiser.embed(variables, labels)
        guidance = self.config.guidance
        drawn = diffusion.sample(
            key, denoiser, variables, PROCESS, condition, guidance=guidance
        )
        images = diffusion.to_images(drawn)
        classes = jnp.argmax(classifier.apply(evaluator, images), -1)
        features = layers.features(classifier.apply, evaluator, images)
        shape = (len(images) // count, count)
        return {
            "classes": classes.reshape(shape),
            "features": features.reshape(*shape, -1),
            "images": images.reshape(*shape, *denoiser.image_shape)[:, :SHOWN],
        }


@dataclasses.dataclass(frozen=True)
class Attacker:
    """Attack that recovers a concept; items ``(key, variables, concept, scale)``."""

    config: Config

    def __call__(self, item: Any, shared: Any) -> Array:
        """Return the fraction of samples of the concept, by radius, starting with 0."""
        key, variables, concept, scale = item
        data, evaluator = shared
        denoiser = world(self.config).denoiser
        classifier = world(self.config).classifier
        key_images, *keys = jax.random.split(key, 3)
        problem = diffusion.ConceptProblem(denoiser, PROCESS, variables, data, concept)
        images = diffusion.concept_images(key_images, problem, 64)
        count = self.config.num_samples

        def at(radius: Array) -> Array:
            key_attack, key_draw = map(jax.random.clone, keys)
            delta = diffusion.recover_concept(
                key_attack,
                denoiser,
                variables,
                PROCESS,
                images,
                concept,
                radius=radius * scale,
            )
            condition = denoiser.embed(variables, jnp.full((count,), concept))
            drawn = diffusion.sample(
                key_draw,
                denoiser,
                variables,
                PROCESS,
                condition + delta.reshape(1, -1),
                guidance=self.config.guidance,
            )
            logits = classifier.apply(evaluator, diffusion.to_images(drawn))
            return jnp.mean(jnp.argmax(logits, -1) == concept)

        return jax.lax.map(at, jnp.array([0.0, *self.config.radii]))


def scales(config: Config, originals: Variables) -> Array:
    """Return every original's mean distance between the conditions of two classes."""
    denoiser = world(config).denoiser

    def embed(variables: Variables) -> Array:
        return denoiser.embed(variables, jnp.arange(denoiser.num_classes))

    table = np.asarray(jax.vmap(embed)(originals))
    gaps = np.linalg.norm(table[:, :, None] - table[:, None], axis=-1)
    count = gaps.shape[1]
    return jnp.asarray(gaps.sum((1, 2)) / (count * (count - 1)), jnp.float32)


def measure(
    config: Config,
    classifiers: Mapping[str, PyTree],
    originals: Variables,
    variables: Variables,
) -> dict[str, np.ndarray]:
    """Measure a row's models.

    Args:
      config: study configuration.
      classifiers: arrays of :func:`train_classifiers`.
      originals: variables of the originals, stacked over runs.
      variables: variables to measure, stacked over runs.

    Returns:
      Arrays for R runs. ``forgotten`` and ``unconditional`` ``[R]``: fractions of
      samples of the concept, under its condition and without a condition. ``retained``
      ``[R]``: fraction of samples under the other conditions that are of the right
      class. ``frechet`` ``[R]``: Frechet distance of the samples under the other
      conditions. ``attacked`` ``[R, 1 + radii]``: fraction of samples of the concept,
      without an attack and by radius. ``images``: the first samples.
    """
    setup = world(config)
    evaluator = variables_of(classifiers["evaluator"])
    runs = concepts_of(config)[:-1]
    items = (keys_of(config, 3)[:-1], variables)
    drawn = replicas.map_models(mapper(), Sampler(config), items, evaluator)
    classes = np.asarray(drawn["classes"])
    features = np.asarray(drawn["features"])
    items = (keys_of(config, 4)[:-1], variables, runs, scales(config, originals))
    shared = (setup.samples, evaluator)
    attacked = replicas.map_models(mapper(), Attacker(config), items, shared)
    images = jnp.asarray(setup.held_out.images)
    real = np.asarray(layers.features(setup.classifier.apply, evaluator, images))
    rows = []
    for run, concept in enumerate(runs):
        others = np.delete(np.arange(setup.denoiser.num_classes), concept)
        drawn_features = features[run, others].reshape(-1, features.shape[-1])
        real_features = real[setup.held_out.labels != concept]
        rows.append(
            {
                "forgotten": diffusion.concept_rate(classes[run, concept], concept),
                "retained": (classes[run, others] == others[:, None]).mean(),
                "frechet": diffusion.frechet_distance(drawn_features, real_features),
                "unconditional": diffusion.concept_rate(classes[run, -1], concept),
            }
        )
    measures = jax.tree.map(lambda *values: np.array(values), *rows)
    return {
        **measures,
        "attacked": np.asarray(attacked),
        "images": np.asarray(drawn["images"]),
    }


def measure_trained(
    config: Config, classifiers: Mapping[str, PyTree], *trained: Mapping[str, PyTree]
) -> dict[str, np.ndarray]:
    """Measure a row whose models are trained and not unlearned.

    Args:
      config: study configuration.
      classifiers: arrays of :func:`train_classifiers`.
      *trained: the originals, followed by the row's models unless they are the
        originals.
    """
    originals = _of_runs(config, trained[0])
    return measure(config, classifiers, originals, _of_runs(config, trained[-1]))


def tune(
    config: Config,
    name: str,
    classifiers: Mapping[str, PyTree],
    originals: Mapping[str, PyTree],
) -> dict[str, np.ndarray]:
    """Choose a method's options on the model for tuning.

    Returns:
      ``grid`` ``[G, 2]``, the candidates' learning rates and overshoots; ``rate``
      ``[G]``, the fraction of samples that are still of the concept; ``error`` ``[G]``,
      the fraction of wrong samples under the other conditions; ``chosen`` ``[2]``, the
      first candidate with the smallest sum of both.
    """
    setup = world(config)
    candidates = candidates_of(name, config)
    pairs = product(candidates["overshoot"], candidates["learning_rate"])
    grid = np.array([(rate, past) for past, rate in pairs])
    count = len(grid)
    concept = config.tuning_concept
    one = jax.tree.map(
        lambda leaf: leaf[-1:].repeat(count, 0), variables_of(originals["models"])
    )
    concepts = np.full(count, concept, np.int32)
    keys = jnp.repeat(keys_of(config, 5)[-1:], count)
    items = (keys, one, concepts, *grid.astype(np.float32).T)
    shared = (setup.samples, variables_of(classifiers["judge"]))
    erased = replicas.map_models(mapper(), Eraser(config, name), items, shared)
    keys = jnp.repeat(keys_of(config, 6)[-1:], count)
    evaluator = variables_of(classifiers["evaluator"])
    drawn = replicas.map_models(mapper(), Sampler(config), (keys, erased), evaluator)
    labels = np.arange(setup.denoiser.num_classes)
    is_right = np.asarray(drawn["classes"])[:, :-1] == labels[:, None]
    rate = is_right[:, concept].mean(-1)
    error = 1 - np.delete(is_right, concept, 1).mean((1, 2))
    chosen = grid[np.argmin(rate + error)]
    return {"grid": grid, "rate": rate, "error": error, "chosen": chosen}


def erase(
    config: Config,
    name: str,
    classifiers: Mapping[str, PyTree],
    originals: Mapping[str, PyTree],
    tuned: Arrays,
) -> dict[str, np.ndarray]:
    """Run a method with its chosen options, and measure the unlearned models."""
    models_of = _of_runs(config, originals)
    concepts = concepts_of(config)[:-1]
    rate, past = (
        np.full(len(concepts), value, np.float32) for value in tuned["chosen"]
    )
    items = (keys_of(config, 5)[:-1], models_of, concepts, rate, past)
    shared = (world(config).samples, variables_of(classifiers["judge"]))
    erased = replicas.map_models(mapper(), Eraser(config, name), items, shared)
    return measure(config, classifiers, models_of, erased)


@dataclasses.dataclass(frozen=True)
class Searcher:
    """Latent attack alone, on 64 images; items are ``(key, variables, concept)``.

    Attributes:
      config: study configuration.
      is_external: whether the classifier is the judge, instead of the denoiser's own
        losses.
    """

    config: Config
    is_external: bool

    def __call__(self, item: Any, shared: Any) -> Any:
        """Return the attack's result."""
        key, variables, concept = item
        data, judge = shared
        denoiser = world(self.config).denoiser
        key_images, key_attack = jax.random.split(key)
        problem = diffusion.ConceptProblem(denoiser, PROCESS, variables, data, concept)
        images = diffusion.concept_images(key_images, problem, 64)
        classify = None
        if self.is_external:
            classify = functools.partial(world(self.config).classifier.apply, judge)
        return diffusion.attack_concept(key_attack, problem, images, classify=classify)


def search(
    config: Config,
    classifiers: Mapping[str, PyTree],
    originals: Mapping[str, PyTree],
) -> dict[str, np.ndarray]:
    """Return status, distance and radius of the latent attack, for both judges."""
    models_of = _of_runs(config, originals)
    items = (keys_of(config, 7)[:-1], models_of, concepts_of(config)[:-1])
    shared = (world(config).samples, variables_of(classifiers["judge"]))
    arrays = {"scale": np.asarray(scales(config, models_of))}
    for name in ("own", "external"):
        searcher = Searcher(config, name == "external")
        attack = replicas.map_models(mapper(), searcher, items, shared)
        for field in ("status", "distance", "epsilon"):
            arrays[f"{name}-{field}"] = np.asarray(getattr(attack, field))
    return arrays


def _of_runs(config: Config, trained: Mapping[str, PyTree]) -> Variables:
    """Return the models of the reported runs, without the model for tuning."""
    count = len(concepts_of(config)) - 1
    models_of = variables_of(trained["models"])
    return jax.tree.map(lambda leaf: leaf[:count], models_of)


def make_artifacts(config: Config) -> list[Artifact]:
    """Return classifiers, denoisers, and the tuning and the runs of each method.

    Raises:
      InputError: tuning on a reported seed or concept, sizes that are too small, or a
        list that is empty, names something twice or has a number out of range.
    """
    chosen = [*config.concepts, config.tuning_concept]
    if config.tuning_seed in config.seeds or config.tuning_concept in config.concepts:
        raise InputError(
            "tuning_seed and tuning_concept must not be among the reported seeds and"
            " concepts"
        )
    is_valid = len(set(chosen)) == len(chosen) and set(chosen) <= set(range(10))
    if not config.concepts or not is_valid:
        raise InputError("give different concepts from 0 to 9, at least one")
    smallest = min(config.width, config.num_epochs, config.num_steps)
    if min(smallest, config.num_samples // SHOWN) < 1:
        raise InputError(f"sizes must be positive, and num_samples at least {SHOWN}")
    fields = dataclasses.asdict(config)
    fields["data"]["path"] = config.data.identity().get("path")

    def take(*names: str) -> dict[str, Any]:
        return {name: fields[name] for name in names}

    check_distinct(**take("seeds", "learning_rates", "overshoots", "radii"))
    check_positive(**take("learning_rates", "overshoots", "radii"))
    seeds = take("seeds", "concepts", "tuning_seed", "tuning_concept")
    base = {**take("data", "width", "num_epochs"), **seeds}
    measured = take("guidance", "num_samples", "radii")
    tuning = take(
        "num_steps", "learning_rates", "overshoots", "guidance", "num_samples"
    )
    made: dict[str, Artifact] = {}

    def add(
        name: str,
        settings: dict[str, Any],
        compute: Callable[..., Mapping[str, PyTree]],
        *inputs: str,
    ) -> None:
        needed = tuple(made[other] for other in inputs)
        made[name] = Artifact(
            name=name, settings=settings, compute=compute, inputs=needed
        )

    partial = functools.partial
    add("classifiers", take("data"), partial(train_classifiers, config))
    for name in MODELS:
        add(f"train-{name}", base, partial(train_models, config, name))
    common = ("classifiers", "train-original")
    add("search", {}, partial(search, config), *common)
    for name in MODELS:
        inputs = common if name == "original" else (*common, f"train-{name}")
        add(name, measured, partial(measure_trained, config), *inputs)
    for name in METHODS:
        if name in TUNED:
            add(f"tune-{name}", tuning, partial(tune, config, name), *common)
        source = f"tune-{name if name in TUNED else 'latent-beyond'}"
        compute = partial(erase, config, name)
        add(name, tuning | measured, compute, *common, source)
    return list(made.values())
