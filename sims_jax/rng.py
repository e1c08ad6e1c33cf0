"""Named key streams: every random draw of the project is (seed, stream, step, example).

No key is used twice and none depends on the number of devices: `stream_key` names what the
randomness is for, `example_keys` gives each example of a global batch its own.
"""

import zlib

import jax
from jaxtyping import Array, Int, Key


def stream_key(seed: int | Key[Array, ""], name: str) -> Key[Array, ""]:
    """The key of the stream `name`; streams of different names are independent."""
    key = jax.random.key(seed) if isinstance(seed, int) else seed
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def example_keys(
    key: Key[Array, ""], step: Int[Array, ""], position: Int[Array, "B"]
) -> Key[Array, "B"]:
    """One key an example, from the step and the example's position in the global batch."""
    step_key = jax.random.fold_in(key, step)
    return jax.vmap(lambda index: jax.random.fold_in(step_key, index))(position)
