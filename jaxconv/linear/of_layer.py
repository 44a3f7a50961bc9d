"""The settings of a convolution layer, read off the layer: jaxconv.nn, flax.nnx, flax.linen (bound) and equinox."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv import ops
from jaxconv._checks import sizes_tuple
from jaxconv.dialects import lax
from jaxconv.lattice import parse_padding

Sizes = tuple[int, ...]
# kernel of the convolution, keywords of `jaxconv.conv`, size of its input, whether the layer is its transpose
Found = tuple[Any, dict[str, Any], Sizes, bool]

# Words of Flax for its paddings that are modes; Equinox has the others in a field of its own.
_MODES = {"CIRCULAR": "circular", "REFLECT": "reflect"}


def settings_of(layer: Any, input_size: int | Sequence[int]) -> Found:
    """The convolution that a layer is, or is the transpose of.

    Args:
        layer: `Conv` or `ConvTranspose` of jaxconv.nn, flax.nnx, flax.linen (bound to its variables) or equinox.
        input_size: spatial size of the layer's input, an int or one int per axis.

    Returns:
        kernel (*kernel_size, in // groups, out) of the convolution, keywords of `jaxconv.conv`, the spatial size of the
        convolution's input, and whether the layer is the transpose.

    Raises:
        TypeError: another kind of layer.
        ValueError: a setting that no convolution with one kernel has.
    """
    read = next((_READERS[kind] for kind in _kinds(layer) if kind in _READERS), None)
    if read is None:
        raise TypeError(
            f"{type(layer).__module__}.{type(layer).__name__} is not a layer whose settings are known: Conv and "
            "ConvTranspose of jaxconv.nn, flax.nnx, bound flax.linen and equinox; of others give the kernel and its "
            "settings, jc.ConvOperator(w, input_size, stride=...)"
        )
    return read(layer, input_size)


def _kinds(layer: Any) -> list[tuple[str, str]]:
    return [(kind.__module__.split(".")[0], kind.__name__) for kind in type(layer).__mro__]


def _own(layer: Any, input_size: Any) -> Found:
    kernel = _value(layer.kernel)
    names = ("stride", "padding", "dilation", "groups", "padding_mode", "precision", "method")
    return kernel, {name: getattr(layer, name) for name in names}, _sizes(input_size, kernel), False


def _own_transpose(layer: Any, input_size: Any) -> Found:
    kernel, settings, size, _ = _own(layer, input_size)
    names = ("stride", "padding", "dilation", "groups", "padding_mode")
    given = {name: settings[name] for name in names} | {"output_padding": layer.output_padding}
    y = jax.ShapeDtypeStruct((1, *size, kernel.shape[-1]), kernel.dtype)
    made = jax.eval_shape(lambda y: ops.conv_transpose(y, kernel, **given), y)
    return kernel, settings, made.shape[1:-1], True


def _flax_kernel(layer: Any) -> Any:
    nnx = hasattr(layer, "kernel")
    if not nnx and layer.scope is None:
        raise ValueError("a flax.linen layer has no kernel of its own: bind it, layer.bind(variables)")
    kernel = _value(layer.kernel) if nnx else jnp.asarray(layer.variables["params"]["kernel"])
    return kernel if getattr(layer, "mask", None) is None else kernel * _value(layer.mask)


def _flax(layer: Any, input_size: Any) -> Found:
    kernel = _flax_kernel(layer)
    rank = kernel.ndim - 2
    if any(step != 1 for step in _each(layer.input_dilation, rank)):
        raise ValueError(f"input_dilation={layer.input_dilation} is not 1: the layer is no plain convolution")
    dilation = _each(layer.kernel_dilation, rank)
    made = {"stride": _each(layer.strides, rank), "dilation": dilation, "groups": layer.feature_group_count}
    padding = layer.padding
    mode = _MODES.get(padding) if isinstance(padding, str) else None
    if mode is None:
        named, numbers = parse_padding(padding if isinstance(padding, str | int) else tuple(padding), rank)
        made |= {"padding": named or numbers}
    else:  # Flax pads by half of the kernel's extent, the larger half after.
        reach = [(k - 1) * d for k, d in zip(kernel.shape[:rank], dilation, strict=True)]
        made |= {"padding": tuple((r // 2, (r + 1) // 2) for r in reach), "padding_mode": mode}
    return kernel, made | {"precision": layer.precision}, _sizes(input_size, kernel), False


def _flax_transpose(layer: Any, input_size: Any) -> Found:
    kernel, padding = _flax_kernel(layer), layer.padding
    rank = kernel.ndim - 2
    size, stride, dilation = _sizes(input_size, kernel), _each(layer.strides, rank), _each(layer.kernel_dilation, rank)
    extent = _extent(kernel, dilation)
    circular = padding == "CIRCULAR"
    if isinstance(padding, str):
        pads = lax.dilated_pads("VALID" if circular else padding, extent, stride, False)
    else:
        _, given = parse_padding(padding if isinstance(padding, int) else tuple(padding), rank)
        pads = given or ()
    forward = lax.forward_kernel(kernel, 1, layer.transpose_kernel)
    made = {"stride": stride, "dilation": dilation, "precision": layer.precision}
    if not circular:
        out, numbers = lax.forward_of(size, extent, stride, pads, padding)
        return forward, made | {"padding": numbers}, out, True
    # Flax wraps the whole result into periods of n*s, which it aligns by a pad of its own before.
    out = tuple(n * s for n, s in zip(size, stride, strict=True))
    spare = [-max(k - s, 0) % (2 * p) for k, s, p in zip(extent, stride, out, strict=True)]
    before = [e // 2 if layer.transpose_kernel else (e + 1) // 2 for e in spare]
    lows = [-b % p for b, p in zip(before, out, strict=True)]
    numbers = tuple((low, k - s - low) for low, k, s in zip(lows, extent, stride, strict=True))
    return forward, made | {"padding": numbers, "padding_mode": "circular"}, out, True


def _equinox(layer: Any, input_size: Any) -> Found:
    kernel = jnp.moveaxis(layer.weight, (0, 1), (-1, -2))
    padding = layer.padding.upper() if isinstance(layer.padding, str) else tuple(layer.padding)
    return kernel, _equinox_settings(layer) | {"padding": padding}, _sizes(input_size, kernel), False


def _equinox_transpose(layer: Any, input_size: Any) -> Found:
    kernel = lax.forward_kernel(jnp.moveaxis(layer.weight, (0, 1), (-1, -2)), layer.groups, False)
    size, extent = _sizes(input_size, kernel), _extent(kernel, layer.dilation)
    out, numbers = lax.forward_of(size, extent, layer.stride, _equinox_pads(layer, extent), layer.padding)
    return kernel, _equinox_settings(layer) | {"padding": numbers}, out, True


def _equinox_pads(layer: Any, extent: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The pads of the dilated input: SAME keeps n*s - output_padding elements, one of an odd sum before or after."""
    pads = []
    given = [(0, 0)] * len(extent) if isinstance(layer.padding, str) else layer.padding
    for k, s, more, (low, high) in zip(extent, layer.stride, layer.output_padding, given, strict=True):
        if layer.padding in ("SAME", "SAME_LOWER"):
            total = k - s + more
            low = (max(total, 0) + (layer.padding == "SAME_LOWER")) // 2
            high, more = max(total, 0) - low, max(-total, 0)
        pads.append((k - 1 - low, k - 1 - high + more))
    return tuple(pads)


def _equinox_settings(layer: Any) -> dict[str, Any]:
    names = {"stride": layer.stride, "dilation": layer.dilation, "groups": layer.groups}
    return names | {"padding_mode": layer.padding_mode.lower()}


_READERS: dict[tuple[str, str], Callable[[Any, Any], Found]] = {
    ("jaxconv", "Conv"): _own,
    ("jaxconv", "ConvTranspose"): _own_transpose,
    ("flax", "Conv"): _flax,
    ("flax", "ConvTranspose"): _flax_transpose,
    ("equinox", "Conv"): _equinox,
    ("equinox", "ConvTranspose"): _equinox_transpose,
}


def _sizes(input_size: int | Sequence[int], kernel: Any) -> Sizes:
    return sizes_tuple(input_size, "input_size", kernel.ndim - 2)


def _extent(kernel: Any, dilation: Sequence[int]) -> Sizes:
    return tuple(d * (k - 1) + 1 for k, d in zip(kernel.shape[:-2], dilation, strict=True))


def _each(value: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    value = 1 if value is None else value
    return (int(value),) * rank if np.ndim(value) == 0 else tuple(int(v) for v in value)  # type: ignore[union-attr,arg-type]


def _value(variable: Any) -> Any:
    return variable[...] if hasattr(variable, "get_value") or hasattr(variable, "raw_value") else variable
