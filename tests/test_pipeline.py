"""The whole pipeline on small scenes, with networks that have learned nothing."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import sims_jax
from sims_jax import model, pipeline, retrieval
from sims_jax.bank.choose import choose_candidate, sample_candidates
from sims_jax.bank.device import to_device
from sims_jax.bank.score import score_pairs, score_unit
from sims_jax.config import save_config
from sims_jax.errors import InputError
from sims_jax.labels import VOID, write_layout
from sims_jax.ops.light import measure_light


@pytest.fixture(scope="module")
def layouts(tiny_stores):
    return tiny_stores[1].layout


@pytest.fixture(scope="module")
def found(tiny_model, layouts):
    """(params, layouts, matches, pixels) of two layouts, on one device: what `render` takes."""

    @jax.jit
    def find(bank, layouts):
        matches = retrieval.match(bank.rows, layouts, candidates=3)
        return matches, pipeline.gather(bank, matches)

    everything = tiny_model.params, layouts[:2], *find(tiny_model.bank, layouts[:2])
    return jax.device_put(jax.device_get(everything), jax.devices()[0])


def synthesize(model, layout, **options):
    """As `Model.synthesize` calls the pipeline: so that tests share its programs."""
    exclude = np.zeros((1, len(model.photo_ids)), bool)
    adherence = model.config.canvas.adherence
    fixed = dict(candidate=np.int32(0), exclude=exclude, instances=None, adherence=adherence)
    return pipeline.synthesize(model.params, model.bank, layout[None], **fixed | options)


def test_any_size_in_the_same_size_out_and_sources_are_named(tiny_model, tiny_stores, layouts):
    for size in [(48, 64), (61, 79), (17, 130)]:
        layout = np.resize(layouts[0], size)
        result = tiny_model.synthesize(layout)
        assert result.photo.shape == result.canvas.shape == (*size, 3)
        assert result.canvas_mask.shape == result.layout.shape == size
        assert np.isfinite(result.photo).all()
        assert result.photo.min() >= 0 and result.photo.max() <= 1
        assert set(np.unique(result.canvas_mask)) <= {0, 1}
        used = [source for source in result.segments if source.used]
        assert used and all(source.photo_id in tiny_stores[0].ids for source in used)
        assert {source.class_name for source in used} <= set(tiny_model.labels.classes)


def test_sources_tell_the_truth(tiny_model, tiny_stores, layouts):
    store = tiny_stores[0]
    result = tiny_model.synthesize(layouts[1])
    for source in result.segments + result.fillings:
        if source.row_id is not None:
            photo, component = divmod(source.row_id, store.spec.max_segments)
            assert store.ids[photo] == source.photo_id
            name = tiny_model.labels.classes[store.row_class[store.row_of[photo, component]]]
            assert name == source.class_name
            assert 0 <= source.score <= 2


def test_further_candidates_fill_what_the_first_leave_empty(found, tiny_model, layouts):
    """More of the canvas is there, what was there stays, and sources tell what fills it."""
    params, layout, matches, once = found
    count = matches.row.shape[1]
    gather = jax.jit(pipeline.gather, static_argnums=2)
    twice, other = (
        jax.device_get(gather(tiny_model.bank, jax.device_get(some), layers))
        for some, layers in ((matches, 2), (choose_candidate(matches, 1), 1))
    )
    np.testing.assert_array_equal(twice.photo[:, :count], once.photo)
    two = np.asarray(matches.row[..., 1] >= 0)
    np.testing.assert_array_equal(twice.mask[:, count:][two], other.mask[two])
    assert not twice.mask[:, count:][~two].any()
    render = jax.jit(pipeline.render)
    one, two = (
        jax.device_get(render(params, layout, matches, pixels).canvas) for pixels in (once, twice)
    )
    there = one.source >= 0
    np.testing.assert_array_equal(one.source[there], two.source[there])
    fills = two.source[~there]
    assert (fills[fills >= 0] >= count).all() and (fills >= 0).any()
    component = np.asarray(matches.segments.component)[~there]
    assert (fills % count == component)[fills >= 0].all()

    result = tiny_model.synthesize(layouts[0])
    assert result.fillings and all(source.used for source in result.fillings)
    own = {(source.class_name, source.box): source.row_id for source in result.segments}
    assert all(s.row_id not in (None, own[s.class_name, s.box]) for s in result.fillings)
    assert {source.layer for source in result.fillings} == {1}
    assert max(s.order for s in result.fillings) < min(s.order for s in result.segments)


def test_the_second_layout_does_not_recompile(tiny_model, layouts):
    tiny_model.synthesize(layouts[0])
    compiled = pipeline.synthesize._cache_size()
    tiny_model.synthesize(layouts[1], candidate=2, exclude=tiny_model.photo_ids[:2])
    tiny_model.synthesize(np.resize(layouts[2], (90, 50)))
    tiny_model.synthesize(layouts[2], adherence=tiny_model.config.canvas.adherence)
    tiny_model.synthesize(layouts[2], coarse=True)
    assert pipeline.synthesize._cache_size() == compiled


def test_memory_does_not_grow_by_a_photo_for_each_piece(tiny_model, tiny_stores, layouts):
    """By the compiler's figures: pieces are read where the bank's photos are."""
    bank = to_device(tiny_stores[0], jax.devices()[:1])
    networks, params = tiny_model.params.networks, jax.device_get(tiny_model.params)

    def measure(layers):
        canvas = dataclasses.replace(networks.canvas, layers=layers)
        of_layers = params.replace(networks=dataclasses.replace(networks, canvas=canvas))
        compiled = pipeline.synthesize.lower(of_layers, bank, layouts[:1]).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    height, width = tiny_model.spec.image_size
    photos = 2 * tiny_model.spec.max_segments * height * width * 3  # of two layers more
    assert measure(3) - measure(1) < photos / 4


def test_a_batch_equals_the_loop(tiny_model, layouts):
    for one, alone in zip(
        tiny_model.synthesize(layouts[:3]), map(tiny_model.synthesize, layouts[:3]), strict=True
    ):
        np.testing.assert_allclose(one.photo, alone.photo, atol=1e-4)
        np.testing.assert_array_equal(one.canvas_mask, alone.canvas_mask)
        assert [s.row_id for s in one.segments] == [s.row_id for s in alone.segments]


def test_render_vmaps_and_jits(found):
    params, *inputs = found
    jitted = jax.jit(pipeline.render)(params, *inputs).photo

    def alone(inputs):
        return pipeline.render(params, *jax.tree.map(lambda x: x[None], inputs)).photo[0]

    mapped = jax.jit(jax.vmap(alone))(inputs)
    plain = alone(jax.tree.map(lambda x: np.asarray(x)[1], inputs))
    np.testing.assert_allclose(mapped, jitted, atol=1e-4)
    np.testing.assert_allclose(plain, jitted[1], atol=1e-4)


def test_gradients_reach_synthesis_and_transformer(found, tiny_stores, monkeypatch):
    import sims_jax.canvas.align as align

    params, *inputs = found
    truth = jnp.asarray(tiny_stores[1].photo[:2]).astype(jnp.float32) / 255

    @jax.jit
    @jax.grad
    def slope(params):
        return jnp.abs(pipeline.render(params, *inputs).photo - truth).mean()

    # Every answer of the transformer counts as helpful, or the untrained one would be ignored.
    monkeypatch.setattr(align, "MIN_GAIN", -2.0)
    gradient = slope(params)
    for name in ("synthesis", "transformer"):
        leaves = jax.tree.leaves(getattr(gradient, name))
        assert all(np.isfinite(leaf).all() for leaf in leaves), name
        assert max(float(jnp.abs(leaf).max()) for leaf in leaves) > 0, name


def test_turned_answers_change_the_photo_in_segment_mode_only(tiny_model, layouts):
    ordering = tiny_model.params.ordering["params"]
    heads = {
        name: jax.tree.map(jnp.negative, ordering[name]) for name in ("front_class", "front_first")
    }
    params = tiny_model.params.replace(ordering={"params": ordering | heads})
    turned = dataclasses.replace(tiny_model, params=params)
    for adherence, changes in (("segment", True), ("layout", False)):
        photos = [
            [model.synthesize(layout, adherence=adherence).photo for layout in layouts]
            for model in (tiny_model, turned)
        ]
        assert (not np.array_equal(*photos)) == changes, adherence


def test_without_questions_the_prior_orders_all(found):
    params, *inputs = found
    networks = params.networks
    none = dataclasses.replace(networks.pipeline, max_pairs=0)
    silent = params.replace(networks=dataclasses.replace(networks, pipeline=none))
    render = jax.jit(pipeline.render, static_argnames="adherence")
    rank, prior = (
        render(silent, *inputs, adherence=adherence).rank for adherence in ("segment", "layout")
    )
    np.testing.assert_array_equal(rank, prior)
    assert (render(params, *inputs, adherence="segment").rank != prior).any()


def test_layout_mode_keeps_the_layout(tiny_model, layouts):
    kept = tiny_model.synthesize(layouts[0], adherence="layout")
    np.testing.assert_array_equal(kept.layout, layouts[0])
    changed = tiny_model.synthesize(layouts[0], adherence="segment")
    assert (changed.layout != layouts[0]).any()


def test_an_empty_bank_still_gives_a_photo(tiny_model, layouts):
    result = tiny_model.without_bank().synthesize(layouts[0])
    assert np.isfinite(result.photo).all() and result.photo.std() > 0
    assert not result.canvas_mask.any()
    assert not any(source.used for source in result.segments)
    for source in result.segments:
        assert source.photo_id is None and source.row_id is None
        np.testing.assert_array_equal(source.affine, np.eye(2, 3))


def test_pieces_that_are_seen_are_used():
    rng = np.random.default_rng(0)
    for source in (rng.integers(-1, 4, (5, 7)), rng.integers(1, 3, (5, 7))):
        expected = [(source == piece).any() for piece in range(6)]
        np.testing.assert_array_equal(pipeline._seen(6, jnp.asarray(source)), expected)
    assert not pipeline._seen(6, jnp.full((5, 7), -1)).any()


def test_void_alone_gives_a_photo(tiny_model):
    result = tiny_model.synthesize(np.full((48, 64), VOID, np.uint8))
    assert np.isfinite(result.photo).all() and result.segments == ()


def test_excluded_photos_and_other_candidates(tiny_model, layouts):
    best = tiny_model.synthesize(layouts[0])
    used = {source.photo_id for source in best.segments if source.used}
    other = tiny_model.synthesize(layouts[0], exclude=used)
    assert not used & {source.photo_id for source in other.segments + other.fillings}
    second = tiny_model.synthesize(layouts[0], candidate=1)
    assert [s.row_id for s in second.segments] != [s.row_id for s in best.segments]


def test_a_reference_gives_all_segments_its_light(tiny_model, layouts, tmp_path):
    own = tiny_model.synthesize(layouts[0])
    rng = np.random.default_rng(0)
    dusk = rng.integers(20, 40, (30, 40, 3)).astype(np.uint8)
    result = tiny_model.synthesize(layouts[0], reference=dusk)
    mean, dark = (one.canvas[one.canvas_mask > 0].mean() for one in (own, result))
    assert mean > 0.2 > dark > 0.05
    light = np.asarray(tiny_model.bank.light).mean(axis=-1)
    chosen = [
        [s.row_id // tiny_model.spec.max_segments for s in one.segments if s.row_id is not None]
        for one in (own, result)
    ]
    assert light[chosen[1]].mean() < light[chosen[0]].mean()  # of darker photos to begin with
    Image.fromarray(dusk).save(tmp_path / "dusk.png")
    read = tiny_model.synthesize(layouts[0], reference=tmp_path / "dusk.png")
    np.testing.assert_array_equal(read.photo, result.photo)
    for wrong in (dusk / 255.0, dusk[..., 0], dusk[:0], tmp_path / "none.png"):
        with pytest.raises(InputError, match=r"uint8|none\.png"):
            tiny_model.synthesize(layouts[0], reference=wrong)
    with pytest.raises(InputError, match="reference: found one colour alone"):
        tiny_model.synthesize(layouts[0], reference=np.full_like(dusk, 30))


def test_a_reference_changes_the_light_of_what_is_chosen_alone(found):
    params, *inputs = found
    light = measure_light(jnp.full((4, 4, 3), 0.1) * jnp.arange(1.0, 4.0))
    render = jax.jit(pipeline.render)
    own, lit = (render(params, *inputs, reference=one).canvas for one in (None, light))
    sharper = light.replace(sharpness=2 * light.sharpness)
    photos = [render(params, *inputs, reference=one).photo for one in (light, sharper)]
    soft, sharp = (measure_light(photo).sharpness for photo in photos)
    assert (sharp > 1.1 * soft).all()
    np.testing.assert_array_equal(own.source, lit.source)
    np.testing.assert_array_equal(own.mask, lit.mask)
    assert np.abs(own.rgb - lit.rgb)[np.asarray(own.mask) > 0].mean() > 0.01


def test_a_row_of_ones_own_choice(found, tiny_model):
    _, _, matches, _ = jax.device_get(found)
    row = matches.row.copy()
    row[0, 0, 0] = row[0, 0, 2]
    gather = jax.jit(pipeline.gather)
    pixels = [gather(tiny_model.bank, m).photo for m in (matches, matches.replace(row=row))]
    second = gather(tiny_model.bank, choose_candidate(matches, 2)).photo
    np.testing.assert_array_equal(pixels[1][0, 0], second[0, 0])
    np.testing.assert_array_equal(pixels[1][0, 1:], pixels[0][0, 1:])


def test_candidates_are_sampled_by_key(tiny_model, layouts):
    layouts = jnp.asarray(layouts)
    matches = retrieval.match(tiny_model.bank.rows, layouts, candidates=4)
    found = np.asarray((matches.row >= 0).sum(axis=-1))
    first, again, other = (
        np.asarray(sample_candidates(matches, jax.random.key(seed), 3).chosen) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first < np.maximum(np.minimum(found, 3), 1)).all() and len(np.unique(first)) == 3


def test_instances_cut_segments_and_so_do_rows_of_things(tiny_model):
    car = tiny_model.labels.classes.index("car")
    layout = np.zeros((48, 64), np.uint8)
    layout[20:40, 10:50] = car
    one, two = (layout == car).astype(np.int32), np.zeros((48, 64), np.int32)
    two[20:40, 10:25], two[20:40, 25:50] = 1, 2
    found = [
        [s for s in tiny_model.synthesize(layout, instances=i).segments if s.class_name == "car"]
        for i in (one, two, None)
    ]
    assert [{(s.box[1], s.box[3]) for s in some} for some in found] == [
        {(10, 50)},
        {(10, 25), (25, 50)},
        {(10, 30), (30, 50)},  # wider than config.pipeline.max_aspect
    ]
    # Nothing is cut off from what has an id; from each of the others its upper part.
    assert [len(some) for some in found] == [1, 2, 4]
    assert all(s.photo_id for some in found for s in some)
    assert found[1][0].row_id != found[1][1].row_id


def test_coarse_layouts_become_dense(tiny_model, tiny_stores):
    coarse = tiny_stores[1].coarse[0]
    assert (coarse == VOID).any()
    assert not (tiny_model.synthesize(coarse, coarse=True).layout == VOID).any()


def test_one_device_equals_eight(tiny_model, tiny_stores, layouts):
    params = jax.device_put(jax.device_get(tiny_model.params), jax.devices()[0])
    bank = to_device(tiny_stores[0], jax.devices()[:1])
    alone = dataclasses.replace(tiny_model, params=params, bank=bank)
    synthesis, matches = synthesize(alone, layouts[0])
    sharded, sharded_matches = synthesize(tiny_model, layouts[0])
    np.testing.assert_array_equal(matches.row, sharded_matches.row)
    for name in ("source", "layout"):
        one, eight = (getattr(some.canvas, name) for some in (synthesis, sharded))
        np.testing.assert_array_equal(one, eight)
    for name in ("used", "rank"):
        np.testing.assert_array_equal(getattr(synthesis, name), getattr(sharded, name))
    np.testing.assert_allclose(synthesis.affine, sharded.affine, atol=1e-4)
    np.testing.assert_allclose(synthesis.photo, sharded.photo, atol=1e-4)


def test_a_path_is_a_layout_and_bad_layouts_are_named(tiny_model, layouts, tmp_path):
    path = tmp_path / "layout.png"
    write_layout(path, layouts[0], tiny_model.labels)
    from_path = tiny_model.synthesize(path)
    np.testing.assert_array_equal(from_path.photo, tiny_model.synthesize(layouts[0]).photo)
    bad = layouts[0].copy()
    bad[0, 0] = 77
    for layout, message in ((bad, "id 77"), (bad[..., None][None], "shape"), (bad / 2, "float64")):
        with pytest.raises(InputError, match=message):
            tiny_model.synthesize(layout)
    for colors in (np.zeros((8, 9, 3), np.uint8), np.zeros((8, 9, 4), np.uint8)):
        with pytest.raises(InputError, match=r"shape \(8, 9, .\), as of colours"):
            tiny_model.synthesize(colors)
    for empty in ([], layouts[:0], layouts[0][:, :0]):
        with pytest.raises(InputError, match="layout: found"):
            tiny_model.synthesize(empty)
    with pytest.raises(InputError, match="layout: found no array"):
        tiny_model.synthesize([[0, 1], [0]])
    with pytest.raises(InputError, match="adherence"):
        tiny_model.synthesize(layouts[0], adherence="photo")
    for exclude, message in (
        (["nobody"], "'nobody' is not in the bank"),
        ([3], "3 is not"),
        (tiny_model.photo_ids[0], "list of photo ids"),
        (None, "found None"),
    ):
        with pytest.raises(InputError, match=f"exclude: .*{message}"):
            tiny_model.synthesize(layouts[0], exclude=exclude)


def test_arrays_of_any_kind_are_layouts(tiny_model, layouts):
    photo = tiny_model.synthesize(layouts[0]).photo
    for kind in (jnp.asarray, np.ndarray.tolist, lambda x: tuple(map(tuple, x.astype(np.int64)))):
        np.testing.assert_array_equal(tiny_model.synthesize(kind(layouts[0])).photo, photo)
    (alone,) = tiny_model.synthesize(layouts[:1].tolist())
    np.testing.assert_array_equal(alone.photo, photo)


def test_instances_of_any_kind_are_checked(tiny_model, layouts, tmp_path):
    instances = np.zeros(layouts[0].shape, np.uint16)
    instances[:, 30:] = 65535
    Image.fromarray(instances).save(tmp_path / "instances.png")
    rows = [
        [s.row_id for s in tiny_model.synthesize(layouts[0], instances=given).segments]
        for given in (instances, jnp.asarray(instances), instances.tolist(),
                      str(tmp_path / "instances.png"))
    ]  # fmt: skip
    assert all(row == rows[0] for row in rows)
    for wrong, message in (
        (instances.astype(np.int32) + 1, "65536"),
        (instances.astype(np.int64) - 1, "id -1"),
        (instances[1:], "shape"),
        (instances[None], "shape"),
        (instances / 2, "float64"),
    ):
        with pytest.raises(InputError, match=f"instances: .*{message}"):
            tiny_model.synthesize(layouts[0], instances=wrong)


def test_candidates_beyond_the_retrieved_are_refused(tiny_model, layouts):
    for candidate in (-1, 3, 1.5, "1", None):
        with pytest.raises(InputError, match=f"candidate: found {candidate!r}, expected 0 .* to 2"):
            tiny_model.synthesize(layouts[0], candidate=candidate)


def test_an_unfinished_network_is_refused(tiny_config, tmp_path):
    save_config(tiny_config, tmp_path)
    (tmp_path / "transformer").mkdir()
    with pytest.raises(InputError, match=r"transformer.*trained to its end.*again"):
        sims_jax.load(tmp_path)


def test_coarse_layouts_compile_once(tiny_model, layouts):
    sizes = []
    for layout in layouts[:2]:
        tiny_model.synthesize(layout, coarse=True)
        sizes.append(model._densify._cache_size())
    assert sizes[0] == sizes[1]


def test_a_perfect_overlap_scores_one():
    for grid in ((2, 3), (24, 32), (64, 128)):
        count, nothing = jnp.asarray([grid[0] * grid[1]]), jnp.asarray([0])
        assert score_pairs(count, count, nothing, nothing, grid)[0] == score_unit(grid)


def test_models_and_results_print_in_one_line(tiny_model, layouts):
    result = tiny_model.synthesize(layouts[0])
    used = sum(source.used for source in result.segments)
    names = f"{tiny_model.labels.num_classes} classes of {tiny_model.labels.name}"
    assert repr(tiny_model) == (f"Model(48x64, {names}, 10 photos, devices: 8 cpu)")
    assert "0 photos, devices: 1 cpu" in repr(tiny_model.without_bank())
    assert (
        repr(result) == f"Result(48x64, {used} of {len(result.segments)} segments used, 0 left out)"
    )
    assert "array" not in repr(result.segments[0])


def test_exported_names():
    assert {"load", "synthesize", "match", "render", "gather"} <= set(sims_jax.__all__)


RANDOM_LAYOUTS = [6, pytest.param(198, marks=pytest.mark.slow)]  # and the smallest, the largest
LARGEST = (2048, 4096)


def random_layout(rng, size, num_classes):
    """Noise, blocks, stripes, dust on one class, one class, or void alone."""
    height, width = size
    cell = {"noise": (1, 1), "blocks": (20, 20), "stripes": (9, width)}
    kind = rng.choice([*cell, "dust", "class", "void"])
    if kind in cell:
        grid = [max(1, n // k) for n, k in zip(size, cell[kind], strict=True)]
        cells = rng.choice([*range(num_classes), VOID], grid).astype(np.uint8)
        return np.asarray(Image.fromarray(cells).resize((width, height), Image.Resampling.NEAREST))
    layout = np.full(size, VOID if kind == "void" else rng.integers(num_classes), np.uint8)
    if kind == "dust":  # to ten thousand specks
        layout[:: max(2, height // 100), :: max(2, width // 100)] = rng.integers(num_classes)
    return layout


@pytest.mark.parametrize("count", RANDOM_LAYOUTS)
def test_random_layouts_give_photos_of_their_size(tiny_model, count):
    rng = np.random.default_rng(0)
    any_size = [tuple(int(n ** rng.random()) for n in LARGEST) for _ in range(count)]
    for number, size in enumerate([(1, 1), LARGEST, *any_size]):
        layout = random_layout(rng, size, tiny_model.labels.num_classes)
        coarse = number % 2 == 1
        result = tiny_model.synthesize(layout, coarse=coarse)
        assert not (coarse and (result.layout == VOID).any())
        assert result.photo.shape == (*layout.shape, 3), layout.shape
        assert np.isfinite(result.photo).all()
        assert len(result.segments) <= tiny_model.spec.max_segments and result.left_out >= 0


def test_the_largest_segments_win_and_the_rest_are_counted(tiny_model):
    """Stripes of two classes, 4 or 2 pixels wide: 22 segments for 16 places."""
    wide, narrow, least = 10, 12, tiny_model.spec.max_segments
    edges = np.cumsum([0] + [4] * wide + [2] * narrow)
    layout = np.zeros((48, 64), np.uint8)
    for index, (start, stop) in enumerate(itertools.pairwise(edges)):
        layout[:, start:stop] = index % 2
    result = tiny_model.synthesize(layout)
    assert len(result.segments) == least and result.left_out == wide + narrow - least
    widths = [x1 - x0 for _, x0, _, x1 in (segment.box for segment in result.segments)]
    assert sorted(widths) == [2] * (least - wide) + [4] * wide
