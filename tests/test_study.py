"""The study of variants: what is trained for which, what is shared, and what the table says."""

import copy
import dataclasses
import json
import pathlib

import pytest
from conftest import load_config
from ml_collections import ConfigDict

from benchmarks import study, study_table
from benchmarks.study import AS_IS, VARIANTS, Study, digest_stage, read_seeds, vary
from sims_jax.checkpoints import DONE_FILE
from sims_jax.config import save_config
from sims_jax.errors import InputError
from sims_jax.evaluation import BASELINES, protocol
from sims_jax.evaluation import judge as judging
from sims_jax.labels import SCENES
from sims_jax.networks import make_networks
from sims_jax.training.settings import STAGES


@pytest.mark.parametrize("config", ["quickstart", "camvid", "cityscapes"])
def test_every_variant_is_a_change_of_every_config(config):
    config = load_config(config)
    for name, changed in VARIANTS.items():
        flat = vary(config, name, 0).to_json()
        assert (flat == vary(config, AS_IS, 0).to_json()) == (
            all(_value(config, key) == value for key, value in changed.items())
        ), name


def _value(config, key):
    for part in key.split("."):
        config = config[part]
    return config


def digests(config, name=AS_IS, seed=0):
    return {stage: digest_stage(stage, vary(config, name, seed)) for stage in STAGES}


@pytest.mark.parametrize(
    "name, trained",
    [
        ("silhouettes-no-ordering", set()),
        ("no-cut", set()),
        ("no-cut-empty", set()),
        ("paper", {"synthesis"}),
        ("no-transfer", {"synthesis"}),
        ("no-segmentation", {"synthesis"}),
        ("no-consistency", {"synthesis"}),
        ("no-texture", {"synthesis"}),
        ("one-by-one", {"synthesis"}),
        ("no-transformer", {"transformer", "synthesis"}),
    ],
)
def test_a_variant_trains_what_reads_its_change(tiny_config, name, trained):
    own, shared = digests(tiny_config, name), digests(tiny_config)
    assert {stage for stage in STAGES if own[stage] != shared[stage]} == trained


def test_a_bank_that_is_split_otherwise_is_another_for_every_stage(tiny_config):
    config = copy.deepcopy(tiny_config)
    config.bank.smoothing_frac = 0.02
    own, shared = digests(config, "no-smoothing"), digests(config)
    assert not set(own.values()) & set(shared.values())


def test_a_config_of_before_is_read_as_it_was(tiny_config):
    config = copy.deepcopy(vary(tiny_config, AS_IS, 0))
    with config.unlocked():
        del config.pipeline.max_aspect, config.pipeline.cut_empty
    networks = make_networks(config, SCENES)
    assert networks.pipeline.max_aspect == 0 and not networks.pipeline.cut_empty
    assert {stage: digest_stage(stage, config) for stage in STAGES} == digests(tiny_config)


def test_seeds_share_the_bank_alone_and_a_part_unknown_is_read_by_all(tiny_config):
    one, other = digests(tiny_config), digests(tiny_config, seed=1)
    assert {stage for stage in STAGES if one[stage] == other[stage]} == {"bank"}
    more = copy.deepcopy(vary(tiny_config, AS_IS, 0))
    with more.unlocked():
        more.selection = {"jointly": True}
    assert not {digest_stage(stage, more) for stage in STAGES} & set(one.values())


@pytest.fixture
def trained(monkeypatch):
    """(stages trained, runs judged) by a study whose networks and judge are not real."""
    stages, judged = [], []

    @dataclasses.dataclass
    class Trained:
        config: ConfigDict
        workdir: pathlib.Path

        def run(self):
            save_config(self.config, self.workdir)
            for stage in STAGES:
                if not (self.workdir / stage / DONE_FILE).exists():
                    (self.workdir / stage / DONE_FILE).write_text("{}")
                    stages.append(stage)

    def evaluate(arguments):
        run = arguments.workdir
        judged.append(f"{run.parent.name} {run.name}")
        assert (run / "evaluate" / "judge-of-all").exists()
        value = float(len(judged))
        score = {"value": value, "low": value - 1, "high": value + 2}
        scores = dict.fromkeys(protocol.SCORES, score)
        names = ["real", "photos"] + [*BASELINES] * arguments.baselines
        found = {
            "protocol": {"version": protocol.VERSION, "judge_sha256": "abc", "n": 4}
            | {"bootstrap": "basic", "size": [48, 64]},
            "scores": {name: scores | {"bank_share": 0.5} for name in names},
            "real_halves": {"frechet": 1.0},
        }
        arguments.json.write_text(json.dumps(found))
        return found

    def train_judge(store, heldout, folder):
        (folder / "judge-of-all").mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(study, "Run", Trained)
    monkeypatch.setattr(study.report, "evaluate", evaluate)
    monkeypatch.setattr(study, "open_bank", lambda folder: folder)
    monkeypatch.setattr(study, "train_judge", train_judge)
    return stages, judged


def make_study(config, workdir, *names, baselines=False, seeds=(0, 1)):
    return Study(config, workdir, names, seeds, baselines, workdir / "study.json")


def test_what_is_finished_is_skipped_and_what_is_shared_trained_once(
    tiny_config, trained, tmp_path
):
    stages, judged = trained
    names = (AS_IS, "silhouettes", "no-transfer")
    table = make_study(tiny_config, tmp_path, *names).run()
    assert sorted(stages) == sorted(
        ["bank", *2 * ["features", "transformer", "ordering", "densifier"], *4 * ["synthesis"]]
    )
    assert judged == [f"{name} seed-{seed}" for seed in (0, 1) for name in names]
    means = {name: row["scores"]["miou"] for name, row in table["variants"].items()}
    assert means["silhouettes"] == {"value": 3.5, "low": 1.0, "high": 7.0}  # of 2 and 5
    assert table["variants"]["silhouettes"]["scores"]["bank_share"] == 0.5
    assert json.loads((tmp_path / "study.json").read_text()) == table
    line = next(
        line for line in (tmp_path / "study.md").read_text().splitlines() if "no-transfer" in line
    )
    assert line.count("4.5 [2, 8]") == len(study_table.SHOWN) and line.endswith("| 2     |")

    del stages[:], judged[:]
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert make_study(tiny_config, moved, *names).run() == table
    assert not stages and not judged
    table = make_study(tiny_config, moved, AS_IS, "no-elision", baselines=True).run()
    assert stages == ["synthesis"] * 2
    assert judged == [f"{n} seed-{s}" for s in (0, 1) for n in (AS_IS, "no-elision")]
    assert list(table["variants"]) == ["real", AS_IS, *BASELINES, "no-elision"]


def test_a_study_refuses_what_it_cannot_compare(tiny_config, trained, tmp_path):
    for message, arguments in {
        "--variants: found 'papier'": dict(names=["papier"]),
        "--seeds: found 3, expected 2 or more": dict(names=[AS_IS], seeds=(3,)),
        "--seeds: found 1,1": dict(names=[AS_IS], seeds=(1, 1)),
        "--baselines: found no variant as-is": dict(names=["paper"], baselines=True),
    }.items():
        names = arguments.pop("names")
        with pytest.raises(InputError, match=message):
            make_study(tiny_config, tmp_path, *names, **arguments).run()
    with pytest.raises(InputError, match="--seeds: found 0,x"):
        read_seeds(["0", "x"])
    assert not list(tmp_path.iterdir())
    make_study(tiny_config, tmp_path, AS_IS).run()
    other = copy.deepcopy(tiny_config)
    other.synthesis.train.steps = 5
    with pytest.raises(InputError, match=r"synthesis\.train\.steps"):
        make_study(other, tmp_path, "paper", AS_IS).run()
    assert not (tmp_path / "runs" / "paper").exists()


@pytest.mark.slow
def test_networks_are_trained_and_judged(tiny_config, tmp_path, monkeypatch):
    few = dataclasses.replace(judging.TRAIN, steps=8, warmup_steps=1, save_every=8, sheet_every=8)
    monkeypatch.setattr(judging, "TRAIN", few)
    config = copy.deepcopy(tiny_config)
    config.transformer.train.update(steps=4, save_every=4, sheet_every=4)
    names = (AS_IS, "silhouettes-no-ordering", "no-transformer")
    rows = make_study(config, tmp_path, *names, baselines=True).run()["variants"]
    assert list(rows) == ["real", AS_IS, *BASELINES, *names[1:]]
    for row in rows.values():
        assert row["scores"]["accuracy"]["low"] <= row["scores"]["accuracy"]["value"] <= 1
    frechet = [row["scores"]["frechet"]["value"] for row in rows.values()]
    assert len(set(frechet)) == len(rows)
    assert len(list((tmp_path / "judges").iterdir())) == 1
    done = json.loads((tmp_path / "runs/no-transformer/seed-0/transformer/done.json").read_text())
    assert done["scores"]["val_l1"] == pytest.approx(done["scores"]["identity_l1"])
