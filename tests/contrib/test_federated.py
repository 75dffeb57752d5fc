"""Federated rounds and PUF: algebra to rounding, NumPy's loop as oracle, poison."""

from functools import partial

import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from unlearn_jax import models, train
from unlearn_jax.contrib import federated
from unlearn_jax.contrib.federated import (
    Federation,
    LocalTraining,
    ProjectedAscent,
    fedavg_weights,
    puf_weights,
)
from unlearn_jax.losses import cross_entropy
from unlearn_jax.optimizers import SGD, Adam
from unlearn_jax.theory import parameter_distance
from unlearn_jax.types import Dataset, InputError, Model, Variables

SPLIT = np.repeat([0, 1, 2, 3], [25, 6, 17, 12])
ALL = np.ones(4, bool)
FORGET = np.array([False, False, True, False])
LOCAL = LocalTraining(batch_size=8, learning_rate=0.2, form="map")


@pytest.fixture(scope="module")
def clients():
    """Four clients of 25, 6, 17 and 12 of the sixty samples."""
    return federated.gather_clients(SPLIT)


@pytest.fixture(scope="module")
def linear():
    """Softmax regression, whose steps can be written out by hand."""
    return models.from_functions(
        lambda key: jnp.zeros((16, 3)), lambda w, x: x.reshape(len(x), 16) @ w
    )


@pytest.fixture(scope="module")
def start(linear):
    """A server that has finished five rounds, at parameters that are not zero."""
    return federated.init_server(
        Variables(0.1 * jax.random.normal(jax.random.key(5), (16, 3)), {}),
        num_rounds=5,
    )


@pytest.fixture(scope="module")
def one_round(linear, blobs, clients):
    """A compiled round, of any weights."""
    run = jax.jit(federated.federated_round)
    group = Federation(linear, LOCAL, blobs, clients)

    def one(state, weights):
        return run(jax.random.key(1), group, state, jnp.asarray(weights, jnp.float32))

    return one


def deltas(one_round, state):
    """Each client's update, from rounds in which it is alone."""
    return [
        one_round(state, np.eye(4)[k]).variables.params - state.variables.params
        for k in range(4)
    ]


def by_hand(data, client, state, key, training, weight_decay=1e-3):
    """A client's epoch of SGD in NumPy; only the order of samples is the library's."""
    members = np.flatnonzero(client == SPLIT)
    width, size = 25, training.batch_size
    steps = -(-len(members) // size)
    rate = training.learning_rate * training.decay ** int(state.round)
    key = jax.random.fold_in(jax.random.fold_in(key, state.round), client)
    key_order, _ = jax.random.split(jax.random.fold_in(key, 0))
    order = train.epoch_order(
        key_order, jnp.arange(width) < len(members), -(-width // size), size
    )
    w = np.asarray(state.variables.params, np.float64)
    for batch in np.asarray(order)[:steps]:
        x = data.images[members[batch]].reshape(size, 16).astype(np.float64)
        z = np.exp(x @ w)
        error = z / z.sum(1, keepdims=True) - np.eye(3)[data.labels[members[batch]]]
        w = w - rate * (x.T @ error / size + weight_decay * w)
    return w


def test_round_is_the_weighted_sum_of_clients_trained_by_hand(one_round, start, blobs):
    weights = np.array([0.5, -1.5, 0.0, 0.25])
    found = one_round(start, weights)
    w = np.asarray(start.variables.params)
    updates = [by_hand(blobs, k, start, jax.random.key(1), LOCAL) - w for k in range(4)]
    expected = w + sum(a * d for a, d in zip(weights, updates, strict=True))
    np.testing.assert_allclose(found.variables.params, expected, atol=2e-6)
    assert int(found.round) == 6
    assert all(np.abs(d).max() > 0.01 for d in updates)


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.integers(1, 500), min_size=2, max_size=8),
    st.floats(0.1, 30),
    st.integers(0, 2**16),
)
def test_puf_weights_follow_the_papers_algebra(counts, eta, seed):
    """No forget client: FedAvg. eta_u = -1: FedAvg of all. Special: -eta_u a mean."""
    clients = federated.Clients(
        jnp.zeros((len(counts), 1), jnp.int32), jnp.asarray(counts, jnp.int32)
    )
    nobody = np.zeros(len(counts), bool)
    forget = np.random.default_rng(seed).random(len(counts)) < 0.5
    fraction = np.asarray(counts) / np.sum(counts)
    plain = fedavg_weights(clients, ~nobody)
    np.testing.assert_allclose(plain, fraction, rtol=1e-6)
    np.testing.assert_array_equal(
        puf_weights(clients, nobody, mode="regular", eta_u=eta), plain
    )
    np.testing.assert_array_equal(
        puf_weights(clients, nobody, mode="special", eta_u=eta), 0
    )
    np.testing.assert_array_equal(
        puf_weights(clients, forget, mode="regular", eta_u=-1.0), plain
    )
    regular = puf_weights(clients, forget, mode="regular", eta_u=eta)
    expected = np.where(forget, -eta, 1) * fraction
    np.testing.assert_allclose(regular, expected, rtol=1e-5)
    special = puf_weights(clients, forget, mode="special", eta_u=eta)
    if forget.any():
        expected = -eta * forget * fraction / fraction[forget].sum()
        np.testing.assert_allclose(special, expected, rtol=1e-5)


def test_authors_strengths_agree_for_ten_equal_clients():
    clients = federated.gather_clients(np.arange(40) % 10)
    forget = np.arange(10) == 4
    assert float(puf_weights(clients, forget, mode="regular")[4]) == pytest.approx(-2)
    assert float(puf_weights(clients, forget, mode="special")[4]) == pytest.approx(-2)


def test_puf_without_forget_clients_is_fedavg(one_round, start, clients):
    puf = one_round(start, puf_weights(clients, ~ALL, mode="regular"))
    chex.assert_trees_all_equal(puf, one_round(start, fedavg_weights(clients, ALL)))


def test_regular_with_strength_minus_one_is_fedavg_of_all(one_round, start, clients):
    puf = one_round(start, puf_weights(clients, FORGET, mode="regular", eta_u=-1.0))
    chex.assert_trees_all_equal(puf, one_round(start, fedavg_weights(clients, ALL)))


def test_special_of_one_client_with_strength_one_subtracts_its_update(
    linear, blobs, start, clients
):
    """w - d_u, bit for bit."""
    key = jax.random.key(1)
    group = Federation(linear, LOCAL, blobs, clients)
    puf = jax.jit(partial(federated.puf_round, mode="special", eta_u=1.0))
    found = puf(key, group, start, FORGET)
    key_client = jax.random.fold_in(jax.random.fold_in(jax.random.clone(key), 5), 2)
    rate = LOCAL.learning_rate * LOCAL.decay ** jnp.float32(5)
    alone = jax.jit(federated.client_update)
    local = alone(key_client, group, start.variables, 2, rate)
    w = start.variables.params
    np.testing.assert_array_equal(found.variables.params, w - (local.params - w))


@pytest.mark.parametrize("mode", ["regular", "special"])
def test_several_clients_at_once_are_terms_of_one_sum(one_round, start, clients, mode):
    forget = np.array([True, False, True, False])
    found = one_round(start, puf_weights(clients, forget, mode=mode, eta_u=3.0))
    n, d, w = np.bincount(SPLIT), deltas(one_round, start), start.variables.params
    if mode == "special":
        expected = w - 3 * (n[0] * d[0] + n[2] * d[2]) / (n[0] + n[2])
    else:
        expected = (
            w + (n[1] * d[1] + n[3] * d[3] - 3 * (n[0] * d[0] + n[2] * d[2])) / n.sum()
        )
    np.testing.assert_allclose(found.variables.params, expected, atol=2e-6)


def test_clients_that_left_earlier_have_weight_zero(clients):
    remaining = np.array([True, True, False, False])  # the last one left before
    weights = puf_weights(
        clients, FORGET, mode="regular", eta_u=2.0, remaining=remaining
    )
    np.testing.assert_allclose(weights, np.array([25, 6, -34, 0]) / 48, rtol=1e-6)


def test_special_puf_of_one_local_step_is_gradient_ascent(
    linear, blobs, start, clients
):
    """One full-batch step without decay: a step of ascent, of eta_u times the rate."""
    training = LocalTraining(
        batch_size=17, learning_rate=0.2, weight_decay=0.0, form="map"
    )
    group = Federation(linear, training, blobs, clients)
    puf = federated.puf_round(jax.random.key(1), group, start, FORGET, eta_u=4.0)
    images, labels = blobs.images[SPLIT == 2], blobs.labels[SPLIT == 2]
    slope = jax.grad(
        lambda w: cross_entropy(linear.apply(Variables(w, {}), images), labels).mean()
    )
    w = start.variables.params
    ascended = w + 4 * 0.2 * 0.998**5 * slope(w)
    np.testing.assert_allclose(puf.variables.params, ascended, atol=1e-6)


def test_vmap_and_map_over_clients_agree(linear, blobs, start, clients, one_round):
    vmapped = LocalTraining(batch_size=8, learning_rate=0.2, form="vmap")
    weights = puf_weights(clients, FORGET, mode="regular")
    group = Federation(linear, vmapped, blobs, clients)
    found = jax.jit(federated.federated_round)(jax.random.key(1), group, start, weights)
    chex.assert_trees_all_close(found, one_round(start, weights), atol=1e-6)


@pytest.mark.parametrize("form", ["map", "vmap"])
def test_poisoned_forget_clients_do_not_touch_the_others_rounds(
    tiny, blobs, clients, form
):
    """NaN images and labels out of range, the same bits."""
    training = LocalTraining(batch_size=8, form=form)
    poisoned = Dataset(
        np.where((SPLIT == 2)[:, None, None, None], np.nan, blobs.images),
        np.where(SPLIT == 2, 99, blobs.labels),
    )
    stay, start = (
        fedavg_weights(clients, ~FORGET),
        federated.init_server(tiny.init(jax.random.key(3))),
    )

    @jax.jit
    def run(data):
        group = Federation(tiny, training, data, clients)
        return federated.run_rounds(
            jax.random.key(0), group, start, stay, num_rounds=3
        )[0]

    clean, found = run(blobs), run(poisoned)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    chex.assert_trees_all_equal(found, clean)
    assert not np.allclose(
        found.variables.params["Dense_0"]["kernel"],
        start.variables.params["Dense_0"]["kernel"],
    )


def test_run_until_stops_at_the_target(linear, blobs, start, clients):
    stay, key = fedavg_weights(clients, ~FORGET), jax.random.key(2)

    def accuracy(variables):
        return jnp.mean(
            jnp.argmax(linear.apply(variables, blobs.images), -1) == blobs.labels
        )

    rest = (Federation(linear, LOCAL, blobs, clients), start, stay)
    _, trace = jax.jit(
        lambda k: federated.run_rounds(k, *rest, num_rounds=8, evaluate=accuracy)
    )(key)
    run = jax.jit(
        lambda k, target: federated.run_until(
            k, *rest, evaluate=accuracy, target=target, num_rounds=8
        )
    )
    assert trace[0] < trace.max()
    for target in (0.0, float(trace.max()), 2.0):
        found = run(jax.random.clone(key), target)
        rounds, reached = federated.rounds_to_reach(trace, target)
        assert (int(found.num_rounds), bool(found.reached)) == (rounds, reached)
        assert float(found.value) == trace[rounds - 1]
        assert int(found.state.round) == 5 + rounds


def test_server_state_does_not_grow_with_rounds(linear, blobs, start, clients):
    group = Federation(linear, LOCAL, blobs, clients)
    sizes = [
        jax.eval_shape(
            lambda n=n: federated.run_rounds(
                jax.random.key(0), group, start, jnp.ones(4), num_rounds=n
            )[0]
        )
        for n in (1, 50)
    ]
    assert sizes[0] == sizes[1] == jax.eval_shape(lambda: start)


def test_statistics_are_averaged_over_clients_of_positive_weight(
    normed, blobs, clients
):
    start = federated.init_server(normed.init(jax.random.key(3)))
    run = jax.jit(federated.federated_round)
    group = Federation(normed, LOCAL, blobs, clients)

    def go(weights):
        return run(jax.random.key(1), group, start, jnp.asarray(weights))

    alone = [go(np.eye(4, dtype=np.float32)[k]).variables.state for k in range(4)]
    mixed = go([0.4, 0.1, -2.0, 0.0]).variables.state
    expected = jax.tree.map(lambda a, b: 0.8 * a + 0.2 * b, alone[0], alone[1])
    chex.assert_trees_all_close(mixed, expected, atol=1e-6)
    chex.assert_trees_all_equal(
        go([0.0, 0.0, -2.0, 0.0]).variables.state, start.variables.state
    )


def test_forgotten_owner_of_a_class_leaves_the_retrained_accuracy(tiny, blobs):
    """No other client has class 2: its accuracy falls to the retrained model's, 0."""
    split = federated.owner_split(blobs.labels, 4, {3: 2}, seed=0)
    clients, forget = federated.gather_clients(split), np.arange(4) == 3
    training = LocalTraining(batch_size=10, form="map")
    group = Federation(tiny, training, blobs, clients)
    owned = np.flatnonzero(blobs.labels == 2)
    accuracy = jax.jit(
        lambda v: jnp.mean(jnp.argmax(tiny.apply(v, blobs.images[owned]), -1) == 2)
    )
    run = jax.jit(
        lambda key, state, mask: federated.run_rounds(
            key, group, state, fedavg_weights(clients, mask), num_rounds=40
        )[0]
    )
    fresh = federated.init_server(tiny.init(jax.random.key(3)))
    original = run(jax.random.key(0), fresh, np.ones(4, bool))
    retrained = run(jax.random.key(1), fresh, ~forget)
    puf = federated.puf_round(jax.random.key(2), group, original, forget)
    recovered = run(jax.random.key(4), puf, ~forget)
    assert accuracy(original.variables) > 0.9
    assert accuracy(retrained.variables) == 0
    assert accuracy(recovered.variables) < 0.1


def test_not_negates_the_first_layer_and_nothing_else(tiny, tiny_variables):
    after = federated.negate_first_layer(
        tiny.apply, tiny_variables, jnp.zeros((1, 4, 4, 1))
    )
    first, second = (v.params["Dense_0"] for v in (tiny_variables, after))
    np.testing.assert_array_equal(second["kernel"], -first["kernel"])
    np.testing.assert_array_equal(second["bias"], first["bias"])
    chex.assert_trees_all_equal(
        tiny_variables.params["Dense_1"], after.params["Dense_1"]
    )


def test_projected_ascent_climbs_within_its_ball(
    linear, blobs, start, clients, one_round
):
    """Around w - d_u / (K - 1): a small ball or a short distance stops it."""
    update = deltas(one_round, start)[2]
    w = start.variables.params
    center = w - update / 3
    run = jax.jit(federated.projected_ascent)
    group = Federation(linear, LOCAL, blobs, clients)
    is_forget = SPLIT == 2

    def go(radius, far):
        ascent = ProjectedAscent(learning_rate=0.5, radius=radius, max_distance=far)
        found = run(jax.random.key(1), group, start, FORGET, ascent)
        return found.variables.params

    def loss(w):
        logits = linear.apply(Variables(w, {}), blobs.images[is_forget])
        return cross_entropy(logits, blobs.labels[is_forget]).mean()

    free, bounded, short = go(1e6, 1e6), go(0.3, 1e6), go(1e6, 0.0)
    assert loss(free) > loss(bounded) > loss(center)
    assert float(jnp.linalg.norm(bounded - center)) == pytest.approx(0.3, rel=1e-4)
    assert (
        0
        < float(jnp.linalg.norm(short - center))
        < float(jnp.linalg.norm(free - center))
    )
    np.testing.assert_allclose(go(0.0, 1e6), center, atol=1e-6)

    # of clients that left earlier the center has no part
    at_center = ProjectedAscent(radius=0.0)
    found = federated.projected_ascent(
        jax.random.key(1), group, start, FORGET, at_center, remaining=np.arange(4) < 2
    )
    np.testing.assert_allclose(found.variables.params, w - update / 2, atol=1e-6)


def test_default_radius_is_a_third_of_the_distance_to_fresh_models(
    tiny, blobs, clients
):
    """With a rate that leaves any ball in a step, the result lies on the sphere."""
    start = federated.init_server(tiny.init(jax.random.key(3)))
    group = Federation(tiny, LOCAL, blobs, clients)
    ascent = ProjectedAscent(learning_rate=1e3, momentum=0.0, max_distance=np.inf)
    run = jax.jit(partial(federated.projected_ascent, ascent=ascent))
    found = run(jax.random.key(1), group, start, FORGET).variables.params
    center = federated.puf_round(jax.random.key(1), group, start, FORGET, eta_u=1 / 3)

    def gap(other):
        return float(parameter_distance(other, center.variables.params))

    fresh = [
        gap(tiny.init(key).params) for key in jax.random.split(jax.random.key(9), 20)
    ]
    assert gap(found) == pytest.approx(np.mean(fresh) / 3, rel=0.1)


@pytest.mark.parametrize(
    "call",
    [
        lambda group, state: LocalTraining(batch_size=0),
        lambda group, state: LocalTraining(decay=0.0),
        lambda group, state: LocalTraining(form="loop"),
        lambda group, state: ProjectedAscent(num_epochs=0),
        lambda group, state: ProjectedAscent(max_norm=0.0),
        lambda group, state: fedavg_weights(group.clients, np.zeros(4, bool)),
        lambda group, state: fedavg_weights(group.clients, np.ones(3, bool)),
        lambda group, state: fedavg_weights(group.clients, np.ones(4)),
        lambda group, state: puf_weights(group.clients, FORGET, mode="other"),
        lambda group, state: puf_weights(group.clients, FORGET, eta_u=float("nan")),
        lambda group, state: puf_weights(
            group.clients, FORGET, remaining=np.ones(5, bool)
        ),
        lambda group, state: federated.federated_round(
            jax.random.key(0), group, state, jnp.ones(3)
        ),
        lambda group, state: federated.run_until(
            jax.random.key(0),
            group,
            state,
            jnp.ones(4),
            evaluate=lambda v: jnp.zeros(()),
            target=0,
            num_rounds=0,
        ),
        lambda group, state: federated.projected_ascent(
            jax.random.key(0), group, state, ALL
        ),
        lambda group, state: federated.projected_ascent(
            jax.random.key(0), group, state, FORGET, remaining=FORGET
        ),
        lambda group, state: federated.negate_first_layer(
            lambda w, x: x.mean((1, 2)) * w[None],
            jnp.ones(1),
            jnp.zeros((1, 4, 4, 1)),
        ),
        lambda group, state: federated.negate_first_layer(
            group.model, state.variables, jnp.zeros((1, 4, 4, 1))
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(call, clients, linear, start, blobs):
    with pytest.raises(InputError) as error:
        call(Federation(linear, LOCAL, blobs, clients), start)
    assert "\n" not in str(error.value)


def test_equal_trainings_are_equal_values_and_rates_map(linear, blobs, start, clients):
    assert LocalTraining(optimizer=Adam()) == LocalTraining(optimizer=Adam())
    assert hash(LocalTraining()) == hash(LocalTraining(optimizer=SGD(momentum=0.0)))
    weights = fedavg_weights(clients, ALL)

    def trained(rate):
        training = LocalTraining(batch_size=8, learning_rate=rate, form="map")
        group = Federation(linear, training, blobs, clients)
        state = federated.federated_round(jax.random.key(1), group, start, weights)
        return state.variables.params

    rates = jnp.array([0.1, 0.2])
    mapped = jax.jit(jax.vmap(trained))(rates)
    np.testing.assert_allclose(mapped[1], jax.jit(trained)(0.2), atol=1e-6)
    assert np.abs(mapped[0] - mapped[1]).max() > 1e-3


def ascent_shapes(group, state):
    """Shapes and types of projected ascent by the clients to forget."""
    key = jax.random.key(0)
    return jax.eval_shape(
        federated.projected_ascent, key, group, state, jnp.asarray(FORGET)
    )


@pytest.mark.parametrize("form", ["map", "vmap"])
def test_types_of_the_servers_leaves_stay(form, blobs, clients):
    """Brain floats are averaged, and counters stay the server's."""

    def apply_train(variables, images, key):
        state = {
            "mean": 0.9 * variables.state["mean"]
            + jnp.mean(images).astype(jnp.bfloat16),
            "count": variables.state["count"] + 1,
        }
        return model.apply(variables, images), state

    model = Model(
        init=lambda key: Variables(
            jnp.zeros((16, 3), jnp.bfloat16),
            {"mean": jnp.zeros((), jnp.bfloat16), "count": jnp.int32(7)},
        ),
        apply=lambda variables, images: (
            images.reshape(len(images), 16) @ variables.params
        ),
        apply_train=apply_train,
    )
    group = Federation(model, LocalTraining(batch_size=8, form=form), blobs, clients)
    before = federated.init_server(model.init(None))
    weights = fedavg_weights(clients, ALL)
    run = jax.jit(federated.federated_round)
    after = run(jax.random.key(0), group, before, weights)
    chex.assert_trees_all_equal_dtypes(after, before)
    assert after.variables.state["count"] == 7
    assert after.variables.state["mean"] > 0
    moved = ascent_shapes(group, before)
    chex.assert_trees_all_equal_dtypes(moved, before)


def test_ascent_keeps_float32_where_jax_has_float64(linear, blobs, start, clients):
    with jax.enable_x64(True):
        group = Federation(linear, LOCAL, blobs, clients)
        moved = ascent_shapes(group, start)
    assert moved.variables.params.dtype == np.float32
