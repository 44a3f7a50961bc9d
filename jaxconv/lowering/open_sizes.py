"""Spatial sizes that an exported program leaves open (`jax.export.symbolic_shape`): the convolution as lax computes it.

A geometry is plain integers, and so are the rules and lowerings that look at it. Where a size is a symbol, settings are
resolved for a stand-in, which gives everything that does not depend on the size, and lax takes the arrays as they are.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from jaxconv.geometry import ConvGeometry
from jaxconv.lowering.lax import swap_grouped_channels

# Taken for an open size where settings are resolved and checked: larger than any kernel.
STAND_IN = 2**20
# jax.numpy pads an open size in these ways.
_NUMPY_MODES = {"reflect": "reflect", "replicate": "edge"}


def conv(x: Array, w: Array, g: ConvGeometry, *, out_dtype: Any, precision: Any, method: str) -> Array:
    """``y[q] = sum over t of x[s*q + d*t - lo] w[t]`` for a geometry of stand-ins.

    "SAME" pads depend on the size, and lax makes them.
    """
    if g.padding_mode in _NUMPY_MODES and not (g.padding_rule in ("SAME", "SAME_LOWER") and max(g.stride) > 1):
        around = [(0, 0)] * (x.ndim - g.rank - 1) + [(max(lo, 0), max(hi, 0)) for lo, hi in g.pads] + [(0, 0)]
        x = jnp.pad(x, around, mode=_NUMPY_MODES[g.padding_mode])
        cropped = tuple((min(lo, 0), min(hi, 0)) for lo, hi in g.pads)
        g = dataclasses.replace(g, padding_mode="zeros", pads=cropped, padding_rule=None)
    _refuse(g, method)
    pads: Any = g.padding_rule if g.padding_rule in ("SAME", "SAME_LOWER") else g.pads
    if not isinstance(pads, str):
        for axis, (lo, hi) in enumerate(g.pads, x.ndim - g.rank - 1):
            x = lax.slice_in_dim(x, max(-lo, 0), x.shape[axis] - max(-hi, 0), axis=axis)
        pads = [(max(lo, 0), max(hi, 0)) for lo, hi in g.pads]
    return _window(x, w, g, (g.rank + 1, g.rank), g.stride, pads, (1,) * g.rank, out_dtype, precision)


def conv_transpose(y: Array, w: Array, g: ConvGeometry, *, out_dtype: Any, precision: Any, method: str) -> Array:
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
    for axis, (lo, hi) in enumerate(pads, x.ndim - g.rank - 1):
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
