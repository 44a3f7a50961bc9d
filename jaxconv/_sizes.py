"""Which kernel, stride, padding and output_padding lead from one size to another."""

from __future__ import annotations

import dataclasses

from jaxconv._checks import as_index
from jaxconv.geometry import ConvGeometry

# Kernels and strides up to here are tried where the caller names none; a stride may need a larger kernel than this.
LARGEST_KERNEL = 8


@dataclasses.dataclass(frozen=True)
class SizeSettings:
    """One way from a size to another: arguments of `conv`, or of `conv_transpose`, and how evenly they cover.

    Attributes:
        kernel_size: k, taps.
        stride: s of the forward convolution.
        padding: p of the forward convolution, on both sides.
        dilation: d of the forward convolution.
        output_padding: elements beyond the smallest legal size of a transpose; None for a convolution.
        even: whether the stride divides the kernel, so that every element away from the borders is covered equally
            often: without it a transposed convolution tends to print a checkerboard.
    """

    kernel_size: int
    stride: int
    padding: int
    dilation: int
    output_padding: int | None
    even: bool

    @property
    def arguments(self) -> dict[str, int]:
        """The keyword arguments of `conv` or `conv_transpose`; the kernel brings its own size."""
        named = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        return named if self.output_padding is None else {**named, "output_padding": self.output_padding}


def sizes(
    start: int,
    end: int,
    *,
    kernel_size: int | None = None,
    stride: int | None = None,
    padding: int | None = None,
    dilation: int = 1,
) -> list[SizeSettings]:
    """Settings that lead from one size to another along an axis, the simplest first.

    A convolution where `end` is at most `start`: ``end = (start + 2p - K) // s + 1`` with ``K = d*(k-1) + 1``. A
    transposed convolution where it is larger: ``end = (start - 1)*s + K - 2p + output_padding``. Settings that cover
    evenly come first, then those without output_padding, then small kernels.

    Args:
        start: elements of the input along the axis.
        end: elements wanted of the output.
        kernel_size: k, or None to try kernels of up to 8 taps, or of twice the stride where that is more, that leave
            no element unread.
        stride: s, or None to try those around the quotient of the sizes, and 1.
        padding: p, or None to try all up to half of the kernel's extent.
        dilation: d of the kernel.

    Returns:
        All settings found; empty where none leads there.

    Raises:
        ValueError: a size, kernel, stride, padding or dilation out of range.
        TypeError: a number that is not an integer.

    Example:
        >>> import jaxconv as jc
        >>> for found in jc.sizes(13, 27, stride=2)[:3]:
        ...     print(found.kernel_size, found.padding, found.output_padding, found.even)
        2 0 1 True
        4 1 1 True
        6 2 1 True
        >>> [found.output_padding for found in jc.sizes(13, 27, kernel_size=3, stride=2)]
        [0]
        >>> jc.sizes(13, 26, kernel_size=3, stride=2, padding=1)[0].arguments
        {'stride': 2, 'padding': 1, 'dilation': 1, 'output_padding': 1}

    Source: Dumoulin and Visin 2016 (arXiv:1603.07285), relationships 6 and 14.
    """
    start, end, dilation = (
        _at_least(value, name, 1) for value, name in ((start, "start"), (end, "end"), (dilation, "dilation"))
    )
    up = end > start
    large, small = (end, start) if up else (start, end)
    found = []
    for s in _strides(large, small) if stride is None else [_at_least(stride, "stride", 1)]:
        kernels = range(1, max(LARGEST_KERNEL, 2 * s) + 1)
        for k in kernels if kernel_size is None else [_at_least(kernel_size, "kernel_size", 1)]:
            extent = dilation * (k - 1) + 1
            for p in range(extent // 2 + 1) if padding is None else [_at_least(padding, "padding", 0)]:
                skips = kernel_size is None and extent < s  # some elements would never be read
                if skips or large + 2 * p < extent:
                    continue
                g = ConvGeometry.resolve(input_size=(large,), kernel_size=(k,), stride=s, padding=p, dilation=dilation)
                if g.output_size == (small,):
                    extra = g.output_padding[0] if up else None
                    found.append(SizeSettings(k, s, p, dilation, extra, even=k % s == 0))
    return sorted(found, key=lambda f: (not f.even, f.output_padding or 0, f.kernel_size, -f.stride, f.padding))


def _strides(large: int, small: int) -> list[int]:
    """The strides around the quotient of the sizes, and 1, where the kernel alone makes the difference."""
    return sorted({1, large // small, -(-large // small), large // (small + 1) or 1})


def _at_least(value: int, name: str, least: int) -> int:
    number = as_index(value, name)
    if number < least:
        raise ValueError(f"{name}={value} must be at least {least}")
    return number
