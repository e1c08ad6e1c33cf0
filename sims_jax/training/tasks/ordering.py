"""The ordering network's task: which of two adjacent segments lies in front. SIMS, Sec. 5."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike

from sims_jax.bank.pairs import Pairs, find_pairs
from sims_jax.bank.store import Store
from sims_jax.canvas.order import front_logit, ordering_view
from sims_jax.errors import InputError
from sims_jax.labels import LabelSpace
from sims_jax.nets.ordering import Ordering, OrderingConfig
from sims_jax.ops.sheet import contact_sheet
from sims_jax.training.tasks.heldout import average_over, map_examples, spread

HELDOUT_PAIRS = 1024
MASK_BRIGHTNESS = 0.5  # on a sheet, added to half the photo's
FRAME_PX = 4


@dataclasses.dataclass(frozen=True)
class OrderingTask:
    """Examples are adjacent pairs of segments of one photo."""

    config: OrderingConfig
    store: Store
    heldout: Store
    pairs: Pairs
    heldout_pairs: Pairs
    dtype: DTypeLike = jnp.float32  # of what the network computes
    name: str = "ordering"

    @classmethod
    def create(
        cls, config: OrderingConfig, store: Store, heldout: Store, dtype: DTypeLike = jnp.float32
    ) -> "OrderingTask":
        pairs, heldout_pairs = find_pairs(store), find_pairs(heldout)
        labels = store.spec.labels
        for name, found in (("training", pairs), ("held-out", heldout_pairs)):
            if not found.between_objects(labels).any():
                raise InputError(
                    f"{name} photos: found no two adjacent objects (neither is planar), expected "
                    "some to learn their order from; add photos or lower config.bank.min_area_frac"
                )
        return cls(config, store, heldout, pairs, heldout_pairs, dtype)

    @property
    def labels(self) -> LabelSpace:
        return self.store.spec.labels

    @property
    def count(self) -> int:
        return len(self.pairs)

    @property
    def network(self) -> Ordering:
        return Ordering(self.config, self.labels.num_classes, self.dtype)

    def example(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return _pair_example(self.store, self.pairs, index, swapped=rng.random() < 0.5)

    def init(self, key):
        example = _pair_example(self.store, self.pairs, 0, swapped=False)
        batch = jax.tree.map(lambda x: jnp.asarray(x)[None], example)
        return self.network.init(key, *self._views(batch))

    def loss(self, params, batch, keys):
        """Cross-entropy of the class in front (the paper's) plus that of A or B."""

        def answer_one(view, key):
            view = jax.tree.map(lambda x: x[None], view)
            answer = self.network.apply(params, *view, train=True, rngs={"dropout": key})
            return jax.tree.map(lambda x: x[0], answer)

        answer = jax.vmap(answer_one)(self._views(batch), keys)
        front_class = jnp.where(batch["a_in_front"], batch["class_a"], batch["class_b"])
        by_class = optax.softmax_cross_entropy_with_integer_labels(answer.class_logits, front_class)
        truth = batch["a_in_front"].astype(jnp.float32)
        a_or_b = optax.sigmoid_binary_cross_entropy(answer.first_logit, truth)
        logit = front_logit(answer, batch["class_a"], batch["class_b"])
        right = (logit > 0) == batch["a_in_front"]
        return by_class + a_or_b, {"accuracy": right.astype(jnp.float32)}

    def evaluate(self, params) -> dict[str, float]:
        """Accuracies of the network and of the prior on pairs of two objects (neither is planar).

        `val_accuracy` and `prior_accuracy` of all; of the `same_class_pairs` that only their
        instances cut apart, where there are any, `same_class_accuracy` and `same_class_prior`.
        """
        objects = self.heldout_pairs.between_objects(self.labels)
        alike = objects & self.heldout_pairs.of_one_class()
        accuracy, prior = self._accuracies(params, objects)
        scores = {"val_accuracy": accuracy, "prior_accuracy": prior}
        if alike.any():
            accuracy, prior = self._accuracies(params, alike)
            scores |= {"same_class_accuracy": accuracy, "same_class_prior": prior}
        return scores | {"same_class_pairs": int(alike.sum())}

    def _accuracies(self, params, asked: np.ndarray) -> tuple[float, float]:
        """(of the network, of the prior) on some of the pairs that are asked for."""
        pairs, indices = self.heldout_pairs, np.flatnonzero(asked)
        chosen = indices[spread(len(indices), HELDOUT_PAIRS)]
        examples = [_pair_example(self.heldout, pairs, i, swapped=False) for i in chosen]
        prior = pairs.prior_a_in_front[chosen] == pairs.a_in_front[chosen]
        return average_over(self._score, params, examples)["right"], float(prior.mean())

    def sheet(self, params) -> np.ndarray:
        """Pairs as asked: the one said to lie in front green, the other red; wrong: dark frame."""
        indices = spread(len(self.heldout_pairs), 16)
        examples = [
            _pair_example(self.heldout, self.heldout_pairs, i, swapped=False) for i in indices
        ]
        right = map_examples(self._score, params, examples)["right"] > 0
        pictures = []
        for example, is_right in zip(examples, right, strict=True):
            a_wins = bool(example["a_in_front"]) == bool(is_right)
            front, back = ("mask_a", "mask_b") if a_wins else ("mask_b", "mask_a")
            photo = self.heldout.photo[int(example["photo"])] * (MASK_BRIGHTNESS / 255)
            photo[example[front], 1] += MASK_BRIGHTNESS
            photo[example[back], 0] += MASK_BRIGHTNESS
            if not is_right:
                photo[:FRAME_PX], photo[-FRAME_PX:] = 0, 0
                photo[:, :FRAME_PX], photo[:, -FRAME_PX:] = 0, 0
            pictures.append(photo)
        return contact_sheet([pictures[i : i + 4] for i in range(0, len(pictures), 4)])

    @functools.cached_property
    def _score(self):
        def score(params, batch, position):
            del position
            answer = self.network.apply(params, *self._views(batch))
            logit = front_logit(answer, batch["class_a"], batch["class_b"])
            return {"right": ((logit > 0) == batch["a_in_front"]).astype(jnp.float32)}

        return jax.jit(score)

    def _views(self, batch):
        def view(layout, mask_a, mask_b):
            return ordering_view(
                mask_a, mask_b, layout, self.config.box_size, self.labels.num_classes
            )

        return jax.vmap(view)(batch["layout"], batch["mask_a"], batch["mask_b"])


def _pair_example(store: Store, pairs: Pairs, index: int, *, swapped: bool) -> dict:
    photo = pairs.photo[index]
    names = ("b", "a") if swapped else ("a", "b")
    component = store.component[photo]
    by_name = {"a": (pairs.a, pairs.class_a), "b": (pairs.b, pairs.class_b)}
    (first, class_first), (second, class_second) = (by_name[name] for name in names)
    return {
        "photo": np.int32(photo),
        "layout": store.layout[photo],
        "mask_a": component == first[index],
        "mask_b": component == second[index],
        "class_a": np.int32(class_first[index]),
        "class_b": np.int32(class_second[index]),
        "a_in_front": np.bool_(pairs.a_in_front[index] != swapped),
    }
