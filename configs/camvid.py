"""Street photos: CamVid (Brostow et al. 2009) in SegNet's folder layout.

Command:   python train.py --config=configs/camvid.py:small --workdir=runs/camvid \
               --config.data.root=FOLDER_OF_CAMVID
Hardware:  :small two CPU cores; without an argument one GPU
Time:      :small an hour, most of it for f
Expected:  :small photos of 120x160 as in docs/photos.md; the other has not been run to its end

To judge on streets that were never seen, hold out a whole video:
`--config.data.holdout_videos="('0001TP',)"`.
"""

from ml_collections import ConfigDict, FieldReference

STAGES = ("bank", "features", "transformer", "ordering", "densifier", "synthesis")


def train(steps: int, batch_size: int, learning_rate: float, ema_decay: float = 0.998) -> dict:
    """Linear warmup, cosine to zero."""
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
        ema_decay=ema_decay,
        clip_norm=1.0,
        log_every=10,
        save_every=200,
        precision="float32",
        accumulation=1,
        save_minutes=10,
        sheet_every=1000,
    )


def get_config(size: str = "full") -> ConfigDict:
    if size not in ("small", "full"):
        raise ValueError(f"configs/camvid.py:{size}: expected :small, or no argument")
    return small() if size == "small" else full()


def small() -> ConfigDict:
    """120x160 on two CPU cores."""
    return ConfigDict(
        dict(
            seed=0,
            stages=STAGES,
            distributed=False,
            data=dict(name="camvid", root="", holdout_videos=()),
            bank=dict(
                image_size=(120, 160),
                grid=(60, 80),
                max_segments=64,
                min_area_frac=0.0006,
                smoothing_frac=0.02,
                donors=4,
                near_frames=5,
            ),
            canvas=dict(
                adherence="layout",
                inner_band_frac=0.01,
                inner_sides=1,
                inner_share=0.75,
                outer_band_frac=0.017,
                outer_share=0.5,
                layers=3,
            ),
            simulation=dict(
                transfer_share=0.8,
                transfer_least=0.0,
                missing_share=0.1,
                empty_share=0.05,
                relight_share=0.5,
            ),
            pipeline=dict(
                candidates=16,
                light_weight=0.25,
                max_pairs=96,
                chunk=16,
                max_aspect=3.0,
                cut_empty=True,
            ),
            features=dict(weights="", width_multiplier=0.25, train=train(700, 8, 1e-3)),
            transformer=dict(
                net=dict(widths=(16, 32, 64, 64), convs=(1, 1, 1, 1), box_size=(32, 64)),
                disturbance=dict(max_scale=1.25, max_shift_frac=0.1, max_rotation_deg=5.0),
                train=train(1200, 32, 2e-3),
            ),
            ordering=dict(
                net=dict(
                    widths=(16, 32, 64, 64),
                    convs=(1, 1, 1, 1),
                    final_pool=False,
                    hidden=128,
                    dropout=0.2,
                    box_size=(32, 64),
                ),
                train=train(1000, 32, 2e-3),
            ),
            densifier=dict(net=dict(widths=(64, 48, 32, 24, 16)), train=train(1200, 8, 2e-3)),
            synthesis=dict(
                net=dict(
                    encoder_widths=(16, 32, 64, 128, 128),
                    encoder_convs=(1, 1, 2, 2, 2),
                    decoder_widths=(128, 128, 128, 96, 48, 24),
                    remat=False,
                ),
                segmentation_weight=0.1,
                consistency_weight=1.0,
                texture_weight=1.0,
                init_from="",  # workdir of a finished run with a smaller network
                train=train(5000, 4, 2e-3),
            ),
        )
    )


def full() -> ConfigDict:
    """360x480, SegNet's size, on one GPU."""
    config = small()
    with config.unlocked():
        config.bank.update(image_size=(360, 480), max_segments=96, min_area_frac=0.0003)
        config.features.width_multiplier = 0.5
        config.features.train = train(6000, 8, 5e-4)
        config.transformer.net.update(
            widths=(32, 64, 128, 256, 256), convs=(2, 2, 3, 3, 3), box_size=(64, 128)
        )
        config.transformer.train = train(10000, 32, 5e-4)
        config.ordering.net.update(
            widths=(32, 64, 128, 256, 256), convs=(2, 2, 3, 3, 3), hidden=512, box_size=(64, 128)
        )
        config.ordering.train = train(6000, 32, 5e-4)
        config.densifier.net.widths = (256, 256, 256, 128, 128, 64)
        config.densifier.train = train(6000, 8, 5e-4)
        config.synthesis.net.update(
            encoder_widths=(64, 128, 256, 256, 256, 256),
            encoder_convs=(2, 2, 3, 3, 3, 3),
            decoder_widths=(256, 256, 256, 256, 256, 128, 64),
        )
        config.synthesis.train = train(40000, 4, 1e-3, ema_decay=0.999)
    return config
