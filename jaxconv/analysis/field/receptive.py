"""The receptive field of any JAX function, exact, from its jaxpr."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal, overload

import numpy as np

from ..graph.reader import NotUnderstood
from ..graph.sweep import Bounds, pull_back, push_totals
from ..graph.trace import Traced, one_hot, spatial_index, trace
from .exact import exact_counts
from .gradient import GradientField


class ReceptiveField:
    """What every output of a function sees of its input; made by `receptive_field`.

    Attributes:
        size: nominal extent per axis in input pixels, the largest over all outputs, as if the input had no borders.
        stride: input pixels that one output step is worth per axis (a Fraction below one after upsampling).
        offset: per axis, the first input pixel of output 0's nominal field (negative inside of padding), so that the
            field of output q starts at `stride * q + offset`; after upsampling this holds for whole multiples of the
            period.
        global_ops: operations that read a whole spatial axis (pooling over the image, norms over space, attention);
            they are kept apart: everything else here is what is seen besides them.
        notes: remarks on what the numbers leave out.
    """

    method = "jaxpr"

    def __init__(self, traced: Traced):
        self.traced = traced
        self.input_size, self.output_size = traced.input_size, traced.output_size
        self.global_ops, self.result_axes = traced.global_ops, traced.result_axes
        self._notes: list[str] = []
        self._nominal = [Bounds(traced.source, traced.out, a, True) for a in traced.spatial_axes]
        summaries = [self._summary(i) for i in range(len(traced.spatial_axes))]
        self.size: tuple[int, ...] = tuple(size for size, _, _ in summaries)
        self.stride: tuple[int | Fraction, ...] = tuple(stride for _, stride, _ in summaries)
        self.offset: tuple[int, ...] = tuple(offset for _, _, offset in summaries)

    # -- summaries --------------------------------------------------------------------------------------------------
    def _summary(self, i: int) -> tuple[int, Any, int]:
        swept, out = self._nominal[i], self.traced.out
        if out.number not in swept.low:
            return 0, 0, 0
        low, high = swept.low[out.number], swept.high[out.number]
        seen = np.isfinite(low)
        if not seen.any():
            return 0, 0, 0
        size = self._widest(i, low, high)
        moving = [(t, j) for t, j in enumerate(swept.jumps[out.number]) if j is not None]
        own = [m for m in moving if i < len(self.traced.out_axes) and m[0] == self.traced.out_axes[i]] or moving[-1:]
        own = own or self._measured(i, low)
        if not own:
            return size, 0, int(low[seen].min())
        axis, jump = own[0]
        period = min(jump.denominator, low.shape[axis])
        line = np.moveaxis(np.where(seen, low, np.inf), axis, 0).reshape(low.shape[axis], -1).min(axis=1)
        # A whole number of periods into the middle, where nothing that mirrors the border is near.
        middle = (len(line) // 2) // period * period
        middle = middle if np.isfinite(line[middle]) else int(np.nonzero(np.isfinite(line))[0][0])
        offset = int(np.floor(line[middle] - float(jump) * middle))
        return size, int(jump) if jump.denominator == 1 else jump, offset

    def _widest(self, i: int, low: np.ndarray, high: np.ndarray) -> int:
        width = np.where(np.isfinite(low), high - low + 1, 0)
        inner = width[tuple(slice(n // 4, max(n - n // 4, n // 4 + 1)) for n in width.shape)]
        if width.max() > inner.max() > 0 and width.max() >= self.input_size[i]:
            self._notes.append(
                f"near the borders the field spans axis {i} from end to end (circular padding or a shift); size is "
                "that of the outputs in the middle"
            )
            return int(inner.max())
        return int(width.max())

    def _measured(self, i: int, low: np.ndarray) -> list[tuple[int, Fraction]]:
        """The step along the output's own axis from neighbouring bounds, where the graph does not state it."""
        if i >= low.ndim or low.shape[i] < 2:
            return []
        line = np.moveaxis(low, i, 0).reshape(low.shape[i], -1).min(axis=1)
        middle = len(line) // 2
        step = line[middle] - line[middle - 1]
        return [(i, Fraction(int(step)))] if np.isfinite(step) and step else []

    @cached_property
    def _cut(self) -> list[Bounds]:
        return [Bounds(self.traced.source, self.traced.out, a, False) for a in self.traced.spatial_axes]

    @property
    def center(self) -> tuple[float, ...]:
        """Per axis the centre of output 0's nominal field, in input pixels."""
        return tuple(o + (n - 1) / 2 for o, n in zip(self.offset, self.size, strict=True))

    @cached_property
    def notes(self) -> tuple[str, ...]:
        notes = [f"beyond this field the output reads whole axes: {op}" for op in self.global_ops]
        return (*notes, *self.traced.graph.notes, *self._notes)

    def _index(self, index: int | Sequence[int]) -> tuple[int, ...]:
        return spatial_index(index, self.output_size)

    # -- one output -------------------------------------------------------------------------------------------------
    def counts(self, index: int | Sequence[int], *, exact: bool = False, through_global: bool = False) -> np.ndarray:
        """How many paths lead from the output at `index` to each input position, borders and all.

        Args:
            index: spatial index of the output.
            exact: Python integers of any size instead of float64, which is exact up to 2^53. Counts above 2^900, of
                hundreds of layers, are such integers in any case.
            through_global: also follow operations that read a whole axis.

        Returns:
            An array of the input's spatial shape.

        Raises:
            ValueError: where the index is outside of the output.

        >>> import jax, jax.numpy as jnp
        >>> kernel = jnp.ones((3, 1, 1))
        >>> def net(x):
        ...     return jax.lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
        >>> receptive_field(lambda x: net(net(x)), jnp.ones((1, 7, 1))).counts(3).tolist()
        [0.0, 1.0, 2.0, 3.0, 2.0, 1.0, 0.0]
        """
        seed, starts = one_hot(self.traced, self._index(index))
        if exact:
            return exact_counts(self.traced, seed, starts, through_global)
        power: dict[int, int] = {}
        source, out = self.traced.source, self.traced.out
        block = pull_back(source, out, seed, starts, through_global=through_global, exponents=power)
        if power.get(source.number):
            return exact_counts(self.traced, seed, starts, through_global)
        return self._whole(*block)

    def _whole(self, block: np.ndarray, starts: Sequence[int]) -> np.ndarray:
        axes = self.traced.spatial_axes
        others = tuple(a for a in range(block.ndim) if a not in axes)
        total = np.zeros(self.input_size, block.dtype)
        if block.size:
            part = block.sum(axis=others) if others else block
            corner = [starts[a] for a in axes]
            total[tuple(slice(c, c + n) for c, n in zip(corner, part.shape, strict=True))] = part
        return total

    def mask(self, index: int | Sequence[int], *, through_global: bool = False) -> np.ndarray:
        """Which input positions the output at `index` reads: a boolean array of the input's spatial shape."""
        seed, starts = one_hot(self.traced, self._index(index))
        source, out = self.traced.source, self.traced.out
        return self._whole(*pull_back(source, out, seed, starts, through_global=through_global)) > 0

    def box(self, index: int | Sequence[int]) -> tuple[slice, ...]:
        """The smallest box of input positions that holds what the output at `index` reads, cut at the borders."""
        return tuple(slice(first, stop) for first, stop in self._reached(self._cut, index))

    def extent(self, index: int | Sequence[int]) -> tuple[tuple[int, int], ...]:
        """Per axis the first and last-plus-one input position that the output at `index` would read without borders.

        The first may be negative and the last beyond the image: this is `box` as if the image went on.
        """
        return self._reached(self._nominal, index)

    def _reached(self, sweeps: Sequence[Bounds], index: int | Sequence[int]) -> tuple[tuple[int, int], ...]:
        """Per axis the first and last-plus-one position that the output at `index` reads."""
        where = dict(zip(self.traced.out_axes, self._index(index), strict=True))
        found = []
        for swept in sweeps:
            low = swept.low.get(self.traced.out.number)
            if low is None:
                found.append((0, 0))
                continue
            pick = tuple(
                slice(None) if a not in where or low.shape[a] == 1 else slice(where[a], where[a] + 1)
                for a in range(low.ndim)
            )
            first, last = low[pick].min(), swept.high[self.traced.out.number][pick].max()
            found.append((int(first), int(last) + 1) if np.isfinite(first) else (0, 0))
        return tuple(found)

    @cached_property
    def central_index(self) -> tuple[int, ...]:
        """The output nearest to the middle whose field is the widest, cut at the borders."""
        index = [n // 2 for n in self.output_size]
        for i, swept in enumerate(self._cut):
            low = swept.low.get(self.traced.out.number)
            if low is None or i >= len(index):
                continue
            a = self.traced.out_axes[i]
            width = np.where(np.isfinite(low), swept.high[self.traced.out.number] - low, -1)
            line = np.moveaxis(width, a, 0).reshape(width.shape[a], -1).max(axis=1)
            if len(line) == self.output_size[i]:
                middle = line.copy()
                middle[: len(line) // 4] = middle[len(line) - len(line) // 4 :] = -1
                line = middle if middle.max() >= 0 else line  # sometimes only what is near a border reads anything
                best = np.nonzero(line == line.max())[0]
                index[i] = int(best[np.argmin(np.abs(best - len(line) // 2))])
        return tuple(index)

    @cached_property
    def coverage(self) -> float:
        """The share of the receptive field's box, at `central_index`, that reaches the output at all."""
        return self.coverage_at(self.central_index)

    def coverage_at(self, index: int | Sequence[int]) -> float:
        """The share of the box at `index` that reaches the output at all."""
        inside = self.mask(index)[self.box(index)]
        return float(inside.mean()) if inside.size else 0.0

    # -- all outputs ------------------------------------------------------------------------------------------------
    def usage(self) -> np.ndarray:
        """How many paths lead from each input position to all outputs together; above 2^900 only their ratios."""
        out = self.traced.out
        return self._whole(*pull_back(self.traced.source, out, np.ones(out.shape), (0,) * len(out.axes)))

    def totals(self) -> np.ndarray:
        """How many paths lead from all input positions together to each output: an array of the output's size.

        Of an upsampling these are the overlaps of its kernel, whose unevenness is the checkerboard. Above 2^900 only
        the ratios are right.
        """
        out = self.traced.out
        total = push_totals(self.traced.source, out).get(out.number, np.zeros(()))
        return np.broadcast_to(total, self.output_size).astype(np.float64)

    def __repr__(self) -> str:
        stride = tuple(str(s) for s in self.stride)
        text = f"ReceptiveField(size={self.size}, stride=({', '.join(stride)}), offset={self.offset}"
        beyond = f", beyond these: {len(self.global_ops)} global operations" if self.global_ops else ""
        return f"{text}{beyond})"


@overload
def receptive_field(
    fn: Callable[..., Any], *args: Any, method: Literal["jaxpr"], spatial_axes: Sequence[int] | None = ...,
    output: int | None = ...,
) -> ReceptiveField: ...  # fmt: skip
@overload
def receptive_field(
    fn: Callable[..., Any], *args: Any, method: Literal["gradient"], spatial_axes: Sequence[int] | None = ...,
    output: int | None = ...,
) -> GradientField: ...  # fmt: skip
@overload
def receptive_field(
    fn: Callable[..., Any], *args: Any, spatial_axes: Sequence[int] | None = ..., output: int | None = ...,
    method: str = ...,
) -> ReceptiveField | GradientField: ...  # fmt: skip
def receptive_field(
    fn: Callable[..., Any],
    *args: Any,
    spatial_axes: Sequence[int] | None = None,
    output: int | None = None,
    method: str = "auto",
) -> ReceptiveField | GradientField:
    """What each output of a JAX function sees of its first argument: counts of paths, mask, size, stride and offset.

    counts[p] = the number of paths from the output to input position p through spatial positions, each layer's taps one
    path each; channels are collapsed, pointwise work counts each distinct source once, concatenation adds up.

    Args:
        fn: any traceable function, Flax NNX module, or other callable module.
        args: its arguments: arrays or `jax.ShapeDtypeStruct`; the image first. Weights need no numbers.
        spatial_axes: spatial axes of the first argument, taken in ascending order; all but the first and the last by
            default.
        output: which output (of the flattened outputs) is meant, where there are several.
        method: "jaxpr" reads the function's equations and is exact; it raises `NotUnderstood` at a primitive that it
            has no rule for. "gradient" measures masks by differentiation instead (no counts). "auto" is the first, and
            the second where the first does not understand something, with a note that names the primitive.

    Returns:
        A `ReceptiveField` (or a `GradientField` for the gradient method).

    Raises:
        NotUnderstood: for a primitive without a rule, under method="jaxpr".
        ValueError, TypeError: where the arguments do not fit.

    >>> import jax, jax.numpy as jnp
    >>> def net(x):
    ...     for rate in (2, 2, 2):
    ...         x = jax.lax.conv_general_dilated(x, jnp.ones((3, 3, 1, 1)), (1, 1), "SAME", rhs_dilation=(rate, rate),
    ...                                          dimension_numbers=("NHWC", "HWIO", "NHWC"))
    ...     return x
    >>> field = receptive_field(net, jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32))
    >>> field.size, int(field.mask((16, 16)).sum())
    ((13, 13), 49)
    """
    if method not in ("auto", "jaxpr", "gradient"):
        raise ValueError(f"method must be 'auto', 'jaxpr' or 'gradient', got {method!r}")
    if method != "gradient":
        try:
            return ReceptiveField(trace(fn, args, spatial_axes, output))
        except NotUnderstood as problem:
            if method == "jaxpr":
                raise
            return GradientField(fn, args, spatial_axes, output, note=str(problem))
    return GradientField(fn, args, spatial_axes, output)
