"""VGG-16, with or without batch normalisation, as a classifier and as an encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxconv.models._network import Encoder
from jaxconv.nn import AdaptivePool, Conv, MaxPool, batch_norm as make_norm
from jaxconv.nn._settings import Types
from jaxconv.nn.dense import identity

CONVOLUTIONS = (2, 2, 3, 3, 3)


class VGG16(Encoder):
    """VGG-16: five stages of 3x3 convolutions with a pooling by 2 after each, then three linear layers.

    ====== =========================== ========
    stage  convolutions                stride
    ====== =========================== ========
    1      2 x (3x3, 64)               1
    2      2 x (3x3, 128)              2
    3      3 x (3x3, 256)              4
    4      3 x (3x3, 512)              8
    5      3 x (3x3, 512)              16, 32 after the last pooling
    head   7x7 means, 4096, 4096, classes
    ====== =========================== ========

    Args:
        classes: outputs of the head; 0 for an encoder without head.
        in_channels: channels of the input.
        batch_norm: whether batch normalisation follows each convolution.
        output_stride: 32, 16 or 8; below 32 the last poolings are left out and later convolutions dilated.
        widths: channels of the stages.
        hidden: width of the linear layers.
        dtype, param_dtype, rngs: as for every layer.

    Returns:
        Called with x (*batch, H, W, in_channels): logits (*batch, classes), or the last feature map without a head.

    Example:
        >>> from flax import nnx
        >>> nnx.eval_shape(lambda: VGG16(rngs=nnx.Rngs(0))).parameter_count
        138357544

    Source: Simonyan and Zisserman 2015 (arXiv:1409.1556), configuration D; the count is torchvision's vgg16.
    """

    stem = "features.layers.0"
    heads = ("classifier.layers.6",)

    def __init__(
        self, classes: int = 1000, *, in_channels: int = 3, batch_norm: bool = False, output_stride: int = 32,
        widths: Sequence[int] = (64, 128, 256, 512, 512), hidden: int = 4096, **types: Unpack[Types],
    ):  # fmt: skip
        self._keep(locals())
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride={output_stride} is not one of 8, 16, 32")
        layers: list[Any] = []
        ends, strides, stride, rate, last = [], [], 1, 1, in_channels
        for width, count in zip(widths, CONVOLUTIONS, strict=True):
            for _ in range(count):
                layers.append(Conv(last, width, (3, 3), padding=rate, dilation=rate, **types))
                layers += [*([make_norm(width, **types)] if batch_norm else []), jax.nn.relu]
                last = width
            ends.append(len(layers))
            strides.append(stride)
            pools = stride < output_stride
            stride, rate = (2 * stride, rate) if pools else (stride, 2 * rate)
            layers.append(MaxPool((2, 2)) if pools else identity)
        self.features = nnx.Sequential(*layers)
        self.ends, self.strides, self.channels = (*ends, len(layers)), (*strides, stride), (*widths, last)
        self.classifier = _classifier(49 * last, hidden, classes, types) if classes else nnx.data(None)
        self.pool = AdaptivePool((7, 7))

    def __call__(self, x: Array) -> Array:
        """Logits (*batch, classes) of x (*batch, H, W, in_channels)."""
        x = self.levels(x)[-1]
        if self.classifier is None:
            return x
        # Channels before places, as the linear layers of published weights expect.
        x = jnp.moveaxis(self.pool(x), -1, -3)
        return self.classifier(x.reshape(*x.shape[:-3], -1))


def _classifier(into: int, hidden: int, classes: int, types: Types) -> nnx.Sequential:
    """Numbered as published weights are: the two dropouts, which do nothing in evaluation, have places."""
    first, second = nnx.Linear(into, hidden, **types), nnx.Linear(hidden, hidden, **types)
    relu: Callable[[Array], Array] = jax.nn.relu
    return nnx.Sequential(first, relu, identity, second, relu, identity, nnx.Linear(hidden, classes, **types))
