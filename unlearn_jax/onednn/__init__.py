"""Convolutions of oneDNN on CPU, where they were built; never needed.

XLA's CPU kernels reach half of what oneDNN reaches for convolutions, a quarter for
their weight gradients. ``unlearn-jax doctor --build-onednn`` compiles one file of C++
against oneDNN (Debian: ``libdnnl-dev``) into the user's cache folder; from then on
:func:`unlearn_jax.models.convolution` chooses it on CPU.

:func:`forward`, :func:`of_images` and :func:`of_kernel` are what to call from
elsewhere, where :func:`native` has no reason against it and :func:`takes` agrees.
"""

from unlearn_jax.onednn.convolution import NAME, forward, of_images, of_kernel, takes
from unlearn_jax.onednn.library import Native, build, library_path, native

__all__ = [
    "NAME",
    "Native",
    "build",
    "forward",
    "library_path",
    "native",
    "of_images",
    "of_kernel",
    "takes",
]
