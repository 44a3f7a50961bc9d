"""torch.nn.functional by name: channels-first data, PyTorch's weight layouts, arguments, defaults and refusals.

What PyTorch refuses by a RuntimeError is a ValueError here, what it refuses by its argument types a TypeError; the
messages name the values. Indices are int32 where PyTorch has int64.
"""

from jaxconv.dialects.torch.conv import conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d
from jaxconv.dialects.torch.norm import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    adaptive_max_pool3d,
    batch_norm,
    grid_sample,
    group_norm,
    instance_norm,
    layer_norm,
    linear,
    prelu,
)
from jaxconv.dialects.torch.pool import (
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
)
from jaxconv.dialects.torch.rearrange import fold, pad, pixel_shuffle, pixel_unshuffle, unfold
from jaxconv.dialects.torch.resize import interpolate, upsample, upsample_bilinear, upsample_nearest
from jaxconv.dialects.torch.unpool import max_unpool1d, max_unpool2d, max_unpool3d

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "batch_norm",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "fold",
    "grid_sample",
    "group_norm",
    "instance_norm",
    "interpolate",
    "layer_norm",
    "linear",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
    "pad",
    "pixel_shuffle",
    "pixel_unshuffle",
    "prelu",
    "unfold",
    "upsample",
    "upsample_bilinear",
    "upsample_nearest",
]
