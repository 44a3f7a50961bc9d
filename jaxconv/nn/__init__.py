"""Flax NNX layers for dense prediction: parameters plus one call down to jaxconv's operations.

The same two convolutions for flax.linen are in `jaxconv.nn.linen`. Needs the extra "nn" (flax).
"""

from jaxconv import _flax as _flax
from jaxconv.nn.blocks import ConvBlock, PReLU, batch_norm
from jaxconv.nn.convolution import Conv, ConvTranspose
from jaxconv.nn.dense import ASPP, DUC, AdaptivePool, Upsample, conv_norm, norm, separable_conv
from jaxconv.nn.folding import fold_batch_norm, foldable
from jaxconv.nn.pooling import AvgPool, MaxPool, MaxUnpool
from jaxconv.nn.spectral import OperatorNorm
from jaxconv.nn.streaming import CausalConv, CausalConvTranspose, WeightNorm

__all__ = [
    "ASPP",
    "AdaptivePool",
    "AvgPool",
    "CausalConv",
    "CausalConvTranspose",
    "Conv",
    "ConvBlock",
    "ConvTranspose",
    "DUC",
    "MaxPool",
    "MaxUnpool",
    "OperatorNorm",
    "PReLU",
    "Upsample",
    "WeightNorm",
    "batch_norm",
    "conv_norm",
    "fold_batch_norm",
    "foldable",
    "norm",
    "separable_conv",
]
