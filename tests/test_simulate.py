"""Simulated canvases: against a slow twin, and against composed ones."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from sims_jax.canvas.compose import CanvasConfig
from sims_jax.canvas.simulate import (
    DARKEST,
    Donors,
    SimulationConfig,
    relight_both,
    simulate,
    stencil,
)
from sims_jax.labels import SCENES
from sims_jax.ops.bits import pack_bits_numpy
from sims_jax.ops.light import measure_light

SIZE = (20, 24)
CANVAS = CanvasConfig(
    adherence="layout",
    inner_band_frac=0.1,
    inner_sides=1,
    inner_share=0.5,
    outer_band_frac=0.1,
    outer_share=0.5,
    layers=1,
)
PLAIN = SimulationConfig(
    transfer_share=0.0, transfer_least=1.0, missing_share=0.0, empty_share=0.0, relight_share=0.0
)
BARE = CanvasConfig("layout", 0.0, 2, 0.0, 0.0, 0.0, layers=1)
IDENTITY = np.array([[1, 0, 0], [0, 1, 0]], np.float32)


def example(seed=0):
    rng = np.random.default_rng(seed)
    component = np.repeat(np.repeat(rng.integers(-1, 3, (5, 6)), 4, 0), 4, 1).astype(np.int32)
    mask = rng.random((3, *SIZE)) < 0.7
    affine = np.stack([IDENTITY, IDENTITY + np.array([[0, 0, 3], [0, 0, -2]]), 1.3 * IDENTITY])
    colors = rng.normal(size=(4, 3, 40, 3)) * 0.1
    cov = np.einsum("snij,snik->snjk", colors, colors) / 40
    donors = Donors(
        own_mean=rng.random((3, 3)).astype(np.float32),
        own_cov=cov[0].astype(np.float32),
        mean=rng.random((3, 3)).astype(np.float32),
        cov=cov[1].astype(np.float32),
        mask=pack_bits_numpy(mask.reshape(3, -1)),
        affine=affine.astype(np.float32),
        found=np.array([True, True, True]),
    )
    photo = rng.random((*SIZE, 3)).astype(np.float32)
    layout = np.where(component < 0, 255, component).astype(np.uint8)
    return photo, component, layout, donors, mask


def run(key, simulation=PLAIN, canvas=BARE, seed=0, **changes):
    photo, component, layout, donors, _ = example(seed)
    donors = jax.tree.map(jnp.asarray, donors.replace(**changes))
    arrays = (jnp.asarray(x) for x in (photo, component, layout))
    return simulate(key, *arrays, donors, simulation, canvas, SCENES)


def test_stencil_equals_a_slow_twin():
    _, component, _, donors, mask = example()
    expected = np.zeros(SIZE, bool)
    centre = np.array([SIZE[1] - 1, SIZE[0] - 1]) / 2
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            n = component[y, x]
            a = donors.affine[n].astype(np.float64)
            u, v = np.round(a[:, :2] @ (np.array([x, y]) - centre) + a[:, 2] + centre).astype(int)
            if 0 <= u < SIZE[1] and 0 <= v < SIZE[0]:
                expected[y, x] = mask[n, v, u]
    found = np.asarray(stencil(jnp.asarray(component), jax.tree.map(jnp.asarray, donors)))
    kept = component >= 0
    # Nearest sampling at exact halves may go either way.
    assert (found != expected)[kept].mean() < 0.01


def test_what_is_present_is_the_photo():
    photo, component, *_ = example()
    canvas = run(jax.random.key(0))
    present = np.asarray(canvas.mask) > 0
    assert present.any() and not present.all()
    np.testing.assert_allclose(np.asarray(canvas.rgb)[present], photo[present], atol=1e-6)
    assert (np.asarray(canvas.rgb)[~present] == 0).all()
    assert (np.asarray(canvas.source)[present] == component[present]).all()


def test_the_next_donor_fills_what_the_first_leaves_empty():
    photo, component, layout, donors, _ = example()
    *_, others, _ = example(seed=5)
    both = jax.tree.map(lambda *x: jnp.concatenate(x), donors, others)
    arrays = jnp.asarray(photo), jnp.asarray(component), jnp.asarray(layout)
    config = dataclasses.replace(BARE, layers=2)
    once, again = (run(jax.random.key(0), seed=0), simulate_with(others, arrays))
    filled = simulate(jax.random.key(0), *arrays, both, PLAIN, config, SCENES)
    expected = np.where(
        once.source >= 0, once.source, np.where(again.source >= 0, again.source + 3, -1)
    )
    np.testing.assert_array_equal(filled.source, expected)
    assert (filled.source >= 3).any()
    np.testing.assert_allclose(filled.rgb, np.maximum(once.rgb, again.rgb), atol=1e-6)


def simulate_with(donors, arrays):
    donors = jax.tree.map(jnp.asarray, donors)
    return simulate(jax.random.key(0), *arrays, donors, PLAIN, BARE, SCENES)


def test_transfer_moves_the_mean_to_the_donors():
    _, component, _, donors, _ = example()
    rng = np.random.default_rng(1)
    photo = np.clip(0.5 + 0.02 * rng.normal(size=(*SIZE, 3)), 0, 1).astype(np.float32)
    pixels = photo[component == 0]
    own = dict(
        own_mean=np.tile(pixels.mean(0), (3, 1)), own_cov=np.tile(np.cov(pixels.T), (3, 1, 1))
    )
    donors = donors.replace(
        **{k: v.astype(np.float32) for k, v in own.items()},
        mean=np.full((3, 3), 0.4, np.float32),
        cov=np.tile(4e-4 * np.eye(3, dtype=np.float32), (3, 1, 1)),
        mask=np.full_like(donors.mask, 0xFFFFFFFF),
        affine=np.tile(IDENTITY, (3, 1, 1)),
    )
    moved = simulate(
        jax.random.key(0), jnp.asarray(photo), jnp.asarray(component),
        jnp.zeros(SIZE, jnp.uint8), jax.tree.map(jnp.asarray, donors),
        SimulationConfig(1.0, 1.0, 0.0, 0.0, 0.0), BARE, SCENES,
    )  # fmt: skip
    got = np.asarray(moved.rgb)[component == 0]
    np.testing.assert_allclose(got.mean(0), 0.4, atol=2e-3)
    np.testing.assert_allclose(got.std(0), 0.02, rtol=0.1)


def test_canvas_and_truth_go_into_another_light_together():
    photo, *_ = example()
    photo, canvas = jnp.asarray(photo), run(jax.random.key(0))
    other = measure_light(0.1 + 0.3 * photo)
    present = np.asarray(canvas.mask) > 0
    always = dataclasses.replace(PLAIN, relight_share=1.0)
    moved, truth = relight_both(jax.random.key(1), canvas, photo, other, always)
    np.testing.assert_allclose(moved.rgb[present], truth[present], atol=1e-5)
    np.testing.assert_array_equal(moved.rgb[~present], canvas.rgb[~present])
    found = measure_light(truth)
    np.testing.assert_allclose(found.cov, other.cov, rtol=0.1)
    darker = other.mean - found.mean
    assert (darker > 0).all() and darker.max() < np.log(1 / DARKEST) + 0.1
    assert np.ptp(darker) < 0.02  # in all channels alike
    empty = canvas.replace(mask=jnp.zeros_like(canvas.mask))
    for unmoved, simulation in ((canvas, PLAIN), (empty, always)):
        kept, same = relight_both(jax.random.key(1), unmoved, photo, other, simulation)
        np.testing.assert_array_equal(kept.rgb, unmoved.rgb)
        np.testing.assert_array_equal(same, photo)


def test_missing_segments_and_empty_canvases():
    assert not run(jax.random.key(0), SimulationConfig(0.0, 1.0, 0.0, 1.0, 0.0)).mask.any()
    assert not run(jax.random.key(0), SimulationConfig(0.0, 1.0, 1.0, 0.0, 0.0)).mask.any()
    found = np.array([True, False, True])
    canvas = run(jax.random.key(0), found=found)
    assert not (np.asarray(canvas.source) == 1).any()


def test_fresh_randomness_and_jit_and_vmap_agree():
    full = SimulationConfig(0.5, 0.0, 0.2, 0.1, 0.0)
    keys = jax.random.split(jax.random.key(3), 4)
    single = [run(key, full, CANVAS) for key in keys]
    batched = jax.jit(jax.vmap(lambda key: run(key, full, CANVAS)))(keys)
    for b, canvas in enumerate(single):
        np.testing.assert_allclose(batched.rgb[b], canvas.rgb, atol=1e-5)
        np.testing.assert_array_equal(batched.mask[b], canvas.mask)
    assert not np.array_equal(single[0].mask, single[1].mask)


def test_gradients_are_finite_on_flat_photos():
    _, component, layout, donors, _ = example()
    donors = jax.tree.map(jnp.asarray, donors.replace(own_cov=np.zeros((3, 3, 3), np.float32)))

    def total(photo):
        canvas = simulate(
            jax.random.key(0), photo, jnp.asarray(component), jnp.asarray(layout), donors,
            SimulationConfig(1.0, 0.0, 0.0, 0.0, 0.0), CANVAS, SCENES,
        )  # fmt: skip
        return canvas.rgb.sum()

    for value in (0.0, 0.5, 1.0):
        assert np.isfinite(jax.grad(total)(jnp.full((*SIZE, 3), value))).all()
