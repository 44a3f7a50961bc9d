"""MobileNetV2, with dilation instead of stride on request."""

from __future__ import annotations

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxconv.models._network import Encoder, stage_rates
from jaxconv.nn import conv_norm
from jaxconv.nn._settings import Types
from jaxconv.nn.dense import identity

# Expansion, channels, blocks, stride.
STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


def divisible(channels: float) -> int:
    """The nearest multiple of 8, at least 8 and no less than 90% of `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class InvertedResidual(nnx.Module):
    """1x1 up, depthwise 3x3, 1x1 down without an activation; added to the input where shapes agree."""

    def __init__(self, into: int, out: int, stride: int, rate: int, expansion: int, kind: str, types: Types):
        inner = into * expansion
        more: dict[str, Any] = {"kind": kind, "types": types}
        rows: list[Any] = [conv_norm(into, inner, (1, 1), activation=jax.nn.relu6, **more)] if expansion > 1 else []
        rows.append(
            conv_norm(inner, inner, (3, 3), stride=stride, dilation=rate, groups=inner, activation=jax.nn.relu6, **more)
        )
        rows += conv_norm(inner, out, (1, 1), activation=None, **more).layers
        self.conv = nnx.Sequential(*rows)
        self.adds = stride == 1 and into == out

    def __call__(self, x: Array) -> Array:
        """(*batch, ceil(H/stride), ceil(W/stride), out) of x (*batch, H, W, into)."""
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(Encoder):
    """MobileNetV2.

    ========= ============================================= =========
    stride    blocks                                        level
    ========= ============================================= =========
    2         3x3, 32; 1 x 16                               0
    4         2 x 24                                        1
    8         3 x 32                                        2
    16        4 x 64, 3 x 96                                3
    32        3 x 160, 1 x 320; 1x1, 1280                   4
    head      classes, of the mean over the image
    ========= ============================================= =========

    Args:
        classes: outputs of the head; 0 for an encoder without head.
        in_channels: channels of the input.
        output_stride: 32, 16 or 8; below 32 the last stages keep their resolution and dilate instead.
        width: multiplies all channels, which are then rounded to multiples of 8; the last 1280 are not made fewer.
        norm: name of the normalisation, see `jaxconv.nn.norm`.
        dtype, param_dtype, rngs: as for every layer.

    Returns:
        Called with x (*batch, H, W, in_channels): logits (*batch, classes), or the last feature map without a head.

    Example:
        >>> from flax import nnx
        >>> nnx.eval_shape(lambda: MobileNetV2(rngs=nnx.Rngs(0))).parameter_count
        3504872

    Source: Sandler et al. 2018 (arXiv:1801.04381), table 2; the count is torchvision's mobilenet_v2.
    """

    stem = "features.layers.0.layers.0"
    heads = ("classifier.layers.1",)

    def __init__(
        self, classes: int = 1000, *, in_channels: int = 3, output_stride: int = 32, width: float = 1.0,
        norm: str = "batch", **types: Unpack[Types],
    ):  # fmt: skip
        self._keep(locals(), "width")
        last = divisible(32 * width)
        more: dict[str, Any] = {"kind": norm, "activation": jax.nn.relu6, "types": types}
        layers: list[Any] = [conv_norm(in_channels, last, (3, 3), stride=2, **more)]
        levels, reached = [], 2
        stages = stage_rates(output_stride, (2, *(s for *_, s in STAGES)))[1:]
        for (expansion, out, count, wanted), (stride, first, rate) in zip(STAGES, stages, strict=True):
            if wanted == 2:  # the level before ends here
                levels.append((len(layers), reached, last))
            reached *= stride
            for i in range(count):
                s, d = (stride, first) if i == 0 else (1, rate)
                layers.append(InvertedResidual(last, divisible(out * width), s, d, expansion, norm, types))
                last = divisible(out * width)
        top = divisible(1280 * max(1.0, width))
        layers.append(conv_norm(last, top, (1, 1), **more))
        self.features = nnx.Sequential(*layers)
        self.ends, self.strides, self.channels = zip(*levels, (len(layers), reached, top))
        self.classifier = nnx.Sequential(identity, nnx.Linear(top, classes, **types)) if classes else nnx.data(None)

    def __call__(self, x: Array) -> Array:
        """Logits (*batch, classes) of x (*batch, H, W, in_channels)."""
        x = self.levels(x)[-1]
        return x if self.classifier is None else self.classifier(jnp.mean(x, axis=(-3, -2)))
