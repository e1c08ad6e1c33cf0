"""Coarse to fine: what a larger synthesis network takes over from a smaller one."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import load_config, random_params

from sims_jax.checkpoints import DONE_FILE, Checkpoints, digest_params
from sims_jax.errors import InputError
from sims_jax.nets.scales import average_pool
from sims_jax.nets.synthesis import Synthesis, SynthesisConfig
from sims_jax.networks import make_networks
from sims_jax.training.dry_run import invent_tasks
from sims_jax.training.smaller import carry_over, read_smaller


@pytest.fixture(scope="module")
def smaller(tiny_config, tiny_stores, tmp_path_factory):
    """(workdir, parameters) of a finished synthesis network."""
    workdir = tmp_path_factory.mktemp("smaller")
    (workdir / "bank").symlink_to(tiny_stores[0].folder)
    labels = tiny_stores[0].spec.labels
    params = random_params(make_networks(tiny_config, labels), labels.num_classes)["synthesis"]
    with Checkpoints(workdir / "synthesis") as checkpoints:
        checkpoints.save(1, params, params)
    done = json.dumps({"sha256": digest_params(params)})
    (workdir / "synthesis" / DONE_FILE).write_text(done)
    return workdir, params


@pytest.fixture(scope="module")
def fine_config(tiny_config):
    net = tiny_config.synthesis.net
    widths = (*net.decoder_widths, 6)
    return SynthesisConfig(tuple(net.encoder_widths), tuple(net.encoder_convs), widths)


def test_what_fits_is_carried_over_and_the_rest_is_new(smaller, fine_config, tiny_stores, capsys):
    workdir, params = smaller
    store = tiny_stores[0]
    found = read_smaller(workdir, fine_config, store.spec.labels)
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 1
    assert told[0].endswith(f"from {workdir}; new: decoder_3, photo/kernel, segmentation/kernel")
    network = Synthesis(fine_config, store.spec.labels.num_classes)
    layout = jnp.zeros((1, 8, 8, store.spec.labels.num_classes + 1))
    inputs = layout, layout[..., :3], layout[..., 0]
    begun = jax.jit(network.init)(jax.random.key(0), *inputs)
    fine = carry_over(found, begun)["params"]
    for name, block in params["params"].items():
        if name in ("photo", "segmentation"):
            np.testing.assert_array_equal(fine[name]["bias"], block["bias"])
            np.testing.assert_array_equal(fine[name]["kernel"], begun["params"][name]["kernel"])
        else:
            jax.tree.map(np.testing.assert_array_equal, fine[name], block)
    jax.tree.map(np.testing.assert_array_equal, fine["decoder_3"], begun["params"]["decoder_3"])


def test_at_half_the_size_the_larger_network_sees_what_the_smaller_one_did(
    smaller, fine_config, tiny_config, tiny_stores
):
    """On a canvas without holes, up to the scale at which the smaller one ended."""
    labels = tiny_stores[0].spec.labels
    rng = np.random.default_rng(0)
    layout = rng.integers(0, labels.num_classes, (1, 24, 32))
    onehot = jax.nn.one_hot(layout, labels.num_classes + 1, dtype=jnp.float32)
    rgb = jnp.asarray(rng.random((1, 24, 32, 3)), jnp.float32)
    large = onehot, rgb, jnp.ones((1, 24, 32))
    small = average_pool(onehot), average_pool(rgb), jnp.ones((1, 12, 16))
    fine = Synthesis(fine_config, labels.num_classes)
    net = tiny_config.synthesis.net
    config = dataclasses.replace(fine_config, decoder_widths=tuple(net.decoder_widths))
    params = carry_over(smaller[1], jax.jit(fine.init)(jax.random.key(0), *large))

    def last_shared(network, params, inputs):
        apply = jax.jit(lambda *x: network.apply(*x, capture_intermediates=True))
        _, kept = apply(params, *inputs)
        return kept["intermediates"]["decoder_2"]["__call__"][0]

    ours = last_shared(fine, params, large)
    theirs = last_shared(Synthesis(config, labels.num_classes), smaller[1], small)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_task_begins_with_it(smaller, tiny_config, tiny_stores):
    config = tiny_config.copy_and_resolve_references()
    config.synthesis.net.decoder_widths = (*config.synthesis.net.decoder_widths, 6)
    task = invent_tasks(config, *tiny_stores)["synthesis"]
    task = dataclasses.replace(task, smaller=smaller[1])
    begun = jax.jit(task.init)(jax.random.key(0))["params"]
    jax.tree.map(
        np.testing.assert_array_equal, begun["encoder_0"], smaller[1]["params"]["encoder_0"]
    )
    assert begun["photo"]["kernel"].shape == (6, 3)


def test_what_does_not_fit_is_named(smaller, fine_config, tiny_stores, tmp_path):
    workdir, labels = smaller[0], tiny_stores[0].spec.labels
    wider = dataclasses.replace(fine_config, encoder_widths=(8, 10))
    with pytest.raises(InputError, match=r"init_from: found params/\S+ of shape .* expected shape"):
        read_smaller(workdir, wider, labels)
    fewer = SynthesisConfig((8,), (1,), (8, 8))
    with pytest.raises(InputError, match="expected shape"):
        read_smaller(workdir, fewer, labels)
    other = dataclasses.replace(labels, classes=labels.classes[::-1])
    with pytest.raises(InputError, match="init_from: found classes"):
        read_smaller(workdir, fine_config, other)
    with pytest.raises(InputError, match=r"done\.json: not found"):
        read_smaller(tmp_path, fine_config, labels)


def test_the_papers_larger_network_goes_on_from_the_smaller_one():
    small, large = (load_config("cityscapes", *size) for size in ((), ("512",)))
    shapes = []
    for config in (small, large):
        net = make_networks(config, None).synthesis
        inputs = [jax.ShapeDtypeStruct((1, 64, 64, *c), jnp.float32) for c in ((20,), (3,), ())]
        init = Synthesis(net, 19).init
        shapes.append(jax.eval_shape(init, jax.random.key(0), *inputs)["params"])
    heads = {"photo", "segmentation"}
    assert shapes[1].keys() - shapes[0].keys() == {"decoder_7"}
    assert all(shapes[1][name] == shapes[0][name] for name in shapes[0].keys() - heads)
    assert shapes[1]["decoder_7"]["conv_0"]["kernel"].shape == (3, 3, 24 + 256, 128)
