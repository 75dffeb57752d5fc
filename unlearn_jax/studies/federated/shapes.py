"""Federated unlearning of segmentation: generated shapes, each client in a style of its own, PUF beside retraining.

Command:   unlearn-jax run puf_shapes --workdir runs/puf_shapes
Published: PUF (arXiv 2504.05822) segments ProstateMRI; its tables were not at hand, so
nothing is compared. These images
           are **made up**: discs and bars of 12x12 pixels, five clients that differ in
           colors, stripes and noise.
Setting:   32 images per client, three 5x5 convolutions, Adam 0.01 x 0.998^round begun afresh in every round, batch 8,
           one local epoch, 60 rounds; the strengths eta_u are the authors', chosen for
           ten clients.
Measured:  Dice in %, mean over both shapes and 15 runs (3 seeds x 5 clients), 95% interval with both redrawn. Test: held
           out, the remaining clients' styles; at once and forget: the leaving client's
           images after unlearning and after recovery (until the test Dice is the
           retrained model's, at most 15 rounds); gap: absolute difference to its own
           retrained model's; unseen: held-out images of the leaving style

                                 at once          rounds            test              forget              gap                 unseen
  Original                       –                –                 66.2 [64.4,67.8]  73.3 [68.6,77.6]    62.9 [53.5,70.4]    66.1 [60.5,71.4]
  Retrained (oracle)             –                –                 67.3 [62.6,71.6]  10.4 [3.9,20.1]     –                   11.2 [4.1,21.7]
  Retrained again (floor)        –                –                 66.4 [61.3,71.4]  11.4 [3.6,22.4]     5.0 [1.6,9.2]       11.2 [3.3,22.0]
  Natural (continue)             –                8.1 [3.3,12.8]    67.9 [64.8,71.3]  44.7 [21.5,69.0]    34.4 [16.6,53.6]    41.1 [19.9,63.2]
  Natural, PUF's rounds          –                –                 67.7 [64.8,70.7]  40.1 [17.1,63.2]    29.7 [12.3,47.9]    37.6 [16.2,59.4]
  PUF special, η_u = 2           10.0 [1.5,23.9]  10.0 [4.9,14.2]   66.8 [62.7,71.4]  29.8 [10.0,51.0]    19.4 [5.0,37.5]     27.6 [8.9,47.5]
  PUF regular, η_u = 20          4.2 [0.4,12.4]   14.2 [12.0,15.0]  65.3 [61.4,69.4]  19.9 [3.6,39.6]     11.6 [1.5,27.1]     18.9 [3.3,37.7]
  NoT                            1.5 [0.5,2.6]    15.0 [15.0,15.0]  45.3 [41.6,48.8]  4.1 [2.1,6.8]       8.9 [3.2,18.2]      4.2 [1.9,7.3]
  Projected ascent               4.4 [0.0,9.4]    14.3 [13.1,15.0]  49.6 [37.1,59.0]  18.2 [4.7,38.8]     10.1 [2.7,22.6]     17.8 [4.6,37.0]
  Natural, all 15 rounds         –                –                 68.3 [65.4,71.6]  36.0 [14.4,58.0]    25.6 [9.5,42.6]     34.2 [13.6,55.3]
  PUF special, all 15 rounds     –                –                 67.9 [64.8,71.9]  30.8 [11.5,51.9]    20.4 [6.6,38.0]     28.7 [10.3,48.5]
  PUF special − natural, paired  –                –                 -0.9 [-4.0,1.5]   -10.3 [-23.8,-2.1]  -10.3 [-23.8,-2.1]  -10.0 [-21.1,-2.7]

Reading:   here there is something to forget: the retrained model reads the style at 10% where the original has 73%.
           Going on without the client forgets almost half of that by itself; PUF
           special more (paired difference of the gap to natural with as many rounds
           -10.3 [-23.8, -2.1]), regular more still, because with five clients eta_u =
           20 is twice as strong as special's 2; it reaches the retrained model's test
           Dice in 3 of 15 runs only. None is at the floor of 5.0, and intervals are
           wide: styles differ much. Unseen images of the style follow the forgotten
           ones: it is the style that is forgotten, not the images. NoT never recovers,
           projected ascent in 4 of 15 runs.
Chosen:    styles, shapes and optimizer, so that the original learns and a model retrained without a style fails on it,
           looking at such models alone; the rows "paired" and "all 15 rounds" were
           added after the first table.
Device:    2 CPU cores (x86-64, AVX-512), Python 3.11, JAX 0.10.2; 3 minutes of processor time, with many other jobs
           beside.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from unlearn_jax import models, optimizers, replicas, train
from unlearn_jax.contrib import federated
from unlearn_jax.pipeline import Check, Experiment, Page, Part, Picture, Table
from unlearn_jax.pipeline.report.figures.style import (
    COLORS,
    INK,
    MUTED,
    dress,
    small_panels,
)
from unlearn_jax.types import Array, Dataset, InputError

ROWS = {
    "original": "Original (do nothing)",
    "retrained": "Retrained (oracle)",
    "again": "Retrained again (floor)",
    "natural": "Natural (continue)",
    "same": "Natural, PUF's rounds",
    "special": "PUF special, η_u = 2",
    "regular": "PUF regular, η_u = 20",
    "not": "NoT",
    "ascent": "Projected ascent",
    "natural+": "Natural, on to the last round",
    "special+": "PUF special, on to the last round",
}
MEASURES = ("test", "test_iou", "forget", "forget_iou", "unseen")
CLASSES = len(federated.SHAPES)


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained. Adam afresh in every round, one local epoch in batches of 8."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of initial weights and of the order of samples; images are the same for all."""
    num_clients: int = 5
    """Clients, each with a style; each leaves in turn."""
    num_images: int = 32
    """Training images of a client; as many of its style are held out."""
    size: int = 12
    """Side of an image."""
    width: int = 12
    """Channels of the two hidden convolutions."""
    learning_rate: float = 0.01
    """In the first round; decays by 0.998 per round."""
    rounds: int = 60
    """Rounds of the original and of every retraining."""
    recovery: int = 15
    """Most rounds after unlearning."""


@functools.lru_cache(maxsize=2)
def network(width: int) -> Any:
    """Three 5x5 convolutions, written by hand around the library's convolution; logits for every pixel."""
    conv, shapes = (
        models.convolution(),
        [
            (5, 5, 3, width),
            (5, 5, width, width),
            (5, 5, width, CLASSES),
        ],
    )

    def init(key: Array) -> list[dict[str, Array]]:
        draw = jax.nn.initializers.he_normal()
        keys = jax.random.split(key, 3)
        return [
            {"kernel": draw(k, s), "bias": jnp.zeros(s[3])}
            for k, s in zip(keys, shapes, strict=True)
        ]

    def apply(params: list[dict[str, Array]], images: Array) -> Array:
        hidden = images
        for i, layer in enumerate(params):
            hidden = jax.nn.relu(hidden) if i else hidden
            hidden = conv(hidden, layer["kernel"], (1, 1), "SAME") + layer[
                "bias"
            ].reshape(1, 1, 1, -1)
        return hidden

    return models.from_functions(init, apply)


@functools.lru_cache(maxsize=2)
def images(num_clients: int, num_images: int, size: int) -> tuple[Dataset, Dataset]:
    """Training and held-out images, the first ``num_images`` of them client 0's, and so on."""
    styles = federated.draw_styles(num_clients, seed=0)
    drawn = [
        [
            federated.shape_images(num_images, style, size=size, seed=base + i)
            for i, style in enumerate(styles)
        ]
        for base in (1000, 2000)
    ]
    near, far = (
        Dataset(*map(np.concatenate, zip(*parts, strict=True))) for parts in drawn
    )
    return near, far


@functools.lru_cache(maxsize=2)
def local(learning_rate: float) -> federated.LocalTraining:
    return federated.LocalTraining(
        batch_size=8,
        learning_rate=learning_rate,
        optimizer=optimizers.Adam(),
        weight_decay=0.0,
    )


def to_vector(variables: Any) -> Array:
    return ravel_pytree(variables.params)[0]


def from_vector(width: int, vector: Array) -> Any:
    blank = jax.eval_shape(network(width).init, jax.random.key(0))
    unravel = ravel_pytree(
        jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), blank.params)
    )[1]
    return blank._replace(params=unravel(vector))


def measure(width: int, vector: Array, leaving: Array, shared: Any) -> Array:
    """The numbers of :data:`MEASURES`: means over the two shapes, of Dice unless the name says IoU."""
    near, far, _ = shared
    owner = jnp.repeat(jnp.arange(len(leaving)), len(near.labels) // len(leaving))
    gone, variables = leaving[owner], from_vector(width, vector)
    seen, unseen = (
        jnp.argmax(
            train.predict(network(width).apply, variables, part.images, batch_size=64),
            -1,
        )
        for part in (near, far)
    )
    test = federated.overlap(unseen, far.labels, CLASSES, ~gone)
    forget = federated.overlap(seen, near.labels, CLASSES, gone)
    style = federated.overlap(unseen, far.labels, CLASSES, gone)
    return jnp.stack(
        [
            jnp.mean(v[1:])
            for v in (test.dice, test.iou, forget.dice, forget.iou, style.dice)
        ]
    )


@functools.lru_cache(maxsize=2)
def trainer(width: int, rounds: int, rate: float) -> Callable[[Any, Any], Array]:
    model = network(width)

    def run(item: Any, shared: Any) -> Array:
        (key, part), (near, _, clients) = item, shared
        key_start, key_rounds = jax.random.split(key)
        start, weights = (
            federated.init_server(model.init(key_start)),
            federated.fedavg_weights(clients, part),
        )
        group = federated.Federation(model, local(rate), near, clients)
        last, _ = federated.run_rounds(
            key_rounds, group, start, weights, num_rounds=rounds
        )
        return to_vector(last.variables)

    return run


@functools.lru_cache(maxsize=2)
def one_round(width: int, rounds: int, rate: float) -> Callable[[Any, Any], Array]:
    def run(item: Any, shared: Any) -> Array:
        (key, vector, weights), (near, _, clients) = item, shared
        state = federated.init_server(from_vector(width, vector), num_rounds=rounds)
        group = federated.Federation(network(width), local(rate), near, clients)
        return to_vector(
            federated.federated_round(key, group, state, weights).variables
        )

    return run


@functools.lru_cache(maxsize=2)
def ascender(width: int, rounds: int, rate: float) -> Callable[[Any, Any], Array]:
    def run(item: Any, shared: Any) -> Array:
        (key, vector, leaving), (near, _, clients) = item, shared
        state = federated.init_server(from_vector(width, vector), num_rounds=rounds)
        group = federated.Federation(network(width), local(rate), near, clients)
        return to_vector(
            federated.projected_ascent(key, group, state, leaving).variables
        )

    return run


@functools.lru_cache(maxsize=2)
def recoverer(width: int, recovery: int, rate: float) -> Callable[[Any, Any], Array]:
    """The remaining clients go on; measured before and after each round: ``[1 + recovery, 5]``."""

    def run(item: Any, shared: Any) -> Array:
        (key, vector, done, leaving), (near, _, clients) = item, shared
        state = federated.init_server(from_vector(width, vector), num_rounds=done)
        group = federated.Federation(network(width), local(rate), near, clients)
        weights = federated.fedavg_weights(clients, ~leaving)
        seen = lambda variables: measure(width, to_vector(variables), leaving, shared)
        trace = federated.run_rounds(
            key, group, state, weights, num_rounds=recovery, evaluate=seen
        )[1]
        return jnp.concatenate([measure(width, vector, leaving, shared)[None], trace])

    return run


@functools.lru_cache(maxsize=2)
def measurer(width: int) -> Callable[[Any, Any], Array]:
    return lambda item, shared: measure(width, *item, shared)


def for_each(
    config: Config, run: Callable[[Any, Any], Array], items: Any
) -> np.ndarray:
    near, far = images(config.num_clients, config.num_images, config.size)
    clients = federated.gather_clients(
        np.repeat(np.arange(config.num_clients), config.num_images)
    )
    how = replicas.mapper(num_models=len(jax.tree.leaves(items)[0]))
    return np.asarray(
        replicas.map_models(
            how, run, jax.tree.map(jnp.asarray, items), (near, far, clients)
        )
    )


def train_models(config: Config, seed: int) -> dict[str, Any]:
    """The original, and for each client a retrained model and a second one, as vectors of parameters."""
    cases = config.num_clients
    keys = jax.random.split(jax.random.fold_in(jax.random.key(29), seed), 1 + 2 * cases)
    part = np.concatenate(
        [
            np.ones((1, cases), bool),
            ~np.eye(cases, dtype=bool),
            ~np.eye(cases, dtype=bool),
        ]
    )
    vectors = for_each(
        config, trainer(config.width, config.rounds, config.learning_rate), (keys, part)
    )
    return {
        "original": vectors[0],
        "retrained": vectors[1 : 1 + cases],
        "again": vectors[1 + cases :],
    }


def forget_all(
    config: Config, seed: int, trained: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Every method's numbers by round ``[L, 1 + recovery, 5]``, and those of the models beside them ``[L, 5]``."""
    cases, leaving = config.num_clients, np.eye(config.num_clients, dtype=bool)
    knobs = (config.width, config.rounds, config.learning_rate)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(31), seed), cases)
    original = np.stack([trained["original"]] * cases)
    static = {
        "original": original,
        "retrained": trained["retrained"],
        "again": trained["again"],
    }
    found = {
        name: for_each(config, measurer(config.width), (v, leaving))
        for name, v in static.items()
    }
    clients = federated.gather_clients(np.repeat(np.arange(cases), config.num_images))
    starts: dict[str, tuple[np.ndarray, int]] = {"natural": (original, 0)}
    for mode in ("special", "regular"):
        weights = np.stack(
            [federated.puf_weights(clients, one, mode=mode) for one in leaving]
        )
        starts[mode] = (
            for_each(config, one_round(*knobs), (keys, original, weights)),
            1,
        )
    whole = from_vector(config.width, jnp.asarray(trained["original"]))
    negated = federated.negate_first_layer(
        network(config.width).apply, whole, jnp.zeros((1, config.size, config.size, 3))
    )
    starts["not"] = (np.stack([to_vector(negated)] * cases), 0)
    starts["ascent"] = (
        for_each(config, ascender(*knobs), (keys, original, leaving)),
        0,
    )
    repeat = lambda leaf: jnp.concatenate([leaf] * len(starts))
    vectors = np.concatenate([vectors for vectors, _ in starts.values()])
    done = np.repeat([config.rounds + more for _, more in starts.values()], cases)
    run = recoverer(config.width, config.recovery, config.learning_rate)
    traces = for_each(config, run, (repeat(keys), vectors, done, repeat(leaving)))
    return found | dict(
        zip(starts, traces.reshape(len(starts), cases, *traces.shape[1:]), strict=True)
    )


def methods_table(runs: federated.RecoveryRuns) -> Table:
    columns = [
        "model",
        "forget at once",
        "rounds",
        "test",
        "test IoU",
        "forget",
        "forget IoU",
    ]
    columns += ["gap, forget (points)", "unseen, same style"]
    lines = []
    for name, label in ROWS.items():
        final, recovers = 100 * runs.final(name), name in runs.rounds
        once = (
            runs.summary(100 * runs.measured[name][:, :, 0, 2])
            if recovers and name != "natural"
            else None
        )
        rounds = runs.summary(runs.rounds[name][0]) if recovers else None
        gap = None if name == "retrained" else runs.summary(runs.gap(name))
        lines.append(
            [label, once, rounds, *(runs.summary(final[..., i]) for i in range(4)), gap]
        )
        lines[-1].append(runs.summary(final[..., 4]))
    change = [
        100 * (runs.final("special") - runs.final("same"))[..., i] for i in range(5)
    ]
    change[4:4] = [runs.gap("special") - runs.gap("same")]
    lines.append(
        [
            "PUF special − natural, PUF's rounds (paired)",
            None,
            None,
            *map(runs.summary, change),
        ]
    )
    missed = ", ".join(
        f"{int((~ok).sum())} of {ROWS[name].split(',')[0]}"
        for name, (_, ok) in runs.rounds.items()
        if not ok.all()
    )
    caption = (
        f"Dice in % unless the column says IoU, means over both shapes, {runs.shape[0]}"
        f" seeds x {runs.shape[1]} clients, 95% intervals with both redrawn. Test:"
        " held-out images of the remaining clients' styles. Forget: the leaving"
        " client's training images. Rounds: until the test Dice is the retrained"
        f" model's, 1 to {runs.measured['natural'].shape[2] - 1}; runs that never got"
        f" there: {missed or 'none'}."
    )
    return Table("Every client leaves in turn", columns, lines, caption)


def curves(runs: federated.RecoveryRuns) -> Figure:
    """Dice by round on what is forgotten, on unseen images of its style, and on the rest."""
    figure, panels = small_panels(3, share=True, columns=3, height=2.6)
    style = {
        "natural": "-",
        "special": "-",
        "not": (0, (5, 1.5)),
        "ascent": (0, (1.5, 1.2)),
    }
    for axes, measure_name, title in zip(
        panels,
        ("forget", "unseen", "test"),
        ("forgotten images", "unseen, same style", "test, other styles"),
        strict=True,
    ):
        place = MEASURES.index(measure_name)
        for (name, dashes), color in zip(style.items(), COLORS, strict=False):
            mean = 100 * runs.measured[name][..., place].mean((0, 1))
            axes.plot(np.arange(mean.size), mean, color=color, ls=dashes, lw=1.6)
        for name, color, dashes in (("retrained", INK, "-"), ("original", MUTED, ":")):
            axes.axhline(
                100 * runs.measured[name][..., place].mean(),
                color=color,
                ls=dashes,
                lw=1.4,
            )
        dress(axes, title, size=9)
        axes.set_ylim(-4, 104)
    handles = [
        Line2D([], [], color=color, ls=dashes, lw=1.6, label=ROWS[name])
        for (name, dashes), color in zip(style.items(), COLORS, strict=False)
    ]
    handles += [
        Line2D([], [], color=INK, lw=1.4, label="Retrained"),
        Line2D([], [], color=MUTED, ls=":", label="Original"),
    ]
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=3,
        frameon=False,
        labelcolor=INK,
        fontsize=9,
    )
    figure.supxlabel("rounds after unlearning", fontsize=10, color=INK)
    figure.supylabel("Dice (%)", fontsize=10, color=INK)
    return figure


def examples(config: Config, trained: Mapping[str, np.ndarray]) -> Figure:
    """An image of every style, its map, and what the original and the model retrained without the style make of it."""
    near, _ = images(config.num_clients, config.num_images, config.size)
    rows = ("image", "truth", "original", "retrained without")
    figure = Figure(figsize=(1.5 * config.num_clients + 1.2, 6.0), layout="constrained")
    panels = figure.subplots(len(rows), config.num_clients, squeeze=False)
    model = network(config.width)
    for client in range(config.num_clients):
        place = client * config.num_images
        shown = [near.images[place], near.labels[place]]
        for vector in (trained["original"], trained["retrained"][client]):
            variables = from_vector(config.width, jnp.asarray(vector))
            shown.append(
                np.asarray(
                    jnp.argmax(model.apply(variables, near.images[place][None])[0], -1)
                )
            )
        for axes, picture, row in zip(panels[:, client], shown, rows, strict=True):
            axes.imshow(
                picture,
                vmin=0,
                vmax=CLASSES - 1,
                cmap=None if picture.ndim == 3 else "cividis",
            )
            axes.set_xticks([])
            axes.set_yticks([])
            if client == 0:
                axes.set_ylabel(row, color=INK, fontsize=9.5)
        panels[0, client].set_title(f"client {client}", color=INK, fontsize=10)
    return figure


def make_parts(config: Config) -> dict[str, Part]:
    if not config.seeds:
        raise InputError("give at least one seed")
    if (
        config.num_clients < 2
        or min(config.num_images, config.rounds, config.recovery, config.width) < 1
    ):
        raise InputError(
            "at least 2 clients, and 1 image, channel, round and recovery round are"
            " needed"
        )
    images(
        config.num_clients, config.num_images, config.size
    )  # refuses what cannot be drawn
    parts: dict[str, Part] = {}
    plain = {
        key: value
        for key, value in dataclasses.asdict(config).items()
        if key != "seeds"
    }
    for seed in config.seeds:
        known = {**plain, "seed": seed}
        parts[f"models-{seed}"] = Part(
            known, functools.partial(train_models, config, seed)
        )
        needs = (f"models-{seed}",)
        parts[f"forget-{seed}"] = Part(
            known, functools.partial(forget_all, config, seed), needs=needs
        )
    return parts


def make_page(config: Config, parts: Mapping[str, dict[str, np.ndarray]]) -> Page:
    runs = federated.RecoveryRuns(
        [parts[f"forget-{seed}"] for seed in config.seeds], MEASURES
    )
    gap = {name: runs.gap(name).mean() for name in ROWS}
    dice = {
        name: 100 * runs.final(name)[..., 2].mean()
        for name in ("original", "retrained")
    }
    summary = (
        f"Dice on the leaving client's images is {dice['original']:.1f}% for the"
        f" original model and {dice['retrained']:.1f}% for the model retrained without"
        " the client. Mean gap to that, client by client, in points: doing nothing"
        f" {gap['original']:.1f}, natural {gap['natural']:.1f}, natural with as many"
        f" rounds as PUF {gap['same']:.1f}, PUF special {gap['special']:.1f}"
        f" ({gap['special+']:.1f} at the last round), PUF regular {gap['regular']:.1f},"
        f" NoT {gap['not']:.1f}, projected ascent {gap['ascent']:.1f}, a second"
        f" retraining {gap['again']:.1f}."
    )
    once = (
        100
        * (runs.measured["special"][:, :, 0] - runs.measured["original"])[..., 2].mean()
    )
    finite = all(np.isfinite(values).all() for values in runs.measured.values())
    harder = dice["original"] - dice["retrained"]
    checks = [
        Check("every number is finite", finite),
        Check(
            "PUF lowers forget Dice at once", bool(once < 0), f"by {-once:.1f} points"
        ),
        Check(
            "a style that was not trained on is harder",
            bool(harder > 0),
            f"by {harder:.1f} points of Dice",
        ),
    ]
    pictures = [
        Picture(
            "Dice by round",
            curves(runs),
            alt=summary,
            caption="Means over runs; natural starts at the original.",
        ),
        Picture(
            "Styles",
            examples(config, parts[f"models-{config.seeds[0]}"]),
            alt=(
                "One training image of each client, its map, and the maps that two"
                " models predict."
            ),
            caption=(
                "The first training image of each client; dark: background, gray: disc,"
                " yellow: bar."
            ),
        ),
    ]
    return Page(summary, [methods_table(runs)], pictures, checks)


EXPERIMENT = Experiment(
    title="Federated unlearning of segmentation on generated shapes",
    config=Config(),
    artifacts=make_parts,
    page=make_page,
)
