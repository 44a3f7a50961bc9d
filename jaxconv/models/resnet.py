"""ResNet-18, -34, -50 and -101, with dilation instead of stride on request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxconv.models._network import Encoder, stage_rates
from jaxconv.nn import Conv, MaxPool, conv_norm, norm as make_norm
from jaxconv.nn._settings import Types

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class Block(nnx.Module):
    """Two 3x3 convolutions, or 1x1 - 3x3 - 1x1 to four times the channels, added to the input."""

    def __init__(self, into: int, width: int, out: int, stride: int, rate: int, kind: str, types: Types):
        def conv(a: int, b: int, k: int, **settings: Any) -> Conv:
            return Conv(a, b, (k, k), use_bias=False, **settings, **types)

        three: dict[str, Any] = {"stride": stride, "padding": rate, "dilation": rate}
        self.deep = out != width
        if self.deep:
            self.conv1, self.bn1 = conv(into, width, 1), make_norm(kind, width, **types)
            self.conv2, self.bn2 = conv(width, width, 3, **three), make_norm(kind, width, **types)
            self.conv3, self.bn3 = conv(width, out, 1), make_norm(kind, out, **types)
        else:
            self.conv1, self.bn1 = conv(into, width, 3, **three), make_norm(kind, width, **types)
            self.conv2, self.bn2 = conv(width, out, 3, padding=rate, dilation=rate), make_norm(kind, out, **types)
        self.downsample = nnx.data(None)
        if stride > 1 or into != out:
            options: dict[str, Any] = {"activation": None, "use_bias": False, "types": types}
            self.downsample = conv_norm(into, out, (1, 1), stride=stride, kind=kind, **options)

    def __call__(self, x: Array) -> Array:
        """(*batch, ceil(H/stride), ceil(W/stride), out) of x (*batch, H, W, into)."""
        y = self.bn2(self.conv2(jax.nn.relu(self.bn1(self.conv1(x)))))
        if self.deep:
            y = self.bn3(self.conv3(jax.nn.relu(y)))
        return jax.nn.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(Encoder):
    """ResNet.

    ======= ==================================== ==========================================
    layer   output                               18, 34: two 3x3; 50, 101: 1x1, 3x3, 1x1
    ======= ==================================== ==========================================
    conv1   stride 2, 64                         7x7
    layer1  stride 4, 64 (256)                   2, 3, 3, 3 blocks after a 3x3 max-pooling
    layer2  stride 8, 128 (512)                  2, 4, 4, 4
    layer3  stride 16, 256 (1024)                2, 6, 6, 23
    layer4  stride 32, 512 (2048)                2, 3, 3, 3
    fc      classes, of the mean over the image
    ======= ==================================== ==========================================

    Args:
        depth: 18, 34, 50 or 101.
        classes: outputs of the head; 0 for an encoder without head.
        in_channels: channels of the input.
        output_stride: 32, 16 or 8; below 32 the last stages keep their resolution and dilate instead, the first block
            of each at the rate before, as torchvision's ``replace_stride_with_dilation``.
        multi_grid: factors of the dilation of the blocks of layer4, in turn.
        rates: dilations of the blocks of each of the four stages, in turn, instead of those that follow from
            `output_stride`: ((1,), (1,), (1, 2, 5, 9), (5, 9, 17)) is hybrid dilated convolution.
        width: channels of the first stage.
        norm: name of the normalisation, see `jaxconv.nn.norm`.
        dtype, param_dtype, rngs: as for every layer.

    Returns:
        Called with x (*batch, H, W, in_channels): logits (*batch, classes), or the last feature map without a head.

    Example:
        >>> from flax import nnx
        >>> nnx.eval_shape(lambda: ResNet(50, rngs=nnx.Rngs(0))).parameter_count
        25557032

    Source: He et al. 2016 (arXiv:1512.03385), table 1; the stride of a bottleneck stands at its 3x3 convolution, as in
        torchvision, whose resnet50 has this count. Dilation: Yu et al. 2017 (arXiv:1705.09914); multi-grid: Chen et al.
        2017 (arXiv:1706.05587); hybrid rates: Wang et al. 2018 (arXiv:1702.08502).
    """

    stem = "conv1"
    heads = ("fc",)

    def __init__(
        self, depth: int = 50, classes: int = 1000, *, in_channels: int = 3, output_stride: int = 32,
        multi_grid: Sequence[int] = (1, 1, 1), rates: Sequence[Sequence[int]] | None = None, width: int = 64,
        norm: str = "batch", **types: Unpack[Types],
    ):  # fmt: skip
        if depth not in BLOCKS:
            raise ValueError(f"depth={depth} is not one of {', '.join(map(str, BLOCKS))}")
        self._keep(locals())
        stages = stage_rates(output_stride, (4, 2, 2, 2))
        if rates is not None and len(rates) != 4:
            raise ValueError(f"rates={rates!r} must give the dilations of each of the 4 stages")
        self.conv1 = Conv(in_channels, width, (7, 7), stride=2, padding=3, use_bias=False, **types)
        self.bn1 = make_norm(norm, width, **types)
        self.pool = MaxPool((3, 3), stride=2, padding=1)
        last, expansion, strides, channels = width, 4 if depth >= 50 else 1, [2], [width]
        for stage, (stride, first, rate) in enumerate(stages):
            inner = width * 2**stage
            blocks = []
            for i in range(BLOCKS[depth][stage]):
                dilation = rate if i else first
                if stage == 3 and tuple(multi_grid) != (1, 1, 1):
                    dilation = rate * multi_grid[i % len(multi_grid)]
                if rates is not None:
                    dilation = rates[stage][i % len(rates[stage])]
                s = stride if i == 0 and stage else 1
                blocks.append(Block(last, inner, inner * expansion, s, dilation, norm, types))
                last = inner * expansion
            setattr(self, f"layer{stage + 1}", nnx.Sequential(*blocks))
            strides.append(strides[-1] * (2 if stage == 0 else stride))
            channels.append(last)
        self.strides, self.channels = tuple(strides), tuple(channels)
        self.fc = nnx.Linear(last, classes, **types) if classes else nnx.data(None)

    def levels(self, x: Array) -> list[Array]:
        """Feature maps of conv1 and of each of the four stages."""
        found = [jax.nn.relu(self.bn1(self.conv1(x)))]
        x = self.pool(found[0])
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
            found.append(x)
        return found

    def __call__(self, x: Array) -> Array:
        """Logits (*batch, classes) of x (*batch, H, W, in_channels)."""
        x = self.levels(x)[-1]
        return x if self.fc is None else self.fc(jnp.mean(x, axis=(-3, -2)))
