"""Devices that programs are built for: those of this machine, or others.

A program for a TPU or a GPU that is not there can be compiled, not run: JAX's compilers
take a description of the devices (``jax.experimental.topologies``).
"""

import contextlib
import dataclasses
import importlib.util
import os
import re
from collections.abc import Iterator
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import jax

from unlearn_jax.targets.chips import CHIPS, Chip, chip, gpu_description
from unlearn_jax.types import InputError

_TPUS = {
    "v4": "TPU v4",
    "v5e": "TPU v5 lite",
    "v5p": "TPU v5",
    "v6e": "TPU v6 lite",
}
_GPUS = {
    "a100": "NVIDIA A100",
    "h100": "NVIDIA H100 80GB HBM3",
    "h200": "NVIDIA H200",
}
_TPU_SETTINGS = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
"""What libtpu reads in place of asking a TPU machine for its place in a pod."""


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices to compile for, of one kind and in one network.

    Attributes:
      name: as on the command line.
      kind: their ``device_kind``.
      shape: of a TPU slice, its chips along every axis of its torus; of GPUs and CPUs,
        their number.
    """

    name: str
    kind: str
    shape: tuple[int, ...]

    @property
    def chip(self) -> Chip:
        """Description of one device."""
        return CHIPS[self.kind]

    @property
    def devices(self) -> tuple[Any, ...]:
        """The devices of one host, as meshes are made of."""
        return tuple(one for one in self.all_devices if one.process_index == 0)

    @property
    def num_hosts(self) -> int:
        """Hosts that the devices are attached to, a process each."""
        return len({one.process_index for one in self.all_devices})

    @property
    def all_devices(self) -> tuple[Any, ...]:
        """The devices of all hosts."""
        return _devices(self)


def parse(name: str) -> Target:
    """Return the target of a name.

    ``unlearn-jax compile`` runs on this machine's CPU. A script that compiles for other
    targets sets ``JAX_PLATFORMS=cpu``: JAX would look for their devices first, and give
    up on a plugin of CUDA without cuDNN.

    Args:
      name: a TPU slice such as ``tpu-v5e:4x4``, ``tpu-v4:2x2x1`` or ``tpu-v6e:2x2``; a
        GPU, ``h100``, ``h200`` or ``a100``, or several of a host, ``h100:8``; ``cpu``
        or ``cpu:2``, devices of this machine.

    Raises:
      InputError: another name.

    >>> parse("tpu-v5e:4x4").shape, parse("h100").chip.memory
    ((4, 4), 84942979072)
    """
    kind, _, shape = name.partition(":")
    is_tpu = kind.startswith("tpu-")
    kinds = {f"tpu-{key}": full for key, full in _TPUS.items()}
    kinds |= {**_GPUS, "cpu": "cpu"}
    default = "2x2" if is_tpu else "1"
    pattern = r"[1-9]\d*(x[1-9]\d*){1,2}" if is_tpu else r"[1-9]\d*"
    if kind not in kinds or not re.fullmatch(pattern, shape or default):
        raise InputError(
            f"unknown target {name!r}: choose a slice such as tpu-v5e:4x4, a GPU such"
            f" as h100 or h100:8, or cpu ({', '.join(kinds)})"
        )
    return Target(name, kinds[kind], tuple(map(int, (shape or default).split("x"))))


@lru_cache(maxsize=16)
def _devices(target: Target) -> tuple[Any, ...]:
    """Return all devices of a target.

    Raises:
      InputError: its compiler is not installed, or it has no such shape.
    """
    from jax.experimental import topologies

    shape = "x".join(map(str, target.shape))
    platform = target.chip.platform
    if platform == "cpu":
        present = jax.local_devices(backend="cpu")
        if target.shape[0] > len(present):
            raise InputError(
                f"{target.shape[0]} CPU devices asked for, {len(present)} present: set"
                " JAX_NUM_CPU_DEVICES"
            )
        return tuple(present[: target.shape[0]])
    needed = "libtpu" if platform == "tpu" else "jax_cuda13_plugin"
    if importlib.util.find_spec(needed) is None:
        raise InputError(
            f"the compiler of {target.name} is not installed: pip install"
            " 'unlearn-jax[compilers]'"
        )
    if platform == "tpu":
        for name, value in _TPU_SETTINGS.items():
            os.environ.setdefault(name, value)
        options: dict[str, Any] = {}
        if target.kind == "TPU v4":
            # one device per chip, as JAX shows them
            options["chip_config_name"] = "megacore"
        if set(target.shape) == {1}:
            options["chips_per_host_bounds"] = (1, 1, 1)
        family = target.name.partition(":")[0].removeprefix("tpu-")
        name = f"{family}:{shape}"
    else:
        options = {
            "topology": f"1x1x{shape}",
            "target_config": gpu_description(target.kind),
        }
        name = ""
    try:
        topology = topologies.get_topology_desc(
            platform=platform, topology_name=name, **options
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{target.name} cannot be compiled for: {reason} (another libtpu may hold"
            " /tmp/libtpu_lockfile, which a killed process leaves)"
        ) from error
    return tuple(topology.devices)


_current: ContextVar[Target | None] = ContextVar("target", default=None)


def current() -> Target | None:
    """Return the target that programs are compiled for; None where they run."""
    return _current.get()


@contextlib.contextmanager
def use(target: Target) -> Iterator[Target]:
    """Build programs for a target's devices, to be compiled and not run.

    Args:
      target: of all mappers, models and forms of convolution that are made inside.
    """
    # a trace may hold the forms of another target
    jax.clear_caches()
    token = _current.set(target)
    # compilers of devices that are not there cannot read a stored program
    is_stored = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield target
    finally:
        jax.config.update("jax_enable_compilation_cache", is_stored)
        _current.reset(token)
        jax.clear_caches()


def platform() -> str:
    """Return ``cpu``, ``gpu`` or ``tpu``: what programs are built for.

    That of :func:`use`, of JAX's default backend outside of it.
    """
    target = current()
    if target is None:
        return jax.default_backend()
    return "gpu" if target.chip.platform == "cuda" else target.chip.platform


def devices(*, across_hosts: bool = False) -> tuple[Any, ...]:
    """Return the devices of one host that programs are built for.

    Args:
      across_hosts: of all hosts in their place.
    """
    target = current()
    if target is None:
        return tuple(jax.devices() if across_hosts else jax.local_devices())
    return target.all_devices if across_hosts else target.devices


def memory() -> float | None:
    """Return the bytes of a device that programs are built for; None if not known.

    Nor on CPUs, whose devices share the memory of the machine.
    """
    if platform() == "cpu":
        return None
    target = current()
    kind = jax.local_devices()[0].device_kind if target is None else target.kind
    known = chip(kind)
    return None if known is None else known.memory
