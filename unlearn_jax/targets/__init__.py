"""Targets: the devices that programs are built for, and the cost of compiled programs.

The package has descriptions of chips (:data:`CHIPS`), the target in use (:func:`use`,
:func:`platform`, :func:`devices`), a reader of a compiled program's text
(:func:`read_hlo`), and the roofline's bound (:func:`bound`).
"""

from unlearn_jax.targets.chips import CHIPS, Chip, chip, peak_flops
from unlearn_jax.targets.hlo import Reading, read_hlo
from unlearn_jax.targets.roofline import Bound, bound
from unlearn_jax.targets.target import (
    HERE,
    Target,
    current,
    devices,
    memory,
    parse,
    platform,
    use,
)

__all__ = [
    "CHIPS",
    "HERE",
    "Bound",
    "Chip",
    "Reading",
    "Target",
    "bound",
    "chip",
    "current",
    "devices",
    "memory",
    "parse",
    "peak_flops",
    "platform",
    "read_hlo",
    "use",
]
