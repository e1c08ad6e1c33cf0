"""What is left empty of things is cut off, and all is searched for once more."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from sims_jax import retrieval
from sims_jax.bank.build import build_bank
from sims_jax.bank.cover import cut_empty
from sims_jax.bank.device import rows_to_device, to_device
from sims_jax.bank.disk import DiskBank
from sims_jax.bank.store import open_bank
from sims_jax.labels import SCENES
from sims_jax.ops.bits import pack_bits_numpy
from sims_jax.types import Segments

CAR, SKY = SCENES.classes.index("car"), SCENES.classes.index("sky")
SMALL, LARGE = np.s_[20:40, 8:24], np.s_[8:40, 24:52]  # two things that touch


def scene(*cars):
    layout = np.full((48, 64), SKY, np.uint8)
    layout[30:] = SCENES.classes.index("road")
    for box in cars:
        layout[box] = CAR
    return layout


@pytest.fixture(scope="module")
def store(tiny_stores, tmp_path_factory):
    """Photos of the one car, of the other, and of none."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("cars") / "bank"
    examples = [
        {
            "id": f"photo{i}",
            "video": f"video{i}",
            "frame": 0,
            "layout": layout,
            "photo": rng.integers(0, 255, (48, 64, 3)).astype(np.uint8),
        }
        for i, layout in enumerate([scene(SMALL), scene(LARGE), scene()])
    ]
    spec = tiny_stores[0].spec
    return open_bank(build_bank(examples, spec, folder, source_name="cars", licence=""))


@pytest.fixture(scope="module")
def retrieve(tiny_model, store):
    """`retrieve`, jitted, of canvases of one layer, on one device or on what is asked for."""

    def run(layouts, bank=None, cut_empty=True, jitted=True, **options):
        networks = tiny_model.params.networks
        networks = dataclasses.replace(
            networks,
            canvas=dataclasses.replace(networks.canvas, layers=1),
            pipeline=dataclasses.replace(networks.pipeline, cut_empty=cut_empty, max_aspect=0.0),
        )
        params = jax.device_get(tiny_model.params).replace(networks=networks)
        bank = to_device(store, jax.devices()[:1]) if bank is None else bank
        function = jax.jit(retrieval.retrieve) if jitted else retrieval.retrieve
        layouts = np.asarray(layouts) if isinstance(bank, DiskBank) else jnp.asarray(layouts)
        return jax.device_get(function(params, bank, layouts, **options))

    return run


def cars_of(store, matches, b=0):
    """(box, id of the photo) of each car that was found."""
    found = zip(
        matches.segments.class_id[b], matches.segments.box_yx[b], matches.row[b], strict=True
    )
    return {
        (tuple(box.tolist()), store.ids[row[0] // store.spec.max_segments])
        for class_id, box, row in found
        if class_id == CAR
    }


def test_of_two_things_that_touch_both_are_found(store, retrieve):
    layouts = np.stack([scene(SMALL, LARGE), scene(LARGE)])
    whole = retrieve(layouts, cut_empty=False)
    assert cars_of(store, whole) == {((8, 8, 40, 52), "photo1")}
    matches = retrieve(layouts)
    assert cars_of(store, matches) == {((20, 8, 40, 24), "photo0"), ((8, 24, 40, 52), "photo1")}
    assert not matches.segments.left_out.any()
    # Where nothing is empty all is as without.
    for a, b in zip(jax.tree.leaves(matches), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(a[1], b[1])


def test_what_has_an_instance_id_stays_whole(store, retrieve):
    layout = scene(SMALL, LARGE)[None]
    one = (layout == CAR).astype(np.int32)
    assert cars_of(store, retrieve(layout, instances=one)) == {((8, 8, 40, 52), "photo1")}
    one[0][SMALL] = 2
    assert len(cars_of(store, retrieve(layout, instances=one, cut_empty=False))) == 2


def test_without_room_things_stay_whole(store, retrieve):
    """As many segments as there may be: one more would leave out the smallest."""
    count = store.spec.max_segments
    layout = scene(SMALL, LARGE)
    for i in range(count - 3):  # a sky, a road, the two cars as one
        y, x = 42 * (i // 10), 6 * (i % 10)
        layout[y : y + 4, x : x + 4] = SCENES.classes.index("pedestrian")
    full, whole = retrieve(layout[None]), retrieve(layout[None], cut_empty=False)
    assert whole.segments.valid.sum() == count and not whole.segments.left_out.any()
    jax.tree.map(np.testing.assert_array_equal, full, whole)
    layout[42:] = scene()[42:]
    assert len(cars_of(store, retrieve(layout[None]))) == 2


def test_on_eight_devices_on_disk_and_eagerly_the_same(store, retrieve):
    layouts = np.stack([scene(SMALL, LARGE), scene(LARGE), scene()])
    expected = retrieve(layouts)
    on_disk = DiskBank(
        rows_to_device(store, jax.devices()[:1]), open_bank(store.folder, images="disk")
    )
    for found in (
        retrieve(layouts, jitted=False),
        retrieve(layouts, bank=on_disk, jitted=False),
        retrieve(layouts, bank=to_device(store)),
    ):
        jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("factor", [1, 2, 5])
def test_what_is_cut_off_equals_a_slow_twin(store, factor):
    rng, grid = np.random.default_rng(factor), (12, 16)
    size = (factor * grid[0], factor * grid[1])
    spec = dataclasses.replace(store.spec, image_size=size, grid=grid)
    component = rng.integers(-1, 4, (3, 3, 4)).repeat(4, 1).repeat(4, 2)
    component = component.repeat(factor, 1).repeat(factor, 2).astype(np.int32)
    component[:, :, -factor:] = 2  # along the frame, which is no edge
    covered = rng.random((3, 4, 2, 3, 4)) < 0.4
    covered = covered.repeat(4, 3).repeat(4, 4) & (rng.random((3, 4, 2, *grid)) < 0.97)
    class_id = np.array([CAR, CAR, CAR, SKY], np.int32)
    instances = np.zeros(component.shape, np.int32)
    instances[1][component[1] == 0] = 7
    segments = Segments(
        component=component,
        class_id=np.tile(class_id, (3, 1)),
        area_px=None,
        box_yx=None,
        left_out=None,
    )
    cells = pack_bits_numpy(covered.reshape(3, 4, 2, -1))
    ids, anything = cut_empty(segments, cells, instances, spec)

    square = np.ones((2 * ((factor + 1) // 2) + 1,) * 2, bool)
    cut = np.zeros(component.shape, bool)
    for b, n in np.ndindex(3, 3):  # the sky, the last, is no thing
        mine = component[b] == n
        empty = ~covered[b, n].any(axis=0).repeat(factor, 0).repeat(factor, 1) & mine
        if (b, n) == (1, 0) or 10 * empty.sum() > 9 * mine.sum():
            continue
        core = ndimage.binary_erosion(empty, square, border_value=1)
        cut[b] |= ndimage.binary_dilation(core, square)
    assert cut.any() and anything
    np.testing.assert_array_equal(ids, np.where(cut, component + 5, component + 1))
    everything = np.full_like(cells, 0xFFFFFFFF)
    ids, anything = cut_empty(segments, everything, instances, spec)
    assert not anything
    np.testing.assert_array_equal(ids, component + 1)
