"""A wrapper that divides a convolution layer by its true operator norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax


class OperatorNorm(nnx.Module):
    """A layer scaled to a given operator norm: spectral normalisation of the convolution, not of its reshaped kernel.

    ``y = target / norm(A) * A x + bias`` for a layer ``A x + bias``. The norm comes from power iteration on ``A^H A``,
    run on the layer itself by its derivatives, so that stride, dilation, padding and groups count, and any layer that
    is affine in its input can be wrapped. The singular vector is kept between calls; a few steps per call follow the
    kernel as it is trained.

    The norm is that of inputs of `input_shape`. With zero padding it grows, slightly, with the size of the input; give
    the largest size that is used where the bound has to hold.

    Args:
        layer: the layer, such as `jaxconv.nn.Conv`; its `bias`, where it has one, is left alone.
        input_shape: shape of one input without batch axes, (*spatial, in).
        target: norm that the layer shall have.
        steps: power iterations per call.
        first_steps: power iterations when the wrapper is made.
        rngs: random streams; "params" is drawn from for the starting vector.

    Returns:
        Called with x: the layer's output, normalised. `update=False` leaves the stored vector alone, as in evaluation.

    Raises:
        ValueError: a target, or numbers of steps, that are not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from jaxconv.nn import Conv
        >>> layer = OperatorNorm(Conv(3, 8, (3, 3), padding=1, rngs=nnx.Rngs(0)), (16, 16, 3), rngs=nnx.Rngs(1))
        >>> layer(jnp.ones((1, 16, 16, 3))).shape
        (1, 16, 16, 8)

    Source: Miyato et al. 2018 (arXiv:1802.05957) for the stored vector; Tsuzuku et al. 2018 (arXiv:1802.04034) and Gouk
        et al. 2021 (arXiv:1804.04368) for power iteration on the convolution.
    """

    def __init__(
        self,
        layer: Any,
        input_shape: Sequence[int],
        *,
        target: float = 1.0,
        steps: int = 1,
        first_steps: int = 30,
        rngs: nnx.Rngs,
    ):
        if target <= 0 or steps < 1 or first_steps < 1:
            raise ValueError(f"target={target}, steps={steps} and first_steps={first_steps} must be positive")
        self.layer, self.input_shape, self.target, self.steps = layer, tuple(input_shape), target, steps
        start = jax.random.normal(rngs.params(), self.input_shape, layer.kernel[...].dtype)
        v, _ = self._iterate(_unit(start), first_steps)
        self.vector = nnx.BatchStat(v)

    def __call__(self, x: Array, *, update: bool = True) -> Array:
        """The normalised layer's output for x; stores the improved singular vector unless `update` is False."""
        v, sigma = self._iterate(self.vector[...], self.steps)
        if update:
            self.vector[...] = v
        scale = (self.target / sigma).astype(sigma.dtype)
        y = self.layer(x)
        bias = getattr(self.layer, "bias", None)
        if bias is None:
            return scale * y
        # The bias is no part of the linear map: take it out of the scaled output.
        return scale * y + (1 - scale) * bias[...].astype(y.dtype)

    def norm(self) -> Array:
        """The current estimate of the wrapped layer's operator norm, from below; differentiable in its kernel."""
        return self._iterate(self.vector[...], self.steps)[1]

    def _iterate(self, v: Array, steps: int) -> tuple[Array, Array]:
        origin = jnp.zeros_like(v)

        def forward(v):
            return jax.jvp(self.layer, (origin[None],), (v[None],))[1][0]

        pull = jax.vjp(self.layer, origin[None])[1]

        def backward(u):
            return jnp.conj(pull(jnp.conj(u)[None])[0][0])

        v = lax.fori_loop(0, steps, lambda _, v: lax.stop_gradient(_unit(backward(forward(v)))), lax.stop_gradient(v))
        image = forward(v)
        u = lax.stop_gradient(_unit(image))
        return v, jnp.real(jnp.vdot(u, image))


def _unit(v: Array) -> Array:
    length = jnp.linalg.norm(v.ravel())
    return v / jnp.where(length > 0, length, 1).astype(v.dtype)
