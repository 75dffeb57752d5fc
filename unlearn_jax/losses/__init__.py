"""Loss terms: pure functions of logits, one scalar per example."""

from unlearn_jax.losses.classification import cross_entropy, log_odds
from unlearn_jax.losses.divergence import kl_divergence

__all__ = ["cross_entropy", "kl_divergence", "log_odds"]
