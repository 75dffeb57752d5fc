"""Influence functions on digits, primal and dual: accuracy, guard and cost."""

import dataclasses
import time
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from unlearn_jax import audit, influence, methods, models, train
from unlearn_jax.losses import cross_entropy
from unlearn_jax.methods.influence_target import influence_targets
from unlearn_jax.pipeline import Part
from unlearn_jax.types import Dataset, InputError, Variables

ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu}


LOSSES = {"cross-entropy": cross_entropy, "squared": influence.squared_error}


@dataclasses.dataclass(frozen=True)
class Config:
    """Digits are removed from linearized and from real perceptrons of one layer, which are retrained for comparison."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of samples, forget sets and networks."""
    num_samples: int = 300
    """Training images, equally many of each digit; 300 others are test images."""
    width: int = 64
    """Units of the linearized network."""
    ridge: float = 1e-2
    """Penalty of the linearized network."""
    fractions: tuple[float, ...] = (0.1, 0.5, 0.9)
    """Shares of the training images that are removed."""
    networks: tuple[str, ...] = (
        "tanh-512-0.1",
        "tanh-64-0.1",
        "tanh-64-0.01",
        "tanh-64-0.0001",
        "relu-64-0.01",
    )
    """Networks that are trained as they are: activation, units, penalty."""
    num_steps: int = 500
    """Steps of L-BFGS for these."""
    widths: tuple[int, ...] = (16, 64, 256)
    """Units of the networks whose removal is timed."""
    classes: tuple[int, ...] = (1, 3, 8)
    """Digits that are forgotten whole, for the targets."""


def make_data(config: Config, seed: int) -> tuple[np.ndarray, ...]:
    """Training images ``[N, 8, 8, 1]``, labels, test images, labels; float64."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    images, labels = (
        images[order].reshape(-1, 8, 8, 1) / 16,
        labels[order].astype(np.int32),
    )
    rank = np.array(
        [np.sum(labels[:i] == label) for i, label in enumerate(labels)]
    )  # among its digit's images
    chosen = rank < config.num_samples // 10
    return images[chosen], labels[chosen], images[~chosen][:300], labels[~chosen][:300]


@cache
def perceptron(activation: str, width: int):
    """One hidden layer, as the library's MLP, in whatever precision its parameters have: ``(init, apply)``."""

    def init(key):
        a, b = jax.random.split(key)
        first, last = (
            jax.random.normal(a, (64, width)) / 8,
            jax.random.normal(b, (width, 10)) / width**0.5,
        )
        return {
            "first": first,
            "shift": jnp.zeros(width),
            "last": last,
            "bias": jnp.zeros(10),
        }

    def apply(params, images):
        hidden = (
            images.reshape(len(images), -1) @ params["first"] + params["shift"][None]
        )
        return ACTIVATIONS[activation](hidden) @ params["last"] + params["bias"][None]

    return init, apply


NTK = jax.jit(influence.ntk, static_argnums=0, static_argnames="batch_size")


FIT = jax.jit(influence.fit_dual, static_argnames=("loss", "num_steps"))


REMOVE = jax.jit(
    influence.remove,
    static_argnums=0,
    static_argnames=("num_forget", "warn", "batch_size"),
)


DUAL = jax.jit(influence.dual_change, static_argnames=("loss", "num_forget", "solver"))


PRIMAL = jax.jit(
    influence.primal_change,
    static_argnums=0,
    static_argnames=("loss", "num_forget", "batch_size"),
)


TARGETS = jax.jit(
    influence_targets, static_argnames=("linearized", "num_fit_steps", "num_cg_steps")
)


def distance(left, right) -> float:
    """Between two parameter trees."""
    return float(optax.tree.norm(optax.tree.sub(left, right)))


def draw(seed: int, count: int, removed: int) -> np.ndarray:
    """A random forget mask."""
    return np.random.default_rng(1000 + seed).permutation(count) < removed


@partial(jax.jit, static_argnames=("apply", "loss", "ridge", "num_forget"))
def convex_removal(
    apply, params, images, targets, forget, fit, kernel, *, loss, ridge, num_forget
):
    """The estimates and the truth for one forget set: parameter changes by dual and primal, and retrained ones."""
    knobs = {"ridge": ridge, "loss": LOSSES[loss], "num_forget": num_forget}
    dual = influence.dual_change(kernel, fit.outputs, targets, forget, **knobs)
    pull = partial(influence.pull, apply, params)
    trained = jax.tree.map(jnp.add, params, pull(images, fit.alpha))
    linear = influence.linearize(apply, params)
    primal = influence.primal_change(
        linear,
        trained,
        images,
        targets,
        forget,
        anchor=params,
        solver=influence.CG(tol=1e-12),
        batch_size=len(images),
        **knobs,
    )
    kept = jnp.nonzero(~forget, size=len(images) - num_forget)[0]
    again = influence.fit_dual(
        influence.kernel_block(kernel, kept, kept),
        targets[kept],
        ridge=ridge,
        offsets=apply(params, images[kept]),
        start=fit.alpha[kept],
        loss=LOSSES[loss],
        num_steps=10,
    )
    retrained = jax.tree.map(jnp.add, params, pull(images[kept], again.alpha))
    return (
        trained,
        pull(images, dual.change),
        primal.params,
        retrained,
        again.stationarity,
    )


def convex(config: Config, seed: int) -> dict[str, np.ndarray]:
    """Errors of removing from the linearized network, in float64; 1 is doing nothing."""
    rows = []
    with jax.enable_x64(True):
        x, y, test, _ = map(jnp.asarray, make_data(config, seed))
        init, apply = perceptron("tanh", config.width)
        params = init(jax.random.key(seed))
        kernel = NTK(apply, params, x)
        for loss, targets in (("cross-entropy", y), ("squared", jax.nn.one_hot(y, 10))):
            knobs = {"ridge": config.ridge, "loss": LOSSES[loss], "num_steps": 12}
            fit = FIT(kernel, targets, offsets=apply(params, x), **knobs)
            for fraction in (
                config.fractions if loss == "cross-entropy" else config.fractions[:1]
            ):
                removed = round(fraction * len(x))
                forget = jnp.asarray(draw(seed, len(x), removed))
                knobs = {"loss": loss, "ridge": config.ridge, "num_forget": removed}
                trained, dual, primal, retrained, floor = convex_removal(
                    apply, params, x, targets, forget, fit, kernel, **knobs
                )
                rows.append(
                    _errors(apply, params, test, trained, dual, primal, retrained)
                    | {
                        "fraction": fraction,
                        "squared": loss == "squared",
                        "floor": float(floor),
                    }
                )
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _errors(apply, params, test, trained, dual, primal, retrained) -> dict[str, float]:
    linear = influence.linearize(apply, params)
    outputs = lambda tree: linear(tree, test)
    new = jax.tree.map(jnp.add, trained, dual)
    far, wrong = (
        outputs(trained) - outputs(retrained),
        outputs(new) - outputs(retrained),
    )
    return {
        "forms": distance(dual, primal) / float(optax.tree.norm(dual)),
        "moved": (
            distance(trained, retrained)
            / float(optax.tree.norm(optax.tree.sub(retrained, params)))
        ),
        "params": distance(new, retrained) / distance(trained, retrained),
        "outputs": float(jnp.linalg.norm(wrong) / jnp.linalg.norm(far)),
    }


@partial(jax.jit, static_argnames=("apply", "num_steps"))
def lbfgs(apply, start, anchor, images, labels, *, ridge, num_steps):
    """Trains to stationarity, as far as that goes: ``mean CE + ridge/2 |theta - anchor|^2``."""

    def risk(params):
        away = optax.tree.norm(optax.tree.sub(params, anchor), squared=True)
        return jnp.mean(cross_entropy(apply(params, images), labels)) + ridge / 2 * away

    tx = optax.lbfgs(memory_size=20)
    value_and_grad = optax.value_and_grad_from_state(risk)

    def step(carry, _):
        params, state = carry
        value, slope = value_and_grad(params, state=state)
        updates, state = tx.update(
            slope, state, params, value=value, grad=slope, value_fn=risk
        )
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (start, tx.init(start)), None, length=num_steps)[0][0]


def network(config: Config, seed: int, name: str) -> dict[str, np.ndarray]:
    """10 % removed from a network: the guard, and errors beside doing nothing."""
    activation, width, ridge = name.split("-")
    x, y, test, _ = (
        jnp.asarray(array, "i4" if array.ndim == 1 else "f4")
        for array in make_data(config, seed)
    )
    init, apply = perceptron(activation, int(width))
    removed = round(0.1 * len(x))
    forget = jnp.asarray(draw(seed, len(x), removed))
    start, other = (init(key) for key in jax.random.split(jax.random.key(seed)))
    fit = partial(lbfgs, apply, ridge=float(ridge), num_steps=config.num_steps)
    original, retrained = (
        fit(start, start, x, y),
        fit(start, start, x[~forget], y[~forget]),
    )
    second = fit(other, other, x[~forget], y[~forget])
    warm = fit(original, start, x[~forget], y[~forget])
    knobs = {
        "num_forget": removed,
        "ridge": float(ridge),
        "warn": False,
        "batch_size": len(x),
    }
    change, guard = REMOVE(apply, original, x, y, forget, anchor=start, **knobs)
    predicted = jax.tree.map(jnp.add, original, change)
    outputs = lambda params: np.asarray(apply(params, test))
    away = lambda params: np.linalg.norm(outputs(params) - outputs(retrained))
    return {
        "params": np.array(
            distance(predicted, retrained) / distance(original, retrained)
        ),
        "outputs": np.array(away(predicted) / away(original)),
        "warm": np.array(away(warm) / away(original)),
        "second": np.array(away(second) / away(original)),
        **{field: np.asarray(value) for field, value in guard._asdict().items()},
    }


def seconds(call) -> float:
    """The shortest of five runs, after one that compiles."""
    jax.block_until_ready(call())
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        jax.block_until_ready(call())
        taken.append(time.perf_counter() - began)
    return min(taken)


def cost(config: Config, width: int, outputs: int) -> dict[str, np.ndarray]:
    """Seconds and bytes of both forms, by the number of removed samples; one output tells 8 from the other digits."""
    x, y, _, _ = (
        jnp.asarray(array, "i4" if array.ndim == 1 else "f4")
        for array in make_data(config, 0)
    )
    init, whole = perceptron("tanh", width)
    params = init(jax.random.key(0))
    apply = (
        (lambda params, images: whole(params, images)[:, 8:9])
        if outputs == 1
        else whole
    )
    targets = jnp.where(y == 8, 1.0, -1.0)[:, None] if outputs == 1 else y
    knobs = {
        "ridge": config.ridge,
        "loss": influence.squared_error if outputs == 1 else cross_entropy,
    }
    make = partial(NTK, apply, params, x, batch_size=100)
    kernel, size = make(), sum(leaf.size for leaf in jax.tree.leaves(params))
    fit = FIT(kernel, targets, offsets=apply(params, x), num_steps=8, **knobs)
    linear = influence.linearize(apply, params)
    trained = jax.tree.map(jnp.add, params, influence.pull(apply, params, x, fit.alpha))
    found = {
        "kernel": [seconds(make)],
        "parameters": [size],
        "dense": [],
        "cg": [],
        "primal": [],
        "gap": [],
        "bytes": [],
    }
    for fraction in config.fractions:
        removed = round(fraction * len(x))
        request = {"num_forget": removed, **knobs}
        forget = jnp.asarray(draw(0, len(x), removed))
        dual = partial(DUAL, kernel, fit.outputs, targets, forget, **request)
        primal = partial(
            PRIMAL,
            linear,
            trained,
            x,
            targets,
            forget,
            anchor=params,
            batch_size=len(x),
            **request,
        )
        solvers = {"dense": influence.Dense(), "cg": influence.CG()}
        for name, solver in solvers.items():
            found[name].append(seconds(partial(dual, solver=solver)))
        found["primal"].append(seconds(primal))
        step = influence.pull(apply, params, x, dual(solver=influence.CG()).change)
        found["gap"].append(
            distance(step, primal().params) / float(optax.tree.norm(step))
        )
        kept = (len(x) - removed) * outputs
        found["bytes"].append(
            [
                4 * ((len(x) * outputs) ** 2 + kept**2),
                4 * (6 * size + 4 * len(x) * width),
            ]
        )
    return {name: np.asarray(value, float) for name, value in found.items()}


def targets(config: Config, seed: int) -> dict[str, np.ndarray]:
    """KL(retrained || target) in nats on a forgotten class: targets of TRW and of influence, and a second retraining."""
    x, y, _, _ = make_data(config, seed)
    data = Dataset(x.astype("f4"), y)
    model, decay = models.build("mlp", (8, 8, 1), 10, widths=(config.width,)), 1e-3
    recipe = train.Recipe(100, 90, train.sgd(0.1, weight_decay=decay))
    fit = lambda key, keep: (
        train.fit(key, model, data, keep, recipe, epochs_per_call=100)[0].variables
    )
    keys = jax.random.split(jax.random.key(seed), 3)
    original, found = fit(keys[0], np.ones(len(y), bool)), []
    for label in config.classes:
        forget = y == label
        retrained, second = fit(keys[1], ~forget), fit(keys[2], ~forget)
        problem = methods.make_problem(model, Variables(*original), data, forget)
        truth, again, plain = (
            np.asarray(jax.nn.softmax(model.apply(v, data.images[forget])))
            for v in (retrained, second, original)
        )
        plain = plain * (np.arange(10) != label)
        network, head = (
            np.asarray(
                TARGETS(
                    problem,
                    linearized=kind,
                    ridge=decay,
                    num_fit_steps=8,
                    num_cg_steps=60,
                )
            )
            for kind in ("network", "head")
        )
        answers = (plain / plain.sum(1, keepdims=True), head, network, again)
        found.append(
            [
                audit.kl_divergence(truth, answer, floor=1e-6).mean()
                for answer in answers
            ]
        )
    return {"kl": np.array(found)}


def make_parts(config: Config) -> dict[str, Part]:
    """One part per seed and question."""
    if not config.seeds or config.num_samples not in range(20, 1401, 10):
        raise InputError(
            "influence_digits needs at least one seed, and 20 to 1400 training images,"
            " a multiple of 10"
        )
    if (
        not config.fractions
        or not all(0 < f < 1 for f in config.fractions)
        or config.ridge <= 0
    ):
        raise InputError(
            "fractions must lie between 0 and 1, and the ridge must be positive"
        )
    for name in config.networks:
        kind, *numbers = name.split("-")
        if kind not in ACTIVATIONS or len(numbers) != 2:
            raise InputError(
                "a network is named activation-units-penalty, such as tanh-64-0.01;"
                f" got {name!r}"
            )
    common = {"num_samples": config.num_samples}
    shared = common | {"ridge": config.ridge, "fractions": config.fractions}
    parts = {}
    for seed in config.seeds:
        own = {"seed": seed, "width": config.width}
        parts[f"convex-{seed}"] = Part(shared | own, partial(convex, config, seed))
        parts[f"targets-{seed}"] = Part(
            common | own | {"classes": config.classes}, partial(targets, config, seed)
        )
        for name in config.networks:
            settings = common | {
                "seed": seed,
                "network": name,
                "num_steps": config.num_steps,
            }
            parts[f"network-{name}-{seed}"] = Part(
                settings, partial(network, config, seed, name)
            )
    for width in config.widths:
        for outputs in (1, 10):
            settings = shared | {"width": width, "outputs": outputs}
            parts[f"cost-{width}-{outputs}"] = Part(
                settings, partial(cost, config, width, outputs)
            )
    return parts
