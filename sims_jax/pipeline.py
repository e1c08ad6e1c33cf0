"""The whole of SIMS as one program: retrieve, gather, render.

    retrieve(params, bank, layouts)           segments, and one row for each    (retrieval.py)
    gather(bank, matches)                     the winners' pixels             (bank/pixels.py)
    render(params, layouts, matches, pixels)  transformation, order, canvas, photo
    synthesize(params, bank, layouts)         the three, jitted together
    synthesize_from_disk                      the same, of a bank larger than its devices

`Matches` may be edited in between: another candidate, a row of one's own choice.
With a bank sharded over processes all of them call `synthesize` together (SPMD).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from sims_jax.bank.disk import DiskBank
from sims_jax.bank.photo import as_float
from sims_jax.bank.pixels import as_pieces, cut, locate, locate_pieces, used_rows
from sims_jax.bank.pixels import gather as gather  # one of the steps above
from sims_jax.canvas.align import align
from sims_jax.canvas.compose import elide, frontmost, paste, warp_cut
from sims_jax.canvas.order import (
    ask_order,
    overlapping_pairs,
    prior_key,
    rank_by_answers,
    rank_by_prior,
    stack_layers,
)
from sims_jax.errors import InputError
from sims_jax.labels import LabelSpace
from sims_jax.nets.densifier import Densifier
from sims_jax.nets.layers import one_hot_layout
from sims_jax.nets.synthesis import Synthesis as SynthesisNetwork
from sims_jax.networks import Params
from sims_jax.ops.chunks import map_chunks
from sims_jax.ops.light import Light, measure_light, relight_pieces, sharpen
from sims_jax.retrieval import retrieve
from sims_jax.rng import stream_key
from sims_jax.types import (
    Bank,
    BankSpec,
    Canvas,
    Matches,
    Photos,
    Pieces,
    Pixels,
    Segments,
    Synthesis,
)


def render(
    params: Params,
    layouts: UInt8[Array, "B H W"],
    matches: Matches,
    pixels: Pixels,
    *,
    adherence: str | None = None,
    reference: Light | None = None,
) -> Synthesis:
    """Photos of layouts from matched segments; differentiable back to f and the transformer.

    Args:
      params: the networks.
      layouts: class ids, 255 void.
      matches, pixels: from `match` and `gather`, which says how many layers there are.
      adherence: "segment" or "layout" instead of the config's (`CanvasConfig`).
      reference: the light that all pieces are brought into, and how sharp the photo is to be; None
        leaves each its photo's.
    """
    return _render(params, layouts, matches, as_pieces(pixels), adherence, reference)


def _render(
    params: Params,
    layouts: UInt8[Array, "B H W"],
    matches: Matches,
    pieces: Pieces,
    adherence: str | None,
    reference: Light | None,
) -> Synthesis:
    """`render`, of pieces whose pixels may be shared."""

    adherence = adherence or params.networks.canvas.adherence

    def place_all(one):
        layout, segments, place, component = one
        own = pieces.replace(place=place, component=component)
        return _place_segments(params, layout, segments, own, adherence, reference)

    each = layouts, matches.segments, pieces.place, pieces.component
    canvas, affine, rank = jax.lax.map(place_all, each)
    photo = paint(params, canvas)
    return Synthesis(
        photo=photo if reference is None else sharpen(photo, reference),
        canvas=canvas,
        affine=affine,
        rank=rank,
        used=jax.vmap(functools.partial(_seen, rank.shape[-1]))(canvas.source),
    )


def paint(params: Params, canvas: Canvas) -> Float[Array, "B H W 3"]:
    """The synthesis network f on a batch of canvases; photos in [0, 1]."""
    labels = params.networks.labels
    network = SynthesisNetwork(params.networks.synthesis, labels.num_classes)
    onehot = one_hot_layout(canvas.layout, labels.num_classes)
    photo = network.apply(params.synthesis, onehot, canvas.rgb, canvas.mask).photo
    return jnp.clip(photo, 0.0, 1.0)


def densify(params: Params, coarse: UInt8[Array, "B H W"]) -> UInt8[Array, "B H W"]:
    """Dense layouts of coarse ones; what is labelled already may change, too (SIMS, Sec. 6).

    Raises:
      InputError: the densifier was not trained.
    """
    if params.densifier is None:
        raise InputError(
            "coarse: found no densifier, expected one trained to its end; give train.py's command "
            "with the stage densifier, or give dense layouts"
        )
    labels = params.networks.labels
    network = Densifier(params.networks.densifier, labels.num_classes)
    logits = network.apply(params.densifier, one_hot_layout(coarse, labels.num_classes))
    return jnp.argmax(logits, axis=-1).astype(coarse.dtype)


@functools.partial(jax.jit, static_argnames=("adherence",))
def synthesize(
    params: Params,
    bank: Bank,
    layouts: UInt8[Array, "B H W"],
    *,
    candidate: Int[Array, ""] | int = 0,
    exclude: Bool[Array, "B P"] | None = None,
    instances: Int[Array, "B H W"] | None = None,
    adherence: str | None = None,
    reference: Light | None = None,
) -> tuple[Synthesis, Matches]:
    """Layouts in, photos out: one program from components to pixels.

    Args:
      params: the networks.     bank: the memory bank, on the devices.
      layouts: class ids at the model's working size, 255 void.
      candidate: as in `retrieve`.
      exclude: photos of the bank that may not be used, for each layout.
      instances: instance ids (0 none), which cut the segments where given.
      adherence: "segment" or "layout" instead of the config's.
      reference: the light that segments are chosen for and brought into, and how sharp the photo
        is to be.
    """
    matches = retrieve(
        params,
        bank,
        layouts,
        candidate=candidate,
        exclude=exclude,
        instances=instances,
        reference=reference,
    )
    pieces = locate_pieces(bank, matches, params.networks.canvas.layers)
    return _render(params, layouts, matches, pieces, adherence, reference), matches


def synthesize_from_disk(
    params: Params,
    bank: DiskBank,
    layouts: UInt8[np.ndarray, "B H W"],
    *,
    candidate: Int[Array, ""] | int = 0,
    exclude: Bool[np.ndarray, "B P"] | None = None,
    instances: Int[np.ndarray, "B H W"] | None = None,
    adherence: str | None = None,
    reference: Light | None = None,
) -> tuple[Synthesis, Matches]:
    """`synthesize` of a bank whose photos, or rows too, are on disk; not to be jitted.

    Programs between which the host reads what `DiskBank` says. Matches and pixels are the same
    to the last bit; what follows is compiled anew, and may differ by the rounding of float32.

    Raises:
      InputError: a file of the bank is missing or damaged; the message names it.
    """
    matches = retrieve(
        params,
        bank,
        layouts,
        candidate=candidate,
        exclude=exclude,
        instances=instances,
        reference=reference,
    )
    photos, row = bank.fetch(np.asarray(used_rows(matches, params.networks.canvas.layers)))
    spec = bank.store.spec
    synthesis = _render_photos(
        params, layouts, matches, photos, row, spec=spec, adherence=adherence, reference=reference
    )
    return synthesis, matches


@functools.partial(jax.jit, static_argnames=("spec", "adherence"))
def _render_photos(
    params: Params,
    layouts: UInt8[Array, "B H W"],
    matches: Matches,
    photos: Photos,
    row: Int[Array, "B J"],
    *,
    spec: BankSpec,
    adherence: str | None,
    reference: Light | None,
) -> Synthesis:
    return _render(params, layouts, matches, locate(photos, spec, row), adherence, reference)


def _place_segments(
    params: Params,
    layout: UInt8[Array, "H W"],
    segments: Segments,
    pieces: Pieces,
    adherence: str,
    reference: Light | None,
) -> tuple[Canvas, Float[Array, "J 2 3"], Int[Array, "J"]]:
    """One layout: (canvas, affine of each piece, rank of each piece)."""
    networks = params.networks
    num_classes = networks.labels.num_classes
    count = segments.class_id.shape[0]
    layers = pieces.place.shape[0] // count
    found = (pieces.component >= 0) & jnp.tile(segments.valid, layers)
    covered = jnp.tile(jnp.arange(count, dtype=segments.component.dtype), layers)

    def cut_some(place, component):
        return cut(pieces.replace(place=place, component=component))

    def transform(place, component, covered):
        pixels = cut_some(place, component)
        photo, target = as_float(pixels.photo), segments.component == covered[:, None, None]
        layouts = jnp.broadcast_to(layout, target.shape)
        affine = align(
            params.transformer,
            networks.transformer,
            num_classes,
            photo,
            pixels.mask,
            target,
            layouts,
        )
        return affine, None if reference is None else measure_light(photo)

    chunk = networks.pipeline.chunk
    some = pieces.place, pieces.component, covered
    affine, light = map_chunks(transform, some, found, chunk)
    rank = rank_by_prior(
        prior_key(segments.class_id, segments.box_yx[:, 2], _planar_ids(networks.labels))
    )
    front = None  # clipped to their components, segments never overlap
    if adherence == "segment":
        some = (pieces.place[:count], pieces.component[:count], affine[:count])

        def warp(place, component, affine):
            return jax.vmap(warp_cut)(cut_some(place, component).mask, affine)

        warped = map_chunks(warp, some, found[:count], chunk)
        warped &= found[:count, None, None]
        if networks.pipeline.max_pairs:
            rank = _rank_by_network(params, segments, warped, layout, rank)
        front = frontmost(warped, rank)
    canvas = paste(pieces, affine, segments, layout, front)
    if reference is not None:
        canvas = canvas.replace(rgb=relight_pieces(canvas.rgb, canvas.source, light, reference))
    canvas = elide(stream_key(0, "canvas"), canvas, networks.canvas, networks.labels)
    return canvas, affine, stack_layers(rank, layers)


def _seen(count: int, source: Int[Array, "H W"]) -> Bool[Array, "J"]:
    """Which of `count` pieces have a pixel; -1 is none's."""
    return jnp.zeros(count + 1, bool).at[source].set(True)[:count]  # -1: the last one


def _rank_by_network(params, segments, mask, layout, prior):
    """Asks the ordering network wherever two warped segments overlap; else `prior`, their ranks."""
    networks = params.networks
    pair, asked = overlapping_pairs(mask, networks.pipeline.max_pairs)

    def ask(pair):
        a, b = pair[:, 0], pair[:, 1]
        class_a, class_b = segments.class_id[a], segments.class_id[b]
        classes = networks.labels.num_classes
        masks = mask[a], mask[b]
        return ask_order(
            params.ordering, networks.ordering, classes, *masks, class_a, class_b, layout
        )

    first_logit = map_chunks(ask, (pair,), asked, networks.pipeline.chunk)
    return rank_by_answers(pair, first_logit, asked, prior)


def _planar_ids(labels: LabelSpace) -> tuple[int, ...]:
    return labels.ids(labels.planar)
