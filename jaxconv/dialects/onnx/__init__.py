"""Operators of the ONNX standard by name: inputs by position, attributes by keyword, `opset=None` for the latest.

An operator set that lacks an attribute refuses it. Where the standard's text and its reference implementation part, the
reference's numbers are followed if its own test cases hold them.
"""

from jaxconv.dialects.onnx.conv import Conv, ConvTranspose
from jaxconv.dialects.onnx.grid import GridSample
from jaxconv.dialects.onnx.pool import AveragePool, MaxPool, MaxUnpool
from jaxconv.dialects.onnx.rearrange import Col2Im, DepthToSpace, SpaceToDepth
from jaxconv.dialects.onnx.resize import Resize, Upsample

__all__ = [
    "AveragePool",
    "Col2Im",
    "Conv",
    "ConvTranspose",
    "DepthToSpace",
    "GridSample",
    "MaxPool",
    "MaxUnpool",
    "Resize",
    "SpaceToDepth",
    "Upsample",
]
