"""Fold: where a kernel is as wide as its stride, the last axis goes into the channels, which moves no data.

Channels-last, s neighbours of the last spatial axis with their C channels lie side by side already. With k = s and no
pad there, window q reads exactly block q, so

    x (..., s*m, C) is x' (..., m, s*C),   w (..., s, C, O) is w' (..., 1, s*C, O)

and the face on x' and w', which has neither stride nor taps on that axis, is the same sum. Channels that fill a matrix
unit's lanes only in part fill s times as many. The inner problem goes through the choice again; where a volume falls
into blocks along all of its axes, `apply` and `adjoint` are one matrix product of blocks instead, most often
(`is_one_product`).

Source: the periodic shuffle of Shi et al. 2016 (arXiv:1609.05158) along one axis, where it is a change of view.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array, lax

from jaxconv.geometry import ConvGeometry
from jaxconv.lowering.call import Call


def serves(call: Call) -> bool:
    """No groups, base dilation 1, and a last axis of blocks: its kernel is its stride, without dilation or low pad."""
    g = call.geometry
    return (
        g.groups == 1
        and all(b == 1 for b in g.base_dilation)
        and g.kernel_size[-1] == g.stride[-1] > 1
        and g.dilation[-1] == 1
        and g.offsets[-1] == 0
    )


def volume_of_blocks(g: ConvGeometry) -> bool:
    """Three axes or more, each with a kernel as wide as its stride and no pad before it."""
    axes = zip(g.kernel_size, g.stride, g.dilation, g.offsets, strict=True)
    return g.rank >= 3 and all(k == s and (d == 1 or k == 1) and lo == 0 for k, s, d, lo in axes)


def is_one_product(call: Call) -> bool:
    """Whether blocks along all axes are multiplied at once, rather than the last axis folded and the rest left over.

    On TPUs not where the adjoint has thin blocks to put in their places along all three axes: moving them costs more
    than the product saves. Thousand cycles on v5e, `lax`'s form, the product, the last axis folded: batch 2 of
    8x16x16x16 to 16x32x32x8 84, 95, 47, of 16x32x32x32 to 32x64x64x16 834, 725, 339; but to 64x64x64 of 32 channels
    4,013, 2,228, 2,392, to 32x64x64 of 2 channels 293, 100, 146, with a last axis of 22 (not whole tiles of eight) 121,
    73, 144, and with k = s = (1, 2, 2) 714, 153, 341.
    """
    g = call.geometry
    if call.platform == "tpu" and call.face == "adjoint":
        thin = 8 <= call.channels_in < 32
        if thin and min(g.stride) > 1 and g.output_size[-1] % 8 == 0:
            return False
    return volume_of_blocks(g)


def inner_call(call: Call) -> Call:
    """The call that is left: blocks for positions of the last axis, s times the channels."""
    g = call.geometry
    inner = dataclasses.replace(
        g,
        input_size=(*g.input_size[:-1], g.output_size[-1]),
        kernel_size=(*g.kernel_size[:-1], 1),
        stride=(*g.stride[:-1], 1),
        pads=(*g.pads[:-1], (0, 0)),
        padding_rule=None,
    )
    return dataclasses.replace(call, geometry=inner, channels_in=call.channels_in * g.stride[-1])


def apply(x: Array, w: Array, call: Call, run) -> Array:
    """The face on blocks of x."""
    g = call.geometry
    x, w = _blocks(x, g), _folded(w)
    if not is_one_product(call):
        return run(inner_call(call), x, w)
    shape = [x.shape[0]]
    for axis, (m, s) in enumerate(zip(g.output_size[:-1], g.stride[:-1], strict=True), 1):
        x = _fit(x, axis, m * s)
        shape += [m, s]
    x = x.reshape(*shape, *x.shape[-2:])
    taps = (*range(2, 2 * g.rank, 2), 2 * g.rank)  # within a block, then its channels
    w = jnp.squeeze(w, g.rank - 1)
    return _product(x, w, (taps, tuple(range(g.rank))), call)


def adjoint(y: Array, w: Array, call: Call, run) -> Array:
    """Blocks of x, side by side."""
    g, w = call.geometry, _folded(w)
    if is_one_product(call):
        last = g.rank + 1
        x = _product(y, jnp.squeeze(w, g.rank - 1), ((last,), (g.rank,)), call)
        pairs = [axis for a in range(1, g.rank) for axis in (a, g.rank + a)]
        x = jnp.transpose(x, (0, *pairs, g.rank, 2 * g.rank))
        x = x.reshape(
            x.shape[0], *(m * s for m, s in zip(g.output_size[:-1], g.stride[:-1], strict=True)), *x.shape[-2:]
        )
        for axis in range(1, g.rank):
            x = _fit(x, axis, g.input_size[axis - 1])
    else:
        x = run(inner_call(call), y, w)
    return _fit(x.reshape(*x.shape[:-2], x.shape[-2] * g.stride[-1], call.channels_in), g.rank, g.input_size[-1])


def kernel(x: Array, y: Array, call: Call, run) -> Array:
    """The kernel that pairs blocks of x with y."""
    g = call.geometry
    w = run(inner_call(call), _blocks(x, g), y)
    return w.reshape(*g.kernel_size, call.channels_in, call.channels_out)


def _blocks(x: Array, g: ConvGeometry) -> Array:
    """(..., n, C) -> (..., m, s*C), without what no window reaches."""
    m, s = g.output_size[-1], g.stride[-1]
    return _fit(x, g.rank, m * s).reshape(*x.shape[:-2], m, s * x.shape[-1])


def _folded(w: Array) -> Array:
    """(*k, s, C, O) -> (*k, 1, s*C, O)."""
    *taps, s, channels, out = w.shape
    return w.reshape(*taps, 1, s * channels, out)


def _product(a: Array, w: Array, contracted, call: Call) -> Array:
    numbers = (contracted, ((), ()))
    out = lax.dot_general(a, w, numbers, precision=call.precision, preferred_element_type=call.product_dtype)
    return out.astype(call.out_dtype)


def _fit(x: Array, axis: int, size: int) -> Array:
    """An axis cropped, or padded with zeros, at its end."""
    if x.shape[axis] >= size:
        return lax.slice_in_dim(x, 0, size, axis=axis)
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (0, size - x.shape[axis], 0)
    return lax.pad(x, jnp.zeros((), x.dtype), config)
