"""Judges photos: `python -m sims_jax.evaluate --workdir=WORKDIR`.

The workdir's model makes the photos of its held-out layouts, and `--baselines` others beside them;
`--photos=FOLDER` judges any others of the same layouts, or of those in `--layouts` (with the real
ones in `--real`, where they are not held out). Prints the protocol and a table; writes
`evaluate/NAME.json` and a sheet of the best, the median and the worst photos.
"""

import argparse

from sims_jax.commands import OneLineParser, exit_with_one_line, to_file, to_path
from sims_jax.evaluation import MEDOID
from sims_jax.programs import shorten_start


def main() -> None:
    shorten_start()
    arguments = evaluate_parser().parse_args()
    exit_with_one_line(lambda: _evaluate(arguments))


def evaluate_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python -m sims_jax.evaluate", description="Judges photos of semantic layouts."
    )
    add = parser.add_argument
    add("--workdir", type=to_path, help="of train.py, required: real photos, bank and model")
    add("--split", default="val", choices=("val",), help="the layouts: the workdir's held-out ones")
    add("--photos", type=to_path, help="judge these PNGs, named as the layouts, instead")
    add("--layouts", type=to_path, help="of --photos, where they are not the workdir's")
    add("--real", type=to_path, help="their real photos, where not held out")
    add(
        "--baselines",
        action="store_true",
        help="also the raw canvas, the bank's photos of the most similar layouts, and f without "
        "canvas (CRN)",
    )
    add(
        "--reference",
        type=to_path,
        nargs="?",
        metavar="PHOTO",
        const=MEDOID,
        help="a photo whose light and sharpness all are brought to, the baselines' too; if it is "
        "held out, by its name, it is not judged. Without a value: the held-out one whose light is "
        "nearest to the others' on average",
    )
    add(
        "--coarse",
        action="store_true",
        help="photos of the coarse layouts, beside those of their nearest labels and of the fine",
    )
    add(
        "--inception",
        type=to_path,
        help="Inception-v3's FID weights (pytorch-fid's, as .safetensors): the standard FID, too",
    )
    add("--json", type=to_file, help="default: WORKDIR/evaluate/NAME.json")
    return parser


def _evaluate(arguments: argparse.Namespace) -> None:
    from sims_jax.evaluation.report import evaluate

    evaluate(arguments)


if __name__ == "__main__":
    main()
