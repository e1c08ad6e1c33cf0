"""What photos stand beside: the raw canvas, the bank's own photo of the most similar layout, and
photos of the same network f that never saw a canvas (CRN)."""

import dataclasses
import pathlib

import jax
import numpy as np
from jaxtyping import UInt8

from sims_jax.bank.store import Store
from sims_jax.checkpoints import digest_params
from sims_jax.config import CONFIG_FILE, load_config
from sims_jax.errors import InputError
from sims_jax.evaluation.kept import train_once
from sims_jax.labels import VOID
from sims_jax.model import Model
from sims_jax.training.run import Run
from sims_jax.training.settings import STAGES, read_settings

# Parts of a config that change no network whose canvases are empty.
_NOT_LEARNED_FROM = ("canvas", "simulation", "pipeline", "transformer", "ordering", "densifier")


def train_without_canvas(workdir: pathlib.Path, folder: pathlib.Path, model: Model) -> Model:
    """A cascaded refinement network: f, trained as the workdir's was, on empty canvases alone.

    Args:
      workdir: of train.py, finished.
      folder: where it is kept: a second call reads it, and so do workdirs whose canvases are made
        in another way.

    Returns:
      The model with these parameters, and with an empty bank.

    Raises:
      InputError: the workdir's config has not the keys of this version's.

    Source: Chen and Koltun, "Photographic Image Synthesis with Cascaded Refinement Networks", 2017.
    """
    config = load_config(workdir)
    kept = {
        part: value for part, value in config.to_dict().items() if part not in _NOT_LEARNED_FROM
    }
    config.update(stages=STAGES, distributed=False)
    try:
        settings = read_settings(config)
    except InputError as error:
        raise InputError(
            f"{workdir / CONFIG_FILE}: {error}; a workdir of an older version can be evaluated "
            "without --baselines only: train in another one"
        ) from error
    run = Run(config, workdir)
    smaller = run.read_smaller(model.labels)
    task = run.task("synthesis", settings, smaller)
    always = dataclasses.replace(settings.simulation, empty_share=1.0)
    task = dataclasses.replace(task, simulation=always, name="crn")
    learned_from = [kept, task.store.digest, *([] if smaller is None else [digest_params(smaller)])]
    found = train_once(task, settings.train["synthesis"], folder, learned_from, config.seed)
    params = model.params
    where = jax.tree.leaves(params.synthesis)[0].sharding  # as the other networks' are
    params = params.replace(synthesis=jax.device_put(found, where))
    return dataclasses.replace(model, params=params).without_bank()


def retrieve_photos(
    store: Store, layouts: UInt8[np.ndarray, "n H W"]
) -> UInt8[np.ndarray, "n H W 3"]:
    """For each layout the bank's photo whose own layout agrees with it in most labelled pixels.

    The first one of several. It is a photo, though of another layout: a scale for both, how real
    photos of these streets look to the judge, and how well a layout is met without any network.
    """
    agreeing = ((store.layout == layout) & (layout != VOID) for layout in layouts)
    return np.stack([store.photo[np.argmax(some.sum(axis=(1, 2)))] for some in agreeing])


def raw_canvas(canvas: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The canvas [H, W, 3] as a photo: its mean colour where it has no pixel."""
    there = mask > 0
    mean = canvas[there].mean(axis=0) if there.any() else np.zeros(3, canvas.dtype)
    return np.where(there[..., None], canvas, mean)
