"""Rules for reshape, slice, pad, concatenate and split: what moves positions without mixing them."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from jax.extend.core import JaxprEqn

from jaxconv.jaxprs.constants import Const
from jaxconv.jaxprs.walk import type_of
from jaxconv.lattice import Relation

from ..links import Link, groups, take, window
from ..nodes import Axis, Edge, Node, Value, merge_classes, uniform
from ..reader import Anything, Reader, rule
from .pointwise import squeezed, transposed


# ------------------------------------------------------------------------------------------------------------ reshape
def merged(parts: Sequence[Axis]) -> Axis:
    """One axis for a run of axes; it is spatial if a part is that has more than one position."""
    classes = np.zeros(1, np.int64)
    for part in parts:
        classes = (classes[:, None] * part.count + part.positions[None, :]).reshape(-1)
    long = [p for p in parts if p.size > 1]
    role = "s" if any(p.spatial for p in long or parts) else "c"
    soft = all(p.soft for p in long if p.count > 1)
    if len(long) == 1:
        return Axis(long[0].size, role, long[0].classes, long[0].parts, soft)
    return Axis(len(classes), role, classes, tuple(long), soft)


def _restorable(axis: Axis, sizes: Sequence[int]) -> bool:
    """Whether a split only takes apart what a merge put together: rows and columns, or a batch before an image's axis.

    A spatial axis in front of others that are not is an upsampling (a repeat, a pixel shuffle): its result has
    positions of its own, which a later split must tell apart.
    """
    if [p.size for p in axis.parts] != [n for n in sizes if n > 1]:
        return False
    return sum(p.spatial for p in axis.parts) != 1 or not axis.parts[0].spatial


def split_axis(axis: Axis, sizes: Sequence[int]) -> tuple[list[Axis], Link | None]:
    """The axes that one axis falls into, and the link from its classes to the product of theirs."""
    long = [n for n in sizes if n > 1]
    if len(long) <= 1:
        whole = [axis if n > 1 or (not long and i == 0) else uniform(1) for i, n in enumerate(sizes)]
        return whole, None
    if _restorable(axis, sizes):
        parts = list(axis.parts)
        return [parts.pop(0) if n > 1 else uniform(1) for n in sizes], None
    if axis.spatial:
        first = next(i for i, n in enumerate(sizes) if n > 1)
        axes = [uniform(1) if n == 1 else Axis(n, "s" if i == first else "c") for i, n in enumerate(sizes)]
        return axes, None if axis.classes is None else take(axis.positions, axis.count)
    grid = axis.positions.reshape(sizes)
    axes = []
    representatives = []
    for i, n in enumerate(sizes):
        classes, first_of = merge_classes(np.moveaxis(grid, i, 0).reshape(n, -1))
        axes.append(Axis(n, "c", classes, soft=axis.soft))
        representatives.append(first_of)
    read = grid[np.ix_(*representatives)].reshape(-1)
    if len(read) == axis.count and np.array_equal(read, np.arange(axis.count)):
        return axes, None
    return axes, take(read, axis.count)


@rule("reshape")
def _reshape(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    value = reader.dependent(inputs[0])
    if eqn.params.get("dimensions") is not None:  # as vmap over the last axis leaves it
        value = transposed(reader, value, eqn.params["dimensions"])
    return [reshaped(reader, value, type_of(eqn.outvars[0]).shape)]


def reshaped(reader: Reader, value: Value, new: Sequence[int]) -> Value:
    """The value in another shape: runs of axes are merged, split, or both."""
    if 0 in value.shape:
        return Value(tuple(uniform(n) for n in new), [])
    runs = groups(value.shape, new)
    if all(sum(value.shape[i] > 1 for i in left) <= 1 and sum(new[j] > 1 for j in right) <= 1 for left, right in runs):
        return _only_ones(reader, value, new, runs)
    node = reader.graph.materialize(value, reader.place)
    key = ("reshape", node.number, tuple(new))
    return reader.graph.value(reader.graph.memo(key, lambda: _reshape_node(reader, node, new, runs)))


def _only_ones(reader: Reader, value: Value, new: Sequence[int], runs) -> Value:
    """Axes of length one come or go: nothing moves, so the value stays in its cluster."""
    axes: list[Axis] = [uniform(1)] * len(new)
    where: list[int | None] = [None] * len(value.axes)
    for left, right in runs:
        source = next((i for i in left if value.shape[i] > 1), left[0] if left else None)
        target = next((j for j in right if new[j] > 1), None)
        if target is None:
            pairs = zip(left, right, strict=False)  # ones for ones: roles go across in order
            for i, j in pairs:
                where[i], axes[j] = j, value.axes[i]
        elif source is not None:
            where[source], axes[target] = target, value.axes[source]
    return reader.graph.remap(value, axes, where)


def _reshape_node(reader: Reader, node: Node, new: Sequence[int], runs) -> Node:
    links: list[Link | None] = [None] * len(node.axes)
    axes: list[Axis] = []
    for left, right in runs:
        parts = [node.axes[i] for i in left]
        sizes = [new[j] for j in right]
        if len(sizes) == 1:
            axes.append(merged(parts))
        elif len(parts) == 1:
            made, links[left[0]] = split_axis(parts[0], sizes)
            axes.extend(made)
        else:
            flat = merged(parts)
            made, link = split_axis(flat, sizes)
            if link is not None:
                # A link on the merged axis needs the merge to be a node of its own.
                middle = [p for i, p in enumerate(node.axes) if i not in left]
                middle.insert(left[0], flat)
                first = _reshape_node(reader, node, [a.size for a in middle], groups(_sizes(node), _sizes_of(middle)))
                return _reshape_node(reader, first, new, groups(_sizes(first), new))
            axes.extend(made)
    edge = Edge(node, tuple(links), tuple(range(len(axes))), tuple(a.count for a in axes))
    return reader.graph.node(axes, [edge], "reshape", reader.place)


def _sizes(node: Node) -> list[int]:
    return [a.size for a in node.axes]


def _sizes_of(axes: Sequence[Axis]) -> list[int]:
    return [a.size for a in axes]


# ------------------------------------------------------------------------------------------- positions of one axis each
def select_positions(
    reader: Reader, value: Value, picks: dict[int, tuple[np.ndarray, Link | None]], name: str
) -> Value:
    """Per axis the positions picked (-1: none), with the sliding link to use for a spatial axis, if there is one."""
    spatial = [a for a in picks if value.axes[a].spatial]
    value = reader.graph.settled(value, reader.place) if spatial else value
    value = reader.graph.counted(value, spatial, reader.place)
    axes, links = list(value.axes), {}
    for a, (positions, link) in picks.items():
        old = value.axes[a]
        if old.spatial:
            axes[a] = Axis(len(positions), "s")
            links[a] = link if link is not None else take(positions, old.size, Fraction(1))
        else:
            axes[a], made = select_classes(old, positions)
            if made is not None:
                links[a] = made
    if not links:
        return reader.graph.remap(value, axes, range(len(axes)))
    node = reader.graph.materialize(value, reader.place)
    key = (name, node.number, tuple((a, p.tobytes()) for a, (p, _) in picks.items()))
    edge = Edge(node, tuple(links.get(a) for a in range(len(axes))), tuple(range(len(axes))))
    return reader.graph.value(reader.graph.memo(key, lambda: reader.graph.node(axes, [edge], name, reader.place)))


def select_classes(old: Axis, positions: np.ndarray) -> tuple[Axis, Link | None]:
    """A non-spatial axis after picking positions: the classes that are left, and one that is empty for -1."""
    read = np.where(positions >= 0, old.positions[positions], -1)
    if old.count == 1 and (read >= 0).any():
        return uniform(len(positions)), None  # padding channels adds nothing: no class of its own
    classes, first = merge_classes(read[:, None])
    kept = read[first]
    axis = Axis(len(positions), "c", classes, soft=old.soft)
    if len(kept) == old.count and np.array_equal(kept, np.arange(old.count)):
        return axis, None
    return axis, take(kept, old.count, Fraction(1))


def _slide(n_in: int, n_out: int, stride: int = 1, base: int = 1, low: int = 0) -> tuple[np.ndarray, Link]:
    link = window(Relation(n_in=n_in, n_out=n_out, taps=1, stride=stride, base=base, low=low))
    return link.index[:, 0], link


@rule("slice")
def _slice(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    value = reader.dependent(inputs[0])
    starts = eqn.params["start_indices"]
    strides = eqn.params["strides"] or (1,) * len(starts)
    return [sliced(reader, value, starts, type_of(eqn.outvars[0]).shape, strides)]


def sliced(reader: Reader, value: Value, starts, shape, strides) -> Value:
    """The value's positions starts + strides * (0 .. shape - 1) on each axis."""
    picks: dict[int, tuple[np.ndarray, Link | None]] = {}
    for a, (start, size, stride) in enumerate(zip(starts, shape, strides, strict=True)):
        if size != value.shape[a]:
            picks[a] = _slide(value.shape[a], size, stride, low=-int(start))
    return select_positions(reader, value, picks, "slice") if picks else value


def at_position(reader: Reader, value: Value, axis: int, i: int) -> Value:
    """Position i of an axis, without the axis."""
    starts = [i if a == axis else 0 for a in range(len(value.axes))]
    shape = [1 if a == axis else n for a, n in enumerate(value.shape)]
    return squeezed(reader, sliced(reader, value, starts, shape, (1,) * len(shape)), (axis,))


@rule("unstack")
def _unstack(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    value, axis = reader.dependent(inputs[0]), eqn.params["axis"]
    return [at_position(reader, value, axis, i) for i in range(len(eqn.outvars))]


@rule("dynamic_slice")
def _dynamic_slice(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    value, *starts = inputs
    shape = type_of(eqn.outvars[0]).shape
    return [
        sliced(reader, _only(reader, value), constant_starts(reader, value, starts, shape), shape, (1,) * len(shape))
    ]


def _only(reader: Reader, value: Anything) -> Value:
    if not isinstance(value, Value):
        raise reader.refuse("its position depends on the data")
    return value


def constant_starts(reader: Reader, value: Anything, starts: Sequence[Anything], shape: Sequence[int]) -> list[int]:
    """The start of a dynamic slice on each axis, as the numbers they are; 0 where the whole axis is taken."""
    found = []
    for n, size, start in zip(value.shape, shape, starts, strict=True):
        if size == n:
            found.append(0)
        elif isinstance(start, Const):
            at = int(start.array())
            found.append(min(max(at + n if at < 0 else at, 0), n - size))
        else:
            raise reader.refuse("its position depends on the data")
    return found


@rule("split")
def _split(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    value = reader.dependent(inputs[0])
    axis, start = eqn.params["axis"], 0
    outputs: list[Anything] = []
    for size in eqn.params["sizes"]:
        starts = [start if a == axis else 0 for a in range(len(value.axes))]
        shape = [size if a == axis else n for a, n in enumerate(value.shape)]
        outputs.append(sliced(reader, value, starts, shape, (1,) * len(shape)))
        start += size
    return outputs


@rule("pad")
def _pad(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    value, filler = reader.dependent(inputs[0]), inputs[1]
    if isinstance(filler, Value):
        raise reader.refuse("the padding value depends on the input")
    picks: dict[int, tuple[np.ndarray, Link | None]] = {}
    for a, (low, high, interior) in enumerate(eqn.params["padding_config"]):
        if (low, high, interior) != (0, 0, 0):
            n = value.shape[a]
            positions, link = _slide(n, type_of(eqn.outvars[0]).shape[a], base=interior + 1, low=low)
            # A border is padding, beyond which the nominal field goes on; more than that places a piece on a canvas.
            piece = max(low, high) >= max(n * (interior + 1), 2)
            picks[a] = positions, take(positions, n, link.step) if piece else link
    return [select_positions(reader, value, picks, "pad") if picks else value]


@rule("tile")
def _tile(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    value = reader.dependent(inputs[0])
    picks: dict[int, tuple[np.ndarray, Link | None]] = {
        a: (np.tile(np.arange(n), m // n), None)
        for a, (n, m) in enumerate(zip(value.shape, type_of(eqn.outvars[0]).shape, strict=True))
        if n not in (0, m)
    }
    return [select_positions(reader, value, picks, "tile") if picks else value]


# -------------------------------------------------------------------------------------------------------- concatenate
@rule("concatenate")
def _concatenate(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    return [joined(reader, inputs, eqn.params["dimension"])]


@rule("stack")
def _stack(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    axis = eqn.params["axis"]
    shape = tuple(1 if a == axis else n for a, n in enumerate(type_of(eqn.outvars[0]).shape))
    lifted: list[Anything] = []
    for v in inputs:
        if isinstance(v, Value):
            axes = [*v.axes[:axis], uniform(1), *v.axes[axis:]]
            v = reader.graph.remap(v, axes, [a for a in range(len(shape)) if a != axis])
        else:
            v = Const(np.broadcast_to(np.float32(0), shape))
        lifted.append(v)
    return [joined(reader, lifted, axis)]


def joined(reader: Reader, inputs: Sequence[Anything], axis: int, channels: bool = True) -> Value:
    """Operands side by side: along a spatial axis position after position, elsewhere class after class."""
    sizes = [v.shape[axis] for v in inputs]
    values = [v for v in inputs if isinstance(v, Value)]
    spatial = any(v.axes[axis].spatial for v in values)
    if not spatial and len(values) == 1 and values[0].axes[axis].count == 1:
        axes = [uniform(sum(sizes)) if a == axis else x for a, x in enumerate(values[0].axes)]
        return reader.graph.remap(values[0], axes, range(len(axes)))
    inputs = [reader.graph.settled(v, reader.place) if isinstance(v, Value) else v for v in inputs]
    values = [v for v in inputs if isinstance(v, Value)]
    if spatial:
        inputs = [reader.graph.counted(v, [axis], reader.place) if isinstance(v, Value) else v for v in inputs]
        values = [v for v in inputs if isinstance(v, Value)]
    others = [a for a in range(len(values[0].axes)) if a != axis]
    common = {a: _joined_axis([v.axes[a] for v in values]) for a in others}
    classes, offsets, total = [], [], 0
    for v, size in zip(inputs, sizes, strict=True):
        local = v.axes[axis].positions if isinstance(v, Value) else np.arange(size) if spatial else np.zeros(size, int)
        offsets.append(total)
        classes.append(local + total)
        total += int(local.max(initial=-1)) + 1
    soft = channels and not spatial and all(v.axes[axis].soft or v.axes[axis].count == 1 for v in values)
    along = Axis(sum(sizes), "s" if spatial else "c", np.concatenate(classes), soft=soft)
    axes = [along if a == axis else common[a] for a in range(len(values[0].axes))]
    edges = []
    for v, offset in zip(inputs, offsets, strict=True):
        if isinstance(v, Value):
            edges.append(_placed(reader, v, axis, axes, offset, total))
    return reader.graph.value(reader.graph.node(axes, edges, "concatenate", reader.place))


def _joined_axis(axes: Sequence[Axis]) -> Axis:
    role = "s" if any(a.spatial for a in axes) else "c"
    if all(a.same(axes[0]) for a in axes):
        return axes[0] if axes[0].role == role else Axis(axes[0].size, role, axes[0].classes, axes[0].parts)
    classes, _ = merge_classes(np.stack([a.positions for a in axes], axis=1))
    return Axis(axes[0].size, role, classes)


def _placed(reader: Reader, value: Value, axis: int, axes: Sequence[Axis], offset: int, total: int) -> Edge:
    """The edge that puts a value's classes at `offset` of the joined axis."""
    own = [value.axes[a] if a == axis else axes[a] for a in range(len(axes))]
    node = reader.graph.materialize(reader.graph.aligned(value, own, reader.place), reader.place)
    links: list[Link | None] = [None] * len(axes)
    count = node.axes[axis].count
    where = np.arange(total) - offset
    links[axis] = take(np.where((where >= 0) & (where < count), where, -1), count, Fraction(1))
    return Edge(node, tuple(links), tuple(range(len(axes))))
