"""The life of a bank: photos appended and taken out, killed in between; what it says of itself."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import jax
import numpy as np
import pytest
import tensorstore
from PIL import Image
from test_segments import LABELS
from test_store import PHOTOS, ToySource, build

from sims_jax.atomic import write_json
from sims_jax.bank import __main__ as command
from sims_jax.bank import edit as editing
from sims_jax.bank.blocks import open_blocks
from sims_jax.bank.description import BANK_FILE, PARTS_FOLDER
from sims_jax.bank.edit import append_photos, find_removed, remove_photos
from sims_jax.bank.inspect import describe
from sims_jax.bank.parts import part_folder, read_json
from sims_jax.bank.store import open_bank
from sims_jax.config import CONFIG_FILE
from sims_jax.errors import InputError

ROOT = pathlib.Path(__file__).parents[1]
REMOVED = "street/03"
OTHER_LABELS = dataclasses.replace(LABELS, thin=("pole",))
SOURCE = ToySource()
IDS = [SOURCE[index]["id"] for index in range(PHOTOS)]


def some_of(start, stop):
    return [SOURCE[index] for index in range(start, stop)]


def append(folder, examples, labels=LABELS, licence="theirs"):
    return append_photos(
        folder, examples, labels=labels, source_name="more photos", licence=licence
    )


@pytest.fixture(scope="module")
def banks(tmp_path_factory):
    """Folder of the banks `whole`, `begin` (its first photos) and `less` (without REMOVED)."""
    folder = tmp_path_factory.mktemp("banks")
    build(folder / "whole")
    build(folder / "begin", some_of(0, 7))
    build(folder / "less", [one for one in some_of(0, PHOTOS) if one["id"] != REMOVED])
    return folder


@pytest.fixture
def copy(banks, tmp_path):
    """Copies one of them into a folder of its own, as the bank of a workdir."""
    return lambda name: pathlib.Path(shutil.copytree(banks / name, tmp_path / "run" / "bank"))


def digest(folder):
    return open_bank(folder).digest


def test_append_gives_the_bank_of_all_photos(banks, copy):
    bank = copy("begin")
    (bank / "rows-0").mkdir()
    assert append(bank, some_of(7, PHOTOS)) == IDS[7:]
    assert digest(bank) == digest(banks / "whole")
    assert describe(bank)["sources"] == [
        {"source": "toy", "licence": "CC0", "photos": 7},
        {"source": "more photos", "licence": "theirs", "photos": PHOTOS - 7},
    ]
    assert {path.name for path in bank.iterdir()} == {BANK_FILE, PARTS_FOLDER}
    build(bank, some_of(0, 7))  # finished: left as it is
    assert digest(bank) == digest(banks / "whole")


def test_remove_gives_the_bank_of_the_others(banks, copy):
    bank = copy("whole")
    deleted = remove_photos(bank, [REMOVED])
    assert deleted == [part_folder(bank / PARTS_FOLDER, REMOVED)]
    assert digest(bank) == digest(banks / "less")
    with pytest.raises(InputError, match="found no photo 'nobody', expected"):
        remove_photos(bank, [REMOVED, "nobody"])
    assert find_removed(bank, [REMOVED]) == remove_photos(bank, [REMOVED]) == []  # done before
    assert digest(bank) == digest(banks / "less")
    append(bank, [dict(some_of(0, 1)[0], id="another")])
    remove_photos(bank, ["another"])
    assert digest(bank) == digest(banks / "less")
    assert describe(bank)["sources"] == [{"source": "toy", "licence": "CC0", "photos": PHOTOS - 1}]
    assert describe(bank)["removed"] == 2


def test_an_append_that_is_repeated_changes_nothing(copy):
    bank = copy("begin")
    assert append(bank, some_of(7, 9)) == IDS[7:9]
    before = (bank / BANK_FILE).read_bytes()
    assert append(bank, some_of(7, 9)[::-1]) == []
    other = [dict(some_of(0, 1)[0], id=IDS[7]), *some_of(8, 9)]  # one name, another photo
    for examples, licence, count in (
        (other, "theirs", "1 photo"),
        (some_of(7, 9), "own", "2 photos"),
        (some_of(7, 8), "theirs", "1 photo"),
    ):
        with pytest.raises(InputError, match=f"found {count} that the bank .* already has"):
            append(bank, examples, licence=licence)
    assert (bank / BANK_FILE).read_bytes() == before
    assert {path.name for path in bank.iterdir()} == {BANK_FILE, PARTS_FOLDER}
    shutil.rmtree(part_folder(bank / PARTS_FOLDER, IDS[7]))  # lost, and not to be put back silently
    with pytest.raises(InputError, match=r"found 1 photo that the bank .* already has"):
        append(bank, some_of(7, 9))


def test_a_killed_append_is_not_taken_for_another_of_the_same_names(copy, monkeypatch):
    bank = copy("begin")
    with monkeypatch.context() as patch:
        patch.setattr(editing, "_carry_out", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            append(bank, some_of(7, 9))
    other = [dict(some_of(0, 1)[0], id=IDS[7]), *some_of(8, 9)]
    with pytest.raises(InputError, match="already has"):
        append(bank, other)
    assert append(bank, some_of(7, 9)) == []


def test_a_removed_photo_does_not_come_back(banks, copy, capsys):
    bank = copy("whole")
    remove_photos(bank, [REMOVED])
    assert REMOVED not in (bank / BANK_FILE).read_text()
    for finished in (True, False):  # and neither if the description is lost track of
        write_json(bank / BANK_FILE, read_json(bank / BANK_FILE) | {"complete": finished})
        build(bank)
        assert "stay out because they were removed: 1" in capsys.readouterr().out
        assert digest(bank) == digest(banks / "less")
    again = [one for one in some_of(0, PHOTOS) if one["id"] == REMOVED]
    with pytest.raises(InputError, match="found nothing to append"):
        append(bank, again)
    append(bank, [*again, dict(again[0], id="another")])
    assert "stay out because they were removed: 1" in capsys.readouterr().out
    assert open_bank(bank).ids == tuple(sorted({*IDS, "another"} - {REMOVED}))


def test_appended_photos_take_the_banks_form(copy, tmp_path):
    bank = copy("begin")
    plain = {key: some_of(8, 9)[0][key] for key in ("id", "photo", "layout", "video", "frame")}
    append(bank, [plain])
    store = open_bank(bank)
    photo = store.ids.index(plain["id"])
    assert not store.instances[photo].any() and not store.depth[photo].any()
    np.testing.assert_array_equal(store.photo[photo], plain["photo"])
    poor = build(tmp_path / "poor", [dict(plain, id="a")])
    append(poor, some_of(8, 9))
    assert open_bank(poor).instances is None and open_bank(poor).depth is None
    np.testing.assert_array_equal(*open_bank(poor).component)  # the same photo without instances


@pytest.mark.parametrize(
    ("examples", "labels", "message"),
    [
        (some_of(5, 9), LABELS, "found 2 photos that the bank .*street/02, street/09"),
        ([], LABELS, "found nothing to append"),
        (some_of(8, 9) * 2, LABELS, "found 2 photos of 1 ids"),
        ([dict(some_of(8, 9)[0], layout=np.full((24, 32), 77))], LABELS, r"found ids \[77\]"),
        (some_of(8, 9), OTHER_LABELS, r"more photos: found another label space .*thin: found \("),
    ],
)
def test_what_cannot_be_appended_leaves_the_bank_as_it_was(copy, examples, labels, message):
    bank = copy("begin")
    before = digest(bank)
    with pytest.raises(InputError, match=message):
        append(bank, examples, labels)
    assert digest(bank) == before


def test_label_spaces_of_another_name_are_the_same(copy):
    append(copy("begin"), some_of(8, 9), dataclasses.replace(LABELS, name="x", void_ids=(200,)))


def test_what_cannot_be_removed_leaves_the_bank_as_it_was(copy):
    bank = copy("begin")
    before = digest(bank)
    for ids, message in {
        (IDS[0], "nobody"): "found no photo 'nobody'",
        ("..",): r"found no photo '\.\.'",
        ("",): "found no photo ''",
        tuple(IDS[:7]): "found no photo that would stay",
    }.items():
        with pytest.raises(InputError, match=message):
            remove_photos(bank, ids)
    assert digest(bank) == before


# --- nothing is left ------------------------------------------------------------------------


def traces(folder, photo, photo_id):
    """The files below a folder that hold pixels of a photo, or its id, raw or decoded."""
    row = photo[photo.shape[0] // 2].tobytes()
    names = (photo_id.encode(), quote(photo_id, safe="").encode())
    found = set()
    for path in folder.rglob("*"):
        contents = [str(path.relative_to(folder)).encode()]
        if path.is_file():
            contents.append(path.read_bytes())
        if path.name == "zarr.json":
            kvstore = {"driver": "file", "path": str(path.parent)}
            array = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result()
            contents.append(array.read().result().tobytes())
        if path.suffix == ".png":
            contents.append(np.asarray(Image.open(path)).tobytes())
        if any(one in content for content in contents for one in (row, *names)):
            found.add(path)
    return found


def make_workdir(bank, photo, photo_id):
    """What train.py and synthesize.py leave around a bank, with a photo's pixels in it."""
    from sims_jax.labels import write_layout
    from sims_jax.training.writers import MetricsWriter

    workdir = bank.parent
    (workdir / "config.json").write_text("{}")
    with MetricsWriter(workdir) as writer:
        writer.write("synthesis", 1, {"loss": 1.0})
        writer.write_sheet("synthesis", 1, photo)
    judge = workdir / "evaluate" / "judge-1"
    judge.mkdir(parents=True)
    with MetricsWriter(judge) as writer:
        writer.write_sheet("judge", 1, photo)
    for name in ("data/toy/records", "aligned/0/affine"):
        (workdir / name).parent.mkdir(parents=True, exist_ok=True)
        (workdir / name).write_bytes(photo.tobytes())
    for folder in ("layouts", "photos", "others"):
        (workdir / folder).mkdir()
        for name in ("ab", "cd"):
            write_layout(workdir / folder / f"{name}.png", np.zeros((4, 4), np.uint8), LABELS)
    sources = {"ab.png": [{"photo_id": None}, {"photo_id": photo_id}], "cd.png": []}
    (workdir / "photos" / "sources.json").write_text(json.dumps(sources))
    lit = {"photo_id": None, "reference": {"file": "ab_leftImg8bit.png", "sha256": "0"}}  # of ab
    (workdir / "others" / "sources.json").write_text(json.dumps({"ab.png": [], "cd.png": [lit]}))
    deep = workdir / "some" / "killed"  # by a command that had not told its sources yet
    deep.mkdir(parents=True)
    (deep / "sources.json").write_text(json.dumps({"ef.png": None}))
    for name in ("ef.png", ".tmp-gh.png-1f", "sheet.png"):
        Image.fromarray(photo).save(deep / name, format="PNG")
    for name in ("sheet.png", "photos/sheet.png", "evaluate/val.png"):
        Image.fromarray(photo).save(workdir / name)
    return workdir


def find_donors_of(queries, rows_store):
    from sims_jax.bank.disk import DiskBank
    from sims_jax.bank.donors import DonorConfig, find_donors

    bank = DiskBank(device_bank(rows_store).rows, rows_store)
    return find_donors(queries, bank, DonorConfig(donors=2, near_frames=0))


def device_bank(store):
    from sims_jax.bank.device import to_device

    return to_device(store, jax.devices()[:1])


def test_nothing_of_a_removed_photo_is_left(copy, tmp_path):
    bank, photo = copy("whole"), SOURCE[IDS.index(REMOVED)]["photo"]
    workdir = make_workdir(bank, photo, REMOVED)
    heldout = build(workdir / "heldout", [dict(some_of(0, 1)[0], id="ab")])
    for queries in (bank, heldout):
        find_donors_of(open_bank(queries), open_bank(bank))
        open_blocks(open_bank(queries, images="disk"), devices=jax.devices()[:1])
    aside = bank / PARTS_FOLDER / ".tmp-killed"
    shutil.copytree(part_folder(bank / PARTS_FOLDER, REMOVED), aside)
    before = traces(workdir, photo, REMOVED)
    seen = "data/toy/records", "aligned/0/affine", "sheet.png", "photos/sources.json"
    for name in (*seen, "evaluate/val.png"):
        assert workdir / name in before
    assert aside / "photo" / "0.0.0" in before  # noise: compression leaves the bytes as they are
    files, expected = set(workdir.rglob("*")), find_removed(bank, [REMOVED])
    assert set(workdir.rglob("*")) == files
    assert remove_photos(bank, [REMOVED]) == expected
    assert not traces(workdir, photo, REMOVED)
    assert not list(workdir.glob("*/donors-*")) and not list(workdir.glob("*/rows-*"))
    assert {path.name for path in workdir.iterdir()} == {
        "bank", "heldout", "config.json", "metrics.jsonl", "evaluate", "layouts", "photos",
        "others", "some", ".bank.lock",
    }  # fmt: skip
    assert {path.name for path in (workdir / "photos").glob("[!.]*")} == {"cd.png", "sources.json"}
    assert len(list((workdir / "others").iterdir())) == 3
    assert [path.name for path in (workdir / "some" / "killed").glob("[!.]*")] == ["sources.json"]
    # A held-out photo leaves its layout, and what was made of the layout or in its light.
    append(heldout, [dict(some_of(1, 2)[0], id="ef")])
    remove_photos(heldout, ["ab"])
    assert {path.name for path in (workdir / "layouts").iterdir()} == {"cd.png"}
    assert [path.name for path in (workdir / "others").glob("[!.]*")] == ["sources.json"]


def test_the_report_counts_what_the_bank_holds(copy):
    bank, scores = copy("begin"), {"synthesis": {"val_loss": 2.0}}
    report = bank.parent / "report.json"
    report.write_text(json.dumps(scores | {"bank": {"photos": 7, "segments": 1}}))
    build(bank.parent / "heldout", some_of(0, 2))
    append(bank.parent / "heldout", some_of(2, 3))  # which the report says nothing of
    for edit, photos in ((lambda: append(bank, some_of(7, 9)), 9),
                         (lambda: remove_photos(bank, [IDS[0]]), 8)):  # fmt: skip
        edit()
        counts = {"photos": photos, "segments": len(open_bank(bank).row_class)}
        assert json.loads(report.read_text()) == scores | {"bank": counts}


def test_photos_of_unknown_sources_stop_a_removal_until_they_are_gone(banks, copy):
    bank = copy("whole")
    workdir = make_workdir(bank, SOURCE[0]["photo"], REMOVED)
    (workdir / "others" / "sources.json").write_text('{"ab.png": [{"photo')
    with pytest.raises(InputError, match=r"others/sources\.json: .*move or delete its folder"):
        remove_photos(bank, [REMOVED])
    with pytest.raises(InputError, match="unfinished remove"):
        open_bank(bank)
    shutil.rmtree(workdir / "others")
    remove_photos(bank, [REMOVED])
    assert digest(bank) == digest(banks / "less")


def test_retrieval_returns_no_removed_photo(copy):
    from sims_jax.bank.match import match

    bank = copy("whole")
    query = SOURCE.layouts[IDS.index(REMOVED)][None]

    def retrieved():
        store = open_bank(bank)
        matches = jax.jit(match, static_argnames="candidates")(
            device_bank(store).rows, query, candidates=3
        )
        rows = np.asarray(matches.row)
        return {store.ids[row // store.spec.max_segments] for row in rows[rows >= 0]}

    assert REMOVED in retrieved()
    remove_photos(bank, [REMOVED])
    found = retrieved()
    assert found and REMOVED not in found


# --- kills ----------------------------------------------------------------------------------

# Kills an edit before each of its changes to the disk in turn, and repeats it. Its parts are made
# beforehand, so that nothing in here starts a thread and a fork is what it should be.
KILLS = """
import os, pathlib, shutil, signal, sys
sys.path.insert(0, {tests!r})
from sims_jax.bank import edit
from sims_jax.bank.description import read_finished
from sims_jax.errors import InputError

CHANGES = {{"os.rename", "os.rmdir", "os.remove"}}
kind, banks, work = sys.argv[1], *map(pathlib.Path, sys.argv[2:])
begin, end = {{"append": ("begin", "whole"), "remove": ("whole", "less")}}[kind]
new = sorted({{p.name for p in (banks / end / "parts").iterdir()}}
             - {{p.name for p in (banks / begin / "parts").iterdir()}})

def copy_parts(examples, spec, aside):
    for name in new:
        shutil.copytree(banks / end / "parts" / name, aside / name)
    return [example["id"] for example in examples]

def run():
    if kind == "remove":
        return edit.remove_photos(bank, ["street/03"])
    _, spec = read_finished(banks / begin)
    ids = [name.replace("%2F", "/") for name in new]
    examples = [{{"id": one, "layout": [[0]]}} for one in ids]
    edit.append_photos(
        bank, examples, labels=spec.labels, source_name="more", licence="theirs"
    )

edit.write_parts = copy_parts
wanted = read_finished(banks / end)[0]["digest"]
before = read_finished(banks / begin)[0]["digest"]
killed, refused, number = True, 0, 0
while killed:
    number += 1
    bank = work / str(number) / "bank"
    shutil.copytree(banks / begin, bank)
    (bank / "donors-0").mkdir()
    child = os.fork()
    if not child:
        left = number
        def kill_in_time(event, arguments):
            global left
            if event in CHANGES:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(kill_in_time)
        run()
        os._exit(0)
    killed = os.waitpid(child, 0)[1] == signal.SIGKILL
    try:
        assert read_finished(bank)[0]["digest"] in (before, wanted)
    except InputError as error:
        assert "repeat the command" in str(error) and kind in str(error), error
        refused += 1
    run()
    run()  # as after another command has finished it
    assert read_finished(bank)[0]["digest"] == wanted
    left_over = {{path.name for path in bank.iterdir()}} - {{"bank.json", "parts", "donors-0"}}
    assert not left_over, left_over
print(number, refused)
"""


@pytest.mark.parametrize(("kind", "least"), [("append", 6), ("remove", 20)])
def test_edits_killed_anywhere_are_finished_by_repeating_them(banks, tmp_path, kind, least):
    script = KILLS.format(tests=str(ROOT / "tests"))
    result = subprocess.run(
        [sys.executable, "-c", script, kind, str(banks), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    number, refused = map(int, result.stdout.splitlines()[-1].split())
    assert refused >= least and number > refused


def test_a_bank_in_the_middle_of_an_edit_is_refused(copy, monkeypatch, capsys):
    bank = copy("whole")
    with monkeypatch.context() as patch:
        patch.setattr(editing, "delete_traces", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            remove_photos(bank, [REMOVED])
    advice = f"python -m sims_jax.bank remove --bank={bank} --photo={REMOVED}"
    for read in (open_bank, describe, build):
        with pytest.raises(InputError, match="unfinished remove of 1 photo, .*" + advice):
            read(bank)
    append(bank, [dict(some_of(0, 1)[0], id="another")])  # any edit finishes it first
    assert "going on with a killed remove" in capsys.readouterr().out
    assert open_bank(bank).ids == tuple(sorted({*IDS, "another"} - {REMOVED}))


# --- the command ----------------------------------------------------------------------------


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["bank", *map(str, arguments)])
    command.main()


def write_folder(root, examples, labels=LABELS):
    """A `folder` dataset on disk."""
    for name in ("photos", "layouts"):
        (root / name).mkdir(parents=True)
    for example in examples:
        name = example["id"].replace("/", "_") + ".png"
        Image.fromarray(example["photo"]).save(root / "photos" / name)
        Image.fromarray(example["layout"]).save(root / "layouts" / name)
    groups = ("thin", "planar", "context")
    classes = [
        {"name": name, "color": color} | {group: name in getattr(labels, group) for group in groups}
        for name, color in zip(labels.classes, labels.palette, strict=True)
    ]
    (root / "labels.json").write_text(json.dumps({"classes": classes}))
    return root


def test_a_killed_append_is_finished_before_another(copy, monkeypatch, capsys, tmp_path):
    bank = copy("begin")
    with monkeypatch.context() as patch:
        patch.setattr(editing, "_carry_out", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            append(bank, some_of(7, 8))
    other = write_folder(tmp_path / "other", some_of(8, 9))
    run(monkeypatch, "append", f"--bank={bank}", f"--data={other}")
    assert "going on with a killed append of 1 photo" in capsys.readouterr().out
    assert set(open_bank(bank).ids) == {*IDS[:8], IDS[8].replace("/", "_")}


def test_inspect_append_remove(copy, monkeypatch, capsys, tmp_path):
    bank, mine = copy("begin"), write_folder(tmp_path / "mine", some_of(7, 9))
    (mine / "labels.json").unlink()  # the bank's, then
    run(monkeypatch, "append", f"--bank={bank}", f"--data={mine}", "--licence=CC BY 4.0")
    assert f"{bank}: 2 photos appended\n" in capsys.readouterr().out
    run(monkeypatch, "append", f"--bank={bank}", f"--data={mine}", "--licence=CC BY 4.0")
    assert f"{bank}: all of these appended before\n" in capsys.readouterr().out
    out = tmp_path / "bank.json"
    run(monkeypatch, "inspect", f"--bank={bank}", f"--json={out}")
    text, held = capsys.readouterr().out, json.loads(out.read_text())
    assert held["sources"][1] == {"source": str(mine), "licence": "CC BY 4.0", "photos": 2}
    store = open_bank(bank)
    assert held["digest"] == store.digest and held["photos"] == len(store.ids) == 9
    counts = np.bincount(store.row_class, minlength=6).tolist()
    assert list(held["segments_per_class"].values()) == counts
    assert held["photos_per_video"] == {"a": 4, "b": 3, "street_01": 1, "street_05": 1}
    assert re.search(r"^smoothing +0\.0 of the height$", text, re.MULTILINE)
    size = sum(path.stat().st_size for path in bank.rglob("*") if path.is_file())
    assert held["bytes"] == size and "ids" not in held
    run(monkeypatch, "inspect", f"--bank={bank}", "--ids", f"--json={out}")
    assert json.loads(out.read_text())["ids"] == sorted(store.ids)
    assert f"  {store.ids[3]}\n" in capsys.readouterr().out
    for part in (store.digest, "CC BY 4.0", "CC0", "24x32", "12x16", f"{size:,}", "pole"):
        assert part in text
    name = IDS[7].replace("/", "_")
    photos, part = (f"--photo={name}", f"--photo={IDS[0]}"), part_folder(bank / PARTS_FOLDER, name)
    run(monkeypatch, "remove", f"--bank={bank}", *photos, "--dry_run")
    assert f"would be deleted: {part}" in capsys.readouterr().out.splitlines()
    assert open_bank(bank).digest == store.digest
    run(monkeypatch, "remove", f"--bank={bank}", *photos)
    text = capsys.readouterr().out
    assert f"deleted: {part}" in text.splitlines() and "not touched" in text
    assert name not in open_bank(bank).ids and (mine / "photos" / f"{name}.png").exists()
    run(monkeypatch, "remove", f"--bank={bank}", *photos)
    assert capsys.readouterr().out == f"{bank}: removed before: {name}, {IDS[0]}\n"


def test_a_bank_beside_it_that_has_the_photo_too_is_named(copy, monkeypatch, capsys):
    bank = copy("whole")
    build(bank.parent / "heldout", some_of(IDS.index(REMOVED), PHOTOS))
    for more in (["--dry_run"], []):
        run(monkeypatch, "remove", f"--bank={bank}", f"--photo={REMOVED}", *more)
        assert f"{bank.parent / 'heldout'}: has {REMOVED}, too" in capsys.readouterr().out


def test_held_out_photos_are_not_appended_and_are_removed_where_they_are(copy, monkeypatch, capsys):
    bank = copy("begin")
    heldout = build(bank.parent / "heldout", some_of(8, PHOTOS))
    before = digest(bank)
    with pytest.raises(InputError, match=f"found no photo '{IDS[8]}'.*with --bank={heldout}"):
        remove_photos(bank, [IDS[8]])
    (bank.parent / CONFIG_FILE).write_text("{}")
    with pytest.raises(InputError, match=f"in {heldout} .*{IDS[8]}.* must not be in the bank"):
        append(bank, some_of(7, 9))
    monkeypatch.chdir(bank.parent)
    with pytest.raises(InputError, match="must not be in the bank"):
        append(bank.relative_to(bank.parent), some_of(7, 9))
    assert digest(bank) == before
    # Whoever was removed from what is held out does not come into the bank.
    remove_photos(heldout, [IDS[8]])
    append(bank, some_of(7, 9))
    assert "stay out because they were removed: 1" in capsys.readouterr().out
    assert IDS[8] not in open_bank(bank).ids and digest(bank) != before


@pytest.fixture
def slowly(monkeypatch):
    """What is reached while parts are written, which takes long enough for another to come in."""
    reached, write_parts = [], editing.write_parts

    def write_slowly(examples, spec, aside):
        reached.append("begins")
        time.sleep(0.5)
        written = write_parts(examples, spec, aside)
        reached.append("ends")
        return written

    monkeypatch.setattr(editing, "write_parts", write_slowly)
    return reached


def test_edits_at_once_wait_for_each_other(copy, slowly):
    bank = copy("begin")
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(append, bank, some_of(index, index + 1)) for index in (7, 8)]
        assert [job.result() for job in jobs] == [[IDS[7]], [IDS[8]]]
    assert slowly == ["begins", "ends"] * 2
    assert set(open_bank(bank).ids) == set(IDS[:9])


def test_a_photo_appended_to_both_banks_of_a_workdir_at_once_is_in_one(copy, slowly):
    bank = copy("begin")
    (bank.parent / CONFIG_FILE).write_text("{}")
    banks = bank, build(bank.parent / "heldout", some_of(8, PHOTOS))
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(append, one, some_of(7, 8)) for one in banks]
        failed = [job.exception() for job in jobs]
    assert failed.count(None) == 1 and any(isinstance(one, InputError) for one in failed)
    assert slowly == ["begins", "ends"]


def test_a_bank_may_be_named_from_inside(copy, monkeypatch):
    bank = copy("begin")
    monkeypatch.chdir(bank)
    append(".", some_of(7, 8))
    remove_photos(".", [IDS[0]])
    assert set(open_bank(bank).ids) == set(IDS[1:8])


def test_only_a_workdirs_other_bank_hinders_an_append(copy):
    bank = copy("begin")
    build(bank.parent / "other", some_of(8, 9))
    append(bank, some_of(8, 9))
    (bank.parent / CONFIG_FILE).write_text("{}")
    (bank.parent / "told").mkdir()
    (bank.parent / "told" / BANK_FILE).write_text("{}")  # no bank: it has no parts
    append(bank, some_of(7, 8))
    description = bank.parent / "other" / BANK_FILE
    description.write_text(json.dumps(json.loads(description.read_text()) | {"complete": False}))
    with pytest.raises(InputError, match=r"other/bank\.json: found an unfinished bank"):
        append(bank, some_of(9, 10))


def test_mistakes_are_one_line_and_a_status(copy, monkeypatch, capsys, tmp_path):
    bank = copy("begin")
    other = write_folder(tmp_path / "other", some_of(8, 9), OTHER_LABELS)
    own = write_folder(tmp_path / "own", [dict(some_of(0, 1)[0], id=IDS[0].replace("/", "_"))])
    append(bank, [dict(some_of(0, 1)[0], id=IDS[0].replace("/", "_"))])
    before = digest(bank)
    for arguments, parts in {
        ("inspect", "--bank=nowhere"): ("nowhere/bank.json", "found no such file"),
        ("append", "--bank=nowhere", f"--data={own}"): ("nowhere/bank.json", "found no such file"),
        ("append", f"--bank={bank}", "--data=nowhere"): ("nowhere/photos",),
        ("inspect", f"--bank={bank.parent}"): ("run/bank.json", f"did you mean {bank}?"),
        ("append", f"--bank={bank}", f"--data={other}"): (
            str(other),
            "another label space",
            "pole",
        ),
        ("append", f"--bank={bank}", f"--data={own}"): (str(own), "already has", "street_00"),
        ("remove", f"--bank={bank}", "--photo=nobody"): (str(bank), "'nobody'", "--photo"),
    }.items():
        with pytest.raises(SystemExit) as stopped:
            run(monkeypatch, *arguments)
        assert stopped.value.code == 2
        error = capsys.readouterr().err.strip()
        assert len(error.splitlines()) == 1 and all(part in error for part in parts), error
    assert digest(bank) == before
    assert {path.name for path in bank.iterdir()} == {BANK_FILE, PARTS_FOLDER}


def test_the_module_is_a_command(copy):
    flags = ["-m", "sims_jax.bank", "inspect", f"--bank={copy('begin')}"]
    result = subprocess.run([sys.executable, *flags], capture_output=True, text=True, check=True)
    assert "24x32" in result.stdout
    read, write = os.pipe()
    os.close(read)  # as `| head` does when it has read enough
    result = subprocess.run(
        [sys.executable, *flags], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (result.returncode, result.stderr) == (141, b"")
