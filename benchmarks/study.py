"""What each part of a config is worth: its variants, trained alike and judged alike, in one table.

    python -m benchmarks.study --config=configs/camvid.py:small --config.data.root=FOLDER \
        --config.data.holdout_videos="('0001TP',)" --workdir=runs/study [--variants=as-is,paper] \
        [--seeds=0,1] [--baselines] [--json=FILE]

Every variant is the config with some keys changed (`VARIANTS`), trained by `train.py`'s stages with
each seed and judged by `sims_jax.evaluate`. All networks are trained for as many steps as the
config says. What variants have in common is trained once: a stage of the same seed that reads
the same part of the config, the bank of all seeds, the judge of all photos. What is finished is
skipped, so that the same command goes on where it was killed, or adds variants and seeds.

    WORKDIR/runs/VARIANT/seed-N    a workdir of train.py, with its sheets; its stages are links
    WORKDIR/stages, judges         what they lead to
    WORKDIR/study.json, study.md   the table, after each run; --json=FILE writes it to FILE, FILE.md

Not switched by a config, and so not studied: the context term of the score (retrieval's contract),
the stencils of simulated canvases, which candidates fill a segment, bands that end at half a
segment's depth, and the terms of the perceptual loss on colour and chroma.
The ordering network has no say where segments are clipped to the layout (`canvas.adherence`
"layout"), so it is removed where they are not.
"""

import copy
import dataclasses
import gc
import hashlib
import itertools
import json
import os
import pathlib
from collections import ChainMap
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from benchmarks.study_table import summarize, to_markdown
from sims_jax.atomic import check_writable, write_json
from sims_jax.bank.store import open_bank
from sims_jax.commands import define_path, define_workdir, run_with_config
from sims_jax.config import CONFIG_FILE, save_config
from sims_jax.errors import InputError
from sims_jax.evaluate import evaluate_parser
from sims_jax.evaluation import BASELINES, protocol, report
from sims_jax.evaluation.judge import train_judge
from sims_jax.programs import shorten_start
from sims_jax.training.run import SPLITS, Run
from sims_jax.training.settings import STAGES, read_settings

AS_IS = "as-is"
# The parts of the paper's recipe, as in configs/cityscapes.py.
OWN_SILHOUETTES = {"canvas.adherence": "segment"}
WIDE_BANDS = {
    "canvas.inner_band_frac": 0.0175,
    "canvas.inner_sides": 2,
    "canvas.inner_share": 0.5,
    "canvas.outer_band_frac": 0.04,
    "canvas.outer_share": 1.0,
}
LITTLE_TRANSFER = {"simulation.transfer_share": 0.2, "simulation.transfer_least": 1.0}
ONE_LIGHT = {"simulation.relight_share": 0.0}
ONE_BY_ONE = {"pipeline.light_weight": 0.0}
WHOLE_ROWS = {"pipeline.max_aspect": 0.0}
WHOLE_THINGS = {"pipeline.cut_empty": False}
ONE_LAYER = {"canvas.layers": 1}
RAGGED = {"bank.smoothing_frac": 0.0}
INCONSISTENT = {"synthesis.consistency_weight": 0.0}
UNTEXTURED = {"synthesis.texture_weight": 0.0}
# Untrained, the transformer is the identity, and a rate of 0 leaves it so.
NO_TRANSFORMER = {
    "transformer.train.schedule": "constant",
    "transformer.train.learning_rate": 0.0,
    "transformer.train.steps": 1,
}
NO_INNER_BAND = {"canvas.inner_band_frac": 0.0}
NO_OUTER_BAND = {"canvas.outer_band_frac": 0.0}
PRIOR_ORDER = {"pipeline.max_pairs": 0}
PAPER = {
    "layout": OWN_SILHOUETTES,
    "elision": WIDE_BANDS,
    "transfer": LITTLE_TRANSFER,
    "relight": ONE_LIGHT,
    "cut": WHOLE_ROWS,
    "cut-empty": WHOLE_THINGS,
    "together": ONE_BY_ONE,
    "layers": ONE_LAYER,
    "consistency": INCONSISTENT,
    "texture": UNTEXTURED,
    "smoothing": RAGGED,
}

VARIANTS = {
    AS_IS: {},
    "paper": dict(ChainMap(*PAPER.values())),
    # The paper's recipe with one part as the config has it: an improvement added.
    **{
        f"paper+{name}": dict(ChainMap(*(PAPER[other] for other in PAPER if other != name)))
        for name in PAPER
    },
    # The config without a part.
    "no-transformer": NO_TRANSFORMER,
    "no-inner-band": NO_INNER_BAND,
    "no-outer-band": NO_OUTER_BAND,
    "no-elision": NO_INNER_BAND | NO_OUTER_BAND,
    "no-transfer": {"simulation.transfer_share": 0.0},
    "no-holes": {"simulation.missing_share": 0.0, "simulation.empty_share": 0.0},
    "no-relight": ONE_LIGHT,
    "no-cut": WHOLE_ROWS,
    "no-cut-empty": WHOLE_THINGS,
    "one-by-one": ONE_BY_ONE,
    "one-layer": ONE_LAYER,
    "no-consistency": INCONSISTENT,
    "no-texture": UNTEXTURED,
    "no-smoothing": RAGGED,
    "no-segmentation": {"synthesis.segmentation_weight": 0.0},
    # The config with a part of another strength, or another part.
    "two-sided": {"canvas.inner_sides": 2, "canvas.inner_share": 0.5},
    "all-transfer": {"simulation.transfer_share": 1.0, "simulation.transfer_least": 1.0},
    "silhouettes": OWN_SILHOUETTES,
    "silhouettes-no-ordering": OWN_SILHOUETTES | PRIOR_ORDER,
}

# What a stage reads of the other stages' parts of a config, and what only f, or no stage, reads.
# A part that is not named here is thought to be read by every stage.
STAGES_READ = {"bank": (), "synthesis": ("bank", "features", "transformer")}
F_ALONE_READS = ("canvas", "simulation", "pipeline")
NO_STAGE_READS = (
    "stages",
    "pipeline.max_aspect",
    "pipeline.cut_empty",
    "pipeline.max_pairs",
    "pipeline.chunk",
    "canvas.adherence",
)
STAGE_FOLDERS = {"bank": tuple(SPLITS)}
ALIGNED = "aligned"  # donors, by the digest of what they are of
NAME_DIGITS = 16  # of the SHA-256 in a name

LEAST_SEEDS = 2  # one does not tell luck from merit


def main() -> None:
    from absl import flags

    shorten_start()
    workdir = define_workdir("Folder for all runs, and the table; required.")
    names = flags.DEFINE_list("variants", list(VARIANTS), f"Some of {', '.join(VARIANTS)}.")
    seeds = flags.DEFINE_list("seeds", ["0", "1"], f"{LEAST_SEEDS} or more, each of a whole run.")
    baselines = flags.DEFINE_bool(
        "baselines",
        False,
        f"In {AS_IS}'s runs, too: raw canvas, retrieved photos, f without canvas (CRN).",
    )
    json_file = define_path("json", "The table's file; default WORKDIR/study.json.")

    def run(config: ConfigDict) -> None:
        folder = pathlib.Path(workdir.value)
        path = pathlib.Path(json_file.value) if json_file.value else folder / "study.json"
        study = Study(
            config,
            folder,
            tuple(dict.fromkeys(names.value)),
            read_seeds(seeds.value),
            baselines.value,
            path,
        )
        check_writable(path)
        print(to_markdown(study.run()))
        print(f"table: {path}, {path.with_suffix('.md')}")

    run_with_config(run)


def read_seeds(values: Sequence[str]) -> tuple[int, ...]:
    try:
        return tuple(int(value) for value in values)
    except ValueError as error:
        raise InputError(
            f"--seeds: found {','.join(values)}, expected whole numbers such as 0,1"
        ) from error


@dataclasses.dataclass(frozen=True)
class Study:
    """Variants of a config, each with each seed; `run()` does what is left to do.

    Args:
      workdir: for all that is trained.   path: of the table, as JSON; beside it as Markdown.
      baselines: the runs of the config as it is judge `evaluate --baselines`, too.
    """

    config: ConfigDict
    workdir: pathlib.Path
    names: tuple[str, ...]
    seeds: tuple[int, ...]
    baselines: bool
    path: pathlib.Path

    def run(self) -> dict:
        """Trains and judges; the table.

        Raises:
          InputError: a variant or a seed is none, a run was begun with another config, or what
            `Run` and `evaluate` raise.
        """
        self._check()
        reports: dict[str, list[dict]] = {name: [] for name in self.names}
        table = {}
        for seed in self.seeds:  # so that the first half of the time gives a table of one seed
            for name in self.names:
                reports[name].append(self._judge(name, seed))
                judged = {name: some for name, some in reports.items() if some}
                table = summarize(judged, VARIANTS, AS_IS)
                write_json(self.path, table)
                self.path.with_suffix(".md").write_text(to_markdown(table))
        return table

    def _check(self) -> None:
        unknown = [name for name in self.names if name not in VARIANTS]
        if unknown:
            raise InputError(
                f"--variants: found {unknown[0]!r}, expected some of {', '.join(VARIANTS)}"
            )
        if len(set(self.seeds)) < max(LEAST_SEEDS, len(self.seeds)):
            raise InputError(
                f"--seeds: found {','.join(map(str, self.seeds))}, expected {LEAST_SEEDS} or more "
                "different ones"
            )
        if self.baselines and AS_IS not in self.names:
            raise InputError(f"--baselines: found no variant {AS_IS}, whose they are; add it")
        for name, seed in itertools.product(self.names, self.seeds):
            config, run = vary(self.config, name, seed), self._folder(name, seed)
            if (run / CONFIG_FILE).exists():
                save_config(config, run)  # refuses another

    def _folder(self, name: str, seed: int) -> pathlib.Path:
        return self.workdir / "runs" / name / f"seed-{seed}"

    def _judge(self, name: str, seed: int) -> dict:
        """The report on a variant with a seed; trained and judged where that is not done yet."""
        run, baselines = self._folder(name, seed), self.baselines and name == AS_IS
        found = read_judged(run, baselines)
        if found is None:
            print(f"{name}, seed {seed}: begins", flush=True)
            config = vary(self.config, name, seed)
            link_stages(config, run, self.workdir / "stages")
            Run(config, run).run()
            judges = self.workdir / "judges"
            train_judge(open_bank(run / "bank"), open_bank(run / "heldout"), judges)
            for judge in judges.iterdir():
                link(run / report.FOLDER / judge.name, judge)
            flags = [f"--workdir={run}", f"--json={report_of(run)}"]
            flags += ["--baselines"] * baselines
            found = report.evaluate(evaluate_parser().parse_args(flags))
            jax.clear_caches()  # another variant has other programs
            gc.collect()
        return found


def vary(config: ConfigDict, name: str, seed: int) -> ConfigDict:
    """The config of a variant with a seed, checked.

    Raises:
      InputError: a key does not exist, or a value cannot be.
    """
    varied = copy.deepcopy(config)
    with varied.unlocked():
        varied.update(seed=seed, stages=STAGES)
        varied.update_from_flattened_dict(VARIANTS[name])
    read_settings(varied)
    return varied


# What runs share.


def digest_stage(stage: str, config: ConfigDict) -> str:
    """SHA-256 of all that a stage reads of a config."""
    values = json.loads(config.to_json())
    read = {stage, *STAGES_READ.get(stage, ("bank",))}
    unread = [part for part in STAGES if part not in read] + list(NO_STAGE_READS)
    if stage != "synthesis":
        unread += F_ALONE_READS
    if stage == "bank":
        unread.append("seed")
    for key in unread:
        part, _, inner = key.partition(".")
        if not inner:
            values.pop(part, None)
        elif part in values:
            values[part].pop(inner, None)  # a default is not said
    content = [stage, values]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def link_stages(config: ConfigDict, run: pathlib.Path, stages: pathlib.Path) -> None:
    """Makes the stages of a workdir links to where all runs keep those that read the same."""
    (stages / ALIGNED).mkdir(parents=True, exist_ok=True)
    link(run / ALIGNED, stages / ALIGNED)
    for stage in STAGES:
        digest = digest_stage(stage, config)[:NAME_DIGITS]
        for folder in STAGE_FOLDERS.get(stage, (stage,)):
            kept = stages / f"{folder}-{digest}"
            kept.mkdir(parents=True, exist_ok=True)
            link(run / folder, kept)


def link(path: pathlib.Path, target: pathlib.Path) -> None:
    """A link that stays valid when the study's folder moves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_symlink():
        path.symlink_to(os.path.relpath(target, path.parent))


def report_of(run: pathlib.Path) -> pathlib.Path:
    """One place, with baselines or without."""
    return run / report.FOLDER / "val.json"


def read_judged(run: pathlib.Path, baselines: bool) -> dict | None:
    """The report of a run that is trained and judged by the present protocol."""
    path = report_of(run)
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    complete = not baselines or found["scores"].keys() >= {*BASELINES}
    return found if complete and found["protocol"]["version"] == protocol.VERSION else None


if __name__ == "__main__":
    main()
