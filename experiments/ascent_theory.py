"""Ascent on solvable examples: closed forms, paths and a trap.

Claim:   lemmas 2 to 10 of "Ascent Fails to Forget" (arXiv 2509.26427).
Command: unlearn-jax run ascent_theory --workdir runs/ascent_theory
Results: ``experiments/results/ascent_theory.json``
"""

from unlearn_jax.pipeline import Experiment
from unlearn_jax.studies.ascent.theory import Config, make_artifacts
from unlearn_jax.studies.ascent.theory_page import make_page

EXPERIMENT = Experiment(
    title="Ascent fails to forget: examples that can be solved",
    config=Config(),
    artifacts=make_artifacts,
    page=make_page,
)
