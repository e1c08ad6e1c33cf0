"""Aligning donors: the transformer's answer for every row and each of its donors, found once.

Composition aligns what it retrieves, so simulation aligns its stencils: with the same network, the
same views and the same fallback.
"""

import jax
import jax.numpy as jnp
import numpy as np

from sims_jax.bank.store import Store
from sims_jax.canvas.align import align
from sims_jax.nets.transformer import TransformerConfig
from sims_jax.progress import progress
from sims_jax.training.tasks.synthesis import DonorTable

BATCH = 64


def align_donors(
    params, config: TransformerConfig, queries: Store, bank: Store, donors: np.ndarray
) -> DonorTable:
    """Aligns `donors` [R, K], rows of `bank`, to the R rows of `queries`."""
    num_classes = queries.spec.labels.num_classes

    @jax.jit
    def run(photo, mask, target, layout):
        photo = photo.astype(jnp.float32) / 255
        return align(params, config, num_classes, photo, mask, target, layout)

    identity = np.asarray([[1, 0, 0], [0, 1, 0]], np.float32)
    affine = np.broadcast_to(identity, (*donors.shape, 2, 3)).copy()
    row, slot = np.nonzero(donors >= 0)
    with progress("aligning donors", len(row)) as bar:
        for start in range(0, len(row), BATCH):
            r, k = row[start : start + BATCH], slot[start : start + BATCH]
            # The last batch is filled up, so that one program serves all.
            filled = np.resize(np.arange(len(r)), BATCH)
            query, donor = r[filled], donors[r, k][filled]
            found = run(
                bank.photo[bank.row_photo[donor]],
                _cut(bank, donor),
                _cut(queries, query),
                queries.layout[queries.row_photo[query]],
            )
            affine[r, k] = np.asarray(found)[: len(r)]
            bar.update(len(r))
    return DonorTable(row=donors, affine=affine)


def _cut(store: Store, row: np.ndarray) -> np.ndarray:
    """Masks [n, H, W] of rows."""
    return store.component[store.row_photo[row]] == store.row_component[row][:, None, None]
