"""A trained model in Python: `load(workdir)`, then `synthesize(layout)`.

Layouts of any size go in and photos of the same size come out; in between everything happens at
the model's working size, in one compiled program for each batch size.
"""

import dataclasses
import operator
import os
import pathlib
from collections.abc import Collection, Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Int, UInt8
from ml_collections import ConfigDict
from numpy.typing import ArrayLike
from PIL import Image

from sims_jax import pipeline
from sims_jax.bank.blocks import open_blocks
from sims_jax.bank.choose import layer_places
from sims_jax.bank.device import empty_bank, put_everywhere, rows_to_device, to_device
from sims_jax.bank.disk import DiskBank
from sims_jax.bank.photo import as_float, resize_photo
from sims_jax.bank.score import score_unit
from sims_jax.bank.store import OnDisk, Store, open_bank
from sims_jax.canvas.compose import ADHERENCES
from sims_jax.checkpoints import DONE_FILE, restore_finished
from sims_jax.config import load_config
from sims_jax.errors import InputError
from sims_jax.images import decode_photo, read_bytes, read_instances
from sims_jax.labels import VOID, LabelSpace, read_layout
from sims_jax.networks import Params, make_networks
from sims_jax.ops.light import Light, measure_light
from sims_jax.ops.resize import resize_labels
from sims_jax.result import Result, Source
from sims_jax.types import Bank, BankSpec, Matches, Synthesis

NETWORKS = ("transformer", "ordering", "synthesis")  # and for coarse layouts the densifier
PHOTOS, ROWS = (None, "device", "disk"), ("device", "stream")  # where they are: see `load`
MAX_INSTANCE_ID = 2**16 - 1  # of `split_layout`, and of a PNG

_densify = jax.jit(pipeline.densify)
_measure_light = jax.jit(measure_light)


@dataclasses.dataclass(frozen=True)
class Model:
    """Everything a trained model is: config, parameters, memory bank, label space."""

    config: ConfigDict
    params: Params
    bank: Bank | DiskBank
    photo_ids: tuple[str, ...]

    def __repr__(self) -> str:
        height, width = self.spec.image_size
        mesh = self.bank.rows.mesh
        devices = jax.devices()[:1] if mesh is None else list(mesh.devices.flat)
        on_disk = " on disk" if isinstance(self.bank, DiskBank) else ""
        return (
            f"Model({height}x{width}, {self.labels.num_classes} classes of {self.labels.name}, "
            f"{len(self.photo_ids)} photos{on_disk}, devices: {len(devices)} {devices[0].platform})"
        )

    @property
    def labels(self) -> LabelSpace:
        return self.spec.labels

    @property
    def spec(self) -> BankSpec:
        return self.bank.rows.spec

    def without_bank(self) -> "Model":
        """The same networks with an empty bank: a parametric model."""
        return dataclasses.replace(self, bank=empty_bank(self.spec), photo_ids=())

    def synthesize(
        self,
        layout: ArrayLike | os.PathLike,
        *,
        candidate: int = 0,
        adherence: str | None = None,
        instances: ArrayLike | os.PathLike | None = None,
        coarse: bool = False,
        exclude: Collection[str] = (),
        reference: ArrayLike | os.PathLike | None = None,
    ) -> Result | list[Result]:
        """The photo of a layout, or the photos of a batch of layouts.

        The first call compiles, and says nothing meanwhile: seconds on an idle machine, a minute on
        a busy one.

        Args:
          layout: class ids [H, W], 255 void, of any H and W; or [B, H, W], where W of 3 or 4 is
            taken for colours; or the path of a PNG.
          candidate: 0 uses every segment's best candidate, by overlap and light, 1 its second,
            ... to `config.pipeline.candidates` - 1.
          adherence: "segment": retrieved segments keep their silhouettes and the layout follows
            them; "layout": the photo follows the layout. Default: the config's.
          instances: instance ids of the layout's shape (0 none), to 65535: they cut the segments;
            what has one is not cut for its width.
          coarse: the layout is coarse and incomplete: make it dense first.
          exclude: ids of photos whose segments may not be used.
          reference: a photo, uint8 [H, W, 3] of any size or the path of a file; segments are chosen
            for its light, and all brought into it, sharpness included (`sims_jax.ops.light`).

        Raises:
          InputError: the layout or the reference cannot be read; ids are no classes; the reference
            is of one colour; an option is out of its range; `coarse` lacks the densifier.
        """
        # Said in any case, so that the config's own is not another program.
        adherence = self.config.canvas.adherence if adherence is None else adherence
        if adherence not in ADHERENCES:
            raise InputError(f"adherence: found {adherence!r}, expected one of {ADHERENCES}")
        candidate = _read_candidate(candidate, self.config.pipeline.candidates - 1)
        layouts = self._read_layouts(layout)
        working = self._to_working_size(layouts)
        if instances is not None:
            instances = self._to_working_size(_read_instances(instances, layouts.shape))
        if coarse:
            working = jax.device_get(_densify(self.params, working))
        on_disk = isinstance(self.bank, DiskBank)
        synthesize = pipeline.synthesize_from_disk if on_disk else pipeline.synthesize
        synthesis, matches = synthesize(
            self.params,
            self.bank,
            working,
            candidate=np.int32(candidate),
            exclude=self._excluded(exclude, len(working)),
            instances=instances,
            adherence=adherence,
            reference=None if reference is None else self._light(reference),
        )
        synthesis, matches = jax.device_get((synthesis, matches))
        size = layouts.shape[-2:]
        results = [self._result(synthesis, matches, b, size) for b in range(len(working))]
        return results if layouts.ndim == 3 else results[0]

    def _read_layouts(self, layout: ArrayLike | os.PathLike) -> UInt8[np.ndarray, "*B H W"]:
        if isinstance(layout, str | os.PathLike):
            return read_layout(layout, self.labels)
        layout = _to_integers("layout", layout)
        if layout.ndim not in (2, 3) or 0 in layout.shape:
            raise InputError(
                f"layout: found shape {layout.shape}, expected class ids [H, W] or [B, H, W]"
            )
        if layout.ndim == 3 and layout.shape[-1] in (3, 4):
            raise InputError(
                f"layout: found shape {layout.shape}, as of colours, expected class ids [H, W] or "
                "[B, H, W]; give the path of the file, or map its colours to ids"
            )
        ids = np.unique(layout)
        unknown = ids[(ids != VOID) & ((ids < 0) | (ids >= self.labels.num_classes))]
        if len(unknown):
            raise InputError(
                f"layout: found id {unknown[0]}, expected 0 to {self.labels.num_classes - 1} "
                f"({self.labels.name}) or {VOID} for void; map your ids first"
            )
        return layout.astype(np.uint8)

    def _to_working_size(self, ids: Int[np.ndarray, "*B H W"]) -> Int[np.ndarray, "B h w"]:
        size = self.spec.image_size
        return resize_labels(ids, size).reshape(-1, *size)

    def _excluded(self, exclude: Collection[str], batch: int) -> np.ndarray:
        if isinstance(exclude, str) or not isinstance(exclude, Collection):
            raise InputError(
                f"exclude: found {exclude!r}, expected a list of photo ids; put it in brackets"
            )
        excluded = np.zeros(max(1, len(self.photo_ids)), bool)  # an empty bank has one, of void
        for photo in exclude:
            if photo not in self.photo_ids:
                raise InputError(f"exclude: photo {photo!r} is not in the bank; see sources.json")
            excluded[self.photo_ids.index(photo)] = True
        return np.broadcast_to(excluded, (batch, len(excluded)))

    def _light(self, reference: ArrayLike | os.PathLike) -> Light:
        if isinstance(reference, str | os.PathLike):
            path = pathlib.Path(reference)
            photo = decode_photo(read_bytes(path), path)
            check_reference(photo, path)
        else:
            photo = np.asarray(reference)
            check_reference(photo)
        return _measure_light(as_float(resize_photo(photo, self.spec.image_size)))

    def _result(
        self, synthesis: Synthesis, matches: Matches, b: int, size: tuple[int, int]
    ) -> Result:
        canvas, layers = synthesis.canvas, range(self.params.networks.canvas.layers)
        first, *others = (tuple(self._sources(synthesis, matches, b, size, i)) for i in layers)
        return Result(
            photo=_resize_photo(synthesis.photo[b], size),
            canvas=_resize_photo(canvas.rgb[b], size),
            canvas_mask=resize_labels(canvas.mask[b], size),
            layout=resize_labels(canvas.layout[b], size),
            segments=first,
            fillings=tuple(source for some in others for source in some if source.used),
            left_out=int(matches.segments.left_out[b]),
        )

    def _sources(self, synthesis, matches, b, size, layer) -> Iterator[Source]:
        segments = jax.tree.map(lambda x: x[b], matches.segments)
        places = layer_places(matches.chosen[b], layer + 1)[layer]
        spec, scale = self.spec, np.tile(np.asarray(size) / np.asarray(self.spec.image_size), 2)
        for n in np.flatnonzero(segments.class_id >= 0):
            piece, place = layer * spec.max_segments + n, places[n]
            row = int(matches.row[b, n, place])
            found = row >= 0
            yield Source(
                class_name=self.labels.classes[segments.class_id[n]],
                box=tuple(np.round(segments.box_yx[n] * scale).astype(int).tolist()),
                photo_id=self.photo_ids[row // spec.max_segments] if found else None,
                row_id=row if found else None,
                score=float(matches.score[b, n, place]) / score_unit(spec.grid),
                affine=synthesis.affine[b, piece] if found else np.eye(2, 3, dtype=np.float32),
                order=int(synthesis.rank[b, piece]),
                used=bool(synthesis.used[b, piece]),
                layer=layer,
            )


def load(workdir: str | os.PathLike, *, photos: str | None = None, rows: str = "device") -> Model:
    """The model that train.py left in a workdir.

    Args:
      workdir: the folder.
      photos: "device" keeps the bank's photos on the devices, and a synthesis is one program;
        "disk" reads the photos that a synthesis uses, and neither host nor devices hold the others.
      rows: what retrieval compares: "device", or "stream" for more than fits there; they are then
        read from disk in blocks for every synthesis, photos as well. The photos made are the same.

    Raises:
      InputError: the workdir is none, is unfinished (the densifier apart, which coarse layouts
        alone need), or something in it is damaged; an option is none.
    """
    if photos not in PHOTOS or rows not in ROWS:
        raise InputError(
            f"load: found photos={photos!r}, rows={rows!r}, expected one of {PHOTOS} and of {ROWS}"
        )
    if (photos, rows) == ("device", "stream"):
        raise InputError(
            "load: found photos on the devices with rows on disk, expected both on disk; leave "
            "photos out"
        )
    images = "disk" if photos == "disk" or rows == "stream" else "memory"
    workdir = pathlib.Path(workdir)
    config = load_config(workdir)
    params = {name: restore_finished(workdir / name) for name in NETWORKS}
    densifier = workdir / "densifier"
    trained = (densifier / DONE_FILE).exists()  # or `--config.stages` has left it out
    params["densifier"] = restore_finished(densifier) if trained else None
    return assemble(config, open_bank(workdir / "bank", images=images), params, rows=rows)


def assemble(
    config: ConfigDict,
    store: Store,
    params: dict,
    *,
    rows: str = "device",
    devices: Sequence[jax.Device] | None = None,
) -> Model:
    """A model of its parts: the networks' parameters by name, and an opened bank.

    Where the store's images are, there the model's photos are; `rows` as in `load`. `devices` of a
    bank that is on them, default all.
    """
    if rows == "stream":
        bank = DiskBank(open_blocks(store), store)
    elif isinstance(store.photo, OnDisk):
        bank = DiskBank(rows_to_device(store, devices), store)
    else:
        bank = to_device(store, devices)
    params = Params(**params, networks=make_networks(config, store.spec.labels))
    if bank.rows.mesh is not None:
        params = put_everywhere(params, bank.rows.mesh)
    return Model(config=config, params=params, bank=bank, photo_ids=store.ids)


def check_reference(photo: np.ndarray, name: str | os.PathLike = "reference") -> None:
    """Raises an InputError, which says `name`, unless it is a photo, not of one colour."""
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[-1] != 3 or not photo.size:
        raise InputError(
            f"{name}: found {photo.dtype} of shape {photo.shape}, expected a photo, uint8 "
            "[H, W, 3]; convert it, or give the path of a file"
        )
    if not np.ptp(photo, axis=(0, 1)).any():
        raise InputError(
            f"{name}: found one colour alone, which would be all segments', expected a photo; "
            "give another"
        )


def _read_candidate(candidate: int, last: int) -> int:
    try:
        number = operator.index(candidate)
    except TypeError:
        number = -1
    if not 0 <= number <= last:
        raise InputError(
            f"candidate: found {candidate!r}, expected 0 (the best) to {last}, a whole number"
        )
    return number


def _read_instances(
    instances: ArrayLike | os.PathLike, shape: tuple[int, ...]
) -> Int[np.ndarray, "*B H W"]:
    if isinstance(instances, str | os.PathLike):
        instances = read_instances(instances)
    instances = _to_integers("instances", instances)
    if instances.shape != shape:
        raise InputError(
            f"instances: found shape {instances.shape}, expected the layout's {shape}; give one "
            "instance id a pixel"
        )
    wrong = instances[(instances < 0) | (instances > MAX_INSTANCE_ID)]
    if len(wrong):
        raise InputError(
            f"instances: found id {wrong[0]}, expected 0 (none) to {MAX_INSTANCE_ID}; renumber them"
        )
    return instances.astype(np.int32)


def _to_integers(name: str, values: ArrayLike) -> Int[np.ndarray, "..."]:
    try:
        array = np.asarray(values)
    except ValueError as error:  # lists of different lengths
        raise InputError(f"{name}: found no array ({error}), expected integer ids") from error
    if not np.issubdtype(array.dtype, np.integer):
        raise InputError(
            f"{name}: found {array.dtype} of shape {array.shape}, expected integer ids, or one path"
        )
    return array


def _resize_photo(photo: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bicubic, channel by channel in float32; values stay in [0, 1]."""
    if photo.shape[:2] == tuple(size):
        return photo
    channels = [Image.fromarray(np.ascontiguousarray(c)) for c in np.moveaxis(photo, -1, 0)]
    resized = [c.resize(size[::-1], Image.Resampling.BICUBIC) for c in channels]
    return np.clip(np.stack([np.asarray(c) for c in resized], axis=-1), 0.0, 1.0)
