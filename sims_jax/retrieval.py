"""Retrieval: which rows of the bank a layout's photo is made of.

    match(rows, layouts)            components, and the best rows of each         (bank/match.py)
    choose(params, bank, matches)   one row a segment, and what fills it (bank/choose.py, cover.py)
    retrieve(params, bank, layouts) the two, and once more where something is cut off

Two cars that touch are one component without instance ids, and a row that has such an outline is
hardly to be found: the best one covers the one car, and nothing the other. So what is left empty of
a thing is cut off, and the segments that there are then are searched for again, once.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt8

from sims_jax.bank.choose import choose_candidate, prefer_alike
from sims_jax.bank.cover import candidate_cells, cut_empty, prefer_filling
from sims_jax.bank.disk import DiskBank
from sims_jax.bank.match import match
from sims_jax.bank.pixels import used_rows
from sims_jax.networks import Params
from sims_jax.ops.light import Light
from sims_jax.types import Bank, Matches


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
    was cut off. Jit-able, unless photos are on disk; not to be vmapped.

    Args:
      params: the networks.     bank: the memory bank.
      layouts: class ids at the model's working size, 255 void.
      candidate, reference: as in `choose`.
      exclude: photos of the bank that may not be used, for each layout.
      instances: instance ids (0 none), which cut the segments where given.
    """
    pipeline, on_disk = params.networks.pipeline, isinstance(bank, DiskBank)
    find = bank.match if on_disk else functools.partial(match, bank.rows)
    options = dict(candidates=pipeline.candidates, max_aspect=pipeline.max_aspect, exclude=exclude)

    def look(instances: Any) -> Matches:
        matches = find(layouts, instances=instances, **options)
        return choose(params, bank, matches, candidate, reference)

    if not pipeline.cut_empty:
        return jax.device_get(look(instances)) if on_disk else look(instances)
    given = np.zeros(layouts.shape, np.int32) if instances is None else instances

    def cut(matches: Matches) -> tuple[Any, Any]:
        layers = params.networks.canvas.layers
        row = used_rows(matches, layers).reshape(len(layouts), layers, -1).swapaxes(1, 2)
        cells = bank.cells(row) if on_disk else candidate_cells(bank, row)
        return cut_empty(matches.segments, cells, given, bank.rows.spec)

    if on_disk:
        found = jax.device_get(look(given))
        again, anything = jax.device_get(cut(found))
        return _keep(found, jax.device_get(look(again))) if anything else found

    look = jax.jit(look)  # asked for its shapes, too, and traced once
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(look, given))

    def look_again(state: tuple) -> tuple:
        number, instances, _, before = state
        found = look(instances)
        found = jax.tree.map(functools.partial(jnp.where, number == 0), found, _keep(before, found))
        return number + 1, *cut(found), found

    # A loop, so that what is done twice is compiled once.
    first = jnp.int32(0), jnp.asarray(given, jnp.int32), jnp.bool_(True), nothing
    return jax.lax.while_loop(lambda state: (state[0] < 2) & state[2], look_again, first)[-1]


def _keep(whole: Matches, parts: Matches) -> Matches:
    """The second, for layouts of which no segment is left out for it; else the first."""
    better = parts.segments.left_out <= whole.segments.left_out

    def select(a: Any, b: Any) -> Any:
        library = np if isinstance(a, np.ndarray) else jnp
        return library.where(better.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(select, parts, whole)


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
