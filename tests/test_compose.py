"""Pasting and elision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sims_jax.canvas.compose import CanvasConfig, elide, paste
from sims_jax.errors import InputError
from sims_jax.labels import SCENES
from sims_jax.types import Canvas, Segments

ROAD, CAR, SKY = (SCENES.classes.index(name) for name in ("road", "car", "sky"))
SIZE = (24, 32)


def config(**changes):
    values = dict(
        adherence="layout",
        inner_band_frac=0.1,
        inner_share=1.0,
        outer_band_frac=0.0,
        outer_share=1.0,
        layers=1,
    )
    return CanvasConfig(**values | changes)


def two_segments():
    """A car before a road: components, masks that spill, layout, colours."""
    layout = np.full(SIZE, ROAD, np.uint8)
    layout[8:16, 10:20] = CAR
    component = np.where(layout == CAR, 1, 0).astype(np.int32)
    mask = np.zeros((3, *SIZE), bool)
    mask[0] = True
    mask[1, 6:14, 12:24] = True
    rgb = np.zeros((3, *SIZE, 3), np.float32)
    rgb[0], rgb[1] = 0.25, 0.75
    segments = Segments(
        component=jnp.asarray(component),
        class_id=jnp.array([ROAD, CAR, -1]),
        area_px=jnp.array([0, 0, 0]),
        box_yx=jnp.zeros((3, 4), jnp.int32),
        left_out=jnp.int32(0),
    )
    return jnp.asarray(rgb), jnp.asarray(mask), segments, jnp.asarray(layout)


def test_layout_mode_clips_to_components_and_keeps_the_layout():
    rgb, mask, segments, layout = two_segments()
    for rank in ([0, 1, 2], [1, 0, 2]):
        canvas = paste(rgb, mask, jnp.array(rank), segments, layout, "layout")
        car = np.asarray(segments.component) == 1
        assert (np.asarray(canvas.source)[car & ~np.asarray(mask[1])] == -1).all()
        assert (np.asarray(canvas.rgb)[car & np.asarray(mask[1])] == 0.75).all()
        assert (np.asarray(canvas.layout) == np.asarray(layout)).all()


def test_segment_mode_keeps_silhouettes_and_rewrites_the_layout():
    rgb, mask, segments, layout = two_segments()
    front = paste(rgb, mask, jnp.array([0, 1, 2]), segments, layout, "segment")
    behind = paste(rgb, mask, jnp.array([1, 0, 2]), segments, layout, "segment")
    assert (np.asarray(front.layout == CAR) == np.asarray(mask[1])).all()
    assert (np.asarray(behind.layout) == ROAD).all()
    assert (np.asarray(behind.rgb) == 0.25).all()


@pytest.mark.parametrize("adherence", ["segment", "layout"])
def test_what_fills_a_segment_shows_where_nothing_else_is(adherence):
    """The car's own piece spares its lower rows: another car fills them, and nothing beside it."""
    rgb, mask, segments, layout = two_segments()
    car = np.asarray(segments.component) == 1
    own = mask.at[0].set(False).at[1, 12:].set(False)
    once = paste(rgb, own, jnp.arange(3), segments, layout, adherence)
    more_rgb = jnp.concatenate([rgb, 0.5 * jnp.ones_like(rgb)])
    more = jnp.concatenate([own, jnp.zeros_like(own).at[1].set(True)])
    rank = jnp.array([3, 4, 5, 0, 1, 2])
    filled = paste(more_rgb, more, rank, segments, layout, adherence)
    there = np.asarray(once.source) == 1
    assert (np.asarray(filled.source)[there] == 1).all()
    assert (np.asarray(filled.source)[~there] == np.where(car, 4, -1)[~there]).all()
    assert (np.asarray(filled.rgb)[car & ~there] == 0.5).all()
    np.testing.assert_array_equal(filled.layout, np.where(car, CAR, once.layout))


def test_gradients_reach_only_the_segment_on_top():
    rgb, mask, segments, layout = two_segments()

    def total(rgb):
        return paste(rgb, mask, jnp.array([0, 1, 2]), segments, layout, "segment").rgb.sum()

    gradient = np.asarray(jax.grad(total)(rgb))
    assert (gradient[1][np.asarray(mask[1])] == 1).all()
    assert (gradient[0][np.asarray(mask[1])] == 0).all()
    assert (gradient[2] == 0).all()


def test_inner_band_lies_along_boundaries_and_never_along_the_frame():
    rgb, mask, segments, layout = two_segments()
    canvas = paste(rgb, mask, jnp.array([0, 1, 2]), segments, layout, "segment")
    elided = elide(jax.random.key(0), canvas, config(), SCENES)  # a band of 2 pixels
    gone = np.asarray(canvas.mask - elided.mask) > 0
    car = np.asarray(mask[1])
    near = np.zeros(SIZE, bool)
    near[4:16, 10:26] = True
    inside = np.zeros(SIZE, bool)
    inside[8:12, 14:22] = True
    assert (gone == (near & ~inside)).all()
    assert not gone[0].any() and not gone[:, 0].any()
    assert (np.asarray(elided.rgb)[gone] == 1).all()
    assert (np.asarray(elided.source) == np.asarray(canvas.source)).all()
    assert car.sum() > 0


def test_bands_leave_thin_segments_half_their_depth():
    source = np.zeros(SIZE, np.int32)
    source[:, 15:18] = 1  # three pixels wide: a depth of two
    canvas = Canvas(
        rgb=jnp.ones((*SIZE, 3)) / 2,
        mask=jnp.ones(SIZE),
        source=jnp.asarray(source),
        layout=jnp.full(SIZE, SKY, jnp.uint8),
    )
    elided = elide(jax.random.key(0), canvas, config(inner_band_frac=0.2), SCENES)
    assert np.asarray(elided.mask)[:, 16].all()
    assert not np.asarray(elided.mask)[:, 15].any()


def test_outer_band_takes_ground_around_things_only():
    rgb, mask, segments, layout = two_segments()
    canvas = paste(rgb, mask.at[1].set(True), jnp.array([0, 1, 2]), segments, layout, "layout")
    elided = elide(
        jax.random.key(0), canvas, config(inner_band_frac=0.0, outer_band_frac=0.1), SCENES
    )
    gone = np.asarray(canvas.mask - elided.mask) > 0
    assert gone[6:18, 8:22].sum() == gone.sum() == 12 * 14 - 8 * 10


def test_shares_are_shares():
    canvas = Canvas(
        rgb=jnp.ones((64, 64, 3)) / 2,
        mask=jnp.ones((64, 64)),
        source=jnp.asarray(np.add.outer(np.arange(64) // 32, 2 * (np.arange(64) // 32))),
        layout=jnp.full((64, 64), SKY, jnp.uint8),
    )
    full = elide(jax.random.key(0), canvas, config(), SCENES).mask
    half = elide(jax.random.key(1), canvas, config(inner_share=0.5), SCENES).mask
    assert float((1 - half).sum() / (1 - full).sum()) == pytest.approx(0.5, abs=0.05)


def test_unknown_adherence_is_refused():
    with pytest.raises(InputError, match="expected one of"):
        config(adherence="photo")
