"""The paper's dimensions and schedules (Qi et al., CVPR 2018), at 256x512; with :512 at 512x1024.

Command:   python train.py --config=configs/cityscapes.py --workdir=runs/cityscapes \
               --config.data.root=FOLDER
           then the same with configs/cityscapes.py:512, --workdir=runs/cityscapes512 and
               --config.synthesis.init_from=runs/cityscapes
Hardware:  one GPU, or several with a larger batch
Time:      days; not run here: its parameters are held against the paper's by the tests
Expected:  the paper's figures need its VGG-19: `--config.features.weights=FILE`

FOLDER holds leftImg8bit and gtFine and, where they are, gtCoarse and disparity. Other datasets of
the same shape of picture: --config.data.name=NAME (docs/your-own-photos.md).
"""

from ml_collections import ConfigDict

STAGES = ("bank", "features", "transformer", "ordering", "densifier", "synthesis")
PHOTOS = 2975  # Cityscapes, finely annotated, train
SEGMENTS_A_PHOTO = 10  # the paper's transformer batch: one photo's segments
TRUNK = dict(widths=(64, 128, 256, 512, 512), convs=(2, 2, 3, 3, 3))


def train(epochs: int, epoch_steps: int, batch_size: int, learning_rate: float, **other) -> dict:
    """Adam at a constant rate, unless `other` says so."""
    return (
        dict(
            steps=epochs * epoch_steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            schedule="constant",
            warmup_steps=0,
            growth_epochs=epochs,
            epoch_steps=epoch_steps,
            final_rate=0.0,
            ema_decay=0.999,
            clip_norm=0.0,
            log_every=100,
            save_every=2000,
            precision="float32",
            accumulation=1,
            save_minutes=10,
            sheet_every=10000,
        )
        | other
    )


def get_config(height: str = "256") -> ConfigDict:
    if height not in ("256", "512"):
        raise ValueError(f"configs/cityscapes.py:{height}: expected :512, or no argument")
    return at_512() if height == "512" else at_256()


def at_512() -> ConfigDict:
    """One decoder scale more, begun with a run at 256x512; the rest sees boxes of 256x512."""
    config = at_256()
    with config.unlocked():
        config.bank.update(image_size=(512, 1024))
        for stage in ("transformer", "ordering"):
            config[stage].net.box_size = (256, 512)
        config.synthesis.net.update(
            decoder_widths=(*config.synthesis.net.decoder_widths, 128), remat=True
        )
        config.synthesis.train = train(100, PHOTOS, 1, 1e-4)
    return config


def at_256() -> ConfigDict:
    return ConfigDict(
        dict(
            seed=0,
            stages=STAGES,
            distributed=False,
            # `train_extra` is for cityscapes, `subset` for ade20k: the paper uses outdoor photos.
            data=dict(name="cityscapes", root="", train_extra=False, subset=""),
            bank=dict(
                image_size=(256, 512),
                grid=(64, 128),
                max_segments=128,
                min_area_frac=0.0002,
                smoothing_frac=0.0,
                donors=8,
                near_frames=0,
            ),
            canvas=dict(
                adherence="segment",
                inner_band_frac=0.0175,  # a band of 0.035 h, half of it on each side
                inner_sides=2,
                inner_share=0.5,
                outer_band_frac=0.04,  # of 0.08 h
                outer_share=1.0,
                layers=1,
            ),
            simulation=dict(
                transfer_share=0.2,
                transfer_least=1.0,
                missing_share=0.1,
                empty_share=0.05,
                relight_share=0.0,
            ),
            pipeline=dict(
                candidates=10,
                light_weight=0.0,
                max_pairs=128,
                chunk=8,
                max_aspect=0.0,
                cut_empty=False,
            ),
            features=dict(
                weights="",
                width_multiplier=1.0,
                train=train(100, PHOTOS // 8, 8, 1e-4),
            ),
            transformer=dict(
                net=dict(**TRUNK, box_size=None),
                disturbance=dict(max_scale=1.1, max_shift_frac=0.031, max_rotation_deg=2.5),
                train=train(100, PHOTOS, SEGMENTS_A_PHOTO, 1e-5),
            ),
            ordering=dict(
                net=dict(**TRUNK, final_pool=True, hidden=1024, dropout=0.5, box_size=None),
                train=train(100, PHOTOS, 10, 1e-5, schedule="growth"),
            ),
            densifier=dict(
                net=dict(widths=(256, 256, 256, 256, 128, 128, 64)),
                train=train(100, PHOTOS, 1, 1e-4),
            ),
            synthesis=dict(
                net=dict(
                    encoder_widths=(64, 128, 256, 512, 512, 512),
                    encoder_convs=(2, 2, 3, 3, 3, 3),
                    decoder_widths=(512, 512, 512, 512, 512, 256, 256),
                    remat=False,
                ),
                segmentation_weight=10.0,
                consistency_weight=0.0,
                texture_weight=0.0,
                init_from="",  # workdir of a finished run with a smaller network
                train=train(
                    800, PHOTOS, 1, 1e-3, schedule="growth", growth_epochs=112, final_rate=1e-4
                ),
            ),
        )
    )
