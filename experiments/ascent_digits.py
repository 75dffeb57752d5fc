"""Does gradient ascent forget on digits? KLoM of every run of a grid, and a test of what should foretell failure.

Command: unlearn-jax run ascent_digits --workdir runs/ascent_digits
"""

from unlearn_jax.pipeline import Experiment
from unlearn_jax.studies.ascent.digits import Config, make_parts
from unlearn_jax.studies.ascent.digits_page import make_page

EXPERIMENT = Experiment(
    title="Does gradient ascent forget on digits?",
    config=Config(),
    parts=make_parts,
    page=make_page,
)
