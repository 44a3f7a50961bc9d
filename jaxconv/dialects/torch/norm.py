"""Normalisations, prelu, linear, adaptive pooling and grid_sample with the meaning of torch.nn.functional."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from jaxconv._checks import as_index, is_open, refuse_open
from jaxconv._eager import in_one_program
from jaxconv.dialects._common import array, boolean, channels_first, channels_last, ints, standardised
from jaxconv.resampling.adaptive import adaptive_avg_pool, adaptive_max_pool, adaptive_max_pool_with_indices
from jaxconv.resampling.windows import index_dtype

Sizes = int | None | Sequence[int | None]


def batch_norm(
    input: ArrayLike, running_mean: ArrayLike | None, running_var: ArrayLike | None, weight: ArrayLike | None = None,
    bias: ArrayLike | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Array:  # fmt: skip
    """torch.nn.functional.batch_norm: ``(input - mean) / sqrt(var + eps) * weight + bias`` per channel.

    Args:
        input: (batch, channels, *any).
        running_mean, running_var: (channels,); used unless `training`.
        weight, bias: (channels,) or None.
        training: take the mean and (biased) variance of the batch. The running ones are not updated: arrays cannot be.
        momentum: PyTorch's, for that update; not used.
        eps: added to the variance.

    Returns:
        An array of the input's shape.

    Raises:
        ValueError: no statistics outside of training, one value per channel in it, and arrays of other shapes.

    Example:
        >>> import jax.numpy as jnp
        >>> batch_norm(jnp.full((1, 2, 1), 3.0), jnp.ones(2), jnp.full(2, 4.0), eps=0.0).ravel().tolist()
        [1.0, 1.0]
    """
    x = _floating(input, 2)
    if eps < 0 or (eps == 0 and training is True):
        raise ValueError(f"batch_norm takes eps of at least 0, above 0 in training, got {eps}")
    if boolean(training, "training"):
        if x.size == x.shape[1]:
            raise ValueError(f"batch_norm in training needs more than 1 value per channel, got shape {x.shape}")
        y = standardised(x, (0, *range(2, x.ndim)), eps)
    else:
        if running_mean is None or running_var is None:
            raise ValueError("batch_norm without training needs running_mean and running_var")
        if jnp.ndim(running_mean) != 1 or jnp.ndim(running_var) != 1:
            raise ValueError(
                "batch_norm takes running statistics of one axis, got shapes "
                f"{jnp.shape(running_mean)} and {jnp.shape(running_var)}"
            )
        mean, var = (_channels(v, x, n) for v, n in ((running_mean, "running_mean"), (running_var, "running_var")))
        y = (x - mean) * lax.rsqrt(var + eps)
    return _scaled(y, x, weight, bias)


def instance_norm(
    input: ArrayLike, running_mean: ArrayLike | None = None, running_var: ArrayLike | None = None,
    weight: ArrayLike | None = None, bias: ArrayLike | None = None, use_input_stats: bool = True,
    momentum: float = 0.1, eps: float = 1e-5,
) -> Array:  # fmt: skip
    """torch.nn.functional.instance_norm: as `batch_norm`, with the statistics of each image.

    Example:
        >>> import jax.numpy as jnp
        >>> instance_norm(jnp.arange(4.0).reshape(1, 2, 2), eps=0.0).ravel().tolist()
        [-1.0, 1.0, -1.0, 1.0]
    """
    for value in (running_mean, running_var, weight, bias):
        if value is not None and jnp.ndim(value) != 1:
            raise ValueError(f"instance_norm takes one number per channel, got an array of shape {jnp.shape(value)}")
    if not boolean(use_input_stats, "use_input_stats"):
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    x = _floating(input, 3)
    if np.prod(x.shape[2:]) == 1:
        raise ValueError(f"instance_norm needs more than 1 spatial element, got shape {x.shape}")
    return _scaled(standardised(x, tuple(range(2, x.ndim)), eps), x, weight, bias)


def group_norm(
    input: ArrayLike, num_groups: int, weight: ArrayLike | None = None, bias: ArrayLike | None = None,
    eps: float = 1e-5,
) -> Array:  # fmt: skip
    """torch.nn.functional.group_norm: the statistics of each group of channels of each image.

    Example:
        >>> import jax.numpy as jnp
        >>> group_norm(jnp.arange(4.0).reshape(1, 4), 2, eps=0.0).ravel().tolist()
        [-1.0, 1.0, -1.0, 1.0]
    """
    x, groups = _floating(input, 2), as_index(num_groups, "num_groups")
    if groups < 1 or x.shape[1] % groups:
        raise ValueError(f"num_groups={num_groups} does not divide the {x.shape[1]} channels of {x.shape}")
    parts = (x.shape[0], groups, math.prod(x.shape[1:]) // groups)
    y = standardised(x.reshape(parts), (2,), eps).reshape(x.shape)
    return _scaled(y, x, weight, bias)


def layer_norm(
    input: ArrayLike, normalized_shape: int | Sequence[int], weight: ArrayLike | None = None,
    bias: ArrayLike | None = None, eps: float = 1e-5,
) -> Array:  # fmt: skip
    """torch.nn.functional.layer_norm: the statistics of the last axes, whose sizes are `normalized_shape`.

    Example:
        >>> import jax.numpy as jnp
        >>> layer_norm(jnp.asarray([[1.0, 3.0]]), (2,), eps=0.0).tolist()
        [[-1.0, 1.0]]
    """
    x = _floating(input, 1)
    shape = tuple(normalized_shape) if isinstance(normalized_shape, Sequence) else (normalized_shape,)
    if not shape or x.shape[-len(shape) :] != shape:
        raise ValueError(f"normalized_shape={normalized_shape!r} is not the end of the input's shape {x.shape}")
    y = standardised(x, tuple(range(x.ndim - len(shape), x.ndim)), eps)
    for value, name in ((weight, "weight"), (bias, "bias")):
        if value is not None and _of_type(value, x, name).shape != shape:
            raise ValueError(f"{name} has shape {array(value, name).shape}; normalized_shape is {shape}")
    y = y if weight is None else y * array(weight, "weight")
    return y if bias is None else y + array(bias, "bias")


def prelu(input: ArrayLike, weight: ArrayLike) -> Array:
    """torch.nn.functional.prelu: ``input`` where positive, ``weight * input`` elsewhere; one weight or one per channel.

    Example:
        >>> import jax.numpy as jnp
        >>> prelu(jnp.asarray([[-4.0, 2.0]]), jnp.asarray([0.25])).tolist()
        [[-1.0, 2.0]]
    """
    x = _floating(input, 0)
    w = _of_type(weight, x, "weight", mixed=False)
    if w.ndim > 1:
        raise ValueError(f"weight has shape {w.shape}; prelu takes one number or one per channel")
    if w.size != 1:
        w = _channels(w, _floating(input, 2), "weight")
    return jnp.where(x > 0, x, x * (w.reshape(()) if w.size == 1 else w))


def linear(input: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> Array:
    """torch.nn.functional.linear: ``input @ weight.T + bias``, weight (out, in).

    Example:
        >>> import jax.numpy as jnp
        >>> linear(jnp.ones((2, 3)), jnp.ones((4, 3)), jnp.ones(4)).tolist()[0]
        [4.0, 4.0, 4.0, 4.0]
    """
    x = array(input, "input")
    w = _of_type(weight, x, "weight", mixed=False)
    if w.ndim not in (1, 2) or (w.ndim == 1 and bias is not None) or not x.ndim or x.shape[-1] != w.shape[-1]:
        raise ValueError(f"linear: input of shape {x.shape} and weight of shape {w.shape} do not fit together")
    y = jnp.matmul(x, w.T)
    if bias is None:
        return y
    b = _of_type(bias, x, "bias", mixed=False)
    if b.size not in (1, w.shape[0]):
        raise ValueError(f"linear: bias of shape {b.shape} beside weight of shape {w.shape}")
    return y + b.reshape(-1)


def grid_sample(
    input: ArrayLike, grid: ArrayLike, mode: str = "bilinear", padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Array:  # fmt: skip
    """torch.nn.functional.grid_sample: the input read at the places of `grid`.

    Args:
        input: (batch, channels, H, W) or (batch, channels, D, H, W).
        grid: (batch, *out, 2 or 3): places of -1..1, the last axis of the input first.
        mode: "bilinear" (of three axes too), "nearest" or, of two axes, "bicubic".
        padding_mode: what lies outside: "zeros", "border" or "reflection".
        align_corners: whether -1 and 1 are the centres of the first and last elements, or (False, None) their edges.

    Returns:
        (batch, channels, *out).

    Raises:
        ValueError: other names, and shapes that do not fit together.

    Example:
        >>> import jax.numpy as jnp
        >>> grid_sample(jnp.arange(4.0).reshape(1, 1, 2, 2), jnp.zeros((1, 1, 1, 2))).ravel().tolist()
        [1.5]
    """
    x = array(input, "input")
    g, rank = _of_type(grid, x, "grid", mixed=False), x.ndim - 2
    if rank not in (2, 3) or g.ndim != x.ndim or g.shape[-1] != rank or g.shape[0] != x.shape[0] or 0 in x.shape[1:]:
        raise ValueError(f"grid_sample: input of shape {x.shape} and grid of shape {g.shape} do not fit together")
    if mode not in ("bilinear", "nearest", "bicubic") or (mode == "bicubic" and rank == 3):
        raise ValueError(f"mode={mode!r} is not 'bilinear', 'nearest' or, of two axes, 'bicubic'")
    if padding_mode not in ("zeros", "border", "reflection"):
        raise ValueError(f"padding_mode={padding_mode!r} is not 'zeros', 'border' or 'reflection'")
    corners = align_corners is not None and boolean(align_corners, "align_corners")
    axes = []
    for axis, n in enumerate(x.shape[2:]):
        place = g[..., rank - 1 - axis]
        place = (place + 1) / 2 * (n - 1) if corners else ((place + 1) * n - 1) / 2
        if mode != "bicubic":
            place = _inside(place, n, padding_mode, corners)
        axes.append(_taps(place, n, mode, padding_mode, corners))
    flat, out = x.reshape(*x.shape[:2], -1), jnp.zeros((*x.shape[:2], *g.shape[1:-1]), x.dtype)
    dtype = index_dtype(x.shape[2:])
    for taps in itertools.product(*axes):
        index, weight = jnp.zeros(g.shape[:-1], dtype), jnp.ones(g.shape[:-1], g.dtype)
        inside = jnp.ones(g.shape[:-1], bool)
        for (i, w), n in zip(taps, x.shape[2:], strict=True):
            index, inside = index * n + jnp.clip(i, 0, n - 1).astype(dtype), inside & (i >= 0) & (i < n)
            weight = weight * w
        read = jnp.take_along_axis(flat, index.reshape(x.shape[0], 1, -1), axis=2).reshape(out.shape)
        # Nothing is read outside: zero times infinity is not nothing.
        read = jnp.where(inside[:, None], read, jnp.zeros((), x.dtype))
        out = out + read * jnp.where(inside, weight, 0)[:, None].astype(x.dtype)
    return out


def _inside(place: Array, n: int, mode: str, corners: bool) -> Array:
    """A place brought into the input by the padding mode."""
    if mode == "zeros":
        return place
    if mode == "reflection":
        low, span = (0.0, n - 1) if corners else (-0.5, n)
        far = jnp.abs(place - low)
        far = jnp.zeros_like(far) if span == 0 else far
        turns, rest = jnp.floor(far / max(span, 1)), jnp.fmod(far, max(span, 1))
        place = jnp.where(turns % 2 == 0, rest, span - rest) + low
    return jnp.clip(place, 0, n - 1)


def _taps(place: Array, n: int, mode: str, padding: str, corners: bool) -> list[tuple[Array, Any]]:
    """(element, weight) of each tap along one axis."""
    if mode == "nearest":
        return [(jnp.round(place), 1.0)]
    low = jnp.floor(place)
    t = place - low
    if mode == "bilinear":
        return [(low, 1 - t), (low + 1, t)]
    a = -0.75

    def near(d: Array) -> Array:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Array) -> Array:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    weights = (far(t + 1), near(t), near(1 - t), far(2 - t))
    return [(_inside(low + i - 1, n, padding, corners), w) for i, w in enumerate(weights)]


def _adaptive(name: str, rank: int, pool: Callable[..., Array]) -> Callable[..., Any]:
    @in_one_program("input")
    def run(input: ArrayLike, output_size: Sizes, return_indices: bool = False) -> Any:
        x = array(input, "input")
        if x.ndim not in (rank + 1, rank + 2):
            raise ValueError(f"{name} takes (batch, channels, {rank} axes) or without a batch, got shape {x.shape}")
        wanted = tuple(output_size) if isinstance(output_size, Sequence) else (output_size,) * rank
        if len(wanted) != rank:
            raise ValueError(f"output_size={output_size!r} has {len(wanted)} entries, {rank} are needed")
        if output_size is None or (rank == 1 and None in wanted):
            raise TypeError(f"{name}: output_size={output_size!r} must be an int or {rank} of them")
        sizes = tuple(n if m is None else m for n, m in zip(x.shape[-rank:], wanted, strict=True))
        if not is_open(sizes):
            sizes = ints(sizes, "output_size", rank, minimum=0)
        if 0 in x.shape[-rank - 1 :]:
            raise ValueError(f"{name} needs channels and sizes of at least 1, got shape {x.shape}")
        if 0 in sizes:
            empty = jnp.zeros((*x.shape[:-rank], *sizes), x.dtype)
            return (empty, empty.astype(jnp.int32)) if return_indices else empty
        if pool is adaptive_avg_pool:
            _floating(x, 0)
        if return_indices:
            refuse_open(f"{name} with return_indices", x.shape[-rank:])
            y, indices = adaptive_max_pool_with_indices(channels_last(x, rank), sizes)
            return channels_first(y, rank), channels_first(indices, rank)
        return channels_first(pool(channels_last(x, rank), sizes), rank)

    def mean(input: ArrayLike, output_size: Sizes) -> Any:
        return run(input, output_size)

    function = mean if pool is adaptive_avg_pool else run
    function.__name__ = function.__qualname__ = name
    kind = "mean" if "avg" in name else "maximum"
    function.__doc__ = f"""torch.nn.functional.{name}: the {kind} of windows that share out each axis.

    Args:
        input: (batch, channels, *sizes) or (channels, *sizes), {rank} sizes.
        output_size: an int or {rank} of them; None keeps an axis.{
        ""
        if "avg" in name
        else '''
        return_indices: also where each maximum stands, flat in the input's sizes.'''
    }

    Example:
        >>> import jax.numpy as jnp
        >>> {name}(jnp.ones((1, 2{", 5" * rank})), 2).shape
        (1, 2{", 2" * rank})
    """
    return function


adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = (
    _adaptive(f"adaptive_avg_pool{rank}d", rank, adaptive_avg_pool) for rank in (1, 2, 3)
)
adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = (
    _adaptive(f"adaptive_max_pool{rank}d", rank, adaptive_max_pool) for rank in (1, 2, 3)
)


def _floating(value: ArrayLike, axes: int) -> Array:
    x = array(value, "input")
    if x.ndim < axes:
        raise ValueError(f"input needs at least {axes} axes, got shape {x.shape}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"input must be floating-point, got {x.dtype}")
    return x


def _of_type(value: ArrayLike, x: Array, name: str, *, mixed: bool = True) -> Array:
    """An operand beside `x`: of its type or, where PyTorch mixes, float32 beside half precision."""
    v = array(value, name)
    if v.dtype != x.dtype and not (mixed and v.dtype == jnp.float32 and x.dtype in (jnp.float16, jnp.bfloat16)):
        raise TypeError(f"{name} is {v.dtype}; the input is {x.dtype}")
    return v


def _channels(value: ArrayLike, x: Array, name: str) -> Array:
    v = _of_type(value, x, name)
    if v.size != x.shape[1] or not v.ndim:
        raise ValueError(f"{name} has shape {v.shape}; the input {x.shape} has {x.shape[1]} channels")
    return v.reshape(-1, *(1,) * (x.ndim - 2))


def _scaled(y: Array, x: Array, weight: ArrayLike | None, bias: ArrayLike | None) -> Array:
    y = y if weight is None else y * _channels(weight, x, "weight")
    return y if bias is None else y + _channels(bias, x, "bias")
