"""Gridding: which share of a receptive field is used at all, and which layer opens or closes its holes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd
from typing import Any

import numpy as np

from jaxconv._text import brief

from ..field.receptive import ReceptiveField
from ..graph.nodes import Layer, Node
from ..graph.reader import NotUnderstood
from ..graph.sweep import Bounds, ancestors, counts_at
from ..graph.trace import Traced, trace
from .rates import evenness


@dataclass(frozen=True)
class LayerGridding:
    """What one layer's output sees of the input, at a position in its middle.

    `size` is the box that holds what is seen, `coverage` the share of the box that is seen at all, `evenness` is
    (sum c)^2 / (n sum c^2) of the counts c over the box, `period` per axis the spacing of the grid of used positions (1
    where there is no grid), `counts` the counts themselves. `opens` and `closes` say what the layer does to the holes
    of the layers it reads.

    `nominal_size` is the field as if the image had no borders, `jump` what one step of the layer's output is worth in
    input pixels (a Fraction below one after upsampling), `output_size` the spatial size of that output, `base` the
    upsampling factor of a transposed convolution or unpooling.
    """

    name: str
    kind: str
    place: str
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    size: tuple[int, ...]
    coverage: float
    evenness: float
    period: tuple[int, ...]
    counts: np.ndarray
    opens: bool
    closes: bool
    nominal_size: tuple[int, ...]
    jump: tuple[int | Fraction, ...]
    output_size: tuple[int, ...]
    base: tuple[int, ...]

    __repr__ = brief


@dataclass(frozen=True)
class Gridding:
    """The holes of a network's receptive field, layer by layer; made by `gridding`."""

    layers: tuple[LayerGridding, ...]
    output: LayerGridding
    field: ReceptiveField

    __repr__ = brief

    @property
    def coverage(self) -> float:
        """Share of the output's field that is used at all."""
        return self.output.coverage

    @property
    def opens(self) -> tuple[LayerGridding, ...]:
        """The layers that open holes: they have some where what they read had none, or more than it."""
        return tuple(layer for layer in self.layers if layer.opens)

    @property
    def closes(self) -> tuple[LayerGridding, ...]:
        """The layers that close the holes of what they read."""
        return tuple(layer for layer in self.layers if layer.closes)

    def table(self) -> str:
        """The layers as lines of text: size, coverage, evenness and period of the holes."""
        head = f"{'layer':<34}{'kernel':>10}{'rate':>8}{'size':>12}{'coverage':>10}{'evenness':>10}{'period':>9}"
        lines = [head]
        for layer in (*self.layers, self.output):
            mark = "  opens holes" if layer.opens else "  closes holes" if layer.closes else ""
            lines.append(
                f"{(layer.place or layer.name)[-33:]:<34}{_x(layer.kernel):>10}{_x(layer.dilation):>8}"
                f"{_x(layer.size):>12}{layer.coverage:>10.3f}{layer.evenness:>10.3f}{_x(layer.period):>9}{mark}"
            )
        return "\n".join(lines)


def _x(numbers: Sequence[int]) -> str:
    return "x".join(str(n) for n in numbers) or "-"


def gridding(
    fn: Callable[..., Any], *args: Any, spatial_axes: Sequence[int] | None = None, output: int | None = None
) -> Gridding:
    """Where a network's receptive field has holes, and which layer opens and which closes them.

    coverage = (positions of the field's box that reach the output) / (positions of the box), for every layer that
    slides a window, at the middle of its output.

    The positions are the input's: a strided layer of overlapping windows reaches all of them even where dilations part
    its features into grids. Of those ask with the features as the input and what follows as the function.

    Args:
        fn: the function, as for `receptive_field`.
        args: its arguments; the image first.
        spatial_axes: spatial axes of the image; all but the first and the last by default.
        output: which output is meant, where there are several.

    Returns:
        A `Gridding`: `.layers`, `.output`, `.opens`, `.closes`, `.coverage`, `.table()`.

    Raises:
        NotUnderstood: at a primitive that the analysis has no rule for.

    >>> import jax, jax.numpy as jnp
    >>> def net(x):
    ...     for rate in (1, 2, 9):
    ...         x = jax.lax.conv_general_dilated(x, jnp.ones((3, 1, 1)), (1,), "SAME", rhs_dilation=(rate,),
    ...                                          dimension_numbers=("NWC", "WIO", "NWC"))
    ...     return x
    >>> found = gridding(net, jnp.ones((1, 64, 1)))
    >>> [layer.dilation for layer in found.opens], found.coverage
    ([(9,)], 0.84)

    Source: gridding is described by Wang et al. (2018), section 3.2, and Yu et al., "Dilated residual networks" (2017).
    """
    return layerwise(ReceptiveField(trace(fn, args, spatial_axes, output)))


def layerwise(field: ReceptiveField) -> Gridding:
    """`gridding` of a field that somebody has already."""
    traced = field.traced
    seen: dict[int, LayerGridding] = {}
    rows = []
    for number, (node, layer) in enumerate(traced.layers()):
        if not _reaches(traced, node):
            continue
        before = [seen[n] for n in _inputs(node, seen)]
        row = _row(field, node, f"{layer.kind} {number}", before)
        if row is not None:
            seen[node.number] = row
            rows.append(row)
    before = [seen[traced.out.number]] if traced.out.number in seen else [seen[n] for n in _inputs(traced.out, seen)]
    last = _row(field, traced.out, "output", before, field.central_index)
    if last is None:
        raise NotUnderstood("output", "output", "it reads no position of the input except through global operations")
    return Gridding(tuple(rows), last, field)


def _reaches(traced: Traced, node: Node) -> bool:
    return any(n is traced.source for n in ancestors(node))


def _inputs(node: Node, known: dict[int, LayerGridding]) -> list[int]:
    """The nearest layers that a node reads."""
    found, stack, seen = [], [e.src for e in node.edges], set()
    while stack:
        src = stack.pop()
        if src.number in seen:
            continue
        seen.add(src.number)
        if src.number in known:
            found.append(src.number)
        else:
            stack.extend(e.src for e in src.edges)
    return found


def _row(field: ReceptiveField, node: Node, name: str, before: Sequence[LayerGridding], index=None):
    traced = field.traced
    block, _ = counts_at(traced.source, node, [n // 2 for n in node.shape] if index is None else index)
    if not block.any():
        return None
    others = tuple(a for a in range(block.ndim) if a not in traced.spatial_axes)
    counts = _trim(block.sum(axis=others))
    coverage = float((counts > 0).mean())
    earlier = min((layer.coverage for layer in before), default=1.0)
    layer = node.layer or Layer("output")
    return LayerGridding(
        name=name,
        kind=layer.kind,
        place=node.place if name != "output" else "output",
        kernel=layer.kernel,
        stride=layer.stride,
        dilation=layer.dilation,
        size=counts.shape,
        coverage=coverage,
        evenness=evenness(counts),
        period=tuple(hole_period(counts > 0, a) for a in range(counts.ndim)),
        counts=counts,
        opens=name != "output" and coverage < earlier - 1e-9,
        closes=name != "output" and earlier < 1 and coverage > earlier + 1e-9,
        base=layer.base,
        **_nominal(field, node),
    )


def _nominal(field: ReceptiveField, node: Node) -> dict[str, Any]:
    """Field, step and size of one node as if the image had no borders."""
    size, jump, output = [], [], []
    for axis, swept in zip(field.traced.spatial_axes, field._nominal, strict=True):
        if node.number not in swept.low:  # what only global operations read is no part of the field's own sweep
            swept = Bounds(field.traced.source, node, axis, True)
        low, high = swept.low[node.number], swept.high[node.number]
        inside = np.isfinite(low)
        size.append(int((high - low)[inside].max()) + 1 if inside.any() else 0)
        moving = [(a, j) for a, j in enumerate(swept.jumps[node.number]) if j is not None]
        along, step = moving[0] if moving else (-1, None)
        if step is not None:  # which is that of a class, and an interpolated axis has some positions in each
            step *= Fraction(node.axes[along].count, node.axes[along].size)
        jump.append(0 if step is None else int(step) if step.denominator == 1 else step)
        output.append(node.axes[along].size if moving else 1)
    return {"nominal_size": tuple(size), "jump": tuple(jump), "output_size": tuple(output)}


def _trim(counts: np.ndarray) -> np.ndarray:
    """The smallest box that holds all counts."""
    for axis in range(counts.ndim):
        used = np.nonzero(counts.any(axis=tuple(a for a in range(counts.ndim) if a != axis)))[0]
        counts = counts.take(range(used[0], used[-1] + 1), axis=axis)
    return counts


def hole_period(mask: np.ndarray, axis: int) -> int:
    """The spacing of the grid of used positions along an axis; 1 where they share none."""
    used = np.nonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))[0]
    spacing = 0
    for step in np.diff(used):
        spacing = gcd(spacing, int(step))
    return max(spacing, 1)
