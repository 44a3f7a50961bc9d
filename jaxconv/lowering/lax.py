"""The reference lowering: each face as one `lax.conv_general_dilated`, in the form that XLA recognises.

With ``b*u + lo = s*q + d*t`` per axis:

- apply: window of x, stride s, input dilation b, kernel dilation d, low pad lo;
- adjoint: window of y, stride b, input dilation s, kernel dilation d, the kernel flipped, low pad ``d*(k-1) - lo``. The
  flip stays inside the compiled function: XLA's GPU backend matches it to recognise the backward-data convolution. A
  flip of the caller's (every framework's transposed convolution that is written as a convolution has one) would cancel
  it, and zeros be multiplied: a barrier keeps the two apart where there are zeros;
- kernel: window of x with y as the kernel, stride d, input dilation b, kernel dilation s, low pad lo: the kernel
  gradient of the forward convolution, never the derivative of a zero-stuffed one.

Pads handed to XLA are never negative: jax 0.10.2 on CPU computes a plain 1-D convolution with pads (-1, 1) wrongly.
What a negative pad would crop is sliced off first.

On CPUs XLA computes 64-bit depthwise convolutions (float64, complex128) as a dense one whose kernel is zero between the
groups; `apart_where_not_finite` keeps a NaN of one group out of the others.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array, lax

from jaxconv import _compat
from jaxconv._finite import made_again_where_not_finite
from jaxconv.lowering.call import Call

# What jax calls a TPU v6e, and the elements of a TPU's vectors.
V6E = "TPU v6 lite"
LANES = 128


def serves(call: Call) -> bool:
    """Every call, on every platform."""
    return True


def apply(x: Array, w: Array, call: Call) -> Array:
    """y[q] = sum over t of x[(s*q + d*t - lo)/b] w[t]."""
    g = call.geometry
    last = g.rank + 1
    space = tuple(range(1, last))
    taps = tuple(range(g.rank))
    numbers = lax.ConvDimensionNumbers((0, last, *space), (g.rank + 1, g.rank, *taps), (0, last, *space))
    y = _convolution(
        x,
        w,
        numbers,
        call,
        stride=g.stride,
        low=g.offsets,
        high=tuple(hi for _, hi in g.pads),
        lhs_dilation=g.base_dilation,
        rhs_dilation=g.dilation,
        out_size=g.output_size,
        feature_groups=g.groups,
    )
    return apart_where_not_finite(y, x, w, call) if _made_dense(call, call.channels_in) else y


def adjoint(y: Array, w: Array, call: Call) -> Array:
    """x[u] = sum over t of y[(b*u + lo - d*t)/s] w[t]."""
    g = call.geometry
    last = g.rank + 1
    space = tuple(range(1, last))
    taps = tuple(range(g.rank))
    if call.platform in ("cuda", "rocm") and max(g.stride) > 1:
        w = lax.optimization_barrier(w)
    flipped = lax.rev(w, taps)
    rhs_spec = (g.rank, g.rank + 1, *taps)  # the forward kernel with its channel axes read the other way round
    if g.groups > 1:
        flipped = swap_grouped_channels(flipped, g.groups)
        rhs_spec = (g.rank + 1, g.rank, *taps)
    elif _channels_in_innermost(call):
        flipped = _compat.in_row_major_order(jnp.swapaxes(flipped, -1, -2))
        rhs_spec = (g.rank + 1, g.rank, *taps)
    numbers = lax.ConvDimensionNumbers((0, last, *space), rhs_spec, (0, last, *space))
    low = tuple(e - 1 - lo for e, lo in zip(g.kernel_extent, g.offsets, strict=True))
    x = _convolution(
        y,
        flipped,
        numbers,
        call,
        stride=g.base_dilation,
        low=low,
        high=low,
        lhs_dilation=g.stride,
        rhs_dilation=g.dilation,
        out_size=g.input_size,
        feature_groups=g.groups,
    )
    return apart_where_not_finite(x, y, w, call) if _made_dense(call, call.channels_out) else x


def kernel(x: Array, y: Array, call: Call) -> Array:
    """w[t] = sum over q of x[(s*q + d*t - lo)/b] y[q]."""
    g = call.geometry
    last = g.rank + 1
    space = tuple(range(1, last))
    taps = tuple(range(g.rank))
    # Channels of x play the batch, the batch plays the contracted feature.
    numbers = lax.ConvDimensionNumbers((last, 0, *space), (last, 0, *space), (g.rank, g.rank + 1, *taps))
    w = _convolution(
        x,
        y,
        numbers,
        call,
        stride=g.dilation,
        low=g.offsets,
        high=tuple(hi for _, hi in g.pads),
        lhs_dilation=g.base_dilation,
        rhs_dilation=g.stride,
        out_size=g.kernel_size,
        batch_groups=g.groups,
    )
    # XLA on CPUs pairs all groups with all, and masks what is not wanted with zeros.
    masked = g.groups > 1 and call.platform in ("cpu", None)
    return apart_where_not_finite(w, x, y, call) if masked else w


def apart_where_not_finite(out: Array, a: Array, b: Array, call: Call) -> Array:
    """`out`, a face of groups that were computed together; where it is not finite, each by itself."""
    groups = call.geometry.groups
    if not jnp.issubdtype(call.dtype, jnp.inexact):
        return out
    alone = dataclasses.replace(
        call,
        geometry=dataclasses.replace(call.geometry, groups=1),
        channels_in=call.channels_in // groups,
        channels_out=call.channels_out // groups,
    )
    face = {"apply": apply, "adjoint": adjoint, "kernel": kernel}[call.face]

    def turn(group: Array, out: Array) -> Array:
        sizes = (v.shape[-1] // groups for v in (a, b))
        first, second = (lax.dynamic_slice_in_dim(v, group * n, n, -1) for v, n in zip((a, b), sizes, strict=True))
        part = face(first, second, alone)
        return lax.dynamic_update_slice_in_dim(out, part, group * part.shape[-1], -1)

    return made_again_where_not_finite(out, groups, turn)


def _channels_in_innermost(call: Call) -> bool:
    """Whether the adjoint's kernel is to be held with its input channels innermost, at the cost of a copy of it.

    What that was read off stands with the [`rules`][jaxconv.lowering.rules].
    """
    full = call.channels_out >= 2 * LANES and call.channels_out % LANES == 0
    return call.chip == V6E and full and LANES // 2 < call.channels_in <= LANES


def _made_dense(call: Call, channels: int) -> bool:
    """Whether XLA makes one dense convolution of the groups, where `channels` are contracted."""
    wide = jnp.finfo(call.dtype).bits == 64 if jnp.issubdtype(call.dtype, jnp.inexact) else False
    return wide and call.platform in ("cpu", None) and 1 < call.geometry.groups == channels


def swap_grouped_channels(w: Array, groups: int) -> Array:
    """(*k, I/g, O) -> (*k, O/g, I): the kernel of the transpose, group by group."""
    *taps, per_group, out = w.shape
    w = w.reshape(*taps, per_group, groups, out // groups)
    return jnp.swapaxes(w, -1, -3).reshape(*taps, out // groups, groups * per_group)


def _convolution(
    lhs: Array,
    rhs: Array,
    numbers: lax.ConvDimensionNumbers,
    call: Call,
    *,
    stride: tuple[int, ...],
    low: tuple[int, ...],
    high: tuple[int, ...],
    lhs_dilation: tuple[int, ...],
    rhs_dilation: tuple[int, ...],
    out_size: tuple[int, ...],
    feature_groups: int = 1,
    batch_groups: int = 1,
) -> Array:
    """One convolution whose output has exactly `out_size` windows, without negative pads."""
    padding = []
    for i, axis in enumerate(numbers.lhs_spec[2:]):
        reach = stride[i] * (out_size[i] - 1) + rhs_dilation[i] * (rhs.shape[numbers.rhs_spec[2 + i]] - 1) + 1
        lhs, pads = _crop(lhs, axis, low[i], reach, lhs_dilation[i], high[i], stride[i])
        padding.append(pads)
    if 0 in lhs.shape:  # everything was cropped, or an empty batch: nothing contributes
        return jnp.zeros(_out_shape(lhs, rhs, numbers, out_size, batch_groups), call.out_dtype)
    rhs, padding = _without_mistaken_groups(lhs, rhs, numbers, stride, padding, lhs_dilation, rhs_dilation)
    out = lax.conv_general_dilated(
        lhs,
        rhs,
        window_strides=stride,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=numbers,
        feature_group_count=feature_groups,
        batch_group_count=batch_groups,
        precision=call.precision,
        preferred_element_type=call.product_dtype,
    )
    return out.astype(call.out_dtype)


def _without_mistaken_groups(
    lhs: Array,
    rhs: Array,
    numbers: lax.ConvDimensionNumbers,
    stride: tuple[int, ...],
    padding: list[tuple[int, int]],
    lhs_dilation: tuple[int, ...],
    rhs_dilation: tuple[int, ...],
) -> tuple[Array, list[tuple[int, int]]]:
    """The kernel with one tap of zeros more along axes that XLA would take for groups.

    Where a kernel is larger than its input, XLA on CPU exchanges the two, all axes but those that it believes to be
    groups: k taps, input dilation k, stride k - 1, no pads. It does not look at the input's size, and where that is
    not k it ends the process (jax 0.10.2 and 0.12.0; lax's own gradients meet it, too). One more tap is no such axis.
    """
    axes = list(zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], strict=True))
    sizes = [(lhs.shape[a], rhs.shape[b]) for a, b in axes]
    if not any(k > n for n, k in sizes):
        return rhs, padding
    padding, config = list(padding), [(0, 0, 0)] * rhs.ndim
    for i, (n, k) in enumerate(sizes):
        group = k > 1 and (k, k - 1, (0, 0), 1) == (lhs_dilation[i], stride[i], padding[i], rhs_dilation[i])
        if group and n != k:
            config[axes[i][1]] = (0, 1, 0)
            padding[i] = (0, 1)
    if any(high for _, high, _ in config):
        rhs = lax.pad(rhs, jnp.zeros((), rhs.dtype), config)
    return rhs, padding


def _crop(
    lhs: Array, axis: int, low: int, reach: int, dilation: int, wanted_high: int, stride: int
) -> tuple[Array, tuple[int, int]]:
    """Slice off what no window reaches, and give the pads (none negative) that put `reach` positions under the windows.

    Positions count from ``-low``; element j of `lhs` lies at ``dilation*j + low`` of them.
    """
    size = lhs.shape[axis]
    first = max(-(low // dilation), 0) if low < 0 else 0
    low = low + dilation * first
    stop = min(size, (reach - 1 - low) // dilation + 1 + first) if reach > low else first
    # Up to stride - 1 elements behind the last window are harmless; slicing them off would cost a copy.
    spare = low + dilation * (size - 1 - first) + 1 - reach
    if 0 < spare < stride:
        stop = size
    if stop <= first:
        return lax.slice_in_dim(lhs, 0, 0, axis=axis), (0, 0)
    if (first, stop) != (0, size):
        lhs = lax.slice_in_dim(lhs, first, stop, axis=axis)
    covered = low + dilation * (stop - first - 1) + 1
    exact = max(reach - covered, 0)
    # Any high pad from `exact` to `exact + stride - 1` gives the same windows: the caller's own, where it is one of
    # these, keeps symmetric pads symmetric (which libraries have fast paths for).
    limit = reach + stride - 1 - covered
    return lhs, (low, wanted_high if exact <= wanted_high <= limit else exact)


def _out_shape(lhs, rhs, numbers, out_size, batch_groups) -> tuple[int, ...]:
    shape = [0] * lhs.ndim
    shape[numbers.out_spec[0]] = lhs.shape[numbers.lhs_spec[0]] // batch_groups
    shape[numbers.out_spec[1]] = rhs.shape[numbers.rhs_spec[0]]
    for axis, size in zip(numbers.out_spec[2:], out_size, strict=True):
        shape[axis] = size
    return tuple(shape)
