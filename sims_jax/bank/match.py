"""Retrieval: for every segment of a layout the bank's rows with the best shape and context.

Source: SIMS, Sec. 4. Differs: the score is one of integers (`sims_jax.bank.score`).
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Int, Integer, UInt8

from sims_jax.bank.grid import GridSegments, describe_segments
from sims_jax.bank.search import Best, best_of, search_share
from sims_jax.bank.segments import split_layout
from sims_jax.types import BANK_AXIS, BankSpec, Matches, Rows, Segments


def match(
    rows: Rows,
    layouts: UInt8[Array, "B H W"],
    *,
    candidates: int = 10,
    exclude: Bool[Array, "B P"] | None = None,
    instances: Integer[Array, "B H W"] | None = None,
    max_aspect: float = 0.0,
    segments: Segments | None = None,
) -> Matches:
    """Splits layouts into segments and retrieves the best rows of each segment's class.

    Jit-able, natively batched (do not vmap it); `rows` may be sharded, then what devices exchange
    are their K candidates a segment. With a bank sharded over processes all of them call this
    together.

    Args:
      rows: the bank's rows.
      layouts: class ids at `rows.spec.image_size`, void 255.
      candidates: K, rows to return a segment, best first.
      exclude: photos that may not be used, a layout.
      instances: instance ids of the layouts, 0 where there is none.
      max_aspect: of a thing, wider ones are cut (`split_layout`); 0: none is.
      segments: of the layouts, where they have been split; instances and aspects then say nothing.

    Returns:
      Matches; `row` is -1 (and `score` 0) where the class has no further row.

    Raises:
      ValueError: the layouts are not of the bank's size.
    """
    check_layouts(layouts.shape, rows.spec)
    if segments is None:
        segments = split_layout(layouts, rows.spec, instances, max_aspect)
    best = search(rows, layouts, segments.component, segments.class_id, candidates, exclude)
    return Matches(segments, best.row, best.score, chosen=jnp.zeros(best.row.shape[:2], jnp.int32))


def check_layouts(shape: tuple[int, ...], spec: BankSpec) -> None:
    """Raises a ValueError unless layouts of this shape are a batch of the bank's size."""
    if len(shape) != 3 or shape[1:] != tuple(spec.image_size):
        raise ValueError(
            f"layouts: found shape {shape}, expected (B, {spec.image_size[0]}, "
            f"{spec.image_size[1]}); resample them to the bank's size"
        )


def search(
    rows: Rows,
    layouts: UInt8[Array, "B H W"],
    component: Int[Array, "B H W"],
    class_id: Int[Array, "B N"],
    candidates: int,
    exclude: Bool[Array, "B P"] | None = None,
) -> Best:
    """`match` for layouts that have been split; the K best of each segment [B, N, K]."""
    grid = describe_segments(component, layouts, rows.spec)
    share = functools.partial(search_share, candidates=candidates)
    if rows.mesh is not None:
        bank, all_devices = PartitionSpec(BANK_AXIS), PartitionSpec()
        share = jax.shard_map(
            functools.partial(_search_shares, candidates=candidates),
            mesh=rows.mesh,
            in_specs=(bank, all_devices, all_devices, all_devices),
            out_specs=all_devices,
            check_vma=False,
        )
    best = share(rows, grid, class_id, exclude)
    return jax.tree.map(lambda x: x.reshape(*class_id.shape, candidates), best)


def _search_shares(
    rows: Rows,
    segments: GridSegments,
    class_id: Int[Array, "B N"],
    exclude: Bool[Array, "B P"] | None,
    candidates: int,
) -> Best:
    """On one device of several: searches its share, and merges what all have found."""
    own = search_share(rows, segments, class_id, exclude, candidates)
    found = jax.lax.all_gather(own, BANK_AXIS, axis=1, tiled=True)
    return best_of(found.score, found.row, candidates)
