"""Latent concept unlearning: a diffusion model forgets a class of digits."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax import layers, models, pipeline, replicas, train
from unlearn_jax.contrib import diffusion
from unlearn_jax.models.denoiser import build_denoiser
from unlearn_jax.pipeline import (
    DataConfig,
    Part,
)
from unlearn_jax.types import Array, Dataset, InputError, Variables

Arrays = Mapping[str, np.ndarray]


MODELS = {
    "original": "do nothing",
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


TUNED = tuple(
    name for name in METHODS if name != "latent-random"
)  # the control takes what it is the control of


PROCESS = diffusion.Process()


SHOWN = 6
"""Samples of the forgotten class in the picture."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A class-conditional diffusion model that forgets one class at a time."""

    data: DataConfig = dataclasses.field(
        default_factory=lambda: DataConfig(num_train=900, num_test=897)
    )
    """The training set trains the denoisers, one half of the test set the independent classifier, the other half is the
    reference of the Frechet distance. Also MNIST: --data.source=tfds --data.name=mnist
    --data.num_train=10000 --data.num_test=4000 --width=512 (slow on a CPU)."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each trains, attacks, unlearns and samples anew."""
    concepts: tuple[int, ...] = (3, 8)
    """Classes to forget, one at a time."""
    tuning_seed: int = 100
    """Settings are chosen on a model of this seed ..."""
    tuning_concept: int = 5
    """... that forgets this class; neither is reported."""
    width: int = 192
    """Units of the denoiser's blocks."""
    num_epochs: int = 80
    """Passes over the training set."""
    num_steps: int = 200
    """Gradient steps of every method but retraining."""
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    """Of Adam; one is chosen for each method."""
    overshoots: tuple[float, ...] = (1.5, 2.0, 3.0)
    """How far past the border; one is chosen."""
    guidance: float = 1.0
    """Of the sampler, in all that is measured."""
    num_samples: int = 100
    """Samples per condition."""
    radii: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    """Of the attack on the unlearned model, in mean distances between the original's conditions."""


def candidates_of(name: str, config: Config) -> dict[str, list[float]]:
    """Values to choose from."""
    return {
        "learning_rate": list(config.learning_rates),
        "overshoot": list(config.overshoots) if name == "latent-beyond" else [1.0],
    }


@functools.lru_cache(maxsize=4)
def world(config: Config) -> tuple[Any, Any, Any]:
    """Data (float32 images), denoiser and classifier."""
    splits = pipeline.load_data(config.data)
    half = len(splits.test.labels) // 2
    parts = [
        splits.train,
        *(
            Dataset(splits.test.images[r], splits.test.labels[r])
            for r in (slice(half), slice(half, None))
        ),
    ]
    parts = [
        Dataset(np.asarray(train.to_float(part.images)), np.asarray(part.labels))
        for part in parts
    ]
    shape = parts[0].images.shape[1:]
    denoiser = build_denoiser(shape, splits.num_classes, width=config.width)
    return (
        parts,
        denoiser,
        models.build("mlp", shape, splits.num_classes, widths=(128, 32)),
    )


@functools.lru_cache(maxsize=2)
def mapper() -> replicas.Mapper:
    """One program for one model on every device, whatever the number of models: compiled once."""
    return replicas.mapper("loop", num_models=len(jax.local_devices()))


def pack(tree: Any, name: str) -> dict[str, np.ndarray]:
    """Leaves by number."""
    return {
        f"{name}-{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))
    }


def unpack(like: Any, arrays: Arrays, name: str) -> Any:
    """The tree again."""
    tree = jax.tree.structure(jax.eval_shape(like, jax.random.key(0)))
    return tree.unflatten(
        [jnp.asarray(arrays[f"{name}-{i}"]) for i in range(tree.num_leaves)]
    )


def keys_of(config: Config, purpose: int) -> Array:
    """A key for each run ``[seeds * concepts]`` and, last, for tuning."""
    seeds = [1000 * seed + c for seed in config.seeds for c in config.concepts] + [
        1000 * config.tuning_seed
    ]
    return jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), purpose))(
        jnp.array(seeds)
    )


def concepts_of(config: Config) -> np.ndarray:
    """The class of each run and, last, of tuning."""
    return np.array(
        [*config.concepts] * len(config.seeds) + [config.tuning_concept], np.int32
    )


def train_classifiers(config: Config) -> Arrays:
    """Two classifiers of other data: the evaluator, and the external judge of the attack, which must not be the same."""
    (own, first, held), _, classifier = world(config)
    recipe = train.Recipe(60, 32, train.sgd(0.05))
    found: dict[str, np.ndarray] = {}
    for name, key, part in (("evaluator", 1, first), ("judge", 2, own)):
        state, _ = train.fit(
            jax.random.key(key),
            classifier,
            part,
            np.ones(len(part.labels), bool),
            recipe,
            epochs_per_call=60,
        )
        found |= pack(state.variables, name)
        logits = classifier.apply(state.variables, jnp.asarray(held.images))
        found[f"{name}-accuracy"] = np.mean(
            np.asarray(logits).argmax(-1) == held.labels
        )
    return found


@functools.lru_cache(maxsize=4)
def trainer(config: Config) -> Callable[[Any, Any], Variables]:
    """Trains one denoiser without one class (-1: with all)."""
    (own, _, _), denoiser, _ = world(config)
    batches = train.steps_per_epoch(len(own.labels), 64)

    def one(item: Any, data: Dataset) -> Variables:
        key, without = item
        return diffusion.train_denoiser(
            key,
            denoiser,
            PROCESS,
            data,
            data.labels != without,
            num_epochs=config.num_epochs,
            num_batches=batches,
        )[0]

    return one


def train_models(config: Config, name: str) -> Arrays:
    """All models of a row, for every run; originals are trained once per seed, and once for tuning."""
    own = world(config)[0][0]
    if name == "original":
        keys, without = (
            keys_of(config, 0)[:: len(config.concepts)],
            np.full(len(config.seeds) + 1, -1, np.int32),
        )
    else:
        keys, without = (
            keys_of(config, {"retrained": 1, "again": 2}[name])[:-1],
            concepts_of(config)[:-1],
        )
    found = replicas.map_models(mapper(), trainer(config), (keys, without), own)
    if name == "original":  # one for each run, and for tuning
        rows = np.append(
            np.arange(len(config.seeds)).repeat(len(config.concepts)), len(config.seeds)
        )
        found = jax.tree.map(lambda leaf: np.asarray(leaf)[rows], found)
    return pack(found, "model")


@functools.lru_cache(maxsize=32)
def eraser(config: Config, name: str) -> Callable[[Any, Any], Variables]:
    """One run of a method."""
    _, denoiser, classifier = world(config)

    def one(item: Any, shared: Any) -> Variables:
        key, variables, concept, rate, overshoot = item
        data, judge = shared
        classify = functools.partial(classifier.apply, judge)
        past = {"overshoot": overshoot, "classify": classify}
        matching: dict[str, Any] = {
            "num_steps": config.num_steps,
            "learning_rate": rate,
        }
        method = {
            "random-label": functools.partial(diffusion.RandomCondition),
            "unconditional": functools.partial(diffusion.SteerAway, eta=0.0),
            "esd": functools.partial(diffusion.SteerAway, eta=1.0),
            "latent-own": diffusion.LatentAdversarial,
            "latent-external": functools.partial(
                diffusion.LatentAdversarial, classify=classify
            ),
            "latent-beyond": functools.partial(diffusion.LatentAdversarial, **past),
            "latent-random": functools.partial(
                diffusion.LatentAdversarial, direction="random", **past
            ),
            "latent-class": functools.partial(
                diffusion.LatentAdversarial, goal="class"
            ),
        }[name](**matching)
        return method(
            key, diffusion.ConceptProblem(denoiser, PROCESS, variables, data, concept)
        )[0]

    return one


@functools.lru_cache(maxsize=4)
def sampler(config: Config) -> Callable[[Any, Any], dict[str, Array]]:
    """Samples of every condition, none last, and what the evaluator says of them."""
    _, denoiser, classifier = world(config)
    labels = jnp.repeat(jnp.arange(denoiser.num_classes + 1), config.num_samples)

    def one(item: Any, evaluator: Any) -> dict[str, Array]:
        key, variables = item
        condition = denoiser.embed(variables, labels)
        images = diffusion.to_images(
            diffusion.sample(
                key, denoiser, variables, PROCESS, condition, guidance=config.guidance
            )
        )
        return {
            "classes": jnp.argmax(classifier.apply(evaluator, images), -1).reshape(-1, config.num_samples),
            "features": layers.features(classifier.apply, evaluator, images).reshape(len(images) // config.num_samples, config.num_samples, -1),
            "images": images.reshape(-1, config.num_samples, *denoiser.image_shape)[:, :SHOWN],
        }  # fmt: skip

    return one


@functools.lru_cache(maxsize=4)
def attacker(config: Config) -> Callable[[Any, Any], Array]:
    """Share of samples that are the concept after an attack on the model: one number per radius, the first 0."""
    _, denoiser, classifier = world(config)

    def one(item: Any, shared: Any) -> Array:
        key, variables, concept, scale = item
        data, evaluator = shared
        key_images, *keys = jax.random.split(key, 3)
        problem = diffusion.ConceptProblem(denoiser, PROCESS, variables, data, concept)
        images = diffusion.concept_images(key_images, problem, 64)

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
            own = denoiser.embed(variables, jnp.full((config.num_samples,), concept))
            drawn = diffusion.sample(
                key_draw,
                denoiser,
                variables,
                PROCESS,
                own + delta.reshape(1, -1),
                guidance=config.guidance,
            )
            return jnp.mean(
                jnp.argmax(classifier.apply(evaluator, diffusion.to_images(drawn)), -1)
                == concept
            )

        return jax.lax.map(at, jnp.array([0.0, *config.radii]))

    return one


def scales(config: Config, originals: Variables) -> Array:
    """Mean distance between the conditions of two classes, for every original."""
    _, denoiser, _ = world(config)
    table = np.asarray(
        jax.vmap(lambda v: denoiser.embed(v, jnp.arange(denoiser.num_classes)))(
            originals
        )
    )
    gaps = np.linalg.norm(table[:, :, None] - table[:, None], axis=-1)
    return jnp.asarray(
        gaps.sum((1, 2)) / (gaps.shape[1] * (gaps.shape[1] - 1)), jnp.float32
    )


def measure(
    config: Config, classifiers: Arrays, originals: Arrays, models_of: Variables
) -> Arrays:
    """Everything that is reported of a row's models ``[R, ...]``."""
    (own, _, held), denoiser, classifier = world(config)
    evaluator = unpack(classifier.init, classifiers, "evaluator")
    runs = concepts_of(config)[:-1]
    drawn = replicas.map_models(
        mapper(), sampler(config), (keys_of(config, 3)[:-1], models_of), evaluator
    )
    classes, features = np.asarray(drawn["classes"]), np.asarray(drawn["features"])
    first = jax.tree.map(lambda leaf: leaf[:-1], unpack_many(config, originals))
    items = (keys_of(config, 4)[:-1], models_of, runs, scales(config, first))
    attacked = replicas.map_models(mapper(), attacker(config), items, (own, evaluator))
    real = np.asarray(
        layers.features(classifier.apply, evaluator, jnp.asarray(held.images))
    )
    kept = [[c for c in range(denoiser.num_classes) if c != f] for f in runs]
    return {
        "forgotten": np.array([diffusion.concept_rate(classes[r, f], f) for r, f in enumerate(runs)]),
        "retained": np.array([(classes[r, kept[r]] == np.array(kept[r])[:, None]).mean() for r in range(len(runs))]),
        "frechet": np.array([
            diffusion.frechet_distance(features[r, kept[r]].reshape(-1, features.shape[-1]), real[held.labels != f])
            for r, f in enumerate(runs)
        ]),
        "unconditional": np.array([diffusion.concept_rate(classes[r, -1], f) for r, f in enumerate(runs)]),
        "attacked": np.asarray(attacked),
        "images": np.asarray(drawn["images"]),
    }  # fmt: skip


def unpack_many(config: Config, arrays: Arrays) -> Variables:
    """Stacked denoisers."""
    return unpack(world(config)[1].init, arrays, "model")


def measure_model(
    config: Config, name: str, classifiers: Arrays, originals: Arrays, *rest: Arrays
) -> Arrays:
    """A row that is trained and not unlearned."""
    stacked = unpack_many(config, rest[0] if rest else originals)
    return measure(
        config,
        classifiers,
        originals,
        jax.tree.map(lambda x: x[: len(concepts_of(config)) - 1], stacked),
    )


def tune(config: Config, name: str, classifiers: Arrays, originals: Arrays) -> Arrays:
    """Chooses a method's settings: least rate of the concept plus error on the others, the first of equals."""
    (own, _, _), denoiser, classifier = world(config)
    grid = [
        (rate, past)
        for past in candidates_of(name, config)["overshoot"]
        for rate in candidates_of(name, config)["learning_rate"]
    ]
    one = jax.tree.map(
        lambda x: x[-1:].repeat(len(grid), 0), unpack_many(config, originals)
    )
    key, concept = keys_of(config, 5)[-1:], config.tuning_concept
    items = (
        jnp.repeat(key, len(grid)),
        one,
        np.full(len(grid), concept, np.int32),
        *np.array(grid, np.float32).T,
    )
    erased = replicas.map_models(
        mapper(),
        eraser(config, name),
        items,
        (own, unpack(classifier.init, classifiers, "judge")),
    )
    keys = jnp.repeat(keys_of(config, 6)[-1:], len(grid))
    drawn = replicas.map_models(
        mapper(),
        sampler(config),
        (keys, erased),
        unpack(classifier.init, classifiers, "evaluator"),
    )
    right = (
        np.asarray(drawn["classes"])[:, :-1] == np.arange(denoiser.num_classes)[:, None]
    )
    rate = right[:, concept].mean(-1)
    error = 1 - np.delete(right, concept, 1).mean((1, 2))
    return {
        "grid": np.array(grid),
        "rate": rate,
        "error": error,
        "chosen": np.array(grid)[np.argmin(rate + error)],
    }


def erase(
    config: Config, name: str, classifiers: Arrays, originals: Arrays, tuned: Arrays
) -> Arrays:
    """A method's runs, measured."""
    (own, _, _), _, classifier = world(config)
    runs = len(concepts_of(config)) - 1
    first = jax.tree.map(lambda x: x[:-1], unpack_many(config, originals))
    rate, past = (np.full(runs, value, np.float32) for value in tuned["chosen"])
    items = (keys_of(config, 5)[:-1], first, concepts_of(config)[:-1], rate, past)
    shared = (own, unpack(classifier.init, classifiers, "judge"))
    return measure(
        config,
        classifiers,
        originals,
        replicas.map_models(mapper(), eraser(config, name), items, shared),
    )


@functools.lru_cache(maxsize=8)
def searcher(config: Config, external: bool) -> Callable[[Any, Any], Any]:
    """The latent attack alone, on 64 images."""
    _, denoiser, classifier = world(config)

    def one(item: Any, shared: Any) -> Any:
        key, variables, concept = item
        data, judge = shared
        key_images, key_attack = jax.random.split(key)
        problem = diffusion.ConceptProblem(denoiser, PROCESS, variables, data, concept)
        images = diffusion.concept_images(key_images, problem, 64)
        classify = functools.partial(classifier.apply, judge) if external else None
        return diffusion.attack_concept(key_attack, problem, images, classify=classify)

    return one


def search(config: Config, classifiers: Arrays, originals: Arrays) -> Arrays:
    """How far the border is, for both judges."""
    (own, _, _), _, classifier = world(config)
    first = jax.tree.map(lambda x: x[:-1], unpack_many(config, originals))
    items = (keys_of(config, 7)[:-1], first, concepts_of(config)[:-1])
    shared = (own, unpack(classifier.init, classifiers, "judge"))
    found: dict[str, np.ndarray] = {"scale": np.asarray(scales(config, first))}
    for name in ("own", "external"):
        attack = replicas.map_models(
            mapper(), searcher(config, name == "external"), items, shared
        )
        found |= {
            f"{name}-{field}": np.asarray(getattr(attack, field))
            for field in ("status", "distance", "epsilon")
        }
    return found


def make_artifacts(config: Config) -> dict[str, Part]:
    """Classifiers, denoisers, then for each method the choice of settings and its runs."""
    chosen = [*config.concepts, config.tuning_concept]
    if config.tuning_seed in config.seeds or config.tuning_concept in config.concepts:
        raise InputError(
            "tuning_seed and tuning_concept must not be among the reported seeds and"
            " concepts"
        )
    if (
        not config.seeds
        or not config.concepts
        or len(set(chosen)) < len(chosen)
        or not all(0 <= c < 10 for c in chosen)
    ):
        raise InputError("give at least one seed, and different concepts from 0 to 9")
    if (
        min(
            config.width,
            config.num_epochs,
            config.num_steps,
            config.num_samples // SHOWN,
        )
        < 1
        or not config.radii
    ):
        raise InputError(
            f"sizes must be positive, num_samples at least {SHOWN}, and radii not empty"
        )
    fields = dataclasses.asdict(config)
    base = {
        k: fields[k]
        for k in (
            "data",
            "seeds",
            "concepts",
            "tuning_seed",
            "tuning_concept",
            "width",
            "num_epochs",
        )
    }
    seen = {k: fields[k] for k in ("guidance", "num_samples", "radii")}
    tuning = {
        k: fields[k]
        for k in (
            "num_steps",
            "learning_rates",
            "overshoots",
            "guidance",
            "num_samples",
        )
    }
    parts = {
        "classifiers": Part(
            {"data": base["data"]}, functools.partial(train_classifiers, config)
        )
    }
    for name in MODELS:
        parts[f"train-{name}"] = Part(
            base, functools.partial(train_models, config, name)
        )
    needs = ("classifiers", "train-original")
    parts["search"] = Part({}, functools.partial(search, config), needs)
    for name in MODELS:
        more = () if name == "original" else (f"train-{name}",)
        parts[name] = Part(
            seen, functools.partial(measure_model, config, name), (*needs, *more)
        )
    for name in METHODS:
        if name in TUNED:
            parts[f"tune-{name}"] = Part(
                tuning, functools.partial(tune, config, name), needs
            )
        source = name if name in TUNED else "latent-beyond"
        parts[name] = Part(
            tuning | seen,
            functools.partial(erase, config, name),
            (*needs, f"tune-{source}"),
        )
    return parts
