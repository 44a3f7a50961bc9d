"""The residue split: one move that turns a spacing of m into m unit-spacing problems.

Where one spacing of ``b*u + lo = s*q + d*t`` is m > 1 and the other two are 1, splitting the *other two* tensors by
their residue modulo m leaves unit
spacings:

- m = s, the output's spacing (a strided convolution, a transposed one): x and w are split. x becomes space-to-depth,
``p = u + lo = s*v + r``, and
  the kernel of ``ceil(k/s)`` taps has s times the channels an axis: apply and kernel see a stride-1 problem on x split
  by phase, the adjoint
  produces all phases at once and a pixel shuffle puts them in place (sub-pixel convolution);
- m = d, the kernel's spacing (an atrous convolution): x and y are split, ``u + lo = d*v + r``, ``q = d*v' + r``:
space-to-batch, in all three faces.

The inner problem is handed back to the choice. Where k == s nothing overlaps and the inner problem is a single matrix
product.

Source: Shi et al. 2016 (arXiv:1609.05158 and 1609.07009) for the phases of a transposed convolution; Chen et al. 2018
(arXiv:1606.00915), section 3.1,
for space-to-batch.
"""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
from jax import Array, lax

from jaxconv.geometry import ConvGeometry
from jaxconv.lowering.call import Call

# ---------------------------------------------------------------------- stride: phases and space-to-depth


def serves_phases(face: str, g: ConvGeometry, channels_in: int, channels_out: int) -> bool:
    """Some axis is strided, and no strided axis is dilated; base dilation 1."""
    return (
        any(s > 1 for s in g.stride)
        and all(b == 1 for b in g.base_dilation)
        and all(d == 1 or s == 1 or k == 1 for s, d, k in zip(g.stride, g.dilation, g.kernel_size, strict=True))
    )


def phase_call(call: Call) -> Call:
    """The stride-1 call that is left after the input has been split by phase."""
    g = call.geometry
    sub_kernel = tuple(-(-k // s) for k, s in zip(g.kernel_size, g.stride, strict=True))
    first, count = _phase_range(g)
    phases = math.prod(g.stride)
    inner = dataclasses.replace(
        g,
        input_size=count,
        kernel_size=sub_kernel,
        stride=(1,) * g.rank,
        pads=tuple(
            (f, m - 1 + d * (k - 1) + 1 - f - c)
            for f, c, m, k, d in zip(first, count, g.output_size, sub_kernel, g.dilation, strict=True)
        ),
        padding_rule=None,
    )
    return dataclasses.replace(call, geometry=inner, channels_in=call.channels_in * phases)


def _phase_range(g: ConvGeometry) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First v and number of v such that p = s*v + r covers every p = u + lo, per axis."""
    first = tuple(lo // s for lo, s in zip(g.offsets, g.stride, strict=True))
    count = tuple(
        (lo + n - 1) // s - f + 1 for lo, n, s, f in zip(g.offsets, g.input_size, g.stride, first, strict=True)
    )
    return first, count


def phases_apply(x: Array, w: Array, call: Call, run) -> Array:
    """Space-to-depth of x, the kernel rearranged alike, a stride-1 convolution."""
    return run(phase_call(call), split_input(x, call.geometry), split_kernel(w, call.geometry))


def phases_kernel(x: Array, y: Array, call: Call, run) -> Array:
    """Space-to-depth of x, the stride-1 kernel face, taps put back in their order."""
    return join_kernel(run(phase_call(call), split_input(x, call.geometry), y), call.geometry)


def phases_adjoint(y: Array, w: Array, call: Call, run) -> Array:
    """All phases by one stride-1 problem with s^n times the channels, then a pixel shuffle."""
    return join_input(run(phase_call(call), y, split_kernel(w, call.geometry)), call.geometry)


def split_input(x: Array, g: ConvGeometry) -> Array:
    """(N, *n, (groups, I')) -> (N, *count, (groups, phases, I')): position p = u + lo = s*v + r."""
    first, count = _phase_range(g)
    config = [(0, 0, 0)]
    for lo, n, s, f, c in zip(g.offsets, g.input_size, g.stride, first, count, strict=True):
        config.append((lo - s * f, s * c - n - (lo - s * f), 0))
    x = lax.pad(x, jnp.zeros((), x.dtype), [*config, (0, 0, 0)])
    shape = [x.shape[0]]
    for s, c in zip(g.stride, count, strict=True):
        shape += [c, s]
    x = x.reshape(*shape, g.groups, x.shape[-1] // g.groups)
    r = g.rank
    order = [0, *range(1, 2 * r, 2), 2 * r + 1, *range(2, 2 * r + 1, 2), 2 * r + 2]
    x = jnp.transpose(x, order)
    return x.reshape(x.shape[0], *count, -1)


def join_input(x: Array, g: ConvGeometry) -> Array:
    """The inverse of `split_input`, cropped to the input's own positions."""
    first, count = _phase_range(g)
    r = g.rank
    per_group = x.shape[-1] // g.groups // math.prod(g.stride)
    x = x.reshape(x.shape[0], *count, g.groups, *g.stride, per_group)
    order = [0]
    for axis in range(r):
        order += [1 + axis, r + 2 + axis]
    x = jnp.transpose(x, [*order, r + 1, 2 * r + 2])
    x = x.reshape(x.shape[0], *(c * s for c, s in zip(count, g.stride, strict=True)), g.groups * per_group)
    low = [lo - s * f for lo, s, f in zip(g.offsets, g.stride, first, strict=True)]
    return lax.slice(
        x, (0, *low, 0), (x.shape[0], *(lo + n for lo, n in zip(low, g.input_size, strict=True)), x.shape[-1])
    )


def split_kernel(w: Array, g: ConvGeometry) -> Array:
    """(*k, I', O) -> (*ceil(k/s), (phases, I'), O): tap t = s*e + r."""
    sub = [-(-k // s) for k, s in zip(g.kernel_size, g.stride, strict=True)]
    config = [(0, e * s - k, 0) for e, s, k in zip(sub, g.stride, g.kernel_size, strict=True)]
    w = lax.pad(w, jnp.zeros((), w.dtype), [*config, (0, 0, 0), (0, 0, 0)])
    shape: list[int] = []
    for e, s in zip(sub, g.stride, strict=True):
        shape += [e, s]
    r = g.rank
    w = w.reshape(*shape, *w.shape[-2:])
    w = jnp.transpose(w, [*range(0, 2 * r, 2), *range(1, 2 * r, 2), 2 * r, 2 * r + 1])
    return w.reshape(*sub, -1, w.shape[-1])


def join_kernel(w: Array, g: ConvGeometry) -> Array:
    """The inverse of `split_kernel`, cropped to k taps."""
    r = g.rank
    sub = w.shape[:r]
    per_group = w.shape[-2] // math.prod(g.stride)
    w = w.reshape(*sub, *g.stride, per_group, w.shape[-1])
    order = []
    for axis in range(r):
        order += [axis, r + axis]
    w = jnp.transpose(w, [*order, 2 * r, 2 * r + 1])
    w = w.reshape(*(e * s for e, s in zip(sub, g.stride, strict=True)), per_group, w.shape[-1])
    return lax.slice(w, (0,) * w.ndim, (*g.kernel_size, *w.shape[-2:]))


# ---------------------------------------------------------------------- dilation: space-to-batch


def serves_space_to_batch(face: str, g: ConvGeometry, channels_in: int, channels_out: int) -> bool:
    """Some axis is dilated, and no dilated axis is strided; base dilation 1."""
    return (
        any(d > 1 and k > 1 for d, k in zip(g.dilation, g.kernel_size, strict=True))
        and all(b == 1 for b in g.base_dilation)
        and all(s == 1 or d == 1 for s, d in zip(g.stride, g.dilation, strict=True))
    )


def batch_call(call: Call) -> Call:
    """The dilation-1 call on the residues."""
    g = call.geometry
    first, count, rows = _batch_range(g)
    inner = dataclasses.replace(
        g,
        input_size=count,
        output_size=rows,
        dilation=(1,) * g.rank,
        pads=tuple(
            (lo, hi) if d == 1 else (f, m - 1 + k - f - c)
            for (lo, hi), f, c, m, k, d in zip(g.pads, first, count, rows, g.kernel_size, g.dilation, strict=True)
        ),
        padding_rule=None,
    )
    return dataclasses.replace(call, geometry=inner, batch=call.batch * math.prod(g.dilation))


def _batch_range(g: ConvGeometry):
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


def batch_apply(x: Array, w: Array, call: Call, run) -> Array:
    """Residues of x into the batch, a dilation-1 convolution, residues of y back."""
    return _join_output(run(batch_call(call), _batch_input(x, call.geometry), w), call.geometry)


def batch_adjoint(y: Array, w: Array, call: Call, run) -> Array:
    """Residues of y into the batch, a dilation-1 adjoint, residues of x back."""
    return _unbatch_input(run(batch_call(call), _batch_output(y, call.geometry), w), call.geometry)


def batch_kernel(x: Array, y: Array, call: Call, run) -> Array:
    """Residues of x and y into the batch, a dilation-1 kernel face: the sum over the batch is the sum over residues."""
    return run(batch_call(call), _batch_input(x, call.geometry), _batch_output(y, call.geometry))


def _batch_input(x: Array, g: ConvGeometry) -> Array:
    first, count, _ = _batch_range(g)
    lows = [0 if d == 1 else lo - d * f for lo, d, f in zip(g.offsets, g.dilation, first, strict=True)]
    return space_to_batch(x, lows, count, g.dilation)


def _batch_output(y: Array, g: ConvGeometry) -> Array:
    return space_to_batch(y, (0,) * g.rank, _batch_range(g)[2], g.dilation)


def _join_output(y: Array, g: ConvGeometry) -> Array:
    return batch_to_space(y, (0,) * g.rank, g.output_size, g.dilation)


def _unbatch_input(x: Array, g: ConvGeometry) -> Array:
    first, _, _ = _batch_range(g)
    lows = [0 if d == 1 else lo - d * f for lo, d, f in zip(g.offsets, g.dilation, first, strict=True)]
    return batch_to_space(x, lows, g.input_size, g.dilation)


def space_to_batch(x: Array, lows, count, rate) -> Array:
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


def batch_to_space(x: Array, lows, size, rate) -> Array:
    """The inverse of `space_to_batch`, cropped."""
    rank = len(rate)
    count = x.shape[1:-1]
    x = x.reshape(-1, *rate, *count, x.shape[-1])
    order = [0]
    for axis in range(rank):
        order += [1 + rank + axis, 1 + axis]
    x = jnp.transpose(x, [*order, 2 * rank + 1])
    x = x.reshape(x.shape[0], *(c * d for c, d in zip(count, rate, strict=True)), x.shape[-1])
    return lax.slice(x, (0, *lows, 0), (x.shape[0], *(lo + n for lo, n in zip(lows, size, strict=True)), x.shape[-1]))
