"""Retrieval against a slow twin: python loops over raw layouts, integers, the contract alone."""

import dataclasses
import math
import pathlib
import re
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from test_segments import LABELS, blocky_layouts, jitted_split, toy_spec, twin_split

from sims_jax.bank import compare, search
from sims_jax.bank.blocks import match_streamed, open_blocks
from sims_jax.bank.cover import candidate_cells
from sims_jax.bank.device import empty_bank, to_device
from sims_jax.bank.grid import CONTEXT_FRAC
from sims_jax.bank.match import match
from sims_jax.bank.photo import describe_photo, prepare_example
from sims_jax.bank.score import score_pairs
from sims_jax.bank.store import Store, sort_rows
from sims_jax.labels import CAMVID, VOID, LabelSpace
from sims_jax.ops.boxes import enlarge_box
from sims_jax.pipeline import gather
from sims_jax.types import BankSpec


def nearest(image, grid):
    height, width = image.shape
    rows = [((2 * i + 1) * height) // (2 * grid[0]) for i in range(grid[0])]
    columns = [((2 * j + 1) * width) // (2 * grid[1]) for j in range(grid[1])]
    return image[np.ix_(rows, columns)]


def twin_context(mask, grid):
    """The cells inside the enlarged box of a mask, as a mask."""
    inside = np.zeros(grid, bool)
    ys, xs = np.nonzero(mask)
    if ys.size:
        (y0, y1), (x0, x1) = (ys.min(), ys.max() + 1), (xs.min(), xs.max() + 1)
        dy, dx = (y1 - y0) / 8, (x1 - x0) / 8
        top, left = max(0, int(np.floor(y0 - dy))), max(0, int(np.floor(x0 - dx)))
        inside[top : int(np.ceil(y1 + dy)), left : int(np.ceil(x1 + dx))] = True
    return inside


def twin_segments(layout, spec, instance=None):
    """(class, grid mask, context mask, labels, component) of each segment of one layout."""
    component, class_id, *_ = twin_split(layout, spec, instance)
    cells, labels = nearest(component, spec.grid), nearest(layout, spec.grid)
    masks = [cells == n for n in range((class_id >= 0).sum())]
    return [
        (class_id[n], mask, twin_context(mask, spec.grid), labels, n)
        for n, mask in enumerate(masks)
    ]


def twin_score(query, row, spec):
    _, mask, inside, labels, _ = query
    _, other_mask, other_inside, other_labels, _ = row
    shift = 31 - int(spec.grid[0] * spec.grid[1]).bit_length()
    a, b = int((mask & other_mask).sum()), int((mask | other_mask).sum())
    equal = inside & other_inside & (labels == other_labels) & (labels != VOID)
    c = int(equal.sum())
    labelled = int((inside & (labels != VOID)).sum())
    d = labelled + int((other_inside & (other_labels != VOID)).sum()) - c
    return ((a << shift) // b if b else 0) + ((c << shift) // d if d else 0)


def twin_match(photos, layouts, spec, candidates, exclude):
    """For each layout and segment the best (score, photo, component), best first."""
    bank = [(p, row) for p, layout in enumerate(photos) for row in twin_segments(layout, spec)]
    result = []
    for b, layout in enumerate(layouts):
        found = []
        for query in twin_segments(layout, spec):
            scored = [
                (-twin_score(query, row, spec), p, row[4])
                for p, row in bank
                if row[0] == query[0] and not exclude[b, p]
            ]
            found.append([(-s, p, c) for s, p, c in sorted(scored)[:candidates]])
        result.append(found)
    return result


def assert_equals_twin(rows, matches, twin):
    limit = rows.spec.max_segments
    row, score = np.asarray(matches.row), np.asarray(matches.score)
    for b, found in enumerate(twin):
        for n in range(row.shape[1]):
            expected = found[n] if n < len(found) else []
            got = [
                (int(s), int(r) // limit, int(r) % limit)
                for r, s in zip(row[b, n], score[b, n], strict=True)
                if r >= 0
            ]
            assert got == expected, (b, n)
            assert (row[b, n, len(got) :] == -1).all()
            assert (score[b, n, len(got) :] == 0).all()


def bank_of(layouts, spec, devices=None):
    return to_device(store_of(layouts, spec), devices or jax.devices()[:1])


def store_of(layouts, spec):
    """A store in memory, whose photos have no pixels worth looking at."""
    segments = jax.device_get(jitted_split(layouts, spec=spec))
    geometry, appearance = [], []
    for p, layout in enumerate(layouts):
        example = {"id": f"{p:04d}", "video": "v", "frame": p, "layout": layout}
        example["photo"] = np.zeros((*layout.shape, 3), np.uint8)
        one = jax.tree.map(lambda leaf, p=p: leaf[p], segments)
        arrays, _ = describe_photo(prepare_example(example, spec), one)
        geometry.append(np.insert(arrays["row_geometry"], 0, p, axis=1))
        appearance.append(arrays["row_appearance"])
    count = len(layouts)
    return Store(
        folder=pathlib.Path("memory"),
        spec=spec,
        digest="",
        ids=tuple(f"{p:04d}" for p in range(count)),
        videos=("v",) * count,
        frames=np.arange(count, dtype=np.int32),
        photo=np.zeros((*layouts.shape, 3), np.uint8),
        layout=layouts,
        component=segments.component.astype(np.int16),
        instances=None,
        depth=None,
        coarse=None,
        **sort_rows(np.concatenate(geometry), np.concatenate(appearance), count, spec),
    )


@pytest.fixture(scope="module")
def toy():
    return make_toy()


def make_toy():
    """Photos with planted copies (ties), two query layouts, one of them a photo's."""
    spec = toy_spec()
    photos = blocky_layouts(5, 9, spec.image_size)
    photos[4] = photos[1]
    photos[7] = photos[1]
    photos[8] = VOID
    return spec, photos, np.stack([photos[1], blocky_layouts(6, 1, spec.image_size)[0]])


jitted_match = jax.jit(match, static_argnames="candidates")


@pytest.mark.parametrize("candidates", [1, 5, 600])
def test_match_equals_twin(toy, candidates):
    spec, photos, queries = toy
    bank = bank_of(photos, spec)
    twin = twin_match(photos, queries, spec, candidates, np.zeros((2, 9), bool))
    matches = jitted_match(bank.rows, queries, candidates=candidates)
    assert_equals_twin(bank.rows, matches, twin)
    best = np.asarray(matches.row)[0, :3, 0] // spec.max_segments
    assert (best == 1).all()  # of three copies the first
    assert not np.asarray(matches.chosen).any()


def test_match_excludes_photos(toy):
    spec, photos, queries = toy
    exclude = np.zeros((2, 9), bool)
    exclude[0, [1, 4]] = True
    exclude[1] = True
    bank = bank_of(photos, spec)
    matches = jitted_match(bank.rows, queries, candidates=4, exclude=exclude)
    assert_equals_twin(bank.rows, matches, twin_match(photos, queries, spec, 4, exclude))
    assert (np.asarray(matches.row)[1] == -1).all()


def test_match_with_instances_equals_splitting_by_them(toy):
    spec, photos, queries = toy
    instances = np.zeros(queries.shape, np.uint16)
    instances[:, :, 16:] = 1
    bank = bank_of(photos, spec)
    matches = jitted_match(bank.rows, queries, candidates=3, instances=instances)
    query = twin_segments(queries[1], spec, instances[1])
    valid = np.asarray(matches.segments.valid)[1]
    assert valid.sum() == len(query)
    assert (np.asarray(matches.row)[1, valid, 0] >= 0).all()


def test_eight_devices_equal_one(toy):
    spec, photos, queries = toy
    if len(jax.devices()) < 8:
        pytest.skip("needs 8 devices")
    one, eight = bank_of(photos, spec), bank_of(photos, spec, jax.devices()[:8])
    assert len(eight.rows.mask.sharding.device_set) == 8
    exclude = np.zeros((2, 9), bool)
    exclude[0, 2] = True
    expected = jitted_match(one.rows, queries, candidates=6, exclude=exclude)
    found = jitted_match(eight.rows, queries, candidates=6, exclude=exclude)
    jax.tree.map(np.testing.assert_array_equal, expected, found)


@pytest.fixture(scope="module")
def crowd():
    """More rows than a class's tile holds, many of them equal, and queries."""
    spec = toy_spec()
    photos = blocky_layouts(11, 120, spec.image_size, block=8)
    photos[60:90] = photos[:30]
    queries = blocky_layouts(12, 2, spec.image_size, block=8)
    return spec, photos, queries, twin_match(photos, queries, spec, 7, np.zeros((2, 120), bool))


@pytest.mark.parametrize("devices", [1, 3])
def test_match_of_many_tiles_equals_twin(crowd, devices):
    spec, photos, queries, twin = crowd
    rows = bank_of(photos, spec, jax.devices()[:devices]).rows
    assert np.diff(np.asarray(rows.first_tile), axis=1).max() > 1
    assert_equals_twin(rows, jitted_match(rows, queries, candidates=7), twin)


def test_many_rounds_equal_one(crowd, monkeypatch):
    spec, photos, queries, twin = crowd
    for name in ("_TILES_A_ROUND", "_MASKS_A_ROUND", "_CONTEXTS_A_ROUND", "_WON_A_ROUND"):
        monkeypatch.setattr(search, name, 1)
    monkeypatch.setattr(search, "_GROUP", 5)
    for name in ("_QUERIES_A_PIECE", "_TILES_A_PIECE", "_PAIRS_A_PIECE"):
        monkeypatch.setattr(search, name, 3)
    monkeypatch.setattr(compare, "_STEP", 3)
    rows = bank_of(photos, spec).rows
    rounds = jax.jit(lambda rows, queries: match(rows, queries, candidates=7))
    jax.clear_caches()  # what is traced with other numbers
    try:
        assert_equals_twin(rows, rounds(rows, queries), twin)
    finally:
        jax.clear_caches()


def test_an_accelerators_way_equals_a_cpus(crowd):
    spec, photos, queries, twin = crowd
    rows = bank_of(photos, spec).rows.replace(on_cpu=False)
    accelerated = jax.jit(lambda rows, queries: match(rows, queries, candidates=7))
    assert_equals_twin(rows, accelerated(rows, queries), twin)


@pytest.mark.parametrize("devices", [1, 3])
def test_a_first_floor_rules_rows_out(crowd, monkeypatch, devices):
    """Few tiles looked at first, photos excluded, on shares without some classes, too."""
    spec, photos, queries, _ = crowd
    monkeypatch.setattr(search, "_FIRST_TILE_OF", 2)
    monkeypatch.setattr(search, "_FIRST_TILES", (1, 2))
    floors = []
    look_first = search._look_first

    def keep(*arguments):
        best = look_first(*arguments)
        jax.debug.callback(lambda score: floors.append(np.asarray(score)), best.score[:, -1])
        return best

    monkeypatch.setattr(search, "_look_first", keep)
    exclude = np.zeros((2, 120), bool)
    exclude[0, 60:] = exclude[1, ::2] = True
    rows = bank_of(photos, spec, jax.devices()[:devices]).rows
    found = jax.jit(lambda *x: match(*x[:2], candidates=2, exclude=x[2]))(rows, queries, exclude)
    jax.block_until_ready(found)
    assert_equals_twin(rows, found, twin_match(photos, queries, spec, 2, exclude))
    assert max(floor.max() for floor in floors) > 0


def test_devices_exchange_candidates_their_cells_and_winners_alone(toy):
    """From the compiled program: bytes depend on K and the devices, not on the bank."""
    spec, photos, queries = toy

    def exchanged(count):
        bank = bank_of(np.tile(photos, (count, 1, 1)), spec, jax.devices()[:8])

        def run(bank, queries):
            matches = match(bank.rows, queries, candidates=6)
            return gather(bank, matches), candidate_cells(bank, matches.row)

        text = jax.jit(run).lower(bank, queries).compile().as_text()
        pattern = r"= (.*?) (?:all-gather|all-reduce|all-to-all|collective-permute)(?:-start)?\("
        shapes = [shape for found in re.findall(pattern, text) for shape in read_shapes(found)]
        return sorted(shapes)

    found = exchanged(1)
    segments = queries.shape[0] * spec.max_segments
    candidates = 2 * segments * 8 * 6 * 4  # scores and rows of all devices
    pixels = segments * math.prod(spec.image_size) * 4  # photo and mask, a byte each
    cells = segments * 6 * math.ceil(math.prod(spec.grid) / 32) * 4  # a bit each
    assert sum(found) == candidates + pixels + cells
    assert exchanged(4) == found


def read_shapes(text):
    """Bytes of each array in an HLO shape such as `(u32[2,3]{1,0}, u8[4]{0})`."""
    sizes = {"u8": 1, "s8": 1, "pred": 1, "u32": 4, "s32": 4, "f32": 4}
    return [
        sizes[kind] * math.prod(int(side) for side in sides.split(",") if side)
        for kind, sides in re.findall(r"(\w+)\[([\d,]*)\]", text)
    ]


def test_two_processes_equal_one(toy, tmp_path):
    """`jax.distributed`: half the devices, and so half the rows, in each of two processes."""
    spec, photos, queries = toy
    expected = jitted_match(bank_of(photos, spec).rows, queries, candidates=6)
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    commands = [
        [sys.executable, __file__, address, str(index), str(tmp_path / f"{index}.npz")]
        for index in range(2)
    ]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE) for command in commands]
    for process in running:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()
    for index in range(2):
        with np.load(tmp_path / f"{index}.npz") as found:
            np.testing.assert_array_equal(found["row"], expected.row)
            np.testing.assert_array_equal(found["score"], expected.score)
            np.testing.assert_array_equal(found["streamed"], expected.row)


def match_in_one_of_two_processes(address, index, path):
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(address, 2, int(index))
    assert len(jax.devices()) == 4 and len(jax.local_devices()) == 2
    spec, photos, queries = make_toy()
    store = dataclasses.replace(store_of(photos, spec), folder=pathlib.Path(path).parent)
    matches = jitted_match(to_device(store).rows, queries, candidates=6)
    streamed = match_streamed(open_blocks(store, block_photos=4), queries, candidates=6)
    np.savez(path, row=matches.row, score=matches.score, streamed=streamed.row)


def test_more_devices_than_photos(toy):
    spec, photos, queries = toy
    few = photos[:3]
    twin = twin_match(few, queries, spec, 4, np.zeros((2, 3), bool))
    rows = bank_of(few, spec, jax.devices()[:8]).rows
    assert_equals_twin(rows, jitted_match(rows, queries, candidates=4), twin)


def test_many_classes_share_counts(crowd):
    """With more classes than are counted apart, answers are the twin's all the same."""
    names = tuple(f"class {index}" for index in range(19))
    palette = tuple((index, 0, 0) for index in range(19))
    spec = dataclasses.replace(crowd[0], labels=LabelSpace("many", names, palette))
    layouts = blocky_layouts(13, 42, spec.image_size, block=8, classes=19)
    photos, queries = layouts[:40], layouts[40:]
    twin = twin_match(photos, queries, spec, 5, np.zeros((2, 40), bool))
    rows = bank_of(photos, spec).rows
    assert_equals_twin(rows, jitted_match(rows, queries, candidates=5), twin)


def test_eager_equals_jit(toy):
    spec, photos, queries = toy
    bank = bank_of(photos, spec)
    eager = match(bank.rows, jnp.asarray(queries[:1]), candidates=3)
    jitted = jitted_match(bank.rows, queries[:1], candidates=3)
    jax.tree.map(np.testing.assert_array_equal, eager, jitted)


def test_empty_bank_gives_nothing(toy):
    spec, _, queries = toy
    matches = jitted_match(empty_bank(spec).rows, queries, candidates=3)
    assert (np.asarray(matches.row) == -1).all()
    assert (np.asarray(matches.score) == 0).all()
    assert matches.row.shape == (2, spec.max_segments, 3)


def test_segments_between_the_cells_score_zero_but_stay_candidates():
    spec = BankSpec(LABELS, (24, 32), (3, 4), 8, 0.0)
    layouts = np.full((1, 24, 32), VOID, np.uint8)
    layouts[0, 0, :3] = 5
    bank = bank_of(layouts, spec)
    matches = jitted_match(bank.rows, layouts, candidates=2)
    assert np.asarray(matches.row)[0, 0].tolist() == [0, -1]
    assert np.asarray(matches.score)[0, 0].tolist() == [0, 0]


def test_match_refuses_another_size(toy):
    spec, _, queries = toy
    with pytest.raises(ValueError, match="expected"):
        match(empty_bank(spec).rows, jnp.asarray(queries[:, 1:]))


def test_score_pairs_spans_the_integers():
    for grid in [(1, 2), (12, 16), (60, 80), (128, 256), (256, 512)]:
        cells = grid[0] * grid[1]
        shift = 31 - cells.bit_length()
        counts = np.array([[cells, cells], [0, 0], [1, cells], [cells - 1, cells], [0, 5]])
        a, b = jnp.asarray(counts.T, jnp.int32)
        found = np.asarray(score_pairs(a, b, a, b, grid))
        ratio = [(int(x) << shift) // int(y) if y else 0 for x, y in counts]
        assert found.dtype == np.uint32
        assert found.tolist() == [2 * value for value in ratio]


def test_contexts_round_outwards_and_clip():
    boxes = jnp.array([[8, 8, 16, 16], [3, 3, 4, 5], [0, 0, 20, 20], [0, 0, 0, 0]], jnp.int32)
    found = np.asarray(enlarge_box(boxes, CONTEXT_FRAC, (20, 18)))
    expected = [[7, 7, 17, 17], [2, 2, 5, 6], [0, 0, 20, 18], [0, 0, 0, 0]]
    assert found.tolist() == expected


def test_match_equals_twin_on_camvid(camvid_root):
    spec = BankSpec(CAMVID, (60, 80), (15, 20), 24, 0.002)
    paths = sorted((camvid_root / "trainannot").glob("*.png"))[::12]
    layouts = np.stack([np.asarray(Image.open(path)) for path in paths])
    layouts = np.stack([nearest(layout, spec.image_size) for layout in layouts]).astype(np.uint8)
    layouts[layouts >= CAMVID.num_classes] = VOID
    photos, queries = layouts[:20], layouts[20:23]
    bank = bank_of(photos, spec)
    twin = twin_match(photos, queries, spec, 10, np.zeros((3, 20), bool))
    matches = jitted_match(bank.rows, queries, candidates=10)
    assert_equals_twin(bank.rows, matches, twin)


if __name__ == "__main__":
    match_in_one_of_two_processes(*sys.argv[1:])
