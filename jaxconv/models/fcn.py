"""Fully convolutional networks: FCN-32s, -16s and -8s on VGG-16, and the same skips on any encoder."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Unpack

import jax
from flax import nnx
from jax import Array

from jaxconv.initializers import bilinear
from jaxconv.models._network import IMAGENET_MEAN, IMAGENET_STD, Decoding, Network, spatial
from jaxconv.models.vgg import VGG16
from jaxconv.nn import Conv, ConvTranspose, MaxPool
from jaxconv.nn._settings import Types
from jaxconv.nn.dense import transpose_to

# Where the published networks, which pad the image by 100, cut the skips and the result.
_CROPS = {8: (5, 9, 31), 16: (5, 27), 32: (19,)}
_LAST = {8: "upscore8", 16: "upscore16", 32: "upscore"}


class FCN(Network):
    """FCN-32s, -16s or -8s: VGG-16 with its linear layers as convolutions, scores of three strides added up.

    ============== ============================================================
    layers         what
    ============== ============================================================
    encoder        VGG-16 up to pool5
    fc6, fc7       7x7 and 1x1 convolutions of 4096 channels
    score_fr       1x1 to the classes, stride 32
    upscore2       transposed 4x4 stride 2, plus score_pool4 (16s, 8s)
    upscore_pool4  transposed 4x4 stride 2, plus score_pool3 (8s)
    upscore8       transposed 16x16 stride 8 (8s); upscore16 (16s), upscore (32s)
    ============== ============================================================

    Args:
        classes: channels of the output.
        in_channels: channels of the input.
        stride: 8, 16 or 32, of the last upsampling.
        padding: of the first convolution: 1 keeps features and pixels aligned; 100 is the published network, whose
            weights expect its cropped skips.
        widths: channels of the stages of VGG-16.
        hidden: channels of fc6 and fc7.
        dtype, param_dtype, rngs: as for every layer.

    Returns:
        Called with x (*batch, H, W, in_channels), of any size: logits (*batch, H, W, classes). Transposed convolutions
        begin as bilinear interpolation.

    Example:
        >>> from flax import nnx
        >>> nnx.eval_shape(lambda: FCN(21, rngs=nnx.Rngs(0))).parameter_count
        134489759

    Source: Long, Shelhamer, Darrell 2015 (arXiv:1411.4038), section 4; its table of FCN-VGG16 gives 134M.
    """

    mean, std = IMAGENET_MEAN, IMAGENET_STD
    heads = ("score_fr", "score_pool4", "score_pool3", "upscore2", "upscore_pool4", "upscore8", "upscore16", "upscore")

    def __init__(
        self, classes: int, *, in_channels: int = 3, stride: int = 8, padding: int = 1,
        widths: Sequence[int] = (64, 128, 256, 512, 512), hidden: int = 4096, **types: Unpack[Types],
    ):  # fmt: skip
        if stride not in _CROPS or padding not in (1, 100):
            raise ValueError(f"stride={stride} must be 8, 16 or 32, and padding={padding} 1 or 100")
        self._keep(locals())
        self.stride, self.published = stride, padding == 100
        self.encoder = VGG16(0, in_channels=in_channels, widths=widths, **types)
        first = Conv(in_channels, widths[0], (3, 3), padding=padding, **types)
        pool, layers = MaxPool((2, 2), ceil_mode=True), self.encoder.features.layers[1:]
        self.encoder.features = nnx.Sequential(first, *(pool if isinstance(x, MaxPool) else x for x in layers))
        self.fc6 = Conv(widths[4], hidden, (7, 7), padding=0 if self.published else 3, **types)
        self.fc7 = Conv(hidden, hidden, (1, 1), **types)
        self.score_fr = Conv(hidden, classes, (1, 1), **types)

        def up(factor: int) -> ConvTranspose:
            options: dict[str, Any] = {"stride": factor, "use_bias": False, "kernel_init": bilinear(), **types}
            padding = 0 if self.published else factor // 2
            return ConvTranspose(classes, classes, (2 * factor, 2 * factor), padding=padding, **options)

        self.ups, self.last = ("upscore2", "upscore_pool4")[: len(_CROPS[stride]) - 1], _LAST[stride]
        for name, stage in zip(self.ups, (4, 3), strict=False):
            setattr(self, f"score_pool{stage}", Conv(widths[stage - 1], classes, (1, 1), **types))
            setattr(self, name, up(2))
        setattr(self, self.last, up(stride))

    def __call__(self, x: Array) -> Array:
        """Logits (*batch, H, W, classes) of x (*batch, H, W, in_channels)."""
        size = spatial(x)
        levels = self.encoder.levels(x)
        y = self.score_fr(jax.nn.relu(self.fc7(jax.nn.relu(self.fc6(levels[-1])))))
        *cuts, last = _CROPS[self.stride] if self.published else [0] * len(_CROPS[self.stride])
        for name, stage, cut in zip(self.ups, (4, 3), cuts, strict=False):
            # The levels stand before the poolings, the skips after them.
            pool = self.encoder.features.layers[self.encoder.ends[stage - 1]]
            score = getattr(self, f"score_pool{stage}")(pool(levels[stage - 1]))
            y = self._up(name, y, spatial(score))
            y = y + _cut(score, cut, spatial(y))
        return _cut(self._up(self.last, y, size), last, size)

    def _up(self, name: str, y: Array, size: tuple[int, ...]) -> Array:
        """Upsampled to a size, or as the published network does to whatever comes, which is cut then."""
        layer = getattr(self, name)
        return layer(y) if self.published else transpose_to(layer, y, size)


def _cut(x: Array, start: int, size: tuple[int, ...]) -> Array:
    return x[..., start : start + size[0], start : start + size[1], :]


class FCNDecoder(nnx.Module):
    """Scores of the strides from the coarsest down to `finest`, each upsampled to the next and added."""

    def __init__(self, d: Decoding, finest: int):
        # Of each stride the last map, coarsest first.
        places = {s: i for i, s in enumerate(d.strides) if s >= finest}
        self.places = tuple(sorted(places.values(), reverse=True))
        self.scores = nnx.List([d.scores(d.channels[i]) for i in self.places])
        strides = [*(d.strides[i] for i in self.places), 1]
        self.ups = nnx.List([d.upsample(d.classes, a // b) for a, b in itertools.pairwise(strides)])

    def __call__(self, levels: list[Array], image: Array) -> Array:
        y = self.scores[0](levels[self.places[0]])
        for score, up, place in zip(self.scores[1:], self.ups[:-1], self.places[1:], strict=True):
            y = score(levels[place]) + up(y, spatial(levels[place]), levels[place])
        return self.ups[-1](y, spatial(image), image)
