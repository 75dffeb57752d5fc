"""Where ascent leads on examples that can be solved: closed forms, descent-ascent's paths, and a trap.

Command: unlearn-jax run ascent_theory --workdir runs/ascent_theory
"""

from unlearn_jax.studies.ascent.theory import EXPERIMENT

__all__ = ["EXPERIMENT"]
