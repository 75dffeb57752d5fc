import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax import linalg

SIZE = 48
"""Rows of a matrix; nine of them are enough work for jaxlib to divide a batch."""


def batch(shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def symmetric(shape):
    rows = batch(shape)
    return rows @ rows.swapaxes(-1, -2) + shape[-1] * np.eye(
        shape[-1], dtype=rows.dtype
    )


MATRICES = symmetric((2, 9, SIZE, SIZE))
RIGHT = batch((2, 9, SIZE, 3))
LOWER = np.linalg.cholesky(MATRICES)
CASES = {
    "eigh": (linalg.eigh, (MATRICES,)),
    "eigvalsh": (linalg.eigvalsh, (MATRICES,)),
    "svd": (linalg.svd, (batch((2, 9, SIZE, 20)),)),
    "inv": (linalg.inv, (MATRICES,)),
    "solve": (linalg.solve, (MATRICES, RIGHT)),
    "solve_positive": (linalg.solve_positive, (MATRICES, RIGHT)),
    "cholesky": (linalg.cholesky, (MATRICES,)),
    "solve_factored": (linalg.solve_factored, (LOWER, RIGHT)),
    "solve_lower": (linalg.solve_lower, (LOWER, RIGHT)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_batch_holds_the_factorizations_of_its_matrices(name):
    function, arrays = CASES[name]
    found = jax.jit(jax.vmap(jax.vmap(function)))(*arrays)
    for index in np.ndindex(2, 9):
        one = function(*(array[index] for array in arrays))
        for leaf, expected in zip(
            jax.tree.leaves(found), jax.tree.leaves(one), strict=True
        ):
            np.testing.assert_array_equal(leaf[index], expected)


@pytest.mark.parametrize("name", CASES)
def test_no_batch_reaches_lapack_on_cpu(name):
    """As batches that run at the same time wait for one another forever."""
    function, arrays = CASES[name]
    batched = jax.vmap(jax.vmap(function))
    text = jax.jit(batched).lower(*arrays).as_text()
    calls = re.findall(r"@(?:lapack|blas)\w+\(.*", text)
    assert calls
    for call in calls:
        assert not re.search(r"tensor<(\d+x){3,}f32>", call), call


def test_an_array_without_an_axis_serves_the_whole_batch():
    found = jax.vmap(linalg.solve, (None, 0))(MATRICES[0, 0], RIGHT[0])
    expected = np.linalg.solve(MATRICES[0, 0], RIGHT[0])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_values_are_those_of_numpy():
    matrix = MATRICES[0, 0]
    np.testing.assert_allclose(
        linalg.eigvalsh(matrix), np.linalg.eigvalsh(matrix), rtol=1e-4
    )
    left, values, right = linalg.svd(RIGHT[0, 0])
    np.testing.assert_allclose((left * values[None]) @ right, RIGHT[0, 0], atol=1e-5)
    np.testing.assert_allclose(linalg.inv(matrix) @ matrix, np.eye(SIZE), atol=1e-4)
    np.testing.assert_allclose(linalg.cholesky(matrix), LOWER[0, 0], atol=1e-4)
    right = RIGHT[0, 0]
    expected = np.linalg.solve(matrix, right)
    for solution in (
        linalg.solve(matrix, right),
        linalg.solve_positive(matrix, right),
        linalg.solve_factored(jnp.asarray(LOWER[0, 0]), right),
    ):
        np.testing.assert_allclose(solution, expected, rtol=1e-3, atol=1e-5)


def test_derivatives_are_those_of_the_factorization():
    def loss(solve, matrix, right):
        return jnp.sum(jax.vmap(solve)(matrix, right) ** 2)

    arguments = (MATRICES[0], RIGHT[0])
    found = jax.grad(loss, (1, 2))(linalg.solve, *arguments)
    expected = jax.grad(loss, (1, 2))(jnp.linalg.solve, *arguments)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
