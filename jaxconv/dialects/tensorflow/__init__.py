"""tf.nn by name (and tf.space_to_batch, tf.batch_to_space, tf.image.resize as `image_resize`): TensorFlow's layouts,
paddings and size rules.

What TensorFlow refuses by an InvalidArgumentError is a ValueError here; the messages name the values. What only its CPU
kernels lack (channels first, dilated or grouped transposes) works. `name` is taken everywhere and not used.
"""

from jaxconv.dialects.tensorflow.conv import (
    atrous_conv2d,
    conv1d,
    conv2d,
    conv3d,
    convolution,
    depthwise_conv2d,
)
from jaxconv.dialects.tensorflow.image import image_resize
from jaxconv.dialects.tensorflow.pool import max_pool_with_argmax
from jaxconv.dialects.tensorflow.rearrange import batch_to_space, depth_to_space, space_to_batch, space_to_depth
from jaxconv.dialects.tensorflow.transpose import (
    atrous_conv2d_transpose,
    conv1d_transpose,
    conv2d_transpose,
    conv3d_transpose,
    conv_transpose,
)

__all__ = [
    "atrous_conv2d",
    "atrous_conv2d_transpose",
    "batch_to_space",
    "conv1d",
    "conv1d_transpose",
    "conv2d",
    "conv2d_transpose",
    "conv3d",
    "conv3d_transpose",
    "conv_transpose",
    "convolution",
    "depth_to_space",
    "depthwise_conv2d",
    "image_resize",
    "max_pool_with_argmax",
    "space_to_batch",
    "space_to_depth",
]
