"""What networks for dense prediction share: normalised convolutions, separable ones, pyramids of rates, upsampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxconv import ops
from jaxconv.initializers import bilinear, icnr
from jaxconv.nn._settings import add_bias, conv_init
from jaxconv.nn.blocks import batch_norm
from jaxconv.nn.convolution import Conv, ConvTranspose
from jaxconv.resampling import pooling
from jaxconv.resampling.adaptive import adaptive_avg_pool, adaptive_max_pool
from jaxconv.resampling.resample import pixel_shuffle, resize

_NORMS: dict[str, Callable[..., Any]] = {
    "batch": batch_norm, "group": nnx.GroupNorm, "instance": nnx.InstanceNorm, "layer": nnx.LayerNorm,
}  # fmt: skip
NORMS = (*_NORMS, "none")
UPSAMPLERS = ("bilinear", "nearest", "transposed", "resize", "shuffle", "unpool")


def norm(kind: str, features: int, *, epsilon: float = 1e-5, **types: Any) -> nnx.Module | Callable[[Array], Array]:
    """A normalisation by name: "batch", "group" (of up to 32 groups), "instance", "layer" or "none" (the identity).

    Args:
        kind: one of the names; another is a ValueError.
        features: number of channels.
        epsilon: added to the variance.
        **types: dtype, param_dtype, rngs.

    Returns:
        A module, or for "none" the identity function.

    Example:
        >>> from flax import nnx
        >>> norm("group", 48, rngs=nnx.Rngs(0)).num_groups
        24
    """
    if kind not in NORMS:
        raise ValueError(f"norm={kind!r} is not one of {', '.join(NORMS)}")
    if kind == "none":
        return identity
    if kind == "group":
        types["num_groups"] = max(g for g in range(1, min(features, 32) + 1) if features % g == 0)
    return _NORMS[kind](features, epsilon=epsilon, **types)


def identity(x: Array) -> Array:
    """x itself."""
    return x


def conv_norm(
    in_features: int,
    out_features: int,
    kernel_size: Sequence[int],
    *,
    kind: str = "batch",
    activation: Callable[[Array], Array] | None = jax.nn.relu,
    epsilon: float = 1e-5,
    separable: bool = False,
    types: Mapping[str, Any],
    **settings: Any,
) -> nnx.Sequential:
    """Convolution without a bias (with one where `kind` is "none"), normalisation, activation: 0, 1 and 2 of a
    `flax.nnx.Sequential`, as published weights number them.

    Args:
        in_features, out_features, kernel_size: of the `Conv`; odd kernels keep the size unless `padding` is given.
        kind: of `norm`.
        activation: applied last; None for none.
        epsilon: of the normalisation.
        separable: whether `separable_conv` stands in the convolution's place; it has no bias then.
        types: dtype, param_dtype and rngs.
        **settings: the rest of `Conv`.

    Returns:
        The three in a row.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> conv_norm(3, 8, (3, 3), stride=2, types={"rngs": nnx.Rngs(0)})(jnp.ones((1, 9, 8, 3))).shape
        (1, 5, 4, 8)
    """
    if separable:
        layers: list[Any] = [separable_conv(in_features, out_features, kernel_size, types=types, **settings)]
    else:
        settings.setdefault("padding", tuple(settings.get("dilation", 1) * (k - 1) // 2 for k in kernel_size))
        settings.setdefault("use_bias", kind == "none")
        layers = [Conv(in_features, out_features, kernel_size, **settings, **types)]
    if kind != "none":
        layers.append(norm(kind, out_features, epsilon=epsilon, **types))
    return nnx.Sequential(*layers, *([] if activation is None else [activation]))


def separable_conv(
    in_features: int, out_features: int, kernel_size: Sequence[int], *, dilation: int = 1, use_bias: bool = False,
    types: Mapping[str, Any], **settings: Any,
) -> nnx.Sequential:  # fmt: skip
    """Depthwise convolution, then 1x1: 0 and 1 of a `flax.nnx.Sequential`.

    Args:
        in_features, out_features, kernel_size: of the pair; odd kernels keep the size unless `padding` is given.
        dilation: of the depthwise convolution.
        use_bias: of the 1x1 convolution.
        types: dtype, param_dtype and rngs.
        **settings: the rest of the depthwise `Conv`.

    Returns:
        The two in a row.

    Example:
        >>> from flax import nnx
        >>> import jax
        >>> layers = separable_conv(8, 16, (3, 3), types={"rngs": nnx.Rngs(0)})
        >>> sum(p.size for p in jax.tree.leaves(nnx.state(layers, nnx.Param))) == 8 * 9 + 8 * 16
        True

    Source: Chollet 2017 (arXiv:1610.02357).
    """
    settings.setdefault("padding", tuple(dilation * (k - 1) // 2 for k in kernel_size))
    depthwise = Conv(
        in_features, in_features, kernel_size, dilation=dilation, groups=in_features, use_bias=False, **settings,
        **types,
    )  # fmt: skip
    return nnx.Sequential(
        depthwise, Conv(in_features, out_features, (1,) * len(kernel_size), use_bias=use_bias, **types)
    )


class AdaptivePool(nnx.Module):
    """Pooling to a given size, `jaxconv.resampling.adaptive` as a layer.

    Args:
        output_size: one int per spatial axis; None keeps an axis.
        kind: "mean" or "max".

    Returns:
        Called with x (*batch, *spatial, channels): (*batch, *output_size, channels).

    Raises:
        ValueError: another kind.

    Example:
        >>> import jax.numpy as jnp
        >>> AdaptivePool((1, 1))(jnp.ones((2, 5, 7, 3))).shape
        (2, 1, 1, 3)
    """

    def __init__(self, output_size: Sequence[int | None], kind: str = "mean"):
        if kind not in ("mean", "max"):
            raise ValueError(f"kind={kind!r} is neither 'mean' nor 'max'")
        self.output_size, self.kind = tuple(output_size), kind

    def __call__(self, x: Array) -> Array:
        """The pooled x."""
        return (adaptive_avg_pool if self.kind == "mean" else adaptive_max_pool)(x, self.output_size)


class ASPP(nnx.Module):
    """Atrous spatial pyramid pooling: 1x1, one 3x3 for each rate and the image's mean side by side, then 1x1.

    Args:
        in_features: channels of the input.
        out_features: channels of each branch and of the output.
        rates: dilations of the 3x3 branches.
        pooling: whether the mean of the image is a branch.
        separable: whether the 3x3 convolutions are separable.
        rank: number of spatial axes.
        kind: of `norm`.
        types: dtype, param_dtype and rngs.

    Returns:
        Called with x (*batch, *spatial, in_features): (*batch, *spatial, out_features).

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> ASPP(4, 8, (1, 2), types={"rngs": nnx.Rngs(0)})(jnp.ones((1, 6, 5, 4))).shape
        (1, 6, 5, 8)

    Source: Chen et al. 2017 (arXiv:1706.05587), section 3.3.
    """

    def __init__(
        self, in_features: int, out_features: int = 256, rates: Sequence[int] = (6, 12, 18), *, pooling: bool = True,
        separable: bool = False, rank: int = 2, kind: str = "batch", types: Mapping[str, Any],
    ):  # fmt: skip
        one, three = (1,) * rank, (3,) * rank
        options: dict[str, Any] = {"kind": kind, "types": types}
        branches = [conv_norm(in_features, out_features, one, **options)]
        for r in rates:
            branches.append(conv_norm(in_features, out_features, three, dilation=r, separable=separable, **options))
        if pooling:
            mean = conv_norm(in_features, out_features, one, **options)
            branches.append(nnx.Sequential(AdaptivePool(one), *mean.layers))
        self.pooling, self.rank = pooling, rank
        self.convs = nnx.List(branches)
        self.project = conv_norm(len(branches) * out_features, out_features, one, **options)

    def __call__(self, x: Array) -> Array:
        """(*batch, *spatial, out_features) of x (*batch, *spatial, in_features)."""
        found = [branch(x) for branch in self.convs]
        if self.pooling:
            found[-1] = jnp.broadcast_to(found[-1], found[0].shape)
        return self.project(jnp.concatenate(found, axis=-1))


class Upsample(nnx.Module):
    """Upsampling to a given size by any of the usual ways; channels stay.

    ========== ==========================================================================================
    bilinear   linear interpolation; no parameters
    nearest    nearest neighbour; no parameters
    transposed transposed convolution of kernel ``2 f - f mod 2``, begun as bilinear interpolation
    resize     nearest neighbour, then a 3x3 convolution
    shuffle    3x3 convolution to f^rank times the channels, then a pixel shuffle, begun by ICNR
    unpool     values put where the guide's maxima stand (channel means of a guide of other channels)
    ========== ==========================================================================================

    Args:
        features: channels.
        factor: f, about how much larger the output is.
        how: one of the names above.
        rank: number of spatial axes.
        align_corners: of "bilinear".
        types: dtype, param_dtype and rngs.

    Returns:
        Called with x (*batch, *spatial, features), the output's spatial size and, for "unpool", a guide (*batch, *size,
        anything): (*batch, *size, features). A size other than f times the input's is met exactly: interpolation
        stretches, the transposed convolution is that of the convolution that leads from `size` to x's size, a shuffled
        canvas loses or repeats its last rows.

    Raises:
        ValueError: another name; at the call, "unpool" without a guide.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> up = Upsample(4, 2, "transposed", types={"rngs": nnx.Rngs(0)})
        >>> up(jnp.ones((1, 4, 5, 4)), (7, 10)).shape
        (1, 7, 10, 4)

    Source: Long et al. 2015 (arXiv:1411.4038); Odena et al. 2016; Shi et al. 2016 (arXiv:1609.05158); Badrinarayanan et
        al. 2017 (arXiv:1511.00561).
    """

    def __init__(
        self, features: int, factor: int, how: str = "bilinear", *, rank: int = 2, align_corners: bool = False,
        types: Mapping[str, Any],
    ):  # fmt: skip
        if how not in UPSAMPLERS:
            raise ValueError(f"upsampler={how!r} is not one of {', '.join(UPSAMPLERS)}")
        self.how, self.factor, self.rank, self.align_corners = how, factor, rank, align_corners
        self.conv: Any = nnx.data(None)
        kernel = (2 * factor - factor % 2,) * rank
        if how == "transposed" and factor > 1:
            self.conv = ConvTranspose(
                features, features, kernel, stride=factor, padding=factor // 2, use_bias=False,
                kernel_init=bilinear(), **types,
            )  # fmt: skip
        elif how == "resize":
            self.conv = Conv(features, features, (3,) * rank, padding=1, **types)
        elif how == "shuffle" and factor > 1:
            out = features * factor**rank
            self.conv = Conv(features, out, (3,) * rank, padding=1, kernel_init=icnr(conv_init(), factor), **types)

    def __call__(self, x: Array, size: Sequence[int], guide: Array | None = None) -> Array:
        """(*batch, *size, features) of x (*batch, *spatial, features)."""
        size, sizes = tuple(size), x.shape[-self.rank - 1 : -1]
        if self.how == "unpool" and size != sizes:
            return self._unpool(x, size, guide)
        if self.how == "bilinear":
            return x if size == sizes else resize(x, size, align_corners=self.align_corners)
        if self.how in ("nearest", "resize"):
            y = x if size == sizes else resize(x, size, method="nearest")
            return y if self.conv is None else self.conv(y)
        if self.how == "shuffle":
            return fit(x if self.conv is None else pixel_shuffle(self.conv(x), (self.factor,) * self.rank), size)
        return fit(x, size) if self.conv is None else transpose_to(self.conv, x, size)

    def _unpool(self, x: Array, size: tuple[int, ...], guide: Array | None) -> Array:
        if guide is None:
            raise ValueError('upsampler="unpool" needs a guide of the output\'s size, whose maxima say where values go')
        if guide.shape[-1] != x.shape[-1]:
            guide = jnp.broadcast_to(jnp.mean(guide, -1, keepdims=True), (*guide.shape[:-1], x.shape[-1]))
        sizes = x.shape[-self.rank - 1 : -1]
        ceil = any(n * self.factor > N for n, N in zip(sizes, size, strict=True))
        # float32: the choice of a maximum must not depend on how coarse the values are.
        indices: Any = pooling.max_pool(guide, (self.factor,) * self.rank, ceil_mode=ceil, return_indices=True)[1]
        return pooling.max_unpool(fit(x, indices.shape[-self.rank - 1 : -1]), indices, size)


def transpose_to(layer: ConvTranspose, x: Array, size: Sequence[int]) -> Array:
    """`layer` with the padding at the end that makes its output have exactly `size`; the padding at the start stays.

    Args:
        layer: a transposed convolution with numbers as padding.
        x: (*batch, *spatial, in).
        size: spatial size wanted.

    Returns:
        (*batch, *size, out).
    """
    rank = len(layer.kernel_size)
    settings = layer._keywords()
    lows = [p[0] if isinstance(p, Sequence) else p for p in settings["padding"]]
    full = [
        s * (n - 1) + d * (k - 1) + 1
        for n, s, d, k in zip(x.shape[-rank - 1 : -1], layer.stride, layer.dilation, layer.kernel_size, strict=True)
    ]
    settings["padding"] = tuple((lo, f - lo - n) for lo, f, n in zip(lows, full, size, strict=True))
    x, kernel, bias = layer._operands(x)
    return add_bias(ops.conv_transpose(x, kernel, output_size=tuple(size), **settings), bias)


def fit(x: Array, size: Sequence[int]) -> Array:
    """x cut at the end of each spatial axis to `size`, or its last row repeated up to it."""
    first = x.ndim - 1 - len(size)
    x = x[(..., *(slice(n) for n in size), slice(None))]
    missing = [max(n - m, 0) for n, m in zip(size, x.shape[first:], strict=False)]
    return jnp.pad(x, [(0, 0)] * first + [(0, m) for m in missing] + [(0, 0)], "edge") if any(missing) else x


class DUC(nnx.Module):
    """Dense upsampling convolution: the network's last feature map gives all ``factor^2`` pixels of each class at once.

    Args:
        in_features: channels of the input.
        classes: channels of the output.
        factor: of upsampling.
        rank: number of spatial axes.
        types: dtype, param_dtype and rngs.

    Returns:
        Called with x (*batch, *spatial, in_features) and the output's spatial size: (*batch, *size, classes).

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> DUC(8, 5, 4, types={"rngs": nnx.Rngs(0)})(jnp.ones((1, 3, 2, 8)), (11, 8)).shape
        (1, 11, 8, 5)

    Source: Wang et al. 2018 (arXiv:1702.08502), section 3.1.
    """

    def __init__(self, in_features: int, classes: int, factor: int, *, rank: int = 2, types: Mapping[str, Any]):
        self.factor, self.rank = factor, rank
        init = icnr(conv_init(), factor)
        self.conv = Conv(in_features, classes * factor**rank, (3,) * rank, padding=1, kernel_init=init, **types)

    def __call__(self, x: Array, size: Sequence[int]) -> Array:
        """(*batch, *size, classes) of x (*batch, *spatial, in_features)."""
        return fit(pixel_shuffle(self.conv(x), (self.factor,) * self.rank), size)
