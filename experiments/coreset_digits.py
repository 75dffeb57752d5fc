"""Core-sets on scikit-learn's digits: how little of a forget set must be removed for the knowledge of it to go?

Command: unlearn-jax run coreset_digits --workdir runs/coreset_digits
"""

from unlearn_jax.studies.coresets.digits import EXPERIMENT

__all__ = ["EXPERIMENT"]
