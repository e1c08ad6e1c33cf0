"""Simulated and composed canvases are alike: what f is trained on is what it meets."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import load_config
from scipy import ndimage

from sims_jax import pipeline, retrieval
from sims_jax.bank.build import build_bank
from sims_jax.bank.choose import prefer_alike
from sims_jax.bank.cover import candidate_cells, prefer_filling
from sims_jax.bank.device import to_device
from sims_jax.bank.disk import DiskBank
from sims_jax.bank.donors import DonorConfig, find_donors
from sims_jax.bank.pixels import as_pieces
from sims_jax.bank.store import open_bank
from sims_jax.canvas.compose import elide, frontmost, paste
from sims_jax.canvas.order import rank_by_prior
from sims_jax.canvas.simulate import SimulationConfig, simulate
from sims_jax.config import make
from sims_jax.data.source import open_dataset
from sims_jax.labels import CAMVID
from sims_jax.networks import make_networks
from sims_jax.ops.affine import identity_affine
from sims_jax.ops.morphology import smooth_labels
from sims_jax.training.settings import BankConfig
from sims_jax.training.tasks.synthesis import DonorTable, draw_donors, photo_example

PHOTOS, HELDOUT = 60, 16
POINT, POINTS = 0.01, 0.05
SMALL_HOLE_PX, LARGE_HOLE_PX = 10, 200


@pytest.fixture(scope="module", params=[1, 3], ids=["one layer", "three layers"])
def canvases(request, camvid_root, tmp_path_factory):
    """(composed, simulated, composed with adherence "segment") of held-out CamVid layouts.

    The transformer is left out of all: segments and donors are used where they stand.
    """
    config = load_config("camvid", "small")
    folder = tmp_path_factory.mktemp("alike")
    dataset = open_dataset({"name": "camvid", "root": str(camvid_root)}, folder / "data")
    config.canvas.layers = request.param
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
    composed, silhouettes = compose_without_transformer(on_device, heldout.layout, networks)

    donors = DonorConfig(
        donors=config.bank.donors,
        near_frames=0,
        layers=request.param,
        candidates=networks.pipeline.candidates,
        light_weight=networks.pipeline.light_weight,
    )
    rows = find_donors(heldout, DiskBank(on_device.rows, store), donors)
    still = np.broadcast_to(np.asarray([[1, 0, 0], [0, 1, 0]], np.float32), (*rows.shape, 2, 3))
    rng = np.random.default_rng(0)
    whole = SimulationConfig(  # colours move; no segment is left out, no photo relit
        transfer_share=config.simulation.transfer_share,
        transfer_least=config.simulation.transfer_least,
        missing_share=0.0,
        empty_share=0.0,
        relight_share=0.0,
    )
    one = jax.jit(
        lambda key, example: simulate(
            key,
            example["photo"].astype(jnp.float32) / 255,
            example["component"].astype(jnp.int32),
            example["layout"],
            example["donors"],
            whole,
            networks.canvas,
            networks.labels,
        )
    )
    simulated = []
    for index in range(HELDOUT):
        slot = draw_donors(rng, (rows[heldout.row_of[index], :, 0] >= 0).sum(axis=1))
        example = photo_example(heldout, store, DonorTable(rows, still), index, slot)
        simulated.append(jax.device_get(one(jax.random.key(index), example)))
    return composed, simulated, silhouettes


def compose_without_transformer(bank, layouts, networks):
    """Canvases of both kinds of adherence, "layout" and "segment"."""

    @jax.jit
    def compose(layout, key):
        layers, options = networks.canvas.layers, networks.pipeline
        matches = retrieval.match(
            bank.rows,
            layout[None],
            candidates=options.candidates,
            max_aspect=options.max_aspect,
        )
        weight, grid = options.light_weight, bank.rows.spec.grid
        matches = prefer_alike(matches, bank.light, grid, weight)
        if layers > 1:
            cells = candidate_cells(bank, matches.row)
            matches = prefer_filling(matches, cells, bank.light, grid, layers, weight)
        pixels = pipeline.gather(bank, matches, layers)
        segments = jax.tree.map(lambda x: x[0], matches.segments)
        here = jax.tree.map(lambda x: x[0], pixels)
        still = jnp.tile(identity_affine(), (len(here.mask), 1, 1))
        rank = rank_by_prior(segments.box_yx[:, 2])
        front = frontmost(here.mask[: len(rank)], rank)
        canvases = (paste(as_pieces(here), still, segments, layout, some) for some in (None, front))
        return tuple(elide(key, c, networks.canvas, networks.labels) for c in canvases)

    keys = jax.random.split(jax.random.key(1), len(layouts))
    pairs = [jax.device_get(compose(*one)) for one in zip(layouts, keys, strict=True)]
    return zip(*pairs, strict=True)


def gather(canvases, name):
    return np.stack([getattr(canvas, name) for canvas in canvases])


def fill(canvases, where=None):
    """Share of pixels that are present, over all canvases."""
    masks = gather(canvases, "mask") > 0
    return masks.mean() if where is None else masks[where].mean()


def test_fill(canvases):
    composed, simulated, _ = canvases
    assert fill(simulated) == pytest.approx(fill(composed), abs=POINTS)
    assert 0.4 < fill(composed) < 0.95


def test_fill_of_large_classes(canvases):
    composed, simulated, _ = canvases
    layouts = gather(composed, "layout")
    for class_id in range(11):
        where = layouts == class_id
        if where.mean() > 0.03:  # of fewer pixels a share says little
            found, expected = fill(simulated, where), fill(composed, where)
            assert found == pytest.approx(expected, abs=POINTS)


def test_fill_of_boundary_bands(canvases):
    composed, simulated, _ = canvases
    band = boundaries(composed)
    assert 0.05 < band.mean() < 0.6
    assert fill(simulated, band) == pytest.approx(fill(composed, band), abs=POINTS)


def boundaries(canvases):
    """Pixels near another class of the layout that f gets."""
    layouts, window = gather(canvases, "layout"), (1, 5, 5)
    low = ndimage.minimum_filter(layouts, window, mode="nearest")
    return low != ndimage.maximum_filter(layouts, window, mode="nearest")


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


def test_silhouettes_leave_less_to_fill_in_than_training(canvases):
    """With adherence "segment" canvases are fuller than simulated ones, near boundaries above all.

    They cannot be alike. There a silhouette that spills over its component covers its neighbours'
    holes, and the layout follows it. A simulated canvas has the photo's own pixels and layout, in
    which nothing spills: what a donor covers beyond its component is another segment's. So f meets
    canvases fuller than those it has learned from; what must not be is that they are emptier, by
    more than a point in any large class (trees of three layers are, by 0.004), along boundaries, or
    in large holes.
    """
    _, simulated, silhouettes = canvases
    assert fill(silhouettes) > fill(simulated)
    layouts = [gather(some, "layout") for some in (silhouettes, simulated)]
    for class_id in range(11):
        where, trained = (layout == class_id for layout in layouts)
        if min(where.mean(), trained.mean()) > 0.03:
            assert fill(silhouettes, where) > fill(simulated, trained) - POINT
    along = [fill(some, boundaries(some)) for some in (silhouettes, simulated)]
    assert along[0] > along[1]
    assert hole_shares(silhouettes)[-1] < hole_shares(simulated)[-1]


def test_silhouettes_cover_all_that_clipped_segments_cover(canvases):
    composed, _, silhouettes = canvases
    clipped, whole = (gather(some, "source") >= 0 for some in (composed, silhouettes))
    assert (whole | ~clipped).all() and whole.mean() > clipped.mean()


def test_elision_takes_the_same_share_of_both(canvases):
    """Of all that was pasted, of what lies along boundaries, and of the rest.

    Silhouettes touch where clipped pieces leave a gap, and the inner band is where pieces touch: so
    more of what lies along boundaries goes.
    """
    composed, simulated, (whole, band, rest) = map(elided_shares, canvases)
    assert min(composed[:2]) > 0.01
    assert simulated == pytest.approx(composed, abs=POINT)
    assert (whole, rest) == pytest.approx((composed[0], composed[2]), abs=POINTS / 2)
    assert 0 < band - composed[1] < 0.09  # 0.085 of one layer, 0.029 of three


def elided_shares(canvases):
    pasted, kept = gather(canvases, "source") >= 0, gather(canvases, "mask") > 0
    band = boundaries(canvases)
    return [1 - kept[where].mean() for where in (pasted, pasted & band, pasted & ~band)]


def test_layouts_say_what_is_pasted(canvases):
    """The pixels of one segment are of one class in the layout that f gets, but for ragged ones."""
    config = load_config("camvid", "small")
    radius_px = round(config.bank.smoothing_frac * config.bank.image_size[0])
    *clipped, silhouettes = canvases
    smooth = jax.jit(lambda layout: smooth_labels(layout, CAMVID.ids(CAMVID.context), radius_px))
    pairs = [(c, smooth(c.layout)) for some in clipped for c in some]
    for canvas, layout in pairs + [(c, c.layout) for c in silhouettes]:
        for segment in np.unique(canvas.source[canvas.source >= 0]):
            assert len(np.unique(np.asarray(layout)[canvas.source == segment])) == 1
