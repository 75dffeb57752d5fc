"""Closed forms of the ascent test-beds match numerical minimizers; the trap holds."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import optimize

from unlearn_jax.contrib import testbeds
from unlearn_jax.contrib.testbeds import COUNTS, SHARED, Regime, Sizes
from unlearn_jax.types import InputError

NOTED = Sizes(1000, 100, 50, 0.01)
sizes = st.builds(
    lambda retain, forget, active, ridge: Sizes(
        retain, max(1, int(forget * retain)), max(1, int(active * retain)), ridge
    ),
    st.integers(30, 3000),
    st.floats(0.01, 1),
    st.floats(0.01, 1),
    st.floats(1e-3, 1),
)
shares = st.floats(0, 1)


def objective(weights, force, toward, ridge):
    """Loss and gradient of an objective, written out."""
    terms = [
        c * math.exp(min(-float(u @ weights), 500))
        for c, u in zip(force, toward, strict=True)
    ]
    slope = ridge * weights - sum(
        term * u for term, u in zip(terms, toward, strict=True)
    )
    return sum(terms) + ridge / 2 * float(weights @ weights), slope


def stationary(force, ridge, low, high):
    """Zeros of the derivative on a shared coordinate, by a grid and Brent's method."""
    slope = lambda w: ridge * w - force.sum() * math.exp(-w)
    grid = np.linspace(low, high, 4001)
    signs = np.sign([slope(w) for w in grid])
    return [
        optimize.brentq(slope, *grid[i : i + 2], xtol=1e-12)
        for i in np.flatnonzero(signs[1:] != signs[:-1])
    ]


@settings(deadline=None, max_examples=25)
@given(sizes, st.floats(0, 3))
def test_shared_closed_forms_are_the_stationary_points(size, share):
    alpha = share * size.num_forget / size.num_retain
    found, force = testbeds.shared_minimizers(size, alpha), testbeds.forces(size, alpha)
    limit = testbeds.alpha_limit(size)
    assume(
        abs(alpha / limit - 1) > 1e-3
    )  # at the limit itself minimum and maximum merge
    for name in ("original", "retrained"):
        expected = stationary(getattr(force, name), size.ridge, -1.0, 40.0)
        assert np.allclose([getattr(found, name)], expected, atol=1e-6), name
    lowest = -5.0 if np.isnan(found.ascent_maximum) else float(found.ascent_maximum) - 1
    expected = stationary(force.ascent, size.ridge, lowest, 40.0)
    assert len(expected) == [1, 2, 0][int(found.regime)]
    if found.regime == Regime.DIVERGES:
        assert alpha > limit
        assert np.isneginf(found.ascent)
    else:
        assert alpha < limit
        assert np.allclose(found.ascent, expected[-1], atol=1e-6)
        assert np.isnan(found.ascent_maximum) == (len(expected) == 1)
    if found.regime == Regime.LOCAL_MINIMUM:
        assert np.allclose(found.ascent_maximum, expected[0], atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(sizes, shares)
def test_shared_ordering_and_bounds(size, share):
    low, high = testbeds.harmful_range(size)
    alpha = low + share * (high - low)
    assert testbeds.ordering_holds(size, alpha)
    found = testbeds.shared_minimizers(size, alpha)
    assert (found.ascent - found.original) * (found.original - found.retrained) >= -1e-9
    # lemma 4, and lemma 5 just above the range
    ratio = (1 + alpha) * size.num_retain / size.num_all
    assert abs(found.retrained - found.original) <= abs(math.log(ratio)) + 1e-12
    above = testbeds.shared_minimizers(size, [high * 1.0001, high * 3])
    assert (np.abs(above.retrained - above.ascent) >= above.retrained - 1e-3).all()
    # with little to forget the ordering breaks: descent-ascent then starts by weighing
    # R more
    assert not testbeds.ordering_holds(size, 0.9 * low)


def newton(force, toward, ridge, start):
    """The stationary point from a start, by SciPy's root finder."""
    root = optimize.root(
        lambda w: objective(w, force, toward, ridge)[1], start, tol=1e-13
    )
    return root.x if root.success else None


@settings(deadline=None, max_examples=25)
@given(sizes, shares, st.floats(0, 0.95))
def test_pair_minimizers_are_minima(size, share, eps):
    alpha = 0.999 * share * float(testbeds.alpha_limit(size, eps))
    pair, force = (
        testbeds.pair_minimizers(size, alpha, eps),
        testbeds.forces(size, alpha),
    )
    toward = np.array([[1, eps], [eps, 1]])
    for name, weights, force_of in zip(pair._fields, pair, force, strict=True):
        slope = objective(weights, force_of, toward, size.ridge)[1]
        scale = size.ridge * (1 + np.abs(weights).max())
        assert np.abs(slope).max() < 1e-9 * scale, name
        hessian = size.ridge * np.eye(2) + sum(
            c * math.exp(-float(u @ weights)) * np.outer(u, u)
            for c, u in zip(force_of, toward, strict=True)
        )
        assert np.linalg.eigvalsh(hessian)[0] > 0, name
    for name in ("original", "retrained"):  # convex: the minimum, wherever one starts
        weights = getattr(pair, name)
        found = optimize.minimize(
            objective,
            np.zeros(2),
            (getattr(force, name), toward, size.ridge),
            jac=True,
            options={"gtol": 1e-12},
        )
        polished = newton(getattr(force, name), toward, size.ridge, found.x)
        assert np.allclose(
            found.x if polished is None else polished, weights, atol=1e-6
        ), name
    x, y = toward @ pair.retrained
    assert np.allclose(y, 2 * eps / (1 + eps**2) * x, atol=1e-9)


@pytest.mark.parametrize("eps", [0.0, 0.3, 0.9])
def test_ascent_has_no_stationary_point_above_the_limit(eps):
    limit = float(testbeds.alpha_limit(NOTED, eps))
    toward = np.array([[1, eps], [eps, 1]])
    starts = [
        np.array(start) for start in itertools.product(np.linspace(-6, 4, 9), repeat=2)
    ]
    points = {}
    for alpha in (0.98 * limit, 1.02 * limit):
        force = testbeds.forces(NOTED, alpha).ascent
        points[alpha] = [
            p
            for start in starts
            if (p := newton(force, toward, NOTED.ridge, start)) is not None
        ]
    below, above = points.values()
    pair = testbeds.pair_minimizers(NOTED, [0.98 * limit, 1.02 * limit], eps)
    assert min(np.abs(p - pair.ascent[0]).max() for p in below) < 1e-6
    assert not above
    assert np.isnan(pair.ascent[1]).all()
    if (
        eps == 0
    ):  # two coordinates without a link: y = -(alpha b / (lambda |F|)) exp(-y)
        assert np.isclose(
            limit,
            NOTED.ridge * NOTED.num_forget / (math.e * NOTED.num_active),
            rtol=1e-9,
        )


@settings(deadline=None, max_examples=60)
@given(sizes, shares, st.floats(0.01, 0.98))
def test_pair_ordering(size, share, eps):
    low, high = testbeds.harmful_range(size, eps)
    assume(low <= high)
    assert testbeds.ordering_holds(size, low + share * (high - low), eps)


def test_pair_ordering_fails_outside_the_harmful_range():
    held = testbeds.ordering_holds(NOTED, [1e-4, 0.02, 0.5], 0.5)
    # Too little to matter; harmful; no minimum.
    assert held.tolist() == [False, True, False]


def walk(force, toward, ridge, start, rate, num_steps, alternating):
    """Descent-ascent as two nested loops in float64."""
    weights, path = np.array(start, float), [np.array(start, float)]
    for _ in range(num_steps):
        for retained, forgotten in [(0, 1), (1, 0)] if alternating else [(1, 1)]:
            now = np.array(force) * [retained, forgotten]
            weights = weights - rate * objective(weights, now, toward, ridge)[1]
        path.append(weights)
    return np.array(path)


@pytest.mark.parametrize("alternating", [False, True])
def test_path_matches_a_written_out_loop(alternating):
    toward, force = np.array([[1, 0.7], [0.7, 1]]), testbeds.forces(NOTED, 0.05).ascent
    start = testbeds.pair_minimizers(NOTED, 0.05, 0.7).original
    chosen = {"learning_rate": 0.5, "num_steps": 200, "alternating": alternating}
    got = testbeds.gradient_path(
        force, testbeds.directions(0.7), NOTED.ridge, start, **chosen
    )
    expected = walk(force, toward, NOTED.ridge, start, 0.5, 200, alternating)
    assert got.shape == (201, 2)
    assert np.allclose(got, expected, atol=2e-5)


def test_alternating_is_simultaneous_with_twice_the_ridge_to_first_order():
    force, start = (
        testbeds.forces(NOTED, 0.03).ascent,
        testbeds.pair_minimizers(NOTED, 0.03, 0.5).original,
    )
    toward = np.array([[1, 0.5], [0.5, 1]])
    misses = []
    for rate in (0.4, 0.2, 0.1):
        ours = walk(force, toward, NOTED.ridge, start, rate, 1, alternating=True)[-1]
        doubled = walk(
            force, toward, 2 * NOTED.ridge, start, rate, 1, alternating=False
        )[-1]
        library = testbeds.gradient_path(
            force,
            testbeds.directions(0.5),
            NOTED.ridge,
            start,
            learning_rate=rate,
            num_steps=1,
            alternating=True,
        )
        assert np.allclose(library[-1], ours, atol=1e-6)
        misses.append(np.linalg.norm(ours - doubled))
    assert np.allclose(
        [misses[0] / misses[1], misses[1] / misses[2]], 4, rtol=0.05
    )  # second order


def test_early_stopping_helps_only_where_the_sets_are_nearly_independent():
    def best(force, eps, start, oracle):
        path = testbeds.gradient_path(
            force,
            testbeds.directions(eps),
            NOTED.ridge,
            start,
            learning_rate=0.5,
            num_steps=8000,
        )
        away = testbeds.distances(path, oracle)
        return away[0], jnp.min(away[1:]), away[-1]

    eps, alpha = (
        np.array([0.0, 0.3, 0.5, 0.7, 0.9, 0.9]),
        np.array([0.05, 0.05, 0.02, 0.05, 0.05, 0.09]),
    )
    pair = testbeds.pair_minimizers(NOTED, alpha, eps)
    start, early, last = jax.jit(jax.vmap(best))(
        testbeds.forces(NOTED, alpha).ascent, eps, pair.original, pair.retrained
    )
    assert np.allclose(start, [0.196, 0.092, 0.044, 0.032, 0.022, 0.012], atol=1e-3)
    assert np.allclose(early, [0.045, 0.065, 0.044, 0.033, 0.025, 0.014], atol=1e-3)
    assert (np.asarray(early < start) == [True, True, False, False, False, False]).all()
    assert np.isinf(last[:2]).all()
    assert np.allclose(last[2:], [0.327, 0.653, 0.329, 1.210], atol=5e-3)


def test_one_coordinate_leaves_the_oracle_from_the_first_step():
    found = testbeds.shared_minimizers(NOTED, 0.05)
    path = testbeds.gradient_path(
        testbeds.forces(NOTED, 0.05).ascent,
        SHARED,
        NOTED.ridge,
        found.original[None],
        learning_rate=5.0,
        num_steps=400,
    )
    away = np.asarray(testbeds.distances(path, found.retrained[None]))
    assert np.allclose(away[[0, 1, -1]], [0.0264, 0.0574, 0.3684], atol=1e-3)
    assert (np.diff(away[:40]) > 0).all()
    assert np.allclose(path[-1], found.ascent, atol=1e-4)


def toy(weights, counts, ridge, sigma_scale=2.0, sigma_shift=1.0):
    """The toy's loss from its definition with sigma."""
    a, b = weights
    total = ridge / 2 * (a * a + b * b)
    for x, y, count in zip((-1, 1, 3, 4), (-1, 1, -1, 1), counts, strict=True):
        sigma = 1 / (1 + math.exp(-(1 + a * x + b * x * x) / 2))
        total += count * (sigma_scale * sigma - sigma_shift - y) ** 2
    return total


@settings(deadline=None, max_examples=30)
@given(
    st.floats(-8, 8),
    st.floats(-8, 8),
    st.sampled_from(list(COUNTS)),
    st.sampled_from([0.1, 0.4]),
)
def test_trap_loss_equals_the_definition(a, b, name, ridge):
    got = testbeds.trap_loss([a, b], COUNTS[name], ridge=ridge)
    assert np.isclose(got, toy((a, b), COUNTS[name], ridge), rtol=1e-4, atol=1e-4)


def minima_by_search(counts, ridge):
    """Minima as SciPy finds them from scattered starts."""
    found = []
    for start in itertools.product(np.linspace(-5, 5, 6), repeat=2):
        end = optimize.minimize(
            toy,
            start,
            (counts, ridge),
            method="Nelder-Mead",
            options={"xatol": 1e-9, "fatol": 1e-13},
        )
        if all(np.linalg.norm(end.x - other) > 1e-3 for other in found):
            found.append(end.x)
    return sorted(found, key=lambda w: toy(w, counts, ridge))


@pytest.mark.parametrize(
    ("name", "weights", "losses", "signs"),
    [
        ("original", [(3.93, -0.74)], [5.125], ["-+++"]),
        ("retrained", [(3.83, -0.79), (3.85, -1.76)], [5.038, 9.615], ["-+++", "-+--"]),
        ("ascent", [(3.91, -1.85)], [1.647], ["-+--"]),
    ],
)
def test_trap_minima_match_the_paper_and_scipy(name, weights, losses, signs):
    found = testbeds.trap_minima(COUNTS[name])
    assert np.allclose(found.weights, weights, atol=6e-3)
    assert np.allclose(found.losses, losses, atol=1e-3)
    assert ["".join("+" if s > 0 else "-" for s in row) for row in found.signs] == signs
    searched = minima_by_search(COUNTS[name], 0.1)
    assert np.allclose(found.weights, searched, atol=1e-5)
    assert np.allclose(
        found.losses, [toy(w, COUNTS[name], 0.1) for w in found.weights], atol=1e-9
    )


def test_larger_ridge_removes_the_trap():
    assert [
        len(testbeds.trap_minima(COUNTS["retrained"], ridge=ridge).losses)
        for ridge in (0.1, 0.2, 0.4)
    ] == [
        2,
        1,
        1,
    ]


def test_fine_tuning_does_not_leave_the_trap():
    def end(start, name, num_steps=20_000):
        return testbeds.trap_path(
            start, jnp.asarray(COUNTS[name]), num_steps=num_steps, stride=num_steps
        )[-1]

    scratch = jnp.asarray([0.1, 0.1])
    original = end(scratch, "original")
    ends = [original, end(original, "retrained"), end(scratch, "retrained")]
    assert np.allclose(
        ends, [(3.933, -0.743), (3.831, -0.790), (3.831, -0.790)], atol=2e-3
    )
    ascended = end(original, "ascent")
    assert np.allclose(ascended, (3.911, -1.853), atol=2e-3)
    tuned = end(ascended, "retrained", 200_000)
    assert np.allclose(tuned, (3.846, -1.759), atol=2e-3)
    assert np.isclose(testbeds.trap_loss(tuned, COUNTS["retrained"]), 9.615, atol=1e-3)


def test_trap_path_is_descent():
    weights, path = np.array([1.0, -1.0]), [np.array([1.0, -1.0])]
    for _ in range(30):
        slope = optimize.approx_fprime(weights, toy, 1e-7, COUNTS["retrained"], 0.1)
        weights = weights - 0.005 * slope
        path.append(weights)
    got = testbeds.trap_path(
        jnp.asarray([1.0, -1.0]), jnp.asarray(COUNTS["retrained"]), num_steps=30
    )
    assert np.allclose(got, path, atol=1e-4)
    thinned = testbeds.trap_path(
        jnp.asarray([1.0, -1.0]),
        jnp.asarray(COUNTS["retrained"]),
        num_steps=30,
        stride=10,
    )
    assert np.allclose(thinned, got[::10], atol=1e-5)


@pytest.mark.parametrize(
    "call",
    [
        lambda: Sizes(0, 1, 1, 0.1),
        lambda: Sizes(10, 1, 11, 0.1),
        lambda: Sizes(10, 1, 5, 0.0),
        lambda: testbeds.forces(NOTED, -0.1),
        lambda: testbeds.shared_minimizers(NOTED, [0.1, math.nan]),
        lambda: testbeds.pair_minimizers(NOTED, 0.1, 1.0),
        lambda: testbeds.alpha_limit(NOTED, -0.1),
        lambda: testbeds.gradient_path(
            jnp.ones(2), SHARED, 0.1, jnp.ones(2), learning_rate=1, num_steps=1
        ),
        lambda: testbeds.trap_path(jnp.ones(2), jnp.ones(4), num_steps=10, stride=3),
        lambda: testbeds.trap_path(jnp.ones(3), jnp.ones(4), num_steps=1),
        lambda: testbeds.trap_loss(jnp.ones(2), jnp.ones(3)),
        lambda: testbeds.trap_minima([1, 2, 3]),
    ],
)
def test_bad_input_is_one_line(call):
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_ends_of_the_regimes_belong_to_the_lower_one():
    for retain in range(2, 40, 3):
        for forget in range(1, retain, 2):
            sizes = testbeds.Sizes(retain, forget, 1, 0.01)
            limit = testbeds.alpha_limit(sizes)
            alpha = [forget / retain, limit, np.nextafter(limit, 1e9)]
            points = testbeds.shared_minimizers(sizes, alpha)
            assert points.regime.tolist() == [0, 1, 2]
            assert np.isnan(points.ascent_maximum).tolist() == [True, False, True]
            np.testing.assert_allclose(points.ascent, [0, -1, -np.inf], atol=1e-6)
