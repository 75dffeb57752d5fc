"""Influence functions on digits, primal and dual: how near retraining, when not to believe them, what they cost.

Command: unlearn-jax run influence_digits --workdir runs/influence_digits
"""

from unlearn_jax.studies.influence.digits import EXPERIMENT

__all__ = ["EXPERIMENT"]
