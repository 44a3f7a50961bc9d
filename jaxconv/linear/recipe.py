"""The textbook's four steps of a transposed convolution, carried out one by one and kept."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jaxconv import ops, padding as padding_modes
from jaxconv.geometry import ConvGeometry, Padding


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["inserted", "padded", "kernel", "convolved", "result"],
    meta_fields=["geometry", "pads"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """What the four steps leave behind, as arrays.

    Attributes:
        inserted: y with s - 1 zeros between its elements, (*batch, *((m-1)*s + 1), out).
        padded: that, with `pads` zeros around it (cropped where a pad is negative).
        kernel: w flipped along every spatial axis, channels in and out swapped, (*kernel_size, out // groups, in).
        convolved: the convolution of `padded` with `kernel` at stride 1, dilated as the forward convolution is.
        result: the transposed convolution (*batch, *output_size, in); `convolved` itself under zero padding, and under
            another padding mode `convolved` with every padded place added back to the element that it was copied from.
        geometry: the forward convolution.
        pads: (lo, hi) per axis of step 2: ``K-1-lo`` and ``K-1-hi + output_padding``.
    """

    inserted: Array
    padded: Array
    kernel: Array
    convolved: Array
    result: Array
    geometry: ConvGeometry
    pads: tuple[tuple[int, int], ...]


def conv_transpose_steps(
    y: ArrayLike,
    w: ArrayLike,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    output_size: int | Sequence[int] | None = None,
    output_padding: int | Sequence[int] | None = None,
) -> Recipe:
    """The transposed convolution by the textbook's four steps, every intermediate array kept.

    1. Insert s - 1 zeros between the elements of y. 2. Pad with K-1-lo zeros before and K-1-hi + output_padding behind,
    where ``K = d*(k-1) + 1``. 3. Flip w along its spatial axes and swap its channels. 4. Convolve at stride 1, dilation
    d. The result equals `jaxconv.conv_transpose` for every geometry.

    Args:
        y: (*batch, *m, out), the input of the transpose.
        w: the forward convolution's kernel (*kernel_size, in // groups, out).
        stride: s of the forward convolution, in elements.
        padding: padding of the forward convolution.
        dilation: d of the forward convolution, in elements.
        groups: number of channel groups.
        padding_mode: padding mode of the forward convolution.
        output_size: as in `jaxconv.conv_transpose`.
        output_padding: as in `jaxconv.conv_transpose`.

    Returns:
        The steps' arrays and the pads of step 2.

    Raises:
        ValueError: what `jaxconv.conv_transpose` refuses.
        TypeError: what `jaxconv.conv_transpose` refuses.

    Example:
        >>> import jax.numpy as jnp
        >>> y, w = jnp.array([1.0, 2.0, 3.0])[:, None], jnp.array([1.0, 10.0, 100.0])[:, None, None]
        >>> steps = conv_transpose_steps(y, w, stride=2, padding=1)
        >>> steps.inserted[:, 0].tolist(), steps.pads
        ([1.0, 0.0, 2.0, 0.0, 3.0], ((1, 1),))
        >>> steps.padded[:, 0].tolist(), steps.kernel[:, 0, 0].tolist()
        ([0.0, 1.0, 0.0, 2.0, 0.0, 3.0, 0.0], [100.0, 10.0, 1.0])
        >>> steps.result[:, 0].tolist()
        [10.0, 102.0, 20.0, 203.0, 30.0]

    Source: Dumoulin and Visin 2016 (arXiv:1603.07285), relationships 8 to 14; dilation and any legal output size from
        the lattice equation ``u + lo = s*q + d*t``.
    """
    # The operation validates everything; this function then only has to rearrange.
    params: dict[str, Any] = {
        "stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "padding_mode": padding_mode,
        "output_size": output_size, "output_padding": output_padding,
    }  # fmt: skip
    jax.eval_shape(functools.partial(ops.conv_transpose, **params), y, w)
    y, w = jnp.asarray(y), jnp.asarray(w)
    sizes = y.shape[-w.ndim + 1 : -1]
    geometry = ConvGeometry.resolve_transpose(input_size=sizes, kernel_size=w.shape[:-2], **params)
    # Other padding modes are a zero-padded convolution of the padded input; its transpose is folded back at the end.
    zeros = geometry.padding_mode == "zeros"
    plain = geometry if zeros else geometry.unpadded()
    lead = y.ndim - plain.rank - 1
    pads = tuple(
        (extent - 1 - lo, extent - 1 - hi + extra)
        for extent, (lo, hi), extra in zip(plain.kernel_extent, plain.pads, plain.output_padding, strict=True)
    )
    inserted = _pad(y, [(0, 0, s - 1) for s in plain.stride], lead)
    padded = _pad(inserted, [(lo, hi, 0) for lo, hi in pads], lead)
    kernel = _flip_and_swap(w, geometry.groups)
    convolved = ops.conv(padded, kernel, dilation=geometry.dilation, groups=geometry.groups)
    result = convolved if zeros else padding_modes.fold(convolved, geometry, lead)
    return Recipe(inserted, padded, kernel, convolved, result, geometry, pads)


def _pad(a: Array, config: list[tuple[int, int, int]], lead: int) -> Array:
    return lax.pad(a, jnp.zeros((), a.dtype), [(0, 0, 0)] * lead + config + [(0, 0, 0)])


def _flip_and_swap(w: Array, groups: int) -> Array:
    """(*k, in/g, out) -> (*k, out/g, in), flipped: input channel i of group g now is an output channel of group g."""
    flipped = jnp.flip(w, range(w.ndim - 2))
    *k, per_group, out = w.shape
    split = flipped.reshape(*k, per_group, groups, out // groups)
    return jnp.moveaxis(split, -1, -3).swapaxes(-1, -2).reshape(*k, out // groups, groups * per_group)
