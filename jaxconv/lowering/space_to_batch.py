"""Space-to-batch: a dilated axis split by residue, which leaves dilation 1.

Where the kernel's spacing d is more than 1 and the other two spacings of ``b*u + lo = s*q + d*t`` are 1, the input and
the output are split by their residue modulo d, ``u + lo = d*v + r`` and ``q = d*v' + r``. The residues become batch
elements of a problem of dilation 1, in all three faces, which goes through the choice again.

[`phases`][jaxconv.lowering.phases] is the same move for the output's spacing.

Source: Chen et al. 2018 (arXiv:1606.00915), section 3.1.
"""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
from jax import Array, lax

from jaxconv.geometry import ConvGeometry
from jaxconv.lattice import Relation
from jaxconv.lowering.call import Call


def serves(call: Call) -> bool:
    """Some axis is dilated, and no dilated axis is strided; base dilation 1."""
    g = call.geometry
    return (
        any(d > 1 and k > 1 for d, k in zip(g.dilation, g.kernel_size, strict=True))
        and all(b == 1 for b in g.base_dilation)
        and all(s == 1 or d == 1 for s, d in zip(g.stride, g.dilation, strict=True))
    )


def inner_call(call: Call) -> Call:
    """The dilation-1 call on the residues."""
    g = call.geometry
    first, count, rows = _range(g)
    inner = dataclasses.replace(
        g,
        input_size=count,
        output_size=rows,
        dilation=(1,) * g.rank,
        pads=tuple(
            pads if d == 1 else (f, Relation(c, m, k, low=f).least_high)
            for pads, f, c, m, k, d in zip(g.pads, first, count, rows, g.kernel_size, g.dilation, strict=True)
        ),
        padding_rule=None,
    )
    return dataclasses.replace(call, geometry=inner, batch=call.batch * math.prod(g.dilation))


def _range(g: ConvGeometry):
    """Per axis: first v and number of v for the input, number of output elements a residue."""
    first, count, rows = [], [], []
    for lo, n, m, d in zip(g.offsets, g.input_size, g.output_size, g.dilation, strict=True):
        if d == 1:
            first.append(0)
            count.append(n)
            rows.append(m)
            continue
        f = lo // d
        first.append(f)
        count.append((lo + n - 1) // d - f + 1)
        rows.append(-(-m // d))
    return tuple(first), tuple(count), tuple(rows)


def apply(x: Array, w: Array, call: Call, run) -> Array:
    """Residues of x into the batch, a dilation-1 convolution, residues of y back."""
    return _join_output(run(inner_call(call), _split_input(x, call.geometry), w), call.geometry)


def adjoint(y: Array, w: Array, call: Call, run) -> Array:
    """Residues of y into the batch, a dilation-1 adjoint, residues of x back."""
    return _join_input(run(inner_call(call), _split_output(y, call.geometry), w), call.geometry)


def kernel(x: Array, y: Array, call: Call, run) -> Array:
    """Residues of x and y into the batch, a dilation-1 kernel face: the sum over the batch is the sum over residues."""
    return run(inner_call(call), _split_input(x, call.geometry), _split_output(y, call.geometry))


def _split_input(x: Array, g: ConvGeometry) -> Array:
    first, count, _ = _range(g)
    lows = [0 if d == 1 else lo - d * f for lo, d, f in zip(g.offsets, g.dilation, first, strict=True)]
    return split(x, lows, count, g.dilation)


def _split_output(y: Array, g: ConvGeometry) -> Array:
    return split(y, (0,) * g.rank, _range(g)[2], g.dilation)


def _join_output(y: Array, g: ConvGeometry) -> Array:
    return join(y, (0,) * g.rank, g.output_size, g.dilation)


def _join_input(x: Array, g: ConvGeometry) -> Array:
    first, _, _ = _range(g)
    lows = [0 if d == 1 else lo - d * f for lo, d, f in zip(g.offsets, g.dilation, first, strict=True)]
    return join(x, lows, g.input_size, g.dilation)


def split(x: Array, lows, count, rate) -> Array:
    """(N, *n, C) -> (N * prod(rate), *count, C): element low + u lies at rate*v + r."""
    rank = len(rate)
    config = [(lo, c * d - n - lo, 0) for lo, c, d, n in zip(lows, count, rate, x.shape[1:-1], strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *config, (0, 0, 0)])
    shape = [x.shape[0]]
    for c, d in zip(count, rate, strict=True):
        shape += [c, d]
    x = x.reshape(*shape, x.shape[-1])
    x = jnp.transpose(x, [0, *range(2, 2 * rank + 1, 2), *range(1, 2 * rank, 2), 2 * rank + 1])
    return x.reshape(-1, *count, x.shape[-1])


def join(x: Array, lows, size, rate) -> Array:
    """The inverse of `split`, cropped."""
    rank = len(rate)
    count = x.shape[1:-1]
    x = x.reshape(-1, *rate, *count, x.shape[-1])
    order = [0]
    for axis in range(rank):
        order += [1 + rank + axis, 1 + axis]
    x = jnp.transpose(x, [*order, 2 * rank + 1])
    x = x.reshape(x.shape[0], *(c * d for c, d in zip(count, rate, strict=True)), x.shape[-1])
    return lax.slice(x, (0, *lows, 0), (x.shape[0], *(lo + n for lo, n in zip(lows, size, strict=True)), x.shape[-1]))
