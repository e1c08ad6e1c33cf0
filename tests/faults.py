"""Ways to spoil a folder of photos and layouts that `replicas.write_folder` wrote.

Each spoils one photo's files, and returns the file to be named and a part of what must be said.
"""

import os
import shutil
import struct
import zlib

import numpy as np
from PIL import Image
from replicas import SIZE

from sims_jax.labels import VOID


def save(path, pixels):
    Image.fromarray(pixels).save(path)
    return path


def layout_of(root, name="straße 1"):
    return root / "layouts" / f"{name}.png"


def plant_id(root):
    return save(layout_of(root), np.full(SIZE, 77, np.uint8)), "found ids 77"


def plant_rgba(root):
    return save(layout_of(root), np.zeros((*SIZE, 4), np.uint8)), "mode RGBA"


def plant_palette(root):
    image = Image.fromarray((np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 2).astype(np.uint8))
    image.putpalette([1, 2, 3] * 2, "RGB")
    image.save(layout_of(root))
    return layout_of(root), "of one colour"


def plant_size(root):
    return save(layout_of(root), np.zeros((SIZE[0] // 2, SIZE[1]), np.uint8)), "12x32 pixels"


def plant_turned(root):
    """A photo that lies on its side, as cameras store it; its layout, too."""
    path = root / "photos" / "straße 1.png"
    photo = Image.open(path)
    photo.getexif()[0x0112] = 6  # orientation: to be turned by 90 degrees
    photo.save(path, exif=photo.getexif())
    return layout_of(root), "turn it: photos are read upright"


def plant_loss(root):
    layout_of(root).unlink()
    return root / "photos" / "straße 1.png", "without a partner"


def plant_truncated_jpeg(root, share=0.7):
    photo = root / "photos" / "straße 1.png"
    path = photo.with_suffix(".jpg")
    Image.open(photo).save(path, quality=90)
    photo.unlink()
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path, "unusable image"


def plant_tiff(root):
    photo = root / "photos" / "straße 1.png"
    path = photo.with_suffix(".tif")
    Image.open(photo).save(path)
    photo.unlink()
    return path, "found a .tif file, expected a PNG"


def plant_jpeg_without_its_end(root):
    return plant_truncated_jpeg(root, 0.999)


def plant_16_bits(root):
    return save(layout_of(root), np.zeros(SIZE, np.uint16)), "16 bits"


def plant_void(root):
    return save(layout_of(root), np.full(SIZE, VOID, np.uint8)), "void alone"


def plant_empty_file(root):
    layout_of(root).write_bytes(b"")
    return layout_of(root), "0 bytes"


def plant_bomb(root, height=12_000, width=11_999):
    """432 MB of zeros in 430 kB: a whole PNG, if one would decode it."""
    path = root / "photos" / "straße 1.png"

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    packer, row = zlib.compressobj(1), bytes(1 + 3 * width)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )
    return path, "12000x11999 pixels"


def plant_link(root):
    path = root / "photos" / "straße 1.png"
    outside = root.parent / "private.png"
    shutil.move(path, outside)
    path.symlink_to(outside)
    return path, f"a link to {outside}"


def plant_dangling_link(root):
    path = layout_of(root)
    path.unlink()
    path.symlink_to("nowhere.png")
    return path, "cannot be read"


def plant_pipe(root):
    path = layout_of(root)
    path.unlink()
    os.mkfifo(path)
    return path, "a folder or device"


def plant_instances(root):
    return save(root / "instances" / "straße 1.png", np.zeros((*SIZE, 3), np.uint8)), "mode RGB"


FAULTS = [
    plant_id, plant_rgba, plant_palette, plant_size, plant_turned, plant_loss, plant_tiff,
    plant_truncated_jpeg, plant_jpeg_without_its_end, plant_16_bits, plant_void, plant_empty_file,
    plant_bomb, plant_link, plant_dangling_link, plant_pipe, plant_instances,
]  # fmt: skip
