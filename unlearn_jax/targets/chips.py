"""Chips, as described by their makers' data sheets."""

import dataclasses
from typing import Literal

from unlearn_jax.types import InputError

Platform = Literal["cpu", "cuda", "tpu"]


@dataclasses.dataclass(frozen=True)
class Chip:
    """Chip behind one JAX device.

    Attributes:
      platform: platform of the compiler.
      float32: peak operations per second, without sparsity, in JAX's default precision
        of float32 (TF32 on GPUs, one pass of bfloat16 on TPUs).
      bfloat16: peak operations per second in bfloat16, without sparsity.
      memory: size of the memory, in bytes.
      bandwidth: bytes per second to and from that memory.
      links: bytes per second to other devices, over all links in one direction.
      cores: number of a GPU's streaming multiprocessors.
      capability: CUDA compute capability of a GPU.
      shared_memory: shared memory of a GPU's multiprocessor, in bytes.
      block_memory: largest part of the shared memory for one block, in bytes.
      cache: size of a GPU's L2 cache, in bytes.
      clock: clock rate of a GPU, in GHz.
    """

    platform: Platform
    float32: float
    bfloat16: float
    memory: float
    bandwidth: float
    links: float
    cores: int = 0
    capability: tuple[int, int] = (0, 0)
    shared_memory: int = 233_472
    block_memory: int = 232_448
    cache: int = 52_428_800
    clock: float = 1.98

    def peak(self, dtype: str) -> float:
        """Return the peak number of operations per second.

        Args:
          dtype: ``bfloat16``, or another type, which counts as float32.
        """
        return self.bfloat16 if dtype == "bfloat16" else self.float32


_HOPPER = {"cores": 132, "capability": (9, 0)}
_A100 = Chip(
    "cuda",
    float32=156e12,
    bfloat16=312e12,
    memory=85_100_068_864,
    bandwidth=2.039e12,
    links=300e9,
    cores=108,
    capability=(8, 0),
    shared_memory=167_936,
    block_memory=166_912,
    cache=41_943_040,
    clock=1.41,
)
_A100_40GB = dataclasses.replace(_A100, memory=42_405_855_232, bandwidth=1.555e12)
CHIPS = {
    "NVIDIA A100-SXM4-80GB": _A100,
    "NVIDIA A100-SXM4-40GB": _A100_40GB,
    "NVIDIA A100 80GB PCIe": dataclasses.replace(_A100, bandwidth=1.935e12, links=32e9),
    "NVIDIA A100-PCIE-40GB": dataclasses.replace(_A100_40GB, links=32e9),
    "NVIDIA H100 80GB HBM3": Chip(
        "cuda", 494.7e12, 989.4e12, 84_942_979_072, 3.352e12, 450e9, **_HOPPER
    ),
    "NVIDIA H100 PCIe": Chip(
        "cuda", 378e12, 756e12, 84_942_979_072, 2e12, 64e9, 114, (9, 0), clock=1.755
    ),
    # of 141e9 bytes and more on the card, what its driver gives to programs
    "NVIDIA H200": Chip(
        "cuda", 494.7e12, 989.4e12, 139 * 2**30, 4.8e12, 450e9, **_HOPPER
    ),
    "NVIDIA GeForce RTX 4080": Chip("cuda", 48.7e12, 97.5e12, 16e9, 0.717e12, 32e9),
    "NVIDIA GeForce RTX 4090": Chip("cuda", 82.6e12, 165.2e12, 24e9, 1.008e12, 32e9),
    "TPU v4": Chip("tpu", 275e12, 275e12, 32 * 2**30, 1.228e12, 300e9),
    "TPU v5 lite": Chip("tpu", 197e12, 197e12, 16 * 2**30, 0.819e12, 200e9),
    "TPU v5": Chip("tpu", 459e12, 459e12, 95 * 2**30, 2.765e12, 600e9),
    "TPU v6 lite": Chip("tpu", 918e12, 918e12, 32 * 2**30, 1.638e12, 400e9),
    # nominal core of a server: 3 GHz, two fused multiply-adds of 8 lanes per cycle
    "cpu": Chip("cpu", 96e9, 96e9, 4 * 2**30, 10e9, 10e9),
}
"""Chips by ``device_kind``."""
_OTHER_NAMES = {"TPU v5e": "TPU v5 lite", "TPU v5p": "TPU v5", "TPU v6e": "TPU v6 lite"}
"""Names that some versions of JAX give to chips."""


def chip(device_kind: str) -> Chip | None:
    """Return a device's description, or None for one that is not in :data:`CHIPS`.

    Args:
      device_kind: value such as ``jax.devices()[0].device_kind``; a slice (MIG) of a
        card is not that card.
    """
    return CHIPS.get(_OTHER_NAMES.get(device_kind, device_kind))


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Return a device's peak number of operations per second.

    Args:
      device_kind: value such as ``jax.devices()[0].device_kind``.
      dtype: compute type, ``float32`` or ``bfloat16``.

    Returns:
      The peak, or None for a CPU or an unknown device.
    """
    known = chip(device_kind)
    return None if known is None or known.platform == "cpu" else known.peak(dtype)


def gpu_description(device_kind: str) -> str:
    """Return XLA's description of a GPU, for compiling without one.

    Args:
      device_kind: a GPU of :data:`CHIPS`.

    Raises:
      InputError: a GPU whose description has no number of cores.
    """
    gpu = CHIPS[device_kind]
    if not gpu.cores:
        raise InputError(f"{device_kind} cannot be compiled for: choose another GPU")
    major, minor = gpu.capability
    return f"""gpu_device_info {{
      threads_per_block_limit: 1024
      threads_per_warp: 32
      threads_per_core_limit: 2048
      thread_dim_limit_x: 1024
      thread_dim_limit_y: 1024
      thread_dim_limit_z: 64
      block_dim_limit_x: 2147483647
      block_dim_limit_y: 65535
      block_dim_limit_z: 65535
      shared_memory_per_block: 49152
      shared_memory_per_block_optin: {gpu.block_memory}
      shared_memory_per_core: {gpu.shared_memory}
      registers_per_core_limit: 65536
      registers_per_block_limit: 65536
      core_count: {gpu.cores}
      fpus_per_core: {128 if major > 8 else 64}
      memory_bandwidth: {gpu.bandwidth:.0f}
      l2_cache_size: {gpu.cache}
      clock_rate_ghz: {gpu.clock}
      device_memory_size: {gpu.memory:.0f}
      cuda_compute_capability {{ major: {major} minor: {minor} }}
      runtime_version: "13.0.0"
      driver_version: "13.0.0"
      compile_time_toolkit_version: "13.0.0"
      dnn_version: "9.10.0"
    }}
    platform_name: "CUDA"
    dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
    device_description_str: "{device_kind}"
    """
