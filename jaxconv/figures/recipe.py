"""The four steps of a transposed convolution, drawn with their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.typing import ArrayLike

from jaxconv.figures.grid import CURRENT, EXTRA, INPUT, KERNEL, OUTPUT, PAD, ZERO, as_plane, draw_grid, legend, number
from jaxconv.linear.recipe import Recipe, conv_transpose_steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_SIDE = 20


def transpose_recipe(y: ArrayLike, w: ArrayLike, **params: Any) -> Figure:
    """Draw the four steps of the transposed convolution of a small array, with every number written in.

    Args:
        y: input of the transpose, (*m, 1) or (*m,), rank 1 or 2.
        w: the forward convolution's kernel, (*kernel_size, 1, 1) or (*kernel_size,).
        **params: stride, padding, dilation, output_size, output_padding: as in `jaxconv.conv_transpose`, zero padding
        only.

    Returns:
        matplotlib Figure: y, zeros inserted, padded (extra rows of output_padding in another colour), the kernel
        flipped, and the result. One window and the element that it gives are outlined, and that element's sum is
        written out.

    Raises:
        ValueError: a rank above 2, several channels, another padding mode, or more than 20 elements on a side.

    Example:
        >>> import numpy as np
        >>> y = np.arange(1.0, 5.0).reshape(2, 2)
        >>> len(transpose_recipe(y, np.ones((3, 3)), stride=2).axes)
        5

    Source: Dumoulin and Visin 2016 (arXiv:1603.07285), section 4; the four-step reading that textbooks give.
    """
    from matplotlib.figure import Figure

    y, w = np.asarray(y, np.float32), np.asarray(w, np.float32)
    rank = y.ndim if y.ndim == w.ndim else y.ndim - 1
    if w.ndim == rank:
        y, w = y[..., None], w[..., None, None]
    if w.ndim - 2 not in (1, 2) or w.shape[-2:] != (1, 1) or y.ndim != w.ndim - 1:
        raise ValueError(f"the recipe is drawn for one channel of rank 1 or 2; got y {y.shape} and w {w.shape}")
    steps = conv_transpose_steps(y, w, **params)
    if steps.geometry.padding_mode != "zeros":
        raise ValueError(f"the recipe is drawn for padding_mode='zeros', got {steps.geometry.padding_mode!r}")
    if max(steps.padded.shape[:-1]) > MAX_SIDE:
        raise ValueError(
            f"the padded array is {steps.padded.shape[:-1]}; more than {MAX_SIDE} on a side cannot be read"
        )
    planes = {
        "y": as_plane(y[..., 0]),
        "inserted": as_plane(steps.inserted[..., 0]),
        "padded": as_plane(steps.padded[..., 0]),
        "kernel": as_plane(steps.kernel[..., 0, 0]),
        "result": as_plane(steps.result[..., 0]),
    }
    return _draw(Figure, steps, planes)


def _draw(figure_class: type[Figure], steps: Recipe, planes: dict[str, np.ndarray]) -> Figure:
    g = steps.geometry
    kinds = {
        "y": np.full(planes["y"].shape, INPUT, object),
        "inserted": _inserted_colours(planes["inserted"].shape, _two(g.stride)),
        "kernel": np.full(planes["kernel"].shape, KERNEL, object),
        "result": np.full(planes["result"].shape, OUTPUT, object),
    }
    kinds["padded"] = _padded_colours(kinds["inserted"], _two(steps.pads, (0, 0)), _two(g.output_padding, 0))
    titles = {
        "y": f"y  ({_by(planes['y'])})",
        "inserted": f"1. insert s−1 = {_each(s - 1 for s in g.stride)} zeros",
        "padded": f"2. pad {_each(f'({lo}, {hi})' for lo, hi in steps.pads)}",
        "kernel": "3. flip the kernel",
        "result": f"4. convolve, stride 1{_dilated(g.dilation)}",
    }
    wide = [max(planes[name].shape[1], 2.6) for name in titles]
    tall = max(p.shape[0] for p in planes.values())
    unit = min(16.0 / sum(wide), 0.62)
    figure = figure_class(figsize=(unit * sum(wide) + 2.6, unit * max(tall, 2) + 2.1), layout="constrained")
    axes = figure.subplots(1, 5, width_ratios=wide)
    for ax, name in zip(axes, titles, strict=True):
        texts = [[number(v) for v in line] for line in planes[name]]
        draw_grid(ax, kinds[name], texts, size=10, title=titles[name])
    _mark_window(axes, planes, _two(g.dilation, 1), figure)
    meanings = {"element of y": INPUT, "inserted zero": ZERO, "padding": PAD}
    if any(g.output_padding):
        meanings["output_padding"] = EXTRA
    legend(figure, {**meanings, "kernel": KERNEL, "result": OUTPUT}, loc="outside upper center", ncols=6, fontsize=10)
    return figure


def _mark_window(
    axes: Sequence[Axes], planes: dict[str, np.ndarray], dilation: tuple[int, int], figure: Figure
) -> None:
    """Outline one window of step 2 and the element of step 4 that it gives, and write its sum."""
    from matplotlib.patches import Rectangle

    padded, kernel, result = planes["padded"], planes["kernel"], planes["result"]
    taps = [(r, c) for r in range(kernel.shape[0]) for c in range(kernel.shape[1])]

    # The window with the most terms that are not zero says the most.
    def terms(at):
        values = [(padded[at[0] + r * dilation[0], at[1] + c * dilation[1]], kernel[r, c]) for r, c in taps]
        return [(a, b) for a, b in values if a != 0]

    best = max(np.ndindex(*result.shape), key=lambda at: (len(terms(at)), -abs(at[0] - result.shape[0] // 2) - at[1]))
    for r, c in taps:
        corner = (best[1] + c * dilation[1], best[0] + r * dilation[0])
        axes[2].add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=CURRENT, linewidth=2.6, zorder=5))
    axes[4].add_patch(Rectangle(best[::-1], 1, 1, fill=False, edgecolor=CURRENT, linewidth=3, zorder=5))
    used = terms(best)
    sentence = " + ".join(f"{number(a)}·{number(b)}" for a, b in used[:9]) + (" + …" if len(used) > 9 else "")
    figure.supxlabel(f"outlined:  {sentence or '0'}  =  {number(result[best])}", fontsize=12)


def _inserted_colours(shape: tuple[int, ...], stride: tuple[int, int]) -> np.ndarray:
    colours = np.full(shape, ZERO, object)
    colours[:: stride[0], :: stride[1]] = INPUT
    return colours


def _padded_colours(inner: np.ndarray, pads: Any, extra: tuple[int, int]) -> np.ndarray:
    for axis, (lo, hi) in enumerate(pads):
        width, crop = [(0, 0), (0, 0)], [slice(None), slice(None)]
        width[axis] = (max(lo, 0), max(hi, 0))
        crop[axis] = slice(max(-lo, 0), inner.shape[axis] - max(-hi, 0))
        inner = np.pad(inner[tuple(crop)], width, constant_values=PAD)
    for axis, ((_, hi), more) in enumerate(zip(pads, extra, strict=True)):
        if min(more, hi) > 0:
            last = [slice(None), slice(None)]
            last[axis] = slice(inner.shape[axis] - min(more, hi), None)
            inner[tuple(last)] = EXTRA
    return inner


def _two(values: Any, first: Any = 1) -> Any:
    return tuple(values) if len(values) == 2 else (first, *values)


def _by(plane: np.ndarray) -> str:
    return f"{plane.shape[0]}×{plane.shape[1]}" if plane.shape[0] > 1 else f"{plane.shape[1]} elements"


def _each(values: Any) -> str:
    words = [str(v) for v in values]
    return words[0] if len(set(words)) == 1 else " × ".join(words)


def _dilated(dilation: tuple[int, ...]) -> str:
    return "" if set(dilation) == {1} else f", dilation {_each(dilation)}"
