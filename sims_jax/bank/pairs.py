"""Adjacent segments of one photo, and which of the two lies in front: the ordering network's data.

With a depth map the answer is measured, as in SIMS (Sec. 5 and official code): the median depths of
the two inside the intersection of both boundaries, dilated, are compared; planar classes always lie
behind the others. Without one it is the stated prior: planar behind everything else; of two others,
the one whose lowest pixel is lower is in front.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Int
from scipy import ndimage

from sims_jax.bank.store import Store
from sims_jax.labels import LabelSpace
from sims_jax.ops.adjacent import find_adjacent
from sims_jax.progress import progress

ADJACENT = np.ones((3, 3), bool)  # SIMS, official code
CONTACT_RADIUS_PX = 5  # an 11 × 11 square: SIMS, official code


@dataclasses.dataclass(frozen=True)
class Pairs:
    """M adjacent pairs (a, b), component ids of one photo with a < b, and the truth about them."""

    photo: Int[np.ndarray, "M"]
    a: Int[np.ndarray, "M"]
    b: Int[np.ndarray, "M"]
    class_a: Int[np.ndarray, "M"]
    class_b: Int[np.ndarray, "M"]
    a_in_front: Bool[np.ndarray, "M"]
    prior_a_in_front: Bool[np.ndarray, "M"]

    def __len__(self) -> int:
        return len(self.photo)

    def between_objects(self, labels: LabelSpace) -> Bool[np.ndarray, "M"]:
        """The pairs in which neither is planar: those the prior can be wrong about."""
        planar = labels.ids(labels.planar)
        return ~np.isin(self.class_a, planar) & ~np.isin(self.class_b, planar)

    def of_one_class(self) -> Bool[np.ndarray, "M"]:
        """The pairs that only their instances cut apart."""
        return self.class_a == self.class_b


def find_pairs(store: Store) -> Pairs:
    """All adjacent pairs of rows in a bank's photos."""
    rows = []
    with progress("pairs", len(store.ids)) as bar:
        for photo in range(len(store.ids)):
            depth = None if store.depth is None else store.depth[photo]
            rows += [(photo, *row) for row in _photo_pairs(store, photo, depth)]
            bar.update()
    columns = np.asarray(rows, dtype=np.int32).reshape(-1, 7).T
    return Pairs(*columns[:5], columns[5].astype(bool), columns[6].astype(bool))


def _photo_pairs(store: Store, photo: int, depth: np.ndarray | None):
    component = store.component[photo]
    row_of = store.row_of[photo]
    planar = store.spec.labels.ids(store.spec.labels.planar)
    for a, b in find_adjacent(component):
        row_a, row_b = row_of[a], row_of[b]
        class_a, class_b = store.row_class[row_a], store.row_class[row_b]
        lowest_a, lowest_b = store.row_box_yx[row_a][2], store.row_box_yx[row_b][2]
        planar_a, planar_b = class_a in planar, class_b in planar
        prior = planar_b if planar_a != planar_b else lowest_a > lowest_b
        truth = prior
        if depth is not None and planar_a == planar_b:
            boxes = store.row_box_yx[[row_a, row_b]]
            truth = _nearer_at_contact(component, depth, a, b, boxes)
            if truth is None:
                continue
        yield a, b, class_a, class_b, truth, prior


def _nearer_at_contact(component, depth, a: int, b: int, boxes) -> bool | None:
    """Whether a is nearer where the two meet; None where no depth is known on one side."""
    margin = 2 * CONTACT_RADIUS_PX
    y0, x0 = np.maximum(boxes[:, :2].max(axis=0) - margin, 0)
    y1, x1 = boxes[:, 2:].min(axis=0) + margin
    window = component[y0:y1, x0:x1]
    contact = _near_boundary(window == a) & _near_boundary(window == b)
    inside = contact & (depth[y0:y1, x0:x1] > 0)
    depth_a = depth[y0:y1, x0:x1][inside & (window == a)]
    depth_b = depth[y0:y1, x0:x1][inside & (window == b)]
    if not len(depth_a) or not len(depth_b):
        return None
    return bool(np.median(depth_a) < np.median(depth_b))


def _near_boundary(mask: np.ndarray) -> np.ndarray:
    boundary = mask & ~ndimage.binary_erosion(mask, ADJACENT, border_value=True)
    return ndimage.binary_dilation(boundary, ADJACENT, iterations=CONTACT_RADIUS_PX)
