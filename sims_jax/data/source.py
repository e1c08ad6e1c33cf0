"""Opens a dataset by its config: prepared once with TFDS, then read by index.

No accelerator is touched: whatever is wrong with the files is said before one is.
"""

import contextlib
import dataclasses
import io
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence

import tensorflow_datasets as tfds
from absl import logging
from ml_collections import ConfigDict

from sims_jax.config import make
from sims_jax.data.ade20k import Ade20k, Ade20kConfig
from sims_jax.data.camvid import Camvid, CamvidConfig
from sims_jax.data.cityscapes import Cityscapes, CityscapesConfig
from sims_jax.data.coco_stuff import CocoStuff, CocoStuffConfig
from sims_jax.data.folder import Folder, FolderConfig
from sims_jax.data.nyu import Nyu, NyuConfig
from sims_jax.data.scenes import Scenes, ScenesConfig
from sims_jax.errors import InputError
from sims_jax.images import decode_photo
from sims_jax.labels import LabelSpace

# A builder class has `from_config(config, cache_dir)`, `labels` and `LICENCE`.
DATASETS = {
    "ade20k": (Ade20kConfig, Ade20k),
    "camvid": (CamvidConfig, Camvid),
    "cityscapes": (CityscapesConfig, Cityscapes),
    "coco_stuff": (CocoStuffConfig, CocoStuff),
    "folder": (FolderConfig, Folder),
    "nyu": (NyuConfig, Nyu),
    "scenes": (ScenesConfig, Scenes),
}


@dataclasses.dataclass(frozen=True)
class Source:
    """The examples of one split, in the dataset's order; can be pickled to worker processes."""

    records: Sequence[dict]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        """id, photo uint8 [H, W, 3], layout uint8 [H, W] (void 255), video, frame.

        Where the dataset has them, instances uint16 [H, W] (0 none), depth float32 [H, W] metres
        (0 unknown) and coarse uint8 [H, W].
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        record = dict(self.records[index % len(self)])
        record |= {name: record[name].decode() for name in ("id", "video")}
        return record | {
            "photo": decode_photo(record["photo"], record["id"]),
            "frame": int(record["frame"]),
        }


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared dataset."""

    name: str
    labels: LabelSpace
    licence: str
    splits: dict[str, Source]


def open_dataset(config: Mapping | ConfigDict, cache_dir: str | pathlib.Path) -> Dataset:
    """Prepares the dataset that `config` names, unless `cache_dir` has it, and opens it.

    Args:
      config: {"name": one of DATASETS, ...}, the other keys being the fields of its config.
      cache_dir: folder for prepared datasets; one subfolder a digest of config and files.

    Raises:
      InputError: an unknown name or key, or files that cannot be used; nothing is then cached.
    """
    name, builder_class, dataset_config = choose_dataset(config)
    with _quiet_tfds():
        builder = builder_class.from_config(dataset_config, os.path.expanduser(cache_dir))
        _prepare(builder)
    # Photos stay encoded: one decoder, ours, whatever else is installed.
    decoders = {"photo": tfds.decode.SkipDecoding()}
    # Read back by folder, so that workers are sent a path and not the list of all files.
    reader = tfds.builder_from_directory(builder.data_dir)
    return Dataset(
        name=name,
        labels=builder.labels,
        licence=builder.LICENCE,
        splits={
            split: Source(reader.as_data_source(split, decoders=decoders))
            for split in reader.info.splits
        },
    )


def dataset_labels(config: Mapping | ConfigDict) -> LabelSpace:
    """The label space of the dataset that `config` names; its files are listed, not read.

    Raises:
      InputError: as of `open_dataset`.
    """
    _, builder_class, dataset_config = choose_dataset(config)
    with tempfile.TemporaryDirectory() as nowhere, _quiet_tfds():
        return builder_class.from_config(dataset_config, nowhere).labels


def choose_dataset(config: Mapping | ConfigDict) -> tuple[str, type, object]:
    """Name, builder class and config of the dataset that `config` names.

    A config may have keys of another dataset where they are not set (empty, False), so that
    `--config.data.name` can be changed alone.

    Raises:
      InputError: an unknown name or key, or no root.
    """
    fields = {key: config[key] for key in config}
    name = fields.pop("name", None)
    if name not in DATASETS:
        raise InputError(
            f"config.data.name: found {name}, expected one of {', '.join(sorted(DATASETS))}; "
            "correct it"
        )
    if not fields.get("root", "."):
        raise InputError(
            f"config.data.root: found nothing, expected the folder of {name}; "
            "give --config.data.root=FOLDER"
        )
    config_class, builder_class = DATASETS[name]
    own = {field.name for field in dataclasses.fields(config_class)}
    known = {field.name for one, _ in DATASETS.values() for field in dataclasses.fields(one)}
    fields = {k: value for k, value in fields.items() if value or k not in known - own}
    return name, builder_class, make(config_class, fields, "config.data")


def _prepare(builder: tfds.core.DatasetBuilder) -> None:
    """Writes the cache under a temporary name that is renamed when it is complete."""
    try:
        builder.download_and_prepare(
            file_format="array_record",
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
        )
    except Exception as error:
        if cause := _find_input_error(error):
            raise cause from None
        if not builder.data_path.exists():  # Else another process was faster, and it is complete.
            raise


def _find_input_error(error: BaseException | None) -> InputError | None:
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__ or error.__context__
    return error


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """Keeps TFDS's bars, prints and log lines from the terminal; ours go to stderr."""
    verbosity = logging.get_verbosity()
    tfds.disable_progress_bar()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
