"""Making a conditional denoiser forget a concept: methods that move what condition f predicts, and retraining.

``ERASURES`` is the registry: ``ERASURES["latent_adversarial"](**knobs)`` is a pure
``(key, problem) -> (Variables, UnlearnInfo)``, to be jitted or mapped over problems.
All but retraining minimize ::

    E |eps_theta(x_t, t, f) - stop(target(x_t, t))|^2  +  gamma * (denoising loss on the retained classes)

and differ in the target, which the original model theta_0 supplies, and in the images
behind x_t. The retained classes lose their condition with probability ``drop``, as in
training, so the unconditional prediction sees no forgotten image.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.core import Tracer

from unlearn_jax.diffusion.latent import (
    LatentAttack,
    denoising_judge,
    external_judge,
    latent_attack,
)
from unlearn_jax.diffusion.process import (
    Process,
    add_noise,
    draw_levels,
    sample,
    to_images,
    to_signal,
    train_denoiser,
    training_loss,
)
from unlearn_jax.models.denoiser import Denoiser
from unlearn_jax.train import (
    Batch,
    TrainState,
    epoch_order,
    fetch_from,
    to_float,
    train_step,
)
from unlearn_jax.types import (
    Array,
    Dataset,
    InputError,
    ModelState,
    Status,
    UnlearnInfo,
    Variables,
)

Source = Literal["data", "samples"]
Direction = Literal["adversarial", "random"]
Goal = Literal["condition", "class"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ConceptProblem:
    """What a method is given. A pytree, so that methods can be mapped over many problems.

    Attributes:
      denoiser: the architecture (static).
      process: the schedule (static).
      variables: the original model's, trained on all of ``train``.
      train: the original training set, the concept's images included.
      concept: ``[]`` int32, the class f to forget.
    """

    denoiser: Denoiser = dataclasses.field(metadata={"static": True})
    process: Process = dataclasses.field(metadata={"static": True})
    variables: Variables
    train: Dataset
    concept: Array

    @property
    def retain(self) -> Array:
        """``[N]`` bool: the images of other classes."""
        return self.train.labels != self.concept


EraseFn = Callable[[Array, ConceptProblem], tuple[Variables, UnlearnInfo]]
"""``(key, problem) -> (variables, info)``: pure, the same key gives the same result."""


@dataclasses.dataclass(frozen=True)
class Matching:
    """The knobs that every matching method takes.

    Attributes:
      num_steps: gradient steps.
      batch_size: images of the concept per step, and as many of the retained classes.
      learning_rate: of Adam.
      gamma: weight of the denoising loss on the retained classes.
      drop: probability that a retained label is replaced by "no condition".
      pool_size: images of the concept that are used; of fewer some are used more often.
      guidance: of the sampler, where the images are samples of the original model.

    Raises:
      InputError: values no run could use.
    """

    num_steps: int = 200
    batch_size: int = 64
    learning_rate: float | Array = 3e-4
    gamma: float | Array = 1.0
    drop: float = 0.1
    pool_size: int = 64
    guidance: float = 0.0

    def __post_init__(self) -> None:
        """Refuses values no run could use."""
        if min(self.num_steps, self.batch_size, self.pool_size) < 1:
            raise InputError(
                "num_steps, batch_size and pool_size of a matching method must be"
                " positive"
            )
        _check("learning_rate", self.learning_rate)
        _check("gamma", self.gamma)


class _Pool(NamedTuple):
    """Images behind x_t, ``images [P, H, W, ch]`` in [0, 1], and how much each counts, ``weight [P]``."""

    images: Array
    weight: Array


Target = Callable[[Array, Array, Array, Array], Array]
"""``(key, rows of the pool [B], x_t [B, ...], signal [B]) -> [B, ...]``, what condition f should predict."""


def do_nothing() -> EraseFn:
    """The original model itself: the row that shows where one started."""

    def run(key: Array, problem: ConceptProblem) -> tuple[Variables, UnlearnInfo]:
        del key
        return problem.variables, UnlearnInfo(jnp.zeros(0), jnp.zeros((), jnp.int32))

    return run


def retrain(
    *, num_epochs: int, num_batches: int, batch_size: int = 64, **training: Any
) -> EraseFn:
    """Trains from scratch without the concept: the oracle. Reads no image of it.

    The vector of f keeps its initial value, so that condition f means nothing in
    particular to the result.

    Args:
      num_epochs: as the original was trained.
      num_batches: as the original was trained: steps per epoch.
      batch_size: samples per step.
      **training: further arguments of :func:`unlearn_jax.diffusion.train_denoiser`.
    """
    sizes = {
        "num_epochs": num_epochs,
        "num_batches": num_batches,
        "batch_size": batch_size,
    }

    def run(key: Array, problem: ConceptProblem) -> tuple[Variables, UnlearnInfo]:
        denoiser, process = problem.denoiser, problem.process
        variables, losses = train_denoiser(
            key, denoiser, process, problem.train, problem.retain, **sizes, **training
        )
        return variables, UnlearnInfo(
            losses, jnp.int32(num_epochs * num_batches * batch_size)
        )

    return run


def random_label(*, source: Source = "data", **matching: Any) -> EraseFn:
    """Condition f predicts what another class, drawn anew for every image and step, predicts in the original model.

    SalUn's objective for generation (arXiv 2310.12508, equation 7) without its saliency
    mask: the target is ``eps_theta0(x_t, t, c')`` with c' uniform over the other
    classes.

    Args:
      source: ``data`` noises training images of the concept; ``samples`` noises what
        the original model draws under f, and reads no image of it.
      **matching: fields of :class:`Matching`.

    Raises:
      InputError: unknown ``source`` or unusable knobs.
    """
    knobs = _knobs(source, matching)

    def run(key: Array, problem: ConceptProblem) -> tuple[Variables, UnlearnInfo]:
        key_pool, key_match = jax.random.split(key)

        def target(key: Array, rows: Array, noised: Array, signal: Array) -> Array:
            classes = problem.denoiser.num_classes
            other = (
                problem.concept + jax.random.randint(key, rows.shape, 1, classes)
            ) % classes
            return _original(
                problem,
                noised,
                signal,
                problem.denoiser.embed(problem.variables, other),
            )

        return _match(
            key_match, problem, _pool(key_pool, problem, source, knobs), target, knobs
        )

    return run


def steer(*, eta: float = 1.0, source: Source = "samples", **matching: Any) -> EraseFn:
    """Condition f predicts the unconditional output, pushed on by ``eta`` away from what it predicted (ESD).

    Target
    ``eps_theta0(x_t, t, none) - eta (eps_theta0(x_t, t, f) - eps_theta0(x_t, t, none))``
    (Gandikota et al., arXiv 2303.07345, equation 6). ESD draws x_t by stopping the
    sampler under f at a random step; here finished samples are noised to it, which
    costs one run of the sampler in all. ESD has no retained loss: ``gamma=0``.

    Args:
      eta: ESD's negative guidance, 1 there; 0 for the unconditional output itself. At
        least 0.
      source: see :func:`random_label`; by default no image of the concept is read.
      **matching: fields of :class:`Matching`.

    Raises:
      InputError: a negative ``eta``, unknown ``source`` or unusable knobs.
    """
    knobs = _knobs(source, matching)
    _check("eta", eta)

    def run(key: Array, problem: ConceptProblem) -> tuple[Variables, UnlearnInfo]:
        key_pool, key_match = jax.random.split(key)

        def target(key: Array, rows: Array, noised: Array, signal: Array) -> Array:
            del key
            labels = jnp.full(rows.shape, problem.concept)
            none = jnp.full(rows.shape, problem.denoiser.num_classes)
            free = _original(
                problem, noised, signal, problem.denoiser.embed(problem.variables, none)
            )
            if not eta:
                return free
            bound = _original(
                problem,
                noised,
                signal,
                problem.denoiser.embed(problem.variables, labels),
            )
            return free - eta * (bound - free)

        return _match(
            key_match, problem, _pool(key_pool, problem, source, knobs), target, knobs
        )

    return run


def latent_adversarial(
    *,
    classify: Callable[[Array], Array] | None = None,
    overshoot: float | Array = 1.0,
    goal: Goal = "condition",
    direction: Direction = "adversarial",
    source: Source = "data",
    num_levels: int = 8,
    attack: dict[str, Any] | None = None,
    **matching: Any,
) -> EraseFn:
    """Condition f predicts what the nearest condition that is not f predicts in the original model.

    AMUN (arXiv 2503.00917) for a generator: for each image of the concept
    :func:`latent_attack` finds the smallest ``delta`` such that ``e(f) + delta`` no
    longer stands for f, and the target is ``eps_theta0(x_t, t, e(f) + delta)`` on that
    image. An image for which none was found, or in which the judge sees no f to begin
    with, is left out; where that is every image, only the retained classes are trained.

    Args:
      classify: judge by this classifier, ``images -> logits`` (:func:`external_judge`);
        None for the denoising losses (:func:`denoising_judge`).
      overshoot: the target lies at ``e(f) + overshoot * delta``. 1 is the border
        itself, where half of what makes f is still there; more goes beyond. May be
        traced.
      goal: ``class`` predicts instead what the class predicts that the judge names at
        ``delta``: AMUN's adversarial label, taken whole. ``overshoot`` and
        ``direction`` mean nothing then.
      direction: ``random`` replaces each ``delta`` by one of the same length in a
        random direction: the control that shows what the attack is worth.
      source: see :func:`random_label`.
      num_levels: of the judge.
      attack: arguments of :func:`unlearn_jax.diffusion.latent_attack`.
      **matching: fields of :class:`Matching`.

    Raises:
      InputError: unknown ``goal``, ``direction`` or ``source``, or unusable knobs.
    """
    knobs = _knobs(source, matching)
    _check("overshoot", overshoot)
    if goal not in ("condition", "class"):
        raise InputError(f"unknown goal {goal!r}: choose condition or class")
    if direction not in ("adversarial", "random"):
        raise InputError(
            f"unknown direction {direction!r}: choose adversarial or random"
        )

    def run(key: Array, problem: ConceptProblem) -> tuple[Variables, UnlearnInfo]:
        key_pool, key_attack, key_direction, key_match = jax.random.split(key, 4)
        pool = _pool(key_pool, problem, source, knobs)
        found = attack_concept(
            key_attack,
            problem,
            pool.images,
            classify=classify,
            num_levels=num_levels,
            **(attack or {}),
        )
        delta = found.delta
        if direction == "random":
            drawn = jax.random.normal(key_direction, delta.shape)
            delta = (
                drawn
                / jnp.linalg.norm(drawn, axis=1, keepdims=True)
                * found.distance.reshape(-1, 1)
            )
        if goal == "class":
            aim = problem.denoiser.embed(problem.variables, found.labels)
        else:
            aim = (
                problem.denoiser.embed(
                    problem.variables, jnp.full((1,), problem.concept)
                )
                + overshoot * delta
            )

        def target(key: Array, rows: Array, noised: Array, signal: Array) -> Array:
            del key
            return _original(problem, noised, signal, aim[rows])

        weight = (found.status == Status.FOUND).astype(jnp.float32)
        return _match(key_match, problem, pool._replace(weight=weight), target, knobs)

    return run


def attack_concept(
    key: Array,
    problem: ConceptProblem,
    images: Array,
    *,
    classify: Callable[[Array], Array] | None = None,
    num_levels: int = 8,
    **attack: Any,
) -> LatentAttack:
    """The latent attack of :func:`latent_adversarial` on images ``[B, H, W, ch]``; arguments as there."""
    arguments = (
        key,
        problem.denoiser,
        problem.process,
        problem.variables,
        images,
        problem.concept,
    )
    if classify is None:
        judge = denoising_judge(*arguments, num_levels=num_levels)
    else:
        judge = external_judge(*arguments, classify, num_levels=num_levels)
    one = jax.ShapeDtypeStruct((1,), jnp.int32)
    width = jax.eval_shape(problem.denoiser.embed, problem.variables, one).shape[1]
    return latent_attack(judge, problem.concept, (len(images), width), **attack)


def concept_images(key: Array, problem: ConceptProblem, count: int) -> Array:
    """``count`` training images of the concept in random order, ``[count, H, W, ch]`` in [0, 1].

    Of fewer some are given again; no other image is read.
    """
    rows = epoch_order(key, ~problem.retain, 1, count)[0]
    return to_float(problem.train.images[rows])


def _check(name: str, value: float | Array) -> None:
    if not isinstance(value, Tracer) and not 0 <= float(value) < float("inf"):
        raise InputError(
            f"{name} of a matching method must be finite and not negative, got {value}"
        )


def _knobs(source: str, matching: dict[str, Any]) -> Matching:
    if source not in ("data", "samples"):
        raise InputError(f"unknown source {source!r}: choose data or samples")
    return Matching(**matching)


def _original(
    problem: ConceptProblem, noised: Array, signal: Array, condition: Array
) -> Array:
    return problem.denoiser.predict(problem.variables, noised, signal, condition)


def _pool(
    key: Array, problem: ConceptProblem, source: Source, knobs: Matching
) -> _Pool:
    weight = jnp.ones(knobs.pool_size)
    if source == "data":
        return _Pool(concept_images(key, problem, knobs.pool_size), weight)
    condition = problem.denoiser.embed(
        problem.variables, jnp.full((knobs.pool_size,), problem.concept)
    )
    drawn = sample(
        key,
        problem.denoiser,
        problem.process,
        problem.variables,
        condition,
        guidance=knobs.guidance,
    )
    return _Pool(to_images(drawn), weight)


def _match(
    key: Array, problem: ConceptProblem, pool: _Pool, target: Target, knobs: Matching
) -> tuple[Variables, UnlearnInfo]:
    """The loop that all matching methods share."""
    denoiser, process = problem.denoiser, problem.process
    retained = training_loss(denoiser, process, drop=knobs.drop)
    fetch, tx = fetch_from(), optax.adam(knobs.learning_rate)

    def forgetting(variables: Variables, rows: Array, key: Array) -> Array:
        key_level, key_target = jax.random.split(key)
        x = to_signal(pool.images[rows])
        signal, noise = draw_levels(key_level, process, x)
        noised = add_noise(x, signal, noise)
        wanted = lax.stop_gradient(target(key_target, rows, noised, signal))
        condition = denoiser.embed(variables, jnp.full(rows.shape, problem.concept))
        gaps = (denoiser.predict(variables, noised, signal, condition) - wanted) ** 2
        weight = pool.weight[rows]
        gaps = jnp.mean(gaps.reshape(len(rows), -1), 1)
        return jnp.sum(weight * gaps) / jnp.maximum(jnp.sum(weight), 1.0)

    def loss_fn(
        variables: Variables, batch: tuple[Array, Batch], key: Array
    ) -> tuple[Array, ModelState]:
        key_forget, key_retain = jax.random.split(key)
        loss, state = retained(variables, batch[1], key_retain)
        return forgetting(variables, batch[0], key_forget) + knobs.gamma * loss, state

    def step(state: TrainState, key_step: Array) -> tuple[TrainState, Array]:
        key_rows, key_order, key_fetch, key_loss = jax.random.split(key_step, 4)
        rows = jax.random.randint(key_rows, (knobs.batch_size,), 0, len(pool.images))
        order = epoch_order(key_order, problem.retain, 1, knobs.batch_size)[0]
        return train_step(
            loss_fn, tx, state, (rows, fetch(problem.train, order, key_fetch)), key_loss
        )  # pyright: ignore[reportArgumentType]

    start = TrainState(
        jnp.zeros((), jnp.int32), problem.variables, tx.init(problem.variables.params)
    )
    state, losses = lax.scan(step, start, jax.random.split(key, knobs.num_steps))
    return state.variables, UnlearnInfo(
        losses, jnp.int32(2 * knobs.num_steps * knobs.batch_size)
    )


ERASURES: dict[str, Callable[..., EraseFn]] = {
    "do_nothing": do_nothing,
    "retrain": retrain,
    "random_label": random_label,
    "steer": steer,
    "latent_adversarial": latent_adversarial,
}
"""``name -> factory(**knobs)``."""
