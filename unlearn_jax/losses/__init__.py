"""Loss terms: pure functions of logits, one scalar per example."""

from unlearn_jax.losses.classification import cross_entropy, log_odds
from unlearn_jax.losses.divergence import kl_from_logits
from unlearn_jax.losses.lotos import lotos_penalty, lotos_similarity, neighbor_bound
from unlearn_jax.losses.tilted import class_similarity, tilted_loss, tilted_target
from unlearn_jax.losses.trs import trs_penalty

__all__ = [
    "class_similarity",
    "cross_entropy",
    "kl_from_logits",
    "log_odds",
    "lotos_penalty",
    "lotos_similarity",
    "neighbor_bound",
    "tilted_loss",
    "tilted_target",
    "trs_penalty",
]
