"""ESPNet: pyramids of dilated convolutions whose outputs are added up from small rate to large."""

from __future__ import annotations

from typing import Any, Unpack, cast

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxconv.models._network import Network, make_prelu, spatial
from jaxconv.nn import AvgPool, Conv, ConvTranspose, PReLU, batch_norm
from jaxconv.nn._settings import Types
from jaxconv.nn.dense import transpose_to

_RATES = (1, 2, 4, 8, 16)


class _Holder(nnx.Module):
    """Layers under their published names, applied in order."""

    def __init__(self, **layers: Any):
        self.order = tuple(layers)
        for name, layer in layers.items():
            setattr(self, name, layer)

    def __call__(self, x: Array) -> Array:
        for name in self.order:
            x = getattr(self, name)(x)
        return x


def _conv(into: int, out: int, k: int, types: Types, stride: int = 1, rate: int = 1) -> _Holder:
    padding = (k - 1) // 2 * rate
    return _Holder(conv=Conv(into, out, (k, k), stride=stride, padding=padding, dilation=rate, use_bias=False, **types))


def _norm(features: int, types: Types) -> nnx.BatchNorm:
    return batch_norm(features, epsilon=1e-3, **types)


def _conv_bn_act(into: int, out: int, types: Types, **settings: Any) -> _Holder:
    conv = Conv(into, out, (3, 3), padding=1, use_bias=False, **settings, **types)
    return _Holder(conv=conv, bn=_norm(out, types), act=make_prelu(out, types))


def _bn_act(features: int, types: Types) -> _Holder:
    return _Holder(bn=_norm(features, types), act=make_prelu(features, types))


class Pyramid(nnx.Module):
    """1x1 (or, halving the resolution, 3x3) to a fifth of the channels, 3x3 at rates 1 to 16, sums from rate 2 on."""

    def __init__(self, into: int, out: int, types: Types, *, halve: bool = False, add: bool = True):
        n = out // 5
        self.add = add and not halve
        self.c1 = _conv(into, n, 3, types, stride=2) if halve else _conv(into, n, 1, types)
        for rate in _RATES:
            setattr(self, f"d{rate}", _conv(n, out - 4 * n if rate == 1 else n, 3, types, rate=rate))
        self.bn: nnx.BatchNorm | _Holder = _norm(out, types) if halve else _bn_act(out, types)
        self.act: PReLU | None = make_prelu(out, types) if halve else nnx.data(None)

    def __call__(self, x: Array) -> Array:
        """(*batch, H', W', out) of x (*batch, H, W, into)."""
        reduced = self.c1(x)
        first, *rest = (getattr(self, f"d{rate}")(reduced) for rate in _RATES)
        sums = [rest[0]]
        for other in rest[1:]:
            sums.append(sums[-1] + other)
        y = jnp.concatenate([first, *sums], axis=-1)
        y = self.bn(x + y if self.add else y)
        return y if self.act is None else self.act(y)


class _Encoder(nnx.Module):
    def __init__(self, classes: int, in_channels: int, p: int, q: int, types: Types):
        c = in_channels
        self.level1 = _conv_bn_act(c, 16, types, stride=2)
        self.b1 = _bn_act(16 + c, types)
        self.level2_0 = Pyramid(16 + c, 64, types, halve=True)
        self.level2 = nnx.List([Pyramid(64, 64, types) for _ in range(p)])
        self.b2 = _bn_act(128 + c, types)
        self.level3_0 = Pyramid(128 + c, 128, types, halve=True)
        self.level3 = nnx.List([Pyramid(128, 128, types) for _ in range(q)])
        self.b3 = _bn_act(256, types)
        self.classifier = _conv(256, classes, 1, types)
        self.half = AvgPool((3, 3), stride=2, padding=1)

    def __call__(self, x: Array) -> tuple[Array, Array, Array]:
        half = self.half(x)
        first = self.b1(jnp.concatenate([self.level1(x), half], axis=-1))
        y = start = self.level2_0(first)
        for block in self.level2:
            y = block(y)
        second = self.b2(jnp.concatenate([y, start, self.half(half)], axis=-1))
        y = start = self.level3_0(second)
        for block in self.level3:
            y = block(y)
        return first, second, self.classifier(self.b3(jnp.concatenate([start, y], axis=-1)))


class ESPNet(Network):
    """ESPNet: efficient spatial pyramids, with the attribute names of the published PyTorch weights.

    ============= ======== ==================================================================
    part          stride   what
    ============= ======== ==================================================================
    level1        2        3x3, 16, beside the averaged input
    level2        4        pyramid 64 stride 2, p pyramids 64, both and the averaged input
    level3        8        pyramid 128 stride 2, q pyramids 128, both
    decoder       8, 4, 2  1x1 to the classes, transposed 2x2, joined with level2 and level1
    ============= ======== ==================================================================

    Args:
        classes: channels of the output, at least 5.
        in_channels: channels of the input.
        p: pyramids of level 2.
        q: pyramids of level 3.
        dtype, param_dtype, rngs: as for every layer.

    Returns:
        Called with x (*batch, H, W, in_channels), of any size: logits (*batch, H, W, classes).

    Example:
        >>> from flax import nnx
        >>> nnx.eval_shape(lambda: ESPNet(20, p=2, q=8, rngs=nnx.Rngs(0))).parameter_count
        365109

    Source: Mehta et al. 2018 (arXiv:1803.06815), figure 4; its table has 0.364M for p=2, q=8, 20 classes.
    """

    heads = ("encoder.classifier", "level3_C", "br", "conv", "up_l3", "combine_l2_l3", "up_l2", "classifier")

    def __init__(self, classes: int, *, in_channels: int = 3, p: int = 2, q: int = 3, **types: Unpack[Types]):
        self._keep(locals())
        if classes < 5:
            raise ValueError(f"classes={classes} must be at least 5: a pyramid of the decoder has a fifth of them")

        def up() -> ConvTranspose:
            return ConvTranspose(classes, classes, (2, 2), stride=2, padding=0, use_bias=False, **types)

        self.encoder = _Encoder(classes, in_channels, p, q, types)
        self.level3_C = _conv(128 + in_channels, classes, 1, types)
        self.br = _norm(classes, types)
        self.conv = _conv_bn_act(16 + in_channels + classes, classes, types)
        self.up_l3 = nnx.Sequential(up())
        self.combine_l2_l3 = nnx.Sequential(
            _bn_act(2 * classes, types), Pyramid(2 * classes, classes, types, add=False)
        )
        self.up_l2 = nnx.Sequential(up(), _bn_act(classes, types))
        self.classifier = up()

    def __call__(self, x: Array) -> Array:
        """Logits (*batch, H, W, classes) of x (*batch, H, W, in_channels)."""
        first, second, third = self.encoder(x)
        coarse = transpose_to(cast(ConvTranspose, self.up_l3.layers[0]), self.br(third), spatial(second))
        y = self.combine_l2_l3(jnp.concatenate([self.level3_C(second), coarse], axis=-1))
        y = self.up_l2.layers[1](transpose_to(cast(ConvTranspose, self.up_l2.layers[0]), y, spatial(first)))
        y = self.conv(jnp.concatenate([y, first], axis=-1))
        return transpose_to(self.classifier, y, spatial(x))
