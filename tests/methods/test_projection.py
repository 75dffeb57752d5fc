"""SVD projection against singular value decompositions in NumPy; boundary expanding
against a model that is wider.
"""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from support.convolutions import im2col
from support.method_checks import (
    FORGET,
    HALF,
    linear_problem,
    small_problem,
    softmax,
)
from support.problems import unchecked_problem

from unlearn_jax import methods, models, train
from unlearn_jax.methods import BoundaryExpand, SVDProjection
from unlearn_jax.methods.boundary_expand import widen
from unlearn_jax.methods.svd_projection import balanced_sample
from unlearn_jax.types import Dataset, InputError, Problem, Variables

RNG = np.random.default_rng(8)


def test_nnx_model_is_projected_and_expanded(blobs, key):
    flatten = lambda images: images.reshape(len(images), -1)
    model = models.from_nnx(
        lambda rngs: nnx.Sequential(flatten, nnx.Linear(16, 3, rngs=rngs))
    )
    k_init, k_svd, k_expand = jax.random.split(key, 3)
    problem = class_problem(model, model.init(k_init), blobs)
    projected, _ = jax.jit(SVDProjection())(k_svd, problem)
    expanded, _ = jax.jit(BoundaryExpand(learning_rate=0.1))(k_expand, problem)
    for variables in (projected, expanded):
        chex.assert_trees_all_equal_shapes_and_dtypes(variables, problem.variables)
    first, last, wide = (
        variables.params["layers"][1]
        for variables in (problem.variables, projected, expanded)
    )
    rows = blobs.images.reshape(60, -1)
    expected = slow_projection(
        np.asarray(first["kernel"]),
        rows[blobs.labels != 1],
        rows[blobs.labels == 1],
        100,
        3,
    )
    np.testing.assert_allclose(last["kernel"], expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(last["bias"], first["bias"])
    assert (wide["bias"] < first["bias"]).all()  # every class loses to the new one


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        (SVDProjection, {"alpha_retain": 0.0}, "alpha_retain must be positive"),
        (SVDProjection, {"alpha_retain": 1e-4}, "alpha_retain must be at least 1e-3"),
        (SVDProjection, {"alpha_forget": np.inf}, "alpha_forget must be positive"),
        (SVDProjection, {"num_patches": 0}, "num_patches must be a positive integer"),
        (SVDProjection, {"patches": "some"}, "unknown patches"),
        (BoundaryExpand, {"learning_rate": -1.0}, "learning_rate must be positive"),
    ],
)
def test_values_out_of_range_are_refused(factory, options, message):
    with pytest.raises(InputError, match=message):
        factory(**options)


@pytest.mark.parametrize(
    ("factory", "message"),
    [(SVDProjection, "no dense"), (BoundaryExpand, "ends in a linear")],
)
def test_models_without_layers_are_refused(factory, message, blobs, key):
    model = models.from_functions(
        lambda key: jnp.ones(3), lambda w, images: jnp.mean(images, (1, 2)) * w[None]
    )
    problem = unchecked_problem(model, Variables(jnp.ones(3), {}), blobs, FORGET)
    with pytest.raises(InputError, match=message):
        factory()(key, problem)


def class_problem(model, variables, data, classes=(1,), removed=None):
    return unchecked_problem(
        model, variables, data, np.isin(data.labels, classes), removed=removed
    )


def accuracies(model, variables, data, classes):
    """Of the forgotten classes, and of the others."""
    right = (
        np.argmax(np.asarray(model.apply(variables, jnp.asarray(data.images))), -1)
        == data.labels
    )
    gone = np.isin(data.labels, classes)
    return right[gone].mean(), right[~gone].mean()


@pytest.fixture(scope="module")
def trained(tiny, blobs):
    recipe = train.Recipe(30, 20, train.sgd(0.1))
    variables = train.fit(
        jax.random.key(2), tiny, blobs, np.ones(60, bool), recipe, epochs_per_call=30
    )[0].variables
    assert accuracies(tiny, variables, blobs, [1]) == (1, 1)
    return variables


# --- SVD
# --------------------------------------------------------------------------------------
# ---------------------


def slow_importance(rows, alpha):
    """``P`` from the singular values of an activation matrix ``[n, D]``."""
    _, sigma, directions = np.linalg.svd(np.asarray(rows, float), full_matrices=False)
    share = sigma**2 / np.sum(sigma**2)
    return (
        directions.T @ np.diag(alpha * share / ((alpha - 1) * share + 1)) @ directions
    )


def slow_projection(columns, retained, forgotten, alpha_retain, alpha_forget):
    """``W (I - (P_f - P_f P_r))^T`` of weights stored as ``W^T`` ``[D, out]``."""
    p_r, p_f = (
        slow_importance(retained, alpha_retain),
        slow_importance(forgotten, alpha_forget),
    )
    return (columns.T @ (np.eye(len(columns)) - (p_f - p_f @ p_r)).T).T


def slow_patches(images, side, *, stride=1, dilation=1, pad=0):
    """The patches of a square kernel, ``[B, positions, side, side, channels]``."""
    images = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    span = (side - 1) * dilation + 1
    starts = range(0, images.shape[1] - span + 1, stride)
    cuts = [
        images[:, i : i + span : dilation, j : j + span : dilation]
        for i in starts
        for j in starts
    ]
    return np.stack(cuts, 1)


def test_a_perceptron_is_projected_layer_by_layer(tiny, trained, blobs, key):
    problem = class_problem(tiny, trained, blobs, [0, 2], removed=np.arange(60) == 1)
    variables, info = jax.jit(
        SVDProjection(alpha_retain=30.0, alpha_forget=4.0, batch_size=32)
    )(key, problem)
    assert info.num_gradients == 59
    assert info.losses.shape == (0,)
    inputs = blobs.images.reshape(60, -1)
    for name in ("Dense_0", "Dense_1"):
        kernel, bias = (
            np.asarray(trained.params[name][part]) for part in ("kernel", "bias")
        )
        rows = [inputs[np.asarray(mask)] for mask in (problem.retain, problem.forget)]
        expected = slow_projection(kernel, *rows, 30.0, 4.0)
        np.testing.assert_allclose(
            variables.params[name]["kernel"], expected, rtol=1e-4, atol=1e-5
        )
        np.testing.assert_array_equal(variables.params[name]["bias"], bias)
        inputs = np.maximum(inputs @ kernel + bias, 0)  # of the original model


def test_convolution_is_projected_on_its_patches(key):
    """Strides, padding, dilation and groups, by hand; the weights are stored in other
    layouts.
    """
    images = RNG.uniform(0, 1, (12, 7, 7, 2)).astype("f4")
    kernels = {
        "grouped": RNG.normal(size=(4, 1, 2, 2)),
        "head": RNG.normal(size=(3, 64)),
    }  # OIHW, [C, D]
    params = {
        name: jnp.asarray(kernel, jnp.float32) for name, kernel in kernels.items()
    }

    def apply(params, images):
        hidden = lax.conv_general_dilated(
            images,
            params["grouped"],
            (2, 2),
            [(1, 1), (1, 1)],
            rhs_dilation=(2, 2),
            dimension_numbers=("NHWC", "OIHW", "NHWC"),
            feature_group_count=2,
        )
        return jax.nn.relu(hidden).reshape(len(images), -1) @ params["head"].T

    model, labels = models.from_functions(lambda key: params, apply), np.arange(12) % 3
    problem = class_problem(
        model, Variables(params, {}), Dataset(images, labels.astype("i4")), [2]
    )
    got = jax.jit(SVDProjection(alpha_retain=10.0, alpha_forget=2.0, batch_size=5))(
        key, problem
    )[0].params

    patches = slow_patches(
        images, 2, stride=2, dilation=2, pad=1
    )  # [12, 16, 2, 2, channels]
    hidden = np.zeros((12, 16, 4))
    for group in range(2):  # an input channel and two outputs each
        columns = kernels["grouped"][2 * group : 2 * group + 2].reshape(2, 4).T
        rows = patches[..., group].reshape(12, 16, 4)
        hidden[..., 2 * group : 2 * group + 2] = rows @ columns
        expected = slow_projection(
            columns,
            rows[labels != 2].reshape(-1, 4),
            rows[labels == 2].reshape(-1, 4),
            10,
            2,
        )
        stored = np.asarray(got["grouped"])[2 * group : 2 * group + 2].reshape(2, 4).T
        np.testing.assert_allclose(stored, expected, rtol=1e-4, atol=1e-5)
    rows = np.maximum(hidden, 0).reshape(12, -1)
    expected = slow_projection(
        kernels["head"].T, rows[labels != 2], rows[labels == 2], 10, 2
    )
    np.testing.assert_allclose(got["head"].T, expected, rtol=1e-4, atol=1e-5)


def test_every_form_of_the_convolution_gives_the_same(blobs, key, monkeypatch):
    monkeypatch.setitem(models.CONVOLUTIONS, "im2col", im2col)
    results = []
    for form in ("canonical", "im2col"):
        model = models.build(
            "cnn", (4, 4, 1), 3, widths=(4,), batch_norm=True, conv=form
        )
        variables = jax.jit(model.init)(jax.random.key(1))
        moved, _ = jax.jit(SVDProjection(batch_size=64))(
            key, class_problem(model, variables, blobs)
        )
        chex.assert_trees_all_equal(moved.state, variables.state)
        chex.assert_trees_all_equal(
            moved.params["BatchNorm_0"], variables.params["BatchNorm_0"]
        )
        results.append(moved)
        key = jax.random.clone(key)
    chex.assert_trees_all_close(*results, rtol=1e-4, atol=1e-5)
    kernel = np.asarray(variables.params["Conv_0"]["kernel"])
    rows = slow_patches(blobs.images, 3, pad=1).reshape(60, 16, 9)
    rows = [
        rows[blobs.labels != 1].reshape(-1, 9),
        rows[blobs.labels == 1].reshape(-1, 9),
    ]
    expected = slow_projection(kernel.reshape(9, 4), *rows, 100, 3).reshape(3, 3, 1, 4)
    np.testing.assert_allclose(
        results[0].params["Conv_0"]["kernel"], expected, rtol=1e-3, atol=1e-5
    )


@jax.jit
def _first_column(images, alphas):
    model = models.from_functions(
        lambda key: jnp.ones((4, 3)), lambda w, x: x.reshape(len(x), -1) @ w
    )
    forget, labels = jnp.arange(12) < 4, jnp.arange(12) % 3
    problem = Problem(
        model, Variables(jnp.ones((4, 3)), {}), Dataset(images, labels), forget, 4
    )
    method = SVDProjection(alpha_retain=alphas[0], alpha_forget=alphas[1])
    return method(jax.random.key(0), problem)[0].params[:, 0]


def ones_projected(images, alpha_retain=100.0, alpha_forget=3.0):
    """What is left of four weights that are 1; the first four of the twelve rows are
    D_F. The alphas are traced.
    """
    return np.asarray(
        _first_column(images.astype("f4"), np.array([alpha_retain, alpha_forget], "f4"))
    )


def test_directions_of_the_forget_set_alone_vanish():
    along, beside = (
        np.tile([0.7, 0, 0, 0], (4, 1)),
        RNG.uniform(0, 1, (8, 4))
        * [
            0,
            1,
            1,
            1,
        ],
    )
    np.testing.assert_allclose(
        ones_projected(np.concatenate([along, beside])), [0, 1, 1, 1], atol=1e-5
    )
    # the only direction of D_R stays whole, whatever the alphas
    np.testing.assert_allclose(
        ones_projected(np.concatenate([along] * 3)), 1, atol=1e-5
    )


def test_projections_at_the_edges_of_the_alphas():
    spread = np.concatenate([RNG.uniform(0, 1, (4, 4)), np.tile(np.eye(4), (2, 1))])
    assert np.abs(ones_projected(spread) - 1).max() > 1e-2
    np.testing.assert_allclose(
        ones_projected(spread, alpha_retain=1e5), 1, atol=1e-3
    )  # P_r = I
    np.testing.assert_allclose(
        ones_projected(spread, alpha_forget=1e-3), 1, atol=2e-2
    )  # P_f = 0
    np.testing.assert_array_equal(
        ones_projected(np.zeros((12, 4))), 1
    )  # no activations, as in dead layers


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 99),
    powers=st.tuples(st.floats(-2, 3), st.floats(-2, 3)),
    rank=st.integers(1, 4),
)
def test_projection_by_solving_matches_the_decomposition(seed, powers, rank):
    """Small and large alphas, sets that span the whole space or not."""
    rng = np.random.default_rng(seed)
    images = (rng.uniform(0, 1, (12, rank)) @ rng.normal(size=(rank, 4))).astype("f4")
    expected = slow_projection(
        np.ones((4, 1)), images[4:], images[:4], 10 ** powers[0], 10 ** powers[1]
    )
    got = ones_projected(images, 10 ** powers[0], 10 ** powers[1])
    np.testing.assert_allclose(got, expected[:, 0], rtol=2e-3, atol=2e-3)


def test_a_weight_used_twice_is_projected_once(key):
    """Both uses' inputs count: the activation matrix has the rows of both."""
    model = models.from_functions(
        lambda key: None, lambda w, x: (x.reshape(-1, 2) @ w - x.reshape(-1, 2)) @ w
    )
    weights, images = RNG.normal(size=(2, 2)), RNG.uniform(0, 1, (9, 1, 2, 1))
    data = Dataset(images.astype("f4"), np.arange(9) % 3)
    problem = class_problem(
        model, Variables(jnp.asarray(weights, jnp.float32), {}), data
    )
    got = jax.jit(SVDProjection())(key, problem)[0].params
    first = images.reshape(9, 2)
    rows = [
        np.concatenate([x, x @ weights - x])
        for x in (first[data.labels != 1], first[data.labels == 1])
    ]
    np.testing.assert_allclose(
        got, slow_projection(weights, *rows, 100, 3), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("width", [4, 16])
def test_tied_weights_are_refused(width, blobs, key):
    """Transposed the second time, so that the two uses have inputs of different spaces,
    whatever their sizes.
    """
    params = {"tied": jnp.ones((16, width)), "head": jnp.ones((16, 3))}
    model = models.from_functions(
        lambda key: params,
        lambda w, x: (
            jnp.tanh(x.reshape(len(x), -1) @ w["tied"]) @ w["tied"].T @ w["head"]
        ),
    )
    with pytest.raises(InputError, match="used in two forms"):
        SVDProjection()(key, class_problem(model, Variables(params, {}), blobs))


def test_patches_are_drawn_without_replacement():
    """Channel c is at position c alone: the share of each direction says how often its
    position was drawn.
    """
    images = np.concatenate(
        [np.zeros((3, 4, 4, 16)), np.eye(16).reshape(1, 4, 4, 16)]
    ).astype("f4")
    model = models.from_functions(
        lambda key: None,
        lambda w, x: jnp.mean(
            models.canonical_conv(x, w["kernel"], (1, 1), "VALID"), (1, 2)
        ),
    )
    data, params = (
        Dataset(images, np.array([0, 0, 0, 1])),
        {"kernel": jnp.ones((1, 1, 16, 2))},
    )
    problem = class_problem(model, Variables(params, {}), data)
    run = jax.jit(SVDProjection(alpha_forget=1.0, num_patches=5))
    keys = jax.random.split(jax.random.key(1))
    drawn = [
        np.asarray(run(key, problem)[0].params["kernel"])[0, 0, :, 0] for key in keys
    ]
    for column in drawn:
        np.testing.assert_allclose(np.sort(column), [0.8] * 5 + [1.0] * 11, rtol=1e-5)
    assert not np.array_equal(*drawn)


def test_drawn_window_is_a_patch_of_the_padded_image(key):
    images, labels = RNG.normal(size=(4, 7, 7, 1)), np.array([0, 0, 1, 1])
    model = models.from_functions(
        lambda key: None,
        lambda w, x: jnp.mean(
            models.canonical_conv(x, w["kernel"], (1, 1), "SAME"), (1, 2)
        ),
    )
    kernel = RNG.normal(size=(2, 2, 1, 2))
    data = Dataset(images.astype("f4"), labels)
    problem = class_problem(
        model, Variables({"kernel": jnp.asarray(kernel, jnp.float32)}, {}), data
    )
    got = (
        jax.jit(SVDProjection(patches="window"))(key, problem)[0]
        .params["kernel"]
        .reshape(4, 2)
    )

    def rows(part, i, j):
        """Patches of a window of 6 x 6, padded below and to the right."""
        return slow_patches(
            np.pad(part[:, i : i + 6, j : j + 6], ((0, 0), (0, 1), (0, 1), (0, 0))), 2
        ).reshape(-1, 4)

    retained, forgotten = images[:2], images[2:]
    places = list(itertools.product(range(2), repeat=4))
    gaps = [
        np.abs(
            slow_projection(
                kernel.reshape(4, 2),
                rows(retained, a, b),
                rows(forgotten, c, d),
                100,
                3,
            )
            - got
        ).max()
        for a, b, c, d in places
    ]
    assert np.sort(gaps)[0] < 1e-5 < np.sort(gaps)[1]


_balanced = jax.jit(balanced_sample, static_argnums=3)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), count=st.sampled_from([1, 7, 20]))
def test_balanced_sample_is_balanced(seed, count):
    rng = np.random.default_rng(seed)
    labels, member = (
        rng.integers(0, 4, 40).astype("i4"),
        np.isin(np.arange(40), rng.permutation(40)[:20]),
    )
    chosen = np.asarray(_balanced(jax.random.key(seed), labels, member, count))
    assert len(set(chosen)) == count
    assert member[chosen].all()
    drawn, there = (
        np.bincount(labels[chosen], minlength=4),
        np.bincount(labels[member], minlength=4),
    )
    for a, b in itertools.permutations(range(4), 2):
        assert drawn[a] <= drawn[b] + 1 or drawn[b] == there[b]


def test_a_sample_is_drawn_by_the_key():
    labels, member = jnp.zeros(30, int), jnp.arange(30) < 20
    draws = np.array(
        [
            _balanced(key, labels, member, 5)
            for key in jax.random.split(jax.random.key(0), 20)
        ]
    )
    assert len(np.unique(draws)) == 20


# --- boundary expanding
# --------------------------------------------------------------------------------------
# --------


@pytest.mark.parametrize(
    "method", [SVDProjection(), BoundaryExpand(learning_rate=0.02, batch_size=20)]
)
def test_the_forgotten_class_falls_and_the_others_stay(
    method, tiny, trained, blobs, key
):
    moved, _ = jax.jit(method)(key, class_problem(tiny, trained, blobs))
    forgotten, others = accuracies(tiny, moved, blobs, [1])
    assert forgotten < 0.2
    assert others > 0.9


def slow_expand(start, row, images, labels, steps, rate, momentum=0.9):
    """Softmax regression with a fourth class; ``steps`` says of each full-batch step
    which samples and which labels.
    """
    wide = np.concatenate(
        [np.asarray(start, float), np.asarray(row, float)[:, None]], 1
    )
    bias, velocity = 0.0, [0.0, 0.0]
    for chosen in steps:
        x = images[chosen].reshape(-1, 16).astype(float)
        target = np.eye(4)[
            labels[chosen] if (chosen != HALF).any() else np.full(len(x), 3)
        ]
        error = (softmax(x @ wide + bias * np.eye(4)[3]) - target) / len(x)
        velocity = [
            momentum * v + g
            for v, g in zip(velocity, (x.T @ error, error[:, 3].sum()), strict=True)
        ]
        wide, bias = wide - rate * velocity[0], bias - rate * velocity[1]
    return wide[:, :3]


@pytest.mark.parametrize("retain", [False, True])
def test_expanding_a_linear_model_by_hand(retain, blobs, key):
    problem = linear_problem(blobs)
    row = widen(jax.random.split(jax.random.clone(key))[0], problem)[0].params.weight
    method = BoundaryExpand(
        retain=retain, learning_rate=0.3, num_epochs=2, batch_size=30
    )
    variables, info = jax.jit(method)(key, problem)
    steps = [~HALF, HALF] * 2 if retain else [HALF] * 2
    expected = slow_expand(
        problem.variables.params, row, blobs.images, blobs.labels, steps, 0.3
    )
    np.testing.assert_allclose(variables.params, expected, rtol=1e-4, atol=1e-5)
    assert variables.params.shape == (16, 3)  # the fourth class is gone
    assert info.num_gradients == 30 * len(steps)
    assert (info.losses > 0).all()


def test_the_new_row_is_drawn_like_the_head(blobs, key):
    model = models.from_functions(
        lambda key: jnp.zeros((2000, 3)),
        lambda w, x: jnp.tile(x.reshape(len(x), -1), (1, 125)) @ w,
    )
    problem = unchecked_problem(
        model, Variables(jnp.zeros((2000, 3)), {}), blobs, FORGET
    )
    widened, num_classes = widen(key, problem)
    assert num_classes == 3
    assert widened.params.bias == 0
    assert abs(np.mean(widened.params.weight)) < 4 * np.sqrt(2 / 2004 / 2000)
    np.testing.assert_allclose(np.var(widened.params.weight), 2 / 2004, rtol=0.15)


def test_expanding_is_finetuning_a_wider_network(normed, blobs, key):
    """Convolution and BatchNorm in training mode: the same as a network of four classes
    that learns the last.
    """
    options = {
        "learning_rate": 0.05,
        "num_epochs": 2,
        "batch_size": 6,
        "weight_decay": 0.0,
    }
    problem = small_problem(normed, blobs)
    (params, weight, _), state = widen(
        jax.random.split(jax.random.clone(key))[0], problem
    )[0]
    head = params["Dense_0"]
    wider = {
        "kernel": jnp.concatenate([head["kernel"], weight[:, None]], 1),
        "bias": jnp.append(head["bias"], 0.0),
    }
    model = models.build("cnn", (4, 4, 1), 4, widths=(4,), batch_norm=True)
    data = Dataset(blobs.images, np.full(60, 3, "i4"))
    wide = methods.make_problem(
        model, Variables({**params, "Dense_0": wider}, state), data, ~FORGET
    )
    expected, _ = jax.jit(methods.FineTune(**options))(jax.random.clone(key), wide)
    got, _ = jax.jit(BoundaryExpand(**options))(key, problem)
    chex.assert_trees_all_close(got.state, expected.state, rtol=1e-4, atol=1e-5)
    cut = {name: leaf[..., :3] for name, leaf in expected.params["Dense_0"].items()}
    chex.assert_trees_all_close(
        got.params, {**expected.params, "Dense_0": cut}, rtol=1e-3, atol=1e-5
    )


def test_a_frozen_head_stays_and_the_body_takes_the_same_first_step(normed, blobs, key):
    problem = small_problem(normed, blobs)
    options = {"learning_rate": 0.05, "num_epochs": 1, "batch_size": 6}
    free, frozen = (
        jax.jit(BoundaryExpand(**options, freeze_head=freeze))(
            jax.random.clone(key), problem
        )[0]
        for freeze in (False, True)
    )
    chex.assert_trees_all_equal(
        frozen.params["Dense_0"], problem.variables.params["Dense_0"]
    )
    assert (
        optax.tree.norm(
            jax.tree.map(jnp.subtract, free.params["Dense_0"], frozen.params["Dense_0"])
        )
        > 1e-3
    )
    body = [{**v.params, "Dense_0": None} for v in (free, frozen)]
    chex.assert_trees_all_close(*body, rtol=1e-4, atol=1e-6)
    assert not np.allclose(
        frozen.params["Conv_0"]["kernel"], problem.variables.params["Conv_0"]["kernel"]
    )
