"""Whole networks, each written once as a function of parameters and a backend, so that nothing but what computes the
convolutions differs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from jaxconv.benchmark import enet

STACK_RATES = (1, 2, 5, 1, 2, 5, 4, 8, 16)
WAVENET_RATES = tuple(2**i for i in range(8))
CLASSES = 8


@dataclasses.dataclass(frozen=True)
class Network:
    """A network to train for one step: what it is, its input and its widths."""

    name: str
    kind: str
    batch: int
    size: tuple[int, ...]
    widths: tuple[int, ...]
    channels: int = 3

    @property
    def rank(self) -> int:
        """Spatial axes."""
        return len(self.size)


ON_CPU = (
    Network("ENet, 12 classes", "enet", 1, (192, 256), (16, 64, 128)),
    Network("U-Net 16..256", "unet", 2, (96, 96), (16, 32, 64, 128, 256)),
    Network("dilated residual stack, 64 channels", "stack", 2, (48, 48), (64,), 64),
    Network("U-Net 3-D 8..32", "unet", 1, (16, 32, 32), (8, 16, 32), 1),
    Network("DCGAN generator 256..32", "dcgan", 8, (4, 4), (256, 128, 64, 32), 100),
    Network("HiFi-GAN-like generator", "hifigan", 1, (32,), (128, 64, 32, 16), 80),
    Network("WaveNet-like stack, 32 channels", "wavenet", 1, (4000,), (32,), 32),
)
ON_GPU = (
    Network("ENet, 12 classes", "enet", 8, (368, 480), (16, 64, 128)),
    Network("U-Net 64..1024", "unet", 16, (256, 256), (64, 128, 256, 512, 1024)),
    Network("dilated residual stack, 256 channels", "stack", 16, (128, 128), (256,), 256),
    Network("U-Net 3-D 32..128", "unet", 2, (64, 64, 64), (32, 64, 128), 1),
    Network("DCGAN generator 1024..128", "dcgan", 128, (4, 4), (1024, 512, 256, 128), 100),
    Network("HiFi-GAN-like generator", "hifigan", 16, (32,), (512, 256, 128, 64), 80),
    Network("WaveNet-like stack, 128 channels", "wavenet", 8, (16000,), (128,), 128),
)


class Backend(Protocol):
    """What a network is written in."""

    def conv(
        self, x: Any, w: Any, *, rate: int = 1, causal: bool = False, stride: int = 1, pad: int | None = None
    ) -> Any:
        """A convolution; without `pad` it keeps the size."""

    def up(self, x: Any, w: Any, stride: int, pad: int, extra: int = 0) -> Any:
        """A transposed convolution; `extra` is its output padding."""

    def relu(self, x: Any) -> Any:
        """max(x, 0)."""

    def halve(self, x: Any) -> Any:
        """2-fold max pooling."""

    def join(self, a: Any, b: Any) -> Any:
        """Channels of both."""

    def prelu(self, x: Any, slope: Any) -> Any:
        """x where it is positive, slope * x elsewhere."""

    def norm(self, x: Any, scale: Any, shift: Any, mean: Any, variance: Any) -> Any:
        """Batch normalisation: by the batch's statistics in training, by the given ones in inference."""

    def pool(self, x: Any) -> tuple[Any, Any]:
        """Max pooling over 3x3 with stride 2 and padding 1, and the positions of the maxima."""

    def unpool(self, x: Any, indices: Any) -> Any:
        """Values put back to the positions of maxima, at twice the size."""

    def more_channels(self, x: Any, count: int) -> Any:
        """Zero channels added at the end."""


# A parameter: what it is, and its shape; a kernel's in jaxconv's layout (*k, in, out) of the forward convolution.
Kernel = tuple[str, tuple[int, ...]]
# What a parameter that is no kernel starts from.
CONSTANTS = {"scale": 1.0, "shift": 0.0, "slope": 0.25, "mean": 0.0, "variance": 1.0}


def kernels(net: Network) -> list[Kernel]:
    """Parameters in the order in which the network uses them."""
    if net.kind == "enet":
        return enet.parameters(net.widths, net.channels, CLASSES)
    return list(
        {"unet": _unet_kernels, "dcgan": _dcgan_kernels, "hifigan": _hifigan_kernels}.get(net.kind, _stack)(net)
    )


def _stack(net: Network) -> Iterator[Kernel]:
    c, wavenet = net.widths[0], net.kind == "wavenet"
    size = (2,) if wavenet else (3,) * net.rank
    for _ in WAVENET_RATES if wavenet else STACK_RATES:
        yield "conv", (*size, c, c)


def _unet_kernels(net: Network) -> Iterator[Kernel]:
    r, last = net.rank, net.channels
    for c in net.widths:
        yield "conv", (*(3,) * r, last, c)
        yield "conv", (*(3,) * r, c, c)
        last = c
    for c in reversed(net.widths[:-1]):
        yield "up", (*(2,) * r, c, last)
        yield "conv", (*(3,) * r, 2 * c, c)
        yield "conv", (*(3,) * r, c, c)
        last = c
    yield "conv", (*(1,) * r, last, CLASSES)


def _dcgan_kernels(net: Network) -> Iterator[Kernel]:
    yield "conv", (3, 3, net.channels, net.widths[0])
    for before, after in zip(net.widths, (*net.widths[1:], 3), strict=True):
        yield "up", (4, 4, after, before)


def _hifigan_kernels(net: Network) -> Iterator[Kernel]:
    yield "conv", (7, net.channels, net.widths[0])
    for (before, after), k in zip(zip(net.widths, net.widths[1:], strict=False), (16, 16, 4), strict=True):
        yield "up", (k, after, before)
        for _ in (1, 3, 5):
            yield "conv", (3, after, after)
    yield "conv", (7, net.widths[-1], 1)


def forward(net: Network, ws: Any, x: Any, b: Backend) -> Any:
    """The network's output."""
    rest = iter(ws)
    if net.kind == "enet":
        return enet.forward(lambda kind, shape: next(rest), x, b, net.widths, net.channels, CLASSES)
    if net.kind in ("stack", "wavenet"):
        causal = net.kind == "wavenet"
        for w, rate in zip(rest, WAVENET_RATES if causal else STACK_RATES, strict=True):
            x = x + b.relu(b.conv(x, w, rate=rate, causal=causal))
        return x
    if net.kind == "dcgan":
        x = b.relu(b.conv(x, next(rest)))
        for level, w in enumerate(rest):
            x = b.up(x, w, 2, 1)
            x = x if level == len(net.widths) - 1 else b.relu(x)
        return x
    if net.kind == "hifigan":
        x = b.conv(x, next(rest))
        for stride, pad in ((8, 4), (8, 4), (2, 1)):
            x = b.up(b.relu(x), next(rest), stride, pad)
            for rate in (1, 3, 5):
                x = x + b.conv(b.relu(x), next(rest), rate=rate)
        return b.conv(b.relu(x), next(rest))
    skips: list[Any] = []
    for level in range(len(net.widths)):
        x = b.halve(x) if level else x
        for _ in range(2):
            x = b.relu(b.conv(x, next(rest)))
        skips.append(x)
    skips.pop()
    while skips:
        x = b.join(skips.pop(), b.up(x, next(rest), 2, 0))
        for _ in range(2):
            x = b.relu(b.conv(x, next(rest)))
    return b.conv(x, next(rest))


def inputs(net: Network, dtype: str, flipped: bool) -> tuple[list[Any], Any]:
    """Parameters, kernels random, and a random input; `flipped` stores transposed kernels as flax does."""
    rng = np.random.default_rng(0)
    found = []
    for kind, shape in kernels(net):
        if kind in CONSTANTS:
            found.append(jnp.full(shape, CONSTANTS[kind], dtype))
            continue
        fan = math.prod(shape[:-1]) if kind == "conv" else shape[-1] * 2
        w = rng.standard_normal(shape).astype(np.float32) / np.sqrt(fan)
        if flipped and kind == "up":
            w = np.swapaxes(w[(slice(None, None, -1),) * net.rank], -1, -2)
        found.append(jnp.asarray(w, dtype))
    return found, jnp.asarray(rng.standard_normal((net.batch, *net.size, net.channels)), dtype)
