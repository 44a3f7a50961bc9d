"""The decoders of SegNet and of a U-Net, for the feature maps of any encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxconv.models._network import spatial
from jaxconv.nn import Conv, Upsample, conv_norm


class SegNetDecoder(nnx.Module):
    """Unpooling to the size before each pooling, where its maxima stood, then as many 3x3 convolutions as there.

    Features are not joined: the places of the maxima are all that a level hands over. With VGG-16 and batch
    normalisation as encoder this is SegNet.

    Source: Badrinarayanan et al. 2017 (arXiv:1511.00561), section 3.
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], classes: int, *, how: str, align_corners: bool,
        kind: str, types: dict[str, Any],
    ):  # fmt: skip
        options: dict[str, Any] = {"align_corners": align_corners, "types": types}
        ups, stages, into = [], [], channels[-1]
        for i in range(len(channels) - 2, -1, -1):
            width, out = channels[i], channels[max(i - 1, 0)]
            ups.append(Upsample(into, strides[i + 1] // strides[i], how, **options))
            rows = [conv_norm(into, width, (3, 3), kind=kind, types=types)]
            if i > 1:  # three convolutions where VGG-16 has three
                rows.append(conv_norm(width, width, (3, 3), kind=kind, types=types))
            if i or strides[0] > 1:  # else the head is the last of them
                rows.append(conv_norm(width, out, (3, 3), kind=kind, types=types))
            stages.append(nnx.Sequential(*rows))
            into = out
        self.ups = nnx.List(ups)
        self.stages = nnx.List(stages)
        self.head = Conv(channels[0], classes, (3, 3), padding=1, **types)
        self.last = Upsample(classes, strides[0], how, **options)

    def __call__(self, levels: list[Array], image: Array) -> Array:
        """Logits of the image's size."""
        x = levels[-1]
        for up, stage, guide in zip(self.ups, self.stages, levels[-2::-1], strict=True):
            x = stage(up(x, spatial(guide), guide))
        return self.last(self.head(x), spatial(image), image)


class UNetDecoder(nnx.Module):
    """Upsampling to each finer level, joined with it, then two 3x3 convolutions; no level is cropped.

    Source: Ronneberger et al. 2015 (arXiv:1505.04597).
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], classes: int, *, widths: Sequence[int], how: str,
        align_corners: bool, kind: str, types: dict[str, Any],
    ):  # fmt: skip
        places = list(range(len(channels) - 2, -1, -1))
        finer = [(channels[i], strides[i]) for i in places] + ([(0, 1)] if strides[0] > 1 else [])
        if len(widths) < len(finer):
            raise ValueError(f"widths={tuple(widths)} must have one number for each of the {len(finer)} levels")
        last, stride, ups, blocks = channels[-1], strides[-1], [], []
        for (skip, fine), width in zip(finer, widths, strict=False):
            ups.append(Upsample(last, stride // fine, how, align_corners=align_corners, types=types))
            blocks.append(_DoubleConv(last + skip, width, kind, types))
            last, stride = width, fine
        self.ups, self.blocks = nnx.List(ups), nnx.List(blocks)
        self.head = Conv(last, classes, (3, 3), padding=1, **types)

    def __call__(self, levels: list[Array], image: Array) -> Array:
        """Logits of the image's size."""
        x, skips = levels[-1], levels[-2::-1]
        for i, (up, block) in enumerate(zip(self.ups, self.blocks, strict=True)):
            guide = skips[i] if i < len(skips) else image
            x = up(x, spatial(guide), guide)
            x = block(jnp.concatenate([x, guide], axis=-1) if i < len(skips) else x)
        return self.head(x)


class _DoubleConv(nnx.Module):
    def __init__(self, into: int, out: int, kind: str, types: dict[str, Any]):
        self.conv1 = conv_norm(into, out, (3, 3), kind=kind, types=types)
        self.conv2 = conv_norm(out, out, (3, 3), kind=kind, types=types)

    def __call__(self, x: Array) -> Array:
        return self.conv2(self.conv1(x))
