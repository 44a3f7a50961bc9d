"""What every network here says of itself: its settings, the sizes that it takes, what its input should look like."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxconv._checks import as_index, is_sequence, plain
from jaxconv.nn import Conv, PReLU, Upsample, conv_norm
from jaxconv.nn._settings import Types

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Network(nnx.Module):
    """Base of the networks.

    Attributes:
        size_multiple: spatial sizes that the network takes are multiples of this; 1 for any size.
        input_range: (lowest, highest) value of an input, before `mean` and `std`.
        mean, std: subtracted from the input, and divided by after that, one value per channel; () for none.
        heads: dotted paths of the layers whose size follows from the number of classes.
        example: shape of a usual input where it is no image of three channels.
        settings: what `config` is made of.
    """

    size_multiple: ClassVar[int] = 1
    input_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    heads: ClassVar[tuple[str, ...]] = ()
    example: ClassVar[tuple[int, ...] | None] = None

    def _keep(self, given: dict[str, Any], *shares: str) -> None:
        """Remember the arguments of `__init__`, its `locals()`, for `config`.

        Refused are numbers below 1 (no classes are an encoder without a head), fractions but for the named shares, and
        keywords that neither the network nor every layer takes.
        """
        types = given["types"]
        if strange := [name for name in types if name not in Types.__annotations__]:
            raise TypeError(f"{type(self).__name__}.__init__() got an unexpected keyword argument {strange[0]!r}")
        headless = ("classes",) if isinstance(self, Encoder) else ()
        settings = {
            name: value if name in shares else _checked(value, name, 0 if name in headless else 1)
            for name, value in given.items()
            if name not in ("self", "types")
        }
        for name, default in (("dtype", None), ("param_dtype", jnp.float32)):
            dtype = types.get(name, default)
            settings[name] = None if dtype is None else jnp.dtype(dtype).name
        self.settings = tuple(settings.items())

    @property
    def config(self) -> dict[str, Any]:
        """Keyword arguments that make this network again (without parameters), as JSON values."""
        return {name: _plain(value) for name, value in self.settings}

    @property
    def parameter_count(self) -> int:
        """How many numbers train."""
        return sum(p.size for p in jax.tree.leaves(nnx.state(self, nnx.Param)))


class Encoder(Network):
    """A classifier whose feature maps a decoder can take.

    Attributes:
        channels: channels of each of `levels`.
        strides: stride of each of `levels`.
        stem: dotted path of the first convolution.
        features, ends: the layers in one sequence, and where each level ends in it; an encoder built otherwise has
            `levels` of its own.
    """

    mean, std = IMAGENET_MEAN, IMAGENET_STD
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    stem: ClassVar[str] = ""
    features: nnx.Sequential
    ends: tuple[int, ...]

    def levels(self, x: Array) -> list[Array]:
        """Feature maps from fine to coarse of x (*batch, H, W, in_channels)."""
        found, start = [], 0
        for end in self.ends:
            for layer in self.features.layers[start:end]:
                x = layer(x)
            found.append(x)
            start = end
        return found


@dataclasses.dataclass(frozen=True)
class Decoding:
    """What decoders are made from: an encoder's levels, the settings of `Segmentation`, and the layers they share.

    A decoder is called with the levels' feature maps and the image, and gives logits of the image's size.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    classes: int
    rates: tuple[int, ...]
    width: int
    norm: str
    upsampler: str
    align_corners: bool
    types: Types

    def conv(self, into: int, out: int, k: int = 3, *, separable: bool = False) -> nnx.Sequential:
        """k x k, normalisation, ReLU."""
        return conv_norm(into, out, (k, k), kind=self.norm, separable=separable, types=self.types)

    def scores(self, into: int, k: int = 1) -> Conv:
        """k x k to the classes."""
        return Conv(into, self.classes, (k, k), padding=k // 2, **self.types)

    def upsample(self, features: int, factor: int) -> Upsample:
        """By the named way."""
        return Upsample(features, factor, self.upsampler, align_corners=self.align_corners, types=self.types)


def make_prelu(features: int, types: Types) -> PReLU:
    """A slope for each channel, or with one feature one for all; it draws nothing at random."""
    return PReLU(features, dtype=types.get("dtype"), param_dtype=types.get("param_dtype", jnp.float32))


def spatial(x: Array) -> tuple[int, ...]:
    """(H, W) of x (*batch, H, W, channels)."""
    return x.shape[-3:-1]


def stage_rates(output_stride: int, strides: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """(stride, dilation of the first block, dilation of the rest) of each stage, so that the product of strides stays
    at `output_stride`.

    Example:
        >>> stage_rates(8, (4, 2, 2, 2))
        [(4, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4)]

    Source: Chen et al. 2018 (arXiv:1606.00915), section 3.1.
    """
    reached, rate, found = 1, 1, []
    for stride in strides:
        before = rate
        if reached * stride > output_stride:
            rate, stride = rate * stride, 1
        reached *= stride
        found.append((stride, before, rate))
    if reached != output_stride:
        raise ValueError(f"output_stride={output_stride} is not one of 8, 16, 32")
    return found


def _checked(value: Any, name: str, least: int) -> Any:
    """Sequences as tuples, whole numbers as plain ones of at least `least`."""
    if is_sequence(value):
        return tuple(_checked(v, name, least) for v in plain(value))
    if not isinstance(value, (int, float, np.number)) or isinstance(value, bool):
        return value
    if as_index(value, name) < least:
        raise ValueError(f"{name}={value} must be at least {least}")
    return int(value)


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple) else value
