"""Train steps on all devices: the only `pmap` of the project.

A step is a pure function of one device's share of the batch. The state is passed and returned
unstacked (`in_axes=None`), donated, and equal on all devices because gradients are averaged over
them. Every loss is a mean over examples and every key belongs to an example of the global batch, so
the number of devices changes nothing but the order of a sum.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, Int, Key

from sims_jax.errors import InputError
from sims_jax.rng import example_keys

AXIS = "devices"

# (params, batch, keys) -> (losses of the examples, metrics of the examples)
Loss = Callable[[Any, Any, Key[Array, "B"]], tuple[Float[Array, "B"], dict[str, Array]]]


@struct.dataclass
class TrainState:
    """Everything training needs to go on, and to go on exactly."""

    step: Int[Array, ""]
    params: Any
    ema: Any  # exponential moving average of params: what inference uses
    opt_state: Any


def create_state(
    init, optimizer: optax.GradientTransformation, key: Key[Array, ""], devices: list[jax.Device]
) -> TrainState:
    """The state at step 0 on all devices, as the step leaves it; `init(key)` gives parameters."""
    mesh = jax.sharding.Mesh(np.asarray(devices), (AXIS,))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def create(key):
        params = init(key)
        ema = jax.tree.map(jnp.copy, params)  # the average starts at the parameters
        return TrainState(jnp.zeros((), jnp.int32), params, ema, optimizer.init(params))

    return jax.jit(create, out_shardings=everywhere)(key)


def mean_gradient(loss: Loss, params, batch, keys, accumulation: int = 1):
    """(gradient, metrics) of the mean loss over this device's examples and over all devices.

    Args:
      accumulation: microbatches that the examples are divided into; only one is in memory.
    """

    def mean_loss(params, batch, keys):
        losses, metrics = loss(params, batch, keys)
        return losses.mean(), {"loss": losses.mean()} | jax.tree.map(jnp.mean, metrics)

    def of_microbatch(batch, keys):
        return jax.grad(mean_loss, has_aux=True)(params, batch, keys)

    def add(total, microbatch):
        return jax.tree.map(jnp.add, total, of_microbatch(*microbatch)), None

    if accumulation == 1:
        return jax.lax.pmean(of_microbatch(batch, keys), AXIS)
    parts = jax.tree.map(lambda x: x.reshape(accumulation, -1, *x.shape[1:]), (batch, keys))
    like = jax.eval_shape(of_microbatch, *jax.tree.map(lambda x: x[0], parts))
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    total, _ = jax.lax.scan(add, nothing, parts)
    return jax.lax.pmean(jax.tree.map(lambda x: x / accumulation, total), AXIS)


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
    key: Key[Array, ""],
    devices: list[jax.Device],
    *,
    accumulation: int = 1,
):
    """(state, batch, position) -> (state, metrics), mapped over `devices`.

    Args:
      loss: one number an example; see `Loss`.
      ema_decay: of the averaged parameters; early on the average forgets faster.
      key: of this network's randomness.
      devices: batch and position have a leading axis of their number.
      accumulation: microbatches that each device's share is divided into.
    """

    def step(state: TrainState, batch, position):
        keys = example_keys(key, state.step, position)
        gradient, metrics = mean_gradient(loss, state.params, batch, keys, accumulation)
        with jax.numpy_dtype_promotion("standard"):  # optax multiplies its step count by floats
            updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        count = state.step.astype(jnp.float32)
        decay = jnp.minimum(ema_decay, (1.0 + count) / (10.0 + count))  # as TensorFlow's EMA
        ema = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.ema, params)
        metrics["gradient_norm"] = optax.tree.norm(gradient)
        return TrainState(state.step + 1, params, ema, opt_state), metrics

    return jax.pmap(
        step,
        AXIS,
        in_axes=(None, 0, 0),
        out_axes=(None, None),
        donate_argnums=0,
        devices=devices,
    )


def shard_batch(batch, devices: list[jax.Device]):
    """Splits the leading axis of every leaf over `devices`: [B, ...] to [D, B / D, ...]."""
    count = len(devices)
    size = len(jax.tree.leaves(batch)[0])
    if size % count:
        raise InputError(
            f"batch of {size} examples on {count} devices: expected a multiple of {count}; "
            "change the batch size"
        )
    return jax.tree.map(lambda x: x.reshape(count, size // count, *x.shape[1:]), batch)


def place_batch(batch, devices: list[jax.Device]):
    """Splits a batch as `shard_batch` does and puts it on the devices of this process."""
    mesh = jax.sharding.Mesh(np.asarray(devices), (AXIS,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))
    return jax.device_put(shard_batch(batch, devices), split)
