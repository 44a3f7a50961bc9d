"""depth_to_space, space_to_depth, space_to_batch and batch_to_space with TensorFlow's orders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jaxconv._checks import as_index, refuse_rest
from jaxconv._eager import in_one_program
from jaxconv.dialects._common import array, ints, static
from jaxconv.resampling import resample

_FORMATS = ("NHWC", "NCHW", "NCHW_VECT_C")


@in_one_program("input")
def depth_to_space(input: ArrayLike, block_size: int, data_format: str = "NHWC", name: str | None = None) -> Array:
    """tf.nn.depth_to_space: ``y[h*b + i, w*b + j, c] = input[h, w, (i*b + j)*C + c]``, block offsets before channels.

    Args:
        input: (batch, H, W, b*b*C), (batch, b*b*C, H, W), or "NCHW_VECT_C": (batch, b*b*C / 4, H, W, 4).
        block_size: b, at least 2.
        data_format: "NHWC", "NCHW" or "NCHW_VECT_C".
        name: not used.

    Returns:
        (batch, H*b, W*b, C) in the same layout.

    Raises:
        ValueError: channels that b*b does not divide, a block below 2, a rank or layout that does not fit.
        TypeError: a block that is not an integer.

    Example:
        >>> import jax.numpy as jnp
        >>> depth_to_space(jnp.arange(8).reshape(1, 1, 1, 8), 2)[0, ..., 0].tolist()
        [[0, 2], [4, 6]]

    Source: the TensorFlow documentation of tf.nn.depth_to_space.
    """
    x, b = _block_operands("depth_to_space", input, block_size, data_format)
    x = _to_last(x, data_format)
    if x.shape[-1] % (b * b):
        raise ValueError(f"depth_to_space: {x.shape[-1]} channels are not a multiple of block_size={b} squared")
    return _from_last(resample.pixel_shuffle(x, (b, b), order="DCR"), data_format)


@in_one_program("input")
def space_to_depth(input: ArrayLike, block_size: int, data_format: str = "NHWC", name: str | None = None) -> Array:
    """tf.nn.space_to_depth, the inverse of depth_to_space.

    Args:
        input: (batch, H*b, W*b, C), or in another layout.
        block_size: b, at least 2.
        data_format: "NHWC", "NCHW" or "NCHW_VECT_C".
        name: not used.

    Returns:
        (batch, H, W, b*b*C) in the same layout.

    Raises:
        ValueError: sizes that b does not divide, a block below 2, a rank or layout that does not fit.
        TypeError: a block that is not an integer.

    Example:
        >>> import jax.numpy as jnp
        >>> space_to_depth(jnp.arange(4).reshape(1, 2, 2, 1), 2).ravel().tolist()
        [0, 1, 2, 3]

    Source: the TensorFlow documentation of tf.nn.space_to_depth.
    """
    x, b = _block_operands("space_to_depth", input, block_size, data_format)
    x = _to_last(x, data_format)
    sizes = x.shape[1:3]
    refuse_rest(sizes, (b, b), f"space_to_depth: height and width {sizes} must be multiples of block_size={b}")
    return _from_last(resample.pixel_unshuffle(x, (b, b), order="DCR"), data_format)


@in_one_program("input")
def space_to_batch(
    input: ArrayLike, block_shape: Sequence[int], paddings: Sequence[Sequence[int]], name: str | None = None
) -> Array:
    """tf.space_to_batch: zeros around, then the b_1 * ... * b_M residues of space go to the batch, offset by offset.

    ``y[flat(t)*batch + n, q, ...] = padded[n, q*b + t, ...]``

    Args:
        input: (batch, *spatial, *rest); the first M axes after the batch are blocked.
        block_shape: b, M positive ints (M may be 0: nothing changes).
        paddings: M pairs of zeros before and after.
        name: not used.

    Returns:
        (batch * prod(b), *(padded / b), *rest).

    Raises:
        ValueError: padded sizes that b does not divide, negative numbers, entries that do not match.
        TypeError: numbers that are not integers, traced values.

    Example:
        >>> import jax.numpy as jnp
        >>> space_to_batch(jnp.arange(4).reshape(1, 2, 2, 1), [2, 2], [[0, 0], [0, 0]]).ravel().tolist()
        [0, 1, 2, 3]

    Source: the TensorFlow documentation of tf.space_to_batch.
    """
    x = array(input, "input")
    blocks, pads = _blocks(block_shape, paddings, "paddings", x)
    rank = len(blocks)
    if not rank:
        return x
    rest = x.ndim - 1 - rank
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((lo, hi, 0) for lo, hi in pads), *((0, 0, 0),) * rest])
    sizes = x.shape[1 : rank + 1]
    refuse_rest(sizes, blocks, f"space_to_batch: padded sizes {sizes} are not multiples of block_shape={blocks}")
    return _batch_first(resample.pixel_unshuffle(_batch_last(x, rank), blocks, order="DCR"), rank)


@in_one_program("input")
def batch_to_space(
    input: ArrayLike, block_shape: int | Sequence[int], crops: Sequence[Sequence[int]], name: str | None = None
) -> Array:
    """tf.batch_to_space, the inverse of space_to_batch; `crops` takes away what its paddings added.

    Args:
        input: (batch * prod(b), *spatial, *rest).
        block_shape: b, M positive ints, or one int for two axes.
        crops: M pairs of elements to remove before and after.
        name: not used.

    Returns:
        (batch, *(spatial * b - crops), *rest).

    Raises:
        ValueError: a batch that prod(b) does not divide, crops beyond the size, negative numbers, entries that do not
            match.
        TypeError: numbers that are not integers, traced values.

    Example:
        >>> import jax.numpy as jnp
        >>> batch_to_space(jnp.arange(4).reshape(4, 1, 1, 1), [2, 2], [[0, 0], [0, 0]])[0, ..., 0].tolist()
        [[0, 1], [2, 3]]

    Source: the TensorFlow documentation of tf.batch_to_space.
    """
    x = array(input, "input")
    if not hasattr(block_shape, "__len__"):
        block_shape = ints(block_shape, "block_shape", 2)
    blocks, cut = _blocks(block_shape, crops, "crops", x)
    rank, count = len(blocks), math.prod(blocks)
    if not rank:
        return x
    if x.shape[0] % count:
        raise ValueError(f"batch_to_space: the batch of shape {x.shape} is not a multiple of block_shape={blocks}")
    if any(n * b < lo + hi for n, b, (lo, hi) in zip(x.shape[1:], blocks, cut, strict=False)):
        raise ValueError(
            f"batch_to_space: crops={cut} remove more than there is (input of shape {x.shape}, block_shape={blocks})"
        )
    y = _batch_first(resample.pixel_shuffle(_batch_last(x, rank), blocks, order="DCR"), rank)
    for axis, (lo, hi) in enumerate(cut, 1):
        y = lax.slice_in_dim(y, lo, y.shape[axis] - hi, axis=axis)
    return y


# ---------------------------------------------------------------------- reading arguments


def _batch_last(x: Array, rank: int) -> Array:
    """(batch, *spatial, *rest) to (*rest, *spatial, batch): the batch is moved by residues as channels are."""
    return jnp.transpose(x, (*range(rank + 1, x.ndim), *range(1, rank + 1), 0))


def _batch_first(y: Array, rank: int) -> Array:
    rest = y.ndim - 1 - rank
    return jnp.transpose(y, (y.ndim - 1, *range(rest, rest + rank), *range(rest)))


def _blocks(block_shape: Any, pairs: Any, name: str, x: Array) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    if not hasattr(block_shape, "__len__"):
        raise ValueError(f"block_shape={block_shape!r} must be a list")
    block_shape = tuple(static(block_shape, "block_shape").tolist())
    blocks = ints(block_shape, "block_shape", len(block_shape), minimum=1)
    table = static(pairs, name)
    if table.shape != (len(blocks), 2):
        raise ValueError(f"{name}={pairs!r} must hold {len(blocks)} pairs, one for each entry of block_shape={blocks}")
    numbers = tuple((as_index(lo, name), as_index(hi, name)) for lo, hi in table.tolist())
    if any(min(p) < 0 for p in numbers):
        raise ValueError(f"{name}={numbers} must not be negative")
    if x.ndim < len(blocks) + 1:
        raise ValueError(f"block_shape={blocks} needs an input of at least {len(blocks) + 1} axes, got shape {x.shape}")
    return blocks, numbers


def _block_operands(name: str, input: Any, block_size: Any, data_format: str) -> tuple[Array, int]:
    x, b = array(input, "input"), as_index(block_size, "block_size")
    if b < 2:
        raise ValueError(f"{name}: block_size={b} must be at least 2")
    if data_format not in _FORMATS:
        raise ValueError(f"data_format={data_format!r} is not one of {', '.join(map(repr, _FORMATS))}")
    axes = 5 if data_format == "NCHW_VECT_C" else 4
    if x.ndim != axes or (axes == 5 and x.shape[-1] != 4):
        raise ValueError(
            f"{name} with data_format={data_format!r} takes {axes} axes, the last of size 4 if there are 5; got shape "
            f"{x.shape}"
        )
    return x, b


def _to_last(x: Array, data_format: str) -> Array:
    if data_format == "NCHW":
        return jnp.moveaxis(x, 1, -1)
    if data_format == "NCHW_VECT_C":
        x = jnp.moveaxis(x, 1, 3)
        return x.reshape(*x.shape[:3], x.shape[3] * 4)
    return x


def _from_last(y: Array, data_format: str) -> Array:
    if data_format == "NCHW":
        return jnp.moveaxis(y, -1, 1)
    if data_format == "NCHW_VECT_C":
        return jnp.moveaxis(y.reshape(*y.shape[:3], y.shape[3] // 4, 4), 3, 1)
    return y
