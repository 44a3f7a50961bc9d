"""The convolution as a sparse matrix, built from the geometry alone.

A convolution is linear in its input, so ``y.ravel() == C @ x.ravel()`` for one matrix C whose entry at row (q, o) and
column (u, i) is w[t, i, o] wherever ``b*u + lo = s*q + d*t``. The positions of the entries depend on the sizes only and
are plain NumPy integers; the values are one gather from w, so that the matrix can be built under jit, differentiated
and vmapped. Nothing here calls the convolutions of this library: C is an independent route to the same numbers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from jaxconv._checks import sizes_tuple
from jaxconv._hints import hinting
from jaxconv.geometry import ConvGeometry, Padding
from jaxconv.padding import source_positions

FORMATS = ("bcoo", "bcsr", "dense", "scipy")
MAX_BYTES = 4 * 2**30
_INDEX_LIMIT = 2**31 - 1


@hinting
def conv_matrix(
    w: ArrayLike,
    input_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    format: str = "bcoo",
    max_bytes: int = MAX_BYTES,
) -> Any:
    """Matrix C of the convolution with kernel w, so that ``conv(x, w).ravel() == C @ x.ravel()``.

    ``C[(q, o), (u, i)] = sum over t with source(q*s + t*d - lo) = u of w[t, i, o]``; its transpose is `conv_transpose`
    with the same parameters and ``output_size=input_size``.

    Cost: time and memory grow with the number of entries, ``prod(output_size) * prod(kernel_size) * in/groups * out``
    less what the zero padding drops; "dense" holds rows times columns. While it is built, about three times the memory
    of the result is in use. Under `jax.jit` the positions are constants of the compiled program.

    Args:
        w: kernel (*kernel_size, in // groups, out).
        input_size: n in elements, an int or one int per spatial axis.
        stride: s in elements.
        padding: as in `jaxconv.conv`.
        dilation: d in elements.
        groups: number of channel groups.
        padding_mode: "zeros", "circular", "reflect" or "replicate".
        format: "bcoo" or "bcsr" (jax.experimental.sparse), "dense" (jax array) or "scipy" (scipy.sparse.csr_array;
            needs scipy and concrete values).
        max_bytes: refuse a result that would be larger than this, in bytes.

    Returns:
        C of shape (prod(output_size) * out, prod(input_size) * in), rows and columns row-major over (*spatial,
        channel), in w's dtype. BCOO and BCSR keep one entry per tap: where padding lets several taps read the same
        input element, its column stands in the row more than once, and the entries add up in every product. "scipy" and
        "dense" hold their sum.

    Raises:
        ValueError: parameters that `ConvGeometry.resolve` refuses, an unknown format, or a matrix of more than
            `max_bytes` bytes (the message says how many entries and bytes it would have).
        TypeError: a w that is not an array; format "scipy" of a traced w.

    Example:
        >>> import jax.numpy as jnp, jaxconv as jc
        >>> jc.conv_matrix(jnp.array([1.0, 2.0, 3.0])[:, None, None], 4, stride=2, padding=1, format="dense")
        Array([[2., 3., 0., 0.],
               [0., 1., 2., 3.]], dtype=float32)

    Source: Dumoulin and Visin 2016 (arXiv:1603.07285), section 4.1, for all sizes, spacings, channels and padding
        modes.
    """
    w = _kernel(w)
    geometry = ConvGeometry.resolve(
        input_size=sizes_tuple(input_size, "input_size", w.ndim - 2), kernel_size=w.shape[:-2], stride=stride,
        padding=padding, dilation=dilation, groups=groups, padding_mode=padding_mode,
    )  # fmt: skip
    return matrix_of(w, geometry, format=format, max_bytes=max_bytes)


def equivalent_kernels(
    w: ArrayLike,
    input_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    max_bytes: int = MAX_BYTES,
) -> Array:
    """The kernel as every output position sees it: one array of the input's size per output element.

    ``y[q, o] = sum over u, i of E[q, o, u, i] * x[u, i]``: E[q, o] is w, spread by the dilation, moved to q*s - lo and
    padded with zeros to the whole input. Flattened, these arrays are the rows of the matrix.

    Args:
        w: kernel (*kernel_size, in // groups, out).
        input_size: n in elements, an int or one int per spatial axis.
        stride: s in elements.
        padding: as in `jaxconv.conv`.
        dilation: d in elements.
        groups: number of channel groups.
        padding_mode: as in `jaxconv.conv`.
        max_bytes: refuse a result that would be larger than this, in bytes.

    Returns:
        E (*output_size, out, *input_size, in).

    Raises:
        ValueError: as `conv_matrix`.
        TypeError: as `conv_matrix`.

    Example:
        >>> import jax.numpy as jnp
        >>> e = equivalent_kernels(jnp.array([1.0, 2.0])[:, None, None], 3, padding=((0, 1),))
        >>> e[1, 0, :, 0]
        Array([0., 1., 2.], dtype=float32)

    Source: Dumoulin and Visin 2016 (arXiv:1603.07285), section 4.1, read row by row.
    """
    w = _kernel(w)
    geometry = ConvGeometry.resolve(
        input_size=sizes_tuple(input_size, "input_size", w.ndim - 2), kernel_size=w.shape[:-2], stride=stride,
        padding=padding, dilation=dilation, groups=groups, padding_mode=padding_mode,
    )  # fmt: skip
    rows = matrix_of(w, geometry, format="dense", max_bytes=max_bytes)
    return rows.reshape(*geometry.output_size, w.shape[-1], *geometry.input_size, w.shape[-2] * groups)


# ---------------------------------------------------------------------- from a geometry


class MatrixSize(NamedTuple):
    """How large a convolution's matrix is: its shape, its stored entries and the bytes of each format."""

    shape: tuple[int, int]
    entries: int
    bytes: dict[str, int]


def matrix_size(
    geometry: ConvGeometry, channels_in: int, channels_out: int, dtype: DTypeLike = "float32"
) -> MatrixSize:
    """Shape, entries and bytes of a convolution's matrix, without building it.

    ``entries = prod over axes of |{(q, t) : the tap t of output q reads an input element}| * in/groups * out``

    Args:
        geometry: the convolution.
        channels_in: channels of its input.
        channels_out: channels of its output.
        dtype: dtype of the values.

    Returns:
        The size; `bytes` has one entry per format.

    Example:
        >>> g = ConvGeometry.resolve(input_size=(512, 512), kernel_size=(3, 3), padding=1)
        >>> matrix_size(g, 1, 1).entries, matrix_size(g, 1, 1).bytes["bcoo"]
        (2353156, 28237872)
    """
    item = np.dtype(dtype).itemsize
    rows, columns = math.prod(geometry.output_size) * channels_out, math.prod(geometry.input_size) * channels_in
    entries = math.prod(_axis_count(geometry, axis) for axis in range(geometry.rank))
    entries *= channels_in // geometry.groups * channels_out
    compressed = entries * (item + 4) + (rows + 1) * 4
    sizes = {"bcoo": entries * (item + 8), "bcsr": compressed, "dense": rows * columns * item, "scipy": compressed}
    return MatrixSize((rows, columns), entries, sizes)


def _axis_count(g: ConvGeometry, axis: int) -> int:
    """How many (q, t) read an input element, counted tap by tap: sizes that no table could hold are counted too."""
    n, k, m = g.input_size[axis], g.kernel_size[axis], g.output_size[axis]
    if g.padding_mode != "zeros":
        return m * k
    s, d, b, lo = g.stride[axis], g.dilation[axis], g.base_dilation[axis], g.offsets[axis]
    total = 0
    for t in range(k):
        # 0 <= s*q + d*t - lo <= b*(n-1), and a multiple of b: every (b/gcd)-th q from the first that fits, if any does.
        first = max(-((d * t - lo) // s), 0)
        last = min((b * (n - 1) + lo - d * t) // s, m - 1)
        period = b // math.gcd(b, s)
        start = next((q for q in range(first, min(first + period, last + 1)) if (s * q + d * t - lo) % b == 0), None)
        total += 0 if start is None else (last - start) // period + 1
    return total


def axis_tables(geometry: ConvGeometry) -> list[np.ndarray]:
    """Per axis the input element u that tap t of output q reads, as an array (m, k); -1 where it reads a zero.

    Example:
        >>> axis_tables(ConvGeometry.resolve(input_size=(4,), kernel_size=(3,), stride=2, padding=1))[0].tolist()
        [[-1, 0, 1], [1, 2, 3]]
    """
    tables = []
    for n, k, m, d, s, b, pads in zip(
        geometry.input_size, geometry.kernel_size, geometry.output_size, geometry.dilation, geometry.stride,
        geometry.base_dilation, geometry.pads, strict=True,
    ):  # fmt: skip
        line = source_positions(b * (n - 1) + 1, pads, geometry.padding_mode)
        if b > 1:  # elements lie b apart, zeros between them
            line = np.where((line >= 0) & (line % b == 0), line // b, -1)
        tables.append(line[s * np.arange(m)[:, None] + d * np.arange(k)[None, :]])
    return tables


def matrix_of(w: Array, geometry: ConvGeometry, *, format: str = "bcoo", max_bytes: int = MAX_BYTES) -> Any:
    """As [`conv_matrix`][jaxconv.conv_matrix], from a geometry that has been resolved already."""
    if format not in FORMATS:
        raise ValueError(f"format={format!r} is not one of {', '.join(map(repr, FORMATS))}")
    if w.shape[-1] % geometry.groups:
        raise ValueError(
            f"w has {w.shape[-1]} output channels, which groups={geometry.groups} does not divide (shape {w.shape})"
        )
    size = matrix_size(geometry, w.shape[-2] * geometry.groups, w.shape[-1], w.dtype)
    _refuse_if_too_large(size, format, max_bytes, geometry, w)
    if format == "scipy":
        return _scipy(w, geometry, size)
    pattern = entries_of(geometry, w.shape[-2], w.shape[-1])
    values = jnp.take(w.ravel(), pattern.tap, mode="clip")
    if format == "dense":
        return jnp.zeros(size.shape, w.dtype).at[pattern.rows(), pattern.column].add(values)
    from jax.experimental import sparse  # brings scipy along: only where it is asked for

    exact = geometry.padding_mode == "zeros"  # the only mode in which columns never repeat and always grow along a row
    if format == "bcoo":
        positions = np.stack([pattern.rows(), pattern.column], axis=1)
        return sparse.BCOO(
            (values, jnp.asarray(positions)), shape=size.shape, indices_sorted=exact, unique_indices=exact
        )
    parts = (values, jnp.asarray(pattern.column), jnp.asarray(pattern.row_starts()))
    return sparse.BCSR(parts, shape=size.shape, indices_sorted=exact, unique_indices=exact)


@dataclasses.dataclass(frozen=True)
class Entries:
    """Positions of the entries, row after row: how many a row has, and each one's column and place in ``w.ravel()``."""

    per_row: np.ndarray
    column: np.ndarray
    tap: np.ndarray

    def rows(self) -> np.ndarray:
        """Row of each entry."""
        return np.repeat(np.arange(len(self.per_row), dtype=np.int32), self.per_row)

    def row_starts(self) -> np.ndarray:
        """Where each row starts among the entries, and their number: CSR's index pointer."""
        return np.concatenate([[0], np.cumsum(self.per_row)]).astype(np.int32)


def entries_of(geometry: ConvGeometry, channels_in_per_group: int, channels_out: int) -> Entries:
    """Positions of the entries of a convolution's matrix, ordered by row (q, o), then tap, then input channel.

    Args:
        geometry: the convolution, any padding mode.
        channels_in_per_group: in // groups.
        channels_out: out.

    Returns:
        The entries; int32 everywhere.
    """
    rank, tables = geometry.rank, axis_tables(geometry)
    # One candidate per (q..., o, t..., i); those that read a zero are dropped at the end.
    shape = (*geometry.output_size, channels_out, *geometry.kernel_size, channels_in_per_group)
    column, valid = np.zeros((1,) * len(shape), np.int32), np.ones((1,) * len(shape), bool)
    for axis, table in enumerate(tables):
        place = np.ones(len(shape), int)
        place[[axis, rank + 1 + axis]] = table.shape
        table = table.astype(np.int32).reshape(place)
        column = column * np.int32(geometry.input_size[axis]) + table
        valid = valid & (table >= 0)
    out = np.arange(channels_out, dtype=np.int32)
    within = np.arange(channels_in_per_group, dtype=np.int32)
    group = out // np.int32(channels_out // geometry.groups)
    first = (group * np.int32(channels_in_per_group)).reshape(-1, *(1,) * (rank + 1)) + within
    column = column * np.int32(channels_in_per_group * geometry.groups) + first
    taps = np.arange(math.prod(geometry.kernel_size) * channels_in_per_group, dtype=np.int32) * np.int32(channels_out)
    tap = out.reshape(-1, *(1,) * (rank + 1)) + taps.reshape(*geometry.kernel_size, channels_in_per_group)
    rows = math.prod(shape[: rank + 1])
    if valid.all():
        per_row = np.full(rows, len(taps), np.int32)
        return Entries(per_row, np.ravel(np.broadcast_to(column, shape)), np.ravel(np.broadcast_to(tap, shape)))
    valid = np.broadcast_to(valid, shape)
    per_row = np.count_nonzero(valid.reshape(rows, -1), axis=1).astype(np.int32)
    return Entries(per_row, np.broadcast_to(column, shape)[valid], np.broadcast_to(tap, shape)[valid])


# ---------------------------------------------------------------------- helpers


def _scipy(w: Array, geometry: ConvGeometry, size: MatrixSize) -> Any:
    if isinstance(w, jax.core.Tracer):
        raise TypeError("format='scipy' needs the values of w, which jit, grad or vmap hides; use 'bcoo' inside it")
    from scipy.sparse import csr_array

    pattern = entries_of(geometry, w.shape[-2], w.shape[-1])
    matrix = csr_array(
        (np.asarray(w).ravel()[pattern.tap], pattern.column, pattern.row_starts()), shape=size.shape, copy=True
    )
    matrix.sum_duplicates()
    return matrix


def _refuse_if_too_large(size: MatrixSize, format: str, max_bytes: int, geometry: ConvGeometry, w: Array) -> None:
    needed = size.bytes[format]
    rows, columns = size.shape
    sentence = (
        f"the {format} matrix of kernel {w.shape} on input_size={geometry.input_size} would be {rows} x {columns} "
        f"with {size.entries} entries, {needed} bytes ({needed / 2**30:.2f} GiB)"
    )
    if needed > max_bytes:
        raise ValueError(
            f"{sentence}; max_bytes is {max_bytes}. Take a smaller input, raise max_bytes, or use ConvOperator, "
            "which needs no matrix"
        )
    if max(rows, columns, size.entries) > _INDEX_LIMIT:
        raise ValueError(
            f"{sentence}: more than the {_INDEX_LIMIT} that int32 positions can tell apart. Use ConvOperator, "
            "which needs no matrix"
        )


def _kernel(w: Any) -> Array:
    if not hasattr(w, "shape") or not hasattr(w, "dtype"):
        raise TypeError(f"w must be an array, got {type(w).__name__}")
    if w.ndim < 3:
        raise ValueError(
            f"a kernel has the axes (*kernel_size, in // groups, out), so at least 3; w has shape {w.shape}"
        )
    if min(w.shape) < 1:
        raise ValueError(f"no axis of a kernel may be empty; w has shape {w.shape}")
    return w if isinstance(w, jax.Array) else jnp.asarray(w)
