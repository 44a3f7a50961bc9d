"""DepthToSpace, SpaceToDepth and Col2Im of the ONNX standard."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxconv._checks import as_index, refuse_rest
from jaxconv._eager import in_one_program
from jaxconv.dialects._common import array, channels_first, channels_last, ints, static
from jaxconv.dialects.onnx import _attributes as at
from jaxconv.geometry import ConvGeometry
from jaxconv.resampling import resample


@in_one_program("input")
def DepthToSpace(input: ArrayLike, *, blocksize: int, mode: str = "DCR", opset: int | None = None) -> Array:
    """ONNX DepthToSpace: (batch, C*b*b, H, W) to (batch, C, H*b, W*b).

    ``y[c, h*b + i, w*b + j]`` is channel ``(i*b + j)*C + c`` of (h, w) in mode "DCR", ``c*b*b + i*b + j`` in mode "CRD"
    (PyTorch's pixel_shuffle).

    Args:
        input: (batch, C*b*b, H, W).
        blocksize: b.
        mode: "DCR" or "CRD" (operator set 11).
        opset: operator set; None is the latest.

    Returns:
        (batch, C, H*b, W*b).

    Raises:
        ValueError: another rank or mode, channels that b*b does not divide.
        TypeError: a block that is not an integer.

    Example:
        >>> import jax.numpy as jnp
        >>> DepthToSpace(jnp.arange(8).reshape(1, 8, 1, 1), blocksize=2, mode="CRD")[0].tolist()
        [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]

    Source: the ONNX operator DepthToSpace, version 13.
    """
    at.since("DepthToSpace", opset, 1, {"mode": (mode, "DCR", 11)})
    x, b = _block_operands("DepthToSpace", input, blocksize, mode)
    if x.shape[1] % (b * b):
        raise ValueError(
            f"DepthToSpace: {x.shape[1]} channels (shape {x.shape}) are not a multiple of blocksize={b} squared"
        )
    return channels_first(resample.pixel_shuffle(channels_last(x, 2), (b, b), order=mode), 2)


@in_one_program("input")
def SpaceToDepth(input: ArrayLike, *, blocksize: int, mode: str = "DCR", opset: int | None = None) -> Array:
    """ONNX SpaceToDepth: (batch, C, H*b, W*b) to (batch, C*b*b, H, W), the inverse of DepthToSpace in the same mode.

    Args:
        input: (batch, C, H*b, W*b).
        blocksize: b.
        mode: "DCR" or "CRD" (operator set 28).
        opset: operator set; None is the latest.

    Returns:
        (batch, C*b*b, H, W).

    Raises:
        ValueError: another rank or mode, sizes that b does not divide.
        TypeError: a block that is not an integer.

    Example:
        >>> import jax.numpy as jnp
        >>> SpaceToDepth(jnp.arange(4).reshape(1, 1, 2, 2), blocksize=2).ravel().tolist()
        [0, 1, 2, 3]

    Source: the ONNX operator SpaceToDepth, versions 13 and 28.
    """
    at.since("SpaceToDepth", opset, 1, {"mode": (mode, "DCR", 28)})
    x, b = _block_operands("SpaceToDepth", input, blocksize, mode)
    message = f"SpaceToDepth: height and width of shape {x.shape} are not multiples of blocksize={b}"
    refuse_rest(x.shape[2:], (b, b), message)
    return channels_first(resample.pixel_unshuffle(channels_last(x, 2), (b, b), order=mode), 2)


@in_one_program("input")
def Col2Im(
    input: ArrayLike,
    image_shape: ArrayLike | Sequence[int],
    block_shape: ArrayLike | Sequence[int],
    *,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    opset: int | None = None,
) -> Array:
    """ONNX Col2Im: columns added back to an image of any number of spatial axes.

    ``y[c, u] = sum over q*strides + t*dilations - begin = u of input[c*prod(block) + flat(t), flat(q)]``

    Args:
        input: (batch, C * prod(block_shape), L).
        image_shape: spatial size of the result.
        block_shape: window, one size per spatial axis.
        dilations: one per spatial axis, default 1.
        pads: all begins, then all ends.
        strides: one per spatial axis, default 1.
        opset: operator set, 18 at least; None is the latest.

    Returns:
        (batch, C, *image_shape).

    Raises:
        ValueError: rows that the block does not divide, another number of columns than the sizes give.
        TypeError: numbers that are not integers, sizes that are traced.

    Example:
        >>> import jax.numpy as jnp
        >>> Col2Im(jnp.ones((1, 2, 3)), [4], [2]).ravel().tolist()
        [1.0, 2.0, 2.0, 1.0]

    Source: the ONNX operator Col2Im, version 18.
    """
    at.since("Col2Im", opset, 18, {})
    cols = array(input, "input")
    sizes, window = (
        tuple(static(v, n).tolist()) for v, n in ((image_shape, "image_shape"), (block_shape, "block_shape"))
    )
    rank = len(window)
    if cols.ndim != 3 or not rank:
        raise ValueError(
            f"Col2Im takes (batch, C * prod(block_shape), L) and a block, got shape {cols.shape}, block_shape={window}"
        )
    sizes, window = ints(sizes, "image_shape", rank, minimum=1), ints(window, "block_shape", rank, minimum=1)
    settings: dict[str, Any] = {
        "stride": at.steps(strides, "strides", rank),
        "padding": at.pad_pairs(pads, rank),
        "dilation": at.steps(dilations, "dilations", rank),
    }
    taps = math.prod(window)
    if cols.shape[1] % taps:
        raise ValueError(
            f"Col2Im: {cols.shape[1]} rows (shape {cols.shape}) are not a multiple of the {taps} taps of "
            f"block_shape={window}"
        )
    windows = ConvGeometry.resolve(input_size=sizes, kernel_size=window, **settings).output_size
    if cols.shape[2] != math.prod(windows):
        raise ValueError(
            f"Col2Im: image_shape={sizes} with block_shape={window}, {settings} has {windows} windows, not "
            f"{cols.shape[2]}"
        )
    cols = cols.reshape(cols.shape[0], cols.shape[1] // taps, taps, *windows)
    cols = jnp.moveaxis(cols, (1, 2), (-1, -2)).reshape(
        cols.shape[0], *windows, -1 if cols.size else cols.shape[1] * taps
    )
    return channels_first(resample.fold(cols, sizes, window, **settings), rank)


def _block_operands(name: str, input: Any, blocksize: Any, mode: Any) -> tuple[Array, int]:
    x, b = array(input, "input"), as_index(blocksize, "blocksize")
    if mode not in ("DCR", "CRD"):
        raise ValueError(f"{name}: mode={mode!r} is not 'DCR' or 'CRD'")
    if x.ndim != 4:
        raise ValueError(f"{name} takes (batch, channels, height, width), got shape {x.shape}")
    if b < 1:
        raise ValueError(f"{name}: blocksize={b} must be at least 1")
    return x, b
