"""Sweeps over the graph: counts backwards from an output, bounds and totals forwards from the input.

Nothing is ever expanded: a sweep visits each edge once and carries a block of counts (only the part that is not zero)
or an array of bounds through the edge's links, axis by axis.
"""

import heapq
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from jax.typing import DTypeLike

from .links import groups
from .nodes import Edge, Graph, Node

Block = tuple[np.ndarray, tuple[int, ...]]

# Beyond 323 convolutions of 3x3 the counts leave float64: a node's counts above 2^900 are divided by a power of two.
_HIGH, _LOW = 2.0**900, 2.0**-900


def scaled(counts: np.ndarray) -> tuple[np.ndarray, int]:
    """Counts that float64 can add up further, and the power of two that they were divided by.

    What is above zero stays above zero: masks are exact, and only ratios beyond 2^1800 are not.
    """
    top = float(counts.max(initial=0.0))
    if not top > _HIGH:
        return counts, 0
    exponent = math.frexp(top)[1] - 600
    return lowered(counts, exponent), exponent


def lowered(counts: np.ndarray, exponent: int) -> np.ndarray:
    """Counts divided by 2^exponent."""
    return counts if exponent == 0 else np.where(counts > 0, np.maximum(np.ldexp(counts, -exponent), _LOW), 0.0)


# ---------------------------------------------------------------------------------------------------------- backwards
def counts_at(source: Node, out: Node, index: Sequence[int], **options: Any) -> Block:
    """Counts of paths from one position of `out` (an index into its classes) to all of `source`."""
    seed = np.ones((1,) * len(out.axes), options.get("dtype", np.float64))
    return pull_back(source, out, seed, tuple(index), **options)


def pull_back(
    source: Node,
    out: Node,
    seed: np.ndarray,
    starts: Sequence[int],
    *,
    through_global: bool = False,
    modulus: int | None = None,
    dtype: DTypeLike = np.float64,
    exponents: dict[int, int] | None = None,
) -> Block:
    """A block of counts on `out` carried back to `source`: the block there, and where it starts."""
    options: dict[str, Any] = {"through_global": through_global, "modulus": modulus, "exponents": exponents}
    found = pull_back_all([source], out, seed, starts, **options)
    empty = (np.zeros((0,) * len(source.axes), dtype), (0,) * len(source.axes))
    return found.get(source.number, empty)


def pull_back_all(
    targets: Iterable[Node],
    out: Node,
    seed: np.ndarray,
    starts: Sequence[int],
    *,
    through_global: bool = False,
    modulus: int | None = None,
    exponents: dict[int, int] | None = None,
) -> dict[int, Block]:
    """The same for several nodes at once, by node number.

    `exponents` is filled with the powers of two that the nodes' counts were divided by: 0 where float64 reaches.
    """
    wanted = {t.number for t in targets}
    exponents = {} if exponents is None else exponents
    powers: dict[int, list[int]] = {out.number: [0]}
    waiting: dict[int, list[Block]] = {out.number: [(seed, tuple(starts))]}
    nodes = {out.number: out}
    order = [-out.number]
    found: dict[int, Block] = {}
    while order:
        number = -heapq.heappop(order)
        top, parts = max(powers[number]), waiting.pop(number)
        if any(power != top for power in powers[number]):
            shifts = zip(parts, powers[number], strict=True)
            parts = [(lowered(part, top - power), where) for (part, where), power in shifts]
        block, corner = _sum(parts)
        more = 0
        if modulus is not None:
            block %= modulus
        elif block.dtype.kind == "f":
            block, more = scaled(block)
        exponents[number] = top + more
        if number in wanted:
            found[number] = (block, corner)
        for edge in nodes[number].edges:
            if not edge.counts(through_global):
                continue
            part, where = pull_edge(edge, block, corner)
            if part.size == 0:
                continue
            if modulus is not None:
                part %= modulus
            src = edge.src.number
            if src not in waiting:
                waiting[src], nodes[src], powers[src] = [], edge.src, []
                heapq.heappush(order, -src)
            waiting[src].append((part, where))
            powers[src].append(exponents[number])
    return found


def _sum(blocks: list[Block]) -> Block:
    """Blocks of one node added up over the smallest box that holds them all."""
    if len(blocks) == 1:
        return blocks[0]
    rank = blocks[0][0].ndim
    low = tuple(min(s[a] for _, s in blocks) for a in range(rank))
    high = tuple(max(s[a] + b.shape[a] for b, s in blocks) for a in range(rank))
    total = np.zeros([h - n for h, n in zip(high, low, strict=True)], np.result_type(*(b for b, _ in blocks)))
    for block, start in blocks:
        total[tuple(slice(s - n, s - n + k) for s, n, k in zip(start, low, block.shape, strict=True))] += block
    return total, low


def pull_edge(edge: Edge, block: np.ndarray, starts: Sequence[int]) -> Block:
    """The transpose of one edge."""
    mapped = [t for t in edge.to if t is not None]
    gone = tuple(a for a in range(block.ndim) if a not in mapped)
    array = block.sum(axis=gone) if gone else block
    kept = [a for a in range(block.ndim) if a in mapped]
    array = array.transpose([kept.index(t) for t in mapped])
    array = np.expand_dims(array, tuple(j for j, t in enumerate(edge.to) if t is None))
    corner = [0 if t is None else starts[t] for t in edge.to]
    if edge.mid is not None:
        whole = np.zeros(edge.mid, array.dtype)
        whole[tuple(slice(c, c + n) for c, n in zip(corner, array.shape, strict=True))] = array
        array = whole.reshape(edge.linked_shape())
        corner = [0] * array.ndim
    for axis, link in enumerate(edge.links):
        if link is not None:
            array, corner[axis] = link.pull(array, axis, corner[axis])
    return array, tuple(corner)


# ----------------------------------------------------------------------------------------------------------- forwards
def ancestors(out: Node, through_global: bool = False, choices: bool = False) -> list[Node]:
    """The nodes that `out` depends on and itself, sources first; with `choices` also those that only choose."""
    seen: dict[int, Node] = {}
    stack = [out]
    while stack:
        node = stack.pop()
        if node.number not in seen:
            seen[node.number] = node
            stack.extend(e.src for e in node.edges if e.counts(through_global) or (e.choice and choices))
    return [seen[n] for n in sorted(seen)]


def push_totals(source: Node, out: Node, through_global: bool = False) -> dict[int, np.ndarray]:
    """Per node, how many paths lead from all inputs to each of its positions; divided by a power of two above 2^900."""
    totals: dict[int, np.ndarray] = {}
    powers: dict[int, int] = {}
    for node in ancestors(out, through_global):
        if node is source:
            totals[node.number], powers[node.number] = np.ones(node.shape), 0
            continue
        total = np.zeros(node.shape)
        read = [e for e in node.edges if e.src.number in totals and e.counts(through_global)]
        top = max((powers[e.src.number] for e in read), default=0)
        for edge in read:
            part = push_edge(edge, totals[edge.src.number], len(node.axes))
            total = total + lowered(part, top - powers[edge.src.number])
        totals[node.number], more = scaled(total)
        powers[node.number] = top + more
    return totals


def push_edge(edge: Edge, array: np.ndarray, rank: int) -> np.ndarray:
    """One edge applied to an array on its source, up to broadcasting over the axes that it does not map to."""
    for axis, link in enumerate(edge.links):
        if link is not None:
            array = link.push(array, axis)
    return _placed(edge, array.reshape(edge.mid_shape()), rank)


def _placed(edge: Edge, array: np.ndarray, rank: int) -> np.ndarray:
    """Axes of the edge's middle put where they go; missing ones have length one."""
    dropped = tuple(j for j, t in enumerate(edge.to) if t is None)
    array = array.squeeze(axis=dropped) if dropped else array
    places = [t for t in edge.to if t is not None]
    array = array.transpose(np.argsort(places))
    return np.expand_dims(array, tuple(a for a in range(rank) if a not in places))


class Bounds:
    """Per node the smallest and largest input position along one axis that each of its positions reads.

    With `choices` also what only chooses among values is followed. With `nominal` the input is taken to go on beyond
    its borders. Without `holes`, what reads nothing because of another axis's borders counts as if it read: arrays then
    stay as long as this one axis, and bounds are never narrower. `jumps[node]` holds, per axis of a node, how many
    input positions one step is worth (None where the axis does not move along the input).
    """

    def __init__(self, source: Node, out: Node, axis: int, nominal: bool, choices: bool = False, holes: bool = True):
        self.source, self.axis, self.nominal, self.choices, self.holes = source, axis, nominal, choices, holes
        line = [1] * len(source.axes)
        line[axis] = source.axes[axis].count
        start = np.arange(line[axis], dtype=np.float64).reshape(line)
        self.low: dict[int, np.ndarray] = {source.number: start}
        self.high: dict[int, np.ndarray] = {source.number: start}
        self.jumps: dict[int, list[Fraction | None]] = {
            source.number: [Fraction(1) if a == axis else None for a in range(len(source.axes))]
        }
        for node in ancestors(out, choices=choices):
            if node is not source:
                self._visit(node)

    def _visit(self, node: Node) -> None:
        rank = len(node.axes)
        low = high = None
        jumps: list[tuple[int, Fraction | None]] = [(-1, None)] * rank
        for edge in node.edges:
            wanted = edge.counts(False) or (edge.choice and self.choices)
            if not wanted or edge.src.number not in self.low:
                continue
            a, b = (self._through(edge, side, rank) for side in (False, True))
            low = a if low is None else np.minimum(low, a)
            high = b if high is None else np.maximum(high, b)
            for t, jump in _jump_after(edge, self.jumps[edge.src.number]).items():
                weight = math.prod(edge.src.shape)
                if jump is not None and weight > jumps[t][0]:
                    jumps[t] = (weight, jump)
        if low is not None and high is not None:
            self.low[node.number], self.high[node.number] = low, high
            self.jumps[node.number] = [j for _, j in jumps]

    def _through(self, edge: Edge, largest: bool, rank: int) -> np.ndarray:
        array = (self.high if largest else self.low)[edge.src.number]
        jumps = self.jumps[edge.src.number]
        nothing = -np.inf if largest else np.inf
        for axis, link in enumerate(edge.links):
            if link is None:
                continue
            jump = jumps[axis] if self.nominal else None
            if array.shape[axis] > 1 or (edge.src.axes[axis].count == 1 and jumps[axis] is not None):
                array = link.extreme(array, axis, largest, jump)
                continue
            if not self.holes and array.size > 1:  # a lone row that was sliced off may be put anywhere
                continue
            holes = link.empty_rows if not self.nominal or link.affine is None else _lattice_holes(link)
            if holes.any():
                shape = [1] * array.ndim
                shape[axis] = len(holes)
                array = np.where(holes.reshape(shape), nothing, array)
        if edge.mid is not None:
            array = _reshape_bounds(array, edge.linked_shape(), edge.mid)
        return _placed(edge, array, rank)


def _lattice_holes(link: Any) -> np.ndarray:
    """Rows that read nothing even where the input goes on for ever."""
    return np.resize(np.equal(link.affine.taps_per_phase(), 0), link.n_out)


def _reshape_bounds(array: np.ndarray, old: Sequence[int], new: Sequence[int]) -> np.ndarray:
    """Reshape an array whose axes have full length or one; runs of ones stay ones."""
    full, result = [], []
    for left, right in groups(old, new):
        flat = all(array.shape[i] == 1 for i in left)
        full += [1 if flat else old[i] for i in left]
        result += [1 if flat else new[j] for j in right]
    return np.broadcast_to(array, full).reshape(result)


def _jump_after(edge: Edge, jumps: Sequence[Fraction | None]) -> dict[int, Fraction | None]:
    """What a step along each axis of the edge's result is worth."""
    after: list[Fraction | None] = []
    for jump, link in zip(jumps, edge.links, strict=True):
        step = Fraction(1) if link is None else link.step
        after.append(None if jump is None or step == 0 else jump * step)
    if edge.mid is not None:
        after = _jumps_reshaped(after, edge.linked_shape(), edge.mid)
    return {t: after[j] for j, t in enumerate(edge.to) if t is not None}


def _jumps_reshaped(jumps, old: Sequence[int], new: Sequence[int]) -> list[Fraction | None]:
    result: list[Fraction | None] = [None] * len(new)
    for left, right in groups(old, new):
        moving = [i for i in left if jumps[i] is not None]
        if not moving:
            continue
        last = moving[-1]
        flat = jumps[last] / math.prod(old[i] for i in left if i > last)
        for j in right:
            result[j] = flat * math.prod(new[k] for k in right if k > j)
    return result


def bounds(graph: Graph, source: Node, out: Node, axis: int, nominal: bool) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest input position along `axis` that each position of `out` reads (infinite: none)."""
    swept = Bounds(source, out, axis, nominal)
    if out.number not in swept.low:
        shape = (1,) * len(out.axes)
        return np.full(shape, np.inf), np.full(shape, -np.inf)
    return swept.low[out.number], swept.high[out.number]


def alignments(traced: Any) -> list[int]:
    """Per axis the smallest shift of the input that shifts every value of the network by whole positions."""
    return [math.lcm(*(j.numerator for j in steps)) for steps, _ in _steps(traced)]


def periods(traced: Any) -> list[tuple[int, int, int | None]]:
    """Per axis the alignment, a number of positions after which the phases of every node repeat, and that of `out`.

    A node's phases repeat after alignment / step positions; the alignment times the common denominator of all steps is
    a multiple of that for all of them. None where the result does not move along the axis.
    """
    found = []
    for steps, last in _steps(traced):
        align = math.lcm(*(j.numerator for j in steps))
        own = None if last is None else align * last.denominator // last.numerator
        found.append((align, align * math.lcm(*(j.denominator for j in steps)), own))
    return found


def widest(traced: Any, axis: int) -> Bounds:
    """The bounds along an axis of everything that may reach the output, of an input that goes on beyond its borders."""
    if axis not in traced.bounds:
        traced.bounds[axis] = Bounds(traced.source, traced.out, axis, True, choices=True, holes=False)
    return traced.bounds[axis]


def _steps(traced: Any) -> list[tuple[list[Fraction], Fraction | None]]:
    """Per axis the steps of all nodes in input positions, and the result's."""
    found = []
    for a in traced.spatial_axes:
        jumps = widest(traced, a).jumps
        steps = [abs(j) for of_node in jumps.values() for j in of_node if j is not None and j != 0]
        last = [abs(j) for j in jumps.get(traced.out.number, ()) if j is not None and j != 0]
        found.append((steps, last[0] if len(last) == 1 else None))
    return found
