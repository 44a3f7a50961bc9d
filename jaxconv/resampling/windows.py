"""Sliding windows over the spatial axes: arguments resolved once, and the slices that the taps of a window read.

Shared by pooling and resampling. On one axis, output q of a window with K taps reads the input positions
q * stride + t * dilation - low, t = 0 .. K - 1.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxconv._checks import per_axis
from jaxconv._compat import left_to_the_partitioner, sharded_from

Ints = int | Sequence[int]
Padding = int | str | Sequence[int] | Sequence[tuple[int, int]]

_NAMED_PADDING = ("SAME", "SAME_LOWER", "VALID", "CAUSAL")


class AxisWindow(NamedTuple):
    """A window along one axis: everything static, resolved and checked."""

    axis: int
    input_size: int
    size: int
    stride: int
    dilation: int
    low: int
    high: int
    output_size: int

    @property
    def offsets(self) -> tuple[int, ...]:
        """Positions of the taps relative to the first one."""
        return tuple(t * self.dilation for t in range(self.size))


def spatial_rank(ndim: int, batch_and_channels: str, **arguments: object) -> int:
    """Number of spatial axes: the length of the tuple arguments, else every axis but the first and the last."""
    lengths = {name: len(v) for name, v in arguments.items() if isinstance(v, (tuple, list))}
    if len(set(lengths.values())) > 1:
        given = ", ".join(f"{name}={arguments[name]!r}" for name in lengths)
        raise ValueError(f"arguments disagree about the number of spatial axes: {given}")
    rank = next(iter(lengths.values())) if lengths else ndim - 2
    if rank < 1 or ndim < rank + 1:
        need = "at least one spatial axis" if rank < 1 else f"{rank} spatial axes"
        raise ValueError(
            f"an array of {ndim} dimensions has no room for {need} and the channels ({batch_and_channels}); "
            "a scalar argument means every axis but the first and the last, a tuple names one value per spatial axis"
        )
    return rank


def _pads(padding: Any, sizes, extents, strides) -> tuple[tuple[int, int], ...]:
    """(low, high) pads per axis; `extents` are the effective window sizes dilation * (window - 1) + 1."""
    rank = len(sizes)
    if isinstance(padding, str):
        if padding.upper() not in _NAMED_PADDING:
            raise ValueError(f"padding={padding!r} is not one of {', '.join(_NAMED_PADDING)}")
        return tuple(_named_pad(padding.upper(), n, k, s) for n, k, s in zip(sizes, extents, strides))
    if isinstance(padding, (tuple, list)) and any(isinstance(p, (tuple, list)) for p in padding):
        if len(padding) != rank or any(not isinstance(p, (tuple, list)) or len(p) != 2 for p in padding):
            raise ValueError(f"padding={padding!r} must hold one (low, high) pair for each of {rank} spatial axes")
        return tuple((lo, hi) for lo, hi in (per_axis(tuple(p), "padding", 2, 0) for p in padding))
    return tuple((p, p) for p in per_axis(padding, "padding", rank, 0))


def _named_pad(name: str, n: int, extent: int, stride: int) -> tuple[int, int]:
    if name == "VALID":
        return 0, 0
    if name == "CAUSAL":
        return extent - 1, 0
    total = max((-(-n // stride) - 1) * stride + extent - n, 0)
    small = total // 2
    return (small, total - small) if name == "SAME" else (total - small, small)


def resolve_windows(
    shape: Sequence[int],
    window: Ints,
    stride: Ints | None,
    padding: Padding,
    dilation: Ints,
    *,
    ceil_mode: bool = False,
    rank: int | None = None,
) -> tuple[AxisWindow, ...]:
    """Check the arguments of a sliding window against the data's shape and return one record per spatial axis."""
    if rank is None:
        pads = None if isinstance(padding, str) else padding
        rank = spatial_rank(
            len(shape), f"shape {tuple(shape)}", window=window, stride=stride, padding=pads, dilation=dilation
        )
    sizes = tuple(shape[len(shape) - 1 - rank : -1])
    window_ = per_axis(window, "window", rank, 1)
    stride_ = per_axis(window if stride is None else stride, "stride", rank, 1)
    dilation_ = per_axis(dilation, "dilation", rank, 1)
    extents = tuple(d * (k - 1) + 1 for k, d in zip(window_, dilation_))
    pads_ = _pads(padding, sizes, extents, stride_)
    records = []
    for a in range(rank):
        n, (lo, hi) = sizes[a], pads_[a]
        room = n + lo + hi - extents[a]
        if room < 0 and not (ceil_mode and room > -stride_[a]):
            raise ValueError(
                f"a window of {extents[a]} (window={window_[a]}, dilation={dilation_[a]}) does not fit on spatial axis "
                f"{a}: size {n} with pads ({lo}, {hi}) is {n + lo + hi}"
            )
        if n < 1:
            raise ValueError(f"spatial axis {a} is empty: shape {tuple(shape)}")
        out = output_size(n, extents[a], stride_[a], lo, hi, ceil_mode)
        axis = a - rank - 1
        records.append(AxisWindow(axis, n, window_[a], stride_[a], dilation_[a], lo, hi, out))
    return tuple(records)


def output_size(n: int, extent: int, stride: int, low: int, high: int, ceil_mode: bool) -> int:
    """Number of windows; in ceil mode one more where a rest is left, if it starts inside the input or its low pad."""
    room = n + low + high - extent
    if not ceil_mode:
        return room // stride + 1
    out = -(-room // stride) + 1
    return out - 1 if (out - 1) * stride >= n + low else out


def axis_taps(
    x: Array, axis: int, offsets: Sequence[int], stride: int, low: int, count: int, fill: object
) -> list[Array]:
    """The slices x[q * stride + offset - low], q = 0 .. count - 1, one for each offset; `fill` outside of x.

    With a stride the axis is first split by residue, so that the derivative of the slices is a concatenation
    of small sums instead of a sum of full-size arrays with holes.
    """
    axis = axis % x.ndim
    n = x.shape[axis]
    first, last = min(offsets) - low, (count - 1) * stride + max(offsets) - low
    length = -(-(last - first + 1) // stride) * stride
    x = _pad_axis(x, axis, -first, first + length - n, fill)
    if stride == 1:
        return [lax.slice_in_dim(x, o - min(offsets), o - min(offsets) + count, axis=axis) for o in offsets]
    shape = x.shape
    x = x.reshape(shape[:axis] + (length // stride, stride) + shape[axis + 1 :])
    residues = [jnp.squeeze(part, axis + 1) for part in lax.split(x, (1,) * stride, axis + 1)]
    taps = []
    for o in offsets:
        skip, residue = divmod(o - min(offsets), stride)
        taps.append(lax.slice_in_dim(residues[residue], skip, skip + count, axis=axis))
    return taps


def add_axis_taps(taps: Sequence[Array], axis: int, offsets: Sequence[int], stride: int, low: int, size: int) -> Array:
    """The transpose of `axis_taps`: every tap added to the positions it was read from, of an axis of `size`."""
    axis, count = axis % taps[0].ndim, taps[0].shape[axis]
    first, last = min(offsets) - low, (count - 1) * stride + max(offsets) - low
    blocks = -(-(last - first + 1) // stride)
    residues: list[Array | None] = [None] * stride
    for tap, o in zip(taps, offsets):
        skip, residue = divmod(o - min(offsets), stride)
        part, before = _pad_axis(tap, axis, skip, blocks - skip - count, 0), residues[residue]
        residues[residue] = part if before is None else before + part
    empty = jnp.zeros_like(next(part for part in residues if part is not None))
    filled = [empty if part is None else part for part in residues]
    x = jnp.stack(filled, axis + 1) if stride > 1 else filled[0]
    x = x.reshape(taps[0].shape[:axis] + (blocks * stride,) + taps[0].shape[axis + 1 :])
    return _pad_axis(x, axis, first, size - first - blocks * stride, 0)


def _pad_axis(x: Array, axis: int, low: int, high: int, fill: object) -> Array:
    """Pad (or, where negative, crop) one axis; crops are slices: no negative pads are left to the compiler."""
    n = x.shape[axis]
    begin, end = max(-low, 0), n - max(-high, 0)
    if (begin, end) != (0, n):
        x = lax.slice_in_dim(x, min(begin, n), max(end, min(begin, n)), axis=axis)
    if low <= 0 and high <= 0:
        return x
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (max(low, 0), max(high, 0), 0)
    return lax.pad(x, jnp.asarray(fill, x.dtype), config)


def on_sharded_axes(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(x, windows, ...)` for any sharding that the type of x may have.

    On Explicit meshes jax pads, splits and concatenates a sharded axis only where the parts happen to fit the mesh:
    where spatial axes or channels are sharded, the partitioner does it.
    """

    def served(x: Array, windows: tuple[AxisWindow, ...], *arguments: Any) -> Any:
        if sharded_from(x, -len(windows) - 1):
            return left_to_the_partitioner(lambda x: function(x, windows, *arguments), x)
        return function(x, windows, *arguments)

    return served
