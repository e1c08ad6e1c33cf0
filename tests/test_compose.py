"""Pasting and elision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sims_jax.bank.pixels import as_pieces, cut
from sims_jax.canvas import compose
from sims_jax.canvas.compose import CanvasConfig, elide, frontmost, warp_cut
from sims_jax.errors import InputError
from sims_jax.labels import SCENES
from sims_jax.ops.affine import identity_affine
from sims_jax.types import Canvas, Photos, Pieces, Pixels, Segments

ROAD, CAR, SKY = (SCENES.classes.index(name) for name in ("road", "car", "sky"))
SIZE = (24, 32)


def config(**changes):
    values = dict(
        adherence="layout",
        inner_band_frac=0.1,
        inner_sides=2,
        inner_share=1.0,
        outer_band_frac=0.0,
        outer_share=1.0,
        layers=1,
    )
    return CanvasConfig(**values | changes)


def two_segments():
    """A car before a road: pieces that spill, components, layout."""
    layout = np.full(SIZE, ROAD, np.uint8)
    layout[8:16, 10:20] = CAR
    component = np.where(layout == CAR, 1, 0).astype(np.int32)
    mask = np.zeros((3, *SIZE), bool)
    mask[0] = True
    mask[1, 6:14, 12:24] = True
    photo = np.zeros((3, *SIZE, 3), np.uint8)
    photo[0], photo[1] = 51, 204
    segments = Segments(
        component=jnp.asarray(component),
        class_id=jnp.array([ROAD, CAR, -1]),
        area_px=jnp.array([0, 0, 0]),
        box_yx=jnp.zeros((3, 4), jnp.int32),
        left_out=jnp.int32(0),
    )
    return Pixels(jnp.asarray(photo), jnp.asarray(mask)), segments, jnp.asarray(layout)


def paste(pixels, *arguments):
    return compose.paste(as_pieces(pixels), *arguments)


def still(pixels):
    return jnp.tile(identity_affine(), (len(pixels.mask), 1, 1))


def front_of(pixels, rank):
    return frontmost(pixels.mask[:3], jnp.array(rank))


def test_clipped_to_components_pieces_keep_the_layout():
    pixels, segments, layout = two_segments()
    canvas = paste(pixels, still(pixels), segments, layout)
    car = np.asarray(segments.component) == 1
    there = np.asarray(pixels.mask[1])
    assert (np.asarray(canvas.source) == np.where(car, np.where(there, 1, -1), 0)).all()
    np.testing.assert_allclose(np.asarray(canvas.rgb)[car & there], 0.8)
    assert (np.asarray(canvas.rgb)[car & ~there] == 0).all()
    assert (np.asarray(canvas.layout) == np.asarray(layout)).all()


def test_pieces_of_one_photo_equal_pieces_with_photos_of_their_own():
    """Ids 0 and 3 of the second of two photos, and a segment of which nothing was found."""
    pixels, segments, layout = two_segments()
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
    component = rng.choice(np.array([-1, 0, 3], np.int16), (2, *SIZE))
    shared = Pieces(
        photos=Photos(jnp.asarray(photo), jnp.asarray(component)),
        place=jnp.array([1, 1, 0]),
        component=jnp.array([0, 3, -1]),
    )
    affine = still(pixels).at[1, :, 2].set(jnp.array([1.5, -2.25]))
    own = cut(shared)
    assert not np.asarray(own.photo[2]).any() and not np.asarray(own.mask[2]).any()
    for front in (None, front_of(own, [0, 1, 2])):
        jax.tree.map(
            np.testing.assert_array_equal,
            compose.paste(shared, affine, segments, layout, front),
            paste(own, affine, segments, layout, front),
        )
    batch = jax.tree.map(lambda x: jnp.stack([x, x[::-1]]), own)
    jax.tree.map(np.testing.assert_array_equal, cut(as_pieces(batch)), batch)


def test_silhouettes_are_kept_and_rewrite_the_layout():
    pixels, segments, layout = two_segments()
    front, behind = (
        paste(pixels, still(pixels), segments, layout, front_of(pixels, rank))
        for rank in ([0, 1, 2], [1, 0, 2])
    )
    assert (np.asarray(front.layout == CAR) == np.asarray(pixels.mask[1])).all()
    assert (np.asarray(behind.layout) == ROAD).all()
    np.testing.assert_allclose(behind.rgb, 0.2)


@pytest.mark.parametrize("adherence", ["segment", "layout"])
def test_what_fills_a_segment_shows_where_nothing_else_is(adherence):
    """The car's own piece spares its lower rows: another car fills them, and nothing beside it."""
    pixels, segments, layout = two_segments()
    car = np.asarray(segments.component) == 1
    own = pixels.mask.at[0].set(False).at[1, 12:].set(False)
    pixels = pixels.replace(mask=own)
    front = front_of(pixels, [0, 1, 2]) if adherence == "segment" else None
    once = paste(pixels, still(pixels), segments, layout, front)
    more = Pixels(
        photo=jnp.concatenate([pixels.photo, jnp.full_like(pixels.photo, 102)]),
        mask=jnp.concatenate([own, jnp.zeros_like(own).at[1].set(True)]),
    )
    filled = paste(more, still(more), segments, layout, front)
    there = np.asarray(once.source) == 1
    assert (np.asarray(filled.source)[there] == 1).all()
    assert (np.asarray(filled.source)[~there] == np.where(car, 4, -1)[~there]).all()
    np.testing.assert_allclose(np.asarray(filled.rgb)[car & ~there], 0.4)
    np.testing.assert_array_equal(filled.layout, np.where(car, CAR, once.layout))


def test_a_moved_piece_is_cut_where_it_is_warped_to():
    pixels, segments, layout = two_segments()
    moved = still(pixels).at[1, :, 2].set(jnp.array([3.0, -2.0]))  # looks right and up of itself
    expected = np.zeros(SIZE, bool)
    expected[8:16, 9:21] = True
    assert (np.asarray(warp_cut(pixels.mask[1], moved[1])) == expected).all()
    canvas = paste(pixels, moved, segments, layout)
    car = np.asarray(segments.component) == 1
    assert (np.asarray(canvas.source == 1) == (car & expected)).all()


def test_the_frontmost_of_many_is_the_one_of_highest_rank():
    rng = np.random.default_rng(0)
    warped, rank = rng.random((5, *SIZE)) < 0.3, rng.permutation(5)
    found = np.asarray(frontmost(jnp.asarray(warped), jnp.asarray(rank)))
    for y, x in np.ndindex(SIZE):
        there = np.flatnonzero(warped[:, y, x])
        assert found[y, x] == (max(there, key=lambda n: rank[n]) if there.size else -1)
    assert (found == -1).any() and len(np.unique(found)) == 6


def test_colours_do_not_fade_at_the_rim_of_their_photo():
    """A piece moved by half a pixel still covers the last column, in full colour."""
    pixels, segments, layout = two_segments()
    moved = still(pixels).at[0, 0, 2].set(0.5)
    canvas = paste(pixels, moved, segments, layout)
    road = np.asarray(segments.component)[:, -1] == 0
    np.testing.assert_allclose(np.asarray(canvas.rgb)[road, -1], 0.2)


def test_a_moved_edge_is_read_bicubically_and_stays_in_range():
    """Half a pixel from an edge of black and white: Keys' kernel, its overshoot cut off."""
    pixels, segments, layout = two_segments()
    edge = np.zeros((3, *SIZE, 3), np.uint8)
    edge[:, :, SIZE[1] // 2 :] = 255
    moved = still(pixels).at[0, 0, 2].set(0.5)
    canvas = paste(pixels.replace(photo=jnp.asarray(edge)), moved, segments, layout)
    row = np.asarray(canvas.rgb)[np.asarray(segments.component == 0).all(axis=1)][0, :, 0]
    middle = SIZE[1] // 2
    np.testing.assert_allclose(row[middle - 3 : middle + 2], [0, 0, 0.5, 1, 1], atol=1e-6)
    dim = paste(pixels.replace(photo=jnp.asarray(edge // 5 + 50)), moved, segments, layout)
    row = 255 * np.asarray(dim.rgb)[np.asarray(segments.component == 0).all(axis=1)][0, :, 0]
    expected = [50, 50 - 51 / 16, 75.5, 101 + 51 / 16, 101]
    np.testing.assert_allclose(row[middle - 3 : middle + 2], expected, atol=1e-3)


def test_gradients_reach_only_the_piece_in_front():
    pixels, segments, layout = two_segments()
    ramp = jnp.arange(SIZE[1], dtype=jnp.uint8)[:, None] * jnp.ones((3, *SIZE, 3), jnp.uint8)
    pixels = pixels.replace(photo=ramp)

    def total(affine):
        rgb = paste(pixels, affine, segments, layout, front_of(pixels, [0, 1, 2])).rgb
        return jnp.where(pixels.mask[1][..., None], rgb, 0.0).sum()

    gradient = np.asarray(jax.grad(total)(still(pixels)))
    assert gradient[1, 0, 2] == pytest.approx(3 * 8 * 12 / 255)  # the ramp's slope, each pixel
    assert (gradient[[0, 2]] == 0).all()


def test_inner_band_lies_along_boundaries_and_never_along_the_frame():
    pixels, segments, layout = two_segments()
    canvas = paste(pixels, still(pixels), segments, layout, front_of(pixels, [0, 1, 2]))
    elided = elide(jax.random.key(0), canvas, config(), SCENES)  # a band of 2 pixels
    gone = np.asarray(canvas.mask - elided.mask) > 0
    car = np.asarray(pixels.mask[1])
    near = np.zeros(SIZE, bool)
    near[4:16, 10:26] = True
    inside = np.zeros(SIZE, bool)
    inside[8:12, 14:22] = True
    assert (gone == (near & ~inside)).all()
    assert not gone[0].any() and not gone[:, 0].any()
    assert (np.asarray(elided.rgb)[gone] == 1).all()
    assert (np.asarray(elided.source) == np.asarray(canvas.source)).all()
    assert car.sum() > 0


def test_an_inner_band_on_one_side_is_that_of_the_piece_that_begins_higher():
    """The road begins above the car, so the car is whole, and the road's band as wide as before."""
    pixels, segments, layout = two_segments()
    canvas = paste(pixels, still(pixels), segments, layout, front_of(pixels, [0, 1, 2]))
    both, one = (
        np.asarray(elide(jax.random.key(0), canvas, config(inner_sides=sides), SCENES).mask)
        for sides in (2, 1)
    )
    car, whole = np.asarray(canvas.source) == 1, np.asarray(canvas.mask)
    assert car.any() and (one[car] == whole[car]).all()
    np.testing.assert_array_equal(one[~car], both[~car])
    assert (one[~car] < whole[~car]).any() and (both[car] < whole[car]).any()


def test_an_inner_band_on_one_side_leaves_holes_alone_and_what_fills():
    source = np.full(SIZE, -1, np.int32)
    source[4:20, 4:16] = 0
    source[4:20, 16:28] = 3  # fills segment 0 of three
    canvas = Canvas(
        rgb=jnp.ones((*SIZE, 3)) / 2,
        mask=jnp.asarray(source >= 0, jnp.float32),
        source=jnp.asarray(source),
        layout=jnp.full(SIZE, SKY, jnp.uint8),
    )
    elided = elide(jax.random.key(0), canvas, config(inner_sides=1), SCENES)  # a band of 2 pixels
    gone = np.argwhere(np.asarray(canvas.mask - elided.mask) > 0)
    np.testing.assert_array_equal(gone, np.argwhere(np.indices(SIZE)[1] // 2 * (source == 0) == 7))


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
    pixels, segments, layout = two_segments()
    pixels = pixels.replace(mask=pixels.mask.at[1].set(True))
    canvas = paste(pixels, still(pixels), segments, layout)
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
