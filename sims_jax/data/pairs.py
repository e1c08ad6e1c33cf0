"""Datasets of files: photos paired with layouts by name, prepared as one TFDS builder.

A dataset of files lists its pairs (`Pair`) by split; `PairBuilder` reads, checks and caches them.
The cache is keyed by a digest of the listed files, so that a changed folder is read again.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow_datasets as tfds

from sims_jax.errors import InputError
from sims_jax.images import decode_photo, read_bytes, read_instances
from sims_jax.labels import LabelSpace, read_layout
from sims_jax.progress import progress

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_STEM = re.compile(r"(?P<video>\w+?)_f?(?P<frame>\d+)")
_NUM_SHOWN = 3  # of a list of names, in a message
_DIGEST_LENGTH = 16  # hexadecimal digits: 64 bits


@dataclasses.dataclass(frozen=True)
class Pair:
    """One example's files.

    Args:
      id: unique over all splits.
      photo: PNG or JPEG.
      layout: PNG, of the photo's size.
      video: what near-copies of a photo share; its own id for a single photo.
      frame: position in the video.
      instances: PNG of instance ids, of the photo's size.
    """

    id: str
    photo: pathlib.Path
    layout: pathlib.Path
    video: str
    frame: int
    instances: pathlib.Path | None = None


@dataclasses.dataclass(eq=False, kw_only=True)
class PairConfig(tfds.core.BuilderConfig):
    """What `PairBuilder` reads; `name` is the digest that keys the cache."""

    labels: LabelSpace
    splits: Mapping[str, tuple[Pair, ...]] = dataclasses.field(repr=False)


class PairBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Reads pairs of photo and layout. Subclasses state the licence.

    An example: id, photo (the file's bytes), layout uint8 [H, W] with void 255, video, frame and,
    where the pairs have them, instances uint16 [H, W] with 0 for none. Examples keep the order
    of the pairs.
    """

    VERSION = tfds.core.Version("1.0.0")
    LICENCE = ""
    code_path = None  # There is no folder of TFDS metadata beside the code.

    @property
    def labels(self) -> LabelSpace:
        return self.builder_config.labels

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "id": tfds.features.Text(),
            "photo": tfds.features.Image(shape=(None, None, 3)),
            "layout": _map_feature(np.uint8),
            "video": tfds.features.Text(),
            "frame": np.int64,
        }
        if any(pair.instances for pairs in self.builder_config.splits.values() for pair in pairs):
            features["instances"] = _map_feature(np.uint16)
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            license=self.LICENCE,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager) -> dict:
        del dl_manager  # Nothing is downloaded.
        return {
            split: self._generate_examples(split, pairs)
            for split, pairs in self.builder_config.splits.items()
        }

    def _generate_examples(self, split: str, pairs: tuple[Pair, ...]) -> Iterator[tuple[int, dict]]:
        with progress(f"reading {split}", len(pairs)) as bar:
            for index, pair in enumerate(pairs):
                yield index, read_example(pair, self.labels)
                bar.update()


def read_example(pair: Pair, labels: LabelSpace) -> dict:
    """Reads and checks the files of one pair.

    Raises:
      InputError: a file cannot be read, holds unknown ids, or has another size than the photo.
    """
    data = read_bytes(pair.photo)
    size = decode_photo(data, pair.photo).shape[:2]
    maps = {"layout": (pair.layout, read_layout(pair.layout, labels))}
    if pair.instances:
        maps["instances"] = (pair.instances, read_instances(pair.instances))
    for path, values in maps.values():
        if values.shape != size:
            raise InputError(
                f"{path}: found {values.shape[1]}x{values.shape[0]} pixels, expected "
                f"{size[1]}x{size[0]}, the size of {pair.photo}; resample it (nearest)"
            )
    fields = {"id": pair.id, "photo": data, "video": pair.video, "frame": pair.frame}
    return fields | {name: values for name, (_, values) in maps.items()}


def pair_files(
    photos: pathlib.Path, maps: pathlib.Path
) -> dict[str, tuple[pathlib.Path, pathlib.Path]]:
    """Pairs the images of two folders by name without suffix, in sorted order.

    Raises:
      InputError: a folder is missing, is empty, or a file has no partner in the other.
    """
    left, right = list_images(photos), list_images(maps)
    alone = [path.name for stem, path in left.items() if stem not in right]
    orphans = [path.name for stem, path in right.items() if stem not in left]
    if alone or orphans:
        raise InputError(
            f"{photos}: found {_count(alone)} without a partner in {maps}, and {_count(orphans)} "
            f"there without a partner here, expected equal names; rename or remove them"
        )
    if not left:
        raise InputError(f"{photos}: found no image, expected .png or .jpg files; add some")
    return {stem: (left[stem], right[stem]) for stem in left}


def list_images(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The PNG and JPEG files of a folder by name without suffix, sorted; hidden ones left out."""
    if not folder.is_dir():
        raise InputError(f"{folder}: found no such folder, expected images in it; check the path")
    images = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in _IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in images:
            raise InputError(
                f"{path}: found also {images[path.stem].name}, expected one file a name; remove one"
            )
        images[path.stem] = path
    return images


def parse_frame(photo: pathlib.Path) -> tuple[str, int]:
    """Video and frame of a file named VIDEO_FRAME or VIDEO_fFRAME.

    Raises:
      InputError: the name is another.
    """
    match = _STEM.fullmatch(photo.stem)
    if not match:
        raise InputError(
            f"{photo}: found the name {photo.stem}, expected VIDEO_FRAME as in 0001TP_006690; "
            "rename it"
        )
    return match["video"], int(match["frame"])


def make_pair_config(
    config: object, labels: LabelSpace, splits: Mapping[str, tuple[Pair, ...]]
) -> PairConfig:
    """The builder config of listed pairs, named by the digest of config, labels and files.

    Raises:
      InputError: two splits share an id.
    """
    seen: dict[str, str] = {}
    for split, pairs in splits.items():
        for pair in pairs:
            if pair.id in seen:
                raise InputError(
                    f"{pair.photo}: found its name in the splits {seen[pair.id]} and {split}, "
                    "expected every name once; remove one"
                )
            seen[pair.id] = split
    return PairConfig(name=_digest(config, labels, splits), labels=labels, splits=splits)


def _digest(config: object, labels: LabelSpace, splits: Mapping[str, tuple[Pair, ...]]) -> str:
    content = {
        "config": dataclasses.asdict(config),
        "labels": dataclasses.asdict(labels),
        "files": {
            split: [
                [pair.id, pair.video, pair.frame, *map(_file_state, _files(pair))] for pair in pairs
            ]
            for split, pairs in splits.items()
        },
    }
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_LENGTH]


def _files(pair: Pair) -> list[pathlib.Path]:
    return [path for path in (pair.photo, pair.layout, pair.instances) if path]


def _file_state(path: pathlib.Path) -> tuple[str, int, int]:
    try:
        state = os.stat(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); restore the file") from error
    return str(path.absolute()), state.st_size, state.st_mtime_ns


def _map_feature(dtype: type) -> tfds.features.Tensor:
    return tfds.features.Tensor(shape=(None, None), dtype=dtype, encoding="zlib")


def _count(names: list[str]) -> str:
    more = ", ..." if len(names) > _NUM_SHOWN else ""
    shown = f" ({', '.join(names[:_NUM_SHOWN])}{more})" if names else ""
    return f"{len(names)} file{'' if len(names) == 1 else 's'}{shown}"
