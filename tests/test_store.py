"""Banks on disk: round trips, kills, damage, and the donors kept beside them."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_match import assert_equals_twin, jitted_match, twin_match
from test_segments import blocky_layouts, toy_spec, twin_split

from sims_jax.bank.build import build_bank, build_bank_together
from sims_jax.bank.description import (
    BANK_FILE,
    PARTS_FOLDER,
    digest_bank,
    spec_from_json,
    spec_to_json,
)
from sims_jax.bank.device import empty_bank, to_device
from sims_jax.bank.disk import DiskBank
from sims_jax.bank.donors import DonorConfig, find_donors, line_up
from sims_jax.bank.parts import read_part, write_part
from sims_jax.bank.store import OnDisk, open_bank
from sims_jax.errors import InputError
from sims_jax.labels import VOID
from sims_jax.ops.morphology import smooth_labels
from sims_jax.types import TILE

PHOTOS = 11
SPEC = toy_spec()


class ToySource:
    """Two videos of blocky photos with instances and depth; stops where it is told to."""

    def __init__(self, count=PHOTOS, killed_at=None, seed=0, size=SPEC.image_size):
        rng = np.random.default_rng(seed)
        self.layouts = blocky_layouts(seed, count, size)
        self.photos = rng.integers(0, 256, (count, *size, 3)).astype(np.uint8)
        self.depths = rng.uniform(1, 50, (count, *size)).astype(np.float32)
        self.depths[rng.random(self.depths.shape) < 0.2] = 0
        self.instances = rng.integers(0, 3, (count, *size)).astype(np.uint16)
        self.instances[:] = self.instances[:, :1, :1]
        self.killed_at = killed_at

    def __len__(self):
        return len(self.layouts)

    def __getitem__(self, index):
        if index == self.killed_at:
            raise KeyboardInterrupt
        return {
            # Ids neither in the order of the source nor fit to be file names.
            "id": f"street/{(index * 7) % 11:02d}",
            "photo": self.photos[index],
            "layout": self.layouts[index],
            "instances": self.instances[index],
            "depth": self.depths[index],
            "video": "ab"[index % 2],
            "frame": 30 * index,
        }


def build(folder, source=None, spec=SPEC, **options):
    options = {"source_name": "toy", "licence": "CC0"} | options
    return build_bank(ToySource() if source is None else source, spec, folder, **options)


@pytest.fixture(scope="module")
def bank_folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("bank") / "bank")


@pytest.fixture
def copy(bank_folder, tmp_path):
    return pathlib.Path(shutil.copytree(bank_folder, tmp_path / "copy"))


def test_round_trip(bank_folder):
    source, store = ToySource(), open_bank(bank_folder)
    assert store.spec == SPEC
    assert list(store.ids) == sorted(store.ids)
    assert len(store.ids) == PHOTOS
    assert store.coarse.shape == store.layout.shape  # simulated where a dataset has none
    rows = 0
    for index in range(PHOTOS):
        example = source[index]
        photo = store.ids.index(example["id"])
        assert (store.videos[photo], store.frames[photo]) == (example["video"], example["frame"])
        for field in ("photo", "layout", "instances", "depth"):
            np.testing.assert_array_equal(getattr(store, field)[photo], example[field])
        component, class_id, area, box, _ = twin_split(
            example["layout"], SPEC, example["instances"]
        )
        np.testing.assert_array_equal(store.component[photo], component)
        for n in np.flatnonzero(class_id >= 0):
            row = store.row_of[photo, n]
            assert store.row_photo[row] == photo
            assert store.row_component[row] == n
            assert store.row_class[row] == class_id[n]
            assert store.row_area_px[row] == area[n]
            assert store.row_box_yx[row].tolist() == box[n].tolist()
            known = example["depth"][(component == n) & (example["depth"] > 0)]
            np.testing.assert_allclose(store.row_depth_m[row], np.median(known), rtol=1e-6)
            rows += 1
        assert (store.row_of[photo, class_id < 0] == -1).all()
    assert rows == store.row_photo.size
    order = np.lexsort((store.row_component, store.row_photo, store.row_class))
    np.testing.assert_array_equal(order, np.arange(rows))


def test_color_statistics_are_the_segments(bank_folder):
    store = open_bank(bank_folder)
    for row in range(0, store.row_photo.size, 17):
        photo = store.row_photo[row]
        colors = store.photo[photo][store.component[photo] == store.row_component[row]] / 255
        np.testing.assert_allclose(store.row_color_mean[row], colors.mean(axis=0), atol=1e-6)
        cov = np.cov(colors.T, ddof=0)
        np.testing.assert_allclose(store.row_color_cov[row], cov, atol=1e-6)


def test_killed_build_continues_to_the_same_bank(bank_folder, tmp_path):
    folder = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        build(folder, ToySource(killed_at=9))
    assert len(list((folder / PARTS_FOLDER).iterdir())) == 8  # one batch
    with pytest.raises(InputError, match="unfinished"):
        open_bank(folder)
    half = folder / PARTS_FOLDER / ".tmp-street%2F02"
    half.mkdir()
    (half / "photo").write_text("half")
    stray = folder / PARTS_FOLDER / ".tmp-other"
    stray.mkdir()
    kept = {path: path.stat().st_mtime_ns for path in (folder / PARTS_FOLDER).glob("street*")}
    build(folder)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    one, other = open_bank(folder), open_bank(bank_folder)
    assert one.digest == other.digest
    for field in ("photo", "component", "row_color_cov", "row_of"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


# Builds a share of the toy bank, and is killed before the N-th time that a file is renamed.
KILLED_BUILD = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_store import build

folder, index, count, left = sys.argv[1], *map(int, sys.argv[2:])

def kill_in_time(event, arguments):
    global left
    if event == "os.rename":
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill_in_time)
build(folder, share=(index, count))
"""


def start_build(folder, share, killed_at):
    """A build in a process of its own; `killed_at` 0 lets it live."""
    script = KILLED_BUILD.format(tests=str(pathlib.Path(__file__).parent))
    arguments = [sys.executable, "-c", script, str(folder), *map(str, (*share, killed_at))]
    quick = {"XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    return subprocess.Popen(arguments, env=os.environ | quick)


def test_shares_killed_again_and_again_become_the_same_bank(bank_folder, tmp_path):
    folder = tmp_path / "bank"
    # Two processes at once: killed before the first file and within a part; then one of them again.
    for killed_at in ({0: 1, 1: 6}, {0: 8, 1: 0}, {0: 0}):
        processes = [start_build(folder, (share, 2), at) for share, at in killed_at.items()]
        for process, at in zip(processes, killed_at.values(), strict=True):
            assert process.wait() == (-signal.SIGKILL if at else 0)
        if any(killed_at.values()):
            with pytest.raises(InputError, match="unfinished"):
                open_bank(folder)
    assert open_bank(folder).digest == open_bank(bank_folder).digest
    assert len(list((folder / PARTS_FOLDER).iterdir())) == PHOTOS


@pytest.mark.parametrize("count", [3, PHOTOS + 2])
def test_the_last_share_finishes_the_bank(bank_folder, tmp_path, count):
    folder = tmp_path / "bank"
    for index in range(count):
        with pytest.raises(InputError, match=r"no such file|unfinished"):
            open_bank(folder)
        build(folder, share=(index, count))
    assert open_bank(folder).digest == open_bank(bank_folder).digest
    assert {path.name for path in folder.iterdir()} == {BANK_FILE, PARTS_FOLDER}


def test_another_number_of_processes_goes_on(bank_folder, tmp_path):
    folder = tmp_path / "bank"
    build(folder, share=(1, 3))
    build(folder)
    assert open_bank(folder).digest == open_bank(bank_folder).digest
    assert {path.name for path in folder.iterdir()} == {BANK_FILE, PARTS_FOLDER}


def test_processes_build_the_same_bank(bank_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    folder = tmp_path / "bank"
    names = {"source_name": "toy", "licence": "CC0", "processes": 2}
    build(folder, share=(1, 3))  # as if killed
    assert build_bank_together(ToySource(), SPEC, folder, **names) == folder
    assert open_bank(folder).digest == open_bank(bank_folder).digest
    assert {path.name for path in folder.iterdir()} == {BANK_FILE, PARTS_FOLDER}
    with pytest.raises(InputError, match="another source"):  # and their errors come back
        build_bank_together(ToySource(), SPEC, folder, **names | {"source_name": "other"})


# One of two processes of `jax.distributed` that build the toy bank together.
BUILD_TOGETHER = """
import sys
sys.path.insert(0, {tests!r})
import jax
from test_store import SPEC, ToySource, build_bank_together, open_bank

folder, address, index = sys.argv[1:]
jax.distributed.initialize(address, 2, int(index))
build_bank_together(ToySource(), SPEC, folder, source_name="toy", licence="CC0")
print(open_bank(folder).digest)
"""


def test_distributed_processes_build_their_shares(bank_folder, tmp_path):
    script = BUILD_TOGETHER.format(tests=str(pathlib.Path(__file__).parent))
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    arguments = [sys.executable, "-c", script, str(tmp_path / "bank"), address]
    running = [
        subprocess.Popen([*arguments, str(index)], stdout=subprocess.PIPE, text=True)
        for index in range(2)
    ]
    digests = [process.communicate(timeout=300)[0].split()[-1] for process in running]
    assert digests == [open_bank(bank_folder).digest] * 2


def test_two_photos_of_one_id_are_an_error(tmp_path):
    class Twice(ToySource):
        def __getitem__(self, index):
            return super().__getitem__(index % 4) | {"photo": self.photos[index]}

    build(tmp_path / "bank", Twice(count=5), share=(0, 2))
    with pytest.raises(InputError, match=r"toy: found 2 photos of id 'street/00'"):
        build(tmp_path / "bank", Twice(count=5), share=(1, 2))


def test_parts_of_another_dataset_are_an_error(tmp_path):
    build(tmp_path / "bank", share=(0, 2))
    with pytest.raises(InputError, match=r"street%2F.*found a photo that toy does not have"):
        build(tmp_path / "bank", ToySource(count=3))


def test_a_part_written_twice_stays_whole(tmp_path):
    arrays = {"row": np.arange(6)}
    write_part(tmp_path / "part", arrays, {"of": "first"})
    write_part(tmp_path / "part", arrays, {"of": "second"})
    assert read_part(tmp_path / "part")[1]["of"] == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["part"]


def test_images_left_on_disk_are_those_in_memory(bank_folder):
    whole, lazy = open_bank(bank_folder), open_bank(bank_folder, images="disk")
    for field in dataclasses.fields(whole):
        one, other = getattr(whole, field.name), getattr(lazy, field.name)
        if isinstance(other, OnDisk):
            assert (other.shape, other.dtype, len(other)) == (one.shape, one.dtype, len(one))
            for index in (3, -1, slice(2, 9, 3), np.array([4, 4, 1]), np.array([], int)):
                np.testing.assert_array_equal(other[index], one[index])
        else:
            np.testing.assert_array_equal(one, other)
    rows = np.arange(5)
    np.testing.assert_array_equal(lazy.cut(rows), whole.cut(rows))


def test_an_array_of_another_form_is_not_read(copy):
    part = copy / PARTS_FOLDER / "street%2F03"
    shutil.rmtree(part / "photo")
    shutil.copytree(part / "layout", part / "photo")
    with pytest.raises(InputError, match=r"street%2F03/photo.*expected"):
        open_bank(copy, images="disk").photo[3]


def test_another_spec_than_expected_is_refused(bank_folder):
    assert open_bank(bank_folder, SPEC).spec == SPEC
    labels = dataclasses.replace(SPEC.labels, thin=("pole",))
    for change, named in {
        "grid": ({"grid": (6, 8)}, r"grid: found \[12, 16\], expected \[6, 8\]"),
        "labels": ({"labels": labels}, r"thin: found \['pole', 'sign'\], expected \['pole'\]"),
        "image_size": ({"image_size": (48, 64)}, "image_size: found"),
    }.values():
        with pytest.raises(InputError, match=rf"bank\.json: found a bank of another spec.*{named}"):
            open_bank(bank_folder, dataclasses.replace(SPEC, **change))


def test_finished_bank_is_left_alone(copy):
    before = (copy / BANK_FILE).stat().st_mtime_ns
    build(copy, ToySource(killed_at=0))
    assert (copy / BANK_FILE).stat().st_mtime_ns == before


def test_banks_of_before_there_was_smoothing_keep_their_digest(bank_folder):
    description = json.loads((bank_folder / BANK_FILE).read_text())
    assert "smoothing_frac" not in description["spec"]
    spec = dataclasses.replace(SPEC, smoothing_frac=0.02)
    assert spec_from_json(spec_to_json(spec)) == spec
    assert digest_bank(spec, {}) != digest_bank(SPEC, {})


def test_digest_is_of_contents(bank_folder, tmp_path):
    same = build(tmp_path / "same", licence="other")
    assert open_bank(same).digest == open_bank(bank_folder).digest
    other = build(tmp_path / "other", ToySource(seed=1))
    assert open_bank(other).digest != open_bank(bank_folder).digest


@pytest.mark.parametrize("unfinished", [False, True])
def test_another_spec_is_refused(copy, tmp_path, unfinished):
    folder = tmp_path / "killed" if unfinished else copy
    if unfinished:
        with pytest.raises(KeyboardInterrupt):
            build(folder, ToySource(killed_at=9))
    with pytest.raises(InputError, match=r"grid.*delete its folder or choose another workdir"):
        build(folder, spec=dataclasses.replace(SPEC, grid=(6, 8)))
    with pytest.raises(InputError, match="another source"):
        build(folder, source_name="other")


def test_a_bank_that_is_split_otherwise_is_refused_both_ways(copy, tmp_path):
    smooth = dataclasses.replace(SPEC, smoothing_frac=0.05)
    with pytest.raises(InputError, match=r"smoothing_frac: found nothing, expected 0\.05"):
        build(copy, spec=smooth)
    build(tmp_path / "smooth", spec=smooth)
    with pytest.raises(InputError, match=r"smoothing_frac: found 0\.05, expected nothing"):
        build(tmp_path / "smooth")


def test_a_bank_of_smooth_segments_keeps_layouts_as_they_are_drawn(tmp_path):
    labels = dataclasses.replace(SPEC.labels, context=("house", "tree"))
    spec = dataclasses.replace(SPEC, labels=labels, smoothing_frac=0.05)
    source, store = ToySource(), open_bank(build(tmp_path / "smooth", spec=spec))
    changed = 0
    for index in range(PHOTOS):
        example = source[index]
        photo = store.ids.index(example["id"])
        drawn = example["layout"]
        np.testing.assert_array_equal(store.layout[photo], drawn)
        smooth = np.asarray(smooth_labels(jnp.asarray(drawn), labels.ids(labels.context), 1))
        component, class_id, *_ = twin_split(smooth, spec, example["instances"])
        np.testing.assert_array_equal(store.component[photo], component)
        row = store.row_of[photo][class_id >= 0]
        np.testing.assert_array_equal(store.row_class[row], class_id[class_id >= 0])
        coarse = store.coarse[photo]
        assert (coarse[coarse != VOID] == drawn[coarse != VOID]).all()
        changed += (smooth != drawn).sum()
    assert changed


def test_no_photos_is_an_error(tmp_path):
    with pytest.raises(InputError, match="toy: found 0 examples"):
        build(tmp_path / "bank", ToySource(count=0))


def test_photos_of_another_size_are_resampled(tmp_path):
    source = ToySource(count=2, size=(48, 64))
    store = open_bank(build(tmp_path / "bank", source))
    photo = store.ids.index(source[1]["id"])
    np.testing.assert_array_equal(store.layout[photo], source.layouts[1, 1::2, 1::2])
    np.testing.assert_array_equal(store.depth[photo], source.depths[1, 1::2, 1::2])
    means = source.photos[1].mean(), store.photo[photo].mean()
    assert abs(means[0] - means[1]) < 2
    assert store.photo[photo].std() < source.photos[1].std() / 1.5  # antialiased


def test_ids_outside_the_label_space_are_refused(tmp_path):
    source = ToySource()
    source.layouts[3, 0, 0] = 77
    with pytest.raises(InputError, match=r"street/10.*found ids \[77\].*expected 0 to 5"):
        build(tmp_path / "bank", source)


def flip_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize("damage", [flip_byte, truncate, pathlib.Path.unlink])
@pytest.mark.parametrize(
    "file",
    ["photo/0.0.0", "component/0.0", "row_geometry/0.0", "depth/zarr.json", "part.json"],
)
def test_damage_names_the_file(copy, damage, file):
    if file.endswith("zarr.json") and damage is flip_byte:
        pytest.skip("a description is not checksummed; the digest covers what it describes")
    path = copy / PARTS_FOLDER / "street%2F03" / file
    damage(path)
    for images in ("memory", "disk"):
        with pytest.raises(InputError) as error:
            store = open_bank(copy, images=images)
            getattr(store, file.split("/")[0])[3]
        # A description has no checksum of its own: without the arrays it is the bank that differs.
        whole = images == "disk" and file == "part.json" and damage is flip_byte
        assert str(copy / PARTS_FOLDER if whole else path) in str(error.value)
        assert "\n" not in str(error.value)


def test_zeros_are_read_and_not_filled_in(tmp_path):
    source = ToySource(count=2)
    source.photos[:] = 0
    folder = build(tmp_path / "bank", source)
    assert open_bank(folder).photo.max() == 0
    next((folder / PARTS_FOLDER).glob("*/photo/0.0.0")).unlink()
    with pytest.raises(InputError, match="missing"):
        open_bank(folder)


def test_lost_part_is_an_error(copy):
    shutil.rmtree(copy / PARTS_FOLDER / "street%2F03")
    with pytest.raises(InputError, match="found 10 photos"):
        open_bank(copy)


def test_no_bank_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"bank\.json: found no such file"):
        open_bank(tmp_path)


def kinds_of(bank):
    """What does not depend on a bank's size."""
    bank = bank.replace(rows=bank.rows.replace(envelope=bank.rows.envelope[:, 0]))
    return [(leaf.shape[1:], leaf.dtype) for leaf in jax.tree.leaves(bank)]


@pytest.mark.parametrize("count", [1, 3, 8])
def test_on_the_devices_every_row_stands_once_with_its_photo(bank_folder, count):
    store = open_bank(bank_folder)
    bank = to_device(store, jax.devices()[:count])
    rows, limit = bank.rows, SPEC.max_segments
    shares = np.asarray(rows.row).reshape(count, -1)
    number = store.row_photo * limit + store.row_component
    assert sorted(shares[shares >= 0]) == sorted(number)
    photos = np.asarray(bank.photos.photo).reshape(count, -1, *store.photo.shape[1:])
    for index, share in enumerate(shares):
        found = share[share >= 0]
        assert (found // limit % count == index).all()
        mine = photos[index, found // limit // count]
        np.testing.assert_array_equal(mine, store.photo[found // limit])
        classes = store.row_class[store.row_of[found // limit, found % limit]]
        assert (np.diff(classes) >= 0).all()
        first_tile = np.asarray(rows.first_tile)[index]
        assert (share.reshape(-1, TILE)[first_tile[:-1][np.diff(first_tile) > 0], 0] >= 0).all()
    assert len(bank.photos.photo.sharding.device_set) == count
    assert kinds_of(bank) == kinds_of(empty_bank(SPEC))


def store_rows(store, row):
    """Rows of a store by their numbers, which are photo * N + component."""
    photo, component = np.divmod(row, SPEC.max_segments)
    return np.where(row >= 0, store.row_of[photo, component], -1)


def near_photos(queries, photos, near_frames):
    first, second = line_up(queries, photos, near_frames)
    return np.abs(first[:, None] - second) <= near_frames


def test_near_photos_counts_positions_of_the_sorted_video():
    photos = [("a", 90), ("b", 30), ("a", 30), ("a", 60), ("a", 0)]
    near = near_photos(photos, photos, 1)
    assert near[0].tolist() == [True, False, False, True, False]
    assert near[2].tolist() == [False, False, True, True, True]
    assert near[1].tolist() == [False, True, False, False, False]


def nearest(queries, rows_store, bank, **options):
    """Donors of canvases with one layer."""
    donors = find_donors(queries, DiskBank(bank.rows, rows_store), DonorConfig(**options))
    assert donors.shape == (queries.row_photo.size, options["donors"], 1)
    return donors[..., 0]


def test_donors_are_the_best_rows_of_far_photos(copy):
    store = open_bank(copy)
    donors = nearest(store, store, to_device(store), donors=3, near_frames=1)
    assert (donors[:, 0] >= 0).mean() > 0.9
    photos = list(zip(store.videos, store.frames.tolist(), strict=True))
    near = near_photos(photos, photos, 1)
    for row, found in enumerate(donors):
        for donor in found[found >= 0]:
            assert not near[store.row_photo[row], store.row_photo[donor]]
            assert store.row_class[row] == store.row_class[donor]
    photo = 4
    matches = jitted_match(
        to_device(store, jax.devices()[:1]).rows,
        store.layout[photo : photo + 1],
        candidates=3,
        exclude=near[photo : photo + 1],
        instances=store.instances[photo : photo + 1],
    )
    mine = store.row_of[photo][store.row_of[photo] >= 0]
    expected = store_rows(store, np.asarray(matches.row)[0, : mine.size])
    np.testing.assert_array_equal(donors[mine], expected)


def test_donors_are_kept_and_verified(copy):
    store = open_bank(copy)
    bank = to_device(store)
    first = nearest(store, store, bank, donors=2, near_frames=0)
    again = nearest(store, store, empty_bank(SPEC), donors=2, near_frames=0)
    np.testing.assert_array_equal(first, again)
    flip_byte(next(copy.glob("donors-*/row/0.0.0")))
    with pytest.raises(InputError, match="donors-"):
        nearest(store, store, bank, donors=2, near_frames=0)


def test_donors_of_held_out_photos_exclude_near_frames_of_the_bank(copy, tmp_path):
    class Plain(ToySource):
        def __getitem__(self, index):
            example = super().__getitem__(index)
            return {key: example[key] for key in ("id", "photo", "layout", "video", "frame")}

    rows_store = open_bank(build(tmp_path / "rows", Plain(seed=2)))
    queries = open_bank(build(tmp_path / "queries", Plain(seed=3, count=3)))
    bank = to_device(rows_store, jax.devices()[:1])
    donors = nearest(queries, rows_store, bank, donors=2, near_frames=1)
    photos = [
        list(zip(store.videos, store.frames.tolist(), strict=True))
        for store in (queries, rows_store)
    ]
    near = near_photos(*photos, 1)
    assert near.any() and not near.all()
    twin = twin_match(rows_store.layout, queries.layout, SPEC, 2, near)
    matches = jitted_match(bank.rows, queries.layout, candidates=2, exclude=near)
    assert_equals_twin(bank.rows, matches, twin)
    for photo in range(3):
        rows = queries.row_of[photo]
        expected = store_rows(rows_store, np.asarray(matches.row)[photo, rows >= 0])
        np.testing.assert_array_equal(donors[rows[rows >= 0]], expected)
    other = dataclasses.replace(rows_store, spec=toy_spec(max_segments=4))
    with pytest.raises(InputError, match="another spec"):
        nearest(queries, other, bank, donors=2, near_frames=5)


def test_photo_without_segments_is_kept(tmp_path):
    source = ToySource(count=2)
    source.layouts[0] = VOID
    store = open_bank(build(tmp_path / "bank", source))
    assert len(store.ids) == 2
    assert (store.row_of[store.ids.index(source[0]["id"])] == -1).all()
