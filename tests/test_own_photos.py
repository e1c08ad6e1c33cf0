"""docs/your-own-photos.md: whatever it says that a command may say, one does."""

import dataclasses
import json
import os
import pathlib
import re

import numpy as np
import pytest
from faults import FAULTS, layout_of, save
from replicas import CLASSES, SIZE, write_folder

from sims_jax import commands, synthesize_command
from sims_jax.config import save_config
from sims_jax.data.check.report import check_dataset, to_text
from sims_jax.errors import InputError
from sims_jax.labels import CITYSCAPES
from sims_jax.result import Result, Source
from sims_jax.training import loop, settings
from sims_jax.training.run import Run
from sims_jax.training.tasks.ordering import OrderingTask
from sims_jax.training.termination import Terminated

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "your-own-photos.md").read_text()
TOLD = re.findall(r"^\| `(.+?)` \| .+ \|$", PAGE.partition("\n## ")[0], re.MULTILINE)


def check(root):
    data = {"name": "folder", "root": str(root)}
    return to_text(check_dataset(data, image_size=SIZE, min_area_frac=0.01))


def message_of(function, *arguments, **options):
    with pytest.raises(InputError) as caught:
        function(*arguments, **options)
    return str(caught.value)


# What is planted in a sound folder before it is checked, besides FAULTS.


def change_labels(root, **changes):
    path = root / "labels.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def drop_unit(root):
    (root / "labels.json").write_text(json.dumps({"classes": CLASSES}))


def empty(root):
    for folder in ("photos", "layouts"):
        for path in (root / folder).iterdir():
            path.unlink()


def keep_one(root, listed=False):
    for folder in ("photos", "layouts", "instances", "depth"):
        for number in (1, 2, 3, 4):
            (root / folder / f"straße {number}.png").unlink()
    if listed:
        (root / "split.json").write_text(json.dumps({"train": ["straße 0"]}))
    else:
        (root / "split.json").unlink()


def list_twice(root):
    path = root / "split.json"
    splits = json.loads(path.read_text())
    path.write_text(json.dumps({"train": [*splits["train"], *splits["val"]], "val": splits["val"]}))


def rename_to_no_text(root):
    (root / "photos" / "straße 1.png").rename(root / "photos" / os.fsdecode(b"stra\xdfe.png"))


def copy_photo(root):
    data = (root / "photos" / "straße 0.png").read_bytes()
    (root / "photos" / "straße 4.png").write_bytes(data)


def give_label_ids(root):
    colors = zip(CITYSCAPES.classes, CITYSCAPES.palette, strict=True)
    change_labels(root, classes=[{"name": name, "color": color} for name, color in colors])
    save(layout_of(root), np.full(SIZE, 26, np.uint8))


PLANTS = {
    "no layouts": lambda root: (root / "layouts").rename(root / "labels"),
    "no labels.json": lambda root: (root / "labels.json").unlink(),
    "no JSON": lambda root: (root / "labels.json").write_text("{"),
    "no colour": lambda root: change_labels(root, classes=[{"name": "sky"}]),
    "a key that is none": lambda root: change_labels(root, classs=[]),
    "a name twice": lambda root: change_labels(root, classes=[*CLASSES, CLASSES[0]]),
    "a class as void": lambda root: change_labels(root, void_ids=[0]),
    "no unit": drop_unit,
    "no photos": empty,
    "a map missing": lambda root: (root / "instances" / "straße 1.png").unlink(),
    "two of a name": lambda root: (root / "photos" / "straße 1.jpg").write_bytes(b"x"),
    "no text": rename_to_no_text,
    "one photo": keep_one,
    "one photo listed": lambda root: keep_one(root, listed=True),
    "a name too many": lambda root: (root / "split.json").write_text('{"train": ["a"]}'),
    "a name in both lists": list_twice,
    "one held out": lambda root: (root / "split.json").write_text(
        json.dumps({"train": [f"straße {i}" for i in range(4)], "val": ["straße 4"]})
    ),
    "a name listed twice": lambda root: (root / "split.json").write_text('{"train": ["a", "a"]}'),
    "no picture": lambda root: (root / "photos" / "straße 1.png").write_bytes(b"GIF89a"),
    "a photo of RGBA": lambda root: save(
        root / "photos" / "straße 1.png", np.zeros((*SIZE, 4), np.uint8)
    ),
    "a colour": lambda root: save(layout_of(root), np.full((*SIZE, 3), 99, np.uint8)),
    "no layout": lambda root: layout_of(root).write_bytes(b"GIF89a"),
    "a JPEG": lambda root: layout_of(root).write_bytes(b"\xff\xd8\xff"),
    "label ids": give_label_ids,
    "a copy": copy_photo,
    "a unicorn": lambda root: change_labels(
        root, classes=[*CLASSES, {"name": "unicorn", "color": [99, 9, 9]}]
    ),
} | {plant.__name__: plant for plant in FAULTS}


def said_of_folders(tmp_path):
    for name, plant in PLANTS.items():
        root = tmp_path / name / "data"
        write_folder(root)
        plant(root)
        yield check(root)


def said_of_training(tmp_path, config, stores, capsys):
    def changed(**changes):
        other = config.copy_and_resolve_references()
        with other.unlocked():
            other.update(changes)
        return other

    save_config(config, tmp_path / "run")
    yield message_of(Run(changed(seed=7), tmp_path / "run").run)
    yield message_of(Run(changed(ordring={}), tmp_path / "other").run)
    read = settings.read_settings(config)
    yield message_of(settings.check_batches, read, settings.STAGES, 3)
    flat = dataclasses.replace(
        stores[0], spec=dataclasses.replace(stores[0].spec, labels=all_planar(stores[0]))
    )
    yield message_of(OrderingTask.create, None, flat, flat)
    yield message_of(loop._check_finite, {"loss": float("nan")}, "synthesis", 5, 4)
    for ends in (
        lambda: commands.exit_with_one_line(stop),
        lambda: commands._find_presets(["--config=nope"]),
        lambda: synthesize_command.synthesize_parser().parse_args(["--workdir="]),
    ):
        with pytest.raises(SystemExit):
            ends()
        yield capsys.readouterr().err


def all_planar(store):
    return dataclasses.replace(store.spec.labels, planar=store.spec.labels.classes)


def stop():
    raise Terminated("ordering: stopped by SIGTERM, step 3 is saved")


def said_of_synthesize(tmp_path, model, capsys):
    import sims_jax

    layouts, out = tmp_path / "layouts", tmp_path / "out"
    save_ids(layouts / "a.png", (8, 8))

    def synthesize(*flags):
        flags = (f"--layout={layouts}", f"--out={out}", *flags)
        parser = synthesize_command.synthesize_parser()
        synthesize_command._synthesize(parser.parse_args(["--workdir=x", *flags]))

    yield message_of(sims_jax.load, tmp_path / "nowhere")
    yield message_of(sims_jax.model.restore_finished, tmp_path / "nowhere")
    undensified = dataclasses.replace(model, params=model.params.replace(densifier=None))
    yield message_of(undensified.synthesize, np.zeros((8, 8), np.uint8), coarse=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sims_jax, "load", lambda workdir, **where: model)
        (tmp_path / "none").mkdir()
        yield message_of(synthesize, f"--layout={tmp_path / 'none'}")
        yield message_of(synthesize, f"--out={layouts}")
        yield message_of(synthesize, f"--out={layouts / 'a.png'}")
        yield message_of(synthesize, f"--instances={tmp_path / 'none'}")
        save_ids(tmp_path / "instances" / "a.png", (8, 9))
        yield message_of(synthesize, f"--instances={tmp_path / 'instances'}")
        yield message_of(synthesize, "--candidate=3")
        yield message_of(synthesize, "--exclude=nobody")
        save(tmp_path / "flat.png", np.zeros((8, 8, 3), np.uint8))
        yield message_of(synthesize, f"--reference={tmp_path / 'flat.png'}")
        out.mkdir()
        (out / "sources.json").write_text("[]")
        yield message_of(synthesize)
        (out / "sources.json").unlink()
        patch.setattr(sims_jax, "load", lambda workdir, **where: EmptyBank(model))
        save(layouts / "b.png", np.full((8, 8), 255, np.uint8))
        synthesize()
    yield capsys.readouterr().out


class EmptyBank:
    """A model that finds nothing; the photo does not matter."""

    def __init__(self, model):
        self.labels = model.labels

    def synthesize(self, layout, **options):
        picture, mask = np.zeros((*layout.shape, 3), np.float32), np.zeros(layout.shape, np.float32)
        alone = Source("sky", (0, 0, 8, 8), None, None, 0.0, np.eye(2, 3), 0, False, 0)
        return Result(picture, picture, mask, layout, (alone,), (), 0)


def save_ids(path, size):
    path.parent.mkdir()
    save(path, np.zeros(size, np.uint8))


def test_whatever_the_page_tells_is_said(tmp_path, tiny_config, tiny_stores, tiny_model, capsys):
    assert len(TOLD) == len(set(TOLD)) > 40
    said = [
        *said_of_folders(tmp_path),
        *said_of_training(tmp_path, tiny_config, tiny_stores, capsys),
        *said_of_synthesize(tmp_path, tiny_model, capsys),
    ]
    assert [told for told in TOLD if not any(told in one for one in said)] == []
