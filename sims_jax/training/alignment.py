"""Aligning donors: the transformer's answer for every row and each of its donors, kept on disk.

Composition aligns what it retrieves, so simulation aligns its stencils: with the same network, the
same views and the same fallback.
"""

import hashlib
import pathlib

import jax
import numpy as np

from sims_jax.bank.parts import read_part, write_part
from sims_jax.bank.photo import as_float
from sims_jax.bank.store import Store
from sims_jax.canvas.align import align
from sims_jax.checkpoints import digest_params
from sims_jax.nets.transformer import TransformerConfig
from sims_jax.processes import is_first
from sims_jax.progress import progress
from sims_jax.training.tasks.synthesis import DonorTable

BATCH = 64
DIGITS = 16  # of the SHA-256 in a name


def align_donors(
    params,
    config: TransformerConfig,
    queries: Store,
    bank: Store,
    donors: np.ndarray,
    folder: pathlib.Path,
) -> DonorTable:
    """Aligns `donors` [R, K, L], rows of `bank`, to the R rows of `queries`.

    What was found is kept in `folder`, by the digests of all it depends on.
    """
    digests = f"{digest_params(params)} {queries.digest} {bank.digest} {donors.shape} "
    content = digests.encode() + donors.tobytes()
    kept = folder / hashlib.sha256(content).hexdigest()[:DIGITS]
    if not kept.exists():
        affine = _align_all(params, config, queries, bank, donors)
        write_part(kept, {"affine": affine}, {"donors": list(donors.shape)})
    return DonorTable(row=donors, affine=read_part(kept)[0]["affine"])


def _align_all(params, config: TransformerConfig, queries: Store, bank: Store, donors: np.ndarray):
    num_classes = queries.spec.labels.num_classes

    @jax.jit
    def run(photo, mask, target, layout):
        photo = as_float(photo)
        return align(params, config, num_classes, photo, mask, target, layout)

    identity = np.asarray([[1, 0, 0], [0, 1, 0]], np.float32)
    affine = np.broadcast_to(identity, (*donors.shape, 2, 3)).copy()
    there = donors >= 0
    # Some fill what several others leave empty: each is aligned once.
    pairs = np.stack([np.nonzero(there)[0], donors[there]], axis=1)
    pairs, place = np.unique(pairs, axis=0, return_inverse=True)
    found = np.empty((len(pairs), 2, 3), np.float32)
    with progress("aligning donors", len(pairs), shown=is_first()) as bar:
        for start in range(0, len(pairs), BATCH):
            some = pairs[start : start + BATCH]
            # The last batch is filled up, so that one program serves all.
            query, donor = np.resize(some, (BATCH, 2)).T
            aligned = run(
                bank.photo[bank.row_photo[donor]],
                bank.cut(donor),
                queries.cut(query),
                queries.layout[queries.row_photo[query]],
            )
            found[start : start + BATCH] = np.asarray(aligned)[: len(some)]
            bar.update(len(some))
    affine[there] = found[place]
    return affine
