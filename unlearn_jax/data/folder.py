"""Images on disk, one folder per class; needs Pillow."""

import collections
import dataclasses
import os
import pathlib
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from unlearn_jax.types import InputError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("val", "valid", "validation"),
}
"""Names of the folders of a split, in any case."""
_GENERATED = frozenset({"__macosx", "@eadir", "thumbs.db", "desktop.ini"})
"""Entries that operating systems write next to images, in lower case."""
_GRAY_MODES = frozenset({"1", "L", "LA"})
_COLOR_MODES = frozenset(
    {"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
)

LabeledFile = tuple[pathlib.Path, int]


@dataclasses.dataclass(frozen=True)
class Listing:
    """Images of class folders.

    Attributes:
      files: ``(file, class index)`` in order of class, then file.
      class_names: ``[C]``, the names of the folders.
      left_out: files that are no images by their suffix, or lie in no class folder.
    """

    files: list[LabeledFile]
    class_names: tuple[str, ...]
    left_out: list[pathlib.Path]


def _is_data(name: str) -> bool:
    """Return whether an entry is a user's: not hidden, not an operating system's."""
    return not name.startswith(".") and name.lower() not in _GENERATED


def _entries(path: pathlib.Path) -> list[pathlib.Path]:
    return sorted(entry for entry in path.iterdir() if _is_data(entry.name))


def _walk(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield the files below a folder in sorted order, through links, each folder once.

    Hidden files and folders, and those of operating systems, are left out.
    """
    visited = set()
    files = []
    for folder, folders, names in os.walk(path, followlinks=True):
        place = os.path.realpath(folder)
        if place in visited:  # a link to a folder above
            folders.clear()
            continue
        visited.add(place)
        folders[:] = filter(_is_data, folders)
        files += [pathlib.Path(folder, name) for name in names if _is_data(name)]
    yield from sorted(file for file in files if file.is_file())


def find_splits(path: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path] | None:
    """Return the folders of training and test set, or None where there are none.

    A folder is that of a split by its name (``train``, ``Training``, ``test``, ``val``
    ...), unless it is the only one and holds images itself: a class called "train".
    Without a test set, the validation set is the test set.

    Args:
      path: an existing folder.

    Raises:
      InputError: one of the two without the other, or two folders for one split.

    Warns:
      UserWarning: folders and images next to those of the splits.
    """
    folders = [entry for entry in _entries(path) if entry.is_dir()]
    by_split: dict[str, pathlib.Path] = {}
    for split, spellings in SPLITS.items():
        named = [entry for entry in folders if entry.name.lower() in spellings]
        if len(named) > 1:
            both = " and ".join(repr(entry.name) for entry in named)
            raise InputError(f"{path} has the folders {both}: keep one of them")
        if named:
            by_split[split] = named[0]
    test = by_split.get("test") or by_split.get("validation")
    if "train" not in by_split or test is None:
        for entry in by_split.values():
            if any(inner.is_dir() for inner in _entries(entry)):
                raise InputError(
                    f"{path} has a folder {entry.name!r} but not its counterpart; both"
                    " train and test are needed"
                )
        return None
    others = [entry for entry in folders if entry not in (by_split["train"], test)]
    if others:
        names = ", ".join(repr(entry.name) for entry in others)
        warnings.warn(
            f"{path}: only {by_split['train'].name!r} and {test.name!r} are read, not"
            f" {names}",
            stacklevel=4,
        )
    return by_split["train"], test


def list_classes(path: pathlib.Path) -> Listing:
    """List the images below ``path``, whose folders are the classes.

    Classes are in sorted order; in numeric order where all names are integers. Hidden
    files and folders are left out at any depth, as are those of operating systems.

    Args:
      path: an existing folder.

    Raises:
      InputError: fewer than two class folders, or a class folder without an image.
    """
    entries = _entries(path)
    folders = [entry for entry in entries if entry.is_dir()]
    if len(folders) < 2:
        raise InputError(
            f"{path} must hold one folder of images per class, at least 2; found"
            f" {len(folders)}"
        )
    if all(entry.name.isdecimal() for entry in folders):
        folders.sort(key=lambda entry: (int(entry.name), entry.name))
    files: list[LabeledFile] = []
    left_out = [
        entry
        for entry in entries
        if entry.is_file() and entry.suffix.lower() in SUFFIXES
    ]
    for label, entry in enumerate(folders):
        images = []
        for file in _walk(entry):
            is_image = file.suffix.lower() in SUFFIXES
            (images if is_image else left_out).append(file)
        if not images:
            raise InputError(
                f"class folder {entry} holds no image ({', '.join(sorted(SUFFIXES))})"
            )
        files += [(file, label) for file in images]
    return Listing(files, tuple(entry.name for entry in folders), left_out)


def warn_of_listing(path: pathlib.Path, listings: Sequence[Listing]) -> None:
    """Warn, in one line each, of files left out and of numbers that name other classes.

    Args:
      path: the folder of the data set.
      listings: of its splits.
    """
    left_out = [file for listing in listings for file in listing.left_out]
    if left_out:
        counts = collections.Counter(
            file.suffix.lower() or "no suffix" for file in left_out
        )
        listed = ", ".join(
            f"{count} {suffix}" for suffix, count in counts.most_common()
        )
        warnings.warn(
            f"{path}: {len(left_out)} files are left out ({listed}), such as"
            f" {left_out[0]}: images are {', '.join(sorted(SUFFIXES))} files in class"
            " folders",
            stacklevel=3,
        )
    names = listings[0].class_names
    shifted = [
        (label, name)
        for label, name in enumerate(names)
        if name.isdecimal() and int(name) != label
    ]
    if shifted and all(name.isdecimal() for name in names):
        label, name = shifted[0]
        warnings.warn(
            f"{path}: class folders are numbers that do not count from 0: class {label}"
            f" is folder {name!r}",
            stacklevel=3,
        )


def read_images(
    files: Sequence[LabeledFile], size: tuple[int, int] | None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Decode images into one array, upright and opaque.

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

    Warns:
      UserWarning: the number of transparent images.
    """
    decoded = []
    num_transparent = 0
    for file, _ in files:
        pixels, is_transparent = _decode(file, size)
        decoded.append(pixels)
        num_transparent += is_transparent
    warn_of_transparency(num_transparent)
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


def warn_of_transparency(count: int) -> None:
    """Warn that images are placed on white, if there are any transparent ones.

    Args:
      count: of the transparent images.
    """
    if count:
        warnings.warn(
            f"{count} images are transparent and were placed on white, as viewers show"
            " them",
            stacklevel=4,
        )


def _decode(
    file: pathlib.Path, size: tuple[int, int] | None
) -> tuple[npt.NDArray[np.uint8], bool]:
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
) -> tuple[npt.NDArray[np.uint8], bool]:
    """Return the pixels of a Pillow image as a viewer shows them.

    The image is turned as its EXIF orientation says, and placed on white where it is
    transparent.

    Args:
      what: name of the image in messages.
      image: in any mode of 8 bits per channel.
      size: ``(height, width)`` to resize to (bilinear), or None.

    Returns:
      ``[H, W, 1]`` for grayscale, else ``[H, W, 3]``; whether a pixel is transparent.

    Raises:
      InputError: more than 8 bits per channel, or a size below 1.
    """
    from PIL import Image, ImageOps

    if size is not None and min(size) < 1:
        raise InputError(
            f"size must be (height, width) of at least 1 pixel, got {size}"
        )
    if image.mode not in _GRAY_MODES | _COLOR_MODES:
        raise InputError(
            f"{what} has more than 8 bits per channel (mode {image.mode});"
            " convert it to 8 bits"
        )
    image = ImageOps.exif_transpose(image)
    is_transparent = False
    mode = "L" if image.mode in _GRAY_MODES else "RGB"
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        alpha = layer.getchannel("A")
        is_transparent = alpha.getextrema() != (255, 255)
        if is_transparent:
            white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, layer)
    image = image.convert(mode)
    if size is not None and image.size != size[::-1]:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels, is_transparent
