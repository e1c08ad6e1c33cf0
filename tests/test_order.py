"""Orders from pairwise answers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from sims_jax.canvas.order import overlapping_pairs, prior_key, rank_by_answers, rank_by_prior


def slow_rank(pairs, logits, asked, key):
    """Ranked pairs with sets and a search for paths."""
    over = {}
    certain = sorted(np.flatnonzero(asked), key=lambda m: (-abs(logits[m]), m))
    for m in certain:
        front, back = pairs[m] if logits[m] > 0 else pairs[m][::-1]
        reached, todo = set(), [back]
        while todo:
            here = todo.pop()
            reached.add(here)
            todo += [x for x in over.get(here, ()) if x not in reached]
        if front not in reached:
            over.setdefault(front, set()).add(back)
    rank, placed = {}, set()
    for position in range(len(key)):
        free = [n for n in range(len(key)) if n not in placed and over.get(n, set()) <= placed]
        lowest = min(free, key=lambda n: (key[n], n))
        rank[lowest] = position
        placed.add(lowest)
    return [rank[n] for n in range(len(key))]


def test_equals_a_slow_twin():
    rng = np.random.default_rng(0)
    for _ in range(30):
        n = 7
        pairs = np.array(list(itertools.combinations(range(n), 2)), np.int32)
        logits = rng.normal(size=len(pairs)).astype(np.float32)
        asked = rng.random(len(pairs)) < 0.5
        key = rng.integers(0, 5, n).astype(np.int32)
        found = jax.jit(rank_by_answers)(pairs, logits, asked, key)
        assert found.tolist() == slow_rank(pairs, logits, asked, key)


def test_a_cycle_breaks_at_its_least_certain_answer():
    pairs = jnp.array([[0, 1], [1, 2], [2, 0]], jnp.int32)
    logits = jnp.array([3.0, 2.0, 0.5])  # 0 over 1, 1 over 2, and, hardly, 2 over 0
    rank = rank_by_answers(pairs, logits, jnp.ones(3, bool), jnp.array([0, 1, 2], jnp.int32))
    assert rank.tolist() == [2, 1, 0]


def test_without_answers_the_prior_decides():
    key = jnp.array([5, -3, 5, 0], jnp.int32)
    pairs = jnp.array([[0, 1]], jnp.int32)
    rank = rank_by_answers(pairs, jnp.array([-9.0]), jnp.zeros(1, bool), key)
    assert rank.tolist() == rank_by_prior(key).tolist() == [2, 0, 3, 1]


def test_swapped_answers_turn_the_order_around():
    pairs = jnp.array(list(itertools.combinations(range(5), 2)), jnp.int32)
    logits = jnp.where(pairs[:, 0] < pairs[:, 1], 1.0, -1.0) + 0.1 * pairs[:, 0].astype(jnp.float32)
    ask = jnp.ones(len(pairs), bool)
    rank = rank_by_answers(pairs, logits, ask, jnp.zeros(5, jnp.int32))
    turned = rank_by_answers(pairs, -logits, ask, jnp.zeros(5, jnp.int32))
    assert rank.tolist() == [4, 3, 2, 1, 0]
    assert turned.tolist() == [0, 1, 2, 3, 4]


def test_prior_puts_planar_behind_and_low_in_front():
    key = prior_key(jnp.array([3, 0, 8]), jnp.array([100, 40, 60]), planar_ids=(3,))
    assert jnp.argsort(key).tolist() == [0, 1, 2]


def test_pairs_are_those_that_overlap_most():
    mask = np.zeros((4, 8, 8), bool)
    mask[0, :, :4], mask[1, :, 3:], mask[2, :, :2], mask[3, 0, 7] = True, True, True, True
    pair, asked = overlapping_pairs(jnp.asarray(mask), max_pairs=4)
    found = {tuple(p) for p in np.asarray(pair)[np.asarray(asked)].tolist()}
    assert found == {(0, 1), (0, 2), (1, 3)}
    assert pair[0].tolist() == [0, 2]
