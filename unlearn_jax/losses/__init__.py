"""Loss terms: pure functions of logits, one scalar per example."""

from unlearn_jax.losses.classification import cross_entropy, log_odds
from unlearn_jax.losses.divergence import kl_divergence
from unlearn_jax.losses.tilted import class_similarity, tilted_loss, tilted_target

__all__ = ["class_similarity", "cross_entropy", "kl_divergence", "log_odds", "tilted_loss", "tilted_target"]
