"""Fold batch normalisation into the convolution before it: the same network in evaluation, with fewer parameters and
steps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxconv.nn import Conv, ConvBlock, ConvTranspose


def fold_batch_norm(model: nnx.Module) -> int:
    """Fold every batch normalisation that directly follows a convolution, in place.

    ``norm(conv(x)) = conv'(x)`` with ``kernel' = kernel * f``, ``bias' = (bias - mean) * f + beta``,
    ``f = scale / sqrt(var + epsilon)`` per output channel.

    Folded are neighbours in `flax.nnx.Sequential` and the pairs inside `jaxconv.nn.ConvBlock`; other normalisations
    (such as the one after a concatenation) stay. The model then no longer has the variables that its `config`
    describes, so fold after loading and before compiling, not before saving. Gradients of a folded model are those of
    other parameters: it is for evaluation.

    Args:
        model: an NNX module with values; changed in place.

    Returns:
        How many normalisations were folded.

    Raises:
        ValueError: a normalisation whose number of channels is not the convolution's.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from jaxconv.nn import ConvBlock
        >>> block = ConvBlock(3, 8, (3, 3), rngs=nnx.Rngs(0))
        >>> fold_batch_norm(block), block.norm, block.conv.bias.shape
        (1, None, (8,))

    Source: Jacob et al. 2018 (arXiv:1712.05877), section 3.2, for the folding of batch normalisation.
    """
    count = 0
    for _, node in nnx.iter_modules(model):
        if isinstance(node, ConvBlock) and isinstance(node.norm, nnx.BatchNorm):
            _fold(node.conv, node.norm)
            node.norm = nnx.data(None)
            count += 1
        elif isinstance(node, nnx.Sequential):
            kept = _fold_neighbours(list(node.layers))
            if len(kept) < len(node.layers):
                count += len(node.layers) - len(kept)
                node.layers = nnx.List(kept)
    return count


def _fold_neighbours(layers: list) -> list:
    kept: list = []
    for layer in layers:
        if isinstance(layer, nnx.BatchNorm) and kept and isinstance(kept[-1], (Conv, ConvTranspose)):
            _fold(kept[-1], layer)
        else:
            kept.append(layer)
    return kept


def _fold(conv: Conv | ConvTranspose, norm: nnx.BatchNorm) -> None:
    if norm.num_features != conv.out_features:
        raise ValueError(
            f"batch normalisation of {norm.num_features} channels follows a convolution of {conv.out_features}"
        )
    # flax keeps statistics in float32; a float64 network folds them in its own precision.
    dtype = jnp.promote_types(conv.kernel.dtype, norm.var.dtype)
    factor = jax.lax.rsqrt(norm.var[...].astype(dtype) + norm.epsilon)
    if norm.scale is not None:
        factor = factor * norm.scale[...]
    bias = -norm.mean[...] if conv.bias is None else conv.bias[...] - norm.mean[...]
    bias = bias * factor if norm.bias is None else bias * factor + norm.bias[...]
    kernel = conv.kernel[...]
    conv.kernel.set_value((kernel * _over_kernel(conv, factor)).astype(kernel.dtype))
    conv.bias = nnx.Param(bias.astype(kernel.dtype))
    conv.use_bias = True


def _over_kernel(conv: Conv | ConvTranspose, factor: Array) -> Array:
    """One factor per output channel, laid out to multiply the kernel."""
    if isinstance(conv, Conv):
        return factor
    # (*k, out // groups, in): the group of an input channel says which output channels its column holds.
    by_group = factor.reshape(conv.groups, -1)
    return jnp.repeat(by_group, conv.in_features // conv.groups, axis=0).T
