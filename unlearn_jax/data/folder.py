"""Images on disk, one folder per class; needs Pillow."""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from unlearn_jax.types import InputError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
_GRAY_MODES = frozenset({"1", "L", "LA"})
_COLOR_MODES = frozenset(
    {"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
)

LabeledFile = tuple[pathlib.Path, int]


def list_classes(path: pathlib.Path) -> tuple[list[LabeledFile], tuple[str, ...]]:
    """List the images below ``path``, whose folders are the classes.

    Args:
      path: an existing folder.

    Returns:
      ``(file, class index)`` in sorted order of class, then file; and the class names,
      which are the folders' names.

    Raises:
      InputError: fewer than two class folders, or a class folder without an image.
    """
    folders = sorted(
        entry
        for entry in path.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )
    if len(folders) < 2:
        raise InputError(
            f"{path} must hold one folder of images per class, at least 2; found"
            f" {len(folders)}"
        )
    files: list[LabeledFile] = []
    for label, entry in enumerate(folders):
        images = sorted(
            file
            for file in entry.rglob("*")
            if file.suffix.lower() in SUFFIXES
            and not file.name.startswith(".")
            and file.is_file()
        )
        if not images:
            raise InputError(
                f"class folder {entry} holds no image ({', '.join(sorted(SUFFIXES))})"
            )
        files += [(file, label) for file in images]
    return files, tuple(entry.name for entry in folders)


def read_images(
    files: Sequence[LabeledFile], size: tuple[int, int] | None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Decode images into one array.

    Args:
      files: ``(file, label)``, at least one.
      size: ``(height, width)`` to resize to, or None when all images have one size
        already.

    Returns:
      ``[N, H, W, ch]`` uint8 in the order given, 1 channel if all are grayscale and 3
      otherwise; ``[N]`` int32.

    Raises:
      InputError: an image cannot be decoded, has more than 8 bits per channel, or
        differs in size; a size below 1.
    """
    decoded = [_decode(file, size) for file, _ in files]
    first = decoded[0].shape[:2]
    for (file, _), image in zip(files, decoded, strict=True):
        if image.shape[:2] != first:
            raise InputError(
                f"images differ in size: {files[0][0]} is {first[0]}x{first[1]}, {file}"
                f" is {image.shape[0]}x{image.shape[1]}; pass size=(height, width) to"
                " resize them"
            )
    channels = max(image.shape[2] for image in decoded)
    images = np.empty((len(decoded), *first, channels), np.uint8)
    for row, image in zip(images, decoded, strict=True):
        row[...] = image  # one channel broadcasts to RGB
    return images, np.array([label for _, label in files], np.int32)


def _decode(file: pathlib.Path, size: tuple[int, int] | None) -> npt.NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(file) as image:
            return resized_pixels(f"image {file}", image, size)
    except InputError:
        raise
    # Decoders raise OSError, SyntaxError, ValueError and more on damaged files.
    except Exception as error:
        raise InputError(f"cannot read image {file}: {error}") from None


def resized_pixels(
    what: str, image: "Image.Image", size: tuple[int, int] | None
) -> npt.NDArray[np.uint8]:
    """Return the pixels of a Pillow image.

    Args:
      what: name of the image in messages.
      image: in any mode of 8 bits per channel.
      size: ``(height, width)`` to resize to (bilinear), or None.

    Returns:
      ``[H, W, 1]`` for grayscale, else ``[H, W, 3]``.

    Raises:
      InputError: more than 8 bits per channel, or a size below 1.
    """
    from PIL import Image

    if size is not None and min(size) < 1:
        raise InputError(
            f"size must be (height, width) of at least 1 pixel, got {size}"
        )
    image = _gray_or_rgb(what, image)
    if size is not None and image.size != size[::-1]:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _gray_or_rgb(what: str, image: "Image.Image") -> "Image.Image":
    if image.mode in _GRAY_MODES:
        return image.convert("L")
    if image.mode not in _COLOR_MODES:
        raise InputError(
            f"{what} has more than 8 bits per channel (mode {image.mode});"
            " convert it to 8 bits"
        )
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
