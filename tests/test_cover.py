"""What fills the layers: a twin in Python's integers, the cells of every kind of bank, canvases."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_choose import CANDIDATES, GRID, SEGMENTS, draw_light, draw_matches

from sims_jax import pipeline, retrieval
from sims_jax.bank.choose import LIGHT_STEPS, choose_candidate
from sims_jax.bank.cover import candidate_cells, order_filling, prefer_filling
from sims_jax.bank.device import to_device
from sims_jax.bank.disk import DiskBank
from sims_jax.bank.donors import DonorConfig, find_donors
from sims_jax.bank.pixels import used_rows
from sims_jax.bank.store import open_bank
from sims_jax.ops.bits import pack_bits, pack_bits_numpy
from sims_jax.ops.resize import resize_labels

HEIGHT, WIDTH = 2 * GRID[0], 2 * GRID[1]


def draw_cells(seed, batch=3):
    """A component map a layout, twice the grid's size, and what candidates cover."""
    rng = np.random.default_rng(seed)
    component = rng.integers(-1, SEGMENTS, (batch, HEIGHT // 8, WIDTH // 8)).astype(np.int32)
    component = component.repeat(8, axis=1).repeat(8, axis=2)
    shares = rng.random((batch, SEGMENTS, CANDIDATES, 1, 1))
    covered = rng.random((batch, SEGMENTS, CANDIDATES, *GRID)) < shares
    return component, covered


def twin(row, chosen, covered, wanted, light, layers, weight):
    """Places of one segment's candidates, in the order that is wanted."""
    left = [k for k in range(CANDIDATES) if row[k] >= 0 and k != chosen]
    area, first = max(int(wanted.sum()), 1), []
    wanted = wanted & ~covered[chosen]
    own = [light[r // SEGMENTS] if r >= 0 else light[0] for r in row]

    def value(k):
        apart = sum((int(a) - int(b)) ** 2 for a, b in zip(own[k], own[chosen], strict=True))
        share = 2 * LIGHT_STEPS**2 * int((covered[k] & wanted).sum()) // area
        return share - round(1024 * weight) * apart // 1024

    for _ in range(min(layers - 1, len(left))):
        best = max(left, key=lambda k: (value(k), -k))
        first.append(best)
        left.remove(best)
        wanted = wanted & ~covered[best]
    others = first + [k for k in range(CANDIDATES) if k != chosen and k not in first]
    return [*others[:chosen], chosen, *others[chosen:]]


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("weight", [0.0, 0.25])
def test_the_order_equals_a_slow_twin(layers, weight):
    matches = choose_candidate(draw_matches(layers), 1)
    component, covered = draw_cells(layers)
    segments = matches.segments.replace(component=jnp.asarray(component))
    matches, light = matches.replace(segments=segments), draw_light(3)
    cells = jnp.asarray(pack_bits_numpy(covered.reshape(*covered.shape[:3], -1)))
    found = prefer_filling(matches, cells, light, GRID, layers, weight)
    small = resize_labels(component, GRID)
    moved = 0
    for b, n in np.ndindex(*matches.chosen.shape):
        row, chosen = np.asarray(matches.row[b, n]), int(matches.chosen[b, n])
        place = twin(row, chosen, covered[b, n], small[b] == n, np.asarray(light), layers, weight)
        np.testing.assert_array_equal(found.row[b, n], row[place])
        np.testing.assert_array_equal(found.score[b, n], np.asarray(matches.score[b, n])[place])
        assert place[chosen] == chosen
        moved += place != sorted(place)
    assert moved > 3
    np.testing.assert_array_equal(found.chosen, matches.chosen)
    with jax.disable_jit():
        eager = prefer_filling(matches, cells, light, GRID, layers, weight)
    jax.tree.map(np.testing.assert_array_equal, eager, found)


def fill_one(covered, row=None):
    """Places in the order of one segment that is the whole frame, whose first row is chosen."""
    rows = np.arange(len(covered)) if row is None else row
    grid = covered[0].shape
    place = order_filling(
        jnp.zeros((1, *grid), jnp.int32),
        jnp.asarray(rows, jnp.int32)[None, None],
        jnp.zeros((1, 1), jnp.int32),
        pack_bits(jnp.asarray(covered).reshape(1, 1, len(covered), -1)),
        jnp.zeros((len(covered), 3), jnp.int32),
        grid,
        3,
        0.0,
    )
    return place[0, 0].tolist()


def test_of_equal_ones_the_first_fills():
    covered = np.zeros((5, 4, 8), bool)
    covered[1, 0, 0] = covered[2, :2] = covered[3, 2:] = covered[4, :2] = True
    assert fill_one(covered) == [0, 2, 3, 1, 4]


def test_nothing_that_was_found_fills_nothing():
    covered = np.zeros((4, 4, 8), bool)
    assert fill_one(covered, np.full(4, -1)) == [0, 1, 2, 3]


def test_shares_of_the_largest_frames_do_not_overflow():
    covered = np.zeros((4, 1024, 1024), bool)
    covered[1, :200], covered[2, 300:], covered[3, :400] = True, True, True
    assert fill_one(covered) == [0, 2, 3, 1]


def test_cells_are_the_same_on_one_device_on_eight_and_on_disk(tiny_stores):
    store, heldout = tiny_stores
    spec, layouts = store.spec, jnp.asarray(heldout.layout[:2])
    one, eight = (to_device(store, jax.devices()[:count]) for count in (1, 8))
    matches = jax.device_get(jax.jit(lambda rows: retrieval.match(rows, layouts))(one.rows))
    row = np.concatenate([matches.row, np.full_like(matches.row[..., :1], -1)], axis=-1)
    row[1] = -1  # of a layout nothing is found
    expected = np.zeros((*row.shape, *spec.grid), bool)
    for place in zip(*np.nonzero(row >= 0), strict=True):
        photo, component = divmod(int(row[place]), spec.max_segments)
        expected[place] = resize_labels(store.component[photo], spec.grid) == component
    expected = pack_bits_numpy(expected.reshape(*row.shape, -1))
    assert expected.any()
    for bank in (one, eight):
        found = jax.jit(candidate_cells)(bank, jnp.asarray(row))
        np.testing.assert_array_equal(found, expected)
    for images in ("memory", "disk"):
        bank = DiskBank(one.rows, open_bank(store.folder, images=images))
        np.testing.assert_array_equal(bank.cells(row), expected)


def test_canvases_are_fuller_for_it(tiny_model, tiny_stores, monkeypatch):
    """With as many layers, of the same segments' first pieces."""
    bank = to_device(tiny_stores[0], jax.devices()[:1])
    params = jax.device_put(jax.device_get(tiny_model.params), jax.devices()[0])
    pipe = dataclasses.replace(
        params.networks.pipeline, candidates=8, light_weight=0.0, cut_empty=False
    )
    params = params.replace(networks=dataclasses.replace(params.networks, pipeline=pipe))
    layouts = jnp.asarray(tiny_stores[1].layout)

    def fill():
        run = jax.jit(lambda *arguments: pipeline.synthesize.__wrapped__(*arguments))  # anew
        synthesis, matches = run(params, bank, layouts)
        first = jnp.take_along_axis(matches.row, matches.chosen[..., None], axis=-1)
        return np.asarray(first), float((synthesis.canvas.source >= 0).mean())

    first, covering = fill()
    monkeypatch.setattr(retrieval, "prefer_filling", lambda matches, *_: matches)
    again, plain = fill()
    np.testing.assert_array_equal(first, again)
    assert covering > plain


def test_donors_are_layered_as_composition_layers(tiny_stores):
    """Of every donor that may be drawn, on the host's cells, as `choose` does on the device's."""
    store, heldout = tiny_stores
    bank, layers, candidates, weight = to_device(store, jax.devices()[:1]), 3, 8, 0.25
    config = DonorConfig(
        donors=2, near_frames=0, layers=layers, candidates=candidates, light_weight=weight
    )
    donors = find_donors(heldout, DiskBank(bank.rows, store), config)
    assert donors.shape == (len(heldout.row_photo), 2, layers)
    find = jax.jit(retrieval.match, static_argnames="candidates")
    instances = heldout.instances.astype(np.int32)
    matches = find(bank.rows, heldout.layout, candidates=candidates, instances=instances)
    cells = candidate_cells(bank, matches.row)
    moved = 0
    for donor in range(2):
        chosen = choose_candidate(matches, donor)
        filled = prefer_filling(chosen, cells, bank.light, store.spec.grid, layers, weight)
        rows = np.asarray(used_rows(filled, layers)).reshape(len(heldout.ids), layers, -1)
        photo, component = np.divmod(rows, store.spec.max_segments)
        rows = np.where(rows >= 0, store.row_of[photo, component], -1)
        expected = rows.swapaxes(1, 2)[heldout.row_photo, heldout.row_component]
        there = np.asarray(matches.row)[heldout.row_photo, heldout.row_component, donor] >= 0
        np.testing.assert_array_equal(donors[there, donor], expected[there])
        moved += (np.asarray(filled.row) != np.asarray(chosen.row)).sum()
    assert moved > 3


def test_what_is_edited_is_filled_again(tiny_model, tiny_stores):
    bank = to_device(tiny_stores[0], jax.devices()[:1])
    networks = tiny_model.params.networks
    pipe = dataclasses.replace(networks.pipeline, candidates=8, light_weight=0.0)
    params = tiny_model.params.replace(networks=dataclasses.replace(networks, pipeline=pipe))
    layouts = jnp.asarray(tiny_stores[1].layout)

    @jax.jit
    def both(bank):
        matches = retrieval.match(bank.rows, layouts, candidates=8)
        edited = choose_candidate(matches, 1)
        return (
            edited,
            retrieval.fill(params, bank, edited),
            retrieval.choose(params, bank, matches, 1),
        )

    edited, filled, expected = both(bank)
    jax.tree.map(np.testing.assert_array_equal, filled, expected)
    assert (np.asarray(filled.row) != np.asarray(edited.row)).any()
