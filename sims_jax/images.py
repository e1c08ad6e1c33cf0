"""Files of pixels in: photos and instance maps, and what every reader of a PNG or .npy needs.

Every way in which a file can be unusable ends in an InputError that names the file.
"""

import io
import math
import os
import pathlib
import stat
import struct
import zlib

import numpy as np
from jaxtyping import Integer, UInt8, UInt16
from PIL import Image, ImageOps

from sims_jax.errors import InputError

Path = str | pathlib.Path

# What Pillow raises for damaged, foreign or oversized files.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
_MAX_BYTES = 1 << 29  # of a file; more is no photo, layout or JSON, and would fill the memory
_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_IHDR = struct.Struct(">8xI4sIIBB")  # length, name, width, height, bit depth, colour type
_PNG_COLOR_TYPES = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}


def decode_photo(data: bytes, where: Path) -> UInt8[np.ndarray, "H W 3"]:
    """The photo in a PNG or JPEG file; see `load_photo`."""
    return np.asarray(load_photo(data, where))


def load_photo(data: bytes, where: Path) -> Image.Image:
    """The photo in a PNG or JPEG file, upright as its EXIF orientation says, as RGB.

    Args:
      data: the file's content.
      where: names the file in messages.

    Raises:
      InputError: the file cannot be read or is neither RGB, palette nor 8-bit grey.
    """
    image = decode_image(where, data, "a PNG or JPEG photo")
    if image.mode not in ("RGB", "P", "L") or "transparency" in image.info:
        raise InputError(
            f"{where}: found a photo of mode {image.mode}"
            f"{' with transparency' if 'transparency' in image.info else ''}, "
            "expected RGB, palette or 8-bit grey; convert it to RGB"
        )
    ImageOps.exif_transpose(image, in_place=True)  # copies only what must be turned
    return image if image.mode == "RGB" else image.convert("RGB")


def read_instances(path: Path) -> UInt16[np.ndarray, "H W"]:
    """Reads a greyscale PNG of 8 or 16 bits as instance ids; 0 is no instance.

    Raises:
      InputError: the file cannot be read or is of another kind.
    """
    return read_numbers(path, "instance ids")


def read_numbers(path: Path, what: str) -> UInt16[np.ndarray, "H W"]:
    """Reads a greyscale PNG of 8 or 16 bits as what it holds.

    Args:
      what: names the numbers in messages: "disparities".

    Raises:
      InputError: the file cannot be read or is of another kind.
    """
    data = read_bytes(path)
    mode, depth = read_png_header(path, data, f"a PNG of {what}")
    if mode != "L" or depth not in (8, 16):
        raise InputError(
            f"{path}: found a PNG of mode {mode} with {depth} bits, expected {what} as "
            "greyscale of 8 or 16 bits; convert it"
        )
    return np.asarray(decode_image(path, data, f"a PNG of {what}")).astype(np.uint16)


def decode_npy(where: Path, data: bytes) -> Integer[np.ndarray, "H W"]:
    """The whole numbers of a .npy file.

    Raises:
      InputError: the file is damaged or holds something else.
    """
    file = io.BytesIO(data)
    try:
        shape, by_columns, dtype = _NPY_HEADERS[np.lib.format.read_magic(file)](file)
    except Exception as error:  # numpy's parser raises whatever the damage leads it to
        reason = " ".join(str(error).split())
        raise InputError(
            f"{where}: found no .npy file ({reason}), expected one; save it again"
        ) from error
    # Before anything is reserved for it: a header may say what it likes.
    if len(shape) != 2 or not math.prod(shape) or not np.issubdtype(dtype, np.integer):
        raise InputError(
            f"{where}: found {dtype} of shape {shape}, expected whole numbers [H, W]; save it again"
        )
    found, expected = len(data) - file.tell(), math.prod(shape) * dtype.itemsize
    if found != expected:
        raise InputError(
            f"{where}: found {found} bytes of numbers, expected {expected}; save it again"
        )
    values = np.frombuffer(data, dtype, offset=file.tell())
    return values.reshape(shape, order="F" if by_columns else "C")


def read_bytes(path: Path) -> bytes:
    """The content of a file that must not be empty."""
    try:
        state = os.stat(path)
        if not stat.S_ISREG(state.st_mode):
            raise InputError(f"{path}: cannot be read (a folder or device); give a file")
        if state.st_size > _MAX_BYTES:
            raise InputError(
                f"{path}: found {state.st_size} bytes, expected {_MAX_BYTES} or less; replace it"
            )
        data = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from error
    if not data:
        raise InputError(f"{path}: found an empty file (0 bytes); restore it from its source")
    return data


def decode_image(where: Path, data: bytes, expected: str) -> Image.Image:
    """The decoded image; PNG checksums are verified first, which decoding alone does not do."""
    advice = f"expected {expected}; replace the file"

    def refuse_bomb(width: int, height: int) -> None:
        if width * height > Image.MAX_IMAGE_PIXELS:
            limit = f"{Image.MAX_IMAGE_PIXELS // 10**6} million pixels at most"
            raise InputError(f"{where}: found {height}x{width} pixels, expected {limit}; shrink it")

    try:
        if _is_png(data) and len(data) >= _PNG_IHDR.size:
            refuse_bomb(*_PNG_IHDR.unpack_from(data)[2:4])
            Image.open(io.BytesIO(data)).verify()
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
        refuse_bomb(*image.size)
        image.load()
    except Image.UnidentifiedImageError as error:
        raise InputError(f"{where}: found no readable image, {advice}") from error
    except _DECODE_ERRORS as error:
        raise InputError(f"{where}: found an unusable image ({error}), {advice}") from error
    return image


def _is_png(data: bytes) -> bool:
    return data.startswith(_PNG_SIGNATURE)


def read_png_header(path: Path, data: bytes, expected: str) -> tuple[str, int]:
    """Mode and bit depth as stored; Pillow rescales 2 and 4 bit grey and cuts 16 bit RGB."""
    if not _is_png(data):
        found = "a JPEG" if data.startswith(b"\xff\xd8") else "no PNG"
        why = " (JPEG compression changes ids)" if found == "a JPEG" else ""
        raise InputError(
            f"{path}: found {found}, expected {expected}{why}; export it as PNG from its source"
        )
    if len(data) < _PNG_IHDR.size:
        raise InputError(f"{path}: found a truncated PNG, expected {expected}; replace the file")
    *_, depth, color_type = _PNG_IHDR.unpack_from(data)
    return _PNG_COLOR_TYPES.get(color_type, f"colour type {color_type}"), depth
