"""Solvers of the linear systems of influence functions, as values."""

from collections.abc import Callable
from typing import Any

from jax.scipy.sparse.linalg import cg

from unlearn_jax.checks import check_counts, check_positive
from unlearn_jax.types import Array, InputError, PyTree
from unlearn_jax.values import Real, value


@value
class CG:
    """Conjugate gradients, which only need products with the matrix.

    Attributes:
      tol: residual at which to stop, relative to the right-hand side, positive; 1e-8 in
        the paper.
      num_iters: largest number of products; 500 in the paper.

    Raises:
      InputError: a number out of range.
    """

    tol: Real = 1e-6
    num_iters: int = 500

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_counts(num_iters=self.num_iters)
        check_positive(tol=self.tol)


@value
class Dense:
    """Cholesky factorization of the matrix, written out."""


Solver = CG | Dense


def check_solver(solver: Any) -> None:
    """Raise on anything but a solver.

    Raises:
      InputError: an object that is not a solver; the message names it.
    """
    if not isinstance(solver, CG | Dense):
        raise InputError(
            f"unknown solver {solver!r}: choose influence.CG() or influence.Dense()"
        )


def conjugate_gradients(
    system: Callable[[Any], Any],
    right: PyTree,
    solver: CG,
    *,
    atol: float | Array = 0.0,
) -> PyTree:
    """Solve ``system(x) = right`` for a positive definite linear function.

    Args:
      system: linear function of trees like ``right``.
      right: right-hand side, any tree.
      solver: solver with the tolerance and the number of iterations.
      atol: residual at which to stop, absolute.

    Returns:
      The solution, a tree like ``right``.
    """
    limits = {"tol": solver.tol, "atol": atol, "maxiter": solver.num_iters}
    return cg(system, right, **limits)[0]  # pyright: ignore[reportArgumentType]
