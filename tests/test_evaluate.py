"""The evaluation: what the judge and each score notice, and what they do not."""

import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sims_jax.bank.photo import as_float
from sims_jax.config import CONFIG_FILE
from sims_jax.errors import InputError
from sims_jax.evaluate import evaluate_parser
from sims_jax.evaluation import judge as judging
from sims_jax.evaluation import judged as judged_sets
from sims_jax.evaluation import protocol, report
from sims_jax.evaluation.baselines import retrieve_photos
from sims_jax.labels import VOID, write_layout
from sims_jax.nets.scales import average_pool, upsample
from sims_jax.ops.light import DARK, measure_light, relight, sharpen
from sims_jax.ops.sheet import GAP_PX, to_uint8, write_picture

# What must be passed for a score to have moved from the real photos' own.
MOVED = {"spectrum_gap": 0.25, "gradient_ratio": 0.15, "tint": 3.0, "flat_share": 0.01}
FEW = 5


@pytest.fixture(scope="module")
def judged(tiny_stores, tmp_path_factory):
    """(judge, held-out store, its photos measured): a judge of a few steps."""
    store, heldout = tiny_stores
    few = dataclasses.replace(
        judging.TRAIN, steps=40, batch_size=4, warmup_steps=5, save_every=40, sheet_every=40
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "TRAIN", few)
        folder = tmp_path_factory.mktemp("judges")
        judge = judging.train_judge(store, heldout, folder)
        again = judging.train_judge(store, heldout, folder)
    assert judge.sha256 == again.sha256 and len(list(folder.iterdir())) == 1
    return judge, store, heldout


def look(judged, photo):
    judge, store, heldout = judged
    return protocol.look_at(photo, heldout.layout, judge, protocol.thumbnails(store.photo))


def compare(photos, real, draws):
    return protocol.compare(protocol.score_functions(photos, real), len(real.photo), draws)


def test_real_photos_are_like_themselves(judged):
    real = look(judged, judged[2].photo)
    found = {name: value for name, (value, _, _) in compare(real, real, 5).items()}
    assert found["accuracy"] > 0.5
    for name in ("frechet", "frechet_patches", "spectrum_gap", "tint", "flat_share"):
        assert found[name] == pytest.approx(0, abs=1e-6), name
    assert found["gradient_ratio"] == pytest.approx(1)
    assert all(value > 0 for value in protocol.half_distances(real).values())


def test_shuffled_photos_lose_their_layouts_alone(judged):
    real = look(judged, judged[2].photo)
    shuffled = look(judged, np.roll(judged[2].photo, 1, axis=0))
    before, after = (compare(x, real, 2) for x in (real, shuffled))
    assert after["miou"][0] < 0.8 * before["miou"][0]
    for name in ("frechet", "frechet_patches", "spectrum_gap", "tint"):
        assert after[name][0] == pytest.approx(0, abs=1e-6), name


def blur(photo):
    soft = jnp.asarray(photo.astype(np.float32))
    for _ in range(2):
        soft = upsample(average_pool(soft), photo.shape[1:3])
    return np.asarray(soft)


def tint(photo):
    return photo + np.array([9.0, -6.0, 9.0])


def cut_holes(photo):
    photo = photo.copy()
    photo[:, 14:28, 14:28] = photo.mean(axis=(1, 2), keepdims=True)
    return photo


@pytest.mark.parametrize(
    "change, noticed",
    [
        (blur, {"spectrum_gap", "gradient_ratio"}),
        (tint, {"tint"}),
        (cut_holes, {"flat_share"}),
    ],
)
def test_a_fault_moves_its_own_score_alone(judged, change, noticed):
    photo = np.clip(change(judged[2].photo), 0, 255).astype(np.uint8)
    real = look(judged, judged[2].photo)
    after = protocol.score_functions(look(judged, photo), real)
    everything = np.arange(len(photo))
    unmoved = {"gradient_ratio": 1.0}
    moved = {
        name
        for name, least in MOVED.items()
        if abs(after[name](everything) - unmoved.get(name, 0.0)) > least
    }
    assert moved == noticed


def test_a_judge_learns_from_other_videos(tiny_stores):
    store, heldout = tiny_stores
    seen = []

    def record(task, *_):
        seen.append(task.photos)
        raise InterruptedError

    one_video = dataclasses.replace(store, videos=("a",) * 3 + ("b",) * (len(store.ids) - 3))
    judged = dataclasses.replace(heldout, videos=("a",) * len(heldout.ids))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(judging, "train_once", record)
        judging.train_judge(one_video, judged, judged.folder.parent / "judges")
    assert seen[0].tolist() == list(range(3, len(store.ids)))


def test_a_judge_is_known_by_what_it_has_learned_from(tiny_stores):
    store, heldout = tiny_stores
    known = []

    def record(task, config, folder, learned_from, *_):
        known.append(json.dumps(learned_from))
        return {}

    spec = dataclasses.replace(store.spec, smoothing_frac=0.02)
    photo = store.photo.copy()
    photo[-1, 0, 0] ^= 1
    stores = store, dataclasses.replace(store, spec=spec, digest="of other segments")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "train_once", record)
        patch.setattr(judging, "digest_params", lambda params: "")
        for one in (*stores, dataclasses.replace(store, photo=photo)):
            judging.train_judge(one, heldout, heldout.folder)
    assert known[0] == known[1] != known[2]


def test_all_pixels_of_a_class_count_as_the_root_of_their_number(tiny_stores):
    store, heldout = tiny_stores
    task = judging.JudgeTask(store, np.arange(4), heldout)
    layout = store.layout[:4]
    pixels = np.bincount(layout[layout != VOID], minlength=len(task.class_weights))
    weights = pixels * task.class_weights
    np.testing.assert_allclose(weights.sum(), pixels.sum(), rtol=1e-5)
    np.testing.assert_allclose(weights / weights.max(), np.sqrt(pixels / pixels.max()), rtol=1e-5)


@pytest.fixture
def workdir(tiny_stores, judged, tmp_path, monkeypatch):
    for name, store in zip(("bank", "heldout"), tiny_stores, strict=True):
        shutil.copytree(store.folder, tmp_path / name)
    (tmp_path / CONFIG_FILE).write_text("{}")
    monkeypatch.setattr(report, "train_judge", lambda *_: judged[0])
    # Nearly all of an evaluation's time are Fréchet distances: a few draws, and halves, will do.
    monkeypatch.setattr(protocol, "compare", functools.partial(protocol.compare, draws=FEW))
    monkeypatch.setattr(protocol, "HALVES", FEW)
    return tmp_path


def run(workdir, *more):
    return report.evaluate(evaluate_parser().parse_args([f"--workdir={workdir}", *more]))


def test_the_model_of_a_workdir_is_judged(workdir, tiny_model, monkeypatch, capsys):
    monkeypatch.setattr("sims_jax.load", lambda _: tiny_model)
    found = run(workdir)
    assert json.loads((workdir / "evaluate" / "val.json").read_text()) == found
    assert (workdir / "evaluate" / "val.png").exists()
    photos = found["scores"]["photos"]
    assert 0 < photos["bank_share"] < 1 and photos["source_photos"] >= 1
    assert 0 < photos["light_spread"] < 1
    assert photos["frechet"]["value"] > found["scores"]["real"]["frechet"]["value"]
    assert "judge_sha256" in capsys.readouterr().out


def test_photos_of_coarse_layouts_are_judged_by_the_fine_ones(
    workdir, tiny_model, tiny_stores, monkeypatch
):
    """A densifier that adds nothing is the nearest label; the fine layouts are all found."""
    densifier = tiny_model.params.densifier["params"]
    values = jax.tree.map(np.zeros_like, jax.device_get(densifier)) | {"trust": np.float32(1)}
    # On the same devices, so that photos are made by the programs of the tests before.
    nothing = jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), values, densifier)
    params = tiny_model.params.replace(densifier={"params": nothing})
    monkeypatch.setattr("sims_jax.load", lambda _: dataclasses.replace(tiny_model, params=params))
    scores = run(workdir, "--coarse")["scores"]
    assert (workdir / "evaluate" / "val-coarse.json").exists()
    with Image.open(workdir / "evaluate" / "val-coarse.png") as sheet:
        width = tiny_stores[1].spec.image_size[1]
        assert sheet.width == 5 * (width + GAP_PX) + GAP_PX  # that of f beside the fine layout
    assert list(scores) == ["real", "photos", "nearest", "fine"]
    assert scores["photos"] == scores["nearest"] != scores["fine"]
    assert scores["nearest"]["layout_miou"] < scores["fine"]["layout_miou"] == 1


def test_the_retrieved_photo_is_that_of_the_most_similar_layout(tiny_stores):
    store, _ = tiny_stores
    asked = store.layout.copy()
    asked[:, :, :48] = VOID  # most of it: it must not count
    np.testing.assert_array_equal(retrieve_photos(store, asked), store.photo)
    unlabelled = store.layout.copy()
    unlabelled[1] = VOID
    unlabelled = dataclasses.replace(store, layout=unlabelled)
    np.testing.assert_array_equal(retrieve_photos(unlabelled, asked[:1]), store.photo[:1])


def test_a_reference_is_not_judged_and_lends_its_light_to_all(
    workdir, tiny_model, tiny_stores, monkeypatch
):
    heldout = tiny_stores[1]
    light = measure_light(as_float(heldout.photo[1]))
    crn = tiny_model.without_bank()
    monkeypatch.setattr("sims_jax.load", lambda _: tiny_model)
    monkeypatch.setattr(judged_sets, "train_without_canvas", lambda *_: crn)
    seen = {}
    monkeypatch.setattr(report, "write_picture", lambda *_: None)
    look_at = protocol.look_at

    def spy(photo, layout, *more):
        seen[len(seen)] = photo
        return look_at(photo, layout, *more)

    monkeypatch.setattr(protocol, "look_at", spy)
    reference = workdir / f"{heldout.ids[1]}.png"
    Image.fromarray(heldout.photo[1]).save(reference)
    found = run(workdir, f"--reference={reference}", "--baselines")
    assert list(found["scores"]) == ["real", "photos", "canvas", "retrieved_photo", "crn"]
    assert found["protocol"]["n"] == len(heldout.ids) - 1
    assert found["protocol"]["reference"] == reference.name
    assert list((workdir / "evaluate").glob("val-baselines-reference-????????.json"))
    np.testing.assert_array_equal(seen[0], np.delete(heldout.photo, 1, axis=0))
    expected = tiny_model.synthesize(heldout.layout[0], reference=heldout.photo[1]).photo
    np.testing.assert_array_equal(seen[1][0], to_uint8(expected))
    theirs = as_float(to_uint8(crn.synthesize(heldout.layout[2]).photo))
    nearest = as_float(retrieve_photos(tiny_stores[0], heldout.layout[[2]])[0])
    for photo, made in ((nearest, seen[3]), (theirs, seen[4])):
        expected = sharpen(relight(photo, measure_light(photo), light), light)
        np.testing.assert_allclose(made[1].astype(int), 255 * expected, atol=1)
    with pytest.raises(InputError, match="nobody"):
        run(workdir, "--reference=nobody")


def test_the_medoid_is_the_reference_where_none_is_named(
    workdir, tiny_model, tiny_stores, monkeypatch
):
    heldout = tiny_stores[1]
    monkeypatch.setattr("sims_jax.load", lambda _: tiny_model)
    found = run(workdir, "--reference")
    mean = [np.log(photo / 255 + DARK).mean(axis=(0, 1)) for photo in heldout.photo]
    apart = [sum(np.linalg.norm(a - b) for b in mean) for a in mean]
    assert found["protocol"]["reference"] == heldout.ids[np.argmin(apart)]
    assert found["protocol"]["n"] == len(heldout.ids) - 1
    assert (workdir / "evaluate" / "val-reference.json").exists()


def test_photos_of_others_are_judged(workdir, tiny_stores):
    heldout = tiny_stores[1]
    folder = workdir / "theirs"
    folder.mkdir()
    for photo_id, photo in zip(heldout.ids, heldout.photo, strict=True):
        write_picture(folder / f"{photo_id}.png", photo)
    scores = run(workdir, f"--photos={folder}")["scores"]
    assert scores["photos"] == scores["real"]  # they are
    layouts = workdir / "some"
    layouts.mkdir()
    for photo_id, layout in list(zip(heldout.ids, heldout.layout, strict=True))[1:]:
        write_layout(layouts / f"{photo_id}.png", layout, heldout.spec.labels)
    flags = f"--photos={folder}", f"--layouts={layouts}"
    held_out, given = (run(workdir, *flags, *more) for more in ([], [f"--real={folder}"]))
    assert held_out["scores"] == given["scores"]
    assert held_out["protocol"]["n"] == len(heldout.ids) - 1
    write_layout(layouts / "new.png", heldout.layout[0], heldout.spec.labels)
    write_picture(folder / "new.png", heldout.photo[0])
    with pytest.raises(InputError, match=r"new\.png: found no photo of this name.*give --real"):
        run(workdir, *flags)
    (folder / f"{heldout.ids[2]}.png").unlink()
    with pytest.raises(InputError, match=f"{heldout.ids[2]}.png: not found"):
        run(workdir, f"--photos={folder}")


def test_photos_of_other_proportions_are_named(tmp_path):
    write_picture(tmp_path / "high.png", np.zeros((40, 10, 3), np.uint8))
    with pytest.raises(InputError, match="found 40x10 pixels, expected the proportions of 48x64,"):
        judged_sets._read_photo(tmp_path / "high.png", (48, 64))


def test_the_standard_distance_is_told_where_its_network_is_given(
    workdir, tiny_model, monkeypatch, capsys
):
    def look(self, photos):  # the network itself: test_inception.py
        return photos.mean(axis=(1, 2))

    monkeypatch.setattr("sims_jax.load", lambda _: tiny_model)
    monkeypatch.setattr(report.InceptionFeatures, "look", look)
    monkeypatch.setattr("sims_jax.evaluation.fid.load_inception", lambda path: ({}, path.name))
    found = run(workdir, "--inception=weights")
    assert found["protocol"]["inception_sha256"] == "weights"
    assert found["scores"]["real"]["fid"]["value"] == pytest.approx(0, abs=1e-6)
    assert found["scores"]["photos"]["fid"]["value"] > 1
    assert "standard Fréchet inception distance" in capsys.readouterr().out


def test_flags_that_do_not_go_together_are_refused(workdir):
    values = {"photos": "--photos=x", "reference": "--reference=x"}
    apart = [[values.get(flag, f"--{flag}") for flag in flags] for flags in report.APART]
    for flags in (["--layouts=x"], ["--photos=x", "--real=y"], *apart):
        with pytest.raises(InputError):
            run(workdir, *flags)


def test_a_judge_needs_a_workdir(tmp_path):
    with pytest.raises(
        InputError, match=r"--workdir: found none, .*the judge learns from its bank"
    ):
        report.evaluate(evaluate_parser().parse_args([f"--photos={tmp_path}", "--layouts=x"]))


def test_a_folder_that_is_no_workdir_is_named(tmp_path):
    with pytest.raises(InputError, match=r"config\.json: not found, expected a workdir"):
        run(tmp_path)
