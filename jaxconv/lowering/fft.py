"""The faces by fast Fourier transforms, in blocks where the kernel is much smaller than the image.

With p = u + lo, the kernel spread by its dilation to e = d t and the result by its stride to m = s q, an axis is a
plain correlation ``p = m + e``, which a circle of L >= (extent of p) positions computes as products of spectra:

    apply    Y(f) = sum over i of X(f) conj W(f)       at m = s q
    adjoint  X(f) = sum over o of Y(f) W(f)            at p = u + lo
    kernel   W(f) = sum over batch of X(f) conj Y(f)   at e = d t

A kernel's multiply-adds grow with its taps, a transform's only with the logarithm of the circle. Where one circle for
the whole axis would be more work than several short ones, X is cut into blocks of L positions, L - E + 1 apart for a
kernel of extent E, whose results are joined (overlap-save) or added (overlap-add, the adjoint).

Rounding is relative to the largest values that a circle meets, not to each result's own terms. A number that is not
finite fills its circle: the whole call is then computed again by `lax`'s form.

Source: Oppenheim and Schafer 1989, "Discrete-time signal processing", section 8.7 (overlap-add and overlap-save).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax

from jaxconv._finite import made_again_where_not_finite
from jaxconv.geometry import ConvGeometry
from jaxconv.lowering import lax as lax_form
from jaxconv.lowering.call import Call
from jaxconv.resampling.windows import pad_axis


@dataclasses.dataclass(frozen=True)
class Circle:
    """One axis: positions of p it has, blocks it is cut into.

    Attributes:
        reach: positions ``p`` from the first to the last that the correlation meets.
        extent: of the dilated kernel.
        length: L of each block's transform.
        blocks: number of blocks.
    """

    reach: int
    extent: int
    length: int
    blocks: int

    @property
    def hop(self) -> int:
        """Results m that a block gives."""
        return self.length - self.extent + 1

    @property
    def results(self) -> int:
        """Positions m, dense."""
        return self.reach - self.extent + 1

    @classmethod
    def of(cls, size: int, stride: int, extent: int) -> Circle:
        """The cheapest cut of an axis of `size` results."""
        reach = (size - 1) * stride + extent
        whole = cls(reach, extent, fast(reach), 1)
        lengths = (2**j for j in range(math.ceil(math.log2(2 * extent)), whole.length.bit_length()))
        cut = [cls(reach, extent, n, -(-whole.results // (n - extent + 1))) for n in lengths if n < whole.length]
        return min([whole, *cut], key=lambda c: c.blocks * c.length * math.log2(c.length + 1))


@functools.cache
def fast(n: int) -> int:
    """The least number of the form 2^a 3^b 5^c that is at least n.

    Example:
        >>> fast(1025)
        1080
    """
    best, fives = 2 ** math.ceil(math.log2(n)), 1
    while fives < best:
        threes = fives
        while threes < best:
            best = min(best, threes * 2 ** max(math.ceil(math.log2(n / threes)), 0))
            threes *= 3
        fives *= 5
    return best


def circles(g: ConvGeometry) -> tuple[Circle, ...]:
    """The circles of a geometry's axes."""
    return tuple(map(Circle.of, g.output_size, g.stride, g.kernel_extent))


def serves(call: Call) -> bool:
    """Real floating operands, at most three axes, base dilation 1."""
    g = call.geometry
    plain = g.rank <= 3 and all(b == 1 for b in g.base_dilation) and 0 not in (*g.input_size, *g.output_size)
    return plain and jnp.dtype(call.dtype) in (jnp.float32, jnp.float64)


def apply(x: Array, w: Array, call: Call) -> Array:
    """Blocks of x, times the kernel's spectrum, joined and read at m = s q."""
    return _guarded(_apply, lax_form.apply, x, w, call)


def adjoint(y: Array, w: Array, call: Call) -> Array:
    """Blocks of y between its zeros, times the kernel's spectrum, added where they overlap."""
    return _guarded(_adjoint, lax_form.adjoint, y, w, call)


def kernel(x: Array, y: Array, call: Call) -> Array:
    """Spectra of blocks of x and y, summed over batch and blocks before the one transform back."""
    return _guarded(_kernel, lax_form.kernel, x, y, call)


def _guarded(by_spectra, plain, a: Array, b: Array, call: Call) -> Array:
    out = by_spectra(a, b, call).astype(call.out_dtype)
    return made_again_where_not_finite(out, 1, lambda _, out: plain(a, b, call))


def _apply(x: Array, w: Array, call: Call) -> Array:
    g = call.geometry
    axes = circles(g)
    x = _channels_first(_reach(x, g, axes), g)
    y = _product(_spectra(_cut(x, axes), axes)[:, :, :, None], jnp.conj(_of_kernel(w, g, axes)), 2)
    y = _joined(_values(y, axes, [c.hop for c in axes]), axes)
    steps = (slice(0, (m - 1) * s + 1, s) for m, s in zip(g.output_size, g.stride, strict=True))
    return _channels_last(y[(..., *steps)])


def _adjoint(y: Array, w: Array, call: Call) -> Array:
    g = call.geometry
    axes = circles(g)
    y = _channels_first(y, g)
    x = _product(_of_results(y, g, axes)[:, :, None], _of_kernel(w, g, axes), 3)
    x = _added(_values(x, axes, [c.length for c in axes]), axes)
    for axis, (lo, n, c) in enumerate(zip(g.offsets, g.input_size, axes, strict=True), 3):
        x = pad_axis(x, axis, -lo, n + lo - c.reach, 0)
    return _channels_last(x)


def _kernel(x: Array, y: Array, call: Call) -> Array:
    g = call.geometry
    axes = circles(g)
    x, y = _channels_first(_reach(x, g, axes), g), _channels_first(y, g)
    y = jnp.conj(_of_results(y, g, axes))
    w = _product(_spectra(_cut(x, axes), axes)[:, :, :, None], y[:, :, None], 0)
    w = _values(w, axes, g.kernel_extent)[(..., *(slice(0, None, d) for d in g.dilation))]
    return jnp.moveaxis(w, (1, 0, 2), (-3, -2, -1)).reshape(*g.kernel_size, -1, call.channels_out)


# ---------------------------------------------------------------------- into spectra and back


def _spectra(x: Array, axes: tuple[Circle, ...]) -> Array:
    return jnp.fft.rfftn(x, [c.length for c in axes], range(-len(axes), 0))


def _values(spectra: Array, axes: tuple[Circle, ...], keep: Sequence[int]) -> Array:
    """The first `keep` values of each circle."""
    x = jnp.fft.irfftn(spectra, [c.length for c in axes], range(-len(axes), 0))
    return x[(..., *(slice(0, n) for n in keep))]


def _product(a: Array, b: Array, axis: int) -> Array:
    """a times b, broadcast, summed along an axis: in one loop over frequencies, which a matrix product is not."""
    return jnp.sum(a * b, axis)


def _of_kernel(w: Array, g: ConvGeometry, axes: tuple[Circle, ...]) -> Array:
    """(*k, I / groups, O) -> spectra (groups, I / groups, O / groups, *frequencies)."""
    w = w.reshape(*w.shape[:-1], g.groups, w.shape[-1] // g.groups)
    w = jnp.moveaxis(w, (-2, -3, -1), (0, 1, 2))
    return _spectra(_spread(w, g.dilation), axes)


def _of_results(y: Array, g: ConvGeometry, axes: tuple[Circle, ...]) -> Array:
    """(b, groups, O / groups, *m) -> spectra of its blocks: a hop of positions each, and zeros up to the length."""
    y = _spread(y, g.stride)
    hops = [c.hop if c.blocks > 1 else n for c, n in zip(axes, y.shape[3:], strict=True)]
    return _spectra(_blocks(y, [c.blocks for c in axes], hops), axes)


def _spread(x: Array, steps: tuple[int, ...]) -> Array:
    """Zeros between the positions of the last axes."""
    inside = [(0, 0, 0)] * (x.ndim - len(steps)) + [(0, 0, s - 1) for s in steps]
    return lax.pad(x, jnp.zeros((), x.dtype), inside)


# ---------------------------------------------------------------------- positions and blocks


def _channels_first(x: Array, g: ConvGeometry) -> Array:
    """(b, *n, C) -> (b, groups, C / groups, *n)."""
    x = jnp.moveaxis(x, -1, 1)
    return x.reshape(x.shape[0], g.groups, -1, *x.shape[2:])


def _channels_last(x: Array) -> Array:
    """The inverse of `_channels_first`."""
    return jnp.moveaxis(x.reshape(x.shape[0], -1, *x.shape[3:]), 1, -1)


def _reach(x: Array, g: ConvGeometry, axes: tuple[Circle, ...]) -> Array:
    """(b, *n, C) at the positions p that are met, zeros where it has none."""
    for axis, (lo, n, c) in enumerate(zip(g.offsets, g.input_size, axes, strict=True), 1):
        x = pad_axis(x, axis, lo, c.reach - lo - n, 0)
    return x


def _cut(x: Array, axes: tuple[Circle, ...]) -> Array:
    """(b, g, c, *reach) -> (b blocks, g, c, *length): a hop of its own and what the kernel reaches of the next."""
    for i, c in enumerate(axes):
        if c.blocks > 1:
            axis = 3 + i
            x = _split(x, axis, c.blocks + 1, c.hop)
            own, following = (lax.slice_in_dim(x, j, j + c.blocks, axis=axis) for j in (0, 1))
            following = lax.slice_in_dim(following, 0, c.extent - 1, axis=axis + 1)
            x = _block_to_batch(jnp.concatenate([own, following], axis + 1), axis)
    return x


def _blocks(y: Array, counts: list[int], hops: list[int]) -> Array:
    """(b, g, c, *m) -> (b blocks, g, c, *hop), without overlap."""
    for axis, (count, hop) in enumerate(zip(counts, hops, strict=True), 3):
        if count > 1:
            y = _block_to_batch(_split(y, axis, count, hop), axis)
    return y


def _joined(y: Array, axes: tuple[Circle, ...]) -> Array:
    """The inverse of `_blocks`."""
    for axis, c in reversed(list(enumerate(axes, 3))):
        if c.blocks > 1:
            y = _block_from_batch(y, axis, c.blocks)
            y = y.reshape(*y.shape[:axis], -1, *y.shape[axis + 2 :])
    return y


def _added(x: Array, axes: tuple[Circle, ...]) -> Array:
    """The transpose of `_cut`: (b blocks, g, c, *length) -> (b, g, c, *reach)."""
    for axis, c in reversed(list(enumerate(axes, 3))):
        if c.blocks > 1:
            x = _block_from_batch(x, axis, c.blocks)
            own, following = jnp.split(x, [c.hop], axis + 1)
            following = pad_axis(following, axis + 1, 0, c.hop - c.extent + 1, 0)
            x = pad_axis(own, axis, 0, 1, 0) + pad_axis(following, axis, 1, 0, 0)
            x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
        x = lax.slice_in_dim(x, 0, c.reach, axis=axis)
    return x


def _split(x: Array, axis: int, count: int, hop: int) -> Array:
    """An axis as `count` blocks of a hop, zeros behind its end."""
    x = pad_axis(x, axis, 0, count * hop - x.shape[axis], 0)
    return x.reshape(*x.shape[:axis], count, hop, *x.shape[axis + 1 :])


def _block_to_batch(x: Array, axis: int) -> Array:
    x = jnp.moveaxis(x, axis, 1)
    return x.reshape(-1, *x.shape[2:])


def _block_from_batch(x: Array, axis: int, blocks: int) -> Array:
    return jnp.moveaxis(x.reshape(-1, blocks, *x.shape[1:]), 1, axis)
