"""`python -m sims_jax.bank inspect | append | remove`: flags in, one call, errors as one line."""

import argparse
import tempfile

from sims_jax.commands import OneLineParser, exit_with_one_line, to_path
from sims_jax.programs import shorten_start
from sims_jax.words import counted


def bank_parser() -> argparse.ArgumentParser:
    """The flags of `python -m sims_jax.bank`."""
    parser = OneLineParser(
        prog="python -m sims_jax.bank", description="Looks into a memory bank, or changes it."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="what it holds, and where from")
    append = commands.add_parser("append", help="add the photos of a folder")
    remove = commands.add_parser("remove", help="take photos out, and all traces of them")
    for command in (inspect, append, remove):
        command.add_argument(
            "--bank", required=True, type=to_path, help="its folder, such as runs/NAME/bank"
        )
    inspect.add_argument("--ids", action="store_true", help="also the ids of its photos")
    inspect.add_argument("--json", type=to_path, metavar="FILE", help="also into this file")
    append.add_argument(
        "--data",
        required=True,
        type=to_path,
        help="folder of photos/, layouts/ and labels.json (default: the bank's classes)",
    )
    append.add_argument("--licence", help="of these photos (default: the user's own data)")
    remove.add_argument(
        "--photo", required=True, action="append", metavar="ID", help="may be given several times"
    )
    remove.add_argument("--dry_run", action="store_true", help="tell what would go, delete nothing")
    return parser


def _inspect(arguments: argparse.Namespace) -> None:
    from sims_jax.atomic import write_json
    from sims_jax.bank.inspect import describe, to_text

    held = describe(arguments.bank, ids=arguments.ids)
    print(to_text(held))
    if arguments.json:
        write_json(arguments.json, held)


def _append(arguments: argparse.Namespace) -> None:
    from sims_jax.bank.description import read_description, spec_of
    from sims_jax.bank.edit import append_photos
    from sims_jax.data.source import open_dataset

    # An error if there is none, before anything is written.
    labels = spec_of(arguments.bank, read_description(arguments.bank)).labels
    config = {"name": "folder", "root": str(arguments.data), "val_frac": 0, "labels": labels}
    # Not in the bank: edits sweep away what looks left over there.
    with tempfile.TemporaryDirectory(prefix="sims_jax-") as cache:
        dataset = open_dataset(config, cache)
        ids = append_photos(
            arguments.bank,
            dataset.splits["train"],
            labels=dataset.labels,
            source_name=str(arguments.data),
            licence=arguments.licence or dataset.licence,
        )
    done = f"{counted(len(ids), 'photo')} appended" if ids else "all of these appended before"
    print(f"{arguments.bank}: {done}")


def _remove(arguments: argparse.Namespace) -> None:
    from sims_jax.bank.edit import find_removed, remove_photos
    from sims_jax.bank.traces import find_in_others

    if arguments.dry_run:
        for path in find_removed(arguments.bank, arguments.photo):
            print(f"would be deleted: {path}")
    else:
        deleted = remove_photos(arguments.bank, arguments.photo)
        for path in deleted:
            print(f"deleted: {path}")
        done = "removed" if deleted else "removed before:"
        print(f"{arguments.bank}: {done} {', '.join(arguments.photo)}")
        if deleted:
            print(
                "not touched: the files the bank was made of, photos made outside of its workdir, "
                "and what networks have learned"
            )
    for bank, ids in find_in_others(arguments.bank, arguments.photo).items():
        print(f"{bank}: has {', '.join(ids)}, too; remove it there as well")


def main() -> None:
    """Runs the command that the flags name."""
    shorten_start()
    arguments = bank_parser().parse_args()
    run = {"inspect": _inspect, "append": _append, "remove": _remove}[arguments.command]
    exit_with_one_line(lambda: run(arguments))


if __name__ == "__main__":
    main()
