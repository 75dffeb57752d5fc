"""Latent attacks and erasure on denoisers of known answer: classes of single images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn_jax.contrib import diffusion
from unlearn_jax.models.denoiser import Denoiser, build_denoiser
from unlearn_jax.types import Dataset, InputError, Status, Variables
from unlearn_jax.values import from_json, replace, to_json

PROCESS = diffusion.Process(num_steps=40)
MEANS = jnp.array(
    [[0.5, 0.5, 0.0], [-0.5, 0.4, 0.1], [0.1, -0.6, 0.3], [0.0, 0.1, 0.1]]
)
"""Conditions, which are the images they draw: three classes, and none last."""


def _predict(variables, noised, signal, condition):
    del variables
    signal = signal.reshape(-1, 1, 1, 1)
    return (noised - signal * condition.reshape(noised.shape)) / jnp.sqrt(1 - signal**2)


POINTS = Denoiser(
    image_shape=(1, 3, 1),
    num_classes=3,
    init=lambda key: Variables(MEANS, {}),
    embed=lambda variables, labels: variables.params[labels],
    predict=_predict,
)
"""Its denoising loss is ``s^2 / (1 - s^2) |x - condition|^2 / D`` for any noise."""
START = Variables(MEANS, {})
SEARCH = diffusion.LatentPGD(radius=0.05, num_radii=6, num_steps=25)


def near(mean, away, *, seed=0, count=12):
    """Images ``[count, 1, 3, 1]`` at distance ``away`` (as signals) from a mean."""
    rng = np.random.default_rng(seed)
    step = rng.normal(size=(count, 3))
    step *= away / np.linalg.norm(step, axis=1, keepdims=True)
    return jnp.asarray((np.asarray(mean) + step + 1) / 2, jnp.float32).reshape(
        count, 1, 3, 1
    )


def test_class_losses_follow_the_distance_to_each_mean(key):
    images = near(MEANS[0], 0.3)
    run = jax.jit(
        lambda key: diffusion.class_losses(
            key, POINTS, START, PROCESS, images, num_levels=4
        )
    )
    losses = np.asarray(run(key))
    distance = np.array(
        [
            [np.sum((np.asarray(x).ravel() * 2 - 1 - m) ** 2) for m in MEANS[:3]]
            for x in images
        ]
    )
    steps = [int((k + 0.5) / 4 * 40) for k in range(4)]
    factor = (
        np.mean([PROCESS.signal[t] ** 2 / (1 - PROCESS.signal[t] ** 2) for t in steps])
        / 3
    )
    np.testing.assert_allclose(losses, factor * distance, rtol=2e-3)


@jax.jit
def attacked(images, concept):
    judge = diffusion.denoising_judge(
        jax.random.key(1), POINTS, START, PROCESS, images, concept
    )
    return diffusion.latent_attack(judge, concept, (12, 3), SEARCH)


@settings(max_examples=8, deadline=None)
@given(st.floats(0.05, 0.3), st.integers(0, 2))
def test_attack_finds_the_smallest_radius_that_leaves_the_concept(away, concept):
    images = near(MEANS[concept], away)
    found = attacked(images, jnp.int32(concept))
    others = [m for c, m in enumerate(np.asarray(MEANS[:3])) if c != concept]
    x = np.asarray(images).reshape(12, 3) * 2 - 1
    second = np.min([np.linalg.norm(x - m, axis=1) for m in others], axis=0)
    need = second - away  # straight away from the image
    assert (np.asarray(found.status) == Status.FOUND).all()
    assert (np.asarray(found.distance) <= np.asarray(found.epsilon)).all()
    assert (np.asarray(found.distance) >= need - 1e-4).all()
    radii = 0.05 * 2.0 ** np.arange(6)
    np.testing.assert_allclose(
        found.epsilon, [radii[radii > n][0] for n in need], rtol=1e-6
    )
    moved = np.linalg.norm(
        x - np.asarray(MEANS[concept]) - np.asarray(found.delta), axis=1
    )
    assert (moved >= second - 1e-4).all()
    distances = np.linalg.norm(x[None] - np.asarray(MEANS[:3])[:, None], axis=-1)
    distances[concept] = np.inf
    nearest = np.argmin(distances, axis=0)
    np.testing.assert_array_equal(found.labels, nearest)


def test_attack_reports_images_without_success():
    images = jnp.concatenate(
        [
            near(MEANS[0], 0.1, count=2),
            near(MEANS[1], 0.1, count=1),
            near(MEANS[0], 0.0, count=1),
        ]
    )

    @jax.jit
    def run(key):
        judge = diffusion.denoising_judge(key, POINTS, START, PROCESS, images, 0)
        short = diffusion.LatentPGD(radius=0.01, num_radii=2, num_steps=3)
        return diffusion.latent_attack(judge, 0, (4, 3), short)

    found = run(jax.random.key(1))
    assert found.status[:3].tolist() == [
        Status.NOT_FOUND,
        Status.NOT_FOUND,
        Status.ALREADY_WRONG,
    ]
    assert found.status[3] != Status.FOUND
    assert found.labels[:3].tolist() == [0, 0, 1]
    assert found.distance[2] == 0
    assert found.epsilon.tolist()[:3] == pytest.approx([0.02, 0.02, 0.0])


def test_external_judge_classifies_the_conditions_image(key):
    def classify(images):
        gaps = diffusion.to_signal(images).reshape(len(images), 1, 3) - MEANS[
            :3
        ].reshape(1, 3, 3)
        return -10 * jnp.sum(gaps**2, -1)

    images = near(MEANS[0], 0.3)
    delta = jnp.tile((MEANS[2] - MEANS[0]).reshape(1, 3), (12, 1))

    @jax.jit
    def run(key):
        judge = diffusion.external_judge(
            key, POINTS, START, PROCESS, images, 0, classify, num_levels=3
        )
        expected = jax.nn.log_softmax(
            classify(diffusion.to_images(MEANS[2]).reshape(1, 1, 3, 1))
        )
        return (
            judge(delta),
            expected,
            diffusion.latent_attack(
                judge, 0, (12, 3), diffusion.LatentPGD(num_radii=4)
            ),
        )

    judged, expected, found = run(key)
    np.testing.assert_allclose(judged, np.tile(expected, (12, 1)), rtol=1e-3, atol=1e-3)
    middle = min(float(jnp.linalg.norm(MEANS[0] - MEANS[c])) / 2 for c in (1, 2))
    assert (np.asarray(found.status) == Status.FOUND).all()
    assert middle - 1e-4 <= float(found.distance.min())
    assert float(found.distance.max()) < 1.2 * middle


@jax.jit
def recovered(images, radius):
    return diffusion.recover_concept(
        jax.random.key(3), POINTS, START, PROCESS, images, 0, radius=radius
    )


@settings(max_examples=6, deadline=None)
@given(st.sampled_from([0.0, 0.05, 0.3, 2.0]))
def test_recovery_stays_in_its_ball_and_finds_the_best_point_there(radius):
    images = near(MEANS[2], 0.2, count=64)
    delta = np.asarray(recovered(images, jnp.float32(radius)))
    assert np.linalg.norm(delta) <= radius
    goal = np.asarray(images).reshape(64, 3).mean(0) * 2 - 1 - np.asarray(MEANS[0])
    best = goal * min(1.0, radius / np.linalg.norm(goal))
    np.testing.assert_allclose(delta, best, atol=0.05)


def points_problem(concept=0):
    images = np.concatenate(
        [near(m, 0.1, seed=c, count=20) for c, m in enumerate(np.asarray(MEANS[:3]))]
    )
    train = Dataset(
        jnp.asarray(images), jnp.asarray(np.arange(3, dtype=np.int32).repeat(20))
    )
    return diffusion.ConceptProblem(POINTS, PROCESS, START, train, jnp.int32(concept))


MATCH = {
    "gamma": 0.0,
    "num_steps": 150,
    "learning_rate": 0.02,
    "batch_size": 16,
    "pool_size": 20,
}


def forgotten(method, *arguments):
    variables, info = jax.jit(method)(*arguments)
    assert info.losses.shape == (150,)
    np.testing.assert_array_equal(
        variables.params[1:], MEANS[1:]
    )  # gamma is 0: nothing else moves
    return np.asarray(variables.params[0])


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_steering_moves_to_the_empty_condition_and_beyond(key, eta):
    target = (1 + eta) * MEANS[3] - eta * MEANS[0]
    np.testing.assert_allclose(
        forgotten(diffusion.SteerAway(eta=eta, **MATCH), key, points_problem()),
        target,
        atol=0.02,
    )


def test_random_conditions_move_to_the_mean_of_the_others(key):
    moved = forgotten(diffusion.RandomCondition(**MATCH), key, points_problem())
    np.testing.assert_allclose(moved, (MEANS[1] + MEANS[2]) / 2, atol=0.2)


def test_latent_method_moves_to_the_border_and_beyond(key):
    problem = points_problem()
    x = np.asarray(problem.train.images[:20]).reshape(20, 3) * 2 - 1
    away = x - np.asarray(MEANS[0])
    second = np.min(
        [np.linalg.norm(x - np.asarray(m), axis=1) for m in MEANS[1:3]], axis=0
    )
    # Straight away from each image, until another mean is nearer.
    delta = -away / 0.1 * (second - 0.1).reshape(-1, 1)
    method = jax.jit(
        lambda past, key, problem: diffusion.LatentAdversarial(
            overshoot=past, attack=SEARCH, **MATCH
        )(key, problem)
    )
    for past in (1.0, 2.0):
        target = np.asarray(MEANS[0]) + past * delta.mean(0)
        np.testing.assert_allclose(
            forgotten(method, past, jax.random.clone(key), problem),
            target,
            atol=0.15 * past,
        )
    # Where the judge sees another class in every image there is nothing to match.
    strange = Dataset(jnp.roll(problem.train.images, -20, 0), problem.train.labels)
    unseen = diffusion.ConceptProblem(POINTS, PROCESS, START, strange, problem.concept)
    np.testing.assert_array_equal(
        forgotten(method, 1.0, jax.random.clone(key), unseen), MEANS[0]
    )
    second_class = 1 + np.argmin(
        [np.linalg.norm(x - np.asarray(m), axis=1) for m in MEANS[1:3]], axis=0
    )
    method = diffusion.LatentAdversarial(goal="class", attack=SEARCH, **MATCH)
    target = np.asarray(MEANS)[second_class].mean(0)
    np.testing.assert_allclose(
        forgotten(method, jax.random.clone(key), problem), target, atol=0.2
    )


NET = build_denoiser((4, 4, 1), 3, width=8, depth=1, embedding=4)
QUICK = {"num_steps": 4, "batch_size": 8, "pool_size": 6}
ATTACK = diffusion.LatentPGD(num_radii=2, num_steps=2)
# Method, reads images of the concept, of others; the first three run on a network.
CASES = {
    "original": (diffusion.KeepOriginal(), False, False),
    "retrain": (
        diffusion.RetrainDenoiser(
            num_epochs=30, num_batches=4, batch_size=20, learning_rate=0.01
        ),
        False,
        True,
    ),
    "random_label": (diffusion.RandomCondition(**QUICK), True, True),
    "steer": (diffusion.SteerAway(**QUICK), False, True),
    "latent": (
        diffusion.LatentAdversarial(num_levels=2, attack=ATTACK, **QUICK),
        True,
        True,
    ),
    "latent, random": (
        diffusion.LatentAdversarial(
            num_levels=2, attack=ATTACK, source="samples", direction="random", **QUICK
        ),
        False,
        True,
    ),
}


@pytest.fixture(scope="module")
def net_problem(blobs):
    variables = jax.jit(NET.init)(jax.random.key(5))
    images = blobs.images[blobs.labels]  # one image per class
    train = Dataset(jnp.asarray(images), jnp.asarray(blobs.labels))
    return diffusion.ConceptProblem(
        NET, diffusion.Process(num_steps=30), variables, train, jnp.int32(1)
    )


def poisoned(problem, rows):
    images = jnp.where(rows.reshape(-1, 1, 1, 1), jnp.nan, problem.train.images)
    return diffusion.ConceptProblem(
        problem.denoiser,
        problem.process,
        problem.variables,
        Dataset(images, problem.train.labels),
        problem.concept,
    )


@pytest.mark.parametrize("name", CASES)
def test_methods_are_pure_and_read_only_documented_images(name, key, net_problem):
    method, reads_concept, reads_others = CASES[name]
    problem = net_problem if name in list(CASES)[:3] else points_problem(1)
    run = jax.jit(method)
    variables, info = run(key, problem)
    same = lambda a, b: all(
        np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
    )
    assert np.isfinite(info.losses).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))
    assert same(variables, run(jax.random.clone(key), problem)[0])
    assert same(variables, problem.variables) == (name == "original")
    assert same(variables, run(jax.random.key(9), problem)[0]) == (name == "original")
    for rows, read in (
        (~problem.retain, reads_concept),
        (problem.retain, reads_others),
    ):
        changed, _ = run(jax.random.clone(key), poisoned(problem, rows))
        assert same(variables, changed) == (not read), rows


def test_retraining_learns_and_keeps_the_concepts_initial_vector(key, net_problem):
    variables, info = jax.jit(CASES["retrain"][0])(key, net_problem)
    assert info.losses.shape == (30,)
    assert info.losses[-10:].mean() < 0.85 * info.losses[0]
    assert info.num_gradients == 30 * 4 * 20
    fresh = jax.jit(NET.init)(jax.random.split(jax.random.clone(key))[0])
    moved = np.any(
        np.asarray(
            variables.params["classes"]["embedding"]
            != fresh.params["classes"]["embedding"]
        ),
        1,
    )
    assert moved[[0, 2]].all()
    assert not moved[1]


def test_methods_map_over_problems(key):
    method, problem = (
        diffusion.RandomCondition(**{**MATCH, "num_steps": 3}),
        points_problem(),
    )

    def one(item):
        data, concept = item
        key = jax.random.wrap_key_data(data)
        return method(
            key,
            diffusion.ConceptProblem(POINTS, PROCESS, START, problem.train, concept),
        )[0].params

    data, concepts = (
        jax.random.key_data(jax.random.split(key, 2)),
        jnp.array([0, 2], jnp.int32),
    )
    run = jax.jit(lambda items: jax.lax.map(one, items))
    mapped = run((data, concepts))
    np.testing.assert_array_equal(run((data[::-1], concepts[::-1])), mapped[::-1])
    assert np.any(np.asarray(mapped) != np.asarray(MEANS), -1).tolist() == [
        [True, False, False, False],
        [False, False, True, False],
    ]


def on_images(run, *arguments, images=None, **options):
    images = near(MEANS[0], 0.1) if images is None else images
    start = (jax.random.key(0), POINTS, START, PROCESS, images)
    return run(*start, *arguments, **options)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: diffusion.RandomCondition(source="web"), "unknown source"),
        (lambda: diffusion.LatentAdversarial(direction="up"), "unknown direction"),
        (lambda: diffusion.LatentAdversarial(goal="none"), "unknown goal"),
        (lambda: diffusion.LatentAdversarial(overshoot=-1.0), "overshoot"),
        (lambda: diffusion.SteerAway(eta=-1.0), "eta"),
        (lambda: diffusion.SteerAway(gamma=float("nan")), "gamma"),
        (lambda: diffusion.SteerAway(num_steps=0), "a positive integer"),
        (lambda: diffusion.LatentPGD(radius=0.0), "must be positive"),
        (lambda: on_images(diffusion.class_losses, num_levels=0), "num_levels"),
        (
            lambda: on_images(diffusion.class_losses, images=jnp.zeros((1, 2, 2, 1))),
            "takes images of shape",
        ),
        (
            lambda: on_images(diffusion.recover_concept, 0, radius=1.0, num_steps=0),
            "a positive integer",
        ),
    ],
)
def test_unusable_input_is_refused_in_one_line(call, words):
    with pytest.raises(InputError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_equal_methods_are_equal_values_and_rates_map(key):
    method = diffusion.RandomCondition(**MATCH)
    assert method == diffusion.RandomCondition(**MATCH) != diffusion.SteerAway(**MATCH)
    assert hash(method) == hash(diffusion.RandomCondition(**MATCH))
    assert from_json(to_json(method)) == method
    problem = points_problem()

    def moved(rate):
        faster = replace(method, learning_rate=rate, num_steps=3)
        return faster(jax.random.clone(key), problem)[0].params

    rates = jnp.array([0.01, 0.02])
    mapped = jax.jit(jax.vmap(moved))(rates)
    np.testing.assert_allclose(mapped[1], jax.jit(moved)(0.02), atol=1e-6)
    assert np.abs(mapped[0] - mapped[1]).max() > 1e-3


@pytest.mark.parametrize(
    "method",
    [
        diffusion.RandomCondition(**QUICK),
        diffusion.SteerAway(**QUICK),
        diffusion.LatentAdversarial(num_levels=2, attack=ATTACK, **QUICK),
        diffusion.RetrainDenoiser(num_epochs=1, num_batches=2),
    ],
)
def test_methods_take_numpy_data_and_short_processes(method, key):
    problem = points_problem()
    train = jax.tree.map(np.asarray, problem.train)
    problem = diffusion.ConceptProblem(
        POINTS, diffusion.Process(num_steps=10), START, train, problem.concept
    )
    _, info = jax.jit(lambda key: method(key, problem))(key)
    assert np.isfinite(info.losses).all()


def test_recovery_takes_numpy_images():
    images = np.asarray(near(MEANS[2], 0.2))
    delta = on_images(
        diffusion.recover_concept, 0, images=images, radius=1.0, num_steps=2
    )
    assert np.isfinite(delta).all()


def test_noise_of_another_shape_is_refused():
    with pytest.raises(AssertionError):
        diffusion.add_noise(jnp.ones((2, 3)), jnp.ones(2), jnp.ones((2, 1)))
