"""The user's own data: root/photos/*.jpg|png, root/layouts/*.png|npy and root/labels.json.

A photo and its layout have the same name. Optional, for every photo: root/instances/*.png
(instance ids, 8 or 16 bits, 0 for none), root/depth/*.png (8 or 16 bits, in the unit that
labels.json states, 0 for unknown) and root/coarse/*.png (layouts with gaps). Optional, too:
root/split.json, {"train": [names], "val": [names]}.
"""

import collections
import dataclasses
import hashlib
import json
import pathlib

import numpy as np

from sims_jax.data.example import OPTIONAL_FIELDS
from sims_jax.data.listing import add_partners, pair_files, parse_frames
from sims_jax.data.pairs import FilesBuilder, Pair, Splits
from sims_jax.errors import InputError, Refuse, refuse_at_once
from sims_jax.images import read_bytes, read_numbers
from sims_jax.labels import LabelSpace
from sims_jax.words import counted

_GROUPS = ("thin", "planar", "context")


@dataclasses.dataclass(frozen=True)
class FolderConfig:
    """Where the data lies and how it is split.

    Args:
      root: folder that holds photos, layouts and labels.json.
      val_frac: share of the photos that become `val` where there is no split.json; by a hash of
        the name, so that photos added later move no other photo.
      video_frames: names are VIDEO_FRAME; a video's photos then stay in one split, and count as
        near-copies of each other.
      labels: the label space of a folder without labels.json.
    """

    root: str
    val_frac: float = 0.1
    video_frames: bool = False
    labels: LabelSpace | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderPair(Pair):
    """A pair whose depths, if it has any, are numbers of `depth_unit_m` metres."""

    depth_unit_m: float | None = None

    def read_map(self, field: str, path: pathlib.Path, labels: LabelSpace) -> np.ndarray:
        if field == "depth":
            return read_numbers(path, "depths").astype(np.float32) * np.float32(self.depth_unit_m)
        return super().read_map(field, path, labels)


class Folder(FilesBuilder):
    """A folder of photos and layouts."""

    LICENCE = "the user's own data"

    @classmethod
    def list_examples(
        cls, config: FolderConfig, refuse: Refuse = refuse_at_once
    ) -> tuple[LabelSpace, Splits]:
        """Lists train and, unless `val_frac` is 0, val.

        Raises:
          InputError: a folder or labels.json is missing or wrong or (through `refuse`) a partner
            is.
        """
        splits = list_folder(config, refuse)  # first: where root is wrong, that is said
        return read_labels(config), splits


def list_folder(config: FolderConfig, refuse: Refuse = refuse_at_once) -> Splits:
    """The pairs by split."""
    if not 0 <= config.val_frac < 1:
        raise InputError(
            f"config.data.val_frac: found {config.val_frac}, expected 0 or more and less than 1; "
            "change it"
        )
    root = pathlib.Path(config.root).expanduser()
    files = pair_files(root / "photos", root / "layouts", refuse=refuse)
    photos = {name: photo for name, (photo, _) in files.items()}
    frames = {name: (name, 0) for name in files}
    if config.video_frames:
        frames = parse_frames(photos, refuse)
    maps = {field: add_partners(files, root / field, refuse=refuse) for field in OPTIONAL_FIELDS}
    unit_m = _read_depth_unit(root / "labels.json") if maps["depth"] else None
    pairs = {
        name: FolderPair(
            id=name, photo=photos[name], layout=files[name][1], video=video, frame=frame,
            depth_unit_m=unit_m, **{field: found.get(name) for field, found in maps.items()},
        )
        for name, (video, frame) in frames.items()
    }  # fmt: skip
    if (root / "split.json").exists():
        return _split_by_file(root / "split.json", pairs, refuse)
    return _split_by_hash(root, tuple(pairs.values()), config.val_frac)


def read_labels(config: FolderConfig) -> LabelSpace:
    """The folder's label space, or the config's if the folder has none."""
    path = pathlib.Path(config.root).expanduser() / "labels.json"
    return config.labels if config.labels and not path.exists() else label_space_from_json(path)


def label_space_from_json(path: str | pathlib.Path) -> LabelSpace:
    """Reads a label space from a JSON file.

    {"classes": [{"name": "road", "color": [128, 64, 128], "planar": true}, ...],
     "void_ids": [...], "name": "...", "depth_unit_m": 0.001}; a class may also be "thin" or
    "context". A class's id is its position. All but "classes" may be left out; "depth_unit_m" is
    what one step of depth/*.png is in metres.

    Raises:
      InputError: the file is missing, is not JSON or does not have this form.
    """
    path = pathlib.Path(path)
    content = _read_json(path)
    try:
        _check_keys(content, {"classes"}, {"void_ids", "name", "depth_unit_m"})
        entries, void_ids = content["classes"], content.get("void_ids", [])
        if not isinstance(entries, list):
            raise InputError('found no list under "classes", expected one')
        for number, entry in enumerate(entries):
            _check_class(number, entry)
        if not isinstance(void_ids, list) or not all(type(i) is int for i in void_ids):
            raise InputError(f'found "void_ids" {void_ids}, expected a list of whole numbers')
        groups = {g: tuple(e["name"] for e in entries if e.get(g, False)) for g in _GROUPS}
        return LabelSpace(
            name=str(content.get("name", path.resolve().parent.name)),
            classes=tuple(entry["name"] for entry in entries),
            palette=tuple(tuple(entry["color"]) for entry in entries),
            void_ids=tuple(void_ids),
            **groups,
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _read_depth_unit(path: pathlib.Path) -> float:
    unit_m = _read_json(path).get("depth_unit_m")
    if type(unit_m) not in (int, float) or not 0 < unit_m < float("inf"):
        raise InputError(
            f'{path}: found "depth_unit_m" {unit_m} beside depth/, expected the metres of one step '
            "of its files, such as 0.001; add it"
        )
    return float(unit_m)


def _read_json(path: pathlib.Path) -> dict:
    if path.parent.is_dir() and not path.exists():  # of the two files labels.json alone has to be
        raise InputError(f"{path}: found none, expected the classes' names and colours; write it")
    try:
        content = json.loads(read_bytes(path))
    except ValueError as error:
        raise InputError(f"{path}: found no valid JSON ({error}); correct it there") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: found no JSON object, expected {{...}}; correct it")
    return content


def _check_keys(content: dict, required: set[str], optional: set[str]) -> None:
    if unknown := sorted(content.keys() - required - optional):
        known = ", ".join(sorted(required | optional))
        raise InputError(f"found key {', '.join(unknown)}, expected {known}; correct or remove it")
    if missing := sorted(required - content.keys()):
        raise InputError(f"found no key {', '.join(missing)}, expected it; add it")


def _check_class(number: int, entry: object) -> None:
    where = f"class {number}"
    if not isinstance(entry, dict):
        raise InputError(f'{where}: found {entry}, expected {{"name": ..., "color": [r, g, b]}}')
    try:
        _check_keys(entry, {"name", "color"}, set(_GROUPS))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    name, color = entry["name"], entry["color"]
    if not isinstance(name, str) or not name:
        raise InputError(f"{where}: found name {name!r}, expected text")
    if not (isinstance(color, list) and len(color) == 3 and all(type(v) is int for v in color)):
        raise InputError(f"{where} ({name}): found color {color}, expected [r, g, b]")
    for group in _GROUPS:
        if type(entry.get(group, False)) is not bool:
            raise InputError(
                f"{where} ({name}): found {group} {entry[group]}, expected true or false"
            )


def _split_by_file(path: pathlib.Path, pairs: dict[str, Pair], refuse: Refuse) -> Splits:
    splits = _read_json(path)
    try:
        _check_keys(splits, {"train"}, {"val"})
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if not all(
        isinstance(names, list) and names and all(isinstance(name, str) for name in names)
        for names in splits.values()
    ):
        raise InputError(
            f'{path}: expected {{"train": [names], "val": [names]}} without empty lists; correct it'
        )
    counts = {split: collections.Counter(names) for split, names in splits.items()}
    train, val = counts["train"], counts.get("val", {})
    listed = {**train, **val}
    wrong = {
        "names without a photo": [name for name in listed if name not in pairs],
        "photos it does not list": [name for name in pairs if name not in listed],
        "names in train and in val": [name for name in train if name in val],
        "names listed twice": [
            name for names in counts.values() for name, count in names.items() if count > 1
        ],
    }
    for what, names in wrong.items():
        if names:
            message = (
                f"{path}: found {what}: {len(names)} (first: {names[0]}), expected every photo's"
            )
            refuse(InputError(f"{message} name without suffix once; correct the list", [path]))
    # What is refused above is not to be found once more as a copy of itself.
    known = {"train": pairs.keys() & train.keys() - val.keys(), "val": pairs.keys() & val.keys()}
    return {split: tuple(pairs[name] for name in sorted(known[split])) for split in splits}


def _split_by_hash(root: pathlib.Path, pairs: tuple[Pair, ...], val_frac: float) -> Splits:
    """Videos whose hash falls below `val_frac` are `val`; the smallest hash always is."""
    if val_frac == 0:
        return {"train": pairs}
    hashes = {pair.video: _hash_to_unit(pair.video) for pair in pairs}
    bound = max(val_frac, min(hashes.values()))
    chosen = {video for video, value in hashes.items() if value <= bound}
    if len(chosen) == len(hashes):
        raise InputError(
            f"{root / 'photos'}: found "
            f"{counted(len(hashes), 'photo or video', 'photos or videos')}, which leaves none to "
            f"train on with val_frac {val_frac}; add photos, or name those of each in split.json"
        )
    return {
        "train": tuple(pair for pair in pairs if pair.video not in chosen),
        "val": tuple(pair for pair in pairs if pair.video in chosen),
    }


def _hash_to_unit(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
