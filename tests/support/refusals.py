"""Where the library refuses: every ``raise`` of an error of ours in its source, and
which one a call comes to.

``python tests/support/refusals.py audit data train.py`` lists them for some rooms, or
for the whole library.
"""

import ast
import pathlib
import sys
import traceback

import pytest

import unlearn_jax
from unlearn_jax.types import InputError, UnlearnError

ROOT = pathlib.Path(unlearn_jax.__file__).parent
ERRORS = {"InputError", "DamagedFileError", "DivergedError"}


def _message(node, text):
    """What a ``raise`` says, with what it fills in left out."""
    told = [
        part.value if isinstance(part, ast.Constant) else "{}"
        for part in getattr(node, "values", [node])
    ]
    return (
        "".join(str(part) for part in told)
        if isinstance(node, ast.JoinedStr | ast.Constant)
        else text
    )


def sites(*rooms):
    """``{(file, first line, last line): message}`` of the files and folders named."""
    files = [
        file
        for room in rooms
        for file in (
            [ROOT / room] if room.endswith(".py") else (ROOT / room).rglob("*.py")
        )
    ]
    found = {}
    for file in sorted(files):
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Raise)
                and isinstance(node.exc, ast.Call)
                and ast.unparse(node.exc.func) in ERRORS
            ):
                place = (str(file.relative_to(ROOT)), node.lineno, node.end_lineno)
                found[place] = _message(node.exc.args[0], ast.unparse(node.exc.args[0]))
    return found


def refuses(fragment):
    """Expect an input error whose message matches ``fragment``."""
    return pytest.raises(InputError, match=fragment)


def assert_refused(call, message):
    """Assert that a call raises an input error of one line that matches ``message``."""
    with refuses(message) as caught:
        call()
    assert "\n" not in str(caught.value)


def refusal(call, message):
    """Calls, checks the one line that comes, and gives ``(file, line)`` of the
    ``raise``.
    """
    with pytest.raises(UnlearnError, match=message) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1
    last = traceback.extract_tb(caught.tb)[-1]
    return str(pathlib.Path(last.filename).relative_to(ROOT)), last.lineno


def missed(rooms, table, elsewhere):
    """The sites that no call of the table comes to, but those that a test named in
    ``elsewhere`` does.

    Args:
      rooms: files and folders of the library.
      table: ``[(call, message)]``.
      elsewhere: ``{(file, start of the message): "test_file.py::test_name"}``.
    """
    here, left = pathlib.Path(__file__).parents[1], sites(*rooms)
    for file, line in {refusal(*row) for row in table}:
        left = {
            place: said
            for place, said in left.items()
            if not (place[0] == file and place[1] <= line <= place[2])
        }
    for (file, start), test in elsewhere.items():
        module, _, name = test.partition("::")
        assert f"def {name}(" in (here / module).read_text(), f"{test} is gone"
        known = {
            place
            for place, said in left.items()
            if place[0] == file and said.startswith(start)
        }
        assert known, f"the table comes to {file}: {start!r}, or the library no more"
        left = {place: said for place, said in left.items() if place not in known}
    return left


if __name__ == "__main__":
    found = sites(*(sys.argv[1:] or ["."]))
    print(
        "\n".join(f"{file}:{first}  {said}" for (file, first, _), said in found.items())
    )
    print(f"{len(found)} errors")
