"""Saving and restoring training states: atomic, asynchronous, several devices to one and back.

A checkpoint has two items: `state`, everything training needs to go on, and `ema`, the averaged
parameters alone, which is all that inference reads. Orbax writes into a temporary folder and
renames it, so that an unfinished save is never taken for a checkpoint.
"""

import pathlib

import jax
import orbax.checkpoint as ocp

from sims_jax.errors import InputError

KEPT = 2  # checkpoints; the one before the newest is the fallback for a damaged disk


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
