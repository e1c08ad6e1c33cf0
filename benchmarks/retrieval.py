"""Retrieval at any size: ours against vector search, on the same rows and queries.

    python -m benchmarks.retrieval --segments=60000 --grid=64x128 --queries=32 --json=FILE

The bank is made of crops of layouts, flipped and shifted, some of them twice (ties); the queries
are segments of other layouts. Layouts are drawn (`scenes`), or read from folders of PNGs:
`--layouts=FOLDER --query-layouts=FOLDER` in the classes of `--labels`.

`ours_pairs_per_s`: query segments × rows of their class in a second, whether pruned or scored, from
split layouts to the ten best rows; `ours_ms_per_layout`: one layout of the batch, splitting
included. The peers find the ten best rows of the same class by their masks alone, which is less
than ours does, one call a class with all its queries: usearch's exact search of packed bits
(Tanimoto) on all cores and on one, numpy's `bitwise_count`, and a float32 matrix product (these two
on the first rows and queries of each class, for they are slow). All in turn, medians of `REPEATS`.

`mismatches`: segments whose ten best rows differ from the numpy twin's, which scores every pair
from raw layouts. `ours_effective_gb_s`: the mask bytes of all pairs in the time ours took, which
pruning lets exceed `read_bandwidth_gb_s`, what this machine reads. `peak_memory_gib` is that of the
whole benchmark, its peers and its twin included; `usearch_kernels`, of which processors usearch
takes its kernels. The rows lie on as many devices as JAX has; a CPU
is one, or as many as `--devices` says.
"""

import json
import os
import resource
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import UInt8

from benchmarks.crops import (
    CANDIDATES,
    NUM_SCENES,
    crop,
    draw_layouts,
    make_spec,
    make_store,
    read_ids,
)
from benchmarks.retrieval_twin import count_mismatches, pack
from benchmarks.timing import time_in_turn
from sims_jax import labels as label_spaces
from sims_jax.bank.device import to_device
from sims_jax.bank.donors import BATCH as DONOR_BATCH
from sims_jax.bank.match import match, search
from sims_jax.bank.segments import split_layout
from sims_jax.bank.store import Store
from sims_jax.commands import OneLineParser, exit_with_one_line, to_file, to_path, to_size
from sims_jax.labels import LabelSpace

try:
    from usearch.index import Index, MetricKind
    from usearch.index import search as usearch_exact
except ModuleNotFoundError as error:
    raise SystemExit("usearch: not installed; pip install -e '.[bench]'") from error

REPEATS = 7
WARM = 3  # calls of its own before each timed one; *_cold: none, so right after another's
SLOW_ROWS, SLOW_QUERIES = 4096, 16


def main() -> None:
    parser = OneLineParser(
        prog="python -m benchmarks.retrieval", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--segments", required=True, type=int, help="rows of the bank")
    parser.add_argument("--grid", required=True, type=to_size, help="HxW in cells")
    parser.add_argument("--queries", required=True, type=int, help="layouts")
    parser.add_argument("--json", required=True, type=to_file)
    parser.add_argument("--layouts", type=to_path, help="PNGs of ids; else scenes are drawn")
    parser.add_argument("--query-layouts", type=to_path, help="others, not in the bank")
    parser.add_argument("--labels", default="SCENES", choices=("SCENES", "CAMVID", "CITYSCAPES"))
    parser.add_argument("--devices", type=int, default=1, help="of a CPU")
    arguments = parser.parse_args()
    if arguments.grid[0] * arguments.grid[1] % 64:
        parser.error("--grid: expected a multiple of 64 cells, for numpy counts words of 64 bits")
    if (arguments.layouts is None) != (arguments.query_layouts is None):
        parser.error("--layouts and --query-layouts: expected both or neither")
    if jax.config.jax_platforms in (None, "cpu"):
        jax.config.update("jax_num_cpu_devices", arguments.devices)
    label_space = getattr(label_spaces, arguments.labels)
    spec = make_spec(label_space, arguments.grid, arguments.grid)
    sources, query_sources = read_sources(arguments, label_space)
    rng = np.random.default_rng(0)
    store = make_store(sources, arguments.segments, spec, rng)
    queries = np.stack([
        crop(query_sources[i % len(query_sources)], 1.0, spec.grid, rng)
        for i in range(arguments.queries)
    ])  # fmt: skip
    figures = measure(store, queries)
    arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


def read_sources(arguments, label_space: LabelSpace) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Layouts for the bank, and for the queries."""
    if arguments.layouts is None:
        grid = arguments.grid
        return draw_layouts("train", NUM_SCENES, grid), draw_layouts("val", arguments.queries, grid)
    return tuple(
        [read_ids(path, label_space) for path in sorted(folder.glob("*.png"))]
        for folder in (arguments.layouts, arguments.query_layouts)
    )


# --- what is measured -----------------------------------------------------------------------


def measure(store: Store, queries: UInt8[np.ndarray, "B h w"]) -> dict[str, object]:
    spec = store.spec
    bank = to_device(store)
    rows = bank.rows
    segments = jax.device_get(jax.jit(split_layout, static_argnames="spec")(queries, spec=spec))
    split = segments.component, segments.class_id
    run = jax.jit(search, static_argnames="candidates")
    run_match = jax.jit(match, static_argnames="candidates")
    best = run(rows, queries, *split, candidates=CANDIDATES)
    per_class = classes(store, queries, segments)
    pairs = sum(len(own) * len(asked) for own, asked in per_class)
    threads = os.cpu_count()
    calls: dict[str, Callable[[], object]] = {
        "ours": lambda: jax.block_until_ready(run(rows, queries, *split, candidates=CANDIDATES)),
        "match": lambda: jax.block_until_ready(run_match(rows, queries, candidates=CANDIDATES)),
        f"usearch, {threads} threads": lambda: ask_usearch(per_class, threads),
        "usearch, 1 thread": lambda: ask_usearch(per_class, 1),
    }
    ms = time_in_turn(calls, REPEATS, WARM)
    cold = time_in_turn(calls, REPEATS)
    slow = [(own[:SLOW_ROWS], asked[:SLOW_QUERIES]) for own, asked in per_class]
    slow_pairs = sum(len(own) * len(asked) for own, asked in slow)
    unpacked = [tuple(map(unpack, part)) for part in slow]
    slow_ms = time_in_turn(
        {
            "numpy bitwise_count": lambda: ask_numpy(slow),
            "float32 matrix product": lambda: ask_product(unpacked),
        },
        REPEATS,
    )
    peers = {name: 1e3 * pairs / ms[name] for name in ms if name.startswith("usearch")}
    peers |= {name: 1e3 * slow_pairs / each for name, each in slow_ms.items()}
    ours = 1e3 * pairs / ms["ours"]
    mask_bytes = rows.mask[0, 0].nbytes
    return {
        "segments": len(store.row_photo),
        "ours_ms_per_layout": ms["match"] / len(queries),
        "ours_pairs_per_s": ours,
        "peers": peers,
        "ratio_best_peer": ours / max(peers.values()),
        "ratio_best_peer_cold": min(x for name, x in cold.items() if name.startswith("usearch"))
        / cold["ours"],
        "ratio_numpy": ours / peers["numpy bitwise_count"],
        "mismatches": count_mismatches(store, queries, segments, jax.device_get(best), CANDIDATES),
        "bytes_per_row": sum(x.nbytes for x in jax.tree.leaves(rows)) / len(store.row_photo),
        "read_bandwidth_gb_s": read_bandwidth(),
        "ours_effective_gb_s": ours * mask_bytes / 1e9,
        "donors_pairs_per_s": measure_donors(store, rows),
        "query_segments": int((segments.class_id >= 0).sum()),
        "pairs": pairs,
        "devices": [str(device) for device in jax.devices()],
        "threads": threads,
        "usearch_kernels": Index(
            ndim=8 * mask_bytes, metric=MetricKind.Tanimoto, dtype="b1"
        ).hardware_acceleration,
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def classes(
    store: Store, queries: UInt8[np.ndarray, "B h w"], segments
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each class the packed masks of its rows and of its query segments, uint8 [n, bytes]."""
    result = []
    for class_id in range(store.spec.labels.num_classes):
        layout, number = np.nonzero(segments.class_id == class_id)
        rows = np.flatnonzero(store.row_class == class_id)
        if len(layout) and len(rows):
            own = pack(store.component, store.row_photo[rows], store.row_component[rows])
            result.append((own, pack(segments.component, layout, number)))
    return result


def unpack(packed: UInt8[np.ndarray, "n bytes"]) -> np.ndarray:
    return np.unpackbits(packed, axis=-1).astype(np.float32)


def ask_usearch(per_class, threads: int) -> None:
    for own, asked in per_class:
        usearch_exact(own, asked, CANDIDATES, MetricKind.Tanimoto, exact=True, threads=threads)


def ask_numpy(per_class) -> None:
    for own, asked in per_class:
        own_words = own.view(np.uint64)
        area = np.bitwise_count(own_words).sum(axis=-1, dtype=np.int32)
        for words in asked.view(np.uint64):
            common = np.bitwise_count(own_words & words).sum(axis=-1, dtype=np.int32)
            either = area + np.bitwise_count(words).sum(dtype=np.int32) - common
            best_ten(common / np.maximum(either, 1))


def ask_product(per_class) -> None:
    for own, asked in per_class:
        common = asked @ own.T
        either = asked.sum(axis=-1)[:, None] + own.sum(axis=-1) - common
        best_ten(common / np.maximum(either, 1))


def best_ten(score: np.ndarray) -> np.ndarray:
    return np.argpartition(score, -min(CANDIDATES, score.shape[-1]), axis=-1)[..., -CANDIDATES:]


def read_bandwidth() -> float:
    """GB a second of a sum over more words than any cache holds."""
    words = jax.numpy.ones(2**27, jax.numpy.uint32)
    add = jax.jit(lambda words: words.sum(dtype=words.dtype))
    ms = time_in_turn({"sum": lambda: jax.block_until_ready(add(words))}, REPEATS)
    return words.nbytes / ms["sum"] / 1e6


def measure_donors(store: Store, rows) -> float:
    """Pairs a second of bank photos against the bank, themselves excluded."""
    some = np.linspace(0, len(store.ids) - 1, DONOR_BATCH).astype(int)
    class_id = store.class_of(some)
    exclude = some[:, None] == np.arange(len(store.ids))
    arguments = rows, store.layout[some], store.component[some].astype(np.int32), class_id
    run = jax.jit(search, static_argnames="candidates")
    call = lambda: jax.block_until_ready(run(*arguments, CANDIDATES, exclude))  # noqa: E731
    rows_of_class = np.bincount(store.row_class, minlength=store.spec.labels.num_classes)
    pairs = rows_of_class[class_id[class_id >= 0]].sum()
    return float(1e3 * pairs / time_in_turn({"donors": call}, REPEATS)["donors"])


if __name__ == "__main__":
    exit_with_one_line(main)
