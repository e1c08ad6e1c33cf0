"""Datasets of files, prepared as TFDS builders: what they share, and photos paired with layouts.

A dataset of files lists its examples by split; `FilesBuilder` reads, checks and caches them. The
cache is keyed by a digest of the listed files, so that a changed folder is read again.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import tensorflow_datasets as tfds

from sims_jax.data.example import OPTIONAL_FIELDS, Example
from sims_jax.errors import InputError, Refuse, refuse_at_once
from sims_jax.images import load_photo, read_bytes, read_instances
from sims_jax.labels import LabelSpace, read_layout
from sims_jax.progress import progress

_DIGEST_LENGTH = 16  # hexadecimal digits: 64 bits


class Listed(Protocol):
    """One example of a dataset, listed and not read yet.

    id: unique over all splits.
    video: what near-copies of a photo share; its own id for a single photo.
    frame: position in the video.
    files: the files it is read from, by field or by what they are.
    maps: which of OPTIONAL_FIELDS it has.
    """

    id: str
    video: str
    frame: int

    @property
    def files(self) -> dict[str, pathlib.Path]: ...

    @property
    def maps(self) -> tuple[str, ...]: ...

    def read(self, labels: LabelSpace, refuse: Refuse = refuse_at_once) -> Example:
        """id, photo (the bytes of a PNG or JPEG), layout uint8 [H, W], video, frame and `maps`.

        A field whose file `refuse` was called with is left out.
        """
        ...


Splits = Mapping[str, tuple[Listed, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """One example's files; subclasses read those that are written in a dataset's own way.

    Args:
      photo: PNG or JPEG.
      layout: PNG or .npy, of the photo's size.
      coarse: PNG, of the photo's size.
      instances: PNG of instance ids, of the photo's size.
      depth: PNG of depths, for a subclass to read.
    """

    id: str
    photo: pathlib.Path
    layout: pathlib.Path
    video: str
    frame: int
    instances: pathlib.Path | None = None
    depth: pathlib.Path | None = None
    coarse: pathlib.Path | None = None

    @property
    def files(self) -> dict[str, pathlib.Path]:
        every = {name: getattr(self, name) for name in ("photo", "layout", *OPTIONAL_FIELDS)}
        return {name: path for name, path in every.items() if path}

    @property
    def maps(self) -> tuple[str, ...]:
        return tuple(name for name in OPTIONAL_FIELDS if name in self.files)

    def read(self, labels: LabelSpace, refuse: Refuse = refuse_at_once) -> Example:
        """Reads and checks the files.

        Raises:
          InputError: a file cannot be read, holds unknown ids, or has another size than the photo.
        """
        example: Example = {"id": self.id, "video": self.video, "frame": self.frame}
        size = None
        for field, path in self.files.items():
            try:
                if field == "photo":
                    data = read_bytes(path)
                    size = load_photo(data, path).size[::-1]
                    example[field] = data
                else:
                    values = self.read_map(field, path, labels)
                    self._check_size(path, values, size)
                    example[field] = values
            except InputError as error:
                error.files = (path,)
                refuse(error)
        return example

    def read_map(self, field: str, path: pathlib.Path, labels: LabelSpace) -> np.ndarray:
        """[H, W] of a file in the type of its field."""
        return read_instances(path) if field == "instances" else read_layout(path, labels)

    def _check_size(
        self, path: pathlib.Path, values: np.ndarray, size: tuple[int, int] | None
    ) -> None:
        if size and values.shape != size:
            advice = "resample it (nearest)"
            if values.shape == size[::-1]:
                advice = "turn it: photos are read upright, as their EXIF orientation says"
            raise InputError(
                f"{path}: found {values.shape[0]}x{values.shape[1]} pixels, expected "
                f"{size[0]}x{size[1]}, the size of {self.photo}; {advice}"
            )


@dataclasses.dataclass(eq=False, kw_only=True)
class FilesConfig(tfds.core.BuilderConfig):
    """What `FilesBuilder` reads; `name` is the digest that keys the cache."""

    labels: LabelSpace
    splits: Splits = dataclasses.field(repr=False)


class FilesBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Reads the examples that a subclass lists; subclasses also state the licence.

    Examples are what `Listed.read` returns, in the order they were listed in.
    """

    VERSION = tfds.core.Version("1.0.0")
    LICENCE = ""
    code_path = None  # There is no folder of TFDS metadata beside the code.

    @classmethod
    def list_examples(
        cls, config: Any, refuse: Refuse = refuse_at_once
    ) -> tuple[LabelSpace, Splits]:
        """The label space, and the examples by split: train, val and perhaps others.

        Raises:
          InputError: a folder is missing or empty or (through `refuse`) a file does not fit.
        """
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: Any, cache_dir: str) -> "FilesBuilder":
        """The builder of the files that are there now.

        Raises:
          InputError: as `list_examples`, and where two examples share an id.
        """
        labels, splits = cls.list_examples(config)
        check_ids(splits)
        check_maps(splits)
        name = _digest(config, labels, splits)
        return cls(config=FilesConfig(name=name, labels=labels, splits=splits), data_dir=cache_dir)

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
        listed = (one for split in self.builder_config.splits.values() for one in split)
        found = {name for one in listed for name in one.maps}
        features |= {name: _map_feature(OPTIONAL_FIELDS[name]) for name in sorted(found)}
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            license=self.LICENCE,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager) -> dict:
        del dl_manager  # Nothing is downloaded.
        return {
            split: self._generate_examples(split, listed)
            for split, listed in self.builder_config.splits.items()
        }

    def _generate_examples(
        self, split: str, listed: tuple[Listed, ...]
    ) -> Iterator[tuple[int, Example]]:
        with progress(f"reading {split}", len(listed)) as bar:
            for index, one in enumerate(listed):
                yield index, one.read(self.labels)
                bar.update()


def check_ids(splits: Splits, refuse: Refuse = refuse_at_once) -> None:
    """All ids must differ, over all splits, for a bank names its photos by them.

    Raises:
      InputError: through `refuse`, two examples share an id.
    """
    seen: dict[str, str] = {}
    for split, listed in splits.items():
        for one in listed:
            path = next(iter(one.files.values()))
            if one.id in seen:
                message = (
                    f"{path}: found its name in the splits {seen[one.id]} and {split}, expected "
                    "every name once; remove one"
                )
                refuse(InputError(message, [path]))
            seen[one.id] = split


def check_maps(splits: Splits, refuse: Refuse = refuse_at_once) -> None:
    """All examples must have the same maps, over all splits.

    Raises:
      InputError: through `refuse`, an example lacks one that others have.
    """
    listed = [(split, one) for split, examples in splits.items() for one in examples]
    every = {name for _, one in listed for name in one.maps}
    lacking = [(split, one) for split, one in listed if every.difference(one.maps)]
    if lacking:
        split, one = lacking[0]
        path, name = next(iter(one.files.values())), min(every.difference(one.maps))
        message = f"{path}: found no {name} in the split {split}, expected one as others have"
        refuse(InputError(f"{message}; add it, or take the folder of the others away", [path]))


def _digest(config: object, labels: LabelSpace, splits: Splits) -> str:
    listed = [(split, one) for split, examples in splits.items() for one in examples]
    files = {path for _, one in listed for path in one.files.values()}
    content = {
        "config": dataclasses.asdict(config),
        "labels": dataclasses.asdict(labels),
        "examples": [[split, dataclasses.asdict(one)] for split, one in listed],
        "files": [_file_state(path) for path in sorted(files)],
    }
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_LENGTH]


def _file_state(path: pathlib.Path) -> tuple[str, int, int]:
    try:
        state = os.stat(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); restore the file") from error
    return str(path.absolute()), state.st_size, state.st_mtime_ns


def _map_feature(dtype: type) -> tfds.features.Tensor:
    return tfds.features.Tensor(shape=(None, None), dtype=dtype, encoding="zlib")
