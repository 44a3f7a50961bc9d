"""A layer of a network as the operator that figures of operators take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from jaxconv.analysis.graph.trace import trace
from jaxconv.linear import ConvOperator, LinearOperator


def layer_operator(fn: Callable[..., Any], args: Sequence[Any], layer: int = 0) -> LinearOperator:
    """The window of one convolution of a function or module, with a kernel of ones and one channel.

    Args:
        fn: a function or module, as for `analysis.receptive_field`.
        args: its arguments; the image (or its shape) first.
        layer: which of its convolutions and transposed convolutions, in order; negative counts from the end.

    Returns:
        A `ConvOperator`, or the transpose of one. Padding that no window reaches is left out.

    Raises:
        ValueError: there is no such layer, or it is strided and upsamples at once.

    >>> import jax, jaxconv as jc
    >>> def net(x):
    ...     return jc.conv_transpose(jc.conv(x, jnp.ones((3, 3, 1, 4))), jnp.ones((4, 4, 1, 4)), stride=2, padding=1)
    >>> image = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    >>> layer_operator(net, (image,), 1).T.geometry.stride
    (2, 2)
    """
    traced = trace(fn, args, None, None)
    found = [(node, made) for node, made in traced.layers() if made.kind in ("conv", "conv_transpose")]
    if not -len(found) <= layer < len(found):
        listed = "; ".join(f"{i}: {made.kind} at {n.place}" for i, (n, made) in enumerate(found)) or "none"
        raise ValueError(f"layer={layer}: the function has {len(found)} convolutions ({listed})")
    node, relations = found[layer][0], found[layer][1].relations
    up = any(r.base > 1 for r in relations)
    if up and any(r.stride > 1 for r in relations):
        raise ValueError(f"layer={layer} at {node.place} is strided and upsamples at once: it is neither convolution")
    forward = [r.transposed() for r in relations] if up else list(relations)
    conv = ConvOperator(
        jnp.ones((*(r.taps for r in forward), 1, 1)),
        tuple(r.n_in for r in forward),
        stride=tuple(r.stride for r in forward),
        dilation=tuple(r.dilation for r in forward),
        padding=tuple((r.low, r.least_high) for r in forward),
    )
    return conv.T if up else conv
