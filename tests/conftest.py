"""What every test stands on: strict dtypes, warnings as errors, shapes checked, eight devices."""

import importlib.metadata
import importlib.util
import os
import pathlib
import tempfile

# In the environment, so that the processes which tests start have them, too.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
# Nearly all of the suite's time is compilation of programs that run once; these two shorten it. An
# unknown flag ends the process, so the first is for the versions that were tried with it.
os.environ["XLA_FLAGS"] += (
    " --xla_cpu_use_fusion_emitters=false"
    if importlib.metadata.version("jaxlib").startswith("0.10.")
    else ""
)
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
# What one test has compiled, others need not, nor the processes that tests start: one folder for a
# run of the suite, which its workers, started with this environment, share.
if "PYTEST_XDIST_WORKER" not in os.environ:
    programs = tempfile.TemporaryDirectory(prefix="sims_jax-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = programs.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES"] = "none"

import jaxtyping
import pytest

# Annotated shapes and dtypes are checked on every call. Not in types.py: its values pass through
# jax.tree.map, where they hold other things than arrays.
CHECKED = (
    "bank.blocks",
    "bank.choose",
    "bank.disk",
    "bank.match",
    "bank.pixels",
    "bank.segments",
    "canvas.align",
    "canvas.compose",
    "canvas.order",
    "losses",
    "nets",
    "ops",
)
jaxtyping.install_import_hook([f"sims_jax.{module}" for module in CHECKED], "beartype.beartype")

import jax  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")

# Longest first: the two workers then end together. What is not named comes after these.
LONG_FILES = (
    "test_training.py",
    "test_processes.py",
    "test_evaluate.py",
    "test_pipeline.py",
    "test_match.py",
    "test_datasets.py",
    "test_nets.py",
    "test_store.py",
    "test_parallel.py",
    "test_commands.py",
    "test_bank_edit.py",
    "test_alike.py",
    "test_disk.py",
    "test_ops_components.py",
)

MOST_MAPS = 10_000

CAMVID_ROOT = pathlib.Path(__file__).parents[2] / "shared" / "data" / "camvid"


def pytest_collection_modifyitems(items) -> None:
    """Orders the files as LONG_FILES says; the tests of a file stay in their order."""
    place = {name: number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


def pytest_runtest_teardown(item, nextitem) -> None:
    """Between files, lets go of compiled programs before there are too many.

    Each takes some of a process's memory maps, of which Linux gives it 65,530: a worker that keeps
    all that the suite compiles dies without a word. What is needed again is read from the disk.
    """
    maps = pathlib.Path("/proc/self/maps")
    if nextitem is None or nextitem.path == item.path or not maps.exists():
        return
    if len(maps.read_bytes().splitlines()) > MOST_MAPS:
        jax.clear_caches()


@pytest.fixture(scope="session")
def camvid_root() -> pathlib.Path:
    """Real street photos; tests that need them are skipped where they are not."""
    if not CAMVID_ROOT.is_dir():
        pytest.skip(f"CamVid is not at {CAMVID_ROOT}")
    return CAMVID_ROOT


def load_config(name: str, *arguments: str):
    """The config that `configs/NAME.py` gives."""
    path = pathlib.Path(__file__).parents[1] / "configs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*arguments)


def write_config(config, folder: pathlib.Path) -> pathlib.Path:
    """A file for `--config` of a process that a test starts."""
    path = folder / "config.py"
    path.write_text(
        "import json\nfrom ml_collections import ConfigDict\n"
        f"def get_config():\n    return ConfigDict(json.loads({config.to_json()!r}))\n"
    )
    return path


@pytest.fixture(scope="session")
def tiny_config():
    """The quickstart with everything small: what tests train and synthesize with."""
    config = load_config("quickstart")
    with config.unlocked():
        config.data.update(image_size=(48, 64), num_train=10, num_val=4)
        config.bank.update(
            image_size=(48, 64), grid=(24, 32), max_segments=16, min_area_frac=0.004, donors=2
        )
        config.pipeline.update(
            candidates=3, light_weight=1.0, max_pairs=16, chunk=8, max_aspect=1.5, cut_empty=True
        )
        config.canvas.layers = 2
        config.simulation.relight_share = 0.5
        config.synthesis.texture_weight = 0.5
        config.features.width_multiplier = 0.0625
        for stage in ("transformer", "ordering"):
            config[stage].net.update(widths=(8, 8), convs=(1, 1), box_size=(16, 16))
        config.densifier.net.widths = (8, 8)
        config.synthesis.net.update(
            encoder_widths=(8, 8), encoder_convs=(1, 1), decoder_widths=(8, 8, 8)
        )
        for stage in ("features", "transformer", "ordering", "densifier", "synthesis"):
            config[stage].train.update(
                steps=4, batch_size=8, log_every=1, save_every=2, sheet_every=4, warmup_steps=1
            )
        # Enough for some of the transformer's answers to help.
        config.transformer.train.update(steps=48, save_every=24, sheet_every=48)
    return config


@pytest.fixture(scope="session")
def tiny_stores(tiny_config, tmp_path_factory):
    """(bank, held-out bank) of ten and four small scenes."""
    from sims_jax.bank.build import build_bank
    from sims_jax.bank.store import open_bank
    from sims_jax.config import make
    from sims_jax.data.source import open_dataset
    from sims_jax.training.settings import BankConfig

    folder = tmp_path_factory.mktemp("stores")
    dataset = open_dataset(tiny_config.data, folder / "data")
    spec = make(BankConfig, tiny_config.bank, "config.bank").spec(dataset.labels)
    for split, source in dataset.splits.items():
        build_bank(source, spec, folder / split, source_name=split, licence=dataset.licence)
    return open_bank(folder / "train"), open_bank(folder / "val")


@pytest.fixture(scope="session")
def tiny_model(tiny_config, tiny_stores):
    """A model of untrained networks; the transformer is not left at the identity."""
    from sims_jax.model import assemble
    from sims_jax.networks import make_networks

    labels = tiny_stores[0].spec.labels
    networks = make_networks(tiny_config, labels)
    return assemble(tiny_config, tiny_stores[0], random_params(networks, labels.num_classes))


def random_params(networks, num_classes: int) -> dict:
    """Parameters of all four networks, none of them zero."""
    import numpy as np

    from sims_jax.nets.densifier import Densifier
    from sims_jax.nets.ordering import Ordering
    from sims_jax.nets.synthesis import Synthesis
    from sims_jax.nets.transformer import Transformer

    size = (1, 16, 16)
    onehot, mask, rgb = (
        np.zeros(shape, np.float32) for shape in ((*size, num_classes + 1), size, (*size, 3))
    )
    inputs = {
        "transformer": (Transformer(networks.transformer, num_classes), (rgb, mask, onehot)),
        "ordering": (Ordering(networks.ordering, num_classes), (onehot, mask, mask)),
        "densifier": (Densifier(networks.densifier, num_classes), (onehot,)),
        "synthesis": (Synthesis(networks.synthesis, num_classes), (onehot, rgb, mask)),
    }
    params = {}
    for seed, (name, (network, arguments)) in enumerate(inputs.items()):
        rng = np.random.default_rng(seed)
        params[name] = jax.tree.map(
            lambda leaf, rng=rng: leaf + rng.normal(0, 0.02, leaf.shape).astype(np.float32),
            jax.device_get(jax.jit(network.init)(jax.random.key(seed), *arguments)),
        )
    return params
