"""Any encoder under any decoder, each in one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Unpack

from flax import nnx
from jax import Array

from jaxconv.models._network import Decoding, Encoder, Network
from jaxconv.models.deeplab import ContextDecoder, DeepLabV3Decoder, DeepLabV3PlusDecoder, DUCDecoder
from jaxconv.models.fcn import FCNDecoder
from jaxconv.models.mobilenet import MobileNetV2
from jaxconv.models.resnet import BLOCKS, ResNet
from jaxconv.models.segnet import SegNetDecoder, UNetDecoder
from jaxconv.models.vgg import VGG16
from jaxconv.nn._settings import Types

ENCODERS = ("vgg16", "vgg16_bn", *(f"resnet{depth}" for depth in BLOCKS), "mobilenetv2")

# Architecture -> its decoder, the output stride and the upsampler that its paper has.
ARCHITECTURES: dict[str, tuple[Callable[[Decoding], nnx.Module], int, str]] = {
    "context": (ContextDecoder, 8, "bilinear"),
    "deeplabv3": (DeepLabV3Decoder, 8, "bilinear"),
    "deeplabv3plus": (DeepLabV3PlusDecoder, 16, "bilinear"),
    "duc": (DUCDecoder, 8, "shuffle"),
    **{f"fcn{finest}s": (partial(FCNDecoder, finest=finest), 32, "transposed") for finest in (16, 32, 8)},
    "segnet": (SegNetDecoder, 32, "unpool"),
    "unet": (UNetDecoder, 32, "transposed"),
}


def _encoder(name: str, width: float | None, **settings: Any) -> Encoder:
    """An encoder without a head, of a share of the usual channels; a setting that is None is as if not given."""
    if name not in ENCODERS:
        raise ValueError(f"encoder={name!r} is not one of {', '.join(ENCODERS)}")
    share = 1.0 if width is None else width
    settings = {key: value for key, value in settings.items() if value is not None}
    if name.startswith("resnet"):
        return ResNet(int(name[6:]), 0, width=max(int(64 * share), 1), **settings)
    for key in ("multi_grid", "rates"):
        if key in settings:
            raise ValueError(f"{key} is for the ResNets; encoder={name!r} has none")
    if name == "mobilenetv2":
        return MobileNetV2(0, width=share, **settings)
    if settings.pop("norm", "batch") != "batch":
        raise ValueError(f"encoder={name!r} has batch normalisation (vgg16_bn) or none (vgg16)")
    widths = [max(int(w * share), 1) for w in (64, 128, 256, 512, 512)]
    return VGG16(0, batch_norm=name == "vgg16_bn", widths=widths, **settings)


class Segmentation(Network):
    """A segmentation network of any encoder and any decoder.

    ============= ==================================================== =============== ===========
    architecture  decoder                                              output stride   upsampler
    ============= ==================================================== =============== ===========
    fcn32s, 16s,  1x1 scores of strides 32, 16, 8, added up            32              transposed
    fcn8s
    segnet        unpooling and 3x3 convolutions, no joined features   32              unpool
    unet          upsampling, joined with each level, 3x3 convolutions 32              transposed
    deeplabv3     ASPP                                                 8               bilinear
    deeplabv3plus separable ASPP, joined with stride 4                 16              bilinear
    duc           dense upsampling convolution                         8               (its own)
    context       scores, then the dilated context module              8               bilinear
    ============= ==================================================== =============== ===========

    Args:
        architecture: name of the decoder.
        classes: channels of the output.
        encoder: "vgg16", "vgg16_bn", "resnet18", "resnet34", "resnet50", "resnet101" or "mobilenetv2".
        in_channels: channels of the input.
        output_stride: of the encoder, 32, 16 or 8, reached by dilation; default: the table's.
        upsampler: see `jaxconv.nn.Upsample`; default: the table's.
        rates: dilations of ASPP (default 12, 24, 36 at output stride 8, else 6, 12, 18), or of the context module
            (default 1, 1, 2, 4, 8, 16, 1).
        encoder_rates: dilations of a ResNet's four stages, see `ResNet`; for "duc" and ResNet-101 the default is the
            paper's hybrid ones.
        multi_grid: of a ResNet.
        encoder_width: share of the encoder's usual channels.
        width: channels of ASPP, or the first of a U-Net's, which then halve at each level.
        norm: name of the normalisation, see `jaxconv.nn.norm`.
        align_corners: of bilinear upsampling.
        dtype, param_dtype, rngs: as for every layer.

    Returns:
        Called with x (*batch, H, W, in_channels), of any size: logits (*batch, H, W, classes).

    Raises:
        ValueError: unknown names, numbers out of range, and settings that a part does not have.

    Example:
        >>> import jax
        >>> from flax import nnx
        >>> make = lambda: Segmentation("deeplabv3plus", 12, encoder="mobilenetv2", in_channels=4, rngs=nnx.Rngs(0))
        >>> x = jax.ShapeDtypeStruct((1, 97, 131, 4), "float32")
        >>> nnx.eval_shape(lambda x: make()(x), x).shape
        (1, 97, 131, 12)

    Source: of each decoder, in its own file.
    """

    heads = ("decoder.head", "decoder.scores", "decoder.last", "decoder.up", "decoder.ups", "decoder.context")

    def __init__(
        self, architecture: str, classes: int, *, encoder: str = "resnet50", in_channels: int = 3,
        output_stride: int | None = None, upsampler: str | None = None, rates: Sequence[int] | None = None,
        encoder_rates: Sequence[Sequence[int]] | None = None, multi_grid: Sequence[int] | None = None,
        encoder_width: float | None = None, width: int = 256, norm: str = "batch", align_corners: bool = False,
        **types: Unpack[Types],
    ):  # fmt: skip
        self._keep(locals(), "encoder_width")
        if architecture not in ARCHITECTURES:
            raise ValueError(f"architecture={architecture!r} is not one of {', '.join(ARCHITECTURES)}")
        decoder, stride, how = ARCHITECTURES[architecture]
        stride, how = output_stride or stride, upsampler or how
        if architecture == "duc" and how != "shuffle":
            raise ValueError(f"upsampler={how!r}: dense upsampling convolution is a shuffle itself")
        if architecture == "duc" and encoder == "resnet101" and encoder_rates is None:
            encoder_rates = ((1,), (1,), (1, 2, 5, 9), (5, 9, 17))
        self.encoder = _encoder(
            encoder, encoder_width, in_channels=in_channels, output_stride=stride, norm=norm, rates=encoder_rates,
            multi_grid=multi_grid, **types,
        )  # fmt: skip
        self.mean, self.std = (self.encoder.mean, self.encoder.std) if in_channels == 3 else ((), ())
        default = (1, 1, 2, 4, 8, 16, 1) if architecture == "context" else (12, 24, 36) if stride == 8 else (6, 12, 18)
        if rates is not None and not (architecture == "context" or architecture.startswith("deeplab")):
            raise ValueError(f"rates={rates!r}: architecture={architecture!r} has no dilated convolutions of its own")
        settings = (tuple(rates or default), width, norm, how, align_corners, types)
        self.decoder: Any = decoder(Decoding(self.encoder.channels, self.encoder.strides, classes, *settings))

    def __call__(self, x: Array) -> Array:
        """Logits (*batch, H, W, classes) of x (*batch, H, W, in_channels)."""
        return self.decoder(self.encoder.levels(x), x)


def segmentation(architecture: str, **settings: Any) -> Segmentation:
    """`Segmentation` by name: ``segmentation("unet", classes=5, encoder="resnet18", rngs=rngs)``.

    Example:
        >>> from flax import nnx
        >>> make = lambda: segmentation("fcn8s", classes=5, encoder="resnet18", encoder_width=0.1, rngs=nnx.Rngs(0))
        >>> nnx.eval_shape(make).encoder.strides
        (2, 4, 8, 16, 32)
    """
    return Segmentation(architecture, **settings)
