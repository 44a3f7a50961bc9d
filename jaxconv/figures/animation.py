"""A convolution and its transpose as animations, frame by frame from the user's own geometry."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxconv.figures.from_network import layer_operator
from jaxconv.figures.grid import CURRENT, EMPTY, EXTRA, INPUT, KERNEL, OUTPUT, PAD, ZERO, draw_grid, legend
from jaxconv.geometry import ConvGeometry
from jaxconv.linear import ConvOperator, LinearOperator, Transposed
from jaxconv.padding import source_positions

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation

MAX_SIDE = 24


def animate(
    operator: LinearOperator | Callable[..., Any],
    path: str | Path | None = None,
    *,
    fps: int = 4,
    max_frames: int = 100,
    args: Sequence[Any] = (),
    layer: int = 0,
) -> FuncAnimation:
    """Animate a convolution, or its transpose, one output element per frame, with the sum of each element written out.

    For a convolution the window slides over the padded input: dilated taps stay apart, circular, reflected and
    replicated borders show which element they copy. For a transpose (pass ``A.T``) the window slides at stride 1 over y
    with its inserted zeros and pads, output_padding in a colour of its own; cropped rows (negative pads) stay visible,
    struck out.

    Args:
        operator: a `ConvOperator` of rank 1 or 2, or the transpose of one; at most 24 elements on a side. Channels are
            not drawn. With `args`, a function or module (Flax NNX, or a closure over a Linen one's `apply`), of which
            one layer is drawn.
        path: where to save it; the suffix decides (".gif" needs Pillow).
        fps: frames per second.
        max_frames: outputs to show, in row-major order.
        args: the arguments of a function, a small image (or its shape) first.
        layer: which of its convolutions and transposed convolutions, in order.

    Returns:
        matplotlib.animation.FuncAnimation; `IPython.display.HTML(animation.to_jshtml())` plays it in a notebook.

    Raises:
        ValueError: a rank above 2, a grid too large to be read, or a layer that the function does not have.
        TypeError: an operator that is neither a convolution nor the transpose of one.

    Example:
        >>> import jax.numpy as jnp, jaxconv as jc
        >>> A = jc.ConvOperator(jnp.ones((3, 3, 1, 1)), (5, 5), stride=2, padding=1)
        >>> "<img" in animate(A.T, max_frames=2).to_jshtml()  # or animate(A.T, "transpose.gif")
        True

    Source: after the convolution arithmetic animations of Dumoulin and Visin 2016 (arXiv:1603.07285).
    """
    from matplotlib.animation import FuncAnimation
    from matplotlib.figure import Figure

    scene = _scene(layer_operator(operator, args, layer) if args and callable(operator) else operator)
    (rows, columns), (out_rows, out_columns) = scene.colours.shape, scene.result
    if max(rows, columns, out_rows, out_columns) > MAX_SIDE:
        raise ValueError(
            f"the grids are {scene.colours.shape} and {scene.result}; more than {MAX_SIDE} on a side cannot be read"
        )
    unit = min(0.55, 11 / (columns + out_columns))
    height = unit * max(rows, out_rows) + 2.0
    figure = Figure(figsize=(max(unit * (columns + out_columns) + 1.2, 8.5), height), dpi=90, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[columns, out_columns])
    inputs = draw_grid(left, scene.colours, scene.texts, size=9, title=scene.titles[0])
    blank = np.full(scene.result, EMPTY, object)
    outputs = draw_grid(right, blank, size=9, title=scene.titles[1])
    legend(figure, scene.meanings, loc="outside upper center", ncols=7, fontsize=9, title=scene.caption)
    formula = figure.supxlabel(" ", fontsize=11)
    places = list(np.ndindex(*scene.result))[:max_frames]

    def draw(index: int) -> list[Any]:
        for (r, c), cell in np.ndenumerate(inputs["cells"]):
            cell.set(facecolor=scene.colours[r, c], edgecolor="#6c757d", linewidth=0.8, zorder=1)
        done = {place: OUTPUT for place in places[:index]} | {places[index]: CURRENT}
        for place, cell in np.ndenumerate(outputs["cells"]):
            cell.set_facecolor(done.get(place, EMPTY))
        for r, c in scene.window(places[index]):
            read = scene.colours[r, c] if scene.colours[r, c] != ZERO else EMPTY
            cell = inputs["cells"][r, c]
            cell.set(facecolor=KERNEL if scene.names.get((r, c)) else read, edgecolor=CURRENT, linewidth=2.4, zorder=3)
        formula.set_text(scene.formula(places[index]))
        return []

    draw(0)
    animation = FuncAnimation(figure, draw, frames=len(places), interval=1000 / fps)
    if path is not None:
        writer = "pillow" if str(path).lower().endswith(".gif") else None
        animation.save(str(path), writer=writer, fps=fps)
    return animation


@dataclasses.dataclass(frozen=True)
class _Scene:
    """What a frame needs to know, the same for both directions."""

    colours: np.ndarray  # of the grid that the window slides over
    texts: list[list[str]]
    names: dict[tuple[int, int], str]  # the element that stands in a cell, where there is one
    result: tuple[int, int]
    first: tuple[int, int]  # where the window of the first output starts; cropped cells lie before it
    step: tuple[int, int]
    dilation: tuple[int, int]
    kernel: tuple[int, int]
    flipped: bool
    rank: int
    titles: tuple[str, str]
    caption: str
    meanings: dict[str, str]

    def taps(self, place: tuple[int, ...]) -> Iterator[tuple[tuple[int, int], tuple[int, ...]]]:
        """(cell, tap) pairs of one output."""
        for tap in np.ndindex(*self.kernel):
            starts = zip(self.first, self.step, place, self.dilation, tap, strict=True)
            row, column = (first + s * p + d * t for first, s, p, d, t in starts)
            last = zip(self.kernel, tap, strict=True)
            yield (row, column), tuple(k - 1 - t for k, t in last) if self.flipped else tap

    def window(self, place: tuple[int, ...]) -> list[tuple[int, int]]:
        """Cells that the kernel covers."""
        return [cell for cell, _ in self.taps(place)]

    def formula(self, place: tuple[int, ...]) -> str:
        """The output element as a sum over the elements that it reads."""
        source, target = ("y", "x") if self.flipped else ("x", "y")
        read = [(self.names[cell], self._label(tap)) for cell, tap in self.taps(place) if cell in self.names]
        terms = [f"{source}[{name}]·w[{tap}]" for name, tap in read]
        shown = terms[:4] + (["…"] if len(terms) > 4 else [])
        count = f"     ({len(terms)} terms)" if len(terms) > 4 else ""
        return f"{target}[{self._label(place)}] = {' + '.join(shown) or '0'}{count}"

    def _label(self, place: tuple[int, ...]) -> str:
        return ",".join(map(str, place[2 - self.rank :]))


def _scene(operator: LinearOperator | Callable[..., Any]) -> _Scene:
    transposed = isinstance(operator, Transposed)
    conv = operator.operator if isinstance(operator, Transposed) else operator
    if not isinstance(conv, ConvOperator):
        raise TypeError(
            f"animate takes a ConvOperator or the transpose of one, got {type(operator).__name__}; of a function or "
            "module a layer is drawn with args=(image,)"
        )
    g = conv.geometry
    if g.rank > 2:
        raise ValueError(f"only rank 1 and 2 can be drawn, this operator has rank {g.rank}")
    mode = g.padding_mode
    folded = transposed and mode != "zeros"
    plain = g.unpadded() if folded else g
    lines = [_transpose_line(plain, axis) if transposed else _forward_line(g, axis) for axis in range(g.rank)]
    if g.rank == 1:
        lines.insert(0, _Line(["0"], [INPUT], 0))
    rows, columns = lines
    colours, names, texts = _cross(rows, columns, g.rank)
    two = lambda values: (1, *values)[-2:]  # noqa: E731
    size = plain.input_size if transposed else g.output_size
    words = f"kernel {g.kernel_size}, stride {g.stride}, dilation {g.dilation}, pads {g.pads}"
    words += f", output_padding {g.output_padding}" if transposed else ""
    words += f", {mode}" if mode != "zeros" else ""
    meanings = {"y" if transposed else "x": INPUT}
    for meaning, colour in (("inserted zero", ZERO), ("padding", PAD), ("output_padding", EXTRA), ("cropped", EMPTY)):
        if (colours == colour).any():
            meanings[meaning] = colour
    meanings |= {"window": KERNEL, "current output": CURRENT}
    over = f"y {g.output_size}, zeros inserted, padded" if transposed else f"x {g.input_size}, padded"
    onto = f"x {plain.input_size}" if transposed else f"y {g.output_size}"
    return _Scene(
        colours=colours,
        texts=texts,
        names=names,
        result=two(size),
        first=(rows.first, columns.first),
        step=two((1,) * g.rank if transposed else g.stride),
        dilation=two(g.dilation),
        kernel=two(g.kernel_size),
        flipped=transposed,
        rank=g.rank,
        titles=(over, onto + (": padded, then folded back" if folded else "")),
        caption=f"{'transposed convolution' if transposed else 'convolution'}:  {words}",
        meanings=meanings,
    )


@dataclasses.dataclass(frozen=True)
class _Line:
    """One axis of the grid: the element at each place ("" for none), its colour, and where the first window starts."""

    names: list[str]
    colours: list[str]
    first: int


def _forward_line(g: ConvGeometry, axis: int) -> _Line:
    n, (lo, hi) = g.input_size[axis], g.pads[axis]
    before, behind = max(lo, 0), max(hi, 0)
    source = source_positions(n, (before, behind), g.padding_mode)
    colours = [INPUT if before <= p < before + n else PAD for p in range(len(source))]
    kept = range(max(-lo, 0), len(source) - max(-hi, 0))
    names = [str(u) if u >= 0 and p in kept else "" for p, u in enumerate(source)]
    return _Line(names, [c if p in kept else EMPTY for p, c in enumerate(colours)], max(-lo, 0))


def _transpose_line(g: ConvGeometry, axis: int) -> _Line:
    m, s, extent, extra = g.output_size[axis], g.stride[axis], g.kernel_extent[axis], g.output_padding[axis]
    lo, hi = (extent - 1 - pad for pad in g.pads[axis])
    hi += extra
    inner = [(str(p // s), INPUT) if p % s == 0 else ("", ZERO) for p in range(s * (m - 1) + 1)]
    inner = [("", EMPTY) if p < -lo or p >= len(inner) + hi else cell for p, cell in enumerate(inner)]
    behind = [("", PAD)] * max(hi - extra, 0) + [("", EXTRA)] * min(extra, max(hi, 0))
    cells = [("", PAD)] * max(lo, 0) + inner + behind
    return _Line([name for name, _ in cells], [colour for _, colour in cells], max(-lo, 0))


def _cross(rows: _Line, columns: _Line, rank: int) -> tuple[np.ndarray, dict[tuple[int, int], str], list[list[str]]]:
    """The grid of two axes: a cell is as far from the data as its farther axis."""
    rank_of = {INPUT: 0, ZERO: 1, PAD: 2, EXTRA: 3, EMPTY: 4}
    colours = np.empty((len(rows.colours), len(columns.colours)), object)
    names, texts = {}, []
    for r, (row, a) in enumerate(zip(rows.names, rows.colours, strict=True)):
        line = []
        for c, (column, b) in enumerate(zip(columns.names, columns.colours, strict=True)):
            colours[r, c] = max(a, b, key=rank_of.__getitem__)
            name = (f"{row},{column}" if rank == 2 else column) if row and column else ""
            if name:
                names[r, c] = name
            line.append("×" if colours[r, c] == EMPTY else name or "0")
        texts.append(line)
    return colours, names, texts
