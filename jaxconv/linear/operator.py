"""The convolution with a fixed kernel as an operator on arrays of one size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jaxconv import ops
from jaxconv._checks import sizes_tuple
from jaxconv._hints import hinting
from jaxconv.geometry import ConvGeometry, Padding
from jaxconv.linear.algebra import LinearOperator
from jaxconv.linear.maps import MAX_BYTES
from jaxconv.linear.matrix import matrix_of
from jaxconv.linear.of_layer import settings_of


@jax.tree_util.register_pytree_with_keys_class
class ConvOperator(LinearOperator):
    """The convolution with kernel w, as a linear operator on arrays of one size.

    ``A x = conv(x, w)`` and ``A.T y = conv_transpose(y, w, output_size=input_size)``; the transpose is not the inverse,
    which is `pinv`. A pytree with the single leaf w: pass it through jit, differentiate with respect to it, vmap over a
    stack of kernels.

    Args:
        w: kernel (*kernel_size, in // groups, out).
        input_size: n in elements, an int or one int per spatial axis.
        stride: s in elements.
        padding: as in `jaxconv.conv`.
        dilation: d in elements.
        groups: number of channel groups.
        padding_mode: "zeros", "circular", "reflect" or "replicate".
        precision: as in `jaxconv.conv`.
        method: as in `jaxconv.conv`.

    Raises:
        ValueError: parameters that `jaxconv.conv` refuses.
        TypeError: a w that is not an array; sizes that are not integers.

    Example:
        >>> import jax.numpy as jnp, jaxconv as jc
        >>> A = jc.ConvOperator(jnp.ones((3, 3, 1, 2)), (8, 8), stride=2, padding=1)
        >>> A.in_shape, A.out_shape, A.T.out_shape
        ((8, 8, 1), (4, 4, 2), (8, 8, 1))
        >>> (A.T @ A).mv(jnp.ones((8, 8, 1))).shape
        (8, 8, 1)

    Source: Dumoulin and Visin 2016 (arXiv:1603.07285), section 4; the interface follows lineax (Rader et al. 2023,
        arXiv:2311.17283).
    """

    @hinting
    def __init__(
        self,
        w: ArrayLike,
        input_size: int | Sequence[int],
        *,
        stride: int | Sequence[int] = 1,
        padding: Padding = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
        precision: lax.PrecisionLike = None,
        method: str = "auto",
    ):
        if not hasattr(w, "shape") or not hasattr(w, "dtype"):
            raise TypeError(f"w must be an array, got {type(w).__name__}")
        if len(w.shape) < 3:
            raise ValueError(
                f"a kernel has the axes (*kernel_size, in // groups, out), so at least 3; w has shape {w.shape}"
            )
        self.w = w if isinstance(w, jax.Array) else jnp.asarray(w)
        self.geometry = ConvGeometry.resolve(
            input_size=sizes_tuple(input_size, "input_size", len(w.shape) - 2), kernel_size=w.shape[:-2], stride=stride,
            padding=padding, dilation=dilation, groups=groups, padding_mode=padding_mode,
        )  # fmt: skip
        if w.shape[-1] % groups:
            raise ValueError(
                f"w has {w.shape[-1]} output channels, which groups={groups} does not divide (shape {w.shape})"
            )
        self.precision = precision
        self.method = method

    @classmethod
    def of(cls, layer: Any, input_size: int | Sequence[int]) -> LinearOperator:
        """The linear part of a convolution layer, its settings read off the layer: ``A x = layer(x) - bias``.

        Args:
            layer: `Conv` or `ConvTranspose` of jaxconv.nn, of flax.nnx, of flax.linen bound to its variables, or of
                equinox.
            input_size: spatial size of the layer's input, an int or one int per axis.

        Returns:
            An operator on arrays (*input_size, channels), channels last for every library; of a transposed convolution
            the transpose of a `ConvOperator`.

        Raises:
            TypeError: another kind of layer.
            ValueError: settings that `jaxconv.conv` refuses; an unbound linen layer.

        Example:
            >>> import jaxconv as jc
            >>> from flax import nnx
            >>> layer = nnx.Conv(3, 8, (3, 3), strides=2, kernel_dilation=2, rngs=nnx.Rngs(0))
            >>> A = jc.ConvOperator.of(layer, (32, 32))
            >>> A.in_shape, A.out_shape, bool(A.norm() > 0)
            ((32, 32, 3), (16, 16, 8), True)
        """
        w, settings, size, transposed = settings_of(layer, input_size)
        made = cls(w, size, **settings)
        return made.T if transposed else made

    # ------------------------------------------------------------------ pytree

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        """The kernel is the leaf, everything else is static."""
        return [(jax.tree_util.GetAttrKey("w"), self.w)], (self.geometry, self.precision, self.method)

    def tree_flatten(self) -> tuple[Any, Any]:
        """As `tree_flatten_with_keys`, without keys."""
        return (self.w,), (self.geometry, self.precision, self.method)

    @classmethod
    def tree_unflatten(cls, static: Any, leaves: Any) -> ConvOperator:
        """Put an operator together again; checks nothing, since transformations pass stand-ins for w."""
        self = object.__new__(cls)
        (self.w,) = leaves
        self.geometry, self.precision, self.method = static
        return self

    def with_kernel(self, w: ArrayLike) -> ConvOperator:
        """The same convolution with another kernel of the same shape."""
        if jnp.shape(w) != self.w.shape:
            raise ValueError(f"the kernel must keep its shape {self.w.shape}, got {jnp.shape(w)}")
        return self.tree_unflatten((self.geometry, self.precision, self.method), (jnp.asarray(w),))

    # ------------------------------------------------------------------ structure

    @property
    def in_shape(self) -> tuple[int, ...]:
        """(*input_size, in)."""
        return (*self.geometry.input_size, self.w.shape[-2] * self.geometry.groups)

    @property
    def out_shape(self) -> tuple[int, ...]:
        """(*output_size, out)."""
        return (*self.geometry.output_size, self.w.shape[-1])

    @property
    def dtype(self) -> Any:
        """The kernel's dtype."""
        return self.w.dtype

    def __repr__(self) -> str:
        g = self.geometry
        parts = [f"kernel {tuple(self.w.shape)}", f"{self.in_shape} -> {self.out_shape}", f"stride {g.stride}"]
        parts += [f"dilation {g.dilation}", f"pads {g.pads}", f"groups {g.groups}", f"padding_mode {g.padding_mode!r}"]
        return f"ConvOperator({', '.join(parts)})"

    # ------------------------------------------------------------------ products

    @property
    def _params(self) -> dict[str, Any]:
        g = self.geometry
        return {
            "stride": g.stride, "padding": g.pads, "dilation": g.dilation, "groups": g.groups,
            "padding_mode": g.padding_mode, "precision": self.precision, "method": self.method,
        }  # fmt: skip

    def mv(self, x: ArrayLike) -> Array:
        """conv(x, w) for x (*batch, *input_size, in)."""
        _check_last_axes("x", x, self.in_shape)
        return ops.conv(x, self.w, **self._params)

    def transpose_mv(self, y: ArrayLike) -> Array:
        """conv_transpose(y, w) for y (*batch, *output_size, out)."""
        _check_last_axes("y", y, self.out_shape)
        return ops.conv_transpose(y, self.w, **self._params, output_size=self.geometry.input_size)

    def as_matrix(self, format: str = "dense", max_bytes: int = MAX_BYTES) -> Any:
        """The matrix of this convolution, as [`conv_matrix`][jaxconv.conv_matrix] builds it.

        Args:
            format: "dense", "bcoo", "bcsr" or "scipy".
            max_bytes: refuse to build anything larger than this, in bytes.

        Returns:
            Matrix (prod(out_shape), prod(in_shape)). Dense costs rows times columns, the others one entry per tap and
            output.
        """
        return matrix_of(self.w, self.geometry, format=format, max_bytes=max_bytes)


def _check_last_axes(name: str, a: Any, shape: tuple[int, ...]) -> None:
    got = jnp.shape(a)
    if got[-len(shape) :] == shape:
        return
    hint = f" (reshape flat vectors to {shape})" if got[-1:] == (math.prod(shape),) else ""
    raise ValueError(f"{name} has shape {got}; this operator takes (*batch, {', '.join(map(str, shape))}){hint}")
