"""Simulated and composed canvases are alike: what f is trained on is what it meets."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import load_config
from scipy import ndimage

from sims_jax import pipeline
from sims_jax.bank.build import build_bank
from sims_jax.bank.donors import find_donors
from sims_jax.bank.device import to_device
from sims_jax.bank.store import open_bank
from sims_jax.canvas.compose import elide, paste
from sims_jax.canvas.order import rank_by_prior
from sims_jax.canvas.simulate import SimulationConfig, simulate
from sims_jax.config import make
from sims_jax.data.source import open_dataset
from sims_jax.model import make_networks
from sims_jax.training.settings import BankConfig
from sims_jax.training.tasks.synthesis import DonorTable, draw_donors, photo_example

PHOTOS, HELDOUT = 60, 16
POINTS = 0.05
SMALL_HOLE_PX, LARGE_HOLE_PX = 10, 200


@pytest.fixture(scope="module")
def canvases(camvid_root, tmp_path_factory):
    """(composed, simulated) canvases of held-out CamVid layouts, and the layouts.

    The transformer is left out of both: segments and donors are used where they stand.
    """
    config = load_config("camvid", "small")
    folder = tmp_path_factory.mktemp("alike")
    dataset = open_dataset({"name": "camvid", "root": str(camvid_root)}, folder / "data")
    networks = make_networks(config, dataset.labels)
    spec = make(BankConfig, config.bank, "config.bank").spec(dataset.labels)
    stores = []
    for split, count in (("train", PHOTOS), ("val", HELDOUT)):
        source = dataset.splits[split]
        some = [source[i] for i in np.linspace(0, len(source) - 1, count).astype(int)]
        build_bank(some, spec, folder / split, source_name=split, licence=dataset.licence)
        stores.append(open_bank(folder / split))
    store, heldout = stores
    on_device = to_device(store, jax.devices()[:1])
    composed = compose_without_transformer(on_device, heldout.layout, networks)

    rows = find_donors(heldout, store, on_device, candidates=4, near_frames=0)
    still = np.broadcast_to(np.asarray([[1, 0, 0], [0, 1, 0]], np.float32), (*rows.shape, 2, 3))
    rng = np.random.default_rng(0)
    one = jax.jit(
        lambda key, example: simulate(
            key,
            example["photo"].astype(jnp.float32) / 255,
            example["component"].astype(jnp.int32),
            example["layout"],
            example["donors"],
            SimulationConfig(config.simulation.transfer_share, 0.0, 0.0, 0.0),
            networks.canvas,
            networks.labels,
        )
    )
    simulated = []
    for index in range(HELDOUT):
        slot = draw_donors(rng, (rows[heldout.row_of[index]] >= 0).sum(axis=1))
        example = photo_example(heldout, store, DonorTable(rows, still), index, slot)
        simulated.append(jax.device_get(one(jax.random.key(index), example)))
    return composed, simulated, heldout.layout


def compose_without_transformer(bank, layouts, networks):
    @jax.jit
    def compose(layout, key):
        matches = pipeline.match(bank.rows, layout[None], candidates=1)
        pixels = pipeline.gather(bank, matches)
        segments = jax.tree.map(lambda x: x[0], matches.segments)
        rank = rank_by_prior(segments.box_yx[:, 2])
        rgb = pixels.photo[0].astype(jnp.float32) / 255
        canvas = paste(rgb, pixels.mask[0], rank, segments, layout, "layout")
        return elide(key, canvas, networks.canvas, networks.labels)

    keys = jax.random.split(jax.random.key(1), len(layouts))
    return [jax.device_get(compose(*one)) for one in zip(layouts, keys, strict=True)]


def fill(canvases, where=None):
    """Share of pixels that are present, over all canvases."""
    masks = np.stack([canvas.mask for canvas in canvases]) > 0
    return masks.mean() if where is None else masks[where].mean()


def test_fill(canvases):
    composed, simulated, _ = canvases
    assert fill(simulated) == pytest.approx(fill(composed), abs=POINTS)
    assert 0.4 < fill(composed) < 0.95


def test_fill_of_large_classes(canvases):
    composed, simulated, layouts = canvases
    for class_id in range(11):
        where = layouts == class_id
        if where.mean() > 0.03:  # of fewer pixels a share says little
            found, expected = fill(simulated, where), fill(composed, where)
            assert found == pytest.approx(expected, abs=POINTS)


def test_fill_of_boundary_bands(canvases):
    composed, simulated, layouts = canvases
    band = np.stack([boundary(layout) for layout in layouts])
    assert 0.05 < band.mean() < 0.6
    assert fill(simulated, band) == pytest.approx(fill(composed, band), abs=POINTS)


def boundary(layout):
    low = ndimage.minimum_filter(layout, 5, mode="nearest")
    return low != ndimage.maximum_filter(layout, 5, mode="nearest")


def test_hole_sizes(canvases):
    """The shares of empty pixels that lie in small, middle and large holes."""
    composed, simulated, _ = canvases
    for a, b in zip(hole_shares(composed), hole_shares(simulated), strict=True):
        assert a == pytest.approx(b, abs=POINTS)


def hole_shares(canvases):
    sizes = np.concatenate(
        [np.bincount(ndimage.label(c.mask == 0)[0].ravel())[1:] for c in canvases]
    )
    bounds = (0, SMALL_HOLE_PX, LARGE_HOLE_PX, np.inf)
    inside = [
        sizes[(low < sizes) & (sizes <= high)].sum() for low, high in itertools.pairwise(bounds)
    ]
    return np.array(inside) / sizes.sum()
