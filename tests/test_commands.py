"""What a user gets wrong is one clear line and a status, and nothing is left half-written."""

import copy
import hashlib
import importlib
import json
import os
import pathlib
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from sims_jax import commands, processes, synthesize_command
from sims_jax.bank.__main__ import bank_parser
from sims_jax.errors import InputError
from sims_jax.evaluate import evaluate_parser
from sims_jax.ops.sheet import GAP_PX, HEADING_PX, contact_sheet, write_picture
from sims_jax.training.settings import read_settings
from sims_jax.training.termination import Terminated

ROOT = pathlib.Path(__file__).parents[1]
EXTRAS = {  # what a benchmark imports that is not always installed
    "benchmarks.retrieval": "usearch",
    "benchmarks.train_step": "torch",
}


def run(program: str, *arguments: str):
    """(status, standard error) of an entry point in a process of its own."""
    environment = os.environ | {"XLA_FLAGS": ""}
    result = subprocess.run(
        [sys.executable, str(ROOT / program), *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.returncode, result.stderr.strip()


def assert_one_line(result, *parts: str) -> None:
    status, error = result
    assert status != 0
    assert len(error.splitlines()) == 1, error
    for part in parts:
        assert part in error


@pytest.fixture(scope="module")
def camvid_like(tmp_path_factory):
    """A folder like CamVid's with two photos in each split."""
    root = tmp_path_factory.mktemp("camvid")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir()
        for frame in range(2) if split == "train" else range(5, 7):
            photo = rng.integers(0, 255, (36, 48, 3), dtype=np.uint8)
            layout = np.repeat(np.arange(12, dtype=np.uint8), 3)[:, None].repeat(48, 1)
            Image.fromarray(photo).save(root / split / f"0001TP_{frame:06d}.png")
            Image.fromarray(layout).save(root / f"{split}annot" / f"0001TP_{frame:06d}.png")
    return root


def train(root, workdir, *more):
    return run("train.py", "--config=configs/camvid.py:small", f"--config.data.root={root}",
               f"--workdir={workdir}", *more)  # fmt: skip


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_tells_of_every_flag(flag):
    command = [sys.executable, str(ROOT / "train.py"), flag]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name in ("--config:", "--workdir:", "dry_run:", "--coordinator:", "--config.KEY=VALUE:"):
        assert name in told


def test_unknown_config_key(tmp_path):
    workdir = tmp_path / "run"
    result = train("x", workdir, "--config.synthesis.steps=3")
    line = "found an unknown key; did you mean config.synthesis.train.steps?"
    assert_one_line(result, f"error: config.synthesis.steps: {line}")
    assert not workdir.exists()


def test_an_item_of_a_config_value(tmp_path):
    line = "config.stages[7]: found an item of a value, expected the whole one, such as --config.st"
    assert_one_line(train("x", tmp_path / "run", "--config.stages[7]=bank"), f"error: {line}")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("bank.grid", ("a", 3), r"bank.grid: found ('a', 3), expected tuple[int, int]"),
        ("bank.donors", "4", "bank.donors: found '4', expected int"),
        ("bank.donors", True, "bank.donors: found True, expected int"),
        ("pipeline.chunk", None, "pipeline.chunk: found None, expected int"),
        ("transformer.net.widths", (8, 8.5), "widths: found (8, 8.5), expected tuple[int, ...]"),
        ("synthesis.net.remat", "no", "synthesis.net.remat: found 'no', expected bool"),
        ("bank.smoothing_frac", 0.3, "bank.smoothing_frac: found 0.3, expected 0 to 0.25"),
        ("canvas.layers", 0, "canvas.layers: found 0, expected at least 1"),
        ("bank.donors", 4, "donors: found 4, expected no more than config.pipeline.candidates, 3"),
        ("pipeline.candidates", 1, "found 2, expected no more than config.pipeline.candidates, 1"),
        ("pipeline.max_aspect", float("inf"), "pipeline.max_aspect: found inf, expected 0 to 1000"),
        ("pipeline.light_weight", 17.0, "pipeline.light_weight: found 17.0, expected 0 to 16"),
    ],
)
def test_a_config_value_that_cannot_be(key, value, expected, tiny_config):
    config = copy.deepcopy(tiny_config)
    with config.ignore_type():
        config.update_from_flattened_dict({key: value})
    with pytest.raises(InputError, match=re.escape(expected)):
        read_settings(config)


def test_unknown_config_argument(tmp_path):
    result = run("train.py", "--config=configs/camvid.py:tiny", f"--workdir={tmp_path}")
    assert_one_line(result, ":small")


def test_missing_folder(tmp_path):
    few = "--config.synthesis.train.steps=3"  # which is no mistake
    assert_one_line(train(tmp_path / "nowhere", tmp_path / "run", few), "nowhere")
    assert not (tmp_path / "run" / "bank").exists()


@pytest.mark.parametrize(
    "program", ["train.py", "synthesize.py", "-m sims_jax.data.check", "-m sims_jax.bank inspect"]
)
def test_a_python_without_jax_is_one_line(program):
    flags = {"synthesize.py": ["--workdir=x", "--layout=x", "--out=x"]}.get(program, ["--bank=x"])
    result = subprocess.run(
        [sys.executable, "-S", *program.split(), *flags],  # without what is installed
        cwd=ROOT,
        env={"HOME": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert_one_line((result.returncode, result.stderr.strip()), sys.executable, "take .venv/bin/")
    assert result.returncode == 2


def test_a_config_that_is_not_there_is_told_of_the_presets(tmp_path):
    for config in ("nope", "configs/nope.py:small"):
        found = run("train.py", f"--config={config}", f"--workdir={tmp_path / 'run'}")
        assert_one_line(found, config.partition(":")[0], "camvid, cityscapes, quickstart")
    assert not list(tmp_path.iterdir())


def test_a_path_that_is_empty_is_not_the_current_folder(capsys):
    assert_one_line(run("train.py", "--config=quickstart", "--workdir="), "--workdir=: found noth")
    for parser, flags in (
        (synthesize_command.synthesize_parser, ["--workdir=w", "--layout=", "--out=o"]),
        (evaluate_parser, ["--workdir="]),
        (bank_parser, ["inspect", "--bank="]),
    ):
        with pytest.raises(SystemExit) as stop:
            parser().parse_args(flags)
        assert stop.value.code == 2
        (empty,) = (flag.strip("=") for flag in flags if flag.endswith("="))
        assert f"{empty}: found nothing, expected a path" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("parser", "flags", "named"),
    [
        (synthesize_command.synthesize_parser, ["--layouts=l"], "--workdir, --layout, --out"),
        (evaluate_parser, ["--split=test"], "--split: invalid choice: 'test'"),
        (bank_parser, ["frobnicate"], "invalid choice: 'frobnicate'"),
        (bank_parser, ["remove", "--bank=b"], "--photo"),
    ],
)
def test_flags_that_cannot_be_are_one_line(parser, flags, named, capsys):
    with pytest.raises(SystemExit) as stop:
        parser().parse_args(flags)
    assert_one_line((stop.value.code, capsys.readouterr().err.strip()), named, "--help tells")


def test_flags_that_are_missing_are_one_line():
    named = [f"flag --{name}=None: found none, expected one" for name in ("workdir", "config")]
    assert_one_line(run("train.py"), *named)


def test_a_workdir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    found = run("train.py", "--config=quickstart", f"--workdir={tmp_path / 'file'}")
    assert_one_line(found, "file: found a file, expected a folder")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_presets_argument_that_cannot_be_is_told_in_its_own_words(tmp_path):
    found = run("train.py", "--config=camvid:smal", f"--workdir={tmp_path / 'run'}")
    assert_one_line(found, "camvid.py:smal: expected :small")
    assert "ValueError" not in found[1]


@pytest.mark.parametrize("module", ["sims_jax.data.check", "benchmarks.study"])
def test_an_empty_path_beside_a_config_is_refused(module):
    found = subprocess.run(
        [sys.executable, "-m", module, "--config=quickstart", "--json="],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 2
    assert re.search("--json.*: found nothing, expected a path", found.stderr)


@pytest.mark.parametrize(
    ("module", "flag"),
    [
        ("accelerator", "--json="),
        ("bank", "--folder="),
        ("components", "--layouts="),
        ("retrieval", "--query-layouts="),
        ("synthesize", "--workdir="),
        ("train_step", "--json="),
    ],
)
def test_an_empty_path_of_a_benchmark_is_refused(module, flag, monkeypatch, capsys):
    name = f"benchmarks.{module}"
    if extra := EXTRAS.get(name):
        pytest.importorskip(extra, reason="the extra `bench` is not installed")
    monkeypatch.setattr(sys, "argv", [name, flag])
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(name).main()
    assert stop.value.code == 2
    assert f"{flag.strip('=')}: found nothing, expected a path" in capsys.readouterr().err


def test_help_tells_of_no_flags_of_libraries():
    for arguments in (["train.py"], ["-m", "benchmarks.study"]):
        found = subprocess.run(
            [sys.executable, *arguments, "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert "--workdir" in found.stdout and "--config.KEY=VALUE" in found.stdout
        assert not re.search("grain|orbax|tensorflow", found.stdout)


def test_no_dataset_named(tmp_path):
    assert_one_line(train("", tmp_path / "run"), "data.root")


def test_empty_dataset(tmp_path):
    for name in ("train", "trainannot", "val", "valannot"):
        (tmp_path / "data" / name).mkdir(parents=True)
    assert_one_line(train(tmp_path / "data", tmp_path / "run"), "train")


def test_truncated_and_mismatched_files(camvid_like, tmp_path):
    import shutil

    for number, (fault, part) in enumerate([(truncate, "000001.png"), (enlarge, "000001.png")]):
        root = tmp_path / f"data{number}"
        shutil.copytree(camvid_like, root)
        fault(root / "train" / "0001TP_000001.png")
        workdir = tmp_path / f"run{number}"
        assert_one_line(train(root, workdir), part)
        assert not (workdir / "bank").exists()


def truncate(path):
    path.write_bytes(path.read_bytes()[:200])


def enlarge(path):
    Image.new("RGB", (50, 40)).save(path)


def test_synthesize_without_a_model(tmp_path):
    result = run("synthesize.py", f"--workdir={tmp_path}", f"--layout={ROOT}", f"--out={tmp_path}")
    assert_one_line(result, str(ROOT), "PNG")
    Image.new("L", (4, 4)).save(tmp_path / "layout.png")
    arguments = (f"--layout={tmp_path / 'layout.png'}", f"--out={tmp_path / 'out'}")
    assert_one_line(run("synthesize.py", f"--workdir={tmp_path}", *arguments), "config.json")
    assert not (tmp_path / "out").exists()


def test_errors_of_the_system_are_one_line(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    faults = {
        f"error: {file}: File exists; check": file.mkdir,
        f"error: {file / 'run'}: Not a directory; check": (file / "run").mkdir,
    }
    for message, fault in faults.items():
        with pytest.raises(SystemExit) as stopped:
            commands.exit_with_one_line(fault)
        assert stopped.value.code == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith(message) and len(error.splitlines()) == 1


def test_a_workdir_that_is_a_file(camvid_like, tmp_path):
    (tmp_path / "run").write_text("")
    assert_one_line(train(camvid_like, tmp_path / "run"), str(tmp_path / "run"))


@pytest.fixture
def synthesize(tiny_model, tmp_path, monkeypatch):
    """Runs `synthesize.py` on tmp_path / "layouts", which has one layout, into tmp_path / "out"."""
    import sims_jax.model

    monkeypatch.setattr(sims_jax.model, "load", lambda workdir, **where: tiny_model)
    write_ids(tmp_path / "layouts" / "a.png", (8, 8))

    def run(*flags):
        flags = (f"--layout={tmp_path / 'layouts'}", f"--out={tmp_path / 'out'}", *flags)
        parser = synthesize_command.synthesize_parser()
        synthesize_command._synthesize(parser.parse_args(["--workdir=x", *map(str, flags)]))

    return run


def write_ids(path, size, value=0):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.full(size, value, np.uint8)).save(path)


def test_bad_layouts_stop_before_the_first_photo(synthesize, tmp_path):
    bad = {
        "id 77": Image.fromarray(np.full((8, 8), 77, np.uint8)),
        "RGBA": Image.new("RGBA", (8, 8)),
        "colour": Image.new("RGB", (8, 8), (1, 2, 3)),
    }
    for part, image in bad.items():
        image.save(tmp_path / "layouts" / "b.png")
        with pytest.raises(InputError, match=r"b\.png.*" + part.split()[-1]):
            synthesize()
        assert not (tmp_path / "out").exists()


def test_mixed_sizes_on_one_sheet_and_hidden_files(synthesize, tmp_path):
    write_ids(tmp_path / "layouts" / "b.png", (20, 8))
    (tmp_path / "layouts" / "._a.png").write_text("what another system leaves")
    synthesize("--sheet")
    names = {path.name for path in (tmp_path / "out").glob("[!.]*")}
    assert names == {"a.png", "b.png", "sources.json", "sheet.png"}
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.height == 2 * HEADING_PX + 600 + 2 * GAP_PX  # of 20x8 shrunk to 240 columns


def test_sheets_show_what_coarse_layouts_became(synthesize, tmp_path):
    widths = []
    for flags in ((), ("--coarse",)):
        synthesize("--sheet", *flags)
        with Image.open(tmp_path / "out" / "sheet.png") as sheet:
            widths.append(sheet.width)
    assert widths[1] - widths[0] == synthesize_command.SHEET_PICTURE_PX + GAP_PX


def test_a_reference_of_one_colour_is_named(synthesize, tmp_path):
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "flat.png")
    with pytest.raises(InputError, match=r"flat\.png: found one colour alone"):
        synthesize(f"--reference={tmp_path / 'flat.png'}")
    assert not (tmp_path / "out").exists()


def test_layouts_of_void_alone_are_named(synthesize, tmp_path, capsys):
    write_ids(tmp_path / "layouts" / "b.png", (20, 8), value=255)
    synthesize()
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "void alone" in line)
    assert line.endswith(f"show nothing (1): {tmp_path / 'layouts' / 'b.png'}")


def test_sources_of_earlier_photos_are_kept(synthesize, tmp_path, monkeypatch):
    synthesize()
    (tmp_path / "layouts" / "a.png").unlink()
    for name in ("b", "c"):
        write_ids(tmp_path / "layouts" / f"{name}.png", (8, 8), 1)
    with monkeypatch.context() as patch:
        patch.setattr(synthesize_command, "_shrink", lambda _: 1 / 0)  # once b.png is made
        with pytest.raises(ZeroDivisionError):
            synthesize("--sheet")
    sources = tmp_path / "out" / "sources.json"
    told = json.loads(sources.read_text())
    layers = {name: [segment["layer"] for segment in segments] for name, segments in told.items()}
    assert layers == {"a.png": [0, 1], "b.png": [0, 1]}  # one segment, and what fills it
    sources.write_text('{"a.png": [{"class')
    with pytest.raises(InputError, match=r"out/sources\.json: found no sources.*--out"):
        synthesize()
    assert not (tmp_path / "out" / "c.png").exists()


def test_sources_of_several_commands_at_once_are_kept(tmp_path):
    path = tmp_path / "new" / "sources.json"

    def add(number):
        for photo in range(10):
            name = f"{number}-{photo}.png"
            synthesize_command._add_sources(path, [name], {name: []})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(8)))
    assert len(json.loads(path.read_text())) == 80


def test_the_wait_for_the_first_photo_is_told_of(synthesize, capsys):
    synthesize()
    first, last = capsys.readouterr().out.splitlines()
    assert first == "synthesize: compiling" and last.startswith("1 photo and sources.json: ")


def test_sources_tell_of_the_reference_and_photos_may_be_excluded(synthesize, tiny_model, tmp_path):
    def sources(*flags):
        synthesize(*flags)
        return json.loads((tmp_path / "out" / "sources.json").read_text())["a.png"]

    plain, filling = sources()
    assert plain["reference"] is filling["reference"] is None
    assert (plain["layer"], filling["layer"]) == (0, 1) and plain["row_id"] != filling["row_id"]
    dusk = tmp_path / "dusk.png"
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).quantize(8).save(dusk)
    lit, _ = sources(f"--exclude={plain['photo_id']}", f"--reference={dusk}")
    sha256 = hashlib.sha256(dusk.read_bytes()).hexdigest()
    assert lit["reference"] == {"file": "dusk.png", "sha256": sha256}
    assert lit["photo_id"] not in (None, plain["photo_id"])
    (alone,) = sources(f"--reference={dusk}", *(f"--exclude={i}" for i in tiny_model.photo_ids))
    assert alone["photo_id"] is alone["reference"] is None
    with pytest.raises(InputError, match="photo 'nobody' is not in the bank"):
        synthesize("--exclude=nobody")


def test_a_terminated_training_says_how_to_go_on(monkeypatch, capsys):
    from sims_jax.training import run

    def stop(_):
        raise Terminated("ordering: stopped by SIGTERM, step 3 is saved")

    monkeypatch.setattr(run.Run, "run", stop)
    with pytest.raises(SystemExit) as exit_:
        commands.exit_with_one_line(lambda: commands._train(None, None, 1))
    assert exit_.value.code == 143
    assert "step 3 is saved; the same command goes on" in capsys.readouterr().err


def test_what_a_user_can_mend_is_one_line(monkeypatch, capfd):
    def fail(error):
        def do():
            raise error

        return do

    left = []
    monkeypatch.setattr(commands.os, "_exit", left.append)
    commands.exit_with_one_line(fail(KeyboardInterrupt()))
    assert left == [130]
    monkeypatch.setattr(processes, "leave", left.append)
    full = RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nBackTrace: ...")
    for error in (full, MemoryError()):
        with pytest.raises(type(error)):  # where leaving is not the end, as here
            commands.exit_with_one_line(fail(error))
    assert left == [130, 2, 2]
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "stopped by Ctrl-C" in lines[0]
    assert "memory: RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.; in training" in lines[1]


def test_nothing_is_overwritten_that_was_not_made_here(synthesize, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for where, flags in ((out, [f"--reference={out / 'a.png'}"]), (out, [])):
        Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(where / "a.png")
        with pytest.raises(InputError, match=r"out/a\.png: found .*change --out"):
            synthesize(*flags)
    (out / "a.png").unlink()
    synthesize()
    synthesize()  # what was made here is


def test_npy_layouts_give_png_photos(synthesize, tmp_path):
    np.save(tmp_path / "layouts" / "b.npy", np.zeros((8, 8), int))
    synthesize()
    names = {path.name for path in (tmp_path / "out").glob("[!.]*")}
    assert names == {"a.png", "b.png", "sources.json"}
    np.save(tmp_path / "layouts" / "a.npy", np.zeros((8, 8), int))
    with pytest.raises(InputError, match=r"a\.png: found also a\.npy, expected one file a name"):
        synthesize()


def test_a_sheet_has_room_for_the_largest_picture():
    small, high = np.zeros((2, 4, 3), np.uint8), np.ones((5, 3, 3))
    sheet = contact_sheet([[small, high], [high]])
    assert sheet.shape == (2 * 5 + 3 * GAP_PX, 2 * 4 + 3 * GAP_PX, 3)
    assert (sheet[GAP_PX : GAP_PX + 2, GAP_PX : GAP_PX + 4] == 0).all()
    assert (sheet == 0).sum() == small.size  # all else is white


def test_columns_have_headings_which_begin_anew():
    white = np.ones((4, 40, 3))
    plain, named = contact_sheet([[white] * 4]), contact_sheet([[white] * 4], ["photo", "real"])
    assert named.shape == (plain.shape[0] + HEADING_PX, *plain.shape[1:])
    np.testing.assert_array_equal(named[HEADING_PX:], plain)
    strips = [named[:HEADING_PX, 44 * i + GAP_PX :][:, :40] for i in range(4)]
    assert all(strip.min() < 128 for strip in strips)
    np.testing.assert_array_equal(strips[0], strips[2])
    np.testing.assert_array_equal(strips[1], strips[3])
    assert (strips[0] != strips[1]).any()
    assert (named[:HEADING_PX, :GAP_PX] == 255).all()
    below = contact_sheet([[white] * 2] * 2, names=[["a", ""], ["b", ""]])
    assert below.shape == (2 * (HEADING_PX + 4 + GAP_PX) + GAP_PX, 2 * (40 + GAP_PX) + GAP_PX, 3)
    first, second = (below[y:][:HEADING_PX] for y in (GAP_PX, HEADING_PX + 4 + 2 * GAP_PX))
    assert first[:, :44].min() < 128 and second[:, :44].min() < 128 and (first != second).any()
    assert (below[:, 48:] == 255).all()


def test_files_that_cannot_be_written_are_refused_with_the_flags(tmp_path, capsys):
    """And flags have one name each."""
    for flags, found in (
        (["--json=."], "found a folder, expected a file"),
        ([f"--json={tmp_path / 'file' / 'x.json'}"], "which is no folder"),
        (["--baseline"], "--baseline"),
    ):
        (tmp_path / "file").write_text("")
        with pytest.raises(SystemExit) as ended:
            evaluate_parser().parse_args(["--workdir=x", *flags])
        assert ended.value.code == 2 and found in capsys.readouterr().err
    with pytest.raises(InputError, match="found a folder"):
        write_picture(tmp_path, np.zeros((2, 2, 3)))
    path = tmp_path / "new" / "x.json"
    assert evaluate_parser().parse_args(["--workdir=x", f"--json={path}"]).json == path
    assert not list(path.parent.iterdir())


def test_nothing_that_was_given_is_overwritten(synthesize, tmp_path):
    layouts = tmp_path / "layouts"
    before = (layouts / "a.png").read_bytes()
    (tmp_path / "link").symlink_to(layouts)
    for flags in (
        [f"--out={layouts}"],
        [f"--out={tmp_path / 'link'}"],
        [f"--layout={layouts / 'a.png'}", f"--out={layouts}"],
    ):
        with pytest.raises(InputError, match=r"a\.png: .*--out"):
            synthesize(*flags)
    write_ids(tmp_path / "instances" / "a.png", (8, 8))
    instances = f"--instances={tmp_path / 'instances'}"
    with pytest.raises(InputError, match=r"instances/a\.png: .*--out"):
        synthesize(instances, f"--out={tmp_path / 'instances'}")
    write_ids(layouts / "sheet.png", (8, 8))
    with pytest.raises(InputError, match=r"sheet\.png: .*--sheet"):
        synthesize("--sheet")
    assert (layouts / "a.png").read_bytes() == before
    assert not (tmp_path / "out").exists()


def test_flags_are_refused_before_anything_is_written(synthesize, tmp_path):
    write_ids(tmp_path / "instances" / "a.png", (8, 9))
    with pytest.raises(InputError, match=r"instances/a\.png: found 8x9 .* 8x8"):
        synthesize(f"--instances={tmp_path / 'instances'}")
    with pytest.raises(InputError, match="candidate: found 3"):
        synthesize("--candidate=3")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: found a file, expected a folder"):
        synthesize(f"--out={tmp_path / 'file'}")


def test_presets_are_found_without_a_checkout(monkeypatch, tmp_path):
    (tmp_path / "camvid.py").write_text("")
    monkeypatch.setattr(commands, "PACKAGED_CONFIGS", tmp_path)
    found = commands._find_presets(["train", "--config=camvid:small", "--workdir=x"])
    assert found == ["train", f"--config={tmp_path / 'camvid.py'}:small", "--workdir=x"]
    monkeypatch.setattr(commands, "PACKAGED_CONFIGS", tmp_path / "none")
    monkeypatch.setattr(commands, "CHECKOUT_CONFIGS", tmp_path)
    found = commands._find_presets(["train", "--config", "camvid:small"])
    assert found == ["train", "--config", f"{tmp_path / 'camvid.py'}:small"]
    for others in (["--config=configs/camvid.py"], ["--workdir", "camvid"], ["--config"]):
        assert commands._find_presets(["train", *others]) == ["train", *others]
