"""The README's example prints what the README shows."""

import pathlib
import re

README = pathlib.Path(__file__).parents[1] / "README.md"
NUMBER = re.compile(r"\d+\.\d+")
TOLERANCE = 4.0
"""Points of FT AUC: other versions and processors round a training differently."""


def test_the_example_prints_the_shown_intervals(capsys):
    text = README.read_text()
    code, shown = re.search(
        r"```python\n(import jax.*?)```\n\n```text\n(.*?)```", text, re.S
    ).groups()
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 25
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    lines = printed.strip().splitlines()
    assert len(lines) == len(shown.strip().splitlines()) == 3
    for line, expected in zip(lines, shown.strip().splitlines(), strict=True):
        assert line.split()[0] == expected.split()[0]
        numbers = [float(number) for number in NUMBER.findall(line)]
        expected_numbers = [float(number) for number in NUMBER.findall(expected)]
        assert len(numbers) == len(expected_numbers) == 3
        for number, wanted in zip(numbers, expected_numbers, strict=True):
            assert abs(number - wanted) < TOLERANCE
