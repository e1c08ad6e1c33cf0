"""VGG-19: its two weight files, its preprocessing, its head."""

import dataclasses
import hashlib

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from sims_jax.errors import InputError
from sims_jax.nets import vgg

SHRINK = 16  # the test's weight files are this many times narrower than VGG-19
LAYERS = [
    "block1_conv1",
    "block1_conv2",
    "block2_conv1",
    "block2_conv2",
    "block3_conv1",
    "block3_conv2",
    "block3_conv3",
    "block3_conv4",
    "block4_conv1",
    "block4_conv2",
    "block4_conv3",
    "block4_conv4",
    "block5_conv1",
    "block5_conv2",
]
CHANNELS = (64, 64, 128, 128, 256, 256, 256, 256, 512, 512, 512, 512, 512, 512)


@pytest.fixture(scope="module")
def arrays():
    """Random (HWIO kernel, bias) of every layer, in order."""
    rng, previous, result = np.random.default_rng(0), 3, []
    for channels in (count // SHRINK for count in CHANNELS):
        kernel = rng.normal(0, (2 / (9 * previous)) ** 0.5, (3, 3, previous, channels))
        result.append((kernel.astype(np.float32), rng.normal(0, 0.1, channels).astype(np.float32)))
        previous = channels
    return result


def write_torchvision(path, arrays, skip=()):
    tensors = {}
    for (kernel, bias), index in zip(arrays, vgg.TORCHVISION_INDEX, strict=True):
        tensors[f"features.{index}.weight"] = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        tensors[f"features.{index}.bias"] = bias
    for name in skip:
        del tensors[name]
    safetensors.numpy.save_file(tensors, path)
    return path


def write_keras(path, arrays, style):
    with h5py.File(path, "w") as file:
        for (kernel, bias), layer in zip(arrays, LAYERS, strict=True):
            names = {
                "old": (f"{layer}/{layer}_W_1:0", f"{layer}/{layer}_b_1:0"),
                "tf2": (f"{layer}/{layer}/kernel:0", f"{layer}/{layer}/bias:0"),
                "full": (
                    f"model_weights/{layer}/{layer}/kernel:0",
                    f"model_weights/{layer}/{layer}/bias:0",
                ),
            }[style]
            file[names[0]], file[names[1]] = kernel, bias
        file.create_group("block5_pool")
    return path


def conv_numpy(x, kernel, bias):
    """3x3 convolution with zero padding, then ReLU, on [H, W, F]."""
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    height, width = x.shape[:2]
    out = sum(
        padded[i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3)
    )
    return np.maximum(out + bias, 0)


def features_numpy(x, arrays):
    """Every feature of one preprocessed photo."""
    features = {"input": x}
    for (kernel, bias), layer in zip(arrays, LAYERS, strict=True):
        block, index = layer[5], layer[-1]
        if index == "1" and block != "1":
            h, w = x.shape[0] // 2, x.shape[1] // 2
            x = x[: 2 * h, : 2 * w].reshape(h, 2, w, 2, -1).max(axis=(1, 3))
        x = conv_numpy(x, kernel, bias)
        features[f"conv{block}_{index}"] = x
    return {name: features[name] for name in vgg.FEATURES}


@pytest.mark.parametrize("style", ["torchvision", "old", "tf2", "full"])
def test_loader_reproduces_the_files_network(style, arrays, tmp_path):
    if style == "torchvision":
        path = write_torchvision(tmp_path / "vgg19.safetensors", arrays)
    else:
        path = write_keras(tmp_path / "vgg19_notop.h5", arrays, style)
    params, config, sha256 = vgg.load_vgg(path)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert config.width_multiplier == 1 / SHRINK
    photo = np.random.default_rng(1).random((2, 19, 34, 3)).astype(np.float32)
    found = jax.jit(vgg.VGG(config).apply)({"params": params}, jnp.asarray(photo))
    if style == "torchvision":
        x = (photo - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    else:
        x = photo[..., ::-1] * 255.0 - np.array([103.939, 116.779, 123.68])
    assert set(found) == set(vgg.FEATURES)
    for example in range(2):
        for name, expected in features_numpy(x[example].astype(np.float64), arrays).items():
            scale = np.abs(expected).max()
            np.testing.assert_allclose(found[name][example], expected, atol=1e-4 * scale)


def test_missing_and_misshapen_arrays_are_named(arrays, tmp_path):
    path = write_torchvision(tmp_path / "a.safetensors", arrays, skip=["features.16.weight"])
    with pytest.raises(InputError, match=r"a\.safetensors: expected an array features\.16\.weight"):
        vgg.load_vgg(path)
    wrong = list(arrays)
    wrong[3] = (wrong[3][0][..., :4], wrong[3][1])
    with pytest.raises(InputError, match=r"conv2_2 kernel: expected shape \(3, 3, 8, 8\)"):
        vgg.load_vgg(write_torchvision(tmp_path / "b.safetensors", wrong))


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.h5", "absent.h5", "vgg19.pth"])
def test_unreadable_files_are_one_line(name, tmp_path):
    path = tmp_path / name
    if name.startswith("cut"):
        path.write_bytes(b"\x89HDF\r\n\x1a\n but no more")
    with pytest.raises(InputError) as error:
        vgg.load_vgg(path)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_full_width_is_vgg19():
    photo = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    params = jax.eval_shape(vgg.VGG(vgg.VGGConfig()).init, jax.random.key(0), photo)["params"]
    found = [params[name]["kernel"].shape[-1] for name in vgg._layer_names()]
    assert tuple(found) == CHANNELS
    # VGG-19's 20,024,384 without its last two convolutions of 512 to 512 channels.
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert total == 20_024_384 - 2 * (9 * 512 * 512 + 512)


def test_small_photos_are_refused():
    net = vgg.VGG(vgg.VGGConfig(width_multiplier=1 / 16))
    with pytest.raises(ValueError, match="16 px"):
        jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 15, 40, 3)))


def make_segmenter(dtype):
    net = vgg.VGGSegmenter(vgg.VGGConfig(width_multiplier=1 / 16), 5, dtype)
    rng = np.random.default_rng(0)
    photo = jnp.asarray(rng.random((1, 17, 26, 3)), jnp.float32)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0.1, 0.2, leaf.shape), leaf.dtype),
        jax.eval_shape(net.init, jax.random.key(0), photo),
    )
    return net, variables, photo


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_segmenter_gives_full_size_logits(dtype):
    net, variables, photo = make_segmenter(dtype)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    logits, features = jax.jit(net.apply)(variables, photo)
    trunk = {"params": variables["params"]["vgg"]}
    alone = jax.jit(vgg.VGG(net.config, dtype).apply)(trunk, photo)
    assert features.keys() == alone.keys()
    for layer, found in features.items():
        np.testing.assert_array_equal(found, alone[layer])
    assert logits.shape == (1, 17, 26, 5) and logits.dtype == jnp.float32
    assert bool(jnp.isfinite(logits).all())


def test_segmenter_trains_its_trunk():
    net, variables, photo = make_segmenter(jnp.float32)
    grads = jax.jit(jax.grad(lambda v: jnp.square(net.apply(v, photo)[0]).mean()))(variables)
    for leaf in jax.tree.leaves(grads["params"]["vgg"]):
        assert bool(jnp.isfinite(leaf).all()) and float(jnp.abs(leaf).max()) > 0


def test_grey_photos_have_no_chroma_to_compare(tiny_stores):
    from sims_jax.training.tasks.features import CHROMA, Features

    store = tiny_stores[0]
    grey = dataclasses.replace(store, photo=np.repeat(store.photo[..., :1], 3, axis=-1))
    config = vgg.VGGConfig(width_multiplier=1 / SHRINK)
    params = vgg.VGG(config).init(jax.random.key(0), jnp.zeros((1, 48, 64, 3)))
    of_color, of_grey = (Features.calibrate(config, 0, params, s).weights for s in (store, grey))
    assert CHROMA in of_color and of_color.keys() - of_grey.keys() == {CHROMA}


def test_a_trunk_compares_alike_with_its_head_and_without(tiny_stores):
    from sims_jax.training.tasks.features import Features

    config = vgg.VGGConfig(width_multiplier=1 / SHRINK)
    a, b = (jnp.asarray(tiny_stores[0].photo[i : i + 1], jnp.float32) / 255 for i in range(2))
    whole = vgg.VGGSegmenter(config, 5).init(jax.random.key(0), a)
    trunk, weights = {"params": whole["params"]["vgg"]}, {"conv2_2": 1.0, "conv5_2": 2.0}
    headed = Features(config, 5, whole, weights).compare(a, b)
    alone = Features(config, 0, trunk, weights).compare(a, b)
    np.testing.assert_array_equal(headed.distance, alone.distance)
    assert alone.logits is None and headed.logits.shape == (*a.shape[:3], 5)


def test_textures_tell_soft_photos_and_not_where_lines_are(tiny_stores):
    from sims_jax.training.tasks.features import TEXTURES, Features

    config = vgg.VGGConfig(width_multiplier=1 / SHRINK)
    rng = np.random.default_rng(0)
    noise = jnp.asarray(rng.uniform(size=(2, 48, 64, 3)), jnp.float32)
    params = vgg.VGG(config).init(jax.random.key(0), noise)
    features = Features.calibrate(config, 0, params, tiny_stores[0])
    assert features.weights.keys() >= TEXTURES.keys()
    soft = 0.5 + (noise - 0.5) / 2
    other, softer = (features.compare(x, noise) for x in (noise[::-1], soft))
    assert (other.texture < softer.texture / 2).all() and (other.distance > softer.distance).all()
    assert softer.by_texture.keys() == TEXTURES.keys()
    assert softer.by_layer.keys() == features.weights.keys() - TEXTURES.keys()
    for total, parts in (
        (softer.distance, softer.by_layer),
        (softer.texture, softer.by_texture),
    ):
        weighted = (features.weights[name] * part for name, part in parts.items())
        np.testing.assert_allclose(total, sum(weighted), rtol=1e-5)
    # Flat photos have nothing to calibrate it by; Φ sees a texture at their borders.
    store = tiny_stores[0]
    flat = dataclasses.replace(
        store, photo=np.broadcast_to(store.photo[:, :1, :1], store.photo.shape)
    )
    assert "input_texture" not in Features.calibrate(config, 0, params, flat).weights


def test_photos_that_are_all_the_same_are_refused(tiny_stores):
    from sims_jax.training.tasks.features import Features

    store = tiny_stores[0]
    alike = dataclasses.replace(store, photo=np.repeat(store.photo[:1], len(store.ids), axis=0))
    with pytest.raises(InputError, match=r"photos that are all the same.*add some"):
        Features.calibrate(vgg.VGGConfig(), 0, None, alike)
