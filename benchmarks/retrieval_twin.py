"""The twin of retrieval in numpy: every pair's score, from component maps and raw layouts.

Whole classes at a time, so that a million rows take minutes; `tests/test_match.py` has a slower one
that starts from nothing but layouts.
"""

import numpy as np
from jaxtyping import Int, UInt8

from sims_jax.bank.score import score_unit
from sims_jax.bank.search import Best
from sims_jax.bank.store import Store
from sims_jax.labels import VOID
from sims_jax.progress import progress
from sims_jax.types import Segments

ROWS, PHOTOS = 4096, 1024  # at a time
CONTEXT_EIGHTHS = 1  # of a box's side, on each side


def count_mismatches(
    store: Store, queries: np.ndarray, segments: Segments, best: Best, candidates: int
) -> int:
    """Query segments whose best rows are not the twin's, which scores all pairs in integers."""
    mismatches = 0
    context = twin_contexts(store.component, store.row_photo, store.row_component, store.spec.grid)
    labelled = twin_counts(store.layout != VOID, store.row_photo, context)
    masks = {}
    for class_id in np.unique(store.row_class):
        rows = np.flatnonzero(store.row_class == class_id)
        masks[class_id] = pack(store.component, store.row_photo[rows], store.row_component[rows])
    with progress("twin: layouts", len(queries)) as bar:
        for b, layout in enumerate(queries):
            valid = np.flatnonzero(segments.class_id[b] >= 0)
            if not len(valid):
                continue
            scores = twin_scores(store, layout, segments, b, valid, masks, context, labelled)
            for n, score, rows in scores:
                number = store.row_photo[rows] * store.spec.max_segments + store.row_component[rows]
                order = np.lexsort((number, -score))[:candidates]
                found = best.row[b, n] >= 0
                same = np.array_equal(best.row[b, n][found], number[order])
                mismatches += not (same and np.array_equal(best.score[b, n][found], score[order]))
            bar.update()
    return mismatches


def pack(component, photo, number) -> UInt8[np.ndarray, "n bytes"]:
    """Packed masks of segments, by their photo and their number in it."""
    some = [slice(start, start + ROWS) for start in range(0, len(photo), ROWS)]
    masks = [component[photo[s]] == number[s, None, None] for s in some]
    return np.concatenate([np.packbits(m.reshape(len(m), -1), axis=-1) for m in masks])


def twin_contexts(component, photo, number, grid) -> Int[np.ndarray, "R 4"]:
    """The enlarged boxes, from the masks."""
    boxes = []
    for start in range(0, len(photo), ROWS):
        some = slice(start, start + ROWS)
        mask = component[photo[some]] == number[some, None, None]
        ends = []
        for axis, size in ((2, grid[0]), (1, grid[1])):
            there = mask.any(axis=axis)
            low, high = there.argmax(axis=1), size - there[:, ::-1].argmax(axis=1)
            margin = -(-(high - low) * CONTEXT_EIGHTHS // 8)
            ends.append((np.maximum(low - margin, 0), np.minimum(high + margin, size)))
        boxes.append(np.stack([ends[0][0], ends[1][0], ends[0][1], ends[1][1]], axis=1))
    return np.concatenate(boxes)


def twin_counts(cells, photo, box) -> Int[np.ndarray, "R"]:
    """True cells of each row's box in its photo, by summed-area tables."""
    counts = np.zeros(len(photo), np.int64)
    order = np.argsort(photo, kind="stable")
    for start in range(0, len(cells), PHOTOS):
        some = cells[start : start + PHOTOS]
        table = np.pad(some.cumsum(1, dtype=np.int32).cumsum(2), ((0, 0), (1, 0), (1, 0)))
        mine = order[slice(*np.searchsorted(photo, (start, start + len(some)), sorter=order))]
        p, (y0, x0, y1, x1) = photo[mine] - start, box[mine].T
        counts[mine] = table[p, y1, x1] - table[p, y0, x1] - table[p, y1, x0] + table[p, y0, x0]
    return counts


def twin_scores(store, layout, segments, b, valid, masks, context, labelled):
    """(segment, scores of all rows of its class, those rows) for one layout."""
    grid, shift = store.spec.grid, score_unit(store.spec.grid).bit_length() - 1
    numbers = valid.astype(np.int16)
    component = np.broadcast_to(segments.component[b], (len(valid), *grid))
    each = np.arange(len(valid))
    own_context = twin_contexts(component, each, numbers, grid)
    own_mask = pack(component, each, numbers)
    # One query's common cells in a photo: a box sum over the cells of equal label.
    equal = (store.layout == layout) & (layout != VOID)
    own_labelled = twin_counts(np.broadcast_to(layout != VOID, (len(valid), *grid)),
                               each, own_context)  # fmt: skip
    tables = np.pad(equal.cumsum(1, dtype=np.int32).cumsum(2, dtype=np.int32),
                    ((0, 0), (1, 0), (1, 0)))  # fmt: skip
    for i, n in enumerate(valid):
        rows = np.flatnonzero(store.row_class == segments.class_id[b, n])
        if not len(rows):
            yield n, np.empty(0, np.int64), rows
            continue
        own = masks[segments.class_id[b, n]].view(np.uint64)
        common = np.bitwise_count(own & own_mask[i].view(np.uint64)).sum(axis=-1, dtype=np.int64)
        area = np.bitwise_count(own).sum(axis=-1, dtype=np.int64)
        union = area + np.bitwise_count(own_mask[i]).sum(dtype=np.int64) - common
        low = np.maximum(context[rows, :2], own_context[i, :2])
        high = np.maximum(np.minimum(context[rows, 2:], own_context[i, 2:]), low)
        p, (y0, x0), (y1, x1) = store.row_photo[rows], low.T, high.T
        same = tables[p, y1, x1] - tables[p, y0, x1] - tables[p, y1, x0] + tables[p, y0, x0]
        same = same.astype(np.int64)
        either = labelled[rows] + own_labelled[i] - same
        yield (
            n,
            sum((c << shift) // np.maximum(d, 1) for c, d in ((common, union), (same, either))),
            rows,
        )
