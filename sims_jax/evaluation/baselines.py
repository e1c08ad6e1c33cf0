"""What photos must beat: the raw canvas, and the same network f that never saw a canvas (CRN)."""

import dataclasses
import pathlib

import numpy as np

from sims_jax.checkpoints import DONE_FILE, digest_params, restore_finished
from sims_jax.config import load_config, write_json
from sims_jax.model import Model
from sims_jax.training.loop import train
from sims_jax.training.run import Run
from sims_jax.training.settings import STAGES, read_settings
from sims_jax.training.writers import MetricsWriter


def train_without_canvas(workdir: pathlib.Path, folder: pathlib.Path, model: Model) -> Model:
    """A cascaded refinement network: f, trained as the workdir's was, on empty canvases alone.

    Args:
      workdir: of train.py, finished.
      folder: where it is trained, or was: a second call reads it.

    Returns:
      The model with these parameters, and with an empty bank.

    Source: Chen and Koltun, "Photographic Image Synthesis with Cascaded Refinement Networks", 2017.
    """
    if not (folder / DONE_FILE).exists():
        config = load_config(workdir)
        config.stages = STAGES
        settings = read_settings(config)
        task = Run(config, workdir).task("synthesis", settings)
        always = dataclasses.replace(settings.simulation, empty_share=1.0)
        task = dataclasses.replace(task, simulation=always, name="crn")
        folder.mkdir(parents=True, exist_ok=True)
        with MetricsWriter(folder) as writer:
            params = train(task, settings.train["synthesis"], folder, writer, config.seed)
        write_json(folder / DONE_FILE, {"sha256": digest_params(params)})
    params = model.params.replace(synthesis=restore_finished(folder))
    return dataclasses.replace(model, params=params).without_bank()


def raw_canvas(canvas: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The canvas [H, W, 3] as a photo: its mean colour where it has no pixel."""
    there = mask > 0
    mean = canvas[there].mean(axis=0) if there.any() else np.zeros(3, canvas.dtype)
    return np.where(there[..., None], canvas, mean)
