"""The decoders of SegNet and of a U-Net, for the feature maps of any encoder."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxconv.models._network import Decoding, spatial


class SegNetDecoder(nnx.Module):
    """Unpooling to the size before each pooling, where its maxima stood, then as many 3x3 convolutions as there.

    Features are not joined: the places of the maxima are all that a level hands over. With VGG-16 and batch
    normalisation as encoder this is SegNet.

    Source: Badrinarayanan et al. 2017 (arXiv:1511.00561), section 3.
    """

    def __init__(self, d: Decoding):
        ups, stages, into = [], [], d.channels[-1]
        for i in range(len(d.channels) - 2, -1, -1):
            width, out = d.channels[i], d.channels[max(i - 1, 0)]
            ups.append(d.upsample(into, d.strides[i + 1] // d.strides[i]))
            rows = [d.conv(into, width)]
            if i > 1:  # three convolutions where VGG-16 has three
                rows.append(d.conv(width, width))
            if i or d.strides[0] > 1:  # else the head is the last of them
                rows.append(d.conv(width, out))
            stages.append(nnx.Sequential(*rows))
            into = out
        self.ups, self.stages = nnx.List(ups), nnx.List(stages)
        self.head = d.scores(d.channels[0], 3)
        self.last = d.upsample(d.classes, d.strides[0])

    def __call__(self, levels: list[Array], image: Array) -> Array:
        x = levels[-1]
        for up, stage, guide in zip(self.ups, self.stages, levels[-2::-1], strict=True):
            x = stage(up(x, spatial(guide), guide))
        return self.last(self.head(x), spatial(image), image)


class UNetDecoder(nnx.Module):
    """Upsampling to each finer level, joined with it, then two 3x3 convolutions; no level is cropped.

    Source: Ronneberger et al. 2015 (arXiv:1505.04597).
    """

    def __init__(self, d: Decoding):
        finer = [*zip(d.channels[-2::-1], d.strides[-2::-1], strict=True), *([(0, 1)] if d.strides[0] > 1 else [])]
        last, stride, ups, blocks = d.channels[-1], d.strides[-1], [], []
        for i, (skip, fine) in enumerate(finer):
            width = max(d.width >> i, 1)
            ups.append(d.upsample(last, stride // fine))
            blocks.append(_DoubleConv(d, last + skip, width))
            last, stride = width, fine
        self.ups, self.blocks = nnx.List(ups), nnx.List(blocks)
        self.head = d.scores(last, 3)

    def __call__(self, levels: list[Array], image: Array) -> Array:
        x, skips = levels[-1], levels[-2::-1]
        for i, (up, block) in enumerate(zip(self.ups, self.blocks, strict=True)):
            guide = skips[i] if i < len(skips) else image
            x = up(x, spatial(guide), guide)
            x = block(jnp.concatenate([x, guide], axis=-1) if i < len(skips) else x)
        return self.head(x)


class _DoubleConv(nnx.Module):
    def __init__(self, d: Decoding, into: int, out: int):
        self.conv1, self.conv2 = d.conv(into, out), d.conv(out, out)

    def __call__(self, x: Array) -> Array:
        return self.conv2(self.conv1(x))
