"""Influence functions agree, dual, primal and retrained, with Newton's in NumPy."""

from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from unlearn_jax import influence
from unlearn_jax.influence.risk import half_curvatures
from unlearn_jax.losses import cross_entropy
from unlearn_jax.reuse import program
from unlearn_jax.types import InputError, Variables

COUNT, CLASSES, SIZE, RIDGE = 40, 3, 20, 0.05
RNG = np.random.default_rng(0)
JACOBIAN = RNG.normal(size=(COUNT, CLASSES, SIZE)) / np.sqrt(SIZE)
OFFSETS = RNG.normal(size=(COUNT, CLASSES))
# A sample is its offset and its Jacobian.
ROWS = np.concatenate([OFFSETS, JACOBIAN.reshape(COUNT, -1)], 1)
LABELS = RNG.integers(0, CLASSES, COUNT)
ONE_HOT = np.eye(CLASSES)[LABELS]
FORGET = np.arange(COUNT) % 10 < 3
TARGETS = {
    "cross-entropy": (cross_entropy, LABELS),
    "squared": (influence.squared_error, ONE_HOT),
}


def linear(params, rows):
    return rows[:, :CLASSES] + jnp.einsum(
        "ncp,p->nc", rows[:, CLASSES:].reshape(-1, CLASSES, SIZE), params
    )


def derivatives(name, params, keep):
    """Gradient and Hessian of the penalized mean loss, and the outputs, in NumPy."""
    wide, outputs = JACOBIAN[keep], OFFSETS[keep] + JACOBIAN[keep] @ params
    if name == "squared":
        slope, bend = (
            outputs - ONE_HOT[keep],
            np.broadcast_to(np.eye(CLASSES), (keep.sum(), CLASSES, CLASSES)),
        )
    else:
        odds = np.exp(outputs - outputs.max(1, keepdims=True))
        probs = odds / odds.sum(1, keepdims=True)
        slope, bend = (
            probs - ONE_HOT[keep],
            probs[:, :, None] * (np.eye(CLASSES) - probs[:, None, :]),
        )
    gradient = np.einsum("ncp,nc->p", wide, slope) / keep.sum() + RIDGE * params
    hessian = np.einsum(
        "nip,nij,njq->pq", wide, bend, wide
    ) / keep.sum() + RIDGE * np.eye(SIZE)
    return gradient, hessian, outputs


def train(name, keep):
    params = np.zeros(SIZE)
    for _ in range(30):
        gradient, hessian, _ = derivatives(name, params, keep)
        params = params - np.linalg.solve(hessian, gradient)
    assert np.linalg.norm(derivatives(name, params, keep)[0]) < 1e-13
    return params


EVERYWHERE = np.ones(COUNT, bool)
TRAINED = {name: train(name, EVERYWHERE) for name in TARGETS}
RETRAINED = {name: train(name, ~FORGET) for name in TARGETS}


def newton_step(name):
    """The paper's: the retained Hessian, the forgotten gradient."""
    _, hessian, _ = derivatives(name, TRAINED[name], ~FORGET)
    gradient = derivatives(name, TRAINED[name], FORGET)[0]
    return np.linalg.solve(hessian, FORGET.sum() / (~FORGET).sum() * gradient)


def off(got, wanted):
    return np.linalg.norm(np.asarray(got) - wanted) / np.linalg.norm(wanted)


def estimates(loss, rows, targets, params, forget):
    """Kernel, dual and primal changes by both solvers, and penalty, compiled once."""
    kernel = influence.ntk(linear, params, rows, batch_size=16)
    outputs = linear(params, rows)
    found = {}
    solvers = {"dense": influence.Dense(), "cg": influence.CG(tol=1e-13)}
    for name, solver in solvers.items():
        options = {
            "ridge": RIDGE,
            "loss": loss,
            "solver": solver,
            "num_forget": 12,
        }
        dual = influence.dual_change(kernel, outputs, targets, forget, **options)
        primal = influence.primal_change(
            linear, params, rows, targets, forget, **options, batch_size=16
        )
        found[name] = (
            influence.pull(linear, params, rows, dual.change, batch_size=16),
            primal.params,
        )
        found[f"residual {name}"] = jnp.maximum(dual.residual, primal.residual)
    penalty = influence.penalty_change(kernel, dual.alpha, dual.change, ridge=RIDGE)
    return found | {"kernel": kernel, "dual": dual, "penalty": penalty}


@pytest.mark.parametrize(("bits", "tolerance"), [(64, 1e-10), (32, 1e-5)])
@pytest.mark.parametrize("name", TARGETS)
def test_dual_and_primal_changes_match_numpys_newton_step(name, bits, tolerance):
    loss, targets = TARGETS[name]
    step = newton_step(name)
    with jax.enable_x64(bits == 64):
        rows, params = (
            jnp.asarray(array, f"f{bits // 8}") for array in (ROWS, TRAINED[name])
        )
        targets = targets.astype("i4" if targets.ndim == 1 else rows.dtype)
        run = jax.jit(partial(estimates, loss))
        found = jax.tree.map(
            np.asarray, run(rows, jnp.asarray(targets), params, jnp.asarray(FORGET))
        )
    assert found["kernel"].dtype == rows.dtype
    np.testing.assert_allclose(
        found["kernel"], np.einsum("acp,bdp->acbd", JACOBIAN, JACOBIAN), atol=tolerance
    )
    for solver in ("dense", "cg"):
        dual, primal = found[solver]
        assert off(dual, primal) < tolerance
        assert off(dual, step) < tolerance
        assert found[f"residual {solver}"] < tolerance
    alpha, change, _ = found["dual"]
    np.testing.assert_allclose(change[FORGET], -alpha[FORGET], rtol=tolerance)
    assert off(np.einsum("ncp,nc->p", JACOBIAN, alpha), TRAINED[name]) < tolerance
    assert off(influence.output_change(found["kernel"], change), JACOBIAN @ step) < 1e-4
    np.testing.assert_allclose(
        found["penalty"], RIDGE * TRAINED[name] @ step, rtol=10 * tolerance
    )


def test_step_is_exact_for_squared_loss_and_close_for_cross_entropy():
    def error(name):
        return off(TRAINED[name] + newton_step(name), RETRAINED[name]) / off(
            TRAINED[name], RETRAINED[name]
        )

    assert error("squared") < 1e-12  # with the above: so are dual and primal
    assert error("cross-entropy") < 1 / 20


def fits(loss, rows, targets, offsets):
    kernel, start = influence.ntk(linear, jnp.zeros(SIZE), rows), jnp.zeros(SIZE)
    dual = influence.fit_dual(kernel, targets, offsets=offsets, ridge=RIDGE, loss=loss)
    primal = influence.fit_primal(
        linear,
        start,
        rows,
        targets,
        ridge=RIDGE,
        loss=loss,
        solver=influence.CG(tol=1e-12),
    )
    return dual, primal


def test_fits_match_numpys_newton_method():
    with jax.enable_x64(True):
        data = (jnp.asarray(array[~FORGET]) for array in (ROWS, LABELS, OFFSETS))
        dual, primal = jax.jit(partial(fits, cross_entropy))(*data)
        wanted = RETRAINED["cross-entropy"]
        assert (
            off(np.einsum("ncp,nc->p", JACOBIAN[~FORGET], dual.alpha), wanted) < 1e-10
        )
        assert off(primal.params, wanted) < 1e-10
        assert max(dual.stationarity, primal.stationarity) < 1e-12
        np.testing.assert_allclose(
            dual.outputs,
            OFFSETS[~FORGET] + JACOBIAN[~FORGET] @ wanted,
            rtol=1e-9,
            atol=1e-9,
        )


def test_change_of_softmax_regression_is_within_a_20th_of_sklearns_retraining():
    """By a kernel that all outputs share; distances are relative to the original's."""
    images, labels = (array[:300] for array in load_digits(return_X_y=True))
    images, forget = images / 16, np.random.default_rng(1).permutation(300) < 30
    fit = {
        name: (
            LogisticRegression(
                C=1 / (keep.sum() * 1e-2),
                fit_intercept=False,
                solver="newton-cg",
                tol=1e-9,
            )
            .fit(images[keep], labels[keep])
            .coef_.T
        )
        for name, keep in (("original", forget | ~forget), ("retrained", ~forget))
    }
    rows, labels = jnp.asarray(images, jnp.float32), jnp.asarray(labels)
    outputs = jnp.asarray(images @ fit["original"], jnp.float32)

    def ask(rows, forget):
        kernel = influence.feature_kernel(rows)
        wide = jnp.einsum(
            "ab,cd->acbd", kernel, jnp.eye(10)
        )  # the same kernel written out
        options = {"ridge": 1e-2, "solver": influence.CG(), "num_forget": 30}
        found, full = (
            influence.dual_change(k, outputs, labels, forget, **options).change
            for k in (kernel, wide)
        )
        moved = influence.output_change(kernel, found)
        return found, full, moved, influence.loss_change(outputs, labels, moved)

    found, full, moved, losses = map(
        np.asarray, jax.jit(ask)(rows, jnp.asarray(forget))
    )
    predicted = fit["original"] + images.T @ found
    assert (
        off(predicted, fit["retrained"]) < off(fit["original"], fit["retrained"]) / 20
    )
    assert off(moved, images @ (fit["retrained"] - fit["original"])) < 1 / 20
    assert off(full, found) < 1e-4
    slope = np.asarray(jax.nn.softmax(outputs)) - np.eye(10)[labels]
    np.testing.assert_allclose(losses, np.sum(slope * moved, 1), rtol=1e-4, atol=1e-5)


def test_fit_without_offsets_is_ridge_regression():
    features = np.random.default_rng(2).normal(size=(30, 4))
    wanted = np.random.default_rng(3).normal(size=(30, 2))
    kernel = influence.feature_kernel(jnp.asarray(features, jnp.float32))
    options = {"ridge": 0.1, "loss": influence.squared_error, "num_steps": 1}
    got = jax.jit(partial(influence.fit_dual, **options))(
        kernel, jnp.asarray(wanted, jnp.float32)
    )
    weights = np.linalg.solve(
        features.T @ features + 30 * 0.1 * np.eye(4), features.T @ wanted
    )
    np.testing.assert_allclose(got.outputs, features @ weights, rtol=1e-4, atol=1e-5)


def test_half_curvatures_factor_singular_curvatures():
    """Cross-entropy's always are; confident and undecided samples at once."""
    outputs = jnp.asarray(
        np.random.default_rng(8).normal(size=(6, 4))
        * np.array([[0], [1], [3], [10], [30], [90]]),
        "f4",
    )
    factors = np.asarray(
        jax.jit(partial(half_curvatures, cross_entropy))(outputs, jnp.zeros(6, int))
    )
    probs = np.asarray(jax.nn.softmax(outputs), "f8")
    wanted = probs[:, :, None] * (np.eye(4) - probs[:, None, :])
    np.testing.assert_allclose(factors @ factors.transpose(0, 2, 1), wanted, atol=1e-6)
    assert np.isfinite(factors).all()


def test_kernel_of_a_convolutional_network_matches_differences(normed, blobs):
    """Without forward mode: Jacobian products match differences, kernels products."""
    variables = jax.jit(normed.init)(jax.random.key(3))
    apply, params = influence.outputs_of(normed, variables.state), variables.params
    images = jnp.asarray((255 * blobs.images[:5]).astype(np.uint8))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(4), len(leaves))
    tangent = tree.unflatten(
        [jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    )
    cotangents = jnp.asarray(np.random.default_rng(6).normal(size=(5, 3)), jnp.float32)

    @jax.jit
    def ask(params, tangent):
        move = lambda size: jax.tree.map(lambda w, v: w + size * v, params, tangent)
        pulled = influence.pull(apply, params, images, cotangents, batch_size=2)
        back = influence.pull(apply, params, images[:4], cotangents[:4])
        pairs = zip(jax.tree.leaves(pulled), jax.tree.leaves(tangent), strict=True)
        return {
            "pushed": influence.push(apply, params, tangent, images),
            "differences": (
                (apply(move(1e-3), images) - apply(move(-1e-3), images)) / 2e-3
            ),
            "expanded": (
                influence.linearize(apply, params)(move(1.0), images)
                - apply(params, images)
            ),
            "inner": sum(jnp.vdot(a, b) for a, b in pairs),
            "kernel": influence.ntk(apply, params, images, images[:4], batch_size=2),
            "through": influence.push(apply, params, back, images),
        }

    found = ask(params, tangent)
    np.testing.assert_allclose(
        found["pushed"], found["differences"], rtol=0.02, atol=0.02
    )
    np.testing.assert_allclose(found["expanded"], found["pushed"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        found["inner"], jnp.sum(cotangents * found["pushed"]), rtol=1e-4
    )
    assert found["kernel"].shape == (5, 3, 4, 3)
    product = influence.kernel_product(found["kernel"], cotangents[:4])
    np.testing.assert_allclose(product, found["through"], rtol=1e-3, atol=1e-3)


NORM = jax.jit(influence.cross_influence_norm)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), rank=st.integers(1, 12), scale=st.floats(0.01, 100.0))
def test_cross_influence_is_numpys_norm_and_at_most_one(seed, rank, scale):
    rows = scale * np.random.default_rng(seed).normal(size=(9, rank))
    kernel = (rows @ rows.T).astype("f4")
    parts = kernel[:6, 6:], kernel[:6, :6], kernel[6:, 6:]
    norms = [np.linalg.norm(part, 2) for part in parts]
    np.testing.assert_allclose(NORM(parts[0]), norms[0], rtol=1e-4)
    got = NORM(*parts)
    np.testing.assert_allclose(got, norms[0] / np.sqrt(norms[1] * norms[2]), rtol=1e-4)
    assert got <= 1 + 1e-5
    assert rank > 1 or got > 1 - 1e-4  # a single direction is shared


def test_cross_influence_is_zero_for_disjoint_sets_and_takes_several_outputs():
    rows = np.eye(9, dtype="f4")
    kernel = rows @ rows.T
    assert NORM(kernel[:6, 6:], kernel[:6, :6], kernel[6:, 6:]) == 0
    wide = np.random.default_rng(7).normal(size=(5, 2, 7)).astype("f4")
    kernel = np.einsum("acp,bdp->acbd", wide, wide)
    flat = kernel.reshape(10, 10)
    parts = flat[:6, 6:], flat[:6, :6], flat[6:, 6:]
    norms = [np.linalg.norm(part, 2) for part in parts]
    got = NORM(kernel[:3, :, 3:], kernel[:3, :, :3], kernel[3:, :, 3:])
    np.testing.assert_allclose(got, norms[0] / np.sqrt(norms[1] * norms[2]), rtol=1e-4)


KERNEL = jnp.eye(4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: influence.cross_influence_norm(KERNEL, KERNEL),
            "both kernel_rr and kernel_ff",
        ),
        (
            lambda: influence.cross_influence_norm(KERNEL, KERNEL[:2], KERNEL),
            "do not match one",
        ),
        (lambda: influence.cross_influence_norm(jnp.ones(3)), "must be"),
        (
            lambda: influence.ntk(
                linear, jnp.zeros(SIZE), jnp.zeros((2, 63)), batch_size=0
            ),
            "batch_size must be",
        ),
    ],
)
def test_unusable_kernels_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(
    ("forget", "options", "message"),
    [
        ([True, False, False], {}, "length 4"),
        ([1, 0, 0, 0], {}, "must be bool"),
        ([False] * 4, {}, "remove at least one"),
        ([True] * 4, {}, "leave one"),
        ([True, False, False, False], {"ridge": 0.0}, "positive, finite ridge"),
        ([True, False, False, False], {"solver": "lu"}, "unknown solver"),
        ([True, True, False, False], {"num_forget": 1}, "2 samples where num_forget"),
    ],
)
def test_unusable_requests_are_refused(forget, options, message):
    with pytest.raises(InputError, match=message):
        influence.dual_change(
            KERNEL,
            jnp.ones((4, 2)),
            jnp.zeros(4, int),
            jnp.asarray(forget),
            **{"ridge": 0.1, **options},
        )


def test_classes_out_of_range_and_broken_images_are_refused():
    """Without the check the last class, or none, would be taken."""
    images = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    forget = np.arange(6) < 2
    params = jnp.ones((4, 3))

    def remove(images, labels, loss=cross_entropy):
        influence.remove(
            lambda w, x: x @ w,
            params,
            images,
            labels,
            forget,
            ridge=0.1,
            loss=loss,
            warn=False,
        )

    remove(images, np.array([0, 1, 2, 0, 1, 2]))
    remove(images, np.zeros((6, 3)), influence.squared_error)
    for labels in ([0, 1, -1, 0, 1, 2], [0, 1, 99, 0, 1, 2]):
        with pytest.raises(InputError, match=r"targets: labels must lie in 0\.\.2"):
            remove(images, np.array(labels))
        with pytest.raises(InputError, match=r"targets: labels must lie in 0\.\.2"):
            influence.primal_change(
                lambda w, x: x @ w, params, images, np.array(labels), forget, ridge=0.1
            )
        with pytest.raises(InputError, match=r"targets: labels must lie in 0\.\.2"):
            influence.dual_change(
                images @ images.T, images @ params, labels, forget, ridge=0.1
            )
    images[3, 1] = np.nan
    with pytest.raises(InputError, match="removal: images contain NaN"):
        remove(images, np.array([0, 1, 2, 0, 1, 2]))


def test_integer_targets_are_fitted_and_classes_need_offsets():
    features = np.random.default_rng(2).normal(size=(6, 4)).astype(np.float32)
    kernel = features @ features.T
    labels = np.array([0, 1, 2, 0, 1, 2])
    options = {"ridge": 0.1, "loss": influence.squared_error}
    whole = influence.fit_dual(kernel, np.eye(3, dtype=int)[labels], **options)
    real = influence.fit_dual(kernel, np.eye(3, dtype=np.float32)[labels], **options)
    chex.assert_trees_all_equal(whole, real)
    with pytest.raises(InputError, match=r"pass offsets \[N, C\]"):
        influence.fit_dual(kernel, labels, ridge=0.1)
    with pytest.raises(InputError, match="targets: labels must lie in"):
        influence.fit_dual(kernel, labels + 1, ridge=0.1, offsets=np.zeros((6, 3)))


def test_traced_mask_needs_its_size():
    def ask(mask):
        outputs = jnp.ones((4, 2))
        return influence.dual_change(
            KERNEL, outputs, jnp.zeros(4, int), mask, ridge=0.1
        )

    with pytest.raises(InputError, match="pass num_forget"):
        jax.eval_shape(ask, jnp.array([True, False, False, False]))


@pytest.mark.parametrize(
    "options", [{"num_iters": 0}, {"num_iters": 1.5}, {"tol": 0.0}, {"tol": np.inf}]
)
def test_unusable_solvers_are_refused(options):
    with pytest.raises(InputError, match=f"{next(iter(options))} must be"):
        influence.CG(**options)


def test_fit_in_parameters_takes_conjugate_gradients_only():
    with pytest.raises(InputError, match=r"takes influence.CG\(\)"):
        influence.fit_primal(
            linear,
            jnp.zeros(SIZE),
            jnp.asarray(ROWS),
            jnp.asarray(LABELS),
            ridge=0.1,
            solver=influence.Dense(),
        )


def test_negative_numbers_of_steps_are_refused():
    with pytest.raises(InputError, match="num_steps must be an integer, 0 or more"):
        influence.fit_primal(
            linear, jnp.zeros(SIZE), ROWS, LABELS, ridge=0.1, num_steps=-1
        )
    with pytest.raises(InputError, match="num_steps must be an integer, 0 or more"):
        influence.fit_dual(KERNEL, np.eye(4), ridge=0.1, num_steps=-1)


def test_equal_solvers_are_equal_values():
    assert influence.CG(tol=1e-3) == influence.CG(tol=1e-3) != influence.CG()
    assert hash(influence.Dense()) == hash(influence.Dense())


def test_mismatched_outputs_and_targets_are_refused():
    options = {"ridge": 0.1, "loss": influence.squared_error}
    forget = jnp.array([True, False, False, False])
    with pytest.raises(AssertionError):
        influence.dual_change(KERNEL, jnp.ones((4, 2)), jnp.ones(4), forget, **options)


# --- any pytree of variables
# -------------------------------------------------------------------------------


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=True)(x.reshape(len(x), -1))
        return nn.Dense(3)(nn.tanh(x))


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(16, use_running_average=True, rngs=rngs)
        self.dense = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, x):
        return self.dense(nnx.tanh(self.norm(x.reshape(len(x), -1))))


def linen_model():
    net = LinenNet()
    return net.apply, net.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))


def nnx_model():
    graph, state = nnx.split(NnxNet(nnx.Rngs(0)))
    return lambda state, images: nnx.merge(graph, state)(images), state


def own_model():
    apply, variables = linen_model()
    own = Variables(variables["params"], {"batch_stats": variables["batch_stats"]})
    return lambda v, images: apply({"params": v.params, **v.state}, images), own


@pytest.mark.parametrize("make", [linen_model, nnx_model, own_model])
def test_removal_takes_any_pytree_of_variables_and_leaves_statistics(make, blobs):
    """The change is that of the trained part, bound by hand."""
    apply_fn, variables = make()
    params = influence.trained(variables)
    if make is nnx_model:
        rest = nnx.split_state(variables, nnx.Param, ...)[1]
        bound = lambda p, images: apply_fn(nnx.merge_state(p, rest), images)
    elif make is linen_model:
        bound = lambda p, images: apply_fn({**variables, "params": p}, images)
    else:
        bound = lambda p, images: apply_fn(Variables(p, variables.state), images)
    images = jnp.asarray(blobs.images)
    data = (images, jnp.asarray(blobs.labels), jnp.arange(60) < 6)
    options = {"ridge": 0.1, "warn": False}
    found = influence.remove(apply_fn, variables, *data, **options)
    wanted = influence.remove(bound, params, *data, **options)
    chex.assert_trees_all_close(found, wanted, rtol=1e-5)
    assert jax.tree.structure(found.params) == jax.tree.structure(params)
    assert len(jax.tree.leaves(params)) == 4
    linear = influence.linearize(apply_fn, variables)
    np.testing.assert_allclose(
        linear(variables, images), apply_fn(variables, images), rtol=1e-5, atol=1e-6
    )


def test_modules_and_models_are_refused_in_one_line(tiny):
    for wrong in (tiny, LinenNet(), NnxNet(nnx.Rngs(0))):
        with pytest.raises(InputError, match=r"pass model\.apply"):
            influence.ntk(wrong, {}, jnp.zeros((1, 4, 4, 1)))


def test_numpy_arrays_are_taken_as_jax_arrays_are():
    name = "cross-entropy"
    loss, targets = TARGETS[name]
    params = TRAINED[name]
    options = {"ridge": RIDGE, "loss": loss, "warn": False}
    given = (params, ROWS, targets, FORGET)
    expected = (*map(jnp.asarray, given[:3]), FORGET)
    for form in ("primal", "dual"):
        chex.assert_trees_all_close(
            influence.remove(linear, *given, form=form, **options),
            influence.remove(linear, *expected, form=form, **options),
            atol=1e-6,  # the gradient at the optimum is rounding alone
        )
    rows = jnp.asarray(ROWS)
    kernel = influence.ntk(linear, params, rows, rows[:5], batch_size=3)
    chex.assert_trees_all_close(
        influence.ntk(linear, params, ROWS, ROWS[:5], batch_size=3), kernel
    )
    whole = np.asarray(influence.ntk(linear, params, ROWS))
    fit = influence.fit_dual(
        whole, targets, ridge=RIDGE, offsets=OFFSETS, loss=loss, num_steps=2
    )
    chex.assert_tree_all_finite(fit)
    fit = influence.fit_primal(
        linear, params, ROWS, targets, ridge=RIDGE, loss=loss, num_steps=1
    )
    chex.assert_tree_all_finite(fit)


def test_norm_of_an_integer_kernel_is_that_of_floats():
    kernel = np.full((3, 1), 2)
    expected = influence.cross_influence_norm(kernel.astype(np.float32))
    assert influence.cross_influence_norm(kernel) == expected > 3


@pytest.mark.parametrize("solver", [influence.CG(num_iters=5), influence.Dense()])
def test_removal_keeps_brain_floats(solver, tiny, blobs):
    variables = tiny.init(jax.random.key(0))
    variables = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), variables)
    change, guard = influence.remove(
        tiny.apply,
        variables,
        blobs.images,
        blobs.labels,
        np.arange(60) < 5,
        ridge=jnp.float32(0.1),
        solver=solver,
        warn=False,
    )
    chex.assert_trees_all_equal_dtypes(change, variables.params)
    assert np.isfinite(guard.residual)


def test_removal_under_squared_error_reuses_its_program(tiny, blobs):
    arguments = (
        tiny.apply,
        tiny.init(jax.random.key(0)),
        blobs.images,
        np.eye(3, dtype=np.float32)[blobs.labels],
        np.arange(60) < 5,
    )
    options = {"ridge": 0.1, "loss": influence.squared_error, "warn": False}
    first = influence.remove(*arguments, **options)
    hits = program.cache_info().hits
    chex.assert_trees_all_equal(influence.remove(*arguments, **options), first)
    assert program.cache_info().hits == hits + 1
