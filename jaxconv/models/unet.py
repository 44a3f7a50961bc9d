"""A U-Net of any spatial rank, depth and width, whose output has exactly the input's size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxconv.models._network import Network
from jaxconv.nn import Conv, ConvBlock, ConvTranspose, MaxPool
from jaxconv.nn._settings import Types


class UNet(Network):
    """U-Net: an encoder of halving resolution, a transposed-convolution decoder, and a skip connection at each level.

    Each level has two convolution blocks (k = 3, padding 1). Going down, max-pooling by 2; going up, a transposed
    convolution of kernel 2 and stride 2 whose `output_size` is the skip's size, so that odd sizes come back exactly.

    Args:
        in_channels: channels of the input.
        classes: channels of the output.
        widths: channels of each level, from the finest; its length is the number of levels.
        rank: number of spatial axes.
        batch_norm: whether each convolution is followed by batch normalisation (and then has no bias).
        dtype, param_dtype, rngs: as for every layer.

    Returns:
        Called with x (*batch, *spatial, in_channels): logits (*batch, *spatial, classes). `train()` and `eval()` switch
        the batch normalisation, as in every NNX module.

    Raises:
        ValueError: numbers below 1; at the call, an input with an axis shorter than ``2**(levels - 1)``.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> model = UNet(1, 4, widths=(4, 8), rngs=nnx.Rngs(0))
        >>> nnx.jit(lambda model, x: model(x))(model, jnp.ones((1, 9, 7, 1))).shape
        (1, 9, 7, 4)
        >>> model.config["widths"]
        [4, 8]

    Source: Ronneberger et al. 2015 (arXiv:1505.04597); batch normalisation and equal sizes: Cicek et al. 2016
    (arXiv:1606.06650).
    """

    heads = ("head",)

    def __init__(
        self, in_channels: int, classes: int, *, widths: Sequence[int] = (16, 32, 64, 128), rank: int = 2,
        batch_norm: bool = True, **types: Unpack[Types],
    ):  # fmt: skip
        self._keep(locals())
        if not len(widths):
            raise ValueError("widths=() has no level; at least one is needed")
        widths = tuple(widths)
        self.in_channels, self.classes, self.widths, self.rank = in_channels, classes, widths, rank

        def level(into: int, out: int) -> nnx.Sequential:
            options: dict[str, Any] = {"padding": 1, "normalise": batch_norm, **types}
            kernel = (3,) * rank
            return nnx.Sequential(ConvBlock(into, out, kernel, **options), ConvBlock(out, out, kernel, **options))

        self.pool = MaxPool((2,) * rank)
        self.encoder = nnx.List([level(i, o) for i, o in zip((in_channels, *widths[:-1]), widths, strict=True)])
        coarse_to_fine = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.ups = nnx.List([ConvTranspose(i, o, (2,) * rank, stride=2, **types) for i, o in coarse_to_fine])
        self.decoder = nnx.List([level(2 * o, o) for _, o in coarse_to_fine])
        self.head = Conv(widths[0], classes, (1,) * rank, **types)

    def __call__(self, x: Array) -> Array:
        """Logits (*batch, *spatial, classes) of x (*batch, *spatial, in_channels)."""
        sizes, least = x.shape[-self.rank - 1 : -1], 2 ** (len(self.widths) - 1)
        if x.ndim < self.rank + 1 or min(sizes) < least:
            raise ValueError(
                f"x has shape {x.shape}; this U-Net of {len(self.widths)} levels needs {self.rank} spatial axes of at "
                f"least {least} elements"
            )
        skips = []
        for i, level in enumerate(self.encoder):
            if i:
                x = self.pool(x)
            x = level(x)
            skips.append(x)
        skips.pop()
        for up, level in zip(self.ups, self.decoder, strict=True):
            skip = skips.pop()
            x = up(x, output_size=skip.shape[-self.rank - 1 : -1])
            x = level(jnp.concatenate([skip, x], axis=-1))
        return self.head(x)
