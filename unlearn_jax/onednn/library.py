"""Build, location and state of the native oneDNN library.

The library is built only on request: ``unlearn-jax doctor --build-onednn`` calls
:func:`build`. Its file is in the cache folder. The file name depends on the source, on
the version of jaxlib (whose interface the library is compiled for) and on the machine.
"""

import ctypes
import functools
import hashlib
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import tempfile
from typing import NamedTuple

import jax
import jaxlib.version

from unlearn_jax.types import InputError

SOURCE = pathlib.Path(__file__).with_name("convolution.cc")
FLAGS = ("-O2", "-std=c++17", "-w", "-fopenmp", "-fPIC", "-shared")
TARGETS = ("forward", "of_images", "of_kernel")
SECONDS = 600


class Native(NamedTuple):
    """State of the native library on this machine.

    Attributes:
      path: path of the library, which may not exist yet; None without a cache folder.
      version: version of the linked oneDNN, such as ``2.6.3``; empty if the library
        cannot be used.
      has_bfloat16: whether the processor computes in bfloat16.
      reason: one line about why the library cannot be used; empty if it can.
    """

    path: pathlib.Path | None
    version: str = ""
    has_bfloat16: bool = False
    reason: str = ""


def library_path() -> pathlib.Path:
    """Return the library's path for this source, jaxlib and machine.

    The file may not exist yet.

    Raises:
      InputError: there is no cache folder.
    """
    from unlearn_jax.data.tfds_reader import cache_folder

    parts = (
        SOURCE.read_bytes(),
        jaxlib.version.__version__.encode(),
        _machine().encode(),
    )
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    return cache_folder() / "onednn" / f"{digest}.so"


def _machine() -> str:
    return f"{platform.system()} {platform.machine()}"


def build() -> pathlib.Path:
    """Compile the library into the cache folder, unless it is already usable.

    This takes a few seconds. The compiler is ``$CXX``, which may have arguments, or
    else g++ or clang++.

    Returns:
      The library's path.

    Raises:
      InputError: no compiler, oneDNN's headers or library are missing, the source does
        not compile, or the result does not load.
    """
    path = library_path()
    if not native().reason:
        return path
    compiler = shlex.split(os.environ.get("CXX", ""))
    compiler = compiler or [*filter(shutil.which, ("g++", "clang++"))][:1]
    if not compiler:
        raise InputError(
            "the oneDNN convolutions need a C++ compiler: install g++ (Debian: apt"
            " install g++), or name one in CXX"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = pathlib.Path(folder) / path.name
            command = [*compiler, *FLAGS, f"-I{jax.ffi.include_dir()}", str(SOURCE)]
            command += ["-ldnnl", "-o", str(made)]
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=SECONDS, check=False
            )
            if done.returncode:
                raise InputError(_why(done.stderr))
            made.replace(path)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"the oneDNN convolutions were not built: {error}") from None
    native.cache_clear()
    library = native()
    if library.reason:
        raise InputError(f"the oneDNN convolutions were built, but {library.reason}")
    return path


def _why(text: str) -> str:
    """Return one line that summarizes a compiler's errors."""
    if "dnnl.hpp" in text or "-ldnnl" in text:
        return (
            "the oneDNN convolutions need oneDNN's headers and library: install"
            " libdnnl-dev (Debian and Ubuntu), or add its folders to CPATH,"
            " LIBRARY_PATH and LD_LIBRARY_PATH"
        )
    faults = [line for line in text.splitlines() if "error" in line]
    first = (faults or text.splitlines() or ["no message"])[0].strip()
    return f"the oneDNN convolutions do not compile: {first}"


@functools.cache
def native() -> Native:
    """Return the state of this machine's library; load and register it if it exists.

    The result is cached: the library is loaded once per process.
    """
    try:
        path = library_path()
    except InputError as error:
        return Native(None, reason=str(error))
    if not path.is_file():
        return Native(path, reason="not built: unlearn-jax doctor --build-onednn")
    try:
        library = ctypes.CDLL(str(path))
        number = library.version_of_onednn()
        has_bfloat16 = bool(library.computes_bfloat16())
        for name in TARGETS:
            jax.ffi.register_ffi_target(
                f"unlearn_jax.onednn.{name}",
                jax.ffi.pycapsule(getattr(library, name)),
                platform="cpu",
            )
    except (OSError, AttributeError) as error:
        return Native(path, reason=f"does not load: {error}")
    version = f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    return Native(path, version, has_bfloat16)
