"""Influence unlearning (IU): one Newton-like step with WoodFisher's inverse Hessian."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from unlearn_jax import linalg
from unlearn_jax.checks import check_counts, check_finite, check_positive
from unlearn_jax.methods.gradients import (
    Batches,
    batches_of,
    example_gradients,
    mean_gradient,
    members,
    weighted_gradient,
)
from unlearn_jax.types import (
    Array,
    Params,
    Problem,
    UnlearnInfo,
    Variables,
)
from unlearn_jax.values import Real, value


@value
class Influence:
    """Influence unlearning: one step ``alpha H^-1 v`` of the parameters, no training.

    Published in arXiv 2304.04934 (the method) and 2004.14340 (WoodFisher). Let ``g`` be
    the gradient of a sample's cross-entropy in evaluation mode. Over all of D_F and
    D_R,

        ``v = sum_F g / (n_F + n_R) - n_F / ((n_F + n_R) n_R) sum_R g``,

    and ``H = damping I + (1/N) sum g g^T`` over ``N`` retained samples drawn with the
    key: WoodFisher's estimate of the Hessian. At a stationary point of the loss over D,
    ``alpha=1`` with the true Hessian over D_R is Newton's step towards the retrained
    model. BatchNorm statistics do not change. Reads D_R and D_F.

    **The inverse.** WoodFisher defines ``H^-1`` by a recursion over single samples
    (Sherman-Morrison):
    ``H_(n+1)^-1 = H_n^-1 - H_n^-1 g g^T H_n^-1 / (N + g^T H_n^-1 g)`` from
    ``H_0^-1 = I / damping``. ``woodfisher`` computes the product of ``H^-1`` and ``v``
    from the ``[N, N]`` matrix of the gradients' inner products (Woodbury): exactly,
    independently of the samples' order, and in the memory of two batches of models.
    ``released`` is the recursion of the l1-sparse and SalUn codes,
    ``t = o.g; k -= (k.g) / (N + t) o; o -= t / (N + t) o``, from ``k = v / damping``
    and ``o = g_1 / damping``. It uses ``o`` in place of ``H_n^-1`` times the *next*
    gradient. ``o`` stays a multiple of the first sample's gradient, so ``H^-1 v`` is
    ``v`` minus a multiple of that single gradient. (SalUn's code reads two more
    samples, in the order of the data set.) With ``damping=1`` and a trained model's
    small gradients, both results are close to ``v``: a gradient step.

    **Stability.** Nothing is iterated to convergence. With ``woodfisher``,
    ``|H^-1 v| <= |v| / damping`` up to rounding: the system is solved with the
    eigenvalues of its matrix, except those that are only rounding errors. The result is
    finite if the gradients' inner products and ``v / damping`` are. ``released`` is not
    bounded: its denominators may come close to 0 if gradients are large and opposed to
    each other. An alpha that is too large ruins the model in one step, since no loss is
    computed. In float32, a damping below about 1e-4 of the largest eigenvalue of ``H``
    loses the small directions of ``v`` to rounding.

    Published values: damping 1 (implied by ``o`` and ``k`` above; WoodFisher itself
    uses 1e-5) and N 1000; alpha in [1, 20] (SalUn) or [1, 100] (RUM). A user of the
    code reported that only alpha below 1 worked; the code's default is 0.2, and Deep
    Unlearn searches [0, 1].

    Attributes:
      alpha: factor of the step; 0 returns the original.
      damping: constant added to the diagonal of ``H``, positive; a very large one gives
        the step ``v / damping``.
      inverse: ``woodfisher`` or ``released``, described above.
      num_samples: ``N``, capped at the number of retained samples.
      batch_size: samples at a time; changes memory and cost, not the value.
        ``woodfisher`` computes every gradient ``2 + N / batch_size`` times.
    """

    alpha: Real = 1.0
    damping: Real = 1.0
    inverse: Literal["woodfisher", "released"] = "woodfisher"
    num_samples: int = 1000
    batch_size: int = 64

    def __post_init__(self) -> None:
        """Raise on values that no step could use."""
        check_finite(alpha=self.alpha)
        check_positive(damping=self.damping)
        check_counts(num_samples=self.num_samples, batch_size=self.batch_size)

    def __call__(self, key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        """Take the step.

        Args:
          key: PRNG key for the samples of the Hessian; consumed.
          problem: gives the model and the sets.
        """
        num_forget = problem.num_forget
        num_retain = problem.num_retain
        over_forget = mean_gradient(
            problem, problem.forget, num_forget, batch_size=self.batch_size
        )
        over_retain = mean_gradient(
            problem, problem.retain, num_retain, batch_size=self.batch_size
        )
        fraction = num_forget / (num_forget + num_retain)
        direction = jax.tree.map(
            lambda forget, retain: fraction * (forget - retain),
            over_forget,
            over_retain,
        )
        count = min(self.num_samples, num_retain)
        drawn = jax.random.choice(
            key, members(problem.retain, num_retain), (count,), replace=False
        )
        cost = num_forget + num_retain
        if self.inverse == "released":
            step = _released(problem, direction, drawn, self.damping)
            cost += count
        else:
            batches = batches_of(drawn, self.batch_size)
            step = _woodfisher(problem, direction, batches, count, self.damping)
            cost += batches.position.size * (2 + len(batches.position))
        params = jax.tree.map(
            lambda param, change: param + self.alpha * change,
            problem.variables.params,
            step,
        )
        return problem.variables._replace(params=params), UnlearnInfo(
            jnp.zeros(0), jnp.asarray(cost, jnp.int32)
        )


def _woodfisher(
    problem: Problem,
    direction: Params,
    batches: Batches,
    count: int,
    damping: Real,
) -> Params:
    """Return ``(damping I + G^T G / count)^-1 v`` by Woodbury's identity.

    The result is ``(v - G^T (count damping I + G G^T)^-1 G v) / damping``, where the
    rows of ``G`` are the samples' gradients.
    """

    def block(outer: Batches) -> tuple[Array, Array]:
        rows = example_gradients(problem, outer.position)
        products = lax.map(
            lambda inner: _products(rows, example_gradients(problem, inner.position)),
            batches,
        )
        single_row = jax.tree.map(lambda leaf: leaf[None], direction)
        return products, _products(rows, single_row)[:, 0]

    # [num_batches, num_batches, B, B] and [num_batches, B]
    products, along = lax.map(block, batches)
    present = batches.weight.reshape(-1)
    gram = (
        products.transpose(0, 2, 1, 3).reshape(len(present), -1)
        * present[:, None]
        * present[None, :]
    )
    solution = _solve(gram, count * damping, present * along.reshape(-1))
    back = weighted_gradient(
        problem, batches._replace(weight=solution.reshape(batches.weight.shape))
    )
    return jax.tree.map(lambda v, b: (v - b) / damping, direction, back)


def _solve(gram: Array, damping: Real, right: Array) -> Array:
    """Return ``(damping I + gram)^-1 right`` for any Gram matrix, even a singular one.

    Uses eigenvalues, since a Cholesky decomposition fails if the damping is tiny.
    Directions whose damped eigenvalue is within rounding of 0 are left out.
    """
    eigenvalues, vectors = linalg.eigh(gram)
    system = jnp.maximum(eigenvalues, 0.0) + damping
    rounding = len(gram) * jnp.finfo(gram.dtype).eps * eigenvalues[-1]
    is_above = system > rounding
    along = linalg.product(right, vectors)
    along = jnp.where(is_above, along / jnp.where(is_above, system, 1.0), 0.0)
    return linalg.product(vectors, along)


def _products(rows: Params, columns: Params) -> Array:
    """Return inner products of stacked gradients: ``[A, ...], [B, ...] -> [A, B]``."""
    pairs = zip(jax.tree.leaves(rows), jax.tree.leaves(columns), strict=True)
    # accelerators would round to fewer bits, and the inverse magnifies the error
    exact = lax.Precision.HIGHEST
    products = [
        jnp.inner(a.reshape(len(a), -1), b.reshape(len(b), -1), precision=exact)
        for a, b in pairs
    ]
    return jnp.sum(jnp.stack(products), 0)


def _released(
    problem: Problem, direction: Params, drawn: Array, damping: Real
) -> Params:
    """Return ``H^-1 v`` by the released codes' recursion, one sample at a time."""

    def dot(left: Params, right: Params) -> Array:
        return _products(*jax.tree.map(lambda leaf: leaf[None], (left, right)))[0, 0]

    def gradient(index: Array) -> Params:
        return jax.tree.map(
            lambda leaf: leaf[0], example_gradients(problem, index[None])
        )

    def step(
        carry: tuple[Params, Params], index: Array
    ) -> tuple[tuple[Params, Params], None]:
        solved, vector = carry
        new = gradient(index)
        along = dot(vector, new)
        scale = dot(solved, new) / (len(drawn) + along)
        solved = jax.tree.map(lambda k, o: k - scale * o, solved, vector)
        vector = jax.tree.map(lambda o: o - along / (len(drawn) + along) * o, vector)
        return (solved, vector), None

    start = jax.tree.map(lambda leaf: leaf / damping, (direction, gradient(drawn[0])))
    return lax.scan(step, start, drawn[1:])[0][0]
