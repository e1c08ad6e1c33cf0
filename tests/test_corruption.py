"""Damaged files end in one line, whatever the damage: never a traceback, never a wrong size."""

import io

import numpy as np
import pytest
from PIL import Image
from replicas import CLASSES, SIZE, draw

from sims_jax.data.folder import FolderPair
from sims_jax.images import decode_photo
from sims_jax.labels import LabelSpace

CORRUPTIONS = 200
LABELS = LabelSpace(
    "four", tuple(c["name"] for c in CLASSES), tuple(tuple(c["color"]) for c in CLASSES)
)
PICTURE = draw(0, 0, 1, 2, 3)


def encode(pixels, **options):
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, **options)
    return data.getvalue()


def encode_npy(pixels):
    data = io.BytesIO()
    np.save(data, pixels)
    return data.getvalue()


# A whole example's files, of which one is damaged at a time.
FILES = {
    "photo.png": encode(PICTURE["photo"], format="PNG"),
    "photo.jpg": encode(PICTURE["photo"], format="JPEG", quality=90),
    "progressive.jpg": encode(PICTURE["photo"], format="JPEG", progressive=True),
    "layout.png": encode(PICTURE["layout"], format="PNG"),
    "layout.npy": encode_npy(PICTURE["layout"]),
    "instances.png": encode(PICTURE["instances"], format="PNG"),
}


def corrupt(rng, data):
    """Bits turned, bytes cut off, put in, written over, or a part moved; most often in the head."""
    data = bytearray(data)
    place = int(len(data) * rng.random() ** rng.choice([1, 3]))
    length = int(rng.integers(1, 40))
    noise = rng.bytes(length)
    match rng.integers(6):
        case 0:
            data[place % len(data)] ^= 1 << int(rng.integers(8))
        case 1:
            del data[place:]
        case 2:
            data[place:place] = noise
        case 3:
            data[place : place + length] = noise
        case 4:
            del data[place : place + length]
        case _:
            data[place : place + length], data[:length] = (
                data[:length],
                data[place : place + length],
            )
    return bytes(data)


@pytest.mark.parametrize("name", FILES)
def test_a_corrupt_file_is_refused_by_name_or_read_at_its_size(name, tmp_path):
    for file, data in FILES.items():
        (tmp_path / file).write_bytes(data)
    field = name.partition(".")[0].replace("progressive", "photo")
    files = {"photo": "photo.png", "layout": "layout.png", "instances": "instances.png"}
    paths = {key: tmp_path / file for key, file in (files | {field: name}).items()}
    pair = FolderPair(id="a", video="a", frame=0, **paths)
    assert pair.read(LABELS).keys() == {"id", "video", "frame", *files}
    rng = np.random.default_rng([*name.encode()])
    refused = 0
    for _ in range(CORRUPTIONS):
        paths[field].write_bytes(corrupt(rng, FILES[name]))
        errors = []
        example = pair.read(LABELS, errors.append)
        for error in errors:
            assert "\n" not in str(error) and "; " in str(error)
            assert str(error.files[0]) in str(error)
        refused += any(paths[field] in error.files for error in errors)
        if not errors:
            photo = decode_photo(example["photo"], "photo")
            assert photo.shape[:2] == example["layout"].shape == example["instances"].shape == SIZE
    assert refused > CORRUPTIONS / 4
