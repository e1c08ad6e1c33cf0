"""Retrieval among more rows than fit on the devices: block by block, from disk.

A block is a bank of some consecutive photos. Its rows are prepared once, as the devices want them,
and kept in the bank's folder:

    rows-<key>/<block>-<share>/    the fields of `Rows` of one device, see `sims_jax.bank.parts`

All blocks are padded to one size, so that one program searches them. While it searches a block, the
next one is read and put beside it: the devices hold two blocks, the host reads one. Rows are
numbered in the order of their photos, so that the best of all blocks are those of the whole bank,
to the last tie.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Integer, UInt8

from sims_jax.bank.device import (
    ROWS_FORMAT,
    Share,
    Sizes,
    deal,
    fit,
    mesh_of,
    prepare_rows,
    put_rows,
)
from sims_jax.bank.match import check_layouts, search
from sims_jax.bank.parts import read_arrays, sweep, write_part
from sims_jax.bank.search import Best, best_of, nothing
from sims_jax.bank.segments import split_layout
from sims_jax.bank.store import Store
from sims_jax.progress import progress
from sims_jax.types import TILE, BankSpec, Matches, Rows, Segments

BLOCK_PHOTOS = 4096  # about 10^5 rows, 140 MB at grid 64 x 128
_FIELDS = tuple(
    field.name for field in dataclasses.fields(Rows) if field.metadata.get("pytree_node", True)
)


@dataclasses.dataclass(frozen=True)
class RowBlocks:
    """The rows of a bank, on disk; as `Rows`, what `match_streamed` reads."""

    folder: pathlib.Path
    spec: BankSpec
    sizes: Sizes
    devices: tuple[jax.Device, ...]
    photos: int  # of the bank
    block_photos: int

    @property
    def mesh(self) -> jax.sharding.Mesh | None:
        return mesh_of(self.devices)

    def __len__(self) -> int:
        return -(-self.photos // self.block_photos)

    def path(self, block: int, share: int) -> pathlib.Path:
        return self.folder / f"{block}-{share}"

    def read(self, block: int) -> Rows:
        """The rows of one block, on the devices, numbered from its first photo on.

        Raises:
          InputError: a file is missing or damaged; the message names it.
        """

        def prepared(share: int) -> dict[str, np.ndarray]:
            path = self.path(block, share)
            arrays = read_arrays([path / name for name in _FIELDS])
            return dict(zip(_FIELDS, arrays, strict=True))

        return put_rows(prepared, self.spec, self.sizes, self.devices)


def open_blocks(
    store: Store,
    *,
    block_photos: int = BLOCK_PHOTOS,
    devices: Sequence[jax.Device] | None = None,
) -> RowBlocks:
    """Prepares the blocks of a bank that are not there yet; killed, it continues.

    Args:
      store: the bank.
      block_photos: of a block, on all devices together.
      devices: default: all. Several processes call this together, and each prepares its own.
    """
    devices = tuple(jax.devices() if devices is None else devices)
    form = (ROWS_FORMAT, TILE, _FIELDS)
    text = f"{form} {store.digest} {block_photos} {len(devices)}"
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    starts = range(0, len(store.ids), block_photos)

    def deal_block(start: int) -> list[Share]:
        photos = range(start, min(start + block_photos, len(store.ids)))
        return deal(store, photos, len(devices))

    every = (share for start in starts for share in deal_block(start))
    sizes = fit(every, store.spec.labels.num_classes)
    folder = store.folder / f"rows-{key}"
    blocks = RowBlocks(folder, store.spec, sizes, devices, len(store.ids), block_photos)
    folder.mkdir(exist_ok=True)
    with progress("bank: blocks of rows", len(blocks)) as bar:
        for block, start in enumerate(starts):
            for index, share in enumerate(deal_block(start)):
                here = devices[index].process_index == jax.process_index()
                if here and not blocks.path(block, index).exists():
                    rows = prepare_rows(share, store.spec, sizes)
                    write_part(blocks.path(block, index), rows, {"photos": len(share.photos)})
            bar.update()
    paths = (blocks.path(*place) for place in np.ndindex(len(blocks), len(devices)))
    if all(path.exists() for path in paths):
        sweep(folder)
    return blocks


def match_streamed(
    blocks: RowBlocks,
    layouts: UInt8[np.ndarray, "B H W"],
    *,
    candidates: int = 10,
    exclude: Bool[np.ndarray, "B P"] | None = None,
    instances: Integer[np.ndarray, "B H W"] | None = None,
    max_aspect: float = 0.0,
    segments: Segments | None = None,
) -> Matches:
    """`sims_jax.bank.match.match` with rows on disk: the same answers. Not to be jitted.

    Raises:
      InputError: a file is missing or damaged; the message names it.
      ValueError: the layouts are not of the bank's size.
    """
    check_layouts(layouts.shape, blocks.spec)
    if segments is None:
        segments = _split(layouts, spec=blocks.spec, instances=instances, max_aspect=max_aspect)
        segments = jax.device_get(segments)
    if exclude is None:
        exclude = np.zeros((len(layouts), blocks.photos), bool)
    missing = len(blocks) * blocks.block_photos - blocks.photos
    exclude = np.pad(exclude, ((0, 0), (0, missing)))
    best = jax.device_get(nothing(segments.class_id.size, candidates))
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(blocks.read, 0)
        for block in range(len(blocks)):
            rows = coming.result()
            if block + 1 < len(blocks):
                coming = pool.submit(blocks.read, block + 1)
            first = block * blocks.block_photos
            found = _search_block(
                rows,
                layouts,
                segments.component,
                segments.class_id,
                exclude[:, first : first + blocks.block_photos],
                np.int32(first * blocks.spec.max_segments),
                best,
            )
            best = jax.device_get(found)  # waits, or a third block would be put beside the two
    row, score = (x.reshape(*segments.class_id.shape, candidates) for x in (best.row, best.score))
    return Matches(segments, row, score, chosen=np.zeros(row.shape[:2], np.int32))


_split = jax.jit(split_layout, static_argnames=("spec", "max_aspect"))


@jax.jit
def _search_block(
    rows: Rows,
    layouts: UInt8[Array, "B H W"],
    component: Int[Array, "B H W"],
    class_id: Int[Array, "B N"],
    exclude: Bool[Array, "B block"],
    first_row: Int[Array, ""],
    best: Best,
) -> Best:
    """The best of those there are and of one block's, whose rows are numbered from `first_row`."""
    candidates = best.row.shape[-1]
    found = search(rows, layouts, component, class_id, candidates, exclude)
    found = jax.tree.map(lambda x: x.reshape(-1, candidates), found)
    row = jnp.where(found.row >= 0, found.row + first_row, -1)
    both = jnp.concatenate([best.score, found.score], axis=1)
    return best_of(both, jnp.concatenate([best.row, row], axis=1), candidates)
