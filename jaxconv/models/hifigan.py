"""HiFi-GAN's generator: from a mel spectrogram to a waveform by transposed and dilated 1-D convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxconv.models._network import Network
from jaxconv.nn import Conv, ConvTranspose, WeightNorm
from jaxconv.nn._settings import Types

_leaky = partial(jax.nn.leaky_relu, negative_slope=0.1)


class ResBlock(nnx.Module):
    """Dilated convolutions added to their input: pairs with one of rate 1 behind each (V1, V2), or single ones (V3)."""

    def __init__(self, channels: int, kernel: int, rates: Sequence[int], paired: bool, make: Any):
        def convs(chosen: Sequence[int]) -> nnx.List:
            rows = [make(Conv, channels, channels, kernel, padding=(kernel - 1) * r // 2, dilation=r) for r in chosen]
            return nnx.List(rows)

        self.paired = paired
        if paired:
            self.convs1, self.convs2 = convs(rates), convs([1] * len(rates))
        else:
            self.convs = convs(rates)

    def __call__(self, x: Array) -> Array:
        """As x (*batch, time, channels)."""
        if not self.paired:
            for conv in self.convs:
                x = x + conv(_leaky(x))
            return x
        for first, second in zip(self.convs1, self.convs2, strict=True):
            x = x + second(_leaky(first(_leaky(x))))
        return x


class HiFiGAN(Network):
    """HiFi-GAN's generator, with the attribute names of the published PyTorch weights.

    ========== ==========================================================================
    layer      what (V1)
    ========== ==========================================================================
    conv_pre   7, to 512
    ups        transposed 16, 16, 4, 4, strides 8, 8, 2, 2; channels halve at each
    resblocks  the mean of three after each: kernels 3, 7, 11, rates 1, 3, 5
    conv_post  7, to 1, tanh
    ========== ==========================================================================

    Args:
        mels: channels of the spectrogram.
        width: channels after the first layer (V1 512, V2 128, V3 256).
        strides: of the transposed convolutions; the product is the samples per frame.
        kernels: of the transposed convolutions.
        block_kernels: of the residual blocks.
        block_rates: dilations of each residual block.
        paired: whether each dilated convolution is followed by one of rate 1 (V1, V2; not V3).
        weight_norm: whether every layer keeps its kernel as direction and length, as in training by the paper; loading
            folds the two where it is False.
        dtype, param_dtype, rngs: as for every layer.

    Returns:
        Called with x (*batch, frames, mels): waveforms (*batch, frames * prod(strides), 1) of -1..1.

    Example:
        >>> from flax import nnx
        >>> nnx.eval_shape(lambda: HiFiGAN(rngs=nnx.Rngs(0))).parameter_count
        13926017

    Source: Kong et al. 2020 (arXiv:2010.05646), section 2.2 and table 1 (13.92M for V1).
    """

    input_range = (-11.6, 2.0)  # logarithms of mel magnitudes
    example = (1, 64, 80)

    def __init__(
        self, mels: int = 80, *, width: int = 512, strides: Sequence[int] = (8, 8, 2, 2),
        kernels: Sequence[int] = (16, 16, 4, 4), block_kernels: Sequence[int] = (3, 7, 11),
        block_rates: Sequence[Sequence[int]] = ((1, 3, 5),) * 3, paired: bool = True, weight_norm: bool = False,
        **types: Unpack[Types],
    ):  # fmt: skip
        self._keep(locals())
        if width % (1 << len(strides)):
            raise ValueError(f"width={width} must be a multiple of {1 << len(strides)}: it halves {len(strides)} times")
        for k, s in zip(kernels, strides, strict=True):
            if k < s or (k - s) % 2:
                raise ValueError(f"kernels={kernels} must exceed strides={strides} by even numbers")

        def make(kind: type, into: int, out: int, k: int, **settings: Any) -> Any:
            layer = kind(into, out, (k,), **settings, **types)
            return WeightNorm(layer) if weight_norm else layer

        self.conv_pre = make(Conv, mels, width, 7, padding=3)
        ups, blocks = [], []
        for k, s in zip(kernels, strides, strict=True):
            ups.append(make(ConvTranspose, width, width // 2, k, stride=s, padding=(k - s) // 2))
            width //= 2
            pairs = zip(block_kernels, block_rates, strict=True)
            blocks += [ResBlock(width, kernel, rates, paired, make) for kernel, rates in pairs]
        self.ups, self.resblocks, self.each = nnx.List(ups), nnx.List(blocks), len(block_kernels)
        self.conv_post = make(Conv, width, 1, 7, padding=3)

    def __call__(self, x: Array) -> Array:
        """(*batch, samples, 1) of x (*batch, frames, mels)."""
        x = self.conv_pre(x)
        for i, up in enumerate(self.ups):
            x = up(_leaky(x))
            first, *others = (block(x) for block in self.resblocks[i * self.each : (i + 1) * self.each])
            x = sum(others, first) / self.each
        # The published code uses its framework's default slope here.
        return jnp.tanh(self.conv_post(jax.nn.leaky_relu(x, 0.01)))
