"""Which regions of a map touch, on the host."""

import numpy as np
from jaxtyping import Int


def find_adjacent(component: Int[np.ndarray, "H W"]) -> list[tuple[int, int]]:
    """Pairs (a, b), a < b, of ids that touch in the 8-neighbourhood; ids below 0 are no region."""
    found = set()
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = component[: component.shape[0] - dy, max(0, -dx) : component.shape[1] - max(0, dx)]
        there = component[dy:, max(0, dx) : component.shape[1] + min(0, dx)]
        differ = (here != there) & (here >= 0) & (there >= 0)
        touching = np.stack([here[differ], there[differ]], axis=1)
        found.update(map(tuple, np.unique(np.sort(touching, axis=1), axis=0).tolist()))
    return sorted(found)
