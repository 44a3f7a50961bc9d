"""Maps of counts: the panel that the receptive-field, gridding and overlap figures share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.typing import ArrayLike

from jaxconv.figures.grid import CURRENT, INK, ink_on, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

HOLE = "#ffffff"
TALLEST = 9.0  # inches of a figure
NUMBERS_UP_TO = 24  # cells on a side
LEGIBLE = 5.5  # points


def shades() -> Any:
    """Light to dark with the count, so that it reads the same in grey; nothing in it is as light as a hole."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps["YlGnBu"](np.linspace(0.18, 0.95, 256)), name="counts")


def as_map(counts: ArrayLike, what: str) -> np.ndarray:
    """Counts of rank 1 or 2 as rows and columns."""
    counts = np.asarray(counts)
    if counts.ndim not in (1, 2):
        raise ValueError(
            f"{what} are drawn over one or two axes, got counts of shape {counts.shape}; pass a slice or a sum of them"
        )
    if counts.size == 0:
        raise ValueError(f"{what}: there is nothing to draw, the output reads no position of the input")
    return np.asarray(counts[None] if counts.ndim == 1 else counts, np.float64)


def counts_panel(
    ax: Axes,
    counts: np.ndarray,
    *,
    numbers: bool | None = None,
    mark: tuple[float, float] | None = None,
    scale: tuple[float, float] | None = None,
    log: bool = True,
    width: float = 4.0,
) -> ScalarMappable:
    """Draw a map of counts: darker is more often, white and hatched is never.

    Args:
        ax: matplotlib axes.
        counts: (rows, columns).
        numbers: write the counts into the cells; None for where they can be read (5.5 points).
        mark: (row, column) of a cell to outline.
        scale: smallest and largest value of the colours; those above zero by default.
        log: colours by the logarithm of the count.
        width: width of the panel in inches, for the size of the type.

    Returns:
        The cells as a mesh, or an image where they are many; its array holds the counts, masked where they are zero.
    """
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.patches import Rectangle

    rows, columns = counts.shape
    shown = np.ma.masked_equal(counts, 0)
    low, high = scale or (float(shown.min()), float(shown.max()))
    if high <= low:
        low, high = (low / 4, high * 4) if log else (0.0, high * 2)  # one value: a middle shade
    norm = LogNorm(low, max(high, low * 1.001)) if log else Normalize(low, max(high, low + 1e-9))
    small = max(rows, columns) <= NUMBERS_UP_TO
    if small:
        look: dict[str, Any] = {"edgecolors": "#ffffff", "linewidth": 0.6}
        mesh: ScalarMappable = ax.pcolormesh(shown, cmap=shades(), norm=norm, rasterized=True, **look)
    else:  # an image is drawn many times faster than as many cells
        extent = (0, columns, rows, 0)
        mesh = ax.imshow(shown, cmap=shades(), norm=norm, interpolation="nearest", extent=extent)
    ax.set_facecolor(HOLE)
    if small:
        for row, column in zip(*np.nonzero(counts == 0), strict=True):
            ax.add_patch(
                Rectangle((column, row), 1, 1, facecolor=HOLE, edgecolor="#c3c9cf", hatch="///", linewidth=0, zorder=1)
            )
    longest = max(len(number(v)) for v in counts.ravel()) if small or numbers else 1
    size = min(0.62 * 72 * width / max(rows, columns) / max(longest * 0.62, 1.0), 13)
    if numbers or (numbers is None and small and size >= LEGIBLE):
        for (row, column), value in np.ndenumerate(counts):
            if value:
                ax.text(
                    column + 0.5, row + 0.5, number(value), ha="center", va="center", fontsize=size,
                    color=ink_on(mesh.cmap(mesh.norm(value))[:3]), in_layout=False,
                )  # fmt: skip
    if mark is not None:
        row, column = mark
        ax.add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor=CURRENT, linewidth=2.4, zorder=5))
    # A line of cells is drawn as high as its panel.
    ax.set(aspect="equal" if rows > 1 else "auto", xticks=[], yticks=[], xlim=(0, columns), ylim=(rows, 0))
    for side in ax.spines.values():
        side.set(color="#adb5bd", linewidth=0.8)
    return mesh


def roomy() -> Any:
    """A layout with room between panels whose titles have two lines."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.12)


def by(shape: Iterable[float]) -> str:
    """A size as people write it: 13×13."""
    return "×".join(str(int(n)) for n in shape)


def style(ax: Axes) -> None:
    """The look of a plot with axes: no box, faint grid."""
    ax.grid(alpha=0.25)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.tick_params(labelsize=9, colors=INK)
