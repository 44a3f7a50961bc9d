"""FSRCNN, super-resolution that works at low resolution and upsamples by one transposed convolution at the end."""

from __future__ import annotations

from typing import Unpack

from jax import Array

from jaxconv.models._network import Network, make_prelu, spatial
from jaxconv.nn import Conv, ConvTranspose
from jaxconv.nn._settings import Types


class FSRCNN(Network):
    """FSRCNN(d, s, m): features 5x5, shrinking 1x1, m maps 3x3, expanding 1x1, transposed convolution 9x9.

    Attribute names are those of published PyTorch weights; a PReLU stands after the extraction, the shrinking, the last
    map and the expansion.

    Args:
        scale: factor of upsampling; the stride of the transposed convolution.
        channels: channels of the image.
        features: d, channels of the extracted features.
        shrunk: s, channels of the maps.
        maps: m, number of 3x3 convolutions.
        dtype, param_dtype, rngs: as for every layer.

    Returns:
        Called with x (*batch, H, W, channels): (*batch, scale*H, scale*W, channels), not clipped.

    Raises:
        ValueError: a number below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> nnx.eval_shape(lambda x: FSRCNN(2, rngs=nnx.Rngs(0))(x), jnp.ones((1, 10, 7, 3))).shape
        (1, 20, 14, 3)

    Source: Dong et al. 2016 (arXiv:1608.00367), section 3.
    """

    def __init__(
        self, scale: int = 2, *, channels: int = 3, features: int = 56, shrunk: int = 12, maps: int = 4,
        **types: Unpack[Types],
    ):  # fmt: skip
        self._keep(locals())
        self.scale, self.channels, self.maps = scale, channels, maps
        self.feature_extract = Conv(channels, features, (5, 5), padding=2, **types)
        self.activation_1 = make_prelu(features, types)
        self.shrink = Conv(features, shrunk, (1, 1), **types)
        self.activation_2 = make_prelu(shrunk, types)
        for i in range(1, maps + 1):
            setattr(self, f"map_{i}", Conv(shrunk, shrunk, (3, 3), padding=1, **types))
        self.activation_3 = make_prelu(shrunk, types)
        self.expand = Conv(shrunk, features, (1, 1), **types)
        self.activation_4 = make_prelu(features, types)
        self.deconv = ConvTranspose(features, channels, (9, 9), stride=scale, padding=4, **types)

    def __call__(self, x: Array) -> Array:
        """(*batch, scale*H, scale*W, channels) of x (*batch, H, W, channels)."""
        size = tuple(self.scale * n for n in spatial(x))
        x = self.activation_2(self.shrink(self.activation_1(self.feature_extract(x))))
        for i in range(1, self.maps + 1):
            x = getattr(self, f"map_{i}")(x)
        x = self.activation_4(self.expand(self.activation_3(x)))
        return self.deconv(x, output_size=size)
