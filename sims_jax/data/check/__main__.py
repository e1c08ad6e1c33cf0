"""`python -m sims_jax.data.check --config=...`: flags in, one call, status 1 where faults are.

What training would refuse of a config's keys and values is refused as there: one line, status 2.
Nothing is written but the files that are asked for, and no accelerator is touched.
"""

import pathlib
import sys

from sims_jax.commands import define_path, exit_with_one_line, run_with_config
from sims_jax.words import counted

FAULT_STATUS = 1


def main() -> None:
    """Checks a config, and then its dataset."""
    from absl import flags

    json_file = define_path("json", "File for the whole report as JSON.")
    sheet = define_path("sheet", "PNG of photos and layouts to look at.")
    follow = flags.DEFINE_bool("follow_links", False, "Files may be links out of the folder.")

    def check(config) -> None:
        from sims_jax.atomic import check_writable, write_json
        from sims_jax.data.check.report import check_dataset, to_json, to_text, write_sheet
        from sims_jax.training.settings import check_batches, read_settings

        # What no data could mend comes first. How many devices will share a batch is not known.
        check_batches(read_settings(config), config.stages, devices=1)
        for path in (json_file.value, sheet.value):
            if path:
                check_writable(pathlib.Path(path))
        sys.stdout.reconfigure(errors="backslashreplace")  # a name may be no text
        report = check_dataset(
            config.data,
            image_size=tuple(config.bank.image_size),
            min_area_frac=config.bank.min_area_frac,
            follow_links=follow.value,
        )
        print(to_text(report))
        if json_file.value:
            write_json(pathlib.Path(json_file.value), to_json(report))
        if sheet.value:
            count = write_sheet(pathlib.Path(sheet.value), report)
            print(f"{counted(count, 'sample')}: {sheet.value}" if count else "no samples, no sheet")
        if not report.passed:
            sys.exit(FAULT_STATUS)

    run_with_config(check)


if __name__ == "__main__":
    exit_with_one_line(main)
