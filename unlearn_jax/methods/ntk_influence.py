"""Influence functions as an unlearning method: the Gauss-Newton step to the retrained model (arXiv 2605.11239)."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from unlearn_jax.influence import CG, Dense, OutputFn, outputs_of, remove
from unlearn_jax.layers import Layer, head, layers, with_kernels
from unlearn_jax.methods.base import check_numbers, is_zero, num_classes
from unlearn_jax.methods.gradients import members
from unlearn_jax.methods.similarity import sample_features
from unlearn_jax.train import predict
from unlearn_jax.types import (
    Array,
    InputError,
    Params,
    Problem,
    UnlearnFn,
    UnlearnInfo,
    Variables,
)


def ntk_influence(
    *,
    ridge: float | Array = 5e-4,
    alpha: float | Array = 1.0,
    weights: Literal["all", "head"] = "all",
    form: Literal["primal", "dual"] = "primal",
    solver: Literal["cg", "dense"] = "cg",
    tol: float = 1e-4,
    cg_steps: int = 100,
    batch_size: int = 128,
    warn: bool = True,
) -> UnlearnFn:
    """Adds ``alpha`` times what influence functions predict of retraining on D_R to the parameters; no training.

    With ``L_S(theta) = mean_S CE + ridge/2 |theta|^2`` in evaluation mode, and the
    Jacobian ``J`` of the logits at the original model,

        ``(mean_R J^T CE'' J + ridge) d theta = (N_F/N_R) grad L_F(theta)``,

    Newton's step to the optimum on D_R of the network's first-order expansion, from a
    stationary point of ``L_D``. Reads D_R and D_F; nothing is drawn. BatchNorm
    statistics stay as they are. The matrix of
    :func:`unlearn_jax.methods.influence.influence` is the second moment of the
    gradients instead, with a damping that is not the training's.

    The paper's primal form has the Hessian of the network itself on D_R, which need not
    be positive definite, even where training has come to rest. Of ten networks trained
    to there on 300 of scikit-learn's digits (one layer of tanh, 64 or 512 units,
    penalty 1e-4 to 0.1 around 0 or the initialization, one seed each), 30 removed,
    conjugate gradients with it ended 1.1 to 31 times farther from the retrained outputs
    than doing nothing for eight, and at 0.04 of that distance for the other two. Gauss
    and Newton's matrix came to 0.09 to 0.65 of it for all ten.

    **When to believe it.** :class:`unlearn_jax.influence.Guard` is evaluated at every
    run, and where it finds that the original is not stationary, or the network not
    linear as far as the step goes, a warning says so (by a callback, from compiled
    programs too). Networks trained by SGD for few epochs with little weight decay are
    neither.

    Args:
      ridge: the original's weight decay, positive.
      alpha: the step; 0 gives the original back. Below 1 where the guard warns.
      weights: ``all``, or the kernel of the last layer alone, whose optimum is one of a
        convex problem.
      form: ``primal`` solves for the parameters and stores no matrix; ``dual`` solves
        for ``N_R C`` outputs and stores the kernel of all samples, ``(N C)^2`` numbers.
        The same at a stationary point.
      solver: ``cg``, or ``dense``, which writes the system out.
      tol: of ``cg``, relative to the right-hand side.
      cg_steps: of ``cg``, at most.
      batch_size: samples at a time; changes memory, not the value.
      warn: False for silence.

    Returns:
      The method. ``num_gradients`` counts two for each product with the Hessian and
      sample, as if ``cg`` never stopped early, or the kernel's Jacobian rows; 0 for
      ``head``, which takes no gradient of the network.

    Raises:
      InputError: unusable knobs; by the method with ``head``: a model without a last
        linear layer.
    """
    check_numbers(low=0, ridge=ridge)
    check_numbers(alpha=alpha)
    if is_zero(ridge) or cg_steps < 1 or batch_size < 1 or not tol > 0:
        raise InputError(
            "ridge, tol, cg_steps and batch_size of a method must be positive"
        )
    for name, value, known in (
        ("weights", weights, ("all", "head")),
        ("form", form, ("primal", "dual")),
        ("solver", solver, ("cg", "dense")),
    ):
        if value not in known:
            raise InputError(f"unknown {name} {value!r}: choose {' or '.join(known)}")

    def run(key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        del key
        index = members(
            problem.forget | problem.retain, problem.num_forget + problem.num_retain
        )
        apply, params, images = (_head if weights == "head" else _network)(
            problem, index, batch_size
        )
        change, _ = remove(
            apply,
            params,
            images,
            problem.train.labels[index],
            problem.forget[index],
            num_forget=problem.num_forget,
            ridge=ridge,
            form=form,
            solver=CG(tol=tol, num_iters=cg_steps) if solver == "cg" else Dense(),
            batch_size=batch_size,
            warn=warn,
        )
        moved = jax.tree.map(
            lambda leaf, step: (leaf + alpha * step).astype(leaf.dtype), params, change
        )
        if weights == "head":
            moved = _with_head(problem, moved)
        cost = (
            0
            if weights == "head"
            else _cost(problem, form, solver, cg_steps, batch_size)
        )
        variables = problem.variables._replace(params=moved)
        return variables, UnlearnInfo(jnp.zeros(0), jnp.asarray(cost, jnp.int32))

    return run


def _network(
    problem: Problem, index: Array, batch_size: int
) -> tuple[OutputFn, Params, Array]:
    """All parameters: the logits as they are, and the images."""
    del batch_size
    return (
        outputs_of(problem.model, problem.variables.state),
        problem.variables.params,
        problem.train.images[index],
    )


def _head(
    problem: Problem, index: Array, batch_size: int
) -> tuple[OutputFn, Params, Array]:
    """The last layer's kernel: its logits by features, which take the place of images beside the original's logits."""
    known = sample_features(problem, index, batch_size)
    logits = predict(
        problem.model.apply,
        problem.variables,
        problem.train.images[index],
        batch_size=batch_size,
    )
    kernel, width = _last_layer(problem).kernel, known.shape[1]

    def apply(weights: Params, rows: Array) -> Array:
        moved = jnp.matmul(
            rows[:, :width], weights - kernel, precision=lax.Precision.HIGHEST
        )
        return rows[:, width:] + moved

    return apply, kernel, jnp.concatenate([known, logits], 1)


def _last_layer(problem: Problem) -> Layer:
    return head(problem.model.apply, problem.variables, _one_image(problem))[1]


def _with_head(problem: Problem, kernel: Array) -> Params:
    found = layers(problem.model.apply, problem.variables, _one_image(problem))
    return with_kernels(
        problem.variables, {_last_layer(problem).path: kernel}, found
    ).params


def _one_image(problem: Problem) -> Array:
    return jnp.zeros((1, *problem.train.images.shape[1:]))


def _cost(
    problem: Problem, form: str, solver: str, cg_steps: int, batch_size: int
) -> int:
    """Per-sample gradients, an upper bound."""
    total, classes = problem.num_forget + problem.num_retain, num_classes(problem)
    blocks = -(-total // min(batch_size, total))
    if form == "dual":
        return classes * total * (1 + blocks) + total
    products = (
        classes * problem.num_retain
        if solver == "dense"
        else 2 * cg_steps * problem.num_retain
    )
    return products + problem.num_forget
