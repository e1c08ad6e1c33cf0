"""What is left empty of things is cut off, and all is searched for once more."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from sims_jax import retrieval
from sims_jax.bank.build import build_bank
from sims_jax.bank.cover import find_empty
from sims_jax.bank.device import rows_to_device, to_device
from sims_jax.bank.disk import DiskBank
from sims_jax.bank.segments import cut_off
from sims_jax.bank.store import open_bank
from sims_jax.labels import SCENES
from sims_jax.ops.bits import pack_bits_numpy
from sims_jax.ops.components import component_boxes
from sims_jax.ops.resize import resize_labels
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
    expected = {((20, 8, 40, 24), "photo0"), ((8, 24, 40, 52), "photo1")}
    assert cars_of(store, retrieve(layout, instances=one)) == expected


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
def test_what_is_empty_equals_a_slow_twin(store, factor):
    rng, grid = np.random.default_rng(factor), (12, 16)
    size = (factor * grid[0], factor * grid[1])
    spec = dataclasses.replace(store.spec, image_size=size, grid=grid)
    component = rng.integers(-1, 4, (3, 3, 4)).repeat(4 * factor, 1).repeat(4 * factor, 2)
    component = np.roll(component, factor // 2, axis=(1, 2)).astype(np.int32)  # beside the cells
    component[:, :, -factor:] = 2  # along the frame, which is no edge
    covered = rng.random((3, 4, 2, 3, 4)) < 0.4
    covered = covered.repeat(4, 3).repeat(4, 4) & (rng.random((3, 4, 2, *grid)) < 0.97)
    segments = Segments(
        component=component,
        class_id=np.tile(np.array([CAR, CAR, CAR, SKY], np.int32), (3, 1)),
        area_px=None,
        box_yx=None,
        left_out=None,
    )
    cells = pack_bits_numpy(covered.reshape(3, 4, 2, -1))
    found = find_empty(segments, cells, spec)

    square = np.ones((2 * ((factor + 1) // 2) + 1,) * 2, bool)
    expected = np.zeros(component.shape, bool)
    small = resize_labels(component, grid)
    for b, n in np.ndindex(3, 3):  # the sky, the last, is no thing
        # A pixel is empty where its cell is, which may be another segment's.
        left = np.choose(np.maximum(small[b], 0), ~covered[b].any(axis=1))
        mine = small[b] == n
        if 10 * (left & mine).sum() > 9 * mine.sum():
            continue
        empty = resize_labels(left, size) & (component[b] == n)
        core = ndimage.binary_erosion(empty, square, border_value=1)
        expected[b] |= ndimage.binary_dilation(core, square)
    assert expected.any()
    np.testing.assert_array_equal(found, expected)
    assert not find_empty(segments, np.full_like(cells, 0xFFFFFFFF), spec).any()


def test_what_is_cut_off_is_a_segment_and_nothing_else_changes(store):
    """A piece of a row, which is smaller than segments, and a segment in two parts stay."""
    spec = dataclasses.replace(store.spec, image_size=(20, 30), min_area_frac=10 / 600)
    component = np.full((3, 20, 30), -1, np.int32)
    component[:, :2, :4] = 0  # 8 pixels
    component[:, 4:8, :4] = component[:, 4:8, 8:12] = 1
    component[:, 10:20, :20] = component[:, 9, 7] = 2
    off = np.zeros(component.shape, bool)
    off[0, 10:20, 5:10] = True  # 50 pixels
    off[0, 10:14, 12:15] = True  # 12
    off[0, 16:19, 12:15] = True  # 9, too few
    classes = np.full(spec.max_segments, -1, np.int32)
    classes[:3] = CAR
    area = np.bincount(component[0].ravel() + 1, minlength=spec.max_segments + 1)[1:]
    segments = Segments(
        component=component,
        class_id=np.tile(classes, (3, 1)),
        area_px=np.tile(area.astype(np.int32), (3, 1)),
        box_yx=jax.vmap(lambda one: component_boxes(one, spec.max_segments))(component),
        left_out=np.array([0, 2, 1], np.int32),
    )
    run = jax.jit(cut_off, static_argnums=3)
    layouts = np.where(component < 0, SKY, CAR).astype(np.uint8)
    parts, cut = jax.device_get(run(segments, off, layouts, spec))
    np.testing.assert_array_equal(cut, [True, False, False])
    expected = component[0].copy()
    expected[10:20, 5:10], expected[10:20, 10:20], expected[10:14, 12:15] = 3, 4, 5
    expected[16:19, 12:15] = 2  # with the first part, as is the pixel above, which is alone now
    np.testing.assert_array_equal(parts.component[0], expected)
    assert parts.area_px[0, :7].tolist() == [8, 32, 60, 50, 79, 12, 0]
    assert parts.box_yx[0, 3].tolist() == [10, 5, 20, 10]
    assert (parts.class_id[0, :6] == CAR).all() and (parts.class_id[0, 6:] == -1).all()
    for a, b in zip(jax.tree.leaves(parts), jax.tree.leaves(segments), strict=True):
        np.testing.assert_array_equal(a[1:], b[1:])
    assert parts.left_out.tolist() == [0, 2, 1]
    # Across a pole that stands between them, what is left is one segment.
    layouts[0, 9, :20] = SCENES.classes.index("pole")
    joined, _ = jax.device_get(run(segments, off, layouts, spec))
    assert joined.area_px[0, :5].tolist() == [8, 32, 139, 62, 0]  # and what is cut off
    layouts[0, 9, :20] = SKY
    # Where there are four numbers, there is room for one part more, not for three.
    tight = dataclasses.replace(spec, max_segments=4)
    few = jax.tree.map(lambda x: x if x.shape[1:] in ((20, 30), ()) else x[:, :4], segments)
    same, cut = jax.device_get(run(few, off, layouts, tight))
    assert not cut.any()
    jax.tree.map(np.testing.assert_array_equal, same, jax.device_get(few))
