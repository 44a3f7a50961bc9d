"""Checkerboard patterns before training: which layer treats its output phases unevenly, why, and what helps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv._text import brief

from ..field.gradient import Pullback
from ..field.inputs import Inputs, inputs_for
from ..graph.reader import NotUnderstood
from ..graph.sweep import periods, pull_back, push_totals
from ..graph.trace import Traced, spatial_axes_of, trace
from .probe import (
    Record,
    gradient_phases,
    image_spread,
    phase_means,
    phase_pattern,
    phase_unevenness,
    phases_between,
    probe,
    relations,
)

_SHOWN = 6  # layers in the printed form


@dataclass(frozen=True)
class Fix:
    """A change to one layer that enlarges by `factor`; the unevenness before and after, by the same analysis."""

    name: str
    measure: str
    before: float
    after: float
    factor: int = 2


@dataclass(frozen=True)
class LayerOverlap:
    """One layer's part in the checkerboard.

    `taps` are the taps that meet the input per output phase and axis, `reads` how many outputs read each input phase
    (its gradient). `counts` is the unevenness of the taps, (max - min) / mean over phases; `gradient` that of the
    reads. `gain` is the unevenness of the layer's output on flat images with the actual weights, `added` the
    unevenness that the layer itself makes, without the pattern of the layers above it.
    """

    name: str
    place: str
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    taps: tuple[tuple[int, ...], ...]
    reads: tuple[tuple[int, ...], ...]
    counts: float
    gradient: float
    gain: float
    added: float
    reason: str
    fixes: tuple[Fix, ...]


@dataclass(frozen=True)
class Checkerboard:
    """Predicted checkerboard of a network; made by `checkerboard`.

    `counts` is the unevenness of how many paths reach each output phase, (max - min) / mean; `gradient_counts` the same
    for the gradient at the input. `score` is the unevenness of the output on flat images with the weights as they are:
    the root mean square of what differs between phases relative to what they share; `phases` holds those outputs.
    `gradient_score` is the same for the gradient at the input under flat cotangents (None for integer images); in
    trained networks their mean gradient is nearly zero, and the score, relative to it, large without a meaning.

    `pattern` is that root mean square in the output's own units, and `spread` the standard deviation of the output from
    one flat image to the next: a pattern is seen where it isn't small against it. `probed` says where the levels of the
    images came from.
    """

    score: float
    counts: float | None
    gradient_counts: float | None
    gradient_score: float | None
    period: tuple[int, ...]
    phases: np.ndarray
    layers: tuple[LayerOverlap, ...]
    notes: tuple[str, ...]
    pattern: float
    spread: float
    probed: str

    __repr__ = brief

    @property
    def worst(self) -> LayerOverlap | None:
        """The layer that adds most to the pattern; None where no layer adds any."""
        worst = max(self.layers, key=lambda layer: (layer.added, layer.counts), default=None)
        return worst if worst is not None and (worst.added > 1e-6 or worst.counts > 0) else None

    @property
    def why(self) -> str:
        """One sentence: whether there is a pattern, which layer causes it, and what helps."""
        worst = self.worst
        if worst is None:
            return "No checkerboard: all phases of the output are treated alike."
        helps = [f"{f.name} ({f.before:.2g} -> {f.after:.2g})" for f in worst.fixes if f.after < f.before]
        advice = f" What helps: {'; '.join(helps)}." if helps else ""
        keeps = f" Flat images come out with a pattern of {self.pattern:.2g} beside a spread of {self.spread:.2g}."
        return f"{worst.name} at {worst.place or 'top level'}: {worst.reason}.{keeps}{advice}"

    def __str__(self) -> str:
        """What is known in a few lines; the layers that matter most first."""
        counts = "not counted" if self.counts is None else f"{self.counts:.2g}"
        lines = [
            f"checkerboard: paths {counts}, score {self.score:.2g} on flat images from {self.probed}",
            f"  pattern {self.pattern:.2g} in the output's units, beside a spread of {self.spread:.2g}; period "
            f"{'x'.join(map(str, self.period))}",
        ]
        ranked = sorted(self.layers, key=lambda layer: (layer.added, layer.counts), reverse=True)
        for layer in ranked[:_SHOWN]:
            lines.append(
                f"  {layer.place or layer.name}: adds {layer.added:.2g}, taps {layer.counts:.2g}; {layer.reason}"
            )
        if len(ranked) > _SHOWN:
            lines.append(f"  and {len(ranked) - _SHOWN} more layers in .layers")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def spread(phases: Sequence[float] | np.ndarray) -> float:
    """(max - min) / mean: zero where all phases are equal."""
    values = np.asarray(phases, np.float64)
    mean = values.mean() if values.size else 0.0
    return float(np.ptp(values) / mean) if mean > 0 else 0.0


def checkerboard(
    fn: Callable[..., Any],
    *args: Any,
    spatial_axes: Sequence[int] | None = None,
    output: int | None = None,
    draws: int = 8,
    seed: int = 0,
    fixes: bool = True,
    input_range: tuple[Any, Any] | None = None,
    images: Any = None,
) -> Checkerboard:
    """Predict checkerboard patterns: how unevenly the phases of the output are treated, and which layer causes it.

    An upsampling by s makes s^2 output phases. Paths per phase are counted on the graph of the function; the gain of
    each phase is measured with the actual weights on images that are the same everywhere, layer by layer:
    score = sqrt(variance over phases / mean square), averaged over draws and channels, away from the borders.

    A trained network is even only for the values that it was trained with: say which, by `input_range` or `images`, or
    give the image as an array and not as a shape.

    Args:
        fn: the function, as for `receptive_field`; of arguments given as shapes, weights are drawn at random.
        args: its arguments; the image first, large enough that its middle is free of border effects.
        spatial_axes: spatial axes of the image; all but the first and the last by default.
        output: which output is meant, where there are several.
        draws: number of flat images, whose levels cover the range.
        seed: seed of the flat images and of weights that are not given.
        fixes: also analyse the layer with changed kernel size, initialisation, or a resize-convolution in its place.
        input_range: (lowest, highest) value of the images that the function is made for, numbers or one for every
            channel; 0 to 1 by default for 1, 3 and 4 channels (a note says so), else a standard normal distribution.
        images: images that it is made for, in place of a range: an array or several; the levels are their pixels.

    Returns:
        A `Checkerboard`: `.score`, `.pattern`, `.spread`, `.counts`, `.gradient_counts`, `.layers`, `.worst`, `.why`.

    Raises:
        ValueError: range or images do not fit the image; the output is no image.

    >>> import jax, jax.numpy as jnp
    >>> def up(x):
    ...     w = jnp.ones((3, 3, 1, 1))
    ...     return jax.lax.conv_general_dilated(x, w, (1, 1), [(1, 2), (1, 2)], lhs_dilation=(2, 2),
    ...                                         dimension_numbers=("NHWC", "HWIO", "NHWC"))
    >>> board = checkerboard(up, jax.ShapeDtypeStruct((1, 16, 16, 1), jnp.float32), fixes=False)
    >>> board.counts > 0, board.worst.reason
    (True, 'kernel 3 is not divisible by stride 2: its phases have 1 and 2 taps')

    Source: Odena et al., "Deconvolution and checkerboard artifacts", Distill 2016; ICNR: Aitken et al. 2017.
    """
    axes = spatial_axes_of(args[0], spatial_axes)
    traced: Traced | str
    try:
        traced = trace(fn, args, axes, output)
    except NotUnderstood as problem:
        traced = str(problem)
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    inputs = inputs_for(args[0], axes, input_range, images)
    flat = inputs.flat(draws, seed)
    records = flat_records(fn, args, axes, output, traced, flat, seed)
    return predicted(records, args, axes, traced, inputs, Pullback(fn, args, output), flat, seed, fixes)


def flat_records(
    fn: Callable[..., Any],
    args: Sequence[Any],
    axes: tuple[int, ...],
    output: int | None,
    traced: Traced | str,
    images: Sequence[np.ndarray],
    seed: int = 0,
) -> list[Record]:
    """What every layer makes of flat images, the graph (or why there is none) being there already."""
    places, known, jaxpr = axes, None, None
    if isinstance(traced, Traced):
        places, known, jaxpr = traced.result_axes, periods(traced), traced.jaxpr
    return probe(fn, args, axes, output, images, seed, places, known, jaxpr)


def predicted(
    records: Sequence[Record],
    args: Sequence[Any],
    axes: tuple[int, ...],
    traced: Traced | str,
    inputs: Inputs,
    pullback: Pullback | None = None,
    images: Sequence[np.ndarray] = (),
    seed: int = 0,
    fixes: bool = True,
) -> Checkerboard:
    """`checkerboard` of what flat images gave; the gradient, if there is one, is taken at `images`."""
    known = periods(traced) if isinstance(traced, Traced) else None
    coarsest = [min((r.size[i] for r in records if r.size[i] > 1), default=1) for i in range(len(axes))]
    steps = [phases_between(args[0].shape[a], n) for a, n in zip(axes, coarsest, strict=True)]
    if known is not None:
        steps = [s if s <= args[0].shape[a] else p for a, p, (s, *_) in zip(axes, steps, known, strict=True)]
    notes: list[str] = []
    counts = gradient = None
    if isinstance(traced, Traced):
        counts, gradient = _counted(traced, records[-1].period, steps)
        if counts is None:
            notes.append("paths are not counted: all of them lead through operations that read whole axes")
    else:
        notes.append(f"paths are not counted: {traced}")
    if any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(args[1:])):
        notes.append("weights given as shapes were drawn at random")
    if inputs.assumed:
        notes.append(f"the images' values come from {inputs.said}; input_range= names those of a trained network")
    found = (_layer(record, fixes, seed) for record in records[:-1])
    layers = [layer for layer in found if layer is not None]
    last = records[-1]
    back = None
    try:
        back = None if pullback is None else gradient_phases(pullback, axes, steps, images, seed)
    except (NotImplementedError, ValueError) as problem:  # loops and windows that JAX does not differentiate
        notes.append(f"the gradient at the input is not measured: {str(problem).splitlines()[0]}")
    if not np.isfinite(last.phases).all():
        notes.append("the output on flat images is not finite: nothing is said about its pattern")
    if not np.issubdtype(last.dtype, np.inexact):
        notes.append(f"the output is of {last.dtype}: its score says whether the numbers themselves have a pattern")
    return Checkerboard(
        score=last.unevenness,
        counts=counts,
        gradient_counts=gradient,
        gradient_score=None if back is None else phase_unevenness(back),
        period=last.period,
        phases=last.phases,
        layers=tuple(layers),
        notes=tuple(notes),
        pattern=phase_pattern(last.phases),
        spread=image_spread(last.phases),
        probed=inputs.said,
    )


def _counted(traced: Traced, period: Sequence[int], steps: Sequence[int]) -> tuple[float, float] | tuple[None, None]:
    """Unevenness of the paths into each output phase, and out of each input phase; None where there are no paths."""
    total = push_totals(traced.source, traced.out)[traced.out.number]
    if not np.any(total):
        return None, None
    rank = len(traced.out_axes)
    forward = spread(phase_means(total, range(rank), period[:rank]))
    out = traced.out
    usage, _ = pull_back(traced.source, out, np.ones(out.shape), (0,) * rank)
    usage = usage.sum(axis=tuple(a for a in range(usage.ndim) if a not in traced.spatial_axes))
    return forward, spread(phase_means(usage, range(usage.ndim), steps))


# ------------------------------------------------------------------------------------------------------------- layers
def _layer(record: Record, fixes: bool, seed: int) -> LayerOverlap | None:
    found = relations(record.eqn)
    added = record.own
    taps = tuple(r.taps_per_phase() for r in found)
    reads = tuple(r.reads_per_phase() for r in found)
    counts = max((spread(t) for t in taps), default=0.0)
    gradient = max((spread(r) for r in reads), default=0.0)
    upsamples = any(r.base > 1 for r in found)
    shuffles = record.primitive == "reshape" and added > 1e-6
    if not (upsamples or shuffles or counts or gradient or added > 1e-3):
        return None
    if found and not upsamples and all(r.stride == 1 for r in found):
        return None  # it may make a pattern stronger or weaker, but not one
    kind = "convolution" if record.primitive.startswith("conv_") else record.primitive
    name = "transposed convolution" if upsamples else "pixel shuffle" if shuffles else kind
    return LayerOverlap(
        name=name,
        place=record.place,
        kernel=tuple(r.taps for r in found),
        stride=tuple(max(r.base, r.stride) for r in found),
        taps=taps,
        reads=reads,
        counts=counts,
        gradient=gradient,
        gain=record.unevenness,
        added=added,
        reason=_reason(record.primitive, found, taps, reads, shuffles, added),
        fixes=_fixes(found, record, counts, added, shuffles, seed) if fixes else (),
    )


def _reason(primitive: str, found, taps, reads, shuffles: bool, added: float) -> str:
    for relation, phases in zip(found, taps, strict=True):
        if spread(phases):
            return (
                f"kernel {relation.taps} is not divisible by stride {relation.base}: its phases have "
                f"{' and '.join(str(t) for t in sorted(set(phases)))} taps"
            )
    if shuffles:
        return "the weights of the channels that become neighbouring pixels differ"
    if any(r.base > 1 for r in found):
        return "the taps of different phases have different sums with these weights" if added > 1e-6 else "even"
    for relation, phases in zip(found, reads, strict=True):
        if spread(phases):
            return (
                f"kernel {relation.taps} is not divisible by stride {relation.stride}: its gradient adds up "
                f"{' and '.join(str(t) for t in sorted(set(phases)))} terms at different places"
            )
    if primitive == "max_unpool":
        return "unpooling writes one position of each window and leaves zeros at the others"
    return "it does not treat all phases alike"


def _fixes(found, record: Record, counts: float, added: float, shuffles: bool, seed: int) -> tuple[Fix, ...]:
    """Changed layers, each put through the same analysis; only where there is something to fix."""
    if not shuffles and not any(r.base > 1 for r in found):
        return ()
    factor = max((r.base for r in found), default=0) or _factor(record)
    tried = []
    if counts:
        size = -(-found[0].taps // factor) * factor
        tried.append(
            Fix(
                f"kernel size {size}", "paths per phase", counts, _divisible_counts(size, factor, len(found), seed),
                factor,
            )
        )  # fmt: skip
    if added > 1e-6:
        for name, score in _even_scores(factor, len(record.size), seed).items():
            tried.append(Fix(name, "own unevenness on flat inputs", added, score, factor))
    return tuple(tried)


# The changed layers depend on nothing but these numbers, and a network has many layers alike.
@cache
def _divisible_counts(size: int, factor: int, rank: int, seed: int) -> float:
    kernel = jnp.asarray(np.ones((size,) * rank + (1, 1), np.float32))
    return _layer_board(_transposed(kernel, factor), 1, rank, seed).counts or 0.0


@cache
def _even_scores(factor: int, rank: int, seed: int) -> dict[str, float]:
    channels = 4
    drawn = np.random.default_rng(seed).standard_normal((3,) * rank + (channels, channels), np.float32)
    small, even = jnp.asarray(drawn), jnp.asarray(np.repeat(drawn, factor**rank, axis=-1))
    return {
        "ICNR initialisation": _layer_board(_shuffled(even, factor), channels, rank, seed).score,
        "resize-convolution": _layer_board(_resized(small, factor), channels, rank, seed).score,
    }


def _factor(record: Record) -> int:
    return max(record.period)


def _layer_board(fn: Callable[..., Any], channels: int, rank: int, seed: int) -> Checkerboard:
    shape = (1, *(12,) * rank, channels)
    args, axes = (jax.ShapeDtypeStruct(shape, jnp.float32),), tuple(range(1, rank + 1))
    traced, inputs = trace(fn, args, axes, None), inputs_for(args[0], axes)
    records = flat_records(fn, args, axes, None, traced, inputs.flat(2, seed), seed)
    return predicted(records, args, axes, traced, inputs, seed=seed, fixes=False)


def _spec(rank: int) -> tuple[str, str, str]:
    axes = "XYZUV"[:rank]
    return f"N{axes}C", f"{axes}IO", f"N{axes}C"


def _transposed(kernel: jax.Array, factor: int) -> Callable[[jax.Array], jax.Array]:
    rank = kernel.ndim - 2

    def run(x: jax.Array) -> jax.Array:
        pads = [(k - 1, k - 1) for k in kernel.shape[:rank]]
        return jax.lax.conv_general_dilated(
            x, kernel, (1,) * rank, pads, lhs_dilation=(factor,) * rank, dimension_numbers=_spec(rank)
        )

    return run


def _resized(kernel: jax.Array, factor: int) -> Callable[[jax.Array], jax.Array]:
    rank = kernel.ndim - 2

    def run(x: jax.Array) -> jax.Array:
        for axis in range(1, rank + 1):
            x = jnp.repeat(x, factor, axis=axis)
        return jax.lax.conv_general_dilated(x, kernel, (1,) * rank, "SAME", dimension_numbers=_spec(rank))

    return run


def _shuffled(kernel: jax.Array, factor: int) -> Callable[[jax.Array], jax.Array]:
    """A convolution and a pixel shuffle whose output channels come in runs, one for each subpixel."""
    rank = kernel.ndim - 2

    def run(x: jax.Array) -> jax.Array:
        y = jax.lax.conv_general_dilated(x, kernel, (1,) * rank, "SAME", dimension_numbers=_spec(rank))
        n, *sizes, c = y.shape
        y = y.reshape(n, *sizes, c // factor**rank, *(factor,) * rank)
        order = [0]
        for a in range(rank):
            order += [1 + a, 2 + rank + a]
        y = y.transpose(*order, 1 + rank)
        return y.reshape(n, *(s * factor for s in sizes), c // factor**rank)

    return run
