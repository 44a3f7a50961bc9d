"""Initialisers for kernels of shape (*kernel_size, in // groups, out), called as `initializer(key, shape, dtype)`."""

from collections.abc import Callable, Sequence
from math import prod

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from jaxconv._checks import per_axis

Initializer = Callable[..., Array]


def bilinear() -> Initializer:
    """Weights that make a transposed convolution interpolate linearly.

    Along each axis w[t] = max(1 - |t - c| / f, 0) with f = ceil(k / 2) and c = f - 1 for k odd, f - 1/2 for k even; the
    kernel is the outer product over the axes. With k = 2 s - s mod 2, stride s and padding ceil((s - 1) / 2) the
    transposed convolution is, away from the border, half-pixel linear resizing by s.

    Entry (i, o) of the channels is zero unless i = o mod (in // groups): channel i goes to channel i and to no other
    (fully convolutional networks), within each group where there are groups, so also for depthwise kernels.

    Returns:
      A function of (key, shape, dtype=float32) for shapes (*kernel_size, in // groups, out); the key is not used. It
      raises ValueError for a shape without spatial axes.

    Source: Long, Shelhamer, Darrell 2015, "Fully convolutional networks for semantic segmentation", section 4.2.

    >>> import jax
    >>> bilinear()(jax.random.key(0), (4, 1, 1)).ravel().tolist()
    [0.25, 0.75, 0.75, 0.25]
    """

    def init(key: Array | None, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
        shape = _kernel_shape(shape, "bilinear")
        weights = np.ones(())
        for k in shape[:-2]:
            half = -(-k // 2)
            center = half - 1 if k % 2 else half - 0.5
            weights = weights[..., None] * np.maximum(1 - np.abs(np.arange(k) - center) / half, 0)
        channels = np.arange(shape[-1]) % shape[-2] == np.arange(shape[-2])[:, None]
        return jnp.asarray(weights[..., None, None] * channels, dtype)

    return init


def icnr(inner: Initializer, scale: int | Sequence[int]) -> Initializer:
    """Weights for a convolution before `pixel_shuffle` that make the two start as nearest-neighbour upsampling.

    All prod(r) output channels that `pixel_shuffle(y, r)` (order "CRD") turns into one channel start with the same
    kernel, drawn by `inner`: w[..., c * prod(r) + j] = v[..., c] for every j. No checkerboard is left at the start.

    Args:
      inner: initialiser that draws the kernels, for shapes (*kernel_size, in // groups, out / prod(r)).
      scale: r, one for all spatial axes or one per axis.

    Returns:
      A function of (key, shape, dtype=float32) for shapes (*kernel_size, in // groups, out). It raises ValueError where
      out is not a multiple of prod(r).

    Source: Aitken et al. 2017, "Checkerboard artifact free sub-pixel convolution", section 3.

    >>> import jax
    >>> w = icnr(jax.nn.initializers.he_normal(), 2)(jax.random.key(0), (3, 3, 8, 4))
    >>> bool((w == w[..., :1]).all())
    True
    """

    def init(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
        shape = _kernel_shape(shape, "icnr")
        copies = prod(per_axis(scale, "scale", len(shape) - 2, 1))
        if shape[-1] % copies:
            raise ValueError(f"{shape[-1]} output channels are not a multiple of {copies} (scale={scale!r})")
        kernels = inner(key, (*shape[:-1], shape[-1] // copies), dtype)
        return jnp.repeat(kernels, copies, axis=-1)

    return init


def _kernel_shape(shape: Sequence[int], name: str) -> tuple[int, ...]:
    shape = tuple(shape)
    if len(shape) < 3 or min(shape) < 1:
        raise ValueError(f"{name} needs a kernel shape (*kernel_size, in // groups, out), got {shape}")
    return shape
