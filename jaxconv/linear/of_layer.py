"""The settings of a convolution layer, read off the layer: jaxconv.nn, flax.nnx, flax.linen (bound) and equinox."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxconv.lattice import parse_padding

# Words of Flax for its paddings that are modes; Equinox has the others in a field of its own.
_MODES = {"CIRCULAR": "circular", "REFLECT": "reflect"}


def settings_of(layer: Any) -> tuple[Any, dict[str, Any]]:
    """(kernel, keywords of `jaxconv.conv`) of a layer that is a convolution, or the transpose of one.

    Args:
        layer: `Conv` or `ConvTranspose` of jaxconv.nn; `Conv` of flax.nnx, flax.linen (bound to its variables) or
            equinox, shared over positions.

    Returns:
        kernel (*kernel_size, in // groups, out) of the forward convolution, and its settings.

    Raises:
        TypeError: another kind of layer.
        ValueError: a setting that no convolution with one kernel has.
    """
    kinds = _kinds(layer)
    if ("jaxconv", "Conv") in kinds or ("jaxconv", "ConvTranspose") in kinds:
        names = ("stride", "padding", "dilation", "groups", "padding_mode", "precision", "method")
        return _value(layer.kernel), {name: getattr(layer, name) for name in names}
    if ("flax", "Conv") in kinds:
        return _flax(layer)
    if ("equinox", "Conv") in kinds:
        return _equinox(layer)
    raise TypeError(
        f"{type(layer).__module__}.{type(layer).__name__} is not a layer whose settings are known: Conv and "
        "ConvTranspose of jaxconv.nn, Conv of flax.nnx, of a bound flax.linen and of equinox; of others give the "
        "kernel and its settings, jc.ConvOperator(w, input_size, stride=...)"
    )


def is_transpose(layer: Any) -> bool:
    """Whether a layer that `settings_of` knows is the transpose of the convolution with those settings."""
    return ("jaxconv", "ConvTranspose") in _kinds(layer)


def _kinds(layer: Any) -> set[tuple[str, str]]:
    return {(kind.__module__.split(".")[0], kind.__name__) for kind in type(layer).__mro__}


def _flax(layer: Any) -> tuple[Any, dict[str, Any]]:
    nnx = hasattr(layer, "kernel")
    if not nnx and layer.scope is None:
        raise ValueError("a flax.linen layer has no kernel of its own: bind it, layer.bind(variables)")
    kernel = _value(layer.kernel) if nnx else jnp.asarray(layer.variables["params"]["kernel"])
    rank = kernel.ndim - 2
    if any(step != 1 for step in _each(layer.input_dilation, rank)):
        raise ValueError(f"input_dilation={layer.input_dilation} is not 1: the layer is no plain convolution")
    if getattr(layer, "mask", None) is not None:
        kernel = kernel * _value(layer.mask)
    dilation = _each(layer.kernel_dilation, rank)
    made = {"stride": _each(layer.strides, rank), "dilation": dilation, "groups": layer.feature_group_count}
    padding = layer.padding
    mode = _MODES.get(padding) if isinstance(padding, str) else None
    if mode is None:
        named, numbers = parse_padding(padding if isinstance(padding, str | int) else tuple(padding), rank)
        return kernel, {**made, "padding": named or numbers, "precision": layer.precision}
    # Flax pads by half of the kernel's extent, the larger half after.
    reach = [(k - 1) * d for k, d in zip(kernel.shape[:rank], dilation, strict=True)]
    pads = tuple((r // 2, (r + 1) // 2) for r in reach)
    return kernel, {**made, "padding": pads, "padding_mode": mode, "precision": layer.precision}


def _equinox(layer: Any) -> tuple[Any, dict[str, Any]]:
    kernel = jnp.moveaxis(layer.weight, (0, 1), (-1, -2))
    padding = layer.padding.upper() if isinstance(layer.padding, str) else tuple(layer.padding)
    return kernel, {
        "stride": layer.stride, "dilation": layer.dilation, "groups": layer.groups, "padding": padding,
        "padding_mode": layer.padding_mode.lower(),
    }  # fmt: skip


def _each(value: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    value = 1 if value is None else value
    return (int(value),) * rank if np.ndim(value) == 0 else tuple(int(v) for v in value)  # type: ignore[union-attr,arg-type]


def _value(variable: Any) -> Any:
    return variable[...] if hasattr(variable, "get_value") or hasattr(variable, "raw_value") else variable
