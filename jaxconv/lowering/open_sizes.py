"""Spatial sizes that an exported program leaves open (`jax.export.symbolic_shape`): the convolution as lax computes it.

A geometry is plain integers, and so are the rules and lowerings that look at it. Where a size is a symbol, settings are
resolved for a stand-in, which gives everything that does not depend on the size, and lax takes the arrays as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from jaxconv._checks import is_open, is_sequence, per_axis, stand_ins
from jaxconv.geometry import ConvGeometry
from jaxconv.lattice import Window
from jaxconv.lowering.lax import swap_grouped_channels

# Taken for an open size where settings are resolved and checked: larger than any kernel.
STAND_IN = 2**20
# jax.numpy pads an open size in these ways.
NUMPY_MODES = {"reflect": "reflect", "replicate": "edge"}


def conv(
    x: Array, w: Array, g: ConvGeometry, *, out_dtype: DTypeLike, precision: lax.PrecisionLike, method: str
) -> Array:
    """``y[q] = sum over t of x[s*q + d*t - lo] w[t]`` for a geometry of stand-ins."""
    first = x.ndim - g.rank - 1
    axes = zip(g.kernel_size, g.stride, g.dilation, g.pads, strict=True)
    windows = [Window(k, s, d, padding=g.padding_rule or pads) for k, s, d, pads in axes]
    pads = [window.pads(n) for window, n in zip(windows, x.shape[first:-1], strict=True)]
    if g.padding_mode in NUMPY_MODES and not is_open([pad for pair in pads for pad in pair]):
        x = pad(x, pads, g.padding_mode, first)
        g, pads = dataclasses.replace(g, padding_mode="zeros"), [(0, 0)] * g.rank
        windows = [dataclasses.replace(window, padding=(0, 0)) for window in windows]
    _refuse(g, method)
    if max(g.stride) > 1:
        # Padded and cut to what the windows cover, so that the pads of both gradients are numbers.
        around = [(*window.fitted(n), 0) for window, n in zip(windows, x.shape[first:-1], strict=True)]
        x, pads = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0)] * first + around + [(0, 0, 0)]), [(0, 0)] * g.rank
    else:
        x, pads = _cropped(x, pads, first), [(max(lo, 0), max(hi, 0)) for lo, hi in pads]
    return _window(x, w, g, (g.rank + 1, g.rank), g.stride, pads, (1,) * g.rank, out_dtype, precision)


def conv_transpose(
    y: Array, w: Array, g: ConvGeometry, *, out_dtype: DTypeLike, precision: lax.PrecisionLike, method: str
) -> Array:
    """``x[u] = sum over t of y[(u + lo - d*t)/s] w[t]`` for a geometry of stand-ins, whose size is not asked for."""
    _refuse(g, method)
    flipped = lax.rev(w, tuple(range(g.rank)))
    spec = (g.rank, g.rank + 1)
    if g.groups > 1:
        flipped, spec = swap_grouped_channels(flipped, g.groups), spec[::-1]
    pads = [
        (e - 1 - lo, n - 1 - (m - 1) * s + lo)
        for e, (lo, _), n, m, s in zip(g.kernel_extent, g.pads, g.input_size, g.output_size, g.stride, strict=True)
    ]
    wide = [(max(lo, 0), max(hi, 0)) for lo, hi in pads]
    x = _window(y, flipped, g, spec, (1,) * g.rank, wide, g.stride, out_dtype, precision)
    return _cropped(x, pads, x.ndim - g.rank - 1)


def pad(x: Array, pads: Sequence[tuple[int, int]], mode: str, first: int) -> Array:
    """x with the axes from `first` on padded, or where a pad is negative cropped: "reflect" or "replicate"."""
    around = [(max(lo, 0), max(hi, 0)) for lo, hi in pads]
    rest = x.ndim - first - len(around)
    padded = jnp.pad(x, [(0, 0)] * first + around + [(0, 0)] * rest, mode=NUMPY_MODES[mode])
    return _cropped(padded, pads, first)


def stand_in_output(sizes: Sequence[Any], stride: Any, output_size: Any) -> tuple[int, ...]:
    """The output size of a transpose, of which an axis may be open, with the stand-in for the sizes' symbols.

    Raises:
        ValueError: a size that is not the stride times the input's plus a number.
    """
    steps = per_axis(stride, "stride", len(sizes))
    given = tuple(output_size) if is_sequence(output_size) else (output_size,) * len(sizes)
    if len(given) != len(sizes):
        raise ValueError(f"output_size={output_size!r} has {len(given)} entries, but there are {len(sizes)} sizes")
    more = [m - s * n for m, s, n in zip(given, steps, sizes, strict=True)]
    if is_open(more):
        raise ValueError(
            f"output_size={output_size} of the sizes {sizes}, which are open, must be the stride times these plus a "
            "number, or give output_padding instead"
        )
    return tuple(d + s * n for d, s, n in zip(more, steps, stand_ins(sizes, STAND_IN), strict=True))


def _cropped(x: Array, pads: Sequence[tuple[int, int]], first: int) -> Array:
    for axis, (lo, hi) in enumerate(pads, first):
        if min(lo, hi) < 0:
            x = lax.slice_in_dim(x, max(-lo, 0), x.shape[axis] - max(-hi, 0), axis=axis)
    return x


def _refuse(g: ConvGeometry, method: str) -> None:
    if g.padding_mode != "zeros":
        raise ValueError(f"padding_mode={g.padding_mode!r} needs sizes that are numbers, not symbols; 'zeros' does not")
    if method not in ("auto", "lax", "window"):
        raise ValueError(f"method={method!r} needs sizes that are numbers, not symbols; 'auto' and 'lax' do not")


def _window(a, w, g: ConvGeometry, spec, stride, pads, lhs_dilation, out_dtype, precision) -> Array:
    space = tuple(range(1, g.rank + 1))
    data = (0, g.rank + 1, *space)
    batch = a.shape[: -g.rank - 1]
    merged = 1
    for n in batch:
        merged = merged * n
    out = lax.conv_general_dilated(
        a.reshape(merged, *a.shape[-g.rank - 1 :]),
        w,
        stride,
        pads,
        lhs_dilation=lhs_dilation,
        rhs_dilation=g.dilation,
        dimension_numbers=lax.ConvDimensionNumbers(data, (*spec, *range(g.rank)), data),
        feature_group_count=g.groups,
        precision=precision,
        preferred_element_type=jnp.dtype(out_dtype),
    )
    return out.reshape(*batch, *out.shape[1:])
