"""Influence functions on digits, primal and dual: error, reliability and cost.

Samples are removed from linearized networks, where the dual form is exact up to the
curvature of the loss, and from networks as they are, where a guard judges the estimate.
"""

import dataclasses
import re
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from unlearn_jax import audit, influence, methods, models, train
from unlearn_jax.checks import check_counts, check_positive, check_range, check_sizes
from unlearn_jax.losses import cross_entropy
from unlearn_jax.methods.influence_target import influence_targets
from unlearn_jax.pipeline import Artifact
from unlearn_jax.studies.common import check_distinct
from unlearn_jax.types import Array, Dataset, InputError, Variables

Params = Any
Init = Callable[[Array], Params]
Apply = Callable[[Params, Array], Array]

ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu}


LOSSES = {"cross-entropy": cross_entropy, "squared": influence.squared_error}


@dataclasses.dataclass(frozen=True)
class Config:
    """Removal of digits from linearized and real perceptrons with one hidden layer."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the samples, the forget sets and the networks."""
    num_samples: int = 300
    """Training images, the same number of each digit; 300 others are test images."""
    width: int = 64
    """Units of the linearized network."""
    ridge: float = 1e-2
    """Ridge penalty of the linearized network."""
    fractions: tuple[float, ...] = (0.1, 0.5, 0.9)
    """Fractions of the training images to remove."""
    networks: tuple[str, ...] = (
        "tanh-512-0.1",
        "tanh-64-0.1",
        "tanh-64-0.01",
        "tanh-64-0.0001",
        "relu-64-0.01",
    )
    """Networks that are not linearized, named activation-units-penalty."""
    num_steps: int = 500
    """L-BFGS steps for these networks."""
    widths: tuple[int, ...] = (16, 64, 256)
    """Units of the networks that are timed."""
    classes: tuple[int, ...] = (1, 3, 8)
    """Digits that are forgotten as whole classes, for the targets."""


def make_data(config: Config, seed: int) -> tuple[np.ndarray, ...]:
    """Return training images ``[N, 8, 8, 1]``, labels, test images, labels; float64."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    images = images[order].reshape(-1, 8, 8, 1) / 16
    labels = labels[order].astype(np.int32)
    # The rank of each image among the images of its digit.
    rank = np.array([np.sum(labels[:i] == label) for i, label in enumerate(labels)])
    chosen = rank < config.num_samples // 10
    return images[chosen], labels[chosen], images[~chosen][:300], labels[~chosen][:300]


@cache
def perceptron(activation: str, width: int) -> tuple[Init, Apply]:
    """Return ``(init, apply)`` of a perceptron with one hidden layer.

    It computes in the precision of the parameters.
    """

    def init(key: Array) -> Params:
        key_first, key_last = jax.random.split(key)
        return {
            "first": jax.random.normal(key_first, (64, width)) / 8,
            "shift": jnp.zeros(width),
            "last": jax.random.normal(key_last, (width, 10)) / width**0.5,
            "bias": jnp.zeros(10),
        }

    def apply(params: Params, images: Array) -> Array:
        inputs = images.reshape(len(images), -1)
        hidden = inputs @ params["first"] + params["shift"][None]
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


def distance(left: Params, right: Params) -> float:
    """Return the L2 distance between two parameter trees."""
    return float(optax.tree.norm(optax.tree.sub(left, right)))


def draw(seed: int, count: int, removed: int) -> np.ndarray:
    """Return a random forget mask ``[count]``."""
    return np.random.default_rng(1000 + seed).permutation(count) < removed


@partial(jax.jit, static_argnames=("apply", "loss", "ridge", "num_forget"))
def convex_removal(
    apply: Apply,
    params: Params,
    images: Array,
    targets: Array,
    forget: Array,
    fit: influence.DualFit,
    kernel: Array,
    *,
    loss: str,
    ridge: float,
    num_forget: int,
) -> tuple[Params, Params, Params, Params, Array]:
    """Remove samples from a linearized network.

    Args:
      apply: apply function of the network.
      params: parameters at which the network is linearized.
      images: ``[N, ...]`` training images.
      targets: ``[N, ...]`` targets of the loss.
      forget: ``[N]`` bool, the samples to remove.
      fit: trained network, in the dual form.
      kernel: neural tangent kernel of the training images.
      loss: key of :data:`LOSSES`.
      ridge: ridge penalty.
      num_forget: number of samples to remove.

    Returns:
      Trained parameters, their change by the dual form and by the primal form,
      retrained parameters, and the stationarity of the retrained parameters.
    """
    options = {"ridge": ridge, "loss": LOSSES[loss], "num_forget": num_forget}
    dual = influence.dual_change(kernel, fit.outputs, targets, forget, **options)
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
        **options,
    )
    retain = jnp.nonzero(~forget, size=len(images) - num_forget)[0]
    again = influence.fit_dual(
        influence.kernel_block(kernel, retain, retain),
        targets[retain],
        ridge=ridge,
        offsets=apply(params, images[retain]),
        start=fit.alpha[retain],
        loss=LOSSES[loss],
        num_steps=10,
    )
    retrained = jax.tree.map(jnp.add, params, pull(images[retain], again.alpha))
    by_dual = pull(images, dual.change)
    return trained, by_dual, primal.params, retrained, again.stationarity


def convex(config: Config, seed: int) -> dict[str, np.ndarray]:
    """Return the errors of removal from the linearized network, in float64.

    Returns:
      One value for each fraction with cross-entropy, then one for the first fraction
      with the squared loss. ``params`` and ``outputs``: distances to the retrained
      network, relative to the original's. ``forms``: relative difference between the
      dual and the primal form. ``moved``: distance between the original and the
      retrained network, relative to the retrained network's distance from
      initialization. ``floor``: stationarity of the oracle. ``fraction``: fraction of
      samples removed. ``squared``: whether the loss is the squared one.
    """
    rows = []
    with jax.enable_x64(True):
        x, y, test, _ = map(jnp.asarray, make_data(config, seed))
        init, apply = perceptron("tanh", config.width)
        params = init(jax.random.key(seed))
        kernel = NTK(apply, params, x)
        for loss, targets in (("cross-entropy", y), ("squared", jax.nn.one_hot(y, 10))):
            options = {"ridge": config.ridge, "loss": LOSSES[loss], "num_steps": 12}
            fit = FIT(kernel, targets, offsets=apply(params, x), **options)
            is_squared = loss == "squared"
            for fraction in config.fractions[:1] if is_squared else config.fractions:
                removed = round(fraction * len(x))
                forget = jnp.asarray(draw(seed, len(x), removed))
                options = {"loss": loss, "ridge": config.ridge, "num_forget": removed}
                trained, dual, primal, retrained, floor = convex_removal(
                    apply, params, x, targets, forget, fit, kernel, **options
                )
                errors = _errors(apply, params, test, trained, dual, primal, retrained)
                errors["fraction"] = fraction
                errors["squared"] = is_squared
                errors["floor"] = float(floor)
                rows.append(errors)
    return jax.tree.map(lambda *values: np.array(values), *rows)


def _errors(
    apply: Apply,
    params: Params,
    test: Array,
    trained: Params,
    dual: Params,
    primal: Params,
    retrained: Params,
) -> dict[str, float]:
    linear = influence.linearize(apply, params)
    removed = jax.tree.map(jnp.add, trained, dual)
    goal = linear(retrained, test)
    far = linear(trained, test) - goal
    wrong = linear(removed, test) - goal
    learned = float(optax.tree.norm(optax.tree.sub(retrained, params)))
    return {
        "forms": distance(dual, primal) / float(optax.tree.norm(dual)),
        "moved": distance(trained, retrained) / learned,
        "params": distance(removed, retrained) / distance(trained, retrained),
        "outputs": float(jnp.linalg.norm(wrong) / jnp.linalg.norm(far)),
    }


@partial(jax.jit, static_argnames=("apply", "num_steps"))
def lbfgs(
    apply: Apply,
    start: Params,
    anchor: Params,
    images: Array,
    labels: Array,
    *,
    ridge: float,
    num_steps: int,
) -> Params:
    """Minimize ``mean CE + ridge / 2 |theta - anchor|^2`` by ``optax.lbfgs``.

    Args:
      apply: apply function of the network.
      start: initial parameters.
      anchor: parameters at which the penalty is 0.
      images: ``[N, ...]`` training images.
      labels: ``[N]`` labels.
      ridge: weight of the penalty.
      num_steps: number of L-BFGS steps.

    Returns:
      The parameters after the last step.
    """

    def risk(params: Params) -> Array:
        away = optax.tree.norm(optax.tree.sub(params, anchor), squared=True)
        return jnp.mean(cross_entropy(apply(params, images), labels)) + ridge / 2 * away

    tx = optax.lbfgs(memory_size=20)
    value_and_grad = optax.value_and_grad_from_state(risk)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        params, state = carry
        value, slope = value_and_grad(params, state=state)
        updates, state = tx.update(
            slope, state, params, value=value, grad=slope, value_fn=risk
        )
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (start, tx.init(start)), None, length=num_steps)[0][0]


def network(config: Config, seed: int, name: str) -> dict[str, np.ndarray]:
    """Return the guard, and the errors of removing 10% of a network's samples.

    Args:
      config: study configuration.
      seed: seed of the samples, the forget set and the initial weights.
      name: name of the network, one of ``config.networks``.

    Returns:
      The fields of :class:`unlearn_jax.influence.Guard`, and distances to the retrained
      network, relative to the original's. ``params`` and ``outputs``: distances of the
      estimate's parameters and test outputs. ``warm``: distance of the outputs after
      the original is trained further on the retained samples. ``second``: distance of
      the outputs of a second retrained network.
    """
    activation, width, ridge = name.split("-")
    x, y, test, _ = _float32(make_data(config, seed))
    init, apply = perceptron(activation, int(width))
    removed = round(0.1 * len(x))
    forget = jnp.asarray(draw(seed, len(x), removed))
    start, other = (init(key) for key in jax.random.split(jax.random.key(seed)))
    fit = partial(lbfgs, apply, ridge=float(ridge), num_steps=config.num_steps)
    rest = (x[~forget], y[~forget])
    original = fit(start, start, x, y)
    retrained = fit(start, start, *rest)
    second = fit(other, other, *rest)
    warm = fit(original, start, *rest)
    change, guard = REMOVE(
        apply,
        original,
        x,
        y,
        forget,
        anchor=start,
        num_forget=removed,
        ridge=float(ridge),
        warn=False,
        batch_size=len(x),
    )
    predicted = jax.tree.map(jnp.add, original, change)
    goal = np.asarray(apply(retrained, test))

    def away(params: Params) -> np.floating:
        return np.linalg.norm(np.asarray(apply(params, test)) - goal)

    moved = distance(original, retrained)
    return {
        "params": np.array(distance(predicted, retrained) / moved),
        "outputs": np.array(away(predicted) / away(original)),
        "warm": np.array(away(warm) / away(original)),
        "second": np.array(away(second) / away(original)),
        **{field: np.asarray(value) for field, value in guard._asdict().items()},
    }


def _float32(arrays: Sequence[np.ndarray]) -> list[Array]:
    """Return images as float32 and labels as int32."""
    return [jnp.asarray(a, "i4" if a.ndim == 1 else "f4") for a in arrays]


def seconds(call: Callable[[], Any]) -> float:
    """Return the seconds of the fastest of five runs, after one that compiles."""
    jax.block_until_ready(call())
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        jax.block_until_ready(call())
        taken.append(time.perf_counter() - began)
    return min(taken)


def cost(config: Config, width: int, outputs: int) -> dict[str, np.ndarray]:
    """Return the seconds and bytes of both forms, by the fraction of removed samples.

    Args:
      config: study configuration.
      width: number of hidden units of the network.
      outputs: number of outputs: 10 for all classes, or 1, which separates 8 from the
        other digits.
    """
    x, y, _, _ = _float32(make_data(config, 0))
    init, apply = perceptron("tanh", width)
    params = init(jax.random.key(0))
    targets = y
    loss = cross_entropy
    if outputs == 1:
        whole = apply
        apply = lambda params, images: whole(params, images)[:, 8:9]
        targets = jnp.where(y == 8, 1.0, -1.0)[:, None]
        loss = influence.squared_error
    options = {"ridge": config.ridge, "loss": loss}
    make = partial(NTK, apply, params, x, batch_size=100)
    kernel = make()
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    fit = FIT(kernel, targets, offsets=apply(params, x), num_steps=8, **options)
    linear = influence.linearize(apply, params)
    trained = jax.tree.map(jnp.add, params, influence.pull(apply, params, x, fit.alpha))
    arrays = {
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
        request = {"num_forget": removed, **options}
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
            arrays[name].append(seconds(partial(dual, solver=solver)))
        arrays["primal"].append(seconds(primal))
        step = influence.pull(apply, params, x, dual(solver=influence.CG()).change)
        arrays["gap"].append(
            distance(step, primal().params) / float(optax.tree.norm(step))
        )
        num_retain = (len(x) - removed) * outputs
        arrays["bytes"].append(
            [
                4 * ((len(x) * outputs) ** 2 + num_retain**2),
                4 * (6 * size + 4 * len(x) * width),
            ]
        )
    return {name: np.asarray(value, float) for name, value in arrays.items()}


def targets(config: Config, seed: int) -> dict[str, np.ndarray]:
    """Return KL(retrained || target) ``[classes, 4]`` on a forgotten class, in nats.

    The targets are those of TRW, of influence functions on the head, of influence
    functions on the whole network, and the outputs of a second retrained network.
    """
    x, y, _, _ = make_data(config, seed)
    data = Dataset(x.astype("f4"), y)
    decay = 1e-3
    model = models.build("mlp", (8, 8, 1), 10, widths=(config.width,))
    recipe = train.Recipe(100, 90, train.sgd(0.1, weight_decay=decay))

    def fit(key: Array, keep: np.ndarray) -> Variables:
        state, _ = train.fit(key, model, data, keep, recipe, epochs_per_call=100)
        return state.variables

    keys = jax.random.split(jax.random.key(seed), 3)
    original = fit(keys[0], np.ones(len(y), bool))
    divergences = []
    for label in config.classes:
        forget = y == label
        retrained = fit(keys[1], ~forget)
        second = fit(keys[2], ~forget)
        problem = methods.make_problem(model, Variables(*original), data, forget)
        truth, again, plain = (
            np.asarray(jax.nn.softmax(model.apply(v, data.images[forget])))
            for v in (retrained, second, original)
        )
        plain = plain * (np.arange(10) != label)
        by_influence = partial(
            TARGETS, problem, ridge=decay, num_fit_steps=8, num_cg_steps=60
        )
        network_target = np.asarray(by_influence(linearized="network"))
        head_target = np.asarray(by_influence(linearized="head"))
        renormalized = plain / plain.sum(1, keepdims=True)
        divergences.append(
            [
                audit.kl_divergence(truth, target, floor=1e-6).mean()
                for target in (renormalized, head_target, network_target, again)
            ]
        )
    return {"kl": np.array(divergences)}


def make_artifacts(config: Config) -> list[Artifact]:
    """Return the artifacts of every seed, and those of the timings.

    Raises:
      InputError: unusable sizes, fractions or names of networks.
    """
    check_distinct(
        seeds=config.seeds,
        networks=config.networks,
        widths=config.widths,
        classes=config.classes,
    )
    if config.num_samples not in range(20, 1401, 10):
        raise InputError(
            "influence_digits needs 20 to 1400 training images, a multiple of 10"
        )
    check_positive(ridge=config.ridge)
    check_counts(width=config.width, num_steps=config.num_steps)
    check_sizes(widths=config.widths)
    check_range(np.array(config.classes), 10, "classes")
    counts = [round(fraction * config.num_samples) for fraction in config.fractions]
    if not counts or not all(0 < count < config.num_samples for count in counts):
        raise InputError(
            f"fractions are {config.fractions} of {config.num_samples} images: give at"
            " least one, and remove at least one image and not all"
        )
    for name in config.networks:
        parts = re.fullmatch(r"(\w+)-([1-9]\d*)-(\d+\.?\d*|\.\d+)", name)
        if parts is None or parts[1] not in ACTIVATIONS or float(parts[3]) <= 0:
            raise InputError(
                "a network is named activation-units-penalty, such as tanh-64-0.01;"
                f" got {name!r}"
            )
    common = {"num_samples": config.num_samples}
    shared = common | {"ridge": config.ridge, "fractions": config.fractions}
    artifacts = []

    def add(name: str, settings: dict[str, Any], compute: Callable[..., Any]) -> None:
        artifacts.append(Artifact(name=name, settings=settings, compute=compute))

    for seed in config.seeds:
        of_seed = {"seed": seed, "width": config.width}
        add(f"convex-{seed}", shared | of_seed, partial(convex, config, seed))
        settings = common | of_seed | {"classes": config.classes}
        add(f"targets-{seed}", settings, partial(targets, config, seed))
        for name in config.networks:
            settings = common | {"seed": seed, "network": name}
            settings["num_steps"] = config.num_steps
            compute = partial(network, config, seed, name)
            add(f"network-{name}-{seed}", settings, compute)
    for width in config.widths:
        for outputs in (1, 10):
            settings = shared | {"width": width, "outputs": outputs}
            compute = partial(cost, config, width, outputs)
            add(f"cost-{width}-{outputs}", settings, compute)
    return artifacts
