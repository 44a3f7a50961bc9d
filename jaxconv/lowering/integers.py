"""8-bit integers as float32, in which their sums are exact, for the compiled CPU kernels.

A product of two 8-bit integers has at most 14 bits (unsigned ones 16), and float32 counts to 2^24: sums of up to 1024
products (258) come out exact in any order, if they are plain sums. Longer ones are cut into such sums along the
contracted channels, and these are added as integers, which wrap where lax's do.
"""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxconv.lowering.call import Call
from jaxconv.lowering.cpu import faces

LARGEST_PRODUCT = {"int8": 128 * 128, "uint8": 255 * 255}
EXACT = 2**24
# More pieces read the image more often than XLA's own integer products take.
MOST_PIECES = 8


def serves(call: Call) -> bool:
    """`apply` and the adjoint of 8-bit integers with an integer result, where the compiled kernels serve float32."""
    if call.face == "kernel" or np.dtype(call.dtype).name not in LARGEST_PRODUCT:
        return False
    signs = jnp.issubdtype(call.dtype, jnp.unsignedinteger) or jnp.issubdtype(call.out_dtype, jnp.signedinteger)
    few = _pieces(call) <= (MOST_PIECES if call.geometry.groups == 1 else 1)
    return jnp.issubdtype(call.out_dtype, jnp.integer) and signs and few and faces.serves(_as_floats(call))


def apply(x: Array, w: Array, call: Call, run) -> Array:
    """y[q] = sum over t of x[s*q + d*t - lo] w[t], over some channels of x at a time."""
    parts = (
        run(dataclasses.replace(_as_floats(call), channels_in=(stop - start) * call.geometry.groups), a, b)
        for start, stop, a, b in _cut(call, x, w, -2)
    )
    return _total(parts, call)


def adjoint(y: Array, w: Array, call: Call, run) -> Array:
    """x[u] = sum over t of y[(u + lo - d*t)/s] w[t], over some channels of y at a time."""
    parts = (
        run(dataclasses.replace(_as_floats(call), channels_out=(stop - start) * call.geometry.groups), a, b)
        for start, stop, a, b in _cut(call, y, w, -1)
    )
    return _total(parts, call)


def _contracted(call: Call) -> int:
    """Channels that a result sums over."""
    return (call.channels_in if call.face == "apply" else call.channels_out) // call.geometry.groups


def _taps(call: Call) -> int:
    """Taps that a result sums over, at most: of the adjoint those of one residue modulo the stride."""
    g = call.geometry
    if call.face == "apply":
        return math.prod(g.kernel_size)
    axes = zip(g.kernel_size, g.stride, g.dilation, strict=True)
    return math.prod(-(-k // (s // math.gcd(s, d))) for k, s, d in axes)


def _pieces(call: Call) -> int:
    """Into how many sums the contracted channels are cut; more than there may be where one channel is too long."""
    exact = EXACT // LARGEST_PRODUCT[np.dtype(call.dtype).name]  # products
    return -(-_contracted(call) // (exact // _taps(call))) if _taps(call) <= exact else MOST_PIECES + 1


def _as_floats(call: Call) -> Call:
    single = jnp.dtype(jnp.float32)
    return dataclasses.replace(call, dtype=single, out_dtype=single, precision=lax.Precision.HIGHEST)


def _cut(call: Call, data: Array, w: Array, axis: int):
    """Bounds of each piece's channels, and both operands' share of them as float32."""
    count, pieces = _contracted(call), _pieces(call)
    if pieces == 1:
        yield 0, count, data.astype(jnp.float32), w.astype(jnp.float32)
        return
    for number in range(pieces):
        start, stop = number * count // pieces, (number + 1) * count // pieces
        a = lax.slice_in_dim(data, start, stop, axis=data.ndim - 1)
        b = lax.slice_in_dim(w, start, stop, axis=w.ndim + axis)
        yield start, stop, a.astype(jnp.float32), b.astype(jnp.float32)


def _total(parts, call: Call) -> Array:
    first, *others = (part.astype(jnp.int32).astype(call.out_dtype) for part in parts)
    for part in others:
        first = first + part
    return first
