"""A whole training run: its stages in order, each finished once, skipped or continued after that.

    bank          photos and layouts into two banks: training, and held out
    features      Φ of the perceptual loss, where no weights are given
    transformer   ordering   densifier   synthesis
    report        report.json, sheet.png and layouts/, from the held-out photos

A stage's folder in the workdir holds its checkpoints and, when it is finished, `done.json`.
"""

import dataclasses
import importlib.metadata
import pathlib
import subprocess
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import sims_jax
from sims_jax.atomic import write_json
from sims_jax.bank.build import build_bank_together
from sims_jax.bank.description import read_description
from sims_jax.bank.device import rows_to_device
from sims_jax.bank.disk import DiskBank
from sims_jax.bank.donors import DonorConfig, find_donors
from sims_jax.bank.store import Store, open_bank
from sims_jax.checkpoints import DONE_FILE, digest_params, read_done, restore_finished, saved_steps
from sims_jax.config import save_config
from sims_jax.data.source import Dataset, open_dataset
from sims_jax.errors import InputError
from sims_jax.labels import LabelSpace, colorize, write_layout
from sims_jax.model import Model, assemble
from sims_jax.nets.vgg import load_vgg
from sims_jax.networks import make_networks
from sims_jax.ops.sheet import contact_sheet, write_picture
from sims_jax.processes import describe_devices, first_alone, first_before_others
from sims_jax.training.alignment import align_donors
from sims_jax.training.loop import Task, train
from sims_jax.training.settings import (
    STAGES,
    Settings,
    check_batches,
    describe_shares,
    read_settings,
)
from sims_jax.training.smaller import read_smaller
from sims_jax.training.tasks.densifier import DensifierTask
from sims_jax.training.tasks.features import Features, FeaturesTask
from sims_jax.training.tasks.heldout import spread
from sims_jax.training.tasks.ordering import OrderingTask
from sims_jax.training.tasks.synthesis import DonorTable, SynthesisTask
from sims_jax.training.tasks.transformer import TransformerTask
from sims_jax.training.writers import MetricsWriter
from sims_jax.words import counted

SHEET_FILE = "sheet.png"
SHEET_LAYOUTS = 8
SPLITS = {"bank": "train", "heldout": "val"}  # folder of a bank: split of the dataset
NEEDED = {"bank": (), "synthesis": ("bank", "features", "transformer")}  # stages; others: the bank


@dataclasses.dataclass(frozen=True)
class Run:
    """One workdir and its config. `run()` does what is left to do.

    `processes` build the banks, whose contents do not depend on their number.
    """

    config: ConfigDict
    workdir: pathlib.Path
    processes: int = 1

    def run(self) -> dict[str, Any] | None:
        """Runs the config's stages; the report if all stages are then finished.

        Raises:
          InputError: something in the config, the data or the workdir cannot be used; if it is the
            config or the data, nothing was begun.
        """
        settings = read_settings(self.config)
        self._check_needs()
        devices = describe_devices()
        dataset = None
        if not self._is_done("bank"):
            dataset = first_before_others("the dataset", self._open_dataset)
        check_batches(settings, self.config.stages, jax.device_count())
        print(f"{devices}: {describe_shares(settings, jax.device_count())}", flush=True)
        begun = self._is_done("synthesis") or saved_steps(self._folder("synthesis"))
        if "synthesis" in self.config.stages and not begun:
            smaller = self.read_smaller((dataset or self._store().spec).labels)
        else:
            smaller = None
        first_alone("the config", self._save_config)
        if finished := [stage for stage in self.config.stages if self._is_done(stage)]:
            print(f"{', '.join(finished)}: finished before", flush=True)
        with MetricsWriter(self.workdir) as writer:
            for stage in STAGES:
                if stage in self.config.stages and not self._is_done(stage):
                    began = time.monotonic()
                    print(f"{stage}: begins", flush=True)
                    if stage == "bank":
                        done = {"scores": self._build_banks(dataset, settings)}
                    elif stage == "features" and self.config.features.weights:
                        done = {"scores": {}, "weights": load_vgg(self.config.features.weights)[2]}
                    else:
                        done = self._train(stage, settings, writer, smaller)
                    self._finish(stage, done, seconds=time.monotonic() - began)
        return self._report() if all(map(self._is_done, STAGES)) else None

    def _save_config(self) -> None:
        save_config(self.config, self.workdir)
        write_json(self.workdir / "versions.json", _versions())

    # Stages.

    def _open_dataset(self) -> Dataset:
        dataset = open_dataset(self.config.data, self.workdir / "data")
        missing = sorted(set(SPLITS.values()) - set(dataset.splits))
        if missing:
            raise InputError(
                f"config.data: found no split {missing[0]!r} in {dataset.name}, expected train and "
                "val; hold some photos out"
            )
        return dataset

    def _build_banks(self, dataset: Dataset, settings: Settings) -> dict[str, int]:
        for folder, split in SPLITS.items():
            build_bank_together(
                dataset.splits[split],
                settings.bank.spec(dataset.labels),
                self.workdir / folder,
                source_name=f"{dataset.name}/{split}",
                licence=dataset.licence,
                processes=self.processes,
            )
        store, heldout = self._store(), self._heldout()
        if len(store.ids) < 2 or not len(store.row_class) or not len(heldout.row_class):
            raise InputError(
                f"config.data: found {counted(len(store.ids), 'training photo')} with "
                f"{counted(len(store.row_class), 'segment')} and held-out photos with "
                f"{len(heldout.row_class)}, expected two photos and some segments in each; add "
                "photos or lower config.bank.min_area_frac"
            )
        self._find_donors(store, heldout, settings)
        return {"photos": len(store.ids), "segments": len(store.row_class)}

    def _find_donors(self, store: Store, heldout: Store, settings: Settings):
        """(donors of the bank's rows, of the held-out rows); found once, then read."""
        bank, pipeline = DiskBank(rows_to_device(store), store), self.config.pipeline
        config = DonorConfig(
            donors=settings.bank.donors,
            near_frames=settings.bank.near_frames,
            layers=self.config.canvas.layers,
            candidates=pipeline.candidates,
            light_weight=pipeline.light_weight,
        )
        best = dataclasses.replace(config, donors=1)
        return find_donors(store, bank, config), find_donors(heldout, bank, best)

    def _train(
        self, stage: str, settings: Settings, writer: MetricsWriter, smaller: Any | None
    ) -> dict[str, Any]:
        task, config = self.task(stage, settings, smaller), settings.train[stage]
        params = train(task, config, self._folder(stage), writer, self.config.seed)
        print(f"{stage}: scoring", flush=True)
        task = dataclasses.replace(task, dtype=np.float32)  # as `load` computes
        scores = task.evaluate(params)
        writer.rewind(f"{stage}_heldout", 0)
        writer.write(f"{stage}_heldout", config.steps, scores)
        writer.write_sheet(stage, config.steps, task.sheet(params))
        return {"scores": scores, "sha256": digest_params(params)}

    def task(self, stage: str, settings: Settings, smaller: Any | None) -> Task:
        """What the loop needs to know of a stage, once the stages before it are finished.

        Args:
          smaller: what `read_smaller` gives, for f to begin with; None goes on from a checkpoint.
        """
        store, heldout = self._store(), self._heldout()

        def prepare() -> tuple[Features, DonorTable, DonorTable]:
            params = restore_finished(self._folder("transformer"))
            config = make_networks(self.config, store.spec.labels).transformer
            rows = self._find_donors(store, heldout, settings)
            donors, heldout_donors = (
                align_donors(params, config, queries, store, found, self.workdir / "aligned")
                for queries, found in zip((store, heldout), rows, strict=True)
            )
            return self._features(store, settings), donors, heldout_donors

        task = make_task(stage, self.config, settings, store, heldout, prepare)
        return dataclasses.replace(task, smaller=smaller) if stage == "synthesis" else task

    def read_smaller(self, labels: LabelSpace) -> Any | None:
        """Parameters of the smaller network that this run's synthesis network begins with."""
        workdir = self.config.synthesis.init_from
        config = make_networks(self.config, labels).synthesis
        return read_smaller(pathlib.Path(workdir), config, labels) if workdir else None

    def _features(self, store: Store, settings: Settings) -> Features:
        weights = self.config.features.weights
        if not weights:
            params = restore_finished(self._folder("features"))
            return Features.calibrate(settings.vgg, store.spec.labels.num_classes, params, store)
        params, vgg, sha256 = load_vgg(weights)
        if sha256 != read_done(self._folder("features"))["weights"]:
            raise InputError(
                f"{weights}: found another file than when this run began (SHA-256 {sha256}), "
                "expected the same; restore it, or choose another workdir"
            )
        return Features.calibrate(vgg, 0, {"params": params}, store)

    # What is on disk.

    def _folder(self, stage: str) -> pathlib.Path:
        return self.workdir / stage

    def _store(self) -> Store:
        return open_bank(self.workdir / "bank")

    def _heldout(self) -> Store:
        return open_bank(self.workdir / "heldout")

    def _is_done(self, stage: str) -> bool:
        return (self._folder(stage) / DONE_FILE).exists()

    def _finish(self, stage: str, done: dict[str, Any], seconds: float) -> None:
        done, path = {"seconds": round(seconds, 1)} | done, self._folder(stage) / DONE_FILE
        first_alone(f"the end of {stage}", lambda: write_json(path, done))
        told = ", ".join(f"{name} {value:.4g}" for name, value in done["scores"].items())
        print(f"{stage}: done in {seconds:.0f} s: {told}", flush=True)

    def _check_needs(self) -> None:
        """Raises InputError if a stage of the config needs one that neither is one nor finished."""
        done = {stage for stage in STAGES if self._is_done(stage)}
        for stage in self.config.stages:
            needed = () if stage in done else NEEDED.get(stage, ("bank",))
            missing = [one for one in needed if one not in done.union(self.config.stages)]
            if missing:
                raise InputError(
                    f"config.stages: {stage} needs {' and '.join(missing)}, not among the stages "
                    f"nor finished in {self.workdir}; add what is missing"
                )

    # The report.

    def _report(self) -> dict[str, Any]:
        """`report.json`: scores of all stages; seconds are of the process that finished a stage."""
        done = {stage: read_done(self._folder(stage)) for stage in STAGES}
        report = {stage: done[stage]["scores"] for stage in STAGES}
        bank = read_description(self.workdir / "bank")  # which may have changed since it was built
        report["bank"] = {count: bank[count] for count in report["bank"]}
        report["seconds"] = {stage: done[stage]["seconds"] for stage in STAGES}
        params = None
        if not (self.workdir / SHEET_FILE).exists():
            params = {name: restore_finished(self._folder(name)) for name in STAGES[2:]}
        first_alone("the report", lambda: self._write_report(report, params))
        return report

    def _write_report(self, report: dict[str, Any], params: dict[str, Any] | None) -> None:
        """By one process alone, and so on its own devices. `params` if there is no sheet yet."""
        heldout = self._heldout()
        if params is not None:
            print("sheet: compiling", flush=True)
            here = jax.local_devices()
            model = assemble(self.config, self._store(), params, devices=here)
            write_picture(self.workdir / SHEET_FILE, heldout_sheet(model, heldout))
        layouts = self.workdir / "layouts"
        layouts.mkdir(exist_ok=True)
        for photo_id, layout in zip(heldout.ids, heldout.layout, strict=True):
            write_layout(layouts / f"{photo_id}.png", layout, heldout.spec.labels)
        write_json(self.workdir / "report.json", report)


def make_task(
    stage: str,
    config: ConfigDict,
    settings: Settings,
    store: Store,
    heldout: Store,
    prepare: Callable[[], tuple[Features, DonorTable, DonorTable]],
) -> Task:
    """The task of a stage.

    Args:
      prepare: what f's task needs of the stages before it, and it alone: Φ, the donors of the
        store's rows, those of the held-out rows.
    """
    networks, dtype = make_networks(config, store.spec.labels), settings.train[stage].dtype
    if stage == "features":
        return FeaturesTask(settings.vgg, store, heldout, dtype)
    if stage == "transformer":
        disturbance = settings.disturbance
        return TransformerTask(networks.transformer, disturbance, store, heldout, dtype)
    if stage == "ordering":
        return OrderingTask.create(networks.ordering, store, heldout, dtype)
    if stage == "densifier":
        return DensifierTask(networks.densifier, store, heldout, dtype)
    features, donors, heldout_donors = prepare()
    return SynthesisTask(
        config=networks.synthesis,
        canvas=networks.canvas,
        simulation=settings.simulation,
        losses=settings.losses,
        features=features,
        store=store,
        donors=donors,
        heldout=heldout,
        heldout_donors=heldout_donors,
        dtype=dtype,
    )


def heldout_sheet(model: Model, heldout: Store) -> np.ndarray:
    """Rows of: layout | canvas | photo | real, for held-out layouts."""
    rows = []
    for index in spread(len(heldout.ids), SHEET_LAYOUTS):
        result = model.synthesize(heldout.layout[index])
        layout = colorize(heldout.layout[index], model.labels)
        rows.append([layout, result.canvas, result.photo, heldout.photo[index]])
    return contact_sheet(rows, ["layout", "canvas", "photo", "real"])


def _versions() -> dict[str, str]:
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    versions = {package: importlib.metadata.version(package) for package in packages}
    return versions | {
        "sims_jax": sims_jax.__version__,
        "commit": _commit(),
        "devices": str(jax.devices()),
    }


def _commit() -> str:
    """The commit of the checkout that this file is in; "unknown" outside of one, or without git."""
    root = pathlib.Path(__file__).parents[2]
    if not (root / "pyproject.toml").exists():
        return "unknown"
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return result.stdout.strip() or "unknown"
