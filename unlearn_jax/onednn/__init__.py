"""Optional convolutions of oneDNN on CPU, for which a native library is built.

XLA's CPU kernels reach half of oneDNN's rate for convolutions, and a quarter for their
weight gradients. ``unlearn-jax doctor --build-onednn`` compiles one C++ file against
oneDNN (Debian: ``libdnnl-dev``) into the user's cache folder. After that,
:func:`unlearn_jax.models.convolution` chooses oneDNN on CPU.

Other modules call :func:`forward`, :func:`of_images` and :func:`of_kernel` if the
``reason`` of :func:`native` is empty and :func:`takes` is True.
"""

from unlearn_jax.onednn.convolution import (
    NAME,
    OF_IMAGES,
    OF_KERNEL,
    forward,
    of_images,
    of_kernel,
    takes,
)
from unlearn_jax.onednn.library import Native, build, library_path, native

__all__ = [
    "NAME",
    "OF_IMAGES",
    "OF_KERNEL",
    "Native",
    "build",
    "forward",
    "library_path",
    "native",
    "of_images",
    "of_kernel",
    "takes",
]
