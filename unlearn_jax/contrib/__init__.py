"""Fields close to image unlearning; no other part of the library depends on them.

``coresets`` finds the forget samples whose removal suffices, ``diffusion`` erases
concepts from generators, and ``federated`` removes clients. ``testbeds`` holds models
whose unlearning has an exact solution: ascent on logistic examples and diluted
Boltzmann machines.
"""

from unlearn_jax.lazy import on_first_use

_SUBPACKAGES = ("coresets", "diffusion", "federated", "testbeds")

__all__ = [*_SUBPACKAGES]
__getattr__, __dir__ = on_first_use(__name__, dict.fromkeys(_SUBPACKAGES, ""))
