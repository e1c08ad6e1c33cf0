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
jitted_split = jax.jit(split_layout, static_argnames="spec")


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
