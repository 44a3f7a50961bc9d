"""The graph of links: nodes are values of the network, edges say what they read along each axis.

Every axis of a value carries a role and a map from its positions to classes. A spatial axis ("s") has positions that
count one by one. Every other axis ("c": batch, channels, phases split off a spatial axis, ...) is collapsed to classes
of positions that see the same; a contraction over it reads each class once. Arrays of counts have the classes' shape.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from jaxconv.lattice import Relation

from .links import Link, compose, from_pattern, once, repeated, sum_all, take


class Axis:
    """One axis of a value: its length, its role, and the class of each position (None: a class of its own for each)."""

    __slots__ = ("classes", "count", "parts", "role", "size", "soft")

    def __init__(
        self,
        size: int,
        role: str,
        classes: np.ndarray | None = None,
        parts: tuple["Axis", ...] = (),
        soft: bool = False,
    ):
        # Soft classes only tell channels apart (after a concatenation); others are positions split off an image.
        self.size, self.role, self.parts, self.soft = size, role, parts, soft
        if classes is not None:
            classes = np.asarray(classes, np.int64)
            if np.array_equal(classes, np.arange(size)):
                classes = None
        self.classes = classes
        self.count = size if classes is None else int(classes.max(initial=-1)) + 1

    @property
    def positions(self) -> np.ndarray:
        return np.arange(self.size) if self.classes is None else self.classes

    @property
    def spatial(self) -> bool:
        return self.role == "s"

    def same(self, other: "Axis") -> bool:
        if self.size != other.size or self.count != other.count:
            return False
        return self is other or np.array_equal(self.positions, other.positions)


def uniform(size: int, role: str = "c") -> Axis:
    """An axis whose positions all see the same."""
    return Axis(size, role, np.zeros(size, np.int64))


def merge_classes(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Classes of equal rows, numbered by first appearance: (class per row, one row index per class)."""
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[inverse.reshape(-1)], first[order]


@dataclass(frozen=True)
class GlobalOp:
    """An operation that reads a whole spatial axis at once, kept apart from the field of everything else."""

    primitive: str
    place: str
    axes: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.primitive} over axes {self.axes} at {self.place or 'top level'}"


@dataclass
class Edge:
    """What an array reads of node `src`: links per axis, then a reshape to `mid` (None: as is), then axis j of that
    becomes axis to[j] of the array (None: it has length one and is dropped); axes nobody maps to are broadcast.

    A `choice` only selects among values (the indices of an unpooling): it is no path, but it is read.
    """

    src: "Node"
    links: tuple[Link | None, ...]
    to: tuple[int | None, ...]
    mid: tuple[int, ...] | None = None
    global_op: GlobalOp | None = None
    choice: bool = False

    def linked_shape(self) -> tuple[int, ...]:
        """Shape after the links, before the reshape."""
        return tuple(n if k is None else k.n_out for n, k in zip(self.src.shape, self.links, strict=True))

    def mid_shape(self) -> tuple[int, ...]:
        """Shape after the reshape."""
        return self.linked_shape() if self.mid is None else self.mid

    def counts(self, through_global: bool) -> bool:
        """Whether paths lead along this edge."""
        return not self.choice and (self.global_op is None or through_global)


@dataclass(frozen=True)
class Layer:
    """What a node is, where it is a layer that slides a window or resizes.

    Attributes:
        kind: "conv", "conv_transpose", "pool", "unpool", "resize" or "dot".
        relations: how the window slides along each axis that it slides along.
        steps: input positions that one output position of a resize is worth, per axis.
        windows: of a pooling with indices, the same relations by axis: what an unpooling goes back by.
    """

    kind: str
    relations: tuple[Relation, ...] = ()
    steps: tuple[Fraction, ...] = ()
    windows: dict[int, Relation] | None = None

    @property
    def kernel(self) -> tuple[int, ...]:
        """Taps per axis."""
        return tuple(r.taps for r in self.relations)

    @property
    def stride(self) -> tuple[int, ...]:
        """How many input positions the window moves, per axis, where the input is spread by `base`."""
        return tuple(r.stride for r in self.relations) or tuple(s.numerator for s in self.steps)

    @property
    def dilation(self) -> tuple[int, ...]:
        """The distance of neighbouring taps per axis."""
        return tuple(r.dilation for r in self.relations)

    @property
    def base(self) -> tuple[int, ...]:
        """The upsampling factor per axis."""
        return tuple(r.base for r in self.relations) or tuple(s.denominator for s in self.steps)


@dataclass
class Node:
    """A value of the network whose counts are worth keeping: a layer, or where a cluster of pointwise work ends."""

    number: int
    axes: tuple[Axis, ...]
    edges: list[Edge]
    primitive: str
    place: str
    layer: Layer | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(a.count for a in self.axes)


@dataclass
class Value:
    """An array that depends on the input: a cluster of pointwise work over distinct sources, each counted once."""

    axes: tuple[Axis, ...]
    edges: list[Edge]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(a.size for a in self.axes)


def canonical(edge: Edge, axes: Sequence[Axis]) -> Edge:
    """Axes of length one carry nothing: drop them from the map, so that equal edges look equal.

    A spatial axis of length one stays: the nominal field goes on beyond its one position.
    """
    shape = edge.mid_shape()

    def kept(j: int, t: int | None) -> int | None:
        if t is None or shape[j] != 1:
            return t
        narrow = edge.mid is None and edge.src.axes[j].spatial and axes[t].spatial and axes[t].size == 1
        return t if narrow else None

    return Edge(edge.src, edge.links, tuple(kept(j, t) for j, t in enumerate(edge.to)), edge.mid, edge.global_op)


def _is_source(value: Value) -> bool:
    """Whether a value is nothing but its one source."""
    (edge,) = value.edges
    axes = edge.src.axes
    if edge.mid is not None or edge.global_op is not None or any(edge.links) or len(value.axes) != len(axes):
        return False
    if not all(a.same(b) and a.role == b.role for a, b in zip(value.axes, axes, strict=True)):
        return False
    return edge.to == canonical(Edge(edge.src, edge.links, tuple(range(len(axes)))), value.axes).to


class Graph:
    """Collects nodes; makes values out of values."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.notes: list[str] = []
        self._memo: dict[Any, Node] = {}

    # -- nodes and values -------------------------------------------------------------------------------------------
    def node(
        self, axes: Iterable[Axis], edges: Iterable[Edge], primitive: str, place: str, layer: Layer | None = None
    ) -> Node:
        made = Node(len(self.nodes), tuple(axes), list(edges), primitive, place, layer)
        self.nodes.append(made)
        return made

    def memo(self, key: Any, make: Callable[[], Node]) -> Node:
        """The node made before for the same key, so that equal slices or reshapes are one source."""
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    def value(self, node: Node) -> Value:
        edge = Edge(node, (None,) * len(node.axes), tuple(range(len(node.axes))))
        return Value(node.axes, [canonical(edge, node.axes)])

    def materialize(self, value: Value, place: str = "") -> Node:
        """A node for this value; the source itself where the value is nothing but that source."""
        if len(value.edges) == 1 and _is_source(value):
            return value.edges[0].src
        key = ("cluster", tuple(id(e) for e in value.edges), tuple(id(a) for a in value.axes))
        # The node keeps its axes and edges alive, so that the ids in its key stay taken.
        return self.memo(key, lambda: self.node(value.axes, value.edges, "pointwise", place))

    def counted(self, value: Value, axes: Iterable[int], place: str = "") -> Value:
        """The value with each position of the given axes a class of its own."""
        wanted = [a for a in axes if value.axes[a].classes is not None]
        if not wanted:
            return value
        node = self.materialize(value, place)
        key = ("counted", node.number, tuple(wanted))
        return self.value(self.memo(key, lambda: self._expand(node, wanted, place)))

    def _expand(self, node: Node, wanted: Sequence[int], place: str) -> Node:
        links: list[Link | None] = [None] * len(node.axes)
        axes = list(node.axes)
        for a in wanted:
            old = node.axes[a]
            links[a] = take(old.positions, old.count)
            axes[a] = Axis(old.size, old.role)
        return self.node(axes, [Edge(node, tuple(links), tuple(range(len(axes))))], "expand", place)

    def settled(self, value: Value, place: str = "") -> Value:
        """The value as layers that work channel by channel take it.

        Where some sources differ between channels and others do not, all channels become one class. Otherwise a later
        layer would count a source that the classes share once for each class.
        """
        for a, axis in enumerate(value.axes):
            if axis.spatial or not axis.soft or axis.count == 1:
                continue
            if all(_tells_apart(e, a, axis.count) for e in value.edges):
                continue
            kept = [b for b in range(len(value.axes)) if b != a]
            axes = [uniform(x.size) if b == a else x for b, x in enumerate(value.axes)]
            value = self.remap(self.dropped(value, (a,), place), axes, kept)
            note = (
                "channels are told apart no further where branches of different channels meet; a later split sees all"
            )
            if note not in self.notes:
                self.notes.append(note)
        return value

    # -- structure --------------------------------------------------------------------------------------------------
    def remap(self, value: Value, axes: Sequence[Axis], where: Sequence[int | None]) -> Value:
        """Axis a of the value becomes axis where[a] of the result (None: dropped, it has one class)."""
        edges = []
        for e in value.edges:
            to = tuple(None if t is None else where[t] for t in e.to)
            edges.append(canonical(Edge(e.src, e.links, to, e.mid, e.global_op), axes))
        return Value(tuple(axes), edges)

    def linked(
        self,
        value: Value,
        links: dict[int, Link],
        axes: Sequence[Axis],
        primitive: str,
        place: str,
        layer: Layer | None = None,
    ) -> Value:
        """A new node that reads the value through the given links."""
        node = self.materialize(value, place)
        key = tuple(links.get(a) for a in range(len(axes)))
        edge = Edge(node, key, tuple(range(len(axes))))
        return self.value(self.node(axes, [edge], primitive, place, layer))

    def dropped(self, value: Value, axes: Sequence[int], place: str, global_op: GlobalOp | None = None) -> Value:
        """The value reduced over axes: every class read once; over spatial axes every position."""
        if any(e.mid is not None for e in value.edges):
            value = self.value(self.materialize(value, place))
        kept = [a for a in range(len(value.axes)) if a not in axes]
        where = {a: i for i, a in enumerate(kept)}
        out = tuple(value.axes[a] for a in kept)
        edges: list[Edge] = []
        for e in value.edges:
            links = list(e.links)
            for j, t in enumerate(e.to):
                if t is not None and t in axes:
                    n = e.linked_shape()[j]
                    old = links[j]
                    links[j] = sum_all(n) if old is None else _collapse(old)
            to = tuple(where.get(t) if t is not None else None for t in e.to)
            add_edge(edges, canonical(Edge(e.src, tuple(links), to, None, e.global_op or global_op), out), out)
        return Value(out, edges)

    def pointwise(self, values: Sequence[Value], place: str = "") -> Value:
        """A cluster of values of one shape: every distinct source counts once."""
        if len(values) == 1:
            return values[0]
        axes = tuple(_join([v.axes[a] for v in values]) for a in range(len(values[0].axes)))
        edges: list[Edge] = []
        for value in values:
            for e in self.aligned(value, axes, place).edges:
                add_edge(edges, e, axes)
        return Value(axes, edges)

    def aligned(self, value: Value, axes: Sequence[Axis], place: str = "") -> Value:
        """The value on axes whose classes refine its own."""
        different = [a for a, (old, new) in enumerate(zip(value.axes, axes, strict=True)) if not old.same(new)]
        different = [a for a in different if value.axes[a].count > 1]
        if different and any(e.mid is not None for e in value.edges):
            value = self.value(self.materialize(value, place))
        finer = {a: _refinement(value.axes[a], axes[a]) for a in different}
        edges = []
        for e in value.edges:
            links = tuple(
                compose(finer[t], k) if t in finer else k for k, t in zip(e.links, e.to, strict=True)
            ) if e.mid is None else e.links  # fmt: skip
            edges.append(canonical(Edge(e.src, links, e.to, e.mid, e.global_op), axes))
        return Value(tuple(axes), edges)


def _tells_apart(edge: Edge, a: int, count: int) -> bool:
    """Whether an edge's source has a class of its own for each class of axis a."""
    if a not in edge.to:
        return False
    link = edge.links[edge.to.index(a)] if edge.mid is None else None
    return link is None or link.n_in >= count


def _collapse(link: Link) -> Link:
    """The row that reads once whatever any row of the link reads."""
    return once(from_pattern(np.asarray(link.dense().any(axis=0, keepdims=True)), Fraction(0)))


def _join(axes: Sequence[Axis]) -> Axis:
    """The coarsest axis that refines all of them; spatial if one is."""
    role = "s" if any(a.spatial for a in axes) else "c"
    first = next((a for a in axes if a.role == role and a.parts), axes[0])
    if all(first.same(a) for a in axes):
        return first if first.role == role else Axis(first.size, role, first.classes, first.parts)
    keys = np.stack([a.positions for a in axes], axis=1)
    classes, _ = merge_classes(keys)
    soft = all(a.soft for a in axes if a.count > 1)
    return Axis(first.size, role, classes, first.parts, soft)


def _refinement(old: Axis, new: Axis) -> Link:
    """New classes to the old class that each lies in."""
    _, first = np.unique(new.positions, return_index=True)
    made = take(old.positions[first], old.count)
    made.step = repeated(made.index, old.count) or made.step
    return made


def add_edge(edges: list[Edge], edge: Edge, axes: Sequence[Axis]) -> None:
    """Add a source to a cluster; one that reads the same source at the same places is not counted again."""
    for i, other in enumerate(edges):
        if other.src is edge.src and other.mid == edge.mid and (other.global_op is None) == (edge.global_op is None):
            joined = _union(other, edge, axes)
            if joined is not None:
                edges[i] = joined
                return
    edges.append(edge)


def _union(a: Edge, b: Edge, axes: Sequence[Axis]) -> Edge | None:
    """One edge for two that differ at most in the classes of non-spatial axes they read, else None."""
    to, links = [], []
    for j, (ta, tb) in enumerate(zip(a.to, b.to, strict=True)):
        la, lb = a.links[j], b.links[j]
        target = ta if ta is not None else tb
        if ta == tb and (la is lb or _equal(la, lb)):
            to.append(ta)
            links.append(la)
            continue
        if a.mid is not None or (ta is not None and tb is not None and ta != tb):
            return None
        if target is not None and axes[target].spatial and axes[target].size > 1:
            return None
        if a.src.axes[j].spatial and a.src.axes[j].size > 1:
            return None
        rows = 1 if target is None else axes[target].count
        both = _rows(la, a.src.axes[j].count, rows) | _rows(lb, b.src.axes[j].count, rows)
        to.append(target)
        links.append(from_pattern(both, Fraction(1)))
    return Edge(a.src, tuple(links), tuple(to), a.mid, a.global_op)


def _rows(link: Link | None, n_in: int, rows: int) -> np.ndarray:
    pattern = np.eye(n_in, dtype=bool) if link is None else link.dense() > 0
    return np.broadcast_to(pattern, (rows, n_in)) if len(pattern) == 1 else pattern


def _equal(a: Link | None, b: Link | None) -> bool:
    if a is None or b is None or a.index.shape != b.index.shape or a.n_in != b.n_in:
        return False
    return np.array_equal(a.index, b.index) and (a.weight is b.weight or np.array_equal(a.weight, b.weight))
