"""Links: how often each position of one axis reads each position of another, as small sparse count matrices.

Every primitive that acts per axis (convolution, pooling, resize, pad, slice, ...) is one link an axis. A link is kept
as a table with one row per output position: the input positions it reads, padded with -1, and how often it reads each.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from jaxconv.lattice import Relation

_DENSE_TAPS = 48  # tables wider than this are applied as dense matrices


class Link:
    """A sparse count matrix of shape (n_out, n_in).

    `index[q]` holds the inputs that output q reads (-1: none), `weight` how often (None: once each). `affine` is the
    sliding relation the table is cut from, where there is one (then `index` may be None, and is made where it is asked
    for): it is what a nominal, unclipped field follows.
    `step` is how many input positions one output step is worth.
    """

    def __init__(self, n_out, n_in, index, weight=None, affine: Relation | None = None, step: Fraction | None = None):
        self.n_out, self.n_in = n_out, n_in
        self._index, self.weight, self.affine = index, weight, affine
        self.step = step if step is not None else Fraction(max(n_in, 1), max(n_out, 1))

    @cached_property
    def index(self) -> Any:
        return self.affine.met() if self._index is None and self.affine is not None else self._index

    @cached_property
    def columns(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The transposed table: for each input, the outputs that read it."""
        q, tap = np.nonzero(self.index >= 0)
        u = self.index[q, tap]
        order = np.argsort(u, kind="stable")
        q, tap, u = q[order], tap[order], u[order]
        readers = np.bincount(u, minlength=self.n_in)
        width = max(int(np.max(readers, initial=0)), 1)
        slot = np.arange(len(u)) - np.repeat(np.cumsum(readers) - readers, readers)
        index = np.full((self.n_in, width), -1, np.int64)
        index[u, slot] = q
        if self.weight is None:
            return index, None
        weight = np.zeros((self.n_in, width), self.weight.dtype)
        weight[u, slot] = self.weight[q, tap]
        return index, weight

    @cached_property
    def empty_rows(self) -> np.ndarray:
        return ~(self.index >= 0).any(axis=1)

    def dense(self) -> np.ndarray:
        """The matrix itself, for small sizes and for tests."""
        matrix = np.zeros((self.n_out, self.n_in), np.int64)
        for tap in range(self.index.shape[1]):
            q = np.nonzero(self.index[:, tap] >= 0)[0]
            np.add.at(matrix, (q, self.index[q, tap]), 1 if self.weight is None else self.weight[q, tap])
        return matrix

    def pull(self, block: np.ndarray, axis: int, start: int) -> tuple[np.ndarray, int]:
        """Counts on the outputs `start` .. along `axis` carried back to the inputs: a block and where it starts."""
        rows = self.index[start : start + block.shape[axis]]
        used = rows[rows >= 0]
        if used.size == 0:
            return _resize_axis(block, axis, 0), 0
        first, last = int(used.min()), int(used.max())
        index, weight = self.columns
        return _collect(block, axis, start, index[first : last + 1], _rows(weight, first, last + 1)), first

    def push(self, array: np.ndarray, axis: int) -> np.ndarray:
        """Totals over the inputs along `axis` summed into the outputs."""
        return _collect(array, axis, 0, self.index, self.weight)

    def extreme(self, array: np.ndarray, axis: int, largest: bool, jump: Fraction | None) -> np.ndarray:
        """Per output the minimum (or maximum) over what it reads; with `jump`, taps outside the input count as well.

        `jump` is what one input step is worth in the array's values: outside of the input the array goes on with its
        own period, so that the nominal field ignores the borders.
        """
        nothing = -np.inf if largest else np.inf
        array = np.moveaxis(array, axis, -1)
        if jump is not None and self.affine is not None:
            values = _slid(array, self.affine, jump, np.maximum if largest else np.minimum, nothing)
        else:
            valid = self.index >= 0
            values = np.where(valid, array[..., np.where(valid, self.index, 0)], nothing)
            values = values.max(-1) if largest else values.min(-1)
        return np.moveaxis(values, -1, axis)


def _slid(array: np.ndarray, at: Relation, jump: Fraction, better: np.ufunc, nothing: float) -> np.ndarray:
    """The best value of every window along the last axis, on the line that input, taps and outputs share.

    That line is filled once, the input going on with its period, and every tap is a slice of it: no table of windows.
    """
    reach = at.stride * (at.n_out - 1) + at.extent if at.n_out else 0
    inputs = np.arange(-(at.low // at.base), (reach - 1 - at.low) // at.base + 1)
    inside, shift = _periodic(inputs, at.n_in, jump)
    line = np.full((*array.shape[:-1], reach), nothing)
    line[..., at.low % at.base :: at.base] = array[..., inside] + shift
    found = np.full((*array.shape[:-1], at.n_out), nothing)
    for offset in at.offsets:
        better(found, line[..., offset :: at.stride][..., : at.n_out], out=found)
    return found


def _periodic(at: np.ndarray, size: int, jump: Fraction) -> tuple[np.ndarray, np.ndarray]:
    """Positions brought inside by whole periods, and the value that each move is worth."""
    period = min(jump.denominator, size)
    below = np.where(at < 0, -(at // period), 0)
    above = np.where(at >= size, -((at - size) // period) - 1, 0)
    moves = below + above
    return at + moves * period, -(moves * period) * float(jump)


def _rows(table: np.ndarray | None, start: int, stop: int) -> np.ndarray | None:
    return None if table is None else table[start:stop]


def _resize_axis(block: np.ndarray, axis: int, size: int) -> np.ndarray:
    shape = list(block.shape)
    shape[axis] = size
    return np.zeros(shape, block.dtype)


def _collect(block: np.ndarray, axis: int, start: int, index: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    """result[p] = sum over slots of weight[p, slot] * block[index[p, slot] - start] along `axis`."""
    size = block.shape[axis]
    local = np.where((index >= start) & (index < start + size), index - start, size)
    if index.shape[1] > _DENSE_TAPS and block.dtype != object:
        matrix = np.zeros((len(index), size + 1), block.dtype)
        rows = np.broadcast_to(np.arange(len(index))[:, None], index.shape)
        np.add.at(matrix, (rows, local), 1 if weight is None else weight)
        moved = np.tensordot(matrix[:, :size], block, axes=([1], [axis]))
        return np.moveaxis(moved, 0, axis)
    padded = np.concatenate([block, _resize_axis(block, axis, 1)], axis=axis)
    result = _resize_axis(block, axis, len(index))
    for slot in range(index.shape[1]):
        if (local[:, slot] == size).all():
            continue
        part = np.take(padded, local[:, slot], axis=axis)
        if weight is not None:
            part = part * weight[:, slot].reshape([-1 if a == axis else 1 for a in range(block.ndim)])
        result = result + part
    return result


@lru_cache(maxsize=4096)
def window(affine: Relation) -> Link:
    """The link of a sliding window, cut at the borders."""
    return Link(affine.n_out, affine.n_in, None, None, affine, Fraction(affine.stride, affine.base))


def take(positions: np.ndarray, n_in: int, step: Fraction | None = None) -> Link:
    """Output q reads input positions[q] once; -1 reads nothing."""
    index = np.asarray(positions, np.int64).reshape(-1, 1)
    return Link(len(index), n_in, index, None, None, step)


def from_pattern(pattern: np.ndarray, step: Fraction | None = None) -> Link:
    """The link of a matrix (n_out, n_in): once where it is true, or as often as its integers say."""
    pattern = np.asarray(pattern)
    n_out, n_in = pattern.shape
    q, u = np.nonzero(pattern)
    per_row = np.bincount(q, minlength=n_out)
    width = max(int(np.max(per_row, initial=0)), 1)
    index = np.full((n_out, width), -1, np.int64)
    slot = np.arange(len(q)) - np.repeat(np.cumsum(per_row) - per_row, per_row)
    index[q, slot] = u
    weight = None
    if pattern.dtype != bool and (pattern[q, u] != 1).any():
        weight = np.zeros((n_out, width), np.int64)
        weight[q, slot] = pattern[q, u]
    return Link(n_out, n_in, index, weight, None, step)


def repeated(index: np.ndarray, n_in: int) -> Fraction | None:
    """The step p/q of a table whose rows repeat every q, p inputs further, away from the ends; None where none do.

    A resize by a given scale keeps it at sizes that it does not divide: 65 -> 97 by 1.5 steps by 2/3, not by 65/97.
    """
    low = np.where(index >= 0, index, n_in).min(axis=1)
    inside = np.nonzero((low > 0) & (index.max(axis=1) < n_in - 1))[0]
    edge = len(index) // 8  # taps that fall together at an end are read once, and the others move up in the table
    inside = inside[(inside >= edge) & (inside < len(index) - edge)]
    if len(inside) < 4:  # too few to tell a period from chance
        return None
    rows, rate = index[inside[0] : inside[-1] + 1], n_in / len(index)
    for q in range(1, len(rows) // 2 + 1):
        p = round(q * rate)
        if p and np.array_equal(rows[q:], np.where(rows[:-q] >= 0, rows[:-q] + p, -1)):
            return Fraction(p, q)
    return None


@lru_cache(maxsize=256)
def sum_all(n_in: int) -> Link:
    """One output that reads everything once."""
    return Link(1, n_in, np.arange(n_in)[None, :], None, None, Fraction(0))


def compose(after: Link | None, before: Link | None) -> Link | None:
    """The link of `after` following `before`; None is the identity. Counts multiply and add up."""
    if after is None or before is None:
        return before if after is None else after
    if after.index.shape[1] == 1 and after.weight is None:
        rows = after.index[:, 0]
        index = np.where(rows[:, None] >= 0, before.index[rows], -1)
        weight = None if before.weight is None else before.weight[rows]
        return Link(after.n_out, before.n_in, index, weight, None, after.step * before.step)
    joined = from_pattern(after.dense() @ before.dense())
    joined.step = after.step * before.step
    return joined


def once(link: Link) -> Link:
    """The same link with every count cut to one."""
    return Link(link.n_out, link.n_in, link._index, None, link.affine, link.step)


def groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of old and new axes with equal products, in order."""
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) and j < len(new):
        left, right = [i], [j]
        a, b = old[i], new[j]
        while a != b:
            if a < b:
                i += 1
                left.append(i)
                a *= old[i]
            else:
                j += 1
                right.append(j)
                b *= new[j]
        found.append((left, right))
        i, j = i + 1, j + 1
    if i < len(old) or j < len(new):
        # What is left has length one: it carries nothing, and goes with the last run (or is a run of its own).
        if not found:
            found.append(([], []))
        found[-1][0].extend(range(i, len(old)))
        found[-1][1].extend(range(j, len(new)))
    return found
