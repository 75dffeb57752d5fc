"""Training objectives by name: cross-entropy, and adversarial training and TRADES for adversarially robust models.

``OBJECTIVES`` is the registry: ``OBJECTIVES["trades"](model, beta=3.0)`` is a
:data:`unlearn_jax.train.LossFn` for ``train.fit(..., loss_fn=...)``.
"""

from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp
from jax import lax

from unlearn_jax.attacks import Norm, linf, random_start
from unlearn_jax.losses import cross_entropy, kl_divergence
from unlearn_jax.train import Batch, LossFn, cross_entropy_loss
from unlearn_jax.types import Array, InputError, Model, ModelState, Variables

_START = 1e-3
"""Standard deviation of the noise from which the inner maximization of TRADES starts."""


@lru_cache(maxsize=64)
def adversarial_loss(
    model: Model,
    *,
    epsilon: float = 8 / 255,
    num_steps: int = 10,
    step: float = 2 / 255,
    norm: Norm = linf,
) -> LossFn:
    """Adversarial training (Madry et al., arXiv 1706.06083, equation 2.1): cross-entropy where it is largest nearby.

    Minimizes ``mean CE(f(x'), y)``, where x' maximizes the cross-entropy within
    ``epsilon`` of x and in the image box: PGD from a uniform random start,
    ``num_steps`` steps along the normalized gradient (its sign for ``linf``), the model
    in evaluation mode. Clean images take no part; BatchNorm's statistics are those of
    the adversarial batch.

    The same arguments give the same function object, so that compiled programs are
    found again.

    Args:
      model: the architecture.
      epsilon: radius of the ball; 8/255 for CIFAR-10 in the paper, 0.3 for MNIST.
      num_steps: of the inner maximization; 7 for CIFAR-10 in the paper, 40 for MNIST. 0
        leaves the random start.
      step: length of one; 2/255 for CIFAR-10 in the paper, 0.01 for MNIST.
      norm: of the ball.

    Returns:
      The loss.

    Raises:
      InputError: negative sizes.

    >>> from unlearn_jax import models
    >>> model = models.build("mlp", (4, 4, 1), 3, widths=(8,))
    >>> adversarial_loss(model, num_steps=3) is adversarial_loss(model, num_steps=3)
    True
    """
    if min(epsilon, num_steps, step) < 0:
        raise InputError(
            "epsilon, num_steps and step of adversarial training must not be negative"
        )

    def loss_fn(
        variables: Variables, batch: Batch, key: Array
    ) -> tuple[Array, ModelState]:
        key_start, key_pass = jax.random.split(key)
        fixed = lax.stop_gradient(variables)

        def harm(points: Array) -> Array:
            return jnp.sum(cross_entropy(model.apply(fixed, points), batch.labels))

        start = random_start(key_start, batch.images, epsilon=epsilon, norm=norm)
        near = _ascent(
            harm,
            batch.images,
            start,
            epsilon=epsilon,
            num_steps=num_steps,
            step=step,
            norm=norm,
        )
        logits, state = model.apply_train(variables, near, key_pass)
        return jnp.mean(cross_entropy(logits, batch.labels)), state

    return loss_fn


@lru_cache(maxsize=64)
def trades_loss(
    model: Model,
    *,
    beta: float = 6.0,
    epsilon: float = 0.031,
    num_steps: int = 10,
    step: float = 0.007,
    norm: Norm = linf,
) -> LossFn:
    """TRADES (Zhang et al., arXiv 1901.08573, equation 5): accuracy on clean images, stability around them.

    Minimizes ``mean CE(f(x), y) + beta * KL(f(x) || f(x'))``, where x' maximizes that
    divergence within ``epsilon`` of x and in the image box. The inner maximization
    starts from x with Gaussian noise of standard deviation 0.001, moves by
    ``num_steps`` steps along the normalized gradient (its sign for ``linf``), and sees
    the model in evaluation mode, as the released code does. The outer gradient goes
    through both f(x) and f(x').

    BatchNorm: clean and adversarial batch pass one after the other in training mode and
    each is normalized by its own statistics; the running ones are updated by the clean
    pass first, then by the adversarial one. (The released code passes the clean batch a
    second time, which moves the running statistics once more and changes no gradient.)

    The same arguments give the same function object, so that compiled programs are
    found again.

    Args:
      model: the architecture.
      beta: weight of stability; 6 in the paper's tables (its 1/lambda), 1 for more
        accuracy.
      epsilon: radius of the ball; 0.031 for CIFAR-10 in L-infinity.
      num_steps: of the inner maximization; 0 leaves the noise alone, clipped to the
        image box.
      step: length of one; 0.007 there. For ``l2`` the released code takes
        ``2 * epsilon / num_steps``.
      norm: of the ball.

    Returns:
      The loss.

    Raises:
      InputError: negative sizes.

    >>> from unlearn_jax import models
    >>> model = models.build("mlp", (4, 4, 1), 3, widths=(8,))
    >>> trades_loss(model, beta=1.0) is trades_loss(model, beta=1.0)
    True
    """
    if min(beta, epsilon, num_steps, step) < 0:
        raise InputError(
            "beta, epsilon, num_steps and step of TRADES must not be negative"
        )

    def perturb(key: Array, variables: Variables, images: Array) -> Array:
        clean = model.apply(variables, images)

        def harm(points: Array) -> Array:
            return jnp.sum(kl_divergence(clean, model.apply(variables, points)))

        start = images + _START * jax.random.normal(key, images.shape)
        return _ascent(
            harm,
            images,
            start,
            epsilon=epsilon,
            num_steps=num_steps,
            step=step,
            norm=norm,
        )

    def loss_fn(
        variables: Variables, batch: Batch, key: Array
    ) -> tuple[Array, ModelState]:
        key_start, key_clean, key_near = jax.random.split(key, 3)
        near = lax.stop_gradient(
            perturb(key_start, lax.stop_gradient(variables), batch.images)
        )
        logits, state = model.apply_train(variables, batch.images, key_clean)
        moved, state = model.apply_train(
            variables._replace(state=state), near, key_near
        )
        losses = cross_entropy(logits, batch.labels) + beta * kl_divergence(
            logits, moved
        )
        return jnp.mean(losses), state

    return loss_fn


def _ascent(
    harm: Callable[[Array], Array],
    images: Array,
    start: Array,
    *,
    epsilon: float,
    num_steps: int,
    step: float,
    norm: Norm,
) -> Array:
    """Steps of a fixed length up the gradient of ``harm``, a scalar, in the balls around the images and in the box."""

    def ascend(_: int, points: Array) -> Array:
        delta = (
            points + step * jax.vmap(norm.direction)(jax.grad(harm)(points)) - images
        )
        return jnp.clip(
            images + jax.vmap(norm.project, (0, None))(delta, jnp.asarray(epsilon)),
            0.0,
            1.0,
        )

    return jnp.clip(
        lax.fori_loop(0, num_steps, ascend, start), 0.0, 1.0
    )  # no step clips where there is none


OBJECTIVES: dict[str, Callable[..., LossFn]] = {
    "cross_entropy": cross_entropy_loss,
    "adversarial": adversarial_loss,
    "trades": trades_loss,
}
"""``name -> (model, **knobs) -> LossFn``."""
