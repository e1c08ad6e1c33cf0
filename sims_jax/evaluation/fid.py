"""The standard Fréchet inception distance, where a file of its network's weights is given."""

import dataclasses
import functools
import pathlib

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from sims_jax.bank.photo import as_float
from sims_jax.evaluation import scores
from sims_jax.nets.inception import Inception, Params, load_inception, resize_for_inception
from sims_jax.training.tasks.heldout import map_examples

NAME = "fid"
MEANING = "standard Fréchet inception distance to the real photos: lower"


@dataclasses.dataclass(frozen=True)
class InceptionFeatures:
    """Inception-v3 with the weights of a file, and the file's SHA-256."""

    params: Params
    sha256: str

    @classmethod
    def read(cls, path: pathlib.Path) -> "InceptionFeatures":
        """Raises InputError if the file is not that network's."""
        return cls(*load_inception(path))

    def look(self, photos: UInt8[np.ndarray, "n H W 3"]) -> Float[np.ndarray, "n d"]:
        """Pooled features of each photo."""
        examples = [{"photo": photo} for photo in photos]
        return map_examples(self._see, {"params": self.params}, examples)["pooled"]

    @functools.cached_property
    def _see(self):
        def see(params, batch, position):
            del position
            photo = resize_for_inception(as_float(batch["photo"]))
            return {"pooled": Inception().apply(params, photo)}

        return jax.jit(see)


def fid(
    photos: Float[np.ndarray, "n d"], real: Float[np.ndarray, "n d"], chosen: Int[np.ndarray, "k"]
) -> float:
    """Of the chosen photos and their real counterparts."""
    return scores.frechet_distance_of_few(photos[chosen], real[chosen])
