"""Training runs: all stages, killed and continued, on eight devices, and what stops them."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import write_config
from toy import Toy, toy_config

import sims_jax
from sims_jax import pipeline, retrieval
from sims_jax.bank.store import open_bank
from sims_jax.checkpoints import DONE_FILE, Checkpoints, digest_params, restore_finished
from sims_jax.config import CONFIG_FILE, save_config
from sims_jax.errors import InputError
from sims_jax.rng import example_keys
from sims_jax.training.loop import train
from sims_jax.training.run import STAGES, Run
from sims_jax.training.termination import Terminated
from sims_jax.training.writers import MetricsWriter

ROOT = pathlib.Path(__file__).parents[1]
METRICS_FILE = "metrics.jsonl"
MARK = " "  # before a line of it
OF_ONE_RUN = {"input_wait_share", "peak_memory_gib"}
STEP = 1e-3  # a small change of a network's parameters, as their norm


@pytest.fixture(scope="module")
def finished(tiny_config, tmp_path_factory):
    """A finished run on eight devices, and its report."""
    workdir = tmp_path_factory.mktemp("run") / "tiny"
    return workdir, Run(tiny_config, workdir).run()


def read_metrics(folder) -> list[dict]:
    """The lines of metrics.jsonl, without what no two runs have in common."""
    lines = map(json.loads, (folder / METRICS_FILE).read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in OF_ONE_RUN} for line in lines]


def test_every_step_tells_of_waiting_and_of_memory(finished):
    lines = map(json.loads, (finished[0] / METRICS_FILE).read_text().splitlines())
    steps = [line for line in lines if "loss" in line]
    assert steps and all(0 <= line["input_wait_share"] <= 1 for line in steps)
    peaks = [line["peak_memory_gib"] for line in steps]
    assert peaks[0] > 0 and peaks == sorted(peaks)


def test_report_has_every_key(finished):
    workdir, report = finished
    assert json.loads((workdir / "report.json").read_text()) == report
    expected = {
        "transformer": {"val_l1", "identity_l1"},
        "ordering": {
            "val_accuracy",
            "prior_accuracy",
            "same_class_accuracy",
            "same_class_prior",
            "same_class_pairs",
        },
        "densifier": {"val_miou", "nearest_miou"},
        "synthesis": {"val_loss", "canvas_loss", "empty_loss"},
        "bank": {"photos", "segments"},
        "seconds": set(STAGES),
    }
    for name, keys in expected.items():
        assert keys <= set(report[name]), name
        assert all(np.isfinite(report[name][key]) for key in keys)
    assert report["bank"]["photos"] == 10
    assert (workdir / "sheet.png").exists()


def test_metrics_have_every_step_once(finished, tiny_config):
    workdir, _ = finished
    entries = [json.loads(line) for line in (workdir / METRICS_FILE).read_text().splitlines()]
    for stage in STAGES[1:]:
        steps = [e["step"] for e in entries if e["stage"] == stage and "loss" in e]
        assert steps == list(range(1, tiny_config[stage].train.steps + 1))
    assert list((workdir / "events").iterdir())


def test_a_finished_run_is_left_alone(finished, tiny_config, capsys):
    workdir, report = finished
    before = (workdir / METRICS_FILE).read_bytes()
    assert Run(tiny_config, workdir).run() == report
    assert f"{', '.join(STAGES)}: finished before" in capsys.readouterr().out.splitlines()
    assert (workdir / METRICS_FILE).read_bytes() == before


def test_f_without_canvas_is_trained_once_and_needs_no_bank(finished, tmp_path):
    from sims_jax.evaluation.baselines import train_without_canvas

    workdir, _ = finished
    model = sims_jax.load(workdir)
    crn = train_without_canvas(workdir, tmp_path, model)
    began = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = train_without_canvas(workdir, tmp_path, model)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == began
    assert digest_params(crn.params.synthesis) == digest_params(again.params.synthesis)
    assert digest_params(crn.params.synthesis) != digest_params(model.params.synthesis)
    result = crn.synthesize(np.zeros((48, 64), np.uint8))
    assert not result.canvas_mask.any() and np.isfinite(result.photo).all()


def test_f_without_canvas_learns_from_the_same_however_canvases_are_made(
    finished, tmp_path, monkeypatch
):
    from sims_jax.evaluation import baselines

    workdir, _ = finished
    model, asked = sims_jax.load(workdir), []

    def train_once(task, config, folder, learned_from, seed):
        asked.append((task, learned_from))
        return model.params.synthesis

    monkeypatch.setattr(baselines, "train_once", train_once)
    other = shutil.copytree(workdir, tmp_path / "other")
    config = json.loads((other / CONFIG_FILE).read_text())
    config["canvas"] |= {"layers": 1, "inner_share": 0.25}
    config["simulation"] = dict.fromkeys(config["simulation"], 0.5)
    (other / CONFIG_FILE).write_text(json.dumps(config))
    for folder in (workdir, other):
        baselines.train_without_canvas(folder, tmp_path, model)
    (first, first_name), (second, second_name) = asked
    assert first.canvas.layers != second.canvas.layers and first_name == second_name
    learned = []
    for task in (first, second):
        example = task.example(0, np.random.default_rng(0))
        batch = jax.tree.map(lambda x: jnp.asarray(x)[None], example)
        keys = example_keys(jax.random.key(0), jnp.int32(0), jnp.arange(1))
        canvas, photo = jax.jit(task.simulate, static_argnums=2)(batch, keys, task.simulation)
        learned.append((canvas, photo, batch["layout"]))
    jax.tree.map(np.testing.assert_array_equal, *learned)


def test_f_without_canvas_begins_with_what_f_began_with(finished, tmp_path, monkeypatch):
    from sims_jax.evaluation import baselines

    workdir, _ = finished
    model = sims_jax.load(workdir)
    began = []

    def train_once(task, *_):
        began.append(task.smaller)
        return model.params.synthesis

    monkeypatch.setattr(Run, "read_smaller", lambda *_: model.params.synthesis)
    monkeypatch.setattr(baselines, "train_once", train_once)
    baselines.train_without_canvas(workdir, tmp_path, model)
    assert began == [model.params.synthesis]


def test_what_f_begins_with_is_read_only_where_it_begins(tiny_config, tmp_path):
    config = tiny_config.copy_and_resolve_references()
    config.synthesis.init_from = "nowhere"
    with pytest.raises(InputError, match="nowhere/synthesis"):
        Run(config, tmp_path).run()
    config.stages = ("synthesis",)
    (tmp_path / "synthesis" / "4").mkdir(parents=True)
    with pytest.raises(InputError, match="synthesis needs bank and features and transformer, not"):
        Run(config, tmp_path).run()


def test_stages_that_lack_another_are_refused_before_any_is_trained(tiny_config, tmp_path):
    config = tiny_config.copy_and_resolve_references()
    config.stages = ("bank", "transformer", "synthesis")
    with pytest.raises(InputError, match="synthesis needs features, not among the stages"):
        Run(config, tmp_path).run()
    config.stages = ()
    with pytest.raises(InputError, match=r"config\.stages: found none, expected some of bank"):
        Run(config, tmp_path).run()
    assert not list(tmp_path.iterdir())


def test_a_workdir_without_a_densifier_makes_photos_of_dense_layouts(finished, tmp_path):
    workdir, _ = finished
    for name in (CONFIG_FILE, "bank", "transformer", "ordering", "synthesis"):
        (tmp_path / name).symlink_to(workdir / name)
    whole, without = map(sims_jax.load, (workdir, tmp_path))
    layout = np.arange(48 * 64, dtype=np.uint8).reshape(48, 64) // 32 % 8
    expected = whole.synthesize(layout).photo
    np.testing.assert_array_equal(without.synthesize(layout).photo, expected)
    with pytest.raises(InputError, match=r"coarse: found no densifier, .* stage densifier"):
        without.synthesize(layout, coarse=True)


def test_a_workdir_of_another_config_is_refused(finished, tiny_config):
    workdir, _ = finished
    other = tiny_config.copy_and_resolve_references()
    with other.unlocked():
        other.seed = 7
    with pytest.raises(InputError, match=r"config.seed = 0, expected 7, as --config"):
        Run(other, workdir).run()
    with other.unlocked():
        for stage in STAGES[1:]:
            other[stage].train.steps = 5
        other.data.num_val = 5
    with pytest.raises(
        InputError, match=r"config.data.num_val = .* and 2 more, as --config"
    ) as told:
        Run(other, workdir).run()
    assert str(told.value).count(", expected ") == 5


def test_a_workdir_of_an_older_version_is_named(finished, tiny_config, tmp_path):
    """Its config has not all keys: no training goes on there, and f without canvas has no steps."""
    from sims_jax.evaluation.baselines import train_without_canvas

    older = json.loads((finished[0] / "config.json").read_text())
    del older["synthesis"]["train"]["save_minutes"]
    (tmp_path / "config.json").write_text(json.dumps(older))
    line = (
        r"config\.json: found no config\.synthesis\.train\.save_minutes, expected 10, as --config"
    )
    with pytest.raises(InputError, match=line):
        save_config(tiny_config, tmp_path)
    line = r"config\.json: config\.synthesis\.train: found no 'save_minutes'.* in another one$"
    with pytest.raises(InputError, match=line):
        train_without_canvas(tmp_path, tmp_path, model=None)


def test_a_loaded_model_synthesizes(finished, tiny_stores):
    import sims_jax

    result = sims_jax.load(finished[0]).synthesize(np.resize(tiny_stores[1].layout[0], (33, 47)))
    assert result.photo.shape == (33, 47, 3)


def test_a_trained_model_learns_from_its_photos(finished):
    """The error of a photo reaches f, and the transformer where its answer was used."""
    import sims_jax

    model, store = sims_jax.load(finished[0]), open_bank(finished[0] / "bank")
    # Photos of the bank, pushed aside: what is retrieved must be moved.
    layouts, photos = (np.roll(x, 3, axis=2) for x in (store.layout, store.photo))
    moved = [count_moved(model.synthesize(layout)) for layout in layouts]
    best = int(np.argmax(moved))
    assert moved[best] > 0, "no answer of the transformer was used"

    layout, target = layouts[best : best + 1], photos[best] / np.float32(255)
    matches = jax.jit(retrieval.match, static_argnames="candidates")(
        model.bank.rows, layout, candidates=1
    )
    pixels = jax.jit(pipeline.gather)(model.bank, matches)
    params, matches, pixels = jax.device_get((model.params, matches, pixels))

    @jax.jit
    @jax.value_and_grad
    def error_and_slope(params):
        photo = pipeline.render(params, layout, matches, pixels).photo[0]
        return jnp.square(photo - target).mean()

    error, slope = error_and_slope(params)
    for name in ("synthesis", "transformer"):
        gradient = getattr(slope, name)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient)), name
        assert optax.tree.norm(gradient) > 0, name
    # A small step of f down its slope lowers the error by as much as the slope says.
    size = optax.tree.norm(slope.synthesis)
    down = jax.tree.map(lambda x, g: x - STEP / size * g, params.synthesis, slope.synthesis)
    lower, _ = error_and_slope(params.replace(synthesis=down))
    assert float(error - lower) == pytest.approx(float(STEP * size), rel=0.1)


def count_moved(result) -> int:
    """Segments that the photo shows and the transformer has moved."""
    return sum(s.used and not np.array_equal(s.affine, np.eye(2, 3)) for s in result.segments)


def test_an_unfinished_workdir_is_named(tmp_path):
    import sims_jax

    with pytest.raises(InputError, match=r"config.json: not found"):
        sims_jax.load(tmp_path)


def test_resumed_equals_uninterrupted(tmp_path, capsys):
    for name, parts in (("whole", [12]), ("parts", [5, 9, 12])):
        (tmp_path / name).mkdir()
        for steps in parts:
            with MetricsWriter(tmp_path / name) as writer:
                ema = train(Toy(), toy_config(steps=steps), tmp_path / name / "toy", writer, 0)
        (tmp_path / f"{name}.json").write_text(json.dumps(float(ema["w"])))
    assert (tmp_path / "whole.json").read_text() == (tmp_path / "parts.json").read_text()
    # Each part says that it compiles, and that it has: these may take minutes.
    told = capsys.readouterr()
    assert told.out.splitlines() == ["toy: compiling"] * 4
    assert {f"toy: {first}" for first in ("1/12", "1/5", "6/9", "10/12")} <= {
        line.partition(" [")[0] for line in told.err.splitlines()
    }
    assert read_metrics(tmp_path / "whole") == read_metrics(tmp_path / "parts")


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_rest_is_the_same(tmp_path, by):
    class Preempted(MetricsWriter):
        def write(self, stage, step, metrics):
            super().write(stage, step, metrics)
            if step == 6:  # no step that is saved anyway
                os.kill(os.getpid(), by)

    found = {}
    for name in ("whole", "stopped"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "stopped":
            handler = signal.getsignal(by)
            said = f"stopped by {by.name}, step 7 is saved"
            with Preempted(folder) as writer, pytest.raises(Terminated, match=said) as stop:
                train(Toy(), toy_config(), folder / "toy", writer, 0)
            assert stop.value.status == 128 + by
            assert signal.getsignal(by) is handler
        with MetricsWriter(folder) as writer:
            ema = train(Toy(), toy_config(), folder / "toy", writer, 0)
        found[name] = float(ema["w"]), read_metrics(folder)
    assert found["whole"] == found["stopped"]


def test_not_a_number_stops_the_run(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        train(Toy(), toy_config(steps=4), tmp_path / "toy", writer, 0)
        with pytest.raises(
            InputError, match=r"toy, step 5: found loss = nan.*checkpoint is of step 4"
        ):
            train(Toy(scale=float("nan")), toy_config(), tmp_path / "toy", writer, 0)
    with Checkpoints(tmp_path / "toy") as checkpoints:
        assert checkpoints.latest_step == 4


def test_killed_in_every_stage_equals_uninterrupted(finished, tiny_config, tmp_path):
    """A real SIGKILL in the middle of each stage, and the same command again: nothing is lost.

    On the same devices, so that everything is equal to the last bit.
    """
    workdir, config = tmp_path / "killed", write_config(tiny_config, tmp_path)
    command = [sys.executable, "train.py", f"--config={config}", f"--workdir={workdir}"]
    # A copy: a process that is killed may leave half a program behind.
    kept = shutil.copytree(os.environ["JAX_COMPILATION_CACHE_DIR"], tmp_path / "programs")
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(kept)}
    saved, marked = {}, 0
    for stage in STAGES:
        first = kill_halfway(command, environment, workdir, stage, tiny_config)
        assert not (workdir / stage / DONE_FILE).exists(), f"{stage} had ended when it was killed"
        saved |= {path: path.stat().st_mtime_ns for path in first}
        marked += 0 if stage == "bank" else mark_saved_steps(workdir, stage, tiny_config)
    last = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert not re.search(r"^I\d+ ", last.stderr, re.MULTILINE), last.stderr  # no library's log

    whole, report = finished
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in saved.items())
    assert open_bank(workdir / "bank").digest == open_bank(whole / "bank").digest
    for stage in STAGES[1:]:
        digests = [digest_params(restore_finished(run / stage)) for run in (workdir, whole)]
        assert digests[0] == digests[1], stage
    # Every step once, with the same losses, in the same order; and no saved one was done again.
    lines = (workdir / METRICS_FILE).read_text().splitlines()
    assert read_metrics(workdir) == read_metrics(whole)
    assert sum(line.startswith(MARK) for line in lines) == marked > 0
    scores = json.loads((workdir / "report.json").read_text()) | {"seconds": report["seconds"]}
    assert scores == report


def kill_halfway(command, environment, workdir, stage, config) -> list[pathlib.Path]:
    """Starts a run and kills it within a stage; the parts of the bank or the checkpoint it left."""
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while not (found := left_halfway(workdir, stage, config)):
            assert process.poll() is None, f"the run ended before it was killed in {stage}"
            time.sleep(0.01)
        process.kill()
    return found


def left_halfway(workdir, stage, config) -> list[pathlib.Path]:
    """Parts of the bank; or the first checkpoint, once steps beyond it are logged, too."""
    if stage == "bank":
        return list((workdir / stage).glob("parts/[!.]*/part.json"))
    metrics, first = workdir / METRICS_FILE, config[stage].train.save_every
    lines = metrics.read_text().split("\n")[:-1] if metrics.exists() else []
    entries = [json.loads(line) for line in lines]
    if not any(entry["stage"] == stage and entry["step"] > first for entry in entries):
        return []
    return list((workdir / stage).glob(str(first)))


def mark_saved_steps(workdir, stage, config) -> int:
    """Marks what was logged of a stage up to its checkpoint: these lines may never be replaced."""
    metrics, marked = workdir / METRICS_FILE, 0
    lines = metrics.read_text().splitlines(keepends=True)
    for number, line in enumerate(lines):
        entry = json.loads(line) if line.endswith("\n") else {"stage": "cut off by the kill"}
        if entry["stage"] == stage and entry["step"] <= config[stage].train.save_every:
            lines[number], marked = MARK + line, marked + 1
    metrics.write_text("".join(lines))
    return marked


def test_damaged_or_unfinished_networks_are_never_loaded(finished, tmp_path):
    folder = tmp_path / "synthesis"
    shutil.copytree(finished[0] / "synthesis", folder)
    assert restore_elsewhere(folder) == ""
    # Of what is read: orbax leaves the index of one process behind, which may be larger.
    files = (folder / "4" / "ema" / "d").iterdir()
    largest = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    for position in range(0, len(data), 997):  # some bytes of the file are never read
        data[position] ^= 1
    largest.write_bytes(data)
    expected = f"InputError: {folder}: found a damaged checkpoint of step 4 ({largest} "
    assert expected + "has other bytes" in restore_elsewhere(folder)
    largest.unlink()
    assert expected + "is missing" in restore_elsewhere(folder)
    (folder / "done.json").unlink()
    with pytest.raises(InputError, match=r"done\.json: not found"):
        restore_finished(folder)


def restore_elsewhere(folder) -> str:
    """What a process that restores `folder` has to complain of.

    In a process of its own, for a load that fails leaves coroutines of orbax behind.
    """
    code = "import pathlib, sys; from sims_jax.checkpoints import restore_finished; "
    code += "restore_finished(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


def test_a_mistyped_folder_does_not_spoil_the_workdir(tiny_config, tmp_path):
    config = tiny_config.copy_and_resolve_references()
    with config.unlocked():
        config.data = {"name": "folder", "root": str(tmp_path / "nowhere")}
    with pytest.raises(InputError, match="nowhere"):
        Run(config, tmp_path / "run").run()
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("synthesis.train.warmup_steps", 4, "warmup_steps"),
        ("features.train.log_every", 0, "^config.features.train.log_every: found 0"),
        ("transformer.train.batch_size", 12, "8 devices"),
        ("densifier.train.accumulation", 2, "batch_size: found 8, .* 8 devices times acc.* = 2"),
        ("ordering.train.precision", "half", "^config.ordering.train.precision: found 'half'"),
        ("simulation.lost_share", 0.5, "lost_share"),
        ("bank.grids", 3, r"^config.bank.grids: found an unknown .* config.bank.grid\?"),
        ("canvas.adherence", "photo", "^config.canvas.adherence: found 'photo'"),
        ("synthesis.init_from", "nowhere", "^nowhere/synthesis/done.json: not found"),
        ("synthesis.net.decoder_widths", (8,), "^config.synthesis.net.decoder_widths: found 1"),
        ("synthesis.net.encoder_convs", (1,), "^config.synthesis.net.encoder_convs: found 1, .* 2"),
        ("ordering.net.widths", (8,), "^config.ordering.net.convs: found 2, expected 1, as many"),
        ("pipeline.chunk", 0, "^config.pipeline.chunk: found 0, expected at least 1"),
        ("pipeline.candidates", 0, "^config.pipeline.candidates: found 0, expected at least 1"),
        ("bank.max_segments", 0, "^config.bank.max_segments: found 0, expected 1 to 32767"),
        ("bank.max_segments", 32768, "^config.bank.max_segments: found 32768, expected 1 to 32767"),
        ("bank.donors", 0, "^config.bank.donors: found 0, expected at least 1"),
        ("bank.grid", (48,), r"^config.bank.grid: found \(48,\), expected \(height, width\)"),
        ("bank.image_size", (96, 128, 3), r"^config.bank.image_size: found \(96, 128, 3\), exp"),
        ("bank.image_size", (15, 128), r"^config.bank.image_size: found .* of at least 16"),
        ("canvas.inner_share", -0.1, "^config.canvas.inner_share: found -0.1, expected 0 to 1"),
        ("simulation.relight_share", 2.0, "^config.simulation.relight_share: found 2.0, .* 0 to 1"),
        ("features.weights", "vgg.h5", "^config.synthesis.consistency_weight: .* weights cannot"),
        ("synthesis.consistency_weight", -1.0, "^config.synthesis.consistency_weight: found -1"),
        ("synthesis.segmentation_weight", -0.1, "^config.synthesis.segmentation_weight: found -0"),
        ("features.width_multiplier", 0.0, "^config.features.width_multiplier: found 0.0, .* than"),
    ],
)
def test_config_mistakes_are_found_at_once(tiny_config, tmp_path, key, value, message):
    config = tiny_config.copy_and_resolve_references()
    *parts, last = key.split(".")
    with config.unlocked():
        node = config
        for part in parts:
            node = node[part]
        node[last] = value
    with pytest.raises(InputError, match=message):
        Run(config, tmp_path / "run").run()
    assert not (tmp_path / "run" / "config.json").exists()
