"""Losses: pure functions of logits, and terms that couple an ensemble's members."""

from unlearn_jax.losses._lotos import (
    LossTerm,
    LotosState,
    foreign_stretch,
    lotos,
    lotos_penalty,
    lotos_similarity,
)
from unlearn_jax.losses.classification import cross_entropy, log_odds
from unlearn_jax.losses.divergence import kl_from_logits
from unlearn_jax.losses.tilted import class_similarity, tilted_loss, tilted_target
from unlearn_jax.losses.trs import trs_penalty

__all__ = [
    "LossTerm",
    "LotosState",
    "class_similarity",
    "cross_entropy",
    "foreign_stretch",
    "kl_from_logits",
    "log_odds",
    "lotos",
    "lotos_penalty",
    "lotos_similarity",
    "tilted_loss",
    "tilted_target",
    "trs_penalty",
]
