"""From an encoded image (JPEG, PNG, ...) to uint8 pixels."""

import logging
import struct
import warnings
import zipfile
import zlib
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, features

from temper.errors import DataError

#: What is read as an image, and the file name endings of each kind in folders: the kinds that hold pixels. Pillow knows
#: more, but those run other programs (PostScript), or are documents, films and icons.
KINDS = {
    "AVIF": (".avif",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "JPEG": (".jpeg", ".jpg", ".jpe", ".jfif"),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".jpf", ".j2c"),
    "PCX": (".pcx",),
    "PNG": (".png", ".apng"),
    "PPM": (".pgm", ".ppm", ".pbm", ".pnm"),
    "QOI": (".qoi",),
    "SGI": (".sgi",),
    "TGA": (".tga",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
_OPTIONAL = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}  # not in every build of Pillow

#: The kinds that the installed Pillow can decode, and the endings of their files.
READ = tuple(kind for kind in KINDS if kind not in _OPTIONAL or features.check(_OPTIONAL[kind]))
IMAGE_SUFFIXES = tuple(sorted(ending for kind in READ for ending in KINDS[kind]))

#: Everything that Pillow and zipfile are known to raise on a damaged file.
UNREADABLE = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    IndexError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
)

#: How JPEG, PNG, BMP, TIFF, PGM, PPM and WebP begin: a test of 16 bytes, several times faster than Pillow's.
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*", b"P5", b"P6", b"RIFF")


_LOG = logging.getLogger(__name__)


def quiet_pillow() -> None:
    """Silence Pillow's own warning of large images, many lines long: :func:`decode` gives one, which names the file."""
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


quiet_pillow()


def decode(stream: IO[bytes], where: str, most: int | None = None) -> NDArray[np.uint8]:
    """Pixels of one encoded image, uint8 [height, width, channels]: 1 channel if grey, else 3 (RGB).

    ``where`` names the file in errors; ``most`` are the pixels that it may say it has, before any is read. See
    :func:`to_pixels` for how other kinds of pixels are converted.

    Raises:
        DataError: the file is damaged, no image, too large, or of a pixel type that 8 bits cannot hold faithfully.

    """
    try:
        with Image.open(stream, formats=READ) as image:
            if most is not None and image.width * image.height > most:
                raise DataError(f"{where}: has {image.width * image.height:,} pixels; at most {most:,} are taken")
            if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                pixels = f"{image.width * image.height:,} pixels, more than {Image.MAX_IMAGE_PIXELS:,}"
                _LOG.warning("%s: has %s: is it meant?", where, pixels)
            image.load()
            return to_pixels(image, where)
    except DataError:
        raise
    except UNREADABLE as error:
        raise _unreadable(where, error) from error


def check_header(stream: IO[bytes], where: str) -> None:
    """Raise DataError unless the stream begins like an image; its pixels are not read."""
    try:
        if stream.read(16).startswith(_SIGNATURES):
            return
        stream.seek(0)
        with Image.open(stream, formats=READ):
            pass
    except UNREADABLE as error:
        raise _unreadable(where, error) from error


def to_pixels(image: Image.Image, where: str) -> NDArray[np.uint8]:
    """Pixels of a Pillow image, uint8 [height, width, channels], turned upright as its EXIF tag says.

    Grey stays one channel; 16-bit grey is scaled to 8 bits (65535 becomes 255); palette, CMYK and the like
    become RGB. A transparent image is laid over white: what its hidden pixels hold is arbitrary, and white
    is the page that most cut-outs are drawn for.

    Raises:
        DataError: 32-bit pixels, whose range is not known.

    """
    is_png = image.format == "PNG"  # whose mode "I" is 16 bits wide
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and is_png):
        wide = np.asarray(image).astype(np.float64)
        return np.rint(wide / 257).astype(np.uint8)[:, :, np.newaxis]
    if image.mode in ("I", "F"):
        raise DataError(f"{where}: 32-bit pixels (mode {image.mode}): save the image with 8 bits per channel")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    pixels = np.asarray(image)
    return pixels[:, :, np.newaxis] if pixels.ndim == 2 else pixels


def _unreadable(where: str, error: Exception) -> DataError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(f"{where}: not a readable image ({reason}): replace or remove it")
