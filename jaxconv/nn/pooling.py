"""Pooling and unpooling as Flax NNX modules without parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flax import nnx
from jax import Array

from jaxconv._checks import is_sequence, plain
from jaxconv._hints import hinting
from jaxconv.geometry import Padding
from jaxconv.nn._settings import tuple_of_ints
from jaxconv.resampling import pooling


def _frozen(value):
    """Sequences as tuples: settings of a module are hashed."""
    return tuple(map(_frozen, plain(value))) if is_sequence(value) else value


class MaxPool(nnx.Module):
    """Maximum over windows, `jaxconv.max_pool` as a layer.

    ``y[q] = max over t of x[q*s + t*d - lo]``

    Args:
        window: window size, one int per spatial axis.
        stride: an int or one int per axis; default: the window.
        padding: int, one int per axis, (lo, hi) per axis or a rule's name; padded places never win.
        dilation: spacing of the window's taps.
        ceil_mode: whether a last, incomplete window counts.
        return_indices: whether the call also returns where each maximum stood.

    Returns:
        Called with x (*batch, *spatial, channels): y, or (y, indices), both (*batch, *output_size, channels).

    Example:
        >>> import jax.numpy as jnp
        >>> MaxPool((2, 2))(jnp.ones((1, 6, 4, 3))).shape
        (1, 3, 2, 3)
    """

    @hinting
    def __init__(
        self,
        window: Sequence[int],
        *,
        stride: int | Sequence[int] | None = None,
        padding: Padding = 0,
        dilation: int | Sequence[int] = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ):
        self.window = tuple_of_ints(window, "window")
        self.stride, self.padding, self.dilation = _frozen(stride), _frozen(padding), _frozen(dilation)
        self.ceil_mode, self.return_indices = ceil_mode, return_indices

    def __call__(self, x: Array) -> Any:  # one array or two, as return_indices says
        """The maxima of x (*batch, *spatial, channels), with their indices where the layer was made so."""
        return pooling.max_pool(
            x, self.window, stride=self.stride, padding=self.padding, dilation=self.dilation, ceil_mode=self.ceil_mode,
            return_indices=self.return_indices,
        )  # fmt: skip


class AvgPool(nnx.Module):
    """Mean over windows, `jaxconv.avg_pool` as a layer.

    ``y[q] = 1/n[q] * sum over t of x[q*s + t*d - lo]``

    Args:
        window: window size, one int per spatial axis.
        stride: an int or one int per axis; default: the window.
        padding: int, one int per axis, (lo, hi) per axis or a rule's name.
        dilation: spacing of the window's taps.
        ceil_mode: whether a last, incomplete window counts.
        count_include_pad: whether padded places count in n.

    Returns:
        Called with x (*batch, *spatial, channels): y (*batch, *output_size, channels).

    Example:
        >>> import jax.numpy as jnp
        >>> AvgPool((2, 2))(jnp.ones((1, 6, 4, 3))).shape
        (1, 3, 2, 3)
    """

    @hinting
    def __init__(
        self,
        window: Sequence[int],
        *,
        stride: int | Sequence[int] | None = None,
        padding: Padding = 0,
        dilation: int | Sequence[int] = 1,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ):
        self.window = tuple_of_ints(window, "window")
        self.stride, self.padding, self.dilation = _frozen(stride), _frozen(padding), _frozen(dilation)
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad

    def __call__(self, x: Array) -> Array:
        """The means of x (*batch, *spatial, channels)."""
        return pooling.avg_pool(
            x, self.window, stride=self.stride, padding=self.padding, dilation=self.dilation, ceil_mode=self.ceil_mode,
            count_include_pad=self.count_include_pad,
        )  # fmt: skip


class MaxUnpool(nnx.Module):
    """Values put back where `MaxPool` took them from, zeros elsewhere: `jaxconv.max_unpool` as a layer.

    ``x[indices[q]] = y[q]``; of several q with the same index the last in row-major order wins.

    Returns:
        Called with y, indices (*batch, *spatial, channels) and the output's spatial size: x (*batch, *output_size,
        channels).

    Example:
        >>> import jax.numpy as jnp
        >>> y, indices = MaxPool((2, 2), return_indices=True)(jnp.arange(16.0).reshape(1, 4, 4, 1))
        >>> MaxUnpool()(y, indices, (4, 4))[0, :, :, 0].tolist()[1]
        [0.0, 5.0, 0.0, 7.0]

    Source: Zeiler and Fergus 2014 (arXiv:1311.2901), section 2.1.
    """

    def __call__(self, y: Array, indices: Array, output_size: Sequence[int]) -> Array:
        """x (*batch, *output_size, channels) with y at the indices."""
        return pooling.max_unpool(y, indices, output_size)
