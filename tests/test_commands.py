"""What a user gets wrong is one clear line and a status, and nothing is left half-written."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from sims_jax import commands
from sims_jax.errors import InputError

ROOT = pathlib.Path(__file__).parents[1]


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


def test_unknown_config_key(tmp_path):
    workdir = tmp_path / "run"
    assert_one_line(train("x", workdir, "--config.synthesis.steps=3"), "steps")
    assert not workdir.exists()


def test_unknown_config_argument(tmp_path):
    result = run("train.py", "--config=configs/camvid.py:tiny", f"--workdir={tmp_path}")
    assert_one_line(result, ":small")


def test_missing_folder(tmp_path):
    assert_one_line(train(tmp_path / "nowhere", tmp_path / "run"), "nowhere")
    assert not (tmp_path / "run" / "bank").exists()


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


def test_bad_layouts_stop_before_the_first_photo(tiny_model, tmp_path, monkeypatch):
    import argparse

    import sims_jax.model

    monkeypatch.setattr(sims_jax.model, "load", lambda workdir: tiny_model)
    folder = tmp_path / "layouts"
    folder.mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "a.png")
    arguments = argparse.Namespace(
        workdir=tmp_path, layout=folder, out=tmp_path / "out", coarse=False, instances=None,
        candidate=0, adherence=None, sheet=True,
    )  # fmt: skip
    bad = {
        "id 77": Image.fromarray(np.full((8, 8), 77, np.uint8)),
        "RGBA": Image.new("RGBA", (8, 8)),
        "colour": Image.new("RGB", (8, 8), (1, 2, 3)),
    }
    for part, image in bad.items():
        image.save(folder / "b.png")
        with pytest.raises(InputError, match=r"b\.png.*" + part.split()[-1]):
            commands._synthesize(arguments)
        assert not (tmp_path / "out").exists()
    (folder / "b.png").unlink()
    commands._synthesize(arguments)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"a.png", "sources.json", "sheet.png"}


def test_presets_are_found_without_a_checkout(monkeypatch, tmp_path):
    (tmp_path / "camvid.py").write_text("")
    monkeypatch.setattr(commands, "PACKAGED_CONFIGS", tmp_path)
    found = commands._find_presets(["train", "--config=camvid:small", "--workdir=x"])
    assert found == ["train", f"--config={tmp_path / 'camvid.py'}:small", "--workdir=x"]
    path = ["train", "--config=configs/camvid.py"]
    assert commands._find_presets(path) == path
