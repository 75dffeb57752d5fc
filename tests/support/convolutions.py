"""Slow convolutions in NumPy, from the definition, and one over patches in JAX."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from unlearn_jax import onednn

NATIVE = pytest.param(
    "onednn",
    marks=pytest.mark.skipif(
        bool(onednn.native().reason), reason=f"oneDNN: {onednn.native().reason}"
    ),
)
"""The form of convolution that is there only where it was built."""


def im2col(lhs, rhs, window_strides, padding, **unused):
    """Convolve by one matrix product over patches, as own models may."""
    del unused
    sh, sw = window_strides
    kh, kw = rhs.shape[:2]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(
            lhs.shape[1:3], rhs.shape[:2], window_strides, padding
        )
    image = jnp.pad(lhs, ((0, 0), *padding, (0, 0)))
    rows = (image.shape[1] - kh) // sh + 1
    cols = (image.shape[2] - kw) // sw + 1
    slices = [
        image[:, i : i + (rows - 1) * sh + 1 : sh, j : j + (cols - 1) * sw + 1 : sw]
        for i in range(kh)
        for j in range(kw)
    ]
    return jnp.concatenate(slices, -1) @ rhs.reshape(-1, rhs.shape[-1])


def numpy_conv(images, kernel, stride, pad, dilation, mode, groups):
    """Sum shifted slices of the padded images times slices of the kernel."""
    images = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode)
    size, into, out = kernel.shape[0], kernel.shape[2], kernel.shape[3] // groups
    side = (images.shape[1] - (size - 1) * dilation - 1) // stride + 1
    result = np.zeros((len(images), side, side, kernel.shape[3]))
    for i in range(size):
        for j in range(size):
            rows = slice(i * dilation, i * dilation + (side - 1) * stride + 1, stride)
            cols = slice(j * dilation, j * dilation + (side - 1) * stride + 1, stride)
            for g in range(groups):
                part = images[:, rows, cols, g * into : (g + 1) * into]
                result[..., g * out : (g + 1) * out] += (
                    part @ kernel[i, j, :, g * out : (g + 1) * out]
                )
    return result


def numpy_matrix(kernel, shape, form):
    """``[outputs, inputs]``, from the images of all unit vectors."""
    units = np.eye(int(np.prod(shape))).reshape(-1, *shape)
    return (
        numpy_conv(units, np.asarray(kernel, "f8"), *form[1:]).reshape(len(units), -1).T
    )
