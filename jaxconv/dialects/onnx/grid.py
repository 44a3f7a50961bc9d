"""GridSample of the ONNX standard."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxconv.dialects._common import array, flag
from jaxconv.dialects.onnx import _attributes as at
from jaxconv.dialects.torch.norm import grid_sample

# The names of operator set 20, and those of 16 before it.
_MODES = {"linear": "bilinear", "bilinear": "bilinear", "nearest": "nearest", "cubic": "bicubic", "bicubic": "bicubic"}


def GridSample(
    X: ArrayLike, grid: ArrayLike, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros",
    opset: int | None = None,
) -> Array:  # fmt: skip
    """ONNX GridSample: the input read at the places of `grid`, as PyTorch's grid_sample.

    Args:
        X: (batch, channels, H, W) or (batch, channels, D, H, W).
        grid: (batch, *out, 2 or 3): places of -1..1, the last axis of the input first.
        align_corners: 1 where -1 and 1 are the centres of the first and last elements, 0 where they are their edges.
        mode: "linear", "nearest" or, of two axes, "cubic"; also by their names before operator set 20, "bilinear" and
            "bicubic".
        padding_mode: what lies outside: "zeros", "border" or "reflection".
        opset: operator set, from 16 on; None is the latest. Volumes need 20.

    Returns:
        (batch, channels, *out), of X's type.

    Raises:
        ValueError: other names, and shapes that do not fit together.
        TypeError: `align_corners` that is neither 0 nor 1.

    Example:
        >>> import jax.numpy as jnp
        >>> GridSample(jnp.arange(4.0).reshape(1, 1, 2, 2), jnp.zeros((1, 1, 1, 2))).ravel().tolist()
        [1.5]

    Source: the ONNX operator GridSample, versions 16 and 20.
    """
    x, g = array(X, "X"), array(grid, "grid")
    at.since("GridSample", opset, 16, {"X of more than 4 axes": (x.ndim > 4, False, 20)})
    if mode not in _MODES:
        raise ValueError(f"mode={mode!r} is not 'linear', 'nearest' or 'cubic'")
    dtype, corners = jnp.promote_types(x.dtype, g.dtype), flag(align_corners, "align_corners")
    if padding_mode == "border" and mode in ("cubic", "bicubic"):  # PyTorch brings the taps inside, ONNX the place
        edge = jnp.asarray([1 if corners else 1 - 1 / n for n in x.shape[:1:-1]], g.dtype)
        g = jnp.where(jnp.abs(g) > 1, jnp.sign(g) * edge, g)
    return grid_sample(x.astype(dtype), g.astype(dtype), _MODES[mode], padding_mode, corners).astype(x.dtype)
