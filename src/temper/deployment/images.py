"""Image files to decide on: where they are, and what is in them."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import UnidentifiedImageError
from torch import Tensor

from temper.core.files import not_there
from temper.data import Dataset, Pixels
from temper.data.dataset import ArrayImages
from temper.data.decode import IMAGE_SUFFIXES, decode
from temper.data.tree import images_among
from temper.data.walk import walk
from temper.errors import ArgumentError, DataError


def find_images(words: Sequence[str], stdin: IO[bytes] | None) -> list[str]:
    """Paths of the images that a call names; whether each can be read shows when it is.

    Args:
        words: files; folders, searched through for names that end like an image's (hidden ones left out); and ``-``
            for one of either per line of ``stdin``.
        stdin: read to its end where ``-`` asks for it.

    Raises:
        ArgumentError: nothing is named, nothing of what is named is there, or a folder holds no image.
    """
    if words and not any(word == "-" or os.path.lexists(word) for word in words):
        fix = not_there(Path(words[0]), "name an image or a folder of images")
        raise ArgumentError("IMAGES", words[0], fix)
    paths: list[str] = []
    for word in words:
        if word == "-":
            paths += [path for line in _lines(stdin) for path in (_below(line) or [line])]
        elif inside := _below(word):
            paths += inside
        elif inside is None:
            paths.append(word)
        else:
            raise ArgumentError("IMAGES", word, f"holds no image ({', '.join(IMAGE_SUFFIXES)}); name another folder")
    if not paths:
        raise ArgumentError("IMAGES", tuple(words), "name at least one image or folder, or - for paths on stdin")
    return paths


def _lines(stdin: IO[bytes] | None) -> list[str]:
    if stdin is None:
        raise ArgumentError("IMAGES", "-", "stdin is closed; pipe paths into it, one per line")
    lines = (os.fsdecode(line.removesuffix(b"\n").removesuffix(b"\r")) for line in stdin)
    return [line for line in lines if line]


def _below(path: str) -> list[str] | None:
    """Images in a folder and those inside it, each once however it is linked to; None for what is no folder.

    A folder that cannot be listed is named itself: a failure among the images.
    """
    if not _is_folder(path):
        return None
    refused: list[str] = []
    listing = walk(Path(path), lambda error: refused.append(str(error.filename)))
    return refused + [str(Path(path) / name) for name in images_among(Path(path), listing)]


def _is_folder(path: str) -> bool:
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):  # a name too long, a parent that may not be entered, a NUL byte: no folder, anyhow
        return False


def read_image(path: str, image_size: int | None, channels: int) -> Tensor:
    """An image file as evaluation sees it: decoded, turned upright, brought to size: uint8 [C, H, W].

    Args:
        path: of the file.
        image_size: height and width; None keeps the image's own.
        channels: 1 or 3.

    Raises:
        DataError: there is no such file, or it is no image, or a damaged one; names no path.
    """
    return _sized(_pixels(path), image_size, channels)


def image_of(content: bytes, image_size: int | None, channels: int, most: int) -> Tensor:
    """What :func:`read_image` reads, of a file that is held in memory.

    Args:
        content: the file's bytes.
        image_size: height and width; None keeps the image's own.
        channels: 1 or 3.
        most: pixels that the file may say it has, before any is read.

    Raises:
        DataError: it is no image, a damaged one or too large; one line that names no file.
    """
    return _sized(_decoded(io.BytesIO(content), "upload", most), image_size, channels)


def _sized(pixels: NDArray[np.uint8], image_size: int | None, channels: int) -> Tensor:
    """Pixels uint8 [H, W, 1 or 3] as the model takes them: uint8 [C, H, W]."""
    only = np.zeros(1, dtype=np.int64)
    dataset = Dataset(images=ArrayImages(pixels[np.newaxis]), labels=only, class_names=("",), ids=only, name="image")
    image: Tensor = Pixels(dataset, image_size, channels)[0][0]
    return image


def _pixels(path: str) -> NDArray[np.uint8]:
    """Pixels uint8 [H, W, 1 or 3]; see :func:`read_image`."""
    if "\0" in path:
        raise DataError("the path holds a NUL byte; give one path per line")
    if _is_folder(path):
        raise DataError("a folder in which there is no image, or that may not be listed")
    try:
        if Path(path).exists() and not Path(path).is_file():  # a pipe would be waited for, a device read for ever
            raise DataError("neither a file nor a folder")
        with Path(path).open("rb") as stream:
            return _decoded(stream, path)
    except OSError as error:
        raise DataError((error.strerror or str(error)).lower()) from error


def _decoded(stream: IO[bytes], where: str, most: int | None = None) -> NDArray[np.uint8]:
    """See :func:`temper.data.decode.decode`; errors do not say where."""
    try:
        return decode(stream, where, most)
    except DataError as error:
        if isinstance(error.__cause__, UnidentifiedImageError):
            raise DataError("not an image, or of a kind that is not read") from error
        raise DataError(str(error).removeprefix(f"{where}: ")) from error
