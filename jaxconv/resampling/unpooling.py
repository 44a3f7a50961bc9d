"""How max-unpooling becomes XLA: which of several equal indices wins, and how the winners reach their places.

Indices are arbitrary, but nearly always they come from small windows: index u of output q then lies within q * s - 1 ..
q * s + s, where s is the ratio of the sizes. That is checked when the program runs, and where it holds every output
position picks from its few candidates; a scatter does the rest. Both give the same result to the bit. On
accelerators the scatter is fast, and asking the question costs a round trip to the host, so they always scatter.
"""

import itertools
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxconv._compat import left_to_the_partitioner

_MOST_CANDIDATES = 64  # of one q; bounds the size of the program


def unpool(y: Array, indices: Array, sizes: tuple[int, ...]) -> Array:
    """x[indices[q, c], c] = y[q, c], the last q in row-major order where several name one position, zero elsewhere."""
    # Scatters have no rule for shardings in their types, and indices are flat over axes that may be sharded.
    return left_to_the_partitioner(partial(_place, sizes=sizes), y, indices)


def _place(y: Array, indices: Array, sizes: tuple[int, ...]) -> Array:
    total = int(np.prod(sizes))
    # Whatever lies outside becomes `total`: dropped by the scatter, matched by no position.
    indices = jnp.where((indices >= 0) & (indices < total), indices, total).astype(jnp.int32)

    @jax.custom_jvp
    def place(y, indices):
        return _unpool(y, indices, sizes)[0]

    @place.defjvp
    def _(primals, tangents):
        y, indices = primals
        x, winners = _unpool(y, indices, sizes)
        # The tangent as a scatter to distinct places: its transpose is a gather that skips the losers.
        return x, _scatter(tangents[0], winners, sizes)

    return place(y, indices)


def _unpool(y: Array, indices: Array, sizes: tuple[int, ...]) -> tuple[Array, Array]:
    """The result, and the indices with `total` in place of those that lost."""
    n = y.shape[-len(sizes) - 1 : -1]
    steps = tuple(max(1, round(N / m)) for N, m in zip(sizes, n))
    if np.prod([s + 2 for s in steps]) > _MOST_CANDIDATES:
        return _by_scatter(y, indices, sizes)
    return lax.platform_dependent(
        y,
        indices,
        cpu=lambda y, i: _by_candidates(y, i, sizes, steps),
        default=lambda y, i: _by_scatter(y, i, sizes),
    )


# ------------------------------------------------------------------------------------------------------------ scatter
def _by_scatter(y: Array, indices: Array, sizes: tuple[int, ...]) -> tuple[Array, Array]:
    total, rank = int(np.prod(sizes)), len(sizes)
    shape, count = y.shape, int(np.prod(y.shape[-rank - 1 : -1]))
    flat = indices.reshape(-1, count, shape[-1])
    lead, channel = jnp.arange(flat.shape[0])[:, None, None], jnp.arange(shape[-1])
    order = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32)[:, None], flat.shape)
    # A scatter promises no order among duplicates, a maximum does not need one: the largest position wins.
    last = jnp.full((flat.shape[0], total, shape[-1]), -1, jnp.int32)
    last = last.at[lead, flat, channel].max(order, mode="drop")
    wins = last.at[lead, flat, channel].get(mode="fill", fill_value=-1) == order
    winners = jnp.where(wins, flat, total).reshape(shape)
    return _scatter(y, winners, sizes), winners


def _scatter(y: Array, winners: Array, sizes: tuple[int, ...]) -> Array:
    rank = len(sizes)
    shape, total = y.shape, int(np.prod(sizes))
    y = y.reshape(-1, int(np.prod(shape[-rank - 1 : -1])), shape[-1])
    lead, channel = jnp.arange(y.shape[0])[:, None, None], jnp.arange(shape[-1])
    x = jnp.zeros((y.shape[0], total, shape[-1]), y.dtype)
    x = x.at[lead, winners.reshape(y.shape), channel].set(y, mode="drop", unique_indices=True)
    return x.reshape(*shape[: -rank - 1], *sizes, shape[-1])


# --------------------------------------------------------------------------------------------------------- candidates
def _by_candidates(y: Array, indices: Array, sizes: tuple[int, ...], steps: tuple[int, ...]) -> tuple[Array, Array]:
    distinct = [(0, s - 1) for s in steps]  # windows that do not overlap
    near = [(-1, s) for s in steps]  # windows that overlap by one or two
    fits = [_all_within(indices, sizes, steps, reach) for reach in (distinct, near)]

    def pick_distinct(y, indices):
        return _pick(y, indices, sizes, steps, distinct), indices

    def pick_near(y, indices):
        winners = jnp.where(_later_neighbours_differ(indices, len(sizes)), indices, int(np.prod(sizes)))
        return _pick(y, winners, sizes, steps, near), winners

    case = jnp.where(fits[0], 0, jnp.where(fits[1], 1, 2))
    return lax.switch(case, [pick_distinct, pick_near, lambda y, i: _by_scatter(y, i, sizes)], y, indices)


def _all_within(indices: Array, sizes: Sequence[int], steps: Sequence[int], reach: Sequence[tuple[int, int]]) -> Array:
    """Whether every index of q lies within q * step + low .. q * step + high on each axis, or is dropped."""
    rank, rest, within = len(sizes), indices, jnp.ones(indices.shape, bool)
    for a in reversed(range(rank)):
        place = rest % sizes[a] if a else rest
        rest = rest // sizes[a]
        start = jnp.arange(indices.shape[a - rank - 1], dtype=jnp.int32) * steps[a]
        offset = place - start.reshape((-1,) + (1,) * (rank - a))
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
            padded = lax.pad(indices, jnp.int32(-1), config)
            start = [0] * indices.ndim
            start[first : first + rank] = [max(d, 0) for d in shift]
            wins &= lax.slice(padded, start, [a + n for a, n in zip(start, indices.shape)]) != indices
    return wins


def _pick(y: Array, winners: Array, sizes, steps, reach) -> Array:
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
        (lax.pad(y, jnp.zeros((), y.dtype), config), lax.pad(winners, jnp.int32(-1), config))
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


def _positions(sizes, steps, residue, blocks) -> Array:
    """Flat positions of the outputs of one residue; -2, which nothing matches, beyond the ends."""
    rank, place, stride, inside = len(sizes), 0, 1, True
    for a in reversed(range(rank)):
        u = (np.arange(blocks[a]) * steps[a] + residue[a]).reshape((-1,) + (1,) * (rank - a))
        place, stride, inside = place + u * stride, stride * sizes[a], inside & (u < sizes[a])
    return jnp.asarray(np.where(inside, place, -2), jnp.int32)
