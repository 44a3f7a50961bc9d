"""TensorFlow's data formats, and the several lengths in which it takes strides, dilations, window sizes and
paddings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxconv._checks import as_index, is_open
from jaxconv.dialects._common import array, ints, static

Pads = str | tuple[tuple[int, int], ...]

_LETTERS = {1: "W", 2: "HW", 3: "DHW"}


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the channels stand: rank spatial axes, channels last or first."""

    rank: int
    last: bool

    @classmethod
    def read(cls, data_format: str | None, rank: int, any_rank: bool = False) -> Layout:
        """Read a name such as "NHWC" or "NCHW".

        Args:
            data_format: the name; None means channels last.
            rank: number of spatial axes.
            any_rank: whether the names for two axes are also understood for one.

        Returns:
            The layout.

        Raises:
            ValueError: a name of another layout or rank.

        Example:
            >>> Layout.read("NCHW", 2)
            Layout(rank=2, last=False)
        """
        letters = _LETTERS[rank]
        last, first = {f"N{letters}C"}, {f"NC{letters}"}
        if any_rank:
            last, first = last | {"NHWC"}, first | {"NCHW"}
        if data_format is None or data_format in last:
            return cls(rank, True)
        if data_format in first:
            return cls(rank, False)
        raise ValueError(f"data_format={data_format!r} is not one of {', '.join(map(repr, sorted(last | first)))}")

    @property
    def channel_axis(self) -> int:
        """Axis of the channels among (batch, ...)."""
        return self.rank + 1 if self.last else 1

    def to_core(self, x: Array) -> Array:
        """Channels last."""
        return x if self.last else jnp.moveaxis(x, -self.rank - 1, -1)

    def from_core(self, y: Array) -> Array:
        """The inverse of `to_core`."""
        return y if self.last else jnp.moveaxis(y, -1, -self.rank - 1)

    def spatial(self, value: Sequence[Any]) -> tuple[Any, ...]:
        """The spatial entries of a list with one entry per axis of the data."""
        value = tuple(value)
        return value[1:-1] if self.last else value[2:]

    def steps(self, value: Any, name: str, *, lengths: Sequence[int] = ()) -> tuple[int, ...]:
        """One positive integer per spatial axis, from any length that TensorFlow takes.

        Args:
            value: None (1 everywhere), an int, or 1, rank or rank + 2 ints; the last also names batch and channels,
                which must be 1.
            name: the argument's name, for messages.
            lengths: the lengths of a list that are taken, where these are fewer; then an int is refused.

        Returns:
            One int per spatial axis.

        Raises:
            ValueError: another length, a number below 1, a step along the batch or the channels.
            TypeError: numbers that are not integers.

        Example:
            >>> Layout(2, True).steps([1, 2, 3, 1], "strides")
            (2, 3)
        """
        if value is None:
            return (1,) * self.rank
        if getattr(value, "ndim", 0) == 1:
            value = static(value, name).tolist()
        listed = isinstance(value, Sequence) and not isinstance(value, str)
        if lengths and not listed:
            raise TypeError(f"{name}={value!r} must be a list of {' or '.join(map(str, lengths))} integers")
        if not listed:
            return ints(value, name, self.rank, minimum=1)
        allowed = tuple(lengths) or (1, self.rank, self.rank + 2)
        if len(value) not in allowed:
            raise ValueError(f"{name}={value!r} must have {' or '.join(map(str, sorted(set(allowed))))} entries")
        if len(value) == 1:
            return ints(value[0], name, self.rank, minimum=1)
        if len(value) == self.rank:
            return ints(value, name, self.rank, minimum=1)
        numbers = ints(value, name, self.rank + 2, minimum=1)
        if numbers[0] != 1 or numbers[self.channel_axis] != 1:
            raise ValueError(f"{name}={value!r} must be 1 along the batch and the channels")
        return self.spatial(numbers)

    def padding(self, value: Any, *, explicit: bool) -> Pads:
        """ "SAME" (extra at the end), "VALID", or where `explicit` is set the pads of every axis of the data.

        Raises:
            ValueError: another name, another number of pairs, negative pads, pads along the batch or the channels.
            TypeError: anything else.

        Example:
            >>> Layout(2, True).padding([[0, 0], [1, 2], [0, 0], [0, 0]], explicit=True)
            ((1, 2), (0, 0))
        """
        if isinstance(value, str):
            if value not in ("SAME", "VALID"):
                raise ValueError(f"padding={value!r} is not 'SAME' or 'VALID'")
            return value
        if not explicit or not isinstance(value, (Sequence, tuple)) and getattr(value, "ndim", 0) != 2:
            raise TypeError(
                f"padding={value!r} must be 'SAME' or 'VALID'" + (" or a list of pairs" if explicit else "")
            )
        pairs = [tuple(p) if hasattr(p, "__len__") else (p,) for p in value]
        if len(pairs) != self.rank + 2 or any(len(p) != 2 for p in pairs):
            raise ValueError(f"padding={value!r} must hold {self.rank + 2} pairs, one for every axis of the data")
        numbers = [(as_index(lo, "padding"), as_index(hi, "padding")) for lo, hi in pairs]
        if min(min(p) for p in numbers) < 0:
            raise ValueError(f"padding={value!r} must not be negative")
        if numbers[0] != (0, 0) or numbers[self.channel_axis] != (0, 0):
            raise ValueError(f"padding={value!r} must be zero along the batch and the channels")
        return self.spatial(numbers)


def windowed_sizes(
    inputs: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], padding: Pads
) -> tuple[int, ...]:
    """TensorFlow's size of a convolution's output: ``ceil(n/s)`` for "SAME", else ``(n + lo + hi - K + s) / s`` rounded
    towards zero, so that an input a little too small gives 0 and not an error.

    Example:
        >>> windowed_sizes((5, 0), (3, 3), (2, 2), (1, 1), "VALID")
        (2, 0)
    """
    if padding == "SAME":
        return tuple(-(-n // s) for n, s in zip(inputs, strides, strict=True))
    pads = ((0, 0),) * len(inputs) if isinstance(padding, str) else padding
    columns = zip(inputs, kernel, strides, dilations, pads, strict=True)
    wide = ((n + lo + hi - d * (k - 1) - 1 + s, s) for n, k, s, d, (lo, hi) in columns)
    return tuple(n // s if is_open([n]) else int(n / s) for n, s in wide)


def operands(name: str, layout: Layout, input, filters, batch_axes: int | None) -> tuple[Array, Array]:
    """Input and filters as arrays, checked against the layout.

    Raises:
        ValueError: numbers of axes that do not fit.
        TypeError: operands of different types, or bools.
    """
    x, w = array(input, "input"), array(filters, "filters")
    if w.ndim != layout.rank + 2:
        raise ValueError(f"{name} takes filters of {layout.rank + 2} axes, got shape {w.shape}")
    least = layout.rank + 2
    if x.ndim < least or (batch_axes is not None and x.ndim != layout.rank + 1 + batch_axes):
        raise ValueError(
            f"{name} takes an input of {least} axes{'' if batch_axes else ' or more'}, got shape {x.shape}"
        )
    if x.dtype != w.dtype:
        raise TypeError(f"{name}: input and filters must have the same type, got {x.dtype} and {w.dtype}")
    if x.dtype == jnp.bool_:
        raise TypeError(f"{name} is not defined for bool")
    return x, w
