"""What training leaves behind for people: metrics, TensorBoard events, sheets."""

import json
import pathlib

import numpy as np

from sims_jax.ops.sheet import write_picture
from sims_jax.processes import is_first


class MetricsWriter:
    """Writes metrics to `metrics.jsonl` and TensorBoard, and sheets to `sheets/`, in a workdir.

    Of several processes the first writes.
    """

    def __init__(self, workdir: pathlib.Path):
        from tensorboardX import SummaryWriter  # loads Torch where there is one

        self._jsonl = workdir / "metrics.jsonl"
        self._sheets = workdir / "sheets"
        self._events = SummaryWriter(str(workdir / "events"), write_to_disk=is_first())

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._events.close()

    def rewind(self, stage: str, step: int) -> None:
        """Forgets what an interrupted run wrote of `stage` after `step`: it will come again."""
        if not (is_first() and self._jsonl.exists()):
            return
        lines = self._jsonl.read_text().splitlines(keepends=True)
        complete = [line for line in lines if line.endswith("\n")]
        entries = [(json.loads(line), line) for line in complete]
        kept = [line for entry, line in entries if entry["stage"] != stage or entry["step"] <= step]
        aside = self._jsonl.with_suffix(".jsonl.tmp")
        aside.write_text("".join(kept))
        aside.replace(self._jsonl)

    def write(self, stage: str, step: int, metrics: dict[str, float]) -> None:
        """Appends one line `{"stage", "step", ...metrics}`."""
        if not is_first():
            return
        with self._jsonl.open("a") as file:
            file.write(json.dumps({"stage": stage, "step": step} | metrics) + "\n")
        for name, value in metrics.items():
            self._events.add_scalar(f"{stage}/{name}", value, step)

    def write_sheet(self, stage: str, step: int, sheet: np.ndarray) -> None:
        """Saves a picture, uint8 [H, W, 3], as `sheets/<stage>_<step>.png`."""
        if not is_first():
            return
        self._sheets.mkdir(exist_ok=True)
        write_picture(self._sheets / f"{stage}_{step:07d}.png", sheet)
        self._events.add_image(f"{stage}/sheet", sheet, step, dataformats="HWC")
