"""Label spaces, and layouts and photos as files."""

import dataclasses
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from sims_jax.errors import InputError
from sims_jax.images import decode_photo, read_bytes, read_instances
from sims_jax.labels import (
    CAMVID,
    CITYSCAPES,
    SCENES,
    VOID,
    LabelSpace,
    colorize,
    read_layout,
    write_layout,
)

TWO = LabelSpace("two", ("a", "b"), ((10, 0, 0), (0, 20, 0)), void_ids=(9,))


@pytest.fixture
def layout():
    ids = np.random.default_rng(0).integers(0, CAMVID.num_classes + 1, (13, 17)).astype(np.uint8)
    return np.where(ids == CAMVID.num_classes, VOID, ids).astype(np.uint8)


def write_png(path, depth, color_type, rows):
    """A PNG as the format says, of kinds that Pillow cannot write."""

    def chunk(name, data):
        checksum = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)

    size = struct.pack(">IIBBBBB", 8, len(rows), depth, color_type, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", content) + chunk(b"IEND", b"")
    )


def save_palette(path, indices, palette):
    image = Image.fromarray(np.asarray(indices, np.uint8))
    image.putpalette(np.asarray(palette, np.uint8).tobytes(), "RGB")
    assert image.mode == "P"
    image.save(path)


def read_photo(path):
    return decode_photo(read_bytes(path), path)


def message_of(call, *args):
    with pytest.raises(InputError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "labels, num_classes", [(CAMVID, 11), (SCENES, 10), (CITYSCAPES, 19)], ids=lambda v: str(v)[:20]
)
def test_presets(labels, num_classes):
    assert labels.num_classes == num_classes
    assert labels.void_color == (0, 0, 0)
    assert hash(labels) == hash(dataclasses.replace(labels))
    assert labels.ids(labels.thin) == tuple(labels.classes.index(name) for name in labels.thin)


@pytest.mark.parametrize(
    "changes, found",
    [
        ({"classes": ("a", "a")}, "name a is used twice"),
        ({"palette": ((1, 1, 1), (1, 1, 1))}, "colour (1, 1, 1) is used twice"),
        ({"palette": ((1, 1, 1),)}, "1 colours for 2 classes"),
        ({"palette": ((1, 1, 1), (1, 1, 256))}, "(1, 1, 256)"),
        ({"thin": ("pole",)}, "thin names pole"),
        ({"planar": ("a", "road")}, "planar names road"),
        ({"context": ("sky",)}, "context names sky"),
        ({"void_ids": (1, 9)}, "void ids 1,"),
        ({"void_ids": (256,)}, "void ids 256"),
        ({"classes": (), "palette": ()}, "0 classes"),
    ],
)
def test_label_space_refuses(changes, found):
    assert found in message_of(lambda: dataclasses.replace(TWO, **changes))


def test_modes_of_one_layout_agree(tmp_path, layout):
    write_layout(tmp_path / "palette.png", layout, CAMVID)
    Image.fromarray(layout).save(tmp_path / "grey.png")
    Image.fromarray(np.where(layout == VOID, 11, layout).astype(np.uint8)).save(tmp_path / "11.png")
    Image.fromarray(colorize(layout, CAMVID)).save(tmp_path / "rgb.png")
    Image.fromarray(layout).convert("P").save(tmp_path / "ramp.png")
    # Indices in another order than the ids: colours decide.
    table = [CAMVID.void_color, *CAMVID.palette[::-1]]
    save_palette(tmp_path / "order.png", np.where(layout == VOID, 0, 11 - layout), table)
    for name in ("palette", "ramp", "order"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.mode == "P"
    for name in ("palette", "grey", "11", "rgb", "ramp", "order"):
        got = read_layout(tmp_path / f"{name}.png", CAMVID)
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, layout, err_msg=name)


def test_palette_of_few_bits(tmp_path):
    ids = np.array([[0, 1, 1, 0, 1, 0, 0, 1]], np.uint8)
    save_palette(tmp_path / "p.png", ids, TWO.palette)
    with Image.open(tmp_path / "p.png") as image:
        image.save(tmp_path / "bits.png", bits=1)
    assert (tmp_path / "bits.png").read_bytes()[24] == 1
    np.testing.assert_array_equal(read_layout(tmp_path / "bits.png", TWO), ids)


def test_grey_ramp_of_one_class_is_read_by_index(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint8)).convert("P").save(tmp_path / "sky.png")
    np.testing.assert_array_equal(read_layout(tmp_path / "sky.png", CAMVID), 0)


def test_black_class_is_not_void(tmp_path):
    labels = LabelSpace("black", ("night", "day"), ((0, 0, 0), (1, 1, 1)))
    assert labels.void_color == (2, 2, 2)
    layout = np.array([[0, 1, VOID]], np.uint8)
    write_layout(tmp_path / "p.png", layout, labels)
    Image.fromarray(colorize(layout, labels)).save(tmp_path / "rgb.png")
    np.testing.assert_array_equal(read_layout(tmp_path / "p.png", labels), layout)
    np.testing.assert_array_equal(read_layout(tmp_path / "rgb.png", labels), layout)


@pytest.mark.parametrize(
    "indices, palette, found",
    [
        ([[0, 1]], [(10, 0, 0), (9, 9, 8)], "colours (9, 9, 8)"),
        ([[0, 1]], [(10, 0, 0), (10, 0, 0)], "indices 0, 1 of one colour (10, 0, 0)"),
        ([[0, 1]], [(0, 0, 0), (0, 0, 0)], "indices 0, 1 of the void colour"),
        ([[0, 0]], [(0, 0, 0)], "black alone"),
        ([[0, 2]], [(0, 0, 0), (1, 1, 1), (2, 2, 2)], "ids 2,"),
    ],
)
def test_ambiguous_palettes_are_refused(tmp_path, indices, palette, found):
    path = tmp_path / "p.png"
    save_palette(path, indices, palette)
    message = message_of(read_layout, path, TWO)
    assert message.startswith(str(path)) and found in message


def test_unknown_ids_and_colors_are_listed(tmp_path):
    Image.fromarray(np.array([[0, 9, 255, 7, 3]], np.uint8)).save(tmp_path / "l.png")
    assert "found ids 3, 7, expected 0 to 1" in message_of(read_layout, tmp_path / "l.png", TWO)
    Image.fromarray(np.array([[[10, 0, 0], [10, 0, 1]]], np.uint8)).save(tmp_path / "c.png")
    assert "found colours (10, 0, 1)," in message_of(read_layout, tmp_path / "c.png", TWO)
    many = np.arange(10, 30, dtype=np.uint8)[None]
    Image.fromarray(many).save(tmp_path / "many.png")
    assert "10, 11, 12, 13, 14 and 15 more" in message_of(read_layout, tmp_path / "many.png", TWO)
    assert "found ids 2," in message_of(write_layout, tmp_path / "w.png", np.array([[2]]), TWO)
    assert not (tmp_path / "w.png").exists()
    assert "found ids -1," in message_of(colorize, np.array([[-1]]), TWO)


@pytest.mark.parametrize(
    "mode, found",
    [("RGBA", "mode RGBA"), ("LA", "mode LA"), ("1", "with 1 bits"), ("I;16", "with 16 bits")],
)
def test_other_png_modes_are_refused(tmp_path, mode, found):
    path = tmp_path / "layout.png"
    Image.new(mode, (4, 4)).save(path)
    message = message_of(read_layout, path, TWO)
    assert message.startswith(str(path)) and found in message


def test_bit_depths_that_pillow_would_change_are_refused(tmp_path):
    path = tmp_path / "layout.png"
    write_png(path, 4, 0, [b"\x01\x01\x01\x01"])  # Pillow makes 0 and 17 of ids 0 and 1.
    assert "mode L with 4 bits" in message_of(read_layout, path, TWO)
    write_png(path, 16, 2, [b"\x0a\x00\x00\x00\x00\x00" * 8])
    assert "mode RGB with 16 bits" in message_of(read_layout, path, TWO)


def test_transparent_layout_is_refused(tmp_path):
    Image.new("L", (2, 2)).save(tmp_path / "t.png", transparency=0)
    assert "transparency" in message_of(read_layout, tmp_path / "t.png", TWO)


def test_jpeg_layout_is_refused_by_name(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "layout.png", format="JPEG")
    message = message_of(read_layout, tmp_path / "layout.png", TWO)
    assert "found a JPEG" in message and "changes ids" in message


@pytest.mark.parametrize("read", [lambda p: read_layout(p, TWO), read_photo, read_instances])
def test_damaged_files_are_refused(tmp_path, read):
    path = tmp_path / "x.png"
    assert "No such file" in message_of(read, path)
    path.write_bytes(b"")
    assert "0 bytes" in message_of(read, path)
    path.write_text("not an image")
    assert str(path) in message_of(read, path)
    Image.fromarray(np.random.default_rng(0).integers(0, 2, (64, 64)).astype(np.uint8)).save(path)
    whole = path.read_bytes()
    read(path)
    for length in (4, 20, 40, len(whole) // 2, len(whole) - 20):
        path.write_bytes(whole[:length])
        assert str(path) in message_of(read, path)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    path.write_bytes(flipped)
    assert "checksum" in message_of(read, path)
    assert "cannot be read" in message_of(read, tmp_path)


def test_decompression_bomb_is_refused(tmp_path, monkeypatch):
    Image.new("L", (64, 64)).save(tmp_path / "big.png")
    for limit in (3000, 1000):  # Pillow warns above the limit and raises above its double.
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert "big.png" in message_of(read_layout, tmp_path / "big.png", TWO)
        assert "big.png" in message_of(read_photo, tmp_path / "big.png")


def test_photos(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "rgb.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "rgb.png"), pixels)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "grey.png"), pixels[..., :1].repeat(3, -1))
    turned = Image.Exif()
    turned[0x0112] = 6  # Orientation: turn by 90 degrees clockwise.
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=turned)
    np.testing.assert_array_equal(read_photo(tmp_path / "turned.png"), np.rot90(pixels, -1))
    palette = Image.fromarray(pixels).quantize(16)
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "palette.png"), palette.convert("RGB"))
    palette.save(tmp_path / "odd.png", transparency=3)
    assert "mode P with transparency" in message_of(read_photo, tmp_path / "odd.png")
    for mode in ("RGBA", "LA", "1", "I;16"):
        Image.new(mode, (4, 4)).save(tmp_path / "odd.png")
        assert f"mode {mode}" in message_of(read_photo, tmp_path / "odd.png")
    Image.new("CMYK", (4, 4)).save(tmp_path / "odd.jpg")
    assert "mode CMYK" in message_of(read_photo, tmp_path / "odd.jpg")
    Image.new("RGB", (4, 4)).save(tmp_path / "x.gif")
    assert "no readable image" in message_of(read_photo, tmp_path / "x.gif")


def test_truncated_jpeg_is_refused(tmp_path):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    assert "truncated" in message_of(read_photo, tmp_path / "cut.jpg")


def test_instances(tmp_path):
    ids = np.array([[0, 1, 300, 65535]], np.uint16)
    Image.fromarray(ids).save(tmp_path / "i.png")
    np.testing.assert_array_equal(read_instances(tmp_path / "i.png"), ids)
    Image.new("RGB", (4, 4)).save(tmp_path / "rgb.png")
    assert "mode RGB" in message_of(read_instances, tmp_path / "rgb.png")


def test_real_layouts(camvid_root, tmp_path):
    path = sorted((camvid_root / "trainannot").glob("*.png"))[0]
    layout = read_layout(path, CAMVID)
    with Image.open(path) as image:
        stored = np.asarray(image)
    np.testing.assert_array_equal(layout, np.where(stored == 11, VOID, stored))
    write_layout(tmp_path / "again.png", layout, CAMVID)
    np.testing.assert_array_equal(read_layout(tmp_path / "again.png", CAMVID), layout)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint64, ">i4"])
def test_npy_layouts(tmp_path, dtype):
    ids = np.array([[0, 1, 9], [1, 255, 0]])
    np.save(tmp_path / "a.npy", np.asfortranarray(ids.astype(dtype)))
    expected = np.where(ids == 9, VOID, ids).astype(np.uint8)
    np.testing.assert_array_equal(read_layout(tmp_path / "a.npy", TWO), expected)


@pytest.mark.parametrize(
    "array, found",
    [
        (np.zeros((2, 3)), "float64 of shape"),
        (np.zeros((2, 3, 1), int), "shape (2, 3, 1)"),
        (np.zeros((0, 3), int), "shape (0, 3)"),
        (np.full((2, 3), -1), "found ids -1"),
        (np.full((2, 3), 2**40), f"found ids {2**40}"),
        (np.array([[None]]), "object of shape"),
    ],
)
def test_npy_files_that_are_no_layouts(tmp_path, array, found):
    np.save(tmp_path / "a.npy", array)
    assert found in message_of(read_layout, tmp_path / "a.npy", TWO)


def test_npy_headers_are_not_believed(tmp_path):
    """Eight terabytes are promised; nothing is reserved for them."""
    path, header = tmp_path / "a.npy", io.BytesIO()
    form = {"descr": "<i8", "fortran_order": False, "shape": (1 << 20, 1 << 20)}
    np.lib.format.write_array_header_1_0(header, form)
    path.write_bytes(header.getvalue() + b"123")
    assert "found 3 bytes of numbers" in message_of(read_layout, path, TWO)
    for data in (b"\x93NUMPY", b"\x93NUMPY\x09\x00", header.getvalue()[:40], b"nothing"):
        path.write_bytes(data)
        assert "no .npy file" in message_of(read_layout, path, TWO)
