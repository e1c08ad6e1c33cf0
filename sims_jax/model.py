"""A trained model in Python: `load(workdir)`, then `synthesize(layout)`.

Layouts of any size go in and photos of the same size come out; in between everything happens at
the model's working size, in one compiled program for each batch size.
"""

import dataclasses
import os
import pathlib
from collections.abc import Collection

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8
from ml_collections import ConfigDict
from PIL import Image

from sims_jax import pipeline
from sims_jax.bank.store import Store, empty_bank, open_bank, to_device
from sims_jax.canvas.compose import ADHERENCES, CanvasConfig
from sims_jax.checkpoints import Checkpoints
from sims_jax.config import load_config, make
from sims_jax.errors import InputError
from sims_jax.images import read_instances
from sims_jax.labels import VOID, LabelSpace, read_layout
from sims_jax.nets.densifier import DensifierConfig
from sims_jax.nets.ordering import OrderingConfig
from sims_jax.nets.synthesis import SynthesisConfig
from sims_jax.nets.transformer import TransformerConfig
from sims_jax.ops.resize import resize_labels
from sims_jax.types import Bank, BankSpec, Matches, Synthesis

NETWORKS = ("transformer", "ordering", "densifier", "synthesis")


@dataclasses.dataclass(frozen=True)
class Source:
    """One segment of a photo, and where it comes from.

    `box` is (y0, x0, y1, x1) in the layout's own pixels; `score` is in [0, 2], the overlap of the
    masks plus that of the contexts; `affine` [2, 3] leads from the segment's place in the photo to
    its place in the source photo, in pixels of the working size from the frame's centre, (x, y);
    `order` counts from the farthest back; `photo_id` and `row_id` are None where the bank had
    nothing.
    """

    class_name: str
    box: tuple[int, int, int, int]
    photo_id: str | None
    row_id: int | None
    score: float
    affine: Float[np.ndarray, "2 3"]
    order: int
    used: bool


@dataclasses.dataclass(frozen=True)
class Result:
    """A photo, the canvas it was made of, and the sources of its segments.

    `photo` and `canvas` are float32 [H, W, 3] in [0, 1] at the layout's size; `canvas_mask` is
    float32 [H, W], 1 where the bank gave a pixel, 0 where the canvas is empty or elided; `layout`
    is uint8 [H, W] as the synthesis network saw it; `left_out` counts the segments beyond the
    static maximum.
    """

    photo: Float[np.ndarray, "H W 3"]
    canvas: Float[np.ndarray, "H W 3"]
    canvas_mask: Float[np.ndarray, "H W"]
    layout: UInt8[np.ndarray, "H W"]
    segments: tuple[Source, ...]
    left_out: int


@dataclasses.dataclass(frozen=True)
class Model:
    """Everything a trained model is: config, parameters, memory bank, label space."""

    config: ConfigDict
    params: pipeline.Params
    bank: Bank
    photo_ids: tuple[str, ...]

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
        layout: UInt8[np.ndarray, "*B H W"] | str | os.PathLike,
        *,
        candidate: int = 0,
        adherence: str | None = None,
        instances: Int[np.ndarray, "*B H W"] | str | os.PathLike | None = None,
        coarse: bool = False,
        exclude: Collection[str] = (),
    ) -> Result | list[Result]:
        """The photo of a layout, or the photos of a batch of layouts.

        Args:
          layout: class ids [H, W], 255 void, of any H and W; or [B, H, W]; or the path of a PNG.
          candidate: 0 uses every segment's best match, 1 its second best, ...
          adherence: "segment": retrieved segments keep their silhouettes and the layout follows
            them; "layout": the photo follows the layout. Default: the config's.
          instances: instance ids of the layout's size (0 none): they cut the segments.
          coarse: the layout is coarse and incomplete: make it dense first.
          exclude: ids of photos whose segments may not be used.

        Raises:
          InputError: the layout cannot be read, or has ids that are no classes.
        """
        if not isinstance(layout, np.ndarray) or layout.ndim == 2:
            options = dict(candidate=candidate, adherence=adherence, coarse=coarse, exclude=exclude)
            layout = self._read(layout)
            if instances is not None:
                instances = _read_instances(instances)[None]
            return self.synthesize(layout[None], instances=instances, **options)[0]
        if adherence not in (None, *ADHERENCES):
            raise InputError(f"adherence: found {adherence!r}, expected one of {ADHERENCES}")
        layouts = np.stack([self._read(one) for one in layout])
        working = resize_labels(layouts, self.spec.image_size)
        if instances is not None:
            if instances.shape != layouts.shape:
                raise InputError(
                    f"instances: found shape {instances.shape}, expected the layout's "
                    f"{layouts.shape}; give one instance id a pixel"
                )
            instances = resize_labels(instances.astype(np.int32), self.spec.image_size)
        if coarse:
            working = jax.jit(pipeline.densify)(self.params, working)
        synthesis, matches = pipeline.synthesize(
            self.params,
            self.bank,
            working,
            candidate=np.int32(candidate),
            exclude=self._excluded(exclude, len(layouts)),
            instances=instances,
            adherence=adherence,
        )
        synthesis, matches = jax.device_get((synthesis, matches))
        size = layouts.shape[1:]
        return [self._result(synthesis, matches, b, size) for b in range(len(layouts))]

    def _read(self, layout) -> UInt8[np.ndarray, "H W"]:
        if not isinstance(layout, np.ndarray):
            return read_layout(layout, self.labels)
        if layout.ndim != 2 or 0 in layout.shape or not np.issubdtype(layout.dtype, np.integer):
            raise InputError(
                f"layout: found {layout.dtype} of shape {layout.shape}, expected integer class ids "
                "[H, W]"
            )
        ids = np.unique(layout)
        unknown = ids[(ids != VOID) & ((ids < 0) | (ids >= self.labels.num_classes))]
        if len(unknown):
            raise InputError(
                f"layout: found id {unknown[0]}, expected 0 to {self.labels.num_classes - 1} "
                f"({self.labels.name}) or {VOID} for void; map your ids first"
            )
        return layout.astype(np.uint8)

    def _excluded(self, exclude: Collection[str], batch: int) -> np.ndarray:
        unknown = sorted(set(exclude) - set(self.photo_ids))
        if unknown:
            raise InputError(f"exclude: photo {unknown[0]!r} is not in the bank; check its id")
        excluded = np.zeros(self.bank.rows.layouts.shape[0], dtype=bool)
        excluded[: len(self.photo_ids)] = [photo in exclude for photo in self.photo_ids]
        return np.broadcast_to(excluded, (batch, len(excluded)))

    def _result(
        self, synthesis: Synthesis, matches: Matches, b: int, size: tuple[int, int]
    ) -> Result:
        canvas = jax.tree.map(lambda x: x[b], synthesis.canvas)
        return Result(
            photo=_resize_photo(synthesis.photo[b], size),
            canvas=_resize_photo(canvas.rgb, size),
            canvas_mask=resize_labels(canvas.mask, size),
            layout=resize_labels(canvas.layout, size),
            segments=tuple(self._sources(synthesis, matches, b, size)),
            left_out=int(matches.segments.left_out[b]),
        )

    def _sources(self, synthesis: Synthesis, matches: Matches, b: int, size: tuple[int, int]):
        segments = jax.tree.map(lambda x: x[b], matches.segments)
        rows = self.bank.rows
        scale = np.tile(np.asarray(size) / np.asarray(self.spec.image_size), 2)
        unit = 1 << (31 - int(np.prod(self.spec.grid)).bit_length())
        photo_of_row = np.asarray(rows.photo)
        for n in np.flatnonzero(segments.class_id >= 0):
            chosen = matches.chosen[b, n]
            row = int(matches.row[b, n, chosen])
            yield Source(
                class_name=self.labels.classes[segments.class_id[n]],
                box=tuple(np.round(segments.box_yx[n] * scale).astype(int).tolist()),
                photo_id=self.photo_ids[photo_of_row[row]] if row >= 0 else None,
                row_id=row if row >= 0 else None,
                score=float(matches.score[b, n, chosen]) / unit,
                affine=synthesis.affine[b, n],
                order=int(synthesis.rank[b, n]),
                used=bool(synthesis.used[b, n]),
            )


def load(workdir: str | os.PathLike) -> Model:
    """The model that train.py left in a workdir.

    Raises:
      InputError: the workdir is none, is unfinished, or something in it is damaged.
    """
    workdir = pathlib.Path(workdir)
    config = load_config(workdir)
    params = {name: _restore(workdir / name) for name in NETWORKS}
    return assemble(config, open_bank(workdir / "bank"), params)


def assemble(config: ConfigDict, store: Store, params: dict) -> Model:
    """A model of its parts: the networks' parameters by name, and an opened bank."""
    bank = to_device(store)
    params = pipeline.Params(**params, networks=make_networks(config, store.spec.labels))
    sharding = bank.rows.photo.sharding
    if isinstance(sharding, jax.sharding.NamedSharding):
        everywhere = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
        params = jax.device_put(params, everywhere)
    return Model(config=config, params=params, bank=bank, photo_ids=store.ids)


def make_networks(config: ConfigDict, labels: LabelSpace) -> pipeline.Networks:
    """What a config says of the networks and the canvas."""
    return pipeline.Networks(
        labels=labels,
        transformer=make(TransformerConfig, config.transformer.net, "config.transformer.net"),
        ordering=make(OrderingConfig, config.ordering.net, "config.ordering.net"),
        densifier=make(DensifierConfig, config.densifier.net, "config.densifier.net"),
        synthesis=make(SynthesisConfig, config.synthesis.net, "config.synthesis.net"),
        canvas=make(CanvasConfig, config.canvas, "config.canvas"),
        pipeline=make(pipeline.PipelineConfig, config.pipeline, "config.pipeline"),
    )


def _restore(folder: pathlib.Path):
    if not folder.is_dir():
        raise InputError(
            f"{folder}: not found, expected the checkpoints of a trained network; run train.py "
            "with this workdir to its end"
        )
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore_ema()


def _read_instances(instances) -> Int[np.ndarray, "H W"]:
    return instances if isinstance(instances, np.ndarray) else read_instances(instances)


def _resize_photo(photo: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bicubic, channel by channel in float32; values stay in [0, 1]."""
    if photo.shape[:2] == tuple(size):
        return photo
    channels = [
        Image.fromarray(np.ascontiguousarray(photo[..., c])).resize(
            size[::-1], Image.Resampling.BICUBIC
        )
        for c in range(photo.shape[-1])
    ]
    return np.clip(np.stack([np.asarray(channel) for channel in channels], axis=-1), 0.0, 1.0)
