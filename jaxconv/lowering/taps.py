"""Tap sums: each face as a sum over the kernel's taps of products of shifted slices.

For tap t the outputs that meet the input are a box: ``q`` with ``0 <= s*q + d*t - lo < n``. So

    apply    y[box]   += x[s*q + d*t - lo] w[t]
    adjoint  x[s*q + d*t - lo] += y[box] w[t]^T       (stride 1)
    kernel   w[t]      = sum over box of x[s*q + d*t - lo]^T y[box]

and what falls on padding is never computed: at dilation 18 on a 33x33 map that is 59% of the nominal work. A product is
a matrix product where channels mix, a batched one where groups do, and an element-wise multiply-add, one fused loop
over all taps, where each channel stands alone (depthwise).

Source: the shift-and-add form of a convolution; boxes as in Dumoulin and Visin 2016 (arXiv:1603.07285), section 2.3.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike

from jaxconv.geometry import ConvGeometry
from jaxconv.lowering import phases
from jaxconv.lowering.call import Call
from jaxconv.lowering.lax import swap_grouped_channels

# More taps than this are never unrolled into one program: compile time is a cost that the user pays.
MOST_TAPS = 128


def serves(call: Call) -> bool:
    """Base dilation 1, few taps, and for the adjoint stride 1 unless each channel stands alone (phases bring the rest
    there)."""
    g = call.geometry
    if math.prod(g.kernel_size) > MOST_TAPS or any(b != 1 for b in g.base_dilation):
        return False
    if call.face != "adjoint" or all(s == 1 for s in g.stride):
        return True
    return call.depthwise and call.channels_in == call.channels_out and phases.serves(call)


def apply(x: Array, w: Array, call: Call) -> Array:
    """y = sum over taps of (slice of x) w[t], over the box of each tap."""
    g = call.geometry
    if call.depthwise:
        return _depthwise_sum(x, w, call, g, list(boxes(g)), g.output_size)
    found = list(boxes(g))
    dtype = _term_dtype(call, found)
    pieces = (
        (out_low, product(cut(x, in_low, size, g.stride), w[t], call, dtype)) for t, out_low, in_low, size in found
    )
    return _add_up(pieces, (x.shape[0], *g.output_size, call.channels_out), call)


def adjoint(y: Array, w: Array, call: Call) -> Array:
    """x = sum over taps of (slice of y) w[t]^T; stride 1."""
    g = call.geometry
    if call.depthwise and call.channels_in == call.channels_out:
        if any(s > 1 for s in g.stride):
            return _depthwise_phases(y, w, call)
        swapped = [(t, in_low, out_low, size) for t, out_low, in_low, size in boxes(g)]
        return _depthwise_sum(y, w, call, g, swapped, g.input_size)
    if g.groups > 1:
        transposed = swap_grouped_channels(w, g.groups)
    else:
        transposed = jnp.swapaxes(w, -1, -2)
    ones, found = (1,) * g.rank, list(boxes(g))
    dtype = _term_dtype(call, found)
    pieces = (
        (in_low, product(cut(y, out_low, size, ones), transposed[t], call, dtype)) for t, out_low, in_low, size in found
    )
    return _add_up(pieces, (y.shape[0], *g.input_size, call.channels_in), call)


def kernel(x: Array, y: Array, call: Call) -> Array:
    """w[t] = (slice of x)^T (slice of y)."""
    g = call.geometry
    ones = (1,) * g.rank
    shape = (call.channels_in // g.groups, call.channels_out)
    found = {}
    for t, out_low, in_low, size in boxes(g):
        found[t] = _pairing(cut(x, in_low, size, g.stride), cut(y, out_low, size, ones), call)
    zero = jnp.zeros(shape, call.product_dtype)
    taps = [found.get(t, zero) for t in itertools.product(*map(range, g.kernel_size))]
    return jnp.stack(taps).reshape(*g.kernel_size, *shape).astype(call.out_dtype)


def boxes(g: ConvGeometry) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """(tap, first output, first input, size in outputs) of every tap that meets the input at all."""
    along = [[axis.box(t) for t in range(axis.taps)] for axis in g.axes]
    for t in itertools.product(*map(range, g.kernel_size)):
        out_low, in_low, size = zip(*(boxes[tap] for boxes, tap in zip(along, t, strict=True)), strict=True)
        if min(size) > 0:
            yield t, out_low, in_low, size


def _term_dtype(call: Call, found: list) -> Any:
    """What each tap's product is asked for: terms of a sum are not rounded before it is done."""
    return call.product_dtype if len(found) == 1 else call.accumulator


def cut(a: Array, low: tuple[int, ...], size: tuple[int, ...], step: tuple[int, ...]) -> Array:
    """Spatial slice of `size` elements from `low` in steps of `step`."""
    stop = [lo + st * (m - 1) + 1 for lo, m, st in zip(low, size, step, strict=True)]
    if tuple(low) == (0,) * len(low) and tuple(size) == a.shape[1:-1] and set(step) == {1}:
        return a
    return lax.slice(a, (0, *low, 0), (a.shape[0], *stop, a.shape[-1]), (1, *step, 1))


def product(a: Array, w: Array, call: Call, dtype: DTypeLike) -> Array:
    """(..., I) times (I/groups, O), group by group, as an array of `dtype`."""
    groups = call.geometry.groups
    if groups == 1:
        return lax.dot_general(
            a, w, (((a.ndim - 1,), (0,)), ((), ())), precision=call.precision, preferred_element_type=dtype
        )
    out = w.shape[-1] // groups
    a = a.reshape(*a.shape[:-1], groups, a.shape[-1] // groups)
    w = w.reshape(w.shape[0], groups, out)
    y = lax.dot_general(
        a,
        w,
        (((a.ndim - 1,), (0,)), ((a.ndim - 2,), (1,))),
        precision=call.precision,
        preferred_element_type=dtype,
    )
    return jnp.moveaxis(y, 0, -2).reshape(*a.shape[:-2], groups * out)


def _pairing(a: Array, b: Array, call: Call) -> Array:
    """(..., I) paired with (..., O) over all leading axes: (I/groups, O)."""
    groups, dtype = call.geometry.groups, call.product_dtype
    lead = tuple(range(a.ndim - 1))
    if call.depthwise and a.shape[-1] == b.shape[-1]:
        wide = call.accumulator
        return jnp.sum(a.astype(wide) * b.astype(wide), axis=lead)[None].astype(dtype)
    if groups == 1:
        return lax.dot_general(a, b, ((lead, lead), ((), ())), precision=call.precision, preferred_element_type=dtype)
    a = a.reshape(*a.shape[:-1], groups, a.shape[-1] // groups)
    b = b.reshape(*b.shape[:-1], groups, b.shape[-1] // groups)
    group = (a.ndim - 2,)
    w = lax.dot_general(a, b, ((lead, lead), (group, group)), precision=call.precision, preferred_element_type=dtype)
    return jnp.moveaxis(w, 0, 1).reshape(w.shape[1], -1)


def _add_up(pieces, shape: tuple[int, ...], call: Call) -> Array:
    """Sum of pieces placed at their low corners; a piece as large as the whole needs no placing, so it starts the
    sum."""
    pieces = sorted(pieces, key=lambda piece: piece[1].size, reverse=True)
    total = None
    for low, piece in pieces:
        if total is None and piece.shape == shape:
            total = piece
            continue
        if total is None:
            total = jnp.zeros(shape, piece.dtype)
        if piece.shape == shape:
            total = total + piece
        else:
            start, stop = (0, *low, 0), [lo + m for lo, m in zip((0, *low, 0), piece.shape, strict=True)]
            total = lax.dynamic_update_slice(total, lax.slice(total, start, stop) + piece, start)
    if total is None:
        return jnp.zeros(shape, call.out_dtype)
    return total.astype(call.out_dtype)


def _depthwise_sum(a: Array, w: Array, call: Call, g: ConvGeometry, boxes_of_taps, size: tuple[int, ...]) -> Array:
    """One fused multiply-add over all taps: `a` is padded once, so that every tap sees a slice of the same size.

    Each box is (tap, first in the result, first in `a`, ...); a result element r and its operand lie `low_a -
    low_result` apart (times the stride), whatever the box.
    """
    wide, multiplier = call.accumulator, call.channels_out // g.groups
    forward = call.face == "apply"
    step = g.stride if forward else (1,) * g.rank
    shifts = {
        t: tuple(la - st * lr for la, lr, st in zip(low_a, low_r, step, strict=True))
        for t, low_r, low_a, _ in boxes_of_taps
    }
    if not shifts:
        return jnp.zeros((a.shape[0], *size, call.channels_out if forward else call.channels_in), call.out_dtype)
    padded, lows = pad_for(a, size, step, list(shifts.values()))
    total = None
    for t, shift in shifts.items():
        start = tuple(sh + lo for sh, lo in zip(shift, lows, strict=True))
        piece = cut(padded, start, size, step).astype(wide)
        if multiplier == 1:
            term = piece * w[t][0].astype(wide)
        else:
            term = (piece[..., None] * w[t][0].reshape(g.groups, multiplier).astype(wide)).reshape(
                *piece.shape[:-1], call.channels_out
            )
        total = term if total is None else total + term
    assert total is not None  # shifts is not empty
    return total.astype(call.out_dtype)


def _depthwise_phases(y: Array, w: Array, call: Call) -> Array:
    """The strided adjoint of single channels: all phases in one fused multiply-add, then put in their places.

    ``x[s*v + r - lo] = sum over e of y[v - e] w[s*e + r]``
    """
    g = call.geometry
    wide = call.accumulator
    part = phases.whole(g)
    inner = phases.inner_call(call, part).geometry
    split = phases.split_kernel(w, g, part)  # (*e, phases, C)
    shifts = [
        tuple(lo - d * e for lo, d, e in zip(inner.offsets, inner.dilation, t, strict=True))
        for t in _taps_of(inner.kernel_size)
    ]
    padded, lows = pad_for(y, inner.input_size, (1,) * g.rank, shifts)
    total = None
    for t, shift in zip(_taps_of(inner.kernel_size), shifts, strict=True):
        start = tuple(sh + lo for sh, lo in zip(shift, lows, strict=True))
        piece = cut(padded, start, inner.input_size, (1,) * g.rank).astype(wide)
        term = piece[..., None, :] * split[t].astype(wide)
        along = [s * e + np.arange(s) < k for e, s, k in zip(t, g.stride, g.kernel_size, strict=True)]
        has_tap = functools.reduce(np.logical_and.outer, along).reshape(-1, 1)
        if not has_tap.all():  # zero, even where what is not finite would meet the zero of a tap that is none
            term = jnp.where(has_tap, term, 0)
        total = term if total is None else total + term
    assert total is not None  # a kernel has at least one tap
    # (N, *v, phases, C): each channel is a group.
    moved = jnp.swapaxes(total, -1, -2).reshape(*total.shape[:-2], g.groups, *g.stride, 1)
    return phases.join_input(moved.astype(call.out_dtype), g)


def _taps_of(size: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*map(range, size))


def pad_for(a: Array, size, step, shifts) -> tuple[Array, tuple[int, ...]]:
    """Zeros around `a` so that every shifted, strided slice of `size` elements lies inside; and where shift 0 then
    is."""
    config, lows = [(0, 0, 0)], []
    for axis in range(len(size)):
        along = [shift[axis] for shift in shifts]
        low = max(0, -min(along))
        config.append((low, max(0, max(along) + step[axis] * (size[axis] - 1) + 1 - a.shape[axis + 1]), 0))
        lows.append(low)
    return lax.pad(a, jnp.zeros((), a.dtype), [*config, (0, 0, 0)]), tuple(lows)
