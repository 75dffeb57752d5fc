"""PGD at several radii: how robustness and transfer fall as the radius grows."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from unlearn_jax.attacks._pgd import Keep, check_images, pgd, random_start
from unlearn_jax.attacks._transfer import Classifier
from unlearn_jax.attacks.norms import Norm, linf
from unlearn_jax.attacks.search import in_batches
from unlearn_jax.types import ApplyFn, Array, AttackResult, PyTree


def pgd_curve(
    key: Array,
    classifier: Classifier,
    x: Array,
    y: Array,
    radii: Any,
    *,
    num_steps: int = 50,
    step_ratio: float = 0.1,
    norm: Norm = linf,
    keep: Keep = "last",
    batch_size: int = 512,
) -> AttackResult:
    """``pgd_attack`` at several radii, one after the other in one program that is compiled once for all of them.

    Args:
      key: consumed; every radius has a random start of its own.
      classifier: attacked.
      x: ``[B, ...]`` clean float images in [0, 1].
      y: ``[B]`` true labels.
      radii: ``[R]`` in units of ``norm``.
      num_steps: of :func:`unlearn_jax.attacks.pgd_attack`, as the others.
      step_ratio: see there.
      norm: see there.
      keep: see there.
      batch_size: see there.

    Returns:
      Leaves ``[R, B, ...]``.

    Raises:
      InputError: unusable images.
    """
    check_images(x, (0.0, 1.0))
    y, radii = jnp.asarray(y).astype(jnp.int32), jnp.asarray(radii, jnp.float32)
    return _curve(
        classifier[0],
        num_steps,
        step_ratio,
        norm,
        keep,
        batch_size,
        key,
        classifier[1],
        x,
        y,
        radii,
    )


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5))
def _curve(
    apply_fn: ApplyFn,
    num_steps: int,
    step_ratio: float,
    norm: Norm,
    keep: Keep,
    batch_size: int,
    key: Array,
    variables: PyTree,
    x: Array,
    y: Array,
    radii: Array,
) -> AttackResult:
    def at(item: tuple[Array, Array]) -> AttackResult:
        key, radius = item

        def attack_batch(images: Array, labels: Array, start: Array) -> AttackResult:
            knobs = {
                "epsilon": radius,
                "num_steps": num_steps,
                "step_ratio": step_ratio,
                "norm": norm,
                "keep": keep,
            }
            return pgd(apply_fn, variables, images, labels, start, **knobs)

        return in_batches(
            attack_batch,
            x,
            y,
            random_start(key, x, epsilon=radius, norm=norm),
            batch_size=batch_size,
        )

    return lax.map(at, (jax.random.split(key, len(radii)), radii))
