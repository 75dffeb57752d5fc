"""Where ascent leads on examples that can be solved: closed forms, descent-ascent's paths, and a trap.

Command: unlearn-jax run ascent_theory --workdir runs/ascent_theory
"""

from unlearn_jax.pipeline import Experiment
from unlearn_jax.studies.ascent.theory import Config, make_parts
from unlearn_jax.studies.ascent.theory_page import make_page

EXPERIMENT = Experiment(
    title="Ascent fails to forget: examples that can be solved",
    config=Config(),
    parts=make_parts,
    page=make_page,
)
