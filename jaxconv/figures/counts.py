"""How often an output uses each pixel of its receptive field, with the numbers; and how holes open and close."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxconv._text import place_and_whole, unparsed
from jaxconv.analysis import (
    Gridding,
    RateCheck,
    ReceptiveField,
    check_rates,
    gridding as find_gridding,
    receptive_field as find_field,
)
from jaxconv.analysis.dilation.gridding import LayerGridding
from jaxconv.figures.maps import TALLEST, as_map, by, counts_panel, roomy
from jaxconv.figures.volumes import count_planes, maps_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def usage_counts(
    what: Any,
    *args: Any,
    index: int | Sequence[int] | None = None,
    numbers: bool | None = None,
    title: str | None = None,
) -> Figure:
    """Draw how many paths lead from each pixel of a receptive field to the output, with the numbers in the cells.

    Args:
        what: a dilation schedule such as [2, 2, 2] (of 3x3 kernels), a result of `analysis.check_rates`,
            `receptive_field` or `gridding`, an array of counts, or a function, whose arguments follow.
        *args: the function's arguments, the image (or its shape) first.
        index: spatial index of the output, for a function or its receptive field; in the middle by default.
        numbers: write the counts into the cells; None for where they can be read.
        title: a line instead of the one that says the size and how much is used.

    Returns:
        matplotlib Figure: darker cells are used more often, hatched ones never; the pixel under the output is outlined.
        Over three axes, the three planes through that position.

    Raises:
        ValueError: counts over more than three axes, or an output that reads nothing.

    Example:
        >>> usage_counts([2, 2, 2]).axes[0].get_title()
        '13×13 pixels seen, 49 of 169 used'

    Source: Wang et al., "Understanding convolution for semantic segmentation" (2018), figure 3.
    """
    from matplotlib.figure import Figure

    raw, mark = _counts(what, args, index)
    place, _ = place_and_whole(raw.ndim)
    if raw.ndim == 3 and raw.any():
        return count_planes(raw, mark, numbers, title or _sentence(raw, place))
    counts = as_map(raw, "usage counts")
    rows, columns = counts.shape
    width = 5.2
    flat = raw.ndim == 1
    height = 1.9 if flat else min(max(width * rows / columns, 0.5), TALLEST) + 0.8
    wide = 7.5 if flat else width + (1.1 if max(rows, columns) > 24 else 0.3)
    figure = Figure(figsize=(wide, height), layout="constrained")
    ax = figure.subplots()
    mesh = counts_panel(ax, counts, numbers=numbers, mark=mark, width=width)
    if width * rows / columns > TALLEST:
        ax.set_aspect("auto")  # a strip of pixels is drawn wider than it is
    ax.set_title(title or _sentence(raw, place), fontsize=12)
    if max(rows, columns) > 24:
        side: dict[str, Any] = {"location": "bottom", "aspect": 50} if flat else {"shrink": 0.9}
        figure.colorbar(mesh, ax=ax, label=f"paths from this {place} to the output", **side)
    return figure


def _sentence(counts: np.ndarray, place: str) -> str:
    used, total = np.count_nonzero(counts), counts.size
    return f"{by(counts.shape)} {place}s seen, {'all' if used == total else f'{used} of {total}'} used"


def _counts(what: Any, args: Sequence[Any], index: Any) -> tuple[np.ndarray, tuple[float, float] | None]:
    """The counts that something stands for, and the cell under the output."""
    if isinstance(what, (list, tuple)):
        what = check_rates(what)
    if isinstance(what, RateCheck):
        return _centred(what.counts_nd(2).astype(np.float64))
    if isinstance(what, Gridding):
        what = what.output
    if isinstance(what, LayerGridding):
        return what.counts, None
    if isinstance(what, np.ndarray):
        return _centred(what)
    field = what if isinstance(what, ReceptiveField) else find_field(what, *args, method="jaxpr")
    at = field.central_index if index is None else index
    box = field.box(at)
    counts = field.counts(at)[box]
    own = [(low + high - 1) / 2 - b.start for (low, high), b in zip(field.extent(at), box, strict=True)]
    inside = all(0 <= o < n for o, n in zip(own, counts.shape, strict=True))
    mark = tuple(float(np.floor(o)) for o in own) if inside else None
    return counts, None if mark is None else (mark if len(mark) > 1 else (0.0, *mark))  # type: ignore[return-value]


def _centred(counts: np.ndarray) -> tuple[np.ndarray, tuple[float, float] | None]:
    middle = tuple(float(n // 2) for n in counts.shape)
    if any(n % 2 == 0 for n in counts.shape) or len(middle) > 3:
        return counts, None
    return counts, middle if len(middle) > 1 else (0.0, *middle)  # type: ignore[return-value]


# -------------------------------------------------------------------------------------------------------- side by side
def gridding(
    *schedules: Any,
    args: Sequence[Any] = (),
    labels: Sequence[str] | None = None,
    along: bool = True,
    columns: int = 6,
    kernel_size: int = 3,
) -> Figure:
    """Compare what dilation schedules or networks use of their receptive fields, layer by layer.

    Args:
        *schedules: each a schedule such as [2, 2, 2], a result of `analysis.check_rates` or `analysis.gridding`, or a
            function of `args`; one row each.
        args: the arguments of functions.
        labels: a name for each row.
        along: also draw what the layers on the way see, not only the output.
        columns: at most so many panels in a row; the output, and what opens or closes holes, go first.
        kernel_size: of schedules given as plain numbers.

    Returns:
        matplotlib Figure: a map for each layer, with how much of its field is used; hatched cells are never used. Of
        a field over three axes, the three planes through its middle, below each other.

    Raises:
        ValueError: no schedule, a number of labels that does not fit, or a field over more than three axes.

    Example:
        >>> figure = gridding([2, 2, 2], [1, 2, 3])
        >>> [ax.get_title().split(": ")[1] for ax in figure.axes]
        ['9 of 25', '25 of 81', '49 of 169', 'all 9', 'all 49', 'all 169']

    Source: Wang et al. (2018), figures 2 and 3; Yu et al., "Dilated residual networks" (2017), figure 5.
    """
    from matplotlib.figure import Figure

    if not schedules:
        raise ValueError("give at least one schedule, such as [2, 2, 2], or a function and args=")
    if labels is not None and len(labels) != len(schedules):
        raise ValueError(f"{len(labels)} labels for {len(schedules)} schedules")
    if columns < 1:
        raise ValueError(f"columns={columns} must be at least 1")
    rows = []
    for i, schedule in enumerate(schedules):
        label, steps = _steps(schedule, args, kernel_size)
        steps = _chosen(steps, columns) if along else steps[-1:]
        rows.append((labels[i] if labels is not None else label, steps))
    wide = max(len(steps) for _, steps in rows)
    unit = 3.2 if wide <= 3 else 2.5
    if not along:
        return _only_last(Figure, [(label, steps[-1]) for label, steps in rows])
    high = [max(3 if counts.ndim == 3 else 1 for _, counts in steps) for _, steps in rows]
    tall = 1.6 if all(counts.ndim == 1 for _, steps in rows for _, counts in steps) else unit + 0.7
    figure = Figure(figsize=(unit * wide + 0.8, tall * sum(high)), layout=roomy())
    grid = iter(figure.subplots(sum(high), wide, squeeze=False))
    for (label, steps), lines in zip(rows, high, strict=True):
        block = np.asarray([next(grid) for _ in range(lines)])
        for column, (name, counts) in zip(block.T, steps, strict=False):
            _stacked(column, name, counts, unit, 10)
        for ax in block[:, len(steps) :].ravel():
            ax.axis("off")
        used = np.count_nonzero(steps[-1][1]) / steps[-1][1].size
        said = f"{label}\n{used:.0%} of the field is used" if tall > 2 else f"{label}\n{used:.0%} used"
        block[0, 0].set_ylabel(said, fontsize=11 if tall > 2 else 9, labelpad=8)
    return figure


def _stacked(axes: Sequence[Axes], name: str, counts: np.ndarray, width: float, size: float) -> None:
    """A layer's map, or the planes of a volume below each other, in one scale of colours."""
    maps = maps_of(counts, "gridding")
    scale = (float(counts[counts > 0].min()), float(counts.max())) if len(maps) > 1 and counts.any() else None
    for ax, (where, plane) in zip(axes, maps, strict=False):
        counts_panel(ax, plane, scale=scale, width=width)
        said = [_share(unparsed(name), counts)] if ax is axes[0] else []
        ax.set_title("\n".join([*said, where] if where else said), fontsize=size)
    for ax in axes[len(maps) :]:
        ax.axis("off")


def _only_last(figure_class: type[Figure], rows: list[tuple[str, Any]]) -> Figure:
    high = max(3 if counts.ndim == 3 else 1 for _, (_, counts) in rows)
    figure = figure_class(figsize=(4.6 * len(rows), 5.2 * high), layout=roomy())
    for column, (label, (_, counts)) in zip(figure.subplots(high, len(rows), squeeze=False).T, rows, strict=True):
        _stacked(column, label, counts, 4.4, 12)
    return figure


def _share(name: str, counts: np.ndarray) -> str:
    used, total = np.count_nonzero(counts), counts.size
    return f"{name}\n{by(counts.shape)}: {'all' if used == total else f'{used} of'} {total}"


def _steps(what: Any, args: Sequence[Any], kernel_size: int) -> tuple[str, list[tuple[str, np.ndarray]]]:
    """A label, and (name, counts) of what is seen after each layer."""
    if isinstance(what, (list, tuple)):
        what = check_rates(what, kernel_size)
    if isinstance(what, RateCheck):
        steps = []
        for n in range(1, len(what.rates) + 1):
            part = check_rates(what.rates[:n], what.kernel_size[:n], strides=what.strides[:n])
            steps.append((f"rate{'s' * (n > 1)} {_listed(what.rates[:n])}", part.counts_nd(2).astype(np.float64)))
        return f"rates {_listed(what.rates)}", steps
    found = what if isinstance(what, Gridding) else find_gridding(what, *args)
    steps, before = [], None
    for number, layer in enumerate((*found.layers, found.output)):
        seen = (layer.size, round(layer.coverage, 9))
        doing = " opens holes" if layer.opens else " closes holes" if layer.closes else ""
        # A layer that sees what the one before saw (1x1, normalised, ...) has nothing to show.
        if seen != before or doing:
            name = "output" if layer is found.output else f"{number + 1} {_short(layer.place or layer.name)}{doing}"
            steps.append((name, layer.counts))
        elif layer is found.output:
            steps[-1] = ("output", layer.counts)
        before = seen
    return "the network", steps


def _short(place: str) -> str:
    return place if len(place) <= 22 else "…" + place[-21:]


def _listed(rates: Sequence[int | tuple[int, ...]]) -> str:
    return ", ".join(f"({_listed(r)})" if isinstance(r, tuple) else str(r) for r in rates)


def _chosen(steps: list[tuple[str, np.ndarray]], most: int) -> list[tuple[str, np.ndarray]]:
    """At most so many, in order: the last, those that do something to holes, then evenly spaced ones."""
    if len(steps) <= most:
        return steps
    kept = [len(steps) - 1]
    kept += [i for i, (name, _) in enumerate(steps) if name.endswith(" holes") and i not in kept]
    kept += [int(i) for i in np.linspace(0, len(steps) - 1, most) if int(i) not in kept]
    return [steps[i] for i in sorted(kept[:most])]
