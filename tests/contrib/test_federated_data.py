"""Clients' splits, generated shapes and measures match counts done another way."""

import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from unlearn_jax.contrib import federated
from unlearn_jax.types import InputError

LABELS = np.arange(300) % 6


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([0.05, 0.3, 5.0]), st.integers(1, 8), st.integers(0, 2**16))
def test_every_sample_has_one_client_and_no_client_is_empty(alpha, num_clients, seed):
    for split in (
        federated.dirichlet_split(LABELS, num_clients, alpha=alpha, seed=seed),
        federated.iid_split(300, num_clients, seed=seed),
    ):
        assert split.shape == (300,)
        assert set(split.tolist()) == set(range(num_clients))
        clients = federated.gather_clients(split)
        rows = [
            row[:n]
            for row, n in zip(
                np.asarray(clients.positions), np.asarray(clients.sizes), strict=True
            )
        ]
        assert sorted(np.concatenate(rows).tolist()) == list(range(300))
        for client, row in enumerate(np.asarray(clients.positions)):
            assert set(split[row].tolist()) == {client}, (
                "filling points at another client"
            )


def test_proportions_are_dirichlet():
    """A class's fractions: mean 1 / K, variance (K - 1) / (K^2 (K alpha + 1))."""
    shares = np.array(
        [
            np.bincount(
                federated.dirichlet_split(np.zeros(2000, int), 4, alpha=0.7, seed=s),
                minlength=4,
            )
            / 2000
            for s in range(600)
        ]
    )
    np.testing.assert_allclose(shares.mean(0), 0.25, atol=0.04)
    np.testing.assert_allclose(shares.var(0), 3 / (16 * 3.8), rtol=0.15)
    split = federated.dirichlet_split(LABELS, 5, alpha=0.3, min_samples=20, seed=0)
    assert np.bincount(split).min() >= 20


def test_small_alpha_is_uneven_and_draws_repeat():
    def spread(alpha):
        split = federated.dirichlet_split(LABELS, 5, alpha=alpha, seed=0)
        return np.std([np.bincount(LABELS[split == k], minlength=6) for k in range(5)])

    assert spread(0.1) > 2 * spread(100.0)
    draws = [federated.dirichlet_split(LABELS, 5, seed=s) for s in (3, 3, 4)]
    assert (draws[0] == draws[1]).all()
    assert (draws[0] != draws[2]).any()


def test_owners_alone_have_their_classes():
    split = federated.owner_split(LABELS, 5, {0: 2, 3: [4, 5]}, seed=0)
    assert (split[LABELS == 2] == 0).all()
    assert (split[LABELS >= 4] == 3).all()
    shared = split[np.isin(LABELS, [0, 1, 3])]
    np.testing.assert_array_equal(np.bincount(shared), 30)


def test_split_client_makes_a_client_of_a_part():
    split = federated.iid_split(300, 4, seed=0)
    parted = federated.split_client(split, 2, fraction=0.4, seed=1)
    assert np.bincount(parted).tolist() == [75, 75, 45, 75, 30]
    assert (split[parted == 4] == 2).all()
    assert (parted[split != 2] == split[split != 2]).all()
    assert federated.gather_clients(parted, width=100).positions.shape == (5, 100)


@pytest.mark.parametrize(
    "call",
    [
        lambda: federated.iid_split(3, 4, seed=0),
        lambda: federated.iid_split(3, 0, seed=0),
        lambda: federated.dirichlet_split(LABELS, 4, alpha=0.0, seed=0),
        lambda: federated.dirichlet_split(LABELS, 4, min_samples=76, seed=0),
        lambda: federated.dirichlet_split(LABELS / 2, 4, seed=0),
        lambda: federated.dirichlet_split(np.zeros(40, int), 30, alpha=1e-3, seed=0),
        lambda: federated.owner_split(LABELS, 4, {4: 0}, seed=0),
        lambda: federated.owner_split(LABELS, 4, {0: 0, 1: 0}, seed=0),
        lambda: federated.owner_split(LABELS, 4, {0: 9}, seed=0),
        lambda: federated.owner_split(LABELS, 4, {0: range(6)}, seed=0),
        lambda: federated.split_client([0, 1, 1], 0, seed=0),
        lambda: federated.split_client([0, 1, 1], 1, fraction=1.0, seed=0),
        lambda: federated.gather_clients([0, 2]),
        lambda: federated.gather_clients([0.0, 1.0]),
        lambda: federated.gather_clients([0, 0, 1], width=1),
        lambda: federated.draw_styles(0, seed=0),
        lambda: federated.shape_images(0, federated.draw_styles(1, seed=0)[0], seed=0),
        lambda: federated.shape_images(
            1, federated.draw_styles(1, seed=0)[0], size=4, seed=0
        ),
        lambda: federated.overlap(
            jnp.zeros((1, 2, 2), int), jnp.zeros((1, 2, 3), int), 2
        ),
        lambda: federated.rounds_to_reach(np.zeros((2, 0)), 0.5),
    ],
)
def test_bad_input_is_refused_in_one_line(call):
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value)


def test_overlap_matches_sets_of_pixels():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 3, (2, 5, 4, 4))
    mask = np.array([True, False, True, True, False])
    found = federated.overlap(
        jnp.asarray(predicted), jnp.asarray(labels), 4, jnp.asarray(mask)
    )
    for c in range(3):
        guess, true = (
            set(map(tuple, np.argwhere((a == c) & mask[:, None, None])))
            for a in (predicted, labels)
        )
        both = len(guess & true)
        assert float(found.iou[c]) == pytest.approx(both / len(guess | true))
        assert float(found.dice[c]) == pytest.approx(
            2 * both / (len(guess) + len(true))
        )
    assert np.isnan(found.iou[3])
    everything = federated.overlap(jnp.asarray(labels), jnp.asarray(labels), 3)
    np.testing.assert_array_equal(everything.dice, 1)


def test_yeom_is_the_fraction_below_the_members_mean():
    rng = np.random.default_rng(1)
    losses, parts = rng.exponential(size=50), rng.integers(0, 3, 50)
    forget, retain = parts == 0, parts == 1
    losses[parts == 2] = np.nan  # never read
    expected = (losses[forget] < losses[retain].mean()).mean()
    assert float(
        federated.yeom(*map(jnp.asarray, (losses, forget, retain)))
    ) == pytest.approx(expected)


def test_rounds_to_reach_takes_the_first_round():
    values = np.array([[0.1, 0.5, 0.4, 0.9], [0.0, 0.0, 0.0, 0.0]])
    rounds, reached = federated.rounds_to_reach(values, np.array([0.5, 0.5]))
    assert rounds.tolist() == [2, 4]
    assert reached.tolist() == [True, False]
    rounds, reached = federated.rounds_to_reach([[np.nan, 0.9], [np.nan] * 2], 0.5)
    assert rounds.tolist() == [2, 2]
    assert reached.tolist() == [True, False]


def test_every_image_has_shapes_and_styles_do_not_move_them():
    styles = federated.draw_styles(3, seed=0)
    one, other = (
        federated.shape_images(40, style, size=16, seed=5) for style in styles[:2]
    )
    assert one.images.shape == (40, 16, 16, 3)
    assert one.images.dtype == np.float32
    assert 0 <= one.images.min() < one.images.max() <= 1
    np.testing.assert_array_equal(one.labels, other.labels)
    assert abs(one.images - other.images).mean() > 0.1
    per_image = [np.unique(label).size for label in one.labels]
    assert min(per_image) >= 2, "an image without a shape"
    areas = np.bincount(one.labels.ravel(), minlength=3)
    assert areas[0] > areas[1:].max()
    assert areas[1:].max() < 2 * areas[1:].min(), "classes of very different size"


def test_image_without_noise_has_the_two_colors_of_its_map():
    style = federated.Style((0.1, 0.2, 0.3), (0.9, 0.8, 0.7), stripes=0.0, noise=0.0)
    data = federated.shape_images(5, style, size=12, seed=1)
    expected = np.where(data.labels[..., None] > 0, style.foreground, style.background)
    np.testing.assert_allclose(data.images, expected, atol=1e-6)


def test_recovery_runs_stop_where_the_goal_is_reached():
    """PUF recovers in one round, then in two; natural is read one round later."""
    trace = lambda *tests: np.array(
        [[[test, forget] for forget, test in enumerate(tests)]], float
    )
    still = {"original": np.array([[0.9, 1.0]]), "retrained": np.array([[0.8, 0.5]])}
    natural = trace(0.9, 0.9, 0.9, 0.9)
    parts = [
        still | {"natural": natural, "special": trace(0.1, 0.8, 0.9, 0.9)},
        still | {"natural": natural, "special": trace(0.1, 0.2, 0.8, 0.9)},
    ]
    runs = federated.RecoveryRuns(parts, ("test", "forget"))
    assert runs.shape == (2, 1)
    np.testing.assert_array_equal(runs.final("special")[:, 0, 1], [1, 2])
    np.testing.assert_array_equal(runs.final("same")[:, 0, 1], [2, 3])
    np.testing.assert_array_equal(runs.final("special+")[:, 0, 1], [3, 3])
    np.testing.assert_array_equal(runs.final("original"), runs.measured["original"])
    np.testing.assert_allclose(runs.gap("special")[:, 0], [50, 150])
    np.testing.assert_allclose(runs.gap("original", "test")[:, 0], [10, 10])
    assert runs.summary(runs.gap("special")).mean == 100
