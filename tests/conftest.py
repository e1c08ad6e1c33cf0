"""What every test stands on: strict dtypes, warnings as errors, shapes checked, eight devices."""

import os
import pathlib

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ["JAX_PLATFORMS"] = "cpu"

import jaxtyping  # noqa: E402
import pytest  # noqa: E402

# Annotated shapes and dtypes are checked on every call. Not in types.py: its values pass through
# jax.tree.map, where they hold other things than arrays.
CHECKED = ("bank.match", "bank.segments", "canvas.align", "canvas.compose", "canvas.order", "losses", "nets", "ops")
jaxtyping.install_import_hook([f"sims_jax.{module}" for module in CHECKED], "beartype.beartype")

import jax  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")

CAMVID_ROOT = pathlib.Path(__file__).parents[2] / "shared" / "data" / "camvid"


@pytest.fixture(scope="session")
def camvid_root() -> pathlib.Path:
    """Real street photos; tests that need them are skipped where they are not."""
    if not CAMVID_ROOT.is_dir():
        pytest.skip(f"CamVid is not at {CAMVID_ROOT}")
    return CAMVID_ROOT
