"""The joint choice of segments: a twin in Python's integers, and what it promises."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sims_jax.bank.choose import (
    MOST_WEIGHT,
    choose_candidate,
    choose_rows,
    layer_places,
    photo_light,
    prefer_alike,
    row_typicality,
    to_steps,
)
from sims_jax.bank.photo import as_float
from sims_jax.bank.score import score_unit
from sims_jax.ops.light import DARK, measure_light
from sims_jax.types import Matches, Segments

GRID = (24, 32)
PHOTOS, SEGMENTS, CANDIDATES = 9, 6, 4


def draw_matches(seed, batch=3):
    """Candidates of segments in order of their scores, some with fewer of them, some with none."""
    rng = np.random.default_rng(seed)
    shape = (batch, SEGMENTS, CANDIDATES)
    row = rng.integers(0, PHOTOS * SEGMENTS, shape).astype(np.int32)
    score = -np.sort(-rng.integers(0, 2 * score_unit(GRID), shape))
    found = rng.integers(0, CANDIDATES + 1, shape[:2])
    found[0] = CANDIDATES
    found[1:2] = 0  # nothing is found for this layout
    there = np.arange(CANDIDATES) < found[..., None]
    class_id = np.where(rng.random(shape[:2]) < 0.8, 1, -1).astype(np.int32)
    segments = Segments(
        component=np.full((batch, 4, 4), -1, np.int32),
        class_id=class_id,
        area_px=np.where(class_id >= 0, rng.integers(1, 5000, shape[:2]), 0).astype(np.int32),
        box_yx=np.zeros((*shape[:2], 4), np.int32),
        left_out=np.zeros(batch, np.int32),
    )
    matches = Matches(
        segments,
        row=np.where(there, row, -1).astype(np.int32),
        score=np.where(there, score, 0).astype(np.uint32),
        chosen=np.zeros(shape[:2], np.int32),
    )
    return jax.tree.map(jnp.asarray, matches)


def draw_light(seed):
    return jnp.asarray(to_steps(np.random.default_rng(seed).uniform(-3, 0, (PHOTOS, 3))))


def draw_typicality(seed):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 256, (PHOTOS, SEGMENTS), np.uint8))


def by_light(matches, light, weight, reference=None):
    """Ordered by overlap and light alone."""
    none = jnp.zeros((len(light), matches.row.shape[1]), jnp.uint8)
    return prefer_alike(matches, light, none, GRID, weight, 0.0, reference)


def candidates_of(matches, b):
    """[(row, score)] of each segment of one layout, in order."""
    return [
        [(int(r), int(s)) for r, s in zip(row, score, strict=True) if r >= 0]
        for row, score in zip(np.asarray(matches.row[b]), np.asarray(matches.score[b]), strict=True)
    ]


def twin(matches, b, light, typicality, weight, typical_weight, wanted=None):
    """The candidates of each segment of one layout in their new order."""
    light, typical = np.asarray(light).tolist(), np.asarray(typicality).reshape(-1).tolist()
    candidates = candidates_of(matches, b)
    area = [int(a) for a in matches.segments.area_px[b]]
    area = [a if some else 0 for a, some in zip(area, candidates, strict=True)]
    share = [a // (sum(area) // 1024 + 1) for a in area]

    def value(candidate, common):
        row, score = candidate
        apart = sum((a - b) ** 2 for a, b in zip(light[row // SEGMENTS], common, strict=True))
        overlap = int(np.float32(score) * 4096 / score_unit(GRID))
        liked = round(1024 * typical_weight) * typical[row] * 4 // 255
        return overlap + liked - round(1024 * weight) * apart // 1024

    def total(common):
        best = [max((value(one, common) for one in some), default=0) for some in candidates]
        return sum(a * b for a, b in zip(share, best, strict=True))

    if wanted is None:
        lights = [light[row // SEGMENTS] for some in candidates for row, _ in some]
        wanted = max(lights, key=total, default=None)
    else:
        wanted = np.asarray(wanted).tolist()
    return [sorted(some, key=lambda one: -value(one, wanted)) for some in candidates]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "weights", [(0.1, 0.0), (1.0, 0.2), (0.0, 0.5), (float(MOST_WEIGHT), float(MOST_WEIGHT))]
)
def test_equals_the_twin(seed, weights):
    matches, light, typicality = draw_matches(seed), draw_light(seed), draw_typicality(seed)
    reference = jnp.array([-1.0, -0.5, -2.0])
    suits = prefer_alike(matches, light, typicality, GRID, *weights)
    asked = prefer_alike(matches, light, typicality, GRID, *weights, reference)
    for b in range(3):
        looks = matches, b, light, typicality, *weights
        assert candidates_of(suits, b) == twin(*looks)
        assert candidates_of(asked, b) == twin(*looks, to_steps(reference))


def test_eager_is_jit_and_a_batch_its_layouts():
    matches, looks = draw_matches(7), (draw_light(7), draw_typicality(7))
    eager = prefer_alike(matches, *looks, GRID, 1.0, 0.3)
    jitted = jax.jit(prefer_alike, static_argnums=(3, 4, 5))(matches, *looks, GRID, 1.0, 0.3)
    jax.tree.map(np.testing.assert_array_equal, eager, jitted)
    for b in range(3):
        one = jax.tree.map(lambda x, b=b: x[b : b + 1], matches)
        alone = prefer_alike(one, *looks, GRID, 1.0, 0.3)
        np.testing.assert_array_equal(alone.row[0], eager.row[b])


def test_without_weight_or_difference_the_scores_decide():
    matches = draw_matches(1)
    found = by_light(matches, draw_light(1), 0.0)
    jax.tree.map(np.testing.assert_array_equal, found, matches)
    alike = jnp.broadcast_to(draw_light(1)[:1], (PHOTOS, 3))
    usual = jnp.full((PHOTOS, SEGMENTS), 99, jnp.uint8)
    found = prefer_alike(matches, alike, usual, GRID, 4.0, 4.0)
    jax.tree.map(np.testing.assert_array_equal, found, matches)


def test_the_order_of_segments_does_not_matter():
    matches, light = draw_matches(2), draw_light(2)
    mixed = np.random.default_rng(0).permutation(SEGMENTS)
    turned = matches.replace(
        segments=matches.segments.replace(area_px=matches.segments.area_px[:, mixed]),
        row=matches.row[:, mixed],
        score=matches.score[:, mixed],
    )
    found, expected = (by_light(m, light, 1.0) for m in (turned, matches))
    np.testing.assert_array_equal(found.row, expected.row[:, mixed])


def test_one_light_wins():
    """Three segments, each found by day and at dusk; the largest, found by day, has its way."""
    day, dusk = 0, 1
    light = jnp.asarray(to_steps(np.array([[-0.5] * 3, [-1.5] * 3])))
    photo = np.array([[[day, dusk], [dusk, day], [dusk, day]]])
    score = np.array([[[1.2, 1.1], [1.1, 1.0], [1.3, 1.0]]]) * score_unit(GRID)
    matches = draw_matches(0, batch=1)
    matches = matches.replace(
        segments=matches.segments.replace(area_px=jnp.array([[5000, 300, 200]])),
        row=jnp.asarray(photo * 3 + 1, jnp.int32),
        score=jnp.asarray(score.astype(np.uint32)),
    )

    def photos(weight, reference=None):
        row = by_light(matches, light, weight, reference).row
        return (row[0, :, 0] // 3).tolist()

    assert photos(0.0) == [day, dusk, dusk]
    # Dusk is 3 away, so an overlap of 0.1 is given up for the second, 0.3 not yet for the third.
    assert photos(0.05) == [day, day, dusk]
    assert photos(1.0) == [day, day, day]
    assert photos(1.0, jnp.full(3, -1.5)) == [dusk, dusk, dusk]


def test_the_light_of_a_photo_follows_from_its_rows(tiny_stores):
    """Nearly as measured from its pixels, of which no row has the smallest things."""
    store = tiny_stores[0]
    measured = to_steps(measure_light(as_float(jnp.asarray(store.photo))).mean)
    found = photo_light(dataclasses.replace(store, ids=(*store.ids, "without a row")))
    assert np.abs(found[:-1] - measured).max() <= 6  # of 64 steps
    assert np.ptp(measured, axis=0).min() > 12  # they are not all of one light
    assert not found[-1].any()


def test_the_most_extreme_lights_do_not_wrap():
    """White before black, with the largest weight, in 32 bits."""
    matches = draw_matches(3)
    light = to_steps(np.log(DARK + np.array([[1.0] * 3, [0.0] * 3] * 5)[:PHOTOS]))
    most = jnp.full((PHOTOS, SEGMENTS), 255, jnp.uint8)
    weights = float(MOST_WEIGHT), float(MOST_WEIGHT)
    found = prefer_alike(matches, jnp.asarray(light), most, GRID, *weights)
    for b in range(3):
        assert candidates_of(found, b) == twin(matches, b, light, most, *weights)


def test_the_typical_row_of_two_that_overlap_alike_wins():
    """And the one that overlaps more by more than its looks count."""
    matches = draw_matches(0, batch=1)
    row, shape = jnp.array([[[0, 7]]], jnp.int32), (1, 1)
    typicality = jnp.zeros((PHOTOS, 1), jnp.uint8).at[7, 0].set(255)  # one segment a photo
    light = jnp.zeros((PHOTOS, 3), jnp.int32)
    segments = matches.segments.replace(
        class_id=jnp.ones(shape, jnp.int32),
        area_px=jnp.full(shape, 9, jnp.int32),
        box_yx=jnp.zeros((*shape, 4), jnp.int32),
    )
    unit = score_unit(GRID)
    for ahead, first in ((0.1, 7), (0.3, 0)):
        score = jnp.array([[[1.0 + ahead, 1.0]]]) * unit
        two = Matches(segments, row, score.astype(jnp.uint32), jnp.zeros(shape, jnp.int32))
        found = prefer_alike(two, light, typicality, GRID, 1.0, 0.2)
        assert found.row[0, 0, 0] == first


def test_typicality_is_nearness_to_the_class_in_the_light_of_the_photo(tiny_stores):
    store = tiny_stores[0]
    typical = row_typicality(store)
    assert typical.shape == store.row_of.shape and not typical[store.row_of < 0].any()
    light = photo_light(store) / 64
    for class_id in np.unique(store.row_class):
        rows = np.flatnonzero(store.row_class == class_id)
        weight = np.sqrt(store.row_area_px[rows])
        colors = store.row_color_mean[rows] + DARK
        variance = np.diagonal(store.row_color_cov[rows], axis1=1, axis2=2)
        lit = np.clip(np.log(colors) - np.log1p(variance / colors**2) / 2, np.log(0.05), None)
        apart = lit - light[store.row_photo[rows]]
        spread = np.cov(apart.T, ddof=0, aweights=weight) + 0.03**2 * np.eye(3)
        own = apart - np.average(apart, axis=0, weights=weight)
        expected = [np.exp(-x @ np.linalg.solve(spread, x) / 6) for x in own]
        found = typical[store.row_photo[rows], store.row_component[rows]] / 255
        np.testing.assert_allclose(found, expected, atol=0.01)


def test_typicality_does_not_depend_on_the_light_of_a_photo(tiny_stores):
    """A photo, rows and all, in less light; but it does on how a row looks beside the others."""
    store = tiny_stores[0]

    def dimmed(rows):
        share = np.where(rows, 0.8, 1.0)
        return dataclasses.replace(
            store,
            row_color_mean=np.maximum((store.row_color_mean + DARK) * share[:, None] - DARK, 0),
            row_color_cov=store.row_color_cov * share[:, None, None] ** 2,
        )

    def change(store):
        return np.abs(row_typicality(store).astype(int) - row_typicality(tiny_stores[0])).max()

    of_a_photo = dimmed(store.row_photo == 0)
    assert (photo_light(of_a_photo) != photo_light(store))[0].all()
    assert change(of_a_photo) <= 12 < change(dimmed(np.arange(len(store.row_photo)) == 0))


def test_a_filling_is_the_best_that_is_not_used():
    chosen = np.array([0, 1, 2, 3])
    expected = [[0, 1, 2], [1, 0, 2], [2, 0, 1], [3, 0, 1]]
    np.testing.assert_array_equal(np.stack(layer_places(chosen, 3), axis=1), expected)
    np.testing.assert_array_equal(jnp.stack(layer_places(jnp.asarray(chosen), 3), 1), expected)


def test_rows_of_ones_own_choice():
    matches = choose_candidate(draw_matches(0), 2)
    row = jnp.full((3, SEGMENTS), -1).at[0, 1].set(33)
    found = choose_rows(matches, row)
    assert found.row[0, 1, 2] == 33 and found.score[0, 1, 2] == 0
    kept = np.ones(matches.row.shape, bool)
    kept[0, 1, 2] = False
    np.testing.assert_array_equal(found.row[kept], matches.row[kept])
