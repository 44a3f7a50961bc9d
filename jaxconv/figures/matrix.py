"""The matrix of a convolution and of its transpose as pictures, and the connections that they stand for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxconv.figures.grid import INK, draw_grid, ink_on, number, tap_colours
from jaxconv.linear import ConvOperator
from jaxconv.linear.matrix import axis_tables, entries_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_SIDE = 1024


def matrix_pair(operator: ConvOperator, *, show_values: bool | None = None) -> Figure:
    """Draw the matrix C of a convolution beside its transpose, every entry in the colour of its kernel tap.

    Equal colours are equal weights: along a row of C the kernel lies spread out, from row to row it moves by the
    stride; in C^T the same happens along the columns.

    Args:
        operator: the convolution; neither side of its matrix above 1024.
        show_values: write the weights into the entries; by default where the larger side is at most 20.

    Returns:
        matplotlib Figure: the kernel with its colours, C (rows are outputs) and C^T (rows are inputs).

    Raises:
        ValueError: a matrix too large to be looked at.

    Example:
        >>> import jax.numpy as jnp, jaxconv as jc
        >>> A = jc.ConvOperator(jnp.arange(1.0, 10.0).reshape(3, 3, 1, 1), (4, 4))
        >>> len(matrix_pair(A).axes)
        3

    Source: Dumoulin and Visin 2016 (arXiv:1603.07285), section 4.1, as a picture.
    """
    from matplotlib.figure import Figure

    rows, columns = operator.shape
    if max(rows, columns) > MAX_SIDE:
        raise ValueError(
            f"the matrix is {rows} x {columns}; more than {MAX_SIDE} on a side cannot be read, take a smaller input"
        )
    g, w = operator.geometry, np.asarray(operator.w)
    pattern = entries_of(g, w.shape[-2], w.shape[-1])
    row, column = pattern.rows(), pattern.column
    # Each weight has its colour; with channels that is a weight per (tap, i, o), otherwise simply per tap.
    colours = tap_colours(math.prod(w.shape))
    show_values = max(rows, columns) <= 20 if show_values is None else show_values
    both = rows + columns
    figure = Figure(figsize=(2.2 + 9.6, 1.3 + 9.0 * max(rows, columns) / both), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=[0.2 * both, columns, rows])
    _kernel_key(axes[0], w, colours)
    for ax, r, c, shape, name in (
        (axes[1], row, column, (rows, columns), f"C   ({rows} outputs × {columns} inputs)"),
        (axes[2], column, row, (columns, rows), f"Cᵀ   ({columns} × {rows})"),
    ):
        _entries(ax, r, c, shape, [colours[t] for t in pattern.tap])
        ax.set_title(name, fontsize=13)
        if show_values:
            for i, j, t in zip(r, c, pattern.tap, strict=True):
                ax.text(j, i, number(w.ravel()[t]), ha="center", va="center", fontsize=9, color=ink_on(colours[t]))
    axes[1].set(xlabel="input element", ylabel="output element")
    axes[2].set(xlabel="output element", ylabel="input element")
    figure.suptitle(_describe(operator), fontsize=11)
    return figure


def _entries(ax: Axes, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int], colours: list[Any]) -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.ticker import MaxNLocator

    image = np.ones((*shape, 3))
    image[rows, columns] = [to_rgb(c) for c in colours]
    ax.imshow(image, interpolation="nearest", aspect="equal")
    if max(shape) <= 64:
        ax.set_xticks(np.arange(-0.5, shape[1]), minor=True)
        ax.set_yticks(np.arange(-0.5, shape[0]), minor=True)
        ax.grid(which="minor", color="#dee2e6", linewidth=0.6)
    ax.tick_params(which="minor", length=0)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))


def _kernel_key(ax: Axes, w: np.ndarray, colours: list[Any]) -> None:
    """The kernel as a grid of its taps' colours, one row of the grid per kernel row; channels below each other."""
    taps = w.shape[:-2]
    last = taps[-1]
    index = np.arange(w.size).reshape(-1, w.shape[-2], w.shape[-1])
    blocks = [index[:, i, o].reshape(-1, last) for o in range(w.shape[-1]) for i in range(w.shape[-2])][:6]
    plane = np.concatenate(blocks)
    cells = np.empty(plane.shape, object)
    for place, t in np.ndenumerate(plane):
        cells[place] = colours[t]
    texts = [[number(w.ravel()[t]) if plane.size <= 36 else "" for t in line] for line in plane]
    draw_grid(ax, cells, texts, size=10)
    shown = "" if len(blocks) == w.shape[-1] * w.shape[-2] else " (first 6 channel pairs)"
    ax.set_title(f"kernel w{shown}", fontsize=13)


def fan(operator: ConvOperator, *, axis: int = 0, output: int | None = None) -> Figure:
    """Draw along one axis who is connected to whom: many inputs to one output, and in the transpose one to many.

    Args:
        operator: the convolution; at most 40 elements along the axis.
        axis: spatial axis to draw.
        output: output element to pick out; the middle one by default.

    Returns:
        matplotlib Figure: on the left the convolution with one output's inputs, on the right the transpose with where
        that element goes.

    Raises:
        ValueError: an axis that is too long to be drawn, or an output that does not exist.

    Example:
        >>> import jax.numpy as jnp, jaxconv as jc
        >>> len(fan(jc.ConvOperator(jnp.ones((3, 1, 1)), 9, stride=2, padding=1)).axes)
        2
    """
    from matplotlib.figure import Figure

    g = operator.geometry
    n, m, k = g.input_size[axis], g.output_size[axis], g.kernel_size[axis]
    if max(n, m) > 40:
        raise ValueError(
            f"axis {axis} has {n} inputs and {m} outputs; more than 40 cannot be told apart, take a smaller input"
        )
    output = m // 2 if output is None else output
    if not 0 <= output < m:
        raise ValueError(f"output={output} must be in 0..{m - 1}")
    table, colours = axis_tables(g)[axis], tap_colours(k)
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    scale = (max(n, m) - 1) or 1
    xs, ys = (np.linspace(0, scale, count) if count > 1 else np.array([scale / 2]) for count in (n, m))
    reads = sorted({int(u) for u in table[output] if u >= 0})
    titles = (
        f"convolution: many to one   (y[{output}] reads {len(reads)} elements of x)",
        f"transpose: one to many   (y[{output}] writes {len(reads)} elements of x)",
    )
    for ax, title, flow in ((left, titles[0], "up"), (right, titles[1], "down")):
        _draw_fan(ax, table, colours, xs, ys, output, flow)
        ax.set_title(title, fontsize=12)
    handles = [_line(colours[t], f"w[{t}]") for t in range(k)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(k, 10), frameon=False)
    figure.suptitle(_describe(operator, axis), fontsize=11)
    return figure


def _line(colour: Any, label: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, linewidth=3, label=label)


def _draw_fan(
    ax: Axes, table: np.ndarray, colours: list[Any], xs: np.ndarray, ys: np.ndarray, output: int, flow: str
) -> None:
    for (q, t), u in np.ndenumerate(table):
        if u < 0:
            continue
        start, end = ((xs[u], 0.06), (ys[q], 0.94)) if flow == "up" else ((ys[q], 0.94), (xs[u], 0.06))
        if q == output:
            style = {"arrowstyle": "-|>", "color": colours[t], "linewidth": 2.8, "mutation_scale": 16}
        else:
            style = {"arrowstyle": "-", "color": colours[t], "linewidth": 1.3, "alpha": 0.45}
        ax.annotate("", xy=end, xytext=start, arrowprops=style, zorder=3 if q == output else 1)
    touched = set(table[output].tolist())
    size = float(np.clip(3600 / max(len(xs), len(ys)), 90, 420))
    for places, level, name, marked in ((xs, 0, "x", touched), (ys, 1, "y", {output})):
        face = ["#212529" if i in marked else "#dee2e6" for i in range(len(places))]
        ax.scatter(places, [level] * len(places), s=size, c=face, zorder=4, edgecolors="#495057")
        for i, place in enumerate(places):
            colour = "white" if i in marked else INK
            ax.text(place, level, str(i), ha="center", va="center", fontsize=9, color=colour, zorder=5)
        ax.text(-0.9, level, name, ha="right", va="center", fontsize=14, style="italic")
    ax.set_xlim(-1.4, max(xs[-1], ys[-1]) + 0.6)
    ax.set_ylim(-0.18, 1.18)
    ax.axis("off")


def _describe(operator: ConvOperator, axis: int | None = None) -> str:
    g = operator.geometry
    pick = (lambda v: v) if axis is None else (lambda v: v[axis])
    words = [
        f"kernel {pick(g.kernel_size)}",
        f"stride {pick(g.stride)}",
        f"dilation {pick(g.dilation)}",
        f"pads {pick(g.pads)}",
    ]
    if g.groups > 1:
        words.append(f"groups {g.groups}")
    if g.padding_mode != "zeros":
        words.append(g.padding_mode)
    return f"input {pick(g.input_size)} → output {pick(g.output_size)}:  " + ",  ".join(words)
