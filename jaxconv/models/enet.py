"""ENet, the real-time segmentation network, with the attribute names that its published PyTorch weights have."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from jaxconv._checks import as_index
from jaxconv.models._network import Network, make_prelu, make_types
from jaxconv.nn import Conv, ConvTranspose, MaxPool, MaxUnpool, batch_norm

# Second stage, repeated as the third: kind of the 3x3 step and its dilation.
_STAGE = (
    ("regular", 1), ("dilated", 2), ("asymmetric", 1), ("dilated", 4),
    ("regular", 1), ("dilated", 8), ("asymmetric", 1), ("dilated", 16),
)  # fmt: skip


def _row(conv: Conv | ConvTranspose, types: dict[str, Any], *, prelu: bool = True) -> nnx.Sequential:
    """A convolution without bias, batch normalisation and, but for the main branch of an upsampling, one shared
    PReLU."""
    layers: list[nnx.Module] = [conv, batch_norm(conv.out_features, **types)]
    if prelu:
        layers.append(make_prelu(1, types))
    return nnx.Sequential(*layers)


def _conv(into: int, out: int, kernel_size: tuple[int, int], types: dict[str, Any], **settings: Any) -> Conv:
    return Conv(into, out, kernel_size, use_bias=False, **settings, **types)


class InitialBlock(nnx.Module):
    """Halves the resolution: a strided convolution of 13 channels beside max-pooling of the 3 input channels."""

    def __init__(self, in_channels: int, channels: int, types: dict[str, Any]):
        self.pool = MaxPool((3, 3), stride=2, padding=1)
        self.main_branch = _conv(in_channels, channels - in_channels, (3, 3), types, stride=2, padding=1)
        self.batch_norm = batch_norm(channels, **types)
        self.out_prelu = make_prelu(channels, types)

    def __call__(self, x: Array) -> Array:
        """(*batch, ceil(H/2), ceil(W/2), channels) of x (*batch, H, W, in_channels)."""
        return self.out_prelu(self.batch_norm(jnp.concatenate([self.main_branch(x), self.pool(x)], axis=-1)))


class Bottleneck(nnx.Module):
    """1x1 down to a quarter of the channels, one step (3x3, dilated 3x3, or 5x1 then 1x5), 1x1 back; added to the
    input."""

    def __init__(self, channels: int, kind: str, dilation: int, types: dict[str, Any]):
        inner = channels // 4
        self.ext_conv1 = _row(_conv(channels, inner, (1, 1), types), types)
        if kind == "asymmetric":
            first = _row(_conv(inner, inner, (5, 1), types, padding=(2, 0)), types)
            second = _row(_conv(inner, inner, (1, 5), types, padding=(0, 2)), types)
            self.ext_conv2 = nnx.Sequential(*first.layers, *second.layers)
        else:
            self.ext_conv2 = _row(_conv(inner, inner, (3, 3), types, padding=dilation, dilation=dilation), types)
        self.ext_conv3 = _row(_conv(inner, channels, (1, 1), types), types)
        self.out_prelu = make_prelu(channels, types)

    def __call__(self, x: Array) -> Array:
        """(*batch, H, W, channels) of x of the same shape."""
        return self.out_prelu(x + self.ext_conv3(self.ext_conv2(self.ext_conv1(x))))


class Downsampling(nnx.Module):
    """Halves the resolution: max-pooling with indices, zero channels added, beside 2x2 stride 2 - 3x3 - 1x1."""

    def __init__(self, into: int, out: int, types: dict[str, Any]):
        self.added = out - into
        self.pool = MaxPool((3, 3), stride=2, padding=1, return_indices=True)
        self.ext_conv1 = _row(_conv(into, into // 4, (2, 2), types, stride=2), types)
        self.ext_conv2 = _row(_conv(into // 4, into // 4, (3, 3), types, padding=1), types)
        self.ext_conv3 = _row(_conv(into // 4, out, (1, 1), types), types)
        self.out_prelu = make_prelu(out, types)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """(*batch, H/2, W/2, out) of x (*batch, H, W, into), and where the maxima stood (*batch, H/2, W/2, into)."""
        main, indices = self.pool(x)
        main = jnp.pad(main, [(0, 0)] * (x.ndim - 1) + [(0, self.added)])
        return self.out_prelu(main + self.ext_conv3(self.ext_conv2(self.ext_conv1(x)))), indices


class Upsampling(nnx.Module):
    """Doubles the resolution: 1x1 and max-unpooling with the stored indices, beside 1x1 - transposed 3x3 stride 2 -
    1x1."""

    def __init__(self, into: int, out: int, types: dict[str, Any]):
        inner = into // 4
        self.unpool = MaxUnpool()
        self.main_conv1 = _row(_conv(into, out, (1, 1), types), types, prelu=False)
        self.ext_conv1 = _row(_conv(into, inner, (1, 1), types), types)
        up = ConvTranspose(inner, inner, (3, 3), stride=2, padding=1, output_padding=1, use_bias=False, **types)
        self.ext_conv2 = _row(up, types)
        self.ext_conv3 = _row(_conv(inner, out, (1, 1), types), types)
        self.out_prelu = make_prelu(out, types)

    def __call__(self, x: Array, indices: Array) -> Array:
        """(*batch, 2H, 2W, out) of x (*batch, H, W, into) and indices (*batch, H, W, out)."""
        size = (2 * x.shape[-3], 2 * x.shape[-2])
        main = self.unpool(self.main_conv1(x), indices, size)
        return self.out_prelu(main + self.ext_conv3(self.ext_conv2(self.ext_conv1(x))))


class ENet(Network):
    """ENet for semantic segmentation: early downsampling, dilated and asymmetric bottlenecks, max-unpooling decoder.

    Args:
        classes: channels of the output.
        in_channels: channels of the input.
        dtype: dtype to compute in (a name such as "bfloat16" too); default: what input and parameters promote to.
        param_dtype: dtype of the parameters.
        rngs: random streams.

    Returns:
        Called with x (*batch, H, W, in_channels): logits (*batch, H, W, classes). `train()` and `eval()` switch the
        batch normalisation. The dropout of the paper's training, which changes nothing in evaluation, is not part of
        the network.

    Raises:
        ValueError: numbers out of range; at the call, sizes of which half, rounded up, is no multiple of 4.

    Example:
        >>> import jax
        >>> from flax import nnx
        >>> model = nnx.eval_shape(lambda: ENet(12, rngs=nnx.Rngs(0)))
        >>> sum(p.size for p in jax.tree.leaves(nnx.state(model, nnx.Param)))
        359780
        >>> model.config["classes"]
        12

    Source: Paszke et al. 2016 (arXiv:1606.02147), table 1.
    """

    size_multiple = 8
    heads = ("transposed_conv",)

    def __init__(
        self,
        classes: int,
        *,
        in_channels: int = 3,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if as_index(classes, "classes") < 1:
            raise ValueError(f"classes={classes} must be at least 1")
        if not 1 <= as_index(in_channels, "in_channels") <= 15:
            raise ValueError(f"in_channels={in_channels} must be 1..15: they stand beside convolved ones, 16 in all")
        types = make_types(dtype, param_dtype, rngs)
        self._keep(types, classes=classes, in_channels=in_channels)

        self.initial_block = InitialBlock(in_channels, 16, types)
        self.downsample1_0 = Downsampling(16, 64, types)
        self.first = self._add([(f"regular1_{i}", "regular", 1) for i in range(1, 5)], 64, types)
        self.downsample2_0 = Downsampling(64, 128, types)
        self.second = self._add([(f"{kind}2_{i}", kind, d) for i, (kind, d) in enumerate(_STAGE, 1)], 128, types)
        self.third = self._add([(f"{kind}3_{i}", kind, d) for i, (kind, d) in enumerate(_STAGE)], 128, types)
        self.upsample4_0 = Upsampling(128, 64, types)
        self.fourth = self._add([(f"regular4_{i}", "regular", 1) for i in (1, 2)], 64, types)
        self.upsample5_0 = Upsampling(64, 16, types)
        self.fifth = self._add([("regular5_1", "regular", 1)], 16, types)
        self.transposed_conv = ConvTranspose(16, classes, (3, 3), stride=2, padding=1, use_bias=False, **types)

    def _add(self, bottlenecks: list[tuple[str, str, int]], channels: int, types: dict[str, Any]) -> tuple[str, ...]:
        """Make one stage's bottlenecks as attributes of their published names; returns the names."""
        for name, kind, dilation in bottlenecks:
            setattr(self, name, Bottleneck(channels, kind, dilation, types))
        return tuple(name for name, _, _ in bottlenecks)

    def _run(self, names: tuple[str, ...], x: Array) -> Array:
        for name in names:
            x = getattr(self, name)(x)
        return x

    def __call__(self, x: Array) -> Array:
        """Logits (*batch, H, W, classes) of x (*batch, H, W, in_channels)."""
        if x.ndim < 3 or any(n < 7 or -(-n // 2) % 4 for n in x.shape[-3:-1]):
            raise ValueError(
                f"x has shape {x.shape}: ENet halves (*batch, H, W, channels) three times, the last two times "
                "exactly, so H and W must be 7, 8, 15, 16, ...: a multiple of 8, or one less"
            )
        size = x.shape[-3:-1]
        x = self.initial_block(x)
        x, indices1 = self.downsample1_0(x)
        x = self._run(self.first, x)
        x, indices2 = self.downsample2_0(x)
        x = self._run(self.third, self._run(self.second, x))
        x = self._run(self.fourth, self.upsample4_0(x, indices2))
        x = self._run(self.fifth, self.upsample5_0(x, indices1))
        return self.transposed_conv(x, output_size=size)
