"""The transformer's task: undo a disturbance of a segment. Source: SIMS, Sec. 4."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from sims_jax.bank.photo import as_float
from sims_jax.bank.store import Store
from sims_jax.canvas.align import attention_box, transformer_view
from sims_jax.losses import masked_l1
from sims_jax.nets.transformer import Transformer, TransformerConfig
from sims_jax.ops.affine import compose_affine, crop_resize, identity_affine
from sims_jax.ops.boxes import mask_box
from sims_jax.ops.sheet import contact_sheet
from sims_jax.rng import example_keys, stream_key
from sims_jax.training.tasks.heldout import average_over, map_examples, spread

HELDOUT_EXAMPLES = 512
SHEET_ROWS = 8


@dataclasses.dataclass(frozen=True)
class DisturbanceConfig:
    """Ranges of the random affine maps.

    Args:
      max_scale: each axis is scaled by up to this factor, or its inverse.
      max_shift_frac: of the segment's side.
      max_rotation_deg: either way.
    """

    max_scale: float
    max_shift_frac: float
    max_rotation_deg: float


@dataclasses.dataclass(frozen=True)
class TransformerTask:
    """Examples are rows of the bank."""

    config: TransformerConfig
    disturbance: DisturbanceConfig
    store: Store
    heldout: Store
    dtype: DTypeLike = jnp.float32  # of what the network computes
    name: str = "transformer"

    @property
    def count(self) -> int:
        return len(self.store.row_class)

    @property
    def network(self) -> Transformer:
        return Transformer(self.config, self.store.spec.labels.num_classes, self.dtype)

    def example(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        del rng
        return _row_example(self.store, index)

    def init(self, key):
        batch = jax.tree.map(lambda x: jnp.asarray(x)[None], _row_example(self.store, 0))
        views = self._views(batch, identity_affine()[None])
        return self.network.init(key, *views)

    def loss(self, params, batch, keys):
        """L1 over the union of the masks between the segment and the straightened one."""
        theta = self._disturb(batch, keys)
        undone = self.network.apply(params, *self._views(batch, theta))
        return self._distance(batch, theta, undone), {}

    def evaluate(self, params) -> dict[str, float]:
        """`val_l1`, and `identity_l1`: the same disturbances left as they are."""
        rows = spread(len(self.heldout.row_class), HELDOUT_EXAMPLES)
        return average_over(self._score, params, [_row_example(self.heldout, r) for r in rows])

    def sheet(self, params) -> np.ndarray:
        """Rows of: the segment | disturbed | straightened."""
        rows = spread(len(self.heldout.row_class), SHEET_ROWS)
        drawn = map_examples(self._draw, params, [_row_example(self.heldout, r) for r in rows])
        names = ("segment", "disturbed", "straightened")
        return contact_sheet(list(zip(*(drawn[name] for name in names), strict=True)), names)

    @functools.cached_property
    def _score(self):
        def score(params, batch, position):
            theta, undone = self._disturb_and_undo(params, batch, position)
            still = jnp.broadcast_to(identity_affine(), undone.shape)
            return {
                "val_l1": self._distance(batch, theta, undone),
                "identity_l1": self._distance(batch, theta, still),
            }

        return jax.jit(score)

    @functools.cached_property
    def _draw(self):
        def draw(params, batch, position):
            theta, undone = self._disturb_and_undo(params, batch, position)
            still = jnp.broadcast_to(identity_affine(), undone.shape)
            both = jax.vmap(compose_affine)(theta, undone)
            maps = {"segment": still, "disturbed": theta, "straightened": both}
            return {name: self._crop(batch, affine)[..., :3] for name, affine in maps.items()}

        return jax.jit(draw)

    def _disturb_and_undo(self, params, batch, position):
        """Disturbances that depend on the position alone, and the network's answers."""
        keys = example_keys(stream_key(0, "heldout disturbance"), jnp.int32(0), position)
        theta = self._disturb(batch, keys)
        return theta, self.network.apply(params, *self._views(batch, theta))

    def _disturb(self, batch, keys):
        def one(key, mask):
            return disturb(key, self.disturbance, mask_box(mask), self._box(mask)[0])

        return jax.vmap(one)(keys, batch["mask"])

    def _views(self, batch, theta):
        labels = self.store.spec.labels

        def view(photo, mask, layout, theta):
            photo = as_float(photo)
            box, size = self._box(mask)
            return transformer_view(photo, mask, mask, layout, box, size, labels.num_classes, theta)

        return jax.vmap(view)(batch["photo"], batch["mask"], batch["layout"], theta)

    def _crop(self, batch, theta):
        """The segment's colours and mask, [B, h, w, 4], moved by theta."""

        def crop(photo, mask, theta):
            photo = as_float(photo)
            box, size = self._box(mask)
            mask = mask.astype(jnp.float32)[..., None]
            return crop_resize(jnp.concatenate([photo * mask, mask], -1), box, size, theta)

        return jax.vmap(crop)(batch["photo"], batch["mask"], theta)

    def _distance(self, batch, theta, undone):
        still = jnp.broadcast_to(identity_affine(), theta.shape)
        truth = self._crop(batch, still)
        moved = self._crop(batch, jax.vmap(compose_affine)(theta, undone))
        union = jax.lax.stop_gradient(jnp.maximum(truth[..., 3], moved[..., 3]))
        return masked_l1(truth[..., :3], moved[..., :3], union)

    def _box(self, mask):
        box = mask_box(mask)
        size = self.config.box_size or mask.shape
        return attention_box(box, box, mask.shape, self.config.box_size), size


def disturb(key, config: DisturbanceConfig, segment_box, view_box):
    """A random affine map [2, 3] in the view's coordinates: the segment turns, scales and shifts.

    It turns and scales about the segment's own centre, in pixels, so that nothing is sheared.

    Args:
      segment_box, view_box: (y0, x0, y1, x1); coordinates are -1 to 1 between the view's edges.
    """
    turn, scale, shift = jax.random.split(key, 3)
    limit = jnp.deg2rad(jnp.float32(config.max_rotation_deg))
    angle = jax.random.uniform(turn, (), minval=-limit, maxval=limit)
    log_scale = jnp.log(jnp.float32(config.max_scale))
    scales = jnp.exp(jax.random.uniform(scale, (2,), minval=-log_scale, maxval=log_scale))
    limit = config.max_shift_frac
    shift = jax.random.uniform(shift, (2,), minval=-limit, maxval=limit)

    center, half = _center_and_half(segment_box)
    view_center, view_half = _center_and_half(view_box)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    linear = jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])]) * scales
    linear = linear * (view_half[None, :] / view_half[:, None])
    pivot = (center - view_center) / view_half
    moved = jnp.sum(linear * pivot, axis=1)
    offset = pivot - moved + 2 * shift * half / view_half
    return jnp.column_stack([linear, offset])


def _center_and_half(box_yx):
    """Centre and half sides (x, y) of a box, at least half a pixel."""
    y0, x0, y1, x1 = box_yx.astype(jnp.float32)
    half = jnp.maximum(jnp.stack([x1 - x0, y1 - y0]), 1.0) / 2
    return jnp.stack([x0 + x1, y0 + y1]) / 2, half


def _row_example(store: Store, row: int) -> dict[str, np.ndarray]:
    photo = store.row_photo[row]
    return {
        "photo": store.photo[photo],
        "mask": store.cut(np.asarray([row]))[0],
        "layout": store.layout[photo],
    }
