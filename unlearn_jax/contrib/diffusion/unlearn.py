"""Methods that make a conditional denoiser forget a concept, and retraining.

Methods are values and pure functions ``(key, problem) -> (variables, info)``, which can
be jitted or mapped over problems. Outside of both they raise
:class:`unlearn_jax.types.InputError` on a concept that is not a class, and on images or
labels that cannot be trained on. All except retraining minimize ::

    E |eps_theta(x_t, t, f) - stop(target(x_t, t))|^2 + gamma * (loss on other classes)

They differ in the target, which the original model theta_0 supplies, and in the images
that are noised to x_t. As in training, the condition of a retained image is dropped
with probability ``drop``, so no forget image enters the unconditional prediction.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.core import Tracer

from unlearn_jax.checks import (
    check_counts,
    check_fractions,
    check_images,
    check_labels,
    check_not_negative,
    check_positive,
)
from unlearn_jax.contrib.diffusion.latent import (
    LatentAttack,
    LatentPGD,
    denoising_judge,
    external_judge,
    latent_attack,
)
from unlearn_jax.contrib.diffusion.process import (
    Process,
    add_noise,
    check_concept,
    check_shape,
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
    to_float,
)
from unlearn_jax.values import Real, static, value

Source = Literal["data", "samples"]
Direction = Literal["adversarial", "random"]
Goal = Literal["condition", "class"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ConceptProblem:
    """Input of a method: a pytree, so that methods can be mapped over many problems.

    Attributes:
      denoiser: the architecture (static).
      process: the schedule (static).
      variables: variables of the original model, trained on all of ``train``.
      train: the original training set, including the concept's images.
      concept: ``[]`` int32, the class f to forget.
    """

    denoiser: Denoiser = dataclasses.field(metadata={"static": True})
    process: Process = dataclasses.field(metadata={"static": True})
    variables: Variables
    train: Dataset
    concept: Array

    @property
    def retain(self) -> Array:
        """``[N]`` bool, mask of the images of other classes."""
        return jnp.asarray(self.train.labels) != self.concept


@value
class KeepOriginal:
    """The original model, for comparison."""

    def __call__(
        self, key: Array, problem: ConceptProblem
    ) -> tuple[Variables, UnlearnInfo]:
        """Return the original model's variables."""
        del key
        return problem.variables, UnlearnInfo(jnp.zeros(0), jnp.zeros((), jnp.int32))


@value
class RetrainDenoiser:
    """Oracle: training from scratch without reading any image of the concept.

    The vector of f keeps its initial value, so condition f has no particular meaning to
    the retrained model.

    Attributes:
      num_epochs: number of epochs of the original model's training.
      num_batches: steps per epoch of the original model's training.
      batch_size: samples per step.
      learning_rate: initial learning rate.
      drop: probability that a label is replaced by "no condition", in [0, 1].

    Raises:
      InputError: values out of range.
    """

    num_epochs: int
    num_batches: int
    batch_size: int = 64
    learning_rate: Real = 2e-3
    drop: float = static(default=0.1)

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_counts(
            num_epochs=self.num_epochs,
            num_batches=self.num_batches,
            batch_size=self.batch_size,
        )
        check_positive(learning_rate=self.learning_rate)
        check_fractions(drop=self.drop)

    def __call__(
        self, key: Array, problem: ConceptProblem
    ) -> tuple[Variables, UnlearnInfo]:
        """Train on the retained classes."""
        _check_problem(problem)
        variables, losses = train_denoiser(
            key,
            problem.denoiser,
            problem.process,
            problem.train,
            problem.retain,
            num_epochs=self.num_epochs,
            num_batches=self.num_batches,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            drop=self.drop,
        )
        num_gradients = self.num_epochs * self.num_batches * self.batch_size
        return variables, UnlearnInfo(losses, jnp.int32(num_gradients))


@value
class Matching:
    """Hyperparameters that all matching methods have in common.

    Attributes:
      num_steps: gradient steps.
      batch_size: images of the concept per step, and as many of the retained classes.
      learning_rate: learning rate of Adam.
      gamma: weight of the denoising loss on the retained classes.
      drop: probability that a retained label is replaced by "no condition".
      pool_size: number of images of the concept; if there are fewer, some are repeated.
      guidance: guidance of the sampler, where the images are samples of the original
        model.

    Raises:
      InputError: values out of range.
    """

    num_steps: int = 200
    batch_size: int = 64
    learning_rate: Real = 3e-4
    gamma: Real = 1.0
    drop: float = static(default=0.1)
    pool_size: int = 64
    guidance: float = static(default=0.0)

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_counts(
            num_steps=self.num_steps,
            batch_size=self.batch_size,
            pool_size=self.pool_size,
        )
        check_not_negative(
            learning_rate=self.learning_rate, gamma=self.gamma, guidance=self.guidance
        )
        check_fractions(drop=self.drop)


class _Pool(NamedTuple):
    """Clean images ``[P, H, W, ch]`` in [0, 1], and the weight of each, ``[P]``."""

    images: Array
    weight: Array


Target = Callable[[Array, Array, Array, Array], Array]
"""``(key, rows of the pool [B], x_t [B, ...], signal [B]) -> prediction [B, ...]``."""


@value
class RandomCondition(Matching):
    """Matching of condition f to the original model's prediction for a random class.

    The class c' is drawn for every image and step, uniformly from the other classes;
    the target is ``eps_theta0(x_t, t, c')``. This is SalUn's objective for generation
    (arXiv 2310.12508, equation 7) without its saliency mask.

    Attributes:
      source: ``data`` noises training images of the concept; ``samples`` noises samples
        of the original model under f, and reads no image of the concept.

    Raises:
      InputError: an unknown ``source`` or values out of range.
    """

    source: Source = "data"

    def __call__(
        self, key: Array, problem: ConceptProblem
    ) -> tuple[Variables, UnlearnInfo]:
        """Match the predictions of random classes."""
        key_pool, key_match = jax.random.split(key)
        classes = problem.denoiser.num_classes

        def target(key: Array, rows: Array, noised: Array, signal: Array) -> Array:
            step = jax.random.randint(key, rows.shape, 1, classes)
            return _original(
                problem, noised, signal, (problem.concept + step) % classes
            )

        pool = _pool(key_pool, problem, self.source, self)
        return _match(key_match, problem, pool, target, self)


@value
class SteerAway(Matching):
    """Matching of condition f to the unconditional output, steered away from f (ESD).

    With ``eps(c) = eps_theta0(x_t, t, c)`` the target is
    ``eps(none) - eta (eps(f) - eps(none))`` (Gandikota et al., arXiv 2303.07345,
    equation 6). ESD draws x_t by stopping the sampler under f at a random step. Here
    finished samples are noised to that step, which takes a single run of the sampler.
    ESD has no loss on retained classes; ``gamma=0`` reproduces that.

    Attributes:
      eta: negative guidance, at least 0; 1 in ESD, 0 for the unconditional output
        itself.
      source: ``data`` noises training images of the concept; ``samples`` noises samples
        of the original model under f, and reads no image of the concept.

    Raises:
      InputError: a negative ``eta``, an unknown ``source`` or values out of range.
    """

    eta: Real = 1.0
    source: Source = "samples"

    def __post_init__(self) -> None:
        """Check the ranges."""
        Matching.__post_init__(self)
        check_not_negative(eta=self.eta)

    def __call__(
        self, key: Array, problem: ConceptProblem
    ) -> tuple[Variables, UnlearnInfo]:
        """Match the steered predictions."""
        key_pool, key_match = jax.random.split(key)

        def target(key: Array, rows: Array, noised: Array, signal: Array) -> Array:
            del key
            none = jnp.full(rows.shape, problem.denoiser.num_classes)
            free = _original(problem, noised, signal, none)
            if not isinstance(self.eta, Tracer) and self.eta == 0:
                return free
            labels = jnp.full(rows.shape, problem.concept)
            bound = _original(problem, noised, signal, labels)
            return free - self.eta * (bound - free)

        pool = _pool(key_pool, problem, self.source, self)
        return _match(key_match, problem, pool, target, self)


@value
class LatentAdversarial(Matching):
    """Matching of condition f to the nearest condition that does not stand for f.

    This is AMUN (arXiv 2503.00917) for a generator. For each image of the concept
    :func:`latent_attack` finds the smallest ``delta`` such that ``e(f) + delta`` no
    longer stands for f. The target on that image is the original model's
    ``eps_theta0(x_t, t, e(f) + delta)``. An image is left out if the attack fails on it
    or if the judge does not classify it as f. If all images are left out, only the
    retained classes are trained.

    Attributes:
      classify: classifier ``images -> logits`` for the judge (:func:`external_judge`);
        None for the denoising losses (:func:`denoising_judge`).
      overshoot: factor of ``delta`` in the target's condition
        ``e(f) + overshoot * delta``. 1 is the decision boundary itself, and larger
        values lie beyond it.
      goal: ``condition`` is the target above; ``class`` replaces it by the original
        model's output for the judge's class at ``delta``, AMUN's adversarial label.
        With ``class``, ``overshoot`` and ``direction`` have no effect.
      direction: ``random`` replaces each ``delta`` by a vector of the same length in a
        random direction, as a control for the attack.
      source: ``data`` noises training images of the concept; ``samples`` noises samples
        of the original model under f, and reads no image of the concept.
      num_levels: number of noise levels of the judge.
      attack: hyperparameters of the search for ``delta``.

    Raises:
      InputError: an unknown ``goal``, ``direction`` or ``source``, or values out of
        range.
    """

    classify: Callable[[Array], Array] | None = None
    overshoot: Real = 1.0
    goal: Goal = "condition"
    direction: Direction = "adversarial"
    source: Source = "data"
    num_levels: int = 8
    attack: LatentPGD = LatentPGD()

    def __post_init__(self) -> None:
        """Check the ranges."""
        Matching.__post_init__(self)
        check_not_negative(overshoot=self.overshoot)
        check_counts(num_levels=self.num_levels)

    def __call__(
        self, key: Array, problem: ConceptProblem
    ) -> tuple[Variables, UnlearnInfo]:
        """Attack the concept's condition, then match the predictions there."""
        key_pool, key_attack, key_direction, key_match = jax.random.split(key, 4)
        pool = _pool(key_pool, problem, self.source, self)
        nearest = attack_concept(
            key_attack,
            problem,
            pool.images,
            classify=self.classify,
            num_levels=self.num_levels,
            attack=self.attack,
        )
        aim = self._aim(key_direction, problem, nearest)

        def target(key: Array, rows: Array, noised: Array, signal: Array) -> Array:
            del key
            return _predict(problem, noised, signal, aim[rows])

        weight = (nearest.status == Status.FOUND).astype(jnp.float32)
        pool = pool._replace(weight=weight)
        return _match(key_match, problem, pool, target, self)

    def _aim(self, key: Array, problem: ConceptProblem, nearest: LatentAttack) -> Array:
        """Return the conditions ``[P, E]`` whose predictions are matched."""
        embed = problem.denoiser.embed
        if self.goal == "class":
            return embed(problem.variables, nearest.labels)
        delta = nearest.delta
        if self.direction == "random":
            drawn = jax.random.normal(key, delta.shape)
            unit = drawn / jnp.linalg.norm(drawn, axis=1, keepdims=True)
            delta = unit * nearest.distance.reshape(-1, 1)
        embedding = embed(problem.variables, jnp.full((1,), problem.concept))
        return embedding + self.overshoot * delta


def attack_concept(
    key: Array,
    problem: ConceptProblem,
    images: Array,
    *,
    classify: Callable[[Array], Array] | None = None,
    num_levels: int = 8,
    attack: LatentPGD = LatentPGD(),  # noqa: B008
) -> LatentAttack:
    """Run the latent attack of :class:`LatentAdversarial` on images of a concept.

    Args:
      key: PRNG key for the judge's noise.
      problem: the model and the concept.
      images: ``[B, H, W, ch]`` in [0, 1].
      classify: classifier ``images -> logits`` for the judge; None for the denoising
        losses.
      num_levels: number of noise levels of the judge.
      attack: hyperparameters of the search.

    Returns:
      One row per image.
    """
    denoiser = problem.denoiser
    arguments = (key, denoiser, problem.variables, problem.process)
    if classify is None:
        judge = denoising_judge(
            *arguments, images, problem.concept, num_levels=num_levels
        )
    else:
        judge = external_judge(
            *arguments, images, problem.concept, classify, num_levels=num_levels
        )
    label = jax.ShapeDtypeStruct((1,), jnp.int32)
    width = jax.eval_shape(denoiser.embed, problem.variables, label).shape[1]
    return latent_attack(judge, problem.concept, (len(images), width), attack)


def concept_images(key: Array, problem: ConceptProblem, count: int) -> Array:
    """Return training images of the concept in random order, ``[count, H, W, ch]``.

    The images are in [0, 1]. If there are fewer than ``count``, some are repeated. No
    image of another class is read.

    Raises:
      InputError: ``count`` is not positive, or (unless traced) the training set has no
        image of the concept, or unusable ones.
    """
    check_counts(count=count)
    check_concept(problem.denoiser, problem.concept)
    images = problem.train.images
    is_concept = ~problem.retain
    if not isinstance(is_concept, Tracer):
        if not is_concept.any():
            raise InputError(f"no training image has the concept {problem.concept}")
        check_images(images, "images of a concept", member=np.asarray(is_concept))
    rows = epoch_order(key, is_concept, 1, count)[0]
    return to_float(jnp.asarray(images)[rows])


def _check_problem(problem: ConceptProblem) -> None:
    """Raise unless the problem has a concept to forget and classes to retain.

    Raises:
      InputError: a concept that is not a class, images of another shape, labels that
        are not classes, or (unless traced) no retained image, or unusable ones.
    """
    denoiser = problem.denoiser
    images = problem.train.images
    check_concept(denoiser, problem.concept)
    check_shape(denoiser, images)
    check_labels(
        problem.train.labels, len(images), denoiser.num_classes, "training set"
    )
    if isinstance(problem.retain, Tracer):
        return
    retain = np.asarray(problem.retain)
    if not retain.any():
        raise InputError(
            f"every training image has the concept {problem.concept}: pass images of"
            " the classes to retain, too"
        )
    check_images(images, "training set", member=retain)


def _predict(
    problem: ConceptProblem, noised: Array, signal: Array, condition: Array
) -> Array:
    """Return the original model's prediction under conditions ``[B, E]``."""
    return problem.denoiser.predict(problem.variables, noised, signal, condition)


def _original(
    problem: ConceptProblem, noised: Array, signal: Array, labels: Array
) -> Array:
    """Return the original model's prediction under classes ``[B]``."""
    condition = problem.denoiser.embed(problem.variables, labels)
    return _predict(problem, noised, signal, condition)


def _pool(
    key: Array, problem: ConceptProblem, source: Source, matching: Matching
) -> _Pool:
    _check_problem(problem)
    weight = jnp.ones(matching.pool_size)
    if source == "data":
        return _Pool(concept_images(key, problem, matching.pool_size), weight)
    labels = jnp.full((matching.pool_size,), problem.concept)
    drawn = sample(
        key,
        problem.denoiser,
        problem.variables,
        problem.process,
        problem.denoiser.embed(problem.variables, labels),
        guidance=matching.guidance,
        num_steps=min(25, problem.process.num_steps),
    )
    return _Pool(to_images(drawn), weight)


def _match(
    key: Array,
    problem: ConceptProblem,
    pool: _Pool,
    target: Target,
    matching: Matching,
) -> tuple[Variables, UnlearnInfo]:
    """Run the loop that all matching methods share."""
    denoiser = problem.denoiser
    process = problem.process
    train = jax.tree.map(jnp.asarray, problem.train)
    retained = training_loss(denoiser, process, drop=matching.drop)
    fetch = fetch_from()
    tx = optax.adam(matching.learning_rate)
    batch_size = matching.batch_size

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
        forget_loss = forgetting(variables, batch[0], key_forget)
        return forget_loss + matching.gamma * loss, state

    def step(state: TrainState, key_step: Array) -> tuple[TrainState, Array]:
        key_rows, key_order, key_fetch, key_loss = jax.random.split(key_step, 4)
        rows = jax.random.randint(key_rows, (batch_size,), 0, len(pool.images))
        order = epoch_order(key_order, problem.retain, 1, batch_size)[0]
        batch = (rows, fetch(train, order, key_fetch))
        return train_step(loss_fn, tx, state, batch, key_loss)  # pyright: ignore[reportArgumentType]

    start = TrainState(
        jnp.zeros((), jnp.int32), problem.variables, tx.init(problem.variables.params)
    )
    state, losses = lax.scan(step, start, jax.random.split(key, matching.num_steps))
    num_gradients = jnp.int32(2 * matching.num_steps * batch_size)
    return state.variables, UnlearnInfo(losses, num_gradients)


ERASURES: dict[str, type] = {
    "keep_original": KeepOriginal,
    "retrain_denoiser": RetrainDenoiser,
    "random_condition": RandomCondition,
    "steer_away": SteerAway,
    "latent_adversarial": LatentAdversarial,
}
"""Methods by name."""
