"""The READMEs are true: examples print what they show, commands and links exist."""

import pathlib
import re

import pytest

import unlearn_jax as uj
from unlearn_jax import cli, pipeline
from unlearn_jax.pipeline import presets

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted(
    page
    for page in ROOT.rglob("*.md")
    if not any(part.startswith((".", "site", "runs")) for part in page.parts)
)
NUMBER = re.compile(r"\d+\.\d+")
TOLERANCE = 4.0
"""Points: other versions and processors round a training differently."""


def name_of(page):
    return str(page.relative_to(ROOT))


def test_the_example_prints_the_shown_table(capsys):
    code, shown = re.search(
        r"```python\n(import jax.*?)```\n\n```text\n(.*?)```", README.read_text(), re.S
    ).groups()
    assert sum(bool(line.strip()) for line in code.splitlines()) == 15
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert NUMBER.sub("", printed).split() == NUMBER.sub("", shown).split()
    numbers = [float(number) for number in NUMBER.findall(printed)]
    wanted = [float(number) for number in NUMBER.findall(shown)]
    # three rows of three estimates, each with both ends of its interval; the retrained
    # model's distance to itself is 0
    assert len(numbers) == len(wanted) == 25
    assert max(abs(a - b) for a, b in zip(numbers, wanted, strict=True)) < TOLERANCE


def test_the_readme_fits_on_two_screens():
    assert len(README.read_text().splitlines()) < 150


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_commands_exist(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
    for name in re.findall(r"unlearn-jax run (\w+)[ \n`]", text):
        if name != "PRESET":
            assert name in presets.names(), name
    for command in re.findall(r"unlearn-jax ([a-z]+)", text):
        assert command in cli.COMMANDS, command
    for name in re.findall(r"\buj\.(\w+)", text):
        assert hasattr(uj, name), name


def test_every_preset_is_in_the_guide():
    text = (ROOT / "experiments" / "README.md").read_text()
    assert [name for name in presets.names() if f"`{name}`" not in text] == []


def test_overrides_of_the_guide_are_fields():
    text = (ROOT / "experiments" / "README.md").read_text()
    for name in re.findall(
        r"--((?:audit|data|forget|replicas|training)\.[\w-]+)", text
    ):
        value = pipeline.RunConfig()
        for field in name.replace("-", "_").split("."):
            assert hasattr(value, field), name
            value = getattr(value, field)
