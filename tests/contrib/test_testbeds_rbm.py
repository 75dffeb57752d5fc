"""Machines match brute force, gradients differences, annealing enumeration."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn_jax.contrib.testbeds import ais as annealing
from unlearn_jax.contrib.testbeds import rbm as machines
from unlearn_jax.contrib.testbeds import rbm_training as training
from unlearn_jax.types import InputError

SGD = optax.sgd(0.1, momentum=0.9)
# Jitted once, so that tests share the compiled programs.
fit_exact = jax.jit(training.fit_exact, static_argnames=("tx", "num_steps"))
fit_pcd = jax.jit(
    training.fit_pcd, static_argnames=("tx", "num_steps", "num_sweeps", "batch_size")
)
pcd_gradient = jax.jit(training.pcd_gradient, static_argnames="num_sweeps")
model_moments = jax.jit(training.model_moments)
moments = jax.jit(training.moments)
gibbs = jax.jit(machines.gibbs, static_argnames="num_sweeps")


def machine(num_visible, num_hidden, seed=0, scale=1.0, removed=0.3):
    """A machine with random weights, biases and mask."""
    rng = np.random.default_rng(seed)
    mask = rng.uniform(size=(num_visible, num_hidden)) >= removed
    weights = scale * rng.normal(size=mask.shape) * mask
    leaves = (weights, rng.normal(size=num_visible), rng.normal(size=num_hidden))
    return machines.Rbm(
        *(jnp.asarray(leaf, jnp.float32) for leaf in leaves), jnp.asarray(mask)
    )


def brute_force(rbm):
    """Probabilities ``[2^V, 2^H]``, log Z and the states, one by one in float64."""
    weights, a, b = (np.asarray(leaf, np.float64) for leaf in rbm[:3])
    weights = weights * np.asarray(rbm.mask)
    visible, hidden = (
        np.array(list(itertools.product((0, 1), repeat=n)), np.float64)
        for n in weights.shape
    )
    table = np.zeros((len(visible), len(hidden)))
    for i, v in enumerate(visible):
        for j, h in enumerate(hidden):
            table[i, j] = sum(
                v[k] * weights[k, m] * h[m]
                for k in range(len(v))
                for m in range(len(h))
            )
            table[i, j] += a @ v + b @ h
    total = np.log(np.exp(table).sum())
    return np.exp(table - total), total, visible, hidden


def fitted(rbm, visible, weights, num_steps):
    return training.fit_exact(rbm, visible, weights, tx=SGD, num_steps=num_steps)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
def test_enumeration_equals_brute_force(shape):
    rbm = machine(*shape)
    probs, total, visible, hidden = brute_force(rbm)
    np.testing.assert_array_equal(machines.all_states(shape[0]), visible)
    np.testing.assert_allclose(machines.log_partition(rbm), total, rtol=1e-6)
    grid = -machines.energy(
        rbm, jnp.asarray(visible, "f4")[:, None], jnp.asarray(hidden, "f4")[None]
    )
    np.testing.assert_allclose(grid, np.log(probs) + total, atol=1e-5)
    log_p = machines.log_distribution(rbm)
    np.testing.assert_allclose(np.exp(log_p), probs.sum(1), rtol=1e-5)
    np.testing.assert_allclose(
        machines.log_likelihood(rbm, jnp.asarray(visible, "f4")), log_p, atol=1e-5
    )
    np.testing.assert_allclose(
        machines.free_energy(rbm, jnp.asarray(visible, "f4")),
        -(log_p + total),
        atol=1e-5,
    )
    given_v = np.einsum("vh,hj->vj", probs, hidden) / probs.sum(1)[:, None]
    np.testing.assert_allclose(
        machines.hidden_probs(rbm, jnp.asarray(visible, "f4")), given_v, atol=1e-6
    )
    given_h = np.einsum("vh,vi->hi", probs, visible) / probs.sum(0)[:, None]
    np.testing.assert_allclose(
        machines.visible_probs(rbm, jnp.asarray(hidden, "f4")), given_h, atol=1e-6
    )
    pairs = np.einsum("vh,vi,hj->ij", probs, visible, hidden) * np.asarray(rbm.mask)
    found = model_moments(rbm)
    np.testing.assert_allclose(found.pairs, pairs, atol=1e-6)
    np.testing.assert_allclose(found.visible, probs.sum(1) @ visible, atol=1e-6)
    np.testing.assert_allclose(found.hidden, probs.sum(0) @ hidden, atol=1e-6)


def test_exact_kl_by_hand():
    oracle, other = machine(4, 3, 1), machine(4, 5, 2)
    p, q = (brute_force(rbm)[0].sum(1) for rbm in (oracle, other))
    np.testing.assert_allclose(
        machines.exact_kl(oracle, other), np.sum(p * np.log(p / q)), rtol=1e-5
    )
    assert abs(machines.exact_kl(oracle, oracle)) < 1e-6
    assert not np.isclose(
        machines.exact_kl(other, oracle), machines.exact_kl(oracle, other), rtol=0.05
    )


def test_enumeration_in_parts_has_the_gradient():
    """More than 2^12 states are summed part by part."""
    rbm = machine(13, 20, scale=0.3)
    weights, a, b = (np.asarray(leaf, np.float64) for leaf in rbm[:3])
    visible = (np.arange(2**13)[:, None] >> np.arange(13) & 1).astype(float)
    scores = visible @ a + np.logaddexp(0, visible @ weights + b).sum(1)
    total = np.log(np.exp(scores - scores.max()).sum()) + scores.max()
    np.testing.assert_allclose(machines.log_partition(rbm), total, rtol=1e-6)
    means = np.exp(scores - total) @ visible
    np.testing.assert_allclose(model_moments(rbm).visible, means, atol=1e-5)


def test_bars_and_stripes_by_hand():
    for size in (1, 2, 3):
        images = set()
        for lines in itertools.product((0.0, 1.0), repeat=size):
            image = np.array(lines)[:, None] * np.ones(size)
            images |= {tuple(image.ravel()), tuple(image.T.ravel())}
        assert [
            tuple(row) for row in np.asarray(machines.bars_and_stripes(size))
        ] == sorted(images)


def test_gradient_matches_differences_of_the_weighted_likelihood():
    """Signed weights, brute-force likelihoods; 0 at removed connections."""
    rbm = machine(4, 3)
    visible = machines.all_states(4)[jnp.array([3, 9, 14])]
    weights = jnp.array([0.7, -0.4, 0.3])

    def objective(leaves):
        probs = brute_force(machines.Rbm(*leaves, rbm.mask))[0].sum(1)
        return np.asarray(weights) @ np.log(probs[[3, 9, 14]])

    data, model = moments(rbm, visible, weights), model_moments(rbm)
    gradient = training.likelihood_gradient(rbm, data, model, jnp.sum(weights))
    for which, found in enumerate(gradient):
        leaves = [np.asarray(leaf, np.float64) for leaf in rbm[:3]]
        for place in np.ndindex(found.shape):
            ends = []
            for step in (1e-4, -1e-4):
                moved = [leaf.copy() for leaf in leaves]
                moved[which][place] += step
                ends.append(objective(moved))
            np.testing.assert_allclose(
                found[place], (ends[0] - ends[1]) / 2e-4, atol=2e-5
            )
    assert np.all(gradient.pairs[~rbm.mask] == 0)


def test_gibbs_keeps_the_distribution_and_converges_to_it():
    rbm = machine(3, 2)
    probs = brute_force(rbm)[0].sum(1)
    k_draw, k_move, k_far = jax.random.split(jax.random.key(1), 3)
    drawn = machines.all_states(3)[
        jax.random.choice(k_draw, 8, (20000,), p=jnp.asarray(probs, "f4"))
    ]
    for key, start, sweeps in ((k_move, drawn, 1), (k_far, jnp.ones((20000, 3)), 30)):
        moved = gibbs(key, rbm, start, num_sweeps=sweeps)
        found = np.bincount(
            np.asarray(moved @ jnp.array([4.0, 2.0, 1.0]), int), minlength=8
        )
        assert np.sum((found - 20000 * probs) ** 2 / (20000 * probs)) < 24.3, (
            "chi-square, 7 degrees: 0.1% level"
        )
    np.testing.assert_array_equal(
        gibbs(jax.random.clone(k_far), rbm, drawn, num_sweeps=0), drawn
    )


def test_pcd_gradient_approaches_the_exact_one():
    rbm = machine(6, 4, scale=0.7)
    visible = machines.all_states(6)[jnp.array([5, 40, 63])]
    weights = jnp.array([0.5, 0.2, 0.3])
    exact = training.likelihood_gradient(
        rbm, moments(rbm, visible, weights), model_moments(rbm)
    )

    def error(num_chains, num_sweeps):
        gradient, _ = pcd_gradient(
            jax.random.key(3),
            rbm,
            jnp.ones((num_chains, 6)),
            visible,
            weights,
            num_sweeps=num_sweeps,
        )
        return np.sqrt(
            sum(np.sum((a - b) ** 2) for a, b in zip(gradient, exact, strict=True))
        )

    few, short, many = error(30, 40), error(20000, 1), error(20000, 40)
    assert many < 0.02
    assert many < 0.25 * few, "the noise of few chains"
    assert many < 0.25 * short, "the bias of one sweep from far away"


def test_equal_ascent_drops_the_model_from_the_gradient():
    """The weights sum to 0, so the gradient is the same for any chains."""
    rbm = machine(5, 3)
    visible = machines.all_states(5)[:6]
    weights = training.deletion_weights(jnp.arange(6) < 2, ascent=1.0)
    gradients = [
        pcd_gradient(
            jax.random.key(0),
            rbm,
            jnp.full((4, 5), value),
            visible,
            weights,
            num_sweeps=1,
        )[0]
        for value in (0.0, 1.0)
    ]
    np.testing.assert_allclose(gradients[0].pairs, gradients[1].pairs, atol=1e-7)
    positive = moments(rbm, visible, weights)
    np.testing.assert_allclose(gradients[0].hidden, positive.hidden, atol=1e-7)


def test_removed_connections_stay_exactly_zero():
    """With momentum on the exact gradient, with decay and Adam on chains."""
    patterns = machines.bars_and_stripes(2)
    even = jnp.full(len(patterns), 1 / len(patterns))
    k_init, k_mask, k_chains, k_fit = jax.random.split(jax.random.key(0), 4)
    adam = optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.01))
    trained = fit_exact(
        machines.init_rbm(k_init, patterns.mean(0), 5),
        patterns,
        even,
        tx=SGD,
        num_steps=3,
    )
    diluted = machines.dilute(trained, machines.random_mask(k_mask, (4, 5), 0.5))
    state = training.init_pcd(k_chains, diluted, adam, num_chains=3)
    exact = fit_exact(diluted, patterns, even, tx=SGD, num_steps=3)
    chained = fit_pcd(
        k_fit, state, patterns, even, tx=adam, num_steps=5, num_sweeps=1, batch_size=3
    ).rbm
    for rbm in (exact, chained):
        np.testing.assert_array_equal(rbm.mask, diluted.mask)
        assert np.sum(rbm.mask) == 10
        assert np.all(rbm.weights[~rbm.mask] == 0)
        assert np.all(rbm.weights[rbm.mask] != diluted.weights[rbm.mask])


@pytest.mark.parametrize("ascent", [0.0, 0.5])
def test_samples_of_weight_zero_are_never_read(ascent):
    """Retraining reads no forget sample; with ascent they count, and NaN shows."""
    patterns = machines.bars_and_stripes(2)
    forget = jnp.arange(len(patterns)) == 1
    poisoned = jnp.where(forget[:, None], jnp.nan, patterns)
    weights = training.deletion_weights(forget, ascent=ascent)
    np.testing.assert_allclose(
        training.visible_means(poisoned, weights),
        np.asarray(patterns)[~np.asarray(forget)].mean(0),
        rtol=1e-6,
    )
    k_init, k_chains, k_fit = jax.random.split(jax.random.key(0), 3)
    rbm = machines.init_rbm(k_init, training.visible_means(poisoned, weights), 5)
    state = training.init_pcd(k_chains, rbm, SGD, num_chains=3)
    for values in (poisoned, patterns):
        exact = fit_exact(rbm, values, weights, tx=SGD, num_steps=3)
        chained = fit_pcd(
            jax.random.clone(k_fit),
            state,
            values,
            weights,
            tx=SGD,
            num_steps=9,
            num_sweeps=1,
            batch_size=8,
        )
        finite = bool(
            jnp.all(jnp.isfinite(exact.weights))
            and jnp.all(jnp.isfinite(chained.rbm.weights))
        )
        assert finite == (ascent == 0 or values is patterns)


def test_batches_are_unbiased_for_signed_weights():
    """A step on batches, averaged over keys, is the step on all samples."""
    rbm = machine(4, 3, scale=0.5)
    patterns = machines.bars_and_stripes(2)
    weights = training.deletion_weights(jnp.arange(6) < 2, ascent=1.0)
    tx = optax.sgd(1.0)

    def step(key):
        state = training.PcdState(
            rbm, tx.init(training.Moments(*rbm[:3])), jnp.zeros((1, 4))
        )
        after = training.fit_pcd(
            key,
            state,
            patterns,
            weights,
            tx=tx,
            num_steps=1,
            num_sweeps=1,
            batch_size=2,
        )
        return after.rbm.weights - rbm.weights

    steps = jax.jit(jax.vmap(step))(jax.random.split(jax.random.key(0), 20000))
    full = jnp.where(rbm.mask, moments(rbm, patterns, weights).pairs, 0.0)
    spread = np.std(steps, 0) / np.sqrt(20000)
    assert np.all(np.abs(np.mean(steps, 0) - full) <= 4.5 * spread + 1e-6)
    assert np.max(np.abs(full)) > 20 * np.max(spread)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 99), st.floats(0, 1), st.floats(0, 1))
def test_masks_remove_the_fraction_and_are_nested(seed, low, high):
    low, high = sorted((low, high))
    weights = np.random.default_rng(seed).normal(size=(7, 5)).astype("f4")
    for mask in (
        lambda part: machines.random_mask(jax.random.key(seed), (7, 5), part),
        lambda part: machines.smallest_mask(jnp.asarray(weights), part),
    ):
        more, less = np.asarray(mask(low)), np.asarray(mask(high))
        assert np.sum(~more) == np.round(np.float32(low) * 35)
        assert np.all(more | ~less), (
            "connections of the larger fraction's mask are in the smaller one's"
        )
    if 0 < np.sum(less) < 35:
        assert np.abs(weights[~less]).max() < np.abs(weights[less]).min()


def test_smallest_mask_counts_removed_connections():
    rbm = machines.dilute(
        machine(6, 5, removed=0.0), jnp.arange(30).reshape(6, 5) % 2 == 0
    )
    assert (
        np.sum(machines.dilute(rbm, machines.smallest_mask(rbm.weights, 0.5)).mask)
        == 15
    )
    np.testing.assert_array_equal(
        machines.dilute(rbm, machines.smallest_mask(rbm.weights, 0.5)).mask, rbm.mask
    )


@functools.cache
def deletions():
    """Distances to retraining, and forgotten mass over uniform, ``{row: [3, 2]}``."""
    patterns = machines.bars_and_stripes(3)

    def one(key):
        keys = jax.random.split(key, 4)
        forget = jnp.argsort(jax.random.uniform(keys[3], (14,))) < 2
        keep, ascend = (
            training.deletion_weights(forget),
            training.deletion_weights(forget, ascent=1.0),
        )
        weights = jnp.stack([jnp.full(14, 1 / 14), keep, keep])
        starts = jax.vmap(
            lambda k, w: machines.init_rbm(
                k, training.visible_means(patterns, w), 12, scale=0.1
            ),
        )(keys[:3], weights)
        trained = jax.vmap(lambda rbm, w: fitted(rbm, patterns, w, 1500))(
            starts, weights
        )
        original, oracle, second = (
            jax.tree.map(lambda leaf, i=i: leaf[i], trained) for i in range(3)
        )
        tuned, hurt = (
            fitted(original, patterns, keep, 300),
            fitted(original, patterns, ascend, 20),
        )
        rows = {"nothing": original, "second": second, "tuned": tuned, "ascent": hurt}

        def score(rbm):
            mass = jnp.sum(
                jnp.where(forget, jnp.exp(machines.log_likelihood(rbm, patterns)), 0.0)
            )
            return jnp.stack([machines.exact_kl(oracle, rbm), mass * 7])

        return {name: score(rbm) for name, rbm in rows.items()}

    return jax.tree.map(
        np.asarray, jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 3))
    )


def test_descent_ascent_forgets_but_is_further_than_the_original():
    found = deletions()
    assert np.all(found["ascent"][:, 1] < 1e-3)
    assert np.all(found["nothing"][:, 1] > 0.9)
    assert np.all(found["ascent"][:, 0] > 10 * found["nothing"][:, 0])
    assert np.all(found["second"][:, 0] < 0.2 * found["nothing"][:, 0])


def test_fine_tuning_approaches_the_oracle():
    found = deletions()
    assert np.all(found["tuned"][:, 0] < 0.3 * found["nothing"][:, 0])
    assert np.all(found["tuned"][:, 1] < 0.1)


def test_retraining_after_dilution_stays_below_diluting_first():
    """Half of the connections removed at random, by the same masks."""
    patterns = machines.bars_and_stripes(3)
    even = jnp.full(14, 1 / 14)

    def one(key):
        k_init, k_mask = jax.random.split(key)
        mask = machines.random_mask(k_mask, (9, 12), 0.5)
        fresh = machines.init_rbm(k_init, patterns.mean(0), 12, scale=0.1)
        starts = jax.tree.map(
            lambda *leaves: jnp.stack(leaves), fresh, machines.dilute(fresh, mask)
        )
        trained = jax.vmap(lambda rbm: fitted(rbm, patterns, even, 1500))(starts)
        dense, before = (
            jax.tree.map(lambda leaf, i=i: leaf[i], trained) for i in range(2)
        )
        after = machines.dilute(dense, mask)
        rows = (dense, before, after, fitted(after, patterns, even, 1500))
        return jnp.stack(
            [jnp.mean(machines.log_likelihood(rbm, patterns)) for rbm in rows]
        )

    dense, before, after, retrained = np.asarray(
        jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 4))
    ).T
    assert np.all(dense > before)
    assert np.mean(before - retrained) > 0.1
    assert np.sum(before > retrained) >= 3
    assert np.all(retrained > after + 3)
    assert np.all(dense < -np.log(14)), (
        "no distribution does better than the uniform one on its patterns"
    )


@pytest.fixture(scope="module")
def rugged():
    """A machine whose chains need annealing, its log Z, and two annealings."""
    rbm = machine(9, 6, scale=1.5)

    def run(num_chains, num_betas):
        return jax.jit(
            lambda key: annealing.estimate_log_partition(
                key, rbm, jnp.zeros(9), num_chains=num_chains, num_betas=num_betas
            )
        )

    return rbm, float(machines.log_partition(rbm)), run(400, 300), run(400, 2)


def test_ais_agrees_with_enumeration(rugged):
    rbm, exact, fine, rough = rugged
    result = fine(jax.random.key(0))
    assert result.standard_error < 0.1
    assert abs(result.log_partition - exact) < 4 * result.standard_error
    weights = np.exp(np.asarray(result.log_weights, np.float64) - exact)
    np.testing.assert_allclose(
        np.mean(weights), np.exp(result.log_partition - exact), rtol=1e-4
    )
    np.testing.assert_allclose(
        np.std(weights, ddof=1) / np.mean(weights) / 20,
        result.standard_error,
        rtol=1e-3,
    )
    np.testing.assert_allclose(
        weights.sum() ** 2 / (weights**2).sum(), result.effective, rtol=1e-3
    )
    means = weights @ np.asarray(result.samples) / weights.sum()
    np.testing.assert_allclose(means, model_moments(rbm).visible, atol=0.15)
    assert rough(jax.random.key(0)).effective < 0.5 * result.effective


def test_ais_is_unbiased_and_estimates_its_error(rugged):
    """With two temperatures only, so that the error is large enough to be seen."""
    _, exact, _, rough = rugged
    results = [rough(key) for key in jax.random.split(jax.random.key(1), 60)]
    ratios = np.exp(
        np.array([float(result.log_partition) for result in results]) - exact
    )
    assert abs(np.mean(ratios) - 1) < 4 * np.std(ratios) / np.sqrt(60)
    claimed = np.sqrt(
        np.mean([float(result.standard_error) ** 2 for result in results])
    )
    np.testing.assert_allclose(claimed, np.std(ratios), rtol=0.4)


def test_ais_is_exact_without_connections():
    loose = machine(6, 4, removed=1.1)
    result = annealing.estimate_log_partition(
        jax.random.key(0), loose, loose.visible_bias, num_chains=5, num_betas=3
    )
    np.testing.assert_allclose(
        result.log_partition, machines.log_partition(loose), rtol=1e-5
    )
    assert result.standard_error < 1e-5


def test_reverse_ais_is_a_lower_estimate_that_tightens(rugged):
    rbm = rugged[0]
    base, states = jnp.zeros(9), machines.all_states(9)
    drawn = states[
        jax.random.categorical(
            jax.random.key(5), machines.log_distribution(rbm), shape=(200,)
        )
    ]
    exact = np.asarray(machines.log_likelihood(rbm, drawn))
    rough, fine = (
        np.asarray(
            jax.jit(functools.partial(annealing.bound_log_likelihood, num_betas=n))(
                jax.random.key(n), rbm, base, drawn
            )
        )
        for n in (3, 300)
    )
    assert np.mean(rough) < np.mean(fine) - 0.05
    np.testing.assert_allclose(np.mean(fine), np.mean(exact), atol=0.05)


def chained(weights, batch_size):
    state = training.init_pcd(jax.random.key(0), machine(3, 2), SGD, num_chains=1)
    options = {"tx": SGD, "num_steps": 1, "num_sweeps": 1, "batch_size": batch_size}
    return training.fit_pcd(
        jax.random.key(1), state, jnp.ones((2, 3)), weights, **options
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: machines.all_states(23), "cannot be enumerated"),
        (lambda: machines.log_partition(machine(23, 23)), "use estimate_log_partition"),
        (lambda: machines.exact_kl(machine(3, 2), machine(4, 2)), "must agree"),
        (lambda: machines.init_rbm(jax.random.key(0), jnp.ones(3), 0), "num_hidden"),
        (lambda: machines.dilute(machine(3, 2), jnp.ones((3, 2))), "pass bool"),
        (lambda: machines.random_mask(jax.random.key(0), (3, 2), 1.5), "fraction"),
        (lambda: machines.smallest_mask(jnp.ones((3, 2)), -0.1), "fraction"),
        (lambda: machines.bars_and_stripes(11), "choose 1 to 10"),
        (lambda: training.deletion_weights(jnp.ones(3)), "bool mask"),
        (
            lambda: training.deletion_weights(jnp.array([True, False]), ascent=-1.0),
            "ascent must be finite and not negative",
        ),
        (lambda: training.deletion_weights(jnp.ones(3, bool)), "3 of 3"),
        (lambda: training.deletion_weights(jnp.zeros(3, bool)), "0 of 3"),
        (
            lambda: machines.init_rbm(jax.random.key(0), jnp.array([0.5, jnp.nan]), 2),
            r"in \[0, 1\]",
        ),
        (lambda: chained(jnp.ones(2), 0), "batch_size"),
        (lambda: chained(jnp.zeros(2), 1), "weights of all samples are 0"),
        (
            lambda: annealing.bound_log_likelihood(
                jax.random.key(0), machine(3, 2), jnp.zeros(3), jnp.ones((4, 2))
            ),
            "samples must have shape",
        ),
        (
            lambda: training.moments(machine(3, 2), jnp.ones((4, 3)), jnp.ones(3)),
            "samples",
        ),
        (
            lambda: training.init_pcd(
                jax.random.key(0), machine(3, 2), SGD, num_chains=0
            ),
            "num_chains",
        ),
        (
            lambda: training.pcd_gradient(
                jax.random.key(0),
                machine(3, 2),
                jnp.ones((1, 3)),
                jnp.ones((1, 3)),
                jnp.ones(1),
                num_sweeps=0,
            ),
            "num_sweeps",
        ),
        (
            lambda: annealing.estimate_log_partition(
                jax.random.key(0), machine(3, 2), jnp.zeros(3), num_betas=0
            ),
            "num_betas",
        ),
        (
            lambda: annealing.estimate_log_partition(
                jax.random.key(0), machine(3, 2), jnp.zeros(2)
            ),
            "base_bias",
        ),
    ],
)
def test_bad_input_gives_one_line(call, message):
    with pytest.raises(InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_training_keeps_float32_where_jax_has_float64():
    with jax.enable_x64(True):
        visible = machines.bars_and_stripes(2)
        rbm = machines.init_rbm(jax.random.key(0), visible.mean(0), 2)
        weights = training.deletion_weights(jnp.arange(6) < 2)
        tx = optax.adam(0.1)
        exact = training.fit_exact(rbm, visible, weights, tx=tx, num_steps=2)
        state = training.init_pcd(jax.random.key(1), rbm, tx, num_chains=2)
        steps = {"num_steps": 2, "num_sweeps": 1, "batch_size": 2}
        state = training.fit_pcd(
            jax.random.key(2), state, visible, weights, tx=tx, **steps
        )
    for machine in (rbm, exact, state.rbm):
        assert all(leaf.dtype == np.float32 for leaf in machine[:3])
