"""Overlap of an upsampler's kernel: which outputs get more of it than their neighbours, the cause of checkerboards."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxconv._text import place_and_whole
from jaxconv.analysis import Checkerboard, ReceptiveField, receptive_field as find_field
from jaxconv.analysis.graph.sweep import alignments
from jaxconv.analysis.upsampling.checkerboard import LayerOverlap, spread
from jaxconv.analysis.upsampling.probe import phase_means
from jaxconv.figures.grid import INK, INPUT, as_plane, number
from jaxconv.figures.maps import as_map, by, counts_panel, style
from jaxconv.figures.volumes import maps_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TWO = (INPUT, "#3a7ca5")  # neighbours differ in lightness


def overlap(
    what: Any,
    *args: Any,
    stride: int | Sequence[int] = 2,
    padding: int = 0,
    dilation: int = 1,
    inputs: int = 6,
    direction: str = "forward",
    crop: int = 16,
) -> Figure:
    """Draw how often the kernel of an upsampling covers each output, along a line and in the plane or the volume.

    Of a layer: overlap[q] = #{(i, t): s i + d t - p = q}, the number of taps that meet an input. Of a network: the
    paths from all inputs to each output (or, backward, from each input to all outputs).

    Args:
        what: a kernel size (an int, or one per axis), a layer of `analysis.checkerboard(...)`, the result itself (what
            flat images come out as), a `ReceptiveField`, or a function, whose arguments follow.
        *args: the function's arguments, the image (or its shape) first.
        stride: of a kernel size, the upsampling factor.
        padding: of a kernel size, the forward convolution's.
        dilation: of a kernel size.
        inputs: how many inputs of a layer to draw.
        direction: of a network: "forward" for what outputs get, "backward" for what the gradient at the input adds up.
        crop: of a network: so many pixels in the middle, away from the borders.

    Returns:
        matplotlib Figure. Of a layer: each input's kernel as a bar, their sum below, and the map of the plane. Over
        three axes, the three planes through the middle.

    Raises:
        ValueError: sizes below 1, an unknown direction, or more than three axes.

    Example:
        >>> overlap(3, stride=2).axes[-1].get_title()
        'in the plane an output gets 1, 2 or 4 taps'

    Source: Odena et al., "Deconvolution and checkerboard artifacts", Distill 2016.
    """
    if isinstance(what, LayerOverlap):
        if not what.kernel:
            raise ValueError(f"{what.name} at {what.place or 'top level'} has no kernel whose overlap could be drawn")
        what, stride = what.kernel, what.stride
    if isinstance(what, (int, np.integer, tuple, list)):
        kernel = (int(what),) * 2 if isinstance(what, (int, np.integer)) else tuple(int(k) for k in what)
        strides = (int(stride),) * len(kernel) if isinstance(stride, (int, np.integer)) else tuple(stride)
        return _of_layer(kernel, strides, padding, dilation, inputs)
    if isinstance(what, Checkerboard):
        return _of_flat_images(what)
    field = what if isinstance(what, ReceptiveField) else find_field(what, *args, method="jaxpr")
    return _of_network(field, direction, crop)


# ------------------------------------------------------------------------------------------------------------- a layer
def line_overlap(kernel: int, stride: int, padding: int = 0, dilation: int = 1, inputs: int = 6) -> np.ndarray:
    """The number of taps that meet an input at each output of a transposed convolution along one axis.

    >>> line_overlap(3, 2, inputs=4).tolist()
    [1, 1, 2, 1, 2, 1, 2, 1, 1]
    """
    size = stride * (inputs - 1) + dilation * (kernel - 1) + 1 - 2 * padding
    if min(kernel, stride, dilation, inputs) < 1 or size < 1:
        raise ValueError(
            f"kernel {kernel}, stride {stride}, padding {padding}, dilation {dilation} and {inputs} inputs give an "
            f"output of size {size}; all but the padding must be at least 1, and so must that size"
        )
    place = np.add.outer(stride * np.arange(inputs), dilation * np.arange(kernel)) - padding
    return np.bincount(place[(place >= 0) & (place < size)], minlength=size)


def _of_layer(kernel: Sequence[int], stride: Sequence[int], padding: int, dilation: int, inputs: int) -> Figure:
    from matplotlib.figure import Figure

    if len(kernel) not in (1, 2, 3) or len(stride) != len(kernel):
        raise ValueError(
            f"overlap is drawn over one, two or three axes, got kernel {tuple(kernel)}, stride {tuple(stride)}"
        )
    lines = [line_overlap(k, s, padding, dilation, inputs) for k, s in zip(kernel, stride, strict=True)]
    k, s, line = kernel[-1], stride[-1], lines[-1]
    counts = reduce(np.multiply.outer, lines)
    maps = maps_of(counts, "overlap") if len(kernel) > 1 else []
    figure = Figure(figsize=(6.6 + 4.4 * len(maps), 4.6), layout="constrained")
    grid = figure.add_gridspec(2, 1 + len(maps), height_ratios=(1.1, 1), width_ratios=(1.35, *(1,) * len(maps)))
    bars = figure.add_subplot(grid[0, 0])
    total = figure.add_subplot(grid[1, 0], sharex=bars)
    for i in range(inputs):
        for t in range(k):
            at = s * i + dilation * t - padding
            if 0 <= at < len(line):
                bars.barh(inputs - 1 - i, 1, 0.8, left=at - 0.5, color=_TWO[i % 2], edgecolor="white", linewidth=0.8)
    bars.set(yticks=range(inputs), yticklabels=[f"input {i}" for i in reversed(range(inputs))])
    bars.set_title(f"where each input puts its kernel of {k}, stride {s}", fontsize=11)
    bars.tick_params(labelbottom=False)
    total.bar(range(len(line)), line, 0.94, color=_by_value(line), edgecolor="white")
    for q, count in enumerate(line):
        total.text(q, count, str(count), ha="center", va="bottom", fontsize=9, color=INK)
    total.set(xlabel="output", ylabel="taps", ylim=(0, line.max() * 1.2), xlim=(-0.6, len(line) - 0.4))
    total.set_title(_line_sentence(line, k, s, dilation), fontsize=11)
    for ax in (bars, total):
        style(ax)
        ax.grid(False)
    inner = reduce(np.multiply.outer, [_inner(n, k, dilation) for n, k in zip(lines, kernel, strict=True)])
    values = sorted({int(v) for v in inner.ravel()})
    said = f"{'every' if len(values) == 1 else 'an'} output gets {_or(values)} taps"
    for column, (where, drawn) in enumerate(maps, start=1):
        ax = figure.add_subplot(grid[:, column])
        counts_panel(ax, drawn, log=False, scale=(0, counts.max()), width=4.6)
        ax.set_title(where or f"in the plane {said}", fontsize=11)
    if len(maps) > 1:
        figure.suptitle(f"in the volume {said}", fontsize=12)
    return figure


def _inner(line: np.ndarray, kernel: int, dilation: int) -> np.ndarray:
    """The overlap away from the borders, where inputs on both sides are missing."""
    reach = dilation * (kernel - 1)
    return line[reach : len(line) - reach] if len(line) > 2 * reach else line


def _line_sentence(line: np.ndarray, k: int, s: int, dilation: int) -> str:
    values = sorted({int(v) for v in _inner(line, k, dilation)})
    if len(values) == 1:
        return f"even: inside, every output gets {values[0]} tap{'s' * (values[0] != 1)}"
    return f"uneven: {k} is not divisible by {s}, outputs get {_or(values, 'and')} taps in turn"


def _or(values: Sequence[int], word: str = "or") -> str:
    words = [str(v) for v in values]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {word} {words[-1]}"


def _by_value(line: np.ndarray) -> list[Any]:
    from jaxconv.figures.maps import shades

    return [shades()(0.15 + 0.75 * v / max(line.max(), 1)) for v in line]


# ------------------------------------------------------------------------------------------------------------ a network
def _of_network(field: ReceptiveField, direction: str, crop: int) -> Figure:
    from matplotlib.figure import Figure

    if direction not in ("forward", "backward"):
        raise ValueError(f"direction must be 'forward' or 'backward', got {direction!r}")
    if crop < 1:
        raise ValueError(f"crop={crop} must be at least 1")
    totals = field.totals() if direction == "forward" else field.usage()
    whole = totals if totals.ndim == 3 else as_map(totals, "overlap")
    sides = [min(crop, max(n // 2, min(n, 4))) for n in whole.shape]  # small images are mostly border
    corner = [(n - side) // 2 for n, side in zip(whole.shape, sides, strict=True)]
    middle = whole[tuple(slice(c, c + side) for c, side in zip(corner, sides, strict=True))]
    relative = middle / middle.mean() if middle.any() else middle
    maps = [] if len(whole) == 1 else maps_of(relative, "overlap")
    figure = Figure(figsize=(5.6 + 4.8 * len(maps), 4.4) if maps else (8.4, 3.6), layout="constrained")
    line_ax, *others = figure.subplots(1, 1 + len(maps), width_ratios=(1.2, *(1,) * len(maps)), squeeze=False)[0]
    row = tuple(int(r) for r in np.unravel_index(np.argmax(middle), middle.shape)[:-1])
    place = np.arange(middle.shape[-1]) + corner[-1]
    line_ax.bar(place, relative[row], 0.94, color="#3a7ca5")
    line_ax.axhline(1, color=INK, linewidth=1, linestyle="--")
    unit = "output" if direction == "forward" else "input"
    line_ax.set(xlabel=unit, ylabel="paths / their mean", ylim=(0, relative.max() * 1.12 or 1))
    at = ", ".join(str(c + r) for c, r in zip(corner, row, strict=False))
    line_ax.set_title("along the line" if len(whole) == 1 else f"along the row {at}", fontsize=11)
    style(line_ax)
    for ax, (where, drawn) in zip(others, maps, strict=True):
        mesh = counts_panel(ax, drawn, numbers=False, log=False, scale=(0, relative.max()), width=4)
        shown = f"the middle {by(middle.shape)} {unit}s of {by(whole.shape)}"
        ax.set_title(f"{shown}\n{where} of them" if where else shown, fontsize=11)
    if others:
        figure.colorbar(mesh, ax=others[-1], label="paths / their mean", shrink=0.85)
    uneven = spread(phase_means(totals, range(totals.ndim), _period(field, direction)))
    verdict = "even away from the borders" if uneven < 1e-9 else f"uneven: (max − min) / mean = {number(uneven)}"
    way = "paths into the outputs" if direction == "forward" else "paths out of the inputs (the gradient)"
    figure.suptitle(f"{way}: {verdict}", fontsize=12.5, fontweight="bold")
    return figure


def _period(field: ReceptiveField, direction: str) -> list[int]:
    """After how many pixels everything repeats: the shift that moves all layers by whole positions."""
    shifts = alignments(field.traced)
    if direction == "backward":
        return shifts
    return [max(round(shift / float(step)), 1) if step else 1 for shift, step in zip(shifts, field.stride, strict=True)]


# -------------------------------------------------------------------------------------------------------- flat images
def _of_flat_images(board: Checkerboard) -> Figure:
    from matplotlib.figure import Figure

    draws, *period, channels = board.phases.shape
    if len(period) not in (1, 2, 3):
        raise ValueError(f"overlap is drawn over one, two or three axes, the network has {len(period)}")
    axes = tuple(range(1, 1 + len(period)))
    shared = board.phases.mean(axis=axes, keepdims=True)
    part = board.phases - shared
    strength = np.sqrt((part**2).mean(axis=axes))
    draw, channel = np.unravel_index(int(np.argmax(strength)), strength.shape)
    size = float(np.sqrt((shared**2).mean())) or 1.0
    cell = as_plane(part[draw, ..., channel]) / size
    repeats = [max(1, -(-16 // n)) if n > 1 or len(period) > 1 else 1 for n in cell.shape]
    shown = np.tile(cell, repeats)
    maps = maps_of(shown, "overlap")
    flat = len(period) == 1
    figure = Figure(figsize=(7.5, 2.2) if flat else (1.6 + 4 * len(maps), 4.6), layout="constrained")
    high = max(float(np.abs(shown).max()), 1e-9)
    axes = figure.subplots(1, len(maps), squeeze=False)[0]
    for ax, (where, drawn) in zip(axes, maps, strict=True):
        image = ax.imshow(drawn, cmap="PuOr", vmin=-high, vmax=high, interpolation="nearest")
        ax.set(aspect="auto" if flat else "equal")
        ax.set(xticks=[], yticks=[])
        ax.set_title(where, fontsize=10.5)
    label = "difference from the mean, in units of the output's size"
    side: dict[str, Any] = {"location": "bottom", "aspect": 50} if flat else {"shrink": 0.9}
    figure.colorbar(image, ax=axes[-1], label=label, **side)
    _, whole = place_and_whole(len(period))
    mark = " " if flat or len(maps) > 1 else "\n"  # one map is narrower than the sentence
    said = (
        f"flat {whole}s come out with a pattern of period {by(period)}:{mark}{number(board.pattern)} beside a spread "
        f"of {number(board.spread)}\n"
        f"(of {draws} {whole}s and {channels} channel{'s' * (channels != 1)}, the strongest is drawn)"
    )
    if len(maps) > 1:
        figure.suptitle(said, fontsize=10.5)
    else:
        axes[0].set_title(said, fontsize=10.5)
    return figure
