"""The decoders of DeepLabV3, DeepLabV3+, DUC-HDC and of dilated convolutions with a context module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from jaxconv.models._network import Decoding, spatial
from jaxconv.nn import ASPP, DUC, Conv
from jaxconv.nn._settings import Types


class DeepLabV3Decoder(nnx.Module):
    """ASPP, a 3x3 convolution, a 1x1 to the classes, upsampling to the image.

    Source: Chen et al. 2017 (arXiv:1706.05587).
    """

    def __init__(self, d: Decoding):
        self.aspp = ASPP(d.channels[-1], d.width, d.rates, kind=d.norm, types=d.types)
        self.conv = d.conv(d.width, d.width)
        self.head = d.scores(d.width)
        self.up = d.upsample(d.classes, d.strides[-1])

    def __call__(self, levels: list[Array], image: Array) -> Array:
        return self.up(self.head(self.conv(self.aspp(levels[-1]))), spatial(image), image)


class DeepLabV3PlusDecoder(nnx.Module):
    """Separable ASPP, upsampled and joined with 48 channels of stride 4, a separable 3x3, a 1x1, upsampling.

    Source: Chen et al. 2018 (arXiv:1802.02611), section 3.1, with one 3x3 convolution after joining.
    """

    def __init__(self, d: Decoding):
        self.place = max(i for i, s in enumerate(d.strides) if s <= 4)
        aspp = ASPP(d.channels[-1], d.width, d.rates, separable=True, kind=d.norm, types=d.types)
        self.aspp = nnx.Sequential(aspp, *d.conv(d.width, d.width, separable=True).layers)
        self.up = d.upsample(d.width, d.strides[-1] // d.strides[self.place])
        self.block1 = d.conv(d.channels[self.place], 48, 1)
        self.block2 = d.conv(48 + d.width, d.width, separable=True)
        self.head = d.scores(d.width)
        self.last = d.upsample(d.classes, d.strides[self.place])

    def __call__(self, levels: list[Array], image: Array) -> Array:
        skip = levels[self.place]
        y = self.up(self.aspp(levels[-1]), spatial(skip), skip)
        y = self.block2(jnp.concatenate([y, self.block1(skip)], axis=-1))
        return self.last(self.head(y), spatial(image), image)


class DUCDecoder(nnx.Module):
    """Dense upsampling convolution from the coarsest map to the image.

    Source: Wang et al. 2018 (arXiv:1702.08502), section 3.1; with an encoder of hybrid rates this is DUC-HDC.
    """

    def __init__(self, d: Decoding):
        self.head = DUC(d.channels[-1], d.classes, d.strides[-1], types=d.types)

    def __call__(self, levels: list[Array], image: Array) -> Array:
        return self.head(levels[-1], spatial(image))


class ContextModule(nnx.Module):
    """3x3 convolutions of growing dilation that keep channels and size, and a 1x1, begun as the identity.

    Args:
        channels: channels of input and output: the classes.
        rates: dilations of the 3x3 convolutions.
        types: dtype, param_dtype and rngs.

    Returns:
        Called with x (*batch, H, W, channels): the same shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> x = jnp.ones((1, 4, 4, 2))
        >>> bool((ContextModule(2, types={"rngs": nnx.Rngs(0)})(x) == x).all())
        True

    Source: Yu and Koltun 2016 (arXiv:1511.07122), table 1 (basic) and equation 4.
    """

    def __init__(self, channels: int, rates: Sequence[int] = (1, 1, 2, 4, 8, 16, 1), *, types: Types):
        options: dict[str, Any] = {"kernel_init": identity_kernel, **types}
        self.convs = nnx.List([Conv(channels, channels, (3, 3), padding=r, dilation=r, **options) for r in rates])
        self.last = Conv(channels, channels, (1, 1), **options)

    def __call__(self, x: Array) -> Array:
        """As x."""
        for conv in self.convs:
            x = jax.nn.relu(conv(x))
        return self.last(x)


def identity_kernel(key: Any, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    """A kernel (*k, channels, channels) whose convolution gives its input back."""
    kernel = np.zeros(shape)
    kernel[tuple(k // 2 for k in shape[:-2])] = np.eye(shape[-2], shape[-1])
    return jnp.asarray(kernel, dtype)


class ContextDecoder(nnx.Module):
    """1x1 to the classes, the context module, upsampling to the image.

    Source: Yu and Koltun 2016 (arXiv:1511.07122), sections 3 and 4.
    """

    def __init__(self, d: Decoding):
        self.head = d.scores(d.channels[-1])
        self.context = ContextModule(d.classes, d.rates, types=d.types)
        self.up = d.upsample(d.classes, d.strides[-1])

    def __call__(self, levels: list[Array], image: Array) -> Array:
        return self.up(self.context(self.head(levels[-1])), spatial(image), image)
