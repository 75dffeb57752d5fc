"""Loss terms: pure functions of logits, one scalar per example."""

from unlearn_jax.losses.classification import cross_entropy, log_odds

__all__ = ["cross_entropy", "log_odds"]
