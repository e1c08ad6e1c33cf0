"""Retrieval: which rows of the bank a layout's photo is made of.

    match(rows, layouts)            components, and the best rows of each         (bank/match.py)
    choose(params, bank, matches)   one row a segment, and what fills it (bank/choose.py, cover.py)
    retrieve(params, bank, layouts) the two, and once more where something is cut off

Two cars that touch are one component without instance ids, and a row that has such an outline is
hardly to be found: the best one covers the one car, and nothing the other. So what is left empty of
a thing is cut off, and the segments that there are then are searched for again, once.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt8

from sims_jax.bank.choose import choose_candidate, prefer_alike
from sims_jax.bank.cover import candidate_cells, find_empty, prefer_filling
from sims_jax.bank.disk import DiskBank
from sims_jax.bank.match import match
from sims_jax.bank.pixels import layer_rows
from sims_jax.bank.segments import cut_off, split_layout
from sims_jax.networks import Params
from sims_jax.ops.light import Light
from sims_jax.types import Bank, Matches, Segments


def retrieve(
    params: Params,
    bank: Bank | DiskBank,
    layouts: UInt8[Array, "B H W"],
    *,
    candidate: Int[Array, ""] | int = 0,
    exclude: Bool[Array, "B P"] | None = None,
    instances: Int[Array, "B H W"] | None = None,
    reference: Light | None = None,
) -> Matches:
    """The segments of layouts, and the rows that they are made of.

    `match` and `choose`, and both again where `config.pipeline.cut_empty` asks for it and something
    was cut off. What that is depends on the pieces: of another candidate, or in another light,
    segments may be others. To be jitted, unless photos are on disk; not to be vmapped.

    Args:
      params: the networks.     bank: the memory bank.
      layouts: class ids at the model's working size, 255 void.
      candidate, reference: as in `choose`.
      exclude: photos of the bank that may not be used, for each layout.
      instances: instance ids (0 none), which cut the segments where given.
    """
    pipeline, on_disk = params.networks.pipeline, isinstance(bank, DiskBank)
    find = functools.partial(
        bank.match if on_disk else functools.partial(match, bank.rows),
        layouts,
        candidates=pipeline.candidates,
        exclude=exclude,
        instances=instances,
        max_aspect=pipeline.max_aspect,
    )

    def look(segments: Segments | None) -> Matches:
        return choose(params, bank, find(segments=segments), candidate, reference)

    def cut(matches: Matches) -> tuple[Segments, Bool[Array, "B"]]:
        row = layer_rows(matches, params.networks.canvas.layers)
        cells = bank.cells(row) if on_disk else candidate_cells(bank, row)
        off = find_empty(matches.segments, cells, bank.rows.spec)
        if instances is not None:
            off &= instances == 0
        return cut_off(matches.segments, off, layouts, bank.rows.spec)

    if on_disk:
        matches = jax.device_get(look(None))
        if pipeline.cut_empty:
            segments, some = jax.device_get(cut(matches))
            matches = jax.device_get(look(segments)) if some.any() else matches
        return matches
    if not pipeline.cut_empty:
        return look(None)

    def keep(matches: Matches) -> tuple[Segments, Bool[Array, "B"]]:
        return matches.segments, jnp.zeros(len(layouts), bool)

    def look_once(state: tuple) -> tuple:
        first, _, segments, _ = state
        matches = look(segments)
        # What has been searched for again is not cut once more.
        segments, some = jax.lax.cond(first, cut, keep, matches)
        return jnp.bool_(False), some.any(), segments, matches

    # A loop, so that what is done twice is compiled once.
    look = jax.jit(look)  # and traced once, although its shapes are asked for first
    segments = split_layout(layouts, bank.rows.spec, instances, pipeline.max_aspect)
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(look, segments))
    state = jnp.bool_(True), jnp.bool_(True), segments, nothing
    return jax.lax.while_loop(lambda state: state[1], look_once, state)[-1]


def choose(
    params: Params,
    bank: Bank | DiskBank,
    matches: Matches,
    candidate: Int[Array, ""] | int = 0,
    reference: Light | None = None,
) -> Matches:
    """Chooses every segment's row, by its overlap and by the light that all are to have.

    And `fill`s what they leave empty. Not to be jitted where the photos are on disk.

    Args:
      params: the networks.     bank, matches: what the rows were found in, and what was found.
      candidate: 0 uses every segment's best row, 1 its second, ...
      reference: the light that is wanted; None takes what suits the segments best.
    """
    weight = params.networks.pipeline.light_weight
    if weight:
        grid, wanted = bank.rows.spec.grid, None if reference is None else reference.mean
        matches = prefer_alike(matches, bank.light, grid, weight, wanted)
    return fill(params, bank, choose_candidate(matches, candidate))


def fill(params: Params, bank: Bank | DiskBank, matches: Matches) -> Matches:
    """Orders the candidates beside the chosen ones by how well they fill what these leave empty.

    The last step of `choose` (`bank/cover.py`). To be called after an edit of what `match` found.
    """
    networks = params.networks
    layers, weight = networks.canvas.layers, networks.pipeline.light_weight
    if layers == 1:
        return matches
    on_disk = isinstance(bank, DiskBank)
    cells = bank.cells(matches.row) if on_disk else candidate_cells(bank, matches.row)
    return prefer_filling(matches, cells, bank.light, bank.rows.spec.grid, layers, weight)
