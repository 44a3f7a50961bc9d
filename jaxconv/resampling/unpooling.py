"""How max-unpooling becomes XLA: which of several equal indices wins, and how values reach their places and come back.

Indices are arbitrary, but nearly always they come from small windows: index u of output q then lies within q * s - 1 ..
q * s + s, where s is the ratio of the sizes. That is checked when the program runs, and where it holds every output
position picks from its few candidates (and the gradient of each q from the few positions that it may have named); a
scatter and a gather do the rest. All give the same result to the bit.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxconv._compat import left_to_the_partitioner
from jaxconv.resampling.windows import axis_taps, index_dtype

_MOST_CANDIDATES = 64  # of one q; bounds the size of the program

Reach = Sequence[tuple[int, int]]


def unpool(y: Array, indices: Array, sizes: tuple[int, ...]) -> Array:
    """x[indices[q, c], c] = y[q, c], the last q in row-major order where several name one position, zero elsewhere."""
    # Scatters have no rule for shardings in their types, and indices are flat over axes that may be sharded.
    return left_to_the_partitioner(partial(_place, sizes=sizes), y, indices)


def _place(y: Array, indices: Array, sizes: tuple[int, ...]) -> Array:
    total = int(np.prod(sizes))
    # Whatever lies outside becomes `total`: dropped by the scatter, matched by no position.
    dtype = index_dtype(sizes)
    inside = (indices >= 0) & (indices < total) if total <= jnp.iinfo(indices.dtype).max else indices >= 0
    indices = jnp.where(inside, indices.astype(dtype), jnp.asarray(total, dtype))
    ways = _ways(y.shape, sizes)

    @jax.custom_jvp
    def place(y, indices):
        return _forward(y, indices, sizes, ways)[0]

    @place.defjvp
    def _(primals, tangents):
        y, indices = primals
        x, winners, way = _forward(y, indices, sizes, ways)
        # The tangent as the transpose of collecting what the winners named: reverse mode transposes it back into that.
        transpose = jax.linear_transpose(lambda z: _collect(z, winners, y.shape, sizes, ways, way), x)
        return x, transpose(tangents[0])[0]

    return place(y, indices)


def _ways(shape: tuple[int, ...], sizes: tuple[int, ...]) -> list[tuple[tuple[int, ...], Reach]]:
    """(steps, reach) of the candidates worth asking for, fewest first; none where they would be many."""
    n = shape[-len(sizes) - 1 : -1]
    steps = tuple(max(1, round(N / m)) for N, m in zip(sizes, n))
    if np.prod([s + 2 for s in steps]) > _MOST_CANDIDATES:
        return []
    # Windows that do not overlap; windows that overlap by one or two.
    return [(steps, [(0, s - 1) for s in steps]), (steps, [(-1, s) for s in steps])]


def _forward(y: Array, indices: Array, sizes: tuple[int, ...], ways) -> tuple[Array, Array, Array]:
    """The result, the indices with `total` in place of those that lost, and the way that served."""
    if not ways:
        return *_by_scatter(y, indices, sizes), jnp.int32(0)
    (steps, distinct), (_, near) = ways

    def pick_distinct(y, indices):
        return _pick(y, indices, sizes, steps, distinct), indices

    def pick_near(y, indices):
        winners = jnp.where(_later_neighbours_differ(indices, len(sizes)), indices, int(np.prod(sizes)))
        return _pick(y, winners, sizes, steps, near), winners

    fits = [_all_within(indices, sizes, steps, reach) for _, reach in ways]
    way = jnp.where(fits[0], 0, jnp.where(fits[1], 1, 2)).astype(jnp.int32)
    return *lax.switch(way, [pick_distinct, pick_near, partial(_by_scatter, sizes=sizes)], y, indices), way


def _collect(x: Array, winners: Array, shape: tuple[int, ...], sizes: tuple[int, ...], ways, way: Array) -> Array:
    """y[q, c] = x[winners[q, c], c], zero for those that lost: a linear map of x."""
    collectors = [partial(_read_near, sizes=sizes, steps=steps, reach=reach) for steps, reach in ways]
    collectors.append(partial(_gather, sizes=sizes))
    return lax.switch(way, collectors, x, winners) if ways else collectors[0](x, winners)


# ------------------------------------------------------------------------------------------------------------ scatter
# One index a value: batch and channels are batching dimensions, which the partitioner splits without moving anything.
_SCATTER = lax.ScatterDimensionNumbers(
    update_window_dims=(),
    inserted_window_dims=(1,),
    scatter_dims_to_operand_dims=(1,),
    operand_batching_dims=(0, 2),
    scatter_indices_batching_dims=(0, 2),
)
_GATHER = lax.GatherDimensionNumbers(
    offset_dims=(),
    collapsed_slice_dims=(1,),
    start_index_map=(1,),
    operand_batching_dims=(0, 2),
    start_indices_batching_dims=(0, 2),
)


def _flat(a: Array, rank: int) -> Array:
    """(batch, positions, channels)."""
    batch, spatial = a.shape[: -rank - 1], a.shape[-rank - 1 : -1]
    return a.reshape(math.prod(batch), math.prod(spatial), a.shape[-1])  # the batch may be open: NumPy's is an int


def _by_scatter(y: Array, indices: Array, sizes: tuple[int, ...]) -> tuple[Array, Array]:
    total, rank = int(np.prod(sizes)), len(sizes)
    flat = _flat(indices, rank)
    order = lax.broadcasted_iota(flat.dtype, flat.shape, 1)
    # A scatter promises no order among duplicates, a maximum does not need one: the largest position wins.
    last = jnp.full((flat.shape[0], total, flat.shape[2]), -1, flat.dtype)
    last = lax.scatter_max(last, flat[..., None], order, _SCATTER, mode="drop")
    wins = _gather_flat(last, flat, -1) == order
    winners = jnp.where(wins, flat, total)
    x = jnp.zeros((flat.shape[0], total, flat.shape[2]), y.dtype)
    x = lax.scatter(x, winners[..., None], _flat(y, rank), _SCATTER, unique_indices=True, mode="drop")
    return x.reshape(*y.shape[: -rank - 1], *sizes, y.shape[-1]), winners.reshape(y.shape)


def _gather(x: Array, winners: Array, sizes: tuple[int, ...]) -> Array:
    rank = len(sizes)
    return _gather_flat(_flat(x, rank), _flat(winners, rank), 0, unique=True).reshape(winners.shape)


def _gather_flat(x: Array, indices: Array, fill, *, unique: bool = False) -> Array:
    return lax.gather(x, indices[..., None], _GATHER, (1, 1, 1), unique_indices=unique, mode="fill", fill_value=fill)


# --------------------------------------------------------------------------------------------------------- candidates
def _all_within(indices: Array, sizes: Sequence[int], steps: Sequence[int], reach: Reach) -> Array:
    """Whether every index of q lies within q * step + low .. q * step + high on each axis, or is dropped."""
    rank, rest, within = len(sizes), indices, jnp.ones(indices.shape, bool)
    for a in reversed(range(rank)):
        place = rest % sizes[a] if a else rest
        rest = rest // sizes[a]
        offset = place - lax.broadcasted_iota(indices.dtype, indices.shape, indices.ndim + a - rank - 1) * steps[a]
        within &= (offset >= reach[a][0]) & (offset <= reach[a][1])
    return jnp.all(within | (indices == int(np.prod(sizes))))


def _later_neighbours_differ(indices: Array, rank: int) -> Array:
    """Whether no later q names the same position: within reach (-1, step) only direct neighbours could."""
    wins = jnp.ones(indices.shape, bool)
    first = indices.ndim - rank - 1
    for shift in itertools.product((-1, 0, 1), repeat=rank):
        if shift > (0,) * rank:
            config = [(0, 0, 0)] * indices.ndim
            for a, d in enumerate(shift):
                config[first + a] = (max(-d, 0), max(d, 0), 0)
            padded = lax.pad(indices, jnp.asarray(-1, indices.dtype), config)
            start = [0] * indices.ndim
            start[first : first + rank] = [max(d, 0) for d in shift]
            wins &= lax.slice(padded, start, [a + n for a, n in zip(start, indices.shape)]) != indices
    return wins


def _pick(y: Array, winners: Array, sizes, steps, reach: Reach) -> Array:
    """Each position u = p * step + r takes the value of the q in its reach whose index is u."""
    rank, n = len(sizes), y.shape[-len(sizes) - 1 : -1]
    first = y.ndim - rank - 1
    # Position u of residue r can come from q = p + (r - offset) / step for the offsets congruent to r.
    shifts = [
        [sorted((r - o) // s for o in range(lo, hi + 1) if (r - o) % s == 0) for r in range(s)]
        for s, (lo, hi) in zip(steps, reach)
    ]
    blocks = [-(-N // s) for N, s in zip(sizes, steps)]
    low = [-min(min(q) for q in shift) for shift in shifts]
    high = [max(max(max(q) for q in shift) + p - m, 0) for shift, p, m in zip(shifts, blocks, n)]
    config = [(0, 0, 0)] * first + [(lo, hi, 0) for lo, hi in zip(low, high)] + [(0, 0, 0)]
    # Padded once and kept: fused into every reader, the border tests cost more than the arithmetic.
    padded = lax.optimization_barrier(
        (lax.pad(y, jnp.zeros((), y.dtype), config), lax.pad(winners, jnp.asarray(-1, winners.dtype), config))
    )

    def window(array: Array, q: Sequence[int]) -> Array:
        start = [0] * first + [lo + d for lo, d in zip(low, q)] + [0]
        stop = [*array.shape[:first], *(b + p for b, p in zip(start[first:-1], blocks)), array.shape[-1]]
        return lax.slice(array, start, stop)

    phases = []
    for residue in itertools.product(*(range(s) for s in steps)):
        place = _positions(sizes, steps, residue, blocks)
        value = jnp.zeros((), y.dtype)
        for q in itertools.product(*(shift[r] for shift, r in zip(shifts, residue))):
            value = jnp.where(window(padded[1], q) == place, window(padded[0], q), value)
        phases.append(value)
    x = jnp.stack(phases, -2).reshape(*y.shape[:first], *blocks, *steps, y.shape[-1])
    pairs = [axis for a in range(rank) for axis in (first + a, first + rank + a)]
    x = lax.transpose(x, (*range(first), *pairs, first + 2 * rank))
    for axis in range(first, first + rank):  # one pair at a time: a reshape that keeps explicit shardings
        x = x.reshape(x.shape[:axis] + (x.shape[axis] * x.shape[axis + 1],) + x.shape[axis + 2 :])
    return lax.slice(x, (0,) * x.ndim, (*x.shape[:first], *sizes, x.shape[-1]))


def _read_near(x: Array, winners: Array, *, sizes, steps, reach: Reach) -> Array:
    """y[q] takes the position q * step + offset in its reach that its index names."""
    y = jnp.zeros(winners.shape, x.dtype)
    for offsets, part in _taps(x, winners.shape, steps, reach):
        # Offsets beyond the ends read zeros, and their places may be those of others.
        y = y + jnp.where(winners == _places(winners.shape, sizes, steps, offsets), part, jnp.zeros((), x.dtype))
    return y


def _taps(x: Array, shape: tuple[int, ...], steps, reach: Reach) -> Iterator[tuple[tuple[int, ...], Array]]:
    """(offsets, the slice x[q * step + offsets] for every q); zero beyond the ends."""
    rank = len(steps)
    parts: list[tuple[tuple[int, ...], Array]] = [((), x)]
    for a, (s, (lo, hi)) in enumerate(zip(steps, reach)):
        axis, offsets = a - rank - 1, range(lo, hi + 1)
        parts = [
            ((*before, o), tap)
            for before, part in parts
            for o, tap in zip(offsets, axis_taps(part, axis, [o - lo for o in offsets], s, -lo, shape[axis], 0))
        ]
    yield from parts


def _places(shape: tuple[int, ...], sizes, steps, offsets) -> Array:
    """Flat positions q * step + offset of every q; -2, which no index names, where an axis would be left."""
    dtype = index_dtype(sizes)
    rank, place, stride, inside = len(sizes), jnp.zeros((), dtype), 1, True
    small = (*shape[-rank - 1 : -1], 1)
    for a in reversed(range(rank)):
        u = lax.broadcasted_iota(dtype, small, a) * steps[a] + offsets[a]
        place, stride = place + u * stride, stride * sizes[a]
        if offsets[a] < 0 or (shape[a - rank - 1] - 1) * steps[a] + offsets[a] >= sizes[a]:
            inside &= (u >= 0) & (u < sizes[a])
    return place if inside is True else jnp.where(inside, place, -2)


def _positions(sizes, steps, residue, blocks) -> Array:
    """Flat positions of the outputs of one residue; -2, which nothing matches, beyond the ends."""
    return _places((*blocks, 1), sizes, steps, residue)
