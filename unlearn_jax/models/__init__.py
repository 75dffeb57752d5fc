"""Image classifiers.

:func:`build` makes the networks of the library by name. :func:`from_linen`,
:func:`from_nnx` and :func:`from_functions` adapt other networks. :func:`load`,
:func:`save` and :func:`from_torch` read and write weights.

This is the only package that imports Flax, and only when a network is built. All other
packages take a :class:`unlearn_jax.types.Model`, or a function and its variables.
"""

from unlearn_jax.lazy import on_first_use

_NAMES = {
    "ARCHITECTURES": "_build",
    "CNN": "cnn",
    "CONVOLUTIONS": "conv",
    "MLP": "mlp",
    "VGG": "vgg",
    "Denoiser": "denoiser",
    "DenseNet": "densenet",
    "ModelFormat": "files",
    "ResNet": "resnet",
    "ResidualDenoiser": "denoiser",
    "ViT": "vit",
    "build": "_build",
    "build_denoiser": "denoiser",
    "canonical_conv": "conv",
    "convolution": "conv",
    "convolution_form": "conv",
    "from_functions": "adapters",
    "from_linen": "adapters",
    "from_nnx": "adapters",
    "from_torch": "pytorch",
    "load": "files",
    "max_pool_2x2": "conv",
    "onednn_conv": "conv",
    "save": "files",
}
"""Module that defines each public name."""

__all__ = sorted(_NAMES)
__getattr__, __dir__ = on_first_use(__name__, _NAMES)
