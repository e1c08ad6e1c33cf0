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


def candidates_of(matches, b):
    """[(row, score)] of each segment of one layout, in order."""
    return [
        [(int(r), int(s)) for r, s in zip(row, score, strict=True) if r >= 0]
        for row, score in zip(np.asarray(matches.row[b]), np.asarray(matches.score[b]), strict=True)
    ]


def twin(matches, b, light, weight, wanted=None):
    """The candidates of each segment of one layout in their new order."""
    light = np.asarray(light).tolist()
    candidates = candidates_of(matches, b)
    area = [int(a) for a in matches.segments.area_px[b]]
    area = [a if some else 0 for a, some in zip(area, candidates, strict=True)]
    share = [a // (sum(area) // 1024 + 1) for a in area]

    def value(candidate, common):
        row, score = candidate
        apart = sum((a - b) ** 2 for a, b in zip(light[row // SEGMENTS], common, strict=True))
        return (
            int(np.float32(score) * 4096 / score_unit(GRID)) - round(1024 * weight) * apart // 1024
        )

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
@pytest.mark.parametrize("weight", [0.1, 1.0, float(MOST_WEIGHT)])
def test_equals_the_twin(seed, weight):
    matches, light = draw_matches(seed), draw_light(seed)
    reference = jnp.array([-1.0, -0.5, -2.0])
    suits = prefer_alike(matches, light, GRID, weight)
    asked = prefer_alike(matches, light, GRID, weight, reference)
    for b in range(3):
        assert candidates_of(suits, b) == twin(matches, b, light, weight)
        assert candidates_of(asked, b) == twin(matches, b, light, weight, to_steps(reference))


def test_eager_is_jit_and_a_batch_its_layouts():
    matches, light = draw_matches(7), draw_light(7)
    eager = prefer_alike(matches, light, GRID, 1.0)
    jitted = jax.jit(prefer_alike, static_argnums=(2, 3))(matches, light, GRID, 1.0)
    jax.tree.map(np.testing.assert_array_equal, eager, jitted)
    for b in range(3):
        one = jax.tree.map(lambda x, b=b: x[b : b + 1], matches)
        alone = prefer_alike(one, light, GRID, 1.0)
        np.testing.assert_array_equal(alone.row[0], eager.row[b])


def test_without_weight_or_difference_the_scores_decide():
    matches = draw_matches(1)
    found = prefer_alike(matches, draw_light(1), GRID, 0.0)
    jax.tree.map(np.testing.assert_array_equal, found, matches)
    alike = jnp.broadcast_to(draw_light(1)[:1], (PHOTOS, 3))
    found = prefer_alike(matches, alike, GRID, 4.0)
    jax.tree.map(np.testing.assert_array_equal, found, matches)


def test_the_order_of_segments_does_not_matter():
    matches, light = draw_matches(2), draw_light(2)
    mixed = np.random.default_rng(0).permutation(SEGMENTS)
    turned = matches.replace(
        segments=matches.segments.replace(area_px=matches.segments.area_px[:, mixed]),
        row=matches.row[:, mixed],
        score=matches.score[:, mixed],
    )
    found, expected = (prefer_alike(m, light, GRID, 1.0) for m in (turned, matches))
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
        row = prefer_alike(matches, light, GRID, weight, reference).row
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
    found = prefer_alike(matches, jnp.asarray(light), GRID, float(MOST_WEIGHT))
    for b in range(3):
        assert candidates_of(found, b) == twin(matches, b, light, MOST_WEIGHT)


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
