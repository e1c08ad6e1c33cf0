"""Inception-v3 beside a twin in PyTorch, with random weights."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from sims_jax.errors import InputError
from sims_jax.nets import inception

SIDE_PX = 80


@pytest.fixture(scope="module")
def arrays():
    """A state dict of random weights under which features neither vanish nor explode."""
    photo = jax.ShapeDtypeStruct((1, SIDE_PX, SIDE_PX, 3), jnp.float32)
    shapes = jax.eval_shape(inception.Inception().init, jax.random.key(0), photo)["params"]
    rng, found = np.random.default_rng(0), {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        *names, conv, kind = (key.key for key in path)
        if kind == "bias":
            continue
        height, width, inputs, outputs = leaf.shape
        scale = (2 / (height * width * inputs)) ** 0.5
        weight = scale * rng.standard_normal((outputs, inputs, height, width), np.float32)
        prefix = ".".join(names)
        found[f"{prefix}.{conv}.weight"] = weight
        for name, low, high in (
            ("weight", 0.8, 1.2),
            ("bias", -0.1, 0.1),
            ("running_mean", -0.1, 0.1),
            ("running_var", 0.8, 1.2),
        ):
            found[f"{prefix}.bn.{name}"] = rng.uniform(low, high, outputs).astype(np.float32)
    return found


@pytest.fixture(scope="module")
def weights(arrays, tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("inception") / "fid.safetensors"
    safetensors.numpy.save_file(arrays, path)
    return path


def look_with_torch(torch, arrays, photo):
    """Pooled features of photos [B, 3, H, W] in [0, 1], as pytorch-fid's network has them."""
    functional = torch.nn.functional
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}

    def conv(x, name, stride=1, padding=0):
        x = functional.conv2d(x, state[f"{name}.conv.weight"], stride=stride, padding=padding)
        mean, var, gain, shift = (
            state[f"{name}.bn.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.relu(functional.batch_norm(x, mean, var, gain, shift, eps=1e-3))

    def average(x):
        return functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    def halve(x):
        return functional.max_pool2d(x, 3, 2)

    def chain(x, *steps):
        for name, options in steps:
            x = conv(x, name, **options)
        return x

    row, column, same = {"padding": (0, 3)}, {"padding": (3, 0)}, {"padding": 1}
    x = conv(2 * photo - 1, "Conv2d_1a_3x3", stride=2)
    x = conv(conv(x, "Conv2d_2a_3x3"), "Conv2d_2b_3x3", padding=1)
    x = halve(conv(conv(halve(x), "Conv2d_3b_1x1"), "Conv2d_4a_3x3"))
    for m in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        d = f"{m}.branch3x3dbl_"
        x = torch.cat([
            conv(x, f"{m}.branch1x1"),
            chain(x, (f"{m}.branch5x5_1", {}), (f"{m}.branch5x5_2", {"padding": 2})),
            chain(x, (d + "1", {}), (d + "2", same), (d + "3", same)),
            conv(average(x), f"{m}.branch_pool"),
        ], 1)  # fmt: skip
    d = "Mixed_6a.branch3x3dbl_"
    x = torch.cat([
        conv(x, "Mixed_6a.branch3x3", stride=2),
        chain(x, (d + "1", {}), (d + "2", same), (d + "3", {"stride": 2})),
        halve(x),
    ], 1)  # fmt: skip
    for m in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        s, d = f"{m}.branch7x7_", f"{m}.branch7x7dbl_"
        x = torch.cat([
            conv(x, f"{m}.branch1x1"),
            chain(x, (s + "1", {}), (s + "2", row), (s + "3", column)),
            chain(x, (d + "1", {}), (d + "2", column), (d + "3", row),
                  (d + "4", column), (d + "5", row)),
            conv(average(x), f"{m}.branch_pool"),
        ], 1)  # fmt: skip
    d = "Mixed_7a.branch7x7x3_"
    x = torch.cat([
        chain(x, ("Mixed_7a.branch3x3_1", {}), ("Mixed_7a.branch3x3_2", {"stride": 2})),
        chain(x, (d + "1", {}), (d + "2", row), (d + "3", column), (d + "4", {"stride": 2})),
        halve(x),
    ], 1)  # fmt: skip
    for m in ("Mixed_7b", "Mixed_7c"):
        s = conv(x, f"{m}.branch3x3_1")
        d = chain(x, (f"{m}.branch3x3dbl_1", {}), (f"{m}.branch3x3dbl_2", same))
        pooled = average(x) if m == "Mixed_7b" else functional.max_pool2d(x, 3, 1, 1)
        x = torch.cat([
            conv(x, f"{m}.branch1x1"),
            conv(s, f"{m}.branch3x3_2a", padding=(0, 1)),
            conv(s, f"{m}.branch3x3_2b", padding=(1, 0)),
            conv(d, f"{m}.branch3x3dbl_3a", padding=(0, 1)),
            conv(d, f"{m}.branch3x3dbl_3b", padding=(1, 0)),
            conv(pooled, f"{m}.branch_pool"),
        ], 1)  # fmt: skip
    return x.mean((2, 3))


def test_a_twin_in_torch_sees_the_same(arrays, weights):
    torch = pytest.importorskip("torch", reason="the twin is PyTorch's: install the extra bench")
    photo = np.random.default_rng(1).uniform(size=(2, SIDE_PX, 96, 3)).astype(np.float32)
    params, sha256 = inception.load_inception(weights)
    assert len(sha256) == 64
    found = jax.jit(inception.Inception().apply)({"params": params}, photo)
    with torch.no_grad():
        expected = look_with_torch(torch, arrays, torch.from_numpy(photo).permute(0, 3, 1, 2))
    assert found.shape == (2, inception.FEATURES) and expected.std() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-3 * float(expected.std()), rtol=1e-3)


@pytest.mark.parametrize("size", [(120, 160), (299, 299), (360, 480)])
def test_photos_are_resized_as_by_torch(size):
    torch = pytest.importorskip("torch", reason="the twin is PyTorch's: install the extra bench")
    photo = np.random.default_rng(2).uniform(size=(1, *size, 3)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(photo).permute(0, 3, 1, 2), (299, 299), mode="bilinear"
    ).permute(0, 2, 3, 1)
    np.testing.assert_allclose(
        inception.resize_for_inception(jnp.asarray(photo)), expected, atol=1e-5
    )


def test_other_files_are_refused(arrays, tmp_path):
    path = tmp_path / "weights.safetensors"
    some = {name: array for name, array in arrays.items() if "Mixed_7c.branch1x1.bn" not in name}
    safetensors.numpy.save_file(some, path)
    with pytest.raises(InputError, match=r"Mixed_7c\.branch1x1\.bn\.weight: found nothing"):
        inception.load_inception(path)
    path.write_bytes(b"no weights")
    with pytest.raises(InputError, match="expected Inception-v3's weights"):
        inception.load_inception(path)
    with pytest.raises(InputError, match=r"found the suffix '\.pth'"):
        inception.load_inception(tmp_path / "weights.pth")
