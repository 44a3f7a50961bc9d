"""Convolution and transposed convolution as Flax NNX modules: parameters plus one call down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax import Array, lax
from jax.typing import DTypeLike

from jaxconv import ops
from jaxconv._hints import hinting
from jaxconv.geometry import Padding
from jaxconv.nn._settings import Initializer, Settings, add_bias, conv_init, conv_transpose_init


class _ConvBase(nnx.Module):
    """Settings and parameters that both convolutions hold; `_kernel_channels` says which way round the kernel lies."""

    @hinting
    def __init__(
        self, in_features, out_features, settings, *,
        use_bias, dtype, param_dtype, precision, method, kernel_init, bias_init, rngs,
    ):  # fmt: skip
        settings.check_channels(in_features, out_features)
        self.in_features, self.out_features = int(in_features), int(out_features)
        self.kernel_size, self.stride, self.padding = settings.kernel_size, settings.stride, settings.padding
        self.dilation, self.groups, self.padding_mode = settings.dilation, settings.groups, settings.padding_mode
        self.use_bias, self.dtype, self.param_dtype = use_bias, dtype, param_dtype
        self.precision, self.method = precision, method
        shape = settings.kernel_shape(*self._kernel_channels())
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))
        self.bias: nnx.Param | None = (
            nnx.Param(bias_init(rngs.params(), (self.out_features,), param_dtype)) if use_bias else nnx.data(None)
        )

    def _kernel_channels(self) -> tuple[int, int]:
        return self.in_features, self.out_features

    def _operands(self, x: Array) -> tuple[Array, Array, Array | None]:
        bias = None if self.bias is None else self.bias[...]
        return promote_dtype((x, self.kernel[...], bias), dtype=self.dtype)

    def _keywords(self) -> dict[str, Any]:
        """What the layer says now: its attributes may be set anew, as when a backbone's strides become dilations."""
        names = ("stride", "padding", "dilation", "groups", "padding_mode", "precision", "method")
        return {name: getattr(self, name) for name in names}


class Conv(_ConvBase):
    """Convolution layer: strided, atrous (dilated), grouped, of any spatial rank.

    ``y = conv(x, kernel) + bias`` with `jaxconv.conv`; the rank is the length of `kernel_size`.

    Args:
        in_features: channels of the input.
        out_features: channels of the output.
        kernel_size: k, one int per spatial axis. A bare int is refused: it does not say the rank.
        stride: s in elements, an int or one int per spatial axis.
        padding: int, one int per axis, (lo, hi) per axis, or a name, as in `conv`. The default is 0, where
            `flax.nnx.Conv` has "SAME".
        dilation: d in elements, spacing of the kernel's taps.
        groups: number of channel groups; it divides `in_features` and `out_features`.
        padding_mode: "zeros", "circular", "reflect" or "replicate".
        use_bias: whether a bias (out_features,) is added.
        dtype: dtype to compute in; default: what input and parameters promote to.
        param_dtype: dtype of the parameters.
        precision: as in `jax.lax.conv_general_dilated`.
        method: name of a lowering, or "auto".
        kernel_init: initialiser of the kernel (*kernel_size, in_features // groups, out_features); default LeCun
            normal.
        bias_init: initialiser of the bias.
        rngs: random streams; "params" is drawn from.

    Returns:
        Called with x (*batch, *spatial, in_features): y (*batch, *output_size, out_features).

    Raises:
        TypeError: a bare int as `kernel_size`, a number that is not an integer.
        ValueError: numbers out of range, groups that do not divide the channels; at the call, what `jaxconv.conv`
            refuses.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> layer = Conv(3, 16, (3, 3), padding=2, dilation=2, rngs=nnx.Rngs(0))
        >>> layer.kernel.shape, layer(jnp.ones((1, 32, 32, 3))).shape
        ((3, 3, 3, 16), (1, 32, 32, 16))

    Source: LeCun et al. 1989; dilation: Yu and Koltun 2016 (arXiv:1511.07122).
    """

    @hinting
    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Sequence[int],
        *,
        stride: int | Sequence[int] = 1,
        padding: Padding = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
        use_bias: bool = True,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        precision: lax.PrecisionLike = None,
        method: str = "auto",
        kernel_init: Initializer | None = None,
        bias_init: Initializer = jax.nn.initializers.zeros,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            in_features, out_features, Settings.parse(kernel_size, stride, padding, dilation, groups, padding_mode),
            use_bias=use_bias, dtype=dtype, param_dtype=param_dtype, precision=precision, method=method,
            kernel_init=kernel_init or conv_init(), bias_init=bias_init, rngs=rngs,
        )  # fmt: skip

    def __call__(self, x: Array) -> Array:
        """y (*batch, *output_size, out_features) of x (*batch, *spatial, in_features)."""
        x, kernel, bias = self._operands(x)
        return add_bias(ops.conv(x, kernel, **self._keywords()), bias)


class ConvTranspose(_ConvBase):
    """Transposed convolution layer: the exact adjoint of the convolution with the same settings.

    ``x = conv_transpose(y, kernel) + bias`` with `jaxconv.conv_transpose`. Stride, padding and dilation are those of
    the *forward* convolution that is transposed, as in PyTorch and unlike `flax.nnx.ConvTranspose`.

    Args:
        in_features: channels of the layer's input.
        out_features: channels of the layer's output.
        kernel_size: k, one int per spatial axis. A bare int is refused: it does not say the rank.
        stride: s of the forward convolution; the factor of upsampling.
        padding: padding of the forward convolution, as in `Conv`.
        dilation: d of the forward convolution.
        groups: number of channel groups; it divides `in_features` and `out_features`.
        padding_mode: padding mode of the forward convolution.
        output_padding: elements added to the smallest legal size, an int or one int per axis; a call with `output_size`
            overrides it.
        use_bias: whether a bias (out_features,) is added.
        dtype: dtype to compute in; default: what input and parameters promote to.
        param_dtype: dtype of the parameters.
        precision: as in `jax.lax.conv_general_dilated`.
        method: name of a lowering, or "auto".
        kernel_init: initialiser of the kernel (*kernel_size, out_features // groups, in_features), the forward
            convolution's kernel (TensorFlow's layout); default: normal with variance ``prod(s) * groups / (prod(k) *
            in_features)``.
        bias_init: initialiser of the bias.
        rngs: random streams; "params" is drawn from.

    Returns:
        Called with y (*batch, *spatial, in_features) and, where wanted, ``output_size=``: x (*batch, *output_size,
        out_features).

    Raises:
        TypeError: a bare int as `kernel_size`, a number that is not an integer.
        ValueError: numbers out of range, groups that do not divide the channels; at the call, an output size that
            cannot be reached (the message names the legal ones) and what else `jaxconv.conv_transpose` refuses.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> layer = ConvTranspose(16, 8, (3, 3), stride=2, padding=1, rngs=nnx.Rngs(0))
        >>> y = jnp.ones((1, 4, 4, 16))
        >>> layer.kernel.shape, layer(y).shape, layer(y, output_size=(8, 8)).shape
        ((3, 3, 8, 16), (1, 7, 7, 8), (1, 8, 8, 8))

    Source: Dumoulin and Visin 2016 (arXiv:1603.07285), section 4; Zeiler et al. 2010 (deconvolutional networks).
    """

    @hinting
    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Sequence[int],
        *,
        stride: int | Sequence[int] = 1,
        padding: Padding = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
        output_padding: int | Sequence[int] | None = None,
        use_bias: bool = True,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        precision: lax.PrecisionLike = None,
        method: str = "auto",
        kernel_init: Initializer | None = None,
        bias_init: Initializer = jax.nn.initializers.zeros,
        rngs: nnx.Rngs,
    ):
        settings = Settings.parse(kernel_size, stride, padding, dilation, groups, padding_mode)
        self.output_padding = settings.parse_output_padding(output_padding)
        kernel_init = kernel_init or conv_transpose_init(settings.stride, settings.groups)
        super().__init__(
            in_features, out_features, settings,
            use_bias=use_bias, dtype=dtype, param_dtype=param_dtype, precision=precision, method=method,
            kernel_init=kernel_init, bias_init=bias_init, rngs=rngs,
        )  # fmt: skip

    def _kernel_channels(self) -> tuple[int, int]:
        return self.out_features, self.in_features

    def __call__(self, y: Array, *, output_size: int | Sequence[int] | None = None) -> Array:
        """x (*batch, *output_size, out_features) of y (*batch, *spatial, in_features).

        Args:
            y: the layer's input.
            output_size: spatial size of the result, an int or one int per axis; it overrides the layer's
                `output_padding`.
        """
        y, kernel, bias = self._operands(y)
        output_padding = self.output_padding if output_size is None else None
        x = ops.conv_transpose(y, kernel, output_size=output_size, output_padding=output_padding, **self._keywords())
        return add_bias(x, bias)
