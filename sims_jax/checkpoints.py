"""Saving and restoring training states: atomic, asynchronous, several devices to one and back.

A checkpoint has two items: `state`, everything training needs to go on, and `ema`, the averaged
parameters alone, which is all that inference reads. Orbax writes into a temporary folder and
renames it, so that an unfinished save is never taken for a checkpoint.
"""

import hashlib
import json
import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp

from sims_jax.errors import InputError

KEPT = 2  # checkpoints
DONE_FILE = "done.json"  # of a finished stage: its seconds, scores, and its parameters' digest


class Checkpoints:
    """The checkpoints of one training stage, in `folder`. A context manager.

    Leaving the context waits for saves under way, and raises what failed in them.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, create=True)
        handlers = {name: ocp.StandardCheckpointHandler() for name in ("state", "ema")}
        self._manager = ocp.CheckpointManager(
            folder.absolute(), options=options, item_handlers=handlers
        )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._manager.wait_until_finished()
        self._manager.close()

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, state, ema) -> None:
        """Starts saving; returns before it is on disk. A step already saved is left alone."""
        if step == self.latest_step:
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), ema=ocp.args.StandardSave(ema)
        )
        self._manager.save(step, args=items)

    def restore(self, like):
        """The latest state, with the structure, shapes and devices of `like`."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        return self._manager.restore(self._latest(), args=items)["state"]

    def restore_ema(self):
        """The latest averaged parameters, on one device whatever they were saved on."""
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        step = self._latest()
        abstract = jax.tree.map(
            lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=device),
            dict(self._manager.item_metadata(step)["ema"]),
        )
        items = ocp.args.Composite(ema=ocp.args.StandardRestore(abstract))
        return self._manager.restore(step, args=items)["ema"]

    def _latest(self) -> int:
        if self.latest_step is None:
            raise InputError(
                f"{self.folder}: no complete checkpoint found, expected a trained network; "
                "run train.py with this workdir"
            )
        return self.latest_step


def digest_params(params) -> str:
    """SHA-256 of parameters: names, shapes and bytes."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(params)):
        leaf = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape} ".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()


def restore_finished(folder: pathlib.Path):
    """The averaged parameters of a finished training stage, verified.

    Raises:
      InputError: the stage is not finished, or its checkpoint is damaged.
    """
    done = folder / DONE_FILE
    if not done.exists():
        raise InputError(
            f"{done}: not found, expected a network trained to its end; run the same train.py again"
        )
    try:
        with Checkpoints(folder) as checkpoints:
            params = checkpoints.restore_ema()
    except Exception as error:  # orbax raises a bare Exception for a lost chunk
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise InputError(
            f"{folder}: found a damaged checkpoint ({reason}), expected a "
            "complete one; delete the folder and run train.py again"
        ) from error
    if digest_params(params) != json.loads(done.read_text()).get("sha256"):
        raise InputError(
            f"{folder}: found parameters of another digest than {done} names, expected those that "
            "were saved; delete the folder and run train.py again"
        )
    return params
