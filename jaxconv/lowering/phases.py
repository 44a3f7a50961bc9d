"""Phases: a strided axis split by residue, which leaves stride 1.

Where the output's spacing s is more than 1 and the other two spacings of ``b*u + lo = s*q + d*t`` are 1, the input and
the kernel are split by their residue modulo s. ``p = u + lo = s*v + r`` turns the input into s times the channels
(space-to-depth), and the kernel into ``ceil(k/s)`` taps. `apply` and `kernel` are then a stride-1 problem on the split
input; `adjoint` produces all phases at once, and a pixel shuffle puts them in place (sub-pixel convolution). The inner
problem goes through the choice again; where k == s nothing overlaps, and it is a single matrix product.

Where s does not divide k, the last tap is missing in some phases. A zero in its place would multiply data that the
definition never reads there, and hand on its NaN; so `apply` and `adjoint` take phases of as many taps together, one
inner problem for each kind of phase. `kernel` crops the taps that are none.

[`space_to_batch`][jaxconv.lowering.space_to_batch] is the same move for the kernel's spacing.

Source: Shi et al. 2016 (arXiv:1609.05158 and 1609.07009).
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import jax.numpy as jnp
from jax import Array, lax

from jaxconv.geometry import ConvGeometry
from jaxconv.lattice import Relation
from jaxconv.lowering.call import Call

# Per axis: first phase, the one after the last, and how many taps each of these phases has.
Part = tuple[tuple[int, int, int], ...]


def serves(call: Call) -> bool:
    """Some axis is strided, and no strided axis is dilated; base dilation 1."""
    g = call.geometry
    return (
        any(s > 1 for s in g.stride)
        and all(b == 1 for b in g.base_dilation)
        and all(d == 1 or s == 1 or k == 1 for s, d, k in zip(g.stride, g.dilation, g.kernel_size, strict=True))
    )


def whole(g: ConvGeometry) -> Part:
    """All phases with as many taps as the first has."""
    return tuple((0, s, -(-k // s)) for k, s in zip(g.kernel_size, g.stride, strict=True))


def _kinds(g: ConvGeometry) -> list[list[tuple[int, int, int]]]:
    """Per axis: the phases with ``ceil(k/s)`` taps, then those with ``floor(k/s)``."""
    return [
        [(first, stop, taps) for first, stop, taps in ((0, k % s, k // s + 1), (k % s, s, k // s)) if first < stop]
        for k, s in zip(g.kernel_size, g.stride, strict=True)
    ]


def parts(g: ConvGeometry) -> list[Part]:
    """Every kind of phase that has a tap."""
    return [part for part in itertools.product(*_kinds(g)) if all(taps for *_, taps in part)]


def inner_call(call: Call, part: Part) -> Call:
    """The stride-1 call that these phases leave after the input has been split by phase."""
    g = call.geometry
    sub_kernel = tuple(taps for *_, taps in part)
    first, count = _range(g)
    ones = (1,) * g.rank
    axes = map(Relation, count, g.output_size, sub_kernel, ones, g.dilation, ones, first)
    inner = dataclasses.replace(
        g,
        input_size=count,
        kernel_size=sub_kernel,
        stride=ones,
        pads=tuple((axis.low, axis.least_high) for axis in axes),
        padding_rule=None,
    )
    return dataclasses.replace(call, geometry=inner, channels_in=call.channels_in * _count(part))


def _count(part: Part) -> int:
    return math.prod(stop - first for first, stop, _ in part)


def _range(g: ConvGeometry) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First v and number of v such that p = s*v + r covers every p = u + lo, per axis."""
    first = tuple(lo // s for lo, s in zip(g.offsets, g.stride, strict=True))
    count = tuple(
        (lo + n - 1) // s - f + 1 for lo, n, s, f in zip(g.offsets, g.input_size, g.stride, first, strict=True)
    )
    return first, count


def apply(x: Array, w: Array, call: Call, run) -> Array:
    """Space-to-depth of x, the kernel rearranged alike, a stride-1 convolution; several kinds of phases add up."""
    g, found = call.geometry, parts(call.geometry)
    term = call if len(found) == 1 else dataclasses.replace(call, out_dtype=call.accumulator)
    first, *others = (run(inner_call(term, p), split_input(x, g, p), split_kernel(w, g, p)) for p in found)
    return sum(others, first).astype(call.out_dtype)


def kernel(x: Array, y: Array, call: Call, run) -> Array:
    """Space-to-depth of x, the stride-1 kernel face, taps put back in their order."""
    g, part = call.geometry, whole(call.geometry)
    return join_kernel(run(inner_call(call, part), split_input(x, g, part), y), g)


def adjoint(y: Array, w: Array, call: Call, run) -> Array:
    """All phases by one stride-1 problem for each kind of phase, with as many times the channels, then a pixel
    shuffle."""
    g = call.geometry
    shape = (y.shape[0], *_range(g)[1], g.groups)
    pieces = {part: run(inner_call(call, part), y, split_kernel(w, g, part)) for part in parts(g)}

    def together(*chosen: tuple[int, int, int]) -> Array:
        """(N, *count, groups, *phases, I') with the phases of the axes not chosen side by side."""
        if (axis := len(chosen)) < g.rank:
            found = [together(*chosen, kind) for kind in _kinds(g)[axis]]
            return jnp.concatenate(found, len(shape) + axis) if len(found) > 1 else found[0]
        full = (*shape, *(stop - first for first, stop, _ in chosen), call.channels_in // g.groups)
        return pieces[chosen].reshape(full) if chosen in pieces else jnp.zeros(full, call.out_dtype)

    return join_input(together(), g)


def split_input(x: Array, g: ConvGeometry, part: Part) -> Array:
    """(N, *n, (groups, I')) -> (N, *count, (groups, phases, I')): position p = u + lo = s*v + r."""
    first, count = _range(g)
    config = [(0, 0, 0)]
    for lo, n, s, f, c in zip(g.offsets, g.input_size, g.stride, first, count, strict=True):
        config.append((lo - s * f, s * c - n - (lo - s * f), 0))
    x = lax.pad(x, jnp.zeros((), x.dtype), [*config, (0, 0, 0)])
    shape = [x.shape[0]]
    for s, c in zip(g.stride, count, strict=True):
        shape += [c, s]
    x = x.reshape(*shape, g.groups, x.shape[-1] // g.groups)
    r = g.rank
    for axis, (low, high, _) in enumerate(part):
        x = lax.slice_in_dim(x, low, high, axis=2 + 2 * axis)
    order = [0, *range(1, 2 * r, 2), 2 * r + 1, *range(2, 2 * r + 1, 2), 2 * r + 2]
    x = jnp.transpose(x, order)
    return x.reshape(x.shape[0], *count, -1)


def join_input(x: Array, g: ConvGeometry) -> Array:
    """(N, *count, groups, *phases, I') -> (N, *n, (groups, I')): each phase in its place, cropped to the input's own
    positions."""
    first, count = _range(g)
    r = g.rank
    order = [0]
    for axis in range(r):
        order += [1 + axis, r + 2 + axis]
    x = jnp.transpose(x, [*order, r + 1, 2 * r + 2])
    x = x.reshape(x.shape[0], *(c * s for c, s in zip(count, g.stride, strict=True)), -1)
    low = [lo - s * f for lo, s, f in zip(g.offsets, g.stride, first, strict=True)]
    return lax.slice(
        x, (0, *low, 0), (x.shape[0], *(lo + n for lo, n in zip(low, g.input_size, strict=True)), x.shape[-1])
    )


def split_kernel(w: Array, g: ConvGeometry, part: Part) -> Array:
    """(*k, I', O) -> (*taps, (phases, I'), O): tap t = s*e + r."""
    sub = [-(-k // s) for k, s in zip(g.kernel_size, g.stride, strict=True)]
    config = [(0, e * s - k, 0) for e, s, k in zip(sub, g.stride, g.kernel_size, strict=True)]
    w = lax.pad(w, jnp.zeros((), w.dtype), [*config, (0, 0, 0), (0, 0, 0)])
    shape: list[int] = []
    for e, s in zip(sub, g.stride, strict=True):
        shape += [e, s]
    r = g.rank
    w = w.reshape(*shape, *w.shape[-2:])
    for axis, (low, high, taps) in enumerate(part):
        w = lax.slice_in_dim(lax.slice_in_dim(w, 0, taps, axis=2 * axis), low, high, axis=2 * axis + 1)
    w = jnp.transpose(w, [*range(0, 2 * r, 2), *range(1, 2 * r, 2), 2 * r, 2 * r + 1])
    return w.reshape(*w.shape[:r], -1, w.shape[-1])


def join_kernel(w: Array, g: ConvGeometry) -> Array:
    """The inverse of `split_kernel` of the whole, cropped to k taps."""
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
