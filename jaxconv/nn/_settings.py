"""What the NNX and the linen convolutions share: settings checked once, kernel shapes, initialisers, the bias."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Required, TypedDict

import jax
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from jaxconv._checks import as_index, is_sequence, per_axis
from jaxconv.geometry import PADDING_MODES
from jaxconv.lattice import Padding, parse_padding

Initializer = Callable[..., Any]


class Types(TypedDict, total=False):
    """What every layer takes: the dtype to compute in (default: what input and parameters promote to; a name such as
    "bfloat16" too), the dtype of the parameters (float32), the random streams."""

    dtype: DTypeLike | None
    param_dtype: DTypeLike
    rngs: Required[nnx.Rngs]


@dataclasses.dataclass(frozen=True)
class Settings:
    """The checked settings of a convolution layer, as plain hashable values."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Any
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str

    @classmethod
    def parse(cls, kernel_size, stride, padding: Padding, dilation, groups, padding_mode: str) -> Settings:
        """Check everything that does not need the input's size, before any parameter is made."""
        kernel_size = tuple_of_ints(kernel_size, "kernel_size")
        rank = len(kernel_size)
        name, numbers = parse_padding(padding, rank)
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode={padding_mode!r} is not one of {', '.join(map(repr, PADDING_MODES))}")
        groups = as_index(groups, "groups")
        if groups < 1:
            raise ValueError(f"groups={groups} must be at least 1")
        return cls(
            kernel_size,
            per_axis(stride, "stride", rank),
            name or numbers,
            per_axis(dilation, "dilation", rank),
            groups,
            padding_mode,
        )

    def kernel_shape(self, first: int, last: int) -> tuple[int, ...]:
        """(*kernel_size, first // groups, last), the channels of the forward convolution."""
        return (*self.kernel_size, first // self.groups, last)

    def parse_output_padding(self, value: int | Sequence[int] | None) -> tuple[int, ...] | None:
        """One int per axis, or None; whether a size can be reached is known where the input's size is."""
        return None if value is None else per_axis(value, "output_padding", len(self.kernel_size), minimum=0)

    def check_channels(self, in_features: int, out_features: int) -> None:
        """Refuse channel counts that are below 1 or that the groups do not divide."""
        for name, value in (("in_features", in_features), ("out_features", out_features)):
            if as_index(value, name) < 1:
                raise ValueError(f"{name}={value} must be at least 1")
            if value % self.groups:
                raise ValueError(f"groups={self.groups} does not divide {name}={value}")

    def keywords(self) -> dict[str, Any]:
        """As the keywords of `jaxconv.conv` and `jaxconv.conv_transpose`."""
        names = ("stride", "padding", "dilation", "groups", "padding_mode")
        return {name: getattr(self, name) for name in names}


def tuple_of_ints(value: Sequence[int], name: str) -> tuple[int, ...]:
    """A tuple with one int per spatial axis; a bare int is refused, because it does not say the rank."""
    if not is_sequence(value):
        raise TypeError(
            f"{name}={value!r} does not say how many spatial axes there are: flax reads a bare int as one axis, and "
            "then runs a 1-D convolution over (batch, height, width, channels) data with height taken for a batch "
            f"axis. Give one int per axis, such as {name}=({value!r}, {value!r}) for images"
        )
    if len(value) == 0:
        raise ValueError(f"{name}=() has no spatial axis; at least one is needed")
    return per_axis(value, name, len(value))


def conv_init() -> Initializer:
    """LeCun's normal initialiser for kernels (*kernel_size, in // groups, out): variance ``1 / (k * in / groups)``."""
    return jax.nn.initializers.lecun_normal()


def conv_transpose_init(stride: Sequence[int], groups: int) -> Initializer:
    """LeCun's normal initialiser for the kernels of transposed convolutions, (*kernel_size, out // groups, in).

    An element of the output sums ``prod(k / s)`` taps on average and ``in / groups`` channels, so the variance that
    keeps the signal's is ``prod(s) * groups / (prod(k) * in)``. The fan-in of the forward convolution's kernel would
    count the wrong channels and s^rank times too many taps.
    """
    return jax.nn.initializers.variance_scaling(
        float(math.prod(stride) * groups), "fan_in", "truncated_normal", in_axis=-1, out_axis=-2
    )


def add_bias(y: Array, bias: Array | None) -> Array:
    """The layer's last step: one number per channel."""
    return y if bias is None else y + bias
