"""im2col: the patches that a kernel meets, as a matrix, and one product.

``P[q, (t, i)] = x[s*q + d*t - lo, i]``, then

    apply    y = P w            (M x KI) (KI x O)
    kernel   w = P^T y          (KI x M) (M x O)
    adjoint  x = fold(y w^T)    the patches of the gradient, added back tap by tap (stride 1)

One large product instead of many small ones, at the price of a K times larger copy of x.

Source: Chellapilla et al. 2006 ("High performance convolutional neural networks for document processing").
"""

from __future__ import annotations

import itertools

import jax.numpy as jnp
from jax import Array, lax

from jaxconv.geometry import ConvGeometry
from jaxconv.lowering import taps
from jaxconv.lowering.call import Call
from jaxconv.lowering.lax import swap_grouped_channels


def serves(call: Call) -> bool:
    """As tap sums, but for depthwise calls, which have no product to make, and strided adjoints, which have no
    patches."""
    if call.depthwise or call.face == "adjoint" and any(s > 1 for s in call.geometry.stride):
        return False
    return taps.serves(call)


def apply(x: Array, w: Array, call: Call) -> Array:
    """y = P w."""
    g = call.geometry
    padded, lows = taps.pad_for(x, g.output_size, g.stride, _shifts(g))
    pieces = [_take(padded, sh, lows, g.output_size, g.stride) for sh in _shifts(g)]
    return _contract(pieces, w.reshape(-1, *w.shape[-2:]), call, call.channels_out)


def adjoint(y: Array, w: Array, call: Call) -> Array:
    """x = P' w', where P' are the patches of y and w' the kernel with its channels swapped."""
    g = call.geometry
    ones = (1,) * g.rank
    shifts = [tuple(-s for s in shift) for shift in _shifts(g)]
    padded, lows = taps.pad_for(y, g.input_size, ones, shifts)
    pieces = [_take(padded, sh, lows, g.input_size, ones) for sh in shifts]
    w = swap_grouped_channels(w, g.groups) if g.groups > 1 else jnp.swapaxes(w, -1, -2)
    return _contract(pieces, w.reshape(-1, *w.shape[-2:]), call, call.channels_in)


def kernel(x: Array, y: Array, call: Call) -> Array:
    """w = P^T y, contracted with y's side first: y is the smaller matrix, and stays where it is."""
    g = call.geometry
    dtype = call.product_dtype
    padded, lows = taps.pad_for(x, g.output_size, g.stride, _shifts(g))
    pieces = [_take(padded, sh, lows, g.output_size, g.stride) for sh in _shifts(g)]
    count, per_group = len(pieces), call.channels_in // g.groups
    if g.groups == 1:
        p = jnp.concatenate(pieces, axis=-1)
        lead = tuple(range(p.ndim - 1))
        w = lax.dot_general(y, p, ((lead, lead), ((), ())), precision=call.precision, preferred_element_type=dtype)
        return w.T.reshape(*g.kernel_size, per_group, call.channels_out).astype(call.out_dtype)
    stacked = jnp.concatenate([p.reshape(*p.shape[:-1], g.groups, per_group) for p in pieces], axis=-1)
    y = y.reshape(*y.shape[:-1], g.groups, call.channels_out // g.groups)
    lead, group = tuple(range(y.ndim - 2)), (y.ndim - 2,)
    w = lax.dot_general(
        y, stacked, ((lead, lead), (group, group)), precision=call.precision, preferred_element_type=dtype
    )
    w = w.reshape(g.groups, call.channels_out // g.groups, count, per_group)
    w = jnp.transpose(w, (2, 3, 0, 1))
    return w.reshape(*g.kernel_size, per_group, call.channels_out).astype(call.out_dtype)


def _shifts(g: ConvGeometry) -> list[tuple[int, ...]]:
    """d*t - lo of every tap, row-major."""
    return [
        tuple(d * tt - lo for tt, d, lo in zip(t, g.dilation, g.offsets, strict=True))
        for t in itertools.product(*map(range, g.kernel_size))
    ]


def _take(padded: Array, shift, lows, size, step) -> Array:
    return taps.cut(padded, tuple(sh + lo for sh, lo in zip(shift, lows, strict=True)), size, step)


def _contract(pieces: list[Array], w: Array, call: Call, channels: int) -> Array:
    """(taps of (..., C)) times (taps, C/groups, out): one product, or one batched over the groups."""
    groups = call.geometry.groups
    if groups > 1:  # channels group by group, and within a group tap by tap
        pieces = [q.reshape(*q.shape[:-1], groups, q.shape[-1] // groups) for q in pieces]
    p = jnp.concatenate(pieces, axis=-1)
    p = p.reshape(*p.shape[:-2], -1) if groups > 1 else p
    return taps.product(p, w.reshape(-1, channels), call, call.product_dtype).astype(call.out_dtype)
