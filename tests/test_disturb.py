"""The disturbance that the transformer learns to undo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sims_jax.ops.affine import box_to_frame
from sims_jax.training.tasks.transformer import DisturbanceConfig, disturb

SIZE = (120, 160)
SEGMENT, VIEW = np.array([40, 20, 60, 140]), np.array([30, 5, 70, 155])


def in_pixels(config, segment=SEGMENT, view=VIEW, seed=0):
    """The disturbance as a map of the frame's pixels, from its centre."""
    theta = disturb(jax.random.key(seed), config, jnp.asarray(segment), jnp.asarray(view))
    return np.asarray(box_to_frame(theta, jnp.asarray(view), SIZE))


@pytest.mark.parametrize("view", [VIEW, np.array([0, 0, *SIZE])])
def test_rotation_is_a_rotation_about_the_segment(view):
    for seed in range(5):
        affine = in_pixels(DisturbanceConfig(1.0, 0.0, 10.0), view=view, seed=seed)
        linear = affine[:, :2]
        np.testing.assert_allclose(linear @ linear.T, np.eye(2), atol=1e-5)
        assert 0 < abs(np.degrees(np.arcsin(linear[1, 0]))) <= 10
        center = np.array([80 - 80, 50 - 60])  # of the segment, from the frame's centre
        np.testing.assert_allclose(linear @ center + affine[:, 2], center, atol=1e-3)


def test_shift_is_a_share_of_the_segment():
    shifts = np.array(
        [in_pixels(DisturbanceConfig(1.0, 0.1, 0.0), seed=s)[:, 2] for s in range(50)]
    )
    assert np.abs(shifts[:, 0]).max() <= 12 and np.abs(shifts[:, 0]).max() > 6  # 10 % of 120
    assert np.abs(shifts[:, 1]).max() <= 2 and np.abs(shifts[:, 1]).max() > 1  # 10 % of 20


def test_nothing_drawn_is_the_identity():
    affine = in_pixels(DisturbanceConfig(1.0, 0.0, 0.0))
    np.testing.assert_allclose(affine, [[1, 0, 0], [0, 1, 0]], atol=1e-5)
