"""Where a convolution is block-circulant, and its small matrix at each frequency.

With circular padding and a stride that divides the input, shifting x by s shifts y by one. Split x into its s residues,
``x[s*a + r] = x_r[a]``: every residue is then convolved circularly at stride 1, and the discrete Fourier transform
turns the whole operator into one small matrix per frequency f,

    B(f)[o, (r, i)] = sum over t with d*t - lo = s*a_t + r of  w[t, i, o] * exp(2*pi*j * <f, a_t> / m)

of size out/groups by prod(s) * in/groups, for each group.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxconv.geometry import ConvGeometry
from jaxconv.linear.matrix import axis_tables


def is_block_circulant(geometry: ConvGeometry) -> bool:
    """Whether shifting x by the stride shifts y by one: n = m*s, and every tap reads ``s*q + d*t - lo`` modulo n.

    Example:
        >>> g = ConvGeometry.resolve(input_size=(8,), kernel_size=(3,), stride=2, padding=1, padding_mode="circular")
        >>> is_block_circulant(g)
        True
    """
    if geometry.input_size != tuple(m * s for m, s in zip(geometry.output_size, geometry.stride, strict=True)):
        return False
    for axis, table in enumerate(axis_tables(geometry)):
        n, s, d = geometry.input_size[axis], geometry.stride[axis], geometry.dilation[axis]
        q, t = np.indices(table.shape)
        if not np.array_equal(table, (s * q + d * t - geometry.offsets[axis]) % n):
            return False
    return True


def is_circulant_convolution(operator: Any) -> bool:
    """Whether an operator is one convolution, and block-circulant."""
    geometry = getattr(operator, "geometry", None)
    return geometry is not None and is_block_circulant(geometry)


def symbol(w: Array, geometry: ConvGeometry) -> Array:
    """B(f) of the convolution, its borders taken as circular.

    Args:
        w: kernel (*kernel_size, in // groups, out).
        geometry: a geometry with n = m*s on every axis.

    Returns:
        (*m, groups, out // groups, prod(s) * in // groups), complex.
    """
    rank, groups = geometry.rank, geometry.groups
    per_group, out = w.shape[-2:]
    residues = math.prod(geometry.stride)
    blocks = jnp.zeros((*geometry.output_size, residues, per_group, out), w.dtype)
    places, taps = [], list(itertools.product(*map(range, geometry.kernel_size)))
    for tap in taps:
        shifts, residue = [], 0
        for t, d, s, lo, m in zip(
            tap, geometry.dilation, geometry.stride, geometry.offsets, geometry.output_size, strict=True
        ):
            shift, r = divmod(d * t - lo, s)
            shifts.append(shift % m)
            residue = residue * s + r
        places.append((*shifts, residue))
    index = tuple(np.array(places).T)
    blocks = blocks.at[index].add(w.reshape(len(taps), per_group, out))
    # exp(+2*pi*j f a / m) is the inverse transform's sign.
    frequencies = jnp.fft.ifftn(blocks, axes=range(rank)) * math.prod(geometry.output_size)
    frequencies = frequencies.reshape(*geometry.output_size, residues * per_group, groups, out // groups)
    return jnp.moveaxis(frequencies, -3, -1)


def from_frequencies_in(x: Array, geometry: ConvGeometry) -> Array:
    """Inputs (*batch, *n, in), complex, from their coefficients (*batch, *m, groups, prod(s) * in // groups)."""
    rank, groups = geometry.rank, geometry.groups
    lead = x.ndim - rank - 2
    batch = x.shape[:lead]
    x = jnp.fft.ifftn(x, axes=range(lead, lead + rank))
    x = x.reshape(*batch, *geometry.output_size, groups, *geometry.stride, -1)
    order = [v for axis in range(rank) for v in (lead + axis, lead + rank + 1 + axis)]
    x = x.transpose(*range(lead), *order, lead + rank, x.ndim - 1)
    return x.reshape(*batch, *geometry.input_size, -1)


def to_frequencies_out(y: Array, geometry: ConvGeometry) -> Array:
    """Outputs y (*batch, *m, out) as coefficients (*batch, *m, groups, out // groups)."""
    lead = y.ndim - geometry.rank - 1
    y = jnp.fft.fftn(y, axes=range(lead, lead + geometry.rank))
    return y.reshape(*y.shape[:-1], geometry.groups, -1)
