"""The static record of a convolution: where three tensors meet on one integer line per axis.

Put the input x[u] at ``b*u + lo``, the kernel w[t] at ``d*t`` and the output y[q] at ``s*q``. A convolution, its
transpose and its kernel gradient all sum over the same coincidences

    b*u + lo = s*q + d*t

and differ only in which of the three tensors is the unknown. [`ConvGeometry`][jaxconv.ConvGeometry] holds the three
spacings (base dilation b, dilation d, stride s), the offset lo and the three sizes for every axis, resolved and
validated once, as plain integers, so that it can be hashed, compared, printed and used as a static argument.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

from jaxconv._checks import as_index, is_sequence, per_axis, sizes_tuple
from jaxconv.lattice import Padding, Pads, Relation, Window, parse_padding

PADDING_MODES = ("zeros", "circular", "reflect", "replicate")


@dataclasses.dataclass(frozen=True)
class ConvGeometry:
    """Sizes, spacings and offsets of one convolution, resolved.

    Per axis the output has ``m = (b*(n-1) + 1 + lo + hi - K) // s + 1`` elements, where ``K = d*(k-1) + 1`` is the
    extent of the kernel. Use [`resolve`][jaxconv.ConvGeometry.resolve] or
    [`resolve_transpose`][jaxconv.ConvGeometry.resolve_transpose] to make one.

    Attributes:
        input_size: n, elements of the convolution's input per spatial axis.
        kernel_size: k, taps per axis.
        output_size: m, elements of the convolution's output per axis.
        stride: s, spacing of the output.
        dilation: d, spacing of the kernel.
        base_dilation: b, spacing of the input (1 for a convolution; lax's ``lhs_dilation``).
        pads: (lo, hi) per axis; negative values crop.
        groups: number of channel groups.
        padding_mode: what stands in the padded places: "zeros", "circular", "reflect" or "replicate".
        padding_rule: the name the pads came from, as "SAME", or None for numbers.

    Example:
        >>> from jaxconv import ConvGeometry
        >>> g = ConvGeometry.resolve(input_size=(8,), kernel_size=(3,), stride=2, padding=1)
        >>> g.output_size, g.pads
        ((4,), ((1, 1),))
        >>> g.legal_input_sizes()
        (range(7, 9),)

    Source: Dumoulin and Visin 2016 (arXiv:1603.07285), relationships 6, 14 and 15, written for all spacings at once.
    """

    input_size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    output_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    base_dilation: tuple[int, ...]
    pads: Pads
    groups: int = 1
    padding_mode: str = "zeros"
    padding_rule: str | None = None

    # ------------------------------------------------------------------ making one

    @classmethod
    def resolve(
        cls,
        *,
        input_size: Sequence[int],
        kernel_size: Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: Padding = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
        base_dilation: int | Sequence[int] = 1,
    ) -> ConvGeometry:
        """Resolve the geometry of a convolution from the size of its input.

        ``m = (b*(n-1) + 1 + lo + hi - K) // s + 1`` with ``K = d*(k-1) + 1``.

        Args:
            input_size: n per spatial axis.
            kernel_size: k per spatial axis; its length is the rank.
            stride: s, an int or one int per axis.
            padding: int, one int per axis, (lo, hi) per axis, or a name, as in `conv`.
            dilation: d, an int or one int per axis.
            groups: number of channel groups.
            padding_mode: "zeros", "circular", "reflect" or "replicate".
            base_dilation: b, an int or one int per axis.

        Returns:
            The geometry, with `output_size` and `pads` as plain integers.

        Raises:
            ValueError: a size, stride, dilation, padding or mode that is out of range, or an output that would come
                out empty.
            TypeError: a number that is not an integer.

        Example:
            >>> ConvGeometry.resolve(input_size=(5, 5), kernel_size=(3, 3), padding="SAME").pads
            ((1, 1), (1, 1))
        """
        rule = _Rule.parse(kernel_size, stride, padding, dilation, base_dilation, groups, padding_mode)
        sizes = sizes_tuple(input_size, "input_size", rule.rank)
        output = tuple(window.output_size(n) for window, n in zip(rule.windows, sizes, strict=True))
        if min(output) < 1:
            raise ValueError(rule.empty_message(sizes, output))
        return rule.geometry(sizes, output)

    @classmethod
    def resolve_transpose(
        cls,
        *,
        input_size: Sequence[int],
        kernel_size: Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: Padding = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
        output_size: int | Sequence[int] | None = None,
        output_padding: int | Sequence[int] | None = None,
    ) -> ConvGeometry:
        """Resolve the convolution whose transpose maps `input_size` to `output_size`.

        The result is the *forward* convolution's geometry: its `output_size` is the transpose's input, its `input_size`
        the transpose's output. Sizes n with ``forward(n) = i`` are legal: for numbers these are the s sizes from
        ``(i-1)*s + K - lo - hi`` on.

        Args:
            input_size: i, elements of the transpose's input per axis.
            kernel_size: k per axis; its length is the rank.
            stride: s of the forward convolution.
            padding: padding of the forward convolution, as in `resolve`.
            dilation: d of the forward convolution.
            groups: number of channel groups.
            padding_mode: padding mode of the forward convolution.
            output_size: n per axis, or None.
            output_padding: elements added to the smallest legal size, or None. Without both, n is the smallest legal
                size for numbers and "VALID", and ``i*s`` for the other names.

        Returns:
            The geometry of the forward convolution.

        Raises:
            ValueError: an output size that the forward convolution does not map to `input_size` (the message names the
                legal ones), both `output_size` and `output_padding`, or anything that `resolve` refuses.
            TypeError: a number that is not an integer.

        Example:
            >>> ConvGeometry.resolve_transpose(input_size=(4,), kernel_size=(3,), stride=2, padding=1).input_size
            (7,)
            >>> ConvGeometry.resolve_transpose(input_size=(4,), kernel_size=(3,), stride=2, output_size=10).input_size
            (10,)
        """
        rule = _Rule.parse(kernel_size, stride, padding, dilation, 1, groups, padding_mode)
        sizes = sizes_tuple(input_size, "input_size", rule.rank)
        if output_size is not None and output_padding is not None:
            raise ValueError(
                f"output_size={output_size} and output_padding={output_padding} both say how large the result is; "
                "give one of them"
            )
        legal = tuple(window.legal_input_sizes(i) for window, i in zip(rule.windows, sizes, strict=True))
        if output_size is not None:
            target = sizes_tuple(output_size, "output_size", rule.rank)
        elif output_padding is not None:
            extra = per_axis(output_padding, "output_padding", rule.rank, minimum=0)
            target = tuple((r.start if len(r) else 0) + e for r, e in zip(legal, extra, strict=True))
        else:
            target = tuple(window.transposed_size(i) for window, i in zip(rule.windows, sizes, strict=True))
        if any(n not in r for n, r in zip(target, legal, strict=True)):
            raise ValueError(rule.unreachable_message(target, sizes, legal, output_size, output_padding))
        return rule.geometry(target, sizes)

    # ------------------------------------------------------------------ what it says

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel_size)

    @property
    def spacings(self) -> tuple[tuple[int, int, int], ...]:
        """(b, d, s) per axis: spacing of the input, of the kernel and of the output."""
        return tuple(zip(self.base_dilation, self.dilation, self.stride, strict=True))

    @property
    def offsets(self) -> tuple[int, ...]:
        """lo per axis, as in ``b*u + lo = s*q + d*t``."""
        return tuple(lo for lo, _ in self.pads)

    @functools.cached_property
    def axes(self) -> tuple[Relation, ...]:
        """The relation ``b*u + lo = s*q + d*t`` of each axis."""
        sizes = (self.input_size, self.output_size, self.kernel_size)
        steps = (self.stride, self.dilation, self.base_dilation, self.offsets)
        return tuple(Relation(*axis) for axis in zip(*sizes, *steps, strict=True))

    @property
    def kernel_extent(self) -> tuple[int, ...]:
        """K = d*(k-1) + 1 per axis: what the kernel spans on the line."""
        return tuple(axis.extent for axis in self.axes)

    @property
    def padded_size(self) -> tuple[int, ...]:
        """b*(n-1) + 1 + lo + hi per axis: what the window slides over."""
        return tuple(axis.span + lo + hi for axis, (lo, hi) in zip(self.axes, self.pads, strict=True))

    @property
    def output_padding(self) -> tuple[int, ...]:
        """Input elements beyond the smallest size that gives this output: PyTorch's ``output_padding`` of the
        transpose."""
        return tuple(hi - axis.least_high for axis, (_, hi) in zip(self.axes, self.pads, strict=True))

    def legal_input_sizes(self, output_size: int | Sequence[int] | None = None) -> tuple[range, ...]:
        """Input sizes that this convolution maps to `output_size`, per axis.

        ``{n >= 1 : (b*(n-1) + 1 + lo + hi - K) // s + 1 = m}``; for base dilation 1 and numeric pads these are the s
        sizes from ``(m-1)*s + K - lo - hi`` on. For "SAME" and its kin the pads depend on n, and the rule is applied to
        each n.

        Args:
            output_size: m per axis; default this geometry's own.

        Returns:
            One `range` per axis, empty where no input size gives that output.

        Raises:
            ValueError: a size below 1 or of the wrong length.

        Example:
            >>> ConvGeometry.resolve(input_size=(9,), kernel_size=(3,), stride=2, padding="SAME").legal_input_sizes(4)
            (range(7, 9),)
        """
        sizes = self.output_size if output_size is None else sizes_tuple(output_size, "output_size", self.rank)
        padding = (self.padding_rule,) * self.rank if self.padding_rule else self.pads
        windows = map(Window, self.kernel_size, self.stride, self.dilation, self.base_dilation, padding)
        return tuple(window.legal_input_sizes(m) for window, m in zip(windows, sizes, strict=True))

    def unpadded(self) -> ConvGeometry:
        """The same convolution over an input that has already been padded: pads (0, 0), mode "zeros".

        Example:
            >>> g = ConvGeometry.resolve(input_size=(5,), kernel_size=(3,), padding=1, padding_mode="circular")
            >>> g.unpadded().input_size
            (7,)
        """
        return dataclasses.replace(
            self,
            input_size=self.padded_size,
            base_dilation=(1,) * self.rank,
            pads=((0, 0),) * self.rank,
            padding_mode="zeros",
            padding_rule=None,
        )


@dataclasses.dataclass(frozen=True)
class _Rule:
    """The validated parameters of a convolution before a size is known: a window per axis, groups and mode."""

    windows: tuple[Window, ...]
    groups: int
    padding_mode: str

    @classmethod
    def parse(cls, kernel_size, stride, padding, dilation, base_dilation, groups, padding_mode) -> _Rule:
        if not is_sequence(kernel_size):
            raise TypeError(
                f"kernel_size={kernel_size!r} does not say how many spatial axes there are; give one int per axis, "
                f"such as ({kernel_size!r},) for 1-D or ({kernel_size!r}, {kernel_size!r}) for 2-D"
            )
        if len(kernel_size) == 0:
            raise ValueError("kernel_size=() has no spatial axis; at least one is needed")
        rank = len(kernel_size)
        kernel_size = sizes_tuple(kernel_size, "kernel_size", rank)
        groups = as_index(groups, "groups")
        if groups < 1:
            raise ValueError(f"groups={groups} must be at least 1")
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode={padding_mode!r} is not one of {', '.join(map(repr, PADDING_MODES))}")
        name, numbers = parse_padding(padding, rank)
        per = zip(
            kernel_size,
            per_axis(stride, "stride", rank),
            per_axis(dilation, "dilation", rank),
            per_axis(base_dilation, "base_dilation", rank),
            numbers or (name,) * rank,
            strict=True,
        )
        return cls(tuple(Window(*settings) for settings in per), groups, padding_mode)  # type: ignore[arg-type]

    @property
    def rank(self) -> int:
        return len(self.windows)

    def geometry(self, input_size: tuple[int, ...], output_size: tuple[int, ...]) -> ConvGeometry:
        """The geometry over an input of this size, checked."""
        pads = tuple(window.pads(n) for window, n in zip(self.windows, input_size, strict=True))
        self.check_mode(input_size, pads)
        rule = self.windows[0].padding
        return ConvGeometry(
            input_size,
            tuple(window.taps for window in self.windows),
            output_size,
            tuple(window.stride for window in self.windows),
            tuple(window.dilation for window in self.windows),
            tuple(window.base for window in self.windows),
            pads,
            self.groups,
            self.padding_mode,
            rule if isinstance(rule, str) else None,
        )

    def check_mode(self, sizes: tuple[int, ...], pads: Pads) -> None:
        if self.padding_mode == "zeros":
            return
        if any(window.base != 1 for window in self.windows):
            bases = tuple(window.base for window in self.windows)
            raise ValueError(f"padding_mode={self.padding_mode!r} needs base_dilation 1, got {bases}")
        for axis, (n, pad) in enumerate(zip(sizes, pads, strict=True)):
            if self.padding_mode == "reflect" and n == 1 and max(pad) > 0:
                raise ValueError(
                    f"padding_mode='reflect' with pads {pad} on axis {axis} needs an input of at least 2 there, got 1"
                )

    # ------------------------------------------------------------------ sentences

    def describe(self, axis: int) -> str:
        window = self.windows[axis]
        parts = [f"stride {window.stride}", f"kernel {window.taps}"]
        if window.dilation != 1:
            parts.append(f"dilation {window.dilation}")
        if window.base != 1:
            parts.append(f"base dilation {window.base}")
        named = isinstance(window.padding, str)
        return ", ".join([*parts, f"padding {window.padding}" if named else f"pads {window.padding}"])

    def empty_message(self, sizes, output) -> str:
        bad = []
        for axis, (window, n, m) in enumerate(zip(self.windows, sizes, output, strict=True)):
            if m < 1:
                bad.append(
                    f"axis {axis} ({self.describe(axis)}): the input {n} with its pads spans "
                    f"{window.base * (n - 1) + 1 + sum(window.pads(n))}, the kernel spans {window.extent}; an input of "
                    f"at least {window.legal_input_sizes(1).start} is needed"
                )
        return f"input_size={sizes} gives an empty output: " + "; ".join(bad)

    def unreachable_message(self, target, sizes, legal, output_size, output_padding) -> str:
        if output_size is not None:
            subject = f"output_size={tuple(target)} is not reachable"
        elif output_padding is not None:
            subject = f"output_padding={output_padding} (output size {tuple(target)}) is not reachable"
        else:
            subject = f"a transposed convolution of input_size={tuple(sizes)} has no legal output size"
        reasons = []
        for axis, (n, i, r) in enumerate(zip(target, sizes, legal, strict=True)):
            if n in r:
                continue
            if len(r) == 0:
                reasons.append(f"no input of a convolution of {self.describe(axis)} gives {i} on axis {axis}")
                continue
            span = f"{r[0]}" if len(r) == 1 else f"{r[0]}..{r[-1]}"
            hint = ""
            if output_padding is not None:
                hint = f" (output_padding 0..{len(r) - 1})" if len(r) > 1 else " (output_padding 0)"
            reasons.append(
                f"a convolution of {self.describe(axis)} gives {i} from {span}{hint} on axis {axis}, got {n}"
            )
        return f"{subject}: " + "; ".join(reasons)
