"""Flax NNX layers for dense prediction: parameters plus one call down to jaxconv's operations.

The same two convolutions for flax.linen are in `jaxconv.nn.linen`. Needs the extra "nn" (flax).
"""

from jaxconv.nn.blocks import ConvBlock, PReLU, batch_norm
from jaxconv.nn.convolution import Conv, ConvTranspose
from jaxconv.nn.folding import fold_batch_norm, foldable
from jaxconv.nn.pooling import AvgPool, MaxPool, MaxUnpool
from jaxconv.nn.spectral import OperatorNorm

__all__ = [
    "AvgPool",
    "Conv",
    "ConvBlock",
    "ConvTranspose",
    "MaxPool",
    "MaxUnpool",
    "OperatorNorm",
    "PReLU",
    "batch_norm",
    "fold_batch_norm",
    "foldable",
]
