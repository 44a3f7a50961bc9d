"""DCGAN: a generator of transposed convolutions, and the discriminator that mirrors it."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxconv.models._network import Network
from jaxconv.nn import Conv, ConvTranspose, batch_norm
from jaxconv.nn._settings import Types

_INIT = jax.nn.initializers.normal(0.02)
_leaky = partial(jax.nn.leaky_relu, negative_slope=0.2)


def _doublings(size: int) -> int:
    count = size.bit_length() - 3
    if size < 8 or size != 4 << count:
        raise ValueError(f"size={size} must be 8, 16, 32, ...: a power of two")
    return count


class DCGANGenerator(Network):
    """DCGAN's generator.

    ============ ======================================================
    output       layer
    ============ ======================================================
    4x4, 8 w     transposed 4x4, batch normalisation, ReLU
    8x8 to 32x32 transposed 4x4 stride 2, half the channels each
    64x64, image transposed 4x4 stride 2, tanh
    ============ ======================================================

    Args:
        latent: channels of the noise.
        width: w, channels before the last layer.
        channels: channels of the image.
        size: side of the image, a power of two.
        dtype, param_dtype, rngs: as for every layer.

    Returns:
        Called with z (*batch, latent) or (*batch, h, w, latent): images (*batch, size, size, channels) of -1..1, or
        larger ones for h and w above 1.

    Example:
        >>> from flax import nnx
        >>> nnx.eval_shape(lambda: DCGANGenerator(rngs=nnx.Rngs(0))).parameter_count
        3576704

    Source: Radford et al. 2016 (arXiv:1511.06434), figure 1; sizes and count are those of PyTorch's example.
    """

    input_range = (-3.0, 3.0)
    example = (1, 4, 4, 100)

    def __init__(
        self, latent: int = 100, *, width: int = 64, channels: int = 3, size: int = 64, **types: Unpack[Types]
    ):
        self._keep(locals())
        widths = [width << i for i in range(_doublings(size) - 1, -1, -1)]

        up = partial(ConvTranspose, kernel_size=(4, 4), use_bias=False, kernel_init=_INIT, **types)
        rows: list[Any] = [up(latent, widths[0]), batch_norm(widths[0], **types), jax.nn.relu]
        for into, out in pairwise(widths):
            rows += [up(into, out, stride=2, padding=1), batch_norm(out, **types), jax.nn.relu]
        self.main = nnx.Sequential(*rows, up(widths[-1], channels, stride=2, padding=1), jnp.tanh)

    def __call__(self, z: Array) -> Array:
        """Images of z."""
        latent = dict(self.settings)["latent"]
        if z.shape[-1] != latent:
            raise ValueError(f"z has shape {z.shape}; its last axis must be the {latent} channels of the noise")
        return self.main(z if z.ndim > 2 else z[..., None, None, :])


class DCGANDiscriminator(Network):
    """DCGAN's discriminator: 4x4 convolutions of stride 2 with leaky ReLUs, a 4x4 convolution to one number.

    Args:
        width: channels after the first layer; they double at each.
        channels: channels of the image.
        size: side of the image, a power of two.
        dtype, param_dtype, rngs: as for every layer.

    Returns:
        Called with images (*batch, size, size, channels) of -1..1: logits (*batch, 1, 1, 1), without a sigmoid.

    Example:
        >>> from flax import nnx
        >>> nnx.eval_shape(lambda: DCGANDiscriminator(rngs=nnx.Rngs(0))).parameter_count
        2765568

    Source: Radford et al. 2016 (arXiv:1511.06434); sizes and count are those of PyTorch's example.
    """

    input_range = (-1.0, 1.0)

    def __init__(self, *, width: int = 64, channels: int = 3, size: int = 64, **types: Unpack[Types]):
        self._keep(locals())
        widths = [width << i for i in range(_doublings(size))]

        down = partial(Conv, kernel_size=(4, 4), use_bias=False, kernel_init=_INIT, **types)
        rows: list[Any] = [down(channels, width, stride=2, padding=1), _leaky]
        for into, out in pairwise(widths):
            rows += [down(into, out, stride=2, padding=1), batch_norm(out, **types), _leaky]
        self.main = nnx.Sequential(*rows, down(widths[-1], 1))

    def __call__(self, x: Array) -> Array:
        """Logits of x (*batch, H, W, channels)."""
        return self.main(x)
