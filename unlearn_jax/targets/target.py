"""Devices that programs are built for: those of this machine, or others.

A program for an absent TPU or GPU can be compiled, but not run: JAX's compilers accept
a description of the devices (``jax.experimental.topologies``).
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

from unlearn_jax.targets.chips import Chip, chip, gpu_description
from unlearn_jax.types import InputError

_TPUS = {
    "v4": "TPU v4",
    "v5e": "TPU v5 lite",
    "v5p": "TPU v5",
    "v6e": "TPU v6 lite",
}
_GPUS = {
    "a100": "NVIDIA A100-SXM4-80GB",
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
"""Environment variables that libtpu reads instead of querying a TPU machine."""
HERE = "here"
"""Name of the target of this machine's devices."""


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices to compile for, of one kind and in one network.

    Attributes:
      name: name on the command line.
      kind: ``device_kind`` of the devices.
      shape: number of chips along every axis of a TPU slice's torus; for GPUs, CPUs and
        ``here``, the number of devices.
    """

    name: str
    kind: str
    shape: tuple[int, ...]

    @property
    def chip(self) -> Chip:
        """Description of one device."""
        known = chip(self.kind)
        assert known is not None
        return known

    @property
    def is_here(self) -> bool:
        """True for the devices of this machine, on which programs can run."""
        return self.name == HERE

    @property
    def devices(self) -> tuple[Any, ...]:
        """Devices of one host, from which meshes are made."""
        return tuple(one for one in self.all_devices if one.process_index == 0)

    @property
    def num_hosts(self) -> int:
        """Number of hosts that the devices are attached to, with one process each."""
        return len({one.process_index for one in self.all_devices})

    @property
    def all_devices(self) -> tuple[Any, ...]:
        """Devices of all hosts."""
        return _devices(self)


def parse(name: str) -> Target:
    """Parse the name of a target.

    A script that compiles for absent devices should set ``JAX_PLATFORMS=cpu``:
    otherwise JAX looks for them first, and fails on a CUDA plugin without cuDNN.

    Args:
      name: a TPU slice such as ``tpu-v5e:4x4``, ``tpu-v4:2x2x1`` or ``tpu-v6e:2x2``; a
        GPU, ``h100``, ``h200`` or ``a100``, or several of one host, ``h100:8``; CPU
        devices, ``cpu`` or ``cpu:2``; or ``here`` for all devices of JAX's default
        backend on this machine.

    Raises:
      InputError: an unknown name, or devices here that are not in
        :data:`~unlearn_jax.targets.CHIPS`.

    >>> parse("tpu-v5e:4x4").shape, parse("h100").chip.memory
    ((4, 4), 84942979072)
    """
    if name == HERE:
        present = jax.local_devices()
        if chip(present[0].device_kind) is None:
            raise InputError(
                f"no data sheet of {present[0].device_kind} in targets.CHIPS: add one"
            )
        return Target(HERE, present[0].device_kind, (len(present),))
    kind, _, shape = str(name).partition(":")
    is_tpu = kind.startswith("tpu-")
    kinds = {f"tpu-{key}": full for key, full in _TPUS.items()}
    kinds |= {**_GPUS, "cpu": "cpu"}
    default = "2x2" if is_tpu else "1"
    pattern = r"[1-9]\d*(x[1-9]\d*){1,2}" if is_tpu else r"[1-9]\d*"
    if kind not in kinds or not re.fullmatch(pattern, shape or default):
        raise InputError(
            f"unknown target {name!r}: choose a slice such as tpu-v5e:4x4, a GPU such"
            f" as h100 or h100:8, cpu or here ({', '.join([*kinds, HERE])})"
        )
    return Target(name, kinds[kind], tuple(map(int, (shape or default).split("x"))))


@lru_cache(maxsize=16)
def _devices(target: Target) -> tuple[Any, ...]:
    """Return all devices of a target.

    Raises:
      InputError: the compiler is not installed, or the target cannot have this shape.
    """
    from jax.experimental import topologies

    if target.is_here:
        return tuple(jax.local_devices())
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
    """Return the target that programs are compiled for; None for this machine."""
    return _current.get()


@contextlib.contextmanager
def use(target: Target) -> Iterator[Target]:
    """Build programs for a target's devices, which need not be present.

    Args:
      target: target of all mappers, models and forms of convolution that are made
        inside the context.
    """
    # cached traces may hold convolution forms of another target
    jax.clear_caches()
    token = _current.set(target)
    # compilers for absent devices cannot read a stored program
    is_stored = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield target
    finally:
        jax.config.update("jax_enable_compilation_cache", is_stored)
        _current.reset(token)
        jax.clear_caches()


def platform() -> str:
    """Return the platform that programs are built for: ``cpu``, ``gpu`` or ``tpu``.

    Inside :func:`use` it is the target's, elsewhere that of JAX's default backend.
    """
    target = current()
    if target is None:
        return jax.default_backend()
    return "gpu" if target.chip.platform == "cuda" else target.chip.platform


def devices(*, across_hosts: bool = False) -> tuple[Any, ...]:
    """Return the devices of one host that programs are built for.

    Args:
      across_hosts: whether to return the devices of all hosts instead.
    """
    target = current()
    if target is None:
        return tuple(jax.devices() if across_hosts else jax.local_devices())
    return target.all_devices if across_hosts else target.devices


def memory() -> float | None:
    """Return the memory in bytes of a device that programs are built for.

    It is None if unknown, and on CPUs, whose devices share the machine's memory.
    """
    if platform() == "cpu":
        return None
    target = current()
    kind = jax.local_devices()[0].device_kind if target is None else target.kind
    known = chip(kind)
    return None if known is None else known.memory
