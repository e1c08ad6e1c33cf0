"""What commands have in common, errors as one line, and `train.py`: flags in, one call."""

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Callable

from sims_jax.atomic import check_writable
from sims_jax.errors import InputError
from sims_jax.programs import shorten_start
from sims_jax.training.termination import Terminated

INPUT_ERROR_STATUS = 2
BROKEN_PIPE_STATUS = 128 + 13  # as a shell tells of what died of SIGPIPE
INTERRUPTED_STATUS = 128 + 2  # of SIGINT
NO_PATH = "found nothing, expected a path; '.' is this folder"
PACKAGED_CONFIGS = pathlib.Path(__file__).parent / "configs"
CHECKOUT_CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def train_command() -> None:
    """`train.py` and `sims-train`."""
    shorten_start()
    exit_with_one_line(_train_as_flags_say)


def _train_as_flags_say() -> None:
    from absl import flags

    workdir = define_workdir("Folder for all that training leaves behind; required.")
    processes = flags.DEFINE_integer(
        "processes", 1, "How many processes build the bank.", lower_bound=1
    )
    dry_run = flags.DEFINE_bool("dry_run", False, "Compiles every network and tells what it takes.")
    join_processes = define_processes()

    def train(config) -> None:
        join_processes(config)
        if dry_run.value:
            _dry_run(config)
        else:
            _train(config, pathlib.Path(workdir.value), processes.value)

    run_with_config(train)


class OneLineParser(argparse.ArgumentParser):
    """`argparse`'s, but a mistake is told in one line, as every other; flags have one name each."""

    def __init__(self, **options):
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str):
        self.exit(INPUT_ERROR_STATUS, f"error: {message}; --help tells the flags\n")


def define_workdir(told: str):
    """The flag `--workdir`, which is required."""
    from absl import flags

    workdir = define_path("workdir", told)
    _require("workdir")
    flags.register_validator(
        "workdir",
        lambda text: text is None or not pathlib.Path(text).is_file(),
        message="found a file, expected a folder; change it",
    )
    return workdir


def _require(name: str) -> None:
    """As `flags.mark_flag_as_required`, in our words."""
    from absl import flags

    flags.register_validator(
        name, lambda value: value is not None, message="found none, expected one; add it"
    )


def define_path(name: str, told: str):
    """A flag of absl's for a path. That of an unset variable is not the current folder."""
    from absl import flags

    path = flags.DEFINE_string(name, None, told)
    flags.register_validator(name, lambda text: text != "", message=NO_PATH)
    return path


def to_path(text: str) -> pathlib.Path:
    """A path among `argparse`'s flags; as `define_path` for absl's."""
    if not text:
        raise argparse.ArgumentTypeError(NO_PATH)
    return pathlib.Path(text)


def to_file(text: str) -> pathlib.Path:
    """The path of a file that is written in the end: whether it can be is tried at once."""
    path = to_path(text)
    try:
        check_writable(path)
    except (InputError, OSError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return path


def to_size(text: str) -> tuple[int, int]:
    """(height, width) of HxW among `argparse`'s flags."""
    height, width = (int(side) for side in text.split("x"))
    return height, width


def define_processes() -> Callable:
    """The flags of a job of several processes, and what joins them where the config says so."""
    from absl import flags

    where = {
        "coordinator": flags.DEFINE_string(
            "coordinator", None, "Of several processes: HOST:PORT of number 0."
        ),
        "count": flags.DEFINE_integer(
            "num_processes", None, "Of several processes: how many are one job.", lower_bound=1
        ),
        "index": flags.DEFINE_integer(
            "process_id", None, "Of several processes: this one, from 0.", lower_bound=0
        ),
    }
    wait_s = flags.DEFINE_float(
        "wait_s", 3600.0, "Of several processes: seconds to wait for others."
    )
    lost_s = flags.DEFINE_float(
        "lost_s", 100.0, "Of several processes: seconds of silence till one is lost."
    )

    def join_processes(config) -> None:
        from sims_jax import processes

        given = {name: flag.value for name, flag in where.items()}
        found = [flag.name for flag in where.values() if flag.value is not None]
        if not config.get("distributed", False):  # that it is missing is found with all keys
            if found:
                raise InputError(
                    f"--{found[0]}: found without --config.distributed=True, expected both; "
                    "add that, or leave this out"
                )
        else:
            processes.join(**given, wait_s=wait_s.value, lost_s=lost_s.value)

    return join_processes


def run_with_config(do: Callable) -> None:
    """Parses the flags that are defined, and --config, and calls `do` with the config."""
    from absl import app, flags, logging
    from ml_collections import config_flags

    config = config_flags.DEFINE_config_file(
        "config", None, "configs/NAME.py or NAME of a preset; required."
    )
    _require("config")

    def main(argv: list[str]) -> None:
        _refuse_arguments(argv)
        logging.set_verbosity(logging.WARNING)  # orbax reports every step of every save
        exit_with_one_line(lambda: do(config.value))

    def parse(argv: list[str]) -> list[str]:
        if {"-h", "--help", "--helpshort"}.intersection(argv[1:]):
            _tell_flags()
        _refuse_items(argv)
        try:
            return flags.FLAGS(_find_presets(argv))
        except (AttributeError, LookupError) as error:
            _fail(str(_find_unknown_key(_find_presets(argv)) or error))
        except (flags.Error, TypeError, ValueError, OSError) as error:
            # What fails in a config file comes with its traceback.
            lines = str(error).strip().splitlines()
            line = lines[-1] if "Traceback" in str(error) else " ".join(lines)
            _fail(line.removeprefix("ValueError: "))

    app.run(main, flags_parser=parse)


def _train(config, workdir: pathlib.Path, processes: int) -> None:
    from sims_jax.training.run import Run

    report = Run(config, workdir, processes).run()
    if report is not None:
        print(json.dumps(report, indent=2))
        print(f"report: {workdir / 'report.json'}\nsheet: {workdir / 'sheet.png'}")


def _dry_run(config) -> None:
    from sims_jax.processes import describe_devices
    from sims_jax.training.dry_run import dry_run

    print(describe_devices(), flush=True)
    for cost in dry_run(config):
        print(cost, flush=True)


def _tell_flags() -> None:
    """The flags of the main module and of this one; absl would tell of the main module's alone."""
    from absl import flags

    print(sys.modules["__main__"].__doc__ or "")
    for module in (sys.argv[0], __name__):  # libraries have some, too, which are not for users
        if module in flags.FLAGS.flags_by_module_dict():
            print(flags.FLAGS.module_help(module))
    print("  --config.KEY=VALUE: another value of a key of the config.")
    sys.exit()


def _refuse_arguments(argv: list[str]) -> None:
    if len(argv) > 1:
        _fail(f"found the argument {argv[1]!r}, expected flags only, such as --config=FILE")


def _refuse_items(argv: list[str]) -> None:
    """A config's values are changed whole: its sequences are tuples."""
    for argument in argv:
        changed = argument.partition("=")[0]
        if changed.startswith("--config.") and "[" in changed:
            key = changed.partition("[")[0]
            _fail(
                f"{changed.removeprefix('--')}: found an item of a value, expected the whole one, "
                f"""such as {key}="('one', 'other')\""""
            )


def _find_presets(argv: list[str]) -> list[str]:
    """Lets `--config=camvid:small` or `--config camvid:small` name one of the configs here."""

    def find(before: str, argument: str) -> str:
        flag = "" if before == "--config" else "--config="
        if not argument.startswith(flag):
            return argument
        preset, colon, rest = argument.removeprefix(flag).partition(":")
        for folder in (PACKAGED_CONFIGS, CHECKOUT_CONFIGS):
            file = folder / f"{preset}.py"
            if file.exists():
                return f"{flag}{file}{colon}{rest}"
        if not pathlib.Path(preset).is_file():
            presets = sorted(
                file.stem
                for folder in (PACKAGED_CONFIGS, CHECKOUT_CONFIGS)
                for file in folder.glob("[!_]*.py")
            )
            _fail(
                f"--config: found no file {preset!r}, expected one, or a preset "
                f"({', '.join(presets)}); correct it"
            )
        return argument

    return [find(*pair) for pair in zip(["", *argv], argv, strict=False)]


def _find_unknown_key(argv: list[str]) -> InputError | None:
    """The error of the first flag that would change a key which the config does not have."""
    from absl import flags

    from sims_jax.config import all_keys, unknown_key

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    chosen, others = parser.parse_known_args(argv)
    # absl fails at the key before it keeps the config.
    known = list(all_keys(flags.FLAGS["config"].parser.parse(chosen.config)))
    for argument in others:
        path, _, name = argument.partition("=")[0].partition("config.")
        if path == "--" and name not in known:
            return unknown_key("config", name, known)
    return None


def exit_with_one_line(do: Callable[[], None]) -> None:
    """Runs a command: what a user can mend becomes one line and a status (docs/training.md)."""
    try:
        do()
        sys.stdout.flush()
    except InputError as error:
        _fail_with_others(str(error))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("sims_jax"):
            raise
        _fail(
            f"{sys.executable}: found no {error.name}, expected a Python that has what sims_jax "
            "needs; take .venv/bin/python, which make demo installs, or pip install -e ."
        )
    except Terminated as stop:
        print(f"{stop}; the same command goes on from there", file=sys.stderr)
        sys.exit(stop.status)
    except KeyboardInterrupt:
        sys.stdout.flush()
        print("stopped by Ctrl-C; what was saved is kept", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED_STATUS)  # XLA may be compiling, and does not survive an orderly exit
    except BrokenPipeError:  # as of `| head`, which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BROKEN_PIPE_STATUS)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        reason = " ".join(str(error.strerror or error).split())
        _fail_with_others(
            f"{where}{reason}; check the path, its permissions and the space on its disk"
        )
    except Exception as error:
        if message := _lost_others(error) or _out_of_memory(error):
            _fail_with_others(message)
        raise


def _lost_others(error: Exception) -> str | None:
    """What to say if it is by the end of another process of the job that this one has failed."""
    if "jax" not in sys.modules:
        return None
    from sims_jax import processes

    return processes.lost_others(error)


def _out_of_memory(error: Exception) -> str | None:
    """What to say if it is memory that is missing: the host's, or XLA's on a device."""
    if not isinstance(error, MemoryError) and not str(error).startswith("RESOURCE_EXHAUSTED"):
        return None
    reason = str(error).partition("\n")[0] or "MemoryError"
    return (
        f"memory: {reason}; in training lower batch_size or raise accumulation "
        "(train.py --dry_run tells what a step takes), for photos take --photos=disk, --rows=stream"
    )


def _fail_with_others(message: str) -> None:
    """Of several processes each says what it failed of."""
    if "jax" not in sys.modules:  # most commands fail before they need it
        _fail(message)
    from sims_jax import processes

    print(f"error: {processes.name()}{message}", file=sys.stderr, flush=True)
    processes.leave(INPUT_ERROR_STATUS)


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(INPUT_ERROR_STATUS)
