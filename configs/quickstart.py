"""A first look: every network, small, on procedural street scenes.

Command:   make demo; with your own photos (README.md) --config=configs/quickstart.py:FOLDER
Hardware:  two CPU cores
Time:      six to ten minutes, installation included
Expected:  runs/quickstart/report.json as in README.md, "First result";
           runs/quickstart/sheet.png with layout | canvas | photo | real
"""

from ml_collections import ConfigDict, FieldReference

STAGES = ("bank", "features", "transformer", "ordering", "densifier", "synthesis")


def train(steps: int, batch_size: int, learning_rate: float) -> dict:
    """A short schedule: linear warmup, cosine to zero."""
    asked = FieldReference(steps)  # the warmup follows --config.STAGE.train.steps
    return dict(
        steps=asked,
        batch_size=batch_size,
        learning_rate=learning_rate,
        schedule="cosine",
        warmup_steps=asked // 20,
        growth_epochs=0,
        epoch_steps=0,
        final_rate=0.0,
        ema_decay=0.99,
        clip_norm=1.0,
        log_every=10,
        save_every=100,
        precision="float32",
        accumulation=1,
        save_minutes=10,
        sheet_every=steps,
    )


def get_config(folder: str = "") -> ConfigDict:
    scenes = dict(name="scenes", image_size=(96, 128), num_train=192, num_val=32, seed=0)
    own_photos = dict(name="folder", root=folder, val_frac=0.1, video_frames=False)
    return ConfigDict(
        dict(
            seed=0,
            stages=STAGES,
            distributed=False,
            data=own_photos if folder else scenes,
            bank=dict(
                image_size=(96, 128),
                grid=(48, 64),
                max_segments=48,
                min_area_frac=0.001,
                smoothing_frac=0.0,
                donors=4,
                near_frames=0,
            ),
            canvas=dict(
                adherence="layout",
                inner_band_frac=0.02,
                inner_sides=1,
                inner_share=0.75,
                outer_band_frac=0.02,
                outer_share=0.5,
                layers=3,
            ),
            simulation=dict(
                transfer_share=0.8,
                transfer_least=0.0,
                missing_share=0.1,
                empty_share=0.1,
                relight_share=0.0,
            ),
            pipeline=dict(
                candidates=8,
                light_weight=0.25,
                max_pairs=64,
                chunk=16,
                max_aspect=3.0,
                cut_empty=True,
            ),
            features=dict(weights="", width_multiplier=0.25, train=train(200, 8, 1e-3)),
            transformer=dict(
                net=dict(widths=(16, 32, 64, 64), convs=(1, 1, 1, 1), box_size=(32, 64)),
                disturbance=dict(max_scale=1.2, max_shift_frac=0.1, max_rotation_deg=5.0),
                train=train(350, 32, 2e-3),
            ),
            ordering=dict(
                net=dict(
                    widths=(16, 32, 64, 64),
                    convs=(1, 1, 1, 1),
                    final_pool=False,
                    hidden=128,
                    dropout=0.2,
                    box_size=(48, 64),  # poles and signs need the height
                ),
                train=train(2000, 32, 2e-3),
            ),
            densifier=dict(net=dict(widths=(48, 48, 32, 24, 16)), train=train(1200, 8, 2e-3)),
            synthesis=dict(
                net=dict(
                    encoder_widths=(16, 32, 48, 64),
                    encoder_convs=(1, 1, 1, 1),
                    decoder_widths=(64, 64, 64, 32, 24),
                    remat=False,
                ),
                segmentation_weight=0.1,
                consistency_weight=1.0,
                texture_weight=0.0,
                init_from="",  # workdir of a finished run with a smaller network
                train=train(300, 4, 2e-3),
            ),
        )
    )
