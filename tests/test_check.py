"""The check names every planted fault by its file, and lets a sound dataset pass."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import h5py
import jax
import numpy as np
import pytest
from faults import FAULTS, layout_of, plant_link, plant_void, save
from PIL import Image
from replicas import CLASSES, NUM_TRAIN, NUM_VAL, SIZE, WRITERS, write_folder

from sims_jax.bank.segments import split_layout
from sims_jax.data.check.examine import count_segments
from sims_jax.data.check.report import (
    check_dataset,
    find_strange,
    to_json,
    to_text,
    write_sheet,
)
from sims_jax.labels import CITYSCAPES, SCENES, VOID
from sims_jax.ops.adjacent import find_adjacent
from sims_jax.types import BankSpec

ROOT = pathlib.Path(__file__).parents[1]
GIB = 1 << 30
CITYSCAPES_CLASSES = [
    {"name": name, "color": color}
    for name, color in zip(CITYSCAPES.classes, CITYSCAPES.palette, strict=True)
]


def check(root, name="folder", **options):
    options = {"image_size": SIZE, "min_area_frac": 0.01} | options
    return check_dataset({"name": name, "root": str(root)}, **options)


def files_of(report):
    return {path.name for fault in report.faults for path in fault.files}


@pytest.mark.parametrize("name", WRITERS)
def test_a_sound_dataset_passes(name, tmp_path):
    """Spaces and letters like ß in names are fine."""
    WRITERS[name](tmp_path)
    report = check(tmp_path, name)
    content = to_json(report)
    assert report.passed and not content["faults"], content["faults"]
    assert content["photos"] == {"train": NUM_TRAIN, "val": NUM_VAL}
    assert content["sizes"] == {f"{SIZE[0]}x{SIZE[1]}": NUM_TRAIN + NUM_VAL}
    seen = {name: entry for name, entry in content["classes"].items() if entry["photos"]}
    assert len(seen) == 4 and all(entry["segments"] for entry in seen.values())
    assert sum(entry["share"] for entry in seen.values()) + content["void_share"] == (
        pytest.approx(1, abs=1e-3)
    )
    assert f"{name}: can be trained on" in to_text(report)


@pytest.mark.parametrize("plant", FAULTS)
def test_a_planted_fault_is_named(plant, tmp_path):
    root = tmp_path / "data"
    write_folder(root)
    path, found = plant(root)
    report = check(root)
    assert not report.passed
    named = [fault.message for fault in report.faults if path in fault.files]
    assert any(found in message and path.name in message for message in named), report.faults
    assert all("\n" not in message for message in named)
    # Nothing else is at fault, but a list that names what is lost.
    stems = {path.stem for fault in report.faults for path in fault.files}
    assert stems - {"split"} == {path.stem}


@pytest.mark.parametrize("ids", [(7, 11, 26), (7, 11, 13)], ids=["out of range", "in range"])
def test_label_ids_given_for_train_ids_are_named(ids, tmp_path):
    write_folder(tmp_path, CITYSCAPES_CLASSES)
    assert check(tmp_path).passed
    save(layout_of(tmp_path), np.repeat(np.array(ids, np.uint8), 8)[:, None].repeat(SIZE[1], 1))
    report = check(tmp_path)
    assert [path.name for fault in report.faults for path in fault.files] == ["straße 1.png"]
    assert "look like Cityscapes' labelIds" in report.faults[0].message


def test_train_ids_given_for_label_ids_are_named(tmp_path):
    WRITERS["cityscapes"](tmp_path)
    path = sorted(tmp_path.glob("gtFine/train/*/*labelIds.png"))[0]
    save(path, np.where(np.arange(SIZE[1]) < 3, 255, 13).repeat(SIZE[0]).reshape(SIZE).astype("u1"))
    report = check(tmp_path, "cityscapes")
    assert files_of(report) == {path.name} and "class ids already" in report.faults[0].message


def test_labels_of_one_color_are_named(tmp_path):
    write_folder(tmp_path, [*CLASSES, {"name": "again", "color": CLASSES[0]["color"]}])
    report = check(tmp_path)
    assert "labels.json" in report.faults[0].message and "used twice" in report.faults[0].message


def test_a_name_that_is_no_text_is_a_fault(tmp_path):
    write_folder(tmp_path)
    name = os.fsdecode(b"stra\xdfe 1.png")
    for folder in ("photos", "layouts", "instances", "depth"):
        (tmp_path / folder / "straße 1.png").rename(tmp_path / folder / name)
    report = check(tmp_path)
    assert name in files_of(report)
    assert any("no UTF-8" in fault.message for fault in report.faults)
    to_text(report).encode()  # can be printed


def test_a_path_that_is_wrong_is_the_first_that_is_said(tmp_path):
    fault, verdict = to_text(check(tmp_path / "nowhere")).splitlines()
    assert fault.startswith(f"fault: {tmp_path / 'nowhere' / 'photos'}: found no such folder")
    assert verdict == "folder: faults to correct: 1"


def test_a_photo_in_both_lists_is_one_fault(tmp_path):
    write_folder(tmp_path)
    path = tmp_path / "split.json"
    content = json.loads(path.read_text())
    twice = content["val"]  # all of them: neither split is to be found empty
    content["train"] += twice
    path.write_text(json.dumps(content))
    report = check(tmp_path)
    (fault,) = report.faults
    assert fault.message.startswith(f"{path}: found names in train and in val: {len(twice)} (")
    assert report.remarks == []


def test_links_may_be_meant(tmp_path):
    write_folder(tmp_path / "data")
    plant_link(tmp_path / "data")
    assert check(tmp_path / "data", follow_links=True).passed


def test_copies_and_unseen_classes_are_remarks(tmp_path):
    write_folder(tmp_path, [*CLASSES, {"name": "unicorn", "color": [99, 9, 9]}])
    shutil.copy(tmp_path / "photos" / "straße 0.png", tmp_path / "photos" / "straße 4.png")
    report = check(tmp_path)
    assert report.passed
    copies, unseen = report.remarks
    assert {path.name for path in copies.files} == {"straße 0.png", "straße 4.png"}
    assert "2 copies of this photo in the splits train and val" in copies.message
    assert "1 class (unicorn)" in unseen.message


def test_too_few_photos_are_a_fault(tmp_path):
    write_folder(tmp_path)
    for folder in ("photos", "layouts", "instances", "depth"):
        for number in (1, 2, 3, 4):
            (tmp_path / folder / f"straße {number}.png").unlink()
    (tmp_path / "split.json").unlink()
    report = check(tmp_path)
    assert not report.passed and "photos" in report.faults[0].message


def test_all_faults_at_once_by_the_command(tmp_path):
    """Status 1, a line each, JSON and sheet; no more than a GiB of memory, bomb included."""
    root = tmp_path / "data"
    write_folder(root)
    (root / "split.json").unlink()
    planted = []
    for number, plant in enumerate(FAULTS):
        path, _ = plant(root)
        stem = f"{number:02d} é"
        for folder in ("photos", "layouts", "instances", "depth"):
            for old in (root / folder).glob("straße 1.*"):
                old.rename(old.with_stem(stem))
        planted.append(path.with_stem(stem).name)
        write_folder(root)
        (root / "split.json").unlink()
    code = (
        "import atexit, pathlib, re, runpy, sys\n"
        # Not of getrusage: that begins at what the process that started this one used.
        "status = lambda: pathlib.Path('/proc/self/status').read_text()\n"
        "use = lambda: re.search(r'VmHWM:\\s+(\\d+)', status())[1]\n"
        "atexit.register(lambda: print(use(), file=sys.stderr))\n"
        "runpy.run_module('sims_jax.data.check', run_name='__main__', alter_sys=True)"
    )
    flags = ["--config=configs/quickstart.py:" + str(root), f"--json={tmp_path / 'report.json'}",
             f"--sheet={tmp_path / 'sheet.png'}"]  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-c", code, *flags],
        cwd=ROOT, env=os.environ | {"XLA_FLAGS": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 1, result.stderr
    content = json.loads((tmp_path / "report.json").read_text())
    named = {pathlib.Path(path).name for fault in content["faults"] for path in fault["files"]}
    assert set(planted) <= named
    assert not content["passed"] and "Traceback" not in result.stderr
    assert int(result.stderr.splitlines()[-1]) * 1024 < GIB
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 2 * 240


@pytest.mark.parametrize(
    ("flag", "found"),
    [
        ("--config.pipeline.max_pairs=-1", "config.pipeline.max_pairs: found -1, expected at l"),
        ("--config.ordering.train.steps=0", "config.ordering.train.steps: found 0, expected at l"),
        (
            "--config.synthesis.train.accumulation=3",
            "config.synthesis.train.batch_size: found 4, exp",
        ),
        ("--sheet=/dev/null/sheet.png", "/dev/null/sheet.png: found /dev/null, which is no folder"),
        ("--json=.", ".: found a folder, expected a file to write"),
    ],
)
def test_what_cannot_be_is_refused_before_the_data_is_read(flag, found, tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "sims_jax.data.check", f"--config=quickstart:{tmp_path}", flag],
        cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "none"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {found}")
    assert len(result.stderr.splitlines()) == 1


def test_sheet_has_the_faulty_samples_first(tmp_path):
    write_folder(tmp_path / "data")
    plant_void(tmp_path / "data")
    assert write_sheet(tmp_path / "sheet.png", check(tmp_path / "data")) == NUM_TRAIN + NUM_VAL


def test_copies_in_one_file_are_told_apart(tmp_path):
    """All of NYU's photos are in one file, of which two are the same."""
    WRITERS["nyu"](tmp_path)
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "r+") as file:
        file["images"][3] = file["images"][0]
    report = check(tmp_path, "nyu")
    assert [finding.one.frame for finding in find_strange(report)] == [0, 3]


def test_scenes_have_no_files(tmp_path):
    report = check_dataset({"name": "scenes"}, image_size=SIZE, min_area_frac=0.01)
    assert report.passed and "no files to check" in to_text(report)


def test_segments_are_counted_as_the_bank_does_where_nothing_thin_joins(tiny_stores):
    store = tiny_stores[0]
    spec = BankSpec(SCENES, SIZE, (12, 16), 128, 0.01)
    layouts, instances = store.layout[:, ::2, ::2], store.instances[:, ::2, ::2]
    layouts = np.where(np.isin(layouts, SCENES.ids(SCENES.thin)), VOID, layouts)
    segments = jax.jit(split_layout, static_argnums=1)(layouts, spec, instances)
    for index, (layout, instance) in enumerate(zip(layouts, instances, strict=True)):
        classes = segments.class_id[index]
        expected = np.bincount(classes[classes >= 0], minlength=SCENES.num_classes)
        found, pairs = count_segments(layout, SCENES, 0.01, instance)
        np.testing.assert_array_equal(found, expected)
        planar = np.isin(classes, SCENES.ids(SCENES.planar))
        adjacent = find_adjacent(np.asarray(segments.component[index]))
        assert pairs == sum(not planar[[a, b]].any() for a, b in adjacent)


def test_photos_in_which_no_objects_touch_are_a_fault(tmp_path):
    """What training would stop at when it comes to the ordering network."""
    write_folder(tmp_path)
    content = json.loads((tmp_path / "labels.json").read_text())
    for entry in content["classes"]:
        entry["planar"] = True
    (tmp_path / "labels.json").write_text(json.dumps(content))
    report = check(tmp_path)
    assert [fault.message.partition(" (")[0] for fault in report.faults] == [
        "folder: found no two adjacent objects"
    ] * 2
