"""Segments of a layout against a slow twin written from the contract alone."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from sims_jax.bank.segments import split_layout
from sims_jax.labels import VOID, LabelSpace
from sims_jax.types import BankSpec

LABELS = LabelSpace(
    name="toy",
    classes=("ground", "house", "tree", "pole", "sign", "car"),
    palette=tuple((40 * i, 10, 10) for i in range(6)),
    thin=("pole", "sign"),
    planar=("ground",),
    context=("tree",),
)
EIGHT = np.ones((3, 3), int)
jitted_split = jax.jit(split_layout, static_argnames=("spec", "max_aspect"))


def toy_spec(size=(24, 32), grid=(12, 16), max_segments=16, min_area_frac=0.004, smoothing=0.0):
    return BankSpec(LABELS, size, grid, max_segments, min_area_frac, smoothing)


def blocky_layouts(seed, count, size, block=4, classes=6, void_frac=0.1):
    """Random layouts of rectangles with thin poles in front and holes of void."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, classes, (count, -(-size[0] // block), -(-size[1] // block)))
    layouts = small.repeat(block, 1).repeat(block, 2)[:, : size[0], : size[1]].astype(np.uint8)
    for layout in layouts:
        for _ in range(3):
            x = rng.integers(0, size[1])
            layout[rng.integers(0, size[0] // 2) :, x] = rng.integers(3, 5)
        holes = rng.random(size) < void_frac
        layout[holes] = VOID
    return layouts


def twin_split(layout, spec, instance=None):
    """component, class_id, area, box, left_out by scipy labelling and a union-find."""
    height, width = layout.shape
    instance = np.zeros(layout.shape, int) if instance is None else instance.astype(int)
    labels = spec.labels
    context = np.isin(layout, labels.ids(labels.context))
    kind = layout.astype(int) + 1000 * np.where(context, 0, instance)
    members = []  # (kind, mask)
    for value in np.unique(kind[layout != VOID]):
        named, count = ndimage.label((kind == value) & (layout != VOID), EIGHT)
        members += [(value, named == i) for i in range(1, count + 1)]
    parent = list(range(len(members)))

    def root(i):
        while parent[i] != i:
            i = parent[i]
        return i

    bridges, count = ndimage.label(np.isin(layout, labels.ids(labels.thin)), EIGHT)
    for bridge in range(1, count + 1):
        near = ndimage.binary_dilation(bridges == bridge, EIGHT)
        touching = [i for i, (_, mask) in enumerate(members) if (mask & near).any()]
        for i in touching:
            for j in touching:
                if members[i][0] == members[j][0]:
                    parent[root(i)] = root(j)
    masks = {}
    for i, (_, mask) in enumerate(members):
        masks[root(i)] = masks.get(root(i), False) | mask
    least = math.ceil(spec.min_area_frac * height * width)
    found = [mask for mask in masks.values() if mask.sum() >= least]
    found.sort(key=lambda mask: (-mask.sum(), np.flatnonzero(mask)[0]))
    kept = sorted(found[: spec.max_segments], key=lambda mask: np.flatnonzero(mask)[0])
    component = np.full(layout.shape, -1)
    class_id = np.full(spec.max_segments, -1)
    area, box = np.zeros(spec.max_segments, int), np.zeros((spec.max_segments, 4), int)
    for i, mask in enumerate(kept):
        ys, xs = np.nonzero(mask)
        component[mask], class_id[i], area[i] = i, layout[mask][0], mask.sum()
        box[i] = ys.min(), xs.min(), ys.max() + 1, xs.max() + 1
    return component, class_id, area, box, len(found) - len(kept)


@pytest.mark.parametrize("with_instances", [False, True])
@pytest.mark.parametrize("max_segments", [5, 40])
def test_split_layout_equals_twin(with_instances, max_segments):
    spec = toy_spec(max_segments=max_segments)
    layouts = blocky_layouts(0, 6, spec.image_size)
    instances = None
    if with_instances:
        draw = np.random.default_rng(1).integers(0, 3, (6, 3, 4))
        instances = draw.repeat(8, 1).repeat(8, 2).astype(np.uint16)
    segments = jitted_split(layouts, spec=spec, instances=instances)
    for i, layout in enumerate(layouts):
        twin = twin_split(layout, spec, None if instances is None else instances[i])
        one = jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], segments)
        got = (one.component, one.class_id, one.area_px, one.box_yx, one.left_out)
        for found, expected in zip(got, twin, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_specks_of_context_classes_are_smoothed_and_things_stay():
    labels = dataclasses.replace(LABELS, context=("house", "tree"))
    layout = np.full((24, 32), 2, np.uint8)  # a tree
    layout[:, 16:] = 1  # before a house
    layout[4, 4] = layout[10, 20] = 5  # cars, which have a shape, however small
    specks = layout.copy()
    specks[8:20:4, 3:12:4], specks[6, 24] = 1, 2
    smooth = dataclasses.replace(toy_spec(min_area_frac=0.0, smoothing=1 / 24), labels=labels)
    found = jitted_split(specks[None], spec=smooth)
    expected = jitted_split(layout[None], spec=dataclasses.replace(smooth, smoothing_frac=0.0))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert np.asarray(found.class_id)[0, :5].tolist() == [2, 1, 5, 5, -1]


def test_eager_equals_jit():
    layouts = jnp.asarray(blocky_layouts(2, 2, (24, 32)))
    eager, jitted = split_layout(layouts, toy_spec()), jitted_split(layouts, spec=toy_spec())
    jax.tree.map(np.testing.assert_array_equal, eager, jitted)


def test_thin_classes_join_what_they_separate_but_not_instances():
    layout = np.ones((24, 32), np.uint8)
    layout[:, 10] = 3
    layout[:, 11] = 4  # pole and sign together are one bridge
    spec = toy_spec()
    joined = jitted_split(layout[None], spec=spec)
    assert np.asarray(joined.class_id[0, :4]).tolist() == [1, 3, 4, -1]
    assert int(joined.area_px[0, 0]) == 24 * 30
    instances = np.ones((1, 24, 32), np.uint16)
    instances[:, :, 20:] = 2
    apart = jitted_split(layout[None], spec=spec, instances=instances)
    assert np.asarray(apart.class_id[0, :5]).tolist() == [1, 3, 4, 1, -1]


def test_context_classes_are_not_cut_into_instances():
    layout = np.full((1, 24, 32), 2, np.uint8)
    instances = np.ones((1, 24, 32), np.uint16)
    instances[:, :, 16:] = 2
    segments = jitted_split(layout, spec=toy_spec(), instances=instances)
    assert np.asarray(segments.valid).sum() == 1


def test_void_layout_has_no_segments():
    segments = jitted_split(np.full((1, 24, 32), VOID, np.uint8), spec=toy_spec())
    assert not np.asarray(segments.valid).any()
    assert (np.asarray(segments.component) == -1).all()


def twin_cut(layout, spec, instance, max_aspect):
    """`twin_split` of the same layout, its wide things cut: component, class_id, left_out."""
    component, class_id, area, box, left_out = twin_split(layout, spec, instance)
    least = max(1, math.ceil(spec.min_area_frac * layout.size))
    names = [*spec.labels.context, *spec.labels.planar, *spec.labels.thin]
    masks, free, extra = [], spec.max_segments - (class_id >= 0).sum(), 0
    for n in np.flatnonzero(class_id >= 0):
        mask, (_, x0, _, x1) = component == n, box[n]
        heights = mask.sum(axis=0)
        mean = area[n] // (x1 - x0)
        lowest = max(1, mean // 3)  # in fewer pixels than this no column counts
        aspects = []
        for x in range(x0, x1):
            around = heights[max(x - mean // 2, x0) : min(x + mean // 2 + 1, x1)]
            aspects.append(2**16 * len(around) // max(around.sum(), len(around) * lowest))
        total, one = sum(aspects), round(2 / 3 * round(2**16 * max_aspect))
        pieces = max(1, min((total + one // 2) // one, area[n] // (4 * least)))
        thing = spec.labels.classes[class_id[n]] not in names and not instance[mask].any()
        if not thing or total <= 2**16 * max_aspect:
            pieces = 1
        extra += pieces - 1
        if extra > free:  # nothing is left out for a cut
            pieces = 1
        starts = np.cumsum([0, *aspects[:-1]])
        of_column = np.full(layout.shape[1], -1)
        of_column[x0:x1] = starts // -(-total // pieces)
        masks += [mask & (of_column == piece) for piece in range(pieces)]
    kept = sorted(filter(np.any, masks), key=lambda mask: np.flatnonzero(mask)[0])
    component, class_id = np.full(layout.shape, -1), np.full(spec.max_segments, -1)
    for n, mask in enumerate(kept):
        component[mask], class_id[n] = n, layout[mask][0]
    return component, class_id, left_out


@pytest.mark.parametrize("max_segments", [6, 15, 40])
@pytest.mark.parametrize("max_aspect", [1.0, 2.5])
def test_wide_things_are_cut_as_by_the_twin(max_segments, max_aspect):
    spec = toy_spec(size=(48, 64), max_segments=max_segments)
    layouts = blocky_layouts(3, 6, spec.image_size, block=8, void_frac=0.02)
    instances = np.random.default_rng(1).integers(0, 2, (6, 3, 4))
    instances = instances.repeat(16, 1).repeat(16, 2).astype(np.uint16)
    whole = jitted_split(layouts, spec=spec, instances=instances)
    found = jitted_split(layouts, spec=spec, instances=instances, max_aspect=max_aspect)
    if max_segments == 40:
        assert np.asarray(found.valid).sum() > np.asarray(whole.valid).sum() + 6
    for i, layout in enumerate(layouts):
        component, class_id, left_out = twin_cut(layout, spec, instances[i], max_aspect)
        np.testing.assert_array_equal(found.component[i], component)
        np.testing.assert_array_equal(found.class_id[i], class_id)
        assert int(found.left_out[i]) == left_out
        for n in np.flatnonzero(class_id >= 0):
            ys, xs = np.nonzero(component == n)
            box = ys.min(), xs.min(), ys.max() + 1, xs.max() + 1
            assert tuple(np.asarray(found.box_yx)[i, n]) == box
            assert int(found.area_px[i, n]) == len(ys)


def row_of_cars(size=(48, 96)):
    """A row of cars that leads away from the one who looks: 24 pixels high, then 6."""
    layout = np.zeros(size, np.uint8)
    for x in range(size[1]):
        layout[36 - round(24 - 18 * x / size[1]) : 36, x] = 5
    return layout[None]


def test_a_row_of_things_is_cut_into_pieces_that_are_alike_in_aspect():
    spec = toy_spec(size=(48, 96))
    found = jitted_split(row_of_cars(), spec=spec, max_aspect=3.0)
    cars = np.asarray(found.class_id[0]) == 5
    box, area_px = np.asarray(found.box_yx)[0][cars], np.asarray(found.area_px)[0][cars]
    wide_px = (box[:, 3] - box[:, 1])[np.argsort(box[:, 1])]
    assert len(wide_px) == 4 and wide_px.sum() == 96  # side by side, nothing is lost
    assert (np.diff(wide_px) < 0).all()  # the farther the narrower
    aspect = (box[:, 3] - box[:, 1]) ** 2 / area_px
    assert aspect.max() < 1.25 * aspect.min() and aspect.max() <= 3.0


def test_what_is_not_several_things_side_by_side_stays_whole():
    spec = toy_spec(size=(48, 96))

    def count(layout, **options):
        found = jitted_split(layout, spec=spec, max_aspect=3.0, **options)
        return int((np.asarray(found.class_id) > 0).sum())

    layout = row_of_cars()
    assert count(layout) == 4
    one = np.ones(layout.shape, np.uint16)  # is one thing by its instance id
    assert count(layout, instances=one) == 1
    for other in (2, 4):  # of a context class, or thin
        assert count(np.where(layout == 5, np.uint8(other), layout)) == 1
    assert count(np.where(np.arange(96) < 40, layout, 0)) == 1  # is as wide as two of its heights
    assert count(np.where(np.arange(48)[:, None] >= 35, layout, 0)) == 1  # has no room for pieces


def test_what_is_cut_does_not_depend_on_the_size():
    layout = np.zeros((1, 24, 96), np.uint8)
    layout[:, :, 18:] = 5  # 3.25 times as wide as high
    for times in (1, 4, 16):
        large = layout.repeat(times, 1).repeat(times, 2)
        found = jitted_split(large, spec=toy_spec(size=large.shape[1:]), max_aspect=3.0)
        assert (np.asarray(found.class_id) == 5).sum() == 2


def test_without_a_wide_thing_nothing_changes():
    layouts = blocky_layouts(4, 4, (24, 32))
    spec = toy_spec(max_segments=5)
    expected = jitted_split(layouts, spec=spec)
    found = jitted_split(layouts, spec=spec, max_aspect=40.0)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert int(expected.left_out.sum())


def test_eager_cuts_equal_jit():
    spec = toy_spec(size=(48, 96))
    eager = split_layout(jnp.asarray(row_of_cars()), spec, max_aspect=2.0)
    jitted = jitted_split(row_of_cars(), spec=spec, max_aspect=2.0)
    jax.tree.map(np.testing.assert_array_equal, eager, jitted)
