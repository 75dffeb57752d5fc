"""The roofline: the least time that a program can take (Williams et al., 2009)."""

import dataclasses

from unlearn_jax.targets.chips import Chip


@dataclasses.dataclass(frozen=True)
class Bound:
    """Least time of a program on one device: a bound, not a measurement.

    Attributes:
      seconds: the largest of the three parts, as if they overlapped perfectly.
      compute: seconds of its operations at the chip's peak.
      memory: seconds of its memory traffic at the chip's bandwidth.
      network: seconds of its collectives at the bandwidth of all links.
    """

    compute: float
    memory: float
    network: float

    @property
    def seconds(self) -> float:
        """Largest of the three parts."""
        return max(self.compute, self.memory, self.network)

    @property
    def limit(self) -> str:
        """Name of the largest part: ``compute``, ``memory`` or ``network``."""
        parts = dataclasses.asdict(self)
        return max(parts, key=parts.__getitem__)

    @property
    def mfu(self) -> float:
        """Fraction of the chip's peak that the bound allows, at most 1."""
        return self.compute / self.seconds if self.seconds else 0.0


def bound(
    chip: Chip,
    *,
    bfloat16: float = 0.0,
    float32: float = 0.0,
    traffic: float = 0.0,
    exchanged: float = 0.0,
) -> Bound:
    """Return the roofline's bound on one device.

    Args:
      chip: chip of the device.
      bfloat16: number of operations in bfloat16.
      float32: number of operations in other types.
      traffic: bytes from and to memory.
      exchanged: bytes that it sends to other devices.

    >>> from unlearn_jax.targets import CHIPS
    >>> found = bound(CHIPS["TPU v5 lite"], bfloat16=197e12, traffic=819e9 / 2)
    >>> found.seconds, found.limit, found.mfu
    (1.0, 'compute', 1.0)
    """
    return Bound(
        compute=bfloat16 / chip.bfloat16 + float32 / chip.float32,
        memory=traffic / chip.bandwidth,
        network=exchanged / chip.links,
    )
