"""Canvases of the donors' own pixels: as composition reads them, and what f learns by them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sims_jax.bank.choose import layer_places
from sims_jax.bank.photo import as_float
from sims_jax.ops.affine import look_up, sample_pieces_cubic
from sims_jax.rng import example_keys
from sims_jax.training.batches import iterate_batches
from sims_jax.training.dry_run import invent_tasks
from sims_jax.training.tasks.synthesis import borrow

INDEX, LAYERS = 5, 2


@pytest.fixture(scope="module")
def task(tiny_config, tiny_stores):
    return invent_tasks(tiny_config, *tiny_stores)["synthesis"]


@pytest.fixture(scope="module")
def batch(task):
    """(borrowed, not borrowed), and their keys."""
    batch, position = next(iterate_batches(task, seed=0, batch_size=2, first_step=0))
    slot = np.zeros(task.store.row_of.shape[1], int)
    for place, index in enumerate(position % task.count):
        some = borrow(task.store, task.donors, int(index), slot, LAYERS, place == 0)
        batch["borrowed"].rgb[place], batch["borrowed"].used[place] = some.rgb, some.used
    return jax.tree.map(jnp.asarray, (batch, example_keys(jax.random.key(1), 0, position)))


def test_donors_are_read_as_composition_reads_them(task):
    """Where the affine moves and turns them, beyond the frame, too."""
    store = task.store
    bent = task.donors.affine + np.random.default_rng(0).normal(0, 0.1, task.donors.affine.shape)
    bent[..., 2] *= 40
    table = dataclasses.replace(task.donors, affine=bent.astype(np.float32))
    slot = np.arange(store.row_of.shape[1]) % table.row.shape[1]
    borrowed = borrow(store, table, INDEX, slot, LAYERS, used=True)
    component = store.component[INDEX].astype(np.int32)
    height, width = component.shape
    assert borrowed.used and borrowed.rgb.shape == (LAYERS, height, width, 3)
    for rgb, place in zip(borrowed.rgb, layer_places(slot, LAYERS), strict=True):
        row = store.row_of[INDEX]
        y, x = look_up(jnp.asarray(table.affine[row, place]), jnp.asarray(component))
        photos = store.photo[store.row_photo[table.row[row, place]]]
        expected = sample_pieces_cubic(jnp.asarray(photos), jnp.asarray(component), y, x)
        expected = np.clip(expected, 0, 255)
        there = component >= 0
        assert there.any()
        np.testing.assert_allclose(rgb[there], expected[there], atol=0.51)  # bytes


def test_a_canvas_is_the_donors_pixels_where_it_is_borrowed_and_the_photos_where_not(task, batch):
    batch, keys = batch
    plain = dataclasses.replace(
        task.simulation, transfer_share=0.0, relight_share=0.0, missing_share=0.0, empty_share=0.0
    )
    canvas, truth = task.simulate(batch, keys, plain)
    own, _ = task.simulate({k: v for k, v in batch.items() if k != "borrowed"}, keys, plain)
    for name in ("mask", "source", "layout"):
        np.testing.assert_array_equal(getattr(canvas, name), getattr(own, name))
    there, count = np.asarray(canvas.mask) > 0, task.store.row_of.shape[1]
    for place, used in enumerate((True, False)):
        here = there[place]
        if used:
            shown = np.asarray(batch["borrowed"].rgb)[place]
            layer = np.asarray(canvas.source)[place] // count
            expected = np.take_along_axis(shown, layer[None, ..., None], 0)[0] / 255
            assert np.abs(canvas.rgb[place] - truth[place])[here].mean() > 0.02
        else:
            expected = as_float(batch["photo"][place])
        assert here.any()
        np.testing.assert_allclose(canvas.rgb[place][here], expected[here], atol=1e-6)


def test_nothing_is_asked_of_borrowed_canvases_but_their_layout(task, batch):
    """Another truth changes the loss of the other canvas alone, another layout that of both."""
    batch, keys = batch
    params = jax.jit(task.init)(jax.random.key(0))
    task = dataclasses.replace(
        task, simulation=dataclasses.replace(task.simulation, relight_share=0.0, empty_share=0.0)
    )
    loss = jax.jit(lambda batch: task.loss(params, batch, keys))
    before, metrics = loss(batch)
    known = batch["borrowed"].used
    told = task.losses.consistency_weight * metrics["consistency"]
    told += task.losses.segmentation_weight * metrics["segmentation"]
    np.testing.assert_allclose(before[0], told[0], rtol=1e-5)
    assert before[1] > told[1] + 0.01
    after, _ = loss(batch | {"photo": batch["photo"][..., ::-1]})
    assert known[0] and after[0] == before[0] and after[1] != before[1]
    after, _ = loss(batch | {"layout": (batch["layout"] + 1) % np.uint8(3)})
    assert (after != before).all()


def test_as_many_canvases_are_borrowed_as_the_config_says(task):
    rng = np.random.default_rng(0)
    used = [task.example(i % task.count, rng)["borrowed"].used for i in range(400)]
    assert abs(np.mean(used) - task.simulation.borrowed_share) < 0.08
    never = dataclasses.replace(task.simulation, borrowed_share=0.0)
    assert "borrowed" not in dataclasses.replace(task, simulation=never).example(0, rng)
