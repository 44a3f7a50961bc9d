"""The layers that are measured: real ones by name, random ones that no choice was ever tuned on, by seed."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from jaxconv.geometry import ConvGeometry, Padding


@dataclasses.dataclass(frozen=True)
class Layer:
    """One convolution or transposed convolution of a real network.

    `size`, `channels_in` and `channels_out` are those of the layer's own input and output; for a transposed layer
    these are the forward
    convolution's output and input.
    """

    name: str
    batch: int
    size: tuple[int, ...]
    channels_in: int
    channels_out: int
    kernel: tuple[int, ...]
    stride: int = 1
    dilation: int = 1
    padding: Padding = 0
    groups: int = 1
    transposed: bool = False
    output_padding: int = 0

    @property
    def geometry(self) -> ConvGeometry:
        """The forward convolution's geometry."""
        common: dict[str, Any] = {
            "kernel_size": self.kernel,
            "stride": self.stride,
            "dilation": self.dilation,
            "padding": self.padding,
            "groups": self.groups,
        }
        if self.transposed:
            return ConvGeometry.resolve_transpose(input_size=self.size, output_padding=self.output_padding, **common)
        return ConvGeometry.resolve(input_size=self.size, **common)

    @property
    def conv_channels(self) -> tuple[int, int]:
        """(I, O) of the forward convolution."""
        return (self.channels_out, self.channels_in) if self.transposed else (self.channels_in, self.channels_out)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the three tensors of the form: x, w, y."""
        g, (i, o) = self.geometry, self.conv_channels
        return {
            "x": (self.batch, *g.input_size, i),
            "w": (*g.kernel_size, i // g.groups, o),
            "y": (self.batch, *g.output_size, o),
        }

    @property
    def faces(self) -> tuple[str, str, str]:
        """The faces that are this layer's forward pass, its input gradient and its kernel gradient."""
        return ("adjoint", "apply", "kernel") if self.transposed else ("apply", "adjoint", "kernel")

    @property
    def result(self) -> str:
        """The tensor that the layer's forward pass gives: x or y."""
        return "x" if self.transposed else "y"

    @property
    def multiply_adds(self) -> int:
        """Nominal multiply-adds of one face, padding included."""
        g, (i, o) = self.geometry, self.conv_channels
        return self.batch * math.prod(g.output_size) * math.prod(g.kernel_size) * (i // g.groups) * o

    @property
    def elements(self) -> int:
        """Elements of all three tensors: what one face must at least read and write."""
        return sum(math.prod(s) for s in self.shapes.values())


def _t(name, batch, size, cin, cout, k, s, padding, output_padding=0, groups=1) -> Layer:
    rank = len(size)
    return Layer(
        name, batch, size, cin, cout, (k,) * rank, s, 1, padding, groups, transposed=True, output_padding=output_padding
    )


def _c(name, batch, size, cin, cout, k, s=1, d=1, padding=None, groups=1) -> Layer:
    rank = len(size)
    return Layer(
        name, batch, size, cin, cout, (k,) * rank, s, d, d * (k - 1) // 2 if padding is None else padding, groups
    )


# Sizes a CPU finishes in milliseconds; a GPU is given larger batches (see `scaled`).
REAL = (
    _t("DCGAN generator 2, k4 s2", 8, (8, 8), 512, 256, 4, 2, 1),
    _t("DCGAN last layer, k4 s2, 3 channels", 8, (32, 32), 64, 3, 4, 2, 1),
    _t("U-Net up, k2 s2", 2, (32, 32), 256, 128, 2, 2, 0),
    _t("U-Net 3-D up, k2 s2", 1, (8, 16, 16), 128, 64, 2, 2, 0),
    _t("FCN-8s, k16 s8", 1, (32, 32), 21, 21, 16, 8, 4),
    _t("FCN-32s, k64 s32", 1, (8, 8), 21, 21, 64, 32, 16),
    _t("bilinear x2, depthwise k4 s2", 1, (64, 64), 64, 64, 4, 2, 1, groups=64),
    _t("ENet up, k3 s2 p1 op1", 1, (60, 80), 16, 16, 3, 2, 1, 1),
    _t("FSRCNN last layer, k9 s2", 1, (64, 64), 56, 3, 9, 2, 4, 1),
    _t("HiFi-GAN up, k16 s8", 1, (128,), 256, 128, 16, 8, 4),
    _t("grouped transposed, k4 s2, groups 4", 2, (32, 32), 128, 128, 4, 2, 1, groups=4),
    _c("ASPP, r12", 1, (33, 33), 512, 256, 3, d=12),
    _c("ASPP, r18", 1, (33, 33), 512, 256, 3, d=18),
    _c("context module, r4", 1, (64, 64), 64, 64, 3, d=4),
    _c("ENet dilated, r8", 1, (45, 60), 32, 32, 3, d=8),
    _c("ResNet body, 3x3", 4, (32, 32), 128, 128, 3),
    _c("first layer, 3 channels, s2", 2, (128, 128), 3, 32, 3, s=2, padding=1),
    _c("strided body, s2", 2, (64, 64), 64, 128, 3, s=2, padding=1),
    _c("SegNet last layer, 11 classes", 1, (90, 120), 64, 11, 3),
    _c("MobileNet depthwise", 2, (56, 56), 128, 128, 3, groups=128),
    _c("MobileNet depthwise, s2", 2, (56, 56), 128, 128, 3, s=2, padding=1, groups=128),
    _c("depthwise atrous, r4", 1, (65, 65), 128, 128, 3, d=4, groups=128),
    _c("ResNeXt, groups 8", 1, (56, 56), 128, 128, 3, groups=8),
    _c("grouped atrous, groups 8, r2", 1, (65, 65), 128, 128, 3, d=2, groups=8),
    _c("WaveNet, causal k2 r64", 1, (8000,), 64, 64, 2, d=64, padding="CAUSAL"),
    _c("TCN, causal k3 r16", 2, (2000,), 64, 64, 3, d=16, padding="CAUSAL"),
    _c("HiFi-GAN residual, k7 r3", 1, (4096,), 64, 64, 7, d=3),
    _c("U-Net 3-D body", 1, (16, 32, 32), 32, 32, 3),
    _c("V-Net atrous 3-D, r2", 1, (16, 32, 32), 32, 32, 3, d=2),
    _t("ENet head, k3 s2 p1 op1", 1, (180, 240), 16, 12, 3, 2, 1, 1),
    _c("dilated residual stack, r5", 2, (48, 48), 64, 64, 3, d=5),
    _c("dilated residual stack, r16", 2, (48, 48), 64, 64, 3, d=16),
    _c("U-Net top, 16 channels", 2, (96, 96), 16, 16, 3),
    _c("pointwise, 1x1", 2, (56, 56), 128, 256, 1),
)


def random_layers(count: int, seed: int) -> tuple[Layer, ...]:
    """Layers that nobody tuned anything on; a fresh seed gives fresh ones.

    Args:
        count: how many.
        seed: of the generator, printed with the results.

    Returns:
        Layers of 1 to 3 axes with 1e6 to 4e8 nominal multiply-adds.
    """
    rng = np.random.default_rng(seed)
    out: list[Layer] = []
    while len(out) < count:
        rank = int(rng.choice([1, 2, 2, 2, 3]))
        size = tuple(int(v) for v in rng.integers(*{1: (200, 4000), 2: (12, 96), 3: (6, 28)}[rank], rank))
        groups = int(rng.choice([1, 1, 1, 4, 8, 0]))
        cin = int(rng.choice([3, 8, 16, 24, 32, 64, 96, 128, 256]))
        cout = int(rng.choice([3, 8, 16, 24, 32, 64, 96, 128, 256]))
        if groups == 0:
            groups, cout = cin, cin
        k = int(rng.choice([1, 2, 3, 3, 4, 5, 7]))
        transposed = bool(rng.random() < 0.4)
        s = int(rng.choice([1, 2, 2, 4])) if transposed else int(rng.choice([1, 1, 2]))
        d = int(rng.choice([1, 1, 2, 4, 8])) if s == 1 else 1
        if cin % groups or cout % groups:
            continue
        name = f"random {'t' if transposed else 'c'}{rank} {size} {cin}->{cout} k{k} s{s} r{d} g{groups}"
        layer = Layer(
            name, int(rng.choice([1, 2, 4])), size, cin, cout, (k,) * rank, s, d, d * (k - 1) // 2, groups, transposed
        )
        try:
            work = layer.multiply_adds
            layer.geometry  # noqa: B018 - sizes that come out empty are drawn again
        except ValueError:
            continue
        if 1e6 <= work <= 4e8 and layer.elements <= 2e7:
            out.append(layer)
    return tuple(out)


def scaled(layer: Layer, factor: int) -> Layer:
    """The same layer with a larger batch, for machines that this one would not fill."""
    return dataclasses.replace(layer, batch=layer.batch * factor)
