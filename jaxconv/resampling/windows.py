"""Sliding windows over the spatial axes: arguments resolved once, and the slices that the taps of a window read.

Shared by pooling and resampling. On one axis, output q of a window with K taps reads the input positions
q * stride + t * dilation - low, t = 0 .. K - 1.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxconv._checks import is_open, is_sequence, per_axis
from jaxconv._compat import left_to_the_partitioner, sharded_from
from jaxconv.lattice import Padding, Relation, Window, parse_padding

Ints = int | Sequence[int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AxisWindow(Relation):
    """A window along one axis of an array: everything static, resolved and checked.

    Attributes:
        axis: the axis it slides along, counted from the end.
        high: elements of padding behind the input; negative numbers crop.
    """

    axis: int
    high: int


def spatial_rank(ndim: int, batch_and_channels: str, **arguments: object) -> int:
    """Number of spatial axes: the length of the tuple arguments, else every axis but the first and the last."""
    lengths = {name: len(v) for name, v in arguments.items() if is_sequence(v)}  # type: ignore[arg-type]
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


def spatial_sizes(shape: Sequence[Any], window: Any, stride: Any, padding: Any, dilation: Any) -> Sequence[Any]:
    """The sizes that the arguments of a sliding window are for."""
    pads = None if isinstance(padding, str) else padding
    rank = spatial_rank(
        len(shape), f"shape {tuple(shape)}", window=window, stride=stride, padding=pads, dilation=dilation
    )
    return shape[len(shape) - 1 - rank : -1]


def resolve_windows(
    shape: Sequence[int],
    window: Ints,
    stride: Ints | None,
    padding: Padding,
    dilation: Ints,
    *,
    ceil_mode: bool = False,
    crop: bool = False,
    rank: int | None = None,
) -> tuple[AxisWindow, ...]:
    """Check the arguments of a sliding window against the data's shape and return one record per spatial axis.

    Negative padding crops where `crop` says so, and is refused elsewhere.
    """
    rank = len(spatial_sizes(shape, window, stride, padding, dilation)) if rank is None else rank
    name, numbers = parse_padding(padding, rank)
    if numbers and not crop and any(pad < 0 for pads in numbers for pad in pads):
        raise ValueError(f"padding={padding!r} must be at least 0 on every axis")
    per = zip(
        per_axis(window, "window", rank, 1),
        per_axis(window if stride is None else stride, "stride", rank, 1),
        per_axis(dilation, "dilation", rank, 1),
        (1,) * rank,
        numbers or (name,) * rank,
        strict=True,
    )
    records = []
    for a, settings in enumerate(per):
        n, sliding = shape[len(shape) - 1 - rank + a], Window(*settings)  # type: ignore[arg-type]
        if n < 1:
            raise ValueError(f"spatial axis {a} is empty: shape {tuple(shape)}")
        found, (lo, hi) = sliding.over(n, ceil_mode), sliding.pads(n)
        if found.n_out < 1:
            raise ValueError(
                f"a window of {sliding.extent} (window={sliding.taps}, dilation={sliding.dilation}) does not fit on "
                f"spatial axis {a}: size {n} with pads ({lo}, {hi}) is {n + lo + hi}"
            )
        records.append(AxisWindow(**dataclasses.asdict(found), axis=a - rank - 1, high=hi))
    return tuple(records)


def index_dtype(sizes: Sequence[int]) -> Any:
    """Of flat positions in axes of these sizes: int32 where it counts them all, else int64, which needs jax's x64 mode.

    Open sizes are not known and not counted.
    """
    if (count := math.prod(n for n in sizes if not is_open([n]))) <= jnp.iinfo(jnp.int32).max:
        return jnp.int32
    if jnp.zeros((), int).dtype == jnp.int64:
        return jnp.int64
    raise ValueError(
        f"the sizes {tuple(sizes)} have {count} positions, more than int32 indices can count; for int64 "
        "indices enable 64 bits (jax_enable_x64)"
    )


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
    x = pad_axis(x, axis, -first, first + length - n, fill)
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
        part, before = pad_axis(tap, axis, skip, blocks - skip - count, 0), residues[residue]
        residues[residue] = part if before is None else before + part
    empty = jnp.zeros_like(next(part for part in residues if part is not None))
    filled = [empty if part is None else part for part in residues]
    x = jnp.stack(filled, axis + 1) if stride > 1 else filled[0]
    x = x.reshape(taps[0].shape[:axis] + (blocks * stride,) + taps[0].shape[axis + 1 :])
    return pad_axis(x, axis, first, size - first - blocks * stride, 0)


def pad_axis(x: Array, axis: int, low: int, high: int, fill: object) -> Array:
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


def named(function: Callable[..., Any], name: str, static: tuple[int, ...]) -> Callable[..., Any]:
    """The function jitted under the name that a jaxpr shows, and that the analysis knows."""
    function.__name__ = function.__qualname__ = name
    return jax.jit(function, static_argnums=static)


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
