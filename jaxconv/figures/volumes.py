"""Fields over three axes: the three planes through the middle, as a reader of volumes looks at them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxconv.analysis import ReceptiveField
from jaxconv.figures.grid import CURRENT
from jaxconv.figures.maps import as_map, counts_panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = 4.2


def planes(array: np.ndarray, at: Sequence[int]) -> Iterator[tuple[int, tuple[int, int], np.ndarray]]:
    """Per axis of an array (depth, height, width, ...): the axis, the other two, and the plane at `at` on that axis.

    >>> [(axis, kept, plane.shape) for axis, kept, plane in planes(np.zeros((2, 3, 4)), (0, 1, 2))]
    [(0, (1, 2), (3, 4)), (1, (0, 2), (2, 4)), (2, (0, 1), (2, 3))]
    """
    for axis in range(3):
        first, second = (a for a in range(3) if a != axis)
        yield axis, (first, second), array.take(at[axis], axis=axis)


def middle_of(box: Sequence[slice]) -> tuple[int, ...]:
    """The position in the middle of a box."""
    return tuple((s.start + max(s.stop - 1, s.start)) // 2 for s in box)


def maps_of(counts: np.ndarray, what: str) -> list[tuple[str, np.ndarray]]:
    """Counts over one or two axes as one map; over three, the planes through what is used nearest to the middle (the
    middle itself where nothing is).

    >>> [(where, plane.shape) for where, plane in maps_of(np.ones((3, 5, 7)), "counts")]
    [('axis 0 at 1', (5, 7)), ('axis 1 at 2', (3, 7)), ('axis 2 at 3', (3, 5))]
    """
    if counts.ndim != 3 or not counts.size:
        return [("", as_map(counts, what))]
    used = np.argwhere(counts if counts.any() else np.ones_like(counts))
    at = used[np.argmin(np.abs(2 * used - np.asarray(counts.shape) + 1).sum(axis=1))].tolist()
    return [(f"axis {a} at {at[a]}", plane.astype(np.float64)) for a, _, plane in planes(counts, at)]


def count_planes(counts: np.ndarray, mark: Sequence[float] | None, numbers: bool | None, title: str) -> Figure:
    """A map of counts for each plane through the marked position (the middle where there is none)."""
    at = tuple(n // 2 for n in counts.shape) if mark is None else tuple(int(m) for m in mark)
    figure, panels = _figure(title)
    scale = (float(counts[counts > 0].min()), float(counts.max()))
    for ax, (axis, kept, plane) in zip(panels, planes(counts, at), strict=True):
        cell = None if mark is None else (float(at[kept[0]]), float(at[kept[1]]))
        counts_panel(ax, plane.astype(np.float64), numbers=numbers, mark=cell, scale=scale, width=PANEL)
        _named(ax, axis, kept, f"{at[axis]} of the field")
    return figure


def field_planes(field: Any, index: tuple[int, ...], mask: np.ndarray, box: Sequence[slice], title: str) -> Figure:
    """What is read, the box around it and the nominal box, in each plane through the middle of what is read."""
    from matplotlib.patches import Rectangle

    at = middle_of(box)
    spans = [(s.start, s.stop) for s in box]
    figure, panels = _figure(title)
    handles: list[Any] = []
    for ax, (axis, kept, plane) in zip(panels, planes(mask, at), strict=True):
        ax.imshow(np.where(plane[..., None], (0.25, 0.58, 0.65), (0.93, 0.93, 0.93)), interpolation="nearest")
        boxes = [("read", [spans[a] for a in kept], "#00798c", "-")]
        if isinstance(field, ReceptiveField):
            own = field.extent(index)
            boxes.append(("nominal, without borders", [own[a] for a in kept], "#edae49", "--"))
        handles = []
        for label, ((top, bottom), (left, right)), colour, line in boxes:
            corner, sides = (left - 0.5, top - 0.5), (right - left, bottom - top)
            look: dict[str, Any] = {"edgecolor": colour, "linestyle": line, "linewidth": 2, "label": label}
            handles.append(ax.add_patch(Rectangle(corner, *sides, fill=False, **look)))
        (cross,) = ax.plot(at[kept[1]], at[kept[0]], "+", color=CURRENT, markersize=11, markeredgewidth=2)
        cross.set_label("the middle of what is read")
        handles.append(cross)
        ax.set(xticks=[], yticks=[])
        _named(ax, axis, kept, str(at[axis]))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def energy_planes(energy: np.ndarray, box: Sequence[slice] | None, decades: float, title: str) -> Figure:
    """Gradient energy summed along each axis in turn, on one logarithmic scale, with the theoretical box."""
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    figure, panels = _figure(title)
    sums = [energy.sum(axis=a) for a in range(3)]
    peak = max(float(s.max()) for s in sums)
    norm = LogNorm(peak * 10**-decades, peak, clip=True)
    for axis, (ax, plane) in enumerate(zip(panels, sums, strict=True)):
        kept = tuple(a for a in range(3) if a != axis)
        shown = ax.imshow(np.maximum(plane, peak * 10**-decades), norm=norm, cmap="magma", interpolation="nearest")
        if box is not None:
            rows, columns = (box[a] for a in kept)
            corner = (columns.start - 0.5, rows.start - 0.5)
            sides = (columns.stop - columns.start, rows.stop - rows.start)
            ax.add_patch(Rectangle(corner, *sides, fill=False, edgecolor="#edae49", linestyle="--", linewidth=1.8))
        ax.set(xticks=[], yticks=[], facecolor="black")
        ax.set_title(f"summed over axis {axis}", fontsize=10.5)
        ax.set(xlabel=f"axis {kept[1]}", ylabel=f"axis {kept[0]}")
    figure.colorbar(shown, ax=list(panels), label="share of the gradient energy", shrink=0.8)
    return figure


def _figure(title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * PANEL, PANEL + 0.9), layout="constrained")
    figure.suptitle(title, fontsize=12)
    return figure, figure.subplots(1, 3)


def _named(ax: Axes, axis: int, kept: tuple[int, int], place: str) -> None:
    ax.set_title(f"axis {axis} at {place}", fontsize=10.5)
    ax.set(xlabel=f"axis {kept[1]}", ylabel=f"axis {kept[0]}")
