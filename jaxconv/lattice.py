"""One axis on which three tensors meet: the relation, its arithmetic, and the rules of its padding.

Put the input x[u] at ``b*u + lo``, the kernel w[t] at ``d*t`` and the output y[q] at ``s*q`` of one integer line. A
convolution, its transpose, its kernel gradient, a pooling window, an unfolding and a receptive field all ask which of
them coincide:

    b*u + lo = s*q + d*t

[`Relation`][jaxconv.lattice.Relation] is that equation with its sizes, and [`Window`][jaxconv.lattice.Window] is what
slides before the size under it is known. Convolutions, pooling, `accelerate` and the analysis ask these two; only the
matrix has an arithmetic of its own, because it is there to check the others.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxconv._checks import as_index, is_sequence, plain

Pads = tuple[tuple[int, int], ...]
Padding = int | str | Sequence[int] | Sequence[tuple[int, int]]

NOWHERE = -(2**62)


class PaddingRule(NamedTuple):
    """A padding that is asked for by name.

    Attributes:
        pads: (low, high) from the input's span ``b*(n-1) + 1``, the window's extent ``d*(k-1) + 1`` and the stride. The
            span may be an expression in symbols: numbers may be added to it, and it may be divided by them.
        covers: whether ``ceil(span / stride)`` outputs come out whatever the window: then the transposed convolution
            goes to ``i*s`` by default. Otherwise the pads must not depend on the span.
    """

    pads: Callable[[int, int, int], tuple[int, int]]
    covers: bool


def _total(span: int, extent: int, stride: int) -> int:
    """``max((ceil(span / stride) - 1) * stride + extent - span, 0)``, without a comparison of the span."""
    if extent >= stride:
        return (-(-span // stride) - 1) * stride + extent - span
    return sum((-span % stride + i) // stride for i in range(1, extent))


def _same(span: int, extent: int, stride: int) -> tuple[int, int]:
    total = _total(span, extent, stride)
    return total // 2, total - total // 2


PADDING_RULES = {
    "SAME": PaddingRule(_same, covers=True),
    "SAME_LOWER": PaddingRule(lambda *sizes: _same(*sizes)[::-1], covers=True),
    "VALID": PaddingRule(lambda span, extent, stride: (0, 0), covers=False),
    "CAUSAL": PaddingRule(lambda span, extent, stride: (extent - 1, 0), covers=True),
}


@dataclasses.dataclass(frozen=True)
class Relation:
    """``base*u + low = stride*q + dilation*t`` for u < n_in, q < n_out, t < taps.

    Attributes:
        n_in: n, elements of the input.
        n_out: m, elements of the output.
        taps: k, elements of the kernel.
        stride: s, spacing of the output.
        dilation: d, spacing of the kernel.
        base: b, spacing of the input.
        low: lo, where the input begins.

    Example:
        >>> Relation(n_in=5, n_out=3, taps=3, stride=2, low=1).reads()
        array([[-1,  0,  1],
               [ 1,  2,  3],
               [ 3,  4,  5]])
    """

    n_in: int
    n_out: int
    taps: int
    stride: int = 1
    dilation: int = 1
    base: int = 1
    low: int = 0

    @property
    def extent(self) -> int:
        """d*(k-1) + 1: what the kernel spans on the line."""
        return self.dilation * (self.taps - 1) + 1

    @property
    def span(self) -> int:
        """b*(n-1) + 1: what the input spans on the line."""
        return self.base * (self.n_in - 1) + 1

    @property
    def offsets(self) -> tuple[int, ...]:
        """Positions of the taps, counted from the first one."""
        return tuple(t * self.dilation for t in range(self.taps))

    @property
    def least_high(self) -> int:
        """The smallest high pad that gives this many outputs; up to s - 1 more change nothing."""
        return self.stride * (self.n_out - 1) + self.extent - self.span - self.low

    def recast(self, x: str, w: str, y: str) -> Relation:
        """The relation in which the tensors of the slots `x`, `w` and `y` play input, kernel and output.

        The input stands alone on its side. Where another tensor is to, the third one changes sides by being reversed:
        with p its spacing and z its index, ``p*z = p*(size-1) - p*z'``, so that the offset is ``p*(size-1) - lo``.
        """
        size = {"x": self.n_in, "w": self.taps, "y": self.n_out}
        step = {"x": self.base, "w": self.dilation, "y": self.stride}
        low = self.low
        if x != "x":
            (third,) = {"w", "y"} - {x}
            low = step[third] * (size[third] - 1) - low
        return Relation(size[x], size[y], size[w], step[y], step[w], step[x], low)

    def transposed(self) -> Relation:
        """Input and output exchanged; the taps are taken in reverse."""
        return self.recast("y", "w", "x")

    def reads(self) -> np.ndarray:
        """Input positions per output and tap, (m, k), beyond the borders too; `NOWHERE` where the lattice has none."""
        at = self.stride * np.arange(self.n_out)[:, None] + self.dilation * np.arange(self.taps) - self.low
        return np.where(at % self.base == 0, at // self.base, NOWHERE)

    def met(self) -> np.ndarray:
        """The same table cut at the borders: -1 where a tap meets no element of the input."""
        reads = self.reads()
        return np.where((reads >= 0) & (reads < self.n_in), reads, -1)

    def box(self, tap: int) -> tuple[int, int, int]:
        """(first output, first input, number) of the outputs at which `tap` meets the input, for base 1.

        The number is zero or less where it meets none.
        """
        shift = self.dilation * tap - self.low
        first = max(0, -(shift // self.stride))  # ceil(-shift / s)
        last = min(self.n_out - 1, (self.n_in - 1 - shift) // self.stride)
        return first, self.stride * first + shift, last - first + 1

    def taps_per_phase(self) -> tuple[int, ...]:
        """How many taps meet the input at each phase of the output, away from the borders."""
        at = self.stride * np.arange(self.base // math.gcd(self.base, self.stride)) - self.low
        found = (at[:, None] + self.dilation * np.arange(self.taps)) % self.base == 0
        return tuple(found.sum(axis=1).tolist())

    def reads_per_phase(self) -> tuple[int, ...]:
        """How many outputs read each phase of the input, away from the borders: what its gradient adds up."""
        return self.transposed().taps_per_phase()


def of_lax(params: dict[str, Any], lhs: Sequence[int], rhs: Sequence[int], out: Sequence[int]) -> tuple[Relation, ...]:
    """The relation of each spatial axis of a `conv_general_dilated` equation, from its parameters and shapes."""
    numbers = params["dimension_numbers"]
    tensors = ((lhs, numbers.lhs_spec), (out, numbers.out_spec), (rhs, numbers.rhs_spec))
    sizes = ([shape[dim] for dim in spec[2:]] for shape, spec in tensors)
    steps = (params["window_strides"], params["rhs_dilation"], params["lhs_dilation"])
    return tuple(Relation(*axis) for axis in zip(*sizes, *steps, (lo for lo, _ in params["padding"]), strict=True))


@dataclasses.dataclass(frozen=True)
class Window:
    """What slides along an axis, before the size under it is known.

    Attributes:
        taps: k, elements of the window.
        stride: s, its step.
        dilation: d, spacing of its elements.
        base: b, spacing of what is under it.
        padding: a name in `PADDING_RULES`, or (low, high); negative numbers crop.

    Example:
        >>> Window(taps=3, stride=2, padding="SAME").pads(8), Window(taps=3, stride=2, padding="SAME").output_size(8)
        ((0, 1), 4)
    """

    taps: int
    stride: int = 1
    dilation: int = 1
    base: int = 1
    padding: str | tuple[int, int] = (0, 0)

    @property
    def extent(self) -> int:
        """d*(k-1) + 1: what the window spans."""
        return self.dilation * (self.taps - 1) + 1

    @property
    def covers(self) -> bool:
        """Whether ``ceil(span / stride)`` outputs come out, by the rule of its padding."""
        return isinstance(self.padding, str) and PADDING_RULES[self.padding].covers

    def pads(self, n: int) -> tuple[int, int]:
        """(low, high) over an input of n."""
        if not isinstance(self.padding, str):
            return self.padding
        return PADDING_RULES[self.padding].pads(self.base * (n - 1) + 1, self.extent, self.stride)

    def fitted(self, n: Any) -> tuple[Any, Any]:
        """(low, high) that leave exactly what the windows cover: high crops where they end before the input does."""
        (low, high), span = self.pads(n), self.base * (n - 1) + 1
        steps = -(-span // self.stride) - 1 if self.covers else (span + low + high - self.extent) // self.stride
        return low, steps * self.stride + self.extent - span - low

    def output_size(self, n: int, ceil_mode: bool = False) -> int:
        """Number of windows over an input of n: ``(b*(n-1) + 1 + lo + hi - K) // s + 1``, below 1 where none fits.

        In ceil mode one more where a rest is left, if that window starts inside the input or its low pad.
        """
        low, high = self.pads(n)
        room = self.base * (n - 1) + 1 + low + high - self.extent
        if not ceil_mode:
            return room // self.stride + 1
        out = -(-room // self.stride) + 1
        return out - 1 if (out - 1) * self.stride >= n + low else out

    def legal_input_sizes(self, m: int) -> range:
        """The sizes over which m windows fit."""
        if self.covers:
            low, high = self.stride * (m - 1) + 1, self.stride * m
        else:
            low = self.stride * (m - 1) + self.extent - sum(self.pads(1))
            high = low + self.stride - 1
        # low <= b*(n-1) + 1 <= high, n >= 1
        first = max(-((1 - low) // self.base) + 1, 1)
        last = (high - 1) // self.base + 1
        return range(first, max(last + 1, first))

    def transposed_size(self, m: int) -> int:
        """The size that a transposed convolution of m elements goes to by default; 0 where there is none."""
        legal = self.legal_input_sizes(m)
        if self.covers:
            return m * self.stride
        return legal.start if len(legal) else 0

    def over(self, n: int, ceil_mode: bool = False) -> Relation:
        """The relation over an input of n."""
        low, _ = self.pads(n)
        return Relation(n, self.output_size(n, ceil_mode), self.taps, self.stride, self.dilation, self.base, low)


def parse_padding(padding: Padding, rank: int) -> tuple[str | None, Pads | None]:
    """Read any accepted form of padding: (rule name, None) or (None, ((lo, hi), ...)).

    Example:
        >>> parse_padding((1, 2), 2)
        (None, ((1, 1), (2, 2)))
    """
    if isinstance(padding, str):
        name = padding.upper()
        if name not in PADDING_RULES:
            raise ValueError(
                f"padding={padding!r} is not one of {', '.join(map(repr, PADDING_RULES))}, an int, one int per axis "
                "or (lo, hi) per axis"
            )
        return name, None
    if not is_sequence(padding):
        value = as_index(padding, "padding")
        return None, ((value, value),) * rank
    entries = [plain(p) for p in plain(padding)]
    pairs = [is_sequence(p) for p in entries]
    if any(pairs) and not all(pairs):
        raise ValueError(f"padding={padding!r} mixes ints and (lo, hi) pairs; give one kind")
    if len(entries) != rank:
        kind = "(lo, hi) pairs" if any(pairs) else "ints, one per spatial axis"
        raise ValueError(
            f"padding={padding!r} has {len(entries)} {kind}, but there are {rank} spatial axes"
            + (
                "; for (lo, hi) on one axis write ((lo, hi),)"
                if rank == 1 and len(entries) == 2 and not any(pairs)
                else ""
            )
        )
    out = []
    for p in entries:
        if not is_sequence(p):
            p = (p, p)
        elif len(p) != 2:
            raise ValueError(f"padding={padding!r}: {p!r} is not a (lo, hi) pair")
        out.append((as_index(p[0], "padding"), as_index(p[1], "padding")))
    return None, tuple(out)
