"""Attacks as values."""

from typing import Literal

from unlearn_jax.attacks.norms import l2, linf
from unlearn_jax.attacks.search import adversarial_set
from unlearn_jax.values import Real, value


@value
class Doubling:
    """Search over doubled radii."""

    epsilon_init: Real = 0.04
    num_radii: int = 12
    batch_size: int = 128
    restart: bool = True


@value
class PGD:
    """Projected gradient descent."""

    num_steps: int = 50
    step_ratio: Real = 0.1
    norm: Literal["l2", "linf"] = "l2"
    bounds: tuple[float, float] = (0.0, 1.0)
    keep: Literal["first", "last"] = "first"
    search: Doubling = Doubling()

    def retry_options(self):
        """Return the options of a targeted retry."""
        return {
            "norm": {"l2": l2, "linf": linf}[self.norm],
            "step_ratio": self.step_ratio,
            "bounds": self.bounds,
            "num_steps": self.num_steps,
            "batch_size": self.search.batch_size,
        }

    def __call__(self, apply_fn, variables, images, labels, *, key=None):
        """Attack."""
        return adversarial_set(
            apply_fn,
            variables,
            images,
            labels,
            epsilon_init=self.search.epsilon_init,
            num_radii=self.search.num_radii,
            batch_size=self.search.batch_size,
            restart=self.search.restart,
            num_steps=self.num_steps,
            step_ratio=self.step_ratio,
            norm={"l2": l2, "linf": linf}[self.norm],
            bounds=self.bounds,
            keep=self.keep,
        )
