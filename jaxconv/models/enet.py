"""ENet, the real-time segmentation network, with the attribute names that its published PyTorch weights have."""

from __future__ import annotations

from typing import Any, Unpack

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxconv.models._network import Network, make_prelu, spatial
from jaxconv.nn import Conv, ConvTranspose, MaxPool, MaxUnpool, batch_norm, conv_norm
from jaxconv.nn._settings import Types

# Second stage, repeated as the third: kind of the 3x3 step and its dilation.
_STAGE = (
    ("regular", 1), ("dilated", 2), ("asymmetric", 1), ("dilated", 4),
    ("regular", 1), ("dilated", 8), ("asymmetric", 1), ("dilated", 16),
)  # fmt: skip


def _row(into: int, out: int, kernel_size: tuple[int, int], types: Types, **settings: Any) -> nnx.Sequential:
    """A convolution without bias, batch normalisation and one shared PReLU."""
    return conv_norm(into, out, kernel_size, activation=make_prelu(1, types), types=types, **settings)


class InitialBlock(nnx.Module):
    """Halves the resolution: a strided convolution of 13 channels beside max-pooling of the 3 input channels."""

    def __init__(self, in_channels: int, channels: int, types: Types):
        self.pool = MaxPool((3, 3), stride=2, padding=1)
        convolved: dict[str, Any] = {"stride": 2, "padding": 1, "use_bias": False, **types}
        self.main_branch = Conv(in_channels, channels - in_channels, (3, 3), **convolved)
        self.batch_norm = batch_norm(channels, **types)
        self.out_prelu = make_prelu(channels, types)

    def __call__(self, x: Array) -> Array:
        """(*batch, ceil(H/2), ceil(W/2), channels) of x (*batch, H, W, in_channels)."""
        return self.out_prelu(self.batch_norm(jnp.concatenate([self.main_branch(x), self.pool(x)], axis=-1)))


class Bottleneck(nnx.Module):
    """1x1 down to a quarter of the channels, one step (3x3, dilated 3x3, or 5x1 then 1x5), 1x1 back; added to the
    input."""

    def __init__(self, channels: int, kind: str, dilation: int, types: Types):
        inner = channels // 4
        self.ext_conv1 = _row(channels, inner, (1, 1), types)
        if kind == "asymmetric":
            rows = [_row(inner, inner, kernel_size, types) for kernel_size in ((5, 1), (1, 5))]
            self.ext_conv2 = nnx.Sequential(*rows[0].layers, *rows[1].layers)
        else:
            self.ext_conv2 = _row(inner, inner, (3, 3), types, dilation=dilation)
        self.ext_conv3 = _row(inner, channels, (1, 1), types)
        self.out_prelu = make_prelu(channels, types)

    def __call__(self, x: Array) -> Array:
        """(*batch, H, W, channels) of x of the same shape."""
        return self.out_prelu(x + self.ext_conv3(self.ext_conv2(self.ext_conv1(x))))


class Downsampling(nnx.Module):
    """Halves the resolution: max-pooling with indices, zero channels added, beside 2x2 stride 2 - 3x3 - 1x1."""

    def __init__(self, into: int, out: int, types: Types):
        self.added = out - into
        self.pool = MaxPool((3, 3), stride=2, padding=1, return_indices=True)
        self.ext_conv1 = _row(into, into // 4, (2, 2), types, stride=2)
        self.ext_conv2 = _row(into // 4, into // 4, (3, 3), types)
        self.ext_conv3 = _row(into // 4, out, (1, 1), types)
        self.out_prelu = make_prelu(out, types)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """(*batch, H/2, W/2, out) of x (*batch, H, W, into), and where the maxima stood (*batch, H/2, W/2, into)."""
        main, indices = self.pool(x)
        main = jnp.pad(main, [(0, 0)] * (x.ndim - 1) + [(0, self.added)])
        return self.out_prelu(main + self.ext_conv3(self.ext_conv2(self.ext_conv1(x)))), indices


class Upsampling(nnx.Module):
    """Doubles the resolution: 1x1 and max-unpooling with the stored indices, beside 1x1 - transposed 3x3 stride 2 -
    1x1."""

    def __init__(self, into: int, out: int, types: Types):
        inner = into // 4
        self.unpool = MaxUnpool()
        self.main_conv1 = conv_norm(into, out, (1, 1), activation=None, types=types)
        self.ext_conv1 = _row(into, inner, (1, 1), types)
        up = ConvTranspose(inner, inner, (3, 3), stride=2, padding=1, output_padding=1, use_bias=False, **types)
        self.ext_conv2 = nnx.Sequential(up, batch_norm(inner, **types), make_prelu(1, types))
        self.ext_conv3 = _row(inner, out, (1, 1), types)
        self.out_prelu = make_prelu(out, types)

    def __call__(self, x: Array, indices: Array) -> Array:
        """(*batch, 2H, 2W, out) of x (*batch, H, W, into) and indices (*batch, H, W, out)."""
        main = self.unpool(self.main_conv1(x), indices, [2 * n for n in spatial(x)])
        return self.out_prelu(main + self.ext_conv3(self.ext_conv2(self.ext_conv1(x))))


class ENet(Network):
    """ENet for semantic segmentation: early downsampling, dilated and asymmetric bottlenecks, max-unpooling decoder.

    Args:
        classes: channels of the output.
        in_channels: channels of the input.
        dtype, param_dtype, rngs: as for every layer.

    Returns:
        Called with x (*batch, H, W, in_channels): logits (*batch, H, W, classes). `train()` and `eval()` switch the
        batch normalisation. The dropout of the paper's training, which changes nothing in evaluation, is not part of
        the network.

    Raises:
        ValueError: numbers out of range; at the call, sizes of which half, rounded up, is no multiple of 4.

    Example:
        >>> from flax import nnx
        >>> model = nnx.eval_shape(lambda: ENet(12, rngs=nnx.Rngs(0)))
        >>> model.parameter_count, model.config["classes"]
        (359780, 12)

    Source: Paszke et al. 2016 (arXiv:1606.02147), table 1.
    """

    size_multiple = 8
    heads = ("transposed_conv",)

    def __init__(self, classes: int, *, in_channels: int = 3, **types: Unpack[Types]):
        self._keep(locals())
        if in_channels > 15:
            raise ValueError(f"in_channels={in_channels} must be 1..15: they stand beside convolved ones, 16 in all")
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

    def _add(self, bottlenecks: list[tuple[str, str, int]], channels: int, types: Types) -> tuple[str, ...]:
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
        if x.ndim < 3 or any(n < 7 or -(-n // 2) % 4 for n in spatial(x)):
            raise ValueError(
                f"x has shape {x.shape}: ENet halves (*batch, H, W, channels) three times, the last two times "
                "exactly, so H and W must be 7, 8, 15, 16, ...: a multiple of 8, or one less"
            )
        size = spatial(x)
        x = self.initial_block(x)
        x, indices1 = self.downsample1_0(x)
        x = self._run(self.first, x)
        x, indices2 = self.downsample2_0(x)
        x = self._run(self.third, self._run(self.second, x))
        x = self._run(self.fourth, self.upsample4_0(x, indices2))
        x = self._run(self.fifth, self.upsample5_0(x, indices1))
        return self.transposed_conv(x, output_size=size)
