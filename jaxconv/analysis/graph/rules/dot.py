"""Rules for dot_general: channel mixing, resizing as a product with weights, attention, dense layers."""

from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn

from jaxconv.jaxprs.constants import Const

from ..links import Link, from_pattern, repeated, sum_all
from ..nodes import Axis, Edge, GlobalOp, Layer, Value, merge_classes, uniform
from ..reader import Anything, Reader, rule
from .pointwise import global_over


@rule("dot_general")
def _dot(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    left, right = inputs
    contract, batch = eqn.params["dimension_numbers"]
    edges: list[Edge] = []
    axes: list[Axis] = []
    sides = [(left, contract[0], batch[0]), (right, contract[1], batch[1])]
    parts = [
        _Side(reader, v, c, b, other) for (v, c, b), (other, _, _) in zip(sides, (sides[1], sides[0]), strict=True)
    ]
    for i in range(len(batch[0])):
        axes.append(_batch_axis(parts[0].axis(batch[0][i]), parts[1].axis(batch[1][i])))
    free = [part.free for part in parts]
    for part in parts:
        axes.extend(part.axis(a) for a in part.free)
    banded = _banded(reader, parts, contract, axes, len(batch[0]), free)
    place = reader.place
    for number, part in enumerate(parts):
        if not isinstance(part.value, Value):
            continue
        offset = len(batch[0]) + (0 if number == 0 else len(free[0]))
        where: dict[int, int] = {a: i for i, a in enumerate(part.batch)}
        where.update({a: offset + i for i, a in enumerate(part.free)})
        edges.append(part.edge(reader, where, axes, banded, place))
    layer = Layer("resize" if banded else "dot")
    return [reader.graph.value(reader.graph.node(axes, edges, "dot_general", place, layer))]


def _batch_axis(a: Axis, b: Axis) -> Axis:
    """The axis of a batch dimension: both operands' classes."""
    role = "s" if a.spatial or b.spatial else "c"
    if a.same(b):
        return a if a.role == role else b
    classes, _ = merge_classes(np.stack([a.positions, b.positions], axis=1))
    return Axis(a.size, role, classes)


class _Side:
    """One operand of a dot: its axes, and which of them are batch, contracted or free."""

    def __init__(self, reader: Reader, value: Anything, contract, batch, other: Anything):
        self.value: Any = value
        self.contract, self.batch = tuple(contract), tuple(batch)
        if isinstance(value, Value):
            wide = [a for a in self.contract if value.axes[a].spatial]
            self.value = reader.graph.counted(value, wide, reader.place)
        self.free = tuple(a for a in range(len(value.shape)) if a not in self.contract and a not in self.batch)

    def axis(self, a: int) -> Axis:
        return self.value.axes[a] if isinstance(self.value, Value) else uniform(self.value.shape[a])

    def _sum_channels(self, reader: Reader, banded: dict[int, tuple[int, Link]]) -> None:
        """Contracted axes that are not spatial: every distinct source once per class of its own."""
        gone = [a for a in self.contract if a not in banded and not self.value.axes[a].spatial]
        kept = [a for a in range(len(self.value.axes)) if a not in gone]
        axes = [uniform(x.size) if a in gone else x for a, x in enumerate(self.value.axes)]
        self.value = reader.graph.remap(reader.graph.dropped(self.value, gone, reader.place), axes, kept)

    def edge(
        self, reader: Reader, where: dict[int, int], axes, banded: dict[int, tuple[int, Link]], place: str
    ) -> Edge:
        self._sum_channels(reader, banded)
        own = [axes[where[a]] if a in self.batch else self.value.axes[a] for a in range(len(self.value.axes))]
        record = global_over(reader, self.value, tuple(a for a in self.contract if a not in banded))
        node = reader.graph.materialize(reader.graph.aligned(self.value, own, place), place)
        links: list[Link | None] = [None] * len(node.axes)
        to: list[int | None] = [where.get(a) for a in range(len(node.axes))]
        for a in self.contract:
            if a in banded:
                to[a], links[a] = banded[a]
            else:
                links[a] = sum_all(node.axes[a].count)
        return Edge(node, tuple(links), tuple(to), None, record if isinstance(record, GlobalOp) else None)


def _banded(reader: Reader, parts, contract, axes: list[Axis], batches: int, free) -> dict[int, tuple[int, Link]]:
    """A spatial axis contracted with known, mostly zero weights keeps its place: it is a resize, not a global sum."""
    for number, (part, other) in enumerate(((parts[0], parts[1]), (parts[1], parts[0]))):
        if not isinstance(part.value, Value) or not isinstance(other.value, Const):
            continue
        wide = [a for a in part.contract if part.value.axes[a].spatial and part.value.axes[a].size > 1]
        outer = [a for a in other.free if other.value.shape[a] > 1] or list(other.free[:1])
        if len(wide) != 1 or len(outer) != 1:
            continue
        against = contract[1 - number][contract[number].index(wide[0])]
        pattern = _pattern(other.value, outer[0], against)
        if pattern is None or (pattern.all() and pattern.shape[1] > 2):
            continue
        # The free axes of the left operand come first in the result.
        target = batches + (0 if number == 1 else len(free[0])) + other.free.index(outer[0])
        axes[target] = Axis(len(pattern), "s")
        link = from_pattern(pattern)
        link.step = repeated(link.index, link.n_in) or link.step
        return {wide[0]: (target, link)}
    return {}


def _pattern(weights: Const, outer: int, against: int) -> np.ndarray | None:
    """Where weights (any order of axes) are not zero, as (outer, against); None where their numbers are not known."""
    try:
        numbers = np.abs(np.asarray(weights.array(), np.float64))
    except ValueError:
        return None
    others = tuple(a for a in range(numbers.ndim) if a not in (outer, against))
    largest = numbers.max(axis=others)
    largest = largest if outer < against else largest.T
    # Weights that cancel exactly on paper leave rounding behind.
    return largest > 1e-6 * largest.max(initial=0.0)
