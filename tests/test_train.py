"""Training: the order of samples, the step against a hand-written one, resuming, and
refusing what diverges.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unlearn_jax import replicas, train
from unlearn_jax.data import crop_flip
from unlearn_jax.types import Dataset, DivergedError, InputError

RECIPE = train.Recipe(num_epochs=6, batch_size=16, tx=train.sgd(0.1))


def some(num, chosen):
    mask = np.zeros(num, bool)
    mask[list(chosen)] = True
    return mask


@pytest.mark.parametrize(
    ("members", "batch", "batches"), [(60, 16, 4), (23, 8, 3), (5, 8, 1), (1, 4, 2)]
)
def test_epoch_order_visits_members_only(members, batch, batches, key):
    mask = some(60, np.random.default_rng(members).choice(60, members, replace=False))
    order = np.asarray(train.epoch_order(key, jnp.asarray(mask), batches, batch))
    assert order.shape == (batches, batch)
    assert mask[order].all()
    counts = np.bincount(order.ravel(), minlength=60)[mask]
    assert counts.min() >= 1
    assert counts.max() - counts.min() <= 1


def test_epoch_order_is_uniform():
    mask = jnp.asarray(some(10, range(4)))
    orders = jax.vmap(lambda k: train.epoch_order(k, mask, 1, 4)[0])(
        jax.random.split(jax.random.key(0), 4000)
    )
    first = np.bincount(np.asarray(orders)[:, 0], minlength=4) / 4000
    np.testing.assert_allclose(first[:4], 0.25, atol=0.03)
    assert len(np.unique(np.asarray(orders), axis=0)) == 24


def test_step_equals_torch_style_sgd(tiny, blobs, key, tiny_variables):
    k_step, _ = jax.random.split(key)
    batch = train.Batch(
        jnp.asarray(blobs.images[:8]), jnp.asarray(blobs.labels[:8]), jnp.arange(8)
    )
    loss_fn = train.cross_entropy_loss(tiny)
    state = train.init_state(key, tiny, RECIPE.tx, tiny_variables)
    params, velocity = (
        tiny_variables.params,
        jax.tree.map(jnp.zeros_like, tiny_variables.params),
    )
    for _ in range(3):
        state, _ = train.train_step(
            loss_fn, RECIPE.tx, state, batch, jax.random.clone(k_step)
        )
        grads = jax.grad(
            lambda p: loss_fn(
                tiny_variables._replace(params=p), batch, jax.random.clone(k_step)
            )[0]
        )(params)
        velocity = jax.tree.map(
            lambda v, g, p: 0.9 * v + g + 5e-4 * p, velocity, grads, params
        )
        params = jax.tree.map(lambda p, v: p - 0.1 * v, params, velocity)
    chex.assert_trees_all_close(state.variables.params, params, rtol=1e-5, atol=1e-6)


def test_states_of_a_callback_may_be_kept(tiny, blobs):
    recipe = train.Recipe(num_epochs=3, batch_size=16, tx=train.sgd(0.1))
    states = []
    last, _ = train.fit(
        jax.random.key(1),
        tiny,
        blobs,
        np.ones(60, bool),
        recipe,
        callback=lambda state, _: states.append(state),
    )
    chex.assert_trees_all_equal(states[-1], last)
    assert [int(state.epoch) for state in states] == [1, 2, 3]
    keys = jax.random.split(jax.random.key(1), 2)
    states = []
    last, _ = replicas.fit_many(
        keys,
        tiny,
        blobs,
        np.ones((2, 60), bool),
        recipe,
        callback=lambda state, _: states.append(state),
    )
    chex.assert_trees_all_equal(states[-1], last)
    assert [state.epoch.tolist() for state in states] == [[1, 1], [2, 2], [3, 3]]


def test_step_decay_drops_by_ten():
    schedule = train.step_decay(0.1, every=40)
    np.testing.assert_allclose(
        [schedule(0), schedule(39), schedule(40), schedule(80)],
        [0.1, 0.1, 0.01, 0.001],
        rtol=1e-5,
    )


def test_fit_learns_and_keeps_the_callers_variables(tiny, blobs, key, tiny_variables):
    before = jax.tree.map(np.asarray, tiny_variables)
    state, losses = train.fit(
        key, tiny, blobs, np.ones(60, bool), RECIPE, variables=tiny_variables
    )
    assert losses.shape == (6,)
    assert losses[-1] < losses[0]
    assert int(state.epoch) == 6
    chex.assert_trees_all_equal(jax.tree.map(np.asarray, tiny_variables), before)


def test_chunks_of_any_size_give_the_same_bits(normed, blobs, key):
    mask = some(60, range(0, 60, 2))
    runs = [
        train.fit(jax.random.clone(key), normed, blobs, mask, RECIPE, epochs_per_call=n)
        for n in (1, 4, 6)
    ]
    for state, losses in runs[1:]:
        chex.assert_trees_all_equal(state, runs[0][0])
        np.testing.assert_array_equal(losses, runs[0][1])


def test_batch_norm_statistics_move(normed, blobs, key):
    state, _ = train.fit(key, normed, blobs, np.ones(60, bool), RECIPE)
    assert not np.allclose(jax.tree.leaves(state.variables.state)[0], 0)


def test_samples_outside_the_mask_are_never_read(normed, blobs, key):
    mask = some(60, range(20))
    poisoned = Dataset(
        np.where(mask[:, None, None, None], blobs.images, np.nan).astype("f4"),
        blobs.labels,
    )
    clean, _ = train.fit(jax.random.clone(key), normed, blobs, mask, RECIPE)
    state, losses = train.fit(key, normed, poisoned, mask, RECIPE)
    assert np.isfinite(losses).all()
    chex.assert_trees_all_equal(state, clean)


def test_labels_of_eight_bits_are_widened(tiny, blobs, key):
    seen = []

    def loss_fn(variables, batch, key):
        seen.append(batch.labels.dtype)
        return jnp.sum(jax.tree.leaves(variables.params)[0]), variables.state

    narrow = blobs._replace(labels=np.asarray(blobs.labels, np.uint8))
    train.fit(key, tiny, narrow, np.ones(60, bool), RECIPE, loss_fn=loss_fn)
    assert set(seen) == {jnp.dtype("int32")}


def test_uint8_and_float_images_are_the_same_to_the_model(tiny, key):
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 1)).astype(np.uint8)
    labels = np.arange(20, dtype=np.int32) % 3
    a, _ = train.fit(
        jax.random.clone(key), tiny, Dataset(images, labels), np.ones(20, bool), RECIPE
    )
    b, _ = train.fit(
        key,
        tiny,
        Dataset(images.astype("f4") / np.float32(255), labels),
        np.ones(20, bool),
        RECIPE,
    )
    chex.assert_trees_all_close(a, b, rtol=1e-5, atol=1e-6)


def test_augmentation_and_any_optax_chain(tiny, blobs, key):
    recipe = train.Recipe(
        2, 16, optax.adamw(1e-2), augment=lambda k, x: crop_flip(k, x, padding=1)
    )
    augmented, _ = train.fit(
        jax.random.clone(key), tiny, blobs, np.ones(60, bool), recipe
    )
    plain, _ = train.fit(
        key, tiny, blobs, np.ones(60, bool), train.Recipe(2, 16, optax.adamw(1e-2))
    )
    assert not np.allclose(
        jax.tree.leaves(augmented.variables)[0], jax.tree.leaves(plain.variables)[0]
    )


def test_fit_minimizes_a_given_loss(tiny, blobs, key):
    def squared(variables, batch, key):
        logits, state = tiny.apply_train(variables, batch.images, key)
        return jnp.mean((logits - jax.nn.one_hot(batch.labels, 3)) ** 2), state

    _, losses = train.fit(key, tiny, blobs, np.ones(60, bool), RECIPE, loss_fn=squared)
    assert losses[-1] < losses[0] < 2


def test_predict_ignores_batch_size(normed, blobs, key):
    state, _ = train.fit(key, normed, blobs, np.ones(60, bool), RECIPE)
    whole = train.predict(normed.apply, state.variables, jnp.asarray(blobs.images))
    parts = train.predict(
        normed.apply, state.variables, jnp.asarray(blobs.images), batch_size=7
    )
    chex.assert_trees_all_close(whole, parts, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(
        whole,
        normed.apply(state.variables, jnp.asarray(blobs.images)),
        rtol=1e-5,
        atol=1e-5,
    )


def test_second_fit_reuses_the_program(tiny, blobs, key):
    train.fit(jax.random.clone(key), tiny, blobs, np.ones(60, bool), RECIPE)
    before = train._compiled.cache_info().misses
    train.fit(
        key, tiny, blobs, some(60, range(57)), RECIPE
    )  # another mask, as many steps
    assert train._compiled.cache_info().misses == before


def test_fit_refuses_bad_masks_and_divergence(tiny, blobs, key):
    with pytest.raises(InputError, match="bool of length 60"):
        train.fit(key, tiny, blobs, np.ones(59, bool), RECIPE)
    with pytest.raises(InputError, match="bool of length 60"):
        train.fit(key, tiny, blobs, np.ones(60, int), RECIPE)
    with pytest.raises(InputError, match="nothing to train on"):
        train.fit(key, tiny, blobs, np.zeros(60, bool), RECIPE)
    wild = train.Recipe(4, 16, train.sgd(1e20))
    with pytest.raises(DivergedError, match=r"epoch [12].*lower the learning rate"):
        train.fit(key, tiny, blobs, np.ones(60, bool), wild)
