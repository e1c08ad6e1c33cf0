"""Banks larger than their devices: the answers of a bank that fits, to the last bit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_match import bank_of, jitted_match, store_of
from test_segments import blocky_layouts, toy_spec
from test_store import flip_byte

import sims_jax
from sims_jax import pipeline
from sims_jax.bank import blocks as blocks_module
from sims_jax.bank.blocks import match_streamed, open_blocks
from sims_jax.bank.device import rows_to_device, to_device
from sims_jax.bank.disk import DiskBank
from sims_jax.bank.pixels import cut, locate
from sims_jax.bank.store import open_bank
from sims_jax.errors import InputError
from sims_jax.model import assemble

PHOTOS = 40


@pytest.fixture(scope="module")
def crowd():
    """Photos, of which many are equal and lie in different blocks, and queries; one is a photo."""
    spec = toy_spec()
    photos = blocky_layouts(11, PHOTOS, spec.image_size, block=8)
    photos[[9, 20, 33, 39]] = photos[2]
    photos[25:30] = photos[10:15]
    queries = np.stack([photos[2], blocky_layouts(12, 1, spec.image_size, block=8)[0]])
    exclude = np.zeros((2, PHOTOS), bool)
    exclude[0, [2, 33]] = True
    return spec, photos, queries, exclude


@pytest.mark.parametrize("block_photos, count", [(7, 1), (16, 3), (PHOTOS + 1, 1)])
def test_blocks_equal_the_whole(crowd, tmp_path, block_photos, count):
    spec, photos, queries, exclude = crowd
    store = dataclasses.replace(store_of(photos, spec), folder=tmp_path)
    blocks = open_blocks(store, block_photos=block_photos, devices=jax.devices()[:count])
    assert len(blocks) == -(-PHOTOS // block_photos)
    rows = bank_of(photos, spec).rows
    compiled = blocks_module._search_block._cache_size()
    expected = jitted_match(rows, queries, candidates=6, exclude=exclude)
    found = match_streamed(blocks, queries, candidates=6, exclude=exclude)
    jax.tree.map(np.testing.assert_array_equal, expected, found)
    match_streamed(blocks, queries, candidates=6)
    assert blocks_module._search_block._cache_size() == compiled + 1
    copies = np.asarray(match_streamed(blocks, queries, candidates=6).row)[0, 0]
    assert (copies // spec.max_segments).tolist()[:5] == [2, 9, 20, 33, 39]


def test_blocks_are_prepared_once_continued_and_verified(crowd, tmp_path):
    spec, photos, queries, _ = crowd
    store = dataclasses.replace(store_of(photos[:12], spec), folder=tmp_path)
    options = {"block_photos": 5, "devices": jax.devices()[:1]}
    blocks = open_blocks(store, **options)
    times = {path: path.stat().st_mtime_ns for path in blocks.folder.glob("*-0")}
    assert len(times) == len(blocks) == 3
    middle = blocks.path(1, 0)
    middle.rename(middle.with_name(".tmp-killed"))  # as if it had been killed before its end
    blocks = open_blocks(store, **options)
    assert {path for path, time in times.items() if path.stat().st_mtime_ns != time} == {middle}
    assert set(blocks.folder.iterdir()) == set(times)
    flip_byte(middle / "mask" / "0.0.0")
    with pytest.raises(InputError, match=r"1-0/mask/0\.0\.0"):
        match_streamed(blocks, queries)
    with pytest.raises(ValueError, match="resample them"):
        match_streamed(blocks, queries[:, 1:])
    other = dataclasses.replace(store, digest="other")
    assert open_blocks(other, **options).folder != blocks.folder


@pytest.fixture(scope="module")
def models(tiny_model, tiny_stores, tiny_config):
    """The same model with its photos on disk, and with its rows on disk as well."""
    networks = {
        name: jax.device_get(getattr(tiny_model.params, name))
        for name in ("transformer", "ordering", "densifier", "synthesis")
    }
    store = open_bank(tiny_stores[0].folder, images="disk")
    on_disk = assemble(tiny_config, store, networks)
    streamed = assemble(tiny_config, store, networks, rows="stream")
    blocks = open_blocks(store, block_photos=4)
    return on_disk, dataclasses.replace(streamed, bank=DiskBank(blocks, store))


@pytest.mark.parametrize("kind", [0, 1], ids=["photos", "rows"])
def test_photos_of_a_bank_on_disk_are_the_same(tiny_model, tiny_stores, models, kind):
    model, layout = models[kind], np.array(tiny_stores[1].layout[0])
    layout[20:40, 4:60] = model.labels.classes.index("car")  # a row, which is cut
    assert isinstance(model.bank, DiskBank)
    others = {"candidate": 1, "exclude": model.photo_ids[:2], "adherence": "segment"}
    for options in ({}, others | {"reference": tiny_stores[1].photo[1]}):
        one, other = (each.synthesize(layout, **options) for each in (tiny_model, model))
        np.testing.assert_allclose(one.photo, other.photo, atol=1e-5)
        np.testing.assert_array_equal(one.canvas_mask, other.canvas_mask)
        sources = [[(s.row_id, s.photo_id, s.score) for s in r.segments] for r in (one, other)]
        assert sources[0] == sources[1]
        assert sum(s.class_name == "car" for s in other.segments) > 1
    assert model.without_bank().synthesize(layout).segments[0].row_id is None


def test_photos_of_a_bank_on_disk_are_the_same_bits(tiny_model, tiny_stores, models):
    """Compiled as outside of tests, on one device; nothing is rounded before the pixels."""
    store, params = tiny_stores[0], jax.device_get(tiny_model.params)
    one = jax.devices()[:1]
    bank, on_disk = (
        to_device(store, one),
        DiskBank(rows_to_device(store, one), models[0].bank.store),
    )
    layouts = tiny_stores[1].layout[:1]
    matches = on_disk.match(layouts, candidates=3)
    photos, row = on_disk.fetch(matches.row[..., 0])
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.jit(pipeline.gather)(bank, matches),
        cut(locate(photos, store.spec, jnp.asarray(row))),
    )
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        expected = pipeline.synthesize(params, bank, layouts)
        found = pipeline.synthesize_from_disk(params, on_disk, layouts)
    finally:
        jax.config.update("jax_disable_most_optimizations", True)
    jax.tree.map(np.testing.assert_array_equal, expected, found)


def test_the_second_layout_does_not_recompile(tiny_stores, models):
    layouts = tiny_stores[1].layout
    models[0].synthesize(layouts[0])
    compiled = pipeline._render_photos._cache_size()
    models[0].synthesize(layouts[1])
    models[0].synthesize(layouts[2], candidate=2)
    assert pipeline._render_photos._cache_size() == compiled


def test_each_winner_is_read_once_and_nothing_else(tiny_stores, models):
    read = []

    @dataclasses.dataclass(frozen=True)
    class Counted:
        images: object

        def __getitem__(self, index):
            read.extend(np.arange(len(self.images))[index])
            return self.images[index]

    store = tiny_stores[0]
    bank = DiskBank(models[0].bank.rows, dataclasses.replace(store, photo=Counted(store.photo)))
    limit = store.spec.max_segments
    row = np.array([[5 * limit, -1, 2 * limit + 1], [5 * limit + 1, 5 * limit, -1]], np.int32)
    photos, renumbered = bank.fetch(row)
    assert read == [2, 5] and len(photos.photo) == row.size
    np.testing.assert_array_equal(photos.photo[:2], store.photo[[2, 5]])
    there = row >= 0
    np.testing.assert_array_equal(renumbered[there] % limit, row[there] % limit)
    np.testing.assert_array_equal(renumbered[there] // limit, [1, 0, 1, 1])
    assert (renumbered[~there] == -1).all()
    nothing, _ = bank.fetch(np.full((1, 3), -1, np.int32))
    assert (nothing.component == -1).all()


def test_where_a_bank_is_kept_is_checked(tmp_path):
    with pytest.raises(InputError, match="photos='ram', rows='device', expected"):
        sims_jax.load(tmp_path, photos="ram")
    with pytest.raises(InputError, match="expected both on disk; leave photos out"):
        sims_jax.load(tmp_path, photos="device", rows="stream")
