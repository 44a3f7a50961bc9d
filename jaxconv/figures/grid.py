"""Grids of coloured cells with numbers in them: what the small-case figures are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jax.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# One meaning each, in every figure. Chosen to differ in lightness too.
INPUT = "#8ecae6"
OUTPUT = "#95d5b2"
KERNEL = "#ffb703"
ZERO = "#e9ecef"
PAD = "#ced4da"
EXTRA = "#d0a5e8"
CURRENT = "#fb8500"
EMPTY = "#ffffff"
INK = "#212529"
_TAPS = ["#e63946", "#f4a261", "#e9c46a", "#90be6d", "#2a9d8f", "#48cae4", "#4361ee", "#9d4edd", "#f72585"]


def tap_colours(count: int) -> list[Any]:
    """One colour per tap of a kernel, neighbours well apart."""
    import matplotlib

    if count <= len(_TAPS):
        last = len(_TAPS) - 1 if count == len(_TAPS) else len(_TAPS) - 2  # first and last look alike from afar
        return [_TAPS[round(i * last / max(count - 1, 1))] for i in range(count)]
    return [matplotlib.colormaps["turbo"](v) for v in np.linspace(0.03, 0.97, count)]


def ink_on(colour: Any) -> str:
    """Black or white, whichever can be read on a colour."""
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(colour)
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def number(value: Any) -> str:
    """A short decimal: integers without a point, others with two significant digits."""
    value = float(value)
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e4 else f"{value:.2g}"


def as_plane(a: ArrayLike) -> np.ndarray:
    """A 1-D or 2-D array as rows and columns."""
    a = np.asarray(a)
    return a[None] if a.ndim == 1 else a


def draw_grid(
    ax: Axes, colours: np.ndarray, texts: Any = None, *, size: float = 11, title: str | None = None
) -> dict[str, Any]:
    """Draw a grid of cells and return its artists, so that an animation can change them.

    Args:
        ax: matplotlib axes.
        colours: (rows, columns) object array of colours.
        texts: (rows, columns) array of strings, or None.
        size: font size in points.
        title: line above the grid.

    Returns:
        {"cells": array of rectangles, "texts": array of texts}.
    """
    from matplotlib.patches import Rectangle

    rows, columns = colours.shape
    cells, labels = np.empty((rows, columns), object), np.empty((rows, columns), object)
    for r in range(rows):
        for c in range(columns):
            cells[r, c] = ax.add_patch(
                Rectangle((c, r), 1, 1, facecolor=colours[r, c], edgecolor="#6c757d", linewidth=0.8)
            )
            text = "" if texts is None else texts[r][c]
            labels[r, c] = ax.text(
                c + 0.5, r + 0.5, text, ha="center", va="center", fontsize=size, color=ink_on(colours[r, c])
            )
    ax.set_xlim(-0.1, columns + 0.1)
    ax.set_ylim(rows + 0.1, -0.1)
    ax.set_aspect("equal")
    ax.axis("off")
    if title:
        ax.set_title(title, fontsize=12)
    return {"cells": cells, "texts": labels}


def legend(ax: Axes | Figure, entries: dict[str, str], **kwargs: Any) -> None:
    """A legend of filled squares: {meaning: colour}."""
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=colour, edgecolor="#6c757d", label=name) for name, colour in entries.items()]
    ax.legend(handles=handles, frameon=False, **kwargs)
