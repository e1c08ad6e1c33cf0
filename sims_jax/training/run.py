"""A whole training run: its stages in order, each finished once, skipped or continued after that.

    bank          photos and layouts into two banks: training, and held out
    features      Φ of the perceptual loss, where no weights are given
    transformer   ordering   densifier   synthesis
    report        report.json, sheet.png and layouts/, from the held-out photos

A stage's folder in the workdir holds its checkpoints and, when it is finished, `done.json`.
"""

import dataclasses
import importlib.metadata
import json
import pathlib
import subprocess
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from sims_jax.bank.build import build_bank
from sims_jax.bank.donors import find_donors
from sims_jax.bank.store import Store, open_bank, to_device
from sims_jax.canvas.simulate import SimulationConfig
from sims_jax.checkpoints import Checkpoints
from sims_jax.config import make, save_config
from sims_jax.data.source import open_dataset
from sims_jax.errors import InputError
from sims_jax.labels import colorize, write_layout
from sims_jax.model import Model, assemble, make_networks
from sims_jax.nets.vgg import VGGConfig, load_vgg
from sims_jax.ops.sheet import contact_sheet, write_picture
from sims_jax.training.alignment import align_donors
from sims_jax.training.loop import Task, TrainConfig, train
from sims_jax.training.tasks.densifier import DensifierTask
from sims_jax.training.tasks.features import Features, FeaturesTask
from sims_jax.training.tasks.heldout import spread
from sims_jax.training.tasks.ordering import OrderingTask
from sims_jax.training.tasks.synthesis import SynthesisTask
from sims_jax.training.tasks.transformer import DisturbanceConfig, TransformerTask
from sims_jax.training.writers import MetricsWriter
from sims_jax.types import BankSpec

STAGES = ("bank", "features", "transformer", "ordering", "densifier", "synthesis")
SHEET_LAYOUTS = 8
DONE_FILE = "done.json"


@dataclasses.dataclass(frozen=True)
class Run:
    """One workdir and its config. `run()` does what is left to do."""

    config: ConfigDict
    workdir: pathlib.Path

    def run(self) -> dict[str, Any] | None:
        """Runs the config's stages; the report if all stages are then finished.

        Raises:
          InputError: something in the config, the data or the workdir cannot be used.
        """
        unknown = sorted(set(self.config.stages) - set(STAGES))
        if unknown:
            raise InputError(f"config.stages: found {unknown[0]!r}, expected some of {STAGES}")
        make_networks(self.config, labels=None)  # a mistyped key is found now, not after hours
        train_configs = {name: self._train_config(name) for name in STAGES[1:]}
        save_config(self.config, self.workdir)
        write_json(self.workdir / "versions.json", _versions())
        with MetricsWriter(self.workdir) as writer:
            for stage in STAGES:
                if stage in self.config.stages:
                    self._once(stage, lambda s=stage: self._stage(s, train_configs, writer))
        if all(self._is_done(stage) for stage in STAGES):
            return self._report()
        return None

    # Stages.

    def _stage(self, stage: str, train_configs, writer: MetricsWriter) -> dict[str, float]:
        if stage == "bank":
            return self._build_banks()
        if stage == "features" and self.config.features.weights:
            _, _, sha256 = load_vgg(self.config.features.weights)
            return {"weights": self.config.features.weights, "sha256": sha256}
        task = self._task(stage)
        params = train(task, train_configs[stage], self._folder(stage), writer, self.config.seed)
        scores = task.evaluate(params)
        writer.write(stage, train_configs[stage].steps, scores)
        writer.write_sheet(stage, train_configs[stage].steps, task.sheet(params))
        return scores

    def _build_banks(self) -> dict[str, int]:
        dataset = open_dataset(self.config.data, self.workdir / "data")
        spec = self._spec(dataset.labels)
        for name, split in (("bank", "train"), ("heldout", "val")):
            build_bank(
                dataset.splits[split],
                spec,
                self.workdir / name,
                source_name=f"{dataset.name}/{split}",
                licence=dataset.licence,
            )
        store = self._store()
        near = self.config.bank.near_frames
        bank = to_device(store)
        find_donors(store, store, bank, candidates=self.config.bank.donors, near_frames=near)
        find_donors(self._heldout(), store, bank, candidates=1, near_frames=near)
        return {"photos": len(store.ids), "segments": len(store.row_class)}

    def _task(self, stage: str) -> Task:
        store, heldout = self._store(), self._heldout()
        networks = make_networks(self.config, store.spec.labels)
        if stage == "features":
            return FeaturesTask(self._vgg_config(), store, heldout)
        if stage == "transformer":
            where = "config.transformer.disturbance"
            disturbance = make(DisturbanceConfig, self.config.transformer.disturbance, where)
            return TransformerTask(networks.transformer, disturbance, store, heldout)
        if stage == "ordering":
            return OrderingTask.create(networks.ordering, store, heldout)
        if stage == "densifier":
            return DensifierTask(networks.densifier, store, heldout)
        transformer = self._restore("transformer")
        near = self.config.bank.near_frames
        bank = to_device(store)

        def table(queries: Store, candidates: int):
            rows = find_donors(queries, store, bank, candidates=candidates, near_frames=near)
            return align_donors(transformer, networks.transformer, queries, store, rows)

        return SynthesisTask(
            config=networks.synthesis,
            canvas=networks.canvas,
            simulation=make(SimulationConfig, self.config.simulation, "config.simulation"),
            segmentation_weight=self.config.synthesis.segmentation_weight,
            features=self._features(store),
            store=store,
            donors=table(store, self.config.bank.donors),
            heldout=heldout,
            heldout_donors=table(heldout, 1),
        )

    def _features(self, store: Store) -> Features:
        if self.config.features.weights:
            params, vgg, _ = load_vgg(self.config.features.weights)
            return Features.calibrate(vgg, {"params": params}, store)
        trunk = self._restore("features")["params"]["vgg"]
        return Features.calibrate(self._vgg_config(), {"params": trunk}, store)

    # The report.

    def _report(self) -> dict[str, Any]:
        done = {stage: self._done(stage) for stage in STAGES}
        report = {stage: done[stage]["scores"] for stage in STAGES}
        report["seconds"] = {stage: done[stage]["seconds"] for stage in STAGES}
        sheet = self.workdir / "sheet.png"
        if not sheet.exists():
            params = {name: self._restore(name) for name in STAGES[2:]}
            model = assemble(self.config, self._store(), params)
            write_picture(sheet, heldout_sheet(model, self._heldout()))
        self._write_layouts()
        write_json(self.workdir / "report.json", report)
        return report

    def _write_layouts(self) -> None:
        """The held-out layouts as PNGs: something to synthesize from."""
        heldout, folder = self._heldout(), self.workdir / "layouts"
        folder.mkdir(exist_ok=True)
        for photo_id, layout in zip(heldout.ids, heldout.layout, strict=True):
            write_layout(folder / f"{photo_id}.png", layout, heldout.spec.labels)

    # What is on disk.

    def _folder(self, stage: str) -> pathlib.Path:
        return self.workdir / stage

    def _is_done(self, stage: str) -> bool:
        return (self._folder(stage) / DONE_FILE).exists()

    def _done(self, stage: str) -> dict[str, Any]:
        return json.loads((self._folder(stage) / DONE_FILE).read_text())

    def _once(self, stage: str, do: Callable[[], dict[str, Any]]) -> None:
        if self._is_done(stage):
            return
        self._check_needs(stage)
        began = time.monotonic()
        scores = do()
        seconds = round(time.monotonic() - began, 1)
        write_json(self._folder(stage) / DONE_FILE, {"seconds": seconds, "scores": scores})
        told = ", ".join(f"{k} {v:.4g}" for k, v in scores.items() if isinstance(v, int | float))
        print(f"{stage}: done in {seconds:.0f} s: {told}", flush=True)

    def _check_needs(self, stage: str) -> None:
        needed = {"bank": (), "synthesis": ("bank", "features", "transformer")}
        for other in needed.get(stage, ("bank",)):
            if not self._is_done(other):
                raise InputError(
                    f"config.stages: {stage} needs {other}, which is not finished in "
                    f"{self.workdir}; run the stage {other} first"
                )

    def _store(self) -> Store:
        return open_bank(self.workdir / "bank")

    def _heldout(self) -> Store:
        return open_bank(self.workdir / "heldout")

    def _restore(self, stage: str):
        with Checkpoints(self._folder(stage)) as checkpoints:
            return checkpoints.restore_ema()

    # What the config says.

    def _spec(self, labels) -> BankSpec:
        bank = self.config.bank
        return BankSpec(
            labels=labels,
            image_size=tuple(bank.image_size),
            grid=tuple(bank.grid),
            max_segments=bank.max_segments,
            min_area_frac=bank.min_area_frac,
        )

    def _vgg_config(self) -> VGGConfig:
        return VGGConfig(width_multiplier=self.config.features.width_multiplier)

    def _train_config(self, stage: str) -> TrainConfig:
        return make(TrainConfig, self.config[stage].train, f"config.{stage}.train")


def heldout_sheet(model: Model, heldout: Store) -> np.ndarray:
    """Rows of: layout | canvas | photo | real, for held-out layouts."""
    rows = []
    for index in spread(len(heldout.ids), SHEET_LAYOUTS):
        result = model.synthesize(heldout.layout[index])
        layout = colorize(heldout.layout[index], model.labels)
        rows.append([layout, result.canvas, result.photo, heldout.photo[index]])
    return contact_sheet(rows)


def write_json(path: pathlib.Path, values: dict[str, Any]) -> None:
    """Writes a whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".json.tmp")
    aside.write_text(json.dumps(values, indent=2) + "\n")
    aside.replace(path)


def _versions() -> dict[str, str]:
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "sims_jax")
    versions = {package: importlib.metadata.version(package) for package in packages}
    here = pathlib.Path(__file__).parent
    git = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    )
    return versions | {
        "commit": git.stdout.strip() or "not a checkout",
        "devices": str(jax.devices()),
    }
