"""Schedules, noising, loss and sampler match written-out formulas and Gaussians."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn_jax.contrib import diffusion
from unlearn_jax.models.denoiser import Denoiser, build_denoiser
from unlearn_jax.train import Batch
from unlearn_jax.types import Dataset, InputError, Variables

TINY = build_denoiser((4, 4, 1), 3, width=16, depth=1, embedding=8)
PROCESS = diffusion.Process(num_steps=50)


def gaussian(means, variance):
    """The exact denoiser of pixels ``N(mean, variance)``; the last mean is none's."""

    def predict(variables, noised, signal, condition):
        del variables
        signal = signal.reshape(-1, 1, 1, 1)
        spread = signal**2 * variance + 1 - signal**2
        return (
            jnp.sqrt(1 - signal**2)
            * (noised - signal * condition.reshape(-1, 1, 1, 1))
            / spread
        )

    return Denoiser(
        image_shape=(1, 1, 1),
        num_classes=len(means) - 1,
        init=lambda key: Variables(jnp.asarray(means, jnp.float32).reshape(-1, 1), {}),
        embed=lambda variables, labels: variables.params[labels],
        predict=predict,
    )


def test_linear_schedule_is_the_product_of_its_betas():
    product, expected = 1.0, []
    for t in range(1000):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * t / 999)
        expected.append(math.sqrt(max(product, 1e-4)))
    np.testing.assert_allclose(
        diffusion.Process(num_steps=1000, schedule="linear").signal, expected, rtol=3e-2
    )  # less the floor
    np.testing.assert_allclose(
        diffusion.Process(num_steps=1000, schedule="linear").signal[:900],
        expected[:900],
        rtol=1e-6,
    )


def test_cosine_schedule_matches_its_curve():
    start = math.cos(0.008 / 1.008 * math.pi / 2)
    expected = [
        math.cos((t / 200 + 0.008) / 1.008 * math.pi / 2) / start for t in range(1, 201)
    ]
    np.testing.assert_allclose(
        diffusion.Process(num_steps=200).signal[:-2], expected[:-2], rtol=1e-5
    )


@pytest.mark.parametrize(
    "process",
    [
        diffusion.Process(num_steps=2),
        diffusion.Process(num_steps=1000),
        diffusion.Process(num_steps=40, schedule="linear"),
    ],
)
def test_signals_decrease_and_keep_their_digits(process):
    signal = process.signal
    assert signal.shape == (process.num_steps,)
    assert signal.dtype == np.float32
    assert (np.diff(signal) < 0).all()
    assert signal[0] < 1
    assert signal[-1] >= 0.01


@settings(max_examples=15, deadline=None)
@given(st.floats(0.01, 0.999), st.floats(-1, 1), st.floats(-3, 3))
def test_noise_and_estimate_are_inverse(level, value, noise):
    x, signal, eps = (
        jnp.full((1, 2, 2, 1), value),
        jnp.array([level]),
        jnp.full((1, 2, 2, 1), noise),
    )
    noised = diffusion.add_noise(x, signal, eps)
    np.testing.assert_allclose(
        noised, level * value + math.sqrt(1 - level**2) * noise, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        diffusion.clean_estimate(noised, signal, eps), x, atol=5e-5 / level
    )


def test_images_and_signals_convert_both_ways():
    images = jnp.linspace(0, 1, 5)
    np.testing.assert_allclose(diffusion.to_signal(images), [-1, -0.5, 0, 0.5, 1])
    np.testing.assert_allclose(diffusion.to_images(diffusion.to_signal(images)), images)
    np.testing.assert_allclose(diffusion.to_images(jnp.array([-3.0, 3.0])), [0, 1])


def test_denoising_loss_equals_a_loop():
    rng = np.random.default_rng(0)
    x, noise = rng.uniform(-1, 1, (3, 1, 1, 1)), rng.normal(size=(3, 1, 1, 1))
    signal, labels, means = [0.2, 0.6, 0.95], [0, 1, 2], [-0.5, 0.3, 0.0]
    toy = gaussian(means, 0.2)
    expected = []
    for value, eps, s, c in zip(x.ravel(), noise.ravel(), signal, labels, strict=True):
        noised = s * value + math.sqrt(1 - s**2) * eps
        guess = math.sqrt(1 - s**2) * (noised - s * means[c]) / (s**2 * 0.2 + 1 - s**2)
        expected.append((eps - guess) ** 2)
    variables = toy.init(jax.random.key(0))
    arguments = (
        jnp.asarray(x, jnp.float32),
        jnp.asarray(signal),
        jnp.asarray(noise, jnp.float32),
    )
    condition = toy.embed(variables, jnp.array(labels))
    np.testing.assert_allclose(
        diffusion.denoising_losses(toy, variables, *arguments, condition),
        expected,
        rtol=1e-4,
    )


def test_fresh_network_predicts_its_input_as_noise(key):
    variables = jax.jit(TINY.init)(key)
    noised, signal = jnp.ones((2, 4, 4, 1)), jnp.array([0.6, 0.8])
    run = jax.jit(
        lambda v: TINY.predict(v, noised, signal, TINY.embed(v, jnp.array([0, 3])))
    )
    predicted = run(variables)
    np.testing.assert_allclose(
        predicted[:, 0, 0, 0], [0.8, 0.6], rtol=1e-6
    )  # its velocity is 0 at first


@pytest.mark.parametrize(
    ("drop", "moved"),
    [(0.0, [True, True, False, False]), (1.0, [False, False, False, True])],
)
def test_dropped_labels_train_the_empty_condition_only(key, drop, moved):
    toy = gaussian([0.5, -0.5, 0.2, 0.0], 0.1)
    loss_fn = diffusion.training_loss(toy, PROCESS, drop=drop)
    batch = Batch(
        jnp.asarray(np.linspace(0, 1, 8, dtype=np.float32).reshape(8, 1, 1, 1)),
        jnp.arange(8) % 2,
        jnp.arange(8),
    )
    gradient = jax.jit(
        jax.grad(lambda means: loss_fn(Variables(means, {}), batch, key)[0])
    )(toy.init(key).params)
    assert (np.abs(gradient[:, 0]) > 0).tolist() == moved


@pytest.mark.parametrize(("eta", "guidance"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.5)])
def test_sampler_draws_from_the_denoisers_gaussian(key, eta, guidance):
    means, variance = [0.8, -0.4, 0.2], 0.09
    toy, process = gaussian(means, variance), diffusion.Process(num_steps=200)
    variables = toy.init(jax.random.key(0))
    condition = toy.embed(variables, jnp.arange(2).repeat(3000))
    options = {"guidance": guidance, "num_steps": 200, "eta": eta, "clip": False}
    run = jax.jit(
        lambda key: diffusion.sample(key, toy, variables, process, condition, **options)
    )
    drawn = np.asarray(run(key)).reshape(2, 3000)
    for c in range(2):
        # Guidance between Gaussians of one variance gives one, around the mean beyond.
        mean = (1 + guidance) * means[c] - guidance * means[2]
        assert drawn[c].mean() == pytest.approx(
            mean, abs=4 * 0.3 / math.sqrt(3000) + 0.005
        )
        assert drawn[c].std() == pytest.approx(0.3, rel=0.06)
    np.testing.assert_array_equal(run(jax.random.clone(key)).ravel(), drawn.ravel())


def test_ddim_matches_the_written_out_recursion(key):
    toy, process = gaussian([0.5, 0.0], 4.0), diffusion.Process(num_steps=30)
    variables = toy.init(jax.random.key(0))
    condition = toy.embed(variables, jnp.zeros(4, int))
    # one step from T: the estimate of x itself, an affine function of the first noise;
    # more steps compose
    one, many = (
        np.asarray(
            diffusion.sample(
                jax.random.clone(key),
                toy,
                variables,
                process,
                condition,
                num_steps=n,
                clip=False,
            )
        ).ravel()
        for n in (1, 30)
    )
    top = float(process.signal[-1])
    gain = top * 4.0 / (top**2 * 4.0 + 1 - top**2)
    first = (one - 0.5) / gain + top * 0.5
    x = first
    for s, after in zip(
        process.signal[::-1], [*process.signal[-2::-1], 1.0], strict=True
    ):
        s, after = float(s), float(after)
        eps = math.sqrt(1 - s**2) * (x - s * 0.5) / (s**2 * 4.0 + 1 - s**2)
        x = after * (x - math.sqrt(1 - s**2) * eps) / s + math.sqrt(1 - after**2) * eps
    np.testing.assert_allclose(many, x, rtol=1e-3, atol=2e-3)


def test_clipping_keeps_samples_in_range(key):
    toy = gaussian([5.0, 0.0], 0.04)
    variables = toy.init(jax.random.key(0))
    drawn = diffusion.sample(
        key,
        toy,
        variables,
        diffusion.Process(num_steps=30),
        jnp.full((50, 1), 5.0),
        num_steps=10,
    )
    np.testing.assert_allclose(drawn, 1.0, atol=1e-5)


def test_frechet_distance_between_gaussians_of_known_moments():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4000, 3)) * [1.0, 2.0, 0.5]
    b = rng.normal(size=(4000, 3)) * [2.0, 2.0, 0.5] + [3.0, 0.0, 0.0]
    assert diffusion.frechet_distance(a, b) == pytest.approx(
        9 + 1, rel=0.05
    )  # |mu|^2 + (2 - 1)^2
    assert diffusion.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    turned = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    assert diffusion.frechet_distance(a @ turned, b @ turned) == pytest.approx(
        diffusion.frechet_distance(a, b)
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: diffusion.Process(num_steps=1), "at least 2 steps"),
        (
            lambda: diffusion.Process(num_steps=10, schedule="linear"),
            "at least 21 steps",
        ),
        (
            lambda: diffusion.Process(num_steps=10, schedule="square"),
            "unknown schedule",
        ),  # pyright: ignore[reportArgumentType]
        (
            lambda: diffusion.training_loss(
                TINY, diffusion.Process(num_steps=10), drop=2.0
            ),
            "drop must be in",
        ),
        (lambda: build_denoiser((4, 4, 1), 1), "at least 2 classes"),
        (lambda: build_denoiser((4, 4, 1), 3, width=15), "even width"),
        (lambda: build_denoiser((4, 4), 3), "image shape"),
        (lambda: build_denoiser(4, 3), "image_shape must be a sequence"),
        (lambda: build_denoiser((4, 4, 1), 3, width="a"), "width must be a positive"),
        (lambda: build_denoiser((4, 4, 1), 3, depth=1.5), "depth must be a positive"),
        (
            lambda: diffusion.frechet_distance([[1.0]], [[1.0], [2.0]]),
            "at least 2 rows",
        ),
        (lambda: diffusion.frechet_distance([[1.0], [np.nan]], [[1.0], [2.0]]), "NaN"),
        (lambda: diffusion.concept_rate([0.5], 3), "one class index"),
    ],
)
def test_unusable_input_is_refused_in_one_line(call, words):
    with pytest.raises(InputError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"num_steps": 0}, {"num_steps": 51}, {"eta": 2.0}, {"guidance": -1.0}]
)
def test_sampler_refuses_meaningless_options(key, options):
    variables = jax.eval_shape(TINY.init, key)
    with pytest.raises(InputError, match=r"num_steps|eta|guidance"):
        diffusion.sample(key, TINY, variables, PROCESS, jnp.zeros((1, 8)), **options)


def test_training_refuses_images_of_another_shape(key):
    data = Dataset(jnp.zeros((4, 8, 8, 1)), jnp.zeros(4, jnp.int32))
    with pytest.raises(InputError, match="takes images of shape"):
        diffusion.train_denoiser(
            key,
            TINY,
            diffusion.Process(num_steps=50),
            data,
            jnp.ones(4, bool),
            num_epochs=1,
        )
    with pytest.raises(InputError, match=r"must be (a )?positive"):
        diffusion.train_denoiser(
            key,
            TINY,
            diffusion.Process(num_steps=50),
            data,
            jnp.ones(4, bool),
            num_epochs=0,
        )
