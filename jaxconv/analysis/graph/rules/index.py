"""Rules for gather, scatter and dynamic_update_slice at positions that are known when the function is traced."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from jax.extend.core import JaxprEqn

from jaxconv.jaxprs.constants import Const
from jaxconv.jaxprs.walk import type_of

from ..links import Link, from_pattern, repeated, take
from ..nodes import Axis, Edge, Value, uniform
from ..reader import Anything, Reader, rule
from .shape import constant_starts, select_classes, split_axis


# -------------------------------------------------------------------------------------------------------------- gather
@rule("gather")
def _gather(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    value, indices = inputs
    d, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    if isinstance(value, Const) and isinstance(indices, Value):
        return [_looked_up(reader, indices, d.offset_dims, type_of(eqn.outvars[0]).shape)]
    if not isinstance(value, Value) or isinstance(indices, Value):
        raise reader.refuse("its positions depend on the data")
    if d.operand_batching_dims:
        raise reader.refuse("it has batching dimensions")
    out_shape = type_of(eqn.outvars[0]).shape
    batch_out = [a for a in range(len(out_shape)) if a not in d.offset_dims]
    batch_shape = [out_shape[a] for a in batch_out]
    offsets = iter(d.offset_dims)
    offset_of = {a: next(offsets) for a in range(len(sizes)) if a not in d.collapsed_slice_dims}
    starts = _starts(reader, value, indices, d.start_index_map, sizes, batch_shape, eqn.params["mode"])
    value = reader.graph.counted(value, [a for a in range(len(sizes)) if value.axes[a].spatial], reader.place)
    axes: list[Axis] = [uniform(n) for n in out_shape]
    plan: list[tuple[list[int], Link | None]] = []
    for a, size in enumerate(sizes):
        places, link = _gather_axis(reader, value.axes[a], size, starts.get(a), batch_out, offset_of.get(a), axes)
        plan.append((places, link))
    taken = [t for places, _ in plan for t in places]
    if len(set(taken)) != len(taken):
        raise reader.refuse("two axes are indexed together")
    return [_assembled(reader, value, axes, plan)]


def _looked_up(reader: Reader, indices: Value, offsets: Sequence[int], shape: Sequence[int]) -> Value:
    """Rows of a constant table: each depends on its own index and on nothing else."""
    last = len(indices.axes) - 1
    if indices.axes[last].spatial and indices.axes[last].size > 1:
        raise reader.refuse("its positions depend on the data")
    read = reader.graph.dropped(indices, (last,), reader.place)
    batch = [a for a in range(len(shape)) if a not in offsets]
    axes = [uniform(n) for n in shape]
    for a, axis in zip(batch, read.axes, strict=True):
        axes[a] = axis
    return reader.graph.remap(read, axes, batch)


def _starts(reader, value, indices, start_map, sizes, batch_shape, mode) -> dict[int, np.ndarray]:
    """Per indexed axis the start positions over the batch axes; -1 where the gather fills instead of reading."""
    wanted = [a for a in start_map if sizes[a] != value.shape[a]]
    narrow = [a for a in wanted if value.axes[a].spatial or value.axes[a].count > 1]
    if not _is_known(indices):
        if narrow:
            raise reader.refuse("its positions depend on the data")
        return {a: np.zeros(batch_shape, np.int64) for a in wanted}
    numbers = indices.array().astype(np.int64)
    found = {}
    for i, a in enumerate(start_map):
        if a in wanted:
            at = numbers[..., i].reshape(batch_shape)
            last = value.shape[a] - sizes[a]
            if "FILL" in str(mode):
                found[a] = np.where((at >= 0) & (at <= last), at, -1)
            else:
                found[a] = np.clip(at, 0, last)
    return found


def _is_known(indices: Const) -> bool:
    try:
        indices.array()
    except ValueError:
        return False
    return True


def _gather_axis(
    reader, axis: Axis, size: int, start, batch_out, offset: int | None, axes
) -> tuple[list[int], Link | None]:
    """Which result axes one operand axis becomes, and the link to it; sets those axes."""
    if start is None:
        if offset is not None:
            axes[offset] = axis
            return [offset], None
        return [], None  # collapsed and not indexed: length one
    varying = [i for i in range(start.ndim) if (start != start.take([0], axis=i)).any()]
    picked = start[tuple(slice(None) if i in varying else 0 for i in range(start.ndim))].reshape(-1)
    places = [batch_out[i] for i in varying]
    positions = picked[:, None] + np.where(picked >= 0, 0, -(10**9))[:, None] + np.arange(size)[None, :]
    positions = np.where(positions >= 0, positions, -1)
    shape = [start.shape[i] for i in varying]
    if offset is not None and size > 1:
        places, shape = [*places, offset], [*shape, size]
    if places != sorted(places):
        raise reader.refuse("its window comes before its batch axes")
    return places, _picked(axis, positions.reshape(-1), places, shape, axes)


def _picked(axis: Axis, positions: np.ndarray, places: Sequence[int], shape: Sequence[int], axes) -> Link | None:
    link: Link | None
    if axis.spatial:
        flat, link = Axis(len(positions), "s"), take(positions, axis.size, _stepped(positions, shape, axis.size))
    else:
        flat, link = select_classes(axis, positions)
    if len(places) == 1:
        axes[places[0]] = flat
    elif places:
        made, finer = split_axis(flat, shape)
        if finer is not None:
            rows = finer.index[:, 0]
            link = take(rows if link is None else link.index[rows, 0], axis.count)
        for place, new in zip(places, made, strict=True):
            axes[place] = new
    return link


def _stepped(positions: np.ndarray, shape: Sequence[int], n_in: int) -> Fraction:
    """The same for a table of positions: its rows are the steps, the columns of each a window."""
    if len(shape) != 2 or positions.size == 0:
        return _step(positions, n_in)
    return _step(positions.reshape(shape)[:, shape[1] // 2], n_in) / shape[1]


def _step(positions: np.ndarray, n_in: int) -> Fraction:
    """What one step of the result is worth in input positions, on the whole."""
    real = positions[positions >= 0]
    if len(real) < 2:
        return Fraction(1)
    usual, run = _longest_run(np.diff(real))
    if usual and run == len(real) - 1:
        return Fraction(usual)
    found = repeated(positions[:, None], n_in)
    if found is not None:
        return found
    even = Fraction(n_in, len(positions))
    drift = positions - np.arange(len(positions)) * float(even)
    spread = max(1.0, float(even))
    if len(real) == len(positions) and drift.max() - drift.min() <= spread:
        return even
    if usual and run >= 0.8 * len(real):  # its borders are mirrored or repeated
        return Fraction(usual)
    middle = drift[len(drift) // 4 : len(drift) - len(drift) // 4]
    if len(real) == len(positions) and middle.max() - middle.min() <= spread:  # its windows stop at the borders
        return even
    return Fraction(int(real[-1] - real[0]), len(real) - 1).limit_denominator(64)


def _longest_run(steps: np.ndarray) -> tuple[int, int]:
    """The value that is repeated longest without a break, and how often."""
    ends = np.append(np.nonzero(np.diff(steps))[0], len(steps) - 1)
    lengths = np.diff(np.concatenate([[-1], ends]))
    longest = int(np.argmax(lengths))
    return int(steps[ends[longest]]), int(lengths[longest])


def _assembled(reader: Reader, value: Value, axes: Sequence[Axis], plan) -> Value:
    """A node that reads the value through the plan's links, each followed by the axes it becomes."""
    node = reader.graph.materialize(value, reader.place)
    links = tuple(link for _, link in plan)
    mid: list[int] = []
    to: list[int | None] = []
    for a, (places, _) in enumerate(plan):
        if not places:
            mid.append(1)
            to.append(None)
        for place in places:
            mid.append(axes[place].count)
            to.append(place)
        rows = node.axes[a].count if links[a] is None else links[a].n_out
        if math.prod(axes[p].count for p in places) != rows:
            raise reader.refuse("its positions cannot be told apart by axis")
    edge = Edge(node, links, tuple(to), tuple(mid) if len(mid) != len(plan) else None)
    return reader.graph.value(reader.graph.node(axes, [edge], "gather", reader.place))


# ------------------------------------------------------------------------------------------- writing at known positions
@rule("dynamic_update_slice")
def _update_slice(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    operand, update, *starts = inputs
    at = constant_starts(reader, operand, starts, update.shape)
    boxes = {
        a: np.arange(start, start + size)
        for a, (start, size, n) in enumerate(zip(at, update.shape, operand.shape, strict=True))
        if size != n
    }
    return [_written(reader, operand, update, boxes, keep=False)]


@rule(*"scatter scatter-add scatter_add scatter-sub scatter-mul scatter_mul scatter-max scatter-min".split())
def _scatter(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    operand, indices, update = inputs
    d, name = eqn.params["dimension_numbers"], eqn.primitive.name
    if isinstance(indices, Value) or d.operand_batching_dims:
        raise reader.refuse("its positions depend on the data")
    numbers = indices.array().astype(np.int64)
    batch_axes = [a for a in range(len(update.shape)) if a not in d.update_window_dims]
    numbers = numbers.reshape([*(update.shape[a] for a in batch_axes), numbers.shape[-1]])
    windows = iter(d.update_window_dims)
    window_of = {a: next(windows) for a in range(len(operand.shape)) if a not in d.inserted_window_dims}
    boxes: dict[int, np.ndarray] = {}
    order: list[int | None] = [window_of.get(a) for a in range(len(operand.shape))]
    for i, a in enumerate(d.scatter_dims_to_operand_dims):
        start = numbers[..., i]
        varying = [k for k in range(start.ndim) if (start != start.take([0], axis=k)).any()]
        if len(varying) > 1 or (varying and a in window_of and update.shape[window_of[a]] > 1):
            raise reader.refuse("several axes are indexed together")
        line = start[tuple(slice(None) if k in varying else 0 for k in range(start.ndim))].reshape(-1)
        if a in window_of and not varying:
            size = update.shape[window_of[a]]
            if size != operand.shape[a]:
                boxes[a] = int(line[0]) + np.arange(size)
            continue
        boxes[a] = line
        order[a] = batch_axes[varying[0]] if varying else next((k for k in batch_axes if update.shape[k] == 1), None)
    if name == "scatter" and any(len(np.unique(b)) != len(b) for b in boxes.values()):
        raise reader.refuse("it writes to one position more than once")
    update = _ordered(reader, update, order)
    return [_written(reader, operand, update, boxes, keep=name != "scatter")]


def _ordered(reader: Reader, update: Anything, order: Sequence[int | None]) -> Anything:
    """The update with its axes in the operand's order."""
    if not isinstance(update, Value):
        return update
    where: list[int | None] = [None] * len(update.axes)
    axes = [uniform(1)] * len(order)
    for a, source in enumerate(order):
        if source is not None:
            where[source], axes[a] = a, update.axes[source]
    return reader.graph.remap(update, axes, where)


def _written(reader: Reader, operand: Anything, update: Anything, boxes: dict[int, np.ndarray], keep: bool) -> Value:
    """The operand outside of the box (everywhere with `keep`) and the update inside of it."""
    if not boxes:
        inputs = [v for v in ((operand, update) if keep else (update,)) if isinstance(v, Value)]
        if not inputs:
            raise reader.refuse("nothing of the input is left")
        return reader.graph.pointwise(inputs, reader.place)
    values = [v for v in (operand, update) if isinstance(v, Value)]
    shape = operand.shape
    axes = []
    for a, n in enumerate(shape):
        seen = [v.axes[a] for v in values]
        if a in boxes:
            axes.append(Axis(n, "s" if any(x.spatial for x in seen) else "c"))
        else:
            axes.append(reader.graph.pointwise([_line(reader, x) for x in seen]).axes[0])
    edges: list[Edge] = []
    if isinstance(operand, Value):
        edges += _outside(reader, operand, axes, boxes, keep)
    if isinstance(update, Value):
        edges.append(_inside(reader, update, axes, boxes))
    return reader.graph.value(reader.graph.node(axes, edges, "scatter", reader.place))


def _line(reader: Reader, axis: Axis) -> Value:
    return Value((axis,), [])


def _inside(reader: Reader, update: Value, axes: Sequence[Axis], boxes: dict[int, np.ndarray]) -> Edge:
    counted = reader.graph.counted(update, [a for a in boxes if update.axes[a].spatial], reader.place)
    own = [counted.axes[a] if a in boxes else axes[a] for a in range(len(axes))]
    node = reader.graph.materialize(reader.graph.aligned(counted, own, reader.place), reader.place)
    links: list[Link | None] = [None] * len(axes)
    for a, box in boxes.items():
        real = np.nonzero((box >= 0) & (box < axes[a].size))[0]
        # What several updates add to one position reads them all; a class of them, which sees the same, once.
        met = np.zeros((axes[a].size, node.axes[a].count), bool)
        met[box[real], node.axes[a].positions[real]] = True
        links[a] = from_pattern(met, _spacing(box))
    return Edge(node, tuple(links), tuple(range(len(axes))))


def _spacing(box: np.ndarray) -> Fraction:
    """How many updates one step of what is written is worth."""
    steps = np.unique(np.diff(box))
    if len(steps) == 1 and steps[0] > 0:
        return Fraction(1, int(steps[0]))
    if len(steps) == 2 and steps[0] == 0 and steps[1] > 0:  # runs of updates that meet, as in a sum over segments
        return Fraction(len(box), int(box.max() - box.min()) + 1)
    return Fraction(1)


def _outside(
    reader: Reader, operand: Value, axes: Sequence[Axis], boxes: dict[int, np.ndarray], keep: bool
) -> list[Edge]:
    """Everything but a box is a sum of boxes: outside along one axis, inside along the axes before it."""
    counted = reader.graph.counted(operand, [a for a in boxes if operand.axes[a].spatial], reader.place)
    own = [counted.axes[a] if a in boxes else axes[a] for a in range(len(axes))]
    node = reader.graph.materialize(reader.graph.aligned(counted, own, reader.place), reader.place)
    everywhere = {a: node.axes[a].positions for a in boxes}
    to = tuple(range(len(axes)))

    def edge(rows: dict[int, np.ndarray]) -> Edge:
        links = [take(rows[a], node.axes[a].count, Fraction(1)) if a in rows else None for a in range(len(axes))]
        return Edge(node, tuple(links), to)

    if keep:
        return [edge(everywhere)]
    edges, before = [], dict(everywhere)
    for a, box in boxes.items():
        hit = np.isin(np.arange(axes[a].size), box)
        edges.append(edge({**before, a: np.where(hit, -1, everywhere[a])}))
        before[a] = np.where(hit, everywhere[a], -1)
    return edges
