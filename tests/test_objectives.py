"""TRADES and adversarial training against their formulas in NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax import attacks, models, objectives, train
from unlearn_jax.objectives import OBJECTIVES, TRADES, AdversarialTraining
from unlearn_jax.train import Batch
from unlearn_jax.types import InputError, Model, Variables


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def divergence(logits, other):
    log_p, log_q = log_softmax(logits), log_softmax(other)
    return np.sum(np.exp(log_p) * (log_p - log_q), -1)


@pytest.fixture(scope="module")
def model():
    return models.from_functions(
        lambda key: jax.random.normal(key, (16, 3)),
        lambda w, images: images.reshape(len(images), -1) @ w,
    )


@pytest.fixture
def batch(blobs):
    return Batch(
        jnp.asarray(blobs.images[:8]), jnp.asarray(blobs.labels[:8]), jnp.arange(8)
    )


def nearby(weights, images, noise, *, epsilon, step, num_steps, norm):
    """The inner maximization, by hand: ``d KL(p || softmax(x W)) / dx = W (q - p)``."""
    x = images.reshape(len(images), -1).astype(np.float64)
    probs = np.exp(log_softmax(x @ weights))
    z = x + 1e-3 * noise.reshape(x.shape)
    for _ in range(num_steps):
        gradient = (np.exp(log_softmax(z @ weights)) - probs) @ weights.T
        if norm == "linf":
            delta = np.clip(z + step * np.sign(gradient) - x, -epsilon, epsilon)
        else:
            delta = (
                z
                + step * gradient / np.linalg.norm(gradient, axis=-1, keepdims=True)
                - x
            )
            delta *= np.minimum(
                1, epsilon / np.linalg.norm(delta, axis=-1, keepdims=True)
            )
        z = np.clip(x + delta, 0, 1)
    return x, z


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_trades_matches_its_formula(model, batch, key, norm):
    options = {"epsilon": 0.05, "step": 0.02, "num_steps": 4}
    weights = np.random.default_rng(0).normal(size=(16, 3))
    key_start = jax.random.split(jax.random.clone(key), 3)[0]
    noise = np.asarray(jax.random.normal(key_start, batch.images.shape))
    x, z = nearby(weights, np.asarray(batch.images), noise, norm=norm, **options)

    def by_hand(weights):
        own = -log_softmax(x @ weights)[np.arange(8), batch.labels]
        return np.mean(own + 3.0 * divergence(x @ weights, z @ weights))

    loss_fn = TRADES(beta=3.0, norm=norm, **options)(model)
    variables = Variables(jnp.asarray(weights, jnp.float32), {})
    (loss, _), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
        variables, batch, key
    )
    np.testing.assert_allclose(loss, by_hand(weights), rtol=1e-4)
    for i, j in (
        (0, 0),
        (7, 1),
        (15, 2),
    ):  # x' stays where it is, both arguments of the divergence move
        nudge = np.zeros_like(weights)
        nudge[i, j] = 1e-5
        slope = (by_hand(weights + nudge) - by_hand(weights - nudge)) / 2e-5
        np.testing.assert_allclose(gradient.params[i, j], slope, rtol=2e-3, atol=1e-5)
    plain = np.mean(-log_softmax(x @ weights)[np.arange(8), batch.labels])
    assert by_hand(weights) > plain + 1e-3, "the divergence must matter here"


def test_trades_without_weight_is_cross_entropy(model, batch, key):
    variables = model.init(jax.random.key(3))
    k_a, k_b = jax.random.split(key)
    value = lambda loss_fn, k: jax.value_and_grad(loss_fn, has_aux=True)(
        variables, batch, k
    )
    (loss, _), gradient = value(TRADES(beta=0.0, num_steps=1)(model), k_a)
    (other, _), expected = value(OBJECTIVES["cross_entropy"]()(model), k_b)
    np.testing.assert_allclose(loss, other, rtol=1e-6)
    chex.assert_trees_all_close(gradient, expected, rtol=1e-5, atol=1e-7)


def test_trades_trains_on_the_clean_then_the_adversarial_batch(model, batch, key):
    """A model whose state keeps the last two batches that passed in training mode."""

    def apply_train(variables, images, key):
        return model.apply(variables, images), {
            "seen": jnp.stack([variables.state["seen"][1], images])
        }

    watched = Model(model.init, model.apply, apply_train)
    seen = jnp.zeros((2, *batch.images.shape))
    variables = model.init(jax.random.key(3))._replace(state={"seen": seen})
    _, state = TRADES(epsilon=0.2, step=0.1, num_steps=2)(watched)(
        variables, batch, key
    )
    clean, near = np.asarray(state["seen"])
    np.testing.assert_array_equal(clean, batch.images)
    assert 0.1 < np.max(np.abs(near - clean)) <= 0.2
    assert near.min() >= 0
    assert near.max() <= 1


def test_noise_without_steps_stays_in_the_image_box(model, batch, key):
    """A black image: half of the noise would be negative."""
    seen = []

    def apply_train(variables, images, key):
        seen.append(images)
        return model.apply(variables, images), {}

    watched = Model(model.init, model.apply, apply_train)
    black = batch._replace(images=jnp.zeros_like(batch.images))
    TRADES(num_steps=0)(watched)(model.init(jax.random.key(3)), black, key)
    near = np.asarray(seen[1])
    assert near.min() == 0
    assert 1e-3 < near.max() < 1e-2
    assert 0.3 < np.mean(near == 0) < 0.7


def test_equal_objectives_give_the_same_function(model):
    assert TRADES(beta=2.0)(model) is TRADES(beta=2)(model)
    assert TRADES(beta=2.0)(model) is not TRADES(beta=3.0)(model)
    assert AdversarialTraining(step=0.1)(model) is OBJECTIVES["adversarial"](step=0.1)(
        model
    )
    halves = (jnp.array(0.5), np.float32(0.5), np.array(0.5))
    assert {TRADES(beta=half)(model) for half in halves} == {TRADES(beta=0.5)(model)}
    assert TRADES(norm="l2")(model) is not TRADES(norm="linf")(model)
    assert objectives.CrossEntropy()(model) is train.cross_entropy_loss(model)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_adversarial_training_matches_its_formula(model, batch, key, norm):
    """PGD on cross-entropy by hand, with ``d CE / dx = W (p - onehot)``."""
    options = {"epsilon": 0.2, "num_steps": 4, "step": 0.07}
    weights = np.asarray(model.init(jax.random.key(3)).params, np.float64)
    start = attacks.random_start(
        jax.random.split(jax.random.clone(key))[0],
        batch.images,
        epsilon=0.2,
        norm=getattr(attacks, norm),
    )
    x, z = (np.asarray(a, np.float64).reshape(8, -1) for a in (batch.images, start))
    truth = np.eye(3)[batch.labels]
    for _ in range(4):
        gradient = (np.exp(log_softmax(z @ weights)) - truth) @ weights.T
        if norm == "linf":
            delta = np.clip(z + 0.07 * np.sign(gradient) - x, -0.2, 0.2)
        else:
            delta = (
                z
                + 0.07 * gradient / np.linalg.norm(gradient, axis=-1, keepdims=True)
                - x
            )
            delta *= np.minimum(1, 0.2 / np.linalg.norm(delta, axis=-1, keepdims=True))
        z = np.clip(x + delta, 0, 1)
    variables = Variables(jnp.asarray(weights, jnp.float32), {})
    loss_fn = AdversarialTraining(norm=norm, **options)(model)
    (loss, _), found = jax.value_and_grad(loss_fn, has_aux=True)(variables, batch, key)
    by_hand = np.mean(-log_softmax(z @ weights)[np.arange(8), batch.labels])
    np.testing.assert_allclose(loss, by_hand, rtol=1e-4)
    slope = z.T @ (np.exp(log_softmax(z @ weights)) - truth) / 8
    np.testing.assert_allclose(found.params, slope, rtol=2e-3, atol=1e-5)
    clean = np.mean(-log_softmax(x @ weights)[np.arange(8), batch.labels])
    assert by_hand > clean + 0.1, "the attack must matter here"


def test_adversarial_training_trains_on_the_adversarial_batch_alone(model, batch, key):
    seen = []

    def apply_train(variables, images, key):
        seen.append(np.asarray(images))
        return model.apply(variables, images), {"passes": len(seen)}

    watched = Model(model.init, model.apply, apply_train)
    _, state = AdversarialTraining(epsilon=0.2, step=0.1, num_steps=2)(watched)(
        model.init(jax.random.key(3)), batch, key
    )
    assert state == {"passes": 1}
    assert 0.1 < np.max(np.abs(seen[0] - batch.images)) <= 0.2
    assert seen[0].min() >= 0
    assert seen[0].max() <= 1


def test_adversarial_training_without_radius_is_cross_entropy(model, batch, key):
    variables = model.init(jax.random.key(3))
    k_a, k_b = jax.random.split(key)
    loss, _ = OBJECTIVES["adversarial"](epsilon=0.0, num_steps=1)(model)(
        variables, batch, k_a
    )
    np.testing.assert_allclose(
        loss, OBJECTIVES["cross_entropy"]()(model)(variables, batch, k_b)[0], rtol=1e-6
    )


def test_trades_makes_predictions_stable(tiny, blobs, key):
    recipe = train.Recipe(num_epochs=12, batch_size=20, tx=train.sgd(0.1))
    shaken = np.clip(
        blobs.images + np.random.default_rng(1).choice([-0.1, 0.1], blobs.images.shape),
        0,
        1,
    )

    def instability(loss_fn):
        state, losses = train.fit(
            jax.random.clone(key),
            tiny,
            blobs,
            np.ones(60, bool),
            recipe,
            loss_fn=loss_fn,
            epochs_per_call=12,
        )
        assert losses[-1] < losses[0]
        clean, moved = (
            np.asarray(tiny.apply(state.variables, x))
            for x in (blobs.images, shaken.astype("f4"))
        )
        return divergence(clean, moved).mean()

    assert instability(
        TRADES(epsilon=0.1, step=0.03, num_steps=5)(tiny)
    ) < 0.7 * instability(None)


def test_unusable_fields_are_refused():
    for objective, options in (
        (TRADES, {"beta": -1.0}),
        (TRADES, {"epsilon": np.nan}),
        (AdversarialTraining, {"step": np.inf}),
    ):
        with pytest.raises(InputError, match="must be finite and not negative"):
            objective(**options)
    with pytest.raises(InputError, match="num_steps must be an integer, 0 or more"):
        AdversarialTraining(num_steps=-1)
