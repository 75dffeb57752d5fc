"""Convolutions of oneDNN on CPU, where they were built; optional.

XLA's CPU kernels reach half of oneDNN's rate for convolutions, a quarter for their
weight gradients. ``unlearn-jax doctor --build-onednn`` compiles one file of C++
against oneDNN (Debian: ``libdnnl-dev``) into the user's cache folder; from then on
:func:`unlearn_jax.models.convolution` chooses it on CPU.

Other modules call :func:`forward`, :func:`of_images` and :func:`of_kernel`, where
:func:`native` gives no reason against it and :func:`takes` is True.
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
