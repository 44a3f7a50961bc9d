"""The two convolutions as flax.linen modules: parameters plus one call down.

Same settings, kernel layouts and initialisers as `jaxconv.nn.Conv` and `jaxconv.nn.ConvTranspose`; the number of input
channels is read off the input, as in linen.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen
from flax.linen.dtypes import promote_dtype
from jax import Array, lax
from jax.typing import DTypeLike

from jaxconv import ops
from jaxconv.geometry import Padding
from jaxconv.nn._settings import Initializer, Settings, add_bias, conv_init, conv_transpose_init


def _settings(layer: Conv | ConvTranspose) -> Settings:
    return Settings.parse(
        layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups, layer.padding_mode
    )


def _bias(layer: Conv | ConvTranspose) -> Array | None:
    return layer.param("bias", layer.bias_init, (layer.features,), layer.param_dtype) if layer.use_bias else None


class Conv(linen.Module):
    """Convolution layer for flax.linen: strided, atrous (dilated), grouped, of any spatial rank.

    ``y = conv(x, kernel) + bias`` with `jaxconv.conv`.

    Attributes:
        features: channels of the output.
        kernel_size: k, one int per spatial axis. A bare int is refused: it does not say the rank.
        stride, padding, dilation, groups, padding_mode, use_bias, dtype, param_dtype, precision, method: as for
        `jaxconv.nn.Conv`.
        kernel_init: initialiser of the kernel (*kernel_size, in // groups, features); default LeCun normal.
        bias_init: initialiser of the bias (features,).

    Returns:
        Applied to x (*batch, *spatial, in): y (*batch, *output_size, features).

    Raises:
        TypeError: a bare int as `kernel_size`, a number that is not an integer.
        ValueError: numbers out of range, groups that do not divide the channels, and what `jaxconv.conv` refuses.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> y, variables = Conv(16, (3, 3), padding="SAME").init_with_output(jax.random.key(0), jnp.ones((1, 8, 8, 3)))
        >>> y.shape, variables["params"]["kernel"].shape
        ((1, 8, 8, 16), (3, 3, 3, 16))

    Source: LeCun et al. 1989; dilation: Yu and Koltun 2016 (arXiv:1511.07122).
    """

    features: int
    kernel_size: Sequence[int]
    stride: int | Sequence[int] = 1
    padding: Padding = 0
    dilation: int | Sequence[int] = 1
    groups: int = 1
    padding_mode: str = "zeros"
    use_bias: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: lax.PrecisionLike = None
    method: str = "auto"
    kernel_init: Initializer | None = None
    bias_init: Initializer = jax.nn.initializers.zeros

    @linen.compact
    def __call__(self, x: Array) -> Array:
        """y (*batch, *output_size, features) of x (*batch, *spatial, in)."""
        settings = _settings(self)
        settings.check_channels(x.shape[-1], self.features)
        init = self.kernel_init or conv_init()
        kernel = self.param("kernel", init, settings.kernel_shape(x.shape[-1], self.features), self.param_dtype)
        x, kernel, bias = promote_dtype(x, kernel, _bias(self), dtype=self.dtype)
        y = ops.conv(x, kernel, **settings.keywords(), precision=self.precision, method=self.method)
        return add_bias(y, bias)


class ConvTranspose(linen.Module):
    """Transposed convolution layer for flax.linen: the exact adjoint of the convolution with the same settings.

    ``x = conv_transpose(y, kernel) + bias`` with `jaxconv.conv_transpose`; stride, padding and dilation are the
    *forward* convolution's, unlike in `flax.linen.ConvTranspose`.

    Attributes:
        features: channels of the output.
        kernel_size: k, one int per spatial axis. A bare int is refused: it does not say the rank.
        stride, padding, dilation, groups, padding_mode, use_bias, dtype, param_dtype, precision, method: as for
            `jaxconv.nn.ConvTranspose`.
        output_padding: elements added to the smallest legal size; a call with `output_size` overrides it.
        kernel_init: initialiser of the kernel (*kernel_size, features // groups, in); default: normal with variance
            ``prod(s) * groups / (prod(k) * in)``.
        bias_init: initialiser of the bias (features,).

    Returns:
        Applied to y (*batch, *spatial, in) and, where wanted, ``output_size=``: x (*batch, *output_size, features).

    Raises:
        TypeError: a bare int as `kernel_size`, a number that is not an integer.
        ValueError: numbers out of range, groups that do not divide the channels, and what `jaxconv.conv_transpose`
            refuses.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> layer = ConvTranspose(8, (3, 3), stride=2, padding=1)
        >>> x, variables = layer.init_with_output(jax.random.key(0), jnp.ones((1, 4, 4, 16)), output_size=(8, 8))
        >>> x.shape, variables["params"]["kernel"].shape
        ((1, 8, 8, 8), (3, 3, 8, 16))

    Source: Dumoulin and Visin 2016 (arXiv:1603.07285), section 4.
    """

    features: int
    kernel_size: Sequence[int]
    stride: int | Sequence[int] = 1
    padding: Padding = 0
    dilation: int | Sequence[int] = 1
    groups: int = 1
    padding_mode: str = "zeros"
    output_padding: int | Sequence[int] | None = None
    use_bias: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: lax.PrecisionLike = None
    method: str = "auto"
    kernel_init: Initializer | None = None
    bias_init: Initializer = jax.nn.initializers.zeros

    @linen.compact
    def __call__(self, y: Array, *, output_size: int | Sequence[int] | None = None) -> Array:
        """x (*batch, *output_size, features) of y (*batch, *spatial, in)."""
        settings = _settings(self)
        settings.check_channels(y.shape[-1], self.features)
        init = self.kernel_init or conv_transpose_init(settings.stride, settings.groups)
        kernel = self.param("kernel", init, settings.kernel_shape(self.features, y.shape[-1]), self.param_dtype)
        y, kernel, bias = promote_dtype(y, kernel, _bias(self), dtype=self.dtype)
        output_padding = settings.parse_output_padding(self.output_padding) if output_size is None else None
        x = ops.conv_transpose(
            y, kernel, output_size=output_size, output_padding=output_padding, **settings.keywords(),
            precision=self.precision, method=self.method,
        )  # fmt: skip
        return add_bias(x, bias)
