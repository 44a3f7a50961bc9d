"""What every network here says of itself: its settings, the sizes that it takes, what its input should look like."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from jaxconv._checks import as_index
from jaxconv.nn import PReLU

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Network(nnx.Module):
    """Base of the networks.

    Attributes:
        size_multiple: spatial sizes that the network takes are multiples of this; 1 for any size.
        input_range: (lowest, highest) value of an input, before `mean` and `std`.
        mean, std: subtracted from the input, and divided by after that, one value per channel; () for none.
        heads: dotted paths of the layers whose size follows from the number of classes.
        example: shape of a usual input where it is no image of three channels.
    """

    size_multiple: ClassVar[int] = 1
    input_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    heads: ClassVar[tuple[str, ...]] = ()
    example: ClassVar[tuple[int, ...] | None] = None

    def _keep(self, types: dict[str, Any], **settings: Any) -> None:
        """Remember the arguments for `config`; numbers below 1 are refused."""
        for name, value in settings.items():
            numbers = value if isinstance(value, (tuple, list)) else (value,)
            for number in numbers:
                # 0 classes: without a head.
                least = 0 if name == "classes" else 1
                if isinstance(number, int) and not isinstance(number, bool) and as_index(number, name) < least:
                    raise ValueError(f"{name}={value!r} must be at least {least}")
        for name in ("dtype", "param_dtype"):
            settings[name] = None if types.get(name) is None else jnp.dtype(types[name]).name
        self.settings = tuple((name, _frozen(value)) for name, value in settings.items())

    @property
    def config(self) -> dict[str, Any]:
        """Keyword arguments that make this network again (without parameters), as JSON values."""
        return {name: _plain(value) for name, value in self.settings}


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


def make_types(dtype: DTypeLike | None, param_dtype: DTypeLike, rngs: nnx.Rngs) -> dict[str, Any]:
    """The three arguments that every layer takes."""
    return {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}


def make_prelu(features: int, types: dict[str, Any]) -> PReLU:
    """A slope for each channel, or with one feature one for all; it draws nothing at random."""
    return PReLU(features, dtype=types["dtype"], param_dtype=types["param_dtype"])


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


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, (list, tuple)) else value


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple) else value
