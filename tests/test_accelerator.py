"""The benchmark for accelerators, on what there is, at sizes that say nothing."""

import json
import sys

import pytest

from benchmarks import accelerator
from configs import cityscapes

TINY = dict(
    ROUNDS=1, STEPS=1, BATCH=2, MATRIX=64, COPY_BYTES=2**16, SIZES=((32, 64), (64, 128)),
    GRID=(24, 32), BATCH_LAYOUTS=2, CHECKED=1, NUM_SCENES=12,
)  # fmt: skip


@pytest.fixture
def measure(tmp_path, monkeypatch):
    for name, value in TINY.items():
        monkeypatch.setattr(accelerator, name, value)

    def run(*flags):
        path = tmp_path / "figures.json"
        monkeypatch.setattr(sys, "argv", ["accelerator", f"--json={path}", "--rows=300", *flags])
        accelerator.main()
        return json.loads(path.read_text())

    return run


def test_retrieval_is_measured_and_right(measure):
    figures = measure("--parts=retrieval")["retrieval"]
    assert figures["rows"] >= 300
    assert figures["copy_gb_s"] > 0 and figures["queries_per_s"] > 0
    assert figures["mismatches"] == 0


@pytest.mark.slow
def test_training_and_photos_are_measured(measure, monkeypatch):
    full = cityscapes.get_config

    def get_config(height="256"):
        config = full(height)
        scales = len(config.synthesis.net.decoder_widths) - 1
        with config.unlocked():
            config.bank.update(image_size=(32, 64), grid=(16, 32), max_segments=16)
            config.features.width_multiplier = 0.1
            config.synthesis.net.update(
                encoder_widths=(8,) * 5, encoder_convs=(1,) * 5, decoder_widths=(8,) * scales
            )
        return config

    monkeypatch.setattr(cityscapes, "get_config", get_config)
    figures = measure("--parts", "step", "photo")
    assert figures["step"]["bfloat16"]["tflop_a_step"] > 0
    assert figures["photo"]["64x128"]["ours_ms"] >= figures["photo"]["64x128"]["paint_ms"] > 0
