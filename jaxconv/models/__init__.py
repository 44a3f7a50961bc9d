"""Networks for dense prediction, generators and encoders, one file each; `REGISTRY` finds them by name. Needs the
extra "nn" (flax).

Every network says its `config` (the arguments that make it again), `size_multiple`, `input_range`, `mean` and `std`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from jaxconv import _flax as _flax
from jaxconv.models._network import Encoder, Network
from jaxconv.models.dcgan import DCGANDiscriminator, DCGANGenerator
from jaxconv.models.enet import ENet
from jaxconv.models.espnet import ESPNet
from jaxconv.models.fcn import FCN
from jaxconv.models.freezing import freeze, trainable
from jaxconv.models.fsrcnn import FSRCNN
from jaxconv.models.hifigan import HiFiGAN
from jaxconv.models.mobilenet import MobileNetV2
from jaxconv.models.resnet import ResNet
from jaxconv.models.segmentation import ARCHITECTURES, ENCODERS, Segmentation, segmentation
from jaxconv.models.unet import UNet
from jaxconv.models.vgg import VGG16
from jaxconv.models.wavenet import WaveNet

REGISTRY: dict[str, Callable[..., Any]] = {
    "dcgan_discriminator": DCGANDiscriminator,
    "dcgan_generator": DCGANGenerator,
    "enet": ENet,
    "espnet": ESPNet,
    "fcn": FCN,
    "fsrcnn": FSRCNN,
    "hifigan": HiFiGAN,
    "mobilenetv2": MobileNetV2,
    **{f"resnet{depth}": partial(ResNet, depth=depth) for depth in (18, 34, 50, 101)},
    "segmentation": Segmentation,
    "unet": UNet,
    "vgg16": VGG16,
    "vgg16_bn": partial(VGG16, batch_norm=True),
    "wavenet": WaveNet,
    # The decoders by name: "unet" is the network of its own encoder above, this one's is "segmentation".
    **{name: partial(Segmentation, architecture=name) for name in ARCHITECTURES if name != "unet"},
    "segnet": partial(Segmentation, architecture="segnet", encoder="vgg16_bn"),
    "duc": partial(Segmentation, architecture="duc", encoder="resnet101"),
}

__all__ = [
    "ENCODERS", "FCN", "FSRCNN", "REGISTRY", "DCGANDiscriminator", "DCGANGenerator", "ENet", "ESPNet", "Encoder",
    "HiFiGAN", "MobileNetV2", "Network", "ResNet", "Segmentation", "UNet", "VGG16", "WaveNet", "freeze", "segmentation",
    "trainable",
]  # fmt: skip
