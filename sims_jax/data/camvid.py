"""CamVid in SegNet's layout: root/train, trainannot, val, valannot and, if there, test, testannot.

Names are VIDEO_FRAME (0001TP_006690, Seq05VD_f00000); labelled frames of a video lie about one
second apart, and SegNet's `val` continues a video of `train`. To judge on streets that were
never seen, hold out whole videos.
"""

import dataclasses
import pathlib

from sims_jax.data.pairs import Pair, PairBuilder, make_pair_config, pair_files, parse_frame
from sims_jax.errors import InputError
from sims_jax.labels import CAMVID


@dataclasses.dataclass(frozen=True)
class CamvidConfig:
    """Where CamVid lies, and what to judge on.

    Args:
      root: folder that holds train, trainannot, ...
      holdout_videos: videos that leave `train` and become `val`; val/ is then not read.
    """

    root: str
    holdout_videos: tuple[str, ...] = ()


class Camvid(PairBuilder):
    """CamVid (Brostow et al. 2009), 11 classes."""

    LICENCE = "CamVid (Brostow et al. 2009): for research use; do not redistribute its photos."

    @classmethod
    def from_config(cls, config: CamvidConfig, cache_dir: str) -> "Camvid":
        """The builder of the files that are there now.

        Raises:
          InputError: a folder, a partner or a held-out video is missing, or a name is not
            VIDEO_FRAME.
        """
        splits = list_camvid(config)
        return cls(config=make_pair_config(config, CAMVID, splits), data_dir=cache_dir)


def list_camvid(config: CamvidConfig) -> dict[str, tuple[Pair, ...]]:
    """The pairs by split: train, val and, where root/test is, test."""
    root = pathlib.Path(config.root).expanduser()
    train = _list_split(root, "train")
    splits = (
        _hold_out(root, train, config.holdout_videos)
        if config.holdout_videos
        else {"train": train, "val": _list_split(root, "val")}
    )
    if (root / "test").exists():
        splits["test"] = _list_split(root, "test")
    return splits


def _list_split(root: pathlib.Path, split: str) -> tuple[Pair, ...]:
    files = pair_files(root / split, root / f"{split}annot")
    return tuple(
        Pair(stem, photo, layout, *parse_frame(photo)) for stem, (photo, layout) in files.items()
    )


def _hold_out(
    root: pathlib.Path, pairs: tuple[Pair, ...], videos: tuple[str, ...]
) -> dict[str, tuple[Pair, ...]]:
    there = sorted({pair.video for pair in pairs})
    if unknown := sorted(set(videos) - set(there)):
        raise InputError(
            f"{root / 'train'}: found no video {', '.join(unknown)}, expected holdout_videos to be "
            f"some of {', '.join(there)}; correct holdout_videos"
        )
    splits = {
        "train": tuple(pair for pair in pairs if pair.video not in videos),
        "val": tuple(pair for pair in pairs if pair.video in videos),
    }
    if not splits["train"]:
        raise InputError(
            f"{root / 'train'}: found no photo outside of holdout_videos, expected some to train "
            "on; hold out fewer videos"
        )
    return splits
