"""The three public operations: validation, promotion, padding modes; then one call down to a face of the trilinear
form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike, DTypeLike

from jaxconv import lowering, padding as padding_modes, trilinear
from jaxconv._checks import is_open, is_sequence, refuse_open, stand_ins
from jaxconv._eager import in_one_program
from jaxconv._hints import channels_first, hinting
from jaxconv.geometry import ConvGeometry, Padding
from jaxconv.lowering import open_sizes


@in_one_program("x", "w")
@hinting
def conv(
    x: ArrayLike,
    w: ArrayLike,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    method: str = "auto",
) -> Array:
    """Convolve x with w: strided, atrous (dilated), grouped, of any rank.

    ``y[q, o] = sum over t, i of x[q*s + t*d - lo, i] * w[t, i, o]``

    Args:
        x: input (*batch, *spatial, in): any number of batch axes, none too; the rank is ``w.ndim - 2``.
        w: kernel (*kernel_size, in // groups, out).
        stride: s in elements, an int or one int per spatial axis.
        padding: int, one int per axis, (lo, hi) per axis, "SAME" (extra element at the end), "SAME_LOWER" (at the
            beginning), "VALID" or "CAUSAL" (``d*(k-1)`` before, none after). Negative numbers crop.
        dilation: d in elements, spacing of the kernel's taps.
        groups: number of channel groups; in and out are divisible by it.
        padding_mode: what stands in the padded places: "zeros", "circular", "reflect" or "replicate".
        precision: as in `jax.lax.conv_general_dilated`; on CPUs "highest" asks for plain sums of products.
        preferred_element_type: dtype of the result; needed for integers, which would wrap.
        method: name of a lowering, or "auto".

    Returns:
        y (*batch, *output_size, out) in the promoted dtype; float16 and bfloat16 accumulate in float32.

    Raises:
        ValueError: ranks, channels, sizes, strides or names that do not fit, or an output that would come out empty.
        TypeError: sizes that are not integers, dtypes that cannot be convolved.

    Example:
        >>> import jax.numpy as jnp, jaxconv as jc
        >>> jc.conv(jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 16)), stride=2, padding=1).shape
        (1, 4, 4, 16)

    Source: Dumoulin and Visin 2016 (arXiv:1603.07285); dilation: Yu and Koltun 2016 (arXiv:1511.07122), equation 2.
    """
    x, w = _arrays(x=x, w=w)
    rank = _rank_of_kernel(w)
    sizes = _spatial(x, "x", rank, w)
    geometry = ConvGeometry.resolve(
        input_size=stand_ins(sizes, open_sizes.STAND_IN), kernel_size=w.shape[:-2], stride=stride, padding=padding,
        dilation=dilation, groups=groups, padding_mode=padding_mode,
    )  # fmt: skip
    _check_channels(geometry.groups, x=x, w=w)
    x, w, params = _operands(x, w, precision, preferred_element_type, method)
    if is_open(sizes):
        return open_sizes.conv(x, w, geometry, **params)
    if geometry.padding_mode != "zeros":
        x = padding_modes.pad(x, geometry, x.ndim - rank - 1)
        geometry = geometry.unpadded()
    _check_method(method, "apply", geometry, x, w, params)
    return trilinear.apply(x, w, geometry, **params)


@in_one_program("y", "w")
@hinting
def conv_transpose(
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
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    method: str = "auto",
) -> Array:
    """Transpose of the convolution with kernel w: its exact adjoint, any legal output size.

    ``x[u, i] = sum over q, t, o with q*s + t*d - lo = u of y[q, o] * w[t, i, o]``

    so that ``sum(conv(x, w) * y) == sum(x * conv_transpose(y, w))`` for every x and y. All parameters are those of the
    *forward* convolution; nothing is flipped or conjugated.

    Args:
        y: input of the transpose (*batch, *spatial, in_of_the_transpose), the forward convolution's output.
        w: the forward convolution's kernel (*kernel_size, out_of_the_transpose // groups, in_of_the_transpose):
            TensorFlow's layout, and PyTorch's weight after ``transpose(2, 3, 1, 0)``.
        stride: s of the forward convolution; the factor of upsampling.
        padding: padding of the forward convolution, as in `conv`.
        dilation: d of the forward convolution.
        groups: number of channel groups.
        padding_mode: padding mode of the forward convolution; the transpose adds back what it would have copied.
        output_size: spatial size of the result, an int or one int per axis; legal where the forward convolution of that
            size gives y's size.
        output_padding: elements added to the smallest legal size, an int or one int per axis. Without both: the
            smallest legal size for numbers and "VALID", ``i*s`` for the other names of `padding`.
        precision: as in `jax.lax.conv_general_dilated`; on CPUs "highest" asks for plain sums of products.
        preferred_element_type: dtype of the result; needed for integers.
        method: name of a lowering, or "auto".

    Returns:
        x (*batch, *output_size, out_of_the_transpose).

    Raises:
        ValueError: as in `conv`; an output size that cannot be reached (the message names the legal ones); both
            `output_size` and `output_padding`.
        TypeError: as in `conv`.

    Example:
        >>> import jax.numpy as jnp, jaxconv as jc
        >>> y, w = jnp.ones((1, 4, 4, 16)), jnp.ones((3, 3, 8, 16))
        >>> jc.conv_transpose(y, w, stride=2, padding=1).shape
        (1, 7, 7, 8)
        >>> jc.conv_transpose(y, w, stride=2, padding=1, output_size=8).shape
        (1, 8, 8, 8)

    Source: Dumoulin and Visin 2016 (arXiv:1603.07285), section 4 and relationship 14; Zeiler et al. 2010
        (deconvolutional networks).
    """
    y, w = _arrays(y=y, w=w)
    rank = _rank_of_kernel(w)
    sizes = _spatial(y, "y", rank, w)
    if is_open(sizes) and output_size is not None:
        output_size = open_sizes.stand_in_output(sizes, stride, output_size)
    geometry = ConvGeometry.resolve_transpose(
        input_size=stand_ins(sizes, open_sizes.STAND_IN), kernel_size=w.shape[:-2], stride=stride, padding=padding,
        dilation=dilation, groups=groups, padding_mode=padding_mode, output_size=output_size,
        output_padding=output_padding,
    )  # fmt: skip
    _check_channels(geometry.groups, y=y, w=w)
    y, w, params = _operands(y, w, precision, preferred_element_type, method)
    if is_open(sizes):
        return open_sizes.conv_transpose(y, w, geometry, **params)
    plain = geometry if geometry.padding_mode == "zeros" else geometry.unpadded()
    _check_method(method, "adjoint", plain, y, w, params)
    x = trilinear.adjoint(y, w, plain, **params)
    return x if plain is geometry else padding_modes.fold(x, geometry, x.ndim - rank - 1)


@in_one_program("x", "y")
@hinting
def conv_kernel(
    x: ArrayLike,
    y: ArrayLike,
    kernel_size: Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    method: str = "auto",
) -> Array:
    """The third face: the kernel that pairs x with y, which is the convolution's gradient with respect to its kernel.

    ``w[t, i, o] = sum over batch, q of x[q*s + t*d - lo, i] * y[q, o]``

    so that ``sum(conv(x, w) * y) == sum(w * conv_kernel(x, y, kernel_size))`` for every x, w and y.

    Args:
        x: the convolution's input (*batch, *spatial, in).
        y: an array of the shape of its output (*batch, *output_size, out).
        kernel_size: k, one int per spatial axis; its length is the rank.
        stride: s of the convolution.
        padding: padding of the convolution, as in `conv`.
        dilation: d of the convolution.
        groups: number of channel groups.
        padding_mode: padding mode of the convolution.
        precision: as in `jax.lax.conv_general_dilated`; on CPUs "highest" asks for plain sums of products.
        preferred_element_type: dtype of the result; needed for integers.
        method: name of a lowering, or "auto".

    Returns:
        w (*kernel_size, in // groups, out).

    Raises:
        ValueError: as in `conv`; a y that is not of the size of the convolution's output, or whose batch is not x's.
        TypeError: as in `conv`; a `kernel_size` that is a bare int, which would not say the rank.

    Example:
        >>> import jax.numpy as jnp, jaxconv as jc
        >>> jc.conv_kernel(jnp.ones((2, 8, 8, 3)), jnp.ones((2, 4, 4, 16)), (3, 3), stride=2, padding=1).shape
        (3, 3, 3, 16)

    Source: LeCun et al. 1989, backpropagation through a convolution, for all spacings.
    """
    x, y = _arrays(x=x, y=y)
    if not is_sequence(kernel_size):
        # ConvGeometry says why a bare int is not enough.
        ConvGeometry.resolve(input_size=(1,), kernel_size=kernel_size)
    rank = len(kernel_size)
    sizes = _spatial(x, "x", rank)
    refuse_open("conv_kernel", sizes)
    geometry = ConvGeometry.resolve(
        input_size=sizes, kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation, groups=groups,
        padding_mode=padding_mode,
    )  # fmt: skip
    got = _spatial(y, "y", rank)
    if got != geometry.output_size:
        raise ValueError(
            f"y has spatial size {got}, but the convolution of x (spatial size {sizes}) with "
            f"kernel_size={tuple(kernel_size)}, "
            f"stride={stride}, padding={padding!r}, dilation={dilation} gives {geometry.output_size}"
        )
    if x.shape[: -rank - 1] != y.shape[: -rank - 1]:
        raise ValueError(
            f"x and y must have the same batch axes, got {x.shape[: -rank - 1]} and {y.shape[: -rank - 1]}"
        )
    _check_channels(geometry.groups, x=x, y=y)
    x, y, params = _operands(x, y, precision, preferred_element_type, method)
    if geometry.padding_mode != "zeros":
        x = padding_modes.pad(x, geometry, x.ndim - rank - 1)
        geometry = geometry.unpadded()
    _check_method(method, "kernel", geometry, x, y, params)
    return trilinear.kernel(x, y, geometry, **params)


# ---------------------------------------------------------------------- validation


def _arrays(**operands: Any) -> list[Array]:
    out = []
    for name, value in operands.items():
        if not hasattr(value, "shape") or not hasattr(value, "dtype"):
            raise TypeError(f"{name} must be an array, got {type(value).__name__}")
        out.append(value if isinstance(value, jax.Array) else jnp.asarray(value))
    return out


def _rank_of_kernel(w: Array) -> int:
    if w.ndim < 3:
        raise ValueError(
            f"a kernel has the axes (*kernel_size, in // groups, out), at least one of them spatial, so at least 3 "
            f"axes; w has shape {w.shape}"
        )
    return w.ndim - 2


def _spatial(a: Array, name: str, rank: int, w: Array | None = None) -> tuple[int, ...]:
    if a.ndim < rank + 1:
        because = f"the kernel of shape {w.shape} has" if w is not None else "kernel_size has"
        raise ValueError(
            f"{name} has shape {a.shape}, but {because} {rank} spatial axes, so {name} needs at least {rank + 1} axes: "
            f"(*batch, {', '.join('spatial' for _ in range(rank))}, channels)"
        )
    sizes = a.shape[-rank - 1 : -1]
    if any(isinstance(n, int) and n < 1 for n in sizes):
        raise ValueError(f"{name} has shape {a.shape}: its spatial size {sizes} is empty, sizes must be at least 1")
    return sizes


def _check_channels(groups: int, *, x: Array | None = None, w: Array | None = None, y: Array | None = None) -> None:
    if (
        w is not None
        and min(w.shape[-2:]) < 1
        or (x is not None and x.shape[-1] < 1)
        or (y is not None and y.shape[-1] < 1)
    ):
        shapes = ", ".join(f"{n} {a.shape}" for n, a in (("x", x), ("w", w), ("y", y)) if a is not None)
        raise ValueError(f"channels must be at least 1, got {shapes}")
    for name, a in (("x", x), ("y", y), ("w", w)):
        if a is not None and name != "w" and a.shape[-1] % groups:
            raise ValueError(
                f"{name} has {a.shape[-1]} channels, which groups={groups} does not divide (shape {a.shape})"
            )
    if w is None:
        return
    if w.shape[-1] % groups:
        raise ValueError(
            f"w has {w.shape[-1]} output channels, which groups={groups} does not divide (shape {w.shape})"
        )
    if x is not None and w.shape[-2] * groups != x.shape[-1]:
        raise ValueError(
            f"x has {x.shape[-1]} channels and groups={groups}, so the kernel's axis -2 must be "
            f"{x.shape[-1] // groups}, got {w.shape[-2]} "
            f"(x {x.shape}, w {w.shape}; kernels are (*kernel_size, in // groups, out))"
            + (channels_first(x.shape, w.ndim - 2, w.shape[-2] * groups) or _torch_kernel(w, x.shape[-1] // groups))
        )
    if y is not None and w.shape[-1] != y.shape[-1]:
        raise ValueError(
            f"y has {y.shape[-1]} channels, but the kernel's last axis is {w.shape[-1]} (y {y.shape}, w {w.shape}; "
            "conv_transpose takes the forward "
            "convolution's kernel (*kernel_size, out_of_the_transpose // groups, in_of_the_transpose))"
            + (channels_first(y.shape, w.ndim - 2, w.shape[-1]) or _torch_kernel(w, y.shape[-1]))
        )


def _torch_kernel(w: Array, channels: int) -> str:
    """A sentence for a kernel that would fit if it were PyTorch's, channels first; "" where it would not."""
    if channels in w.shape[:2] and w.ndim > 3:
        axes = (*range(2, w.ndim), 1, 0)
        return f"; a kernel of PyTorch has its channels first: w.transpose{axes} makes it ours"
    return ""


def _operands(
    a: Array, b: Array, precision: lax.PrecisionLike, preferred: DTypeLike | None, method: str
) -> tuple[Array, Array, dict]:
    """Promote the operands as jax.numpy does and settle everything that a face takes as a static parameter."""
    dtype = jnp.result_type(a, b)
    if dtype == jnp.bool_ or not jnp.issubdtype(dtype, jnp.number):
        raise TypeError(f"cannot convolve operands of dtype {a.dtype} and {b.dtype}")
    if jnp.issubdtype(dtype, jnp.integer) and preferred is None:
        raise TypeError(
            f"operands of dtype {a.dtype} and {b.dtype} would be summed in {dtype} and may wrap; say the dtype of "
            "the result with "
            "preferred_element_type, such as preferred_element_type=jnp.int32"
        )
    a, b = (v if v.dtype == dtype and not v.weak_type else lax.convert_element_type(v, dtype) for v in (a, b))
    out_dtype = dtype if preferred is None else jnp.dtype(preferred)
    return a, b, {"out_dtype": out_dtype, "precision": _precision(precision), "method": lowering.named(method)}


def _check_method(method: str, face: str, geometry: ConvGeometry, a: Array, b: Array, params: dict[str, Any]) -> None:
    """Refuse a named method that cannot compute this very call on any platform."""
    if method != "auto":
        static = {"out_dtype": params["out_dtype"], "precision": params["precision"]}
        lowering.check(method, lowering.Call.of(face, geometry, a, b, **static))


def _precision(precision: lax.PrecisionLike) -> Any:
    """A hashable precision; None takes the value that the default has where the operation is called."""
    if precision is None:
        return getattr(jax.config, "jax_default_matmul_precision")  # noqa: B009 - jax's stubs do not list it
    return tuple(precision) if isinstance(precision, list) else precision
