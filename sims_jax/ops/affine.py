"""Affine sampling of images.

Frames:

    full      pixels from the frame's centre: (x + 0.5 - W / 2, y + 0.5 - H / 2), where (y, x)
              counts pixels and a pixel's centre lies at + 0.5
    box       (x, y) in -1 .. 1 between the edges of a box

An affine is the [2, 3] matrix of u_source = affine[:, :2] @ u_target + affine[:, 2], u = (x, y):
it says for each pixel of the output where in the input to look, as a spatial transformer does
(Jaderberg et al., 2015). Boxes are those of `boxes.py`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int16, Num, Shaped

_IDENTITY = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
# Sides count as no smaller when they divide: the frame of an empty box is finite.
_MIN_SIDE_PX = 1e-3


def sample_affine(
    image: Float[Array, "H W C"],
    affine: Float[Array, "2 3"],
    size: tuple[int, int] | None = None,
) -> Float[Array, "h w C"]:
    """output(u) = image(affine[:, :2] @ u + affine[:, 2]), bilinear; the identity is exact.

    Differentiable in the image and in the affine. Beyond the frame the image counts as 0, and
    fades to it over one pixel.

    Args:
      image: any range.
      affine: target to source, both in pixels from their own frame's centre.
      size: (h, w) of the output; the image's where not given.
    """
    height, width = image.shape[:2]
    out_height, out_width = (height, width) if size is None else size
    y, x = _source_pixels(affine, (out_height, out_width), (height, width))

    def read(row, column):
        inside, found = _in_frame(row, column, (height, width)), _read(image, row - 1, column - 1)
        return jnp.where(inside[..., None], found, jnp.zeros_like(found))

    return _mix_corners(read, y, x, (height, width))


def look_up(
    affine: Float[Array, "J 2 3"], piece: Int[Array, "H W"]
) -> tuple[Float[Array, "H W"], Float[Array, "H W"]]:
    """(y, x) in its own image, of J of this size, where each pixel looks: what samplers ask for.

    Args:
      affine: of each image, target to source, pixels from the centre.
      piece: the image of each pixel; of -1 the coordinates mean nothing.
    """
    return _source_pixels(affine[piece], piece.shape, piece.shape)


def sample_cuts(
    components: Int16[Array, "P H W"],
    place: Int[Array, "H W"],
    component: Int[Array, "H W"],
    y: Float[Array, "H W"],
    x: Float[Array, "H W"],
) -> Float[Array, "H W"]:
    """At each pixel the bilinear sample of that pixel's own cut, as `sample_affine` takes it.

    Four entries are read a pixel, however many cuts there are. Differentiable in the coordinates.

    Args:
      components: maps of ids; a cut is where a map has one id.
      place, component: of each pixel the map and the id of its cut; -1 gives 0.
      y, x: where in the map, counted from the first pixel's centre (`look_up`).
    """
    there, wanted = component >= 0, component.astype(components.dtype)

    def read(row, column):
        found = _read(components, place, row - 1, column - 1)
        inside = there & _in_frame(row, column, place.shape)
        return (inside & (found == wanted)).astype(jnp.float32)[..., None]

    return _mix_corners(read, y, x, place.shape)[..., 0]


def sample_photos(
    photos: Shaped[Array, "P H W C"],
    place: Int[Array, "H W"],
    y: Float[Array, "H W"],
    x: Float[Array, "H W"],
) -> Float[Array, "H W C"]:
    """At each pixel the bicubic sample of that pixel's photo alone: sharper than a bilinear one.

    The border's values go on beyond the frame. Beside edges samples may lie beyond the photo's
    range. Differentiable in photos and coordinates.

    Source: Keys 1981, "Cubic convolution interpolation for digital image processing", a = -1/2:
    inside the frame ramps are exact, and so are slopes.

    Args:
      photos: of any range.
      place: the photo of each pixel; -1 gives 0.
      y, x: where in it, counted from the first pixel's centre (`look_up`).
    """
    height, width = place.shape
    y, x = jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1)
    top, left = jnp.floor(y), jnp.floor(x)
    down, right = _cubic_weights(y - top), _cubic_weights(x - left)

    def add(i, total):
        row = top.astype(jnp.int32) + (i - 1)
        for j in range(4):
            found = _read(photos, place, row, left.astype(jnp.int32) + (j - 1))
            total += (down[i] * right[j])[..., None] * found.astype(jnp.float32)
        return total

    # A loop: XLA for CPUs would fuse an unrolled sum into what is made of it, and compute all
    # sixteen terms again for each of its channels.
    total = jnp.zeros((*place.shape, photos.shape[-1]), jnp.float32)
    total = jax.lax.fori_loop(0, 4, add, total)
    return jnp.where((place >= 0)[..., None], total, 0.0)


def crop_resize(
    image: Float[Array, "H W C"],
    box_yx: Num[Array, "4"],
    size: tuple[int, int],
    theta: Float[Array, "2 3"] | None = None,
) -> Float[Array, "h w C"]:
    """The box's content at a fixed size: one bilinear sample at each output pixel's centre.

    Differentiable in the image, the box and theta. 0 beyond the frame; what theta fetches from
    beyond the box, but inside the frame, is the image's.

    Args:
      image: any range.
      box_yx: in pixels, may reach beyond the frame.
      size: (h, w) of the output.
      theta: target to source in the box's frame; the identity where not given.
    """
    theta = identity_affine() if theta is None else theta
    half, center = _box_frame(box_yx, image.shape[:2])
    half_out = jnp.array([size[1] / 2, size[0] / 2], jnp.float32)
    linear = theta[:, :2] * (half[:, None] / half_out)
    return sample_affine(image, jnp.column_stack([linear, half * theta[:, 2] + center]), size)


def crop_labels(
    labels: Shaped[Array, "H W"], box_yx: Int[Array, "4"], size: tuple[int, int]
) -> Shaped[Array, "h w"]:
    """The box's labels at a fixed size, nearest: cell i of n reads y0 + floor((i + 0.5) side / n).

    Args:
      labels: keeps its dtype.
      box_yx: in pixels; beyond the frame the nearest label inside counts.
      size: (h, w) of the output.
    """

    def nearest(low, high, length, count):
        index = low + (2 * jnp.arange(count, dtype=box_yx.dtype) + 1) * (high - low) // (2 * count)
        return jnp.clip(index, 0, length - 1)

    y0, x0, y1, x1 = box_yx
    rows = nearest(y0, y1, labels.shape[0], size[0])
    return labels[rows[:, None], nearest(x0, x1, labels.shape[1], size[1])]


def box_to_frame(
    theta: Float[Array, "2 3"], box_yx: Num[Array, "4"], image_size: tuple[int, int]
) -> Float[Array, "2 3"]:
    """The affine of the full frame that does in it what theta does in the box's frame.

    With the box's half sides s, as a diagonal matrix, and its centre c: A = s theta_A s^-1 and
    b = s theta_b + c - A c.

    Args:
      theta: target to source in the box's frame; the same box is target and source.
      box_yx: the box in pixels.
      image_size: (H, W).

    Returns:
      Target to source, pixels from the frame's centre; exactly the identity for the identity.
    """
    half, center = _box_frame(box_yx, image_size)
    half = jnp.maximum(half, _MIN_SIDE_PX / 2)
    linear = theta[:, :2] * (half[:, None] / half)
    return jnp.column_stack([linear, half * theta[:, 2] + center - _apply(linear, center)])


def identity_affine() -> Float[Array, "2 3"]:
    """The affine that changes nothing, in every frame."""
    return jnp.array(_IDENTITY, jnp.float32)


def compose_affine(outer: Float[Array, "2 3"], inner: Float[Array, "2 3"]) -> Float[Array, "2 3"]:
    """u -> outer(inner(u)).

    Sampling with the composition equals sampling the image first with `outer`, then the result
    with `inner`, but for what the first resampling loses.
    """
    linear = jnp.stack([_apply(outer[:, :2], inner[:, 0]), _apply(outer[:, :2], inner[:, 1])])
    shift = _apply(outer[:, :2], inner[:, 2]) + outer[:, 2]
    return jnp.column_stack([linear.T, shift])


def _cubic_weights(part: Float[Array, "H W"]) -> Float[Array, "4 H W"]:
    """Of the pixels at -1, 0, 1 and 2, for a sample at `part`, 0 to 1."""
    return jnp.stack(
        [
            part * (part * (1.0 - 0.5 * part) - 0.5),
            part * part * (1.5 * part - 2.5) + 1.0,
            part * (part * (2.0 - 1.5 * part) + 0.5),
            part * part * (0.5 * part - 0.5),
        ]
    )


def _box_frame(
    box_yx: Num[Array, "4"], image_size: tuple[int, int]
) -> tuple[Float[Array, "2"], Float[Array, "2"]]:
    """Half the sides of a box, and its centre in pixels from the frame's centre; both (x, y)."""
    y0, x0, y1, x1 = box_yx.astype(jnp.float32)
    middle = jnp.array([image_size[1] / 2, image_size[0] / 2], jnp.float32)
    return jnp.stack([x1 - x0, y1 - y0]) / 2, jnp.stack([x0 + x1, y0 + y1]) / 2 - middle


def _apply(linear: Float[Array, "2 2"], vector: Float[Array, "2"]) -> Float[Array, "2"]:
    """linear @ vector, summed in float32 also where matrix products are cut to TF32."""
    return linear[:, 0] * vector[0] + linear[:, 1] * vector[1]


def _read(images: Shaped[Array, "*S"], *index: Int[Array, "h w"]) -> Shaped[Array, "h w *C"]:
    """The entries at an index; beyond an end, and at -1, the entry at that end."""
    return images.at[index].get(mode="clip", wrap_negative_indices=False)


def _source_pixels(
    affine: Float[Array, "*B 2 3"], size: tuple[int, int], image_size: tuple[int, int]
) -> tuple[Float[Array, "h w"], Float[Array, "h w"]]:
    """(y, x) in the image, counted from its first pixel's centre, where each pixel looks.

    The affine is one for all of `size`, or one for each pixel. Written out: a matrix product may
    round coordinates to bfloat16.
    """
    affine = affine.astype(jnp.float32)
    x = jnp.arange(size[1], dtype=jnp.float32) + (0.5 - size[1] / 2)
    y = jnp.arange(size[0], dtype=jnp.float32)[:, None] + (0.5 - size[0] / 2)

    def look(row, middle):
        return affine[..., row, 0] * x + affine[..., row, 1] * y + affine[..., row, 2] + middle

    return look(1, image_size[0] / 2 - 0.5), look(0, image_size[1] / 2 - 0.5)


def _in_frame(
    row: Int[Array, "h w"], column: Int[Array, "h w"], image_size: tuple[int, int]
) -> Bool[Array, "h w"]:
    """Not in the border that `_mix_corners` counts."""
    height, width = image_size
    return (row > 0) & (row <= height) & (column > 0) & (column <= width)


def _mix_corners(
    read: Callable[[Int[Array, "h w"], Int[Array, "h w"]], Float[Array, "h w C"]],
    y: Float[Array, "h w"],
    x: Float[Array, "h w"],
    image_size: tuple[int, int],
) -> Float[Array, "h w C"]:
    """Bilinear samples of what `read` has at (row, column) of the image with a border of one pixel.

    Coordinates beyond the border are those of the border.
    """
    height, width = image_size
    y, x = jnp.clip(y + 1, 0, height + 1), jnp.clip(x + 1, 0, width + 1)
    row = jnp.minimum(y.astype(jnp.int32), height)
    column = jnp.minimum(x.astype(jnp.int32), width)
    down = (y - row.astype(jnp.float32))[..., None]
    right = (x - column.astype(jnp.float32))[..., None]
    top = (1 - right) * read(row, column) + right * read(row, column + 1)
    bottom = (1 - right) * read(row + 1, column) + right * read(row + 1, column + 1)
    return (1 - down) * top + down * bottom
