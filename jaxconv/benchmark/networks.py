"""Which networks of `jaxconv.models` are measured, at which sizes."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Network:
    """A registered network and its input.

    Attributes:
        name: in tables and records.
        model: key of `jaxconv.models.REGISTRY`.
        shape: of the input, (batch, *spatial, channels); of a DCGAN generator (batch, latent).
        settings: (argument of the model, value), values that JSON has.
    """

    name: str
    model: str
    shape: tuple[int, ...]
    settings: tuple[tuple[str, Any], ...]

    @property
    def rank(self) -> int:
        """Spatial axes; images come out of a vector too."""
        return max(len(self.shape) - 2, 1) if self.model != "dcgan_generator" else 2


def _of(name: str, model: str, *shape: int, **settings: Any) -> Network:
    return Network(name, model, shape, tuple(settings.items()))


_FCN = ("fcn32s", "fcn16s", "fcn8s")
# Sizes that a training step of takes a tenth of a second or so for, on two cores.
ON_CPU = (
    _of("ENet, 12 classes", "enet", 1, 192, 256, 3, classes=12),
    _of("ESPNet q=8, 20 classes", "espnet", 1, 192, 256, 3, classes=20, q=8),
    _of("UNet 16..256", "unet", 2, 96, 96, 3, in_channels=3, classes=8, widths=(16, 32, 64, 128, 256)),
    _of("UNet 3-D 8..32", "unet", 1, 16, 32, 32, 1, in_channels=1, classes=8, rank=3, widths=(8, 16, 32)),
    _of("DCGAN generator, width 32", "dcgan_generator", 8, 100, width=32),
    _of("DCGAN discriminator, width 32", "dcgan_discriminator", 8, 64, 64, 3, width=32),
    _of("FSRCNN x2", "fsrcnn", 1, 64, 64, 3),
    _of("HiFi-GAN V2", "hifigan", 1, 32, 80, width=128),
    _of("WaveNet 2 x 10", "wavenet", 1, 2000, 256, blocks=2),
    _of("VGG-16, hidden 256", "vgg16", 1, 64, 64, 3, classes=10, hidden=256),
    _of("VGG-16-BN, hidden 256", "vgg16_bn", 1, 64, 64, 3, classes=10, hidden=256),
    *(_of(f"ResNet-{depth}", f"resnet{depth}", 1, 96, 96, 3, classes=10) for depth in (18, 34, 50, 101)),
    _of("MobileNetV2", "mobilenetv2", 1, 96, 96, 3, classes=10),
    _of("FCN-8s, hidden 256", "fcn", 1, 64, 64, 3, classes=21, hidden=256),
    _of("SegNet", "segnet", 1, 64, 64, 3, classes=12),
    _of("DeepLabV3, ResNet-50", "deeplabv3", 2, 64, 64, 3, classes=21),
    _of("DeepLabV3+, MobileNetV2", "deeplabv3plus", 2, 96, 96, 3, classes=21, encoder="mobilenetv2"),
    _of("DUC-HDC, ResNet-101", "duc", 1, 64, 64, 3, classes=19),
    _of("context module, VGG-16", "context", 1, 64, 64, 3, classes=21, encoder="vgg16"),
    *(_of(f"{a.upper()}, ResNet-18", a, 1, 64, 64, 3, classes=21, encoder="resnet18") for a in _FCN),
    _of("U-Net over ResNet-18", "segmentation", 1, 64, 64, 3, architecture="unet", classes=21, encoder="resnet18"),
)
ON_GPU = (
    _of("ENet, 12 classes", "enet", 8, 368, 480, 3, classes=12),
    _of("UNet 64..1024", "unet", 16, 256, 256, 3, in_channels=3, classes=8, widths=(64, 128, 256, 512, 1024)),
    _of("DeepLabV3, ResNet-50", "deeplabv3", 4, 256, 256, 3, classes=21),
    _of("UNet 3-D 32..128", "unet", 2, 64, 64, 64, 1, in_channels=1, classes=8, rank=3, widths=(32, 64, 128)),
    _of("DCGAN generator", "dcgan_generator", 128, 100, width=128),
    _of("HiFi-GAN V1", "hifigan", 16, 32, 80),
    _of("WaveNet 4 x 10", "wavenet", 4, 8000, 256),
)


def scaled(net: Network, factor: int) -> Network:
    """The same network with a larger batch."""
    return dataclasses.replace(net, shape=(net.shape[0] * factor, *net.shape[1:]))
