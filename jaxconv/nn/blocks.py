"""What stands between the convolutions of ENet and of a U-Net: activation, batch normalisation, and their usual row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax import Array
from jax.typing import DTypeLike

from jaxconv.nn.convolution import Conv


class PReLU(nnx.Module):
    """Parametric ReLU with one slope for all channels or one for each.

    ``y = x where x >= 0, slope * x elsewhere``

    Args:
        features: number of slopes: 1 (shared by all channels) or the number of channels.
        init: slope to begin with.
        dtype: dtype to compute in; default: the input's and the slopes' promoted.
        param_dtype: dtype of the slopes.

    Returns:
        Called with x (..., channels): y of the same shape.

    Raises:
        ValueError: fewer than 1 feature, or at the call a number of channels that is not `features`.

    Example:
        >>> import jax.numpy as jnp
        >>> PReLU(2)(jnp.array([[-4.0, 2.0]])).tolist()
        [[-1.0, 2.0]]

    Source: He et al. 2015 (arXiv:1502.01852), equation 1.
    """

    def __init__(
        self,
        features: int = 1,
        *,
        init: float = 0.25,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        if features < 1:
            raise ValueError(f"features={features} must be at least 1")
        self.features, self.dtype = features, dtype
        self.slope = nnx.Param(jnp.full((features,), init, param_dtype))

    def __call__(self, x: Array) -> Array:
        """y of x (..., channels)."""
        if self.features not in (1, x.shape[-1]):
            raise ValueError(f"PReLU has {self.features} slopes, but x has {x.shape[-1]} channels (shape {x.shape})")
        x, slope = promote_dtype((x, self.slope[...]), dtype=self.dtype)
        return jnp.where(x >= 0, x, slope * x)


class RunningStat(nnx.BatchStat):
    """A running statistic that is replaced whole without asking either value for its sharding.

    Flax asks at every update, and what a traced value answers is an error whose message searches all equations so far:
    ENet's training step took 31 s to trace with it, 7 s without.
    """

    def set_value(self, value: Array, **where: Any) -> None:
        """As flax's: `index=...` with an array of the same shape and type is what no index is."""
        whole = where.get("index") is ... and isinstance(value, jax.Array)
        whole = whole and (value.shape, value.dtype) == (self.shape, self.dtype)
        super().set_value(value, **({} if whole else where))


def batch_norm(
    features: int,
    *,
    momentum: float = 0.1,
    epsilon: float = 1e-5,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
) -> nnx.BatchNorm:
    """Flax's batch normalisation with PyTorch's conventions.

    ``y = (x - mean) / sqrt(var + epsilon) * scale + bias``, and in training ``running = (1 - momentum) * running +
    momentum * new``

    Args:
        features: number of channels.
        momentum: weight of the *new* statistics, as in PyTorch; flax's own argument is the weight of the old ones.
        epsilon: added to the variance.
        dtype: dtype to compute in; default: what input and parameters promote to.
        param_dtype: dtype of scale and bias.
        rngs: random streams.

    Returns:
        A `flax.nnx.BatchNorm` over the last axis.

    Example:
        >>> from flax import nnx
        >>> round(batch_norm(4, rngs=nnx.Rngs(0)).momentum, 3)
        0.9

    Source: Ioffe and Szegedy 2015 (arXiv:1502.03167), algorithm 1.
    """
    norm = nnx.BatchNorm(
        features, momentum=1 - momentum, epsilon=epsilon, dtype=dtype, param_dtype=param_dtype, rngs=rngs
    )
    norm.mean, norm.var = RunningStat(norm.mean[...]), RunningStat(norm.var[...])
    return norm


class ConvBlock(nnx.Module):
    """Convolution, batch normalisation (or a bias instead) and activation.

    Args:
        in_features: channels of the input.
        out_features: channels of the output.
        kernel_size: k, one int per spatial axis.
        normalise: whether batch normalisation follows the convolution, which then has no bias.
        activation: function of an array, applied last; None for none.
        dtype: dtype to compute in.
        param_dtype: dtype of the parameters.
        rngs: random streams.
        **settings: stride, padding, dilation, groups, padding_mode, precision, method of `Conv`.

    Returns:
        Called with x (*batch, *spatial, in_features): y (*batch, *output_size, out_features).

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> ConvBlock(3, 8, (3, 3), padding=1, rngs=nnx.Rngs(0))(jnp.ones((1, 6, 6, 3))).shape
        (1, 6, 6, 8)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: tuple[int, ...],
        *,
        normalise: bool = True,
        activation: Callable[[Array], Array] | None = jax.nn.relu,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
        **settings: Any,
    ):
        types: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.conv = Conv(in_features, out_features, kernel_size, use_bias=not normalise, **types, **settings)
        self.norm = batch_norm(out_features, **types) if normalise else nnx.data(None)
        self.activation = activation

    def __call__(self, x: Array) -> Array:
        """y (*batch, *output_size, out_features) of x (*batch, *spatial, in_features)."""
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)
