"""The public surface: importable lazily, one meaning a name, and held as a list."""

import enum
import importlib
import inspect
import pathlib
import re
import subprocess
import sys
import types

import pytest

import unlearn_jax as uj

SURFACE = pathlib.Path(__file__).parent / "support" / "public_surface.txt"
"""One line per public name; ``python tests/test_front_door.py`` writes it."""


def test_importing_the_package_loads_neither_jax_nor_flax():
    script = (
        "import sys, unlearn_jax\n"
        "heavy = {'jax', 'flax', 'optax', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert unlearn_jax.audit.rmia is unlearn_jax.rmia\n"
        "assert not {'tensorflow', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("name", uj.__all__)
def test_every_public_name_imports(name):
    assert getattr(uj, name) is getattr(uj, name)
    assert name in dir(uj)


@pytest.mark.parametrize("name", ["", ".contrib", ".models", ".pipeline", ".studies"])
def test_a_lazy_package_lists_its_public_names(name):
    package = importlib.import_module(f"unlearn_jax{name}")
    assert dir(package) == sorted(package.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'amum'"):
        _ = uj.amum


@pytest.mark.parametrize(
    "name", [*uj._SUBPACKAGES, *(f"contrib.{name}" for name in uj.contrib.__all__)]
)
def test_public_names_are_not_modules(name):
    """No public name of a package is a module's file and something else, too."""
    package = importlib.import_module(f"unlearn_jax.{name}")
    if not hasattr(package, "__path__"):
        return
    files = {path.stem for path in pathlib.Path(package.__path__[0]).glob("*.py")}
    others = {
        public
        for public in package.__all__
        if not isinstance(getattr(package, public), types.ModuleType)
    }
    assert files & others == set()


def default_text(default):
    """A default value that reads the same in every process and version."""
    if inspect.isfunction(default):
        return default.__qualname__
    if isinstance(default, float):
        return f"{default:.6g}"
    return re.sub(r" at 0x[0-9a-f]+|<function (\w+)[^>]*>", r"\1", repr(default))


def signature_text(public):
    if not callable(public):
        return f": {type(public).__name__}"
    if hasattr(public, "__origin__"):
        return ": alias"
    if isinstance(public, enum.EnumType):
        return ": enum"
    if isinstance(public, type) and issubclass(public, Exception):
        return ": error"
    try:
        signature = inspect.signature(public)
    except (TypeError, ValueError):
        return ": alias"
    parameters = []
    for parameter in signature.parameters.values():
        default = parameter.default
        if default is not inspect.Parameter.empty:
            default = Text(text=default_text(default))
        parameters.append(
            parameter.replace(annotation=inspect.Parameter.empty, default=default)
        )
    stripped = inspect.Signature(parameters)
    return str(stripped)


class Text(types.SimpleNamespace):
    """A default that prints as its text."""

    def __repr__(self):
        return self.text


def surface():
    """One line per public name of every sub-package."""
    lines = []
    contrib = [f"contrib.{name}" for name in uj.contrib.__all__]
    for name in [*uj._SUBPACKAGES, *contrib]:
        module = importlib.import_module(f"unlearn_jax.{name}")
        defined = [
            public
            for public, held in vars(module).items()
            if not public.startswith("_")
            and getattr(held, "__module__", None) == module.__name__
        ]
        for public in sorted(getattr(module, "__all__", defined)):
            held = getattr(module, public)
            lines.append(f"{name}.{public}{signature_text(held)}")
    return lines


def test_the_public_surface_is_the_listed_one():
    """A change of a public name or signature shows as a change of the list."""
    assert surface() == SURFACE.read_text().splitlines()


if __name__ == "__main__":
    SURFACE.write_text("\n".join(surface()) + "\n")
