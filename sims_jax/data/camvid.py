"""CamVid in SegNet's layout: root/train, trainannot, val, valannot and, if there, test, testannot.

Names are VIDEO_FRAME (0001TP_006690, Seq05VD_f00000); labelled frames of a video lie about one
second apart, and SegNet's `val` continues a video of `train`. To judge on streets that were
never seen, hold out whole videos.
"""

import dataclasses
import pathlib

from sims_jax.data.listing import pair_files, parse_frames
from sims_jax.data.pairs import FilesBuilder, Pair, Splits
from sims_jax.errors import InputError, Refuse, refuse_at_once
from sims_jax.labels import CAMVID, LabelSpace


@dataclasses.dataclass(frozen=True)
class CamvidConfig:
    """Where CamVid lies, and what to judge on.

    Args:
      root: folder that holds train, trainannot, ...
      holdout_videos: videos that leave `train` and become `val`; val/ is then not read.
    """

    root: str
    holdout_videos: tuple[str, ...] = ()


class Camvid(FilesBuilder):
    """CamVid (Brostow et al. 2009), 11 classes."""

    LICENCE = "CamVid (Brostow et al. 2009): for research use; do not redistribute its photos."

    @classmethod
    def list_examples(
        cls, config: CamvidConfig, refuse: Refuse = refuse_at_once
    ) -> tuple[LabelSpace, Splits]:
        """Lists train, val and, where root/test is, test.

        Raises:
          InputError: a folder or a held-out video is missing or (through `refuse`) a partner is, or
            a name is not VIDEO_FRAME.
        """
        root = pathlib.Path(config.root).expanduser()
        splits = {"train": _list_split(root, "train", refuse)}
        if config.holdout_videos:
            splits = _hold_out(root, splits["train"], config.holdout_videos)
        else:
            splits["val"] = _list_split(root, "val", refuse)
        if (root / "test").exists():
            splits["test"] = _list_split(root, "test", refuse)
        return CAMVID, splits


def _list_split(root: pathlib.Path, split: str, refuse: Refuse) -> tuple[Pair, ...]:
    files = pair_files(root / split, root / f"{split}annot", refuse=refuse)
    frames = parse_frames({name: photo for name, (photo, _) in files.items()}, refuse)
    return tuple(
        Pair(id=name, photo=files[name][0], layout=files[name][1], video=video, frame=frame)
        for name, (video, frame) in frames.items()
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
