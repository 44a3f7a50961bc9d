"""Fold batch normalisation into the convolution before it: the same network in evaluation, with fewer parameters and
steps."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxconv.nn.blocks import ConvBlock
from jaxconv.nn.convolution import Conv, ConvTranspose

_FOLDABLE = (Conv, ConvTranspose, nnx.Conv, nnx.ConvTranspose, nnx.Linear)


@dataclasses.dataclass(frozen=True)
class _Pair:
    """A normalisation, the convolution it follows, and the module that holds the normalisation."""

    norm: nnx.BatchNorm
    conv: Any
    holder: nnx.Module
    names: tuple[str, str]

    def remove(self) -> None:
        if isinstance(self.holder, ConvBlock):
            self.holder.norm = nnx.data(None)
        else:
            holder: Any = self.holder
            holder.layers = nnx.List([layer for layer in holder.layers if layer is not self.norm])


def foldable(model: nnx.Module) -> list[tuple[str, str]]:
    """Which batch normalisations `fold_batch_norm` would fold, and into what.

    Args:
        model: an NNX module; it may be abstract (from ``nnx.eval_shape``).

    Returns:
        (path of the normalisation, path of its convolution), dotted.

    Example:
        >>> from flax import nnx
        >>> from jaxconv.nn import ConvBlock
        >>> foldable(nnx.eval_shape(lambda: ConvBlock(3, 8, (3, 3), rngs=nnx.Rngs(0))))
        [('norm', 'conv')]
    """
    return [pair.names for pair in _pairs(model)]


def fold_batch_norm(model: nnx.Module) -> int:
    """Fold every batch normalisation that directly follows a convolution, in place.

    ``norm(conv(x)) = conv'(x)`` with ``kernel' = kernel * f``, ``bias' = (bias - mean) * f + beta``,
    ``f = scale / sqrt(var + epsilon)`` per output channel.

    Folded are neighbours in `flax.nnx.Sequential` and the pairs inside `jaxconv.nn.ConvBlock`, of jaxconv's and Flax's
    convolutions, transposed ones and linear layers. Other normalisations (such as the one after a concatenation) stay,
    and so do layers that the model uses in more than one place. Gradients of a folded model are those of other
    parameters: it is for evaluation.

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
    pairs = _pairs(model)
    for pair in pairs:
        _fold(pair)
        pair.remove()
    return len(pairs)


# ---------------------------------------------------------------------- finding


def _pairs(model: nnx.Module) -> list[_Pair]:
    uses = Counter(id(child) for _, node in nnx.iter_modules(model) for _, child in _members(node))
    found = []
    for path, node in nnx.iter_modules(model):
        if isinstance(node, ConvBlock):
            members: list[tuple[str, Any]] = [("conv", node.conv), ("norm", node.norm)]
        elif isinstance(node, nnx.Sequential):
            members = [(f"layers.{i}", layer) for i, layer in enumerate(node.layers)]
        else:
            continue
        for (before, conv), (after, norm) in zip(members, members[1:], strict=False):
            if not isinstance(norm, nnx.BatchNorm) or not isinstance(conv, _FOLDABLE) or norm.axis not in (-1, None):
                continue
            if uses[id(conv)] == uses[id(norm)] == 1:
                prefix = ".".join(map(str, path))
                names = tuple(f"{prefix}.{name}".lstrip(".") for name in (after, before))
                found.append(_Pair(norm, conv, node, (names[0], names[1])))
    return found


def _members(node: Any) -> Iterator[tuple[str, Any]]:
    """The layers that a module holds: its attributes, and the entries of lists and dicts among them."""
    if isinstance(node, (list, tuple, nnx.List)):
        entries: Any = ((str(i), child) for i, child in enumerate(node))
    elif isinstance(node, dict):
        entries = ((str(name), child) for name, child in node.items())
    else:
        entries = vars(node).items()
    for name, child in entries:
        if isinstance(child, (list, tuple, dict)):
            yield from ((f"{name}.{inner}", grandchild) for inner, grandchild in _members(child))
        else:
            yield name, child


# ---------------------------------------------------------------------- folding


def _fold(pair: _Pair) -> None:
    conv, norm = pair.conv, pair.norm
    if norm.num_features != conv.out_features:
        raise ValueError(
            f"{pair.names[0]}, a batch normalisation of {norm.num_features} channels, follows {pair.names[1]}, which "
            f"has {conv.out_features}"
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


def _over_kernel(conv: Any, factor: Array) -> Array:
    """One factor per output channel, laid out to multiply the kernel."""
    if isinstance(conv, ConvTranspose):
        # (*k, out // groups, in): the group of an input channel says which output channels its column holds.
        by_group = factor.reshape(conv.groups, -1)
        return jnp.repeat(by_group, conv.in_features // conv.groups, axis=0).T
    if isinstance(conv, nnx.ConvTranspose) and conv.transpose_kernel:
        return factor[:, None]  # (*k, out, in)
    return factor
