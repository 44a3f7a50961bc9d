"""Groups as a few dense convolutions: neighbouring groups are merged into block-diagonal kernels of about 32 channels.

A grouped convolution is block-diagonal in its channels. XLA's own grouped convolution on CPUs is slow, and a group of 4
or 8 channels is too narrow for a fast matrix product, so `merge` groups at a time become one dense problem, whose
kernel is zero outside its diagonal blocks:

    y[blocks of merge groups] = dense face on (merge * I/groups) -> (merge * O/groups) channels

The zeros cost `merge` times the arithmetic and buy full vector width. For the kernel face the dense result's diagonal
blocks are kept. Zero times infinity is not zero: where the result is not finite, the groups are computed again, each by
itself (groups may be what `vmap` mapped over, and one member's fault is not the others').
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array, lax

from jaxconv.lowering import lax as window
from jaxconv.lowering.call import Call

# Below this many channels a dense convolution of XLA's CPU backend loses its vector width (measured: 16 channels reach
# half the rate of 32).
WIDTH = 32
# More dense problems than this are never unrolled into one program.
MOST_BLOCKS = 32


def serves(call: Call) -> bool:
    """Groups of more than one channel that merge into few enough blocks; depthwise calls belong to tap sums."""
    return 1 < call.geometry.groups < call.channels_in and _count(call) <= MOST_BLOCKS


def merged(groups: int, channels_in: int, channels_out: int) -> int:
    """How many groups make a block: the smallest divisor that gives it WIDTH channels on its narrower side."""
    narrow = min(channels_in, channels_out) // groups
    for merge in range(1, groups + 1):
        if groups % merge == 0 and narrow * merge >= WIDTH:
            return merge
    return groups


def _count(call: Call) -> int:
    """How many blocks there are."""
    groups = call.geometry.groups
    return groups // merged(groups, call.channels_in, call.channels_out)


def dense_call(call: Call) -> Call:
    """The dense call that each block leaves."""
    g = call.geometry
    count = _count(call)
    return dataclasses.replace(
        call,
        geometry=dataclasses.replace(g, groups=1),
        channels_in=call.channels_in // count,
        channels_out=call.channels_out // count,
    )


def apply(x: Array, w: Array, call: Call, run) -> Array:
    """Each block of input channels through its block-diagonal kernel."""
    return _products(x, w, call, run)


def adjoint(y: Array, w: Array, call: Call, run) -> Array:
    """Each block of output channels back through its block-diagonal kernel."""
    return _products(y, w, call, run)


def kernel(x: Array, y: Array, call: Call, run) -> Array:
    """The diagonal blocks of each dense kernel gradient."""
    inner, count, merge = _plan(call)
    parts = []
    for a, b in zip(jnp.split(x, count, -1), jnp.split(y, count, -1), strict=True):
        dense = run(inner, a, b)
        i, o = dense.shape[-2] // merge, dense.shape[-1] // merge
        corner = (0,) * call.geometry.rank
        for j in range(merge):
            start, stop = (*corner, j * i, j * o), (*dense.shape[:-2], (j + 1) * i, (j + 1) * o)
            parts.append(lax.slice(dense, start, stop))
    return jnp.concatenate(parts, -1)


def _plan(call: Call) -> tuple[Call, int, int]:
    count = _count(call)
    return dense_call(call), count, call.geometry.groups // count


def _products(data: Array, w: Array, call: Call, run) -> Array:
    inner, count, merge = _plan(call)
    kernels = block_diagonal(w, count, merge)
    out = jnp.concatenate([run(inner, a, k) for a, k in zip(jnp.split(data, count, -1), kernels, strict=True)], -1)
    return out if merge == 1 else window.apart_where_not_finite(out, data, w, call)


def block_diagonal(w: Array, count: int, merge: int) -> list[Array]:
    """(*k, I', O) of count * merge groups -> `count` kernels (*k, merge*I', O/count), zero off their diagonal
    blocks."""
    *taps, i, out = w.shape
    o = out // (count * merge)
    if merge == 1:
        return jnp.split(w, count, -1)
    w = w.reshape(*taps, i, count, merge, o)
    eye = jnp.eye(merge, dtype=w.dtype).reshape(merge, 1, 1, merge, 1)
    # (*taps, merge, i, count, merge, o): the kernel where the two merge indices agree
    spread = jnp.expand_dims(w, len(taps)) * eye
    spread = spread.reshape(*taps, merge * i, count, merge * o)
    return [spread[..., j, :] for j in range(count)]
