"""Max-unpooling with the meaning of torch.nn.functional."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxconv._checks import refuse_open
from jaxconv.dialects._common import array, channels_first, channels_last, concrete, ints
from jaxconv.resampling import pooling

Ints = int | Sequence[int]


def max_unpool1d(
    input: ArrayLike,
    indices: ArrayLike,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    output_size: Sequence[int] | None = None,
) -> Array:
    """torch.nn.functional.max_unpool1d: as [`max_unpool2d`][jaxconv.dialects.torch.max_unpool2d] with one spatial axis.

    Example:
        >>> import jax.numpy as jnp
        >>> max_unpool1d(jnp.asarray([[5.0, 3.0]]), jnp.asarray([[1, 3]]), 2).tolist()
        [[0.0, 5.0, 0.0, 3.0]]
    """
    return _max_unpool(1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    input: ArrayLike,
    indices: ArrayLike,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    output_size: Sequence[int] | None = None,
) -> Array:
    """torch.nn.functional.max_unpool2d.

    ``x[c, indices[c, q]] = input[c, q]``, zero elsewhere; of equal indices the last q in row-major order wins, as
    PyTorch's CPU kernel does it, on every platform. It alone gets the gradient; PyTorch hands it to the others, too.

    Args:
        input: (batch, channels, H, W) or (channels, H, W).
        indices: integers of the input's shape, flat positions in the output's plane, as max_pool2d gives them.
        kernel_size: of the pooling that is undone.
        stride: of that pooling, the kernel size by default.
        padding: of that pooling.
        output_size: (H', W'), or the whole shape with batch and channels; by default ``(H-1)*stride - 2*padding +
            kernel``. It may differ from that by less than a stride.

    Returns:
        (batch, channels, H', W').

    Raises:
        ValueError: shapes that do not fit, an output size out of range, an index beyond the output (seen only where
            indices are not traced).
        TypeError: indices that are not integers.

    Example:
        >>> import jax.numpy as jnp
        >>> max_unpool2d(jnp.ones((1, 1, 1)), jnp.full((1, 1, 1), 3), 2).ravel().tolist()
        [0.0, 0.0, 0.0, 1.0]

    Source: the PyTorch documentation of MaxUnpool2d.
    """
    return _max_unpool(2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    input: ArrayLike,
    indices: ArrayLike,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    output_size: Sequence[int] | None = None,
) -> Array:
    """torch.nn.functional.max_unpool3d: as [`max_unpool2d`][jaxconv.dialects.torch.max_unpool2d] with three spatial
    axes.

    Example:
        >>> import jax.numpy as jnp
        >>> max_unpool3d(jnp.ones((1, 1, 1, 1)), jnp.zeros((1, 1, 1, 1), int), 2).shape
        (1, 2, 2, 2)
    """
    return _max_unpool(3, input, indices, kernel_size, stride, padding, output_size)


# ---------------------------------------------------------------------- one rule for every rank


def _max_unpool(rank: int, input, indices, kernel_size, stride, padding, output_size) -> Array:
    name = f"max_unpool{rank}d"
    y, i = array(input, "input"), array(indices, "indices")
    if y.ndim not in (rank + 1, rank + 2):
        raise ValueError(f"{name} takes an input of {rank + 1} or {rank + 2} axes, got shape {y.shape}")
    if i.shape != y.shape:
        raise ValueError(f"indices must have the shape of the input {y.shape}, got {i.shape}")
    if i.dtype not in (jnp.dtype("int32"), jnp.dtype("int64")):
        raise TypeError(f"indices must be int32 or int64, got {i.dtype}")
    if 0 in y.shape[-rank - 1 :]:
        raise ValueError(f"{name}: only the batch may be empty, got an input of shape {y.shape}")
    # Unlike the pools: one entry does not stand for all axes, and an empty stride is no default.
    window = ints(kernel_size, "kernel_size", rank, minimum=1)
    stride = window if stride is None else ints(stride, "stride", rank, minimum=1)
    padding = ints(padding, "padding", rank)
    refuse_open(name, y.shape[-rank:])
    size = _unpool_size(y.shape[-rank:], window, stride, padding, output_size)
    values, count = concrete(i), 1
    for n in size:
        count *= n
    if values is not None and values.size and (values.min() < 0 or values.max() >= count):
        bad = int(values.min() if values.min() < 0 else values.max())
        raise ValueError(f"index {bad} is outside of the output of size {size} ({count} positions, 0 to {count - 1})")
    return channels_first(pooling.max_unpool(channels_last(y, rank), channels_last(i, rank), size), rank)


def _unpool_size(sizes, window, stride, padding, output_size) -> tuple[int, ...]:
    rank = len(window)
    default = tuple((i - 1) * s + k - 2 * p for i, s, k, p in zip(sizes, stride, window, padding, strict=True))
    if output_size is None:
        out = default
    else:
        if not isinstance(output_size, Sequence) or len(output_size) not in (rank, rank + 2):
            raise ValueError(f"output_size={output_size!r} must have {rank} or {rank + 2} entries")
        out = ints(tuple(output_size)[-rank:], "output_size", rank)
        for axis, (n, d, s) in enumerate(zip(out, default, stride, strict=True)):
            if not d - s < n < d + s:
                raise ValueError(
                    f"output_size={tuple(output_size)!r}: on spatial axis {axis} the size must be "
                    f"{max(d - s + 1, 1)}..{d + s - 1}, got {n}"
                )
    if min(out) < 1:
        raise ValueError(
            f"input size {tuple(sizes)} with kernel_size={window}, stride={stride}, padding={padding} unpools to "
            f"{out}, which is empty"
        )
    return out
