"""Components against scipy's labelling, and against a slow search for joining."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from sims_jax.ops import components
from sims_jax.ops.components import (
    component_boxes,
    join_across,
    label_components,
    rank_components,
)
from sims_jax.ops.resize import resize_labels

SQUARE = np.ones((3, 3))
POLE, SIGN, VOID = 2, 6, 11  # ids in the CamVid files
CAMVID_LAYOUTS = 4

label = jax.jit(label_components)
join = jax.jit(join_across)
rank = jax.jit(rank_components, static_argnums=(1, 2))


def label_slowly(values, mask):
    """`label_components` by scipy, one value at a time."""
    raster = np.arange(values.size).reshape(values.shape)
    roots = np.full(values.shape, values.size, np.int32)
    for value in np.unique(values[mask]):
        number, count = ndimage.label((values == value) & mask, SQUARE)
        first = ndimage.minimum(raster, number, np.arange(1, count + 1))
        roots[number > 0] = np.asarray(first)[number[number > 0] - 1]
    return roots


def join_slowly(roots, kinds, bridges):
    """`join_across` by merging, until nothing changes, whatever touches the same bridge."""
    roots = roots.copy()
    number, count = ndimage.label(bridges, SQUARE)
    touched = [ndimage.binary_dilation(number == i + 1, SQUARE) for i in range(count)]
    changed = True
    while changed:
        changed = False
        for near in touched:
            for kind in np.unique(kinds[near & (roots < roots.size)]):
                members = np.unique(roots[near & (kinds == kind) & (roots < roots.size)])
                changed |= len(members) > 1
                roots[np.isin(roots, members)] = members.min()
    return roots


def rank_slowly(roots, min_area_px, max_components):
    first, area = np.unique(roots[roots < roots.size], return_counts=True)
    first, area = first[area >= min_area_px], area[area >= min_area_px]
    kept = np.sort(np.argsort(-area, kind="stable")[:max_components])
    index = np.full(roots.shape, -1, np.int32)
    for number, one in enumerate(kept):
        index[roots == first[one]] = number
    return index, area[kept], first[kept], len(first) - len(kept)


def serpentine(height, width):
    """A path one pixel wide that fills the frame with `height` / 2 turns."""
    path = np.zeros((height, width), np.int32)
    path[::2] = 1
    path[1::4, -1] = 1
    path[3::4, 0] = 1
    return path


def spiral(height, width):
    """A path one pixel wide that winds inwards from the upper left corner."""
    path = np.zeros((height + 4, width + 4), np.int32)  # two pixels of border, taken off below
    y, x, dy, dx = 2, 2, 0, 1
    path[[0, 1, -2, -1]] = path[:, [0, 1, -2, -1]] = 2
    path[y, x] = 1
    turns = 0
    while turns < 2:
        free = path[y + dy, x + dx] == 0 and path[y + 2 * dy, x + 2 * dx] != 1
        if free:
            y, x, turns = y + dy, x + dx, 0
            path[y, x] = 1
        else:
            dy, dx, turns = dx, -dy, turns + 1
    return path[2:-2, 2:-2]


def hard_cases():
    """Long paths, and many meetings of trees; all of one size."""
    shape = 64, 96
    y, x = np.indices(shape)
    rng = np.random.default_rng(0)
    cases = {
        "spiral": spiral(*shape),
        "serpentine": serpentine(*shape),
        "upright serpentine": serpentine(*shape[::-1]).T,
        "checkerboard": (y + x) % 2,
        "diagonals": (y + x) % 3,
        "combs": np.where(y < 32, x % 2, 1),
        "zigzag": (y + np.abs(x % 16 - 8)) % 4 // 2,
    }
    for density in (0.3, 0.4, 0.5, 0.7):
        cases[f"noise {density}"] = rng.random(shape) < density
    return {name: np.array(case, np.int32) for name, case in cases.items()}


def random_cases():
    rng = np.random.default_rng(0)
    shapes = [(1, 1), (1, 9), (9, 1), (2, 150), (150, 2), (40, 31)]
    cases = [rng.integers(0, count, shape) for shape in shapes for count in (2, 3, 6)]
    return [case.astype(np.int32) for case in cases]


@pytest.mark.parametrize("values", random_cases())
def test_label_is_scipys(values):
    for mask in (values > 0, values >= 0, np.zeros(values.shape, bool)):
        roots = label(jnp.asarray(values), jnp.asarray(mask))
        assert roots.dtype == jnp.int32
        np.testing.assert_array_equal(roots, label_slowly(values, mask))


@pytest.mark.parametrize("transpose", [False, True])
def test_label_serpentine(transpose):
    path = serpentine(65, 128)
    path = path.T if transpose else path
    roots = label(jnp.asarray(path), jnp.asarray(path > 0))
    np.testing.assert_array_equal(roots, np.where(path > 0, 0, path.size))


@pytest.mark.parametrize("shape", [(3, 700), (700, 3)])
def test_label_long_runs(shape):
    values = np.random.default_rng(0).random(shape) < 0.01
    for mask in (np.ones(shape, bool), ~values):
        roots = label(jnp.asarray(values, jnp.int32), jnp.asarray(mask))
        np.testing.assert_array_equal(roots, label_slowly(values, mask))


@pytest.mark.parametrize("name", hard_cases())
def test_label_hard_cases(name):
    for values in (hard_cases()[name], hard_cases()[name][::-1, ::-1], hard_cases()[name][:, ::-1]):
        mask = np.ones(values.shape, bool)
        roots = label(jnp.asarray(values), jnp.asarray(mask))
        np.testing.assert_array_equal(roots, label_slowly(values, mask))


def test_label_joins_batch_after_batch(monkeypatch):
    monkeypatch.setattr(components, "_BATCH", 8)
    values = hard_cases()["noise 0.5"]  # 831 meetings
    mask = values >= 0
    roots = jax.jit(lambda *arrays: label_components(*arrays))(values, mask)
    np.testing.assert_array_equal(roots, label_slowly(values, mask))


@pytest.mark.parametrize("transpose", [False, True])
def test_label_needs_few_rounds(transpose):
    """Rounds of the loops on a path of 65,000 pixels, counted through a callback."""
    path = serpentine(512, 256).T if transpose else serpentine(256, 512)
    rounds = []

    def counted_loop(condition, body, start):
        def counted(state):
            jax.debug.callback(lambda: rounds.append(0))
            return body(state)

        return while_loop(condition, counted, start)

    while_loop = jax.lax.while_loop
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.lax, "while_loop", counted_loop)
        label_components(jnp.asarray(path), jnp.asarray(path > 0)).block_until_ready()
    jax.effects_barrier()
    assert 2 < len(rounds) <= 15


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind_count", [2, 9])
def test_join_is_the_slow_one(seed, kind_count):
    check_join(seed, kind_count, join)


def test_join_of_more_than_a_batch(monkeypatch):
    """All contacts are joined at once even where they are more than `_BATCH`."""
    monkeypatch.setattr(components, "_BATCH", 8)
    join_many = jax.jit(lambda *arrays: join_across(*arrays))
    for seed in range(6):
        check_join(seed, 9, join_many)


def check_join(seed, kind_count, join):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, kind_count, (9, 12)).astype(np.int32)
    values = np.kron(coarse, np.ones((3, 3), np.int32))
    bridges = rng.random(values.shape) < rng.choice([0.05, 0.2, 0.4])
    kinds = np.where(bridges & (rng.random(values.shape) < 0.7), kind_count, values)
    kinds = kinds.astype(np.int32) * 65537 - 3  # large and negative ids are ids, too
    mask = rng.random(values.shape) < 0.9
    roots = label_slowly(kinds, mask)
    joined = join(jnp.asarray(roots), jnp.asarray(kinds), jnp.asarray(bridges))
    np.testing.assert_array_equal(joined, join_slowly(roots, kinds, bridges))


def join_rows(rows, bridge="|"):
    """Joins a drawing: letters are kinds, `|` the bridge, `.` void."""
    drawn = np.array([[ord(letter) for letter in row] for row in rows], np.int32)
    roots = label(jnp.asarray(drawn), jnp.asarray(drawn != ord(".")))
    joined = join(roots, jnp.asarray(drawn), jnp.asarray(drawn == ord(bridge)))
    return np.asarray(joined)


def test_join_across_a_pole():
    joined = join_rows(["aaa|aaa", "bbb|bbb", "aaa|aaa"])
    assert joined[0, 0] == joined[0, 6] == joined[2, 0] == joined[2, 6] == 0
    assert joined[1, 0] == joined[1, 6] == 7


def test_join_is_transitive_and_needs_contact():
    joined = join_rows(["a|a|a.a", ".......", "......."])
    assert joined[0, 0] == joined[0, 2] == joined[0, 4] == 0
    assert joined[0, 6] == 6


def test_join_without_bridges_changes_nothing():
    values = random_cases()[-1]
    roots = label(jnp.asarray(values), jnp.asarray(values > 0))
    joined = join(roots, jnp.asarray(values), jnp.zeros(values.shape, bool))
    np.testing.assert_array_equal(joined, roots)


@pytest.mark.parametrize("values", random_cases())
@pytest.mark.parametrize(("min_area_px", "max_components"), [(1, 4), (3, 64), (10**6, 2)])
def test_rank_and_boxes(values, min_area_px, max_components):
    roots = label_slowly(values, values > 0)
    index, area, first, left_out = rank_slowly(roots, min_area_px, max_components)
    found = rank(jnp.asarray(roots), min_area_px, max_components)
    np.testing.assert_array_equal(found[0], index)
    missing = (0, max_components - len(area))
    np.testing.assert_array_equal(found[1], np.pad(area, missing))
    np.testing.assert_array_equal(found[2], np.pad(first, missing, constant_values=values.size))
    assert found[3] == left_out
    boxes = np.zeros((max_components, 4), np.int32)
    for number, (y, x) in enumerate(ndimage.find_objects(index + 1)):
        boxes[number] = y.start, x.start, y.stop, x.stop
    np.testing.assert_array_equal(component_boxes(found[0], max_components), boxes)


def test_rank_prefers_the_earlier_of_equal_ones():
    roots = jnp.asarray([[0, 6, 2, 6, 4, 4]], jnp.int32)
    index, area, first, left_out = rank(roots, 1, 2)
    np.testing.assert_array_equal(index, [[0, -1, -1, -1, 1, 1]])
    np.testing.assert_array_equal(area, [1, 2])
    np.testing.assert_array_equal(first, [0, 4])
    assert left_out == 1


def test_eager_jit_vmap_agree():
    values = jnp.asarray(np.random.default_rng(0).integers(0, 4, (3, 14, 11)), jnp.int32)

    def segment(values):
        roots = join_across(label_components(values, values > 0), values, values == 1)
        return rank_components(roots, 2, 5)

    single, batched = jax.jit(segment), jax.jit(jax.vmap(segment))(values)
    for i, one in enumerate(values):
        for a, b in zip(single(one), batched, strict=True):
            np.testing.assert_array_equal(a, b[i])
    eager = label_components(values[0], values[0] > 0)
    np.testing.assert_array_equal(eager, label(values[0], values[0] > 0))


def test_real_layouts(camvid_root):
    files = sorted((camvid_root / "trainannot").glob("*.png"))
    chosen = files[:: len(files) // CAMVID_LAYOUTS][:CAMVID_LAYOUTS]
    layouts = np.stack([np.asarray(Image.open(file)).astype(np.int32) for file in chosen])
    layouts = resize_labels(layouts, (120, 160))
    mask, bridges = layouts != VOID, np.isin(layouts, (POLE, SIGN))
    roots = jax.jit(jax.vmap(label_components))(layouts, mask)
    joined = jax.jit(jax.vmap(join_across))(roots, layouts, bridges)
    for i in range(len(layouts)):
        np.testing.assert_array_equal(roots[i], label_slowly(layouts[i], mask[i]))
        slow = join_slowly(np.asarray(roots[i]), layouts[i], bridges[i])
        np.testing.assert_array_equal(joined[i], slow)
    assert (np.asarray(joined) != np.asarray(roots)).any()
