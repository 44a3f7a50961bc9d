"""WaveNet: a stack of dilated causal convolutions, and its generation sample by sample from a cache."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from jaxconv.models._network import Network
from jaxconv.nn import CausalConv
from jaxconv.nn._settings import Types


class WaveNet(Network):
    """WaveNet's stack: gated, dilated, causal convolutions with residual and skip connections.

    ``z = tanh(filter(x)) * sigmoid(gate(x))``; ``x + residual(z)`` goes on, the sum of ``skip(z)`` goes out.

    =============================== ==================================================
    layer                           what
    =============================== ==================================================
    start_conv                      1, to the residual channels
    filter_convs, gate_convs        2, rates 1, 2, 4, ... in each block
    residual_convs, skip_convs      1
    end_conv_1, end_conv_2          ReLU and 1, twice, to the classes
    =============================== ==================================================

    Args:
        classes: channels of input (one-hot) and output (logits).
        residual: channels that go on.
        dilated: channels of filter and gate.
        skip: channels of the skip connections.
        end: channels before the last layer.
        layers: convolutions of a block, of rates 1, 2, ..., 2^(layers - 1).
        blocks: how often the rates are gone through.
        kernel: k of the dilated convolutions.
        use_bias: whether the layers of the blocks have biases; the last two always do.
        dtype, param_dtype, rngs: as for every layer.

    Returns:
        Called with x (*batch, time, classes): logits (*batch, time, classes) of what follows each sample.

    Example:
        >>> from flax import nnx
        >>> nnx.eval_shape(lambda: WaveNet(layers=10, blocks=3, rngs=nnx.Rngs(0))).receptive_field
        3070

    Source: van den Oord et al. 2016 (arXiv:1609.03499), section 2; cached generation: Paine et al. 2016
        (arXiv:1611.09482).
    """

    example = (1, 512, 256)

    def __init__(
        self, classes: int = 256, *, residual: int = 32, dilated: int = 32, skip: int = 256, end: int = 256,
        layers: int = 10, blocks: int = 4, kernel: int = 2, use_bias: bool = False, **types: Unpack[Types],
    ):  # fmt: skip
        self._keep(locals())
        self.rates = tuple(2**i for i in range(layers)) * blocks
        self.receptive_field = 1 + (kernel - 1) * sum(self.rates)

        def row(into: int, out: int, k: int = 1, bias: bool = use_bias, rates: Sequence[int] = self.rates) -> nnx.List:
            options: dict[str, Any] = {"use_bias": bias, **types}
            return nnx.List([CausalConv(into, out, k, dilation=rate if k > 1 else 1, **options) for rate in rates])

        self.start_conv = row(classes, residual, rates=(1,))[0]
        self.filter_convs, self.gate_convs = row(residual, dilated, kernel), row(residual, dilated, kernel)
        self.residual_convs, self.skip_convs = row(dilated, residual), row(dilated, skip)
        self.end_conv_1 = row(skip, end, bias=True, rates=(1,))[0]
        self.end_conv_2 = row(end, classes, bias=True, rates=(1,))[0]

    def __call__(self, x: Array) -> Array:
        """Logits (*batch, time, classes) of x (*batch, time, classes)."""
        return self._run(x, None)[0]

    def start(self, x: Array) -> tuple[Array, ...]:
        """The state before the first samples of signals like x: what each dilated convolution has seen, zeros."""
        like = jnp.zeros((*x.shape[:-1], self.filter_convs[0].in_features), x.dtype)
        return tuple(conv.start(like) for conv in self.filter_convs)

    def step(self, x: Array, state: tuple[Array, ...]) -> tuple[Array, tuple[Array, ...]]:
        """Logits of the next samples x (*batch, time, classes), and the next state; equal to those of one pass."""
        return self._run(x, state)

    def _run(self, x: Array, state: tuple[Array, ...] | None) -> tuple[Array, tuple[Array, ...]]:
        x = self.start_conv(x)
        total: Any = 0.0
        seen = []
        rows = zip(self.filter_convs, self.gate_convs, self.residual_convs, self.skip_convs, strict=True)
        for i, (filter_, gate, residual, skip) in enumerate(rows):
            if state is None:
                f, g = filter_(x), gate(x)
            else:
                (f, after), (g, _) = filter_.step(x, state[i]), gate.step(x, state[i])
                seen.append(after)
            z = jnp.tanh(f) * jax.nn.sigmoid(g)
            total = total + skip(z)
            x = x + residual(z)
        y = self.end_conv_1(jax.nn.relu(total))
        return self.end_conv_2(jax.nn.relu(y)), tuple(seen)

    def generate(self, first: Array, samples: int, key: Array | None = None, temperature: float = 1.0) -> Array:
        """Continue a signal, one sample at a time.

        Args:
            first: the beginning, classes (*batch, time), integers.
            samples: how many to add.
            key: random key; None takes the likeliest class.
            temperature: divides the logits before a class is drawn.

        Returns:
            (*batch, samples) classes.
        """
        greedy, keys = key is None, jax.random.split(jax.random.key(0) if key is None else key, samples)
        kernel = self.start_conv.kernel[...]
        encode = partial(jax.nn.one_hot, num_classes=self.start_conv.in_features, dtype=kernel.dtype)
        logits, state = self.step(encode(first), self.start(encode(first)))

        def one(carry: Any, key: Array) -> tuple[Any, Array]:
            logits, state = carry
            chosen = jnp.argmax(logits, -1) if greedy else jax.random.categorical(key, logits / temperature)
            after, state = self.step(encode(chosen)[..., None, :], state)
            return (after[..., -1, :], state), chosen

        chosen = lax.scan(one, (logits[..., -1, :], state), keys)[1]
        return jnp.moveaxis(chosen, 0, -1)
