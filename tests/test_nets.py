"""The networks: sizes of the paper, what may influence what, any image size, any precision."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sims_jax.errors import InputError
from sims_jax.labels import VOID
from sims_jax.nets import layers, scales
from sims_jax.nets.densifier import Densifier, DensifierConfig
from sims_jax.nets.ordering import Ordering, OrderingConfig
from sims_jax.nets.synthesis import (
    FILL_SCALES,
    FULL_COVER,
    LEAST_COVER,
    Synthesis,
    SynthesisConfig,
    fill_canvas,
)
from sims_jax.nets.transformer import Transformer, TransformerConfig

PAPER_CLASSES = 19
CLASSES = 3
SMALL_TRUNK = dict(widths=(4, 8), convs=(2, 1))
SMALL_SYNTHESIS = SynthesisConfig((6, 8), (1, 2), (8, 6, 4))
ODD_SIZES = [(16, 16), (37, 53), (1, 6)]


def small_net(name, dtype=jnp.float32):
    return {
        "transformer": Transformer(TransformerConfig(**SMALL_TRUNK), CLASSES, dtype),
        "ordering": Ordering(OrderingConfig(**SMALL_TRUNK, hidden=8), CLASSES, dtype),
        "densifier": Densifier(DensifierConfig((8, 8, 4)), CLASSES, dtype),
        "synthesis": Synthesis(SMALL_SYNTHESIS, CLASSES, dtype),
    }[name]


NETS = ("transformer", "ordering", "densifier", "synthesis")


def make_inputs(name, batch, size, classes=CLASSES, seed=0):
    rng = np.random.default_rng(seed)
    layout = jnp.asarray(rng.integers(0, classes, (batch, *size)), jnp.uint8)
    onehot = layers.one_hot_layout(layout, classes)
    rgb = jnp.asarray(rng.random((batch, *size, 3)), jnp.float32)
    masks = [jnp.asarray(rng.random((batch, *size)) < 0.5, jnp.float32) for _ in range(2)]
    return {
        "transformer": (rgb, masks[0], onehot),
        "ordering": (onehot, *masks),
        "densifier": (onehot,),
        "synthesis": (onehot, rgb, masks[0]),
    }[name]


def make_net(name, size=(24, 32), batch=2, dtype=jnp.float32, **changes):
    """A small network, parameters of which none is zero (as some are initialised), and inputs."""
    net, inputs = small_net(name, dtype), make_inputs(name, batch, size)
    net = net.clone(config=dataclasses.replace(net.config, **changes))
    rng = np.random.default_rng(7)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0.1, 0.3, leaf.shape), leaf.dtype),
        jax.eval_shape(net.init, jax.random.key(0), *inputs),
    )
    return net, variables, inputs


def paper_net(name, size):
    net = {
        "transformer": Transformer(TransformerConfig(), PAPER_CLASSES),
        "ordering": Ordering(OrderingConfig(), PAPER_CLASSES),
        "synthesis": Synthesis(SynthesisConfig(), PAPER_CLASSES),
    }[name]
    inputs = jax.eval_shape(lambda: make_inputs(name, 1, size, PAPER_CLASSES))
    return net, jax.eval_shape(net.init, jax.random.key(0), *inputs), inputs


def count_parameters(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def count_conv_macs(jaxpr):
    """Multiplications of all convolutions of a jaxpr."""
    macs = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            macs += equation.outvars[0].aval.size * int(np.prod(kernel[:3]))
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            macs += count_conv_macs(inner) if hasattr(inner, "eqns") else 0
    return macs


# --- sizes of the paper ---------------------------------------------------------------------


def test_synthesis_has_the_papers_size():
    net, variables, inputs = paper_net("synthesis", (256, 512))
    assert count_parameters(variables) == 55_671_319  # 55.67 M
    gmac = count_conv_macs(jax.make_jaxpr(net.apply)(variables, *inputs).jaxpr) / 1e9
    assert gmac == pytest.approx(330.5, abs=0.5)  # sims.md: 331, heads included
    full_size = 2 * 9 * 256 * 512 * 256 * (24 + 256 + 256) / 2 / 1e9
    assert full_size / gmac == pytest.approx(0.5, abs=0.02)  # the two layers at full size: half


def test_synthesis_parameter_shapes():
    _, variables, _ = paper_net("synthesis", (256, 512))
    shapes = jax.tree.map(lambda leaf: leaf.shape, variables["params"])
    inputs, widths = 24, (512, 512, 512, 512, 512, 256, 256)
    encoded = (512, 512, 512, 256, 128, 64, 0)
    for index, (width, skip) in enumerate(zip(widths, encoded, strict=True)):
        previous = widths[index - 1] if index else 0
        block = shapes[f"decoder_{index}"]
        assert block["conv_0"] == {"kernel": (3, 3, inputs + skip + previous, width)}
        assert block["conv_1"] == {"kernel": (3, 3, width, width)}
        assert block["norm_0"] == {"scale": (width,), "bias": (width,)}
    assert shapes["encoder_0"]["conv_0"] == {"kernel": (3, 3, inputs, 64)}
    assert [len(shapes[f"encoder_{index}"]) // 2 for index in range(6)] == [2, 2, 3, 3, 3, 3]
    assert shapes["photo"] == {"kernel": (256, 3), "bias": (3,)}
    assert shapes["segmentation"] == {"kernel": (256, 20), "bias": (20,)}


def test_transformer_has_the_papers_size():
    net, variables, inputs = paper_net("transformer", (256, 512))
    assert count_parameters(variables) == 14_734_086  # 14.73 M
    gmac = count_conv_macs(jax.make_jaxpr(net.apply)(variables, *inputs).jaxpr) / 1e9
    assert gmac == pytest.approx(42, abs=0.5)


def test_ordering_has_the_papers_size():
    net, variables, inputs = paper_net("ordering", (256, 512))
    first = variables["params"]["trunk"]["group_0"]["conv_0"]["kernel"].shape
    assert first == (3, 3, PAPER_CLASSES + 1 + 2, 64)
    ours = count_parameters(variables)
    # The paper's input is 6 colours, and it has no head for "A in front of B".
    more_input = (first[2] - 6) * 9 * 64
    first_head = count_parameters(variables["params"]["front_first"])
    assert ours == 15_276_693
    assert ours - more_input - first_head == 15_266_452  # 15.27 M
    macs = count_conv_macs(jax.make_jaxpr(net.apply)(variables, *inputs).jaxpr)
    assert (macs - more_input * 256 * 512) / 1e9 == pytest.approx(40, abs=0.5)


def test_synthesis_config_refuses_unequal_scales():
    with pytest.raises(InputError, match="decoder_widths"):
        SynthesisConfig((8, 8), (1, 1), (8, 8))
    with pytest.raises(TypeError, match="encoder_width"):
        SynthesisConfig(encoder_width=(8,))


# --- every network --------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("size", ODD_SIZES)
def test_any_size(name, size):
    net, variables, _ = make_net(name)
    inputs = make_inputs(name, 1, size)
    output = jax.jit(net.apply)(variables, *inputs)
    for leaf in jax.tree.leaves(output):
        assert leaf.dtype == jnp.float32 and bool(jnp.isfinite(leaf).all())
    if name == "synthesis":
        assert output.photo.shape == (1, *size, 3)
        assert output.segmentation_logits.shape == (1, *size, CLASSES + 1)
    if name == "densifier":
        assert output.shape == (1, *size, CLASSES)


@pytest.mark.parametrize("name", NETS)
def test_examples_are_independent_and_jit_agrees(name):
    net, variables, inputs = make_net(name, size=(9, 12))
    apply = jax.jit(net.apply)
    together = jax.tree.leaves(net.apply(variables, *inputs))
    jitted = jax.tree.leaves(apply(variables, *inputs))
    alone = jax.tree.leaves(apply(variables, *(x[1:] for x in inputs)))
    for a, b, c in zip(together, jitted, alone, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(a[1:], c, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETS)
def test_bfloat16_keeps_float32_parameters(name):
    net, variables, inputs = make_net(name, dtype=jnp.bfloat16)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    exact = jax.tree.leaves(jax.jit(small_net(name).apply)(variables, *inputs))
    rounded = jax.tree.leaves(jax.jit(net.apply)(variables, *inputs))
    for leaf, close in zip(rounded, exact, strict=True):
        assert leaf.dtype == jnp.float32
        assert float(jnp.abs(leaf - close).mean()) < 0.05 * float(jnp.abs(close).mean()) + 0.02


def test_rematerialisation_changes_neither_photo_nor_gradient():
    """The photo to the bit, the gradient up to the rounding of another program."""
    net, variables, inputs = make_net("synthesis", decoder_widths=(8, 8, 8))
    remat = net.clone(config=dataclasses.replace(net.config, remat=True))

    def slope_of(net):
        return jax.jit(jax.grad(lambda x: jnp.abs(net.apply(x, *inputs).photo - 0.3).mean()))

    photo, photo_again = (jax.jit(n.apply)(variables, *inputs).photo for n in (net, remat))
    np.testing.assert_array_equal(photo, photo_again)
    slope, slope_again = (slope_of(n)(variables) for n in (net, remat))
    difference = optax.tree.norm(optax.tree.sub(slope, slope_again))
    assert difference < 1e-5 * optax.tree.norm(slope) > 0
    kept, kept_again = (kept_bytes(n, variables, inputs) for n in (net, remat))
    assert kept_again < 0.7 * kept


def kept_bytes(net, variables, inputs):
    """What lies between the photo and its gradient, parameters included."""
    pull = jax.eval_shape(
        lambda variables: jax.vjp(lambda x: net.apply(x, *inputs).photo, variables)[1], variables
    )
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(pull))


@pytest.mark.parametrize("name", NETS)
def test_gradients_are_finite_on_flat_inputs(name):
    net, variables, inputs = make_net(name, size=(8, 12))

    def total(variables, inputs):
        return sum(
            jnp.square(leaf).sum() for leaf in jax.tree.leaves(net.apply(variables, *inputs))
        )

    gradient = jax.jit(jax.grad(total, argnums=(0, 1)))
    for value in (0.0, 1.0):
        flat = tuple(jnp.full_like(x, value) for x in inputs)
        for leaf in jax.tree.leaves(gradient(variables, flat)):
            assert bool(jnp.isfinite(leaf).all())


@pytest.mark.parametrize("name", NETS)
def test_every_parameter_and_input_has_influence(name):
    net, variables, inputs = make_net(name, size=(9, 12))

    def total(variables, inputs):
        leaves = jax.tree.leaves(net.apply(variables, *inputs))
        return sum((jnp.sin(3.0 * leaf + 1.0)).sum() for leaf in leaves)

    for leaf in jax.tree.leaves(jax.jit(jax.grad(total, argnums=(0, 1)))(variables, inputs)):
        assert float(jnp.abs(leaf).max()) > 0


@pytest.mark.parametrize("name", NETS)
def test_wrong_layout_channels_are_refused(name):
    net, inputs = small_net(name), make_inputs(name, 1, (16, 16), classes=CLASSES + 1)
    with pytest.raises(ValueError, match=f"expected {CLASSES + 1} channels"):
        jax.eval_shape(net.init, jax.random.key(0), *inputs)


# --- one network ----------------------------------------------------------------------------


def test_untrained_transformer_is_the_identity():
    net = Transformer(TransformerConfig((4,), (1,)), CLASSES)
    inputs = make_inputs("transformer", 2, (8, 16))
    theta = jax.jit(net.init_with_output)(jax.random.key(0), *inputs)[0]
    np.testing.assert_array_equal(theta, np.tile(np.eye(2, 3, dtype=np.float32), (2, 1, 1)))


def test_untouched_the_photo_is_the_filled_canvas():
    net, variables, (onehot, rgb, mask) = make_net("synthesis")
    variables["params"]["photo"] = jax.tree.map(jnp.zeros_like, variables["params"]["photo"])
    photo = jax.jit(net.apply)(variables, onehot, rgb, mask).photo
    np.testing.assert_allclose(photo, fill_canvas(rgb, mask, onehot), atol=1e-6)


def test_holes_take_the_colour_of_their_own_class():
    """Sky on the left with a blue patch, road on the right with a grey one, and an unseen car."""
    layout = np.zeros((1, 32, 48), np.uint8)
    layout[:, :, 24:] = 1
    layout[:, 10:20, 30:40] = 2
    mask = np.zeros((1, 32, 48), np.float32)
    mask[:, 4:8, 4:8] = mask[:, 26:30, 40:46] = 1
    blue, grey = np.array([0.2, 0.4, 0.9], np.float32), np.array([0.5, 0.5, 0.5], np.float32)
    rgb = np.where(layout[..., None] == 0, blue, grey) * mask[..., None]
    onehot = layers.one_hot_layout(jnp.asarray(layout), CLASSES)
    filled = np.asarray(jax.jit(fill_canvas)(rgb, mask, onehot))
    np.testing.assert_allclose(filled[layout == 0], np.tile(blue, (24 * 32, 1)), atol=1e-5)
    np.testing.assert_allclose(filled[layout == 1], np.tile(grey, (668, 1)), atol=1e-5)
    car = filled[layout == 2]
    assert (car >= np.minimum(blue, grey) - 1e-5).all()
    assert (car <= np.maximum(blue, grey) + 1e-5).all()
    np.testing.assert_array_equal(filled[mask > 0], rgb[mask > 0])


def fill_numpy(rgb, mask, onehot):
    """Pull-push as its docstring has it: one field of colour a class, and one of any."""
    of_any = np.ones_like(mask)[..., None]
    fields = []
    for member in np.moveaxis(np.concatenate([onehot, of_any], axis=-1), -1, 0):
        weight = (member * mask)[..., None]
        pyramid = [np.concatenate([rgb * weight, weight], axis=-1)]
        for _ in range(FILL_SCALES):
            pyramid.append(pool_numpy(pyramid[-1], np.mean))
        filled = pyramid[-1] / np.maximum(pyramid[-1][..., 3:], LEAST_COVER)
        for pulled in pyramid[-2:0:-1]:
            own = np.minimum(pulled[..., 3:] / FULL_COVER, 1)
            color = pulled / np.maximum(pulled[..., 3:], LEAST_COVER)
            filled = own * color + (1 - own) * jax.image.resize(filled, pulled.shape, "bilinear")
        fields.append(np.asarray(jax.image.resize(filled, pyramid[0].shape, "bilinear")))
    pushed = np.einsum("kbhwc,bhwk->bhwc", fields[:-1], onehot)
    pushed += (1 - pushed[..., 3:]) * fields[-1]
    pushed = pushed[..., :3] / np.maximum(pushed[..., 3:], LEAST_COVER)
    return np.where(mask[..., None] > 0, rgb, pushed)


@pytest.mark.parametrize("size", [(24, 32), (9, 13), (1, 5)])
def test_holes_are_filled_as_by_the_twin(size):
    """Three classes side by side, of the first of which nothing is seen."""
    _, rgb, mask = make_inputs("synthesis", 2, size)
    classes = np.broadcast_to(np.arange(size[1]) * CLASSES // size[1], (2, *size))
    onehot = layers.one_hot_layout(jnp.asarray(classes, jnp.uint8), CLASSES)
    mask = jnp.where(classes > 0, mask, jnp.zeros_like(mask))
    rgb = rgb * mask[..., None]
    expected = fill_numpy(*map(np.asarray, (rgb, mask, onehot)))
    np.testing.assert_allclose(jax.jit(fill_canvas)(rgb, mask, onehot), expected, atol=1e-5)


def test_of_an_empty_canvas_nothing_is_filled_in():
    onehot, rgb, mask = make_inputs("synthesis", 2, (9, 12))
    mask = jnp.zeros_like(mask)
    total = jax.value_and_grad(lambda x: fill_canvas(x, mask, onehot).sum())
    filled, gradient = jax.jit(total)(rgb)
    assert float(filled) == 0
    assert np.isfinite(np.asarray(gradient)).all()


def test_canvas_and_layout_reach_distant_pixels():
    net, variables, inputs = make_net("synthesis", size=(16, 16), batch=1)
    inputs = (*inputs[:2], jnp.ones_like(inputs[2]))  # of what is masked no colour is read

    def pixel(onehot, canvas, mask):
        return net.apply(variables, onehot, canvas, mask).photo[0, 8, 8].sum()

    for gradient in jax.jit(jax.grad(pixel, argnums=(0, 1, 2)))(*inputs):
        reached = jnp.abs(gradient[0]).reshape(16, 16, -1).max(axis=-1) > 0
        assert bool(reached[8, 8]) and bool(reached[0, 0])


def test_dropout_needs_training_and_a_key():
    net, variables, inputs = make_net("ordering", size=(8, 8))
    a, b = (
        net.apply(variables, *inputs, train=True, rngs={"dropout": jax.random.key(seed)})
        for seed in (0, 1)
    )
    assert not np.allclose(a.class_logits, b.class_logits)
    assert not np.allclose(a.first_logit, b.first_logit)


# --- layers ---------------------------------------------------------------------------------


def pool_numpy(x, combine):
    """3x3 windows with stride 2, SAME, over the pixels inside the frame only."""
    height, width = x.shape[1:3]
    out = [-(-size // 2) for size in (height, width)]
    before = [(2 * (o - 1) + 3 - size) // 2 for o, size in zip(out, (height, width), strict=True)]
    result = np.zeros((x.shape[0], *out, x.shape[3]), np.float32)
    for i in range(out[0]):
        for j in range(out[1]):
            y, z = 2 * i - before[0], 2 * j - before[1]
            window = x[:, max(y, 0) : y + 3, max(z, 0) : z + 3]
            result[:, i, j] = combine(window, axis=(1, 2))
    return result


@pytest.mark.parametrize("size", [(6, 8), (7, 5), (1, 1), (2, 3)])
def test_pools_match_their_definition(size):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    np.testing.assert_allclose(
        scales.average_pool(jnp.asarray(x)), pool_numpy(x, np.mean), 1e-5, 1e-6
    )
    np.testing.assert_array_equal(scales.max_pool(jnp.asarray(x)), pool_numpy(x, np.max))


@pytest.mark.parametrize("size", [(7, 10), (1, 3)])
def test_convolution_is_linens_and_so_are_its_gradients(size):
    ours, linens = layers.Conv3x3(5), nn.Conv(5, (3, 3), use_bias=False)
    rng = np.random.default_rng(0)
    x, weight = (jnp.asarray(rng.normal(size=(2, *size, count)), jnp.float32) for count in (3, 5))
    params = ours.init(jax.random.key(0), x)
    same = jax.tree.map(
        lambda a, b: bool((a == b).all()), params, linens.init(jax.random.key(0), x)
    )
    assert all(jax.tree.leaves(same))

    def run(net):
        loss = lambda params, x: (net.apply(params, x) * weight).sum()  # noqa: E731
        return net.apply(params, x), jax.grad(loss, (0, 1))(params, x)

    for a, b in zip(*map(jax.tree.leaves, (run(ours), run(linens))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_the_kernels_gradient_is_the_same_in_both_ways():
    x, gradient = (
        jax.random.normal(jax.random.key(seed), (2, 6, 9, channels))
        for seed, channels in enumerate((4, 3))
    )
    ways = [way(x, gradient) for way in (layers.kernel_gradient, layers.kernel_gradient_by_rows)]
    np.testing.assert_allclose(*ways, rtol=1e-4, atol=1e-4)


def test_upsampling_is_exact_in_size_and_on_flat_images():
    x = jnp.full((1, 3, 4, 2), 0.25, jnp.float32)
    for size in ((6, 8), (5, 7), (3, 4)):
        up = scales.upsample(x, size)
        assert up.shape == (1, *size, 2)
        np.testing.assert_allclose(up, 0.25, rtol=1e-6)


@pytest.mark.parametrize(
    "size, of", [((6, 8), (3, 4)), ((5, 8), (3, 4)), ((5, 7), (3, 4)), ((2, 2), (1, 1))]
)
def test_upsampling_equals_jax_image_resize_forward_and_backward(size, of):
    x = jax.random.normal(jax.random.key(0), (2, *of, 5))
    gradient = jax.random.normal(jax.random.key(1), (2, *size, 5))
    plain = lambda x: jax.image.resize(x, gradient.shape, "bilinear", antialias=False)  # noqa: E731
    results = [jax.vjp(way, x) for way in (plain, lambda x: scales.upsample(x, size))]
    np.testing.assert_allclose(*(up for up, _ in results), atol=1e-6)
    np.testing.assert_allclose(*(back(gradient)[0] for _, back in results), atol=1e-5)
    assert scales.upsample(x.astype(jnp.bfloat16), size).dtype == jnp.bfloat16


@pytest.mark.parametrize("size", [(6, 8), (7, 5), (1, 1), (2, 3)])
def test_products_are_pooled_as_if_they_were_made(size):
    a, b = (
        jax.random.normal(jax.random.key(seed), (2, *size, channels))
        for seed, channels in enumerate((4, 3))
    )
    made = (a[..., :, None] * b[..., None, :]).reshape(2, *size, -1)
    np.testing.assert_allclose(
        scales.average_pool_products(a, b), scales.average_pool(made), atol=1e-6
    )


@pytest.mark.parametrize("size, of", [((6, 8), (3, 4)), ((5, 8), (3, 4)), ((1, 3), (1, 2))])
def test_a_pixel_of_its_own_channel_is_that_of_the_upsampled(size, of):
    x = jax.random.normal(jax.random.key(0), (2, *of, 4, 5))
    channel = jax.random.randint(jax.random.key(1), (2, *size), 0, 5)
    own, back = jax.vjp(lambda x: scales.upsample_own(x, channel), x)
    every = lambda x: scales.upsample(x, size)  # noqa: E731
    expected, plain = jax.vjp(
        lambda x: jnp.take_along_axis(every(x), channel[..., None, None], axis=-1)[..., 0], x
    )
    doubled = size == tuple(2 * length for length in of)  # to the bit: every weight is exact
    np.testing.assert_allclose(own, expected, rtol=0, atol=0 if doubled else 1e-6)
    np.testing.assert_allclose(back(own)[0], plain(own)[0], atol=1e-5)
    assert scales.upsample_own(x.astype(jnp.bfloat16), channel).dtype == jnp.bfloat16


def test_one_hot_layout_gives_void_the_last_channel():
    layout = jnp.asarray([[[0, 2, VOID, 3]]], jnp.uint8)
    onehot = np.asarray(layers.one_hot_layout(layout, 3))
    assert onehot.dtype == np.float32
    np.testing.assert_array_equal(onehot.argmax(-1), [[[0, 2, 3, 3]]])
    np.testing.assert_array_equal(onehot.sum(-1), 1)


@pytest.mark.parametrize("size", [(6, 8), (1, 1)])
@pytest.mark.parametrize("spread", [1.0, 0.0])
def test_the_gradient_of_a_norm_is_that_of_its_definition(size, spread):
    def plain(x, scale, bias):
        axes = (1, 2, 3)
        mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
        return (x - mean) / jnp.sqrt(variance + layers.NORM_EPSILON) * scale + bias

    keys, shape = jax.random.split(jax.random.key(0), 4), (2, *size, 3)
    x = 3 + spread * jax.random.normal(keys[0], shape)
    gradient = jax.random.normal(keys[1], shape)
    rates = tuple(jax.random.normal(key, (3,)) for key in keys[2:])
    (ours, back), (expected, plain_back) = (
        jax.vjp(way, x, *rates) for way in (layers.normalize, plain)
    )
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-5)
    for a, b in zip(back(gradient), plain_back(gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_norm_keeps_its_input_alone(dtype):
    x, rate = jnp.ones((2, 6, 8, 3), dtype), jnp.ones(3)
    pull = jax.eval_shape(lambda x: jax.vjp(layers.normalize, x, rate, rate)[1], x)
    large = [leaf for leaf in jax.tree.leaves(pull) if leaf.size >= x[..., 0].size]
    assert [leaf.dtype for leaf in large] == [dtype]
    (of_x, _, _) = jax.vjp(layers.normalize, x, rate, rate)[1](x)
    assert of_x.dtype == dtype


def test_layer_norm_is_over_height_width_and_channels():
    block = layers.ConvBlock(4, 1)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 8, 3)), jnp.float32)
    variables = block.init(jax.random.key(0), x)
    y = jax.lax.conv_general_dilated(
        x,
        variables["params"]["conv_0"]["kernel"],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    y = np.asarray(y)
    axes = (1, 2, 3)
    y = (y - y.mean(axes, keepdims=True)) / np.sqrt(y.var(axes, keepdims=True) + 1e-5)
    expected = np.where(y > 0, y, 0.2 * y)
    np.testing.assert_allclose(block.apply(variables, x), expected, rtol=1e-4, atol=1e-5)
