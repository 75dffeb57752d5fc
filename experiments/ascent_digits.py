"""Does gradient ascent forget on digits? KLoM of every run of a grid, and a test of what should foretell failure.

Command: unlearn-jax run ascent_digits --workdir runs/ascent_digits
"""

from unlearn_jax.studies.ascent.digits import EXPERIMENT

__all__ = ["EXPERIMENT"]
