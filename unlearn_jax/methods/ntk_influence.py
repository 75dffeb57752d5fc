"""Influence functions as a method: a Gauss-Newton step to the retrained model."""

from typing import Literal

import jax
import jax.numpy as jnp

from unlearn_jax import linalg
from unlearn_jax.checks import check_counts, check_finite, check_positive
from unlearn_jax.influence import CG, Dense, OutputFn, outputs_of, remove
from unlearn_jax.layers import Layer, head, layers, with_kernels
from unlearn_jax.methods.base import (
    num_classes,
)
from unlearn_jax.methods.gradients import members
from unlearn_jax.methods.similarity import sample_features
from unlearn_jax.train import predict
from unlearn_jax.types import (
    Array,
    Params,
    Problem,
    UnlearnInfo,
    Variables,
)
from unlearn_jax.values import Real, value


@value
class NTKInfluence:
    """Gauss-Newton step to the retrained parameters that influence functions predict.

    The step is that of arXiv 2605.11239; there is no training. With
    ``L_S(theta) = mean_S CE + ridge/2 |theta|^2`` in evaluation mode, and the Jacobian
    ``J`` of the logits at the original model, the step ``d theta`` solves

        ``(mean_R J^T CE'' J + ridge) d theta = (N_F/N_R) grad L_F(theta)``.

    From a stationary point of ``L_D``, it is Newton's step to the optimum of the
    network's first-order expansion on D_R. Reads D_R and D_F; nothing is random.
    BatchNorm statistics do not change. :class:`unlearn_jax.methods.Influence` uses
    another matrix: the second moment of the gradients, with a damping that is unrelated
    to the training's penalty.

    The paper's primal form has the Hessian of the network itself on D_R, which need not
    be positive definite, even at a stationary point. The Hessian was tested on ten
    networks trained to a stationary point on 300 of scikit-learn's digits (one layer of
    tanh, 64 or 512 units, penalty 1e-4 to 0.1 around 0 or the initialization, one seed
    each), with 30 samples removed. Relative to the original's distance from the
    retrained outputs, conjugate gradients with the Hessian ended at 1.1 to 31 times
    that distance for eight networks, and at 0.04 of it for the other two. With the
    Gauss-Newton matrix they ended at 0.09 to 0.65 of it for all ten.

    **When to trust it.** Every run evaluates a :class:`unlearn_jax.influence.Guard`. If
    the original is not stationary, or the network is not linear over the length of the
    step, :func:`unlearn_jax.methods.unlearn` and the pipeline warn. Your own compiled
    programs return the guard as ``guard`` of :class:`unlearn_jax.types.UnlearnInfo`.
    Networks trained by SGD for few epochs with little weight decay are neither
    stationary nor linear enough.

    ``num_gradients`` counts two gradients per sample for each product with the Hessian,
    as if ``cg`` never stopped early. For a matrix that is written out (``dense`` or
    ``dual``) it counts the rows of the Jacobians. It is 0 for ``head``, which takes no
    gradient of the network.

    Attributes:
      ridge: weight decay of the original's training, positive.
      alpha: factor of the step; 0 returns the original. Choose a value below 1 if the
        guard warns.
      weights: ``all``, or ``head`` for the kernel of the last layer alone, whose
        training is a convex problem.
      form: ``primal`` solves for the parameters and stores no matrix; ``dual`` solves
        for ``N_R C`` outputs and stores the kernel of all samples, ``(N C)^2`` numbers.
        Both give the same result at a stationary point.
      solver: ``cg`` for conjugate gradients, or ``dense``, which writes the matrix out.
      tol: tolerance of ``cg``, relative to the right-hand side, positive.
      num_cg_steps: largest number of iterations of ``cg``.
      batch_size: samples at a time; changes memory, not the value.
      warn: evaluate the guard and warn if it does not trust the step. False gives no
        warning, and no guard in the result.
    """

    ridge: Real = 5e-4
    alpha: Real = 1.0
    weights: Literal["all", "head"] = "all"
    form: Literal["primal", "dual"] = "primal"
    solver: Literal["cg", "dense"] = "cg"
    tol: Real = 1e-4
    num_cg_steps: int = 100
    batch_size: int = 128
    warn: bool = True

    def __post_init__(self) -> None:
        """Raise on values that no step could use."""
        check_finite(alpha=self.alpha)
        check_positive(ridge=self.ridge, tol=self.tol)
        check_counts(num_cg_steps=self.num_cg_steps, batch_size=self.batch_size)

    def __call__(self, key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        """Take the step.

        Args:
          key: unused.
          problem: gives the model and the sets.

        Raises:
          InputError: with ``weights="head"``, a model without a last linear layer.
        """
        del key
        index = members(
            problem.forget | problem.retain, problem.num_forget + problem.num_retain
        )
        if self.weights == "head":
            apply, params, images = _head(problem, index, self.batch_size)
        else:
            apply = outputs_of(problem.model, problem.variables.state)
            params = problem.variables.params
            images = problem.train.images[index]
        solver = Dense()
        if self.solver == "cg":
            solver = CG(tol=self.tol, num_iters=self.num_cg_steps)
        change, guard = remove(
            apply,
            params,
            images,
            problem.train.labels[index],
            problem.forget[index],
            num_forget=problem.num_forget,
            ridge=self.ridge,
            form=self.form,
            solver=solver,
            batch_size=self.batch_size,
            warn=self.warn,
        )
        moved = jax.tree.map(
            lambda leaf, step: (leaf + self.alpha * step).astype(leaf.dtype),
            params,
            change,
        )
        if self.weights == "head":
            moved = _with_head(problem, moved)
        variables = problem.variables._replace(params=moved)
        cost = self._num_gradients(problem)
        info = UnlearnInfo(jnp.zeros(0), jnp.asarray(cost, jnp.int32))
        return variables, info._replace(guard=guard) if self.warn else info

    def _num_gradients(self, problem: Problem) -> int:
        """Return an upper bound on the per-sample gradients."""
        if self.weights == "head":
            return 0
        num_samples = problem.num_forget + problem.num_retain
        if self.form == "dual":
            num_blocks = -(-num_samples // min(self.batch_size, num_samples))
            return num_classes(problem) * num_samples * (1 + num_blocks) + num_samples
        products_per_sample = 2 * self.num_cg_steps
        if self.solver == "dense":
            products_per_sample = num_classes(problem)
        return products_per_sample * problem.num_retain + problem.num_forget


def _head(
    problem: Problem, index: Array, batch_size: int
) -> tuple[OutputFn, Params, Array]:
    """Return the last layer as a model: output function, kernel and input rows.

    A row holds a sample's features followed by the original's logits; it replaces the
    image.
    """
    features = sample_features(problem, index, batch_size)
    logits = predict(
        problem.model.apply,
        problem.variables,
        problem.train.images[index],
        batch_size=batch_size,
    )
    kernel = _last_layer(problem).kernel
    width = features.shape[1]

    def apply(weights: Params, rows: Array) -> Array:
        moved = linalg.product(rows[:, :width], weights - kernel)
        return rows[:, width:] + moved

    return apply, kernel, jnp.concatenate([features, logits], 1)


def _last_layer(problem: Problem) -> Layer:
    return head(problem.model.apply, problem.variables, _one_image(problem))[1]


def _with_head(problem: Problem, kernel: Array) -> Params:
    model_layers = layers(problem.model.apply, problem.variables, _one_image(problem))
    kernels = {_last_layer(problem).path: kernel}
    return with_kernels(problem.variables, kernels, model_layers).params


def _one_image(problem: Problem) -> Array:
    return jnp.zeros((1, *problem.train.images.shape[1:]))
