"""Slow convolutions in NumPy, from the definition."""

import numpy as np


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
