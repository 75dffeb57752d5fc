"""Set-up of JAX for the command line, and its warnings and faults.

JAX is imported inside the functions, so that importing this module is quick.
"""

import contextlib
import os
import pathlib
import re
import sys
from collections.abc import Sequence

SWITCHES = {"--debug-nans": "jax_debug_nans", "--debug-keys": "jax_debug_key_reuse"}
"""JAX's options that a switch of the command line turns on."""


def configure_jax(switches: Sequence[str] = ()) -> None:
    """Give JAX one CPU device per core and a compilation cache, before it starts.

    Args:
      switches: keys of ``SWITCHES`` to turn on.
    """
    import jax

    for switch in switches:
        jax.config.update(SWITCHES[switch], True)
    flags = os.environ.get("XLA_FLAGS", "")
    if (
        "JAX_NUM_CPU_DEVICES" not in os.environ
        and "host_platform_device_count" not in flags
    ):
        from unlearn_jax.pipeline.store.folders import num_cores

        with contextlib.suppress(RuntimeError):  # JAX has started: its devices stay
            jax.config.update("jax_num_cpu_devices", num_cores())
    if jax.config.values["jax_compilation_cache_dir"] is None:
        from unlearn_jax.data.tfds_reader import cache_folder
        from unlearn_jax.types import InputError

        with contextlib.suppress(InputError):  # without a home folder, no cache
            jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
            jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def compilation_cache() -> pathlib.Path:
    """Return the folder of JAX's compilation cache."""
    import jax

    return pathlib.Path(jax.config.values["jax_compilation_cache_dir"])


def missing_platform() -> str:
    """Return the fault of a ``JAX_PLATFORMS`` without devices; empty if there is none.

    This is called after a failure only, because asking for devices starts JAX.
    """
    import jax

    wanted = jax.config.values["jax_platforms"]
    if not wanted:
        return ""
    try:
        jax.devices()
    except (RuntimeError, AssertionError):
        return (
            f"JAX_PLATFORMS={wanted}, and JAX finds no such device: unset it, or"
            " install JAX's plugin, as in pip install 'unlearn-jax[cuda]'"
        )
    return ""


def show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning as one line, without the place in the code.

    A compiled program that JAX cannot read is removed from the cache.

    Args:
      message: the warning; further arguments of :func:`warnings.showwarning` are
        ignored.
    """
    print(f"unlearn-jax: warning: {message}", file=sys.stderr)
    unread = re.match(
        r"Error reading persistent compilation cache entry for '(\w+)'", str(message)
    )
    if unread is None:
        return
    # the entry was cut short when a run was killed; JAX would keep it, and compile and
    # warn again in every run
    for entry in compilation_cache().glob(f"{unread[1]}-*-cache"):
        with contextlib.suppress(OSError):  # the cache may belong to another user
            entry.unlink()
