"""The style sheet (CONTRIBUTING.md), as far as a program can hold it."""

import ast
import itertools
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted(
    path
    for folder in ("unlearn_jax", "experiments")
    for path in (ROOT / folder).rglob("*.py")
)
WORDS = re.compile(
    r"\b(anew|beside|once more|round and round|at hand|for want of|knobs?"
    r"|doing nothing|do nothing|goes on|see there|as there|filling|told apart"
    r"|in the eyes of|says so)\b",
    re.IGNORECASE,
)
RIDDLE = re.compile(r"(What|How|Who|Where|Whether|Which)\b")
NAMES = {"found", "own", "kept", "gone", "here", "now", "said", "the"}
COMPREHENSIONS = (ast.ListComp, ast.DictComp, ast.SetComp, ast.GeneratorExp)


def name_of(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_words_are_the_fields(path):
    lines = enumerate(path.read_text().splitlines(), 1)
    assert [f"{i}: {line}" for i, line in lines if WORDS.search(line)] == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_summary_lines_name_the_thing(path):
    riddles = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            summary = (ast.get_docstring(node) or "").split("\n")[0]
            if RIDDLE.match(summary):
                riddles.append(summary)
    assert riddles == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_one_assignment_a_line(path):
    packed = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Tuple)
        and isinstance(node.value, ast.Tuple)
    ]
    assert packed == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_comprehension_inside_another(path):
    """Rows of a grid, ``[[... for j in ...] for i in ...]``, are the exception."""
    nested = []
    for outer in ast.walk(ast.parse(path.read_text())):
        if isinstance(outer, COMPREHENSIONS):
            grid = outer.elt if isinstance(outer, ast.ListComp) else None
            inner = itertools.islice(ast.walk(outer), 1, None)
            if any(
                isinstance(node, COMPREHENSIONS) and node is not grid for node in inner
            ):
                nested.append(outer.lineno)
    assert nested == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_variables_are_nouns(path):
    named = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            named.append((node.id, node.lineno))
        if isinstance(node, ast.arg):
            named.append((node.arg, node.lineno))
    assert [name for name in named if name[0] in NAMES] == []


def test_the_word_list_finds_its_words():
    assert WORDS.search("the knobs of a method")
    assert not WORDS.search("the hyperparameters of a method")
