"""Influence functions as a method: the Gauss-Newton step to the retrained model."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from unlearn_jax.influence import CG, Dense, OutputFn, outputs_of, remove
from unlearn_jax.layers import Layer, head, layers, with_kernels
from unlearn_jax.methods.base import (
    check_numbers,
    check_positive,
    is_zero,
    num_classes,
)
from unlearn_jax.methods.gradients import members
from unlearn_jax.methods.similarity import sample_features
from unlearn_jax.train import predict
from unlearn_jax.types import (
    Array,
    InputError,
    Params,
    Problem,
    UnlearnInfo,
    Variables,
)
from unlearn_jax.values import Real, value


@value
class NTKInfluence:
    """Add what influence functions predict of retraining to the parameters.

    No training; the step is that of arXiv 2605.11239. With
    ``L_S(theta) = mean_S CE + ridge/2 |theta|^2`` in evaluation mode, and the Jacobian
    ``J`` of the logits at the original model,

        ``(mean_R J^T CE'' J + ridge) d theta = (N_F/N_R) grad L_F(theta)``,

    Newton's step to the optimum on D_R of the network's first-order expansion, from a
    stationary point of ``L_D``. Reads D_R and D_F; nothing is drawn. BatchNorm
    statistics do not change. The matrix of :class:`unlearn_jax.methods.Influence` is
    the second moment of the gradients instead, with a damping that is not the
    training's.

    The paper's primal form has the Hessian of the network itself on D_R, which need not
    be positive definite, even where training has come to rest. Of ten networks trained
    to there on 300 of scikit-learn's digits (one layer of tanh, 64 or 512 units,
    penalty 1e-4 to 0.1 around 0 or the initialization, one seed each), 30 removed,
    conjugate gradients with it ended 1.1 to 31 times farther from the retrained outputs
    than the original for eight, and at 0.04 of that distance for the other two. Gauss
    and Newton's matrix came to 0.09 to 0.65 of it for all ten.

    **When to believe it.** :class:`unlearn_jax.influence.Guard` is evaluated at every
    run, and where the original is not stationary, or the network not linear as far as
    the step goes, :func:`unlearn_jax.methods.unlearn` and the pipeline warn. Compiled
    programs of your own return its numbers, ``guard`` of
    :class:`unlearn_jax.types.UnlearnInfo`. Networks trained by SGD for few epochs with
    little weight decay are neither.

    ``num_gradients`` counts two for each product with the Hessian and sample, as if
    ``cg`` never stopped early, or the kernel's Jacobian rows; 0 for ``head``, which
    takes no gradient of the network.

    Attributes:
      ridge: the original's weight decay, positive.
      alpha: length of the step; 0 gives the original back. Below 1 where the guard
        warns.
      weights: ``all``, or the kernel of the last layer alone (``head``), whose optimum
        is one of a convex problem.
      form: ``primal`` solves for the parameters and stores no matrix; ``dual`` solves
        for ``N_R C`` outputs and stores the kernel of all samples, ``(N C)^2`` numbers.
        The same at a stationary point.
      solver: ``cg``, or ``dense``, which writes the system out.
      tol: of ``cg``, relative to the right-hand side, positive.
      num_cg_steps: iterations of ``cg``, at most.
      batch_size: samples at a time; changes memory, not the value.
      warn: False for silence, and no guard in the result.
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
        check_numbers(low=0, ridge=self.ridge)
        check_numbers(alpha=self.alpha)
        check_positive("tol", self.tol)
        if is_zero(self.ridge) or self.num_cg_steps < 1 or self.batch_size < 1:
            raise InputError(
                "ridge, num_cg_steps and batch_size of a method must be positive"
            )

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
    """Return the last layer as a model of its own: outputs, kernel and rows.

    A row is a sample's features followed by the original's logits; it takes the place
    of the image.
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
        moved = jnp.matmul(
            rows[:, :width], weights - kernel, precision=lax.Precision.HIGHEST
        )
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
