"""PowerQR and Lanczos against the SVD, on prescribed spectra and on every layer of a
network.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.convolutions import numpy_matrix

from unlearn_jax import models
from unlearn_jax.layers import layers
from unlearn_jax.spectral._power_qr import (
    Spectrum,
    estimate_all,
    lanczos,
    power_qr,
)
from unlearn_jax.spectral.norms import (
    _spectra,
    log10_lipschitz_product,
    named,
    spectral_norms,
    top_spectrum,
)
from unlearn_jax.spectral.operators import linear_map
from unlearn_jax.types import InputError


def prescribed(sigma, shape=(12, 10), seed=0):
    """A matrix of given singular values, and its right singular vectors as rows."""
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.normal(size=(shape[0], len(sigma))))[0]
    right = np.linalg.qr(rng.normal(size=(shape[1], len(sigma))))[0].T
    return (left * np.asarray(sigma)) @ right, right


def iterate(matrix, start, **options):
    return power_qr(lambda x: matrix @ x, start, **options)


run = jax.jit(iterate, static_argnames=("num_iters", "shift"))


def test_a_prescribed_spectrum_and_its_vectors():
    sigma = [4.0, 2.5, 1.5, 0.7, 0.3]
    matrix, right = prescribed(sigma)
    found = run(
        matrix.astype("f4"), jax.random.normal(jax.random.key(0), (4, 10)), num_iters=40
    )
    np.testing.assert_allclose(found.sigma, sigma[:4], rtol=1e-5)
    np.testing.assert_allclose(np.abs(found.vectors @ right.T), np.eye(4, 5), atol=1e-3)
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(4), atol=1e-5)
    alone = run(
        matrix.astype("f4"),
        1e-3 * jax.random.normal(jax.random.key(1), (1, 10)),
        num_iters=40,
    )
    np.testing.assert_allclose(alone.sigma, [4.0], rtol=1e-5)


def test_more_vectors_than_the_map_has_rank():
    matrix, _ = prescribed([3.0, 1.0])
    start = jax.random.normal(jax.random.key(0), (5, 10))
    for shift in (0.0, 1.0):
        found = run(matrix.astype("f4"), start, num_iters=20, shift=shift)
        np.testing.assert_allclose(found.sigma, [3, 1, 0, 0, 0], atol=1e-5)
        np.testing.assert_allclose(
            found.vectors @ found.vectors.T, np.eye(5), atol=1e-5
        )
    for count in (1, 3):
        still = run(jnp.zeros((12, 10)), start[:count], num_iters=2)
        assert (still.sigma == 0).all()
        assert np.isfinite(still.vectors).all()


def test_pytrees_in_and_out():
    matrix, right = prescribed([2.0, 1.0, 0.5])
    dense = jnp.asarray(matrix, jnp.float32)

    def tree_map(x):
        out = dense @ jnp.concatenate([x["a"].reshape(-1), x["b"]])
        return out[:5].reshape(5, 1), (out[5:],)

    start = {
        "a": jax.random.normal(jax.random.key(0), (2, 2, 3)),
        "b": jax.random.normal(jax.random.key(1), (2, 4)),
    }
    found = power_qr(tree_map, start, num_iters=30)
    np.testing.assert_allclose(found.sigma, [2, 1], rtol=1e-5)
    flat = jnp.concatenate([found.vectors["a"].reshape(2, 6), found.vectors["b"]], 1)
    np.testing.assert_allclose(np.abs(flat @ right.T), np.eye(2, 3), atol=1e-4)
    sigma, _ = lanczos(tree_map, jax.tree.map(lambda leaf: leaf[0], start), num_iters=9)
    np.testing.assert_allclose(sigma[:3], [2, 1, 0.5], rtol=1e-5)


def test_signs_of_qr_do_not_matter_and_estimates_stay_below_the_singular_values():
    """Householder QR gives negative diagonals; values read off them, as in released
    code, are then wrong.
    """
    rng = np.random.default_rng(0)
    matrix, starts = (
        rng.normal(size=(20, 24)) / 5,
        rng.normal(size=(64, 8, 24)).astype("f4"),
    )
    truth = np.linalg.svd(matrix, compute_uv=False)[:8]
    found = jax.jit(
        jax.vmap(
            lambda start: iterate(matrix.astype("f4"), start, num_iters=20, shift=1.0)
        )
    )(starts)
    assert (np.asarray(found.sigma) <= truth * (1 + 1e-5)).all()
    assert (np.asarray(found.sigma) >= truth * 0.8).all()
    wrong = 0
    for start in starts.astype("f8"):
        block = start.T
        for _ in range(20):
            block, triangle = np.linalg.qr(block + matrix.T @ (matrix @ block))
        wrong += (np.sqrt(np.abs(np.diag(triangle) - 1)) > truth + 0.1).any()
    assert wrong > 0


def test_small_singular_values_keep_their_relative_precision():
    """``sqrt(R - 1)`` in float32 has an absolute error near 3e-4: nothing is left of
    these.
    """
    sigma = np.array([1.0, 1e-2, 1e-3, 1e-4])
    diagonal = np.zeros((6, 6), "f4")
    diagonal[[3, 0, 5, 2], [3, 0, 5, 2]] = sigma
    found = run(diagonal, jax.random.normal(jax.random.key(0), (4, 6)), num_iters=20)
    np.testing.assert_allclose(found.sigma, sigma, rtol=1e-3)
    one = np.sqrt(np.float32(1) + sigma.astype("f4") ** 2 - np.float32(1))
    assert abs(one[3] / sigma[3] - 1) > 0.1
    sharp, _ = lanczos(lambda x: diagonal @ x, jnp.ones(6), num_iters=6)
    np.testing.assert_allclose(sharp[:3], sigma[:3], rtol=1e-3)


@pytest.mark.parametrize("scale", [1e-15, 1e-11, 1e10, 1e15])
@pytest.mark.parametrize("count", [1, 2])
def test_maps_of_extreme_norms_are_measured(scale, count):
    matrix = np.diag(np.array([1, 3, 2], "f4")) * np.float32(scale)
    start = jax.random.normal(jax.random.key(0), (count, 3))
    for shift in (0.0, np.float32(scale) ** 2):
        measured = run(matrix, start, num_iters=40, shift=float(shift))
        np.testing.assert_allclose(
            measured.sigma, scale * np.array([3.0, 2.0][:count]), rtol=1e-4
        )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), log_scale=st.floats(-6, 6), steps=st.integers(1, 3))
def test_estimates_rise_monotonically_below_the_singular_values(seed, log_scale, steps):
    rng = np.random.default_rng(seed)
    matrix = (10**log_scale * rng.normal(size=(7, 9))).astype("f4")
    truth = np.linalg.svd(matrix.astype("f8"), compute_uv=False)
    found, last = None, 0.0
    start = rng.normal(size=(3, 9)).astype("f4")
    for _ in range(steps):
        found = run(matrix, start if found is None else found.vectors, num_iters=1)
        assert (np.asarray(found.sigma) <= truth[:3] * (1 + 1e-5)).all()
        assert (np.diff(found.sigma) <= 0).all()
        assert found.sigma[0] >= last * (1 - 1e-5)
        last = found.sigma[0]


@pytest.mark.parametrize("dtype", [np.float64, np.int32, jnp.bfloat16])
def test_starts_of_any_type_are_taken(dtype):
    """NumPy's arrays too: only their values matter."""
    matrix = np.diag([3.0, 2.0, 1.0]).astype("f4")
    start = np.array([1, 2, 3], dtype)
    found = power_qr(lambda x: matrix @ x, start[None], num_iters=40)
    np.testing.assert_allclose(found.sigma, [3.0], rtol=1e-5)
    sigma, _ = lanczos(lambda x: matrix @ x, start, num_iters=3)
    np.testing.assert_allclose(sigma, [3.0, 2.0, 1.0], rtol=1e-5)


def test_a_warm_start_needs_one_iteration():
    sigma = np.linspace(2, 1, 10)
    matrix, _ = prescribed(sigma)
    cold = jax.random.normal(jax.random.key(0), (2, 10))
    warm = run(matrix.astype("f4"), cold, num_iters=200).vectors
    moved = (matrix + 0.01 * np.random.default_rng(1).normal(size=matrix.shape)).astype(
        "f4"
    )
    truth = np.linalg.svd(moved, compute_uv=False)[0]
    once = {
        name: float(run(moved, start, num_iters=1).sigma[0])
        for name, start in {"w": warm, "c": cold}.items()
    }
    assert truth * (1 - 1e-3) < once["w"] <= truth * (1 + 1e-5)
    assert once["c"] < truth * (1 - 1e-2)
    plain = run(matrix.astype("f4"), cold, num_iters=10).sigma[0]
    assert run(matrix.astype("f4"), cold, num_iters=10, shift=1.0).sigma[0] < plain


def test_lanczos_survives_every_breakdown_and_bounds_its_error():
    start = jax.random.normal(jax.random.key(0), (8,))
    cases = {
        "orthogonal": prescribed(np.ones(8), (8, 8))[0],
        "multiple": prescribed([3, 3, 3, 1, 1], (9, 8))[0],
        "zero": np.zeros((5, 8)),
        "rank one": np.outer(np.arange(6.0), np.arange(8.0)),
        "one row": np.arange(8.0).reshape(1, 8),
        "tiny": 1e-12 * np.random.default_rng(0).normal(size=(8, 8)),
    }
    for name, matrix in cases.items():
        single = matrix.astype("f4")
        sigma, residual = lanczos(
            lambda x, single=single: single @ x, start, num_iters=50
        )
        truth = np.linalg.svd(matrix, compute_uv=False)
        assert sigma.shape == truth.shape, name
        np.testing.assert_allclose(
            sigma, truth, rtol=1e-5, atol=1e-5 * truth[0], err_msg=name
        )
        assert (residual <= 1e-4 * truth[0]).all(), name
    matrix = np.random.default_rng(1).normal(size=(40, 30)).astype("f4")
    truth = np.linalg.svd(matrix, compute_uv=False)
    few, residual = lanczos(lambda x: matrix @ x, jnp.ones(30), num_iters=6)
    nearest = np.abs(np.asarray(few)[:, None] - truth[None]).min(1)
    assert (nearest <= np.asarray(residual) * (1 + 1e-4)).all()
    assert (np.asarray(few) <= truth[:6] * (1 + 1e-5)).all()
    assert residual[0] > 1e-3


def test_lanczos_agrees_with_matfree_and_is_never_behind():
    """Its bidiagonal matrix lacks the last column that ours has."""
    decomp, eig = (
        pytest.importorskip("matfree.decomp"),
        pytest.importorskip("matfree.eig"),
    )
    matrix = np.random.default_rng(2).normal(size=(30, 20)).astype("f4")
    truth = np.linalg.svd(matrix, compute_uv=False)
    for count, tolerance in ((5, 0.3), (14, 1e-4)):
        _, other, _ = eig.svd_partial(decomp.bidiag(count))(
            lambda x: matrix @ x, jnp.ones(20)
        )
        ours, _ = lanczos(lambda x: matrix @ x, jnp.ones(20), num_iters=count)
        assert (np.asarray(ours) >= np.asarray(other) * (1 - 1e-5)).all()
        assert (np.asarray(ours) <= truth[:count] * (1 + 1e-5)).all()
        np.testing.assert_allclose(ours[0], other[0], rtol=tolerance)


@pytest.mark.parametrize("method", ["lanczos", "power_qr"])
def test_maps_of_many_sizes_in_one_loop_have_their_own_singular_values(method):
    """Also where a map has fewer rows than its neighbors have iterations."""
    rng = np.random.default_rng(6)
    shapes = [(12, 10), (10, 15), (2, 9), (3, 2), (300, 4)]
    matrices = [rng.normal(size=shape).astype("f4") for shape in shapes]
    counts = [3, 2, 1, 2, 4]
    starts = [rng.normal(size=(5, shape[1])).astype("f4") for shape in shapes]
    last = [
        Spectrum(jnp.full(count, 7.0), jnp.ones((count, shape[1])))
        for count, shape in zip(counts, shapes, strict=True)
    ]

    @jax.jit
    def run(matrices):
        maps = [
            linear_map(lambda x, matrix=matrix: matrix @ x, matrix.shape[1:])
            for matrix in matrices
        ]
        is_due = jnp.arange(5) != 1
        return estimate_all(maps, starts, last, is_due, method=method, num_iters=12 * 3)

    for i, (found, matrix) in enumerate(zip(run(matrices), matrices, strict=True)):
        if i == 1:
            assert (found.sigma == 7).all()
            assert (found.vectors == 1).all()
            continue
        truth = np.linalg.svd(matrix, compute_uv=False)[: counts[i]]
        np.testing.assert_allclose(found.sigma, truth, rtol=1e-2)
        np.testing.assert_allclose(found.sigma[0], truth[0], rtol=1e-4)
        lengths = np.linalg.norm(matrix @ found.vectors.T, axis=0)
        np.testing.assert_allclose(lengths, found.sigma, rtol=1e-4)
        np.testing.assert_allclose(
            found.vectors @ found.vectors.T, np.eye(counts[i]), atol=1e-5
        )


def random_net(name, shape, **fields):
    """A model whose BatchNorms are far from the identity."""
    model = models.build(name, shape, 3, **fields)
    rng = np.random.default_rng(5)
    stir = lambda leaf: (
        leaf
        if leaf.ndim > 1
        else jnp.asarray(rng.uniform(0.3, 3, leaf.shape), leaf.dtype)
    )
    return model, jax.tree.map(stir, jax.jit(model.init)(jax.random.key(0)))


def dense_norms(model, variables, shape):
    """Norms by SVD of the matrices, with the scales that the names of Linen's
    BatchNorms promise.
    """
    norms = {}
    for layer in layers(model.apply, variables, jnp.zeros((1, *shape))):
        parts = layer.path.split("/")[1:-1]
        kernel = np.asarray(layer.kernel, "f8")
        if layer.kind == "dense":
            norms[layer.path] = np.linalg.svd(kernel, compute_uv=False)[0]
            continue
        norm, stats = variables.params, variables.state.get("batch_stats", {})
        for part in parts:
            norm, stats = (
                norm[part.replace("Conv", "BatchNorm")],
                stats[part.replace("Conv", "BatchNorm")],
            )
        kernel = kernel * np.asarray(norm["scale"] / np.sqrt(stats["var"] + 1e-5))
        (pad, _), (stride, _) = (
            layer.options["padding"][0],
            layer.options["window_strides"],
        )
        matrix = numpy_matrix(
            kernel, layer.inputs.shape[1:], (None, stride, pad, 1, "constant", 1)
        )
        norms[layer.path] = np.linalg.svd(matrix, compute_uv=False)[0]
    return norms


@pytest.mark.parametrize("name", ["resnet", "cnn"])
def test_every_layer_of_a_network_in_one_compiled_call(name):
    shape = (6, 6, 2)
    fields = (
        {"blocks": (1, 1), "width": 3}
        if name == "resnet"
        else {"widths": (3, 4), "batch_norm": True}
    )
    model, variables = random_net(name, shape, **fields)
    sample = jnp.zeros((5, *shape))
    expected = dense_norms(model, variables, shape)
    norms = spectral_norms(model.apply, variables, sample)
    assert list(norms) == list(expected)
    assert len(norms) == {"resnet": 7, "cnn": 3}[name]
    for path, value in norms.items():
        np.testing.assert_allclose(value, expected[path], rtol=1e-4, err_msg=path)
    compiled = _spectra._cache_size()
    half = spectral_norms(
        model.apply, jax.tree.map(lambda leaf: leaf / 2, variables), sample
    )
    assert _spectra._cache_size() == compiled
    assert half["params/Dense_0/kernel"] == pytest.approx(
        float(norms["params/Dense_0/kernel"]) / 2
    )

    first = top_spectrum(model.apply, variables, sample, num_vectors=2, num_iters=30)
    warm = {path: found.vectors for path, found in first.items()}
    num_programs = []
    for _ in range(2):
        again = top_spectrum(
            model.apply, variables, sample, num_vectors=2, num_iters=30, warm=warm
        )
        warm = {path: found.vectors for path, found in again.items()}
        num_programs.append(_spectra._cache_size())
    assert num_programs[0] == num_programs[1]
    for path, found in again.items():
        assert (
            first[path].sigma[0] * (1 - 1e-5)
            <= found.sigma[0]
            <= expected[path] * (1 + 1e-5)
        )
        np.testing.assert_allclose(found.sigma[0], expected[path], rtol=5e-3)


def test_stacked_models_the_same_weight_twice_and_fewer_inputs_than_vectors():
    weights = {"a": np.diag([3.0, 2.0]).astype("f4"), "b": np.ones((2, 3), "f4")}
    apply = lambda w, x: jax.nn.relu(jax.nn.relu(x @ w["a"]) @ w["a"] * 2) @ w["b"]
    sample = jnp.zeros((1, 2))
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), weights)
    norms = jax.vmap(lambda w: spectral_norms(apply, w, sample, method="power_qr"))(
        stacked
    )
    np.testing.assert_allclose(norms["a"], [3, 6], rtol=1e-5)
    np.testing.assert_allclose(norms["a (2)"], [6, 12], rtol=1e-5)
    np.testing.assert_allclose(norms["b"], np.sqrt([6, 24]), rtol=1e-5)
    spectra = top_spectrum(apply, weights, sample, num_vectors=5, num_iters=20)
    np.testing.assert_allclose(spectra["a"].sigma, [3, 2], rtol=1e-5)


def test_the_product_of_the_norms_bounds_every_slope():
    model, variables = random_net("mlp", (3, 3, 1), widths=(8, 6))
    images = jax.random.uniform(jax.random.key(1), (20, 3, 3, 1))
    bound = 10 ** log10_lipschitz_product(
        spectral_norms(model.apply, variables, images)
    )
    slopes = jax.vmap(jax.jacrev(lambda x: model.apply(variables, x[None])[0]))(
        images
    ).reshape(20, 3, 9)
    steepest = np.linalg.svd(slopes, compute_uv=False).max()
    assert 0.05 * bound < steepest <= bound


def test_unsupported_input_is_refused_in_one_line():
    matrix = jnp.ones((3, 2))
    with pytest.raises(InputError, match="num_iters must be a positive integer"):
        iterate(matrix, jnp.ones((1, 2)), num_iters=0)
    with pytest.raises(InputError, match="ask for fewer"):
        iterate(matrix, jnp.ones((3, 2)), num_iters=1)
    with pytest.raises(InputError, match="num_iters"):
        lanczos(lambda x: matrix @ x, jnp.ones(2), num_iters=0)
    with pytest.raises(InputError, match="no affine layer"):
        named([])
    with pytest.raises(InputError, match="choose lanczos or power_qr"):
        spectral_norms(lambda w, x: x @ w, matrix, jnp.ones((1, 3)), method="svd")
    with pytest.raises(InputError, match="num_vectors"):
        top_spectrum(lambda w, x: x @ w, matrix, jnp.ones((1, 3)), num_vectors=0)
