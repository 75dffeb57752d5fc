"""Every experiment of ``experiments/`` has a test here."""

import pathlib

from unlearn_jax.pipeline import presets

ROOT = pathlib.Path(__file__).parents[2]


def test_every_study_has_a_test():
    tests = "".join(
        path.read_text() for path in pathlib.Path(__file__).parent.glob("*.py")
    )
    for path in (ROOT / "experiments").glob("*.py"):
        if "EXPERIMENT =" in path.read_text():
            experiment = presets.load(path.stem).experiment
            study = experiment.artifacts.__module__.removeprefix("unlearn_jax.studies.")
            package, module = study.split(".")
            is_tested = f"studies.{package} import {module}" in tests
            is_tested |= f"studies.{package} import artifacts" in tests
            is_tested |= f"studies.{study} import" in tests
            assert is_tested or f'"{path.stem}"' in tests, path.stem
