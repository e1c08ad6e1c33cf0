"""What a bank of many rows needs: time and memory to build, load, ask, and find donors.

    python -m benchmarks.bank --rows=1000000 --grid=64x128 --folder=FOLDER --json=FILE

The bank is on disk, of photos as in `benchmarks.retrieval` (crops of layouts, flipped and shifted,
every so often one twice), in the colours of their classes with some noise. Each step runs in a
process of its own, and what a finished one has measured is kept in the folder: the same command
goes on where it was killed.

    build         the parts of all photos, by `--processes`
    load          opens the bank with its photos left on disk, and puts all rows on the devices
    query         the ten best rows of a layout's segments, and their photos read from disk
    blocks        prepares the rows to be read in blocks, once
    query_blocks  the same answers, when the devices hold two blocks
    donors        the nearest rows of `--donor-photos` of other photos

`seconds` are a step's own, imports and what it needs of `load` left out; `peak_memory_gib` is the
process's whole, of `build` the sum over its processes, each counted as large as the largest.
`query_ms` and `query_blocks_ms` are medians, after a first call that compiles.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import numpy as np

from benchmarks.crops import CANDIDATES, NUM_SCENES, TWIN_EVERY, draw_crops, make_spec
from sims_jax.atomic import write_json
from sims_jax.bank.blocks import BLOCK_PHOTOS, open_blocks
from sims_jax.bank.build import build_bank_together
from sims_jax.bank.device import rows_to_device
from sims_jax.bank.disk import DiskBank
from sims_jax.bank.donors import DonorConfig, find_donors
from sims_jax.bank.segments import split_layout
from sims_jax.bank.store import Store, open_bank
from sims_jax.commands import OneLineParser, exit_with_one_line, to_file, to_path, to_size
from sims_jax.data.scenes import draw_scene
from sims_jax.labels import SCENES

BANK, OTHERS, ANSWERS = "bank", "others", "answers.npy"  # in the folder
QUERIES = 10
DONORS = 4
DISK_BLOCK = 512  # bytes, of `st_blocks`
MEASURED_PHOTOS = 256  # whose rows say how many photos make `--rows`
NOISE = 16  # levels


class Crops:
    """Examples made by their index alone, so that a build may be continued, or divided."""

    def __init__(self, split: str, count: int, size: tuple[int, int]):
        self.count, self.size = count, size
        twice = tuple(2 * side for side in size)
        self.scenes = [draw_scene(0, i, split, twice)["layout"] for i in range(NUM_SCENES)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        # A twin is the photo before it.
        seed = index - (index % TWIN_EVERY == TWIN_EVERY - 1)
        rng = np.random.default_rng(seed)
        (layout,) = draw_crops(self.scenes, 1, self.size, rng)
        noise = rng.integers(0, NOISE, (*self.size, 3))
        photo = (np.asarray(SCENES.palette)[layout] + noise).clip(0, 255).astype(np.uint8)
        name = f"{index:08d}"
        return {"id": name, "photo": photo, "layout": layout, "video": name, "frame": 0}


def main() -> None:
    parser = OneLineParser(prog="python -m benchmarks.bank", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", required=True, type=int, help="of the bank, about")
    parser.add_argument("--grid", default=(64, 128), type=to_size, help="HxW in cells")
    parser.add_argument("--size", type=to_size, help="HxW of photos; default: the grid's")
    parser.add_argument("--folder", required=True, type=to_path, help="for the banks")
    parser.add_argument("--json", required=True, type=to_file)
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="that build")
    parser.add_argument("--donor-photos", type=int, default=256)
    parser.add_argument("--block-photos", type=int, default=BLOCK_PHOTOS, help="read at once")
    parser.add_argument("--step", choices=MEASURES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        run_step(arguments)
        return
    for step in MEASURES:
        if not result_file(arguments, step).exists():
            print(f"{step} ...", flush=True)
            command = [sys.executable, "-m", "benchmarks.bank", *sys.argv[1:], f"--step={step}"]
            subprocess.run(command, check=True)
    figures = {step: json.loads(result_file(arguments, step).read_text()) for step in MEASURES}
    figures |= {"threads": os.cpu_count(), "devices": [str(device) for device in jax.devices()]}
    write_json(arguments.json, figures)
    print(json.dumps(figures, indent=2))


def result_file(arguments: argparse.Namespace, step: str) -> pathlib.Path:
    return arguments.folder / f"{step}.json"


def run_step(arguments: argparse.Namespace) -> None:
    """One step, and what it took."""
    figures = MEASURES[arguments.step](arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if arguments.step == "build" and arguments.processes > 1:
        peak += arguments.processes * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    write_json(result_file(arguments, arguments.step), figures | {"peak_memory_gib": peak / 2**20})


def measure_build(arguments: argparse.Namespace) -> dict[str, float]:
    size = arguments.size or arguments.grid
    spec = make_spec(SCENES, size, arguments.grid)
    some = Crops("train", MEASURED_PHOTOS, size)
    layouts = np.stack([some[index]["layout"] for index in range(len(some))])
    found = jax.jit(split_layout, static_argnames="spec")(layouts, spec=spec).class_id >= 0
    source = Crops("train", int(np.ceil(arguments.rows / found.sum() * len(some))), size)
    names = {"source_name": "crops of scenes", "licence": "CC0"}
    began = time.perf_counter()
    bank, processes = arguments.folder / BANK, arguments.processes
    build_bank_together(source, spec, bank, **names, processes=processes)
    seconds = time.perf_counter() - began
    others = Crops("val", arguments.donor_photos, size)
    build_bank_together(others, spec, arguments.folder / OTHERS, **names)
    num_bytes = sum(path.stat().st_blocks * DISK_BLOCK for path in bank.rglob("*"))
    return {"seconds": seconds, "photos": len(source), "processes": processes} | {
        "disk_gib": num_bytes / 2**30
    }


def open_stored(arguments: argparse.Namespace, name: str) -> Store:
    return open_bank(arguments.folder / name, images="disk")


def load(arguments: argparse.Namespace) -> DiskBank:
    store = open_stored(arguments, BANK)
    return DiskBank(rows_to_device(store), store)


def measure_load(arguments: argparse.Namespace) -> dict[str, float]:
    began = time.perf_counter()
    bank = load(arguments)
    num_rows = len(bank.store.row_photo)
    return {
        "seconds": time.perf_counter() - began,
        "rows": num_rows,
        "bytes_per_row": sum(x.nbytes for x in jax.tree.leaves(bank.rows)) / num_rows,
    }


def measure_query(arguments: argparse.Namespace) -> dict[str, float]:
    bank = load(arguments)
    times, answers = ask(bank, open_stored(arguments, OTHERS))
    np.save(arguments.folder / ANSWERS, answers)
    began = time.perf_counter()
    bank.fetch(answers[0, :, :, 0])
    return {"query_ms": times, "fetch_ms": 1e3 * (time.perf_counter() - began)}


def measure_blocks(arguments: argparse.Namespace) -> dict[str, float]:
    store = open_stored(arguments, BANK)
    began = time.perf_counter()
    blocks = open_blocks(store, block_photos=arguments.block_photos)
    return {"seconds": time.perf_counter() - began, "blocks": len(blocks)}


def measure_query_blocks(arguments: argparse.Namespace) -> dict[str, float]:
    store = open_stored(arguments, BANK)
    times, answers = ask(
        DiskBank(open_blocks(store, block_photos=arguments.block_photos), store),
        open_stored(arguments, OTHERS),
    )
    differ = int((answers != np.load(arguments.folder / ANSWERS)).sum())
    return {"query_blocks_ms": times, "mismatches": differ}


def ask(bank: DiskBank, others: Store) -> tuple[float, np.ndarray]:
    """Median milliseconds of one layout, and the rows [QUERIES, 1, N, K] that were found."""
    times, answers = [], []
    for index in (0, *range(QUERIES)):
        began = time.perf_counter()
        answers.append(bank.match(others.layout[index : index + 1], candidates=CANDIDATES).row)
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times[1:]), np.stack(answers[1:])


def measure_donors(arguments: argparse.Namespace) -> dict[str, float]:
    bank, others = load(arguments), open_stored(arguments, OTHERS)
    began = time.perf_counter()
    find_donors(others, bank, DonorConfig(donors=DONORS, near_frames=0))
    rows_of_class = np.bincount(bank.store.row_class, minlength=SCENES.num_classes)
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "photos": len(others.ids),
        "donors_pairs_per_s": float(rows_of_class[others.row_class].sum() / seconds),
    }


MEASURES: dict[str, Callable[[argparse.Namespace], dict[str, float]]] = {
    "build": measure_build,
    "load": measure_load,
    "query": measure_query,
    "blocks": measure_blocks,
    "query_blocks": measure_query_blocks,
    "donors": measure_donors,
}

if __name__ == "__main__":
    exit_with_one_line(main)
