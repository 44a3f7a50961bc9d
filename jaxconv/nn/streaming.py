"""Causal convolutions of signals that arrive in pieces: explicit state, the same values as in one pass."""

from __future__ import annotations

from typing import Any, cast

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxconv import ops
from jaxconv.nn._settings import add_bias
from jaxconv.nn.convolution import Conv, ConvTranspose


class CausalConv(Conv):
    """One-dimensional causal convolution: an output depends on its own and earlier inputs only.

    ``y[q] = sum over t of x[q s + t d - (k - 1) d] * kernel[t] + bias``

    Args:
        in_features: channels of the input.
        out_features: channels of the output.
        kernel_size: k, an int.
        stride, dilation, groups, use_bias, ...: of `Conv`.

    Returns:
        Called with x (*batch, time, in_features): (*batch, ceil(time / s), out_features). For pieces of a signal,
        ``state = layer.start(x)`` and then ``y, state = layer.step(piece, state)`` for each; pieces are multiples of s
        long, and the y one behind the other are those of the whole signal.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> layer = CausalConv(2, 3, 2, dilation=4, rngs=nnx.Rngs(0))
        >>> x = jnp.ones((1, 10, 2))
        >>> first, state = layer.step(x[:, :6], layer.start(x))
        >>> second, state = layer.step(x[:, 6:], state)
        >>> bool(jnp.allclose(jnp.concatenate([first, second], 1), layer(x), atol=1e-6))
        True

    Source: van den Oord et al. 2016 (arXiv:1609.03499), section 2.1; Paine et al. 2016 (arXiv:1611.09482).
    """

    def __init__(self, in_features: int, out_features: int, kernel_size: int, *, rngs: nnx.Rngs, **settings: Any):
        super().__init__(in_features, out_features, (kernel_size,), padding="CAUSAL", rngs=rngs, **settings)

    def start(self, x: Array) -> Array:
        """The state before the first piece: zeros (*batch, (k - 1) d, in_features), of x's batch and type."""
        return jnp.zeros((*x.shape[:-2], (self.kernel_size[0] - 1) * self.dilation[0], self.in_features), x.dtype)

    def step(self, x: Array, state: Array) -> tuple[Array, Array]:
        """Outputs (*batch, time / s, out_features) of a piece x (*batch, time, in_features), and the next state."""
        if x.shape[-2] % self.stride[0]:
            raise ValueError(f"a piece of {x.shape[-2]} elements is no multiple of the stride {self.stride[0]}")
        seen = jnp.concatenate([state.astype(x.dtype), x], axis=-2)
        keywords = {**self._keywords(), "padding": 0}
        inputs, kernel, bias = self._operands(seen)
        return add_bias(ops.conv(inputs, kernel, **keywords), bias), seen[..., x.shape[-2] :, :]


class CausalConvTranspose(ConvTranspose):
    """One-dimensional causal transposed convolution, by overlap and add.

    ``y[u] = sum over q, t with q s + t d = u of x[q] * kernel[t] + bias``, for u below s times the length.

    Args:
        in_features: channels of the input.
        out_features: channels of the output.
        kernel_size: k, an int.
        stride, dilation, groups, use_bias, ...: of `ConvTranspose`.

    Returns:
        Called with x (*batch, time, in_features): (*batch, s time, out_features). In pieces: ``state = layer.start(x)``
        and ``y, state = layer.step(piece, state)``; the state is what earlier pieces add to outputs still to come.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> layer = CausalConvTranspose(2, 3, 5, stride=2, rngs=nnx.Rngs(0))
        >>> x = jnp.ones((1, 10, 2))
        >>> first, state = layer.step(x[:, :6], layer.start(x))
        >>> second, state = layer.step(x[:, 6:], state)
        >>> bool(jnp.allclose(jnp.concatenate([first, second], 1), layer(x), atol=1e-6))
        True
    """

    def __init__(self, in_features: int, out_features: int, kernel_size: int, *, rngs: nnx.Rngs, **settings: Any):
        self.tail = 0
        super().__init__(in_features, out_features, (kernel_size,), rngs=rngs, **settings)
        self.tail = max((self.kernel_size[0] - 1) * self.dilation[0] + 1 - self.stride[0], 0)

    def _pieces(self, x: Array, behind: int) -> tuple[Array, Array | None]:
        """Without the bias, s time elements and `behind` more."""
        inputs, kernel, bias = self._operands(x)
        size = self.stride[0] * x.shape[-2] + behind
        keywords = {**self._keywords(), "padding": ((0, self.tail - behind),)}
        return ops.conv_transpose(inputs, kernel, output_size=(size,), **keywords), bias

    def __call__(self, y: Array, *, output_size: Any = None) -> Array:
        """(*batch, s time, out_features) of y (*batch, time, in_features)."""
        if output_size is not None:
            raise ValueError(f"output_size={output_size!r}: a causal layer gives stride times its input's length")
        return add_bias(*self._pieces(y, 0))

    def start(self, x: Array) -> Array:
        """The state before the first piece: zeros (*batch, k_eff - s or none, out_features)."""
        return jnp.zeros((*x.shape[:-2], self.tail, self.out_features), x.dtype)

    def step(self, x: Array, state: Array) -> tuple[Array, Array]:
        """Outputs (*batch, s time, out_features) of a piece x (*batch, time, in_features), and the next state."""
        y, bias = self._pieces(x, self.tail)
        y = y.at[..., : self.tail, :].add(state.astype(y.dtype))
        ready = self.stride[0] * x.shape[-2]
        return add_bias(y[..., :ready, :], bias), y[..., ready:, :]


class WeightNorm(nnx.Module):
    """A layer whose kernel is a direction and a length per channel: ``kernel = scale * v / |v|``.

    Args:
        layer: a convolution of jaxconv; its kernel becomes v. The length is that over all axes but the last: PyTorch's
            ``weight_norm`` with its default axis, for convolutions and for transposed ones.

    Returns:
        Called as the layer is.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> layer = WeightNorm(Conv(2, 3, (3,), padding=1, rngs=nnx.Rngs(0)))
        >>> layer.scale.shape, layer(jnp.ones((1, 5, 2))).shape
        ((3,), (1, 5, 3))

    Source: Salimans and Kingma 2016 (arXiv:1602.07868), equation 2.
    """

    def __init__(self, layer: Any):
        self.layer = layer
        self.scale = nnx.Param(_lengths(layer.kernel[...]))

    def __call__(self, x: Array, **options: Any) -> Array:
        """The layer's output for x."""
        v = self.layer.kernel[...]
        graph, state = nnx.split(self.layer)
        direction = cast(nnx.Param, state["kernel"])
        state["kernel"] = direction.replace(v * (self.scale[...] / _lengths(v)).astype(v.dtype))
        return nnx.merge(graph, state)(x, **options)


def _lengths(v: Array) -> Array:
    return jnp.sqrt(jnp.sum(v * v, axis=tuple(range(v.ndim - 1))))
